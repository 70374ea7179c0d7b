"""The layout that holds what several inputs have under one name, and rows in it. No value is ever lost. Pure.

Numbers take the dtype of numpy that holds all values of all of them exactly; axes of differing length become lists;
what has one number per row becomes lists of one beside lists; labels become text beside text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.schema import (
    MAX_LEVELS,
    OFFSET_DTYPE,
    SHAPE_DTYPE,
    TEXT_DTYPE,
    VALID_DTYPE,
    Field,
    FieldData,
    Kind,
    dtype_text,
)
from mmdask.sources.given.exact import missing_value, values_as

__all__ = ["blank", "common_dtype", "common_field", "promoted"]

#: an axis along which rows differ in length
_VARIES = None
_Axes = tuple[int | None, ...]


def common_dtype(dtypes: Sequence[np.dtype[Any]]) -> np.dtype[Any] | str:
    """The dtype that holds every value of some others exactly, or why there is none.

    Examples
    --------
    >>> common_dtype([np.dtype("i4"), np.dtype("f4")]), common_dtype([np.dtype("?"), np.dtype("u1")])
    (dtype('float64'), dtype('uint8'))
    >>> common_dtype([np.dtype("i8"), np.dtype("f8")])
    'no dtype holds all values of int64 and float64'
    """
    first = dtypes[0]
    if all(d == first for d in dtypes):
        return first
    names = list(dict.fromkeys(dtype_text(d) for d in dtypes))
    listed = f"{', '.join(names[:-1])} and {names[-1]}"
    kinds = {d.kind for d in dtypes}
    if kinds == {"S"}:
        return max(dtypes, key=lambda d: d.itemsize)
    if not kinds <= set("biufc"):
        return f"nothing holds both {listed}"
    dtype = np.dtype(np.result_type(*dtypes))
    if dtype.itemsize > (16 if dtype.kind == "c" else 8) or not all(_holds(dtype, d) for d in dtypes):
        return f"no dtype holds all values of {listed}"
    return dtype


def _holds(dtype: np.dtype[Any], other: np.dtype[Any]) -> bool:
    """Whether a dtype holds all numbers of another: numpy calls int64 to float64 safe, which rounds."""
    rounds = other.kind in "iu" and other.itemsize == 8 and dtype.kind in "fc"
    return not rounds and bool(np.can_cast(other, dtype, "safe"))


def common_field(fields: Sequence[Field]) -> Field | str:
    """The field that holds rows of several of one name, or why there is none.

    Parameters
    ----------
    fields : sequence of Field
        One or more.

    Returns
    -------
    Field or str
        With everything but the layout as in the first; it can miss what one of them can.

    Examples
    --------
    >>> common_field([Field.dense("x", "i4"), Field.dense("x", "f4")]).describe()
    'float64'
    >>> common_field([Field.dense("x", "f4", (3,)), Field.ragged("x", "f4")]).describe()
    'ragged float32'
    >>> common_field([Field.dense("x", "f4"), Field.string("x")])
    'text and numbers'
    """
    first = fields[0]
    optional = tuple(sorted({d for f in fields for d in f.optional}))
    if all(f.same_layout(first) for f in fields):
        labels = dict.fromkeys(label for f in fields for label in f.labels)
        return replace(first, optional=optional, labels=tuple(labels))
    kinds = {f.kind for f in fields}
    if kinds & {"string", "category"}:
        return _common_text(fields, optional)
    dtype = common_dtype([f.dtype for f in fields])
    if isinstance(dtype, str):
        return dtype
    if "shaped" in kinds:
        if all(replace(f, dtype=dtype).same_layout(replace(first, dtype=dtype)) for f in fields):
            return replace(first, dtype=dtype, optional=optional)
        return "arrays of differing shape, and rows of another form"
    axes = _common_axes([_axes(f) for f in fields])
    if axes is None:
        return "rows of differing depth"
    levels = max((i + 1 for i, length in enumerate(axes) if length is _VARIES), default=0)
    if levels > MAX_LEVELS:
        return f"more than {MAX_LEVELS} levels of lists"
    shape = tuple(length for length in axes[levels:] if length is not None)
    kind: Kind = "ragged" if levels else "dense"
    return replace(first, kind=kind, dtype=dtype, shape=shape, levels=levels, optional=optional)


def _common_text(fields: Sequence[Field], optional: tuple[int, ...]) -> Field | str:
    if any(f.kind not in ("string", "category") for f in fields):
        return "text and numbers"
    if len({f.levels for f in fields}) > 1:
        return "text of differing depth"
    text = next(f for f in fields if f.kind == "string")
    return replace(text, optional=optional)


def _axes(field: Field) -> _Axes:
    return (_VARIES,) * field.levels + field.shape


def _common_axes(found: Sequence[_Axes]) -> _Axes | None:
    """The axes that rows of all have, along each their length if it is one; None if there are none."""
    if _LIST in found and set(found) <= {_LIST, ()}:
        return _LIST
    if len({len(axes) for axes in found}) > 1:
        return None
    return tuple(lengths[0] if len(set(lengths)) == 1 else _VARIES for lengths in zip(*found, strict=True))


_LIST: _Axes = (_VARIES,)


# Rows ---------------------------------------------------------------------------------------------------------------


def promoted(field: Field, data: FieldData, to: Field) -> FieldData:
    """Rows of a field as rows of one that `common_field` found for it, or of one with another dtype.

    Raises
    ------
    SchemaError
        When the dtype was asked for and does not hold one of the values.

    Examples
    --------
    >>> lists = promoted(Field.dense("x", "i4"), FieldData(np.int32([7, 8])), Field.ragged("x", "i8"))
    >>> lists.values, lists.offsets
    (array([7, 8]), (array([0, 1, 2]),))
    """
    if field.same_layout(to):
        return data
    if to.kind == "string" and field.kind == "category":
        return _text(data)
    data = _with_levels(field, data, to)
    valid = data.valid_at(len(data.offsets))
    if to.kind == "shaped" or data.values.dtype == to.dtype:
        return replace(data, values=values_as(to, data.values))
    if valid is None:
        return replace(data, values=values_as(to, data.values))
    # what stands where a value is missing is another for each dtype
    values = np.full(data.values.shape, missing_value(to.dtype), to.dtype)
    values[valid] = values_as(to, data.values[valid])
    return replace(data, values=values)


def _with_levels(field: Field, data: FieldData, to: Field) -> FieldData:
    """The rows with axes of items as lists, until they have as many levels as a field."""
    values, offsets, valid = data.values, list(data.offsets), list(data.valid)
    if to.levels and not field.levels and not field.shape:
        values = values.reshape(len(values), 1)  # one number is a list of one
    for _ in range(to.levels - field.levels):
        there = valid[len(offsets)] if len(offsets) < len(valid) else None
        length = values.shape[1]
        ends = np.zeros(len(values) + 1, OFFSET_DTYPE)
        np.cumsum(np.full(len(values), length) if there is None else there * length, out=ends[1:])
        if there is not None:
            values = values[there]  # a list that is missing has no items
        values = values.reshape(len(values) * length, *values.shape[2:])
        offsets.append(ends)
    return FieldData(values, tuple(offsets), data.labels, data.shapes, tuple(valid))


def _text(data: FieldData) -> FieldData:
    """Labels as text."""
    words = [label.encode() for label in data.labels]
    codes = np.asarray(data.values)
    there = data.valid_at(0)
    counts = np.array([len(w) for w in words] or [0], OFFSET_DTYPE)[codes]
    if there is not None:
        counts, codes = counts * there, codes[there]
    offsets = np.zeros(len(counts) + 1, OFFSET_DTYPE)
    np.cumsum(counts, out=offsets[1:])
    values = np.frombuffer(b"".join([words[code] for code in codes.tolist()]), TEXT_DTYPE)
    return FieldData(values, (offsets,), valid=data.valid)


def blank(field: Field, n: int) -> FieldData:
    """Rows of a field that are all missing.

    Examples
    --------
    >>> data = blank(Field.ragged("x", "f4", optional=(0,)), 2)
    >>> data.offsets[0], data.valid[0]
    (array([0, 0, 0]), array([False, False]))
    """
    missing = np.zeros(n, VALID_DTYPE)
    if field.n_offsets:
        offsets = (np.zeros(n + 1, OFFSET_DTYPE), *(np.zeros(1, OFFSET_DTYPE) for _ in range(field.n_offsets - 1)))
        shapes = np.zeros((n, field.axes), SHAPE_DTYPE) if field.kind == "shaped" else None
        return FieldData(np.empty((0, *field.shape), field.dtype), offsets, shapes=shapes, valid=(missing,))
    if field.kind == "category":
        # a code has to be one of a label, also where it is missing
        return FieldData(np.zeros(n, field.dtype), labels=field.labels or ("",), valid=(missing,))
    values: npt.NDArray[Any] = np.full((n, *field.shape), missing_value(field.dtype), field.dtype)
    return FieldData(values, valid=(missing,))
