"""`Expression`, a checked cut or derived field, and what is made of it: `check`, `conjuncts`, `combine`, `negate`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from mmdask.errors import ExpressionError
from mmdask.expr.checker import Checker, field_names
from mmdask.expr.parser import MAX_DEPTH, depth_of, parse
from mmdask.expr.tree import Logic, Node, Not, canonical, error_at
from mmdask.expr.typed import BOOL, TOO_LARGE, Typed, lists_missing
from mmdask.schema import Schema

__all__ = ["SEMANTICS", "Expression", "check", "check_cut", "combine", "conjuncts", "negate"]

#: part of the name of every kept cut; raised by hand when a change gives a cut another meaning
SEMANTICS = 1


@dataclass(frozen=True)
class Expression:
    """A cut or derived field that was checked against a schema. Made by `check`; immutable, hashable, picklable.

    Parameters
    ----------
    text : str
        As the user typed it.
    canonical : str
        Fully parenthesised, with constants put in: equal texts mean equal cuts.
    fields : tuple of str
        The fields that it reads, ascending.
    types : tuple of str
        What each of them is.
    typed : Typed
        What `evaluate` runs.
    parts : tuple of Expression
        The cuts of which `combine` made this one with "and".
    """

    text: str = field(compare=False)
    canonical: str
    fields: tuple[str, ...]
    types: tuple[str, ...]
    typed: Typed = field(compare=False, repr=False)
    parts: tuple[Expression, ...] = field(default=(), compare=False, repr=False)

    @property
    def tree(self) -> Node:
        """The syntax tree, with constants put in."""
        return self.typed.tree

    @property
    def depth(self) -> int:
        """0: one value per row; 1: one per item."""
        return self.typed.depth

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values."""
        return self.typed.dtype

    @property
    def maybe_missing(self) -> bool:
        """Whether some rows or items may have no value, as ``jet_pt[3]`` in rows with three items."""
        return bool(self.optional)

    @property
    def optional(self) -> tuple[int, ...]:
        """Depths at which values may be missing, as those of a `Field`: 0 for rows, 1 for items."""
        rows = lists_missing(self.typed) if self.depth else self.typed.missing
        return (0,) * rows + (1,) * (self.depth > 0 and self.typed.missing)

    def __hash__(self) -> int:
        return hash(self.canonical)


def check(node_or_text: Node | str, schema: Schema, constants: Mapping[str, object] | None = None) -> Expression:
    """Look up the names of an expression and give it types. Reads no data.

    Parameters
    ----------
    node_or_text : str or Node
        The expression, or its tree.
    schema : Schema
        The fields that it may name.
    constants : mapping of str, optional
        Numbers, booleans, texts, or lists of them, each of which it names.

    Returns
    -------
    Expression

    Raises
    ------
    ExpressionError
        With a caret under the place: unknown names and labels, two readings, types or depths that do not fit,
        constants that it does not name.

    Examples
    --------
    >>> from mmdask.schema import Field
    >>> e = check("sum(jet_pt) / 1e3", Schema([Field.ragged("jet_pt", "f4")]))
    >>> e.canonical, e.depth, e.dtype.name, e.fields
    ('(sum(jet_pt) / 1000.0)', 0, 'float64', ('jet_pt',))
    """
    try:
        text = canonical(node_or_text) if isinstance(node_or_text, Node) else node_or_text
        node = parse(text)  # of a given tree too, so that the places fit the text
        checker = Checker(text, schema, constants)
        typed = checker.visit(node)
        checker.check_used(typed)
        if typed.kind in ("label", "text"):
            raise error_at(text, 0, len(text), "text alone is no value here; compare it with text in quotes")
        if typed.dtype == TOO_LARGE:
            raise error_at(text, 0, len(text), "this integer does not fit 64 bits")
        return _expression(text, typed, schema)
    except RecursionError:
        raise ExpressionError("this cut nests too deeply for the depth of the calling code") from None


def check_cut(text_or_node: Node | str, schema: Schema, constants: Mapping[str, object] | None = None) -> Expression:
    """Check a cut: an expression that has one boolean per row.

    Raises
    ------
    ExpressionError
        As `check`; also for one value per item and for numbers, saying how to make a cut of them.
    """
    e = check(text_or_node, schema, constants)
    shown = " ".join(e.text.split())
    shown = shown if len(shown) <= 60 else "..."
    if e.depth:
        x = shown if e.dtype == BOOL else f"{shown} > ..."
        message = f"this has one value per item, and a cut has one per row; write any({x}), all({x}) or count({x}) >= n"
    elif e.typed.kind == "int":
        message = f"this is an integer, and a cut is a boolean; write {_wrapped(e, shown)} != 0"
    elif e.typed.kind == "float":
        message = f"this is a real number, and a cut is a boolean; compare it, as in {_wrapped(e, shown)} > 0"
    else:
        return e
    raise error_at(e.text, 0, len(e.text), message)


def _wrapped(e: Expression, shown: str) -> str:
    return f"({shown})" if e.canonical.startswith("(") else shown


def _expression(text: str, typed: Typed, schema: Schema, parts: tuple[Expression, ...] = ()) -> Expression:
    if depth_of(typed.tree) > MAX_DEPTH:
        raise ExpressionError(f"a cut nests at most {MAX_DEPTH} levels; split it into derived fields")
    names = sorted(field_names(typed))
    return Expression(text, canonical(typed.tree), tuple(names), tuple(_type(schema, n) for n in names), typed, parts)


def _type(schema: Schema, name: str) -> str:
    f = schema[name]
    return f"{f.kind} {f.dtype.str} {f.levels} {f.shape}"


def conjuncts(expression: Expression) -> tuple[Expression, ...]:
    """The cuts that a cut joins with "and" at its top, each a cut of its own; the cut itself if there are none.

    A chain such as ``2 <= n <= 4`` is one.
    """
    typed = expression.typed
    if expression.parts:
        return expression.parts
    if not (isinstance(typed.tree, Logic) and typed.tree.op == "and" and typed.depth == 0):
        return (expression,)
    types = dict(zip(expression.fields, expression.types, strict=True))
    return tuple(_piece(expression, leaf, types) for leaf in typed.args)


def _piece(whole: Expression, leaf: Typed, types: dict[str, str]) -> Expression:
    names = tuple(sorted(field_names(leaf)))
    text = whole.text[leaf.tree.start : leaf.tree.end]
    return Expression(text, canonical(leaf.tree), names, tuple(types[n] for n in names), leaf)


def combine(op: Literal["and", "or"], a: Expression, b: Expression) -> Expression:
    """The cut ``(a) and (b)``, or with "or", of two cuts.

    Raises
    ------
    ExpressionError
        If one of them is no cut, if the same field has two types in them, or if the result nests too deeply.
    """
    args = [arg for e in (a, b) for arg in _joined(op, _cut(e))]
    tree = Logic(op, tuple(x.tree for x in args))
    typed = Typed(op, tuple(args), "bool", BOOL, 0, any(x.missing for x in args), tree, (0, 1))
    parts = (*conjuncts(a), *conjuncts(b)) if op == "and" else ()
    return _made(f"({a.text}) {op} ({b.text})", typed, (a, b), parts)


def negate(expression: Expression) -> Expression:
    """The cut ``not (expression)``: missing stays missing, so it is not the complement of the rows kept."""
    x = _cut(expression).typed
    return _made(
        f"not ({expression.text})",
        Typed("not", (x,), "bool", BOOL, 0, x.missing, Not(x.tree), (0, 1)),
        (expression,),
    )


def _cut(e: Expression) -> Expression:
    if e.depth or e.dtype != BOOL:
        raise ExpressionError(f"cuts are joined with cuts, and this is none: {e.text}")
    return e


def _joined(op: str, e: Expression) -> tuple[Typed, ...]:
    return e.typed.args if isinstance(e.tree, Logic) and e.tree.op == op else (e.typed,)


def _made(text: str, typed: Typed, sources: tuple[Expression, ...], parts: tuple[Expression, ...] = ()) -> Expression:
    types: dict[str, str] = {}
    for e in sources:
        for name, kind in zip(e.fields, e.types, strict=True):
            if types.setdefault(name, kind) != kind:
                raise ExpressionError(f"field {name!r} is of two types in these cuts: {types[name]}, and {kind}")
    if depth_of(typed.tree) > MAX_DEPTH:
        raise ExpressionError(f"a cut nests at most {MAX_DEPTH} levels; keep a part of it as a derived field")
    names = tuple(sorted(types))
    return Expression(text, canonical(typed.tree), names, tuple(types[n] for n in names), typed, parts)
