"""The dataset behind `to_torch`. Only that function imports this module, because it imports torch."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import torch
from torch.utils.data import IterableDataset, get_worker_info

from mmdask.batches.batch import Batch
from mmdask.batches.epochs import Epochs
from mmdask.batches.frameworks.torch_tensors import Parcel, Uploads, parcel, pinned, tensors, unpack
from mmdask.batches.frameworks.torch_workers import Workers
from mmdask.errors import OptionError, StateError

__all__ = ["TorchBatches"]

MOST_WORKERS = 256


class TorchBatches(IterableDataset):  # type: ignore[misc]
    """Batches of a loader with tensors for arrays; see `to_torch`.

    In the workers of a DataLoader that the caller made, every worker has a copy of the loader; a few numbers in shared
    memory tell them the epoch. The worker that ends an epoch as the last of all moves it on: before that, one of them
    may not even have begun. That one of them ended an iteration which was left early tells nothing of the next.
    """

    def __init__(self, loader: Epochs, device: torch.device | None, pin: bool, workers: Workers | None) -> None:
        super().__init__()
        self.loader = loader
        self.device = device
        self.pin = pin
        self.workers = workers
        # The epoch of the next iteration, whether workers have run one, and per worker the one that it ended last.
        self._shared = torch.zeros(2 + MOST_WORKERS, dtype=torch.int64).share_memory_()
        self._shared[0] = loader.epoch
        self._begun = 0  # iterations, of this process

    def __repr__(self) -> str:
        return f"<TorchBatches of {self.loader!r}>"

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        if worker is None:
            return self._here()
        # A number that all workers have for an iteration: those that stay begin all of them, others have another seed.
        self._begun += 1
        return self._as_worker(worker.id, worker.num_workers, (worker.seed - worker.id + self._begun) % 2**62 + 1)

    def __getitem__(self, i: object) -> NoReturn:
        raise OptionError(
            "batches of tensors come one after the other, as in next(iter(batches)); by its number the loader itself "
            f"has batch {i!r}, as arrays: ds.batches(...)[i]"
        )

    def close(self) -> None:
        """End the worker processes that wait for the next epoch. A later ``for`` starts others."""
        if self.workers is not None:
            self.workers.close()

    def _here(self) -> Iterator[Batch]:
        self._join()
        self._shared[1] = 0
        batches = self.loader.iterate(self._source)
        self._move(self.loader.epoch)
        yield from batches
        self._move(self.loader.epoch)

    def _source(self, epoch: int, start: int) -> Iterator[Batch]:
        """The batches of an epoch from a position on."""
        if self.workers is None and not self.pin:
            for batch in self.loader.source(epoch, start):
                yield tensors(batch, self.device)
            return
        parcels = self._parcels(epoch, start)
        if self.pin and self.device is not None:
            yield from Uploads(self.device).batches(parcels)
        else:
            for made in parcels:
                yield from unpack(made.pin() if self.pin else made.to(self.device))

    def _parcels(self, epoch: int, start: int) -> Iterator[Parcel]:
        if self.workers is None:
            return (parcel([batch], pinned) for batch in self.loader.source(epoch, start))
        return self.workers.parcels(epoch, start)

    # In a worker of a DataLoader that the caller made ---------------------------------------------------------------

    def _as_worker(self, worker: int, n_workers: int, iteration: int) -> Iterator[Batch]:
        self._join()
        if n_workers > MOST_WORKERS:
            raise OptionError(f"num_workers is {n_workers}, and batches are made by at most {MOST_WORKERS}")
        if self.device is not None and self.device.type != "cpu":
            raise OptionError(
                f"worker processes cannot make tensors on {self.device}; let to_torch({str(self.device)!r}, "
                f"num_workers={n_workers}) start them instead of a DataLoader"
            )
        ended = self._shared[2 : 2 + n_workers]
        self._shared[1] = 1
        before = int(self._shared[0])  # the epoch, or the one before if only its last batch was got
        epoch, start = self.loader.begin()
        loader = copy.copy(self.loader)  # after a fork a thread that is no more may hold what it has made
        cutting = loader.cutting
        position = cutting.after(epoch, start, worker)
        while cutting.stop(epoch, position) > position:
            yield tensors(loader.batch(epoch, position))
            position = cutting.after(epoch, position, n_workers)
        ended[worker] = iteration
        if (ended == iteration).all() and self._shared[0] == before:
            self._move(epoch + 1)

    def _move(self, epoch: int) -> None:
        self._shared[2:] = 0
        self._shared[0] = epoch

    def _join(self) -> None:
        """Take over the epoch that another process may have set."""
        epoch = int(self._shared[0])
        if epoch != self.loader._epoch:
            self.loader.set_epoch(epoch)

    # Epochs and states ----------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration runs; see `Loader.epoch`."""
        epoch = int(self._shared[0])
        return self.loader.epoch if epoch == self.loader._epoch else epoch

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration run an epoch; reaches workers that are kept alive too."""
        self._join()
        self.loader.set_epoch(epoch)
        self._move(epoch)

    def state_dict(self, after: Batch | None = None) -> dict[str, Any]:
        """Where the consumer stands, as `Loader.state_dict`.

        With a DataLoader of your own pass the last batch received as `after`: its workers run ahead, and only the
        consumer knows how far it is. With ``to_torch(num_workers=)`` that is known here.

        Raises
        ------
        StateError
            When workers of another DataLoader made the batches and `after` is missing.
        """
        if after is None and self._shared[1]:
            raise StateError(
                "worker processes computed these batches ahead of what was received; call state_dict(after=batch) "
                "with the last batch received, or let to_torch(num_workers=) start the workers"
            )
        return self.loader.state_dict(after)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after the last batch of a state; see `Loader.load_state_dict`."""
        self.loader.load_state_dict(state)
        self._move(self.loader.epoch)
        self._shared[1] = 0
