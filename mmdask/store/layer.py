"""A layer: one immutable folder with the arrays of some fields for the rows of a part, and its part.json.

`layer_writer` writes one. It is visible to readers only when a manifest names it.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask import __version__
from mmdask.errors import FormatError, SchemaError
from mmdask.schema import (
    CODE_DTYPE,
    KINDS,
    MAX_AXES,
    MAX_LABEL,
    MAX_LEVELS,
    OFFSET_DTYPE,
    SHAPE_DTYPE,
    TEXT_DTYPE,
    VALID_DTYPE,
    Field,
    FieldData,
    Kind,
    check_name,
    dtype_from_store,
)
from mmdask.store import document
from mmdask.store.arrays.npy import EXTENT, ArraySpec
from mmdask.store.grains import COLUMNS, GRAIN_DTYPE, Held, has_order, n_grains, parse_held
from mmdask.store.origin import (
    ID_PATTERN,
    Merged,
    NotFinite,
    OldLayer,
    Scalar,
    Source,
    dump_merged,
    dump_source,
    parse_merged,
    parse_source,
)
from mmdask.store.storage import storage_of
from mmdask.store.zarr.form import dump_zarr, parse_zarr

__all__ = [
    "ID_PATTERN",
    "Layer",
    "Merged",
    "OldLayer",
    "Scalar",
    "Source",
    "StoredField",
    "layer_exists",
    "new_id",
    "read_layer",
]

#: what an array file may be called: a number, and a courtesy
FILE_PATTERN = r"[0-9]{1,6}-[a-z0-9_.-]{0,80}\.npy"
#: and the folder of a zarr array
FOLDER_PATTERN = r"[0-9]{1,6}-[a-z0-9_.-]{0,80}"
#: rows that a layer may have without a byte of data for each: constants claim any number for nothing
FREE_ROWS = 1 << 32

_MAX_ARRAYS = 100_000
_CODE_DTYPES = (np.dtype("|u1"), np.dtype("<u2"), CODE_DTYPE)


@dataclass(frozen=True)
class StoredField:
    """How a layer stores one field: numbers of its arrays, or one value for all rows.

    `labels` are the layer's own labels of a category; a constant category is its label. `valid` has an entry per
    depth, None where nothing is missing, and is empty where nothing is missing at any. `bounds` is what its values are
    known to be, None where that was not kept.
    """

    kind: Kind
    values: int | None = None
    offsets: tuple[int, ...] = ()
    labels: tuple[str, ...] = ()
    constant: Scalar | None = None
    shapes: int | None = None
    valid: tuple[int | None, ...] = ()
    bounds: Held | None = None

    @property
    def arrays(self) -> tuple[int, ...]:
        """Numbers of all its arrays."""
        return tuple(n for n in (*self.offsets, self.shapes, *self.valid, self.values) if n is not None)


@dataclass(frozen=True)
class Layer:
    """What part.json says: immutable, like the folder.

    `merged` are the parts, in row order, that it was made of, if it was made of others. `grains` is the array of what
    the values of its fields are in each run of 65,536 rows: int64 ``(fields, grains, 5)``.
    """

    id: str
    rows: int
    fields: dict[str, StoredField]
    arrays: tuple[ArraySpec, ...] = ()
    source: Source | None = None
    path: str = field(default="", compare=False)
    merged: tuple[Merged, ...] = ()
    grains: int | None = None

    @property
    def sources(self) -> tuple[Source, ...]:
        """Where its rows came from, in their order."""
        source = None if self.source is None else replace(self.source, not_finite=self._not_finite())
        own: list[tuple[Source | None, int]] = [(source, self.rows)]
        own += [(layer.source, part.rows) for part in self.merged for layer in part.layers]
        return tuple(replace(s, rows=rows) for s, rows in own if s is not None)

    def _not_finite(self) -> tuple[NotFinite, ...]:
        """The fields with nan or infinities, without those that padding put in."""
        counts = {name: s.bounds.counts for name, s in self.fields.items() if s.bounds is not None}
        for p in self.source.padded if self.source else ():
            nan, inf = counts.get(p.field, (None, None))
            if nan is not None:
                counts[p.field] = max(0, nan - p.nan), inf
        return tuple(NotFinite(name, *some) for name, some in counts.items() if some != (0, 0))

    @property
    def nbytes(self) -> int:
        """Data bytes of all arrays."""
        return sum(a.nbytes for a in self.arrays)

    @property
    def rows_nbytes(self) -> int:
        """Data bytes of all arrays but that of `grains`."""
        return self.nbytes - (0 if self.grains is None else self.arrays[self.grains].nbytes)

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
    return storage_of(os.fspath(store_path)).has("parts", layer_id, "part.json")


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


def wrong_shapes(shapes: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which rows have not as many items as their shapes say, or a length below 0.

    Examples
    --------
    >>> wrong_shapes(np.array([[2, 3], [2, 2], [-1, -1], [1 << 32, 1 << 32]]), np.array([6, 5, 1, 0])).tolist()
    [False, True, True, True]
    """
    # In floats no product of hostile lengths overflows, and those of real ones are exact.
    product = np.prod(shapes.astype(np.float64), axis=1)
    return np.asarray((shapes < 0).any(axis=1) | (product != counts))


def check_constant(field: Field, value: object) -> None:
    """Raise `SchemaError` unless `value` can stand for all rows of a field."""
    if field.kind == "category":
        ok = isinstance(value, str) and len(value) <= MAX_LABEL
    elif field.kind != "dense" or field.shape:
        ok = False
    elif field.dtype.kind in "iu" and type(value) is int:
        ok = np.iinfo(field.dtype).min <= value <= np.iinfo(field.dtype).max
    elif field.dtype.kind == "f" and isinstance(value, int | float):
        ok = type(value) is not bool and abs(value) <= float(np.finfo(field.dtype).max)
    else:
        ok = field.dtype.kind == "b" and isinstance(value, bool)
    if not ok:
        raise SchemaError(
            f"field {field.name!r} ({field.describe()}) cannot be the constant {value!r}; a constant is text for a "
            "category, or a bool, an int or a finite float of the field's dtype"
        )


def dump_layer(layer: Layer) -> bytes:
    """part.json of a layer."""
    arrays = [_dump_array(a) for a in layer.arrays]
    text: dict[str, Any] = {
        "format": "mmdask-part",
        "version": 1,
        "id": layer.id,
        "writer": f"mmdask {__version__}",
        "rows": layer.rows,
        "fields": {name: _dump_field(stored) for name, stored in layer.fields.items()},
        "arrays": arrays,
    }
    if layer.grains is not None:
        text["grains"] = layer.grains
    if layer.source is not None:
        text["source"] = dump_source(layer.source)
    if layer.merged:
        text["merged"] = dump_merged(layer.merged)
    return document.dump(text)


def _dump_array(a: ArraySpec) -> dict[str, Any]:
    entry = {"file": a.file, "dtype": a.dtype.str, "shape": list(a.shape), "checksums": list(a.checksums)}
    return entry if a.zarr is None else {**entry, "zarr": dump_zarr(a.zarr)}


def _dump_field(s: StoredField) -> dict[str, Any]:
    if s.constant is not None:
        return {"kind": s.kind, "constant": s.constant}
    entry: dict[str, Any] = {"kind": s.kind, "values": s.values}
    if s.offsets:
        entry["offsets"] = list(s.offsets)
    if s.shapes is not None:
        entry["shapes"] = s.shapes
    if s.valid:
        entry["valid"] = list(s.valid)
    if s.kind == "category":
        entry["labels"] = list(s.labels)
    if s.bounds is not None:
        entry["bounds"] = s.bounds.dump()
    return entry


def read_layer(store_path: str | os.PathLike[str], layer_id: str) -> Layer:
    """Read and check a layer's part.json; no array is opened.

    Raises
    ------
    CorruptStoreError
        When it is missing or damaged.
    FormatError
        When it breaks the format.
    """
    root = os.fspath(store_path)
    if not re.fullmatch(ID_PATTERN, layer_id):
        raise FormatError(f"{root}: {layer_id!r} cannot be the id of a layer")
    folder = layer_path(root, layer_id)
    try:
        data = document.read_file(root, "parts", layer_id, "part.json")
    except OSError as error:
        raise document.unread(f"{folder}/part.json", error, "a part that the manifest names cannot be read") from None
    return parse_layer(data, layer_id, folder)


def parse_layer(data: bytes, layer_id: str, folder: str) -> Layer:
    """The layer that a part.json describes, every value checked."""
    path = os.path.join(folder, "part.json")
    r = document.Reader(document.parse(data, path), path)
    if r.text("format") != "mmdask-part" or r.integer("version") != 1:
        raise FormatError(f"{path}: not a part.json of version 1, which is what this version of mmdask reads")
    if r.text("id", ID_PATTERN) != layer_id:
        raise FormatError(f"{path}: the id inside is {r.value['id']!r}, the folder is called {layer_id!r}")
    r.text("writer", default="")
    rows = r.integer("rows")
    entries = r.list("arrays")
    if len(entries) > _MAX_ARRAYS:
        r.fail("arrays", f"a list of at most {_MAX_ARRAYS}")
    arrays = tuple(_parse_array(a, f"{path}, array {i}") for i, a in enumerate(entries))
    if len({a.file for a in arrays}) != len(arrays):
        r.fail("arrays", "a list of files that differ from each other")
    grains = _parse_grains(r, arrays, rows)
    n_entries = 0 if grains is None else arrays[grains].shape[0]
    fields = {
        name: _FieldParser(entry, arrays, rows, f"{path}, field {name!r}", n_entries).stored()
        for name, entry in r.object("fields").items()
    }
    for name in fields:
        try:
            check_name(name)
        except SchemaError as error:
            raise FormatError(f"{path}: {error}") from None
    layer = Layer(layer_id, rows, fields, arrays, parse_source(r), folder, parse_merged(r, rows), grains)
    if layer.source is not None and layer.merged:
        raise FormatError(f"{path}: a layer has 'source' or 'merged', not both")
    if rows > max(FREE_ROWS, layer.nbytes):
        r.fail("rows", f"at most {FREE_ROWS}, or as many as there are bytes of data ({layer.nbytes})")
    return layer


def _parse_grains(r: document.Reader, arrays: tuple[ArraySpec, ...], rows: int) -> int | None:
    if "grains" not in r.value:
        return None
    number = r.integer("grains")
    if number >= len(arrays):
        r.fail("grains", f"the number of an array, less than {len(arrays)}")
    spec = arrays[number]
    if spec.dtype != GRAIN_DTYPE or len(spec.shape) != 3 or spec.shape[1:] != (n_grains(rows), COLUMNS):
        r.fail("grains", f"an int64 array (fields, {n_grains(rows)}, {COLUMNS}); {spec.file} is not")
    return number


def _parse_array(entry: Any, where: str) -> ArraySpec:
    r = document.Reader(entry, where)
    dtype = dtype_from_store(r.value.get("dtype"))
    if dtype is None:
        r.fail("dtype", "the name of a dtype that a store can hold")
    is_zarr = "zarr" in r.value
    spec = ArraySpec(
        r.text("file", FOLDER_PATTERN if is_zarr else FILE_PATTERN),
        dtype,
        tuple(r.integers("shape")),
        tuple(r.texts("checksums", "[0-9a-f]{16}")),
    )
    # numpy counts bytes as if no length were 0
    most = dtype.itemsize * math.prod(max(length, 1) for length in spec.shape)
    if not 1 <= len(spec.shape) <= 1 + MAX_AXES or most >= 1 << 63:
        r.fail("shape", f"1 to {1 + MAX_AXES} lengths of less than 2**63 bytes together")
    extent, n = EXTENT, spec.shape[0]
    if is_zarr:
        width = spec.nbytes // n if n else 0
        spec = replace(spec, zarr=parse_zarr(document.Reader(r.object("zarr"), f"{where}, zarr"), n, width))
        assert spec.zarr is not None
        extent = max(spec.zarr.chunk * width, 1)
    if len(spec.checksums) != -(-spec.nbytes // extent):
        r.fail("checksums", f"one for each {extent} bytes of data, {-(-spec.nbytes // extent)} in all")
    return spec


class _FieldParser:
    """Check how a layer stores one field: numbers of arrays that fit each other and the number of rows."""

    def __init__(self, entry: Any, arrays: tuple[ArraySpec, ...], rows: int, where: str, n_entries: int) -> None:
        self.r, self.arrays, self.rows = document.Reader(entry, where), arrays, rows
        self.n_entries = n_entries
        kind = self.r.text("kind")
        if kind not in KINDS:
            self.r.fail("kind", "one of " + ", ".join(KINDS))
        self.kind: Kind = kind  # type: ignore[assignment]

    def stored(self) -> StoredField:
        r = self.r
        if "constant" in r.value:
            return self._constant(r.value["constant"])
        labels = tuple(r.texts("labels", default=[]))
        if labels and self.kind != "category":
            r.fail("labels", "absent, but for a category")
        if any(len(label) > MAX_LABEL for label in labels):
            r.fail("labels", f"texts of up to {MAX_LABEL} characters")
        values, offsets = self._array("values", r.integer("values")), tuple(r.integers("offsets", default=[]))
        lengths = self._lengths(offsets, values)
        self._check_values(values)
        shapes = self._shapes()
        valid = self._valid(lengths)
        bounds = self._bounds(values, len(labels), lengths) if "bounds" in r.value else None
        return StoredField(self.kind, r.value["values"], offsets, labels, None, shapes, valid, bounds)

    def _constant(self, value: Any) -> StoredField:
        r = self.r
        if self.kind not in ("dense", "category"):
            r.fail("constant", f"absent: a {self.kind} field has no constants")
        is_text = isinstance(value, str) and len(value) <= MAX_LABEL
        is_number = isinstance(value, bool | float) or (type(value) is int and -(1 << 63) <= value < 1 << 64)
        if not (is_text if self.kind == "category" else is_number):
            r.fail("constant", f"text of up to {MAX_LABEL} characters for a category, else a bool, an int or a float")
        return StoredField(self.kind, labels=(value,) if is_text else (), constant=value)

    def _bounds(self, values: ArraySpec, n_labels: int, lengths: list[int]) -> Held:
        r = self.r
        if not has_order(self.kind, values.dtype):
            r.fail("bounds", "absent, but for booleans, integers, reals, times and categories")
        bounds = document.Reader(r.object("bounds"), f"{r.where}, bounds")
        n_items = lengths[1] if len(lengths) > 1 else None
        n = math.prod(values.shape)
        return parse_held(bounds, self.kind, values.dtype, n_labels, self.rows, n_items, self.n_entries, n)

    def _array(self, key: str, number: Any) -> ArraySpec:
        if type(number) is not int or not 0 <= number < len(self.arrays):
            self.r.fail(key, f"the number of an array, less than {len(self.arrays)}")
        return self.arrays[number]

    def _lengths(self, offsets: tuple[int, ...], values: ArraySpec) -> list[int]:
        """How many elements there are at each depth: what the data below have, as part.json says."""
        r = self.r
        fewest, most = {"ragged": (1, MAX_LEVELS), "string": (1, MAX_LEVELS + 1), "shaped": (1, 1)}.get(
            self.kind, (0, 0)
        )
        if not fewest <= len(offsets) <= most:
            n = str(most) if fewest == most else f"{fewest} to {most}"
            r.fail("offsets", f"{n} numbers of arrays for a {self.kind} field")
        lengths = [self.rows]
        for i, number in enumerate(offsets):
            spec = self._array("offsets", number)
            if spec.dtype != OFFSET_DTYPE or len(spec.shape) != 1 or not spec.shape[0]:
                r.fail("offsets", "int64 arrays of one axis and one entry or more")
            if i == 0 and spec.shape[0] != self.rows + 1:
                r.fail("offsets", f"first an array of {self.rows + 1} entries, one more than rows; {spec.file} is not")
            below = self._array("offsets", offsets[i + 1]).shape[0] - 1 if i + 1 < len(offsets) else values.shape[0]
            lengths.append(below)
        if not offsets and values.shape[0] != self.rows:
            r.fail("values", f"an array of {self.rows} rows; {values.file} has {values.shape[0]}")
        return lengths

    def _check_values(self, values: ArraySpec) -> None:
        one_axis = len(values.shape) == 1
        if self.kind == "string" and not (values.dtype == TEXT_DTYPE and one_axis):
            self.r.fail("values", f"an array |u1 of one axis for a string; {values.file} is not")
        if self.kind == "category" and not (values.dtype in _CODE_DTYPES and one_axis):
            self.r.fail("values", f"an array |u1, <u2 or <i4 of one axis for a category; {values.file} is not")

    def _shapes(self) -> int | None:
        r = self.r
        if (self.kind == "shaped") != ("shapes" in r.value):
            r.fail("shapes", "the number of an array for a shaped field, and for no other")
        if self.kind != "shaped":
            return None
        number = r.integer("shapes")
        spec = self._array("shapes", number)
        if spec.dtype != SHAPE_DTYPE or len(spec.shape) != 2 or spec.shape[0] != self.rows:
            r.fail("shapes", f"an int64 array ({self.rows}, axes); {spec.file} is not")
        return number

    def _valid(self, lengths: list[int]) -> tuple[int | None, ...]:
        r = self.r
        valid = r.value.get("valid", [])
        depths = len(lengths) - (self.kind in ("string", "shaped"))
        if not isinstance(valid, list) or len(valid) > depths:
            r.fail("valid", f"a list of one number of an array, or null, for each of up to {depths} depths")
        for number, length in zip(valid, lengths, strict=False):
            if number is None:
                continue
            spec = self._array("valid", number)
            if spec.dtype != VALID_DTYPE or spec.shape != (length,):
                r.fail("valid", f"bool arrays, here of {length} elements; {spec.file} is not")
        return tuple(valid)
