"""What a loader asks the system to read before it is needed, when the data are not in memory."""

from __future__ import annotations

from collections.abc import Sequence as Several
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mmdask.batches.ordering.bucketing import Bucketed
from mmdask.batches.ordering.sequence import Sequence, StoredSequence, WindowSequence

if TYPE_CHECKING:
    from mmdask.rows.rows import Rows

__all__ = ["Prefetch"]

Int64s = npt.NDArray[np.int64]
_PAGE = 4096
#: a window is asked for in so many pieces, while the one before is read
_PIECES = 8
#: single rows that are all in memory: so many runs later it is looked again
_REST = 7


class Prefetch:
    """Asks for the blocks of a window in file order, while the window before is read; or for rows alone.

    Parameters
    ----------
    rows : Rows
        The selected rows.
    names : sequence of str
        The fields that are read.
    sequence : Sequence
        The order.
    share : float
        Of the rows of each batch this loader reads so many.
    """

    def __init__(self, rows: Rows, names: Several[str], sequence: Sequence, share: float = 1.0) -> None:
        self.rows = rows
        self.names = tuple(names)
        self.in_order = isinstance(sequence, StoredSequence)  # for which the system reads ahead by itself
        self._unit = 1
        if isinstance(sequence, Bucketed):
            self._unit, sequence = sequence.size, sequence.sequence
        # Copies of rows, and classes of them, have no blocks of the store.
        self._windows = sequence if type(sequence) is WindowSequence else None
        nothing = np.empty(0, np.int64)
        self._blocks: tuple[int, int, tuple[Int64s, Int64s]] = (-1, -1, (nothing, nothing))  # key, number of a window
        self._rest = 0  # runs of single rows for which nothing is asked
        self._whole = self._windows is not None and _whole_blocks(rows, self.names, self._windows, share)
        self._at: tuple[int, int] | None = None  # epoch and window of what was read last
        self._asked = (-1, -1, 0)  # epoch, window, and how many pieces of it are asked for

    def windows(self, epoch: int, start: int, stop: int) -> bool:
        """Ask for what positions `start` to `stop` need, and as much of the next window; whether it is settled so.

        Not where a batch is read somewhere in an epoch, of which nobody says that the next one follows.
        """
        sequence = self._windows
        if not self.names:
            return True
        if sequence is None or stop <= start or not self._whole:
            return False
        start, stop = start // self._unit * self._unit, min(-(-stop // self._unit) * self._unit, sequence.n)
        key, starts = sequence.starts(epoch)
        first, last = (np.searchsorted(starts, [start, stop - 1], side="right") - 1).tolist()
        before, self._at = self._at, (epoch, last)
        if before is None or before[0] != epoch or not first - 1 <= before[1] <= first:
            return False
        done_epoch, window, pieces = self._asked
        if done_epoch != epoch or not first <= window <= last + 1:
            window, pieces = first, 0
        ahead = int(_PIECES * (stop - starts[last]) / (starts[last + 1] - starts[last]))
        while window <= last + 1 and window < sequence.windows.n_windows:
            wanted = _PIECES if window <= last else ahead
            if not pieces and wanted and not self._missing(sequence, key, window):
                wanted = _PIECES
            elif pieces < wanted:
                self._ask(sequence, key, window, pieces, wanted)
            self._asked = epoch, window, max(pieces, wanted)
            if window > last:
                break
            window, pieces = window + 1, 0
        return True

    def some(self, rows: Int64s) -> None:
        """Ask for single rows."""
        if self.in_order or not len(rows):
            return
        if self._rest:
            self._rest -= 1
        elif not self.rows.ask(self.names, rows, rows + 1):
            self._rest = _REST

    def _missing(self, sequence: WindowSequence, key: int, window: int) -> bool:
        """Whether a window is not in memory, as far as some of its rows tell: it is looked at once."""
        begins, _ = self._of(sequence, key, window)
        return self.rows.missing(self.names, begins)

    def _ask(self, sequence: WindowSequence, key: int, window: int, first: int, last: int) -> None:
        begins, ends = self._of(sequence, key, window)
        some = slice(first * len(begins) // _PIECES, last * len(begins) // _PIECES)
        self.rows.ask(self.names, begins[some], ends[some])

    def _of(self, sequence: WindowSequence, key: int, window: int) -> tuple[Int64s, Int64s]:
        if self._blocks[:2] != (key, window):
            self._blocks = key, window, sequence.block_rows(key, window)
        return self._blocks[2]


def _whole_blocks(rows: Rows, names: Several[str], sequence: WindowSequence, share: float) -> bool:
    """Whether most pages of a block hold a row that is wanted, when of each batch a share is read."""
    block, filled = sequence.grain.block, sequence.filled
    n_blocks = -(-rows.n_store // block) if filled is None else len(filled[0])
    wanted = share * len(rows) / max(n_blocks * block, 1)
    widest = max([rows.schema[name].item_nbytes for name in names if not rows.schema[name].n_offsets] or [1])
    return wanted > 0.5 or wanted * _PAGE >= widest
