"""From the items of a row to one value, on bounds in place of values. For `bounds`."""

from __future__ import annotations

import numpy as np

from mmdask.expr.interval_numbers import exactly
from mmdask.expr.intervals import (
    NO,
    NO_LISTS,
    YES,
    Bools,
    Lists,
    Numbers,
    Operation,
    Settler,
    Truth,
    Value,
    as_numbers,
    as_truth,
    one_of,
)
from mmdask.expr.typed import Typed

__all__ = ["LISTS"]


def lists_of(x: Value) -> Lists:
    return x.lists or NO_LISTS


def _any(s: Settler, node: Typed, args: list[Value]) -> Value:
    x, lists = as_truth(args[0]), lists_of(args[0])
    some, empty = lists.most > 0, lists.fewest == 0
    return Truth(x.true & some, (x.false & some) | empty, (x.missing & some) | lists.lost)


def _all(s: Settler, node: Typed, args: list[Value]) -> Value:
    x, lists = as_truth(args[0]), lists_of(args[0])
    some, empty = lists.most > 0, lists.fewest == 0
    return Truth((x.true & some) | empty, x.false & some, (x.missing & some) | lists.lost)


def _count(s: Settler, node: Typed, args: list[Value]) -> Value:
    x, lists = as_truth(args[0]), lists_of(args[0])
    low, high = np.where(x.false, 0, lists.fewest), np.where(x.true, lists.most, 0)
    low, high = np.broadcast_arrays(np.minimum(low, high), high)
    return Numbers(low, high, YES, NO, x.missing | lists.lost)


def _len(s: Settler, node: Typed, args: list[Value]) -> Value:
    lists = lists_of(args[0])
    return Numbers(lists.fewest, lists.most, YES, NO, lists.lost)


def _sum(s: Settler, node: Typed, args: list[Value]) -> Value:
    x, lists = as_numbers(args[0]), lists_of(args[0])
    missing = x.missing | lists.lost
    if node.kind == "float":
        return s.anything(node, [])._replace(missing=missing)
    x_low, x_high, fewest, most = (v.astype(object) for v in (x.low, x.high, lists.fewest, lists.most))
    low = np.where(x.number, np.minimum(x_low * fewest, x_low * most), 0)
    high = np.where(x.number, np.maximum(x_high * fewest, x_high * most), 0)
    if node.value == "plain":
        low, high = (np.clip(v, *node.range) for v in (low, high))
    found = exactly(s, node, [], low, high, YES)
    return found._replace(missing=missing)


def _mean(s: Settler, node: Typed, args: list[Value]) -> Value:
    return s.anything(node, [])


def _extreme(s: Settler, node: Typed, args: list[Value]) -> Value:
    lists = lists_of(args[0])
    return _taken(args[0], lists.most > 0, lists.fewest == 0)


def _item(s: Settler, node: Typed, args: list[Value]) -> Value:
    return _taken(args[0], *_reached(args[0], int(node.value)))


def _item_at(s: Settler, node: Typed, args: list[Value]) -> Value:
    s.join(args)
    return _taken(args[0], lists_of(args[0]).most > 0, YES)


def _choose(s: Settler, node: Typed, args: list[Value]) -> Value:
    """The items for which a condition holds: of a list for one of whose items it is missing there is none."""
    x, condition = args[0], as_truth(args[1])
    lists = s.join(args) or NO_LISTS
    some = condition.true & (lists.most > 0)
    fewest = np.where(condition.false | condition.missing, 0, lists.fewest)
    most = np.where(some, lists.most, 0)
    chosen = Lists(np.minimum(fewest, most), most, lists.lost | condition.missing, np.array([-1]))
    if isinstance(x, Truth):
        return Truth(x.true & some, x.false & some, x.missing & some, chosen)
    return x._replace(number=x.number & some, nan=x.nan & some, missing=x.missing & some, lists=chosen)


def _taken(x: Value, some: Bools, short: Bools) -> Value:
    """One of the items of a row, which `some` rows may have, and others, that are `short`, have not."""
    missing = (x.missing & some) | short | lists_of(x).lost
    if isinstance(x, Truth):
        return Truth(x.true & some, x.false & some, missing)
    return Numbers(x.low, x.high, x.number & some, x.nan & some, missing)


def _reached(x: Value, index: int) -> tuple[Bools, Bools]:
    """Whether rows may have an item of a number, and whether they may have none."""
    lists, needed = lists_of(x), index + 1 if index >= 0 else -index
    return lists.most >= needed, lists.fewest < needed


def _place(s: Settler, node: Typed, args: list[Value]) -> Value:
    x, lists = args[0], lists_of(args[0])
    last = np.maximum(lists.most - 1, 0)
    missing = x.missing | (lists.fewest == 0) | lists.lost
    return Numbers(np.zeros_like(last), last, lists.most > 0, NO, missing)


def _get(s: Settler, node: Typed, args: list[Value]) -> Value:
    x, default = args[0], args[-1]
    lost = lists_of(x).lost
    if len(args) == 2:
        some, short = _reached(x, int(node.value))
    else:
        some, short, lost = lists_of(x).most > 0, YES, lost | args[1].missing
    return one_of(node, x, some, default, short, lost, None)


LISTS: dict[str, Operation] = {
    "any": _any,
    "all": _all,
    "count": _count,
    "len": _len,
    "sum": _sum,
    "mean": _mean,
    **dict.fromkeys(("min", "max"), _extreme),
    **dict.fromkeys(("argmin", "argmax"), _place),
    **dict.fromkeys(("item", "inner item"), _item),
    "item at": _item_at,
    "choose": _choose,
    "get": _get,
}
