"""Fields over parts: contiguous runs of rows, and any rows by number.

Where arrays are mapped, a run inside one part is a view, and rows are gathered from the maps. Where they are not, what
is wanted is read in runs (`spans`), from which rows are gathered in the same way. A run that crosses parts is copied
together. Constants are arrays of stride zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.errors import OptionError
from mmdask.kernels import dense, gather
from mmdask.rows.reading.asking import ask, missing
from mmdask.rows.reading.chunked import SOME, expect, take_dense, take_in_part
from mmdask.rows.reading.gathering import THESE, Sources, concatenate, gather_rows, gathered, valid_of
from mmdask.rows.reading.part import (
    by_rows,
    check_flags,
    constant_of,
    elements_at,
    read_part,
    read_runs,
    row_nbytes,
    store_codes,
)
from mmdask.rows.reading.spans import Spans, spans_of
from mmdask.rows.reading.where import by_part, needed_parts, parts_between, runs
from mmdask.schema import CODE_DTYPE, VALID_DTYPE, Field, FieldData
from mmdask.store.snapshot import Snapshot

__all__ = ["read", "release", "take", "take_many", "take_padded"]

Int64s = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


def read(snapshot: Snapshot, name: str, start: int, stop: int) -> FieldData:
    """Store rows `start` to `stop` of a field: a view inside one part, a copy across several."""
    pieces = [read_part(snapshot, part, name, a, b) for part, a, b in runs(snapshot, start, stop)]
    return concatenate(snapshot.schema[name], pieces)


def _sources(snapshot: Snapshot, field: Field, rows: Int64s) -> Sources:
    """From where to gather rows of a field: whole parts where they have an address, else what is wanted of them."""
    if snapshot.addressable:
        starts, parts = needed_parts(snapshot, rows)
        return _part_sources(snapshot, field, starts, rows, parts)
    if len(rows):
        parts_between(snapshot, rows)
    if snapshot.chunked:
        sources = Sources(field, np.array([0, len(rows)]), np.arange(len(rows)))
        sources.add(_take_chunked(snapshot, field, rows))
        return sources
    look = snapshot.in_files and len(rows) > _FEW
    cold = look and missing(snapshot, [field.name], rows)
    near = look and not cold
    spans, where = spans_of(snapshot.starts, rows, lambda part: row_nbytes(snapshot, part, field.name), near)
    sources = Sources(field, np.cumsum([0, *(len(span.wanted) for span in spans)]), where)
    for span in _asked_for(snapshot, field.name, spans) if cold else spans:
        run = _read_runs(snapshot, span.part, field, span.starts, span.stops)
        if len(span.wanted) < len(run):  # what was read along is given up before more is read
            run = gather_rows(field, run, span.wanted)
        sources.add(run)
    return sources


def _asked_for(snapshot: Snapshot, name: str, spans: list[Spans]) -> Iterator[Spans]:
    """What is read together, when it was asked for and what is read next as well."""
    for i, span in enumerate(spans):
        for one in spans[i + 1 : i + 2] if i else spans[:2]:
            if len(one.starts) > 1:
                first = snapshot.starts[one.part]
                ask(snapshot, [name], first + one.starts, first + one.stops)
        yield span


def _read_runs(snapshot: Snapshot, part: int, field: Field, starts: Int64s, stops: Int64s) -> FieldData:
    """Runs of rows of a part, one after the other."""
    if len(starts) > 1 and by_rows(snapshot, part, field.name) is None:
        return read_runs(snapshot, part, field.name, starts, stops)
    runs = [read_part(snapshot, part, field.name, a, b) for a, b in zip(starts.tolist(), stops.tolist(), strict=True)]
    return concatenate(field, runs)


def _part_sources(snapshot: Snapshot, field: Field, starts: Int64s, rows: Int64s, parts: list[int]) -> Sources:
    """Whole parts, as `needed_parts` tells which."""
    sources = Sources(field, starts, rows)
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
        return _take_many_chunked(snapshot, [name], rows)[name]
    if field.kind == "category" and snapshot.addressable:
        return _take_codes(snapshot, field, rows)
    return gathered(field, _sources(snapshot, field, rows), items)


def take_many(snapshot: Snapshot, names: Iterable[str], rows: Int64s) -> dict[str, FieldData]:
    """Rows of several fields, each as by `take`; where the rows lie is found once for all dense ones.

    Parameters
    ----------
    snapshot, names, rows
        The store, the fields, and the row numbers.
    """
    taken: dict[str, FieldData] = {}
    located = None
    if snapshot.chunked:
        return _take_many_chunked(snapshot, list(names), rows)
    for name in names:
        field = snapshot.schema[name]
        if field.kind != "dense" or field.optional or not snapshot.addressable:
            taken[name] = take(snapshot, name, rows)
            continue
        if located is None:
            starts, parts = needed_parts(snapshot, rows)
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


#: rows for which it is not worth to look whether they are in memory
_FEW = 64
#: of a block, what is copied whole where some of its rows are wanted: loaders may use so much smaller blocks
_NEAR = 8


def _take_many_chunked(snapshot: Snapshot, names: Sequence[str], rows: Int64s) -> dict[str, FieldData]:
    """Rows of several fields whose arrays are in chunks: the dense ones together, any other part by part."""
    starts, parts = needed_parts(snapshot, rows)
    wanted = [part for part in parts if part >= 0]
    together = [name for name in names if _is_dense(snapshot, name, wanted)]
    others = [name for name in names if name not in together]
    parts_of_rows = list(by_part(snapshot, rows)) if others else []
    held = expect(snapshot, others, parts_of_rows) if len(rows) > SOME else []
    dense_ones = take_dense(snapshot, together, rows, starts, parts) if together else {}
    taken = {}
    for name in names:
        field = snapshot.schema[name]
        if name in dense_ones:
            taken[name] = FieldData(dense_ones[name])
        else:
            taken[name] = _take_chunked(snapshot, field, rows, parts_of_rows)
    del held
    return taken


def _is_dense(snapshot: Snapshot, name: str, parts: Sequence[int]) -> bool:
    """Whether a field has one element for each row, none missing, in arrays of all of some parts."""
    field = snapshot.schema[name]
    return (
        field.kind == "dense"
        and not field.optional
        and bool(field.item_nbytes)
        and all(by_rows(snapshot, part, name) is None for part in parts)
    )


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
    return FieldData(out, labels=field.labels, valid=valid_of([valid]))


#: where items of rows were found, by the arrays of offsets; the arrays stay as long as it
Found = dict[tuple[tuple[int, int], ...], tuple[gather.Runs, Sources]]


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
        check_flags(THESE, name, there)
        out[~there] = fill
        mask &= there
    return out, mask
