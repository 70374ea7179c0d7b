"""`Table`: rows of several fields as plain Python values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmdask.schema import Field, Schema
from mmdask.testing.values import difference, to_arrays

__all__ = ["Table"]


@dataclass(frozen=True)
class Table:
    """Rows of several fields as plain Python values: what a strategy draws, and what a store should give back.

    Parameters
    ----------
    schema : Schema
        The fields.
    rows : mapping of str to list
        For each field one Python value per row, as `mmdask.testing.to_python` has them.
    """

    schema: Schema
    rows: Mapping[str, list[Any]]

    @classmethod
    def of(cls, *fields: tuple[Field, list[Any]]) -> Table:
        """A table of these fields with their rows.

        Examples
        --------
        >>> from mmdask.schema import Field
        >>> len(Table.of((Field.dense("x", "f4"), [1.0, 2.0]), (Field.string("t"), ["a", ""])))
        2
        """
        return cls(Schema(field for field, _ in fields), {field.name: rows for field, rows in fields})

    def __len__(self) -> int:
        return len(next(iter(self.rows.values()), ()))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Table) or self.schema != other.schema:
            return False
        return not any(difference(self.rows[name], other.rows[name]) for name in self.schema)

    __hash__ = None  # type: ignore[assignment]

    @property
    def fields(self) -> list[Field]:
        """As ``mm.create(path, fields=...)`` takes them."""
        return list(self.schema.values())

    def __getitem__(self, rows: slice) -> Table:
        """Some of the rows."""
        return Table(self.schema, {name: values[rows] for name, values in self.rows.items()})

    def __add__(self, other: Table) -> Table:
        """The rows of both, one after the other."""
        return Table(self.schema, {name: [*self.rows[name], *other.rows[name]] for name in self.schema})

    def with_field(self, field: Field, rows: list[Any]) -> Table:
        """With one field more, or in place of the one of its name."""
        schema = Schema({**self.schema, field.name: field}.values())
        return Table(schema, {**self.rows, field.name: rows})

    def without(self, *names: str) -> Table:
        """Without some fields."""
        return Table.of(*((field, self.rows[name]) for name, field in self.schema.items() if name not in names))

    def arrays(self) -> dict[str, Any]:
        """Each field as an array, as users have it: see `mmdask.testing.to_arrays`."""
        return {name: to_arrays(field, self.rows[name]) for name, field in self.schema.items()}

    def records(self) -> list[dict[str, Any]]:
        """Row by row: a dict of values for each."""
        return [{name: values[i] for name, values in self.rows.items()} for i in range(len(self))]
