"""What a state says for people of the data and the order that it is of, so that a difference can be named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mmdask.rows.selecting import Cut, Slice

if TYPE_CHECKING:
    from mmdask.batches.loader import Loader
    from mmdask.rows.rows import Rows

__all__ = ["difference", "words_of"]

#: of one text; a state is less than 1 kB
_LENGTH = 100
#: what the entries are called
_NAMES = {
    "store": "store",
    "rows": "rows of the store",
    "selection": "selection",
    "weights": "weights",
    "balance": "balance",
}


def words_of(loader: Loader) -> dict[str, Any]:
    """Which rows of how many, and how they are drawn; texts are cut."""
    rows = loader.rows
    found: dict[str, Any] = {"store": _store(rows), "rows": rows.n_store, "selection": _cut(_selection(rows))}
    if loader.weights is not None:
        found["weights"] = _cut(loader.weights.text)
    if loader.classes:
        found["balance"] = _cut(", ".join(f"{c.label}: {c.share:g}" for c in loader.classes))
    return found


def difference(theirs: object, mine: Mapping[str, Any], keys: tuple[str, ...] = tuple(_NAMES)) -> str:
    """Where two of these differ, in words; empty where they say the same, or one says nothing."""
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
