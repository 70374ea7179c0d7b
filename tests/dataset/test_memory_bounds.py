"""Passes over a store ten times as large as what a process may use; and nothing is held when datasets are gone.

Blocks, tasks and chunks are made smaller as the store is; ``python -m benchmarks memory`` does it in full size.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import limited
import numpy as np
import pytest

import mmdask as mm

HERE = Path(__file__).parent
ROWS = 4_000_000
SCALE = 64
HEADROOM = 15 << 20


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("memory")
    rng = np.random.default_rng(0)
    large, small = limited.write(folder / "large.mm", ROWS, rng), limited.write(folder / "small.mm", 50_000, rng)
    assert mm.open(large).nbytes > 10 * HEADROOM
    yield large, small
    shutil.rmtree(folder)


@pytest.mark.parametrize("io", ["pread", "mmap"])
def test_a_process_of_little_memory_passes_over_a_large_store(stores, io):
    for path in stores:
        shutil.rmtree(path / "cache", ignore_errors=True)
    done = subprocess.run(
        [sys.executable, HERE / "limited.py", *map(str, stores), io, "threads", str(HEADROOM), str(SCALE)],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"PYTHONPATH": str(HERE.parents[1]), "MALLOC_ARENA_MAX": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["pass"] for line in found} == set(limited.passes(stores[1], io, "no.mm"))
    # Maps are no memory of the process; what it makes of them is.
    assert max(line["anonymous"] for line in found) < HEADROOM, found
    if io == "pread":
        assert max(line["space"] for line in found) <= HEADROOM
