"""Offsets of a field on their way to a layer: not written as long as they are those of another field."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.schema import OFFSET_DTYPE
from mmdask.store.arrays.npy import ArraySpec, ArrayWriter

__all__ = ["OffsetsWriter"]

#: offsets that are compared at once, which stay in a core's cache
_PIECE = 1 << 15
#: first offsets that are kept in memory, to tell most others apart
_HEAD = 64


class OffsetsWriter(ArrayWriter):
    """A new file of offsets, or none: lists of one object have as many items each.

    What comes is compared with what another field has in these places, byte by byte. As long as it is the same nothing
    is written; where it first differs, what was left out is copied.

    Parameters
    ----------
    folder, file : str
        As of `ArrayWriter`.
    others : sequence of OffsetsWriter
        Of the layer, as they are known by the time that something comes.
    """

    def __init__(self, folder: str, file: str, others: Sequence[OffsetsWriter]) -> None:
        super().__init__(folder, file, OFFSET_DTYPE)
        self._others = others
        self._twin: OffsetsWriter | None = None
        #: whether it writes; else its rows are the first of its twin's, or nothing came but the 0 of all offsets
        self._writes = False
        self._head = b""

    def append(self, values: npt.NDArray[Any]) -> None:
        """Add offsets behind those already there."""
        if not self._writes:
            if not self.rows and len(values) == 1 and not values[0]:
                self._pass(values)
                return
            if (twin := self._find(values)) is not None:
                self._twin = twin
                self._pass(values)
                return
            self._write()
        if len(self._head) < _HEAD * OFFSET_DTYPE.itemsize:
            self._head += values[:_HEAD].tobytes()
        super().append(values)

    def _pass(self, values: npt.NDArray[Any]) -> None:
        self.rows += len(values)
        self.nbytes += values.nbytes

    def _find(self, values: npt.NDArray[Any]) -> OffsetsWriter | None:
        """Whose offsets are the same up to here, `values` included."""
        head = b"" if self._twin else bytes(OFFSET_DTYPE.itemsize) + values[:_HEAD].tobytes()
        for other in [*([self._twin] if self._twin else []), *self._others]:
            n = min(len(head), len(other._head))
            if not other._writes or other.rows < self.rows + len(values) or other._head[:n] != head[:n]:
                continue
            if other._has(values, self.rows) and (self._twin is other or self._is_begin_of(other)):
                return other
        return None

    def _has(self, values: npt.NDArray[Any], first: int) -> bool:
        """Whether these are its offsets from a row on."""
        was_open = self._fd >= 0
        pieces = (values[at : at + _PIECE] for at in range(0, len(values), _PIECE))
        rows = itertools.count(first, _PIECE)
        same = all(bool((self._rows(row, len(p)) == p).all()) for row, p in zip(rows, pieces, strict=False))
        if not was_open:
            self.close()
        return same

    def _is_begin_of(self, other: OffsetsWriter) -> bool:
        return all(other._has(self._rows(row, n), row) for row, n in self._pieces())

    def _pieces(self) -> list[tuple[int, int]]:
        """What came so far, in pieces."""
        return [(row, min(_PIECE, self.rows - row)) for row in range(0, self.rows, _PIECE)]

    def _rows(self, first: int, n: int) -> npt.NDArray[np.int64]:
        """Some of the offsets that came so far."""
        size = OFFSET_DTYPE.itemsize
        if not self._writes and self._twin is None:
            return np.zeros(n, OFFSET_DTYPE)
        return np.frombuffer((self._twin or self).read(first * size, n * size), OFFSET_DTYPE)

    def _write(self) -> None:
        """Write from now on, and first what came so far."""
        pieces = self._pieces()
        self.rows = self.nbytes = 0
        self._writes = True
        for row, n in pieces:
            self.append(self._rows(row, n) if self._twin else np.zeros(n, OFFSET_DTYPE))
        self._twin = None

    def leave(self, other: OffsetsWriter) -> None:
        """Write on alone if `other` has its offsets, which is going to be removed."""
        if self._twin is other:
            self._write()

    def settled(self) -> OffsetsWriter:
        """Who has all its offsets in a file: itself, or another."""
        if self._twin is not None and self._twin.rows == self.rows:
            return self._twin
        if not self._writes:
            self._write()
        return self

    def end(self) -> None:
        """As of `ArrayWriter`; nothing is done for offsets that are not written."""
        if self._writes:
            super().end()

    def finish(self) -> ArraySpec:
        """As of `ArrayWriter`, of a file of its own."""
        if not self._writes:
            self._write()
        return super().finish()
