"""Pages of maps: which are in memory, and asking the system to read those that are not.

A page of a map that is touched and not in memory comes with what the system reads around it: up to megabytes, of which
a block of 64 KiB is a small part. What is asked for before comes alone, and many pieces of it at the same time.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ask", "gaps", "in_memory", "merged", "places", "spans"]

_PAGE = mmap.PAGESIZE
#: bytes that the system maps around a page that is touched
_AROUND = 16 * _PAGE
Int64s = npt.NDArray[np.int64]

_libc = ctypes.CDLL(None, use_errno=True)
for _call in (_libc.madvise, _libc.mincore):
    _call.restype = ctypes.c_int
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]


def spans(array: npt.NDArray[Any], starts: Int64s, stops: Int64s) -> Int64s:
    """Addresses of the first byte, and beyond the last one, of runs of elements: int64 ``(n, 2)``.

    Parameters
    ----------
    array : numpy.ndarray
        C-contiguous.
    starts, stops : numpy.ndarray
        int64 ``(n,)``: elements along the first axis; what lies outside is cut off.
    """
    return places(array.__array_interface__["data"][0], len(array), array.nbytes, starts, stops)


def places(first: int, length: int, nbytes: int, starts: Int64s, stops: Int64s) -> Int64s:
    """As `spans`, of an array of which it is known where its first byte is, how many elements it has, and bytes."""
    edges = np.clip(np.stack([starts, stops], axis=1), 0, length)
    found: Int64s = first + edges * (nbytes // max(length, 1))
    return found[found[:, 1] > found[:, 0]]


def merged(found: Int64s) -> list[tuple[int, int]]:
    """Spans of bytes, in their order and from the begin of a page on; those that touch are one."""
    if not len(found):
        return []
    begins = found[:, 0] // _PAGE * _PAGE
    ends = found[:, 1]
    order = np.argsort(begins, kind="stable")
    begins, ends = begins[order], np.maximum.accumulate(ends[order])
    first = np.concatenate([[True], begins[1:] > ends[:-1]])
    last = np.append(first[1:], True)
    return list(zip(begins[first].tolist(), ends[last].tolist(), strict=True))


def gaps(found: Int64s, begin: int, end: int) -> list[tuple[int, int]]:
    """Whole pages between spans of addresses, from one address (of a page) to another; the last may end anywhere.

    Where less lies between two spans than comes with any page that is touched, they are taken as one.
    """
    order = np.argsort(found[:, 0], kind="stable")
    begins = np.append(found[order, 0], end + 2 * _AROUND)
    ends = np.maximum.accumulate(np.concatenate([[begin], found[order, 1]]))
    first, last = -(-ends // _PAGE) * _PAGE, begins // _PAGE * _PAGE
    wide = last - first >= _AROUND
    last = np.minimum(last, end)
    return [(a, b) for a, b in zip(first[wide].tolist(), last[wide].tolist(), strict=True) if a < b]


def in_memory(addresses: list[int]) -> bool:
    """Whether the system has the pages of all of these; they are mapped.

    A system that does not tell about files of others says that it has.
    """
    state = ctypes.c_ubyte()
    for address in addresses:
        if _libc.mincore(address // _PAGE * _PAGE, _PAGE, ctypes.byref(state)) == 0 and not state.value & 1:
            return False
    return True


def ask(found: Int64s) -> None:
    """Have the system read the pages of spans of addresses, in their order, without waiting for them.

    Advice alone: where the system does not take it, pages come when they are touched.
    """
    for begin, end in merged(found):
        _libc.madvise(begin, end - begin, mmap.MADV_WILLNEED)
