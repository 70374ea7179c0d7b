"""`Batch`: what a loader hands out."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Batch"]


class Batch(dict[str, Any]):
    """The entries of a batch by name, and where it stands. All arrays are its own.

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
    """

    rows: npt.NDArray[np.int64]
    valid: npt.NDArray[np.bool_] | None
    epoch: int
    index: int
    position: int
