"""`Operators`: those of Python, by ufuncs of numpy; and its functions that are item by item."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from mmdask.dataset.lists.steps import Constant

__all__ = ["FUNCTIONS", "Operators"]


#: functions of numpy that are item by item, though no ufuncs: from their arguments to operands, in numpy's order
FUNCTIONS: dict[Any, Callable[..., tuple[Any, ...]]] = {
    np.where: lambda condition, x, y: (condition, x, y),
    np.clip: lambda a, a_min=None, a_max=None, *, min=None, max=None: (
        a,
        *[Constant(None) if x is None else x for x in (a_min if min is None else min, a_max if max is None else max)],
    ),
    np.round: lambda a, decimals=0: (a, Constant(operator.index(decimals))),
    np.isclose: lambda a, b, rtol=1e-5, atol=1e-8, equal_nan=False: (a, b, *map(Constant, (rtol, atol, equal_nan))),
    np.isin: lambda element, test_elements: (element, Constant(np.asarray(test_elements))),
    np.nan_to_num: lambda x, copy=True, nan=0.0, posinf=None, neginf=None: (
        x,
        *map(Constant, (copy, nan, posinf, neginf)),
    ),
}


def _binary(ufunc: np.ufunc) -> Callable[[Any, Any], Any]:
    def method(self: Any, other: Any) -> Any:
        if getattr(other, "__array_ufunc__", self) is None:
            return NotImplemented
        return ufunc(self, other)

    return method


def _reflected(ufunc: np.ufunc) -> Callable[[Any, Any], Any]:
    def method(self: Any, other: Any) -> Any:
        if getattr(other, "__array_ufunc__", self) is None:
            return NotImplemented
        return ufunc(other, self)

    return method


def _unary(ufunc: np.ufunc) -> Callable[[Any], Any]:
    def method(self: Any) -> Any:
        return ufunc(self)

    return method


class Operators:
    """A class whose operators are those of its ``__array_ufunc__``.

    Not in place, as those of `numpy.lib.mixins.NDArrayOperatorsMixin` are: ``x += 1`` is another x.
    """

    __add__, __radd__ = _binary(np.add), _reflected(np.add)
    __sub__, __rsub__ = _binary(np.subtract), _reflected(np.subtract)
    __mul__, __rmul__ = _binary(np.multiply), _reflected(np.multiply)
    __truediv__, __rtruediv__ = _binary(np.true_divide), _reflected(np.true_divide)
    __floordiv__, __rfloordiv__ = _binary(np.floor_divide), _reflected(np.floor_divide)
    __mod__, __rmod__ = _binary(np.remainder), _reflected(np.remainder)
    __pow__, __rpow__ = _binary(np.power), _reflected(np.power)
    __lshift__, __rlshift__ = _binary(np.left_shift), _reflected(np.left_shift)
    __rshift__, __rrshift__ = _binary(np.right_shift), _reflected(np.right_shift)
    __and__, __rand__ = _binary(np.bitwise_and), _reflected(np.bitwise_and)
    __or__, __ror__ = _binary(np.bitwise_or), _reflected(np.bitwise_or)
    __xor__, __rxor__ = _binary(np.bitwise_xor), _reflected(np.bitwise_xor)
    __lt__, __le__ = _binary(np.less), _binary(np.less_equal)
    __gt__, __ge__ = _binary(np.greater), _binary(np.greater_equal)
    __eq__, __ne__ = _binary(np.equal), _binary(np.not_equal)
    __neg__, __pos__, __abs__ = _unary(np.negative), _unary(np.positive), _unary(np.absolute)
    __invert__ = _unary(np.invert)
    __hash__ = object.__hash__

    def __round__(self, digits: int = 0) -> Any:
        return np.round(self, digits)  # type: ignore[call-overload]
