"""The compiled forms of `mmdask.kernels.segments`; imported only by the thread that compiles them."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

__all__ = [
    "segment_argmax",
    "segment_argmin",
    "segment_max",
    "segment_min",
    "segment_sum",
]

_compiled: Any = numba.njit(nogil=True, cache=True)


@_compiled
def segment_sum(values, offsets, out):  # type: ignore[no-untyped-def]
    zero = out.dtype.type(0)
    for row in range(len(out)):
        total = zero
        for i in range(offsets[row], offsets[row + 1]):
            total += out.dtype.type(values[i])
        if total == total:
            out[row] = total
        else:
            out[row] = np.nan


@_compiled
def segment_min(values, offsets, out):  # type: ignore[no-untyped-def]
    zero = out.dtype.type(0)
    for row in range(len(out)):
        first, stop = offsets[row], offsets[row + 1]
        if first == stop:
            out[row] = zero
            continue
        best = values[first]
        for i in range(first + 1, stop):
            value = values[i]
            if value < best or value != value:
                best = value
        if best == best:
            out[row] = best + zero  # +0.0 for a zero of either sign
        else:
            out[row] = np.nan


@_compiled
def segment_max(values, offsets, out):  # type: ignore[no-untyped-def]
    zero = out.dtype.type(0)
    for row in range(len(out)):
        first, stop = offsets[row], offsets[row + 1]
        if first == stop:
            out[row] = zero
            continue
        best = values[first]
        for i in range(first + 1, stop):
            value = values[i]
            if value > best or value != value:
                best = value
        if best == best:
            out[row] = best + zero  # +0.0 for a zero of either sign
        else:
            out[row] = np.nan


@_compiled
def segment_argmin(values, offsets, out):  # type: ignore[no-untyped-def]
    for row in range(len(out)):
        first, stop = offsets[row], offsets[row + 1]
        if first == stop:
            out[row] = 0
            continue
        place, best = first, values[first]
        for i in range(first + 1, stop):
            value = values[i]
            if value < best or (value != value and best == best):
                place, best = i, value
        out[row] = place - first


@_compiled
def segment_argmax(values, offsets, out):  # type: ignore[no-untyped-def]
    for row in range(len(out)):
        first, stop = offsets[row], offsets[row + 1]
        if first == stop:
            out[row] = 0
            continue
        place, best = first, values[first]
        for i in range(first + 1, stop):
            value = values[i]
            if value > best or (value != value and best == best):
                place, best = i, value
        out[row] = place - first
