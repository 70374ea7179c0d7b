"""`Description`: what the values of each field of a dataset are like; how it is shown and exported."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from mmdask import display
from mmdask.dataset.optional import imported
from mmdask.dataset.run import dask_runner, resolve
from mmdask.errors import FieldNotFoundError
from mmdask.rows.rows import Rows
from mmdask.rows.sums.describing import describe
from mmdask.rows.sums.stated import Stated, stated
from mmdask.rows.sums.summary import Summary
from mmdask.schema import Field, Schema

__all__ = ["Description", "FieldSummary", "describe_quickly", "describe_rows"]


#: lines that are printed
_SHOWN = 100


@dataclass(frozen=True)
class FieldSummary:
    """What the values of one field are like. Those of rows, or of items where there are lists.

    Attributes
    ----------
    field : Field
        Which.
    count : int
        Values that are there, nan and infinite ones included; of labels and text rows or items, not characters.
    missing : int
        Rows, lists and items that are missing.
    nan, inf : int
        Values that are nan or NaT, and infinite ones. These and all others are None where ``quick=True`` does not know.
    min, max : int, float, bool, datetime64, timedelta64 or None
        The smallest and largest of the others; None where there is none, and for text, labels and complex numbers.
    mean : float, datetime64, timedelta64 or None
        Of the others: exact but for one rounding if they are integers.
    std : float, timedelta64 or None
        Their standard deviation, as that of `numpy.std`: the root of the mean squared difference from the mean.
    items_min, items_mean, items_max : int, float, int or None
        Items of a row, of the rows that are there; of text bytes. None of fields without lists.
    """

    field: Field
    count: int | None
    missing: int | None
    nan: int | None
    inf: int | None
    min: Any
    max: Any
    mean: Any
    std: Any
    items_min: int | None
    items_mean: float | None
    items_max: int | None


class Description(Mapping[str, FieldSummary]):
    """What the values of each field are like; made by `Dataset.describe`. A mapping by name that prints as a table.

    Parameters
    ----------
    rows : int
        How many rows there are.
    fields : iterable of FieldSummary
        In their order.
    """

    def __init__(self, rows: int, fields: Sequence[FieldSummary]) -> None:
        self.rows = rows
        self._fields = {f.field.name: f for f in fields}

    def __getitem__(self, name: str) -> FieldSummary:
        if name in self._fields:
            return self._fields[name]
        schema = Schema(f.field for f in self._fields.values())
        if len(meant := schema.short.get(name, ())) == 1:
            return self._fields[meant[0]]
        raise FieldNotFoundError(schema.unknown(name, " is described"))

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    # Looks ----------------------------------------------------------------------------------------------------------

    def table(self) -> tuple[list[list[str]], list[str], str]:
        """Cells, headers and sides of the table; columns in which nothing stands are left out."""
        headers = ["field", "type", "count", "missing", "nan", "inf", "min", "max", "mean", "std", "items"]
        cells = [_cells(f) for f in self.values()]
        used = [i for i in range(len(headers)) if i < 3 or any(row[i] for row in cells)]
        return [[row[i] for i in used] for row in cells], [headers[i] for i in used], "ll" + "r" * (len(used) - 2)

    def _first(self) -> tuple[tuple[list[list[str]], list[str], str], str]:
        """The table of the first fields, and how many there are more."""
        cells, headers, align = self.table()
        n = len(cells) - _SHOWN
        more = f"... and {display.amount(n, 'more field')}; .to_pandas() has all" if n > 0 else ""
        return (cells[:_SHOWN], headers, align), more

    def __repr__(self) -> str:
        table, more = self._first()
        lines = [display.amount(self.rows, "row"), display.text_table(*table, longest=64), more]
        return "\n".join(filter(None, lines))

    def _repr_html_(self) -> str:
        table, more = self._first()
        made = display.html_table(*table, caption=display.amount(self.rows, "row"))
        return display.html_block(made, f"<small>{more}</small>" if more else "")

    def to_pandas(self) -> Any:
        """The numbers as a pandas DataFrame, one row for each field, NA where there is none.

        Raises
        ------
        MissingDependencyError
            When pandas is not installed.
        """
        pd = imported("pandas", "pandas")
        kinds = dict.fromkeys(("count", "missing", "nan", "inf", "items_min", "items_max"), "Int64")
        columns: dict[str, Any] = {"type": pd.array([f.field.describe() for f in self.values()], dtype="string")}
        for key in ("count", "missing", "nan", "inf", "min", "max", "mean", "std", *_ITEMS):
            values = [pd.NA if (v := getattr(f, key)) is None else v for f in self.values()]
            reals = all(type(v) is float or v is pd.NA for v in values)
            columns[key] = pd.array(values, dtype=kinds.get(key, "Float64" if reals else object))
        return pd.DataFrame(columns, index=pd.Index(list(self), name="field", dtype=object))


_ITEMS = ("items_min", "items_mean", "items_max")


def describe_rows(rows: Rows, names: Sequence[str]) -> Description:
    """Describe fields; the parameters are those of `Dataset.describe`."""
    found = describe(resolve(rows), names, dask_runner("describe", names))
    fields = [_summary_of(rows.schema[name], summary) for name, summary in found.items()]
    return Description(len(rows), fields)


def describe_quickly(rows: Rows, names: Sequence[str]) -> Description:
    """Describe fields by what their parts say of themselves."""
    found = stated(rows, names)
    return Description(len(rows), [_stated_of(rows.schema[name], s) for name, s in found.items()])


def _stated_of(field: Field, s: Stated) -> FieldSummary:
    low, high, kind = s.low, s.high, field.dtype.kind
    if low is not None and kind == "b":
        low, high = bool(low), bool(high)
    elif low is not None and kind in "mM":
        low, high = (np.array(x, np.int64).view(field.dtype)[()] for x in (low, high))
    lists = bool(field.n_offsets)
    mean = s.items / s.rows if lists and s.items is not None and s.rows and s.missing == 0 else None
    items = (s.fewest, mean, s.most) if lists and s.missing == 0 else (None, None, None)
    return FieldSummary(field, s.count, s.missing, s.nan, s.inf, low, high, None, None, *items)


def _summary_of(field: Field, s: Summary) -> FieldSummary:
    kind = field.dtype.kind if field.kind in ("dense", "ragged", "shaped") else ""
    numbers: tuple[Any, ...] = (None, None, None, None)
    if s.finite and kind in "biufmM" and kind:
        numbers = s.low, s.high, *_mean_and_std(kind, s)
        if kind == "b":
            numbers = (bool(s.low), bool(s.high), *numbers[2:])
        elif kind in "mM":
            numbers = _times(field.dtype, numbers)
    items: tuple[Any, ...] = (None, None, None)
    if field.n_offsets:
        items = s.fewest, s.items / s.rows if s.rows else None, s.most
    return FieldSummary(field, s.count, s.missing, s.nan, s.inf, *numbers, *items)


def _times(dtype: np.dtype[Any], numbers: tuple[Any, ...]) -> tuple[Any, ...]:
    """Numbers of a field of times as times; what spreads is a difference of them."""
    *ends_and_mean, std = [np.array(round(x), np.int64) for x in numbers]
    spread = np.dtype(f"m8{dtype.str[3:]}")
    return (*[x.view(dtype)[()] for x in ends_and_mean], std.view(spread)[()])


def _mean_and_std(kind: str, s: Summary) -> tuple[Any, float]:
    n = s.finite
    if kind == "f":
        return s.mean, math.sqrt(s.spread / n)
    mean = Fraction(s.total, n)
    # Times are rounded to their unit, which a float may not hold.
    return (mean if kind in "mM" else float(mean)), math.sqrt(Fraction(n * s.squares - s.total**2, n * n))


# Cells --------------------------------------------------------------------------------------------------------------


def _cells(f: FieldSummary) -> list[str]:
    count = "" if f.count is None else display.count_text(f.count)
    counts = [count, *["?" if n is None else display.count_text(n) if n else "" for n in (f.missing, f.nan, f.inf)]]
    items = ""
    if f.items_mean is not None and f.items_min is None:
        items = f"mean {f.items_mean:.3g}"
    elif f.items_mean is not None:
        many = f.items_min != f.items_max
        items = f"{f.items_min:,} to {f.items_max:,}, mean {f.items_mean:.3g}" if many else f"{f.items_min:,}"
    return [f.field.name, f.field.describe(), *counts, *map(_number, (f.min, f.max, f.mean, f.std)), items]


def _number(x: Any) -> str:
    if x is None:
        return ""
    if isinstance(x, float):
        return f"{x:.6g}"
    if isinstance(x, np.datetime64):
        return str(x)
    return str(x) if isinstance(x, bool | np.timedelta64) or abs(x) < 10_000 else f"{x:,}"
