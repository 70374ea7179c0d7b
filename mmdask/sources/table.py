"""What a conversion asks of a format: how its inputs are inspected, and their rows read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from mmdask.schema import Field, FieldData
from mmdask.sources.inputs import Input

__all__ = ["UNREADABLE", "Reader", "Rows", "Table", "UnreadableError"]

#: ``rows(field, start, stop)`` yields the rows of one field, run by run
Rows = Callable[[Field, int, int], Iterator[FieldData]]
#: how the reason begins when a field could be stored but not read
UNREADABLE = "cannot be read: "


class UnreadableError(Exception):
    """The rows of one field cannot be read; the other fields can."""


@dataclass(frozen=True)
class Table:
    """What the metadata of one input say: its fields, and the row ranges that become parts.

    `nbytes` are decoded bytes per field, about. `required` fields were asked for by name: not to read one is an error.
    """

    source: Input
    tree: str
    fields: tuple[Field, ...]
    skipped: tuple[tuple[str, str], ...]
    ranges: tuple[tuple[int, int], ...]
    nbytes: Mapping[str, int]
    required: frozenset[str]
    fingerprint: str

    @property
    def rows(self) -> int:
        return self.ranges[-1][1]


class Reader(Protocol):
    """How inputs of one format are read. `kind` is its name, `options` all that decides what is read, as JSON."""

    kind: str

    @property
    def options(self) -> Mapping[str, Any]: ...

    def inspect(self, source: Input) -> Table: ...

    def open(self, table: Table) -> AbstractContextManager[Rows]: ...
