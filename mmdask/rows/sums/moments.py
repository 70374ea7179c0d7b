"""Weighted means and spreads of the values of fields, each component of a shape for itself. Pure.

Sums are those of differences from a number near the mean (Chan, Golub and LeVeque 1983), so that a large mean takes no
digits from a small spread. That number is the mean by the sizes of the weights, which exists whatever their signs are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.schema import Field, FieldData

__all__ = ["Moments", "moments"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Moments:
    """Sums over finite values; each is float64 of the shape of an item.

    Attributes
    ----------
    count : numpy.ndarray
        Values.
    size, weight : numpy.ndarray
        Sums of absolute weights, and of weights.
    near : numpy.ndarray
        A number near the mean.
    first, second : numpy.ndarray
        Sums of weighted differences from it, and of their squares, weighted.
    """

    count: Floats
    size: Floats
    weight: Floats
    near: Floats
    first: Floats
    second: Floats

    @classmethod
    def nothing(cls, shape: tuple[int, ...]) -> Moments:
        """Those of no values."""
        return cls(*(np.zeros(shape) for _ in fields(cls)))

    def __add__(self, other: Moments) -> Moments:
        size = self.size + other.size
        with np.errstate(all="ignore"):
            part = np.where(size > 0, other.size / size, 0.0)
            near = self.near + (other.near - self.near) * part
        a, b = self._around(near), other._around(near)
        count, weight = self.count + other.count, self.weight + other.weight
        return Moments(count, size, weight, near, a[0] + b[0], a[1] + b[1])

    def _around(self, near: Floats) -> tuple[Floats, Floats]:
        """The sums of differences from another number."""
        with np.errstate(all="ignore"):
            apart = np.where(self.size > 0, self.near - near, 0.0)
            return self.first + apart * self.weight, self.second + apart * (2 * self.first + apart * self.weight)

    @property
    def mean(self) -> Floats:
        """The weighted mean; nan or infinite where there is none."""
        with np.errstate(all="ignore"):
            return np.asarray(self.near + self.first / self.weight)

    @property
    def variance(self) -> Floats:
        """The weighted mean of squared differences from the mean; below 0 where negative weights prevail."""
        with np.errstate(all="ignore"):
            apart = self.first / self.weight
            return np.asarray(self.second / self.weight - apart * apart)

    def dump(self) -> dict[str, Any]:
        """As JSON has it."""
        return {f.name: np.asarray(getattr(self, f.name)).tolist() for f in fields(self)}

    @classmethod
    def load(cls, entry: object, shape: tuple[int, ...]) -> Moments | None:
        """What `dump` gave; None if it is something else."""
        if not isinstance(entry, Mapping) or set(entry) != {f.name for f in fields(cls)}:
            return None
        try:
            arrays = [np.array(entry[f.name], np.float64) for f in fields(cls)]
        except (ValueError, TypeError):
            return None
        return cls(*arrays) if all(a.shape == shape for a in arrays) else None


def moments(field: Field, data: FieldData, inside: Bools | None = None, weights: Floats | None = None) -> Moments:
    """The sums of a block of rows, over all items of lists and arrays.

    Parameters
    ----------
    field : Field
        Numbers.
    data : FieldData
        The rows.
    inside : numpy.ndarray, optional
        Which of them are looked at, bool ``(rows,)``; all by default.
    weights : numpy.ndarray, optional
        float64 ``(rows,)``, of each row for all of its items; 1 by default.

    Examples
    --------
    >>> from mmdask.schema import Field
    >>> m = moments(Field.dense("x", "f4"), FieldData(np.float32([1, 3, np.nan])), weights=np.array([3.0, 1.0, 1.0]))
    >>> m.mean.item(), m.variance.item(), m.count.item()
    (1.5, 0.75, 2.0)
    """
    use = inside
    for depth, offsets in enumerate(data.offsets):
        use = _there(data, depth, use)
        counts = np.diff(offsets)
        use = None if use is None else np.repeat(use, counts)
        weights = None if weights is None else np.repeat(weights, counts)
    if field.kind != "shaped":
        use = _there(data, len(data.offsets), use)
    values = data.values if use is None else data.values[use]
    if not len(values):
        return Moments.nothing(field.shape)
    x = values.astype(np.float64)
    w = np.ones(len(x)) if weights is None else weights if use is None else weights[use]
    w = np.broadcast_to(w.reshape(-1, *[1] * (x.ndim - 1)), x.shape)
    finite = np.isfinite(x)
    if not finite.all():
        x, w = np.where(finite, x, 0.0), np.where(finite, w, 0.0)
    with np.errstate(all="ignore"):
        size = np.abs(w).sum(axis=0)
        near = np.where(size > 0, (np.abs(w) * x).sum(axis=0) / size, 0.0)
        # Once more, so that rounding of a long sum of large numbers is gone.
        near = near + np.where(size > 0, (np.abs(w) * (x - near)).sum(axis=0) / size, 0.0)
        x -= near
        wx = w * x
        second = (wx * x).sum(axis=0)
    count = finite.sum(axis=0).astype(np.float64)
    return Moments(*map(np.asarray, (count, size, w.sum(axis=0), near, wx.sum(axis=0), second)))


def _there(data: FieldData, depth: int, use: Bools | None) -> Bools | None:
    """Which elements at a depth are looked at and not missing."""
    valid = data.valid_at(depth)
    return use if valid is None else valid if use is None else valid & use
