"""Values of a block while it is evaluated, and how values of rows and of items come together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mmdask.errors import ExpressionError
from mmdask.schema import FieldData

__all__ = ["SCRATCH", "Aligned", "Block", "Value", "all_known", "length"]

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
Offsets = npt.NDArray[np.int64]


class Value(NamedTuple):
    """One value per row (`offsets` None; an array of length 1 stands for all rows), or one per item.

    `array` holds anything where `known` is False, but booleans are False there. `origin` is the ragged field that the
    offsets came from; `data` is kept for text and categories. `scratch`: the array is from `Scratch`, and no other
    value shares it.
    """

    array: Array
    offsets: Offsets | None = None
    known: Bools | None = None
    origin: str = ""
    data: FieldData | None = None
    scratch: bool = False


class Aligned(NamedTuple):
    """Arrays that broadcast to each other, and where each is known."""

    arrays: list[Array]
    known: list[Bools | None]
    offsets: Offsets | None
    origin: str


class Scratch(threading.local):
    """Arrays for values that live within one evaluation, kept by the thread for the next block.

    Memory fresh from the system costs several times what is computed in it: each page is cleared at its first use.
    """

    LARGEST, MOST = 2**26, 4

    def __init__(self) -> None:
        self.free: dict[int, list[Array]] = {}

    def take(self, n: int, dtype: np.dtype[Any]) -> Array:
        """An array ``(n,)`` with anything in it."""
        nbytes = n * dtype.itemsize
        size = 1 << max(12, (nbytes - 1).bit_length())
        free = self.free.get(size)
        buffer = free.pop() if free else np.empty(size, np.uint8)
        return buffer[:nbytes].view(dtype)

    def give(self, array: Array) -> None:
        """Take back an array of `take` that nothing refers to any more."""
        buffer = array.base
        assert isinstance(buffer, np.ndarray)
        free = self.free.setdefault(len(buffer), [])
        if len(free) < self.MOST and len(buffer) <= self.LARGEST:
            free.append(buffer)


SCRATCH = Scratch()
BOOL = np.dtype(np.bool_)


def all_known(known: Sequence[Bools | None]) -> Bools | None:
    """Where all are known; None if everywhere."""
    found: Bools | None = None
    for k in known:
        if k is not None:
            found = k if found is None else found & k
    return found


class Block:
    """The rows that are evaluated: how to read their fields, and which offsets are known to be equal."""

    def __init__(self, read: Callable[[str], FieldData], rows: int, first_row: int) -> None:
        self.read = read
        self.rows = rows
        self.first_row = first_row
        self._regular: dict[int, Offsets] = {}
        # pairs of arrays found equal; holding them keeps their ids their own
        self._equal: dict[tuple[int, int], tuple[Offsets, Offsets]] = {}

    def regular(self, n_items: int) -> Offsets:
        """The offsets of rows that all have the same number of items."""
        if n_items not in self._regular:
            self._regular[n_items] = np.arange(self.rows + 1, dtype=np.int64) * n_items
        return self._regular[n_items]

    def align(self, args: Sequence[Value]) -> Aligned:
        """Bring values together: repeat those of rows for the items, if there are any."""
        ragged = [a for a in args if a.offsets is not None]
        if not ragged:
            return Aligned([a.array for a in args], [a.known for a in args], None, "")
        first = ragged[0]
        offsets = first.offsets
        assert offsets is not None
        for other in ragged[1:]:
            self._check_equal(first, other)
        if len(ragged) == len(args):
            return Aligned([a.array for a in args], [a.known for a in args], offsets, first.origin)
        counts = np.diff(offsets)
        arrays = [a.array if a.offsets is not None else _repeated(a.array, counts) for a in args]
        known = [a.known if a.offsets is not None or a.known is None else _repeated(a.known, counts) for a in args]
        return Aligned(arrays, known, offsets, first.origin)

    def _check_equal(self, a: Value, b: Value) -> None:
        assert a.offsets is not None
        assert b.offsets is not None
        pair = (id(a.offsets), id(b.offsets))
        if a.offsets is b.offsets or pair in self._equal:
            return
        if not np.array_equal(a.offsets, b.offsets):
            counts_a, counts_b = np.diff(a.offsets), np.diff(b.offsets)
            row = int(np.flatnonzero(counts_a != counts_b)[0])
            raise ExpressionError(
                f"{a.origin!r} and {b.origin!r} have different numbers of items, so they cannot be combined item by "
                f"item: row {self.first_row + row} has {counts_a[row]} and {counts_b[row]}"
            )
        self._equal[pair] = (a.offsets, b.offsets)

    def row_of(self, place: int, offsets: Offsets | None) -> int:
        """The number of the row that a value or an item belongs to."""
        row = place if offsets is None else int(np.searchsorted(offsets, place, "right")) - 1
        return self.first_row + row


def _repeated(rows: Array, counts: npt.NDArray[np.int64]) -> Array:
    return rows if len(rows) == 1 and len(counts) != 1 else np.repeat(rows, counts)


def length(a: Array, b: Array) -> int:
    """The length of two arrays together, where one of length 1 repeats."""
    return len(b) if len(a) == 1 else len(a)
