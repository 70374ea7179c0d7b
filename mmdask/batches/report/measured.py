"""How the counts of classes vary in the batches of an epoch."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from mmdask.batches.ordering.cutting import Cutting

__all__ = ["measure"]

#: batches are looked at in so many places of an epoch, and so many rows of them at most
_PLACES = 32
_ROWS = 1 << 22


def measure(
    cutting: Cutting, epoch: int, n: int, n_classes: int, classes_at: Callable[[int, int], npt.NDArray[np.int64]]
) -> tuple[float, float, int]:
    """The variance of counts in batches, how precise it is, and of how many classes."""
    size = cutting.stop(epoch, 0)
    n_batches = max(n // size, 1)
    each = max(min(_ROWS // size, n_batches) // _PLACES, 1)
    counts, sizes = [], []
    done = -1
    for i in np.unique(np.linspace(0, max(n_batches - each, 0), _PLACES).astype(np.int64)).tolist():
        position = cutting.after(epoch, 0, i) if i > done else -1
        for k in range(i, min(i + each, n_batches)):
            if k <= done or position < 0:
                continue
            stop = cutting.stop(epoch, position)
            if stop == position or (k and stop - position < size / 2):
                break  # what is left over at the end is no batch like the others
            found = classes_at(position, stop)
            counts.append(np.bincount(found, minlength=n_classes))
            sizes.append(len(found))
            position, done = stop, k
    table, rows = np.array(counts, np.float64), np.array(sizes, np.float64)
    share = table.sum(0) / rows.sum()
    filled = int((share > 0).sum())
    if len(rows) < 2:
        return math.nan, math.nan, filled
    # That of a true shuffle, around the share that these batches have together.
    expected = rows.mean() * (share * (1 - share)).sum() * n * (len(rows) - 1) / max(n - 1, 1)
    if filled < 2:
        return 1.0, 0.0, filled
    precision = math.sqrt(2 / (len(rows) - 1) / (filled - 1))
    return float(((table - rows[:, None] * share) ** 2).sum() / expected), precision, filled
