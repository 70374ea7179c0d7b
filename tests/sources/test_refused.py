"""What cannot be stored, or does not fit a field, is refused with a message that says which row, and what to do."""

from __future__ import annotations

import awkward as ak
import numpy as np
import pytest

import mmdask as mm
from mmdask.schema import Field
from mmdask.sources.given.coerce import by_field, to_field_data


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (ak.Array([{"a": 1}]), "records of a, where"),
        ([{"a": 1}], "records of a, where"),
        ({"a": 1}, "records of a, where"),
        (ak.Array([{"a": 1}])[0], "records of a, where"),
        ([np.zeros(2, "f4,i4")], "records of f0, f1, where"),
        (np.zeros(2, "f4,i4"), "records of f0, f1, where"),
        (np.zeros(2, "f4,i4")[0], "records of f0, f1, where"),
        (ak.Array([[], []]), "empty lists do not say .* declare"),
        ([[], [[]]], "empty lists do not say .* declare"),
        ([[None], []], "empty lists do not say .* declare"),
        ([None, None], "missing values alone do not say .* declare"),
        (ak.Array([None]), "missing values alone do not say .* declare"),
        ([[1], 2], r"a number \(entry 1, int\) among others like \[1\]"),
        ([1, [2]], r"a list \(entry 1, list\) among others like 1"),
        ([["a"], "b"], r"text \(entry 1, str\)"),
        ([["a"], None, ["b", 1]], r"a number \(entry 2, int\) among others like 'a'"),
        ([1, {"a": 1}], r"a record \(entry 1, dict\)"),
        ([1, np.zeros(2)], r"an array \(entry 1, ndarray\)"),
        ([np.array(1), [2, 3]], r"a list \(entry 1, list\)"),
        ([[2, 3], np.array(1)], r"an array \(entry 1, ndarray\)"),
        ([1, b"a"], "would become"),
        ([b"a\0"], "would become"),
        ([1, "a"], r"text \(entry 1, str\)"),
        ([np.array([1]), np.array(["a"])], "text and other"),
        ([np.array([1]), np.array([1], "M8[s]")], "rows of"),
        ([np.zeros(1), np.zeros(1, "f4,i4")], "rows of"),
        ([np.datetime64(1, "s"), 3], "no one dtype"),
        ([np.timedelta64(1, "s"), 3], "got int64 values"),
        ([np.zeros(2), np.zeros((2, 2))], "one number of axes, got 1 and 2"),
        ([[np.zeros((2, 2)), np.zeros((3, 2))]], r"levels=3"),
        (np.zeros(2, "g"), "cannot be stored"),
        ([object(), object()], "no one dtype holds object"),
        ([10**400, 1], "no one dtype|no array"),
        (3.0, "array or a list"),
        (None, "array or a list"),
        (np.float64(3.0), "one value"),
        (np.array(3.0), "one value"),
        ("text", "array or a list"),
        (["a", "\ud800"], "utf-8"),
        (np.array(["a", "\ud800"], object), "utf-8"),
        (["a", 3], r"a number \(entry 1, int\)"),
        (np.ma.masked_array([[1, 2], [3, 4]], [[0, 0], [0, 1]]), r"some numbers of row 1 .* levels=1, optional=\(1,\)"),
        ([np.ma.masked_array(np.ones((2, 2)), np.eye(2)), np.ones((1, 1))], "its rows may be missing, not numbers"),
    ],
)
def test_what_cannot_be_stored_is_refused(value, words):
    with pytest.raises(mm.SchemaError, match="field 'x'.*" + words):
        to_field_data("x", value)


RAGGED = mm.Field.ragged("x", "f8")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        (RAGGED, [["a"]], "got text"),
        (RAGGED, [1.0], "with 1 levels of lists; got 0"),
        (RAGGED, [[[1.0]]], "with 1 levels of lists; got 2"),
        (RAGGED, [np.ones((1, 2)), np.ones((1, 3))], r"items have one shape, got \(2,\) and \(3,\).*axes=2"),
        (RAGGED, [np.ones((1, 2)), np.ones((2, 2))], r"shape \(\); got \(2,\)"),
        (mm.Field.ragged("x", "f8", (2,)), [[[1, 2], [3]]], "row 0 has 1 items where its shape needs 2"),
        (mm.Field.dense("x", "f8", (2,)), [[1, 2], None, [3, 4, 5]], "row 2 has 3 items where its shape needs 2"),
        (mm.Field.dense("x", "f8", (0, 3)), [[], [[]]], "row 1 has 0 items where its shape needs 3"),
        (mm.Field.dense("x", "f8", (0, 3)), [[1]], "row 0 has 1 items where its shape needs 0"),
        (mm.Field.dense("x", "f8", (3, 0)), [[]], "row 0 has 0 items where its shape needs 3"),
        (mm.Field.dense("x", "f8", (0, 3)), np.ones((2, 0)), r"shape \(0, 3\); got \(0,\)"),
        (mm.Field.dense("x", "f8", (0, 2)), np.empty((2, 0, 1), object), r"shape \(0, 2\); got \(0, 1\)"),
        (mm.Field.shaped("x", "f8", 1, (3,)), [[[]]], r"shape \(3,\); row 0 has \(1, 0\)"),
        (mm.Field.dense("x", "f8"), [[1, 2]], "0 levels of lists; got 1"),
        (mm.Field.dense("x", "f8", (3,)), np.ones((2, 4)), r"shape \(3,\); got \(4,\)"),
        (mm.Field.dense("x", "f8", (2,)), [np.ones(2), np.ones(3)], r"dense rows have one shape.*mm.Field.shaped\('x'"),
        (mm.Field.shaped("x", "f8", 2), [np.ones(3)], "rows have 2 axes, those of items included; got 1"),
        (mm.Field.shaped("x", "f8", 2), np.ones((2, 3)), "rows have 2 axes, those of items included; got 1"),
        (mm.Field.shaped("x", "f8", 2), [[[1, 2]], [[3], [4, 5]]], "row 1 is no rectangle"),
        (mm.Field.shaped("x", "f8", 3), [[[[1], [2]], [[3], [4]]], [[[3], [4]], [[5]]]], "row 1 is no rectangle"),
        (mm.Field.shaped("x", "f8", 2), ak.Array([[[1, 2], [3]]]), "row 0 is no rectangle"),
        (mm.Field.shaped("x", "f8", 1, (3,)), [np.ones((2, 3)), np.ones((2, 4))], r"shape \(3,\); row 1 has \(2, 4\)"),
        (mm.Field.shaped("x", "f8", 1, (3,)), [np.ones((0, 4))], r"shape \(3,\); row 0 has \(0, 4\)"),
        (mm.Field.shaped("x", "f8", 1, (3,)), np.ones((2, 0, 4)), r"shape \(3,\); row 0 has \(0, 4\)"),
        (mm.Field.shaped("x", "f8", 1, optional=(0,)), [[1], [2, None]], "not items of a row; some of row 1 are"),
        (mm.Field.shaped("x", "f8", 2, optional=(0,)), [[[1]], [None]], "not items of a row; some of row 1 are"),
        (mm.Field.shaped("x", "f8", 2), ["a"], "got text"),
        (mm.Field.string("x"), [["a"]], "0 levels of lists; got 1"),
        (mm.Field.string("x", levels=1), ["a"], "1 levels of lists; got 0"),
        (mm.Field.string("x"), [1], "got numbers"),
        (mm.Field.category("x"), [1.5], "texts, got float64"),
        (mm.Field.category("x"), [np.array(["a"])], "texts, got lists"),
        (mm.Field.category("x"), [["a"]], "texts, got lists"),
        (mm.Field.category("x"), [[]], "texts, got lists"),
        (mm.Field.dense("x", "f4"), [1, None], r"row 1 is missing; .*mm.Field.dense\('x', ..., optional=\(0,\)\)"),
        (mm.Field.dense("x", "f4", (2,), optional=(0,)), [None, [1, None]], "some numbers of row 1 are missing"),
        (RAGGED, [[1], [2], None], r"row 2 is missing; .*mm.Field.ragged\('x', ..., optional=\(0,\)\)"),
        (RAGGED, [[], [], [2], [3, None]], r"an item of row 3 is missing; .*optional=\(1,\)"),
        (
            mm.Field.ragged("x", "f8", optional=(0,)),
            [None, [None]],
            r"an item of row 1 is missing; .*optional=\(0, 1\)",
        ),
        (mm.Field.ragged("x", "f8", levels=2), [[], [[1], None]], r"an item of row 1 .*'optional': \(1,\)"),
        (mm.Field.ragged("x", "f8", levels=2), [[], [[1], [2]], [[None]]], r"an item of row 2 .*optional=\(2,\)"),
        (mm.Field.string("x"), ["a", None], r"row 1 is missing; .*mm.Field.string"),
        (mm.Field.category("x"), ["a", None], r"row 1 is missing; .*mm.Field.category"),
        (mm.Field.shaped("x", "f8", 2), [None, np.ones((1, 1))], r"row 0 is missing; .*mm.Field.shaped"),
        (mm.Field.dense("x", "f8", (2,)), np.ma.masked_array(np.ones((2, 2)), np.eye(2)), "some numbers of row 0"),
    ],
)
def test_what_does_not_fit_a_field_is_refused(field, value, words):
    with pytest.raises(mm.SchemaError, match="field 'x'.*" + words):
        to_field_data("x", value, field)


def test_lists_within_themselves_end():
    rows = []
    rows.append(rows)
    with pytest.raises(mm.SchemaError, match="nested more than 16 deep"):
        to_field_data("x", rows)


# What does not fit is shown, with advice that loses nothing ---------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "values", "shown", "advice"),
    [
        ("i4", [1, 2**40], r"1099511627776 \(row 1", "whose dtype does"),
        ("u1", np.array([1, 300]), r"300 \(row 1", "whose dtype does"),
        ("i8", [1, 2, 1.5], r"1\.5 \(row 2", "whose dtype does"),
        ("i8", [1.0, np.nan], r"nan \(row 1", "whose dtype does"),
        ("S3", [b"abc", b"toolong"], r"b'toolong' \(row 1", "whose dtype does"),
        ("f4", [1e300], r"1e\+300 \(row 0", "whose dtype does"),
        ("f4", np.array([0.5, 0.1]), r"0\.1 \(row 1", r"astype\('float32'\)"),
        ("c8", np.array([0.1j]), r"0\.1j \(row 0", r"astype\('complex64'\)"),
    ],
)
def test_the_first_value_that_does_not_fit_is_shown(dtype, values, shown, advice):
    with pytest.raises(mm.SchemaError, match=f"{shown}.* does not fit exactly.*{advice}"):
        to_field_data("n", values, Field.dense("n", dtype))


@pytest.mark.parametrize(("dtype", "values"), [("f4", np.array([1j])), ("M8[s]", np.array([5])), ("i8", [b"1"])])
def test_values_of_another_sort_are_not_to_be_cast(dtype, values):
    with pytest.raises(mm.SchemaError, match="got") as error:
        to_field_data("n", values, Field.dense("n", dtype))
    assert "astype" not in str(error.value)


def test_python_dates_point_to_numpy():
    import datetime

    with pytest.raises(mm.SchemaError, match=r"numpy\.datetime64"):
        to_field_data("t", [datetime.datetime(2020, 1, 1)], Field.dense("t", "M8[us]"))


def test_names_of_fields_are_text():
    with pytest.raises(mm.SchemaError, match="a field name is"):
        by_field({5: [1]})


def test_an_image_of_another_size_is_told_of_shaped_fields():
    with pytest.raises(mm.SchemaError, match=r"Field\.shaped\('img', 'u1', axes=2\)"):
        to_field_data("img", [np.ones((4, 4), "u1")], Field.dense("img", "u1", (3, 3)))


@pytest.mark.parametrize(("given", "kept"), [(True, (0,)), (False, ()), ((0,), (0,))])
def test_optional_may_be_a_flag(given, kept):
    assert Field.dense("x", "f4", optional=given).optional == kept


def test_optional_is_nothing_else():
    with pytest.raises(mm.SchemaError, match="optional= is True"):
        Field.dense("x", "f4", optional=0)
