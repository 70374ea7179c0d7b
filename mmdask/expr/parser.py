"""From the text of a cut to its tree, by precedence climbing.

From loosest to tightest: ``|| | or``, ``&& & and``, ``not ! ~``, comparisons (chained) and ``in``, ``+ -``,
``* / // %``, unary ``- +``, ``**``, ``x[i]``.
"""

from __future__ import annotations

import math

from mmdask.errors import ExpressionError
from mmdask.expr.elsewhere import ROOT_WORDS, infix_word, operand_before
from mmdask.expr.functions import ALIASES
from mmdask.expr.tokens import MAX_LENGTH, Token, thousands, tokens
from mmdask.expr.tree import (
    BOOLEANS,
    SYMBOLS,
    Binary,
    Bitwise,
    Boolean,
    Call,
    Compare,
    In,
    Index,
    Integer,
    Logic,
    Name,
    Node,
    Not,
    Real,
    Symbol,
    Text,
    Unary,
    error_at,
)

__all__ = ["INDEX", "MAX_DEPTH", "MAX_INDEX", "STORE", "check_size", "depth_of", "parse"]

#: what is said of brackets with something else in them
INDEX = "an index is a whole number, as in x[0], and a condition chooses items, as in x[x > 0]"

#: operations that a tree may name again and again, as derived fields do when they are put in for their names
MAX_REPEATED = 100_000
#: an index is smaller, from either end
MAX_INDEX = 2**31
#: how deeply a tree nests, and brackets in a text; ``a and b and c`` is one level, ``a + b + c`` two
MAX_DEPTH = 64
#: what to do then
STORE = "store a part of it as a field: mm.assign(path, ...)"
# Nested calls of Parser.expression: each is for a bracket or for a level of the tree.
_MAX_NESTED = 2 * MAX_DEPTH + 20

OR, AND, NOT, COMPARE, SUM, PRODUCT, UNARY, POWER = range(1, 9)
_COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")
_LEVEL: dict[str, int] = {
    **dict.fromkeys(("||", "|", "or"), OR),
    **dict.fromkeys(("&&", "&", "and"), AND),
    **dict.fromkeys((*_COMPARISONS, "in", "not"), COMPARE),
    **dict.fromkeys(("+", "-"), SUM),
    **dict.fromkeys(("*", "/", "//", "%"), PRODUCT),
    "**": POWER,
}
# `&` and `|` are a kind of their own: `check` reads them as logical or bitwise, by the types of their operands.
_JOINED: dict[str, tuple[type[Logic] | type[Bitwise], str]] = {
    "&&": (Logic, "and"),
    "and": (Logic, "and"),
    "||": (Logic, "or"),
    "or": (Logic, "or"),
    "&": (Bitwise, "&"),
    "|": (Bitwise, "|"),
}


def parse(text: str, *, longest: int = MAX_LENGTH) -> Node:
    """Read a cut. Names are not looked up: `check` does that.

    Parameters
    ----------
    text : str
        As it was typed.
    longest : int, optional
        Characters that it may have: more only where it is that of a tree, with long constants and derived fields in it.

    Returns
    -------
    Node
        The tree, with the place of every node in the text.

    Raises
    ------
    ExpressionError
        With a caret under the place, for a text that is no cut or nests too deeply.

    Examples
    --------
    >>> parse("nJets >= 6 & nBTags_77 >= 2") == parse("(nJets>=6)&(nBTags_77>=2)")
    True
    """
    if not isinstance(text, str):
        raise ExpressionError(f"a cut is a text, got {type(text).__name__}")
    try:
        node = _Parser(text, longest).whole()
        depth = depth_of(node)
    except RecursionError:
        raise ExpressionError("this cut nests too deeply for the depth of the calling code") from None
    if depth > MAX_DEPTH:
        raise ExpressionError(f"a cut nests at most {MAX_DEPTH} levels, this one {depth}; {STORE}")
    return node


def depth_of(node: Node) -> int:
    """Levels of a tree, 1 for a leaf."""
    deepest = 0
    level = {id(node): node}  # each node once: trees with derived fields in them share many
    while level:
        deepest += 1
        level = {id(child): child for parent in level.values() for child in children(parent)}
    return deepest


def check_size(node: Node) -> None:
    """Raise for a tree that depends on derived fields, and they on others, so often that its text would not end."""
    sizes: dict[int, int] = {}

    def size(node: Node) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = 1 + sum([size(child) for child in children(node)])
        return sizes[id(node)]

    repeated = size(node) - len(sizes)
    if repeated > MAX_REPEATED:
        shown = f"{repeated:,}" if repeated < 10**12 else "over 10**12"
        raise ExpressionError(
            f"with the derived fields written out, this repeats {shown} operations, and at most {MAX_REPEATED:,} "
            "can be; store some of these fields: mm.assign(path, ...)"
        )


def children(node: Node) -> tuple[Node, ...]:
    """The operands of a node, from left to right."""
    match node:
        case Unary(operand=x) | Not(operand=x):
            return (x,)
        case Index(operand=x, index=index):
            return (x,) if isinstance(index, int) else (x, index)
        case Binary(left=left, right=right):
            return (left, right)
        case Compare(operands=args) | Logic(args=args) | Bitwise(args=args) | Call(args=args):
            return args
        case In(operand=x, items=items):
            return (x, *items)
    return ()


class _Parser:
    def __init__(self, text: str, longest: int) -> None:
        self.text = text
        self.words = tokens(text, longest)
        self.check_brackets()
        self.place = 0
        self.nested = 0
        self.wrapped: Node | None = None  # the last expression that stood in parentheses

    def check_brackets(self) -> None:
        """Brackets that change nothing are levels, too: what is too deep does not depend on how it is written."""
        open_now = 0
        for word in self.words:
            if word.kind == "op":
                open_now += (word.text in ("(", "[")) - (word.text in (")", "]"))
                if open_now > MAX_DEPTH:
                    raise self.error(f"a cut nests at most {MAX_DEPTH} levels of brackets; leave out some", word)

    @property
    def word(self) -> Token:
        return self.words[self.place]

    @property
    def op(self) -> str:
        """The operator at this place, also one that is a word, or an empty string."""
        word = self.word
        return (
            word.text if word.kind == "op" or (word.kind == "name" and word.text in ("and", "or", "not", "in")) else ""
        )

    def next(self) -> Token:
        word = self.words[self.place]
        self.place += word.kind != "end"
        return word

    def error(self, message: str, word: Token | None = None) -> ExpressionError:
        word = word or self.word
        return error_at(self.text, word.start, word.end, message)

    def expect(self, op: str, opened: Token) -> None:
        if self.op != op:
            if self.word.kind == "end":
                raise self.error(f"this {opened.text!r} is not closed", opened)
            raise self.unexpected(f"; expected {op!r} or an operator")
        self.next()

    def unexpected(self, what: str = "") -> ExpressionError:
        word = self.word
        if word.kind == "end":
            return self.error("the cut ends too early" + what)
        if word.text == "," and (found := thousands(self.text, word.start, word.end)) is not None:
            return error_at(self.text, *found)
        before = self.words[self.place - 1] if self.place else word
        if word.kind == "name" and (hint := infix_word(self.text, word.text, word.start, before.text)) is not None:
            return error_at(self.text, word.start, *hint)
        return self.error(f"{word.text[:40]!r} cannot stand here{what}")

    def end_of_last(self) -> int:
        return self.words[self.place - 1].end

    def whole(self) -> Node:
        if self.word.kind == "end":
            raise ExpressionError("the cut is empty")
        node = self.expression(OR)
        if self.word.kind != "end":
            raise self.unexpected("; expected an operator")
        return node

    def expression(self, level: int) -> Node:
        """An expression of operators that bind at least as tightly as `level`."""
        self.nested += 1
        if self.nested > _MAX_NESTED:
            raise self.error(f"a cut nests at most {MAX_DEPTH} levels; {STORE}")
        start = self.word.start
        node = self.prefix(level)
        while (bound := _LEVEL.get(self.op, 0)) >= level:
            if bound == COMPARE:
                node = self.comparison(node, start)
                continue
            if bound <= AND:
                node = self.chain(node, start, bound)
                continue
            word = self.next()
            # the right operand of ** is a unary expression, of the others what binds tighter
            right = self.expression(UNARY if bound == POWER else bound + 1)
            node = Binary(word.text, node, right, start=start, end=self.end_of_last())
        self.nested -= 1
        return node

    def chain(self, left: Node, start: int, level: int) -> Node:
        """Operands joined by one logical operator, in whatever spelling, become one node."""
        join = _JOINED[self.op]
        args = list(_flat(join, left))
        while (op := self.op) in _JOINED and _LEVEL[op] == level and _JOINED[op] == join:
            self.next()
            args.extend(_flat(join, self.expression(level + 1)))
        kind, name = join
        return kind(name, tuple(args), start=start, end=self.end_of_last())

    def prefix(self, level: int) -> Node:
        word = self.word
        if self.op in ("not", "!", "~"):
            if level > NOT:
                raise self.error(f"{word.text!r} binds more loosely than what stands before it; put it in parentheses")
            return self.negation()
        if self.op in ("-", "+"):
            self.next()
            operand = self.expression(UNARY)
            return Unary(word.text, operand, start=word.start, end=self.end_of_last())
        return self.postfix()

    def negation(self) -> Node:
        word = self.next()
        operand = self.expression(NOT)
        if word.text != "not" and isinstance(operand, Compare | In) and operand is not self.wrapped:
            inner = self.text[operand.start : operand.end]
            first = operand.operands[0] if isinstance(operand, Compare) else operand.operand
            rest = self.text[first.end : operand.end].lstrip(" )")
            both = f": ({word.text}{self.text[first.start : first.end]}) {rest}, or {word.text}({inner})"
            raise error_at(
                self.text,
                word.start,
                operand.end,
                f"{word.text!r} before a comparison has two readings; write one" + (both if len(both) < 200 else ""),
            )
        return Not(operand, word.text, start=word.start, end=self.end_of_last())

    def comparison(self, left: Node, start: int) -> Node:
        if self.op in ("in", "not"):
            node: Node = self.membership(left, start)
        else:
            operands, ops = [left], []
            while self.op in _COMPARISONS:
                ops.append(self.next().text)
                self.check_list(operands[-1], ops[-1])
                operands.append(self.expression(SUM))
            node = Compare(tuple(operands), tuple(ops), start=start, end=self.end_of_last())
        if _LEVEL.get(self.op) == COMPARE:
            raise self.error(f"put what stands before {self.op!r} in parentheses, or join the two with 'and'")
        return node

    def check_list(self, left: Node, op: str) -> None:
        """Raise for a list of literals here, which stands after 'in'."""
        opened = self.word
        if self.op not in ("[", "(") or op not in ("==", "!="):
            return
        close, place, commas = {"[": "]", "(": ")"}[opened.text], self.place + 1, 0
        while (word := self.words[place]).kind in ("integer", "real", "text", "name") or word.text in (",", "-", "+"):
            commas += word.text == ","
            place += 1
        if word.text != close or (opened.text == "(" and not commas):
            return
        if opened.text == "[" or thousands(self.text, opened.start, word.end) is None:
            inside = self.text[opened.start + 1 : word.start].strip()
            written = f"{self.text[left.start : left.end]} {'in' if op == '==' else 'not in'} ({inside})"
            written = written if len(written) <= 80 else "x in (a, b)"
            raise error_at(self.text, opened.start, word.end, f"a list stands only after 'in'; write {written}")

    def membership(self, left: Node, start: int) -> Node:
        negated = self.op == "not"
        if negated:
            self.next()
            if self.op != "in":
                raise self.unexpected("; expected 'in' after 'not'")
        self.next()
        opened = self.word
        if opened.kind in ("name", "quoted") and self.op == "":
            self.next()
            items: tuple[Node, ...] = (_name(opened),)
        elif self.op in ("(", "["):
            items = self.items()
        else:
            raise self.unexpected("; expected a list of literals, as in ('a', 'b')")
        return In(left, items, negated, start=start, end=self.end_of_last())

    def items(self) -> tuple[Node, ...]:
        opened = self.next()
        close = ")" if opened.text == "(" else "]"
        items: list[Node] = []
        while self.op != close:
            items.append(self.literal())
            if self.op != ",":
                break
            self.next()
        self.expect(close, opened)
        return tuple(items)

    def literal(self) -> Node:
        word = self.word
        if self.op in ("-", "+"):
            self.next()
            value = self.literal() if self.op == "" else None
            if value is None or isinstance(value, Text):
                raise self.unexpected("; expected a number")
            return Unary("-", value, start=word.start, end=value.end) if word.text == "-" else value
        if self.op or word.kind == "end":
            raise self.unexpected("; expected a literal")
        return self.atom()

    def postfix(self) -> Node:
        start = self.word.start
        node = self.atom()
        while self.op == "[":
            index = self.index()
            node = Index(node, index, start=start, end=self.end_of_last())
        return node

    def index(self) -> int | Node:
        """What stands in the brackets after an operand; a whole number that is written out as an int."""
        opened = self.next()
        if self.op == "]":
            raise self.error(f"there is nothing in these brackets; {INDEX}", opened)
        node = self.expression(OR)
        if self.op == "," and thousands(self.text, self.word.start, self.word.end) is None:
            first, operand = self.text[opened.start : self.word.start].rstrip(), operand_before(self.text, opened.start)
            second = self.words[self.place + 1]
            written = f"{operand}{first}][{second.text if second.kind == 'integer' else '...'}]"
            written = written if len(written) <= 80 else "x[i][j]"
            raise self.error(f"each list has brackets of its own; write {written}")
        self.expect("]", opened)
        inner = node.operand if isinstance(node, Unary) else node
        if not isinstance(inner, Integer):
            return node
        if inner.value >= MAX_INDEX:
            raise error_at(self.text, inner.start, inner.end, "an index is below 2**31")
        return -inner.value if isinstance(node, Unary) and node.op == "-" else inner.value

    def atom(self) -> Node:
        word = self.word
        place = {"start": word.start, "end": word.end}
        if word.kind == "integer":
            return Integer(int(self.next().text, 0), **place)
        if word.kind == "real":
            value = float(self.next().text)
            if math.isinf(value):
                raise self.error("this number is too large for a double; infinity is written inf", word)
            return Real(value, **place)
        if word.kind == "text":
            return Text(self.unescaped(self.next()), **place)
        if word.kind == "quoted":
            self.next()
            if self.op == "(":
                raise self.error("a field cannot be called", word)
            return _name(word)
        if word.kind == "name" and not self.op:
            return self.named()
        if self.op == "(":
            return self.parentheses()
        if self.op == "@":
            self.next()
            if self.word.kind != "name" or not self.word.text.endswith(".size"):
                raise self.error(
                    "'@' is read only in @name.size(), the number of items; fields and constants stand without it",
                    word,
                )
            return self.named(word.start)
        raise self.unexpected("; expected a number, a name or '('")

    def parentheses(self) -> Node:
        opened = self.next()
        if self.op == ")":
            raise self.error("there is nothing between these parentheses", opened)
        node = self.expression(OR)
        if self.op == ",":
            found = thousands(self.text, self.word.start, self.word.end)
            raise error_at(self.text, *found) if found else self.error("a list stands only after 'in'")
        self.expect(")", opened)
        self.wrapped = node
        return node

    def unescaped(self, word: Token) -> str:
        body, out, place = word.text[1:-1], [], 0
        while (slash := body.find("\\", place)) >= 0:
            if body[slash + 1] not in "\\'\"":
                raise self.error("a backslash in quotes stands before a quote or a backslash; write it twice", word)
            out += [body[place:slash], body[slash + 1]]
            place = slash + 2
        value = "".join(out) + body[place:]
        if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            raise self.error("this text is no valid Unicode", word)
        return value

    def named(self, start: int | None = None) -> Node:
        """A name: a function if '(' follows, else a number, a boolean or a field."""
        word = self.next()
        name = word.text
        place = {"start": word.start, "end": word.end}
        if self.op == "(":
            return self.call(word, word.start if start is None else start)
        if start is not None:
            raise self.error("expected () after size")
        if name in BOOLEANS:
            return Boolean(BOOLEANS[name], **place)
        if name in SYMBOLS:
            return Symbol(name, **place)
        if name.endswith("$") or "::" in name:
            raise self.error(f"{name!r} is not in the language" + ROOT_WORDS.get(name, ""), word)
        return _name(word)

    def call(self, word: Token, start: int) -> Node:
        opened = self.next()
        args: list[Node] = []
        while self.op != ")":
            args.append(self.expression(OR))
            if self.op != ",":
                break
            self.next()
            if self.op == ")":
                raise self.unexpected("; expected an argument")
        self.expect(")", opened)
        name, place = word.text, {"start": start, "end": self.end_of_last()}
        if name.endswith(".size"):
            if args:
                raise self.error("size() takes no arguments; the number of true items is count(x)", word)
            return Call("len", (Name(name[: -len(".size")], start=start, end=word.end),), **place)
        function = ALIASES.get(name, name)
        wanted = {"**": 2, "pi": 0, "Alt$": 2}.get(function)
        if wanted is not None and len(args) != wanted:
            raise self.error(f"{name} takes {wanted} arguments, got {len(args)}", word)
        if function == "**":
            return Binary("**", args[0], args[1], **place)
        if function == "pi":
            return Symbol("pi", **place)
        if function == "Alt$":
            return self.alternative(args, word, place)
        return Call(function, tuple(args), **place)

    def alternative(self, args: list[Node], word: Token, place: dict[str, int]) -> Node:
        item, default = args
        if not isinstance(item, Index):
            raise self.error("Alt$ takes an element, as in Alt$(x[0], -1)", word)
        i = item.index
        index = Integer(abs(i), start=item.start, end=item.end) if isinstance(i, int) else i
        if isinstance(i, int) and i < 0:
            index = Unary("-", index, start=item.start, end=item.end)
        return Call("get", (item.operand, index, default), **place)


def _flat(join: tuple[type[Logic] | type[Bitwise], str], node: Node) -> tuple[Node, ...]:
    kind, op = join
    return node.args if isinstance(node, kind) and node.op == op else (node,)


def _name(word: Token) -> Name:
    quoted = word.kind == "quoted"
    name = word.text[1:-1].replace("``", "`") if quoted else word.text
    return Name(name, quoted, start=word.start, end=word.end)
