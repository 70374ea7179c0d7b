"""`Picker`: single rows of a field with one level of offsets."""

from __future__ import annotations

import math
from typing import Any

import numpy.typing as npt

from mmdask.rows.reading.gathering import THESE
from mmdask.rows.reading.part import bad_offsets, bad_shape, read_part, whole_part
from mmdask.rows.reading.shapes import in_shape
from mmdask.schema import FieldData, empty
from mmdask.store.snapshot import Snapshot

__all__ = ["Picker"]


class Picker:
    """Rows one by one; quick while they are in the same part.

    Parameters
    ----------
    snapshot : Snapshot
        The store.
    name : str
        A ragged field of one level, a shaped field, or a string field without levels.
    """

    def __init__(self, snapshot: Snapshot, name: str) -> None:
        self.snapshot, self.name = snapshot, name
        self.field = snapshot.schema[name]
        self._part = 0, 0, empty(self.field)  # one value, which threads change as a whole

    def __call__(self, row: int) -> npt.NDArray[Any] | None:
        """The items of a store row, which must exist: a view where arrays are mapped; None for a missing row.

        A row of a shaped field has its shape, any other is ``(items, *shape)``.
        """
        first, end, run = self._part
        if not first <= row < end:
            first, end, run = self._part = self._part_of(row)
        i = row - first
        if run.valid and run.valid[0] is not None and not run.valid[0][i]:
            return None
        offsets = run.offsets[0]
        begin, stop = offsets.item(i), offsets.item(i + 1)
        if not 0 <= begin <= stop <= len(run.values):
            layer, _ = self.snapshot.stored(self.snapshot.part_of(row), self.name)
            raise bad_offsets(layer, self.name, len(run.values))
        items = run.values[begin:stop]
        if run.shapes is None:
            return items
        shape = run.shapes[i].tolist()
        if min(shape) < 0 or math.prod(shape) != len(items):
            raise bad_shape(THESE, self.name)
        return in_shape(self.field, items, shape)

    def _part_of(self, row: int) -> tuple[int, int, FieldData]:
        """The rows at hand from now on, from one to another: those of a part, or the row alone where none is mapped."""
        part = self.snapshot.part_of(row)
        first, end = self.snapshot.starts[part : part + 2].tolist()
        if self.snapshot.addressable:
            return first, end, whole_part(self.snapshot, self.field, part)
        return row, row + 1, read_part(self.snapshot, part, self.name, row - first, row - first + 1)
