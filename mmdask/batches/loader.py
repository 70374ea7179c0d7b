"""`Loader`: batches of the rows of a selection, in an order that can be stopped and taken up anywhere."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from mmdask.batches import order
from mmdask.batches.batch import Batch
from mmdask.batches.collate import Step, steps_for
from mmdask.batches.cutting import Cutting, Even
from mmdask.batches.fetching import Fetching, Wanted
from mmdask.batches.sequence import ExactSequence, Sequence, StoredSequence, WindowSequence
from mmdask.display import parse_nbytes
from mmdask.errors import OptionError, RowNotFoundError, StateError

if TYPE_CHECKING:
    from mmdask.batches.torch_dataset import TorchBatches
    from mmdask.rows.rows import Rows

__all__ = ["Batch", "Loader"]

Last = Literal["keep", "drop", "pad"]
Shuffle = Literal[True, False, "exact"]
STATE_FORMAT = 1
#: batches are read together up to this many bytes and rows
RUN_NBYTES = 8 << 20
RUN_ROWS = 1 << 16


class Loader:
    """Batches of rows, shuffled anew in every epoch.

    Batch i of epoch e depends on the data, the selection, the seed and the options, and on nothing else: not on
    threads, processes, ranks, machines or on what was read before. Each selected row comes once in an epoch.

    A ``for`` that runs to its end moves on to the next epoch; one that is left early does not, and the next begins
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
        Steps for fields, like ``{"jet_pt": mm.pad(22)}``. By default ragged fields are `Packed`, shaped rows a list of
        arrays, and text is a list of str.
    last : {"keep", "drop", "pad"}, optional
        What becomes of the rows left over at the end of an epoch: a short batch, nothing, or a full batch in which
        `Batch.valid` is False for the repeats that fill it. By default kept, with several ranks dropped.
    rank, world_size : int
        Of m rows in a batch this loader hands out rows ``rank * m // world_size`` to
        ``(rank + 1) * m // world_size``.
    window : int or str, optional
        Memory of a window, like "256MiB" (the default), counted over all fields.
    block : int, optional
        Rows that stay together until they are mixed in a window; by default the store's.

    Raises
    ------
    OptionError
        When an argument cannot be used.
    FieldNotFoundError
        When there is no such field.

    Notes
    -----
    Pickles by reference, with its place in the epoch; nothing computed goes along. The first use finds the selected
    rows if they are not known yet. It keeps the row numbers of one window, 4 or 8 bytes each, and with a selection 16
    bytes per block that has selected rows.

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
        collate: Mapping[str, Step] | None = None,
        last: Last | None = None,
        rank: int = 0,
        world_size: int = 1,
        window: int | str | None = None,
        block: int | None = None,
    ) -> None:
        self.rows = rows
        self.batch_size = _integer("batch_size", batch_size, 1)
        self.fields = tuple(rows.schema) if fields is None else tuple(rows.schema.match(fields))
        self.steps = steps_for([rows.schema[name] for name in self.fields], collate)
        if not isinstance(shuffle, bool) and shuffle != "exact":
            raise OptionError(f"shuffle is True, False or 'exact', got {shuffle!r}")
        self.shuffle: Shuffle = shuffle
        self.seed = _integer("seed", seed, 0, 2**64)
        self.world_size = _integer("world_size", world_size, 1)
        self.rank = _integer("rank", rank, 0, self.world_size, "world_size")
        if last is not None and last not in get_args(Last):
            raise OptionError(f"last is 'keep', 'drop' or 'pad', got {last!r}")
        self.last: Last = last or ("drop" if self.world_size > 1 else "keep")
        if self.shuffle is not True and (window is not None or block is not None):
            raise OptionError(f"window= and block= are for shuffle=True, and shuffle is {shuffle!r}; leave them out")
        self.grain = order.grain(
            rows.n_store,
            rows.row_nbytes,
            rows.block_rows,
            window=None if window is None else _integer("window", parse_nbytes(window), 1),
            block=None if block is None else _integer("block", block, 1, 2**31),
        )
        self._epoch = 0
        self._position = 0  # rows of the epoch handed out
        self._resume = False  # whether the next iteration begins there, not at the start
        self._running: _Iteration | None = None

    def __repr__(self) -> str:
        return f"<Loader of {self.fields} in batches of {self.batch_size}, epoch {self._epoch}>"

    def __getstate__(self) -> dict[str, Any]:
        made = ("sequence", "cutting", "fetching")
        return {name: value for name, value in self.__dict__.items() if name not in made} | {"_running": None}

    # Batches --------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Batches of an epoch."""
        return self.batches_from(0)

    def __iter__(self) -> Iterator[Batch]:
        self._running = _Iteration(self, *self.begin())
        return self._running

    def begin(self) -> tuple[int, int]:
        """The epoch and the position at which an iteration begins now; a loaded state counts once."""
        start = self._position if self._resume else 0
        self._resume, self._position = False, start
        return self._epoch, start

    def __getitem__(self, i: int) -> Batch:
        """Batch number i of the current epoch; negative numbers count from the end. Moves nothing on.

        Raises
        ------
        RowNotFoundError
            When there is no such batch; it is an IndexError.
        """
        n = len(self)
        if not isinstance(i, int | np.integer):
            raise OptionError(
                f"a loader takes the number of a batch, got {i!r}; [loader[i] for i in range(2)] gives two"
            )
        i = int(i)
        if not -n <= i < n:
            raise RowNotFoundError(f"no batch {i}: an epoch has {n}")
        return self.batch(self._epoch, self.cutting.after(self._epoch, 0, i % n))

    def batch(self, epoch: int, start: int) -> Batch:
        """The batch that begins at a position of an epoch, wherever that is."""
        return next(self.run(epoch, start, 1))

    def run(self, epoch: int, start: int, n: int) -> Iterator[Batch]:
        """Up to `n` batches from a position on, whose rows are read together.

        One call of a kernel serves all of them, which for narrow fields and small batches is most of the time.
        """
        wanted = []
        for _ in range(max(min(n, self.cutting.left(epoch, start)), 1)):
            wanted.append(self._wanted(epoch, start))
            start = wanted[-1].position
        return self.fetching.batches(wanted)

    def _wanted(self, epoch: int, start: int) -> Wanted:
        """The batch that begins at a position."""
        stop = self.cutting.stop(epoch, start)
        everyone = self.sequence.rows_at(epoch, start, stop)
        real, padded = len(everyone), self.last == "pad"
        if padded and 0 < real < self.batch_size:
            everyone = np.resize(everyone, self.batch_size)
        a, b = (rank * len(everyone) // self.world_size for rank in (self.rank, self.rank + 1))
        return Wanted(everyone, a, b, real, padded, epoch, self.cutting.number(epoch, start), stop)

    def batches_from(self, position: int) -> int:
        """Batches of the current epoch that begin at a position of it or after."""
        return self.cutting.left(self._epoch, position)

    @cached_property
    def sequence(self) -> Sequence:
        """The rows of every epoch, by position."""
        if self.shuffle is True:
            return WindowSequence(self.rows, self.seed, self.grain)
        return ExactSequence(self.rows, self.seed) if self.shuffle == "exact" else StoredSequence(self.rows)

    @cached_property
    def cutting(self) -> Cutting:
        """Where the batches of an epoch begin and end."""
        return Even(self.sequence.n, self.batch_size, drop=self.last == "drop")

    @cached_property
    def fetching(self) -> Fetching:
        """The way from row numbers to batches."""
        return Fetching(self.rows, self.steps)

    # Epochs and states ----------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration runs, or the one now running."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration run an epoch, from its start.

        Setting the epoch that a state was just loaded in changes nothing, so that a loop that sets every epoch can be
        resumed.
        """
        epoch = _integer("epoch", epoch, 0)
        if not (self._resume and epoch == self._epoch):
            self._move(epoch, 0)

    def state_dict(self, after: Batch | None = None) -> dict[str, Any]:
        """Where the loader stands: what `load_state_dict` needs to go on with the very next batch.

        Parameters
        ----------
        after : Batch, optional
            The state after this batch, for batches that came by another way than this loader's own iteration. By
            default after the last one that iteration handed out.

        Returns
        -------
        dict
            Plain numbers and text, less than 1 kB as JSON, the same on all ranks.
        """
        epoch, position = (self._epoch, self._position) if after is None else (after.epoch, after.position)
        if position and not self.cutting.left(epoch, position):
            epoch, position = epoch + 1, 0  # the end of an epoch is the start of the next
        return {
            "format": STATE_FORMAT,
            "data": self.rows.identity,
            "order": self._order(),
            "seed": self.seed,
            "epoch": epoch,
            "position": position,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another loader stood: the next iteration begins with the rows after its last batch.

        Batch size, ranks, fields and steps may differ from those of the other loader.

        Raises
        ------
        StateError
            When the state is of other data, another selection, or another order; it names the difference.
        """
        if not isinstance(state, Mapping) or state.get("format") != STATE_FORMAT:
            raise StateError(f"not a state of format {STATE_FORMAT} made by Loader.state_dict: {state!r:.200}")
        mine = self.state_dict()
        for key, what in (("data", "data or selection"), ("order", "order of rows"), ("seed", "seed")):
            if state.get(key) != mine[key]:
                raise StateError(
                    f"the state has another {what}: {_difference(state.get(key), mine[key])}; make the loader from the "
                    "same store and selection, with the same shuffle=, seed=, window= and block="
                )
        epoch, position = state.get("epoch"), state.get("position")
        if type(epoch) is not int or type(position) is not int or epoch < 0 or not 0 <= position <= self.sequence.n:
            raise StateError(
                f"the state stands at row {position!r} of epoch {epoch!r}, and an epoch has {self.sequence.n} rows"
            )
        if position and not self.cutting.left(epoch, position):
            epoch, position = epoch + 1, 0
        self._move(epoch, position)
        self._resume = True

    def to_torch(self, device: Any = None) -> TorchBatches:
        """The batches as dicts of torch tensors; see `mmdask.batches.torch.to_torch`."""
        from mmdask.batches.torch import to_torch

        return to_torch(self, device)

    def _move(self, epoch: int, position: int) -> None:
        self._epoch, self._position, self._resume, self._running = epoch, position, False, None

    def _order(self) -> dict[str, Any]:
        """What the order depends on besides data and seed."""
        order_of: dict[str, Any] = {"version": order.ORDER_VERSION, "shuffle": self.shuffle}
        if self.shuffle is True:
            order_of |= {"block": self.grain.block, "window_blocks": self.grain.blocks}
        return order_of


class _Iteration(Iterator[Batch]):
    """One run through an epoch. It carries its epoch, so that nothing set meanwhile changes it.

    The first batch is read alone, so that it comes soon; from then on as many are read together as fit `RUN_NBYTES`.
    """

    def __init__(self, loader: Loader, epoch: int, start: int) -> None:
        self.loader = loader
        self.epoch = epoch
        self.position = start
        self._ready: Iterator[Batch] = iter(())
        self._run_length = 0

    def __next__(self) -> Batch:
        loader = self.loader
        current = loader._running is self  # a later iteration or set_epoch has taken over otherwise
        if not loader.cutting.left(self.epoch, self.position):
            if current:
                loader._move(self.epoch + 1, 0)
            raise StopIteration
        batch = next(self._ready, None)
        if batch is None:
            self._ready = loader.run(self.epoch, self.position, max(self._run_length, 1))
            batch = next(self._ready)
            if not self._run_length:
                self._run_length = _run_length(batch)
        self.position = batch.position
        if current:
            loader._position = batch.position
        return batch


def _run_length(batch: Batch) -> int:
    """How many batches like this one are read together."""
    nbytes = batch.rows.nbytes + sum(_nbytes(value) for value in batch.values())
    return max(1, min(RUN_NBYTES // max(nbytes, 1), RUN_ROWS // max(len(batch.rows), 1)))


def _nbytes(value: Any) -> int:
    if isinstance(value, list | tuple):  # text, arrays of differing shape, `Packed`
        return sum(map(_nbytes, value))
    return len(value) if isinstance(value, str) else getattr(value, "nbytes", 0)


def _integer(name: str, value: object, low: int, end: int | None = None, limit: str = "") -> int:
    try:
        n = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        n = low - 1
    if isinstance(value, bool) or n < low or (end is not None and n >= end):
        below = f" and below {limit or end}{f' = {end}' if limit else ''}" if end is not None else ""
        raise OptionError(f"{name} is an integer, at least {low}{below}; got {value!r}")
    return n


def _difference(theirs: object, mine: object) -> str:
    if isinstance(theirs, Mapping) and isinstance(mine, Mapping):
        keys = [k for k in {**theirs, **mine} if theirs.get(k) != mine.get(k)]
        return ", ".join(f"{k} {theirs.get(k)!r} there and {mine.get(k)!r} here" for k in keys)
    return f"{theirs!r} there and {mine!r} here"
