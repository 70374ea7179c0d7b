"""Random numbers of rows: each row of a batch has a stream of its own, in whatever batch and process it is.

Number d of row r is ``mix(mix(key + (r + 1) G) + mix(key + (d + 1) G'))``, with the splitmix64 finaliser `mix`, its
increment G and another odd G', and a key that is a hash of seed, epoch and purpose. It depends on these five and on
nothing else, needs no state, and is frozen by golden vectors.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.batches.ordering import order
from mmdask.errors import OptionError
from mmdask.kernels import combs
from mmdask.kernels.hashing import GOLDEN, mix

__all__ = ["RowRng", "below", "streams_of"]

_U = np.uint64
Size = int | tuple[int, ...]


def streams_of(rows: npt.NDArray[np.int64], positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Numbers of streams for rows that come several times, int64: another one each time that a row comes."""
    return combs.streams(rows, positions)


class RowRng:
    """Random numbers for the rows of a batch, of every row from a stream of its own. Made by `Batch.row_rng`.

    The streams of a row depend on the loader's seed, the epoch and the purpose alone: they are the same in every
    process, with any batch size, number of ranks or workers, and after resuming. Every call goes on in all streams.

    Parameters
    ----------
    key : int
        ``0 <= key < 2**64``: a hash of all that the streams depend on.
    rows : numpy.ndarray
        int64 ``(n,)``: the numbers of the rows. Equal rows have equal streams.

    Examples
    --------
    >>> rng = RowRng(7, np.array([3, 5]))
    >>> some = rng.random(2)
    >>> some.shape, rng.integers(10).shape
    ((2, 2), (2,))
    >>> bool((RowRng(7, np.array([5, 4])).random(2)[0] == some[1]).all())
    True
    """

    def __init__(self, key: int, rows: npt.NDArray[np.int64]) -> None:
        self._key = _U(key)
        with np.errstate(over="ignore"):
            self._rows = mix((np.asarray(rows).astype(_U) + _U(1)) * _U(GOLDEN) + self._key)
        self._drawn = 0

    @classmethod
    def of(cls, seed: int, epoch: int, purpose: str, rows: npt.NDArray[np.int64]) -> RowRng:
        """The streams of rows for one purpose in an epoch."""
        return cls(order.epoch_key(seed, epoch, f"row_rng {purpose}"), rows)

    def __len__(self) -> int:
        """Rows."""
        return len(self._rows)

    def bits(self, size: Size = ()) -> npt.NDArray[np.uint64]:
        """Random 64-bit numbers, uint64 ``(rows, *size)``: what all other numbers are made of, one of each."""
        shape = _shape(size)
        n = math.prod(shape)
        with np.errstate(over="ignore"):
            numbers = np.arange(self._drawn + 1, self._drawn + 1 + n, dtype=_U)
            steps = mix(numbers * _U(combs.SILVER) + self._key)
            drawn = mix(self._rows[:, None] + steps)
        self._drawn += n
        return drawn.reshape(len(self._rows), *shape)

    def random(self, size: Size = ()) -> npt.NDArray[np.float64]:
        """Numbers in [0, 1), multiples of 2**-53, float64 ``(rows, *size)``.

        Examples
        --------
        >>> x = RowRng(7, np.arange(1000)).random((2, 3))
        >>> x.shape, bool(abs(x.mean() - 0.5) < 0.01)
        ((1000, 2, 3), True)
        """
        return (self.bits(size) >> _U(11)).astype(np.float64) * 2.0**-53

    def integers(self, low: int, high: int | None = None, size: Size = ()) -> npt.NDArray[np.int64]:
        """Integers from `low` to below `high`, or from 0 to below `low`; int64 ``(rows, *size)``.

        Each is the upper half of a 64-bit number times the number of values, in 128 bits: no value is favoured over
        another by more than ``(high - low) / 2**64`` of its probability.

        Raises
        ------
        OptionError
            When there are no such integers.

        Examples
        --------
        >>> set(RowRng(7, np.arange(100)).integers(3).tolist())
        {0, 1, 2}
        """
        first, end = (0, _integer("low", low)) if high is None else (_integer("low", low), _integer("high", high))
        if not -(2**63) <= first < end <= 2**63 or end - first == 2**64:
            raise OptionError(f"integers are drawn from low to below high, in 64 bits; got {first} to {end}")
        drawn = below(self.bits(size), np.full((), end - first, _U))
        with np.errstate(over="ignore"):
            return (drawn + _U(first % 2**64)).view(np.int64)

    def normal(self, mean: float = 0.0, std: float = 1.0, size: Size = ()) -> npt.NDArray[np.float64]:
        """Normal numbers, float64 ``(rows, *size)``.

        By Box and Muller: ``sqrt(-2 log(1 - u)) cos(2 pi v)`` of two numbers u and v of `random`, which makes none
        beyond 8.6. The last digit may depend on numpy's logarithm and cosine; all else in this class does not.

        Raises
        ------
        OptionError
            When `std` is less than 0.

        Examples
        --------
        >>> x = RowRng(7, np.arange(1000)).normal(size=10)
        >>> bool(abs(x.mean()) < 0.03), bool(abs(x.std() - 1) < 0.03)
        (True, True)
        """
        if np.any(np.asarray(std) < 0):
            raise OptionError(f"std is 0 or more, got {std!r}")
        u, v = np.moveaxis(self.random((*_shape(size), 2)), -1, 0)
        drawn: npt.NDArray[np.float64] = mean + std * (np.sqrt(-2 * np.log1p(-u)) * np.cos(2 * np.pi * v))
        return drawn


def below(bits: npt.NDArray[np.uint64], n: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The upper 64 of the 128 bits of ``bits * n``, elementwise: a number below `n` from a random one."""
    half, low = _U(32), _U(0xFFFFFFFF)
    a, b = bits >> half, bits & low
    c, d = n >> half, n & low
    middle = a * d + ((b * d) >> half)  # at most 2**64 - 2**32
    found: npt.NDArray[np.uint64] = a * c + (middle >> half) + ((b * c + (middle & low)) >> half)
    return found


def _shape(size: Any) -> tuple[int, ...]:
    shape = size if isinstance(size, tuple | list) else (size,)
    return tuple(_integer("size", length, 0) for length in shape)


def _integer(name: str, value: object, least: int | None = None) -> int:
    try:
        n = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise OptionError(f"{name} is an integer{', or a tuple of them' * (name == 'size')}; got {value!r}") from None
    if least is not None and n < least:
        raise OptionError(f"{name} is {least} or more, got {n}")
    return n
