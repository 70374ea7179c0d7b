"""The syntax tree of a cut: frozen values with their place in the text, and the canonical text of a tree.

Places take no part in equality: two texts with the same meaning have equal trees.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any

from mmdask.errors import ExpressionError

__all__ = [
    "Binary",
    "Bitwise",
    "Boolean",
    "Call",
    "Compare",
    "In",
    "Index",
    "Integer",
    "Logic",
    "Name",
    "Node",
    "Not",
    "Real",
    "Symbol",
    "Text",
    "Unary",
    "canonical",
    "error_at",
    "names_of",
    "spelled_name",
]

#: names that are numbers, and words that are operators: a field of such a name is written in backticks
SYMBOLS = ("nan", "inf", "pi")
BOOLEANS = {"true": True, "false": False, "True": True, "False": False}
WORDS = ("and", "or", "not", "in")

_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*", re.ASCII)


@dataclass(frozen=True)
class Node:
    """A piece of a cut, from character `start` up to `end` of its text."""

    start: int = field(default=0, compare=False, kw_only=True)
    end: int = field(default=0, compare=False, kw_only=True)


@dataclass(frozen=True)
class Integer(Node):
    """A literal without point or exponent, never negative, of any size."""

    value: int


@dataclass(frozen=True)
class Real(Node):
    """A literal with point or exponent, never negative, finite."""

    value: float


@dataclass(frozen=True)
class Boolean(Node):
    """``true`` or ``false``."""

    value: bool


@dataclass(frozen=True)
class Symbol(Node):
    """``nan``, ``inf`` or ``pi``."""

    name: str


@dataclass(frozen=True)
class Text(Node):
    """A literal in quotes."""

    value: str


@dataclass(frozen=True)
class Name(Node):
    """A field, or before `check` perhaps a constant; `quoted` if it stood in backticks."""

    name: str
    quoted: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class Unary(Node):
    """``-x`` or ``+x``."""

    op: str
    operand: Node


@dataclass(frozen=True)
class Binary(Node):
    """``+ - * / // % **`` of two operands."""

    op: str
    left: Node
    right: Node


@dataclass(frozen=True)
class Compare(Node):
    """A chain: ``operands[0] ops[0] operands[1] ops[1] ...``, one operand more than ops."""

    operands: tuple[Node, ...]
    ops: tuple[str, ...]


@dataclass(frozen=True)
class In(Node):
    """``operand in (items)``; the items are literals, or before `check` one constant that is a list."""

    operand: Node
    items: tuple[Node, ...]
    negated: bool


@dataclass(frozen=True)
class Not(Node):
    """``not x``, ``!x`` or ``~x``."""

    operand: Node
    spelled: str = field(default="not", compare=False)


@dataclass(frozen=True)
class Logic(Node):
    """``and`` or ``or`` of two or more; none of `args` is a Logic of the same `op`."""

    op: str
    args: tuple[Node, ...]


@dataclass(frozen=True)
class Bitwise(Node):
    """``&`` or ``|`` of two or more; after `check` all of them are integers."""

    op: str
    args: tuple[Node, ...]


@dataclass(frozen=True)
class Call(Node):
    """A function of the table."""

    function: str
    args: tuple[Node, ...]


@dataclass(frozen=True)
class Index(Node):
    """``operand[index]``: a whole number that is written out is an int here, whatever else stands there a tree."""

    operand: Node
    index: int | Node


def canonical(node: Node) -> str:
    """The text of a tree with every pair of parentheses written; parsing it gives an equal tree.

    Examples
    --------
    >>> from mmdask.expr.parser import parse
    >>> canonical(parse("nJets >= 6 & !isbad"))
    '((nJets >= 6) & (not isbad))'
    """
    match node:
        case Integer(value=value):
            return str(value)
        case Real(value=real):
            return repr(real)
        case Boolean(value=flag):
            return "true" if flag else "false"
        case Symbol(name=name):
            return name
        case Text(value=text):
            return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
        case Name(name=name):
            return spelled_name(name)
        case Unary(op=op, operand=x):
            return f"({op}{canonical(x)})"
        case Binary(op=op, left=left, right=right):
            return f"({canonical(left)} {op} {canonical(right)})"
        case Compare(operands=operands, ops=ops):
            rest = [f" {op} {canonical(x)}" for op, x in zip(ops, operands[1:], strict=True)]
            return f"({canonical(operands[0])}{''.join(rest)})"
        case In(operand=x, items=items, negated=negated):
            # a literal takes a sign, but no parentheses
            listed = ", ".join("-" + canonical(i.operand) if isinstance(i, Unary) else canonical(i) for i in items)
            return f"({canonical(x)} {'not in' if negated else 'in'} ({listed}))"
        case Not(operand=x):
            return f"(not {canonical(x)})"
        case Logic(op=op, args=args) | Bitwise(op=op, args=args):
            return "(" + f" {op} ".join(canonical(a) for a in args) + ")"
        case Call(function=function, args=args):
            return f"{function}({', '.join(canonical(a) for a in args)})"
        case Index(operand=x, index=index):
            return f"{canonical(x)}[{index if isinstance(index, int) else canonical(index)}]"
    raise TypeError(f"not a node of a cut: {node!r}")


def names_of(value: Any) -> Iterator[Name]:
    """Every name in a tree, or in a tuple of trees, in the order of the text."""
    if isinstance(value, Name):
        yield value
    elif isinstance(value, Node):
        for f in fields(value):
            yield from names_of(getattr(value, f.name))
    elif isinstance(value, tuple):
        for v in value:
            yield from names_of(v)


def spelled_name(name: str) -> str:
    """A field name as it is written in a cut, in backticks where it needs them."""
    reserved = name in SYMBOLS or name in BOOLEANS or name in WORDS
    if _PLAIN_NAME.fullmatch(name) and not reserved and not name.endswith(".size"):
        return name
    return "`" + name.replace("`", "``") + "`"


def error_at(text: str, start: int, end: int, message: str) -> ExpressionError:
    """The error with its message, the line of the text and a caret under characters `start` to `end`."""
    first = text.rfind("\n", 0, start) + 1
    last = text.find("\n", start)
    last = len(text) if last < 0 else last
    crop_first, crop_last = max(first, start - 70), min(last, start + 70)
    head = "... " if crop_first > first else ""
    tail = " ..." if crop_last < last else ""
    line = "".join(c if c.isprintable() else " " for c in text[crop_first:crop_last])
    carets = "^" * max(1, min(end, crop_last) - start)
    return ExpressionError(f"{message}\n    {head}{line}{tail}\n    {' ' * (len(head) + start - crop_first)}{carets}")
