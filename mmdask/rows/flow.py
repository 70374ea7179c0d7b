"""The numbers of a cut flow: rows and sums of weights that pass each cut alone, all up to it, and all but it.

Pure: bits and values of some rows in, sums out. Sums of different rows are added in the order of the rows, so that the
result does not depend on who computed which.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.rows.bits import PartBits, and_bits, count_bits, unpack

__all__ = ["Grouped", "Sums", "Tally", "add", "group", "tally", "zeros"]

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

    def at(self, groups: Codes, n_groups: int) -> Sums:
        """The same sums as those of other groups: group i becomes ``groups[i]`` of `n_groups`; others are zero."""
        moved = functools.partial(_moved, groups=groups, n_groups=n_groups)
        return Sums(
            moved(self.n), None if self.w is None else moved(self.w), None if self.w2 is None else moved(self.w2)
        )


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
    alone = [and_bits(selected, bits) for bits in cuts]

    def summed(passing: Sequence[PartBits]) -> Sums:
        entries = [_entry(bits, rows, weights, groups, n_groups) for bits in passing]
        return _joined(entries, n_groups, weighted=weights is not None)

    return Tally(summed(alone), summed(upto), summed(others[::-1]))


def _joined(entries: Sequence[Sums], n_groups: int, *, weighted: bool) -> Sums:
    """Sums of one entry each, side by side."""
    n = np.array([e.n for e in entries], np.int64).reshape(len(entries), n_groups).T
    if not weighted:
        return Sums(n)
    w, w2 = (
        np.array(a, np.float64).reshape(len(entries), n_groups).T
        for a in ([e.w for e in entries], [e.w2 for e in entries])
    )
    return Sums(n, w, w2)


def _entry(bits: PartBits, rows: int, weights: Floats | None, groups: Codes | None, n_groups: int) -> Sums:
    """The sums of the rows that pass: arrays ``(groups,)``."""
    if weights is None and groups is None:
        return Sums(np.array([rows * bits if isinstance(bits, bool) else count_bits(bits)]))
    if bits is False:
        none = np.zeros(n_groups)
        return Sums(none.astype(np.int64), none, none)
    mask = slice(None) if bits is True else unpack(bits, 0, rows)
    w = None if weights is None else weights[mask]
    if groups is None:
        assert w is not None
        with np.errstate(all="ignore"):
            return Sums(np.array([len(w)]), np.array([w.sum()]), np.array([(w * w).sum()]))
    codes = groups[mask]
    n = np.bincount(codes, minlength=n_groups).astype(np.int64)
    if w is None:
        return Sums(n)
    with np.errstate(all="ignore"):
        w_sums, w2_sums = (np.bincount(codes, x, n_groups).astype(np.float64) for x in (w, w * w))
    return Sums(n, w_sums, w2_sums)


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
