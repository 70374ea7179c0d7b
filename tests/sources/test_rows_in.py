"""Generated rows of every kind, handed in in every form, come back as they were.

The oracle is `rows_back`, which reads offsets, shapes and validity by plain Python loops.
"""

from __future__ import annotations

import datetime
import math

import awkward as ak
import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows_back import rows_back

import mmdask as mm
from mmdask.rows.reading import reader
from mmdask.rows.reading.gathering import concatenate
from mmdask.schema import FieldData
from mmdask.sources.given.coerce import to_field_data
from mmdask.store.snapshot import open_snapshot

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
LEAVES = {
    "int": (st.integers(-(2**63), 2**63 - 1), np.dtype("i8")),
    "float": (st.floats(allow_nan=False), np.dtype("f8")),
    "bool": (st.booleans(), np.dtype("?")),
    "text": (TEXT, None),
}


@st.composite
def nested(draw, missing=True):
    """The kind of leaf, how many levels, and rows of so many levels with None anywhere."""
    leaf = draw(st.sampled_from(list(LEAVES)))
    levels = draw(st.integers(0, 3))
    depths = draw(st.sets(st.integers(0, levels))) if missing else set()
    values = LEAVES[leaf][0]
    for depth in range(levels, -1, -1):
        if depth < levels:
            values = st.lists(values, max_size=3)
        if depth in depths:
            values = st.one_of(st.none(), values)
    return leaf, levels, draw(st.lists(values, max_size=5))


def leaves(rows):
    """All that is in lists in lists, without what is missing."""
    if isinstance(rows, list):
        return [x for row in rows for x in leaves(row)]
    return [] if rows is None else [rows]


def missing_depths(rows, depth=0):
    """Where None stands."""
    if not isinstance(rows, list):
        return {depth - 1} if rows is None else set()
    return set().union(*(missing_depths(row, depth + 1) for row in rows))


def declared(leaf, levels, optional):
    if leaf == "text":
        return mm.Field.string("x", levels=levels, optional=optional)
    if levels:
        return mm.Field.ragged("x", LEAVES[leaf][1], levels=levels, optional=optional)
    return mm.Field.dense("x", LEAVES[leaf][1], optional=optional)


@given(nested())
def test_nested_lists_come_back(given_rows):
    leaf, levels, rows = given_rows
    optional = tuple(sorted(missing_depths(rows)))
    if leaves(rows):
        field, data = to_field_data("x", rows)
        assert field == declared(leaf, levels, optional)
        assert rows_back(field, data) == rows
    field = declared(leaf, levels, optional)
    same, data = to_field_data("x", rows, field)
    assert same is field
    assert rows_back(field, data) == rows
    for depth in optional:
        less = declared(leaf, levels, tuple(d for d in optional if d != depth))
        with pytest.raises(mm.SchemaError, match=f"is missing; .*mm.Field.{field.kind}.*{depth}"):
            to_field_data("x", rows, less)


@given(nested(), st.booleans())
def test_nested_awkward_arrays_come_back(given_rows, packed):
    leaf, levels, rows = given_rows
    array = ak.Array(rows)
    if not packed and len(rows):
        # As a selection that awkward has made lazily: index arrays, starts and stops.
        order = np.array([i for i in range(len(rows)) if i % 3] * 2, int)
        rows, array = [rows[i] for i in order], array[order]
    field = declared(leaf, levels, tuple(range(levels + 1)))
    assert rows_back(field, to_field_data("x", array, field)[1]) == rows
    if leaves(rows):
        inferred, data = to_field_data("x", array)
        assert inferred.same_layout(field)
        assert rows_back(inferred, data) == rows
        assert set(inferred.optional) >= missing_depths(rows)


@given(nested(missing=False))
def test_awkward_types_say_what_is_optional(given_rows):
    leaf, levels, rows = given_rows
    if not leaves(rows):
        return
    array = ak.Array(rows)
    for depth in range(levels + 1):
        typed = ak.mask(array, ak.ones_like(array, dtype=bool)) if depth == levels and leaf != "text" else None
        if typed is not None:
            field, data = to_field_data("x", typed)
            assert field.optional == (depth,)
            assert rows_back(field, data) == rows
            assert data.valid == ()


@given(nested())
def test_object_arrays_come_back(given_rows):
    leaf, levels, rows = given_rows
    field = declared(leaf, levels, tuple(range(levels + 1)))
    array = np.empty(len(rows), object)
    for i, row in enumerate(rows):
        array[i] = row
    assert rows_back(field, to_field_data("x", array, field)[1]) == rows


@given(nested(), st.data())
def test_runs_of_rows_come_back(given_rows, data):
    """A `FieldData` is taken as it is, and slices of it; and so is what a layer gives back."""
    leaf, levels, rows = given_rows
    field = declared(leaf, levels, tuple(range(levels + 1)))
    whole = to_field_data("x", rows, field)[1]
    a = data.draw(st.integers(0, len(rows)))
    b = data.draw(st.integers(a, len(rows)))
    piece = to_field_data("x", whole[a:b], field)[1]
    assert rows_back(field, piece) == rows[a:b]
    joined = concatenate(field, [whole[:a], whole[a:]])
    assert rows_back(field, to_field_data("x", joined, field)[1]) == rows


RECTANGLES = st.lists(st.integers(0, 3), min_size=1, max_size=3)


@st.composite
def arrays_of_rows(draw, axes=None, missing=True):
    """Arrays of differing shape and one number of axes, some of them None."""
    axes = draw(st.integers(1, 3)) if axes is None else axes
    dtype = draw(st.sampled_from(["i4", ">f8", "?", "M8[s]", "c8", "S3"]))
    rows = []
    for _ in range(draw(st.integers(0, 5))):
        if missing and draw(st.booleans()):
            rows.append(None)
            continue
        shape = tuple(draw(st.lists(st.integers(0, 3), min_size=axes, max_size=axes)))
        values = draw(st.lists(st.integers(0, 99), min_size=math.prod(shape), max_size=math.prod(shape)))
        array = np.array(values, "i8").astype(dtype).reshape(shape)
        rows.append(np.asfortranarray(array) if draw(st.booleans()) else array)
    return axes, np.dtype(dtype), rows


def lists(rows):
    """Arrays as nested lists."""
    return [None if row is None else row.tolist() for row in rows]


@given(arrays_of_rows())
def test_arrays_of_differing_shape_come_back(drawn):
    axes, dtype, rows = drawn
    optional = (0,) if any(row is None for row in rows) else ()
    field = mm.Field.shaped("x", dtype, axes, optional=optional)
    data = to_field_data("x", rows, field)[1]
    assert rows_back(field, data) == lists(rows)
    assert data.shapes.tolist() == [[0] * axes if row is None else list(row.shape) for row in rows]
    again = to_field_data("x", data, field)[1]
    assert rows_back(field, again) == lists(rows)
    assert again.shapes.tolist() == data.shapes.tolist()
    shapes = {row.shape for row in rows if row is not None}
    if len(shapes) > 1 and axes > 1:
        inferred, data = to_field_data("x", rows)
        assert inferred == field
        assert rows_back(field, data) == lists(rows)
    elif shapes and axes > 1:
        inferred, data = to_field_data("x", rows)
        assert inferred == mm.Field.dense("x", dtype, shapes.pop(), optional=optional)
        assert rows_back(inferred, data) == [None if row is None else row.tolist() for row in rows]
    if optional:
        with pytest.raises(mm.SchemaError, match=f"row {[row is None for row in rows].index(True)} is missing"):
            to_field_data("x", rows, mm.Field.shaped("x", dtype, axes))


@given(arrays_of_rows())
def test_arrays_are_lists_where_a_field_says_so(drawn):
    axes, dtype, rows = drawn
    field = mm.Field.ragged("x", dtype, levels=axes, optional=(0,))
    expected = [None if row is None else row.tolist() for row in rows]
    assert rows_back(field, to_field_data("x", rows, field)[1]) == expected


@given(arrays_of_rows())
def test_nested_lists_are_arrays_where_a_field_says_so(drawn):
    axes, dtype, rows = drawn
    if dtype.kind in "cMS":
        return
    field = mm.Field.shaped("x", dtype, axes, optional=(0,))
    handed = [None if row is None else row.tolist() for row in rows]
    for value in (handed, ak.Array(handed)):
        assert rows_back(field, to_field_data("x", value, field)[1]) == lists(rows)


@given(arrays_of_rows(missing=False), st.integers(1, 3))
def test_the_last_axes_may_be_those_of_items(drawn, colours):
    axes, dtype, rows = drawn
    rows = [np.repeat(row[..., np.newaxis], colours, axis=-1) for row in rows]
    field = mm.Field.shaped("x", dtype, axes, (colours,))
    data = to_field_data("x", rows, field)[1]
    assert rows_back(field, data) == lists(rows)
    assert data.shapes.tolist() == [list(row.shape[:-1]) for row in rows]
    ragged = mm.Field.ragged("x", dtype, (colours,), levels=axes)
    data = to_field_data("x", rows, ragged)[1]
    assert rows_back(ragged, data) == [row.tolist() for row in rows]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=4), st.integers(0, 4), st.data())
def test_an_array_is_dense_ragged_or_shaped_as_declared(shape, n, data):
    array = np.arange(n * math.prod(shape), dtype="i4").reshape(n, *shape)
    field, dense = to_field_data("x", array)
    assert field == mm.Field.dense("x", "i4", tuple(shape))
    assert rows_back(field, dense) == array.tolist()
    levels = data.draw(st.integers(1, len(shape)))
    inner = tuple(shape[levels:])
    for value in (array, list(array), array.astype(object), da.from_array(array, chunks=1)):
        ragged = mm.Field.ragged("x", "i4", inner, levels=levels)
        assert rows_back(ragged, to_field_data("x", value, ragged)[1]) == array.tolist()
        shaped = mm.Field.shaped("x", "i4", levels, inner)
        rows = to_field_data("x", value, shaped)[1]
        assert rows_back(shaped, rows) == lists(list(array))
        if not isinstance(value, np.ndarray) or value.dtype != object:
            assert rows.shapes.tolist() == [list(shape[:levels])] * n
        assert rows_back(field, to_field_data("x", value, field)[1]) == array.tolist()
    if array.size:
        assert rows_back(field, to_field_data("x", array.tolist(), field)[1]) == array.tolist()
        assert rows_back(ragged, to_field_data("x", array.tolist(), ragged)[1]) == array.tolist()


@given(st.data(), st.sampled_from(["i2", ">f4", "?", "M8[s]", "m8[ms]", "c16", "S2"]), st.booleans())
def test_masked_arrays_come_back(data, dtype, lazy):
    shape = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=3))
    size = math.prod(shape)
    values = np.array(data.draw(st.lists(st.integers(0, 99), min_size=size, max_size=size)), "i8").astype(dtype)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)), bool)
    masked = np.ma.masked_array(values.reshape(shape), mask.reshape(shape))
    expected = masked.tolist()
    array = da.from_array(masked, chunks=2, asarray=False) if lazy and size else masked
    levels = len(shape) - 1
    make = mm.Field.ragged if levels else mm.Field.dense
    field = make("x", dtype, optional=(levels,), **({"levels": levels} if levels else {}))
    assert rows_back(field, to_field_data("x", array, field)[1]) == expected
    flat = mask.reshape(shape[0], math.prod(shape[1:]))
    if not levels:
        assert to_field_data("x", array)[0] == field
    elif (flat.any(axis=1) & ~flat.all(axis=1)).any():
        with pytest.raises(mm.SchemaError, match="some numbers of row"):
            to_field_data("x", array)
    else:
        dense, rows = to_field_data("x", array)
        assert dense == mm.Field.dense("x", dtype, tuple(shape[1:]), optional=(0,))
        gone = flat.all(axis=1) & (flat.shape[1] > 0)
        assert rows_back(dense, rows) == [
            None if out else row for row, out in zip(masked.data.tolist(), gone.tolist(), strict=True)
        ]
    if shape[0]:
        ragged = mm.Field.ragged("x", dtype, levels=len(shape), optional=(len(shape),))
        assert rows_back(ragged, to_field_data("x", [masked, masked[:1]], ragged)[1]) == [expected, expected[:1]]


@given(st.lists(st.one_of(st.none(), TEXT), max_size=6), st.lists(TEXT, unique=True, max_size=3))
def test_categories_come_back(texts, labels):
    field = mm.Field.category("x", labels, optional=(0,))
    assert rows_back(field, to_field_data("x", texts, field)[1]) == texts
    as_array = np.array(texts, object) if texts else np.empty(0, object)
    data = to_field_data("x", as_array, field)[1]
    assert rows_back(field, data) == texts
    assert data.labels[: len(labels)] == tuple(labels)
    text = mm.Field.string("x", optional=(0,))
    assert rows_back(text, to_field_data("x", data, text)[1]) == texts
    assert rows_back(field, to_field_data("x", data, field)[1]) == texts


@given(st.lists(st.one_of(st.none(), st.integers(0, 2)), max_size=6))
def test_awkward_categories_come_back(codes):
    index = ak.index.Index64(np.array([-1 if c is None else c for c in codes], int))
    labels = ak.Array(["p", "é", ""]).layout
    layout = ak.contents.IndexedOptionArray(index, labels, parameters={"__array__": "categorical"})
    rows = [None if c is None else ["p", "é", ""][c] for c in codes]
    field, data = to_field_data("x", ak.Array(layout))
    assert (field.kind, field.optional, field.labels) == ("category", (0,), ("p", "é", ""))
    assert rows_back(field, data) == rows
    text = mm.Field.string("x", optional=(0,))
    assert rows_back(text, to_field_data("x", ak.Array(layout), text)[1]) == rows
    if None not in codes:
        layout = ak.contents.IndexedArray(index, labels, parameters={"__array__": "categorical"})
        field, data = to_field_data("x", ak.Array(layout))
        assert field.optional == ()
        assert rows_back(field, data) == rows
        nested = ak.unflatten(ak.Array(layout), [len(codes)])
        field, data = to_field_data("x", nested)
        assert field == mm.Field.string("x", levels=1)
        assert rows_back(field, data) == [rows]


def test_categories_of_numbers_are_numbers():
    layout = ak.contents.IndexedArray(
        ak.index.Index64(np.array([1, 0, 1])),
        ak.Array([0.5, 2.5]).layout,
        parameters={"__array__": "categorical"},
    )
    field, data = to_field_data("x", ak.Array(layout))
    assert field == mm.Field.dense("x", "f8")
    assert data.values.tolist() == [2.5, 0.5, 2.5]


OPTION_OF_REGULAR = ak.Array(
    ak.contents.IndexedOptionArray(ak.index.Index64(np.array([0, -1, 1])), ak.Array(np.array([[1, 2], [3, 4]])).layout)
)


@pytest.mark.parametrize(
    ("value", "field", "rows"),
    [
        ([[1, 2], (3, 4)], mm.Field.dense("x", "f4", (2,)), [[1, 2], [3, 4]]),
        ([[[1, 2], [3, 4]], [], [[5, 6]]], mm.Field.ragged("x", "i2", (2,)), [[[1, 2], [3, 4]], [], [[5, 6]]]),
        ([[], []], mm.Field.dense("x", "?", (0, 0)), [[], []]),
        ([[], []], mm.Field.dense("x", "f4", (0, 3)), [[], []]),
        ([[[], []], None], mm.Field.dense("x", "f4", (2, 0, 3), optional=(0,)), [[[], []], None]),
        ([[[], []], []], mm.Field.ragged("x", "f4", (0, 2)), [[[], []], []]),
        ([[[[]]], []], mm.Field.shaped("x", "f4", 2, (0, 3)), [[[[]]], []]),
        ([[[], []], None], mm.Field.shaped("x", "f4", 2, (3,), optional=(0,)), [[[], []], None]),
        (ak.Array([[[]], [[]]]), mm.Field.dense("x", "f4", (1, 0, 2)), [[[]], [[]]]),
        (OPTION_OF_REGULAR, None, [[1, 2], None, [3, 4]]),
        (OPTION_OF_REGULAR, mm.Field.ragged("x", "i8", optional=(0,)), [[1, 2], None, [3, 4]]),
        (
            ak.Array(ak.contents.RegularArray(ak.contents.NumpyArray(np.arange(8)), 3)),
            None,
            [[0, 1, 2], [3, 4, 5]],
        ),
        (
            np.ma.masked_array([[1, 2], [3, 4]], [[1, 1], [0, 0]]),
            mm.Field.shaped("x", "i8", 1, optional=(0,)),
            [None, [3, 4]],
        ),
        (
            FieldData(np.ones((2, 3)), (np.array([0, 2, 2]),), (), np.array([[2], [0]]), (np.array([True, False]),)),
            mm.Field.ragged("x", "f4", levels=2, optional=(0,)),
            [[[1.0] * 3] * 2, None],
        ),
        ([[1, 2], None, [3, 4]], mm.Field.dense("x", "f4", (2,), optional=(0,)), [[1, 2], None, [3, 4]]),
        ([[None] * 2, None, [3, 4]], mm.Field.dense("x", "f4", (2,), optional=(0,)), [None, None, [3, 4]]),
        ([[[1, 2], None], None], mm.Field.ragged("x", "f4", (2,), optional=(0, 1)), [[[1, 2], None], None]),
        ([[[[1, 2]]], [], [[]]], mm.Field.ragged("x", "i2", (2,), levels=2), [[[[1, 2]]], [], [[]]]),
        (ak.Array([[[1, 2], [3, 4]], []]), mm.Field.ragged("x", "i8", (2,)), [[[1, 2], [3, 4]], []]),
        (ak.to_regular(ak.Array([[[1, 2], [3, 4]], []]), axis=2), None, [[[1, 2], [3, 4]], []]),
        (ak.to_regular(ak.Array([[[1], [3, 4]], [[], []]]), axis=1), None, [[[1], [3, 4]], [[], []]]),
        (ak.to_regular(ak.Array([["a", "b"], ["c", ""]]), axis=1), None, [["a", "b"], ["c", ""]]),
        (ak.Array([{"a": [[1, 2]]}, {"a": []}]).a, None, [[[1, 2]], []]),
        ([np.ones((2, 3)), np.zeros((0, 3))], mm.Field.ragged("x", "f8", (3,)), [[[1.0] * 3] * 2, []]),
        ([[np.ones((2, 2))] * 2, []], None, [[[[1.0] * 2] * 2] * 2, []]),
        (
            [[np.ones((2, 1)), np.ones((1, 1))], []],
            mm.Field.ragged("x", "f8", levels=3),
            [[[[1.0], [1.0]], [[1.0]]], []],
        ),
        ([[np.array(["a"]), np.array(["b", "c"])], []], None, [[["a"], ["b", "c"]], []]),
        ([np.array([["a"], ["bc"]]), np.array([["é", ""]])], None, [[["a"], ["bc"]], [["é", ""]]]),
        (np.array([["a", "b"], ["", "é"]]), None, [["a", "b"], ["", "é"]]),
        (np.array([["a", None], ["", "é"]], object), None, [["a", None], ["", "é"]]),
        (np.array([[1, None], [3, 4]], object), mm.Field.ragged("x", "i4", optional=(1,)), [[1, None], [3, 4]]),
        (np.array(["a", "b"], np.dtypes.StringDType()), None, ["a", "b"]),
        (np.array(["a", None], np.dtypes.StringDType(na_object=None)), None, ["a", None]),
        (np.array(["a", np.nan], np.dtypes.StringDType(na_object=np.nan)), None, ["a", None]),
        (np.ma.masked_array(["a", "b"], [1, 0]), None, [None, "b"]),
        ([np.ma.masked, 1.5], None, [None, 1.5]),
        ([np.ma.masked_array([1, 2], [0, 1]), np.array([3])], None, [[1, None], [3]]),
        ([np.ma.masked_array(["a", "b"], [0, 1]), np.array(["c"])], None, [["a", None], ["c"]]),
        ([np.array([1, None], object), np.array([3])], None, [[1, None], [3]]),
        ([[1.5], np.ma.masked_array([1.0, 2.0], [0, 1])], None, [[1.5], [1.0, None]]),
        ([da.arange(2, chunks=1), np.array([3])], None, [[0, 1], [3]]),
        (ak.to_regular(ak.Array([[1, None], [2, 3]])), mm.Field.ragged("x", "i8", optional=(1,)), [[1, None], [2, 3]]),
        (ak.Array([[[1, None]], None]), None, [[[1, None]], None]),
        ([b"ab", None, b"c"], None, [b"ab", None, b"c"]),
        ([None, np.datetime64(1, "s")], None, [None, datetime.datetime(1970, 1, 1, 0, 0, 1)]),
        ([[], None], mm.Field.string("x", levels=2, optional=(0,)), [[], None]),
        ([[None], None], mm.Field.ragged("x", "m8[s]", (2,), levels=2, optional=(0, 1)), [[None], None]),
        ([None], mm.Field.shaped("x", "f4", 2, (3,), optional=(0,)), [None]),
        ([None, None], mm.Field.category("x", optional=(0,)), [None, None]),
        ([None], mm.Field.string("x", levels=1, optional=(0,)), [None]),
        ([], mm.Field.shaped("x", "f4", 2), []),
        ([[], [[]], []], mm.Field.shaped("x", "f4", 2), [[], [[]], []]),
    ],
)
def test_more_forms_of_rows(value, field, rows):
    found, data = to_field_data("x", value, field)
    assert rows_back(found, data) == rows


def test_a_missing_row_of_fixed_length_is_no_row_of_missing_numbers():
    inner = ak.to_regular(ak.Array([[1, None], [None, None]]))
    array = ak.Array(ak.contents.IndexedOptionArray(ak.index.Index64(np.array([0, -1, 1])), inner.layout))
    field, data = to_field_data("x", array)
    assert field == mm.Field.ragged("x", "i8", optional=(0, 1))
    assert rows_back(field, data) == [[1, None], None, [None, None]]


def test_values_that_stand_for_missing_ones_need_not_fit():
    field = mm.Field.dense("x", "i2", optional=(0,))
    masked = np.ma.masked_array([1.0, 1e300, np.nan], [0, 1, 1])
    assert rows_back(field, to_field_data("x", masked, field)[1]) == [1, None, None]
    assert to_field_data("x", [None, 0.1], mm.Field.dense("x", "f4", optional=(0,)))[1].values[1] == np.float32(0.1)
    np.testing.assert_equal(masked.data, [1.0, 1e300, np.nan])  # what was handed in stays as it was


def test_pandas_na_is_missing():
    class NAType:
        """As pandas has it; pandas itself is not needed for that."""

    assert rows_back(*to_field_data("x", [NAType(), 1])) == [None, 1]
    assert rows_back(*to_field_data("x", np.array(["a", NAType()], object))) == ["a", None]


@pytest.mark.parametrize("order", ["C", "F"])
def test_numbers_share_memory_where_they_can(order):
    array = np.zeros((3, 4), "f4", order)
    data = to_field_data("x", array)[1]
    assert np.shares_memory(array, data.values) == (order == "C")
    jets = ak.Array([[1.0, 2.0], [3.0]])
    assert np.shares_memory(to_field_data("x", jets)[1].values, jets.layout.content.data)
    assert np.shares_memory(
        to_field_data("x", jets, mm.Field.ragged("x", "f8", optional=(1,)))[1].values, jets.layout.content.data
    )


@settings(max_examples=20)
@given(nested(), arrays_of_rows())
def test_rows_come_back_from_a_store(tmp_path_factory, given_rows, drawn):
    leaf, levels, rows = given_rows
    axes, dtype, images = drawn
    fields = [
        declared(leaf, levels, tuple(range(levels + 1))),
        mm.Field.shaped("y", dtype, axes, optional=(0,)),
        mm.Field.category("z", optional=(0,)),
    ]
    n = min(len(rows), len(images))
    given_rows = {"x": rows[:n], "y": images[:n], "z": [None, "a", "b", None, "a"][:n]}
    path = tmp_path_factory.mktemp("stores") / "s.mm"
    with mm.create(path, fields=fields) as w:
        w.extend({name: values[: n // 2] for name, values in given_rows.items()})
        for i in range(n // 2, n):
            w.append({name: values[i] for name, values in given_rows.items()})
    snapshot = open_snapshot(path)
    for field, values in zip(fields, given_rows.values(), strict=True):
        back = rows_back(snapshot.schema[field.name], reader.read(snapshot, field.name, 0, n))
        assert back == (lists(values) if field.kind == "shaped" else values)
    assert mm.verify(path).ok


def test_field_data_is_checked_against_the_field():
    data = FieldData(np.array([1.0, np.nan]), valid=(np.array([True, False]),))
    assert to_field_data("x", data)[0] == mm.Field.dense("x", "f8", optional=(0,))
    with pytest.raises(mm.SchemaError, match="row 1 is missing"):
        to_field_data("x", data, mm.Field.dense("x", "f8"))


def test_what_was_handed_in_is_not_changed():
    values = np.array([1.0, 2.0])
    values.flags.writeable = False  # as those of a store
    data = FieldData(values, valid=(np.array([True, False]),))
    field = mm.Field.dense("x", "f8", optional=(0,))
    np.testing.assert_equal(to_field_data("x", data, field)[1].values, [1.0, np.nan])
    assert values.tolist() == [1.0, 2.0]
