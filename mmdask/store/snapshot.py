"""A store as one generation shows it: fields, parts, and their arrays as read-only maps.

A `Snapshot` never changes while it is held, whatever writers do. It pickles as path, generation and uuid.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections import OrderedDict
from functools import cached_property
from mmap import MAP_SHARED, PROT_READ
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from mmdask.errors import CorruptStoreError, LimitError, SchemaError, StoreNotFoundError
from mmdask.schema import CODE_DTYPE, Field, Schema
from mmdask.store.cache import Cache
from mmdask.store.layer import Layer, StoredField, check_constant, read_layer
from mmdask.store.manifest import Manifest, Part, read_manifest, store_root
from mmdask.store.npy import HEADER, ArraySpec

__all__ = ["Snapshot", "map_array", "open_snapshot"]

#: files of up to so many bytes of data are read whole: a map of them takes longer
SMALL_NBYTES = 1 << 16
#: what a kept map counts for in the cache: 16,384 maps are a quarter of what Linux allows a process
MAP_COST = 1 << 12
#: arrays of files, by store and file: a bounded number of maps, and of bytes read
ARRAYS: Cache[npt.NDArray[Any]] = Cache(64 << 20)
#: codes of a layer as codes of the store, by generation, layer and field
CODES: Cache[npt.NDArray[np.int32]] = Cache(16 << 20)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


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


def map_array(folder: str, spec: ArraySpec) -> npt.NDArray[Any]:
    """Map one array of a layer read-only, or read it if it is small, after checking its size.

    A map beyond the end of a file kills the process.

    Raises
    ------
    CorruptStoreError
        When the file is missing or has the wrong size.
    LimitError
        When the process has too many maps or open files.
    """
    path = os.path.join(folder, spec.file)
    expected = HEADER + spec.nbytes
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            size = os.fstat(fd).st_size
            raw: Any = b""
            if size == expected:
                small = spec.nbytes <= SMALL_NBYTES
                raw = os.pread(fd, spec.nbytes, HEADER) if small else np.asarray(_Map(fd, size))[HEADER:]
        finally:
            os.close(fd)
    except OSError as error:
        raise _not_read(path, error) from None
    if size != expected:
        raise CorruptStoreError(
            f"{path}: has {size} bytes, should have {expected}; the store is damaged: `mmdask verify` lists all damage"
        )
    return np.frombuffer(raw, spec.dtype, spec.nbytes // spec.dtype.itemsize).reshape(spec.shape)


def _not_read(path: str, error: OSError) -> Exception:
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return LimitError(f"{path}: this process has too many open files; close some, or raise `ulimit -n`")
    if error.errno == errno.ENOMEM:
        return LimitError(
            f"{path}: cannot be mapped: a process may have some 65,530 maps (`sysctl vm.max_map_count`) and as much "
            "address space as `ulimit -v` says; read fewer parts at a time, or raise the limit"
        )
    return CorruptStoreError(f"{path}: cannot be read: {error.strerror}")


class Snapshot:
    """One generation of a store, opened for reading.

    Parameters
    ----------
    path : str
        The store's folder, absolute.
    manifest : Manifest
        What it holds.
    """

    def __init__(self, path: str, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._layers: dict[str, Layer] = {}
        self._stored: dict[tuple[int, str], tuple[Layer, StoredField]] = {}
        self._labels: dict[str, dict[str, int]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return open_snapshot, (self.path, self.manifest.generation, self.manifest.uuid)

    def __repr__(self) -> str:
        return f"<Snapshot {self.path!r} generation {self.manifest.generation}>"

    @property
    def schema(self) -> Schema:
        return self.manifest.schema

    @property
    def parts(self) -> tuple[Part, ...]:
        return self.manifest.parts

    @cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """First row of every part, and the number of rows: int64 ``(parts + 1,)``."""
        starts = np.zeros(len(self.parts) + 1, np.int64)
        np.cumsum([p.rows for p in self.parts], out=starts[1:])
        return starts

    @cached_property
    def rows(self) -> int:
        return int(self.starts[-1])

    @cached_property
    def identity(self) -> str:
        """A hash of which rows these are: of another generation too, if it has the same."""
        text = repr((self.manifest.uuid, [(p.rows, p.layers) for p in self.parts]))
        return str(xxhash.xxh3_128_hexdigest(text.encode()))

    def part_of(self, row: int) -> int:
        """The part that a row is in, which must exist."""
        return int(np.searchsorted(self.starts, row, side="right")) - 1

    def layer(self, layer_id: str) -> Layer:
        """What a layer's part.json says, read once."""
        layer = self._layers.get(layer_id)
        if layer is None:
            layer = self._layers[layer_id] = read_layer(self.path, layer_id)
        return layer

    def stored(self, part: int, name: str) -> tuple[Layer, StoredField]:
        """The layer of a part that holds a field, and how: checked against the manifest.

        Raises
        ------
        CorruptStoreError
            When no layer holds it, or not as the manifest says.
        """
        found = self._stored.get((part, name))
        if found is None:
            found = self._stored[part, name] = self._find(part, name)
        return found

    def _find(self, part: int, name: str) -> tuple[Layer, StoredField]:
        field, p = self.schema[name], self.parts[part]
        for layer_id in reversed(p.layers):
            layer = self.layer(layer_id)
            stored = layer.fields.get(name)
            if stored is None:
                continue
            if layer.rows != p.rows:
                raise CorruptStoreError(f"{layer.path}: has {layer.rows} rows, the manifest says {p.rows}")
            if not _fits(field, layer, stored):
                raise CorruptStoreError(
                    f"{layer.path}: field {name!r} is not stored as {field.describe()}, which the manifest says it is"
                )
            return layer, stored
        raise CorruptStoreError(f"{self.path}: no layer of part {part} ({', '.join(p.layers)}) has field {name!r}")

    def codes(self, layer: Layer, name: str) -> npt.NDArray[np.int32]:
        """For each of a layer's own labels of a category, its code in the store.

        Raises
        ------
        CorruptStoreError
            When a label is not in the manifest.
        """
        key = self.manifest.uuid, self.manifest.generation, layer.id, name
        table = CODES.get(key)
        if table is None:
            known = self._labels.get(name)
            if known is None:
                known = self._labels[name] = {label: i for i, label in enumerate(self.schema[name].labels)}
            labels = layer.fields[name].labels
            table = np.array([known.get(label, -1) for label in labels], CODE_DTYPE)
            if (table < 0).any():
                unknown = labels[int(np.argmin(table))]
                raise CorruptStoreError(f"{layer.path}: field {name!r} has the label {unknown!r}, the manifest has not")
            CODES.put(key, table, table.nbytes + 256)
        return table

    def array(self, layer: Layer, number: int) -> npt.NDArray[Any]:
        """One array of a layer, read-only: a view of the mapped file, or of its bytes if it is small.

        Raises
        ------
        CorruptStoreError, LimitError
            See `map_array`.
        """
        key = self.manifest.uuid, layer.path, number
        array = ARRAYS.get(key)
        if array is None:
            array = map_array(layer.path, layer.arrays[number])
            ARRAYS.put(key, array, MAP_COST if array.nbytes > SMALL_NBYTES else array.nbytes + 512)
        return array


def _fits(field: Field, layer: Layer, stored: StoredField) -> bool:
    """Whether a layer stores a field as what the manifest says it is."""
    if stored.kind != field.kind:
        return False
    if stored.values is None:
        try:
            check_constant(field, stored.constant)
        except (SchemaError, OverflowError):
            return False
        return True
    spec = layer.arrays[stored.values]
    dtype_ok = spec.dtype.kind in "iu" if field.kind == "category" else spec.dtype == field.dtype
    shaped_ok = stored.shapes is None or layer.arrays[stored.shapes].shape[1] == field.axes
    optional_ok = all(number is None or depth in field.optional for depth, number in enumerate(stored.valid))
    return (
        dtype_ok
        and shaped_ok
        and optional_ok
        and spec.shape[1:] == field.shape
        and len(stored.offsets) == field.n_offsets
    )


_OPEN: OrderedDict[tuple[str, int, str], Snapshot] = OrderedDict()
_OPEN_LIMIT = 64


def open_snapshot(path: str | os.PathLike[str], generation: int | None = None, uuid: str | None = None) -> Snapshot:
    """Open a store for reading: reads its manifest and nothing else.

    Parameters
    ----------
    path : path
        The store's folder.
    generation : int, optional
        An older one from its history; the newest by default.
    uuid : str, optional
        That the store must have: references that were pickled carry it.

    Raises
    ------
    StoreNotFoundError, CorruptStoreError, FormatError
        See `read_manifest`; also when the store at this path is another one than `uuid`.
    """
    root = store_root(path)
    if generation is not None and uuid is not None:
        known = _OPEN.get((root, generation, uuid))
        if known is not None:
            return known
    manifest = read_manifest(root, generation)
    if uuid is not None and manifest.uuid != uuid:
        raise StoreNotFoundError(f"{root}: this is not the store that was referred to; another was made in its place")
    key = (root, manifest.generation, manifest.uuid)
    snapshot = _OPEN.get(key)
    if snapshot is None or snapshot.manifest != manifest:  # other contents: a store that was put back from a copy
        snapshot = _OPEN[key] = Snapshot(root, manifest)
    while len(_OPEN) > _OPEN_LIMIT:
        _OPEN.popitem(last=False)
    return snapshot
