"""What a backend of stores must do, as the contract asks for it.

A backend is one store: it is created once, and changed by commits. Rows go in as plain Python values, as users hand
them in, and come out as `FieldData`, as the layers above take them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mmdask.schema import Field, FieldData, Schema

__all__ = ["Backend", "Commit", "RowWriter", "View"]

Rows = Mapping[str, Sequence[Any]]


class View(Protocol):
    """One generation of a store; it never changes. It pickles as a reference."""

    @property
    def schema(self) -> Schema:
        """The fields, in their order."""

    @property
    def generation(self) -> int:
        """The number of the commit that it shows."""

    @property
    def attrs(self) -> Mapping[str, Any]:
        """What the writer noted."""

    def __len__(self) -> int:
        """How many rows there are."""

    def read(self, name: str, start: int, stop: int) -> FieldData:
        """Rows `start` to `stop` of a field, ``0 <= start <= stop <= len(view)``.

        Raises `FieldNotFoundError`.
        """

    def take(self, name: str, rows: npt.NDArray[np.int64]) -> FieldData:
        """Rows of a field by number, in this order, repeated as they are; a copy.

        Raises `FieldNotFoundError`, and `RowNotFoundError` for a row that is negative or past the end.
        """


class Commit(Protocol):
    """One entry of a history."""

    @property
    def generation(self) -> int: ...
    @property
    def n_rows(self) -> int: ...
    @property
    def n_fields(self) -> int: ...


class RowWriter(Protocol):
    """Rows on their way into a store."""

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one row."""

    def extend(self, rows: Rows) -> None:
        """Add many rows: for each field a list."""

    def checkpoint(self) -> Any:
        """Commit the rows so far."""

    def abort(self) -> None:
        """Give up the rows since the last commit; the writer takes no more."""


class Backend(Protocol):
    """A store that can be changed. Each change is one commit; an exception leaves the last one."""

    def create(
        self, fields: Iterable[Field], *, attrs: Mapping[str, Any] | None = None
    ) -> AbstractContextManager[RowWriter]:
        """Begin the store; it is there when the block ends. Raises `StoreExistsError` where there is one."""

    def append(self) -> AbstractContextManager[RowWriter]:
        """Add rows. Raises `SchemaError` for rows that do not fit, and leaves nothing of them."""

    def assign(self, field: Field, rows: Sequence[Any], *, replace: bool = False) -> None:
        """Add a field, or with `replace` put it in place of one. Raises `SchemaError` when it does not fit."""

    def assign_expression(self, name: str, expression: str) -> None:
        """Add a field that is computed from others, for rows appended later, too."""

    def drop(self, names: Sequence[str]) -> None:
        """Take fields away. Raises `FieldNotFoundError`."""

    def compact(self) -> None:
        """Store the same rows in fewer pieces. Nothing that a view shows changes, but `generation` may."""

    def vacuum(self, *, keep: int) -> None:
        """Remove what only generations before the last `keep` need."""

    def open(self, generation: int | None = None) -> View:
        """Show the newest generation, or an older one. Raises `StoreNotFoundError`."""

    def history(self) -> Sequence[Commit]:
        """The generations that can be opened, oldest first."""

    def reopened(self) -> Backend:
        """The same store, as another process would find it."""
