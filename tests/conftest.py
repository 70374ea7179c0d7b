"""What all tests share."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from mmdask.kernels import jit

# Tests count and never time; a busy machine must not fail one.
settings.register_profile("mmdask", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mmdask")


@pytest.fixture(autouse=True)
def compile_at_once(monkeypatch):
    """Compile kernels when they are first called, not in a thread.

    So every test runs the same code every time; and numba sets warning filters while it compiles, which belong to the
    whole process.
    """
    monkeypatch.setattr(jit._COMPILER, "submit", lambda kernel, key: kernel._compile(key))
