"""`Scope`: the text of an expression and the names that mean something in it; how messages speak of both."""

from __future__ import annotations

from collections.abc import Mapping

from mmdask.errors import ExpressionError
from mmdask.expr.tree import Name, Node, canonical, error_at, spelled_name
from mmdask.expr.typed import Typed
from mmdask.schema import Schema

__all__ = ["Scope"]


class Scope:
    """What is known of an expression before its nodes are looked at."""

    def __init__(self, text: str, schema: Schema, constants: Mapping[str, object]) -> None:
        self.text = text
        self.schema = schema
        self.constants = constants

    def is_constant(self, node: Name) -> bool:
        """Whether a name is that of a constant; in backticks only if it cannot stand without."""
        return node.name in self.constants and (not node.quoted or spelled_name(node.name).startswith("`"))

    def knows(self, node: Name) -> bool:
        """Whether there is a field or a constant of this name."""
        return node.name in self.schema or self.is_constant(node)

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
