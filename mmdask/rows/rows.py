"""`Rows`: a set of rows of a store, in store order, and the way to their data, without dask.

Slices, cuts and splits are steps of one chain; what they leave is found once, as bits per part, when it is first
needed. A chain of slices alone is arithmetic and needs no bits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from mmdask.errors import ExpressionError, OptionError, RowNotFoundError
from mmdask.expr import Expression, check, check_cut
from mmdask.kernels.gather import pad_runs
from mmdask.kernels.once import once
from mmdask.rows.bits import PartBits, RowBits
from mmdask.rows.blocks import BLOCK_ROWS
from mmdask.rows.cuts.keyed import keyed_leaves
from mmdask.rows.cuts.passes import Runner, check_kept, kept_bits, run_serially
from mmdask.rows.draws.dealing import Deal
from mmdask.rows.draws.splits import Fold
from mmdask.rows.reading import marks, reader
from mmdask.rows.reading.asking import ask, missing
from mmdask.rows.reading.gathering import concatenate
from mmdask.rows.selecting import Below, Cut, Dealt, Sample, Slice, Split, Step, derived_on, select, too_many
from mmdask.rows.views.virtual import Derived, carrier, define, meant_by, owned, values_of
from mmdask.schema import FieldData, Schema
from mmdask.store.arrays.cache import Cache
from mmdask.store.snapshot import Snapshot

__all__ = ["Rows"]

#: selections found so far, by key: whatever refers to the same rows in this process shares them
RESOLVED: Cache[RowBits] = Cache(256 << 20)
#: blocks, of which there are arrays of 8 bytes
_MAX_BLOCKS = 1 << 27
#: stored bytes, of all fields, of the rows for which computed fields are computed together
_BLOCK_NBYTES = 64 << 20


class Rows:
    """Rows of a store that some steps select. Immutable; pickles by reference, never with data.

    Parameters
    ----------
    snapshot : Snapshot
        The store.
    steps : sequence of steps
        Made by `sliced`, `cut` and `fold`.
    derived : mapping of Derived, optional
        Fields that are computed when they are read, by name; one takes the place of a stored field of its name.
        Made by `assign`.
    """

    def __init__(
        self, snapshot: Snapshot, steps: Sequence[Step] = (), derived: Mapping[str, Derived] | None = None
    ) -> None:
        self.snapshot = snapshot
        self.steps = tuple(steps)
        self.derived = dict(derived or {})

    def __reduce__(self) -> tuple[Any, ...]:
        check_kept(self.snapshot, [s.expression for s in self.steps if isinstance(s, Cut)])
        return type(self), (self.snapshot, self.steps, self.derived)

    @once
    def schema(self) -> Schema:
        """All fields: of the store, and those that are computed."""
        if not self.derived:
            return self.snapshot.schema
        fields = dict(self.snapshot.schema) | {name: d.field for name, d in self.derived.items()}
        return Schema(fields.values(), self.snapshot.schema.absent)

    @property
    def stored(self) -> Rows:
        """The same rows with the fields of the store alone, which are what expressions name once they are checked."""
        return self.only(())

    def only(self, names: Iterable[str]) -> Rows:
        """The same rows without the computed fields that have other names: so little is pickled with them."""
        return self._computing({name: self.derived[name] for name in names if name in self.derived})

    def _computing(self, derived: Mapping[str, Derived]) -> Rows:
        if derived == self.derived:
            return self
        rows = Rows(self.snapshot, self.steps, derived)
        rows.__dict__ |= {name: self.__dict__[name] for name in ("bits", "identity") if name in self.__dict__}
        return rows

    @property
    def cuts(self) -> tuple[Expression, ...] | None:
        """The cuts that select the rows, none of a whole store; None when slices, splits or cuts of keys take part."""
        cuts = tuple(s.expression for s in self.steps if isinstance(s, Cut))
        return cuts if len(cuts) == len(self.steps) and not any(map(keyed_leaves, cuts)) else None

    def token(self, name: str) -> str:
        """What tells the values of a field from those of another field of the same rows."""
        return f"{name} {self.derived[name].token}" if name in self.derived else name

    @property
    def n_store(self) -> int:
        """Rows of the whole store."""
        return self.snapshot.rows

    @property
    def block_rows(self) -> int:
        """The grain of shuffling, from the manifest."""
        return self.snapshot.manifest.block_rows

    @once
    def row_nbytes(self) -> float:
        """Mean stored bytes of a row, over all fields."""
        return sum(p.nbytes for p in self.snapshot.parts) / max(self.n_store, 1)

    @once
    def identity(self) -> str:
        """A hash of the store's data and of the selection: equal rows of equal data have equal identities."""
        text = json.dumps([self.snapshot.identity, [s.text() for s in self.steps]])
        return str(xxhash.xxh3_128_hexdigest(text.encode()))

    @property
    def key(self) -> tuple[str, str]:
        """What tells these rows from all others in caches, also from those of a store with a borrowed uuid."""
        return self.snapshot.path, self.identity

    # Selecting ------------------------------------------------------------------------------------------------------

    def sliced(self, rows: slice) -> Rows:
        """The rows of a slice with positive step; finds the rows selected so far, whose number it needs."""
        n = len(self)
        start, stop, step = rows.indices(n)
        if step < 1:
            raise OptionError(f"rows are sliced with a positive step, got {step}; ds[[...]] takes rows in any order")
        if (start, stop, step) == (0, n, 1):
            return self
        if self.span is not None:
            span = self.span[start:stop:step]
            return self._with((Slice(span.start, max(span.start, span.stop), span.step),))
        return self._with((*self.steps, Slice(start, max(start, stop), step)))

    def _with(self, steps: Sequence[Step]) -> Rows:
        return Rows(self.snapshot, steps, self.derived)

    def cut(self, expression: Expression) -> Rows:
        """The rows that also pass a cut; lazy."""
        return self._with((*self.steps, Cut(expression)))

    def fold(self, fold: Fold) -> Rows:
        """The rows that are also in a fold; lazy."""
        return self._with((*self.steps, Split(fold, tuple(map(self.derived.get, fold.numbering.by)))))

    def dealt(self, deal: Deal, fold: int, *, inside: bool = True) -> Rows:
        """The rows that a permutation of them puts into a fold, or those that it does not; lazy."""
        derived = None if deal.by is None else self.derived.get(deal.by)
        return self._with((*self.steps, Dealt(deal, fold, inside, derived)))

    def sampled(self, sample: Sample) -> Rows:
        """Some of the rows at random; lazy, and where it is known how many there are, their number is checked."""
        if self.resolved:
            sample.size(len(self))
        return self._with((*self.steps, sample))

    def assign(self, wanted: Mapping[str, str | Expression]) -> Rows:
        """The same rows with fields that are computed when they are read; see `define`."""
        return self._computing(define(wanted, self.snapshot.schema, self.derived))

    def check(self, text: str, constants: Mapping[str, object] | None = None) -> Expression:
        """Check an expression that may name computed fields; see `mmdask.expr.check`."""
        return check(text, self.snapshot.schema, constants, self._meant_by(text, constants))

    def check_cut(self, text: str, constants: Mapping[str, object] | None = None) -> Expression:
        """Check a cut that may name computed fields; see `mmdask.expr.check_cut`."""
        return check_cut(text, self.snapshot.schema, constants, self._meant_by(text, constants))

    def _meant_by(self, text: str, constants: Mapping[str, object] | None) -> dict[str, Expression]:
        return meant_by(text, self.derived, (*self.snapshot.schema, *(constants or ())))

    def on(self, snapshot: Snapshot) -> Rows:
        """What the same steps select in another generation of the store; slices go on meaning the same row numbers.

        Raises
        ------
        ExpressionError, FieldNotFoundError
            When a cut or split does not fit the fields of that generation.
        """
        before = self.snapshot.schema
        derived = {name: derived_on(d, before, snapshot) for name, d in self.derived.items()}
        return Rows(snapshot, [step.on(before, snapshot) for step in self.steps], derived)

    @once
    def span(self) -> range | None:
        """The selected store rows, when slices alone select them, and they are a range."""
        if not self.steps:
            return range(self.n_store)
        if len(self.steps) == 1 and isinstance(self.steps[0], Slice):
            s = self.steps[0]
            return range(s.start, s.stop, s.step)[: len(range(s.start, min(s.stop, self.n_store), s.step))]
        if len(self.steps) == 1 and isinstance(self.steps[0], Below):
            return self.steps[0].span(self.snapshot)
        return None

    @property
    def resolved(self) -> bool:
        """Whether the selected rows are known without computing a cut or hashing keys."""
        return self.span is not None or self._known() is not None

    def _known(self) -> RowBits | None:
        """The bits, if they were found before in this process."""
        bits: RowBits | None = self.__dict__.get("bits")
        if bits is None:
            bits = RESOLVED.get(self.key)
            if bits is not None:
                self.__dict__["bits"] = bits
        return bits

    @once
    def bits(self) -> RowBits:
        """The selected rows as bits; computed and kept when first needed."""
        return self.resolve()

    def resolve(self, run: Runner = run_serially) -> RowBits:
        """Find the selected rows, computing cuts with `run`; remembered."""
        bits = self._known()
        if bits is None:
            bits = self._find(run)
            self.__dict__["bits"] = RESOLVED.put(self.key, bits, bits.nbytes)
        return bits

    def _find(self, run: Runner) -> RowBits:
        cuts = [s.expression for s in self.steps if isinstance(s, Cut)]
        if len(cuts) == len(self.steps):
            return kept_bits(self.snapshot, cuts, run)
        parts: list[PartBits] = [bool(p.rows) for p in self.snapshot.parts]
        left = self.steps
        for n in range(len(self.steps) - 1, 0, -1):
            before = RESOLVED.get(Rows(self.snapshot, self.steps[:n]).key)
            if before is not None:
                parts, left = list(before.parts), self.steps[n:]
                break
        return RowBits(self.snapshot.starts, select(self.snapshot, left, parts, run))

    # Asking ---------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.span) if self.span is not None else len(self.bits)

    def block_counts(self, block_rows: int) -> npt.NDArray[np.int64]:
        """Selected rows in each block of `block_rows` store rows, int64 ``(ceil(n_store / block_rows),)``.

        Raises
        ------
        LimitError
            When there are more than 2**27 blocks.
        """
        if self.n_store // block_rows > _MAX_BLOCKS:
            raise too_many(self.snapshot, f"in blocks of {block_rows:,} for a shuffle")
        if self.span is not None and self.span.step == 1:
            edges = np.arange(0, self.n_store + block_rows, block_rows, dtype=np.int64)
            inside = np.clip(edges, self.span.start, self.span.stop)
            return inside[1:] - inside[:-1]
        return self.bits.block_counts(block_rows)

    def rows_of_blocks(self, blocks: npt.NDArray[np.int64], block_rows: int) -> npt.NDArray[np.int64]:
        """Store row numbers of the selected rows of blocks, in the order of `blocks`, int64."""
        if self.span is None or self.span.step != 1:
            return self.bits.rows_of_blocks(blocks, block_rows)
        starts = np.maximum(blocks * block_rows, self.span.start)
        counts = np.maximum(np.minimum((blocks + 1) * block_rows, self.span.stop) - starts, 0)
        ends = np.cumsum(counts)
        rows: npt.NDArray[np.int64] = np.repeat(starts - (ends - counts), counts)
        rows += np.arange(len(rows))
        return rows

    def numbers(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Store row numbers of the selected rows number `start` to `stop`, int64."""
        if self.span is not None:
            s = self.span[start:stop]
            return np.arange(s.start, s.stop, s.step, dtype=np.int64)
        return self.bits.select(start, min(stop, len(self)))

    def number(self, i: int) -> int:
        """Store row number of one selected row, which is counted from the end if negative.

        Raises
        ------
        RowNotFoundError
            When there is no such row.
        """
        if self.span is None:
            return int(self.numbers_of(np.array([i]))[0])
        try:
            return self.span[i]
        except IndexError:
            raise self._no_row(i) from None

    def numbers_of(self, indices: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
        """Store row numbers of selected rows, as `number` of each, int64."""
        n = len(self)
        wrong = (indices < -n) | (indices >= n)
        if wrong.any():
            raise self._no_row(int(indices[np.argmax(wrong)]))
        positions = indices.astype(np.int64)
        positions[positions < 0] += n
        return self.bits.at(positions) if self.span is None else self.span.start + positions * self.span.step

    def _no_row(self, i: int) -> RowNotFoundError:
        return RowNotFoundError(f"no row {i}: there are {len(self)} rows")

    # Reading --------------------------------------------------------------------------------------------------------

    @property
    def _first(self) -> int | None:
        """The store row number of row 0, where all rows lie together."""
        return self.span.start if self.span is not None and self.span.step == 1 else None

    def read(self, name: str, start: int, stop: int) -> FieldData:
        """The selected rows number `start` to `stop` of a field: views where rows lie together, else copies."""
        if self._first is None:
            return self.take(name, self.numbers(start, stop))
        return self._run(name, self._first + start, self._first + stop)

    def read_row(self, name: str, number: int) -> FieldData:
        """The row of a field at a store row number, which must exist, as a view."""
        return self._run(name, number, number + 1)

    def _run(self, name: str, start: int, stop: int) -> FieldData:
        """Store rows `start` to `stop` of a field."""
        if name not in self.derived:
            return reader.read(self.snapshot, name, start, stop)
        return self._computed(
            name, lambda f, a, b: reader.read(self.snapshot, f, start + a, start + b), stop - start, start
        )

    def take(self, name: str, rows: npt.NDArray[np.int64]) -> FieldData:
        """Rows of a field at store row numbers, in that order, as a copy."""
        if name not in self.derived:
            return reader.take(self.snapshot, name, rows)
        return self.take_many([name], rows)[name]

    def take_many(self, names: Iterable[str], rows: npt.NDArray[np.int64]) -> dict[str, FieldData]:
        """Rows of several fields, each as `take`; what several computed fields are computed from is read once."""
        wanted = list(names)
        stored = [name for name in wanted if name not in self.derived]
        taken = reader.take_many(self.snapshot, stored, rows)
        computed: dict[str, list[FieldData]] = {name: [] for name in wanted if name in self.derived}
        for a, b in self.blocks(len(rows)) if computed else ():
            read = {name: data if (a, b) == (0, len(rows)) else data[a:b] for name, data in taken.items()}

            def of_block(field: str, read: dict[str, FieldData] = read, a: int = a, b: int = b) -> FieldData:
                if field not in read:
                    read[field] = reader.take(self.snapshot, field, rows[a:b])
                return read[field]

            for name, blocks in computed.items():
                try:
                    data = values_of(self.derived[name], of_block, b - a, first_row=a)
                except ExpressionError as error:
                    error.add_note("rows are counted here among those that were read together")
                    raise
                others = [*read.values(), *(blocks[-1] for blocks in computed.values() if blocks)]
                blocks.append(owned(data, others))
        made = {name: concatenate(self.derived[name].field, blocks) for name, blocks in computed.items()}
        return {name: taken[name] if name in taken else made[name] for name in wanted}

    def release(
        self, names: Iterable[str], but: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None = None
    ) -> None:
        """Give back the pages that reading these fields, or what they are computed from, took into this process.

        Those that runs of store rows need may stay: `but` has the first row of each, and the one after its last.
        """
        reader.release(self.snapshot, self._stored_for(names), but)

    def ask(self, names: Iterable[str], begins: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> bool:
        """Have the system read runs of store rows of these fields, or of what they are computed from; see `ask`."""
        return ask(self.snapshot, self._stored_for(names), begins, ends)

    def missing(self, names: Iterable[str], rows: npt.NDArray[np.int64]) -> bool:
        """Whether store rows of these fields are not in memory, as far as some of them tell; see `ask`."""
        return missing(self.snapshot, self._stored_for(names), rows)

    def _stored_for(self, names: Iterable[str]) -> list[str]:
        found = [
            f for name in names for f in (self.derived[name].expression.fields if name in self.derived else [name])
        ]
        return list(dict.fromkeys(found))

    def take_items(
        self, name: str, rows: npt.NDArray[np.int64], begin: npt.NDArray[np.int64], count: npt.NDArray[np.int64]
    ) -> FieldData:
        """Of every row `count` items from its item `begin` on, reading no others; shapes are those of whole rows.

        Raises
        ------
        OptionError
            When the field is computed, or has no items.
        """
        if name in self.derived or not self.schema[name].n_offsets:
            raise OptionError(f"field {name!r} is computed or has no items; some items are read of stored lists")
        return reader.take(self.snapshot, name, rows, (begin, count))

    def shapes(self, name: str, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Shapes of the rows of a shaped field at store row numbers, int64 ``(rows, axes)``; reads no items."""
        return marks.take_shapes(self.snapshot, name, rows)

    def is_stored(self, name: str) -> bool:
        """Whether a field is read, not computed."""
        return name not in self.derived

    def _computed(self, name: str, read: Callable[[str, int, int], FieldData], n: int, first_row: int = 0) -> FieldData:
        """A computed field over `n` rows, of which `read` reads stored fields, from one number to another."""
        derived = self.derived[name]
        blocks = []
        for a, b in self.blocks(n):

            def of_block(field: str, a: int = a, b: int = b) -> FieldData:
                return read(field, a, b)

            blocks.append(values_of(derived, of_block, b - a, first_row=first_row + a))
        return concatenate(derived.field, blocks)

    def blocks(self, n: int) -> Iterator[tuple[int, int]]:
        """Runs of `n` rows, each so short that what an expression reads of it takes little memory."""
        step = max(int(min(BLOCK_ROWS, _BLOCK_NBYTES / max(self.row_nbytes, 1))), 1)
        for a in range(0, n, step):
            yield a, min(a + step, n)

    def _carrier(self, name: str) -> str | None:
        """A stored field with the same numbers of items as a ragged one, if one is known."""
        if name not in self.derived:
            return name
        found = carrier(self.derived[name].expression.typed)
        return found if found is not None and self.snapshot.schema[found].levels == 1 else None

    def counts(self, name: str, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Items of a ragged field at store row numbers, int64; of a stored one reads offsets only."""
        stored = self._carrier(name)
        return self.take(name, rows).counts if stored is None else marks.counts(self.snapshot, stored, rows)

    def take_padded(
        self,
        name: str,
        rows: npt.NDArray[np.int64],
        length: int,
        fill: Any,
        side: str = "right",
        found: reader.Found | None = None,
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """Rows of a ragged field cut or filled to `length` items, and the mask of real items."""
        if self.is_stored(name):
            return reader.take_padded(self.snapshot, name, rows, length, fill, side, found)
        data, n = self.take(name, rows), len(rows)
        values = np.empty((n, length, *data.values.shape[1:]), data.values.dtype)
        mask = np.empty((n, length), np.bool_)
        pad_runs(data.values, data.offsets[0], values, mask, side == "left", fill=fill)
        return values, mask

    def read_counts(self, name: str, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Items in each of the selected rows number `start` to `stop` of a ragged field, int64; as `counts`."""
        stored = self._carrier(name)
        if self._first is None:
            return self.counts(name, self.numbers(start, stop))
        if stored is None:
            return self.read(name, start, stop).counts
        return marks.read_counts(self.snapshot, stored, self._first + start, self._first + stop)

    def read_valid(self, name: str, start: int, stop: int) -> npt.NDArray[np.bool_] | None:
        """Which of the selected rows number `start` to `stop` are not missing; None where all are there."""
        if name in self.derived:
            return self.read(name, start, stop).valid_at(0)
        if self._first is not None:
            return marks.read_valid(self.snapshot, name, self._first + start, self._first + stop)
        return marks.take_valid(self.snapshot, name, self.numbers(start, stop))

    def read_shapes(self, name: str, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Shapes of the selected rows number `start` to `stop` of a shaped field, int64 ``(rows, axes)``."""
        if self._first is not None:
            return marks.read_shapes(self.snapshot, name, self._first + start, self._first + stop)
        return marks.take_shapes(self.snapshot, name, self.numbers(start, stop))

    def item_count(self, name: str, start: int, stop: int) -> int:
        """Items in the selected rows number `start` to `stop` of a ragged field; as `counts`."""
        stored = self._carrier(name)
        if self._first is not None and stored is not None:
            return marks.item_count(self.snapshot, stored, self._first + start, self._first + stop)
        return int(self.read_counts(name, start, stop).sum())

    def item_counts(self, name: str, edges: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Items between the selected rows number `edges`, which ascend, and those that follow: `item_count` of each."""
        stored = self._carrier(name)
        if self._first is not None and stored is not None:
            return marks.item_counts(self.snapshot, stored, self._first + edges)
        found = []
        at = 0
        while at < len(edges) - 1:  # of several short runs at once
            to = max(int(np.searchsorted(edges, edges[at] + BLOCK_ROWS, side="right")) - 1, at + 1)
            counts = self.read_counts(name, int(edges[at]), int(edges[to]))
            found.append(np.diff(np.append(0, np.cumsum(counts))[edges[at : to + 1] - edges[at]]))
            at = to
        return np.concatenate(found)
