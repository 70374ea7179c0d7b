"""Fields of a dataset that are computed when they are read: `ds.assign`."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import awkward as ak
import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mmdask as mm
from mmdask.testing import count_reads, max_computes

N = 3000


@pytest.fixture
def arrays():
    rng = np.random.default_rng(3)
    counts = rng.integers(0, 5, N)
    return {
        "met": rng.exponential(50, N).astype("f4"),
        "n": counts,
        "event": rng.permutation(N),
        "jet_pt": ak.unflatten(rng.exponential(60, counts.sum()).astype("f4"), counts),
        "process": np.where(rng.random(N) < 0.3, "tth", "ttbb"),
        "w": rng.normal(1, 0.5, N),
    }


@pytest.fixture
def ds(arrays, tmp_path):
    half = N // 2
    mm.from_arrays({k: v[:half] for k, v in arrays.items()}, tmp_path / "s.mm")
    with mm.append(tmp_path / "s.mm") as w:
        w.extend({k: v[half:] for k, v in arrays.items()})
    return mm.open(tmp_path / "s.mm", chunks=256)


@pytest.fixture
def ht(arrays):
    return ak.to_numpy(ak.sum(ak.values_astype(arrays["jet_pt"], "f8"), axis=1))


def test_assigning_computes_and_reads_nothing(ds):
    with max_computes(0), count_reads() as reads:
        new = ds.assign(ht="sum(jet_pt)", big="ht > 100", r=ds["met"] / 2)
        repr(new), new._repr_html_(), new.schema, new.fields
        new.cut("ht > 50 & big")
        view = new[["ht", "r"]]
    assert not reads.log
    assert view.fields == ("ht", "r")
    assert new.fields == (*ds.fields, "ht", "big", "r")
    assert ds.fields == mm.open(ds.path).fields


def test_values_are_those_of_the_expression(ds, arrays, ht):
    new = ds.assign(
        ht="sum(jet_pt)", double="jet_pt * 2", share="jet_pt / ht", lead="max(jet_pt)", hard=ds.cut("met > 50")
    )
    np.testing.assert_array_equal(new["ht"].compute(), ht)
    assert new["ht"].chunks == ds["met"].chunks
    double = new["double"]
    assert double.compute().to_list() == (ak.values_astype(arrays["jet_pt"], "f8") * 2).to_list()
    np.testing.assert_array_equal(double.counts.compute(), arrays["n"])
    np.testing.assert_array_equal(double.values.compute(), ak.flatten(arrays["jet_pt"]).to_numpy().astype("f8") * 2)
    np.testing.assert_array_equal(double.sum().compute(), ht * 2)
    np.testing.assert_array_equal(double[7], arrays["jet_pt"][7].to_numpy().astype("f8") * 2)
    assert new["share"].compute().to_list() == (arrays["jet_pt"] / ht).to_list()
    lead = new["lead"].compute()
    assert new.schema["lead"].optional == (0,)
    np.testing.assert_array_equal(lead.mask, arrays["n"] == 0)
    np.testing.assert_array_equal(lead.compressed(), ak.drop_none(ak.max(arrays["jet_pt"], axis=1)).to_numpy())
    np.testing.assert_array_equal(new["hard"].compute(), arrays["met"] > 50)
    assert new[["ht", "lead"]][5] == {"ht": ht[5], "lead": lead[5] if arrays["n"][5] else None}
    np.testing.assert_array_equal(new[["ht"]][[9, 2, 2]]["ht"], ht[[9, 2, 2]])
    together = new.to_awkward(["ht", "double", "n"])
    assert together.double.to_list() == double.compute().to_list()


def test_counts_of_items_read_offsets_only(ds):
    new = ds.assign(double="where(jet_pt > met, jet_pt, 0) * 2")
    with count_reads() as reads:
        len(new["double"].values)
        new["double"].counts.compute()
    assert reads.rows.get("jet_pt", 0) == 0
    assert reads.rows.get("met", 0) == 0


def test_the_name_of_a_field_means_the_one_before_it(ds, arrays):
    new = ds.assign(met="met / 1000").assign(met="met * 2", twice="met + 0")
    expected = arrays["met"].astype("f8") / 1000 * 2
    np.testing.assert_array_equal(new["met"].compute(), expected)
    np.testing.assert_array_equal(new["twice"].compute(), expected)
    assert new.fields == (*ds.fields, "twice")
    assert new.cut("met > 0.1").count() == (expected > 0.1).sum()
    assert new.cut("met > 0.1").fields == ("met",)
    assert ds.cut("met > 0.1").count() == (arrays["met"] > 0.1).sum()
    assert new.assign(met="n")["twice"].compute().tolist() == expected.tolist()


def test_in_cuts_the_expression_stands_for_the_field(ds, arrays, ht):
    new = ds.assign(ht="sum(jet_pt)", big="ht > 100 & met > 20")
    cut = new.cut("big & n >= x", x=2)
    assert cut.expression == "((sum(jet_pt) > 100) and (met > 20) and (n >= 2))"
    expected = (ht > 100) & (arrays["met"] > 20) & (arrays["n"] >= 2)
    assert cut.count() == expected.sum()
    with count_reads() as reads:
        assert mm.open(ds.path).cut("sum(jet_pt) > 100 & met > 20 & n >= 2").count() == expected.sum()
    assert not reads.log, "the same cut, however it is written, is kept once"
    other = ds.assign(ht="sum(jet_pt)", big="ht > 101 & met > 20").cut("big & n >= 2")
    with count_reads() as reads:
        other.count()
    assert reads.rows.get("jet_pt", 0) == N, "another derived field is another cut"
    assert reads.rows.get("met", 0) == 0, "what did not change is not computed again"


def test_selections_splits_and_cut_flows(ds, arrays, ht):
    new = ds.assign(ht="sum(jet_pt)", key="event * 1", even="event % 2 == 0", w2="w * 2")
    selected = new[new.cut("ht > 100")]
    np.testing.assert_array_equal(selected["ht"].compute(), ht[ht > 100])
    assert selected[5:9]["key"].compute().tolist() == arrays["event"][ht > 100][5:9].tolist()
    by_key, by_event = (new.split({"a": 0.4, "b": 0.6}, by=by, seed=2) for by in ("key", "event"))
    assert by_key["a"]["event"].compute().tolist() == by_event["a"]["event"].compute().tolist()
    flow = new.cutflow(["ht > 100", "even"], weight="w2", by="even")
    assert flow.groups == (False, True)
    even = arrays["event"] % 2 == 0
    for i, group in enumerate([~even, even]):
        assert flow.cumulative.rows[i].tolist() == [
            group.sum(),
            (group & (ht > 100)).sum(),
            (group & (ht > 100) & even).sum(),
        ]
        np.testing.assert_allclose(flow.cumulative.sums[i, 1], arrays["w"][group & (ht > 100)].sum() * 2)


def test_a_split_goes_by_the_field_as_it_was(ds):
    rows = ds.assign(key="event * 1").split({"a": 0.5, "b": 0.5}, by="key")["a"].assign(key="n")["event"].compute()
    assert rows.tolist() == ds.split({"a": 0.5, "b": 0.5}, by="event")["a"]["event"].compute().tolist()


@pytest.mark.parametrize("shuffle", [True, False])
def test_batches(ds, arrays, ht, shuffle):
    new = ds.assign(ht="sum(jet_pt)", scaled="jet_pt / ht", lead="max(jet_pt)")
    view = new[new.cut("n >= 1")][["ht", "scaled", "lead", "event"]]
    seen = []
    for batch in view.batches(200, collate={"scaled": mm.pad(3, value=-1)}, shuffle=shuffle):
        np.testing.assert_array_equal(batch["ht"], ht[batch.rows])
        scaled = ak.fill_none(ak.pad_none(arrays["jet_pt"][batch.rows] / ht[batch.rows], 3, clip=True), -1)
        np.testing.assert_array_equal(batch["scaled"], scaled.to_numpy())
        np.testing.assert_array_equal(batch["scaled_mask"], np.arange(3) < arrays["n"][batch.rows, None])
        assert batch["lead_valid"].all()
        seen += batch["event"].tolist()
    assert sorted(seen) == sorted(arrays["event"][arrays["n"] >= 1].tolist())
    packed = next(iter(view.batches(10, shuffle=False)))["scaled"]
    assert packed.offsets[-1] == len(packed.values)


def test_a_loader_in_another_process_needs_no_dask(ds, ht, tmp_path):
    loader = ds.assign(ht="sum(jet_pt)", met="met * 2")[["ht", "met"]].batches(N, shuffle=False)
    (tmp_path / "loader").write_bytes(pickle.dumps(loader))
    code = (
        "import pickle, sys; batch = next(iter(pickle.load(open(sys.argv[1], 'rb')))); "
        "assert 'dask' not in sys.modules; print(repr(float(batch['ht'].sum())))"
    )
    env = {**os.environ, "PYTHONHASHSEED": "7"}
    out = subprocess.run([sys.executable, "-c", code, tmp_path / "loader"], capture_output=True, text=True, env=env)
    assert out.returncode == 0, out.stderr
    assert float(out.stdout) == ht.sum()


def test_saved_fields_are_stored_and_computed_for_rows_that_come_later(ds, arrays, ht, tmp_path):
    new = ds.assign(ht="sum(jet_pt)", met="met / 2", half="met / 3", r=ds["met"])
    saved = new[new.cut("ht > 100")].save(tmp_path / "saved.mm", fields=["jet_pt", "ht", "met", "half"])
    np.testing.assert_array_equal(saved["ht"].compute(), ht[ht > 100])
    np.testing.assert_array_equal(saved["half"].compute(), arrays["met"].astype("f8")[ht > 100] / 2 / 3)
    expressions = {name: f.expression for name, f in saved.schema.items()}
    assert expressions == {"jet_pt": "", "ht": "sum(jet_pt)", "met": "", "half": ""}, "met is another field there"
    with mm.append(tmp_path / "saved.mm") as w:
        w.append({"jet_pt": [1.0, 2.0], "met": 3.0, "half": 1.0})
    assert mm.open(tmp_path / "saved.mm")["ht"][-1].compute() == 3


def test_pickles_by_reference(ds, ht):
    new = ds.assign(ht="sum(jet_pt)")
    again = pickle.loads(pickle.dumps(new[new.cut("ht > 100")]))
    assert len(pickle.dumps(new)) < 5000
    np.testing.assert_array_equal(again["ht"].compute(), ht[ht > 100])


def test_refresh_computes_rows_that_were_appended(ds):
    new = ds.assign(ht="sum(jet_pt)")
    hard = new[new.cut("ht > 1000")]
    before = len(hard)
    with mm.append(ds.path) as w:
        w.append({"met": 1.0, "n": 1, "event": N, "jet_pt": [5000.0], "process": "tth", "w": 1.0})
    assert len(hard.refresh()) == before + 1
    assert hard.refresh()["ht"][-1].compute() == 5000
    assert hard.refresh().fields == new.fields


# Dask arrays ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [None, 700, 1])
def test_a_dask_array_follows_every_selection(ds, arrays, chunks):
    values = np.stack([arrays["met"], arrays["w"]], axis=1)
    array = da.from_array(values, chunks=(chunks or N, 1))
    if chunks == 1:
        array = array[:, 0]
        values = values[:, 0]
    new = ds.assign(r=array)
    np.testing.assert_array_equal(new["r"].compute(), values)
    keep = arrays["met"] > 60
    selected = new[new.cut("met > 60")]
    assert selected["r"].chunks[0] == selected["met"].chunks[0]
    np.testing.assert_array_equal(selected["r"].compute(), values[keep])
    np.testing.assert_array_equal(selected[10:90:7]["r"].compute(), values[keep][10:90:7])
    np.testing.assert_array_equal(new[100:2000][new.cut("met > 60")]["r"].compute(), values[100:2000][keep[100:2000]])
    assert new[new.cut("met > 1e9")]["r"].compute().shape == (0, *values.shape[1:])
    a = new.split({"a": 0.5, "b": 0.5}, by="event")["a"]
    np.testing.assert_array_equal(a["r"].compute(), values[np.isin(arrays["event"], a["event"].compute())])


def test_a_dask_array_given_to_a_selection(ds, arrays):
    selected = ds[ds.cut("met > 60")]
    new = selected.assign(r=selected["met"] / 2)
    harder = new[new.cut("met > 90")]
    with max_computes(2):  # the cut, and the array
        r = harder["r"].compute()
    np.testing.assert_array_equal(r, arrays["met"][arrays["met"] > 90] / 2)


def test_where_a_dask_array_cannot_be_it_is_said(ds):
    new = ds.assign(r=ds["met"] / 2)
    for attempt in (
        lambda: new.cut("r > 2"),
        lambda: new.batches(10),
        lambda: new.split({"a": 1.0}, by="r"),
        lambda: new.cutflow(["n > 1"], weight="r"),
        lambda: new.assign(s="r + 1"),
        lambda: new.save("never.mm"),
        lambda: new[3],
    ):
        with pytest.raises(mm.OptionError, match=r"'r' is a dask array; assign it as text"):
            attempt()
    with pytest.raises(mm.OptionError, match="refresh the dataset that it was given to"):
        new.refresh()
    assert new[["met", "n"]].batches(10) is not None
    assert new.assign(r="met / 2").cut("r > 2").count() == ds.cut("met > 4").count()


# Mistakes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"ht": "sum(jet_p)"}, mm.ExpressionError, "did you mean 'jet_pt'"),
        ({"a": "b", "b": "a"}, mm.ExpressionError, "computed from each other"),
        ({"p": "process"}, mm.ExpressionError, "text alone is no value"),
        ({"a": np.zeros(3)}, mm.OptionError, "mm.assign"),
        ({"a": da.zeros(3)}, mm.OptionError, "has 3 entries, and the dataset 3,000 rows"),
        ({"a": da.zeros(())}, mm.OptionError, "one value"),
        ({"": "met"}, mm.SchemaError, "name"),
        (["ht"], mm.OptionError, "mapping"),
    ],
)
def test_mistakes(ds, fields, error, text):
    with pytest.raises(error, match=text):
        ds.assign(fields)


def test_more_mistakes(ds):
    with pytest.raises(mm.OptionError, match="given twice"):
        ds.assign({"a": "met"}, a="met")
    unknown = ds["met"][ds["met"] > 3]
    with pytest.raises(mm.OptionError, match="length of this dask array is not known"):
        ds.assign(a=unknown)
    with pytest.raises(mm.ExpressionError) as caught:
        ds.assign(a="met >")
    assert caught.value.__notes__ == ["in the expression of the field 'a'"]
    ds = ds.assign(ht="sum(jet_pt)")
    with pytest.raises(mm.ExpressionError, match=r"did you mean 'ht'"):
        ds.cut("hht > 3")
    with pytest.raises(mm.ExpressionError, match=r"\(n & 2\) .*== 2|two readings"):
        ds.assign(flag="met > 3").cut("n & flag")


names = st.sampled_from(["x", "y", "z"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(names, st.sampled_from(["+", "*", "-"]), names, names), min_size=1, max_size=6))
def test_chains_of_assignments_are_those_of_python(tmp_path_factory, steps):
    path = tmp_path_factory.mktemp("chain") / "s.mm"
    values = {"x": np.arange(5), "y": np.arange(5) * 3 + 1, "z": np.arange(5) - 2}
    ds = mm.from_arrays(values, path)
    for target, op, a, b in steps:
        ds = ds.assign({target: f"{a} {op} {b}"})
        values = {**values, target: {"+": np.add, "*": np.multiply, "-": np.subtract}[op](values[a], values[b])}
    for name, expected in values.items():
        assert ds[name].compute().tolist() == expected.tolist()
    assert ds.cut("x > y").mask.compute().tolist() == (values["x"] > values["y"]).tolist()
