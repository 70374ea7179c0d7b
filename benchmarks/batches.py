"""Shuffled batches."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Competitor, benchmark

BATCH = 4096
WIDTH = 64  # int32: rows of 256 bytes
_BLOCK = 1 << 18
_COPY_ROWS = 1 << 20  # 256 MiB: far larger than any cache


def make_rows(path: Path, n: int) -> np.memmap[Any, np.dtype[np.int32]]:
    """An ``(n, 64)`` int32 .npy file of noise; the first number of each row is its row number."""
    if not path.exists():
        draft = path.with_suffix(".tmp")
        out = np.lib.format.open_memmap(draft, mode="w+", dtype=np.int32, shape=(n, WIDTH))
        for start in range(0, n, _BLOCK):
            block = out[start : start + _BLOCK]
            rng = np.random.default_rng([1, start])
            block[:] = rng.integers(-(2**31), 2**31, block.shape, np.int32)
            block[:, 0] = np.arange(start, start + len(block))
        out.flush()
        draft.rename(path)
    return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]


@benchmark(
    f"shuffled dense batches of {BATCH} rows, 256 bytes each",
    tiny=10_001,
    laptop=4_000_000,
    large=100_000_000,
    row_nbytes=4 * WIDTH,
    target="<= 3.0 x limit",
)
def dense_batches(n: int, folder: Path) -> Iterator[Competitor]:
    """One epoch over all rows, every row once."""
    import mmdask as mm

    data = make_rows(folder / "rows.npy", n)
    store = folder / "rows.mm"
    ds = mm.open(store) if store.exists() else mm.from_arrays({"x": data}, store)
    loader = ds.batches(BATCH, fields=["x"], shuffle=True, seed=1)
    buffer = np.zeros((min(n, _COPY_ROWS), WIDTH), np.int32)  # touched, so that no page fault is timed
    epochs = np.random.default_rng(1)

    def ours() -> None:
        for batch in loader:
            batch["x"]

    def copy() -> None:
        for start in range(0, n, len(buffer)):
            block = data[start : start + len(buffer)]
            np.copyto(buffer[: len(block)], block)

    def index() -> None:
        order = epochs.permutation(n)
        for start in range(0, n, BATCH):
            data[order[start : start + BATCH]]

    def every_row_once(_: None) -> None:
        rows, first = [], []
        for batch in loader:
            rows.append(np.array(batch.rows))
            first.append(np.array(batch["x"][:, 0]))
        visited = np.concatenate(rows)
        if not np.array_equal(np.sort(visited), np.arange(n)):
            raise AssertionError("an epoch has to visit every row once")
        if not np.array_equal(np.concatenate(first), visited):
            raise AssertionError("batch.rows has to name the rows of the batch")

    yield Competitor("mmdask", "ours", ours, check=every_row_once)
    yield Competitor("memcpy of the same bytes", "limit", copy)
    yield Competitor("memmap[permutation]", "peer", index)
    yield torch_loader(data)


def torch_loader(data: np.memmap[Any, np.dtype[np.int32]]) -> Competitor:
    """torch's DataLoader with a batch sampler over the same file, in this process."""
    name = "torch DataLoader, batch sampler"
    if importlib.util.find_spec("torch") is None:
        return Competitor(name, "peer", None, missing="torch is not installed")
    import torch.utils.data as tud

    class Rows(tud.Dataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return len(data)

        def __getitem__(self, rows: list[int]) -> Any:
            return data[rows]

    rows = Rows()
    sampler = tud.BatchSampler(tud.RandomSampler(rows), BATCH, drop_last=False)
    loader = tud.DataLoader(rows, sampler=sampler, batch_size=None, collate_fn=np.asarray)

    def run() -> None:
        for _ in loader:
            pass

    return Competitor(name, "peer", run)
