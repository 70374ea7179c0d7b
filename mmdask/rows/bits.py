"""Selected rows of a store as packed bits per part, and the questions that are asked of them.

Bits are in little bit order: row r of a part is bit ``r % 8`` of byte ``r // 8``; bits beyond the rows are zero.
A part of which all or no rows are selected is just True or False.

A cut that can be missing has two such answers per part, as `Tri`: the rows for which it is true, and those for which
it is false; it is missing in the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mmdask.kernels.bits import rows_of_runs
from mmdask.kernels.once import once
from mmdask.store.grains import GRAIN

__all__ = [
    "GRAIN",
    "PartBits",
    "RowBits",
    "Tri",
    "and_bits",
    "bits_of_range",
    "count_bits",
    "groups",
    "not_bits",
    "or_bits",
    "pack",
    "plain",
    "unpack",
]

Bits = npt.NDArray[np.uint8]
#: the selected rows of one part
PartBits = bool | Bits

#: rows whose bits are looked at together; temporaries stay in cache
_PIECE = 1 << 21


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
    whole = len(bits) & ~7  # 64 at a time
    n = int(np.bitwise_count(bits[:whole].view(np.uint64)).sum(dtype=np.int64))
    return n + sum(map(int.bit_count, bits[whole:].tolist()))


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


def or_bits(a: PartBits, b: PartBits, rows: int) -> PartBits:
    """Rows in one of both; True when these are all."""
    if a is False:
        return b
    if b is False:
        return a
    if a is True or b is True:
        return True
    either = np.bitwise_or(a, b)
    return True if count_bits(either) == rows else either


def not_bits(bits: PartBits, rows: int) -> PartBits:
    """The other rows."""
    if isinstance(bits, bool):
        return not bits
    others = np.bitwise_not(bits)
    if rows % 8:
        others[-1] &= (1 << rows % 8) - 1
    return others


def plain(bits: PartBits, rows: int) -> PartBits:
    """True or False where all or none of the rows are selected, else the bits."""
    if isinstance(bits, bool):
        return bits
    n = count_bits(bits)
    return n > 0 if n in (0, rows) else bits


class Tri(NamedTuple):
    """The rows of a part for which a cut is true, and those for which it is false; None where that was not asked."""

    true: PartBits | None
    false: PartBits | None


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
        Per part True (all rows), False (none), its bits, or None for bits that `load` gives when they are needed.
    grains : integer array, optional
        How many rows are selected of each grain of `GRAIN` rows, part after part; found from the bits by default.
    counts : int64 array ``(parts,)``, optional
        How many rows are selected of each part; found from the bits by default.
    load : callable, optional
        From the number of a part to its bits.
    """

    def __init__(
        self,
        starts: npt.NDArray[np.int64],
        parts: Sequence[PartBits | None],
        *,
        grains: npt.NDArray[Any] | None = None,
        counts: npt.NDArray[np.int64] | None = None,
        load: Callable[[int], PartBits] | None = None,
    ) -> None:
        self.starts = starts
        self._parts = list(parts)
        self._load = load
        self._grains = grains
        self._n_left = 0 if load is None else sum(bits is None for bits in self._parts)
        if counts is not None:
            self.__dict__["counts"] = counts

    def part(self, number: int) -> PartBits:
        """The selected rows of one part."""
        bits = self._parts[number]
        if bits is None:
            assert self._load is not None
            bits = self._parts[number] = self._load(number)
            self._n_left -= 1
        return bits

    @once
    def parts(self) -> tuple[PartBits, ...]:
        """Per part True (all rows), False (none), or its bits."""
        return tuple([self.part(p) for p in range(len(self._parts))])

    def _between(self, low: npt.NDArray[np.int64], high: npt.NDArray[np.int64]) -> Sequence[PartBits]:
        """All parts, those that hold none of some runs of rows without their bits if these are not at hand."""
        if self._n_left <= 0:
            return self.parts
        edges = np.zeros(len(self._parts) + 1, np.int64)
        there = low < high
        np.add.at(edges, np.searchsorted(self.starts, low[there], side="right") - 1, 1)
        np.add.at(edges, np.searchsorted(self.starts, high[there], side="left"), -1)
        touched = np.cumsum(edges)[:-1] > 0
        return [
            self.part(p) if t else b is not None and b
            for p, (t, b) in enumerate(zip(touched, self._parts, strict=True))
        ]

    @once
    def counts(self) -> npt.NDArray[np.int64]:
        """Selected rows per part, int64 ``(parts,)``."""
        if "grains" in self.__dict__:
            sums, first = self._grain_sums
            return np.diff(sums[first])
        lengths = np.diff(self.starts)
        return np.array(
            [n if b is True else 0 if b is False else count_bits(b) for b, n in zip(self.parts, lengths, strict=True)],
            np.int64,
        )

    @once
    def grains(self) -> npt.NDArray[np.uint32]:
        """Selected rows of each grain, part after part, uint32."""
        if self._grains is not None:
            return self._grains.astype(np.uint32, copy=False)
        rows = np.diff(self.starts).tolist()
        found = [_grains_of(self.part(p), n) for p, n in enumerate(rows)]
        return np.concatenate([np.zeros(0, np.uint32), *found])

    @once
    def _grain_sums(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Selected rows before each grain, with one more entry for the end; and the first grain of each part."""
        sums = np.zeros(len(self.grains) + 1, np.int64)
        np.cumsum(self.grains, out=sums[1:])
        return sums, first_grains(self.starts)

    @once
    def _index(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Rows at which pieces of a part begin, and the selected rows before each; one more entry for the end."""
        pieces = [np.arange(a, b, GRAIN) for a, b in zip(self.starts[:-1], self.starts[1:], strict=True)]
        edges = np.concatenate([*pieces, self.starts[-1:]]).astype(np.int64)
        return edges, self.rank(edges)

    def __len__(self) -> int:
        return int(self.counts.sum())

    @property
    def nbytes(self) -> int:
        """Memory of the bits and what goes with them, also of those that are not loaded yet."""
        if self._load is None:
            return sum(136 if isinstance(b, bool) else 136 + b.nbytes for b in self.parts)
        rows = np.diff(self.starts)
        some = (self.counts > 0) & (self.counts < rows)
        return 136 * len(rows) + int((rows[some] // 8 + 1).sum())

    def rank(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """How many selected rows come before each of `rows` (sorted store row numbers, the end included)."""
        before = np.zeros(len(self.starts), np.int64)
        np.cumsum(self.counts, out=before[1:])
        part = np.searchsorted(self.starts, rows, side="right") - 1
        ranks = before[part]
        local = rows - self.starts[part]
        inside = local > 0
        if self._grains is not None:
            whole = inside & (local % GRAIN == 0)
            sums, first = self._grain_sums
            ranks[whole] = sums[first[part[whole]] + local[whole] // GRAIN]
            inside &= ~whole
        here = np.flatnonzero(inside)
        bounds = np.flatnonzero(np.diff(part[here], prepend=-1, append=-1))
        for a, b in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            some = here[a:b]
            bits = self.part(int(part[some[0]]))
            if bits is not False:
                ranks[some] += local[some] if bits is True else _rank_in_part(bits, local[some])
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
        parts = [self.part(p) for p in range(first, min(last, len(self._parts)))] if start < stop else []
        return rows_of_runs(parts, starts, np.array([start]), np.array([max(start, stop)]))

    def rows_of_blocks(self, blocks: npt.NDArray[np.int64], block_rows: int) -> npt.NDArray[np.int64]:
        """Selected store row numbers of these blocks, block after block in the order given, int64."""
        low = np.minimum(blocks * block_rows, self.starts[-1])
        high = np.minimum(low + block_rows, self.starts[-1])
        return rows_of_runs(self._between(low, high), self.starts, low, high)

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


def first_grains(starts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The number of the first grain of each part, and the number of grains: int64 ``(parts + 1,)``."""
    first = np.zeros(len(starts), np.int64)
    np.cumsum((starts[1:] - starts[:-1] + GRAIN - 1) // GRAIN, out=first[1:])
    return first


def _grains_of(bits: PartBits, rows: int) -> npt.NDArray[np.uint32]:
    """Selected rows of each grain of a part."""
    edges = np.arange(0, rows, GRAIN)
    if isinstance(bits, bool):
        lengths = np.minimum(rows - edges, GRAIN) * bits
        return lengths.astype(np.uint32)
    found = np.empty(len(edges), np.uint32)
    whole = rows // GRAIN
    words = bits[: whole * GRAIN // 8].view(np.uint64).reshape(whole, GRAIN // 64)
    np.bitwise_count(words).sum(axis=1, dtype=np.uint32, out=found[:whole])
    if whole < len(edges):
        found[whole] = count_bits(bits[whole * GRAIN // 8 :])
    return found


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
