"""Boxes of arrays of differing shape, copied into arrays of one shape."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.errors import OptionError
from mmdask.kernels.addresses import address_of, view_of
from mmdask.kernels.jit import Kernel

__all__ = ["copy_boxes", "repeat_boxes"]

Int64s = npt.NDArray[np.int64]


def copy_boxes(
    values: npt.NDArray[Any],
    first: Int64s,
    shapes: Int64s,
    begin: Int64s,
    kept: Int64s,
    out: npt.NDArray[Any],
    place: Int64s,
) -> npt.NDArray[Any]:
    """Copy a box of every row into its row of `out`.

    Parameters
    ----------
    values : numpy.ndarray
        ``(items, *shape)``, C-contiguous: the items of all rows, of each in C order.
    first : numpy.ndarray
        int64 ``(n,)``: the first item of every row.
    shapes : numpy.ndarray
        int64 ``(n, axes)``: its shape.
    begin, kept : numpy.ndarray
        int64 ``(n, axes)``: where its box begins on every axis, and how long it is.
    out : numpy.ndarray
        ``(n, *lengths, *shape)``, C-contiguous, writeable, of the dtype of `values`; nothing outside of the boxes is
        written.
    place : numpy.ndarray
        int64 ``(n, axes)``: where the box begins in `out`.

    Returns
    -------
    numpy.ndarray
        `out`.

    Raises
    ------
    OptionError
        When a box leads out of its row or out of `out`, or a row out of `values`.

    Examples
    --------
    >>> values, shapes = np.arange(10), np.array([[2, 3], [4, 1]])
    >>> zero, kept = np.zeros((2, 2), int), np.minimum(shapes, 2)
    >>> copy_boxes(values, np.array([0, 6]), shapes, zero, kept, np.full((2, 2, 2), -1), zero)
    array([[[ 0,  1],
            [ 3,  4]],
    <BLANKLINE>
           [[ 6, -1],
            [ 7, -1]]])
    """
    shapes, begin, kept, place = (np.ascontiguousarray(a, np.int64) for a in (shapes, begin, kept, place))
    lengths, width = _checked(values, first, shapes, begin, kept, out)
    if ((place < 0) | (place > lengths - kept)).any():
        raise OptionError("a box leads out of its place")
    if out.size and width:
        source, target = address_of(values), address_of(out)
        COPY_BOXES(source, np.ascontiguousarray(first), shapes, begin, kept, target, lengths, place, width)
    return out


def repeat_boxes(
    values: npt.NDArray[Any],
    first: Int64s,
    shapes: Int64s,
    begin: Int64s,
    kept: Int64s,
    out: npt.NDArray[Any],
    mode: str,
    left: bool = False,
) -> npt.NDArray[Any]:
    """Fill every row of `out` with its box and repeats of it, as `numpy.pad` does; rows without items are left.

    Boxes that are longer than `out` are cut at their end.

    Parameters
    ----------
    values, first, shapes, begin, kept, out
        As for `copy_boxes`.
    mode : {"edge", "reflect", "wrap"}
        As in `numpy.pad`.
    left : bool
        Whether the repeats come before the box.

    Raises
    ------
    OptionError
        As `copy_boxes`.

    Examples
    --------
    >>> counts = np.array([[3], [1]])
    >>> repeat_boxes(np.arange(4), np.array([0, 3]), counts, counts * 0, counts, np.zeros((2, 5), int), "reflect")
    array([[0, 1, 2, 1, 0],
           [3, 3, 3, 3, 3]])
    """
    shapes, begin, kept = (np.ascontiguousarray(a, np.int64) for a in (shapes, begin, kept))
    lengths, width = _checked(values, first, shapes, begin, kept, out)
    if out.size and width:
        first, number = np.ascontiguousarray(first), _MODES.index(mode)
        source, target = address_of(values), address_of(out)
        REPEAT_BOXES(source, first, shapes, begin, kept, target, lengths, width, bool(left), number)
    return out


def _checked(
    values: npt.NDArray[Any], first: Int64s, shapes: Int64s, begin: Int64s, kept: Int64s, out: npt.NDArray[Any]
) -> tuple[Int64s, int]:
    """The lengths of `out`, and the bytes of an item."""
    axes = shapes.shape[1]
    if not (values.flags.c_contiguous and out.flags.c_contiguous and out.flags.writeable):
        raise OptionError("values and out are C-contiguous, and out can be written")
    if out.dtype != values.dtype or out.shape[1 + axes :] != values.shape[1:] or len(out) != len(first):
        raise OptionError(f"out holds {out.dtype} rows of shape {out.shape[1:]}, and values {values.dtype} items")
    # In floats, because hostile lengths would overflow.
    ends = first + shapes.astype(np.float64).prod(1)
    wrong = (begin < 0) | (kept < 0) | (begin > shapes - kept)
    if wrong.any() or (first < 0).any() or (ends > len(values)).any():
        raise OptionError("a box leads out of its row, or a row out of its values")
    return np.array(out.shape[1 : 1 + axes], np.int64), values.dtype.itemsize * math.prod(values.shape[1:])


_MODES = ("edge", "reflect", "wrap")
#: items whose places the twin works out together: they take three numbers of 8 bytes each
_TOGETHER = 1 << 20

# The twins ----------------------------------------------------------------------------------------------------------


def _copy_boxes_twin(
    source: int,
    first: Int64s,
    shapes: Int64s,
    begin: Int64s,
    kept: Int64s,
    out: int,
    lengths: Int64s,
    place: Int64s,
    width: int,
) -> None:
    row_items = int(lengths.prod())
    target = view_of(out, len(first) * row_items, width).reshape(len(first), *lengths, width)
    for i in np.flatnonzero((kept > 0).all(1)):
        shape = shapes[i].tolist()
        row = view_of(source + int(first[i]) * width, math.prod(shape), width).reshape(*shape, width)
        box = tuple(slice(b, b + k) for b, k in zip(begin[i].tolist(), kept[i].tolist(), strict=True))
        here = tuple(slice(p, p + k) for p, k in zip(place[i].tolist(), kept[i].tolist(), strict=True))
        target[i][here] = row[box]


def _repeat_boxes_twin(
    source: int,
    first: Int64s,
    shapes: Int64s,
    begin: Int64s,
    kept: Int64s,
    out: int,
    lengths: Int64s,
    width: int,
    left: bool,
    mode: int,
) -> None:
    target = view_of(out, len(first) * int(lengths.prod()), width).reshape(len(first), *lengths, width)
    filled = np.flatnonzero((kept > 0).all(1))
    step = max(_TOGETHER // int(lengths.prod()), 1)
    for a in range(0, len(filled), step):
        rows = filled[a : a + step]
        items = np.broadcast_to(first[rows].reshape(-1, *[1] * len(lengths)), (len(rows), *lengths)).copy()
        stride = np.ones(len(rows), np.int64)
        for axis in reversed(range(len(lengths))):
            length = int(lengths[axis])
            there = begin[rows, axis, None] + _repeated(np.minimum(kept[rows, axis], length), length, left, mode)
            items += (there * stride[:, None]).reshape(-1, *[length if x == axis else 1 for x in range(len(lengths))])
            stride = stride * shapes[rows, axis]
        target[rows] = view_of(source, int(items.max()) + 1, width)[items]


def _repeated(count: Int64s, length: int, left: bool, mode: int) -> Int64s:
    """Which of its items every row has at each place of an axis, ``(rows, length)``."""
    count = count[:, None]
    place = np.arange(length, dtype=np.int64) - (length - count if left else 0)
    if mode == 0:
        found: Int64s = np.clip(place, 0, count - 1)
    elif mode == 2:
        found = place % count
    else:
        period = np.maximum(2 * (count - 1), 1)
        back = place % period
        found = np.minimum(back, period - back) % count
    return found


COPY_BOXES = Kernel(_copy_boxes_twin, "loops_boxes.copy_boxes")
REPEAT_BOXES = Kernel(_repeat_boxes_twin, "loops_boxes.repeat_boxes")
