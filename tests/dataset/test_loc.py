"""Rows by key: what is found, what is not, and how little is read for it."""

from __future__ import annotations

import datetime
import os
import pickle

import awkward as ak
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from kinds import LABELS
from stored import write_parts

import mmdask as mm
from mmdask.rows import lookup
from mmdask.rows.lookup import LOADED
from mmdask.testing import count_reads

FIELDS = [
    mm.Field.dense("i", "i4"),
    mm.Field.dense("u", "u8"),
    mm.Field.dense("run", "u2"),
    mm.Field.dense("ok", "?"),
    mm.Field.dense("when", "M8[s]", optional=(0,)),
    mm.Field.dense("took", "m8[ms]"),
    mm.Field.category("process", LABELS, optional=(0,)),
    mm.Field.string("name", optional=(0,), attrs={"key": True}),
    mm.Field.ragged("pt", "f4"),
]
TIME = np.datetime64("2024-01-01T00:00:00")


def time(i):
    return TIME + np.timedelta64(i, "s")


def rows(first, n):
    r = range(first, first + n)
    return {
        "i": [i - 50 for i in r],
        "u": [2**63 + i for i in r],
        "run": [i % 3 for i in r],
        "ok": [i == 7 for i in r],
        "when": [None if i % 10 == 9 else time(i) for i in r],
        "took": [np.timedelta64(i * 5, "ms") for i in r],
        "process": [None if i % 4 == 3 else LABELS[0] if i == 8 else LABELS[1] for i in r],
        "name": [None if i % 10 == 3 else f"é{i}.png" for i in r],
        "pt": [[float(i)] * (i % 3) for i in r],
    }


@pytest.fixture
def path(tmp_path):
    return write_parts(tmp_path / "a.mm", FIELDS, [rows(0, 40), rows(40, 1), rows(41, 59)])


def files(path):
    return sorted(f for _, _, names in os.walk(os.path.join(path, "cache", "keys")) for f in names)


KEYS = [
    ("i", lambda i: i - 50),
    ("u", lambda i: 2**63 + i),
    ("when", time),
    ("when", lambda i: str(time(i))),
    ("when", lambda i: time(i).astype("M8[ns]")),
    ("when", lambda i: time(i).item()),
    ("took", lambda i: np.timedelta64(i * 5, "ms")),
    ("took", lambda i: datetime.timedelta(milliseconds=i * 5)),
    ("name", lambda i: f"é{i}.png"),
]


@pytest.mark.parametrize(("field", "key"), KEYS)
def test_every_key_of_every_kind(path, field, key):
    ds = mm.open(path)
    there = [i for i in range(100) if not (field == "when" and i % 10 == 9) and not (field == "name" and i % 10 == 3)]
    for i in (0, 38, 40, 41, 98):
        if i in there:
            assert str(ds.loc[field, key(i)]) == str(ds[i])
    order = np.random.default_rng(0).permutation(there)
    found = ds.loc[field, [key(int(i)) for i in order]]
    for name, values in ds[order].items():
        assert str(ak.to_list(found[name])) == str(ak.to_list(values))
    with pytest.raises(mm.RowNotFoundError, match="no row has"):
        ds.loc[field, key(1000)]


def test_labels_booleans_and_several_fields(path):
    ds = mm.open(path)
    assert ds.loc["process", LABELS[0]]["i"] == 8 - 50
    assert ds.loc["ok", True]["i"] == 7 - 50
    assert ds.loc[("run", "i"), (2, -45)]["i"] == -45
    assert ds.loc[["run", "name"], [(0, "é0.png"), (1, "é40.png")]]["i"].tolist() == [-50, -10]
    with pytest.raises(mm.RowNotFoundError, match="no row has run = 1 and i = -45"):
        ds.loc[("run", "i"), (1, -45)]
    with pytest.raises(mm.OptionError, match=r"99 rows have ok = false.*ds.cut\('ok == false'\)"):
        ds.loc["ok", False]
    with pytest.raises(mm.OptionError, match=r"33 rows have run = 1.*ds\[ds.cut\('run == 1'\)\]"):
        ds.loc["run", 1]
    assert ds.loc["i", []]["i"].tolist() == []
    assert ds.loc["i", [5, 5]]["i"].tolist() == [5, 5]
    assert ds.loc["i", np.arange(3)]["i"].tolist() == [0, 1, 2]
    assert ds.loc["i", range(3)]["u"].tolist() == [2**63 + 50 + k for k in range(3)]


def test_a_field_that_is_the_key(path):
    ds = mm.open(path)
    assert ds.loc["é17.png"]["i"] == 17 - 50
    assert ds.loc[["é17.png", "é2.png"]]["i"].tolist() == [17 - 50, 2 - 50]
    assert "'name'" in repr(ds.loc)
    with pytest.raises(mm.RowNotFoundError, match=r"no row has name = 'e17.png'; did you mean 'é17.png'"):
        ds.loc["e17.png"]
    with pytest.raises(mm.RowNotFoundError, match=f"did you mean {LABELS[0]!r}"):
        ds.loc["process", "tth"]
    with pytest.raises(mm.OptionError, match="none is; name the field"):
        ds[["i"]].loc["é17.png"]
    with pytest.raises(mm.RowNotFoundError):
        ds.loc["name", "None"]


def test_of_selections_only_their_rows(path):
    ds = mm.open(path)
    some = {
        "slice": ds[10:60],
        "steps": ds[10:60:5],
        "cut": ds[ds.cut("i >= -40 & i < 10")],
        "sample": ds.sample(30, seed=1),
    }
    for name, sel in some.items():
        there = set(sel["i"].compute().tolist())
        for i in range(-50, 50, 3):
            if i in there:
                assert sel.loc["i", i]["i"] == i, name
            else:
                with pytest.raises(mm.RowNotFoundError, match=rf"row {i + 50} of the store has, and is not among"):
                    sel.loc["i", i]
    # What two rows of the store have may be the key of a selection.
    assert ds[list(ds.fields)][:2].loc["run", 1]["i"] == -49


def test_an_index_is_made_once(path):
    ds = mm.open(path)
    with count_reads() as reads:
        ds[["i"]].loc["i", 5]
    assert reads.rows["i"] == 100 + 2
    assert len(files(path)) == 3
    LOADED.clear()
    with count_reads() as reads:
        assert mm.open(path)[["i"]].loc["i", 6]["i"] == 6
    assert reads.rows["i"] == 2
    again = pickle.loads(pickle.dumps(ds))
    assert again.loc["i", 5]["i"] == 5
    with mm.append(path) as w:
        w.append({k: v[0] for k, v in rows(100, 1).items()})
    with count_reads() as reads:
        assert mm.open(path)[["i"]].loc["i", 50]["i"] == 50
    assert reads.rows["i"] == 1 + 2
    assert len(files(path)) == 4
    mm.vacuum(path, grace=0)
    assert len(files(path)) == 4
    mm.vacuum(path, cuts=True)
    assert files(path) == []


def test_many_lookups_open_no_file(path, monkeypatch):
    ds = mm.open(path)[["i", "pt"]]
    assert [ds.loc["i", k]["i"] for k in (-50, -10, 49)] == [-50, -10, 49]
    opened = []
    monkeypatch.setattr(os, "open", lambda *args, **kwargs: opened.append(args))
    monkeypatch.setattr(lookup, "_read", lambda *args: opened.append(args))
    for k in range(10_000):
        assert ds.loc["i", k % 100 - 50]["i"] == k % 100 - 50
    assert opened == []


def test_kept_indexes_that_are_damaged_are_made_anew(path):
    ds = mm.open(path)
    ds.loc["i", 5]
    for folder, _, names in os.walk(os.path.join(path, "cache", "keys")):
        for name in names:
            file = os.path.join(folder, name)
            with open(file, "r+b") as f:
                f.seek(-3, 2)
                f.write(b"\xff")
    LOADED.clear()
    for i in (-50, -10, 49):
        assert mm.open(path).loc["i", i]["i"] == i


def test_two_keys_of_one_hash(path, monkeypatch):
    monkeypatch.setattr(lookup, "hashes_of", lambda keys: np.zeros(len(keys[0]), np.uint64))
    monkeypatch.setattr("mmdask.dataset.shapes.loc.hashes_of", lambda keys: np.zeros(len(keys[0]), np.uint64))
    monkeypatch.setattr(lookup, "_VERSION", 99)
    ds = mm.open(path)
    assert ds.loc["i", [5, -7]]["i"].tolist() == [5, -7]
    assert ds.loc["name", "é8.png"]["i"] == -42
    with pytest.raises(mm.RowNotFoundError):
        ds.loc["i", 1000]


@settings(max_examples=20, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(
    keys=st.lists(st.integers(-5, 5), min_size=1, max_size=12),
    texts=st.sampled_from([["a", "b", ""], ["é", "a"]]),
    cut=st.integers(0, 12),
    data=st.data(),
)
def test_as_a_search_of_lists_does(tmp_path_factory, keys, texts, cut, data):
    names = [data.draw(st.sampled_from(texts)) for _ in keys]
    fields = [mm.Field.dense("k", "i1"), mm.Field.string("t")]
    cut = min(cut, len(keys))
    pieces = [p for p in (slice(0, cut), slice(cut, None)) if keys[p]]
    path = write_parts(tmp_path_factory.mktemp("l") / "a.mm", fields, [{"k": keys[p], "t": names[p]} for p in pieces])
    ds = mm.open(path)
    for key in [(k, t) for k in range(-5, 6, 2) for t in texts]:
        where = [i for i, pair in enumerate(zip(keys, names, strict=True)) if pair == key]
        if len(where) == 1:
            assert ds._rows.number(where[0]) == ds.loc._table(("k", "t")).find([key], single=False)[0]
        else:
            with pytest.raises(mm.RowNotFoundError if not where else mm.OptionError):
                ds.loc[("k", "t"), key]


def test_views(path):
    ds = mm.open(path)
    moved = ds.rename(i="run", run="i")
    assert ds.loc["i", 5]["i"] == 5
    assert moved.loc["run", 5]["run"] == 5
    n = len(files(path))
    assert moved.loc[("run", "i"), (5, 1)]["run"] == 5
    assert len(files(path)) == n + 3
    both = mm.concat({"a": ds[:50], "b": ds[50:]}, by="from")
    assert both.loc["i", 20]["from"] == "b"
    assert len(files(path)) == n + 3
    assert both.loc[("from", "i"), ("a", -50)]["i"] == -50
    with pytest.raises(mm.RowNotFoundError, match="not among"):
        both.loc[("from", "i"), ("a", 20)]
    items = ds.explode("pt", number="event")
    assert items.loc["i", 1 - 50]["event"] == 1
    with pytest.raises(mm.OptionError, match="2 rows have event = 2"):
        items.loc["event", 2]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (("pt", 1.0), "ragged float32"),
        (("i", 1.5), "a key is a whole number, got 1.5"),
        (("i", True), "a key is a whole number"),
        (("ok", 1), "true or false"),
        (("name", 3), "a key is text"),
        (("when", 3), "a key is a time"),
        (("when", "yesterday"), "is no time"),
        (("i", 1, 2), "got 3 of them"),
        ((3, 1), "fields are a name"),
        ((("i", "run"), 5), "tuple of 2 values"),
        (("double", 4), "computed when it is read"),
    ],
)
def test_mistakes(path, key, message):
    ds = mm.open(path).assign(double="i * 2")
    with pytest.raises(mm.OptionError, match=message):
        ds.loc[key]


def test_other_mistakes(path):
    ds = mm.open(path)
    with pytest.raises(mm.FieldNotFoundError, match="did you mean 'name'"):
        ds.loc["nme", "x"]
    with pytest.raises(mm.OptionError, match="dask array"):
        ds.assign(r=ds["i"] / 2).loc["i", 1]
    for value in (2**40, -(2**40)):
        with pytest.raises(mm.RowNotFoundError):
            ds.loc["i", value]
    with pytest.raises(mm.RowNotFoundError):
        ds.loc["when", TIME.astype("M8[ms]") + np.timedelta64(1, "ms")]
