"""From a syntax tree to a typed one: each node by those below it, names by the schema and the constants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from mmdask.errors import ExpressionError, did_you_mean
from mmdask.expr import calls, hints
from mmdask.expr.compare import members
from mmdask.expr.constants import check_constants, constant_items, constant_node
from mmdask.expr.operators import OperatorChecker
from mmdask.expr.tree import (
    SYMBOLS,
    Binary,
    Bitwise,
    Boolean,
    Call,
    Compare,
    In,
    Index,
    Integer,
    Logic,
    Name,
    Node,
    Not,
    Real,
    Symbol,
    Text,
    Unary,
)
from mmdask.expr.typed import BOOL, Typed, literal, nodes_of, range_of
from mmdask.schema import Field, Schema

__all__ = ["Checker", "field_names"]


class Checker(OperatorChecker):
    """Types the nodes of one cut."""

    def __init__(
        self,
        text: str,
        schema: Schema,
        constants: Mapping[str, object] | None,
        derived: Mapping[str, Typed] | None = None,
    ) -> None:
        super().__init__(text, schema, check_constants(constants))
        self.derived = derived or {}
        self.used: set[str] = set()

    def visit(self, node: Node) -> Typed:
        """The typed tree of a node."""
        match node:
            case Integer(value=value):
                return literal(value, node)
            case Real(value=real):
                return literal(real, node)
            case Text(value=text):
                return literal(text, node)
            case Boolean() | Symbol():
                return self.symbol(node)
            case Name():
                return self.name(node)
            case Unary():
                x = self.visit(node.operand)
                return self.signed(node.op, x, replace(node, operand=x.tree))
            case Binary():
                a, b = self.number(self.visit(node.left)), self.number(self.visit(node.right))
                return self.arithmetic(node.op, a, b, replace(node, left=a.tree, right=b.tree))
            case Compare():
                return self.comparison(node)
            case In():
                return self.membership(node)
            case Not():
                return self.negation(node)
            case Logic(op=op, args=args):
                found = [self.visit(a) for a in args]
                hints.check_alone(self, found)
                return self.logic(op, [self.truth(a) for a in found], node)
            case Bitwise(op=op, args=args):
                return self.bitwise(op, [self.visit(a) for a in args], node)
            case Call():
                function = calls.function_of(self, node)
                visit = self.asked if function.group == "missing" else self.visit
                return calls.call(self, function, tuple(map(visit, node.args)), node)
            case Index():
                return calls.brackets(self, node, self.visit)
        raise ExpressionError(f"not a node of a cut: {node!r}")

    def symbol(self, node: Boolean | Symbol) -> Typed:
        word = self.text[node.start : node.end]
        if word in self.schema:
            raise self.error(node, f"{word!r} is a field and a value of the language; write `{word}` for the field")
        if isinstance(node, Boolean):
            return literal(node.value, node)
        return literal(dict(zip(SYMBOLS, (np.nan, np.inf, np.pi), strict=True))[node.name], node)

    def name(self, node: Name) -> Typed:
        name = node.name
        constant = self.is_constant(node)
        if constant and name in self.schema:
            raise self.error(node, f"{name!r} is a field and a constant; call the constant something else")
        if constant:
            self.used.add(name)
            return self.visit(constant_node(self.constants[name], node, self.error))
        if name not in self.schema:
            raise self.error(node, hints.unknown_name(self, name))
        if name in self.derived:
            x = self.derived[name]
            return replace(x, tree=replace(x.tree, start=node.start, end=node.end))
        field = self.schema[name]
        return self.field(field, Name(name, start=node.start, end=node.end))

    def check_used(self, typed: Typed) -> None:
        """Raise for constants that the expression does not name: the one who gave them meant something by it."""
        unused = [name for name in self.constants if name not in self.used]
        if not unused:
            return
        near = did_you_mean(unused[0], field_names(typed))
        what = f"the constant{'s' * (len(unused) > 1)} {hints.listed(unused)} {'are' if len(unused) > 1 else 'is'}"
        raise self.error(typed.tree, f"{what} not in this expression{near or '; name it there, or leave it out'}")

    def field(self, field: Field, node: Name) -> Typed:
        missing = 0 in field.optional
        if field.kind == "category":
            return Typed("field", (), "label", field.dtype, 0, missing, node, value=field.name)
        if field.kind == "string" and field.levels == 0:
            return Typed("field", (), "text", field.dtype, 0, missing, node, value=field.name)
        if field.kind == "shaped":
            raise self.error(
                node,
                f"{field.name!r} is {field.describe()}, and cuts read numbers, labels and text, and lists of them; "
                "compute what the cut needs, and store it as a field",
            )
        depth = field.levels + len(field.shape)
        lost = tuple(k for k in field.optional if k < depth)
        missing = depth in field.optional
        if field.kind == "string":
            return Typed("field", (), "text", field.dtype, depth, missing, node, value=field.name, lost=lost)
        if field.dtype.kind not in "biuf":
            message = f"{field.name!r} is {field.describe()}; cuts read booleans, integers and real numbers"
            if field.dtype.kind in "Mm":
                time = "datetime64('2020-06-01')" if field.dtype.kind == "M" else "timedelta64(1, 'h')"
                message += f"; write ds.cut(ds[{field.name!r}] > np.{time}, key='...'), or store it as a number"
            raise self.error(node, message)
        if field.dtype.kind == "f":
            return Typed("field", (), "float", field.dtype, depth, missing, node, value=field.name, lost=lost)
        kind: Any = "bool" if field.dtype == BOOL else "int"
        return Typed("field", (), kind, field.dtype, depth, missing, node, range_of(field.dtype), field.name, lost)

    def asked(self, node: Node) -> Typed:
        """What is asked of whether it is missing: also a field of rows that cuts do not compute with."""
        field = self.schema.get(node.name) if isinstance(node, Name) and node.name not in self.constants else None
        if field is not None and (field.kind == "shaped" or (field.kind == "dense" and field.dtype.kind not in "biuf")):
            return Typed("field", (), "text", field.dtype, 0, 0 in field.optional, node, value=field.name)
        return self.visit(node)

    def comparison(self, node: Compare) -> Typed:
        hints.check_names(self, node)
        operands = [self.visit(x) for x in node.operands]
        tree = replace(node, operands=tuple(x.tree for x in operands))
        pairs = [self.pair(op, a, b, tree) for op, a, b in zip(node.ops, operands, operands[1:], strict=False)]
        if len(pairs) == 1:
            return pairs[0]
        depth, missing = max(p.depth for p in pairs), any(p.missing for p in pairs)
        return Typed("and", tuple(pairs), "bool", BOOL, depth, missing, tree, (0, 1))

    def membership(self, node: In) -> Typed:
        x = self.visit(node.operand)
        hints.check_names(self, node)
        items = [self.visit(i) for i in self.items(node)]
        tree = replace(node, operand=x.tree, items=tuple(_once_negated(i.tree) for i in items))
        for i in items:
            if i.op != "literal":
                raise self.error(i.tree, "the list after 'in' holds literals and constants")
            if (i.kind == "text") != (x.kind in ("label", "text")):
                raise self.error(i.tree, f"{self.what(x)}, and {self.what(i)}; they cannot be compared")
            hints.check_nan(self, "in", x, i)
        values = tuple(i.value for i in items)
        if x.op == "literal":
            if x.kind == "text":
                raise self.error(x.tree, "text in quotes stands after 'in'; before it stands a field")
            return literal((x.value in values and x.value == x.value) != node.negated, tree)
        if x.kind in ("label", "text"):
            for i in items:
                self.known_label(x, i)
            found = Typed("in text", (x,), "bool", BOOL, x.depth, x.missing, tree, (0, 1), values)
        else:
            numbers = members(x.dtype, tuple(int(v) if isinstance(v, bool) else v for v in values))
            value = (numbers.dtype.str, numbers.tobytes())
            found = Typed("in", (x,), "bool", BOOL, x.depth, x.missing, tree, (0, 1), value)
        return Typed("not", (found,), "bool", BOOL, x.depth, x.missing, tree, (0, 1)) if node.negated else found

    def items(self, node: In) -> tuple[Node, ...]:
        """The items of a list, with a constant that is a list written out."""
        if len(node.items) != 1 or not isinstance(node.items[0], Name):
            return node.items
        name = node.items[0]
        if not self.is_constant(name):
            raise self.error(name, f"'in' takes a list of literals; {name.name!r} is no constant")
        self.used.add(name.name)
        return constant_items(self.constants[name.name], name, self.error)

    def negation(self, node: Not) -> Typed:
        x = self.visit(node.operand)
        if node.spelled == "~" and x.kind != "bool" and (x.op != "literal" or x.kind == "text"):
            raise self.error(node, f"'~' is for booleans, and {self.what(x)}; write {self.source(x.tree)} == 0")
        x = self.truth(x)
        tree = replace(node, operand=x.tree)
        return Typed("not", (x,), "bool", BOOL, x.depth, x.missing, tree, (0, 1))


def field_names(typed: Typed) -> set[str]:
    """The fields that an expression reads."""
    return {str(node.value) for node in nodes_of(typed) if node.op == "field"}


def _once_negated(literal: Node) -> Node:
    """A literal of a list, in which ``-x`` of a negative constant has no text."""
    if isinstance(literal, Unary) and isinstance(literal.operand, Unary):
        return literal.operand.operand
    return literal
