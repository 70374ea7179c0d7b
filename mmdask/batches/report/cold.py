"""What a cold read of batches takes from a disk, for each byte that is wanted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from mmdask.batches.ordering.balanced import BalancedSequence
from mmdask.batches.ordering.sequence import ExactSequence, Sequence, WindowSequence
from mmdask.batches.ordering.weighted import WeightedExact
from mmdask.store.arrays.npy import HEADER

if TYPE_CHECKING:
    from mmdask.rows.rows import Rows

__all__ = ["cold_reads"]

_PAGE = 4096
#: rows among which the selected ones are looked for where there are no blocks: a page of a narrow field
_NEAR = 1024


def cold_reads(rows: Rows, fields: Iterable[str], sequence: Sequence) -> tuple[float, float]:
    """Pages touched, in bytes, for each byte wanted, and rows that lie in what is read for each that is wanted.

    The second is what of the first is due to the selection, so that no larger blocks help.
    """
    if isinstance(sequence, BalancedSequence):
        each = [cold_reads(rows, fields, part) for part in sequence.classes]
        pages, near = np.average(each, axis=0, weights=sequence.quotas.shares).tolist()
        return pages, near
    drawn_from: Any = getattr(sequence, "weighed", sequence)  # copies are of the rows that are weighed
    chosen: Rows = drawn_from.rows
    n = max(sequence.n, 1)
    if isinstance(sequence, ExactSequence | WeightedExact):
        block, pieces, read = 1, n, n
    elif isinstance(sequence, WindowSequence):
        block, pieces = sequence.grain.block, sequence.windows.n_blocks
        read = _rows_of_blocks(chosen, block)
    else:
        return (near := _rows_of_blocks(chosen, _NEAR) / n), near
    touched = asked = 0.0
    for name in fields:
        field = rows.schema[name]
        for width in [8.0, rows.row_nbytes] if field.n_offsets else [float(field.item_nbytes)]:
            aligned = not (block * width % _PAGE or HEADER % _PAGE)
            touched += read * width + (0 if aligned or not width else pieces * _PAGE)
            asked += n * width
    return (touched / asked if asked else 1.0), read / n


def _rows_of_blocks(rows: Rows, block: int) -> int:
    """Rows of the store that lie in blocks that have selected ones."""
    if len(rows) == rows.n_store:
        return rows.n_store
    begins = np.flatnonzero(rows.block_counts(block)) * block
    return int((np.minimum(begins + block, rows.n_store) - begins).sum())
