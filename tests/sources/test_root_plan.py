"""What a conversion would do, and what counts as a changed file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from root_tools import check, events, read_store, run, write_tree

import mmdask as mm
from mmdask.sources.root import convert_root
from mmdask.sources.root.reader import RootFiles
from mmdask.store.layer import read_layer

A, B, C = [events(10, 0)], [events(20, 1)], [events(30, 2)]


@pytest.fixture
def files(tmp_path):
    return [write_tree(tmp_path / f"{n}.root", c) for n, c in zip("abc", (A, B, C), strict=True)]


@pytest.fixture
def out(tmp_path):
    return tmp_path / "o.mm"


def plan(files, out, **options):
    """(file, action, rows, parts) of each input; nothing may change on disk."""
    before = {p: p.stat().st_mtime_ns for p in Path(out).rglob("*")} if out.exists() else None
    found = convert_root(files, out, progress=False, plan=True, **options)
    after = {p: p.stat().st_mtime_ns for p in Path(out).rglob("*")} if out.exists() else None
    assert before == after
    return found


def told(found):
    return [(os.path.basename(i.path), i.action, i.rows, i.parts) for i in found]


def touch(path, by=10**9):
    s = os.stat(path)
    os.utime(path, ns=(s.st_atime_ns, s.st_mtime_ns + by))


def test_of_a_new_store(files, out):
    found = plan(files, out)
    assert told(found) == [("a.root", "convert", 10, 1), ("b.root", "convert", 20, 1), ("c.root", "convert", 30, 1)]
    assert [i.why for i in found] == ["new"] * 3
    assert [i.tree for i in found] == ["events"] * 3
    assert (found.parts, found.is_empty) == (3, False)
    assert "a.root" in repr(found)
    assert "3 to convert: " in repr(found)
    assert "3 parts to be written" in repr(found)
    assert "<table" in found._repr_html_()


def test_of_what_changed(files, out, tmp_path):
    run(files, out)
    assert plan(files, out).is_empty
    assert "nothing to do" in repr(plan(files, out))
    write_tree(files[1], C)
    more = write_tree(tmp_path / "d.root", A)
    found = plan([*files[:2], more], out, missing="drop")
    assert told(found) == [
        ("a.root", "keep", None, 0),
        ("b.root", "replace", 30, 1),
        ("d.root", "convert", 10, 1),
        ("c.root", "drop", 30, 0),
    ]
    assert "changed" in found.inputs[1].why
    run([*files[:2], more], out, missing="drop")
    check(out, *A, *C, *A)


def test_of_labels_and_options(files, out):
    run({f: {"year": 1} for f in files}, out)
    found = plan({f: {"year": 2} for f in files}, out)
    assert [i.action for i in found] == ["label"] * 3
    with pytest.raises(mm.OptionError, match="other options"):
        plan(files, out, fields="met")
    found = plan(files, out, fields="met", update=True)
    assert [(i.action, i.why) for i in found] == [("replace", "other options: fields")] * 3


def test_of_an_interrupted_call(files, out, monkeypatch):
    with monkeypatch.context() as m:
        m.setattr("mmdask.sources.converting.conversion.commit", lambda *a, **k: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(files[:2], out)
    assert [i.action for i in plan(files, out)] == ["resume", "resume", "convert"]
    assert [i.tree for i in plan(files, out)] == ["events"] * 3


def test_errors_are_those_of_the_call(files, out):
    Path(files[1]).write_bytes(b"no root file")
    with pytest.raises(mm.SourceError, match=r"b\.root: not a ROOT file"):
        plan(files, out)
    assert not out.exists()


@pytest.fixture
def decoded(monkeypatch):
    """The files that were opened for reading rows."""
    seen = []
    original = RootFiles.open
    monkeypatch.setattr(
        RootFiles, "open", lambda self, t: (seen.append(os.path.basename(t.source.path)), original(self, t))[1]
    )
    return seen


def test_contents_count_with_hash(files, out, decoded):
    run(files, out, check="hash")
    layer = next(Path(out, "parts").iterdir()).name
    assert len(read_layer(out, layer).source.hash) == 32
    touch(files[0])
    decoded.clear()
    run(files, out, check="hash")
    assert decoded == [], "the same contents at another time are the same"
    assert mm.open(out).generation == 1

    write_tree(files[1], [events(20, 9)])
    run(files, out, check="hash")
    assert decoded == ["b.root"]
    check(out, *A, events(20, 9), *C)
    run(files, out, check="hash")
    assert decoded == ["b.root"]


def test_other_contents_of_the_same_size_and_time(files, out, decoded):
    run(files, out, check="hash")
    stat = os.stat(files[0])
    data = bytearray(Path(files[0]).read_bytes())
    data[60] ^= 1  # a byte of the UUID in the header
    Path(files[0]).write_bytes(data)
    os.utime(files[0], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    decoded.clear()
    run(files, out)
    assert decoded == [], "size and time are the same"
    run(files, out, check="hash")
    assert decoded == ["a.root"]
    check(out, *A, *B, *C)
    decoded.clear()
    run(files, out, check="hash")
    assert decoded == []


def test_rows_without_a_hash_go_by_the_time(files, out, decoded):
    run(files, out)
    decoded.clear()
    run(files, out, check="hash")
    assert decoded == []
    touch(files[0])
    run(files, out, check="hash")
    assert decoded == ["a.root"]
    assert read_store(out)["number"].shape == (60,)


def test_check_is_stat_or_hash(files, out):
    with pytest.raises(mm.OptionError, match="check is 'stat' or 'hash', got 'md5'"):
        run(files, out, check="md5")
    with pytest.raises(mm.OptionError, match="workers is a number of processes"):
        run(files, out, workers=0)
    assert not out.exists()
