"""Values of a block while it is evaluated, and how values of rows, of items and of items in items come together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mmdask.errors import ExpressionError
from mmdask.schema import FieldData

__all__ = ["SCRATCH", "Aligned", "Block", "Value", "all_known", "emptied", "length", "offsets_of", "taken"]

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
Bits = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int64]


class Value(NamedTuple):
    """One value per row (no `offsets`; an array of length 1 stands for all rows), or one per item.

    `offsets` are those of each level, outermost first. `array` holds anything where `known` is False, but booleans are
    False there. `origin` is the field that the offsets came from; `data` is kept for categories and text, of which
    `array` holds the places. `scratch`: the array is from `Scratch`, and no other value shares it. `there`: for each
    level, which of its lists there are at all, None for all; empty if none is missing. A list that is missing has no
    items.
    """

    array: Array
    offsets: tuple[Offsets, ...] = ()
    known: Bools | None = None
    origin: str = ""
    data: FieldData | None = None
    scratch: bool = False
    there: tuple[Bools | None, ...] = ()

    def there_at(self, level: int) -> Bools | None:
        """Which lists of a level there are; None for all."""
        return self.there[level] if self.there else None


class Aligned(NamedTuple):
    """Arrays that broadcast to each other, where each is known, and which lists there are in all of them."""

    arrays: list[Array]
    known: list[Bools | None]
    offsets: tuple[Offsets, ...]
    origin: str
    there: tuple[Bools | None, ...] = ()

    def value(self, values: Array, known: Bools | None, *, scratch: bool = False) -> Value:
        """What was made of the arrays, element by element."""
        if known is not None and len(known) != len(values):
            known = np.broadcast_to(known, values.shape)
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
        self._regular: dict[tuple[int, int], Offsets] = {}
        # pairs of arrays found equal; holding them keeps their ids their own
        self._pairs: dict[tuple[int, int], tuple[Offsets, Offsets]] = {}

    def regular(self, n_lists: int, n_items: int) -> Offsets:
        """The offsets of lists that all have the same number of items."""
        if (n_lists, n_items) not in self._regular:
            self._regular[n_lists, n_items] = np.arange(n_lists + 1, dtype=np.int64) * n_items
        return self._regular[n_lists, n_items]

    def align(self, args: Sequence[Value]) -> Aligned:
        """Bring values together: those of outer levels are repeated for the items within."""
        depth = max([len(a.offsets) for a in args])
        if not depth:
            return Aligned([a.array for a in args], [a.known for a in args], (), "")
        args, there = self.common(args)
        deepest = next(a for a in args if len(a.offsets) == depth)
        arrays = [a.array for a in args]
        known = [a.known for a in args]
        counts: dict[int, Array] = {}
        for i, a in enumerate(args):
            outer = len(a.offsets)
            if outer == depth:
                continue
            if outer not in counts:
                counts[outer] = np.diff(_composed(deepest.offsets[outer:]))
            arrays[i] = _repeated(a.array, counts[outer])
            known[i] = None if a.known is None else _repeated(a.known, counts[outer])
        return Aligned(arrays, known, deepest.offsets, deepest.origin, there)

    def common(self, args: Sequence[Value]) -> tuple[Sequence[Value], tuple[Bools | None, ...]]:
        """Values of which all have the same offsets at the levels that they share, and which lists all of them have.

        Lists that are missing in one of them are empty in all; where counts differ otherwise, there is an error.
        """
        ragged = [a for a in args if a.offsets]
        deepest = max(ragged, key=lambda a: len(a.offsets), default=None)
        if deepest is not None and not all(self._equal(deepest, a) for a in ragged):
            args = self._emptied_alike(args)
            ragged = [a for a in args if a.offsets]
        if not any(a.there for a in ragged):
            return args, ()
        depth = max([len(a.offsets) for a in args])
        there = [all_known([a.there_at(k) for a in ragged if len(a.offsets) > k]) for k in range(depth)]
        return args, tuple(there)

    def _equal(self, a: Value, b: Value) -> bool:
        return self.alike(a.offsets, b.offsets)

    def alike(self, a: Sequence[Offsets], b: Sequence[Offsets]) -> bool:
        """Whether offsets are equal at the levels that both have."""
        return all(self._same(x, y) for x, y in zip(a, b, strict=False))

    def _same(self, a: Offsets, b: Offsets) -> bool:
        pair = (id(a), id(b))
        if a is b or pair in self._pairs:
            return True
        if not np.array_equal(a, b):
            return False
        self._pairs[pair] = (a, b)
        return True

    def _emptied_alike(self, args: Sequence[Value]) -> list[Value]:
        found = list(args)
        for level in range(max(len(a.offsets) for a in args)):
            inside = [i for i, a in enumerate(found) if len(a.offsets) > level]
            there = all_known([found[i].there_at(level) for i in inside])
            if there is not None:
                for i in inside:
                    found[i] = emptied(found[i], level, there)
            for i in inside[1:]:
                if not self._same(found[inside[0]].offsets[level], found[i].offsets[level]):
                    raise self._different(found[inside[0]], found[i], level)
        return found

    def _different(self, a: Value, b: Value, level: int) -> ExpressionError:
        counts = np.diff(a.offsets[level]), np.diff(b.offsets[level])
        place = int(np.argmax(counts[0] != counts[1]))
        n, other = int(counts[0][place]), int(counts[1][place])
        within = ""
        for offsets in reversed(a.offsets[:level]):
            outer = int(np.searchsorted(offsets, place, "right")) - 1
            within = f"[{place - int(offsets[outer])}]{within}"
            place = outer
        where = f"row {self.first_row + place}"
        where = f"in {where}, list {within}" if within else where
        return ExpressionError(
            f"{a.origin!r} and {b.origin!r} have different numbers of items, so they cannot be combined item by item: "
            f"{where} has {n} and {other}"
        )

    def row_of(self, place: int, offsets: Sequence[Offsets]) -> int:
        """The number of the row that a value or an item belongs to."""
        for level in reversed(offsets):
            place = int(np.searchsorted(level, place, "right")) - 1
        return self.first_row + place


def _composed(offsets: Sequence[Offsets]) -> Offsets:
    """Where the items of the innermost level begin for each list of the outermost."""
    found = offsets[0]
    for inner in offsets[1:]:
        found = inner[found]
    return found


def _repeated(outer: Array, counts: Array) -> Array:
    return outer if len(outer) == 1 and len(counts) != 1 else np.repeat(outer, counts)


def offsets_of(counts: Array) -> Offsets:
    """The offsets of lists with these numbers of items."""
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def taken(x: Value, depth: int, places: Array) -> Value:
    """The elements of a value at a depth from 1 on that stand at some places, with all that is in them.

    The result has the levels from `depth` on alone.
    """
    offsets, there = [], []
    for level in range(depth, len(x.offsets)):
        lists = x.there_at(level)
        there.append(None if lists is None else lists[places])
        starts = x.offsets[level][places]
        counts = x.offsets[level][places + 1] - starts
        offsets.append(offsets_of(counts))
        places = np.repeat(starts - offsets[-1][:-1], counts) + np.arange(offsets[-1][-1])
    known = None if x.known is None else x.known[places]
    return x._replace(array=x.array[places], offsets=tuple(offsets), known=known, there=tuple(there), scratch=False)


def emptied(x: Value, level: int, there: Bools) -> Value:
    """A value without what is in the lists of a level that are not `there`; these are marked as missing."""
    counts = np.diff(x.offsets[level])
    lists = list(x.there or (None,) * len(x.offsets))
    lists[level] = there
    if not counts[~there].any():
        return x._replace(there=tuple(lists))
    inner = taken(x, level + 1, np.flatnonzero(np.repeat(there, counts)))
    offsets = (*x.offsets[:level], offsets_of(np.where(there, counts, 0)), *inner.offsets)
    return inner._replace(offsets=offsets, there=(*lists[: level + 1], *inner.there))


def length(a: Array, b: Array) -> int:
    """The length of two arrays together, where one of length 1 repeats."""
    return len(b) if len(a) == 1 else len(a)
