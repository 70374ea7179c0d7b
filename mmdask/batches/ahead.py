"""Reading ahead: the next run of batches is read by a thread while those of the last one are used."""

from __future__ import annotations

import atexit
import copy
import os
import queue
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from mmdask.batches.batch import Batch

if TYPE_CHECKING:
    from mmdask.batches.epochs import Epochs

__all__ = ["Ahead", "read_ahead"]

T = TypeVar("T")
#: batches of a run at most, and of the next one as many times those of the last
RUN_BATCHES = 512
_GROWTH = 8
#: seconds that closing waits for a run that is being read
_PATIENCE = 5.0


class Run(NamedTuple):
    """Batches that were read together, where the next ones begin, and whether there are none."""

    batches: Iterator[Batch]
    stop: int
    ended: bool


def read_ahead(loader: Epochs, epoch: int, start: int) -> Iterator[Batch]:
    """The batches of an epoch from a position on; moves nothing on.

    The first is read alone, so that it comes soon; then ever more are read together, up to what fits a run, and while
    they are handed out a thread reads the next run. The thread ends with this iterator. What it finds and raises is
    what reading here would: an error comes where its batch would have come.
    """
    if loader.ends(epoch, start):
        return
    reader, ahead = _borrow(loader), Ahead[Run](in_thread=not _in_torch_worker())
    n = most = 1
    try:
        run = _read(reader, epoch, start, 1)
        while True:
            batch = next(run.batches)
            most = max(most, loader.run_length(batch))
            n = min(_GROWTH * n, most, RUN_BATCHES)
            if not run.ended:
                ahead.start(lambda r=reader, a=run.stop, n=n: _read(r, epoch, a, n))  # type: ignore[misc]
            yield batch
            del batch  # whoever got it may be done with it
            yield from run.batches
            if run.ended:
                return
            start = run.stop
            try:
                run = ahead.result()
            except _LostError:
                reader, ahead = copy.copy(loader), Ahead[Run](in_thread=True)
                run = _read(reader, epoch, start, n)
            except Exception:
                if n == 1:
                    raise
                # One by one, so that those before the one that fails are handed out.
                n = most = 1
                run = _read(reader, epoch, start, 1)
    finally:
        if ahead.close():
            _give_back(loader, reader)


def _read(reader: Epochs, epoch: int, start: int, n: int) -> Run:
    stop = start
    for _ in range(n):
        after = reader.cutting.stop(epoch, stop)
        if after == stop:
            break
        stop = after
    return Run(reader.run(epoch, start, n), stop, reader.ends(epoch, stop))


# What a thread reads with is a copy of the loader, so that they need no locks. It is kept from epoch to epoch, because
# it knows the rows of the selection.


def _borrow(loader: Epochs) -> Epochs:
    pid, reader = loader.__dict__.pop("_reader", (0, None))
    return copy.copy(loader) if reader is None or pid != os.getpid() else reader


def _give_back(loader: Epochs, reader: Epochs) -> None:
    loader.__dict__["_reader"] = os.getpid(), reader


def _in_torch_worker() -> bool:
    """Whether this is a worker of a DataLoader, one of several processes that read at the same time."""
    data = sys.modules.get("torch.utils.data")
    return data is not None and data.get_worker_info() is not None


# The thread -----------------------------------------------------------------------------------------------------------


class _LostError(Exception):
    """The thread was left behind by a fork."""


class Ahead(Generic[T]):
    """One piece of work at a time that is done in a thread, which ends when this object is closed or given up.

    Parameters
    ----------
    in_thread : bool
        If not, work is done when its result is asked for.
    """

    def __init__(self, *, in_thread: bool) -> None:
        self._in_thread = in_thread
        self._pid = os.getpid()
        self._jobs: queue.SimpleQueue[Callable[[], T] | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

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
            raise _LostError
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


_LIVE: weakref.WeakSet[Ahead[Any]] = weakref.WeakSet()
_THREADS: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """No thread may read maps while the interpreter takes them down."""
    for ahead in list(_LIVE):
        ahead.close()
    for thread in list(_THREADS):
        if thread.is_alive():
            thread.join()
