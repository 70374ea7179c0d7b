"""Opening stores, and the two ways to read them: through maps and by plain reads."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.batches import BATCH, WIDTH, make_rows
from benchmarks.harness import Competitor, benchmark

_PART_ROWS = 250_000
_FIELDS = 20
_CHUNK = 1 << 16


def make_manifest(store: Path, n: int) -> Path:
    """A store of `n` parts as far as its manifest tells; there are no data, because opening reads none."""
    import mmdask as mm
    from mmdask.store.layer import new_id
    from mmdask.store.manifest import Part, dump_manifest, read_manifest

    if not store.exists():
        with mm.create(store, fields=[mm.Field.dense(f"x{i}", "f4") for i in range(_FIELDS)]):
            pass
        nbytes = _PART_ROWS * 4 * _FIELDS
        parts = tuple(Part(_PART_ROWS + i % 1000, (new_id(),), nbytes + i) for i in range(n))
        manifest = dataclasses.replace(read_manifest(store), parts=parts)
        (store / "manifest.json").write_bytes(dump_manifest(manifest))
    return store / "manifest.json"


@benchmark(
    "a store opened, by its parts",
    tiny=50,
    laptop=10_000,
    large=100_000,
    row_nbytes=0,
    target="<= 3.0 x limit",
)
def open_parts(n: int, folder: Path) -> Iterator[Competitor]:
    """Open a store of this many parts as a process does that has not seen it; the manifest is the one file read."""
    import mmdask as mm
    from mmdask.store import snapshot

    manifest = make_manifest(folder / "parts.mm", n)

    def ours() -> Any:
        return mm.open(folder / "parts.mm")

    def load() -> Any:
        with open(manifest, "rb") as file:
            return json.load(file)

    def check(ds: Any) -> None:
        if len(ds) != sum(json.loads(manifest.read_bytes())["parts"]["rows"]):
            raise AssertionError("the rows of all parts are those of the store")

    yield Competitor("mmdask.open", "ours", ours, snapshot._OPEN.clear, check)
    yield Competitor("json.load of its manifest", "limit", load)


class Both:
    """One store of rows of 256 bytes, opened in both ways."""

    def __init__(self, folder: Path, n: int) -> None:
        import mmdask as mm
        from mmdask.rows.reading import reader
        from mmdask.store.snapshot import open_snapshot

        store = folder / "rows.mm"
        if not store.exists():
            mm.from_arrays({"x": make_rows(folder / "rows.npy", n)}, store)
        self.n = n
        self.reader = reader
        self.mapped, self.plain = open_snapshot(store, io="mmap"), open_snapshot(store, io="pread")
        self.total = self.scan(self.mapped)

    def scan(self, snapshot: Any) -> int:
        """Add up all values, chunk by chunk."""
        starts = range(0, self.n, _CHUNK)
        chunks = (self.reader.read(snapshot, "x", a, min(a + _CHUNK, self.n)).values for a in starts)
        return sum(int(chunk.sum(dtype=np.int64)) for chunk in chunks)

    def check_total(self, total: int) -> None:
        if total != self.total:
            raise AssertionError(f"the values add up to {self.total}, got {total}")

    def batches(self, spread: int) -> list[np.ndarray[Any, Any]]:
        """Row numbers of ten batches, each drawn at random from `spread` neighbouring rows."""
        rng = np.random.default_rng(3)
        spread = min(spread, self.n)
        starts = rng.integers(0, self.n - spread + 1, 10)
        return [start + rng.integers(0, spread, BATCH) for start in starts]

    def gather(self, snapshot: Any, batches: list[np.ndarray[Any, Any]]) -> int:
        """Take all batches; return the sum of the row numbers that they hold."""
        return sum(int(self.reader.take(snapshot, "x", rows).values[:, 0].sum(dtype=np.int64)) for rows in batches)

    def gathering(self, spread: int) -> Iterator[Competitor]:
        batches = self.batches(spread)

        def check(total: int) -> None:
            if total != sum(int(rows.sum()) for rows in batches):
                raise AssertionError("a batch has to hold the rows asked for")

        yield Competitor("mmdask, io='pread'", "ours", lambda: self.gather(self.plain, batches), check=check)
        yield Competitor("mmdask, io='mmap'", "limit", lambda: self.gather(self.mapped, batches), check=check)


_ROWS: dict[str, Any] = {"tiny": 10_001, "laptop": 4_000_000, "large": 100_000_000}


@benchmark("all values added up, plain reads against maps", **_ROWS, row_nbytes=4 * WIDTH)
def pread_scan(n: int, folder: Path) -> Iterator[Competitor]:
    """Chunks of 16 MiB, one after the other, warm."""
    both = Both(folder, n)
    yield Competitor("mmdask, io='pread'", "ours", lambda: both.scan(both.plain), check=both.check_total)
    yield Competitor("mmdask, io='mmap'", "limit", lambda: both.scan(both.mapped), check=both.check_total)


@benchmark(f"ten batches of {BATCH} rows out of 65,536 neighbours, plain reads against maps", **_ROWS, row_nbytes=0)
def pread_gather(n: int, folder: Path) -> Iterator[Competitor]:
    """Rows so close that plain reads take in those between, warm."""
    return Both(folder, n).gathering(1 << 16)


@benchmark(f"ten batches of {BATCH} rows out of all, plain reads against maps", **_ROWS, row_nbytes=0)
def pread_gather_far(n: int, folder: Path) -> Iterator[Competitor]:
    """Rows so far apart that each is read by itself, warm."""
    return Both(folder, n).gathering(n)
