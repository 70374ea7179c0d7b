"""Runs of rows as what users hold: awkward arrays, masked arrays, and single rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.rows.reading.awkward_rows import to_awkward
from mmdask.rows.reading.shapes import shaped_rows
from mmdask.rows.reading.text import as_labels, as_text
from mmdask.schema import Field, FieldData, Schema

__all__ = ["fill_missing", "masked", "records", "row", "rows_of", "several", "to_awkward"]


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
        elif f.kind == "dense" and 0 in np.shape(value)[1:]:
            value = to_awkward(f, FieldData(value))
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
