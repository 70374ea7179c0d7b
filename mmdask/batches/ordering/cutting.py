"""Where the batches of an epoch begin and end, by position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["Cutting", "Even"]


class Cutting(Protocol):
    """The positions of an epoch cut into batches. They may begin at any position that a state was saved at."""

    def stop(self, epoch: int, start: int) -> int:
        """Where the batch ends that begins at a position; the position itself if none does."""
        ...

    def after(self, epoch: int, start: int, n: int) -> int:
        """Where the batch begins that comes `n` batches after the one that begins at a position."""
        ...

    def left(self, epoch: int, start: int) -> int:
        """Batches from a position on."""
        ...

    def number(self, epoch: int, start: int) -> int:
        """Batches of the epoch that begin before a position."""
        ...


@dataclass(frozen=True)
class Even:
    """Batches of equally many rows; the rows that are left over at the end are one, or none if they are dropped.

    Parameters
    ----------
    n : int
        Positions of an epoch.
    size : int
        Rows of a batch.
    drop : bool
        Whether a short batch is left out.
    """

    n: int
    size: int
    drop: bool

    def stop(self, epoch: int, start: int) -> int:
        stop = min(start + self.size, self.n)
        return start if self.drop and stop - start < self.size else max(stop, start)

    def after(self, epoch: int, start: int, n: int) -> int:
        return start + n * self.size

    def left(self, epoch: int, start: int) -> int:
        left = max(self.n - start, 0)
        return left // self.size if self.drop else -(-left // self.size)

    def number(self, epoch: int, start: int) -> int:
        return start // self.size
