"""`Epochs`: batches one after the other, epoch after epoch, and where they stand: what a loader and a mixture share."""

from __future__ import annotations

import sys
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

import numpy as np

from mmdask.batches.batch import Batch
from mmdask.batches.loading.budget import RUN_NBYTES
from mmdask.batches.loading.runs import read_ahead
from mmdask.batches.options import integer, no_batches
from mmdask.batches.ordering.cutting import Cutting
from mmdask.batches.states import difference
from mmdask.errors import NoBatchesWarning, OptionError, RowNotFoundError, StateError

__all__ = ["Epochs", "run_length"]

#: the batches of an epoch from a position on
Source = Callable[[int, int], Iterator[Batch]]
STATE_FORMAT = 1
#: rows that are read together at most
RUN_ROWS = 1 << 20


class Epochs(ABC):
    """Batches of rows, epoch after epoch, of which any can be asked for by its epoch and position.

    A ``for`` that got the last batch moves on to the next epoch; one that is left early does not, and the next begins
    the same epoch again. After `load_state_dict` the next ``for`` goes on from there, once.

    Warns
    -----
    NoBatchesWarning
        When an epoch turns out to have no batch at all.
    """

    batch_size: int

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
        epoch, start = self.epoch, self._position if self._resume else 0
        self._set(_epoch=epoch, _resume=False, _position=start)
        return epoch, start

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
        if not isinstance(after, Batch | None):
            raise StateError(f"after= is the last batch that was received, got {type(after).__name__}")
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
                found = difference(key, state, mine)
                raise StateError(
                    f"the state has another {what}: {found}; make the loader from the same store and selection, with "
                    "the same shuffle=, seed=, window=, block=, weights=, balance= and bucket="
                )
        epoch, position = state.get("epoch"), state.get("position")
        if type(epoch) is not int or type(position) is not int or epoch < 0 or position < 0 or self._beyond(position):
            raise StateError(
                f"the state stands at row {position!r} of epoch {epoch!r}, and an epoch has {self.n_rows} rows"
            )
        if position and self.ends(epoch, position):
            epoch, position = epoch + 1, 0
        self._move(epoch, position, resume=True)

    def _beyond(self, position: int) -> bool:
        return self.n_rows is not None and position > self.n_rows

    def _move(self, epoch: int, position: int, *, resume: bool = False) -> None:
        self._set(_epoch=epoch, _position=position, _resume=resume, _running=None)

    def _set(self, **account: Any) -> None:
        """Set all of them or, if an interrupt comes before, none."""
        self.__dict__.update(account)


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
        batch, stood = None, self._stands()
        try:
            with self._lock:
                stood = self._stands()
                batch = self._next()
                # No call until the lock is given back: an interrupt finds all of the account, or none.
                self.position = batch.position
                if self.loader._running is self._running:
                    account = self.loader.__dict__
                    account["_position"] = batch.position
                    account["_last"] = batch.epoch, batch.position, batch.index + 1
            return batch
        except StopIteration:
            raise
        except BaseException:
            self._undo(batch, *stood)
            raise

    def _stands(self) -> tuple[int, int, tuple[int, int, int] | None]:
        return self.position, self.loader._position, self.loader._last

    def _undo(self, batch: Batch | None, position: int, of_loader: int, last: tuple[int, int, int] | None) -> None:
        """Have the next call try the same batch again, of which the caller got nothing."""
        with self._lock:
            if self.position not in (position, position if batch is None else batch.position):
                return  # another thread went on
            self._batches, self.position = None, position
            if batch is not None and self.loader._running is self._running:
                self.loader._set(_position=of_loader, _last=last)

    def _next(self) -> Batch:
        loader = self.loader
        if self._batches is None:
            self._batches = self._source(self.epoch, self.position)
        try:
            batch = next(self._batches, None)
        except BaseException:
            self._batches = None
            raise
        if batch is None:
            if loader._running is self._running:  # else a later iteration or set_epoch has taken over
                loader._move(self.epoch + 1, 0)
            if not self.position:
                warnings.warn(no_batches(loader.n_rows, loader.batch_size), NoBatchesWarning, stacklevel=3)
            raise StopIteration
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
