"""Batches that several threads gather, against those of one: rows, values and errors are the same."""

from __future__ import annotations

import multiprocessing
import os
import threading

import numpy as np
import pytest

import mmdask as mm
from mmdask.batches import loader as loader_module
from mmdask.batches import processes
from mmdask.errors import CorruptStoreError, OptionError
from mmdask.kernels import dense, jit, spread

COLLATE = {
    "right": mm.pad(6, value=-1),
    "left": mm.pad(3, side="left"),
    "longest": mm.pad("max"),
    "cropped": [mm.crop(2), mm.pad(2)],
    "image": mm.pad((3, 4)),
}
N = 3000


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.tobytes() == b.tobytes()
    elif isinstance(a, list | tuple):  # text, arrays of differing shape, `Packed`
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b


def assert_same_batches(first, second):
    assert len(first) == len(second) > 1
    for a, b in zip(first, second, strict=True):
        assert list(a) == list(b)
        assert_same(a.rows, b.rows)
        for name in a:
            assert_same(a[name], b[name])


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(spread, "_LEAST", 1)
    monkeypatch.setattr(dense, "_LONG", 1)
    monkeypatch.setattr(dense, "_LEAST_ROWS", 64)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two parts with a field of every kind."""
    path = tmp_path_factory.mktemp("threads") / "all.mm"
    rng = np.random.default_rng(5)

    def lists(n, most=8):
        return [rng.normal(size=rng.integers(0, most)).astype("f4") for _ in range(n)]

    with mm.create(path) as w:
        for n in (N // 3, N - N // 3):
            equal = lists(n)
            w.extend(
                {
                    "row": np.arange(n),
                    "wide": rng.normal(size=(n, 20)),
                    "small": rng.integers(0, 100, n, np.uint8),
                    "right": lists(n),
                    "left": equal,
                    "packed": [2 * a for a in equal],
                    "longest": lists(n),
                    "cropped": lists(n),
                    "deep": [[a.tolist(), []] for a in lists(n, 4)],
                    "word": [f"word {i % 17}" * (i % 3) for i in range(n)],
                    "image": [rng.integers(0, 9, (1 + i % 3, 1 + i % 4)) for i in range(n)],
                }
            )
    return path


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("options", [{}, {"shuffle": "exact"}, {"shuffle": False}, {"weights": "small + 1"}])
def test_batches_do_not_depend_on_threads(store, options, compiled, monkeypatch):
    if compiled:
        monkeypatch.setattr(jit.Kernel, "__call__", lambda self, *args: self.compiled(*args)(*args))
    ds = mm.open(store)
    one, three = (ds.batches(500, seed=3, collate=COLLATE, threads=n, **options) for n in (1, 3))
    assert_same_batches(list(one), list(three))


def test_mixtures_do_not_depend_on_threads(store):
    ds = mm.open(store)

    def mixed(threads):
        halves = {
            "few": ds[ds.cut("small < 30")].batches(64, fields=["row", "wide"], threads=threads),
            "many": ds[ds.cut("small >= 30")].batches(64, fields=["row", "wide"], threads=threads),
        }
        return [batch for batch, _ in zip(mm.mix(halves, {"few": 0.5, "many": 0.5}), range(8), strict=False)]

    assert_same_batches(mixed(1), mixed(3))


@pytest.mark.parametrize("collate", [None, {"x": mm.pad(4)}])
def test_a_damaged_row_is_named_by_its_number_whoever_meets_it(tmp_path, collate):
    offsets = np.arange(1001) * 2
    ds = mm.from_arrays({"x": np.arange(2000).reshape(1000, 2).tolist()}, tmp_path / "x.mm")
    del ds
    (file,) = [p for p in (tmp_path / "x.mm").rglob("*.npy") if "offsets" in p.name]
    data = bytearray(file.read_bytes())
    data[-8 * 301 : -8 * 300] = np.int64(-5).tobytes()  # the end of row 699, where row 700 begins
    assert offsets[700] == 1400
    file.write_bytes(data)
    for threads in (1, 3):
        loader = mm.open(tmp_path / "x.mm").batches(1000, shuffle=False, collate=collate, threads=threads)
        with pytest.raises(CorruptStoreError, match="row 699"):
            loader[0]


def test_how_many_threads_there_are_by_default(monkeypatch):
    monkeypatch.setattr(processes.os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert processes.default_threads() == 4
    for ranks, expected in (("1", 4), ("8", 2), ("32", 1), ("", 4), ("none", 4)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
        assert processes.default_threads() == expected
    monkeypatch.setattr(processes, "in_torch_worker", lambda: True)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert processes.default_threads() == 1


def test_a_loader_tells_its_threads(store, monkeypatch):
    seen = []
    monkeypatch.setattr("mmdask.batches.loading.fetching.threads", lambda n: seen.append(n) or spread.threads(n))
    monkeypatch.setattr("mmdask.batches.loading.fetching.default_threads", lambda: 7)
    ds = mm.open(store)
    for threads in (None, 1, 5):
        ds.batches(100, fields=["row"], threads=threads)[0]
    assert seen == [7, 1, 5]


@pytest.mark.parametrize("threads", [0, -1, 33, 1.5, "2", True])
def test_a_number_of_threads_that_cannot_be(store, threads):
    with pytest.raises(OptionError, match="threads is an integer"):
        mm.open(store).batches(10, threads=threads)


def test_a_child_that_is_forked_meanwhile_waits_for_nobody(tmp_path, monkeypatch):
    """Whatever a thread of the parent is finding for its loader: the child has no such thread."""
    begun, go_on = threading.Event(), threading.Event()
    original = loader_module.sequence_of

    def slow(*args):
        begun.set()
        go_on.wait(120)
        return original(*args)

    ds = mm.from_arrays({"x": np.arange(10)}, tmp_path / "s.mm")
    monkeypatch.setattr(loader_module, "sequence_of", slow)
    thread = threading.Thread(target=lambda: ds.batches(4)[0])
    thread.start()
    try:
        assert begun.wait(120)
        monkeypatch.setattr(loader_module, "sequence_of", original)

        def child():
            os._exit(sum(len(batch.rows) for batch in ds.batches(4)))

        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join(120)
        process.kill()
    finally:
        go_on.set()
        thread.join()
    assert process.exitcode == 10
