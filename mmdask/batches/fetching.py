"""From row numbers to batches: the fields of several batches are read together, and cut up by their steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mmdask.batches.batch import Batch
from mmdask.batches.collate import Step, Take

if TYPE_CHECKING:
    from mmdask.rows.rows import Rows

__all__ = ["Fetching", "Wanted"]


@dataclass(frozen=True)
class Wanted:
    """A batch before it is read.

    Parameters
    ----------
    everyone : numpy.ndarray
        int64: its rows on all ranks, with the repeats that fill it up.
    start, stop : int
        Which of them are this rank's.
    real : int
        How many of `everyone` are no repeats.
    padded : bool
        Whether the batch says which rows are no repeats.
    epoch, index, position : int
        As those of `Batch`.
    """

    everyone: npt.NDArray[np.int64]
    start: int
    stop: int
    real: int
    padded: bool
    epoch: int
    index: int
    position: int

    @property
    def own(self) -> npt.NDArray[np.int64]:
        """The rows of this rank."""
        return self.everyone[self.start : self.stop]


class Fetching:
    """Reads the fields of rows and makes batches of them.

    Parameters
    ----------
    rows : Rows
        The selected rows.
    steps : mapping
        What becomes of each field, by name.
    """

    def __init__(self, rows: Rows, steps: Mapping[str, Step]) -> None:
        self.rows = rows
        self.steps = dict(steps)

    def batches(self, wanted: Sequence[Wanted]) -> Iterator[Batch]:
        """The batches, in their order, whose rows are read together."""
        own = [w.own for w in wanted]
        numbers = own[0] if len(own) == 1 else np.concatenate(own)
        schema = self.rows.schema
        fetched = {name: step.fetch(self.rows, schema[name], numbers) for name, step in self.steps.items()}
        done = 0
        for w, rows in zip(wanted, own, strict=True):
            batch = Batch()
            take = Take(done, done + len(rows), w.everyone, w.start)
            done = take.stop
            for name, step in self.steps.items():
                batch.update(step.entries(self.rows, schema[name], fetched[name], take))
            batch.rows = rows.copy()
            batch.valid = np.arange(w.start, w.stop) < w.real if w.padded else None
            batch.epoch, batch.index, batch.position = w.epoch, w.index, w.position
            yield batch
