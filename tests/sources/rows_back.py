"""The rows of a `FieldData` as plain Python, one by one and slowly: what was handed in, if nothing went wrong."""

from __future__ import annotations

import math

import numpy as np


def rows_back(field, data):
    """One entry per row: numbers, text, lists, nested lists of shaped rows, and None for what is missing."""
    assert len(data.offsets) == field.n_offsets
    assert data.values.flags.c_contiguous
    assert data.values.dtype == field.dtype
    for depth, offsets in enumerate(data.offsets):
        length = len(data.values) if depth + 1 == len(data.offsets) else len(data.offsets[depth + 1]) - 1
        assert offsets.dtype == np.int64
        assert (offsets[0], offsets[-1]) == (0, length)
        assert all(a <= b for a, b in zip(offsets[:-1], offsets[1:], strict=True))
    for valid in data.valid:
        assert valid is None or (valid.dtype == np.bool_ and not valid.all())
    assert data.valid == () or any(v is not None for v in data.valid)
    assert {d for d, valid in enumerate(data.valid) if valid is not None} <= set(field.optional)
    if field.kind == "shaped":
        rows = [
            data.values[a:b].reshape(*shape, *field.shape).tolist()
            for a, b, shape in zip(data.offsets[0][:-1], data.offsets[0][1:], data.shapes.tolist(), strict=True)
        ]
        assert data.shapes.dtype == np.int64
        assert data.shapes.shape == (len(rows), field.axes)
        assert [math.prod(s) for s in data.shapes.tolist()] == np.diff(data.offsets[0]).tolist()
        return none_where_missing(rows, data, 0, lambda row: row == [])
    if field.kind == "category":
        return none_where_missing([data.labels[c] for c in data.values.tolist()], data, 0, lambda _: True)
    if field.kind == "string":
        raw, bounds = data.values.tobytes(), data.offsets[-1].tolist()
        elements = [raw[a:b].decode() for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
        elements = none_where_missing(elements, data, field.levels, lambda text: text == "")
    else:
        assert data.values.shape[1:] == field.shape
        missing = {"f": np.nan, "c": np.nan, "M": "NaT", "m": "NaT"}.get(field.dtype.kind)
        fill = np.zeros((), field.dtype) if missing is None else np.array(missing, field.dtype)
        elements = [
            value
            if there
            else ("missing", np.array_equal(value, np.full(field.shape, fill), equal_nan=missing is not None))
            for value, there in zip(data.values, flags(data, field.levels, len(data.values)), strict=True)
        ]
        elements = [v.tolist() if not isinstance(v, tuple) else v for v in elements]
        elements = none_where_missing(elements, data, field.levels, lambda v: v == ("missing", True))
    for depth in range(field.levels - 1, -1, -1):
        bounds = data.offsets[depth].tolist()
        elements = [elements[a:b] for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
        elements = none_where_missing(elements, data, depth, lambda items: items == [])
    return elements


def flags(data, depth, n):
    """For each element of a depth whether it is there."""
    valid = data.valid[depth] if depth < len(data.valid) else None
    return [True] * n if valid is None else valid.tolist()


def none_where_missing(elements, data, depth, is_fill):
    """The elements, None for those that are missing, which hold nothing but what stands for that."""
    there = flags(data, depth, len(elements))
    assert len(there) == len(elements)
    assert all(ok or is_fill(e) for e, ok in zip(elements, there, strict=True))
    return [e if ok else None for e, ok in zip(elements, there, strict=True)]
