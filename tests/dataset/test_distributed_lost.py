"""A store that workers cannot open is an error of what was asked for, and the cluster lives on."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from clusters import address_in, cluster

import mmdask as mm
from mmdask.store.arrays import place
from mmdask.store.snapshot import LostSnapshot

pytest.importorskip("distributed")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def lost():
    """A store that this process alone has, as workers have other memory."""
    url = "memory://lost.mm"
    yield mm.from_arrays({"x": np.arange(10.0), "hits": [[1, 2], []] * 5}, url)
    import fsspec

    fsspec.filesystem("memory").rm("/lost.mm", recursive=True)


ASKED = {
    "field": lambda ds: ds["x"].mean().compute(),
    "items": lambda ds: ds["hits"].sum().compute(),
    "rows": lambda ds: ds["hits"].compute(),
    "map": lambda ds: ds["hits"].map(lambda a: a).compute(),
    "cut": lambda ds: ds.cut("x > 3").count(),
    "selection": lambda ds: ds[ds.cut("x > 4")]["x"].sum().compute(),
    "flow": lambda ds: ds.cutflow(["x > 5"]),
    "describe": lambda ds: ds.describe(["x"]),
    "concat": lambda ds: mm.concat([ds, ds])["x"].mean().compute(),
    "explode": lambda ds: ds.explode("hits")["hits"].sum().compute(),
    "rename": lambda ds: ds.rename(x="y").cut("y > 3").count(),
}


def test_the_task_raises_and_workers_stay(lost, tmp_path):
    there = mm.from_arrays({"x": np.arange(4.0)}, tmp_path / "there.mm")
    with cluster(n=1, silence_logs=50) as client:
        worker = list(client.scheduler_info()["workers"])
        for name, ask in ASKED.items():
            with pytest.raises(mm.StoreNotFoundError, match=r"no store at memory://lost\.mm") as error:
                ask(lost)
            assert "process of the cluster" in "".join(error.value.__notes__), name
        assert there["x"].sum().compute() == 6
        assert list(client.scheduler_info()["workers"]) == worker
        assert len(lost.save(tmp_path / "saved.mm", progress=False)) == 10  # by this process


def test_only_processes_of_a_cluster_put_it_off(lost, monkeypatch):
    data = pickle.dumps((lost, mm.concat([lost, lost])))
    import fsspec

    from mmdask.store import snapshot

    fs = fsspec.filesystem("memory")
    manifest = fs.cat_file("/lost.mm/manifest.json")
    fs.rm_file("/lost.mm/manifest.json")
    monkeypatch.setattr(snapshot, "_OPEN", {})
    with pytest.raises(mm.StoreNotFoundError, match="lost"):
        pickle.loads(data)
    monkeypatch.setattr(snapshot, "in_cluster", lambda: True)
    one, two = pickle.loads(data)
    for ds in (one, two):
        assert isinstance(ds._rows.snapshot, LostSnapshot)
        assert repr(ds._rows.snapshot) == "<LostSnapshot 'memory://lost.mm'>"
        with pytest.raises(mm.StoreNotFoundError, match="lost"):
            len(ds)
    # Another process, as a worker behind a scheduler that does not see the store, may find it.
    again = pickle.dumps((one, two))
    fs.pipe_file("/lost.mm/manifest.json", manifest)
    monkeypatch.undo()
    one, two = pickle.loads(again)
    assert (len(one), len(two)) == (10, 20)


def test_who_is_of_a_cluster():
    assert not place.in_cluster()
    with cluster(n=1, processes=False) as client:
        assert place.in_cluster()  # a worker runs in this process
        client.scheduler_info()
    assert not place.in_cluster()
    with cluster(n=1) as client:
        assert not place.in_cluster()  # it has the scheduler, and is the user's
        assert all(client.run(place.in_cluster).values())
        assert client.run_on_scheduler(place.in_cluster) is False


def test_a_scheduler_that_does_not_see_the_store(lost, tmp_path):
    where = tmp_path / "scheduler.json"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with (tmp_path / "log").open("wb") as log:
        common = ["--port", "0", "--host", "127.0.0.1", "--dashboard-address", ":0", "--scheduler-file", str(where)]
        line = [sys.executable, "-m", "distributed.cli.dask_scheduler", *common]
        with subprocess.Popen(line, env=env, cwd=tmp_path, stdout=log, stderr=log) as process:
            try:
                _through(address_in(where), lost)
            finally:
                process.kill()


def _through(address, ds):
    """The worker is a thread of this process, so it sees the memory; the scheduler does not."""
    import asyncio

    import distributed

    async def ask():
        async with (
            distributed.Worker(address, nthreads=1, dashboard_address=":0"),
            distributed.Client(address, asynchronous=True) as client,
        ):
            assert await client.run_on_scheduler(place.in_cluster)
            return await client.compute(ds["x"].sum())

    assert asyncio.run(ask()) == 45
