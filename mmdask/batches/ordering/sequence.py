"""From positions in an epoch to row numbers of the store: the three orders, over the rows of a selection.

A sequence reads no fields. It keeps one window of row numbers (4 or 8 bytes a row) and, for a selection, how many of
its rows each block holds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from mmdask.batches.ordering import order
from mmdask.errors import CorruptStoreError, OptionError
from mmdask.kernels import permute
from mmdask.kernels.once import once

if TYPE_CHECKING:
    from mmdask.rows.rows import Rows

__all__ = ["ExactSequence", "Sequence", "Span", "StoredSequence", "WindowSequence", "mixed"]

Int64s = npt.NDArray[np.int64]
#: rows among which one selected row is looked for; 1/8 byte of counts per row of the store
RANK_BLOCK = 64


class Sequence(Protocol):
    """The rows of every epoch, by position."""

    @property
    def n(self) -> int:
        """Positions of an epoch."""
        ...

    def rows_at(self, epoch: int, start: int, stop: int) -> Int64s:
        """Store row numbers at positions `start` to `stop` of an epoch, int64, a new array."""
        ...


class Span:
    """Rows without data: all of so many numbers, for orders of what are no rows of a store."""

    def __init__(self, n: int) -> None:
        self.n_store = n

    def __len__(self) -> int:
        return self.n_store

    def numbers(self, start: int, stop: int) -> Int64s:
        """The numbers from `start` to `stop`, int64."""
        return np.arange(start, min(stop, self.n_store), dtype=np.int64)

    def block_counts(self, block_rows: int) -> Int64s:
        """How many there are in each block of `block_rows`, int64."""
        return np.diff(np.minimum(np.arange(0, self.n_store + block_rows, block_rows), self.n_store))

    def rows_of_blocks(self, blocks: Int64s, block_rows: int) -> Int64s:
        """Those of some blocks, in the order of `blocks`, int64."""
        rows = (blocks[:, None] * block_rows + np.arange(block_rows)).reshape(-1)
        return rows[rows < self.n_store]


class StoredSequence:
    """Store order, in every epoch."""

    def __init__(self, rows: Rows | Span) -> None:
        self.rows = rows
        self.n = len(rows)

    def rows_at(self, epoch: int, start: int, stop: int) -> Int64s:
        return self.rows.numbers(start, stop)


class ExactSequence:
    """One permutation of all selected rows.

    Without a selection it needs no memory. With one it keeps the running count of every 64 rows of the store (one
    bit per row), and decodes the 64 rows around each row of a batch.
    """

    def __init__(self, rows: Rows | Span, seed: int) -> None:
        self.rows = rows
        self.seed = seed
        self.n = len(rows)

    def rows_at(self, epoch: int, start: int, stop: int) -> Int64s:
        ranks = order.exact_ranks(self.n, self.seed, epoch, start, stop)
        if self.n == self.rows.n_store:
            return ranks
        block = np.searchsorted(self._before, ranks, side="right") - 1
        read, which = np.unique(block, return_inverse=True)
        found = self.rows.rows_of_blocks(read, RANK_BLOCK)
        ends = np.cumsum(self._before[read + 1] - self._before[read])
        _check(len(found), int(ends[-1]) if len(ends) else 0)
        begins = np.concatenate([np.zeros(1, np.int64), ends[:-1]])
        taken: Int64s = found[begins[which] + ranks - self._before[block]]
        return taken

    @once
    def _before(self) -> Int64s:
        counts = self.rows.block_counts(RANK_BLOCK)
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])


class WindowSequence:
    """Blocks mixed in windows that draw evenly from the whole store (see `order`).

    Blocks without a selected row are left out before, so that a window of a sparse selection mixes as many blocks as
    any other.
    """

    def __init__(self, rows: Rows | Span, seed: int, grain: order.Grain) -> None:
        self.rows = rows
        self.seed = seed
        self.grain = grain
        self.n = len(rows)
        self.all_selected = self.n == rows.n_store
        self._epoch: tuple[int, int, Int64s] | None = None
        # Half the bytes, where they hold every row number, are twice as much of a window in the cache.
        self._dtype = np.dtype(np.int32 if rows.n_store < 2**31 else np.int64)
        self._window: tuple[int, int, npt.NDArray[Any]] | None = None
        self._settled = 0  # rows of the window that are in their place
        self._lock = threading.Lock()  # any thread may ask for a batch by its number
        self._scratch = np.empty(0, self._dtype)  # of the window's rows: fresh memory costs more than filling it

    def rows_at(self, epoch: int, start: int, stop: int) -> Int64s:
        with self._lock:
            return self._rows_at(epoch, start, stop)

    def _rows_at(self, epoch: int, start: int, stop: int) -> Int64s:
        starts = self.starts(epoch)[1]
        window = int(np.searchsorted(starts, start, side="right")) - 1
        rows = np.empty(max(stop - start, 0), np.int64)
        done = 0
        while done < len(rows):
            # Copied at once: the next window is made in the same memory.
            first = start + done - int(starts[window])
            last = min(first + len(rows) - done, int(starts[window + 1] - starts[window]))
            piece = self._rows_of(epoch, window, last)[first:last]
            rows[done : done + len(piece)] = piece
            done, window = done + len(piece), window + 1
        return rows

    @once
    def filled(self) -> tuple[Int64s, Int64s] | None:
        """Numbers of the blocks that have selected rows, and how many; None when all rows are selected."""
        if self.all_selected:
            return None
        counts = self.rows.block_counts(self.grain.block)
        filled = np.flatnonzero(counts)
        return filled, counts[filled]

    @once
    def windows(self) -> order.Windows:
        """The blocks of each window, numbered among the blocks that have a selected row."""
        n = -(-self.rows.n_store // self.grain.block) if self.filled is None else len(self.filled[0])
        return order.Windows.of(n, self.grain.blocks)

    def starts(self, epoch: int) -> tuple[int, Int64s]:
        """The key of the blocks of an epoch, and the position at which each window begins, and the end: int64."""
        known = self._epoch  # looked at once: another thread may ask for another epoch
        if known is None or known[0] != epoch:
            key = order.epoch_key(self.seed, epoch, "blocks")
            counts = None if self.filled is None else self.filled[1]
            starts = self.windows.starts(key, counts, self.grain.block, self.rows.n_store)
            known = self._epoch = (epoch, key, starts)
        return known[1], known[2]

    def block_rows(self, key: int, window: int) -> tuple[Int64s, Int64s]:
        """Of each block of a window the first store row, and the one after its last, int64."""
        blocks = self.windows.blocks(key, window)
        if self.filled is not None:
            blocks = self.filled[0][blocks]
        begins = blocks * self.grain.block
        return begins, np.minimum(begins + self.grain.block, self.rows.n_store)

    def _rows_of(self, epoch: int, window: int, stop: int) -> npt.NDArray[Any]:
        """The rows of a window, of which at least the first `stop` are in their order.

        Kept, because the next batch most often needs them too, and shuffled no further than they are needed.
        """
        if self._window is None or self._window[:2] != (epoch, window):
            self._window = None  # until it is whole: an interrupt may come anywhere
            key, starts = self.starts(epoch)
            blocks = self.windows.blocks(key, window)
            n = int(starts[window + 1] - starts[window])
            if self.filled is None:
                begins = blocks * self.grain.block
                rows = self._meaning(epoch, begins, np.minimum(begins + self.grain.block, self.n))
                _check(len(rows), n)
            else:
                rows = self.rows.rows_of_blocks(self.filled[0][blocks], self.grain.block)
                _check(len(rows), n)
                rows = rows.astype(self._dtype)
            self._settled = 0
            self._window = (epoch, window, rows)
        kept = self._window
        rows = kept[2]
        if self._settled < stop:
            # Ever further: the first batch waits for little, and all the rest is few steps, each good to the cache.
            stop = min(len(rows), max(stop, 8 * self._settled))
            self._window = None
            permute.shuffle(rows, order.window_key(self.seed, epoch, window), self._settled, stop)
            self._settled = stop
            self._window = kept
        return rows

    def _meaning(self, epoch: int, begins: Int64s, ends: Int64s) -> npt.NDArray[Any]:
        """The store row numbers of the rows of whole blocks, ascending; of some other thing, what it stands for."""
        size = self.grain.block
        if len(self._scratch) < len(begins) * size:
            self._scratch = np.empty((self.windows.n_strata + 1) * size, self._dtype)
        rows = self._scratch[: len(begins) * size]
        np.add(begins.astype(self._dtype)[:, None], np.arange(size, dtype=self._dtype), out=rows.reshape(-1, size))
        # The one that may be short is the last.
        return rows[: int((ends - begins).sum())]


def mixed(rows: Rows, how: object, seed: object) -> Callable[[int, int], Int64s] | None:
    """The store row numbers at positions of the order that `mmdask.Dataset.save` asks for; None for store order.

    It is that of an epoch of batches: windows that draw evenly from everywhere, at the speed of reading blocks.

    Raises
    ------
    OptionError
        When there is no such order.
    """
    if how not in (None, "shuffled"):
        raise OptionError(f"order is None (as the rows lie) or 'shuffled', got {how!r}")
    if type(seed) is not int or not 0 <= seed < 2**64:
        raise OptionError(f"seed is an integer from 0 to below 2**64, got {seed!r}")
    if how is None:
        return None
    sequence = WindowSequence(rows, seed, order.grain(rows.n_store, rows.row_nbytes, rows.block_rows))
    return partial(sequence.rows_at, 0)


def _check(found: int, expected: int) -> None:
    if found != expected:
        raise CorruptStoreError(
            f"a selection gave {found} rows where it had counted {expected}; open the store anew, and if that does "
            "not help remove its cache/ folder"
        )
