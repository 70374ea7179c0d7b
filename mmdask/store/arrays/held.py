"""Arrays of layers: mapped, or read piece by piece with nothing mapped. What is held open is bounded either way.

A way to read arrays is a class with ``read(layer, number, start, stop)``; everything above is written for that alone.
`MappedArrays` also has whole arrays at an address, which makes rows in any order quicker.
"""

from __future__ import annotations

import ctypes
import errno
import os
from mmap import MADV_DONTNEED, MAP_SHARED, PROT_READ
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mmdask.errors import CorruptStoreError, LimitError
from mmdask.kernels.reads import read_runs
from mmdask.store.arrays import paging
from mmdask.store.arrays.cache import Cache
from mmdask.store.arrays.files import GIVE_UP, ask_for, is_in_memory, open_file, read_fully, too_many_files
from mmdask.store.arrays.npy import HEADER, ArraySpec
from mmdask.store.layer import Layer

__all__ = ["ArrayReader", "MappedArrays", "PlainArrays", "map_array", "read_places"]

#: files of up to so many bytes of data are read whole: a map of them takes longer, and so do two plain reads
SMALL_NBYTES = 1 << 16
#: maps that are kept: a quarter of what Linux allows a process (65,530), which may map for other reasons, too
MAX_MAPS = 1 << 14
#: descriptors that are kept: few beside the 1,024 (on some systems 256) that a process may have
MAX_DESCRIPTORS = 128
#: so many short reads are made by a loop without the interpreter
MANY_RUNS = 64
#: bytes of small files that are kept, and what each of them costs besides
MAX_SMALL_NBYTES = 64 << 20
SMALL_OVERHEAD = 512

Array = npt.NDArray[Any]
Int64s = npt.NDArray[np.int64]
MAPS: Cache[Array] = Cache(MAX_MAPS)
SMALL: Cache[Array] = Cache(MAX_SMALL_NBYTES)
DESCRIPTORS: Cache[_Descriptor] = Cache(MAX_DESCRIPTORS)
# A child may close what it inherited, and the numbers of descriptors be given to other files.
os.register_at_fork(after_in_child=DESCRIPTORS.clear)
GIVE_UP.append(DESCRIPTORS.clear)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class ArrayReader(Protocol):
    """A way to read the arrays of layers. For threads, and for processes that fork."""

    def read(self, layer: Layer, number: int, start: int, stop: int) -> Array:
        """Elements `start` to `stop` of array `number` of a layer along its first axis, read-only.

        Raises
        ------
        CorruptStoreError
            When the array is missing or has the wrong size.
        LimitError
            When the process has too many maps or open files.
        """
        ...


class MappedArrays:
    """Arrays as maps of their files, each made once; small ones are read whole.

    Parameters
    ----------
    key : hashable
        What tells the layers of this store from those of any other that had the same path.
    """

    def __init__(self, key: Any) -> None:
        self.key = key

    def array(self, layer: Layer, number: int) -> Array:
        """A whole array: a read-only view of the mapped file, or of its bytes if it is small. Raises as `read`."""
        key = self.key, layer.path, number
        spec = layer.arrays[number]
        small = spec.nbytes <= SMALL_NBYTES
        found = (SMALL if small else MAPS).get(key)
        if found is not None:
            return found
        return _small(key, layer, spec) if small else MAPS.put(key, map_array(layer.path, spec), 1)

    def read(self, layer: Layer, number: int, start: int, stop: int) -> Array:
        return self.array(layer, number)[start:stop]

    def ask(self, layer: Layer, number: int, starts: Int64s, stops: Int64s) -> None:
        """Have the system read runs of elements, in their order in the file, without waiting for them.

        Parameters
        ----------
        layer, number
            The array; small ones are not asked for.
        starts, stops : numpy.ndarray
            int64 ``(n,)``: elements along the first axis; what lies outside is cut off.
        """
        if layer.arrays[number].nbytes > SMALL_NBYTES:
            paging.ask(paging.spans(self.array(layer, number), starts, stops))

    def in_memory(self, layer: Layer, number: int, at: Int64s) -> bool:
        """Whether the system has the pages of these elements. Where it tells nothing about files of others, it has."""
        if layer.arrays[number].nbytes <= SMALL_NBYTES:
            return True
        return paging.in_memory(paging.spans(self.array(layer, number), at, at + 1)[:, 0].tolist())

    def release(self, layer: Layer, number: int, but: Int64s | None = None) -> None:
        """Take the pages of an array, if it is mapped, out of this process; whoever needs one gets it again.

        They remain in the cache of the system, which gives them to others as it sees fit. Those of some elements may
        stay: `but` has the first of each run, and the one after its last, int64 ``(n, 2)``.
        """
        found = MAPS.get((self.key, layer.path, number))
        if found is not None:
            address = found.__array_interface__["data"][0] - HEADER
            end = address + found.nbytes + HEADER
            kept = np.empty((0, 2), np.int64) if but is None else paging.spans(found, but[:, 0], but[:, 1])
            for a, b in paging.gaps(kept, address, end):
                _libc.madvise(a, b - a, MADV_DONTNEED)


class PlainArrays:
    """Arrays from which the bytes asked for are read, and no others; small ones are read whole, once.

    Parameters
    ----------
    key : hashable
        As for `MappedArrays`.
    """

    def __init__(self, key: Any) -> None:
        self.key = key

    def read(self, layer: Layer, number: int, start: int, stop: int) -> Array:
        start, stop, _ = slice(start, stop).indices(layer.arrays[number].shape[0])
        if layer.arrays[number].nbytes <= SMALL_NBYTES:
            return _small((self.key, layer.path, number), layer, layer.arrays[number])[start:stop]
        return self._read(layer, number, np.array([start]), np.array([max(start, stop)]))

    def read_runs(self, layer: Layer, number: int, starts: Int64s, stops: Int64s) -> Array:
        """Several runs of elements, one after the other; raises as `read`."""
        spec = layer.arrays[number]
        if spec.nbytes > SMALL_NBYTES:
            return self._read(layer, number, starts, stops)
        whole = _small((self.key, layer.path, number), layer, spec)
        return np.concatenate([whole[:0], *(whole[a:b] for a, b in zip(starts.tolist(), stops.tolist(), strict=True))])

    def _read(self, layer: Layer, number: int, starts: Int64s, stops: Int64s) -> Array:
        spec = layer.arrays[number]
        out = np.empty((int((stops - starts).sum()), *spec.shape[1:]), spec.dtype)
        if out.size:
            width = spec.nbytes // spec.shape[0]
            try:
                _read_through(
                    (self.key, layer.path, number), layer, spec, out, HEADER + starts * width, (stops - starts) * width
                )
            except (OSError, EOFError) as error:
                raise _not_read(layer.path, spec, error) from None
        out.flags.writeable = False
        return out

    def ask(self, layer: Layer, number: int, starts: Int64s, stops: Int64s) -> None:
        """As `MappedArrays.ask`."""
        spec = layer.arrays[number]
        found = paging.places(HEADER, spec.shape[0], spec.nbytes, starts, stops)
        if spec.nbytes > SMALL_NBYTES and len(found):
            file = self._file(layer, number)
            ask_for(file.number, paging.merged(found))

    def in_memory(self, layer: Layer, number: int, at: Int64s) -> bool:
        """As `MappedArrays.in_memory`. Where a file system does not tell, it has not: to ask in vain costs little."""
        spec = layer.arrays[number]
        if spec.nbytes <= SMALL_NBYTES:
            return True
        places = paging.places(HEADER, spec.shape[0], spec.nbytes, at, at + 1)[:, 0].tolist()
        file = self._file(layer, number)
        return is_in_memory(file.number, places)

    def _file(self, layer: Layer, number: int) -> _Descriptor:
        spec = layer.arrays[number]
        try:
            return _kept((self.key, layer.path, number), layer, spec)
        except OSError as error:
            raise _not_read(layer.path, spec, error) from None


def _kept(key: Any, layer: Layer, spec: ArraySpec) -> _Descriptor:
    """A descriptor of a file, which is kept; held by a name, it stays open while others are kept instead."""
    return DESCRIPTORS.get(key) or DESCRIPTORS.put(key, _Descriptor(layer.path, spec), 1)


def _read_through(key: Any, layer: Layer, spec: ArraySpec, out: Array, places: Int64s, counts: Int64s) -> None:
    """Read runs of bytes through a descriptor that is kept; a new one where the server does not know it any more."""
    kept = DESCRIPTORS.get(key)
    file = kept or _kept(key, layer, spec)
    raw = out.reshape(-1).view(np.uint8)
    try:
        read_places(file.number, places, counts, raw)
    except OSError as error:
        if error.errno != errno.ESTALE or file is not kept:
            raise
        DESCRIPTORS.discard(key)
        file = _kept(key, layer, spec)
        read_places(file.number, places, counts, raw)


def _small(key: Any, layer: Layer, spec: ArraySpec) -> Array:
    """A small array, read whole."""
    found = SMALL.get(key)
    return SMALL.put(key, _read_whole(layer.path, spec), spec.nbytes + SMALL_OVERHEAD) if found is None else found


# One file -----------------------------------------------------------------------------------------------------------


def map_array(folder: str, spec: ArraySpec) -> Array:
    """Map one array of a layer read-only, or read it if it is small, after checking its size.

    A map beyond the end of a file kills the process.

    Raises
    ------
    CorruptStoreError
        When the file is missing or has the wrong size.
    LimitError
        When the process has too many maps or open files.
    """
    if spec.nbytes <= SMALL_NBYTES:
        return _read_whole(folder, spec)
    try:
        file = _Descriptor(folder, spec)
        raw = np.asarray(_Map(file.number, HEADER + spec.nbytes))[HEADER:]
    except OSError as error:
        raise _not_read(folder, spec, error) from None
    return np.frombuffer(raw, spec.dtype).reshape(spec.shape)


def _read_whole(folder: str, spec: ArraySpec) -> Array:
    """One array of a layer in memory."""
    out = np.empty(spec.shape, spec.dtype)
    try:
        file = _Descriptor(folder, spec)
        read_into(file.number, out, HEADER)
    except (OSError, EOFError) as error:
        raise _not_read(folder, spec, error) from None
    out.flags.writeable = False
    return out


class _Descriptor:
    """A file of a layer, open for reading and of the right size; closed when nobody holds it any more.

    So one that is given up while another thread reads through it stays open until that has read.
    """

    __slots__ = ("number",)

    def __init__(self, folder: str, spec: ArraySpec) -> None:
        self.number = -1
        self.number = open_file(folder, spec.file)
        size, expected = os.fstat(self.number).st_size, HEADER + spec.nbytes
        if size != expected:
            self.__del__()  # at once: the traceback keeps this object
            raise CorruptStoreError(
                f"{os.path.join(folder, spec.file)}: has {size} bytes, should have {expected}; {_DAMAGED}"
            )

    def __del__(self, close: Any = os.close) -> None:
        number = getattr(self, "number", -1)  # an interrupt may come before anything is set
        if number >= 0:
            self.number = -1  # first: an interrupt comes after closing
            close(number)


class _Map:
    """A file's bytes as numpy sees memory, read-only, mapped while any array looks at them.

    `mmap.mmap` keeps a descriptor open for each map, and a process may have as few as 1,024.
    """

    def __init__(self, fd: int, nbytes: int) -> None:
        address = _libc.mmap(None, nbytes, PROT_READ, MAP_SHARED, fd, 0)
        if address is None or address == ctypes.c_void_p(-1).value:
            raise OSError(ctypes.get_errno(), "cannot be mapped")
        self.__array_interface__ = {"data": (address, True), "shape": (nbytes,), "typestr": "|u1", "version": 3}

    def __del__(self, munmap: Any = _libc.munmap) -> None:
        if found := self.__dict__.get("__array_interface__"):
            munmap(found["data"][0], found["shape"][0])


def read_places(fd: int, places: Int64s, counts: Int64s, raw: npt.NDArray[np.uint8]) -> None:
    """Fill bytes from several places of a file, one behind the other; raises as `read_fully`."""
    if len(places) >= MANY_RUNS and read_runs(fd, places, counts, raw):
        return
    end = 0
    for place, count in zip(places.tolist(), counts.tolist(), strict=True):
        begin, end = end, end + count
        read_into(fd, raw[begin:end], place)


def read_into(fd: int, out: Array, offset: int) -> None:
    """Fill a contiguous array from an offset of a file; raises as `read_fully`. The one plain read of readers."""
    read_fully(fd, out.reshape(-1).view(np.uint8).data, offset)


def _not_read(folder: str, spec: ArraySpec, error: OSError | EOFError) -> Exception:
    """What to raise when the system, or the end of a file, kept an array from being read."""
    path = os.path.join(folder, spec.file)
    if isinstance(error, CorruptStoreError):
        return error
    if isinstance(error, EOFError):
        return CorruptStoreError(f"{path}: {error}: it was cut while it was open; {_DAMAGED}")
    if limit := too_many_files(error, path):
        return limit
    if error.errno == errno.ENOMEM:
        return LimitError(
            f"{path}: cannot be mapped: a process may have some 65,530 maps (`sysctl vm.max_map_count`) and as much "
            "address space as `ulimit -v` says; read fewer parts at a time, or raise the limit"
        )
    if error.errno in (errno.ENOENT, errno.ESTALE):
        return CorruptStoreError(f"{path}: {GONE}")
    return CorruptStoreError(f"{path}: cannot be read: {error.strerror}")


_DAMAGED = "the store is damaged: `mmdask verify` lists all damage"
#: what is said of a file that was there when the store was opened
GONE = (
    f"is gone; if a vacuum removed what newer generations do not use, ds.refresh() opens the newest; if not, {_DAMAGED}"
)
