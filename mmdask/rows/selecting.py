"""The steps by which rows are selected: slices, cuts, and folds of splits; and what they leave, as bits per part."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mmdask.errors import LimitError
from mmdask.expr import SEMANTICS, Expression, check, conjuncts
from mmdask.rows import reader
from mmdask.rows.bits import PartBits, RowBits, and_bits, bits_of_range, pack, unpack
from mmdask.rows.blocks import BLOCK_ROWS
from mmdask.rows.keyed import again_on
from mmdask.rows.passes import Runner, kept_bits
from mmdask.rows.splits import SPLIT_VERSION, Fold, check_key, check_keys, hash_rows
from mmdask.rows.virtual import Derived, define, values_of
from mmdask.schema import Field, FieldData, Schema
from mmdask.store.snapshot import Snapshot

__all__ = ["Cut", "Slice", "Split", "Step", "derived_on", "select", "too_many"]

#: rows in a split: of them there are bits
_MAX_FOLDED = 1 << 36
_ROW_NUMBER = Field.dense("row number", "i8")


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
    """Rows of a fold; `derived` is the field that it goes by, if that is computed."""

    fold: Fold
    derived: Derived | None = None

    def text(self) -> list[Any]:
        by = self.fold.by if self.derived is None else ["computed", SEMANTICS, self.derived.token]
        return ["fold", SPLIT_VERSION, by, self.fold.seed, self.fold.low, self.fold.high]

    def on(self, before: Schema, snapshot: Snapshot) -> Split:
        if self.derived is not None:
            return Split(self.fold, derived_on(self.derived, before, snapshot))
        if self.fold.by is not None:
            check_key(snapshot.schema[self.fold.by])
        return self


Step = Slice | Cut | Split


def derived_on(derived: Derived, before: Schema, snapshot: Snapshot) -> Derived:
    """The same field in another generation of a store, where fields may be others than they were `before`."""
    name = derived.field.name
    if all(snapshot.schema.get(read) == before[read] for read in derived.expression.fields):
        return derived
    found = define({name: check(derived.expression.canonical, snapshot.schema)}, snapshot.schema, {})[name]
    return replace(found, field=replace(found.field, expression=derived.field.expression))


def select(snapshot: Snapshot, steps: Sequence[Step], parts: list[PartBits], run: Runner) -> list[PartBits]:
    """What steps leave of the rows of a store that are selected before, per part; cuts are computed with `run`."""
    for is_slice, group in itertools.groupby(steps, key=lambda step: isinstance(step, Slice)):
        together = list(group)
        if is_slice:
            for step in together:
                assert isinstance(step, Slice)
                parts = _in_slice(snapshot, step, RowBits(snapshot.starts, parts))
            continue
        # Cuts and folds between two slices commute: all cuts in one pass, then the folds of what is left.
        leaves = [leaf for s in together if isinstance(s, Cut) for leaf in conjuncts(s.expression)]
        if leaves:
            parts = list(map(and_bits, parts, kept_bits(snapshot, leaves, run).parts))
        for split in [s for s in together if isinstance(s, Split)]:
            parts = [_in_fold(snapshot, split, p, bits) for p, bits in enumerate(parts)]
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
        if fold.by is None:
            field, data = _ROW_NUMBER, FieldData(np.arange(base + a, base + b, dtype=np.int64))
        else:
            field, data = _keys(snapshot, split, part, a, b)
            check_keys(field, data, None if bits is True else unpack(bits, a, b))
        pieces.append(pack(fold.holds(hash_rows(field, data, fold.seed))))
    return and_bits(bits, np.concatenate(pieces))


def _keys(snapshot: Snapshot, split: Split, part: int, start: int, stop: int) -> tuple[Field, FieldData]:
    """The field that a split goes by, for rows `start` to `stop` of a part."""

    def read(name: str) -> FieldData:
        return reader.read_part(snapshot, part, name, start, stop)

    d, by = split.derived, str(split.fold.by)
    if d is None:
        return snapshot.schema[by], read(by)
    return d.field, values_of(d, read, stop - start, first_row=int(snapshot.starts[part]) + start)


def _in_slice(snapshot: Snapshot, s: Slice, before: RowBits) -> list[PartBits]:
    """Keep every `step`-th of the rows selected so far, from `start` to `stop`."""
    parts: list[PartBits] = []
    done = 0
    for p, bits in enumerate(before.parts):
        rows, n = snapshot.parts[p].rows, int(before.counts[p])
        first = s.start - done
        if first < 0:
            first = first % s.step
        wanted = bits_of_range(first, s.stop - done, s.step, n) if s.stop > done and first < n else False
        if bits is False or wanted is False:
            parts.append(False)
        elif wanted is True or bits is True:
            parts.append(bits if wanted is True else wanted)
        else:
            mask = np.zeros(rows, np.bool_)
            mask[np.flatnonzero(unpack(bits, 0, rows))[unpack(wanted, 0, n)]] = True
            parts.append(pack(mask))
        done += n
    return parts
