"""Stores of zarr arrays, against zarr itself: a pass over all rows, and an epoch of shuffled batches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Competitor, benchmark

#: four numbers and a vector of 22
ROW_NBYTES = 4 * 4 + 22 * 4
_PIECE = 1 << 18


def make_stores(folder: Path, rows: int, codec: Any) -> tuple[Any, Any, list[Any]]:
    """The same rows mapped, and in zarr; and the arrays of the latter as zarr has them."""
    import zarr as zarr_python

    import mmdask as mm

    paths = folder / "mapped.mm", folder / f"{codec}.mm"
    if not paths[0].exists():
        rng = np.random.default_rng(0)
        with mm.create(paths[0]) as w:
            for start in range(0, rows, _PIECE):
                n = min(_PIECE, rows - start)
                some: dict[str, Any] = {f"x{i}": rng.normal(size=n).astype("f4") for i in range(4)}
                w.extend({**some, "v": rng.normal(size=(n, 22)).astype("f4")})
    mapped = mm.open(paths[0])
    packed = mapped.save(paths[1], backend=mm.Zarr(codec=codec), progress=False) if not paths[1].exists() else None
    packed = packed or mm.open(paths[1])
    arrays = []
    for part in sorted(paths[1].glob("parts/*")):
        arrays += [
            zarr_python.open_array(str(folder), mode="r")
            for folder in sorted(part.glob("*-*"))
            if "grains" not in folder.name
        ]
    return mapped, packed, arrays


def read_bare(arrays: list[Any]) -> float:
    """Every chunk, or what shares a file, once: what zarr needs, with nothing around it.

    The same bytes as those of a batch. Each read is into memory of the last one, and zarr decodes the few chunks of it
    at the same time, but does nothing else then: its wall time is about its CPU time.
    """
    total = 0.0
    for array in arrays:
        step = (array.shards or array.chunks)[0]
        for start in range(0, array.shape[0], step):
            total += float(array[start : start + step].reshape(-1)[0])
    return total


def _forget() -> None:
    """Chunks that were decoded before, but not their memory, which a longer epoch has in use all the time."""
    from mmdask.store.zarr.chunked import CHUNKS, INDEXES

    CHUNKS.clear()
    INDEXES.clear()


@benchmark(
    "a sum of every field of a store of zarr arrays (lz4)",
    tiny=20_000,
    laptop=4_000_000,
    large=100_000_000,
    row_nbytes=ROW_NBYTES,
    target=">= 0.9x of dask on the bare arrays",
)
def zarr_scan(rows: int, folder: Path) -> Iterator[Competitor]:
    """All rows once, by dask."""
    import dask
    import dask.array as da

    mapped, packed, arrays = make_stores(folder, rows, "lz4")
    expected = sum(float(mapped[name].astype("f8").sum().compute()) for name in mapped)

    def sums(ds: Any) -> float:
        return sum(map(float, dask.compute(*[ds[name].sum(dtype="f8") for name in ds])))

    def bare() -> float:
        return sum(map(float, dask.compute(*[da.from_zarr(a).sum(dtype="f8") for a in arrays])))

    def check(found: float) -> None:
        assert abs(found - expected) < 1e-6 * rows

    yield Competitor("mmdask, zarr", "ours", lambda: sums(packed), _forget, check)
    yield Competitor("dask.array.from_zarr of the same arrays", "limit", bare, check=check)
    yield Competitor("mmdask, mapped", "peer", lambda: sums(mapped), check=check)


def _epoch(codec: str, rows: int, folder: Path) -> Iterator[Competitor]:
    mapped, packed, arrays = make_stores(folder, rows, codec)
    loader = packed.batches(8192, seed=1, block="chunk")
    same = mapped.batches(8192, seed=1, block=loader.grain.block, window=loader.grain.blocks * loader.grain.block * 112)

    def epoch(loader: Any) -> int:
        loader.set_epoch(0)
        return sum(len(batch["v"]) for batch in loader)

    def check(found: int) -> None:
        assert found == rows

    yield Competitor("mmdask, zarr", "ours", lambda: epoch(loader), _forget, check)
    yield Competitor("every chunk read by zarr, nothing mixed", "limit", lambda: read_bare(arrays))
    yield Competitor("mmdask, mapped, blocks of the same size", "peer", lambda: epoch(same), check=check)


@benchmark(
    "an epoch of batches of 8192 rows of a store of zarr arrays (lz4)",
    tiny=20_000,
    laptop=2_000_000,
    large=50_000_000,
    row_nbytes=ROW_NBYTES,
    target=">= 0.8x of the bare chunks",
)
def zarr_batches(rows: int, folder: Path) -> Iterator[Competitor]:
    """Shuffled in windows of whole chunks."""
    yield from _epoch("lz4", rows, folder)


@benchmark(
    "an epoch of batches of 8192 rows of a store of zarr arrays (zstd)",
    tiny=20_000,
    laptop=2_000_000,
    large=50_000_000,
    row_nbytes=ROW_NBYTES,
    target=">= 0.8x of the bare chunks",
)
def zarr_batches_zstd(rows: int, folder: Path) -> Iterator[Competitor]:
    """The same of a store that is compressed more."""
    yield from _epoch("zstd", rows, folder)
