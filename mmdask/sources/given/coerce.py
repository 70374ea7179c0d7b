"""Turn what users hand in (numpy, awkward, lists, text, records) into `FieldData`, exactly or not at all.

`found` is how rows look, read by `lists` and `awkward_data`; `fit` makes them rows of a field; `exact` converts their
numbers; `records` takes records apart before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mmdask.errors import SchemaError
from mmdask.schema import CODE_DTYPE, Field, FieldData
from mmdask.sources.given.awkward_data import from_awkward
from mmdask.sources.given.fit import as_one_row, fit, found_in, infer
from mmdask.sources.given.found import Found
from mmdask.sources.given.lists import (
    from_list,
    from_numpy,
    is_awkward,
    is_missing,
    names_in,
    no_records,
    ready,
    sort_of,
)
from mmdask.sources.given.records import Member, check_counts, members, records_of

__all__ = ["Converted", "aux_data", "by_field", "fields_of", "to_field_data", "with_records"]

Converted = tuple[Field, FieldData]


def by_field(rows: Any, declared: Mapping[str, Field] | None = None) -> dict[str, Any]:
    """Rows of several fields by field: those of records taken apart, everything else as it is.

    Parameters
    ----------
    rows : mapping or array of records
        Names to rows, an awkward array of records, or a structured numpy array. Rows may be records themselves, or
        lists of them: of ``{"jets": [[{"pt": 1.0}]]}`` ``jets_pt`` is a field. A mapping in the place of rows is a
        record of its entries. One row works as well as many.
    declared : mapping, optional
        Fields by name. They say what members a record has where no record does: ``{"jets": [[]]}``.

    Raises
    ------
    SchemaError
        When `rows` are anything else, when records differ in their members, or two fields have the same name.

    Examples
    --------
    >>> by_field({"met": [1.5], "jets": [[{"pt": 2.0, "eta": 0.1}]]})
    {'met': [1.5], 'jets_pt': [[2.0]], 'jets_eta': [[0.1]]}
    """
    return {member.name: member.rows for member in members(rows, declared or {})}


def fields_of(rows: Any, declared: Mapping[str, Field] | None = None) -> dict[str, Converted]:
    """Convert rows of several fields; as `to_field_data` for each one that `by_field` finds.

    Fields of records say so in `Field.record`.

    Raises
    ------
    SchemaError
        As `by_field` and `to_field_data`, and when members of a list of records differ in their counts.
    """
    declared = declared or {}
    parts = members(rows, declared)
    found = {part.name: to_field_data(part.name, part.rows, declared.get(part.name)) for part in parts}
    found = with_records(parts, found)
    check_counts(found, declared)
    return found


def with_records(parts: Sequence[Member], found: Mapping[str, Converted]) -> dict[str, Converted]:
    """The same with `Field.record` where none was declared."""
    records = records_of(parts, {name: field for name, (field, _) in found.items()})
    return {
        name: (replace(f, record=records[name]), data) if name in records and not f.record else (f, data)
        for name, (f, data) in found.items()
    }


def to_field_data(name: str, value: Any, field: Field | None = None) -> tuple[Field, FieldData]:
    """Convert the rows of one field.

    Parameters
    ----------
    name : str
        The field's name.
    value : array-like
        One entry per row: a numpy array ``(rows, ...)``, masked or not, an awkward array, a dask array or `Ragged`,
        which is computed, a Categorical of pandas, or a list of numbers, texts, lists or arrays, and of None where one
        is missing.
    field : Field, optional
        What it must become; by default what it looks like: text is a string field, a Categorical of texts a category,
        equal rows of an array are dense, lists and awkward lists are ragged, arrays of two axes or more and of
        differing shape are shaped. Where a value is missing, or may be by the type of the array, the field is optional.

    Returns
    -------
    Field, FieldData
        The data share memory with `value` where they can.

    Raises
    ------
    SchemaError
        When the values are objects or records, do not fit `field` exactly, are missing where `field` is not optional,
        or do not say what they are, as empty lists.

    Examples
    --------
    >>> f, d = to_field_data("hits", [[1, 2], [], [3]])
    >>> f.describe(), d.values.tolist(), d.offsets[0].tolist()
    ('ragged int64', [1, 2, 3], [0, 2, 2, 3])
    >>> f, d = to_field_data("hits", [[1, 2], None, [3]])
    >>> f.optional, d.offsets[0].tolist(), d.valid[0].tolist()
    ((0,), [0, 2, 2, 3], [True, False, True])
    """
    if field is not None and _is_as_stored(value, field):
        return field, FieldData(value)
    found = _find(name, value, field)
    return infer(found) if field is None else (field, fit(field, found))


def _from_categorical(name: str, value: Any, labels: tuple[str, ...]) -> Found:
    """A Categorical of pandas, or a series of one, as codes of its labels; a code below 0 is a missing one."""
    codes = np.array(getattr(value, "cat", value).codes, CODE_DTYPE)
    there = codes >= 0
    codes[~there] = 0
    return found_in(name, FieldData(codes, labels=labels, valid=() if there.all() else (there,)), False)


def _is_as_stored(value: Any, field: Field) -> bool:
    """Whether an array is in the form that a dense field has, as most are that come in small runs."""
    return (
        type(value) is np.ndarray
        and field.kind == "dense"
        and value.ndim > 0
        and value.dtype == field.dtype
        and value.shape[1:] == field.shape
        and value.flags.c_contiguous
    )


def aux_data(name: str, value: Any) -> tuple[Field, FieldData]:
    """Convert an array that is not per row to one row of a field.

    Parameters
    ----------
    name : str
        Its name.
    value : array-like or scalar
        An array, or nested lists of numbers that make one, becomes dense with its whole shape; lists of differing
        length become ragged, text and lists of text string; a number, a bool or a time dense without a shape.

    Raises
    ------
    SchemaError
        As `to_field_data`; for records, of which each member is an entry of its own, and for None.

    Examples
    --------
    >>> f, d = aux_data("edges", [0.0, 1.5, 4.0])
    >>> f.describe(), len(d), d.values.tolist()
    ('float64 (3,)', 1, [[0.0, 1.5, 4.0]])
    >>> f, d = aux_data("names", ["a", "b"])
    >>> f.describe(), len(d)
    ('ragged string', 1)
    """
    value = ready(value)
    if is_missing(value):
        raise SchemaError(f"aux {name!r}: {value} is no value")
    if isinstance(value, str | bytes) or getattr(value, "ndim", 1) == 0 or sort_of(type(value)) == "number":
        return infer(_find(name, [value[()] if isinstance(value, np.ndarray) else value], None))
    found = _find(name, value, None)
    if not found.known and not found.n_elements:
        raise SchemaError(
            f"aux {name!r}: an empty list does not say what it holds; give np.array([], 'f4') or the like"
        )
    return infer(as_one_row(found, rectangle=not is_awkward(type(value))))


def _find(name: str, value: Any, field: Field | None) -> Found:
    """What the rows are."""
    if isinstance(value, FieldData):
        # Bytes do not say whether they are text.
        return found_in(name, value, field is not None and field.kind == "string" and bool(value.offsets))
    value = ready(value)
    sort = sort_of(type(value))
    if sort == "record" or is_awkward(type(value)):
        if sort == "record":
            raise no_records(name, names_in(value))
        return from_awkward(name, value)
    if isinstance(value, np.ndarray):
        return from_numpy(name, value, field)
    labels = getattr(getattr(value, "dtype", None), "categories", ())
    if len(labels) and all(isinstance(label, str) for label in labels):
        return _from_categorical(name, value, tuple(map(str, labels)))
    if hasattr(value, "__array__"):
        return from_numpy(name, np.asarray(value), field)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return from_list(name, value, field)
    raise SchemaError(f"field {name!r}: rows come as an array or a list, got {type(value).__name__}")
