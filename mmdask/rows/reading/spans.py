"""Which runs of rows to read for rows in any order: pure arithmetic, for arrays that have no address.

A read of its own costs as much as reading on for some 64 KiB on a disk and from a server, and some 8 KiB from memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Spans", "spans_of"]

Int64s = npt.NDArray[np.int64]
#: rows between two that are wanted are read along up to so many bytes
GAP_NBYTES = 1 << 16
#: where they are in memory
NEAR_NBYTES = 1 << 13
#: and what is read at once ends here, so that rows read along take little memory
SPAN_NBYTES = 8 << 20
#: spans that are read together, before what was read along is given up
MOST_SPANS = 1 << 12
_LEAST = 2.0**-30  # bytes of a row that has none


class Spans(NamedTuple):
    """Runs of rows of a part: `starts` to `stops`. Of all these, one behind the other, those at `wanted` are wanted."""

    part: int
    starts: Int64s
    stops: Int64s
    wanted: Int64s


def spans_of(
    starts: Int64s, rows: Int64s, row_nbytes: Callable[[int], float], near: bool = False
) -> tuple[list[Spans], Int64s]:
    """The spans in which some rows lie, and where each row is among all that are wanted in them.

    Parameters
    ----------
    starts : numpy.ndarray
        int64 ``(parts + 1,)``: the first row of each part, and the number of rows.
    rows : numpy.ndarray
        int64 ``(n,)``, between 0 and the number of rows, in any order, repeats allowed.
    row_nbytes : callable
        Of the number of a part: how many bytes one of its rows has, in the mean.
    near : bool
        Whether they are in memory, so that less is read along.

    Returns
    -------
    spans : list of Spans
        Those that are read together; ascending. Together they want every row once.
    where : numpy.ndarray
        int64 ``(n,)``: row i is wanted number ``where[i]`` of all spans.

    Examples
    --------
    >>> spans, where = spans_of(np.array([0, 10, 100]), np.array([12, 3, 5, 12, 60]), lambda part: 1 << 15)
    >>> [(s.part, s.starts.tolist(), s.stops.tolist(), s.wanted.tolist()) for s in spans], where.tolist()
    ([(0, [3], [6], [0, 2]), (1, [2, 50], [3, 51], [0, 1])], [2, 0, 1, 2, 3])
    """
    wanted, where = np.unique(rows, return_inverse=True)
    part = np.searchsorted(starts, wanted, side="right") - 1
    local = wanted - starts[part]
    parts, which = np.unique(part, return_inverse=True)
    nbytes = np.maximum([row_nbytes(p) for p in parts.tolist()], _LEAST)
    gap, most = np.floor((NEAR_NBYTES if near else GAP_NBYTES) / nbytes), np.maximum(np.floor(SPAN_NBYTES / nbytes), 1)
    ends = (np.diff(part) > 0) | (np.diff(local) - 1 > gap[which[1:]]) | (np.diff(local // most[which]) != 0)
    edges = np.concatenate([[0], np.flatnonzero(ends) + 1, [len(wanted)]]) if len(wanted) else np.zeros(1, np.int64)
    first, last = edges[:-1], edges[1:] - 1
    begin, end = local[first], local[last] + 1
    # Bytes of all spans before, of which those that end in the same piece of memory are read together.
    before = np.cumsum((end - begin) * nbytes[which[first]])
    number = np.arange(len(first))
    groups = (np.diff(part[first]) > 0) | (np.diff(before // SPAN_NBYTES) > 0) | (np.diff(number // MOST_SPANS) > 0)
    bounds = [0, *(np.flatnonzero(groups) + 1).tolist(), len(first)] if len(first) else []
    # Where each wanted row is, if all spans lie one behind the other.
    ahead = np.cumsum(end - begin) - (end - begin)
    at = local + np.repeat(ahead - begin, edges[1:] - first)
    spans = [
        Spans(int(part[first[a]]), begin[a:b], end[a:b], at[first[a] : last[b - 1] + 1] - ahead[a])
        for a, b in itertools.pairwise(bounds)
    ]
    return spans, where
