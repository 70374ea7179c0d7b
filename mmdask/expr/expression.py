"""`Expression`, a checked cut or derived field, and what is made of it: `check`, `conjuncts`, `combine`, `negate`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np

from mmdask.errors import ExpressionError
from mmdask.expr.axes import check_axes
from mmdask.expr.checker import Checker, field_names
from mmdask.expr.parser import MAX_DEPTH, STORE, check_size, depth_of, parse
from mmdask.expr.tree import Logic, Name, Node, Not, canonical, error_at, names_of, spelled_name
from mmdask.expr.typed import BOOL, TOO_LARGE, Typed
from mmdask.schema import Field, Schema
from mmdask.short import ambiguous

__all__ = ["SEMANTICS", "Expression", "check", "check_cut", "combine", "conjuncts", "negate", "operands", "type_of"]

#: part of the name of every kept cut; raised by hand when a change gives a cut another meaning
SEMANTICS = 3


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
        """0: one value per row; 1: one per item; 2: one per item of a list of lists; and so on."""
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
        """Depths at which values may be missing, as those of a `Field`: 0 for rows, 1 for items, and so on."""
        return (*sorted(self.typed.lists_missing), *(self.depth,) * self.typed.missing)

    def __hash__(self) -> int:
        return hash(self.canonical)


def check(
    node_or_text: Node | str,
    schema: Schema,
    constants: Mapping[str, object] | None = None,
    derived: Mapping[str, Expression] | None = None,
) -> Expression:
    """Look up the names of an expression and give it types. Reads no data.

    Parameters
    ----------
    node_or_text : str or Node
        The expression, or its tree.
    schema : Schema
        The fields that it may name.
        A short name of one (`mmdask.short`) gives way to the whole, in `text`, too.
    constants : mapping of str, optional
        Numbers, booleans, texts, or lists of them, each of which it names.
    derived : mapping of str to Expression, optional
        What more names mean, before those of the schema. What they are computed from takes their place, so that the
        result names fields of the schema only.

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
        # a given tree, too, is read again, so that the places fit the text
        node = parse(text) if text is node_or_text else parse(text, longest=len(text))
        derived = derived or {}
        seen = schema
        if derived:
            seen = Schema([*(f for n, f in schema.items() if n not in derived), *_seen(derived)], schema.absent)
        if seen.short and (long := with_whole_names(text, node, seen, constants or ())) != text:
            text, node = long, parse(long, longest=len(long))
        checker = Checker(text, seen, constants, {name: _unplaced(e) for name, e in derived.items()})
        typed = checker.visit(node)
        checker.check_used(typed)
        check_size(typed.tree)
        check_axes(typed, checker.error, checker.source)
        if typed.kind in ("label", "text"):
            raise error_at(text, 0, len(text), "text alone is no value here; compare it with text in quotes")
        if typed.dtype == TOO_LARGE:
            raise error_at(text, 0, len(text), "this integer does not fit 64 bits")
        return _expression(text, typed, schema)
    except ExpressionError as error:
        # How it was read is of no use to the one who wrote it.
        raise error.with_traceback(None) from None
    except RecursionError:
        raise ExpressionError("this cut nests too deeply for the depth of the calling code") from None


def with_whole_names(text: str, node: Node, schema: Schema, constants: Collection[str] = ()) -> str:
    """A text in which short names of fields are the names that they are short for.

    Parameters
    ----------
    text : str
        As it was typed.
    node : Node
        What it is.
    schema : Schema
        The fields.
    constants : collection of str
        Names that are none of a field.

    Raises
    ------
    ExpressionError
        For a name that is short for several fields.

    Examples
    --------
    >>> from mmdask.schema import Field
    >>> schema = Schema([Field.dense("GEN.x", "f4"), Field.dense("a b", "f4")])
    >>> with_whole_names("GEN_x > a_b", parse("GEN_x > a_b"), schema)
    'GEN.x > `a b`'
    """
    places: list[Name] = []
    for name in names_of(node):
        if name.name not in schema and name.name not in constants and (meant := schema.short.get(name.name)):
            if len(meant) > 1:
                raise error_at(text, name.start, name.end, ambiguous(name.name, meant))
            places.append(name)
    for name in sorted(places, key=lambda n: n.start, reverse=True):
        text = text[: name.start] + spelled_name(schema.resolve(name.name)) + text[name.end :]
    return text


def _seen(derived: Mapping[str, Expression]) -> list[Field]:
    """Fields that stand for expressions where names are looked for."""
    return [
        Field.ragged(name, e.dtype, levels=e.depth) if e.depth else Field.dense(name, e.dtype)
        for name, e in derived.items()
    ]


# by the id of an expression, which is kept so that it stays its own: equal ones may differ in what can be missing
_UNPLACED: dict[int, tuple[Expression, Typed]] = {}


def _unplaced(e: Expression) -> Typed:
    """The typed tree of an expression without places, which are those of another text; the same one each time."""
    held = _UNPLACED.get(id(e))
    if held is None:
        if len(_UNPLACED) >= 1024:
            _UNPLACED.clear()
        held = _UNPLACED[id(e)] = (e, _without_places(e))
    return held[1]


def _without_places(e: Expression) -> Typed:
    nodes: dict[int, Node] = {}
    found: dict[int, Typed] = {}

    def tree(node: Node) -> Node:
        if id(node) not in nodes:
            parts = {f.name: tree_of(getattr(node, f.name)) for f in fields(node) if f.name not in ("start", "end")}
            nodes[id(node)] = type(node)(**parts)
        return nodes[id(node)]

    def tree_of(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(tree_of, value))
        return tree(value) if isinstance(value, Node) else value

    def typed(x: Typed) -> Typed:
        if id(x) not in found:
            found[id(x)] = replace(x, args=tuple(map(typed, x.args)), tree=tree(x.tree))
        return found[id(x)]

    return typed(e.typed)


def check_cut(
    text_or_node: Node | str,
    schema: Schema,
    constants: Mapping[str, object] | None = None,
    derived: Mapping[str, Expression] | None = None,
) -> Expression:
    """Check a cut: an expression that has one boolean per row.

    Raises
    ------
    ExpressionError
        As `check`; also for one value per item and for numbers, saying how to make a cut of them.
    """
    e = check(text_or_node, schema, constants, derived)
    shown = " ".join(e.text.split())
    shown = shown if len(shown) <= 60 else "..."
    if e.depth:
        x = shown if e.dtype == BOOL else f"{shown} > ..."
        x = "any(" * (e.depth - 1) + x + ")" * (e.depth - 1)
        lists = " of lists in lists" if e.depth > 1 else ""
        message = f"this has one value per item{lists}, and a cut has one per row"
        message += f"; write any({x}), all({x}) or count({x}) >= n"
    elif product := _weighted(e):
        message = product
    elif e.typed.kind == "int":
        message = f"this is an integer, and a cut is a boolean; write {_wrapped(e, shown)} != 0"
    elif e.typed.kind == "float":
        message = f"this is a real number, and a cut is a boolean; compare it, as in {_wrapped(e, shown)} > 0"
    else:
        return e
    raise error_at(e.text, 0, len(e.text), message)


def _weighted(e: Expression) -> str:
    """What to say of a product with booleans, as ``weight * (nJets >= 6)``; empty for what is none."""
    found, factors = [e.typed], []
    while found:
        x = found.pop()
        found.extend(x.args[::-1] if x.op == "*" else ())
        factors.extend([x] if x.op != "*" else [])
    cuts = [e.text[x.tree.start : x.tree.end] or canonical(x.tree) for x in factors if x.kind == "bool"]
    joined = " and ".join(cuts)
    if not cuts or len(factors) < 2 or len(joined) > 80:
        return ""
    if len(cuts) == len(factors):
        return f"this is a number, and a cut is a boolean; write {joined}"
    return f"this is a number, and a cut is a boolean; cut on {joined}, and weight by cutflow(weight=...)"


def _wrapped(e: Expression, shown: str) -> str:
    return f"({shown})" if e.canonical.startswith("(") else shown


def _expression(text: str, typed: Typed, schema: Schema, parts: tuple[Expression, ...] = ()) -> Expression:
    if depth_of(typed.tree) > MAX_DEPTH:
        raise ExpressionError(f"a cut nests at most {MAX_DEPTH} levels, computed fields written out; {STORE}")
    names = sorted(field_names(typed))
    return Expression(text, canonical(typed.tree), tuple(names), tuple(type_of(schema[n]) for n in names), typed, parts)


def type_of(f: Field) -> str:
    """What an expression notes of a field that it reads."""
    # Also what may be missing: cuts of equal text are three-valued or not by that.
    optional = f" optional {f.optional}" if f.optional else ""
    return f"{f.kind} {f.dtype.str} {f.levels} {f.shape}{optional}"


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


def operands(expression: Expression) -> tuple[Literal["and", "or", "not", ""], tuple[Expression, ...]]:
    """The operator at the top of a cut, and the cuts that it joins; "" and none for a cut that joins no others.

    Examples
    --------
    >>> from mmdask.schema import Field
    >>> op, cuts = operands(check_cut("x > 1 or not y", Schema([Field.dense("x", "f4"), Field.dense("y", "?")])))
    >>> op, [cut.canonical for cut in cuts]
    ('or', ['(x > 1)', '(not y)'])
    """
    typed = expression.typed
    types = dict(zip(expression.fields, expression.types, strict=True))
    # Others than a Not have no operand with a text of its own: none(x), a != "b", a not in (...).
    if typed.op == "not" and isinstance(typed.tree, Not):
        return "not", (_piece(expression, typed.args[0], types),)
    if typed.op == "or" and isinstance(typed.tree, Logic):
        return "or", tuple([_piece(expression, leaf, types) for leaf in typed.args])
    joined = conjuncts(expression)
    return ("and", joined) if len(joined) > 1 else ("", ())


def _piece(whole: Expression, leaf: Typed, types: dict[str, str]) -> Expression:
    names = tuple(sorted(field_names(leaf)))
    # Within a derived field there are no places.
    text = whole.text[leaf.tree.start : leaf.tree.end] or canonical(leaf.tree)
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
        raise ExpressionError(f"a cut nests at most {MAX_DEPTH} levels; {STORE}")
    check_size(typed.tree)
    names = tuple(sorted(types))
    return Expression(text, canonical(typed.tree), names, tuple(types[n] for n in names), typed, parts)
