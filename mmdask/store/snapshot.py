"""A store as one generation shows it: fields, parts, and their arrays as read-only maps.

A `Snapshot` never changes while it is held, whatever writers do. It pickles as path, generation and uuid.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections import OrderedDict
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.errors import CorruptStoreError, StoreNotFoundError
from mmdask.schema import Schema
from mmdask.store.layer import Layer, StoredField, read_layer
from mmdask.store.manifest import Manifest, Part, read_manifest
from mmdask.store.npy import HEADER, ArraySpec

__all__ = ["Snapshot", "open_snapshot"]


class _Maps:
    """Maps of whole files, one per file and process, the least used given up first.

    A map costs a file descriptor and one of the process's 65,530 maps, and both run out.
    """

    def __init__(self) -> None:
        import resource

        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.limit = max(16, min(1024, soft // 4 if soft > 0 else 1024))
        self.arrays: OrderedDict[tuple[str, str], npt.NDArray[Any]] = OrderedDict()
        self.lock = threading.Lock()
        self.opened = 0

    def get(self, uuid: str, folder: str, spec: ArraySpec) -> npt.NDArray[Any]:
        key = (uuid, f"{folder}/{spec.file}")
        with self.lock:
            array = self.arrays.get(key)
            if array is not None:
                self.arrays.move_to_end(key)
                return array
        array = map_array(folder, spec)
        with self.lock:
            self.opened += 1
            self.arrays[key] = array
            while len(self.arrays) > self.limit:
                self.arrays.popitem(last=False)
        return array

    def renew_lock(self) -> None:
        self.lock = threading.Lock()


MAPS = _Maps()
os.register_at_fork(after_in_child=MAPS.renew_lock)


def map_array(folder: str, spec: ArraySpec) -> npt.NDArray[Any]:
    """Map one array of a layer read-only, after checking its size: a map beyond the end of a file kills the process."""
    path = os.path.join(folder, spec.file)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise CorruptStoreError(f"{path}: cannot be opened: {error.strerror}") from None
    try:
        size = os.fstat(fd).st_size
        if size != HEADER + spec.nbytes:
            raise CorruptStoreError(
                f"{path}: has {size} bytes, should have {HEADER + spec.nbytes}; the store is damaged: "
                "`mmdask verify` lists all damage"
            )
        mapped = mmap.mmap(fd, size, access=mmap.ACCESS_READ)
    finally:
        os.close(fd)
    n = spec.nbytes // spec.dtype.itemsize
    return np.frombuffer(mapped, spec.dtype, n, HEADER).reshape(spec.shape)


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

    @property
    def rows(self) -> int:
        return int(self.starts[-1])

    def layer(self, layer_id: str) -> Layer:
        """What a layer's part.json says, read once."""
        layer = self._layers.get(layer_id)
        if layer is None:
            layer = self._layers[layer_id] = read_layer(self.path, layer_id)
        return layer

    def stored(self, part: int, name: str) -> tuple[Layer, StoredField]:
        """The layer of a part that holds a field, and how."""
        p = self.parts[part]
        for layer_id in reversed(p.layers):
            layer = self.layer(layer_id)
            stored = layer.fields.get(name)
            if stored is None:
                continue
            if layer.rows != p.rows:
                raise CorruptStoreError(f"{layer.path}: has {layer.rows} rows, the manifest says {p.rows}")
            self._check_layout(layer, stored, name)
            return layer, stored
        if name not in self.schema:
            raise self.schema_error(name)
        raise CorruptStoreError(f"{self.path}: no layer of part {part} ({', '.join(p.layers)}) has field {name!r}")

    def schema_error(self, name: str) -> Exception:
        try:
            self.schema[name]
        except KeyError as error:
            return error
        raise AssertionError(name)

    def _check_layout(self, layer: Layer, stored: StoredField, name: str) -> None:
        field = self.schema[name]
        ok = stored.kind == field.kind
        if ok and stored.values is not None:
            spec = layer.arrays[stored.values]
            dtype_ok = spec.dtype.kind in "iu" if field.kind == "category" else spec.dtype == field.dtype
            ok = dtype_ok and spec.shape[1:] == field.shape and len(stored.offsets) == field.n_offsets
        if not ok:
            raise CorruptStoreError(
                f"{layer.path}: field {name!r} is not stored as {field.describe()}, which the manifest says it is"
            )

    def array(self, layer: Layer, number: int) -> npt.NDArray[Any]:
        """One array of a layer: a read-only view of the mapped file.

        Raises
        ------
        CorruptStoreError
            When the file is missing or has the wrong size.
        """
        return MAPS.get(self.manifest.uuid, layer.path, layer.arrays[number])


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
    root = os.path.abspath(os.fspath(path))
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
