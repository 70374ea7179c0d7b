"""Ctrl-C at every moment at which a loop is asked for: it is compiled all the same, and nobody waits for ever."""

from __future__ import annotations

import threading

import numpy as np

from mmdask.kernels import jit, spread
from tests.faults.interrupting import count_moments, run_interrupted


class Loop(jit.Kernel):
    """A kernel of which compiling takes no time."""

    def __init__(self):
        super().__init__(np.sum, "none.none")

    def _compile(self, key):
        self._ready[key] = self.twin


def ended(work):
    """Do it in another thread, which need not end."""
    found = []
    thread = threading.Thread(target=lambda: found.append(work()), daemon=True)
    thread.start()
    thread.join(60)
    assert found, "it waits for ever"
    return found[0]


def test_a_kernel_is_compiled_after_an_interrupt(monkeypatch):
    x = np.arange(5)

    def ask(kernel):
        return kernel(x)

    def fresh():
        monkeypatch.setattr(jit, "_COMPILER", jit._Compiler())
        kernel = Loop()
        jit._KERNELS.remove(kernel)
        return kernel

    kernel = fresh()
    moments = count_moments(lambda: ask(kernel))
    assert moments > 10
    for at in range(moments + 1):
        kernel = fresh()
        place = run_interrupted(lambda kernel=kernel: ask(kernel), at)
        ended(lambda: jit.wait() is None)
        assert ended(lambda kernel=kernel: kernel.compiled(x)) is np.sum, place
        assert kernel(x) == 10


def test_threads_are_allowed_no_longer_than_asked_for():
    def allowed():
        with spread.threads(3):
            pass

    for at in range(count_moments(allowed)):
        place = run_interrupted(allowed, at)
        assert spread._allowed.get() == 1, place
