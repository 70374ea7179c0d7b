"""Loops are compiled also where numba finds no folder to keep them in, as for a user without a home."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import importlib, pkgutil
import numpy as np
from numba.core.dispatcher import Dispatcher

def enable_caching(self):
    raise RuntimeError(f"cannot cache function {self!r}: no locator available for file")

Dispatcher.enable_caching = enable_caching

import mmdask.kernels
from mmdask.kernels import jit, segments

for module in pkgutil.iter_modules(mmdask.kernels.__path__):
    importlib.import_module(f"mmdask.kernels.{module.name}")
values, offsets = np.array([1.0, 2.0, 4.0]), np.array([0, 1, 3])
for _ in range(2):
    assert segments.segment_sum(values, offsets).tolist() == [1, 6]
    jit.wait()
assert segments._SUM._ready and not segments._SUM._failed
"""


def test_loops_that_cannot_be_kept_are_compiled():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
