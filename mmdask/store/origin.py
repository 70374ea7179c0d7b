"""Where the rows of a layer came from: what part.json says of inputs, and of parts that were merged.

It is for people and for conversions. Nothing that it names is ever opened.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mmdask.store import document

__all__ = ["Alias", "Merged", "NotFinite", "OldLayer", "Padded", "Source", "WeightSum"]

#: what the id of a layer is like
ID_PATTERN = r"[a-z0-9][a-z0-9-]{0,79}"
Scalar = bool | int | float | str


class Alias(NamedTuple):
    """A field that was computed from an input while it was converted, and the depths at which it may be missing."""

    name: str
    expression: str
    optional: tuple[int, ...] = ()


class WeightSum(NamedTuple):
    """A weight summed over all rows of an input, before any cut; nan where a sum is no finite number.

    `weight` is a canonical expression, `sum` the sum of weights and `sum2` that of their squares.
    """

    weight: str
    sum: float
    sum2: float


class Padded(NamedTuple):
    """How many rows of a field were longer than what they were padded to, and how many items of them were cut off.

    `nan` is how many nan padding put in.
    """

    field: str
    rows: int
    items: int
    nan: int = 0


class NotFinite(NamedTuple):
    """How many values of a field are nan or NaT, and infinite; None where that was not counted."""

    field: str
    nan: int | None
    inf: int | None


@dataclass(frozen=True)
class Source:
    """Where the rows of a part came from.

    Attributes
    ----------
    uri, tree : str
        The file, and what was read of it.
    start, stop : int
        Which of its rows: ``stop - start`` is their number before any cut.
    size, mtime_ns : int
        Of the file.
    fingerprint : str
        Of what it said of itself.
    skipped : tuple of (str, str)
        Fields that were left out, and why.
    cut : str
        Which of the rows were kept; all if empty.
    aliases : tuple of Alias
        What was computed from them.
    weights : tuple of WeightSum
        Sums over the rows before the cut.
    notes : tuple of (str, str)
        Fields that were others in the file, and how: of another name or type, or absent.
    padded : tuple of Padded
        What was cut off rows that were too long.
    hash : str
        xxh3-128 of the contents of the file, where a conversion was to compare contents (``check="hash"``).
    rows : int
        How many rows the store has from it.
    not_finite : tuple of NotFinite, or None
        Fields of which some of these rows have nan, NaT or infinities; None where parts were merged.
    """

    uri: str
    tree: str = ""
    start: int = 0
    stop: int = 0
    size: int = 0
    mtime_ns: int = 0
    fingerprint: str = ""
    skipped: tuple[tuple[str, str], ...] = ()
    cut: str = ""
    aliases: tuple[Alias, ...] = ()
    weights: tuple[WeightSum, ...] = ()
    rows: int = field(default=0, compare=False)
    notes: tuple[tuple[str, str], ...] = ()
    padded: tuple[Padded, ...] = ()
    not_finite: tuple[NotFinite, ...] | None = field(default=None, compare=False)
    hash: str = ""


class OldLayer(NamedTuple):
    """A layer of a part that was merged into another. It may be gone, and is never opened.

    `constants` are the values of fields that were the same in all rows.
    """

    id: str
    fields: tuple[str, ...]
    source: Source | None
    constants: tuple[tuple[str, Scalar], ...] = ()


class Merged(NamedTuple):
    """A part that was merged into a larger one: its rows, and the layers that it had."""

    rows: int
    layers: tuple[OldLayer, ...]


def dump_source(source: Source) -> dict[str, Any]:
    """A source as JSON."""
    entry: dict[str, Any] = {name: getattr(source, name) for name in ("uri", "tree", "start", "stop", "size")}
    entry |= {"mtime_ns": source.mtime_ns, "fingerprint": source.fingerprint}
    entry["skipped"] = [list(s) for s in source.skipped]
    if source.cut:
        entry["cut"] = source.cut
    if source.aliases:
        entry["aliases"] = [{**a._asdict(), "optional": list(a.optional)} for a in source.aliases]
    if source.weights:
        entry["weights"] = [{"weight": w, "sum": _finite(s), "sum2": _finite(s2)} for w, s, s2 in source.weights]
    if source.notes:
        entry["notes"] = [list(note) for note in source.notes]
    if source.padded:
        entry["padded"] = [
            {key: value for key, value in p._asdict().items() if key != "nan" or value} for p in source.padded
        ]
    if source.hash:
        entry["hash"] = source.hash
    return entry


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None


def dump_merged(merged: tuple[Merged, ...]) -> dict[str, Any]:
    """Parts that were merged as JSON."""
    # Lists of names stand there once: hundreds of inputs have the same hundreds of fields.
    names: dict[tuple[str, ...], int] = {}
    parts = []
    for part in merged:
        layers = []
        for old in part.layers:
            entry: dict[str, Any] = {"id": old.id, "fields": names.setdefault(old.fields, len(names))}
            if old.source is not None:
                entry["source"] = dump_source(old.source)
            if old.constants:
                entry["constants"] = dict(old.constants)
            layers.append(entry)
        parts.append({"rows": part.rows, "layers": layers})
    return {"fields": list(map(list, names)), "parts": parts}


def parse_source(r: document.Reader) -> Source | None:
    """The source in a layer's JSON, if there is one."""
    if r.value.get("source") is None:
        return None
    s = document.Reader(r.object("source"), f"{r.where}, source")
    return Source(
        s.text("uri"),
        s.text("tree", default=""),
        s.integer("start", 0),
        s.integer("stop", 0),
        s.integer("size", 0),
        s.integer("mtime_ns", 0),
        s.text("fingerprint", default=""),
        _pairs(s, "skipped"),
        s.text("cut", default=""),
        tuple(_parse_alias(a) for a in _readers(s, "aliases")),
        tuple(_parse_weight(w) for w in _readers(s, "weights")),
        notes=_pairs(s, "notes"),
        padded=tuple(
            Padded(p.text("field"), p.integer("rows"), p.integer("items"), p.integer("nan", 0))
            for p in _readers(s, "padded")
        ),
        hash=s.text("hash", default=""),
    )


def _pairs(r: document.Reader, key: str) -> tuple[tuple[str, str], ...]:
    """A list of pairs of texts that may be absent."""
    pairs = r.value.get(key, [])
    if not isinstance(pairs, list) or not all(
        isinstance(p, list) and len(p) == 2 and all(isinstance(t, str) for t in p) for p in pairs
    ):
        r.fail(key, "a list of pairs of texts")
    return tuple((a, b) for a, b in pairs)


def _readers(r: document.Reader, key: str) -> list[document.Reader]:
    """The objects of a list that may be absent."""
    entries = r.list(key) if key in r.value else []
    return [document.Reader(entry, f"{r.where}, {key} {i}") for i, entry in enumerate(entries)]


def _parse_alias(r: document.Reader) -> Alias:
    return Alias(r.text("name"), r.text("expression"), tuple(r.integers("optional", default=[])))


def _parse_weight(r: document.Reader) -> WeightSum:
    sums = []
    for key in ("sum", "sum2"):
        value = r.value.get(key)
        if value is None:
            sums.append(math.nan)
        elif type(value) in (int, float) and abs(value) <= sys.float_info.max:
            sums.append(float(value))
        else:
            r.fail(key, "a number, or null")
    return WeightSum(r.text("weight"), *sums)


def parse_merged(r: document.Reader, rows: int) -> tuple[Merged, ...]:
    """The parts that a layer of so many rows was made of, if it was."""
    if r.value.get("merged") is None:
        return ()
    m = document.Reader(r.object("merged"), f"{r.where}, merged")
    names = m.list("fields")
    if not all(isinstance(some, list) and all(isinstance(n, str) for n in some) for some in names):
        m.fail("fields", "lists of names of fields")
    fields = list(map(tuple, names))
    parts = []
    for i, entry in enumerate(m.list("parts")):
        p = document.Reader(entry, f"{m.where}, part {i}")
        layers = (document.Reader(old, f"{p.where}, layer {k}") for k, old in enumerate(p.list("layers")))
        parts.append(Merged(p.integer("rows"), tuple(_parse_old(old, fields) for old in layers)))
    if sum(p.rows for p in parts) != rows:
        m.fail("parts", f"of {rows} rows together, as the layer")
    return tuple(parts)


def _parse_old(r: document.Reader, fields: list[tuple[str, ...]]) -> OldLayer:
    number = r.integer("fields")
    if number >= len(fields):
        r.fail("fields", f"the number of a list of names, less than {len(fields)}")
    constants = r.object("constants", default={})
    for value in constants.values():
        is_number = isinstance(value, bool | float) or (type(value) is int and -(1 << 63) <= value < 1 << 64)
        if not is_number and not isinstance(value, str):
            r.fail("constants", "an object of texts, bools, integers of 64 bits and floats")
    return OldLayer(r.text("id", ID_PATTERN), fields[number], parse_source(r), tuple(constants.items()))
