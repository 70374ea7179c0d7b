"""Runs of rows as awkward arrays, over the same values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.errors import OptionError
from mmdask.schema import Field, FieldData

__all__ = ["to_awkward"]

#: lists that shapes may ask for beyond one per item and row: rows of shape (2**40, 0) have no items at all
_SPARE_LISTS = 1 << 20


def to_awkward(field: Field, data: FieldData) -> Any:
    """A run of rows as an awkward array over the same values.

    Its type depends on the field alone: options wherever something may be missing, lists for the axes of shaped rows.
    """
    import awkward as ak
    from awkward import contents, index

    offsets = list(data.offsets)
    layout: Any = _leaves(field, data.values)
    if field.kind == "string":
        layout = contents.ListOffsetArray(index.Index64(offsets.pop()), layout, parameters={"__array__": "string"})
    elif field.kind == "shaped":
        offsets = _axes(field, data)
    depth = len(offsets)
    if field.kind != "shaped":
        layout = _option(field, data, depth, layout)
    for bounds in reversed(offsets):
        depth -= 1
        layout = contents.ListOffsetArray(index.Index64(bounds), layout)
        layout = _option(field, data, depth, layout)
    return ak.Array(layout)


def _leaves(field: Field, values: npt.NDArray[Any]) -> Any:
    """The innermost values; fixed bytes as lists of bytes without the zeros at their ends, as in numpy."""
    from awkward import contents, index

    if field.kind == "string":
        return contents.NumpyArray(np.ascontiguousarray(values), parameters={"__array__": "char"})
    if values.dtype.kind != "S" and 0 not in values.shape[1:]:
        return contents.NumpyArray(values)
    flat = np.ascontiguousarray(values).reshape(-1)
    layout: Any
    if values.dtype.kind != "S":
        layout = contents.NumpyArray(flat)  # of no numbers, whose axes awkward cannot tell from their product
    else:
        starts = np.arange(len(flat), dtype=np.int64) * flat.itemsize
        chars = contents.NumpyArray(flat.view(np.uint8), parameters={"__array__": "byte"})
        stops = starts + np.strings.str_len(flat)
        layout = contents.ListArray(
            index.Index64(starts), index.Index64(stops), chars, parameters={"__array__": "bytestring"}
        )
    for axis in reversed(range(1, values.ndim)):
        layout = contents.RegularArray(layout, values.shape[axis], zeros_length=math.prod(values.shape[:axis]))
    return layout


def _option(field: Field, data: FieldData, depth: int, layout: Any) -> Any:
    """The elements at a depth, with None where one is missing."""
    from awkward import contents, index

    if depth not in field.optional:
        return layout
    valid = data.valid_at(depth)
    if valid is None:
        return contents.UnmaskedArray(layout)
    return contents.ByteMaskedArray(index.Index8(np.ascontiguousarray(valid).view(np.int8)), layout, valid_when=True)


def _axes(field: Field, data: FieldData) -> list[npt.NDArray[np.int64]]:
    """Offsets of nested lists for the axes of shaped rows."""
    shapes = data.shapes
    assert shapes is not None
    most = len(data.values) + len(data) + _SPARE_LISTS
    lists = np.ones(len(data), np.int64)
    found = []
    for axis in range(field.axes):
        # In floats, because hostile lengths would overflow.
        if axis and float(lists @ shapes[:, axis - 1].astype(np.float64)) > most:
            raise OptionError(
                f"rows of {field.name!r} have shapes like {tuple(shapes[np.argmax(lists)].tolist())}, too many empty "
                "lists for an awkward array; take rows one by one, by [i] or iteration"
            )
        if axis:
            lists = lists * shapes[:, axis - 1]
        counts = np.repeat(shapes[:, axis], lists)
        offsets = np.zeros(len(counts) + 1, np.int64)
        np.cumsum(counts, out=offsets[1:])
        found.append(offsets)
    return found
