"""Reading ahead: the next run of batches is read by a thread while those of the last one are used."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from typing import NamedTuple, Protocol, TypeVar

from mmdask.batches.batch import Batch
from mmdask.batches.loading.work_thread import LostError, WorkThread
from mmdask.batches.ordering.cutting import Cutting
from mmdask.batches.processes import in_torch_worker

__all__ = ["Reader", "read_ahead"]

#: batches of a run at most, and of the next one as many times those of the last
RUN_BATCHES = 512
_GROWTH = 8


class Reader(Protocol):
    """What runs are read of, a loader or a mixture."""

    @property
    def cutting(self) -> Cutting:
        """Where the batches of an epoch begin and end."""
        ...

    def run(self, epoch: int, start: int, n: int) -> Iterator[Batch]:
        """Up to `n` batches from a position on, whose rows are read together."""
        ...

    def ends(self, epoch: int, position: int) -> bool:
        """Whether no batch begins at a position of an epoch."""
        ...

    def run_length(self, batch: Batch) -> int:
        """How many batches like this one are read together."""
        ...


R = TypeVar("R", bound=Reader)


class Run(NamedTuple):
    """Batches that were read together, where the next ones begin, and whether there are none."""

    batches: Iterator[Batch]
    stop: int
    ended: bool


def read_ahead(loader: Reader, epoch: int, start: int) -> Iterator[Batch]:
    """The batches of an epoch from a position on; moves nothing on.

    The first is read alone, so that it comes soon; then ever more are read together, up to what fits a run, and while
    they are handed out a thread reads the next run. The thread ends with this iterator. What it finds and raises is
    what reading here would: an error comes where its batch would have come.
    """
    if loader.ends(epoch, start):
        return
    reader, ahead = _borrow(loader), WorkThread[Run](in_thread=not in_torch_worker())
    n = most = 1
    try:
        run = _read(reader, epoch, start, 1)
        while True:
            batch = next(run.batches)
            most = max(most, loader.run_length(batch))
            n = min(_GROWTH * n, most, RUN_BATCHES)
            if not run.ended:
                ahead.start(lambda r=reader, a=run.stop, n=n: _read(r, epoch, a, n))  # type: ignore[misc]
            yield batch
            del batch  # whoever got it may be done with it
            yield from run.batches
            if run.ended:
                return
            start = run.stop
            try:
                run = ahead.result()
            except LostError:
                reader, ahead = copy.copy(loader), WorkThread[Run](in_thread=True)
                run = _read(reader, epoch, start, n)
            except Exception:
                if n == 1:
                    raise
                # One by one, so that those before the one that fails are handed out.
                n = most = 1
                run = _read(reader, epoch, start, 1)
    finally:
        if ahead.close():
            _give_back(loader, reader)


def _read(reader: Reader, epoch: int, start: int, n: int) -> Run:
    stop = start
    for _ in range(n):
        after = reader.cutting.stop(epoch, stop)
        if after == stop:
            break
        stop = after
    return Run(reader.run(epoch, start, n), stop, reader.ends(epoch, stop))


# What a thread reads with is a copy of the loader, so that they need no locks. It is kept from epoch to epoch, because
# it knows the rows of the selection.


def _borrow(loader: R) -> R:
    pid, reader = loader.__dict__.pop("_reader", (0, None))
    return copy.copy(loader) if reader is None or pid != os.getpid() else reader


def _give_back(loader: Reader, reader: Reader) -> None:
    loader.__dict__["_reader"] = os.getpid(), reader
