"""Bounds in place of values: what a node of a cut may be in whole runs of rows ("grains"). For `bounds`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mmdask.expr.typed import FLOAT64, INT64, MOST_ITEMS, UINT64, Typed, fits

__all__ = [
    "NO",
    "NO_LISTS",
    "YES",
    "Bounds",
    "Lists",
    "Numbers",
    "Operation",
    "Settler",
    "Truth",
    "Value",
    "any_missing",
    "as_numbers",
    "as_truth",
    "one_of",
    "wide_dtype",
]

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


class Lists(NamedTuple):
    """How values of items lie in rows: see `Bounds`."""

    fewest: Int64s
    most: Int64s
    lost: Bools
    number: Int64s


class Numbers(NamedTuple):
    """Numbers that a node may have in each grain, and whether it may be a number, nan, or missing."""

    low: Array
    high: Array
    number: Bools
    nan: Bools
    missing: Bools
    lists: Lists | None = None


class Truth(NamedTuple):
    """Whether a node may be true, false and missing in each grain."""

    true: Bools
    false: Bools
    missing: Bools
    lists: Lists | None = None


Value = Numbers | Truth

YES, NO = np.array([True]), np.array([False])
NO_LISTS = Lists(np.array([0]), np.array([MOST_ITEMS]), YES, np.array([-1]))


class Settler:
    """Runs one tree. `raises` says in which grains evaluating it may raise, in any of its nodes: all of them run."""

    def __init__(self, bounds: Mapping[str, Bounds], operations: Mapping[str, Operation]) -> None:
        self.bounds, self.operations = bounds, operations
        self.raises: Bools = NO
        self._known: dict[int, Value] = {}

    def run(self, typed: Typed) -> Value:
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

    def _value(self, node: Typed) -> Value:
        args = [self._known[id(a)] for a in node.args]
        operation = self.operations.get(node.op)
        if operation is None:
            self.may_raise(YES)
            return self.anything(node, args)
        value = operation(self, node, args)
        if node.depth > 1 or (node.depth and any(a.depth > node.depth for a in node.args)):
            return value._replace(lists=NO_LISTS)  # bounds know of the outermost lists only
        return value

    def may_raise(self, where: Bools) -> None:
        self.raises = self.raises | where

    def anything(self, node: Typed, args: list[Value]) -> Value:
        """Any value that the type of a node allows."""
        lists = (self.join(args) or NO_LISTS) if node.depth else None
        missing = np.array([node.missing])
        if node.kind == "float":
            return Numbers(np.array([-np.inf]), np.array([np.inf]), YES, YES, missing, lists)
        if node.kind == "int":
            low, high = (np.array([x], wide_dtype(node)) for x in node.range)
            return Numbers(low, high, YES, NO, missing, lists)
        return Truth(YES, YES, missing, lists)

    def join(self, args: list[Value]) -> Lists | None:
        """The lists of what is made of values item by item; combining lists of other lengths raises."""
        joined: Lists | None = None
        for other in (a.lists for a in args if a.lists is not None):
            if joined is None:
                joined = other
                continue
            a, b = joined, other
            one = (a.number == b.number) & (a.number >= 0)
            fixed = (a.fewest == a.most) & (b.fewest == b.most) & (a.fewest == b.fewest)
            self.may_raise(~(one | fixed))
            joined = Lists(np.maximum(a.fewest, b.fewest), np.minimum(a.most, b.most), a.lost | b.lost, a.number)
        return joined


Operation = Callable[[Settler, Typed, list[Value]], Value]


def wide_dtype(node: Typed) -> np.dtype[Any]:
    """The dtype of the bounds of a node: the widest of its kind."""
    if node.kind == "float":
        return FLOAT64
    return INT64 if fits(node.range, INT64) else UINT64


def as_numbers(value: Value) -> Numbers:
    """The same as numbers: a boolean is 0 or 1."""
    if isinstance(value, Numbers):
        return value
    low, high = np.where(value.false, 0, 1), np.where(value.true, 1, 0)
    return Numbers(low, high, value.true | value.false, NO, value.missing, value.lists)


def as_truth(value: Value) -> Truth:
    assert isinstance(value, Truth)
    return value


def any_missing(args: list[Value]) -> Bools:
    missing = NO
    for a in args:
        missing = missing | a.missing
    return missing


def one_of(node: Typed, a: Value, if_a: Bools, b: Value, if_b: Bools, missing: Bools, lists: Lists | None) -> Value:
    """One of two values, each where it may be chosen."""
    missing = missing | (if_a & a.missing) | (if_b & b.missing)
    if node.kind == "bool":
        x, y = as_truth(a), as_truth(b)
        return Truth((if_a & x.true) | (if_b & y.true), (if_a & x.false) | (if_b & y.false), missing, lists)
    u, v = as_numbers(a), as_numbers(b)
    use_a, use_b = if_a & u.number, if_b & v.number
    a_low, a_high, b_low, b_high = (x.astype(wide_dtype(node)) for x in (u.low, u.high, v.low, v.high))
    low = np.where(use_a & use_b, np.minimum(a_low, b_low), np.where(use_a, a_low, b_low))
    high = np.where(use_a & use_b, np.maximum(a_high, b_high), np.where(use_a, a_high, b_high))
    return Numbers(low, high, use_a | use_b, (if_a & u.nan) | (if_b & v.nan), missing, lists)
