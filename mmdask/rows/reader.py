"""Fields over parts: contiguous runs of rows as views of the mapped files, and any rows by number.

A run inside one part is a view; one that crosses parts is copied together. Constants are arrays of stride zero.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.errors import CorruptStoreError, RowNotFoundError
from mmdask.kernels import gather
from mmdask.schema import CODE_DTYPE, OFFSET_DTYPE, TEXT_DTYPE, Field, FieldData
from mmdask.store.layer import Layer, StoredField
from mmdask.store.snapshot import Snapshot

#: finding out which of so few parts are needed takes longer than giving them all to the kernel
_FEW_PARTS = 32

__all__ = ["concatenate", "constant_in_part", "read", "read_part", "runs", "take", "take_padded"]


def read_part(snapshot: Snapshot, part: int, name: str, start: int, stop: int) -> FieldData:
    """Rows `start` to `stop` of a part, lazily paged in.

    Raises
    ------
    CorruptStoreError
        When a file is missing, has the wrong size, or its offsets do not ascend within the values.
    """
    field = snapshot.schema[name]
    layer, stored = snapshot.stored(part, name)
    if stored.constant is not None:
        return FieldData(np.broadcast_to(_constant(field, stored), stop - start), labels=field.labels)
    assert stored.values is not None
    values = snapshot.array(layer, stored.values)
    if field.kind == "category":
        return FieldData(_global_codes(field, layer, stored, values[start:stop]), labels=field.labels)
    offsets = []
    for i, number in enumerate(stored.offsets):
        length = len(values) if i + 1 == len(stored.offsets) else layer.arrays[stored.offsets[i + 1]].shape[0] - 1
        o = snapshot.array(layer, number)[start : stop + 1]
        start, stop = int(o[0]), int(o[-1])
        if start < 0 or stop > length or (o[1:] < o[:-1]).any():
            raise CorruptStoreError(
                f"{layer.path}/{layer.arrays[number].file}: offsets of {name!r} do not ascend from 0 to {length}; "
                "the store is damaged: `mmdask verify` lists all damage"
            )
        offsets.append(o - start if start else o)
    return FieldData(values[start:stop], tuple(offsets))


def _constant(field: Field, stored: StoredField) -> Any:
    if field.kind == "category":
        return np.array(_code(field, str(stored.constant)), CODE_DTYPE)
    return np.array(stored.constant, field.dtype)


def _code(field: Field, label: str) -> int:
    try:
        return field.labels.index(label)
    except ValueError:
        raise CorruptStoreError(f"field {field.name!r}: a part has the label {label!r}, the manifest has not") from None


def _global_codes(field: Field, layer: Layer, stored: StoredField, codes: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """Codes of a layer's own labels as codes of the store's."""
    table = np.array([_code(field, label) for label in stored.labels], CODE_DTYPE)
    if codes.size and not 0 <= int(codes.min()) <= int(codes.max()) < len(table):
        raise CorruptStoreError(f"{layer.path}: a code of {field.name!r} is beyond its {len(table)} labels")
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
        if end > start:
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
        empty = np.empty((0, *field.shape), field.dtype)
        return FieldData(empty, tuple(np.zeros(1, OFFSET_DTYPE) for _ in range(field.n_offsets)), field.labels)
    offsets = []
    for level in range(field.n_offsets):
        pieces, end = [np.zeros(1, OFFSET_DTYPE)], 0
        for run in runs:
            pieces.append(run.offsets[level][1:] + end)
            end += int(run.offsets[level][-1])
        offsets.append(np.concatenate(pieces))
    return FieldData(np.concatenate([r.values for r in runs]), tuple(offsets), field.labels)


def _parts_of(snapshot: Snapshot, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Numbers of the parts that hold any of `rows`; of few parts simply all."""
    if not len(rows):
        return np.zeros(0, np.int64)
    if len(snapshot.parts) <= _FEW_PARTS:
        return np.arange(len(snapshot.parts))
    if int(rows.min()) < 0 or int(rows.max()) >= snapshot.rows:
        wrong = int(rows.min()) if int(rows.min()) < 0 else int(rows.max())
        raise RowNotFoundError(f"no row {wrong} in {snapshot.path}: it has {snapshot.rows} rows")
    part = np.searchsorted(snapshot.starts, rows, side="right") - 1
    return np.flatnonzero(np.bincount(part, minlength=len(snapshot.parts)))


def _arrays(
    snapshot: Snapshot, field: Field, parts: npt.NDArray[np.int64]
) -> tuple[list[npt.NDArray[Any] | None], list[list[npt.NDArray[np.int64] | None]]]:
    """Values and offsets of a field in the parts that some rows are in; None for the others."""
    n = len(snapshot.parts)
    values: list[npt.NDArray[Any] | None] = [None] * n
    offsets: list[list[npt.NDArray[np.int64] | None]] = [[None] * n for _ in range(field.n_offsets)]
    for p in parts.tolist():
        layer, stored = snapshot.stored(p, field.name)
        if stored.constant is not None:
            values[p] = np.broadcast_to(_constant(field, stored), layer.rows)
            continue
        assert stored.values is not None
        values[p] = snapshot.array(layer, stored.values)
        for level, number in zip(offsets, stored.offsets, strict=True):
            level[p] = snapshot.array(layer, number)
    return values, offsets


def take(snapshot: Snapshot, name: str, rows: npt.NDArray[np.int64]) -> FieldData:
    """Rows at these store row numbers (int64, any order, repeats allowed), as a copy.

    Raises
    ------
    RowNotFoundError
        When a row is negative or past the end.
    CorruptStoreError
        When offsets of one of the rows lead out of its part.
    """
    field = snapshot.schema[name]
    parts = _parts_of(snapshot, rows)
    if field.kind == "category":
        return _take_codes(snapshot, field, rows, parts)
    values, offsets = _arrays(snapshot, field, parts)
    if not offsets:
        out = np.empty((len(rows), *field.shape), field.dtype)
        return FieldData(gather.take_rows(values, snapshot.starts, rows, out))
    like = np.empty((0, *field.shape), field.dtype)
    taken, packed = gather.take_nested(values, offsets, snapshot.starts, rows, like=like)
    return FieldData(packed, taken)


def _take_codes(
    snapshot: Snapshot, field: Field, rows: npt.NDArray[np.int64], parts: npt.NDArray[np.int64]
) -> FieldData:
    """Codes of a category: each part has labels of its own."""
    out = np.empty(len(rows), CODE_DTYPE)
    part_of = np.searchsorted(snapshot.starts, rows, side="right") - 1
    for p in parts.tolist():
        here = np.flatnonzero(part_of == p)
        if not len(here):
            continue
        layer, stored = snapshot.stored(p, field.name)
        if stored.constant is not None:
            out[here] = _constant(field, stored)
            continue
        assert stored.values is not None
        local = snapshot.array(layer, stored.values).take(rows[here] - snapshot.starts[p], mode="clip")
        out[here] = _global_codes(field, layer, stored, local)
    return FieldData(out, labels=field.labels)


def take_padded(
    snapshot: Snapshot, name: str, rows: npt.NDArray[np.int64], length: int, fill: Any, side: str = "right"
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Rows of a ragged field cut or filled up to `length` items.

    Returns
    -------
    values : ``(rows, length, *shape)`` of the field's dtype
    mask : bool ``(rows, length)``
        True where an item is real.
    """
    field = snapshot.schema[name]
    values, offsets = _arrays(snapshot, field, _parts_of(snapshot, rows))
    out = np.full((len(rows), length, *field.shape), fill, field.dtype)
    mask = np.zeros((len(rows), length), np.bool_)
    gather.pad_ragged(values, offsets[0], snapshot.starts, rows, out, mask, side == "left")
    return out, mask


def item_count(snapshot: Snapshot, name: str, start: int, stop: int) -> int:
    """Items of a ragged field in store rows `start` to `stop`: the difference of two offsets per part."""
    total = 0
    for part, a, b in runs(snapshot, start, stop):
        layer, stored = snapshot.stored(part, name)
        offsets = snapshot.array(layer, stored.offsets[0])
        total += int(offsets[b]) - int(offsets[a])
    return total


def counts(snapshot: Snapshot, name: str, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Items of a ragged field in each of these store rows, int64; reads offsets only."""
    out = np.empty(len(rows), np.int64)
    part_of = np.searchsorted(snapshot.starts, rows, side="right") - 1
    for p in _parts_of(snapshot, rows).tolist():
        layer, stored = snapshot.stored(p, name)
        offsets = snapshot.array(layer, stored.offsets[0])
        here = part_of == p
        local = rows[here] - snapshot.starts[p]
        out[here] = offsets.take(local + 1) - offsets.take(local)
    return out


def as_text(data: FieldData) -> list[str]:
    """Strings of a run of a string field."""
    raw = np.ascontiguousarray(data.values, TEXT_DTYPE).tobytes()
    bounds = data.offsets[-1].tolist()
    return [raw[a:b].decode() for a, b in itertools.pairwise(bounds)]


def as_labels(data: FieldData) -> npt.NDArray[np.str_]:
    """Labels of a run of a category, as fixed-width text."""
    labels = np.array(data.labels or ("",), np.str_)
    return labels.take(data.values)
