"""What is kept once per row beside the items of a field: whether it is there, its shape, how many items. Reads none."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.rows.reading.part import by_rows, check_flags, checked_counts, counts_at, elements_at, outer_offsets
from mmdask.rows.reading.where import by_part, runs
from mmdask.schema import SHAPE_DTYPE, VALID_DTYPE
from mmdask.store.layer import Layer
from mmdask.store.snapshot import Snapshot

__all__ = [
    "counts",
    "item_count",
    "item_counts",
    "read_counts",
    "read_shapes",
    "read_valid",
    "take_shapes",
    "take_valid",
]

Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def read_valid(snapshot: Snapshot, name: str, start: int, stop: int) -> Bools | None:
    """Which of the store rows `start` to `stop` of a field are not missing, bool; None where all are there."""
    pieces = [_valid(snapshot, part, name, slice(a, b)) for part, a, b in runs(snapshot, start, stop)]
    if all(piece is None for piece in pieces):
        return None
    lengths = [b - a for _, a, b in runs(snapshot, start, stop)]
    return np.concatenate([np.ones(n, VALID_DTYPE) if p is None else p for p, n in zip(pieces, lengths, strict=True)])


def take_valid(snapshot: Snapshot, name: str, rows: Int64s) -> Bools | None:
    """Which of the store rows of these numbers are not missing, bool; None where all are there."""
    found = None
    for part, here, local in by_part(snapshot, rows):
        valid = _valid(snapshot, part, name, local)
        if valid is not None:
            found = np.ones(len(rows), VALID_DTYPE) if found is None else found
            found[here] = valid
    return found


def _valid(snapshot: Snapshot, part: int, name: str, rows: slice | Int64s) -> Bools | None:
    made = by_rows(snapshot, part, name)
    if made is not None:
        return made[0].take_valid(*made[1:], _numbers(rows))
    layer, stored = snapshot.stored(part, name)
    number = stored.valid[0] if stored.valid else None
    return None if number is None else check_flags(layer.path, name, _rows(snapshot, layer, number, rows))


def read_shapes(snapshot: Snapshot, name: str, start: int, stop: int) -> Int64s:
    """Shapes of the store rows `start` to `stop` of a shaped field, int64 ``(rows, axes)``."""
    none = np.empty((0, snapshot.schema[name].axes), SHAPE_DTYPE)
    return np.concatenate([none, *(_shapes(snapshot, p, name, slice(a, b)) for p, a, b in runs(snapshot, start, stop))])


def take_shapes(snapshot: Snapshot, name: str, rows: Int64s) -> Int64s:
    """Shapes of the store rows of these numbers of a shaped field, int64 ``(rows, axes)``."""
    found = np.empty((len(rows), snapshot.schema[name].axes), SHAPE_DTYPE)
    for part, here, local in by_part(snapshot, rows):
        found[here] = _shapes(snapshot, part, name, local)
    return found


def _shapes(snapshot: Snapshot, part: int, name: str, rows: slice | Int64s) -> Int64s:
    made = by_rows(snapshot, part, name)
    if made is not None:
        return made[0].take_shapes(*made[1:], _numbers(rows))
    layer, stored = snapshot.stored(part, name)
    assert stored.shapes is not None
    shapes: Int64s = _rows(snapshot, layer, stored.shapes, rows)
    return shapes


def _numbers(rows: slice | Int64s) -> Int64s:
    return np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows


def _rows(snapshot: Snapshot, layer: Layer, number: int, rows: slice | Int64s) -> npt.NDArray[Any]:
    if isinstance(rows, slice):
        return snapshot.read(layer, number, rows.start, rows.stop)
    return elements_at(snapshot, layer, number, rows)


def item_count(snapshot: Snapshot, name: str, start: int, stop: int) -> int:
    """Items of a ragged field in store rows `start` to `stop`: the difference of two offsets per part."""
    total = 0
    for part, a, b in runs(snapshot, start, stop):
        if by_rows(snapshot, part, name) is not None:
            total += int(counts_at(snapshot, part, name, slice(a, b)).sum())
            continue
        layer, number, length = outer_offsets(snapshot, part, name)
        begin, end = (snapshot.read(layer, number, i, i + 1) for i in (a, b))
        total += int(checked_counts(layer, name, length, begin, end)[0])
    return total


def item_counts(snapshot: Snapshot, name: str, edges: Int64s) -> Int64s:
    """Items of a ragged field between store rows and those that follow, int64 ``(len(edges) - 1,)``.

    As `item_count` of each of many short runs; no run goes beyond the end of a part.
    """
    out = np.zeros(len(edges) - 1, np.int64)
    filled = np.flatnonzero(np.diff(edges))
    parts = np.searchsorted(snapshot.starts, edges[filled], side="right") - 1
    for part in np.unique(parts).tolist():
        here = filled[parts == part]
        begins, ends = edges[here] - snapshot.starts[part], edges[here + 1] - snapshot.starts[part]
        if by_rows(snapshot, part, name) is not None:
            sums = np.append(0, np.cumsum(counts_at(snapshot, part, name, slice(int(begins[0]), int(ends[-1])))))
            out[here] = sums[ends - begins[0]] - sums[begins - begins[0]]
            continue
        layer, number, length = outer_offsets(snapshot, part, name)
        offsets = elements_at(snapshot, layer, number, np.concatenate([begins, ends]))
        out[here] = checked_counts(layer, name, length, offsets[: len(here)], offsets[len(here) :])
    return out


def counts(snapshot: Snapshot, name: str, rows: Int64s) -> Int64s:
    """Items of a ragged field in each of these store rows, int64; reads offsets only."""
    out = np.empty(len(rows), np.int64)
    for part, here, local in by_part(snapshot, rows):
        out[here] = counts_at(snapshot, part, name, local)
    return out


def read_counts(snapshot: Snapshot, name: str, start: int, stop: int) -> Int64s:
    """Items of a ragged field in each of the store rows `start` to `stop`, int64; reads offsets only."""
    pieces = [np.zeros(0, np.int64)]
    for part, a, b in runs(snapshot, start, stop):
        pieces.append(counts_at(snapshot, part, name, slice(a, b)))
    return np.concatenate(pieces)
