"""How many bytes a loader takes: for the rows that it mixes, and for those that it reads together and ahead."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from mmdask.batches.ordering import order
from mmdask.display import nbytes_text, parse_nbytes
from mmdask.errors import OptionError
from mmdask.kernels.dense import NARROW

if TYPE_CHECKING:
    from mmdask.rows.rows import Rows

__all__ = ["DEFAULT_MEMORY", "RUN_NBYTES", "Budget", "batch_row_nbytes", "budget_of", "is_narrow"]

DEFAULT_MEMORY = 1 << 30
#: rows of wide fields are read together up to so many bytes, which a cache of the processor holds
RUN_NBYTES = 8 << 20
#: rows that have fewer bytes for each narrow field are read together as far as memory allows
_NARROW_ROW = 48


class Budget:
    """What a loader may take.

    Parameters
    ----------
    memory : int
        In bytes: a quarter for the window, and three runs of an eighth (one handed out, one ready, one being read).
    bounded : bool
        Whether the caller asked for it. Pages of windows that are done with are given back then.
    """

    def __init__(self, memory: int, bounded: bool) -> None:
        self.memory = memory
        self.bounded = bounded

    @property
    def window(self) -> int:
        """Bytes of a window, unless the caller says otherwise."""
        return min(order.DEFAULT_WINDOW, max(self.memory // 4, 1))

    def run(self, narrow: bool) -> int:
        """Bytes of batches that are read together."""
        return max(self.memory // 8 if narrow else min(RUN_NBYTES, self.memory // 8), 1)

    def check(self, grain: order.Grain, rows: Rows, batch_nbytes: float, shuffled: bool) -> None:
        """Raise unless the window and three batches fit.

        Raises
        ------
        OptionError
            Which says the least that works.
        """
        if not self.bounded:
            return
        in_window = min(grain.block * grain.blocks, rows.n_store) if shuffled else 0
        window, three = int(in_window * (rows.row_nbytes + 8)), int(3 * batch_nbytes)
        least = 2 * max(window, three)
        if least > self.memory:
            parts = [f"a window of {in_window:,} rows takes {nbytes_text(window)} of all fields"] * bool(window)
            parts.append(f"three batches take {nbytes_text(three)}")
            raise OptionError(
                f"memory={nbytes_text(self.memory)} is too little: {' and '.join(parts)}, each of which may take a "
                f"half; ask for {least} bytes or more, or for a smaller "
                + ("window= or block=" if window >= three else "batch_size=")
            )


def budget_of(memory: int | str | None) -> Budget:
    """What a caller asks for.

    Raises
    ------
    OptionError
        When it is no number of bytes.
    """
    if memory is None:
        return Budget(DEFAULT_MEMORY, bounded=False)
    nbytes = parse_nbytes(memory)
    if nbytes < 1:
        raise OptionError(f"memory is a number of bytes, 1 or more, like '1GiB', got {memory!r}")
    return Budget(nbytes, bounded=True)


def batch_row_nbytes(rows: Rows, names: Iterable[str]) -> float:
    """About how many bytes a row has in a batch of these fields; with any lists, those of all fields count."""
    dense = {name: f.item_nbytes for name, f in rows.schema.items() if not f.n_offsets}
    asked = list(names)
    known = sum(dense.get(name, 0) for name in asked)
    return known if all(name in dense for name in asked) else known + max(rows.row_nbytes - sum(dense.values()), 0.0)


def is_narrow(rows: Rows, names: Iterable[str]) -> bool:
    """Whether single values are most of the work: then it pays to read a large part of a window together."""
    asked = list(names)
    n = sum(not rows.schema[name].n_offsets and rows.schema[name].item_nbytes <= NARROW for name in asked)
    return batch_row_nbytes(rows, asked) < _NARROW_ROW * n
