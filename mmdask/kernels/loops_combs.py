# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""The compiled loops of `combs`. Only `jit` imports this module, because it imports numba."""

from __future__ import annotations

import numpy as np

from mmdask.kernels.combs import SILVER
from mmdask.kernels.jit import njit
from mmdask.kernels.loops import AHEAD, _mix, _prefetch

_compile = njit(error_model="numpy")


@_compile
def ends(weights, phase, length, before, end, out):
    n_rows = weights.shape[1]
    for b in range(len(phase)):
        total = 0.0
        for i in range(n_rows):
            total += weights[b, i]
        upto, last = 0.0, end[b] - before[b]
        for i in range(n_rows):
            upto += weights[b, i]
            teeth = last
            if upto < total:
                teeth = min(np.int64(np.floor(phase[b] + upto / total * length[b])), last)
            out[b, i] = teeth + before[b]


@_compile
def _begin(places, shift, block):
    whole = np.int64(places[block])
    return whole + (places[block] - whole + shift >= 1)


@_compile
def blocks_of(places, shift, least, numbers, block, rank):
    for i in range(len(numbers)):
        number = numbers[i]
        low, step = least[number >> 6], 1
        high = low + 1
        while _begin(places, shift, high) <= number:
            low = high
            step *= 2
            high = min(low + step, len(places) - 1)
        while high - low > 1:
            middle = (low + high) // 2
            if _begin(places, shift, middle) <= number:
                low = middle
            else:
                high = middle
        block[i] = low
        rank[i] = number - _begin(places, shift, low)


@_compile
def rows_of(upto, block, rank, out):
    n_rows = upto.shape[1]
    for i in range(len(out)):
        if i + AHEAD < len(out):
            ahead = upto.ctypes.data + 2 * n_rows * block[i + AHEAD]
            _prefetch(ahead)
            _prefetch(ahead + 64)
        b, found = block[i], np.uint16(0)
        r = np.uint16(rank[i])
        for k in range(n_rows):
            found += np.uint16(upto[b, k] <= r)
        out[i] = found


@_compile
def turns(shares, low, high, out):
    k = len(shares)
    draws, due = low.copy(), np.empty(k)
    for c in range(k):
        due[c] = np.float64(2 * k * draws[c] + 2 * c + 1) / shares[c] if draws[c] < high[c] else np.inf
    for i in range(len(out)):
        first = 0
        for c in range(1, k):
            if due[c] < due[first]:
                first = c
        out[i] = first
        draws[first] += 1
        c = first
        due[c] = np.float64(2 * k * draws[c] + 2 * c + 1) / shares[c] if draws[c] < high[c] else np.inf


@_compile
def streams(rows, positions, out):
    for i in range(len(out)):
        with_position = _mix(np.uint64(positions[i]) + np.uint64(1))
        out[i] = np.int64(_mix(np.uint64(rows[i]) * np.uint64(SILVER) + with_position))
