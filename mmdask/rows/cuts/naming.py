"""Expressions with other names of fields."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mmdask.expr import Node, canonical, parse
from mmdask.expr.tree import Name

__all__ = ["renamed_text", "renamed_tree"]


def renamed_text(text: str, names: Mapping[str, str]) -> str:
    """An expression that names fields by their new names; as it was typed if it names none of them."""
    tree = parse(text, longest=len(text))
    new = renamed_tree(tree, names)
    return text if new == tree else canonical(new)


def renamed_tree(node: Node, names: Mapping[str, str]) -> Node:
    """A tree in which names are others."""

    def walk(value: Any) -> Any:
        if isinstance(value, Name):
            return Name(names.get(value.name, value.name))
        if isinstance(value, Node):
            parts = {f.name: walk(getattr(value, f.name)) for f in dataclasses.fields(value)}
            return type(value)(**parts)
        return tuple(map(walk, value)) if isinstance(value, tuple) else value

    found: Node = walk(node)
    return found
