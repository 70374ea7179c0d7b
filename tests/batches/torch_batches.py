"""Rows of many kinds in memory, and what batches of them hold."""

from __future__ import annotations

import numpy as np
from memory_rows import MemoryRows

from mmdask.batches.collate import pad
from mmdask.batches.loader import Loader

N = 200
FIELDS = {
    "x": np.arange(N, dtype="f4"),
    "u2": np.arange(N, dtype="u2"),
    "u8": np.arange(N, dtype="u8") + 2**63,
    "when": np.arange(N).astype("M8[s]"),
    "flag": np.arange(N) % 3 == 0,
    "p4": np.arange(4.0 * N).reshape(N, 4),
    "jets": [[float(i)] * (i % 3) for i in range(N)],
    "more": [[float(i)] * (i % 4) for i in range(N)],
    "name": [f"row {i}" for i in range(N)],
}


def make(batch_size=8, fields=FIELDS, **options):
    collate = {"more": pad(2)} if "more" in fields else {}
    return Loader(MemoryRows(fields), batch_size, collate=collate, **options)


def plain(value):
    """Values as lists, whatever holds them."""
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    return value.tolist() if hasattr(value, "tolist") else value


def contents(batch):
    marks = (batch.epoch, batch.index, batch.position, plain(batch.valid))
    return plain(batch.rows), marks, {name: plain(value) for name, value in batch.items()}
