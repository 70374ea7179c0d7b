"""The same results, bit for bit, on all four schedulers."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import shutil

import awkward as ak
import dask
import dask.array as da
import kinds
import numpy as np
import pytest

import mmdask as mm
from mmdask.rows.cuts import masks
from mmdask.rows.rows import RESOLVED

ROWS = 300


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Fields of every kind with missing values, in three parts, and events with jets."""
    folder = tmp_path_factory.mktemp("schedulers")
    rng = np.random.default_rng(5)
    table = {name: [row_of(f, rng) for _ in range(40)] for name, f in kinds.FIELDS.items()}
    kinds.write(folder / "kinds.mm", table, cuts=(13, 30))
    with mm.create(folder / "events.mm", fields=EVENTS) as w:
        for n in (100, 150, 50):
            counts = rng.integers(0, 4, n)
            jets = {f"jet_{x}": ak.unflatten(rng.random(counts.sum()).astype("f4"), counts) for x in ("pt", "eta")}
            more = {"x": rng.normal(size=n), "w": rng.random(n), "k": rng.integers(0, 4, n).astype("i4")}
            w.extend(more | jets | {"process": [("a", "b")[i % 2] for i in range(n)]})
            w.checkpoint()
    return folder


EVENTS = [
    mm.Field.dense("x", "f8"),
    mm.Field.dense("w", "f8"),
    mm.Field.dense("k", "i4"),
    mm.Field.category("process", ["a", "b"]),
    mm.Field.ragged("jet_pt", "f4"),
    mm.Field.ragged("jet_eta", "f4"),
]


def row_of(field, rng, depth=0):
    if depth in field.optional and rng.random() < 0.2:
        return None
    if depth < field.levels:
        return [row_of(field, rng, depth + 1) for _ in range(rng.integers(0, 4))]
    if field.kind == "string":
        return ["", "a", "é", "long text"][rng.integers(4)]
    if field.kind == "category":
        return kinds.LABELS[rng.integers(3)]
    if field.kind == "shaped":
        return kinds.image(field, (*rng.integers(0, 4, field.axes), int(rng.integers(256))))
    if field.dtype.kind in "mM":
        return np.array(rng.integers(0, 10**6), field.dtype)[()]
    value = rng.integers(0, 9, field.shape).astype(field.dtype)
    return value[()] if field.shape == () else value.tolist()


def sums(block):
    return ak.sum(block * 2, axis=1)


def hard(block):
    return block["x"] > 0.3


OPERATIONS = {
    "arithmetic": lambda ds: (ds["x"] * 2 + ds["w"]).compute(),
    "sum of floats": lambda ds: (ds["x"] * 1.1).sum().compute(),
    "mean": lambda ds: ds["x"].mean().compute(),
    "expression": lambda ds: (np.sqrt(ds["jet_pt"]) * ds["jet_eta"] + ds["x"]).compute(),
    "reductions": lambda ds: dask.compute(
        *[getattr(ds["jet_pt"], f)() for f in ("sum", "mean", "max", "std", "argmax")]
    ),
    "reduction of a result": lambda ds: (ds["jet_pt"] - ds["jet_eta"]).max(default=0).compute(),
    "first": lambda ds: ds["jet_pt"][:, 0].compute(),
    "two": lambda ds: ds["jet_pt"][:, :2].compute(),
    "choose": lambda ds: ds["jet_pt"][ds["jet_eta"] > 0.5].compute(),
    "map": lambda ds: ds["jet_pt"].map(sums).compute(),
    "pad": lambda ds: ds["jet_pt"].pad(3, -1, mask=True)[0].compute(),
    "zip": lambda ds: ds.zip("jet").compute(),
    "persist": lambda ds: ((ds["jet_pt"] * 2).persist() + 1).compute(),
    "values": lambda ds: dask.compute(ds["jet_pt"].values, ds["jet_pt"].offsets, ds["jet_pt"].counts),
    "cut": lambda ds: ds[ds.cut("x > 0.2 & any(jet_pt > 0.5)")]["jet_pt"].compute(),
    "mask": lambda ds: ds.cut("x > 0.1").mask.compute(),
    "count": lambda ds: [ds.cut("x > 0.3").count(), (~ds.cut("x > 0.4") | ds.cut("k == 2")).count()],
    "cut from Python": lambda ds: ds.cut(hard, key="hard", fields="x").count(),
    "cut from dask": lambda ds: ds.cut(ds["x"] > 0.35, key="array").count(),
    "split": lambda ds: [len(part) for part in ds.split({"a": 0.6, "b": 0.4}, by="k", seed=1).values()],
    "cutflow": lambda ds: repr(ds.cutflow(["x > 0", "any(jet_pt > 0.5)", "k > 1"], weight="w", by="process")),
    "hist": lambda ds: [
        h.view(flow=True)
        for h in ds.hist({"x": 20, "jet_pt": (9, 0, 1), "k": None}, weight="w", where="x > -1").values()
    ],
    "describe": lambda ds: repr(ds[ds.cut("x > -2")].describe().to_pandas().to_dict()),
    "assign": lambda ds: ds.assign(ht="sum(jet_pt)", r=ds["x"] / ds["w"])[["ht", "r"]].to_awkward(),
    "frame": lambda ds: ds.to_dataframe(["x", "k", "process"]),
    "lazy frame": lambda ds: ds.to_dataframe(["x", "k"], lazy=True).sum().compute(),
    "xarray": lambda ds: ds.to_xarray(["x", "w"]).mean().compute().x.item(),
    "rechunk": lambda ds: ds["x"].rechunk(70).cumsum(axis=0).compute(),
    "histogram of dask": lambda ds: da.histogram(ds["x"], bins=10, range=(-3, 3), weights=ds["w"])[0].compute(),
}
if importlib.util.find_spec("pyarrow") is None:  # which dask.dataframe needs
    del OPERATIONS["lazy frame"]


def digest(x):
    """A hash of every bit of a result, whatever it is."""
    found = hashlib.sha256()

    def add(x):
        if isinstance(x, np.ma.MaskedArray):
            add([np.ma.getmaskarray(x), x.filled()])
        elif isinstance(x, ak.Array):
            form, length, buffers = ak.to_buffers(ak.to_packed(x))
            add([str(form), length, *[np.asarray(buffers[key]) for key in sorted(buffers)]])
        elif isinstance(x, np.ndarray) and x.dtype.names:
            add([x[name] for name in x.dtype.names])
        elif isinstance(x, np.ndarray | np.generic):
            found.update(f"{x.dtype.str}{x.shape}".encode() + np.ascontiguousarray(x).tobytes())
        elif hasattr(x, "to_dict"):
            add(repr(x.to_dict()))
        elif isinstance(x, list | tuple):
            found.update(b"[")
            [add(y) for y in x]
        else:
            found.update(repr(x).encode())

    add(x)
    return found.hexdigest()


def all_results(stored, folder):
    """Digests of all operations, computed anew."""
    path = shutil.copytree(stored / "events.mm", folder / "events.mm")
    RESOLVED.clear()
    masks.LOADED.clear()
    ds = mm.open(path, chunks=32)
    found = {name: digest(work(ds)) for name, work in OPERATIONS.items()}
    every = mm.open(stored / "kinds.mm", chunks=8)
    names = list(every)
    for name, value in zip(names, dask.compute(*[every[name] for name in names]), strict=True):
        found[f"field {name}"] = digest(value)
    for name, value in zip(names, dask.compute(*[every[3:31][name] for name in names]), strict=True):
        found[f"rows of {name}"] = digest(value)
    saved = ds[ds.cut("x > 0")].save(folder / "saved.mm", part_nbytes=2000, progress=False)
    found["save"] = digest([saved[name].compute() for name in saved])
    kept = itertools.chain(path.glob("cache/masks/*/*"), path.glob("cache/summaries/*"))
    found["kept"] = digest(sorted((f.name, f.read_bytes()) for f in kept if f.is_file()))
    return found


@pytest.fixture(scope="module")
def expected(stored, tmp_path_factory):
    with dask.config.set(scheduler="sync"):
        return all_results(stored, tmp_path_factory.mktemp("sync"))


@pytest.mark.parametrize("scheduler", ["sync", "threads", "cluster"])
def test_schedulers_agree_to_the_last_bit(stored, expected, tmp_path, scheduler):
    if scheduler != "cluster":
        with dask.config.set(scheduler=scheduler):
            assert all_results(stored, tmp_path) == expected
        return
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster),
    ):
        assert all_results(stored, tmp_path) == expected


def test_processes_agree_to_the_last_bit(stored, expected, tmp_path):
    """One pool for all, as a user who computes often would have it."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with (
        ProcessPoolExecutor(2, get_context("spawn")) as pool,
        dask.config.set(scheduler="processes", pool=pool),
    ):
        assert all_results(stored, tmp_path) == expected


def test_results_are_digested_to_the_last_bit():
    """The oracle of this module: what differs has another digest."""
    one = np.array([1.0, np.nan])
    others = [
        one.astype("f4"),
        np.nextafter(one, 2),
        one[:, None],
        np.ma.array(one, mask=[0, 1]),
        ak.Array([[1.0], [np.nan]]),
        ak.Array([1.0, None]),
        [1.0, np.nan],
        [[1.0], np.nan],
    ]
    assert len({digest(x) for x in (one, *others)}) == 1 + len(others)
    assert digest(one) == digest(one.copy())
