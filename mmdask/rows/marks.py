"""What is kept once per row beside the items of a field: which rows are there, and their shapes. Reads no items."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.rows.part import by_rows, check_flags, elements_at
from mmdask.rows.reader import by_part, runs
from mmdask.schema import SHAPE_DTYPE, VALID_DTYPE
from mmdask.store.layer import Layer
from mmdask.store.snapshot import Snapshot

__all__ = ["read_shapes", "read_valid", "take_shapes", "take_valid"]

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
