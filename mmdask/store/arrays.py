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
from mmdask.store import paging
from mmdask.store.cache import Cache
from mmdask.store.files import open_file, read_fully
from mmdask.store.layer import Layer
from mmdask.store.npy import HEADER, ArraySpec

__all__ = ["ArrayReader", "MappedArrays", "PlainArrays", "map_array"]

#: files of up to so many bytes of data are read whole: a map of them takes longer, and so do two plain reads
SMALL_NBYTES = 1 << 16
#: maps that are kept: a quarter of what Linux allows a process (65,530), which may map for other reasons, too
MAX_MAPS = 1 << 14
#: descriptors that are kept: few beside the 1,024 (on some systems 256) that a process may have
MAX_DESCRIPTORS = 128
#: bytes of small files that are kept, and what each of them costs besides
MAX_SMALL_NBYTES = 64 << 20
SMALL_OVERHEAD = 512

Array = npt.NDArray[Any]
MAPS: Cache[Array] = Cache(MAX_MAPS)
SMALL: Cache[Array] = Cache(MAX_SMALL_NBYTES)
DESCRIPTORS: Cache[_Descriptor] = Cache(MAX_DESCRIPTORS)
# A child may close what it inherited, and the numbers of descriptors be given to other files.
os.register_at_fork(after_in_child=DESCRIPTORS.clear)

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

    def release(self, layer: Layer, number: int, but: npt.NDArray[np.int64] | None = None) -> None:
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
        key, spec = (self.key, layer.path, number), layer.arrays[number]
        if spec.nbytes <= SMALL_NBYTES:
            return _small(key, layer, spec)[start:stop]
        start, stop, _ = slice(start, stop).indices(spec.shape[0])
        out = np.empty((max(stop - start, 0), *spec.shape[1:]), spec.dtype)
        if out.size:
            try:
                _read_through(key, layer, spec, out, HEADER + start * (spec.nbytes // spec.shape[0]))
            except (OSError, EOFError) as error:
                raise _not_read(layer.path, spec, error) from None
        out.flags.writeable = False
        return out


def _read_through(key: Any, layer: Layer, spec: ArraySpec, out: Array, offset: int) -> None:
    """Read through a descriptor that is kept; through a new one where the server does not know it any more."""
    file = DESCRIPTORS.get(key)
    if file is not None:
        try:
            return read_into(file.number, out, offset)
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
            DESCRIPTORS.discard(key)
    file = DESCRIPTORS.put(key, _Descriptor(layer.path, spec), 1)
    return read_into(file.number, out, offset)


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
        try:
            self.number = open_file(folder, spec.file)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            DESCRIPTORS.clear()
            self.number = open_file(folder, spec.file)
        size, expected = os.fstat(self.number).st_size, HEADER + spec.nbytes
        if size != expected:
            self.__del__()  # at once: the traceback keeps this object
            raise CorruptStoreError(
                f"{os.path.join(folder, spec.file)}: has {size} bytes, should have {expected}; {_DAMAGED}"
            )

    def __del__(self, close: Any = os.close) -> None:
        if self.number >= 0:
            close(self.number)
            self.number = -1


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
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return LimitError(f"{path}: this process has too many open files; close some, or raise `ulimit -n`")
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
