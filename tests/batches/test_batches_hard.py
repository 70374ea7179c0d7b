"""Loaders that are treated badly: interrupted, shared, kept, and given up at any moment."""

from __future__ import annotations

import copy
import ctypes
import gc
import itertools
import pickle
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import awkward as ak
import numpy as np
import pytest

import mmdask as mm
from mmdask.batches.loading import work_thread
from mmdask.kernels import permute

try:
    import torch
except ImportError:
    torch = None

N = 20_000


@pytest.fixture(scope="module")
def ds(tmp_path_factory):
    data = {
        "x": np.arange(N, dtype="f4"),
        "image": np.arange(16 * N, dtype="u4").reshape(N, 16),
        "jets": [list(range(i % 7)) for i in range(N)],
    }
    return mm.from_arrays(data, tmp_path_factory.mktemp("hard") / "rows.mm")


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    gc.collect()
    for thread in threading.enumerate():
        if thread.name == "mmdask-ahead":
            thread.join(300)  # closing waits some seconds for it, and no longer
            assert not thread.is_alive()


def holders(array):
    """Ways to keep an array alive, of which its count of references tells little; each gives its values again."""
    outside = (ctypes.c_char * array.nbytes).from_buffer(array)
    dtype = array.dtype
    view = memoryview(array)
    other = np.frombuffer(array, dtype)
    buffers = []
    pickled = pickle.dumps(array, protocol=5, buffer_callback=buffers.append)
    nested = ak.from_numpy(array)
    yield lambda v=array[1:][::2][::-1]: v[::-1]
    yield lambda: np.frombuffer(outside, dtype)[1::2]
    yield lambda: np.asarray(view)[1::2]
    yield lambda: other[1::2]
    yield lambda: pickle.loads(pickled, buffers=buffers)[1::2]
    yield lambda: ak.to_numpy(nested)[1::2]
    if torch is not None:
        tensor = torch.from_numpy(array)[1::2]
        yield lambda: tensor.numpy()


@pytest.mark.parametrize("shuffle", [True, "exact", False])
@pytest.mark.parametrize("memory", [None, "16MiB"])
def test_what_is_kept_of_a_batch_never_changes(ds, shuffle, memory):
    loader = ds.batches(500, shuffle=shuffle, memory=memory, collate={"jets": mm.pad("max")} if memory else None)
    kept = []
    for _ in range(3):
        for batch in loader:
            ways = list(holders(batch["x"]))
            kept.append((ways[batch.index % len(ways)], batch["x"][1::2].copy()))
            kept.append((lambda v=batch["image"][7]: v, batch["image"][7].copy()))
            del batch, ways
    gc.collect()
    for values, expected in kept:
        assert (values() == expected).all()


def test_batches_share_no_memory(ds):
    for collate in ({}, {"jets": mm.pad(4)}, {"jets": [mm.window(2), mm.pad(2)]}):
        arrays = []
        for batch in itertools.islice(ds.batches(64, collate=collate), 40):
            for value in [batch.rows, *batch.values()]:
                arrays += [value.values, value.offsets] if isinstance(value, mm.Packed) else [value]
        spans = sorted(np.lib.array_utils.byte_bounds(a) for a in arrays if a.size)
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))


def test_threads_that_share_an_iterator_get_every_batch_once(ds):
    loader = ds.batches(20, fields="x")
    it = iter(loader)
    found, errors = [], []

    def use():
        try:
            found.extend(batch.index for batch in it)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert (errors, sorted(found)) == ([], list(range(N // 20)))
    assert loader.epoch == 1


@pytest.mark.parametrize("started", [False, True])
def test_an_interrupt_while_the_thread_is_started(ds, monkeypatch, started):
    start = threading.Thread.start

    def interrupted(thread):
        if started:
            start(thread)
        raise KeyboardInterrupt

    loader = ds.batches(100, fields="x")
    it = iter(loader)
    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(it)
    monkeypatch.undo()
    assert [b.index for b in it] == list(range(N // 100))


WORK = """
import signal, sys
import numpy as np
import mmdask as mm

ds = mm.open(sys.argv[1])
loader, seen, n = ds.batches(20, fields="x", seed=1), [], 0
signal.signal(signal.SIGINT, signal.SIG_IGN)  # but in the loop, wherever it comes
print("ready", flush=True)
while loader.epoch == 0:
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for batch in loader:
            seen.append((batch.position, batch.rows))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt:
        n += 1
        state = loader.state_dict()
        loader = ds.batches(20, fields="x", seed=1)
        loader.load_state_dict(state)
# An interrupt may come between a batch and what is done with it; none comes twice.
positions = [p for p, _ in seen]
assert positions == sorted(set(positions)), positions
rows = np.concatenate([r for _, r in seen])
assert len(set(rows.tolist())) == len(rows) >= len(ds) - 20 * n
print("done", flush=True)
"""


def test_interrupts_at_any_time(ds):
    for delay in (0.002, 0.03):
        process = subprocess.Popen(
            [sys.executable, "-c", WORK, ds.path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "ready\n"
        threading.Event().wait(delay)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=300)
        assert (process.returncode, out) == (0, "done\n"), err


def test_a_rank_of_a_mixture_without_rows_gets_empty_entries(ds):
    """As that of a loader does: code that looks at entries must not fail at the last batch of some ranks."""

    def mixed(rank, world_size):
        options = {"collate": {"jets": mm.pad(4)}, "last": "keep", "rank": rank, "world_size": world_size}
        return mm.mix({"a": ds[:5].batches(4, **options), "b": ds[5:10].batches(4, **options)}, {"a": 1, "b": 1})

    whole = list(mixed(0, 1))
    ranks = [list(mixed(r, 3)) for r in range(3)]
    assert [len(b.rows) for b in whole] == [4, 4, 2]
    for batch, *parts in zip(whole, *ranks, strict=True):
        assert all(set(part) == set(batch) for part in parts)
        for name in ("x", "image", "jets", "jets_mask"):
            assert np.concatenate([part[name] for part in parts]).tolist() == batch[name].tolist()
        assert np.concatenate([part.source for part in parts]).tolist() == batch.source.tolist()


@pytest.mark.parametrize("options", [{}, {"shuffle": "exact"}, {"bucket": mm.bucket("jets", tokens=300)}])
def test_an_error_of_a_transform_comes_at_its_batch_and_the_loop_can_go_on(ds, options):
    """Also from an iterator that is asked again, and whatever is read ahead."""
    fails = [0, 1, 37, 38]

    def transform(batch):
        if batch.index in fails:
            fails.remove(batch.index)
            raise ValueError(f"batch {batch.index}")
        return batch

    expected = [b.rows.tolist() for b in ds.batches(100, fields=["x"], seed=3, **options)]
    loader = ds.batches(100, fields=["x"], seed=3, transform=transform, **options)
    it = iter(loader)
    found, errors = [], []
    while True:
        try:
            found.append(next(it).rows.tolist())
        except StopIteration:
            break
        except ValueError as error:
            errors.append((len(found), str(error)))
            assert loader.state_dict()["position"] == sum(map(len, found))
    assert found == expected
    assert errors == [(i, f"batch {i}") for i in (0, 1, 37, 38)]


SEQUENCES = [
    {"block": 1, "window": 1},
    {"shuffle": "exact"},
    {"bucket": mm.bucket("jets", window=8, tokens=500)},
    {"weights": "x + 1", "block": 4, "window": 1},
]


@pytest.mark.parametrize("options", SEQUENCES)
def test_batches_by_number_from_several_threads(ds, options):
    interval = sys.getswitchinterval()
    some = ds[:6000]
    expected = [b.rows.tolist() for b in some.batches(50, fields=["x"], **options)]
    loader = some.batches(50, fields=["x"], **options)
    numbers = np.random.default_rng(0).permutation(len(expected)).tolist()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda i: loader[i].rows.tolist(), numbers))
    finally:
        sys.setswitchinterval(interval)
    assert found == [expected[i] for i in numbers]


def test_where_windows_begin_while_another_thread_asks_for_another_epoch(ds):
    sequence = ds[::3].batches(100, block=2, window=1).sequence
    other, right = sequence.starts(1), sequence.starts(0)
    assert other[0] != right[0]

    class Epoch(int):
        """One that another thread comes before, when it is compared with the one known."""

        def __ne__(self, other):
            sequence.starts(1)
            return int(self) != other

        __hash__ = int.__hash__

    key, starts = sequence.starts(Epoch(0))
    assert (key, starts.tolist()) == (right[0], right[1].tolist())


@pytest.mark.parametrize("mixed", [False, True])
def test_a_copy_while_another_thread_finds_something(ds, mixed):
    """A loop begins with one, and a loader keeps what threads find for it."""

    class Name(str):
        """One that another thread comes before, when it is compared."""

        def __eq__(self, other):
            vars(loader)[f"found {len(vars(loader))}"] = None
            return str(self) == other

        __hash__ = str.__hash__

    loader = ds[:100].batches(10, fields="x")
    loader = mm.mix({"a": loader}, {"a": 1}) if mixed else loader
    expected = [b.rows.tolist() for b in loader]
    vars(loader)[Name("_kept")] = None
    n = len(vars(loader))
    again = copy.copy(loader)
    assert len(vars(loader)) > n
    again.set_epoch(0)
    assert [b.rows.tolist() for b in again] == expected


@pytest.mark.parametrize("after", [False, True])
def test_an_interrupt_while_a_window_is_shuffled_changes_no_order(ds, monkeypatch, after):
    """It would be kept with rows that were shuffled once too often, or in part."""
    options = {"fields": ["x"], "block": 1, "window": 1, "seed": 5}
    expected = [b.rows.tolist() for b in ds.batches(300, **options)]
    shuffle, calls = permute.shuffle, []

    def interrupted(rows, key, start, stop):
        calls.append(start)
        if len(calls) % 3 == 1 and len(calls) < 30:
            shuffle(rows, key, start, stop if after else (start + stop) // 2)
            raise KeyboardInterrupt
        shuffle(rows, key, start, stop)

    def patiently(work):
        while True:
            try:
                return work()
            except KeyboardInterrupt:
                continue

    loader = ds.batches(300, **options)
    monkeypatch.setattr(permute, "shuffle", interrupted)
    for i in (0, 1, 0, 2, 40, 3):
        assert patiently(lambda i=i: loader[i].rows.tolist()) == expected[i]
    for _ in range(2):
        loader.set_epoch(0)
        assert patiently(lambda: [b.rows.tolist() for b in loader]) == expected
    assert len(calls) > 30


def test_closing_where_a_lock_is_held_that_the_thread_needs(monkeypatch):
    """Garbage is collected anywhere, so that closing must not wait for ever."""
    monkeypatch.setattr(work_thread, "_PATIENCE", 0.05)
    lock, begun = threading.Lock(), threading.Event()

    def work():
        begun.set()
        with lock:
            return 1

    reading = work_thread.WorkThread(in_thread=True)
    with lock:
        reading.start(work)
        begun.wait(120)
        cycle = [reading]
        cycle.append(cycle)
        del reading, cycle
        gc.collect()
    for thread in list(work_thread._THREADS):
        thread.join()


LEFT = """
import atexit, threading, time
from mmdask.batches.loading import work_thread

work_thread._PATIENCE = 0.01
reading, ending = work_thread.WorkThread(in_thread=True), threading.Event()
atexit.register(ending.set)  # which comes before that of the module
reading.start(lambda: (ending.wait(), time.sleep(0.3), print("done", flush=True)))
assert not reading.close()
del reading
"""


def test_a_thread_that_nobody_waited_for_is_waited_for_at_exit():
    done = subprocess.run([sys.executable, "-c", LEFT], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
