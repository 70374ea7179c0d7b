"""What users hand in becomes offsets and values, exactly or not at all. Oracles: awkward, numpy, Python lists."""

from __future__ import annotations

import awkward as ak
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mmdask as mm
from mmdask.schema import FieldData
from mmdask.store.coerce import to_field_data, values_as

DTYPES = ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16", "M8[ns]", "m8[s]", "S5"]


def as_lists(data: FieldData) -> list:
    rows = data.values.tolist()
    for offsets in reversed(data.offsets):
        rows = [rows[a:b] for a, b in zip(offsets[:-1], offsets[1:], strict=True)]
    return rows


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 2)])
def test_numpy_arrays_of_every_dtype_keep_their_values(dtype, order, shape):
    size = 5 * int(np.prod(shape, dtype=int))
    values = np.arange(size).astype("i8").astype(dtype).reshape(5, *shape)
    given_array = values.astype(values.dtype.newbyteorder(order))
    field, data = to_field_data("x", given_array)
    assert (field.kind, field.shape) == ("dense", shape)
    assert field.dtype.str[0] in "<|"
    assert data.values.dtype == field.dtype
    np.testing.assert_array_equal(data.values, values)


def test_fortran_order_and_strides_are_made_c():
    array = np.asfortranarray(np.arange(12.0).reshape(3, 4))[::-1, ::2]
    _, data = to_field_data("x", array)
    assert data.values.flags.c_contiguous
    np.testing.assert_array_equal(data.values, array)


@given(st.lists(st.lists(st.integers(-(2**62), 2**62), max_size=5), min_size=1, max_size=20))
def test_lists_of_lists_are_ragged(rows):
    field, data = to_field_data("x", rows)
    assert field.kind == "ragged"
    assert as_lists(data) == rows


@given(st.lists(st.lists(st.lists(st.floats(allow_nan=False), max_size=3), max_size=3), min_size=1, max_size=8))
def test_nested_lists_keep_all_levels(rows):
    # Awkward sees no third level in rows without any inner list.
    if not any(inner for row in rows for inner in row):
        return
    field, data = to_field_data("x", rows)
    assert field.levels == 2
    assert as_lists(data) == rows


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=20))
def test_text_is_utf8(texts):
    field, data = to_field_data("x", texts, mm.Field.string("x"))
    raw = data.values.tobytes()
    o = data.offsets[0].tolist()
    assert [raw[a:b].decode() for a, b in zip(o[:-1], o[1:], strict=True)] == texts
    assert field.kind == "string"


@pytest.mark.parametrize(
    "array",
    [
        ak.Array([[1.5, 2], [], [3]]),
        ak.Array([[1.5, 2], [], [3], [4]])[::-1][1:],
        ak.Array([[1.5, 2], [9], [3]])[[2, 0]],
        ak.Array(np.arange(6.0).reshape(2, 3)),
        ak.Array([[[1, 2], []], [], [[3]]]),
        ak.Array(["a", "", "bé"]),
        ak.Array([["a", "bc"], [], ["é"]]),
        ak.Array([1, 2, 3]),
        ak.Array([True, False]),
        ak.from_regular(ak.Array(np.arange(6).reshape(2, 3))),
    ],
)
def test_awkward_arrays_keep_their_values(array):
    field, data = to_field_data("x", array)
    if field.kind == "string":
        levels = FieldData(np.array([chr(b) for b in data.values.tobytes()]), data.offsets)
        texts = [
            bytes(data.values[a:b]).decode()
            for a, b in zip(data.offsets[-1][:-1].tolist(), data.offsets[-1][1:].tolist(), strict=True)
        ]
        rows = as_lists(FieldData(np.array(texts, object), levels.offsets[:-1]))
        assert rows == array.to_list()
    else:
        assert as_lists(data) == array.to_list()
    assert all(o[0] == 0 and o.dtype == np.int64 for o in data.offsets)


def test_categories_are_coded():
    field, data = to_field_data("p", ["b", "a", "b"], mm.Field.category("p", ["a"]))
    assert [data.labels[c] for c in data.values] == ["b", "a", "b"]
    assert field.kind == "category"
    categorical = ak.str.to_categorical(ak.Array(["x", "y", "x"])) if _has_pyarrow() else None
    if categorical is not None:
        field, data = to_field_data("p", categorical)
        assert field.kind == "category"
        assert [data.labels[c] for c in data.values] == ["x", "y", "x"]


def _has_pyarrow() -> bool:
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        return False
    return True


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.array([1, None], object), "None"),
        ([1, None], "None"),
        (np.ma.masked_array([1, 2], [0, 1]), "masked"),
        (ak.Array([1, None]), "missing"),
        (ak.Array([[1], [None]]), "missing|cannot be stored"),
        (ak.Array([{"a": 1}]), "records of a"),
        (np.zeros(2, "f4,i4"), "cannot be stored"),
        (np.zeros(2, "g"), "cannot be stored"),
        ([object(), object()], "no one dtype|cannot be stored"),
        (3.0, "array or a list"),
        (np.float64(3.0), "one value"),
        ("text", "array or a list"),
        (["a", "\ud800"], "utf-8"),
        (["a", 3], "not text"),
        ([np.zeros((2, 2)), np.zeros((3, 2))], "one shape"),
    ],
)
def test_what_cannot_be_stored_is_refused(value, words):
    with pytest.raises(mm.SchemaError, match=words):
        to_field_data("x", value)


@given(st.sampled_from(DTYPES[:13]), st.sampled_from(DTYPES[:13]), st.lists(st.integers(-300, 70000), max_size=6))
def test_arrays_are_cast_exactly_or_not_at_all(source, target, numbers):
    with np.errstate(all="ignore"):
        values = np.array(numbers, "i8").astype(source)
    field = mm.Field.dense("x", target)
    exact = values.tolist()  # Python compares numbers of different kinds exactly
    try:
        cast = values_as(field, values)
    except mm.SchemaError:
        if np.dtype(source).kind == "c" and np.dtype(target).kind != "c":
            return
        with np.errstate(all="ignore"):
            direct = values.astype(target).tolist()
        assert direct != exact
    else:
        assert cast.dtype == field.dtype
        assert cast.tolist() == exact


def test_python_floats_take_the_precision_of_their_field():
    field = mm.Field.dense("x", "f4")
    assert to_field_data("x", [0.1], field)[1].values[0] == np.float32(0.1)
    with pytest.raises(mm.SchemaError, match="fit exactly"):
        to_field_data("x", np.array([0.1]), field)
    with pytest.raises(mm.SchemaError, match="fit exactly"):
        to_field_data("x", [1e300], field)
    with pytest.raises(mm.SchemaError, match="fit exactly"):
        to_field_data("x", [300], mm.Field.dense("x", "u1"))


def test_rectangular_arrays_fit_a_ragged_field():
    _, data = to_field_data("x", np.arange(6).reshape(3, 2), mm.Field.ragged("x", "i8"))
    assert as_lists(data) == [[0, 1], [2, 3], [4, 5]]
    _, data = to_field_data("x", np.zeros((3, 0), "i8"), mm.Field.ragged("x", "i8"))
    assert as_lists(data) == [[], [], []]


def test_empty_lists_fit_any_number_of_levels():
    field = mm.Field.ragged("x", "i4", levels=3)
    for rows in ([[]], [[], [[]]], [[[[]], []], []]):
        _, data = to_field_data("x", rows, field)
        assert len(data.offsets) == 3
        assert as_lists(data) == rows
