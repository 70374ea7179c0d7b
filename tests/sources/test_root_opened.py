"""What is inspected stays open to be read; a layer is brought to the disk while the next is written."""

from __future__ import annotations

import errno
import os
import pickle
import threading

import pytest
from root_tools import A, B, C, check, events, run, write_tree

import mmdask as mm
from mmdask.errors import SourceError
from mmdask.sources.converting.inputs import find_inputs
from mmdask.sources.root import opened as opened_module
from mmdask.sources.root.opened import OpenTrees
from mmdask.store.system import System


def descriptors():
    """ROOT files that this process has open."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            path = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
        if path.endswith(".root"):
            found.append(os.path.basename(path))
    return found


def source(path):
    return find_inputs(str(path), None)[0][0]


def test_a_file_of_several_parts_is_opened_once(tmp_path, out, opened):
    path = write_tree(tmp_path / "a.root", [events(40, 1), events(40, 2), events(40, 3)])
    run(path, out, part_nbytes=1000)
    assert len(mm.open(out).chunks) > 2
    assert opened == ["a.root"]
    check(out, events(40, 1), events(40, 2), events(40, 3))
    assert descriptors() == []


def test_trees_that_take_much_memory_are_opened_again(files, out, opened, monkeypatch):
    monkeypatch.setattr(opened_module, "_KEPT_NBYTES", 1)
    run(files, out)
    assert opened == ["a.root", "b.root", "c.root", "b.root", "c.root"]
    check(out, *A, *B, *C)
    assert descriptors() == []


def test_nothing_stays_open_after_an_error_or_a_plan(files, tmp_path, out):
    bad = tmp_path / "d.root"
    bad.write_bytes(b"no root file")
    with pytest.raises(SourceError, match="not a ROOT file"):
        run([*files, str(bad)], out)
    assert descriptors() == []
    run(files, out, plan=True)
    assert descriptors() == []


def test_trees_are_kept_only_while_that_is_asked_for(files):
    trees = OpenTrees()
    with trees.inspect(source(files[0])) as tree:
        assert descriptors() == ["a.root"]
        assert tree.metadata_nbytes > 0
    assert descriptors() == []
    with trees.keeping():
        with trees.inspect(source(files[0])) as tree:
            pass
        assert descriptors() == ["a.root"]
        with trees.read(source(files[0])) as again, trees.read(source(files[0])) as other:
            assert again is tree
            assert other is not tree, "each has one user at a time"
            assert descriptors() == ["a.root"] * 2
        assert descriptors() == ["a.root"]
        copy = pickle.loads(pickle.dumps(trees))
        with copy.read(source(files[0])) as other:
            assert other is not tree
        with pytest.raises(ZeroDivisionError), trees.read(source(files[0])):
            raise ZeroDivisionError
        assert descriptors() == [], "what failed may be in any state"
    assert descriptors() == []


def test_what_was_read_last_gives_way_to_the_next(files):
    trees = OpenTrees()
    with trees.keeping():
        for path in files:
            with trees.read(source(path)):
                pass
            assert descriptors() == [os.path.basename(path)]


def test_another_state_of_a_file_is_another_tree(files):
    trees = OpenTrees()
    with trees.keeping():
        with trees.inspect(source(files[0])) as tree:
            pass
        os.utime(files[0], ns=(1, 1))
        with trees.read(source(files[0])) as again:
            assert again is not tree


@pytest.fixture
def folders(monkeypatch):
    """Layers that were put in their place, in order, each with the thread that did it."""
    found = []
    original = System.rename

    def rename(self, old, new):
        original(self, old, new)
        if ".tmp-" in old and os.path.basename(os.path.dirname(new)) == "parts":
            found.append((os.path.basename(new), threading.current_thread().name))

    monkeypatch.setattr(System, "rename", rename)
    return found


def test_layers_are_finished_in_a_thread(files, out, folders):
    run(files, out)
    assert len(folders) == 3
    assert all(thread.startswith("mmdask-finish") for _, thread in folders)
    check(out, *A, *B, *C)


@pytest.mark.parametrize("fails", [1, 2, 3])
def test_a_disk_that_fails_while_a_layer_is_finished(files, out, folders, monkeypatch, fails):
    original = System.rename
    calls = []

    def rename(self, old, new):
        if ".tmp-" in old and os.path.basename(os.path.dirname(new)) == "parts":
            calls.append(new)
            if len(calls) == fails:
                raise OSError(errno.EIO, "no disk")
        original(self, old, new)

    with monkeypatch.context() as m:
        m.setattr(System, "rename", rename)
        with pytest.raises(OSError, match="no disk") as caught:
            run(files, out)
    assert "can be repeated" in caught.value.__notes__[0]
    assert len(folders) >= fails - 1
    assert not [name for name in os.listdir(out / "parts") if ".tmp-" in name]
    assert not (out / "manifest.json").exists()
    run(files, out)
    check(out, *A, *B, *C)
