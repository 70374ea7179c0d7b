"""What all tests share."""

from __future__ import annotations

import pytest

from mmdask.kernels import jit


@pytest.fixture(autouse=True)
def compile_at_once(monkeypatch):
    """Compile kernels when they are first called, not in a thread.

    So every test runs the same code every time; and numba sets warning filters while it compiles, which belong to the
    whole process.
    """
    monkeypatch.setattr(jit._COMPILER, "submit", lambda kernel, key: kernel._compile(key))
