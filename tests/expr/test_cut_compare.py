"""Comparisons are those of the exact numbers, whatever the dtypes: against Python's, which are exact."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from cut_reference import COMPARE
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mmdask.expr import typed
from mmdask.expr.compare import around, compare, compare_literal, is_member, members
from mmdask.expr.elementwise import _overflows, _root

OPS = list(COMPARE)
DTYPES = ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8"]


def neighbours(dtype, number):
    """The values of a dtype next to a number, and its extremes."""
    d = np.dtype(dtype)
    if d.kind == "b":
        return np.array([False, True])
    if d.kind == "f":
        down, up = around(d, number)
        with np.errstate(over="ignore"):
            some = [down, up, np.nextafter(down, d.type(-np.inf)), np.nextafter(up, d.type(np.inf))]
            return np.array([*some, 0.0, -0.0, np.inf, -np.inf, np.nan, np.finfo(d).max], d)
    info = np.iinfo(d)
    near = [] if not math.isfinite(number) else [math.floor(number) + k for k in (-1, 0, 1, 2)]
    return np.array([x for x in [*near, info.min, info.max, 0, 1] if info.min <= x <= info.max], d)


NUMBERS = (
    st.floats()
    | st.integers(-(2**70), 2**70)
    | st.floats(width=32)
    | st.integers(-300, 300)
    | st.sampled_from([0.1, 30e3, 2.0**63, 2.0**64, -(2.0**63), 2**53 + 1, 10**400, -(10**400), 3.4028235677973366e38])
)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=80, deadline=None)
@given(number=NUMBERS)
@example(number=0.1)
@example(number=math.inf)
@example(number=-math.inf)
@example(number=math.nan)
def test_with_a_literal(dtype, number):
    if not (isinstance(number, int) and abs(number) > 2**1024) and number != number:
        values = neighbours(dtype, 0.0)
    else:
        values = neighbours(dtype, min(max(number, -(2**1023)), 2**1023))
    values.flags.writeable = False
    for op in OPS:
        got = compare_literal(op, values, number)
        assert got.dtype == np.bool_
        assert got.tolist() == [COMPARE[op](v, number) for v in values.tolist()], op


@settings(max_examples=300, deadline=None)
@given(NUMBERS, NUMBERS, st.sampled_from(DTYPES), st.sampled_from(DTYPES))
def test_of_two_fields(one, two, a_dtype, b_dtype):
    numbers = [min(max(x, -(2**65)), 2**65) if x == x else 0.0 for x in (one, two)]
    a = np.concatenate([neighbours(a_dtype, x) for x in numbers])
    b = np.concatenate([neighbours(b_dtype, x) for x in numbers])
    a, b = (x.ravel() for x in np.meshgrid(a, b))
    for op in OPS:
        expected = [COMPARE[op](x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
        with np.errstate(invalid="ignore"):
            assert compare(op, a, b).tolist() == expected, op


@settings(max_examples=200, deadline=None)
@given(st.lists(NUMBERS, max_size=12), st.sampled_from(DTYPES))
def test_members(numbers, dtype):
    values = np.concatenate(
        [neighbours(dtype, 1.0), *[neighbours(dtype, min(max(x, -1e300), 1e300)) for x in numbers if x == x]]
    )
    got = is_member(values, members(np.dtype(dtype), tuple(numbers)))
    assert got.tolist() == [any(v == x for x in numbers) for v in values.tolist()]


def test_float32_against_a_decimal_compares_in_double():
    x = np.float32([0.1, 0.2, 0.3])
    assert (x > 0.1).tolist() == [False, True, True]  # numpy: in float32
    assert compare_literal(">", x, 0.1).tolist() == [True, True, True]
    assert compare_literal("==", x, 0.1).tolist() == [False, False, False]
    assert compare_literal("==", x, float(np.float32(0.1))).tolist() == [True, False, False]


EDGES = [0, 1, 2, 3, 2**31, 2**32 - 1, 2**32, 3037000499, 3037000500, 4294967296, 2**62, 2**63 - 1, 2**63, 2**64 - 1]


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from([np.int64, np.uint64]),
    st.sampled_from(["+", "-", "*", "//", "%"]),
    st.sampled_from(EDGES) | st.integers(0, 2**64 - 1),
    st.sampled_from(EDGES) | st.integers(0, 2**64 - 1),
    st.integers(-2, 2),
)
def test_overflows(kind, op, x, y, shift):
    low, high = typed.range_of(np.dtype(kind))
    if op == "*" and x > 1 and shift:
        y = high // x + shift  # products next to the limit
    for a, b in [(x, y), (-x, y), (x, -y), (-x, -y)]:
        if not (low <= a <= high and low <= b <= high) or (op in ("//", "%") and b == 0):
            continue
        exact = {"+": a + b, "-": a - b, "*": a * b, "//": b and a // b, "%": b and a % b}[op]
        wrapped = np.array([(exact - low) % 2**64 + low]).astype(kind)
        got = _overflows(op, np.array([a], kind), np.array([b], kind), wrapped)
        assert got.tolist() == [not low <= exact <= high], (a, op, b)


def test_roots():
    for exponent in (2, 3, 5, 62, 63, 64, 65):
        for limit in (2**63 - 1, 2**63, 2**64 - 1):
            n = _root(limit, exponent)
            assert n**exponent <= limit
            assert (n + 1) ** exponent > limit or exponent > 64


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["+", "-", "*", "//", "%"]), *[st.tuples(st.integers(-6, 6), st.integers(0, 5))] * 2)
def test_ranges_hold_every_value(op, a, b):
    import operator

    of = {"+": operator.add, "-": operator.sub, "*": operator.mul, "//": operator.floordiv, "%": operator.mod}[op]
    a, b = (a[0], a[0] + a[1]), (b[0], b[0] + b[1])
    low, high = typed.arithmetic_range(op, a, b)
    for x in range(a[0], a[1] + 1):
        for y in range(b[0], b[1] + 1):
            if y or op in ("+", "-", "*"):
                assert low <= of(x, y) <= high


def test_ranges_of_powers():
    for low in range(-4, 4):
        for high in range(low, 4):
            for exponent in (0, 1, 2, 3, 66, 67, 100, 101):
                found = typed.power_range((low, high), exponent)
                for x in range(low, high + 1):
                    assert found[0] <= x**exponent <= found[1] or (exponent > 66 and not typed.fits(found, typed.INT64))


@settings(max_examples=200, deadline=None)
@given(st.floats(allow_nan=False) | st.integers(-(10**320), 10**320), st.sampled_from(["f2", "f4", "f8"]))
def test_the_floats_around_a_number(number, dtype):
    down, up = around(np.dtype(dtype), number)
    if down == up:
        assert float(down) == number
        return
    assert float(down) < number < float(up)
    with np.errstate(over="ignore"):
        assert np.nextafter(down, up) == up
    if math.isfinite(up) and math.isfinite(down):
        assert Fraction(float(down)) < number < Fraction(float(up))
