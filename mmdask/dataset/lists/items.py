"""Steps on the items of rows, on `FieldData`: some of them, one of them, those that a condition chooses, padding."""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.dataset.layouts import fill_missing
from mmdask.errors import OptionError
from mmdask.expr.values import Block, Value, offsets_of
from mmdask.kernels import segments
from mmdask.kernels.gather import pad_runs, take_runs
from mmdask.rows.reading.shapes import shaped_rows
from mmdask.schema import Field, FieldData

__all__ = ["Choose", "Counts", "Item", "Items", "Pad", "PadMask", "Valid", "as_value", "check_value", "taken_rows"]

Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def as_value(field: Field, data: FieldData) -> Value:
    """A run of rows as a value of the cut language, over the same memory; shaped rows as lists of their items."""
    valid = [data.valid_at(depth) for depth in range(len(data.offsets) + 1)]
    if field.kind == "shaped":
        return Value(data.values, data.offsets, None, field.name, there=(valid[0],) if valid[0] is not None else ())
    there = tuple(valid[:-1])
    return Value(
        data.values, data.offsets, valid[-1], field.name, there=there if any(t is not None for t in there) else ()
    )


# Taking -------------------------------------------------------------------------------------------------------------


def _inner(data: FieldData, depth: int, places: Int64s, there: Bools | None = None) -> tuple[Any, Any, Any]:
    """What is in the elements of a depth at some places: offsets and validity of deeper levels, and values.

    Elements that are not `there` have nothing in them; their places may be anywhere.
    """
    offsets, valid = [], []
    for level in range(depth, len(data.offsets)):
        if len(data.offsets[level]) == 1:
            counts = starts = np.zeros(len(places), np.int64)
        else:
            starts = data.offsets[level][:-1].take(places, mode="clip")
            counts = data.offsets[level][1:].take(places, mode="clip") - starts
        if there is not None:
            counts = np.where(there, counts, 0)
            there = None
        offsets.append(offsets_of(counts))
        flags = data.valid_at(level + 1)
        if level == len(data.offsets) - 1:
            valid.append(None if flags is None else take_runs(flags, starts, counts))
            return tuple(offsets), tuple(valid), take_runs(data.values, starts, counts)
        places = np.repeat(starts - offsets[-1][:-1], counts) + np.arange(offsets[-1][-1])
        valid.append(None if flags is None else flags[places])
    if not len(data.values):
        values = np.full((len(places), *data.values.shape[1:]), fill_missing(data.values.dtype), data.values.dtype)
    else:
        values = data.values.take(places, axis=0, mode="clip")
        if there is not None:
            values[~there] = fill_missing(values.dtype)
    return tuple(offsets), tuple(valid), values


def _valid(flags: list[Bools | None]) -> tuple[Bools | None, ...]:
    return tuple(flags) if any(v is not None for v in flags) else ()


def taken_rows(data: FieldData, rows: Int64s) -> FieldData:
    """Rows at some places, as a copy."""
    offsets, valid, values = _inner(data, 0, rows)
    flags = data.valid_at(0)
    first = None if flags is None else flags[rows]
    shapes = None if data.shapes is None else data.shapes[rows]
    return FieldData(values, offsets, data.labels, shapes, _valid([first, *valid]))


def _chosen(data: FieldData, level: int, places: Int64s, counts: Int64s, there: Bools | None) -> FieldData:
    """Lists of a level with the elements at `places`, `counts` of them in each; those not `there` are missing."""
    offsets, valid, values = _inner(data, level + 1, places)
    flags = data.valid_at(level + 1)
    outer = [data.valid_at(depth) for depth in range(level)]
    inside = [*outer, there, None if flags is None else flags[places], *valid]
    return FieldData(values, (*data.offsets[:level], offsets_of(counts), *offsets), valid=_valid(inside))


def _without_origin(field: Field, levels: int, optional: set[int]) -> Field:
    """Such a field without what is said of the stored one."""
    depths = tuple(sorted(optional))
    return replace(field, levels=levels, optional=depths, doc="", attrs={}, record="", expression="")


@dataclass(frozen=True)
class Items:
    """Some items of each list of a level, by a slice."""

    level: int
    start: int | None
    stop: int | None
    step: int

    @classmethod
    def of(cls, field: Field, level: int, items: slice) -> tuple[Items, Field]:
        """The step, and the field that it gives.

        Raises
        ------
        OptionError
            When there are no such lists, or this is no slice of them.
        """
        _check_level(field, level, "a slice of items")
        try:
            bounds = [None if x is None else operator.index(x) for x in (items.start, items.stop, items.step)]
        except TypeError:
            raise OptionError(f"a slice of items has whole numbers, got {items}") from None
        start, stop, step = bounds
        if step == 0:
            raise OptionError("a slice of items has a step other than 0")
        return cls(level, start, stop, step or 1), _without_origin(field, field.levels, set(field.optional))

    @property
    def everything(self) -> bool:
        return (self.start or 0, self.stop, self.step) == (0, None, 1)

    def __call__(self, first_row: int, n: int, data: FieldData) -> FieldData:
        offsets = data.offsets[self.level]
        counts = np.diff(offsets)
        first, last = self._bounds(counts)
        wanted = np.maximum(-((first - last) // self.step), 0)
        if self.step == 1 and self.level == len(data.offsets) - 1:
            return self._runs(data, offsets[:-1] + first, wanted)
        ends = np.cumsum(wanted)
        number = np.arange(int(wanted.sum())) - np.repeat(ends - wanted, wanted)
        places = np.repeat(offsets[:-1] + first, wanted) + number * self.step
        return _chosen(data, self.level, places, wanted, data.valid_at(self.level))

    def _runs(self, data: FieldData, first: Int64s, counts: Int64s) -> FieldData:
        """Items that lie together, of the innermost lists."""
        flags = data.valid_at(self.level + 1)
        items = None if flags is None else take_runs(flags, first, counts)
        valid = _valid([*[data.valid_at(depth) for depth in range(self.level + 1)], items])
        return FieldData(take_runs(data.values, first, counts), (*data.offsets[:-1], offsets_of(counts)), valid=valid)

    def _bounds(self, counts: Int64s) -> tuple[Int64s, Int64s]:
        """As those of ``slice.indices``, for each list."""
        down = self.step < 0
        low, high = (-1, counts - 1) if down else (0, counts)

        def bound(given: int | None, default: Any) -> Int64s:
            if given is None:
                return np.broadcast_to(np.asarray(default, np.int64), counts.shape)
            given = max(min(given, 2**62), -(2**62))
            return np.clip(given + counts if given < 0 else np.full_like(counts, given), low, high)

        return bound(self.start, counts - 1 if down else 0), bound(self.stop, -1 if down else counts)


@dataclass(frozen=True)
class Item:
    """One item of each list of a level, which is gone after; missing where a list has no such item.

    With `default`, what has no value is that.
    """

    level: int
    index: int
    default: Any = None

    @classmethod
    def of(cls, field: Field, level: int, index: int) -> tuple[Item, Field]:
        """The step, and the field that it gives; see `Items.of`."""
        _check_level(field, level, "an item of each list")
        optional = {d for d in field.optional if d < level} | {level} | {d - 1 for d in field.optional if d > level + 1}
        levels = field.levels - 1
        if field.kind != "ragged" or levels:
            return cls(level, index), _without_origin(field, levels, optional)
        default = np.nan if field.dtype.kind == "f" and not field.optional else None
        depths = () if default is not None else (0,)
        return cls(level, index, default), Field.dense(field.name, field.dtype, field.shape, optional=depths)

    def __call__(self, first_row: int, n: int, data: FieldData) -> FieldData:
        offsets = data.offsets[self.level]
        if self.index >= 0:
            places = offsets[:-1] + self.index
            there = places < offsets[1:]
        else:
            places = offsets[1:] + self.index
            there = places >= offsets[:-1]
        inner, valid, values = _inner(data, self.level + 1, places, there)
        lists, items = data.valid_at(self.level), data.valid_at(self.level + 1)
        if lists is not None:
            there = there & lists
        if items is not None and len(items):
            there = there & items.take(places, mode="clip")
        if self.default is not None:
            values[~there] = self.default
            return FieldData(values, inner)
        outer = [data.valid_at(depth) for depth in range(self.level)]
        return FieldData(values, (*data.offsets[: self.level], *inner), valid=_valid([*outer, there, *valid]))


@dataclass(frozen=True)
class Choose:
    """The items, or lists, for which a condition holds; where it is missing for one, the list of these is missing."""

    field: Field
    condition: Field

    @classmethod
    def of(cls, field: Field, condition: Field) -> tuple[Choose, Field]:
        """The step, and the field that it gives.

        Raises
        ------
        OptionError
            When these are no booleans of such lists.
        """
        if condition.dtype.kind != "b" or condition.kind != "ragged" or condition.shape:
            raise OptionError(
                f"items are chosen by booleans, as {field.name}[{field.name} > 0]; got {condition.describe()}"
            )
        level = condition.levels - 1
        _check_level(field, level, "[mask]")
        optional = set(field.optional) | {d for d in condition.optional if d <= level}
        optional |= {level} if condition.levels in condition.optional else set()
        return cls(field, condition), _without_origin(field, field.levels, optional)

    def __call__(self, first_row: int, n: int, data: FieldData, condition: FieldData) -> FieldData:
        level = len(condition.offsets) - 1
        text = self.field.kind == "string"
        # What is in text are no items.
        outer = FieldData(np.arange(len(data.offsets[-1]) - 1), data.offsets[:-1], valid=data.valid) if text else data
        x, mask = as_value(self.field, outer), as_value(self.condition, condition)
        found, there = Block(lambda _: data, n, first_row).common([x, mask])
        offsets = found[1].offsets[level]
        lists = there[level] if there else None
        if found[1].known is not None:
            whole = segments.segment_all(found[1].known, offsets)
            lists = whole if lists is None else lists & whole
        chosen = found[1].array
        if lists is not None:
            chosen = chosen & np.repeat(lists, np.diff(offsets))
        if found[0] is not x:
            # Lists that are missing in the condition alone have no items any more.
            places = found[0].array if text else None
            data = _with_value(data, found[0], places)
        counts = segments.segment_count(chosen, offsets)
        outer_valid = list(there) if there else [None] * len(data.offsets)
        data = replace(data, valid=_valid([*outer_valid[: level + 1], *data.valid[level + 1 :]]))
        return _chosen(data, level, np.flatnonzero(chosen), counts, lists)


def _with_value(data: FieldData, x: Value, places: Int64s | None) -> FieldData:
    """A value of the cut language as a run of rows; of text by the places of its elements."""
    there = list(x.there) if x.there else [None] * len(x.offsets)
    valid = _valid([*there, x.known])
    if places is None:
        return FieldData(x.array, x.offsets, valid=valid)
    offsets, _, values = _inner(data, len(data.offsets) - 1, places)
    return FieldData(values, (*x.offsets, *offsets), valid=valid)


# One entry per row --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counts:
    """Items of each row."""

    def __call__(self, first_row: int, n: int, data: FieldData) -> FieldData:
        valid = data.valid_at(0)
        return FieldData(data.counts, valid=() if valid is None else (valid,))


@dataclass(frozen=True)
class Valid:
    """Which rows are not missing."""

    def __call__(self, first_row: int, n: int, data: FieldData) -> FieldData:
        valid = data.valid_at(0)
        return FieldData(np.ones(n, np.bool_) if valid is None else valid)


@dataclass(frozen=True)
class Pad:
    """Rows cut or filled to one length; of a shaped field to one shape."""

    field: Field
    lengths: tuple[int, ...]
    value: Any

    @classmethod
    def of(cls, field: Field, n: Any, value: Any) -> Pad:
        """The step.

        Raises
        ------
        OptionError
            When rows cannot be padded to this, or with it.
        """
        if field.kind == "string" or field.levels > 1:
            raise OptionError(
                f"{field.name!r} is {field.describe()}: pad is for numbers in rows of one level, or of a shape"
            )
        given = tuple(n) if isinstance(n, tuple | list) else (n,)
        axes = field.axes or 1
        right = len(given) == axes and (field.kind == "shaped" or not isinstance(n, tuple | list))
        if not right or any(isinstance(x, bool) or not isinstance(x, int | np.integer) or x < 0 for x in given):
            shaped = field.kind == "shaped"
            what = f"the length of each of its {axes} axes" if shaped else "a number of items, 0 or more"
            raise OptionError(f"pad(n) of {field.name!r} takes {what}; got {n!r}")
        check_value(value, field.dtype, f"{field.name!r}, {field.describe()}", "value")
        return cls(field, tuple([int(x) for x in given]), value)

    def __call__(self, first_row: int, n: int, data: FieldData) -> FieldData:
        return FieldData(padded(self.field, data, self.lengths, self.value)[0])


@dataclass(frozen=True)
class PadMask:
    """Where `Pad` leaves real items."""

    field: Field
    lengths: tuple[int, ...]

    def __call__(self, first_row: int, n: int, data: FieldData) -> FieldData:
        return FieldData(padded(self.field, data, self.lengths, fill_missing(self.field.dtype))[1])


def padded(field: Field, data: FieldData, lengths: tuple[int, ...], value: Any) -> tuple[Any, Bools]:
    """Rows cut or filled at their ends, and the mask of real items."""
    values = np.full((len(data), *lengths, *field.shape), value, field.dtype)
    mask = np.zeros((len(data), *lengths), np.bool_)
    if field.kind == "shaped":
        target: tuple[Any, ...]
        for i, row in enumerate(shaped_rows(field, data)):
            if row is not None:
                inside = tuple(slice(most) for most in lengths)
                target = (i, *[slice(min(a, b)) for a, b in zip(row.shape, lengths, strict=False)])
                values[target] = row[inside]
                mask[target] = True
        return values, mask
    pad_runs(data.values, data.offsets[0], values, mask, fill=value)
    items = data.valid_at(1)
    if items is not None:
        there = np.empty_like(mask)
        pad_runs(items, data.offsets[0], there)
        mask &= there
        values[~mask] = value
    return values, mask


def _check_level(field: Field, level: int, what: str) -> None:
    """Raise unless the lists of a level have items that can be taken."""
    if field.kind == "shaped":
        raise OptionError(
            f"{field.name!r} is {field.describe()}: {what} is for lists; take one row by [i], or .pad((64, 64)) all "
            "to one shape"
        )
    if level >= field.levels:
        more = "characters of text are taken by .map" if field.kind == "string" else f"it has {field.levels} of them"
        raise OptionError(f"{field.name!r} is {field.describe()}, without so many levels of lists; {more}")


def check_value(value: Any, dtype: np.dtype[Any], of: str, word: str = "default") -> None:
    """Raise unless a dtype holds a value."""
    try:
        with np.errstate(all="ignore"):
            same = np.asarray(value).astype(dtype)
            missing = dtype.kind in "fcmM" and np.isnan(value)
            fits = bool(same == value) or bool(missing)
    except (TypeError, ValueError, OverflowError):
        fits = False
    if not fits:
        raise OptionError(f"{word}={value!r} does not fit {of}, {dtype}")
