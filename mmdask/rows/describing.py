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
import warnings
from collections.abc import Sequence
from typing import Any

import xxhash

from mmdask.expr import SEMANTICS
from mmdask.rows.masks import cache_folder
from mmdask.rows.passes import Runner, Task, run_serially
from mmdask.rows.reducing import Run, add_in_order, runs_of
from mmdask.rows.rows import Rows
from mmdask.rows.summary import Summary, summarize
from mmdask.rows.virtual import Derived, values_of
from mmdask.schema import Field, FieldData
from mmdask.store.files import is_own_folder, open_file
from mmdask.store.npy import checksum
from mmdask.store.snapshot import Snapshot
from mmdask.store.system import SYSTEM, write_atomically

__all__ = ["describe", "summary_layers"]

_MAGIC = b"mmdask-summary 1\n"
_MAX_NBYTES = 64 << 20
#: raised by hand when summaries mean something else
_VERSION = 1
_FOLDER = "summaries"


def describe(rows: Rows, names: Sequence[str], run: Runner = run_serially) -> dict[str, Summary]:
    """Summarize fields over the selected rows.

    Parameters
    ----------
    rows : Rows
        Which rows. Of parts of which all are selected, summaries are kept.
    names : sequence of str
        Which fields, also computed ones.
    run : callable
        Runs the tasks, which hand over sums; these are added in the order of the rows, whatever it does.

    Returns
    -------
    dict of Summary
        By name.
    """
    snapshot, selected = rows.snapshot, rows.resolve(run).parts
    what = {name: rows.derived.get(name) or snapshot.schema[name] for name in names}
    kept = _Kept(snapshot)
    found: dict[int, dict[str, Summary]] = {}
    left: dict[int, tuple[str, ...]] = {}
    for part, bits in enumerate(selected):
        if bits is not False and snapshot.parts[part].rows:
            found[part] = kept.load(part, what) if bits is True else {}
            left[part] = tuple([name for name in names if name not in found[part]])
    tasks: list[Task] = []
    n_tasks: dict[int, int] = {}
    for lacking, some in itertools.groupby([p for p in left if left[p]], key=left.__getitem__):
        for runs in runs_of(snapshot, selected, list(some)):
            tasks.append((_summarize, (runs, {name: what[name] for name in lacking})))
            for one in runs:
                n_tasks[one.part] = n_tasks.get(one.part, 0) + 1

    def add(_: None, results: list[tuple[int, dict[str, Summary]]]) -> None:
        for part, summaries in results:
            for name, summary in summaries.items():
                found[part][name] = found[part].get(name, Summary()) + summary
            n_tasks[part] -= 1
            if not n_tasks[part] and selected[part] is True:
                kept.save(part, {name: (what[name], found[part][name]) for name in summaries})

    add_in_order(run, tasks, None, add)
    totals = dict.fromkeys(names, Summary())
    for part in sorted(found):
        for name in names:
            totals[name] += found[part][name]
    return totals


def _summarize(runs: tuple[Run, ...], what: dict[str, Field | Derived]) -> list[tuple[int, dict[str, Summary]]]:
    """One task: summaries of some runs of rows."""
    reads = {read for name, f in what.items() for read in (f.expression.fields if isinstance(f, Derived) else [name])}
    found = []
    for run in runs:
        totals = dict.fromkeys(what, Summary())
        for block in run.blocks(reads):
            known: dict[str, FieldData] = {}

            def read(name: str, block: Any = block, known: dict[str, FieldData] = known) -> FieldData:
                if name not in known:
                    known[name] = block.read(name)
                return known[name]

            for name, f in what.items():
                if isinstance(f, Derived):
                    data = values_of(f, read, len(block), first_row=block.first_row)
                    totals[name] += summarize(f.field, data, block.inside)
                else:
                    totals[name] += summarize(f, read(name), block.inside)
        found.append((run.part, totals))
    return found


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
    """The files in which summaries are kept."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.above = cache_folder(snapshot)
        self.folder = os.path.join(self.above, _FOLDER)
        self._read: dict[str, dict[str, Any]] = {}
        self._broken = not is_own_folder(self.above, _FOLDER)

    def _text(self, part: int, name: str, what: Field | Derived) -> str:
        """What a file is about."""
        if isinstance(what, Derived):
            layers: dict[Any, str] = {read: self.snapshot.stored(part, read)[0].id for read in what.expression.fields}
            layers = layers or dict(enumerate(self.snapshot.parts[part].layers))
            about: dict[str, Any] = {"semantics": SEMANTICS, "computed": what.token, "layers": layers}
        else:
            about = {"layer": self.snapshot.stored(part, name)[0].id}
        return json.dumps({"summary": _VERSION, **about}, sort_keys=True)

    def load(self, part: int, what: dict[str, Field | Derived]) -> dict[str, Summary]:
        """What is kept of some fields."""
        found = {}
        for name, f in what.items():
            entry = self._entries(self._text(part, name, f)).get(_key(name, f))
            summary = None if entry is None else Summary.load(entry)
            if summary is not None:
                found[name] = summary
        return found

    def save(self, part: int, summaries: dict[str, tuple[Field | Derived, Summary]]) -> None:
        """Keep summaries of a whole part. A disk that takes nothing is a warning."""
        files: dict[str, dict[str, Any]] = {}
        for name, (f, summary) in summaries.items():
            files.setdefault(self._text(part, name, f), {})[_key(name, f)] = summary.dump()
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
                _make_folder(folder)
            path = os.path.join(self.folder, above, name)
            write_atomically(path, _MAGIC + checksum(body).encode() + b"\n" + body, durable=False)
        except OSError as error:
            self._broken = True
            message = f"a computed summary could not be kept in {self.folder}: {error}"
            warnings.warn(message, RuntimeWarning, stacklevel=2)


def _key(name: str, what: Field | Derived) -> str:
    return "" if isinstance(what, Derived) else name


def _make_folder(path: str) -> None:
    """Make a folder and those above it, unless they are there."""
    if not os.path.isdir(path):
        _make_folder(os.path.dirname(path))
        with contextlib.suppress(FileExistsError):
            SYSTEM.mkdir(path)
