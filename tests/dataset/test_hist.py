"""Histograms of stores, against numpy and `hist` filled in memory; what they read; bins; text and plots."""

from __future__ import annotations

import math
import pickle
import sys

import dask
import numpy as np
import pytest
from clusters import until
from hypothesis import given
from hypothesis import strategies as st

import mmdask as mm
from mmdask.cli import main
from mmdask.rows import rows
from mmdask.rows.cuts import masks
from mmdask.rows.sums import binning, filling, reducing
from mmdask.testing import count_reads

bh = pytest.importorskip("boost_histogram", reason="hist is not installed; pip install 'mmdask[plot]'")
hist = pytest.importorskip("hist", reason="hist is not installed; pip install 'mmdask[plot]'")

FIELDS = [
    mm.Field.dense("met", "f4", optional=(0,)),
    mm.Field.dense("x", "f8", unit="GeV"),
    mm.Field.dense("n", "i4"),
    mm.Field.dense("event", "u8"),
    mm.Field.dense("flag", "?"),
    mm.Field.dense("half", "f2"),
    mm.Field.dense("p3", "f4", (3,)),
    mm.Field.category("process", ("ttH", "ttbb", "data"), optional=(0,)),
    mm.Field.dense("year", "i2", optional=(0,)),
    mm.Field.ragged("pt", "f4", optional=(0, 1)),
    mm.Field.ragged("eta", "f8"),
    mm.Field.ragged("sf", "f8"),
    mm.Field.ragged("deep", "i2", levels=2),
    mm.Field.dense("w", "f8"),
    mm.Field.dense("weight", "f4"),
    mm.Field.dense("w_or_not", "f8", optional=(0,)),
    mm.Field.string("name"),
]
PART = 300
N = 3 * PART


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(5)
    counts = rng.integers(0, 4, N)
    x = rng.normal(0, 1, N)
    x[5], x[7], x[600], x[601] = np.nan, np.inf, -np.inf, np.nan
    eta = [rng.normal(0, 1, k).tolist() for k in counts]
    return {
        "met": [None if i % 7 == 0 else float(np.float32(v)) for i, v in enumerate(rng.exponential(40, N))],
        "x": x.tolist(),
        "n": rng.integers(-2, 9, N).tolist(),
        "event": range(2**63, 2**63 + N),
        "flag": rng.integers(0, 2, N).astype(bool).tolist(),
        "half": rng.normal(0, 1, N).astype("f2").tolist(),
        "p3": rng.normal(0, 1, (N, 3)).astype("f4").tolist(),
        "process": [None if i % 50 == 1 else ("ttH", "ttbb")[v] for i, v in enumerate(rng.integers(0, 2, N))],
        "year": [None if i % 100 == 3 else int(v) for i, v in enumerate(rng.integers(2015, 2019, N))],
        # Counts are those of eta, but where a row is missing.
        "pt": [
            None
            if i % 31 == 30
            else [None if j == 2 else float(np.float32(v)) for j, v in enumerate(rng.exponential(40, k))]
            for i, k in enumerate(counts)
        ],
        "eta": eta,
        "sf": [[1 + j / 4 for j, _ in enumerate(items)] for items in eta],
        "deep": [[list(range(j)) for j in range(k)] for k in counts],
        # Quarters add exactly in any order.
        "w": (rng.integers(-40, 200, N) / 4).tolist(),
        "weight": rng.integers(1, 4, N).tolist(),
        "w_or_not": [None if i in (123, 250) else 0.5 for i in range(N)],
        "name": ["a"] * N,
    }


@pytest.fixture(scope="module")
def path(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("hist") / "hist.mm"
    for p in range(3):
        with mm.append(path) if p else mm.create(path, fields=FIELDS) as w:
            w.extend({name: values[p * PART : (p + 1) * PART] for name, values in data.items()})
    return path


@pytest.fixture
def ds(path):
    return mm.open(path)


@pytest.fixture(autouse=True)
def nothing_remembered():
    """What this process remembers of cuts would hide what is read."""
    masks.LOADED.clear()
    rows.RESOLVED.clear()


@pytest.fixture
def small_tasks(monkeypatch):
    monkeypatch.setattr(reducing, "_TASK_ROWS", 64)


def entries(data, names, weight=None, keep=lambda i: True):
    """Tuples of values, one for each entry, in plain Python; a row whose list is missing is one that is missing."""
    found, weights = [], []
    for i in filter(keep, range(N)):
        columns = [data[name][i] for name in [*names, *([weight] if weight else [])]]
        lists = [c for c in columns if isinstance(c, list)]
        if any(c is None and n in ("pt",) for c, n in zip(columns, names, strict=False)):
            found.append((None,))
            weights.append(0)
            continue
        n = len(lists[0]) if lists else 1
        for j in range(n):
            *values, w = [c[j] if isinstance(c, list) else c for c in columns] + ([] if weight else [1])
            found.append(tuple(values))
            weights.append(w)
    return found, weights


def fit(value, axis):
    """A value as an axis of whole numbers takes it: within 32 bits, and rounded down."""
    if not isinstance(axis, hist.axis.Integer):
        return value
    return math.floor(min(max(value, -1e9), 1e9))


def expected(axes, found, weights, storage):
    """What `hist` makes of it in memory, and how many entries it must not see."""
    missing = [any(v is None for v in e) for e in found]
    nan = [
        not lost and any(isinstance(v, float) and math.isnan(v) for v in e)
        for e, lost in zip(found, missing, strict=True)
    ]
    use = [i for i in range(len(found)) if not missing[i] and not nan[i]]
    h = hist.Hist(*axes, storage=storage)
    if use:
        columns = [[fit(found[i][k], axis) for i in use] for k, axis in enumerate(axes)]
        kwargs = {"weight": [weights[i] for i in use]} if isinstance(storage, hist.storage.Weight) else {}
        h.fill(*columns, **kwargs)
    return h, {"entries": len(found), "nan": sum(nan), "missing": sum(missing)}


def check(h, data, names, weight=None, keep=lambda i: True):
    """A histogram equals the one that `hist` fills in memory, bit for bit, with axes that it has itself."""
    storage = hist.storage.Weight() if weight else hist.storage.Int64()
    again, counts = expected(h.axes, *entries(data, names, weight, keep), storage)
    assert np.array_equal(h.view(flow=True), again.view(flow=True))
    assert h.metadata == counts
    return h


# Bins ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["met", "x", "n", "event", "half", "p3", "eta", "pt", "weight"])
@pytest.mark.parametrize("bins", [None, 7, (10, -1.5, 60.0), [-5, 0.5, 1, 40], range(-1, 5)])
def test_any_field_in_any_bins(ds, data, name, bins):
    h = ds.hist(name, bins=bins)
    check(h, data, [name])
    assert h.axes[0].name == name if name != "weight" else "weight_"
    if isinstance(bins, tuple):
        assert (h.axes[0].size, *h.axes[0].edges[[0, -1]]) == bins
    elif isinstance(bins, list):
        assert h.axes[0].edges.tolist() == bins
    elif isinstance(bins, range):
        assert h.axes[0].edges.tolist() == [-1, 0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("name", ["met", "x", "half", "eta"])
def test_bins_that_are_found_are_those_of_numpy(ds, data, name):
    """But for the upper edge, which lies behind the largest value: so it is in the last bin of both."""
    flat = np.array([e[0] for e in entries(data, [name])[0] if e[0] is not None])
    flat = flat[np.isfinite(flat)]
    values, edges = np.histogram(flat, bins=20)
    h = ds.hist(name, bins=20)
    assert h.values().tolist() == np.histogram(flat, bins=h.axes[0].edges)[0].tolist()
    np.testing.assert_allclose(h.axes[0].edges, edges, rtol=1e-14, atol=1e-14)
    assert h.values().sum() == len(flat)
    assert h.sum(flow=True) == h.values().sum() + sum(np.isinf(data["x"])) * (name == "x")
    assert abs(h.values() - values).sum() <= 2  # what lies on an edge is rounded to one side or the other


def test_whole_numbers_have_a_bin_each(ds, data):
    h = ds.hist("n")
    assert isinstance(h.axes[0], hist.axis.Integer)
    assert h.axes[0].edges.tolist() == list(range(-2, 10))
    assert h.values().tolist() == [data["n"].count(k) for k in range(-2, 9)]
    assert isinstance(ds.hist("event").axes[0], hist.axis.Regular)  # 900 of them
    assert isinstance(ds.hist("event - event").axes[0], hist.axis.Integer)


def test_labels_and_booleans(ds, data):
    h = check(ds.hist("process"), data, ["process"])
    assert list(h.axes[0]) == ["ttH", "ttbb", "data"]
    assert h.values().tolist() == [data["process"].count(label) for label in ("ttH", "ttbb", "data")]
    assert h.metadata["missing"] == data["process"].count(None)
    h = check(ds.hist("flag"), data, ["flag"])
    assert h.values().tolist() == [data["flag"].count(False), data["flag"].count(True)]
    assert ds.hist("met > 30").values().sum() == N - data["met"].count(None)


def test_units_and_names(ds):
    h = ds.hist("x", by="n")
    assert [(a.name, a.label) for a in h.axes] == [("n", "n"), ("x", "x [GeV]")]
    assert ds.hist("sum( pt )").axes[0].name == "sum( pt )"
    assert ds.hist("weight").axes[0].label == "weight"


@given(st.data())
def test_places_are_those_of_boost_histogram(data):
    numbers = st.floats(-1e300, 1e300) | st.sampled_from([math.inf, -math.inf])
    kind = data.draw(st.sampled_from(["regular", "edges", "whole", "listed"]))
    if kind == "regular":
        n, low, width = data.draw(st.tuples(st.integers(1, 50), st.floats(-1e6, 1e6), st.floats(1e-3, 1e9)))
        axis, theirs = binning.Regular(n, low, low + width), bh.axis.Regular(n, low, low + width)
        edges = theirs.edges
    elif kind == "edges":
        edges = sorted(data.draw(st.sets(st.floats(-1e9, 1e9), min_size=2, max_size=9)))
        axis, theirs = binning.Edges(tuple(edges)), bh.axis.Variable(edges)
    elif kind == "whole":
        start, n = data.draw(st.tuples(st.integers(-99, 99), st.integers(1, 50)))
        axis, theirs = binning.Whole(start, start + n), bh.axis.Integer(start, start + n)
        edges, numbers = (
            [start, start + n, start - 1, start + n - 1],
            st.integers(-(2**30), 2**30),
        )  # beyond, theirs wraps
    else:
        values = sorted(data.draw(st.sets(st.integers(-99, 99), min_size=1, max_size=9)))
        axis, theirs = binning.Listed(tuple(values)), bh.axis.IntCategory(values)
        edges, numbers = values, st.integers(-200, 200)
    near = st.sampled_from(list(edges))
    x = data.draw(st.lists(numbers | near, min_size=1, max_size=20))
    x = np.array(x, np.int64 if kind in ("whole", "listed") else np.float64)
    if kind in ("regular", "edges"):
        x = np.concatenate([x, np.nextafter(x, np.inf), np.nextafter(x, -np.inf)])
    if kind == "listed":
        assert axis.places(x).tolist() == [values.index(v) if v in values else len(values) for v in x]
    else:
        assert axis.places(x).tolist() == (np.asarray(theirs.index(x)) + 1).tolist()
    assert axis.size == theirs.extent


@given(st.integers(1, 1000), st.floats(-1e12, 1e12), st.floats(0, 1e12))
def test_the_largest_value_is_in_the_last_bin(n, low, width):
    axis = binning.fitting(n, low, low + width)
    first, last = axis.places(np.array([low, low + width]))
    assert 1 <= first <= last <= n
    high = low + width
    if high == low:  # exactly these, where a difference would be rounded once more
        assert (axis.low, axis.high) == (low - 0.5, low + 0.5)
    else:
        assert axis.high - high <= max(4e-16 * max(abs(high), width), 0.5)


def test_ends_that_are_too_far_apart():
    with pytest.raises(mm.OptionError, match="edges"):
        binning.fitting(3, -1.7e308, 1.7e308)
    assert binning.fitting(3, 1e300, 1e300).places(np.array([1e300])) <= 3


# Items, weights, groups, cuts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names", [["pt"], ["x"], ["met", "n"], ["eta", "sf"], ["pt", "eta"], ["eta", "n"], ["n", "flag", "eta"]]
)
@pytest.mark.parametrize("weight", [None, "w"])
def test_several_axes_and_weights(ds, data, names, weight, small_tasks):
    h = ds.hist(*names, bins=[5 if name != "flag" else None for name in names] if len(names) > 1 else 5, weight=weight)
    check(h, data, names, weight)
    assert h.ndim == len(names)


def test_weights_of_items(ds, data):
    h = check(ds.hist("eta", bins=(4, -2, 2), weight="sf"), data, ["eta"], "sf")
    assert h.variances(flow=True).sum() == sum(v * v for items in data["sf"] for v in items)
    with pytest.raises(mm.OptionError, match=r"sum\(sf\)"):
        ds.hist("met", weight="sf")


def test_one_for_each_group(ds, data, small_tasks):
    h = check(ds.hist("met", by="process", bins=(5, 0, 100)), data, ["process", "met"])
    assert (h.axes[0].name, *h.axes[0]) == ("process", "ttH", "ttbb", "data")
    h = check(ds.hist("eta", by="year", weight="w", bins=(5, -2, 2)), data, ["year", "eta"], "w")
    assert list(h.axes[0]) == [2015, 2016, 2017, 2018]
    h = check(ds.hist("met", by="flag", bins=5), data, ["flag", "met"])
    assert ds.hist("met", by="n >= 4", bins=5).shape == (2, 5)
    assert ds.hist("met", by="n // 2", bins=5).sum(flow=True) == N - data["met"].count(None)


def test_only_rows_that_pass(ds, data):
    for where in ("met > 30", ds.cut("met > least", least=30)):
        h = check(ds.hist("n", where=where), data, ["n"], keep=lambda i: (data["met"][i] or 0) > 30)
        assert h.axes[0].edges[0] == -2
    hard = ds[ds.cut("met > 30")]
    assert hard.hist("n") == h
    assert ds.hist("met", where="met > 1e9", bins=4).metadata == {"entries": 0, "nan": 0, "missing": 0}
    assert ds.hist("met", where="met > 1e9", bins=4).axes[0].edges[0] == 0
    assert ds.hist("met", where="met > 1e9", by="year").shape == (0, 50)


@pytest.mark.parametrize("rows", [slice(10, 20), slice(250, 700), slice(None, None, 7), slice(5, 5), slice(299, 301)])
def test_slices(ds, data, rows):
    inside = range(N)[rows]
    for name in ("x", "pt", "process"):
        check(ds[rows].hist(name), data, [name], keep=inside.__contains__)


def test_splits_and_computed_fields(ds, data):
    parts = ds.split({"a": 0.5, "b": 0.5}, by="event", seed=3)
    both = [p.hist("eta", bins=(5, -2, 2), weight="w") for p in parts.values()]
    assert sum(both) == ds.hist("eta", bins=(5, -2, 2), weight="w")
    more = ds.assign(ht="sum(eta)", twice="eta * 2", met="n * 1.5", late="year >= 2017")
    assert more.hist("twice", bins=(5, -4, 4)).values().tolist() == ds.hist("eta", bins=(5, -2, 2)).values().tolist()
    assert more.hist("met", bins=[-9, 0, 99]).values().tolist() == [
        sum(v < 0 for v in data["n"]),
        sum(v >= 0 for v in data["n"]),
    ]
    assert more.hist("ht", by="late", weight="met").metadata["missing"] == data["year"].count(None)
    with pytest.raises(mm.OptionError, match=r"assign\(r='a / b'\)"):
        ds.assign(r=ds["x"] / 2).hist("r")


def test_a_store_without_rows(tmp_path):
    with mm.create(tmp_path / "none.mm", fields=FIELDS):
        pass
    ds = mm.open(tmp_path / "none.mm")
    for name in ("met", "n", "pt", "flag", "process"):
        assert ds.hist(name).sum(flow=True) == 0
    assert ds.hist("met", by="year", weight="w").shape == (0, 50)


def test_labels_that_no_part_has(tmp_path):
    with mm.create(tmp_path / "none.mm", fields=[mm.Field.category("c"), mm.Field.dense("x", "f4")]):
        pass
    assert mm.open(tmp_path / "none.mm").hist("x", by="c").sum() == 0


def test_nan_weights_stay_in_their_bins(tmp_path):
    ds = mm.from_arrays({"x": [0.5, 1.5, 1.5], "w": [1.0, math.nan, 2.0]}, tmp_path / "nan.mm")
    h = ds.hist("x", bins=(3, 0, 3), weight="w")
    assert np.array_equal(h.values(), [1, math.nan, 0], equal_nan=True)


def test_many_bins_are_sent_without_the_empty_ones(ds, data, monkeypatch, small_tasks):
    whole = ds.hist("eta", "x", bins=[100, 200], weight="w")
    monkeypatch.setattr(filling, "_MANY_CELLS", 1)
    some = check(ds.hist("eta", "x", bins=[100, 200], weight="w"), data, ["eta", "x"], "w")
    assert some == whole
    assert ds.hist("eta", "x", bins=[100, 200]) == check(ds.hist("eta", "x", bins=[100, 200]), data, ["eta", "x"])


# One pass, on any scheduler -----------------------------------------------------------------------------------------

MANY = {"met": (50, 0, 200), "sum(pt) / 1e3": 20, "n": None, ("eta", "sf"): 9, "process": None}


def test_many_in_one_pass(ds, data):
    with count_reads() as reads:
        found = ds.hist(MANY, weight="w", by="flag")
    assert list(found) == list(MANY)
    # Once for the ends of what is computed, and once to fill; those of whole stored fields are known.
    assert reads.rows == {"met": N, "pt": 2 * N, "n": N, "eta": N, "sf": N, "w": N, "flag": N, "process": N}
    for key, bins in MANY.items():
        names = key if isinstance(key, tuple) else (key,)
        assert found[key] == ds.hist(*names, bins=bins, weight="w", by="flag")
    check(found["n"], data, ["flag", "n"], "w")


def test_ends_come_from_the_store_where_it_says_them(ds, data):
    with count_reads() as reads:
        ds.hist("met", bins=10)
        assert reads.rows == {"met": N}
        ds.hist("x", bins=10)  # it says infinity, and bins end
        assert reads.rows["x"] == 2 * N
        reads.clear()
        ds[:100].hist("met", bins=10)
        assert reads.rows == {"met": 2 * 100}
        reads.clear()
        ds.hist("process")
        assert reads.rows == {"process": N}


def test_labels_of_conversion_need_no_pass(tmp_path):
    for p, year in enumerate((2016, 2018)):
        with mm.append(tmp_path / "years.mm") if p else mm.create(tmp_path / "years.mm") as w:
            w.extend({"year": np.full(10, year), "x": np.arange(10.0)})
    ds = mm.open(tmp_path / "years.mm")
    assert list(ds.hist("x", by="year").axes[0]) == [2016, 2018]


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_the_same_on_every_scheduler(path, small_tasks, scheduler):
    ds = mm.open(path).assign(odd="w * 0.1 + eta * 0")
    with dask.config.set(scheduler="sync"):
        serial = ds.hist({"eta": 10, "pt": None}, weight="odd", where="n > 0")
    with dask.config.set(scheduler=scheduler):
        assert ds.hist({"eta": 10, "pt": None}, weight="odd", where="n > 0") == serial


def test_on_a_cluster(path, small_tasks):
    distributed = pytest.importorskip("distributed")
    ds = mm.open(path)
    serial = ds.hist({"eta": 10, "pt": None}, weight="w * 0.1", where="n > 1"), ds.describe()
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):
        assert ds.hist({"eta": 10, "pt": None}, weight="w * 0.1", where="n > 1") == serial[0]
        assert repr(ds[:].describe()) == repr(serial[1])
        until(lambda: not client.futures)


def test_what_is_sent_are_sums(ds):
    """A task and its result hold no data."""
    tree = reducing.tree_of(ds._rows.snapshot, ds._rows.resolve().parts)
    args = tree, (filling.Histogram((ds._rows.check("x"),), (binning.Regular(50, 0, 1),)),)
    assert len(pickle.dumps(args)) < 4000
    assert len(pickle.dumps(filling._fill(*args))) < 2000


# Mistakes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "kwargs", "error", "message"),
    [
        ((), {}, mm.OptionError, "as text"),
        ((5,), {}, mm.OptionError, "as text"),
        (("nope",), {}, mm.ExpressionError, "nope"),
        (("name",), {}, mm.ExpressionError, "text"),
        (("met", "met"), {}, mm.OptionError, "given twice"),
        (("n",), {"by": "n"}, mm.OptionError, "given twice"),
        (("met",), {"by": "x"}, mm.OptionError, "real numbers"),
        (("met",), {"by": "pt > 3"}, mm.OptionError, "per item"),
        (("met",), {"by": 3}, mm.OptionError, "by= is"),
        (("met",), {"by": "event"}, mm.OptionError, "32 bits"),
        (("met",), {"bins": 0}, mm.OptionError, "1 or more"),
        (("met",), {"bins": True}, mm.OptionError, "bins are"),
        (("met",), {"bins": "many"}, mm.OptionError, "bins are"),
        (("met",), {"bins": [1]}, mm.OptionError, "ascending"),
        (("met",), {"bins": [3, 2, 1]}, mm.OptionError, "ascending"),
        (("met",), {"bins": (10, 5, 5)}, mm.OptionError, "larger"),
        (("met",), {"bins": (10, 0, math.inf)}, mm.OptionError, "larger"),
        (("met",), {"bins": (10, 0)}, mm.OptionError, "n, low, high"),
        (("met",), {"bins": range(0, 10, 2)}, mm.OptionError, r"range\(0, 12\)"),
        (("met",), {"range": (0,)}, mm.OptionError, "range="),
        (("met",), {"range": (0, 1), "bins": [1, 2]}, mm.OptionError, "range="),
        (("met", "x"), {"bins": (3, 0, 1)}, mm.OptionError, "a list of 2"),
        (("met", "x"), {"range": (0, 1)}, mm.OptionError, "each axis"),
        (("process",), {"bins": 3}, mm.OptionError, "labels"),
        (("flag",), {"bins": 3}, mm.OptionError, "two bins"),
        (({"met": 5},), {"bins": 3}, mm.OptionError, "in the mapping"),
        (("met",), {"weight": "flag"}, mm.OptionError, "where"),
        (("met",), {"weight": 3}, mm.OptionError, "as text"),
        (("met", "x", "w"), {"bins": 1000}, mm.OptionError, "fewer"),
        (("pt", "p3"), {}, mm.ExpressionError, "different numbers"),
        (("met",), {"where": 5}, mm.OptionError, "key"),
        (("met",), {"where": "pt > 5"}, mm.ExpressionError, "any"),
    ],
)
def test_mistakes(ds, args, kwargs, error, message):
    with pytest.raises(error, match=message):
        ds.hist(*args, **kwargs)


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_a_missing_weight_is_named(ds, scheduler, small_tasks):
    with dask.config.set(scheduler=scheduler), pytest.raises(mm.OptionError, match="row 123 of") as error:
        ds.hist("n", weight="w_or_not")
    assert ds.hist("n", weight="w_or_not", where=str(error.value).split("where='")[1][:-1]).sum().value == (N - 2) / 2
    assert ds[124:250].hist("n", weight="w_or_not").sum().value == 63


def test_too_many_groups(tmp_path):
    ds = mm.from_arrays({"x": np.arange(5000)}, tmp_path / "many.mm")
    with pytest.raises(mm.OptionError, match="more than 1,000"):
        ds.hist("x * 1.0", by="x")
    with pytest.raises(mm.OptionError, match="more than 1,000"):
        ds.hist("x * 1.0", by="x * 1000")


def test_without_hist_it_says_what_to_install(ds, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "hist", None)
    with pytest.raises(mm.MissingDependencyError, match=r"mmdask\[plot\]"), count_reads() as reads:
        ds.hist("met")
    assert not reads.log
    assert main(["hist", ds.path, "met"]) == 0  # text needs nothing


# Looks --------------------------------------------------------------------------------------------------------------


def test_plots(ds, tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    pytest.importorskip("mplhep")
    pytest.importorskip("scipy")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    for kwargs in ({"by": "process"}, {"weight": "w"}, {"by": "year", "weight": "w"}, {}):
        figure, ax = plt.subplots()
        ds.hist("met", bins=(20, 0, 200), **kwargs).plot(ax=ax)
        figure.savefig(tmp_path / "plot.png")
        plt.close(figure)
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_in_the_shell(ds, data, capsys):
    assert main(["hist", ds.path, "n", "x", "--where", "met > 30", "--bins", "3"]) == 0
    first, second = capsys.readouterr().out.split("\n\n")
    assert first.splitlines()[0].split() == ["n", "entries"]
    kept = [i for i in range(N) if (data["met"][i] or 0) > 30]
    assert first.splitlines()[-1] == f"{len(kept):,} entries"
    assert second.splitlines()[0].split() == ["x", "[GeV]", "entries"]
    assert main(["hist", ds.path, "process", "met", "--range", "0", "50"]) == 0
    assert "0 to 2.5" in capsys.readouterr().out
    assert main(["hist", ds.path, "process", "--by", "process"]) == 1
    assert "given twice" in capsys.readouterr().err
    assert main(["hist", ds.path, "n", "--by", "process", "--weight", "w"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["n", "ttH", "ttbb", "data"]
    column = [float(line.split()[1]) for line in lines[2:-1]]
    assert column == [
        sum(w for w, n, p in zip(data["w"], data["n"], data["process"], strict=True) if p == "ttH" and n == k)
        for k in range(-2, 9)
    ]
    assert lines[-1] == f"{N} entries, {data['process'].count(None)} missing"
    assert main(["hist", ds.path, "x"]) == 0
    assert "2 nan" in capsys.readouterr().out


def test_head(ds, data, capsys):
    assert main(["head", ds.path, "-n", "3"]) == 0
    out = capsys.readouterr().out
    lines = {line.split()[0]: line for line in out.splitlines()[2:-1] if line}
    assert set(lines) == set(data)
    assert lines["met"].split()[1] == "missing"
    assert out.splitlines()[-1] == f"3 rows of {N}"
    assert main(["head", ds.path, "--fields", "p*", "--where", "met > 1e9"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "0 rows of 0"
    assert main(["head", ds.path, "-n", "0"]) == 1
