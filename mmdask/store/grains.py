"""Smallest and largest values of the fields of a layer, in runs of 65,536 rows ("grains"), gathered as it is written.

part.json has those of all rows of a field. Layers of more than one grain have an array besides, for all fields
together: so many small parts have no file more, and a large one has one. All numbers are kept exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.schema import Field, FieldData
from mmdask.store import document

__all__ = [
    "COLUMNS",
    "GRAIN",
    "GRAIN_DTYPE",
    "HOLDS_MISSING",
    "HOLDS_NAN",
    "HOLDS_NUMBER",
    "Held",
    "Tally",
    "count_inf",
    "count_nan",
    "has_order",
    "limits",
    "n_grains",
    "parse_held",
    "span",
    "wide_dtype",
]

#: rows of a grain
GRAIN = 65_536
GRAIN_DTYPE = np.dtype("<i8")
#: of the array of grains: smallest, largest, what is held, fewest and most items of a row
COLUMNS = 5
#: bits of what is held: numbers, nan or NaT, and 4 << d for missing values at depth d
HOLDS_NUMBER, HOLDS_NAN, HOLDS_MISSING = 1, 2, 4

Array = npt.NDArray[Any]
Number = int | float


@dataclass(frozen=True)
class Held:
    """Which values of a field some rows hold.

    Parameters
    ----------
    low, high : int or float or None
        Smallest and largest of those that are there and not nan; times as their numbers, booleans as 0 and 1,
        categories as the layer's own codes. None where there are none.
    nan : bool
        Whether there is nan or NaT.
    items : (int, int) or None
        Of a field with lists, the fewest and most elements of a row's outermost list.
    entry : int or None
        Number of the field in the layer's array of grains.
    nans, infs : int or None
        How many values are nan or NaT, and infinite, where some are; None where that was not counted.
    """

    low: Number | None = None
    high: Number | None = None
    nan: bool = False
    items: tuple[int, int] | None = None
    entry: int | None = None
    nans: int | None = None
    infs: int | None = None

    @property
    def infinite(self) -> bool:
        """Whether there are infinite values."""
        return any(isinstance(x, float) and math.isinf(x) for x in (self.low, self.high))

    @property
    def counts(self) -> tuple[int | None, int | None]:
        """How many values are nan or NaT, and infinite; None where that is not known."""
        return self.nans if self.nan else 0, self.infs if self.infinite else 0

    def dump(self) -> dict[str, Any]:
        """As part.json has it."""
        entry: dict[str, Any] = {}
        if self.low is not None and self.high is not None:
            entry.update(low=_dumped(self.low), high=_dumped(self.high))
        if self.nan:
            entry["nan"] = True
        entry |= {key: n for key, n in (("nans", self.nans), ("infs", self.infs)) if n}
        if self.items is not None:
            entry["items"] = list(self.items)
        if self.entry is not None:
            entry["entry"] = self.entry
        return entry


def _dumped(x: Number) -> Number | str:
    # JSON has no infinity
    return repr(x) if isinstance(x, float) and math.isinf(x) else x


def n_grains(rows: int) -> int:
    """How many grains so many rows are."""
    return -(-rows // GRAIN)


def has_order(kind: str, dtype: np.dtype[Any]) -> bool:
    """Whether a field has smallest and largest values."""
    return kind == "category" or (kind in ("dense", "ragged") and dtype.kind in "biufmM")


def span(values: Array) -> tuple[Number | None, Number | None, bool]:
    """Smallest and largest of some numbers, None where there is none, and whether there is nan or NaT.

    Examples
    --------
    >>> span(np.array([2.5, np.nan, -1.0]))
    (-1.0, 2.5, True)
    >>> span(np.array([], "i8"))
    (None, None, False)
    """
    kind = values.dtype.kind
    if not values.size:
        return None, None, False
    if kind == "b":
        flags = values.view(np.uint8)
        return min(int(flags.min()), 1), min(int(flags.max()), 1), False
    if values.dtype == np.float16:
        return _span_of_halves(values)
    if kind in "mM":
        values = values.view(np.int64)
    low, high = values.min(), values.max()
    if kind in "mM" and low == _NAT:
        values = values[values != _NAT]
    elif kind == "f" and low != low:
        values = values[values == values]
    else:
        return low.item(), high.item(), False
    return (values.min().item(), values.max().item(), True) if values.size else (None, None, True)


_NAT = np.iinfo(np.int64).min
_INFINITE = (math.inf, -math.inf)


def count_nan(values: Array) -> int:
    """How many are nan or NaT.

    Examples
    --------
    >>> count_nan(np.array([1.0, np.nan])), count_nan(np.array(["NaT", "2020-01-01"], "M8[D]"))
    (1, 1)
    """
    if values.dtype.kind in "mM":
        return int(np.count_nonzero(values.view(np.int64) == _NAT))
    return int(np.count_nonzero(values != values)) if values.dtype.kind == "f" else 0


def count_inf(values: Array) -> int:
    """How many are infinite.

    Examples
    --------
    >>> count_inf(np.array([1.0, np.inf, -np.inf, np.nan]))
    2
    """
    return int(np.count_nonzero(np.isinf(values))) if values.dtype.kind == "f" else 0


def _span_of_halves(values: Array) -> tuple[Number | None, Number | None, bool]:
    """`span` of half floats, as integers in the same order: numpy compares halves one by one."""
    keys = values.view(np.int16)
    keys = keys ^ ((keys >> 15) & 0x7FFF)
    ends = np.array([keys.min(), keys.max()], np.int16)
    low, high = (ends ^ ((ends >> 15) & 0x7FFF)).view(np.float16)
    if low == low and high == high:
        return low.item(), high.item(), False
    low, high, _ = span(values[values == values].astype(np.float32))
    return low, high, True


class Tally:
    """What the grains of one field hold, of rows that come in runs of any length.

    Parameters
    ----------
    field : Field
        A field of numbers, times or labels.
    """

    def __init__(self, field: Field) -> None:
        self.field = field
        self.rows = 0
        self._width = math.prod(field.shape)
        self._low: list[Number | None] = []
        self._high: list[Number | None] = []
        self._holds: list[int] = []
        self._items: list[tuple[int, int]] = []
        self._nans = self._infs = 0

    def add(self, data: FieldData, values: Array) -> None:
        """Look at rows. `values` are those of `data`, as they are stored."""
        n = len(data)
        valid = data.valid_at(len(data.offsets))
        a = 0
        while a < n:
            b = min(n, a + GRAIN - self.rows % GRAIN)
            holds, start, stop = 0, a, b
            for depth, offsets in enumerate(data.offsets):
                holds |= self._missing(data.valid_at(depth), depth, start, stop)
                if not depth:
                    counts = np.diff(offsets[a : b + 1])
                    items = int(counts.min()), int(counts.max())
                start, stop = int(offsets[start]), int(offsets[stop])
            holds |= self._missing(valid, len(data.offsets), start, stop)
            some = values[start:stop]
            if valid is not None and holds >= HOLDS_MISSING:
                some = some[valid[start:stop]]
            self._add(self.rows // GRAIN, some, holds, items if data.offsets else None)
            self.rows += b - a
            a = b

    @staticmethod
    def _missing(valid: npt.NDArray[np.bool_] | None, depth: int, start: int, stop: int) -> int:
        return 0 if valid is None or valid[start:stop].all() else HOLDS_MISSING << depth

    def add_elements(self, elements: Array, start: int) -> None:
        """Look at elements of a dense field, of which number `start` is the first; they may begin within a row."""
        size = GRAIN * self._width
        self.rows = -(-(start + len(elements)) // self._width)
        for grain in range(start // size, n_grains(self.rows)):
            self._add(grain, elements[max(grain * size - start, 0) : (grain + 1) * size - start], 0, None)

    def _add(self, grain: int, values: Array, holds: int, items: tuple[int, int] | None) -> None:
        """Look at values of a grain: the last one, or the next."""
        low, high, nan = span(values)
        # looked for only where there are some, so that others cost nothing
        self._nans += count_nan(values) if nan else 0
        self._infs += count_inf(values) if low in _INFINITE or high in _INFINITE else 0
        holds |= HOLDS_NUMBER * (low is not None) | HOLDS_NAN * nan
        if grain == len(self._holds):
            self._low.append(low)
            self._high.append(high)
            self._holds.append(holds)
            if items is not None:
                self._items.append(items)
            return
        self._holds[-1] |= holds
        if low is not None and high is not None:
            before, most = self._low[-1], self._high[-1]
            self._low[-1] = low if before is None else min(before, low)
            self._high[-1] = high if most is None else max(most, high)
        if items is not None:
            fewest, most_items = self._items[-1]
            self._items[-1] = min(fewest, items[0]), max(most_items, items[1])

    def held(self, entry: int | None) -> Held:
        """What all rows hold."""
        low = min((x for x in self._low if x is not None), default=None)
        high = max((x for x in self._high if x is not None), default=None)
        nan = any(h & HOLDS_NAN for h in self._holds)
        items = (min(i[0] for i in self._items), max(i[1] for i in self._items)) if self._items else None
        return Held(low, high, nan, items, entry, self._nans or None, self._infs or None)

    def table(self) -> npt.NDArray[np.int64]:
        """The entry of the field in the array of grains: int64 ``(grains, COLUMNS)``."""
        table = np.zeros((len(self._holds), COLUMNS), GRAIN_DTYPE)
        dtype = wide_dtype(self.field.kind, self.field.dtype)
        for column, numbers in enumerate((self._low, self._high)):
            table[:, column] = np.array([0 if x is None else x for x in numbers], dtype).view(np.int64)
        table[:, 2] = self._holds
        if self._items:
            table[:, 3:] = self._items
        elif self.field.shape and self.field.kind == "dense":
            table[:, 3:] = self.field.shape[0]
        return table


def wide_dtype(kind: str, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """What smallest and largest values are, of 8 bytes: float64 of reals, uint64 of those integers, else int64."""
    if kind == "category" or dtype.kind not in "fu":
        return np.dtype("<i8")
    return np.dtype("<f8") if dtype.kind == "f" else np.dtype("<u8" if dtype.itemsize == 8 else "<i8")


@lru_cache(maxsize=1024)
def limits(kind: str, dtype: np.dtype[Any], n_labels: int) -> tuple[int, int]:
    """The smallest and largest whole number that can be one of a field's values."""
    if kind == "category":
        return 0, n_labels - 1
    if dtype.kind == "b":
        return 0, 1
    info = np.iinfo(dtype if dtype.kind in "iu" else np.int64)
    return int(info.min) + (dtype.kind in "mM"), int(info.max)


def parse_held(
    r: document.Reader,
    kind: str,
    dtype: np.dtype[Any],
    n_labels: int,
    rows: int,
    n_items: int | None,
    n_entries: int,
    n_values: int | None = None,
) -> Held:
    """What a part.json says that a field holds, every value checked.

    Parameters
    ----------
    r : Reader
        Of the object.
    kind, dtype, n_labels
        Of the field's values.
    rows : int
        Of the layer.
    n_items : int or None
        Elements of all its outermost lists, None where it has none.
    n_entries : int
        Of the layer's array of grains.
    n_values : int, optional
        How many numbers there are.
    """
    low, high = (_number(r, key, kind, dtype, n_labels) for key in ("low", "high"))
    if (low is None) != (high is None) or (low is not None and high is not None and low > high):
        r.fail("high", "a number not less than 'low', or both absent")
    nan = r.value.get("nan", False)
    if type(nan) is not bool or (nan and (kind == "category" or dtype.kind not in "fmM")):
        r.fail("nan", "true or false, and true for reals and times only")
    items = None
    if n_items is not None:
        fewest, most = (*r.integers("items"), -1, -1)[:2]
        if len(r.value["items"]) != 2 or not fewest <= most or not fewest * rows <= n_items <= most * rows:
            r.fail("items", f"the fewest and the most of {n_items} items in {rows} rows")
        items = fewest, most
    elif "items" in r.value:
        r.fail("items", "absent, but for lists")
    counted = [_count(r, "nans", n_values, nan), _count(r, "infs", n_values, any(x in _INFINITE for x in (low, high)))]
    if n_values is not None and sum(n or 0 for n in counted) > n_values:
        r.fail("nans", f"with infs no more than {n_values} values")
    entry = r.integer("entry") if "entry" in r.value else None
    if entry is not None and entry >= n_entries:
        r.fail("entry", f"a number of less than {n_entries}, the fields in the array of grains")
    return Held(low, high, nan, items, entry, *counted)


def _count(r: document.Reader, key: str, n_values: int | None, some: bool) -> int | None:
    """How many values are nan, or infinite, if that is said."""
    if key not in r.value:
        return None
    n = r.integer(key)
    if not some or not n or (n_values is not None and n > n_values):
        r.fail(key, f"1 to {n_values} where there are some, else absent")
    return n


def _number(r: document.Reader, key: str, kind: str, dtype: np.dtype[Any], n_labels: int) -> Number | None:
    v: Any = r.value.get(key)
    if v is None and key not in r.value:
        return None
    if type(v) is float and kind != "category" and dtype.kind == "f":
        return v
    if kind != "category" and dtype.kind == "f":
        if type(v) is int and abs(v) > 1 << 53:
            r.fail(key, "a real number, 'inf' or '-inf'")
        if type(v) in (int, float) or v in ("inf", "-inf"):
            return float(v)
        r.fail(key, "a real number, 'inf' or '-inf'")
    least, most = limits(kind, dtype, n_labels)
    if type(v) is not int or not least <= v <= most:
        r.fail(key, f"an integer from {least} to {most}")
    return v
