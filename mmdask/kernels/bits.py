"""Row numbers of set bits, for many runs of rows over many parts in one call."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mmdask.kernels.jit import Kernel

__all__ = ["rows_of_runs"]

Int64s = npt.NDArray[np.int64]
NONE, ALL = 0, -1


def rows_of_runs(
    parts: Sequence[bool | npt.NDArray[np.uint8]], starts: Int64s, low: Int64s, high: Int64s
) -> npt.NDArray[np.int64]:
    """Row numbers of the set bits of some runs of rows, run after run.

    Parameters
    ----------
    parts : sequence of bool or numpy.ndarray
        Per part True (all rows), False (none), or its bits in little bit order, uint8 ``(ceil(rows / 8),)``.
    starts : numpy.ndarray
        int64 ``(parts + 1,)``: the first row of each part, and the number of rows.
    low, high : numpy.ndarray
        int64 ``(runs,)``: first row of each run, and the row behind its last; within 0 and the number of rows.

    Returns
    -------
    numpy.ndarray
        int64, ascending within each run.

    Examples
    --------
    >>> parts = [np.array([0b101], np.uint8), True]
    >>> rows_of_runs(parts, np.array([0, 3, 5]), np.array([2, 0]), np.array([5, 2]))
    array([2, 3, 4, 0])
    """
    addresses = np.array([_address(p) for p in parts], np.int64)
    out = np.empty(int(np.maximum(high - low, 0).sum()), np.int64)
    if not len(out):
        return out
    n = ROWS_OF_RUNS(addresses, starts, low, high, out)
    return out[:n].copy() if n < len(out) // 2 else out[:n]


def _address(bits: bool | npt.NDArray[np.uint8]) -> int:
    if isinstance(bits, bool):
        return ALL if bits else NONE
    address: int = bits.__array_interface__["data"][0]
    return address


def _rows_of_runs_twin(addresses: Int64s, starts: Int64s, low: Int64s, high: Int64s, out: Int64s) -> int:
    from mmdask.kernels.addresses import view_of

    n = 0
    for a, b in zip(low.tolist(), high.tolist(), strict=True):
        p = int(np.searchsorted(starts, a, side="right")) - 1
        while a < b:
            start, stop = int(starts[p]), min(int(starts[p + 1]), b)
            rows: Int64s = np.arange(a, stop)
            if addresses[p] == NONE:
                rows = rows[:0]
            elif addresses[p] != ALL:
                first = (a - start) // 8
                raw = view_of(int(addresses[p]) + first, -(-(stop - start) // 8) - first, 1)[:, 0]
                mask = np.unpackbits(raw, bitorder="little")[a - start - 8 * first :][: stop - a]
                rows = a + np.flatnonzero(mask)
            out[n : n + len(rows)] = rows
            n += len(rows)
            a, p = stop, p + 1
    return n


ROWS_OF_RUNS = Kernel(_rows_of_runs_twin, "loops.rows_of_runs")
