"""Loaders that are treated badly: interrupted, shared, kept, and given up at any moment."""

from __future__ import annotations

import ctypes
import gc
import itertools
import os
import pickle
import signal
import subprocess
import sys
import threading

import awkward as ak
import numpy as np
import pytest

import mmdask as mm

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
        "jets": ak.unflatten(np.arange(3 * N), np.arange(N) % 7) if False else [list(range(i % 7)) for i in range(N)],
    }
    return mm.from_arrays(data, tmp_path_factory.mktemp("hard") / "rows.mm")


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    gc.collect()
    assert not [t for t in threading.enumerate() if t.name == "mmdask-ahead"]


def holders(array):
    """Ways to keep an array alive, of which its count of references tells little; each gives its values again."""
    flags = ctypes.c_char * array.nbytes
    outside = flags.from_buffer(array)
    view = memoryview(array)
    other = np.frombuffer(array, array.dtype)
    buffers = []
    pickled = pickle.dumps(array, protocol=5, buffer_callback=buffers.append)
    nested = ak.from_numpy(array)
    yield lambda v=array[1:][::2][::-1]: v[::-1]
    yield lambda: np.frombuffer(outside, array_dtype)[1::2]
    yield lambda: np.asarray(view)[1::2]
    yield lambda: other[1::2]
    yield lambda: pickle.loads(pickled, buffers=buffers)[1::2]
    yield lambda: ak.to_numpy(nested)[1::2]
    if torch is not None:
        tensor = torch.from_numpy(array)[1::2]
        yield lambda: tensor.numpy()


array_dtype = np.dtype("f4")


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
            for batch in it:
                found.append(batch.index)
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
import sys
import numpy as np
import mmdask as mm

ds = mm.open(sys.argv[1])
loader, seen, n = ds.batches(20, fields="x", seed=1), [], 0
print("ready", flush=True)
while loader.epoch == 0:
    try:
        for batch in loader:
            seen.append((batch.position, batch.rows))
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
    for delay in (0.002, 0.01, 0.03):
        process = subprocess.Popen(
            [sys.executable, "-c", WORK, ds.path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "ready\n"
        while process.poll() is None:
            threading.Event().wait(delay)
            os.kill(process.pid, signal.SIGINT)
            break
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, "done\n"), err
