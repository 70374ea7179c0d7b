"""What a cut gives for whole runs of rows of which only the smallest and largest values are known.

A typed tree is run over bounds in place of values: each node has, for each run ("grain"), bounds of the numbers that
it can have, or which of true, false and missing it can be. The bounds are never too narrow, so an answer is right for
every row of the grain; where they are too wide, the answer is `UNKNOWN`. So it is where evaluating could raise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.expr.compare import compare, compare_literal
from mmdask.expr.interval_lists import LISTS
from mmdask.expr.interval_numbers import NUMBERS
from mmdask.expr.intervals import (
    NO,
    YES,
    Array,
    Bools,
    Bounds,
    Lists,
    Numbers,
    Operation,
    Settler,
    Truth,
    Value,
    any_missing,
    as_numbers,
    as_truth,
    one_of,
)
from mmdask.expr.typed import INT64, UINT64, Typed

__all__ = ["FALSE", "NONE", "TRUE", "UNKNOWN", "Bounds", "settle"]

#: what a cut is for all rows of a grain: false, true, not known without data, or false or missing in each row
FALSE, TRUE, UNKNOWN, NONE = 0, 1, 2, 3


def settle(typed: Typed, bounds: Mapping[str, Bounds], n: int) -> npt.NDArray[np.uint8]:
    """What a cut is for all rows of each grain, as far as bounds show. Pure; reads no data.

    Parameters
    ----------
    typed : Typed
        The cut: one boolean per row.
    bounds : mapping of str to Bounds
        Of the fields of which something is known.
    n : int
        Grains.

    Returns
    -------
    numpy.ndarray
        uint8 ``(n,)``: `FALSE`, `TRUE`, `NONE` (no row passes: each is false or missing) or `UNKNOWN`. Where evaluating
        the cut could raise it is `UNKNOWN`, so that errors do not depend on what is skipped.

    Examples
    --------
    >>> from mmdask.expr import check
    >>> from mmdask.schema import Field, Schema
    >>> yes, no, zero = np.array([True]), np.array([False]), np.array([0])
    >>> run = Bounds(np.array([1, 5]), np.array([4, 9]), yes, no, no, no, zero, zero, zero)
    >>> settle(check("run > 4", Schema([Field.dense("run", "i4")])).typed, {"run": run}, 2).tolist() == [FALSE, TRUE]
    True
    """
    if typed.kind != "bool" or typed.depth:
        raise AssertionError("only cuts are settled")
    settler = Settler(bounds, _OPERATIONS)
    with np.errstate(all="ignore"):
        value = settler.run(typed)
    assert isinstance(value, Truth)
    true, false, missing, raises = (np.broadcast_to(x, n) for x in (*value[:3], settler.raises))
    answer = np.full(n, UNKNOWN, np.uint8)
    answer[~true] = FALSE
    answer[~true & missing] = NONE
    answer[true & ~false & ~missing] = TRUE
    answer[raises] = UNKNOWN
    return answer


# ----------------------------------------------------------------------------------------------- fields and literals


def _field(s: Settler, node: Typed, args: list[Value]) -> Value:
    b = s.bounds.get(str(node.value))
    if b is None:
        return s.anything(node, args)
    lists = Lists(b.fewest, b.most, b.lost, b.lists) if node.depth else None
    if node.kind == "bool":
        return Truth(b.number & (b.high != 0), b.number & (b.low == 0), b.missing, lists)
    if node.kind in ("label", "text"):
        # one value per row also of a field with lists, of which it is only asked whether it is missing
        return Truth(b.number, b.number, b.missing if node.depth else b.missing | b.lost, lists)
    return Numbers(b.low, b.high, b.number, b.nan, b.missing, lists)


def _literal(s: Settler, node: Typed, args: list[Value]) -> Value:
    if node.kind == "bool":
        return Truth(np.array([node.value]), np.array([not node.value]), NO)
    if node.kind not in ("int", "float"):
        return s.anything(node, args)
    value = np.array([node.value], node.dtype)
    is_nan = value != value
    return Numbers(np.where(is_nan, 0, value), np.where(is_nan, 0, value), ~is_nan, is_nan, NO)


# ------------------------------------------------------------------------------------------------------- comparisons


def _compare(s: Settler, node: Typed, args: list[Value]) -> Value:
    a, b = map(as_numbers, args)
    true, false = _compared(node.value, a.low, a.high, b.low, b.high, compare)
    both, nan = a.number & b.number, a.nan | b.nan
    return _with_nan(node.value, both & true, both & false, nan, any_missing(args), s.join(args))


def _compare_literal(s: Settler, node: Typed, args: list[Value]) -> Value:
    op, x = node.value
    a = as_numbers(args[0])
    if x != x:
        found = a.number | a.nan
        return _with_nan(op, NO & found, NO & found, found, a.missing, a.lists)
    true, false = _compared(op, a.low, a.high, x, x, compare_literal)
    return _with_nan(op, a.number & true, a.number & false, a.nan, a.missing, a.lists)


def _compared(op: str, a_low: Array, a_high: Array, b_low: Any, b_high: Any, test: Any) -> tuple[Bools, Bools]:
    """Whether numbers within bounds may compare as true, and as false."""
    if op in ("<", "<="):
        return test(op, a_low, b_high), ~test(op, a_high, b_low)
    if op in (">", ">="):
        return test(op, a_high, b_low), ~test(op, a_low, b_high)
    may_equal = test("<=", a_low, b_high) & test(">=", a_high, b_low)
    may_differ = test("!=", a_low, b_high) | test("!=", a_high, b_low)
    return (may_equal, may_differ) if op == "==" else (may_differ, may_equal)


def _with_nan(op: str, true: Bools, false: Bools, nan: Bools, missing: Bools, lists: Lists | None) -> Truth:
    """A comparison with nan is false, and true for ``!=``."""
    if op == "!=":
        return Truth(true | nan, false, missing, lists)
    return Truth(true, false | nan, missing, lists)


def _in(s: Settler, node: Typed, args: list[Value]) -> Value:
    dtype, raw = node.value
    a = as_numbers(args[0])
    members = np.frombuffer(raw, dtype)
    if members.dtype == UINT64 and a.low.dtype == INT64:
        members = members[members < 2**63]
    members = members.astype(a.low.dtype)
    first, last = np.searchsorted(members, a.low, "left"), np.searchsorted(members, a.high, "right")
    found = last - first
    # all numbers between are members: there is one, or they are integers without a gap
    every = (found > 0) & (a.low == a.high)
    if members.dtype.kind != "f":
        every |= (found > 0) & (a.high - a.low == (found - 1).astype(a.low.dtype))
    return Truth(a.number & (found > 0), (a.number & ~every) | a.nan, a.missing, a.lists)


def _in_text(s: Settler, node: Typed, args: list[Value]) -> Value:
    x, field = as_truth(args[0]), node.args[0]
    b = s.bounds.get(str(field.value)) if field.op == "field" else None
    if b is None or b.labels is None:
        return x
    which, sets = b.labels
    wanted = frozenset(node.value)
    true = np.array([bool(labels & wanted) for labels in sets], np.bool_).take(which)
    false = np.array([bool(labels - wanted) for labels in sets], np.bool_).take(which)
    return x._replace(true=x.true & true, false=x.true & false)


# ------------------------------------------------------------------------------------------------------------- logic


def _not(s: Settler, node: Typed, args: list[Value]) -> Value:
    x = as_truth(args[0])
    return x._replace(true=x.false, false=x.true)


def _and(s: Settler, node: Typed, args: list[Value]) -> Value:
    true, false, missing = YES, NO, NO
    for a in map(as_truth, args):
        missing = (missing & (a.missing | a.true)) | (a.missing & true)
        true, false = true & a.true, false | a.false
    return Truth(true, false, missing, s.join(args))


def _or(s: Settler, node: Typed, args: list[Value]) -> Value:
    true, false, missing = NO, YES, NO
    for a in map(as_truth, args):
        missing = (missing & (a.missing | a.false)) | (a.missing & false)
        true, false = true | a.true, false & a.false
    return Truth(true, false, missing, s.join(args))


def _xor(s: Settler, node: Typed, args: list[Value]) -> Value:
    a, b = map(as_truth, args)
    true, false = (a.true & b.false) | (a.false & b.true), (a.true & b.true) | (a.false & b.false)
    return Truth(true, false, any_missing(args), s.join(args))


def _is_missing(s: Settler, node: Typed, args: list[Value]) -> Value:
    x = args[0]
    there = x.true | x.false if isinstance(x, Truth) else x.number | x.nan
    return Truth(x.missing, there, NO, x.lists)


def _is_nan(s: Settler, node: Typed, args: list[Value]) -> Value:
    x = as_numbers(args[0])
    return Truth(x.nan, x.number, x.missing, x.lists)


def _is_finite(s: Settler, node: Typed, args: list[Value]) -> Value:
    x = as_numbers(args[0])
    if x.low.dtype.kind != "f":
        return Truth(x.number, NO, x.missing, x.lists)
    infinite = _reaches_infinity(x)
    only = np.isinf(x.low) & (x.low == x.high)
    return Truth(x.number & ~only, (x.number & infinite) | x.nan, x.missing, x.lists)


def _reaches_infinity(x: Numbers) -> Bools:
    return np.isinf(x.low) | np.isinf(x.high)


def _is_infinite(s: Settler, node: Typed, args: list[Value]) -> Value:
    x = as_numbers(args[0])
    if x.low.dtype.kind != "f":
        return Truth(NO, x.number, x.missing, x.lists)
    only = np.isinf(x.low) & (x.low == x.high)
    return Truth(x.number & _reaches_infinity(x), (x.number & ~only) | x.nan, x.missing, x.lists)


def _where(s: Settler, node: Typed, args: list[Value]) -> Value:
    c = as_truth(args[0])
    return one_of(node, args[1], c.true, args[2], c.false, c.missing, s.join(args))


_OPERATIONS: dict[str, Operation] = {
    "field": _field,
    "literal": _literal,
    "compare": _compare,
    "compare literal": _compare_literal,
    "in": _in,
    "in text": _in_text,
    "not": _not,
    "and": _and,
    "or": _or,
    "xor": _xor,
    "ismissing": _is_missing,
    "isnan": _is_nan,
    "isfinite": _is_finite,
    "isinf": _is_infinite,
    "where": _where,
    **NUMBERS,
    **LISTS,
}
