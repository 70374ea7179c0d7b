"""What part.json says of the values of a field: a description that reads no data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmdask.errors import OptionError
from mmdask.rows.rows import Rows
from mmdask.rows.views.exploded import Exploded
from mmdask.schema import Field
from mmdask.store.layer import Layer, StoredField

__all__ = ["Stated", "stated"]


@dataclass(frozen=True)
class Stated:
    """What is known of the values of a field without reading them; None where it is not.

    Attributes
    ----------
    count : int or None
        Values that are there; of text and labels rows or items.
    missing : int or None
        Rows, lists and items that are missing: 0, or not known.
    nan, inf : int or None
        Values that are nan or NaT, and infinite.
    low, high : int or float or None
        Smallest and largest value if all are finite; times as their numbers.
    rows, items : int or None
        Rows, and how many elements their outermost lists have in all.
    fewest, most : int or None
        Elements of a row.
    bounded : bool
        Whether the smallest and the largest value are known, if there are any.
    """

    count: int | None = 0
    missing: int | None = 0
    nan: int | None = 0
    inf: int | None = 0
    low: Any = None
    high: Any = None
    rows: int = 0
    items: int | None = 0
    fewest: int | None = None
    most: int | None = None
    bounded: bool = True


def stated(rows: Rows, names: Sequence[str]) -> dict[str, Stated]:
    """What is known of fields without reading their data.

    Raises
    ------
    OptionError
        When these are not all rows of a store, or of several: nothing is known of some of them.
    """
    if rows.steps or isinstance(rows.snapshot, Exploded):
        raise OptionError(
            "what is known without reading is about whole stores; describe() without quick looks at these rows"
        )
    return {name: _stated(rows, name) for name in names}


def _stated(rows: Rows, name: str) -> Stated:
    if name in rows.derived:
        return Stated(None, None, None, None, items=None)
    snapshot, field = rows.snapshot, rows.schema[name]
    found: list[Stated] = []
    for part in range(len(snapshot.parts)):
        if snapshot.parts[part].rows:
            below, number, known = snapshot.source(part, name)
            found.append(_of_layer(field, *below.stored(number, known)))
    bounded = all(s.bounded for s in found)
    low = [s.low for s in found if s.low is not None] if bounded else []
    high = [s.high for s in found if s.high is not None] if bounded else []
    listed = [s for s in found if s.fewest is not None]
    complete = len(listed) == len(found)
    return Stated(
        _sum([s.count for s in found]),
        _sum([s.missing for s in found]),
        _sum([s.nan for s in found]),
        _sum([s.inf for s in found]),
        min(low, default=None),
        max(high, default=None),
        sum(s.rows for s in found),
        _sum([s.items for s in found]),
        min((s.fewest for s in listed if s.fewest is not None), default=None) if complete else None,
        max((s.most for s in listed if s.most is not None), default=None) if complete else None,
    )


def _sum(numbers: Sequence[int | None]) -> int | None:
    return None if any(n is None for n in numbers) else sum(n for n in numbers if n is not None)


def _of_layer(field: Field, layer: Layer, stored: StoredField) -> Stated:
    rows = layer.rows
    if stored.constant is not None:
        number = None if isinstance(stored.constant, str) else stored.constant
        return Stated(rows, 0, 0, 0, number, number, rows)
    assert stored.values is not None
    whole = not any(v is not None for v in stored.valid)
    shape = layer.arrays[stored.values].shape
    count: int | None = int(np.prod(shape, dtype=object))
    if field.kind == "string":
        count = layer.arrays[stored.offsets[-1]].shape[0] - 1
    items: int | None = None
    if stored.offsets:
        last = len(stored.offsets) == 1
        items = shape[0] if last else layer.arrays[stored.offsets[1]].shape[0] - 1
    held = stored.bounds
    nan: int | None
    inf: int | None
    if field.kind in ("string", "category") or field.dtype.kind in "biuS":
        nan, inf = 0, 0
    else:
        nan, inf = held.counts if held is not None else (None, None)
    low = high = None
    bounded = held is not None and not held.infinite and field.kind != "category"
    if held is not None and bounded:
        low, high = held.low, held.high
    fewest, most = held.items if held is not None and held.items is not None else (None, None)
    return Stated(
        count if whole else None, 0 if whole else None, nan, inf, low, high, rows, items, fewest, most, bounded
    )
