"""What a cut gives for runs of rows whose data need not be read: constants, labels, smallest and largest values.

Only part.json and the statistics of a layer are read, never data of fields.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mmdask.errors import CorruptStoreError
from mmdask.expr import Expression, evaluate
from mmdask.expr.bounds import FALSE, NONE, TRUE, UNKNOWN, Bounds, settle
from mmdask.expr.typed import MOST_ITEMS
from mmdask.rows.reading.part import constant_in_part, constant_of
from mmdask.schema import Field, FieldData
from mmdask.store.arrays.cache import Cache
from mmdask.store.arrays.npy import EXTENT, checksum
from mmdask.store.grains import GRAIN, HOLDS_MISSING, HOLDS_NAN, HOLDS_NUMBER, limits, n_grains, wide_dtype
from mmdask.store.layer import Layer, StoredField
from mmdask.store.snapshot import Snapshot

__all__ = ["FALSE", "GRAIN", "NONE", "TRUE", "UNKNOWN", "Skipped", "settled", "settled_parts", "skipped"]

Outcomes = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]
#: arrays of grains that were read, by layer; None for one that is damaged
TABLES: Cache[npt.NDArray[np.int64]] = Cache(32 << 20)
_NO_TABLE = np.zeros((0, 0, 0), np.int64)


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

    Warns
    -----
    RuntimeWarning
        When the statistics of a layer are damaged: they are not used then, and the data decide.

    Raises
    ------
    ExpressionError
        When the cut reads only constants of the part, and cannot be computed of them.
    CorruptStoreError, FormatError
        When a part.json is damaged.
    """
    return settled_parts(snapshot, [part], cut)[0]


def settled_parts(snapshot: Snapshot, parts: Sequence[int], cut: Expression) -> list[Outcomes]:
    """What `settled` gives for each of some parts, all looked at together: many parts take little longer than one."""
    found = [np.full(n_grains(snapshot.parts[p].rows), UNKNOWN, np.uint8) for p in parts]
    constants: dict[tuple[str, ...], int] = {}
    left = []
    for i, p in enumerate(parts):
        if not snapshot.parts[p].rows:
            continue
        if all(constant_in_part(snapshot, p, name) for name in cut.fields):
            # by repr, because 0.0 is not -0.0 and 1 is not True
            key = tuple(repr(snapshot.stored(p, name)[1].constant) for name in cut.fields)
            if key not in constants:
                constants[key] = _of_constants(snapshot, p, cut)
            found[i][:] = constants[key]
        else:
            left.append(i)
    if left:
        bounds = _of_parts(snapshot, [parts[i] for i in left], cut.fields)
        for i, outcome in zip(left, settle(cut.typed, bounds, len(left)).tolist(), strict=True):
            found[i][:] = _by_grain(snapshot, parts[i], cut, len(found[i])) if outcome == UNKNOWN else outcome
    return found


@dataclass(frozen=True)
class Skipped:
    """What need not be read for a cut.

    Attributes
    ----------
    parts, rows : int
        Parts of which nothing is read, and rows, also of other parts.
    n_parts, n_rows : int
        Of the store.
    """

    parts: int
    rows: int
    n_parts: int
    n_rows: int


def skipped(snapshot: Snapshot, cut: Expression) -> Skipped:
    """How many parts and rows of a store need not be read for a cut that is computed; kept cuts do not count.

    Parameters
    ----------
    snapshot : Snapshot
        The store.
    cut : Expression
        One boolean per row, of stored fields.

    Returns
    -------
    Skipped

    Raises
    ------
    ExpressionError, CorruptStoreError, FormatError
        As `settled`.
    """
    n_parts = n_rows = 0
    for part, outcomes in zip(snapshot.parts, settled_parts(snapshot, range(len(snapshot.parts)), cut), strict=True):
        known = outcomes != UNKNOWN
        n_parts += bool(known.all())
        n_rows += int(known.sum()) * GRAIN
        if len(known) and known[-1]:
            n_rows -= len(known) * GRAIN - part.rows
    return Skipped(n_parts, n_rows, len(snapshot.parts), snapshot.rows)


def _of_constants(snapshot: Snapshot, part: int, cut: Expression) -> int:
    """What a cut of constants alone gives: it is computed, for one row."""

    def read(name: str) -> FieldData:
        field = snapshot.schema[name]
        value = constant_of(snapshot, field, *snapshot.stored(part, name))
        return FieldData(value.reshape(1), labels=field.labels)

    result = evaluate(cut, read, 1)
    if result.known is not None and not result.known[0]:
        return NONE
    return TRUE if result.values[0] else FALSE


# Whole parts --------------------------------------------------------------------------------------------------------


class _Held(NamedTuple):
    """What is known of a field in one part, as an entry of `Bounds`; `lists` and `labels` tell apart what differs."""

    low: int | float
    high: int | float
    number: bool
    nan: bool
    missing: bool
    lost: bool
    fewest: int
    most: int
    lists: tuple[Any, ...]
    labels: frozenset[str]


def _held(field: Field, layer: Layer, stored: StoredField) -> _Held:
    depth = field.levels + len(field.shape)
    there = [d for d, number in enumerate(stored.valid) if number is not None]
    missing, lost = _where_missing(depth, there)
    fewest, most, lists = 0, MOST_ITEMS, (layer.id, *stored.offsets[:1])
    if field.kind == "dense" and field.shape:
        fewest, most, lists = field.shape[0], field.shape[0], ("", field.shape[0])
    nan = field.dtype.kind == "f"
    labels: frozenset[str] = frozenset()
    if field.kind == "category":
        low: int | float = 0
        high: int | float = len(stored.labels) - 1
    elif nan:
        low, high = -np.inf, np.inf
    else:
        low, high = limits(field.kind, field.dtype, 0)
    number, bounds = True, stored.bounds
    if stored.constant is not None and field.kind == "dense":
        low = high = np.array(stored.constant, field.dtype).item()
        nan = False
    elif bounds is not None:
        number, nan = bounds.low is not None, bounds.nan
        if bounds.low is not None and bounds.high is not None:
            low, high = bounds.low, bounds.high
        if bounds.items is not None:
            fewest, most = bounds.items
    if field.kind == "category":
        labels = frozenset(stored.labels[int(low) : int(high) + 1])
    return _Held(low, high, number, nan, missing, lost, fewest, most, lists, labels)


def _where_missing(depth: int, depths: Sequence[int]) -> tuple[bool, bool]:
    """Whether values at a depth may be missing, and lists, where something is missing at some depths."""
    if depth > 1:
        return bool(depths), bool(depths)
    return depth in depths, depth > 0 and 0 in depths


def _of_parts(snapshot: Snapshot, parts: Sequence[int], names: Sequence[str]) -> dict[str, Bounds]:
    """Bounds of fields, with an entry for each part."""
    lists: dict[Any, int] = {}
    found = {}
    for name in names:
        field = snapshot.schema[name]
        entries = [_held(field, *snapshot.stored(p, name)) for p in parts]
        columns = dict(zip(_Held._fields, zip(*entries, strict=True), strict=True))
        wide = wide_dtype(field.kind, field.dtype)
        sets: dict[frozenset[str], int] = {}
        which = [sets.setdefault(labels, len(sets)) for labels in columns["labels"]]
        number, nan, missing, lost = (np.array(columns[k], np.bool_) for k in ("number", "nan", "missing", "lost"))
        found[name] = Bounds(
            *(np.array(columns["low"], wide), np.array(columns["high"], wide)),
            *(number, nan, missing, lost),
            *(np.array(columns["fewest"], np.int64), np.array(columns["most"], np.int64)),
            np.array([lists.setdefault(key, len(lists)) for key in columns["lists"]]),
            (np.array(which), tuple(sets)) if field.kind == "category" else None,
        )
    return found


# Grains of a part ---------------------------------------------------------------------------------------------------


def _by_grain(snapshot: Snapshot, part: int, cut: Expression, n: int) -> Outcomes | int:
    """What a cut gives for each grain of a part, if more is known of them than of the part."""
    if n < 2:
        return UNKNOWN
    bounds = _of_parts(snapshot, [part], cut.fields)
    known = False
    for name in cut.fields:
        layer, stored = snapshot.stored(part, name)
        if stored.bounds is None or stored.bounds.entry is None:
            continue
        table = _table(snapshot, layer)
        if table is not None:
            known = True
            entry = table[stored.bounds.entry]
            bounds[name] = _of_grains(snapshot.schema[name], layer, stored, entry, bounds[name].lists)
    return settle(cut.typed, bounds, n) if known else UNKNOWN


def _of_grains(
    field: Field, layer: Layer, stored: StoredField, entry: npt.NDArray[np.int64], lists: npt.NDArray[np.int64]
) -> Bounds:
    """What a layer's array of grains says of a field."""
    wide = wide_dtype(field.kind, field.dtype)
    low, high, holds = entry[:, 0].view(wide), entry[:, 1].view(wide), entry[:, 2]
    missing, lost = np.zeros(len(entry), np.bool_), np.zeros(len(entry), np.bool_)
    for d in range(len(stored.valid)):
        some = (holds & (HOLDS_MISSING << d)) != 0
        at_depth, above = _where_missing(field.levels + len(field.shape), [d])
        missing |= some & at_depth
        lost |= some & above
    labels = None
    if field.kind == "category":
        ranges, which = np.unique(np.stack([low, high]), axis=1, return_inverse=True)
        sets = tuple(frozenset(stored.labels[a : b + 1]) for a, b in ranges.T.tolist())
        labels = which.reshape(-1), sets
    number, nan = (holds & HOLDS_NUMBER) != 0, (holds & HOLDS_NAN) != 0
    fewest, most = entry[:, 3], entry[:, 4]
    if field.kind == "dense":
        fewest = most = np.array([*field.shape, 0])[:1]
    return Bounds(low, high, number, nan, missing, lost, fewest, most, lists, labels)


def _table(snapshot: Snapshot, layer: Layer) -> npt.NDArray[np.int64] | None:
    """A layer's array of grains, compared with its checksums: a wrong number in it would be a wrong cut."""
    key = snapshot.path, snapshot.manifest.uuid, layer.id
    table = TABLES.get(key)
    if table is None:
        assert layer.grains is not None
        spec = layer.arrays[layer.grains]
        try:
            table = np.array(snapshot.read(layer, layer.grains, 0, spec.shape[0]))
            _check_table(layer, table)
        except CorruptStoreError as error:
            table = _NO_TABLE
            warnings.warn(
                f"the smallest and largest values in {layer.path} are damaged, so nothing is skipped there: {error}",
                RuntimeWarning,
                stacklevel=2,
            )
        TABLES.put(key, table, table.nbytes + 256)
    return table if table.size else None


def _check_table(layer: Layer, table: npt.NDArray[np.int64]) -> None:
    """Raise `CorruptStoreError` unless an array of grains is whole, and says what can be."""
    assert layer.grains is not None
    spec = layer.arrays[layer.grains]
    raw = table.reshape(-1).view(np.uint8).data
    for i, expected in enumerate(spec.checksums):
        if checksum(raw[i * EXTENT : (i + 1) * EXTENT]) != expected:
            raise CorruptStoreError(f"{spec.file}: bytes differ from what was written")
    for name, stored in layer.fields.items():
        if stored.bounds is None or stored.bounds.entry is None or stored.values is None:
            continue
        entry, dtype = table[stored.bounds.entry], layer.arrays[stored.values].dtype
        wide = wide_dtype(stored.kind, dtype)
        some = entry[(entry[:, 2] & HOLDS_NUMBER) != 0]
        low, high = some[:, 0].view(wide), some[:, 1].view(wide)
        ok = (low <= high).all() and (entry[:, 3] >= 0).all() and (entry[:, 3] <= entry[:, 4]).all()
        if ok and len(low) and wide.kind != "f":
            least, most = limits(stored.kind, dtype, len(stored.labels))
            ok = least <= int(low.min()) and int(high.max()) <= most
        if not ok:
            raise CorruptStoreError(f"{spec.file}: field {name!r} cannot have such values")
