"""`Epochs`: batches one after the other, epoch after epoch, and where they stand: what a loader and a mixture share."""

from __future__ import annotations

import operator
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np

from mmdask.batches.ahead import read_ahead
from mmdask.batches.batch import Batch
from mmdask.batches.budget import RUN_NBYTES
from mmdask.batches.cutting import Cutting
from mmdask.batches.words import difference
from mmdask.errors import OptionError, RowNotFoundError, StateError

if TYPE_CHECKING:
    from mmdask.batches.jax import JaxBatches
    from mmdask.batches.torch_dataset import TorchBatches

__all__ = ["Epochs", "integer", "run_length"]

#: the batches of an epoch from a position on
Source = Callable[[int, int], Iterator[Batch]]
STATE_FORMAT = 1
#: rows that are read together at most
RUN_ROWS = 1 << 20


class Epochs(ABC):
    """Batches of rows, epoch after epoch, of which any can be asked for by its epoch and position.

    A ``for`` that got the last batch moves on to the next epoch; one that is left early does not, and the next begins
    the same epoch again. After `load_state_dict` the next ``for`` goes on from there, once.
    """

    def __init__(self) -> None:
        self._epoch = 0
        self._position = 0  # rows of the epoch handed out
        self._resume = False  # whether the next iteration begins there, not at the start
        self._last: tuple[int, int, int] | None = None  # epoch, position, and how many batches were before it
        self._running: object = None  # what the iteration that moves this on has in hand

    def __setattr__(self, name: str, value: object) -> None:
        """Options stay as they are, because orders and plans were made of them."""
        if not name.startswith("_") and name in self.__dict__:
            raise OptionError(
                f"{name} of a {type(self).__name__} cannot be changed, for batches and states were made with it; make "
                "another one"
            )
        super().__setattr__(name, value)

    @property
    @abstractmethod
    def n_rows(self) -> int | None:
        """Rows of an epoch, None if it has no end."""

    @property
    @abstractmethod
    def cutting(self) -> Cutting:
        """Where the batches of an epoch begin and end."""

    @abstractmethod
    def run(self, epoch: int, start: int, n: int) -> Iterator[Batch]:
        """Up to `n` batches from a position on, at least one."""

    @abstractmethod
    def _about(self) -> dict[str, Any]:
        """What a state must agree with: its data, order and seed, for JSON."""

    # Batches --------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Batches of an epoch."""
        return self.batches_from(0)

    def __iter__(self) -> Iterator[Batch]:
        return self.iterate(self.source)

    def iterate(self, source: Source) -> Iterator[Batch]:
        """What ``for`` does, with the batches of an epoch from a position on taken from another source.

        The loader stands after the last batch that the result has handed out.
        """
        epoch, start = self.begin()
        self._running = object()
        return _Iteration(self, epoch, start, source)

    def source(self, epoch: int, start: int) -> Iterator[Batch]:
        """The batches of an epoch from a position on, read ahead; moves nothing on."""
        return read_ahead(self, epoch, start)

    def run_length(self, batch: Batch) -> int:
        """How many batches like this one are read together."""
        return run_length(batch, RUN_NBYTES)

    def begin(self) -> tuple[int, int]:
        """The epoch and the position at which an iteration begins now; a loaded state counts once.

        After the last batch of an epoch that is the next one, also if nobody asked for a batch beyond it.
        """
        self._epoch = self.epoch
        start = self._position if self._resume else 0
        self._resume, self._position = False, start
        return self._epoch, start

    def __getitem__(self, i: int) -> Batch:
        """Batch number i of the current epoch; negative numbers count from the end. Moves nothing on.

        A loop is in its epoch until it asks for more than the last batch, though `epoch` says the next from there on.
        Raises
        ------
        RowNotFoundError
            When there is no such batch; it is an IndexError.
        OptionError
            When a DataLoader asks, which was given a loader: it would get the same epoch every time.
        """
        _refuse_data_loader(sys._getframe(1))
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

    def ends(self, epoch: int, position: int) -> bool:
        """Whether no batch begins at a position of an epoch."""
        return self.cutting.stop(epoch, position) == position

    def batches_from(self, position: int) -> int:
        """Batches of the current epoch that begin at a position of it or after."""
        return self.cutting.left(self._epoch, position)

    # Epochs and states ----------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration runs: the one now running, and from its last batch on the next."""
        over = self._position and not self._resume and self.ends(self._epoch, self._position)
        return self._epoch + bool(over)

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration run an epoch, from its start.

        Setting the epoch that a state was just loaded in changes nothing, so that a loop that sets every epoch can be
        resumed.
        """
        epoch = integer("epoch", epoch, 0)
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
        if position and self.ends(epoch, position):
            epoch, position = epoch + 1, 0  # the end of an epoch is the start of the next
        return {
            "format": STATE_FORMAT,
            **self._about(),
            "epoch": epoch,
            "position": position,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another loader stood: the next iteration begins with the rows after its last batch.

        Batch size, ranks, fields and steps may differ from those of the other loader.

        Raises
        ------
        StateError
            When the state is of other data, another selection, or another order; it names the difference in words, as
            far as the state says which rows of how many it is of.
        """
        if not isinstance(state, Mapping) or state.get("format") != STATE_FORMAT:
            raise StateError(f"not a state of format {STATE_FORMAT} made by Loader.state_dict: {state!r:.200}")
        mine = self.state_dict()
        for key, what in (("data", "data or selection"), ("order", "order of rows"), ("seed", "seed")):
            if state.get(key) != mine[key]:
                found = _difference(key, state, mine)
                raise StateError(
                    f"the state has another {what}: {found}; make the loader from the "
                    "same store and selection, with the same shuffle=, seed=, window= and block="
                )
        epoch, position = state.get("epoch"), state.get("position")
        if type(epoch) is not int or type(position) is not int or epoch < 0 or position < 0 or self._beyond(position):
            raise StateError(
                f"the state stands at row {position!r} of epoch {epoch!r}, and an epoch has {self.n_rows} rows"
            )
        if position and self.ends(epoch, position):
            epoch, position = epoch + 1, 0
        self._move(epoch, position)
        self._resume = True

    def to_torch(
        self,
        device: Any = None,
        *,
        num_workers: int = 0,
        pin_memory: bool | None = None,
        multiprocessing_context: Any = None,
        persistent_workers: bool = True,
    ) -> TorchBatches:
        """The batches as dicts of torch tensors; see `mmdask.batches.torch.to_torch`."""
        from mmdask.batches.torch import to_torch

        return to_torch(
            self,
            device,
            num_workers=num_workers,
            pin_memory=pin_memory,
            multiprocessing_context=multiprocessing_context,
            persistent_workers=persistent_workers,
        )

    def to_jax(self, device: Any = None) -> JaxBatches:
        """The batches as dicts of jax arrays; see `mmdask.batches.jax.to_jax`."""
        from mmdask.batches.jax import to_jax

        return to_jax(self, device)

    def _beyond(self, position: int) -> bool:
        return self.n_rows is not None and position > self.n_rows

    def _move(self, epoch: int, position: int) -> None:
        self._epoch, self._position, self._resume, self._running = epoch, position, False, None


class _Iteration(Iterator[Batch]):
    """One run through an epoch, and the loader's account of it.

    It carries its epoch, so that nothing set meanwhile changes it. After an error the next call tries the same batch
    again.
    """

    def __init__(self, loader: Epochs, epoch: int, start: int, source: Source) -> None:
        self.loader = loader
        self.epoch = epoch
        self.position = start
        self._running = loader._running
        self._source = source
        self._batches: Iterator[Batch] | None = None
        self._lock = threading.RLock()  # several threads may share it

    def __next__(self) -> Batch:
        with self._lock:
            return self._next()

    def _next(self) -> Batch:
        loader = self.loader
        if self._batches is None:
            self._batches = self._source(self.epoch, self.position)
        try:
            batch = next(self._batches, None)
        except BaseException:
            self._batches = None
            raise
        current = loader._running is self._running  # a later iteration or set_epoch has taken over otherwise
        if batch is None:
            if current:
                loader._move(self.epoch + 1, 0)
            raise StopIteration
        self.position = batch.position
        if current:
            loader._position = batch.position
            loader._last = batch.epoch, batch.position, batch.index + 1
        return batch


def _refuse_data_loader(caller: FrameType | None) -> None:
    """Raise if torch asks for a batch by its number: of that, no later epoch follows."""
    name = "" if caller is None else caller.f_globals.get("__name__", "")
    if name == "mmdask.batches.mix" and caller is not None:
        return _refuse_data_loader(caller.f_back)
    if name.startswith("torch.utils.data"):
        raise OptionError(
            "a DataLoader takes the batches of a loader by their numbers, which are those of one epoch, so that every "
            "epoch would be the same; iterate over loader.to_torch(num_workers=...), or give what that makes to "
            "DataLoader(loader.to_torch(), batch_size=None)"
        )
    return None


def run_length(batch: Batch, most: int) -> int:
    """How many batches like this one have up to so many bytes together, and no more rows than a run."""
    nbytes = batch.rows.nbytes + sum(_nbytes(value) for value in batch.values())
    return max(1, min(most // max(nbytes, 1), RUN_ROWS // max(len(batch.rows), 1)))


def _nbytes(value: Any) -> int:
    if isinstance(value, list | tuple):  # text, arrays of differing shape, `Packed`
        return sum(map(_nbytes, value))
    return len(value) if isinstance(value, str) else getattr(value, "nbytes", 0)


def integer(name: str, value: object, low: int, end: int | None = None, limit: str = "") -> int:
    """An option that is an integer from `low` to below `end`, which `limit` names."""
    try:
        n = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        n = low - 1
    if isinstance(value, bool) or n < low or (end is not None and n >= end):
        below = f" and below {limit or end}{f' = {end}' if limit else ''}" if end is not None else ""
        raise OptionError(f"{name} is an integer, at least {low}{below}; got {value!r}")
    return n


def _difference(key: str, state: Mapping[str, Any], mine: Mapping[str, Any]) -> str:
    """How one entry of a state differs, in words where there are any."""
    theirs, own = state.get(key), mine[key]
    if key == "data" and (said := difference(state.get("words"), mine["words"], ("store", "rows", "selection"))):
        return said
    if isinstance(theirs, Mapping) and isinstance(own, Mapping):
        texts = []
        for k in [k for k in {**theirs, **own} if theirs.get(k) != own.get(k)]:
            said = difference(state.get("words"), mine["words"], (k,)) if k in ("weights", "balance") else ""
            texts.append(said or f"{k} {theirs.get(k)!r} there and {own.get(k)!r} here")
        return ", ".join(texts)
    return f"{theirs!r} there and {own!r} here"
