"""A cluster as on a site: scheduler and workers are processes of their own that know mmdask as it is installed."""

from __future__ import annotations

import hashlib
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import dask
import numpy as np
import pytest
from clusters import address_in

import mmdask as mm

pytest.importorskip("distributed")
ROOT = Path(__file__).parents[2]
ROWS = 6_000


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Of a scheduler with two workers without nannies, none of which has imported mmdask."""
    from distributed import Client

    folder = tmp_path_factory.mktemp("cold")
    where = folder / "scheduler.json"
    env = os.environ | {"PYTHONPATH": str(ROOT)}  # where it is not installed
    common = ["--scheduler-file", str(where)]
    commands = [
        ["dask_scheduler", "--port", "0", "--host", "127.0.0.1", "--dashboard-address", ":0", *common],
        *[["dask_worker", "--no-nanny", "--nthreads", "1", "--no-dashboard", *common]] * 2,
    ]
    log = (folder / "log").open("wb")
    processes = []
    try:
        for command, *args in commands:
            line = [sys.executable, "-m", f"distributed.cli.{command}", *args]
            processes.append(subprocess.Popen(line, env=env, cwd=folder, stdout=log, stderr=log))
        found = address_in(where)
        with Client(found, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=300)
            assert not client.run_on_scheduler(lambda: "mmdask" in sys.modules)
            assert not any(client.run(lambda: "mmdask" in sys.modules).values())
        yield found
    finally:
        for process in reversed(processes):
            process.kill()
            process.wait(300)
        log.close()


@pytest.fixture
def path(tmp_path):
    rng = np.random.default_rng(0)
    with mm.create(tmp_path / "s.mm") as w:
        for _ in range(3):
            w.extend({"x": rng.random(ROWS // 3), "n": rng.integers(0, 9, ROWS // 3)})
            w.checkpoint()
    return tmp_path / "s.mm"


def three_lines(path):
    ds = mm.open(path)
    sel = ds[ds.cut("x > 0.25 & n < 5")]
    return sel["x"].sum().compute()


def test_the_same_three_lines_on_every_scheduler(address, path, tmp_path):
    from distributed import Client

    x, n = (mm.open(path)[name].compute() for name in ("x", "n"))
    expected = x[(x > 0.25) & (n < 5)].sum()
    with Client(address) as client:
        assert three_lines(path) == pytest.approx(expected, rel=1e-12)
        saved = mm.open(path).save(tmp_path / "saved.mm", progress=False)
        np.testing.assert_array_equal(saved["x"].compute(), x)
        lead = mm.open(path)["n"] + 1
        assert dask.compute(lead.max(), lead.min()) == (n.max() + 1, n.min() + 1)
        flow = ["x > 0.25", lambda block: block["n"] < 5]
        ds = mm.open(path)
        flow[1] = ds.cut(flow[1], key="from Python", fields="n")
        found = repr(ds.cutflow(flow, weight="x")), repr(ds.describe()), repr(ds.normalisation("x"))
        with dask.config.set(scheduler="threads"):
            assert three_lines(path) == pytest.approx(expected, rel=1e-12)
            other = shutil.copytree(path, tmp_path / "other.mm", ignore=shutil.ignore_patterns("cache"))
            ds = mm.open(other)
            flow[1] = ds.cut(lambda block: block["n"] < 5, key="from Python", fields="n")
            assert (repr(ds.cutflow(flow, weight="x")), repr(ds.describe()), repr(ds.normalisation("x"))) == found
        assert client.run_on_scheduler(lambda: "mmdask" in sys.modules), "graphs are unpickled there"
    with dask.config.set(scheduler="sync"):
        assert three_lines(path) == pytest.approx(expected, rel=1e-12)


def test_the_example_runs_on_it(address, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cluster.py", address, str(tmp_path)])
    runpy.run_path(str(ROOT / "examples" / "cluster.py"), run_name="__main__")
    out = capsys.readouterr().out
    assert "rank 1:" in out
    assert "mean HT" in out
    assert len(mm.open(tmp_path / "events.mm")) == 4_000


RANK = """
import hashlib, sys
import mmdask as mm
rank = int(sys.argv[2])
ds = mm.open(sys.argv[1])
for batch in ds[ds.cut("n < 5")].batches(64, seed=5, rank=rank, world_size=2, last="drop"):
    print(*batch.rows.tolist())
    assert "dask.array" not in sys.modules
    print(hashlib.sha256(batch["x"].tobytes()).hexdigest())
"""


def test_ranks_together_have_the_batches_of_one_process(path):
    """Ranks are processes that open one store; what they have together are the batches of one process, bit for bit."""
    command = [sys.executable, "-c", RANK, str(path)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    running = [subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, text=True, env=env) for rank in range(2)]
    ranks = [process.communicate(timeout=300)[0].split("\n")[:-1] for process in running]
    assert all(process.returncode == 0 for process in running)
    ds = mm.open(path)
    x = ds["x"].compute()
    alone = list(ds[ds.cut("n < 5")].batches(64, seed=5, last="drop"))
    assert len(ranks[0]) == len(ranks[1]) == 2 * len(alone)
    for i, batch in enumerate(alone):
        rows = [np.array([int(r) for r in of_rank[2 * i].split()]) for of_rank in ranks]
        assert sorted(np.concatenate(rows)) == sorted(batch.rows)
        for of_rank, some in zip(ranks, rows, strict=True):
            assert hashlib.sha256(x[some].tobytes()).hexdigest() == of_rank[2 * i + 1]
