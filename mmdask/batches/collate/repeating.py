"""Padding with the items of the row itself, as `numpy.pad` with the modes edge, reflect and wrap."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.batches.collate.base import Int64s
from mmdask.schema import FieldData

__all__ = ["repeated"]

#: items of the result that are worked out together: they take three numbers of 8 bytes each
_TOGETHER = 1 << 20


def repeated(
    data: FieldData,
    first: Int64s,
    shapes: Int64s,
    begin: Int64s,
    kept: Int64s,
    lengths: tuple[int, ...],
    fill: npt.NDArray[Any],
    left: bool,
    mode: str,
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Rows padded with their own items, and the mask of real ones.

    Parameters
    ----------
    data : FieldData
        Whose values are the items.
    first, shapes, begin, kept : numpy.ndarray
        As for `copy_boxes`.
    lengths : tuple of int
        On every axis; boxes that are longer are cut at their end.
    fill : numpy.ndarray
        What a row without items is filled with.
    left : bool
        Whether padding comes before the items.
    mode : str
        "edge", "reflect" or "wrap".
    """
    n, shape = len(first), data.values.shape[1:]
    there_at = data.valid_at(len(data.offsets))
    out = np.full((n, *lengths, *shape), fill, data.values.dtype)
    mask = np.zeros((n, *lengths), np.bool_)
    step = max(_TOGETHER // max(math.prod(lengths), 1), 1)
    filled = np.flatnonzero((kept > 0).all(1)) if math.prod(lengths) else np.zeros(0, np.int64)
    for a in range(0, len(filled), step):
        rows = filled[a : a + step]
        source = np.broadcast_to(first[rows].reshape(-1, *(1,) * len(lengths)), (len(rows), *lengths)).copy()
        real = np.ones((len(rows), *lengths), np.bool_)
        stride = np.ones(len(rows), np.int64)
        for axis in reversed(range(len(lengths))):
            spread = (len(rows), *(lengths[axis] if x == axis else 1 for x in range(len(lengths))))
            there, inside = _along(np.minimum(kept[rows, axis], lengths[axis]), lengths[axis], left, mode)
            source += ((there + begin[rows, axis, None]) * stride[:, None]).reshape(spread)
            real &= inside.reshape(spread)
            stride = stride * shapes[rows, axis]
        out[rows] = data.values[source]
        mask[rows] = real if there_at is None else real & there_at[source]
    return out, mask


def _along(count: Int64s, length: int, left: bool, mode: str) -> tuple[Int64s, npt.NDArray[np.bool_]]:
    """Which of its `count` items, one or more, every row has at each place of an axis, and which of them are real."""
    count = count[:, None]
    place = np.arange(length, dtype=np.int64) - (length - count if left else 0)
    inside = (place >= 0) & (place < count)
    if mode == "edge":
        return np.clip(place, 0, count - 1), inside
    if mode == "wrap":
        return place % count, inside
    period = np.maximum(2 * (count - 1), 1)
    back = place % period
    return np.minimum(back, period - back) % count, inside
