"""Make the next value of an iterator in a thread while this one is used."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from typing import Any, TypeVar

__all__ = ["ahead"]

T = TypeVar("T")
_END = object()


class _Failed:
    """An exception on its way to the thread that asked."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


def ahead(values: Iterable[T]) -> Generator[T]:
    """The same values, each made in a thread while the one before it is used.

    So decoding, which gives the interpreter free, goes on while what was decoded is written. At most two values exist
    besides the one that is used. An error is raised where its value would have come. When the iterator is closed, the
    thread has ended.

    Examples
    --------
    >>> list(ahead(x * x for x in range(4)))
    [0, 1, 4, 9]
    """
    made: queue.Queue[Any] = queue.Queue(1)
    over = threading.Event()

    def put(value: Any) -> bool:
        while not over.is_set():
            try:
                made.put(value, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def make() -> None:
        try:
            for value in values:
                if not put(value):
                    return
                del value  # or it lives until the next is made
        except BaseException as error:  # handed to the other thread
            put(_Failed(error))
        else:
            put(_END)

    thread = threading.Thread(target=make, name="mmdask-ahead", daemon=True)
    try:
        thread.start()
        while (value := made.get()) is not _END:
            if isinstance(value, _Failed):
                raise value.error
            yield value
            del value
    finally:
        over.set()
        if thread.is_alive():  # an interrupt may come before it is
            thread.join()
