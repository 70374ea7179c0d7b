"""What the contract is written in: small tables, how they are written, and how a view is compared with one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mmdask.schema import Field, FieldData
from mmdask.testing.backend import Backend, View
from mmdask.testing.table import Table
from mmdask.testing.values import check_field_data, difference, to_python

__all__ = ["check_rows", "rows_of"]


def rows_of(view: View, name: str, start: int = 0, stop: int | None = None) -> list[Any]:
    """Rows of a field of a view as plain Python values, after a check that they are a sound `FieldData`.

    Parameters
    ----------
    view : View
        What is read.
    name : str
        The field.
    start, stop : int
        Which rows; all by default.
    """
    field, stop = view.schema[name], len(view) if stop is None else stop
    data = view.read(name, start, stop)
    assert len(data) == stop - start, f"{name}: {len(data)} rows were read, {stop - start} were asked for"
    check_field_data(field, data)
    return to_python(field, data)


def check_rows(view: View, expected: Table) -> None:
    """Raise `AssertionError` unless a view has these fields, in their order, and exactly these rows.

    Parameters
    ----------
    view : View
        What is read.
    expected : Table
        What should be there. Labels of categories may stand in any order.
    """
    assert list(view.schema) == list(expected.schema), "fields"
    assert len(view) == len(expected), f"{len(view)} rows, should be {len(expected)}"
    for name, field in expected.schema.items():
        _check_field(field, view.schema[name], expected.rows[name])
        found = difference(expected.rows[name], rows_of(view, name))
        assert not found, f"{name} ({field.describe()}): {found}"


def _check_field(expected: Field, got: Field, rows: Sequence[Any]) -> None:
    assert replace(got, labels=()) == replace(expected, labels=()), f"{got} should be {expected}"
    if got.kind == "category":
        labels = set(got.labels)
        assert len(labels) == len(got.labels), f"{got.name}: labels are there twice: {got.labels}"
        assert labels >= {*expected.labels, *(row for row in rows if row is not None)}, f"{got.name}: labels are gone"


def write(backend: Backend, table: Table, runs: Sequence[slice]) -> None:
    """A store with the rows of a table: the first run makes it, the others are appended, one commit each."""
    with backend.create(table.fields) as w:
        w.extend(table[runs[0]].rows)
    for run in runs[1:]:
        append(backend, table[run])


def numbered(n: int) -> Table:
    """Rows that say where they are."""
    return Table.of(
        (Field.dense("x", "i8"), list(range(n))),
        (Field.ragged("r", "i4"), [[i] * (i % 3) for i in range(n)]),
        (Field.string("t"), [str(i) for i in range(n)]),
        (Field.category("c"), ["abc"[i % 3] for i in range(n)]),
    )


def extremes(dtype: np.dtype[Any]) -> list[Any]:
    """The least and the greatest values of a dtype, and those that are easily taken for others."""
    if dtype.kind == "b":
        return [False, True]
    if dtype.kind in "iu":
        return [int(np.iinfo(dtype).min), 0, int(np.iinfo(dtype).max)]
    if dtype.kind == "f":
        big = float(np.finfo(dtype).max)
        return [0.0, -0.0, big, -big, float(np.finfo(dtype).smallest_subnormal), np.inf, -np.inf, float("nan")]
    if dtype.kind == "c":
        return [0j, complex(np.inf, -1.0), complex(float("nan"), 0.5)]
    if dtype.kind in "mM":
        return [np.array(v, dtype)[()] for v in (0, -(2**63) + 1, 2**63 - 1, "NaT")]
    return [b"", b"a", b"\x00\xff\x01", b"\x00a"]


def append(backend: Backend, table: Table) -> None:
    """Add the rows of a table by one commit."""
    with backend.append() as w:
        w.extend(table.rows)


def arrays(data: FieldData) -> Iterator[np.ndarray[Any, Any]]:
    """All arrays that a run of rows is made of."""
    for array in (data.values, *data.offsets, data.shapes, *data.valid):
        if array is not None:
            yield array
