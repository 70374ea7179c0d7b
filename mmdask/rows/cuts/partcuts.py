"""What is known of cuts in one part: which are settled or kept, what has to be computed, and how it is put together.

A cut is a tree of ``and``, ``or`` and ``not`` over leaves. Kept are its leaves, three-valued where they can be missing:
the operands of ``and`` are kept apart, ``not`` is never kept, as it follows from its operand. An ``or`` is one leaf,
unless one of its operands is kept already or is a cut of a key: then its other operands are kept, too. What is kept is
combined by bit arithmetic and never evaluated again. In a part of which the operands of an ``and`` rule out most rows
by what is known without data, it is one leaf: so the rest of their fields is not read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mmdask.errors import ExpressionError, OptionError
from mmdask.expr import Expression, combine, operands
from mmdask.rows.bits import GRAIN, Bits, PartBits, RowBits, Tri, and_bits, count_bits, not_bits, or_bits, plain
from mmdask.rows.blocks import evaluate_rows
from mmdask.rows.cuts.keyed import is_keyed, source_of
from mmdask.rows.cuts.masks import Mask, MaskFiles
from mmdask.rows.cuts.skip import FALSE, NONE, TRUE, UNKNOWN, settled_parts
from mmdask.store.snapshot import Snapshot

__all__ = [
    "OwnTask",
    "PartCuts",
    "Settled",
    "Task",
    "Tree",
    "evaluate_several",
    "keyed_task",
    "not_kept",
    "together",
    "tree_of",
]

#: rows of one task; a multiple of a grain, so that the bits of tasks join
TASK_ROWS = 1 << 20

#: from so many tasks on those of small parts are done together, how many of them at most, and how many there are then
MANY_TASKS, _TOGETHER, _MOST_TASKS = 256, 64, 1 << 14

#: share of a part that is ruled out, from which on the rest is read alone
_MOST = 0.5

#: a function and its arguments
Task = tuple[Callable[..., Any], tuple[Any, ...]]


# Trees --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tree:
    """A cut, and those that it joins by `op`; a leaf joins none."""

    op: str
    cut: Expression
    args: tuple[Tree, ...]
    keyed: bool

    @property
    def text(self) -> str:
        return self.cut.canonical


def tree_of(cut: Expression) -> Tree:
    op, args = operands(cut)
    trees = tuple(map(tree_of, args))
    return Tree(op, cut, trees, is_keyed(cut) or any(t.keyed for t in trees))


def _joined(op: str, args: Sequence[Tri], rows: int) -> Tri:
    """Three-valued logic; what was not asked of an operand is not known of the result."""
    if op == "not":
        [x] = args
        return Tri(x.false, x.true)

    def all_of(bits: Iterable[PartBits]) -> PartBits:
        return reduce(and_bits, bits)

    def any_of(bits: Iterable[PartBits]) -> PartBits:
        return reduce(lambda a, b: or_bits(a, b, rows), bits)

    conjunction = op == "and"
    true, false = ([bits for bits in side if bits is not None] for side in zip(*args, strict=True))
    return Tri(
        None if len(true) < len(args) else all_of(true) if conjunction else any_of(true),
        None if len(false) < len(args) else any_of(false) if conjunction else all_of(false),
    )


def _tri(mask: Mask, rows: int) -> Tri:
    if mask.known is None:
        return Tri(mask.true, None)
    return Tri(mask.true, and_bits(mask.known, not_bits(mask.true, rows)))


# Parts --------------------------------------------------------------------------------------------------------------


class Settled:
    """What is known of cuts without reading data, for all parts that are asked for, each cut once."""

    def __init__(self, snapshot: Snapshot, parts: Sequence[int]) -> None:
        self.snapshot = snapshot
        self.parts = parts
        self._found: dict[str, dict[int, npt.NDArray[np.uint8]]] = {}
        self._joints: dict[tuple[str, ...], Tree | None] = {}

    def joint(self, trees: Sequence[Tree], part: int) -> Tree | None:
        """Cuts that must all be true as one leaf, if they rule out most of a part together.

        Only the rest is read then, of all their fields. Each by itself would be read where the others rule it out.
        """
        if len(trees) < 2 or any(tree.keyed for tree in trees) or _ruled_out([self.of(t, part) for t in trees]) < _MOST:
            return None
        key = tuple([tree.text for tree in trees])
        if key not in self._joints:
            try:
                cut = reduce(partial(combine, "and"), [tree.cut for tree in sorted(trees, key=lambda tree: tree.text)])
            except ExpressionError:  # nests too deeply
                self._joints[key] = None
            else:
                self._joints[key] = Tree("", cut, (), False)
        joint = self._joints[key]
        # An error in one of them is not hidden by another that rules its rows out.
        return joint if joint is not None and _ruled_out([self.of(joint, part)]) >= _MOST else None

    def of(self, tree: Tree, part: int) -> npt.NDArray[np.uint8]:
        """What it gives for each grain of a part."""
        if tree.keyed:
            return np.full(-(-self.snapshot.parts[part].rows // GRAIN), UNKNOWN, np.uint8)
        found = self._found.get(tree.text)
        if found is None:
            outcomes = settled_parts(self.snapshot, self.parts, tree.cut)
            found = self._found[tree.text] = dict(zip(self.parts, outcomes, strict=True))
        return found[part]


def _ruled_out(outcomes: Sequence[npt.NDArray[np.uint8]]) -> float:
    """The share of grains of a part in which no row passes one of some cuts."""
    none = [(grains == FALSE) | (grains == NONE) for grains in outcomes]
    return float(np.logical_or.reduce(none).mean())


class PartCuts:
    """What is known of some cuts in one part, and which have to be computed there."""

    def __init__(self, number: int, files: MaskFiles, settled: Settled, wholes: dict[str, RowBits]) -> None:
        self.number = number
        self.rows = files.snapshot.parts[number].rows
        self.files = files
        self.settled = settled
        self.wholes = wholes
        self.masks: dict[str, Mask | None] = {}
        #: what is missing, and whether it must be known there what is false
        self.missing: dict[str, tuple[Tree, bool]] = {}
        #: whether files were read, or have to be written
        self.used_files = False
        self.arrays: dict[str, _Computed] = {}
        self.tasks_left = 0
        #: what has to be true, of `find_all`
        self.together: list[Tree] = []

    def find_all(self, trees: Sequence[Tree]) -> None:
        """Look for cuts that must all be true, which are then those of `together`."""
        joint = self.settled.joint(trees, self.number)
        if joint is not None and not all(map(self._is_found, trees)):
            trees = [joint]
        self.together = list(trees)
        for tree in trees:
            if not self._at_hand(tree, false=False):
                self.find(tree, false=False)

    def _is_found(self, tree: Tree) -> bool:
        return self._at_hand(tree, false=False) or self.complete(tree, false=False)

    def all_true(self) -> PartBits:
        """The rows for which all cuts of `find_all` are true."""
        bits: PartBits = True
        for tree in self.together:
            bits = and_bits(bits, self.true(tree))
        return bits

    def find(self, tree: Tree, *, false: bool) -> None:
        """Look for a cut, and note what has to be computed for it; `false`: what is false is asked for, too."""
        if tree.op in ("and", "not"):
            for arg in tree.args:
                self.find(arg, false=false != (tree.op == "not"))
        elif not self.has(tree, false=false):
            if tree.op == "or" and (tree.keyed or any(self.complete(arg, false=false) for arg in tree.args)):
                for arg in tree.args:
                    self.find(arg, false=false)
            else:
                _, before = self.missing.get(tree.text, (tree, False))
                self.missing[tree.text] = tree, before or false

    def complete(self, tree: Tree, *, false: bool) -> bool:
        """Whether a cut follows from what is kept."""
        if tree.op not in ("and", "not") and self.has(tree, false=false):
            return True
        inner = false != (tree.op == "not")
        return bool(tree.args) and all(self.complete(arg, false=inner) for arg in tree.args)

    def has(self, tree: Tree, *, false: bool) -> bool:
        """Whether a leaf, or an ``or`` as a whole, is settled or kept."""
        if not self._at_hand(tree, false=false):
            if tree.text not in self.masks or (false and self.masks[tree.text] is not None):
                found = self._settled_mask(tree, false=false) or self._kept_mask(tree)
                self.masks[tree.text] = found or self.masks.get(tree.text)
            elif not false and tree.cut.typed.missing:
                # asked before for what is false, too: less is needed now, and may be settled
                self.masks[tree.text] = self._settled_mask(tree, false=False)
        return self._at_hand(tree, false=false)

    def _at_hand(self, tree: Tree, *, false: bool) -> bool:
        mask = self.masks.get(tree.text)
        return mask is not None and not (false and mask.known is None)

    def _settled_mask(self, tree: Tree, *, false: bool) -> Mask | None:
        grains = self.settled.of(tree, self.number)
        unsure = false and tree.cut.typed.missing
        if ((grains == UNKNOWN) | ((grains == NONE) & unsure)).any():
            return None
        known = None if tree.cut.typed.missing and (grains == NONE).any() else True
        true = grains == TRUE
        return Mask(bool(true[0]) if true.all() or not true.any() else _filled(true, self.rows), known)

    def from_whole(self, tree: Tree) -> bool:
        """Take what is kept of a cut for all parts together, if that is so."""
        whole = self.wholes.get(tree.text)
        if whole is not None:
            self.used_files = True
            self.masks[tree.text] = Mask(whole.part(self.number), None)
        return whole is not None

    def _kept_mask(self, tree: Tree) -> Mask | None:
        mask = self.files.load(self.number, tree.cut)
        self.used_files |= mask is not None
        return mask

    def value(self, tree: Tree, *, false: bool = False) -> Tri:
        """What a cut gives, when all that was missing is there."""
        if self._at_hand(tree, false=false):
            mask = self.masks[tree.text]
            assert mask is not None
            return _tri(mask, self.rows) if false else Tri(mask.true, None)
        inner = false != (tree.op == "not")
        return _joined(tree.op, [self.value(arg, false=inner) for arg in tree.args], self.rows)

    def true(self, tree: Tree) -> PartBits:
        """The rows for which a cut is true."""
        bits = self.value(tree).true
        assert bits is not None
        return bits

    def is_none(self, tree: Tree) -> bool:
        """Whether it follows from what was found so far that no row passes a cut."""
        return self._follows(tree, false=False) and self.true(tree) is False

    def _follows(self, tree: Tree, *, false: bool) -> bool:
        inner = false != (tree.op == "not")
        return self._at_hand(tree, false=false) or (
            bool(tree.args) and all(self._follows(arg, false=inner) for arg in tree.args)
        )

    # Computing ------------------------------------------------------------------------------------------------------

    def tasks(self) -> list[OwnTask]:
        """What to run."""
        todo = {}
        for text, (tree, false) in self.missing.items():
            grains = self.settled.of(tree, self.number)
            lacking = bool((grains == NONE).any()) and tree.cut.typed.missing and not false
            todo[text] = (grains == UNKNOWN) | ((grains == NONE) & (tree.cut.typed.missing & false))
            self.arrays[text] = _Computed(self.rows, grains == TRUE, bool(todo[text].all()), lacking)
        found: list[OwnTask] = []
        for start, stop in _runs(np.logical_or.reduce(list(todo.values())), self.rows):
            here = slice(start // GRAIN, -(-stop // GRAIN))
            trees = [self.missing[text][0] for text, grains in todo.items() if grains[here].any()]
            cuts = [tree.cut for tree in trees if not tree.keyed]
            snapshot = self.files.snapshot
            if cuts:
                args = (snapshot, self.number, start, stop, tuple(cuts))
                texts = tuple([cut.canonical for cut in cuts])
                found.append(OwnTask((evaluate_rows, args), self, texts, start, stop - start))
            for tree in trees:
                if tree.keyed:
                    task = keyed_task(snapshot, tree.cut, self.number, start, stop)
                    found.append(OwnTask(task, self, (tree.text,), start, stop - start))
        self.tasks_left = len(found)
        return found

    def take(self, texts: Sequence[str], start: int, results: Sequence[tuple[Bits, Bits | None]]) -> bool:
        """Take the result of a task; returns whether it was the last, and everything is kept."""
        for text, (true, known) in zip(texts, results, strict=True):
            self.arrays[text].put(start, true, known)
        self.tasks_left -= 1
        if self.tasks_left:
            return False
        for text, computed in self.arrays.items():
            mask, kept = computed.mask()
            self.masks[text] = mask
            self.files.save(self.number, self.missing[text][0].cut, mask, kept)
        self.arrays = {}
        self.used_files = True
        return True


class OwnTask(NamedTuple):
    """A task, the part that its result is for, the cuts that it gives, its first row, and how many rows it has."""

    task: Task
    part: PartCuts
    texts: tuple[str, ...]
    start: int
    rows: int


class _Computed:
    """The bits of one cut in one part, while its tasks run."""

    def __init__(self, rows: int, true_grains: npt.NDArray[np.bool_], all_computed: bool, lacking: bool) -> None:
        self.rows = rows
        self.lacking = lacking
        self.true_grains = None if all_computed else true_grains
        self.true: Bits | None = None
        self.known: Bits | None = None

    def put(self, start: int, true: Bits, known: Bits | None) -> None:
        n = -(-self.rows // 8)
        here = slice(start // 8, start // 8 + len(true))
        if self.true is None and len(true) == n:
            self.true = true
        else:
            if self.true is None:
                self.true = np.empty(n, np.uint8) if self.true_grains is None else _filled(self.true_grains, self.rows)
            self.true[here] = true
        if known is not None and not self.lacking:
            if self.known is None:
                self.known = _filled(np.ones(-(-self.rows // GRAIN), np.bool_), self.rows)
            self.known[here] = known

    def mask(self) -> tuple[Mask, int]:
        """The mask, and for how many rows the cut is true."""
        assert self.true is not None
        kept = count_bits(self.true)
        true = kept > 0 if kept in (0, self.rows) else self.true
        known: PartBits | None = True if self.known is None else plain(self.known, self.rows)
        return Mask(true, None if self.lacking else known), kept


def _filled(grains: npt.NDArray[np.bool_], rows: int) -> Bits:
    """Bits that are set in some grains."""
    bits: Bits = np.repeat(grains.view(np.uint8) * np.uint8(0xFF), GRAIN // 8)[: -(-rows // 8)]
    if rows % 8:
        bits[-1] &= (1 << rows % 8) - 1
    return bits


def _runs(grains: npt.NDArray[np.bool_], rows: int) -> list[tuple[int, int]]:
    """Runs of rows of these grains, of `TASK_ROWS` at most."""
    edges = np.flatnonzero(np.diff(grains, prepend=False, append=False)).reshape(-1, 2) * GRAIN
    edges = np.minimum(edges, rows)
    return [(a, min(a + TASK_ROWS, stop)) for first, stop in edges.tolist() for a in range(first, stop, TASK_ROWS)]


def together(tasks: Sequence[OwnTask]) -> list[tuple[Task, list[OwnTask]]]:
    """Tasks of many small parts as fewer, which `evaluate_several`; few tasks stay as they are.

    Each comes with those that it stands for, in the order of its results.
    """
    if len(tasks) <= MANY_TASKS:
        return [(own.task, [own]) for own in tasks]
    most = max(TASK_ROWS, sum(own.rows for own in tasks) // _MOST_TASKS)
    many = max(_TOGETHER, len(tasks) // _MOST_TASKS)
    groups: list[list[OwnTask]] = []
    rows = 0
    for own in tasks:
        rows += own.rows
        last = groups[-1][-1] if groups else None
        alike = last is not None and last.task[0] is own.task[0] is evaluate_rows and last.texts == own.texts
        if alike and rows <= most and len(groups[-1]) < many:
            groups[-1].append(own)
        else:
            groups.append([own])
            rows = own.rows
    return [(group[0].task if len(group) == 1 else _several(group), group) for group in groups]


def _several(group: Sequence[OwnTask]) -> Task:
    snapshot, _, _, _, cuts = group[0].task[1]
    return evaluate_several, (snapshot, tuple([own.task[1][1:4] for own in group]), cuts)


def evaluate_several(
    snapshot: Snapshot, spans: Sequence[tuple[int, int, int]], cuts: Sequence[Expression]
) -> list[list[tuple[Bits, Bits | None]]]:
    """`evaluate_rows` of parts and rows one after the other."""
    return [evaluate_rows(snapshot, *span, cuts) for span in spans]


def keyed_task(snapshot: Snapshot, cut: Expression, part: int, start: int, stop: int) -> Task:
    source = source_of(cut)
    if source is None:
        raise not_kept(snapshot, cut, part)
    function, args = source.task(snapshot, part, start, stop)
    return _listed, (function, *args)


def _listed(function: Callable[..., Any], *args: Any) -> list[Any]:
    """The result of one cut, as those of several."""
    return [function(*args)]


def not_kept(snapshot: Snapshot, cut: Expression, part: int) -> OptionError:
    first = int(snapshot.starts[part])
    last = first + snapshot.parts[part].rows - 1
    return OptionError(
        f"{snapshot.path}: the cut {cut.canonical} is not kept for rows {first} to {last}, and what computes it is not "
        "at hand: it is never pickled, and a dask array is about the rows that it was made for; where the function or "
        f"array is, run ds.cut(..., key={str(cut.typed.value)!r}).keep() first"
    )
