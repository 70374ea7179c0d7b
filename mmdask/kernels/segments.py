"""Reductions of the items of each row: ``(values, offsets)`` to one value per row.

All take `values` ``(items,)`` and `offsets` int64 ``(rows + 1,)``, from 0 up to the number of items, and return a new
array ``(rows,)``. Each has two forms that agree bit for bit: see `Kernel`. For that, sums go through the items from
the first to the last, a smallest or largest value that is zero is +0.0, and a nan is numpy's.
A nan among the items makes the smallest and the largest value nan, as in numpy, and is what argmin and argmax find.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.kernels import packed
from mmdask.kernels.jit import Kernel
from mmdask.kernels.packed import readonly

__all__ = [
    "segment_all",
    "segment_any",
    "segment_argmax",
    "segment_argmin",
    "segment_count",
    "segment_max",
    "segment_min",
    "segment_sum",
]

Array = npt.NDArray[Any]
Offsets = npt.NDArray[np.int64]


def segment_sum(values: Array, offsets: Offsets) -> Array:
    """Sum of the items of each row, 0 for an empty row.

    Floats accumulate in float64, from first to last; integers in int64, uint64 in uint64, modulo 2**64.

    Examples
    --------
    >>> segment_sum(np.float32([1, 2, 3]), np.array([0, 2, 2, 3]))
    array([3., 0., 3.])
    """
    if values.dtype == np.bool_:
        return segment_count(values, offsets)
    kind = values.dtype.kind
    out = np.empty(len(offsets) - 1, np.float64 if kind == "f" else np.uint64 if values.dtype == "u8" else np.int64)
    _SUM(_plain(values), readonly(offsets), out)
    return out


def segment_min(values: Array, offsets: Offsets) -> Array:
    """Smallest item of each row, of the dtype of `values`; 0 for an empty row."""
    return _extreme(_MIN, values, offsets)


def segment_max(values: Array, offsets: Offsets) -> Array:
    """Largest item of each row, of the dtype of `values`; 0 for an empty row."""
    return _extreme(_MAX, values, offsets)


def segment_argmin(values: Array, offsets: Offsets) -> npt.NDArray[np.int64]:
    """Place in its row of the first smallest item, int64; 0 for an empty row."""
    return _place(_ARGMIN, values, offsets)


def segment_argmax(values: Array, offsets: Offsets) -> npt.NDArray[np.int64]:
    """Place in its row of the first largest item, int64; 0 for an empty row."""
    return _place(_ARGMAX, values, offsets)


def segment_count(values: npt.NDArray[np.bool_], offsets: Offsets) -> npt.NDArray[np.int64]:
    """How many items of each row are true, int64.

    Examples
    --------
    >>> segment_count(np.array([True, False, True]), np.array([0, 2, 2, 3]))
    array([1, 0, 1])
    """
    return packed.segment_count(_bits(values), offsets)


def segment_any(values: npt.NDArray[np.bool_], offsets: Offsets) -> npt.NDArray[np.bool_]:
    """Whether an item of the row is true; false for an empty row."""
    return _unpacked(packed.segment_any(_bits(values), offsets), offsets)


def segment_all(values: npt.NDArray[np.bool_], offsets: Offsets) -> npt.NDArray[np.bool_]:
    """Whether every item of the row is true; true for an empty row."""
    return _unpacked(packed.segment_all(_bits(values), offsets), offsets)


def _bits(values: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    return np.packbits(values, bitorder="little")


def _unpacked(bits: npt.NDArray[np.uint8], offsets: Offsets) -> npt.NDArray[np.bool_]:
    return np.unpackbits(bits, count=len(offsets) - 1, bitorder="little").view(np.bool_)


def _extreme(kernel: Kernel, values: Array, offsets: Offsets) -> Array:
    plain = _plain(values)
    out = np.empty(len(offsets) - 1, plain.dtype)
    kernel(plain, readonly(offsets), out)
    return out.astype(values.dtype, copy=False)


def _place(kernel: Kernel, values: Array, offsets: Offsets) -> npt.NDArray[np.int64]:
    out = np.empty(len(offsets) - 1, np.int64)
    kernel(_plain(values), readonly(offsets), out)
    return out


def _plain(values: Array) -> Array:
    """The same numbers in a layout that is compiled: contiguous, read-only, no bools and no float16."""
    if values.dtype == np.bool_:
        values = values.view(np.uint8)
    elif values.dtype == np.float16:
        values = values.astype(np.float32)
    return readonly(values)


def _full_rows(offsets: Offsets) -> tuple[Offsets, npt.NDArray[np.bool_]]:
    """Where the rows that have items begin, and which rows those are."""
    full = offsets[1:] > offsets[:-1]
    return offsets[:-1][full], full


def _sum(values: Array, offsets: Offsets, out: Array) -> None:
    if out.dtype.kind == "f":
        rows = np.repeat(np.arange(len(out)), np.diff(offsets))
        out[:] = np.bincount(rows, values, minlength=len(out))  # goes through the items in order
        out[np.isnan(out)] = np.nan
        return
    starts, full = _full_rows(offsets)
    out[:] = 0
    if len(starts):
        out[full] = np.add.reduceat(values, starts, dtype=out.dtype)


def _reduce_extreme(ufunc: np.ufunc, values: Array, offsets: Offsets, out: Array) -> None:
    starts, full = _full_rows(offsets)
    out[:] = 0
    if not len(starts):
        return
    with np.errstate(invalid="ignore"):
        found = ufunc.reduceat(values, starts)
    if out.dtype.kind == "f":
        found += found.dtype.type(0.0)
        found[np.isnan(found)] = np.nan
    out[full] = found


def _min(values: Array, offsets: Offsets, out: Array) -> None:
    _reduce_extreme(np.minimum, values, offsets, out)


def _max(values: Array, offsets: Offsets, out: Array) -> None:
    _reduce_extreme(np.maximum, values, offsets, out)


def _reduce_place(ufunc: np.ufunc, values: Array, offsets: Offsets, out: Array) -> None:
    starts, full = _full_rows(offsets)
    out[:] = 0
    if not len(starts):
        return
    with np.errstate(invalid="ignore"):
        found = np.repeat(ufunc.reduceat(values, starts), np.diff(offsets)[full])
    same = values == found
    if values.dtype.kind == "f":
        same |= np.isnan(values)  # a row with a nan has no other match
    places = np.flatnonzero(same)
    out[full] = places[np.searchsorted(places, starts)] - starts


def _argmin(values: Array, offsets: Offsets, out: Array) -> None:
    _reduce_place(np.minimum, values, offsets, out)


def _argmax(values: Array, offsets: Offsets, out: Array) -> None:
    _reduce_place(np.maximum, values, offsets, out)


_SUM = Kernel(_sum, "loops_segments.segment_sum")
_MIN = Kernel(_min, "loops_segments.segment_min")
_MAX = Kernel(_max, "loops_segments.segment_max")
_ARGMIN = Kernel(_argmin, "loops_segments.segment_argmin")
_ARGMAX = Kernel(_argmax, "loops_segments.segment_argmax")
