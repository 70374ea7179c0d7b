"""What a loader of bounded memory gives back: the pages of windows that it is done with."""

from __future__ import annotations

from collections.abc import Sequence as Several
from typing import TYPE_CHECKING

import numpy as np

from mmdask.batches.ordering.bucketing import Bucketed
from mmdask.batches.ordering.sequence import Sequence, WindowSequence

if TYPE_CHECKING:
    from mmdask.rows.rows import Rows

__all__ = ["Releasing"]


class Releasing:
    """Gives pages back between two windows, so that none has to come twice; between any rows where there are none.

    Parameters
    ----------
    rows : Rows
        The selected rows.
    names : sequence of str
        The fields that are read.
    sequence : Sequence
        The order.
    window : int
        Bytes after which pages are given back.
    """

    def __init__(self, rows: Rows, names: Several[str], sequence: Sequence, window: int) -> None:
        self.rows = rows
        self.names = tuple(names)
        self._most = window / (rows.row_nbytes + 8)
        self._windows = None
        if not isinstance(sequence, Bucketed) and type(sequence) is WindowSequence:
            self._windows = sequence
        self._read = 0  # rows since pages were given back
        self._at: tuple[int, int] | None = None  # epoch and window
        self._stop = 0  # where the rows that were read last end

    def before(self, epoch: int, start: int, stop: int) -> None:
        """Rows at positions `start` to `stop` of an epoch are read now."""
        n, self._read = self._read, self._read + stop - start
        if self._windows is None:
            if self._read > self._most:
                self._read = stop - start
                self.rows.release(self.names)
            return
        key, starts = self._windows.starts(epoch)
        window = int(np.searchsorted(starts, start, side="right")) - 1
        before, last = self._at, self._stop
        self._at, self._stop = (epoch, window), stop
        if before in (None, self._at) or n + starts[window + 1] - starts[window] <= self._most:
            return
        self._read = stop - start
        if before is not None and before[0] == epoch and starts[window] < last:
            # Rows of this window were read with the last ones of the window before: it needs their pages again.
            self.rows.release(self.names, self._windows.block_rows(key, window))
        else:
            self.rows.release(self.names)
