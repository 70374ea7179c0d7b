"""Find the rows that pass cuts: read what is kept, compute what is not in one pass over its fields, and keep it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.errors import CorruptStoreError
from mmdask.expr import Expression, conjuncts
from mmdask.rows.bits import PartBits, RowBits, count_bits, pack, unpack
from mmdask.rows.blocks import evaluate_rows
from mmdask.rows.cuts.keyed import keyed_leaves
from mmdask.rows.cuts.masks import Mask, MaskFiles
from mmdask.rows.cuts.partcuts import (
    OwnTask,
    PartCuts,
    Settled,
    Task,
    Tree,
    evaluate_several,
    keyed_task,
    not_kept,
    tree_of,
)
from mmdask.rows.cuts.partcuts import together as together_tasks
from mmdask.rows.cuts.skip import FALSE, NONE
from mmdask.store.snapshot import Snapshot

__all__ = ["Done", "Runner", "Task", "check_kept", "kept_bits", "kept_each", "kept_parts", "passing", "run_serially"]

#: selections that are settled by labels are kept if there are so many parts
_MANY_PARTS = 64

#: takes the number of a task and its result
Done = Callable[[int, Any], None]
#: runs tasks in any order, and hands over each result as soon as it is there
Runner = Callable[[Sequence[Task], Done], None]


def run_serially(tasks: Sequence[Task], done: Done) -> None:
    """Run tasks one after the other in this thread."""
    for i, (function, args) in enumerate(tasks):
        done(i, function(*args))


# Asking -------------------------------------------------------------------------------------------------------------


def kept_bits(snapshot: Snapshot, cuts: Sequence[Expression], run: Runner = run_serially) -> RowBits:
    """The rows that pass all `cuts`, read where they are kept, else computed in one pass and kept.

    Parameters
    ----------
    snapshot : Snapshot
        The store.
    cuts : sequence of Expression
        Each is kept under a name of its own, and so is what all of them leave.
    run : callable
        Runs the tasks; each covers up to 2**20 rows of one part and returns bits.

    Returns
    -------
    RowBits
        How many rows pass is known; bits of parts are loaded when they are asked for.
    """
    cuts = list(dict.fromkeys(leaf for cut in cuts for leaf in conjuncts(cut)))
    files = MaskFiles(snapshot)
    whole = _whole(files, cuts)
    if whole is not None:
        return whole
    numbers = range(len(snapshot.parts))
    trees = [tree_of(cut) for cut in cuts]
    files.list_for(len(numbers) * len(trees))
    parts: list[PartBits] = [False for _ in numbers]
    used = len(parts) >= _MANY_PARTS

    def finish(part: PartCuts) -> None:
        nonlocal used
        used |= part.used_files
        parts[part.number] = part.all_true()

    _find_all(files, trees, numbers, run, finish, together=True)
    rows = RowBits(snapshot.starts, parts)
    if used:
        files.save_whole(cuts, rows)
    return rows


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
    files = MaskFiles(snapshot)
    numbers = list(range(len(snapshot.parts)) if parts is None else parts)
    trees = [tree_of(cut) for cut in cuts]
    place = {number: i for i, number in enumerate(numbers)}
    found: list[list[PartBits]] = [[False] * len(numbers) for _ in cuts]

    used = set[str]()

    def finish(part: PartCuts) -> None:
        if part.used_files or len(numbers) >= _MANY_PARTS:
            used.update(tree.text for tree in trees)
        for each, tree in zip(found, trees, strict=True):
            each[place[part.number]] = part.true(tree)

    wholes = _find_all(files, trees, numbers, run, finish, together=False)
    if sum(snapshot.parts[n].rows for n in numbers) == snapshot.rows:
        for tree, each in zip(trees, found, strict=True):
            if tree.text not in wholes and tree.text in used:
                parts_of = [each[place[n]] if n in place else False for n in range(len(snapshot.parts))]
                files.save_whole([tree.cut], RowBits(snapshot.starts, parts_of))
    return found


def _find_all(
    files: MaskFiles,
    trees: Sequence[Tree],
    numbers: Sequence[int],
    run: Runner,
    finish: Callable[[PartCuts], None],
    *,
    together: bool,
) -> dict[str, RowBits]:
    """Find cuts in some parts, and call `finish` for each part in which some rows may pass.

    Returns those that are kept for all parts.
    """
    snapshot = files.snapshot
    numbers = [n for n in numbers if snapshot.parts[n].rows]
    wholes = {tree.text: whole for tree in trees if (whole := _whole(files, [tree.cut])) is not None}
    if len(wholes) < len(trees):
        files.list_for(len(numbers) * len(trees))
    settled = Settled(snapshot, numbers)
    tasks: list[OwnTask] = []
    for number in numbers:
        part = PartCuts(number, files, settled, wholes)
        others = [tree for tree in trees if not part.from_whole(tree)]
        if together and any(_none_pass(settled, tree, number) for tree in others):
            continue  # labels, constants, smallest and largest values rule the part out: nothing of it is read
        if together:
            part.find_all(trees)
            if part.missing and any(map(part.is_none, trees)):
                continue
        else:
            for tree in others:
                part.find(tree, false=False)
        if not part.missing:
            finish(part)
            continue
        tasks += part.tasks()
    groups = together_tasks(tasks)

    def done(number: int, results: Any) -> None:
        (function, _), owners = groups[number]
        each = results if function is evaluate_several else [results]
        for (_, part, texts, start, _), result in zip(owners, each, strict=True):
            if part.take(texts, start, result):
                finish(part)
                part.masks.clear()

    if tasks:
        with files.bundled(len(tasks)):
            run([task for task, _ in groups], done)
    return wholes


def _none_pass(settled: Settled, tree: Tree, part: int) -> bool:
    grains = settled.of(tree, part)
    return bool(((grains == FALSE) | (grains == NONE)).all())


def _whole(files: MaskFiles, cuts: Sequence[Expression]) -> RowBits | None:
    """The rows that pass all of some cuts, if they are kept as such."""
    snapshot = files.snapshot
    counts: list[npt.NDArray[np.int64]] = []

    def load(part: int) -> PartBits:
        found: list[PartBits] = [False]

        def finish(p: PartCuts) -> None:
            found[0] = p.all_true()

        trees = [tree_of(cut) for cut in cuts]
        _find_part(MaskFiles(snapshot), trees, part, finish)
        [bits] = found
        n = snapshot.parts[part].rows * bits if isinstance(bits, bool) else count_bits(bits)
        if n != counts[0][part]:
            text = " and ".join([cut.canonical for cut in cuts])
            raise CorruptStoreError(
                f"{snapshot.path}: {counts[0][part]:,} rows of part {part} passed {text} when they were counted, and "
                f"{n:,} pass now; the store or what is kept of it was damaged: `mmdask verify` finds the one, "
                "ds.cuts.clear() removes the other"
            )
        return bits

    whole = files.load_whole(cuts, load)
    if whole is not None:
        counts.append(whole.counts)
    return whole


def _find_part(files: MaskFiles, trees: Sequence[Tree], part: int, finish: Callable[[PartCuts], None]) -> None:
    """`_find_all` of one part, without what is kept of all parts."""
    state = PartCuts(part, files, Settled(files.snapshot, [part]), {})
    state.find_all(trees)
    if state.missing:
        tasks = state.tasks()
        for (function, args), _, texts, first, _ in tasks:
            state.take(texts, first, function(*args))
    finish(state)


def passing(snapshot: Snapshot, part: int, start: int, stop: int, cuts: Sequence[Expression]) -> npt.NDArray[np.bool_]:
    """The mask of rows `start` to `stop` of a part: from bits that are kept, else evaluated for these rows alone."""
    state = PartCuts(part, MaskFiles(snapshot), Settled(snapshot, [part]), {})
    trees = [tree_of(cut) for cut in cuts]
    state.find_all(trees)
    rows = stop - start
    for text, mask in state.masks.items():
        if mask is not None:
            true, known = (_cut_out(bits, start, stop) for bits in mask)
            assert true is not None
            state.masks[text] = Mask(true, known)
    state.rows = rows
    if any(map(state.is_none, trees)):
        return np.zeros(rows, np.bool_)
    plain_trees = [tree for tree, _ in state.missing.values() if not tree.keyed]
    if plain_trees:
        found = evaluate_rows(snapshot, part, start, stop, [tree.cut for tree in plain_trees])
        for tree, (true, known) in zip(plain_trees, found, strict=True):
            state.masks[tree.text] = Mask(true, True if known is None else known)
    for tree, _ in state.missing.values():
        if tree.keyed:
            function, args = keyed_task(snapshot, tree.cut, part, start, stop)
            [(true, known)] = function(*args)
            state.masks[tree.text] = Mask(true, True if known is None else known)
    bits = state.all_true()
    return np.full(rows, bits) if isinstance(bits, bool) else unpack(bits, 0, rows)


def _cut_out(bits: PartBits | None, start: int, stop: int) -> PartBits | None:
    return bits if bits is None or isinstance(bits, bool) else pack(unpack(bits, start, stop))


def kept_parts(snapshot: Snapshot, cut: Expression) -> tuple[int, int]:
    """In how many parts a cut needs no pass over data, because it is kept or settled, and how many parts have rows.

    Looks for files; reads them where there are few parts.
    """
    files = MaskFiles(snapshot)
    numbers = [i for i, part in enumerate(snapshot.parts) if part.rows]
    trees = [tree_of(leaf) for leaf in conjuncts(cut)]
    if _whole(files, [tree.cut for tree in trees]) is not None:
        return len(numbers), len(numbers)
    files.list_for(len(numbers) * len(trees))
    settled = Settled(snapshot, numbers)
    n = 0
    for number in numbers:
        part = PartCuts(number, files, settled, {})
        part.find_all(trees)
        n += not part.missing or any(_none_pass(settled, tree, number) for tree in trees)
    return n, len(numbers)


def check_kept(snapshot: Snapshot, cuts: Iterable[Expression]) -> None:
    """Raise `OptionError` unless all cuts of keys among some cuts are kept for every row."""
    leaves = [leaf for cut in cuts for leaf in keyed_leaves(cut)]
    if not leaves:
        return
    files = MaskFiles(snapshot)
    files.list_for(len(leaves) * len(snapshot.parts))
    for leaf in leaves:
        for number, part in enumerate(snapshot.parts):
            if part.rows and not files.there(number, leaf):
                raise not_kept(snapshot, leaf, number)
