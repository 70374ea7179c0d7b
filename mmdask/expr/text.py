"""Comparisons of labels and text with text in quotes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mmdask.expr.compare import is_member
from mmdask.expr.typed import Typed
from mmdask.expr.values import Array, Block, Value

__all__ = ["OPERATIONS"]


def _in_text(block: Block, node: Typed, args: list[Value]) -> Value:
    x = args[0]
    assert x.data is not None
    if node.args[0].kind == "label":
        codes = [code for code, label in enumerate(x.data.labels) if label in node.value]
        found = is_member(x.array, np.array(codes, x.array.dtype))
    else:
        ends = x.data.offsets[-1]
        found = np.zeros(len(ends) - 1, np.bool_)
        for text in node.value:
            found[_equal(x.data.values, ends, text.encode())] = True
        # the values are places of texts, all of them in their order for a field itself
        found = found if node.args[0].op == "field" and not x.there else _at(found, x.array)
    if x.known is not None:
        found &= x.known
    return Value(found, x.offsets, x.known, x.origin, there=x.there)


def _at(found: Array, places: Array) -> Array:
    return found.take(places, mode="clip") if len(found) else np.zeros(len(places), np.bool_)


def _equal(text: Array, offsets: Array, wanted: bytes) -> Array:
    """The texts whose bytes are `wanted`: those of its length, then byte by byte those still equal."""
    found = np.flatnonzero(np.diff(offsets) == len(wanted))
    starts = offsets[found]
    for place, byte in enumerate(wanted):
        same = text[starts + place] == byte
        found, starts = found[same], starts[same]
        if not len(found):
            break
    return found


OPERATIONS: dict[str, Callable[[Block, Typed, list[Value]], Value]] = {"in text": _in_text}
