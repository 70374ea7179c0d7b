"""``python -m benchmarks.scale [--rows 1e9] [--parts 10000] [--folder f]``: how cost grows, and a model of it.

Stores of one-byte fields are measured from small to large. The model takes its constants from the smaller ones, is
compared with the largest, and says what 10**12 rows on 1,000 workers would take. `cost` is pure. At most 3 GB are
written; they are removed at the end.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

#: limits of the package, as they stand in its modules (tests compare them)
MANIFEST_NBYTES, MANIFEST_VALUES = 64 << 20, 1 << 22
MAX_CHUNKS = 1 << 22
MAX_BLOCKS = 1 << 27
TASK_ROWS = 1 << 20
MOST_TASKS, TOGETHER, MANY_TASKS = 1 << 14, 64, 256
CHUNK_ROWS = 1 << 20
GRAIN = 1 << 16


@dataclass(frozen=True)
class Shape:
    """A store and who works on it; `cut_nbytes` are read of a row for a cut, `leaves` are its operands."""

    rows: int
    parts: int
    row_nbytes: float
    cut_nbytes: float
    workers: int = 1
    leaves: int = 1
    block_rows: int = 16_384


@dataclass(frozen=True)
class Constants:
    """What one thing takes on a machine: seconds, and bytes of the manifest.

    Attributes
    ----------
    open, open_part : float
        Opening a store, and each part in it.
    part_nbytes : float
        Bytes of a part in the manifest.
    read : float
        A byte that a cut reads, by one worker.
    part : float
        A part in a first cut: its files are opened, its rows evaluated and its bits kept.
    task : float
        A task on a cluster: what the scheduler takes for it.
    bits : float
        A byte of masks, which the client gets and writes; taken to be 1 GB/s.
    """

    open: float = 0.001
    open_part: float = 3e-5
    part_nbytes: float = 34
    read: float = 5e-10
    part: float = 5e-4
    task: float = 2e-3
    bits: float = 1e-9


@dataclass(frozen=True)
class Cost:
    """What a store costs; bytes, seconds and numbers."""

    parts: int
    manifest_nbytes: float
    open_seconds: float
    tasks: int
    first_cut_seconds: float
    mask_nbytes: float
    client_nbytes: float
    kept_cut_nbytes: float
    chunks: int
    blocks: int
    shuffle_nbytes: float

    def limits(self) -> dict[str, float]:
        """How much of each limit is used, the nearest first."""
        used = {
            "parts of a manifest": max(self.manifest_nbytes / MANIFEST_NBYTES, 4 * self.parts / MANIFEST_VALUES),
            "blocks of a shuffle": self.blocks / MAX_BLOCKS,
            "chunks of a dask array": self.chunks / MAX_CHUNKS,
            "bits of a cut in the client, of 64 GiB": self.client_nbytes / (64 << 30),
            "tasks of a pass, of 100,000": self.tasks / 100_000,
        }
        return dict(sorted(used.items(), key=lambda item: -item[1]))


def tasks_of(rows: int, parts: int) -> int:
    """Tasks of a pass over a store of equal parts.

    Examples
    --------
    >>> tasks_of(10**9, 8), tasks_of(10**7, 10_000), tasks_of(10**12, 10**5)
    (960, 157, 20000)
    """
    of_part = math.ceil(rows / parts)
    single = parts * max(1, math.ceil(of_part / TASK_ROWS))
    if single <= MANY_TASKS:
        return single
    most = max(TASK_ROWS, rows // MOST_TASKS)
    many = max(TOGETHER, single // MOST_TASKS)
    each = min(many, max(1, int(most / min(of_part, TASK_ROWS))))
    return math.ceil(single / each)


def cost(shape: Shape, c: Constants) -> Cost:
    """What a store costs."""
    s = shape
    tasks = tasks_of(s.rows, s.parts)
    workers = min(s.workers, tasks)
    masks = s.leaves * s.rows / 8
    # Parts are put together by the client, one after the other; reading is shared.
    cluster = tasks * c.task if s.workers > 1 else 0.0
    return Cost(
        parts=s.parts,
        manifest_nbytes=400 + s.parts * c.part_nbytes,
        open_seconds=c.open + s.parts * c.open_part,
        tasks=tasks,
        first_cut_seconds=max(cluster, s.rows * s.cut_nbytes * c.read / workers) + s.parts * c.part + masks * c.bits,
        mask_nbytes=masks,
        client_nbytes=(s.leaves + 1) * s.rows / 8,
        kept_cut_nbytes=4 * max(s.parts, s.rows / GRAIN),
        chunks=s.parts * max(1, math.ceil(s.rows / s.parts / CHUNK_ROWS)),
        blocks=math.ceil(s.rows / s.block_rows),
        shuffle_nbytes=8 * math.ceil(s.rows / s.block_rows) + (256 << 20),
    )


# Measuring ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    shape: Shape
    manifest_nbytes: float
    open_seconds: float
    first_cut_seconds: float
    kept_cut_seconds: float
    mask_nbytes: float
    batch_seconds: float


def make(path: Path, rows: int, parts: int) -> None:
    """A store of one byte per row that no part says enough of to be skipped, in equal parts; not synced."""
    import mmdask as mm
    from mmdask.schema import Field, FieldData
    from mmdask.store.commit import commit
    from mmdask.store.layer import new_id
    from mmdask.store.layer_writer import LayerWriter
    from mmdask.store.manifest import Manifest, Part
    from mmdask.store.system import SYSTEM

    field, of_part = Field.dense("x", "u1"), rows // parts
    tile = np.random.default_rng(0).integers(0, 256, min(of_part, 1 << 22)).astype("u1")
    made = []

    def change(newest: Manifest | None) -> Manifest:
        assert newest is not None
        return dataclasses.replace(newest, parts=tuple(made))

    with _without_syncs(SYSTEM):
        with mm.create(path, fields=[field]):
            pass
        for _ in range(parts):
            with LayerWriter(path, new_id()) as w:
                writer = w.field(field)
                for a in range(0, of_part, len(tile)):
                    writer.write(FieldData(tile[: min(len(tile), of_part - a)]))
                layer = w.finish(of_part)
            made.append(Part(of_part, (layer.id,), layer.nbytes))
        commit(path, change, action="benchmark")


class _without_syncs:
    def __init__(self, system: object) -> None:
        self.kind = type(system)
        self.kept = {name: getattr(self.kind, name) for name in ("fsync", "fsync_folder")}

    def __enter__(self) -> None:
        for name in self.kept:
            setattr(self.kind, name, lambda *_: None)

    def __exit__(self, *error: object) -> None:
        for name, function in self.kept.items():
            setattr(self.kind, name, function)


def measure(path: Path, rows: int, parts: int, repeats: int = 1) -> Measured:
    """Make a store, open it, cut it, cut it again, and take a batch; the least times of some repeats."""
    make(path, rows, parts)
    every = [_measure(path, rows, parts) for _ in range(repeats)]
    least = {f.name: min(getattr(m, f.name) for m in every) for f in dataclasses.fields(Measured) if f.name != "shape"}
    return Measured(every[0].shape, **least)


def _measure(path: Path, rows: int, parts: int) -> Measured:
    """With the files in memory, and nothing kept or known."""
    import mmdask as mm
    from benchmarks.cuts import forget_opened

    def timed() -> float:
        nonlocal last
        before, last = last, time.perf_counter()
        return last - before

    shutil.rmtree(path / "cache", ignore_errors=True)
    forget_opened()
    last = time.perf_counter()
    ds = mm.open(path)
    opened = timed()
    n = ds.cut("x > 100").count()
    first = timed()
    assert 0.5 * rows < n < 0.7 * rows
    forget_opened()
    ds = mm.open(path)
    timed()
    assert len(ds[ds.cut("x > 100")]) == n
    kept = timed()
    next(iter(ds.batches(1024, seed=1)))
    batch = timed()
    masks = [f.stat().st_size for f in (path / "cache").rglob("*.mask*")]
    shape = Shape(rows, parts, 1, 1)
    return Measured(shape, (path / "manifest.json").stat().st_size, opened, first, kept, sum(masks), batch)


def task_seconds(n: int) -> float:
    """What a task takes that does nothing, on two worker processes of this machine, as passes run them."""
    from dask.distributed import Client, LocalCluster

    import mmdask as mm
    from mmdask.dataset.run import dask_runner

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster):
        run = dask_runner("nothing")
        run([(len, (mm.__name__,))] * 20, lambda number, result: None)
        before = time.perf_counter()
        run([(len, (mm.__name__,))] * n, lambda number, result: None)
        return (time.perf_counter() - before) / n


def fit(large_parts: list[Measured], many_parts: list[Measured]) -> Constants:
    """Constants from stores of few parts, by rows, and of few rows, by parts."""
    a, b = large_parts
    bits = Constants.bits / 8
    read = max((b.first_cut_seconds - a.first_cut_seconds) / (b.shape.rows - a.shape.rows) - bits, 0.0)
    p, q = many_parts
    n = q.shape.parts - p.shape.parts
    extra = (read + bits) * (q.shape.rows - p.shape.rows)
    return Constants(
        open=min(a.open_seconds, b.open_seconds),
        open_part=max((q.open_seconds - p.open_seconds) / n, 0.0),
        part_nbytes=(q.manifest_nbytes - p.manifest_nbytes) / n,
        read=read,
        part=max((q.first_cut_seconds - p.first_cut_seconds - extra) / n, 0.0),
    )


def table(lines: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=float, default=1e9, help="of the largest store of 8 parts (default: 1e9)")
    parser.add_argument("--parts", type=int, default=10_000, help="of 1,000 rows, of the store of most parts")
    parser.add_argument("--repeats", type=int, default=7, help="of which the least time counts (default: 7)")
    parser.add_argument("--no-cluster", action="store_true", help="do not measure what a task takes on a cluster")
    parser.add_argument("--folder", type=Path, help="where stores are made (default: a temporary one)")
    options = parser.parse_args(argv)
    most, parts = int(options.rows) // 8 * 8, options.parts
    cases = [(most // 100 // 8 * 8, 8), (most // 10 // 8 * 8, 8), (most, 8)]
    cases += [(1000 * n, n) for n in (max(parts // 20, 2), max(parts // 4, 4), parts)]
    found = []
    lines = [["rows", "parts", "manifest", "open", "first cut", "kept cut", "masks", "first batch"]]
    for rows, n in [(8_000, 8), *cases]:  # the first warms up
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            m = measure(Path(folder) / "s.mm", rows, n, options.repeats)
        found.append(m)
        if len(found) > 1:
            times = [m.open_seconds, m.first_cut_seconds, m.kept_cut_seconds]
            cells = [f"{rows:,}", f"{n:,}", f"{m.manifest_nbytes:,.0f} B", *[f"{1e3 * t:,.1f} ms" for t in times]]
            lines.append([*cells, f"{m.mask_nbytes:,.0f} B", f"{1e3 * m.batch_seconds:,.1f} ms"])
    sys.stdout.write(table(lines) + "\n\n")
    _, a, b, large, p, q, many = found
    constants = fit([a, b], [p, q])
    if not options.no_cluster:
        constants = dataclasses.replace(constants, task=task_seconds(1000))
    sys.stdout.write(f"{constants}\n\n")
    lines = [["of the largest", "measured", "model", "ratio"]]
    for m, keys in ((large, ("first_cut_seconds", "mask_nbytes")), (many, ("manifest_nbytes", "open_seconds"))):
        for key in (*keys, *(["first_cut_seconds"] if m is many else [])):
            real, model = getattr(m, key), getattr(cost(m.shape, constants), key)
            name = f"{key} ({m.shape.rows:,} rows, {m.shape.parts:,} parts)"
            lines.append([name, f"{real:,.4g}", f"{model:,.4g}", f"{model / real:.2f}"])
    sys.stdout.write(table(lines) + "\n\n")
    for n in (10**4, 10**5, 10**6):
        shape = Shape(10**12, n, 100, 8, workers=1000, leaves=2)
        found_cost = cost(shape, constants)
        lines = [[f"10**12 rows of 100 B, {n:,} parts, 1,000 workers, a cut of 8 B", ""]]
        lines += [[key, f"{value:,.4g}"] for key, value in dataclasses.asdict(found_cost).items()]
        lines += [[f"limit: {key}", f"{share:.1%}"] for key, share in found_cost.limits().items()]
        sys.stdout.write(table(lines) + "\n\n")


if __name__ == "__main__":
    main()
