"""Threads that decode chunks: what is left of an interrupt, and what is done where there can be no threads."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import mmdask as mm
from mmdask.kernels.crew import Crew
from mmdask.store.zarr import chunked

N = 100_000


@pytest.fixture
def loader(tmp_path, monkeypatch):
    rng = np.random.default_rng(3)
    monkeypatch.setattr(chunked, "CHUNKS", type(chunked.CHUNKS)(chunked.MAX_CHUNKS_NBYTES))
    monkeypatch.setattr(chunked, "_UNDER_WAY", {})
    backend = mm.Zarr(chunk_rows=4096)
    ds = mm.from_arrays({"row": np.arange(N), "x": rng.random(N)}, tmp_path / "x.mm", backend=backend)
    return ds.batches(20_000, block=64)


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interrupt_beside_telling_the_threads(loader, monkeypatch, when):
    class Interrupted(Crew):
        calls = 0

        def tell(self, tasks, threads):
            self.calls += 1
            if self.calls == 1 and when == "before":
                raise KeyboardInterrupt
            told = super().tell(tasks, threads)
            if self.calls == 1:
                raise KeyboardInterrupt
            return told

    monkeypatch.setattr(chunked, "_CREW", Interrupted("mmdask-test", 2))
    with pytest.raises(KeyboardInterrupt):
        loader[1]
    found = []
    thread = threading.Thread(target=lambda: found.append(loader[1]), daemon=True)
    thread.start()
    thread.join(300)
    assert found, "it waits for what nobody was told to do"
    assert (found[0]["row"] == found[0].rows).all()


def test_where_there_can_be_no_threads(loader, monkeypatch):
    expected = loader[2]

    def start(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(chunked, "_CREW", Crew("mmdask-test", 2))
    chunked.CHUNKS.clear()
    monkeypatch.setattr(threading.Thread, "start", start)
    batch = loader[2]
    assert (batch["row"] == batch.rows).all()
    assert (batch["x"] == expected["x"]).all()
    assert not chunked._UNDER_WAY
