"""Stores of zarr arrays: the contract, other programs, checksums, and documents that lie."""

from __future__ import annotations

import pytest

import mmdask as mm
from mmdask.store.system import System
from mmdask.testing import DiskBackend, StoreContract

SMALL = mm.Zarr(chunk_rows=4)


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """Do not wait for the disk: what a loss of power leaves is tested elsewhere."""
    for name in ("fsync", "fsync_folder"):
        monkeypatch.setattr(System, name, lambda *_: None)


class TestZarr(StoreContract):
    def new_backend(self, folder):
        return DiskBackend(folder / "store.mm", backend=SMALL)


class TestZarrInManyParts(StoreContract):
    def new_backend(self, folder):
        return DiskBackend(folder / "store.mm", backend=mm.Zarr(codec="zstd", chunk_rows=2, shards=3), part_nbytes=64)


class TestZarrPlain(StoreContract):
    def new_backend(self, folder):
        return DiskBackend(folder / "store.mm", backend=mm.Zarr(codec="none"))
