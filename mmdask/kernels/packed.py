"""Booleans as packed bits: made by comparisons, and reduced for each row, an eighth of the bytes at every step.

Bits are in little bit order: boolean i is bit ``i % 8`` of byte ``i // 8``; bits behind the last are zero. Each
function has two forms that agree bit for bit: see `Kernel`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.kernels.jit import Kernel

__all__ = ["SIGNS", "compare", "readonly", "segment_all", "segment_any", "segment_count"]

Array = npt.NDArray[Any]
Bits = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int64]

#: the comparisons, by number
SIGNS = ("==", "!=", "<", "<=", ">", ">=")
_UFUNCS = (np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal)


def compare(sign: str, values: Array, threshold: Array) -> Bits:
    """Bits of a comparison of numbers with one number.

    Parameters
    ----------
    sign : str
        One of `SIGNS`.
    values : numpy.ndarray
        ``(n,)``, integers of 8 to 64 bits, float32 or float64; read once.
    threshold : numpy.ndarray
        The number, ``(1,)`` of the same dtype.

    Returns
    -------
    numpy.ndarray
        uint8 ``(ceil(n / 8),)``, new.

    Examples
    --------
    >>> compare(">", np.float32([1, 2, np.nan, 3]), np.float32([1.5]))
    array([10], dtype=uint8)
    """
    out = np.empty(-(-len(values) // 8), np.uint8)
    _COMPARE(readonly(values), SIGNS.index(sign), readonly(threshold), out)
    return out


def segment_any(bits: Bits, offsets: Offsets) -> Bits:
    """Whether an item of each row is true, as bits; false for an empty row.

    Parameters
    ----------
    bits : numpy.ndarray
        Of the items, uint8 ``(ceil(items / 8),)``.
    offsets : numpy.ndarray
        int64 ``(rows + 1,)``, ascending from 0 or more to the number of items at most.

    Returns
    -------
    numpy.ndarray
        uint8 ``(ceil(rows / 8),)``, new.

    Examples
    --------
    >>> segment_any(np.array([0b0100], np.uint8), np.array([0, 2, 2, 4]))
    array([4], dtype=uint8)
    """
    return _any(bits, offsets, False)


def segment_all(bits: Bits, offsets: Offsets) -> Bits:
    """Whether every item of each row is true, as bits; true for an empty row. Otherwise as `segment_any`."""
    return _any(bits, offsets, True)


def _any(bits: Bits, offsets: Offsets, false: bool) -> Bits:
    out = np.empty((len(offsets) + 6) // 8, np.uint8)
    _SEGMENT_ANY(readonly(bits), readonly(offsets), false, out)
    return out


def segment_count(bits: Bits, offsets: Offsets) -> npt.NDArray[np.int64]:
    """How many items of each row are true, int64 ``(rows,)``, new. Otherwise as `segment_any`."""
    out = np.empty(len(offsets) - 1, np.int64)
    _SEGMENT_COUNT(readonly(bits), readonly(offsets), out)
    return out


def readonly(values: Array) -> Array:
    """The same values in the layout that is compiled: contiguous, read-only."""
    flags = values.flags
    if flags.c_contiguous and not flags.writeable:
        return values
    view = np.ascontiguousarray(values).view()
    view.flags.writeable = False
    return view


def _compare_twin(values: Array, sign: int, threshold: Array, out: Bits) -> None:
    out[:] = np.packbits(_UFUNCS[sign](values, threshold[0]), bitorder="little")


def _true_before(bits: Bits, offsets: Offsets) -> Offsets:
    """How many items before each offset are true."""
    whole, more = offsets >> 3, (offsets & 7).astype(np.uint8)
    # a total for each byte and not for each item, of which there may be very many
    total = np.zeros(len(bits) + 1, np.int64)
    np.cumsum(np.bitwise_count(bits), out=total[1:])
    last = np.append(bits, np.uint8(0)).take(whole)
    return total.take(whole) + np.bitwise_count(last & ((np.uint8(1) << more) - np.uint8(1)))


def _segment_any_twin(bits: Bits, offsets: Offsets, false: bool, out: Bits) -> None:
    """Whether any item is true, or with `false` whether none is false."""
    true = np.diff(_true_before(bits, offsets))
    out[:] = np.packbits(true == np.diff(offsets) if false else true > 0, bitorder="little")


def _segment_count_twin(bits: Bits, offsets: Offsets, out: Offsets) -> None:
    out[:] = np.diff(_true_before(bits, offsets))


_COMPARE = Kernel(_compare_twin, "loops_packed.compare")
_SEGMENT_ANY = Kernel(_segment_any_twin, "loops_packed.segment_any")
_SEGMENT_COUNT = Kernel(_segment_count_twin, "loops_packed.segment_count")
