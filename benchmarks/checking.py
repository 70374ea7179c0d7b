"""Checking a store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.harness import Competitor, benchmark

_FIELDS = 6
_ROWS = 1 << 22


def make_store(path: Path, n: int) -> None:
    """Dense fields, a ragged one and text; an earlier one is used if it fits."""
    import awkward as ak

    import mmdask as mm

    if path.exists():
        return
    rng = np.random.default_rng(0)
    words = ak.Array([f"word {i}" for i in range(1000)])
    with mm.create(path) as w:
        for start in range(0, n, _ROWS):
            rows = min(_ROWS, n - start)
            counts = rng.integers(0, 12, rows)
            fields = {f"x{i}": rng.normal(size=rows).astype("f4") for i in range(_FIELDS)}
            items = ak.unflatten(rng.normal(size=counts.sum()).astype("f4"), counts)
            w.extend({**fields, "items": items, "text": words[rng.integers(0, 1000, rows)]})


@benchmark(
    "every byte of a store read and checked",
    tiny=2_000,
    laptop=8_000_000,
    large=100_000_000,
    row_nbytes=4 * _FIELDS + 8 + 22 + 8 + 8,
    target="<= 1.25 x limit",
)
def verify(n: int, folder: Path) -> Iterator[Competitor]:
    """verify, against reading the same files."""
    import mmdask as mm

    store = folder / "checked.mm"
    make_store(store, n)
    files = sorted(store.glob("parts/*/*.npy"))

    def check(report: mm.Report) -> None:
        if not report.ok or report.n_files < len(files):
            raise AssertionError(str(report))

    def read() -> int:
        buffer, total = bytearray(1 << 20), 0
        for path in files:
            with open(path, "rb", buffering=0) as file:
                while got := file.readinto(buffer):
                    total += got
        return total

    yield Competitor("mmdask.verify", "ours", lambda: mm.verify(store), check=check)
    yield Competitor("reading the files", "limit", read)
    yield Competitor("mmdask.verify, one thread", "peer", lambda: mm.verify(store, threads=1), check=check)
    yield Competitor("mmdask.verify, sizes alone", "peer", lambda: mm.verify(store, quick=True), check=check)
