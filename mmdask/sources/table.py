"""What a conversion asks of a format: how its inputs are inspected, and their rows read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from mmdask.schema import Field, FieldData
from mmdask.sources.inputs import Input
from mmdask.sources.picked import Picked
from mmdask.sources.recipe import Bound, Recipe

__all__ = ["RUN_NBYTES", "UNREADABLE", "Reader", "Rows", "Table", "UnreadableError"]

#: decoded bytes of a field that are in memory at once
RUN_NBYTES = 32 << 20
#: how the reason begins when a field could be stored but not read
UNREADABLE = "cannot be read: "


class UnreadableError(Exception):
    """The rows of one field cannot be read; the other fields can."""


class Rows(Protocol):
    """Reads one field of an input, run by run of about `nbytes` decoded bytes: its rows from `start` to `stop`.

    With `picked` only the rows that it keeps, and what holds none of them is not decoded.
    """

    def __call__(
        self, field: Field, start: int, stop: int, *, nbytes: int = ..., picked: Picked | None = ...
    ) -> Iterator[FieldData]: ...


@dataclass(frozen=True)
class Table:
    """What the metadata of one input say: its fields, and the row ranges that become parts.

    `nbytes` are decoded bytes per field, about. `required` fields were asked for by name: not to read one is an error.
    `fields` begin with those of the input that are stored; behind them are the aliases of `bound`, what is to be
    computed of the rows, which may read more fields.
    """

    source: Input
    tree: str
    fields: tuple[Field, ...]
    skipped: tuple[tuple[str, str], ...]
    ranges: tuple[tuple[int, int], ...]
    nbytes: Mapping[str, int]
    required: frozenset[str]
    fingerprint: str
    bound: Bound | None = None

    @property
    def rows(self) -> int:
        return self.ranges[-1][1]


class Reader(Protocol):
    """How inputs of one format are read.

    `kind` is its name, `options` all that decides what is read, as JSON; `recipe` is what is computed, if anything is.
    """

    kind: str

    @property
    def recipe(self) -> Recipe: ...

    @property
    def options(self) -> Mapping[str, Any]: ...

    def inspect(self, source: Input) -> Table: ...

    def open(self, table: Table) -> AbstractContextManager[Rows]: ...
