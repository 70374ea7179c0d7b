"""Which rows become one layer: pure functions, against rules that are checked one by one."""

from __future__ import annotations

import itertools
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdask.sources.converting import jobs
from mmdask.sources.converting.ahead import ahead
from mmdask.sources.converting.jobs import Stretch, make_jobs, n_ranges, split_rows
from mmdask.sources.converting.plan import arrange, group_of, is_merge, order_of
from mmdask.store.manifest import Part

GROUPS = [f"{i:032x}" for i in range(60)]


def stretch(group, nbytes, k=0, n=1):
    return Stretch(group, f"{group}-{k}-of-{n}", nbytes, None)


@given(
    st.lists(st.tuples(st.integers(0, 100), st.sampled_from("ab"), st.sampled_from(["", "m", "n"])), max_size=50),
    st.lists(st.integers(0, 50), max_size=5),
    st.integers(1, 200),
    st.integers(1, 4),
)
def test_jobs_are_neighbours_of_equal_labels_and_not_too_large(sizes, barriers, target, workers):
    order = list(GROUPS[: len(sizes)])
    stretches = {g: [stretch(g, nbytes)] for g, (nbytes, _, _) in zip(order, sizes, strict=False)}
    labels = {g: label for g, (_, label, _) in zip(order, sizes, strict=False)}
    origin = {g: whole for g, (_, _, whole) in zip(order, sizes, strict=False) if whole}
    for at in barriers:
        order.insert(at, None)
    made = make_jobs(order, stretches, labels, origin, target, workers)
    assert [s.group for job in made for s in job.stretches] == [g for g in order if g], "each once, in order"
    at = {g: i for i, g in enumerate(order) if g}
    many = len(stretches) > jobs.MANY
    for job in made:
        inside = [s.group for s in job.stretches]
        assert len({labels[g] for g in inside}) == 1
        assert [at[g] for g in inside] == list(range(at[inside[0]], at[inside[0]] + len(inside))), "nothing between"
        assert is_merge(job.id) == (len(inside) > 1)
        if len(inside) > 1:
            assert job.nbytes <= max(2 * target, jobs.LEAST_NBYTES * 2)
            assert all(2 * s.nbytes < target for s in job.stretches)
            assert many or all(origin[a] == origin[b] for a, b in itertools.pairwise(inside))
    for a, b in itertools.pairwise(made):
        first, second = a.stretches[-1], b.stretches[0]
        small = all(2 * s.nbytes < target for s in (first, second))
        if many and small and at[second.group] == at[first.group] + 1 and labels[first.group] == labels[second.group]:
            assert 2 * (a.nbytes + second.nbytes) > target, "two small neighbours that would fit are one"


@given(st.integers(1, 10**12), st.integers(0, 10**12), st.integers(1, 64), st.integers(1, 9))
def test_large_inputs_are_shared(nbytes, others, workers, n):
    cut = n_ranges(n, nbytes, nbytes + others, workers)
    assert cut >= n
    assert workers > 1 or cut == n
    if cut > n:
        assert nbytes / cut <= max(jobs.LEAST_NBYTES, -(-(nbytes + others) // workers))
        assert cut <= max(n, workers)


@given(st.integers(0, 1000), st.integers(1, 50), st.lists(st.integers(0, 1000)))
def test_split_rows_covers_all_once(rows, n, cuts):
    ranges = split_rows(rows, n, sorted(cuts))
    assert (ranges[0][0], ranges[-1][1]) == (0, rows)
    assert all(a[1] == b[0] for a, b in itertools.pairwise(ranges))
    assert len(ranges) <= max(1, n)


@given(st.data())
def test_order_is_that_of_the_parts(data):
    """What `order_of` says before is what `arrange` does afterwards."""
    groups = GROUPS[:8]
    old = data.draw(st.permutations(groups))[: data.draw(st.integers(0, 8))]
    new = GROUPS[8:12]
    parts, merged, left = [], {}, list(old)
    while left:
        n = data.draw(st.integers(1, 3))
        some, left = left[:n], left[n:]
        if n == 1:
            parts.append(Part(1, (f"{some[0]}-0-of-1",), 8))
        else:
            whole = f"{len(parts):032x}-merged"
            going = data.draw(st.booleans())
            merged[whole] = tuple(f"{g}-0-of-1" for g in some) if going else None
            parts.append(Part(len(some), (whole,), 8))
            if not going:
                old = [g for g in old if g not in some]
        if data.draw(st.booleans()):
            parts.append(Part(1, ("appended",), 8))
    single = {f"{g}-0-of-1" for g in old}
    fate = {d: data.draw(st.sampled_from(["stay", "drop", "replace"])) for d in sorted(single)}
    inside = {d for ids in merged.values() for d in ids or ()}
    for d in inside & fate.keys():
        fate[d] = "copy" if fate[d] == "stay" else fate[d]
    replaced = dict(zip([d for d, f in fate.items() if f == "replace"], GROUPS[12:], strict=False))
    dropped = {d for d, f in fate.items() if f == "drop"}
    kept = {group_of(d) for d, f in fate.items() if f == "stay"}
    made = [group_of(d) for d, f in fate.items() if f == "copy"] + list(replaced.values()) + new
    order = order_of(parts, [*kept, *made], kept, replaced, dropped, merged)
    wanted = {g: [(f"{g}-0-of-1", None)] for g in [*kept, *made]}
    parts_made = {f"{g}-0-of-1": Part(1, (f"{g}-0-of-1",), 8) for g in made}
    result = arrange(parts, wanted, parts_made, replaced, dropped, merged)
    placed = [group_of(p.layers[0]) if p.layers[0] in parts_made else None for p in result]
    assert placed == order


def test_ahead_gives_the_same_and_ends():
    made = []

    def values():
        for i in range(100):
            made.append(i)
            yield i

    assert list(ahead(values())) == list(range(100))
    made.clear()
    before = set(threading.enumerate())  # others of this process may begin and end
    some = ahead(values())
    assert next(some) == 0
    time.sleep(0.05)
    assert len(made) <= 3, "no more than two beside the one that is used"
    some.close()
    assert not [t for t in set(threading.enumerate()) - before if t.name == "mmdask-ahead"]


def test_ahead_raises_where_it_happened():
    def values():
        yield 1
        raise KeyError("x")

    some = ahead(values())
    assert next(some) == 1
    with pytest.raises(KeyError, match="x"):
        next(some)
