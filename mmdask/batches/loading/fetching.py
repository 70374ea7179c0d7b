"""From row numbers to batches: the fields of several batches are read together, and cut up by their steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mmdask.batches.batch import Batch
from mmdask.batches.collate import Fetch, Plan, Take
from mmdask.batches.collate.base import Lengths
from mmdask.batches.collate.plan import Entries
from mmdask.batches.processes import default_threads
from mmdask.errors import OptionError
from mmdask.kernels.spread import threads

if TYPE_CHECKING:
    from mmdask.rows.rows import Rows

__all__ = ["Fetching", "Transform", "Wanted"]

#: changes a batch: returns it, or other entries for it
Transform = Callable[[Batch], Mapping[str, Any]]


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
    streams : numpy.ndarray, optional
        int64: for each of `everyone` the number of its random stream, where rows come several times in an epoch; by
        default its row number.
    longest : mapping, optional
        How long the rows of other loaders in this batch are: on each axis the longest.
    shortest : mapping, optional
        And the shortest, before they are cropped to it.
    """

    everyone: npt.NDArray[np.int64]
    start: int
    stop: int
    real: int
    padded: bool
    epoch: int
    index: int
    position: int
    streams: npt.NDArray[np.int64] | None = None
    longest: Lengths | None = None
    shortest: Lengths | None = None

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
    plan : Plan
        What becomes of the fields.
    seed : int
        What is random, depends on it.
    transform : callable, optional
        What is done to each batch then: it returns the batch or other entries for it.
    n_threads : int, optional
        How many gather rows at a time; by default as `default_threads` says when they do.
    """

    def __init__(
        self, rows: Rows, plan: Plan, seed: int, transform: Transform | None = None, n_threads: int | None = None
    ) -> None:
        self.rows = rows
        self.n_threads = n_threads
        self.plan = plan
        self.seed = seed
        self.transform = transform

    def batches(self, wanted: Sequence[Wanted], rows: npt.NDArray[np.int64] | None = None) -> Iterator[Batch]:
        """The batches, in their order, whose rows are read together, now; they are of one epoch.

        `rows` are those of all of them one after the other, where a caller has them so; not where some are repeated.
        """
        own = [w.own for w in wanted]
        ends = np.cumsum([len(some) for some in own]).tolist()
        numbers = rows if rows is not None and len(rows) == ends[-1] else np.concatenate(own)
        takes = [
            Take(end - len(w.own), end, w.everyone, w.start, w.streams, w.longest, w.shortest)
            for w, end in zip(wanted, ends, strict=True)
        ]
        with threads(self.n_threads or default_threads()):
            entries = self.plan.entries(Fetch(self.rows, numbers, tuple(takes), self.seed, wanted[0].epoch))
        return self._made(wanted, takes, entries)

    def _made(self, wanted: Sequence[Wanted], takes: Sequence[Take], entries: Sequence[Entries]) -> Iterator[Batch]:
        for w, take in zip(wanted, takes, strict=True):
            batch = Batch()
            for entries_of in entries:
                batch.update(entries_of(take))
            batch.rows = w.own.copy()
            batch.valid = np.arange(w.start, w.stop) < w.real if w.padded else None
            batch.streams = None if w.streams is None else w.streams[w.start : w.stop]
            batch.epoch, batch.index, batch.position, batch.seed = w.epoch, w.index, w.position, self.seed
            yield batch if self.transform is None else transformed(batch, self.transform)


def transformed(batch: Batch, transform: Transform) -> Batch:
    """What a caller's function makes of a batch; which rows it has and where it stands remain.

    Raises
    ------
    OptionError
        When the function returns no mapping, or an entry with other rows than the batch has. Its own errors are noted
        with the batch.
    """
    about = {name: getattr(batch, name) for name in ("rows", "valid", "epoch", "index", "position", "seed", "streams")}
    n, where = len(batch.rows), f"transform= of batch {about['index']} of epoch {about['epoch']}"
    of_rows = [name for name, value in batch.items() if _length(value) == n]
    try:
        made = transform(batch)
    except StopIteration as error:  # which would end the iteration, or lose its note on the way
        failed = RuntimeError("transform= raised StopIteration")
        failed.add_note(f"in {where}")
        raise failed from error
    except Exception as error:
        error.add_note(f"in {where}")
        raise
    if not isinstance(made, Mapping):
        raise OptionError(
            f"transform= returns a batch, or a dict of entries, and of batch {about['index']} it returned {made!r:.80}"
        )
    for name in of_rows:
        found = _length(made.get(name))
        if found not in (None, n):
            raise OptionError(
                f"{where} returned {name!r} of {found} rows, and the batch has {n}: leave rows out by a cut before "
                "ds.batches, and give other things a name of their own"
            )
    if not isinstance(made, Batch):
        made = Batch(made)
    made.__dict__.update(about)
    return made


def _length(value: Any) -> int | None:
    """The first axis of an array or tensor; None for anything else."""
    shape = getattr(value, "shape", None)
    return int(shape[0]) if shape else None
