"""Which runs of rows to read for rows in any order: pure arithmetic, for arrays that have no address.

A read of its own costs as much as reading on for some 64 KiB, on a disk, from a server and from memory alike.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Span", "spans_of"]

Int64s = npt.NDArray[np.int64]
#: rows between two that are wanted are read along up to so many bytes
GAP_NBYTES = 1 << 16
#: and what is read at once ends here, so that rows read along take little memory
SPAN_NBYTES = 8 << 20
_LEAST = 2.0**-30  # bytes of a row that has none


class Span(NamedTuple):
    """Rows `start` to `stop` of a part, of which those at `wanted`, counted from `start`, are wanted."""

    part: int
    start: int
    stop: int
    wanted: Int64s


def spans_of(starts: Int64s, rows: Int64s, row_nbytes: Callable[[int], float]) -> tuple[list[Span], Int64s]:
    """The spans in which some rows lie, and where each row is among all that are wanted in them.

    Parameters
    ----------
    starts : numpy.ndarray
        int64 ``(parts + 1,)``: the first row of each part, and the number of rows.
    rows : numpy.ndarray
        int64 ``(n,)``, between 0 and the number of rows, in any order, repeats allowed.
    row_nbytes : callable
        Of the number of a part: how many bytes one of its rows has, in the mean.

    Returns
    -------
    spans : list of Span
        Ascending; together they want every row once.
    where : numpy.ndarray
        int64 ``(n,)``: row i is wanted number ``where[i]`` of all spans.

    Examples
    --------
    >>> spans, where = spans_of(np.array([0, 10, 100]), np.array([12, 3, 5, 12]), lambda part: 1 << 15)
    >>> [(s.part, s.start, s.stop, s.wanted.tolist()) for s in spans], where.tolist()
    ([(0, 3, 6, [0, 2]), (1, 2, 3, [0])], [2, 0, 1, 2])
    """
    wanted, where = np.unique(rows, return_inverse=True)
    part = np.searchsorted(starts, wanted, side="right") - 1
    local = wanted - starts[part]
    parts, which = np.unique(part, return_inverse=True)
    nbytes = np.maximum([row_nbytes(p) for p in parts.tolist()], _LEAST)
    gap, most = np.floor(GAP_NBYTES / nbytes), np.maximum(np.floor(SPAN_NBYTES / nbytes), 1)
    ends = (np.diff(part) > 0) | (np.diff(local) - 1 > gap[which[1:]]) | (np.diff(local // most[which]) != 0)
    bounds = [0, *(np.flatnonzero(ends) + 1).tolist(), len(wanted)] if len(wanted) else []
    first, number = local.tolist(), part.tolist()
    spans = [Span(number[a], first[a], first[b - 1] + 1, local[a:b] - first[a]) for a, b in itertools.pairwise(bounds)]
    return spans, where
