"""A thread that does one piece of work at a time, and ends before the interpreter does."""

from __future__ import annotations

import atexit
import os
import queue
import threading
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

__all__ = ["LostError", "WorkThread"]

T = TypeVar("T")
#: seconds that closing waits for a piece of work that is under way
_PATIENCE = 5.0


class LostError(Exception):
    """The thread was left behind by a fork."""


class WorkThread(Generic[T]):
    """One piece of work at a time that is done in a thread, which ends when this object is closed or given up.

    Parameters
    ----------
    in_thread : bool
        If not, work is done when its result is asked for.
    """

    _thread: threading.Thread | None = None  # also where an interrupt comes before anything else is set

    def __init__(self, *, in_thread: bool) -> None:
        self._in_thread = in_thread
        self._pid = os.getpid()
        self._jobs: queue.SimpleQueue[Callable[[], T] | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def start(self, work: Callable[[], T]) -> None:
        """Begin a piece of work; the result of the one before has been taken."""
        self._jobs.put(work)
        if self._in_thread and self._thread is None:
            self._thread = threading.Thread(
                target=_work, args=(self._jobs, self._results), name="mmdask-ahead", daemon=True
            )
            _LIVE.add(self)
            _THREADS.add(self._thread)
            self._thread.start()

    def result(self) -> T:
        """Wait for what was begun, and return or raise what came of it."""
        if self._thread is None:
            work = self._jobs.get()
            assert work is not None
            return work()
        if self._pid != os.getpid():
            raise LostError
        result, error = self._results.get()
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback holds this frame
        return result  # type: ignore[return-value]

    def close(self) -> bool:
        """End the thread, waiting for a piece of work that is under way; whether nobody is at work any more.

        It waits some seconds and no longer, because garbage is collected anywhere, also where a lock is held that the
        work needs.
        """
        thread = self._thread
        if thread is None:
            return True
        ended = self._pid == os.getpid()
        if ended:
            self._jobs.put(None)  # it ends by itself, whatever becomes of waiting for it
            try:
                thread.join(_PATIENCE)
                ended = not thread.is_alive()
            except RuntimeError:
                # It is this thread, which gave up the last that knew of this object; or an interrupt came while it was
                # started.
                ended = False
        self._thread = None
        return ended

    def __del__(self) -> None:
        self.close()


def _work(jobs: queue.SimpleQueue[Any], results: queue.SimpleQueue[Any]) -> None:
    while (work := jobs.get()) is not None:
        try:
            result, error = work(), None
        except BaseException as raised:
            result, error = None, raised
        del work
        results.put((result, error))
        del result, error  # while it waits, it holds nothing


_LIVE: weakref.WeakSet[WorkThread[Any]] = weakref.WeakSet()
_THREADS: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """No thread may read maps while the interpreter takes them down."""
    for work_thread in list(_LIVE):
        work_thread.close()
    for thread in list(_THREADS):
        if thread.is_alive():
            thread.join()
