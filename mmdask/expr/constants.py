"""The constants of a cut: ``ds.cut("met > x", x=50)``. Each becomes the literal that one would have typed."""

from __future__ import annotations

import datetime
import math
import numbers
from collections.abc import Callable, Mapping

import numpy as np

from mmdask.errors import ExpressionError
from mmdask.expr.tree import BOOLEANS, SYMBOLS, WORDS, Boolean, Integer, Name, Node, Real, Symbol, Text, Unary

__all__ = ["check_constants", "constant_items", "constant_node"]

#: makes the error that points at a node
Refusal = Callable[[Node, str], ExpressionError]

_NUMBERS = "a number, a text or a list of such"
_MAX_BITS = 300


def check_constants(constants: Mapping[str, object] | None) -> Mapping[str, object]:
    """The constants, whose names must not be words of the language."""
    found = dict(constants or {})
    for name in found:
        if name in SYMBOLS or name in BOOLEANS or name in WORDS:
            raise ExpressionError(f"{name!r} is a word of the language; call the constant something else")
    return found


def constant_node(value: object, name: Name, error: Refusal) -> Node:
    """The literal for the value of a constant, in the place of its name."""
    place = {"start": name.start, "end": name.end}
    value = _scalar(value)
    if isinstance(value, bool):
        return Boolean(value, **place)
    if isinstance(value, int) and value.bit_length() <= _MAX_BITS:
        node: Node = Integer(abs(value), **place)
        return Unary("-", node, **place) if value < 0 else node
    if isinstance(value, float):
        return _real(value, place)
    if isinstance(value, str):
        if any("\ud800" <= c <= "\udfff" for c in value):
            raise error(name, f"constant {name.name!r} is no valid Unicode")
        return Text(value, **place)
    if isinstance(value, list | tuple | set | frozenset | range | np.ndarray):
        raise error(name, f"constant {name.name!r} is a list, which stands only after 'in'")
    raise error(name, f"constant {name.name!r} is {_NUMBERS}, got {_got(value)}")


def _scalar(value: object) -> object:
    """The Python value of a number or array of numpy that is a single value."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    # item() makes plain integers of some times
    return value.item() if isinstance(value, np.generic) and value.dtype.kind not in "Mm" else value


def _got(value: object) -> str:
    if isinstance(value, int):
        return f"an integer of {value.bit_length()} bits; it may have {_MAX_BITS}"
    if isinstance(value, np.longdouble):
        return "a longdouble; give float(...) of it, as numbers are doubles here"
    if isinstance(value, np.generic | datetime.date | datetime.timedelta):
        return f"{type(value).__name__}; times are compared as in ds.cut(ds['t'] > time, key='...')"
    if isinstance(value, numbers.Number):
        return f"{type(value).__name__}; give float(...) of it"
    return type(value).__name__


def _real(value: float, place: dict[str, int]) -> Node:
    if math.isnan(value):
        return Symbol("nan", **place)
    size: Node = Symbol("inf", **place) if math.isinf(value) else Real(abs(value), **place)
    return Unary("-", size, **place) if math.copysign(1.0, value) < 0 else size


def constant_items(value: object, name: Name, error: Refusal) -> tuple[Node, ...]:
    """The literals for a constant that is a list; a set in ascending order."""
    if isinstance(value, set | frozenset):
        try:
            value = sorted(value)
        except TypeError:
            raise error(name, f"constant {name.name!r} mixes texts and numbers") from None
    value = _scalar(value)
    if isinstance(value, np.ndarray) and value.ndim == 1:
        value = list(value)
    if not isinstance(value, list | tuple | range):
        raise error(name, f"'in' takes a list, and constant {name.name!r} is {type(value).__name__}")
    return tuple(constant_node(v, name, error) for v in value)
