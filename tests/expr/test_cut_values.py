"""Random trees over random data, against the reference on Python lists."""

from __future__ import annotations

import pickle
import random

import numpy as np
import pytest
from cut_reference import NotTogether, Overflow, Uneven, nested, render
from cut_trees import SCHEMA, SEEDS, make_data, trees
from hypothesis import HealthCheck, given, settings

from mmdask.errors import ExpressionError
from mmdask.expr import check, check_cut, combine, conjuncts, evaluate, evaluate_cut, evaluate_many, negate
from mmdask.schema import FieldData


def same(got, expected):
    if expected is None or got is None:
        return got is expected
    if isinstance(expected, bool) != isinstance(got, bool):
        return False
    return got == expected or (got != got and expected != expected)


def as_lists(result, depth):
    known = np.ones(len(result.values), bool) if result.known is None else result.known
    flat = [v if k else None for v, k in zip(result.values.tolist(), known, strict=True)]
    assert len(result.offsets) == len(result.there) == depth
    return nested(flat, result.offsets, result.there)


def flatten(rows, depth):
    """All values, and where lists begin or are missing."""
    if not depth:
        return rows
    return [v for row in rows for v in ["list", *(["missing"] if row is None else flatten(row, depth - 1))]]


@settings(max_examples=800, deadline=None, suppress_health_check=list(HealthCheck))
@given(SEEDS, trees())
def test_values_are_those_of_the_reference(seed, tree):
    n, fields, reference = make_data(seed)
    text = render(tree, random.Random(seed).choice)
    try:
        reference.together(tree)
    except NotTogether:
        with pytest.raises(ExpressionError, match="do not belong together|not chosen alike"):
            check(text, SCHEMA)
        return
    try:
        expected = reference.rows(tree, n)
        kind = reference.type(tree)
    except (Overflow, Uneven):
        with pytest.raises(ExpressionError, match="does not fit|different numbers of items"):
            evaluate(check(text, SCHEMA), fields.__getitem__, n)
        return
    expression = check(text, SCHEMA)
    assert expression.depth == reference.depth(tree)
    result = evaluate(expression, fields.__getitem__, n)
    assert result.values.dtype == expression.dtype
    for depth, valid in enumerate((*result.there, result.known)):
        assert depth in expression.optional or valid is None
    assert expression.dtype.kind == {"b": "b", "f": "f"}.get(kind, expression.dtype.kind)
    got = as_lists(result, expression.depth)
    for g, e in zip(flatten(got, expression.depth), flatten(expected, expression.depth), strict=True):
        assert same(g, e), (text, got, expected)
    if expression.dtype == np.bool_ and not expression.depth:
        assert evaluate_cut(expression, fields.__getitem__, n).tolist() == [v is True for v in expected]
    again = check(expression.canonical, SCHEMA)
    assert again == expression
    assert again.typed == expression.typed
    assert again.tree == expression.tree
    assert pickle.loads(pickle.dumps(expression)) == expression


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(SEEDS, trees(kinds=("b",), depths=(0,)), trees(kinds=("b",), depths=(0,)))
def test_combined_cuts_are_those_of_the_reference(seed, a, b):
    n, fields, reference = make_data(seed)
    texts = [render(t, random.Random(seed).choice) for t in (a, b)]
    try:
        cuts = [check_cut(t, SCHEMA) for t in texts]
        expected = {op: reference.rows((op, (a, b)), n) for op in ("and", "or")}
    except (Overflow, Uneven, ExpressionError):
        return
    for op in ("and", "or"):
        cut = combine(op, *cuts)
        assert evaluate_cut(cut, fields.__getitem__, n).tolist() == [v is True for v in expected[op]]
        negative = evaluate_cut(negate(cut), fields.__getitem__, n)
        assert negative.tolist() == [v is False for v in expected[op]]
        assert check_cut(cut.canonical, SCHEMA) == cut
    both = combine("and", *cuts)
    parts = conjuncts(both)
    together = np.ones(n, bool)
    for part, result in zip(parts, evaluate_many(parts, fields.__getitem__, n), strict=True):
        assert (result.values == evaluate_cut(part, fields.__getitem__, n)).all()
        assert check_cut(part.text, SCHEMA) == part
        together &= result.values
    assert together.tolist() == evaluate_cut(both, fields.__getitem__, n).tolist()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(SEEDS, trees())
def test_no_rows(seed, tree):
    text = render(tree, random.Random(seed).choice)
    try:
        expression = check(text, SCHEMA)
    except ExpressionError:
        return
    offsets = np.zeros(1, np.int64)
    empty = {
        f.name: FieldData(np.zeros((0, *f.shape), f.dtype), (offsets,) * f.n_offsets, f.labels) for f in SCHEMA.values()
    }
    try:
        result = evaluate(expression, empty.__getitem__, 0)
    except ExpressionError:  # literals alone that do not fit
        return
    assert len(result.values) == 0
    assert result.values.dtype == expression.dtype
