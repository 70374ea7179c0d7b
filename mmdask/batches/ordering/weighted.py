"""Epochs in which rows come as often as their weights say: an order of copies, and the rows that they are of."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from mmdask.batches.ordering import order
from mmdask.batches.ordering.sequence import ExactSequence, Sequence, Span, StoredSequence, WindowSequence
from mmdask.rows.draws.weighing import Drawn, weigh

if TYPE_CHECKING:
    from mmdask.expr import Expression
    from mmdask.rows.draws.weighing import Weighed
    from mmdask.rows.rows import Rows

__all__ = ["WEIGHTS_VERSION", "WeightedExact", "WeightedStored", "WeightedWindows", "sequence_of"]

#: of what becomes of weights
WEIGHTS_VERSION = 1

Int64s = npt.NDArray[np.int64]


def shift_of(seed: int, epoch: int) -> float:
    """Where the comb of an epoch begins, between 0 and 1."""
    return ((order.epoch_key(seed, epoch, "weights") >> 12) + 0.5) * 2.0**-52


class WeightedStored:
    """Copies in store order."""

    def __init__(self, weighed: Weighed, seed: int) -> None:
        self.weighed, self.seed = weighed, seed
        self.n = weighed.n
        self._copies: Sequence = StoredSequence(Span(self.n))

    def rows_at(self, epoch: int, start: int, stop: int) -> Int64s:
        copies = self._copies.rows_at(epoch, start, stop)
        return self.weighed.copies(shift_of(self.seed, epoch), copies)


class WeightedExact(WeightedStored):
    """One permutation of all copies.

    Which rows they are of is kept for the whole epoch, if that takes no more than `most` bytes.
    """

    def __init__(self, weighed: Weighed, seed: int, most: int = order.DEFAULT_WINDOW) -> None:
        super().__init__(weighed, seed)
        self._keeps = Drawn.nbytes_of(weighed) <= most
        self._copies = ExactSequence(Span(self.n), seed)
        self._drawn: tuple[int, Drawn] | None = None
        self._lock = threading.Lock()  # any thread may ask for a batch by its number

    def rows_at(self, epoch: int, start: int, stop: int) -> Int64s:
        if not self._keeps:
            return super().rows_at(epoch, start, stop)
        copies = self._copies.rows_at(epoch, start, stop)
        with self._lock:
            if self._drawn is None or self._drawn[0] != epoch:
                self._drawn = epoch, Drawn(self.weighed, shift_of(self.seed, epoch))
            return self._drawn[1].copies(copies)


class WeightedWindows(WindowSequence):
    """Blocks of copies mixed in windows that draw evenly from all copies: those of one row are neighbours at first."""

    def __init__(self, weighed: Weighed, seed: int, grain: order.Grain) -> None:
        super().__init__(Span(weighed.n), seed, grain)
        self.weighed = weighed

    def _meaning(self, epoch: int, begins: Int64s, ends: Int64s) -> npt.NDArray[Any]:
        found = self.weighed.runs(shift_of(self.seed, epoch), begins, ends - 1)
        return found.astype(np.int32) if self.weighed.rows.n_store < 2**31 else found


def sequence_of(
    rows: Rows,
    shuffle: Literal[True, False, "exact"],
    seed: int,
    grain: order.Grain,
    weights: Expression | None = None,
    most: int = order.DEFAULT_WINDOW,
) -> Sequence:
    """The order of rows, or of their copies by weights, which are added up if that was not done yet.

    `most` are the bytes that may be kept of an exact order by weights.
    """
    if weights is None:
        if shuffle is True:
            return WindowSequence(rows, seed, grain)
        return ExactSequence(rows, seed) if shuffle == "exact" else StoredSequence(rows)
    weighed = weigh(rows, weights)
    if shuffle is True:
        return WeightedWindows(weighed, seed, grain)
    return WeightedExact(weighed, seed, most) if shuffle == "exact" else WeightedStored(weighed, seed)
