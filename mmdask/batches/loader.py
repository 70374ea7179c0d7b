"""`Loader`: batches of the rows of a selection, in an order that can be stopped and taken up anywhere."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import xxhash

from mmdask.batches.batch import Batch
from mmdask.batches.collate import Collate, Plan, plan_for
from mmdask.batches.epochs import run_length
from mmdask.batches.frameworks.tensor_epochs import TensorEpochs
from mmdask.batches.loading.budget import batch_row_nbytes, budget_of, is_narrow
from mmdask.batches.loading.fetching import Fetching, Transform, Wanted
from mmdask.batches.loading.prefetch import Prefetch
from mmdask.batches.loading.releasing import Releasing
from mmdask.batches.normalisation import Normalisation, NormalisedRows
from mmdask.batches.options import integer
from mmdask.batches.ordering import order
from mmdask.batches.ordering.balanced import BalancedSequence, Class, classes_of, seed_of
from mmdask.batches.ordering.bucketing import Bucket, Bucketed
from mmdask.batches.ordering.cutting import Cutting, Even
from mmdask.batches.ordering.quotas import QUOTAS_VERSION
from mmdask.batches.ordering.row_rng import streams_of
from mmdask.batches.ordering.sequence import Sequence
from mmdask.batches.ordering.weighted import WEIGHTS_VERSION, sequence_of
from mmdask.batches.processes import check_share, ranks
from mmdask.batches.report.mixing import Mixing
from mmdask.batches.report.report import report
from mmdask.batches.states import words_of
from mmdask.display import parse_nbytes
from mmdask.errors import OptionError
from mmdask.expr import Expression
from mmdask.kernels.once import once
from mmdask.kernels.spread import MOST
from mmdask.rows.reading.chunked import chunk_rows
from mmdask.rows.sums.counting import check_weight

if TYPE_CHECKING:
    from mmdask.rows.rows import Rows

__all__ = ["Batch", "Loader"]

#: of a window at least, where a block is a chunk: each is in memory as a whole
LEAST_CHUNKS = 16

Last = Literal["keep", "drop", "pad"]
Shuffle = Literal[True, False, "exact"]
Balance = str | Mapping[Any, Any]


class Loader(TensorEpochs):
    """Batches of rows, shuffled anew in every epoch.

    Batch i of epoch e depends on the data, the selection, the seed and the options, and on nothing else: not on
    threads, processes, ranks, machines or on what was read before. Each selected row comes once in an epoch.

    A ``for`` that got the last batch moves on to the next epoch; one that is left early does not, and the next begins
    the same epoch again. After `load_state_dict` the next ``for`` goes on from there, once.

    Parameters
    ----------
    rows : Rows
        The selected rows.
    batch_size : int
        Rows of a batch, of all ranks together.
    fields : str or list of str, optional
        Names or patterns (``"jet_*"``); by default all fields.
    shuffle : True, False or "exact"
        True mixes blocks of rows in windows, at the speed of reading blocks; "exact" permutes single rows, for data
        in memory; False is store order.
    seed : int
        0 or more, below 2**64.
    collate : dict, optional
        Steps for fields, like ``{"jet_pt": mm.pad(22)}``: one or a list; those for a record, or for the fields whose
        names begin so, as "jet", are for all of its members. `mm.stack` makes one array of several fields. By default
        ragged fields are `Packed`, shaped rows a list of arrays, and text is a list of str.
    last : {"keep", "drop", "pad"}, optional
        What becomes of the rows left over at the end of an epoch: a short batch, nothing, or a full batch in which
        `Batch.valid` is False for the repeats that fill it. By default kept, with several ranks dropped.
    rank, world_size : int, optional
        Of m rows in a batch this loader hands out rows ``rank * m // world_size`` to
        ``(rank + 1) * m // world_size``. By default those of torch.distributed if it is initialised, else 0 and 1.
    window : int or str, optional
        Memory of a window, like "256MiB" (the default), counted over all fields.
    block : int or "chunk", optional
        Rows that stay together until they are mixed in a window; by default the store's. "chunk" are the rows of a
        chunk of a store of zarr arrays, which is its default: a window then has 16 blocks at least, and each chunk is
        decoded once for it.
    weights : str, optional
        A field, or an expression with one number per row: rows come as often as it says, each within one of what is
        expected, and an epoch is as long as without. By default every row comes once, which is what you want where the
        loss is multiplied by a weight.
    balance : str or dict, optional
        A field of classes that have one share of every batch; or shares, as ``{"ttH": 1, "ttbb": 3}``, of labels of
        the only category that has them, or ``{"process": {...}}``. Rows of other labels are left out. An epoch has as
        many rows as the classes; rows of small classes come several times, each as often as the others of its class.
    bucket : optional
        Batches of rows of similar length, made by `mm.bucket`. A state then is for one batch size.
    normalise : Normalisation, optional
        Of which fields the mean is taken off, and what they are divided by, before any step of `collate`.
    transform : callable, optional
        What is done to each batch where it is made: gets a `Batch`, returns it or a dict of other entries for it.
    memory : int or str, optional
        Bytes that the loader may take, "1GiB" by default: a quarter for the window, unless `window` says otherwise, and
        an eighth for each of three runs of batches that are read together, one of them ahead. With less than 1 GiB the
        default window is smaller, which is another order. If it is given, mapped pages of windows that are done with
        are given back; the system maps more of a file around what is read, which is not counted.
    threads : int, optional
        Threads that gather rows at a time, 32 at most. By default as many as there are cores for this process, 4 at
        most, and one in a worker process of a DataLoader. Batches do not depend on it.

    Raises
    ------
    OptionError
        When an argument cannot be used; when the memory is too little, with the least that works.
    FieldNotFoundError
        When there is no such field.

    Notes
    -----
    Pickles by reference, with where it stands (`state_dict`); nothing computed goes along. The first use finds the
    selected rows if they are not known yet. It keeps the row numbers of one window, 4 or 8 bytes each, and with a
    selection 16 bytes per block that has selected rows.

    Examples
    --------
    >>> import mmdask as mm
    >>> ds = mm.from_arrays({"x": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]}, "ten.mm")
    >>> loader = ds.batches(4, seed=7)
    >>> [len(batch["x"]) for batch in loader], loader.epoch
    ([4, 4, 2], 1)
    >>> sorted(x for batch in loader for x in batch["x"].tolist())
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """

    def __init__(
        self,
        rows: Rows,
        batch_size: int,
        *,
        fields: str | Iterable[str] | None = None,
        shuffle: Shuffle = True,
        seed: int = 0,
        collate: Collate | None = None,
        last: Last | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        window: int | str | None = None,
        block: int | Literal["chunk"] | None = None,
        weights: str | Expression | None = None,
        balance: Balance | tuple[Class, ...] | None = None,
        normalise: Normalisation | None = None,
        bucket: Bucket | None = None,
        transform: Transform | None = None,
        memory: int | str | None = None,
        threads: int | None = None,
    ) -> None:
        super().__init__()
        self.rows = rows
        self.threads = None if threads is None else integer("threads", threads, 1, MOST + 1)
        self.normalise = normalise
        self.batch_size = integer("batch_size", batch_size, 1)
        self.fields = tuple(rows.schema) if fields is None else tuple(rows.schema.match(fields))
        self.collate = collate
        self.plan  # noqa: B018  raises now what would come with the first batch
        if not isinstance(shuffle, bool) and shuffle != "exact":
            raise OptionError(f"shuffle is True, False or 'exact', got {shuffle!r}")
        self.shuffle: Shuffle = shuffle
        if transform is not None and not callable(transform):
            raise OptionError(f"transform is a function that takes a batch and returns one, got {transform!r}")
        self.transform = transform
        self.seed = integer("seed", seed, 0, 2**64)
        self.weights = check_weight(weights, rows) if isinstance(weights, str) else weights
        self.classes = balance if isinstance(balance, tuple) else () if balance is None else classes_of(rows, balance)
        self.rank, self.world_size = ranks(rank, world_size)
        check_share(self.batch_size, self.world_size)
        if last is not None and last not in get_args(Last):
            raise OptionError(f"last is 'keep', 'drop' or 'pad', got {last!r}")
        self.bucket = bucket
        kept: Last | None = None
        if bucket is not None:
            if self.classes:
                raise OptionError("bucket= makes batches of its own, in which classes have no shares; leave out one")
            kept = _check_bucket(bucket, rows, last)
        self.last: Last = kept or last or ("drop" if self.world_size > 1 else "keep")
        if self.shuffle is not True and (window is not None or block is not None):
            raise OptionError(f"window= and block= are for shuffle=True, and shuffle is {shuffle!r}; leave them out")
        self.budget = budget_of(memory)
        chunk = chunk_rows(rows.snapshot) if block is None or block == "chunk" else None
        if block == "chunk" and chunk is None:
            raise OptionError("block='chunk' is for stores of zarr arrays; these rows are in no chunks: leave it out")
        self.grain = order.grain(
            rows.n_store,
            rows.row_nbytes,
            rows.block_rows,
            window=self._window_nbytes(window),
            block=chunk if block is None or block == "chunk" else integer("block", block, 1, 2**31),
            least=None if chunk is None else LEAST_CHUNKS,
        )
        own = -(-self.batch_size // self.world_size)
        self.budget.check(self.grain, rows, own * batch_row_nbytes(rows, self.fields), self.shuffle is True)

    def _window_nbytes(self, window: int | str | None) -> int | None:
        """What the caller asks for, or else what the memory has room for, if that is less than the default."""
        if window is not None:
            return integer("window", parse_nbytes(window), 1)
        return None if self.budget.window >= order.DEFAULT_WINDOW else self.budget.window

    def __repr__(self) -> str:
        more = f" and {len(self.fields) - 5} more" if len(self.fields) > 5 else ""
        return f"<Loader of {', '.join(self.fields[:5])}{more} in batches of {self.batch_size}, epoch {self.epoch}>"

    def __getstate__(self) -> dict[str, Any]:
        made = ("sequence", "cutting", "fetching", "plan", "_read", "_reader", "_prefetch", "_releasing")
        kept = self.__dict__.copy()  # in one step: another thread may find more meanwhile
        return {name: value for name, value in kept.items() if name not in made} | {"_running": None}

    # Batches --------------------------------------------------------------------------------------------------------

    def run(self, epoch: int, start: int, n: int) -> Iterator[Batch]:
        """Up to `n` batches from a position on, whose rows are read together.

        One call of a kernel serves all of them, which for narrow fields and small batches is most of the time.
        """
        edges = [start, self.cutting.stop(epoch, start)]
        while len(edges) <= n and not self.ends(epoch, edges[-1]):
            edges.append(self.cutting.stop(epoch, edges[-1]))
        rows = self.read_rows(epoch, start, edges[-1])
        wanted = [self._wanted(epoch, a, b, rows[a - start : b - start]) for a, b in itertools.pairwise(edges)]
        return self.fetching.batches(wanted, rows if self.world_size == 1 else None)

    def read_rows(self, epoch: int, start: int, stop: int) -> npt.NDArray[np.int64]:
        """The rows at positions `start` to `stop` of an epoch, int64, which are read now.

        They are asked for, and pages are given back before, if the caller bounds memory.
        """
        settled = self._prefetch.windows(epoch, start, stop)
        rows = self.sequence.rows_at(epoch, start, stop)
        if not settled:
            self._prefetch.some(rows)
        if self._releasing is not None:
            self._releasing.before(epoch, start, stop)
        return rows

    def report(self, field: str) -> Mixing:
        """Look how well batches mix the values of a field, and what that costs. Eager: reads the field once.

        Parameters
        ----------
        field : str
            With one number or label per row. Numbers of many values are cut into ranges of equally many.

        Raises
        ------
        OptionError
            When the field has no such values, or there is no batch.

        Examples
        --------
        >>> import mmdask as mm
        >>> ds = mm.from_arrays({"signal": np.repeat([True, False], 50_000)}, "two_files.mm")
        >>> mixing = ds.batches(100).report("signal")
        >>> abs(mixing.predicted - 1) < 0.1, mixing.advice
        (True, ())
        >>> ds.batches(100, shuffle=False).report("signal").advice
        ('Rows come as they lie: shuffle=True mixes them.',)
        """
        return report(self, field)

    @property
    def is_resampled(self) -> bool:
        """Whether something else than the order decides which rows are in a batch: weights, classes or lengths."""
        return self.weights is not None or bool(self.classes) or self.bucket is not None

    def run_length(self, batch: Batch) -> int:
        """How many batches like this one are read together."""
        return run_length(batch, self.budget.run(self.shuffle is True and is_narrow(self.rows, self.fields)))

    def _wanted(self, epoch: int, start: int, stop: int, everyone: npt.NDArray[np.int64]) -> Wanted:
        """The batch of the rows at positions `start` to `stop`."""
        real, padded = len(everyone), self.last == "pad"
        if padded and 0 < real < self.batch_size:
            everyone = np.resize(everyone, self.batch_size)
        streams = None
        if self.weights is not None or self.classes:  # a row comes several times, with other random numbers each time
            positions = np.arange(start, stop)
            streams = streams_of(everyone, positions if real == len(everyone) else np.resize(positions, len(everyone)))
        a, b = (rank * len(everyone) // self.world_size for rank in (self.rank, self.rank + 1))
        return Wanted(everyone, a, b, real, padded, epoch, self.cutting.number(epoch, start), stop, streams)

    @once
    def sequence(self) -> Sequence:
        """The rows of every epoch, by position."""
        if self.bucket is None:
            return self._mixed()
        sizes = {"batch_size": self.batch_size, "seed": self.seed}
        return Bucketed(self._mixed(), self.rows, self.bucket, shuffled=self.shuffle is not False, **sizes)

    def _mixed(self) -> Sequence:
        if not self.classes:
            return sequence_of(self.rows, self.shuffle, self.seed, self.grain, self.weights, self.budget.window)
        # The windows of all classes are in memory together.
        grain = order.Grain(self.grain.block, max(self.grain.blocks // len(self.classes), order.LEAST_BLOCKS))
        most = self.budget.window // len(self.classes)
        parts = [
            sequence_of(self.rows.cut(c.cut), self.shuffle, seed_of(self.seed, c.label), grain, self.weights, most)
            for c in self.classes
        ]
        return BalancedSequence(parts, tuple([c.share for c in self.classes]))

    @once
    def plan(self) -> Plan:
        """What becomes of the fields."""
        return plan_for([self._read.schema[name] for name in self.fields], self.collate)

    @once
    def cutting(self) -> Cutting:
        """Where the batches of an epoch begin and end."""
        if isinstance(self.sequence, Bucketed) and self.sequence.bucket.tokens:
            if self._last is not None:
                self.sequence.stands(*self._last)
            return self.sequence
        return Even(self.sequence.n, self.batch_size, drop=self.last == "drop")

    @once
    def fetching(self) -> Fetching:
        """The way from row numbers to batches."""
        return Fetching(self._read, self.plan, self.seed, self.transform, self.threads)

    @once
    def _prefetch(self) -> Prefetch:
        """The way to tell the system what will be read."""
        return Prefetch(self.rows, self.fields, self.sequence, 1 / self.world_size)

    @once
    def _releasing(self) -> Releasing | None:
        """The way to give pages back, if the caller bounds memory."""
        return Releasing(self.rows, self.fields, self.sequence, self.budget.window) if self.budget.bounded else None

    @once
    def _read(self) -> Rows:
        """The rows as they are read."""
        return self.rows if self.normalise is None else NormalisedRows(self.rows, self.normalise)

    @property
    def n_rows(self) -> int:
        """Rows of an epoch."""
        return self.sequence.n

    def _about(self) -> dict[str, Any]:
        words = words_of(self.rows, self.weights, self.classes)
        return {"data": self.rows.identity, "order": self._order(), "seed": self.seed, "words": words}

    def _order(self) -> dict[str, Any]:
        """What the order depends on besides data and seed."""
        order_of: dict[str, Any] = {"version": order.ORDER_VERSION, "shuffle": self.shuffle}
        if self.shuffle is True:
            order_of |= {"block": self.grain.block, "window_blocks": self.grain.blocks}
        if self.weights is not None:
            order_of["weights"] = [WEIGHTS_VERSION, _hash(self.weights.canonical)]
        if self.classes:
            order_of["balance"] = [QUOTAS_VERSION, _hash([(c.label, c.share, c.cut.canonical) for c in self.classes])]
        if self.bucket is not None:
            order_of["bucket"] = [self.batch_size, *astuple(self.bucket)]
        return order_of

    def state_dict(self, after: Batch | None = None) -> dict[str, Any]:
        """See `Epochs.state_dict`."""
        state = super().state_dict(after)
        if isinstance(self.cutting, Bucketed):
            # How many batches were before, which else would have to be counted.
            here = state["epoch"], state["position"]
            last = self._last if after is None else (after.epoch, after.position, after.index + 1)
            state["batch"] = last[2] if last is not None and last[:2] == here else self.cutting.number(*here)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Epochs.load_state_dict`."""
        super().load_state_dict(state)
        number = state.get("batch")
        if isinstance(self.cutting, Bucketed) and type(number) is int:
            self._last = self._epoch, self._position, number
            self.cutting.stands(*self._last)
            self.__dict__.pop("_reader", None)  # it does not know that


def _check_bucket(bucket: object, rows: Rows, last: Last | None) -> Last | None:
    """What becomes of left over rows, if the bucket settles that."""
    if not isinstance(bucket, Bucket):
        raise OptionError(f"bucket is made by mm.bucket('parts'), got {bucket!r}")
    bucket.check(rows.schema)
    if bucket.tokens is None:
        return None
    if last in ("drop", "pad"):
        raise OptionError(f"with bucket(tokens=) batches differ in size, and last={last!r} is for those that do not")
    return "keep"


def _hash(value: object) -> str:
    return str(xxhash.xxh3_64_hexdigest(json.dumps(value).encode()))
