"""Lists of many parts, in any order, copied to where they are wanted, as they are or with padding.

A field is one array per part; `starts` says at which row each part begins. One compiled call serves all parts and all
dtypes, since it moves bytes between addresses. Every row number is checked before, every offset while it is read.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.errors import CorruptStoreError, OptionError
from mmdask.kernels.addresses import (
    Parts,
    Table,
    address_of,
    check_padded,
    checked_rows,
    missing_part,
    view_of,
    width_of,
)
from mmdask.kernels.dense import LOCATE, copy_runs, expand, least_parts, locate, move
from mmdask.kernels.jit import Kernel
from mmdask.kernels.spread import spread

__all__ = ["Runs", "pad_ragged", "pad_runs", "take_nested", "take_ragged", "take_runs"]

Int64s = npt.NDArray[np.int64]


def take_ragged(
    values: Parts, offsets: Parts, starts: Int64s, rows: Int64s, *, like: npt.NDArray[Any] | None = None
) -> tuple[Int64s, npt.NDArray[Any]]:
    """Copy rows of a ragged field, one after the other.

    Parameters
    ----------
    values : sequence of numpy.ndarray or None
        Per part ``(items, *shape)``, C-contiguous. None for a part that no row lies in.
    offsets : sequence of numpy.ndarray or None
        Per part int64 ``(rows of the part + 1,)``, cumulative, starting at 0.
    starts, rows : numpy.ndarray
        As for `take_rows`.
    like : numpy.ndarray, optional
        An array of the dtype and item shape of the values, for when no part is given.

    Returns
    -------
    offsets : numpy.ndarray
        int64 ``(n + 1,)``.
    values : numpy.ndarray
        ``(offsets[-1], *shape)``, a new array.

    Raises
    ------
    CorruptStoreError
        When the offsets of one of the rows are not ``0 <= o[i] <= o[i + 1] <= items``; it names the row.
    RowNotFoundError
        When a row is negative or past the end.
    OptionError
        When arrays do not fit each other.

    Examples
    --------
    >>> values, offsets = np.arange(6), np.array([0, 2, 2, 6])
    >>> take_ragged([values], [offsets], np.array([0, 3]), np.array([2, 1, 0]))
    (array([0, 4, 4, 6]), array([2, 3, 4, 5, 0, 1]))
    """
    levels, packed = take_nested(values, [offsets], starts, rows, like=like)
    return levels[0], packed


def take_nested(
    values: Parts,
    levels: Sequence[Parts],
    starts: Int64s,
    rows: Int64s,
    *,
    like: npt.NDArray[Any] | None = None,
) -> tuple[tuple[Int64s, ...], npt.NDArray[Any]]:
    """Copy rows of a field with any number of levels of offsets, outermost first; else as `take_ragged`."""
    like = _like(values, like)
    runs = Runs(starts, rows, len(values))
    taken = [runs.follow(level, below, offsets=True) for level, below in itertools.pairwise(levels)]
    taken.append(runs.follow(levels[-1], values))
    return tuple(taken), runs.copy(values, like)


def take_runs(values: npt.NDArray[Any], first: Int64s, count: Int64s) -> npt.NDArray[Any]:
    """Copy runs of elements of one array, one after the other.

    Parameters
    ----------
    values : numpy.ndarray
        ``(n, *shape)``; copied first unless it is C-contiguous.
    first, count : numpy.ndarray
        int64 ``(runs,)``: where each run begins, and how many elements it has, all of which there are.

    Examples
    --------
    >>> take_runs(np.arange(6), np.array([4, 0]), np.array([2, 1]))
    array([4, 5, 0])
    """
    values = np.ascontiguousarray(values)
    out = np.empty((int(count.sum()), *values.shape[1:]), values.dtype)
    if out.nbytes:
        part = np.zeros(len(first), np.int64)
        width = width_of(values.dtype, values.shape[1:])
        copy_runs(np.array([address_of(values)]), part, first, count, address_of(out), width)
    return out


def pad_ragged(
    values: Parts,
    offsets: Parts,
    starts: Int64s,
    rows: Int64s,
    out: npt.NDArray[Any],
    mask: npt.NDArray[np.bool_] | None = None,
    left: bool = False,
    *,
    fill: Any = 0,
) -> Int64s:
    """Copy rows of a ragged field into rows of one length.

    Parameters
    ----------
    values, offsets, starts, rows
        As for `take_ragged`.
    out : numpy.ndarray
        ``(n, length, *shape)``, C-contiguous, of which all is written. Items past `length` are cut.
    mask : numpy.ndarray, optional
        bool ``(n, length)``, C-contiguous; set to True where `out` holds an item, to False elsewhere.
    left : bool
        Whether the padding comes before the items, not after.
    fill : scalar
        The padding.

    Returns
    -------
    numpy.ndarray
        int64 ``(n,)``: the lengths before cutting.

    Raises
    ------
    CorruptStoreError, RowNotFoundError, OptionError
        As `take_ragged`.

    Examples
    --------
    >>> values, offsets, out = np.arange(6), np.array([0, 2, 2, 6]), np.empty((3, 3), int)
    >>> pad_ragged([values], [offsets], np.array([0, 3]), np.array([2, 1, 0]), out, fill=-1)
    array([4, 0, 2])
    >>> out
    array([[ 2,  3,  4],
           [-1, -1, -1],
           [ 0,  1, -1]])
    """
    runs = Runs(starts, rows, len(values))
    runs.follow_and_pad(offsets, values, out, mask, left, fill)
    return runs.count


def pad_runs(
    values: npt.NDArray[Any],
    offsets: Int64s,
    out: npt.NDArray[Any],
    mask: npt.NDArray[np.bool_] | None = None,
    left: bool = False,
    *,
    fill: Any = 0,
) -> None:
    """Copy rows of a ragged field, all of one array and in their order, into rows of one length; as `pad_ragged`.

    Raises
    ------
    OptionError
        When `offsets` lead out of `values`, or arrays do not fit each other.

    Examples
    --------
    >>> out = np.empty((2, 2), int)
    >>> pad_runs(np.arange(1, 5), np.array([0, 1, 4]), out)
    >>> out
    array([[1, 0],
           [2, 3]])
    """
    padded = _Padded(out, mask, len(offsets) - 1, left, fill)
    table = Table([values], out.dtype, out.shape[2:], None)
    first, count = np.ascontiguousarray(offsets[:-1]), np.diff(offsets)
    if len(count):
        if count.min() < 0 or first[0] < 0 or offsets[-1] > len(values):
            raise OptionError(f"offsets are ascending from 0 to {len(values)} at most")
        part = np.zeros(len(count), np.int64)
        padded.runs(table.addresses, np.array([len(values)]), part, first, count)


class _Padded:
    """Rows of one length, as the loops take them: addresses of arrays that are held here."""

    def __init__(
        self, out: npt.NDArray[Any], mask: npt.NDArray[np.bool_] | None, n: int, left: bool, fill: Any
    ) -> None:
        check_padded(out, mask, n)
        row = np.full(out.shape[1:], fill, out.dtype).reshape(-1).view(np.uint8) if out.size else np.empty(0, np.uint8)
        self._held = out, mask, np.concatenate([row, np.zeros(BLOCK, np.uint8)])  # padding is read in whole blocks
        to = 0 if mask is None or not mask.size else address_of(mask)
        width = width_of(out.dtype, out.shape[2:])
        self._args = address_of(out), width, to, out.shape[1], bool(left), address_of(self._held[2])

    def runs(self, addresses: Int64s, limits: Int64s, part: Int64s, first: Int64s, count: Int64s) -> None:
        """Write rows whose items are known."""
        spread(len(part), lambda a, b: PAD_RUNS(addresses, limits, part[a:b], first[a:b], count[a:b], *self.args(a)))

    def args(self, row: int) -> tuple[int, int, int, int, bool, int]:
        """The last arguments of the loops that write rows from this one on."""
        out, width, mask, length, left, fill = self._args
        return out + row * length * width, width, mask and mask + row * length, length, left, fill


class Runs:
    """Where the elements of each row lie: a run of `count` from `first` of its part, level after level.

    At first they are the rows themselves; each call of `follow` goes on to what these hold.

    Parameters
    ----------
    starts, rows : numpy.ndarray
        As for `take_rows`.
    n_parts : int
        How many there are.

    Raises
    ------
    RowNotFoundError
        When a row is negative or past the end.
    """

    def __init__(self, starts: Int64s, rows: Int64s, n_parts: int) -> None:
        rows = checked_rows(rows, starts, n_parts)
        self.starts = starts
        self.rows = rows
        self.part = np.empty(len(rows), np.int64)
        self.first = np.empty(len(rows), np.int64)
        self.count = np.empty(len(rows), np.int64)
        self.total = len(rows)
        self.elements = np.diff(starts)  # of this level, in each part
        self._located = not len(rows)
        self._is_rows = True  # whether the elements of this level are the rows, one each

    def _locate(self) -> None:
        if not self._located:
            locate(self.starts, self.rows, self.part, self.first)
            self.count.fill(1)
            self._located = True

    def follow(self, levels: Parts, below: Parts, *, offsets: bool = False) -> Int64s:
        """Go on from the elements of this level to those of the next, and return the offsets, int64 ``(total + 1,)``.

        Parameters
        ----------
        levels : sequence of numpy.ndarray or None
            Per part the offsets of this level.
        below : sequence of numpy.ndarray or None
            What they index: the values, or with `offsets` the offsets of the next level.

        Raises
        ------
        CorruptStoreError, OptionError
            As `take_ragged`.
        """
        self._locate()
        table = Table(levels, np.dtype(np.int64), (), self.elements + 1)
        limits = _lengths(below, offsets)
        out = np.zeros(self.total + 1, np.int64)
        if len(self.rows):
            self._check(self._followed(table.addresses, limits, out), limits)
        self.total = int(out[-1])
        self.elements = limits
        return out

    def _followed(self, addresses: Int64s, limits: Int64s, out: Int64s) -> int:
        """Write offsets, and where elements lie; returns what the loop does."""

        def piece(a: int, b: int, to: Int64s) -> int:
            bad: int = FOLLOW(addresses, limits, self.part[a:b], self.first[a:b], self.count[a:b], to)
            return _of_piece(bad, a)

        n = len(self.rows)
        if not self._is_rows:  # elsewhere it is the loop that finds how many elements come before
            return piece(0, n, out)
        self._is_rows = False
        # Each piece begins at 0, in the place where the one before it ends.
        ends: dict[int, Int64s] = {}

        def apart(a: int, b: int) -> int:
            ends[a] = np.zeros(b - a + 1, np.int64) if a else out[: b + 1]
            return piece(a, b, ends[a])

        bad = _first_bad(spread(n, apart))
        if bad == -1:
            for a in sorted(ends)[1:]:
                np.add(ends[a][1:], out[a], out=out[a + 1 : a + len(ends[a])])
        return bad

    def follow_and_pad(
        self,
        offsets: Parts,
        values: Parts,
        out: npt.NDArray[Any],
        mask: npt.NDArray[np.bool_] | None = None,
        left: bool = False,
        fill: Any = 0,
    ) -> None:
        """The first `follow`, to values, and `pad`, in one pass over the rows; see `pad_ragged`."""
        padded = _Padded(out, mask, len(self.rows), left, fill)
        found = Table(offsets, np.dtype(np.int64), (), self.elements + 1)
        table = Table(values, out.dtype, out.shape[2:], None)
        limits = _lengths(values)
        if len(self.rows):
            least, shift = least_parts(self.starts)

            def piece(a: int, b: int) -> int:
                where = self.rows[a:b], self.part[a:b], self.first[a:b], self.count[a:b]
                tables = found.addresses, table.addresses, limits, self.starts, least, shift
                return _of_piece(PAD_ROWS(*tables, *where, *padded.args(a)), a)

            self._check(_first_bad(spread(len(self.rows), piece)), limits)
        self._located, self._is_rows, self.elements = True, False, limits
        self.total = int(self.count.sum())

    def _check(self, bad: int, limits: Int64s) -> None:
        """Raise for the row that a loop stopped at."""
        if bad < -1:
            raise self.missing(-2 - bad)
        if bad >= 0:
            part = int(np.searchsorted(self.starts, self.rows[bad], side="right")) - 1
            raise CorruptStoreError(
                f"row {self.rows[bad]}: its offsets are not 0 <= begin <= end <= {limits[part]}; "
                "the store is damaged, mm.verify names the file"
            )

    def narrow(self, begin: Int64s, count: Int64s) -> Int64s:
        """Keep `count` elements of each row, from its element `begin` on, and return the offsets of what is kept.

        Only behind the first `follow`: further down, the elements of a row that are kept are no single run.

        Raises
        ------
        CorruptStoreError
            When a row has fewer elements; callers know how many there should be.
        """
        wrong = (begin < 0) | (count < 0) | (begin > self.count - count)
        if wrong.any():
            i = int(np.argmax(wrong))
            raise CorruptStoreError(
                f"row {self.rows[i]} has {self.count[i]} items, fewer than counted before; the store is damaged, "
                "mm.verify names the file"
            )
        self.first = self.first + begin
        self.count = count.astype(np.int64)  # a copy: `follow` writes into it
        out = np.zeros(len(count) + 1, np.int64)
        np.cumsum(self.count, out=out[1:])
        self.total = int(out[-1])
        return out

    def copy(self, values: Parts, like: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The values of the elements, one after the other: a new array of the dtype and item shape of `like`."""
        addresses = self.addresses(values, like.dtype, like.shape[1:])
        out = np.empty((self.total, *like.shape[1:]), like.dtype)
        if out.nbytes:
            width = width_of(out.dtype, out.shape[1:])
            copy_runs(addresses, self.part, self.first, self.count, address_of(out), width)
        return out

    def flags(self, flags: Parts) -> npt.NDArray[np.bool_]:
        """A flag of each element, bool ``(total,)``: of its part, or True where the part has None."""
        self._locate()
        out = np.ones(self.total, np.bool_)
        table = Table(flags, out.dtype, (), self.elements)
        if len(out):
            copy_runs(table.addresses, self.part, self.first, self.count, address_of(out), 1)
        return out

    def pad(
        self,
        values: Parts,
        out: npt.NDArray[Any],
        mask: npt.NDArray[np.bool_] | None = None,
        left: bool = False,
        fill: Any = 0,
    ) -> None:
        """Copy the elements of each row into `out`, as `pad_ragged` does."""
        padded = _Padded(out, mask, len(self.rows), left, fill)
        self._pad(self.addresses(values, out.dtype, out.shape[2:]), padded)

    def pad_flags(self, flags: Parts, out: npt.NDArray[np.bool_], left: bool = False) -> None:
        """Copy a flag of each element into `out`, bool ``(n, length)``; True where there is none."""
        padded = _Padded(out, None, len(self.rows), left, True)
        self._pad(Table(flags, out.dtype, (), self.elements).addresses, padded)

    def _pad(self, addresses: Int64s, padded: _Padded) -> None:
        self._locate()
        padded.runs(addresses, self.elements, self.part, self.first, self.count)

    def addresses(self, values: Parts, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Int64s:
        """The addresses of the values of the parts, every one that is needed."""
        self._locate()
        table = Table(values, dtype, shape, None)
        if not table.complete:
            absent = np.flatnonzero((table.addresses[self.part] == 0) & (self.count > 0))
            if len(absent):
                raise self.missing(int(absent[0]))
        return table.addresses

    def missing(self, run: int) -> OptionError:
        return missing_part(self.starts, int(self.rows[run]))


_UNKNOWN = 2**62  # the length of an array that is not given
#: bytes that the loops read at once, also of padding
BLOCK = 32


def _of_piece(bad: int, a: int) -> int:
    """What a loop returns, for a piece that begins at row `a`: -1, the bad row, or -2 and less for a missing part."""
    return bad if bad == -1 else bad + a if bad >= 0 else bad - a


def _first_bad(pieces: Sequence[int]) -> int:
    return next((bad for bad in pieces if bad != -1), -1)


def _lengths(below: Parts, offsets: bool = False) -> Int64s:
    """How many elements there are in each part, of values or of offsets."""
    return np.array([_UNKNOWN if b is None else len(b) - offsets for b in below], np.int64)


def _like(values: Parts, like: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
    for a in (like, *values):
        if a is not None:
            return a
    raise OptionError("no part is given, so the dtype is unknown; pass like=")


# The twins: the same bytes moved by numpy ---------------------------------------------------------------------------


def _follow_twin(addresses: Int64s, limits: Int64s, part: Int64s, first: Int64s, count: Int64s, offsets: Int64s) -> int:
    run, element = expand(first, count)
    p_of = part[run]
    absent = np.flatnonzero(addresses[p_of] == 0)
    begin, end = np.zeros((2, len(run)), np.int64)
    for p in np.unique(p_of):
        if addresses[p]:
            here = p_of == p
            j = element[here]
            source = view_of(int(addresses[p]), int(j.max()) + 2, 8).view(np.int64)[:, 0]
            begin[here], end[here] = source[j], source[j + 1]
    bad = (begin < 0) | (end < begin) | (end > limits[p_of])
    bad[absent] = True
    if bad.any():
        k = int(np.argmax(bad))
        return -2 - int(run[k]) if addresses[p_of[k]] == 0 else int(run[k])
    offsets[0] = 0
    np.cumsum(end - begin, out=offsets[1:])
    some = count > 0
    last = np.cumsum(count)[some] - 1
    first[~some] = 0
    first[some] = begin[last - count[some] + 1]
    count[some] = end[last] - first[some]
    return -1


def _pad_runs_twin(
    addresses: Int64s,
    lengths: Int64s,
    part: Int64s,
    first: Int64s,
    count: Int64s,
    out: int,
    width: int,
    mask: int,
    length: int,
    left: bool,
    fill: int,
) -> None:
    n = len(part)
    kept = np.where(addresses[part] != 0, np.minimum(count, length), 0)
    place = np.arange(length)
    real = place >= (length - kept)[:, None] if left else place < kept[:, None]
    if mask:
        view_of(mask, n, length)[:] = real
    if n and length and width:
        view_of(out, n, length * width)[:] = view_of(fill, 1, length * width)
        move(addresses, part, first, kept, width, view_of(out, n * length, width), np.flatnonzero(real))


def _pad_rows_twin(
    offsets: Int64s,
    addresses: Int64s,
    limits: Int64s,
    starts: Int64s,
    least: Int64s,
    shift: int,
    rows: Int64s,
    part: Int64s,
    first: Int64s,
    count: Int64s,
    *padded: Any,
) -> int:
    LOCATE.twin(starts, rows, least, shift, part, first)
    count[:] = 1
    bad = _follow_twin(offsets, limits, part, first, count, np.zeros(len(rows) + 1, np.int64))
    good = len(rows) if bad == -1 else bad if bad >= 0 else -2 - bad
    if good < len(rows):
        _follow_twin(offsets, limits, part[:good], first[:good], count[:good], np.zeros(good + 1, np.int64))
    absent = np.flatnonzero((addresses[part[:good]] == 0) & (count[:good] > 0))
    if len(absent):
        return -2 - int(absent[0])
    if bad == -1:
        _pad_runs_twin(addresses, limits, part, first, count, *padded)
    return bad


FOLLOW = Kernel(_follow_twin, "loops.follow")
PAD_RUNS = Kernel(_pad_runs_twin, "loops_pad.pad_runs")
PAD_ROWS = Kernel(_pad_rows_twin, "loops_pad.pad_rows")
