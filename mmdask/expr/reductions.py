"""Operations from the items of a row to one value: reductions, ``x[i]``, ``get``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mmdask.errors import ExpressionError
from mmdask.expr.tree import canonical
from mmdask.expr.typed import Typed, range_of
from mmdask.expr.values import Array, Block, Bools, Offsets, Value, all_known
from mmdask.kernels import segments

__all__ = ["OPERATIONS"]


def _ragged(x: Value) -> tuple[Array, Offsets]:
    assert x.offsets is not None
    return x.array, x.offsets


def _any(block: Block, node: Typed, args: list[Value]) -> Value:
    values, offsets = _ragged(args[0])
    found = segments.segment_any(values, offsets)
    known = None if args[0].known is None else found | segments.segment_all(args[0].known, offsets)
    return _truth(found, known, args[0])


def _all(block: Block, node: Typed, args: list[Value]) -> Value:
    values, offsets = _ragged(args[0])
    if args[0].known is None:
        return _truth(segments.segment_all(values, offsets), None, args[0])
    wrong = segments.segment_any(args[0].known & ~values, offsets)
    complete = segments.segment_all(args[0].known, offsets)
    return _truth(complete & ~wrong, complete | wrong, args[0])


def _truth(values: Bools, known: Bools | None, x: Value) -> Value:
    """A boolean of each row's list, which is missing where the list is."""
    return Value(values if x.there is None else values & x.there, None, all_known([known, x.there]))


def _complete(x: Value, offsets: Offsets) -> Bools | None:
    """Which rows have a list, and no missing item in it."""
    return all_known([None if x.known is None else segments.segment_all(x.known, offsets), x.there])


def _count(block: Block, node: Typed, args: list[Value]) -> Value:
    values, offsets = _ragged(args[0])
    return Value(segments.segment_sum(values, offsets), None, _complete(args[0], offsets))


def _len(block: Block, node: Typed, args: list[Value]) -> Value:
    return Value(np.diff(_ragged(args[0])[1]), None, args[0].there)


def _sum(block: Block, node: Typed, args: list[Value]) -> Value:
    values, offsets = _ragged(args[0])
    known = _complete(args[0], offsets)
    found = segments.segment_sum(values, offsets)
    if node.value == "checked":
        _check_sum(block, node, values, offsets, known)
    return Value(found, None, known)


def _check_sum(block: Block, node: Typed, values: Array, offsets: Offsets, known: Bools | None) -> None:
    """Raise if a sum of 64-bit integers does not fit; the kernel's sums wrap."""
    if not len(values):
        return
    low, high = range_of(node.dtype)
    counts = np.diff(offsets)
    largest = max(-int(values.min()), int(values.max()))
    if largest * int(counts.max()) <= high:
        return
    # Few rows can be beyond: those whose sum of doubles is more than half way.
    sizes = segments.segment_sum(np.abs(values.astype(np.float64)), offsets)
    for row in np.flatnonzero(sizes > high / 2):
        exact = sum(values[offsets[row] : offsets[row + 1]].tolist())
        if not low <= exact <= high and (known is None or known[row]):
            raise ExpressionError(
                f"{canonical(node.tree)} does not fit {node.dtype.name} in row {block.first_row + int(row)}: "
                f"it is {exact}"
            )


def _mean(block: Block, node: Typed, args: list[Value]) -> Value:
    total, length = args
    known = all_known([total.known, length.array > 0])
    return Value(total.array.astype(np.float64) / length.array, None, known)


_SEGMENT: dict[str, Callable[[Any, Offsets], Array]] = {
    "min": segments.segment_min,
    "max": segments.segment_max,
    "argmin": segments.segment_argmin,
    "argmax": segments.segment_argmax,
}


def _extreme(block: Block, node: Typed, args: list[Value]) -> Value:
    values, offsets = _ragged(args[0])
    full = offsets[1:] > offsets[:-1]
    known = all_known([_complete(args[0], offsets), None if full.all() else full])
    found = _SEGMENT[node.op](values, offsets)
    return Value(found & known if node.kind == "bool" and known is not None else found, None, known)


def _item(block: Block, node: Typed, args: list[Value]) -> Value:
    values, known, there = _chosen(args[0], int(node.value))
    known = all_known([known, None if there.all() else there, args[0].there])
    if node.kind == "bool" and known is not None:
        values = values & known
    return Value(values, None, known)


def _chosen(x: Value, index: int) -> tuple[Array, Bools | None, Bools]:
    """Item `index` of each row, where it is known, and where the row is long enough."""
    values, offsets = _ragged(x)
    if index >= 0:
        places = offsets[:-1] + index
        there = places < offsets[1:]
    else:
        places = offsets[1:] + index
        there = places >= offsets[:-1]
    if not len(values):
        return np.zeros(len(there), values.dtype), None, there
    chosen = values.take(places, mode="clip")
    return chosen, None if x.known is None else x.known.take(places, mode="clip"), there


def _get(block: Block, node: Typed, args: list[Value]) -> Value:
    x, default = args
    chosen, known, there = _chosen(x, int(node.value))
    values = np.where(there, chosen.astype(node.dtype, copy=False), default.array.astype(node.dtype, copy=False))
    if known is not None or default.known is not None:
        known = np.where(there, True if known is None else known, True if default.known is None else default.known)
    known = all_known([known, x.there])  # the default is for rows that have a list, and it is short
    if known is not None and node.kind == "bool":
        values = values & known
    return Value(values, None, known)


OPERATIONS: dict[str, Callable[[Block, Typed, list[Value]], Value]] = {
    "any": _any,
    "all": _all,
    "count": _count,
    "len": _len,
    "sum": _sum,
    "mean": _mean,
    **dict.fromkeys(_SEGMENT, _extreme),
    "item": _item,
    "get": _get,
}
