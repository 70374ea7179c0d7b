"""What people write in other tools, and how it is written here: the advice in errors, from the text alone."""

from __future__ import annotations

import re

from mmdask.expr.functions import FUNCTIONS

__all__ = [
    "CHARACTERS",
    "LIBRARIES",
    "NONE",
    "ROOT_WORDS",
    "call_here",
    "dotted",
    "infix_word",
    "keyword",
    "method_here",
    "operand_before",
    "slice_here",
]

#: what stands before the dot of a function of a library
LIBRARIES = ("np", "numpy", "ak", "awkward", "math", "da", "jnp", "torch", "cp")
#: names of no value
NONE = ("None", "null", "NULL", "nullptr")

#: of ROOT, and what there is here
ROOT_WORDS = {
    "Entry$": "; rows are taken by number with ds[first:last]",
    "Entries$": "; the number of rows is len(ds)",
    "Iteration$": "; one item is x[i], those for which c holds are x[c], and argmax(x) is the place of the largest",
    "Length$": "; the number of items is len(x)",
    "TMath::Pi": "; write pi",
}

_NO_LAMBDA = (
    "there are no functions of one's own; write the expression itself, with where(c, a, b) for a choice; a function "
    "goes to ds.cut(f, key=...)"
)

# Longer than that and the advice is not to be read.
_LONGEST = 60

_FUNCTIONS = {
    **dict.fromkeys(("num", "size", "length"), "len"),
    **dict.fromkeys(("absolute", "fabs"), "abs"),
    **dict.fromkeys(("isna", "isnull", "is_none"), "ismissing"),
    **dict.fromkeys(("rint", "around"), "round"),
    "arcsin": "asin",
    "arccos": "acos",
    "arctan": "atan",
    "arctan2": "atan2",
    "amin": "min",
    "amax": "max",
    "firsts": "first",
    "count_nonzero": "count",
    "logical_xor": "xor",
    **dict.fromkeys(("ifelse", "iif", "if_else"), "where"),
}
_OPERATORS = {"logical_and": "and", "logical_or": "or", "power": "**", "bitwise_and": "&", "bitwise_or": "|"}

#: characters that stand for something of the language
CHARACTERS = {
    "\u2265": "'>='",
    "\u2a7e": "'>='",
    "\u2264": "'<='",
    "\u2a7d": "'<='",
    "\u2260": "'!='",
    **dict.fromkeys("\u2212\u2010\u2011\u2013\u2014", "'-'"),
    **dict.fromkeys("\u00d7\u22c5\u00b7\u2217", "'*'"),
    **dict.fromkeys("\u00f7\u2044\u2215", "'/'"),
    "\u2227": "'and'",
    "\u2228": "'or'",
    "\u00ac": "'not'",
    "\u2208": "'in'",
    "\u2209": "'not in'",
    "\u221e": "inf",
    "\u03c0": "pi",
    "\u221a": "sqrt(x)",
    "\u00b2": "'** 2'",
    "\u00b3": "'** 3'",
    **dict.fromkeys("\u201c\u201d\u201e\u00ab\u00bb", "'\"'"),
    **dict.fromkeys("\u2018\u2019\u201a\u00b4", '"\'"'),
}

_KEYWORD = re.compile(r"[(,]\s*((axis)|keepdims|mask_identity|dtype|highlevel)\s*\Z", re.ASCII)
_CALLED = re.compile(r"[A-Za-z_][A-Za-z0-9_.:]*\Z", re.ASCII)
_NAME = re.compile(r"(?:`[^`]+`|[A-Za-z0-9_.:$]+)\Z", re.ASCII)
_IS = re.compile(r"is(\s+not)?\s+([A-Za-z]+)", re.ASCII | re.IGNORECASE)
_METHOD = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)\s*\(([^()]*)\)", re.ASCII)


def call_here(name: str, args: list[str]) -> str:
    """How a function of a library or of another language is called here, or an empty string."""
    last = name.rpartition(".")[2]
    # ak.count and np.size are of all items
    function = "len" if last == "count" and "." in name else _FUNCTIONS.get(last, last)
    listed = ", ".join(args)
    if len(listed) >= _LONGEST:
        return FUNCTIONS[function].signature if function in FUNCTIONS else ""
    if last in _OPERATORS and len(args) == 2:
        return f"{args[0]} {_OPERATORS[last]} {args[1]}"
    if last == "logical_not" and args:
        return f"not {args[0]}"
    if last in ("isin", "is_in") and args:
        return f"{args[0]} in (1, 2)"
    return f"{function}({listed})" if function in FUNCTIONS else ""


def method_here(operand: str, method: str, args: str) -> str:
    """How ``operand.method(args)`` is written here, or an empty string."""
    operand = operand if operand and len(operand) <= _LONGEST else "x"
    if method == "at" and args:
        return f"{operand}[{args}]" if len(args) <= _LONGEST else f"{operand}[i]"
    if method == "empty":
        return f"len({operand}) == 0"
    if method in ("notna", "notnull"):
        return f"not ismissing({operand})"
    if method in ("isin", "is_in"):
        return f"{operand} in (1, 2)"
    function = {"front": "first", "back": "last"}.get(method) or _FUNCTIONS.get(method, method)
    return f"{function}({operand})" if function in FUNCTIONS else ""


def operand_before(text: str, place: int) -> str:
    """The name or brackets that end before a place of a text, or an empty string."""
    end = first = len(text[:place].rstrip())
    while first and text[first - 1] in ")]":
        opened = _opening(text, first - 1)
        if opened is None:
            return ""
        first = opened
    found = _NAME.search(text[max(0, first - 300) : first])
    first -= len(found.group()) if found else 0
    return text[first:end]


def _opening(text: str, place: int) -> int | None:
    """Where the bracket is opened in which a place lies."""
    depth = 0
    for i in range(place - 1, -1, -1):
        if text[i] in ")]":
            depth += 1
        elif text[i] in "([":
            if not depth:
                return i
            depth -= 1
    return None


def keyword(text: str, place: int) -> tuple[int, str] | None:
    """Of a '=' at a place: where the keyword before it begins and what to say, if it is one that functions have."""
    cropped = max(0, place - 60)
    found = _KEYWORD.search(text[cropped:place])
    if found is None:
        return None
    start, opened = cropped + found.start(1), _opening(text, place)
    said = f"there are no arguments of this kind: leave out {found.group(1)}="
    if found.group(2):
        said = "there is no axis: functions go through the innermost list; leave it out"
    if opened is not None and (called := _CALLED.search(text[max(0, opened - 60) : opened])) is not None:
        args = text[opened + 1 : cropped + found.start()].strip()
        if args and (written := call_here(called.group(), [args])):
            said += f": {written}"
    return start, said


def slice_here(text: str, place: int) -> str:
    """What to say of the ':' at a place, where it is not a slice; or an empty string."""
    if re.search(r"\blambda\b", text[max(0, place - 200) : place]):
        return _NO_LAMBDA
    rest = re.compile(r":\s*,\s*(-?[0-9]+)\s*\]", re.ASCII).match(text, place)
    before = text[:place].rstrip()
    if rest is not None and before.endswith("["):
        operand = operand_before(before, len(before) - 1)
        return f"a cut goes through all rows by itself; write {operand or 'x'}[{rest.group(1)}]"
    return ""


def infix_word(text: str, word: str, start: int, before: str) -> tuple[int, str] | None:
    """Of a word that cannot stand at `start`, after `before`: where what is wrong ends, and what to say."""
    end = start + len(word)
    if word in ("AND", "OR", "NOT", "IN"):
        return end, f"{word!r} is written {word.lower()!r}"
    if word in ("if", "else"):
        return end, "'a if c else b' is written where(c, a, b)"
    if word in ("xor", "XOR"):
        return end, f"'a {word} b' is written xor(a, b)"
    if "lambda" in (word, before):
        return end, _NO_LAMBDA
    if word.lower() != "is":
        return None
    found = _IS.match(text, start)
    if found is None or found.group(2) not in NONE:
        return end, f"{word!r} is written {'!=' if found and found.group(1) else '=='!r}"
    operand = operand_before(text, start)
    asked = f"ismissing({operand if 0 < len(operand) <= _LONGEST else 'x'})"
    return found.end(), f"write {'not ' if found.group(1) else ''}{asked}"


def dotted(text: str, start: int, end: int) -> str:
    """What to say of the '.' or '->' at a place."""
    found = _METHOD.match(text, end)
    written = found and method_here(operand_before(text, start), found.group(1), found.group(2).strip())
    return "there are no attributes or methods" + (f"; write {written}" if written else "")
