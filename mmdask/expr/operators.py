"""What operators make of operands that have types, or why they do not go together."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any, NoReturn

import numpy as np

from mmdask.errors import did_you_mean
from mmdask.expr import hints
from mmdask.expr.arithmetic import EXACT, UFUNCS
from mmdask.expr.scope import Scope
from mmdask.expr.tree import Bitwise, Compare, Integer, Logic, Node
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
    power_range,
    range_of,
    whole_dtype,
)

__all__ = ["OperatorChecker"]

_COMPARED: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


class OperatorChecker(Scope):
    """Types what operators give; their operands are typed before."""

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

    # ------------------------------------------------------------------------------------------- arithmetic

    def signed(self, op: str, x: Typed, tree: Node) -> Typed:
        """``-x`` and ``+x``."""
        if x.dtype != TOO_LARGE or x.kind == "text":
            self.number(x)
        if x.op == "literal":
            return literal(-x.value if op == "-" else +x.value, tree)
        if op == "+":
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

    def arithmetic(self, op: str, a: Typed, b: Typed, tree: Node) -> Typed:
        """``+ - * / // % **`` of numbers."""
        power = op == "**" and not (b.op == "literal" and b.kind == "int" and b.value >= 0)
        folded = a.op == b.op == "literal"
        if op == "/" or power or "float" in (a.kind, b.kind):
            if folded:
                with np.errstate(all="ignore"):
                    return literal(float(UFUNCS[op](np.float64(a.value), np.float64(b.value))), tree)
            missing = a.missing or b.missing
            return Typed(op, (a, b), "float", FLOAT64, max(a.depth, b.depth), missing, tree)
        if op == "**":
            raw = power_range(a.range, int(b.value))
        else:
            raw = arithmetic_range(op, a.range, b.range)
        by_zero = op in ("//", "%") and b.range[0] <= 0 <= b.range[1]
        if folded and not by_zero:
            if whole_dtype(raw) == TOO_LARGE:
                raise self.error(tree, "this integer does not fit 64 bits; compute with reals, as in 10.0**30")
            return literal(EXACT[op](int(a.value), int(b.value)), tree)
        wide = a.dtype == UINT64 or (b.dtype == UINT64 and op != "**")
        typed = self.integer(op, (a, b), raw, UINT64 if wide else INT64, tree)
        return replace(typed, missing=True) if by_zero else typed

    # ------------------------------------------------------------------------------------------ comparisons

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

    # ------------------------------------------------------------------------------------------------ logic

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
