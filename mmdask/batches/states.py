"""What a state says for people of the data and the order that it is of, and where two states differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmdask.rows.selecting import Cut, Slice

if TYPE_CHECKING:
    from mmdask.batches.ordering.balanced import Class
    from mmdask.expr import Expression
    from mmdask.rows.rows import Rows

__all__ = ["difference", "words_of"]

#: of one text; a state is less than 1 kB
_LENGTH = 100
#: what the entries are called
_NAMES = {
    "store": "store",
    "rows": "rows of the store",
    "selection": "selection",
}


def words_of(rows: Rows, weights: Expression | None, classes: Sequence[Class]) -> dict[str, Any]:
    """Which rows of how many, and how they are drawn; texts are cut."""
    found: dict[str, Any] = {"store": _store(rows), "rows": rows.n_store, "selection": _cut(_selection(rows))}
    if weights is not None:
        found["weights"] = _cut(weights.text)
    if classes:
        found["balance"] = _cut(", ".join(f"{c.label}: {c.share:g}" for c in classes))
    return found


def difference(key: str, state: Mapping[str, Any], mine: Mapping[str, Any]) -> str:
    """How one entry of a state differs from that of another, in words where there are any."""
    theirs, own = state.get(key), mine[key]
    if key == "data" and (said := _in_words(state.get("words"), mine["words"], ("store", "rows", "selection"))):
        return said
    if isinstance(theirs, Mapping) and isinstance(own, Mapping):
        sides = (theirs, state.get("words")), (own, mine["words"])
        return ", ".join(_of_option(k, *sides) for k in {**theirs, **own} if theirs.get(k) != own.get(k))
    if isinstance(own, str):  # a hash
        return "they are not the same there and here" if key == "data" else "that of a loader differs"
    return f"{theirs!r} there and {own!r} here"


def _of_option(key: str, *sides: tuple[Mapping[str, Any], object]) -> str:
    """How an option of the order differs: each side has the options, and perhaps words for what they know by a hash."""
    if key == "each":
        return "the order of one of the loaders"
    there, here = (_option(key, order, words if isinstance(words, Mapping) else {}) for order, words in sides)
    return f"{key} {there} there and {here} here" if there != here else f"other {key}"


def _option(key: str, order: Mapping[str, Any], words: Mapping[str, Any]) -> str:
    if key not in order:
        return "none"
    value = order[key]
    if key in ("weights", "balance", "shares"):
        return repr(words[key]) if key in words else "others"
    if key == "bucket" and isinstance(value, list) and len(value) == 5:
        size, field, window, tokens, multiple = value
        tokens = "" if tokens is None else f", tokens={tokens}"
        return f"mm.bucket({field!r}, window={window}{tokens}, multiple={multiple}) of batches of {size}"
    return repr(value)


def _in_words(theirs: object, mine: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    """Where the words of two states differ; empty where they say the same, or one says nothing."""
    if not isinstance(theirs, Mapping):
        return ""
    texts = [
        f"{_NAMES[key]} {_said(theirs[key])} there and {_said(mine[key])} here"
        for key in keys
        if key in theirs and key in mine and theirs[key] != mine[key] and key != "store"
    ]
    if not texts and "store" in keys and {"store"} <= {*theirs} and theirs["store"] != mine.get("store"):
        texts = ["another store, or its rows were written anew; number of rows and selection agree"]
    return ", ".join(texts)


def _said(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else "none" if value == "" else repr(value)


def _store(rows: Rows) -> str:
    snapshot = getattr(rows, "snapshot", None)
    return "" if snapshot is None else str(snapshot.identity)[:8]


def _selection(rows: Rows) -> str:
    texts = []
    for step in getattr(rows, "steps", ()):
        if isinstance(step, Cut):
            texts.append(step.expression.text)
        elif isinstance(step, Slice):
            texts.append(f"[{step.start}:{step.stop}{'' if step.step == 1 else f':{step.step}'}]")
        else:
            texts.append(json.dumps(step.text()))
    return " then ".join(texts)


def _cut(text: str) -> str:
    return text if len(text) <= _LENGTH else f"{text[: _LENGTH - 3]}..."
