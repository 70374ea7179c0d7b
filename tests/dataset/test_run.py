"""Tasks on threads of our own: as many as dask would use, and nothing is begun after an error."""

from __future__ import annotations

import threading
import time

import dask
import numpy as np
import pytest

import mmdask as mm
from mmdask.dataset import run
from mmdask.dataset.run import dask_runner
from mmdask.kernels.crew import Crew
from mmdask.rows import blocks
from tests.faults.keys import at_work


def tasks_of(function, n):
    return [(function, (i,)) for i in range(n)]


@pytest.mark.parametrize("workers", [1, 3])
def test_as_many_threads_as_dask_is_told(workers):
    together = threading.Barrier(workers, timeout=120)
    threads, found = set(), {}

    def work(i):
        if i < workers:
            together.wait()  # as many run at once
        threads.add(threading.current_thread())
        return i * i

    def done(number, result):
        assert threading.current_thread() is threading.main_thread()
        found[number] = result

    with dask.config.set(scheduler="threads", num_workers=workers):
        dask_runner("test")(tasks_of(work, 20), done)
    assert found == {i: i * i for i in range(20)}
    assert len(threads) == workers
    assert threading.main_thread() not in threads
    assert not at_work()
    assert not run._AT_WORK


def test_callers_do_not_wait_for_each_other(monkeypatch):
    monkeypatch.setattr(run, "_CREW", Crew("mmdask-compute", 256))
    both = threading.Barrier(2, timeout=120)
    found = {}

    def caller(name):
        dask_runner("test")(tasks_of(lambda i: both.wait() and name, 2)[:1], lambda n, _: found.setdefault(name, n))

    with dask.config.set(scheduler="threads", num_workers=1):
        callers = [threading.Thread(target=caller, args=(name,)) for name in "ab"]
        for thread in callers:
            thread.start()
        for thread in callers:
            thread.join()
    assert found == {"a": 0, "b": 0}


def test_a_task_that_computes_runs_its_tasks_itself():
    """As a function in a cut may: if it waited for threads, and all of them did, none would be left."""
    threads = {}

    def outer(i):
        found = {}

        def inner(j):
            threads.setdefault(i, set()).add(threading.current_thread())
            return 10 * i + j

        dask_runner("inner")(tasks_of(inner, 5), found.__setitem__)
        assert threads[i] == {threading.current_thread()}
        return found

    found = {}
    with dask.config.set(scheduler="threads", num_workers=2):
        dask_runner("outer")(tasks_of(outer, 6), found.__setitem__)
    assert found == {i: {j: 10 * i + j for j in range(5)} for i in range(6)}


def test_a_task_asks_another_dataset_for_what_is_found_of_this_one(tmp_path):
    """What is found once of a dataset takes no lock that all datasets have: the task would wait for its caller."""
    data = {"x": np.arange(100), "r": [[i] * (i % 3) for i in range(100)]}
    ds, other = (mm.from_arrays(data, tmp_path / f"{name}.mm") for name in ("ds", "other"))
    found = {}

    def cut(block):
        found["chunks inside"] = other[other.cut("x > 30")].chunks
        return block["x"] > 1

    def items(lists):
        found["items inside"] = len(other["r"][other["r"] > 30].values)
        return lists

    def ask():
        found["chunks"] = ds[ds.cut(cut, key="k", fields="x")].chunks
        found["items"] = len(ds["r"].map(items).values)

    with dask.config.set(scheduler="threads", num_workers=2):
        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(120)
    counts = [i % 3 for i in range(100)]
    inside = {"chunks inside": (69,), "items inside": sum(counts[31:])}
    assert found == {"chunks": (98,), "items": sum(counts), **inside}


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_no_task_begins_after_an_error(scheduler):
    begun = []

    def work(i):
        begun.append(i)
        if i == 1:
            raise ValueError("task 1")
        time.sleep(0.05)

    found = []
    with dask.config.set(scheduler=scheduler, num_workers=1), pytest.raises(ValueError, match="task 1"):
        dask_runner("test")(tasks_of(work, 1000), lambda number, _: found.append(number))
    assert found == [0]
    assert len(begun) < 1000


def test_an_error_where_a_result_is_taken_ends_the_rest():
    begun = []

    def done(number, _):
        raise KeyboardInterrupt

    with dask.config.set(scheduler="threads", num_workers=1), pytest.raises(KeyboardInterrupt):
        dask_runner("test")(tasks_of(lambda i: [begun.append(i), time.sleep(0.05)], 1000), done)
    assert len(begun) < 1000


def test_what_still_runs_ends_with_its_block(tmp_path, monkeypatch):
    ds = mm.from_arrays({"x": np.arange(4096.0)}, tmp_path / "s.mm")
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 8)
    begun, ended = threading.Event(), threading.Event()
    seen = []

    def work(i):
        if not i:
            begun.wait(120)
            return i
        try:
            for a, _ in blocks.row_blocks(ds._rows.snapshot, 0, ["x"]):
                seen.append(a)
                begun.set()
                time.sleep(0.2)
        finally:
            ended.set()
        return i

    def done(number, _):
        raise KeyboardInterrupt

    with dask.config.set(scheduler="threads", num_workers=2), pytest.raises(KeyboardInterrupt):
        dask_runner("test")(tasks_of(work, 2), done)
    assert ended.is_set()
    assert 0 < len(seen) < 512
    assert [a for a, _ in blocks.row_blocks(ds._rows.snapshot, 0, ["x"])] == list(range(0, 4096, 8))
