"""`ZarrWriter`: one zarr array of a layer, written chunk by chunk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mmdask.store.arrays.npy import ArraySpec, as_stored, checksum
from mmdask.store.storage import LayerFiles
from mmdask.store.zarr.codec import decode, encode, index_nbytes, join, split
from mmdask.store.zarr.form import METADATA, Form, array_metadata, chunk_length
from mmdask.store.zarr.spec import ZarrSpec

__all__ = ["ZarrWriter"]

Array = npt.NDArray[Any]
#: decoded bytes of an object that has several chunks: some objects are in memory at once while they are written
_OBJECT_NBYTES = 16 << 20


class Waiting(Protocol):
    """Keeps encoded chunks; see `mmdask.store.zarr.scratch.Spool`."""

    def keep(self, data: bytes) -> Any: ...
    def take(self, kept: Any) -> bytes: ...
    def look(self, kept: Any) -> bytes: ...


class ZarrWriter:
    """One new array: append rows to it. A chunk is written when it is complete.

    Parameters
    ----------
    files : LayerFiles
        Of the layer.
    file : str
        Its folder there.
    dtype, item_shape
        Of its elements.
    form : Form
        Of the store.
    spool : Waiting
        Keeps chunks until their object is complete.
    """

    def __init__(
        self,
        files: LayerFiles,
        file: str,
        dtype: np.dtype[Any],
        item_shape: tuple[int, ...],
        form: Form,
        spool: Waiting,
    ) -> None:
        self.file, self.dtype, self.item_shape = file, dtype, item_shape
        self.rows = self.nbytes = 0
        self.path = os.path.join(files.folder, file)
        #: as of `ArrayWriter`; nobody else writes here
        self.look: Callable[[Array, int], None] | None = None
        self._files = files
        self._width = dtype.itemsize * int(np.prod(item_shape, dtype=np.int64))
        chunk = chunk_length(form, dtype, item_shape)
        shards = min(form.shards, max(1, _OBJECT_NBYTES // max(chunk * self._width, 1)))
        self._spec = ZarrSpec(chunk, shards, form.codec, (), ())
        self._spool = spool
        self._pending: list[Array] = []
        self._n_pending = 0
        self._checksums: list[str] = []
        self._object: list[Any] = []
        self._objects: list[tuple[int, str]] = []

    def append(self, values: Array) -> None:
        """Write rows ``(n, *item_shape)`` of this dtype behind those already there."""
        if values.dtype != self.dtype or values.shape[1:] != self.item_shape:
            raise AssertionError(f"{self.file}: {values.dtype}{values.shape} into {self.dtype}{self.item_shape}")
        values = np.ascontiguousarray(as_stored(values))
        self.rows += len(values)
        self.nbytes += values.nbytes
        if not self._width:
            return
        chunk = self._spec.chunk
        while self._n_pending + len(values) >= chunk:
            n = chunk - self._n_pending
            self._write_chunk(np.concatenate([*self._pending, values[:n]]) if self._pending else values[:n])
            self._pending, self._n_pending, values = [], 0, values[n:]
        if len(values):
            # The caller may go on to change what it gave.
            self._pending.append(values.copy())
            self._n_pending += len(values)

    def _write_chunk(self, values: Array) -> None:
        """Write the next chunk; the last one may be shorter, and is filled up with zeros."""
        self._checksums.append(checksum(values.reshape(-1).view(np.uint8).data))
        if len(values) < self._spec.chunk:
            whole = np.zeros((self._spec.chunk, *self.item_shape), self.dtype)
            whole[: len(values)] = values
            values = whole
        self._object.append(self._spool.keep(encode(values, self._spec.codec)))
        if len(self._object) == self._spec.shards:
            self._write_object()

    def _write_object(self) -> None:
        chunks = list(map(self._spool.take, self._object))
        data = chunks[0] if self._spec.shards == 1 else join(chunks, self._spec.shards)
        self._files.write(data, self.file, *self._spec.names(len(self._objects), 1 + len(self.item_shape)))
        self._objects.append((len(data), checksum(data)))
        self._object = []

    def finish(self) -> ArraySpec:
        """Write what is left of it."""
        if self._n_pending:
            self._write_chunk(np.concatenate(self._pending))
            self._pending, self._n_pending = [], 0
        if self._object:
            self._write_object()
        sizes, hashes = zip(*self._objects, strict=True) if self._objects else ((), ())
        zarr = replace(self._spec, sizes=tuple(sizes), hashes=tuple(hashes))
        shape = (self.rows, *self.item_shape)
        self._files.write(array_metadata(self.dtype, shape, zarr), self.file, METADATA)
        return ArraySpec(self.file, self.dtype, shape, tuple(self._checksums), zarr)

    def pieces(self) -> Iterator[Array]:
        """What was appended so far, in order."""
        axes = 1 + len(self.item_shape)
        for number in range(len(self._objects)):
            data = self._files.read(self.file, *self._spec.names(number, axes))
            yield from self._decoded(data)
        for chunk in self._object:
            yield self._decode(self._spool.look(chunk))
        yield from self._pending

    def _decoded(self, data: bytes) -> Iterator[Array]:
        shards = self._spec.shards
        if shards == 1:
            yield self._decode(data)
            return
        for start, stop in split(data[-index_nbytes(shards) :], shards, len(data)):
            if stop:
                yield self._decode(data[start:stop])

    def _decode(self, chunk: bytes) -> Array:
        out = np.empty((self._spec.chunk, *self.item_shape), self.dtype)
        decode(chunk, self._spec.codec, out.reshape(-1).view(np.uint8))
        return out

    def same_as(self, other: ZarrWriter) -> bool:
        """Whether both have the same elements; after `finish` of both, and of as many with equal checksums."""
        if self._objects != other._objects:
            return False
        axes = 1 + len(self.item_shape)
        names = (self._spec.names(number, axes) for number in range(len(self._objects)))
        return all(self._files.read(self.file, *n) == other._files.read(other.file, *n) for n in names)

    def remove(self) -> None:
        """Take its files away."""
        self._files.remove(self.file)

    def open(self) -> None:
        """Nothing is open between two calls."""

    def close(self) -> None:
        """Nothing is open between two calls."""
