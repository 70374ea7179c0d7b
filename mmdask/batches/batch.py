"""`Batch`: what a loader hands out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mmdask.display import amount, text_table
from mmdask.short import ShortNamed

if TYPE_CHECKING:
    from mmdask.batches.ordering.row_rng import RowRng

__all__ = ["Batch"]


class Batch(ShortNamed):
    """The entries of a batch by name, and where it stands. All arrays are its own.

    A dict, in which entries are also found by their short names: ``batch["GEN_x"]`` is ``batch["GEN.x"]``.

    Attributes
    ----------
    rows : numpy.ndarray
        int64 ``(n,)``: the numbers of its rows in the store.
    valid : numpy.ndarray or None
        bool ``(n,)`` if the loader has ``last="pad"``: False for rows that only fill up the last batch.
    epoch : int
    index : int
        Its number in the epoch.
    position : int
        Rows of the epoch handed out to all ranks, this batch included.
    seed : int
        Of the loader.
    streams : numpy.ndarray or None
        int64 ``(n,)`` where rows come several times in an epoch: what tells their random numbers apart.
    source : numpy.ndarray or None
        int64 ``(n,)`` in batches of `mmdask.mix`: the number of the loader that each row is of.
    """

    rows: npt.NDArray[np.int64]
    valid: npt.NDArray[np.bool_] | None
    epoch: int
    index: int
    position: int
    seed: int
    source: npt.NDArray[np.int64] | None = None
    streams: npt.NDArray[np.int64] | None = None

    def row_rng(self, purpose: str) -> RowRng:
        """Random numbers for its rows, which depend on the row, the epoch, the loader's seed and the purpose alone.

        They are the same whatever the batch size, the rank or the worker, and after resuming.

        Parameters
        ----------
        purpose : str
            Another purpose gives other numbers.

        Examples
        --------
        >>> import mmdask as mm
        >>> ds = mm.from_arrays({"x": [1.0, 2.0, 3.0, 4.0]}, "rng.mm")
        >>> def smear(batch):
        ...     batch["x"] += 0.1 * batch.row_rng("smear").normal()
        ...     return batch
        >>> whole, half = (ds.batches(n, transform=smear, shuffle=False)[0]["x"] for n in (4, 2))
        >>> (whole[:2] == half).all()
        np.True_
        """
        from mmdask.batches.ordering.row_rng import RowRng

        streams = self.rows if self.streams is None else self.streams
        return RowRng.of(self.seed, self.epoch, purpose, streams)

    def __repr__(self) -> str:
        """What the entries are, not what is in them: they are large."""
        cells = [[name, *_dtype_and_shape(value)] for name, value in self.items()]
        head = f"mm.Batch: {amount(len(self.rows), 'row')}, number {self.index:,} of epoch {self.epoch:,}"
        return f"{head}\n{text_table(cells, ['entry', 'dtype', 'shape'])}"


def _dtype_and_shape(value: Any) -> tuple[str, str]:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return str(value.dtype), str(tuple(value.shape))
    if hasattr(value, "offsets") and hasattr(value.values, "dtype"):
        return f"ragged {value.values.dtype}", f"({len(value.offsets) - 1},)"
    return type(value).__name__, ""
