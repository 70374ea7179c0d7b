"""Rows of a field in any order, gathered by the kernels from runs of rows: `Sources` has the arrays of these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.kernels import dense, gather
from mmdask.kernels.addresses import address_of
from mmdask.rows.reading.part import check_flags, check_shapes, constant_of
from mmdask.schema import OFFSET_DTYPE, SHAPE_DTYPE, VALID_DTYPE, Field, FieldData, empty
from mmdask.store.snapshot import Snapshot

__all__ = ["THESE", "Sources", "concatenate", "gather_rows", "gathered", "valid_of"]

Int64s = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
#: what errors say of rows from many parts
THESE = "one of these rows"


class Sources:
    """Runs of rows from which the kernels gather: where each begins, which of the rows, and their arrays.

    The arrays of a run of which no row is wanted are None.
    """

    def __init__(self, field: Field, starts: Int64s, rows: Int64s) -> None:
        self.field, self.starts, self.rows = field, starts, rows
        self.values: list[npt.NDArray[Any] | None] = []
        self.offsets: list[list[Int64s | None]] = [[] for _ in range(field.n_offsets)]
        self.shapes: list[Int64s | None] = []
        self.valid: list[tuple[Flags | None, ...]] = []

    def add(self, run: FieldData | None) -> None:
        """One more run."""
        self.values.append(None if run is None else run.values)
        for level, offsets in enumerate(self.offsets):
            offsets.append(None if run is None else run.offsets[level])
        if self.field.axes:
            self.shapes.append(None if run is None else run.shapes)
        if self.field.optional:
            self.valid.append(() if run is None else run.valid)

    def add_part(self, snapshot: Snapshot, part: int) -> None:
        """One more run: all rows of a part, of which nothing is checked yet."""
        layer, stored = snapshot.stored(part, self.field.name)
        if stored.values is None:
            self.values.append(np.broadcast_to(constant_of(snapshot, self.field, layer, stored), layer.rows))
        else:
            self.values.append(snapshot.array(layer, stored.values))
        for offsets, number in zip(self.offsets, stored.offsets, strict=True):
            offsets.append(snapshot.array(layer, number))
        if stored.shapes is not None:
            self.shapes.append(snapshot.array(layer, stored.shapes))
        if self.field.optional:
            self.valid.append(tuple([None if n is None else snapshot.array(layer, n) for n in stored.valid]))

    def flags(self, depth: int) -> list[Flags | None] | None:
        """Which elements of a depth are there; None where all are."""
        flags = [valid[depth] if depth < len(valid) else None for valid in self.valid]
        return None if all(v is None for v in flags) else flags

    def key(self) -> tuple[tuple[int, int], ...]:
        """The same for fields whose rows lie at the same places, while the arrays are held."""
        return tuple(
            [
                (0, 0) if o is None or v is None else (address_of(o), len(v))
                for o, v in zip(self.offsets[0], self.values, strict=True)
            ]
        )


def gather_rows(field: Field, data: FieldData, rows: Int64s, items: tuple[Int64s, Int64s] | None = None) -> FieldData:
    """Rows of a run in any order, repeats allowed, as a copy; `items` as those of `reader.take`."""
    sources = Sources(field, np.array([0, len(data)]), rows)
    sources.add(data)
    return gathered(field, sources, items)


def gathered(field: Field, sources: Sources, items: tuple[Int64s, Int64s] | None = None) -> FieldData:
    """The rows that are wanted of some runs, together; all of their items or some."""
    starts, rows = sources.starts, sources.rows
    depths = max(map(len, sources.valid), default=0)
    if not field.n_offsets:
        values = dense.take_rows(sources.values, starts, rows, np.empty((len(rows), *field.shape), field.dtype))
        if not depths:
            return FieldData(values, labels=field.labels)
    found = gather.Runs(starts, rows, len(sources.values))
    offsets: list[Int64s] = []
    valid: list[Flags | None] = []
    for depth, below in enumerate([*sources.offsets[1:], sources.values] if sources.offsets else []):
        valid.append(_take_flags(field, sources, found, depth) if depth < depths else None)
        offsets.append(found.follow(sources.offsets[depth], below, offsets=below is not sources.values))
        if depth == 0:
            counts = found.count
            if items is not None:
                offsets[0] = found.narrow(*items)
    if field.n_offsets < depths:
        valid.append(_take_flags(field, sources, found, field.n_offsets))
    if field.n_offsets:
        values = found.copy(sources.values, np.empty((0, *field.shape), field.dtype))
    if field.kind != "shaped":
        return FieldData(values, tuple(offsets), field.labels, valid=valid_of(valid))
    shapes = dense.take_rows(sources.shapes, starts, rows, np.empty((len(rows), field.axes), SHAPE_DTYPE))
    check_shapes(THESE, field.name, shapes, counts)
    return FieldData(values, tuple(offsets), shapes=shapes, valid=valid_of(valid))


def _take_flags(field: Field, sources: Sources, found: gather.Runs, depth: int) -> Flags | None:
    flags = sources.flags(depth)
    return None if flags is None else check_flags(THESE, field.name, found.flags(flags))


def concatenate(field: Field, runs: list[FieldData]) -> FieldData:
    """Runs of one field, one after the other."""
    if len(runs) == 1:
        return runs[0]
    if not runs:
        return empty(field)
    offsets = []
    for level in range(field.n_offsets):
        pieces, end = [np.zeros(1, OFFSET_DTYPE)], 0
        for run in runs:
            pieces.append(run.offsets[level][1:] + end)
            end += int(run.offsets[level][-1])
        offsets.append(np.concatenate(pieces))
    valid: list[Flags | None] = []
    for depth in range(max(len(run.valid) for run in runs)):
        flags = [run.valid_at(depth) for run in runs]
        whole = [
            np.ones(run.length(depth), VALID_DTYPE) if v is None else v for run, v in zip(runs, flags, strict=True)
        ]
        valid.append(None if all(v is None for v in flags) else np.concatenate(whole))
    shapes = np.concatenate([r.shapes for r in runs if r.shapes is not None]) if field.kind == "shaped" else None
    values = np.concatenate([r.values for r in runs])
    return FieldData(values, tuple(offsets), field.labels, shapes, valid_of(valid))


def valid_of(flags: Sequence[Flags | None]) -> tuple[Flags | None, ...]:
    """Flags by depth; none at all where nothing is missing at any."""
    return () if all(v is None for v in flags) else tuple(flags)
