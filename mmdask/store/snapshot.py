"""A store as one generation shows it: fields, parts, and their arrays, read-only.

A `Snapshot` never changes while it is held, whatever writers do. It pickles as path, generation, uuid and io.
"""

from __future__ import annotations

import os
import socket
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from mmdask.errors import CorruptStoreError, MmdaskError, OptionError, SchemaError, StoreNotFoundError
from mmdask.kernels.once import once
from mmdask.schema import CODE_DTYPE, Field, Schema
from mmdask.store.arrays.cache import Cache
from mmdask.store.arrays.held import GONE, ArrayReader, MappedArrays, PlainArrays
from mmdask.store.arrays.place import IO, check_io, in_cluster, way_to_read
from mmdask.store.layer import Layer, StoredField, check_constant, layer_path, read_layer
from mmdask.store.manifest import Manifest, Part, read_manifest, store_root
from mmdask.store.storage import is_url
from mmdask.store.zarr.chunked import ZarrArrays
from mmdask.store.zarr.form import Form, form_of

__all__ = ["LostSnapshot", "Snapshot", "open_snapshot", "rows_identity"]

#: layers behind a URL that are read for a message, each by a request
_MOST_ASKED = 64
#: codes of a layer as codes of the store, by generation, layer and field
CODES: Cache[npt.NDArray[np.int32]] = Cache(16 << 20)


class Snapshot:
    """One generation of a store, opened for reading.

    Parameters
    ----------
    path : str
        The store's folder, absolute.
    manifest : Manifest
        What it holds.
    io : {"auto", "mmap", "pread"}
        How its arrays are read; "auto" is settled in each process, when the first is.
    """

    def __init__(self, path: str, manifest: Manifest, io: IO = "auto") -> None:
        self.path = path
        self.manifest = manifest
        self.io = io
        self._layers: dict[str, Layer] = {}
        self._stored: dict[tuple[int, str], tuple[Layer, StoredField]] = {}
        self._labels: dict[Field, dict[str, int]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return _referred, (self.path, self.manifest.generation, self.manifest.uuid, self.io)

    def __repr__(self) -> str:
        return f"<Snapshot {self.path!r} generation {self.manifest.generation}>"

    @once
    def schema(self) -> Schema:
        """The fields, which know why others are not among them."""
        # No cycle: what a snapshot maps goes with the last who holds it.
        this = weakref.ref(self)

        def absent(name: str) -> str:
            snapshot = this()
            return "" if snapshot is None else snapshot.why_left_out(name)

        return Schema(self.manifest.schema.values(), absent)

    def why_left_out(self, name: str) -> str:
        """Why a conversion left out a field, or members of an object, and of which file; empty if it did not.

        Reads what the layers say of their sources: all of them, but few behind a URL.
        """
        begins = (f"{name}.", f"{name}/")
        layers = list(dict.fromkeys(layer for part in self.parts for layer in part.layers))
        try:
            for layer in layers[:_MOST_ASKED] if is_url(self.path) else layers:
                for source in self.layer(layer).sources:
                    for left, why in source.skipped:
                        if left == name or left.startswith(begins):
                            return f"left out at conversion: {why} ({source.uri})"
        except OSError:
            pass  # a store that is damaged is told of by what reads it
        return ""

    @property
    def parts(self) -> tuple[Part, ...]:
        return self.manifest.parts

    @once
    def starts(self) -> npt.NDArray[np.int64]:
        """First row of every part, and the number of rows: int64 ``(parts + 1,)``."""
        starts = np.zeros(len(self.parts) + 1, np.int64)
        np.cumsum([p.rows for p in self.parts], out=starts[1:])
        return starts

    @once
    def rows(self) -> int:
        return int(self.starts[-1])

    @once
    def identity(self) -> str:
        """A hash of which rows these are: of another generation too, if it has the same."""
        return rows_identity(self.manifest)

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells this generation from all others, also from those of a store with a borrowed uuid."""
        return self.path, self.manifest.uuid, self.manifest.generation

    #: whether there is a folder beside which what was computed can be kept
    on_disk = True

    # Of views of stores these say what they are made of: see `mmdask.rows.views.views`.

    @property
    def stores(self) -> tuple[Snapshot, ...]:
        """The stores that the rows are in."""
        return (self,)

    def home(self, part: int) -> Snapshot:
        """The store that a part is in."""
        return self

    def source(self, part: int, name: str) -> tuple[Snapshot, int, str]:
        """Where the rows of a field in a part come from: whose field in which of its parts they are, as they are."""
        return self, part, name

    def newest(self) -> Snapshot:
        """The newest generation of the same store; raises as `open_snapshot`."""
        return open_snapshot(self.path, uuid=self.manifest.uuid, io=self.io)

    @property
    def origin(self) -> str:
        """What it is, for people."""
        return f"{self.path}, generation {self.manifest.generation}"

    def part_of(self, row: int) -> int:
        """The part that a row is in, which must exist."""
        return int(np.searchsorted(self.starts, row, side="right")) - 1

    def layer(self, layer_id: str) -> Layer:
        """What a layer's part.json says, read once."""
        layer = self._layers.get(layer_id)
        if layer is None:
            try:
                layer = self._layers[layer_id] = read_layer(self.path, layer_id)
            except CorruptStoreError:
                folder = layer_path(self.path, layer_id)
                if is_url(self.path) or os.path.lexists(folder):
                    raise
                raise CorruptStoreError(f"{folder}: {GONE}") from None
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
            p = self.parts[part]
            found = self._find(self.schema[name], p.layers, p.rows, f"layer of part {part}")
            self._stored[part, name] = found
        return found

    def stored_aux(self, name: str) -> tuple[Layer, StoredField]:
        """The layer that holds an auxiliary array, as the one row of a field, and how; raises as `stored`."""
        return self._find(self.manifest.aux[name], self.manifest.aux_layers, 1, "layer of auxiliary arrays")

    def _find(self, field: Field, layers: tuple[str, ...], rows: int, what: str) -> tuple[Layer, StoredField]:
        """The last of some layers that has a field, if it has these rows and the field as the manifest says."""
        for layer_id in reversed(layers):
            layer = self.layer(layer_id)
            stored = layer.fields.get(field.name)
            if stored is None:
                continue
            if layer.rows != rows:
                raise CorruptStoreError(f"{layer.path}: has {layer.rows} rows, the manifest says {rows}")
            if stored.values is not None and (layer.arrays[stored.values].zarr is None) != (self._form is None):
                raise CorruptStoreError(
                    f"{layer.path}: field {field.name!r} is not stored in the form that the manifest says"
                )
            if not _fits(field, layer, stored):
                raise CorruptStoreError(
                    f"{layer.path}: field {field.name!r} is not stored as {field.describe()}, which the manifest says "
                    "it is"
                )
            return layer, stored
        raise CorruptStoreError(f"{self.path}: no {what} ({', '.join(layers)}) has field {field.name!r}")

    def codes(self, layer: Layer, field: Field) -> npt.NDArray[np.int32]:
        """For each of a layer's own labels of a category, its code in the store.

        Raises
        ------
        CorruptStoreError
            When a label is not in the manifest.
        """
        key = *self.key, layer.id, field.name
        table = CODES.get(key)
        if table is None:
            known = self._labels.get(field)
            if known is None:
                known = self._labels[field] = {label: i for i, label in enumerate(field.labels)}
            labels = layer.fields[field.name].labels
            table = np.array([known.get(label, -1) for label in labels], CODE_DTYPE)
            if (table < 0).any():
                wrong = f"the label {labels[int(np.argmin(table))]!r}, the manifest has not"
                raise CorruptStoreError(f"{layer.path}: field {field.name!r} has {wrong}")
            CODES.put(key, table, table.nbytes + 256)
        return table

    @once
    def _form(self) -> Form | None:
        """How arrays are stored; what was not committed yet does not say it."""
        return self.manifest.zarr if self.manifest.generation else form_of(self.path)

    @once
    def _arrays(self) -> ArrayReader:
        """The way in which this process reads arrays."""
        if self._form is not None:
            return ZarrArrays(self.path, self.manifest.uuid)
        if is_url(self.path):
            raise OptionError(
                f"{self.path}: its arrays are plain files, which are read from a disk and not through a URL; copy the "
                "folder, or serve what ds.save(path, backend='zarr') wrote"
            )
        way = way_to_read(self.path) if self.io == "auto" else self.io
        return (MappedArrays if way == "mmap" else PlainArrays)(self.manifest.uuid)

    @property
    def addressable(self) -> bool:
        """Whether there are whole arrays, as `array` gives them."""
        return isinstance(self._arrays, MappedArrays)

    def array(self, layer: Layer, number: int) -> npt.NDArray[Any]:
        """One whole array of a layer, read-only: a view of the mapped file, or of its bytes if it is small.

        Raises
        ------
        OptionError
            When this snapshot maps nothing: see `addressable`.
        CorruptStoreError, LimitError
            See `ArrayReader.read`.
        """
        if isinstance(self._arrays, ZarrArrays):
            raise OptionError(f"{self.path}: a store of zarr arrays, which are compressed and cannot be mapped")
        if not isinstance(self._arrays, MappedArrays):
            raise OptionError(f"{self.path}: opened with io={self.io!r}, which maps nothing here; io='mmap' does")
        return self._arrays.array(layer, number)

    def read(self, layer: Layer, number: int, start: int, stop: int) -> npt.NDArray[Any]:
        """Elements `start` to `stop` of an array of a layer, read-only: a view where it is mapped, else a copy.

        Raises
        ------
        CorruptStoreError, LimitError
            See `ArrayReader.read`.
        """
        return self._arrays.read(layer, number, start, stop)

    def read_runs(
        self, layer: Layer, number: int, starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]
    ) -> npt.NDArray[Any]:
        """Several runs of elements of an array, one after the other; raises as `read`."""
        if isinstance(self._arrays, PlainArrays):
            return self._arrays.read_runs(layer, number, starts, stops)
        runs = [self.read(layer, number, a, b) for a, b in zip(starts.tolist(), stops.tolist(), strict=True)]
        return np.concatenate([self.read(layer, number, 0, 0), *runs]) if len(runs) != 1 else runs[0]

    @property
    def in_files(self) -> bool:
        """Whether arrays are files, as they are, whose pages `ask` and `in_memory` are about."""
        return isinstance(self._arrays, MappedArrays | PlainArrays)

    def ask(self, layer: Layer, number: int, starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]) -> None:
        """Have the system read runs of elements of an array; see `MappedArrays.ask`. Raises as `read`."""
        assert isinstance(self._arrays, MappedArrays | PlainArrays)
        self._arrays.ask(layer, number, starts, stops)

    def in_memory(self, layer: Layer, number: int, at: npt.NDArray[np.int64]) -> bool:
        """Whether elements of an array are in memory; see `MappedArrays.in_memory`. Raises as `read`."""
        assert isinstance(self._arrays, MappedArrays | PlainArrays)
        return self._arrays.in_memory(layer, number, at)

    @property
    def chunked(self) -> bool:
        """Whether arrays are in chunks that are decoded as a whole, so that `elements` gathers from those."""
        return isinstance(self._arrays, ZarrArrays)

    def elements(self, layer: Layer, number: int, at: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Elements of an array of a layer along its first axis in any order, where it is in chunks; raises as `read`.

        `at` is int64, from 0 to the length of the array.
        """
        assert isinstance(self._arrays, ZarrArrays)
        return self._arrays.take(layer, number, at)

    def pieces(self, layer: Layer, number: int, chunks: Sequence[int]) -> dict[int, npt.NDArray[Any]]:
        """Chunks of an array that is in chunks, by their numbers, which ascend; read-only. Raises as `read`."""
        assert isinstance(self._arrays, ZarrArrays)
        return self._arrays.chunks(layer, number, chunks)

    def expect(self, layer: Layer, number: int, chunks: Sequence[int], room: int) -> tuple[int, list[npt.NDArray[Any]]]:
        """Begin to read chunks that will be asked for, of up to `room` bytes, without waiting.

        Returns how many bytes that is, and those chunks that need not be read as long as they are held.
        """
        assert isinstance(self._arrays, ZarrArrays)
        return self._arrays.expect(layer, number, chunks, room)

    def release(self, layer: Layer, number: int, but: npt.NDArray[np.int64] | None = None) -> None:
        """Take the pages of an array, if it is mapped, out of this process; see `MappedArrays.release`."""
        if isinstance(self._arrays, MappedArrays):
            self._arrays.release(layer, number, but)


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


def rows_identity(manifest: Manifest) -> str:
    """A hash of which rows a generation has."""
    text = "\n".join([manifest.uuid, *[" ".join(p.layers) for p in manifest.parts]])  # no id has a blank
    counts = np.array([p.rows for p in manifest.parts], "<i8").tobytes()
    return str(xxhash.xxh3_128_hexdigest(text.encode() + b"\n" + counts))


_OPEN: OrderedDict[tuple[str, int, str, IO], Snapshot] = OrderedDict()
_OPEN_LIMIT = 64


def open_snapshot(
    path: str | os.PathLike[str], generation: int | None = None, uuid: str | None = None, io: IO = "auto"
) -> Snapshot:
    """Open a store for reading: reads its manifest and nothing else.

    Parameters
    ----------
    path : path
        The store's folder.
    generation : int, optional
        An older one from its history; the newest by default.
    uuid : str, optional
        That the store must have: references that were pickled carry it.
    io : {"auto", "mmap", "pread"}
        How arrays are read: through maps, or by plain reads with nothing mapped. "auto" maps, except on file systems
        of a server and in a process with a dask.distributed worker.

    Raises
    ------
    OptionError
        When `io` is none of these.
    StoreNotFoundError, CorruptStoreError, FormatError
        See `read_manifest`; also when the store at this path is another one than `uuid`.
    """
    root, io = store_root(path), check_io(io)
    if generation is not None and uuid is not None:
        known = _OPEN.get((root, generation, uuid, io))
        if known is not None:
            return known
    manifest = read_manifest(root, generation)
    if uuid is not None and manifest.uuid != uuid:
        raise StoreNotFoundError(f"{root}: this is not the store that was referred to; another was made in its place")
    key = root, manifest.generation, manifest.uuid, io
    snapshot = _OPEN.get(key)
    if snapshot is None or snapshot.manifest != manifest:  # other contents: a store that was put back from a copy
        snapshot = _OPEN[key] = Snapshot(root, manifest, io)
    while len(_OPEN) > _OPEN_LIMIT:
        _OPEN.popitem(last=False)
    return snapshot


class LostSnapshot(Snapshot):
    """What a pickle referred to and this process of a cluster cannot open: whoever looks at it gets the error.

    A worker unpickles a task before it runs it. An error then is not one of the task: it ends the worker's connection,
    so that the client would wait for ever.

    Parameters
    ----------
    path : str
        Where it should be.
    error : Exception
        Of opening it.
    made : tuple
        What a pickle has instead, since another process may be able to open it.
    """

    def __init__(self, path: str, error: Exception, made: tuple[Any, ...]) -> None:
        self.path = path
        self.error = error
        self._made = made

    def __reduce__(self) -> tuple[Any, ...]:
        return self._made

    def __repr__(self) -> str:
        return f"<LostSnapshot {self.path!r}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what is asked of any object
            raise AttributeError(name)
        raise self.error


def _referred(path: str, generation: int, uuid: str, io: IO) -> Snapshot:
    """What a pickle refers to; raises as `open_snapshot`, but in a process of a cluster."""
    try:
        return open_snapshot(path, generation, uuid, io)
    except (MmdaskError, OSError) as error:
        if not in_cluster():
            raise
        error.add_note(
            f"so it is for a process of the cluster, on {socket.gethostname()}: a store has to be at the same path or "
            "URL for all of them, and what lies in the memory of one process is in no other"
        )
        return LostSnapshot(path, error.with_traceback(None), (_referred, (path, generation, uuid, io)))
