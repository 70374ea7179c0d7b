"""Rows of one part, or of one layer: the place where what a store says is checked before anything follows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.errors import CorruptStoreError, OptionError
from mmdask.rows.reading.spans import spans_of
from mmdask.schema import CODE_DTYPE, OFFSET_DTYPE, Field, FieldData
from mmdask.store.layer import Layer, StoredField, wrong_shapes
from mmdask.store.snapshot import Snapshot

__all__ = ["ByRows", "constant_in_part", "elements_at", "read_aux", "read_part", "read_runs"]

Int64s = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class ByRows(Snapshot):
    """A view of a store that has rows, but no arrays of them: whoever wants one asks for its rows."""

    def read_rows(self, part: int, name: str, start: int, stop: int) -> FieldData:
        """Rows `start` to `stop` of a part."""
        raise NotImplementedError

    def take_counts(self, part: int, name: str, rows: Int64s) -> Int64s:
        """Items of a ragged field in some rows of a part."""
        raise NotImplementedError

    def take_valid(self, part: int, name: str, rows: Int64s) -> Flags | None:
        """Which rows of a part are not missing; None where all are there."""
        raise NotImplementedError

    def take_shapes(self, part: int, name: str, rows: Int64s) -> Int64s:
        """Shapes of some rows of a part of a shaped field."""
        raise NotImplementedError


def by_rows(snapshot: Snapshot, part: int, name: str) -> tuple[ByRows, int, str] | None:
    """The view without arrays whose field this is in a part, if it is one's."""
    found, number, field = snapshot.source(part, name)
    return (found, number, field) if isinstance(found, ByRows) else None


def read_part(snapshot: Snapshot, part: int, name: str, start: int, stop: int) -> FieldData:
    """Rows `start` to `stop` of a part: lazily paged in where arrays are mapped, else read.

    Raises
    ------
    CorruptStoreError
        When a file is missing, has the wrong size, or what it says of these rows cannot be.
    """
    made = by_rows(snapshot, part, name)
    if made is not None:
        view, number, field = made
        return _with_labels(snapshot.schema[name], view.read_rows(number, field, start, stop))
    layer, stored = snapshot.stored(part, name)
    return _read_stored(snapshot, layer, stored, snapshot.schema[name], start, stop)


def _with_labels(field: Field, data: FieldData) -> FieldData:
    """The same labels of a category, as codes of those of a field, which has all of them."""
    if data.labels == field.labels:
        return data
    number = {label: i for i, label in enumerate(field.labels)}
    table = np.array([number[label] for label in data.labels], CODE_DTYPE)
    # Without labels all rows are missing, and have the code 0.
    return replace(data, values=table.take(data.values) if len(table) else data.values, labels=field.labels)


def read_aux(snapshot: Snapshot, name: str) -> FieldData:
    """An auxiliary array, as the one row of a field (``snapshot.manifest.aux[name]``); raises as `read_part`."""
    layer, stored = snapshot.stored_aux(name)
    return _read_stored(snapshot, layer, stored, snapshot.manifest.aux[name], 0, 1)


def _read_stored(
    snapshot: Snapshot, layer: Layer, stored: StoredField, field: Field, start: int, stop: int
) -> FieldData:
    """Rows of a field in a layer, everything that says where others are checked for these rows."""
    if stored.values is None:
        return FieldData(
            np.broadcast_to(constant_of(snapshot, field, layer, stored), stop - start), labels=field.labels
        )
    bounds, offsets = [(start, stop)], []
    for i, number in enumerate(stored.offsets):
        length = length_below(layer, stored, i)
        o = snapshot.read(layer, number, start, stop + 1)
        start, stop = int(o[0]), int(o[-1])
        if start < 0 or stop > length or (o[1:] < o[:-1]).any():
            raise bad_offsets(layer, field.name, length)
        offsets.append(o - start if start else o)
        bounds.append((start, stop))
    return _assembled(snapshot, layer, stored, field, snapshot.read, bounds, offsets)


def read_runs(snapshot: Snapshot, part: int, name: str, starts: Int64s, stops: Int64s) -> FieldData:
    """Several runs of rows of a part, one after the other, of a field that has arrays; raises as `read_part`."""
    field = snapshot.schema[name]
    layer, stored = snapshot.stored(part, name)
    if stored.values is None:
        n = int((stops - starts).sum())
        return FieldData(np.broadcast_to(constant_of(snapshot, field, layer, stored), n), labels=field.labels)
    bounds, offsets = [(starts, stops)], []
    for i, number in enumerate(stored.offsets):
        length = length_below(layer, stored, i)
        o = snapshot.read_runs(layer, number, starts, stops + 1)
        ends = np.cumsum(stops + 1 - starts)
        between = ends[:-1] - 1  # two runs
        starts, stops = o[ends - (stops + 1 - starts)], o[ends - 1]
        if np.delete(o[1:] < o[:-1], between).any() or (starts < 0).any() or (stops > length).any():
            raise bad_offsets(layer, field.name, length)
        counts = np.delete(np.diff(o), between)
        offsets.append(np.concatenate([np.zeros(1, OFFSET_DTYPE), np.cumsum(counts, dtype=OFFSET_DTYPE)]))
        bounds.append((starts, stops))
    return _assembled(snapshot, layer, stored, field, snapshot.read_runs, bounds, offsets)


def _assembled(
    snapshot: Snapshot,
    layer: Layer,
    stored: StoredField,
    field: Field,
    read: Callable[..., npt.NDArray[Any]],
    bounds: Sequence[tuple[Any, Any]],
    offsets: Sequence[Int64s],
) -> FieldData:
    """Rows whose offsets are checked: of each depth it is known from where to where it reaches."""
    valid = tuple(
        [
            None if number is None else check_flags(layer.path, field.name, read(layer, number, *edges))
            for number, edges in zip(stored.valid, bounds, strict=False)
        ]
    )
    values = read(layer, stored.values, *bounds[-1])
    if field.kind == "category":
        return FieldData(store_codes(snapshot, layer, field, values), labels=field.labels, valid=valid)
    shapes = None
    if stored.shapes is not None:
        shapes = read(layer, stored.shapes, *bounds[0])
        check_shapes(layer.path, field.name, shapes, np.diff(offsets[0]))
    return FieldData(values, tuple(offsets), shapes=shapes, valid=valid)


def length_below(layer: Layer, stored: StoredField, level: int) -> int:
    """How many elements there are below a level of offsets."""
    if level + 1 < len(stored.offsets):
        return layer.arrays[stored.offsets[level + 1]].shape[0] - 1
    assert stored.values is not None
    return layer.arrays[stored.values].shape[0]


def check_flags(where: str, name: str, flags: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return flags that say which values are there, if every byte is 0 or 1: numpy counts others wrongly."""
    if flags.view(np.uint8).max(initial=0) > 1:
        raise CorruptStoreError(f"{where}: validity of {name!r} {_DAMAGED.format('holds bytes other than 0 and 1')}")
    return flags


def check_shapes(where: str, name: str, shapes: Int64s, counts: Int64s) -> None:
    """Raise `CorruptStoreError` unless rows have as many items as their shapes say."""
    if wrong_shapes(shapes, counts).any():
        raise bad_shape(where, name)


def bad_shape(where: str, name: str) -> CorruptStoreError:
    return CorruptStoreError(f"{where}: a shape of {name!r} {_DAMAGED.format('does not fit its number of items')}")


def bad_offsets(layer: Layer, name: str, length: int) -> CorruptStoreError:
    return CorruptStoreError(
        f"{layer.path}: offsets of {name!r} {_DAMAGED.format(f'do not ascend from 0 to {length}')}"
    )


_DAMAGED = "{}; the store is damaged: `mmdask verify` lists all damage"


def constant_of(snapshot: Snapshot, field: Field, layer: Layer, stored: StoredField) -> npt.NDArray[Any]:
    if field.kind == "category":
        return snapshot.codes(layer, field).reshape(())  # of its one label
    return np.array(stored.constant, field.dtype)


def store_codes(snapshot: Snapshot, layer: Layer, field: Field, codes: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """Codes of a layer's own labels as codes of the store's."""
    table = snapshot.codes(layer, field)
    if codes.size and not 0 <= int(codes.min()) <= int(codes.max()) < len(table):
        raise CorruptStoreError(f"{layer.path}: a code of {field.name!r} is beyond its {len(table)} labels")
    return table.take(codes) if codes.size else np.empty(0, CODE_DTYPE)


def constant_in_part(snapshot: Snapshot, part: int, name: str) -> bool:
    """Whether a field has one value for all rows of a part, so that reading it reads no data."""
    return snapshot.stored(part, name)[1].constant is not None


def row_nbytes(snapshot: Snapshot, part: int, name: str) -> float:
    layer, _ = snapshot.stored(part, name)
    return layer.field_nbytes(name) / max(layer.rows, 1)


def whole_part(snapshot: Snapshot, field: Field, part: int) -> FieldData:
    """All rows of a part, of which nothing is checked yet."""
    layer, stored = snapshot.stored(part, field.name)
    if stored.values is None:
        return FieldData(np.broadcast_to(constant_of(snapshot, field, layer, stored), layer.rows))
    return FieldData(
        snapshot.array(layer, stored.values),
        tuple([snapshot.array(layer, number) for number in stored.offsets]),
        shapes=None if stored.shapes is None else snapshot.array(layer, stored.shapes),
        valid=tuple([None if number is None else snapshot.array(layer, number) for number in stored.valid]),
    )


def elements_at(snapshot: Snapshot, layer: Layer, number: int, at: Int64s) -> npt.NDArray[Any]:
    """Elements of one array of a layer along its first axis, as a copy; `at` is int64, in any order."""
    if snapshot.addressable:
        return snapshot.array(layer, number).take(at, axis=0)
    if snapshot.chunked:
        return snapshot.elements(layer, number, at)
    spec = layer.arrays[number]
    spans, where = spans_of(np.array([0, spec.shape[0]]), at, lambda _: spec.nbytes / max(spec.shape[0], 1))
    pieces = [np.empty((0, *spec.shape[1:]), spec.dtype)]
    pieces += [snapshot.read_runs(layer, number, s.starts, s.stops).take(s.wanted, axis=0) for s in spans]
    return np.concatenate(pieces).take(where, axis=0)


def pairs_at(snapshot: Snapshot, layer: Layer, number: int, at: Int64s) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Elements of an array, and those that follow each: as `elements_at` of `at` and ``at + 1``."""
    if snapshot.addressable:
        array = snapshot.array(layer, number)
        return array.take(at), array.take(at + 1)
    both = elements_at(snapshot, layer, number, np.concatenate([at, at + 1]))
    return both[: len(at)], both[len(at) :]


def counts_at(snapshot: Snapshot, part: int, name: str, rows: slice | Int64s) -> Int64s:
    """Items of a ragged field in some rows of a part: a run of them, or any; reads offsets only."""
    made = by_rows(snapshot, part, name)
    if made is not None:
        view, number, field = made
        return view.take_counts(number, field, np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows)
    layer, offsets, length = outer_offsets(snapshot, part, name)
    if isinstance(rows, slice):
        bounds = snapshot.read(layer, offsets, rows.start, rows.stop + 1)
        return checked_counts(layer, name, length, bounds[:-1], bounds[1:])
    return checked_counts(layer, name, length, *pairs_at(snapshot, layer, offsets, rows))


def outer_offsets(snapshot: Snapshot, part: int, name: str) -> tuple[Layer, int, int]:
    """The layer of a part that holds a field, the number of the offsets of its rows, and how many items there are."""
    layer, stored = snapshot.stored(part, name)
    if not stored.offsets:
        raise OptionError(f"field {name!r} is {snapshot.schema[name].describe()}, whose rows have no items to count")
    return layer, stored.offsets[0], length_below(layer, stored, 0)


def checked_counts(layer: Layer, name: str, length: int, begins: Int64s, ends: Int64s) -> Int64s:
    """How many elements lie between two offsets each, which must lie within `length` elements."""
    if begins.size and (int(begins.min()) < 0 or int(ends.max()) > length or (ends < begins).any()):
        raise bad_offsets(layer, name, length)
    return ends - begins
