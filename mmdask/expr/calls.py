"""The types of function calls and of ``x[i]``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from mmdask.expr import hints
from mmdask.expr.functions import FUNCTIONS, Function
from mmdask.expr.operators import OperatorChecker
from mmdask.expr.parser import INDEX, MAX_INDEX
from mmdask.expr.scope import Scope
from mmdask.expr.tokens import thousands
from mmdask.expr.tree import Call, Index, Integer, Name, Node, Unary, error_at
from mmdask.expr.typed import (
    BOOL,
    FLOAT32,
    FLOAT64,
    INT64,
    MOST_ITEMS,
    TOO_LARGE,
    UINT64,
    Range,
    Typed,
    literal,
    range_of,
    whole_dtype,
)

__all__ = ["brackets", "call", "function_of"]

#: no sum of 32-bit integers gets beyond, of as many items as there can be
_FAR_SUM = 2**62


def function_of(scope: Scope, node: Call) -> Function:
    """The function of a call, which has as many arguments."""
    function = FUNCTIONS.get(node.function)
    if function is None:
        raise scope.error(node, hints.unknown_function(scope, node.function, node.args))
    if len(node.args) != function.n_args:
        for a, b in pairwise(node.args):
            if (found := thousands(scope.text, a.end, b.start)) is not None:
                raise error_at(scope.text, *found)
        raise scope.error(node, _arity(function, len(node.args)))
    return function


def call(checker: OperatorChecker, function: Function, args: tuple[Typed, ...], node: Call) -> Typed:
    """The typed tree of a function call, of arguments that have types."""
    return _GROUPS[function.group](checker, function.name, args, node)


def _arity(function: Function, n_args: int) -> str:
    name = function.name
    if name in ("min", "max") and n_args == 2:
        return f"{name}(x) is over the items of a row; of two values it is {name}imum(a, b)"
    n = function.n_args
    return f"{function.signature} takes {n} argument{'s' * (n != 1)}, got {n_args}"


def _tree(node: Call, args: tuple[Typed, ...]) -> Call:
    return replace(node, args=tuple(a.tree for a in args))


def _items(checker: OperatorChecker, x: Typed, what: str) -> Typed:
    """The same value, if it has items to go through."""
    if not x.depth:
        raise checker.error(x.tree, f"{what} needs one value per item, and {checker.source(x.tree)} has one per row")
    return x


def _unsure(x: Typed) -> bool:
    """Whether one of the innermost lists may be missing, or an item in it."""
    return x.missing or _lists_unsure(x)


def _lists_unsure(x: Typed) -> bool:
    return x.depth - 1 in x.lists_missing


def _truth(checker: OperatorChecker, name: str, args: tuple[Typed, ...], node: Call) -> Typed:
    x = args[0]
    if x.kind in ("label", "text"):
        checker.number(x)
    _items(checker, x, f"{name}(...)")
    if name == "count" and x.kind != "bool":
        source = checker.source(x.tree)
        raise checker.error(
            node, f"count(...) counts true items, and {checker.what(x)}; write count({source} != 0), or len({source})"
        )
    x = checker.truth(x)
    tree, missing, depth = _tree(node, (x,)), _unsure(x), x.depth - 1
    if name == "count":
        return Typed("count", (x,), "int", INT64, depth, missing, tree, (0, MOST_ITEMS))
    if name == "none":
        found = Typed("any", (x,), "bool", BOOL, depth, missing, tree, (0, 1))
        return Typed("not", (found,), "bool", BOOL, depth, missing, tree, (0, 1))
    return Typed(name, (x,), "bool", BOOL, depth, missing, tree, (0, 1))


def _reduce(checker: OperatorChecker, name: str, args: tuple[Typed, ...], node: Call) -> Typed:
    x = args[0]
    if x.kind in ("label", "text") and (name != "len" or not x.depth):
        checker.number(x)
    _items(checker, x, f"{name}(...)")
    tree, depth = _tree(node, args), x.depth - 1
    length = Typed("len", (x,), "int", INT64, depth, _lists_unsure(x), tree, (0, MOST_ITEMS))
    if name == "len":
        return length
    if name == "sum":
        return _sum(x, tree)
    if name == "mean":
        return Typed("mean", (_sum(x, tree, mean=True), length), "float", FLOAT64, depth, True, tree)
    if name in ("argmin", "argmax"):
        return Typed(name, (x,), "int", INT64, depth, True, tree, (0, MOST_ITEMS))
    return Typed(name, (x,), x.kind, x.dtype, depth, True, tree, x.range)


def _sum(x: Typed, tree: Node, *, mean: bool = False) -> Typed:
    missing, depth = _unsure(x), x.depth - 1
    if x.kind == "float":
        return Typed("sum", (x,), "float", FLOAT64, depth, missing, tree)
    dtype = UINT64 if x.dtype == UINT64 else INT64
    narrow = x.dtype.itemsize < 8
    if mean and not narrow:
        return Typed("sum", (x,), "float", FLOAT64, depth, missing, tree, value="rounded")
    values = range_of(dtype)
    if narrow:
        values = (-_FAR_SUM if x.range[0] < 0 else 0, _FAR_SUM)
    return Typed("sum", (x,), "int", dtype, depth, missing, tree, values, "plain" if narrow else "checked")


def _pick(checker: OperatorChecker, name: str, args: tuple[Typed, ...], node: Call) -> Typed:
    x = args[0]
    if name == "get":
        return _get(checker, x, args[1], args[2], node)
    index = 0 if name == "first" else -1
    if x.depth < 2:
        return _item(checker, x, index, Index(node.args[0], 0, start=node.start, end=node.end))
    return Typed("inner item", (x,), x.kind, x.dtype, x.depth - 1, True, _tree(node, args), x.range, index)


def _get(checker: OperatorChecker, x: Typed, i: Typed, default: Typed, node: Call) -> Typed:
    if x.kind in ("label", "text"):
        checker.number(x)
    _items(checker, x, "get(x, i, default)")
    if x.depth > 1:
        source = checker.source(x.tree)
        raise checker.error(
            x.tree,
            f"get(x, i, default) takes from one list in each row, and {source} has lists in lists; write "
            f"get({source}[0], i, default), say",
        )
    for what, y in (("index", i), ("default", default)):
        if y.depth:
            raise checker.error(y.tree, f"the {what} of get(x, i, default) is one value per row")
    if i.kind != "int":
        raise checker.error(i.tree, f"the index of get(x, i, default) is an integer, and {checker.what(i)}")
    checker.number(default)
    kind, dtype, values = _common(checker, x, default, node)
    missing = _unsure(x) or default.missing or i.missing
    if i.op != "literal":
        tree = _tree(node, (x, i, default))
        return Typed("get", (x, i, default), kind, dtype, 0, missing, tree, values)
    _check_index(checker, i)
    # The index as it was typed, and not as an expression that gave it: equal cuts have equal trees.
    index: Node = Integer(abs(i.value), start=i.tree.start, end=i.tree.end)
    index = Unary("-", index, start=i.tree.start, end=i.tree.end) if i.value < 0 else index
    tree = replace(node, args=(x.tree, index, default.tree))
    return Typed("get", (x, default), kind, dtype, 0, missing, tree, values, int(i.value))


def _check_index(checker: OperatorChecker, i: Typed) -> None:
    if abs(i.value) >= MAX_INDEX:
        raise checker.error(i.tree, "an index is below 2**31")


def brackets(checker: OperatorChecker, node: Index, visit: Callable[[Node], Typed]) -> Typed:
    """The typed tree of ``x[i]``: an item, or the items that a condition chooses; `visit` gives those of x and i."""
    hints.check_brackets(checker, node.operand, node.index)
    x = visit(node.operand)
    if isinstance(node.index, int):
        return _item(checker, x, node.index, node)
    _listed(checker, x, node)
    i = visit(node.index)
    if i.op == "literal" and i.kind == "int":
        _check_index(checker, i)
        return _item(checker, x, int(i.value), node)
    if i.op == "literal" or i.kind not in ("bool", "int"):
        raise checker.error(i.tree, f"{INDEX}; {checker.what(i)}")
    if i.kind == "bool":
        return _choose(checker, x, i, node)
    if i.depth >= x.depth:
        source = checker.source(i.tree)
        raise checker.error(
            i.tree,
            f"{source} has a number for each item, and an index is one for each list; as a condition, which chooses "
            f"items, write {checker.source(x.tree)}[{source} != 0]",
        )
    return _at(x, i.depth, i, Typed("item at", (x, i), x.kind, x.dtype, x.depth - 1, True, _index_tree(node, x, i)))


def _listed(checker: OperatorChecker, x: Typed, node: Index) -> None:
    if not x.depth:
        raise checker.error(node, f"{checker.source(x.tree)} has one value per row; there are no items to choose from")


def _index_tree(node: Index, x: Typed, i: Typed) -> Index:
    return replace(node, operand=x.tree, index=i.tree)


def _item(checker: OperatorChecker, x: Typed, index: int, node: Index) -> Typed:
    """The typed tree of ``x[index]``, of the outermost list."""
    _listed(checker, x, node)
    tree = replace(node, operand=x.tree, index=index)
    return _at(x, 0, x, Typed("item", (x,), x.kind, x.dtype, x.depth - 1, True, tree, value=index))


def _at(x: Typed, level: int, index: Typed, typed: Typed) -> Typed:
    """What is taken out of the lists of a level of `x`: there may be none; what it is a list of stays as it is."""
    typed = replace(typed, range=x.range)
    if level == typed.depth:
        return typed
    outer = {k for k in x.lists_missing | index.lists_missing if k < level}
    inner = {k - 1 for k in x.lists_missing if k > level + 1}
    return replace(typed, missing=x.missing, lost=tuple(sorted({level} | outer | inner)))


def _choose(checker: OperatorChecker, x: Typed, condition: Typed, node: Index) -> Typed:
    source = checker.source(condition.tree)
    if not condition.depth:
        raise checker.error(
            condition.tree,
            f"a condition in brackets chooses items, and {source} has one value per row; write where(...)",
        )
    if condition.depth > x.depth:
        raise checker.error(
            condition.tree,
            f"{source} has values for the items of deeper lists than {checker.source(x.tree)}; write "
            f"any({source}), say",
        )
    lost = x.lists_missing | condition.lists_missing | ({condition.depth - 1} if condition.missing else set())
    tree = _index_tree(node, x, condition)
    args = (x, condition)
    return Typed("choose", args, x.kind, x.dtype, x.depth, x.missing, tree, x.range, lost=tuple(sorted(lost)))


def _where(checker: OperatorChecker, name: str, args: tuple[Typed, ...], node: Call) -> Typed:
    condition, a, b = args
    if condition.kind != "bool":
        checker.number(condition)
        source = checker.source(condition.tree)
        raise checker.error(
            condition.tree, f"where(...) needs a condition, and {checker.what(condition)}; write {source} != 0"
        )
    kind, dtype, values = _common(checker, checker.number(a), checker.number(b), node)
    depth, missing = max(x.depth for x in args), any(x.missing for x in args)
    return Typed("where", args, kind, dtype, depth, missing, _tree(node, args), values)


def _common(checker: OperatorChecker, a: Typed, b: Typed, node: Node) -> tuple[Any, np.dtype[Any], Range]:
    """Kind, dtype and range of a value that is one of two."""
    values = min(a.range[0], b.range[0]), max(a.range[1], b.range[1])
    if "float" in (a.kind, b.kind):
        narrow = a.kind == b.kind and a.dtype.itemsize <= 4 and b.dtype.itemsize <= 4
        return "float", FLOAT32 if narrow else FLOAT64, (0, 0)
    kind = "bool" if a.kind == b.kind == "bool" else "int"
    if a.dtype == b.dtype:
        return kind, a.dtype, values
    dtype = whole_dtype(values)
    if dtype == TOO_LARGE:
        raise checker.error(node, "no 64-bit type holds both of these integers; one is signed, one unsigned")
    return kind, dtype, values


def _xor(checker: OperatorChecker, name: str, args: tuple[Typed, ...], node: Call) -> Typed:
    a, b = checker.number(args[0]), checker.number(args[1])
    tree = _tree(node, args)
    if a.kind == b.kind == "bool":
        return Typed("xor", args, "bool", BOOL, max(a.depth, b.depth), a.missing or b.missing, tree, (0, 1))
    if not a.kind == b.kind == "int":
        raise checker.error(node, f"xor takes two booleans or two integers; {checker.what(a)}, and {checker.what(b)}")
    return checker.bits("^", [a, b], tree)


def _missing(checker: OperatorChecker, name: str, args: tuple[Typed, ...], node: Call) -> Typed:
    x = args[0]
    if x.op == "literal":
        raise checker.error(x.tree, f"{name}(...) asks about a field, or what is computed from one")
    return Typed(name, (x,), "bool", BOOL, x.depth, False, _tree(node, args), (0, 1))


def _test(checker: OperatorChecker, name: str, args: tuple[Typed, ...], node: Call) -> Typed:
    x = checker.number(args[0])
    return Typed(name, (x,), "bool", BOOL, x.depth, x.missing, _tree(node, args), (0, 1))


def _double(checker: OperatorChecker, name: str, args: tuple[Typed, ...], node: Call) -> Typed:
    for a in args:
        checker.number(a)
    if name == "delta_r":
        _check_delta_r(checker, args, node)
    depth, missing = max(a.depth for a in args), any(a.missing for a in args)
    return Typed(name, args, "float", FLOAT64, depth, missing, _tree(node, args))


def _check_delta_r(checker: OperatorChecker, args: tuple[Typed, ...], node: Call) -> None:
    # ROOT::VecOps::DeltaR(eta1, eta2, phi1, phi2) has another order; a wrong one gives plausible numbers.
    for place, x in enumerate(args):
        field = x.tree
        while isinstance(field, Index):
            field = field.operand
        name = field.name.lower() if isinstance(field, Name) else ""
        wrong, right = (("phi", "eta"), ("eta", "phi"))[place % 2]
        if wrong in name and right not in name:
            raise checker.error(
                x.tree, f"delta_r(eta1, phi1, eta2, phi2) has another order: argument {place + 1} is {right}"
            )


def _keep(checker: OperatorChecker, name: str, args: tuple[Typed, ...], node: Call) -> Typed:
    x = checker.number(args[0])
    tree = _tree(node, args)
    if x.kind == "float":
        return Typed(name, (x,), "float", x.dtype, x.depth, x.missing, tree)
    if x.op == "literal":
        return literal(abs(int(x.value)) if name == "abs" else int(x.value), tree)
    if name != "abs" or x.range[0] >= 0:
        return checker.whole(x, tree)
    low, high = x.range
    return checker.integer("abs", (x,), (0 if high >= 0 else -high, max(-low, high)), INT64, tree)


def _pair(checker: OperatorChecker, name: str, args: tuple[Typed, ...], node: Call) -> Typed:
    a, b = (checker.whole(checker.number(x), x.tree) for x in args)
    smaller: Callable[[int, int], int] = min if name == "minimum" else max
    values = smaller(a.range[0], b.range[0]), smaller(a.range[1], b.range[1])
    if "float" in (a.kind, b.kind):
        kind, dtype, values = _common(checker, a, b, node)
    else:
        kind, dtype = "int", a.dtype if a.dtype == b.dtype else whole_dtype(values)
    return Typed(name, (a, b), kind, dtype, max(a.depth, b.depth), a.missing or b.missing, _tree(node, args), values)


_GROUPS: dict[str, Callable[[OperatorChecker, str, tuple[Typed, ...], Call], Typed]] = {
    "truth": _truth,
    "reduce": _reduce,
    "pick": _pick,
    "where": _where,
    "xor": _xor,
    "test": _test,
    "missing": _missing,
    "double": _double,
    "keep": _keep,
    "pair": _pair,
}
