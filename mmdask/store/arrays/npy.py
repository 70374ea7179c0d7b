"""One array, one plain ``.npy`` file, written front to back with checksums while it is hot, or filled by others.

The header takes 4,096 bytes, so that the data are page-aligned and `numpy.load` reads the file without mmdask.
Lengths are trusted from part.json alone; the header is a courtesy to other tools.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from mmdask.errors import ConflictError
from mmdask.kernels.once import once
from mmdask.store.arrays.files import read_fully
from mmdask.store.system import SYSTEM, start_writing_back
from mmdask.store.zarr.spec import ZarrSpec

__all__ = ["EXTENT", "HEADER", "ArraySpec", "ArrayWriter", "header"]

#: bytes before the data
HEADER = 4096
#: data bytes that share one checksum
EXTENT = 4 << 20


@dataclass(frozen=True)
class ArraySpec:
    """One array of a layer: its name in the layer's folder, and what must be in it.

    `zarr` says how it is stored where it is no ``.npy`` file. The checksums are those of its data, for each 4 MiB of a
    file and for each chunk of zarr.
    """

    file: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    checksums: tuple[str, ...]
    zarr: ZarrSpec | None = None

    @once
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


def as_stored(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same values, bools as 0 and 1: numpy takes every other byte for true, too, where it looks at foreign ones."""
    if values.dtype.kind != "b" or not values.size or values.view(np.uint8).max() <= 1:
        return values
    return np.asarray(values.view(np.uint8) != 0)


def checksum(data: Any) -> str:
    """xxh3-64 of a buffer as 16 hex digits."""
    return str(xxhash.xxh3_64_hexdigest(data))


class ArrayWriter:
    """One new ``.npy`` file: append rows to it, or let others fill as many `rows` as it was made with.

    The file is made when it is first written to.
    Plain writes, never a writable map: on a full disk a map kills the process, a write raises.
    """

    def __init__(
        self,
        folder: str,
        file: str,
        dtype: np.dtype[Any],
        item_shape: tuple[int, ...] = (),
        rows: int | None = None,
    ) -> None:
        self.file = file
        self.dtype = dtype
        self.item_shape = item_shape
        self.rows = 0
        self.nbytes = 0
        self.path = self._final = os.path.join(folder, file)
        self._filled_by_others = rows is not None
        if self._filled_by_others:
            self.path += ".fill"  # the name under which `region.filling` finds it, until `finish`
        self._fd = -1
        self._is_there = False
        self._spec: ArraySpec | None = None
        self._checksums: list[str] = []
        self._extent = xxhash.xxh3_64()
        self._extent_nbytes = 0
        #: data bytes that the kernel was asked to bring to the disk
        self._on_its_way = 0
        #: is given what others wrote, a run of elements and the number of the first, when it is hashed
        self.look: Callable[[npt.NDArray[Any], int], None] | None = None
        if rows is not None:
            self._allocate(rows)

    def _allocate(self, rows: int) -> None:
        """Make rows of zeros; they take no space before they are written."""
        nbytes = ArraySpec(self.file, self.dtype, (rows, *self.item_shape), ()).nbytes
        try:
            SYSTEM.truncate(self.fd, HEADER + nbytes)
        finally:
            self.close()
        self.rows, self.nbytes = rows, nbytes

    def append(self, values: npt.NDArray[Any]) -> None:
        """Write rows ``(n, *item_shape)`` of this dtype behind those already there."""
        if values.dtype != self.dtype or values.shape[1:] != self.item_shape:
            raise AssertionError(f"{self.file}: {values.dtype}{values.shape} into {self.dtype}{self.item_shape}")
        data = memoryview(np.ascontiguousarray(as_stored(values)).reshape(-1).view("u1").data)
        SYSTEM.write(self.fd, data, HEADER + self.nbytes)
        self.rows += len(values)
        self.nbytes += len(data)
        if self.nbytes - self._on_its_way >= EXTENT:
            # while what follows is computed
            start_writing_back(self.fd, HEADER + self._on_its_way, self.nbytes - self._on_its_way)
            self._on_its_way = self.nbytes
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
        """Write the header; the caller syncs and closes. Nothing can be appended afterwards.

        Raises
        ------
        ConflictError
            When another process is just writing to rows that others fill, or could not.
        """
        if self._spec is not None:
            return self._spec
        shape = (self.rows, *self.item_shape)
        if self._filled_by_others:
            self._close_to_others(header(self.dtype, shape))
        else:
            SYSTEM.write(self.fd, header(self.dtype, shape), 0)
        if self._extent_nbytes:
            self._close_extent()
        self._spec = ArraySpec(self.file, self.dtype, shape, tuple(self._checksums))
        return self._spec

    def end(self) -> None:
        """`finish` it, and let the kernel bring what is left to the disk while other arrays are written."""
        self.finish()
        start_writing_back(self.fd, 0, 0)

    def _close_to_others(self, header: bytes) -> None:
        """Hash what others wrote, and take away the name by which they find the file, while none of them writes."""
        with self._while_nobody_fills() as fd:
            SYSTEM.write(fd, header, 0)
            for start, piece in self._read_filled(EXTENT):
                self._checksums.append(checksum(piece))
                if self.look is not None:
                    self.look(np.frombuffer(piece, self.dtype), start // self.dtype.itemsize)
            SYSTEM.fsync(fd)  # nothing is named before its bytes are durable
            SYSTEM.rename(self.path, self._final)
            self.path = self._final

    def taken(self, rows: int) -> Iterator[npt.NDArray[Any]]:
        """What others filled, so many rows at a time, in place of `finish`: the file is gone then.

        An array is good until the next one. Raises as `finish` does.
        """
        with self._while_nobody_fills():
            SYSTEM.unlink(self.path)
            width = self.nbytes // self.rows if self.rows else 0
            for _, piece in self._read_filled(rows * width):
                yield np.frombuffer(piece, self.dtype).reshape(-1, *self.item_shape)

    @contextlib.contextmanager
    def _while_nobody_fills(self) -> Iterator[int]:
        try:
            fd = self.fd
        except FileNotFoundError:
            if not os.path.isdir(os.path.dirname(self.path)):
                raise  # the whole layer was removed
            raise ConflictError(f"{self.file}: an assignment to its rows failed; they cannot be committed") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(
                f"{self.file}: another process is still assigning to its rows; wait for all of them before these rows "
                "are committed"
            ) from None
        try:
            yield fd
        finally:
            if self._fd == fd:  # after an interrupt this may come late, when the number is that of another file
                fcntl.flock(fd, fcntl.LOCK_UN)

    def _read_filled(self, step: int) -> Iterator[tuple[int, memoryview]]:
        """The data bytes, so many at a time, and where each run begins; the next run takes its place."""
        buffer = memoryview(bytearray(min(step, self.nbytes)))
        for start in range(0, self.nbytes, max(step, 1)):
            piece = buffer[: self.nbytes - start]
            try:
                read_fully(self.fd, piece, HEADER + start)
            except EOFError:
                raise OSError(errno.EIO, "the file is shorter than what was allocated", self.path) from None
            yield start, piece

    def read(self, start: int, nbytes: int) -> bytes:
        """Data bytes already written."""
        return os.pread(self.fd, nbytes, HEADER + start)

    def pieces(self) -> Iterator[npt.NDArray[Any]]:
        """What was appended so far, in order."""
        for start in range(0, self.nbytes, EXTENT):
            piece = self.read(start, min(EXTENT, self.nbytes - start))
            yield np.frombuffer(piece, self.dtype).reshape(-1, *self.item_shape)

    def same_as(self, other: ArrayWriter) -> bool:
        """Whether both have the same bytes."""
        same = self.nbytes == other.nbytes and all(
            self.read(start, EXTENT) == other.read(start, EXTENT) for start in range(0, self.nbytes, EXTENT)
        )
        other.close()
        return same

    def remove(self) -> None:
        """Take the file away."""
        self.close()
        if self._is_there:
            SYSTEM.unlink(self.path)

    @property
    def fd(self) -> int:
        """A descriptor of the file, opened again when `close` gave it back.

        Syncing through a new descriptor still reports an error of writing that no one has seen.
        """
        return self.open()

    def open(self) -> int:
        """Make the file if it is not there yet, or open it again if it is closed."""
        if not self._is_there:
            self._fd = SYSTEM.create(self.path)
            self._is_there = True
        elif self._fd < 0:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        return self._fd

    def close(self) -> None:
        """Give the descriptor back: a process may hold 1,024, and a layer may have more arrays."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1  # first: an interrupt comes after os.close, and the number may be reused then
            os.close(fd)
