"""The contract of backends: the model in memory and the store on disk pass the same tests."""

from __future__ import annotations

import pytest

from mmdask.store.arrays import held as arrays
from mmdask.store.system import System
from mmdask.testing import DiskBackend, MemoryBackend, StoreContract


@pytest.fixture(autouse=True)
def as_if_large(monkeypatch):
    """Map, or read in pieces, also the arrays of these stores, of which most would be read whole."""
    monkeypatch.setattr(arrays, "SMALL_NBYTES", 16)


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """Do not wait for the disk: what a loss of power leaves is tested elsewhere."""
    for name in ("fsync", "fsync_folder"):
        monkeypatch.setattr(System, name, lambda *_: None)


class TestMemory(StoreContract):
    other_processes = False

    def new_backend(self, folder):
        return MemoryBackend()


class TestDiskMapped(StoreContract):
    def new_backend(self, folder):
        return DiskBackend(folder / "s.mm", io="mmap")


class TestDiskRead(StoreContract):
    def new_backend(self, folder):
        return DiskBackend(folder / "s.mm", io="pread")
