"""Batches of lists padded to their longest: how much of them is padding, and what it costs to have less."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Competitor, benchmark

BATCH = 256
TOKENS = BATCH * 32
MEAN = 33  # items of a row, float32


@benchmark(
    f"batches of {BATCH} lists padded to the longest, lengths log-normal up to 512",
    tiny=5_000,
    laptop=400_000,
    large=20_000_000,
    row_nbytes=4 * MEAN,
)
def bucketed_batches(n: int, folder: Path) -> Iterator[Competitor]:
    """One epoch; how much of what is handed out is padding stands with the names."""
    import awkward as ak

    import mmdask as mm

    store = folder / "parts.mm"
    rng = np.random.default_rng(1)
    counts = np.minimum(rng.lognormal(3, 1, n), 512).astype(np.int64)
    if not store.exists():
        mm.from_arrays({"parts": ak.unflatten(rng.random(counts.sum(), np.float32), counts)}, store)
    ds = mm.open(store)
    values = np.zeros(int(counts.sum()), np.float32)
    target = np.zeros_like(values)
    collate = {"parts": mm.pad("max", multiple=8, mask=False)}

    def way(text: str, role: Any, batch_size: int, bucket: Any) -> Competitor:
        loader = ds.batches(batch_size, seed=1, collate=collate, bucket=bucket)
        handed_out = sum(batch["parts"].size for batch in loader)

        def every_row_once(_: None) -> None:
            rows = np.concatenate([batch.rows for batch in loader])
            if not np.array_equal(np.sort(rows), np.arange(n)):
                raise AssertionError("an epoch has to visit every row once")

        def run() -> None:
            for batch in loader:
                batch["parts"]

        return Competitor(f"{text}: {1 - len(values) / handed_out:.0%} padding", role, run, check=every_row_once)

    yield way("mmdask, bucket with tokens", "ours", 16 * BATCH, mm.bucket("parts", window=8, tokens=TOKENS))
    yield Competitor("memcpy of all items", "limit", lambda: np.copyto(target, values))
    yield way("mmdask, bucket", "peer", BATCH, mm.bucket("parts"))
    yield way("mmdask, as they come", "peer", BATCH, None)
