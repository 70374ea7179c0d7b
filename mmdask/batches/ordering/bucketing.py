"""Batches of rows of similar length: rows are sorted within windows of the order, so that padding wastes little.

A window is a run of positions of the epoch, as many as some batches have. Its rows are sorted by their number of items,
cut into batches, and the batches shuffled: every row still comes once, any batch can be found without those before, and
no more than a window is in memory.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mmdask.batches.options import integer
from mmdask.batches.ordering import order
from mmdask.batches.ordering.sequence import Sequence
from mmdask.errors import OptionError
from mmdask.kernels import permute
from mmdask.schema import Schema

if TYPE_CHECKING:
    from mmdask.rows.rows import Rows

__all__ = ["Bucket", "Bucketed", "bucket"]

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Bucket:
    """How rows are sorted into batches. Made by `bucket`."""

    field: str
    window: int
    tokens: int | None
    multiple: int

    def check(self, schema: Schema) -> None:
        """Raise unless the field has rows of differing length."""
        field = schema[self.field]
        if not field.n_offsets:
            raise OptionError(f"bucket={self.field!r} sorts by numbers of items, and the field is {field.describe()}")


def bucket(field: str, *, window: int = 64, tokens: int | None = None, multiple: int = 8) -> Bucket:
    """Make batches of rows that have about as many items, so that little is padded.

    The rows of a *window* of consecutive batches are sorted by their number of items and cut anew into batches, which
    come in random order. Within a window and a length, rows are mixed as without it.

    Parameters
    ----------
    field : str
        Its numbers of items are compared: of a ragged field the lists of its first level, of text the bytes, of arrays
        of differing shape all items.
    window : int
        Batches of a window. The more, the less padding and the more alike are the lengths in a batch.
    tokens : int, optional
        Most items of a batch when all its rows are padded to its longest: batches of long rows then have fewer rows,
        and none has more than ``batch_size``. A row that is longer is a batch of its own. By default all batches have
        ``batch_size`` rows.
    multiple : int
        To what lengths are rounded up, as by ``mm.pad("max", multiple=8)``. Rows that are padded to one length are not
        sorted.

    Raises
    ------
    OptionError
        When an argument cannot be used.

    Examples
    --------
    >>> import mmdask as mm
    >>> ds = mm.from_arrays({"parts": [[1.0] * n for n in (9, 1, 8, 2)]}, "bucket.mm")
    >>> loader = ds.batches(2, bucket=mm.bucket("parts", multiple=1), collate={"parts": mm.pad("max")})
    >>> sorted(batch["parts"].shape for batch in loader)
    [(2, 2), (2, 9)]
    """
    if not isinstance(field, str):
        raise OptionError(f"bucket takes the name of a field, as mm.bucket('parts'); got {field!r}")
    most = None if tokens is None else integer("bucket(tokens=)", tokens, 1, 2**31)
    return Bucket(
        field, integer("bucket(window=)", window, 1, 2**31), most, integer("bucket(multiple=)", multiple, 1, 2**31)
    )


#: rows of the windows that are kept: batches that are read together may come from several
_KEPT_ROWS = 1 << 19


@dataclass(frozen=True)
class _Window:
    rows: Int64s
    ends: Int64s  # of its batches, counted from its start


class Bucketed:
    """The rows of another sequence in another order, and with `tokens` where batches end: a sequence and a cutting.

    Parameters
    ----------
    sequence : Sequence
        The rows of an epoch by position; runs of its positions are the windows.
    rows : Rows
        Where numbers of items are read.
    bucket : Bucket
    batch_size : int
        Rows of a batch, with `tokens` at most.
    seed : int
    shuffled : bool
        Whether the batches of a window are shuffled; otherwise the longest rows come first.
    """

    def __init__(
        self, sequence: Sequence, rows: Rows, bucket: Bucket, *, batch_size: int, seed: int, shuffled: bool
    ) -> None:
        self.sequence = sequence
        self.rows = rows
        self.bucket = bucket
        self.batch_size = batch_size
        self.seed = seed
        self.shuffled = shuffled
        self.n = sequence.n
        self.size = bucket.window * batch_size
        self.n_windows = -(-self.n // self.size)
        self._lock = threading.RLock()  # a thread that reads ahead and the caller's may both ask
        self._windows: dict[tuple[int, int], _Window] = {}  # the last ones, by epoch and number
        # The batches before each window of an epoch, from window number `first` on, as far as known.
        self._known: tuple[int, int, list[int]] = (0, 0, [0])

    # Rows by position -------------------------------------------------------------------------------------------------

    def rows_at(self, epoch: int, start: int, stop: int) -> Int64s:
        """As `Sequence.rows_at`."""
        pieces = [np.empty(0, np.int64)]
        while start < stop:
            number, offset = divmod(start, self.size)
            piece = self._at(epoch, number).rows[offset : offset + stop - start]
            pieces.append(piece)
            start += len(piece)
        return np.concatenate(pieces)

    def _at(self, epoch: int, number: int) -> _Window:
        with self._lock:
            window = self._windows.pop((epoch, number), None) or self._make(epoch, number)
            self._windows[epoch, number] = window
            while len(self._windows) > max(_KEPT_ROWS // self.size, 2):
                del self._windows[next(iter(self._windows))]
            return window

    def _make(self, epoch: int, number: int) -> _Window:
        start = number * self.size
        rows = self.sequence.rows_at(epoch, start, min(start + self.size, self.n))
        # In a window that is not full the rows that are left over come last, whatever their length. A stable sort
        # keeps the order of equal lengths, which is that of the shuffle.
        full = len(rows) if self.bucket.tokens else len(rows) // self.batch_size * self.batch_size
        counts = self.rows.counts(self.bucket.field, rows[:full])
        padded = -(-counts // self.bucket.multiple)
        by_length = np.argsort(-padded, kind="stable")
        sizes = self._sizes(padded[by_length] * self.bucket.multiple)
        batches = np.arange(len(sizes), dtype=np.int64)
        if self.shuffled:
            permute.shuffle(batches, order.epoch_key(self.seed, epoch, "bucket", number))
        begins = (np.cumsum(sizes) - sizes)[batches]
        sizes = sizes[batches]
        ends = np.cumsum(sizes)
        places = np.repeat(begins - (ends - sizes), sizes) + np.arange(full)
        ordered = np.concatenate([rows[by_length[places]], rows[full:]])
        if full < len(rows):
            ends = np.append(ends, len(rows))
        return _Window(ordered, ends)

    def _sizes(self, lengths: Int64s) -> Int64s:
        """Rows of the batches, from the longest rows to the shortest."""
        if self.bucket.tokens is None:
            return np.full(len(lengths) // self.batch_size, self.batch_size, np.int64)
        sizes, begin = [], 0
        while begin < len(lengths):
            fitting = self.bucket.tokens // max(int(lengths[begin]), 1)
            size = min(max(fitting, 1), self.batch_size, len(lengths) - begin)
            sizes.append(size)
            begin += size
        return np.array(sizes, np.int64)

    # Batches by position, with tokens ---------------------------------------------------------------------------------

    def stop(self, epoch: int, start: int) -> int:
        """As `Cutting.stop`."""
        if start >= self.n:
            return start
        number, offset = divmod(start, self.size)
        ends = self._at(epoch, number).ends
        return number * self.size + int(ends[np.searchsorted(ends, offset, side="right")])

    def number(self, epoch: int, start: int) -> int:
        """As `Cutting.number`; counts the batches of all windows before, unless they are known."""
        if start >= self.n:
            return self._before(epoch, self.n_windows)
        number, offset = divmod(start, self.size)
        with self._lock:
            return self._before(epoch, number) + self._begun(epoch, number, offset)

    def after(self, epoch: int, start: int, n: int) -> int:
        """As `Cutting.after`."""
        with self._lock:
            wanted = self.number(epoch, start) + n
            window = start // self.size
            while window < self.n_windows and self._before(epoch, window + 1) <= wanted:
                known_epoch, first, counts = self._known
                assert known_epoch == epoch
                window = max(window + 1, first + bisect_right(counts, wanted) - 1)
            if window >= self.n_windows:
                return self.n
            left = wanted - self._before(epoch, window)
            return window * self.size + int(np.append(0, self._at(epoch, window).ends)[left])

    def left(self, epoch: int, start: int) -> int:
        """As `Cutting.left`; counts the batches of all windows behind, unless they are known."""
        if start >= self.n:
            return 0
        with self._lock:
            number, offset = divmod(start, self.size)
            first = self._known[1] if self._known[0] == epoch else 0
            if first <= number:
                return self._before(epoch, self.n_windows) - self.number(epoch, start)
            return sum(len(self._at(epoch, w).ends) for w in range(number, self.n_windows)) - self._begun(
                epoch, number, offset
            )

    def stands(self, epoch: int, start: int, number: int) -> None:
        """Take it as known that so many batches begin before a position, so that they need not be counted."""
        window, offset = divmod(start, self.size)
        if start < self.n:
            with self._lock:
                self._known = (epoch, window, [number - self._begun(epoch, window, offset)])

    def _begun(self, epoch: int, number: int, offset: int) -> int:
        """Batches of a window that begin before a place in it."""
        begins = np.append(0, self._at(epoch, number).ends[:-1])
        return int(np.searchsorted(begins, offset))

    def _before(self, epoch: int, number: int) -> int:
        """Batches in the windows before one."""
        with self._lock:
            known_epoch, first, counts = self._known
            if known_epoch != epoch or number < first:
                first, counts = 0, [0]
                self._known = (epoch, first, counts)
            while first + len(counts) <= number:
                counts.append(counts[-1] + len(self._at(epoch, first + len(counts) - 1).ends))
            return counts[number - first]
