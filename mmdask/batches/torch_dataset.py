"""The dataset behind `to_torch`. Only that function imports this module, because it imports torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from mmdask.batches.batch import Batch
from mmdask.batches.collate import Packed
from mmdask.batches.loader import Loader
from mmdask.errors import OptionError, StateError

__all__ = ["TorchBatches"]

MOST_WORKERS = 1024


class TorchBatches(IterableDataset):  # type: ignore[misc]
    """Batches of a loader with tensors for arrays; see `to_torch`.

    With worker processes, every worker has a copy of the loader; a few numbers in shared memory tell them the epoch.
    The worker that ends an epoch as the last of all moves it on: before that, one of them may not even have begun.
    """

    def __init__(self, loader: Loader, device: Any = None) -> None:
        super().__init__()
        self.loader = loader
        self.device = device
        # The epoch of the next iteration, whether workers have run one, and per worker whether it has ended this one.
        self._shared = torch.zeros(2 + MOST_WORKERS, dtype=torch.int64).share_memory_()
        self._shared[0] = loader.epoch

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        if worker is None:
            return self._alone()
        return self._as_worker(worker.id, worker.num_workers)

    def _alone(self) -> Iterator[Batch]:
        self._join()
        for batch in self.loader:
            yield self._tensors(batch)
        self._move(self.loader.epoch)

    def _as_worker(self, worker: int, n_workers: int) -> Iterator[Batch]:
        self._join()
        loader = self.loader
        if n_workers > MOST_WORKERS:
            raise OptionError(f"num_workers is {n_workers}, and batches are made by at most {MOST_WORKERS}")
        ended = self._shared[2 : 2 + n_workers]
        self._shared[1], ended[worker] = 1, 0
        epoch, start = loader.begin()
        for i in range(worker, loader.cutting.left(epoch, start), n_workers):
            yield self._tensors(loader.batch(epoch, loader.cutting.after(epoch, start, i)))
        ended[worker] = 1
        if ended.all() and self._shared[0] == epoch:
            self._move(epoch + 1)

    def _move(self, epoch: int) -> None:
        self._shared[2:] = 0
        self._shared[0] = epoch

    def _join(self) -> None:
        """Take over the epoch that another process may have set."""
        epoch = int(self._shared[0])
        if epoch != self.loader.epoch:
            self.loader.set_epoch(epoch)

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration runs."""
        return int(self._shared[0])

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration run an epoch; reaches workers that are kept alive too."""
        self._join()
        self.loader.set_epoch(epoch)
        self._move(epoch)

    def state_dict(self, after: Batch | None = None) -> dict[str, Any]:
        """Where the consumer stands, as `Loader.state_dict`.

        With worker processes pass the last batch received as `after`: workers run ahead, and only the consumer knows
        how far it is.

        Raises
        ------
        StateError
            When workers computed the batches and `after` is missing.
        """
        if after is None and self._shared[1]:
            raise StateError(
                "worker processes computed these batches ahead of what was received; call state_dict(after=batch) "
                "with the last batch received"
            )
        return self.loader.state_dict(after)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after the last batch of a state; see `Loader.load_state_dict`."""
        self.loader.load_state_dict(state)
        self._move(self.loader.epoch)
        self._shared[1] = 0

    def _tensors(self, batch: Batch) -> Batch:
        for name, value in batch.items():
            batch[name] = self._tensor(value)
        batch.rows = self._tensor(batch.rows)
        batch.valid = None if batch.valid is None else self._tensor(batch.valid)
        return batch

    def _tensor(self, value: Any) -> Any:
        if isinstance(value, Packed):
            return Packed(*map(self._tensor, value))
        if isinstance(value, list):  # of arrays, or of text
            return [self._tensor(v) for v in value]
        if not isinstance(value, np.ndarray) or value.dtype.kind == "S":
            return value
        if value.dtype.kind in "Mm":
            value = value.view(np.int64)
        tensor = torch.from_numpy(value)
        return tensor if self.device is None else tensor.to(self.device, non_blocking=True)
