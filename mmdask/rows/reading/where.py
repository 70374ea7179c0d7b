"""Which parts store rows are in, and where they are within them: arithmetic of the first rows of parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.errors import RowNotFoundError
from mmdask.rows.bits import groups
from mmdask.store.snapshot import Snapshot

__all__ = ["by_part", "needed_parts", "parts_between", "runs"]

Int64s = npt.NDArray[np.int64]


def runs(snapshot: Snapshot, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """The parts that store rows `start` to `stop` are in, each with its first and last row within the part."""
    starts = snapshot.starts
    first = int(np.searchsorted(starts, start, side="right")) - 1
    for part in range(max(first, 0), len(snapshot.parts)):
        base, end = int(starts[part]), int(starts[part + 1])
        if base >= stop:
            return
        if end > max(base, start):
            yield part, max(start - base, 0), min(stop, end) - base


def by_part(snapshot: Snapshot, rows: Int64s) -> Iterator[tuple[int, Any, Int64s]]:
    """The parts that some rows are in, each with an index of its rows among them, and their numbers within it."""
    if not len(rows):
        return
    first, last = parts_between(snapshot, rows)
    if first == last:
        yield first, slice(None), rows - snapshot.starts[first]
        return
    for part, here in groups(np.searchsorted(snapshot.starts, rows, side="right") - 1):
        yield part, here, rows[here] - snapshot.starts[part]


def parts_between(snapshot: Snapshot, rows: Int64s) -> tuple[int, int]:
    """The parts of the least and of the greatest of some rows."""
    low, high = int(rows.min()), int(rows.max())
    if low < 0 or high >= snapshot.rows:
        wrong = low if low < 0 else high
        raise RowNotFoundError(f"no row {wrong} in {snapshot.path}: it has {snapshot.rows} rows")
    return snapshot.part_of(low), snapshot.part_of(high)


def needed_parts(snapshot: Snapshot, rows: Int64s) -> tuple[Int64s, list[int]]:
    """The parts that some rows are in, as the kernels take them: bounds int64 ``(n + 1,)``, and ``n`` parts between.

    Neighbouring parts that hold none of the rows are one entry, -1.
    """
    if not len(rows):
        return np.array([0, snapshot.rows]), [-1]
    first, last = parts_between(snapshot, rows)
    if len(snapshot.parts) == 1:
        return snapshot.starts, [0]
    needed = np.zeros(len(snapshot.parts), np.bool_)
    # Giving the kernel a part takes as long as finding that of 200 rows.
    if last - first <= 4 + len(rows) // 200:
        needed[first : last + 1] = np.diff(snapshot.starts[first : last + 2]) > 0
    else:
        needed[np.searchsorted(snapshot.starts, rows, side="right") - 1] = True
    begins = needed.copy()
    begins[1:] |= needed[:-1]
    begins[0] = True
    parts = np.flatnonzero(begins)
    return np.append(snapshot.starts[parts], snapshot.rows), np.where(needed[parts], parts, -1).tolist()
