"""The canonical text: parsing it gives the same tree, and checking it the same text, also with constants put in."""

from __future__ import annotations

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmdask.errors import ExpressionError
from mmdask.expr import canonical, check, parse
from mmdask.expr.functions import FUNCTIONS
from mmdask.expr.parser import MAX_DEPTH, children, depth_of
from mmdask.expr.tree import (
    Binary,
    Bitwise,
    Boolean,
    Call,
    Compare,
    In,
    Index,
    Integer,
    Logic,
    Name,
    Not,
    Real,
    Symbol,
    Text,
    Unary,
)
from mmdask.schema import Field, Schema

SLOW = {"deadline": None, "suppress_health_check": list(HealthCheck)}
VALID = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NAMES = st.sampled_from(
    ["a", "jet_pt", "jets.pt", "x.size", "nan", "true", "and", "in", "sum", "`", "a b", "1a", "é", "$"]
)
NAMES |= VALID.filter(lambda name: 0 < len(name.replace("`", "``")) < 250)
NUMBERS = st.integers(0, 10**60).map(Integer) | st.floats(0, allow_nan=False, allow_infinity=False).map(Real)
PLAIN = NUMBERS | st.sampled_from(["nan", "inf", "pi"]).map(Symbol) | st.booleans().map(Boolean)
LEAVES = PLAIN | VALID.map(Text) | NAMES.map(Name)
ITEMS = st.lists(PLAIN | VALID.map(Text) | PLAIN.map(lambda x: Unary("-", x)), max_size=4).map(tuple)
COMPARISONS = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])


def larger(inner):
    some = st.lists(inner, min_size=2, max_size=4).map(tuple)

    def joined(kind, ops):
        # one of the same operator within it is the same chain
        flat = st.builds(kind, st.sampled_from(ops), some)
        return flat.filter(lambda x: not any(isinstance(a, kind) and a.op == x.op for a in x.args))

    def chain(operands):
        ops = st.lists(COMPARISONS, min_size=len(operands) - 1, max_size=len(operands) - 1).map(tuple)
        return ops.map(lambda found: Compare(operands, found))

    def is_whole(x):
        return isinstance(x, Integer) or (isinstance(x, Unary) and isinstance(x.operand, Integer))

    whole = st.integers(-(2**31) + 1, 2**31 - 1)
    return st.one_of(
        st.builds(Unary, st.sampled_from("+-"), inner),
        st.builds(Binary, st.sampled_from(["+", "-", "*", "/", "//", "%", "**"]), inner, inner),
        some.flatmap(chain),
        st.builds(In, inner, ITEMS | NAMES.map(lambda n: (Name(n),)), st.booleans()),
        st.builds(Not, inner),
        joined(Logic, ["and", "or"]),
        joined(Bitwise, ["&", "|"]),
        st.builds(Call, st.sampled_from([*FUNCTIONS, "f", "a.b"]), st.lists(inner, max_size=3).map(tuple)),
        st.builds(Index, inner, whole | inner.filter(lambda x: not is_whole(x))),
    )


_TREES = st.recursive(LEAVES, larger, max_leaves=12)


@st.composite
def trees(draw):
    return draw(_TREES)


@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@settings(max_examples=600, **SLOW)
@given(trees())
def test_parsing_the_canonical_text_gives_the_tree(tree):
    if depth_of(tree) <= MAX_DEPTH:
        text = canonical(tree)
        found = parse(text)
        assert found == tree, text
        assert canonical(found) == text


@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@settings(max_examples=200, **SLOW)
@given(trees())
def test_places_are_those_of_the_text(tree):
    text = canonical(tree)
    todo = [parse(text)]
    while todo:
        node = todo.pop()
        written = text[node.start : node.end]
        assert written.strip() == written != ""
        if not isinstance(node, Name | Call):
            assert parse(written) == node
        if not isinstance(node, In):
            todo += children(node)


SCHEMA = Schema(
    [
        Field.dense("i", "i8"),
        Field.dense("f", "f4"),
        Field.dense("ok", "?"),
        Field.ragged("x", "f4"),
        Field.string("text"),
        Field.dense("`b`", "u1"),
    ]
)
WHOLE = st.integers(-(2**299), 2**299) | st.sampled_from([0, -1, 2**63 - 1, 2**63, 2**64, -(2**63), -(2**63) - 1])
VALUES = WHOLE | st.floats() | st.sampled_from([-0.0, math.nan, -math.nan, 5e-324, -math.inf]) | st.booleans()


def same_again(text, constants):
    try:
        e = check(text, SCHEMA, constants)
    except ExpressionError:
        return None
    again = check(e.canonical, SCHEMA)
    assert (again, again.tree) == (e, e.tree)
    assert again.typed == e.typed or "nan" in e.canonical  # which is equal to none, also not to itself
    assert again.canonical == e.canonical
    assert check(e.tree, SCHEMA) == e
    return e


@settings(max_examples=400, **SLOW)
@given(
    VALUES,
    st.sampled_from(
        """f > c;i == c;c < i <= 3;-c != f;i in (c, -c);`b` * c > 1;c;c or i;not c;i and c;x[c] > 1;get(x, c, 1);i ** c
where(ok, c, f);c ** 2 + i;c // 0 > i;abs(c) + f;x[x > c][0];minimum(c, i);c & i;xor(c, ok);c + c > f;x[c - 1] > 0
where(c, i, f);round(-c) > 1""".replace("\n", ";").split(";")
    ),
)
def test_with_constants_put_in(value, text):
    same_again(text, {"c": value})


@settings(max_examples=200, **SLOW)
@given(st.lists(VALUES, max_size=5) | st.lists(VALID, max_size=4) | st.sets(st.integers(), max_size=4))
def test_with_lists_put_in(values):
    for text in ("i in c", "f not in c", "text in c", "ok in c"):
        same_again(text, {"c": values})


@settings(max_examples=100, **SLOW)
@given(VALID)
def test_with_texts_put_in(value):
    e = same_again("text == c and text in (c, 'x')", {"c": value})
    assert e is not None
    assert e.tree.args[0].operands[1] == Text(value)


def test_numbers_that_are_truth_values_are_compared_with_0():
    for text in ("i and f", "not i", "any(x)", "all(x) or i", "i", "!(i + 1)"):
        e = same_again(text, None)
        assert ("!= 0" in e.canonical) == (text != "i")
