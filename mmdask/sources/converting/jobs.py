"""Which rows become one layer, and who makes it when: pure functions of sizes.

A large input is cut into ranges of rows, and small neighbouring inputs become one layer together. A job is one layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmdask.rows.upkeep.compact import MERGED
from mmdask.schema import Field
from mmdask.sources.converting.inputs import digest
from mmdask.sources.converting.plan import layer_ids
from mmdask.sources.converting.table import Table
from mmdask.store.origin import Source

__all__ = ["LEAST_NBYTES", "MANY", "Copied", "Job", "Stretch", "make_jobs", "n_ranges", "split_rows", "stretches_of"]

#: a call that makes as many parts or fewer leaves each input a part of its own: so few slow nobody down, and what
#: changes later is as small as it can be
MANY = 32
#: decoded bytes below which work is not divided among workers
LEAST_NBYTES = 64 << 20


@dataclass(frozen=True)
class Copied:
    """Rows of an input that a merged layer of the store has: `rows` from its row `first` on."""

    layer: str
    first: int
    rows: int
    source: Source


@dataclass(frozen=True)
class Stretch:
    """Rows `start` to `stop` of one input: decoded as `table` says, or copied.

    `data` is the id of the layer that they are, or would be if they had one of their own.
    """

    group: str
    data: str
    nbytes: int
    table: Table | None
    start: int = 0
    stop: int = 0
    copied: Copied | None = None

    @property
    def name(self) -> str:
        """The file, for messages and progress bars."""
        return self.table.source.path if self.table else self.copied.source.uri if self.copied else ""


@dataclass(frozen=True)
class Job:
    """One layer to be made of one stretch, or of several inputs."""

    id: str
    stretches: tuple[Stretch, ...]
    fields: tuple[Field, ...] = ()

    @property
    def nbytes(self) -> int:
        """Decoded bytes, about."""
        return sum(s.nbytes for s in self.stretches)


def n_ranges(n: int, nbytes: int, total: int, workers: int) -> int:
    """Into how many ranges an input of `nbytes` is cut, if `n` are as large as a part may be.

    With several workers none is more than the share of one.

    Examples
    --------
    >>> n_ranges(1, 900 << 20, 900 << 20, 1), n_ranges(1, 900 << 20, 900 << 20, 2)
    (1, 2)
    >>> n_ranges(1, 900 << 20, 9000 << 20, 2), n_ranges(1, 100 << 20, 100 << 20, 64)
    (1, 2)
    """
    return max(n, math.ceil(nbytes / max(LEAST_NBYTES, math.ceil(total / workers)))) if workers > 1 else n


def split_rows(rows: int, n: int, cuts: Sequence[int] = ()) -> tuple[tuple[int, int], ...]:
    """`n` ranges of about as many rows each, or fewer where there are few; they end at a cut where one is near."""
    n = max(1, min(rows, n))
    if n == 1:
        return ((0, rows),)
    common = np.array(cuts, np.int64)
    ends = {rows}
    for k in range(1, n):
        end = rows * k // n
        if len(common):
            near = int(common[np.abs(common - end).argmin()])
            end = near if abs(near - end) <= rows / n / 2 else end
        if 0 < end < rows:
            ends.add(end)
    stops = sorted(ends)
    return tuple(zip([0, *stops[:-1]], stops, strict=True))


def make_jobs(
    order: Sequence[str | None],
    stretches: Mapping[str, Sequence[Stretch]],
    labels: Mapping[str, Any],
    origin: Mapping[str, str],
    part_nbytes: int,
    workers: int = 1,
) -> list[Job]:
    """The layers that are to be made, in the order of the rows.

    Parameters
    ----------
    order : sequence of str or None
        Groups in the order in which their rows will stand; None for other rows between them.
    stretches : mapping
        What each group that is to be made consists of; others stand between those like None.
    labels : mapping
        Of each group. Only inputs with equal ones become one part.
    origin : mapping
        The merged layer that the rows of a group were in so far: they stay together, however few they are.
    part_nbytes : int
        Decoded bytes of a part, about.
    workers : int
        How many share the work: parts are no larger than a fraction of what each has to do.
    """
    total = sum(s.nbytes for of_group in stretches.values() for s in of_group)
    target = part_nbytes
    if workers > 1:
        target = min(part_nbytes, max(LEAST_NBYTES, total // (4 * workers)))
    small = {g for g, of in stretches.items() if len(of) == 1 and 2 * of[0].nbytes < part_nbytes}
    merging = sum(len(of) for of in stretches.values()) > MANY
    jobs: list[Job] = []
    held: list[Stretch] = []

    def flush() -> None:
        if held:
            jobs.append(_job(held))
            held.clear()

    def fits(group: str, stretch: Stretch) -> bool:
        before = held[-1].group
        together = merging or (group in origin and origin[group] == origin.get(before))
        nbytes = sum(s.nbytes for s in held)
        full = nbytes >= target or (2 * nbytes >= target and nbytes + stretch.nbytes > target + target // 2)
        return together and not full and before in small and labels.get(group) == labels.get(before)

    for group in order:
        of_group = stretches.get(group or "", ())
        if not of_group or group not in small or (held and not fits(group, of_group[0])):
            flush()
        if group in small:
            held.append(of_group[0])
        else:
            jobs += [_job([s]) for s in of_group]
    flush()
    return jobs


def _job(stretches: Sequence[Stretch]) -> Job:
    if len(stretches) == 1:
        return Job(stretches[0].data, tuple(stretches))
    return Job(digest(*(s.data for s in stretches)) + MERGED, tuple(stretches))


def stretches_of(group: str, table: Table, ranges: Sequence[tuple[int, int]]) -> list[Stretch]:
    """The ranges of rows of an inspected input."""
    total = sum(table.nbytes.values())
    return [
        Stretch(group, data, total * (stop - start) // max(1, table.rows), table, start, stop)
        for data, (start, stop) in zip(layer_ids(group, len(ranges)), ranges, strict=True)
    ]
