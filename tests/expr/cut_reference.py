"""The cut language once more, slowly: trees of tuples over rows of Python lists.

Written from the language's description, not from its implementation. Numbers are Python's: ints without bounds and
floats that compare with them exactly. A missing value is None, and so is a missing list; what is made of lists of which
one is missing is a missing list. A tree is a tuple:

    ("field", name) ("int", v) ("real", v) ("bool", v) ("text", v)
    ("neg", x) ("bin", op, a, b) ("cmp", operands, ops) ("in", x, items, negated)
    ("not", x) ("and" | "or", args) ("bits", "&" | "|", args) ("item", x, i) ("call", name, args)
    ("at", x, index) ("choose", x, condition)
"""

from __future__ import annotations

import math
import operator
from itertools import pairwise

COMPARE = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
INT64 = (-(2**63), 2**63 - 1)
UINT64 = (0, 2**64 - 1)


class Overflow(Exception):
    """An integer that does not fit its 64 bits."""


class Uneven(Exception):
    """Lists that meet have different numbers of items."""


class NotTogether(Exception):
    """Items meet that were chosen by different conditions."""


class Reference:
    """Evaluates trees over rows.

    fields: name -> (type, depth, rows); type is "b", "i", "u" (unsigned 64 bits), "f" or "t" (text or label).
    """

    def __init__(self, fields):
        self.fields = fields

    # -- types: "b", "i", "u", "f", "t", and the depth

    def depth(self, node):
        match node:
            case ("field", name):
                return self.fields[name][1]
            case ("item" | "at", x, _):
                return self.depth(x) - 1
            case ("choose", x, _):
                return self.depth(x)
            case ("call", name, args) if name in REDUCTIONS or name == "get":
                return self.depth(args[0]) - 1
        return max((self.depth(c) for c in children(node)), default=0)

    def constant(self, node):
        """The value of a tree without fields made of integer literals and arithmetic, else None."""
        match node:
            case ("int", v) | ("bool", v):
                return int(v)
            case ("neg", x):
                v = self.constant(x)
                return None if v is None else -v
            case ("bin", op, a, b):
                x, y = self.constant(a), self.constant(b)
                if x is None or y is None or op == "/" or (op in ("//", "%") and y == 0) or (op == "**" and y < 0):
                    return None
                return INTEGER[op](x, y)
            case ("call", "abs" | "floor" | "ceil" | "round" as name, (x,)):
                v = self.constant(x)
                return abs(v) if name == "abs" and v is not None else v
        return None

    def type(self, node):
        value = self.constant(node)
        if value is not None and node[0] != "bool":
            if not INT64[0] <= value <= UINT64[1]:
                raise Overflow
            return "u" if value > INT64[1] else "i"
        match node:
            case ("field", name):
                return self.fields[name][0]
            case ("real", _):
                return "f"
            case ("bool", _) | ("cmp", *_) | ("in", *_) | ("not", _) | ("and", _) | ("or", _):
                return "b"
            case ("neg", x):
                return "f" if self.type(x) == "f" else "i"
            case ("item" | "at" | "choose", x, _):
                return self.type(x)
            case ("bin", op, a, b):
                ta, tb = self.type(a), self.type(b)
                if op == "/" or "f" in (ta, tb) or (op == "**" and (self.constant(b) is None or self.constant(b) < 0)):
                    return "f"
                return "u" if ta == "u" or (tb == "u" and op != "**") else "i"
            case ("bits", _, args):
                return "u" if "u" in [self.type(a) for a in args] else "i"
            case ("call", name, args):
                return self.call_type(name, [self.type(a) for a in args])
        raise AssertionError(node)

    @staticmethod
    def call_type(name, types):
        if name in ("any", "all", "none", "isnan", "isfinite", "isinf", "ismissing"):
            return "b"
        if name in ("count", "len", "argmin", "argmax"):
            return "i"
        if name == "mean":
            return "f"
        if name in ("sum", "abs", "floor", "ceil", "round"):
            return "i" if types[0] == "b" else types[0]
        if name in ("min", "max", "first", "last"):
            return types[0]
        if name == "xor":
            return "b" if types == ["b", "b"] else "u" if "u" in types else "i"
        chosen = types[1:] if name == "where" else [types[0], types[-1]] if name == "get" else types
        if "f" in chosen:
            return "f"
        if name == "minimum" and chosen != ["u", "u"]:
            return "i"  # the smaller of an unsigned and another integer always fits
        if "u" in chosen:
            return "u"
        return "b" if chosen == ["b", "b"] and name in ("where", "get") else "i"

    # -- which items belong together: for each level, the conditions that chose them

    def together(self, node):
        """For each level of a tree, the conditions that chose its items, one after the other."""
        match node:
            case ("item", x, _):
                return self.together(x)[1:]
            case ("at" | "choose", x, y):
                found, other = self.together(x), self.together(y)
                if found[: len(other)] != other:
                    raise NotTogether
                if node[0] == "at":
                    self.check_place(y, found, len(other))
                    return found[: len(other)] + found[len(other) + 1 :]
                return (*found[: len(other) - 1], (*other[-1], y), *found[len(other) :])
            case ("call", name, args) if name in REDUCTIONS or name == "get":
                found = [self.together(a) for a in args]
                if name == "get":
                    self.check_place(args[1], found[0], 0)
                return found[0][:-1]
        all_of_them = [self.together(c) for c in children(node)]
        longest = max(all_of_them, key=len, default=((),) * self.depth(node))
        if any(longest[: len(one)] != one for one in all_of_them):
            raise NotTogether
        return longest

    def check_place(self, index, found, level):
        """A place that argmin or argmax finds is one in a list that was chosen alike."""
        match index:
            case ("call", "argmin" | "argmax", (x,)):
                if self.together(x)[: level + 1] != found[: level + 1]:
                    raise NotTogether

    # -- values: one per row, or a list of them for depth 1, or a list of lists for depth 2

    def rows(self, node, n):
        return [self.value(node, row) for row in range(n)]

    def value(self, node, row):
        match node:
            case ("field", name):
                return self.fields[name][2][row]
            case ("int", v) | ("real", v) | ("bool", v) | ("text", v):
                return v
            # chains meet two by two, which matters where lists have different numbers of items
            case ("cmp", operands, ops) if len(ops) > 1:
                pairs = zip(ops, pairwise(operands), strict=True)
                return self.value(("and", tuple(("cmp", two, (op,)) for op, two in pairs)), row)
            case ("and" | "or" as op, args) if len(args) > 2:
                return self.value((op, ((op, args[:-1]), args[-1])), row)
            case ("item", x, i):
                return pick(self.value(x, row), i)
            case ("at", x, index):
                return at_depth(self.depth(index), pick, self.value(x, row), self.value(index, row))
            case ("choose", x, condition):
                return at_depth(self.depth(condition) - 1, choose, self.value(x, row), self.value(condition, row))
            case ("call", name, args) if name in REDUCTIONS:
                depth = self.depth(args[0]) - 1
                return at_depth(depth, lambda items: self.reduce(node, name, items), self.value(args[0], row))
            case ("call", "get", args):
                items, i, default = [self.value(a, row) for a in args]
                if items is None or i is None:
                    return None
                inside = -len(items) <= i < len(items)
                return self.convert(items[i] if inside else default, self.type(node))
        return self.each(node, [self.value(c, row) for c in children(node)], [self.depth(c) for c in children(node)])

    def each(self, node, values, depths):
        """One operation on values of different depths: those of outer levels stay the same for the items within."""
        if not any(depths):
            return self.apply(node, values)
        if any(v is None for v, d in zip(values, depths, strict=True) if d):
            return None
        lengths = {len(v) for v, d in zip(values, depths, strict=True) if d}
        if len(lengths) > 1:
            raise Uneven
        return [
            self.each(
                node,
                [v[k] if d else v for v, d in zip(values, depths, strict=True)],
                [max(d - 1, 0) for d in depths],
            )
            for k in range(lengths.pop())
        ]

    def apply(self, node, values):
        """One operation on single values."""
        match node:
            case ("and", _):
                return kleene(False, [truth(v) for v in values])
            case ("or", _):
                return kleene(True, [truth(v) for v in values])
            case ("cmp", _, ops):
                pairs = zip(ops, values, values[1:], strict=False)
                return kleene(False, [None if a is None or b is None else COMPARE[op](a, b) for op, a, b in pairs])
            case ("call", "where", _):
                c, a, b = values
                return None if c is None else self.convert(a if c else b, self.type(node))
            case ("call", "ismissing", _):
                return values[0] is None
        if any(v is None for v in values):
            return None
        match node:
            case ("not", _):
                return not truth(values[0])
            case ("in", _, items, negated):
                return any(values[0] == self.value(i, 0) for i in items) != negated
            case ("bits", op, _):
                out = values[0]
                for v in values[1:]:
                    out = out & v if op == "&" else out | v
                return out
            case ("neg", _):
                return self.fit(-values[0], node)
            case ("bin", op, a, b):
                if self.type(node) == "f":
                    return FLOAT[op](float(values[0]), float(values[1]))
                if op in ("//", "%") and values[1] == 0:
                    return None
                return self.fit(INTEGER[op](int(values[0]), int(values[1])), node)
            case ("call", name, _):
                return self.function(node, name, values)
        raise AssertionError(node)

    def function(self, node, name, values):
        x = values[0]
        if name == "isnan":
            return x != x
        if name == "isfinite":
            return x == x and abs(x) != math.inf
        if name == "isinf":
            return abs(x) == math.inf
        if name == "xor":
            return x ^ values[1]
        if name == "abs":
            return self.fit(abs(x), node)
        if name in ("floor", "ceil", "round"):
            if isinstance(x, int):
                return int(x)
            if not math.isfinite(x):
                return x
            return math.copysign(float({"floor": math.floor, "ceil": math.ceil, "round": round}[name](x)), x)
        if name in ("minimum", "maximum"):
            return extreme([self.convert(v, self.type(node)) for v in values], name[:3])
        raise AssertionError(name)

    def reduce(self, node, name, items):
        if items is None:
            return None
        if name == "len":
            return len(items)
        if name in ("any", "all", "none"):
            found = kleene(name != "all", [truth(v) for v in items])
            return found if name != "none" or found is None else not found
        if name in ("first", "last"):
            return pick(items, 0 if name == "first" else -1)
        if any(v is None for v in items):
            return None
        if name == "count":
            return sum(items)
        if name in ("sum", "mean"):
            total = 0.0 if any(isinstance(v, float) for v in items) else 0
            for v in items:
                total += v
            if name == "sum":
                return float(total) if self.type(node) == "f" else self.fit(total, node)
            return float(total) / len(items) if items else None
        if not items:
            return None
        best = extreme(items, name[-3:])
        if name in ("min", "max"):
            return best
        return next(i for i, v in enumerate(items) if v == best or (v != v and best != best))

    def convert(self, value, to):
        return (
            float(value)
            if to == "f" and value is not None
            else int(value)
            if to in "iu" and value is not None
            else value
        )

    def fit(self, value, node):
        kind = self.type(node)
        if kind in ("i", "u"):
            low, high = INT64 if kind == "i" else UINT64
            if self.constant(node) is not None:
                low, high = INT64[0], UINT64[1]
            if not low <= value <= high:
                raise Overflow
            return int(value)
        return value


REDUCTIONS = ("any", "all", "none", "count", "len", "sum", "mean", "min", "max", "argmin", "argmax", "first", "last")


def children(node):
    match node:
        case ("neg", x) | ("not", x) | ("item", x, _) | ("in", x, _, _):
            return (x,)
        case ("at" | "choose", x, y):
            return (x, y)
        case ("bin", _, a, b):
            return (a, b)
        case ("cmp", args, _) | ("and", args) | ("or", args) | ("bits", _, args) | ("call", _, args):
            return tuple(args)
    return ()


def truth(value):
    return None if value is None else value != 0


def kleene(decides, values):
    """`any` (decides=True) or `all` (decides=False) of three-valued values."""
    if decides in values:
        return decides
    return None if None in values else not decides


def pick(items, i):
    return items[i] if items is not None and i is not None and -len(items) <= i < len(items) else None


def choose(items, chosen):
    """The items for which a condition holds; None where it is not known which."""
    if items is None or chosen is None:
        return None
    if len(items) != len(chosen):
        raise Uneven
    return None if None in chosen else [x for x, c in zip(items, chosen, strict=True) if c]


def at_depth(depth, function, *values):
    """A function of the lists at a depth."""
    if not depth:
        return function(*values)
    if None in [v if v is None else 0 for v in values]:
        return None
    if len({len(v) for v in values}) > 1:
        raise Uneven
    return [at_depth(depth - 1, function, *each) for each in zip(*values, strict=True)]


def extreme(values, which):
    """min or max; nan wins; zero has no sign."""
    nan = [v for v in values if v != v]
    if nan:
        return nan[0]
    best = min(values) if which == "min" else max(values)
    return best if isinstance(best, bool) else best + 0


def divide(a, b):
    if b == 0:
        return math.nan if a != a or a == 0 else math.copysign(math.inf, a) * math.copysign(1.0, b)
    return a / b


def floor_divide(a, b):
    return divide(a, b) if b == 0 else a // b


def remainder(a, b):
    return math.nan if b == 0 else a % b


FLOAT = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": divide,
    "//": floor_divide,
    "%": remainder,
}
INTEGER = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
    "**": operator.pow,
}

# ------------------------------------------------------------------------------------------------------- text

LEVELS = {"or": 1, "and": 2, "not": 3, "cmp": 4, "in": 4, "sum": 5, "product": 6, "neg": 7, "power": 8, "atom": 9}


def level(node):
    match node:
        case ("bin", op, _, _):
            return LEVELS["sum" if op in "+-" else "power" if op == "**" else "product"]
        case ("bits", op, _):
            return LEVELS["and" if op == "&" else "or"]
    return LEVELS.get(node[0], LEVELS["atom"])


def render(node, choose):
    """The text of a tree, with the parentheses that it needs and some more. `choose(options)` picks a spelling."""

    def inner(child, at_least):
        text = render(child, choose)
        return f"({text})" if level(child) < at_least or choose([False, False, False, True]) else text

    def joined(args, spellings, at_least):
        text = inner(args[0], at_least)
        for a in args[1:]:
            text += f"{choose([' ', '  '])}{choose(spellings)} {inner(a, at_least + 1)}"
        return text

    match node:
        case ("field", name):
            return choose([name, f"`{name}`"])
        case ("int", v):
            return choose([str(v), hex(v)])
        case ("real", v):
            return repr(v)
        case ("bool", v):
            return choose(["true", "True"] if v else ["false", "False"])
        case ("text", v):
            quote = choose(["'", '"'])
            return quote + v.replace("\\", "\\\\").replace(quote, "\\" + quote) + quote
        case ("neg", x):
            return f"-{inner(x, LEVELS['neg'])}"
        case ("bin", op, a, b):
            own = level(node)
            if op == "**":
                return f"{inner(a, LEVELS['atom'])}{choose(['**', ' ** '])}{inner(b, LEVELS['neg'])}"
            return f"{inner(a, own)} {op} {inner(b, own + 1)}"
        case ("cmp", operands, ops):
            text = inner(operands[0], LEVELS["sum"])
            for op, x in zip(ops, operands[1:], strict=True):
                text += f" {op} {inner(x, LEVELS['sum'])}"
            return text
        case ("in", x, items, negated):
            listed = ", ".join("-" + render(i[1], choose) if i[0] == "neg" else render(i, choose) for i in items)
            left, right = choose([("(", ")"), ("[", "]")])
            return f"{inner(x, LEVELS['sum'])} {'not in' if negated else 'in'} {left}{listed}{right}"
        case ("not", x):
            word = choose(["not ", "!", "~"])
            return word + inner(x, LEVELS["not"] if word == "not " or level(x) == LEVELS["not"] else LEVELS["sum"])
        case ("and", args):
            return joined(args, ["and", "&&", "&"], LEVELS["and"])
        case ("or", args):
            return joined(args, ["or", "||", "|"], LEVELS["or"])
        case ("bits", op, args):
            return joined(args, [op], level(node))
        case ("item", x, i):
            return f"{inner(x, LEVELS['atom'])}[{i}]"
        case ("at" | "choose", x, y):
            return f"{inner(x, LEVELS['atom'])}[{render(y, choose)}]"
        case ("call", name, args):
            spelled = choose([name, {"sum": "Sum$", "min": "Min$", "max": "Max$", "len": "Length$"}.get(name, name)])
            return f"{spelled}({', '.join(render(a, choose) for a in args)})"
    raise AssertionError(node)


def nested(flat, offsets, there):
    """Items as lists in lists; None for those that are missing, which have none."""
    rows = flat
    for ends, lists in zip(reversed(offsets), reversed(there), strict=True):
        rows = [rows[a:b] for a, b in pairwise(ends.tolist())]
        if lists is not None:
            assert not any(row and not ok for row, ok in zip(rows, lists.tolist(), strict=True))
            rows = [row if ok else None for row, ok in zip(rows, lists.tolist(), strict=True)]
    return rows
