"""Fields of a dataset that are computed when they are read: `ds.assign`."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from functools import partial

import awkward as ak
import dask
import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mmdask as mm
from mmdask.expr import canonical
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


@pytest.mark.parametrize("chunks", [None, 700, 13])
def test_a_dask_array_follows_every_selection(ds, arrays, chunks):
    values = np.stack([arrays["met"], arrays["w"]], axis=1)
    array = da.from_array(values, chunks=(chunks or N, 1))
    if chunks == 13:
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
        lambda: new.cut(lambda block: block["r"] > 2, key="r", fields=["met", "r*"]),
        lambda: new.explain("r > 2"),
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


# Against Python, row by row -------------------------------------------------------------------------------------------


def items(f, *rows):
    """A function of the items of rows, None where there is none."""
    if any(row is None for row in rows):
        return None
    return [None if any(x is None for x in xs) else f(*xs) for xs in zip(*rows, strict=True)]


def some(f, *values):
    return None if any(v is None for v in values) else f(*values)


OF_ROWS = {
    "x * 2 + 1": lambda r: r["x"] * 2 + 1,
    "a + 1": lambda r: some(lambda a: a + 1, r["a"]),
    "a > 2 & x < 5": lambda r: False if r["x"] >= 5 else some(lambda a: a > 2, r["a"]),
    "label == 'p'": lambda r: some(lambda c: c == "p", r["label"]),
    "sum(vec)": lambda r: sum(r["vec"]),
    "3": lambda r: 3,
    "where(ismissing(label), -1, a)": lambda r: -1 if r["label"] is None else r["a"],
}
OF_ITEMS = {
    "jet": lambda r: r["jet"],
    "jet * x": lambda r: items(lambda j: j * r["x"], r["jet"]),
    "jet + a": lambda r: items(lambda j: some(lambda a: j + a, r["a"]), r["jet"]),
    "where(x > 4, jet, jet * 2)": lambda r: items(lambda j: j if r["x"] > 4 else j * 2, r["jet"]),
    "vec * x": lambda r: [v * r["x"] for v in r["vec"]],
    "deep + x": lambda r: items(lambda d: items(lambda v: v + r["x"], d), r["deep"]),
    "hits * 2": lambda r: items(lambda h: h * 2, r["hits"]),
}


def random_rows(n, seed):
    rng = np.random.default_rng(seed)

    def maybe(value):
        return None if rng.random() < 0.2 else value

    def several(of):
        return [of() for _ in range(rng.integers(0, 4))]

    number = partial(lambda: float(rng.integers(0, 100)))
    return [
        {
            "x": float(rng.integers(0, 10)),
            "a": maybe(int(rng.integers(0, 6))),
            "label": maybe("pq"[rng.integers(0, 2)]),
            "vec": [number(), number(), number()],
            "hits": several(number),
            "jet": maybe(several(lambda: maybe(number()))),
            "deep": maybe(several(lambda: maybe(several(lambda: maybe(number()))))),
        }
        for _ in range(n)
    ]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A store of parts of several lengths with missing values everywhere, and its rows."""
    path = tmp_path_factory.mktemp("mixed") / "s.mm"
    fields = [
        mm.Field.dense("x", "f8"),
        mm.Field.dense("a", "i4", optional=(0,)),
        mm.Field.category("label", labels=["q", "p"], optional=(0,)),
        mm.Field.dense("vec", "f8", (3,)),
        mm.Field.ragged("hits", "f8"),
        mm.Field.ragged("jet", "f8", optional=(0, 1)),
        mm.Field.ragged("deep", "f8", levels=2, optional=(0, 1, 2)),
    ]
    rows = []
    for i, n in enumerate((37, 1, 90, 5)):
        more = random_rows(n, i)
        with mm.create(path, fields=fields) if not rows else mm.append(path) as w:
            for r in more:
                w.append(r)
        rows += more
    return path, rows


@pytest.mark.parametrize(("io", "block_rows"), [("mmap", 1 << 18), ("pread", 7)])
def test_every_way_to_the_values_is_that_of_python(mixed, monkeypatch, io, block_rows):
    path, rows = mixed
    monkeypatch.setattr("mmdask.rows.rows.BLOCK_ROWS", block_rows)
    texts = {f"f{i}": text for i, text in enumerate([*OF_ROWS, *OF_ITEMS])}
    wanted = {f"f{i}": [f(r) for r in rows] for i, f in enumerate([*OF_ROWS.values(), *OF_ITEMS.values()])}
    ds = mm.open(path, chunks=64, io=io).assign(texts)
    keep = [i for i, r in enumerate(rows) if r["x"] > 2]
    picked = ds[ds.cut("x > 2")]
    views = {
        "all": (ds, range(len(rows))),
        "slice": (ds[30:60], range(30, 60)),
        "strided": (ds[3:120:7], range(3, 120, 7)),
        "cut": (picked, keep),
        "of a cut": (picked[2:50:3], keep[2:50:3]),
        "cut of it": (picked[2:50:3][ds.cut("x < 8")], [i for i in keep[2:50:3] if rows[i]["x"] < 8]),
        "none": (ds[5:5], []),
    }
    for what, (view, numbers) in views.items():
        together = view.to_awkward(list(texts))
        for name, text in texts.items():
            expected = [wanted[name][i] for i in numbers]
            assert view[name].compute().tolist() == expected, (what, text)
            assert together[name].to_list() == expected, (what, text)
            if view.schema[name].n_offsets:
                counts = [None if row is None else len(row) for row in expected]
                assert view[name].counts.compute().tolist() == counts, (what, text)
                assert list(map(_listed, view[name])) == expected, (what, text)
    order = np.random.default_rng(0).permutation(len(rows))[:60]
    taken = ds[order]
    for name, text in texts.items():
        assert taken[name].tolist() == [wanted[name][i] for i in order], text
    assert {name: _listed(value) for name, value in ds[33].items() if name in texts} == {
        name: values[33] for name, values in wanted.items()
    }


def _listed(value):
    return value.tolist() if hasattr(value, "tolist") else value


def test_saved_values_are_those_of_python(mixed, tmp_path):
    path, rows = mixed
    texts = {f"f{i}": text for i, text in enumerate([*OF_ROWS, *OF_ITEMS])}
    ds = mm.open(path).assign(texts)
    saved = ds[ds.cut("x > 2")].save(tmp_path / "saved.mm", part_nbytes=2000)
    assert len(saved.sources) > 1
    for name, f in zip(texts, [*OF_ROWS.values(), *OF_ITEMS.values()], strict=True):
        assert saved[name].compute().tolist() == [f(r) for r in rows if r["x"] > 2], texts[name]
        assert saved.schema[name].expression == ds._rows.derived[name].expression.canonical
    with mm.append(tmp_path / "saved.mm") as w:
        w.append(rows[0])
    again = mm.open(tmp_path / "saved.mm")[-1:]
    for name, f in zip(texts, [*OF_ROWS.values(), *OF_ITEMS.values()], strict=True):
        assert again[name].compute().tolist() == [f(rows[0])], texts[name]


@pytest.mark.parametrize("shuffle", [True, "exact"])
def test_arrays_of_batches_are_their_own(mixed, shuffle):
    path, rows = mixed
    ds = mm.open(path).assign(c="3", k="x * 0 > 1", j="jet", d="vec * 2", m="a", n="hits * 0 + 1")
    for batch in ds[["c", "k", "j", "d", "m", "n"]].batches(20, shuffle=shuffle, collate={"n": mm.pad(2)}):
        for name, value in batch.items():
            arrays = value if isinstance(value, tuple) else (value,)
            for array in arrays:
                assert array is None or array.flags.writeable, name
        assert batch["c"].tolist() == [3] * len(batch.rows)
        batch["c"][0] = 5
        assert (batch["c"] == 5).sum() == 1
        assert batch["m_valid"].tolist() == [rows[i]["a"] is not None for i in batch.rows]
        assert batch["j_valid"].tolist() == [rows[i]["jet"] is not None for i in batch.rows]
        assert batch["d"].values.tolist() == [v * 2 for i in batch.rows for v in rows[i]["vec"]]


# What goes along, what is kept, and what it costs ---------------------------------------------------------------------


def test_two_fields_of_a_name_are_two(ds, arrays, ht):
    one, other = ds.assign(h="sum(jet_pt)", j="jet_pt * 2"), ds.assign(h="sum(jet_pt) + 1", j="jet_pt * 4")
    pairs = dask.compute(
        *[f(view) for view in (one, other) for f in (lambda v: v["h"], lambda v: v["j"].values, lambda v: v["j"].sum())]
    )
    np.testing.assert_array_equal(pairs[0] + 1, pairs[3])
    np.testing.assert_array_equal(pairs[1] * 2, pairs[4])
    np.testing.assert_array_equal(pairs[2] * 2, pairs[5])
    kept, more = dask.persist(one["j"], other["j"])
    assert kept.compute()[5].to_list() == [x * 2.0 for x in arrays["jet_pt"][5]]
    assert more.compute()[5].to_list() == [x * 4.0 for x in arrays["jet_pt"][5]]
    few = [np.float64(x) for x in dask.compute(one["h"].max(), other["h"].max())]
    assert few == [ht.max(), ht.max() + 1]


def test_the_state_of_a_loader_is_of_the_field_that_selected(ds):
    def loader(text, **options):
        new = ds.assign(h=text)
        return new[new.cut("h > 100")].batches(64, **options)

    state = loader("sum(jet_pt)").state_dict()
    loader("sum(jet_pt)", fields="met").load_state_dict(state)
    ds[ds.cut("sum(jet_pt) > 100")].batches(64).load_state_dict(state)
    with pytest.raises(mm.StateError, match="another data or selection"):
        loader("sum(jet_pt) * 2").load_state_dict(state)
    by = [ds.assign(k=text).split({"a": 0.5, "b": 0.5}, by="k")["a"].batches(64) for text in ("event * 2", "event")]
    with pytest.raises(mm.StateError, match="another data or selection"):
        by[0].load_state_dict(by[1].state_dict())


def test_inputs_are_read_once(ds):
    new = ds.assign(share="jet_pt / sum(jet_pt)", ht="sum(jet_pt) * sum(jet_pt)")
    for name in ("share", "ht"):
        with count_reads() as reads:
            new[name].compute()
        assert reads.rows == {"jet_pt": N}


def test_only_what_is_read_goes_along(ds):
    many = ds.assign({f"c{i}": f"met * {i} + sum(jet_pt)" for i in range(100)}).assign(ht="sum(jet_pt)", j="jet_pt * 2")
    few = ds.assign(ht="sum(jet_pt)", j="jet_pt * 2")
    for f in (lambda v: v["ht"].dask, lambda v: v["j"], lambda v: v[["ht"]].batches(8), lambda v: v["j"].sum().dask):
        assert len(pickle.dumps(f(many))) <= len(pickle.dumps(f(few))) + 500


def test_many_fields_that_build_on_each_other(tmp_path):
    ds = mm.from_arrays({"x": np.arange(5)}, tmp_path / "s.mm")
    texts = {f"c{i}": f"where(x > {i}, x, c{i // 2}) + c{i // 3}" if i else "x * x" for i in range(200)}
    values = {}
    x = np.arange(5)
    for i in range(200):
        values[i] = np.where(x > i, x, values[i // 2]) + values[i // 3] if i else x * x
    start = time.process_time()
    new = ds.assign(texts)
    cut = new.cut("c199 > c100")
    again = new.refresh()
    assert time.process_time() - start < 10, "0.7 s on a machine that does nothing else"
    assert new["c199"].compute().tolist() == again["c199"].compute().tolist() == values[199].tolist()
    assert cut.count() == (values[199] > values[100]).sum()


def test_fields_that_would_grow_without_end(tmp_path, monkeypatch):
    ds = mm.from_arrays({"c0": np.arange(5)}, tmp_path / "s.mm")
    texts = {f"c{i}": f"(c{i - 1} * c{i - 1}) % 7" for i in range(1, 15)}
    texts_made = []
    monkeypatch.setattr(
        "mmdask.dataset.cuts.explain.canonical", lambda tree: texts_made.append(tree) or canonical(tree)
    )
    explained = ds.assign(texts).explain("c14 > 3")
    assert len(texts_made) < 100, "each piece is looked at once, not once for each way to it"
    assert len(repr(explained)) < 20_000
    assert len(explained.steps) == 30
    with pytest.raises(mm.ExpressionError, match=r"repeats .* operations.*mm.assign") as caught:
        ds.assign(texts | {f"c{i}": f"(c{i - 1} * c{i - 1}) % 7" for i in range(15, 40)})
    assert "in the expression of the field 'c" in caught.value.__notes__[0]


def test_rows_are_computed_in_blocks_that_fit_into_memory(tmp_path):
    ds = mm.from_arrays({"wide": np.zeros((100, 1 << 18), "u1")}, tmp_path / "s.mm")
    blocks = list(ds._rows.blocks(100))
    assert [a for a, _ in blocks[1:]] == [b for _, b in blocks[:-1]]
    assert blocks[-1][1] == 100
    assert max(b - a for a, b in blocks) << 18 <= 64 << 20


# Names and texts ------------------------------------------------------------------------------------------------------


def test_names_that_are_words_of_the_language(ds, arrays):
    new = ds.assign({"pi": "met * 2", "sum": "n", "two words": "met + 1", "and": "n"})
    with pytest.raises(mm.ExpressionError, match="write `pi` for the field"):
        new.assign(x="pi + 1")
    new = new.assign(x="`pi` / 2 + sum(jet_pt) * 0 + sum - `and`", y="`two words` - 1")
    np.testing.assert_array_equal(new["x"].compute(), arrays["met"].astype("f8"))
    np.testing.assert_array_equal(new["y"].compute(), arrays["met"].astype("f8") + 1 - 1)
    assert new.cut("`two words` > 51").count() == (arrays["met"].astype("f8") + 1 > 51).sum()
    new[["met", "n", "jet_pt", "two words", "y"]].save(ds.path + "2")
    assert mm.open(ds.path + "2").schema["y"].expression == "((met + 1) - 1)"


def test_a_cut_as_a_field_says_what_it_is(ds, arrays):
    hot = ds.assign(hot="met * 2")
    new = ds.assign(hard=ds.cut("met > x", x=50), harder=hot.cut("hot > 160"))
    assert new.schema["hard"].expression == "(met > 50)"
    assert new.schema["harder"].expression == "((met * 2) > 160)"
    np.testing.assert_array_equal(new["harder"].compute(), arrays["met"] > 80)


def test_a_cut_of_another_generation_is_checked_anew(ds, arrays):
    cut = ds.cut("met > 30")
    missing = np.ma.MaskedArray(arrays["met"], arrays["n"] == 0)
    mm.assign(ds.path, met=missing, replace=True)
    newest = mm.open(ds.path)
    expected = np.ma.MaskedArray(arrays["met"] > 30, arrays["n"] == 0)
    new = newest.assign(hard=cut)
    assert new.schema["hard"].optional == (0,)
    np.testing.assert_array_equal(new["hard"].compute().mask, expected.mask)
    assert len(newest[~newest.cut(cut)]) == (~expected).filled(False).sum()


def test_a_cut_from_python_is_no_field(ds, arrays):
    cut = ds.cut(lambda block: block["met"] > 50, key="hard", fields="met")
    for attempt in (cut, cut & ds.cut("n > 2")):
        with pytest.raises(mm.OptionError, match=r"assign its mask, the dask array cut\.mask"):
            ds.assign(hard=attempt)
    np.testing.assert_array_equal(ds.assign(hard=cut.mask)["hard"].compute(), arrays["met"] > 50)


def test_fields_that_were_left_out_stay_out(ds):
    new = ds.assign(h="met * 2", r=ds["met"] * 3)[list(ds.fields)]
    assert new.refresh().fields == ds.fields
    new = ds.assign(h="met * 2", n="n + 1")
    mm.assign(ds.path, later="met * 3")
    assert new.refresh().fields == (*ds.fields, "later", "h")
    assert new[[*ds.fields[::-1], "h"]].refresh().fields == (*ds.fields[::-1], "h")
    mm.drop(ds.path, "process")
    assert new.refresh().fields == (*[name for name in ds.fields if name != "process"], "later", "h")
    assert new.cut("h > 3").count() == ds.cut("met * 2 > 3").count()


def test_items_of_a_field_that_is_no_list(mixed):
    path, rows = mixed
    new = mm.open(path).assign(d="vec * 2", e="vec")
    for name in ("d", "e"):
        assert new[name].counts.compute().tolist() == [3] * len(rows)
        assert len(new[name].values) == 3 * len(rows)
        assert new[name].offsets[-1].compute() == 3 * len(rows)


# More dask arrays -----------------------------------------------------------------------------------------------------


def test_masked_dask_arrays(ds):
    numbers = np.arange(2 * N).reshape(N, 2)
    flat = np.ma.MaskedArray(numbers[:, 0], numbers[:, 0] % 3 == 0)
    pairs = np.ma.MaskedArray(numbers, numbers % 5 == 0)
    new = ds.assign(flat=da.from_array(flat, chunks=100), pairs=da.from_array(pairs, chunks=(100, 1)))
    assert new.schema["flat"].optional == (0,)
    selected = new[new.cut("n > 2")]
    keep = ds["n"].compute() > 2
    assert selected["flat"].compute().tolist() == flat[keep].tolist()
    together = selected.to_awkward(["flat", "pairs"])
    assert together.flat.to_list() == flat[keep].tolist()
    assert together.pairs.to_list() == pairs[keep].tolist()


def test_dask_arrays_of_uneven_chunks(ds):
    array = da.concatenate([da.zeros(0), da.arange(10.0, chunks=3), da.zeros(0), da.arange(N - 10.0, chunks=997)])
    values = array.compute()
    new = ds.assign(r=array)
    assert new["r"].chunks == ds["met"].chunks
    for rows in (slice(3, 900, 4), slice(5, 5), slice(250, 260), slice(N - 1, N)):
        np.testing.assert_array_equal(new[rows]["r"].compute(), values[rows])
    part = ds[3:900:4]
    given = part.assign(r=part["met"] * 2)
    np.testing.assert_array_equal(given[1:40:3]["r"].compute(), part["met"].compute()[1:40:3] * 2)
    none = ds[5:5]
    assert none.assign(r=none["met"] * 2)["r"].compute().shape == (0,)
    cube = da.from_array(np.arange(N * 6).reshape(N, 2, 3), chunks=(700, 1, 2))
    assert new.assign(c=cube)[7:2000:31]["c"].compute().tolist() == cube.compute()[7:2000:31].tolist()


def test_names_beside_a_dask_array_are_names(ds):
    new = ds.assign(r=ds["met"] / 2)
    with pytest.raises(mm.FieldNotFoundError, match="no field 'no such field'"):
        new.split({"a": 1.0}, by="no such field")
    with pytest.raises(mm.FieldNotFoundError, match="no field 'r r'"):
        new.cutflow(["n > 2"], by="r r")


def test_equal_texts_on_other_fields_are_other_expressions(tmp_path):
    """Expressions are remembered by what they are, which is more than their text."""
    plain = mm.from_arrays({"met": [1.0, 3.0]}, tmp_path / "plain.mm")
    with mm.create(tmp_path / "optional.mm", fields=[mm.Field.dense("met", "f8", optional=(0,))]) as w:
        w.extend({"met": [1.0, None]})
    found = []
    for ds in (plain, mm.open(tmp_path / "optional.mm")):
        more = ds.assign(twice="met * 2")
        more = more.assign(large="twice > 3")
        cut = more.cut("large")
        found.append((more.schema["large"].optional, cut.count(), (~cut).count(), ds.cut("not (met * 2 > 3)").count()))
    assert found == [((), 1, 1, 1), ((0,), 0, 1, 1)]
