"""Selected rows of a store as packed bits per part, and the questions that are asked of them.

Bits are in little bit order: row r of a part is bit ``r % 8`` of byte ``r // 8``; bits beyond the rows are zero.
A part of which all or no rows are selected is just True or False.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.kernels.bits import rows_of_runs

__all__ = ["PartBits", "RowBits", "and_bits", "bits_of_range", "count_bits", "groups", "pack", "unpack"]

Bits = npt.NDArray[np.uint8]
#: the selected rows of one part
PartBits = bool | Bits

#: rows whose bits are looked at together; temporaries stay in cache
_PIECE = 1 << 21
#: rows of one entry of the index by position
_STRIDE = 1 << 16


def pack(mask: npt.NDArray[np.bool_]) -> Bits:
    """Bits of a mask, uint8 ``(ceil(rows / 8),)``."""
    return np.packbits(mask, bitorder="little")


def unpack(bits: Bits, start: int, stop: int) -> npt.NDArray[np.bool_]:
    """The mask of rows `start` to `stop`, bool ``(stop - start,)``."""
    first = start & ~7
    mask = np.unpackbits(bits[first // 8 : -(-stop // 8)], bitorder="little", count=max(stop - first, 0))
    return mask[start - first :].view(np.bool_)


def count_bits(bits: Bits) -> int:
    """How many bits are set."""
    return int(np.bitwise_count(bits).sum(dtype=np.int64))


def bits_of_range(start: int, stop: int, step: int, rows: int) -> PartBits:
    """Bits of the rows ``range(start, stop, step)`` of a part of `rows` rows."""
    if step == 1 and start <= 0 and stop >= rows:
        return True
    selected = range(start, min(stop, rows), step)
    if not selected:
        return False
    mask = np.zeros(rows, np.bool_)
    mask[start:stop:step] = True
    return pack(mask)


def and_bits(a: PartBits, b: PartBits) -> PartBits:
    """Rows in both; False when there is none."""
    if a is True:
        return b
    if b is True:
        return a
    if a is False or b is False:
        return False
    both = np.bitwise_and(a, b)
    return both if both.any() else False


def groups(keys: npt.NDArray[np.int64]) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """Each key that occurs, ascending, and where it does."""
    order = np.argsort(keys, kind="stable")
    for here in np.split(order, np.flatnonzero(np.diff(keys[order])) + 1):
        if len(here):
            yield int(keys[here[0]]), here


class RowBits:
    """The selected rows of all parts.

    Parameters
    ----------
    starts : int64 array ``(parts + 1,)``
        First row of every part, and the number of rows.
    parts : sequence
        Per part True (all rows), False (none), or its bits.
    """

    def __init__(self, starts: npt.NDArray[np.int64], parts: Sequence[PartBits]) -> None:
        self.starts = starts
        self.parts = tuple(parts)

    @cached_property
    def counts(self) -> npt.NDArray[np.int64]:
        """Selected rows per part, int64 ``(parts,)``."""
        lengths = np.diff(self.starts)
        return np.array(
            [n if b is True else 0 if b is False else count_bits(b) for b, n in zip(self.parts, lengths, strict=True)],
            np.int64,
        )

    @cached_property
    def _index(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Rows at which pieces of a part begin, and the selected rows before each; one more entry for the end."""
        pieces = [np.arange(a, b, _STRIDE) for a, b in zip(self.starts[:-1], self.starts[1:], strict=True)]
        edges = np.concatenate([*pieces, self.starts[-1:]]).astype(np.int64)
        return edges, self.rank(edges)

    def __len__(self) -> int:
        return int(self.counts.sum())

    @property
    def nbytes(self) -> int:
        """Memory of the bits and what goes with them."""
        return sum(136 if isinstance(b, bool) else 136 + b.nbytes for b in self.parts)

    def rank(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """How many selected rows come before each of `rows` (sorted store row numbers, the end included)."""
        before = np.zeros(len(self.starts), np.int64)
        np.cumsum(self.counts, out=before[1:])
        part = np.searchsorted(self.starts, rows, side="right") - 1
        ranks = before[np.minimum(part, len(self.parts))]
        bounds = np.searchsorted(rows, self.starts)
        for p, bits in enumerate(self.parts):
            inside = slice(int(bounds[p]), int(bounds[p + 1]))
            if bits is False or inside.start == inside.stop:
                continue
            local = rows[inside] - self.starts[p]
            ranks[inside] += local if bits is True else _rank_in_part(bits, local)
        return ranks

    def block_counts(self, block_rows: int) -> npt.NDArray[np.int64]:
        """Selected rows in each block of `block_rows` store rows, int64."""
        n = int(self.starts[-1])
        edges = np.minimum(np.arange(0, n + block_rows, block_rows, dtype=np.int64), n)
        return np.diff(self.rank(edges)) if n else np.zeros(0, np.int64)

    def chunk_counts(self, edges: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Selected rows between consecutive `edges` (store row numbers, sorted), int64."""
        return np.diff(self.rank(edges))

    def rows_between(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Selected store row numbers from `start` to `stop`, ascending, int64."""
        first, last = np.searchsorted(self.starts, (start, stop)).tolist()
        first = max(first - 1, 0)
        starts = self.starts[first : last + 1]
        return rows_of_runs(self.parts[first:last], starts, np.array([start]), np.array([max(start, stop)]))

    def rows_of_blocks(self, blocks: npt.NDArray[np.int64], block_rows: int) -> npt.NDArray[np.int64]:
        """Selected store row numbers of these blocks, block after block in the order given, int64."""
        low = np.minimum(blocks * block_rows, self.starts[-1])
        return rows_of_runs(self.parts, self.starts, low, np.minimum(low + block_rows, self.starts[-1]))

    def select(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Store row numbers of the selected rows number `start` to `stop`, ascending, int64."""
        edges, ranks = self._index
        if start >= stop:
            return np.zeros(0, np.int64)
        i = int(np.searchsorted(ranks, start, side="right")) - 1
        j = int(np.searchsorted(ranks, stop, side="left"))
        rows = self.rows_between(int(edges[i]), int(edges[j]))
        return rows[start - int(ranks[i]) : stop - int(ranks[i])]

    def at(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Store row numbers of the selected rows of these numbers, in any order, int64."""
        edges, ranks = self._index
        rows = np.empty(len(positions), np.int64)
        for i, here in groups(np.searchsorted(ranks, positions, side="right") - 1):
            rows[here] = self.rows_between(int(edges[i]), int(edges[i + 1]))[positions[here] - ranks[i]]
        return rows


def _rank_in_part(bits: Bits, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Set bits before each of `rows` (sorted, within the part)."""
    ranks = np.empty(len(rows), np.int64)
    done, i = 0, 0
    for first in range(0, len(bits), _PIECE // 8):
        piece = bits[first : first + _PIECE // 8]
        popcounts = np.zeros(len(piece) + 1, np.int64)
        np.cumsum(np.bitwise_count(piece), out=popcounts[1:], dtype=np.int64)
        j = int(np.searchsorted(rows, (first + len(piece)) * 8, side="left"))
        local = rows[i:j] - first * 8
        byte = local >> 3
        below: Any = (1 << (local & 7)) - 1
        ranks[i:j] = done + popcounts[byte] + np.bitwise_count(piece[byte] & below.astype(np.uint8))
        done, i = done + int(popcounts[-1]), j
    ranks[i:] = done
    return ranks
