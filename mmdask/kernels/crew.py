"""Threads that run pieces of work, and that an interrupt of those who ask for it leaves as they are.

An interrupt may come between any two steps of the main thread, also while it takes a lock of Python's: an executor of
which that stays locked is waited for ever after. The only locks here are taken and given back in one step.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, Literal, TypeVar

__all__ = ["Crew", "Task", "end"]

T = TypeVar("T")
_HERE = threading.local()


class Task(Generic[T]):
    """A piece of work: done once, by a thread of a crew or by whoever takes it before one begins it."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._taken: dict[str, str] = {}
        self._ended = threading.Lock()  # locked until a thread is done with it
        self._ended.acquire()
        self._found: list[T] = []
        self._error: BaseException | None = None

    def take(self, by: Literal["caller", "thread"] = "caller") -> bool:
        """Whether it is the caller's, which it is if no thread has begun it: none will then."""
        return self._taken.setdefault("by", by) == by

    def run(self) -> None:
        """Do it in a thread, unless it was taken."""
        if self.take("thread"):
            try:
                self._found.append(self._call())
            except BaseException as error:
                self._error = error
            finally:
                self._ended.release()

    @property
    def ended(self) -> bool:
        """Whether a thread is done with it."""
        return not self._ended.locked()

    def wait(self) -> None:
        """Wait until a thread is done with it."""
        with self._ended:
            pass

    def result(self) -> T:
        """Wait until a thread is done with it; what it returned or raised."""
        self.wait()
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # its traceback holds this object
        return self._found[0]


def end(tasks: Sequence[Task[Any]]) -> None:
    """Wait until no thread is at work on one, and let none begin; an interrupt meanwhile is raised after that."""
    left, interrupted = list(tasks), None
    while left:
        try:
            if not left[-1].take():
                left[-1].wait()
            left.pop()
        except KeyboardInterrupt as error:
            interrupted = error
    if interrupted is not None:
        raise interrupted


class Crew:
    """Some threads. They take tasks from a queue, in their order, and end with the process; a child has its own.

    Parameters
    ----------
    name : str
        Of each thread.
    most : int
        How many there are at most.
    """

    def __init__(self, name: str, most: int) -> None:
        self.name, self.most = name, most
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self._tasks: queue.SimpleQueue[Task[Any]] = queue.SimpleQueue()
        self.threads = 0

    def tell(self, tasks: Sequence[Task[Any]], threads: int) -> bool:
        """Let the threads, of which there are so many then, run some tasks; whether there are any threads."""
        while self.threads < min(threads, self.most):
            try:
                threading.Thread(target=self._work, args=(self._tasks,), name=self.name, daemon=True).start()
            except RuntimeError:  # there can be no more, or the interpreter is on its way out
                break
            self.threads += 1
        if self.threads:
            for task in tasks:
                self._tasks.put(task)
        return self.threads > 0

    def is_here(self) -> bool:
        """Whether one of its threads asks, which must not wait for the others: they may all do so."""
        return getattr(_HERE, "crew", None) is self

    def _work(self, tasks: queue.SimpleQueue[Task[Any]]) -> None:
        _HERE.crew = self
        while True:
            task = tasks.get()
            task.run()
            del task  # while it waits, it holds nothing
