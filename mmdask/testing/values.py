"""Rows as plain Python values, as `FieldData`, and as the arrays that users hand in; and how to compare them.

Written to be obviously right rather than quick: it is what the rest of the package is compared with.

A row is a bool, int, float, complex, bytes, str, `numpy.datetime64` or `numpy.timedelta64`; for an item shape, lists of
them, one inside the other; for ragged fields lists of items, one for each level; for shaped fields a numpy array.
None stands for what is missing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.schema import Field, FieldData

__all__ = ["check_field_data", "difference", "from_python", "same", "to_arrays", "to_python"]


def to_python(field: Field, data: FieldData) -> list[Any]:
    """Rows of a field as plain Python values, one for each row.

    Parameters
    ----------
    field : Field
        What they are rows of.
    data : FieldData
        The rows.

    Examples
    --------
    >>> import numpy as np
    >>> from mmdask.schema import Field, FieldData
    >>> to_python(Field.ragged("hits", "i4"), FieldData(np.arange(3, dtype="i4"), (np.array([0, 2, 2, 3]),)))
    [[0, 1], [], [2]]
    """
    elements = _elements(field, data)
    for depth in range(field.levels, -1, -1):
        valid = data.valid_at(depth)
        if valid is not None:
            elements = [e if there else None for e, there in zip(elements, valid.tolist(), strict=True)]
        if depth:
            elements = [elements[a:b] for a, b in itertools.pairwise(data.offsets[depth - 1].tolist())]
    return elements


def _elements(field: Field, data: FieldData) -> list[Any]:
    """What lies below all levels of lists."""
    if field.kind == "category":
        # a missing row has any code
        return [data.labels[code] if 0 <= code < len(data.labels) else None for code in data.values.tolist()]
    if field.kind == "string":
        raw = data.values.tobytes()
        return [raw[a:b].decode() for a, b in itertools.pairwise(data.offsets[-1].tolist())]
    if field.kind == "shaped":
        assert data.shapes is not None
        bounds = itertools.pairwise(data.offsets[0].tolist())
        return [
            data.values[a:b].reshape(*shape, *field.shape).copy()
            for (a, b), shape in zip(bounds, data.shapes.tolist(), strict=True)
        ]
    return _scalars(data.values)


def _scalars(values: npt.NDArray[Any]) -> list[Any]:
    if values.dtype.kind not in "mM":
        found: list[Any] = values.tolist()
        return found
    # `tolist` makes times numbers or datetimes, depending on their unit.
    return list(values) if values.ndim == 1 else [_scalars(v) for v in values]


def from_python(field: Field, rows: Sequence[Any]) -> FieldData:
    """Plain Python values as rows of a field; the inverse of `to_python`.

    Parameters
    ----------
    field : Field
        What they become. Values must be of its dtype: nothing is rounded or checked. A category gets the labels of the
        field, and those of the rows that are new.
    rows : sequence
        One entry for each row.

    Examples
    --------
    >>> from mmdask.schema import Field
    >>> data = from_python(Field.string("name", optional=(0,)), ["a", None, "bc"])
    >>> data.values.tobytes(), data.offsets[0].tolist(), data.valid[0].tolist()
    (b'abc', [0, 1, 1, 3], [True, False, True])
    """
    elements = list(rows)
    offsets: list[npt.NDArray[np.int64]] = []
    valid: list[npt.NDArray[np.bool_] | None] = []
    for depth in range(field.levels + 1):
        there = [e is not None for e in elements]
        valid.append(None if all(there) else np.array(there))
        if depth < field.levels:
            lists = [[] if e is None else e for e in elements]
            offsets.append(_offsets([len(e) for e in lists]))
            elements = list(itertools.chain.from_iterable(lists))
    flags = tuple(valid) if any(v is not None for v in valid) else ()
    if field.kind == "category":
        labels = tuple(dict.fromkeys([*field.labels, *(e for e in elements if e is not None)]))
        codes = [0 if e is None else labels.index(e) for e in elements]
        return FieldData(np.array(codes, field.dtype), labels=labels, valid=flags)
    if field.kind == "string":
        texts = [b"" if e is None else e.encode() for e in elements]
        values = np.frombuffer(b"".join(texts), field.dtype)
        return FieldData(values, (*offsets, _offsets([len(t) for t in texts])), valid=flags)
    if field.kind == "shaped":
        arrays = [np.zeros((0,) * field.axes + field.shape) if e is None else e for e in elements]
        shapes = np.array([a.shape[: field.axes] for a in arrays], np.int64).reshape(len(arrays), field.axes)
        counts = [math.prod(shape) for shape in shapes.tolist()]
        items = np.zeros((sum(counts), *field.shape), field.dtype)
        for array, end, count in zip(arrays, itertools.accumulate(counts), counts, strict=True):
            items[end - count : end] = array.reshape(count, *field.shape)
        return FieldData(items, (_offsets(counts),), shapes=shapes, valid=flags)
    values = np.zeros((len(elements), *field.shape), field.dtype)
    for i, element in enumerate(elements):
        values[i] = _missing(field.dtype) if element is None else np.array(element, field.dtype).reshape(field.shape)
    return FieldData(values, tuple(offsets), valid=flags)


def _offsets(counts: Sequence[int]) -> npt.NDArray[np.int64]:
    return np.array([0, *itertools.accumulate(counts)], np.int64)


def _missing(dtype: np.dtype[Any]) -> Any:
    """What a missing number is in `FieldData.values`."""
    if dtype.kind in "mM":
        return np.array("NaT", dtype)[()]
    return {"b": False, "f": np.nan, "c": np.nan, "S": b""}.get(dtype.kind, 0)


def to_arrays(field: Field, rows: Sequence[Any]) -> Any:
    """Rows as users have them: a numpy array where they are dense, an awkward array where ragged, else a list.

    Parameters
    ----------
    field : Field
        What they are rows of.
    rows : sequence
        Plain Python values, one for each row.

    Returns
    -------
    numpy.ndarray, awkward.Array or list
        With the field's dtype where it is an array. Missing dense rows are masked, missing items of an awkward array
        are None. Lists are of text, and of numpy arrays for shaped rows, and for ragged ones of bytes.

    Examples
    --------
    >>> from mmdask.schema import Field
    >>> to_arrays(Field.ragged("hits", "i2"), [[1, 2], []])
    <Array [[1, 2], []] type='2 * var * int16'>
    """
    if field.kind in ("shaped", "category") or (field.kind == "string" and not field.levels):
        return list(rows)
    data = from_python(field, rows)
    if field.kind == "dense":
        valid = data.valid_at(0)
        if valid is None:
            return data.values
        if 0 in field.shape:  # there is nothing to be masked
            return [array if there else None for array, there in zip(data.values, valid.tolist(), strict=True)]
        mask = np.broadcast_to(~valid.reshape(-1, *[1] * len(field.shape)), data.values.shape)
        return np.ma.MaskedArray(data.values, mask)
    if field.dtype.kind == "S":
        return [row if row is None else _as_array(field, row) for row in rows] if field.levels == 1 else list(rows)
    return _awkward(field, data)


def _as_array(field: Field, items: list[Any]) -> Any:
    """The items of one row as an array, if none of them is missing."""
    if any(item is None for item in items):
        return items
    return np.array(items, field.dtype).reshape(len(items), *field.shape)


def _awkward(field: Field, data: FieldData) -> Any:
    import awkward as ak
    from awkward import contents, index

    text = field.kind == "string"
    layout = contents.NumpyArray(data.values, parameters={"__array__": "char"} if text else None)
    for depth in range(len(data.offsets), -1, -1):
        valid = data.valid_at(depth)
        if valid is not None:
            layout = contents.ByteMaskedArray(index.Index8(valid.astype(np.int8)), layout, valid_when=True)
        if depth:
            kind = {"__array__": "string"} if text and depth == len(data.offsets) else None
            layout = contents.ListOffsetArray(index.Index64(data.offsets[depth - 1]), layout, parameters=kind)
    return ak.Array(layout)


def same(a: Any, b: Any) -> bool:
    """Whether two Python values are the same, types included: nan is nan, ``-0.0`` is not ``0.0``, 1 not ``1.0``.

    Examples
    --------
    >>> same([[1.0, float("nan")], None], [[1.0, float("nan")], None]), same(1, True)
    (True, False)
    """
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.shape == b.shape and a.dtype == b.dtype and same(_scalars(a), _scalars(b))
    if isinstance(a, float):
        return (a != a and b != b) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    if isinstance(a, complex):
        return same(a.real, b.real) and same(a.imag, b.imag)
    if isinstance(a, np.datetime64 | np.timedelta64):
        return a.dtype == b.dtype and bool(a.view("i8") == b.view("i8"))
    return bool(a == b)


def difference(expected: Sequence[Any], got: Sequence[Any]) -> str:
    """The first row in which two runs of rows differ, in words; empty where none does.

    Examples
    --------
    >>> difference([1, 2, 3], [1, 3, 3])
    'row 1 of 3 is 3, should be 2'
    """
    for i, (a, b) in enumerate(zip(expected, got, strict=False)):
        if not same(a, b):
            return f"row {i} of {len(expected)} is {b!r}, should be {a!r}"
    if len(expected) != len(got):
        return f"{len(got)} rows, should be {len(expected)}"
    return ""


def check_field_data(field: Field, data: FieldData) -> None:
    """Raise `AssertionError` unless a run of rows is what `FieldData` says that rows of `field` are.

    Checked are dtypes, shapes, that offsets ascend from 0 to the items below, that shapes have as many items as their
    rows, that codes have labels, and that what is missing has no items, or is nan, NaT or zero.
    """
    name = f"field {field.name!r} ({field.describe()})"
    assert data.values.dtype == field.dtype, f"{name}: values are {data.values.dtype}"
    assert data.values.shape[1:] == field.shape, f"{name}: values have shape {data.values.shape}"
    assert len(data.offsets) == field.n_offsets, f"{name}: {len(data.offsets)} arrays of offsets"
    for depth, offsets in enumerate(data.offsets):
        assert offsets.dtype == np.int64, f"{name}: offsets are {offsets.dtype}"
        assert offsets.ndim == 1, f"{name}: offsets have shape {offsets.shape}"
        assert offsets[0] == 0, f"{name}: offsets start at {offsets[0]}"
        assert (np.diff(offsets) >= 0).all(), f"{name}: offsets do not ascend"
        assert offsets[-1] == data.length(depth + 1), f"{name}: offsets end at {offsets[-1]}"
    if field.kind == "shaped":
        assert data.shapes is not None, f"{name}: no shapes"
        assert data.shapes.dtype == np.int64, f"{name}: shapes are {data.shapes.dtype}"
        assert data.shapes.shape == (len(data), field.axes), f"{name}: shapes have shape {data.shapes.shape}"
        assert (np.prod(data.shapes, axis=1) == data.counts).all(), f"{name}: shapes do not fit the items"
    else:
        assert data.shapes is None, f"{name}: it has shapes"
    assert len(data.valid) <= field.levels + 1, f"{name}: validity of {len(data.valid)} depths"
    for depth, valid in enumerate(data.valid):
        if valid is not None:
            _check_valid(field, data, depth, valid)
    if field.kind == "category":
        there = data.valid_at(0)
        codes = data.values if there is None else data.values[there]
        assert ((codes >= 0) & (codes < len(data.labels))).all(), f"{name}: a code has no label"


def _check_valid(field: Field, data: FieldData, depth: int, valid: npt.NDArray[np.bool_]) -> None:
    name = f"field {field.name!r} ({field.describe()}), depth {depth}"
    assert depth in field.optional, f"{name}: validity where nothing is optional"
    assert valid.dtype == np.bool_, f"{name}: validity is {valid.dtype}"
    assert valid.shape == (data.length(depth),), f"{name}: validity has shape {valid.shape}"
    if depth < len(data.offsets):
        assert not np.diff(data.offsets[depth])[~valid].any(), f"{name}: what is missing has items"
    elif field.kind != "category":
        missing = data.values[~valid]
        blank = np.isnan(missing) if missing.dtype.kind in "fc" else None
        blank = np.isnat(missing) if missing.dtype.kind in "mM" else blank
        zero = np.zeros((), missing.dtype)
        assert (missing == zero if blank is None else blank).all(), f"{name}: what is missing has a value"
    if depth == 0 and data.shapes is not None:
        assert not data.shapes[~valid].any(), f"{name}: what is missing has a shape"
