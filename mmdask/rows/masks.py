"""Cuts computed once: bits per part, kept in files named by what they are made of.

A mask is named by the hash of its cut's canonical text and the layers that the cut reads in that part. Parts are
immutable, so a mask is never stale; parts that were appended or converted again have other layers, and only they are
computed. The text stands in the file and is compared on every hit. Files are written beside their place and renamed,
so that processes which compute the same cut at once do no harm; nothing here is part of a commit.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from mmdask.expr import SEMANTICS, Expression, evaluate_bits, evaluate_cut
from mmdask.rows.bits import Bits, PartBits, and_bits, unpack
from mmdask.rows.reader import constant_in_part, read_part
from mmdask.schema import FieldData
from mmdask.store.cache import Cache
from mmdask.store.files import is_own_folder, open_file
from mmdask.store.npy import checksum
from mmdask.store.snapshot import Snapshot
from mmdask.store.system import SYSTEM, write_atomically

__all__ = ["Runner", "Task", "evaluate_rows", "kept_bits", "kept_each", "mask_layers", "passing", "run_serially"]

#: rows of one task; a multiple of 8, so that the bits of tasks join
TASK_ROWS = 1 << 20
#: rows evaluated at once, so that temporaries stay in cache
BLOCK_ROWS = 1 << 18
_MAGIC = b"mmdask-mask 1\n"
#: bytes of the line of a mask that says what it is
_MAX_HEAD = 16 << 20
_NO_BITS = np.zeros(0, np.uint8)
#: masks that were read, by path: each chunk of a cut needs a piece of one
LOADED: Cache[Bits] = Cache(128 << 20)

#: a function and its arguments
Task = tuple[Callable[..., Any], tuple[Any, ...]]
#: runs tasks in any order and yields their numbers and results
Runner = Callable[[Sequence[Task]], Iterator[tuple[int, Any]]]


def run_serially(tasks: Sequence[Task]) -> Iterator[tuple[int, Any]]:
    """Run tasks one after the other in this thread."""
    for i, (function, args) in enumerate(tasks):
        yield i, function(*args)


def evaluate_rows(snapshot: Snapshot, part: int, start: int, stop: int, cuts: Sequence[Expression]) -> list[Bits]:
    """Bits of several cuts for rows `start` to `stop` of a part, in one pass over their fields."""
    blocks: list[list[Bits]] = []
    first_row = int(snapshot.starts[part])
    for a in range(start, stop, BLOCK_ROWS):
        b = min(a + BLOCK_ROWS, stop)

        def read(name: str, a: int = a, b: int = b) -> FieldData:
            return read_part(snapshot, part, name, a, b)

        blocks.append(evaluate_bits(cuts, read, b - a, first_row=first_row + a))
    # Blocks are multiples of 8 rows, so their bits join.
    return [np.concatenate([_NO_BITS, *(block[k] for block in blocks)]) for k in range(len(cuts))]


def kept_bits(snapshot: Snapshot, cuts: Sequence[Expression], run: Runner = run_serially) -> list[PartBits]:
    """Per part the rows that pass all `cuts`, read where they are kept, else computed in one pass and kept.

    Parameters
    ----------
    snapshot : Snapshot
        The store.
    cuts : sequence of Expression
        Each is kept under a name of its own.
    run : callable
        Runs the tasks; each covers up to 2**20 rows of one part and returns bits.
    """
    store = _MaskFiles(snapshot)
    plans = [_part_plan(store, p, cuts) for p in range(len(snapshot.parts))]
    _compute(store, plans, run)
    return [plan.bits[0] for plan in plans]


def kept_each(
    snapshot: Snapshot, cuts: Sequence[Expression], run: Runner = run_serially, parts: Sequence[int] | None = None
) -> list[list[PartBits]]:
    """For each cut, per part the rows that pass it; otherwise as `kept_bits`, and as many passes: one.

    Parameters
    ----------
    snapshot, cuts, run
        As of `kept_bits`. All bits are in memory at once: for each cut one per row.
    parts : sequence of int, optional
        Only these parts, in this order; all by default.
    """
    store = _MaskFiles(snapshot)
    numbers = range(len(snapshot.parts)) if parts is None else parts
    plans = [_part_plan(store, p, cuts, each=True) for p in numbers]
    _compute(store, plans, run)
    return [[plan.bits[k] for plan in plans] for k in range(len(cuts))]


@dataclass
class _PartPlan:
    """What is known of one part, and which cuts have still to be computed there.

    `bits` has an entry for each cut, or one for all of them together; `slots` says which entry a missing cut is for.
    """

    part: int
    bits: list[PartBits]
    missing: list[Expression] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    pieces: list[list[Bits] | None] = field(default_factory=list)

    def add(self, slot: int, bits: PartBits) -> None:
        self.bits[slot] = and_bits(self.bits[slot], bits)

    def finish(self, store: _MaskFiles) -> None:
        for k, (cut, slot) in enumerate(zip(self.missing, self.slots, strict=True)):
            bits = np.concatenate([p[k] for p in self.pieces if p is not None])
            store.save(self.part, cut, bits)
            self.add(slot, bits)
        self.pieces = []


def _part_plan(store: _MaskFiles, part: int, cuts: Sequence[Expression], *, each: bool = False) -> _PartPlan:
    n = len(cuts) if each else 1
    if not store.snapshot.parts[part].rows:
        return _PartPlan(part, [False] * n)
    plan = _PartPlan(part, [True] * n)
    others = []
    for k, cut in enumerate(cuts):
        constant = store.constant(part, cut)
        if constant is False and not each:
            # A label or constant rules the part out: nothing of it is read.
            return _PartPlan(part, [False])
        if constant is None:
            others.append((k if each else 0, cut))
        else:
            plan.add(k if each else 0, constant)
    for slot, cut in others:
        bits = store.load(part, cut)
        if bits is None:
            plan.missing.append(cut)
            plan.slots.append(slot)
        else:
            plan.add(slot, bits)
    return plan


def _compute(store: _MaskFiles, plans: Sequence[_PartPlan], run: Runner) -> None:
    """Compute what is missing in some parts, each field once, and keep it."""
    tasks: list[Task] = []
    owners: list[tuple[_PartPlan, int]] = []
    for plan in plans:
        if not plan.missing:
            continue
        rows = store.snapshot.parts[plan.part].rows
        plan.pieces = [None] * len(range(0, rows, TASK_ROWS))
        for i, a in enumerate(range(0, rows, TASK_ROWS)):
            args = (store.snapshot, plan.part, a, min(a + TASK_ROWS, rows), tuple(plan.missing))
            tasks.append((evaluate_rows, args))
            owners.append((plan, i))
    if tasks:
        for number, pieces in run(tasks):
            plan, i = owners[number]
            plan.pieces[i] = pieces
            if all(p is not None for p in plan.pieces):
                plan.finish(store)


def passing(snapshot: Snapshot, part: int, start: int, stop: int, cuts: Sequence[Expression]) -> npt.NDArray[np.bool_]:
    """The mask of rows `start` to `stop` of a part: from bits that are kept, else evaluated for these rows alone."""
    plan = _part_plan(_MaskFiles(snapshot), part, cuts)
    [kept] = plan.bits
    mask = np.full(stop - start, kept) if isinstance(kept, bool) else unpack(kept, start, stop)
    if plan.missing and mask.any():
        for bits in evaluate_rows(snapshot, part, start, stop, plan.missing):
            mask &= unpack(bits, 0, stop - start)
    return mask


class _MaskFiles:
    """The masks of one store: in its cache folder if that is ours, else in the user's."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.folder = os.path.join(cache_folder(snapshot), "masks")
        self._constants: dict[tuple[Any, ...], bool] = {}

    def constant(self, part: int, cut: Expression) -> bool | None:
        """The value of a cut that reads only constants of a part; None if it reads data."""
        if not all(constant_in_part(self.snapshot, part, name) for name in cut.fields):
            return None
        values = tuple(self.snapshot.stored(part, name)[1].constant for name in cut.fields)
        key = (cut.canonical, values)
        if key not in self._constants:
            mask = evaluate_cut(cut, lambda name: read_part(self.snapshot, part, name, 0, 1), 1)
            self._constants[key] = bool(mask[0])
        return self._constants[key]

    def _text(self, part: int, cut: Expression) -> str:
        layers = {name: self.snapshot.stored(part, name)[0].id for name in cut.fields}
        return json.dumps({"semantics": SEMANTICS, "cut": cut.canonical, "layers": layers}, sort_keys=True)

    def _path(self, text: str) -> str:
        name = xxhash.xxh3_128_hexdigest(text.encode())
        return os.path.join(self.folder, name[:2], f"{name}.mask")

    def load(self, part: int, cut: Expression) -> Bits | None:
        """A kept mask, if it is whole and is what its name says."""
        text = self._text(part, cut)
        path = self._path(text)
        bits = LOADED.get(path)
        if bits is None:
            bits = self._read(path, text, self.snapshot.parts[part].rows)
            if bits is not None:
                LOADED.put(path, bits, bits.nbytes + 512)
        return bits

    def _read(self, path: str, text: str, rows: int) -> Bits | None:
        head = _head(text, rows).encode() + b"\n"
        start = len(_MAGIC) + 17
        size = start + len(head) + -(-rows // 8)
        folder, name = os.path.split(path)
        try:
            with open(open_file(self.folder, os.path.basename(folder), name), "rb") as file:
                data = file.read(size) if os.fstat(file.fileno()).st_size == size else b""
        except OSError:
            return None
        if data[: len(_MAGIC)] != _MAGIC or data[len(_MAGIC) : start] != checksum(data[start:]).encode() + b"\n":
            return None
        if not data.startswith(head, start) or (rows % 8 and data[-1] >> rows % 8):
            return None
        return np.frombuffer(data, np.uint8, offset=start + len(head))

    def save(self, part: int, cut: Expression, bits: Bits) -> None:
        """Keep a mask. A disk that takes nothing is a warning: the cut is computed, and works."""
        text = self._text(part, cut)
        path = self._path(text)
        rest = _head(text, self.snapshot.parts[part].rows).encode() + b"\n" + bits.tobytes()
        try:
            if not is_own_folder(self.folder, os.path.basename(os.path.dirname(path))):
                raise OSError(errno.ELOOP, "a link, which is not followed in a store")
            _make_folder(os.path.dirname(path))
            # What a power loss makes of it is found by its checksum, and computed again.
            write_atomically(path, _MAGIC + checksum(rest).encode() + b"\n" + rest, durable=False)
        except OSError as error:
            warnings.warn(f"a computed cut could not be kept in {self.folder}: {error}", RuntimeWarning, stacklevel=2)


def _make_folder(path: str) -> None:
    """Make a folder and those above it, unless they are there."""
    if not os.path.isdir(path):
        _make_folder(os.path.dirname(path))
        with contextlib.suppress(FileExistsError):
            SYSTEM.mkdir(path)


def _head(text: str, rows: int) -> str:
    return json.dumps({"rows": rows, "text": text})


def mask_layers(path: str) -> set[str] | None:
    """The layers that a kept mask was computed from; None when it is none, or damaged. No link is followed."""
    try:
        with open(open_file(os.path.dirname(path), os.path.basename(path)), "rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                return None
            file.readline(18)
            text = json.loads(json.loads(file.readline(_MAX_HEAD))["text"])
            return set(map(str, text["layers"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def cache_folder(snapshot: Snapshot) -> str:
    """Where computed things about a store are kept: in it if it is this user's, else in the user's cache.

    Bits that others could have written decide what passes a cut, so they are not read.
    """
    inside = os.path.join(snapshot.path, "cache")
    owner = inside if os.path.lexists(inside) else snapshot.path
    try:
        mine = os.stat(owner, follow_symlinks=False).st_uid == os.getuid() and os.access(owner, os.W_OK)
    except OSError:
        mine = False
    if mine and is_own_folder(snapshot.path, "cache", "masks"):
        return inside
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(home, "mmdask", snapshot.manifest.uuid)
