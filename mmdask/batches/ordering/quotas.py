"""Which of several streams gives each row of an epoch, so that every batch has its share of each: pure.

Draw number j of stream c, from 0, of k streams is due at the time ``(j + (c + 1/2) / k) / share``, and draws follow one
another in this order. So the first p rows of an epoch hold ``p * share`` rows of each stream wherever these are whole
numbers for all, and are off by about one elsewhere. That streams begin one after the other is what keeps those with
equal shares apart: if all began at once, a hundred small ones would be due together. Largest remainders, the usual
rule, would take rows back: of some numbers of rows one stream has fewer than of one row less.

Nothing is kept but the shares; what comes before any position is found from them alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmdask.kernels import combs
from mmdask.kernels.once import once

__all__ = ["QUOTAS_VERSION", "Quotas"]

#: of the order in which streams take turns
QUOTAS_VERSION = 1

Int64s = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Quotas:
    """Streams with shares that are positive; only their proportions count.

    Examples
    --------
    >>> q = Quotas((3.0, 1.0))
    >>> q.streams(0, 8).tolist(), q.before(8).tolist()
    ([0, 0, 0, 1, 0, 0, 0, 1], [6, 2])
    """

    shares: tuple[float, ...]

    @once
    def _shares(self) -> Floats:
        return np.array(self.shares, np.float64)

    @once
    def _parts(self) -> Floats:
        parts: Floats = self._shares / self._shares.sum()
        return parts

    def before(self, position: int) -> Int64s:
        """How many of the rows before a position each stream gives, int64 ``(streams,)``; they sum to `position`."""
        low, high = self._bounds(position), self._bounds(position, 1)
        streams = self._in_order(low, high)
        chosen = streams[: position - int(low.sum())]
        return low + np.bincount(chosen, minlength=len(low))

    def streams(self, start: int, stop: int) -> Int64s:
        """The stream of each row at positions `start` to `stop`, int64."""
        low = self.before(start)
        streams = self._in_order(low, np.maximum(self._bounds(stop, 1), low))
        return streams[: stop - start]

    def position_of(self, stream: int, draw: int) -> int:
        """The position at which a stream gives a row for the `draw`-th time, from 0."""
        number = np.arange(len(self.shares))
        time = self._due(number[stream : stream + 1], np.array([draw]))
        n = np.floor((time * self._shares - (2 * number + 1)) / (2 * len(number))).astype(np.int64) + 1
        n = np.maximum(n, 0)
        # Up to rounding; draws at the same time follow one another in the order of the streams.

        def due(n: Int64s) -> npt.NDArray[np.bool_]:
            times = self._due(number, n)
            before: npt.NDArray[np.bool_] = (times < time) | ((times == time) & (number < stream))
            return before

        while (more := due(n)).any():
            n += more
        while (fewer := (n > 0) & ~due(n - 1)).any():
            n -= fewer
        return int(n.sum())

    def _due(self, stream: Int64s, draw: Int64s) -> Floats:
        """When draws are due; one division, which rounding leaves in order."""
        k = len(self.shares)
        times: Floats = (2 * k * draw + 2 * stream + 1) / self._shares[stream]
        return times

    def _bounds(self, position: int, sign: int = -1) -> Int64s:
        """No more, or with `sign` 1 no fewer, than each stream gives before a position."""
        # At one time each stream is off by less than one, and all of them by less than half their number, of which each
        # takes its share.
        slack = self._parts * len(self._parts) / 2 + 2
        found = np.floor(position * self._parts + sign * slack).astype(np.int64)
        return np.maximum(found, 0)

    def _in_order(self, low: Int64s, high: Int64s) -> Int64s:
        """The streams of the draws `low` to `high` of each, in the order in which they are due."""
        return combs.turns(self._shares, low, high)
