"""Rows in any order of arrays that are stored in chunks: gathered from chunks that are decoded, and kept a while.

Where whole arrays have an address, the kernels follow offsets in them. A chunk has one while it is kept, so that here
each array is asked for its elements: first the offsets of the rows, then what these point to.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.kernels import dense
from mmdask.kernels.spread import spread
from mmdask.rows.reading.part import (
    by_rows,
    check_flags,
    check_shapes,
    checked_counts,
    constant_of,
    elements_at,
    length_below,
    pairs_at,
    store_codes,
)
from mmdask.schema import OFFSET_DTYPE, Field, FieldData
from mmdask.store.arrays.buffers import Buffers
from mmdask.store.layer import Layer
from mmdask.store.snapshot import Snapshot
from mmdask.store.zarr.chunked import MAX_CHUNKS_NBYTES
from mmdask.store.zarr.form import chunk_length

__all__ = ["chunk_rows", "expect", "take_dense", "take_in_part"]

Int64s = npt.NDArray[np.int64]
#: lists of so many elements are copied one by one; of shorter ones, the numbers of all elements are found first
_LONG = 64
#: bytes of chunks that are decoded before they are asked for: half of what is kept
EXPECTED_NBYTES = MAX_CHUNKS_NBYTES // 2
#: bytes of one field's chunks that are held together while rows are gathered from them
HELD_NBYTES = MAX_CHUNKS_NBYTES
#: memory of rows that nobody looks at any more, for those that come next: half of the three runs of a loader by default
OUTPUTS = Buffers(192 << 20)
#: rows for which it is worth to have chunks decoded before they are asked for
SOME = 256
#: rows that are copied together where some of them are wanted, of many that are
_NEAR = 2048
#: pieces of a power of two rows that are marked one by one, to find out which hold any rows
_LEAST_UNITS = 1 << 12


def chunk_rows(snapshot: Snapshot) -> int | None:
    """Rows of a chunk of a field, of the field of the widest rows if they differ; None where there are no chunks."""
    if not snapshot.chunked:
        return None
    form = snapshot.stores[0].manifest.zarr
    if form is None:
        return None
    dense = [f for f in snapshot.schema.values() if f.kind == "dense"]
    return min((chunk_length(form, f.dtype, f.shape) for f in dense), default=form.chunk_rows)


def expect(snapshot: Snapshot, names: Iterable[str], parts: Iterable[tuple[int, Any, Int64s]]) -> list[Any]:
    """Let threads begin to decode what rows of several fields need, while others of them are gathered.

    `parts` are the parts that the rows are in, each with its rows, as second and third. As long as what is returned is
    held, none of it is decoded twice.
    """
    ahead = _Ahead(snapshot)
    wanted: dict[tuple[int, int], list[int]] = {}
    for name in names:
        for part, _, rows in parts:
            if by_rows(snapshot, part, name) is not None:
                continue
            layer, stored = snapshot.stored(part, name)
            number = stored.offsets[0] if stored.offsets else stored.values
            if number is None or (zarr := layer.arrays[number].zarr) is None:
                continue
            if (part, zarr.chunk) not in wanted:
                wanted[part, zarr.chunk] = _marked(rows // zarr.chunk)
            ahead.expect(layer, number, wanted[part, zarr.chunk])
    return ahead.held


class _Ahead:
    """What is decoded before it is asked for, up to some bytes."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._room = EXPECTED_NBYTES
        self.held: list[Any] = []

    def expect(self, layer: Layer, number: int, chunks: Sequence[int]) -> None:
        if layer.arrays[number].nbytes:
            nbytes, held = self._snapshot.expect(layer, number, chunks, self._room)
            self._room -= nbytes
            self.held.extend(held)


def _marked(numbers: Int64s) -> list[int]:
    marks = np.zeros(int(numbers.max(initial=-1)) + 1, np.bool_)
    marks[numbers] = True
    return np.flatnonzero(marks).tolist()


# Dense fields: the chunks of all parts are what the kernel gathers from, in one call --------------------------------


def take_dense(
    snapshot: Snapshot, names: Sequence[str], rows: Int64s, starts: Int64s, parts: Sequence[int]
) -> dict[str, npt.NDArray[Any]]:
    """Store rows of dense fields that are stored in chunks, in any order, repeats allowed, as copies.

    Parameters
    ----------
    snapshot, names, rows
        The store, dense fields without missing rows, and the row numbers, int64.
    starts : numpy.ndarray
        int64 ``(n + 1,)``: bounds of the parts.
    parts : sequence of int
        Their numbers, ``n``; -1 for some that hold none of the rows.
    """
    fields = {name: _Stored(snapshot, name, parts) for name in names}
    grids: dict[tuple[int, ...], _Grid] = {}
    common = _common([field.lengths for field in fields.values()])
    ahead = _Ahead(snapshot)
    for field in fields.values():
        lengths = field.lengths if common is None else common
        if lengths not in grids:
            grids[lengths] = _Grid(starts, lengths, rows)
        field.grid = grids[lengths]
        if len(rows) > SOME:
            for _, layer, number, wanted in field.wanted():
                ahead.expect(layer, number, wanted)
    return {name: field.take() for name, field in fields.items()}


def _common(every: Sequence[tuple[int, ...]]) -> tuple[int, ...] | None:
    """For each part the least length of a chunk, if all others are multiples of it; 0 where there are no chunks."""
    least = tuple([min(filter(None, lengths), default=0) for lengths in zip(*every, strict=True)])
    alike = all(not n or n % low == 0 for lengths in every for n, low in zip(lengths, least, strict=True))
    return least if alike else None


class _Grid:
    """Pieces of parts, as long as a chunk of each or the whole part, and where rows lie in them.

    Those that hold none of the rows are left out, and the others numbered as if they followed one another.
    """

    def __init__(self, starts: Int64s, lengths: Sequence[int], rows: Int64s) -> None:
        sizes = np.diff(starts)
        each = np.where(np.array(lengths, np.int64) > 0, lengths, np.maximum(sizes, 1))
        counts = -(-sizes // each)
        part = np.repeat(np.arange(len(counts)), counts)
        first = (np.arange(len(part)) - (np.cumsum(counts) - counts)[part]) * each[part]
        needed, self.rows = _gone_over(np.append(starts[part] + first, starts[-1]), rows)
        self.part, self.first = part[needed], first[needed]
        self.sizes = np.minimum(each[part], sizes[part] - first)[needed]
        self.edges = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.sizes)])
        self._located = self._locate(self.rows)

    def _locate(self, rows: Int64s) -> dense.Located:
        return dense.Located(self.edges, rows, len(self.part), _NEAR if len(rows) > _NEAR else 0)

    def take(self, sources: Sequence[npt.NDArray[Any] | None], out: npt.NDArray[Any]) -> None:
        """Copy all rows of a field."""
        self._located.take(sources, out)

    def take_some(self, pieces: slice, sources: Sequence[npt.NDArray[Any] | None], out: npt.NDArray[Any]) -> None:
        """Copy those rows of a field that lie in some pieces."""
        begin, end = self.edges[pieces.start], self.edges[pieces.stop]
        here = np.flatnonzero((self.rows >= begin) & (self.rows < end))
        rows = self.rows[here]
        out[here] = self._locate(rows).take(sources, np.empty((len(rows), *out.shape[1:]), out.dtype))


def _gone_over(edges: Int64s, rows: Int64s) -> tuple[npt.NDArray[np.bool_], Int64s]:
    """Which pieces between edges hold any rows, and the rows as they are numbered without those that hold none."""
    sizes, begins = np.diff(edges), edges[:-1]
    # Where all pieces begin at multiples of a power of two, that tells the piece of a row.
    low = int(np.bitwise_or.reduce(begins)) or 1 << 62
    shift = (low & -low).bit_length() - 1
    n_units = (int(edges[-1]) >> shift) + 1
    if n_units > max(_LEAST_UNITS, len(rows)):
        piece, local = _places(edges, rows)
        needed = _marked_of(piece, 0, len(sizes)) > 0
        kept = np.where(needed, sizes, 0)
        return needed, rows if needed.all() else (np.cumsum(kept) - kept)[piece] + local
    units = _marked_of(rows, shift, n_units)
    needed = np.maximum.reduceat(units, begins >> shift) > 0 if len(sizes) else np.zeros(0, np.bool_)
    if needed.all():
        return needed, rows
    gone = np.cumsum(np.where(needed, 0, sizes))
    moved = np.repeat(gone, np.diff(begins >> shift, append=n_units))
    if edges[-1] - gone[-1] > np.iinfo(np.int32).max:
        return needed, rows - moved[rows >> shift]
    places = np.empty(len(rows), np.int32)
    spread(len(rows), lambda a, b: dense.PLACE(rows[a:b], shift, moved, places[a:b]))
    return needed, places.astype(np.int64)


def _marked_of(numbers: Int64s, shift: int, n: int) -> npt.NDArray[np.uint8]:
    """1 at each of `n` places that a number leads to, divided by a power of two."""
    marks = np.zeros(n, np.uint8)
    spread(len(numbers), lambda a, b: dense.MARK(numbers[a:b], shift, marks))
    return marks


def _places(edges: Int64s, rows: Int64s) -> tuple[Int64s, Int64s]:
    """The piece between edges that each row lies in, and its place there."""
    part, local = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
    dense.locate(edges, rows, part, local)
    return part, local


class _Stored:
    """A dense field as some parts store it: in chunks of so many rows each, or as a constant, which has length 0."""

    def __init__(self, snapshot: Snapshot, name: str, parts: Sequence[int]) -> None:
        self.snapshot, self.field = snapshot, snapshot.schema[name]
        self.grid: _Grid
        self._found = [None if part < 0 else snapshot.stored(part, name) for part in parts]
        lengths = []
        for found in self._found:
            spec = None if found is None or found[1].values is None else found[0].arrays[found[1].values].zarr
            lengths.append(0 if spec is None else spec.chunk)
        self.lengths = tuple(lengths)

    def wanted(self, pieces: slice = slice(None)) -> Iterator[tuple[int, Layer, int, list[int]]]:
        """Where the chunks that some pieces of the grid are in lie: part, layer, array, and their numbers."""
        part, first = self.grid.part[pieces], self.grid.first[pieces]
        edges = [0, *(np.flatnonzero(np.diff(part)) + 1).tolist(), len(part)]
        for a, b in itertools.pairwise(edges):
            found = self._found[int(part[a])] if a < b else None
            if found is not None and found[1].values is not None:
                p = int(part[a])
                yield p, found[0], found[1].values, np.unique(first[a:b] // self.lengths[p]).tolist()

    def take(self) -> npt.NDArray[Any]:
        """All rows."""
        grid = self.grid
        shape, dtype = (len(grid.rows), *self.field.shape), self.field.dtype
        out = OUTPUTS.get(math.prod(shape) * dtype.itemsize).view(dtype).reshape(shape)
        groups = list(self._groups())
        for pieces in groups:
            sources = self._sources(pieces)
            if len(groups) == 1:
                grid.take(sources, out)
            else:
                grid.take_some(pieces, sources, out)
        return out

    def _groups(self) -> Iterator[slice]:
        """Pieces whose chunks are held together: all of them, where they are not too many bytes."""
        group = self.grid.edges[1:] * self.field.item_nbytes // HELD_NBYTES
        edges = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), len(group)]
        yield from itertools.starmap(slice, itertools.pairwise(edges))

    def _sources(self, pieces: slice) -> list[npt.NDArray[Any] | None]:
        """What holds each piece of the grid; None for those that are not asked for."""
        grid, n = self.grid, len(self.grid.part)
        decoded = {p: self.snapshot.pieces(layer, number, w) for p, layer, number, w in self.wanted(pieces)}
        sources: list[npt.NDArray[Any] | None] = [None] * n
        for i in range(*pieces.indices(n)):
            p, first, rows = int(grid.part[i]), int(grid.first[i]), int(grid.sizes[i])
            found = self._found[p]
            if p in decoded:
                chunk, begin = divmod(first, self.lengths[p])
                sources[i] = decoded[p][chunk][begin : begin + rows]
            elif found is not None:
                sources[i] = np.broadcast_to(constant_of(self.snapshot, self.field, *found), rows)
        return sources


# Any field, of one part ---------------------------------------------------------------------------------------------


def take_in_part(snapshot: Snapshot, part: int, field: Field, rows: Int64s) -> FieldData:
    """Rows of a field by their numbers in a part, in any order, repeats allowed, as a copy.

    Raises
    ------
    CorruptStoreError
        When offsets lead out of the part, or what belongs to a row does not fit.
    """
    layer, stored = snapshot.stored(part, field.name)
    if stored.values is None:
        values = np.broadcast_to(constant_of(snapshot, field, layer, stored), len(rows))
        return FieldData(values, labels=field.labels)
    at, offsets, counts = rows, [], np.empty(0, np.int64)
    begins, valid = rows, []
    for depth, number in enumerate(stored.offsets):
        valid.append(_flags(snapshot, layer, field, stored.valid, depth, at))
        begins, ends = pairs_at(snapshot, layer, number, at)
        counts = checked_counts(layer, field.name, length_below(layer, stored, depth), begins, ends)
        edges = np.zeros(len(counts) + 1, OFFSET_DTYPE)
        np.cumsum(counts, out=edges[1:])
        offsets.append(edges)
        if depth + 1 < len(stored.offsets) or stored.valid[depth + 1 : depth + 2] not in ((), (None,)):
            at = _expanded(begins, edges)
    if not stored.offsets or stored.valid[len(stored.offsets) :] not in ((), (None,)):
        valid.append(_flags(snapshot, layer, field, stored.valid, len(stored.offsets), at))
    if not stored.offsets:
        values = elements_at(snapshot, layer, stored.values, rows)
    else:
        values = _run_elements(snapshot, layer, stored.values, begins, offsets[-1])
    flags = () if all(v is None for v in valid) else tuple(valid)
    if field.kind == "category":
        return FieldData(store_codes(snapshot, layer, field, values), labels=field.labels, valid=flags)
    shapes = None
    if stored.shapes is not None:
        shapes = elements_at(snapshot, layer, stored.shapes, rows)
        check_shapes(layer.path, field.name, shapes, np.diff(offsets[0]))
    return FieldData(values, tuple(offsets), shapes=shapes, valid=flags)


def _flags(
    snapshot: Snapshot, layer: Layer, field: Field, numbers: tuple[int | None, ...], depth: int, at: Int64s
) -> npt.NDArray[np.bool_] | None:
    number = numbers[depth] if depth < len(numbers) else None
    if number is None:
        return None
    return check_flags(layer.path, field.name, elements_at(snapshot, layer, number, at))


def _expanded(begins: Int64s, edges: Int64s) -> Int64s:
    """The numbers of all elements of runs that begin there, one run after the other.

    Examples
    --------
    >>> _expanded(np.array([7, 0, 3]), np.array([0, 2, 2, 5])).tolist()
    [7, 8, 3, 4, 5]
    """
    return np.repeat(begins - edges[:-1], np.diff(edges)) + np.arange(edges[-1])


def _run_elements(snapshot: Snapshot, layer: Layer, number: int, begins: Int64s, edges: Int64s) -> npt.NDArray[Any]:
    """The elements of runs, one after the other."""
    if edges[-1] < _LONG * max(len(begins), 1):
        return elements_at(snapshot, layer, number, _expanded(begins, edges))
    spec = layer.arrays[number]
    out = np.empty((int(edges[-1]), *spec.shape[1:]), spec.dtype)
    for begin, a, b in zip(begins.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if a < b:
            out[a:b] = snapshot.read(layer, number, begin, begin + b - a)
    return out
