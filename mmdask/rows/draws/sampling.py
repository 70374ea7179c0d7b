"""Some rows at random: which ones depends on the seed, and on how many rows there are, alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.errors import OptionError
from mmdask.kernels import permute
from mmdask.kernels.hashing import hash_key
from mmdask.rows.bits import PartBits, pack
from mmdask.schema import Schema
from mmdask.store.snapshot import Snapshot

__all__ = ["SAMPLE_VERSION", "Sample"]

#: of the choice of rows
SAMPLE_VERSION = 1
#: so many numbers are drawn one by one; of more, each row is asked whether it is among them
_DRAWN = 1 << 22
_BLOCK = 1 << 20

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sample:
    """`n` of the rows that the steps before leave, or a fraction of them, without replacement."""

    n: int | None
    fraction: float | None
    seed: int

    @classmethod
    def checked(cls, n: object, fraction: object, seed: object) -> Sample:
        """The step for what a user asks for.

        Raises
        ------
        OptionError
            When that is not one of a number and a fraction, or the seed is none.
        """
        if (n is None) == (fraction is None):
            raise OptionError("a sample is of n rows or of a fraction of them: give one, as in ds.sample(1000)")
        if type(seed) is not int or not 0 <= seed < 1 << 64:
            raise OptionError(f"seed is an integer, at least 0 and below 2**64; got {seed!r}")
        if fraction is not None:
            if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 <= fraction <= 1:
                raise OptionError(f"fraction is a number from 0 to 1, got {fraction!r}")
            return cls(None, float(fraction), seed)
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 0:
            hint = f"; ds.sample(fraction={n!r}) is a part of the rows" if isinstance(n, float) and 0 < n < 1 else ""
            raise OptionError(f"a sample is of a number of rows, 0 or more, got {n!r}{hint}")
        return cls(int(n), None, seed)

    def text(self) -> list[Any]:
        return ["sample", SAMPLE_VERSION, self.n, self.fraction, self.seed]

    def on(self, before: Schema, snapshot: Snapshot) -> Sample:
        return self

    def size(self, rows: int) -> int:
        """How many of so many rows.

        Raises
        ------
        OptionError
            When there are fewer than are asked for.
        """
        if self.n is None:
            return round(float(self.fraction or 0) * rows)
        if self.n > rows:
            raise OptionError(
                f"a sample of {self.n:,} rows cannot be taken from {rows:,}, for no row is taken twice; "
                "ds.sample(fraction=0.1) is a part of them, however many there are"
            )
        return self.n

    def of(self, counts: Sequence[int]) -> Iterator[PartBits]:
        """Which rows are chosen, for runs of so many rows that follow one another: bits of each run."""
        total = sum(counts)
        n = self.size(total)
        if n in (0, total):
            yield from [bool(count and n) for count in counts]
            return
        key = hash_key("mmdask.sample", SAMPLE_VERSION, self.seed)
        drawn = np.sort(_ranks(permute.forward, 0, n, total, key)) if n <= _DRAWN else None
        first = 0
        for count in counts:
            if not count:
                yield False
            elif drawn is not None:
                here = drawn[np.searchsorted(drawn, first) : np.searchsorted(drawn, first + count)] - first
                mask = np.zeros(count, np.bool_)
                mask[here] = True
                yield pack(mask) if len(here) else False
            else:
                edges = range(first, first + count, _BLOCK)
                blocks = [_ranks(permute.inverse, a, min(a + _BLOCK, first + count), total, key) < n for a in edges]
                yield np.concatenate([pack(block) for block in blocks])
            first += count


def _ranks(way: Any, start: int, stop: int, total: int, key: int) -> Int64s:
    """The permutation of `total` rows, or its inverse, of the numbers `start` to `stop`."""
    n = stop - start
    found: Int64s = way(np.arange(start, stop), np.full(n, total, np.int64), np.full(n, key, np.uint64))
    return found
