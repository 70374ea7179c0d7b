"""Steps that hand out rows as they are: packed, nested, in a list, or in one array where they are equally long."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mmdask.batches.collate.base import (
    Form,
    Items,
    Made,
    Maker,
    Packed,
    Take,
    axes_of,
    in_lists,
    refuse,
    shape_text,
)
from mmdask.errors import OptionError
from mmdask.kernels.boxes import copy_boxes
from mmdask.rows.reading.awkward_rows import to_awkward
from mmdask.rows.reading.shapes import shaped_rows
from mmdask.rows.reading.text import as_text
from mmdask.schema import CODE_DTYPE, Field, FieldData

__all__ = ["Equal", "Nested", "Pack", "Plain", "nested", "packed"]


@dataclass(frozen=True)
class Plain:
    """Dense rows as an array, categories as int32 codes, strings as a list of str, shaped rows as a list of arrays.

    A missing number is nan, NaT or 0, a missing label -1, missing text and a missing shaped row None.
    """

    def check(self, field: Field) -> None:
        pass

    def form(self, field: Field) -> Form:
        if field.kind == "string":
            return Form("text", field.dtype)
        axes = field.axes + len(field.shape)
        if field.kind == "shaped":
            return Form("list", field.dtype, axes)
        return Form("array", field.dtype, axes, field.labels if field.kind == "category" else None)

    def maker(self, items: Items) -> Maker:
        data, field = items.data, items.field
        if field.kind == "string":
            return lambda take: Made(as_text(data[take.rows]))
        if field.kind == "shaped":
            return lambda take: Made(list(shaped_rows(field, data[take.rows])))
        values, valid = data.values, data.valid_at(0)
        if field.kind == "category" and valid is not None:
            values = np.where(valid, values, CODE_DTYPE.type(-1))
        return lambda take: Made(values[take.start : take.stop])


@dataclass(frozen=True)
class Pack:
    """Ragged rows, one after the other."""

    def __str__(self) -> str:
        return "mm.packed()"

    def check(self, field: Field) -> None:
        if not in_lists(field):
            raise refuse(field, "packed()", "is for ragged fields and text")

    def form(self, field: Field) -> Form:
        return Form("packed", field.dtype, len(field.shape))

    def maker(self, items: Items) -> Maker:
        field = items.field

        def make(take: Take) -> Made:
            data = items.data[take.rows]
            value: Any = data.values
            for depth in range(field.n_offsets, 0, -1):
                valid = data.valid_at(depth)
                if valid is None and depth in field.optional:
                    valid = np.ones(data.length(depth), np.bool_)
                value = Packed(value, data.offsets[depth - 1].copy(), valid)  # copied, because runs share their bounds
            return Made(value)

        return make


@dataclass(frozen=True)
class Nested:
    """Ragged and shaped rows as an awkward array. Made by `nested`."""

    def __str__(self) -> str:
        return "mm.nested()"

    def check(self, field: Field) -> None:
        if not in_lists(field) and field.kind != "shaped":
            raise refuse(field, "nested()", "is for lists, text and arrays of differing shape")

    def form(self, field: Field) -> Form:
        return Form("nested", field.dtype)

    def maker(self, items: Items) -> Maker:
        def make(take: Take) -> Made:
            data = items.data[take.rows]
            own = replace(data, values=data.values, offsets=tuple(o.copy() for o in data.offsets))
            return Made(to_awkward(items.field, own))

        return make


@dataclass(frozen=True)
class Equal:
    """Rows that are cut to one shape, as one array; it is what `crop` and `window` make without more steps.

    Parameters
    ----------
    lengths : tuple of int or None
        What the steps before make of each axis; None where that is as long as it is in the first row.
    what : str
        The steps before, for messages.
    """

    lengths: tuple[int | None, ...]
    what: str

    def check(self, field: Field) -> None:
        if in_lists(field) and axes_of(field) > 1:
            raise refuse(field, self.what, "without mm.pad() or mm.packed() behind it is for one level of lists")

    def form(self, field: Field) -> Form:
        return Form("array", field.dtype, axes_of(field) + len(field.shape) * (field.kind != "dense"))

    def maker(self, items: Items) -> Maker:
        if None not in self.lengths:
            lengths = tuple(n for n in self.lengths if n is not None)
            values = self._array(items, slice(0, len(items.data)), lengths)
            return lambda take: Made(values[take.rows])

        def make(take: Take) -> Made:
            # Every rank must find the same shape, so it looks at the rows of all.
            found = items.lengths(take)
            longest = found.max(0, initial=0).tolist()
            lengths = tuple(m if n is None else n for n, m in zip(self.lengths, longest, strict=True))
            return Made(self._array(items, take.rows, lengths))

        return make

    def _array(self, items: Items, rows: slice, lengths: tuple[int, ...]) -> Any:
        data, kept = items.data[rows], items.kept[rows]
        wrong = (kept != np.array(lengths)).any(1)
        if wrong.any():
            raise self._differs(items, rows.start + int(np.argmax(wrong)), lengths)
        return boxes_of(items.field, data, items.begin[rows], kept, lengths)

    def _differs(self, items: Items, row: int, lengths: tuple[int, ...]) -> OptionError:
        name, number = items.field.name, int(items.fetch.numbers[row])
        extent = items.extents[row]
        example = lengths[0] if len(lengths) == 1 else lengths
        valid = items.valid
        if valid is not None and not valid[row]:
            has = "is missing"
        else:
            has = f"has {shape_text(extent)}"
        return OptionError(
            f"field {name!r}: row {number} {has}, and {self.what} makes rows of {shape_text(lengths)} here; put "
            f"mm.pad({example!r}) behind it, or leave such rows out by a cut"
        )


def boxes_of(field: Field, data: FieldData, begin: Any, kept: Any, lengths: tuple[int, ...]) -> Any:
    """The boxes of rows, all of one shape, as an array ``(rows, *lengths, *shape)`` of its own."""
    if in_lists(field):
        return data.values.reshape(len(data), *lengths, *field.shape)
    n = len(data)
    if field.kind == "dense":
        item: tuple[int, ...] = ()
        shapes = np.broadcast_to(np.array(field.shape, np.int64), (n, len(field.shape)))
        per_row = int(np.prod(field.shape, dtype=np.int64))
        values, first = data.values.reshape(n * per_row), np.arange(n, dtype=np.int64) * per_row
    else:
        assert data.shapes is not None
        shapes, item, values, first = data.shapes, field.shape, data.values, data.offsets[0][:-1]
    out = np.empty((n, *lengths, *item), field.dtype)
    return copy_boxes(values, first, shapes, begin, kept, out, np.zeros((n, len(lengths)), np.int64))


def packed() -> Pack:
    """Hand out a ragged field as `Packed` values and offsets: what a loader does anyway. Text becomes UTF-8 bytes.

    Examples
    --------
    >>> packed()
    Pack()
    """
    return Pack()


def nested() -> Nested:
    """Hand out a ragged or shaped field as an awkward array; `Loader.to_torch` makes a nested tensor of it.

    Examples
    --------
    >>> import mmdask as mm
    >>> ds = mm.from_arrays({"jet_pt": [[50.0, 30.0], [], [20.0]]}, "nested.mm")
    >>> ds.batches(3, shuffle=False, collate={"jet_pt": mm.nested()})[0]["jet_pt"].to_list()
    [[50.0, 30.0], [], [20.0]]
    """
    return Nested()
