"""What all tests share."""

from __future__ import annotations

import signal

import pytest
from hypothesis import HealthCheck, settings

from mmdask.kernels import jit

# Tests count and never time; a busy machine must not fail one, nor examples that are many or long by chance.
settings.register_profile(
    "mmdask",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
settings.load_profile("mmdask")

# A shell may start what runs in the background with interrupts ignored, and so would be what tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def compile_at_once(monkeypatch):
    """Compile kernels when they are first called, not in a thread.

    So every test runs the same code every time; and numba sets warning filters while it compiles, which belong to the
    whole process.
    """

    def submit(kernel, key):
        with jit._COMPILER.busy:
            kernel._compile(key)

    monkeypatch.setattr(jit._COMPILER, "submit", submit)
