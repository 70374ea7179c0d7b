"""The numbers of cut flows, against plain Python lists."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdask.rows.bits import pack
from mmdask.rows.sums.flow import Grouped, add, group, tally, zeros

MOST_ROWS = 40


@st.composite
def cases(draw):
    """Rows with cuts, a selection, weights and groups, as lists."""
    n = draw(st.integers(0, MOST_ROWS))

    def column(values):
        return draw(st.lists(values, min_size=n, max_size=n))

    cuts = [column(st.booleans()) for _ in range(draw(st.integers(0, 5)))]
    # Halves add exactly in any order.
    halves = st.integers(-100, 100).map(lambda x: x / 2)
    return n, cuts, column(st.booleans()), column(halves), column(st.integers(0, 3))


def expected(cuts, rows, weights):
    """Rows, sums and sums of squares of `rows` (numbers) that pass: alone, together, all others."""

    def sums(passing):
        return len(passing), sum(weights[r] for r in passing), sum(Fraction(weights[r]) ** 2 for r in passing)

    n = len(cuts)
    return (
        [sums([r for r in rows if cuts[k][r]]) for k in range(n)],
        [sums([r for r in rows if all(cuts[j][r] for j in range(k))]) for k in range(n + 1)],
        [sums([r for r in rows if all(cuts[j][r] for j in range(n) if j != k)]) for k in range(n)],
    )


def bits_of(mask, as_bool):
    """Bits, or where they can be said in a word, that."""
    if as_bool and len(set(mask)) == 1:
        return mask[0]
    return pack(np.array(mask, np.bool_))


def compare(found, g, wanted, weighted):
    for sums, entries in zip((found.alone, found.together, found.others), wanted, strict=True):
        assert sums.n[g].tolist() == [n for n, _, _ in entries]
        if weighted:
            assert sums.w[g].tolist() == [w for _, w, _ in entries]
            assert sums.w2[g].tolist() == [w2 for _, _, w2 in entries]
        else:
            assert sums.w is None
            assert sums.w2 is None


@given(cases(), st.booleans(), st.booleans(), st.booleans())
def test_tallies_are_those_of_lists(case, weighted, grouped, as_bool):
    n, cuts, selected, weights, groups = case
    found = tally(
        [bits_of(c, as_bool) for c in cuts],
        bits_of(selected, as_bool),
        n,
        weights=np.array(weights) if weighted else None,
        groups=np.array(groups, np.int64) if grouped else None,
        n_groups=4 if grouped else 1,
    )
    for g in range(4 if grouped else 1):
        rows = [r for r in range(n) if selected[r] and (not grouped or groups[r] == g)]
        compare(found, g, expected(cuts, rows, weights), weighted)
    assert found.together.n.dtype == np.int64


@given(cases(), st.integers(0, MOST_ROWS), st.booleans())
def test_tallies_of_pieces_add_up(case, at, weighted):
    n, cuts, selected, weights, groups = case
    total = Grouped((), zeros(len(cuts), 0, weighted=weighted))
    for piece in (slice(0, at), slice(at, n)):
        mask = np.array(selected[piece], np.bool_)
        values, codes = group(np.array(groups[piece], np.int64), mask)
        w = np.array(weights[piece]) if weighted else None
        bits = [bits_of(c[piece], False) for c in cuts]
        one = tally(bits, pack(mask), len(mask), weights=w, groups=codes, n_groups=len(values))
        total = add(total, Grouped(tuple(values), one))
    assert list(total.groups) == sorted({g for g, s in zip(groups, selected, strict=True) if s})
    for i, g in enumerate(total.groups):
        rows = [r for r in range(n) if selected[r] and groups[r] == g]
        compare(total.tally, i, expected(cuts, rows, weights), weighted)


def test_a_group_without_a_value_comes_last():
    one = tally([], True, 3)
    total = add(Grouped((None,), one), Grouped((2,), one))
    total = add(total, Grouped((-5, None), tally([], True, 2, groups=np.array([0, 1]), n_groups=2)))
    assert total.groups == (-5, 2, None)
    assert total.tally.together.n.tolist() == [[1], [3], [4]]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_no_number_is_in_no_sum_but_its_own(bad):
    weights = np.array([1.0, bad, 2.0])
    cuts = [pack(np.array(m)) for m in ([True, False, True], [True, True, False])]
    for groups in (None, np.zeros(3, np.int64)):
        t = tally(cuts, True, 3, weights=weights, groups=groups)
        assert t.together.w[0, 1:].tolist() == [3.0, 1.0]
        assert t.alone.w[0, 0] == 3.0
        for w in (t.together.w[0, 0], t.alone.w[0, 1], t.others.w[0, 0]):
            np.testing.assert_equal(w, w if math.isnan(bad) else bad)
            assert not math.isfinite(w)


def test_opposite_infinities_are_nan_without_a_warning():
    parts = [tally([], True, 1, weights=np.array([w])) for w in (math.inf, -math.inf)]
    assert math.isnan((parts[0] + parts[1]).together.w[0, 0])
    assert tally([], True, 1, weights=np.array([1e200])).together.w2[0, 0] == math.inf


LIMITS = [(np.dtype(c).type, np.iinfo(c)) for c in ("i1", "u1", "i2", "i8", "u8")]


@given(st.data(), st.sampled_from(LIMITS))
def test_groups_are_those_of_a_dict(data, kind):
    dtype, limits = kind
    near = st.sampled_from([limits.min, limits.min + 1, limits.max - 1, limits.max, 5])
    values = data.draw(st.lists(near | st.integers(limits.min, limits.max), max_size=20))
    selected = data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)) | st.none())
    found, codes = group(np.array(values, dtype), None if selected is None else np.array(selected, np.bool_))
    there = [v for i, v in enumerate(values) if selected is None or selected[i]]
    assert found == sorted(set(there))
    assert [found[c] for i, c in enumerate(codes) if selected is None or selected[i]] == there


def test_groups_of_booleans():
    found, codes = group(np.array([True, False, True]), None)
    assert (found, codes.tolist()) == ([0, 1], [1, 0, 1])


def test_unread_weights_stay_read_only():
    weights = np.array([1.0, 2.0])
    weights.flags.writeable = False
    bits = pack(np.array([True, False]))
    bits.flags.writeable = False
    assert tally([bits], bits, 2, weights=weights).together.w.tolist() == [[1.0, 1.0]]


def test_more_cuts_than_a_byte_counts():
    rng = np.random.default_rng(1)
    n, n_cuts = 50, 600
    cuts = (rng.random((n_cuts, n)) > 0.002).tolist()
    weights = rng.integers(-9, 9, n).astype(float).tolist()
    bits = [bits_of(c, False) for c in cuts]
    found = tally(bits, True, n, weights=np.array(weights))
    compare(found, 0, expected(cuts, list(range(n)), weights), True)
    assert 0 < found.together.n[0, -1] < found.together.n[0, 256] < n


def test_groups_stay_read_only():
    groups = np.array([0, 1])
    groups.flags.writeable = False
    selected = pack(np.array([True, False]))
    assert tally([], selected, 2, groups=groups, n_groups=2).together.n.tolist() == [[1], [0]]
