"""Bucketing: the same rows in batches of similar length, in an order that can be taken up anywhere."""

from __future__ import annotations

import itertools
import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_rows import MemoryRows

import mmdask as mm
from mmdask.batches.collate import pad
from mmdask.batches.loader import Loader
from mmdask.batches.ordering.bucketing import bucket
from mmdask.errors import FieldNotFoundError, OptionError, StateError


def ragged(n, most=40, seed=0, **options):
    rng = np.random.default_rng(seed)
    parts = [[1.0] * int(c) for c in rng.integers(0, most + 1, n) * (rng.random(n) < 0.8)]
    return MemoryRows({"row": np.arange(n), "parts": parts}, **options)


def rows_of(batches):
    return [batch.rows.tolist() for batch in batches]


def plain(loader, rows, how, batch_size, shuffled):
    """Batches in the plainest way: sort each window, cut it; which batch comes when is taken from the loader."""
    positions = loader._mixed().rows_at(0, 0, len(rows)).tolist()
    size = how.window * batch_size
    found = []
    for start in range(0, len(positions), size):
        window = positions[start : start + size]
        rest = [] if how.tokens else window[len(window) // batch_size * batch_size :]
        window = window[: len(window) - len(rest)]
        length = {r: -(-len(rows.fields["parts"][r]) // how.multiple) * how.multiple for r in window}
        window.sort(key=lambda r: -length[r])  # stable
        batches = []
        while window:
            n = batch_size
            if how.tokens:
                n = min(n, max(1, how.tokens // max(length[window[0]], 1)))
            batches.append(window[:n])
            window = window[n:]
        found.append((batches, [rest] * bool(rest)))
    return found


@st.composite
def loaders(draw):
    n = draw(st.sampled_from([0, 1, 2, 17, 100, 333]))
    rows = ragged(n, most=draw(st.sampled_from([0, 3, 40])), seed=draw(st.integers(0, 9)), block_rows=4)
    if draw(st.booleans()):
        rows.selected = np.flatnonzero(np.random.default_rng(n).random(n) < 0.6)
    how = bucket(
        "parts",
        window=draw(st.sampled_from([1, 2, 5, 1000])),
        tokens=draw(st.sampled_from([None, 1, 30, 100, 10**6])),
        multiple=draw(st.sampled_from([1, 8])),
    )
    shuffle = draw(st.sampled_from([True, False, "exact"]))
    batch_size = draw(st.sampled_from([1, 3, 10, 500]))
    options = {"fields": ["row"], "shuffle": shuffle, "seed": draw(st.integers(0, 2)), "bucket": how}

    def make(batch_size=batch_size, **more):
        return Loader(rows, batch_size, **options, **more)

    return make, rows, how, batch_size, shuffle


@settings(max_examples=120, deadline=None)
@given(loaders())
def test_batches_are_sorted_windows_cut_anew(made):
    make, rows, how, batch_size, shuffle = made
    loader = make()
    batches = rows_of(loader)
    assert len(batches) == len(make())
    assert sorted(itertools.chain(*batches)) == rows.selected.tolist()
    for sorted_batches, rest in plain(loader, rows, how, batch_size, shuffle):
        here, batches = batches[: len(sorted_batches)], batches[len(sorted_batches) :]
        assert sorted(here) == sorted(sorted_batches)
        if shuffle is False:
            assert here == sorted_batches
        if rest:
            assert batches == rest
            batches = []
    assert not batches


@settings(max_examples=80, deadline=None)
@given(loaders(), st.integers(0, 40), st.integers(0, 1))
def test_resumed_anywhere_by_number_or_by_state(made, steps, epoch):
    make, *_ = made
    whole = make()
    whole.set_epoch(epoch)
    expected = [(b.index, b.position, b.rows.tolist()) for b in whole]
    assert [i for i, *_ in expected] == list(range(len(expected)))
    other = make()
    other.set_epoch(epoch)
    for i in list(range(len(expected)))[:: max(1, len(expected) // 7)]:
        assert other[i].rows.tolist() == expected[i][2]
        assert other[i - len(expected)].index == i
    done = list(itertools.islice(other, steps))
    state = json.loads(json.dumps(other.state_dict()))
    assert state == other.state_dict(after=done[-1]) if done else True
    assert len(json.dumps(state)) < 1000
    for third in (make(), pickle.loads(pickle.dumps(make()))):
        third.load_state_dict(state)
        rest = [(b.index, b.position, b.rows.tolist()) for b in third]
        if len(done) < len(expected) or not done:
            assert rest == expected[len(done) :]
        else:
            assert state["epoch"] == epoch + 1


@settings(max_examples=60, deadline=None)
@given(loaders(), st.integers(1, 4))
def test_ranks_together_are_the_single_process(made, world_size):
    make, _, _, batch_size, _ = made
    batch_size = max(batch_size, world_size)
    single = rows_of(make(batch_size, last="keep"))
    ranks = [rows_of(make(batch_size, last="keep", rank=r, world_size=world_size)) for r in range(world_size)]
    assert [list(itertools.chain(*parts)) for parts in zip(*ranks, strict=True)] == single


def test_ranks_pad_to_one_shape():
    options = {"bucket": bucket("parts", window=4), "collate": {"parts": pad("max", multiple=8)}}
    ranks = [list(Loader(ragged(100), 10, rank=r, world_size=3, **options)) for r in range(3)]
    for batches in zip(*ranks, strict=True):
        assert len({b["parts"].shape[1] for b in batches}) == 1
        assert batches[0]["parts"].shape[1] % 8 == 0


def test_tokens_bound_what_a_batch_is_padded_to():
    rows = ragged(500)
    for batch in Loader(
        rows, 64, bucket=bucket("parts", window=4, tokens=200), collate={"parts": pad("max", multiple=8)}
    ):
        n, length = batch["parts"].shape
        assert n * length <= 200
        assert n <= 64


def test_a_row_that_is_longer_than_the_budget_is_a_batch_of_its_own():
    rows = MemoryRows({"parts": [[1.0] * n for n in (1, 50, 2, 60)]})
    sizes = [len(b.rows) for b in Loader(rows, 4, bucket=bucket("parts", tokens=16))]
    assert sorted(sizes) == [1, 1, 2]


def test_little_is_padded():
    rng = np.random.default_rng(0)
    counts = np.minimum(rng.lognormal(3, 1, 20_000), 500).astype(int)
    rows = MemoryRows({"parts": [[1.0] * c for c in counts]})

    def waste(**options):
        padded = sum(b["parts_mask"].size for b in Loader(rows, 200, collate={"parts": pad("max")}, **options))
        return 1 - counts.sum() / padded

    assert waste() > 0.85
    assert waste(bucket=bucket("parts")) < 0.3  # the longest rows lie far apart
    assert waste(bucket=bucket("parts", tokens=4000, multiple=1)) < 0.05


def test_epochs_and_seeds_differ_and_rows_of_one_length_are_mixed():
    rows = MemoryRows({"parts": [[1.0] * (i % 2) for i in range(64)]}, block_rows=1)
    seen = set()
    for seed in (0, 1):
        loader = Loader(rows, 8, seed=seed, bucket=bucket("parts", window=4, multiple=1))
        for epoch in range(3):
            loader.set_epoch(epoch)
            seen.add(tuple(loader[0].rows.tolist()))
    assert len(seen) == 6
    lengths = [int(r) % 2 for b in Loader(rows, 8, bucket=bucket("parts", window=8, multiple=1)) for r in b.rows[:1]]
    assert lengths != sorted(lengths)
    assert lengths != sorted(lengths, reverse=True)


def test_drop_leaves_out_the_rows_that_come_last_and_not_the_longest():
    rows = ragged(103)
    loader = Loader(rows, 10, bucket=bucket("parts", window=100), last="drop", shuffle=False)
    batches = list(loader)
    assert [len(b.rows) for b in batches] == [10] * 10
    assert sorted(itertools.chain(*rows_of(batches))) == list(range(100))


def test_a_state_is_of_one_bucketing():
    def make(size=8, **how):
        return Loader(ragged(50), size, bucket=bucket("parts", **how))

    state = make().state_dict()
    for other in (make(4), make(window=2), make(tokens=8), make(multiple=1), Loader(ragged(50), 8)):
        with pytest.raises(StateError, match="another order of rows: bucket"):
            other.load_state_dict(state)


def test_arguments():
    for wrong in ({"window": 0}, {"tokens": 0}, {"multiple": 0.5}, {"window": True}):
        with pytest.raises(OptionError, match=f"bucket\\({next(iter(wrong))}=\\)"):
            bucket("parts", **wrong)
    with pytest.raises(OptionError, match="name of a field"):
        bucket(3)
    with pytest.raises(OptionError, match="'row' sorts by numbers of items, and the field is int64"):
        Loader(ragged(5), 2, bucket=bucket("row"))
    with pytest.raises(OptionError, match="made by mm.bucket"):
        Loader(ragged(5), 2, bucket="parts")
    with pytest.raises(FieldNotFoundError):
        Loader(ragged(5), 2, bucket=bucket("nothing"))
    for last in ("drop", "pad"):
        with pytest.raises(OptionError, match="batches differ in size"):
            Loader(ragged(5), 2, bucket=bucket("parts", tokens=5), last=last)
    assert Loader(ragged(5), 2, bucket=bucket("parts", tokens=5), rank=0, world_size=2).last == "keep"


@pytest.mark.parametrize("field", ["text", "image", "computed", "words", "deep"])
def test_every_field_with_items(tmp_path, field):
    n = 40
    fields = [mm.Field.shaped("image", "u1", axes=2), mm.Field.string("text"), mm.Field.ragged("pt", "f4"),
              mm.Field.string("words", levels=1), mm.Field.ragged("deep", "f4", levels=2)]  # fmt: skip
    sizes = np.random.default_rng(0).integers(0, 30, n).tolist()
    with mm.create(tmp_path / "s.mm", fields=fields) as w:
        for s in sizes:
            w.append({"image": np.ones((s, 2), "u1"), "text": "x" * s, "pt": [1.0] * s, "words": ["ab"] * s,
                      "deep": [[1.0, 2.0]] * s})  # fmt: skip
    ds = mm.open(tmp_path / "s.mm").assign(computed="pt * 2")
    loader = ds.batches(5, fields=["pt"], bucket=mm.bucket(field, window=8, multiple=1))
    spreads = [np.ptp([sizes[r] for r in batch.rows]) for batch in loader]
    assert max(spreads) < 15
    assert sorted(itertools.chain(*rows_of(loader))) == list(range(n))


def test_iterating_and_resuming_count_no_more_than_the_windows_they_are_in():
    rows = ragged(4000)
    asked = []
    counts = rows.counts
    rows.counts = lambda name, numbers: asked.append(len(numbers)) or counts(name, numbers)

    def make():
        return Loader(rows, 10, fields=["row"], bucket=bucket("parts", window=10, tokens=100))

    first = make()
    list(itertools.islice(first, 300))
    state = first.state_dict()
    assert 1000 < state["position"] < 2000
    resumed = make()
    asked.clear()
    resumed.load_state_dict(state)
    batch = next(iter(resumed))
    assert batch.index == 300
    assert resumed.state_dict(after=batch)["batch"] == 301
    assert sum(asked) < 1000
    assert resumed[0].rows.tolist() == make()[0].rows.tolist()  # which then is counted from the start
    assert len(resumed) == len(make())
    assert resumed[-1].rows.tolist() == make()[-1].rows.tolist()


def test_workers_give_the_same_batches(tmp_path):
    torch_data = pytest.importorskip("torch.utils.data")
    counts = np.random.default_rng(0).integers(0, 30, 300).tolist()
    ds = mm.from_arrays({"parts": [[1.0] * c for c in counts]}, tmp_path / "w.mm")

    def make():
        return ds.batches(20, bucket=mm.bucket("parts", window=4, tokens=128), collate={"parts": mm.pad("max")}, seed=2)

    expected = [(b.index, b.position, b.rows.tolist()) for b in make()]
    batches = make().to_torch()
    loader = torch_data.DataLoader(batches, batch_size=None, num_workers=2)
    received = []
    for batch in loader:
        received.append((batch.index, batch.position, batch.rows.tolist()))
        if batch.index == 20:
            state = batches.state_dict(after=batch)
    assert received == expected
    resumed = make()
    resumed.load_state_dict(state)
    assert [(b.index, b.position, b.rows.tolist()) for b in resumed] == expected[21:]


def test_of_a_selection(tmp_path):
    counts = np.random.default_rng(0).integers(0, 30, 300)
    ds = mm.from_arrays({"parts": [[1.0] * c for c in counts], "n": counts}, tmp_path / "s.mm")
    sel = ds[ds.cut("n % 3 == 0")]
    for shuffle in (True, False, "exact"):
        batches = list(sel.batches(10, shuffle=shuffle, bucket=mm.bucket("parts", window=3)))
        assert sorted(r for b in batches for r in b.rows.tolist()) == np.flatnonzero(counts % 3 == 0).tolist()
        assert np.mean([np.ptp(b["n"]) for b in batches]) < 15
