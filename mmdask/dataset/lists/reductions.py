"""`Reductions`: one value for each row, or each innermost list, of a ragged field."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmdask.dataset.lists.items import check_value
from mmdask.dataset.lists.steps import Evaluated
from mmdask.errors import OptionError
from mmdask.expr import check, spelled_name
from mmdask.rows.views.virtual import field_of
from mmdask.schema import Field, Schema

__all__ = ["Reductions"]

#: those that numbers in items of a shape have, number by number
_NUMBER_BY_NUMBER = ("sum", "mean", "std", "min", "max", "first", "last")
#: no axis is given
_ITEMS: Any = "items"
_STD = "sqrt(mean(({0} - mean({0})) ** 2))"


class Reductions:
    """A collection of lists whose reductions are those of cuts.

    What is computed from a missing value is missing, unless the others decide; it is masked. Of lists in lists these
    are values of the innermost lists, in a `Ragged` of one level less, where what has none is missing.
    """

    _field: Field

    def _step(self, step: Any, field: Field) -> Any:
        raise NotImplementedError

    def sum(self, axis: Any = _ITEMS) -> Any:
        """Sum of each row, 0 without items: lazy, float64 for floats, int64 or uint64 for integers.

        All of these go along the axis of the items, which `axis` may say as in numpy: -1, or 1 if lists are of one
        level. None or 0 are errors, with what has the values of all rows.
        """
        return self._reduce("sum", axis=axis)

    def any(self, axis: Any = _ITEMS) -> Any:
        """Whether any item of each row is true: lazy, bool."""
        return self._reduce("any", axis=axis)

    def all(self, axis: Any = _ITEMS) -> Any:
        """Whether all items of each row are true: lazy, bool; true without items."""
        return self._reduce("all", axis=axis)

    def count(self, axis: Any = _ITEMS) -> Any:
        """True items of each row of a bool field: lazy, int64; `counts` has the number of all items."""
        if self._field.dtype.kind != "b":
            raise OptionError(
                f"count() counts true items, and {self._field.name!r} is {self._field.describe()}; "
                "the number of items is .counts"
            )
        return self._reduce("count", axis=axis)

    def mean(self, axis: Any = _ITEMS, *, default: Any = None) -> Any:
        """Mean of each row: lazy, float64; `default` for rows that have none, as for `min`."""
        return self._reduce("mean", default, axis=axis)

    def std(self, axis: Any = _ITEMS, *, default: Any = None) -> Any:
        """Standard deviation of each row, of its items (ddof 0): lazy, float64; `default` as for `min`."""
        return self._reduce("std", default, axis=axis)

    def min(self, axis: Any = _ITEMS, *, default: Any = None) -> Any:
        """Least item of each row: lazy.

        Parameters
        ----------
        default : number, optional
            For rows that have none. Without it, rows without items are nan if the items are floats, an error if they
            are not, and of an optional field they are masked, as are those with something missing.
        """
        return self._reduce("min", default, axis=axis)

    def max(self, axis: Any = _ITEMS, *, default: Any = None) -> Any:
        """Greatest item of each row: lazy; `default` for rows that have none, as for `min`."""
        return self._reduce("max", default, axis=axis)

    def first(self, *, default: Any = None) -> Any:
        """First item of each row: lazy; `default` for rows that have none, as for `min`."""
        return self._reduce("first", default)

    def last(self, *, default: Any = None) -> Any:
        """Last item of each row: lazy; `default` for rows that have none, as for `min`."""
        return self._reduce("last", default)

    def argmin(self, axis: Any = _ITEMS, *, default: int | None = None) -> Any:
        """Number of the least item of each row: lazy, int64.

        `default` for rows that have none: -1, or masked if the field is optional.
        """
        return self._reduce("argmin", default, -1, axis=axis)

    def argmax(self, axis: Any = _ITEMS, *, default: int | None = None) -> Any:
        """Number of the greatest item of each row: lazy, int64; `default` for rows that have none, as for `argmin`."""
        return self._reduce("argmax", default, -1, axis=axis)

    def _check_axis(self, function: str, axis: Any) -> None:
        """Raise unless an axis is that of the innermost lists."""
        field = self._field
        known = [] if field.kind == "shaped" else [field.levels] if field.shape else [-1, field.levels]
        if axis is _ITEMS or (type(axis) is int and axis in known):
            return
        per = "list" if field.levels > 1 else "row"
        way = f"; .values.{function}() is over all rows" if field.levels == 1 and function != "count" else ""
        raise OptionError(
            f"{function} of {field.name!r} ({field.describe()}) is one value per {per}, "
            f"{f'as with axis={known[-1]}' if known else 'over all axes of it'}; got axis={axis!r}{way}"
        )

    def _reduce(self, function: str, default: Any = None, usual: Any = None, *, axis: Any = _ITEMS) -> Any:
        field = self._field
        self._check_axis(function, axis)
        if field.kind not in ("ragged", "shaped") or (field.shape and function not in _NUMBER_BY_NUMBER):
            numbers = "numbers, and not for text" if field.kind == "string" else "numbers"
            raise OptionError(
                f"{field.name!r} is {field.describe()}: {function} is for {numbers}; .compute() gives an awkward array"
            )
        name = spelled_name(field.name)
        levels = max(field.levels, 1)
        plain = Field.ragged(field.name, field.dtype, levels=levels, optional=field.optional)
        expression = check(_STD.format(name) if function == "std" else f"{function}({name})", Schema([plain]))
        masked = default is None and (bool(field.optional) or levels > 1)
        if not expression.maybe_missing or masked:
            default = None
        else:
            default = usual if default is None else default
            if default is None and expression.dtype.kind != "f":
                raise OptionError(
                    f"{function} of {field.name!r} ({field.describe()}) has no value for rows without items; "
                    f"say which one to use, as in .{function}(default=-1)"
                )
            default = np.nan if default is None else default
            check_value(default, expression.dtype, f"the result of {function}")
        made = field_of(function, expression, "")
        optional = tuple([d for d in made.optional if masked or d < made.levels])
        made = Field(f"{field.name}-{function}", made.kind, made.dtype, field.shape, made.levels, optional=optional)
        return self._step(Evaluated(field, expression, made, default), made)
