"""The lazy view: laziness is counted, values are compared with numpy and awkward."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import awkward as ak
import dask
import dask.array as da
import numpy as np
import pytest

import mmdask as mm
from mmdask.store.arrays import held as arrays_module
from mmdask.testing import Read, count_reads, max_computes

N = 5000


@pytest.fixture
def no_computes():
    """Fails when anything is computed."""
    with max_computes(0):
        yield


@pytest.fixture
def reads():
    """Rows that are read."""
    with count_reads() as counted:
        yield counted


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(5)
    counts = rng.integers(0, 6, N)
    counts[[0, 1, N - 1]] = 0
    pt = ak.unflatten(rng.exponential(50, counts.sum()).astype("f4"), counts)
    return {
        "met": rng.exponential(40, N).astype("f4"),
        "nJets": counts.astype("i4"),
        "jet_pt": pt,
        "jet_id": ak.unflatten(rng.integers(0, 2, counts.sum()).astype(bool), counts),
        "image": rng.integers(0, 255, (N, 4, 3)).astype("u1"),
        "name": [f"é{i % 7}" for i in range(N)],
        "time": np.arange(N).astype("M8[s]"),
    }


@pytest.fixture(scope="module")
def path(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("d") / "s.mm"
    first = {k: v[:3000] for k, v in data.items()}
    rest = {k: v[3000:] for k, v in data.items()}
    mm.from_arrays(first, path, labels={"process": "ttbb", "year": 2016})
    with mm.append(path, labels={"process": "ttH", "year": 2017}) as w:
        w.extend(rest)
    return path


@pytest.fixture
def ds(path):
    return mm.open(path, chunks=512)


def test_fields_have_the_types_and_chunks_promised(ds):
    assert isinstance(ds["met"], da.Array)
    assert ds["met"].chunks == (ds.chunks,) == ((512,) * 5 + (440,) + (512,) * 3 + (464,),)
    assert ds["image"].chunks == (ds.chunks, (4,), (3,))
    assert isinstance(ds["jet_pt"], mm.Ragged)
    assert isinstance(ds["name"], mm.Ragged)
    assert ds["process"].dtype == np.dtype("U4")
    assert ds["jet_pt"].chunks == (ds.chunks,)
    assert (
        list(ds) == list(ds.fields) == ["met", "nJets", "jet_pt", "jet_id", "image", "name", "time", "process", "year"]
    )
    assert len(ds) == N
    assert "met" in ds
    assert "mett" not in ds
    assert list(ds.keys()) == list(ds.fields)


def test_values_are_those_written(ds, data):
    for name in ("met", "nJets", "image", "time"):
        np.testing.assert_array_equal(ds[name].compute(), data[name])
    assert ds["jet_pt"].compute().to_list() == data["jet_pt"].to_list()
    assert ds["jet_id"].compute().to_list() == data["jet_id"].to_list()
    assert str(ds["jet_id"].compute().type) == f"{N} * var * bool"
    assert ds["name"].to_list() == data["name"]
    assert ds["process"].compute().tolist() == ["ttbb"] * 3000 + ["ttH"] * 2000
    assert ds["year"].compute().tolist() == [2016] * 3000 + [2017] * 2000


@pytest.mark.parametrize("scheduler", ["sync", "threads", "processes"])
def test_schedulers_agree(ds, data, scheduler):
    with dask.config.set(scheduler=scheduler):
        met, pt, name = dask.compute(ds["met"], ds["jet_pt"], ds["name"])
        np.testing.assert_array_equal(met, data["met"])
        assert pt.to_list() == data["jet_pt"].to_list()
        assert name.to_list() == data["name"]
        assert ds.cut("met > 41.5 & nJets > 2").count() == int(((data["met"] > 41.5) & (data["nJets"] > 2)).sum())


def test_opening_cutting_and_looking_compute_nothing(path, no_computes, reads, monkeypatch):
    maps = []
    monkeypatch.setattr(arrays_module, "open_file", lambda *args: maps.append(args))
    ds = mm.open(path)
    good = ds.cut("met > 43.5 & any(jet_pt > 100)")
    both = good & ~ds.cut("process == 'ttH'") | ds.cut("nJets > x", x=3)
    sel = ds[good][["met", "jet_pt"]]
    splits = sel.split({"a": 0.5, "b": 0.5}, by="nJets") if "nJets" in sel else ds[both].split({"a": 0.5, "b": 0.5})
    shown = [
        repr(x) + (x._repr_html_() if hasattr(x, "_repr_html_") else "") for x in (ds, good, both, sel, splits["a"])
    ]
    assert "not yet counted" in "".join(shown)
    for field in ds:
        repr(ds[field])
    ds["met"] + 1
    ds[10:20]["jet_pt"].sum()
    ds["jet_pt"].counts
    pickle.dumps((ds, sel, ds["met"], ds["jet_pt"], splits))
    assert (reads.log, maps) == ([], [])


def test_slices_read_exactly_their_rows(ds, data, reads):
    reads.clear()
    np.testing.assert_array_equal(ds["met"][1000:1010].compute(), data["met"][1000:1010])
    assert reads.log == [Read("met", 10, part=0, start=1000)]
    reads.clear()
    np.testing.assert_array_equal(ds[2990:3010]["met"].compute(), data["met"][2990:3010])
    assert reads.n_rows == 20
    reads.clear()
    assert ds["jet_pt"][7:9].compute().to_list() == data["jet_pt"][7:9].to_list()
    assert reads.n_rows == 2


@pytest.mark.parametrize(
    "key", [slice(10, 20), slice(None, None, 7), slice(-3, None), slice(2995, 3005), slice(5, 5), slice(4000, 100)]
)
def test_slices_agree_with_numpy(ds, data, key):
    part = ds[key]
    assert len(part) == len(data["met"][key])
    assert sum(part.chunks) == len(part)
    np.testing.assert_array_equal(part["met"].compute(), data["met"][key])
    np.testing.assert_array_equal(ds["met"][key].compute(), data["met"][key])
    np.testing.assert_array_equal(ds["image"][key, 1:3, ::-1].compute(), data["image"][key, 1:3, ::-1])
    assert part["jet_pt"].compute().to_list() == data["jet_pt"][key].to_list()
    assert ds["jet_pt"][key].compute().to_list() == data["jet_pt"][key].to_list()
    assert part["name"].to_list() == data["name"][key]


def test_numbered_rows_come_at_once(ds, data, no_computes):
    row = ds[4321]
    assert row["met"] == data["met"][4321]
    assert row["jet_pt"].tolist() == data["jet_pt"][4321].to_list()
    assert (row["name"], row["process"], row["year"]) == (data["name"][4321], "ttH", 2017)
    assert ds[-1]["nJets"] == data["nJets"][-1]
    some = ds[[5, 3, 3, 4999]]
    assert some["met"].tolist() == data["met"][[5, 3, 3, 4999]].tolist()
    assert some["jet_pt"].to_list() == data["jet_pt"][[5, 3, 3, 4999]].to_list()
    assert some["name"].to_list() == [data["name"][i] for i in (5, 3, 3, 4999)]
    assert ds["jet_pt"][2].tolist() == data["jet_pt"][2].to_list()
    assert ds["name"][-2] == data["name"][-2]
    assert list(ds["name"])[:3000:500] == data["name"][:3000:500]
    for got, expected in zip(ds["jet_pt"], data["jet_pt"], strict=True):
        assert got.tolist() == expected.to_list()


def test_cut_rows_have_known_lengths_and_the_right_values(ds, data):
    mask = (data["met"] > 30) & (data["nJets"] >= 2)
    cut = ds.cut("met > 30 & nJets >= 2")
    sel = ds[cut]
    assert len(sel) == mask.sum() == cut.count() == sum(sel.chunks)
    assert all(sel.chunks)
    np.testing.assert_array_equal(cut.mask.compute(), mask)
    np.testing.assert_array_equal(sel["met"].compute(), data["met"][mask])
    np.testing.assert_array_equal(sel["image"].compute(), data["image"][mask])
    assert sel["jet_pt"].compute().to_list() == data["jet_pt"][mask].to_list()
    assert (
        sel["process"].compute().tolist() == np.repeat(["ttbb", "ttH"], [mask[:3000].sum(), mask[3000:].sum()]).tolist()
    )
    np.testing.assert_array_equal(sel[7:100:3]["met"].compute(), data["met"][mask][7:100:3])
    other = sel.cut("met < 60")
    np.testing.assert_array_equal(other.mask.compute(), data["met"][mask] < 60)
    assert other.count() == (data["met"][mask] < 60).sum()
    np.testing.assert_array_equal(sel[other]["met"].compute(), data["met"][mask & (data["met"] < 60)])
    np.testing.assert_array_equal(ds[100:300][cut]["met"].compute(), data["met"][100:300][mask[100:300]])
    assert sel[3]["met"] == data["met"][mask][3]


def test_masks_are_right_before_they_are_kept(path, data, tmp_path):
    ds = mm.from_arrays({k: data[k] for k in ("met", "nJets", "jet_pt")}, tmp_path / "s.mm")
    cut = ds.cut("sum(jet_pt) > 100 | nJets == 1")
    expected = (ak.sum(data["jet_pt"], axis=1).to_numpy() > 100) | (data["nJets"] == 1)
    np.testing.assert_array_equal(cut.mask[100:200].compute(), expected[100:200])
    assert not (tmp_path / "s.mm" / "cache").exists()
    cut.keep()
    assert (tmp_path / "s.mm" / "cache").exists()
    np.testing.assert_array_equal(cut.mask.compute(), expected)


def test_combined_cuts(ds, data):
    a, b = ds.cut("met > 30"), ds.cut("max(jet_pt) > 80")
    ma = data["met"] > 30
    largest = np.array([max(row, default=-1.0) for row in data["jet_pt"].to_list()])
    np.testing.assert_array_equal((a & b).mask.compute(), ma & (largest > 80))
    np.testing.assert_array_equal((a | b).mask.compute(), ma | (largest > 80))
    # Rows without jets have no greatest one: they fail the cut and its opposite.
    np.testing.assert_array_equal((~b).mask.compute(), (largest <= 80) & (largest >= 0))
    assert b.count() + (~b).count() == (data["nJets"] > 0).sum()
    with pytest.raises(mm.OptionError, match="& | ~"):
        bool(a)
    with pytest.raises(mm.OptionError, match="different rows"):
        a & ds[:10].cut("met > 3")
    with pytest.raises(mm.OptionError, match="combined with a cut"):
        a & True


def test_empty_selections_work_everywhere(ds):
    sel = ds[ds.cut("met < 0")]
    assert (len(sel), sel.chunks) == (0, (0,))
    assert sel["met"].compute().shape == (0,)
    assert sel["met"].sum().compute() == 0
    assert sel["image"].compute().shape == (0, 4, 3)
    assert sel["jet_pt"].compute().to_list() == []
    assert sel["jet_pt"].sum().compute().tolist() == []
    assert sel["jet_pt"].values.compute().shape == (0,)
    assert sel["jet_pt"].offsets.compute().tolist() == [0]
    assert list(sel["name"]) == []
    assert list(sel.batches(10)) == []
    assert [len(p) for p in sel.split({"a": 0.5, "b": 0.5}).values()] == [0, 0]
    with pytest.raises(mm.RowNotFoundError, match="0 rows"):
        sel[0]


def test_ragged_offsets_and_values(ds, data):
    for view, pt in ((ds, data["jet_pt"]), (ds[2900:3100], data["jet_pt"][2900:3100])):
        ragged = view["jet_pt"]
        np.testing.assert_array_equal(ragged.values.compute(), ak.flatten(pt))
        counts = ak.num(pt).to_numpy()
        np.testing.assert_array_equal(ragged.offsets.compute(), np.concatenate([[0], np.cumsum(counts)]))
        np.testing.assert_array_equal(ragged.counts.compute(), counts)
        assert not np.isnan(sum(ragged.values.chunks[0]))
    cut = ds.cut("nJets >= 3")
    pt = data["jet_pt"][data["nJets"] >= 3]
    np.testing.assert_array_equal(ds[cut]["jet_pt"].values.compute(), ak.flatten(pt))
    np.testing.assert_array_equal(
        ds[cut]["jet_pt"].offsets[5:60].compute(), np.concatenate([[0], np.cumsum(ak.num(pt))])[5:60]
    )
    np.testing.assert_array_equal(ds["jet_pt"].values[1000:1100].compute(), ak.flatten(data["jet_pt"])[1000:1100])


def test_ragged_reductions_agree_with_awkward(ds, data):
    pt, n = data["jet_pt"], data["nJets"]
    wide = ak.values_astype(pt, "float64")
    np.testing.assert_allclose(ds["jet_pt"].sum().compute(), ak.sum(wide, axis=1), rtol=1e-12)
    np.testing.assert_allclose(ds["jet_pt"].mean().compute(), ak.fill_none(ak.mean(wide, axis=1), np.nan), rtol=1e-12)
    for name in ("min", "max"):
        expected = ak.fill_none(getattr(ak, name)(pt, axis=1), np.nan)
        np.testing.assert_array_equal(getattr(ds["jet_pt"], name)().compute(), expected)
    firsts = ak.fill_none(ak.firsts(pt), np.nan)
    np.testing.assert_array_equal(ds["jet_pt"].first().compute(), firsts)
    np.testing.assert_array_equal(ds["jet_pt"].last(default=-1).compute(), ak.fill_none(ak.firsts(pt[:, ::-1]), -1))
    np.testing.assert_array_equal(ds["jet_pt"].argmax().compute(), ak.fill_none(ak.argmax(pt, axis=1), -1))
    np.testing.assert_array_equal(ds["jet_id"].any().compute(), ak.any(data["jet_id"], axis=1))
    np.testing.assert_array_equal(ds["jet_id"].all().compute(), ak.all(data["jet_id"], axis=1))
    np.testing.assert_array_equal(ds["jet_id"].count().compute(), ak.sum(data["jet_id"], axis=1))
    np.testing.assert_array_equal(ds["jet_pt"].counts.compute(), n)
    with pytest.raises(mm.OptionError, match=r"\.counts"):
        ds["jet_pt"].count()
    sel = ds[ds.cut("nJets > 0")]
    np.testing.assert_array_equal(sel["jet_pt"].max().compute(), ak.max(pt[n > 0], axis=1))
    with pytest.raises(mm.OptionError, match="default"):
        ds["jet_id"].first()
    with pytest.raises(mm.OptionError, match="does not fit"):
        ds["jet_pt"].max(default="none")
    with pytest.raises(mm.OptionError, match="numbers"):
        ds["name"].sum()


def test_persisted_ragged_fields_hold_their_chunks(ds, data, reads):
    kept = ds["jet_pt"].persist(scheduler="sync")
    reads.clear()
    assert kept.compute().to_list() == data["jet_pt"].to_list()
    assert reads.log == []


def test_mistakes_name_the_way_out(ds, path, tmp_path):
    with pytest.raises(mm.FieldNotFoundError, match="did you mean 'met'"):
        ds["mett"]
    with pytest.raises(mm.FieldNotFoundError, match="no field 'lep_\\*'"):
        ds[["lep_*"]]
    for text in ("met>2", "met > 2", "!isTight", "met<2 & n == 3"):
        with pytest.raises(mm.FieldNotFoundError, match=r"no field .*; a cut is written ds\[ds\.cut\(") as caught:
            ds[text]
        assert str(caught.value).endswith(f"ds[ds.cut({text!r})]")
    with pytest.raises(mm.RowNotFoundError, match="5000 rows"):
        ds[5000]
    with pytest.raises(mm.OptionError, match="positive step"):
        ds[::-1]
    with pytest.raises(mm.OptionError, match=r"ds\.cut"):
        ds[np.ones(N, bool)]
    with pytest.raises(mm.OptionError, match="field name"):
        ds[1.5]
    with pytest.raises(mm.OptionError, match="written as text"):
        ds.cut(ds["met"] > 3)
    with pytest.raises(mm.ExpressionError, match="did you mean 'met'|Did you mean 'met'"):
        ds.cut("mett > 3")
    other = mm.from_arrays({"met": [1.0]}, tmp_path / "o.mm")
    with pytest.raises(mm.OptionError, match="of the store"):
        ds[other.cut("met > 0")]
    with pytest.raises(mm.StoreNotFoundError, match="did you mean 's.mm'"):
        mm.open(path.with_name("ss.mm"))
    assert not path.with_name("ss.mm").exists()
    with pytest.raises(mm.OptionError, match="chunks"):
        mm.open(path, chunks=0)


def test_pickles_are_references(path):
    ds = mm.open(path, chunks=8)
    assert len(ds.chunks) == 625
    sel = ds[ds.cut("met > 40")]
    for thing in (ds, sel, ds["jet_pt"]):
        assert len(pickle.dumps(thing)) < 2_000 + 10 * (thing is not ds and thing is not sel) * 625
    assert len(pickle.dumps(ds["met"])) < 10_000
    back = pickle.loads(pickle.dumps(sel))
    assert back["met"].compute().tolist() == sel["met"].compute().tolist()


def test_a_thousand_chunks_pickle_to_less_than_ten_kilobytes(tmp_path):
    ds = mm.from_arrays({"x": np.arange(8000), "r": [[i] for i in range(8000)]}, tmp_path / "s.mm")
    ds = mm.open(tmp_path / "s.mm", chunks=8)
    assert len(ds.chunks) == 1000
    for thing in (ds, ds["x"], ds["r"], ds[ds.cut("x >= 0")]["x"], ds.batches(64)):
        assert len(pickle.dumps(thing)) < 10_000


def test_a_pickled_view_shows_its_generation(path, tmp_path):
    mm.from_arrays({"x": [1, 2]}, tmp_path / "s.mm")
    data = pickle.dumps(mm.open(tmp_path / "s.mm"))
    with mm.append(tmp_path / "s.mm") as w:
        w.extend({"x": [3]})
    code = f"import pickle, sys; print(pickle.loads({data!r})['x'].compute().tolist())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[1, 2]", done.stderr


def test_graphs_hold_no_data(path):
    ds = mm.open(path)
    graph = dict(ds["met"].__dask_graph__())
    assert len(pickle.dumps(graph)) < 3_000


def test_html_escapes_what_a_store_says(tmp_path):
    ds = mm.from_arrays({"<script>alert(1)</script>": [1], "b": [2]}, tmp_path / "<b>.mm", labels={"p": "<img>"})
    html = ds._repr_html_() + ds["b"]._repr_html_() + ds.cut("b > 1")._repr_html_()
    assert "<script" not in html
    assert "<img" not in html
    assert "<b>.mm" not in html


def test_from_arrays_takes_what_people_have(tmp_path):
    x = da.from_array(np.arange(1000.0), chunks=300)
    ds = mm.from_arrays({"x": x, "y": range(1000), "t": ["a"] * 1000}, tmp_path / "a.mm")
    np.testing.assert_array_equal(ds["x"].compute(), np.arange(1000.0))
    assert ds["y"].compute().sum() == 499500
    records = ak.Array([{"a": 1, "b": [1.5]}, {"a": 2, "b": []}])
    ds = mm.from_arrays(records, tmp_path / "b.mm")
    assert ds.to_awkward().to_list() == records.to_list()
    with pytest.raises(mm.SchemaError, match="differ in length"):
        mm.from_arrays({"x": [1], "y": [1, 2]}, tmp_path / "c.mm")
    assert not (tmp_path / "c.mm").exists()
    with pytest.raises(mm.SchemaError, match="no data for the field 'z'"):
        mm.from_arrays({"x": [1]}, tmp_path / "c.mm", fields=[mm.Field.dense("z", "f4")])
    ds = mm.from_arrays({"c": ["b", "a"]}, tmp_path / "d.mm", fields=[mm.Field.category("c")])
    assert ds["c"].compute().tolist() == ["b", "a"]
    assert ds.cut("c == 'a'").count() == 1
    with pytest.raises(mm.SchemaError, match="one field or more"):
        mm.from_arrays({}, tmp_path / "e.mm")


def test_a_local_cluster_agrees(path, data):
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=True, dashboard_address=":0") as cluster,
        Client(cluster),
    ):
        ds = mm.open(path, chunks=2048)
        np.testing.assert_array_equal(ds["met"].compute(), data["met"])
        assert ds["jet_pt"].compute().to_list() == data["jet_pt"].to_list()
        cut = ds.cut("met > 17.25 & sum(jet_pt) > 50")
        expected = (data["met"] > 17.25) & (ak.sum(data["jet_pt"], axis=1).to_numpy() > 50)
        assert cut.count() == expected.sum()
        np.testing.assert_array_equal(ds[cut]["met"].compute(), data["met"][expected])


def test_a_cut_is_no_array_and_says_what_to_write(ds):
    cut = ds.cut("met > 30")
    with pytest.raises(mm.OptionError, match=r"ds\[cut\]\['met'\]"):
        ds["met"][cut]
    for use in (np.asarray, np.sum, lambda c: c > 3):
        with pytest.raises(mm.OptionError, match=r"ds\[cut\]"):
            use(cut)


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda ds: np.asarray(ds), "not an array"),
        (lambda ds: ds[ds["met"] > 3], r"ds\[ds\.cut"),
        (lambda ds: np.asarray(ds["jet_pt"]), "awkward"),
        (lambda ds: ds.split([0.8, 0.2]), "name for each fraction"),
        (lambda ds: ds.split({"a": "0.5", "b": 0.5}), "a number above 0"),
        (lambda ds: ds.split({"a": 1.0}, seed=None), "seed is an integer"),
        (lambda ds: ds.split({"a": 1.0}, seed=-1), "seed is an integer"),
        (lambda ds: ds.batches(64, collate=mm.pad(8)), "as {'jet_pt': mm.pad"),
        (lambda ds: mm.open(None), "path of a store"),
        (lambda ds: mm.open(""), "path of a store"),
        (lambda ds: mm.open(Path("s3://bucket/events.mm")), "pathlib makes other text of a URL"),
        (lambda ds: mm.create("https://host/events.mm"), "are read, and not written"),
        (lambda ds: mm.verify("root://host//events.mm"), "no empty"),
    ],
)
def test_what_people_try_gets_an_answer(ds, use, words):
    with pytest.raises(mm.OptionError, match=words):
        use(ds)


def test_the_mapping_has_fields_and_the_length_rows(ds):
    assert len(ds.keys()) == len(ds.values()) == len(ds.items()) == len(ds.fields)
    assert [name for name, _ in ds.items()] == list(ds.fields)
    assert {type(v).__name__ for v in ds.values()} == {"Array", "Ragged"}
    assert "40 of 5,000 rows" in repr(ds[:40])


def test_one_of_a_thing_is_singular(tmp_path):
    ds = mm.from_arrays({"x": [1]}, tmp_path / "s.mm")
    assert repr(ds).startswith("mm.Dataset: 1 row, 1 field, ")
    assert "1 row · 1 field · store " in ds._repr_html_()
    assert " in 1 part<" in ds._repr_html_()
    assert repr(ds[:0]).startswith("mm.Dataset: 0 of 1 row, 1 field, ")
    with mm.append(ds.path) as w:
        w.append({"x": 2})
    assert repr(ds.refresh()).startswith("mm.Dataset: 2 rows, 1 field, ")
    assert " in 2 parts<" in ds.refresh()._repr_html_()


def test_a_field_may_be_called_like_a_cut(tmp_path):
    ds = mm.from_arrays({"met>2": [1]}, tmp_path / "s.mm")
    assert ds["met>2"].compute().tolist() == [1]


def test_a_folder_may_be_called_like_a_url(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s3:").mkdir()
    mm.from_arrays({"x": [1]}, "s3:/events.mm")
    assert len(mm.open("s3:/events.mm")) == len(mm.open("./s3:/events.mm")) == 1


def test_tables_of_many_fields_are_cut(tmp_path):
    ds = mm.from_arrays({f"x{i}": [i] for i in range(200)}, tmp_path / "s.mm")
    assert "... and 160 more" in repr(ds)
    assert "... and 160 more" in ds._repr_html_()
    assert ds._repr_html_().count("<tr") == 41
    assert "unit" not in repr(ds)


def test_a_cut_does_not_import_distributed(path):
    code = f"import sys, mmdask as mm; mm.open({str(path)!r}).cut('met > 11.125').count()"
    code += "; assert 'distributed' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
