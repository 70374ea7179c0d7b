"""Systems in place of the real one: each counts the mutating calls of the store, and does one thing at one of them."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

from mmdask.store.system import SYSTEM, System

#: every call that changes a disk; `remove_tree` is made of these
CALLS = (
    "create",
    "open_or_create",
    "write",
    "truncate",
    "fsync",
    "fsync_folder",
    "rename",
    "mkdir",
    "unlink",
    "rmdir",
)

#: does the call, and returns what it returns
Call = Callable[[], Any]


class Watched:
    """Calls `around(name, args, call)` in place of every mutating call; this one counts them."""

    def __init__(self) -> None:
        self.calls = 0
        self.names: list[str] = []
        self._lock = threading.Lock()

    def count(self, name: str) -> int:
        """The number of this call, from 1."""
        with self._lock:
            self.calls += 1
            self.names.append(name)
            return self.calls

    def around(self, name: str, args: tuple[Any, ...], call: Call) -> Any:
        self.count(name)
        return call()


@contextlib.contextmanager
def installed(watched: Watched) -> Iterator[None]:
    """Route every mutating call of this process through `watched`."""

    def routed(name: str) -> Callable[..., Any]:
        real = getattr(System, name)

        def method(*args: Any) -> Any:
            return watched.around(name, args, lambda: real(SYSTEM, *args))

        return method

    for name in CALLS:
        setattr(SYSTEM, name, routed(name))
    try:
        yield
    finally:
        for name in CALLS:
            delattr(SYSTEM, name)


class Failing(Watched):
    """Raises at call `k`, and at every later one if it is to stay broken.

    Parameters
    ----------
    make_error : callable
        Makes what is raised.
    when : {"before", "half", "after"}
        Whether the call is left out; done with the first half of what it was to write; or done.
    """

    def __init__(self, k: int, make_error: Callable[[], BaseException], *, forever: bool = False, when: str = "before"):
        super().__init__()
        self.k, self.make_error, self.forever, self.when = k, make_error, forever, when
        self.raised: list[BaseException] = []

    def around(self, name: str, args: tuple[Any, ...], call: Call) -> Any:
        number = self.count(name)
        if number != self.k and not (self.forever and number > self.k):
            return call()
        self._do(name, args, call)
        error = self.make_error()
        self.raised.append(error)
        raise error

    def _do(self, name: str, args: tuple[Any, ...], call: Call) -> None:
        if self.when == "half" and name == "write":
            fd, data, offset = args
            os.pwrite(fd, memoryview(data)[: len(data) // 2], offset)
        elif self.when == "after":
            result = call()
            if name in ("create", "open_or_create"):
                os.close(result)  # no one will ever know of it


class Stopping(Failing):
    """Ends the process at call `k`, as a kill does: nothing is cleaned up."""

    def __init__(self, k: int, when: str) -> None:
        super().__init__(k, OSError, when=when)

    def around(self, name: str, args: tuple[Any, ...], call: Call) -> Any:
        if self.count(name) == self.k:
            try:
                self._do(name, args, call)
            finally:
                os._exit(STOPPED)
        return call()


#: exit status of a process that `Stopping` ended
STOPPED = 93


class Killed(BaseException):
    """What a process that was killed inside a recorded run raises, so that its code unwinds without doing anything."""


class Dying(Watched):
    """From call `k` on nothing is done any more, by anyone: a process that was killed, unwound within this one."""

    def __init__(self, k: int, inner: Watched) -> None:
        super().__init__()
        self.k, self.inner = k, inner

    def around(self, name: str, args: tuple[Any, ...], call: Call) -> Any:
        if self.count(name) >= self.k:
            raise Killed
        return self.inner.around(name, args, call)
