"""Rows of an input that pass a cut, as bits, and runs of a field with these rows alone."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from mmdask.rows.bits import count_bits, unpack
from mmdask.schema import FieldData

__all__ = ["Picked", "select"]

Bools = npt.NDArray[np.bool_]


class Picked:
    """Which rows from `start` on are kept; a bit each, so that large inputs fit into memory.

    Examples
    --------
    >>> p = Picked(100, [np.array([True, False]), np.array([False, True, True])])
    >>> p.rows, p.mask(102, 105).tolist(), p.any(101, 103)
    (3, [False, True, True], False)
    """

    def __init__(self, start: int, masks: Iterable[Bools]) -> None:
        self.start = start
        pieces: list[npt.NDArray[np.uint8]] = []
        rest = np.zeros(0, np.bool_)
        for mask in masks:
            # Bytes of bits are whole until the last run.
            mask = np.concatenate([rest, mask])
            whole = len(mask) & ~7
            pieces.append(np.packbits(mask[:whole], bitorder="little"))
            rest = mask[whole:]
        self._bits = np.concatenate([*pieces, np.packbits(rest, bitorder="little")])
        self.rows = count_bits(self._bits)

    def mask(self, start: int, stop: int) -> Bools:
        """The mask of rows `start` to `stop`."""
        return unpack(self._bits, start - self.start, stop - self.start)

    def any(self, start: int, stop: int) -> bool:
        """Whether one of the rows `start` to `stop` is kept."""
        return bool(self.mask(start, stop).any())


def select(data: FieldData, mask: Bools) -> FieldData:
    """The rows of a run where a mask is true; the run itself if it is true everywhere.

    Examples
    --------
    >>> data = FieldData(np.arange(4), (np.array([0, 1, 3, 4]),))
    >>> some = select(data, np.array([True, False, True]))
    >>> some.values, some.offsets
    (array([0, 3]), (array([0, 1, 2]),))
    """
    if mask.all():
        return data
    keep = mask
    offsets: list[npt.NDArray[np.int64]] = []
    valid: list[Bools | None] = []
    for depth, ends in enumerate(data.offsets):
        valid.append(_of(data.valid_at(depth), keep))
        counts = np.diff(ends)
        kept = np.zeros(int(np.count_nonzero(keep)) + 1, np.int64)
        np.cumsum(counts[keep], out=kept[1:])
        offsets.append(kept)
        keep = np.repeat(keep, counts)
    valid.append(_of(data.valid_at(len(data.offsets)), keep))
    shapes = None if data.shapes is None else data.shapes[mask]
    missing = tuple(valid) if any(v is not None for v in valid) else ()
    return FieldData(data.values[keep], tuple(offsets), data.labels, shapes, missing)


def _of(valid: Bools | None, keep: Bools) -> Bools | None:
    return None if valid is None else valid[keep]
