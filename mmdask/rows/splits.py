"""Splits by hash: which fold a row belongs to depends on its key and the seed alone.

So folds stay what they are when data are appended, rows of one key stay together, and nothing is stored.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from mmdask.errors import OptionError
from mmdask.expr import spelled_name
from mmdask.kernels.hashing import hash_key, mix
from mmdask.schema import Field, FieldData

__all__ = ["SPLIT_VERSION", "Fold", "check_key", "check_keys", "folds", "hash_rows"]

#: of the assignment of rows to folds
SPLIT_VERSION = 1
_ALL = 1 << 32


@dataclass(frozen=True)
class Fold:
    """Rows whose hash is in ``[low, high)`` of 2**32. `by` is the field that is the key; None for the row number."""

    by: str | None
    seed: int
    low: int
    high: int

    def holds(self, hashes: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
        """Which rows of these hashes are in the fold."""
        return (hashes >= self.low) & (hashes < self.high)


def folds(fractions: Mapping[str, float], by: str | None, seed: int) -> dict[str, Fold]:
    """Cut [0, 1) into folds by name, disjoint and exhaustive.

    Raises
    ------
    OptionError
        When the fractions are not positive numbers that sum to 1.

    Examples
    --------
    >>> list(folds({"train": 0.8, "test": 0.2}, None, 7))
    ['train', 'test']
    """
    if not fractions:
        raise OptionError("a split needs at least one name and fraction, as in {'train': 0.8, 'test': 0.2}")
    for name, fraction in fractions.items():
        if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction <= 1:
            raise OptionError(f"the fraction of {name!r} is {fraction!r}; a fraction is a number above 0 and at most 1")
    if type(seed) is not int or not 0 <= seed < 1 << 64:
        raise OptionError(f"seed is an integer, at least 0 and below 2**64; got {seed!r}")
    total = sum(fractions.values())
    if abs(total - 1) > 1e-9:
        raise OptionError(f"the fractions sum to {total:.6g}, not 1; add a part for the rest, as in 'rest': ...")
    result = {}
    edge, done = 0, 0.0
    names = list(fractions)
    for name in names:
        done += fractions[name]
        end = _ALL if name == names[-1] else round(done / total * _ALL)
        result[name] = Fold(by, seed, edge, end)
        edge = end
    return result


def check_keys(field: Field, data: FieldData, selected: npt.NDArray[np.bool_] | None = None) -> None:
    """Raise `OptionError` if a selected row has no key: it would belong with no other, or with all that have none."""
    valid = data.valid_at(0)
    if valid is not None and not (valid if selected is None else valid | ~selected).all():
        name = field.name
        raise OptionError(
            f"{name!r} is missing in some of these rows, so they cannot be split by it; split by another field, or "
            f"only the rows that have it: ds[ds.cut({f'not ismissing({spelled_name(name)})'!r})].split(...)"
        )


def hash_rows(field: Field, data: FieldData, seed: int) -> npt.NDArray[np.uint32]:
    """A hash per row of a key field, uint32 ``(rows,)``; equal keys, whatever their width, give equal hashes.

    Parameters
    ----------
    field, data : Field, FieldData
        Integers (equal numbers hash equally in every width), bools, floats, times, text or labels.
    seed : int
        Splits of different seeds are independent.

    Notes
    -----
    Two rounds of the splitmix64 finaliser: of the key, and of that combined with a hash of the seed.
    """
    key = mix(_keys(field, data))
    key ^= np.uint64(hash_key(seed, "split", SPLIT_VERSION))
    return (mix(key) >> np.uint64(32)).astype(np.uint32)


def check_key(field: Field) -> None:
    """Raise `OptionError` unless a field has one key per row."""
    number = field.kind == "dense" and not field.shape and field.dtype.kind in "biufmM"
    if not number and (field.kind not in ("string", "category") or field.levels):
        raise OptionError(
            f"a split needs one key per row, a number, time, text or label; {field.name!r} is {field.describe()}"
        )


def _keys(field: Field, data: FieldData) -> npt.NDArray[np.uint64]:
    check_key(field)
    if field.kind in ("string", "category"):
        return _text_keys(data)
    values = data.values
    if values.dtype.kind == "f":
        # +0.0 and -0.0 are one key
        return (values.astype(np.float64) + 0.0).view(np.uint64)
    if values.dtype.kind in "mM":
        return values.view(np.uint64)
    return values.astype(np.int64).view(np.uint64)


def _text_keys(data: FieldData) -> npt.NDArray[np.uint64]:
    digest: Any = xxhash.xxh3_64_intdigest
    if not data.offsets:
        table = np.array([digest(label.encode()) for label in data.labels], np.uint64)
        return table.take(data.values)
    raw = np.ascontiguousarray(data.values).data
    bounds = data.offsets[-1].tolist()
    return np.array([digest(raw[a:b]) for a, b in itertools.pairwise(bounds)], np.uint64)
