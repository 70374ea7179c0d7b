"""Operations on each value by itself: arithmetic, comparisons, functions."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from mmdask.errors import ExpressionError
from mmdask.expr.arithmetic import EXACT, UFUNCS
from mmdask.expr.compare import compare, is_member
from mmdask.expr.tree import canonical
from mmdask.expr.typed import FLOAT64, INT64, UINT64, Typed, range_of
from mmdask.expr.values import SCRATCH, Aligned, Array, Block, Bools, Value, all_known, length

__all__ = ["OPERATIONS"]


def _bool(aligned: Aligned, values: Bools) -> Value:
    """A boolean value, False where it is missing. `values` is ours to change."""
    known = all_known(aligned.known)
    if known is not None:
        values = values & known
    return aligned.value(values, known)


def _number(aligned: Aligned, values: Array) -> Value:
    return aligned.value(values, all_known(aligned.known))


# ------------------------------------------------------------------------------------------------- comparisons


def _compare(block: Block, node: Typed, args: list[Value]) -> Value:
    aligned = block.align(args)
    return _bool(aligned, compare(node.value, *aligned.arrays))


def _in(block: Block, node: Typed, args: list[Value]) -> Value:
    dtype, numbers = node.value
    aligned = block.align(args)
    return _bool(aligned, is_member(aligned.arrays[0], np.frombuffer(numbers, dtype)))


# -------------------------------------------------------------------------------------------------- arithmetic


def _arithmetic(block: Block, node: Typed, args: list[Value]) -> Value:
    aligned = block.align(args)
    a, b = aligned.arrays
    if node.dtype == FLOAT64:
        # each operand as a double: also for integers, where numpy would have other rules
        out = SCRATCH.take(length(a, b), FLOAT64)
        values = UFUNCS[node.op](a, b, out, dtype=np.float64, casting="unsafe")
        return aligned.value(values, all_known(aligned.known), scratch=True)
    if node.op in ("//", "%") and node.missing:
        divides = b != 0
        aligned.known.append(np.broadcast_to(divides, np.broadcast_shapes(a.shape, b.shape)))
        b = np.where(divides, b, b.dtype.type(1))
    known = all_known(aligned.known)
    if node.value == "exact":
        values = _exact(block, node, a, b, known, aligned)
    elif node.op == "**":
        values = _power(block, node, a, known, aligned)
    else:
        out = SCRATCH.take(length(a, b), node.dtype)
        values = UFUNCS[node.op](a, b, out, dtype=node.dtype, casting="unsafe")
        if node.value == "checked":
            wrong = _overflows(node.op, _as(a, node), _as(b, node), values)
            _check(block, node, a, b, wrong, known, aligned)
    scratch = node.value != "exact" and node.op != "**"
    return aligned.value(values, known, scratch=scratch)


def _as(a: Array, node: Typed) -> Array:
    return a.astype(node.dtype, copy=False)


def _overflows(op: str, a: Array, b: Array, wrapped: Array) -> Bools:
    """Where ``a op b`` does not fit the dtype, given its value modulo 2**64."""
    signed = wrapped.dtype == INT64
    result: Bools
    if op == "+":
        result = ((a ^ wrapped) & (b ^ wrapped)) < 0 if signed else wrapped < a
    elif op == "-":
        result = ((a ^ b) & (a ^ wrapped)) < 0 if signed else a < b
    elif op == "*":
        result = _product_overflows(a, b, range_of(wrapped.dtype))
    else:  # only -2**63 // -1 leaves the range
        result = (a == range_of(INT64)[0]) & (b == -1) if signed and op == "//" else np.zeros(wrapped.shape, np.bool_)
    return result


def _product_overflows(a: Array, b: Array, limits: tuple[int, int]) -> Bools:
    # Doubles decide all but the products within rounding of the limit.
    size = np.abs(a.astype(np.float64) * b.astype(np.float64))
    limit = float(max(-limits[0], limits[1]))
    wrong: Bools = size > limit * (1 + 1e-12)
    near = np.flatnonzero((size >= limit * (1 - 1e-12)) & ~wrong)
    if len(near):
        a, b = np.broadcast_to(a, size.shape), np.broadcast_to(b, size.shape)
        for i in near:
            wrong[i] = not limits[0] <= int(a[i]) * int(b[i]) <= limits[1]
    return wrong


def _power(block: Block, node: Typed, a: Array, known: Bools | None, aligned: Aligned) -> Array:
    exponent = int(node.args[1].value)
    exponent = exponent if exponent <= 66 else 66 + exponent % 2  # the same for -1, 0, 1, too large for others
    base, power = _as(a, node), node.dtype.type(exponent)
    result: Array = np.power(base, power)
    if node.value == "plain":
        return result
    # The largest base that fits; below it numpy's powers do not wrap.
    low, high = range_of(node.dtype)
    most = _root(high, exponent)
    least = -_root(-low, exponent) if exponent % 2 else -most
    wrong = (base > most) if low == 0 else (base > most) | (base < least)
    _check(block, node, a, aligned.arrays[1], wrong, known, aligned)
    return result


@lru_cache
def _root(number: int, exponent: int) -> int:
    """The largest whole n with ``n ** exponent <= number``."""
    low, high = 1, 2**64
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if exponent < 65 and middle**exponent <= number else (low, middle)
    return low


def _exact(block: Block, node: Typed, a: Array, b: Array, known: Bools | None, aligned: Aligned) -> Array:
    """Arithmetic of signed with unsigned 64-bit integers, in Python's integers: rare and slow."""
    low, high = range_of(node.dtype)
    exact = EXACT[node.op](a.astype(object), b.astype(object))
    wrong = ((exact < low) | (exact > high)).astype(np.bool_)
    _check(block, node, a, b, wrong, known, aligned)
    return np.where(wrong, 0, exact).astype(node.dtype)


def _negative(block: Block, node: Typed, args: list[Value]) -> Value:
    x = args[0]
    if node.kind == "float":
        return x._replace(array=-x.array, scratch=False)
    _check_sign_change(block, node, x)
    return x._replace(array=np.negative(x.array.astype(INT64)), scratch=False)


def _absolute(block: Block, node: Typed, args: list[Value]) -> Value:
    x = args[0]
    if node.kind == "float":
        return x._replace(array=np.abs(x.array), scratch=False)
    _check_sign_change(block, node, x)
    return x._replace(array=np.abs(x.array.astype(INT64)), scratch=False)


def _check_sign_change(block: Block, node: Typed, x: Value) -> None:
    if node.value != "checked":
        return
    if x.array.dtype == UINT64:
        wrong = x.array > np.uint64(2**63)
    else:
        wrong = x.array == range_of(INT64)[0]
    _check(block, node, x.array, None, wrong, x.known, Aligned([x.array], [x.known], x.offsets, x.origin))


def _check(
    block: Block, node: Typed, a: Array, b: Array | None, wrong: Bools, known: Bools | None, aligned: Aligned
) -> None:
    """Raise where an integer result is known and does not fit."""
    if not wrong.any():
        return
    if known is not None:
        wrong = wrong & known
    places = np.flatnonzero(wrong)
    if not len(places):
        return
    place = int(places[0])
    operands = [str(np.broadcast_to(x, wrong.shape)[place]) for x in (a, b) if x is not None]
    shown = canonical(node.tree)
    raise ExpressionError(
        f"{shown if len(shown) <= 80 else node.op} does not fit {node.dtype.name} in row "
        f"{block.row_of(place, aligned.offsets)}, where the operand{'s are' * (len(operands) > 1) or ' is'} "
        f"{' and '.join(operands)}; compute with reals, as in 1.0 * x, or compare without computing"
    )


def _whole(block: Block, node: Typed, args: list[Value]) -> Value:
    return args[0]._replace(array=args[0].array.astype(np.int64), scratch=False)


def _bits(block: Block, node: Typed, args: list[Value]) -> Value:
    aligned = block.align(args)
    ufunc = {"bits &": np.bitwise_and, "bits |": np.bitwise_or, "bits ^": np.bitwise_xor}[node.op]
    values = aligned.arrays[0].astype(node.dtype, copy=False)
    for other in aligned.arrays[1:]:
        values = ufunc(values, other.astype(node.dtype, copy=False))
    return _number(aligned, values)


# --------------------------------------------------------------------------------------------------- functions


def _xor(block: Block, node: Typed, args: list[Value]) -> Value:
    aligned = block.align(args)
    return _bool(aligned, np.logical_xor(*aligned.arrays))


def _where(block: Block, node: Typed, args: list[Value]) -> Value:
    aligned = block.align(args)
    condition, a, b = aligned.arrays
    values = np.where(condition, a.astype(node.dtype, copy=False), b.astype(node.dtype, copy=False))
    condition_known, a_known, b_known = aligned.known
    known = condition_known
    if a_known is not None or b_known is not None:
        chosen = np.where(condition, True if a_known is None else a_known, True if b_known is None else b_known)
        known = all_known([known, chosen])
    if known is not None and node.kind == "bool":
        values = values & known
    return aligned.value(values, known)


def _missing(block: Block, node: Typed, args: list[Value]) -> Value:
    x = args[0]
    n = len(x.array) if x.offsets else 1  # one value stands for all rows
    missing = np.zeros(n, np.bool_) if x.known is None else ~x.known
    return Value(missing, x.offsets, None, x.origin, there=x.there)


_TEST: dict[str, Any] = {"isnan": np.isnan, "isfinite": np.isfinite, "isinf": np.isinf}


def _test(block: Block, node: Typed, args: list[Value]) -> Value:
    aligned = block.align(args)
    x = aligned.arrays[0]
    if x.dtype.kind == "f":
        return _bool(aligned, _TEST[node.op](x))
    return _bool(aligned, np.full(x.shape, node.op == "isfinite"))


_TAU = 2 * np.pi


def delta_phi(a: Array, b: Array) -> Array:
    """The difference of two angles, in [-pi, pi]."""
    difference = a - b
    result: Array = difference - _TAU * np.rint(difference / _TAU)
    return result


def _delta_r(eta1: Array, phi1: Array, eta2: Array, phi2: Array) -> Array:
    result: Array = np.hypot(eta1 - eta2, delta_phi(phi1, phi2))
    return result


_DOUBLE: dict[str, Callable[..., Array]] = {
    **{name: getattr(np, name) for name in ("sqrt", "exp", "log", "log10", "log2", "hypot")},
    **{name: getattr(np, name) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "atan2": np.arctan2,
    "delta_phi": delta_phi,
    "delta_r": _delta_r,
}


def _double(block: Block, node: Typed, args: list[Value]) -> Value:
    aligned = block.align(args)
    return _number(aligned, _DOUBLE[node.op](*(a.astype(np.float64, copy=False) for a in aligned.arrays)))


_ROUNDING: dict[str, Any] = {"floor": np.floor, "ceil": np.ceil, "round": np.rint}


def _rounded(block: Block, node: Typed, args: list[Value]) -> Value:
    return args[0]._replace(array=_ROUNDING[node.op](args[0].array), scratch=False)


def _pair(block: Block, node: Typed, args: list[Value]) -> Value:
    aligned = block.align(args)
    a, b = aligned.arrays
    ufunc = np.minimum if node.op == "minimum" else np.maximum
    if node.kind == "int" and a.dtype != b.dtype and UINT64 in (a.dtype, b.dtype):  # one that is not taken may wrap
        first = compare("<" if node.op == "minimum" else ">", a, b)
        return _number(aligned, np.where(first, a.astype(node.dtype), b.astype(node.dtype)))
    values = ufunc(a.astype(node.dtype, copy=False), b.astype(node.dtype, copy=False))
    if node.kind == "float":
        values += values.dtype.type(0.0)  # +0.0 for a zero of either sign: which one numpy takes is not defined
    return _number(aligned, values)


OPERATIONS: dict[str, Callable[[Block, Typed, list[Value]], Value]] = {
    "compare": _compare,
    "in": _in,
    **dict.fromkeys(UFUNCS, _arithmetic),
    "neg": _negative,
    "abs": _absolute,
    "whole": _whole,
    **dict.fromkeys(("bits &", "bits |", "bits ^"), _bits),
    "xor": _xor,
    "where": _where,
    "ismissing": _missing,
    **dict.fromkeys(_TEST, _test),
    **dict.fromkeys(_DOUBLE, _double),
    **dict.fromkeys(_ROUNDING, _rounded),
    **dict.fromkeys(("minimum", "maximum"), _pair),
}
