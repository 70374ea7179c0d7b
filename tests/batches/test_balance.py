"""Classes with shares of every batch, and mixtures of loaders."""

from __future__ import annotations

import heapq
import itertools
import json
import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mmdask as mm
from mmdask.batches.ordering.quotas import Quotas

SHARES = st.lists(st.integers(1, 50), min_size=1, max_size=7)


def turns(shares, n):
    """The first n rows of an epoch: draw j of stream i of k is due at (j + (i + 1/2) / k) / share, in fractions."""
    k = len(shares)
    due = [(Fraction(2 * i + 1, 2 * k * s), i, 0) for i, s in enumerate(shares)]
    heapq.heapify(due)
    found = []
    for _ in range(n):
        _, i, j = due[0]
        found.append(i)
        heapq.heapreplace(due, ((j + 1 + Fraction(2 * i + 1, 2 * k)) / shares[i], i, j + 1))
    return found


@settings(max_examples=30)
@given(SHARES, st.integers(0, 300), st.integers(0, 300))
def test_streams_take_turns_by_the_rule(shares, start, more):
    quotas = Quotas(tuple(map(float, shares)))
    expected = turns(shares, start + more)
    assert quotas.streams(start, start + more).tolist() == expected[start:]
    assert quotas.before(start).tolist() == np.bincount(expected[:start], minlength=len(shares)).tolist()
    for i in range(len(shares)):
        own = [p for p, s in enumerate(expected) if s == i]
        assert [quotas.position_of(i, j) for j in range(len(own))] == own


@settings(max_examples=100)
@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=40), st.integers(0, 10**12), st.integers(0, 500))
def test_quotas_hold_at_any_position(shares, start, more):
    quotas = Quotas(tuple(shares))
    before, after = quotas.before(start), quotas.before(start + more)
    assert before.sum() == start
    streams = quotas.streams(start, start + more)
    assert (before + np.bincount(streams, minlength=len(shares))).tolist() == after.tolist()
    exact = start * np.array(shares) / np.sum(shares)
    assert np.abs(before - exact).max() < (1 if len(shares) == 2 else 2)


@given(SHARES, st.integers(1, 9), st.integers(0, 10**9))
def test_whole_quotas_are_exact_in_every_batch(shares, times, batch):
    size = sum(shares) * times
    found = Quotas(tuple(x / sum(shares) for x in shares)).streams(batch * size, (batch + 1) * size)
    assert np.bincount(found).tolist() == [s * times for s in shares]


def test_many_small_streams_take_turns():
    # If all began at once, the first 500 rows would all be of the large one.
    quotas = Quotas((0.5, *[0.5 / 999] * 999))
    for start in (0, 10**6):
        large = quotas.streams(start, start + 5000).reshape(-1, 100) == 0
        assert np.abs(large.sum(axis=1) - 50).max() <= 1
    some = Quotas((0.91, *[0.01] * 9))
    small = (some.streams(0, 6400).reshape(-1, 64) > 0).sum(axis=1)
    assert set(small.tolist()) == {5, 6, 7}


LABELS = ["ttbb", "ttH", "W"]
SIZES = {"ttbb": 900, "ttH": 70, "W": 30}


@pytest.fixture
def ds(tmp_path):
    process = np.repeat(LABELS, list(SIZES.values()))  # sorted, as files are
    fields = [
        mm.Field.category("process", ["W", "ttH", "none", "ttbb"]),
        mm.Field.dense("i", "i8"),
        mm.Field.dense("year", "i4"),
        mm.Field.dense("flag", "?"),
        mm.Field.ragged("pt", "f4"),
    ]
    n = len(process)
    with mm.create(tmp_path / "s.mm", fields=fields) as w:
        w.extend(
            {
                "process": process.tolist(),
                "i": list(range(n)),
                "year": [2016 + i % 3 for i in range(n)],
                "flag": [i % 10 == 0 for i in range(n)],
                "pt": [[float(i)] * (i % 4) for i in range(n)],
            }
        )
    return mm.open(tmp_path / "s.mm")


def per_batch(loader, name="process"):
    return [np.bincount(b[name], minlength=4) for b in loader]


@pytest.mark.parametrize("shuffle", [True, "exact", False])
def test_classes_have_the_same_share_of_every_batch(ds, shuffle):
    loader = ds.batches(60, balance="process", shuffle=shuffle, last="drop")
    for _ in range(3):
        found = per_batch(loader)
        assert len(found) == 16
        assert all(f.tolist() == [20, 20, 0, 20] for f in found)  # class variance 0


def test_shares(ds):
    for balance in ({"ttH": 1, "ttbb": 3}, {"process": {"ttH": 0.25, "ttbb": 0.75}}):
        loader = ds.batches(40, balance=balance)
        found = per_batch(loader)
        assert len(loader) == len(found) == -(-970 // 40)
        assert all(f.tolist() == [0, 10, 0, 30] for f in found[:-1])
        assert found[-1].sum() == 970 % 40
    uneven = np.cumsum(per_batch(ds.batches(7, balance={"ttH": 1, "ttbb": 1, "W": 1})), axis=0)
    rows = np.minimum(np.arange(1, len(uneven) + 1) * 7, 1000)
    assert np.abs(uneven[:, [0, 1, 3]] - rows[:, None] / 3).max() < 1


@pytest.mark.parametrize("field", ["year", "flag", "process"])
def test_rows_of_a_class_are_used_equally_often(ds, field):
    loader = ds.batches(50, balance=field, seed=1)
    rows = np.empty(0, np.int64)
    value = ds[field].compute()
    for _ in range(3):
        rows = np.concatenate([rows, *(b.rows for b in loader)])
        used = np.bincount(rows, minlength=len(ds))
        for label in np.unique(value):
            own = used[value == label]
            assert own.max() - own.min() <= 1
    shares = [(value[rows] == label).mean() for label in np.unique(value)]
    np.testing.assert_allclose(shares, 1 / len(shares), atol=2e-3)


def test_orders_of_classes_are_independent_and_change(ds):
    loader = ds.batches(60, balance="process")
    epochs = [np.concatenate([b.rows for b in loader]) for _ in range(2)]
    label = ds["process"].compute()
    for name in LABELS:
        a, b = (rows[label[rows] == name][:30] for rows in epochs)
        assert a.tolist() != b.tolist()
        assert np.abs(np.corrcoef(a, np.arange(len(a)))[0, 1]) < 0.75
    same = ds.batches(60, balance="process", seed=0)
    other = ds.batches(60, balance="process", seed=1)
    assert same[3].rows.tolist() == epochs[0][180:240].tolist()
    assert other[3].rows.tolist() != epochs[0][180:240].tolist()


def test_balanced_batches_resume_and_do_not_depend_on_the_world(ds):
    sel = ds[ds.cut("i % 5 != 0")]
    options = {"balance": {"ttH": 2, "W": 1, "ttbb": 2}, "seed": 3}
    loader = sel.batches(48, **options)
    whole = [b.rows for b in loader]
    ranks = [sel.batches(48, rank=r, world_size=5, last="keep", **options) for r in range(5)]
    for i, parts in enumerate(zip(*ranks, strict=True)):
        assert np.concatenate([p.rows for p in parts]).tolist() == whole[i].tolist()
    loader.set_epoch(0)
    resumed = pickle.loads(pickle.dumps(sel.batches(10, **options)))
    saved = json.dumps(loader.state_dict(loader[4]))
    assert len(saved) < 1000
    resumed.load_state_dict(json.loads(saved))
    assert np.concatenate([b.rows for b in resumed]).tolist() == np.concatenate(whole[5:]).tolist()
    with pytest.raises(mm.StateError, match="order"):
        sel.batches(48, balance={"ttH": 2, "W": 1, "ttbb": 3}, seed=3).load_state_dict(json.loads(saved))


def test_weights_within_classes(ds):
    loader = ds.assign(w="where(i % 2 == 0, 0, 1)").batches(40, fields=["i"], balance="process", weights="w")
    rows = np.concatenate([b["i"] for b in loader])
    assert (rows % 2 == 1).all()
    assert np.abs(np.array([(ds["process"].compute()[rows] == x).sum() for x in LABELS]) - 1000 / 3).max() < 1


def test_a_computed_class(ds):
    loader = ds.assign(half="i % 2").batches(10, fields=["i"], balance={"half": {0: 4, 1: 1}})
    assert all((b["i"] % 2).sum() == 2 for b in loader)


def test_wrong_balances_are_refused(ds, tmp_path):
    for balance, words in [
        ("pt", "category, or by booleans or integers"),
        ({"ttH": 1, "tth": 1}, "no category of these rows has the labels"),
        ({"process": {"tth": 1}}, "no row has process 'tth'; did you mean 'ttH'"),
        ({"none": 1}, "no row has process 'none'"),
        ({"ttH": 0}, "share of 'ttH' is 0"),
        ({"ttH": float("nan")}, "above 0"),
        ({}, "balance is a field"),
        (["process"], "balance is a field"),
    ]:
        with pytest.raises(mm.OptionError, match=words):
            ds.batches(10, balance=balance)
    with pytest.raises(mm.FieldNotFoundError, match="proces"):
        ds.batches(10, balance="proces")
    with mm.create(tmp_path / "o.mm", fields=[mm.Field.category("c", ["x", "y"], optional=(0,))]) as w:
        w.extend({"c": ["x", None, "y", "y"]})
    missing = mm.open(tmp_path / "o.mm")
    with pytest.raises(mm.OptionError, match="missing in 1 of these rows"):
        missing.batches(2, balance="c")
    assert [sorted(b["c"].tolist()) for b in missing.batches(2, balance={"x": 1, "y": 1})] == [[0, 1], [0]]


# Mixtures -----------------------------------------------------------------------------------------------------------


def store(path, name, n, first=0):
    rng = np.random.default_rng(n)
    return mm.from_arrays(
        {
            "i": np.arange(first, first + n),
            "x": rng.random((n, 2)).astype("f4"),
            "name": [f"{name}{k}" for k in range(n)],
            "pt": [[float(first + k + j) for j in range(k % 4)] for k in range(n)],
            "deep": [[[float(k)] * j for j in range(k % 3)] for k in range(n)],
        },
        path,
    )


@pytest.fixture
def stores(tmp_path):
    return {"a": store(tmp_path / "a.mm", "a", 50), "b": store(tmp_path / "b.mm", "b", 17, 1000)}


def rows_in_turn(loaders, shares, n, epoch=0, each=(0, 0)):
    """(source, row) of the first n rows of an epoch, by hand: every loader goes round its own epochs."""
    streams = []
    for loader, done in zip(loaders, each, strict=True):

        def numbers(loader=loader):
            for e in itertools.count():
                loader.set_epoch(e)
                for i in range(len(loader)):
                    yield from loader[i].rows.tolist()

        streams.append(itertools.islice(numbers(), epoch * done, None))
    return [(s, next(streams[s])) for s in turns(shares, n)]


@pytest.mark.parametrize("stop", ["first", "all", "cycle"])
@pytest.mark.parametrize("shares", [[1, 1], [3, 1], [1, 5]])
def test_mixtures_take_rows_in_turn(stores, stop, shares):
    fresh = [ds.batches(5, seed=2) for ds in stores.values()]
    mixed = mm.mix(dict(zip("ab", fresh, strict=True)), dict(zip("ab", shares, strict=True)), batch_size=8, stop=stop)
    expected = rows_in_turn([ds.batches(5, seed=2) for ds in stores.values()], shares, 400)
    upto = [sum(1 for s, _ in expected[:p] if s == 0) for p in range(401)]
    if stop == "first":  # one row more would be of a loader that begins anew
        n = max(p for p in range(401) if upto[p] <= 50 and p - upto[p] <= 17)
    elif stop == "all":
        n = min(p for p in range(401) if upto[p] >= 50 and p - upto[p] >= 17)
    else:
        n = 160
    batches = list(mixed) if stop != "cycle" else list(itertools.islice(mixed, 20))
    found = [(int(s), int(r)) for b in batches for s, r in zip(b.source, b.rows, strict=True)]
    assert found == expected[:n]
    if stop != "cycle":
        assert len(mixed) == len(batches) == -(-n // 8)
        assert mixed.epoch == 1
        each = (upto[n], n - upto[n])
        again = rows_in_turn([ds.batches(5, seed=2) for ds in stores.values()], shares, n, 1, each)
        second = [(int(s), int(r)) for b in mixed for s, r in zip(b.source, b.rows, strict=True)]
        assert second == again
    else:
        with pytest.raises(mm.OptionError, match="no end"):
            len(mixed)
        assert mixed[19].rows.tolist() == batches[19].rows.tolist()
        assert mixed.epoch == 0


def test_entries_are_those_of_their_rows(stores):
    collate = {"deep": mm.packed()}
    loaders = {k: ds.batches(9, collate=collate) for k, ds in stores.items()}
    mixed = mm.mix(loaders, {"a": 2, "b": 1}, stop="all")
    assert mixed.names == ("a", "b")
    for batch in mixed:
        assert len(batch.rows) == len(batch["name"]) == len(batch["pt"].offsets) - 1
        for k, (s, row) in enumerate(zip(batch.source.tolist(), batch.rows.tolist(), strict=True)):
            first = 1000 if s else 0
            assert batch["i"][k] == first + row
            assert batch["name"][k] == f"{'ab'[s]}{row}"
            np.testing.assert_array_equal(batch["x"][k], stores["ab"[s]]["x"][row].compute())
            pt, deep = batch["pt"], batch["deep"]
            assert pt.values[pt.offsets[k] : pt.offsets[k + 1]].tolist() == [first + row + j for j in range(row % 4)]
            lists = range(deep.offsets[k], deep.offsets[k + 1])
            inner = deep.values
            got = [inner.values[inner.offsets[j] : inner.offsets[j + 1]].tolist() for j in lists]
            assert got == [[float(row)] * j for j in range(row % 3)]
    padded = {k: ds.batches(9, fields=["pt"], collate={"pt": mm.pad(3)}) for k, ds in stores.items()}
    batch = mm.mix(padded, {"a": 2, "b": 1})[0]
    assert batch["pt"].shape == batch["pt_mask"].shape == (9, 3)
    assert batch["pt_mask"].sum(axis=1).tolist() == (batch.rows % 4).tolist()


def test_what_is_missing_in_one_store_alone(stores, tmp_path):
    with mm.create(tmp_path / "o.mm", fields=[mm.Field.dense("i", "i8", optional=(0,))]) as w:
        w.extend({"i": [None, 7, None, 9]})
    loaders = {"a": stores["a"].batches(4, fields=["i"]), "o": mm.open(tmp_path / "o.mm").batches(4)}
    mixed = mm.mix(loaders, {"a": 1, "o": 1}, stop="all")
    rare = mm.mix(loaders, {"a": 99, "o": 1}, stop="cycle")
    for batch in [*mixed, rare[0]]:
        assert batch["i_valid"].tolist() == [
            s == 0 or r % 2 == 1 for s, r in zip(batch.source.tolist(), batch.rows.tolist(), strict=True)
        ]


def test_mixtures_resume_and_do_not_depend_on_the_world(stores):
    def mixed(size=12, **options):
        loaders = {k: ds.batches(5, seed=1, **options) for k, ds in stores.items()}
        return mm.mix(loaders, {"a": 1, "b": 2}, batch_size=size, stop="all")

    whole = mixed()
    batches = list(whole)
    ranks = [mixed(rank=r, world_size=3, last="keep") for r in range(3)]
    for i, parts in enumerate(zip(*ranks, strict=True)):
        for what in ("rows", "source"):
            assert np.concatenate([getattr(p, what) for p in parts]).tolist() == getattr(batches[i], what).tolist()
        assert [name for p in parts for name in p["name"]] == batches[i]["name"]
    whole.set_epoch(0)
    for batch in whole:
        if batch.index == 3:
            break
    saved = json.dumps(whole.state_dict())
    assert len(saved) < 1000
    resumed = pickle.loads(pickle.dumps(mixed(7)))
    resumed.load_state_dict(json.loads(saved))
    expected = np.concatenate([b["i"] for b in batches[4:]])
    assert np.concatenate([b["i"] for b in resumed]).tolist() == expected.tolist()
    assert resumed.epoch == 1
    with pytest.raises(mm.StateError, match="order"):
        loaders = {k: ds.batches(5, seed=1) for k, ds in stores.items()}
        mm.mix(loaders, {"a": 1, "b": 1}, stop="all").load_state_dict(json.loads(saved))


def test_what_does_not_fit_together_is_refused(stores, tmp_path):
    a, b = stores["a"].batches(4), stores["b"].batches(4)
    for loaders, shares, options, words in [
        ({}, {}, {}, "by name"),
        ({"a": a, "b": 3}, {"a": 1, "b": 1}, {}, "'b' is int"),
        ({"a": a, "b": b}, {"a": 1}, {}, "same names"),
        ({"a": a, "b": b}, {"a": 1, "b": -1}, {}, "share of 'b'"),
        ({"a": a, "b": b}, {"a": 1, "b": 1}, {"stop": "never"}, "'first', 'all' or 'cycle'"),
        ({"a": a, "b": stores["b"].batches(8)}, {"a": 1, "b": 1}, {}, "say it"),
        ({"a": a, "b": stores["b"].batches(4, world_size=2, rank=1)}, {"a": 1, "b": 1}, {}, "same rank="),
        ({"a": stores["a"].batches(4, last="pad")}, {"a": 1}, {}, "no last='pad'"),
    ]:
        with pytest.raises(mm.OptionError, match=words):
            mm.mix(loaders, shares, **options)
    widest = {k: ds.batches(4, fields=["pt"], collate={"pt": mm.pad(n)}) for n, (k, ds) in enumerate(stores.items(), 3)}
    with pytest.raises(mm.OptionError, match=r"'pt' cannot be joined: float.* in 'a'.*mm.pad\(8\)"):
        mm.mix(widest, {"a": 1, "b": 1}, stop="all")[0]
    other = {"a": stores["a"].batches(4, fields=["i"]), "b": stores["b"].batches(4, fields=["x"])}
    with pytest.raises(mm.OptionError, match=r"'b' have the entries \['x'\], those of 'a' \['i'\].*same fields="):
        mm.mix(other, {"a": 1, "b": 1})
    made = {k: ds.batches(4, fields=["i"], transform=lambda b, k=k: {k: b["i"]}) for k, ds in stores.items()}
    with pytest.raises(mm.OptionError, match="same fields="):
        mm.mix(made, {"a": 1, "b": 1})[0]
    empty = {"a": a, "b": stores["b"][:0].batches(4)}
    with pytest.raises(mm.OptionError, match="'b' has no rows"):
        len(mm.mix(empty, {"a": 1, "b": 1}))
    labels = {}
    for k, names in {"a": ["x", "y"], "b": ["y", "x"]}.items():
        with mm.create(tmp_path / f"c{k}.mm", fields=[mm.Field.category("c", names)]) as w:
            w.extend({"c": ["x", "y"]})
        labels[k] = mm.open(tmp_path / f"c{k}.mm").batches(2)
    with pytest.raises(mm.OptionError, match="codes of 'c' mean other labels"):
        mm.mix(labels, {"a": 1, "b": 1})


def test_a_row_that_comes_again_gets_other_random_numbers(ds, stores):
    def smear(batch):
        batch["u"] = batch.row_rng("smear").random()
        return batch

    balanced = {"balance": "process"}
    weighted = {"weights": "where(i < 30, 20, 1)"}
    for options in (balanced, weighted):
        seen = {}
        loader = ds.batches(50, fields=["i"], transform=smear, seed=1, **options)
        for batch in loader:
            for row, u in zip(batch.rows.tolist(), batch["u"].tolist(), strict=True):
                seen.setdefault(row, []).append(u)
        assert max(map(len, seen.values())) > 5
        assert all(len(set(us)) == len(us) for us in seen.values())
        # Which ones does not depend on batches and ranks.
        whole = np.concatenate([loader[i]["u"] for i in range(4)])
        other = ds.batches(40, fields=["i"], transform=smear, seed=1, **options)
        other.set_epoch(loader.epoch)
        assert np.concatenate([other[i]["u"] for i in range(5)]).tolist() == whole.tolist()
        ranks = [ds.batches(50, fields=["i"], transform=smear, seed=1, rank=r, world_size=2, **options) for r in (0, 1)]
        for rank in ranks:
            rank.set_epoch(loader.epoch)
        assert np.concatenate([rank[0]["u"] for rank in ranks]).tolist() == whole[:50].tolist()
    long = mm.from_arrays({"items": [list(range(10**4))] * 40, "w": [30.0, *[0.0] * 39]}, f"{ds.path}-long")
    windows = long.batches(40, fields=["items"], collate={"items": mm.window(1)}, weights="w")[0]
    assert set(windows.rows.tolist()) == {0}
    assert len(set(windows["items"][:, 0].tolist())) > 35

    def mixed(**options):
        return mm.mix({k: s.batches(5, transform=smear, **options) for k, s in stores.items()}, {"a": 1, "b": 9})

    ranks = [mixed(rank=r, world_size=3, last="keep")[1] for r in range(3)]
    for make in (lambda b: b["u"], lambda b: b.row_rng("more").random()):
        whole = make(mixed(last="keep")[1])
        assert len(set(whole.tolist())) == len(whole) == 5
        assert np.concatenate([make(b) for b in ranks]).tolist() == whole.tolist()
