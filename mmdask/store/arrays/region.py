"""Regions of one array in a file: which bytes an index selects, and reading or writing exactly those.

Several processes fill regions of one array that lie between each other. So nothing is read to be written back, and
nothing goes through a map: plain writes of the bytes selected, and of no others.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import operator
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.errors import OptionError, RowNotFoundError
from mmdask.store.arrays.files import read_fully
from mmdask.store.arrays.npy import HEADER, as_stored
from mmdask.store.system import SYSTEM

__all__ = ["Selection", "filling", "read_region", "select", "write_region"]

#: bytes that are handled at once; a piece has at most as many runs
PIECE = 1 << 20
#: the indices that are taken of one axis
Axis = range | npt.NDArray[np.int64]


@dataclass(frozen=True)
class Selection:
    """What an index takes of an array, as numpy understands it.

    Parameters
    ----------
    array_shape : tuple of int
        Of the array.
    axes : tuple of range or int64 array
        For each axis of the array, which of its entries, in order.
    dropped : tuple of bool
        For each axis, whether it was indexed by an integer, and is not in the result.
    """

    array_shape: tuple[int, ...]
    axes: tuple[Axis, ...]
    dropped: tuple[bool, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the result."""
        return tuple(len(a) for a, dropped in zip(self.axes, self.dropped, strict=True) if not dropped)

    def strides(self, itemsize: int) -> tuple[int, ...]:
        """Of the array, in bytes, C order."""
        return tuple(itemsize * math.prod(self.array_shape[i + 1 :]) for i in range(len(self.axes)))


def select(shape: tuple[int, ...], key: Any) -> Selection:
    """What ``array[key]`` takes of an array of a shape.

    Parameters
    ----------
    shape : tuple of int
        Of the array.
    key : index
        Integers, slices with any step and an Ellipsis, as in numpy; for the first axis also a list or array of
        integers, or of one bool for each row.

    Raises
    ------
    RowNotFoundError
        When an index is out of range, or there are more of them than axes.
    OptionError
        For anything else.

    Examples
    --------
    >>> select((10, 4, 4), (slice(0, 10, 5), ..., -1)).shape
    (2, 4)
    """
    keys = list(key) if isinstance(key, tuple) else [key]
    dots = [i for i, k in enumerate(keys) if k is Ellipsis]
    if len(dots) > 1:
        raise OptionError("an index has one Ellipsis (...) at most")
    more = len(shape) - len(keys) + len(dots)
    if more < 0:
        raise RowNotFoundError(f"{len(keys) - len(dots)} indices for an array of {len(shape)} axes")
    at = dots[0] if dots else len(keys)
    keys[at : at + len(dots)] = [slice(None)] * more
    axes, dropped = [], []
    for axis, (k, length) in enumerate(zip(keys, shape, strict=True)):
        indices, is_one = _indices(k, length, axis)
        axes.append(indices)
        dropped.append(is_one)
    return Selection(shape, tuple(axes), tuple(dropped))


def _indices(key: Any, length: int, axis: int) -> tuple[Axis, bool]:
    """Which entries of an axis a key takes, and whether it is a single integer."""
    if isinstance(key, slice):
        try:
            return range(*key.indices(length)), False
        except TypeError as error:
            raise OptionError(f"a slice is made of integers: {error}") from None
    if not isinstance(key, bool | np.bool_):
        try:
            i = operator.index(key)
        except TypeError:
            pass
        else:
            _check_range(i, i, length, axis)
            i += length if i < 0 else 0
            return range(i, i + 1), True
    rows = np.asarray(key)
    if axis or rows.ndim != 1 or (rows.dtype.kind not in "biu" and rows.size):
        raise OptionError(
            "an index is made of integers, slices and ..., and for the first axis also of a list of rows or a mask; "
            f"got {type(key).__name__} for axis {axis}"
        )
    if rows.dtype.kind == "b":
        if len(rows) != length:
            raise RowNotFoundError(f"a mask of {len(rows)} rows for an array of {length}")
        return np.flatnonzero(rows), False
    if rows.size:
        _check_range(int(rows.min()), int(rows.max()), length, axis)
    rows = rows.astype(np.int64)
    return np.where(rows < 0, rows + length, rows), False


def _check_range(low: int, high: int, length: int, axis: int) -> None:
    if low < -length or high >= length:
        wrong = low if low < -length else high
        raise RowNotFoundError(f"index {wrong} is out of range for axis {axis}, which has {length} entries")


@contextlib.contextmanager
def filling(path: str) -> Iterator[int]:
    """Open the file of an array that is being filled, for one read or write.

    The file has its `path` as long as it may be filled. Whoever finishes it takes its name away while it is locked, so
    that none of its bytes changes after they were hashed.

    Raises
    ------
    FileNotFoundError
        When the array may no longer be filled.
    """
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        if os.stat(path).st_ino != os.fstat(fd).st_ino:
            raise FileNotFoundError(path)
        yield fd
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)  # explicitly: a child forked meanwhile shares the lock and would keep it
        os.close(fd)


def write_region(fd: int, selection: Selection, values: npt.NDArray[Any]) -> None:
    """Write `values`, which have the selection's shape, over what it selects, and over nothing else."""
    for offset, data in _runs(selection, as_stored(values)):
        SYSTEM.write(fd, data, offset)


def read_region(fd: int, selection: Selection, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """What a selection selects, as a new array of its shape."""
    out = np.empty(selection.shape, dtype)
    for offset, data in _runs(selection, out):
        try:
            read_fully(fd, data, offset)
        except EOFError:
            raise OSError(errno.EIO, "the file ends before the array does") from None
    return out


def _runs(selection: Selection, values: npt.NDArray[Any]) -> Iterator[tuple[int, memoryview]]:
    """Where in the file each run of bytes belongs, and the bytes: of `values` themselves where they lie in C order."""
    if values.size:
        whole = values[tuple(None if dropped else slice(None) for dropped in selection.dropped)]
        yield from _pieces(HEADER, selection.axes, selection.strides(values.itemsize), whole)


def _pieces(
    offset: int, axes: tuple[Axis, ...], strides: tuple[int, ...], values: npt.NDArray[Any]
) -> Iterator[tuple[int, memoryview]]:
    """The runs of some axes, piece by piece: values may be one number that stands for more than memory holds."""
    if values.nbytes <= PIECE or not axes:
        data = memoryview(np.ascontiguousarray(values).reshape(-1).view("u1").data)
        yield from _runs_of_piece(offset, axes, strides, values.itemsize, data)
    elif len(axes[0]) == 1:
        yield from _pieces(offset + int(axes[0][0]) * strides[0], axes[1:], strides[1:], values[0, ...])
    else:
        step = max(1, PIECE * len(values) // values.nbytes)
        for i in range(0, len(values), step):
            yield from _pieces(offset, (axes[0][i : i + step], *axes[1:]), strides, values[i : i + step])


def _runs_of_piece(
    offset: int, axes: tuple[Axis, ...], strides: tuple[int, ...], itemsize: int, data: memoryview
) -> Iterator[tuple[int, memoryview]]:
    run, outer = itemsize, len(axes)
    while outer:
        axis = axes[outer - 1]
        if strides[outer - 1] != run or not isinstance(axis, range) or (axis.step != 1 and len(axis) > 1):
            break
        outer -= 1
        offset += axis.start * run
        run *= len(axis)
    offsets = np.array([offset])
    for axis, stride in zip(axes[:outer], strides, strict=False):
        offsets = (offsets[:, None] + np.asarray(axis, np.int64) * stride).reshape(-1)
    # Runs that follow each other in the file are one.
    edges = np.flatnonzero(np.diff(offsets) != run) + 1
    starts = np.concatenate(([0], edges))
    ends = np.concatenate((edges, [len(offsets)])) * run
    for at, start, end in zip(offsets[starts].tolist(), (starts * run).tolist(), ends.tolist(), strict=True):
        yield at, data[start:end]
