"""What `Dataset.save` hands to the workers of a cluster: an order of rows that pickles as what it is made from."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.batches.ordering.sequence import mixed
from mmdask.dataset.making.dask_workers import DaskWorkers
from mmdask.dataset.run import client_in_force
from mmdask.kernels.once import once
from mmdask.rows.rows import Rows

__all__ = ["MixedOrder", "order_of", "workers_for"]

Int64s = npt.NDArray[np.int64]


class MixedOrder:
    """The store row numbers at positions of a shuffled order; each process finds it anew."""

    def __init__(self, rows: Rows, how: str, seed: int) -> None:
        self.rows, self.how, self.seed = rows, how, seed

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.rows, self.how, self.seed)

    def __call__(self, start: int, stop: int) -> Int64s:
        found: Int64s = self._found(start, stop)
        return found

    @once
    def _found(self) -> Any:
        return mixed(self.rows, self.how, self.seed)


def order_of(rows: Rows, how: object, seed: object) -> MixedOrder | None:
    """The order that a user asks for; None for that of the store. Raises `OptionError`."""
    if mixed(rows, how, seed) is None:
        return None
    assert isinstance(how, str)
    assert isinstance(seed, int)
    return MixedOrder(rows, how, seed)


def workers_for(rows: Rows, path: str | os.PathLike[str]) -> DaskWorkers | None:
    """The workers of the cluster in force, to copy these rows to `path`; None if this process has to do it.

    What lies in the memory of this process does not travel.
    """
    client = client_in_force()
    if client is None or client.asynchronous:
        return None
    stores = rows.snapshot.stores
    here = [os.fspath(path), *(store.path for store in stores)]
    if any(text.startswith("memory:") for text in here) or not all(store.on_disk for store in stores):
        return None
    return DaskWorkers(client, "save")
