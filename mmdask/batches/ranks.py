"""Which process of several this is."""

from __future__ import annotations

import sys

from mmdask.batches.epochs import integer
from mmdask.errors import OptionError

__all__ = ["check_share", "ranks"]


def ranks(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """The rank and the number of ranks, where they are not given those of torch.distributed.

    That is asked only if it was imported and initialised already; without it they are 0 and 1.

    Raises
    ------
    OptionError
        When an argument cannot be used, or a world size is given that is not torch's, and no rank.

    Examples
    --------
    >>> ranks(None, None), ranks(2, 4), ranks(None, 1)
    ((0, 1), (2, 4), (0, 1))
    """
    here = _of_torch()
    if world_size is None:
        world_size = 1 if here is None else here[1]
    world_size = integer("world_size", world_size, 1)
    if rank is None:
        if here is not None and world_size not in (1, here[1]):
            raise OptionError(
                f"world_size is {world_size}, and torch.distributed has {here[1]} ranks; say rank= too, or leave both "
                "out for torch's"
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
