"""Graphs hold references and one task per chunk: their size does not depend on the rows, and slices read their rows."""

from __future__ import annotations

import pickle

import awkward as ak
import cloudpickle
import dask
import numpy as np
import pytest

import mmdask as mm
from mmdask.rows.rows import RESOLVED
from mmdask.store.arrays import held as arrays
from mmdask.testing import count_reads, max_computes

CHUNKS = 10


def write(path, rows):
    rng = np.random.default_rng(7)
    counts = rng.integers(0, 4, rows)
    jets = ak.unflatten(np.arange(counts.sum(), dtype="f4"), counts)
    schema = [
        mm.Field.dense("x", "f8"),
        mm.Field.dense("opt", "f4", optional=(0,)),
        mm.Field.dense("p3", "f4", (3,)),
        mm.Field.category("process", ["a", "b"]),
        mm.Field.ragged("jet_pt", "f4"),
        mm.Field.ragged("jet_eta", "f4"),
        mm.Field.ragged("deep", "i2", levels=2),
        mm.Field.string("name"),
        mm.Field.shaped("image", "u1", 2),
    ]
    with mm.create(path, fields=schema) as w:
        w.extend(
            {
                "x": rng.random(rows),
                "opt": [None if i % 5 == 0 else i for i in range(rows)],
                "p3": rng.random((rows, 3)).astype("f4"),
                "process": ["ab"[i % 2] for i in range(rows)],
                "jet_pt": jets,
                "jet_eta": jets,
                "deep": [[[i % 100]] * (i % 3) for i in range(rows)],
                "name": [f"n{i}" for i in range(rows)],
                "image": [np.zeros((i % 3, 2), "u1") for i in range(rows)],
            }
        )
    return path


NAMES = ["x", "opt", "p3", "process", "jet_pt", "deep", "name", "image"]
#: everything that is lazy and has a graph, by what it is made of
LAZY = {
    **{
        f"ds[{name!r}]": lambda ds, name=name: ds[name]
        for name in ["x", "opt", "p3", "process", "jet_pt", "deep", "name", "image"]
    },
    "arithmetic": lambda ds: (ds["x"] + 1) * ds["x"],
    "operators": lambda ds: np.sqrt(ds["jet_pt"] * 2 + ds["jet_eta"]),
    "with a field": lambda ds: ds["jet_pt"] * ds["x"],
    "with an array": lambda ds: ds["jet_pt"] * (ds["x"] + 1),
    "items": lambda ds: ds["jet_pt"][:, 0],
    "first items": lambda ds: ds["jet_pt"][:, :2],
    "condition": lambda ds: ds["jet_pt"][ds["jet_eta"] > 3],
    "pad": lambda ds: ds["jet_pt"].pad(3),
    "reduction": lambda ds: ds["jet_pt"].sum(),
    "reduction of a result": lambda ds: (ds["jet_pt"] * 2).max(),
    "counts": lambda ds: ds["jet_pt"].counts,
    "offsets": lambda ds: ds["jet_pt"].offsets,
    "values": lambda ds: ds["jet_pt"].values,
    "values of a result": lambda ds: (ds["jet_pt"] * 2).values,
    "shapes": lambda ds: ds["image"].shapes,
    "valid": lambda ds: ds["name"].valid,
    "map": lambda ds: ds["jet_pt"].map(ak.sort),
    "zip": lambda ds: ds.zip("jet"),
    "member": lambda ds: ds.zip("jet")["pt"],
    "computed field": lambda ds: ds.assign(ht="sum(jet_pt)")["ht"],
    "array as a field": lambda ds: ds.assign(y=ds["x"] * 2)["y"],
    "mask": lambda ds: ds.cut("x > 0.5").mask,
    "selection": lambda ds: ds[ds.cut("x > 0.5")]["x"],
    "ragged selection": lambda ds: ds[ds.cut("x > 0.5")]["jet_pt"],
    "split": lambda ds: ds.split({"a": 0.5, "b": 0.5})["a"]["x"],
    "slice": lambda ds: ds[3:-3]["jet_pt"],
    "slice of a result": lambda ds: (ds["jet_pt"] * 2)[3:-3],
    "rechunked": lambda ds: ds["x"].rechunk(50),
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("graphs")
    few, many = write(folder / "few.mm", CHUNKS * 64), write(folder / "many.mm", CHUNKS * 4096)
    return mm.open(few, chunks=64), mm.open(many, chunks=4096)


def size(x):
    return len(cloudpickle.dumps(dict(x.__dask_graph__()))), len(pickle.dumps(x))


@pytest.mark.parametrize("name", LAZY)
def test_64_times_the_rows_is_the_same_graph(stores, name):
    if name == "rechunked":
        few, many = stores[0]["x"].rechunk(64 * 5), stores[1]["x"].rechunk(4096 * 5)
    else:
        few, many = [LAZY[name](ds) for ds in stores]
    for a, b in zip(size(few), size(many), strict=True):
        # Numbers of rows have a few bytes more.
        assert abs(a - b) < 100 + 40 * CHUNKS, (a, b)
    assert max(size(many)) < 3_000 + 1_500 * CHUNKS


@pytest.mark.parametrize("name", sorted(set(LAZY) - {"rechunked", "offsets", "values of a result"}))
def test_one_task_for_each_chunk(stores, name):
    [found] = dask.optimize(LAZY[name](stores[0]))
    tasks = [task for task in dict(found.__dask_graph__()).values() if callable(task)]
    assert len(tasks) <= CHUNKS + 1


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """100,000 chunks of 8 rows."""
    n = 800_000
    counts = np.arange(n) % 3
    fields = {"x": np.arange(n, dtype="f4"), "r": ak.unflatten(np.arange(counts.sum(), dtype="i2"), counts)}
    return mm.open(mm.from_arrays(fields, tmp_path_factory.mktemp("long") / "s.mm").path, chunks=8)


def test_100_000_chunks_pickle_to_less_than_a_megabyte(long):
    ds = long
    assert len(ds.chunks) == 100_000
    r, x = ds["r"], ds["x"]
    things = [x, x + 1, x * ds["x"], x[1000:2000], r, r * 2, r * x, r * (x + 1), (r * x).sum(), (r * x).pad(2)]
    things += [r.sum(), r.counts, r.values, r.offsets, (r * 2).values, r[r > 1], r[5:-5], (r * 2)[5:-5]]
    things += [ds.cut("x > 3").mask, ds[ds.cut("x > 3")]["x"], ds.assign(ht="sum(r)")["ht"], r.map(ak.sort)]
    for thing in things:
        assert len(pickle.dumps(thing)) < 1_000_000, thing
        assert len(cloudpickle.dumps(thing.__dask_graph__())) < 1_000_000, thing
    assert len(pickle.dumps(ds)) < 1_000


# Exactly those rows -------------------------------------------------------------------------------------------------


@pytest.fixture
def plain(stores, monkeypatch):
    """The larger store, read plainly, and the bytes that are read of it."""
    monkeypatch.setattr(arrays, "SMALL_NBYTES", -1)
    seen = []
    original = arrays.read_into
    monkeypatch.setattr(
        arrays, "read_into", lambda fd, out, offset: (seen.append(out.nbytes), original(fd, out, offset))[1]
    )
    for cache in (arrays.SMALL, arrays.DESCRIPTORS, RESOLVED):
        cache.clear()
    return mm.open(stores[1].path, chunks=4096, io="pread"), seen


ROWS = slice(1000, 2000)
SLICED = {
    "x": (lambda ds: ds["x"][ROWS], {"x": 1000}, lambda ds, items: 8 * 1000),
    "row": (lambda ds: ds["x"][1234], {"x": 1}, lambda ds, items: 8),
    "steps": (lambda ds: ds["x"][1000:2000:10], {"x": 991}, lambda ds, items: 8 * 991),
    "two chunks": (lambda ds: ds["x"][4000:4200] + 1, {"x": 200}, lambda ds, items: 8 * 200),
    "columns": (lambda ds: ds["p3"][ROWS, 1], {"p3": 1000}, lambda ds, items: 12 * 1000),
    "view": (lambda ds: ds[ROWS]["x"] * 2, {"x": 1000}, lambda ds, items: 8 * 1000),
    "ragged": (lambda ds: ds["jet_pt"][ROWS], {"jet_pt": 1000}, lambda ds, items: 8 * 1001 + 4 * items),
    "operator": (lambda ds: (ds["jet_pt"] * 2)[ROWS], {"jet_pt": 1000}, lambda ds, items: 8 * 1001 + 4 * items),
    "two fields": (
        lambda ds: (ds["jet_pt"] * ds["jet_eta"] + 1)[ROWS],
        {"jet_pt": 1000, "jet_eta": 1000},
        lambda ds, items: 2 * (8 * 1001 + 4 * items),
    ),
    "reduction": (lambda ds: ds["jet_pt"].sum()[ROWS], {"jet_pt": 1000}, lambda ds, items: 8 * 1001 + 4 * items),
    "counts": (lambda ds: ds["jet_pt"].counts[ROWS], {}, lambda ds, items: 8 * 1001),
    "mask": (lambda ds: ds.cut("x > 0.25").mask[ROWS], {"x": 1000}, lambda ds, items: 8 * 1000),
    "computed": (lambda ds: ds.assign(y="x * 2")["y"][ROWS], {"x": 1000}, lambda ds, items: 8 * 1000),
}


@pytest.mark.parametrize("name", SLICED)
def test_slices_read_exactly_their_rows(plain, name):
    ds, seen = plain
    make, rows, nbytes = SLICED[name]
    counts = mm.open(ds.path)["jet_pt"].counts[ROWS].sum().compute()
    seen.clear()
    with max_computes(0):
        lazy = make(ds)
    assert not seen
    with count_reads() as reads:
        lazy.compute(scheduler="sync")
    assert reads.rows == rows
    assert sum(seen) == nbytes(ds, int(counts))


def test_a_slice_of_a_selection_reads_what_lies_between_its_rows(plain):
    ds, seen = plain
    sel = ds[ds.cut("x > 0.5")]
    assert len(sel) > 2000
    seen.clear()
    with count_reads() as reads:
        found = sel["x"][100:200].compute(scheduler="sync")
    assert reads.rows == {"x": 100}
    nbytes = sum(seen)
    first, last = np.flatnonzero(ds["x"][:1000].compute() > 0.5)[[100, 199]]
    assert nbytes == 8 * (last - first + 1)  # gaps of up to 64 KiB are read along
    assert (found > 0.5).all()
