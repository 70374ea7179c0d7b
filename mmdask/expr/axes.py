"""Which items belong together: those that different conditions choose do not, even where their numbers are equal."""

from __future__ import annotations

from collections.abc import Callable

from mmdask.errors import ExpressionError
from mmdask.expr.tree import Node, canonical
from mmdask.expr.typed import Typed

__all__ = ["check_axes"]

#: for each level, the conditions that chose its items, one after the other
Axes = tuple[tuple[str, ...], ...]

_INNERMOST = ("any", "all", "count", "len", "sum", "min", "max", "argmin", "argmax", "inner item")


def check_axes(typed: Typed, error: Callable[[Node, str], ExpressionError], source: Callable[[Node], str]) -> None:
    """Raise where items meet that were chosen by different conditions, or are counted among others.

    Parameters
    ----------
    typed : Typed
        The expression.
    error, source : callable
        `Checker.error` and `Checker.source`.
    """
    found: dict[int, Axes] = {}

    def meet(node: Typed, a: Typed, b: Typed) -> None:
        for x, y in zip(found[id(a)], found[id(b)], strict=False):
            if x == y:
                continue
            if not x:
                a, b = b, a
            how = f" and {source(b.tree)} are chosen by different conditions"
            if not (x and y):
                how = f" are chosen by a condition, and those of {source(b.tree)} are not"
            raise error(
                node.tree,
                f"the items of {source(a.tree)}{how}, so they do not belong together; choose both alike, or combine "
                "them before they are chosen",
            )

    def check_place(x: Typed, index: Typed) -> None:
        """What argmin and argmax find is a place in one list, and not in what a condition left of it."""
        if index.op not in ("argmin", "argmax"):
            return
        searched, level = index.args[0], index.depth
        if found[id(searched)][: level + 1] != found[id(x)][: level + 1]:
            raise error(
                index.tree,
                f"{source(index.tree)} is a place among the items of {source(searched.tree)}, and those of "
                f"{source(x.tree)} are not chosen alike; choose both by the same condition",
            )

    def visit(node: Typed) -> Axes:
        if id(node) not in found:
            for a in node.args:
                visit(a)
            found[id(node)] = axes(node)
        return found[id(node)]

    def axes(node: Typed) -> Axes:
        if not node.args:
            return ((),) * node.depth
        deepest = max(node.args, key=lambda a: a.depth)
        own = found[id(deepest)]
        for other in node.args:
            meet(node, deepest, other)
        match node.op:
            case "choose":
                level = node.args[1].depth - 1
                return (*own[:level], (*own[level], canonical(node.args[1].tree)), *own[level + 1 :])
            case "item" | "get":
                if len(node.args) == 3:
                    check_place(node.args[0], node.args[1])
                return own[1:]
            case "item at":
                check_place(*node.args)
                level = node.args[1].depth
                return own[:level] + own[level + 1 :]
            case op if op in _INNERMOST:
                return own[:-1]
        return own

    visit(typed)
