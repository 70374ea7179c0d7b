"""Batches made by worker processes, in the order of the loader. Imports torch."""

from __future__ import annotations

import copy
from collections.abc import Generator, Iterator
from contextlib import suppress
from multiprocessing.connection import wait
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from mmdask.batches.batch import Batch
from mmdask.batches.epochs import Epochs, run_length
from mmdask.batches.frameworks.torch_tensors import Parcel, parcel, shared
from mmdask.batches.loading.budget import RUN_NBYTES
from mmdask.errors import MmdaskError

__all__ = ["Workers"]

#: runs under way per worker
PREFETCH = 2
#: runs of an epoch per worker, or more, so that all workers end at about the same time
LEAST_RUNS = 4
#: batches of a run: with so many, what a message costs is nothing, and little is made in vain
MOST_BATCHES = 64


class Made(NamedTuple):
    """A run of batches, whether it is all that was wanted, and how many batches like these are best made together."""

    parcel: Parcel
    whole: bool
    run_length: int


class Workers:
    """Worker processes that are told which batches to make, so that their number changes nothing.

    What they are told is an epoch and a position, and nothing has to be kept in step with them. They stay from one
    epoch to the next, or end with it.
    """

    def __init__(self, loader: Epochs, n: int, context: Any, persistent: bool) -> None:
        self.loader = loader
        self.n = n
        self.context = context
        self.persistent = persistent
        self._idle: DataLoader[Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_idle": None}  # processes are those of one parent

    def parcels(self, epoch: int, start: int) -> Iterator[Parcel]:
        """The batches of an epoch from a position on.

        A batch that cannot be made raises in its turn, after those before it.
        """
        position: int | None = start
        while position is not None:
            position = yield from self._until_failure(epoch, position)

    def close(self) -> None:
        """End the processes that wait for another epoch."""
        self._idle = None  # the last reference

    def _until_failure(self, epoch: int, start: int) -> Generator[Parcel, None, int | None]:
        """Return the position of the batch that could not be made, None at the end of the epoch."""
        # One iteration has them to itself: another that begins meanwhile starts its own.
        workers, self._idle = self._idle, None
        if workers is None or not _alive(workers._iterator):
            workers = self._started()
        plan = workers.sampler
        plan.begin(epoch, start)
        running = iter(workers)
        good, failed = False, None
        try:
            while (made := _next(running)) is not None:
                plan.length = made.run_length
                yield made.parcel
                if not made.whole:
                    failed = made.parcel.batches[-1].position  # it comes first in the run that begins there, and raises
                    break
            good = True
        except GeneratorExit:
            good = True
            raise
        finally:
            if good and self.persistent and self._idle is None and _alive(running):
                self._idle = workers
            else:
                running._shutdown_workers()  # now, and not when an exception that refers to them is collected
        return failed

    def _started(self) -> DataLoader[Any]:
        return DataLoader(
            Maker(self.loader),
            batch_size=None,
            sampler=Plan(self.loader, self.n),
            num_workers=self.n,
            collate_fn=_as_it_is,
            multiprocessing_context=self.context,
            prefetch_factor=PREFETCH,
            persistent_workers=self.persistent,
            generator=torch.Generator(),  # its own, because a DataLoader draws from it, and from torch's otherwise
        )


class Plan:
    """Which batches are made together: first single ones, then as many as are good. A DataLoader calls it a sampler."""

    def __init__(self, loader: Epochs, workers: int) -> None:
        self.loader = loader
        self.workers = workers
        self.begin(0, 0)

    def begin(self, epoch: int, start: int) -> None:
        """Where the next iteration begins."""
        self.epoch, self.start, self.length = epoch, start, 1

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        """Epoch, position and number of batches of every run."""
        cutting, n_rows = self.loader.cutting, self.loader.n_rows
        epoch, position = self.epoch, self.start
        while True:
            begin, n = position, 0
            most = None if n_rows is None else (n_rows - begin) // (LEAST_RUNS * self.workers)
            while n == 0 or (n < self.length and (most is None or position - begin < most)):
                stop = cutting.stop(epoch, position)
                if stop == position:
                    break
                position, n = stop, n + 1
            if n == 0:
                return
            yield epoch, begin, n


class Maker(Dataset):  # type: ignore[misc]
    """Makes batches in a worker process."""

    def __init__(self, loader: Epochs) -> None:
        # A copy, because after a fork a thread that is no more may hold what the loader of the parent has made.
        self.loader = copy.copy(loader)

    def __getitem__(self, wanted: tuple[int, int, int]) -> Made:
        epoch, start, n = wanted
        try:
            batches = list(self._batches(epoch, start, n, together=n))
        except Exception:
            batches = []
            with suppress(Exception):
                for batch in self._batches(epoch, start, n, together=1):
                    batches.append(batch)
            if not batches:
                raise
        return Made(parcel(batches, shared), len(batches) == n, min(run_length(batches[0], RUN_NBYTES), MOST_BATCHES))

    def _batches(self, epoch: int, start: int, n: int, together: int) -> Iterator[Batch]:
        while n:
            for batch in self.loader.run(epoch, start, min(n, together)):
                yield batch
                start, n = batch.position, n - 1


def _alive(running: Any) -> bool:
    return all(worker.is_alive() for worker in running._workers)


def _next(running: Any) -> Made | None:
    """What the workers made next; None if that was all."""
    try:
        return next(running, None)
    except (EOFError, OSError) as error:
        # A worker that is killed may have told of a parcel that it can hand over no more.
        sentinels = {worker.sentinel: worker for worker in running._workers}
        dead = [] if isinstance(error, MmdaskError) else wait(list(sentinels), timeout=5)
        if not dead:
            raise
        pids = ", ".join(str(sentinels[s].pid) for s in dead)
        raise RuntimeError(f"DataLoader worker (pid {pids}) exited unexpectedly, before its batches came") from error


def _as_it_is(made: Made) -> Made:
    return made
