"""Typed trees: what `check` makes of a syntax tree and `evaluate` runs. Also the ranges of integers.

A range is two Python ints, so that it never overflows; it says where arithmetic has to be checked at run time.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from mmdask.expr.tree import Node
from mmdask.kernels.once import once

__all__ = ["MOST_ITEMS", "Range", "Typed", "fits", "literal", "nodes_of", "range_of", "whole_dtype"]

Kind = Literal["bool", "int", "float", "label", "text", "list"]
Range = tuple[int, int]

BOOL, INT64, UINT64 = np.dtype(np.bool_), np.dtype(np.int64), np.dtype(np.uint64)
FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
#: no row has more items: their numbers are bounded by memory
MOST_ITEMS = 2**48
#: of an integer literal beyond 64 bits, which can only be compared
TOO_LARGE = np.dtype(object)


@dataclass(frozen=True)
class Typed:
    """A node with its type.

    Parameters
    ----------
    op : str
        "field", "literal", an operator or a function.
    args : tuple of Typed
        The operands.
    kind : {"bool", "int", "float", "label", "text", "list"}
        What the values are.
    dtype : numpy.dtype
        Of the values.
    depth : int
        0: one value per row; 1: one per item; 2: one per item of the lists that the items are; and so on.
    missing : bool
        Whether there may be no value; of items, whether one may be missing in a list that is there.
    range : (int, int)
        Smallest and largest value that a bool or int can have.
    value : object
        Of a literal; the name of a field; what else the operation needs.
    tree : Node
        The syntax tree, with constants put in.
    lost : tuple of int, optional
        Depths at which whole lists may be missing, where they are not those of the operands.
    """

    op: str
    args: tuple[Typed, ...]
    kind: Kind
    dtype: np.dtype[Any]
    depth: int
    missing: bool
    tree: Node = field(compare=False)
    range: Range = (0, 0)
    value: Any = None
    lost: tuple[int, ...] | None = None

    @once
    def lists_missing(self) -> frozenset[int]:
        """Depths at which whole lists may be missing: those of one of the values that it is made of."""
        if self.lost is not None:
            return frozenset(self.lost)
        found = frozenset[int]().union(*[a.lists_missing for a in self.args])
        return frozenset(k for k in found if k < self.depth)


def nodes_of(typed: Typed) -> Iterator[Typed]:
    """The nodes of a typed tree, each once: trees with derived fields in them share many."""
    seen: set[int] = set()
    todo = [typed]
    while todo:
        node = todo.pop()
        if id(node) not in seen:
            seen.add(id(node))
            yield node
            todo.extend(node.args)


def range_of(dtype: np.dtype[Any]) -> Range:
    """Smallest and largest value of a bool or integer dtype."""
    if dtype == BOOL:
        return 0, 1
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)


def fits(values: Range, dtype: np.dtype[Any]) -> bool:
    """Whether a dtype holds every value of a range."""
    low, high = range_of(dtype)
    return low <= values[0] and values[1] <= high


def whole_dtype(values: Range) -> np.dtype[Any]:
    """The 64-bit dtype for a range: int64 if it fits, else uint64, else `TOO_LARGE`."""
    return next((d for d in (INT64, UINT64) if fits(values, d)), TOO_LARGE)


def arithmetic_range(op: str, a: Range, b: Range) -> Range:
    """The range of ``a op b`` for + - * // %, without regard to the size of a dtype."""
    if op == "//":
        if b[0] >= 1:
            ends = [a[0] // b[0], a[0] // b[1], a[1] // b[0], a[1] // b[1]]
            return min(ends), max(ends)
        size = max(abs(a[0]), abs(a[1]))
        return -size, size
    if op == "%":
        return min(b[0] + 1, 0), max(b[1] - 1, 0)
    of: Callable[[int, int], int] = {"+": operator.add, "-": operator.sub, "*": operator.mul}[op]
    corners = [of(x, y) for x in a for y in b]
    return min(corners), max(corners)


def power_range(base: Range, exponent: int) -> Range:
    """The range of ``base ** exponent`` for an exponent of 0 or more, cut off where no dtype reaches."""
    exponent = exponent if exponent <= 66 else 66 + exponent % 2  # beyond 64 bits for any base but -1, 0, 1
    ends = [base[0] ** exponent, base[1] ** exponent]
    if base[0] < 0 < base[1]:
        ends += [0, (-1) ** exponent]
    return min(ends), max(ends)


def literal(value: bool | int | float | str, tree: Node) -> Typed:
    """A constant as a typed node."""
    if isinstance(value, bool):
        return Typed("literal", (), "bool", BOOL, 0, False, tree, (int(value), int(value)), value)
    if isinstance(value, int):
        return Typed("literal", (), "int", whole_dtype((value, value)), 0, False, tree, (value, value), value)
    if isinstance(value, str):
        return Typed("literal", (), "text", TOO_LARGE, 0, False, tree, value=value)
    value = math.nan if math.isnan(value) else value  # one object, so that typed trees with a nan are equal
    return Typed("literal", (), "float", FLOAT64, 0, False, tree, value=value)
