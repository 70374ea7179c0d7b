"""Our lazy arrays as input of what people have: dask.array, numpy, xarray, joblib, pools of processes, delayed."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import awkward as ak
import dask
import dask.array as da
import numpy as np
import pytest

import mmdask as mm
from mmdask.testing import count_reads, max_computes

N = 1000
RNG = np.random.default_rng(3)
X = RNG.normal(size=N)
K = RNG.integers(0, 5, N).astype("i4")
P3 = RNG.normal(size=(N, 3)).astype("f4")
TIMES = np.datetime64("2018-01-01T00:00:00", "s") + np.arange(N) * np.timedelta64(3600, "s")
COUNTS = RNG.integers(0, 4, N)
JETS = ak.unflatten(RNG.random(COUNTS.sum()).astype("f4"), COUNTS)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("inputs") / "s.mm"
    fields = {"x": X, "k": K, "p3": P3, "when": TIMES, "jet_pt": JETS}
    schema = [
        mm.Field.dense("x", "f8"),
        mm.Field.dense("k", "i4"),
        mm.Field.dense("p3", "f4", (3,)),
        mm.Field.dense("when", "M8[s]"),
        mm.Field.ragged("jet_pt", "f4"),
    ]
    with mm.create(path, fields=schema) as w:
        for a, b in ((0, 700), (700, N)):
            w.extend({name: values[a:b] for name, values in fields.items()})
            w.checkpoint()
    return path


@pytest.fixture
def ds(path):
    return mm.open(path, chunks=128)


def same(found, expected, **tolerance):
    if tolerance:
        np.testing.assert_allclose(found, expected, **tolerance)
    else:
        np.testing.assert_array_equal(found, expected)


# dask.array ---------------------------------------------------------------------------------------------------------

DASK = {
    "where": (lambda x, k: da.where(k > 2, x, -1), lambda: np.where(K > 2, X, -1)),
    "clip": (lambda x, k: da.clip(x, -1, 1), lambda: np.clip(X, -1, 1)),
    "digitize": (lambda x, k: da.digitize(x, np.array([-1.0, 0, 1])), lambda: np.digitize(X, [-1, 0, 1])),
    "histogram": (lambda x, k: da.histogram(x, bins=20, range=(-3, 3))[0], lambda: np.histogram(X, 20, (-3, 3))[0]),
    "bincount": (lambda x, k: da.bincount(k, minlength=5), lambda: np.bincount(K, minlength=5)),
    "unique": (lambda x, k: da.unique(k), lambda: np.unique(K)),
    "isin": (lambda x, k: da.isin(k, [1, 3]), lambda: np.isin(K, [1, 3])),
    "topk": (lambda x, k: da.topk(x, 5), lambda: np.sort(X)[::-1][:5]),
    "argmax": (lambda x, k: da.argmax(x), lambda: X.argmax()),
    "any": (lambda x, k: (x > 10).any(), lambda: (X > 10).any()),
    "diff": (lambda x, k: da.diff(x), lambda: np.diff(X)),
    "flip": (lambda x, k: x[::-1], lambda: X[::-1]),
    "fancy": (lambda x, k: x[[5, 999, 0, 5]], lambda: X[[5, 999, 0, 5]]),
    "rechunk": (lambda x, k: x.rechunk(333), lambda: X),
    "map_blocks": (lambda x, k: da.map_blocks(np.add, x, k), lambda: X + K),
    "map_overlap": (lambda x, k: x.map_overlap(np.copy, depth=1, boundary="none"), lambda: X),
    "stack": (lambda x, k: da.stack([x, k], axis=1), lambda: np.stack([X, K], axis=1)),
    "concatenate": (lambda x, k: da.concatenate([x, x[:10]]), lambda: np.concatenate([X, X[:10]])),
    "apply_gufunc": (lambda x, k: da.apply_gufunc(np.hypot, "(),()->()", x, k), lambda: np.hypot(X, K)),
    "blockwise": (lambda x, k: da.blockwise(np.multiply, "i", x, "i", k, "i", dtype="f8"), lambda: X * K),
    "reshape": (lambda x, k: x.reshape(100, 10), lambda: X.reshape(100, 10)),
    "ravel": (lambda x, k: da.ravel(x), lambda: X),
    "searchsorted": (lambda x, k: da.searchsorted(da.arange(5, chunks=5), k), lambda: np.searchsorted(np.arange(5), K)),
    "astype": (lambda x, k: x.astype("f4"), lambda: X.astype("f4")),
    "delayed": (lambda x, k: da.concatenate([da.from_delayed(d, (np.nan,), "f8") for d in x.to_delayed()]), lambda: X),
    "blocks": (lambda x, k: x.blocks[2], lambda: X[256:384]),
    "partitions": (lambda x, k: x.partitions[0], lambda: X[:128]),
    "setitem": (lambda x, k: assigned(x), lambda: np.where(X > 1, 0, X)),
    "select": (lambda x, k: da.select([x > 1, x < -1], [x, -x], 0), lambda: np.select([X > 1, X < -1], [X, -X], 0)),
}
#: sums in another order
CLOSE = {
    "sum": (lambda x, k: x.sum(), lambda: X.sum()),
    "var": (lambda x, k: da.var(x, ddof=1), lambda: X.var(ddof=1)),
    "cumsum": (lambda x, k: da.cumsum(x, axis=0), lambda: np.cumsum(X)),
    "percentile": (lambda x, k: da.percentile(x, [50], method="linear"), lambda: np.percentile(X, [50])),
    "corrcoef": (lambda x, k: da.corrcoef(x, k), lambda: np.corrcoef(X, K)),
    "dot": (lambda x, k: da.dot(x, x), lambda: X @ X),
    "tensordot": (lambda x, k: da.tensordot(x, k, axes=1), lambda: X @ K),
    "average": (lambda x, k: da.average(x, weights=k), lambda: np.average(X, weights=K)),
}


def assigned(x):
    y = x.copy()
    y[y > 1] = 0
    return y


@pytest.mark.parametrize("name", DASK)
def test_functions_of_dask(ds, name):
    make, expected = DASK[name]
    with max_computes(0), count_reads() as reads:
        lazy = make(ds["x"], ds["k"])
    assert not reads.log
    assert isinstance(lazy, da.Array)
    same(lazy.compute(), expected())


@pytest.mark.parametrize("name", CLOSE)
def test_sums_of_dask(ds, name):
    make, expected = CLOSE[name]
    tolerance = {"atol": 0.5} if name == "percentile" else {"rtol": 1e-9}
    same(make(ds["x"], ds["k"]).compute(), expected(), **tolerance)


def test_a_mask_of_dask_has_unknown_lengths_until_it_is_counted(ds):
    chosen = ds["x"][ds["k"] > 2]
    assert np.isnan(chosen.shape[0])
    chosen.compute_chunk_sizes()
    assert len(chosen) == (K > 2).sum() == len(ds[ds.cut("k > 2")])
    same(chosen.compute(), X[K > 2])
    same((chosen + 1)[-3:].compute(), (X[K > 2] + 1)[-3:])


def test_arrays_are_stored_and_written(ds, tmp_path):
    target = np.empty(N)
    da.store(ds["x"] * 2, target)
    same(target, X * 2)
    da.to_npy_stack(tmp_path / "stack", ds["p3"])
    same(da.from_npy_stack(tmp_path / "stack").compute(), P3)
    pytest.importorskip("zarr", reason="zarr is not installed")
    ds["p3"].rechunk((256, 3)).to_zarr(str(tmp_path / "a.zarr"))
    same(da.from_zarr(str(tmp_path / "a.zarr")).compute(), P3)


def test_items_of_ragged_fields_are_arrays_of_dask(ds):
    flat = np.asarray(ak.flatten(JETS))
    values = ds["jet_pt"].values
    same(da.histogram(values, bins=8, range=(0, 1))[0].compute(), np.histogram(flat, 8, (0, 1))[0])
    same(da.where(values > 0.5, 1, 0).sum().compute(), (flat > 0.5).sum())
    same(ds["jet_pt"].counts.max().compute(), COUNTS.max())
    same(np.log1p(ds["jet_pt"]).sum().compute(), ak.sum(np.log1p(JETS), axis=1), rtol=1e-5)


# numpy --------------------------------------------------------------------------------------------------------------


def test_functions_of_numpy(ds):
    x = ds["x"]
    for found, expected in (
        (np.asarray(x), X),
        (np.array(x), X),
        (np.asarray(ds["p3"], dtype="f8"), P3.astype("f8")),
        (np.ma.asarray(x), X),
        (np.where(x > 0, x, 0), np.where(X > 0, X, 0)),
        (np.abs(x), np.abs(X)),
        (np.add(x, ds["k"]), X + K),
        (np.concatenate([x, x]), np.concatenate([X, X])),
        (np.isnan(x), np.isnan(X)),
        (np.clip(x, 0, 1), np.clip(X, 0, 1)),
        (np.stack([x, x]), np.stack([X, X])),
        (ds["p3"].T @ ds["p3"] > 0, P3.T @ P3 > 0),
    ):
        same(np.asarray(found), expected)
    for found, expected in (
        (np.sum(x), X.sum()),
        (np.std(x), X.std()),
        (np.mean(ds["p3"], axis=0), P3.mean(axis=0)),
    ):
        same(np.asarray(found), expected, rtol=1e-5)
    with pytest.raises(TypeError):  # which dask does not have; np.sum is
        np.add.reduce(x)
    assert float(x.max().compute()) == X.max()
    assert np.random.default_rng(0).choice(np.asarray(x[:5])) in X[:5]


def test_what_is_handed_out_cannot_change_the_store(ds, path):
    whole = mm.open(path)[:700]
    for found in (whole["x"].compute(), np.asarray(ds["x"][:3]), ds["jet_pt"][1].view(), ds[0]["p3"]):
        if found.flags.writeable:
            found[:1] = 9
    same(ds["x"].compute(), X)
    same(whole["x"].compute(), X[:700])
    assert ak.array_equal(ds["jet_pt"].compute(), JETS)
    same(ds["p3"].compute(), P3)


# xarray -------------------------------------------------------------------------------------------------------------


def test_xarray(ds):
    xr = pytest.importorskip("xarray", reason="xarray is not installed")
    with max_computes(0), count_reads() as reads:
        table = ds.to_xarray(["x", "k", "p3", "when"])
        array = xr.DataArray(ds["x"], dims="row", coords={"k": ("row", ds["k"])}, name="x")
        repr(table), table._repr_html_(), repr(array), table.sizes, table.nbytes, array[10:20], table.isel(row=slice(5))
    assert not reads.log
    same(table.isel(row=slice(10, 20)).x.values, X[10:20])
    same(table.mean().x.compute(), X.mean(), rtol=1e-9)
    groups = array.compute().groupby("k").mean()
    same(groups.values, [X[k == K].mean() for k in range(5)], rtol=1e-9)
    lazily = table.x.assign_coords(k=("row", ds["k"].compute())).groupby("k").sum()
    same(lazily.compute(), [X[k == K].sum() for k in range(5)], rtol=1e-9)


def test_times_are_resampled_by_xarray(ds):
    pytest.importorskip("xarray", reason="xarray is not installed")
    table = ds.to_xarray(["x", "when"])
    series = table.x.assign_coords(row=table.when.compute().data)
    daily = series.resample(row="1D").sum().compute()
    expected = [X[i : i + 24].sum() for i in range(0, N, 24)]
    same(daily.values, expected, rtol=1e-9)


# Other processes ----------------------------------------------------------------------------------------------------


def total(x):
    """What a worker does with any of ours."""
    with dask.config.set(scheduler="sync"):
        if isinstance(x, mm.Dataset):
            return float(x["x"].sum().compute())
        found = x.compute()
        return float(ak.sum(found) if isinstance(found, ak.Array) else found.sum())


def things(ds):
    """What is sent to workers, and what they should say."""
    hard = ds[ds.cut("k > 2")]
    len(hard)
    chunks = list(ds["x"].blocks[2:4].to_delayed().tolist())
    return [
        (ds, X.sum()),
        (ds[:10], X[:10].sum()),
        (hard, X[K > 2].sum()),
        (hard["x"], X[K > 2].sum()),
        (ds["x"], X.sum()),
        (ds["x"].blocks[3], X[384:512].sum()),
        (ds["x"] * 2, 2 * X.sum()),
        (ds["jet_pt"], ak.sum(JETS)),
        (ds["jet_pt"] * 2, 2 * ak.sum(JETS)),
        (hard["jet_pt"].sum(), ak.sum(JETS[K > 2])),
        (ds.assign(y="x * 2")["y"], 2 * X.sum()),
        (ds.split({"a": 1.0})["a"], X.sum()),
        *[(delayed, X[a : a + 128].sum()) for delayed, a in zip(chunks, (256, 384), strict=True)],
    ]


def test_tasks_are_references(ds):
    for thing, _ in things(ds):
        assert len(pickle.dumps(thing)) < 5_000, thing


@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_joblib(ds, backend):
    joblib = pytest.importorskip("joblib", reason="joblib is not installed")
    sent, expected = zip(*things(ds), strict=True)
    try:
        found = joblib.Parallel(n_jobs=2, backend=backend)(joblib.delayed(total)(x) for x in sent)
        same(found, expected, rtol=1e-5)
    finally:
        if backend == "loky":
            from joblib.externals.loky import get_reusable_executor

            get_reusable_executor().shutdown(wait=True)


def test_pools_of_processes(ds):
    sent, expected = zip(*things(ds), strict=True)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        same(list(pool.map(total, sent)), expected, rtol=1e-5)


def test_delayed(ds):
    @dask.delayed
    def both(x, jets):
        return float(np.sum(x) + ak.sum(jets))

    lazy = both(ds["x"], ds["jet_pt"])
    assert lazy.compute() == pytest.approx(X.sum() + ak.sum(JETS), rel=1e-5)
    parts = [dask.delayed(total)(ds[a : a + 250]) for a in range(0, N, 250)]
    assert sum(dask.compute(*parts, scheduler="sync")) == pytest.approx(X.sum())
    assert dask.delayed(len)(ds).compute() == N


def test_copies_are_the_same(ds):
    for thing, expected in things(ds):
        for again in (copy.copy(thing), copy.deepcopy(thing)):
            assert total(again) == pytest.approx(float(expected), rel=1e-5)
