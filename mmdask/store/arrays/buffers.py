"""Memory that is used again once nobody looks at it: fresh pages cost as much as decoding into them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.store.arrays.cache import Cache

__all__ = ["Buffers"]

Bytes = npt.NDArray[np.uint8]
#: less comes from the allocator as quickly
_LEAST_NBYTES = 1 << 16


class Buffers:
    """Arrays of bytes whose memory comes back when the last view of them is gone.

    For threads and without locks: memory comes back wherever the last reference goes, also inside of a lock.

    Parameters
    ----------
    limit : int
        Bytes that lie here unused, at most.
    kept : Cache, optional
        What is kept of it, which counts, too.

    Examples
    --------
    >>> buffers = Buffers(1 << 20)
    >>> view = buffers.get(1 << 17)[5:]
    >>> buffers.nbytes
    0
    >>> del view
    >>> buffers.nbytes
    131072
    """

    def __init__(self, limit: int, kept: Cache[Any] | None = None) -> None:
        self.limit, self._kept = limit, kept
        self._free: dict[int, list[Bytes]] = {}

    @property
    def nbytes(self) -> int:
        """Bytes that lie here unused."""
        return sum(size * len(free) for size, free in list(self._free.items()))

    def get(self, nbytes: int) -> Bytes:
        """So many bytes, whatever is in them."""
        if nbytes < _LEAST_NBYTES:
            return np.empty(nbytes, np.uint8)
        memory = self._free_one(nbytes)
        return np.asarray(_Lent(self, np.empty(nbytes, np.uint8) if memory is None else memory))[:nbytes]

    def _free_one(self, nbytes: int) -> Bytes | None:
        """What lies here of this size, or up to twice of it."""
        for size in sorted(self._free):
            if nbytes <= size <= 2 * nbytes:
                try:
                    return self._free[size].pop()
                except IndexError:  # all are lent, or another thread was quicker
                    continue
        return None

    def clear(self) -> None:
        """Give up what lies here."""
        self._free = {}

    def _take_back(self, memory: Bytes) -> None:
        free, room = self._free, self.limit - (0 if self._kept is None else self._kept.cost)
        free.setdefault(len(memory), []).append(memory)
        # Of other sizes first, which may never be asked for again.
        for size in sorted(free, key=len(memory).__eq__):
            while self.nbytes > room and free[size]:
                try:
                    free[size].pop(0)
                except IndexError:  # another thread was quicker
                    break


class _Lent:
    """What an array that was lent refers to; numpy keeps it as long as any view."""

    _memory: Bytes | None = None

    def __init__(self, buffers: Buffers, memory: Bytes) -> None:
        self._buffers, self._memory = buffers, memory
        self.__array_interface__: dict[str, Any] = memory.__array_interface__

    def __del__(self) -> None:
        if self._memory is not None:  # an interrupt may come before anything is set
            self._buffers._take_back(self._memory)
