"""Axes of histograms: which bin a value belongs to. Pure; the numbers are those of boost-histogram, bit for bit.

Bins are numbered as in an array with flow: 0 is for what lies below, the last number for what lies above. Axes of
labels and of listed values have the latter alone, booleans neither. A bin contains its lower edge, not its upper one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.errors import OptionError
from mmdask.kernels.bins import places_of

__all__ = ["Axis", "Edges", "Flags", "Labels", "Listed", "Regular", "Whole", "fitting"]

Array = npt.NDArray[Any]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Regular:
    """`n` bins of equal width from `low` to `high`.

    Examples
    --------
    >>> Regular(2, 0.0, 1.0).places(np.array([-1, 0, 0.5, 1, np.inf]))
    array([0, 1, 2, 3, 3])
    """

    n: int
    low: float
    high: float

    @property
    def size(self) -> int:
        """Bins, those of the flow included; as of all axes."""
        return self.n + 2

    @property
    def edges(self) -> npt.NDArray[np.float64]:
        z = np.arange(self.n + 1) / self.n
        return np.asarray((1.0 - z) * self.low + z * self.high)

    def places(self, x: Array) -> Places:
        """The bin of each value, as of all axes; of nan any."""
        return places_of(x, self.low, self.high - self.low, self.n)


@dataclass(frozen=True)
class Edges:
    """Bins between ascending numbers.

    Examples
    --------
    >>> Edges((0.0, 10.0, 100.0)).places(np.array([-1, 0, 10, 100]))
    array([0, 1, 2, 3])
    """

    values: tuple[float, ...]

    @property
    def size(self) -> int:
        return len(self.values) + 1

    @property
    def edges(self) -> npt.NDArray[np.float64]:
        return np.array(self.values, np.float64)

    def places(self, x: Array) -> Places:
        return np.searchsorted(self.edges, x.astype(np.float64, copy=False), side="right")


@dataclass(frozen=True)
class Whole:
    """One bin for each whole number from `start` to `stop`, which is not among them. Reals are rounded down.

    Examples
    --------
    >>> Whole(4, 7).places(np.array([3, 4, 6, 7], "u8")), Whole(0, 2).places(np.array([-0.5, 1.5]))
    (array([0, 1, 3, 4]), array([0, 2]))
    """

    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start + 2

    @property
    def edges(self) -> npt.NDArray[np.int64]:
        return np.arange(self.start, self.stop + 1)

    def places(self, x: Array) -> Places:
        # Python integers are compared exactly, whatever the dtype holds.
        below, above = x < self.start, x >= self.stop
        inside = ~(below | above)
        places = np.zeros(len(x), np.int64)
        with np.errstate(invalid="ignore"):  # nan
            inner = np.floor(x[inside]) if x.dtype.kind == "f" else x[inside]
            places[inside] = inner.astype(np.int64) - (self.start - 1)
        places[above] = self.size - 1
        return places


@dataclass(frozen=True)
class Flags:
    """False and true."""

    size = 2

    def places(self, x: Array) -> Places:
        return x.astype(np.int64)


@dataclass(frozen=True)
class Labels:
    """The labels of a category, of which values are the codes."""

    labels: tuple[str, ...]

    @property
    def size(self) -> int:
        return len(self.labels) + 1

    def places(self, x: Array) -> Places:
        return x.astype(np.int64)


@dataclass(frozen=True)
class Listed:
    """Some integers, ascending; all others are in one bin behind them.

    Examples
    --------
    >>> Listed((2016, 2018)).places(np.array([2018, 2017, 2016]))
    array([1, 2, 0])
    """

    values: tuple[int, ...]

    @property
    def size(self) -> int:
        return len(self.values) + 1

    def places(self, x: Array) -> Places:
        n = len(self.values)
        if not n:
            return np.zeros(len(x), np.int64)
        kind = np.uint64 if self.values[-1] >= 1 << 63 else np.int64
        known, wide = np.array(self.values, kind), x.astype(kind)
        places = np.searchsorted(known, wide)
        return np.where(known[np.minimum(places, n - 1)] == wide, places, n)


Axis = Regular | Edges | Whole | Flags | Labels | Listed


def fitting(n: int, low: float, high: float) -> Regular:
    """`n` bins of equal width from `low` on, of which the last still contains `high`.

    As in numpy, bins around one number are 1 wide together. Otherwise the upper edge is the next number above `high`,
    or one of those behind it where rounding needs that.

    Raises
    ------
    OptionError
        When the two are farther apart than a number can say.

    Examples
    --------
    >>> fitting(4, 0, 1), fitting(1, 3, 3)
    (Regular(n=4, low=0.0, high=1.0000000000000002), Regular(n=1, low=2.5, high=3.5))
    """
    low, high = float(low), float(high)
    largest = np.array([high])
    if low == high:
        low, high = low - 0.5, high + 0.5
    width = high - low
    if not math.isfinite(width):
        raise OptionError(f"no bins of equal width are between {low:g} and {high:g}; give their edges, as a list")
    step, axis = 0.0, Regular(n, low, high)
    while width == 0 or axis.places(largest)[0] > n:
        step = 2 * step or float(np.spacing(max(abs(high), width)))
        axis = Regular(n, low, high + step)
        width = axis.high - low
    return axis
