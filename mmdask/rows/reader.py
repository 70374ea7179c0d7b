"""Fields over parts: contiguous runs of rows, and any rows by number.

Where arrays are mapped, a run inside one part is a view, and rows are gathered from the maps. Where they are not, what
is wanted is read in runs (`spans`), from which rows are gathered in the same way. A run that crosses parts is copied
together. Constants are arrays of stride zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.errors import OptionError, RowNotFoundError
from mmdask.kernels import dense, gather
from mmdask.kernels.addresses import address_of
from mmdask.rows.bits import groups
from mmdask.rows.chunked import expect, take_in_part
from mmdask.rows.part import (
    bad_offsets,
    bad_shape,
    by_rows,
    check_flags,
    check_shapes,
    checked_counts,
    constant_in_part,
    constant_of,
    counts_at,
    elements_at,
    outer_offsets,
    read_aux,
    read_part,
    row_nbytes,
    store_codes,
    whole_part,
)
from mmdask.rows.shapes import in_shape
from mmdask.rows.spans import spans_of
from mmdask.schema import CODE_DTYPE, OFFSET_DTYPE, SHAPE_DTYPE, VALID_DTYPE, Field, FieldData, empty
from mmdask.store.snapshot import Snapshot

__all__ = [
    "Picker",
    "concatenate",
    "constant_in_part",
    "counts",
    "elements_at",
    "gather_rows",
    "item_count",
    "item_counts",
    "read",
    "read_aux",
    "read_counts",
    "read_part",
    "release",
    "runs",
    "take",
    "take_many",
    "take_of",
    "take_padded",
]

Int64s = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


def runs(snapshot: Snapshot, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """The parts that store rows `start` to `stop` are in, each with its first and last row within the part."""
    starts = snapshot.starts
    first = int(np.searchsorted(starts, start, side="right")) - 1
    for part in range(max(first, 0), len(snapshot.parts)):
        base, end = int(starts[part]), int(starts[part + 1])
        if base >= stop:
            return
        if end > max(base, start):
            yield part, max(start - base, 0), min(stop, end) - base


def read(snapshot: Snapshot, name: str, start: int, stop: int) -> FieldData:
    """Store rows `start` to `stop` of a field: a view inside one part, a copy across several."""
    pieces = [read_part(snapshot, part, name, a, b) for part, a, b in runs(snapshot, start, stop)]
    return concatenate(snapshot.schema[name], pieces)


def concatenate(field: Field, runs: list[FieldData]) -> FieldData:
    """Runs of one field, one after the other."""
    if len(runs) == 1:
        return runs[0]
    if not runs:
        return empty(field)
    offsets = []
    for level in range(field.n_offsets):
        pieces, end = [np.zeros(1, OFFSET_DTYPE)], 0
        for run in runs:
            pieces.append(run.offsets[level][1:] + end)
            end += int(run.offsets[level][-1])
        offsets.append(np.concatenate(pieces))
    valid: list[Flags | None] = []
    for depth in range(max(len(run.valid) for run in runs)):
        flags = [run.valid_at(depth) for run in runs]
        whole = [
            np.ones(run.length(depth), VALID_DTYPE) if v is None else v for run, v in zip(runs, flags, strict=True)
        ]
        valid.append(None if all(v is None for v in flags) else np.concatenate(whole))
    shapes = np.concatenate([r.shapes for r in runs if r.shapes is not None]) if field.kind == "shaped" else None
    values = np.concatenate([r.values for r in runs])
    return FieldData(values, tuple(offsets), field.labels, shapes, _valid(valid))


def _valid(flags: Sequence[Flags | None]) -> tuple[Flags | None, ...]:
    """Flags by depth; none at all where nothing is missing at any."""
    return () if all(v is None for v in flags) else tuple(flags)


def _parts_between(snapshot: Snapshot, rows: Int64s) -> tuple[int, int]:
    """The parts of the least and of the greatest of some rows."""
    low, high = int(rows.min()), int(rows.max())
    if low < 0 or high >= snapshot.rows:
        wrong = low if low < 0 else high
        raise RowNotFoundError(f"no row {wrong} in {snapshot.path}: it has {snapshot.rows} rows")
    return snapshot.part_of(low), snapshot.part_of(high)


def _needed(snapshot: Snapshot, rows: Int64s) -> tuple[Int64s, list[int]]:
    """The parts that some rows are in, as the kernels take them: bounds int64 ``(n + 1,)``, and ``n`` parts between.

    Neighbouring parts that hold none of the rows are one entry, -1.
    """
    if not len(rows):
        return np.array([0, snapshot.rows]), [-1]
    first, last = _parts_between(snapshot, rows)
    if len(snapshot.parts) == 1:
        return snapshot.starts, [0]
    needed = np.zeros(len(snapshot.parts), np.bool_)
    # Giving the kernel a part takes as long as finding that of 200 rows.
    if last - first <= 4 + len(rows) // 200:
        needed[first : last + 1] = np.diff(snapshot.starts[first : last + 2]) > 0
    else:
        needed[np.searchsorted(snapshot.starts, rows, side="right") - 1] = True
    begins = needed.copy()
    begins[1:] |= needed[:-1]
    begins[0] = True
    parts = np.flatnonzero(begins)
    return np.append(snapshot.starts[parts], snapshot.rows), np.where(needed[parts], parts, -1).tolist()


class _Sources:
    """Runs of rows from which the kernels gather: where each begins, which of the rows, and their arrays.

    The arrays of a run of which no row is wanted are None.
    """

    def __init__(self, field: Field, starts: Int64s, rows: Int64s) -> None:
        self.field, self.starts, self.rows = field, starts, rows
        self.values: list[npt.NDArray[Any] | None] = []
        self.offsets: list[list[Int64s | None]] = [[] for _ in range(field.n_offsets)]
        self.shapes: list[Int64s | None] = []
        self.valid: list[tuple[Flags | None, ...]] = []

    def add(self, run: FieldData | None) -> None:
        """One more run."""
        self.values.append(None if run is None else run.values)
        for level, offsets in enumerate(self.offsets):
            offsets.append(None if run is None else run.offsets[level])
        if self.field.axes:
            self.shapes.append(None if run is None else run.shapes)
        if self.field.optional:
            self.valid.append(() if run is None else run.valid)

    def add_part(self, snapshot: Snapshot, part: int) -> None:
        """One more run: all rows of a part, of which nothing is checked yet."""
        layer, stored = snapshot.stored(part, self.field.name)
        if stored.values is None:
            self.values.append(np.broadcast_to(constant_of(snapshot, self.field, layer, stored), layer.rows))
        else:
            self.values.append(snapshot.array(layer, stored.values))
        for offsets, number in zip(self.offsets, stored.offsets, strict=True):
            offsets.append(snapshot.array(layer, number))
        if stored.shapes is not None:
            self.shapes.append(snapshot.array(layer, stored.shapes))
        if self.field.optional:
            self.valid.append(tuple([None if n is None else snapshot.array(layer, n) for n in stored.valid]))

    def flags(self, depth: int) -> list[Flags | None] | None:
        """Which elements of a depth are there; None where all are."""
        flags = [valid[depth] if depth < len(valid) else None for valid in self.valid]
        return None if all(v is None for v in flags) else flags

    def key(self) -> tuple[tuple[int, int], ...]:
        """The same for fields whose rows lie at the same places, while the arrays are held."""
        return tuple(
            [
                (0, 0) if o is None or v is None else (address_of(o), len(v))
                for o, v in zip(self.offsets[0], self.values, strict=True)
            ]
        )


def _sources(snapshot: Snapshot, field: Field, rows: Int64s) -> _Sources:
    """From where to gather rows of a field: whole parts where they have an address, else what is wanted of them."""
    if snapshot.addressable:
        starts, parts = _needed(snapshot, rows)
        return _part_sources(snapshot, field, starts, rows, parts)
    if len(rows):
        _parts_between(snapshot, rows)
    if snapshot.chunked:
        sources = _Sources(field, np.array([0, len(rows)]), np.arange(len(rows)))
        sources.add(_take_chunked(snapshot, field, rows))
        return sources
    spans, where = spans_of(snapshot.starts, rows, lambda part: row_nbytes(snapshot, part, field.name))
    sources = _Sources(field, np.cumsum([0, *(len(span.wanted) for span in spans)]), where)
    for span in spans:
        run = read_part(snapshot, span.part, field.name, span.start, span.stop)
        if len(span.wanted) < len(run):  # what was read along is given up before more is read
            run = gather_rows(field, run, span.wanted)
        sources.add(run)
    return sources


def _part_sources(snapshot: Snapshot, field: Field, starts: Int64s, rows: Int64s, parts: list[int]) -> _Sources:
    """Whole parts, as `_needed` tells which."""
    sources = _Sources(field, starts, rows)
    for part in parts:
        if part < 0:
            sources.add(None)
        else:
            sources.add_part(snapshot, part)
    return sources


def take(snapshot: Snapshot, name: str, rows: Int64s, items: tuple[Int64s, Int64s] | None = None) -> FieldData:
    """Rows at these store row numbers (int64, any order, repeats allowed), as a copy.

    Parameters
    ----------
    snapshot, name, rows
        The store, the field, and the row numbers.
    items : tuple of numpy.ndarray, optional
        Of a field with offsets, the first item that is wanted of each row and how many, int64 ``(rows,)`` each: no
        others are read. Shapes remain those of whole rows.

    Raises
    ------
    RowNotFoundError
        When a row is negative or past the end.
    CorruptStoreError
        When offsets of one of the rows lead out of its part, or its shape does not fit its items.
    """
    field = snapshot.schema[name]
    if snapshot.chunked and items is None:
        return _take_chunked(snapshot, field, rows)
    if field.kind == "category" and snapshot.addressable:
        return _take_codes(snapshot, field, rows)
    return _gather(field, _sources(snapshot, field, rows), items)


def take_many(snapshot: Snapshot, names: Iterable[str], rows: Int64s) -> dict[str, FieldData]:
    """Rows of several fields, each as by `take`; where the rows lie is found once for all dense ones.

    Parameters
    ----------
    snapshot, names, rows
        The store, the fields, and the row numbers.
    """
    taken: dict[str, FieldData] = {}
    located = None
    chunked = snapshot.chunked
    if chunked:
        names, parts_of_rows = list(names), list(by_part(snapshot, rows))
        if len(rows) > _SOME:
            expect(snapshot, names, parts_of_rows)
    for name in names:
        field = snapshot.schema[name]
        if chunked:
            taken[name] = _take_chunked(snapshot, field, rows, parts_of_rows)
            continue
        if field.kind != "dense" or field.optional or not snapshot.addressable:
            taken[name] = take(snapshot, name, rows)
            continue
        if located is None:
            starts, parts = _needed(snapshot, rows)
            located = dense.Located(starts, rows, len(parts), snapshot.manifest.block_rows // _NEAR or 1)
        sources = _part_sources(snapshot, field, starts, rows, parts)
        taken[name] = FieldData(located.take(sources.values, np.empty((len(rows), *field.shape), field.dtype)))
    return taken


def release(snapshot: Snapshot, names: Iterable[str], but: tuple[Int64s, Int64s] | None = None) -> None:
    """Give back the pages of fields that are mapped; they come again when they are read.

    Those of dense values may stay where runs of rows are that are needed: from one number to another.
    """
    for name in dict.fromkeys(names):
        for part in range(len(snapshot.parts)):
            layer, stored = snapshot.stored(part, name)
            for number in (stored.values, stored.shapes, *stored.offsets, *stored.valid):
                if number is None:
                    continue
                edges = None
                if but is not None and number == stored.values and not stored.offsets:
                    edges = np.clip(np.stack(but, axis=1) - snapshot.starts[part], 0, layer.rows)
                snapshot.release(layer, number, edges)


#: rows for which it is worth to have chunks decoded before they are asked for
_SOME = 256
#: of a block, what is copied whole where some of its rows are wanted: loaders may use so much smaller blocks
_NEAR = 8


def gather_rows(field: Field, data: FieldData, rows: Int64s) -> FieldData:
    """Rows of a run in any order, repeats allowed, as a copy."""
    sources = _Sources(field, np.array([0, len(data)]), rows)
    sources.add(data)
    return _gather(field, sources)


def _gather(field: Field, sources: _Sources, items: tuple[Int64s, Int64s] | None = None) -> FieldData:
    """The rows that are wanted of some runs, together; all of their items or some."""
    starts, rows = sources.starts, sources.rows
    depths = max(map(len, sources.valid), default=0)
    if not field.n_offsets:
        values = dense.take_rows(sources.values, starts, rows, np.empty((len(rows), *field.shape), field.dtype))
        if not depths:
            return FieldData(values, labels=field.labels)
    found = gather.Runs(starts, rows, len(sources.values))
    offsets: list[Int64s] = []
    valid: list[Flags | None] = []
    for depth, below in enumerate([*sources.offsets[1:], sources.values] if sources.offsets else []):
        valid.append(_take_flags(field, sources, found, depth) if depth < depths else None)
        offsets.append(found.follow(sources.offsets[depth], below, offsets=below is not sources.values))
        if depth == 0:
            counts = found.count
            if items is not None:
                offsets[0] = found.narrow(*items)
    if field.n_offsets < depths:
        valid.append(_take_flags(field, sources, found, field.n_offsets))
    if field.n_offsets:
        values = found.copy(sources.values, np.empty((0, *field.shape), field.dtype))
    if field.kind != "shaped":
        return FieldData(values, tuple(offsets), field.labels, valid=_valid(valid))
    shapes = dense.take_rows(sources.shapes, starts, rows, np.empty((len(rows), field.axes), SHAPE_DTYPE))
    check_shapes(_THESE, field.name, shapes, counts)
    return FieldData(values, tuple(offsets), shapes=shapes, valid=_valid(valid))


def _take_flags(field: Field, sources: _Sources, found: gather.Runs, depth: int) -> Flags | None:
    flags = sources.flags(depth)
    return None if flags is None else check_flags(_THESE, field.name, found.flags(flags))


def take_of(field: Field, data: FieldData, rows: Int64s, items: tuple[Int64s, Int64s] | None = None) -> FieldData:
    """Rows of a run that is in memory, by their numbers in it, as a copy; `items` as those of `take`."""
    whole = _Sources(field, np.array([0, len(data)]), rows)
    whole.add(data)
    return _gather(field, whole, items)


_THESE = "one of these rows"


def by_part(snapshot: Snapshot, rows: Int64s) -> Iterator[tuple[int, Any, Int64s]]:
    """The parts that some rows are in, each with an index of its rows among them, and their numbers within it."""
    if not len(rows):
        return
    first, last = _parts_between(snapshot, rows)
    if first == last:
        yield first, slice(None), rows - snapshot.starts[first]
        return
    for part, here in groups(np.searchsorted(snapshot.starts, rows, side="right") - 1):
        yield part, here, rows[here] - snapshot.starts[part]


def _take_chunked(
    snapshot: Snapshot, field: Field, rows: Int64s, parts: Sequence[tuple[int, Any, Int64s]] | None = None
) -> FieldData:
    """Rows of a field whose arrays are in chunks, part by part; `parts` as `by_part` gives them, if they are known."""
    found: list[FieldData] = []
    places: list[Int64s] = []
    for part, here, local in by_part(snapshot, rows) if parts is None else parts:
        made = by_rows(snapshot, part, field.name)
        if made is None:
            found.append(take_in_part(snapshot, part, field, local))
        else:
            wanted, where = np.unique(local, return_inverse=True)
            run = read_part(snapshot, part, field.name, int(wanted[0]), int(wanted[-1]) + 1)
            found.append(gather_rows(field, run, wanted[where] - wanted[0]))
        if isinstance(here, slice):
            return found[0]
        places.append(here)
    data = concatenate(field, found)
    if not places:
        return data
    back = np.empty(len(rows), np.int64)
    back[np.concatenate(places)] = np.arange(len(rows))
    return gather_rows(field, data, back)


def _take_codes(snapshot: Snapshot, field: Field, rows: Int64s) -> FieldData:
    """Codes of a category: each part has labels of its own."""
    out, valid = np.empty(len(rows), CODE_DTYPE), None
    for part, here, local in by_part(snapshot, rows):
        layer, stored = snapshot.stored(part, field.name)
        if stored.values is None:
            out[here] = constant_of(snapshot, field, layer, stored)
            continue
        out[here] = store_codes(snapshot, layer, field, elements_at(snapshot, layer, stored.values, local))
        if stored.valid and stored.valid[0] is not None:
            valid = np.ones(len(rows), VALID_DTYPE) if valid is None else valid
            flags = elements_at(snapshot, layer, stored.valid[0], local)
            valid[here] = check_flags(layer.path, field.name, flags)
    return FieldData(out, labels=field.labels, valid=_valid([valid]))


#: where items of rows were found, by the arrays of offsets; the arrays stay as long as it
Found = dict[tuple[tuple[int, int], ...], tuple[gather.Runs, _Sources]]


def take_padded(
    snapshot: Snapshot,
    name: str,
    rows: Int64s,
    length: int,
    fill: Any,
    side: str = "right",
    found: Found | None = None,
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Rows of a field of one level cut or filled up to `length` items; missing items are filled, too.

    Parameters
    ----------
    snapshot, name, rows, length, fill, side
        The store, the field, the row numbers, and what becomes of them.
    found : dict, optional
        What calls for the same rows know of each other: offsets that several fields share are followed once.

    Returns
    -------
    values : ``(rows, length, *shape)`` of the field's dtype
    mask : bool ``(rows, length)``
        True where there is an item that is not missing.

    Raises
    ------
    OptionError
        When the field has no items, or more than one level.
    RowNotFoundError, CorruptStoreError
        As `take`.
    """
    field = snapshot.schema[name]
    if field.n_offsets != 1:
        raise OptionError(f"field {name!r} is {field.describe()}; rows are padded where they are lists of one level")
    sources = _sources(snapshot, field, rows)
    out = np.empty((len(rows), length, *field.shape), field.dtype)
    mask = np.empty((len(rows), length), np.bool_)
    left = side == "left"
    found = {} if found is None or not snapshot.addressable else found
    key = sources.key()
    if key in found:
        runs = found[key][0]
        runs.pad(sources.values, out, mask, left, fill)
    else:
        runs = gather.Runs(sources.starts, sources.rows, len(sources.values))
        runs.follow_and_pad(sources.offsets[0], sources.values, out, mask, left, fill)
        found[key] = runs, sources
    flags = sources.flags(1)
    if flags is not None:
        there = np.empty_like(mask)
        runs.pad_flags(flags, there, left)
        check_flags(_THESE, name, there)
        out[~there] = fill
        mask &= there
    return out, mask


def item_count(snapshot: Snapshot, name: str, start: int, stop: int) -> int:
    """Items of a ragged field in store rows `start` to `stop`: the difference of two offsets per part."""
    total = 0
    for part, a, b in runs(snapshot, start, stop):
        if by_rows(snapshot, part, name) is not None:
            total += int(counts_at(snapshot, part, name, slice(a, b)).sum())
            continue
        layer, number, length = outer_offsets(snapshot, part, name)
        begin, end = (snapshot.read(layer, number, i, i + 1) for i in (a, b))
        total += int(checked_counts(layer, name, length, begin, end)[0])
    return total


def item_counts(snapshot: Snapshot, name: str, edges: Int64s) -> Int64s:
    """Items of a ragged field between store rows and those that follow, int64 ``(len(edges) - 1,)``.

    As `item_count` of each of many short runs; no run goes beyond the end of a part.
    """
    out = np.zeros(len(edges) - 1, np.int64)
    filled = np.flatnonzero(np.diff(edges))
    parts = np.searchsorted(snapshot.starts, edges[filled], side="right") - 1
    for part in np.unique(parts).tolist():
        here = filled[parts == part]
        begins, ends = edges[here] - snapshot.starts[part], edges[here + 1] - snapshot.starts[part]
        if by_rows(snapshot, part, name) is not None:
            sums = np.append(0, np.cumsum(counts_at(snapshot, part, name, slice(int(begins[0]), int(ends[-1])))))
            out[here] = sums[ends - begins[0]] - sums[begins - begins[0]]
            continue
        layer, number, length = outer_offsets(snapshot, part, name)
        offsets = elements_at(snapshot, layer, number, np.concatenate([begins, ends]))
        out[here] = checked_counts(layer, name, length, offsets[: len(here)], offsets[len(here) :])
    return out


def counts(snapshot: Snapshot, name: str, rows: Int64s) -> Int64s:
    """Items of a ragged field in each of these store rows, int64; reads offsets only."""
    out = np.empty(len(rows), np.int64)
    for part, here, local in by_part(snapshot, rows):
        out[here] = counts_at(snapshot, part, name, local)
    return out


def read_counts(snapshot: Snapshot, name: str, start: int, stop: int) -> Int64s:
    """Items of a ragged field in each of the store rows `start` to `stop`, int64; reads offsets only."""
    pieces = [np.zeros(0, np.int64)]
    for part, a, b in runs(snapshot, start, stop):
        pieces.append(counts_at(snapshot, part, name, slice(a, b)))
    return np.concatenate(pieces)


class Picker:
    """Single rows of a field with one level of offsets; quick while they are in the same part.

    Parameters
    ----------
    snapshot : Snapshot
        The store.
    name : str
        A ragged field of one level, a shaped field, or a string field without levels.
    """

    def __init__(self, snapshot: Snapshot, name: str) -> None:
        self.snapshot, self.name = snapshot, name
        self.field = snapshot.schema[name]
        self._part = 0, 0, empty(self.field)  # one value, which threads change as a whole

    def __call__(self, row: int) -> npt.NDArray[Any] | None:
        """The items of a store row, which must exist: a view where arrays are mapped; None for a missing row.

        A row of a shaped field has its shape, any other is ``(items, *shape)``.
        """
        first, end, run = self._part
        if not first <= row < end:
            first, end, run = self._part = self._part_of(row)
        i = row - first
        if run.valid and run.valid[0] is not None and not run.valid[0][i]:
            return None
        offsets = run.offsets[0]
        begin, stop = offsets.item(i), offsets.item(i + 1)
        if not 0 <= begin <= stop <= len(run.values):
            layer, _ = self.snapshot.stored(self.snapshot.part_of(row), self.name)
            raise bad_offsets(layer, self.name, len(run.values))
        items = run.values[begin:stop]
        if run.shapes is None:
            return items
        shape = run.shapes[i].tolist()
        if min(shape) < 0 or math.prod(shape) != len(items):
            raise bad_shape(_THESE, self.name)
        return in_shape(self.field, items, shape)

    def _part_of(self, row: int) -> tuple[int, int, FieldData]:
        """The rows at hand from now on, from one to another: those of a part, or the row alone where none is mapped."""
        part = self.snapshot.part_of(row)
        first, end = self.snapshot.starts[part : part + 2].tolist()
        if self.snapshot.addressable:
            return first, end, whole_part(self.snapshot, self.field, part)
        return row, row + 1, read_part(self.snapshot, part, self.name, row - first, row - first + 1)
