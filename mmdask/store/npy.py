"""One array, one plain ``.npy`` file, written front to back with checksums while the bytes are hot.

The header takes 4,096 bytes, so that the data are page-aligned and `numpy.load` reads the file without mmdask.
Lengths are trusted from part.json alone; the header is a courtesy to other tools.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from mmdask.store.system import SYSTEM

__all__ = ["EXTENT", "HEADER", "ArraySpec", "ArrayWriter", "header"]

#: bytes before the data
HEADER = 4096
#: data bytes that share one checksum
EXTENT = 4 << 20


@dataclass(frozen=True)
class ArraySpec:
    """One array file of a layer: its name in the layer's folder, and what must be in it."""

    file: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    checksums: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        """Data bytes, without the header."""
        n = self.dtype.itemsize
        for length in self.shape:
            n *= length
        return n


def header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """The first 4,096 bytes of a ``.npy`` file (format 1.0) of this dtype and shape, C order."""
    text = repr({"descr": dtype.str, "fortran_order": False, "shape": shape}).encode("latin1")
    start = b"\x93NUMPY\x01\x00" + (HEADER - 10).to_bytes(2, "little")
    return start + text + b" " * (HEADER - 11 - len(text)) + b"\n"


def checksum(data: Any) -> str:
    """xxh3-64 of a buffer as 16 hex digits."""
    return str(xxhash.xxh3_64_hexdigest(data))


class ArrayWriter:
    """Append rows to one new ``.npy`` file.

    Plain writes, never a writable map: on a full disk a map kills the process, a write raises.
    """

    def __init__(self, folder: str, file: str, dtype: np.dtype[Any], item_shape: tuple[int, ...] = ()) -> None:
        self.file = file
        self.dtype = dtype
        self.item_shape = item_shape
        self.path = os.path.join(folder, file)
        self.rows = 0
        self.nbytes = 0
        self._fd = SYSTEM.create(self.path)
        self._checksums: list[str] = []
        self._extent = xxhash.xxh3_64()
        self._extent_nbytes = 0

    def append(self, values: npt.NDArray[Any]) -> None:
        """Write rows ``(n, *item_shape)`` of this dtype behind those already there."""
        if values.dtype != self.dtype or values.shape[1:] != self.item_shape:
            raise AssertionError(f"{self.file}: {values.dtype}{values.shape} into {self.dtype}{self.item_shape}")
        data = memoryview(np.ascontiguousarray(values).reshape(-1).view("u1").data)
        SYSTEM.write(self.fd, data, HEADER + self.nbytes)
        self.rows += len(values)
        self.nbytes += len(data)
        while len(data):
            piece = data[: EXTENT - self._extent_nbytes]
            self._extent.update(piece)
            self._extent_nbytes += len(piece)
            data = data[len(piece) :]
            if self._extent_nbytes == EXTENT:
                self._close_extent()

    def _close_extent(self) -> None:
        self._checksums.append(self._extent.hexdigest())
        self._extent = xxhash.xxh3_64()
        self._extent_nbytes = 0

    def finish(self) -> ArraySpec:
        """Write the header; the caller syncs and closes."""
        if self._extent_nbytes:
            self._close_extent()
        shape = (self.rows, *self.item_shape)
        SYSTEM.write(self.fd, header(self.dtype, shape), 0)
        return ArraySpec(self.file, self.dtype, shape, tuple(self._checksums))

    def read(self, start: int, nbytes: int) -> bytes:
        """Data bytes already written."""
        return os.pread(self.fd, nbytes, HEADER + start)

    @property
    def fd(self) -> int:
        """A descriptor of the file, opened again when `close` gave it back.

        Syncing through a new descriptor still reports an error of writing that no one has seen.
        """
        return self.open()

    def open(self) -> int:
        """Open the file again if it is closed."""
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        return self._fd

    def close(self) -> None:
        """Give the descriptor back: a process may hold 1,024, and a layer may have more arrays."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
