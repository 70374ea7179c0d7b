"""Rows of shaped fields as arrays in their shapes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy.typing as npt

from mmdask.errors import CorruptStoreError
from mmdask.schema import Field, FieldData

__all__ = ["in_shape", "shaped_rows"]


def shaped_rows(field: Field, data: FieldData) -> Iterator[npt.NDArray[Any] | None]:
    """Rows of a shaped field one by one, as views in their shapes; None for one that is missing."""
    assert data.shapes is not None
    bounds = itertools.pairwise(data.offsets[0].tolist())
    valid = data.valid_at(0)
    there = itertools.repeat(True, len(data)) if valid is None else valid.tolist()
    for (a, b), shape, ok in zip(bounds, data.shapes.tolist(), there, strict=True):
        yield in_shape(field, data.values[a:b], shape) if ok else None


def in_shape(field: Field, items: npt.NDArray[Any], shape: Sequence[int]) -> npt.NDArray[Any]:
    """The items of one row in its shape, as a view.

    Raises
    ------
    CorruptStoreError
        When they are not as many as the shape says.
    """
    try:
        return items.reshape(*shape, *field.shape)
    except ValueError:
        raise CorruptStoreError(
            f"a row of {field.name!r} has {len(items)} items and the shape {tuple(shape)}; the store is damaged: "
            "`mmdask verify` lists all damage"
        ) from None
