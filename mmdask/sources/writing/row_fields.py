"""Which fields the rows of a writer give: declared, those of the store, or settled by the first rows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from mmdask.errors import OptionError, SchemaError
from mmdask.schema import Field, Schema
from mmdask.store.attrs import check_attrs
from mmdask.store.layer import Scalar, check_constant

__all__ = ["RowFields", "declared_fields"]

_EXAMPLE = "as in fields=[mm.Field.dense('a', 'f4')]"


class RowFields:
    """The fields of a writer, and who gives each of them.

    Parameters
    ----------
    where : str
        The store, for messages.
    fields : iterable of Field
        Declared for a new store. More may come with its first rows.
    labels : mapping
        Values that are the same for all rows.
    base : Schema, optional
        The fields of the store that rows are appended to.

    Attributes
    ----------
    given : mapping
        The fields that rows give now, by name: all but those of labels, those that are computed, and those that are
        allocated.
    constants : mapping
        For each label its field and value.
    allocated : set of str
        Fields of the part that is being written which are filled through `Allocated`.
    has_records : bool
        Whether some of those that rows give are members of records.
    settled : bool
        Whether no more fields may come.
    """

    def __init__(
        self, where: str, fields: Iterable[Field], labels: Mapping[str, Scalar], base: Schema | None = None
    ) -> None:
        self.settled = base is not None
        self.allocated: set[str] = set()
        self.constants: dict[str, tuple[Field, Scalar]] = {}
        self._where = where
        declared = Schema(declared_fields(fields)) if base is None else base
        # Those that are declared for a new store are written as they are given.
        self._computed = {} if base is None else {f.name: f.expression for f in base.values() if f.expression}
        for name, value in labels.items():
            if name in self._computed:
                self._refuse_computed(name)
            if base is None and name in declared:
                raise SchemaError(f"{name!r} is both a field and a label")
            field = _scalar_field(name, value) if base is None else base[name]
            check_constant(field, value)
            self.constants[name] = field, value
        others = {*self.constants, *self._computed}
        self._written = {name: f for name, f in declared.items() if name not in others}
        self._choose_given()

    def schema(self) -> Schema:
        """Of the parts that were written: without the fields that are computed."""
        constants = [_with_more_labels(f, [v] if isinstance(v, str) else []) for f, v in self.constants.values()]
        return Schema([*self._written.values(), *constants])

    def check(self, names: Collection[str], expected: Collection[str], *, more: bool = False) -> None:
        """Raise unless rows that give these names give all that are expected and, unless there may be more, no others.

        Raises
        ------
        SchemaError
            Naming what is missing or unknown.
        """
        if not names and not expected:
            raise SchemaError("rows give one field or more, and these give none, so that they cannot be counted")
        for name in names:
            if name in expected:
                continue
            if name in self.constants:
                raise SchemaError(f"{name!r} is a label of this writer, the same for all rows; rows do not give it")
            if name in self._computed:
                self._refuse_computed(name)
            if name in self.allocated:
                others = f" but {', '.join(map(repr, expected))}" if expected else ""
                raise SchemaError(
                    f"{name!r} is allocated for the rows that are being written, which give nothing{others}"
                )
            if not more and not self.settled:
                raise SchemaError(f"no field {name!r} in the rows before")
            if not more:
                raise SchemaError(Schema(self._written.values()).unknown(name, f" in {self._where}"))
        missing = [name for name in expected if name not in names]
        if missing:
            raise SchemaError(f"no value for {', '.join(map(repr, missing))}; every row gives every field")

    def _refuse_computed(self, name: str) -> NoReturn:
        raise SchemaError(f"{name!r} is computed, from {self._computed[name]!r}; rows do not give it")

    def learn(self, fields: Iterable[Field]) -> None:
        """Take fields as if they were declared, where they are not."""
        for field in fields:
            self._written.setdefault(field.name, field)
        self._choose_given()

    def settle(self, fields: Iterable[Field]) -> None:
        """There are these fields, besides those that are allocated, and no more."""
        if not self.settled:
            allocated = [f for name, f in self._written.items() if name in self.allocated]
            self._written = {f.name: f for f in (*allocated, *fields)}
            self.settled = True
            self._choose_given()

    def to_allocate(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike | None) -> Field:
        """The dense field of this name, as declared, or as asked for.

        Raises
        ------
        SchemaError
            When it is not dense, or not what is asked for, or cannot be given.
        OptionError
            When nothing says what it is.
        """
        if not isinstance(shape, tuple | list) or not all(isinstance(n, int | np.integer) for n in shape):
            raise OptionError(f"shape is a tuple of the lengths of one row, as in (64, 64), got {shape!r}")
        shape = tuple(int(n) for n in shape)
        field = self._written.get(name)
        if field is None:
            self.check([name], [], more=not self.settled)
            if dtype is None:
                raise OptionError(f"field {name!r} is not declared: say what it is, as in dtype='f4', shape=(64, 64)")
            return Field.dense(name, dtype, shape)
        if field.kind != "dense":
            raise SchemaError(f"field {name!r} is {field.describe()}; only rows of dense fields can be allocated")
        wanted = Field.dense(name, field.dtype if dtype is None else dtype, shape or field.shape)
        if not wanted.same_layout(field):
            raise SchemaError(f"field {name!r} is {field.describe()}, not {wanted.describe()}")
        return field

    def allocate(self, field: Field) -> None:
        """A field is allocated for the part that is being written; its rows do not give it."""
        self._written[field.name] = field
        self.allocated.add(field.name)
        self._choose_given()

    def end_part(self, labels: Mapping[str, tuple[str, ...]]) -> None:
        """A part has ended, whose categories have these labels; rows of the next one give all fields."""
        for name, more in labels.items():
            self._written[name] = _with_more_labels(self._written[name], more)
        self.allocated = set()
        self._choose_given()

    def _choose_given(self) -> None:
        self.given = {name: f for name, f in self._written.items() if name not in self.allocated}
        self.has_records = any(f.record for f in self.given.values())


def _with_more_labels(field: Field, labels: Iterable[str]) -> Field:
    return field.with_labels(dict.fromkeys((*field.labels, *labels))) if field.kind == "category" else field


def declared_fields(fields: Iterable[Field]) -> tuple[Field, ...]:
    """The fields that a user declares.

    Raises
    ------
    OptionError
        When they are none.
    """
    if isinstance(fields, Mapping | str | Field) or not isinstance(fields, Iterable):
        raise OptionError(f"fields= is a list, {_EXAMPLE}; got {type(fields).__name__}")
    return tuple(map(_checked, fields))


def _checked(field: Field) -> Field:
    if not isinstance(field, Field):
        raise OptionError(f"fields are made by mm.Field.dense, .ragged, ..., {_EXAMPLE}; got {type(field).__name__}")
    check_attrs(field.attrs, f"attrs of the field {field.name!r}")
    return field


def _scalar_field(name: str, value: object) -> Field:
    """The field of a label: text is a category; a bool, int or float is dense.

    Raises
    ------
    SchemaError
        For anything else.
    """
    if isinstance(value, str):
        return Field.category(name, [value])
    for kind, dtype in ((bool, "?"), (int, "i8"), (float, "f8")):
        if type(value) is kind:
            return Field.dense(name, dtype)
    raise SchemaError(f"label {name!r}: text, a bool, an int or a float, got {type(value).__name__}")
