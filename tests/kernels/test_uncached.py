"""Compiling where numba finds no folder, as without a home, or a wrong form in it, and while a process ends."""

from __future__ import annotations

import os
import shutil
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


ENDING = """
import threading
import time
import numpy as np
from mmdask.kernels import jit, segments

begun, compile = threading.Event(), jit.Kernel._compile

def compile_late(kernel, key):
    begun.set()
    while threading.main_thread().is_alive():
        time.sleep(0.001)
    compile(kernel, key)

jit.Kernel._compile = compile_late
segments.segment_sum(np.array([1.0, 2.0]), np.array([0, 2]))
begun.wait()
"""


def test_a_process_that_ends_meanwhile_says_nothing():
    done = subprocess.run([sys.executable, "-c", ENDING], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


KEPT = """
import os
import sys
import numpy as np
from mmdask.kernels import jit, segments

for dtype in sys.argv[1:]:
    for _ in range(2):
        assert segments.segment_sum(np.array([1, 2, 4], dtype), np.array([0, 1, 3])).tolist() == [1, 6]
        jit.wait()
assert len(segments._SUM._ready) == len(sys.argv[1:]) and not segments._SUM._failed
"""


def test_a_form_for_other_arrays_is_not_run(tmp_path):
    """Two processes that keep one each at one moment may give both the same name: one is found by what the other is."""

    def run(*dtypes):
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", KEPT, *dtypes], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    run("f8", "i8")
    of_floats, of_integers = sorted(tmp_path.rglob("*.segment_sum-*.nbc"))
    shutil.copy(of_integers, of_floats)
    run("f8")
    run("i8", "f8")
