# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""The compiled loops of `bins`. Only `jit` imports this module, because it imports numba."""

from __future__ import annotations

import numpy as np

from mmdask.kernels.jit import njit

_compile = njit(error_model="numpy")


@_compile
def places_of(values, low, width, n, out):
    for i in range(len(out)):
        z = (np.float64(values[i]) - low) / width
        if z < 0:
            out[i] = 0
        elif z < 1:
            out[i] = np.int64(z * n) + 1
        else:
            out[i] = n + 1


@_compile
def weighted_sums(places, weights, sums, squares):
    for i in range(len(places)):
        place = places[i]
        if place < 0 or place >= len(sums):
            return i
        w = np.float64(weights[i])
        sums[place] += w
        squares[place] += w * w
    return -1
