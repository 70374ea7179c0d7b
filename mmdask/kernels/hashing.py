"""Hashes: the splitmix64 finaliser for numbers in bulk, and 64-bit keys of several parts.

The constants are those of Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
What is here decides the order of batches for ever: it may not change.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import xxhash

__all__ = ["GOLDEN", "hash_key", "mix", "mix_int"]

#: the step of a splitmix64 stream: 2**64 divided by the golden ratio, odd
GOLDEN = 0x9E3779B97F4A7C15
MULTIPLIER_1 = 0xBF58476D1CE4E5B9
MULTIPLIER_2 = 0x94D049BB133111EB
_MASK = 0xFFFFFFFFFFFFFFFF


def mix_int(x: int) -> int:
    """Return the splitmix64 finaliser of one number, modulo 2**64.

    Examples
    --------
    >>> hex(mix_int(GOLDEN))
    '0xe220a8397b1dcdaf'
    """
    x &= _MASK
    x = ((x ^ (x >> 30)) * MULTIPLIER_1) & _MASK
    x = ((x ^ (x >> 27)) * MULTIPLIER_2) & _MASK
    return x ^ (x >> 31)


def mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return the splitmix64 finaliser of every number, a bijection of 64-bit numbers.

    Parameters
    ----------
    x : numpy.ndarray
        uint64, any shape; at least one axis.

    Returns
    -------
    numpy.ndarray
        uint64, the same shape, a new array.
    """
    y = x >> np.uint64(30)
    y ^= x
    y *= np.uint64(MULTIPLIER_1)
    y ^= y >> np.uint64(27)
    y *= np.uint64(MULTIPLIER_2)
    y ^= y >> np.uint64(31)
    return y


def hash_key(*parts: int | str | bytes) -> int:
    """Return a 64-bit key of several parts: the same in every process, on every machine, in every version.

    Every part is written with its type and its length, so that ``("ab", "c")`` and ``("a", "bc")``, or ``1`` and
    ``"1"``, give different keys.

    Parameters
    ----------
    *parts : int, str or bytes
        Integers of any size and sign.

    Returns
    -------
    int
        ``0 <= key < 2**64``.

    Examples
    --------
    >>> hash_key(7, 1, "blocks") == hash_key(8, 0, "blocks")
    False
    """
    text = bytearray()
    for part in parts:
        if isinstance(part, str):
            tag, data = b"s", part.encode()
        elif isinstance(part, bytes):
            tag, data = b"b", part
        else:
            n = int(part)
            tag, data = b"i", n.to_bytes(n.bit_length() // 8 + 1, "little", signed=True)
        text += tag + len(data).to_bytes(8, "little") + data
    return xxhash.xxh3_64_intdigest(bytes(text))
