"""Damage of every kind to every file of a store: `verify` must name the file and the rows, `open` a bad manifest.

What is right is found from the JSON and the bytes alone, before anything is damaged.
"""

from __future__ import annotations

import glob
import os
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

import mmdask as mm
from mmdask.rows.cuts.masks import LOADED
from tests.faults import sizes
from tests.faults.children import in_parallel
from tests.faults.content import ALL, EDGES, FIELDS, State, Wrong, new_state, value
from tests.faults.report import Result
from tests.faults.steps import assign_array, assign_expression, keep_cut
from tests.faults.tidy import HEADER, load, memory_folder, named_layers, names, scratch

#: rows of the parts; the long one has arrays of more than a page, and of several extents
BLOCKS = (range(7), range(1000, 9000), range(9000, 9003))
BIG = mm.Field.dense("big", "u1", (1200,))
SECTOR = 512

#: a damage: the bytes of a file, and the first and last one that differ; None if nothing would
Damaged = tuple[bytes, int, int] | None


def make_store(path: str) -> State:
    """A store of all kinds of fields and files, some of which only older generations name."""
    state = new_state(ALL, ())
    fields = [*(FIELDS[name] for name in ALL), BIG]
    for number, ids in enumerate(BLOCKS):
        labels = {"label": value("label", ids[0])}
        with mm.append(path, labels=labels) if number else mm.create(path, fields=fields, labels=labels) as w:
            w.extend({**state.rows(ids), "big": np.full((len(ids), 1200), number, "u1")})
        state = state.with_rows(ids)
    state = assign_expression(path, assign_array(path, state))
    state = assign_array(path, state, 1, replace=True)
    mm.annotate(path, fields={"id": {"unit": "1"}}, aux={"edges": EDGES})
    state = State(state.ids, state.salts, "1", edges=True)
    keep_cut(path, state)
    return state


@dataclass
class ArrayFile:
    """One array: whose, and what its elements are. `above` are the offsets on the way to rows, outermost first."""

    users: set[str] = field(default_factory=set)
    depth: int = 0
    is_offsets: bool = False
    above: list[np.ndarray[Any, Any]] = field(default_factory=list)
    length: int = 0
    nbytes: int = 0

    def rows(self, first: int, last: int, n_rows: int) -> tuple[int, int]:
        """The rows, first and behind the last, that data bytes `first` to `last` may belong to."""
        if not self.length or not self.nbytes:
            return 0, 0
        width = self.nbytes // self.length
        start, stop = first // width, last // width + 1
        if self.is_offsets:
            # an entry ends one element and begins the next
            start, stop = max(start - 1, 0), min(stop, self.length - 1)
        for offsets in reversed(self.above):
            start = int(np.searchsorted(offsets, start, side="right")) - 1
            stop = int(np.searchsorted(offsets, stop, side="left"))
        return max(start, 0), min(stop, n_rows)


def array_files(root: str, layer: str) -> dict[str, ArrayFile]:
    """The array files of a layer."""
    info = load(os.path.join(root, "parts", layer, "part.json"))
    found: dict[str, ArrayFile] = defaultdict(ArrayFile)
    for name, stored in info["fields"].items():
        if stored.get("values") is None:
            continue
        offsets = stored.get("offsets", [])
        loaded = [np.load(os.path.join(root, "parts", layer, info["arrays"][n]["file"])) for n in offsets]
        roles = [(n, depth, True) for depth, n in enumerate(offsets)] + [(stored["values"], len(offsets), False)]
        roles += [(n, depth, False) for depth, n in enumerate(stored.get("valid", [])) if n is not None]
        roles += [(stored["shapes"], 0, False)] if stored.get("shapes") is not None else []
        for number, depth, is_offsets in roles:
            entry = found[info["arrays"][number]["file"]]
            entry.users.add(name)
            entry.depth, entry.is_offsets, entry.above = depth, is_offsets, loaded[:depth]
            entry.length = info["arrays"][number]["shape"][0]
            entry.nbytes = os.path.getsize(os.path.join(root, "parts", layer, info["arrays"][number]["file"])) - HEADER
    return dict(found)


# ---- what can happen to a file


def flip(data: bytes, rng: random.Random) -> Damaged:
    at = _somewhere(data, rng)
    return _put(data, at, bytes([data[at] ^ 1 << rng.randrange(8)])) if data else None


def zero(data: bytes, rng: random.Random) -> Damaged:
    start = rng.randrange(-(-len(data) // SECTOR)) * SECTOR if data else 0
    return _put(data, start, bytes(len(data[start : start + SECTOR])))


def swap_sectors(data: bytes, rng: random.Random) -> Damaged:
    if len(data) < 2 * SECTOR:
        return None
    a, b = sorted(rng.sample(range(len(data) // SECTOR), 2))
    a, b = a * SECTOR, b * SECTOR
    one, other = data[a : a + SECTOR], data[b : b + SECTOR]
    new = data[:a] + other + data[a + SECTOR : b] + one + data[b + SECTOR :]
    return (new, a, b + SECTOR - 1) if new != data else None


def truncate(data: bytes, rng: random.Random) -> Damaged:
    return (data[: rng.choice([0, _somewhere(data, rng)])], 0, len(data) - 1) if data else None


def extend(data: bytes, rng: random.Random) -> Damaged:
    more = rng.choice([b"\0", rng.randbytes(rng.randint(1, 5000)), bytes(4096)])
    return data + more, 0, len(data) + len(more) - 1


def _somewhere(data: bytes, rng: random.Random) -> int:
    """A byte: in one of three cases of the first 4,096, which are the header of an array."""
    return rng.randrange(min(len(data), HEADER) if rng.random() < 0.3 else len(data))


def _put(data: bytes, at: int, piece: bytes) -> Damaged:
    old = data[at : at + len(piece)]
    differ = [i for i, (a, b) in enumerate(zip(old, piece, strict=True)) if a != b]
    return (data[:at] + piece + data[at + len(piece) :], at + differ[0], at + differ[-1]) if differ else None


WITHIN: dict[str, Callable[[bytes, random.Random], Damaged]] = {
    "bit flips": flip,
    "zeroed sectors": zero,
    "swapped sectors": swap_sectors,
    "truncations": truncate,
    "extensions": extend,
}
#: and to files as a whole
WHOLE = ("removed files", "swapped files", "emptied files", "files turned into folders", "files turned into links")


@dataclass
class Target:
    """A store, what it holds, and where the rows of its layers are."""

    root: str
    state: State
    first_rows: dict[str, tuple[int, int]]
    arrays: dict[str, dict[str, ArrayFile]]
    generation_of: dict[str, int]
    files: list[str]
    groups: dict[str, list[str]]

    @classmethod
    def make(cls, root: str) -> Target:
        state = make_store(root)
        newest = load(os.path.join(root, "manifest.json"))
        rows: dict[str, tuple[int, int]] = {}
        generation_of = dict.fromkeys(named_layers(newest), newest["generation"])
        past = sorted(os.listdir(os.path.join(root, "history")), reverse=True)
        documents = [newest, *(load(os.path.join(root, "history", name)) for name in past)]
        for document in documents:
            start = 0
            for n, layers in zip(document["parts"]["rows"], document["parts"]["layers"], strict=True):
                for layer in layers:
                    rows.setdefault(layer, (start, n))
                start += n
            for layer in named_layers(document):
                generation_of.setdefault(layer, document["generation"])
        files = sorted(n for n in names(root) if not n.endswith("/"))
        groups: dict[str, list[str]] = defaultdict(list)
        for file in files:
            groups[kind_of(file, newest["generation"])].append(file)
        arrays = {layer: array_files(root, layer) for layer in generation_of}
        return cls(root, state, rows, arrays, generation_of, files, dict(groups))


def kind_of(file: str, newest: int) -> str:
    """What a file of a store is."""
    if file == "manifest.json":
        return "manifest.json"
    if file.startswith("history/"):
        return "history"
    if file.endswith("part.json"):
        return "part.json"
    if file.startswith("parts/"):
        return "arrays"
    return "masks" if file.startswith("cache/") else file


def damage_whole(target: Target, file: str, kind: str, rng: random.Random) -> Callable[[], None] | None:
    """Do something to a file as a whole; returns what undoes it, or None if nothing was done."""
    path = os.path.join(target.root, file)
    aside = path + ".aside"
    if kind == "swapped files":
        same = [f for f in target.files if f != file and kind_of(f, 0) == kind_of(file, 0)]
        if not same:
            return None
        other = os.path.join(target.root, rng.choice(same))
        if _bytes(path) == _bytes(other):
            return None

        def swap() -> None:
            os.rename(path, aside)
            os.rename(other, path)
            os.rename(aside, other)

        swap()
        return swap
    os.rename(path, aside)
    if kind == "emptied files":
        open(path, "wb").close()
    elif kind == "files turned into folders":
        os.mkdir(path)
    elif kind == "files turned into links":
        os.symlink(aside, path)

    def undo() -> None:
        if kind == "files turned into folders":
            os.rmdir(path)
        os.rename(aside, path)

    return undo


def _bytes(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _replace(path: str, data: bytes) -> None:
    """Put bytes in place of a file; never into the file itself, which may be mapped."""
    with open(path + ".new", "wb") as file:
        file.write(data)
    os.rename(path + ".new", path)


# ---- what must be found


def check_found(target: Target, file: str, span: tuple[int, int] | None) -> str:
    """Raise `Wrong` unless the damage to a file is found, and no other; says how it was found.

    `span` are the first and last byte of the file that differ; None for all of it.
    """
    kind = kind_of(file, 0)
    if kind == "manifest.json":
        try:
            mm.open(target.root)
        except (mm.CorruptStoreError, mm.FormatError, mm.StoreNotFoundError):
            return "found by open"
        raise Wrong("open took a damaged manifest")
    if kind == "masks":
        LOADED.clear()  # so that the file is read
        if file.endswith(".mask"):  # nor is it while its selection is kept as such, which is written again
            for counts in glob.glob(os.path.join(target.root, "cache", "masks", "*", "*.rows")):
                os.unlink(counts)
        keep_cut(target.root, target.state)
        return "masks made again"
    if kind == "history" and not os.path.lexists(os.path.join(target.root, file)):
        if not mm.verify(target.root).ok:
            raise Wrong("a generation that vacuum may have taken is missed")
        return "history documents that are gone, not missed"
    if kind == ".lock":
        if not mm.verify(target.root).ok:
            raise Wrong("the bytes of the lock file have a meaning")
        return "without meaning"
    generation = None
    layer = file.split("/")[1] if file.startswith("parts/") else ""
    newest = load(os.path.join(target.root, "manifest.json"))["generation"]
    if layer and target.generation_of[layer] != newest:
        generation = target.generation_of[layer]
    report = mm.verify(target.root) if generation is None else mm.verify(target.root, generation=generation)
    problems = [p for p in report.problems if p.file == file]
    if not problems:
        raise Wrong(f"verify did not name the file: {[str(p) for p in report.problems[:5]]}")
    others = {p.file for p in report.problems} - {file, "manifest.json"}
    if others and span is not None:
        raise Wrong(f"verify also named {others}")
    if layer in target.first_rows:
        check_rows_named(target, file, layer, span, problems)
    return "found by verify"


def check_rows_named(target: Target, file: str, layer: str, span: tuple[int, int] | None, problems: list[Any]) -> None:
    """Raise `Wrong` unless the rows that the damage may touch are named."""
    start, n = target.first_rows[layer]
    first, stop = 0, n
    name = os.path.basename(file)
    if span is not None and name != "part.json" and span[1] < HEADER:
        return  # the header: numpy.load needs it, mmdask does not
    if name != "part.json":
        array = target.arrays[layer][name]
        damaged = (0, array.nbytes - 1) if span is None else (max(span[0] - HEADER, 0), span[1] - HEADER)
        first, stop = array.rows(*damaged, n)
    if stop <= first:
        return
    ranges = sorted(p.rows or (start, start + n) for p in problems)
    reached = start + first
    for a, b in ranges:
        if a <= reached:
            reached = max(reached, b)
    if reached < start + stop:
        raise Wrong(f"rows {start + first} to {start + stop - 1} may be wrong, verify named {ranges[:5]}")


def one_damage(target: Target, kind: str, rng: random.Random) -> tuple[str, str] | None:
    """Damage one file, see that it is found, and repair it; returns the kind of file and how it was found."""
    # every kind of file in turn, and large arrays as often as small files
    group = rng.choice([*target.groups, "arrays", "arrays", "arrays"])
    file = rng.choice(target.groups[group])
    path = os.path.join(target.root, file)
    if kind in WHOLE:
        undo, span = damage_whole(target, file, kind, rng), None
        if undo is None:
            return None
    else:
        original = _bytes(path)
        damaged = WITHIN[kind](original, rng)
        if damaged is None:
            return None
        data, first, last = damaged
        span = (first, last) if len(data) == len(original) else None
        _replace(path, data)

        def undo() -> None:
            _replace(path, original)

    try:
        return group, check_found(target, file, span)
    except (Wrong, mm.MmdaskError, OSError) as error:
        raise Wrong(f"{kind} in {file}{f' bytes {span[0]} to {span[1]}' if span else ''}: {error!r}") from error
    finally:
        undo()


def run_some(count: int, seed: int, first_only: bool) -> Result:
    """So many damages to one store."""
    result, rng = Result("corruption"), random.Random(seed)
    with scratch(memory_folder()) as folder:
        target = Target.make(os.path.join(folder, "s.mm"))
        kinds = [*WITHIN, *WITHIN, *WHOLE]
        while result.counts["damages"] < count:
            kind = kinds[result.counts["damages"] % len(kinds)]
            try:
                done = one_damage(target, kind, rng)
            except Wrong as error:
                result.failures.append(f"corruption, damage {result.counts['damages'] + 1} of seed {seed}: {error}")
                if first_only:
                    break
                done = "", "missed"
            if done is not None:
                result.counts["damages"] += 1
                result.counts[kind] += 1
                result.counts[done[1]] += 1
        if not (report := mm.verify(target.root)).ok:
            result.failures.append(f"corruption, the store was not repaired: {report}")
    return result


def run(count: int, *, seed: int = 1, processes: int = 2, first_only: bool = False) -> Result:
    """The campaign: so many damages, and files of a wrong size read in every way."""
    result = Result("corruption")
    share = -(-count // processes)
    for one in in_parallel([partial(_run_plain, share, seed + i, first_only) for i in range(processes)], processes):
        result.add(one)
    result.add(sizes.run(max(count // 10, 40), seed=seed))
    result.need("damages", count)
    return result.finish()


def _run_plain(count: int, seed: int, first_only: bool) -> dict[str, Any]:
    return run_some(count, seed, first_only).plain()
