"""Packed booleans: the numpy twins, the compiled loops, and plain Python agree bit for bit."""

from __future__ import annotations

import operator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdask.kernels import packed

PLAIN = {"==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
DTYPES = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]


def numbers(rng, dtype, n):
    """Numbers of which many are equal, with those at the ends of the dtype among them."""
    d = np.dtype(dtype)
    if d.kind == "f":
        some = [0.0, -0.0, 1.0, 1 + 2.0**-20, -1.0, np.inf, -np.inf, np.nan, -np.nan]
    else:
        info = np.iinfo(d)
        some = [0, 1, 2, info.max, info.max - 1, info.min, info.min + 1]
    return rng.choice(np.array(some, d), n)


def list_of(bits, n):
    """Booleans of bits; the bits behind the last have to be zero."""
    whole = np.unpackbits(bits, bitorder="little")
    assert len(bits) == -(-n // 8)
    assert not whole[n:].any()
    return whole[:n].astype(bool).tolist()


def both(kernel, *args, out):
    """The result of both forms, which is the same."""
    results = []
    for form in (kernel.twin, kernel.compiled(*args, out)):
        result = np.full_like(out, 0xAA)
        form(*args, result)
        results.append(result)
    assert results[0].tobytes() == results[1].tobytes()
    return results[0]


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), n=st.integers(0, 400), sign=st.sampled_from(packed.SIGNS))
def test_compare(dtype, seed, n, sign):
    rng = np.random.default_rng(seed)
    values, threshold = numbers(rng, dtype, n), numbers(rng, dtype, 1)
    expected = [PLAIN[sign](x, threshold.tolist()[0]) for x in values.tolist()]
    assert list_of(packed.compare(sign, values, threshold), n) == expected
    values.flags.writeable = threshold.flags.writeable = False
    args = values, packed.SIGNS.index(sign), threshold
    assert list_of(both(packed._COMPARE, *args, out=np.empty(-(-n // 8), np.uint8)), n) == expected


def test_compare_arrays_that_are_not_contiguous_or_aligned():
    values = np.arange(200, dtype=np.float32)
    shifted = np.frombuffer(b"x" + values.tobytes(), np.uint8)[1:].view(np.float32)
    for x in (values[::2], shifted, values[5:]):
        expected = [v > 77 for v in x.tolist()]
        packed.compare(">", x, np.float32([77]))
        packed._COMPARE.compiled(packed.readonly(x), 4, packed.readonly(np.float32([77])), np.empty(9, np.uint8))
        assert list_of(packed.compare(">", x, np.float32([77])), len(x)) == expected


#: no items, few, those at the ends of a window of 57 bits and of two, and many
LENGTHS = st.sampled_from([0, 0, 1, 2, 3, 5, 7, 8, 9, 56, 57, 58, 63, 64, 65, 113, 114, 115, 300])


@settings(max_examples=300, deadline=None)
@given(lengths=st.lists(LENGTHS, max_size=40), seed=st.integers(0, 2**32), often=st.sampled_from([0.01, 0.5, 0.99, 1]))
def test_reductions(lengths, seed, often):
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    values = np.random.default_rng(seed).random(int(offsets[-1])) < often
    bits = np.packbits(values, bitorder="little")
    rows = [values[a:b].tolist() for a, b in pairwise(offsets.tolist())]
    n = len(rows)
    assert list_of(packed.segment_any(bits, offsets), n) == [any(r) for r in rows]
    assert list_of(packed.segment_all(bits, offsets), n) == [all(r) for r in rows]
    assert packed.segment_count(bits, offsets).tolist() == [sum(r) for r in rows]
    bits.flags.writeable = offsets.flags.writeable = False
    for false, expected in ((False, any), (True, all)):
        found = both(packed._SEGMENT_ANY, bits, offsets, false, out=np.empty(-(-n // 8), np.uint8))
        assert list_of(found, n) == [expected(r) for r in rows]
    assert both(packed._SEGMENT_COUNT, bits, offsets, out=np.empty(n, np.int64)).tolist() == [sum(r) for r in rows]


def test_reductions_of_some_of_the_items():
    bits = np.packbits(np.arange(100) % 3 == 0, bitorder="little")
    offsets = np.array([10, 12, 13, 13, 90], np.int64)
    expected = [sum(i % 3 == 0 for i in range(a, b)) for a, b in pairwise(offsets.tolist())]
    assert packed.segment_count(bits, offsets).tolist() == expected
    assert list_of(packed.segment_any(bits, offsets), 4) == [c > 0 for c in expected]
