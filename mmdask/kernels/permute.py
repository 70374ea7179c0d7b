"""Permutations that need no memory, and the shuffle of an array, both by splitmix64 and nothing else.

numpy may change the streams of its generators between versions (NEP 19); the order of batches may not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.kernels.hashing import GOLDEN, mix
from mmdask.kernels.jit import Kernel

__all__ = ["ROUNDS", "forward", "inverse", "shuffle"]

#: rounds of the Feistel network
ROUNDS = 6
#: of the domain, for sizes above 4: halves of one or two bits favour some places by a tenth
LEAST_BITS = 6
_U = np.uint64
Ints = npt.NDArray[np.int64] | npt.NDArray[np.int32]


def forward(
    positions: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64], keys: npt.NDArray[np.uint64]
) -> npt.NDArray[np.int64]:
    """Return the image of each position under a permutation of its own.

    The permutation of ``range(size)`` is a Feistel network over the least power of two that holds `size`, followed
    until it comes back into the range (cycle walking: less than one extra step in the mean). Six rounds with the
    splitmix64 finaliser as round function. O(1) memory for any size.

    Parameters
    ----------
    positions : numpy.ndarray
        int64 ``(n,)``; ``0 <= position < size``.
    sizes : numpy.ndarray
        int64 ``(n,)``, at least 1.
    keys : numpy.ndarray
        uint64 ``(n,)``: one permutation per key and size.

    Returns
    -------
    numpy.ndarray
        int64 ``(n,)``, a new array.

    Examples
    --------
    >>> n = 10
    >>> image = forward(np.arange(n), np.full(n, n), np.full(n, 7, "u8"))
    >>> sorted(image.tolist()) == list(range(n))
    True
    """
    out = np.empty(len(positions), np.int64)
    FEISTEL(positions, sizes, keys, out, False)
    return out


def inverse(
    images: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64], keys: npt.NDArray[np.uint64]
) -> npt.NDArray[np.int64]:
    """Return the positions that `forward` takes to `images`; shapes and types as there."""
    out = np.empty(len(images), np.int64)
    FEISTEL(images, sizes, keys, out, True)
    return out


def shuffle(array: Ints, key: int, start: int = 0, stop: int | None = None) -> None:
    """Shuffle an array in place: Fisher-Yates by the splitmix64 stream of `key`, all of it or some steps.

    Step i settles element i for good. So a shuffle can be done piece by piece, as elements are needed:
    ``shuffle(a, key, 0, 10)`` and then ``shuffle(a, key, 10)`` is ``shuffle(a, key)``.

    A number below m is the upper half of a 64-bit draw times m; no permutation of 2**20 elements is favoured by
    more than one part in 10**7.

    Parameters
    ----------
    array : numpy.ndarray
        int64 or int32 ``(n,)``, contiguous, fewer than 2**32 elements.
    key : int
        ``0 <= key < 2**64``.
    start, stop : int
        The steps; all by default.

    Examples
    --------
    >>> a = np.arange(5)
    >>> shuffle(a, 7)
    >>> sorted(a.tolist())
    [0, 1, 2, 3, 4]
    """
    FISHER_YATES(array, np.array([key], np.uint64), start, len(array) if stop is None else stop)


def _feistel_twin(
    x: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
    keys: npt.NDArray[np.uint64],
    out: npt.NDArray[np.int64],
    backward: bool,
) -> None:
    top = sizes.astype(np.uint64) - _U(1)
    for shift in (1, 2, 4, 8, 16, 32):
        top |= top >> _U(shift)
    top[sizes > 4] |= _U(2**LEAST_BITS - 1)
    bits = np.bitwise_count(top).astype(np.uint64)  # of the power of two that holds the size
    low = bits >> _U(1)
    low_mask = (_U(1) << low) - _U(1)
    high_mask = (_U(1) << (bits - low)) - _U(1)
    value = x.astype(np.uint64)
    limit = sizes.astype(np.uint64)
    todo: Any = slice(None)
    while True:
        value[todo] = _rounds(value[todo], keys[todo], low[todo], low_mask[todo], high_mask[todo], backward)
        outside = np.flatnonzero(value >= limit)
        if not len(outside):
            break
        todo = outside
    out[:] = value.astype(np.int64)


def _rounds(
    value: npt.NDArray[np.uint64],
    key: npt.NDArray[np.uint64],
    low: npt.NDArray[np.uint64],
    low_mask: npt.NDArray[np.uint64],
    high_mask: npt.NDArray[np.uint64],
    backward: bool,
) -> npt.NDArray[np.uint64]:
    a, b = value >> low, value & low_mask
    for r in range(ROUNDS - 1, -1, -1) if backward else range(ROUNDS):
        round_key = mix(key + _U(((r + 1) * GOLDEN) & 0xFFFFFFFFFFFFFFFF))
        # The halves differ in width when the number of bits is odd, so they take turns instead of changing places.
        if r % 2 == 0:
            a = a ^ (mix(b ^ round_key) & high_mask)
        else:
            b = b ^ (mix(a ^ round_key) & low_mask)
    return (a << low) | b


def _fisher_yates_twin(array: npt.NDArray[np.int64], key: npt.NDArray[np.uint64], start: int, stop: int) -> None:
    steps = np.arange(start, stop, dtype=np.uint64)
    draws = mix(key + _U(GOLDEN) * (steps + _U(1)))
    # The upper 64 bits of draw * m, for m < 2**32.
    m = _U(len(array)) - steps
    upper = (draws >> _U(32)) * m + (((draws & _U(0xFFFFFFFF)) * m) >> _U(32))
    partners = ((upper >> _U(32)) + steps).tolist()
    for i, j in enumerate(partners, start):
        array[i], array[j] = array[j], array[i]


FEISTEL = Kernel(_feistel_twin, "loops.feistel")
FISHER_YATES = Kernel(_fisher_yates_twin, "loops.fisher_yates")
