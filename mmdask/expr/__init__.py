"""The cut language: text to tree (`parse`), tree to types (`check`), types to values (`evaluate`)."""

from __future__ import annotations

from mmdask.expr.evaluator import (
    Result,
    evaluate,
    evaluate_bits,
    evaluate_cut,
    evaluate_many,
    evaluate_three_valued,
)
from mmdask.expr.expression import SEMANTICS, Expression, check, check_cut, combine, conjuncts, negate, operands
from mmdask.expr.parser import parse
from mmdask.expr.tree import Node, canonical, spelled_name

__all__ = [
    "SEMANTICS",
    "Expression",
    "Node",
    "Result",
    "canonical",
    "check",
    "check_cut",
    "combine",
    "conjuncts",
    "evaluate",
    "evaluate_bits",
    "evaluate_cut",
    "evaluate_many",
    "evaluate_three_valued",
    "negate",
    "operands",
    "parse",
    "spelled_name",
]
