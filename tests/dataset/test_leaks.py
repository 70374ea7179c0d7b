"""Nothing stays open: stores that are opened, computed on and forgotten leave no descriptor, thread, map or memory."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import awkward as ak
import numpy as np
import pytest

import mmdask as mm
from mmdask.kernels import jit

ROWS = 20_000  # arrays larger than those that are read whole


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    counts = np.arange(ROWS) % 3
    fields = {"x": np.arange(float(ROWS)), "r": ak.unflatten(np.arange(counts.sum(), dtype="f4"), counts)}
    folder = tmp_path_factory.mktemp("leaks")
    return [mm.from_arrays(fields, folder / f"{i}.mm").path for i in range(4)]


def held(paths):
    """What this process holds: descriptors, maps of these stores, threads, anonymous memory in bytes."""
    jit.wait()  # what compiles takes memory for good
    gc.collect()
    maps = Path("/proc/self/maps").read_text()
    [resident] = [x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("RssAnon")]
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "maps": sum(maps.count(os.path.dirname(path)) for path in paths[:1]),
        "threads": len(os.listdir("/proc/self/task")),
        "anonymous": int(resident.split()[1]) * 1024,
    }


def left(paths, most):
    """How many maps there are: no more than so many, once threads have let go of what they computed last."""
    end = time.monotonic() + 60
    while (n := held(paths)["maps"]) > most and time.monotonic() < end:
        time.sleep(0.05)
    return n


def use(path, i, io):
    """Open, compute in some ways, and forget."""
    ds = mm.open(path, chunks=4096, io=io)
    assert ds["x"][i].compute() == i
    assert ds["x"].sum().compute() == ROWS * (ROWS - 1) / 2
    assert len((ds["r"] * 2)[:100].compute()) == 100
    if i % 10 == 0:
        cut = ds.cut(f"x > {i % 200} & any(r > 3)")
        assert len(ds[cut]) == cut.count()
        next(iter(ds.batches(128, seed=i)))
        list(zip(range(3), ds["r"], strict=False))
        ds.describe()


CODE = """
import sys, time
sys.path.insert(0, {here!r})
import dask
from test_leaks import held, use

paths = {paths!r}
with dask.config.set(num_workers=2):
    for i in range(40):
        use(paths[i % 4], i, {io!r})
    before = held(paths)
    for i in range({n}):
        use(paths[i % 4], i, {io!r})
    end = time.monotonic() + 60
    # a thread that was joined may take a moment to be gone for the system, too
    while (after := held(paths))["threads"] > before["threads"] and time.monotonic() < end:
        time.sleep(0.05)
assert after["descriptors"] <= before["descriptors"], (before, after)
assert after["maps"] <= before["maps"] <= 4 * 3, (before, after)
assert after["threads"] <= before["threads"], (before, after)
assert after["anonymous"] < before["anonymous"] + (8 << 20), (before, after)
if {io!r} == "pread":
    assert after["maps"] == 0
"""


@pytest.mark.parametrize(("io", "n"), [("mmap", 160), ("pread", 60)])
def test_stores_that_are_opened_and_forgotten(paths, io, n):
    here = Path(__file__).parent
    code = CODE.format(here=str(here), paths=paths, io=io, n=n)
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(here.parents[1]), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def test_maps_are_those_of_arrays_in_use_and_of_a_bounded_cache(paths, monkeypatch):
    """A map is gone when no array looks at it and the cache, which is bounded by the number of maps, gave it up."""
    from mmdask.store.arrays import held as arrays

    arrays.MAPS.clear()
    gc.collect()
    assert left(paths, 0) == 0
    monkeypatch.setattr(arrays.MAPS, "limit", 2)
    for path in paths:
        ds = mm.open(path)
        ds["x"].sum().compute()
        ds["r"].sum().compute()
        assert left(paths, 2 + 1) <= 2 + 1  # that of the array which `ds` used last
    rows = ds["x"][:10].compute(), ds["r"][5]
    del ds
    arrays.MAPS.clear()
    assert left(paths, 2) <= 2
    assert rows[0].tolist() == list(range(10))
    del rows
    assert left(paths, 0) == 0


def test_workers_of_a_cluster_hold_nothing(paths):
    distributed = pytest.importorskip("distributed")

    of_worker = partial(held, paths)

    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):

        def work(n):
            for i in range(n):
                ds = mm.open(paths[i % 4], chunks=8192)
                assert ds["x"].sum().compute() == ROWS * (ROWS - 1) / 2
                assert ds[ds.cut(f"x > {i}")]["r"].sum().sum().compute() > 0

        work(8)
        before = client.submit(of_worker, pure=False).result()
        work(16)
        end = time.monotonic() + 60
        while True:  # the worker may still be talking to others, or tidying up
            after = client.submit(of_worker, pure=False).result()
            less = after["descriptors"] <= before["descriptors"] + 2 and after["threads"] <= before["threads"] + 1
            if less or time.monotonic() > end:
                break
            time.sleep(0.05)
    assert after["maps"] == before["maps"] == 0
    assert less, (before, after)
    assert after["anonymous"] < before["anonymous"] + (16 << 20)
