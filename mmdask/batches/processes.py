"""Which of several processes this is, a rank or a worker of a DataLoader, and how many cores they leave to it."""

from __future__ import annotations

import os
import sys
import warnings

from mmdask.batches.options import integer
from mmdask.errors import LoneRankWarning, OptionError

__all__ = ["DEFAULT_THREADS", "check_share", "default_threads", "in_torch_worker", "ranks"]

#: threads that gather rows, where a caller does not say; a copy of memory gains no more from others
DEFAULT_THREADS = 4


def ranks(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """The rank and the number of ranks, where they are not given those of torch.distributed.

    That is asked only if it was imported and initialised already; without it they are 0 and 1.

    Raises
    ------
    OptionError
        When an argument cannot be used, or several ranks are given that are not torch's, and not which this is.

    Warns
    -----
    LoneRankWarning
        When nothing is given, and torchrun has started several processes that do not know of each other yet.

    Examples
    --------
    >>> ranks(None, None), ranks(2, 4), ranks(None, 1)
    ((0, 1), (2, 4), (0, 1))
    """
    here = _of_torch()
    if world_size is None:
        if here is None and rank is None and (started := _started()) > 1:
            warnings.warn(
                f"WORLD_SIZE says that {started} processes were started, and torch.distributed is not initialised, so "
                "that each of them gets the batches of all rows. Make the loader after init_process_group; or say "
                "world_size=1 if all rows are meant",
                LoneRankWarning,
                stacklevel=4,
            )
        world_size = 1 if here is None else here[1]
    world_size = integer("world_size", world_size, 1)
    if rank is None:
        if here is not None and world_size not in (1, here[1]):
            raise OptionError(
                f"world_size is {world_size}, and torch.distributed has {here[1]} ranks; say rank= too, or leave both "
                "out for torch's"
            )
        if here is None and world_size > 1:
            raise OptionError(
                f"world_size is {world_size}, and without rank= every process would get the rows of the first; say "
                "which of them this is, from 0 on, or make the loader when torch.distributed is initialised and leave "
                "both out"
            )
        rank = 0 if here is None or world_size == 1 else here[0]
    return integer("rank", rank, 0, world_size, "world_size"), world_size


def check_share(batch_size: int, world_size: int) -> None:
    """Raise where some ranks would have no row of any batch.

    Raises
    ------
    OptionError
        When there are more ranks than rows of a batch.
    """
    if batch_size < world_size:
        raise OptionError(
            f"batch_size is {batch_size}, and it counts the rows of all {world_size} ranks together, so that some of "
            f"them would have none; for n rows on each rank ask for n * {world_size}"
        )


def _of_torch() -> tuple[int, int] | None:
    distributed = sys.modules.get("torch.distributed")  # what is not imported cannot be initialised
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    return distributed.get_rank(), distributed.get_world_size()


def in_torch_worker() -> bool:
    """Whether this is a worker of a DataLoader, one of several processes that read at the same time."""
    data = sys.modules.get("torch.utils.data")
    return data is not None and data.get_worker_info() is not None


def default_threads() -> int:
    """How many threads gather rows: as many as there are cores for each rank of this machine, and one in a worker."""
    if in_torch_worker():
        return 1
    cores = len(os.sched_getaffinity(0)) // _told("LOCAL_WORLD_SIZE")
    return max(min(cores, DEFAULT_THREADS), 1)


def _started() -> int:
    """How many processes torchrun has started, on all machines; 1 if it has not started this one."""
    return _told("WORLD_SIZE") if "RANK" in os.environ else 1


def _told(name: str) -> int:
    """A number that torchrun tells those it starts."""
    told = os.environ.get(name, "")
    return max(int(told) if told.isdecimal() else 1, 1)
