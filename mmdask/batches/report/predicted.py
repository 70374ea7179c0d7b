"""How the counts of classes in batches vary by design: in the mean over seeds, of what a sequence draws for a batch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mmdask.batches.ordering.balanced import BalancedSequence
from mmdask.batches.ordering.sequence import ExactSequence, Sequence, WindowSequence
from mmdask.batches.ordering.weighted import shift_of
from mmdask.batches.report.classes import Classes

if TYPE_CHECKING:
    from mmdask.rows.draws.weighing import Weighed

__all__ = ["Drawn", "drawn", "ratio", "together"]

Int64s = npt.NDArray[np.int64]
_PIECE = 1 << 20
_OFFSETS = 32


@dataclass(frozen=True)
class Drawn:
    """Rows of a batch that are drawn from some rows, and how the counts of their classes vary, in the mean over seeds.

    Parameters
    ----------
    size : float
        How many.
    share : numpy.ndarray
        Of each class among those that they are drawn from.
    variance : numpy.ndarray
        Of their counts.
    """

    size: float
    share: npt.NDArray[np.float64]
    variance: npt.NDArray[np.float64]


def ratio(drawn: Drawn, n_rows: int | None) -> float:
    """The variance of counts, as times that of a true shuffle of all rows of an epoch."""
    n = n_rows or math.inf
    rest = 1.0 if math.isinf(n) else (n - drawn.size) / max(n - 1, 1)
    expected = float((drawn.size * drawn.share * (1 - drawn.share)).sum()) * rest
    return float(drawn.variance.sum()) / expected if expected > 0 else 1.0


def drawn(sequence: Sequence, classes: Classes, epoch: int, size: float) -> Drawn:
    """What a sequence draws for a batch."""
    if isinstance(sequence, BalancedSequence):
        parts = zip(sequence.classes, sequence.quotas.shares, strict=True)
        total = sum(sequence.quotas.shares)
        return together([drawn(part, classes, epoch, size * share / total) for part, share in parts])
    if isinstance(sequence, WindowSequence):
        return _of_windows(sequence, classes, epoch, size)
    of_all = np.zeros(classes.n)
    for counts in _block_counts(sequence, classes, epoch, max(sequence.n, 1)):
        of_all += counts.sum(0)
    share = of_all / sequence.n
    return Drawn(size, share, size * share * (1 - share) * max(sequence.n - size, 0) / max(sequence.n - 1, 1))


def together(parts: list[Drawn]) -> Drawn:
    """Parts of a batch that are drawn apart, each of so many rows."""
    size = sum(part.size for part in parts)
    share = sum([part.share * part.size for part in parts], np.zeros(1)) / size
    return Drawn(size, share, sum([part.variance for part in parts], np.zeros(1)))


def _of_windows(sequence: WindowSequence, classes: Classes, epoch: int, size: float) -> Drawn:
    """A window takes one block of every stratum, so that the variance of its count of a class is the sum of those of
    blocks within strata; a batch is drawn from its window without replacement.
    """
    n, windows = sequence.n, sequence.windows
    of_all = np.zeros(classes.n)
    blocks = np.zeros(windows.n_strata)
    sums, squares = np.zeros((2, windows.n_strata, classes.n))
    first = 0
    for counts in _block_counts(sequence, classes, epoch, sequence.grain.block):
        strata = (np.arange(first + 1, first + 1 + len(counts)) * windows.n_strata - 1) // windows.n_blocks
        first += len(counts)
        np.add.at(blocks, strata, 1)
        np.add.at(sums, strata, counts)
        np.add.at(squares, strata, counts.astype(np.float64) ** 2)
        of_all += counts.sum(0)
    share = of_all / n
    in_window = n / windows.n_windows
    mean = sums / blocks[:, None]
    between = (squares / blocks[:, None] - mean**2).sum(0) / in_window**2  # of the share of a class in a window
    within = share * (1 - share) - between
    found = np.zeros(classes.n)
    for begin in (np.arange(_OFFSETS) + 0.5) / _OFFSETS * in_window:  # where in a window a batch begins
        pieces = _pieces(begin, size, in_window)
        # Windows have all rows together, so that one has more of a class where the others have less.
        square = (pieces**2).sum()
        others = (size**2 - square) / max(windows.n_windows - 1, 1)
        found += (square - others) * between + (pieces * (in_window - pieces)).sum() / max(in_window - 1, 1) * within
    return Drawn(size, share, found / _OFFSETS)


def _pieces(begin: float, size: float, in_window: float) -> npt.NDArray[np.float64]:
    """How many rows of each window a batch has that begins so far from the begin of one."""
    edges = np.arange(0, begin + size + in_window, in_window)
    pieces: npt.NDArray[np.float64] = np.minimum(edges[1:], begin + size) - np.maximum(edges[:-1], begin)
    return np.maximum(pieces, 0)


def _block_counts(sequence: Sequence, classes: Classes, epoch: int, block: int) -> Iterator[Int64s]:
    """How many rows of each class the blocks have that have any, int64 ``(blocks, classes)``, piece by piece.

    Of rows that are drawn by weights these are blocks of copies.
    """
    open_block, open_counts = -1, np.zeros((1, classes.n), np.int64)
    for start in range(0, sequence.n, _PIECE):
        stop = min(start + _PIECE, sequence.n)
        weighed: Weighed | None = getattr(sequence, "weighed", None)
        if weighed is None:
            assert isinstance(sequence, WindowSequence | ExactSequence)
            places = numbers = sequence.rows.numbers(start, stop)
        else:
            places = np.arange(start, stop)
            numbers = weighed.copies(shift_of(sequence.seed, epoch), places)  # type: ignore[attr-defined]
        found, which = np.unique(places // block, return_inverse=True)
        flat = np.bincount(which * classes.n + classes.of(numbers), minlength=len(found) * classes.n)
        counts = flat.reshape(len(found), classes.n)
        if found[0] == open_block:
            counts[0] += open_counts[0]
        elif open_block >= 0:
            yield open_counts
        open_block, open_counts = int(found[-1]), counts[-1:]
        yield counts[:-1]
    yield open_counts
