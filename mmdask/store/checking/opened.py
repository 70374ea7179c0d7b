"""Array files, opened to be checked: their data as bytes, and what is around these.

By plain reads, never by a map: a disk that cannot give a block back then is an error that names the place, where a map
would kill the process.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mmdask.errors import LimitError
from mmdask.store.arrays.files import open_file, read_fully, too_many_files
from mmdask.store.arrays.npy import EXTENT, HEADER, ArraySpec, checksum, header
from mmdask.store.storage import storage_of
from mmdask.store.zarr.codec import decode
from mmdask.store.zarr.fetch import fetch_chunk
from mmdask.store.zarr.form import METADATA, array_metadata

__all__ = ["OpenArray", "Place", "extent_nbytes", "read_elements", "why_unread"]

Bytes = npt.NDArray[np.uint8]


class OpenArray(Protocol):
    """An array of which bytes are read. One thread's own."""

    def size_problem(self) -> str:
        """What is wrong with the sizes of its files; empty if nothing is."""
        ...

    def header_problem(self) -> str:
        """What is wrong with what other programs know the array by; empty if nothing is."""
        ...

    def extent_problem(self, extent: int) -> str:
        """What is wrong with an extent as it is stored, if that differs from its data; empty if nothing is."""
        ...

    def fill(self, buffer: Bytes, offset: int) -> None:
        """Fill `buffer` with the data from an offset on; raises OSError."""
        ...

    def close(self) -> None: ...


def extent_nbytes(spec: ArraySpec) -> int:
    """Data bytes that share one checksum; 1 of an array that has none."""
    if spec.zarr is None:
        return EXTENT
    return max(spec.zarr.chunk * (spec.nbytes // max(spec.shape[0], 1)), 1)


def why_unread(error: OSError) -> str:
    """What a report says of a file that cannot be read.

    Raises
    ------
    LimitError
        Where this process may open no more files, which says nothing of the file.
    """
    if isinstance(error, LimitError):
        raise error
    if limit := too_many_files(error, str(error.filename)):
        raise limit from None
    return f"cannot be read: {error.strerror}"


@dataclass(frozen=True)
class Place:
    """An array in a layer's folder, and what part.json says of it."""

    parts: str
    layer_id: str
    spec: ArraySpec

    def open(self) -> OpenArray:
        """Raises OSError."""
        return _NpyFile(self) if self.spec.zarr is None else _ZarrFiles(self)


class _NpyFile:
    _fd = -1

    def __init__(self, place: Place) -> None:
        self.spec = place.spec
        self._fd = open_file(place.parts, place.layer_id, place.spec.file)
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        # Where the kernel knows this, what is read once does not push out what others read often.
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_NOREUSE)

    def size_problem(self) -> str:
        size, expected = os.fstat(self._fd).st_size, HEADER + self.spec.nbytes
        return "" if size == expected else f"has {size} bytes, should have {expected}"

    def header_problem(self) -> str:
        if os.pread(self._fd, HEADER, 0) == header(self.spec.dtype, self.spec.shape):
            return ""
        return "the header is damaged (mmdask does not need it, numpy.load does)"

    def extent_problem(self, extent: int) -> str:
        return ""

    def fill(self, buffer: Bytes, offset: int) -> None:
        try:
            read_fully(self._fd, buffer.data, HEADER + offset)
        except EOFError:
            raise OSError(0, "the file ends before its data do") from None

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __del__(self) -> None:  # after an interrupt before anyone holds it
        self.close()


class _ZarrFiles:
    def __init__(self, place: Place) -> None:
        assert place.spec.zarr is not None
        self.spec, self.zarr = place.spec, place.spec.zarr
        self.storage = storage_of(os.path.dirname(place.parts))
        self.names = "parts", place.layer_id, place.spec.file
        self.size = extent_nbytes(place.spec)
        self._known: tuple[int, Bytes] | None = None
        self._object: tuple[int, bytes] | None = None

    def size_problem(self) -> str:
        axes = len(self.spec.shape)
        for number, expected in enumerate(self.zarr.sizes):
            found = self.storage.size(*self.names, *self.zarr.names(number, axes))
            if not found.n_files:
                return f"object {number} is gone"
            if found.nbytes != expected:
                return f"object {number} has {found.nbytes} bytes, should have {expected}"
        return ""

    def header_problem(self) -> str:
        expected = array_metadata(self.spec.dtype, self.spec.shape, self.zarr)
        if self.storage.read(*self.names, METADATA, limit=len(expected)) == expected:
            return ""
        return f"{METADATA} is damaged (mmdask does not need it, zarr.open does)"

    def extent_problem(self, extent: int) -> str:
        number, inside = divmod(extent, self.zarr.shards)
        if inside:
            return ""  # said of the first one of the object
        data = self.storage.read(
            *self.names, *self.zarr.names(number, len(self.spec.shape)), limit=self.zarr.sizes[number]
        )
        self._object = number, data
        if len(data) == self.zarr.sizes[number] and checksum(data) == self.zarr.hashes[number]:
            return ""
        return f"object {number} differs from what was written"

    def fill(self, buffer: Bytes, offset: int) -> None:
        done = 0
        while done < len(buffer):
            chunk, start = divmod(offset + done, self.size)
            n = min(len(buffer) - done, self.size - start)
            buffer[done : done + n] = self._chunk(chunk)[start : start + n]
            done += n

    def _chunk(self, chunk: int) -> Bytes:
        if self._known is None or self._known[0] != chunk:
            self._known = None
            out = np.empty(self.size, np.uint8)
            if self.zarr.shards == 1 and self._object is not None and self._object[0] == chunk:
                data = self._object[1]
            else:
                data = fetch_chunk(self.storage, self.names, self.spec, chunk)
            decode(data, self.zarr.codec, out)
            left = self.spec.nbytes - chunk * self.size
            if left < self.size and out[left:].any():
                raise OSError(errno.EIO, "what fills up the last chunk is not zeros")
            self._known = chunk, out
        return self._known[1]

    def close(self) -> None:
        self._known = self._object = None


def read_elements(file: OpenArray, spec: ArraySpec, start: int, stop: int) -> npt.NDArray[Any]:
    """Elements `start` to `stop` along the first axis, read into memory."""
    width = spec.nbytes // spec.shape[0] if spec.shape[0] else 0
    raw = np.empty((stop - start) * width, np.uint8)
    file.fill(raw, start * width)
    return raw.view(spec.dtype).reshape(stop - start, *spec.shape[1:])
