"""Counters of what a conversion opens and reads, and folders in memory."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import uproot
from root_tools import A, B, C, write_tree

from tests.faults import tidy as faults


@pytest.fixture(scope="session")
def memory_folder():
    """A folder in memory where there is one: no sync waits for a disk there, and holes of files are read quickly."""
    with tempfile.TemporaryDirectory(dir=faults.memory_folder()) as folder:
        yield Path(folder)


@pytest.fixture
def memory_path(memory_folder):
    """As `tmp_path`, in memory where that is possible."""
    return Path(tempfile.mkdtemp(dir=memory_folder))


@pytest.fixture
def opened(monkeypatch):
    """Names of the ROOT files that were opened, in order."""
    names = []
    original = uproot.open

    def counting(path, *args, **kwargs):
        names.append(Path(next(iter(path)) if isinstance(path, dict) else path).name)
        return original(path, *args, **kwargs)

    monkeypatch.setattr(uproot, "open", counting)
    return names


@pytest.fixture
def baskets(monkeypatch):
    """(file, branch, basket) of every basket that was read."""
    read = []
    model = uproot.models.TBasket.Model_TBasket
    original = model.read.__func__

    def counting(cls, chunk, cursor, context, file, selffile, parent, *args, **kwargs):
        basket = original(cls, chunk, cursor, context, file, selffile, parent, *args, **kwargs)
        read.append((Path(file.file_path).name, parent.name, context["basket_num"]))
        return basket

    monkeypatch.setattr(model, "read", classmethod(counting))
    return read


@pytest.fixture
def out(tmp_path):
    return tmp_path / "events.mm"


@pytest.fixture
def files(tmp_path):
    """Three files of 10, 20 and 30 rows, two baskets each."""
    return [write_tree(tmp_path / f"{name}.root", chunks) for name, chunks in {"a": A, "b": B, "c": C}.items()]
