"""Rows that need not be read for a cut, and what it costs to know that."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cuts import forget_opened
from benchmarks.harness import Competitor, benchmark

_RUNS = 100
_BLOCK = 1 << 18
CUT = f"run == {300_000 + _RUNS // 2} and met > 30e3"


def _make(folder: Path, n: int) -> tuple[Path, Path, int]:
    """A store of sorted runs, the same without smallest and largest values, and how many rows pass."""
    import mmdask as mm
    from mmdask.store import document

    store, bare = folder / "runs.mm", folder / "bare.mm"
    run = np.repeat(np.arange(300_000, 300_000 + _RUNS, dtype="i4"), -(-n // _RUNS))[:n]
    met = np.random.default_rng(1).exponential(45e3, n).astype("f4")
    if not bare.exists():
        with mm.create(store, part_nbytes=8 * n + 1) as w:
            w.extend({"run": run, "met": met})
        shutil.copytree(store, bare)
        for file in bare.glob("parts/*/part.json"):
            part = json.loads(file.read_text(encoding="utf-8"))
            for key in ("checksum", "grains"):
                part.pop(key, None)
            for field in part["fields"].values():
                field.pop("bounds", None)
            file.write_bytes(document.dump(part))
    return store, bare, int(np.count_nonzero((run == 300_000 + _RUNS // 2) & (met > 30e3)))


@benchmark(
    f"cut {CUT} on sorted runs, 1 % of the rows, one thread",
    tiny=300_000,
    laptop=20_000_000,
    large=400_000_000,
    row_nbytes=8,
    target="<= 0.5 x peer",
)
def cut_skipping(n: int, folder: Path) -> Iterator[Competitor]:
    """Computed and kept; only the runs of rows that may pass are read."""
    import dask

    import mmdask as mm
    from mmdask.rows.cuts import skip
    from mmdask.rows.reading.reader import read
    from mmdask.store.snapshot import open_snapshot

    store, bare, passing = _make(folder, n)
    opened: dict[Path, Any] = {}

    def prepare(path: Path) -> None:
        shutil.rmtree(path / "cache", ignore_errors=True)
        forget_opened()
        skip.TABLES.clear()
        opened[path] = mm.open(path)

    def keep(path: Path) -> Any:
        with dask.config.set(scheduler="sync"):
            return opened[path].cut(CUT).keep()

    def check(cut: Any) -> None:
        check_count(cut.count())

    def check_count(count: int) -> None:
        if count != passing:
            raise AssertionError(f"{passing} rows pass, got {count}")

    snapshot = open_snapshot(bare)
    run, met = (read(snapshot, name, 0, n).values for name in ("run", "met"))
    rows = np.flatnonzero(run == 300_000 + _RUNS // 2)
    start, stop = int(rows[0]), int(rows[-1]) + 1
    wanted = 300_000 + _RUNS // 2

    def only_those() -> int:
        return int(np.count_nonzero((run[start:stop] == wanted) & (met[start:stop] > 30e3)))

    yield Competitor("mmdask", "ours", lambda: keep(store), lambda: prepare(store), check)
    yield Competitor("numpy on the rows of that run, whose place is known", "limit", only_those, check=check_count)
    yield Competitor(
        "mmdask, without smallest and largest values", "peer", lambda: keep(bare), lambda: prepare(bare), check
    )


@benchmark(
    "write three fields with their smallest and largest values",
    tiny=300_000,
    laptop=20_000_000,
    large=200_000_000,
    row_nbytes=16,
    target="<= 1.15 x limit",
)
def write_statistics(n: int, folder: Path) -> Iterator[Competitor]:
    """A layer of int32, float32 and float64, made durable."""
    from mmdask.schema import Field, FieldData
    from mmdask.store.layer_writer import LayerWriter

    rng = np.random.default_rng(1)
    data = {"i": np.arange(n, dtype="i4"), "f": rng.random(n, "f4"), "d": rng.random(n)}

    def write(*, keep: bool) -> None:
        path = folder / "written"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        with LayerWriter(path, "one") as w:
            for name, values in data.items():
                writer = w.field(Field.dense(name, values.dtype))
                if not keep:
                    writer.tally = None
                for start in range(0, n, _BLOCK):
                    writer.write(FieldData(values[start : start + _BLOCK]))
            layer = w.finish()
        if (layer.grains is not None) != keep:
            raise AssertionError("the array of grains is the difference")

    yield Competitor("mmdask", "ours", lambda: write(keep=True))
    yield Competitor("mmdask, without them", "limit", lambda: write(keep=False))
