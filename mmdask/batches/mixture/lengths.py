"""How long rows are in batches of several loaders, where that depends on the rows of a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mmdask.batches.collate import Take
from mmdask.batches.collate.base import Fetch, Lengths
from mmdask.batches.collate.chain import Chain
from mmdask.batches.collate.forms import Equal
from mmdask.batches.collate.padding import Pad
from mmdask.batches.loading.fetching import Wanted
from mmdask.errors import OptionError

if TYPE_CHECKING:
    from mmdask.batches.loader import Loader

__all__ = ["agreed", "check_lengths"]

Int64s = npt.NDArray[np.int64]


def check_lengths(loaders: Mapping[str, Loader]) -> None:
    """Raise where loaders make rows of lengths that do not agree, unless functions may change them.

    `mm.pad("max")` and `mm.crop("min")` agree where all have them: they look at the rows of all loaders.

    Raises
    ------
    OptionError
        Which names the field, the loader and its step.
    """
    if len(loaders) == 1 or any(loader.transform is not None for loader in loaders.values()):
        return
    for asks in (_pads_to_longest, _is_as_long_as_the_shortest):
        asking = [{chain.key for chain in _chains(loader) if asks(chain)} for loader in loaders.values()]
        of_all = set.intersection(*asking)
        for name, loader in loaders.items():
            for chain in _chains(loader):
                if asks(chain) and chain.key not in of_all and chain.field.kind != "dense":
                    step = next((cut for cut in chain.cuts if cut.needs_least), chain.final)
                    raise OptionError(
                        f"the loader {name!r} has {step} for {chain.field.name!r}, which is as long as the rows of a "
                        f"batch ask for, and another loader has no such step for {chain.name!r}, so that their rows do "
                        "not fit one array; give a number, as in mm.pad(8), the same for all loaders, or all of them "
                        f"{step}"
                    )


def agreed(loaders: Sequence[Loader], wanted: Sequence[Sequence[Wanted]]) -> Sequence[Sequence[Wanted]]:
    """What each loader gives to each batch, with the lengths that the rows of all of them ask for.

    These are those of `mm.crop("min")` and then of `mm.pad("max")`.

    Parameters
    ----------
    loaders : sequence of Loader
    wanted : sequence of sequence of Wanted
        By loader, and by batch.
    """
    if len(loaders) == 1:
        return wanted
    shortest = _over_all(loaders, wanted, _crops_to_shortest, Chain.shortest, np.minimum)
    if shortest:
        wanted = [[replace(w, shortest=of) for w, of in zip(own, shortest, strict=True)] for own in wanted]
    longest = _over_all(loaders, wanted, _pads_to_longest, Chain.longest, np.maximum)
    if longest:
        wanted = [[replace(w, longest=of) for w, of in zip(own, longest, strict=True)] for own in wanted]
    return wanted


def _over_all(
    loaders: Sequence[Loader],
    wanted: Sequence[Sequence[Wanted]],
    asks: Callable[[Chain], bool],
    lengths: Callable[[Chain, Fetch], Int64s],
    together: Callable[[Int64s, Int64s], Int64s],
) -> Sequence[Lengths]:
    """For each batch the lengths of fields over the rows of all loaders that ask for them; empty if none does."""
    found: dict[tuple[str, str], Int64s] = {}
    for loader, own in zip(loaders, wanted, strict=True):
        chains = [chain for chain in _chains(loader) if asks(chain)]
        if chains:
            fetch = _everything(loader, own)
        for chain in chains:
            key, each = chain.key, lengths(chain, fetch)
            found[key] = together(found[key], each) if key in found else each
    n = len(wanted[0]) if found else 0
    return [{key: tuple(each[k].tolist()) for key, each in found.items()} for k in range(n)]


def _everything(loader: Loader, wanted: Sequence[Wanted]) -> Fetch:
    """The rows of batches on all ranks."""
    ends = np.cumsum([len(w.everyone) for w in wanted]).tolist()
    takes = [
        Take(end - len(w.everyone), end, w.everyone, 0, w.streams, w.longest, w.shortest)
        for w, end in zip(wanted, ends, strict=True)
    ]
    numbers = np.concatenate([w.everyone for w in wanted])
    return Fetch(loader.fetching.rows, numbers, tuple(takes), loader.seed, wanted[0].epoch)


def _chains(loader: Loader) -> list[Chain]:
    return [chain for group in loader.plan.groups for chain in group.chains]


def _pads_to_longest(chain: Chain) -> bool:
    return isinstance(chain.final, Pad) and chain.final.fixed is None


def _crops_to_shortest(chain: Chain) -> bool:
    return any(cut.needs_least for cut in chain.cuts)


def _is_as_long_as_the_shortest(chain: Chain) -> bool:
    return isinstance(chain.final, Equal) and _crops_to_shortest(chain)
