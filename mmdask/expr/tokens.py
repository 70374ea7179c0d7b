"""The words of a cut: numbers, texts, names and operators."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mmdask.errors import ExpressionError
from mmdask.expr.elsewhere import CHARACTERS, dotted, keyword, slice_here
from mmdask.expr.tree import error_at

__all__ = ["MAX_LENGTH", "Token", "thousands", "tokens"]

#: characters of a cut; of one number or name in it
MAX_LENGTH = 64 * 1024
MAX_NUMBER = 100
MAX_NAME = 255


@dataclass(frozen=True)
class Token:
    """One word; `kind` is "integer", "real", "text", "name", "quoted", "op" or "end"."""

    kind: str
    text: str
    start: int
    end: int


_TOKEN = re.compile(
    r"""
    (?P<space>[ \t\r\n]+)
  | (?P<integer>0[xX][0-9a-fA-F]+ | 0[bB][01]+ | [0-9]+(?![0-9.eE]))
  | (?P<real>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)
  | (?P<name>[A-Za-z_][A-Za-z0-9_]*(?:(?:\.|::)[A-Za-z_][A-Za-z0-9_]*)*\$?)
  | (?P<quoted>`(?:[^`]|``)*`)
  | (?P<text>"(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*')
  | (?P<wrong><> | <<|>> | =< | => | := | ->)
  | (?P<op>&& | \|\| | == | != | <= | >= | // | \*\* | [-+*/%<>()\[\],!~&|@])
    """,
    re.VERBOSE | re.ASCII | re.DOTALL,
)

_THOUSANDS = re.compile(r"(?<![\w.])[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?(?!\w)", re.ASCII)

# What people write that is no operator here, and what to write instead.
_INSTEAD = {
    "=": "'=' is no comparison; did you mean '=='?",
    "^": "'^' is a power in one tool and an exclusive or in another; power is '**', exclusive or is xor(a, b)",
    "<>": "'<>' is written '!='",
    "=<": "'=<' is written '<='",
    "=>": "'=>' is written '>='",
    "<<": "there are no shifts; multiply by a power of two",
    ">>": "there are no shifts; divide by a power of two with '//'",
    ":=": "there are no assignments; did you mean '=='?",
    "?": "'c ? a : b' is written where(c, a, b)",
    ":": "there are no slices; one element is x[i], c ? a : b is where(c, a, b)",
    "{": "lists are written in ( ) or [ ]",
    "}": "lists are written in ( ) or [ ]",
    ";": "a cut is one expression",
    "#": "there are no comments",
    "\\": "a backslash stands only inside quotes",
    "'": "this quote is not closed",
    '"': "this quote is not closed",
    "`": "this backtick is not closed",
}


def tokens(text: str, longest: int = MAX_LENGTH) -> list[Token]:
    """Split a cut into its words, the last of kind "end".

    Raises
    ------
    ExpressionError
        For a text over `longest` characters, and for characters that begin no word.
    """
    if len(text) > longest:
        raise ExpressionError(f"a cut has at most {longest} characters, this one has {len(text)}")
    found: list[Token] = []
    place = 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None or match.lastgroup == "wrong":
            raise _no_word(text, place, match.group() if match else text[place])
        kind = str(match.lastgroup)
        if kind != "space":
            found.append(_token(text, kind, place, match.end()))
        place = match.end()
    found.append(Token("end", "", len(text), len(text)))
    return found


def thousands(text: str, start: int, end: int) -> tuple[int, int, str] | None:
    """The place of a number like ``30,000`` that touches characters `start` to `end`, and what to say of it."""
    for match in _THOUSANDS.finditer(text, max(start - MAX_NUMBER, 0), end + MAX_NUMBER):
        if match.start() < end and start < match.end():
            word = match.group()[:40]
            return match.start(), match.end(), f"{word!r} is a list of numbers; write {word.replace(',', '')}"
    return None


def _token(text: str, kind: str, start: int, end: int) -> Token:
    word = text[start:end]
    if kind in ("integer", "real"):
        _check_number(text, word, start, end)
    elif kind in ("name", "quoted") and end - start > MAX_NAME + 2:
        raise error_at(text, start, start + 20, f"a name has at most {MAX_NAME} characters")
    elif kind == "quoted" and end - start == 2:
        raise error_at(text, start, end, "there is no name between these backticks")
    return Token(kind, word, start, end)


def _check_number(text: str, word: str, start: int, end: int) -> None:
    if end - start > MAX_NUMBER:
        raise error_at(text, start, start + 20, f"a number has at most {MAX_NUMBER} characters")
    after = re.compile(r"[A-Za-z0-9_.]+").match(text, end)
    if after is not None:
        whole = text[start : after.end()]
        message = f"{whole[:40]!r} is no number, and no name begins with a digit"
        if len(whole) <= MAX_NUMBER and re.fullmatch(r"[1-9][0-9]*(_[0-9]+)+", whole):
            message = f"{whole[:40]!r} is no number here; write {whole.replace('_', '')[:40]}"
        raise error_at(text, start, after.end(), message)
    if len(word) > 1 and word.isdigit() and word.startswith("0"):
        if (found := thousands(text, start, end)) is not None:
            raise error_at(text, *found)
        plain = word.lstrip("0") or "0"
        raise error_at(text, start, end, f"a leading 0 means octal in C; write {plain}")


def _no_word(text: str, place: int, word: str) -> ExpressionError:
    end = place + len(word)
    if word == "=" and (found := keyword(text, place)) is not None:
        return error_at(text, found[0], end, found[1])
    if word in (".", "->"):
        message: str | None = dotted(text, place, end)
    elif word in CHARACTERS:
        message = f"{word!r} is written {CHARACTERS[word]}"
    else:
        message = (slice_here(text, place) if word == ":" else "") or _INSTEAD.get(word)
    if message is None and word.isalpha():
        message = f"a name with {word!r} in it is written in backticks: `name`"
    if message is None:
        message = f"{word!r} means nothing in a cut" + ("; write a plain space" if word.isspace() else "")
    return error_at(text, place, end, message)
