"""A layer: one immutable folder with the arrays of some fields for the rows of a part, and its part.json.

`layer_writer` writes one. It is visible to readers only when a manifest names it.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np

from mmdask import __version__
from mmdask.errors import CorruptStoreError, FormatError, SchemaError
from mmdask.schema import OFFSET_DTYPE, SHAPE_DTYPE, VALID_DTYPE, Field, FieldData, Kind, check_name, dtype_from_store
from mmdask.store import document
from mmdask.store.npy import EXTENT, ArraySpec

__all__ = ["Layer", "Source", "StoredField", "layer_exists", "new_id", "read_layer"]

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

    `labels` are the layer's own labels of a category; a constant category is its label. `valid` has an entry per
    depth, None where nothing is missing, and is empty where nothing is missing at any.
    """

    kind: Kind
    values: int | None = None
    offsets: tuple[int, ...] = ()
    labels: tuple[str, ...] = ()
    constant: Scalar | None = None
    shapes: int | None = None
    valid: tuple[int | None, ...] = ()

    @property
    def arrays(self) -> tuple[int, ...]:
        """Numbers of all its arrays."""
        return tuple(n for n in (*self.offsets, self.shapes, *self.valid, self.values) if n is not None)


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
        return sum(self.arrays[i].nbytes for i in self.fields[name].arrays)


def new_id() -> str:
    """A name for a layer that no other has."""
    return os.urandom(8).hex()


def layer_path(store_path: str, layer_id: str) -> str:
    return os.path.join(store_path, "parts", layer_id)


def layer_exists(store_path: str | os.PathLike[str], layer_id: str) -> bool:
    """Whether a complete layer of this name is there."""
    return os.path.isfile(os.path.join(layer_path(os.fspath(store_path), layer_id), "part.json"))


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
            if s.shapes is not None:
                entry["shapes"] = s.shapes
            if s.valid:
                entry["valid"] = list(s.valid)
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
    offsets, values = r.integers("offsets", default=[]), r.integer("values")
    shapes = r.integer("shapes") if "shapes" in r.value else None
    valid = r.value.get("valid", [])
    if not isinstance(valid, list) or not all(v is None or type(v) is int for v in valid):
        r.fail("valid", "a list of numbers of arrays, or null")
    stored = StoredField(kind, values, tuple(offsets), labels, None, shapes, tuple(valid))
    if not all(0 <= number < len(arrays) for number in stored.arrays):
        r.fail("values", f"like offsets, shapes and valid, numbers of arrays, less than {len(arrays)}")
    # How many elements there are at each depth; only the data say how many items lie below offsets.
    lengths: list[int | None] = [rows]
    for number in offsets:
        spec = arrays[number]
        if spec.dtype != OFFSET_DTYPE or len(spec.shape) != 1 or not spec.shape[0]:
            r.fail("offsets", "int64 arrays of one axis, one longer than their rows")
        if lengths[-1] is not None and spec.shape[0] != lengths[-1] + 1:
            r.fail("offsets", f"an array of {lengths[-1] + 1} entries, got one of {spec.shape[0]}")
        lengths[-1] = spec.shape[0] - 1
        lengths.append(None)
    if lengths[-1] is not None and arrays[values].shape[0] != lengths[-1]:
        r.fail("values", f"an array of {lengths[-1]} rows, got one of {arrays[values].shape[0]}")
    lengths[-1] = arrays[values].shape[0]
    if (shapes is not None) != (kind == "shaped"):
        r.fail("shapes", "the number of an array for a shaped field, and for no other")
    if shapes is not None and (arrays[shapes].dtype != SHAPE_DTYPE or arrays[shapes].shape[0] != rows):
        r.fail("shapes", f"an int64 array ({rows}, axes)")
    if shapes is not None and (len(arrays[shapes].shape) != 2 or len(offsets) != 1):
        r.fail("shapes", f"an int64 array ({rows}, axes) beside one array of offsets")
    for number, length in zip(valid, lengths, strict=False):
        if number is not None and (arrays[number].dtype != VALID_DTYPE or arrays[number].shape != (length,)):
            r.fail("valid", f"a bool array of {length} elements, got {arrays[number].dtype} {arrays[number].shape}")
    if len(valid) > len(lengths) - (kind in ("string", "shaped")):
        r.fail("valid", "a list of one entry per depth")
    return stored


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
