"""The steps by which rows are selected: slices, cuts, folds of splits, samples; what they leave, as bits per part."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from mmdask.errors import LimitError
from mmdask.expr import SEMANTICS, Expression, check, conjuncts
from mmdask.rows.bits import PartBits, RowBits, and_bits, bits_of_range, pack, unpack
from mmdask.rows.blocks import BLOCK_ROWS
from mmdask.rows.cuts.keyed import again_on
from mmdask.rows.cuts.passes import Runner, kept_bits
from mmdask.rows.draws.dealing import DEAL_VERSION, Deal, Dealer, check_strata, key_of_rows
from mmdask.rows.draws.sampling import Sample
from mmdask.rows.draws.splits import Fold, check_key, check_keys, warn_if_uneven
from mmdask.rows.views.views import SnapshotView
from mmdask.rows.views.virtual import Derived, define
from mmdask.schema import Field, FieldData, Schema
from mmdask.store.snapshot import Snapshot

__all__ = [
    "ROW_NUMBER",
    "Below",
    "Cut",
    "Dealt",
    "Sample",
    "Slice",
    "Split",
    "Step",
    "derived_on",
    "select",
    "too_many",
]

#: rows in a split: of them there are bits
_MAX_FOLDED = 1 << 36
ROW_NUMBER = Field.dense("row number", "i8")


@dataclass(frozen=True)
class Slice:
    """Rows `start` to `stop` by `step` of those that the steps before leave."""

    start: int
    stop: int
    step: int

    def text(self) -> list[Any]:
        return ["slice", self.start, self.stop, self.step]

    def on(self, before: Schema, snapshot: Snapshot) -> Slice:
        return self

    def of(self, counts: Sequence[int]) -> Iterator[PartBits]:
        """Which rows are chosen, for runs of so many rows that follow one another: bits of each run."""
        done = 0
        for n in counts:
            first = self.start - done
            if first < 0:
                first = first % self.step
            yield bits_of_range(first, self.stop - done, self.step, n) if self.stop > done and first < n else False
            done += n


@dataclass(frozen=True)
class Cut:
    """Rows that pass an expression."""

    expression: Expression

    def text(self) -> list[Any]:
        return ["cut", SEMANTICS, self.expression.canonical]

    def on(self, before: Schema, snapshot: Snapshot) -> Cut:
        return Cut(again_on(self.expression, snapshot.schema))


@dataclass(frozen=True)
class Split:
    """Rows of a fold; `derived` are the fields that it goes by, None for each that is not computed."""

    fold: Fold
    derived: tuple[Derived | None, ...] = ()

    def text(self) -> list[Any]:
        by = [key_text(*key) for key in zip(self.fold.numbering.by, self.derived, strict=True)]
        return self.fold.text(None if not by else by[0] if len(by) == 1 else by)

    def on(self, before: Schema, snapshot: Snapshot) -> Split:
        for name, derived in zip(self.fold.numbering.by, self.derived, strict=True):
            if derived is None:
                check_key(snapshot.schema[name], self.fold.numbering)
        return Split(self.fold, tuple([d and derived_on(d, before, snapshot) for d in self.derived]))


@dataclass(frozen=True)
class Dealt:
    """Rows of a fold of a permutation of the rows that the steps before leave, or of all other folds."""

    deal: Deal
    fold: int
    inside: bool = True
    derived: Derived | None = None

    def text(self) -> list[Any]:
        d = self.deal
        by = None if d.by is None else key_text(d.by, self.derived)
        return ["dealt", DEAL_VERSION, d.shares, d.seed, by, self.fold, self.inside]

    def on(self, before: Schema, snapshot: Snapshot) -> Dealt:
        if self.deal.by is not None and self.derived is None:
            check_strata(snapshot.schema[self.deal.by])
        return replace(self, derived=self.derived and derived_on(self.derived, before, snapshot))


class Selected(Protocol):
    """Rows of a snapshot that were selected before, as `Rows` are."""

    @property
    def identity(self) -> str: ...

    @property
    def span(self) -> range | None: ...

    def on(self, snapshot: Snapshot) -> Selected: ...

    def resolve(self, run: Runner) -> RowBits: ...


@dataclass(frozen=True)
class Below:
    """Rows of a view that are made of these rows of the snapshots that it is made of. The first step, if there."""

    rows: tuple[Selected, ...]

    def text(self) -> list[Any]:
        return ["below", [rows.identity for rows in self.rows]]

    def on(self, before: Schema, snapshot: Snapshot) -> Below:
        assert isinstance(snapshot, SnapshotView)
        return Below(tuple([rows.on(base) for rows, base in zip(self.rows, snapshot.bases, strict=True)]))

    def span(self, snapshot: Snapshot) -> range | None:
        """The rows, if slices alone select them, and they are a range."""
        assert isinstance(snapshot, SnapshotView)
        spans = [rows.span for rows in self.rows]
        return snapshot.span([span for span in spans if span is not None]) if None not in spans else None

    def bits(self, snapshot: Snapshot, run: Runner) -> list[PartBits]:
        """The rows, as bits of each part."""
        assert isinstance(snapshot, SnapshotView)
        return snapshot.lifted([rows.resolve(run) for rows in self.rows])


Step = Slice | Cut | Split | Dealt | Sample | Below


def key_text(name: str, derived: Derived | None) -> Any:
    """What tells a field that rows are split by from others."""
    return name if derived is None else ["computed", SEMANTICS, derived.token]


def derived_on(derived: Derived, before: Schema, snapshot: Snapshot) -> Derived:
    """The same field in another generation of a store, where fields may be others than they were `before`."""
    name = derived.field.name
    if all(snapshot.schema.get(read) == before[read] for read in derived.expression.fields):
        return derived
    found = define({name: check(derived.expression.canonical, snapshot.schema)}, snapshot.schema, {})[name]
    return replace(found, field=replace(found.field, expression=derived.field.expression))


def select(snapshot: Snapshot, steps: Sequence[Step], parts: list[PartBits], run: Runner) -> list[PartBits]:
    """What steps leave of the rows of a store that are selected before, per part; cuts are computed with `run`."""
    for counts_rows, group in itertools.groupby(steps, key=lambda step: isinstance(step, Slice | Sample | Dealt)):
        together = list(group)
        if counts_rows:
            for step in together:
                before = RowBits(snapshot.starts, parts)
                if isinstance(step, Dealt):
                    parts = Dealer(snapshot, step.deal, step.derived, before).bits(step.fold, step.inside)
                    continue
                assert isinstance(step, Slice | Sample)
                wanted = step.of(before.counts.tolist())
                rows = [part.rows for part in snapshot.parts]
                parts = list(map(_among, before.parts, wanted, before.counts.tolist(), rows))
            continue
        for step in together:
            if isinstance(step, Below):
                parts = list(map(and_bits, parts, step.bits(snapshot, run)))
        # Cuts and folds between two of those commute: all cuts in one pass, then the folds of what is left.
        leaves = [leaf for s in together if isinstance(s, Cut) for leaf in conjuncts(s.expression)]
        if leaves:
            parts = list(map(and_bits, parts, kept_bits(snapshot, leaves, run).parts))
        for split in [s for s in together if isinstance(s, Split)]:
            n_before = len(RowBits(snapshot.starts, parts))
            parts = [_in_fold(snapshot, split, p, bits) for p, bits in enumerate(parts)]
            warn_if_uneven(split.fold, len(RowBits(snapshot.starts, parts)), n_before)
    return parts


def too_many(snapshot: Snapshot, what: str) -> LimitError:
    """The error for more rows than anybody has."""
    return LimitError(
        f"{snapshot.path}: {snapshot.rows:,} rows are too many {what}; do not trust the store if it cannot be "
        "so large, for rows of constants take no space"
    )


def _in_fold(snapshot: Snapshot, split: Split, part: int, bits: PartBits) -> PartBits:
    if bits is False:
        return False
    fold = split.fold
    if snapshot.rows > _MAX_FOLDED:
        raise too_many(snapshot, "to be split")
    base, rows = int(snapshot.starts[part]), snapshot.parts[part].rows
    pieces = []
    for a in range(0, rows, BLOCK_ROWS):
        b = min(a + BLOCK_ROWS, rows)
        named = zip(fold.numbering.by, split.derived, strict=True)
        keys = [key_of_rows(snapshot, name, derived, part, a, b) for name, derived in named]
        if keys:
            selected = None if bits is True else unpack(bits, a, b)
            for field, data in keys:
                check_keys(field, data, selected)
        else:
            keys = [(ROW_NUMBER, FieldData(np.arange(base + a, base + b, dtype=np.int64)))]
        pieces.append(pack(fold.holds(fold.numbering.numbers(keys))))
    return and_bits(bits, np.concatenate(pieces))


def _among(bits: PartBits, wanted: PartBits, n: int, rows: int) -> PartBits:
    """Of the `n` rows of a part that are selected, those that are wanted: bits of these to bits of its rows."""
    if bits is False or wanted is False:
        return False
    if wanted is True or bits is True:
        return bits if wanted is True else wanted
    mask = np.zeros(rows, np.bool_)
    mask[np.flatnonzero(unpack(bits, 0, rows))[unpack(wanted, 0, n)]] = True
    return pack(mask)
