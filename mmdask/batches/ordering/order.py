"""The order of rows in an epoch: functions of integers and arrays, without files. Version 1, frozen by golden vectors.

The rows of a store are cut into *blocks* of consecutive rows. The K blocks are cut into k *strata* of consecutive
blocks, whose sizes differ by at most one, and each stratum is permuted on its own. *Window* w takes the w-th block of
every stratum, so that it holds blocks from all over the store, evenly: with data that come sorted (one process after
the other), batches then vary as those of a true shuffle do. The rows of a window are shuffled by Fisher-Yates, and the
windows follow one another.

When K is no multiple of k, the strata that are one block longer would leave a last window of few blocks, badly mixed;
those blocks go one each to the first windows instead. The numbers are chosen such that no window gets two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmdask.kernels import permute
from mmdask.kernels.hashing import GOLDEN, hash_key, mix
from mmdask.kernels.once import once

__all__ = [
    "DEFAULT_WINDOW",
    "GOOD_BLOCKS",
    "LEAST_BLOCKS",
    "MOST_ROWS",
    "ORDER_VERSION",
    "Grain",
    "Windows",
    "epoch_key",
    "exact_ranks",
    "grain",
    "window_key",
]

ORDER_VERSION = 1
#: bytes of a window unless the caller says otherwise, and its rows at most then
DEFAULT_WINDOW = 256 * 2**20
MOST_ROWS = 2**20
#: blocks of a window at least: with fewer, batches of sorted data vary visibly more than they should
LEAST_BLOCKS = 256
#: and if blocks of an eighth of the store's suffice for that: then one boundary between classes, wherever it is, makes
#: the counts of a class in batches of 4096 rows vary by a few per cent more
GOOD_BLOCKS = 512

Int64s = npt.NDArray[np.int64]
_BULK = 2**18  # blocks looked at together, so that memory stays small


def epoch_key(seed: int, epoch: int, purpose: str, *more: int) -> int:
    """The 64-bit key of one use of randomness: a hash, so that no seed and epoch meet another pair's."""
    return hash_key("mmdask.batches", ORDER_VERSION, seed, epoch, purpose, *more)


@dataclass(frozen=True)
class Grain:
    """How finely an order mixes: rows of a block, and blocks of a window at most."""

    block: int
    blocks: int


def grain(
    n_rows: int,
    row_nbytes: float,
    block_rows: int,
    *,
    window: int | None = None,
    block: int | None = None,
    least: int | None = None,
) -> Grain:
    """Choose the block and the window for a store. They do not depend on the fields that are asked for.

    Parameters
    ----------
    n_rows : int
        Rows of the store.
    row_nbytes : float
        Mean bytes of a row over all fields; 8 more are counted for its number.
    block_rows : int
        The store's own block.
    window : int, optional
        Bytes of a window; 256 MiB by default, and then 2**20 rows at most.
    block : int, optional
        Rows of a block; by default `block_rows`, halved at most three times while a window holds fewer than 512.
    least : int, optional
        Blocks of a window at least; 256 by default.

    Returns
    -------
    Grain
        Where the bytes do not suffice for the least window, it grows.

    Examples
    --------
    >>> grain(10**9, 256.0, 64)
    Grain(block=64, blocks=15887)
    """
    rows = int((DEFAULT_WINDOW if window is None else window) // (row_nbytes + 8))
    if window is None:
        rows = min(rows, MOST_ROWS)
    rows = max(rows, 1)
    if block is None:
        block = block_rows
        while rows < n_rows and rows // block < GOOD_BLOCKS and block > max(1, block_rows // 8):
            block //= 2
    return Grain(block, max(rows // block, LEAST_BLOCKS if least is None else least))


@dataclass(frozen=True)
class Windows:
    """The blocks of each window.

    Parameters
    ----------
    n_blocks : int
        K, the blocks that hold any row.
    n_windows : int
        Between 1 and K, or 0 if there is no block.

    Examples
    --------
    >>> w = Windows.of(1000, blocks=300)
    >>> w.n_windows, w.n_strata
    (3, 333)
    >>> found = np.concatenate([w.blocks(7, i) for i in range(3)])
    >>> (np.sort(found) == np.arange(1000)).all()
    np.True_
    """

    n_blocks: int
    n_windows: int

    @classmethod
    def of(cls, n_blocks: int, blocks: int) -> Windows:
        """Windows of at most `blocks` blocks, or of fewer than twice 256 where that is more.

        Where fewer than 256 are asked for, because they are large, windows have so many, and fewer than twice that.
        """
        least = min(LEAST_BLOCKS, blocks)
        return cls(n_blocks, min(n_blocks, max(1, min(math.ceil(n_blocks / blocks), n_blocks // least))))

    @once
    def n_strata(self) -> int:
        """k: the strata, and the blocks of a window, or one less."""
        return self.n_blocks // self.n_windows if self.n_windows else 0

    @once
    def n_spare(self) -> int:
        """Blocks beyond k for every window: the first so many windows get one each."""
        return self.n_blocks - self.n_strata * self.n_windows

    def blocks(self, key: int, window: int) -> Int64s:
        """Numbers of the blocks of a window, int64, ascending."""
        strata = np.arange(self.n_strata, dtype=np.int64)
        places = np.full(self.n_strata, window, np.int64)
        if window < self.n_spare:
            # The spare blocks are numbered through the strata; this is the first stratum with more than `window`.
            stratum = ((window + 1) * self.n_strata - 1) // self.n_spare
            strata = np.append(strata, stratum)
            places = np.append(places, self.n_windows + window - self._spare_before(stratum))
        begin, size = self._stratum(strata)
        return np.sort(begin + permute.forward(places, size, _stratum_keys(key, strata)))

    def window_of(self, key: int, blocks: Int64s) -> Int64s:
        """The window of each block, int64: the inverse of `blocks`."""
        strata = ((blocks + 1) * self.n_strata - 1) // self.n_blocks
        begin, size = self._stratum(strata)
        place = permute.inverse(blocks - begin, size, _stratum_keys(key, strata))
        spare = place - self.n_windows
        return np.where(spare < 0, place, strata * self.n_spare // self.n_strata + spare)

    def starts(self, key: int, counts: Int64s | None, block: int, n_rows: int) -> Int64s:
        """Position in the epoch at which each window begins, and the number of positions: int64 ``(windows + 1,)``.

        Parameters
        ----------
        key : int
            Of the epoch.
        counts : numpy.ndarray or None
            Rows of each block, int64 ``(K,)``. None when all rows are there; then only the window of the last block,
            which may be short, has to be found, in no time.
        block, n_rows : int
            Rows of a full block, rows of all blocks.
        """
        rows = np.full(self.n_windows, self.n_strata, np.int64)
        rows[: self.n_spare] += 1
        if counts is None:
            rows *= block
            if self.n_blocks:
                last = self.window_of(key, np.array([self.n_blocks - 1], np.int64))
                rows[last] -= self.n_blocks * block - n_rows
        else:
            rows[:] = 0
            for i in range(0, self.n_blocks, _BULK):
                piece = np.arange(i, min(i + _BULK, self.n_blocks), dtype=np.int64)
                np.add.at(rows, self.window_of(key, piece), counts[piece])
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(rows)])

    def _spare_before(self, stratum: int) -> int:
        return stratum * self.n_spare // self.n_strata

    def _stratum(self, strata: Int64s) -> tuple[Int64s, Int64s]:
        begin = strata * self.n_blocks // self.n_strata
        return begin, (strata + 1) * self.n_blocks // self.n_strata - begin


def _stratum_keys(key: int, strata: Int64s) -> npt.NDArray[np.uint64]:
    return mix((strata.astype(np.uint64) + np.uint64(1)) * np.uint64(GOLDEN) + np.uint64(key))


def window_key(seed: int, epoch: int, window: int) -> int:
    """The key by which `permute.shuffle` shuffles the rows of a window."""
    return epoch_key(seed, epoch, "window", window)


def exact_ranks(n: int, seed: int, epoch: int, start: int, stop: int) -> Int64s:
    """Which of n rows come at positions `start` to `stop` of a permutation of all of them, int64."""
    key = np.full(stop - start, epoch_key(seed, epoch, "exact"), np.uint64)
    return permute.forward(np.arange(start, stop, dtype=np.int64), np.full(stop - start, n, np.int64), key)
