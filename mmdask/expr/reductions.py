"""Operations on the items of lists: reductions of the innermost level, ``x[i]``, ``x[condition]``, ``get``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mmdask.errors import ExpressionError
from mmdask.expr.tree import canonical
from mmdask.expr.typed import Typed, range_of
from mmdask.expr.values import Array, Block, Bools, Offsets, Value, all_known, offsets_of, taken
from mmdask.kernels import segments

__all__ = ["OPERATIONS"]


def _reduced(x: Value, values: Array, known: Bools | None) -> Value:
    """One value for each of the innermost lists of `x`, missing where the list is."""
    lists = x.there_at(-1)
    known = all_known([known, lists])
    if lists is not None and values.dtype == np.bool_:
        values = values & lists
    there = x.there[:-1] if any(t is not None for t in x.there[:-1]) else ()
    return Value(values, x.offsets[:-1], known, x.origin, there=there)


def _complete(x: Value) -> Bools | None:
    """Which of the innermost lists have no missing item."""
    return None if x.known is None else segments.segment_all(x.known, x.offsets[-1])


def _len(block: Block, node: Typed, args: list[Value]) -> Value:
    return _reduced(args[0], np.diff(args[0].offsets[-1]), None)


def _sum(block: Block, node: Typed, args: list[Value]) -> Value:
    x = args[0]
    found = _reduced(x, segments.segment_sum(x.array, x.offsets[-1]), _complete(x))
    if node.value == "checked":
        for place, exact in _wrapped(x, found):
            raise ExpressionError(
                f"{canonical(node.tree)} does not fit {node.dtype.name} in row "
                f"{block.row_of(place, found.offsets)}: it is {exact}"
            )
    if node.value == "rounded":
        totals = found.array.astype(np.float64)
        for place, exact in _wrapped(x, found):
            totals[place] = exact
        return found._replace(array=totals)
    return found


def _wrapped(x: Value, found: Value) -> Iterator[tuple[int, int]]:
    """Places of the sums of 64-bit integers that do not fit, for the kernel's sums wrap, and what they are."""
    values, offsets, known = x.array, x.offsets[-1], found.known
    if not len(values):
        return
    low, high = range_of(found.array.dtype)
    counts = np.diff(offsets)
    largest = max(-int(values.min()), int(values.max()))
    if largest * int(counts.max()) <= high:
        return
    # Few lists can be beyond: those whose sum of doubles is more than half way.
    sizes = segments.segment_sum(np.abs(values.astype(np.float64)), offsets)
    for place in np.flatnonzero(sizes > high / 2):
        exact = sum(values[offsets[place] : offsets[place + 1]].tolist())
        if not low <= exact <= high and (known is None or known[place]):
            yield int(place), exact


def _mean(block: Block, node: Typed, args: list[Value]) -> Value:
    total, n = args
    known = all_known([total.known, n.array > 0])
    return total._replace(array=total.array.astype(np.float64) / n.array, known=known, scratch=False)


_SEGMENT: dict[str, Callable[[Any, Offsets], Array]] = {
    "min": segments.segment_min,
    "max": segments.segment_max,
    "argmin": segments.segment_argmin,
    "argmax": segments.segment_argmax,
}


def _extreme(block: Block, node: Typed, args: list[Value]) -> Value:
    x = args[0]
    offsets = x.offsets[-1]
    full = offsets[1:] > offsets[:-1]
    known = all_known([_complete(x), None if full.all() else full])
    found = _SEGMENT[node.op](x.array, offsets)
    return _reduced(x, found & known if node.kind == "bool" and known is not None else found, known)


# ----------------------------------------------------------------------------------------------------- brackets


def _item(block: Block, node: Typed, args: list[Value]) -> Value:
    return _picked(node, args[0], 0, int(node.value), None)


def _inner_item(block: Block, node: Typed, args: list[Value]) -> Value:
    return _picked(node, args[0], len(args[0].offsets) - 1, int(node.value), None)


def _item_at(block: Block, node: Typed, args: list[Value]) -> Value:
    [x, index], there = block.common(args)
    if there:
        x = x._replace(there=there)
    return _picked(node, x, len(index.offsets), _places(index.array), index.known)


def _places(index: Array) -> Array:
    """Any integers as int64, those beyond it cut off where no list reaches."""
    return (np.minimum(index, 2**62) if index.dtype == np.uint64 else index).astype(np.int64, copy=False)


def _picked(node: Typed, x: Value, level: int, index: int | Array, index_known: Bools | None) -> Value:
    """One element of each list of a level, and which of them there are."""
    places, inside = _inside(x.offsets[level], index)
    known = all_known([None if inside.all() else inside, index_known, x.there_at(level)])
    outer = x.there[:level] if any(t is not None for t in x.there[:level]) else ()
    if level == len(x.offsets) - 1:
        if not len(x.array):
            values = np.zeros(len(places), x.array.dtype)
        else:
            values = x.array.take(places, mode="clip")
            known = known if x.known is None else all_known([known, x.known.take(places, mode="clip")])
        if node.kind == "bool" and known is not None:
            values = values & known
        return Value(values, x.offsets[:level], known, x.origin, x.data, there=outer)
    there = np.ones(len(places), np.bool_) if known is None else np.broadcast_to(known, len(places)).copy()
    some = np.flatnonzero(there)
    inner = taken(x, level + 1, places[some])
    counts = np.zeros(len(places), np.int64)
    counts[some] = np.diff(inner.offsets[0])
    if inner.there[0] is not None:
        there[some] &= inner.there[0]
    offsets = (*x.offsets[:level], offsets_of(counts), *inner.offsets[1:])
    lists = (*(outer or (None,) * level), there, *inner.there[1:])
    return inner._replace(offsets=offsets, there=lists)


def _inside(offsets: Offsets, index: int | Array) -> tuple[Array, Bools]:
    """The place of the element of each list, from the end for negative numbers, and whether the list is long enough."""
    starts, stops = offsets[:-1], offsets[1:]
    if isinstance(index, int):
        if index >= 0:
            places = starts + index
            return places, places < stops
        places = stops + index
        return places, places >= starts
    places = np.where(index >= 0, starts, stops) + index  # what wraps is negative
    return places, (places >= starts) & (places < stops)


def _choose(block: Block, node: Typed, args: list[Value]) -> Value:
    """The elements for which a condition holds; a list in which it is missing for one of them is missing."""
    [x, condition], there = block.common(args)
    depth = len(condition.offsets)
    offsets = condition.offsets[-1]
    lists = list(there or (None,) * len(x.offsets))
    lists[depth - 1] = all_known([lists[depth - 1], _complete(condition)])
    chosen = condition.array
    if (inside := lists[depth - 1]) is not None:
        chosen = chosen & np.repeat(inside, np.diff(offsets))
    inner = taken(x, depth, np.flatnonzero(chosen))
    counts = segments.segment_count(chosen, offsets)
    found = (*x.offsets[: depth - 1], offsets_of(counts), *inner.offsets)
    lists[depth:] = inner.there
    return inner._replace(offsets=found, there=tuple(lists) if any(t is not None for t in lists) else ())


def _get(block: Block, node: Typed, args: list[Value]) -> Value:
    x, default = args[0], args[-1]
    index, index_known = (int(node.value), None) if len(args) == 2 else (_places(args[1].array), args[1].known)
    places, inside = _inside(x.offsets[0], index)
    chosen: Array = np.zeros(len(places), x.array.dtype)
    known = None
    if len(x.array):
        chosen = x.array.take(places, mode="clip")
        known = None if x.known is None else x.known.take(places, mode="clip")
    values = np.where(inside, chosen.astype(node.dtype, copy=False), default.array.astype(node.dtype, copy=False))
    if known is not None or default.known is not None:
        known = np.where(inside, True if known is None else known, True if default.known is None else default.known)
    known = all_known([known, index_known, x.there_at(0)])  # the default is for rows that have a list, and it is short
    if known is not None and node.kind == "bool":
        values = values & known
    return Value(values, (), known)


OPERATIONS: dict[str, Callable[[Block, Typed, list[Value]], Value]] = {
    "len": _len,
    "sum": _sum,
    "mean": _mean,
    **dict.fromkeys(_SEGMENT, _extreme),
    "item": _item,
    "inner item": _inner_item,
    "item at": _item_at,
    "choose": _choose,
    "get": _get,
}
