"""Derived fields put in for their names: trees that share nodes are walked once for each node, and do not explode."""

from __future__ import annotations

import time

import numpy as np
import pytest

from mmdask.errors import ExpressionError
from mmdask.expr import check, check_cut, combine, conjuncts, evaluate, evaluate_cut, negate, parser
from mmdask.expr.evaluator import _program
from mmdask.expr.typed import nodes_of
from mmdask.schema import Field, FieldData, Schema

SCHEMA = Schema([Field.dense("a", "f4"), Field.ragged("x", "f4"), Field.ragged("y", "f4")])
DATA = {
    "a": FieldData(np.float32([1, 2])),
    "x": FieldData(np.float32([1, 2, 3]), (np.array([0, 2, 3]),)),
    "y": FieldData(np.float32([4, 5, 6]), (np.array([0, 2, 3]),)),
}


def doubled(times, op="+"):
    """d0 is a; each of the next is made of two of that before."""
    derived = {"d0": check("a * 1", SCHEMA)}
    for i in range(times):
        derived[f"d{i + 1}"] = check(f"d{i} {op} d{i}", SCHEMA, derived=derived)
    return derived


def test_what_is_named_again_and_again_is_computed_once():
    derived = doubled(13)
    e = check("d13 + d13 > 2 ** 14", SCHEMA, derived=derived)
    assert e.canonical.count("a") == 2**14
    assert e.fields == ("a",)
    assert len(list(nodes_of(e.typed))) < 40
    assert len(_program((e,))[0]) < 40
    assert evaluate(e, DATA.__getitem__, 2).values.tolist() == [False, True]
    # written out, it is the same cut
    assert check(e.tree, SCHEMA) == e


def test_what_would_not_end_is_refused_at_once():
    began = time.thread_time()
    derived = doubled(14)
    for text in ("d14 + d14 > 1", "d13 + d13 > 1 and d14 > 1"):
        with pytest.raises(ExpressionError, match=r"repeats \d\d\d,\d\d\d .*at most 100,000 .*mm\.assign"):
            check_cut(text, SCHEMA, derived=derived)
    one, other = (check_cut(f"d14 - {i} > 1", SCHEMA, derived=derived) for i in (1, 2))
    with pytest.raises(ExpressionError, match=r"at most 100,000"):
        combine("or", one, other)
    with pytest.raises(ExpressionError, match=r"at most 100,000"):
        doubled(60)
    assert time.thread_time() - began < 20


def test_long_lists_are_no_repetition(monkeypatch):
    monkeypatch.setattr(parser, "MAX_REPEATED", 100)
    e = check_cut("a in many", SCHEMA, {"many": range(10_000)})
    assert len(e.tree.items) == 10_000
    assert check(e.tree, SCHEMA) == e


def test_trees_that_are_too_deep():
    derived = {"d0": check("a + 1", SCHEMA)}
    with pytest.raises(ExpressionError, match=r"at most 64 levels, .*; store a part of it .*mm\.assign"):
        for i in range(70):
            derived[f"d{i + 1}"] = check(f"d{i} + 1", SCHEMA, derived=derived)


def test_equal_expressions_may_differ_in_what_can_be_missing():
    optional = Schema([Field.dense("a", "f4", optional=(0,))])
    for _ in range(2):
        for schema, missing in ((SCHEMA, ()), (optional, (0,))):
            derived = {"d": check("a * 2", schema)}
            assert check("d > 3", schema, derived=derived).optional == missing


def test_items_that_derived_fields_chose():
    derived = {"hard": check("x[x > 1]", SCHEMA), "their_y": check("y[x > 1]", SCHEMA)}
    cut = check_cut("sum(hard * their_y) > 10 and len(hard) == 1", SCHEMA, derived=derived)
    assert cut.canonical == "((sum((x[(x > 1)] * y[(x > 1)])) > 10) and (len(x[(x > 1)]) == 1))"
    assert evaluate_cut(cut, DATA.__getitem__, 2).tolist() == [False, True]
    assert [c.canonical for c in conjuncts(cut)] == cut.canonical[1:-1].split(" and ")
    assert evaluate_cut(negate(cut), DATA.__getitem__, 2).tolist() == [True, False]
    with pytest.raises(ExpressionError, match="chosen by a condition, and those of y are not"):
        check_cut("sum(hard * y) > 10", SCHEMA, derived=derived)
