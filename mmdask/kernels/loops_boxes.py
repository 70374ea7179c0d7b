# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""The compiled loop of `boxes`. Only `jit` imports this module, because it imports numba."""

from __future__ import annotations

import numpy as np

from mmdask.kernels.loops import AHEAD, _compile, _copy, _prefetch


@_compile
def copy_boxes(source, first, shapes, begin, kept, out, lengths, place, width):
    n, axes = shapes.shape
    last = axes - 1
    at = np.zeros(axes, np.int64)  # where in the box: of all axes but the last, whose items lie together
    row_nbytes = width
    for a in range(axes):
        row_nbytes *= lengths[a]
    for i in range(n):
        if i + AHEAD < n:
            _prefetch(source + width * first[i + AHEAD])
        empty = False
        for a in range(axes):
            at[a] = 0
            if kept[i, a] <= 0:
                empty = True
        if empty:
            out += row_nbytes
            continue
        nbytes = kept[i, last] * width
        more = True
        while more:
            here, there = np.int64(0), np.int64(0)
            for a in range(axes):
                here = here * shapes[i, a] + begin[i, a] + at[a]
                there = there * lengths[a] + place[i, a] + at[a]
            _copy(out + there * width, source + (first[i] + here) * width, nbytes)
            more = False
            for a in range(last - 1, -1, -1):
                at[a] += 1
                if at[a] < kept[i, a]:
                    more = True
                    break
                at[a] = 0
        out += row_nbytes


@_compile
def _repeated(place, count, length, left, mode):
    """Which of its `count` items a row repeats at a place of an axis."""
    if left:
        place -= length - count
    if place >= 0 and place < count:
        return place
    if mode == 0:
        return np.int64(0) if place < 0 else count - 1
    if mode == 2:
        return place % count
    period = max(2 * (count - 1), 1)
    back = place % period
    return min(back, period - back) % count


@_compile
def repeat_boxes(source, first, shapes, begin, kept, out, lengths, width, left, mode):
    n, axes = shapes.shape
    last = axes - 1
    at = np.zeros(axes, np.int64)
    row_items = np.int64(1)
    for a in range(axes):
        row_items *= lengths[a]
    for i in range(n):
        empty = row_items == 0
        for a in range(axes):
            at[a] = 0
            if kept[i, a] <= 0:
                empty = True
        if empty:
            out += row_items * width
            continue
        count = min(kept[i, last], lengths[last])
        more = True
        while more:
            here = np.int64(0)
            for a in range(last):
                item = _repeated(at[a], min(kept[i, a], lengths[a]), lengths[a], left, mode)
                here = here * shapes[i, a] + begin[i, a] + item
            here = first[i] + here * shapes[i, last] + begin[i, last]
            for j in range(lengths[last]):
                item = _repeated(np.int64(j), count, lengths[last], left, mode)
                _copy(out, source + (here + item) * width, width)
                out += width
            more = False
            for a in range(last - 1, -1, -1):
                at[a] += 1
                if at[a] < lengths[a]:
                    more = True
                    break
                at[a] = 0
