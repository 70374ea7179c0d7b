"""Boxes of arrays of differing shape, copied into arrays of one shape."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.errors import OptionError
from mmdask.kernels.addresses import view_of
from mmdask.kernels.jit import Kernel

__all__ = ["copy_boxes"]

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
    axes = shapes.shape[1]
    lengths = np.array(out.shape[1 : 1 + axes], np.int64)
    shapes, begin, kept, place = (np.ascontiguousarray(a, np.int64) for a in (shapes, begin, kept, place))
    if not (values.flags.c_contiguous and out.flags.c_contiguous and out.flags.writeable):
        raise OptionError("values and out are C-contiguous, and out can be written")
    if out.dtype != values.dtype or out.shape[1 + axes :] != values.shape[1:]:
        raise OptionError(f"out holds {out.dtype} items of shape {out.shape[1 + axes :]}, and values {values.dtype}")
    # In floats, because hostile lengths would overflow.
    ends = first + shapes.astype(np.float64).prod(1)
    wrong = (begin < 0) | (kept < 0) | (begin > shapes - kept) | (place < 0) | (place > lengths - kept)
    if wrong.any() or (first < 0).any() or (ends > len(values)).any():
        raise OptionError("a box leads out of its row, or a row out of its values")
    width = values.dtype.itemsize * math.prod(values.shape[1:])
    if out.size and width:
        addresses = (a.__array_interface__["data"][0] for a in (values, out))
        source, target = addresses
        COPY_BOXES(source, np.ascontiguousarray(first), shapes, begin, kept, target, lengths, place, width)
    return out


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


COPY_BOXES = Kernel(_copy_boxes_twin, "loops_boxes.copy_boxes")
