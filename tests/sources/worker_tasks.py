"""What the processes of tests do; they import this and mmdask, and nothing else."""

from __future__ import annotations

import numpy as np

import mmdask as mm


def fill(a, worker, workers):
    """Every n-th row, which lie between those of the others."""
    a[worker::workers, worker % 2] = worker + 1
    a[worker::workers, 1 - worker % 2] = np.arange(worker, len(a), workers)


def append_blocks(path, worker):
    """Five blocks of 3 or 4 rows."""
    for block in range(5):
        with mm.append(path, labels={"worker": f"w{worker}"}) as w:
            w.extend({"x": [worker * 100 + block * 10 + i for i in range(3)], "r": [[worker]] * 3})
            if block % 2:
                w.append({"x": worker * 100 + block * 10 + 3, "r": []})
