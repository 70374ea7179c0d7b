# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""The compiled loops of `dense`. Only `jit` imports this module, because it imports numba."""

from __future__ import annotations

import numpy as np

from mmdask.kernels.jit import njit
from mmdask.kernels.loops import AHEAD, _copy, _memcpy, _prefetch

_compile = njit()
#: rows up to so many bytes lie in lines that the processor asks for early enough by itself
_SMALL = 16
#: of longer rows so many lines are asked for; the processor sees where it goes on
_LINES = 4


@_compile
def locate(starts, rows, least, shift, part, local):
    for i in range(len(rows)):
        row = rows[i]
        p = least[row >> shift]
        while starts[p + 1] <= row:
            p += 1
        part[i] = p
        local[i] = row - starts[p]


@_compile
def gather_at(addresses, strides, part, local, out, width):
    n = len(local)
    if width <= _SMALL:
        for i in range(n):
            p = part[i]
            _copy(out, addresses[p] + local[i] * strides[p], width)
            out += width
        return
    lines = min(_LINES, (width + 63) // 64)
    if len(addresses) == 1:
        base, stride = addresses[0], strides[0]
        for i in range(n):
            if i + AHEAD < n:
                ahead = base + local[i + AHEAD] * stride
                for k in range(lines):
                    _prefetch(ahead + 64 * k)
            _memcpy(out, base + local[i] * stride, width)
            out += width
        return
    for i in range(n):
        if i + AHEAD < n:
            p = part[i + AHEAD]
            ahead = addresses[p] + local[i + AHEAD] * strides[p]
            for k in range(lines):
                _prefetch(ahead + 64 * k)
        p = part[i]
        _memcpy(out, addresses[p] + local[i] * strides[p], width)
        out += width


@_compile
def mark(rows, shift, marks):
    for i in range(len(rows)):
        marks[rows[i] >> shift] = 1


@_compile
def place(rows, shift, moved, places):
    for i in range(len(rows)):
        row = rows[i]
        places[i] = row - moved[row >> shift]


@_compile
def pick(source, n, places, out, width):
    # One loop for every width, so that each is as short as can be.
    if width == 4:
        for i in range(len(places)):
            _memcpy(out + 4 * i, source + 4 * np.int64(places[i]), 4)
    elif width == 8:
        for i in range(len(places)):
            _memcpy(out + 8 * i, source + 8 * np.int64(places[i]), 8)
    elif width == 1:
        for i in range(len(places)):
            _memcpy(out + i, source + np.int64(places[i]), 1)
    elif width == 2:
        for i in range(len(places)):
            _memcpy(out + 2 * i, source + 2 * np.int64(places[i]), 2)
    else:
        for i in range(len(places)):
            _memcpy(out + width * i, source + width * np.int64(places[i]), width)
