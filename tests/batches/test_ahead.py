"""Reading ahead changes nothing but the time: order, errors, state; and no thread is left."""

from __future__ import annotations

import gc
import itertools
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from memory_rows import MemoryRows, numbered

from mmdask.batches.loader import Loader
from mmdask.batches.loading import budget, runs
from mmdask.batches.loading.work_thread import WorkThread
from mmdask.errors import OptionError


def reading():
    return [t for t in threading.enumerate() if t.name == "mmdask-ahead"]


def until(condition):
    end = time.monotonic() + 300
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
        gc.collect()
    assert condition()


@pytest.fixture(autouse=True)
def no_thread_is_left():
    until(lambda: not reading())
    yield
    until(lambda: not reading())  # closing waits some seconds for a thread, and no longer


class Slow(MemoryRows):
    """Rows that note by which thread they are read, and fail at one of them."""

    def __init__(self, n, fails=None, delay=0.0):
        super().__init__({"row": np.arange(n)})
        self.fails, self.delay, self.by = fails, delay, []

    def take_many(self, names, rows):
        self.by.append((len(rows), threading.current_thread().name))
        time.sleep(self.delay)
        if self.fails in rows:
            raise RuntimeError(f"row {self.fails} is bad")
        return super().take_many(names, rows)


def test_the_first_batch_is_read_here_and_the_rest_by_a_thread_ever_more_together():
    rows = Slow(10_000)
    assert len(list(Loader(rows, 10, seed=1))) == 1000
    assert rows.by[0] == (10, "MainThread")
    assert {name for _, name in rows.by[1:]} == {"mmdask-ahead"}
    assert [n for n, _ in rows.by] == [10, 80, 640, 5120, 4150]


def test_runs_are_bounded_in_bytes(monkeypatch):
    monkeypatch.setattr(budget, "RUN_NBYTES", 800)
    rows = Slow(1000)
    list(Loader(rows, 10, shuffle=False))
    assert max(n for n, _ in rows.by) == 50  # of a row number and a value of 8 bytes each
    rows = Slow(1000)
    list(Loader(rows, 10, shuffle=False, memory=3200))
    assert max(n for n, _ in rows.by) == 20


@pytest.mark.parametrize("shuffle", [True, False, "exact"])
def test_batches_by_number_while_a_thread_reads_are_the_same(shuffle):
    def make():
        return Loader(numbered(5000, selected=range(0, 5000, 3)), 7, shuffle=shuffle, seed=2, **options)

    options = {"window": 1, "block": 4} if shuffle is True else {}
    expected = [b.rows.tolist() for b in make()]
    loader, found = make(), []
    for batch in loader:
        found.append(batch.rows.tolist())
        i = (batch.index * 31) % len(loader)
        assert loader[i].rows.tolist() == expected[i]
        assert loader.state_dict()["position"] in (batch.position, 0)
    assert found == expected


def test_two_loops_over_one_loader_do_not_disturb_each_other():
    loader = Loader(numbered(3000), 10, seed=3, window=1, block=2)
    expected = [b.rows.tolist() for b in loader]
    loader.set_epoch(0)
    for a, b in zip(iter(loader), loader.source(0, 0), strict=True):
        assert a.rows.tolist() == b.rows.tolist() == expected[a.index]


@pytest.mark.parametrize("fails", [0, 9, 10, 555, 999])
def test_an_error_comes_where_its_batch_would_have_come(fails):
    rows = Slow(1000, fails)
    loader, done = Loader(rows, 10, shuffle=False), []
    with pytest.raises(RuntimeError, match=f"row {fails} is bad"):
        done += [b.index for b in loader]
    assert not done
    iteration = iter(loader)
    for expected in range(fails // 10):
        assert next(iteration).index == expected
    for _ in range(2):  # and again, until it can be read
        with pytest.raises(RuntimeError):
            next(iteration)
    assert loader.state_dict()["position"] == fails // 10 * 10
    rows.fails = None
    assert [b.index for b in iteration] == list(range(fails // 10, 100))


def test_a_loop_that_is_left_leaves_no_thread_and_does_not_hang():
    rows = Slow(5000, delay=0.02)
    for batch in Loader(rows, 10):
        if batch.index == 3:
            break
    until(lambda: not reading())
    iteration = iter(Loader(rows, 10))
    for _ in range(3):
        next(iteration)
    assert len(reading()) == 1
    del iteration
    until(lambda: not reading())


def test_a_cycle_that_is_collected_by_any_thread_leaves_no_thread():
    iteration = iter(Loader(Slow(5000, delay=0.01), 10))
    next(iteration)
    next(iteration)
    cycle = [iteration]
    cycle.append(cycle)
    del iteration, cycle
    other = threading.Thread(target=gc.collect)
    other.start()
    other.join()
    until(lambda: not reading())


def test_the_thread_may_be_the_one_that_gives_up_the_last_that_knows_of_it():
    work = WorkThread(in_thread=True)
    held = [work]
    gone = threading.Event()
    work.start(lambda: (gone.wait(5), held.clear()))
    del work
    gone.set()
    until(lambda: not reading())


def test_a_run_is_not_held_by_the_thread_that_waits():
    import weakref

    class Result:
        pass

    work = WorkThread(in_thread=True)
    work.start(Result)
    result = weakref.ref(work.result())
    until(lambda: result() is None)  # it lets go of it a moment after it handed it over
    work.close()
    work.close()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_in_the_middle_goes_on_in_both_processes():
    loader = Loader(Slow(3000, delay=0.01), 10, seed=4)
    expected = [b.rows.tolist() for b in loader]
    loader.set_epoch(0)
    iteration = iter(loader)
    done = [next(iteration).rows.tolist() for _ in range(20)]
    pid = os.fork()
    if pid == 0:
        rest = [b.rows.tolist() for b in iteration]
        os._exit(0 if done + rest == expected else 1)
    rest = [b.rows.tolist() for b in iteration]
    assert done + rest == expected
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_process_ends_in_the_middle_of_an_epoch(tmp_path):
    code = """
import numpy as np, mmdask as mm
ds = mm.from_arrays({"x": np.zeros((200_000, 64), "f4")}, "ends.mm")
kept = [iter(ds.batches(100)) for _ in range(3)]
for _ in range(5):
    for iteration in kept:
        next(iteration)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, timeout=300, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_workers_of_torch_read_nothing_ahead(monkeypatch):
    monkeypatch.setattr(runs, "in_torch_worker", lambda: True)
    rows = Slow(1000)
    batches = list(Loader(rows, 10, shuffle=False))
    assert [b.index for b in batches] == list(range(100))
    assert {name for _, name in rows.by} == {"MainThread"}


def test_a_transform_is_called_where_the_batches_are_used():
    by = []
    loader = Loader(numbered(1000), 10, transform=lambda batch: by.append(threading.current_thread().name) or batch)
    assert len(list(loader)) == len(by) == 100
    assert set(by) == {"MainThread"}


# Memory ---------------------------------------------------


def test_memory_makes_the_window_smaller_and_says_the_least_that_works():
    rows = numbered(10**6, block_rows=16)  # 256 bytes a row
    assert Loader(rows, 10).grain == Loader(rows, 10, memory="1GiB").grain == Loader(rows, 10, memory="9GiB").grain
    assert Loader(rows, 10, memory="64MiB").grain == Loader(rows, 10, window="16MiB").grain
    assert Loader(rows, 10, memory="64MiB", window="30MiB").grain == Loader(rows, 10, window="30MiB").grain
    with pytest.raises(OptionError, match=r"a window of 512 rows takes .* ask for (\d+) bytes or more") as raised:
        Loader(rows, 10, memory="1kB")
    least = int(str(raised.value).split("ask for ")[1].split()[0])
    assert least == 2 * 512 * 264
    assert Loader(rows, 10, memory=least)
    with pytest.raises(OptionError, match="smaller batch_size"):
        Loader(rows, 100_000, memory="4MB")
    assert Loader(rows, 100_000, memory="4MB", world_size=10, rank=3)
    for wrong in (0, -1, "many"):
        with pytest.raises(OptionError):
            Loader(rows, 10, memory=wrong)


def test_states_of_loaders_with_other_memory_are_of_another_order_only_if_windows_differ():
    rows = numbered(10**5)
    state = Loader(rows, 10).state_dict()
    Loader(rows, 10, memory="2GiB").load_state_dict(state)
    assert Loader(rows, 10, memory="4MB").state_dict()["order"] != state["order"]


def test_narrow_fields_are_read_together_in_larger_runs():
    narrow = MemoryRows({f"f{i}": np.zeros(100, "f4") for i in range(4)})
    wide = MemoryRows({"x": np.zeros((100, 64), "f4"), "y": np.zeros(100, "f4")})
    assert budget.is_narrow(narrow, narrow.schema)
    assert not budget.is_narrow(wide, wide.schema)
    assert budget.is_narrow(wide, ["y"])
    both = [Loader(rows, 10) for rows in (narrow, wide)]
    long, short = (loader.run_length(next(iter(loader))) for loader in both)
    assert long > short


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self")
def test_resident_memory_stays_flat_over_an_epoch(tmp_path):
    code = """
import gc, re, numpy as np, mmdask as mm
from mmdask.kernels import jit

def kib(*names):
    text = open("/proc/self/status").read()
    return sum(int(re.search(rf"{name}:\\s+(\\d+)", text)[1]) for name in names)

with mm.create("flat.mm", fields=[mm.Field.dense("x", "f4", (1024,))]) as w:
    for part in range(16):
        w.extend({"x": np.full((2048, 1024), part, "f4")})
ds = mm.open("flat.mm")
list(ds[:2048].batches(64, memory="16MiB"))
jit.wait()  # numba and its code take memory of their own
most = {}
for n in (2048, 32768):
    seen = []
    for epoch in range(3):
        for batch in ds[:n].batches(64, memory="16MiB"):
            seen.append(kib("RssAnon"))
    most[n] = max(seen) / 1024
assert abs(most[32768] / most[2048] - 1) < 0.1, most  # MiB; the data are of 8 and 128

def mapped():
    found, inside = 0, False
    for line in open("/proc/self/smaps"):
        if not line.split(maxsplit=1)[0].endswith(":"):
            inside = "/flat.mm/" in line
        elif inside and line.startswith("Rss:"):
            found += int(line.split()[1]) / 1024
    return found

sum(float(batch["x"].sum()) for batch in ds.batches(64, shuffle=False))
loader = ds.batches(64)
assert mapped() > 1  # as much of it as the system left there
loader.rows.release(["x"])
assert mapped() < 1, mapped()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, timeout=300, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_rows_that_were_given_up_come_again(tmp_path):
    import mmdask as mm

    x = np.arange(400_000.0)
    ds = mm.from_arrays({"x": x}, tmp_path / "again.mm")
    held = next(iter(ds.batches(1000, shuffle=False, memory="1MiB")))["x"]
    view = ds._rows.read("x", 0, 400_000).values if hasattr(ds, "_rows") else None
    found = np.concatenate([b["x"] for b in itertools.islice(ds.batches(1000, shuffle=False, memory="1MiB"), 400)])
    assert (found == x).all()
    assert held.tolist() == x[:1000].tolist()
    assert view is None or (view == x).all()
