"""Options and paths of a conversion, and conversions that were interrupted."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from root_tools import (
    A,
    B,
    C,
    check,
    events,
    labelled,
    manifest,
    read_store,
    run,
    sources,
    write_tree,
)

from mmdask.errors import (
    CorruptStoreError,
    OptionError,
    SourceError,
    StoreExistsError,
    UnfinishedError,
)
from mmdask.sources.converting import conversion, work
from mmdask.sources.root.reader import RootFiles
from mmdask.sources.root.ttree import Branch
from mmdask.store.manifest import read_manifest
from mmdask.store.system import SYSTEM

# ---- options and paths ----------------------------------------------------------------------------------------------


def test_changed_options(files, out, opened):
    run(files, out)
    with pytest.raises(OptionError, match=r"fields was None and is \['met', 'pt'\].*update=True \(--update\)"):
        run(files, out, fields=["met", "pt"])
    with pytest.raises(OptionError, match=r"exclude was \[\] and is \['met'\]; part_nbytes was 1073741824 and is 99"):
        run(files, out, exclude="met", part_nbytes=99)
    check(out, *A, *B, *C)
    run(files, out, fields=["met", "pt"], update=True)
    assert list(read_store(out)) == ["met", "pt"]
    check(out, *[{k: c[k] for k in ("met", "pt")} for c in (*A, *B, *C)])
    opened.clear()
    run(files, out, fields=["met", "pt"])
    assert opened == []
    assert manifest(out)["generation"] == 2


@pytest.mark.parametrize(
    "kwargs", [{"part_nbytes": 0}, {"part_nbytes": 1.5}, {"missing": "ignore"}, {"fields": [1]}, {"exclude": [""]}]
)
def test_options_that_cannot_be_used(files, out, kwargs):
    with pytest.raises(OptionError):
        run(files, out, **kwargs)
    assert not out.exists()


def test_paths_that_are_taken(files, out, tmp_path):
    for name, make in {
        "file": lambda p: p.write_text("x"),
        "folder": lambda p: (p / "sub").mkdir(parents=True),
    }.items():
        make(tmp_path / name)
        with pytest.raises(StoreExistsError, match="exists and is not a store"):
            run(files, tmp_path / name)
    (tmp_path / "nothing").mkdir()
    run(files, tmp_path / "nothing")
    check(tmp_path / "nothing", *A, *B, *C)
    run(files, out)
    other = write_tree(tmp_path / "other.root", A)
    with pytest.raises(StoreExistsError, match=r"was converted from other sources \(.*a\.root"):
        run(other, out)
    with pytest.raises(StoreExistsError, match="other sources"):
        run(other, out, missing="drop")
    os.unlink(out / "conversion.json")
    with pytest.raises(StoreExistsError, match="was not converted from ROOT files"):
        run(files, out)


def test_parents_are_made_and_home_is_known(files, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    run(files, "~/deep/er/events.mm")
    check(tmp_path / "deep" / "er" / "events.mm", *A, *B, *C)


def test_damaged_conversion_json(files, out):
    run(files, out)
    path = out / "conversion.json"
    path.write_bytes(path.read_bytes().replace(b"null", b"true"))
    with pytest.raises(CorruptStoreError, match=r"conversion\.json"):
        run(files, out)


# ---- interrupted conversions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop_at", [1, 5, 8, 11])
def test_interrupted_and_resumed(files, out, opened, baskets, monkeypatch, stop_at):
    original = Branch.read
    calls = []

    def read_run(column, start, stop, wanted):
        calls.append(1)
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        return original(column, start, stop, wanted)

    monkeypatch.setattr(Branch, "read", read_run)
    with pytest.raises(KeyboardInterrupt):
        run(files, out)
    monkeypatch.setattr(Branch, "read", original)
    with pytest.raises(UnfinishedError, match="run the same call again"):
        read_manifest(out)
    finished = (stop_at - 1) // 4
    left = [p.name for p in Path(out, "parts").iterdir()]
    assert len(left) == finished
    assert not [name for name in left if ".tmp-" in name]
    with pytest.raises(OptionError, match="other options"):
        run(files, out, fields=["met"])
    opened.clear()
    baskets.clear()
    run(files, out)
    assert set(opened) == {"a.root", "b.root", "c.root"} - {f"{name}.root" for name in "abc"[:finished]}
    assert len(baskets) == 4 * 2 * (3 - finished)
    check(out, *A, *B, *C)


def test_interrupted_inside_a_file_of_several_parts(tmp_path, out, baskets, monkeypatch):
    chunks = [events(100, seed) for seed in range(6)]
    path = write_tree(tmp_path / "a.root", chunks)
    original = work.LayerWriter
    made = []

    class Stopping(original):
        def __init__(self, *args):
            made.append(1)
            if len(made) == 4:
                raise KeyboardInterrupt
            super().__init__(*args)

    monkeypatch.setattr(work, "LayerWriter", Stopping)
    with pytest.raises(KeyboardInterrupt):
        run(path, out, part_nbytes=3_500)
    monkeypatch.setattr(work, "LayerWriter", original)
    assert len(list(Path(out, "parts").iterdir())) == 3
    baskets.clear()
    run(path, out, part_nbytes=3_500)
    assert len(sources(out)) == 6
    assert len(baskets) == 4 * 3
    check(out, *chunks)


def test_interrupted_before_the_commit(files, out, opened, monkeypatch):
    monkeypatch.setattr(conversion, "commit", lambda *args, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(labelled(files, year=[2016] * 3), out)
    monkeypatch.undo()
    opened.clear()
    run(labelled(files, year=[2016] * 3), out)
    assert opened == []
    check(out, *A, *B, *C)


@pytest.mark.parametrize(
    ("call", "number", "code"),
    [
        ("mkdir", 1, errno.EACCES),
        ("mkdir", 3, errno.EROFS),
        ("create", 1, errno.EROFS),
        ("create", 6, errno.EACCES),
        ("write", 2, errno.ENOSPC),
        ("write", 15, errno.ENOSPC),
        ("rename", 2, errno.EDQUOT),
        ("rename", 6, errno.ENOSPC),
    ],
)
def test_a_disk_that_takes_nothing_more(files, out, monkeypatch, call, number, code):
    """The error keeps its type, names the store and says what to do; the same call then ends it."""
    original = getattr(SYSTEM, call)
    calls = []

    def failing(*args):
        calls.append(args)
        if len(calls) == number:
            raise OSError(code, os.strerror(code))
        return original(*args)

    monkeypatch.setattr(SYSTEM, call, failing)
    with pytest.raises(OSError, match=os.strerror(code)) as error:
        run(files, out)
    assert len(calls) >= number
    assert type(error.value) is type(OSError(code, ""))
    assert error.value.errno == code
    assert str(out) in str(error.value)
    (note,) = error.value.__notes__
    assert str(out) in note
    assert "the same call can be repeated" in note
    monkeypatch.undo()
    run(files, out)
    check(out, *A, *B, *C)


def test_our_own_errors_carry_no_note(files, out, monkeypatch):
    monkeypatch.setattr(RootFiles, "open", lambda *args: (_ for _ in ()).throw(SourceError("gone")))
    with pytest.raises(SourceError, match="gone") as error:
        run(files, out)
    assert not hasattr(error.value, "__notes__")


def test_leftovers_of_dead_conversions_do_no_harm(files, out):
    out.mkdir()
    (out / "conversion.json.tmp-1-ab").write_text("{")
    run(files[:2], out)
    group = sorted(p.name for p in Path(out, "parts").iterdir())[0][:32]
    (out / "parts" / f"{group}-0-of-2").mkdir()
    (out / "parts" / f"{'0' * 32}-0-of-1.tmp-12ab").mkdir()
    (out / "parts" / f"{'0' * 32}-0-of-1").mkdir()
    run(files, out)
    check(out, *A, *B, *C)


def test_killed_and_resumed(files, out):
    """SIGKILL in the middle of the second file; the same call goes on."""
    script = f"""
import os, signal
from mmdask.sources.root.ttree import Branch
from mmdask.sources.root import convert_root
original, calls = Branch.read, []
def read_run(*args):
    calls.append(1)
    if len(calls) == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args)
Branch.read = read_run
convert_root({files!r}, {str(out)!r}, progress=False)
"""
    dead = subprocess.run([sys.executable, "-c", script], check=False)
    assert dead.returncode == -9
    left = [p.name for p in Path(out, "parts").iterdir()]
    # the first may have been on its way to the disk
    assert sorted(".tmp-" in name for name in left) in ([False, True], [True, True])
    run(files, out)
    check(out, *A, *B, *C)
