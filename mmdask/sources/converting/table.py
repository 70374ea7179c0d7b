"""What a conversion asks of a format: how its inputs are inspected, and their rows read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from mmdask.schema import Field, FieldData
from mmdask.sources.agreeing.padding import Pad
from mmdask.sources.agreeing.shaping import Change, Shaping
from mmdask.sources.converting.inputs import Input
from mmdask.sources.converting.picked import Picked
from mmdask.sources.converting.recipe import Bound, Recipe

__all__ = ["RUN_NBYTES", "UNREADABLE", "Reader", "Rows", "Table", "UnreadableError"]

#: decoded bytes of a field that are in memory at once
RUN_NBYTES = 32 << 20
#: how the reason begins when a field could be stored but not read
UNREADABLE = "cannot be read: "


class UnreadableError(Exception):
    """The rows of one field cannot be read; the other fields can."""


class Rows(Protocol):
    """Reads fields of one group, run by run of about `nbytes` decoded bytes: their rows from `start` to `stop`.

    With `picked` only the rows that it keeps, and what holds none of them is not decoded.
    """

    def __call__(
        self, fields: Sequence[Field], start: int, stop: int, *, nbytes: int = ..., picked: Picked | None = ...
    ) -> Iterator[tuple[FieldData, ...]]: ...


@dataclass(frozen=True)
class Table:
    """What the metadata of one input say: its fields, and the row ranges that become parts.

    `nbytes` are decoded bytes per field, about. `required` fields were asked for by name: not to read one is an error.
    `fields` begin with those of the input that are stored; behind them are the aliases of `bound`, what is to be
    computed of the rows, which may read more fields. `groups` are the names of fields that come out of the same bytes,
    by what they are read from.

    Names are those of the store, but for `groups`, which has those of the input. `changes` say how fields are made that
    are others in the input. Until inputs agreed on their fields, `fields` are as the input has them, `reads` are more
    that expressions need, `names` all that it has, `origins` what those are called in the input that have new names,
    `renamed` the old names that expressions may use, with the new ones, `pads` how fields are padded, and of the names
    and patterns in options `asked` those that inputs need not all have, `used` those that fit.
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
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    cuts: tuple[int, ...] = ()
    changes: Mapping[str, Change] = field(default_factory=dict)
    reads: tuple[Field, ...] = ()
    names: tuple[str, ...] = ()
    origins: Mapping[str, str] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    pads: Mapping[str, Pad] = field(default_factory=dict)
    asked: tuple[tuple[str, str], ...] = ()
    used: frozenset[tuple[str, str]] = frozenset()

    @property
    def rows(self) -> int:
        return self.ranges[-1][1]

    def together(self, fields: Iterable[Field]) -> list[tuple[Field, ...]]:
        """Some fields, those of one group together; each where the first of its group stands."""
        group = {name: of for of, names in self.groups.items() for name in names}
        found: dict[str, list[Field]] = {}
        for f in fields:
            origin = self.changes[f.name].origin if f.name in self.changes else f
            # what the input does not have comes alone
            key = f"blank {f.name}" if origin is None else f"group {group[origin.name]}"
            found.setdefault(key, []).append(f)
        return [tuple(of_group) for of_group in found.values()]


class Reader(Protocol):
    """How inputs of one format are read.

    `kind` is its name, `options` all that decides what is read, as JSON; `recipe` is what is computed, if anything is,
    and `shaping` how fields become others. What was inspected `keeping` it may stay open until it is read.
    """

    kind: str

    @property
    def recipe(self) -> Recipe: ...

    @property
    def shaping(self) -> Shaping: ...

    @property
    def options(self) -> Mapping[str, Any]: ...

    def inspect(self, source: Input) -> Table: ...

    def keeping(self) -> AbstractContextManager[None]: ...

    def open(self, table: Table) -> AbstractContextManager[Rows]: ...
