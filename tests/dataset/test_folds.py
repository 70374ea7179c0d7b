"""Splits and folds of every kind: disjoint, exhaustive, of the sizes promised, and the same wherever asked for."""

from __future__ import annotations

import json
import pickle
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mmdask as mm
from mmdask.kernels import permute
from mmdask.kernels.hashing import hash_key
from mmdask.rows.draws import dealing
from mmdask.rows.draws.dealing import quotas
from mmdask.rows.draws.splits import Hashed, Modulo, equal_folds, hash_rows, modulo_folds
from mmdask.sources.given.coerce import to_field_data

N = 3000


def columns(n=N, first=0):
    rng = np.random.default_rng(first)
    return {
        "event": np.arange(first, first + n) * 3 + 1,
        "run": rng.integers(0, 7, n).astype("i4"),
        "row": np.arange(first, first + n),
        "process": np.array(["ttbb", "ttH", "W"])[rng.choice(3, n, p=[0.7, 0.25, 0.05])],
        "year": rng.choice([2016, 2018], n),
    }


@pytest.fixture
def ds(tmp_path):
    fields = {"process": mm.Field.category("process", ["ttH", "ttbb", "W"])}
    data = columns()
    with mm.create(tmp_path / "s.mm", fields=[fields.get(k) or to_field_data(k, v)[0] for k, v in data.items()]) as w:
        w.extend({k: v[:1300].tolist() for k, v in data.items()})
        w.extend({k: v[1300:].tolist() for k, v in data.items()})
    return mm.open(tmp_path / "s.mm", chunks=512)


def rows_of(part):
    return part["row"].compute().tolist()


HOWS = [
    {},
    {"by": "event", "seed": 3},
    {"by": ["run", "event"]},
    {"by": "process"},
    {"by": "event", "how": "mod"},
    {"how": "mod"},
    {"how": "permutation", "seed": 5},
    {"how": "permutation", "stratify": "process"},
    {"how": "permutation", "stratify": "year", "seed": 1},
]


@pytest.mark.filterwarnings("ignore::mmdask.UnevenFoldsWarning")
@pytest.mark.parametrize("options", HOWS, ids=str)
def test_splits_and_folds_are_disjoint_and_exhaustive(ds, options):
    sel = ds[ds.cut("row % 5 != 2")][10:-7]
    wanted = rows_of(sel)
    parts = sel.split({"train": 0.6, "val": 0.3, "test": 0.1}, **options)
    assert sorted(r for part in parts.values() for r in rows_of(part)) == wanted
    folds = sel.kfold(4, **options)
    assert len(folds) == 4
    assert sorted(r for _, test in folds for r in rows_of(test)) == wanted
    number = folds.of(sel).compute()
    assert number.dtype == np.int64
    assert folds.of(sel).chunks == (sel.chunks,)
    for i, (train, test) in enumerate(folds):
        assert sorted(rows_of(train) + rows_of(test)) == wanted
        np.testing.assert_array_equal(np.array(wanted)[number == i], rows_of(test))
    again = pickle.loads(pickle.dumps(folds.train(1)))
    assert rows_of(again) == rows_of(folds.train(1))
    assert rows_of(folds[-1][1]) == rows_of(folds.test(3))
    named = sel.assign(fold=folds.of(sel))
    np.testing.assert_array_equal(named["fold"].compute(), number)
    empty = ds[ds.cut("row < 0")]
    assert [len(a) + len(b) for a, b in empty.kfold(3, **options)] == [0, 0, 0]
    assert empty.kfold(3, **options).of(empty).compute().tolist() == []


@pytest.mark.parametrize("options", HOWS[:6], ids=str)
@pytest.mark.filterwarnings("ignore::mmdask.UnevenFoldsWarning")
def test_splits_by_keys_commute_with_cuts_and_survive_appending(ds, options):
    cut = ds.cut("year == 2016")
    for a, b in zip(ds[cut].kfold(3, **options), ds.kfold(3, **options), strict=True):
        assert [rows_of(x) for x in a] == [rows_of(x[cut]) for x in b]
    before = {name: rows_of(part) for name, part in ds.split({"a": 0.7, "b": 0.3}, **options).items()}
    lazy = ds.split({"a": 0.7, "b": 0.3}, **options)
    with mm.append(ds.path) as w:
        w.extend({k: v.tolist() for k, v in columns(500, N).items()})
    for name, part in lazy.items():
        assert rows_of(part) == before[name]
        now = rows_of(part.refresh())
        assert now[: len(before[name])] == before[name]
        assert len(now) > len(before[name]) or options.get("by") == "process"


def test_several_keys_are_one(ds):
    split = ds.split({"a": 0.5, "b": 0.5}, by=["run", "year"], seed=2)
    pairs = [set(zip(p["run"].compute().tolist(), p["year"].compute().tolist(), strict=True)) for p in split.values()]
    assert pairs[0]
    assert pairs[1]
    assert not pairs[0] & pairs[1]
    # The key is the pair: neither field alone decides.
    assert {r for r, _ in pairs[0]} & {r for r, _ in pairs[1]}
    turned = ds.split({"a": 0.5, "b": 0.5}, by=["year", "run"], seed=2)
    assert rows_of(turned["a"]) != rows_of(split["a"])
    one = ds.split({"a": 0.5, "b": 0.5}, by=["event"], seed=2)
    assert rows_of(one["a"]) == rows_of(ds.split({"a": 0.5, "b": 0.5}, by="event", seed=2)["a"])


def test_folds_by_hash_are_those_of_the_published_hash(ds):
    # From the hash, which is frozen: fold = hash * k >> 32.
    field, data = to_field_data("event", ds["event"].compute())
    hashes = hash_rows(field, data, 7).astype(object)
    expected = [(h * 5) >> 32 for h in hashes]
    assert ds.kfold(5, by="event", seed=7).of(ds).compute().tolist() == expected
    pair = mm.from_arrays({"a": [1, 2, 3, -4], "b": [5, 6, 7, 8]}, ds.path + "-pair")
    assert pair.kfold(1000, by=["a", "b"], seed=7).of(pair).compute().tolist() == FROZEN_PAIR


@pytest.mark.parametrize("k", [2, 3, 5, 7, 10, 999])
def test_every_hash_is_in_one_fold(k):
    found = equal_folds(k, Hashed((), 0))
    ends = np.array([f.high for f in found])
    hashes = np.concatenate([[0], ends - 1, ends[:-1]])
    expected = [(int(h) * k) >> 32 for h in hashes]
    assert sum(f.holds(hashes).astype(int) * i for i, f in enumerate(found)).tolist() == expected
    assert sum(f.holds(hashes).astype(int) for f in found).tolist() == [1] * len(hashes)
    assert ends[-1] == 1 << 32


def test_a_permutation_on_newer_rows_is_another_one(ds):
    part = ds.split({"a": 0.5, "b": 0.5}, how="permutation", stratify="process", seed=1)["a"]
    before = rows_of(part)
    with mm.append(ds.path) as w:
        w.extend({k: v.tolist() for k, v in columns(500, N).items()})
    after = part.refresh()
    assert rows_of(part) == before
    counts = np.unique(after.refresh()["process"].compute(), return_counts=True)[1]
    whole = np.unique(mm.open(ds.path)["process"].compute(), return_counts=True)[1]
    assert np.abs(counts - whole / 2).max() <= 0.5
    assert rows_of(after)[: len(before)] != before


FROZEN_PAIR = [89, 102, 685, 784]


def test_remainders(ds):
    event = np.array(ds["event"].compute())
    parts = ds.split({"train": 4, "val": 1, "test": 2}, by="event", how="mod")
    for name, rest in {"train": [0, 1, 2, 3], "val": [4], "test": [5, 6]}.items():
        assert rows_of(parts[name]) == np.flatnonzero(np.isin(event % 7, rest)).tolist()
    by_fraction = ds.split({"train": 0.8, "val": 0.1, "test": 0.1}, by="event", how="mod")
    assert rows_of(by_fraction["val"]) == np.flatnonzero(event % 10 == 8).tolist()
    assert [len(p) for p in ds.split({"a": 1 / 3, "b": 2 / 3}, how="mod").values()] == [1000, 2000]


def test_remainders_of_negative_and_large_numbers():
    for values in (np.array([-7, -1, 0, 5], "i8"), np.array([2**63, 2**64 - 1], "u8"), np.array([-128], "i1")):
        field, data = to_field_data("k", values)
        found = Modulo(("k",), 5).numbers([(field, data)])
        assert found.tolist() == [int(v) % 5 for v in values.tolist()]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_fractions_of_a_common_denominator_are_remainders(parts):
    total = sum(parts)
    found = modulo_folds({str(i): p / total for i, p in enumerate(parts)}, None)
    modulus = found["0"].numbering.size
    assert total % modulus == 0
    exact = [Fraction(f.high - f.low, modulus) for f in found.values()]
    assert exact == [Fraction(p, total) for p in parts]


def test_uneven_remainders_warn_once_rows_are_found(tmp_path):
    even = mm.from_arrays({"event": np.arange(0, 2000, 2), "i": np.arange(1000)}, tmp_path / "even.mm")
    parts = even.split({"a": 1, "b": 1}, by="event", how="mod")  # lazy: nothing is known yet
    with pytest.warns(mm.UnevenFoldsWarning, match=r"1,000 of 1,000 .* of 0.5 of event % 2.*how='hash'"):
        assert len(parts["a"]) == 1000
    with pytest.warns(mm.UnevenFoldsWarning, match="0 of 1,000"):
        assert len(parts["b"]) == 0
    # Within five sigma nothing is said, nor of hashes.
    assert len(even.split({"a": 1, "b": 1}, by="i", how="mod")["a"]) == 500
    assert 400 < len(even.split({"a": 0.5, "b": 0.5}, by="event")["a"]) < 600
    assert len(even[:4].split({"a": 1, "b": 1}, by="event", how="mod")["a"]) == 4


@given(st.integers(0, 10**6), st.lists(st.floats(0.01, 1), min_size=1, max_size=8))
def test_quotas_are_the_largest_remainders(n, shares):
    found = quotas(n, shares)
    total = sum(map(Fraction, shares))
    exact = [n * Fraction(s) / total for s in shares]
    assert sum(found) == n
    assert all(abs(a - b) < 1 for a, b in zip(found, exact, strict=True))
    up = [float(e - int(e)) for e, f in zip(exact, found, strict=True) if f > int(e)]
    down = [float(e - int(e)) for e, f in zip(exact, found, strict=True) if f == int(e)]
    assert not up or not down or min(up) >= max(down) - 1e-6


def test_permutations_have_exact_sizes_also_of_classes(ds):
    sizes = {"train": 0.8, "val": 0.1, "test": 0.1}
    parts = ds.split(sizes, how="permutation", seed=3)
    assert [len(p) for p in parts.values()] == [2400, 300, 300]
    sel = ds[ds.cut("year == 2018")]
    strata = sel.split(sizes, how="permutation", stratify="process", seed=3)
    labels, n_of = np.unique(sel["process"].compute(), return_counts=True)
    found = {
        name: dict(zip(*np.unique(p["process"].compute(), return_counts=True), strict=True))
        for name, p in strata.items()
    }
    for label, n in zip(labels, n_of, strict=True):
        assert [found[name][label] for name in sizes] == quotas(int(n), list(sizes.values()))
    # Those of a class depend on that class alone.
    only = sel[sel.cut("process == 'ttH'")].split(sizes, how="permutation", stratify="process", seed=3)
    expected = [
        r for r, p in zip(rows_of(strata["test"]), strata["test"]["process"].compute(), strict=True) if p == "ttH"
    ]
    assert rows_of(only["test"]) == expected
    other = ds.split(sizes, how="permutation", seed=4)
    both = len(set(rows_of(other["train"])) & set(rows_of(parts["train"])))
    assert abs(both - 0.64 * N) < 5 * np.sqrt(N * 0.64 * 0.36)


def test_a_permutation_is_that_of_the_kernel(ds, monkeypatch):
    monkeypatch.setattr(dealing, "_PIECE", 64)  # ranks go on from piece to piece and from part to part
    sel = ds[ds.cut("row % 3 == 0")]
    n = len(sel)
    key = np.full(n, hash_key("mmdask.deal", 1, 9, "missing"), "u8")
    places = permute.forward(np.arange(n), np.full(n, n), key)
    folds = sel.kfold(3, how="permutation", seed=9)
    expected = np.searchsorted(np.cumsum(quotas(n, [1, 1, 1])), places, side="right")
    np.testing.assert_array_equal(folds.of(sel).compute(), expected)
    assert [len(test) for _, test in folds] == quotas(n, [1, 1, 1])
    some = sel[ds.cut("year == 2016")]
    np.testing.assert_array_equal(folds.of(some).compute(), expected[sel["year"].compute() == 2016])
    with pytest.raises(mm.OptionError, match="none of those that the folds were made of"):
        folds.of(ds).compute()


def test_missing_labels_are_a_class_and_missing_keys_an_error(tmp_path):
    fields = [mm.Field.dense("n", "i4", optional=(0,)), mm.Field.category("c", ["x", "y"], optional=(0,))]
    with mm.create(tmp_path / "o.mm", fields=fields) as w:
        w.extend({"n": [1, None, 3, None] * 5, "c": ["x", None, "y", None] * 5})
    ds = mm.open(tmp_path / "o.mm")
    for name in ("n", "c"):
        parts = ds.split({"a": 0.5, "b": 0.5}, how="permutation", stratify=name)
        assert sum(p[name].compute().mask.sum() for p in parts.values()) == 10
        assert [int(p[name].compute().mask.sum()) for p in parts.values()] == [5, 5]
        with pytest.raises(mm.OptionError, match="is missing in some of these rows"):
            len(ds.kfold(2, by=name).test(0))
        with pytest.raises(mm.OptionError, match="is missing in some of these rows"):
            ds.kfold(2, by=name).of(ds).compute()
    there = ds[ds.cut("not ismissing(n)")]
    assert sum(len(test) for _, test in there.kfold(2, by="n", how="mod")) == 10


@pytest.mark.filterwarnings("ignore::mmdask.UnevenFoldsWarning")
def test_computed_keys(ds):
    with_key = ds.assign(key="event // 3", bin="row % 4", half="event / 2")
    a = with_key.kfold(3, by="key", how="mod")
    np.testing.assert_array_equal(a.of(with_key).compute(), ds["event"].compute() // 3 % 3)
    assert [len(t) for _, t in a] == [1000, 1000, 1000]
    strata = with_key.split({"a": 0.5, "b": 0.5}, how="permutation", stratify="bin")
    assert np.bincount(strata["a"]["bin"].compute().astype(int)).tolist() == [375] * 4
    pair = with_key.kfold(3, by=["run", "half"])
    assert pair.of(with_key).compute().tolist() == pickle.loads(pickle.dumps(pair.of(with_key))).compute().tolist()
    assert len(with_key.refresh().kfold(3, by="key", how="mod").test(0)) == 1000


def test_folds_of_another_store(ds, tmp_path):
    # Other widths, order, chunks and text for labels; the fold of a key is the same.
    folds = ds.kfold(5, by=["run", "event"], seed=2)
    wanted = dict(zip(ds["event"].compute().tolist(), folds.of(ds).compute().tolist(), strict=True))
    turned = {k: v[::-1] for k, v in columns().items()}
    other = mm.from_arrays(
        {"event": turned["event"].astype("u4"), "run": turned["run"].astype("i8")}, tmp_path / "o.mm"
    )
    found = mm.Folds.from_dict(json.loads(json.dumps(folds.to_dict()))).of(other).compute()
    assert found.tolist() == [wanted[e] for e in turned["event"].tolist()]
    by_label = ds.kfold(5, by="process").of(ds).compute()
    text = mm.from_arrays({"process": ds["process"].compute().tolist()}, tmp_path / "t.mm")
    assert ds.kfold(5, by="process").of(text).compute().tolist() == by_label.tolist()
    with pytest.raises(mm.FieldNotFoundError, match="process"):
        ds.kfold(5, by="process").of(other)
    with pytest.raises(mm.OptionError, match="by row number, which means nothing in another store"):
        ds.kfold(5).of(other)
    with pytest.raises(mm.OptionError, match="one integer per row"):
        ds.kfold(5, by="process", how="mod")


@pytest.mark.filterwarnings("ignore::mmdask.UnevenFoldsWarning")
@pytest.mark.parametrize("options", HOWS, ids=str)
def test_folds_are_saved_as_json(ds, options):
    sel = ds[ds.cut("row < 2000")]
    folds = sel.kfold(4, **options)
    saved = json.loads(json.dumps(folds.to_dict()))
    again = mm.Folds.from_dict(saved, sel)
    assert again.to_dict() == folds.to_dict()
    assert repr(again) == repr(folds)
    assert [list(map(rows_of, pair)) for pair in again] == [list(map(rows_of, pair)) for pair in folds]
    without = mm.Folds.from_dict(saved)
    with pytest.raises(mm.OptionError, match="have no dataset"):
        without.train(0)
    if options.get("how") == "permutation":
        with pytest.raises(mm.OptionError, match="made of another rows|other rows"):
            mm.Folds.from_dict(saved, ds)
        with pytest.raises(mm.OptionError, match="have no dataset"):
            without.of(sel)
    else:
        np.testing.assert_array_equal(without.of(sel).compute(), folds.of(sel).compute())


def test_wrong_options_are_refused(ds):
    half = {"a": 0.5, "b": 0.5}
    for options, words in [
        ({"how": "random"}, "'hash', 'mod' or 'permutation'"),
        ({"how": "permutation", "by": "event"}, "leave by= out"),
        ({"how": "mod", "by": "event", "seed": 1}, "no randomness"),
        ({"how": "mod", "by": ["run", "event"]}, "one integer"),
        ({"by": []}, "name of a field"),
        ({"by": ["run", "run"]}, "twice"),
        ({"by": 3}, "name of a field"),
        ({"seed": -1}, "seed is an integer"),
        ({"stratify": "process"}, "is for how='permutation', and how is 'hash'"),
        ({"stratify": "process", "how": "mod", "by": "event"}, "is for how='permutation', and how is 'mod'"),
        ({"stratify": "half", "how": "permutation"}, "category, or a field of booleans or integers"),
    ]:
        with pytest.raises(mm.OptionError, match=words):
            ds.assign(half="event / 2").split(half, **options)
        with pytest.raises(mm.OptionError, match=words):
            ds.assign(half="event / 2").kfold(3, **options)
    with pytest.raises(mm.OptionError, match="common denominator"):
        ds.split({"a": 0.12345, "b": 0.87655}, how="mod")
    with pytest.raises(mm.OptionError, match="common denominator"):
        ds.split({"a": 999, "b": 2}, how="mod")
    with pytest.raises(mm.OptionError, match="more than 1,000 values"):
        len(ds.split(half, how="permutation", stratify="event")["a"])
    for k in (1, 1001, 2.5, True):
        with pytest.raises(mm.OptionError, match="number of folds"):
            ds.kfold(k)
    with pytest.raises(mm.RowNotFoundError, match="no fold 3"):
        ds.kfold(3).train(3)
    with pytest.raises(mm.OptionError, match="not what Folds.to_dict"):
        mm.Folds.from_dict({"k": 3})
    dask_field = ds.assign(z=ds["event"] + 1)
    with pytest.raises(mm.OptionError, match="dask array"):
        dask_field.kfold(3, by="z")


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 3000), st.integers(2, 7), st.integers(0, 99), st.integers(0, 2**32))
def test_folds_of_a_permutation_differ_by_one_row(n, k, at, seed):
    deal = dealing.Deal((1.0,) * k, seed)
    found = deal.folds(n, np.arange(n), "missing")
    counts = np.bincount(found, minlength=k)
    assert counts.tolist() == quotas(n, [1] * k)
    assert counts.max() - counts.min() <= 1
    at = at % n
    assert deal.folds(n, np.array([at]), "missing")[0] == found[at]


def test_splits_print_as_a_table(ds):
    parts = ds.split({"train": 0.75, "test": 0.25}, by=["run", "event"], seed=3)
    count = r"rows not yet counted, of [\d,]+"
    said = rf"mm\.Splits: how='hash' by run and event, seed 3\nsplit  rows\n-----  -+\ntrain  {count}\ntest   {count}"
    assert re.fullmatch(said, repr(parts))
    n = len(parts["train"])
    assert f"train  {n:,} of {len(ds):,} rows" in repr(parts)
    assert "<script" not in ds.split({"<script": 1.0})._repr_html_()
    assert "how=&#x27;hash&#x27; by run and event, seed 3" in parts._repr_html_()
    assert len(repr(parts).splitlines()) == 5
    assert isinstance(parts, dict)
    assert list(parts) == ["train", "test"]
    again = pickle.loads(pickle.dumps(parts))
    assert len(again["train"]) == n
    assert repr(again).splitlines()[0] == repr(parts).splitlines()[0]
    for options, how in (
        ({"how": "permutation", "stratify": "process", "seed": 1}, "how='permutation' in each process, seed 1"),
        ({"how": "mod", "by": "event"}, "how='mod' by event"),
        ({}, "how='hash' by row number, seed 0"),
    ):
        assert repr(ds.split({"a": 0.5, "b": 0.5}, **options)).startswith(f"mm.Splits: {how}\n")
