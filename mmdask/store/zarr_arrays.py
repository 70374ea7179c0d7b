"""Arrays of layers as zarr v3: written chunk by chunk, and read through a bounded cache of decoded chunks."""

from __future__ import annotations

import functools
import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.errors import CorruptStoreError
from mmdask.kernels import dense
from mmdask.store.arrays import GONE
from mmdask.store.cache import Cache
from mmdask.store.layer import Layer
from mmdask.store.npy import ArraySpec, as_stored, checksum
from mmdask.store.storage import LayerFiles, Storage, storage_of
from mmdask.store.zarr_codec import decode, encode, index_nbytes, join, split
from mmdask.store.zarr_form import METADATA, Form, array_metadata, chunk_length
from mmdask.store.zarr_spec import ZarrSpec

__all__ = ["CHUNKS", "ZarrArrays", "ZarrWriter", "fetch_chunk"]

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]

#: bytes of decoded chunks that are kept: of those of which a part was wanted, the rest may be next
MAX_CHUNKS_NBYTES = 384 << 20
CHUNKS: Cache[Bytes] = Cache(MAX_CHUNKS_NBYTES)
#: places of chunks within objects that hold several
INDEXES: Cache[list[tuple[int, int]]] = Cache(1 << 20)
#: elements that are copied together where some of them are wanted, of many that are
_NEAR = 2048
#: threads that decode chunks which are wanted together
_THREADS = 4
#: so few bytes are decoded at once; more go to a thread, since in the main thread blosc has threads that wait for each
#: other
_ALONE_NBYTES = 1 << 16
#: bytes of objects that are fetched at once, where each request takes a while
_FETCH_NBYTES = 64 << 20


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
    """

    def __init__(
        self, files: LayerFiles, file: str, dtype: np.dtype[Any], item_shape: tuple[int, ...], form: Form
    ) -> None:
        self.file, self.dtype, self.item_shape = file, dtype, item_shape
        self.rows = self.nbytes = 0
        self.path = os.path.join(files.folder, file)
        #: as of `ArrayWriter`; nobody else writes here
        self.look: Callable[[Array, int], None] | None = None
        self._files = files
        self._width = dtype.itemsize * int(np.prod(item_shape, dtype=np.int64))
        self._spec = ZarrSpec(chunk_length(form, dtype, item_shape), form.shards, form.codec, (), ())
        self._pending: list[Array] = []
        self._n_pending = 0
        self._checksums: list[str] = []
        self._object: list[bytes] = []
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
        self._object.append(encode(values, self._spec.codec))
        if len(self._object) == self._spec.shards:
            self._write_object()

    def _write_object(self) -> None:
        data = self._object[0] if self._spec.shards == 1 else join(self._object, self._spec.shards)
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
            yield self._decode(chunk)
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


# Reading ------------------------------------------------------------------------------------------------------------


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(_THREADS, len(os.sched_getaffinity(0))), thread_name_prefix="mmdask-decode")


#: chunks that threads were told to decode
_UNDER_WAY: dict[tuple[Any, ...], Future[None]] = {}


def _done(keys: Sequence[tuple[Any, ...]], _: Future[None]) -> None:
    for key in keys:
        _UNDER_WAY.pop(key, None)


def _after_fork() -> None:
    _pool.cache_clear()
    _UNDER_WAY.clear()


# A child has none of its parent's threads.
os.register_at_fork(after_in_child=_after_fork)


class ZarrArrays:
    """Arrays of which whole chunks are read and decoded.

    Chunks of which a part was asked for are kept, up to some bytes in a process; those that were wanted as a whole, as
    in a pass over all rows, are not.

    Parameters
    ----------
    root : str
        The store.
    key : hashable
        What tells the layers of this store from those of any other that had the same root.
    """

    def __init__(self, root: str, key: Any) -> None:
        self.root, self.key = root, key
        self._last = threading.local()

    def read(self, layer: Layer, number: int, start: int, stop: int) -> Array:
        spec = layer.arrays[number]
        if spec.zarr is None:
            raise CorruptStoreError(f"{layer.path}/{spec.file}: is no zarr array, and this store has no others")
        start, stop, _ = slice(start, stop).indices(spec.shape[0])
        shape = max(stop - start, 0), *spec.shape[1:]
        width = spec.nbytes // spec.shape[0] if spec.shape[0] else 0
        if not width or not shape[0]:
            return _read_only(np.empty(shape, spec.dtype))
        try:
            raw = _Chunks(self, layer, number).read(start * width, stop * width)
        except OSError as error:
            raise _not_read(self.root, layer, spec, error) from None
        return _read_only(raw.view(spec.dtype).reshape(shape))

    def take(self, layer: Layer, number: int, at: npt.NDArray[np.int64]) -> Array:
        """Elements of an array along its first axis in any order, as a copy; `at` is from 0 to its length."""
        spec = layer.arrays[number]
        if spec.zarr is None:
            raise CorruptStoreError(f"{layer.path}/{spec.file}: is no zarr array, and this store has no others")
        out = np.empty((len(at), *spec.shape[1:]), spec.dtype)
        if not out.size:
            return out
        located, needed = self._locate(at, spec.shape[0], spec.zarr.chunk)
        starts = located.starts
        try:
            decoded = _Chunks(self, layer, number).several(np.flatnonzero(needed).tolist())
        except OSError as error:
            raise _not_read(self.root, layer, spec, error) from None
        sources = [
            decoded[i].view(spec.dtype).reshape(-1, *spec.shape[1:])[: starts[i + 1] - starts[i]]
            if i in decoded
            else None
            for i in range(len(needed))
        ]
        return located.take(sources, out)

    def _locate(self, at: npt.NDArray[np.int64], n: int, chunk: int) -> tuple[dense.Located, npt.NDArray[np.bool_]]:
        """In which chunks elements lie; found once for the fields of the same rows."""
        if getattr(self._last, "at", None) is not at:
            self._last.at, self._last.found = at, {}
        found: dict[tuple[int, int], tuple[dense.Located, npt.NDArray[np.bool_]]] = self._last.found
        if (n, chunk) in found:
            return found[n, chunk]
        starts = np.minimum(np.arange(-(-n // chunk) + 1) * chunk, n)
        needed = np.zeros(len(starts) - 1, np.bool_)
        needed[at // chunk] = True
        located = dense.Located(starts, at, len(needed), _NEAR if len(at) > _NEAR else 0)
        found[n, chunk] = located, needed
        return located, needed

    def expect(self, layer: Layer, number: int, at: npt.NDArray[np.int64]) -> int:
        """Begin to decode the chunks in which elements lie that `take` will be asked for; how many bytes they have."""
        spec = layer.arrays[number]
        if spec.zarr is None or not len(at) or not spec.nbytes:
            return 0
        _, needed = self._locate(at, spec.shape[0], spec.zarr.chunk)
        return _Chunks(self, layer, number).begin(np.flatnonzero(needed).tolist())


class _Chunks:
    """The chunks of one array, as bytes of its data."""

    def __init__(self, arrays: ZarrArrays, layer: Layer, number: int) -> None:
        self.spec = layer.arrays[number]
        assert self.spec.zarr is not None
        self.zarr = self.spec.zarr
        self.key = arrays.key, layer.path, number
        self.names = "parts", layer.id, self.spec.file
        self.storage = storage_of(arrays.root)
        self.size = self.zarr.chunk * (self.spec.nbytes // self.spec.shape[0])

    def read(self, start: int, stop: int) -> Bytes:
        """Bytes of the data."""
        first, last = start // self.size, (stop - 1) // self.size
        if first == last:
            whole = stop - start == min(self.size, self.spec.nbytes - first * self.size)
            return self._chunk(first, keep=not whole)[start - first * self.size : stop - first * self.size]
        out = np.empty(stop - start, np.uint8)
        wanted = []
        for chunk in range(first, last + 1):
            begin, end = chunk * self.size, (chunk + 1) * self.size
            if start <= begin and end <= stop and CHUNKS.get((*self.key, chunk)) is None:
                wanted.append(chunk)
                continue
            a, b = max(begin, start), min(end, stop)
            out[a - start : b - start] = self._chunk(chunk, keep=True)[a - begin : b - begin]

        def fill(chunk: int, data: bytes | memoryview) -> None:
            begin = chunk * self.size - start
            decode(data, self.zarr.codec, out[begin : begin + self.size])

        self._decoded(wanted, fill)
        return out

    def _decoded(self, chunks: Sequence[int], use: Callable[[int, bytes | memoryview], None]) -> None:
        """Let threads decode some chunks, while this one reads those that follow."""
        if self.zarr.codec == "none" or self.size * len(chunks) < _ALONE_NBYTES:
            for chunk, data in self._fetch(chunks):
                use(chunk, data)
            return
        under_way: deque[Future[None]] = deque()
        for chunk, data in self._fetch(chunks):
            under_way.append(_pool().submit(use, chunk, data))
            if len(under_way) > 2 * _THREADS:
                under_way.popleft().result()
        for future in under_way:
            future.result()

    def _chunk(self, chunk: int, *, keep: bool) -> Bytes:
        """One chunk, decoded; as it was kept, if it was."""
        key = *self.key, chunk
        found = CHUNKS.get(key)
        if found is None:
            out = found = np.empty(self.size, np.uint8)
            self._decoded([chunk], lambda _, data: decode(data, self.zarr.codec, out))
            if keep:
                CHUNKS.put(key, found, found.nbytes)
        return found

    def several(self, chunks: Sequence[int]) -> dict[int, Bytes]:
        """Some chunks, ascending, decoded; they are kept for those who ask for the same ones next."""
        found = {chunk: CHUNKS.get((*self.key, chunk)) for chunk in chunks}
        for chunk in [chunk for chunk, data in found.items() if data is None]:
            future = _UNDER_WAY.get((*self.key, chunk))
            if future is not None:
                wait([future])  # what went wrong is found again below
            found[chunk] = CHUNKS.get((*self.key, chunk))  # also where it was finished since
        missing = [chunk for chunk, data in found.items() if data is None]

        def made(chunk: int, data: bytes | memoryview) -> None:
            out = np.empty(self.size, np.uint8)
            decode(data, self.zarr.codec, out)
            found[chunk] = CHUNKS.put((*self.key, chunk), out, out.nbytes)

        self._decoded(missing, made)
        return {chunk: data for chunk, data in found.items() if data is not None}

    def begin(self, chunks: Sequence[int]) -> int:
        """Let threads read and decode some chunks, unless they do or did; how many bytes these have."""
        groups: dict[int, list[int]] = {}
        for chunk in chunks:
            key = *self.key, chunk
            if key not in _UNDER_WAY and CHUNKS.get(key) is None:  # in this order: it may be finished in between
                groups.setdefault(chunk // self.zarr.shards, []).append(chunk)
        for group in groups.values():
            keys = [(*self.key, chunk) for chunk in group]
            future = _pool().submit(self._keep, group)
            for key in keys:
                _UNDER_WAY[key] = future
            future.add_done_callback(functools.partial(_done, keys))
        return self.size * sum(map(len, groups.values()))

    def _keep(self, chunks: Sequence[int]) -> None:
        for chunk, data in self._fetch(chunks):
            out = np.empty(self.size, np.uint8)
            decode(data, self.zarr.codec, out)
            CHUNKS.put((*self.key, chunk), out, out.nbytes)

    def _fetch(self, chunks: Sequence[int]) -> Iterator[tuple[int, bytes | memoryview]]:
        """The bytes of some chunks, ascending, as they are stored."""
        if self.zarr.shards > 1:
            for number, group in itertools.groupby(chunks, key=lambda chunk: chunk // self.zarr.shards):
                yield from self._fetch_of(number, list(group))
            return
        step = max(1, _FETCH_NBYTES // self.size) if self.storage.is_slow else 1
        axes = len(self.spec.shape)
        for i in range(0, len(chunks), step):
            some = chunks[i : i + step]
            found = self.storage.read_many([(*self.names, *self.zarr.names(c, axes)) for c in some])
            for chunk, data in zip(some, found, strict=True):
                check_size(self.zarr, chunk, len(data))
                yield chunk, data

    def _fetch_of(self, number: int, chunks: Sequence[int]) -> Iterator[tuple[int, bytes | memoryview]]:
        """The bytes of some chunks of one object that holds several: of all of it, where that is hardly more."""
        n = min(self.zarr.shards, len(self.spec.checksums) - number * self.zarr.shards)
        if 2 * len(chunks) <= n:
            for chunk in chunks:
                yield chunk, fetch_chunk(self.storage, self.names, self.spec, chunk, self.key)
            return
        size = self.zarr.sizes[number]
        data = memoryview(self.storage.read(*self.names, *self.zarr.names(number, len(self.spec.shape)), limit=size))
        check_size(self.zarr, number, len(data))
        places = split(bytes(data[size - index_nbytes(self.zarr.shards) :]), self.zarr.shards, size)
        for chunk in chunks:
            start, stop = places[chunk % self.zarr.shards]
            if not stop:
                raise CorruptStoreError(f"object {number} lacks chunk {chunk % self.zarr.shards}")
            yield chunk, data[start:stop]


def check_size(zarr: ZarrSpec, number: int, nbytes: int) -> None:
    """Raise `CorruptStoreError` unless an object has the bytes that part.json says."""
    if nbytes != zarr.sizes[number]:
        raise CorruptStoreError(f"object {number} has {nbytes} bytes, should have {zarr.sizes[number]}")


def fetch_chunk(
    storage: Storage, names: tuple[str, ...], spec: ArraySpec, chunk: int, key: tuple[Any, ...] | None = None
) -> bytes:
    """The bytes of one chunk of an array, as they are stored.

    Parameters
    ----------
    storage, names
        Where the folder of the array is.
    spec : ArraySpec
        What part.json says of it.
    chunk : int
        Which.
    key : tuple, optional
        Of the array, where its indexes of objects are kept.

    Raises
    ------
    OSError
        When it cannot be read, or an object is not as part.json says.
    """
    zarr, axes = spec.zarr, len(spec.shape)
    assert zarr is not None
    number, inside = divmod(chunk, zarr.shards)
    file = *names, *zarr.names(number, axes)
    if zarr.shards == 1:
        data = storage.read(*file, limit=zarr.sizes[number])
        check_size(zarr, number, len(data))
        return data
    size = zarr.sizes[number]
    places = None if key is None else INDEXES.get((*key, number))
    if places is None:
        index = storage.read_part(max(size - index_nbytes(zarr.shards), 0), size, *file)
        places = split(index, zarr.shards, size)
        if key is not None:
            INDEXES.put((*key, number), places, 128 * len(places))
    start, stop = places[inside]
    data = storage.read_part(start, stop, *file)
    if len(data) != stop - start or not stop:
        raise CorruptStoreError(f"object {number} lacks chunk {inside}, or ends within it")
    return data


def _read_only(array: Array) -> Array:
    array = array.view()
    array.flags.writeable = False
    return array


def _not_read(root: str, layer: Layer, spec: ArraySpec, error: OSError) -> OSError:
    path = os.path.join(layer.path, spec.file)
    if isinstance(error, FileNotFoundError):
        return CorruptStoreError(f"{path}: {GONE}")
    if isinstance(error, CorruptStoreError) or error.strerror is None:
        return CorruptStoreError(f"{path}: {error}; the store is damaged: `mmdask verify` lists all damage")
    if storage_of(root).is_local:
        return CorruptStoreError(f"{path}: cannot be read: {error.strerror}; `mmdask verify` lists all damage")
    return OSError(error.errno, f"{path}: cannot be read: {error.strerror}")
