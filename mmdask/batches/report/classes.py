"""The values of a field as numbers of classes, which are counted in batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mmdask.errors import OptionError
from mmdask.schema import Field

if TYPE_CHECKING:
    from mmdask.rows.rows import Rows

__all__ = ["Classes", "checked", "sample_of"]

Int64s = npt.NDArray[np.int64]
#: distinct integers that are classes of their own, else the values are cut into as many classes of equal size
_MOST_CLASSES = 64
_QUANTILES = 8


def checked(rows: Rows, field: str) -> Field:
    """The field, if it has one number or label per row."""
    kind = rows.schema[rows.schema.resolve(field)]
    if kind.kind not in ("dense", "category") or kind.shape or kind.dtype.kind not in "biufmM":
        raise OptionError(
            f"field {field!r} is {kind.describe()}; mixing is reported for fields with one number or label per row"
        )
    return kind


def sample_of(rows: Rows, field: Field) -> npt.NDArray[Any]:
    """Values of rows from all over, from which classes are made."""
    n = len(rows)
    return _values(rows, field, rows.numbers_of(np.unique(np.linspace(0, n - 1, min(n, 1 << 16)).astype(np.int64))))


def _values(rows: Rows, field: Field, numbers: Int64s) -> npt.NDArray[Any]:
    """Values as floats, nan where there is none; of categories codes, -1 there."""
    data = rows.take(field.name, numbers)
    values = data.values
    if values.dtype.kind in "mM":
        values = values.view(np.int64)
    valid = data.valid_at(0)
    if field.kind == "category":
        return values if valid is None else np.where(valid, values, -1)
    values = values.astype(np.float64)
    return values if valid is None else np.where(valid, values, np.nan)


class Classes:
    """The values of a field as numbers of classes; a `sample` of other rows may say which there are."""

    def __init__(self, rows: Rows, field: Field, sample: npt.NDArray[Any] | None = None) -> None:
        self.rows, self.field = rows, field
        sample = sample_of(rows, field) if sample is None else sample
        if field.kind == "category":
            self._edges = None
            self.n = max(len(field.labels), 1) + 1  # the last is of what is missing
            return
        found = np.unique(sample[~np.isnan(sample)])
        if len(found) > _MOST_CLASSES:
            found = np.unique(np.quantile(sample[~np.isnan(sample)], np.arange(_QUANTILES) / _QUANTILES))
        self._edges = found[1:]
        self.n = len(self._edges) + 2  # the last is of nan and what is missing

    def of(self, numbers: Int64s) -> Int64s:
        """The class of each of these rows, int64."""
        values = _values(self.rows, self.field, numbers)
        if self._edges is None:
            return values.astype(np.int64) % self.n
        found = np.searchsorted(self._edges, values, side="right").astype(np.int64)
        found[np.isnan(values)] = self.n - 1
        return found
