"""Random texts for the language of cuts, and what must hold for whatever they are."""

from __future__ import annotations

import functools
import math
import signal
import time
import traceback
import unicodedata
import warnings
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np

from mmdask.errors import ExpressionError
from mmdask.expr import Expression, check, evaluate
from mmdask.expr.tokens import MAX_LENGTH
from mmdask.schema import Field, FieldData, Schema

SCHEMA = Schema(
    [
        *[Field.dense(name, "i4") for name in ("nJets", "a", "b")],
        Field.dense("met", "f4", optional=(0,)),
        Field.dense("isgood", "?"),
        Field.dense("big", "u8"),
        *[Field.ragged(name, "f4") for name in ("jet_pt", "jet_eta")],
        Field.ragged("flags", "i1", optional=(0, 1)),
        Field.ragged("hits", "f8", levels=2, optional=(1,)),
        Field.dense("matrix", "i2", (2, 2)),
        Field.category("process", ["ttbb", "ttH"]),
        Field.string("name"),
        Field.string("words", levels=1),
        Field.dense("weird `name`", "f4"),
        Field.dense("é", "f4"),
    ]
)
_ENDS = np.array([0, 2, 2, 3])
_TEXT = FieldData(np.frombuffer(b"attbb", np.uint8), (np.array([0, 1, 1, 5]),))
ROWS = 3
DATA = {
    "nJets": FieldData(np.int32([1, 0, -(2**31)])),
    "a": FieldData(np.int32([0, 7, 2**31 - 1])),
    "b": FieldData(np.int32([2, -1, 0])),
    "met": FieldData(np.float32([1.5, np.nan, np.inf]), valid=(np.array([True, False, True]),)),
    "isgood": FieldData(np.array([True, False, True])),
    "big": FieldData(np.uint64([0, 2**63, 2**64 - 1])),
    "jet_pt": FieldData(np.float32([50, np.nan, -np.inf]), (_ENDS,)),
    "jet_eta": FieldData(np.float32([-0.0, 2.5, 1e-45]), (_ENDS,)),
    "flags": FieldData(np.int8([1, 0]), (np.array([0, 2, 2, 2]),), valid=(np.arange(3) < 2, np.arange(2) > 0)),
    "hits": FieldData(np.arange(4.0), (_ENDS, np.array([0, 3, 3, 4])), valid=(None, np.arange(3) != 1, None)),
    "matrix": FieldData(np.arange(12, dtype=np.int16).reshape(3, 2, 2)),
    "process": FieldData(np.int32([0, 1, 0]), (), ("ttbb", "ttH")),
    "name": _TEXT,
    "words": FieldData(_TEXT.values, (_ENDS, _TEXT.offsets[0])),
    "weird `name`": FieldData(np.float32([1, 2, 3])),
    "é": FieldData(np.float32([1, 2, 3])),
}
#: cuts that are right, which are changed
RIGHT = """
nJets >= 6 & a >= 2
any(jet_pt > 100e3)
jet_pt[0] > 100e3 and get(jet_pt, 3, 0) < 30e3
(a & 4) != 0
2 <= nJets <= 4
process in ("ttbb", 'ttH') and met > 30e3
not isgood or ismissing(met)
any(any(hits > 3))
sum(sum(hits)) / len(hits[0]) < 2
jet_eta[argmax(jet_pt)] < 2.5
sum(jet_pt[jet_eta < 2.5]) > 500e3
jet_pt[nJets - 1] != jet_pt[-1]
any(words == "a")
count(words in ("a", "b")) == 1
matrix[0][1] == max(max(matrix))
any(sum(hits) > jet_pt)
where(isgood, a, b) % 3 == 1
delta_r(jet_eta[0], met, jet_eta[1], met) < 0.4
big == 18446744073709551615
-a ** 2 < 0x1f
`weird ``name``` > 1
`é` < pi
Sum$(jet_pt) > 3 && @jet_pt.size() > 1
Alt$(jet_pt[1], -1) < TMath::Pi()
TMath::Abs(met) > fabs(a)
xor(isgood, a > 1)
max(jet_pt[jet_eta > 0][jet_pt[jet_eta > 0] > 1]) > 1
count(flags[ismissing(flags)] == 1) == 0
mean(hits[jet_pt > 0][0]) > 1
name != "a" and name not in ["b", 'c']
isfinite(met) and met == met
all(first(hits) <= last(hits))
a // b > big % 7
~(met > 1)
"""
PIECES = """
nJets a b met isgood big jet_pt jet_eta flags hits matrix process name words `é` 'ttH' "a" 1 0 -1 2.5 1e308 1e-400
0x1f 9223372036854775808 18446744073709551616 sum( any( all( where( get( max( first( len( ismissing( argmax( sqrt(
count( ( ( ) ) ) [ ] [0] [-1] [a] [jet_eta<1] , & | && || and or not ! ~ in not in == != < <= > >= + - * / // % ** @
^ = . $ ` ' " \\ ; # : ? { } true nan inf pi __import__ __class__ .__init__ os.system Sum$( Entry$ TMath::Sin( @x
lambda eval( <> << => := x 1_000 30GeV 010 100,500 1e5 .5 5. ... \\x61 %s {0} ${HOME} ../../x -- /* */ //
"""
CORPUS = RIGHT.strip().split("\n")
WORDS = [*PIECES.split(), "not in", " ", "\t", "\n", "\r", "\x00", "\x0b", "\x1b[2J"]
#: seconds of any processor for one text, however long
LIMIT = 20.0


@functools.cache
def characters() -> list[list[str]]:
    """Some characters of every category of Unicode, and more of those that look like others or hide."""
    found: dict[str, list[str]] = {}
    for code in range(0x110000):
        c = chr(code)
        group = found.setdefault(unicodedata.category(c), [])
        if len(group) < 400 or code % 997 == 0:
            group.append(c)
    hidden = [chr(c) for c in (*range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xFEFF, 0xAD)]
    digits = [
        chr(c)
        for c in (*range(0xFF10, 0xFF1A), *range(0x660, 0x66A), 0xB2, 0xBD, 0x2460, 0x3007, *range(0x1D7CE, 0x1D800))
    ]
    alike = [
        *"\uff1c\uff1e\uff1d\uff08\uff09\u2212\u00d7\u2044\u2227\u2228\u00ac\u2264\u2265\u2260\uff06\uff5c\u037e\u0430\u0435\u2018\u201c\u00b4"
    ]
    return [*found.values(), hidden, digits, alike]


def _mutated(rng: Random) -> str:
    text = rng.choice(CORPUS)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        i, j = sorted((rng.randrange(len(text) + 1), rng.randrange(len(text) + 1)))
        match rng.randrange(7):
            case 0:
                text = text[:i] + text[i + 1 :]
            case 1:
                text = text[:i] + text[j:]
            case 2:
                text = text[:i] + rng.choice(WORDS) + text[i:]
            case 3:
                text = text[:i] + rng.choice(WORDS) + text[min(j, i + 3) :]
            case 4:
                text = text[:j] + text[i:j][:50] + text[j:]
            case 5:
                other = rng.choice(CORPUS)
                text = f"{text[:i]}{other[rng.randrange(len(other)) :]}"
            case _:
                other = rng.choice(CORPUS)
                text = rng.choice((f"({text}) {rng.choice(('and', '|', '&&', '+', '=='))} ({other})", f"not ({text})"))
    return text


def _pieces(rng: Random) -> str:
    return rng.choice(("", " ")).join(rng.choices(WORDS, k=rng.randrange(1, 14)))


def _strange(rng: Random) -> str:
    groups = characters()
    text = rng.choice((rng.choice(CORPUS), "", "name == 'a'", "`é` > 1", "nJets > 1"))
    for _ in range(rng.choice((1, 1, 2, 5))):
        i = rng.randrange(len(text) + 1)
        text = (
            text[:i] + "".join(rng.choices(rng.choice(groups), k=rng.choice((1, 1, 3)))) + text[i + rng.randrange(2) :]
        )
    return text


def _digits(rng: Random) -> str:
    n = rng.choice((1, 5, 17, 19, 20, 40, 99, 100, 101, 300))
    digits = "".join(rng.choices("0123456789", k=n))
    number = rng.choice(
        (digits, f"{digits}.{digits}", f"1e{digits}", f"-{digits}", f"0x{digits}", f"1e-{digits}", f"{digits}e{n}")
    )
    return rng.choice(
        ("a ** {} > 1", "{} * big > a", "a in ({}, 1)", "{} == a", "2 ** {} < met", "a % {} == {}", "jet_pt[{}] > 1")
    ).replace("{}", number)


_AROUND = (
    *(("(", ")"), ("-", ""), ("not ", ""), ("!", ""), ("abs(", ")"), ("any(", ")"), ("a + (", ")"), ("2 ** ", "")),
    *(("jet_pt[", "]"), ("where(isgood, a, ", ")"), ("", "[0]"), ("", "[a]"), ("a in (", ")"), ("[", "]")),
)


def _nested(rng: Random) -> str:
    n = rng.choice((3, 20, 62, 63, 64, 65, 66, 70, 200))
    opened, closed = rng.choice(_AROUND)
    inside = rng.choice(("a", "hits", "isgood", "jet_pt", "1", *CORPUS))
    return opened * n + inside + closed * (n - rng.choice((0, 0, 0, 0, 1)))


def _long(rng: Random) -> str:
    """Up to the 64 kB that a cut may have, and a little more."""
    n = rng.choice((1000, 20_000, 65_000, 65_536, 65_537, 70_000))
    unit = rng.choice((_pieces, _mutated, _strange, lambda _: rng.choice("(-!`'[9a\\.")))(rng) or "a"
    join = rng.choice((" and ", " | ", ", ", " + ", "", " == ", " in "))
    text = join.join([unit] * (n // (len(unit) + len(join)) + 1))[:n]
    return rng.choice((text, f"a in ({text})", f"any({text})", f"name == '{text}'", f"`{text}` > 1"))


_MAKERS: tuple[Callable[[Random], str], ...] = (_mutated, _pieces, _strange, _digits, _nested, _long)
_WEIGHTS = (1000, 500, 400, 80, 40, 2)


def random_text(rng: Random) -> str:
    """A text that may be a cut, but seldom is."""
    [maker] = rng.choices(_MAKERS, _WEIGHTS)
    return maker(rng)


def check_text(text: str, rng: Random) -> tuple[str, str]:
    """What became of a text, in a word, and what is wrong with that; empty if nothing is.

    It must be an `Expression`, whose canonical text means the same, or an `ExpressionError` that can be printed; soon,
    without warnings. An expression must give values, or the same kind of error.
    """

    def late(*_: Any) -> None:
        raise TimeoutError("took more than 120 s")

    constants = {"x": rng.choice((3, 2.5, True, "ttH", [1, 2], -(2**70), math.nan))} if rng.random() < 0.02 else None
    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 120)
    began = time.thread_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            outcome, problem = _outcome(text, constants)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return "wrong", f"{text[:200]!a}: " + "".join(traceback.format_exception(error)[-3:])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    seconds = time.thread_time() - began
    if seconds > LIMIT:
        return outcome, f"{text[:200]!a}, of {len(text)} characters, took {seconds:.1f} s"
    return outcome, problem


def _outcome(text: str, constants: dict[str, Any] | None) -> tuple[str, str]:
    try:
        found = check(text, SCHEMA, constants)
    except ExpressionError as error:
        message = str(error)
        message.encode()
        return "error", f"{text[:200]!a}: a message of {len(message)} characters" if len(message) > 5000 else ""
    if type(found) is not Expression:
        return "wrong", f"{text[:200]!a} gave {found!r}"
    # the canonical text has more parentheses, and may have more characters than one may type
    again = check(found.canonical if len(found.canonical) <= MAX_LENGTH else found.tree, SCHEMA)
    if again != found or again.tree != found.tree or again.typed != found.typed:
        return "wrong", f"{text[:200]!a} is {found.canonical[:200]}, which is {again.canonical[:200]}"
    try:
        values = evaluate(found, DATA.__getitem__, ROWS)
    except ExpressionError as error:
        str(error).encode()
        return "expression without values", ""
    shape = ROWS if not values.offsets else int(values.offsets[-1][-1])
    right = (
        values.values.shape == (shape,) and values.values.dtype == found.dtype and len(values.offsets) == found.depth
    )
    return "expression", "" if right else f"{text[:200]!a} gave {values!r}"
