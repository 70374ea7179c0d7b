"""A conversion keeps the smallest and largest values of what it writes."""

from __future__ import annotations

import numpy as np
import uproot

import mmdask as mm
from mmdask.store.grains import Held
from mmdask.store.snapshot import open_snapshot


def test_converted_fields_have_bounds(tmp_path):
    n = 70_000
    with uproot.recreate(tmp_path / "a.root") as file:
        tree = file.mktree("t", {"run": "i4", "met": "f4"})
        tree.extend({"run": np.arange(n, dtype="i4"), "met": np.linspace(0, 1, n, dtype="f4")})
    mm.from_root(str(tmp_path / "a.root"), tmp_path / "a.mm", tree="t")
    snapshot = open_snapshot(tmp_path / "a.mm")
    layer, run = snapshot.stored(0, "run")
    assert (run.bounds.low, run.bounds.high) == (0, n - 1)
    assert snapshot.stored(0, "met")[1].bounds == Held(0.0, 1.0, False, None, 1)
    table = snapshot.array(layer, layer.grains)
    assert table[run.bounds.entry].tolist() == [[0, 65_535, 1, 0, 0], [65_536, n - 1, 1, 0, 0]]
    assert mm.verify(tmp_path / "a.mm").ok
