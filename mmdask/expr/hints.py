"""What the errors of an expression propose, where one can see what was meant."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import pairwise, takewhile

from mmdask.errors import did_you_mean
from mmdask.expr.elsewhere import LIBRARIES, NONE, call_here, method_here
from mmdask.expr.functions import ALIASES, FUNCTIONS
from mmdask.expr.scope import Scope
from mmdask.expr.tree import (
    BOOLEANS,
    SYMBOLS,
    Compare,
    In,
    Integer,
    Name,
    Node,
    Real,
    Text,
    Unary,
    spelled_name,
)
from mmdask.expr.typed import Typed
from mmdask.short import short_name

__all__ = [
    "alone",
    "as_list",
    "bits_reading",
    "check_alone",
    "check_brackets",
    "check_names",
    "check_nan",
    "listed",
    "unknown_function",
    "unknown_name",
]

#: what an expression takes for a name, and the names within one that has other signs
_WORD = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_WORDS = re.compile(r"[A-Za-z_][\w.]*")
_DELTA_PHI = "write delta_phi(phi1, phi2), the difference in [-pi, pi]"
_DELTA_R = "write delta_r(eta1, phi1, eta2, phi2), with the arguments in this order"
# as people call these functions elsewhere, without case and underscores
_ANGLES = {"deltaphi": _DELTA_PHI, "dphi": _DELTA_PHI, "phimpipi": _DELTA_PHI, "deltar": _DELTA_R, "dr": _DELTA_R}


def listed(names: list[str]) -> str:
    """Names for a message, ten at most."""
    shown = [repr(name) for name in names]
    return ", ".join(shown[:10]) + (f", ... ({len(shown)} in all)" if len(shown) > 10 else "")


# ------------------------------------------------------------------------------------------------------ names


def unknown_name(scope: Scope, name: str) -> str:
    """What to say of a name that is neither a field nor a constant."""
    if name in NONE:
        return f"there is no {name}; whether a value is missing is ismissing(x)"
    if whole := _cut_apart(scope, name):
        short = short_name(whole)
        other = f", or {short}" if len(scope.schema.short.get(short, ())) == 1 else ""
        return f"no field {name!r}; names with other signs stand in backticks: `{whole}`{other}"
    if scope.schema.absent is not None and (why := scope.schema.absent(name)):
        return f"no field {name!r}: {why}"
    head, _, last = name.rpartition(".")
    if head in LIBRARIES and last in (*SYMBOLS, *BOOLEANS):
        return f"no field {name!r}; write {last}"
    known = [*scope.schema, *scope.constants]
    joined = name.replace(".", "_")
    rest = name.partition(".")[2]
    while head and joined not in known and rest:
        if rest in known:
            return f"no field {name!r}; write {rest}"
        rest = rest.partition(".")[2]
    if not scope.constants:
        return scope.schema.unknown(name)
    if near := did_you_mean(name, known):
        return f"no field or constant {name!r}{near}"
    return f"{scope.schema.unknown(name)}; the constants are: {listed(list(scope.constants))}"


def _cut_apart(scope: Scope, name: str) -> str:
    """The longest field that is written out in an expression, which reads it as something else; else an empty text."""
    odd = [n for n in scope.schema if _WORD.fullmatch(n) is None and name in _WORDS.findall(n)]
    found = [n for n in odd if any(scope.text[: m.start()][-1:] != "`" for m in _written(n, scope.text))]
    return max(found, key=len, default="")


def _written(name: str, text: str) -> Iterator[re.Match[str]]:
    """Where a name stands in a text, and not as a piece of a longer one."""
    return re.finditer(rf"(?<![\w.]){re.escape(name)}(?![\w.])", text)


def check_names(scope: Scope, node: Compare | In) -> None:
    """Raise for text without quotes, as in ``process == ttbb``, and for ``met == None``."""
    if isinstance(node, In):
        pairs: list[tuple[str, Node, Node]] = [("==", node.operand, i) for i in node.items]
    else:
        pairs = [(op, *two) for op, two in zip(node.ops, pairwise(node.operands), strict=True)]
    for op, a, b in pairs:
        for x, y in ((a, b), (b, a)):
            if isinstance(y, Name) and not y.quoted and not scope.knows(y):
                if message := _unquoted(scope, op, x, y):
                    raise scope.error(y, message)
                return  # the name is an error where it is looked up


def _unquoted(scope: Scope, op: str, x: Node, name: Name) -> str:
    if name.name in NONE and op in ("==", "!="):
        return f"there is no {name.name}; write {'not ' * (op == '!=')}ismissing({scope.source(x)})"
    field = scope.schema.get(x.name) if isinstance(x, Name) and scope.knows(x) else None
    if field is None or field.kind not in ("category", "string"):
        return ""
    near = did_you_mean(name.name, [*scope.schema, *scope.constants])
    if name.name not in field.labels and (near or (field.labels and not did_you_mean(name.name, field.labels))):
        return ""
    return f"no field {name.name!r}; text stands in quotes: '{name.name}'"


def check_nan(scope: Scope, op: str, a: Typed, b: Typed) -> None:
    """Raise for ``x == nan``, which is false also for nan."""
    for x, other in ((b, a), (a, b)):
        if op in ("==", "!=", "in") and x.op == "literal" and x.kind == "float" and math.isnan(x.value):
            asked = f"{'not ' * (op == '!=')}isnan({scope.source(other.tree)})"
            more = "leave it out of the list, and add 'or " if op == "in" else "write '"
            raise scope.error(x.tree, f"nothing is equal to nan, nan itself neither; {more}{asked}'")


# ------------------------------------------------------------------------------------------------------ logic


def alone(scope: Scope, x: Typed, proposed: str = "") -> str:
    """What to say of a number that is written out where a boolean stands."""
    always = f"{scope.source(x.tree)} alone is always {'true' if x.value else 'false'}"
    return f"{always}; " + (f"write {proposed}" if proposed else "compare it, or leave it out")


def check_alone(scope: Scope, args: list[Typed]) -> None:
    """Raise for a literal that is joined with a comparison: ``nJets == 4 or 5``."""
    for i, x in enumerate(args):
        if x.op == "literal" and x.kind != "bool":
            proposed = as_list(scope, args, i)
            if x.kind != "text":
                raise scope.error(x.tree, alone(scope, x, proposed))
            if proposed:
                raise scope.error(x.tree, f"{scope.source(x.tree)} is text, and no condition; write {proposed}")


def as_list(scope: Scope, args: list[Typed], i: int) -> str:
    """``nJets in (4, 5)``, if that is what ``nJets == 4 or 5`` means, of which the last is operand `i`."""
    tree = args[i - 1].tree
    if not i or not (isinstance(tree, Compare) and tree.ops in (("==",), ("!=",))):
        return ""
    left, first = tree.operands
    text = args[i].kind == "text"
    if isinstance(left, Integer | Real | Text) or not isinstance(first, (Text,) if text else (Integer, Real, Unary)):
        return ""
    rest = takewhile(lambda x: x.op == "literal" and x.kind != "bool" and (x.kind == "text") == text, args[i:])
    items = ", ".join(scope.source(x) for x in (first, *[x.tree for x in rest]))
    written = f"{scope.source(left)} {'in' if tree.ops == ('==',) else 'not in'} ({items})"
    return written if len(written) <= 120 else ""


def bits_reading(scope: Scope, op: str, a: Typed, b: Typed) -> str:
    """How ``a op b`` of a boolean and an integer is written where bits are meant, or an empty string."""
    left, right = scope.source(a.tree), scope.source(b.tree)
    logical, whole, place = (a, right, -1) if a.kind == "bool" else (b, left, 0)
    tree = logical.tree
    if not isinstance(tree, Compare) or not tree.operands[place].end:
        return f"({left} {op} ...)" if a.kind != "bool" and b.op != "literal" else ""
    operand = tree.operands[place]
    if not _is_whole(logical, operand, place):
        return ""
    if place:
        return f"{scope.text[tree.start : operand.start].lstrip('( ')}({scope.source(operand)} {op} {whole})"
    return f"({whole} {op} {scope.source(operand)}){scope.text[operand.end : tree.end].rstrip(') ')}"


def _is_whole(compared: Typed, operand: Node, place: int) -> bool:
    """Whether the first or last operand of a comparison may be an integer."""
    if isinstance(operand, Integer | Real | Text):
        return isinstance(operand, Integer)
    while compared.op in ("and", "not"):
        compared = compared.args[place]
    return not compared.args or compared.args[min(0, place + len(compared.args) - 1)].kind == "int"


# -------------------------------------------------------------------------------------------------- functions


def unknown_function(scope: Scope, name: str, args: tuple[Node, ...]) -> str:
    """What to say of a function that is not in the table."""
    shown = name if len(name) <= 60 else name[:57] + "..."
    if name in scope.schema:
        return f"{shown!r} is a field, not a function"
    sources = [scope.source(a) for a in args]
    head, _, last = name.rpartition(".")
    if head and "::" not in name:
        library = head not in scope.schema and head.partition(".")[0] in LIBRARIES
        written = call_here(name, sources) if library else method_here(head, last, ", ".join(sources))
        if written:
            return f"there are no {'libraries' if library else 'methods'}; write {written}"
    plain = name.rpartition("::")[2].rpartition(".")[2]
    if (angle := _ANGLES.get(plain.lower().replace("_", ""))) is not None:
        return f"no function {shown!r}; {angle}"
    if "::" in name and plain.lower() in FUNCTIONS:
        return f"no function {shown!r}; write {FUNCTIONS[plain.lower()].signature}"
    if "::" not in name and plain not in FUNCTIONS and (written := call_here(plain, sources)):
        return f"no function {shown!r}; write {written}"
    near = did_you_mean(shown, [*FUNCTIONS, *ALIASES])
    if plain in ("int", "long"):
        near = "; write floor(x), and // for a division that rounds down"
    if plain in ("float", "double"):
        near = "; a division and any arithmetic with a real are in double, as in 1.0 * x"
    return f"no function {shown!r}" + (near or f"; the functions are {', '.join(FUNCTIONS)}")


def check_brackets(scope: Scope, operand: Node, index: int | Node) -> None:
    """Raise for ``ds['nJets']``."""
    if not (isinstance(operand, Name) and isinstance(index, Text)) or scope.knows(operand):
        return
    if index.value in scope.schema:
        whole = Name(operand.name, start=operand.start, end=index.end + 1)
        raise scope.error(whole, f"a field stands here by its name alone; write {spelled_name(index.value)}")
