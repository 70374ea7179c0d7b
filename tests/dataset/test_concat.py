"""Several datasets as one, against awkward's concatenation, and what is kept of cuts on it."""

from __future__ import annotations

import os
import pickle
import shutil

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
FIELDS = [
    mm.Field.dense("x", "i4", unit="GeV", attrs={"a": 1, "b": 2}),
    mm.Field.dense("k", "i4"),
    mm.Field.category("process"),
    mm.Field.ragged("pt", "f4", record="", optional=(0,)),
]


def store(path, first, n, labels, k=None, **kwargs):
    """Two parts of rows `first` to ``first + n``."""
    fields = [f if f.kind != "category" else f.with_labels(labels) for f in FIELDS]
    half = n // 2
    parts = [
        {
            "x": list(range(a, b)),
            "k": [i % 2 for i in range(a, b)] if k is None else k,
            "process": [labels[i % len(labels)] for i in range(a, b)],
            "pt": [[float(i)] * (i % 3) if i % 5 else None for i in range(a, b)],
        }
        for a, b in ((first, first + half), (first + half, first + n))
    ]
    return mm.open(write_parts(path, fields, parts), **kwargs)


@pytest.fixture
def a(tmp_path):
    return store(tmp_path / "a.mm", 0, 100, ("ttH", "ttbb"))


@pytest.fixture
def b(tmp_path):
    return store(tmp_path / "b.mm", 1000, 60, ("tt", "ttH"), k=7)


def plain(ds, names=None):
    return {name: str(ak.to_list(ds[name].compute())) for name in names or ds.fields}


def rows_of(some, name):
    return [x for ds in some for x in ak.to_list(ds[name].compute())]


@settings(
    max_examples=3, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(tables=st.lists(tables(SOME, max_rows=4), min_size=1, max_size=3), cut=st.integers(0, 4))
def test_every_kind(tmp_path_factory, tables, cut):
    folder = tmp_path_factory.mktemp("c")
    tables = [t for t in tables if t["pt"]]
    if not tables:
        return
    some = [mm.open(write(folder / f"{i}.mm", t, [cut])) for i, t in enumerate(tables)]
    ds = mm.concat(some)
    n = len(ds)
    assert n == sum(map(len, some))
    for name in ds.fields:
        assert str(ak.to_list(ds[name].compute())) == str(rows_of(some, name))
    order = [n - 1, 0, n // 2]
    last = some[-1][-1]
    assert {k: str(v) for k, v in ds[-1].items()} == {k: str(last[k]) for k in ds.fields}
    for name, values in ds[order].items():
        assert str(ak.to_list(values)) == str([ak.to_list(ds[name].compute())[i] for i in order])


SELECT = {
    "whole": lambda ds: ds,
    "slice": lambda ds: ds[5:50],
    "steps": lambda ds: ds[3:50:4],
    "cut": lambda ds: ds[ds.cut("x % 3 == 0")],
    "none": lambda ds: ds[:0],
    "sample": lambda ds: ds.sample(10),
    "renamed": lambda ds: ds.rename(x="k", k="x").rename(x="k", k="x"),
    "concat": lambda ds: mm.concat([ds[10:20], ds[:5]]),
}


@pytest.mark.parametrize("one", SELECT)
@pytest.mark.parametrize("other", ["slice", "cut", "concat"])
def test_any_selections(a, b, one, other, tmp_path):
    some = [SELECT[one](a), SELECT[other](b), SELECT[one](a)]
    ds = mm.concat(some)
    expected = {name: rows_of(some, name) for name in ds.fields}
    assert len(ds) == len(expected["x"])
    assert plain(ds) == {k: str(v) for k, v in expected.items()}
    again = pickle.loads(pickle.dumps(ds))
    assert again["x"].compute().tolist() == expected["x"]
    x = np.array(expected["x"])
    assert ds[ds.cut("x > 20 & k < 5")]["x"].compute().tolist() == [
        v for v, k in zip(x, expected["k"], strict=True) if v > 20 and k < 5
    ]
    assert ds[3:30]["x"].compute().tolist() == x[3:30].tolist()
    seen = [t["x"] for t in ds.batches(16, fields=["x", "pt"], seed=3)]
    assert sorted(np.concatenate([np.zeros(0, "i4"), *seen]).tolist()) == sorted(expected["x"])
    if one != "none":
        saved = ds.save(tmp_path / "s.mm", progress=False)
        assert plain(saved) == plain(ds)


def test_is_lazy(a, b):
    cut = a.cut("x > 20")
    with max_computes(0), count_reads() as reads:
        ds = mm.concat({"one": a[cut], "two": b}, by="from")
        text = repr(ds) + ds._repr_html_()
        half = ds[ds.cut("x < 1010")]
    assert "not yet counted" in text
    assert reads.n_rows == 0
    assert half["x"].compute().tolist() == [*range(21, 100), *range(1000, 1010)]


def test_whole_stores_stay_views(a, b):
    ds = mm.concat([a[50:], b[:30]])
    assert ds._rows.span == range(50, 130)
    assert not ds._rows.read("x", 0, 10).values.flags.owndata


def test_labels(a, b):
    ds = mm.concat({"one": a[:3], "two": b[:2], "three": a[:1]}, by="from")
    assert ds.schema["process"].labels == ("ttH", "ttbb", "tt")
    assert ds["process"].compute().tolist() == ["ttH", "ttbb", "ttH", "tt", "ttH", "ttH"]
    assert ds.schema["from"].labels == ("one", "two", "three")
    assert ds["from"].compute().tolist() == ["one"] * 3 + ["two"] * 2 + ["three"]
    assert ds.cut("`from` == 'two'").count() == 2
    assert ds.cut("`from` == 'two' or process == 'ttbb'").count() == 3
    assert ds.cut("process == 'tt'").count() == 1
    [batch] = ds.batches(10, shuffle=False, fields=["process", "from"])
    assert batch["process"].tolist() == [0, 1, 0, 2, 0, 0]
    assert batch["from"].tolist() == [0, 0, 0, 1, 1, 2]
    assert ds[4]["from"] == "two"
    parts = ds.split({"u": 0.5, "v": 0.5}, by="from")
    assert len(parts["u"]) + len(parts["v"]) == 6
    flow = ds.cutflow(["x > 1"], by="from")
    assert flow.cumulative.rows[:, 0].tolist() == [3, 2, 1]
    h = ds.hist("x", by="from", bins=(2, 0, 2000))
    assert h.values().tolist() == [[3, 0], [0, 2], [1, 0]]
    assert ds.describe()["x"].count == 6


def test_cuts_are_kept_with_each_store_and_shared(a, b):
    ds = mm.concat({"one": a, "two": b}, by="from")
    assert ds.cut("x % 7 == 0 and any(pt > 3)").count() > 0
    with count_reads() as reads:
        alone = [s.cut("x % 7 == 0 and any(pt > 3)").count() for s in (a, b)]
    assert reads.n_rows == 0
    assert sum(alone) == ds.cut("x % 7 == 0 and any(pt > 3)").count()
    a.cut("x % 11 == 3").keep()
    b.cut("x % 11 == 3").keep()
    with count_reads() as reads:
        assert ds.cut("x % 11 == 3").count() == sum(x % 11 == 3 for x in [*range(100), *range(1000, 1060)])
    assert reads.n_rows == 0
    # Fields of the whole alone are kept beside the part, too, and read again.
    text = "`from` == 'two' or x % 13 == 5"
    n = ds.cut(text).count()
    from mmdask.rows.rows import RESOLVED

    RESOLVED.clear()
    with count_reads() as reads:
        assert mm.concat({"one": a, "two": b}, by="from").cut(text).count() == n
        assert mm.concat({"two": a, "one": b}, by="from").cut("`from` == 'one'").count() == 60
    assert reads.n_rows == 0
    swapped = mm.concat({"two": a, "one": b}, by="from")
    assert swapped.cut(text).count() != n


def test_a_copied_store_is_another_one(a, tmp_path):
    shutil.copytree(a.path, tmp_path / "copy.mm")
    copy = mm.open(tmp_path / "copy.mm")
    ds = mm.concat({"a": a, "b": copy}, by="from")
    assert ds["x"].compute().tolist() == 2 * list(range(100))
    assert ds.cut("x < 10 & `from` == 'b'").count() == 10
    assert any(f.endswith(".mask") for _, _, files in os.walk(tmp_path / "copy.mm" / "cache") for f in files)


def test_summaries_are_shared_and_never_mixed_up(a, b):
    first = mm.concat([a, b]).describe()
    with count_reads() as reads:
        assert a.describe("x")["x"].max == 99
        assert mm.concat({"u": a, "v": b}, by="from").describe("x")["x"].max == first["x"].max == 1059
    assert reads.n_rows == 0
    assert mm.concat({"u": a, "v": b[:10]}, by="from").describe("from")["from"].count == 110
    assert mm.concat({"u": a, "v": b}, by="from").describe("from")["from"].count == 160


def test_computed_fields(a, b):
    one, two = (s.assign(ht="x * 2", name="process == 'ttH'") for s in (a, b))
    ds = mm.concat([one, two])
    assert ds["ht"].compute().tolist() == [2 * x for x in ds["x"].compute()]
    assert ds["name"].compute().tolist() == (ds["process"].compute() == "ttH").tolist()
    assert ds.cut("ht > 2000").count() == 59
    assert mm.concat([one[["ht"]], two[["ht"]]]).fields == ("ht",)
    with pytest.raises(mm.OptionError, match=r"'ht' is not computed alike.*\(x \* 2\) in number 0, \(x \* 3\)"):
        mm.concat([one, two.assign(ht="x * 3")])
    with pytest.raises(mm.OptionError, match="not computed alike: stored"):
        mm.concat([a, b.assign(x="x * 2")])
    with pytest.raises(mm.OptionError, match="dask array"):
        mm.concat([a.assign(r=a["x"] / 2), b.assign(r=b["x"] / 2)])


def test_one_of_them_is_optional(tmp_path):
    one = mm.from_arrays({"x": [1.0, 2.0]}, tmp_path / "a.mm")
    with mm.create(tmp_path / "b.mm", fields=[mm.Field.dense("x", "f8", optional=(0,))]) as w:
        w.extend({"x": [None, 4.0]})
    ds = mm.concat([one, mm.open(tmp_path / "b.mm")])
    assert ds.schema["x"].optional == (0,)
    assert ds["x"].compute().tolist() == [1.0, 2.0, None, 4.0]
    assert one.cut("x > 1").count() == 1
    assert ds.cut("x > 1").count() == 2
    assert (~ds.cut("x > 1")).count() == 1


def test_attrs_aux_and_what_is_said_of_fields(tmp_path):
    for name, edges, note in (("a", [1, 2], "n"), ("b", [1, 2], "m")):
        with mm.create(
            tmp_path / name,
            fields=[mm.Field.dense("x", "f4", doc=note, unit="GeV" * (name == "a"), attrs={"p": 1, "q": note})],
            attrs={"year": 2018, "note": note},
            aux={"edges": np.array(edges), "other": np.array([ord(note)])},
        ) as w:
            w.append({"x": 1.0})
    ds = mm.concat([mm.open(tmp_path / "a"), mm.open(tmp_path / "b")])
    assert dict(ds.attrs) == {"year": 2018}
    assert list(ds.aux) == ["edges"]
    assert ds.aux["edges"].tolist() == [1, 2]
    field = ds.schema["x"]
    assert (field.doc, field.unit, dict(field.attrs)) == ("", "GeV", {"p": 1})
    saved = ds.save(tmp_path / "s.mm", progress=False)
    assert saved.aux["edges"].tolist() == [1, 2]


def test_refresh_and_history(a, b):
    ds = mm.concat([a[a.cut("x < 3")], b[:2]])
    assert ds["process"].compute().tolist() == ["ttH", "ttbb", "ttH", "tt", "ttH"]
    with mm.append(a.path) as w:
        w.append({"x": 1, "k": 2, "process": "new", "pt": [1.0]})
    fresh = ds.refresh()
    assert fresh["x"].compute().tolist() == [0, 1, 2, 1, 1000, 1001]
    assert fresh["process"].compute().tolist() == ["ttH", "ttbb", "ttH", "new", "tt", "ttH"]
    assert fresh.schema["process"].labels == ("ttH", "ttbb", "new", "tt")
    for what in (ds.history, lambda: ds.generation):
        with pytest.raises(mm.OptionError, match="several: .*a.mm.*b.mm"):
            what()
    with pytest.raises(mm.OptionError, match="kept with the stores"):
        list(ds.cuts)
    assert len(mm.concat([a]).history()) == 2
    assert isinstance(ds.sources, list)
    assert "a.mm + " in ds.path


def test_plain_reads(a, b):
    some = [mm.open(a.path, io="pread"), b]
    ds = mm.concat(some)
    assert ds["x"].compute().tolist() == rows_of(some, "x")
    assert ds[[130, 3]]["x"].tolist() == [1030, 3]
    with pytest.raises(mm.OptionError, match="mmap"):
        ds.memmap("x", part=0)
    assert mm.concat([a, b]).memmap("x", part=2)[0] == 1000


def test_python_cuts(a, b):
    ds = mm.concat([a, b])
    assert ds.cut(lambda t: t["x"] % 2 == 0, key="even", fields="x").count() == 80
    assert a.cut(lambda t: t["x"] % 2 == 0, key="even", fields="x").count() == 50
    assert ds.cut(ds["x"] > 1000, key="late").count() == 59


def test_does_not_write_into_its_stores(a, b):
    ds = mm.concat([a, b])
    with pytest.raises(mm.OptionError, match="lies in the store"):
        ds.save(os.path.join(b.path, "s.mm"))


def test_mistakes(a, b, tmp_path):
    for given_ in (a, 3, "ab", None):
        with pytest.raises(mm.OptionError, match="concat takes a list of datasets"):
            mm.concat(given_)
    with pytest.raises(mm.OptionError, match="one dataset or more"):
        mm.concat([])
    with pytest.raises(mm.OptionError, match="concat takes datasets"):
        mm.concat([a, a.path])
    with pytest.raises(mm.OptionError, match="need by="):
        mm.concat({"u": a, "v": b})
    with pytest.raises(mm.OptionError, match="needs labels"):
        mm.concat([a, b], by="from")
    with pytest.raises(mm.OptionError, match="there is a field 'k' already"):
        mm.concat({"u": a, "v": b}, by="k")
    with pytest.raises(mm.OptionError, match="labels are texts"):
        mm.concat({1: a}, by="from")
    with pytest.raises(mm.SchemaError, match=r"number 1 .*b.mm\) has no 'pt'.*ds\[\['x', 'k', 'process'\]\]"):
        mm.concat([a, b[["x", "k", "process"]]])
    with pytest.raises(mm.SchemaError, match=r"number 0 .*a.mm\) has no 'pt'"):
        mm.concat([a[["x"]], b[["x", "pt"]]])
    with pytest.raises(mm.SchemaError, match=r"has no 'x'; did you mean 'X'.*rename"):
        mm.concat([a[["x"]], b[["x"]].rename(x="X")])
    with pytest.raises(
        mm.SchemaError, match=r"'x' is int32 in the first dataset, and optional ragged float32 in number 1"
    ):
        mm.concat([a[["x"]], b[["pt"]].rename(pt="x")])
    with mm.create(tmp_path / "c.mm", fields=[mm.Field.dense("x", "i4", unit="MeV")]):
        pass
    other = mm.open(tmp_path / "c.mm")
    with pytest.raises(mm.SchemaError, match=r"in GeV .* in MeV"):
        mm.concat([a[["x"]], other])
    with pytest.raises(mm.OptionError, match="of the store"):
        mm.concat([a, b])[a.cut("x > 3")]
