"""Batches made by the worker processes that `to_torch` starts, and how they come to a device."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_rows import MemoryRows
from torch_batches import N, contents, make

import mmdask as mm
from mmdask.batches.loader import Loader
from mmdask.errors import CorruptStoreError

torch = pytest.importorskip("torch", reason="torch is not installed; pip install 'mmdask[torch]'")

from mmdask.batches.frameworks.torch_workers import Plan  # noqa: E402  it imports torch

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*os.fork.. was called:RuntimeWarning"),  # by jax, if another test took it
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),  # more workers than there are cores
]


def processes(batches):
    """Numbers of the worker processes that wait for the next epoch."""
    idle = batches.workers._idle
    return [] if idle is None else [w.pid for w in idle._iterator._workers]


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def ended(pids):
    """Whether processes end: torch waits some seconds for a worker, then it stops it and goes on."""
    end = time.monotonic() + 300
    while any(map(alive, pids)) and time.monotonic() < end:
        multiprocessing.active_children()  # which forgets those that ended
        time.sleep(0.01)
    return not any(map(alive, pids))


@pytest.fixture
def close():
    """Ends the workers of what is put into it."""
    made = []
    yield lambda batches: made.append(batches) or batches
    for batches in made:
        batches.close()


# The same batches -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize("workers", [1, 3])
def test_batches_and_states_do_not_depend_on_the_workers(workers, persistent, close):
    alone = make(last="pad", batch_size=7).to_torch()
    batches = close(make(last="pad", batch_size=7).to_torch(num_workers=workers, persistent_workers=persistent))
    for epoch in range(2):
        for one, other in itertools.zip_longest(alone, batches):
            assert contents(one) == contents(other)
            assert batches.state_dict() == alone.state_dict()
            assert {k: getattr(v, "dtype", None) for k, v in one.items()} == {
                k: getattr(v, "dtype", None) for k, v in other.items()
            }
        assert batches.epoch == alone.epoch == epoch + 1
    batches.set_epoch(7)
    alone.set_epoch(7)
    assert [contents(b) for b in batches] == [contents(b) for b in alone]


def test_small_batches_are_made_many_at_a_time(close):
    rows = MemoryRows({"x": np.arange(20_000)})
    batches = close(Loader(rows, 10).to_torch(num_workers=2))
    plan = batches.workers._started().sampler
    plan.begin(0, 0)
    runs = []
    for epoch, start, n in plan:
        runs.append(n)
        assert epoch == 0
        assert start == 10 * sum(runs[:-1])
        plan.length = 1000
    assert sum(runs) == 2000
    assert runs[0] == 1
    assert len(runs) < 100
    assert max(runs) <= 2000 / 8  # so that no worker has much more to do than the others
    assert [b.rows.tolist() for b in batches] == [b.rows.tolist() for b in Loader(rows, 10)]


@given(
    sizes=st.lists(st.integers(1, 9), max_size=60),
    begin=st.integers(0, 60),
    workers=st.integers(1, 5),
    length=st.integers(1, 20),
    endless=st.booleans(),
)
def test_runs_are_all_batches_in_order(sizes, begin, workers, length, endless):
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(int).tolist()
    begin = min(begin, len(sizes))

    class Cut:
        def stop(self, epoch, start):
            assert epoch == 3
            return starts[min(starts.index(start) + 1, len(sizes))]

    plan = Plan(types.SimpleNamespace(cutting=Cut(), n_rows=None if endless else starts[-1]), workers)
    plan.begin(3, starts[begin])
    at = begin
    for epoch, position, n in plan:
        assert (epoch, position) == (3, starts[at])
        assert 1 <= n <= (1 if at == begin else length)
        at += n
        plan.length = length
    assert at == len(sizes)


def test_batches_of_a_run_are_cut_out_of_one_buffer(close):
    received = list(close(make().to_torch(num_workers=2)))
    buffers = {t.untyped_storage().data_ptr() for b in received for t in b.values() if isinstance(t, torch.Tensor)}
    assert len(buffers) < len(received)
    received[1]["x"][:] = -1
    assert all((b["x"] >= 0).all() for i, b in enumerate(received) if i != 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_state_is_what_was_received(workers, close):
    batches = close(make().to_torch(num_workers=workers))
    batches.set_epoch(3)
    received = list(itertools.islice(batches, 5))
    time.sleep(0.1)  # workers run ahead
    state = batches.state_dict()
    assert (state["epoch"], state["position"]) == (3, 40)
    other = close(make(3).to_torch(num_workers=workers))
    other.load_state_dict(state)
    rest = list(other)
    reference = make()
    reference.set_epoch(3)
    assert torch.cat([b.rows for b in received + rest]).tolist() == [r for b in reference for r in b.rows.tolist()]
    assert [b.epoch for b in itertools.islice(other, 1)] == [4]


def test_an_epoch_left_early_begins_again(close):
    batches = close(make().to_torch(num_workers=2))
    first = [contents(b) for b in itertools.islice(batches, 3)]
    pids = processes(batches)
    again = [contents(b) for b in batches]
    assert again[:3] == first
    assert len(again) == len(batches)
    assert processes(batches) == pids  # the same processes did it


def test_two_iterations_at_once_do_not_mix(close):
    loader = make()
    batches = close(loader.to_torch(num_workers=1))
    list(batches)  # there are workers now, which one of them gets
    batches.set_epoch(0)
    expected = [b.rows.tolist() for b in make()]
    a, b = iter(batches), iter(batches)
    assert [next(a).rows.tolist(), next(b).rows.tolist(), next(a).rows.tolist()] == [*expected[:1] * 2, expected[1]]
    assert [x.rows.tolist() for x in b] == expected[1:]
    assert [x.rows.tolist() for x in a] == expected[2:]


def test_torch_random_numbers_stay_the_same(close):
    torch.manual_seed(5)
    expected = torch.rand(3).tolist()
    torch.manual_seed(5)
    for batches in (make().to_torch(), close(make().to_torch(num_workers=2))):
        next(iter(batches))
    assert torch.rand(3).tolist() == expected


# Ends -----------------------------------------------------------------------------------------------------------


def test_processes_end_with_the_epoch_or_with_close():
    batches = make().to_torch(num_workers=2)
    list(batches)
    pids = processes(batches)
    assert len(pids) == 2
    assert all(map(alive, pids))
    batches.close()
    assert ended(pids)
    assert [b.epoch for b in batches] == [1] * 25
    pids = processes(batches)
    del batches
    assert ended(pids)


def test_processes_that_do_not_stay_end_when_the_loop_is_left():
    before = {p.pid for p in multiprocessing.active_children()}
    batches = make().to_torch(num_workers=2, persistent_workers=False)
    for _ in batches:
        during = {p.pid for p in multiprocessing.active_children()} - before
        break
    assert len(during) == 2
    assert ended(during)


class Broken(MemoryRows):
    """Rows of which one cannot be read."""

    def take(self, name, rows):
        if 77 in rows:
            raise CorruptStoreError("row 77: no such bytes")
        return super().take(name, rows)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_comes_at_its_batch_and_ends_nothing(workers, close):
    loader = Loader(Broken({"x": np.arange(N)}), 2, shuffle=False)
    batches = close(loader.to_torch(num_workers=workers))
    received = []
    with pytest.raises(CorruptStoreError, match="row 77: no such bytes"):
        for batch in batches:
            received += batch.rows.tolist()
    if workers:  # without, several batches are read together
        assert received == list(range(76))
    assert batches.state_dict()["position"] == len(received)
    state = batches.state_dict() | {"position": 78}
    batches.load_state_dict(state)
    assert torch.cat([b.rows for b in batches]).tolist() == list(range(78, N))


class Slow(MemoryRows):
    def take(self, name, rows):
        time.sleep(0.05)
        return super().take(name, rows)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_killed_worker_is_told_and_nothing_hangs(workers, close):
    batches = close(Loader(Slow({"x": np.arange(N)}), 2).to_torch(num_workers=workers))
    before = set(multiprocessing.active_children())
    with pytest.raises(RuntimeError, match=r"DataLoader worker .*(killed|exited unexpectedly)"):
        for i, _ in enumerate(batches):
            if i == 1:
                (worker, *_) = set(multiprocessing.active_children()) - before
                os.kill(worker.pid, signal.SIGKILL)
    assert [b.index for b in itertools.islice(batches, 3)] == [0, 1, 2]


def test_workers_that_died_between_epochs_are_replaced(close):
    batches = close(make().to_torch(num_workers=2))
    assert len(list(batches)) == 25
    # torch's raises, wherever this thread is, unless it is forgotten by then that there was such a worker.
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        for worker in batches.workers._idle._iterator._workers:
            worker.kill()
            worker.join()
    finally:
        signal.signal(signal.SIGCHLD, handler)
    assert [b.epoch for b in batches] == [1] * 25


def test_a_parcel_that_its_worker_took_along(monkeypatch, close):
    """A message of a worker that is killed may be there, and what it tells of not."""
    batches = close(Loader(Slow({"x": np.arange(N)}), 2).to_torch(num_workers=1))
    received = iter(batches)
    next(received)

    def lost(running):
        (worker,) = running._workers
        os.kill(worker.pid, signal.SIGKILL)
        raise EOFError

    monkeypatch.setattr(torch.utils.data.dataloader._MultiProcessingDataLoaderIter, "__next__", lost)
    with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid \d+\) (exited unexpectedly|is killed)"):
        next(received)


def test_a_fork_while_another_thread_reads(close):
    loader = make()
    list(loader.to_torch())  # in tests loops are compiled by whoever asks, and forks know of one thread that does
    stop = threading.Event()

    def read():
        while not stop.is_set():
            for _ in loader.to_torch():
                pass

    thread = threading.Thread(target=read)
    thread.start()
    try:
        batches = close(make().to_torch(num_workers=2))
        assert [b.index for b in batches] == list(range(25))
    finally:
        stop.set()
        thread.join()


# Stores ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def ds(tmp_path):
    rng = np.random.default_rng(5)
    arrays = {
        "event": np.arange(5000),
        "x": rng.normal(size=5000).astype("f4"),
        "run": np.arange(5000, dtype="u4"),
        "jets": [[float(i)] * (i % 5) for i in range(5000)],
    }
    return mm.from_arrays(arrays, tmp_path / "a.mm")


def what_a_worker_has(batch):
    """A transform: a batch says which modules, files and memory the process has that made it."""
    batch["heavy"] = [name for name in ("dask", "uproot", "awkward", "zarr") if name in sys.modules]
    with open("/proc/self/smaps_rollup") as f:
        batch["own"] = next(int(line.split()[1]) for line in f if line.startswith("Anonymous:"))
    batch["files"] = len(os.listdir("/proc/self/fd"))
    return batch


def test_spawned_workers_need_no_dask_and_little_is_sent_to_them(ds, close):
    loader = ds[ds.cut("x > 0")].batches(256, collate={"jets": mm.pad(4)}, transform=what_a_worker_has)
    batches = close(loader.to_torch(num_workers=1, multiprocessing_context="spawn"))
    assert len(pickle.dumps(loader)) < 10_000
    assert len(pickle.dumps(batches)) < 10_000
    expected = [b.rows.tolist() for b in loader]
    received = list(batches)
    assert [b.rows.tolist() for b in received] == expected
    assert {tuple(b["heavy"]) for b in received} == {()}


FORKED = """
import pickle, sys
batches = pickle.load(sys.stdin.buffer)
rows = [(b.rows.tolist(), b["heavy"]) for b in batches]
sys.stdout.buffer.write(pickle.dumps((rows, "dask" in sys.modules)))
"""


def test_forked_workers_need_no_dask(ds):
    loader = ds[ds.cut("x > 0")].batches(256, transform=what_a_worker_has)
    batches = loader.to_torch(num_workers=1, multiprocessing_context="fork")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(
        [sys.executable, "-c", FORKED], input=pickle.dumps(batches), stdout=subprocess.PIPE, check=True, env=environment
    )
    found, dask = pickle.loads(run.stdout)
    assert found == [(b.rows.tolist(), []) for b in loader.to_torch()]
    assert not dask


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="needs Linux's /proc")
def test_workers_share_the_data_and_open_few_files(tmp_path):
    small, large = 20_000, 4_000_000
    own, files = {}, {}
    for n in (small, large):
        ds = mm.from_arrays({"x": np.zeros((n, 8), "f4")}, tmp_path / f"{n}.mm")
        loader = ds.batches(100_000, transform=what_a_worker_has)
        batches = loader.to_torch(num_workers=2, persistent_workers=False)
        inherited = what_a_worker_has({})["own"]
        received = [(b["own"] - inherited, b["files"]) for b in batches]
        own[n], files[n] = map(max, zip(*received, strict=True))
    # Kilobytes. The windows of row numbers grow up to 2**20 rows, and the data, 128 MB, are not among it.
    assert own[large] - own[small] < 45_000
    assert files[large] <= files[small] + 10  # parcels under way


def test_appending_and_tidying_up_do_not_disturb_an_epoch(ds, close):
    arrays = {"event": [1], "x": [2.0], "run": [3], "jets": [[4.0]]}
    loader = ds.batches(100, seed=3)
    expected = [contents(b) for b in loader.to_torch()]
    loader.set_epoch(0)
    batches = close(loader.to_torch(num_workers=2))
    received = []
    for batch in batches:
        if batch.index == 2:
            for _ in range(3):
                with mm.append(ds.path) as w:
                    w.extend(arrays)
        if batch.index == 5:
            mm.compact(ds.path)
            mm.vacuum(ds.path)
        received.append(contents(batch))
    assert received == expected
    assert [b.epoch for b in batches] == [1] * 50


def noisy(batch):
    return {**batch, "x": batch["x"] + batch.row_rng("noise").normal()}


def test_all_kinds_of_loaders_are_the_same_in_workers(ds, close):
    jets = {"collate": {"jets": mm.pad("max")}}
    loaders = {
        "transform": lambda: ds.batches(100, transform=noisy),
        "bucket": lambda: ds.batches(100, bucket=mm.bucket("jets", window=4), **jets),
        "tokens": lambda: ds.batches(100, bucket=mm.bucket("jets", window=4, tokens=500), **jets),
        "weights": lambda: ds.batches(100, weights="event % 3"),
        "normalise": lambda: ds.batches(100, normalise=ds.normalisation(["x", "jets"])),
        "exact": lambda: ds.batches(100, shuffle="exact", rank=1, world_size=3),
        "mix": lambda: mm.mix(
            {"even": ds[ds.cut("event % 2 == 0")].batches(100), "odd": ds[ds.cut("event % 2 == 1")].batches(100)},
            {"even": 3, "odd": 1},
            batch_size=64,
        ),
    }
    for name, make_loader in loaders.items():
        expected = [contents(b) for b in itertools.islice(make_loader(), 12)]
        batches = close(make_loader().to_torch(num_workers=2))
        assert [contents(b) for b in itertools.islice(batches, 12)] == expected, name
        alone = make_loader()
        assert len(list(itertools.islice(alone, 12))) == 12
        assert batches.state_dict() == alone.state_dict(), name
        whole = [contents(b) for b in batches]
        assert whole[:12] == expected, name
        assert batches.epoch == 1, name
        if name in ("tokens", "mix"):  # whose batches are found in other ways
            others = torch.utils.data.DataLoader(make_loader().to_torch(), batch_size=None, num_workers=2)
            assert [contents(b) for b in others] == whole, name


def test_a_mixture_without_end(ds, close):
    def make_mix():
        return mm.mix({"a": ds.batches(9), "b": ds.batches(9, seed=1)}, {"a": 1, "b": 1}, batch_size=64, stop="cycle")

    batches = close(make_mix().to_torch(num_workers=2))
    expected = [contents(b) for b in itertools.islice(make_mix(), 200)]
    assert [contents(b) for b in itertools.islice(batches, 200)] == expected
