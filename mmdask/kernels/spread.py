"""Loops over rows shared out among threads, where a caller allows it and there is enough to do.

Rows that are gathered from anywhere in memory wait for it, and several threads wait for several of them at once. The
threads only run loops that release the interpreter lock. A piece that no thread has begun when its caller is done with
its own is done by the caller, so that a busy interpreter or a busy machine holds nobody up.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from mmdask.kernels.crew import Crew, Task, end

__all__ = ["MOST", "spread", "threads"]

T = TypeVar("T")
#: threads that run the pieces of one call at most, the caller's one of them
MOST = 32
#: a piece has so many rows at least, unless the caller says otherwise: threads take some time to be told
_LEAST = 2048
_allowed: ContextVar[int] = ContextVar("mmdask_threads", default=1)


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Let the loops that are run here, in this thread, be shared out among `n` threads, `MOST` at most."""
    before = _allowed.get()
    try:
        _allowed.set(n)
        yield
    finally:
        _allowed.set(before)


def spread(n: int, work: Callable[[int, int], T], least: int | None = None) -> list[T]:
    """What `work` returns of each piece of ``range(n)``, given as where it begins and ends, in their order."""
    wanted = min(_allowed.get(), n // (_LEAST if least is None else least))
    if wanted < 2:
        return [work(0, n)]
    edges = [n * i // wanted for i in range(wanted + 1)]
    calls = [functools.partial(work, a, b) for a, b in itertools.pairwise(edges)]
    pieces = [Task(call) for call in calls[1:]]
    try:
        _CREW.tell(pieces, len(pieces))
        first = calls[0]()
        return [first, *(c() if p.take() else p.result() for c, p in zip(calls[1:], pieces, strict=True))]
    finally:
        end(pieces)  # what they write belongs to the caller


_CREW = Crew("mmdask-spread", MOST - 1)
