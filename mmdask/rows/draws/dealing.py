"""Splits by a permutation: folds of exact sizes, of all rows or of each class of rows.

Which fold a row is in depends on how many rows there are, so that appending moves rows from one fold to another.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from mmdask.errors import OptionError
from mmdask.kernels import permute
from mmdask.kernels.hashing import hash_key
from mmdask.rows.bits import PartBits, RowBits, pack, plain, unpack
from mmdask.rows.draws.splits import check_fractions, check_seed
from mmdask.rows.reading.part import read_part
from mmdask.rows.views.virtual import Derived, values_of
from mmdask.schema import Field, FieldData
from mmdask.store.snapshot import Snapshot

__all__ = ["DEAL_VERSION", "Deal", "Dealer", "check_strata", "deals", "key_of_rows", "quotas"]

#: of the assignment of rows to folds
DEAL_VERSION = 1
#: classes of rows at most
MAX_CLASSES = 1000
#: rows that are looked at together; a multiple of 8
_PIECE = 1 << 18
_MISSING = "missing"

Int64s = npt.NDArray[np.int64]
#: the value that a class has in common: a code, an integer, or None where it is missing
Class = int | None


@dataclass(frozen=True)
class Deal:
    """Rows into folds by a permutation of the rows that are selected before.

    Parameters
    ----------
    shares : tuple of float
        Of each fold.
    seed : int
        Another seed gives an independent permutation.
    by : str or None
        The field of which each value is a class that is dealt alone.
    """

    shares: tuple[float, ...]
    seed: int
    by: str | None = None

    def edges(self, n: int) -> Int64s:
        """Where the folds of `n` rows end, int64 ``(folds,)``."""
        return np.cumsum(quotas(n, self.shares))

    def folds(self, n: int, ranks: Int64s, label: int | str) -> Int64s:
        """The folds of some of the `n` rows of a class, by their ranks in it; int64."""
        key = np.full(len(ranks), hash_key("mmdask.deal", DEAL_VERSION, self.seed, label), np.uint64)
        places = permute.forward(ranks, np.full(len(ranks), n, np.int64), key)
        return np.searchsorted(self.edges(n), places, side="right")


def quotas(n: int, shares: Sequence[float]) -> list[int]:
    """Deal `n` out by shares: whole numbers that sum to `n`, each within one of its share, by the largest remainders.

    Examples
    --------
    >>> quotas(10, [0.8, 0.1, 0.1]), quotas(2, [1, 1, 1])
    ([8, 1, 1], [1, 1, 0])
    """
    exact = [Fraction(share) for share in shares]
    total = sum(exact)
    wanted = [n * share / total for share in exact]
    found = [int(w) for w in wanted]
    # Shares like 0.1 are no binary fractions: remainders that differ by rounding alone are equal.
    first = sorted(range(len(wanted)), key=lambda i: (-round(float(wanted[i] - found[i]), 6), i))
    for i in first[: n - sum(found)]:
        found[i] += 1
    return found


def deals(fractions: Mapping[str, float], seed: int, by: str | None) -> dict[str, tuple[Deal, int]]:
    """The deal of a split, and the number of each fold, by name.

    Raises
    ------
    OptionError
        When the fractions are not positive numbers that sum to 1.
    """
    check_fractions(fractions)
    deal = Deal(tuple(map(float, fractions.values())), check_seed(seed), by)
    return {name: (deal, i) for i, name in enumerate(fractions)}


def check_strata(field: Field) -> None:
    """Raise `OptionError` unless the values of a field are classes: labels, booleans or integers, one per row."""
    if field.kind != "category" and not (field.kind == "dense" and not field.shape and field.dtype.kind in "biu"):
        raise OptionError(
            f"stratify= is a category, or a field of booleans or integers; {field.name!r} is {field.describe()}"
        )


def key_of_rows(
    snapshot: Snapshot, name: str, derived: Derived | None, part: int, start: int, stop: int
) -> tuple[Field, FieldData]:
    """A field, stored or computed, of rows `start` to `stop` of a part."""

    def read(field: str) -> FieldData:
        return read_part(snapshot, part, field, start, stop)

    if derived is None:
        return snapshot.schema[name], read(name)
    return derived.field, values_of(derived, read, stop - start, first_row=int(snapshot.starts[part]) + start)


class Dealer:
    """The folds of rows of a store. Keeps how many rows of each class come before every 2**18 rows.

    Parameters
    ----------
    snapshot : Snapshot
        The store.
    deal : Deal
        The split.
    derived : Derived or None
        The field of its classes, if that is computed.
    before : RowBits
        The rows that are dealt out.

    Raises
    ------
    OptionError
        When there are more than 1,000 classes.
    """

    def __init__(self, snapshot: Snapshot, deal: Deal, derived: Derived | None, before: RowBits) -> None:
        self.snapshot, self.deal, self.derived, self.before = snapshot, deal, derived, before
        self._ranks: dict[tuple[int, int], dict[Class, int]] = {}
        self._totals: dict[Class, int] = {}
        for part, first, _ in self._pieces():
            self._ranks[part, first] = dict(self._totals)
            for value, here in self._classes(part, first):
                self._totals[value] = self._totals.get(value, 0) + len(here)
            if len(self._totals) > MAX_CLASSES:
                raise OptionError(
                    f"{deal.by!r} has more than {MAX_CLASSES:,} values in these rows; stratify by a field of classes"
                )

    @property
    def nbytes(self) -> int:
        """About what is kept."""
        return 256 * sum(1 + len(ranks) for ranks in self._ranks.values()) + 1024

    def _pieces(self) -> Iterator[tuple[int, int, int]]:
        for number, part in enumerate(self.snapshot.parts):
            if self.before.counts[number]:
                for first in range(0, part.rows, _PIECE):
                    yield number, first, min(first + _PIECE, part.rows)

    def _selected(self, part: int, first: int) -> Int64s:
        """Which rows of a piece are dealt out, from 0 on."""
        n = min(_PIECE, self.snapshot.parts[part].rows - first)
        bits = self.before.part(part)
        if isinstance(bits, bool):
            return np.arange(n if bits else 0)
        return np.flatnonzero(unpack(bits, first, first + n))

    def _classes(self, part: int, first: int) -> Iterator[tuple[Class, Int64s]]:
        """The classes of the rows of a piece that are dealt out, and which rows are of each."""
        rows = self._selected(part, first)
        if self.deal.by is None:
            yield None, rows
            return
        if not len(rows):
            return
        last = int(rows[-1]) + 1
        _, data = key_of_rows(self.snapshot, self.deal.by, self.derived, part, first, first + last)
        valid, values = data.valid_at(0), data.values
        if valid is not None:
            yield None, rows[~valid[rows]]
            rows = rows[valid[rows]]
        different, which = np.unique(values[rows], return_inverse=True)
        order = np.argsort(which, kind="stable")
        ends = np.cumsum(np.bincount(which, minlength=len(different)))[:-1]
        for value, here in zip(different.tolist(), np.split(order, ends), strict=True):
            yield int(value), rows[here]

    def folds(self, part: int, first: int) -> Int64s:
        """The fold of each row of the piece that begins at a row of a part, -1 for rows that are not dealt out."""
        found = np.full(min(_PIECE, self.snapshot.parts[part].rows - first), -1, np.int64)
        for value, rows in self._classes(part, first):
            begin = self._ranks[part, first].get(value, 0)
            ranks = np.arange(begin, begin + len(rows))
            found[rows] = self.deal.folds(self._totals.get(value, 0), ranks, self._label(value)) if len(rows) else 0
        return found

    def _label(self, value: Class) -> int | str:
        """What stays the same of a class whatever its code is."""
        if value is None:
            return _MISSING
        field = None if self.deal.by is None else self.snapshot.schema.get(self.deal.by)
        if self.derived is not None:
            field = self.derived.field
        return f"label {field.labels[value]}" if field is not None and field.kind == "category" else value

    def bits(self, fold: int, inside: bool) -> list[PartBits]:
        """The rows of a fold, or those of all others, per part."""
        found: list[PartBits] = [False] * len(self.snapshot.parts)
        pieces: dict[int, list[npt.NDArray[np.uint8]]] = {}
        for part, first, _ in self._pieces():
            folds = self.folds(part, first)
            pieces.setdefault(part, []).append(pack(folds == fold if inside else (folds >= 0) & (folds != fold)))
        for part, some in pieces.items():
            found[part] = plain(np.concatenate(some), self.snapshot.parts[part].rows)
        return found

    def folds_of(self, numbers: Int64s) -> Int64s:
        """The folds of some store rows, ascending; -1 for those that are not dealt out. int64."""
        found = np.full(len(numbers), -1, np.int64)
        starts = self.snapshot.starts
        part = np.searchsorted(starts, numbers, side="right") - 1
        piece = (numbers - starts[part]) // _PIECE
        edges = np.flatnonzero((np.diff(part, prepend=-1) != 0) | (np.diff(piece, prepend=-1) != 0))
        for a, b in itertools.pairwise([*edges.tolist(), len(numbers)]):
            p, first = int(part[a]), int(piece[a]) * _PIECE
            if self.before.counts[p]:
                found[a:b] = self.folds(p, first)[numbers[a:b] - starts[p] - first]
        return found
