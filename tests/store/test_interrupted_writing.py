"""Ctrl-C where something is opened, written, locked, committed or given back: at each of these moments, one by one.

`python -m tests.faults interrupts --scale full` does so with every operation.
"""

from __future__ import annotations

import gc
import os
import tempfile

import fsspec
import numpy as np
import pytest

import mmdask as mm
from mmdask.store.manifest import read_manifest
from mmdask.store.storage import objects, remote_lock, storage_of
from tests.faults import interrupts
from tests.faults.content import FEW
from tests.faults.interrupting import instructions
from tests.faults.steps import ZARR, steps
from tests.store.exclusive import Exclusive

STEPS = {step.name: step for step in steps(FEW)}
ZARR_STEPS = {step.name: step for step in steps(FEW, ZARR)}


LOCAL, COMMIT, NPY = "/store/storage/local.py", "/store/commit.py", "/store/arrays/npy.py"


@pytest.mark.parametrize(
    ("step", "every", "where"),
    [
        (STEPS["append"], 1, f"{NPY}:(open|close|finish)"),
        (STEPS["append"], 3, "/sources/writing/transaction.py"),
        (STEPS["append"], 5, "/sources/writing/writer.py"),
        (STEPS["allocate"], 1, f"{NPY}:(_close_to_others|_while_nobody_fills)"),
        (STEPS["create"], 2, "/store/folder.py"),
        (STEPS["drop"], 1, f"{COMMIT}:commit|{LOCAL}:(locked|turn|sign|close)"),
        (STEPS["drop"], 2, "/store/system.py:write_atomically"),
        (STEPS["compact"], 9, "/rows/upkeep/compact.py"),
        (STEPS["vacuum"], 5, "/rows/upkeep/vacuum.py"),
        (STEPS["convert"], 17, "/sources/converting/"),
        (ZARR_STEPS["append"], 3, f"{LOCAL}:(finish|close|write|fd)"),
        (ZARR_STEPS["allocate"], 3, "/store/zarr/scratch.py"),
    ],
    ids=lambda x: getattr(x, "name", None),
)
def test_a_store_on_disk(step, every, where):
    found = interrupts.run_step(step, every, 0, False, where)
    assert found.failures == []
    assert found.counts["interrupts"] >= 8


def test_garbage_is_collected_again(tmp_path):
    """Which reading a manifest puts off."""
    path = mm.from_arrays({"x": [1, 2]}, tmp_path / "s.mm").path

    def check(returned, notes):
        assert gc.isenabled()

    def work():
        read_manifest(path)

    moments = instructions(work, "/store/manifest.py")
    assert len(moments) > 30
    for at in moments:
        interrupts.interrupt(work, at, check)


@pytest.fixture
def exclusive(monkeypatch):
    """A store behind a URL without conditions: its lock is an object."""
    fsspec.register_implementation("exclusive", Exclusive, clobber=True)
    monkeypatch.setattr(objects, "EXCLUSIVE", {"exclusive"})
    monkeypatch.setattr(remote_lock, "LOCK_SECONDS", 1.0)  # for what nobody holds
    return mm.from_arrays({"x": [1, 2]}, f"exclusive://interrupted-{os.urandom(4).hex()}/s.mm").path


def test_a_lock_that_is_an_object(exclusive):
    """It is given back, unless it is said that the manifest may come yet."""
    values, unknown = [1, 2], 0

    def work():
        with mm.append(exclusive) as w:
            w.extend({"x": [len(values) + 1]})

    def check(returned, notes):
        nonlocal values, unknown
        got = mm.open(exclusive)["x"].compute().tolist()
        assert got in ([*values, len(values) + 1],) if returned else (values, [*values, len(values) + 1])
        assert "nothing of this block was committed" not in " ".join(notes) or got == values
        values = got
        storage = storage_of(exclusive)
        if any("is not known" in note for note in notes):
            assert storage.has("lock.json"), "what may happen yet would replace what others commit"
            storage.unlink([("lock.json",)])
            storage.commits.clear()
            unknown += 1
        assert not storage.has("lock.json")

    moments = instructions(work, "/store/storage/remote_(lock|turn).py")
    assert len(moments) > 40
    values = [1, 2, 3]
    for at in moments:
        interrupts.interrupt(work, at, check)
    assert 0 < unknown < len(moments) // 4
    work()
    assert mm.verify(exclusive).ok


def test_what_waits_on_this_machine(tmp_path, monkeypatch):
    """Rows that are filled before they are put behind a URL are removed, and their folder is closed once."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    path = mm.from_arrays({"x": [1, 2]}, f"memory://interrupted-{os.urandom(4).hex()}/s.mm").path
    values = [1, 2]

    def work():
        with mm.append(path) as w:
            w.allocate("x", 2)[:] = np.arange(2)

    def check(returned, notes):
        nonlocal values
        got = mm.open(path)["x"].compute().tolist()
        assert got in (values, [*values, 0, 1])
        values = got

    moments = instructions(work, "/store/(storage/scratch|storage/remote_layer).py")
    assert len(moments) > 30
    values = [1, 2, 0, 1]
    for at in moments:
        interrupts.interrupt(work, at, check)
    # One that is not yet anybody's when the interrupt comes is removed when its process is gone.
    assert len(list(tmp_path.iterdir())) <= 6
