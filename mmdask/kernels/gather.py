"""Rows of many parts, in any order, copied to where they are wanted: dense, ragged, ragged with padding.

A field is one array per part; `starts` says at which row each part begins. One compiled call serves all parts and all
dtypes, since it moves bytes between addresses. Every row number is checked before, every offset while it is read.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.errors import CorruptStoreError, OptionError, RowNotFoundError
from mmdask.kernels.jit import Kernel

__all__ = ["Runs", "pad_ragged", "take_nested", "take_ragged", "take_rows", "view_of"]

Parts = Sequence["npt.NDArray[Any] | None"]
Int64s = npt.NDArray[np.int64]


def take_rows(sources: Parts, starts: Int64s, rows: Int64s, out: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Copy rows of a dense field into `out`.

    Parameters
    ----------
    sources : sequence of numpy.ndarray or None
        Per part ``(rows of the part, *shape)`` of the dtype of `out`, C-contiguous, or one row broadcast along the
        first axis (a constant). None for a part that no row lies in.
    starts : numpy.ndarray
        int64 ``(parts + 1,)``: the first row of each part, and the number of rows.
    rows : numpy.ndarray
        int64 ``(n,)``, in any order, repeats allowed.
    out : numpy.ndarray
        ``(n, *shape)``, C-contiguous, writeable.

    Returns
    -------
    numpy.ndarray
        `out`.

    Raises
    ------
    RowNotFoundError
        When a row is negative or past the end; nothing is read.
    OptionError
        When arrays do not fit each other.

    Examples
    --------
    >>> parts = [np.arange(3.0), np.arange(10.0, 14.0)]
    >>> take_rows(parts, np.array([0, 3, 7]), np.array([6, 0, 3]), np.empty(3))
    array([13.,  0., 10.])
    """
    rows = _checked(rows, starts, len(sources))
    _check_out(out, len(rows))
    table = _Table(sources, out.dtype, out.shape[1:], np.diff(starts))
    width = _width(out.dtype, out.shape[1:])
    if len(rows) and width:
        bad = GATHER_ROWS(table.addresses, table.strides, starts, rows, _address(out), width)
        if bad >= 0:
            raise _missing(starts, int(rows[bad]))
    return out


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


def pad_ragged(
    values: Parts,
    offsets: Parts,
    starts: Int64s,
    rows: Int64s,
    out: npt.NDArray[Any],
    mask: npt.NDArray[np.bool_] | None = None,
    left: bool = False,
) -> Int64s:
    """Copy rows of a ragged field into rows of one length.

    Parameters
    ----------
    values, offsets, starts, rows
        As for `take_ragged`.
    out : numpy.ndarray
        ``(n, length, *shape)``, C-contiguous, filled with the padding by the caller. Items past `length` are cut.
    mask : numpy.ndarray, optional
        bool ``(n, length)``, C-contiguous; set to True where `out` holds an item, to False elsewhere.
    left : bool
        Whether the padding comes before the items, not after.

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
    >>> values, offsets, out = np.arange(6), np.array([0, 2, 2, 6]), np.full((3, 3), -1)
    >>> pad_ragged([values], [offsets], np.array([0, 3]), np.array([2, 1, 0]), out)
    array([4, 0, 2])
    >>> out
    array([[ 2,  3,  4],
           [-1, -1, -1],
           [ 0,  1, -1]])
    """
    runs = Runs(starts, rows, len(values))
    runs.follow(offsets, values)
    runs.pad(values, out, np.empty(out.shape[:2], np.bool_) if mask is None else mask, left)
    return runs.count


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
        rows = _checked(rows, starts, n_parts)
        self.starts = starts
        self.rows = rows
        self.part = np.empty(len(rows), np.int64)
        self.first = np.empty(len(rows), np.int64)
        self.count = np.ones(len(rows), np.int64)
        self.total = len(rows)
        self.elements = np.diff(starts)  # of this level, in each part
        if len(rows):
            LOCATE(starts, rows, self.part, self.first)

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
        table = _Table(levels, np.dtype(np.int64), (), self.elements + 1)
        limits = np.array([_UNKNOWN if b is None else len(b) - offsets for b in below], np.int64)
        out = np.zeros(self.total + 1, np.int64)
        if len(self.rows):
            bad = FOLLOW(table.addresses, limits, self.part, self.first, self.count, out)
            if bad < -1:
                raise self.missing(-2 - bad)
            if bad >= 0:
                raise CorruptStoreError(
                    f"row {self.rows[bad]}: its offsets are not 0 <= begin <= end <= {limits[self.part[bad]]}; "
                    "the store is damaged, mm.verify names the file"
                )
        self.total = int(out[-1])
        self.elements = limits
        return out

    def copy(self, values: Parts, like: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The values of the elements, one after the other: a new array of the dtype and item shape of `like`."""
        addresses = self.addresses(values, like.dtype, like.shape[1:])
        out = np.empty((self.total, *like.shape[1:]), like.dtype)
        if out.nbytes:
            width = _width(out.dtype, out.shape[1:])
            COPY_RUNS(addresses, self.part, self.first, self.count, _address(out), width)
        return out

    def flags(self, flags: Parts) -> npt.NDArray[np.bool_]:
        """A flag of each element, bool ``(total,)``: of its part, or True where the part has None."""
        out = np.ones(self.total, np.bool_)
        table = _Table(flags, out.dtype, (), self.elements)
        if len(out):
            COPY_RUNS(table.addresses, self.part, self.first, self.count, _address(out), 1)
        return out

    def pad(self, values: Parts, out: npt.NDArray[Any], mask: npt.NDArray[np.bool_], left: bool = False) -> None:
        """Copy the elements of each row into `out`, as `pad_ragged` does."""
        _check_padded(out, mask, len(self.rows))
        addresses = self.addresses(values, out.dtype, out.shape[2:])
        self._pad(addresses, out, mask, left)

    def pad_flags(self, flags: Parts, out: npt.NDArray[np.bool_], left: bool = False) -> None:
        """Copy a flag of each element into `out`, bool ``(n, length)``, but none from a part that has None."""
        _check_padded(out, out, len(self.rows))
        table = _Table(flags, out.dtype, (), self.elements)
        self._pad(table.addresses, out, np.empty_like(out), left)

    def _pad(self, addresses: Int64s, out: npt.NDArray[Any], mask: npt.NDArray[np.bool_], left: bool) -> None:
        width = _width(out.dtype, out.shape[2:])
        PAD_RUNS(addresses, self.part, self.first, self.count, _address(out), width, mask, bool(left))

    def addresses(self, values: Parts, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Int64s:
        """The addresses of the values of the parts, every one that is needed."""
        table = _Table(values, dtype, shape, None)
        if not table.complete:
            absent = np.flatnonzero((table.addresses[self.part] == 0) & (self.count > 0))
            if len(absent):
                raise self.missing(int(absent[0]))
        return table.addresses

    def missing(self, run: int) -> OptionError:
        return _missing(self.starts, int(self.rows[run]))


_UNKNOWN = 2**62  # the length of an array that is not given


class _Table:
    """The addresses of one array per part; 0 where there is none. Valid while the arrays are held."""

    def __init__(self, sources: Parts, dtype: np.dtype[Any], shape: tuple[int, ...], needed: Int64s | None) -> None:
        self.addresses = np.zeros(len(sources), np.int64)
        self.strides = np.full(len(sources), _width(dtype, shape), np.int64)
        self.complete = True
        for p, s in enumerate(sources):
            if s is None:
                self.complete = False
                continue
            if s.dtype != dtype or s.shape[1:] != shape:
                raise OptionError(f"part {p} holds {s.dtype} rows of shape {s.shape[1:]}, not {dtype} of shape {shape}")
            if needed is not None and len(s) < needed[p]:
                raise OptionError(f"part {p} holds {len(s)} elements, fewer than the {needed[p]} it should")
            if not s.flags.c_contiguous:
                if needed is None or s.strides[0] or not s[:1].flags.c_contiguous:
                    raise OptionError(f"part {p} is not C-contiguous; pass np.ascontiguousarray of it")
                self.strides[p] = 0
            self.addresses[p] = _address(s)


def _address(a: npt.NDArray[Any]) -> int:
    address: int = a.__array_interface__["data"][0]
    return address


def _width(dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    width = dtype.itemsize
    for length in shape:
        width *= length
    return width


def _like(values: Parts, like: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
    for a in (like, *values):
        if a is not None:
            return a
    raise OptionError("no part is given, so the dtype is unknown; pass like=")


def _checked(rows: Int64s, starts: Int64s, n_parts: int) -> Int64s:
    """The rows as a contiguous array, all of them between 0 and the number of rows."""
    if starts.dtype != np.int64 or len(starts) != n_parts + 1:
        raise OptionError(f"starts is int64 ({n_parts + 1},), got {starts.dtype} {starts.shape}")
    rows = np.ascontiguousarray(rows, np.int64)
    if len(rows):
        low, high, n = int(rows.min()), int(rows.max()), int(starts[-1])
        if low < 0 or high >= n:
            raise RowNotFoundError(f"no row {low if low < 0 else high}: the rows are 0 to {n - 1} ({n} in all)")
    return rows


def _check_out(out: npt.NDArray[Any], n: int, axes: int = 1) -> None:
    if out.ndim < axes or len(out) != n or not out.flags.c_contiguous or not out.flags.writeable:
        raise OptionError(f"out has {n} rows, is C-contiguous and writeable; got shape {out.shape}, {out.flags}")


def _check_padded(out: npt.NDArray[Any], mask: npt.NDArray[np.bool_], n: int) -> None:
    _check_out(out, n, axes=2)
    _check_out(mask, n, axes=2)
    if mask.dtype != np.bool_ or mask.shape != out.shape[:2]:
        raise OptionError(f"the mask is bool {out.shape[:2]}, got {mask.dtype} {mask.shape}")


def _missing(starts: Int64s, row: int) -> OptionError:
    part = int(np.searchsorted(starts, row, side="right")) - 1
    return OptionError(f"row {row} lies in part {part}, which was not given")


# The twins: the same bytes moved by numpy ---------------------------------------------------------------------------


class _Memory:
    """What numpy asks to see memory as an array."""

    def __init__(self, address: int, n: int, width: int) -> None:
        self.__array_interface__ = {
            "data": (address, False),
            "shape": (n, width),
            "typestr": "|u1",
            "version": 3,
        }


def view_of(address: int, n: int, width: int) -> npt.NDArray[np.uint8]:
    """The memory at an address as ``(n, width)`` bytes."""
    return np.asarray(_Memory(address, n, width))


def _gather_rows_twin(addresses: Int64s, strides: Int64s, starts: Int64s, rows: Int64s, out: int, width: int) -> int:
    target = view_of(out, len(rows), width)
    if len(addresses) == 1 and strides[0] and addresses[0]:
        np.take(view_of(int(addresses[0]), int(starts[1]), width), rows, axis=0, mode="clip", out=target)
        return -1
    part = np.searchsorted(starts, rows, side="right") - 1
    absent = np.flatnonzero(addresses[part] == 0)
    if len(absent):
        return int(absent[0])
    for p in np.unique(part):
        here = np.flatnonzero(part == p)
        n = int(starts[p + 1] - starts[p]) if strides[p] else 1
        source = view_of(int(addresses[p]), n, width)
        target[here] = np.take(source, rows[here] - starts[p], axis=0, mode="clip")
    return -1


def _locate_twin(starts: Int64s, rows: Int64s, part: Int64s, first: Int64s) -> None:
    part[:] = np.searchsorted(starts, rows, side="right") - 1
    first[:] = rows - starts[part]


def _expand(first: Int64s, count: Int64s) -> tuple[Int64s, Int64s]:
    """Of every element of the runs: the number of its run, and its number in the part."""
    begin = np.cumsum(count) - count
    run = np.repeat(np.arange(len(count)), count)
    return run, np.arange(len(run)) + (first - begin)[run]


def _follow_twin(addresses: Int64s, limits: Int64s, part: Int64s, first: Int64s, count: Int64s, offsets: Int64s) -> int:
    run, element = _expand(first, count)
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


def _copy_runs_twin(addresses: Int64s, part: Int64s, first: Int64s, count: Int64s, out: int, width: int) -> None:
    target = view_of(out, int(count.sum()), width)
    _move(addresses, part, first, count, width, target, np.arange(len(target)))


def _move(
    addresses: Int64s,
    part: Int64s,
    first: Int64s,
    count: Int64s,
    width: int,
    target: npt.NDArray[np.uint8],
    place: Int64s,
) -> None:
    run, element = _expand(first, count)
    p_of = part[run]
    for p in np.unique(p_of):
        if not addresses[p]:
            continue
        here = np.flatnonzero(p_of == p)
        j = element[here]
        target[place[here]] = np.take(view_of(int(addresses[p]), int(j.max()) + 1, width), j, axis=0, mode="clip")


def _pad_runs_twin(
    addresses: Int64s,
    part: Int64s,
    first: Int64s,
    count: Int64s,
    out: int,
    width: int,
    mask: npt.NDArray[np.bool_],
    left: bool,
) -> None:
    n, length = mask.shape
    kept = np.minimum(count, length)
    place = np.arange(length)
    mask[:] = place >= (length - kept)[:, None] if left else place < kept[:, None]
    if mask.any() and width:
        _move(addresses, part, first, kept, width, view_of(out, n * length, width), np.flatnonzero(mask))


GATHER_ROWS = Kernel(_gather_rows_twin, "loops.gather_rows")
LOCATE = Kernel(_locate_twin, "loops.locate")
FOLLOW = Kernel(_follow_twin, "loops.follow")
COPY_RUNS = Kernel(_copy_runs_twin, "loops.copy_runs")
PAD_RUNS = Kernel(_pad_runs_twin, "loops.pad_runs")
