"""Ragged fields as lazy collections: operators, reductions, selections and maps, against awkward."""

from __future__ import annotations

import operator
import pickle

import awkward as ak
import dask
import dask.array as da
import kinds
import numpy as np
import pytest
from dask.base import tokenize
from hypothesis import given, settings
from hypothesis import strategies as st

import mmdask as mm
import mmdask.testing as mt

N = 500
RNG = np.random.default_rng(4)
COUNTS = RNG.integers(0, 5, N)
ITEMS = int(COUNTS.sum())


def in_lists(values):
    return ak.unflatten(values, COUNTS)


DEEP_COUNTS = RNG.integers(0, 4, ITEMS)
DATA = {
    "pt": in_lists(RNG.exponential(50, ITEMS).astype("f4")),
    "eta": in_lists(RNG.normal(size=ITEMS).astype("f4")),
    "phi": in_lists(RNG.uniform(-3, 3, ITEMS).astype("f4")),
    "mass": in_lists(RNG.exponential(5, ITEMS).astype("f4")),
    "id": in_lists(RNG.integers(-5, 6, ITEMS).astype("i2")),
    "tight": in_lists(RNG.random(ITEMS) > 0.5),
    "deep": ak.unflatten(ak.unflatten(RNG.integers(0, 9, int(DEEP_COUNTS.sum())), DEEP_COUNTS), COUNTS),
    "met": RNG.exponential(40, N),
    "n": COUNTS.astype("i4"),
    "p3": RNG.normal(size=(N, 3)),
    "name": ["ab"[i % 2] * (i % 3) for i in range(N)],
    "words": [["x", "yy", "é"][: i % 4] for i in range(N)],
    "image": [np.arange(i % 3 * (i % 4)).reshape(i % 3, i % 4).astype("i4") for i in range(N)],
}
POINTS = RNG.normal(size=(ITEMS, 2))


def two(x):
    """Rows 200 and after are a part of their own."""
    return x[:200], x[200:]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("ragged") / "s.mm"
    fields = [mm.Field.shaped("image", "i4", 2), mm.Field.ragged("points", "f8", (2,))]
    offsets = np.concatenate([[0], np.cumsum(COUNTS)])
    points = ak.Array(ak.contents.ListOffsetArray(ak.index.Index64(offsets), ak.contents.NumpyArray(POINTS)))
    DATA["points"] = points
    with mm.create(path, fields=fields) as w:
        w.extend({name: two(x)[0] for name, x in DATA.items()})
    with mm.append(path) as w:
        w.extend({name: two(x)[1] for name, x in DATA.items()})
    return path


@pytest.fixture
def ds(path):
    return mm.open(path, chunks=64)


def same(found, expected):
    """Check a lazy result: a chunk for each chunk of the dataset, known, and what awkward makes of all rows."""
    assert not any(np.isnan(found.chunks[0]))
    value = found.compute(scheduler="sync")
    if isinstance(found, mm.Ragged):
        assert isinstance(value, ak.Array)
        assert ak.array_equal(value, expected, equal_nan=True), (value, expected)
        assert found.dtype == np.asarray(ak.flatten(expected, axis=None)).dtype
    else:
        assert found.dtype == value.dtype == np.asarray(expected).dtype
        np.testing.assert_array_equal(value, expected)


# Operators ----------------------------------------------------------------------------------------------------------

OPERATORS = [
    *(operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod),
    *(operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne),
]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("op", OPERATORS, ids=lambda op: op.__name__)
def test_operators_are_those_of_awkward(ds, op):
    pt, data = ds["pt"], DATA["pt"]
    same(op(pt, 30), op(data, np.float32(30)))
    same(op(30.5, pt), op(np.float32(30.5), data))
    same(op(pt, np.float64(2)), op(data, np.float64(2)))
    same(op(pt, ds["eta"]), op(data, DATA["eta"]))
    same(op(pt, ds["met"]), op(data, DATA["met"]))
    same(op(ds["n"], ds["id"]), op(DATA["n"], DATA["id"]))
    same(op(ds["met"] * 2, pt), op(DATA["met"] * 2, data))
    same(op(ds["deep"], pt), op(DATA["deep"], data))


def test_booleans_and_unary_operators(ds):
    tight, pt = ds["tight"], ds["pt"]
    t, p = DATA["tight"], DATA["pt"]
    same(tight & (pt > 20), t & (p > 20))
    same(tight | (pt > 20), t | (p > 20))
    same(tight ^ (pt > 20), t ^ (p > 20))
    same(~tight, ~t)
    same(-pt, -p)
    same(+pt, p)
    same(abs(ds["eta"]), abs(DATA["eta"]))
    same(pt**2, p**2)
    same(2 ** ds["n"] * ds["id"], 2 ** DATA["n"] * DATA["id"])
    same(True & tight, t)


def test_ufuncs_of_numpy_and_dask(ds):
    same(np.sqrt(ds["pt"]), np.sqrt(DATA["pt"]))
    same(np.arctan2(ds["pt"], ds["eta"]), np.arctan2(DATA["pt"], DATA["eta"]))
    same(np.hypot(ds["met"], ds["pt"]), np.hypot(DATA["met"], DATA["pt"]))
    same(da.cosh(ds["eta"]), np.cosh(DATA["eta"]))
    same(np.isfinite(1 / ds["pt"]), np.isfinite(1 / DATA["pt"]))
    same(np.float32(2) * ds["pt"], 2 * DATA["pt"])


def test_one_number_of_all_rows(ds):
    mean = ds["pt"].values.mean()
    found = (ds["pt"] / mean).compute()
    assert np.allclose(ak.flatten(found), ak.flatten(DATA["pt"]) / ak.mean(DATA["pt"]), rtol=1e-4)


def test_shares_of_each_row(ds):
    expected = DATA["pt"] / ak.sum(ak.values_astype(DATA["pt"], "f8"), axis=1)
    assert ak.all(ak.isclose((ds["pt"] / ds["pt"].sum()).compute(), expected))
    expected = DATA["deep"] - ak.max(DATA["deep"], axis=2)
    found = (ds["deep"] - ds["deep"].max()).compute()
    # Of a list without items there is nothing to be missing.
    assert found.to_list() == [[x or [] for x in row] for row in expected.to_list()]


def test_items_of_a_shape(ds):
    points, scaled = ds["points"], POINTS * np.repeat(DATA["met"], COUNTS)[:, None]
    np.testing.assert_array_equal((points * ds["met"]).values.compute(), scaled)
    np.testing.assert_array_equal((points + points).values.compute(), 2 * POINTS)
    np.testing.assert_array_equal(
        (points * ds["p3"][:, :2]).values.compute(), POINTS * np.repeat(DATA["p3"][:, :2], COUNTS, 0)
    )
    sums = [row.sum(axis=0) for row in np.split(POINTS, np.cumsum(COUNTS)[:-1])]
    np.testing.assert_allclose(points.sum().compute(), sums, atol=1e-12)
    firsts = [row[0] if len(row) else [np.nan] * 2 for row in np.split(POINTS, np.cumsum(COUNTS)[:-1])]
    np.testing.assert_array_equal(points.first().compute(), firsts)
    np.testing.assert_array_equal(points[:, 0].compute(), firsts)
    assert points.pad(2).shape == (N, 2, 2)


def test_shaped_rows_keep_their_shapes(ds):
    bright = (ds["image"] * 2 + 1)[:40]
    for found, row in zip(bright, DATA["image"], strict=False):
        np.testing.assert_array_equal(found, row * 2 + 1)
    np.testing.assert_array_equal((ds["image"] * ds["n"])[7], DATA["image"][7] * DATA["n"][7])
    np.testing.assert_array_equal(bright.shapes.compute()[:6], [row.shape for row in DATA["image"][:6]])
    np.testing.assert_array_equal(ds["image"].sum().compute(), [row.sum() for row in DATA["image"]])
    values, mask = ds["image"].pad((2, 2), -1, mask=True)
    assert (values.shape, values.chunks[0]) == ((N, 2, 2), ds.chunks)
    expected = np.full((N, 2, 2), -1)
    for i, row in enumerate(DATA["image"]):
        expected[i, : row.shape[0], : row.shape[1]] = row[:2, :2]
    np.testing.assert_array_equal(values.compute(), expected)
    assert mask.compute()[5].tolist() == [[True, False], [True, False]]
    for wrong in (
        lambda x: x + ds["pt"],
        lambda x: x[:, 0],
        lambda x: x[:, :1],
        lambda x: x.pad(3),
        lambda x: x[x > 0],
    ):
        with pytest.raises(mm.OptionError):
            wrong(ds["image"])


def test_text_is_compared(ds):
    names = np.array(DATA["name"])
    np.testing.assert_array_equal((ds["name"] == "a").compute(), names == "a")
    np.testing.assert_array_equal((ds["name"] != "bb").compute(), names != "bb")
    is_x = ds["words"] == "x"
    assert is_x.compute().to_list() == [[w == "x" for w in row] for row in DATA["words"]]
    assert ds["words"][~is_x].to_list() == [[w for w in row if w != "x"] for row in DATA["words"]]
    for wrong in (lambda x: x < "a", lambda x: x + "a", lambda x: x == ds["words"], lambda x: x * 2, lambda x: x.sum()):
        with pytest.raises(mm.OptionError, match="text"):
            wrong(ds["name"])


# Reductions ---------------------------------------------------------------------------------------------------------


def test_reductions_of_what_is_computed(ds):
    x, data = ds["pt"] * ds["met"] + 1, ak.values_astype(DATA["pt"] * DATA["met"] + 1, "f8")
    np.testing.assert_allclose(x.sum().compute(), ak.sum(data, axis=1))
    for name in ("min", "max", "mean", "std"):
        expected = ak.to_numpy(ak.fill_none(getattr(ak, name)(data, axis=1), np.nan))
        np.testing.assert_allclose(getattr(x, name)().compute(), expected, atol=1e-9)
    np.testing.assert_array_equal(x.argmax().compute(), ak.fill_none(ak.argmax(data, axis=1), -1))
    np.testing.assert_array_equal(x.argmin(default=9).compute(), ak.fill_none(ak.argmin(data, axis=1), 9))
    np.testing.assert_array_equal((x > 500).any().compute(), ak.any(data > 500, axis=1))
    np.testing.assert_array_equal((x > 500).all().compute(), ak.all(data > 500, axis=1))
    np.testing.assert_array_equal((x > 500).count().compute(), ak.sum(data > 500, axis=1))
    np.testing.assert_array_equal(x.first().compute(), ak.to_numpy(ak.fill_none(ak.firsts(data), np.nan)))
    np.testing.assert_array_equal(x.last(default=-1).compute(), ak.to_numpy(ak.fill_none(ak.firsts(data[:, ::-1]), -1)))
    np.testing.assert_allclose(ds["eta"].std().compute(), ak.fill_none(ak.std(DATA["eta"], axis=1), np.nan), atol=1e-6)
    with pytest.raises(mm.OptionError, match="default"):
        (ds["id"] + 1).max()
    for result in (x.sum(), (x > 3).any()):
        assert result.chunks == (ds.chunks,)


def test_reductions_of_lists_in_lists_are_of_the_innermost(ds):
    deep, data = ds["deep"], DATA["deep"]
    assert deep.sum().compute().to_list() == ak.sum(data, axis=2).to_list()
    assert deep.max().compute().to_list() == ak.max(data, axis=2).to_list()
    assert deep.max(default=-1).compute().to_list() == ak.fill_none(ak.max(data, axis=2), -1).to_list()
    assert (deep > 4).count().compute().to_list() == ak.sum(data > 4, axis=2).to_list()
    assert deep.first().compute().to_list() == ak.firsts(data, axis=2).to_list()
    np.testing.assert_array_equal(deep.sum().sum().compute(), ak.sum(ak.sum(data, axis=2), axis=1))


# Items and rows -----------------------------------------------------------------------------------------------------


def test_items_by_number_and_slice(ds):
    pt, data = ds["pt"], DATA["pt"]
    same(pt[:, 0], ak.to_numpy(ak.fill_none(ak.firsts(data), np.float32(np.nan))))
    same(pt[:, -1], ak.to_numpy(ak.fill_none(ak.firsts(data[:, ::-1]), np.float32(np.nan))))
    for wanted in (slice(3), slice(1, None), slice(None, None, -1), slice(-2, None), slice(None, None, 2)):
        same(pt[:, wanted], data[:, wanted])
    same(pt.crop(2), data[:, :2])
    third = ds["id"][:, 2].compute()
    assert third.tolist() == [row[2] if len(row) > 2 else None for row in DATA["id"].to_list()]
    same((pt * 2)[10:400:3, :2], data[10:400:3, :2] * 2)
    assert ds["words"][:, 0].to_list() == [row[0] if row else None for row in DATA["words"]]
    assert ds["deep"][:, :, :1].to_list() == DATA["deep"][:, :, :1].to_list()
    assert ds["deep"][:, 0].to_list() == ak.firsts(DATA["deep"]).to_list()
    assert ds["deep"][:, 0, :2].to_list() == ak.firsts(DATA["deep"])[:, :2].to_list()


def test_items_that_a_condition_chooses(ds):
    pt, data = ds["pt"], DATA["pt"]
    chosen = pt[(pt > 30) & ds["tight"]]
    expected = data[(data > 30) & DATA["tight"]]
    same(chosen, expected)
    np.testing.assert_array_equal(chosen.counts.compute(), ak.num(expected))
    np.testing.assert_array_equal(chosen.offsets.compute(), np.concatenate([[0], np.cumsum(ak.num(expected))]))
    np.testing.assert_array_equal(chosen.values.compute(), ak.flatten(expected))
    np.testing.assert_allclose(chosen.sum().compute(), ak.sum(ak.values_astype(expected, "f8"), axis=1))
    assert ds["deep"][pt > 30].to_list() == DATA["deep"][data > 30].to_list()
    assert ds["deep"][ds["deep"] > 3].to_list() == DATA["deep"][DATA["deep"] > 3].to_list()


def test_parts_of_what_is_computed(ds):
    x, data = ds["pt"] * ds["met"], DATA["pt"] * DATA["met"]
    np.testing.assert_array_equal(x.counts.compute(), COUNTS)
    np.testing.assert_array_equal(x.offsets.compute(), np.concatenate([[0], np.cumsum(COUNTS)]))
    np.testing.assert_array_equal(x.values.compute(), ak.flatten(data))
    assert x.values.chunks == ds["pt"].values.chunks
    assert x.valid.compute().all()
    np.testing.assert_array_equal(x[17], data[17])
    np.testing.assert_array_equal(x[-1], data[-1])
    assert [row.tolist() for row in x[:9]] == data[:9].to_list()
    assert [row.tolist() for row in (ds["pt"] + 1)[:9]] == (DATA["pt"] + 1)[:9].to_list()


def test_selections_have_their_rows(ds):
    good = ds.cut("met > 40 & len(pt) > 1")
    keep = (DATA["met"] > 40) & (COUNTS > 1)
    sel = ds[good]
    same(sel["pt"] * sel["met"], DATA["pt"][keep] * DATA["met"][keep])
    same((sel["pt"] * sel["met"])[5:50:2], (DATA["pt"][keep] * DATA["met"][keep])[5:50:2])
    none = ds[ds.cut("met < -1")]
    assert (none["pt"] * none["met"]).compute().to_list() == []
    assert (none["pt"] * 2)[none["pt"] > 1].compute().to_list() == []
    assert none["pt"].pad(3).compute().shape == (0, 3)
    assert (none["pt"] * 2).values.compute().shape == (0,)
    with pytest.raises(mm.OptionError, match="rows, and the ragged field"):
        ds["pt"] + sel["pt"]
    with pytest.raises(mm.OptionError, match="rows, and the ragged field"):
        ds["pt"] + sel["met"]


def test_padding(ds):
    values, mask = ds["pt"].pad(3, np.nan, mask=True)
    expected = ak.to_numpy(ak.fill_none(ak.pad_none(DATA["pt"], 3, clip=True), np.float32(np.nan)))
    same(values, expected)
    np.testing.assert_array_equal(mask.compute(), np.arange(3) < COUNTS[:, None])
    assert (values.chunks, mask.chunks) == ((ds.chunks, (3,)), (ds.chunks, (3,)))
    assert ds["id"].pad(2, 7).dtype == np.int16
    with pytest.raises(mm.OptionError, match="does not fit"):
        ds["id"].pad(2, np.nan)
    for wrong in (-1, 1.5, "max", True, (2, 2)):
        with pytest.raises(mm.OptionError, match="pad"):
            ds["id"].pad(wrong)
    with pytest.raises(mm.OptionError, match="crop"):
        ds["id"].crop(-1)


# Maps and records ---------------------------------------------------------------------------------------------------


def test_map_gives_what_the_function_gives(ds):
    same(ds["pt"].map(ak.sort), ak.sort(DATA["pt"]))
    ht = ds["pt"].map(lambda pt, met: ak.to_numpy(ak.sum(pt, axis=1)) + met, ds["met"])
    assert isinstance(ht, da.Array)
    np.testing.assert_allclose(ht.compute(), ak.to_numpy(ak.sum(DATA["pt"], axis=1)) + DATA["met"], rtol=1e-5)
    tops = ds["pt"].map(lambda pt: ak.to_numpy(ak.fill_none(ak.pad_none(pt, 2, clip=True), 0)))
    assert (tops.shape, tops.chunks[0]) == ((N, 2), ds.chunks)
    best = ds["pt"].map(lambda pt: ak.max(pt, axis=1))
    assert best.compute().tolist() == ak.max(DATA["pt"], axis=1).to_list()
    pairs = ds["pt"].map(lambda pt: ak.combinations(pt, 2, fields=["a", "b"]))
    assert type(pairs).__name__ == "Records"
    assert pairs.fields == ("a", "b")
    two = ak.combinations(DATA["pt"], 2, fields=["a", "b"])
    same((pairs.a + pairs["b"])[:50], (two.a + two.b)[:50])
    assert pairs.a.sum().compute().shape == (N,)
    twice = (ds["pt"] * ds["met"]).map(ak.sort)[30:90] * 2
    same(twice, ak.sort(DATA["pt"] * DATA["met"])[30:90] * 2)


def test_map_says_what_is_wrong(ds):
    for function, words in [
        (ak.flatten, "one entry for each row"),
        (lambda pt: pt[(pt.layout.length and slice(1, None)) or slice(None)], "one entry for each row"),
        (lambda pt: ak.values_astype(pt, "f8") if len(pt) else ak.values_astype(pt, "i8"), "exactly|integer|int64"),
    ]:
        with pytest.raises(ValueError, match=words):
            ds["pt"].map(function).compute(scheduler="sync")
    with pytest.raises(mm.OptionError, match="one entry for each row"):
        ds["pt"].map(ak.sum)
    with pytest.raises(mm.OptionError, match="takes a function"):
        ds["pt"].map(3)
    with pytest.raises(ZeroDivisionError) as caught:
        ds["pt"].map(lambda pt: 1 // 0)
    assert "in map(<lambda>)" in caught.value.__notes__


@pytest.fixture
def jets(ds):
    return ds.assign({f"jet_{name}": name for name in ("pt", "eta", "phi", "mass")}).zip("jet")


def test_zip_makes_records(ds, jets):
    whole = ak.zip({name: DATA[name] for name in ("pt", "eta", "phi", "mass")})
    assert jets.compute().to_list() == whole.to_list()
    assert jets.fields == ("pt", "eta", "phi", "mass")
    assert ak.parameters(jets.compute()[0, :0]) is not None
    same(jets.pt, DATA["pt"])
    same(jets["eta"][3:9], DATA["eta"][3:9])
    assert jets[jets.pt > 30].compute().to_list() == whole[whole.pt > 30].to_list()
    assert jets[40:300:7, :2].to_list() == whole[40:300:7, :2].to_list()
    assert jets[40:300:7].to_list() == whole[40:300:7].to_list()
    assert jets[:, :1].to_list() == whole[:, :1].to_list()
    assert jets.persist()[60:70].to_list() == whole[60:70].to_list()
    assert pickle.loads(pickle.dumps(jets)).to_list() == whole.to_list()
    with pytest.raises(mm.FieldNotFoundError, match="did you mean 'eta'"):
        jets["etta"]
    with pytest.raises(AttributeError, match="did you mean 'eta'"):
        jets.etta
    with pytest.raises(mm.FieldNotFoundError, match="no fields lep_"):
        ds.zip("lep")
    mixed = ds.assign(a_pt="pt", a_w="pt[pt > 20]").zip("a")
    with pytest.raises(mm.ExpressionError, match="different numbers of items"):
        mixed.compute(scheduler="sync")


def test_records_of_one_entry_per_row(ds):
    more = ds.assign(lep_met="met", lep_n="n", lep_half=ds["met"] / 2)
    leptons = more.zip("lep")
    expected = ak.zip({"met": DATA["met"], "n": DATA["n"], "half": DATA["met"] / 2})
    assert ak.array_equal(leptons.compute(), expected)
    np.testing.assert_array_equal(leptons.met.compute(), DATA["met"])
    assert leptons[5:9].to_list() == expected[5:9].to_list()
    assert more[more.cut("n > 2")].zip("lep").to_list() == expected[COUNTS > 2].to_list()
    with pytest.raises(mm.OptionError, match="one record"):
        leptons[ds["pt"] > 3]
    assert "lep_met" not in leptons._repr_html_()
    assert repr(leptons) == "mm.Records<met, n, half, rows=500, chunks=9>"


def test_records_share_memory_with_the_store(tmp_path):
    fields = {f"jet_{name}": DATA[name] for name in ("pt", "eta")}
    ds = mm.open(mm.from_arrays(fields, tmp_path / "j.mm").path, io="mmap")
    found = ds.zip("jet").compute(scheduler="sync")
    for name in ("pt", "eta"):
        stored = ds._rows.read(f"jet_{name}", 0, N).values
        assert np.shares_memory(ak.to_numpy(ak.flatten(found[name])), stored)


def test_records_of_momenta_are_vectors(jets):
    vector = pytest.importorskip("vector", reason="the package vector is not installed")
    vector.register_awkward()
    whole = ak.zip({name: DATA[name] for name in ("pt", "eta", "phi", "mass")}, with_name="Momentum4D")
    assert "Momentum4D" in str(jets.compute().type)
    px = jets.map(lambda j: j.px)
    assert ak.all(ak.isclose(px.compute(), whole.px))

    def invariant(j):
        return (ak.firsts(j[:, :1]) + ak.firsts(j[:, 1:2])).mass

    expected = invariant(whole)
    found = jets.map(invariant).compute()
    np.testing.assert_array_equal(np.ma.getmaskarray(found), ak.num(whole) < 2)
    np.testing.assert_allclose(np.ma.filled(found, -1), ak.fill_none(expected, -1), rtol=1e-3, atol=1e-2)
    chosen = jets[jets.pt > 30].compute()
    assert ak.array_equal(chosen.pt, DATA["pt"][DATA["pt"] > 30])
    assert ak.all(ak.isclose(chosen.px, whole[whole.pt > 30].px))


# As collections of dask ---------------------------------------------------------------------------------------------


def test_one_task_for_each_chunk(ds):
    pt, met = ds["pt"], ds["met"]
    x = (pt * met + 1) / (pt * met + 1).sum()
    for lazy in (
        pt,
        pt * 2 + 1,
        pt * (met * 2 + 1),
        x,
        x[pt > 20],
        x[:, :2],
        x.sum(),
        x.pad(2),
        pt.map(ak.sort),
        pt.sum(),
    ):
        [optimized] = dask.optimize(lazy)
        assert len(dict(optimized.__dask_graph__())) == len(ds.chunks)


def test_nothing_is_read_before_it_is_computed_and_slices_read_their_rows(ds):
    with mt.count_reads() as reads, mt.max_computes(0):
        pt = ds["pt"]
        x = (np.sqrt(pt * ds["met"]) + pt)[pt > 20][100:200]
        lazy = [
            x,
            x.sum(),
            x.pad(3),
            x[:, 0],
            x.map(ak.sort),
            x.counts,
            x.offsets,
            ds.assign(j_pt="pt").zip("j"),
            (pt * 2).values,
        ]
        [repr(thing) for thing in lazy]
        pickle.dumps(lazy)
        tokenize(lazy)
    assert reads.n_rows == 0
    with mt.count_reads() as reads, mt.max_computes(1):
        x.compute()
    assert reads.rows == {"pt": 100, "met": 100}
    with mt.count_reads() as reads:
        (ds["pt"] * 2).sum()[130:140].compute()
    assert reads.rows == {"pt": 10}


def test_everything_together_in_one_compute(ds):
    x = ds["pt"] * ds["met"]
    values = dask.compute(x, ds["met"], ds["pt"], x.sum(), ds["n"])
    assert ak.array_equal(values[0], DATA["pt"] * DATA["met"])
    np.testing.assert_array_equal(values[1], DATA["met"])
    assert ak.array_equal(values[2], DATA["pt"])
    np.testing.assert_array_equal(values[4], DATA["n"])


@pytest.mark.parametrize("scheduler", ["sync", "threads", "processes"])
def test_schedulers_agree(ds, jets, scheduler):
    x = (ds["pt"] * ds["met"] + 1)[ds["tight"]]
    expected = (DATA["pt"] * DATA["met"] + 1)[DATA["tight"]]
    with dask.config.set(scheduler=scheduler, num_workers=1):  # each worker process takes seconds to begin
        found, sums, records = dask.compute(x, x.sum(), jets)
    assert ak.array_equal(found, expected)
    np.testing.assert_allclose(sums, ak.sum(expected, axis=1))
    assert ak.array_equal(records.pt, DATA["pt"])


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_cluster_agrees(ds, jets):
    distributed = pytest.importorskip("distributed")
    x = (ds["pt"] * ds["met"] + 1)[ds["tight"]]
    expected = (DATA["pt"] * DATA["met"] + 1)[DATA["tight"]]
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=True, dashboard_address=":0") as cluster,
        distributed.Client(cluster),
    ):
        found, sums, records = dask.compute(x, x.sum(), jets)
        held = x.persist()
        assert ak.array_equal((held * 2)[50:90].compute(), expected[50:90] * 2)
        assert ak.array_equal(found, expected)
        np.testing.assert_allclose(sums, ak.sum(expected, axis=1))
        assert ak.array_equal(records.pt, DATA["pt"])
        assert [row.tolist() for row in held[60:70]] == expected[60:70].to_list()
        assert ak.array_equal(ds["pt"].map(ak.sort).compute(), ak.sort(DATA["pt"]))


def test_persisted_chunks_are_not_made_again(ds):
    held = (ds["pt"] * ds["met"]).persist(scheduler="sync")
    expected = DATA["pt"] * DATA["met"]
    with mt.count_reads() as reads:
        same(held, expected)
        same(held[100:300:7] + 1, expected[100:300:7] + 1)
        same(held[held > 100][250:], expected[expected > 100][250:])
        np.testing.assert_allclose(held.sum().compute(), ak.sum(expected, axis=1))
        np.testing.assert_array_equal(held[77], expected[77])
        np.testing.assert_array_equal(held.values.compute(), ak.flatten(expected))
        assert [len(row) for row in held] == COUNTS.tolist()
        same(held[40:40], expected[40:40])
    assert reads.n_rows == 0
    assert ak.array_equal(pickle.loads(pickle.dumps(held)).compute(), expected)


def test_pickles_and_graphs_hold_no_data(path):
    ds = mm.open(path, chunks=2)
    assert len(ds.chunks) == 250
    x = (ds["pt"] * 2 + 1)[ds["tight"]]
    assert len(pickle.dumps(x)) < 3_000
    assert len(pickle.dumps(x.__dask_graph__())) < 15_000
    y = ds["pt"] * (ds["met"] + 1)
    assert len(pickle.dumps(y)) < 10_000
    for thing in (x, y):
        assert pickle.loads(pickle.dumps(thing)).compute().to_list() == thing.compute().to_list()
        assert tokenize(pickle.loads(pickle.dumps(thing))) == tokenize(thing)


def test_rows_of_another_store_and_of_other_chunks(ds, tmp_path):
    other = mm.from_arrays({"score": in_lists(np.arange(ITEMS)), "w": np.arange(N)}, tmp_path / "other.mm")
    assert other.chunks != ds.chunks
    score = ak.Array(in_lists(np.arange(ITEMS)))
    same(ds["pt"] * other["score"], DATA["pt"] * score)
    same(other["score"] * other["w"] + ds["id"], score * np.arange(N) + DATA["id"])
    same(ds["id"] + other["score"] * other["w"], score * np.arange(N) + DATA["id"])
    same((ds["id"] + other["score"] * other["w"])[150:333:2], (score * np.arange(N) + DATA["id"])[150:333:2])
    with pytest.raises(mm.OptionError, match="other chunks"):
        ds["pt"] + other["score"].persist(scheduler="sync")


def test_tokens_tell_all_apart(ds):
    pt, eta, met = ds["pt"], ds["eta"], ds["met"]
    made = [
        *(pt, eta, pt + 1, pt + 1.0, pt + True, pt + np.float32(1), pt + np.float64(1), 1 + pt, pt - 1, 1 - pt, pt - 2),
        *(pt + eta, eta + pt, pt - eta, eta - pt, pt + met, pt + met * 2, pt + met.mean(), pt + 0.0, pt + -0.0),
        *(pt[:, :1], pt[:, :2], pt[:, ::2], pt[:, 1:], pt[pt > 1], pt[pt > 2], pt[eta > 1], pt[1:], pt[2:], pt[::2]),
        *(ds["deep"][:, :1], ds["deep"][:, :, :1], ds["deep"].sum(), ds["deep"].max(), ds["deep"].max(default=-1)),
        *(pt.map(ak.sort), pt.map(lambda x: x + 1), pt.map(lambda x: x + 2), pt.map(lambda x, y: x, met)),
        *(pt.sum(), (pt + 0).sum(), (pt + 0).max(default=1), (pt + 0).max(default=2), (pt + 0).max(), (pt + 0).min()),
        *(pt.pad(2), pt.pad(3), pt.pad(2, 1), pt.pad(2, -1), pt.pad(2, mask=True)[1], pt[:, 0], pt[:, 1], pt[:, -1]),
        *(ds["name"] == "a", ds["name"] == "b", ds["name"] != "a", ds["words"] == "a", pt.counts, pt.values, pt.valid),
        *((pt + 0).counts, pt[pt > 1].counts, pt[pt > 1].values, pt[pt > 2].values, (pt + 0).values, (pt + 0).valid),
        *((pt * 2) - (pt * 3), (pt * 3) - (pt * 2), (pt * 2) - (pt * 2)),
        *(pt + x for x in (met[:], ds["n"])),
        *(mm.open(ds.path, chunks=128)["pt"] + 1, pt.persist(scheduler="sync")[1:], pt.persist(scheduler="sync") + 1),
    ]
    names = [thing.name if isinstance(thing, da.Array) else thing.__dask_keys__()[0][0] for thing in made]
    different = {name: i for i, name in enumerate(names)}
    # Equal on purpose: met[:] is met.
    assert len(names) - len(different) == 1, [i for i, n in enumerate(names) if different[n] != i]
    again = mm.open(ds.path, chunks=64)["pt"] + 1
    assert again.__dask_keys__() == (pt + 1).__dask_keys__()


def test_the_awkward_array_of_a_chunk_is_the_mapped_file(path):
    ds = mm.open(path, io="mmap")[:200]
    assert len(ds.chunks) == 1
    stored = ds._rows.read("pt", 0, 200).values
    for found in (ds["pt"].compute(scheduler="sync"), ds["pt"].compute(scheduler="threads")):
        assert np.shares_memory(found.layout.content.data, stored)
        assert not found.layout.content.data.flags.writeable
    seen = []
    ds["pt"].map(lambda x: seen.append(x) or x).compute(scheduler="sync")
    assert np.shares_memory(seen[-1].layout.content.data, stored)


def test_what_people_try_gets_an_answer(ds):
    pt = ds["pt"]
    for use, words in [
        (lambda: pt * [1], "got list"),
        (lambda: pt + np.ones(N), "da.from_array"),
        (lambda: pt == None, "got NoneType"),  # noqa: E711
        (lambda: pt + "a", "got str"),
        (lambda: pt + DATA["pt"], "got awkward"),
        (lambda: bool(pt), "many values"),
        (lambda: np.sum(pt), r"\.sum\(\)"),
        (lambda: np.add.reduce(pt), r"add\.reduce"),
        (lambda: np.add(pt, 1, dtype="f8"), "dtype="),
        (lambda: np.divmod(pt, 2), "one result"),
        (lambda: ~pt, "invert of ragged float32"),
        (lambda: ds["id"] + 10**9, "add of ragged int16, 1000000000"),
        (lambda: pt[ds["met"] > 3], r"ds\[ds\.cut"),
        (lambda: pt[pt], "chosen by booleans"),
        (lambda: pt[:, "a"], "numbers and slices"),
        (lambda: pt[:, :, 0], "levels of lists"),
        (lambda: pt[:, ::0], "step"),
        (lambda: pt[..., 0], "got ellipsis"),
        (lambda: pt[pt > 1][ds["deep"] > 2], "levels of lists"),
        (lambda: pt + ds["met"][ds["met"] > 3], "not known"),
        (lambda: ds["deep"].pad(3), "one level"),
        (lambda: (pt[pt > 20] + pt).compute(scheduler="sync"), "different numbers of items"),
    ]:
        with pytest.raises(ValueError, match=words):
            use()


# Missing values -----------------------------------------------------------------------------------------------------


def test_missing_values(tmp_path):
    fields = [mm.Field.dense("met", "f4", optional=(0,)), mm.Field.ragged("pt", "f4", optional=(0, 1))]
    with mm.create(tmp_path / "o.mm", fields=fields) as w:
        w.extend({"met": [1.0, None, 3.0, 4.0], "pt": [[1.0, None, 3.0], [2.0], None, []]})
    ds = mm.open(tmp_path / "o.mm", chunks=2)
    pt, met = ds["pt"], ds["met"]
    assert (pt + 1).to_list() == [[2.0, None, 4.0], [3.0], None, []]
    assert (pt * met).to_list() == [[1.0, None, 3.0], [None], None, []]
    assert (pt * met).sum().compute().tolist() == [None, None, None, 0.0]
    assert (pt > 1.5).any().compute().tolist() == [True, True, None, False]
    assert (pt > 5).any().compute().tolist() == [None, False, None, False]
    assert pt[pt > 1].to_list() == [None, [2.0], None, []]
    assert pt[:, 0].compute().tolist() == [1.0, 2.0, None, None]
    assert pt[:, :2].to_list() == [[1.0, None], [2.0], None, []]
    assert pt.pad(2, -1).compute().tolist() == [[1, -1], [2, -1], [-1, -1], [-1, -1]]
    assert (pt + 1).counts.compute().tolist() == [3, 1, None, 0]
    assert (pt + 1).offsets.compute().tolist() == [0, 3, 4, 4, 4]
    assert (pt + 1).values.compute().tolist() == [2.0, None, 4.0, 3.0]
    assert (pt + 1).valid.compute().tolist() == [True, True, False, True]
    assert (pt + 1).persist().to_list() == (pt + 1).to_list()
    assert [None if r is None else r.tolist() for r in pt * met] == [[1.0, None, 3.0], [None], None, []]
    assert pt.map(lambda x: x + 1).to_list() == [[2.0, None, 4.0], [3.0], None, []]
    assert ds.assign(j_pt="pt", j_eta="pt + 1").zip("j").to_list()[:2] == [
        [{"pt": 1.0, "eta": 2.0}, {"pt": None, "eta": None}, {"pt": 3.0, "eta": 4.0}],
        [{"pt": 2.0, "eta": 3.0}],
    ]


def test_missing_values_of_one_of_two_fields(tmp_path):
    fields = [
        mm.Field.ragged("a", "i4"),
        mm.Field.ragged("b", "f4", optional=(0, 1)),
        mm.Field.ragged("c", "i4", optional=(1,)),
    ]
    with mm.create(tmp_path / "o.mm", fields=fields) as w:
        w.extend({"a": [[1, 2], [3], [4]], "b": [[1.0, 2.0], None, [None]], "c": [[1, None], [3], [4]]})
    ds = mm.open(tmp_path / "o.mm", chunks=2)
    a, b, c = ds["a"], ds["b"], ds["c"]
    for x in (a + b, b + a):
        assert x.to_list() == [[2.0, 4.0], None, [None]]
        assert x.counts.compute().tolist() == [2, None, 1]
        assert x.values.compute().tolist() == [2.0, 4.0, None]
        assert x.offsets.compute().tolist() == [0, 2, 2, 3]
        assert x.valid.compute().tolist() == [True, False, True]
    assert a[c > 0].to_list() == [None, [3], [4]]
    assert a[c > 0].sum().compute().tolist() == [None, 3, 4]
    assert a[b > 1].to_list() == [[2], None, None]
    assert (a + c).sum().compute().tolist() == [None, 6, 8]
    assert b[a > 1].to_list() == [[2.0], None, [None]]


def test_missing_values_of_lists_in_lists(tmp_path):
    fields = [mm.Field.ragged("deep", "i4", levels=2, optional=(0, 1, 2))]
    with mm.create(tmp_path / "o.mm", fields=fields) as w:
        w.extend({"deep": [[[1, None], [], None, [3, 2]], None, []]})
    deep = mm.open(tmp_path / "o.mm")["deep"]
    assert deep.max().to_list() == [[None, None, None, 3], None, []]
    # As for rows of one level, the default stands for all that has no value.
    assert deep.max(default=-1).to_list() == [[-1, -1, -1, 3], None, []]
    assert deep.sum().to_list() == [[None, 0, None, 5], None, []]
    assert (deep > 1).any().to_list() == [[None, False, None, True], None, []]
    assert deep[:, :, 0].to_list() == [[1, None, None, 3], None, []]
    assert deep[:, 1:].to_list() == [[[], None, [3, 2]], None, []]
    assert deep[deep > 1].to_list() == [[None, [], None, [3, 2]], None, []]
    assert (deep + deep.first()).to_list() == [[[2, None], [], None, [6, 5]], None, []]


KINDS = {name: field for name, field in kinds.FIELDS.items() if field.n_offsets}
REDUCTIONS = ["sum", "mean", "std", "min", "max", "first", "last", "argmin", "argmax"]


@settings(max_examples=12)
@given(table=kinds.tables(KINDS), cut=st.integers(0, 8), rows=st.tuples(st.integers(0, 8), st.integers(0, 8)))
def test_all_kinds_that_are_persisted_or_mapped_are_as_they_were(tmp_path_factory, table, cut, rows):
    n = len(table["pt"])
    if not n:
        return
    ds = mm.open(kinds.write(tmp_path_factory.mktemp("kinds") / "s.mm", table, [cut]), chunks=2)
    wanted = slice(min(rows), max(rows))
    for name, field in KINDS.items():
        expected = kinds.of(field, table[name])
        held = ds[name].persist(scheduler="sync")
        assert kinds.plain(list(held)) == expected
        assert kinds.plain(list(held[wanted])) == expected[wanted]
        assert kinds.plain(list(held[::2])) == expected[::2]
        assert kinds.plain(held.compute()) == kinds.plain(ds[name].compute())
        assert held.counts.compute().tolist() == ds[name].counts.compute().tolist()
        if field.kind != "shaped" and field.dtype.kind != "S":
            assert kinds.plain(ds[name].map(lambda x: x).compute()) == kinds.plain(ds[name].compute())


@settings(max_examples=12)
@given(table=kinds.tables(["pt", "ids", "met"]), cut=st.integers(0, 8))
def test_reductions_of_what_is_computed_are_those_of_what_is_stored(tmp_path_factory, table, cut):
    ds = mm.open(kinds.write(tmp_path_factory.mktemp("kinds") / "s.mm", table, [cut]), chunks=2)
    for name in ("pt", "ids"):
        computed = ds[name] * ds[name].dtype.type(1)
        for function in REDUCTIONS:
            for default in ({}, {"default": 7}) if function != "sum" else ({},):
                stored = getattr(ds[name], function)(**default)
                found = getattr(computed, function)(**default)
                assert found.dtype == stored.dtype
                assert kinds.plain(found.compute(scheduler="sync")) == kinds.plain(stored.compute(scheduler="sync"))


def test_chunks_with_dask_arrays_are_evaluated_in_blocks(tmp_path, monkeypatch):
    rng = np.random.default_rng(5)
    counts = rng.integers(0, 4, 1000)
    jets = ak.unflatten(rng.normal(size=counts.sum()), counts)
    ds = mm.from_arrays(
        {"jets": jets, "scale": np.ma.array(rng.normal(size=1000), mask=counts == 2)}, tmp_path / "b.mm"
    )
    monkeypatch.setattr("mmdask.dataset.lists.recipe.BLOCK_ROWS", 64)
    lazy = (ds["jets"] * (ds["scale"] * 2) + np.float64(1)).sum()
    wanted = np.ma.array(ak.sum(jets * (ds["scale"] * 2).compute().data + 1, axis=1).to_numpy(), mask=counts == 2)
    got = lazy.compute(scheduler="sync")
    np.testing.assert_array_equal(np.ma.getmaskarray(got), wanted.mask)
    np.testing.assert_allclose(got.compressed(), wanted.compressed(), rtol=1e-12)
    np.testing.assert_array_equal(lazy[100:500].compute(scheduler="sync"), got[100:500])
