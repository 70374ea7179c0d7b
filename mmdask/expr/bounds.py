"""What a cut gives for whole runs of rows of which only the smallest and largest values are known.

A typed tree is run over bounds in place of values: each node has, for each run ("grain"), bounds of the numbers that
it can have, or which of true, false and missing it can be. The bounds are never too narrow, so an answer is right for
every row of the grain; where they are too wide, the answer is `UNKNOWN`. So it is where evaluating could raise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mmdask.expr.compare import compare, compare_literal
from mmdask.expr.typed import FLOAT64, INT64, UINT64, Typed, fits

__all__ = ["FALSE", "MOST_ITEMS", "NONE", "TRUE", "UNKNOWN", "Bounds", "settle"]

#: what a cut is for all rows of a grain: false, true, not known without data, or false or missing in each row
FALSE, TRUE, UNKNOWN, NONE = 0, 1, 2, 3
#: no row has more items
MOST_ITEMS = 2**48

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Bounds:
    """What is known of the values of one field in each of n grains. Arrays ``(n,)``, or ``(1,)`` for all of them.

    Parameters
    ----------
    low, high : numpy.ndarray
        Smallest and largest number: float64 of reals, uint64 of those integers, int64 of all others and of booleans.
        Of values that are there and not nan; anything where `number` is False.
    number : numpy.ndarray
        Whether there may be such values; of categories and text, whether any is there.
    nan, missing, lost : numpy.ndarray
        Whether there may be nan, missing values, and, of lists, lists that are missing.
    fewest, most : numpy.ndarray
        How many items the rows have that have a list: int64.
    lists : numpy.ndarray
        Of fields with lists a number: fields of one number have lists of equal lengths. -1 is equal to none. int64.
    labels : (numpy.ndarray, tuple of frozenset), optional
        Of a category, its labels that there may be: for each grain which of the sets.
    """

    low: Array
    high: Array
    number: Bools
    nan: Bools
    missing: Bools
    lost: Bools
    fewest: Int64s
    most: Int64s
    lists: Int64s
    labels: tuple[Int64s, tuple[frozenset[str], ...]] | None = None


class _Lists(NamedTuple):
    """How values of items lie in rows: see `Bounds`."""

    fewest: Int64s
    most: Int64s
    lost: Bools
    number: Int64s


class _Numbers(NamedTuple):
    """Numbers that a node may have in each grain, and whether it may be a number, nan, or missing."""

    low: Array
    high: Array
    number: Bools
    nan: Bools
    missing: Bools
    lists: _Lists | None = None


class _Truth(NamedTuple):
    """Whether a node may be true, false and missing in each grain."""

    true: Bools
    false: Bools
    missing: Bools
    lists: _Lists | None = None


_Value = _Numbers | _Truth

_YES, _NO = np.array([True]), np.array([False])
_NO_LISTS = _Lists(np.array([0]), np.array([MOST_ITEMS]), _YES, np.array([-1]))


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
    settler = _Settler(bounds)
    with np.errstate(all="ignore"):
        value = settler.run(typed)
    assert isinstance(value, _Truth)
    true, false, missing, raises = (np.broadcast_to(x, n) for x in (*value[:3], settler.raises))
    answer = np.full(n, UNKNOWN, np.uint8)
    answer[~true] = FALSE
    answer[~true & missing] = NONE
    answer[true & ~false & ~missing] = TRUE
    answer[raises] = UNKNOWN
    return answer


class _Settler:
    """Runs one tree. `raises` says in which grains evaluating it may raise, in any of its nodes: all of them run."""

    def __init__(self, bounds: Mapping[str, Bounds]) -> None:
        self.bounds = bounds
        self.raises: Bools = _NO
        self._known: dict[int, _Value] = {}

    def run(self, typed: Typed) -> _Value:
        """The value of a node; shared nodes, of which there may be many, are looked at once."""
        known, todo = self._known, [typed]
        while todo:
            node = todo[-1]
            left = [a for a in node.args if id(a) not in known]
            if id(node) in known or not left:
                todo.pop()
                if id(node) not in known:
                    known[id(node)] = self._value(node)
            else:
                todo.extend(left)
        return known[id(typed)]

    def _value(self, node: Typed) -> _Value:
        args = [self._known[id(a)] for a in node.args]
        operation = _OPERATIONS.get(node.op)
        if operation is None:
            self.may_raise(_YES)
            return self.anything(node, args)
        value = operation(self, node, args)
        if node.depth > 1 or (node.depth and any(a.depth > node.depth for a in node.args)):
            return value._replace(lists=_NO_LISTS)  # bounds know of the outermost lists only
        return value

    def may_raise(self, where: Bools) -> None:
        self.raises = self.raises | where

    def anything(self, node: Typed, args: list[_Value]) -> _Value:
        """Any value that the type of a node allows."""
        lists = (self.join(args) or _NO_LISTS) if node.depth else None
        missing = np.array([node.missing])
        if node.kind == "float":
            return _Numbers(np.array([-np.inf]), np.array([np.inf]), _YES, _YES, missing, lists)
        if node.kind == "int":
            low, high = (np.array([x], _dtype(node)) for x in node.range)
            return _Numbers(low, high, _YES, _NO, missing, lists)
        return _Truth(_YES, _YES, missing, lists)

    def join(self, args: list[_Value]) -> _Lists | None:
        """The lists of what is made of values item by item; combining lists of other lengths raises."""
        joined: _Lists | None = None
        for other in (a.lists for a in args if a.lists is not None):
            if joined is None:
                joined = other
                continue
            a, b = joined, other
            one = (a.number == b.number) & (a.number >= 0)
            fixed = (a.fewest == a.most) & (b.fewest == b.most) & (a.fewest == b.fewest)
            self.may_raise(~(one | fixed))
            joined = _Lists(np.maximum(a.fewest, b.fewest), np.minimum(a.most, b.most), a.lost | b.lost, a.number)
        return joined


_Operation = Callable[[_Settler, Typed, list[_Value]], _Value]


def _dtype(node: Typed) -> np.dtype[Any]:
    """The dtype of the bounds of a node: the widest of its kind."""
    if node.kind == "float":
        return FLOAT64
    return INT64 if fits(node.range, INT64) else UINT64


def _numbers(value: _Value) -> _Numbers:
    """The same as numbers: a boolean is 0 or 1."""
    if isinstance(value, _Numbers):
        return value
    low, high = np.where(value.false, 0, 1), np.where(value.true, 1, 0)
    return _Numbers(low, high, value.true | value.false, _NO, value.missing, value.lists)


def _truth(value: _Value) -> _Truth:
    assert isinstance(value, _Truth)
    return value


def _any_missing(args: list[_Value]) -> Bools:
    missing = _NO
    for a in args:
        missing = missing | a.missing
    return missing


# ------------------------------------------------------------------------------------------- fields and literals


def _field(s: _Settler, node: Typed, args: list[_Value]) -> _Value:
    b = s.bounds.get(str(node.value))
    if b is None:
        return s.anything(node, args)
    lists = _Lists(b.fewest, b.most, b.lost, b.lists) if node.depth else None
    if node.kind == "bool":
        return _Truth(b.number & (b.high != 0), b.number & (b.low == 0), b.missing, lists)
    if node.kind in ("label", "text"):
        return _Truth(b.number, b.number, b.missing, lists)
    return _Numbers(b.low, b.high, b.number, b.nan, b.missing, lists)


def _literal(s: _Settler, node: Typed, args: list[_Value]) -> _Value:
    if node.kind == "bool":
        return _Truth(np.array([node.value]), np.array([not node.value]), _NO)
    if node.kind not in ("int", "float"):
        return s.anything(node, args)
    value = np.array([node.value], node.dtype)
    is_nan = value != value
    return _Numbers(np.where(is_nan, 0, value), np.where(is_nan, 0, value), ~is_nan, is_nan, _NO)


# -------------------------------------------------------------------------------------------------- comparisons


def _compare(s: _Settler, node: Typed, args: list[_Value]) -> _Value:
    a, b = map(_numbers, args)
    true, false = _compared(node.value, a.low, a.high, b.low, b.high, compare)
    both, nan = a.number & b.number, a.nan | b.nan
    return _with_nan(node.value, both & true, both & false, nan, _any_missing(args), s.join(args))


def _compare_literal(s: _Settler, node: Typed, args: list[_Value]) -> _Value:
    op, x = node.value
    a = _numbers(args[0])
    if x != x:
        found = a.number | a.nan
        return _with_nan(op, _NO & found, _NO & found, found, a.missing, a.lists)
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


def _with_nan(op: str, true: Bools, false: Bools, nan: Bools, missing: Bools, lists: _Lists | None) -> _Truth:
    """A comparison with nan is false, and true for ``!=``."""
    if op == "!=":
        return _Truth(true | nan, false, missing, lists)
    return _Truth(true, false | nan, missing, lists)


def _in(s: _Settler, node: Typed, args: list[_Value]) -> _Value:
    dtype, raw = node.value
    a = _numbers(args[0])
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
    return _Truth(a.number & (found > 0), (a.number & ~every) | a.nan, a.missing, a.lists)


def _in_text(s: _Settler, node: Typed, args: list[_Value]) -> _Value:
    b = s.bounds.get(str(node.args[0].value))
    x = _truth(args[0])
    if b is None or b.labels is None:
        return x
    which, sets = b.labels
    wanted = frozenset(node.value)
    true = np.array([bool(labels & wanted) for labels in sets], np.bool_).take(which)
    false = np.array([bool(labels - wanted) for labels in sets], np.bool_).take(which)
    return _Truth(x.true & true, x.true & false, x.missing)


# -------------------------------------------------------------------------------------------------------- logic


def _not(s: _Settler, node: Typed, args: list[_Value]) -> _Value:
    x = _truth(args[0])
    return x._replace(true=x.false, false=x.true)


def _and(s: _Settler, node: Typed, args: list[_Value]) -> _Value:
    true, false, missing = _YES, _NO, _NO
    for a in map(_truth, args):
        missing = (missing & (a.missing | a.true)) | (a.missing & true)
        true, false = true & a.true, false | a.false
    return _Truth(true, false, missing, s.join(args))


def _or(s: _Settler, node: Typed, args: list[_Value]) -> _Value:
    true, false, missing = _NO, _YES, _NO
    for a in map(_truth, args):
        missing = (missing & (a.missing | a.false)) | (a.missing & false)
        true, false = true | a.true, false & a.false
    return _Truth(true, false, missing, s.join(args))


def _xor(s: _Settler, node: Typed, args: list[_Value]) -> _Value:
    a, b = map(_truth, args)
    true, false = (a.true & b.false) | (a.false & b.true), (a.true & b.true) | (a.false & b.false)
    return _Truth(true, false, _any_missing(args), s.join(args))


def _is_missing(s: _Settler, node: Typed, args: list[_Value]) -> _Value:
    x = args[0]
    there = x.true | x.false if isinstance(x, _Truth) else x.number | x.nan
    return _Truth(x.missing, there, _NO, x.lists)


def _is_nan(s: _Settler, node: Typed, args: list[_Value]) -> _Value:
    x = _numbers(args[0])
    return _Truth(x.nan, x.number, x.missing, x.lists)


def _is_finite(s: _Settler, node: Typed, args: list[_Value]) -> _Value:
    x = _numbers(args[0])
    if x.low.dtype.kind != "f":
        return _Truth(x.number, _NO, x.missing, x.lists)
    infinite = np.isinf(x.low) | np.isinf(x.high)
    only = np.isinf(x.low) & (x.low == x.high)
    return _Truth(x.number & ~only, (x.number & infinite) | x.nan, x.missing, x.lists)


def _where(s: _Settler, node: Typed, args: list[_Value]) -> _Value:
    c = _truth(args[0])
    return _one_of(node, args[1], c.true, args[2], c.false, c.missing, s.join(args))


def _one_of(
    node: Typed, a: _Value, if_a: Bools, b: _Value, if_b: Bools, missing: Bools, lists: _Lists | None
) -> _Value:
    """One of two values, each where it may be chosen."""
    missing = missing | (if_a & a.missing) | (if_b & b.missing)
    if node.kind == "bool":
        x, y = _truth(a), _truth(b)
        return _Truth((if_a & x.true) | (if_b & y.true), (if_a & x.false) | (if_b & y.false), missing, lists)
    u, v = _numbers(a), _numbers(b)
    use_a, use_b = if_a & u.number, if_b & v.number
    a_low, a_high, b_low, b_high = (x.astype(_dtype(node)) for x in (u.low, u.high, v.low, v.high))
    low = np.where(use_a & use_b, np.minimum(a_low, b_low), np.where(use_a, a_low, b_low))
    high = np.where(use_a & use_b, np.maximum(a_high, b_high), np.where(use_a, a_high, b_high))
    return _Numbers(low, high, use_a | use_b, (if_a & u.nan) | (if_b & v.nan), missing, lists)


# --------------------------------------------------------------------------------------------------- arithmetic


def _arithmetic(s: _Settler, node: Typed, args: list[_Value]) -> _Value:
    a, b = map(_numbers, args)
    if node.kind == "float":
        return _real(s, node, args, *_as_reals(a), *_as_reals(b))
    if node.op in ("//", "%", "**"):
        return _divided(s, node, args, a, b)
    dtype: Any = _dtype(node) if node.value == "plain" else object
    a_low, a_high, b_low, b_high = (x.astype(dtype) for x in (a.low, a.high, b.low, b.high))
    corners = _corners(node.op, a_low, a_high, b_low, b_high)
    low, high = corners.min(0), corners.max(0)
    return _whole(s, node, args, low, high, a.number & b.number)


def _whole(s: _Settler, node: Typed, args: list[_Value], low: Array, high: Array, number: Bools) -> _Value:
    """An integer within exact bounds; evaluating raises where they are beyond the dtype."""
    if node.value != "plain":
        least, most = np.iinfo(node.dtype).min, np.iinfo(node.dtype).max
        self_raises = ((low < least) | (high > most)).astype(np.bool_)
        s.may_raise(number & self_raises)
        low, high = (np.clip(x, *node.range) for x in (low, high))
    dtype = _dtype(node)
    return _Numbers(low.astype(dtype), high.astype(dtype), number, _NO, _any_missing(args), s.join(args))


def _corners(op: str, a_low: Array, a_high: Array, b_low: Array, b_high: Array) -> Array:
    """``a op b`` for all ends of two ranges, along the first axis."""
    ufunc = _UFUNC[op]
    return np.stack(np.broadcast_arrays(*(ufunc(x, y) for x in (a_low, a_high) for y in (b_low, b_high))))


_UFUNC: dict[str, Any] = {"+": np.add, "-": np.subtract, "*": np.multiply, "/": np.true_divide}


def _divided(s: _Settler, node: Typed, args: list[_Value], a: _Numbers, b: _Numbers) -> _Value:
    """``//`` by a positive literal is monotonous; of the others only the type is known."""
    by = node.args[1]
    if node.op == "//" and by.op == "literal" and int(by.value) > 0 and node.value == "plain":
        dtype = _dtype(node)
        low, high = ((x.astype(object) // int(by.value)).astype(dtype) for x in (a.low, a.high))
        return _Numbers(low, high, a.number, _NO, _any_missing(args), s.join(args))
    if node.value != "plain":
        s.may_raise(_YES)
    return s.anything(node, args)


def _as_reals(x: _Numbers) -> tuple[Array, Array, Bools, Bools]:
    # To the nearest double: as evaluating does, and without changing an order.
    return x.low.astype(FLOAT64), x.high.astype(FLOAT64), x.number, x.nan


def _real(
    s: _Settler,
    node: Typed,
    args: list[_Value],
    a_low: Array,
    a_high: Array,
    a_number: Bools,
    a_nan: Bools,
    b_low: Array,
    b_high: Array,
    b_number: Bools,
    b_nan: Bools,
) -> _Value:
    """``+ - * /`` of doubles, whose rounding keeps the order: the ends give the ends."""
    if node.op not in _UFUNC:
        return s.anything(node, args)
    corners = _corners(node.op, a_low, a_high, b_low, b_high)
    # inf - inf, 0 * inf and division by zero: nan, or no end of the range
    wild = np.isinf(a_low) | np.isinf(a_high) | np.isinf(b_low) | np.isinf(b_high)
    if node.op == "/":
        wild |= (b_low <= 0) & (b_high >= 0)
    low, high = np.where(wild, -np.inf, corners.min(0)), np.where(wild, np.inf, corners.max(0))
    number = a_number & b_number
    nan = a_nan | b_nan | (number & wild)
    return _Numbers(low, high, number, nan, _any_missing(args), s.join(args))


def _negative(s: _Settler, node: Typed, args: list[_Value]) -> _Value:
    x = _numbers(args[0])
    if node.kind == "float":
        return x._replace(low=-x.high, high=-x.low)
    return _whole(s, node, args, -x.high.astype(object), -x.low.astype(object), x.number)


def _absolute(s: _Settler, node: Typed, args: list[_Value]) -> _Value:
    x = _numbers(args[0])
    low, high = (x.low, x.high) if node.kind == "float" else (x.low.astype(object), x.high.astype(object))
    most = np.maximum(-low, high)
    least = np.where((low <= 0) & (high >= 0), 0, np.minimum(np.abs(low), np.abs(high)))
    if node.kind == "float":
        return x._replace(low=least, high=most)
    return _whole(s, node, args, least, most, x.number)


def _as_whole(s: _Settler, node: Typed, args: list[_Value]) -> _Value:
    return _numbers(args[0])


def _rounded(s: _Settler, node: Typed, args: list[_Value]) -> _Value:
    x = _numbers(args[0])
    ufunc = {"floor": np.floor, "ceil": np.ceil, "round": np.rint}[node.op]
    return x._replace(low=ufunc(x.low), high=ufunc(x.high))


def _pair(s: _Settler, node: Typed, args: list[_Value]) -> _Value:
    a, b = map(_numbers, args)
    ufunc = np.minimum if node.op == "minimum" else np.maximum
    if node.kind == "float":
        low, high = (ufunc(x.astype(FLOAT64), y.astype(FLOAT64)) for x, y in ((a.low, b.low), (a.high, b.high)))
    else:
        low, high = (ufunc(x.astype(object), y.astype(object)) for x, y in ((a.low, b.low), (a.high, b.high)))
        low, high = (np.clip(x, *node.range).astype(_dtype(node)) for x in (low, high))
    return _Numbers(low, high, a.number & b.number, a.nan | b.nan, _any_missing(args), s.join(args))


def _plain(s: _Settler, node: Typed, args: list[_Value]) -> _Value:
    """A function of numbers that never raises, and of whose values only the type is known."""
    return s.anything(node, args)._replace(missing=_any_missing(args))


# --------------------------------------------------------------------------------------------------- reductions


def _lists(x: _Value) -> _Lists:
    return x.lists or _NO_LISTS


def _any(s: _Settler, node: Typed, args: list[_Value]) -> _Value:
    x, lists = _truth(args[0]), _lists(args[0])
    some, empty = lists.most > 0, lists.fewest == 0
    return _Truth(x.true & some, (x.false & some) | empty, (x.missing & some) | lists.lost)


def _all(s: _Settler, node: Typed, args: list[_Value]) -> _Value:
    x, lists = _truth(args[0]), _lists(args[0])
    some, empty = lists.most > 0, lists.fewest == 0
    return _Truth((x.true & some) | empty, x.false & some, (x.missing & some) | lists.lost)


def _count(s: _Settler, node: Typed, args: list[_Value]) -> _Value:
    x, lists = _truth(args[0]), _lists(args[0])
    low, high = np.where(x.false, 0, lists.fewest), np.where(x.true, lists.most, 0)
    low, high = np.broadcast_arrays(np.minimum(low, high), high)
    return _Numbers(low, high, _YES, _NO, x.missing | lists.lost)


def _len(s: _Settler, node: Typed, args: list[_Value]) -> _Value:
    lists = _lists(args[0])
    return _Numbers(lists.fewest, lists.most, _YES, _NO, lists.lost)


def _sum(s: _Settler, node: Typed, args: list[_Value]) -> _Value:
    x, lists = _numbers(args[0]), _lists(args[0])
    missing = x.missing | lists.lost
    if node.kind == "float":
        return s.anything(node, [])._replace(missing=missing)
    x_low, x_high, fewest, most = (v.astype(object) for v in (x.low, x.high, lists.fewest, lists.most))
    low = np.where(x.number, np.minimum(x_low * fewest, x_low * most), 0)
    high = np.where(x.number, np.maximum(x_high * fewest, x_high * most), 0)
    if node.value == "plain":
        low, high = (np.clip(v, *node.range) for v in (low, high))
    found = _whole(s, node, [], low, high, _YES)
    return found._replace(missing=missing)


def _mean(s: _Settler, node: Typed, args: list[_Value]) -> _Value:
    return s.anything(node, [])


def _extreme(s: _Settler, node: Typed, args: list[_Value]) -> _Value:
    lists = _lists(args[0])
    return _taken(args[0], lists.most > 0, lists.fewest == 0)


def _item(s: _Settler, node: Typed, args: list[_Value]) -> _Value:
    return _taken(args[0], *_reached(args[0], int(node.value)))


def _taken(x: _Value, some: Bools, short: Bools) -> _Value:
    """One of the items of a row, which `some` rows may have, and others, that are `short`, have not."""
    missing = (x.missing & some) | short | _lists(x).lost
    if isinstance(x, _Truth):
        return _Truth(x.true & some, x.false & some, missing)
    return _Numbers(x.low, x.high, x.number & some, x.nan & some, missing)


def _reached(x: _Value, index: int) -> tuple[Bools, Bools]:
    """Whether rows may have an item of a number, and whether they may have none."""
    lists, needed = _lists(x), index + 1 if index >= 0 else -index
    return lists.most >= needed, lists.fewest < needed


def _place(s: _Settler, node: Typed, args: list[_Value]) -> _Value:
    x, lists = args[0], _lists(args[0])
    last = np.maximum(lists.most - 1, 0)
    missing = x.missing | (lists.fewest == 0) | lists.lost
    return _Numbers(np.zeros_like(last), last, lists.most > 0, _NO, missing)


def _get(s: _Settler, node: Typed, args: list[_Value]) -> _Value:
    if len(args) != 2:
        s.may_raise(_YES)
        return s.anything(node, args)
    x, default = args
    some, short = _reached(x, int(node.value))
    return _one_of(node, x._replace(lists=None), some, default, short, _lists(x).lost, None)


_OPERATIONS: dict[str, _Operation] = {
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
    "where": _where,
    **dict.fromkeys(("+", "-", "*", "/", "//", "%", "**"), _arithmetic),
    "neg": _negative,
    "abs": _absolute,
    "whole": _as_whole,
    **dict.fromkeys(("floor", "ceil", "round"), _rounded),
    **dict.fromkeys(("minimum", "maximum"), _pair),
    **dict.fromkeys(("bits &", "bits |", "bits ^"), _plain),
    **dict.fromkeys(("sqrt", "exp", "log", "log10", "sin", "cos", "tan", "atan2", "hypot"), _plain),
    **dict.fromkeys(("delta_phi", "delta_r"), _plain),
    "any": _any,
    "all": _all,
    "count": _count,
    "len": _len,
    "sum": _sum,
    "mean": _mean,
    **dict.fromkeys(("min", "max"), _extreme),
    **dict.fromkeys(("argmin", "argmax"), _place),
    "item": _item,
    "get": _get,
}
