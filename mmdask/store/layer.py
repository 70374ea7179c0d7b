"""A layer: one immutable folder with the arrays of some fields for the rows of a part, and its part.json.

A layer is written beside its place, synced, and renamed into it, so that a folder of this name is complete or absent.
It is visible to readers only when a manifest names it.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections import defaultdict
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, get_args

import numpy as np

from mmdask import __version__
from mmdask.errors import CorruptStoreError, FormatError, SchemaError
from mmdask.schema import CODE_DTYPE, OFFSET_DTYPE, Field, FieldData, Kind, check_name, dtype_from_store
from mmdask.store import document
from mmdask.store.npy import EXTENT, ArraySpec, ArrayWriter
from mmdask.store.system import SYSTEM, fsync_all

__all__ = ["Layer", "LayerWriter", "Source", "StoredField", "layer_exists", "new_id", "read_layer"]

#: what a layer folder may be called
ID_PATTERN = r"[a-z0-9][a-z0-9-]{0,79}"
#: what an array file may be called: a number, and a courtesy
FILE_PATTERN = r"\d{1,6}-[a-z0-9_.-]{0,80}\.npy"

_MAX_ARRAYS = 100_000
Scalar = bool | int | float | str


@dataclass(frozen=True)
class Source:
    """Where the rows of a layer came from. Text for people and for conversions; nothing in it is ever opened."""

    uri: str
    tree: str = ""
    start: int = 0
    stop: int = 0
    size: int = 0
    mtime_ns: int = 0
    fingerprint: str = ""
    skipped: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class StoredField:
    """How a layer stores one field: numbers of its arrays, or one value for all rows.

    `labels` are the layer's own labels of a category; a constant category is its label.
    """

    kind: Kind
    values: int | None = None
    offsets: tuple[int, ...] = ()
    labels: tuple[str, ...] = ()
    constant: Scalar | None = None


@dataclass(frozen=True)
class Layer:
    """What part.json says: immutable, like the folder."""

    id: str
    rows: int
    fields: dict[str, StoredField]
    arrays: tuple[ArraySpec, ...] = ()
    source: Source | None = None
    path: str = field(default="", compare=False)

    @property
    def nbytes(self) -> int:
        """Data bytes of all arrays."""
        return sum(a.nbytes for a in self.arrays)

    def field_nbytes(self, name: str) -> int:
        """Data bytes of the arrays of one field, shared offsets included."""
        stored = self.fields[name]
        numbers = stored.offsets if stored.values is None else (stored.values, *stored.offsets)
        return sum(self.arrays[i].nbytes for i in numbers)


def new_id() -> str:
    """A name for a layer that no other has."""
    return os.urandom(8).hex()


def layer_path(store_path: str, layer_id: str) -> str:
    return os.path.join(store_path, "parts", layer_id)


def layer_exists(store_path: str | os.PathLike[str], layer_id: str) -> bool:
    """Whether a complete layer of this name is there."""
    return os.path.isfile(os.path.join(layer_path(os.fspath(store_path), layer_id), "part.json"))


class FieldWriter:
    """Append runs of rows to one field of a layer."""

    def __init__(self, folder: str, field: Field, files: list[str]) -> None:
        self.field = field
        self.rows = 0
        self._folder = folder
        self._file = files[-1]
        dtype = field.dtype
        self._labels: dict[str, int] = {}
        if field.kind == "category":
            dtype = np.dtype("u1")
            self._labels = {label: i for i, label in enumerate(field.labels)}
        self.offsets = [ArrayWriter(folder, file, OFFSET_DTYPE) for file in files[:-1]]
        self.values = ArrayWriter(folder, self._file, dtype, field.shape)
        for offsets in self.offsets:
            offsets.append(np.zeros(1, OFFSET_DTYPE))
        self._ends = [0] * len(self.offsets)

    def write(self, data: FieldData) -> None:
        """Append rows. `data` must have this field's dtype, shape and levels; it is copied to disk at once."""
        f = self.field
        values = data.values
        if f.kind == "string":
            check_text(f.name, data)
        if f.kind == "category":
            values = self._codes(data)
        elif values.dtype != f.dtype or values.shape[1:] != f.shape or len(data.offsets) != f.n_offsets:
            raise SchemaError(
                f"field {f.name!r} is {f.describe()}; got {values.dtype} {values.shape[1:]} "
                f"with {len(data.offsets)} levels"
            )
        for i, offsets in enumerate(data.offsets):
            below = data.offsets[i + 1] if i + 1 < len(data.offsets) else None
            length = len(values) if below is None else len(below) - 1
            if offsets.ndim != 1 or not len(offsets) or offsets[0] != 0 or offsets[-1] != length:
                raise SchemaError(f"field {f.name!r}: offsets must start at 0 and end at {length}, the items below")
            if (np.diff(offsets) < 0).any():
                raise SchemaError(f"field {f.name!r}: offsets must not decrease")
            self.offsets[i].append((offsets[1:] + self._ends[i]).astype(OFFSET_DTYPE, copy=False))
            self._ends[i] += length
        self.values.append(values)
        self.rows += len(data)

    def _codes(self, data: FieldData) -> np.ndarray[Any, Any]:
        """Codes of the run in the layer's own labels, in as few bytes as they need."""
        codes = np.asarray(data.values)
        if codes.size and not 0 <= int(codes.min()) <= int(codes.max()) < len(data.labels):
            raise SchemaError(f"field {self.field.name!r}: a code is not in 0 to {len(data.labels) - 1}")
        own = np.array([self._labels.setdefault(label, len(self._labels)) for label in data.labels], CODE_DTYPE)
        dtype = np.dtype("u1" if len(self._labels) <= 1 << 8 else "<u2" if len(self._labels) <= 1 << 16 else "<i4")
        if dtype != self.values.dtype:
            self._widen(dtype)
        return own.take(codes).astype(dtype) if len(own) else np.empty(0, dtype)

    def _widen(self, dtype: np.dtype[Any]) -> None:
        old = self.values
        old.open()  # while it still has its name
        SYSTEM.rename(old.path, old.path + ".narrow")
        self.values = ArrayWriter(self._folder, self._file, dtype)
        for start in range(0, old.nbytes, EXTENT):
            piece = old.read(start, min(EXTENT, old.nbytes - start))
            self.values.append(np.frombuffer(piece, old.dtype).astype(dtype))
        old.close()
        SYSTEM.unlink(old.path + ".narrow")

    def close(self) -> None:
        """Give the file descriptors back; writing opens them again."""
        for array in (self.values, *self.offsets):
            array.close()

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self._labels)

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + sum(o.nbytes for o in self.offsets)


class LayerWriter:
    """Write one layer: fields one after the other or several at once, then `finish`.

    Use it as a context manager; without `finish`, or after an error, everything it wrote is removed.

    Parameters
    ----------
    store_path : path
        The store's folder, which exists.
    layer_id : str
        Name of the layer; `new_id()` for one that no other has.
    """

    def __init__(self, store_path: str | os.PathLike[str], layer_id: str) -> None:
        if not re.fullmatch(ID_PATTERN, layer_id):
            raise ValueError(f"a layer id is like {ID_PATTERN}, got {layer_id!r}")
        self.id = layer_id
        self.store_path = os.fspath(store_path)
        self.parts = os.path.join(self.store_path, "parts")
        self.folder = os.path.join(self.parts, f"{layer_id}.tmp-{os.urandom(8).hex()}")
        with contextlib.suppress(FileExistsError):
            SYSTEM.mkdir(self.parts)
        SYSTEM.mkdir(self.folder)
        self._pid = os.getpid()
        self._writers: dict[str, FieldWriter] = {}
        self._constants: dict[str, StoredField] = {}
        self._n_files = 0
        self._done = False

    def __enter__(self) -> LayerWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.discard()

    def _check_new(self, name: str) -> None:
        if name in self._writers or name in self._constants:
            raise SchemaError(f"field {name!r} is written twice")

    def _file(self, name: str, ending: str) -> str:
        slug = re.sub(r"[^a-z0-9_-]+", "_", name.lower())[:60]
        self._n_files += 1
        return f"{self._n_files - 1}-{slug}{ending}.npy"

    def field(self, field: Field) -> FieldWriter:
        """Start a field; write to it through what is returned."""
        self._check_new(field.name)
        files = [self._file(field.name, f".offsets{i or ''}") for i in range(field.n_offsets)]
        writer = FieldWriter(self.folder, field, [*files, self._file(field.name, "")])
        self._writers[field.name] = writer
        return writer

    def remove_field(self, name: str) -> None:
        """Take a field out again, as if it had not been started."""
        writer = self._writers.pop(name)
        for array in (writer.values, *writer.offsets):
            array.close()
            SYSTEM.unlink(array.path)

    def constant(self, field: Field, value: Scalar) -> None:
        """Give all rows the same value: a label of a category, or a bool, int or float of a dense field."""
        self._check_new(field.name)
        check_constant(field, value)
        labels = (str(value),) if field.kind == "category" else ()
        self._constants[field.name] = StoredField(field.kind, labels=labels, constant=value)

    @property
    def rows(self) -> int:
        """Rows written so far, of the field that has most."""
        return max((w.rows for w in self._writers.values()), default=0)

    @property
    def nbytes(self) -> int:
        """Data bytes written so far."""
        return sum(w.nbytes for w in self._writers.values())

    def finish(self, rows: int | None = None, source: Source | None = None) -> Layer:
        """Make the layer durable and put it in its place.

        Parameters
        ----------
        rows : int, optional
            Needed when the layer has constants only.

        Raises
        ------
        SchemaError
            When fields differ in their number of rows.
        """
        lengths = {name: w.rows for name, w in self._writers.items()}
        rows = next(iter(lengths.values()), 0) if rows is None else rows
        for name, n in lengths.items():
            if n != rows:
                raise SchemaError(f"field {name!r} has {n} rows, the others have {rows}")
        layer = self._describe(rows, source)
        data = dump_layer(layer)
        parse_layer(data, self.id, layer.path)  # never commit what no reader would take
        files = {spec.file for spec in layer.arrays}
        writers = [a for w in self._writers.values() for a in (*w.offsets, w.values) if a.file in files]
        info = SYSTEM.create(os.path.join(self.folder, "part.json"))
        try:
            SYSTEM.write(info, data, 0)
            SYSTEM.fsync(info)
            for some in (writers[i : i + 64] for i in range(0, len(writers), 64)):
                fsync_all(a.fd for a in some)
                for a in some:
                    a.close()
        finally:
            os.close(info)
        SYSTEM.fsync_folder(self.folder)
        try:
            SYSTEM.rename(self.folder, layer.path)
        except OSError:
            # Another process wrote the layer of this name, which by its name has the same rows.
            if not layer_exists(self.store_path, self.id):
                raise
            return read_layer(self.store_path, self.id)
        self._done = True
        SYSTEM.fsync_folder(self.parts)
        return layer

    def _describe(self, rows: int, source: Source | None) -> Layer:
        """The layer as written, with equal offsets arrays stored once."""
        arrays: list[ArraySpec] = []
        known: dict[tuple[Any, ...], list[tuple[int, ArrayWriter]]] = defaultdict(list)

        def add(writer: ArrayWriter) -> int:
            arrays.append(writer.finish())
            return len(arrays) - 1

        def share(writer: ArrayWriter) -> int:
            spec = writer.finish()
            for number, other in known[spec.shape, spec.checksums]:
                same = _same_bytes(writer, other)
                other.close()
                if same:
                    writer.close()
                    SYSTEM.unlink(writer.path)
                    return number
            arrays.append(spec)
            known[spec.shape, spec.checksums].append((len(arrays) - 1, writer))
            return len(arrays) - 1

        fields = {}
        for name, w in self._writers.items():
            offsets = tuple(map(share, w.offsets))
            fields[name] = StoredField(w.field.kind, offsets=offsets, values=add(w.values), labels=w.labels)
            w.close()
        fields.update(self._constants)
        return Layer(self.id, rows, fields, tuple(arrays), source, layer_path(self.store_path, self.id))

    def discard(self) -> None:
        """Remove what was written, unless it was finished, or is that of the process that this one was forked from."""
        if self._done or os.getpid() != self._pid:
            return
        for w in self._writers.values():
            for array in (w.values, *w.offsets):
                array.close()
        SYSTEM.remove_tree(self.folder)
        self._done = True


def check_text(name: str, data: FieldData) -> None:
    """Raise `SchemaError` unless every string of a run is UTF-8."""
    offsets = data.offsets[-1]
    starts = offsets[:-1][offsets[1:] > offsets[:-1]]
    try:
        data.values.tobytes().decode()
    except UnicodeDecodeError as error:
        wrong = error.start
    else:
        # The whole is text; a string is, too, unless it begins within a character.
        inside = (data.values.take(starts) & 0xC0) == 0x80
        if not inside.any():
            return
        wrong = int(starts[inside][0])
    row = int(np.searchsorted(offsets, wrong, side="right")) - 1
    raise SchemaError(
        f"field {name!r}: string {row} of these rows is not UTF-8; decode it first, as in x.decode('latin-1')"
    )


def check_constant(field: Field, value: object) -> None:
    """Raise `SchemaError` unless `value` can stand for all rows of a field."""
    if field.kind == "category":
        ok = isinstance(value, str)
    elif field.kind != "dense" or field.shape:
        ok = False
    elif field.dtype.kind in "iu" and type(value) is int:
        ok = np.iinfo(field.dtype).min <= value <= np.iinfo(field.dtype).max
    elif field.dtype.kind == "f" and isinstance(value, int | float):
        ok = type(value) is not bool and math.isfinite(value)
    else:
        ok = field.dtype.kind == "b" and isinstance(value, bool)
    if not ok:
        raise SchemaError(
            f"field {field.name!r} ({field.describe()}) cannot be the constant {value!r}; a constant is text for a "
            "category, or a bool, an int or a finite float of the field's dtype"
        )


def _same_bytes(a: ArrayWriter, b: ArrayWriter) -> bool:
    return a.nbytes == b.nbytes and all(
        a.read(start, EXTENT) == b.read(start, EXTENT) for start in range(0, a.nbytes, EXTENT)
    )


def dump_layer(layer: Layer) -> bytes:
    """part.json of a layer."""
    fields = {}
    for name, s in layer.fields.items():
        entry: dict[str, Any] = {"kind": s.kind}
        if s.constant is not None:
            entry["constant"] = s.constant
        else:
            entry["values"] = s.values
            if s.offsets:
                entry["offsets"] = list(s.offsets)
            if s.kind == "category":
                entry["labels"] = list(s.labels)
        fields[name] = entry
    arrays = [
        {"file": a.file, "dtype": a.dtype.str, "shape": list(a.shape), "checksums": list(a.checksums)}
        for a in layer.arrays
    ]
    text: dict[str, Any] = {
        "format": "mmdask-part",
        "version": 1,
        "id": layer.id,
        "writer": f"mmdask {__version__}",
        "rows": layer.rows,
        "fields": fields,
        "arrays": arrays,
    }
    if layer.source is not None:
        text["source"] = {**vars(layer.source), "skipped": [list(s) for s in layer.source.skipped]}
    return document.dump(text)


def read_layer(store_path: str | os.PathLike[str], layer_id: str) -> Layer:
    """Read and check a layer's part.json; no array is opened.

    Raises
    ------
    CorruptStoreError
        When it is missing or damaged.
    FormatError
        When it breaks the format.
    """
    if not re.fullmatch(ID_PATTERN, layer_id):
        raise FormatError(f"{os.fspath(store_path)}: {layer_id!r} cannot be the id of a layer")
    folder = layer_path(os.fspath(store_path), layer_id)
    path = os.path.join(folder, "part.json")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        with open(fd, "rb") as file:
            data = document.read(file, path)
    except OSError as error:
        raise CorruptStoreError(f"{path}: a part that the manifest names cannot be read: {error.strerror}") from None
    return parse_layer(data, layer_id, folder)


def parse_layer(data: bytes, layer_id: str, folder: str) -> Layer:
    """The layer that a part.json describes, every value checked."""
    path = os.path.join(folder, "part.json")
    r = document.Reader(document.parse(data, path), path)
    if r.text("format") != "mmdask-part" or r.integer("version") != 1:
        raise FormatError(f"{path}: not a part.json of version 1, which is what this version of mmdask reads")
    if r.text("id", ID_PATTERN) != layer_id:
        raise FormatError(f"{path}: the id inside is {r.value['id']!r}, the folder is called {layer_id!r}")
    rows = r.integer("rows")
    arrays = tuple(_parse_array(a, f"{path}, array {i}") for i, a in enumerate(r.list("arrays")))
    if len(arrays) > _MAX_ARRAYS:
        raise FormatError(f"{path}: {len(arrays)} arrays, more than the limit of {_MAX_ARRAYS}")
    fields = {
        name: _parse_field(entry, arrays, rows, f"{path}, field {name!r}") for name, entry in r.object("fields").items()
    }
    for name in fields:
        try:
            check_name(name)
        except SchemaError as error:
            raise FormatError(f"{path}: {error}") from None
    return Layer(layer_id, rows, fields, arrays, _parse_source(r, path), folder)


def _parse_array(entry: Any, where: str) -> ArraySpec:
    r = document.Reader(entry, where)
    dtype = dtype_from_store(r.value.get("dtype"))
    if dtype is None:
        r.fail("dtype", "the name of a dtype that a store can hold")
    spec = ArraySpec(
        r.text("file", FILE_PATTERN),
        dtype,
        tuple(r.integers("shape")),
        tuple(r.texts("checksums", "[0-9a-f]{16}")),
    )
    if not 1 <= len(spec.shape) <= 32 or spec.nbytes >= 1 << 63:
        r.fail("shape", "1 to 32 lengths of less than 2**63 bytes together")
    if len(spec.checksums) != -(-spec.nbytes // EXTENT):
        r.fail("checksums", f"one for each {EXTENT} bytes of data")
    return spec


def _parse_field(entry: Any, arrays: tuple[ArraySpec, ...], rows: int, where: str) -> StoredField:
    r = document.Reader(entry, where)
    kind: Kind = r.text("kind")  # type: ignore[assignment]
    if kind not in get_args(Kind):
        r.fail("kind", "one of " + ", ".join(get_args(Kind)))
    labels = tuple(r.texts("labels", default=[]))
    if "constant" in r.value:
        constant = r.value["constant"]
        if not isinstance(constant, bool | int | float | str) or (kind == "category") != isinstance(constant, str):
            r.fail("constant", "text for a category, else a bool, an int or a float")
        return StoredField(kind, labels=(constant,) if isinstance(constant, str) else (), constant=constant)
    numbers = [*r.integers("offsets", default=[]), r.integer("values")]
    if max(numbers) >= len(arrays):
        r.fail("values", f"the number of an array, less than {len(arrays)}")
    length = rows
    for number in numbers[:-1]:
        spec = arrays[number]
        if spec.dtype != OFFSET_DTYPE or len(spec.shape) != 1 or not spec.shape[0]:
            r.fail("offsets", "int64 arrays of one axis, one longer than their rows")
        if length is not None and spec.shape[0] != length + 1:
            r.fail("offsets", f"an array of {length + 1} entries, got one of {spec.shape[0]}")
        length = None  # type: ignore[assignment]  # the number of items is in the data
    if length is not None and arrays[numbers[-1]].shape[0] != length:
        r.fail("values", f"an array of {length} rows, got one of {arrays[numbers[-1]].shape[0]}")
    return StoredField(kind, numbers[-1], tuple(numbers[:-1]), labels)


def _parse_source(r: document.Reader, where: str) -> Source | None:
    if r.value.get("source") is None:
        return None
    s = document.Reader(r.object("source"), f"{where}, source")
    skipped = s.value.get("skipped", [])
    if not isinstance(skipped, list) or not all(
        isinstance(p, list) and len(p) == 2 and all(isinstance(t, str) for t in p) for p in skipped
    ):
        s.fail("skipped", "a list of pairs of texts")
    return Source(
        s.text("uri"),
        s.text("tree", default=""),
        s.integer("start", 0),
        s.integer("stop", 0),
        s.integer("size", 0),
        s.integer("mtime_ns", 0),
        s.text("fingerprint", default=""),
        tuple((a, b) for a, b in skipped),
    )
