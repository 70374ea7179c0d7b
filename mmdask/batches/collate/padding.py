"""Steps that give all rows one shape, filling up what they lack."""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from mmdask.batches.collate.base import (
    Fetch,
    Form,
    Int64s,
    Items,
    Made,
    Maker,
    Take,
    axes_of,
    in_lists,
    refuse,
    shape_text,
)
from mmdask.batches.options import integer
from mmdask.errors import OptionError
from mmdask.kernels.boxes import copy_boxes, repeat_boxes
from mmdask.kernels.gather import pad_runs
from mmdask.schema import Field, FieldData

__all__ = ["Pad", "fill_value", "mask_of", "pad"]

Side = Literal["right", "left"]
Mode = Literal["constant", "edge", "reflect", "wrap"]
Length = int | Literal["max"]


@dataclass(frozen=True)
class Pad:
    """Rows cut or filled to one length on every axis. Made by `pad`."""

    lengths: tuple[Length, ...]
    value: Any = 0
    mask: bool = True
    side: Side = "right"
    strict: bool = False
    mode: Mode = "constant"
    multiple: int = 1
    every: bool = False  # one length, "max", for all axes

    def __str__(self) -> str:
        n = self.lengths if len(self.lengths) > 1 else self.lengths[0]
        return f"mm.pad({n!r})"

    def check(self, field: Field) -> None:
        axes = axes_of(field)
        if field.kind in ("dense", "category"):
            raise refuse(field, "pad()", "is for ragged fields, text, and arrays of differing shape")
        if not self.every and len(self.lengths) != axes:
            example = ", ".join(["64"] * axes)
            wanted = f"say the length of each axis, as in mm.pad(({example}))" if axes > 1 else "say one length"
            raise OptionError(f"field {field.name!r} is {field.describe()}, and {self} does not fit it: {wanted}")
        if in_lists(field) and axes > 1 and self.mode != "constant":
            raise refuse(field, f"mm.pad(mode={self.mode!r})", "is for one level of lists, and for arrays")
        fill_value(field, self.value)

    def form(self, field: Field) -> Form:
        return Form("array", field.dtype, axes_of(field) + len(field.shape))

    @property
    def fixed(self) -> tuple[int, ...] | None:
        """The lengths, where they are the same for all batches."""
        found = tuple(n for n in self.lengths if not isinstance(n, str))
        return found if len(found) == len(self.lengths) else None

    @property
    def is_plain(self) -> bool:
        """Whether one kernel reads and pads, without looking at the rows before."""
        return self.fixed is not None and not self.strict and self.mode == "constant"

    # Of rows as they are stored ---------------------------------------------------------------------------------------

    def read(self, field: Field, fetch: Fetch) -> Maker:
        """Rows of a field with one level of lists, read and padded at once."""
        assert self.fixed is not None
        values, mask = fetch.rows.take_padded(
            field.name, fetch.numbers, self.fixed[0], fill_value(field, self.value), self.side, fetch.found
        )
        return self._sliced(values, mask)

    # Of rows that were read -------------------------------------------------------------------------------------------

    def maker(self, items: Items) -> Maker:
        """What makes the entries of batches."""
        fill = fill_value(items.field, self.value)
        whole = self.fixed
        if whole is not None and not self.strict:
            return self._sliced(*self._padded(items, slice(0, len(items.data)), whole, fill))

        def make(take: Take) -> Made:
            lengths = self._lengths(items, take)
            values, mask = self._padded(items, take.rows, lengths, fill)
            return Made(values, mask if self.mask else None)

        return make

    def _sliced(self, values: npt.NDArray[Any], mask: npt.NDArray[np.bool_]) -> Maker:
        def make(take: Take) -> Made:
            return Made(values[take.rows], mask[take.rows] if self.mask else None)

        return make

    def _padded(
        self, items: Items, rows: slice, lengths: tuple[int, ...], fill: npt.NDArray[Any]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        data, field, left = items.data[rows], items.field, self.side == "left"
        if in_lists(field) and self.mode == "constant":
            return _pad_levels(data, lengths, fill, left)
        first, shapes, begin, kept = _boxes(items, rows, data)
        there = data.valid_at(len(data.offsets))
        values = np.full((len(data), *lengths, *field.shape), fill, field.dtype)
        part = np.minimum(kept, np.array(lengths))
        place = np.array(lengths) - part if left else np.zeros_like(part)
        mask = mask_of(place, part, lengths)
        if self.mode == "constant":
            copy_boxes(data.values, first, shapes, begin, part, values, place)
            return values, mask
        repeat_boxes(_filled(data, fill).values, first, shapes, begin, kept, values, self.mode, left)
        if there is not None:
            mask = copy_boxes(there, first, shapes, begin, part, np.zeros_like(mask), place)
        return values, mask

    def _lengths(self, items: Items, take: Take) -> tuple[int, ...]:
        """The length on every axis; the same on all ranks, because they all look at the rows of all."""
        if in_lists(items.field) and axes_of(items.field) > 1:
            found = [np.diff(o) for o in _lists_of_all(items, take).offsets]
        else:
            found = list(items.lengths(take).T)
        lengths = []
        for axis, n in enumerate(self.lengths * len(found) if self.every else self.lengths):
            longest = int(found[axis].max(initial=0))
            if n == "max":
                if take.longest is not None:
                    longest = max(longest, take.longest[items.key][axis])
                lengths.append(-(-longest // self.multiple) * self.multiple)
                continue
            lengths.append(n)
            if self.strict and longest > n:
                raise self._too_long(items, take, axis, int(np.argmax(found[axis])))
        return tuple(lengths)

    def _too_long(self, items: Items, take: Take, axis: int, number: int) -> OptionError:
        """The error for the row, or the list within a row, of this number that is too long on an axis."""
        if in_lists(items.field) and axis:
            offsets = _lists_of_all(items, take).offsets
            has = f"a list of {int(np.diff(offsets[axis])[number])} items at level {axis + 1}"
            for o in reversed(offsets[:axis]):
                number = int(np.searchsorted(o, number, side="right")) - 1
        else:
            has = shape_text(items.lengths(take)[number])
        name, row, asked = items.field.name, take.everyone[number], f"{str(self)[3:-1]}, strict=True)"
        return OptionError(
            f"field {name!r}: row {row} has {has}, more than {asked} allows; pad to more, or let strict=False cut"
        )


def _boxes(items: Items, rows: slice, data: FieldData) -> tuple[Int64s, Int64s, Int64s, Int64s]:
    """Of every row its first item, its shape, and the box of it that is kept; lists are kept whole."""
    if in_lists(items.field):
        shapes = data.counts[:, None]
        return data.offsets[0][:-1], shapes, np.zeros_like(shapes), shapes
    assert data.shapes is not None
    begin, kept = items.begin[rows], items.kept[rows]
    valid = data.valid_at(0)
    # A missing row has no items, whatever its shape.
    return data.offsets[0][:-1], data.shapes, begin, kept if valid is None else np.where(valid[:, None], kept, 0)


def _filled(data: FieldData, fill: npt.NDArray[Any]) -> FieldData:
    """With padding in the place of missing items."""
    valid = data.valid_at(len(data.offsets))
    if valid is None:
        return data
    return replace(data, values=np.where(valid.reshape(-1, *(1,) * (data.values.ndim - 1)), data.values, fill))


def _pad_levels(
    data: FieldData, lengths: tuple[int, ...], fill: npt.NDArray[Any], left: bool
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Rows of lists, from the innermost outwards: first every list of items, then the lists of lists."""
    values, real = data.values, data.valid_at(len(data.offsets))
    mask: npt.NDArray[np.bool_] | None = None
    for offsets, length in zip(reversed(data.offsets), reversed(lengths), strict=True):
        n = len(offsets) - 1
        padded = np.empty((n, length, *values.shape[1:]), values.dtype)
        here = np.empty((n, length), np.bool_)
        pad_runs(values, offsets, padded, here, left, fill=fill)
        if mask is None and real is not None:
            # A missing item is no real one: it is padding, in its place.
            pad_runs(real, offsets, here, None, left)
            padded[~here] = fill
        elif mask is not None:
            here = np.empty((n, length, *mask.shape[1:]), np.bool_)
            pad_runs(mask, offsets, here, None, left)
        values, mask = padded, here
    assert mask is not None
    return values, mask


def _lists_of_all(items: Items, take: Take) -> FieldData:
    """The rows of a batch on all ranks."""
    return items.data[take.rows] if take.alone else items.again(items.fetch.of_everyone(take)).data


def mask_of(place: Int64s, kept: Int64s, lengths: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """True in the box of every row, bool ``(rows, *lengths)``."""
    mask = np.ones((len(kept), *lengths), np.bool_)
    for axis, length in enumerate(lengths):
        at = np.arange(length)
        inside = (at >= place[:, axis, None]) & (at < (place + kept)[:, axis, None])
        mask &= inside.reshape(len(kept), *(length if a == axis else 1 for a in range(len(lengths))))
    return mask


def pad(
    n: Length | tuple[Length, ...],
    *,
    value: Any = 0,
    mask: bool = True,
    side: Side = "right",
    strict: bool = False,
    mode: Mode = "constant",
    multiple: int | None = None,
) -> Pad:
    """Hand out a ragged field with all rows of one length, or a shaped field with all rows of one shape.

    ``batch["jet_pt"]`` is an array ``(rows, n, *shape)`` and ``batch["jet_pt_mask"]`` a bool array ``(rows, n)``, True
    where an item is real. An item that is missing is padding, too. Text becomes its UTF-8 bytes, uint8 ``(rows, n)``;
    a character at the end may be cut in two.

    Parameters
    ----------
    n : int, "max", or tuple of these
        Items of every row; rows that have more are cut at their end. ``"max"``: as many as the longest row of the
        batch has, counting the rows of all ranks. Of a shaped field the length of every axis, as ``(64, 64)``, of
        lists of lists that of every level: ``(4, 8)`` makes ``(rows, 4, 8, *shape)``. ``"max"`` alone is for all axes.
    value : number
        What is put where a row has no item. It must fit the dtype of the field.
    mask : bool
        Whether there is a mask.
    side : {"right", "left"}
        Where the padding goes: after the items or before them.
    strict : bool
        Raise instead of cutting.
    mode : {"constant", "edge", "reflect", "wrap"}
        What is put there: `value`, or the row's own items again, as `numpy.pad` does, on every axis. A row without
        items, which numpy refuses, is filled with `value`; so is what a missing item would be repeated to. The mask
        remains that of the real items.
    multiple : int, optional
        ``"max"`` is rounded up to a multiple of it.

    Raises
    ------
    OptionError
        When an argument cannot be used; what does not fit the field is found when the loader is made.

    Examples
    --------
    >>> import mmdask as mm
    >>> ds = mm.from_arrays({"jet_pt": [[50.0, 30.0], [], [20.0]]}, "padded.mm")
    >>> batch = ds.batches(3, shuffle=False, collate={"jet_pt": mm.pad(3, value=np.nan)})[0]
    >>> batch["jet_pt"]
    array([[50., 30., nan],
           [nan, nan, nan],
           [20., nan, nan]])
    >>> batch["jet_pt_mask"].sum(axis=1)
    array([2, 0, 1])
    """
    if side not in get_args(Side):
        raise OptionError(f"pad(side=) is 'right' (padding after the items) or 'left' (before them), got {side!r}")
    if mode not in get_args(Mode):
        raise OptionError(f"pad(mode=) is 'constant', 'edge', 'reflect' or 'wrap', got {mode!r}")
    every = n == "max"
    lengths = tuple(map(_length, n if isinstance(n, tuple | list) and n else (n,)))
    if multiple is not None and "max" not in lengths:
        raise OptionError(f"pad(multiple=) rounds 'max' up, and n is {n!r}; round n itself, or leave multiple= out")
    most = 1 if multiple is None else integer("pad(multiple=)", multiple, 1, 2**31)
    return Pad(lengths, value, bool(mask), side, bool(strict), mode, most, every)


def _length(n: object) -> Length:
    if isinstance(n, str) and n == "max":
        return "max"
    try:
        length = operator.index(n)  # type: ignore[arg-type]
        if isinstance(n, bool):
            raise TypeError
    except TypeError:
        wanted = "a number of items or 'max', and of a shaped field or several levels one for each, as (64, 64)"
        raise OptionError(f"pad(n) takes {wanted}; got {n!r}") from None
    if not 0 <= length < 2**31:
        raise OptionError(f"pad(n) takes 0 items or more, fewer than 2**31, or 'max', got {length}")
    return length


def fill_value(field: Field, value: Any) -> npt.NDArray[Any]:
    """The padding as an array of the field's dtype, ``()``, if that loses nothing."""
    exact = np.asarray(value)
    if exact.shape == () and exact.dtype.kind in _FILLS[field.dtype.kind]:
        with np.errstate(all="ignore"):
            fill = exact.astype(field.dtype)
        if _means_the_same(exact, fill):
            return fill
    raise OptionError(f"field {field.name!r}: value={value!r} cannot be held by {field.dtype}; pass a value= that can")


#: kinds of dtype that a fill value may have, by the kind of the field
_FILLS = {"b": "biu", "i": "biuf", "u": "biuf", "f": "biuf", "c": "biufc", "M": "Miu", "m": "miu", "S": "S"}


def _means_the_same(exact: npt.NDArray[Any], fill: npt.NDArray[Any]) -> bool:
    """Whether a fill value survived its change of dtype: rounded to the precision of a float is fine."""
    if fill.dtype.kind in "fc":
        return bool(np.isfinite(fill) or not np.isfinite(exact))
    if fill.dtype.kind in "Mm" and (exact.dtype.kind in "iu" or np.isnat(exact)):
        return bool(exact == 0 or np.isnat(fill))
    return bool(fill == exact)
