"""Steps on items, alone, against plain lists: slices, single items, choosing, arithmetic with missing values."""

from __future__ import annotations

import kinds
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mmdask as mm
from mmdask.dataset.layouts import to_awkward
from mmdask.dataset.lists.items import Choose, Item, Items, Pad, PadMask, taken_rows
from mmdask.dataset.lists.steps import Constant, Elementwise
from mmdask.schema import Field

LISTS = ["pt", "ids", "ok", "times", "deep", "words", "lines"]
BOUND = st.one_of(st.none(), st.integers(-5, 5))


def lists_of(field, max_rows=6):
    return st.lists(kinds.rows_of(field), max_size=max_rows)


def at(level, f, rows):
    """Apply a function to the lists of a level."""
    return [None if r is None else f(r) if level == 0 else at(level - 1, f, r) for r in rows]


def same(field, data, rows):
    """Check that data are these rows, in the form that all `FieldData` have: what is missing holds nothing."""
    for depth in range(len(data.offsets) + 1):
        there = data.valid_at(depth)
        assert there is None or len(there) == data.length(depth)
        if depth < len(data.offsets):
            counts = np.diff(data.offsets[depth])
            assert (data.offsets[depth][0], data.offsets[depth][-1]) == (0, data.length(depth + 1))
            assert there is None or not counts[~there].any()
        elif there is not None:
            np.testing.assert_array_equal(data.values[~there], kinds.nothing(data.values.dtype))
    assert kinds.plain(to_awkward(field, data)) == kinds.plain(to_awkward(field, kinds.pack(field, rows)))


@pytest.mark.parametrize("name", LISTS)
@settings(max_examples=30)
@given(data=st.data())
def test_slices_of_items_are_those_of_lists(name, data):
    field = kinds.FIELDS[name]
    rows = data.draw(lists_of(field))
    level = data.draw(st.integers(0, field.levels - 1))
    start, stop = data.draw(BOUND), data.draw(BOUND)
    step = data.draw(st.sampled_from([1, 2, 3, -1, -2]))
    found = Items(level, start, stop, step)(0, len(rows), kinds.pack(field, rows))
    same(field, found, at(level, lambda r: r[start:stop:step], rows))


@pytest.mark.parametrize("name", LISTS)
@settings(max_examples=30)
@given(data=st.data())
def test_an_item_is_that_of_the_list_or_missing(name, data):
    field = kinds.FIELDS[name]
    rows = data.draw(lists_of(field))
    level = data.draw(st.integers(0, field.levels - 1))
    index = data.draw(st.integers(-4, 3))
    found = Item(level, index)(0, len(rows), kinds.pack(field, rows))
    levels = field.levels - 1
    kind = "dense" if not levels and field.kind == "ragged" else field.kind
    made = Field(name, kind, field.dtype, levels=levels, optional=tuple(range(levels + 1)))
    expected = at(level, lambda r: r[index] if -len(r) <= index < len(r) else None, rows)
    same(made, found, expected)


@pytest.mark.parametrize("name", LISTS)
@settings(max_examples=30)
@given(data=st.data())
def test_rows_are_taken_with_all_that_is_in_them(name, data):
    field = kinds.FIELDS[name]
    rows = data.draw(lists_of(field))
    wanted = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=5)) if rows else []
    same(field, taken_rows(kinds.pack(field, rows), np.array(wanted, "i8")), [rows[i] for i in wanted])


@pytest.mark.parametrize("name", LISTS)
@settings(max_examples=30)
@given(data=st.data())
def test_a_condition_chooses_and_what_it_does_not_know_is_missing(name, data):
    field = kinds.FIELDS[name]
    rows = data.draw(lists_of(field))
    levels = data.draw(st.integers(1, field.levels))
    flag = st.sampled_from([True, False, None])

    def flags(row, level):
        if row is None or data.draw(st.integers(0, 9)) == 0:
            return None
        return [data.draw(flag) if level == 1 else flags(x, level - 1) for x in row]

    condition = Field.ragged("c", "?", levels=levels, optional=tuple(range(levels + 1)))
    masks = [flags(r, levels) for r in rows]
    # Where the condition has no list at all, the field may have one; where the field has none, neither has it.
    found = Choose(field, condition)(0, len(rows), kinds.pack(field, rows), kinds.pack(condition, masks))

    def choose(row, mask, level):
        if row is None or mask is None:
            return None
        if level > 1:
            return [choose(r, m, level - 1) for r, m in zip(row, mask, strict=True)]
        return None if None in mask else [r for r, m in zip(row, mask, strict=True) if m]

    every = tuple(sorted({*field.optional, *range(levels)}))
    made = Field(name, field.kind, field.dtype, levels=field.levels, optional=every)
    same(made, found, [choose(r, m, levels) for r, m in zip(rows, masks, strict=True)])


NUMBERS = [
    Field.ragged("a", "f8", optional=(0, 1)),
    Field.ragged("a", "i8"),
    Field.ragged("a", "i4", optional=(1,)),
    Field.ragged("a", "f4", levels=2, optional=(0, 1, 2)),
    Field.ragged("a", "i2", levels=3, optional=(1,)),
]


@pytest.mark.parametrize("field", NUMBERS, ids=lambda f: f.describe())
@pytest.mark.parametrize("ufunc", [np.add, np.multiply, np.greater, np.not_equal, np.hypot], ids=lambda f: f.__name__)
@settings(max_examples=30)
@given(data=st.data())
def test_arithmetic_is_item_by_item_and_what_is_missing_stays_so(field, ufunc, data):
    rows = data.draw(lists_of(field))
    depth = data.draw(st.integers(0, field.levels))
    optional = data.draw(st.sampled_from([(), tuple(range(depth + 1))]))
    dtype = np.dtype(data.draw(st.sampled_from(["f8", "i4"])))
    other = Field("b", "ragged" if depth else "dense", dtype, levels=depth, optional=optional)

    def like(row, level):
        if optional and data.draw(st.integers(0, 5)) == 0:
            return None
        if not level:
            return data.draw(st.sampled_from([0.0, 1.5, -2.0] if dtype.kind == "f" else [0, 1, -2]))
        return [like(x, level - 1) for x in row or []]

    def combine(x, y, level, below):
        if x is None or (y is None and (below or not level)):
            return None
        if level:
            below_each = [combine(e, f, level - 1, below - 1) for e, f in zip(x, y, strict=True)] if below else None
            return [combine(e, y, level - 1, 0) for e in x] if below_each is None else below_each
        with np.errstate(all="ignore"):
            return ufunc(field.dtype.type(x), dtype.type(y))

    values = [like(r, depth) for r in rows]
    step = Elementwise.of(ufunc, (field, other))
    found = step(0, len(rows), kinds.pack(field, rows), kinds.pack(other, values))
    every = tuple(sorted({*field.optional, *optional, *([field.levels] if optional else [])}))
    assert set(step.field.optional) <= set(every)
    expected = [combine(x, y, field.levels, depth) for x, y in zip(rows, values, strict=True)]
    same(step.field, found, expected)


@given(rows=lists_of(kinds.FIELDS["pt"]), n=st.integers(0, 4))
def test_padding_is_what_is_no_item_or_missing(rows, n):
    field = kinds.FIELDS["pt"]
    data = kinds.pack(field, rows)
    values = Pad(field, (n,), -7)(0, len(rows), data).values
    mask = PadMask(field, (n,))(0, len(rows), data).values
    for row, got, real in zip(rows, values.tolist(), mask.tolist(), strict=True):
        items = [*(row or []), *[None] * n][:n]
        assert real == [x is not None for x in items]
        np.testing.assert_array_equal(got, [-7 if x is None else x for x in items])


def test_ufuncs_say_what_they_cannot_take():
    with pytest.raises(mm.OptionError, match="bitwise_and of ragged float32, 1"):
        Elementwise.of(np.bitwise_and, (Field.ragged("a", "f4"), Constant(1)))
    with pytest.raises(mm.OptionError, match="arrays of 2 axes"):
        Elementwise.of(np.add, (Field.ragged("a", "f4"), Field.shaped("b", "f4", 2)))
