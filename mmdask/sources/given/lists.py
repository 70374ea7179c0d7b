"""What Python lists and numpy arrays hold, as `Found`."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.errors import SchemaError
from mmdask.schema import MAX_LEVELS, OFFSET_DTYPE, TEXT_DTYPE, Field, stored_dtype
from mmdask.sources.given.exact import numbers, one_dtype
from mmdask.sources.given.found import Found, bounds_of, in_lists, one_shape, regular, split_shapes, with_missing

__all__ = [
    "from_list",
    "from_numpy",
    "is_awkward",
    "is_missing",
    "names_in",
    "no_records",
    "ready",
    "sort_of",
    "text_of",
]

#: types of what stands for a missing value: None, numpy.ma.masked, pandas.NA, pandas.NaT
_MISSING = ("NoneType", "MaskedConstant", "NAType", "NaTType")


def is_awkward(kind: type) -> bool:
    """Whether a type is one of awkward's, found out without importing it."""
    return kind.__module__.partition(".")[0] == "awkward"


def is_missing(value: Any) -> bool:
    """Whether something stands for a missing value."""
    return type(value).__name__ in _MISSING


#: found out once for each type: asking for abstract classes takes microseconds
_SORTS: dict[type, str] = {}


def sort_of(kind: type) -> str:
    """What objects of a type are: "missing", "text", "record", "number", "list" or "array"."""
    sort = _SORTS.get(kind)
    if sort is None:
        sort = _SORTS[kind] = _sort_of(kind)
    return sort


def _sort_of(kind: type) -> str:
    if kind.__name__ in _MISSING:
        return "missing"
    if is_awkward(kind):
        return "record" if kind.__name__ == "Record" else "list"
    if issubclass(kind, np.void):
        return "record"
    for sort, kinds in (("text", str), ("record", Mapping), ("number", np.generic | bytes)):
        if issubclass(kind, kinds):
            return sort
    if hasattr(kind, "__array__"):
        return "array"
    return "list" if issubclass(kind, Sequence) else "number"


def ready(value: Any) -> Any:
    """The value, computed if it is lazy: numpy would lose the mask of a lazy array."""
    return value.compute() if hasattr(value, "compute") else value


def no_records(name: str, members: Sequence[Any]) -> SchemaError:
    """The error for records in the place of one field's rows."""
    return SchemaError(
        f"field {name!r}: records of {', '.join(map(str, members))}, where a field has numbers, text, or lists of them"
    )


def from_list(name: str, rows: Sequence[Any], field: Field | None, depth: int = 0) -> Found:
    """Rows from a list of numbers, of texts, of lists or of arrays, with None and its like where some are missing.

    Raises
    ------
    SchemaError
        When they are of several sorts, records, or numbers that no one dtype holds.
    """
    if depth > MAX_LEVELS:
        raise SchemaError(f"field {name!r}: lists nested more than {MAX_LEVELS} deep")
    sorts = {kind: sort_of(kind) for kind in set(map(type, rows))}
    if "missing" in sorts.values():
        there = [sorts[type(row)] != "missing" for row in rows]
        present = from_list(name, list(itertools.compress(rows, there)), field, depth)
        return with_missing(present, np.array(there))
    what = set(sorts.values())
    if not what:
        return Found(name, np.empty(0), weak=True, known=False)
    if what == {"text"}:
        return text_of(name, rows)
    if what == {"number"}:
        return Found(name, numbers(name, rows, field), weak=True)
    if what == {"array"}:
        return _from_arrays(name, [ready(row) for row in rows], field, depth)
    if what == {"record"}:
        raise no_records(name, names_in(rows[0]))
    if what <= {"list", "array"} and all(getattr(row, "ndim", 1) for row in rows):
        items = from_list(name, list(itertools.chain.from_iterable(rows)), field, depth + 1)
        items = replace(_without_shapes(items, field), weak=items.weak and "array" not in what)
        return in_lists(items, bounds_of([len(row) for row in rows]))
    raise SchemaError(f"field {name!r}: {_mixture(rows, sorts)}; all have to be of one sort")


def _mixture(rows: Sequence[Any], sorts: Mapping[type, str]) -> str:
    """Two rows, or items, that differ in sort, in words."""
    words = {"text": "text", "record": "a record", "number": "a number", "list": "a list", "array": "an array"}
    first = rows[0]
    for i, row in enumerate(rows):
        if sorts[type(row)] != sorts[type(first)] or getattr(row, "ndim", 1) != getattr(first, "ndim", 1):
            return f"{words[sorts[type(row)]]} (entry {i}, {type(row).__name__}) among others like {first!r:.40}"
    return f"a list cannot be made of {first!r:.40}"


def names_in(record: Any) -> list[Any]:
    """The members of a record: of a mapping, of awkward or of numpy."""
    names = getattr(record, "fields", None) or getattr(getattr(record, "dtype", None), "names", None)
    return list(names or (record if isinstance(record, Mapping) else ()))


def text_of(name: str, texts: Sequence[str]) -> Found:
    """Texts as utf-8.

    Raises
    ------
    SchemaError
        When one has no utf-8, as lone surrogates.
    """
    try:
        encoded = [text.encode() for text in texts]
    except UnicodeEncodeError as error:
        raise SchemaError(f"field {name!r}: {error.object!r:.60} is not text that utf-8 can hold") from None
    bounds = bounds_of([len(text) for text in encoded])
    return Found(name, np.frombuffer(b"".join(encoded), TEXT_DTYPE), text=bounds)


def from_numpy(name: str, value: Any, field: Field | None) -> Found:
    """Rows from an array, which may be a masked one; numbers share its memory where they can.

    Raises
    ------
    SchemaError
        When it has no axis, or a dtype that cannot be stored.
    """
    masked = isinstance(value, np.ma.MaskedArray)
    array = np.asarray(value)
    if array.ndim == 0:
        raise SchemaError(f"field {name!r}: one value where rows are expected; wrap it in a list")
    if array.dtype.names is not None:
        raise no_records(name, array.dtype.names)
    optional = frozenset({0}) if masked else frozenset()
    if array.dtype.kind in "OUT":
        flat = array.ravel().tolist()
        if array.dtype.kind == "T":
            flat = [text if isinstance(text, str) else None for text in flat]  # others stand for missing text
        if masked:
            flat = [None if out else v for out, v in zip(np.ma.getmaskarray(value).ravel(), flat, strict=True)]
        found = from_list(name, flat, field)
        if not flat and array.dtype.kind in "UT":
            found = text_of(name, flat)
        found = _without_shapes(found, field) if array.ndim > 1 else found
        for axis in range(array.ndim - 1, 0, -1):
            found = regular(found, int(np.prod(array.shape[:axis])), array.shape[axis])
        return replace(found, optional=found.optional | optional)
    values = np.ascontiguousarray(array).astype(stored_dtype(array.dtype, name=name), copy=False)
    mask = _mask_of([value])
    if mask is not None:
        mask = mask.reshape(array.shape)
        values = np.where(mask, values, np.zeros((), values.dtype))
    return Found(name, values, mask=mask, optional=optional)


def _mask_of(arrays: Sequence[Any]) -> npt.NDArray[np.bool_] | None:
    """Which numbers of some arrays are not masked, one array after the other, as far as any is."""
    if not any(isinstance(a, np.ma.MaskedArray) and np.ma.is_masked(a) for a in arrays):
        return None
    return np.concatenate([~np.ma.getmaskarray(a).ravel() for a in arrays])


def _from_arrays(name: str, rows: Sequence[Any], field: Field | None, depth: int) -> Found:
    """Rows that are numpy arrays of the same number of axes."""
    arrays = [np.asarray(row) for row in rows]
    if any(a.dtype.kind == "O" for a in arrays):
        return from_list(name, [np.ma.asarray(row).tolist() for row in rows], field, depth)
    axes = sorted({a.ndim for a in arrays})
    if len(axes) > 1:
        raise SchemaError(f"field {name!r}: rows that are arrays have one number of axes, got {axes[0]} and {axes[1]}")
    if arrays[0].dtype.names is not None:
        raise no_records(name, arrays[0].dtype.names)
    mask = _mask_of(rows)
    if mask is not None:
        arrays = [
            np.where(np.ma.getmaskarray(row), np.zeros((), a.dtype), a) for row, a in zip(rows, arrays, strict=True)
        ]
    flat = np.concatenate([a.ravel() for a in one_dtype(name, arrays, field)])
    shapes = np.array([a.shape for a in arrays], OFFSET_DTYPE).reshape(len(arrays), axes[0])
    found = text_of(name, flat.tolist()) if flat.dtype.kind in "UT" else from_numpy(name, flat, field)
    masked = frozenset({1} if any(isinstance(row, np.ma.MaskedArray) for row in rows) else ())
    return replace(found, shapes=shapes, valid=(None,), mask=mask, optional=masked)


def _without_shapes(found: Found, field: Field | None) -> Found:
    """Items that are arrays as what lists may hold: arrays of one axis as lists, of more as elements of one shape.

    Raises
    ------
    SchemaError
        When their shapes differ, and no field says that they are lists.
    """
    if found.shapes is None:
        return found
    axes = found.shapes.shape[1]
    shape = one_shape(found)
    if axes == 1 or found.text is not None:
        return split_shapes(found, axes, ())
    if shape is not None:
        return split_shapes(found, 0, shape)
    if field is None:
        some = sorted(set(map(tuple, found.shapes.tolist())))[:3]
        raise SchemaError(
            f"field {found.name!r}: items of one list have one shape, got {some}; declare lists of them, as in "
            f"mm.Field.ragged({found.name!r}, {found.values.dtype.name!r}, levels={axes + 1})"
        )
    return split_shapes(found, axes, ())
