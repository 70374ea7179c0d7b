"""`Loc`: rows by the values of fields that are keys."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.dataset.layouts import row, several
from mmdask.dataset.run import dask_runner
from mmdask.dataset.view import View
from mmdask.errors import OptionError, RowNotFoundError, did_you_mean
from mmdask.expr import spelled_name
from mmdask.kernels.once import once
from mmdask.rows.lookup import Index, check_keys_of, hashes_of, indexes
from mmdask.rows.reading.text import as_text
from mmdask.rows.rows import Rows
from mmdask.schema import OFFSET_DTYPE, TEXT_DTYPE, Field, FieldData

__all__ = ["Loc"]

Int64s = npt.NDArray[np.int64]
#: texts that are looked through for one that is near
_NEAR_ROWS = 20_000


class Loc:
    """Rows by key: see `Dataset.loc`."""

    def __init__(self, dataset: View) -> None:
        self._dataset = dataset
        self._tables: dict[tuple[str, ...], _Table] = {}

    def __repr__(self) -> str:
        keys = self._declared
        return f"mm.Loc<rows of {self._dataset.path} by {', '.join(map(repr, keys)) or 'ds.loc[field, value]'}>"

    @once
    def _declared(self) -> list[str]:
        """The fields that are said to be keys."""
        return [name for name, field in self._dataset.schema.items() if field.attrs.get("key") is True]

    def __getitem__(self, key: Any) -> dict[str, Any]:
        """The row of a key, as ``ds[17]`` gives it; rows of a list of keys, as ``ds[[5, 3]]`` gives them."""
        if isinstance(key, tuple):
            if len(key) != 2:
                raise OptionError(
                    f"rows are found by a field and a value, as ds.loc['eventNumber', 12345], or by several, as "
                    f"ds.loc[('run', 'event'), (1, 12)]; got {len(key)} of them"
                )
            fields, wanted = key
        else:
            fields, wanted = self._only_key(), key
        names = [fields] if isinstance(fields, str) else fields
        if not isinstance(names, Sequence) or not names or not all(isinstance(name, str) for name in names):
            raise OptionError(f"fields are a name, or a tuple of names, got {fields!r}")
        table = self._table(tuple(self._dataset._whole(list(names))))
        if isinstance(wanted, list | np.ndarray | range):
            return self._rows(table.find(list(wanted), single=isinstance(fields, str)))
        [number] = table.find([wanted], single=isinstance(fields, str)).tolist()
        rows, schema = self._dataset._rows, self._dataset._rows.schema
        return {name: row(schema[name], rows.read_row(name, number)) for name in self._dataset.fields}

    def _only_key(self) -> str:
        if len(self._declared) != 1:
            which = f"several are: {', '.join(self._declared)}" if self._declared else "none is"
            raise OptionError(
                "ds.loc[value] is for a dataset of which one field is a key, as mm.Field.string('name', attrs={'key': "
                f"True}}) says, and {which}; name the field, as in ds.loc['eventNumber', 12345]"
            )
        return self._declared[0]

    def _rows(self, numbers: Int64s) -> dict[str, Any]:
        rows = self._dataset._rows
        return {name: several(rows.schema[name], rows.take(name, numbers)) for name in self._dataset.fields}

    def _table(self, names: tuple[str, ...]) -> _Table:
        table = self._tables.get(names)
        if table is None:
            self._dataset._readable("rows at once are", self._dataset.fields)
            table = self._tables[names] = _Table(self._dataset, names)
        return table


class _Table:
    """The indexes of some fields over all parts of a store."""

    def __init__(self, dataset: View, names: tuple[str, ...]) -> None:
        rows = dataset._rows
        for name in names:
            field = dataset.schema[name]
            if name in rows.derived or name not in rows.snapshot.schema:
                raise OptionError(
                    f"rows are found by fields of the store, and {name!r} is computed when it is read; mm.assign(path, "
                    f"{name}=...) stores it"
                )
            check_keys_of(field)
        self.names = names
        self.rows = dataset._resolved()
        self.fields = [rows.snapshot.schema[name] for name in names]
        parts = indexes(rows.snapshot, names, dask_runner("index", names))
        starts = rows.snapshot.starts.tolist()
        self.parts: list[tuple[int, Index]] = [(a, x) for a, x in zip(starts, parts, strict=False) if len(x.hashes)]

    def find(self, keys: list[Any], *, single: bool) -> Int64s:
        """Numbers of the rows of some keys, each of which one row has.

        Raises
        ------
        RowNotFoundError
            When there is none of them, or not among the rows of the dataset.
        OptionError
            When several rows have a key, or it is none.
        """
        each = [(key,) if single else key for key in keys]
        for key in each:
            if not isinstance(key, tuple) or len(key) != len(self.names):
                raise OptionError(f"a key of {self.names} is a tuple of {len(self.names)} values, got {key!r}")
        if not keys:
            return np.zeros(0, np.int64)
        columns = [_Column(field, [key[i] for key in each]) for i, field in enumerate(self.fields)]
        which, numbers = self._candidates(hashes_of([column.data for column in columns]))
        same = np.ones(len(which), np.bool_)
        for column in columns:
            same &= column.known[which]
            same[same] &= column.equal(self.rows.stored.take(column.field.name, numbers[same]), which[same])
        which, numbers = which[same], numbers[same]
        inside = _among(self.rows, numbers)
        found = np.bincount(which[inside], minlength=len(keys))
        wrong = np.flatnonzero(found != 1)
        if len(wrong):
            i = int(wrong[0])
            raise self._error(each[i], int(found[i]), numbers[which == i])
        out = np.empty(len(keys), np.int64)
        out[which[inside]] = numbers[inside]
        return out

    def _candidates(self, hashes: npt.NDArray[np.uint64]) -> tuple[Int64s, Int64s]:
        which, numbers = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for first, index in self.parts:
            here, local = index.find(hashes)
            if len(here):
                which.append(here)
                numbers.append(local + first)
        return np.concatenate(which), np.concatenate(numbers)

    def _error(self, key: tuple[Any, ...], n: int, numbers: Int64s) -> Exception:
        said = " and ".join(f"{name} = {_shown(value)}" for name, value in zip(self.names, key, strict=True))
        if n:
            cut = " and ".join(f"{spelled_name(m)} == {_shown(v)}" for m, v in zip(self.names, key, strict=True))
            return OptionError(f"{n:,} rows have {said}, and a key is of one row; all of them are ds[ds.cut({cut!r})]")
        if len(numbers):
            return RowNotFoundError(
                f"no row of this dataset has {said}; row {int(numbers[0]):,} of the store has, and is not among the "
                "rows that are selected here"
            )
        return RowNotFoundError(f"no row has {said}{self._near(key)}")

    def _near(self, key: tuple[Any, ...]) -> str:
        """Texts that are near to one that is not there, of the first rows."""
        for field, value in zip(self.fields, key, strict=True):
            known: Sequence[str] = ()
            if field.kind == "category":
                known = field.labels
            elif field.kind == "string":
                data = self.rows.stored.read(field.name, 0, min(len(self.rows), _NEAR_ROWS))
                known = [text for text in as_text(data) if text is not None]
            if known and value not in known and (hint := did_you_mean(str(value), known)):
                return hint
        return ""


class _Column:
    """What is wanted of one field, as its values are."""

    def __init__(self, field: Field, values: list[Any]) -> None:
        self.field = field
        made = [_value_of(field, value) for value in values]
        #: which of them the field could have
        self.known = np.array([value is not None for value in made])
        self.texts: npt.NDArray[Any] | None = None
        if field.kind in ("string", "category"):
            raw = [str(value).encode() for value in values]
            offsets = np.concatenate([[0], np.cumsum([len(r) for r in raw])]).astype(OFFSET_DTYPE)
            self.data = FieldData(np.frombuffer(b"".join(raw), TEXT_DTYPE), (offsets,))
            self.texts = np.array(values, object)
        else:
            there = [np.zeros((), field.dtype)[()] if value is None else value for value in made]
            self.data = FieldData(np.array(there, field.dtype))

    def equal(self, data: FieldData, which: Int64s) -> npt.NDArray[np.bool_]:
        """Whether rows have what is wanted at some places."""
        valid = data.valid_at(0)
        if self.texts is None:
            same = data.values == self.data.values[which]
        else:
            labels = data.labels
            texts = as_text(data) if data.offsets else [labels[code] for code in data.values.tolist()]
            same = np.array([text == self.texts[i] for text, i in zip(texts, which.tolist(), strict=True)], np.bool_)
        return np.asarray(same if valid is None else same & valid)


def _value_of(field: Field, value: Any) -> Any:
    """A key as a value of a field; None where the field cannot have it.

    Raises
    ------
    OptionError
        When it is something else than the field has.
    """
    kind = field.dtype.kind
    if field.kind in ("string", "category"):
        ok, what = isinstance(value, str), "text"
    elif kind == "b":
        ok, what = isinstance(value, bool | np.bool_), "true or false"
    elif kind in "iu":
        ok, what = isinstance(value, int | np.integer) and not isinstance(value, bool), "a whole number"
    else:
        times = (np.datetime64, datetime.date, str) if kind == "M" else (np.timedelta64, datetime.timedelta)
        ok, what = isinstance(value, times), "a time"
    if not ok:
        raise OptionError(f"{field.name!r} is {field.describe()}: a key is {what}, got {value!r}")
    if field.kind in ("string", "category") or kind == "b":
        return value
    if kind in "iu":
        info = np.iinfo(field.dtype)
        return int(value) if info.min <= int(value) <= info.max else None
    return _time_of(field, value)


def _time_of(field: Field, value: Any) -> Any:
    made = np.datetime64 if field.dtype.kind == "M" else np.timedelta64
    try:
        exact = made(value)
        found = exact.astype(field.dtype)
    except (ValueError, OverflowError) as error:
        raise OptionError(f"{field.name!r}: {value!r} is no time: {error}") from None
    return None if np.isnat(found) or found != exact else found


def _shown(value: Any) -> str:
    if isinstance(value, np.generic) and not isinstance(value, np.datetime64 | np.timedelta64):
        value = value.item()
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _among(rows: Rows, numbers: Int64s) -> npt.NDArray[np.bool_]:
    """Which rows of the store are among some rows."""
    found = np.zeros(len(numbers), np.bool_)
    if rows.span is not None:
        s = rows.span
        found[:] = (numbers >= s.start) & (numbers < s.stop) & ((numbers - s.start) % s.step == 0)
        return found
    starts = rows.snapshot.starts
    parts = np.searchsorted(starts, numbers, side="right") - 1
    for i, (part, number) in enumerate(zip(parts.tolist(), numbers.tolist(), strict=True)):
        bits, local = rows.bits.part(part), number - int(starts[part])
        found[i] = bits if isinstance(bits, bool) else bits[local >> 3] >> (local & 7) & 1
    return found
