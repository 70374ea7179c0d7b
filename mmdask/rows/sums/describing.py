"""Summaries of fields of a store: read where they are kept, else computed in one pass, and kept.

What is known of the stored fields of a layer is one small file in the cache folder, beside the kept cuts; of a field
that is computed there is a file for each part. Its name is the hash of what it is about: layers are immutable, so none
is ever stale, and when rows are appended they alone are looked at. Only whole parts are kept. The text and a checksum
stand in the file.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import xxhash

from mmdask.errors import OptionError
from mmdask.expr import SEMANTICS, Expression, evaluate
from mmdask.rows.bits import PartBits
from mmdask.rows.cuts.masks import cache_folder, make_folder, warn_not_kept
from mmdask.rows.cuts.passes import Runner, Task, run_serially
from mmdask.rows.rows import Rows
from mmdask.rows.sums.adding import Node, Sum, branch, in_order, nodes_of, sum_of
from mmdask.rows.sums.moments import Moments, moments
from mmdask.rows.sums.reducing import Block, Run, most_of, of_one_part, tree_of_part
from mmdask.rows.sums.summary import Summary, summarize
from mmdask.rows.views.virtual import Derived, values_of
from mmdask.schema import Field, FieldData
from mmdask.store.arrays.files import is_own_folder, open_file
from mmdask.store.arrays.npy import checksum
from mmdask.store.snapshot import Snapshot
from mmdask.store.system import write_atomically

__all__ = ["describe", "summary_layers", "weighted"]

_MAGIC = b"mmdask-summary 1\n"
_MAX_NBYTES = 64 << 20
#: raised by hand when summaries mean something else
_VERSION = 1
_MOMENTS_VERSION = 1
_FOLDER = "summaries"
#: so many sums of parts and fields are in memory at once
_HELD = 1 << 20

S = TypeVar("S", Summary, Moments)


class Statistic(ABC, Generic[S]):
    """What is computed of a field, block by block, added up and kept."""

    field: Field | Derived

    def reads(self) -> tuple[str, ...]:
        """The stored fields that it needs besides those of `field`."""
        return ()

    def about(self) -> dict[str, Any]:
        """What tells it from others of the same field; nothing for that of `describe`."""
        return {}

    @abstractmethod
    def nothing(self) -> S:
        """That of no rows."""

    @abstractmethod
    def of(self, field: Field, data: FieldData, block: Block, read: Callable[[str], FieldData]) -> S:
        """That of a block of rows."""

    @abstractmethod
    def load(self, entry: object) -> S | None:
        """What its `dump` gave; None if it is something else."""


@dataclass(frozen=True)
class Summarized(Statistic[Summary]):
    """The summary of a field."""

    field: Field | Derived

    def nothing(self) -> Summary:
        return Summary()

    def of(self, field: Field, data: FieldData, block: Block, read: Callable[[str], FieldData]) -> Summary:
        return summarize(field, data, block.inside)

    def load(self, entry: object) -> Summary | None:
        return Summary.load(entry)


@dataclass(frozen=True)
class Weighted(Statistic[Moments]):
    """Mean and spread of a field, weighted."""

    field: Field | Derived
    weight: Expression | None

    def reads(self) -> tuple[str, ...]:
        return () if self.weight is None else tuple(self.weight.fields)

    def nothing(self) -> Moments:
        return Moments.nothing(_field(self.field).shape)

    def of(self, field: Field, data: FieldData, block: Block, read: Callable[[str], FieldData]) -> Moments:
        weights = None
        if self.weight is not None:
            result = evaluate(self.weight, read, len(block), first_row=block.first_row)
            weights = result.values.astype(np.float64)
            if result.known is not None:
                weights[~result.known] = np.nan
            wrong = ~np.isfinite(weights) if block.inside is None else ~np.isfinite(weights) & block.inside
            if wrong.any():
                row = block.first_row + int(wrong.argmax())
                raise OptionError(
                    f"weight={self.weight.text.strip()!r} is nan, infinite or missing in row {row} of "
                    f"{block.snapshot.path}; select the rows that have a weight, or write what stands for it"
                )
        return moments(field, data, block.inside, weights)

    def load(self, entry: object) -> Moments | None:
        return Moments.load(entry, _field(self.field).shape)

    def about(self) -> dict[str, Any]:
        return {"moments": _MOMENTS_VERSION, "weight": None if self.weight is None else self.weight.canonical}


def _field(field: Field | Derived) -> Field:
    return field.field if isinstance(field, Derived) else field


def describe(rows: Rows, names: Sequence[str], run: Runner = run_serially) -> dict[str, Summary]:
    """Summarize fields over the selected rows; the parameters are those of `sums_of`."""
    return sums_of(
        rows, {name: Summarized(rows.derived.get(name) or rows.snapshot.schema[name]) for name in names}, run
    )


def weighted(
    rows: Rows, names: Sequence[str], weight: Expression | None = None, run: Runner = run_serially
) -> dict[str, Moments]:
    """Weighted means and spreads of fields over the selected rows; see `sums_of`.

    Raises
    ------
    OptionError
        When a weight of a selected row is nan, infinite or missing.
    """
    what = {name: Weighted(rows.derived.get(name) or rows.snapshot.schema[name], weight) for name in names}
    return sums_of(rows, what, run)


def sums_of(rows: Rows, what: Mapping[str, Statistic[S]], run: Runner) -> dict[str, S]:
    """Add up something about fields over the selected rows.

    Parameters
    ----------
    rows : Rows
        Which rows. Of parts of which all are selected, summaries are kept.
    what : mapping of Statistic
        By the names of fields, also computed ones.
    run : callable
        Runs the tasks, which hand over sums of parts: those of a part are added as `adding` says, and those of parts
        in their order, whatever it does.

    Returns
    -------
    dict
        The sums by name.
    """
    selected = rows.resolve(run).parts
    numbers = [p for p, bits in enumerate(selected) if bits is not False and rows.snapshot.parts[p].rows]
    most = most_of(sum(rows.snapshot.parts[p].rows for p in numbers))
    totals = {name: statistic.nothing() for name, statistic in what.items()}
    at_once = max(1, _HELD // max(len(what), 1))
    for i in range(0, len(numbers), at_once):
        for sums in _sums_of_parts(rows.snapshot, selected, numbers[i : i + at_once], what, run, most):
            totals = {name: total + sums[name] for name, total in totals.items()}
    return totals


def _sums_of_parts(
    snapshot: Snapshot,
    selected: Sequence[PartBits],
    numbers: Sequence[int],
    what: Mapping[str, Statistic[S]],
    run: Runner,
    most: int,
) -> list[dict[str, S]]:
    """The sums of some parts, of which the whole ones are read where they are kept, and kept."""
    folders = {store.key: _Kept(snapshot, store) for store in snapshot.stores}
    found: dict[int, dict[str, S]] = {}
    left: dict[int, tuple[str, ...]] = {}
    for part in numbers:
        found[part] = folders[snapshot.home(part).key].load(part, what) if selected[part] is True else {}
        left[part] = tuple([name for name in what if name not in found[part]])
    tasks: list[Task] = []
    adding: dict[int, Sum[Run, dict[str, S]]] = {}
    for lacking, some in itertools.groupby([p for p in numbers if left[p]], key=left.__getitem__):
        parts = {part: tree for part in some if (tree := tree_of_part(snapshot, part, selected[part])) is not None}
        tree = branch(parts.values())
        nodes = [] if tree is None else nodes_of(tree, lambda node: node.weight <= most)
        pieces: dict[int, list[Node[Run]]] = {part: [] for part in parts}
        for node in nodes:
            for piece in nodes_of(node, of_one_part):
                pieces[piece.leaves[0].part].append(piece)
        for part, each in pieces.items():
            adding[part] = Sum(parts[part], each, _added)
        tasks += [(_summarize, (node, {name: what[name] for name in lacking})) for node in nodes]

    def take(results: list[tuple[int, dict[str, S]]]) -> None:
        for part, sums in results:
            adding[part].take(sums)
            if (total := adding[part].total) is not None:
                del adding[part]
                found[part] |= total
                if selected[part] is True:
                    kept = folders[snapshot.home(part).key]
                    kept.save(part, {name: (what[name], sums) for name, sums in total.items()})

    in_order(run, tasks, take)
    return [found[part] for part in numbers]


def _added(a: dict[str, S], b: dict[str, S]) -> dict[str, S]:
    return {name: sums + b[name] for name, sums in a.items()}


def _summarize(node: Node[Run], what: dict[str, Statistic[S]]) -> list[tuple[int, dict[str, S]]]:
    """One task: the sums of each part below a node, or of a piece of one."""
    pieces = nodes_of(node, of_one_part)
    return [(piece.leaves[0].part, sum_of(piece, lambda run: _sums_of_run(run, what), _added)) for piece in pieces]


def _sums_of_run(run: Run, what: dict[str, Statistic[S]]) -> dict[str, S]:
    reads = {name for key, statistic in what.items() for name in _reads(key, statistic)}
    totals = {name: statistic.nothing() for name, statistic in what.items()}
    for block in run.blocks(reads):
        read = _once(block)
        for name, statistic in what.items():
            f = statistic.field
            if isinstance(f, Derived):
                data = values_of(f, read, len(block), first_row=block.first_row)
            else:
                data = read(name)
            totals[name] = totals[name] + statistic.of(_field(f), data, block, read)
    return totals


def _once(block: Block) -> Callable[[str], FieldData]:
    """A reader of the fields of a block that reads each once."""
    known: dict[str, FieldData] = {}

    def read(name: str) -> FieldData:
        if name not in known:
            known[name] = block.read(name)
        return known[name]

    return read


def _reads(name: str, statistic: Statistic[Any]) -> set[str]:
    """The stored fields that a statistic reads."""
    f = statistic.field
    return {*(f.expression.fields if isinstance(f, Derived) else [name]), *statistic.reads()}


def summary_layers(path: str) -> set[str] | None:
    """The layers that a kept summary is of; None when it is none, or damaged. No link is followed."""
    try:
        with open(open_file(os.path.dirname(path), os.path.basename(path)), "rb") as file:
            head, _, body = file.read(_MAX_NBYTES).partition(_MAGIC)[2].partition(b"\n")
        if head != checksum(body).encode():
            return None
        about = json.loads(json.loads(body)["text"])
        return set(map(str, about["layers"].values() if "layers" in about else [about["layer"]]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


class _Kept:
    """The files in which summaries of parts of a snapshot are kept, with the store that these are in."""

    def __init__(self, snapshot: Snapshot, store: Snapshot) -> None:
        self.snapshot = snapshot
        self.above = cache_folder(store)
        self.folder = os.path.join(self.above, _FOLDER)
        self._read: dict[str, dict[str, Any]] = {}
        self._broken = not store.on_disk or not is_own_folder(self.above, _FOLDER)

    def _text(self, part: int, name: str, what: Statistic[S]) -> str:
        """What a file is about."""
        f = what.field
        if isinstance(f, Derived) or what.reads():
            layers: dict[Any, str] = {read: self.snapshot.stored(part, read)[0].id for read in _reads(name, what)}
            layers = layers or dict(enumerate(self.snapshot.parts[part].layers))
            about: dict[str, Any] = {"semantics": SEMANTICS, "layers": layers}
            if isinstance(f, Derived):
                about["computed"] = f.token
        else:
            below, number, known = self.snapshot.source(part, name)
            about = {"layer": below.stored(number, known)[0].id}
        return json.dumps({"summary": _VERSION, **about, **what.about()}, sort_keys=True)

    def _key(self, part: int, name: str, what: Statistic[S]) -> str:
        return "" if isinstance(what.field, Derived) else self.snapshot.source(part, name)[2]

    def load(self, part: int, what: Mapping[str, Statistic[S]]) -> dict[str, S]:
        """What is kept of some fields."""
        found = {}
        for name, statistic in what.items():
            entry = self._entries(self._text(part, name, statistic)).get(self._key(part, name, statistic))
            known = None if entry is None else statistic.load(entry)
            if known is not None:
                found[name] = known
        return found

    def save(self, part: int, sums: Mapping[str, tuple[Statistic[S], S]]) -> None:
        """Keep sums over a whole part. A disk that takes nothing is a warning."""
        files: dict[str, dict[str, Any]] = {}
        for name, (statistic, found) in sums.items():
            entries = files.setdefault(self._text(part, name, statistic), {})
            entries[self._key(part, name, statistic)] = found.dump()
        for text, new in files.items():
            self._read.pop(text, None)  # what others wrote meanwhile
            self._write(text, {**self._entries(text), **new})

    def _path(self, text: str) -> tuple[str, str]:
        name = xxhash.xxh3_128_hexdigest(text.encode())
        return name[:2], f"{name}.summary"

    def _entries(self, text: str) -> dict[str, Any]:
        if text not in self._read:
            self._read[text] = {} if self._broken else self._load(text)
        return self._read[text]

    def _load(self, text: str) -> dict[str, Any]:
        try:
            with open(open_file(self.above, _FOLDER, *self._path(text)), "rb") as file:
                data = file.read(_MAX_NBYTES)
        except OSError:
            return {}
        head, _, body = data.removeprefix(_MAGIC).partition(b"\n")
        if not data.startswith(_MAGIC) or head != checksum(body).encode():
            return {}
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(body)
            if isinstance(found, dict) and found.get("text") == text and isinstance(found.get("fields"), dict):
                fields: dict[str, Any] = found["fields"]
                return fields
        return {}

    def _write(self, text: str, entries: dict[str, Any]) -> None:
        body = json.dumps({"text": text, "fields": entries}).encode()
        above, name = self._path(text)
        if self._broken:
            return
        try:
            if not is_own_folder(self.above, _FOLDER, above):
                raise OSError("a link, which is not followed in a store")
            for folder in (self.above, self.folder, os.path.join(self.folder, above)):
                make_folder(folder)
            path = os.path.join(self.folder, above, name)
            write_atomically(path, _MAGIC + checksum(body).encode() + b"\n" + body, durable=False)
        except OSError as error:
            self._broken = True
            warn_not_kept(self.above, error)
