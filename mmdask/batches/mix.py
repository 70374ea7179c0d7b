"""`Mix`: batches of rows of several loaders, also of different stores, each with its share of every batch."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import xxhash

from mmdask.batches.batch import Batch
from mmdask.batches.frameworks.tensor_epochs import TensorEpochs
from mmdask.batches.loader import Loader
from mmdask.batches.loading.fetching import Wanted
from mmdask.batches.mixture.as_one import AsOne, as_one
from mmdask.batches.mixture.entries import check_entries, flags_of
from mmdask.batches.mixture.joining import joined
from mmdask.batches.mixture.lengths import agreed, check_lengths
from mmdask.batches.options import integer
from mmdask.batches.ordering.balanced import checked_shares, rows_of_stream, spans_of_stream
from mmdask.batches.ordering.cutting import Even
from mmdask.batches.ordering.quotas import QUOTAS_VERSION, Quotas
from mmdask.batches.ordering.row_rng import streams_of
from mmdask.batches.processes import check_share
from mmdask.batches.report.mixing import Mixing
from mmdask.batches.report.report import report_mix
from mmdask.errors import MmdaskError, OptionError
from mmdask.kernels.once import once

__all__ = ["Mix", "mix"]

Stop = Literal["first", "all", "cycle"]
#: the rows of a mixture without end, as far as positions go
_ENDLESS = 1 << 60

Int64s = npt.NDArray[np.int64]


class Mix(TensorEpochs):
    """Batches of the rows of several loaders; made by `mix`, which says how.

    Attributes
    ----------
    names : tuple of str
        Of the loaders; ``batch.source`` holds the number of one for every row.
    batch_size : int
    """

    def __init__(self, loaders: Mapping[str, Loader], shares: Mapping[str, float], batch_size: int, stop: Stop) -> None:
        super().__init__()
        self.names = tuple(loaders)
        self.loaders = tuple(loaders.values())
        self.shares = tuple([shares[name] for name in self.names])
        self.batch_size = batch_size
        self.stop: Stop = stop
        self.last = self.loaders[0].last
        self.rank, self.world_size = self.loaders[0].rank, self.loaders[0].world_size

    def __repr__(self) -> str:
        return f"<Mix of {{{self._shares()}}} in batches of {self.batch_size}, epoch {self._epoch}>"

    def _shares(self) -> str:
        return ", ".join(f"{name!r}: {share:g}" for name, share in zip(self.names, self.shares, strict=True))

    def __getstate__(self) -> dict[str, Any]:
        made = ("quotas", "n_rows", "cutting", "_reader", "_as_one")
        kept = self.__dict__.copy()  # in one step, as that of a loader
        state = {name: value for name, value in kept.items() if name not in made}
        return state | {"_running": None, "loaders": tuple(map(copy.copy, self.loaders))}

    def __len__(self) -> int:
        """Batches of an epoch."""
        if self.n_rows is None:
            raise OptionError("a mixture with stop='cycle' has no end and no length; count the batches yourself")
        return super().__len__()

    def __getitem__(self, i: int) -> Batch:
        """Batch number i of the current epoch; see `Loader`. One without end has no negative numbers."""
        if self.n_rows is None and isinstance(i, int | np.integer) and i >= 0:
            return self.batch(self._epoch, int(i) * self.batch_size)
        return super().__getitem__(i)

    @once
    def quotas(self) -> Quotas:
        """Which loader gives each row."""
        return Quotas(self.shares)

    @once
    def _flags(self) -> tuple[str, ...]:
        """Entries that say which rows are missing, of fields that are optional in one store or another."""
        return tuple(dict.fromkeys(name for loader in self.loaders for name in flags_of(loader)))

    @once
    def _sizes(self) -> list[int]:
        """Rows of an epoch of each loader."""
        sizes = [loader.sequence.n for loader in self.loaders]
        for name, n in zip(self.names, sizes, strict=True):
            if not n:
                raise OptionError(f"the loader {name!r} has no rows, so it has none to mix in; leave it out")
        return sizes

    @once
    def n_rows(self) -> int | None:
        """Rows of an epoch; None if it has no end."""
        sizes = enumerate(self._sizes)
        if self.stop == "first":
            return min(self.quotas.position_of(i, n) for i, n in sizes)
        if self.stop == "all":
            return max(self.quotas.position_of(i, n - 1) for i, n in sizes) + 1
        return None

    @once
    def cutting(self) -> Even:
        """Where the batches of an epoch begin and end."""
        return Even(_ENDLESS if self.n_rows is None else self.n_rows, self.batch_size, drop=self.last == "drop")

    def run(self, epoch: int, start: int, n: int) -> Iterator[Batch]:
        """Up to `n` batches from a position on, whose rows are read together."""
        edges = [start]
        for _ in range(max(min(n, self.cutting.left(epoch, start)), 1)):
            edges.append(self.cutting.stop(epoch, edges[-1]))
        streams = self.quotas.streams(start, edges[-1])
        whole = [self._of_loader(i, epoch, edges, streams) for i in range(len(self.loaders))]
        one = self._as_one
        if one is None or not len(streams):
            return self._apart(epoch, edges, streams, whole)
        try:
            return self._together(one, epoch, edges, streams, whole)
        except MmdaskError:
            if not one.renumbered:
                raise
            return self._apart(epoch, edges, streams, whole)  # for an error that names the row as its store does

    def _apart(self, epoch: int, edges: list[int], streams: Int64s, whole: list[list[Wanted]]) -> Iterator[Batch]:
        """Batches of rows that each loader reads, and makes entries of, for itself."""
        wanted = agreed(self.loaders, whole)
        # A loader makes entries of the batches in which it has rows on this rank, and the first of them if none has.
        pieces: list[list[Wanted]] = [[] for _ in self.loaders]
        makers: list[list[int]] = []
        for k, begin in enumerate(edges[:-1]):
            own = [i for i, w in enumerate(wanted) if w[k].stop > w[k].start]
            makers.append(own or streams[begin - edges[0] : begin - edges[0] + 1].tolist())
            for i in makers[-1]:
                pieces[i].append(wanted[i][k])
        parts = [
            loader.fetching.batches(some) if some else iter(())
            for loader, some in zip(self.loaders, pieces, strict=True)
        ]
        return self._joined(epoch, edges, streams, makers, parts)

    @once
    def _as_one(self) -> AsOne | None:
        """How one reads the rows of all loaders, if all of them make the same of theirs."""
        return as_one(self.loaders)

    def _together(
        self, one: AsOne, epoch: int, edges: list[int], streams: Int64s, whole: list[list[Wanted]]
    ) -> Iterator[Batch]:
        """Batches of rows of all loaders, which are read as if they were of one."""
        rows, again = np.empty(len(streams), np.int64), np.empty(len(streams), np.int64)
        for i, each in enumerate(whole):
            mine = np.flatnonzero(streams == i)
            rows[mine] = np.concatenate([w.everyone for w in each]) + one.firsts[i]
            again[mine] = np.concatenate([w.streams for w in each if w.streams is not None])
        wanted = []
        for begin, end in itertools.pairwise(edges):
            all_of_it, own = slice(begin - edges[0], end - edges[0]), self._own(0, end - begin)
            index = self.cutting.number(epoch, begin)
            wanted.append(
                Wanted(rows[all_of_it], own.start, own.stop, end - begin, False, epoch, index, end, again[all_of_it])
            )
        return self._told(
            one, wanted, streams, one.fetching.batches(wanted), lambda: self._apart(epoch, edges, streams, whole)
        )

    def _told(
        self,
        one: AsOne,
        wanted: list[Wanted],
        streams: Int64s,
        batches: Iterator[Batch],
        apart: Callable[[], Iterator[Batch]],
    ) -> Iterator[Batch]:
        """Batches that know which loader each row is of, and its number in the store of that."""
        start = wanted[0].position - wanted[0].real
        for k, w in enumerate(wanted):
            try:
                batch = next(batches)
            except MmdaskError:
                if one.renumbered:
                    list(itertools.islice(apart(), k + 1))  # as above
                raise
            begin = w.position - w.real - start
            batch.source = streams[begin + w.start : begin + w.stop].copy()
            if one.renumbered:
                batch.rows -= one.firsts[batch.source]
            batch.streams = None if batch.streams is None else streams_of(batch.streams, batch.source)
            yield batch

    def rows_at(self, epoch: int, start: int, stop: int) -> list[Int64s]:
        """The rows of each loader at positions `start` to `stop` of an epoch, in the stores of these."""
        counts = np.bincount(self.quotas.streams(start, stop), minlength=len(self.loaders))
        first = epoch * np.array(self._each) + self.quotas.before(start)
        return [
            rows_of_stream(loader.sequence, begin, n)
            for loader, begin, n in zip(self.loaders, first.tolist(), counts.tolist(), strict=True)
        ]

    def report(self, field: str) -> Mixing:
        """Look how well batches mix the values of a field of all loaders; see `Loader.report`.

        Shares are exact in every batch, so that what differs between the loaders varies less than in a true shuffle of
        the rows of an epoch, down to 0.

        Raises
        ------
        OptionError
            When a loader has no such values, or other labels than another.
        """
        return report_mix(self, field)

    def _joined(
        self, epoch: int, edges: list[int], streams: Int64s, makers: list[list[int]], parts: list[Iterator[Batch]]
    ) -> Iterator[Batch]:
        """Batches of what each loader gives to them."""
        for (begin, end), numbers in zip(itertools.pairwise(edges), makers, strict=True):
            own = streams[self._own(begin, end, edges[0])]
            batch = joined({i: next(parts[i]) for i in numbers}, own, self.names, self._flags)
            batch.epoch, batch.index, batch.position = epoch, self.cutting.number(epoch, begin), end
            batch.source, batch.seed = own.copy(), self.loaders[0].seed
            yield batch

    def _own(self, begin: int, end: int, start: int = 0) -> slice:
        """Which positions of a batch are those of this rank, counted from one."""
        n = end - begin
        return slice(
            begin - start + self.rank * n // self.world_size, begin - start + (self.rank + 1) * n // self.world_size
        )

    def _of_loader(self, i: int, epoch: int, edges: list[int], streams: Int64s) -> list[Wanted]:
        """What one loader gives to each batch, on all ranks and on this one."""
        loader, start = self.loaders[i], edges[0]
        places = np.flatnonzero(streams == i)
        done = epoch * self._each[i] + int(self.quotas.before(start)[i])
        everyone = np.zeros(0, np.int64)
        for span in spans_of_stream(loader.sequence.n, done, len(places)):
            everyone = np.concatenate([everyone, loader.read_rows(*span)])
        again = streams_of(everyone, start + places)
        own = [self._own(a, b, start) for a, b in itertools.pairwise(edges)]
        cuts = np.searchsorted(places, np.array(edges) - start).tolist()
        firsts = np.searchsorted(places, [s.start for s in own]).tolist()
        lasts = np.searchsorted(places, [s.stop for s in own]).tolist()
        return [
            Wanted(
                everyone[a:b],
                first - a,
                last - a,
                b - a,
                False,
                epoch,
                self.cutting.number(epoch, begin),
                end,
                again[a:b],
            )
            for (a, b), first, last, (begin, end) in zip(
                itertools.pairwise(cuts), firsts, lasts, itertools.pairwise(edges), strict=True
            )
        ]

    @once
    def _each(self) -> list[int]:
        """Rows of each loader in an epoch."""
        return [0] * len(self.loaders) if self.n_rows is None else self.quotas.before(self.n_rows).tolist()

    def _about(self) -> dict[str, Any]:
        each = [loader._about() for loader in self.loaders]
        order = {"mix": QUOTAS_VERSION, "stop": self.stop, "shares": _hash([self.names, self.shares])}
        return {
            "data": _hash([about["data"] for about in each]),
            "order": order | {"each": _hash([about["order"] for about in each])},
            "seed": _hash([about["seed"] for about in each]),
            "words": {"rows": sum(loader.rows.n_store for loader in self.loaders), "shares": self._shares()[:100]},
        }


def _hash(value: object) -> str:
    return str(xxhash.xxh3_128_hexdigest(json.dumps(value).encode()))


def mix(
    loaders: Mapping[str, Loader],
    shares: Mapping[str, float],
    /,
    *,
    batch_size: int | None = None,
    stop: Stop = "first",
) -> Mix:
    """Mix the rows of several loaders, of one store or of different ones: each has its share of every batch.

    Every batch has ``batch_size * share`` rows of each loader wherever these are whole numbers, and about as many else.
    Each loader goes through its rows in its own order again and again, from one epoch of the mixture into the next, so
    that none comes more than once more often than another of the same loader.

    Parameters
    ----------
    loaders : mapping of Loader
        By name. Their fields, steps, order and seed are used; entries of one name are joined, so they must be of one
        kind, arrays of one shape but for the rows. They have the same `rank`, `world_size` and `last`.
    shares : mapping
        Positive numbers by name, of which only the proportions count.
    batch_size : int, optional
        Rows of a batch, of all ranks together; by default that of all loaders.
    stop : {"first", "all", "cycle"}
        Where an epoch ends: before a loader would begin anew, when all loaders have handed out all of their rows, or
        never.

    Returns
    -------
    Mix
        It is used as a `Loader`: iterated, indexed, resumed, handed to torch. ``batch.source`` (int64) says for each
        row which loader it is of, by its number in ``mix.names``, and ``batch.rows`` its row in the store of that one.

    Raises
    ------
    OptionError
        When loaders or shares do not fit together; when entries do not, once a batch is made.

    Examples
    --------
    >>> import mmdask as mm
    >>> signal = mm.from_arrays({"x": [1.0, 2.0]}, "signal.mm").batches(4)
    >>> background = mm.from_arrays({"x": [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0]}, "background.mm").batches(4)
    >>> mixed = mm.mix({"sig": signal, "bkg": background}, {"sig": 1, "bkg": 3})
    >>> [(int((batch["x"] > 0).sum()), batch.source.tolist()) for batch in mixed]
    [(1, [0, 1, 1, 1]), (1, [0, 1, 1, 1])]
    """
    if not isinstance(loaders, Mapping) or not loaders or not isinstance(shares, Mapping):
        raise OptionError("mm.mix takes loaders and shares by name, as mm.mix({'a': a, 'b': b}, {'a': 0.5, 'b': 0.5})")
    for name, loader in loaders.items():
        if not isinstance(loader, Loader):
            raise OptionError(
                f"{name!r} is {type(loader).__name__}, and loaders are mixed, as ds.batches(4096) makes them"
            )
    if set(loaders) != set(shares):
        raise OptionError(f"loaders and shares have the same names, got {list(loaders)} and {list(shares)}")
    if stop not in get_args(Stop):
        raise OptionError(f"stop is 'first', 'all' or 'cycle', got {stop!r}")
    for what in ("rank", "world_size", "last", *(("batch_size",) if batch_size is None else ())):
        found = {name: getattr(loader, what) for name, loader in loaders.items()}
        if len(set(found.values())) > 1:
            hint = "; say it: mm.mix(..., batch_size=)" if what == "batch_size" else ""
            raise OptionError(f"loaders that are mixed have the same {what}=, got {found}{hint}")
    for name, loader in loaders.items():
        if loader.bucket is not None:
            raise OptionError(f"the loader {name!r} has bucket=, which makes batches of its own; leave it out")
    first = next(iter(loaders.values()))
    if first.last == "pad":
        raise OptionError("a mixture has no last='pad'; make its loaders with last='keep' or last='drop'")
    size = first.batch_size if batch_size is None else integer("batch_size", batch_size, 1)
    check_share(size, first.world_size)
    check_entries(loaders)
    check_lengths(loaders)
    return Mix(loaders, checked_shares("mm.mix", shares), size, stop)
