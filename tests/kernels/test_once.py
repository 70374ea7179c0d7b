"""What is found once holds up neither other threads nor a child that is forked meanwhile."""

from __future__ import annotations

import os
import signal
import threading
import warnings

from mmdask.kernels.dense import Located
from mmdask.kernels.once import once


class Slow:
    """Something that takes until `go` is set."""

    def __init__(self, go):
        self.go, self.begun, self.found = go, threading.Event(), 0

    @once
    def value(self):
        """What it is."""
        self.begun.set()
        self.go.wait(120)
        self.found += 1
        return self.found


def ready():
    go = threading.Event()
    go.set()
    return Slow(go)


def test_it_is_found_once():
    slow = ready()
    assert [slow.value, slow.value, slow.found] == [1, 1, 1]
    assert Slow.value.__doc__ == "What it is."


def test_a_thread_and_a_child_wait_for_no_other():
    waiting = Slow(threading.Event())
    thread = threading.Thread(target=lambda: waiting.value)
    thread.start()
    try:
        assert waiting.begun.wait(60)
        other = threading.Thread(target=lambda: ready().value)
        other.start()
        other.join(60)
        assert not other.is_alive()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there are threads
            child = os.fork()
        if not child:
            signal.alarm(60)
            os._exit(ready().value)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    finally:
        waiting.go.set()
        thread.join()


def test_rows_are_located_so():
    assert isinstance(Located.__dict__["_near"], once)
    assert isinstance(Located.__dict__["_place"], once)
