"""The functions of the cut language, and the other spellings that mean them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["ALIASES", "FUNCTIONS", "Function"]

Group = Literal["truth", "reduce", "pick", "where", "xor", "test", "missing", "double", "keep", "pair"]


@dataclass(frozen=True)
class Function:
    """A function: how many arguments it takes and how its result is typed.

    `group` is "truth" (any all none count), "reduce" (items to one value per row), "pick" (one item per row),
    "test" (a number to a boolean), "missing" (whether there is no value), "double" (computed in double), "keep" (no
    rounding, so the dtype stays), "pair" (the smaller or larger of two), "where" or "xor".
    """

    name: str
    group: Group
    n_args: int
    signature: str


FUNCTIONS: dict[str, Function] = {
    f.name: f
    for f in (
        Function("any", "truth", 1, "any(x)"),
        Function("all", "truth", 1, "all(x)"),
        Function("none", "truth", 1, "none(x)"),
        Function("count", "truth", 1, "count(x)"),
        Function("len", "reduce", 1, "len(x)"),
        Function("sum", "reduce", 1, "sum(x)"),
        Function("mean", "reduce", 1, "mean(x)"),
        Function("min", "reduce", 1, "min(x)"),
        Function("max", "reduce", 1, "max(x)"),
        Function("argmin", "reduce", 1, "argmin(x)"),
        Function("argmax", "reduce", 1, "argmax(x)"),
        Function("first", "pick", 1, "first(x)"),
        Function("last", "pick", 1, "last(x)"),
        Function("get", "pick", 3, "get(x, i, default)"),
        Function("where", "where", 3, "where(condition, a, b)"),
        Function("xor", "xor", 2, "xor(a, b)"),
        Function("isnan", "test", 1, "isnan(x)"),
        Function("isfinite", "test", 1, "isfinite(x)"),
        Function("isinf", "test", 1, "isinf(x)"),
        Function("ismissing", "missing", 1, "ismissing(x)"),
        Function("sqrt", "double", 1, "sqrt(x)"),
        Function("exp", "double", 1, "exp(x)"),
        Function("log", "double", 1, "log(x)"),
        Function("log10", "double", 1, "log10(x)"),
        Function("log2", "double", 1, "log2(x)"),
        Function("sin", "double", 1, "sin(x)"),
        Function("cos", "double", 1, "cos(x)"),
        Function("tan", "double", 1, "tan(x)"),
        Function("asin", "double", 1, "asin(x)"),
        Function("acos", "double", 1, "acos(x)"),
        Function("atan", "double", 1, "atan(x)"),
        Function("sinh", "double", 1, "sinh(x)"),
        Function("cosh", "double", 1, "cosh(x)"),
        Function("tanh", "double", 1, "tanh(x)"),
        Function("atan2", "double", 2, "atan2(y, x)"),
        Function("hypot", "double", 2, "hypot(x, y)"),
        Function("delta_phi", "double", 2, "delta_phi(phi1, phi2)"),
        Function("delta_r", "double", 4, "delta_r(eta1, phi1, eta2, phi2)"),
        Function("abs", "keep", 1, "abs(x)"),
        Function("floor", "keep", 1, "floor(x)"),
        Function("ceil", "keep", 1, "ceil(x)"),
        Function("round", "keep", 1, "round(x)"),
        Function("minimum", "pair", 2, "minimum(a, b)"),
        Function("maximum", "pair", 2, "maximum(a, b)"),
    )
}

_C_NAMES = (
    *(
        "abs",
        "sqrt",
        "exp",
        "log",
        "log10",
        "log2",
        "sin",
        "cos",
        "tan",
        "asin",
        "acos",
        "atan",
        "sinh",
        "cosh",
        "tanh",
    ),
    *("atan2", "hypot", "floor", "ceil", "isnan", "isfinite", "isinf"),
)

#: spellings of ROOT and C++; "**", "pi" and "Alt$" are not functions of the table, the parser writes them out
ALIASES: dict[str, str] = {
    "Sum$": "sum",
    "Min$": "min",
    "Max$": "max",
    "Length$": "len",
    "Alt$": "Alt$",
    "fabs": "abs",
    "std::fabs": "abs",
    "pow": "**",
    "std::pow": "**",
    "std::min": "minimum",
    "std::max": "maximum",
    **{f"std::{name}": name for name in _C_NAMES},
    "TMath::Abs": "abs",
    "TMath::Sqrt": "sqrt",
    "TMath::Exp": "exp",
    "TMath::Log": "log",
    "TMath::Log10": "log10",
    "TMath::Log2": "log2",
    "TMath::Sin": "sin",
    "TMath::Cos": "cos",
    "TMath::Tan": "tan",
    "TMath::ASin": "asin",
    "TMath::ACos": "acos",
    "TMath::ATan": "atan",
    "TMath::SinH": "sinh",
    "TMath::CosH": "cosh",
    "TMath::TanH": "tanh",
    "TMath::ATan2": "atan2",
    "TMath::Hypot": "hypot",
    "TMath::Floor": "floor",
    "TMath::Ceil": "ceil",
    "TMath::Min": "minimum",
    "TMath::Max": "maximum",
    "TMath::IsNaN": "isnan",
    "TMath::Finite": "isfinite",
    "TMath::Power": "**",
    "TMath::Pi": "pi",
}
