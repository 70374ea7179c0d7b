"""Memory of decoded chunks that is used again, and never under anyone's hands."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import mmdask as mm
from mmdask.rows.reading import chunked
from mmdask.store.arrays.buffers import Buffers
from mmdask.store.arrays.cache import Cache
from mmdask.store.zarr import chunked as zarr_arrays

KIB = 1 << 10


def address(a):
    return a.__array_interface__["data"][0]


def test_memory_comes_back_when_the_last_view_is_gone():
    buffers = Buffers(1 << 20)
    one = buffers.get(100 * KIB)
    where, view = address(one), one[7:].view("u1").reshape(-1, 1)[3:]
    del one
    other = buffers.get(100 * KIB)
    assert address(other) != where, "a view is left"
    del view
    assert buffers.nbytes == 100 * KIB
    assert address(buffers.get(100 * KIB)) == where


def test_sizes_that_fit():
    buffers = Buffers(1 << 20)
    where = address(buffers.get(200 * KIB))
    kept = [buffers.get(201 * KIB), buffers.get(99 * KIB)]
    assert buffers.nbytes == 200 * KIB, "too small for one, and more than twice the other"
    kept.append(found := buffers.get(101 * KIB))
    assert (address(found), len(found)) == (where, 101 * KIB)
    del found
    kept.clear()
    assert buffers.nbytes == 500 * KIB, "all of it came back"


def test_no_more_lies_there_than_is_allowed():
    kept = Cache(1 << 20)
    buffers = Buffers(500 * KIB, kept)
    lent = [buffers.get(n * KIB) for n in (100, 100, 200, 300)]
    while lent:
        lent.pop(0)
    assert buffers.nbytes == 500 * KIB, "those of other sizes went first"
    kept.put("x", None, 450 * KIB)
    one, other = buffers.get(300 * KIB), buffers.get(200 * KIB)
    del one, other
    assert not buffers.nbytes, "what is kept counts, too"


def test_little_memory_is_nobodys_business():
    buffers = Buffers(1 << 20)
    assert len(buffers.get(KIB)) == KIB
    assert not buffers.nbytes


def test_threads_never_have_the_same_memory():
    buffers, wrong = Buffers(1 << 20), []

    def work(i):
        for _ in range(200):
            mine = buffers.get(64 * KIB)
            mine[:] = i
            if not (mine == i).all():
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    # each has two for a moment: the next one before it lets go of the last one
    assert buffers.nbytes <= 4 * 2 * 64 * KIB


# Chunks ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def new_memory(monkeypatch):
    """Sizes that had to be allocated, for chunks and for what is gathered from them; nothing lies there before."""
    sizes = {id(zarr_arrays.BUFFERS): [], id(chunked.OUTPUTS): []}
    original = Buffers._free_one

    def counted(self, nbytes):
        found = original(self, nbytes)
        if found is None and id(self) in sizes:
            sizes[id(self)].append(nbytes)
        return found

    monkeypatch.setattr(Buffers, "_free_one", counted)
    zarr_arrays.CHUNKS.clear()
    zarr_arrays.BUFFERS.clear()
    chunked.OUTPUTS.clear()
    return sizes[id(zarr_arrays.BUFFERS)], sizes[id(chunked.OUTPUTS)]


def test_the_next_chunks_are_decoded_into_the_memory_of_the_last_ones(tmp_path, new_memory):
    n = 1 << 16
    ds = mm.from_arrays({"x": np.arange(n)}, tmp_path / "s.mm", backend=mm.Zarr(chunk_rows=1 << 13))
    chunks, outputs = new_memory
    loader = ds.batches(1 << 12, seed=1)
    for epoch in range(3):
        rows = np.concatenate([batch["x"] for batch in loader])
        assert sorted(rows.tolist()) == list(range(n))
        zarr_arrays.CHUNKS.clear()
        if epoch == 0:
            assert len(chunks) >= n >> 13
            assert outputs
            chunks.clear()
    assert not chunks


def test_what_was_handed_out_stays_as_it_is(tmp_path):
    """Slices of chunks are views of them, batches views of what was gathered."""
    n, form = 1 << 16, mm.Zarr(chunk_rows=1 << 13)
    one = mm.from_arrays({"x": np.arange(n)}, tmp_path / "a.mm", backend=form)
    other = mm.from_arrays({"x": -np.arange(n)}, tmp_path / "b.mm", backend=form)
    zarr_arrays.CHUNKS.clear()
    views = [one["x"][k : k + 9].compute() for k in range(0, n, 1 << 12)]
    views += [one._rows.read("x", k, k + 9).values for k in range(0, n, 1 << 12)]
    batches = [(batch.rows, batch["x"]) for batch in one.batches(1 << 13, seed=1)]
    for _ in range(2):
        zarr_arrays.CHUNKS.clear()
        for batch in other.batches(1 << 13, seed=1):
            assert (batch["x"] == -batch.rows).all()
    for k, view in zip([*range(0, n, 1 << 12)] * 2, views, strict=True):
        assert view.tolist() == list(range(k, k + 9))
    assert all((x == rows).all() for rows, x in batches)
