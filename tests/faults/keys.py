"""An interrupt as the keys make it, one that Python does not drop, and what must be at rest after it."""

from __future__ import annotations

import contextlib
import gc
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

__all__ = ["at_work", "is_dropped", "pressing"]

#: seconds until the keys are pressed again
_AGAIN = 0.005


def is_dropped(frame: FrameType | None) -> bool:
    """Whether Python only prints what is raised here: in finalizers, and in callbacks of weak references and of gc.

    In the last of these, as hypothesis has one, an interrupt is seen that came at any time while garbage was collected.
    """
    collecting = {getattr(callback, "__code__", None) for callback in gc.callbacks}
    while frame is not None:
        code = frame.f_code
        if code.co_name == "__del__" or code.co_filename.endswith(("/weakref.py", "/_weakrefset.py")):
            return True
        if code in collecting:
            return True
        frame = frame.f_back
    return False


def at_work() -> list[str]:
    """Names of the threads that compute something for a caller; they stay when they are done, and wait."""
    frames = sys._current_frames()
    found = []
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0) if thread.name == "mmdask-compute" else None
        while frame is not None:
            if frame.f_code.co_name == "unless":
                found.append(thread.name)
            frame = frame.f_back
    return found


@contextlib.contextmanager
def pressing() -> Iterator[Callable[[float], None]]:
    """A function that lets KeyboardInterrupt be raised in this thread, once, after some seconds."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        if is_dropped(frame):
            signal.setitimer(signal.ITIMER_REAL, _AGAIN)
        else:
            raise KeyboardInterrupt

    def press(seconds: float) -> None:
        signal.setitimer(signal.ITIMER_REAL, seconds)

    before: Any = signal.signal(signal.SIGALRM, interrupt)
    try:
        yield press
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
