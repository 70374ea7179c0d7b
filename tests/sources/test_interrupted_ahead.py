"""Ctrl-C at every moment of what makes values in a thread: the thread ends."""

from __future__ import annotations

from contextlib import closing

from mmdask.sources.converting.ahead import ahead
from tests.faults import interrupts
from tests.faults.interrupting import instructions


def test_a_thread_ends():
    made = []

    def work():
        made.clear()
        with closing(ahead(iter(range(5)))) as values:
            made.extend(values)

    def check(returned, notes):
        assert made == list(range(len(made)))

    moments = instructions(work, "/sources/converting/ahead.py:ahead:")
    assert len(moments) >= 10
    for at in moments:
        interrupts.interrupt(work, at, check)
