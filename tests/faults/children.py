"""Forked children that do one thing and say how it went."""

from __future__ import annotations

import json
import os
import select
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mmdask as mm


class Forked:
    """A child that does `work`, and what it says: ``{"result": ...}``, ``{"error": name, "text": ...}`` or ``{}``.

    Errors of mmdask and of the system are outcomes; any other has the key "bug" besides.
    """

    def __init__(self, work: Callable[[], Any]) -> None:
        reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(writing)
            self._reading = reading
            return
        said: dict[str, Any] = {}
        try:
            os.close(reading)
            said = {"result": work()}
        except (mm.MmdaskError, OSError) as error:
            said = {"error": type(error).__name__, "text": str(error), "trace": traceback.format_exc()}
        except BaseException as error:
            said = {"error": type(error).__name__, "text": traceback.format_exc(), "bug": True}
        finally:
            with open(writing, "w") as file:
                json.dump(said, file)
            os._exit(0)

    def fileno(self) -> int:
        """Becomes readable when it says something."""
        return self._reading

    def outcome(self) -> dict[str, Any]:
        """Wait for it; an exit code other than 0 stands under "code"."""
        with open(self._reading, "rb") as file:
            said = file.read()
        _, status = os.waitpid(self.pid, 0)
        found: dict[str, Any] = json.loads(said) if said else {}
        if code := os.waitstatus_to_exitcode(status):
            found["code"] = code
        return found


class Gate:
    """Lets forked children begin at the same moment."""

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()

    def wait(self) -> None:
        """In a child: until it is opened."""
        os.close(self._writing)
        os.read(self._reading, 1)

    def open(self) -> None:
        os.close(self._writing)
        os.close(self._reading)


def in_parallel(jobs: Sequence[Callable[[], Any]], n_processes: int) -> Iterator[Any]:
    """Do each job in a forked child, so many at a time, and yield their results as they come.

    Children that still work when the caller has seen enough are killed.
    """
    waiting, running = list(reversed(jobs)), {}
    try:
        while waiting or running:
            while waiting and len(running) < n_processes:
                child = Forked(waiting.pop())
                running[child.fileno()] = child
            ready, _, _ = select.select(list(running), [], [])
            outcome = running.pop(ready[0]).outcome()
            if "result" not in outcome:
                raise AssertionError(f"a job failed: {outcome}")
            yield outcome["result"]
    finally:
        for child in running.values():
            os.kill(child.pid, signal.SIGKILL)
            child.outcome()
