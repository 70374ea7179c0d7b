"""Rows that are kept as bits, runs without the others, and fields that are read together: pure, against lists."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows_back import rows_back

from mmdask.errors import SourceError
from mmdask.schema import Field
from mmdask.sources.converting import streaming
from mmdask.sources.converting.picked import Picked, select
from mmdask.sources.given.coerce import to_field_data
from mmdask.sources.root.ranges import spans
from mmdask.testing.strategies import tables


@given(st.integers(0, 50), st.lists(st.lists(st.booleans(), max_size=20), max_size=8), st.data())
def test_bits_of_runs(start, runs, data):
    picked = Picked(start, (np.array(run, bool) for run in runs))
    flat = [x for run in runs for x in run]
    assert picked.rows == sum(flat)
    a = data.draw(st.integers(0, len(flat)))
    b = data.draw(st.integers(a, len(flat)))
    assert picked.mask(start + a, start + b).tolist() == flat[a:b]
    assert picked.any(start + a, start + b) == any(flat[a:b])


@given(tables(), st.data())
@settings(deadline=None)
def test_select_is_what_lists_do(table, data):
    """Every kind of field, with missing values at any depth."""
    n = len(table)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), bool)
    for field in table.fields:
        field, rows = to_field_data(field.name, table.rows[field.name], field)
        some = select(rows, mask)
        some = replace(some, valid=tuple(v if v is not None and not v.all() else None for v in some.valid))
        some = some if any(v is not None for v in some.valid) else replace(some, valid=())
        expected = [x for x, keep in zip(rows_back(field, rows), mask, strict=True) if keep]
        assert repr(rows_back(field, some)) == repr(expected)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.data())
def test_spans_are_the_baskets_with_a_picked_row(sizes, data):
    offsets = np.cumsum([0, *sizes]).tolist()
    start = data.draw(st.integers(0, offsets[-1]))
    stop = data.draw(st.integers(start, offsets[-1]))
    mask = data.draw(st.lists(st.booleans(), min_size=stop - start, max_size=stop - start))
    found = spans(start, stop, offsets, Picked(start, [np.array(mask, bool)]))
    rows = {row for a, b in found for row in range(a, b)}
    expected = set()
    for a, b in zip(offsets[:-1], offsets[1:], strict=True):
        inside = range(max(a, start), min(b, stop))
        if any(mask[row - start] for row in inside):
            expected |= set(inside)
    assert rows == expected
    assert sum(b - a for a, b in found) == len(rows)
    assert all(a[1] < b[0] for a, b in zip(found[:-1], found[1:], strict=True)), "neighbours are one span"


FIELDS = (Field.dense("x", "i8"), Field.ragged("y", "i8"))
TABLE = SimpleNamespace(source=SimpleNamespace(name="a.root"), together=lambda fields: [(f,) for f in fields])


def reader(lengths):
    """Rows 0, 1, 2 ... of two fields in runs of these lengths."""

    def rows(fields, start, stop, *, nbytes):
        (field,) = fields
        at = start
        for n in lengths[field.name]:
            ids = range(at, at + n)
            values = list(ids) if field.name == "x" else [[i] * (i % 3) for i in ids]
            yield (to_field_data(field.name, values, field)[1],)
            at += n

    return rows


@given(st.integers(0, 30), st.data())
def test_fields_are_read_together(n, data):
    """Whatever the runs of each field, also empty ones, every row comes once, with all its fields."""
    lengths = {}
    for field in FIELDS:
        ends = sorted(data.draw(st.lists(st.integers(0, n), max_size=6)))
        lengths[field.name] = np.diff([0, *ends, n]).tolist()
    x, y, at = [], [], 7
    for first, block in streaming._together(TABLE, FIELDS, reader(lengths), 7, 7 + n):
        assert first == at
        assert {len(d) for d in block.fields.values()} == {block.rows}
        x += rows_back(FIELDS[0], block.fields["x"])
        y += rows_back(FIELDS[1], block.fields["y"])
        at += block.rows
    assert x == list(range(7, 7 + n))
    assert y == [[i] * (i % 3) for i in range(7, 7 + n)]


def test_a_field_that_ends_too_early():
    with pytest.raises(SourceError, match=r"a\.root: field 'y', which the cut.*too few rows"):
        list(streaming._together(TABLE, FIELDS, reader({"x": [5], "y": [3, 0]}), 0, 5))
