"""Runs of rows as what users hold: awkward arrays, masked arrays, and single rows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.errors import OptionError
from mmdask.rows.reader import as_labels, as_text
from mmdask.rows.shapes import shaped_rows
from mmdask.schema import Field, FieldData, Schema

__all__ = ["fill_missing", "masked", "records", "row", "rows_of", "several", "to_awkward"]

#: lists that shapes may ask for beyond one per item and row: rows of shape (2**40, 0) have no items at all
_SPARE_LISTS = 1 << 20


def masked(values: npt.NDArray[Any], valid: npt.NDArray[np.bool_] | None) -> np.ma.MaskedArray[Any, Any]:
    """Values over the same memory as a masked array, in which those that are not valid are masked.

    Parameters
    ----------
    values : numpy.ndarray
        ``(n, *shape)``.
    valid : numpy.ndarray or None
        bool ``(n,)``; None where nothing is missing.
    """
    mask = np.zeros(values.shape, np.bool_)
    if valid is not None:
        mask[~valid] = True
    # numpy's own fill value of reals, 1e20, is beyond those of 16 bits, and it warns when it meets one.
    return np.ma.MaskedArray(values, mask, fill_value=np.nan if values.dtype == np.float16 else None)


def fill_missing(dtype: np.dtype[Any]) -> Any:
    """What stands where a value is missing: nan, NaT, or zero."""
    if dtype.kind in "fc":
        return dtype.type(np.nan)
    return np.array("NaT", dtype)[()] if dtype.kind in "mM" else np.zeros((), dtype)[()]


def several(field: Field, data: FieldData) -> Any:
    """Rows together: an array of a dense field, text of a category, masked if they are optional; else awkward."""
    if data.offsets:
        return to_awkward(field, data)
    values, valid = data.values, data.valid_at(0)
    if field.kind == "category":
        values = as_labels(data)
        if valid is not None:
            values[~valid] = ""  # else it would read as one of the labels to what knows no masks
    return masked(values, valid) if 0 in field.optional else values


def row(field: Field, data: FieldData) -> Any:
    """The first of some rows; see `rows_of`."""
    return next(rows_of(field, data[:1]))


def rows_of(field: Field, data: FieldData) -> Iterator[Any]:
    """Rows one by one: numbers, labels and text as they are, lists as arrays, None where one is missing.

    Arrays are views: of one level with a mask if items are missing; of more levels awkward; of shaped rows in their
    shape. Lists of text are lists of str.
    """
    if field.kind == "string":
        yield from as_text(data)
        return
    if field.kind == "category":
        labels = data.labels or ("",)
        found: Iterator[Any] = (labels[code] for code in data.values.tolist())
    elif field.kind == "shaped":
        found = shaped_rows(field, data)
    elif len(data.offsets) > 1:
        yield from to_awkward(field, data)
        return
    elif data.offsets:
        found = _lists(data)
    else:
        found = iter(data.values)
    valid = data.valid_at(0)
    yield from found if valid is None else (x if ok else None for x, ok in zip(found, valid.tolist(), strict=True))


def _lists(data: FieldData) -> Iterator[Any]:
    items = data.valid_at(1)
    for a, b in itertools.pairwise(data.offsets[0].tolist()):
        whole = items is None or items[a:b].all()
        yield data.values[a:b] if whole else masked(data.values[a:b], items[a:b])  # type: ignore[index]


# Awkward arrays -----------------------------------------------------------------------------------------------------


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
    if values.dtype.kind != "S":
        return contents.NumpyArray(values)
    flat = np.ascontiguousarray(values).reshape(-1)
    starts = np.arange(len(flat), dtype=np.int64) * flat.itemsize
    chars = contents.NumpyArray(flat.view(np.uint8), parameters={"__array__": "byte"})
    stops = starts + np.strings.str_len(flat)
    layout: Any = contents.ListArray(
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


def records(schema: Schema, names: Sequence[str], values: Sequence[Any]) -> Any:
    """Some fields of a schema as one awkward array of records, in which members of a record are together again.

    A record whose members in the schema are all lists, and here have equal counts, becomes lists of records.
    """
    import awkward as ak

    members: dict[str, dict[str, Any]] = {}
    together: dict[str, Any] = {}
    for name, value in zip(names, values, strict=True):
        f = schema[name]
        if f.kind == "dense" and isinstance(value, np.ma.MaskedArray):
            # A row is missing as a whole, not number by number.
            mask = np.ma.getmaskarray(value)
            missing = np.asarray(mask.any(axis=tuple(range(1, mask.ndim))))
            value = to_awkward(f, FieldData(value.data, valid=(~missing,)))
        if not f.record or f.record in schema:
            together[name] = value
            continue
        together.setdefault(f.record, None)  # in the place of its first member
        members.setdefault(f.record, {})[f.member] = value
    for record, found in members.items():
        lists = all(f.levels for f in schema.values() if f.record == record) and _equal_counts(list(found.values()))
        together[record] = ak.zip(found, depth_limit=2 if lists else 1)
    return ak.zip(together, depth_limit=1)


def _equal_counts(lists: list[Any]) -> bool:
    """Whether awkward lists have as many items in each row, and are missing in the same rows."""
    import awkward as ak

    counts = [ak.to_numpy(ak.fill_none(ak.num(a, axis=1), -1)) for a in lists]
    return all(np.array_equal(c, counts[0]) for c in counts)
