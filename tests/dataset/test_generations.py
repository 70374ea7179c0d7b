"""A dataset and the generations of its store; auxiliary arrays; ways to read."""

from __future__ import annotations

import pickle
import shutil

import dask
import numpy as np
import pytest
from kinds import plain

import mmdask as mm
from mmdask.rows.rows import Rows
from mmdask.store.snapshot import Snapshot


@pytest.fixture
def path(tmp_path):
    mm.from_arrays({"x": np.arange(10), "jets": [[i] * (i % 3) for i in range(10)]}, tmp_path / "s.mm")
    return tmp_path / "s.mm"


def append(path, n=5, first=10):
    with mm.append(path) as w:
        w.extend({"x": np.arange(first, first + n), "jets": [[1]] * n})


# refresh ------------------------------------------------------------------------------------------------------------


def test_refresh_makes_the_same_selection_of_the_newest_rows(path):
    ds = mm.open(path, chunks=4)
    cut = ds.cut("x >= 4 and len(jets) > 0")
    views = {
        "all": ds,
        "slice": ds[2:6],
        "steps": ds[1::3],
        "cut": ds[cut],
        "both": ds[ds.cut("x > 3")][1:4],
        "negated": ds[~cut],
        "of a slice": ds[5:][cut],
        "split": ds.split({"a": 0.5, "b": 0.5}, by="x", seed=2)["a"],
    }
    before = {name: view["x"].compute().tolist() for name, view in views.items()}
    append(path)
    new = mm.open(path, chunks=4)
    expected = {
        "all": new,
        "slice": new[2:6],
        "steps": new[1:10:3],
        "cut": new[new.cut("x >= 4 and len(jets) > 0")],
        "both": new[new.cut("x > 3")][1:4],
        "negated": new[~new.cut("x >= 4 and len(jets) > 0")],
        "of a slice": new[5:10][new.cut("x >= 4 and len(jets) > 0")],
        "split": new.split({"a": 0.5, "b": 0.5}, by="x", seed=2)["a"],
    }
    for name, view in views.items():
        fresh = view.refresh()
        assert fresh["x"].compute().tolist() == expected[name]["x"].compute().tolist(), name
        assert fresh.chunks == expected[name].chunks
        assert (view.generation, fresh.generation) == (1, 2)
        assert view["x"].compute().tolist() == before[name], "the old one goes on showing what it did"
        assert fresh._rows.identity == expected[name]._rows.identity
        assert pickle.loads(pickle.dumps(fresh))["x"].compute().tolist() == fresh["x"].compute().tolist()
    assert views["cut"].refresh().refresh()["x"].compute().tolist()[-5:] == [10, 11, 12, 13, 14]


def test_refresh_computes_nothing(path, monkeypatch):
    ds = mm.open(path)
    sel = ds[ds.cut("x > 2")].split({"a": 0.5, "b": 0.5})["a"]
    append(path)
    touched = []
    monkeypatch.setattr(Snapshot, "read", lambda *args: touched.append(args))
    monkeypatch.setattr(Snapshot, "layer", lambda *args: touched.append(args))

    def refuse(*_, **__):
        raise AssertionError("something was computed")

    with dask.config.set(scheduler=refuse):
        assert "not yet counted" in repr(sel.refresh())
        assert len(ds.refresh()) == 15
    assert touched == []


def test_refresh_shows_new_fields_to_a_dataset_of_all(path):
    ds = mm.open(path)
    mm.assign(path, y="x * 2")
    assert ds.refresh().fields == ("x", "jets", "y")
    assert ds[["x"]].refresh().fields == ("x",)
    assert ds[["jets", "x"]].refresh().fields == ("jets", "x")
    assert ds.refresh()["y"].compute().tolist() == list(range(0, 20, 2))


def test_refresh_of_what_is_gone_says_so(path, tmp_path):
    ds = mm.open(path)
    sel, chosen, split = ds[ds.cut("x > 2")], ds[["x"]], ds.split({"a": 1.0}, by="x")["a"]
    mm.drop(path, "x")
    assert ds.refresh().fields == ("jets",)
    with pytest.raises(mm.FieldNotFoundError, match="no field 'x'"):
        chosen.refresh()
    with pytest.raises(mm.ExpressionError, match="no field 'x'"):
        sel.refresh()
    with pytest.raises(mm.FieldNotFoundError, match="no field 'x'"):
        split.refresh()
    shutil.rmtree(path)
    with pytest.raises(mm.StoreNotFoundError):
        ds.refresh()
    mm.from_arrays({"x": [1]}, path)
    with pytest.raises(mm.StoreNotFoundError, match="another was made in its place"):
        ds.refresh()


def test_slices_of_rows_that_are_gone_are_empty_or_shorter(path, tmp_path):
    short = mm.from_arrays({"x": np.arange(4), "jets": [[1]] * 4}, tmp_path / "short.mm")._rows.snapshot
    ds = mm.open(path)
    for view, expected in ((ds[2:8], [2, 3]), (ds[6:9], []), (ds[::3], [0, 3]), (ds[5:][2:4], [])):
        rows = view._rows.on(short)
        assert isinstance(rows, Rows)
        assert len(rows) == len(expected)
        assert rows.read("x", 0, len(rows)).values.tolist() == expected


# history ------------------------------------------------------------------------------------------------------------


def test_history_lists_what_can_be_opened(path):
    ds = mm.open(path)
    append(path, 5)
    append(path, 2)
    entries = ds.history()
    assert [(e.generation, e.n_rows) for e in entries] == [(1, 10), (2, 15), (3, 17)]
    for entry in entries:
        assert len(mm.open(path, generation=entry.generation)) == entry.n_rows
        assert entry.time.endswith("Z")
        assert entry.action
    assert ds.generation == 1


# aux ----------------------------------------------------------------------------------------------------------------

AUX = {
    "edges": np.array([0.0, 20.0, 50.0], "f4"),
    "matrix": np.arange(6).reshape(2, 3),
    "mean": 41.5,
    "classes": ["ttbb", "ttH", "é"],
    "title": "a title",
    "groups": [[1, 2], [], [3]],
    "when": np.datetime64(7, "s"),
}


def test_auxiliary_arrays_are_a_read_only_mapping(path):
    assert len(mm.open(path).aux) == 0
    mm.annotate(path, aux=AUX)
    ds = mm.open(path)
    assert list(ds.aux) == list(AUX)
    assert len(ds.aux) == len(AUX)
    assert "edges" in ds.aux
    for name, expected in AUX.items():
        assert plain(ds.aux[name]) == plain(expected), name
    assert (ds.aux["edges"].dtype, ds.aux["matrix"].shape) == (np.dtype("f4"), (2, 3))
    assert not ds.aux["edges"].flags.writeable
    assert ds[2:4].aux["title"] == "a title"
    with pytest.raises(TypeError):
        ds.aux["edges"] = 1
    with pytest.raises(mm.FieldNotFoundError, match="no aux 'edge'; did you mean 'edges'"):
        ds.aux["edge"]
    assert "edges" in repr(ds.aux)
    assert plain(pickle.loads(pickle.dumps(ds)).aux["groups"]) == [[1, 2], [], [3]]
    mm.annotate(path, aux={"edges": None})
    assert "edges" in ds.aux, "a dataset shows its generation"
    assert "edges" not in ds.refresh().aux


def test_listing_aux_reads_nothing(path, monkeypatch):
    mm.annotate(path, aux=AUX)
    ds = mm.open(path)
    touched = []
    monkeypatch.setattr(Snapshot, "layer", lambda *args: touched.append(args))
    assert list(ds.aux) == list(AUX)
    assert "title" in ds.aux
    repr(ds.aux), repr(ds)
    assert touched == []


# io -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("io", ["auto", "mmap", "pread"])
def test_ways_to_read_agree_and_travel(path, io):
    ds = mm.open(path, io=io)
    again = pickle.loads(pickle.dumps(ds[ds.cut("x > 3")]))
    assert again._rows.snapshot.io == io
    assert again["x"].compute().tolist() == [4, 5, 6, 7, 8, 9]
    assert ds.refresh()._rows.snapshot.io == io
    assert [b["x"].tolist() for b in ds.batches(6, shuffle=False)] == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9]]


def test_a_way_to_read_that_is_none(path):
    with pytest.raises(mm.OptionError, match="io"):
        mm.open(path, io="magic")
