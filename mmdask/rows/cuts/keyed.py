"""Cuts that come from Python, as leaves of an expression: what they are is not their code but a key that a user gave.

Such a leaf reads as ``kept("muon-v2", jet_pt, met)``: the key, and the fields that it may read; none stand for all.
What computes it goes along within this process only. Pickled, a leaf is a reference to what was kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from mmdask.errors import OptionError
from mmdask.expr import Expression, canonical, check_cut, combine, negate, operands
from mmdask.expr.expression import type_of
from mmdask.expr.tree import Call, Name, Text
from mmdask.expr.typed import BOOL, Typed
from mmdask.schema import Schema
from mmdask.store.snapshot import Snapshot

__all__ = ["Source", "again_on", "is_keyed", "keyed", "keyed_leaves", "source_of"]

MAX_KEY = 200


class Source(Protocol):
    """What computes a cut that comes from Python."""

    def task(self, snapshot: Snapshot, part: int, start: int, stop: int) -> tuple[Any, tuple[Any, ...]]:
        """A function and its arguments, which give the bits of some rows of a part: true ones, and known ones or None.

        Raises
        ------
        OptionError
            When these rows are none of those that it is about.
        """


@dataclass(frozen=True)
class _Keyed(Typed):
    """A leaf; `source` is no part of what it is."""

    source: Source | None = field(default=None, compare=False, repr=False, kw_only=True)

    def __reduce__(self) -> tuple[Any, ...]:
        names = tuple(str(arg.value) for arg in self.args)
        return _leaf, (str(self.value), names, self.tree)


def _leaf(key: str, names: Sequence[str], tree: Any, source: Source | None = None) -> _Keyed:
    args = tuple([Typed("field", (), "list", BOOL, 0, False, Name(name), value=name) for name in names])
    return _Keyed("keyed", args, "bool", BOOL, 0, True, tree, (0, 1), key, source=source)


def keyed(key: str, fields: Sequence[str], schema: Schema, source: Source | None) -> Expression:
    """The cut of a key.

    Parameters
    ----------
    key : str
        Its name, of up to 200 characters that can be printed.
    fields : sequence of str
        The fields that it may read, and no others; none for all.
    schema : Schema
        Of the store.
    source : Source, optional
        What computes it where it is not kept.

    Raises
    ------
    OptionError
        When the key is none.
    FieldNotFoundError
        When there is no such field.
    """
    if not isinstance(key, str) or not key.isprintable() or not 0 < len(key) <= MAX_KEY:
        raise OptionError(f"key is a text of up to {MAX_KEY} characters that can be printed, as 'muon-v2'; got {key!r}")
    names = sorted(dict.fromkeys(schema[name].name for name in fields))
    tree = Call("kept", (Text(key), *map(Name, names)))
    text = canonical(tree)
    types = tuple([type_of(schema[name]) for name in names])
    return Expression(text, text, tuple(names), types, _leaf(key, names, tree, source))


def is_keyed(expression: Expression) -> bool:
    """Whether this is a cut of a key itself."""
    return expression.typed.op == "keyed"


def source_of(expression: Expression) -> Source | None:
    """What computes the cut of a key in this process."""
    assert isinstance(expression.typed, _Keyed)
    return expression.typed.source


def keyed_leaves(expression: Expression) -> list[Expression]:
    """The cuts of keys that a cut is made of."""
    if is_keyed(expression):
        return [expression]
    _, args = operands(expression)
    return [leaf for arg in args for leaf in keyed_leaves(arg)]


def again_on(expression: Expression, schema: Schema) -> Expression:
    """The same cut of the fields of another generation.

    Raises
    ------
    ExpressionError, FieldNotFoundError
        When it does not fit them.
    """
    if not keyed_leaves(expression):
        return check_cut(expression.canonical, schema)
    if is_keyed(expression):
        return keyed(str(expression.typed.value), expression.fields, schema, source_of(expression))
    op, args = operands(expression)
    first, *rest = [again_on(arg, schema) for arg in args]
    if op == "not":
        return negate(first)
    for other in rest:
        first = combine("and" if op == "and" else "or", first, other)
    return first
