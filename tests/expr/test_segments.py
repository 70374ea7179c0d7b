"""Segment reductions: the numpy twins, the compiled loops, and plain Python agree bit for bit."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdask.kernels import segments

KERNELS = ["_SUM", "_MIN", "_MAX", "_ARGMIN", "_ARGMAX"]
FUNCTIONS = ["segment_sum", "segment_min", "segment_max", "segment_argmin", "segment_argmax"]
DTYPES = ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8"]


def rows_of(rng, dtype, n_rows, lengths=lambda rng, n: rng.integers(0, 5, n)):
    offsets = np.concatenate([[0], np.cumsum(lengths(rng, n_rows))]).astype(np.int64)
    size = int(offsets[-1])
    d = np.dtype(dtype)
    if d.kind == "b":
        values = rng.random(size) < 0.5
    elif d.kind == "f":
        values = rng.choice(np.array([0.0, -0.0, 1.5, -1.5, np.inf, -np.inf, np.nan, -np.nan, 1 / 3, 1e4], d), size)
    else:
        info = np.iinfo(d)
        values = np.frombuffer(rng.bytes(size * d.itemsize), d)
        values = np.where(rng.random(size) < 0.3, rng.choice(np.array([info.min, info.max, 0, 1], d), size), values)
    return values, offsets


def expected(name, items):
    """The plain meaning, for one row."""
    if name == "segment_sum":
        total = 0.0 if items and isinstance(items[0], float) else 0
        for x in items:
            total += x
        return total
    if not items:
        return 0
    least = name.endswith("min")
    nan = [i for i, x in enumerate(items) if x != x]
    best = items[nan[0]] if nan else min(items) if least else max(items)
    if "arg" in name:
        return nan[0] if nan else items.index(best)
    return best


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_meaning(name, dtype, seed):
    values, offsets = rows_of(np.random.default_rng(seed), dtype, 7)
    values.flags.writeable = False
    got = getattr(segments, name)(values, offsets)
    for result, (a, b) in zip(got.tolist(), pairwise(offsets), strict=True):
        want = expected(name, values[a:b].tolist())
        if name == "segment_sum" and dtype in ("i8", "u8"):
            want = (want + 2**63) % 2**64 - 2**63 if dtype == "i8" else want % 2**64
        assert result == want or (result != result and want != want)
        if isinstance(result, float) and result == 0:
            assert math.copysign(1, result) == 1


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32))
def test_any_all(seed):
    values, offsets = rows_of(np.random.default_rng(seed), "?", 9)
    rows = [values[a:b].tolist() for a, b in pairwise(offsets)]
    assert segments.segment_any(values, offsets).tolist() == [any(r) for r in rows]
    assert segments.segment_all(values, offsets).tolist() == [all(r) for r in rows]
    assert segments.segment_count(values, offsets).tolist() == [sum(r) for r in rows]


#: rows alike and not, so that eight of them are reduced together and not; with more items than eight
LENGTHS = {
    "few": lambda rng, n: rng.integers(0, 5, n),
    "some": lambda rng, n: rng.poisson(6, n),
    "as many": lambda rng, n: np.full(n, 16),
    "none but one": lambda rng, n: np.where(rng.random(n) < 0.02, 200, 0),
    "many": lambda rng, n: rng.integers(20, 70, n),
}


@pytest.mark.parametrize("dtype", ["?", "u1", "i4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("name", KERNELS)
def test_the_compiled_loop_equals_the_twin_bit_for_bit(name, dtype):
    kernel = getattr(segments, name)
    rng = np.random.default_rng(3)
    for lengths in LENGTHS.values():
        for n_rows in (0, 1, 7, 8, 200, 201):
            values, offsets = rows_of(rng, dtype, n_rows, lengths)
            plain, offsets = segments._plain(values), segments.readonly(offsets)
            place = {"_ARGMIN": np.int64, "_ARGMAX": np.int64}
            sums = {"f": np.float64, "u": np.uint64}.get(np.dtype(dtype).kind, np.int64)
            out_dtype = sums if name == "_SUM" else place.get(name, plain.dtype)
            one, two = np.empty(n_rows, out_dtype), np.empty(n_rows, out_dtype)
            kernel.twin(plain, offsets, one)
            kernel.compiled(plain, offsets, two)(plain, offsets, two)
            assert one.tobytes() == two.tobytes(), dtype


def test_long_float_sums_agree_bit_for_bit():
    # numpy's own sums go pairwise, which gives other last bits
    values = np.random.default_rng(0).normal(size=10_000).astype(np.float32)
    offsets = np.array([0, 3000, 3000, 10_000])
    one, two = np.empty(3), np.empty(3)
    plain, offsets = segments._plain(values), segments.readonly(offsets)
    segments._SUM.twin(plain, offsets, one)
    segments._SUM.compiled(plain, offsets, two)(plain, offsets, two)
    assert one.tobytes() == two.tobytes()


def test_arrays_that_are_not_contiguous():
    values = np.arange(12, dtype=np.float64)[::2]
    assert segments.segment_sum(values, np.array([0, 3, 6])).tolist() == [6.0, 24.0]
    assert segments.segment_max(np.broadcast_to(np.float32(3), 4), np.array([0, 0, 4])).tolist() == [0.0, 3.0]
