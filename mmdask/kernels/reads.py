"""Many short reads of one file, without the interpreter between them."""

from __future__ import annotations

import ctypes
import os
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.kernels.addresses import address_of
from mmdask.kernels.jit import Kernel
from mmdask.kernels.spread import spread

__all__ = ["read_runs"]

Int64s = npt.NDArray[np.int64]
#: a thread has so many reads at least
_LEAST = 256


def read_runs(fd: int, places: Int64s, counts: Int64s, out: npt.NDArray[np.uint8]) -> bool:
    """Fill an array with runs of bytes of a file, one after the other; whether that went well.

    Where it did not, an error or the end of the file kept one of them from being read: a plain read tells which.

    Parameters
    ----------
    fd : int
        Open for reading.
    places, counts : numpy.ndarray
        int64 ``(n,)``: where in the file each run begins, and how many bytes it has.
    out : numpy.ndarray
        uint8, C-contiguous, as long as all of them.
    """
    ends = np.cumsum(counts)
    begins, base = ends - counts, address_of(out)

    def piece(a: int, b: int) -> bool:
        first = int(begins[a]) if a < b else 0
        return bool(READ(fd, places[a:b], ends[a:b] - first, base + first) == b - a)

    return all(spread(len(places), piece, _LEAST))


def _read_twin(fd: int, places: Int64s, ends: Int64s, out: int) -> int:
    """Read runs of bytes to an address, until one fails; how many were read."""
    begin = 0
    view = memoryview((ctypes.c_ubyte * (int(ends[-1]) if len(ends) else 0)).from_address(out)).cast("B")
    for i, (place, end) in enumerate(zip(places.tolist(), ends.tolist(), strict=True)):
        try:
            if os.preadv(fd, [view[begin:end]], place) != end - begin:
                return i
        except OSError:
            return i
        begin = end
    return len(places)


READ: Any = Kernel(_read_twin, "loops_reads.read_runs")
