"""Arithmetic and functions of numbers, on bounds in place of values. For `bounds`."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmdask.expr.intervals import (
    NO,
    YES,
    Array,
    Bools,
    Numbers,
    Operation,
    Settler,
    Value,
    any_missing,
    as_numbers,
    wide_dtype,
)
from mmdask.expr.typed import FLOAT64, Typed

__all__ = ["NUMBERS", "exactly"]


def _arithmetic(s: Settler, node: Typed, args: list[Value]) -> Value:
    a, b = map(as_numbers, args)
    if node.kind == "float":
        return _real(s, node, args, *_as_reals(a), *_as_reals(b))
    if node.op in ("//", "%", "**"):
        return _divided(s, node, args, a, b)
    dtype: Any = wide_dtype(node) if node.value == "plain" else object
    a_low, a_high, b_low, b_high = (x.astype(dtype) for x in (a.low, a.high, b.low, b.high))
    corners = _corners(node.op, a_low, a_high, b_low, b_high)
    low, high = corners.min(0), corners.max(0)
    return exactly(s, node, args, low, high, a.number & b.number)


def exactly(s: Settler, node: Typed, args: list[Value], low: Array, high: Array, number: Bools) -> Value:
    """An integer within exact bounds; evaluating raises where they are beyond the dtype."""
    if node.value != "plain":
        least, most = np.iinfo(node.dtype).min, np.iinfo(node.dtype).max
        self_raises = ((low < least) | (high > most)).astype(np.bool_)
        s.may_raise(number & self_raises)
        low, high = (np.clip(x, *node.range) for x in (low, high))
    dtype = wide_dtype(node)
    return Numbers(low.astype(dtype), high.astype(dtype), number, NO, any_missing(args), s.join(args))


def _corners(op: str, a_low: Array, a_high: Array, b_low: Array, b_high: Array) -> Array:
    """``a op b`` for all ends of two ranges, along the first axis."""
    ufunc = _UFUNC[op]
    return np.stack(np.broadcast_arrays(*(ufunc(x, y) for x in (a_low, a_high) for y in (b_low, b_high))))


_UFUNC: dict[str, Any] = {"+": np.add, "-": np.subtract, "*": np.multiply, "/": np.true_divide}


def _divided(s: Settler, node: Typed, args: list[Value], a: Numbers, b: Numbers) -> Value:
    """``//`` by a positive literal is monotonous; of the others only the type is known."""
    by = node.args[1]
    if node.op == "//" and by.op == "literal" and int(by.value) > 0 and node.value == "plain":
        dtype = wide_dtype(node)
        low, high = ((x.astype(object) // int(by.value)).astype(dtype) for x in (a.low, a.high))
        return Numbers(low, high, a.number, NO, any_missing(args), s.join(args))
    if node.value != "plain":
        s.may_raise(YES)
    return s.anything(node, args)


def _as_reals(x: Numbers) -> tuple[Array, Array, Bools, Bools]:
    # To the nearest double: as evaluating does, and without changing an order.
    return x.low.astype(FLOAT64), x.high.astype(FLOAT64), x.number, x.nan


def _real(
    s: Settler,
    node: Typed,
    args: list[Value],
    a_low: Array,
    a_high: Array,
    a_number: Bools,
    a_nan: Bools,
    b_low: Array,
    b_high: Array,
    b_number: Bools,
    b_nan: Bools,
) -> Value:
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
    return Numbers(low, high, number, nan, any_missing(args), s.join(args))


def _negative(s: Settler, node: Typed, args: list[Value]) -> Value:
    x = as_numbers(args[0])
    if node.kind == "float":
        return x._replace(low=-x.high, high=-x.low)
    return exactly(s, node, args, -x.high.astype(object), -x.low.astype(object), x.number)


def _absolute(s: Settler, node: Typed, args: list[Value]) -> Value:
    x = as_numbers(args[0])
    low, high = (x.low, x.high) if node.kind == "float" else (x.low.astype(object), x.high.astype(object))
    most = np.maximum(-low, high)
    least = np.where((low <= 0) & (high >= 0), 0, np.minimum(np.abs(low), np.abs(high)))
    if node.kind == "float":
        return x._replace(low=least, high=most)
    return exactly(s, node, args, least, most, x.number)


def _as_whole(s: Settler, node: Typed, args: list[Value]) -> Value:
    return as_numbers(args[0])


def _rounded(s: Settler, node: Typed, args: list[Value]) -> Value:
    x = as_numbers(args[0])
    ufunc = {"floor": np.floor, "ceil": np.ceil, "round": np.rint}[node.op]
    return x._replace(low=ufunc(x.low), high=ufunc(x.high))


def _pair(s: Settler, node: Typed, args: list[Value]) -> Value:
    a, b = map(as_numbers, args)
    ufunc = np.minimum if node.op == "minimum" else np.maximum
    if node.kind == "float":
        low, high = (ufunc(x.astype(FLOAT64), y.astype(FLOAT64)) for x, y in ((a.low, b.low), (a.high, b.high)))
    else:
        low, high = (ufunc(x.astype(object), y.astype(object)) for x, y in ((a.low, b.low), (a.high, b.high)))
        low, high = (np.clip(x, *node.range).astype(wide_dtype(node)) for x in (low, high))
    return Numbers(low, high, a.number & b.number, a.nan | b.nan, any_missing(args), s.join(args))


def _plain(s: Settler, node: Typed, args: list[Value]) -> Value:
    """A function of numbers that never raises, and of whose values only the type is known."""
    return s.anything(node, args)._replace(missing=any_missing(args))


NUMBERS: dict[str, Operation] = {
    **dict.fromkeys(("+", "-", "*", "/", "//", "%", "**"), _arithmetic),
    "neg": _negative,
    "abs": _absolute,
    "whole": _as_whole,
    **dict.fromkeys(("floor", "ceil", "round"), _rounded),
    **dict.fromkeys(("minimum", "maximum"), _pair),
    **dict.fromkeys(("bits &", "bits |", "bits ^"), _plain),
    **dict.fromkeys(("sqrt", "exp", "log", "log10", "sin", "cos", "tan", "atan2", "hypot"), _plain),
    **dict.fromkeys(("delta_phi", "delta_r"), _plain),
}
