"""Who does the work of a conversion: this process, or others of this machine.

Calls are independent of each other, and what each makes is complete or absent. So nothing is lost when one fails or a
process dies: what was finished stays, and the same conversion goes on from there.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral
from typing import Any, Protocol, TypeVar, runtime_checkable

from mmdask.errors import OptionError, WorkerError

__all__ = ["Here", "Processes", "StoppedError", "Tell", "Workers", "make_workers"]

T = TypeVar("T")
#: is told of decoded bytes as they are done, with the name of the file; raises `StoppedError` when others failed
Tell = Callable[[int, str], None]

#: seconds between two looks at what workers have done
_LOOK = 0.1
#: seconds in which workers may end by themselves before they are killed
_PATIENCE = 3.0
_WORD = 8


class StoppedError(Exception):
    """The work is no longer wanted."""


@runtime_checkable
class Workers(Protocol):
    """Does calls, in any order.

    `count` is how many at once.
    """

    count: int

    def run(self, call: Callable[[T, Tell], Any], items: Sequence[T], tell: Tell) -> Iterator[tuple[int, Any]]:
        """Call with each item, and a `tell`; yields its number and the result, in the order in which they come.

        After an error of one call the others are stopped, and it is raised.
        """
        ...


class Here:
    """This process does everything, one after the other."""

    count = 1

    def run(self, call: Callable[[T, Tell], Any], items: Sequence[T], tell: Tell) -> Iterator[tuple[int, Any]]:
        for i, item in enumerate(items):
            yield i, call(item, tell)


class Processes:
    """New processes of this machine, by loky: scripts need no main guard.

    They end with the call, also when it is interrupted, and when this process is killed.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def run(self, call: Callable[[T, Tell], Any], items: Sequence[T], tell: Tell) -> Iterator[tuple[int, Any]]:
        from loky import ProcessPoolExecutor

        n = min(self.count, len(items))
        if n < 2:
            yield from Here().run(call, items, tell)
            return
        with Board(len(items)) as board:
            pool = ProcessPoolExecutor(n, initializer=_begin, initargs=(os.getpid(),))
            futures: dict[Any, int] = {}
            try:
                # No more than they can begin at once: the rest need not be called back.
                left = iter(enumerate(items))
                with _told_of_deaths():
                    while len(futures) < n and (item := next(left, None)) is not None:
                        futures[pool.submit(_call, board.path, item[0], call, item[1])] = item[0]
                while futures:
                    done = _wait(list(futures))
                    board.report(tell, items)
                    for future in done:
                        i = futures.pop(future)
                        with _told_of_deaths():
                            result = future.result()
                            if (item := next(left, None)) is not None:
                                futures[pool.submit(_call, board.path, item[0], call, item[1])] = item[0]
                        yield i, result
                board.report(tell, items)
            except BaseException:
                board.stop()
                with contextlib.suppress(KeyboardInterrupt):  # who cannot wait presses again
                    _wait(list(futures), time.monotonic() + _PATIENCE)
                raise
            finally:
                pool.shutdown(wait=True, kill_workers=True)


def _wait(futures: Sequence[Any], until: float | None = None) -> list[Any]:
    """Those of some futures that are done: after a while, or, with a time, when all are or it has come."""
    from concurrent.futures import FIRST_COMPLETED, wait

    if until is None:
        return list(wait(futures, _LOOK, FIRST_COMPLETED).done)
    return list(wait(futures, max(0.0, until - time.monotonic())).done)


@contextlib.contextmanager
def _told_of_deaths() -> Iterator[None]:
    """Say what it means that a worker died; all that is asked of its pool from then on raises so."""
    from loky.process_executor import TerminatedWorkerError

    try:
        yield
    except TerminatedWorkerError as error:
        raise WorkerError(
            "a worker process died, as when memory runs out or it is killed; what was finished stays, and the same "
            "call goes on from there, perhaps with fewer workers"
        ) from error


def _begin(parent: int) -> None:
    """Let the parent say when a worker ends: an interrupt of the keyboard goes to all processes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), name="mmdask-parent", daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process when the one that started it is gone, however it died."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def _call(board: str, number: int, call: Callable[[T, Tell], Any], item: T) -> Any:
    with Slot(board, number) as slot:
        return call(item, slot.tell)


class Board:
    """A file without a name on which workers write how far they are, and this process whether they are to stop."""

    def __init__(self, n: int) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  (closed by `__exit__`)
        os.ftruncate(self._file.fileno(), _WORD * (n + 1))
        self._seen = [0] * n
        self.path = f"/proc/{os.getpid()}/fd/{self._file.fileno()}"

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def stop(self) -> None:
        os.pwrite(self._file.fileno(), b"\1", 0)

    def report(self, tell: Tell, items: Sequence[Any]) -> None:
        """Tell what is new since the last time."""
        words = memoryview(os.pread(self._file.fileno(), _WORD * (len(items) + 1), 0)).cast("q")[1:]
        for i, (nbytes, item) in enumerate(zip(words, items, strict=True)):
            if nbytes > self._seen[i]:
                tell(nbytes - self._seen[i], str(getattr(item, "name", "")))
                self._seen[i] = nbytes


class Slot:
    """What a worker knows of the board: its own word, and whether to stop."""

    def __init__(self, path: str, number: int) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._number, self._nbytes = number, 0

    def __enter__(self) -> Slot:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._fd)

    def tell(self, nbytes: int, name: str) -> None:
        if os.pread(self._fd, 1, 0) == b"\1":
            raise StoppedError
        self._nbytes += nbytes
        os.pwrite(self._fd, self._nbytes.to_bytes(_WORD, "little", signed=True), _WORD * (self._number + 1))


def make_workers(workers: object) -> Workers:
    """What an argument `workers` means: None, a number of processes, or what has `run` and `count`.

    Raises
    ------
    OptionError
        When it is none of these.
    """
    if workers is None:
        return Here()
    if isinstance(workers, Integral) and not isinstance(workers, bool) and int(workers) >= 1:
        n = int(workers)
        return Processes(n) if n > 1 else Here()
    if isinstance(workers, Workers):
        return workers
    raise OptionError(f"workers is a number of processes, 1 or more, or a dask Client; got {workers!r}")
