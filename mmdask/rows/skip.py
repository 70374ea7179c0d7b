"""What a cut gives for runs of rows whose data need not be read: constants, labels, smallest and largest values.

Only part.json and the statistics of a layer are read, never data of fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.expr import Expression, evaluate
from mmdask.expr.bounds import FALSE, MOST_ITEMS, NONE, TRUE, UNKNOWN, Bounds, settle
from mmdask.expr.typed import range_of
from mmdask.rows.reader import constant_in_part, read_part
from mmdask.schema import Field
from mmdask.store.snapshot import Snapshot

__all__ = ["FALSE", "GRAIN", "NONE", "TRUE", "UNKNOWN", "settled", "settled_parts"]

#: rows of a grain
GRAIN = 65_536

Outcomes = npt.NDArray[np.uint8]


def settled(snapshot: Snapshot, part: int, cut: Expression) -> Outcomes:
    """What a cut gives for the rows of each grain of a part, as far as is known without reading data.

    Parameters
    ----------
    snapshot : Snapshot
        The store.
    part : int
        Number of the part.
    cut : Expression
        One boolean per row, of stored fields.

    Returns
    -------
    numpy.ndarray
        uint8 ``(ceil(rows / GRAIN),)``: `FALSE`, `TRUE`, `NONE` (false or missing in each row) or `UNKNOWN`.

    Raises
    ------
    ExpressionError
        When the cut reads only constants of the part, and cannot be computed of them.
    CorruptStoreError, FormatError
        When a part.json or the statistics are damaged.
    """
    return settled_parts(snapshot, [part], cut)[0]


def settled_parts(snapshot: Snapshot, parts: Sequence[int], cut: Expression) -> list[Outcomes]:
    """What `settled` gives for each of some parts, all looked at together: many parts take little longer than one."""
    rows = [snapshot.parts[p].rows for p in parts]
    found: list[Outcomes] = [np.full(-(-n // GRAIN), UNKNOWN, np.uint8) for n in rows]
    left = []
    constants: dict[tuple[Any, ...], int] = {}
    for i, p in enumerate(parts):
        if not rows[i]:
            continue
        if all(constant_in_part(snapshot, p, name) for name in cut.fields):
            key = tuple(repr(snapshot.stored(p, name)[1].constant) for name in cut.fields)
            if key not in constants:
                constants[key] = _of_constants(snapshot, p, cut)
            found[i][:] = constants[key]
        else:
            left.append(i)
    if left:
        lists: dict[Any, int] = {}
        some = [parts[i] for i in left]
        bounds = {name: _of_parts(snapshot, snapshot.schema[name], some, lists) for name in cut.fields}
        for i, outcome in zip(left, settle(cut.typed, bounds, len(left)), strict=True):
            found[i][:] = outcome
    return found


def _of_constants(snapshot: Snapshot, part: int, cut: Expression) -> int:
    """What a cut of constants alone gives: it is computed, for one row."""
    result = evaluate(cut, lambda name: read_part(snapshot, part, name, 0, 1), 1)
    if result.known is not None and not result.known[0]:
        return NONE
    return TRUE if result.values[0] else FALSE


class _Entry:
    """What is known of a field in one part."""

    __slots__ = ("fewest", "high", "labels", "lists", "lost", "low", "missing", "most", "nan", "number")

    def __init__(self, snapshot: Snapshot, part: int, field: Field) -> None:
        layer, stored = snapshot.stored(part, field.name)
        depth = field.levels + len(field.shape)
        there = [d for d, number in enumerate(stored.valid) if number is not None]
        self.number = True
        self.missing = depth in there if depth < 2 else bool(there)
        self.lost = depth > 0 and bool(there)
        self.fewest, self.most, self.lists = 0, MOST_ITEMS, (layer.id, stored.offsets[:1])
        if field.kind == "dense" and field.shape:
            self.fewest = self.most = field.shape[0]
            self.lists = ("", field.shape[:1])
        self.nan = field.dtype.kind == "f"
        self.labels: frozenset[str] = frozenset(stored.labels)
        self.low, self.high = _limits(field)
        if stored.constant is not None and field.kind == "dense":
            value = np.array(stored.constant, field.dtype).item()
            self.low = self.high = value
            self.nan = False


def _limits(field: Field) -> tuple[int | float, int | float]:
    kind = field.dtype.kind
    return (-np.inf, np.inf) if kind == "f" else range_of(field.dtype) if kind in "biu" else (0, 0)


def _of_parts(snapshot: Snapshot, field: Field, parts: Sequence[int], lists: dict[Any, int]) -> Bounds:
    """Bounds of a field with an entry for each part; `lists` numbers the offsets of all fields."""
    entries = [_Entry(snapshot, p, field) for p in parts]
    kind = field.dtype.kind
    dtype = np.dtype("f8" if kind == "f" else "u8" if field.dtype == np.uint64 else "i8")
    sets: dict[frozenset[str], int] = {}

    def flags(name: str) -> npt.NDArray[np.bool_]:
        return np.array([getattr(e, name) for e in entries], np.bool_)

    def numbers(name: str, dtype: Any = np.int64) -> npt.NDArray[Any]:
        return np.array([getattr(e, name) for e in entries], dtype)

    which = np.array([sets.setdefault(e.labels, len(sets)) for e in entries]) if field.kind == "category" else None
    return Bounds(
        numbers("low", dtype),
        numbers("high", dtype),
        flags("number"),
        flags("nan"),
        flags("missing"),
        flags("lost"),
        numbers("fewest"),
        numbers("most"),
        np.array([lists.setdefault(e.lists, len(lists)) for e in entries]),
        None if which is None else (which, tuple(sets)),
    )
