"""Rows in any order of arrays that are stored in chunks: gathered from chunks that are decoded, and kept a while.

Where whole arrays have an address, the kernels follow offsets in them. A chunk has one while it is kept, so that here
each array is asked for its elements: first the offsets of the rows, then what these point to.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.rows.part import (
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
from mmdask.store.layer import Layer
from mmdask.store.snapshot import Snapshot
from mmdask.store.zarr_arrays import MAX_CHUNKS_NBYTES
from mmdask.store.zarr_form import chunk_length

__all__ = ["chunk_rows", "expect", "take_in_part"]

Int64s = npt.NDArray[np.int64]
#: lists of so many elements are copied one by one; of shorter ones, the numbers of all elements are found first
_LONG = 64
#: bytes of chunks that are decoded before they are asked for: half of what is kept
EXPECTED_NBYTES = MAX_CHUNKS_NBYTES // 2


def chunk_rows(snapshot: Snapshot) -> int | None:
    """Rows of a chunk of a field, of the field of the widest rows if they differ; None where there are no chunks."""
    if not snapshot.chunked:
        return None
    form = snapshot.stores[0].manifest.zarr
    if form is None:
        return None
    dense = [f for f in snapshot.schema.values() if f.kind == "dense"]
    return min((chunk_length(form, f.dtype, f.shape) for f in dense), default=form.chunk_rows)


def expect(snapshot: Snapshot, names: Iterable[str], parts: Iterable[tuple[int, Any, Int64s]]) -> None:
    """Let threads begin to decode what rows of several fields need, while others of them are gathered.

    `parts` are the parts that the rows are in, each with its rows, as second and third.
    """
    room = EXPECTED_NBYTES
    for name in names:
        for part, _, rows in parts:
            if by_rows(snapshot, part, name) is not None:
                continue
            layer, stored = snapshot.stored(part, name)
            number = stored.offsets[0] if stored.offsets else stored.values
            if number is not None:
                room -= snapshot.expect(layer, number, rows)
            if room < 0:
                return


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
