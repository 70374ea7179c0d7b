"""Ctrl-C at every moment of an epoch of batches: those handed out, and those that come then, have each row once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import mmdask as mm
from mmdask.kernels import jit
from tests.faults.children import in_parallel
from tests.faults.content import Wrong
from tests.faults.interrupting import different_moments
from tests.faults.reading import JET, ROWS, Store, X, interrupt, make_store
from tests.faults.report import Result
from tests.faults.tidy import memory_folder, scratch

#: epoch, number and position of a batch, and its rows
Seen = tuple[int, int, int, tuple[int, ...]]
#: how one goes on
ENDS = ("same", "state", "again")
_WINDOWS: dict[str, Any] = {"block": 4, "window": 2000}


@dataclass(frozen=True)
class Way:
    """A way to make batches."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    cut: str = ""
    io: str = "auto"
    zarr: bool = False
    #: whether each row comes once in an epoch
    once: bool = True
    make: Callable[[Any], Any] | None = None
    #: what is iterated over of a loader
    source: Callable[[Any], Any] = iter

    def loader(self, store: Store) -> Any:
        """A new one."""
        ds = mm.open(store.zarr if self.zarr else store.path, **({} if self.io == "auto" else {"io": self.io}))
        if self.make is not None:
            return self.make(ds)
        rows = ds[ds.cut(self.cut)] if self.cut else ds
        return rows.batches(7, **{"fields": ["x", "jet"], "seed": 5, **self.options})


def _mixed(ds: Any) -> Any:
    loaders = {
        name: ds[ds.cut(cut)].batches(6, fields=["x", "jet"], seed=1)
        for name, cut in (("low", "x <= 30"), ("high", "x > 30"))
    }
    return mm.mix(loaders, {"low": 1, "high": 2}, stop="all")


def _torch(loader: Any) -> Any:
    return iter(loader.to_torch())


def ways() -> dict[str, Way]:
    """All ways by name; that of torch where it is installed."""
    tokens = mm.bucket("jet", window=3, multiple=1, tokens=12)
    found = [
        Way("in order", {"shuffle": False}),
        Way("windows", _WINDOWS),
        Way("exact", {"shuffle": "exact"}),
        Way("cut", _WINDOWS, cut="x > 30"),
        Way("exact cut", {"shuffle": "exact"}, cut="x > 30"),
        Way("padded", _WINDOWS | {"collate": {"jet": mm.pad(3)}}),
        Way("padded to the longest", {"collate": {"jet": mm.pad("max")}}),
        Way("buckets", _WINDOWS | {"bucket": mm.bucket("jet", window=3, multiple=1)}),
        Way("tokens", {"bucket": tokens}),
        Way("weights", _WINDOWS | {"weights": "w"}, once=False),
        Way("exact weights", {"shuffle": "exact", "weights": "w"}, once=False),
        Way("memory", {"memory": "1MiB", "block": 4}),
        Way("pread", _WINDOWS, io="pread"),
        Way("zarr", zarr=True),
        Way("transformed", {"transform": lambda batch: batch}),
        Way("mixed", once=False, make=_mixed),
        *([Way("torch", source=_torch)] if find_spec("torch") else []),
    ]
    return {way.name: way for way in found}


def _seen(batch: Any) -> Seen:
    """What a batch says of itself; raises `Wrong` unless its values are those of its rows."""
    x, jet = np.asarray(batch["x"]), batch["jet"]
    if not np.array_equal(x, X[batch.rows]):
        raise Wrong(f"x is {x}, and of rows {batch.rows} it is {X[batch.rows]}")
    if hasattr(jet, "offsets"):
        lists = [a.tolist() for a in np.split(np.asarray(jet.values), np.asarray(jet.offsets)[1:-1])]
        right = [JET[i] for i in batch.rows]
    else:
        lists = np.asarray(jet).tolist()
        right = [(JET[i] + [0] * len(row))[: len(row)] for i, row in zip(batch.rows, lists, strict=True)]
    if lists != right:
        raise Wrong(f"jet is {lists}, and of these rows it is {right}")
    return batch.epoch, batch.index, batch.position, tuple(batch.rows.tolist())


class Run:
    """An epoch that is interrupted, and what is right for it."""

    def __init__(self, way: Way, store: Store) -> None:
        self.way, self.store = way, store
        self.epochs: dict[int, list[Seen]] = {}
        self.loader: Any = None
        self.batches: Iterator[Any] | None = None
        self.got: list[Seen] = []
        for epoch in (0, 1):
            loader = way.loader(store)
            loader.set_epoch(epoch)
            self.epochs[epoch] = list(map(_seen, loader))
            rows = sorted(row for *_, rows in self.epochs[epoch] for row in rows)
            if way.once and rows != [row for row in range(ROWS) if not way.cut or X[row] > 30]:
                raise Wrong(f"{way.name}: epoch {epoch} has rows {rows}")

    def begin(self) -> None:
        self.store.forget()
        self.loader, self.batches, self.got = self.way.loader(self.store), None, []

    def work(self) -> None:
        """A loop over an epoch."""
        self.batches = self.way.source(self.loader)
        for batch in self.batches:
            self.got.append(_seen(batch))

    def check(self, end: str) -> None:
        """Raise `Wrong` unless the loader stands after the last batch that was handed out, and goes on from there.

        With the same iterator, from its state, or with the same epoch anew, as one does that was left early.
        """
        got, right = self.got, self.epochs[0]
        if got != right[: len(got)]:
            raise Wrong(f"handed out {got}, not {right[: len(got)]}")
        over = len(got) == len(right)
        state = json.loads(json.dumps(self.loader.state_dict()))
        stands = (1, 0) if over else (0, got[-1][2] if got else 0)
        if (state["epoch"], state["position"]) != stands:
            raise Wrong(f"stands at {state['epoch'], state['position']}, not {stands}")
        rest = self.epochs[1] if over else right[len(got) :]
        loader = self.way.loader(self.store)
        loader.load_state_dict(state)
        found = [list(map(_seen, loader))]
        if end == "same" and self.batches is not None and not over and self.way.source is iter:
            found.append(list(map(_seen, self.batches)))
        elif end == "state":
            self.loader.load_state_dict(state)
            found.append(list(map(_seen, self.way.source(self.loader))))
        if any(some != rest for some in found):
            raise Wrong(f"after {len(got)} batches came {found[-1]}, not {rest}")
        if end == "again" and (found := list(map(_seen, self.way.source(self.loader)))) != (rest if over else right):
            raise Wrong(f"then an epoch was {found}, not {rest if over else right}")
        self.loader.set_epoch(1)
        if (found := list(map(_seen, self.way.source(self.loader)))) != self.epochs[1]:
            raise Wrong(f"the next epoch was {found}, not {self.epochs[1]}")
        self.batches = None


def run_way(
    way: Way, store: Store, files: Sequence[str] = ("",), every: int = 1, offset: int = 0, *, each: bool = False
) -> Result:
    """Interrupt an epoch made in one way, at every so many of its moments; go on in `each` way then, or in turn."""
    result = Result("batching")
    run = Run(way, store)
    jit.wait()
    run.begin()
    moments = different_moments(run.work, files)[offset % every :: every]
    result.counts.update(operations=1, moments=len(moments))
    for i, at in enumerate(moments):
        for end in ENDS if each else [ENDS[i % len(ENDS)]]:
            run.begin()
            try:
                result.counts["interrupts"] += bool(interrupt(run.work, at, partial(run.check, end)))
            except Wrong as error:
                result.failures.append(f"{way.name}, moment {at}, {end}, {error}")
    return result


def _run_plain(name: str, every: int, offset: int) -> dict[str, Any]:
    with scratch(memory_folder()) as folder:
        return run_way(ways()[name], make_store(Path(folder)), every=every, offset=offset).plain()


def run(every: int = 1, *, offset: int = 0, processes: int = 2, first_only: bool = False) -> Result:
    """The campaign: an epoch made in each way, at every so many moments from `offset` on."""
    result = Result("batching")
    for one in in_parallel([partial(_run_plain, name, every, offset) for name in ways()], processes):
        result.add(one)
        if first_only and result.failures:
            break
    return result.finish()
