"""How the rows of a field become entries of a batch.

Each step is a small frozen value; `pad` and `packed` make the ones that a caller asks for.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from mmdask.errors import OptionError, did_you_mean
from mmdask.kernels.gather import pad_ragged
from mmdask.rows.reader import as_text
from mmdask.rows.shapes import shaped_rows
from mmdask.schema import CODE_DTYPE, Field, FieldData

if TYPE_CHECKING:
    from mmdask.rows.rows import Rows

__all__ = ["Packed", "Pad", "PadAxes", "Step", "fill_value", "packed", "pad", "steps_for"]

Int64s = npt.NDArray[np.int64]


class Packed(NamedTuple):
    """Ragged rows, one after the other: row i is ``values[offsets[i]:offsets[i + 1]]``.

    Attributes
    ----------
    values : numpy.ndarray or Packed
        ``(items, *shape)``; for a field of several levels the next level, as a `Packed` again.
    offsets : numpy.ndarray
        int64 ``(rows + 1,)``, from 0.
    valid : numpy.ndarray or None
        bool, one per element of `values`: False where it is missing; a missing number is nan or 0, a missing list has
        no items. None if elements of this depth are never missing.
    """

    values: Any
    offsets: Any
    valid: Any = None


@dataclass(frozen=True)
class Take:
    """The rows of one batch among those that were fetched together, and those of the batch on all ranks."""

    start: int
    stop: int
    everyone: Int64s
    own: int  # where the first of them is among those of all ranks

    @property
    def rows(self) -> slice:
        return slice(self.start, self.stop)


class Step(Protocol):
    """Makes entries of batches of the rows of a field: fetched for several batches at once, cut up for each."""

    def check(self, field: Field) -> None:
        """Raise `OptionError` unless the step can serve this field."""
        ...

    def names(self, field: Field) -> tuple[str, ...]:
        """The entries that it makes."""
        ...

    def fetch(self, rows: Rows, field: Field, numbers: Int64s) -> Any:
        """Read rows at these numbers, in this order, as a copy."""
        ...

    def entries(self, rows: Rows, field: Field, fetched: Any, take: Take) -> Iterator[tuple[str, Any]]:
        """Those of one batch. Arrays of different batches share no element."""
        ...


def _with_valid(field: Field, *names: str) -> tuple[str, ...]:
    """Names of entries, and that of which rows are not missing if the field is optional."""
    return (*names, f"{field.name}_valid") if 0 in field.optional else names


def _valid_entry(field: Field, data: FieldData) -> Iterator[tuple[str, Any]]:
    if 0 in field.optional:
        valid = data.valid_at(0)
        yield f"{field.name}_valid", np.ones(len(data), np.bool_) if valid is None else valid


@dataclass(frozen=True)
class Plain:
    """Dense rows as an array, categories as int32 codes, strings as a list of str, shaped rows as a list of arrays.

    A missing number is nan, NaT or 0, a missing label -1, missing text and a missing shaped row None.
    """

    def check(self, field: Field) -> None:
        pass

    def names(self, field: Field) -> tuple[str, ...]:
        return _with_valid(field, field.name)

    def fetch(self, rows: Rows, field: Field, numbers: Int64s) -> FieldData:
        data = rows.take(field.name, numbers)
        valid = data.valid_at(0)
        if field.kind == "category" and valid is not None:
            data = replace(data, values=np.where(valid, data.values, CODE_DTYPE.type(-1)))
        return data

    def entries(self, rows: Rows, field: Field, fetched: FieldData, take: Take) -> Iterator[tuple[str, Any]]:
        data = fetched[take.rows]
        if field.kind == "string":
            yield field.name, as_text(data)
        elif field.kind == "shaped":
            yield field.name, list(shaped_rows(field, data))
        else:
            yield field.name, data.values
        yield from _valid_entry(field, data)


@dataclass(frozen=True)
class Pack:
    """Ragged rows, one after the other."""

    def check(self, field: Field) -> None:
        _must_be_ragged(field, "packed()")

    def names(self, field: Field) -> tuple[str, ...]:
        return _with_valid(field, field.name)

    def fetch(self, rows: Rows, field: Field, numbers: Int64s) -> FieldData:
        return rows.take(field.name, numbers)

    def entries(self, rows: Rows, field: Field, fetched: FieldData, take: Take) -> Iterator[tuple[str, Any]]:
        data = fetched[take.rows]
        value: Any = data.values
        for depth in range(field.levels, 0, -1):
            valid = data.valid_at(depth)
            if valid is None and depth in field.optional:
                valid = np.ones(data.length(depth), np.bool_)
            value = Packed(value, data.offsets[depth - 1].copy(), valid)  # copied, because runs share their bounds
        yield field.name, value
        yield from _valid_entry(field, data)


@dataclass(frozen=True)
class Pad:
    """Ragged rows, all cut or filled to one length. Made by `pad`."""

    length: int | Literal["max"]
    value: Any = 0
    mask: bool = True
    side: Literal["right", "left"] = "right"
    strict: bool = False

    def check(self, field: Field) -> None:
        _must_be_ragged(field, "pad()")
        if field.levels > 1:
            raise OptionError(
                f"field {field.name!r} has {field.levels} levels and pad() fills one; leave it packed and pad a level "
                "yourself"
            )
        fill_value(field, self.value)

    def names(self, field: Field) -> tuple[str, ...]:
        mask = (f"{field.name}_mask",) if self.mask else ()
        return _with_valid(field, field.name, *mask)

    def fetch(self, rows: Rows, field: Field, numbers: Int64s) -> Any:
        if self.length == "max" or self.strict or field.optional:
            return rows.take(field.name, numbers)
        return rows.take_padded(field.name, numbers, self.length, fill_value(field, self.value), self.side)

    def entries(self, rows: Rows, field: Field, fetched: Any, take: Take) -> Iterator[tuple[str, Any]]:
        if isinstance(fetched, FieldData):
            values, mask = self._from_packed(rows, field, fetched[take.rows], take)
        else:
            values, mask = (array[take.rows] for array in fetched)
        yield field.name, values
        if self.mask:
            yield f"{field.name}_mask", mask
        if isinstance(fetched, FieldData):
            yield from _valid_entry(field, fetched[take.rows])

    def _from_packed(
        self, rows: Rows, field: Field, data: FieldData, take: Take
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        # Every rank must find the same length, so it looks at the lengths of all.
        counts = rows.counts(field.name, take.everyone) if len(take.everyone) > len(data) else data.counts
        longest = int(counts.max(initial=0))
        length = longest if self.length == "max" else self.length
        if self.strict and longest > length:
            row = int(take.everyone[np.argmax(counts)])
            raise OptionError(
                f"field {field.name!r}: row {row} has {longest} items, more than pad({length}, strict=True) allows; "
                "pad to more, or let strict=False cut"
            )
        n = len(data)
        values = np.full((n, length, *field.shape), fill_value(field, self.value), field.dtype)
        mask = np.empty((n, length), np.bool_)
        starts, numbers, left = np.array([0, n], np.int64), np.arange(n), self.side == "left"
        pad_ragged([data.values], [data.offsets[0]], starts, numbers, values, mask, left)
        valid = data.valid_at(1)
        if valid is not None:
            # A missing item is no real one: it is padding, in its place.
            real = np.zeros((n, length), np.bool_)
            pad_ragged([valid], [data.offsets[0]], starts, numbers, real, mask, left)
            values[~real] = fill_value(field, self.value)
            mask = real
        return values, mask


@dataclass(frozen=True)
class PadAxes:
    """Shaped rows, each axis cut or filled to one length. Made by `pad`."""

    lengths: tuple[int, ...]
    value: Any = 0
    mask: bool = True
    side: Literal["right", "left"] = "right"
    strict: bool = False

    def check(self, field: Field) -> None:
        if field.kind != "shaped" or field.axes != len(self.lengths):
            raise OptionError(
                f"pad({self.lengths}) is for shaped fields of {len(self.lengths)} axes, and {field.name!r} is "
                f"{field.describe()}"
            )
        fill_value(field, self.value)

    def names(self, field: Field) -> tuple[str, ...]:
        mask = (f"{field.name}_mask",) if self.mask else ()
        return _with_valid(field, field.name, *mask)

    def fetch(self, rows: Rows, field: Field, numbers: Int64s) -> FieldData:
        return rows.take(field.name, numbers)

    def entries(self, rows: Rows, field: Field, fetched: FieldData, take: Take) -> Iterator[tuple[str, Any]]:
        data = fetched[take.rows]
        values = np.full((len(data), *self.lengths, *field.shape), fill_value(field, self.value), field.dtype)
        mask = np.zeros((len(data), *self.lengths), np.bool_)
        for i, row in enumerate(shaped_rows(field, data)):
            if row is None:
                continue
            shape = row.shape[: field.axes]
            if self.strict and any(n > most for n, most in zip(shape, self.lengths, strict=True)):
                number = int(take.everyone[take.own + i])
                raise OptionError(
                    f"field {field.name!r}: row {number} has the shape {shape}, more than pad({self.lengths}, "
                    "strict=True) allows; pad to more, or let strict=False cut"
                )
            kept = [min(n, most) for n, most in zip(shape, self.lengths, strict=True)]
            place = tuple(
                slice(most - n, most) if self.side == "left" else slice(n)
                for n, most in zip(kept, self.lengths, strict=True)
            )
            values[i][place] = row[tuple(map(slice, kept))]
            mask[i][place] = True
        yield field.name, values
        if self.mask:
            yield f"{field.name}_mask", mask
        yield from _valid_entry(field, data)


def packed() -> Pack:
    """Hand out a ragged field as `Packed` values and offsets: what a loader does anyway.

    Examples
    --------
    >>> packed()
    Pack()
    """
    return Pack()


def pad(
    n: int | Literal["max"] | tuple[int, ...],
    *,
    value: Any = 0,
    mask: bool = True,
    side: Literal["right", "left"] = "right",
    strict: bool = False,
) -> Pad | PadAxes:
    """Hand out a ragged field with all rows of one length, or a shaped field with all rows of one shape.

    ``batch["jet_pt"]`` is an array ``(rows, n, *shape)`` and ``batch["jet_pt_mask"]`` a bool array ``(rows, n)``, True
    where an item is real. An item that is missing is padding, too.

    Parameters
    ----------
    n : int, "max", or tuple of int
        Items of every row; rows that have more are cut at their end. ``"max"``: as many as the longest row of the
        batch has, counting the rows of all ranks. Of a shaped field the length of every axis, as ``(64, 64)``.
    value : number
        What is put where a row has no item. It must fit the dtype of the field.
    mask : bool
        Whether there is a mask.
    side : {"right", "left"}
        Where the padding goes: after the items or before them.
    strict : bool
        Raise instead of cutting.

    Raises
    ------
    OptionError
        When an argument cannot be used; what does not fit the field is found when the loader is made.

    Examples
    --------
    >>> pad(22, value=np.nan)
    Pad(length=22, value=nan, mask=True, side='right', strict=False)
    """
    if side not in ("right", "left"):
        raise OptionError(f"pad(side=) is 'right' (padding after the items) or 'left' (before them), got {side!r}")
    if isinstance(n, tuple | list):
        return PadAxes(tuple(map(_length, n)), value, bool(mask), side, bool(strict))
    return Pad(n if n == "max" else _length(n), value, bool(mask), side, bool(strict))


def _length(n: object) -> int:
    try:
        length = operator.index(n)  # type: ignore[arg-type]
    except TypeError:
        what = "a number of items or 'max', and for a shaped field the length of each axis, as (64, 64)"
        raise OptionError(f"pad(n) takes {what}; got {n!r}") from None
    if not 0 <= length < 2**31:
        raise OptionError(f"pad(n) takes 0 items or more, fewer than 2**31, or 'max', got {length}")
    return length


def steps_for(fields: list[Field], collate: Mapping[str, Step] | None) -> dict[str, Step]:
    """One step per field: the one asked for, or the field's default.

    Raises
    ------
    OptionError
        When a step is for a field that is not asked for, does not fit its field, or two fields would make an entry
        of the same name.
    """
    if collate is not None and not isinstance(collate, Mapping):
        raise OptionError(f"collate says what to do with each field, as {{'jet_pt': mm.pad(8)}}; got {collate!r}")
    asked = dict(collate or {})
    names = [f.name for f in fields]
    for name in asked:
        if name not in names:
            raise OptionError(
                f"collate has a step for {name!r}, which is not among fields={names}"
                f"{did_you_mean(name, names)}; add it to fields= or drop the step"
            )
    steps: dict[str, Step] = {}
    made: dict[str, str] = {}
    for f in fields:
        step: Step = asked.get(f.name, Pack() if f.kind == "ragged" else Plain())
        if not all(hasattr(step, method) for method in ("check", "names", "fetch", "entries")):
            raise OptionError(f"collate[{f.name!r}] is a step like mm.pad(22) or mm.packed(), got {step!r}")
        step.check(f)
        for entry in step.names(f):
            if entry in made:
                raise OptionError(
                    f"fields {made[entry]!r} and {f.name!r} both make batch[{entry!r}]; leave one out"
                    f"{' or pass mask=False' * entry.endswith('_mask')}"
                )
            made[entry] = f.name
        steps[f.name] = step
    return steps


def _must_be_ragged(field: Field, what: str) -> None:
    if field.kind == "shaped" and what == "pad()":
        example = ", ".join(["64"] * field.axes) + "," * (field.axes == 1)
        raise OptionError(
            f"field {field.name!r} is {field.describe()}: say the length of each axis, as in mm.pad(({example}))"
        )
    if field.kind != "ragged":
        raise OptionError(
            f"{what} is for ragged fields, and {field.name!r} is {field.describe()}; drop it from collate="
        )


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
