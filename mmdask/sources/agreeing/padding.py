"""Lists as rows of one shape: cut at their ends or filled, with what was cut counted. `pad=` of a conversion."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mmdask.errors import OptionError, SchemaError
from mmdask.kernels.gather import pad_ragged
from mmdask.schema import OFFSET_DTYPE, Field, FieldData, dtype_text
from mmdask.sources.given.exact import missing_value

__all__ = ["Pad", "make_pads", "pad_rows"]


@dataclass(frozen=True)
class Pad:
    """How many items each row of a field gets, and what stands where it has fewer: nan, or 0, by default."""

    length: int
    value: Any = None

    @property
    def option(self) -> list[Any]:
        """As JSON, which has no nan."""
        return [self.length, *([] if self.value is None else [repr(self.value)])]

    def field(self, field: Field) -> Field:
        """What a field becomes.

        Raises
        ------
        SchemaError
            When its rows are no lists of numbers of one level, or its dtype does not hold the value.

        Examples
        --------
        >>> Pad(22).field(Field.ragged("jet_pt", "f4")).describe()
        'float32 (22,)'
        """
        number = field.kind == "ragged" or (field.kind == "dense" and field.shape)
        if not number or field.levels > 1:
            raise SchemaError(
                f"pad: {field.name!r} is {field.describe()}, and only lists of numbers of one level can be padded"
            )
        self.fill(field)
        item = field.shape if field.levels else field.shape[1:]
        optional = (0,) if 0 in field.optional else ()
        return replace(
            field, kind="dense", shape=(self.length, *item), levels=0, optional=optional, expression="", record=""
        )

    def fill(self, field: Field) -> Any:
        """What stands where there is no item, in the dtype of a field."""
        if self.value is None:
            return np.asarray(missing_value(field.dtype), field.dtype)[()]
        wide = isinstance(self.value, complex) and field.dtype.kind != "c"
        try:
            with np.errstate(all="ignore"):
                value = np.asarray(math.nan if wide else self.value).astype(field.dtype)
            stored = value.item()
            # 0.1 is no float32, and is what one means by it
            rounds = field.dtype.kind in "fc" and isinstance(self.value, float) and not np.isinf(stored)
            fits = not wide and (stored == self.value or rounds)
        except (TypeError, ValueError, OverflowError):
            fits = False
        if not fits:
            raise SchemaError(
                f"pad: {self.value!r} does not fit {field.name!r}, {dtype_text(field.dtype)}; give another value, as "
                f"in pad={{{field.name!r}: ({self.length}, -1)}}"
            )
        return value[()]


def make_pads(pad: Mapping[str, int | tuple[int, Any]] | None) -> dict[str, Pad]:
    """What a user's ``pad=`` says.

    Raises
    ------
    OptionError
        When it says nothing that can be done.

    Examples
    --------
    >>> make_pads({"jet_pt": 22, "jet_*": (4, -1)})
    {'jet_pt': Pad(length=22, value=None), 'jet_*': Pad(length=4, value=-1)}
    """
    what = "pad says how many items a row gets, and perhaps what fills it, as {'jet_pt': (22, nan)}"
    if pad is None:
        return {}
    if not isinstance(pad, Mapping):
        raise OptionError(f"{what}; got {pad!r}")
    found = {}
    for name, asked in pad.items():
        length, *value = asked if isinstance(asked, tuple | list) else (asked,)
        if isinstance(length, np.integer):
            length = int(length)
        value = [v.item() if isinstance(v, np.generic) else v for v in value]
        scalar = all(isinstance(v, bool | int | float | complex) for v in value)
        if not isinstance(name, str) or not name or type(length) is not int or len(value) > 1 or not scalar:
            raise OptionError(f"{what}; got {name!r}: {asked!r}")
        if not 0 < length < 1 << 31:
            raise OptionError(f"pad: a row of {name!r} gets 1 item or more, got {length}")
        found[name] = Pad(length, *value)
    return found


def pad_rows(field: Field, data: FieldData, pad: Pad) -> tuple[FieldData, int, int, int]:
    """Rows of a field cut or filled at their ends; how many rows were cut, how many items of them, and the nan put in.

    An item that is missing is filled; a row that is missing stays so.

    Examples
    --------
    >>> lists = FieldData(np.float32([1, 2, 3]), (np.array([0, 1, 3]),))
    >>> data, rows, items, nan = pad_rows(Field.ragged("x", "f4"), lists, Pad(1))
    >>> data.values, rows, items, nan
    (array([[1.],
           [2.]], dtype=float32), 1, 1, 0)
    """
    n, fill = len(data), pad.fill(field)
    there = data.valid_at(0)
    item = field.shape if field.levels else field.shape[1:]
    values = np.full((n, pad.length, *item), fill, field.dtype)
    nan_filled = bool(fill != fill)
    absent = 0  # items that are filled since they are missing
    if field.levels:
        offsets, items = data.offsets[0], data.values
        lacking = data.valid_at(1)
        if lacking is not None and not lacking.all():
            items = items.copy()
            items[~lacking] = fill
            if nan_filled:
                rows = np.repeat(np.arange(n), np.diff(offsets))
                kept = np.arange(offsets[0], offsets[-1]) - offsets[rows] < pad.length
                kept &= True if there is None else there[rows]
                absent = int((kept & ~lacking[offsets[0] : offsets[-1]]).sum())
        counts = np.diff(offsets)
        ends = np.array([0, n], OFFSET_DTYPE)
        pad_ragged([items], [offsets], ends, np.arange(n), values, fill=fill)
    else:
        most = min(pad.length, field.shape[0])
        values[:, :most] = data.values[:, :most]
        counts = np.full(n, field.shape[0], OFFSET_DTYPE)
    if there is not None:
        values[~there] = missing_value(field.dtype)
        counts = counts[there]
    over = counts - pad.length
    put = int(np.maximum(-over, 0).sum()) + absent if nan_filled else 0
    over = over[over > 0]
    data = FieldData(values, valid=() if there is None else (there,))
    return data, len(over), int(over.sum()), put * math.prod(item)
