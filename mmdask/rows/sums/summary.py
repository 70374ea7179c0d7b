"""What is said of the values of a field: how many there are, smallest, largest, mean and spread. Pure.

Summaries of different rows are added. Of whole numbers everything is exact, in Python's integers. Of reals there are
the mean and the sum of squared differences from it (Chan, Golub and LeVeque 1983), so that a large mean takes no
digits from a small spread.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.schema import Field, FieldData

__all__ = ["Summary", "summarize"]

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
Number = int | float


@dataclass(frozen=True)
class Summary:
    """What there is in a field in some rows.

    Attributes
    ----------
    count : int
        Values that are there: of rows, of items where there are lists; of text and labels the rows.
    missing : int
        Rows, lists and items that are missing.
    nan, inf : int
        Values that are nan or NaT, and infinite ones.
    low, high : int or float or None
        Smallest and largest finite value; times as their numbers.
    total, squares : int
        Of whole numbers and times: their sum, and that of their squares.
    mean, spread : float
        Of reals: the mean of the finite values, and the sum of their squared differences from it.
    rows, items, fewest, most : int
        Of fields with lists: rows that are there, and how many elements their outermost lists have, in all, at least
        and at most; of text bytes.
    """

    count: int = 0
    missing: int = 0
    nan: int = 0
    inf: int = 0
    low: Number | None = None
    high: Number | None = None
    total: int = 0
    squares: int = 0
    mean: float = 0.0
    spread: float = 0.0
    rows: int = 0
    items: int = 0
    fewest: int | None = None
    most: int | None = None

    @property
    def finite(self) -> int:
        """How many values there are that are neither nan nor infinite."""
        return self.count - self.nan - self.inf

    def __add__(self, other: Summary) -> Summary:
        mean, spread = _joined(self, other)
        sums = {key: getattr(self, key) + getattr(other, key) for key in _SUMS}
        ends = {key: _end(end, getattr(self, key), getattr(other, key)) for key, end in _ENDS.items()}
        return Summary(**sums, **ends, mean=mean, spread=spread)

    def dump(self) -> dict[str, Any]:
        """As JSON has it, without what is as in a summary of nothing."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value != getattr(Summary, key)}

    @classmethod
    def load(cls, entry: object) -> Summary | None:
        """What `dump` gave; None if it is something else."""
        if not isinstance(entry, Mapping) or not set(entry) <= set(_SUMS) | set(_ENDS) | {"mean", "spread"}:
            return None
        for key, value in entry.items():
            real = key in ("mean", "spread", "low", "high")
            if type(value) is not int and not (real and type(value) is float):
                return None
        return cls(**entry)


_SUMS = ("count", "missing", "nan", "inf", "total", "squares", "rows", "items")
_ENDS = {"low": min, "high": max, "fewest": min, "most": max}


def _end(end: Any, a: Number | None, b: Number | None) -> Any:
    return b if a is None else a if b is None else end(a, b)


def _joined(a: Summary, b: Summary) -> tuple[float, float]:
    """Mean and spread of two sets of reals together."""
    n, m = a.finite, b.finite
    if not n or not m:
        return (a.mean, a.spread) if n else (b.mean, b.spread)
    with np.errstate(all="ignore"):
        apart = np.float64(b.mean) - np.float64(a.mean)
        mean = a.mean + apart * (m / (n + m))
        if not math.isfinite(mean):  # they are farther apart than a number can say
            mean = np.float64(a.mean * (n / (n + m)) + b.mean * (m / (n + m)))
        return float(mean), float(a.spread + b.spread + apart * apart * (n * (m / (n + m))))


def summarize(field: Field, data: FieldData, inside: Bools | None = None) -> Summary:
    """What there is in a block of rows.

    Parameters
    ----------
    field : Field
        What the values are.
    data : FieldData
        The rows.
    inside : numpy.ndarray, optional
        Which of them are looked at, bool ``(rows,)``; all by default.

    Examples
    --------
    >>> from mmdask.schema import Field
    >>> s = summarize(Field.dense("x", "f4"), FieldData(np.float32([1, 3, np.nan, np.inf])))
    >>> s.count, s.nan, s.inf, s.low, s.high, s.mean, s.spread
    (4, 1, 1, 1.0, 3.0, 2.0, 2.0)
    """
    missing, lists = 0, {}
    use = inside
    for depth, offsets in enumerate(data.offsets):
        use, lacking = _there(data, depth, use)
        missing += lacking
        counts = np.diff(offsets)
        if not depth:
            there = counts if use is None else counts[use]
            lists = {"rows": len(there), "items": int(there.sum())}
            if len(there):
                lists |= {"fewest": int(there.min()), "most": int(there.max())}
        if depth == field.levels:  # what follows are the bytes of text, or items of arrays
            break
        use = None if use is None else np.repeat(use, counts)
    if field.kind == "string":
        n = len(data.offsets[-1]) - 1 if use is None else int(np.count_nonzero(use))
        return Summary(n, missing, **lists)
    if field.kind == "shaped":
        use = None if use is None else np.repeat(use, data.counts)
    else:
        use, lacking = _there(data, len(data.offsets), use)
        missing += lacking
    values = data.values if use is None else data.values[use]
    values = values.reshape(-1)
    if field.kind == "category":
        return Summary(len(values), missing, **lists)
    return dataclasses.replace(_of_values(values), missing=missing, **lists)


def _there(data: FieldData, depth: int, use: Bools | None) -> tuple[Bools | None, int]:
    """Which elements at a depth are looked at and there, and how many are missing of those that are looked at."""
    valid = data.valid_at(depth)
    if valid is None:
        return use, 0
    there = valid if use is None else valid & use
    n = len(valid) if use is None else int(np.count_nonzero(use))
    return there, n - int(np.count_nonzero(there))


def _of_values(values: Array) -> Summary:
    n, kind = len(values), values.dtype.kind
    if not n or kind not in "biufcmM":
        return Summary(n)
    if kind in "mM":
        nat = np.isnat(values)
        n_nat = int(np.count_nonzero(nat))
        whole = _of_integers((values[~nat] if n_nat else values).view(np.int64))
        return dataclasses.replace(whole, count=n, nan=n_nat)
    if kind == "c":
        n_nan, n_finite = int(np.count_nonzero(np.isnan(values))), int(np.count_nonzero(np.isfinite(values)))
        return Summary(n, nan=n_nan, inf=n - n_nan - n_finite)
    if kind != "f":
        return _of_integers(values)
    finite, nan = values, 0
    if not math.isfinite(float(values.min()) + float(values.max())) or values.dtype.itemsize < 4:
        finite = values[np.isfinite(values)]
        nan = int(np.count_nonzero(np.isnan(values)))
    inf = n - nan - len(finite)
    if not len(finite):
        return Summary(n, nan=nan, inf=inf)
    wide = finite.astype(np.float64)
    with np.errstate(all="ignore"):
        mean = float(wide.mean())
        if not math.isfinite(mean):  # the sum is too large, and the mean is not
            mean = float((wide / len(wide)).sum())
        wide -= mean
        spread = float(np.dot(wide, wide))
    return Summary(n, 0, nan, inf, float(finite.min()), float(finite.max()), mean=mean, spread=spread)


# Whole numbers, exactly ---------------------------------------------------------------------------------------------


def _of_integers(values: Array) -> Summary:
    if not len(values):
        return Summary()
    if values.dtype.kind == "b":
        n = int(np.count_nonzero(values))
        return Summary(len(values), low=int(n == len(values)), high=int(n > 0), total=n, squares=n)
    low, high = int(values.min()), int(values.max())
    total, squares = _sums(values, max(abs(low), abs(high)))
    return Summary(len(values), low=low, high=high, total=total, squares=squares)


def _sums(values: Array, largest: int) -> tuple[int, int]:
    """The sum of integers, and that of their squares."""
    n = len(values)
    if n * largest * largest < 1 << 63:
        wide = values.astype(np.int64)
        return int(wide.sum()), int(np.dot(wide, wide))
    if values.dtype.kind == "i":
        wide = values.astype(np.int64)
        magnitude = np.abs(wide).view(np.uint64)  # that of the smallest number of all is right as an unsigned one
        negative = wide < 0
        return _sum(magnitude[~negative]) - _sum(magnitude[negative]), _sum_of_squares(magnitude)
    magnitude = values.astype(np.uint64)
    return _sum(magnitude), _sum_of_squares(magnitude)


_HALF = np.uint64(32)
_LOWER = np.uint64(0xFFFFFFFF)


def _sum(values: npt.NDArray[np.uint64]) -> int:
    """The sum, in two halves; right for up to 2**32 numbers."""
    return (int((values >> _HALF).sum()) << 32) + int((values & _LOWER).sum())


def _sum_of_squares(values: npt.NDArray[np.uint64]) -> int:
    upper, lower = values >> _HALF, values & _LOWER
    return (_sum(upper * upper) << 64) + (_sum(upper * lower) << 33) + _sum(lower * lower)
