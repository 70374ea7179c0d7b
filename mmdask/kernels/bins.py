"""Loops of histograms: which bin of equal width a number is in, and sums of weights for each bin."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.errors import CorruptStoreError
from mmdask.kernels.jit import Kernel
from mmdask.kernels.packed import readonly

__all__ = ["places_of", "weighted_sums"]

Array = npt.NDArray[Any]
Int64s = npt.NDArray[np.int64]
Float64s = npt.NDArray[np.float64]


def places_of(values: Array, low: float, width: float, n: int) -> Int64s:
    """The bin of each value, int64: 0 below `low`, 1 to `n` within `width` from there on, n + 1 above and for nan.

    Examples
    --------
    >>> places_of(np.float32([-1, 0, 0.5, 1]), 0.0, 1.0, 2)
    array([0, 1, 2, 3])
    """
    out = np.empty(len(values), np.int64)
    _PLACES(_real(values), float(low), float(width), int(n), out)
    return out


def weighted_sums(places: Int64s, weights: Array, size: int) -> tuple[Float64s, Float64s]:
    """Sums of weights and of their squares for each of `size` bins, float64, added one after the other.

    Parameters
    ----------
    places : numpy.ndarray
        The bin of each weight, int64.
    weights : numpy.ndarray
        As many numbers.
    size : int
        How many bins there are.

    Raises
    ------
    CorruptStoreError
        When there is no such bin: only what is read from a damaged store can say so.

    Examples
    --------
    >>> weighted_sums(np.array([1, 0, 1]), np.float32([2, 3, 4]), 2)
    (array([3., 6.]), array([ 9., 20.]))
    """
    sums, squares = np.zeros(size), np.zeros(size)
    bad = _SUMS(readonly(places), _real(weights), sums, squares)
    if bad >= 0:
        raise CorruptStoreError(
            f"a value belongs to bin {places[bad]} of {size}: the store is damaged, mm.verify names the file"
        )
    return sums, squares


def _real(values: Array) -> Array:
    """The same numbers in a layout that is compiled: contiguous, read-only float32 or float64."""
    return readonly(values if values.dtype in (np.float32, np.float64) else values.astype(np.float64))


def _places_twin(values: Array, low: float, width: float, n: int, out: Int64s) -> None:
    z = values.astype(np.float64)
    with np.errstate(all="ignore"):
        z -= low
        z /= width
        below, above = z < 0, ~(z < 1)
        z *= n
        z[above] = n
        z[below] = -1
        out[:] = z.astype(np.int64)
    out += 1


def _sums_twin(places: Int64s, weights: Array, sums: Float64s, squares: Float64s) -> int:
    bad = (places < 0) | (places >= len(sums))
    if bad.any():
        return int(bad.argmax())
    wide = weights.astype(np.float64)
    with np.errstate(all="ignore"):
        sums[:] = np.bincount(places, wide, len(sums))
        squares[:] = np.bincount(places, np.square(wide), len(sums))
    return -1


_PLACES = Kernel(_places_twin, "loops_bins.places_of")
_SUMS = Kernel(_sums_twin, "loops_bins.weighted_sums")
