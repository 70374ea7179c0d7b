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
    value shares it. `there`: of values of items, which rows have their list at all; None if every row has.
    """

    array: Array
    offsets: Offsets | None = None
    known: Bools | None = None
    origin: str = ""
    data: FieldData | None = None
    scratch: bool = False
    there: Bools | None = None


class Aligned(NamedTuple):
    """Arrays that broadcast to each other, where each is known, and which rows have a list in all of them."""

    arrays: list[Array]
    known: list[Bools | None]
    offsets: Offsets | None
    origin: str
    there: Bools | None = None

    def value(self, values: Array, known: Bools | None, *, scratch: bool = False) -> Value:
        """What was made of the arrays, element by element."""
        return Value(values, self.offsets, known, self.origin, scratch=scratch, there=self.there)


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
        self._pairs: dict[tuple[int, int], tuple[Offsets, Offsets]] = {}

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
        there = all_known([a.there for a in ragged])
        if not all(self._equal(ragged[0], other) for other in ragged[1:]):
            args = self._common(args, there)
        first = next(a for a in args if a.offsets is not None)
        offsets = first.offsets
        assert offsets is not None
        if len(ragged) == len(args):
            return Aligned([a.array for a in args], [a.known for a in args], offsets, first.origin, there)
        counts = np.diff(offsets)
        arrays = [a.array if a.offsets is not None else _repeated(a.array, counts) for a in args]
        known = [a.known if a.offsets is not None or a.known is None else _repeated(a.known, counts) for a in args]
        return Aligned(arrays, known, offsets, first.origin, there)

    def _equal(self, a: Value, b: Value) -> bool:
        """Whether two values have equal offsets."""
        assert a.offsets is not None
        assert b.offsets is not None
        pair = (id(a.offsets), id(b.offsets))
        if a.offsets is b.offsets or pair in self._pairs:
            return True
        if not np.array_equal(a.offsets, b.offsets):
            return False
        self._pairs[pair] = (a.offsets, b.offsets)
        return True

    def _common(self, args: Sequence[Value], there: Bools | None) -> list[Value]:
        """Values of items with those alone whose rows have a list in all of them: there the counts must be equal."""
        first: Value | None = None
        expected: Any = None
        offsets = np.zeros(self.rows + 1, np.int64)
        found = []
        for a in args:
            if a.offsets is None:
                found.append(a)
                continue
            all_counts = np.diff(a.offsets)
            counts = all_counts if there is None else np.where(there, all_counts, 0)
            if first is None:
                first, expected = a, counts
                np.cumsum(counts, out=offsets[1:])
            elif (counts != expected).any():
                row = int(np.argmax(counts != expected))
                raise ExpressionError(
                    f"{first.origin!r} and {a.origin!r} have different numbers of items, so they cannot be combined "
                    f"item by item: row {self.first_row + row} has {expected[row]} and {counts[row]}"
                )
            kept = slice(None) if there is None else np.repeat(there, all_counts)
            known = None if a.known is None else a.known[kept]
            found.append(a._replace(array=a.array[kept], offsets=offsets, known=known, scratch=False))
        return found

    def without_lost(self, value: Value) -> Value:
        """A value of items without those of rows that have no list: rows of a fixed length store some."""
        assert value.offsets is not None
        assert value.there is not None
        if not (np.diff(value.offsets)[~value.there]).any():
            return value
        [kept] = self._common([value], value.there)
        return kept

    def row_of(self, place: int, offsets: Offsets | None) -> int:
        """The number of the row that a value or an item belongs to."""
        row = place if offsets is None else int(np.searchsorted(offsets, place, "right")) - 1
        return self.first_row + row


def _repeated(rows: Array, counts: npt.NDArray[np.int64]) -> Array:
    return rows if len(rows) == 1 and len(counts) != 1 else np.repeat(rows, counts)


def length(a: Array, b: Array) -> int:
    """The length of two arrays together, where one of length 1 repeats."""
    return len(b) if len(a) == 1 else len(a)
