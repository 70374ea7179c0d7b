"""Splits by the keys of rows: which fold a row belongs to depends on its keys, and for a hash on the seed, alone.

So folds stay what they are when data are appended, rows of one key stay together, and nothing is stored.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import xxhash

from mmdask.errors import OptionError, UnevenFoldsWarning
from mmdask.expr import spelled_name
from mmdask.kernels.hashing import GOLDEN, hash_key, mix
from mmdask.schema import Field, FieldData

__all__ = [
    "MAX_FOLDS",
    "SPLIT_VERSION",
    "Fold",
    "Hashed",
    "Modulo",
    "Numbering",
    "check_fractions",
    "check_key",
    "check_keys",
    "check_seed",
    "equal_folds",
    "folds",
    "hash_rows",
    "keys_of",
    "modulo_folds",
    "warn_if_uneven",
]

#: of the assignment of rows to folds
SPLIT_VERSION = 1
#: folds of a split at most, and the largest modulus
MAX_FOLDS = 1000
_ALL = 1 << 32
#: how far the size of a fold may be from what was asked for, in standard deviations
_SIGMAS = 5

Keys = Sequence[tuple[Field, FieldData]]
Numbers = npt.NDArray[np.int64] | npt.NDArray[np.uint32]


# Numbers of rows ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hashed:
    """Rows are numbered by a hash of their keys: the values of some fields, or without a name the row number."""

    by: tuple[str, ...]
    seed: int
    size: ClassVar[int] = _ALL

    def numbers(self, keys: Keys) -> Numbers:
        """The number of each row, below `size`."""
        return _hash(keys, self.seed)

    def text(self, by: Any) -> list[Any]:
        """What tells it from other numberings; `by` says what the keys are."""
        return ["fold", SPLIT_VERSION, by, self.seed]


@dataclass(frozen=True)
class Modulo:
    """Rows are numbered by the remainder of an integer, which is never negative: a field, or the row number."""

    by: tuple[str, ...]
    modulus: int

    @property
    def size(self) -> int:
        return self.modulus

    def numbers(self, keys: Keys) -> Numbers:
        [(field, data)] = keys
        _check_integer(field)
        values = data.values
        if values.dtype.kind == "u":
            return (values.astype(np.uint64) % np.uint64(self.modulus)).astype(np.int64)
        return values.astype(np.int64) % np.int64(self.modulus)

    def text(self, by: Any) -> list[Any]:
        return ["mod", SPLIT_VERSION, by, self.modulus]


Numbering = Hashed | Modulo


@dataclass(frozen=True)
class Fold:
    """Rows whose number is in ``[low, high)``, or all others."""

    numbering: Numbering
    low: int
    high: int
    inside: bool = True

    def holds(self, numbers: Numbers) -> npt.NDArray[np.bool_]:
        """Which rows of these numbers are in the fold."""
        found = (numbers >= self.low) & (numbers < self.high)
        return found if self.inside else ~found

    @property
    def share(self) -> float:
        """The part of all rows that is expected in it."""
        share = (self.high - self.low) / self.numbering.size
        return share if self.inside else 1 - share

    def text(self, by: Any) -> list[Any]:
        return [*self.numbering.text(by), self.low, self.high, *([] if self.inside else ["others"])]


def keys_of(by: object) -> tuple[str, ...]:
    """Names of the fields that are the key: of one name or a list; none for the row number."""
    names = () if by is None else (by,) if isinstance(by, str) else tuple(by) if isinstance(by, list | tuple) else None
    if names is None or (by is not None and not names) or not all(isinstance(name, str) for name in names):
        raise OptionError(f"by= is the name of a field, or a list of names that are the key together; got {by!r}")
    if len(set(names)) < len(names):
        raise OptionError(f"by={by!r} names a field twice")
    return names


def check_seed(seed: object) -> int:
    """The seed, if it is one."""
    if type(seed) is not int or not 0 <= seed < 1 << 64:
        raise OptionError(f"seed is an integer, at least 0 and below 2**64; got {seed!r}")
    return seed


# Cutting the numbers into folds -------------------------------------------------------------------------------------


def check_fractions(fractions: Mapping[str, float]) -> float:
    """The sum of fractions, which is 1 but for rounding.

    Raises
    ------
    OptionError
        When they are not positive numbers that sum to 1.
    """
    if not fractions:
        raise OptionError("a split needs at least one name and fraction, as in {'train': 0.8, 'test': 0.2}")
    for name, fraction in fractions.items():
        if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction <= 1:
            raise OptionError(f"the fraction of {name!r} is {fraction!r}; a fraction is a number above 0 and at most 1")
    total = sum(fractions.values())
    if abs(total - 1) > 1e-9:
        raise OptionError(f"the fractions sum to {total:.6g}, not 1; add a part for the rest, as in 'rest': ...")
    return total


def folds(fractions: Mapping[str, float], by: str | Sequence[str] | None, seed: int) -> dict[str, Fold]:
    """Cut [0, 1) into folds by name, disjoint and exhaustive; the numbers of rows are hashes.

    Raises
    ------
    OptionError
        When the fractions are not positive numbers that sum to 1.

    Examples
    --------
    >>> list(folds({"train": 0.8, "test": 0.2}, None, 7))
    ['train', 'test']
    """
    total = check_fractions(fractions)
    numbering = Hashed(keys_of(by), check_seed(seed))
    ends = [round(done / total * _ALL) for done in itertools.accumulate(fractions.values())]
    return _between(numbering, list(fractions), [*ends[:-1], _ALL])


def modulo_folds(fractions: Mapping[str, float], by: str | Sequence[str] | None) -> dict[str, Fold]:
    """Deal out the remainders of a number: the first folds get the lowest.

    The modulus is the sum of the fractions if they are integers, as in ``{"train": 4, "test": 1}``, else their common
    denominator.

    Raises
    ------
    OptionError
        When the fractions have no common denominator up to 1,000, or there are several keys.

    Examples
    --------
    >>> modulo_folds({"train": 0.8, "test": 0.2}, "event")["test"]
    Fold(numbering=Modulo(by=('event',), modulus=5), low=4, high=5, inside=True)
    """
    names = _one_key(by)
    if fractions and all(type(x) is int and x > 0 for x in fractions.values()):
        parts, modulus = list(map(int, fractions.values())), int(sum(fractions.values()))
    else:
        check_fractions(fractions)
        exact = [Fraction(x).limit_denominator(MAX_FOLDS) for x in fractions.values()]
        modulus = math.lcm(*(x.denominator for x in exact))
        parts = [int(x * modulus) for x in exact]
        near = all(abs(float(x) - given) <= 1e-9 for x, given in zip(exact, fractions.values(), strict=True))
        if not near or sum(parts) != modulus:
            modulus = MAX_FOLDS + 1
    if modulus > MAX_FOLDS:
        raise OptionError(
            f"how='mod' needs fractions with a common denominator of at most {MAX_FOLDS:,}, or integers that sum to "
            f"no more, as in {{'train': 4, 'test': 1}}; got {dict(fractions)}"
        )
    return _between(Modulo(names, modulus), list(fractions), list(itertools.accumulate(parts)))


def equal_folds(k: int, numbering: Numbering) -> list[Fold]:
    """Cut the numbers of rows into `k` folds of one size: number n is in fold ``n * k // size``."""
    ends = [-(-i * numbering.size // k) for i in range(1, k + 1)]
    return list(_between(numbering, list(map(str, range(k))), ends).values())


def _one_key(by: str | Sequence[str] | None) -> tuple[str, ...]:
    names = keys_of(by)
    if len(names) > 1:
        raise OptionError(f"how='mod' goes by one integer, not by {list(names)}; how='hash' takes several keys")
    return names


def _between(numbering: Numbering, names: Sequence[str], ends: Sequence[int]) -> dict[str, Fold]:
    return {name: Fold(numbering, low, high) for name, low, high in zip(names, [0, *ends], ends, strict=False)}


def warn_if_uneven(fold: Fold, n: int, n_before: int) -> None:
    """Warn if of so many rows a fold has a number that no random one would have; hashes are random."""
    share = fold.share
    expected = n_before * share
    if isinstance(fold.numbering, Hashed) or abs(n - expected) <= _SIGMAS * math.sqrt(expected * (1 - share)):
        return
    key = fold.numbering.by[0] if fold.numbering.by else "row number"
    message = (
        f"{n:,} of {n_before:,} rows are in a fold of {share:.4g} of {key} % {fold.numbering.size}, where "
        f"{expected:,.0f} are expected: {key!r} takes some remainders more often than others; split by how='hash', "
        "which is even whatever the numbers are"
    )
    warnings.warn(message, UnevenFoldsWarning, stacklevel=2)


# Keys ---------------------------------------------------------------------------------------------------------------


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
    return _hash([(field, data)], seed)


def _hash(keys: Keys, seed: int) -> npt.NDArray[np.uint32]:
    """As `hash_rows`; of several keys each is mixed into what the ones before left, so that their order counts."""
    (field, data), *more = keys
    key = mix(_keys(field, data))
    for field, data in more:
        key = mix(key + np.uint64(GOLDEN)) ^ mix(_keys(field, data))
    key ^= np.uint64(hash_key(seed, "split", SPLIT_VERSION))
    return (mix(key) >> np.uint64(32)).astype(np.uint32)


def check_key(field: Field, numbering: Numbering | None = None) -> None:
    """Raise `OptionError` unless a field has one key per row, an integer for remainders."""
    if isinstance(numbering, Modulo):
        _check_integer(field)
    number = field.kind == "dense" and not field.shape and field.dtype.kind in "biufmM"
    if not number and (field.kind not in ("string", "category") or field.levels):
        raise OptionError(
            f"a split needs one key per row, a number, time, text or label; {field.name!r} is {field.describe()}"
        )


def _check_integer(field: Field) -> None:
    if field.kind != "dense" or field.shape or field.dtype.kind not in "iu":
        raise OptionError(
            f"how='mod' needs one integer per row, as an event number; {field.name!r} is {field.describe()}; "
            "how='hash' takes any key"
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
