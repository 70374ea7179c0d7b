"""Loops shared out among threads: which pieces there are, who runs them, and what becomes of errors."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdask.kernels import spread as module
from mmdask.kernels.crew import Crew
from mmdask.kernels.spread import spread, threads


@given(st.integers(0, 1000), st.integers(1, 9), st.integers(1, 50))
def test_the_pieces_are_all_rows_in_order_and_none_too_small(n, allowed, least):
    with threads(allowed):
        pieces = spread(n, lambda a, b: (a, b), least)
    assert len(pieces) <= allowed
    assert pieces[0][0] == 0
    assert pieces[-1][1] == n
    assert all(before[1] == after[0] for before, after in zip(pieces, pieces[1:], strict=False))
    assert len(pieces) == 1 or all(b - a >= least for a, b in pieces)


def test_without_leave_there_is_one_piece_in_the_caller():
    assert spread(1 << 20, lambda a, b: (a, b, threading.current_thread())) == [
        (0, 1 << 20, threading.current_thread())
    ]
    with threads(4), threads(1):
        assert len(spread(1 << 20, lambda a, b: a)) == 1


def test_leave_is_for_the_thread_that_has_it():
    found = []
    with threads(4):
        other = threading.Thread(target=lambda: found.append(len(spread(1 << 20, lambda a, b: a))))
        other.start()
        other.join()
        assert len(spread(1 << 20, lambda a, b: a)) == 4
    assert found == [1]
    assert len(spread(1 << 20, lambda a, b: a)) == 1


def test_pieces_are_run_at_the_same_time():
    meet = threading.Barrier(3, timeout=120)
    with threads(3):
        assert spread(3, lambda a, b: meet.wait() >= 0, 1) == [True] * 3


class Busy(Crew):
    """Threads that never come to what they are told."""

    def tell(self, tasks, threads):
        self.told = tasks
        return True


def test_what_no_thread_has_begun_is_done_by_the_caller(monkeypatch):
    monkeypatch.setattr(module, "_CREW", busy := Busy("busy", 3))
    done = []
    with threads(4):
        assert spread(8, lambda a, b: done.append(a) or (a, b, threading.get_ident()), 1) == [
            (a, a + 2, threading.get_ident()) for a in (0, 2, 4, 6)
        ]
    late = [threading.Thread(target=piece.run) for piece in busy.told]
    for thread in late:
        thread.start()
        thread.join()
    assert done == [0, 2, 4, 6], "nobody does it again"


def test_it_goes_on_alone_when_no_thread_can_be_started(monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread")

    crew = Crew("none", 3)
    monkeypatch.setattr(module, "_CREW", crew)
    monkeypatch.setattr(threading.Thread, "start", start)
    with threads(2):
        assert spread(4, lambda a, b: (a, b), 1) == [(0, 2), (2, 4)]
    assert crew._tasks.empty(), "nothing waits for a thread that never comes"


def test_threads_are_started_once():
    with threads(3):
        for _ in range(5):
            spread(3, lambda a, b: a, 1)
    assert module._CREW.threads < module.MOST
    assert sum(t.name == "mmdask-spread" for t in threading.enumerate()) <= module._CREW.threads


class Interrupted(Crew):
    """The first piece is told to a thread that begins it, and then comes an interrupt."""

    def tell(self, tasks, threads):
        super().tell(tasks[:1], 1)
        begun.wait(120)
        raise KeyboardInterrupt


begun = threading.Event()


def test_after_an_interrupt_nobody_writes_any_more(monkeypatch):
    monkeypatch.setattr(module, "_CREW", Interrupted("interrupted", 1))
    done = []

    def work(a, b):
        begun.set()
        time.sleep(0.1)
        done.append(a)

    with threads(3), pytest.raises(KeyboardInterrupt):
        spread(3, work, 1)
    assert done == [1]


def test_an_interrupt_while_pieces_are_waited_for_comes_when_they_are_done():
    done, main = [], threading.get_ident()

    def work(a, b):
        if threading.get_ident() == main:
            begin.wait(120)
            return
        begin.wait(120)
        time.sleep(0.05)
        for _ in range(2 if a == 1 else 0):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
        done.append(a)

    begin = threading.Barrier(3)
    with threads(3), pytest.raises(KeyboardInterrupt):
        spread(3, work, 1)
    assert sorted(done) == [1, 2]
    with threads(3):
        assert spread(3, lambda a, b: a, 1) == [0, 1, 2]


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_an_error_comes_when_nobody_writes_any_more(bad):
    at_work, gate = [], threading.Barrier(3, timeout=120)

    def work(a, b):
        gate.wait()
        if a == bad:
            raise ValueError(f"piece {a}")
        time.sleep(0.05)
        at_work.append(a)

    with threads(3), pytest.raises(ValueError, match=f"piece {bad}"):
        spread(3, work, 1)
    assert sorted(at_work) == [a for a in range(3) if a != bad], "the others were waited for"


def test_a_child_has_threads_of_its_own():
    with threads(3):
        spread(3, lambda a, b: a, 1)
        child = os.fork()
        if not child:
            try:
                meet = threading.Barrier(3, timeout=120)
                os._exit(0 if spread(3, lambda a, b: meet.wait() >= 0, 1) == [True] * 3 else 1)
            finally:
                os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
