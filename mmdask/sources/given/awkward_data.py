"""What awkward arrays hold, as `Found`, without a copy where their layout has offsets and values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from mmdask.errors import SchemaError
from mmdask.schema import CODE_DTYPE, OFFSET_DTYPE, TEXT_DTYPE
from mmdask.sources.given.found import Found, in_lists, regular, with_missing
from mmdask.sources.given.lists import from_numpy, no_records

__all__ = ["from_awkward"]


def from_awkward(name: str, array: Any) -> Found:
    """Rows from an awkward array.

    Raises
    ------
    SchemaError
        When its items are records, or of several types.
    """
    import awkward as ak

    layout = ak.to_layout(array)
    found = _codes(name, layout)
    return _found(name, layout) if found is None else found


def _codes(name: str, layout: Any) -> Found | None:
    """Rows of a categorical array of text; None for all other arrays."""
    import awkward as ak

    if not layout.is_indexed or layout.parameter("__array__") != "categorical":
        return None
    labels = ak.to_list(ak.Array(layout.content))
    if not all(isinstance(label, str) for label in labels):
        return None
    codes = np.asarray(layout.index.data)
    found = Found(name, codes.astype(CODE_DTYPE), labels=tuple(labels))
    if not layout.is_option:
        return found
    there = codes >= 0
    return with_missing(replace(found, values=found.values[there]), there)


def _found(name: str, layout: Any) -> Found:
    import awkward as ak

    if layout.is_option:
        there = np.asarray(layout.mask_as_bool(valid_when=True))
        return with_missing(_found(name, layout.project()), there)
    if layout.is_indexed:
        return _found(name, layout.project())
    if layout.is_list:
        return _lists(name, layout)
    if layout.is_unknown:
        return Found(name, np.empty(0), known=False)
    if layout.is_record:
        raise no_records(name, layout.fields)
    if layout.is_union:
        raise SchemaError(
            f"field {name!r}: {ak.Array(layout).type} cannot be stored: its values have several types; give those of "
            "each type as a field of their own"
        )
    return from_numpy(name, layout.data, None)


def _lists(name: str, layout: Any) -> Found:
    if layout.is_regular and layout.parameter("__array__") is None:
        n, length = len(layout), layout.size
        return regular(_found(name, layout.content[: n * length]), n, length)
    text = layout.parameter("__array__") in ("string", "bytestring")
    layout = layout.to_ListOffsetArray64(True)
    offsets = np.asarray(layout.offsets.data).astype(OFFSET_DTYPE, copy=False)
    items = _found(name, layout.content[: int(offsets[-1])])
    if text:
        return Found(name, items.values.view(TEXT_DTYPE), text=offsets)
    return in_lists(items, offsets)
