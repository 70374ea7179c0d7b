"""Planning and layout of parts: pure functions."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdask.errors import ConflictError
from mmdask.sources.converting.inputs import Input
from mmdask.sources.converting.plan import arrange, complete_groups, group_id, group_of, labels_id, layer_ids
from mmdask.sources.root.ranges import part_ranges, runs
from mmdask.store.manifest import Part

A, B, C, D = (letter * 32 for letter in "abcd")


def part(*layers, rows=1):
    return Part(rows, layers, 8)


@given(
    st.integers(0, 1000),
    st.integers(0, 10**6),
    st.integers(1, 10**5),
    st.lists(st.lists(st.integers(0, 1000)), max_size=3),
)
def test_part_ranges_cover_all_rows_once(rows, nbytes, part_nbytes, cuts):
    ranges = part_ranges(rows, nbytes, part_nbytes, cuts)
    assert ranges[0][0] == 0
    assert ranges[-1][1] == rows
    assert all(a[1] == b[0] for a, b in itertools.pairwise(ranges))
    assert all(a < b for a, b in ranges) or ranges == ((0, 0),)
    assert len(ranges) <= max(1, round(nbytes / part_nbytes))


def test_part_ranges_follow_common_cuts():
    assert part_ranges(100, 400, 100, [[0, 22, 51, 74, 100], [0, 22, 30, 51, 74, 100]]) == (
        (0, 22),
        (22, 51),
        (51, 74),
        (74, 100),
    )
    assert part_ranges(100, 200, 100, [[0, 10, 100]]) == ((0, 50), (50, 100)), "a far cut is worse than none"
    assert part_ranges(2, 10**9, 1) == ((0, 1), (1, 2))


@given(
    st.lists(st.tuples(st.integers(1, 20), st.floats(0, 100)), min_size=1, max_size=20),
    st.floats(0.1, 300),
    st.data(),
)
def test_runs_follow_baskets(baskets, limit, data):
    offsets = [0]
    for n, _ in baskets:
        offsets.append(offsets[-1] + n)
    weights = [w for _, w in baskets]
    start = data.draw(st.integers(0, offsets[-1]))
    stop = data.draw(st.integers(start, offsets[-1]))
    ends = list(runs(start, stop, offsets, weights, limit))
    assert ends == sorted(set(ends))
    assert all(e in offsets or e == stop for e in ends)
    assert (ends[-1] if ends else start) == stop
    density = [w / n for n, w in baskets for _ in range(n)]
    for a, b in zip([start, *ends], ends, strict=False):
        one_basket = any(lo <= a and b <= hi for lo, hi in itertools.pairwise(offsets))
        assert one_basket or sum(density[a:b]) <= limit * 1.0001 + 1e-9


def test_ids_are_derived():
    options = {"fields": None, "part_nbytes": 1}
    a = Input("/a.root", "t", 10, 20, (("year", 2016),))
    group = group_id(a, options)
    assert group == group_id(Input("/a.root", "t", 10, 20), options), "labels play no part"
    others = [
        group_id(Input("/b.root", "t", 10, 20), options),
        group_id(Input("/a.root", "u", 10, 20), options),
        group_id(Input("/a.root", "t", 11, 20), options),
        group_id(Input("/a.root", "t", 10, 21), options),
        group_id(a, {"fields": ["x"], "part_nbytes": 1}),
    ]
    assert len({group, *others}) == 6
    assert [group_of(i) for i in layer_ids(group, 2)] == [group, group]
    assert labels_id((), "x") is None
    assert labels_id((("y", 1),), "x") != labels_id((("y", 1.0),), "x") != labels_id((("y", 1.0),), "z")


def test_complete_groups():
    ids = [*layer_ids(A, 3), *layer_ids(B, 2)[:1], f"{C}-0-of-1.tmp-12", "junk", *layer_ids(D, 1), f"{D}-0-of-2"]
    assert complete_groups(ids) == {A: 3, D: 1}


def test_arrange_replaces_in_place_and_appends():
    (a,), (b,), (c,) = layer_ids(A, 1), layer_ids(B, 1), layer_ids(C, 1)
    d = layer_ids(D, 2)
    parts = [part(a, "1-labels", rows=1), part("ff00", rows=2), part(b, rows=3), part(c, "extra", rows=4)]
    wanted = {D: [(d[0], "2-labels"), (d[1], "3-labels")], A: [(a, "4-labels")], C: [(c, None)]}
    made = {i: part(i, rows=9) for i in d}
    rows = arrange(parts, wanted, made, {b: D}, ())
    assert [p.layers for p in rows] == [
        (a, "4-labels"),
        ("ff00",),
        (d[0], "2-labels"),
        (d[1], "3-labels"),
        (c, "extra"),
    ]
    assert [p.rows for p in rows] == [1, 2, 9, 9, 4]
    appended = arrange(parts, wanted, made, {}, {b})
    assert [p.layers[0] for p in appended] == [a, "ff00", c, *d]


def test_arrange_sees_other_writers():
    a, b = layer_ids(A, 1)[0], layer_ids(B, 1)[0]
    with pytest.raises(ConflictError, match="other inputs"):
        arrange([part(b)], {A: [(a, None)]}, {a: part(a)}, {}, ())
    with pytest.raises(ConflictError, match="took converted parts out"):
        arrange([], {A: [(a, None)]}, {}, {}, ())
    assert arrange([part(a)], {A: [(a, None)]}, {a: part(a)}, {}, ()) == (part(a),), "the same conversion twice"
