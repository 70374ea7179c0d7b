"""The numbers of a cut flow: rows and sums of weights that pass each cut alone, all up to it, and all but it.

Pure: bits and values of some rows in, sums out. Sums of different rows are added in the order of the rows, so that the
result does not depend on who computed which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.kernels.once import once
from mmdask.rows.bits import PartBits, and_bits, count_bits, unpack

__all__ = ["Grouped", "Sums", "Tally", "add", "group", "side_by_side", "tally", "zeros"]

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]
#: span of integers that are counted in a table rather than sorted
_TABLE = 1 << 16


@dataclass(frozen=True)
class Sums:
    """Rows, their weights and the squares of these, each summed: arrays ``(groups, entries)``.

    `n` is int64, `w` and `w2` are float64, and None where rows have no weights.
    """

    n: npt.NDArray[np.int64]
    w: Floats | None = None
    w2: Floats | None = None

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.n + other.n, _sum(self.w, other.w), _sum(self.w2, other.w2))

    def map(self, change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> Sums:
        """The same change of each array."""
        return Sums(
            change(self.n), None if self.w is None else change(self.w), None if self.w2 is None else change(self.w2)
        )

    def at(self, groups: Codes, n_groups: int) -> Sums:
        """The same sums as those of other groups: group i becomes ``groups[i]`` of `n_groups`; others are zero."""
        return self.map(lambda array: _moved(array, groups, n_groups))


def side_by_side(sums: Sequence[Sums]) -> Sums:
    """Entries of some sums of the same groups, one after the other."""

    def joined(arrays: Sequence[Any]) -> Any:
        return None if any(a is None for a in arrays) else np.concatenate(arrays, axis=1)

    return Sums(joined([s.n for s in sums]), joined([s.w for s in sums]), joined([s.w2 for s in sums]))


def _moved(array: npt.NDArray[Any], groups: Codes, n_groups: int) -> npt.NDArray[Any]:
    out = np.zeros((n_groups, array.shape[1]), array.dtype)
    out[groups] = array
    return out


def _sum(a: Floats | None, b: Floats | None) -> Floats | None:
    if a is None or b is None:
        return None
    with np.errstate(all="ignore"):  # inf - inf is nan, as the user's weights have it
        return np.add(a, b)


@dataclass(frozen=True)
class Tally:
    """What passes, for each of `n` cuts.

    Attributes
    ----------
    alone : Sums ``(groups, n)``
        Rows that pass one cut, whatever the others say.
    together : Sums ``(groups, n + 1)``
        Entry k: rows that pass the first k cuts; entry 0 are all rows.
    others : Sums ``(groups, n)``
        Rows that pass all cuts but one ("N - 1").
    """

    alone: Sums
    together: Sums
    others: Sums

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.alone + other.alone, self.together + other.together, self.others + other.others)

    def at(self, groups: Codes, n_groups: int) -> Tally:
        """The same sums as those of other groups, as `Sums.at`."""
        return Tally(*(sums.at(groups, n_groups) for sums in (self.alone, self.together, self.others)))


@dataclass(frozen=True)
class Grouped:
    """A tally whose groups are those of some numbers, in any order; None is the group of rows that have none."""

    groups: tuple[int | None, ...]
    tally: Tally


def zeros(n_cuts: int, n_groups: int, *, weighted: bool) -> Tally:
    """The tally of no rows."""

    def sums(entries: int) -> Sums:
        shape = n_groups, entries
        n = np.zeros(shape, np.int64)
        return Sums(n, np.zeros(shape), np.zeros(shape)) if weighted else Sums(n)

    return Tally(sums(n_cuts), sums(n_cuts + 1), sums(n_cuts))


def tally(
    cuts: Sequence[PartBits],
    selected: PartBits,
    rows: int,
    *,
    weights: Floats | None = None,
    groups: Codes | None = None,
    n_groups: int = 1,
) -> Tally:
    """Count some rows. Without weights and groups on packed bits alone.

    Parameters
    ----------
    cuts : sequence of PartBits
        For each cut the bits of the rows that pass it, or True or False for all of them.
    selected : PartBits
        Which rows take part.
    rows : int
        How many rows there are.
    weights : numpy.ndarray, optional
        float64 ``(rows,)``. Those of rows that do not pass are not looked at, so that a nan is in no sum but its own.
    groups : numpy.ndarray, optional
        The group of each selected row, int64 ``(rows,)`` from 0 to `n_groups` - 1; one group by default.
    n_groups : int
        How many groups there are.

    Examples
    --------
    >>> a, b = (np.packbits(bits, bitorder="little") for bits in ([1, 1, 0], [1, 0, 1]))
    >>> t = tally([a, b], True, 3)
    >>> t.alone.n, t.together.n, t.others.n
    (array([[2, 2]]), array([[3, 2, 1]]), array([[2, 2]]))
    """
    upto = [selected]
    for bits in cuts:
        upto.append(and_bits(upto[-1], bits))
    others: list[PartBits] = []
    after: PartBits = True
    for before, bits in zip(reversed(upto[:-1]), reversed(cuts), strict=True):
        others.append(and_bits(before, after))
        after = and_bits(after, bits)
    others.reverse()
    alone = [and_bits(selected, bits) for bits in cuts]
    if weights is None and groups is None:
        return Tally(*(_counted(passing, rows) for passing in (alone, upto, others)))
    bins = _Bins(weights, _places_of(groups, selected, rows, n_groups), n_groups)
    return Tally(*_from_bins(bins, alone, upto, others, rows))


def _counted(passing: Sequence[PartBits], rows: int) -> Sums:
    counts = [rows * bits if isinstance(bits, bool) else count_bits(bits) for bits in passing]
    return Sums(np.array(counts, np.int64).reshape(1, -1))


# Weights are not summed once for each entry, but once for each of three ways to number the rows: by how many cuts they
# pass before one fails, by the only cut that fails, and, for eight cuts at a time, by which of these pass. The entries
# are sums of such bins. No bin is subtracted, so that a nan or infinity stays where it belongs.


@dataclass(frozen=True)
class _Bins:
    """Sums of weights of rows that have the same number, for each group."""

    weights: Floats | None
    places: Codes | None
    n_groups: int

    def sums(self, numbers: npt.NDArray[np.unsignedinteger[Any]], n: int) -> Sums:
        """Sums ``(groups, n)`` over the rows that have each number from 0 to `n` - 1."""
        at = numbers if self.places is None else self.places * n + numbers
        shape = self.n_groups, n

        def binned(weights: Floats | None) -> npt.NDArray[Any]:
            # Rows that are not selected are in a group behind the others.
            return np.bincount(at, weights, (self.n_groups + 1) * n)[: self.n_groups * n].reshape(shape)

        counts = binned(None).astype(np.int64)
        if self.weights is None:
            return Sums(counts)
        return Sums(counts, binned(self.weights).astype(np.float64), binned(self._squares).astype(np.float64))

    @once
    def _squares(self) -> Floats | None:
        return None if self.weights is None else np.square(self.weights)


def _places_of(groups: Codes | None, selected: PartBits, rows: int, n_groups: int) -> Codes | None:
    """The group of each row, `n_groups` for rows that are not selected; None where all are in group 0."""
    if selected is True:
        return groups
    places = np.zeros(rows, np.int64) if groups is None else groups.copy()
    places[slice(None) if selected is False else ~unpack(selected, 0, rows)] = n_groups
    return places


def _from_bins(
    bins: _Bins, alone: Sequence[PartBits], upto: Sequence[PartBits], others: Sequence[PartBits], rows: int
) -> tuple[Sums, Sums, Sums]:
    n = len(alone)
    with np.errstate(all="ignore"):  # what overflows or is no number is what the weights make of it
        passed = bins.sums(_numbers([(1, bits) for bits in upto[1:]], rows, n), n + 1)
        together = passed.map(lambda x: np.cumsum(x[:, ::-1], axis=1)[:, ::-1])
        only = [(k + 1, _without(bits, upto[-1])) for k, bits in enumerate(others)]
        failed = bins.sums(_numbers(only, rows, n), n + 1)
        but_one = failed.map(lambda x: x[:, 1:]) + passed.map(lambda x: x[:, -1:])
        each = [passed.map(lambda x: x[:, :0])]
        for first in range(0, n, 8):
            some = alone[first : first + 8]
            patterns = np.arange(1 << len(some))
            found = bins.sums(_numbers([(1 << j, bits) for j, bits in enumerate(some)], rows, 255), len(patterns))
            for j in range(len(some)):
                has = np.flatnonzero(patterns >> j & 1)
                each.append(found.map(lambda x, has=has: x[:, has].sum(axis=1, keepdims=True)))  # type: ignore[misc]
    return side_by_side(each), together, but_one


def _numbers(steps: Iterable[tuple[int, PartBits]], rows: int, highest: int) -> npt.NDArray[np.unsignedinteger[Any]]:
    """For each row the sum of the steps whose bit it has."""
    numbers: npt.NDArray[Any] = np.zeros(rows, np.min_scalar_type(highest))
    for step, bits in steps:
        if bits is True:
            numbers += numbers.dtype.type(step)
        elif bits is not False:
            numbers += unpack(bits, 0, rows).view(np.uint8) * numbers.dtype.type(step)
    return numbers


def _without(bits: PartBits, others: PartBits) -> PartBits:
    """Rows in `bits` that are not in `others`."""
    if others is False or bits is False:
        return bits
    if others is True:
        return False
    return np.bitwise_not(others) if bits is True else np.bitwise_and(bits, np.bitwise_not(others))


def group(values: npt.NDArray[Any], selected: Bools | None) -> tuple[list[int], Codes]:
    """The different values of the selected rows, ascending, and for each row the place of its value among them.

    Parameters
    ----------
    values : numpy.ndarray
        Booleans or integers ``(rows,)``.
    selected : numpy.ndarray, optional
        bool ``(rows,)``; all by default. Rows that are not selected have place 0.

    Examples
    --------
    >>> group(np.array([7, -1, 7]), None)
    ([-1, 7], array([1, 0, 1]))
    """
    chosen = values if selected is None else values[selected]
    if not len(chosen):
        return [], np.zeros(len(values), np.int64)
    low, high = int(chosen.min()), int(chosen.max())
    if high - low < _TABLE:
        # In 64 bits no difference wraps; unsigned ones are subtracted as such.
        wide = chosen.astype(np.uint64 if chosen.dtype.kind == "u" else np.int64)
        at = (wide - wide.dtype.type(low)).astype(np.int64)
        there = np.bincount(at) > 0
        found = [low + i for i in np.flatnonzero(there).tolist()]
        places = (np.cumsum(there) - 1)[at]
    else:
        different, places = np.unique(chosen, return_inverse=True)
        found = different.tolist()
    if selected is None:
        return found, places
    codes = np.zeros(len(values), np.int64)
    codes[selected] = places
    return found, codes


def add(a: Grouped, b: Grouped) -> Grouped:
    """The sums of two tallies of different rows, over the groups of both: numbers ascending, None last."""
    if a.groups == b.groups:
        return Grouped(a.groups, a.tally + b.tally)
    groups = tuple(sorted({*a.groups, *b.groups}, key=_order))
    place = {value: i for i, value in enumerate(groups)}

    def moved(x: Grouped) -> Tally:
        return x.tally.at(_places(x.groups, place), len(groups))

    return Grouped(groups, moved(a) + moved(b))


def _places(groups: Iterable[int | None], place: dict[int | None, int]) -> Codes:
    return np.array([place[value] for value in groups], np.int64)


def _order(value: int | None) -> tuple[bool, int]:
    return value is None, value or 0
