"""Reduce selected rows block by block: tasks of about 2**20 rows, whose results are added in the order of the rows.

So what comes out is the same on every scheduler, bit for bit, and many small parts are no more tasks than a large one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from mmdask.rows.bits import PartBits, unpack
from mmdask.rows.blocks import row_blocks
from mmdask.rows.passes import Runner, Task
from mmdask.rows.reader import read_part
from mmdask.schema import FieldData
from mmdask.store.snapshot import Snapshot

__all__ = ["Block", "Run", "add_in_order", "bits_between", "runs_of", "runs_of_part", "together"]

Bools = npt.NDArray[np.bool_]
T = TypeVar("T")
#: rows of a task, about; a multiple of those of a block
_TASK_ROWS = 1 << 20
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


def runs_of(
    snapshot: Snapshot, selected: Sequence[PartBits], parts: Iterable[int] | None = None
) -> Iterator[tuple[Run, ...]]:
    """The selected rows in the order of the store, cut to what one task takes.

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
    runs = (run for part in numbers for run in runs_of_part(snapshot, part, selected[part], _TASK_ROWS))
    # A scheduler takes milliseconds for a task, so there are never very many of them.
    return together(runs, lambda run: run.stop - run.start, max(_TASK_ROWS, snapshot.rows // _MOST_TASKS))


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


def together(items: Iterable[T], rows_of: Callable[[T], int], most: int) -> Iterator[tuple[T, ...]]:
    """Items one after the other, as many together as have up to `most` rows; one alone may have more."""
    some: list[T] = []
    rows = 0
    for item in items:
        n = rows_of(item)
        if some and rows + n > most:
            yield tuple(some)
            some, rows = [], 0
        some.append(item)
        rows += n
    if some:
        yield tuple(some)


def add_in_order(run: Runner, tasks: Sequence[Task], total: T, add: Callable[[T, Any], T]) -> T:
    """Add the results of tasks to `total`, in the order of the tasks, each as soon as those before it are there."""
    waiting: dict[int, Any] = {}
    n_added = 0

    def done(number: int, result: Any) -> None:
        nonlocal total, n_added
        waiting[number] = result
        while n_added in waiting:
            total = add(total, waiting.pop(n_added))
            n_added += 1

    if tasks:
        run(tasks, done)
    return total
