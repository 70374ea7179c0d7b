"""What users hand in becomes offsets and values, exactly or not at all.

Oracles: awkward, numpy, Python lists; for exactness Python integers and fractions, which never round.
"""

from __future__ import annotations

import datetime
import math
from fractions import Fraction

import awkward as ak
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mmdask as mm
from mmdask.schema import FieldData
from mmdask.sources.given.coerce import to_field_data
from mmdask.sources.given.exact import values_as

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
    for field in (None, mm.Field.dense("x", "f8", (2,))):
        data = to_field_data("x", array, field)[1]
        assert data.values.flags.c_contiguous
        np.testing.assert_array_equal(data.values, array)


@given(st.lists(st.lists(st.integers(-(2**62), 2**62), max_size=5), min_size=1, max_size=20))
def test_lists_of_lists_are_ragged(rows):
    if not any(rows):
        with pytest.raises(mm.SchemaError, match="declare"):
            to_field_data("x", rows)
        return
    field, data = to_field_data("x", rows)
    assert field.kind == "ragged"
    assert as_lists(data) == rows


@given(st.lists(st.lists(st.lists(st.floats(allow_nan=False), max_size=3), max_size=3), min_size=1, max_size=8))
def test_nested_lists_keep_all_levels(rows):
    # Rows without any inner list do not say that there is a third level.
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
    assert to_field_data("x", [0.1 + 1j], mm.Field.dense("x", "c8"))[1].values[0] == np.complex64(0.1 + 1j)
    assert to_field_data("x", np.array([0.1], object), field)[1].values[0] == np.float32(0.1)
    for rows in ([np.array([0.1])], [[0.1], np.array([0.1])], [np.array([0.1]), [0.1]], ak.Array([[0.1]])):
        with pytest.raises(mm.SchemaError, match="fit exactly"):
            to_field_data("x", rows, mm.Field.ragged("x", "f4"))
    with pytest.raises(mm.SchemaError, match="fit exactly"):
        to_field_data("x", [1e300], field)
    with pytest.raises(mm.SchemaError, match="fit exactly"):
        to_field_data("x", [1e300 + 1j], mm.Field.dense("x", "c8"))
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


INTEGERS = st.one_of(
    st.integers(-9, 9),
    st.integers(-(2**65), 2**65),
    st.builds(
        lambda e, d, s: s * (2**e + d), st.sampled_from([53, 63, 64]), st.integers(-2, 2), st.sampled_from([-1, 1])
    ),
)
NUMBERS = st.one_of(INTEGERS, INTEGERS, st.floats(), st.sampled_from([0.5, 2.0**53, 2.0**63]), st.booleans())
ARRAY_DTYPES = ["i1", "u1", "i4", "i8", "u8", "f2", "f4", "f8", ">i8", "?"]


def fraction(value):
    """A number without rounding; what is no number as text."""
    if isinstance(value, np.generic):
        value = value.item()
    return Fraction(value) if isinstance(value, int) or math.isfinite(value) else str(value)


def holds(dtype, value):
    """Whether a dtype has this number, decided without numpy's casts."""
    dtype, exact = np.dtype(dtype), fraction(value)
    if dtype.kind == "b":
        return exact in (0, 1)
    if dtype.kind in "iu":
        bits = 8 * dtype.itemsize
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if dtype.kind == "i" else (0, 2**bits)
        return not isinstance(exact, str) and exact.denominator == 1 and low <= exact < high
    if isinstance(exact, str) or not exact:
        return True
    mantissa, lowest, highest = {2: (11, -24, 16), 4: (24, -149, 128), 8: (53, -1074, 1024)}[dtype.itemsize]
    twos = (exact.denominator.bit_length() - 1) * -1 if exact.denominator > 1 else 0
    number = abs(exact.numerator)
    while number % 2 == 0:
        number, twos = number // 2, twos + 1
    return number.bit_length() <= mantissa and twos >= lowest and number.bit_length() + twos <= highest


def as_array(dtype, numbers):
    """Those of the numbers that a dtype has, as an array of it."""
    return np.array([n for n in numbers if holds(dtype, n)], dtype)


def flat(data):
    return [fraction(v) for v in data.values.ravel()]


@given(st.lists(NUMBERS, min_size=1, max_size=4), st.sampled_from([None, "i8", "u8", "f8", "f4", "i2", "?", "c16"]))
def test_lists_of_numbers_never_round_an_integer(numbers, dtype):
    field = None if dtype is None else mm.Field.dense("x", dtype)
    floats = [n for n in numbers if isinstance(n, float)]
    try:
        data = to_field_data("x", numbers, field)[1]
    except mm.SchemaError:
        if not floats and all(type(n) is int for n in numbers):
            fits = [d for d in ("i8", "u8") if all(holds(d, n) for n in numbers)]
            targets = fits if dtype is None else [dtype.replace("c16", "f8")] if fits else []
            assert not any(all(holds(t, n) for n in numbers) for t in targets)
        return
    for number, stored in zip(numbers, data.values.tolist(), strict=True):
        stored = stored.real if dtype == "c16" else stored
        if isinstance(number, float) and dtype == "f4":
            np.testing.assert_equal(np.float32(stored), np.float32(number))
        else:
            assert fraction(stored) == fraction(number)


@given(st.lists(st.lists(NUMBERS, max_size=3), min_size=1, max_size=4), st.sampled_from([None, "i8", "u8", "f8"]))
def test_lists_of_lists_never_round(rows, dtype):
    try:
        data = to_field_data("x", rows, None if dtype is None else mm.Field.ragged("x", dtype))[1]
    except mm.SchemaError:
        return
    assert flat(data) == [fraction(n) for row in rows for n in row]
    assert np.diff(data.offsets[0]).tolist() == [len(row) for row in rows]


@given(
    st.lists(st.tuples(st.sampled_from(ARRAY_DTYPES), st.lists(NUMBERS, max_size=3)), min_size=1, max_size=4),
    st.sampled_from([None, "i8", "u8", "f8", "f4"]),
    st.booleans(),
)
def test_rows_of_different_dtypes_never_round(rows, dtype, dense):
    with np.errstate(all="ignore"):
        arrays = [as_array(d, numbers) for d, numbers in rows]
    if dense:
        arrays = [a[:1] for a in arrays if a.size] or [np.zeros(1)]
    make = mm.Field.dense if dense else mm.Field.ragged
    field = None if dtype is None else make("x", dtype, (1,) if dense else ())
    values = [v for a in arrays for v in a.tolist()]
    try:
        data = to_field_data("x", arrays, field)[1]
    except mm.SchemaError:
        kinds = {a.dtype.newbyteorder("=") for a in arrays if a.size}
        assert not all(holds(dtype, v) for v in values) if dtype else len(kinds) > 1
        return
    assert flat(data) == list(map(fraction, values))
    if dtype is None and values:
        assert data.values.dtype == np.result_type(*{a.dtype for a in arrays if a.size})


@given(st.sampled_from(ARRAY_DTYPES), st.sampled_from(ARRAY_DTYPES), st.lists(NUMBERS, min_size=1, max_size=3))
def test_arrays_of_numbers_fit_exactly_when_python_says_so(source, target, numbers):
    values = as_array(source, numbers)
    field = mm.Field.dense("x", target)
    if all(holds(target, v) for v in values.tolist()):
        assert list(map(fraction, values_as(field, values))) == list(map(fraction, values))
    else:
        with pytest.raises(mm.SchemaError, match="fit exactly"):
            values_as(field, values)


SECONDS = {
    "W": 604800,
    "D": 86400,
    "h": 3600,
    "m": 60,
    "25s": 25,
    "s": 1,
    "ms": Fraction(1, 10**3),
    "us": Fraction(1, 10**6),
    "ns": Fraction(1, 10**9),
    "ps": Fraction(1, 10**12),
    "as": Fraction(1, 10**18),
}


@given(
    st.sampled_from(list(SECONDS)),
    st.sampled_from(list(SECONDS)),
    st.sampled_from("Mm"),
    st.lists(st.one_of(st.integers(-(10**6), 10**6), st.integers(-(2**63) + 1, 2**63 - 1)), min_size=1, max_size=3),
    st.booleans(),
)
def test_times_fit_exactly_or_not_at_all(source, target, kind, ticks, nat):
    values = np.array([*ticks, *([-(2**63)] if nat else [])], "i8").view(f"{kind}8[{source}]")
    exact = [Fraction(t) * SECONDS[source] / SECONDS[target] for t in ticks]
    field = mm.Field.dense("x", f"{kind}8[{target}]")
    rows = [values[i : i + 1] for i in range(len(values))]
    if all(e.denominator == 1 and -(2**63) < e < 2**63 for e in exact):
        cast = values_as(field, values)
        assert cast[: len(ticks)].view("i8").tolist() == exact
        assert np.isnat(cast[len(ticks) :]).all()
        np.testing.assert_array_equal(to_field_data("x", rows, mm.Field.ragged("x", field.dtype))[1].values, cast)
    else:
        with pytest.raises(mm.SchemaError, match="fit exactly"):
            values_as(field, values)
        with pytest.raises(mm.SchemaError, match="fit exactly"):
            to_field_data("x", rows, mm.Field.ragged("x", field.dtype))


@pytest.mark.parametrize(
    ("value", "target", "fits"),
    [
        (np.datetime64("2000", "Y"), "M8[D]", True),
        (np.datetime64("2000-02", "M"), "M8[Y]", False),
        (np.datetime64("2000-02-01", "D"), "M8[M]", True),
        (np.datetime64("2000-02-02", "D"), "M8[M]", False),
        (np.datetime64("300000", "Y"), "M8[ns]", False),
        (np.datetime64("NaT", "Y"), "M8[ns]", True),
    ],
)
def test_months_and_years(value, target, fits):
    if fits:
        np.testing.assert_array_equal(values_as(mm.Field.dense("x", target), np.array([value])), [value])
    else:
        with pytest.raises(mm.SchemaError, match="fit exactly"):
            values_as(mm.Field.dense("x", target), np.array([value]))


def test_dates_of_two_units_do_not_wrap():
    far, near = np.datetime64("3000-01-01", "s"), np.datetime64("2000-01-01", "ns")
    for rows in ([far, near], [np.array([far]), np.array([near])]):
        with pytest.raises(mm.SchemaError, match="fit exactly"):
            to_field_data("x", rows)
    data = to_field_data("x", [np.datetime64("2000-01-02", "D"), near])[1]
    assert data.values.astype("M8[us]").tolist() == [datetime.datetime(2000, 1, 2), datetime.datetime(2000, 1, 1)]


def test_the_roundings_of_numpy_and_awkward_are_refused():
    big = 2**53 + 1
    i8, f8 = mm.Field.ragged("x", "i8"), mm.Field.dense("x", "f8")
    assert to_field_data("x", [np.array([]), np.array([big])], i8)[1].values.tolist() == [big]
    assert to_field_data("x", [np.array([]), np.array([big])])[1].values.tolist() == [big]
    assert to_field_data("x", [[2**63 + 1], [1]])[1].values.tolist() == [2**63 + 1, 1]
    assert to_field_data("x", np.array([[big, 0]], object))[1].values.tolist() == [[big, 0]]
    for value, field in (
        (np.array([big]), f8),
        ([big], f8),
        ([[big], [0.5]], None),
        ([big, 0.5], None),
        (np.array([big, 0.5], object), None),
        ([2**63 + 1, -1], None),
        ([2**24 + 1, 0.5], mm.Field.dense("x", "f4")),
        ([[2**24 + 1, 0.5]], mm.Field.ragged("x", "f4")),
        ([[2**63 + 1], [-1]], None),
        ([[2**64], [1]], None),
        ([np.array([big]), [0.5]], None),
        ([np.array([[big]]), np.array([[0.5]])], None),
        ([np.array([big - 1]), np.array([big], "u8")], None),
        (np.array([complex(math.nan, 0.1)]), mm.Field.dense("x", "c8")),
        (np.array([5]), mm.Field.dense("x", "m8[s]")),
        (np.array([5]), mm.Field.dense("x", "S9")),
    ):
        with pytest.raises(mm.SchemaError):
            to_field_data("x", value, field)


@pytest.mark.parametrize(
    ("source", "target", "number"),
    [
        ("u8", "f8", 2**64 - 1),
        ("u8", "f4", 2**64 - 1),
        ("i8", "f8", 2**63 - 1),
        ("f8", "u8", 2**64),
        ("f8", "i8", 2**63),
        ("f4", "i4", 2**31),
        ("f8", "u8", -1),
        ("f8", "u1", 256),
        ("f8", "i8", math.nan),
        ("f8", "?", math.nan),
        ("i8", "u8", -1),
        ("u8", "i8", 2**63),
    ],
)
def test_numbers_at_the_ends_of_a_dtype_do_not_wrap(source, target, number):
    with pytest.raises(mm.SchemaError, match="fit exactly"):
        values_as(mm.Field.dense("x", target), np.array([number], source))


def test_bytes_fit_a_shorter_field_unless_cut():
    field = mm.Field.dense("x", "S3")
    assert values_as(field, np.array([b"abc", b""], "S5")).tolist() == [b"abc", b""]
    with pytest.raises(mm.SchemaError, match="fit exactly"):
        values_as(field, np.array([b"abcd"], "S5"))


def test_unions_are_refused():
    # Made by hand: awkward itself would have merged the two, and rounded.
    tags, index = ak.index.Index8(np.array([0, 1], "i1")), ak.index.Index64(np.array([0, 0]))
    contents = [ak.contents.NumpyArray(np.array([2**53 + 1])), ak.contents.NumpyArray(np.array([0.5]))]
    with pytest.raises(mm.SchemaError, match="several types"):
        to_field_data("x", ak.Array(ak.contents.UnionArray(tags, index, contents)))


def test_empty_arrays_keep_their_own_dtype_when_alone():
    assert to_field_data("x", [np.zeros(0, "i4"), np.zeros(0, "i4")])[0].describe() == "ragged int32"
    times = mm.Field.ragged("x", "M8[ns]", levels=2)
    assert as_lists(to_field_data("x", [[], [[]]], times)[1]) == [[], [[]]]


def test_tuples_and_other_sequences_are_lists():
    assert as_lists(to_field_data("x", [(1, 2), (3, 4, 5)])[1]) == [[1, 2], [3, 4, 5]]
    assert as_lists(to_field_data("x", ((1,), range(3), np.arange(2), ak.Array([7])))[1]) == [
        [1],
        [0, 1, 2],
        [0, 1],
        [7],
    ]
    assert as_lists(to_field_data("x", [ak.Array([[1], []]), ak.Array([[2, 3]])])[1]) == [[[1], []], [[2, 3]]]
    nested = [[np.array([1, 2], "i2"), np.array([3], "i2")], [], [np.array([], "i2")]]
    field, data = to_field_data("x", nested)
    assert (field.levels, field.dtype) == (2, np.dtype("i2"))
    assert as_lists(data) == [[[1, 2], [3]], [], [[]]]
    words = [np.array(["a", "bc"]), np.array(["é"])]
    field, data = to_field_data("x", words)
    assert (field.kind, field.levels) == ("string", 1)
    assert [o.tolist() for o in data.offsets] == [[0, 2, 3], [0, 1, 3, 5]]


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (["", ""], mm.Field.ragged("x", "i8")),
        ([[], []], mm.Field.string("x")),
        ([[], []], mm.Field.category("x")),
        ([["a"], ["b", "c"]], mm.Field.category("x")),
        (ak.Array([b"\xff"]), mm.Field.category("x")),
        ([1], mm.Field.string("x")),
    ],
)
def test_text_and_lists_are_not_each_other(value, field):
    with pytest.raises(mm.SchemaError):
        to_field_data("x", value, field)
