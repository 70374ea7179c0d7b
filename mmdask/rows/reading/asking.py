"""Asking the system for rows that will be read soon, in the order in which they lie in files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from mmdask.errors import MmdaskError
from mmdask.rows.reading.part import by_rows, elements_at
from mmdask.store.arrays.held import SMALL_NBYTES
from mmdask.store.layer import Layer
from mmdask.store.snapshot import Snapshot

__all__ = ["ask", "missing"]

Int64s = npt.NDArray[np.int64]
#: an array of a layer, and runs of its elements
Runs = tuple[Layer, int, Int64s, Int64s]
#: pages that are looked at first: if all of them are in memory, nothing is asked for
_LOOKS = 64


def ask(snapshot: Snapshot, names: Iterable[str], begins: Int64s, ends: Int64s) -> bool:
    """Have the system read runs of rows, unless they are in memory as far as some of them tell.

    Parameters
    ----------
    snapshot, names
        The store, and the fields.
    begins, ends : numpy.ndarray
        int64 ``(n,)``: first store row of each run, and the one after its last; in any order.

    Returns
    -------
    bool
        Whether anything was asked for. What cannot be read raises where it is read, not here.
    """
    asked = list(names)
    try:
        if not missing(snapshot, asked, begins):
            return False
        _ask(snapshot, asked, begins, ends)
    except MmdaskError:
        return False
    return True


def missing(snapshot: Snapshot, names: Iterable[str], rows: Int64s) -> bool:
    """Whether rows are not in memory, as far as some of them tell; not where none can be asked for.

    Parameters
    ----------
    snapshot, names
        The store, and the fields.
    rows : numpy.ndarray
        int64 ``(n,)``: store rows, in any order.
    """
    asked = list(names)
    if not snapshot.in_files or not len(rows) or not asked:
        return False
    room = _LOOKS
    try:
        for layer, number, at in _looks(snapshot, asked, rows):
            if room <= 0:
                break
            if not snapshot.in_memory(layer, number, at[:room]):
                return True
            room -= len(at)
    except MmdaskError:
        pass
    return False


def _ask(snapshot: Snapshot, names: list[str], begins: Int64s, ends: Int64s) -> None:
    order = np.argsort(begins, kind="stable")
    located = _in_parts(snapshot, begins[order], ends[order])
    for name in names:
        for runs in _of_rows(snapshot, name, *located):
            snapshot.ask(*runs)
    # Where items lie is told by offsets, which have been asked for by now.
    for name in names:
        if snapshot.schema[name].n_offsets:
            for runs in _of_items(snapshot, name, *located):
                snapshot.ask(*runs)


def _looks(snapshot: Snapshot, names: list[str], begins: Int64s) -> Iterator[tuple[Layer, int, Int64s]]:
    """Elements that some of the rows have in some of the fields, spread over all of both; none of small arrays."""
    some = begins[np.linspace(0, len(begins) - 1, _LOOKS).astype(np.int64)]
    few = names[:: -(-len(names) // _LOOKS)]
    for i, name in enumerate(few):
        rows = some[i :: len(few)]
        for layer, number, first, _ in _of_rows(snapshot, name, *_in_parts(snapshot, rows, rows + 1)):
            if layer.arrays[number].nbytes > SMALL_NBYTES:
                yield layer, number, first


def _in_parts(snapshot: Snapshot, begins: Int64s, ends: Int64s) -> tuple[Int64s, Int64s, Int64s]:
    """Runs of rows cut where parts end: the part of each, its first row there, and the one after its last."""
    starts = snapshot.starts
    low = np.searchsorted(starts, begins, side="right") - 1
    high = np.maximum(np.searchsorted(starts, ends - 1, side="right") - 1, low)
    n = high - low + 1
    run = np.repeat(np.arange(len(n)), n)
    part = low[run] + np.arange(len(run)) - (np.cumsum(n) - n)[run]
    a, b = np.maximum(begins[run], starts[part]), np.minimum(ends[run], starts[part + 1])
    return part, a - starts[part], b - starts[part]


def _by_part(part: Int64s, a: Int64s, b: Int64s) -> Iterator[tuple[int, Int64s, Int64s]]:
    edges = np.flatnonzero(np.diff(part)) + 1
    if np.any(np.diff(part) < 0):
        order = np.argsort(part, kind="stable")
        part, a, b = part[order], a[order], b[order]
        edges = np.flatnonzero(np.diff(part)) + 1
    for here in np.split(np.arange(len(part)), edges):
        yield int(part[here[0]]), a[here], b[here]


def _of_rows(snapshot: Snapshot, name: str, part: Int64s, a: Int64s, b: Int64s) -> Iterator[Runs]:
    """Runs of what a field has one or more of for each row: values, offsets, shapes, flags."""
    for p, begin, end in _by_part(part, a, b):
        if by_rows(snapshot, p, name) is not None:
            continue
        layer, stored = snapshot.stored(p, name)
        if stored.offsets:
            yield layer, stored.offsets[0], begin, end + 1
        elif stored.values is not None:
            yield layer, stored.values, begin, end
        if stored.shapes is not None:
            yield layer, stored.shapes, begin, end
        if stored.valid and stored.valid[0] is not None:
            yield layer, stored.valid[0], begin, end


def _of_items(snapshot: Snapshot, name: str, part: Int64s, a: Int64s, b: Int64s) -> Iterator[Runs]:
    """Runs of the items of rows, level by level; offsets that are damaged are found when they are read."""
    for p, begin, end in _by_part(part, a, b):
        if by_rows(snapshot, p, name) is not None:
            continue
        layer, stored = snapshot.stored(p, name)
        for depth, number in enumerate(stored.offsets):
            last = layer.arrays[number].shape[0] - 1
            edges = np.clip(np.concatenate([begin, end]), 0, last)
            begin, end = np.split(elements_at(snapshot, layer, number, edges).astype(np.int64), 2)
            below = stored.offsets[depth + 1] if depth + 1 < len(stored.offsets) else stored.values
            if below is not None:
                yield layer, below, begin, end + (depth + 1 < len(stored.offsets))
            if depth + 1 < len(stored.valid) and (flags := stored.valid[depth + 1]) is not None:
                yield layer, flags, begin, end
