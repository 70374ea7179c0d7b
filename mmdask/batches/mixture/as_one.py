"""Loaders whose rows are read together, as if they were of one: of one store, or of stores with the same fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from mmdask.batches.loading.fetching import Fetching
from mmdask.batches.normalisation import NormalisedRows
from mmdask.rows.rows import Rows
from mmdask.rows.views.joined import Joined
from mmdask.rows.views.views import view_of

if TYPE_CHECKING:
    from mmdask.batches.loader import Loader

__all__ = ["AsOne", "as_one"]


class AsOne(NamedTuple):
    """How rows of several loaders are read together.

    `firsts` is what is added to the row numbers of each, int64 ``(loaders,)``.
    """

    fetching: Fetching
    firsts: npt.NDArray[np.int64]

    @property
    def renumbered(self) -> bool:
        """Whether rows have other numbers than in their stores."""
        return bool(self.firsts.any())


def as_one(loaders: Sequence[Loader]) -> AsOne | None:
    """The way to read the rows of all loaders together, if they make the same of them; None if they don't."""
    first, *others = loaders
    if any(loader.transform is not None or not isinstance(loader.rows, Rows) for loader in loaders):
        return None
    cuts = any(chain.cuts for group in first.plan.groups for chain in group.chains)
    for loader in others:
        if loader.plan != first.plan or loader.normalise is not first.normalise or (cuts and loader.seed != first.seed):
            return None
    snapshots = list(dict.fromkeys(loader.rows.snapshot for loader in loaders))
    if len(snapshots) == 1:
        if any(loader.rows.derived != first.rows.derived for loader in others):
            return None
        return AsOne(first.fetching, np.zeros(len(loaders), np.int64))
    rows = _joined([loader.rows for loader in loaders], first.fields)
    if rows is None:
        return None
    read = rows if first.normalise is None else NormalisedRows(rows, first.normalise)
    starts = np.cumsum([0, *(snapshot.rows for snapshot in snapshots)])
    firsts = starts[[snapshots.index(loader.rows.snapshot) for loader in loaders]]
    return AsOne(Fetching(read, first.plan, first.seed, None, first.threads), firsts)


def _joined(each: Sequence[Rows], names: Sequence[str]) -> Rows | None:
    """The rows of several stores one after the other, each store once, if the fields are the same in all of them."""
    first, *others = each
    derived = {name: first.derived[name] for name in names if name in first.derived}
    stored = dict.fromkeys(name for name in names if name not in derived)
    stored |= dict.fromkeys(read for d in derived.values() for read in d.expression.fields)
    for rows in others:
        if {n: d.token for n, d in derived.items()} != {n: d.token for n, d in rows.derived.items() if n in names}:
            return None
        if any(rows.snapshot.schema.get(name) != first.snapshot.schema[name] for name in stored):
            return None
    snapshots = tuple(dict.fromkeys(rows.snapshot for rows in each))
    if not all(snapshot.addressable for snapshot in snapshots):
        return None  # their rows are read in spans or chunks, store by store
    view = view_of(Joined, snapshots, tuple(stored), "", (), ())
    return Rows(view, (), {name: d.over(view.schema) for name, d in derived.items()})
