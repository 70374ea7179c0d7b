"""Cuts under every scheduler: the same bits, the same progress, and only the client writes."""

from __future__ import annotations

import shutil
import threading

import dask
import numpy as np
import pytest
from clusters import until

import mmdask as mm
from mmdask.dataset import run
from mmdask.rows.cuts import masks
from mmdask.rows.rows import RESOLVED

LENGTHS = (100, 30, 170, 9)
N = sum(LENGTHS)
X = np.random.default_rng(3).integers(0, 100, N)
R = [[int(x)] * (i % 3) for i, x in enumerate(X)]
CUT = "not (x > 40 and r[1] > 20) or x == 3"
EXPECTED = [x <= 40 or (len(r) > 1 and r[1] <= 20) for x, r in zip(X, R, strict=True)]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "r.mm"
    first = 0
    with mm.create(path, fields=[mm.Field.dense("x", "i8"), mm.Field.ragged("r", "i8")]) as w:
        for n in LENGTHS:
            w.extend({"x": X[first : first + n], "r": R[first : first + n]})
            w.checkpoint()
            first += n
    return path


@pytest.fixture
def path(store, tmp_path):
    RESOLVED.clear()
    masks.LOADED.clear()
    return shutil.copytree(store, tmp_path / "r.mm")


@pytest.fixture
def bars(monkeypatch):
    """Every progress bar: what it was made with, and its updates."""
    found = []

    class Bar:
        def __init__(self, total, desc, unit, **_):
            self.total, self.desc, self.updates, self.ended = total, desc, [], False
            found.append(self)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.ended = True

        def update(self, n):
            self.updates.append(n)

    monkeypatch.setattr(run, "progress", Bar)
    return found


@pytest.fixture
def writers(monkeypatch):
    """Which threads write masks."""
    found = set()
    original = masks.MaskFiles._write

    def write(self, *args):
        found.add(threading.current_thread())
        original(self, *args)

    monkeypatch.setattr(masks.MaskFiles, "_write", write)
    return found


def check(path, bars, writers):
    ds = mm.open(path)
    cut = ds.cut(CUT)
    assert cut.count() == sum(EXPECTED)
    [bar] = bars
    assert (bar.total, sum(bar.updates), bar.ended, bar.desc) == (len(LENGTHS), len(LENGTHS), True, "cut")
    assert writers == {threading.current_thread()}
    np.testing.assert_array_equal(cut.mask.compute(), EXPECTED)
    assert len(bars) == 1, "it is kept"
    return {f.name: f.read_bytes() for f in (path / "cache").rglob("*.mask")}


@pytest.fixture(scope="module")
def files(store, tmp_path_factory):
    """The masks that one thread computes."""
    path = shutil.copytree(store, tmp_path_factory.mktemp("serial") / "r.mm")
    RESOLVED.clear()
    masks.LOADED.clear()
    with dask.config.set(scheduler="sync"):
        mm.open(path).cut(CUT).count()
    return {f.name: f.read_bytes() for f in (path / "cache").rglob("*.mask")}


@pytest.mark.parametrize("options", [{}, {"scheduler": "sync"}, {"scheduler": "threads"}, {"scheduler": "processes"}])
def test_on_this_machine(path, files, bars, writers, options):
    with dask.config.set(**options):
        assert check(path, bars, writers) == files


def test_with_callbacks_and_pools_of_the_user(path, files, bars, writers):
    from concurrent.futures import ThreadPoolExecutor

    from dask.callbacks import Callback

    seen = []
    with Callback(posttask=lambda *args: seen.append(args[0])), dask.config.set(pool=ThreadPoolExecutor(1)):
        assert check(path, bars, writers) == files
    assert len(seen) >= len(LENGTHS)


@pytest.mark.parametrize("processes", [False, True])
def test_on_a_cluster(path, files, bars, writers, processes):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=processes, dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        assert check(path, bars, writers) == files
        # A cut from Python, which is computed by the workers and goes with its function.
        ds = mm.open(path)
        keyed = ds.cut(lambda block: block["x"] > 40, key="f", fields="x") & ds.cut((ds["x"] < 90).rechunk(64), key="a")
        assert keyed.count() == np.sum((X > 40) & (X < 90))
        assert ds[keyed]["x"].sum().compute() == X[(X > 40) & (X < 90)].sum()
        until(lambda: not [key for key in list(client.futures) if "_listed" in str(key)])


@pytest.mark.parametrize("scheduler", ["sync", "threads", "processes"])
def test_an_error_ends_the_bar(path, bars, scheduler):
    def broken(block):
        raise ValueError("broken")

    with dask.config.set(scheduler=scheduler), pytest.raises(ValueError, match="broken"):
        mm.open(path).cut(broken, key="f", fields="x").count()
    assert bars[0].ended
