"""Batches of rows that are drawn: of a split, by weights, and of several stores."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.batches import BATCH, WIDTH, make_rows
from benchmarks.harness import Competitor, benchmark

_TRAIN = 0.8


def _dataset(n: int, folder: Path) -> Any:
    """Rows of 256 bytes with an event number, a weight and a process; those of one process lie together."""
    import mmdask as mm

    store = folder / "drawn.mm"
    if store.exists():
        return mm.open(store)
    rng = np.random.default_rng(2)
    rows = np.arange(n)
    fields = {
        "x": make_rows(folder / "rows.npy", n),
        "event": rows.astype(np.int64),
        "weight": rng.exponential(size=n).astype(np.float32),
        "signal": rows < n // 4,
    }
    return mm.from_arrays(fields, store)


def _epoch(loader: Any) -> int:
    return sum(len(batch["x"]) for batch in loader)


def _counts(loader: Any, n: int) -> Any:
    """How often each row comes in an epoch."""
    counts = np.zeros(n, np.int64)
    for batch in loader:
        np.add.at(counts, batch.rows, 1)
    return counts


@benchmark(
    f"shuffled batches of {BATCH} rows, 256 bytes each, of four fifths of the rows by a hash of their event number",
    tiny=10_001,
    laptop=2_000_000,
    large=50_000_000,
    row_nbytes=4 * WIDTH,
    target="<= 1.25 x limit",
)
def split_rows(n: int, folder: Path) -> Iterator[Competitor]:
    """A split that was never made before: every key is hashed, and the rows are found."""
    ds = _dataset(n, folder)
    sizes = {"train": _TRAIN, "test": 1 - _TRAIN}
    seeds = itertools.count()
    plain = ds[: int(_TRAIN * n)].batches(BATCH, fields=["x"], seed=1)
    known = ds.split(sizes, by="event", seed=2**32)["train"].batches(BATCH, fields=["x"], seed=1)

    def ours() -> int:
        train = ds.split(sizes, by="event", seed=next(seeds))["train"]
        return _epoch(train.batches(BATCH, fields=["x"], seed=1))

    def permutation() -> int:
        data = np.load(folder / "rows.npy", mmap_mode="r")
        rows = np.random.default_rng(1).permutation(n)[: int(_TRAIN * n)]
        return sum(len(data[rows[a : a + BATCH]]) for a in range(0, len(rows), BATCH))

    def check(rows: int) -> None:
        parts = ds.split(sizes, by="event", seed=0)
        once = sum(_counts(part.batches(BATCH, fields=["x"]), n) for part in parts.values())
        if not (once == 1).all() or abs(rows / n - _TRAIN) > 0.02:
            raise AssertionError("splits have every row once together")

    yield Competitor("mmdask, split and batches", "ours", ours, check=check)
    yield Competitor("mmdask, as many rows of the store", "limit", lambda: _epoch(plain))
    yield Competitor("mmdask, batches of a split that is known", "peer", lambda: _epoch(known))
    yield Competitor("numpy permutation, taken from a memmap", "peer", permutation)


@benchmark(
    f"batches of {BATCH} rows, 256 bytes each, drawn by a weight",
    tiny=10_001,
    laptop=2_000_000,
    large=50_000_000,
    row_nbytes=4 * WIDTH,
    target="<= 1.5 x limit",
)
def weighted_batches(n: int, folder: Path) -> Iterator[Competitor]:
    """Rows come as often as their weight says; an epoch is as long as without."""
    ds = _dataset(n, folder)
    plain = ds.batches(BATCH, fields=["x"], seed=1)
    weighted = ds.batches(BATCH, fields=["x"], seed=1, weights="weight")
    exact = ds.batches(BATCH, fields=["x"], seed=1, weights="weight", shuffle="exact")
    weight = ds["weight"].compute().astype(np.float64)

    def check(_: int) -> None:
        counts = _counts(weighted, n)
        if counts.sum() != n or (abs(counts - weight / weight.mean()) > 1.001).any():
            raise AssertionError("rows do not come as often as their weight says")

    def choice() -> int:
        data = np.load(folder / "rows.npy", mmap_mode="r")
        rows = np.random.default_rng(1).choice(n, n, p=weight / weight.sum())
        return sum(len(data[rows[a : a + BATCH]]) for a in range(0, n, BATCH))

    yield Competitor("mmdask, weights=", "ours", lambda: _epoch(weighted), check=check)
    yield Competitor("mmdask, every row once", "limit", lambda: _epoch(plain))
    yield Competitor("mmdask, weights=, shuffle='exact'", "peer", lambda: _epoch(exact))
    yield Competitor("numpy choice with p=, taken from a memmap", "peer", choice)


@benchmark(
    f"batches of {BATCH} rows, 256 bytes each, half of them of a quarter of the rows",
    tiny=10_001,
    laptop=2_000_000,
    large=50_000_000,
    row_nbytes=4 * WIDTH,
    target="<= 1.5 x limit",
)
def mixed_batches(n: int, folder: Path) -> Iterator[Competitor]:
    """`mm.mix` of two loaders, and `balance=` of one, which draw the same rows as often."""
    import mmdask as mm

    ds = _dataset(n, folder)
    plain = ds.batches(BATCH, fields=["x"], seed=1)
    balanced = ds.batches(BATCH, fields=["x"], seed=1, balance="signal")
    cuts = {"signal": "signal", "background": "not signal"}
    loaders = {name: ds[ds.cut(cut)].batches(BATCH, fields=["x"], seed=1) for name, cut in cuts.items()}
    mixed = mm.mix(loaders, {"signal": 1, "background": 1}, stop="cycle")
    n_batches = len(plain)

    def mixture() -> int:
        return sum(len(batch["x"]) for batch in itertools.islice(mixed, n_batches))

    def check(_: int) -> None:
        first = next(iter(mixed))
        own = int((first.rows < n // 4).sum())
        if abs(own - len(first.rows) / 2) > 1 or _counts(balanced, n).max() > 3:
            raise AssertionError("half of the rows are signal, and each comes twice or three times")

    yield Competitor("mmdask, mm.mix", "ours", mixture, check=check)
    yield Competitor("mmdask, every row once", "limit", lambda: _epoch(plain))
    yield Competitor("mmdask, balance=", "peer", lambda: _epoch(balanced))
