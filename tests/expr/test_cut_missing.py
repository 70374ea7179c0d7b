"""Missing values in cuts, case by case: rows, items and whole lists; and the kinds that cuts do not read."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cut_reference import nested

from mmdask.errors import ExpressionError
from mmdask.expr import check, check_cut, combine, evaluate, evaluate_cut, negate
from mmdask.schema import Field, FieldData, Schema

nan = math.nan

MET = [50.0, None, 20.0, nan, None]
N = [3, 0, None, 5, None]
OK = [True, None, False, True, None]
PT = [[50.0, None, 30.0], None, [], [10.0], [None]]
ETA = [[1.0, 2.0, 3.0], [4.0], [], None, [None]]
FIXED = [[1, 2], None, [3, 4], [0, 0], None]
LABEL = ["a", None, "b", "b", None]
TEXT = ["", None, "x", "", None]
SCHEMA = Schema(
    [
        Field.dense("met", "f4", optional=(0,)),
        Field.dense("n", "u2", optional=(0,)),
        Field.dense("ok", "?", optional=(0,)),
        Field.ragged("pt", "f4", optional=(0, 1)),
        Field.ragged("eta", "f4", optional=(0, 1)),
        Field.dense("fixed", "u8", (2,), optional=(0,)),
        Field.category("label", ["b", "a"], optional=(0,)),
        Field.string("text", optional=(0,)),
        Field.dense("row", "i4"),
        Field.ragged("lists", "i4", optional=(0,)),
    ]
)


def flags(values):
    return np.array([v is not None for v in values])


def lists(rows):
    items = [x for row in rows for x in row or []]
    offsets = np.concatenate([[0], np.cumsum([len(row or []) for row in rows])]).astype("i8")
    return FieldData(
        np.array([nan if x is None else x for x in items], "f4"), (offsets,), valid=(flags(rows), flags(items))
    )


def texts(values):
    raw = [(v or "").encode() for v in values]
    offsets = np.concatenate([[0], np.cumsum([len(r) for r in raw])]).astype("i8")
    return FieldData(np.frombuffer(b"".join(raw), "u1"), (offsets,), valid=(flags(values),))


DATA = {
    "met": FieldData(np.array([nan if v is None else v for v in MET], "f4"), valid=(flags(MET),)),
    "n": FieldData(np.array([v or 0 for v in N], "u2"), valid=(flags(N),)),
    # What stands where a value is missing does not matter.
    "ok": FieldData(np.array([v is None or v for v in OK]), valid=(flags(OK),)),
    "pt": lists(PT),
    "eta": lists(ETA),
    "fixed": FieldData(np.array([v or [0, 7] for v in FIXED], "u8"), valid=(flags(FIXED),)),
    "label": FieldData(
        np.array([["b", "a", None].index(v) % 2 for v in LABEL], "i4"), labels=("b", "a"), valid=(flags(LABEL),)
    ),
    "text": texts(TEXT),
    "row": FieldData(np.arange(5, dtype="i4")),
}


def run(text):
    expression = check(text, SCHEMA)
    result = evaluate(expression, DATA.__getitem__, 5)
    known = np.ones(len(result.values), bool) if result.known is None else result.known
    assert not result.values[~known].any(), "what is missing is 0 or False"
    flat = [v if k else None for v, k in zip(result.values.tolist(), known, strict=True)]
    if not expression.depth:
        return flat
    return nested(flat, result.offsets, result.there)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("met > 30", [True, None, False, False, None]),
        ("not (met > 30)", [False, None, True, True, None]),
        ("met > 30 or row < 2", [True, True, False, False, None]),
        ("met > 30 and row < 2", [True, None, False, False, False]),
        ("ok", [True, None, False, True, None]),
        ("not ok", [False, None, True, False, None]),
        ("xor(ok, row > 0)", [True, None, True, False, None]),
        ("n - 1", [2, -1, None, 4, None]),
        ("1 < n <= 5", [True, False, None, True, None]),
        ("n in (0, 5)", [False, True, None, True, None]),
        ("n not in (0, 5)", [True, False, None, False, None]),
        ("isnan(met)", [False, None, False, True, None]),
        ("where(ok, n, row)", [3, None, 2, 5, None]),
        ("where(row > 2, 7, n)", [3, 0, None, 7, 7]),
        ("maximum(n, row)", [3, 1, None, 5, None]),
        ("label == 'a'", [True, None, False, False, None]),
        ("label != 'a'", [False, None, True, True, None]),
        ("label in ('a', 'b')", [True, None, True, True, None]),
        ("text == ''", [True, None, False, True, None]),
        ("text != ''", [False, None, True, False, None]),
        ("text not in ('x', 'y')", [True, None, False, True, None]),
        # items that are missing: known only where the others decide
        ("any(pt > 40)", [True, None, False, False, None]),
        ("any(pt > 60)", [None, None, False, False, None]),
        ("all(pt > 40)", [False, None, True, False, None]),
        ("all(pt > 5)", [None, None, True, True, None]),
        ("none(pt > 60)", [None, None, True, True, None]),
        ("count(pt > 40)", [None, None, 0, 0, None]),
        ("sum(pt)", [None, None, 0.0, 10.0, None]),
        ("mean(pt)", [None, None, None, 10.0, None]),
        ("min(pt)", [None, None, None, 10.0, None]),
        ("argmax(pt)", [None, None, None, 0, None]),
        ("len(pt)", [3, None, 0, 1, 1]),
        ("pt[0]", [50.0, None, None, 10.0, None]),
        ("last(pt)", [30.0, None, None, 10.0, None]),
        ("get(pt, 0, -1)", [50.0, None, -1.0, 10.0, None]),
        ("get(pt, 1, n)", [None, None, None, 5.0, None]),
        # lists that are missing
        ("pt + 1", [[51.0, None, 31.0], None, [], [11.0], [None]]),
        ("pt > met", [[False, None, False], None, [], [False], [None]]),
        ("pt + eta", [[51.0, None, 33.0], None, [], None, [None]]),
        ("len(pt + eta)", [3, None, 0, None, 1]),
        ("any(pt > 40 and eta > 0)", [True, None, False, None, None]),
        ("any(row < 0 and pt > 0)", [False, None, False, False, False]),
        ("sum(where(pt > 20, eta, 0))", [None, None, 0.0, None, None]),
        ("len(fixed)", [2, None, 2, 2, None]),
        ("sum(fixed)", [3, None, 7, 0, None]),
        ("fixed[1]", [2, None, 4, 0, None]),
        ("fixed * 2", [[2, 4], None, [6, 8], [0, 0], None]),
        ("any(fixed > 1)", [True, None, True, False, None]),
        ("all(fixed > 0)", [True, None, True, False, None]),
        ("get(fixed, 5, 1)", [1, None, 1, 1, None]),
        # asking
        ("ismissing(met)", [False, True, False, False, True]),
        ("ismissing(row)", [False] * 5),
        ("not ismissing(label)", [True, False, True, True, False]),
        ("ismissing(text)", [False, True, False, False, True]),
        ("ismissing(pt)", [[False, True, False], None, [], [False], [True]]),
        ("ismissing(len(pt))", [False, True, False, False, False]),
        ("ismissing(pt[0])", [False, True, True, False, True]),
        ("sum(where(ismissing(pt), 0, pt))", [80.0, None, 0.0, 10.0, 0.0]),
        ("count(not ismissing(pt))", [2, None, 0, 1, 0]),
    ],
)
def test_three_values(text, expected):
    got = run(text)
    assert len(got) == 5
    for g, e in zip(got, expected, strict=True):
        assert g == e, (got, expected)
        assert (g is None) == (e is None)
    expression = check(text, SCHEMA)
    if expression.dtype == np.bool_ and not expression.depth:
        assert evaluate_cut(expression, DATA.__getitem__, 5).tolist() == [e is True for e in expected]


def test_missing_does_not_pass_and_neither_does_its_negation():
    cut = check_cut("met > 30", SCHEMA)
    assert evaluate_cut(cut, DATA.__getitem__, 5).tolist() == [True, False, False, False, False]
    assert evaluate_cut(negate(cut), DATA.__getitem__, 5).tolist() == [False, False, True, True, False]
    both = combine("or", cut, check_cut("ismissing(met)", SCHEMA))
    assert evaluate_cut(both, DATA.__getitem__, 5).tolist() == [True, True, False, False, True]
    assert evaluate_cut(negate(both), DATA.__getitem__, 5).tolist() == [False, False, True, True, False]


@pytest.mark.parametrize(
    ("text", "optional"),
    [
        ("met", (0,)),
        ("row", ()),
        ("pt", (0, 1)),
        ("len(pt)", (0,)),
        ("any(pt > 1)", (0,)),
        *((f"{name}(lists > 1)", (0,)) for name in ("any", "all", "none", "count", "sum")),
        ("len(lists)", (0,)),
        ("get(lists, 0, 1)", (0,)),
        ("lists > 1", (0,)),
        ("ismissing(pt)", (0,)),
        ("ismissing(met)", ()),
        ("ismissing(len(pt))", ()),
        ("fixed", (0,)),
        ("sum(fixed)", (0,)),
        ("label == 'a'", (0,)),
        ("row + 1", ()),
    ],
)
def test_where_values_may_be_missing_is_known_before(text, optional):
    expression = check(text, SCHEMA)
    assert expression.optional == optional
    assert expression.maybe_missing == bool(optional)
    plain = Schema([Field(f.name, f.kind, f.dtype, f.shape, f.levels, f.labels) for f in SCHEMA.values()])
    assert not check(text, plain).maybe_missing


def test_lists_that_are_there_have_equal_counts():
    data = {**DATA, "eta": lists([[1.0], [4.0], [], None, [None]])}
    with pytest.raises(ExpressionError, match=r"'pt' and 'eta' have different numbers of items.* row 10 has 3 and 1"):
        evaluate(check("any(pt > eta)", SCHEMA), data.__getitem__, 5, first_row=10)


def test_items_of_a_list_that_is_missing_are_never_looked_at():
    """No store should have them."""
    pt = FieldData(np.float32([50, 60, 70]), (np.array([0, 1, 3]),), valid=(np.array([True, False]), None))
    schema = Schema([Field.ragged("pt", "f4", optional=(0, 1))])
    for text in ("len(pt)", "pt[0]", "get(pt, 0, 1)", "any(pt > 1)", "all(pt > 1)", "sum(pt)", "max(pt)", "argmax(pt)"):
        result = evaluate(check(text, schema), {"pt": pt}.get, 2)
        assert result.known.tolist() == [True, False], text
    result = evaluate(check("pt", schema), {"pt": pt}.get, 2)
    assert result.values.tolist() == [50]
    assert (result.offsets[0].tolist(), result.there[0].tolist()) == ([0, 1, 1], [True, False])


def test_big_endian_values_keep_what_is_missing():
    data = {"n": FieldData(np.array([7, 0], ">u2"), valid=(np.array([True, False]),))}
    result = evaluate(check("n > 3", SCHEMA), data.__getitem__, 2)
    assert (result.values.tolist(), result.known.tolist()) == ([True, False], [True, False])


def test_what_stands_where_a_value_is_missing_is_never_looked_at():
    data = {
        "n": FieldData(np.array([1, 65535], "u8"), valid=(np.array([True, False]),)),
        "big": FieldData(np.array([1, 2**63], "u8"), valid=(np.array([True, False]),)),
        "bigs": FieldData(np.array([[1, 2], [0, 2**64 - 1]], "u8"), valid=(np.array([True, False]),)),
    }
    schema = Schema(
        [
            Field.dense("n", "u8", optional=(0,)),
            Field.dense("big", "u8", optional=(0,)),
            Field.dense("bigs", "u8", (2,), optional=(0,)),
        ]
    )
    for text, first in (("big * 4", 4), ("big - 1", 0), ("-big", -1), ("sum(bigs)", 3), ("abs(n - big)", 0)):
        result = evaluate(check(text, schema), data.__getitem__, 2)
        assert (result.values[0], result.known.tolist()) == (first, [True, False])
    result = evaluate(check("bigs - 1", schema), data.__getitem__, 2)
    assert result.values.tolist() == [0, 1]
    assert (result.offsets[0].tolist(), result.there[0].tolist()) == ([0, 2, 2], [True, False])
    assert result.known is None


@pytest.mark.parametrize("text", ["len(image) > 3", "image > 3"])
def test_kinds_that_cuts_do_not_read(text):
    schema = Schema([Field.shaped("image", "u1", 2)])
    with pytest.raises(ExpressionError, match=r"'image' is shaped.*store it as a field") as error:
        check(text, schema)
    assert "^" in str(error.value)


def test_a_record_is_no_field_and_its_members_are():
    schema = Schema([Field.ragged("jets_pt", "f4", record="jets"), Field.ragged("jets_eta", "f4", record="jets")])
    with pytest.raises(ExpressionError, match=r"no field 'jets': it is a record, of the fields jets_pt, jets_eta"):
        check_cut("any(jets > 3)", schema)


def test_ismissing_asks_about_something():
    with pytest.raises(ExpressionError, match="asks about a field"):
        check("ismissing(3)", SCHEMA)
