"""Zarr arrays of layers, read: by several threads, through a bounded cache of decoded chunks."""

from __future__ import annotations

import functools
import itertools
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.errors import CorruptStoreError
from mmdask.kernels import dense
from mmdask.kernels.crew import Crew, Task
from mmdask.store.arrays.buffers import Buffers
from mmdask.store.arrays.cache import Cache
from mmdask.store.arrays.files import open_file, read_fully, too_many_files
from mmdask.store.arrays.held import GONE
from mmdask.store.arrays.npy import ArraySpec
from mmdask.store.layer import Layer
from mmdask.store.storage import storage_of
from mmdask.store.zarr.codec import decode, index_nbytes, split
from mmdask.store.zarr.fetch import INDEXES, check_size, fetch_chunk, place_of

__all__ = ["CHUNKS", "INDEXES", "ZarrArrays"]

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
#: bytes of a chunk as they are stored
Stored = bytes | memoryview | Bytes

#: bytes of decoded chunks that are kept: of those of which a part was wanted, the rest may be next
MAX_CHUNKS_NBYTES = 384 << 20
CHUNKS: Cache[Bytes] = Cache(MAX_CHUNKS_NBYTES)
#: memory of chunks that were given up, for those that come next: with all that are kept, a little more than these alone
BUFFERS = Buffers(MAX_CHUNKS_NBYTES + (32 << 20), CHUNKS)
#: chunks that someone holds, also where they are kept no more
_HELD: weakref.WeakValueDictionary[tuple[Any, ...], Bytes] = weakref.WeakValueDictionary()
#: elements that are copied together where some of them are wanted, of many that are
_NEAR = 2048
#: threads that decode chunks which are wanted together
_THREADS = 4
#: so few bytes are decoded at once; more go to a thread, since in the main thread blosc has threads that wait for each
#: other
_ALONE_NBYTES = 1 << 16
#: bytes of chunks that one thread decodes at a time, where these are small
_TASK_NBYTES = 2 << 20
#: bytes of objects that are fetched at once, where each request takes a while
_FETCH_NBYTES = 64 << 20


_CREW = Crew("mmdask-decode", _THREADS)
#: chunks that threads were told to decode
_UNDER_WAY: dict[tuple[Any, ...], Task[None]] = {}
# A child has none of its parent's threads.
os.register_at_fork(after_in_child=_UNDER_WAY.clear)


def _told(call: Callable[[], None]) -> Task[None]:
    """Work that threads were told to do; done here where there are none."""
    task = Task(call)
    if not _CREW.tell([task], min(_CREW.threads + 1, len(os.sched_getaffinity(0)))):
        task.run()
    return task


def _forget(keys: Sequence[tuple[Any, ...]]) -> None:
    for key in keys:
        _UNDER_WAY.pop(key, None)


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

    def chunks(self, layer: Layer, number: int, wanted: Sequence[int]) -> dict[int, Array]:
        """Chunks of an array, read-only, by their numbers, which ascend; the last one may be shorter."""
        spec = layer.arrays[number]
        if spec.zarr is None:
            raise CorruptStoreError(f"{layer.path}/{spec.file}: is no zarr array, and this store has no others")
        try:
            found = _Chunks(self, layer, number).several(wanted)
        except OSError as error:
            raise _not_read(self.root, layer, spec, error) from None
        n, shape = spec.zarr.chunk, spec.shape[1:]
        return {
            i: _read_only(data.view(spec.dtype).reshape(-1, *shape)[: spec.shape[0] - i * n])
            for i, data in found.items()
        }

    def take(self, layer: Layer, number: int, at: npt.NDArray[np.int64]) -> Array:
        """Elements of an array along its first axis in any order, as a copy; `at` is from 0 to its length."""
        spec = layer.arrays[number]
        out = np.empty((len(at), *spec.shape[1:]), spec.dtype)
        if not out.size:
            return out
        assert spec.zarr is not None
        located, needed = self._locate(at, spec.shape[0], spec.zarr.chunk)
        found = self.chunks(layer, number, np.flatnonzero(needed).tolist())
        return located.take([found.get(i) for i in range(len(needed))], out)

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

    def expect(self, layer: Layer, number: int, wanted: Sequence[int], room: int) -> tuple[int, list[Bytes]]:
        """Begin to decode chunks that will be asked for, of up to so many bytes.

        Returns how many that is, and the chunks that are there: while these are held, they need not be decoded again.
        """
        return _Chunks(self, layer, number).begin(wanted, room)


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
            if start <= begin and end <= stop and self._found(chunk) is None:
                wanted.append(chunk)
                continue
            a, b = max(begin, start), min(end, stop)
            out[a - start : b - start] = self._chunk(chunk, keep=True)[a - begin : b - begin]

        def fill(chunk: int, data: Stored) -> None:
            begin = chunk * self.size - start
            decode(data, self.zarr.codec, out[begin : begin + self.size])

        self._decoded(wanted, fill)
        return out

    def _decoded(self, chunks: Sequence[int], use: Callable[[int, Stored], None]) -> None:
        """Let threads decode some chunks; what is fetched from afar is fetched here meanwhile."""
        if self.zarr.codec == "none" or self.size * len(chunks) < _ALONE_NBYTES:
            self._use(chunks, use)
            return
        if self.storage.is_local:
            for task in [_told(functools.partial(self._use, some, use)) for some in self._tasks(chunks)]:
                task.result()
            return
        under_way: deque[Task[None]] = deque()
        for chunk, data in self._fetch(chunks):
            under_way.append(_told(functools.partial(use, chunk, data)))
            if len(under_way) > 2 * _THREADS:
                under_way.popleft().result()
        for task in under_way:
            task.result()

    def _use(self, chunks: Sequence[int], use: Callable[[int, Stored], object]) -> None:
        for chunk, data in self._stored(chunks):
            use(chunk, data)

    def _tasks(self, chunks: Sequence[int]) -> list[list[int]]:
        """Some chunks, ascending, as they are given to threads: those of an object together, where these are small."""
        most = self.zarr.shards if not self.storage.is_local else max(_TASK_NBYTES // self.size, 1)
        found = [list(group) for _, group in itertools.groupby(chunks, key=lambda chunk: chunk // self.zarr.shards)]
        return [group[i : i + most] for group in found for i in range(0, len(group), most)]

    def _chunk(self, chunk: int, *, keep: bool) -> Bytes:
        """One chunk, decoded; as it was kept, if it was."""
        found = self._found(chunk)
        if found is None:
            out = found = BUFFERS.get(self.size)
            self._decoded([chunk], lambda _, data: decode(data, self.zarr.codec, out))
            if keep:
                self._keep(chunk, found)
        return found

    def _found(self, chunk: int) -> Bytes | None:
        """One chunk, where it is there."""
        found = CHUNKS.get((*self.key, chunk))
        return _HELD.get((*self.key, chunk)) if found is None else found

    def _keep(self, chunk: int, decoded: Bytes) -> Bytes:
        _HELD[*self.key, chunk] = decoded
        return CHUNKS.put((*self.key, chunk), decoded, decoded.nbytes)

    def several(self, chunks: Sequence[int]) -> dict[int, Bytes]:
        """Some chunks, ascending, decoded; they are kept for those who ask for the same ones next."""
        found = {chunk: self._found(chunk) for chunk in chunks}
        for chunk in [chunk for chunk, data in found.items() if data is None]:
            task = _UNDER_WAY.get((*self.key, chunk))
            if task is not None:
                task.wait()  # what went wrong is found again below
            found[chunk] = self._found(chunk)  # also where it was finished since
        missing = [chunk for chunk, data in found.items() if data is None]

        def made(chunk: int, data: Stored) -> None:
            found[chunk] = self._made(chunk, data)

        self._decoded(missing, made)
        return {chunk: data for chunk, data in found.items() if data is not None}

    def begin(self, chunks: Sequence[int], room: int) -> tuple[int, list[Bytes]]:
        """Let threads read and decode some chunks, unless they do or did: the first ones, of up to so many bytes.

        Returns
        -------
        int
            How many bytes these have.
        list of numpy.ndarray
            The chunks that are there: as long as they are held, `several` need not decode them again.
        """
        missing, held = [], []
        for chunk in chunks:
            key = *self.key, chunk
            task = _UNDER_WAY.get(key)
            if task is not None and not task.ended:  # looked at first: it may be finished in between
                continue
            found = self._found(chunk)
            if found is None:
                missing.append(chunk)
            else:
                held.append(found)
        missing = missing[: room // self.size]
        for some in self._tasks(missing):
            keys = [(*self.key, chunk) for chunk in some]
            task = _told(functools.partial(self._decode_ahead, some, keys))
            # Only what threads were told of is waited for; an interrupt may come in between.
            _UNDER_WAY.update(dict.fromkeys(keys, task))
            if task.ended:
                _forget(keys)
        return self.size * len(missing), held

    def _decode_ahead(self, chunks: Sequence[int], keys: Sequence[tuple[Any, ...]]) -> None:
        try:
            self._use(chunks, self._made)
        finally:
            _forget(keys)

    def _made(self, chunk: int, data: Stored) -> Bytes:
        out = BUFFERS.get(self.size)
        decode(data, self.zarr.codec, out)
        return self._keep(chunk, out)

    def _stored(self, chunks: Sequence[int]) -> Iterator[tuple[int, Stored]]:
        """The bytes of some chunks, ascending, as they are stored; each is done with when the next is asked for."""
        if not self.storage.is_local:
            yield from self._fetch(chunks)
            return
        axes = len(self.spec.shape)
        for number, group in itertools.groupby(chunks, key=lambda chunk: chunk // self.zarr.shards):
            fd = open_file(self.storage.root, *self.names, *self.zarr.names(number, axes))
            try:
                check_size(self.zarr, number, os.fstat(fd).st_size)
                for chunk in group:
                    start, stop = place_of(self.storage, self.names, self.spec, chunk, self.key)
                    data = BUFFERS.get(stop - start)
                    read_fully(fd, data.data, start)
                    yield chunk, data
                    del data
            except EOFError as error:
                raise CorruptStoreError(f"object {number} {error}") from None
            finally:
                os.close(fd)

    def _fetch(self, chunks: Sequence[int]) -> Iterator[tuple[int, Stored]]:
        """The bytes of some chunks, ascending, of objects that are fetched."""
        if self.zarr.shards > 1:
            for number, group in itertools.groupby(chunks, key=lambda chunk: chunk // self.zarr.shards):
                yield from self._fetch_of(number, list(group))
            return
        step = max(1, _FETCH_NBYTES // self.size) if self.storage.is_slow else 1
        axes = len(self.spec.shape)
        for i in range(0, len(chunks), step):
            some = chunks[i : i + step]
            names = [(*self.names, *self.zarr.names(c, axes)) for c in some]
            found = self.storage.read_many(names, [self.zarr.sizes[c] for c in some])
            for chunk, data in zip(some, found, strict=True):
                check_size(self.zarr, chunk, len(data))
                yield chunk, data

    def _fetch_of(self, number: int, chunks: Sequence[int]) -> Iterator[tuple[int, Stored]]:
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


def _read_only(array: Array) -> Array:
    array = array.view()
    array.flags.writeable = False
    return array


def _not_read(root: str, layer: Layer, spec: ArraySpec, error: OSError) -> OSError:
    path = os.path.join(layer.path, spec.file)
    if limit := too_many_files(error, path):
        return limit
    if isinstance(error, FileNotFoundError):
        return CorruptStoreError(f"{path}: {GONE}")
    if isinstance(error, CorruptStoreError) or error.strerror is None:
        what = error.strerror or error
        return CorruptStoreError(f"{path}: {what}; the store is damaged: `mmdask verify` lists all damage")
    if storage_of(root).is_local:
        return CorruptStoreError(f"{path}: cannot be read: {error.strerror}; `mmdask verify` lists all damage")
    return OSError(error.errno, f"{path}: cannot be read: {error.strerror}")
