"""Comparisons that are exact: the result is that of the two numbers as they are, whatever their dtypes.

A comparison with a literal becomes one with the nearest number of the field's own dtype, in the direction that
makes no difference: for float32 x, ``x > 0.1`` holds exactly where ``x > t``, t the largest float32 up to 0.1. So no
field is converted.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.kernels import packed

__all__ = ["compare", "compare_literal", "compare_packed", "members"]

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]

UFUNC: dict[str, Any] = {
    "==": np.equal,
    "!=": np.not_equal,
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
}


def compare_literal(op: str, values: Array, literal: int | float, out: Bools | None = None) -> Bools:
    """Compare numbers with one literal, exactly: a bool array of the shape of `values`, new or `out`.

    Examples
    --------
    >>> compare_literal(">", np.float32([0.1, 0.2]), 0.1)  # float32(0.1) is 0.100000001490116
    array([ True,  True])
    >>> compare_literal("<", np.int8([-128, 127]), 1000)
    array([ True,  True])
    """
    if values.dtype == np.bool_:
        values = values.view(np.uint8)
    if out is None:
        out = np.empty(values.shape, np.bool_)
    test = _test(op, values.dtype, literal)
    if isinstance(test, bool):
        out[...] = test
        return out
    result: Bools = UFUNC[op](values, test, out)
    return result


def compare_packed(op: str, values: Array, literal: int | float) -> npt.NDArray[np.uint8]:
    """As `compare_literal`, as bits in little bit order: uint8 ``(ceil(n / 8),)`` for values ``(n,)``.

    Examples
    --------
    >>> compare_packed(">", np.float32([0.1, 0.2, 0.0]), 0.1)
    array([3], dtype=uint8)
    """
    if values.dtype == np.bool_:
        values = values.view(np.uint8)
    threshold = _threshold(op, values.dtype, literal)
    if threshold is None:
        return np.packbits(compare_literal(op, values, literal), bitorder="little")
    return packed.compare(op, values, threshold)


@lru_cache(maxsize=4096, typed=True)
def _threshold(op: str, dtype: np.dtype[Any], literal: int | float) -> Array | None:
    """The threshold of a comparison as an array, where there is one and its dtype is compiled."""
    test = _test(op, dtype, literal)
    if isinstance(test, bool) or dtype.itemsize not in (1, 2, 4, 8) or dtype == np.float16:
        return None
    return packed.readonly(np.array([test], dtype))


@lru_cache(maxsize=4096, typed=True)
def _test(op: str, dtype: np.dtype[Any], literal: int | float) -> Any:
    """The threshold of a comparison, of the dtype; or a bool, its result where that is always the same."""
    return _integer_test(op, dtype, literal) if dtype.kind in "iu" else _float_test(op, dtype, literal)


def _integer_test(op: str, dtype: np.dtype[Any], literal: int | float) -> Any:
    if isinstance(literal, float):
        if math.isnan(literal):
            return op == "!="
        if not math.isinf(literal) and not literal.is_integer() and op in ("==", "!="):
            return op == "!="
        if math.isinf(literal):
            literal = 2**65 if literal > 0 else -(2**65)
        else:
            literal = math.ceil(literal) if op in ("<", ">=") else math.floor(literal)
    info = np.iinfo(dtype)
    if literal < info.min:
        return op in (">", ">=", "!=")
    if literal > info.max:
        return op in ("<", "<=", "!=")
    return dtype.type(literal)


def _float_test(op: str, dtype: np.dtype[Any], literal: int | float) -> Any:
    down, up = around(dtype, literal)
    if op in ("==", "!=") and down != up:
        return op == "!="  # also for nan, which is unequal to everything
    return up if op in ("<", ">=") else down


def around(dtype: np.dtype[Any], number: int | float) -> tuple[Any, Any]:
    """The largest value of a float dtype up to a number and the smallest from it on; equal if it is one itself."""
    with np.errstate(over="ignore"):
        try:
            nearest = dtype.type(float(number))
        except OverflowError:  # an integer beyond the largest double
            nearest = dtype.type(math.inf if number > 0 else -math.inf)
        if float(nearest) > number:  # Python compares an int with a float exactly
            return np.nextafter(nearest, dtype.type(-math.inf)), nearest
        if float(nearest) < number:
            return nearest, np.nextafter(nearest, dtype.type(math.inf))
    return nearest, nearest


def compare(op: str, a: Array, b: Array) -> Bools:
    """Compare numbers with numbers, exactly, with numpy's broadcasting."""
    if a.dtype == np.bool_:
        a = a.view(np.uint8)
    if b.dtype == np.bool_:
        b = b.view(np.uint8)
    if a.dtype.kind == "f" and _is_wide(b):
        return _compare_wide({"<": ">", "<=": ">=", ">": "<", ">=": "<="}.get(op, op), b, a)
    if b.dtype.kind == "f" and _is_wide(a):
        return _compare_wide(op, a, b)
    # numpy promotes what is left without loss, and compares int64 with uint64 exactly
    result: Bools = UFUNC[op](a, b)
    return result


def _is_wide(a: Array) -> bool:
    return a.dtype.kind in "iu" and a.dtype.itemsize == 8


def _compare_wide(op: str, integers: Array, floats: Array) -> Bools:
    """Compare 64-bit integers with floats: bring the float, not the integer, to the other's type."""
    with np.errstate(invalid="ignore"):
        whole = (np.ceil if op in ("<", ">=") else np.floor)(floats.astype(np.float64))
        low, high = (-(2.0**63), 2.0**63) if integers.dtype.kind == "i" else (0.0, 2.0**64)
        inside = (whole >= low) & (whole < high)  # false for nan
        result: Bools = UFUNC[op](integers, np.where(inside, whole, 0.0).astype(integers.dtype))
    if op in ("==", "!="):
        inside &= whole == floats
        return np.where(inside, result, op == "!=")
    outside = (floats > 0) if op in ("<", "<=") else (floats < 0)  # false for nan
    return np.where(inside, result, outside)


def members(dtype: np.dtype[Any], literals: tuple[int | float, ...]) -> Array:
    """The literals that a dtype can equal, as an ascending array of it (uint8 for bool)."""
    dtype = np.dtype(np.uint8) if dtype == np.bool_ else dtype
    tests = [_test("==", dtype, x) for x in literals]
    return np.unique(np.array([t for t in tests if not isinstance(t, bool) and t == t], dtype))


def is_member(values: Array, sorted_members: Array) -> Bools:
    """Whether each value is one of an ascending array of the same dtype."""
    if values.dtype == np.bool_:
        values = values.view(np.uint8)
    if len(sorted_members) <= 8:
        found = np.zeros(values.shape, np.bool_)
        for member in sorted_members:
            found |= values == member
        return found
    place = np.searchsorted(sorted_members, values)
    result: Bools = sorted_members.take(place, mode="clip") == values
    return result
