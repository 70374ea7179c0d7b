"""Rows of several dense fields, in any order: where they lie is found once and serves every field.

Values of a few bytes are gathered in two steps. The neighbourhoods of all wanted rows are copied in the order in which
they lie, which memory does at full speed, and the rows are picked from that copy, which fits a cache. Picked from where
they lie, each value would cost a line of memory, of which it is a small part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.kernels.addresses import Parts, Table, address_of, check_out, checked_rows, missing_part, view_of, width_of
from mmdask.kernels.jit import Kernel
from mmdask.kernels.once import once
from mmdask.kernels.spread import spread

__all__ = ["Located", "copy_runs", "expand", "least_parts", "locate", "move", "take_rows"]

Int64s = npt.NDArray[np.int64]
#: fields up to so many bytes a row are picked from a copy of the neighbourhoods, which is at most so large
NARROW = 32
_COPY_NBYTES = 32 << 20
#: where so many rows are wanted at least, and so few bytes are copied for each
_LEAST_ROWS = 1 << 13
_BYTES_PER_ROW = 32
#: of runs of kilobytes, a thread copies so many at least
_LONG = 32
#: neighbourhoods of the whole store, of which each takes 9 bytes while rows are located
_MOST_MARKS = 1 << 22


@dataclass(frozen=True)
class _Near:
    """The neighbourhoods of some rows, one after the other, and the place of each row in them."""

    part: Int64s
    first: Int64s
    count: Int64s
    rows: int  # of all of them
    places: npt.NDArray[np.int32]


class Located:
    """Where rows lie.

    Parameters
    ----------
    starts : numpy.ndarray
        int64 ``(parts + 1,)``: the first row of each part, and the number of rows.
    rows : numpy.ndarray
        int64 ``(n,)``, in any order, repeats allowed.
    n_parts : int
        How many there are.
    near : int, optional
        Rows of a neighbourhood, when the rows are those of blocks of about that many; it is rounded to a power of two.

    Raises
    ------
    RowNotFoundError
        When a row is negative or past the end.
    """

    def __init__(self, starts: Int64s, rows: Int64s, n_parts: int, near: int = 0) -> None:
        self.starts = starts
        self.rows = checked_rows(rows, starts, n_parts)
        self._shift = near.bit_length() - 1
        self._copy = np.empty(0, np.uint8)

    def take(self, sources: Parts, out: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Copy the rows of a field into `out`; see `mmdask.kernels.gather.take_rows`."""
        check_out(out, len(self.rows))
        dtype, shape = out.dtype, out.shape[1:]
        table = Table(sources, dtype, shape, np.diff(self.starts))
        width = width_of(dtype, shape)
        if not len(self.rows) or not width:
            return out
        if not table.complete:
            absent = table.addresses[self._place[0]] == 0
            if absent.any():
                raise missing_part(self.starts, int(self.rows[np.argmax(absent)]))
        near = self._near if width <= NARROW and self._shift >= 0 and (table.strides == width).all() else None
        if near is not None and near.rows * width <= min(_COPY_NBYTES, _BYTES_PER_ROW * len(self.rows)):
            if len(self._copy) < near.rows * width:
                self._copy = np.empty(near.rows * width, np.uint8)
            copy, to, places = address_of(self._copy), address_of(out), near.places
            copy_runs(table.addresses, near.part, near.first, near.count, copy, width, long=True)
            spread(len(places), lambda a, b: PICK(copy, near.rows, places[a:b], to + a * width, width))
        else:
            part, local = self._place
            addresses, strides, to = table.addresses, table.strides, address_of(out)
            spread(len(local), lambda a, b: GATHER_AT(addresses, strides, part[a:b], local[a:b], to + a * width, width))
        return out

    @once
    def _place(self) -> tuple[npt.NDArray[np.int32], Int64s]:
        """The part of every row, and its number there."""
        part, local = np.zeros(len(self.rows), np.int32), self.rows
        if len(self.starts) > 2:
            local = np.empty(len(self.rows), np.int64)
            locate(self.starts, self.rows, part, local)
        return part, local

    @once
    def _near(self) -> _Near | None:
        """The neighbourhoods, unless there are too many rows in the store or too few wanted."""
        n_store = int(self.starts[-1])
        n_marks = (n_store >> self._shift) + 1
        if len(self.rows) < _LEAST_ROWS or n_marks > min(_MOST_MARKS, len(self.rows) << 6):
            return None
        marks = np.zeros(n_marks + 1, np.uint8)
        spread(len(self.rows), lambda a, b: MARK(self.rows[a:b], self._shift, marks))
        marked = np.flatnonzero(np.diff(marks, prepend=marks.dtype.type(0)))
        begins, ends = marked[::2] << self._shift, np.minimum(marked[1::2] << self._shift, n_store)
        total = int((ends - begins).sum())
        if total > min(_COPY_NBYTES, _BYTES_PER_ROW * len(self.rows)):
            return None
        moved = np.zeros(n_marks, np.int64)  # by how much the rows of each neighbourhood move down
        moved[marked[::2]] = np.diff(begins - (np.cumsum(ends - begins) - (ends - begins)), prepend=0)
        np.cumsum(moved, out=moved)
        places = np.empty(len(self.rows), np.int32)
        spread(len(places), lambda a, b: PLACE(self.rows[a:b], self._shift, moved, places[a:b]))
        return _Near(*self._pieces(begins, ends), total, places)

    def _pieces(self, begins: Int64s, ends: Int64s) -> tuple[Int64s, Int64s, Int64s]:
        """Runs of rows cut where parts begin: the part of each piece, its first row there, and its rows."""
        low = np.searchsorted(self.starts, begins, side="right") - 1
        high = np.searchsorted(self.starts, ends - 1, side="right") - 1
        n = high - low + 1
        run = np.repeat(np.arange(len(n)), n)
        part = low[run] + np.arange(len(run)) - (np.cumsum(n) - n)[run]
        a, b = np.maximum(begins[run], self.starts[part]), np.minimum(ends[run], self.starts[part + 1])
        return part, a - self.starts[part], np.maximum(b - a, 0)


def locate(starts: Int64s, rows: Int64s, part: npt.NDArray[Any], local: Int64s) -> None:
    """Write the part of every row, and its number there; an empty part has none."""
    least = least_parts(starts)
    spread(len(rows), lambda a, b: LOCATE(starts, rows[a:b], *least, part[a:b], local[a:b]))


def copy_runs(
    addresses: Int64s, part: Int64s, first: Int64s, count: Int64s, out: int, width: int, *, long: bool = False
) -> None:
    """Copy runs of elements, one after the other, to an address; `long` says that they are kilobytes."""

    def piece(a: int, b: int) -> None:
        to = out + int(count[:a].sum()) * width
        COPY_RUNS(addresses, part[a:b], first[a:b], count[a:b], to, width)

    spread(len(count), piece, _LONG if long else None)


def least_parts(starts: Int64s) -> tuple[Int64s, int]:
    """Where to look for the part of a row: at entry ``row >> shift`` and not far beyond; the entries and the shift."""
    shift = max(int(starts[-1]).bit_length() - (4 * len(starts)).bit_length(), 0)
    marks = np.arange((int(starts[-1]) >> shift) + 1, dtype=np.int64) << shift
    return np.searchsorted(starts, marks, side="right") - 1, shift


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
    return Located(starts, rows, len(sources)).take(sources, out)


# The twins: the same bytes moved by numpy ---------------------------------------------------------------------------


def _locate_twin(
    starts: Int64s, rows: Int64s, least: Int64s, shift: int, part: npt.NDArray[Any], local: Int64s
) -> None:
    part[:] = np.searchsorted(starts, rows, side="right") - 1
    local[:] = rows - starts[part]


def _gather_at_twin(
    addresses: Int64s, strides: Int64s, part: npt.NDArray[np.int32], local: Int64s, out: int, width: int
) -> None:
    target = view_of(out, len(local), width)
    if len(addresses) == 1 and strides[0]:
        np.take(view_of(int(addresses[0]), int(local.max()) + 1, width), local, axis=0, mode="clip", out=target)
        return
    for p in np.unique(part):
        here = np.flatnonzero(part == p)
        rows = local[here] if strides[p] else np.zeros(len(here), np.int64)
        target[here] = np.take(view_of(int(addresses[p]), int(rows.max()) + 1, width), rows, axis=0, mode="clip")


def _mark_twin(rows: Int64s, shift: int, marks: npt.NDArray[np.uint8]) -> None:
    marks[rows >> shift] = 1


def _place_twin(rows: Int64s, shift: int, moved: Int64s, places: npt.NDArray[np.int32]) -> None:
    places[:] = rows - moved[rows >> shift]


def _pick_twin(source: int, n: int, places: npt.NDArray[np.int32], out: int, width: int) -> None:
    np.take(view_of(source, n, width), places, axis=0, mode="clip", out=view_of(out, len(places), width))


def _copy_runs_twin(addresses: Int64s, part: Int64s, first: Int64s, count: Int64s, out: int, width: int) -> None:
    target = view_of(out, int(count.sum()), width)
    move(addresses, part, first, count, width, target, np.arange(len(target)))


def expand(first: Int64s, count: Int64s) -> tuple[Int64s, Int64s]:
    """Of every element of the runs: the number of its run, and its number in the part."""
    begin = np.cumsum(count) - count
    run = np.repeat(np.arange(len(count)), count)
    return run, np.arange(len(run)) + (first - begin)[run]


def move(
    addresses: Int64s,
    part: Int64s,
    first: Int64s,
    count: Int64s,
    width: int,
    target: npt.NDArray[np.uint8],
    place: Int64s,
) -> None:
    run, element = expand(first, count)
    p_of = part[run]
    for p in np.unique(p_of):
        if not addresses[p]:
            continue
        here = np.flatnonzero(p_of == p)
        j = element[here]
        target[place[here]] = np.take(view_of(int(addresses[p]), int(j.max()) + 1, width), j, axis=0, mode="clip")


LOCATE = Kernel(_locate_twin, "loops_dense.locate")
GATHER_AT = Kernel(_gather_at_twin, "loops_dense.gather_at")
MARK = Kernel(_mark_twin, "loops_dense.mark")
PLACE = Kernel(_place_twin, "loops_dense.place")
PICK = Kernel(_pick_twin, "loops_dense.pick")
COPY_RUNS = Kernel(_copy_runs_twin, "loops.copy_runs")
