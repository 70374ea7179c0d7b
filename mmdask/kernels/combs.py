"""Combs laid on lines of weights: which row each tooth falls on, as `mmdask.rows.draws.weighing` says."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mmdask.kernels.hashing import mix
from mmdask.kernels.jit import Kernel

__all__ = ["blocks_of", "ends", "rows_of", "streams", "turns"]

Int64s = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
_U = np.uint64
#: 2**64 divided by the square root of 2, made odd: steps of the numbers of a stream are not steps of rows
SILVER = 0xB504F333F9DE6485
#: so many streams are looked at for each draw; of more, all draws are sorted
_MERGED = 8


def ends(weights: Floats, phase: Floats, length: Floats, before: Int64s, end: Int64s) -> Int64s:
    """How many teeth there are up to each row of some blocks, int64 as `weights`.

    Parameters
    ----------
    weights : numpy.ndarray
        float64 ``(blocks, rows)``, C-contiguous; each block has some.
    phase, length : numpy.ndarray
        float64 ``(blocks,)``: how far the next tooth has come where a block begins, and the block's length.
    before, end : numpy.ndarray
        int64 ``(blocks,)``: teeth before a block, without one that falls on its beginning, and up to its end.

    Examples
    --------
    >>> one = np.ones(1)
    >>> ends(np.array([[1.0, 2.0, 0.0, 1.0]]), one / 2, 4 * one, np.array([0]), np.array([4])).tolist()
    [[1, 3, 3, 4]]
    """
    out = np.empty(weights.shape, np.int64)
    ENDS(weights, phase, length, before, end, out)
    return out


def blocks_of(places: Floats, shift: float, least: Int64s, numbers: Int64s) -> tuple[Int64s, Int64s]:
    """The block that each tooth falls on, and its number there; int64 ``(n,)`` each.

    Parameters
    ----------
    places : numpy.ndarray
        float64 ``(blocks + 1,)``: where each block begins, and the end.
    shift : float
        Where the comb begins.
    least : numpy.ndarray
        int64: a block that does not lie behind the one of tooth ``64 * i``, ascending; one entry more than there are
        teeth, divided by 64.
    numbers : numpy.ndarray
        int64 ``(n,)``: the teeth, in any order.
    """
    block, rank = np.empty(len(numbers), np.int64), np.empty(len(numbers), np.int64)
    BLOCKS_OF(places, shift, least, numbers, block, rank)
    return block, rank


def rows_of(upto: npt.NDArray[np.uint16], block: Int64s, rank: Int64s) -> Int64s:
    """The row of its block that each tooth falls on: how many rows have no more teeth up to them than its number.

    Parameters
    ----------
    upto : numpy.ndarray
        uint16 ``(blocks, rows)``: the teeth up to each row.
    block, rank : numpy.ndarray
        From `blocks_of`.

    Examples
    --------
    >>> rows_of(np.array([[0, 2, 3]], np.uint16), np.array([0, 0]), np.array([1, 2])).tolist()
    [1, 2]
    """
    out = np.empty(len(block), np.int64)
    ROWS_OF(upto, block, rank, out)
    return out


def streams(rows: Int64s, positions: Int64s) -> Int64s:
    """Numbers of random streams of rows at positions, int64: ``mix(row * SILVER + mix(position + 1))``."""
    out = np.empty(len(rows), np.int64)
    STREAMS(rows, positions, out)
    return out


def turns(shares: Floats, low: Int64s, high: Int64s) -> Int64s:
    """The streams of the draws `low` to `high` of each, in the order in which they are due; int64.

    Draw j of stream c of k is due at ``(2 k j + 2 c + 1) / share``; of those due at one time the least stream is first.

    Parameters
    ----------
    shares : numpy.ndarray
        float64 ``(k,)``.
    low, high : numpy.ndarray
        int64 ``(k,)``.

    Examples
    --------
    >>> turns(np.array([3.0, 1.0]), np.array([0, 0]), np.array([3, 1])).tolist()
    [0, 0, 0, 1]
    """
    if len(shares) > _MERGED:
        return _sorted_turns(shares, low, high)
    out = np.empty(int((high - low).sum()), np.int64)
    TURNS(shares, low, high, out)
    return out


# The twins ------------------------------------------------------------------------------------------------------------


def _ends_twin(weights: Floats, phase: Floats, length: Floats, before: Int64s, end: Int64s, out: Int64s) -> None:
    upto = np.cumsum(weights, axis=1)
    total = upto[:, -1:]
    teeth = np.floor(phase[:, None] + upto / total * length[:, None]).astype(np.int64)
    # The last row with a weight takes all that is left, whatever the sums above were rounded to.
    last = (end - before)[:, None]
    out[:] = np.where(upto >= total, last, np.minimum(teeth, last)) + before[:, None]


def _blocks_of_twin(places: Floats, shift: float, least: Int64s, numbers: Int64s, block: Int64s, rank: Int64s) -> None:
    def begin(blocks: Int64s) -> Int64s:
        place = places[blocks]
        whole = place.astype(np.int64)
        found: Int64s = whole + (place - whole + shift >= 1)
        return found

    # Up to rounding; what counts is how many teeth there are before a block.
    found = np.clip(np.searchsorted(places, numbers + (1 - shift)) - 1, 0, max(len(places) - 2, 0))
    while (late := begin(found) > numbers).any():
        found -= late
    while (early := begin(found + 1) <= numbers).any():
        found += early
    block[:] = found
    rank[:] = numbers - begin(found)


def _rows_of_twin(upto: npt.NDArray[np.uint16], block: Int64s, rank: Int64s, out: Int64s) -> None:
    for i in range(0, len(out), 1 << 14):
        some = slice(i, i + (1 << 14))
        out[some] = (upto[block[some]] <= rank[some, None]).sum(axis=1)


def _sorted_turns(shares: Floats, low: Int64s, high: Int64s) -> Int64s:
    counts = high - low
    stream = np.repeat(np.arange(len(low)), counts)
    draw = np.arange(len(stream)) - np.repeat(np.cumsum(counts) - counts - low, counts)
    time = (2 * len(shares) * draw + 2 * stream + 1) / shares[stream]
    order = np.argsort(time, kind="stable")  # streams ascend, so that they do where times are equal
    found: Int64s = stream[order]
    return found


def _turns_twin(shares: Floats, low: Int64s, high: Int64s, out: Int64s) -> None:
    out[:] = _sorted_turns(shares, low, high)


def _streams_twin(rows: Int64s, positions: Int64s, out: Int64s) -> None:
    with np.errstate(over="ignore"):
        out[:] = mix(rows.astype(_U) * _U(SILVER) + mix(positions.astype(_U) + _U(1))).view(np.int64)


ENDS = Kernel(_ends_twin, "loops_combs.ends")
BLOCKS_OF = Kernel(_blocks_of_twin, "loops_combs.blocks_of")
ROWS_OF = Kernel(_rows_of_twin, "loops_combs.rows_of")
TURNS = Kernel(_turns_twin, "loops_combs.turns")
STREAMS = Kernel(_streams_twin, "loops_combs.streams")
