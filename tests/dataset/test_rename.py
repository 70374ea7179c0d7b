"""Fields under other names: the same values, cuts that are never mixed up, and kept cuts that are shared."""

from __future__ import annotations

import os
import pickle

import awkward as ak
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from kinds import tables, write
from stored import write_parts

import mmdask as mm
from mmdask.testing import count_reads, max_computes

SOME = ["when", "p3", "process", "pt", "deep", "name", "words", "image"]
RECORD = [mm.Field.ragged(f"jet_{m}", "f4", record="jet") for m in ("pt", "eta")]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.mm"
    fields = [
        mm.Field.dense("a", "i4", unit="GeV"),
        mm.Field.dense("b", "i4"),
        mm.Field.dense("k", "i4"),
        mm.Field.category("process", ("ttH", "ttbb")),
        *RECORD,
    ]
    n = 500
    parts = [
        {
            "a": list(range(first, first + n)),
            "b": [2 * i for i in range(first, first + n)],
            "k": number,
            "process": ("ttH", "ttbb")[number],
            "jet_pt": [[float(i)] * (i % 3) for i in range(first, first + n)],
            "jet_eta": [[0.5] * (i % 3) for i in range(first, first + n)],
        }
        for number, first in enumerate((0, n))
    ]
    return write_parts(path, fields, parts)


def masks(path):
    return {f for _, _, files in os.walk(os.path.join(path, "cache")) for f in files}


def everything(ds, names=None):
    return {name: ak.to_list(ds[name].compute()) for name in names or ds.fields}


@settings(
    max_examples=3, phases=[Phase.generate], deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(table=tables(SOME, max_rows=6), shift=st.integers(1, 7), cut=st.integers(0, 6))
def test_every_kind_under_the_name_of_another(tmp_path_factory, table, shift, cut):
    if not table["pt"]:
        return
    ds = mm.open(write(tmp_path_factory.mktemp("r") / "a.mm", table, [cut]))
    names = list(table)
    new = dict(zip(names, names[shift:] + names[:shift], strict=True))
    moved = ds.rename(new)
    assert moved.fields == tuple(new[n] for n in names)
    for old in names:
        assert str(ak.to_list(moved[new[old]].compute())) == str(ak.to_list(ds[old].compute()))
        assert str(moved[-1][new[old]]) == str(ds[-1][old])
    some = [0, len(ds) - 1, 0]
    for old, values in ds[some].items():
        assert str(moved[some][new[old]]) == str(values)


def test_is_lazy(path):
    ds = mm.open(path)
    with max_computes(0), count_reads() as reads:
        moved = ds[ds.cut("a > 100")].rename(a="x")
        assert "not yet counted" in repr(moved)
        assert "x" in moved._repr_html_()
    assert reads.n_rows == 0
    assert moved["x"].compute().min() == 101
    assert moved.schema["x"].unit == "GeV"
    assert "a" not in moved


def test_a_swap_never_meets_what_is_kept_of_the_stored_names(path):
    ds = mm.open(path)
    swapped = ds.rename({"a": "b", "b": "a"})
    assert ds.cut("a < 100").count() == 100
    assert swapped.cut("a < 100").count() == 50
    assert swapped.cut("b < 100").count() == 100
    assert ds.cut("b < 100").count() == 50
    assert ds.describe("a")["a"].max == 999
    assert swapped.describe("a")["a"].max == 1998
    assert swapped.assign(c="a + 1").describe("c")["c"].max == 1999
    assert ds.assign(c="a + 1").describe("c")["c"].max == 1000
    assert swapped.hist("a", bins=1).metadata is not None
    both = ds.cutflow(["a < 100", "b < 100"]), swapped.cutflow(["b < 100", "a < 100"])
    assert both[0].alone.rows.tolist() == both[1].alone.rows.tolist() == [1000, 100, 50]


def test_kept_cuts_are_shared(path):
    ds = mm.open(path)
    ds.cut("a < 100 & any(jet_pt > 50)").keep()
    files = {f for f in masks(path) if f.endswith(".mask")}
    moved = ds.rename({"a": "x", "jet": "j"})
    with count_reads() as reads:
        assert moved.cut("x < 100 & any(j_pt > 50)").count() == ds.cut("a < 100 & any(jet_pt > 50)").count()
    assert reads.n_rows == 0
    assert {f for f in masks(path) if f.endswith(".mask")} == files
    moved.cut("x < 300").keep()
    with count_reads() as reads:
        assert mm.open(path).cut("a < 300").count() == 300
    assert reads.n_rows == 0
    flipped = moved.rename(x="a", j="jet")
    assert flipped.cut("a < 300").count() == 300


@pytest.mark.parametrize(
    "select",
    [
        lambda ds: ds[10:700],
        lambda ds: ds[3:900:7],
        lambda ds: ds[ds.cut("a % 3 == 0")],
        lambda ds: ds[ds.cut("a % 3 == 0")][5:50],
        lambda ds: ds.split({"u": 0.5, "v": 0.5}, by="b")["u"],
        lambda ds: ds.sample(33),
        lambda ds: ds[:0],
        lambda ds: ds.rename(b="c", k="a", a="k").rename(c="b", a="k", k="a"),
    ],
)
def test_of_any_rows(path, tmp_path, select):
    ds = select(mm.open(path))
    moved = ds.rename({"a": "x", "jet": "j"})
    assert len(moved) == len(ds)
    new = {"a": "x", "jet_pt": "j_pt", "jet_eta": "j_eta"}
    found, expected = everything(moved), everything(ds)
    assert found == {new.get(n, n): v for n, v in expected.items()}
    again = pickle.loads(pickle.dumps(moved))
    assert everything(again) == found
    assert everything(moved[moved.cut("x > 100")], ["b"]) == everything(ds[ds.cut("a > 100")], ["b"])
    batches = [b["x"] for b in moved.batches(64, fields="x", shuffle=True, seed=1)]
    assert sorted(np.concatenate([np.zeros(0, "i4"), *batches])) == sorted(expected["a"])
    saved = moved.save(tmp_path / "saved.mm", progress=False)
    assert everything(saved) == found


def test_slices_stay_views(path):
    ds = mm.open(path)[100:200].rename(a="x")
    assert ds._rows.span == range(100, 200)
    assert not ds._rows.read("x", 0, 10).values.flags.owndata


def test_records_and_prefixes(path, tmp_path):
    ds = mm.open(path).rename(jet="j")
    assert ds.schema["j_pt"].record == "j"
    assert ds.zip("j").fields == ("pt", "eta")
    assert ds.to_awkward(["j"]).j.fields == ["pt", "eta"]
    one = mm.open(path).rename(jet_pt="pt")
    assert one.schema["pt"].record == ""
    loose = mm.from_arrays({"m_x": [1], "m_y": [2], "mm": [3]}, tmp_path / "b.mm")
    assert loose.rename({"m": "n", "m_y": "z"}).fields == ("n_x", "z", "mm")


def test_computed_fields_follow(path):
    ds = mm.open(path).assign(ht="sum(jet_pt)", a="a + b", twice="ht * 2")
    moved = ds.rename({"a": "b", "b": "a", "jet": "j", "ht": "HT"})
    assert moved.schema["HT"].expression == "sum(j_pt)"
    assert moved["b"].compute().tolist() == ds["a"].compute().tolist()
    assert moved["HT"].compute().tolist() == ds["ht"].compute().tolist()
    assert moved["twice"].compute().tolist() == ds["twice"].compute().tolist()
    cut = "b > 100 and HT > 300 and twice < 1e4"
    assert moved.cut(cut).count() == ds.cut("a > 100 and ht > 300 and twice < 1e4").count() > 0
    lazy = ds.assign(r=ds["b"] / 2).rename(r="half")
    assert lazy["half"].compute().tolist() == (ds["b"] / 2).compute().tolist()
    assert lazy[lazy.cut("b > 100")]["half"].compute().min() == 51


def test_stored_computed_fields_follow(path):
    mm.assign(path, ht="sum(jet_pt)")
    ds = mm.open(path).rename(jet="j")
    assert ds.schema["ht"].expression == "sum(j_pt)"


def test_refresh_and_history(path):
    ds = mm.open(path)[mm.open(path).cut("a < 5")].rename(a="x")
    with mm.append(path) as w:
        w.append({"a": 1, "b": 2, "k": 3, "process": "ttH", "jet_pt": [], "jet_eta": []})
    assert len(ds) == 5
    fresh = ds.refresh()
    assert len(fresh) == 6
    assert fresh["x"].compute().tolist() == [0, 1, 2, 3, 4, 1]
    assert fresh.generation == ds.generation + 1
    assert len(ds.history()) == 2
    with pytest.raises(mm.OptionError, match="kept with the stores"):
        ds.cuts.clear()


def test_fields_that_are_left_out_are_in_nobodys_way(path):
    ds = mm.open(path)[["a"]].rename(a="b")
    assert ds["b"].compute().tolist() == list(range(1000))
    assert ds.cut("b < 100").count() == 100


def test_python_cuts(path):
    ds = mm.open(path)
    moved = ds.rename(a="x")
    cut = moved.cut(lambda block: block["x"] % 2 == 0, key="even", fields="x")
    assert cut.count() == 500
    assert ds.cut(lambda block: 1 / 0, key="even", fields="a").count() == 500  # the same cut of the same field
    assert moved.cut(moved["x"] > 900, key="late").count() == 99


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ({"met": "x"}, mm.FieldNotFoundError, "no field 'met'"),
        ({"a": "b"}, mm.OptionError, r"'b' is taken.*rename\(\{'a': 'b', 'b': 'a'\}\)"),
        ({"a": "x", "b": "x"}, mm.OptionError, "'a' and 'b' would both be called 'x'"),
        ({"jet": "a"}, None, ""),
        ({"a": ""}, mm.SchemaError, "printable"),
        ({"a": 3}, mm.SchemaError, "printable"),
        (["a"], mm.OptionError, "mapping"),
    ],
)
def test_mistakes(path, names, error, message):
    if error is None:
        assert "a_pt" in mm.open(path).rename(names)
        return
    with pytest.raises(error, match=message):
        mm.open(path).rename(names)


def test_given_twice(path):
    with pytest.raises(mm.OptionError, match="given twice"):
        mm.open(path).rename({"a": "x"}, a="y")


def test_memmap_and_vacuum(path):
    ds = mm.open(path).rename(a="x")
    assert ds[:500].memmap("x").tolist() == list(range(500))
    ds.assign(y="x + b").describe("y")
    ds.cut("k == 1 or x > 5").keep()
    before = masks(path)
    mm.vacuum(path, grace=0)
    assert {f for f in before if not f.endswith(".rows")} <= masks(path)
