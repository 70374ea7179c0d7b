"""The layout that holds what several inputs have: no value is ever lost, whatever meets whatever."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdask.schema import Field, FieldData
from mmdask.sources.agreeing.promote import blank, common_dtype, common_field, promoted

NUMBERS = ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16"]


def ends(dtype: np.dtype[Any]) -> list[Any]:
    """Values of a dtype that others are likeliest not to hold, as Python's numbers."""
    if dtype.kind == "b":
        return [False, True]
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return [int(info.min), int(info.max), int(info.max) - 1, 0]
    real = np.finfo(dtype)
    some = [float(real.max), float(real.tiny), float(real.smallest_subnormal), 1 + float(real.eps), float("inf"), 0.0]
    return [complex(a, b) for a, b in zip(some, some[1:], strict=False)] if dtype.kind == "c" else some


@pytest.mark.parametrize(("a", "b"), list(product(NUMBERS, NUMBERS)))
def test_the_common_dtype_holds_every_value_of_both(a: str, b: str) -> None:
    dtypes = [np.dtype(a), np.dtype(b)]
    found = common_dtype(dtypes)
    assert found == common_dtype(dtypes[::-1]) or isinstance(found, str)
    if isinstance(found, str):
        # integers of 64 bits, and something that is no wider and holds other numbers
        assert any(d.kind in "iu" and d.itemsize == 8 for d in dtypes)
        assert {d.kind for d in dtypes} & set("fci")
        return
    for dtype in dtypes:
        for value in ends(dtype):
            # Python compares numbers of different types exactly
            assert np.array(value, dtype).astype(found).item() == np.array(value, dtype).item()


def test_the_common_dtype_does_not_depend_on_the_order() -> None:
    for three in product(NUMBERS[:12], repeat=3):
        found = {str(common_dtype([np.dtype(three[i]) for i in order])) for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0))}
        assert len({f if not f.startswith("no") else "no" for f in found}) == 1, three


@st.composite
def layouts(draw: st.DrawFn, depth: int) -> Field:
    """A field of numbers with lists and fixed axes that together are so many."""
    levels = draw(st.integers(0, depth))
    shape = tuple(draw(st.lists(st.integers(0, 3), min_size=depth - levels, max_size=depth - levels)))
    dtype = draw(st.sampled_from(NUMBERS[:12]))
    optional = tuple(d for d in range(levels + 1) if draw(st.booleans()))
    if levels:
        return Field.ragged("x", dtype, shape, levels=levels, optional=optional)
    return Field.dense("x", dtype, shape, optional=optional)


def rows_of(draw: st.DrawFn, field: Field, n: int) -> FieldData:
    """Any rows of a field."""
    offsets, valid = [], []
    count = n
    for depth in range(field.levels):
        there = np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count)), bool)
        there |= depth not in field.optional
        counts = np.array(draw(st.lists(st.integers(0, 3), min_size=count, max_size=count)), np.int64) * there
        offsets.append(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
        valid.append(there if depth in field.optional else None)
        count = int(offsets[-1][-1])
    values = np.array(draw(st.lists(st.sampled_from(ends(field.dtype)), min_size=count, max_size=count)), field.dtype)
    values = np.broadcast_to(values.reshape(-1, *([1] * len(field.shape))), (count, *field.shape)).copy()
    there = np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count)), bool) | (
        field.levels not in field.optional
    )
    values[~there] = np.nan if field.dtype.kind == "f" else 0
    valid.append(there if field.levels in field.optional else None)
    return FieldData(values, tuple(offsets), valid=tuple(valid) if any(v is not None for v in valid) else ())


def plain(field: Field, data: FieldData) -> list[Any]:
    """Rows as Python's lists of exact numbers, None for what is missing."""
    found: list[Any] = [exact(v) for v in data.values]
    there = data.valid_at(len(data.offsets))
    found = [x if there is None or there[i] else None for i, x in enumerate(found)]
    for depth in reversed(range(len(data.offsets))):
        o, there = data.offsets[depth].tolist(), data.valid_at(depth)
        found = [
            found[a:b] if there is None or there[i] else None for i, (a, b) in enumerate(zip(o, o[1:], strict=False))
        ]
        assert there is None or all(a == b for i, (a, b) in enumerate(zip(o, o[1:], strict=False)) if not there[i])
    return found


def exact(x: Any) -> Any:
    if isinstance(x, np.ndarray):
        return [exact(y) for y in x]
    value = x.item()
    if isinstance(value, float):
        return Fraction(value) if np.isfinite(value) else str(value)
    return value


@given(st.data())
def test_promoted_rows_have_every_value_that_they_had(data: st.DataObject) -> None:
    depth = data.draw(st.integers(0, 3))
    fields = [data.draw(layouts(depth)) for _ in range(data.draw(st.integers(1, 3)))]
    target = common_field(fields)
    if isinstance(target, str):
        assert "no dtype" in target
        return
    assert target.levels + len(target.shape) == depth
    if all(f.shape == fields[0].shape and f.levels == fields[0].levels for f in fields):
        assert (target.shape, target.levels) == (fields[0].shape, fields[0].levels)
    for field in fields:
        rows = rows_of(data.draw, field, data.draw(st.integers(0, 4)))
        got = promoted(field, rows, target)
        assert (got.values.dtype, got.values.shape[1:], len(got.offsets)) == (target.dtype, target.shape, target.levels)
        assert {i for i, v in enumerate(got.valid) if v is not None} <= set(target.optional)
        assert plain(target, got) == plain(field, rows)
        there = got.valid_at(len(got.offsets))
        if there is not None:
            blanks = got.values[~there]
            assert np.isnan(blanks).all() if target.dtype.kind == "f" else not blanks.any()


def test_one_number_per_row_beside_lists_is_a_list_of_one() -> None:
    target = common_field([Field.dense("x", "i4", optional=(0,)), Field.ragged("x", "f4")])
    assert isinstance(target, Field)
    assert target.describe() == "optional ragged float64"
    rows = FieldData(np.int32([5, 0, 7]), valid=(np.array([True, False, True]),))
    assert plain(target, promoted(Field.dense("x", "i4", optional=(0,)), rows, target)) == [[5], None, [7]]


def test_labels_beside_text_are_text() -> None:
    a, b = Field.category("x", ("é", "b"), optional=(0,)), Field.string("x")
    target = common_field([a, b])
    assert isinstance(target, Field)
    assert (target.kind, target.optional) == ("string", (0,))
    rows = FieldData(np.int32([1, 0, 0]), labels=a.labels, valid=(np.array([True, True, False]),))
    text = promoted(a, rows, target)
    o = text.offsets[0]
    assert [bytes(text.values[i:j]).decode() for i, j in zip(o, o[1:], strict=False)] == ["b", "é", ""]
    assert text.valid[0].tolist() == [True, True, False]


REFUSED = {
    "int64 and float64": (Field.dense("x", "i8"), Field.dense("x", "f8")),
    "uint64": (Field.dense("x", "i8"), Field.dense("x", "u8")),
    "text and numbers": (Field.dense("x", "i4"), Field.string("x")),
    "text of differing depth": (Field.string("x", levels=1), Field.string("x")),
    "rows of differing depth": (Field.ragged("x", "i4", levels=2), Field.ragged("x", "i4")),
    "nothing holds both": (Field.dense("x", "i4"), Field.dense("x", "M8[s]")),
    "datetime64": (Field.dense("x", "M8[ns]"), Field.dense("x", "M8[s]")),
    "another form": (Field.shaped("x", "f4", 2), Field.ragged("x", "f4", levels=2)),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_has_no_common_layout_says_why(why: str) -> None:
    for pair in (REFUSED[why], REFUSED[why][::-1]):
        found = common_field(pair)
        assert isinstance(found, str)
        assert why in found or " and ".join(why.split(" and ")[::-1]) in found


BLANK = [
    Field.dense("x", "f4", (2,), optional=(0,)),
    Field.dense("x", "i4", optional=(0,)),
    Field.ragged("x", "i8", (3,), levels=2, optional=(0,)),
    Field.string("x", levels=1, optional=(0,)),
    Field.category("x", ("a",), optional=(0,)),
    Field.shaped("x", "f4", 2, optional=(0,)),
]


@pytest.mark.parametrize("field", BLANK, ids=Field.describe)
def test_blank_rows_are_all_missing_and_can_be_stored(field: Field, tmp_path: Any) -> None:
    from mmdask.store.layer_writer import LayerWriter

    data = blank(field, 5)
    assert len(data) == 5
    assert not data.valid[0].any()
    with LayerWriter(tmp_path, "a") as w:
        writer = w.field(field)
        writer.write(data)
        assert w.finish(5).rows == 5
