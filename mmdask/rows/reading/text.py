"""Text and labels of rows as Python and numpy have them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.errors import CorruptStoreError
from mmdask.schema import TEXT_DTYPE, FieldData

__all__ = ["as_labels", "as_text", "decode"]


def as_text(data: FieldData) -> list[Any]:
    """The text of a string field: a list of str, nested once for every level; None where one is missing.

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
    found = _or_none(found, data.valid_at(len(outer)))
    for depth, level in reversed(list(enumerate(outer))):
        found = _or_none([found[a:b] for a, b in itertools.pairwise(level)], data.valid_at(depth))
    return found


def _or_none(found: list[Any], valid: npt.NDArray[np.bool_] | None) -> list[Any]:
    return found if valid is None else [x if ok else None for x, ok in zip(found, valid.tolist(), strict=True)]


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
