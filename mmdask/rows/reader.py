"""Fields over parts: contiguous runs of rows as views of the mapped files, and any rows by number.

A run inside one part is a view; one that crosses parts is copied together. Constants are arrays of stride zero.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.errors import CorruptStoreError, RowNotFoundError
from mmdask.kernels import gather
from mmdask.rows.bits import groups
from mmdask.schema import CODE_DTYPE, OFFSET_DTYPE, TEXT_DTYPE, Field, FieldData, empty
from mmdask.store.layer import Layer, StoredField
from mmdask.store.snapshot import Snapshot

__all__ = [
    "Picker",
    "as_labels",
    "as_text",
    "concatenate",
    "constant_in_part",
    "counts",
    "item_count",
    "read",
    "read_counts",
    "read_part",
    "runs",
    "take",
    "take_padded",
]

Int64s = npt.NDArray[np.int64]


def read_part(snapshot: Snapshot, part: int, name: str, start: int, stop: int) -> FieldData:
    """Rows `start` to `stop` of a part, lazily paged in.

    Raises
    ------
    CorruptStoreError
        When a file is missing, has the wrong size, or its offsets do not ascend within the values.
    """
    field = snapshot.schema[name]
    layer, stored = snapshot.stored(part, name)
    if stored.values is None:
        return FieldData(np.broadcast_to(_constant(snapshot, field, layer, stored), stop - start), labels=field.labels)
    values = snapshot.array(layer, stored.values)
    bounds, offsets = [(start, stop)], []
    for i, number in enumerate(stored.offsets):
        length = len(values) if i + 1 == len(stored.offsets) else layer.arrays[stored.offsets[i + 1]].shape[0] - 1
        o = snapshot.array(layer, number)[start : stop + 1]
        start, stop = int(o[0]), int(o[-1])
        if start < 0 or stop > length or (o[1:] < o[:-1]).any():
            raise _bad_offsets(layer, name, length)
        offsets.append(o - start if start else o)
        bounds.append((start, stop))
    valid = tuple(
        None if number is None else snapshot.array(layer, number)[a:b]
        for number, (a, b) in zip(stored.valid, bounds, strict=False)
    )
    if field.kind == "category":
        codes = _store_codes(snapshot, layer, name, values[start:stop])
        return FieldData(codes, labels=field.labels, valid=valid)
    shapes = None
    if stored.shapes is not None:
        shapes = snapshot.array(layer, stored.shapes)[slice(*bounds[0])]
        check_shapes(layer, name, shapes, np.diff(offsets[0]))
    return FieldData(values[start:stop], tuple(offsets), shapes=shapes, valid=valid)


def check_shapes(layer: Layer, name: str, shapes: Int64s, counts: Int64s) -> None:
    """Raise `CorruptStoreError` unless rows have as many items as their shapes say."""
    # In floats no product of hostile lengths overflows, and those of real ones are exact.
    wrong = (shapes < 0).any(axis=1) | (np.prod(shapes.astype(np.float64), axis=1) != counts)
    if wrong.any():
        raise CorruptStoreError(
            f"{layer.path}: a shape of {name!r} does not fit its number of items; the store is damaged: "
            "`mmdask verify` lists all damage"
        )


def _bad_offsets(layer: Layer, name: str, length: int) -> CorruptStoreError:
    return CorruptStoreError(
        f"{layer.path}: offsets of {name!r} do not ascend from 0 to {length}; the store is damaged: "
        "`mmdask verify` lists all damage"
    )


def _constant(snapshot: Snapshot, field: Field, layer: Layer, stored: StoredField) -> npt.NDArray[Any]:
    if field.kind == "category":
        return snapshot.codes(layer, field.name).reshape(())  # of its one label
    return np.array(stored.constant, field.dtype)


def _store_codes(snapshot: Snapshot, layer: Layer, name: str, codes: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """Codes of a layer's own labels as codes of the store's."""
    table = snapshot.codes(layer, name)
    if codes.size and not 0 <= int(codes.min()) <= int(codes.max()) < len(table):
        raise CorruptStoreError(f"{layer.path}: a code of {name!r} is beyond its {len(table)} labels")
    return table.take(codes) if codes.size else np.empty(0, CODE_DTYPE)


def constant_in_part(snapshot: Snapshot, part: int, name: str) -> bool:
    """Whether a field has one value for all rows of a part, so that reading it reads no data."""
    return snapshot.stored(part, name)[1].constant is not None


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
    valid: list[npt.NDArray[np.bool_] | None] = []
    for depth in range(max(len(run.valid) for run in runs)):
        flags = [run.valid_at(depth) for run in runs]
        whole = [np.ones(run.length(depth), np.bool_) if v is None else v for run, v in zip(runs, flags, strict=True)]
        valid.append(None if all(v is None for v in flags) else np.concatenate(whole))
    shapes = np.concatenate([r.shapes for r in runs if r.shapes is not None]) if field.kind == "shaped" else None
    return FieldData(np.concatenate([r.values for r in runs]), tuple(offsets), field.labels, shapes, tuple(valid))


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


def _sources(
    snapshot: Snapshot, field: Field, parts: Sequence[int]
) -> tuple[list[npt.NDArray[Any] | None], list[list[Int64s | None]]]:
    """Values and offsets of a field in some parts; None for -1."""
    values: list[npt.NDArray[Any] | None] = []
    offsets: list[list[Int64s | None]] = [[] for _ in range(field.n_offsets)]
    for p in parts:
        if p < 0:
            values.append(None)
            for level in offsets:
                level.append(None)
            continue
        layer, stored = snapshot.stored(p, field.name)
        if stored.values is None:
            values.append(np.broadcast_to(_constant(snapshot, field, layer, stored), layer.rows))
        else:
            values.append(snapshot.array(layer, stored.values))
        for level, number in zip(offsets, stored.offsets, strict=True):
            level.append(snapshot.array(layer, number))
    return values, offsets


def take(snapshot: Snapshot, name: str, rows: Int64s) -> FieldData:
    """Rows at these store row numbers (int64, any order, repeats allowed), as a copy.

    Raises
    ------
    RowNotFoundError
        When a row is negative or past the end.
    CorruptStoreError
        When offsets of one of the rows lead out of its part.
    """
    field = snapshot.schema[name]
    if field.kind == "category":
        return _take_codes(snapshot, field, rows)
    starts, parts = _needed(snapshot, rows)
    values, offsets = _sources(snapshot, field, parts)
    if not offsets:
        out = np.empty((len(rows), *field.shape), field.dtype)
        return FieldData(gather.take_rows(values, starts, rows, out))
    like = np.empty((0, *field.shape), field.dtype)
    taken, packed = gather.take_nested(values, offsets, starts, rows, like=like)
    return FieldData(packed, taken)


def _by_part(snapshot: Snapshot, rows: Int64s) -> Iterator[tuple[int, Any, Int64s]]:
    """The parts that some rows are in, each with an index of its rows among them, and their numbers within it."""
    if not len(rows):
        return
    first, last = _parts_between(snapshot, rows)
    if first == last:
        yield first, slice(None), rows - snapshot.starts[first]
        return
    for part, here in groups(np.searchsorted(snapshot.starts, rows, side="right") - 1):
        yield part, here, rows[here] - snapshot.starts[part]


def _take_codes(snapshot: Snapshot, field: Field, rows: Int64s) -> FieldData:
    """Codes of a category: each part has labels of its own."""
    out = np.empty(len(rows), CODE_DTYPE)
    for part, here, local in _by_part(snapshot, rows):
        layer, stored = snapshot.stored(part, field.name)
        if stored.values is None:
            out[here] = _constant(snapshot, field, layer, stored)
        else:
            codes = snapshot.array(layer, stored.values).take(local)
            out[here] = _store_codes(snapshot, layer, field.name, codes)
    return FieldData(out, labels=field.labels)


def take_padded(
    snapshot: Snapshot, name: str, rows: Int64s, length: int, fill: Any, side: str = "right"
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Rows of a ragged field cut or filled up to `length` items.

    Returns
    -------
    values : ``(rows, length, *shape)`` of the field's dtype
    mask : bool ``(rows, length)``
        True where an item is real.
    """
    field = snapshot.schema[name]
    starts, parts = _needed(snapshot, rows)
    values, offsets = _sources(snapshot, field, parts)
    out = np.full((len(rows), length, *field.shape), fill, field.dtype)
    mask = np.zeros((len(rows), length), np.bool_)
    gather.pad_ragged(values, offsets[0], starts, rows, out, mask, side == "left")
    return out, mask


def _outer(snapshot: Snapshot, part: int, name: str) -> tuple[Layer, Int64s, int]:
    """The offsets of the rows of a part, and how many items there are."""
    layer, stored = snapshot.stored(part, name)
    below = layer.arrays[stored.values if len(stored.offsets) == 1 else stored.offsets[1]]  # type: ignore[index]
    return layer, snapshot.array(layer, stored.offsets[0]), below.shape[0] - (len(stored.offsets) > 1)


def item_count(snapshot: Snapshot, name: str, start: int, stop: int) -> int:
    """Items of a ragged field in store rows `start` to `stop`: the difference of two offsets per part."""
    total = 0
    for part, a, b in runs(snapshot, start, stop):
        layer, offsets, length = _outer(snapshot, part, name)
        begin, end = int(offsets[a]), int(offsets[b])
        if not 0 <= begin <= end <= length:
            raise _bad_offsets(layer, name, length)
        total += end - begin
    return total


def counts(snapshot: Snapshot, name: str, rows: Int64s) -> Int64s:
    """Items of a ragged field in each of these store rows, int64; reads offsets only."""
    out = np.empty(len(rows), np.int64)
    for part, here, local in _by_part(snapshot, rows):
        layer, offsets, length = _outer(snapshot, part, name)
        out[here] = _checked_counts(layer, name, length, offsets.take(local + 1) - offsets.take(local))
    return out


def read_counts(snapshot: Snapshot, name: str, start: int, stop: int) -> Int64s:
    """Items of a ragged field in each of the store rows `start` to `stop`, int64; reads offsets only."""
    pieces = [np.zeros(0, np.int64)]
    for part, a, b in runs(snapshot, start, stop):
        layer, offsets, length = _outer(snapshot, part, name)
        pieces.append(_checked_counts(layer, name, length, np.diff(offsets[a : b + 1])))
    return np.concatenate(pieces)


def _checked_counts(layer: Layer, name: str, length: int, counts: Int64s) -> Int64s:
    if counts.size and not 0 <= int(counts.min()) <= int(counts.max()) <= length:
        raise _bad_offsets(layer, name, length)
    return counts


class Picker:
    """Single rows of a field with one level of offsets, each a view; quick while they are in the same part.

    Parameters
    ----------
    snapshot : Snapshot
        The store.
    name : str
        A ragged field of one level, or a string field.
    """

    def __init__(self, snapshot: Snapshot, name: str) -> None:
        self.snapshot, self.name = snapshot, name
        self._part: tuple[int, int, Int64s, npt.NDArray[Any]] = (0, 0, np.zeros(1, np.int64), np.zeros(0))

    def __call__(self, row: int) -> npt.NDArray[Any]:
        """The items of a store row, which must exist."""
        first, end, offsets, values = self._part
        if not first <= row < end:
            part = self.snapshot.part_of(row)
            first, end = self.snapshot.starts[part : part + 2].tolist()
            layer, stored = self.snapshot.stored(part, self.name)
            assert stored.values is not None
            offsets, values = self.snapshot.array(layer, stored.offsets[0]), self.snapshot.array(layer, stored.values)
            self._part = first, end, offsets, values
        begin, stop = offsets.item(row - first), offsets.item(row - first + 1)
        if not 0 <= begin <= stop <= len(values):
            layer, _ = self.snapshot.stored(self.snapshot.part_of(row), self.name)
            raise _bad_offsets(layer, self.name, len(values))
        return values[begin:stop]


def as_text(data: FieldData) -> list[Any]:
    """The text of a string field: a list of str, nested once for every level.

    Raises
    ------
    CorruptStoreError
        When it is not UTF-8.
    """
    *outer, bounds = (o.tolist() for o in data.offsets)
    raw = np.ascontiguousarray(data.values, TEXT_DTYPE).tobytes()
    if raw.isascii():
        text = raw.decode("ascii")  # then characters are bytes, and one decoding serves all rows
        found: list[Any] = [text[a:b] for a, b in itertools.pairwise(bounds)]
    else:
        found = [decode(raw[a:b]) for a, b in itertools.pairwise(bounds)]
    for level in reversed(outer):
        found = [found[a:b] for a, b in itertools.pairwise(level)]
    return found


def decode(raw: bytes) -> str:
    """The text of one string."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise CorruptStoreError(
            f"text that is not UTF-8: {raw[:40]!r}; the store is damaged: `mmdask verify` lists all damage"
        ) from None


def as_labels(data: FieldData) -> npt.NDArray[np.str_]:
    """Labels of a run of a category, as fixed-width text."""
    labels = np.array(data.labels or ("",), np.str_)
    return labels.take(data.values)
