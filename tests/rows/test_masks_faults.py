"""Computing and keeping cuts while something goes wrong: what was finished stays, and nothing wrong is ever read."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import warnings

import dask
import numpy as np
import pytest

import mmdask as mm
import mmdask.testing as mt
from mmdask.rows.cuts import masks, partcuts, passes
from mmdask.rows.rows import RESOLVED
from mmdask.store.system import SYSTEM, System

PARTS = 12
LENGTH = 50
X = np.random.default_rng(7).integers(0, 100, PARTS * LENGTH)


def forget():
    RESOLVED.clear()
    masks.LOADED.clear()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("faults") / "f.mm"
    with mm.create(path, fields=[mm.Field.dense("x", "i8")]) as w:
        for p in range(PARTS):
            w.extend({"x": X[p * LENGTH : (p + 1) * LENGTH]})
            w.checkpoint()
    return path


@pytest.fixture
def path(store, tmp_path):
    forget()
    return shutil.copytree(store, tmp_path / "f.mm")


def count():
    return int((X > 50).sum())


def kept(path):
    return sorted((path / "cache").rglob("*.mask"))


def check_all_right(path, reads_at_most=PARTS * LENGTH):
    """Nothing half-written lies about, and the cut is right."""
    forget()
    with mt.count_reads() as reads:
        assert mm.open(path).cut("x > 50").count() == count()
        sel = mm.open(path)
        np.testing.assert_array_equal(sel[sel.cut("x > 50")]["x"].compute(), X[X > 50])
    assert reads.rows.get("x", 0) <= reads_at_most + count()
    assert len(kept(path)) == PARTS
    assert not [f for f in (path / "cache").rglob("*") if ".tmp-" in f.name]


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_was_finished_before_an_interruption_is_kept(path, monkeypatch, scheduler, error):
    original = masks.MaskFiles.save

    def save(self, part, cut, mask, n):
        if len(kept(path)) == 5:
            raise error
        original(self, part, cut, mask, n)

    with monkeypatch.context() as patch, dask.config.set(scheduler=scheduler), pytest.raises(error):
        patch.setattr(masks.MaskFiles, "save", save)
        mm.open(path).cut("x > 50").count()
    assert len(kept(path)) == 5
    check_all_right(path, reads_at_most=(PARTS - 5) * LENGTH)


def test_interrupted_while_tasks_run(path, monkeypatch):
    original = partcuts.evaluate_rows
    done = []

    def evaluate(snapshot, part, start, stop, cuts):
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(part)
        return original(snapshot, part, start, stop, cuts)

    with monkeypatch.context() as patch, dask.config.set(scheduler="sync"), pytest.raises(KeyboardInterrupt):
        patch.setattr(partcuts, "evaluate_rows", evaluate)
        mm.open(path).cut("x > 50").count()
    assert len(kept(path)) == 4, "kept as soon as they were computed, not at the end"
    check_all_right(path, reads_at_most=(PARTS - 4) * LENGTH)


KILLED = """
    import os, signal, sys
    import mmdask as mm
    from mmdask.store.system import System
    calls = [0]
    original = getattr(System, sys.argv[2])
    def call(self, *args):
        calls[0] += 1
        if calls[0] == int(sys.argv[3]):
            if sys.argv[2] == "write":
                os.pwrite(args[0], bytes(args[1])[: len(args[1]) // 2], args[2])
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, *args)
    setattr(System, sys.argv[2], call)
    mm.open(sys.argv[1]).cut("x > 50").count()
"""


@pytest.mark.parametrize(("call", "number"), [("write", 9), ("rename", 7), ("mkdir", 3)])
def test_killed_at_any_call(path, call, number):
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), str(path), call, str(number)], check=False)
    assert done.returncode == -signal.SIGKILL
    before = len(kept(path))
    assert call == "mkdir" or 0 < before < PARTS
    left = list((path / "cache").rglob("*.tmp-*"))
    assert len(left) == (call != "mkdir")
    for file in left:
        file.unlink()  # as vacuum does
    check_all_right(path, reads_at_most=(PARTS - before) * LENGTH)


def test_vacuum_removes_what_a_killed_process_left(path):
    subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), str(path), "rename", "3"], check=False)
    assert list((path / "cache").rglob("*.tmp-*"))
    mm.vacuum(path, grace=0)
    assert not list((path / "cache").rglob("*.tmp-*"))
    check_all_right(path)


def test_a_full_disk_is_one_warning(path, monkeypatch):
    class Full(System):
        def write(self, fd, data, offset):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("mmdask.store.system.SYSTEM", Full())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ds = mm.open(path)
        assert ds.cut("x > 50").count() == count()
        np.testing.assert_array_equal(ds[ds.cut("x > 50")]["x"].compute(), X[X > 50])
    assert [("could not be kept" in str(w.message), w.category) for w in caught] == [(True, RuntimeWarning)]
    monkeypatch.undo()
    assert not list((path / "cache").rglob("*.*"))
    check_all_right(path)


def test_a_disk_that_fills_up_keeps_what_fitted(path, monkeypatch):
    calls = []

    class Filling(System):
        def create(self, path):
            calls.append(path)
            if len(calls) > 5:
                raise OSError(28, "No space left on device")
            return super().create(path)

    monkeypatch.setattr("mmdask.store.system.SYSTEM", Filling())
    with pytest.warns(RuntimeWarning, match="could not be kept"):
        assert mm.open(path).cut("x > 50").count() == count()
    monkeypatch.undo()
    assert len(kept(path)) == 5
    check_all_right(path, reads_at_most=(PARTS - 5) * LENGTH)


TOGETHER = """
    import sys, mmdask as mm
    ds = mm.open(sys.argv[1])
    sys.stdin.readline()
    for k in range(46, 54):
        print(ds.cut(f"x > {k} or x < 5").count(), ds.cut(f"not (x > {k})").count())
"""


def test_processes_that_compute_the_same_at_once(path):
    command = [sys.executable, "-c", textwrap.dedent(TOGETHER), str(path)]
    children = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for child in children:
        child.stdin.write("\n")
        child.stdin.flush()
    expected = [f"{np.count_nonzero(((x := X) > k) | (x < 5))} {np.count_nonzero(~(x > k))}" for k in range(46, 54)]
    for child in children:
        out, _ = child.communicate(timeout=300)
        assert child.returncode == 0
        assert out.split("\n")[:-1] == expected
    check_what_processes_kept(path)


def check_what_processes_kept(path):
    """Every mask is right, and together they answer every cut; who was first decides which of them a part has."""
    assert not [f for f in (path / "cache").rglob("*") if ".tmp-" in f.name]
    forget()
    x = X
    oracle = {"(x < 5)": x < 5}
    for k in range(46, 54):
        oracle |= {f"(x > {k})": x > k, f"((x > {k}) or (x < 5))": (x > k) | (x < 5)}
    ds = mm.open(path)
    starts = {part.layers[0]: number * LENGTH for number, part in enumerate(ds._rows.snapshot.parts)}
    for file in kept(path):
        _, _, line, body = file.read_bytes().split(b"\n", 3)
        head = json.loads(line)
        what = json.loads(head["text"])
        start = starts[what["layers"]["x"]]
        right = oracle[what["cut"]][start : start + LENGTH]
        assert (head["rows"], head["kept"]) == (LENGTH, np.count_nonzero(right))
        bits = np.packbits(right, bitorder="little").tobytes()
        assert (head["true"], body) == ("bits", bits) or (head["true"], body) == (right.all(), b"")
    with mt.count_reads() as reads:
        for text, right in oracle.items():
            if text != "(x < 5)":
                assert ds.cut(text).count() == np.count_nonzero(right)
    assert not reads.n_rows


def test_cleared_while_it_is_used(path):
    ds = mm.open(path)
    sel = ds[ds.cut("x > 50")]
    assert len(sel) == count()
    mm.vacuum(path, cuts=True)
    np.testing.assert_array_equal(sel["x"].compute(), X[X > 50])
    shutil.rmtree(path / "cache")
    check_all_right(path)


def test_after_an_append_of_a_hundredth_only_that_is_read(path):
    ds = mm.open(path)
    ds.cutflow(["x > 50", "not (x < 10)", "x % 7 == 1 or x == 3"])
    with mm.append(path) as w:
        w.extend({"x": [99, 1, 50, 51, 3, 8]})
    forget()
    with mt.count_reads() as reads:
        mm.open(path).cutflow(["x > 50", "not (x < 10)", "x % 7 == 1 or x == 3"])
    assert reads.rows == {"x": 6}


def test_vacuum_drops_cuts_when_asked(path):
    mm.open(path).cut("x > 50").count()
    files = [f for f in (path / "cache").rglob("*.*") if f.is_file()]
    assert len(files) == PARTS + 1
    report = mm.vacuum(path, cuts=True, dry_run=True)
    assert report.n_files == PARTS + 1
    assert mm.vacuum(path).n_files == 0
    assert mm.vacuum(path, cuts=True).n_files == PARTS + 1
    assert not kept(path)
    check_all_right(path)


@pytest.mark.parametrize("call", ["write", "rename"])
def test_vacuum_drops_cuts_while_another_process_keeps_one(path, monkeypatch, call):
    """What is being written is not what is kept: it goes when it has been left for longer than the grace period."""
    original, begun, found = getattr(System, call), [], []

    def vacuumed(self, *args):
        if not begun:
            begun.append(call)  # vacuum writes, too
            found.append(mm.vacuum(path, cuts=True))
        return original(self, *args)

    monkeypatch.setattr(System, call, vacuumed)
    assert mm.open(path).cut("x > 50").count() == count()
    assert [(report.n_files, report.n_waiting) for report in found] == [(0, 1)]
    check_all_right(path, reads_at_most=0)


def test_vacuum_keeps_what_kept_generations_need(path):
    mm.open(path).cut("x > 50").count()
    mm.annotate(path, attrs={"a": 1})
    with mm.append(path) as w:
        w.extend({"x": [99, 1]})
    mm.open(path).cut("x > 50").count()
    assert len(list((path / "cache").rglob("*.rows"))) == 2
    mm.vacuum(path, grace=0)
    assert len(list((path / "cache").rglob("*.rows"))) == 2, "the generation before can still be opened"
    mm.vacuum(path, keep=1, grace=0)
    assert len(list((path / "cache").rglob("*.rows"))) == 1
    with mt.count_reads() as reads:
        forget()
        assert mm.open(path).cut("x > 50").count() == count() + 1
    assert not reads.n_rows


def test_the_runner_may_finish_in_any_order(path):
    snapshot = mm.open(path)._rows.snapshot
    from mmdask.expr import check_cut

    def backwards(tasks, done):
        for i, (function, args) in reversed(list(enumerate(tasks))):
            done(i, function(*args))

    rows = passes.kept_bits(snapshot, [check_cut("x > 50", snapshot.schema)], backwards)
    assert rows.rows_between(0, len(X)).tolist() == np.flatnonzero(X > 50).tolist()


def test_the_system_is_asked_through_one_door(path, monkeypatch):
    seen = []
    for name in ("create", "write", "rename", "mkdir"):
        original = getattr(System, name)
        monkeypatch.setattr(System, name, lambda self, *args, n=name, o=original: (seen.append(n), o(self, *args))[1])
    mm.open(path).cut("x > 50").count()
    assert seen.count("create") == seen.count("rename") == PARTS + 1
    assert isinstance(SYSTEM, System)
    assert os.path.isdir(path / "cache" / "masks")
