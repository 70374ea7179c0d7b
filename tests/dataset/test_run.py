"""Tasks on threads of our own: as many as dask would use, and nothing is begun after an error."""

from __future__ import annotations

import threading
import time

import dask
import numpy as np
import pytest

import mmdask as mm
from mmdask.dataset.run import dask_runner
from mmdask.rows import blocks


def tasks_of(function, n):
    return [(function, (i,)) for i in range(n)]


@pytest.mark.parametrize("workers", [1, 3])
def test_as_many_threads_as_dask_is_told(workers):
    together = threading.Barrier(workers, timeout=30)
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
    assert not any(t.is_alive() for t in threads)


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_no_task_begins_after_an_error(scheduler):
    begun = []

    def work(i):
        begun.append(i)
        if i == 1:
            raise ValueError("task 1")
        time.sleep(0.002)

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
        dask_runner("test")(tasks_of(lambda i: [begun.append(i), time.sleep(0.002)], 1000), done)
    assert len(begun) < 1000


def test_what_still_runs_ends_with_its_block(tmp_path, monkeypatch):
    ds = mm.from_arrays({"x": np.arange(64.0)}, tmp_path / "s.mm")
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 8)
    begun, ended = threading.Event(), threading.Event()
    seen = []

    def work(i):
        if not i:
            begun.wait(30)
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
    assert 0 < len(seen) < 8
    assert [a for a, _ in blocks.row_blocks(ds._rows.snapshot, 0, ["x"])] == list(range(0, 64, 8))
