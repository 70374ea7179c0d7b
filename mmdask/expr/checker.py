"""From a syntax tree to a typed one: names, constants, labels, depths, types. Every error of a cut comes here."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any, NoReturn

import numpy as np

from mmdask.errors import ExpressionError, did_you_mean
from mmdask.expr import calls, hints
from mmdask.expr.compare import members
from mmdask.expr.constants import check_constants, constant_items, constant_node
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
    canonical,
    error_at,
    spelled_name,
)
from mmdask.expr.typed import (
    BOOL,
    FLOAT64,
    INT64,
    TOO_LARGE,
    UINT64,
    Range,
    Typed,
    arithmetic_range,
    fits,
    literal,
    nodes_of,
    power_range,
    range_of,
    whole_dtype,
)
from mmdask.schema import Field, Schema

__all__ = ["Checker", "field_names"]

_COMPARED: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_FLOAT_UFUNC: dict[str, Any] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.true_divide,
    "//": np.floor_divide,
    "%": np.remainder,
    "**": np.power,
}
_WHOLE: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
    "**": operator.pow,
}


class Checker:
    """Types the nodes of one cut."""

    def __init__(
        self,
        text: str,
        schema: Schema,
        constants: Mapping[str, object] | None,
        derived: Mapping[str, Typed] | None = None,
    ) -> None:
        self.text = text
        self.schema = schema
        self.constants = check_constants(constants)
        self.derived = derived or {}
        self.used: set[str] = set()

    # ------------------------------------------------------------------------------------- errors and words

    def error(self, node: Node, message: str) -> ExpressionError:
        return error_at(self.text, node.start, node.end, message)

    def source(self, node: Node) -> str:
        """The text of a node, shortened for a message."""
        # Within a derived field there are no places.
        text = " ".join((self.text[node.start : node.end] or canonical(node)).split())
        return text if len(text) <= 60 else text[:57] + "..."

    def what(self, x: Typed) -> str:
        """What a value is, in words."""
        if x.kind == "label":
            return f"{self.source(x.tree)} is a category"
        if x.kind == "text":
            return f"{self.source(x.tree)} is text"
        noun = {"bool": "a boolean", "int": "an integer", "float": "a real number"}[x.kind]
        return f"{self.source(x.tree)} is {noun}"

    def number(self, x: Typed) -> Typed:
        """The same value, if it can be computed with."""
        if x.kind in ("label", "text"):
            raise self.error(x.tree, f"{self.what(x)}; it can only be compared with text, by ==, != and in")
        if x.dtype == TOO_LARGE:
            raise self.error(
                x.tree, "this integer does not fit 64 bits, so it can only be compared; or write it as a real, 1e30"
            )
        return x

    def truth(self, x: Typed) -> Typed:
        """A boolean as it is; a number is true where it is not zero, but one that is written out is an error."""
        if x.kind == "bool":
            return x
        if x.op == "literal" and x.kind != "text":
            raise self.error(x.tree, hints.alone(self, x))
        self.number(x)
        place = {"start": x.tree.start, "end": x.tree.end}
        return self.pair("!=", x, literal(0, Integer(0)), Compare((x.tree, Integer(0)), ("!=",), **place))

    # ------------------------------------------------------------------------------------------------ nodes

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
                return self.unary(node)
            case Binary():
                return self.binary(node)
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
                return calls.call(self, node)
            case Index():
                return calls.brackets(self, node)
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
            return self.visit(constant_node(self.constants[name], node, self))
        if name not in self.schema:
            raise self.error(node, hints.unknown_name(self, name))
        if name in self.derived:
            x = self.derived[name]
            return replace(x, tree=replace(x.tree, start=node.start, end=node.end))
        field = self.schema[name]
        return self.field(field, Name(name, start=node.start, end=node.end))

    def is_constant(self, node: Name) -> bool:
        """Whether a name is that of a constant; in backticks only if it cannot stand without."""
        return node.name in self.constants and (not node.quoted or spelled_name(node.name).startswith("`"))

    def knows(self, node: Name) -> bool:
        """Whether there is a field or a constant of this name."""
        return node.name in self.schema or self.is_constant(node)

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

    # ------------------------------------------------------------------------------------------- arithmetic

    def unary(self, node: Unary) -> Typed:
        x = self.visit(node.operand)
        if x.dtype != TOO_LARGE or x.kind == "text":
            self.number(x)
        tree = replace(node, operand=x.tree)
        if x.op == "literal":
            return literal(-x.value if node.op == "-" else +x.value, tree)
        if node.op == "+":
            return self.whole(x, tree)
        if x.kind == "float":
            return Typed("neg", (x,), "float", x.dtype, x.depth, x.missing, tree)
        return self.integer("neg", (x,), (-x.range[1], -x.range[0]), INT64, tree)

    def whole(self, x: Typed, tree: Node) -> Typed:
        """The same number; a bool becomes 0 or 1."""
        if x.kind != "bool":
            return replace(x, tree=tree)
        if x.op == "literal":
            return literal(int(x.value), tree)
        return Typed("whole", (x,), "int", INT64, x.depth, x.missing, tree, (0, 1))

    def integer(self, op: str, args: tuple[Typed, ...], raw: Range, dtype: np.dtype[Any], tree: Node) -> Typed:
        """An operation on integers whose results lie in `raw`, checked at run time where `dtype` is smaller."""
        low, high = range_of(dtype)
        how = "plain" if fits(raw, dtype) else "checked"
        if dtype == UINT64 and any(a.range[0] < 0 for a in args):
            how = "exact"  # no numpy dtype holds both operands
        clipped = (max(low, raw[0]), min(high, raw[1])) if raw[0] <= high and raw[1] >= low else (low, high)
        missing = any(a.missing for a in args)
        return Typed(op, args, "int", dtype, max(a.depth for a in args), missing, tree, clipped, how)

    def binary(self, node: Binary) -> Typed:
        a, b = self.number(self.visit(node.left)), self.number(self.visit(node.right))
        op, tree = node.op, replace(node, left=a.tree, right=b.tree)
        power = op == "**" and not (b.op == "literal" and b.kind == "int" and b.value >= 0)
        folded = a.op == b.op == "literal"
        if op == "/" or power or "float" in (a.kind, b.kind):
            if folded:
                with np.errstate(all="ignore"):
                    return literal(float(_FLOAT_UFUNC[op](np.float64(a.value), np.float64(b.value))), tree)
            missing = a.missing or b.missing
            return Typed(op, (a, b), "float", FLOAT64, max(a.depth, b.depth), missing, tree)
        if op == "**":
            raw = power_range(a.range, int(b.value))
        else:
            raw = arithmetic_range(op, a.range, b.range)
        by_zero = op in ("//", "%") and b.range[0] <= 0 <= b.range[1]
        if folded and not by_zero:
            if whole_dtype(raw) == TOO_LARGE:
                raise self.error(node, "this integer does not fit 64 bits; compute with reals, as in 10.0**30")
            return literal(_WHOLE[op](int(a.value), int(b.value)), tree)
        wide = a.dtype == UINT64 or (b.dtype == UINT64 and op != "**")
        typed = self.integer(op, (a, b), raw, UINT64 if wide else INT64, tree)
        return replace(typed, missing=True) if by_zero else typed

    # ------------------------------------------------------------------------------------------ comparisons

    def comparison(self, node: Compare) -> Typed:
        hints.check_names(self, node)
        operands = [self.visit(x) for x in node.operands]
        tree = replace(node, operands=tuple(x.tree for x in operands))
        pairs = [self.pair(op, a, b, tree) for op, a, b in zip(node.ops, operands, operands[1:], strict=False)]
        if len(pairs) == 1:
            return pairs[0]
        depth, missing = max(p.depth for p in pairs), any(p.missing for p in pairs)
        return Typed("and", tuple(pairs), "bool", BOOL, depth, missing, tree, (0, 1))

    def pair(self, op: str, a: Typed, b: Typed, tree: Node) -> Typed:
        if a.kind in ("label", "text") or b.kind in ("label", "text"):
            return self.text_pair(op, a, b, tree)
        hints.check_nan(self, op, a, b)
        if a.op == b.op == "literal":
            return literal(_COMPARED[op](a.value, b.value), tree)
        if a.op == "literal":
            op, a, b = _FLIPPED.get(op, op), b, a
        if b.op == "literal":
            value: Any = (op, int(b.value) if b.kind != "float" else b.value)
            return Typed("compare literal", (a,), "bool", BOOL, a.depth, a.missing, tree, (0, 1), value)
        depth, missing = max(a.depth, b.depth), a.missing or b.missing
        return Typed("compare", (a, b), "bool", BOOL, depth, missing, tree, (0, 1), op)

    def text_pair(self, op: str, a: Typed, b: Typed, tree: Node) -> Typed:
        field, text = (b, a) if a.op == "literal" else (a, b)
        if text.op != "literal" or field.op == "literal":
            raise self.error(tree, "text and categories are compared with text in quotes")
        if text.kind != "text" or field.kind not in ("label", "text"):
            raise self.error(tree, f"{self.what(field)}, and {self.what(text)}; they cannot be compared")
        if op not in ("==", "!="):
            raise self.error(tree, f"text has no order here; compare {self.source(field.tree)} by ==, != or in")
        self.known_label(field, text)
        found = Typed("in text", (field,), "bool", BOOL, field.depth, field.missing, tree, (0, 1), (text.value,))
        return found if op == "==" else Typed("not", (found,), "bool", BOOL, field.depth, field.missing, tree, (0, 1))

    def known_label(self, field: Typed, text: Typed) -> None:
        if field.kind != "label":
            return
        labels = self.schema[str(field.value)].labels
        if text.value not in labels:
            listed = ", ".join(repr(x) for x in labels[:20]) + (
                f", ... ({len(labels)} in all)" if len(labels) > 20 else ""
            )
            shown = text.value if len(text.value) <= 60 else text.value[:57] + "..."
            near = did_you_mean(shown, labels)
            says = f"the labels of {field.value!r} are: {listed}" if labels else f"{field.value!r} has no labels yet"
            raise self.error(text.tree, f"no label {shown!r}{near or ';'} {says}")

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
        return constant_items(self.constants[name.name], name, self)

    # ------------------------------------------------------------------------------------------------ logic

    def negation(self, node: Not) -> Typed:
        x = self.visit(node.operand)
        if node.spelled == "~" and x.kind != "bool" and (x.op != "literal" or x.kind == "text"):
            raise self.error(node, f"'~' is for booleans, and {self.what(x)}; write {self.source(x.tree)} == 0")
        x = self.truth(x)
        tree = replace(node, operand=x.tree)
        return Typed("not", (x,), "bool", BOOL, x.depth, x.missing, tree, (0, 1))

    def logic(self, op: str, args: list[Typed], node: Node) -> Typed:
        flat: list[Typed] = []
        for a in args:
            joined = a.op == op and isinstance(a.tree, Logic) and a.tree.op == op
            flat.extend(a.args if joined else (a,))
        depth, missing = max(a.depth for a in flat), any(a.missing for a in flat)
        tree = Logic(op, tuple(a.tree for a in flat), start=node.start, end=node.end)
        return Typed(op, tuple(flat), "bool", BOOL, depth, missing, tree, (0, 1))

    def bitwise(self, op: str, args: list[Typed], node: Node) -> Typed:
        if all(a.kind == "bool" for a in args):
            return self.logic({"&": "and", "|": "or"}[op], args, node)
        if any(a.kind == "text" for a in args):
            hints.check_alone(self, args)
        for a in args:
            if a.kind not in ("bool", "int"):
                self.number(a)
                word = {"&": "&&", "|": "||"}[op]
                raise self.error(
                    a.tree, f"{op!r} joins booleans or integers, and {self.what(a)}; write '{word}', or compare it"
                )
        for i, (a, b) in enumerate(pairwise(args)):
            if a.kind != b.kind:
                self.two_readings(op, args, i, node)
        tree = Bitwise(op, tuple(a.tree for a in args), start=node.start, end=node.end)
        return self.bits(op, args, tree)

    def two_readings(self, op: str, args: list[Typed], i: int, node: Node) -> NoReturn:
        """The error for ``nJets & 2 == 2``: operands `i` and the next are a boolean and an integer."""
        a, b = args[i : i + 2]
        word = {"&": "&&", "|": "||"}[op]
        left, right = self.source(a.tree), self.source(b.tree)
        alone = [x for x in (a, b) if x.op == "literal" and x.kind == "int"]
        proposed = hints.as_list(self, args, i + 1) if alone and op == "|" and a.kind == "bool" else ""
        readings = [f"{bits} for bits"] if (bits := hints.bits_reading(self, op, a, b)) else []
        if proposed:
            readings.append(proposed)
        elif not alone:
            logical = f"{left} != 0 {word} {right}" if a.kind == "int" else f"{left} {word} {right} != 0"
            readings.append(f"{logical} for logic")
        elif not readings:
            raise self.error(alone[0].tree, hints.alone(self, alone[0]))
        raise self.error(
            node,
            f"{op!r} has two readings here: {self.what(a)}, and {self.what(b)}; write {', or '.join(readings)}",
        )

    def bits(self, op: str, args: list[Typed], tree: Node) -> Typed:
        """``& | ^`` of integers."""
        for a in args:
            self.number(a)
        fixed = [a.dtype for a in args if a.op != "literal"]
        dtype = np.result_type(*fixed) if fixed else INT64
        for a in args:
            if a.op == "literal" and dtype.kind in "iu" and not fits(a.range, dtype):
                dtype = np.result_type(dtype, a.dtype)
        if dtype.kind == "f":  # int64 and uint64 meet
            if op != "&" and any(a.range[0] < 0 for a in args):
                raise self.error(
                    tree, f"{op!r} of a signed and an unsigned 64-bit integer; no 64-bit type holds the result"
                )
            dtype = UINT64
        positive = [a.range for a in args if a.range[0] >= 0]
        values = (0, min(r[1] for r in positive)) if op == "&" and positive else range_of(dtype)
        depth, missing = max(a.depth for a in args), any(a.missing for a in args)
        return Typed(f"bits {op}", tuple(args), "int", dtype, depth, missing, tree, values)


def field_names(typed: Typed) -> set[str]:
    """The fields that an expression reads."""
    return {str(node.value) for node in nodes_of(typed) if node.op == "field"}


def _once_negated(literal: Node) -> Node:
    """A literal of a list, in which ``-x`` of a negative constant has no text."""
    if isinstance(literal, Unary) and isinstance(literal.operand, Unary):
        return literal.operand.operand
    return literal
