"""`MemoryBackend`: what a store is, in plain Python lists. The model that backends are compared with."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.errors import (
    FieldNotFoundError,
    OptionError,
    RowNotFoundError,
    SchemaError,
    StoreExistsError,
    StoreNotFoundError,
)
from mmdask.schema import Field, FieldData, Schema
from mmdask.testing.values import from_python

__all__ = ["MemoryBackend", "MemoryView"]

_ALIVE: weakref.WeakValueDictionary[int, MemoryBackend] = weakref.WeakValueDictionary()
_NUMBERS = itertools.count()


@dataclass(frozen=True)
class MemoryView:
    """One generation of a `MemoryBackend`.

    Parameters
    ----------
    generation : int
        Its number.
    schema : Schema
        Its fields.
    rows : mapping of str to list
        For each field one Python value per row.
    n : int
        How many rows.
    attrs : mapping
        What was noted.
    owner : int
        The backend, for pickling.
    """

    generation: int
    schema: Schema
    rows: Mapping[str, list[Any]]
    n: int
    attrs: Mapping[str, Any] = field(default_factory=dict)
    owner: int = 0

    def __len__(self) -> int:
        return self.n

    @property
    def n_rows(self) -> int:
        """How many rows."""
        return self.n

    @property
    def n_fields(self) -> int:
        """How many fields."""
        return len(self.schema)

    def read(self, name: str, start: int, stop: int) -> FieldData:
        """Rows `start` to `stop` of a field."""
        return self._rows(name, range(start, stop))

    def take(self, name: str, rows: npt.NDArray[np.int64]) -> FieldData:
        """Rows of a field by number."""
        return self._rows(name, rows.tolist())

    def _rows(self, name: str, numbers: Iterable[int]) -> FieldData:
        found = self.schema[name]
        numbers = list(numbers)
        for number in numbers:
            if not 0 <= number < self.n:
                raise RowNotFoundError(f"no row {number}: there are {self.n}")
        return from_python(found, [self.rows[name][number] for number in numbers])

    def __reduce__(self) -> tuple[Any, ...]:
        return _view, (self.owner, self.generation)


def _view(owner: int, generation: int) -> MemoryView:
    return _ALIVE[owner].open(generation)


class MemoryBackend:
    """A store in memory: a list of its generations, each with a list of values for every field.

    Examples
    --------
    >>> import mmdask as mm
    >>> from mmdask.testing import MemoryBackend, to_python
    >>> store = MemoryBackend()
    >>> with store.create([mm.Field.ragged("hits", "i4")]) as w:
    ...     w.extend({"hits": [[1, 2], []]})
    >>> view = store.open()
    >>> to_python(view.schema["hits"], view.read("hits", 0, 2))
    [[1, 2], []]
    """

    def __init__(self) -> None:
        self._generations: list[MemoryView] = []
        self._number = next(_NUMBERS)
        _ALIVE[self._number] = self

    def create(self, fields: Iterable[Field], *, attrs: Mapping[str, Any] | None = None) -> Any:
        """Begin the store."""
        if self._generations:
            raise StoreExistsError("there is a store")
        schema = Schema(fields)
        return self._write(MemoryView(0, schema, {name: [] for name in schema}, 0, dict(attrs or {}), self._number))

    def append(self) -> Any:
        """Add rows."""
        return self._write(self.open())

    @contextmanager
    def _write(self, base: MemoryView) -> Iterator[MemoryWriter]:
        writer = MemoryWriter(self, base)
        try:
            yield writer
        except BaseException:
            writer.abort()
            raise
        writer.commit()

    def assign(self, field: Field, rows: Sequence[Any], *, replace: bool = False) -> None:
        """Add a field, or put it in place of one."""
        base = self.open()
        if field.name in base.schema and not replace:
            raise SchemaError(f"there is a field {field.name!r}")
        if len(rows) != len(base):
            raise SchemaError(f"{len(rows)} rows for {len(base)}")
        check_missing(field, rows)
        self._commit({**base.schema, field.name: with_labels(field, rows)}, {**base.rows, field.name: list(rows)}, base)

    def assign_expression(self, name: str, expression: str) -> None:
        """Add a field that Python's `eval` computes, row by row, from integers."""
        base = self.open()
        field = Field.dense(name, "i8", expression=expression)
        self.assign(field, computed(expression, base.rows, len(base)))

    def drop(self, names: Sequence[str]) -> None:
        """Take fields away."""
        base = self.open()
        for name in names:
            if name not in base.schema:
                raise FieldNotFoundError(f"no field {name!r}")
        left = {name: f for name, f in base.schema.items() if name not in names}
        self._commit(left, {name: base.rows[name] for name in left}, base)

    def compact(self) -> None:
        """Nothing: there are no pieces."""

    def vacuum(self, *, keep: int) -> None:
        """Forget generations before the last `keep`."""
        del self._generations[:-keep]

    def open(self, generation: int | None = None) -> MemoryView:
        """Show a generation."""
        if generation is None and self._generations:
            return self._generations[-1]
        for view in self._generations:
            if view.generation == generation:
                return view
        raise StoreNotFoundError(f"no generation {generation}")

    def history(self) -> list[MemoryView]:
        """The generations, oldest first."""
        return list(self._generations)

    def reopened(self) -> MemoryBackend:
        """This one."""
        return self

    def _commit(self, fields: Mapping[str, Field], rows: Mapping[str, list[Any]], base: MemoryView) -> MemoryView:
        schema = Schema(fields.values())
        n = max((len(values) for values in rows.values()), default=len(base))
        view = replace(base, generation=base.generation + 1, schema=schema, rows=dict(rows), n=n)
        self._generations.append(view)
        return view


class MemoryWriter:
    """Rows on their way into a `MemoryBackend`."""

    def __init__(self, backend: MemoryBackend, base: MemoryView) -> None:
        self._backend, self._base = backend, base
        self._open = True
        self._new: dict[str, list[Any]] = {}
        self._clear()

    def _clear(self) -> None:
        self._new = {name: [] for name, f in self._base.schema.items() if not f.expression}

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one row."""
        self.extend({name: [value] for name, value in row.items()})

    def extend(self, rows: Mapping[str, Sequence[Any]]) -> None:
        """Add many rows."""
        if not self._open:
            raise OptionError("the writer was given up")
        if set(rows) != set(self._new):
            raise SchemaError(f"rows of {sorted(rows)} for the fields {sorted(self._new)}")
        if len({len(values) for values in rows.values()}) > 1:
            raise SchemaError("fields differ in length")
        for name, values in rows.items():
            check_missing(self._base.schema[name], values)
        for name, values in rows.items():
            self._new[name] += values

    def checkpoint(self) -> None:
        """Commit the rows so far."""
        self.commit()

    def abort(self) -> None:
        """Give up the rows since the last commit."""
        self._open = False
        self._clear()

    def commit(self) -> None:
        """Make the rows visible, if there are any, or the store is new."""
        base = self._base
        if not self._open or (base.generation and not any(self._new.values())):
            return
        n = max(map(len, self._new.values()), default=0)
        fields, rows = {}, {}
        for name, f in base.schema.items():
            new = computed(f.expression, self._new, n) if f.expression else self._new[name]
            fields[name] = with_labels(f, new)
            rows[name] = base.rows[name] + new
        self._base = self._backend._commit(fields, rows, base)
        self._clear()


def with_labels(field: Field, rows: Iterable[Any]) -> Field:
    """A category with the labels of more rows; any other field as it is."""
    if field.kind != "category":
        return field
    return field.with_labels(dict.fromkeys([*field.labels, *(row for row in rows if row is not None)]))


def computed(expression: str, rows: Mapping[str, Sequence[Any]], n: int) -> list[Any]:
    """An expression that Python reads as the cut language does, row by row."""
    return [
        eval(expression, {"__builtins__": {}}, {name: values[i] for name, values in rows.items()}) for i in range(n)
    ]


def check_missing(field: Field, rows: Sequence[Any], depth: int = 0) -> None:
    """Raise `SchemaError` where something is missing that is not optional."""
    for row in rows:
        if row is None and depth not in field.optional:
            raise SchemaError(f"field {field.name!r} cannot have missing values at depth {depth}")
        if row is not None and depth < field.levels:
            check_missing(field, row, depth + 1)
