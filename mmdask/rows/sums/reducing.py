"""Selected rows in the order of the store, as a tree of runs of rows, and these in blocks.

Of each run there is a sum, block by block, and `adding` says how sums are added. So what comes out is the same on every
scheduler, bit for bit, and many small parts are no more tasks than a large one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmdask.rows.bits import PartBits, unpack
from mmdask.rows.blocks import row_blocks
from mmdask.rows.reading.part import read_part
from mmdask.rows.sums.adding import FAN, Node, branch, leaf
from mmdask.schema import FieldData
from mmdask.store.snapshot import Snapshot

__all__ = [
    "Block",
    "Run",
    "bits_between",
    "fits_task",
    "most_of",
    "of_one_part",
    "runs_of_part",
    "tree_of",
    "tree_of_part",
]

Bools = npt.NDArray[np.bool_]
#: rows of a run; a multiple of those of a block
_TASK_ROWS = 1 << 20
#: what a part costs besides its rows, in rows
_PART_ROWS = 1 << 12
#: from so many tasks on, each has more rows instead
_MOST_TASKS = 1 << 14


@dataclass(frozen=True)
class Block:
    """Rows of one part that are looked at together. Fields are read once, and cut out of their part.

    Parameters
    ----------
    snapshot, part, start, stop
        Rows `start` to `stop` of a part of a store.
    inside : numpy.ndarray or None
        Which of them are selected, bool ``(rows,)``; None for all.
    """

    snapshot: Snapshot
    part: int
    start: int
    stop: int
    inside: Bools | None

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def first_row(self) -> int:
        """The store row number of the first."""
        return int(self.snapshot.starts[self.part]) + self.start

    def read(self, name: str) -> FieldData:
        """A stored field of these rows, also of those that are not selected."""
        return read_part(self.snapshot, self.part, name, self.start, self.stop)


@dataclass(frozen=True)
class Run:
    """Rows of one part that one task takes; `bits` are those of rows `start` to `stop`, True if all are selected."""

    snapshot: Snapshot
    part: int
    start: int
    stop: int
    bits: PartBits

    def blocks(self, names: Iterable[str]) -> Iterator[Block]:
        """Blocks of these rows, small enough for a cache with these stored fields; none without selected rows."""
        for a, b in row_blocks(self.snapshot, self.part, names, self.start, self.stop):
            if isinstance(self.bits, bool):
                yield Block(self.snapshot, self.part, a, b, None)
                continue
            inside = unpack(self.bits, a - self.start, b - self.start)
            there = np.flatnonzero(inside)
            if len(there):  # nothing is read before the first and behind the last
                first, last = int(there[0]), int(there[-1]) + 1
                whole = last - first == len(there)
                yield Block(self.snapshot, self.part, a + first, a + last, None if whole else inside[first:last])


def tree_of(snapshot: Snapshot, selected: Sequence[PartBits], parts: Iterable[int] | None = None) -> Node[Run] | None:
    """The tree in which sums over the selected rows are added; None if there are none.

    Parameters
    ----------
    snapshot : Snapshot
        The store.
    selected : sequence of PartBits
        Of every part.
    parts : iterable of int, optional
        Only these; all by default.
    """
    numbers = range(len(selected)) if parts is None else parts
    return branch(node for part in numbers if (node := tree_of_part(snapshot, part, selected[part])) is not None)


def tree_of_part(snapshot: Snapshot, part: int, selected: PartBits) -> Node[Run] | None:
    """The same of one part."""
    runs = runs_of_part(snapshot, part, selected, _TASK_ROWS)
    return branch(leaf(run, run.stop - run.start + (0 if run.start else _PART_ROWS)) for run in runs)


def most_of(weight: int) -> int:
    """How much of a tree of some weight one task takes: so there are never very many of them.

    A scheduler takes milliseconds for each. As nodes have up to `FAN` below, it may be that much less.
    """
    return max(_TASK_ROWS + _PART_ROWS, weight // (_MOST_TASKS // FAN))


def fits_task(root: Node[Run]) -> Callable[[Node[Run]], bool]:
    """Whether a node of a tree is no more than one task."""
    most = most_of(root.weight)
    return lambda node: node.weight <= most


def of_one_part(node: Node[Run]) -> bool:
    """Whether all rows of a node are of one part."""
    first, last = node.leaves
    return first.part == last.part


def runs_of_part(snapshot: Snapshot, part: int, selected: PartBits, most: int) -> Iterator[Run]:
    """Runs of a part, of `most` rows (a multiple of 8) but the last, without those in which no row is selected."""
    rows = snapshot.parts[part].rows if selected is not False else 0
    for a in range(0, rows, most):
        b = min(a + most, rows)
        here = bits_between(selected, a, b)
        if isinstance(here, bool) or here.any():
            yield Run(snapshot, part, a, b, here)


def bits_between(bits: PartBits, start: int, stop: int) -> PartBits:
    """The bits of rows `start` to `stop` of a part; `start` is a multiple of 8."""
    return bits if isinstance(bits, bool) else bits[start // 8 : -(-stop // 8)]
