"""Lists in lists, indices that are computed, items that conditions choose, texts in lists: case by case."""

from __future__ import annotations

import numpy as np
import pytest
from cut_reference import nested

from mmdask.errors import ExpressionError
from mmdask.expr import check, check_cut, combine, evaluate, evaluate_bits, evaluate_cut, evaluate_three_valued, negate
from mmdask.schema import Field, FieldData, Schema

#: three rows: of two jets, of none, of one
PT = [[50.0, 30.0], [], [20.0]]
ETA = [[1.0, -3.0], [], [2.0]]
HITS = [[[1.0, 5.0, 2.0], []], [], [[4.0]]]
NAMES = [["a", "b"], [], ["b"]]
TAGS = [[["x", ""], None], None, [[None]]]
LOST = [[[1, None], None], None, [[3]]]
N = [2, 0, 3]
SCHEMA = Schema(
    [
        Field.dense("n", "u1"),
        Field.dense("met", "f4", optional=(0,)),
        Field.ragged("pt", "f4"),
        Field.ragged("eta", "f4"),
        Field.ragged("good", "?", optional=(1,)),
        Field.ragged("best", "i8", optional=(1,)),
        Field.ragged("hits", "f8", levels=2),
        Field.ragged("lost", "i4", levels=2, optional=(0, 1, 2)),
        Field.dense("matrix", "i2", (2, 2)),
        Field.ragged("vectors", "f4", (3,)),
        Field.string("names", levels=1),
        Field.string("tags", levels=2, optional=(0, 1, 2)),
        Field.string("name"),
        Field.ragged("deep", "f4", levels=3, optional=(2, 3)),
        Field.shaped("image", "u1", 2),
    ]
)


def data(rows, depth, dtype="f4", optional=False):
    """The `FieldData` of lists in lists in which None is missing."""
    offsets, valid = [], []
    for _ in range(depth):
        valid.append(np.array([r is not None for r in rows]))
        offsets.append(np.concatenate([[0], np.cumsum([len(r or []) for r in rows])]).astype("i8"))
        rows = [x for r in rows for x in r or []]
    valid.append(np.array([r is not None for r in rows]))
    shown = tuple(valid) if optional else ()
    if dtype == "text":
        texts = [(r or "").encode() for r in rows]
        ends = np.concatenate([[0], np.cumsum([len(t) for t in texts])]).astype("i8")
        return FieldData(np.frombuffer(b"".join(texts), "u1"), (*offsets, ends), valid=shown)
    return FieldData(np.array([r or 0 for r in rows], dtype), tuple(offsets), valid=shown)


DATA = {
    "n": FieldData(np.uint8(N)),
    "met": FieldData(np.float32([40, 0, 10]), valid=(np.array([True, False, True]),)),
    "pt": data(PT, 1),
    "eta": data(ETA, 1),
    "good": data([[True, None], [], [False]], 1, "?", optional=True),
    "best": data([[2, -1], [], [None]], 1, "i8", optional=True),
    "hits": data(HITS, 2, "f8"),
    "lost": data(LOST, 2, "i4", optional=True),
    "matrix": FieldData(np.arange(12, dtype="i2").reshape(3, 2, 2)),
    "vectors": FieldData(np.arange(9, dtype="f4").reshape(3, 3), (np.array([0, 2, 2, 3]),)),
    "names": data(NAMES, 1, "text"),
    "tags": data(TAGS, 2, "text", optional=True),
    "name": data(["a", "", "b"], 0, "text"),
}


def run(text, fields=DATA, schema=SCHEMA):
    e = check(text, schema)
    result = evaluate(e, fields.__getitem__, 3)
    known = np.ones(len(result.values), bool) if result.known is None else result.known
    flat = [v if k else None for v, k in zip(result.values.tolist(), known, strict=True)]
    assert len(result.offsets) == e.depth
    return nested(flat, result.offsets, result.there)


CASES = [
    # reductions take the innermost lists
    ("sum(hits)", [[8.0, 0.0], [], [4.0]]),
    ("sum(sum(hits))", [8.0, 0.0, 4.0]),
    ("any(any(hits > 3))", [True, False, True]),
    ("all(any(hits > 3))", [False, True, True]),
    ("len(hits)", [[3, 0], [], [1]]),
    ("len(len(hits))", [2, 0, 1]),
    ("sum(len(hits))", [3, 0, 1]),
    ("count(any(hits > 1))", [1, 0, 1]),
    ("max(hits)", [[5.0, None], [], [4.0]]),
    ("max(max(hits))", [None, None, 4.0]),
    ("argmax(hits)", [[1, None], [], [0]]),
    ("mean(hits)", [[8 / 3, None], [], [4.0]]),
    # values of outer levels stay the same for the items within
    ("hits > pt", [[[False, False, False], []], [], [[False]]]),
    ("hits * pt", [[[50.0, 250.0, 100.0], []], [], [[80.0]]]),
    ("hits - n", [[[-1.0, 3.0, 0.0], []], [], [[1.0]]]),
    ("any(sum(hits) > pt / 10)", [True, False, True]),
    ("where(pt > 40, sum(hits), met)", [[8.0, 40.0], [], [10.0]]),
    ("hits > met", [[[False, False, False], []], [], [[False]]]),
    # brackets take from the outermost list
    ("hits[0]", [[1.0, 5.0, 2.0], None, [4.0]]),
    ("hits[0][1]", [5.0, None, None]),
    ("hits[-1]", [[], None, [4.0]]),
    ("hits[1][0]", [None, None, None]),
    ("sum(hits[0])", [8.0, None, 4.0]),
    ("len(hits[1])", [0, None, None]),
    ("first(hits)", [[1.0, None], [], [4.0]]),
    ("last(hits)", [[2.0, None], [], [4.0]]),
    ("first(hits[0])", [1.0, None, 4.0]),
    ("get(hits[0], 1, -1)", [5.0, None, -1.0]),
    # an index that is computed
    ("pt[n - 1]", [30.0, None, None]),
    ("pt[-n]", [50.0, None, None]),
    ("eta[argmax(pt)]", [1.0, None, 2.0]),
    ("hits[argmin(pt)]", [[], None, [4.0]]),
    ("hits[argmax(hits)]", [[5.0, None], [], [4.0]]),
    ("hits[best]", [[2.0, None], [], [None]]),
    ("get(pt, n - 1, n)", [30.0, 0.0, 3.0]),
    ("get(pt, argmax(pt), -1)", [50.0, None, 20.0]),
    # items that a condition chooses
    ("pt[eta > 0]", [[50.0], [], [20.0]]),
    ("sum(pt[eta > 0] * eta[eta > 0])", [50.0, 0.0, 40.0]),
    ("len(pt[pt > 100])", [0, 0, 0]),
    ("max(pt[eta < 0])", [30.0, None, None]),
    ("pt[eta < 0][0]", [30.0, None, None]),
    ("pt[pt > 25][eta[pt > 25] < 0]", [[30.0], [], []]),
    ("hits[pt > 40]", [[[1.0, 5.0, 2.0]], [], []]),
    ("hits[hits > 1]", [[[5.0, 2.0], []], [], [[4.0]]]),
    ("sum(sum(hits[hits > 1]))", [7.0, 0.0, 4.0]),
    ("pt[any(hits > 3)]", [[50.0], [], [20.0]]),
    ("hits[pt < 40][0]", [[], None, [4.0]]),
    # a condition that is missing for an item: it is not known which are chosen
    ("pt[good]", [None, [], []]),
    ("len(pt[good])", [None, 0, 0]),
    ("count(good)", [None, 0, 0]),
    ("pt[good and not ismissing(good)]", [[50.0], [], []]),
    ("hits[good]", [None, [], []]),
    ("hits[hits > best]", [[[5.0], []], [], [None]]),
    # missing values at all depths
    ("lost + 1", [[[2, None], None], None, [[4]]]),
    ("sum(lost)", [[None, None], None, [3]]),
    ("len(lost)", [[2, None], None, [1]]),
    ("len(len(lost))", [2, None, 1]),
    ("any(lost > 0)", [[True, None], None, [True]]),
    ("any(any(lost > 0))", [True, None, True]),
    ("all(any(lost > 0))", [None, None, True]),
    ("ismissing(lost)", [[[False, True], None], None, [[False]]]),
    ("ismissing(len(lost))", [[False, True], None, [False]]),
    ("ismissing(len(len(lost)))", [False, True, False]),
    ("lost[0]", [[1, None], None, [3]]),
    ("lost[1]", [None, None, None]),
    ("lost[not ismissing(len(lost))]", [[[1, None]], None, [[3]]]),
    ("lost > pt", None),
    # fixed shapes are lists, too
    ("matrix[1][0]", [2, 6, 10]),
    ("sum(matrix)", [[1, 5], [9, 13], [17, 21]]),
    ("sum(matrix[0] * matrix[1])", [3, 59, 179]),
    ("max(sum(matrix))", [5, 13, 21]),
    ("sum(vectors)", [[3.0, 12.0], [], [21.0]]),
    ("sum(vectors) > pt", [[False, False], [], [True]]),
    ("vectors[0][2]", [2.0, None, 8.0]),
    ("vectors[pt < 40]", [[[3.0, 4.0, 5.0]], [], [[6.0, 7.0, 8.0]]]),
    # texts in lists
    ("any(names == 'b')", [True, False, True]),
    ("names != 'b'", [[True, False], [], [False]]),
    ("count(names in ('a', 'b'))", [2, 0, 1]),
    ("names[0] == 'a'", [True, None, False]),
    ("names[n - 1] == 'b'", [True, None, None]),
    ("any(names[pt > 40] == 'a')", [True, False, False]),
    ("last(names) not in ('a', '')", [True, None, True]),
    ("pt[names == 'b']", [[30.0], [], [20.0]]),
    ("len(names)", [2, 0, 1]),
    ("ismissing(names[1])", [False, True, True]),
    ("tags == ''", [[[False, True], None], None, [[None]]]),
    ("len(tags)", [[2, None], None, [1]]),
    ("ismissing(tags)", [[[False, False], None], None, [[True]]]),
    ("any(any(tags == 'x'))", [True, None, None]),
    ("tags[0][1] == ''", [True, None, None]),
    ("first(tags) == 'x'", [[True, None], None, [None]]),
]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_values(text, expected):
    if expected is None:  # lost has two jets in the first row and one in the last, as pt; the row between is missing
        expected = [[[False, None], None], None, [[False]]]
    assert run(text) == expected
    e = check(text, SCHEMA)
    again = check(e.canonical, SCHEMA)
    assert (again, again.tree, again.typed) == (e, e.tree, e.typed)


def test_what_is_known_of_missing_values_before():
    for text, optional in [
        ("lost", (0, 1, 2)),
        ("len(lost)", (0, 1)),
        ("lost[0]", (0, 1)),
        ("hits[0]", (0,)),
        ("hits[0][0]", (0,)),
        ("first(hits)", (1,)),
        ("hits[argmax(hits)]", (1,)),
        ("pt[good]", (0,)),
        ("hits[good]", (0,)),
        ("pt[pt > 1]", ()),
        ("hits[hits > best]", (1,)),
        ("hits > best", (2,)),
        ("tags == 'a'", (0, 1, 2)),
        ("any(tags == 'a')", (0, 1)),
        ("vectors", ()),
        ("ismissing(lost)", (0, 1)),
        ("deep", (2, 3)),
        ("deep[0]", (0, 1, 2)),
        ("deep[0][0]", (0, 1)),
        ("first(deep)", (2,)),
        ("deep[argmax(len(deep))]", (1, 2)),
        ("len(deep[n])", (0, 1)),
    ]:
        assert check(text, SCHEMA).optional == optional, text


def test_different_numbers_of_items():
    fields = {**DATA, "hits": data([[[1.0], []], [], [[4.0], [2.0]]], 2, "f8")}
    with pytest.raises(ExpressionError, match=r"'hits' and 'pt' have different numbers of items.*: row 12 has 2 and 1"):
        evaluate(check("any(any(hits > pt))", SCHEMA), fields.__getitem__, 3, first_row=10)
    schema = Schema([*SCHEMA.values(), Field.ragged("other", "f8", levels=2)])
    fields = {**DATA, "other": data([[[1.0, 5.0, 2.0], []], [], [[]]], 2, "f8")}
    with pytest.raises(ExpressionError, match=r"'hits' and 'other' .*: in row 12, list \[0\] has 1 and 0"):
        evaluate(check("any(any(hits > other))", schema), fields.__getitem__, 3, first_row=10)


def test_a_sum_that_does_not_fit_names_the_row():
    fields = {"lost": FieldData(np.int64([2**62, 2**62]), (np.array([0, 0, 2]), np.array([0, 0, 2])))}
    schema = Schema([Field.ragged("lost", "i8", levels=2)])
    with pytest.raises(ExpressionError, match=r"sum\(lost\) does not fit int64 in row 11: it is 9223372036854775808"):
        evaluate(check("sum(lost)", schema), fields.__getitem__, 2, first_row=10)
    with pytest.raises(
        ExpressionError, match=r"does not fit int64 in row 11, where the operands are 4611686018427387904"
    ):
        evaluate(check("lost * lost", schema), fields.__getitem__, 2, first_row=10)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hits > 3", r"one value per item of lists in lists.*write any\(any\(hits > 3\)\)"),
        ("any(hits > 3)", r"one value per item, .*write any\(any\(hits > 3\)\)"),
        ("sum(pt[eta > 0] + eta) > 1", "the items of pt.* are chosen by a condition, and those of eta are not"),
        ("sum(pt[eta > 0] + eta[eta > 1]) > 1", "are chosen by different conditions, so they do not belong together"),
        ("any(hits[pt > 1] > pt)", "do not belong together"),
        ("pt[eta > 0][pt > 1][0] > 1", "do not belong together"),
        (
            "pt[eta > 0][argmax(pt)] > 1",
            r"argmax\(pt\) is a place among the items of pt, and those of pt\[eta > 0\] are not",
        ),
        ("pt[argmax(pt[eta > 0])] > 1", r"is a place among the items of pt\[eta > 0\], and those of pt are not chosen"),
        ("get(pt[eta > 0], argmin(eta), 0) > 1", "are not chosen alike"),
        ("hits[pt > 1][argmax(pt)][0] > 1", "are not chosen alike"),
        ("eta[pt > 1][argmax(pt[pt > 1])] > 1", None),
        ("hits[pt > 1][argmax(pt[pt > 1])][0] > 1", None),
        ("any(hits[argmax(hits)] > 1)", None),
        ("pt[hits > 1]", "deeper lists than pt"),
        ("pt[n > 1] > 1", "n > 1 has one value per row"),
        ("pt[best] > 1", r"write pt\[best != 0\]"),
        ("pt[eta] > 1", "eta is a real number"),
        ("pt['a'] > 1", "an index is a whole number"),
        ("n[0] > 1", "n has one value per row"),
        ("len(name) > 1", "name is text; it can only be compared"),
        ("max(names) == 'a'", "names is text"),
        ("names == names", "compared with text in quotes"),
        ("names", "text alone is no value here"),
        ("names[0]", "text alone is no value here"),
        ("get(names, 0, 'a') == 'a'", "names is text"),
        ("any(image > 3)", "'image' is shaped"),
    ],
)
def test_errors(text, message):
    if message is None:
        assert check_cut(text, SCHEMA)
        return
    with pytest.raises(ExpressionError, match=message):
        check_cut(text, SCHEMA)


def test_text_three_values():
    cuts = [check_cut(t, SCHEMA) for t in ("met > 20", "n > 1", "any(any(lost > 2))", "any(any(tags == 'x'))")]
    cuts += [negate(c) for c in cuts] + [combine("or", cuts[0], cuts[2])]
    found = evaluate_three_valued(cuts, DATA.__getitem__, 3)
    for cut, (true, known), bits in zip(cuts, found, evaluate_bits(cuts, DATA.__getitem__, 3), strict=True):
        assert (true == bits).all()
        values = run(cut.canonical)
        assert [v is True for v in values] == np.unpackbits(true, count=3, bitorder="little").astype(bool).tolist()
        assert (known is None) == (None not in values)
        if known is not None:
            assert not (true & ~known).any()
            assert [v is not None for v in values] == np.unpackbits(known, count=3, bitorder="little").tolist()


def test_against_awkward():
    ak = pytest.importorskip("awkward")
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 4, 200)
    inner = rng.integers(0, 4, counts.sum())
    outer, ends = (np.concatenate([[0], np.cumsum(c)]).astype("i8") for c in (counts, inner))
    x, y = rng.normal(size=ends[-1]), rng.normal(size=outer[-1])
    fields = {"hits": FieldData(x, (outer, ends)), "pt": FieldData(y.astype("f4"), (outer,))}
    hits = ak.unflatten(ak.unflatten(x, inner), counts)
    pt = ak.unflatten(y.astype("f4"), counts)
    leading = ak.argmax(pt, axis=-1, keepdims=True)
    for text, expected in [
        ("any(any(hits > pt))", ak.any(ak.any(hits > pt, axis=-1), axis=-1)),
        ("count(any(hits > 1)) > 1", ak.sum(ak.any(hits > 1, axis=-1), axis=-1) > 1),
        ("sum(len(hits[pt > 0])) > 2", ak.sum(ak.num(hits[pt > 0], axis=-1), axis=-1) > 2),
        ("len(pt[pt > 0][pt[pt > 0] < 1]) == 1", ak.num(pt[pt > 0][pt[pt > 0] < 1]) == 1),
        ("len(hits[argmax(pt)]) > 1", ak.fill_none(ak.firsts(ak.num(hits[leading], axis=-1)), 0) > 1),
        ("any(any(hits[hits > 0] > 1))", ak.any(ak.any(hits[hits > 0] > 1, axis=-1), axis=-1)),
        ("max(max(hits[pt > 0])) > 1", None),
        ("any(hits[pt < 0][0] > 0)", ak.fill_none(ak.any(ak.firsts(hits[pt < 0]) > 0, axis=-1), False)),
    ]:
        got = evaluate_cut(check_cut(text, SCHEMA), fields.__getitem__, 200).tolist()
        if expected is None:  # an empty list has no largest item, and then it is not known which is the largest of all
            rows = [
                [h for h, p in zip(a, b, strict=True) if p > 0]
                for a, b in zip(hits.to_list(), pt.to_list(), strict=True)
            ]
            expected = [bool(r) and all(r) and max(map(max, r)) > 1 for r in rows]
        assert got == list(expected), text
