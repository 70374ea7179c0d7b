"""Blocks of a writer, state by state: checkpoints, abort, errors, interrupts, forks, and what each leaves."""

from __future__ import annotations

import errno
import itertools
import multiprocessing
import os
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mmdask as mm
from mmdask.rows.reading.reader import read
from mmdask.sources.writing import transaction as transaction_module
from mmdask.sources.writing import writer as writer_module
from mmdask.store import layer_writer as layer_module
from mmdask.store.manifest import read_manifest
from mmdask.store.snapshot import open_snapshot
from mmdask.store.system import System
from tests.faults.keys import pressing


def xs(path):
    """The rows of the store, and that nothing else is in its folder."""
    try:
        snapshot = open_snapshot(path)
    except mm.StoreNotFoundError:
        assert not os.path.lexists(path)
        return None
    manifest = snapshot.manifest
    layers = os.listdir(os.path.join(path, "parts")) if manifest.layers else []
    assert set(layers) == manifest.layers
    assert all(p.rows for p in snapshot.parts)
    assert mm.verify(path).ok
    return read(snapshot, "x", 0, snapshot.rows).values.tolist() if "x" in snapshot.schema else []


class FailingOnce(System):
    """The real one, where a test may fail single calls: `at` counts down."""

    def __init__(self, name, at, error=errno.EIO, after=False):
        self.name, self.at, self.error, self.after = name, at, error, after

    def __getattribute__(self, name):
        method = object.__getattribute__(self, name)
        if name not in ("create", "write", "fsync", "fsync_folder", "rename", "mkdir", "truncate", "unlink"):
            return method

        def call(*args):
            if name == self.name:
                self.at -= 1
                if self.at == 0:
                    if self.after:
                        method(*args)
                    raise KeyboardInterrupt if self.error is None else OSError(self.error, os.strerror(self.error))
            return method(*args)

        return call


def use(patch, system):
    for module in [m for n, m in sys.modules.items() if n.startswith("mmdask.") and hasattr(m, "SYSTEM")]:
        patch.setattr(module, "SYSTEM", system)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 3)),
        st.tuples(st.just("extend"), st.integers(0, 5)),
        st.tuples(st.just("allocate"), st.integers(0, 4)),
        st.just(("checkpoint", 0)),
    ),
    max_size=12,
)


class PlannedError(Exception):
    pass


@settings(max_examples=60)
@given(
    blocks=st.lists(st.tuples(STEPS, st.sampled_from(["end", "error", "abort"])), min_size=1, max_size=3),
    part_nbytes=st.sampled_from([8, 30, 1 << 30]),
    declared=st.booleans(),
)
def test_any_blocks_leave_what_was_committed(memory_folder, blocks, part_nbytes, declared):
    path = Path(tempfile.mkdtemp(dir=memory_folder)) / "s.mm"
    numbers = itertools.count()
    committed, generation = None, 0
    for steps, end in blocks:
        if committed is None:
            known = declared
            w = mm.create(path, fields=[mm.Field.dense("x", "i8")] if declared else None, part_nbytes=part_nbytes)
        else:
            w = mm.append(path, part_nbytes=part_nbytes)
        new, in_block = [], 0
        try:
            with w:
                for step, n in steps:
                    rows = [next(numbers) for _ in range(n)]
                    if step == "append":
                        for x in rows:
                            w.append({"x": x})
                    elif step == "extend":
                        w.extend({"x": rows})
                    elif step == "allocate":
                        w.allocate("x", n, dtype="i8")[:] = rows
                    elif not known:
                        with pytest.raises(mm.SchemaError, match="declare them"):
                            w.checkpoint()
                        continue
                    else:
                        if committed is None or new:
                            generation += 1
                            in_block += len(new)
                            committed, new = [*(committed or []), *new], []
                        assert w.checkpoint() == generation
                        assert xs(path) == committed
                        continue
                    new += rows
                    known |= n > 0 or step == "allocate"
                if end == "error":
                    raise PlannedError
                if end == "abort":
                    w.abort()
                    assert xs(path) == committed
        except mm.SchemaError:
            assert not known
        except PlannedError as error:
            [note] = error.__notes__
            if in_block:
                assert note == (
                    f"{path}: {in_block} row{'s' if in_block > 1 else ''} of this block are committed, up to its last "
                    "checkpoint; those after it are not"
                )
            else:
                assert note == f"nothing of this block was committed to {path}"
        else:
            assert known or end == "abort"
            if end == "end" and (committed is None or new):
                committed, generation = [*(committed or []), *new], generation + 1
        assert xs(path) == committed
        assert committed is None or read_manifest(path).generation == generation


def test_a_checkpoint_of_a_new_store_makes_it_exist(tmp_path):
    path = tmp_path / "s.mm"
    with pytest.raises(PlannedError), mm.create(path, fields=[mm.Field.dense("x", "i8")], attrs={"a": 1}) as w:
        with pytest.raises(mm.StoreNotFoundError):
            mm.open(path)
        assert w.checkpoint() == 1
        assert len(mm.open(path)) == 0
        w.append({"x": 1})
        assert w.checkpoint() == 2
        assert w.checkpoint() == 2
        held = mm.open(path)
        w.append({"x": 2})
        raise PlannedError
    assert xs(path) == [1]
    assert held["x"].compute().tolist() == [1]
    assert dict(read_manifest(path).attrs) == {"a": 1}


def test_rows_that_give_no_field_cannot_be_counted(tmp_path):
    path = tmp_path / "s.mm"
    with mm.create(path, labels={"x": 1}) as w:
        for call in (lambda: w.append({}), lambda: w.extend({})):
            with pytest.raises(mm.SchemaError, match="cannot be counted"):
                call()
    with mm.append(path) as w:
        w.append({"x": 2})
    with mm.append(path, labels={"x": 3}) as w, pytest.raises(mm.SchemaError, match="cannot be counted"):
        w.append({})
    with mm.append(path) as w, pytest.raises(mm.SchemaError, match="no value for 'x'"):
        w.append({})
    assert xs(path) == [2]


def test_a_checkpoint_counts_what_others_committed(tmp_path):
    path = tmp_path / "s.mm"
    with mm.create(path) as w:
        w.append({"x": 0})
    with mm.append(path) as w, mm.append(path) as v:
        for i in range(3):
            w.append({"x": 10 + i})
            assert w.checkpoint() == 2 + 2 * i
            v.append({"x": 20 + i})
            assert v.checkpoint() == 3 + 2 * i
    assert xs(path) == [0, 10, 20, 11, 21, 12, 22]


def test_labels_of_categories_grow_over_checkpoints(tmp_path):
    path = tmp_path / "s.mm"
    with mm.create(path, fields=[mm.Field.category("c")], labels={"p": "q"}) as w:
        for c in "abcab":
            w.append({"c": c, "x": 1})
            w.checkpoint()
    assert mm.open(path).schema["c"].labels == ("a", "b", "c")
    assert [mm.open(path)[i]["c"] for i in range(5)] == list("abcab")
    assert xs(path) == [1] * 5


def test_an_aborted_writer_takes_no_more(tmp_path):
    path = tmp_path / "s.mm"
    with mm.create(path) as w:
        w.append({"x": 1})
        w.abort()
        calls = [lambda: w.append({"x": 1}), lambda: w.extend({"x": [1]}), lambda: w.allocate("x", 1, dtype="i8")]
        for call in [*calls, w.checkpoint, w.abort]:
            with pytest.raises(mm.OptionError, match=r"was aborted, it takes no more; open another one by mm\.append"):
                call()
    assert xs(path) is None
    with pytest.raises(PlannedError) as caught, mm.create(path) as w:
        w.abort()
        raise PlannedError
    assert not getattr(caught.value, "__notes__", [])
    for call in (w.checkpoint, w.abort):
        with pytest.raises(mm.OptionError, match="aborted"):
            call()
    with mm.create(path) as w:
        w.append({"x": 1})
    for call in (w.checkpoint, w.abort, lambda: w.allocate("x", 1)):
        with pytest.raises(mm.OptionError, match="inside its block"):
            call()
    assert xs(path) == [1]


def test_a_writer_that_failed_can_be_aborted(tmp_path, monkeypatch):
    path = tmp_path / "s.mm"
    with mm.create(path) as w:
        w.append({"x": 1})
        w.checkpoint()
        with monkeypatch.context() as patch:
            use(patch, FailingOnce("write", 1, errno.ENOSPC))
            with pytest.raises(OSError, match="No space"):
                w.extend({"x": [2]})
        with pytest.raises(mm.OptionError, match="No space.*nothing after the last checkpoint will be committed"):
            w.checkpoint()
        w.abort()
    assert xs(path) == [1]


def write_something(path, base):
    """One block with everything in it, in a store that has the row 0 or is to be created."""
    with mm.append(path) if base else mm.create(path, aux={"edges": [0.0, 1.0]}) as w:
        w.append({"x": 1, "t": "a", "r": [1]})
        w.extend({"x": [2, 3], "t": ["b", "c"], "r": [[], [1]]})
        w.checkpoint()
        a = w.allocate("x", 2, dtype="i8")
        w.extend({"t": ["d", "e"], "r": [[], [1]]})
        a[:] = [4, 5]
    return [1, 2, 3], [1, 2, 3, 4, 5]


@pytest.mark.parametrize("base", [False, True])
@pytest.mark.parametrize("error", [errno.EIO, None], ids=["EIO", "interrupt"])
@pytest.mark.parametrize("after", [False, True])
def test_any_failing_call_ends_the_writer_and_leaves_a_whole_store(memory_path, monkeypatch, base, error, after):
    """Each call of each kind fails once, before or after it was done: old or new state, and nothing beside it."""
    seen = set()
    for name in ("create", "write", "fsync", "fsync_folder", "rename", "mkdir", "truncate"):
        for at in itertools.count(1):
            path = memory_path / f"{name}{at}.mm"
            if base:
                with mm.create(path) as w:
                    w.append({"x": 0, "t": "", "r": [0]})
            system = FailingOnce(name, at, error, after)
            failure = None
            with monkeypatch.context() as patch:
                use(patch, system)
                try:
                    first, second = write_something(path, base)
                except (OSError, KeyboardInterrupt) as caught:
                    failure = caught
            if system.at > 0:
                assert failure is None
                break
            whole = [0] if base else []
            first, second = [1, 2, 3], [1, 2, 3, 4, 5]
            rows = tidy_xs(path)
            assert rows in ([0] if base else None, [*whole, *first], [*whole, *second])
            committed = 0 if rows is None else len(rows) - len(whole)
            if failure is None:  # the system only refused what does not matter
                assert committed == 5
            else:
                notes = " ".join(getattr(failure, "__notes__", [f"nothing of this block was committed to {path}"]))
                certain = "not certain" not in notes
                assert certain == ("may have happened" not in notes)
                if certain and not committed:
                    assert f"nothing of this block was committed to {path}" in notes
                elif certain:
                    assert "3 rows of this block are committed, up to its last checkpoint" in notes
                    assert committed == 3
                seen.add((certain, committed))
            # the path can be used again
            with mm.append(path) if rows is not None else mm.create(path) as w:
                w.append({"x": 9, "t": "", "r": [0]})
            assert tidy_xs(path)[-1] == 9
        assert at > 1
    assert {(True, 0), (True, 3), (False, 3), (False, 5)} <= seen


def tidy_xs(path):
    """As `xs`, where a failed commit may have left its own folders: no layer and no row of it."""
    if not os.path.exists(os.path.join(path, "manifest.json")):
        left = set(os.listdir(path)) if os.path.isdir(path) else set()
        assert left <= {"history", ".lock"}, left
        return None
    manifest = read_manifest(path)
    assert set(os.listdir(os.path.join(path, "parts"))) == manifest.layers
    assert mm.verify(path).ok
    snapshot = open_snapshot(path)
    return read(snapshot, "x", 0, snapshot.rows).values.tolist()


def test_a_failed_sync_is_never_tried_again(tmp_path, monkeypatch):
    path = tmp_path / "s.mm"
    with mm.create(path) as w:
        w.append({"x": 0})
    syncs = []

    class Failing(System):
        def fsync(self, fd):
            syncs.append(fd)
            raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(mm.OptionError, match="Input/output error"), mm.append(path) as w:
        w.append({"x": 1})
        with monkeypatch.context() as patch:
            use(patch, Failing())
            with pytest.raises(OSError, match="Input/output"):
                w.checkpoint()
            count = len(syncs)
            for call in (w.checkpoint, lambda: w.append({"x": 1}), lambda: w.allocate("x", 1)):
                with pytest.raises(mm.OptionError, match="lost by an earlier error .*Input/output error"):
                    call()
            assert len(syncs) == count > 0
    assert xs(path) == [0]


@pytest.mark.parametrize("base", [False, True])
def test_a_commit_that_the_disk_did_not_confirm_says_so(tmp_path, monkeypatch, base):
    """The folder's sync after the rename of the manifest fails: the rows are there, and must stay."""
    path = tmp_path / "s.mm"
    if base:
        with mm.create(path) as w:
            w.append({"x": 0})

    class Failing(System):
        renamed = False

        def rename(self, old, new):
            super().rename(old, new)
            self.renamed |= new.endswith("manifest.json")

        def fsync_folder(self, path):
            if self.renamed:
                raise OSError(errno.EIO, "Input/output error")
            super().fsync_folder(path)

    with monkeypatch.context() as patch:
        use(patch, Failing())
        with pytest.raises(OSError, match="Input/output") as caught, mm.append(path) if base else mm.create(path) as w:
            w.append({"x": 1})
    notes = "\n".join(caught.value.__notes__)
    assert f"the commit may have happened: readers see generation {1 + base}" in notes
    assert f"whether the last rows of this block are committed to {path} is not certain" in notes
    assert xs(path) == ([0, 1] if base else [1])


def test_interrupts_at_any_line_leave_the_store_as_it_was_or_is(memory_path):
    """Ctrl-C at every line of the writer that runs in a block, one after the other."""
    files = {module.__file__ for module in (writer_module, transaction_module, layer_module)}
    path = memory_path / "s.mm"
    outcomes = set()
    for at in itertools.count(1, 7):
        if path.exists():
            shutil.rmtree(path)
        with mm.create(path) as w:
            w.append({"x": 0})
        lines = 0

        def trace(frame, event, arg, at=at):
            nonlocal lines
            if frame.f_code.co_filename not in files:
                return None
            if event == "line":
                lines += 1
                if lines == at:
                    raise KeyboardInterrupt
            return trace

        done = False
        try:
            with mm.append(path) as w:
                sys.settrace(trace)
                w.append({"x": 1})
                w.extend({"x": [2, 3]})
                w.checkpoint()
                w.extend({"x": [4]})
                sys.settrace(None)
                done = True
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        rows = tidy_xs(path)
        assert rows in ([0], [0, 1, 2, 3], [0, 1, 2, 3, 4])
        assert not done or rows == [0, 1, 2, 3, 4]
        outcomes.add(len(rows))
        if done:
            break
    assert at > 300
    assert outcomes == {1, 4, 5}


def test_ctrl_c_while_a_large_extend_is_written(memory_path):
    path = memory_path / "s.mm"
    with mm.create(path) as w:
        w.append({"x": 0})
    x = np.zeros(1 << 20, "i8")
    with pytest.raises(KeyboardInterrupt) as caught, pressing() as press, mm.append(path, part_nbytes=1 << 20) as w:
        press(0.1)
        for _ in range(500):
            w.extend({"x": x})
        time.sleep(60)
    assert caught.value.__notes__ == [f"nothing of this block was committed to {path}"]
    assert xs(path) == [0]


def test_no_thread_is_started_for_each_part(tmp_path, monkeypatch):
    """Of many that end, an interrupt would meet one that Python forgets, and drops it there."""
    started, start = [], threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", lambda self: (started.append(self), start(self))[1])
    with mm.create(tmp_path / "s.mm", part_nbytes=1 << 10) as w:
        w.extend({"x": np.arange(1 << 12), "r": [[i] for i in range(1 << 12)]})
    assert len(read_manifest(tmp_path / "s.mm").parts) > 30
    assert len(started) < 8


def test_a_forked_child_cannot_write_to_its_parents_block(tmp_path):
    path = tmp_path / "s.mm"

    def child(w, a):
        for call in (
            lambda: w.append({"x": 7}),
            lambda: w.extend({"x": [7]}),
            lambda: w.allocate("x", 1),
            w.checkpoint,
            w.abort,
        ):
            with pytest.raises(mm.OptionError, match="belongs to process .*; a child appends through"):
                call()
        w.__exit__(None, None, None)
        w.__exit__(PlannedError, PlannedError(), None)
        a[0] = 7  # this is what a child can do

    with mm.create(path) as w:
        w.extend({"x": [1]})
        w.append({"x": 2})
        a = w.allocate("x", 1)
        process = multiprocessing.get_context("fork").Process(target=child, args=(w, a))
        process.start()
        process.join()
        assert process.exitcode == 0
        w.append({"x": 3})
    assert xs(path) == [1, 2, 7, 3]


def test_generators_that_are_closed_commit_nothing(tmp_path):
    def rows():
        with mm.create(tmp_path / "s.mm") as w:
            while True:
                w.append({"x": (yield)})

    g = rows()
    next(g)
    g.send(1)
    g.close()
    assert xs(tmp_path / "s.mm") is None


def test_attrs_and_aux_of_a_new_store(tmp_path):
    path = tmp_path / "s.mm"
    aux = {"edges": np.linspace(0, 1, 5), "classes": ["b", "light"], "lists": [[1], [2, 3]], "lumi": 139.0}
    with mm.create(path, attrs={"run": 3, "tags": ("a", None)}, aux=aux) as w:
        w.append({"x": 1})
        w.checkpoint()
        w.append({"x": 2})
    manifest = read_manifest(path)
    assert manifest.attrs == {"run": 3, "tags": ["a", None]}
    assert list(manifest.aux) == list(aux)
    assert manifest.aux["edges"].describe() == "float64 (5,)"
    assert len(manifest.aux_layers) == 1
    ds = mm.open(path)
    np.testing.assert_array_equal(ds.aux["edges"], aux["edges"])
    assert list(ds.aux["classes"]) == ["b", "light"]
    assert [list(row) for row in ds.aux["lists"]] == aux["lists"]
    assert ds.aux["lumi"] == 139.0
    assert xs(path) == [1, 2]


@pytest.mark.parametrize(
    ("kwargs", "error", "words"),
    [
        ({"attrs": {"a": np.float32(1)}}, mm.OptionError, r"attrs\['a'\]: float32; give .* x.tolist"),
        ({"attrs": {"a": [1, {"b": {1}}]}}, mm.OptionError, r"attrs\['a'\]\[1\]\['b'\]: set"),
        ({"attrs": {"a": float("nan")}}, mm.OptionError, "nan, which JSON does not know"),
        ({"attrs": {0: 1}}, mm.OptionError, "a key that is not text: 0"),
        ({"attrs": {"a": "\ud800"}}, mm.OptionError, "utf-8"),
        ({"attrs": {"a": 1 << 70}}, mm.OptionError, "64 bits"),
        ({"attrs": {"a": "x" * (17 << 20)}}, mm.OptionError, "the limit is"),
        ({"attrs": [1]}, mm.OptionError, "attrs is a mapping"),
        ({"fields": [mm.Field.dense("x", "f4", attrs={"a": b""})]}, mm.OptionError, r"field 'x'\['a'\]: bytes"),
        ({"fields": [mm.Field.dense("x", "f4"), mm.Field.dense("x", "f4")]}, mm.SchemaError, "two fields"),
        ({"fields": ["x"]}, mm.OptionError, r"fields are made by .* .*\[mm\.Field\.dense\('a', 'f4'\)\]; got str"),
        ({"fields": {"a": "f4"}}, mm.OptionError, r"a list, as in fields=\[mm\.Field\.dense\('a', 'f4'\)\]; got dict"),
        ({"fields": {}}, mm.OptionError, "a list, .* got dict"),
        ({"fields": mm.Field.dense("x", "f4")}, mm.OptionError, "a list, .* got Field"),
        ({"fields": "x"}, mm.OptionError, "a list, .* got str"),
        ({"fields": 3}, mm.OptionError, "a list, .* got int"),
        ({"aux": {"a": None}}, mm.SchemaError, "'a'"),
        ({"aux": {"a": object()}}, mm.SchemaError, "'a'"),
        ({"aux": [1]}, mm.OptionError, "aux is a mapping"),
        ({"labels": {"p": None}}, mm.SchemaError, "label 'p'"),
        ({"labels": {"p": "a"}, "fields": [mm.Field.category("p")]}, mm.SchemaError, "both a field and a label"),
        ({"part_nbytes": 0}, mm.OptionError, "at least 1 byte"),
        ({"part_nbytes": "1 GB/s"}, mm.OptionError, "256MiB"),
        ({"part_nbytes": -1}, mm.OptionError, "number of bytes"),
    ],
)
def test_what_cannot_be_noted_is_refused_at_once(tmp_path, kwargs, error, words):
    with pytest.raises(error, match=words):
        mm.create(tmp_path / "s.mm", **kwargs)
    assert not list(tmp_path.iterdir())


def test_nested_attrs_have_an_end(tmp_path):
    itself: list = []
    itself.append(itself)
    with pytest.raises(mm.OptionError, match="within itself"):
        mm.create(tmp_path / "s.mm", attrs={"a": itself})


def test_fields_that_are_computed_are_not_given(tmp_path):
    path = tmp_path / "s.mm"
    with mm.create(path) as w:
        w.append({"x": 1})
    mm.assign(path, y="2 * x")
    with mm.append(path) as w:
        w.append({"x": 2})
        w.checkpoint()
        w.extend({"x": [3, 4]})
        w.allocate("x", 1)[0] = 5
        for call in (
            lambda: w.append({"x": 1, "y": 2}),
            lambda: w.extend({"x": [1], "y": [2]}),
            lambda: w.allocate("y", 1),
        ):
            with pytest.raises(mm.SchemaError, match=r"'y' is computed, from '2 \* x'; rows do not give it"):
                call()
    with pytest.raises(mm.SchemaError, match="'y' is computed"):
        mm.append(path, labels={"y": 1})
    assert mm.open(path)["y"].compute().tolist() == [2, 4, 6, 8, 10]


def test_fields_that_others_added_or_dropped_meanwhile(tmp_path):
    path = tmp_path / "s.mm"
    with mm.create(path) as w:
        w.append({"x": 1, "z": 1})
    with mm.append(path) as w:
        w.append({"x": 2, "z": 2})
        w.checkpoint()
        mm.drop(path, "z")
        w.append({"x": 3, "z": 3})
        w.checkpoint()
        mm.assign(path, y="2 * x")
        w.append({"x": 4, "z": 4})
        w.checkpoint()
        w.append({"x": 5, "z": 5})
    ds = mm.open(path)
    assert ds["y"].compute().tolist() == [2, 4, 6, 8, 10]
    assert list(ds.schema) == ["x", "y"]
    with pytest.raises(mm.ConflictError, match="another process added the field 'q'"), mm.append(path) as w:
        w.append({"x": 6})
        mm.assign(path, q=np.arange(5))
    assert len(mm.open(path)) == 5


# What a vacuum beside an open block removes --------------------------------------------------------------------------

REMOVED = r"removed meanwhile, by vacuum.*write these rows again \(a longer grace="


@pytest.mark.parametrize("rows", [1, 5000])
@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_block_whose_files_were_removed_is_a_conflict(tmp_path, rows, checkpoint):
    path = tmp_path / "s.mm"
    mm.from_arrays({"x": [1]}, path)
    with pytest.raises(mm.ConflictError, match=REMOVED) as caught, mm.append(path) as w:
        if checkpoint:
            w.extend({"x": [2]})
            w.checkpoint()
        w.extend({"x": np.arange(rows)})
        mm.vacuum(path, grace=0, keep=1)
        w.extend({"x": np.arange(rows)})
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    committed = f"{path}: 1 row of this block are committed, up to its last checkpoint; those after it are not"
    assert caught.value.__notes__ == [committed if checkpoint else f"nothing of this block was committed to {path}"]
    assert xs(path) == ([1, 2] if checkpoint else [1])


def test_removed_files_are_found_by_many_fields_and_by_a_checkpoint(tmp_path):
    path = tmp_path / "s.mm"
    row = {"x": [1]} | {f"f{i}": [i] for i in range(250)}  # files that are opened for each write
    mm.from_arrays(row, path)
    with pytest.raises(mm.OptionError, match="lost by an earlier error.*removed meanwhile"), mm.append(path) as w:
        w.extend(row)
        mm.vacuum(path, grace=0, keep=1)
        with pytest.raises(mm.ConflictError, match=REMOVED):
            w.extend(row)
    with pytest.raises(mm.ConflictError, match=REMOVED), mm.append(path) as w:
        w.extend(row)
        mm.vacuum(path, grace=0, keep=1)
        w.checkpoint()
    assert xs(path) == [1]


@pytest.mark.parametrize("assigned", [False, True])
def test_allocated_rows_that_were_removed_are_a_conflict(tmp_path, assigned):
    path = tmp_path / "s.mm"
    mm.from_arrays({"x": [1]}, path)
    with pytest.raises(mm.ConflictError, match=REMOVED), mm.append(path) as w:
        a = w.allocate("x", 3)
        mm.vacuum(path, grace=0, keep=1)
        if assigned:
            a[:] = 2
    with pytest.raises(mm.OptionError, match="the block of their writer has ended"):
        a[:] = 2
    assert xs(path) == [1]


# Rows that were given one by one -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "good", "note"),
    [
        (0, 0, "it is the last row that was appended, row 0 of this block"),
        (10, 0, "it is the last row that was appended, row 10 of this block"),
        (10, 8, "it is among the last 9 rows that were appended, of which row 0 is row 10 of this block"),
        (0, 5000, "it is among the last 905 rows that were appended, of which row 0 is row 4,096 of this block"),
    ],
)
@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_row_that_does_not_fit_is_named_within_its_block(tmp_path, before, good, note, checkpoint):
    path = tmp_path / "s.mm"
    with mm.create(path, fields=[mm.Field.dense("x", "i4")]) as w:
        w.extend({"x": np.arange(3)})
    with pytest.raises(mm.SchemaError, match=f"row {good % 4096} ") as caught, mm.append(path) as w:
        w.extend({"x": np.arange(before)})
        if checkpoint:
            w.checkpoint()
        for i in range(good):
            w.append({"x": i})
        w.append({"x": None})
    assert note in caught.value.__notes__


def test_an_error_of_the_disk_is_not_one_of_a_row(tmp_path, monkeypatch):
    path = tmp_path / "s.mm"
    with pytest.raises(OSError, match="No space") as caught, mm.create(path) as w:
        w.append({"x": 1})
        use(monkeypatch, FailingOnce("write", 1, errno.ENOSPC))
    assert caught.value.__notes__ == [f"nothing of this block was committed to {path}"]


def test_a_field_that_was_replaced_meanwhile_is_a_conflict(tmp_path):
    path = tmp_path / "s.mm"
    mm.from_arrays({"x": [1, 2], "y": [0, 0]}, path)
    w = mm.append(path)
    with pytest.raises(mm.ConflictError, match="replaced the field 'x'"), w:
        w.extend({"x": [3], "y": [0]})
        mm.assign(path, x=np.array([10, 20]), replace=True, progress=False)
    assert mm.open(path)["x"].compute().tolist() == [10, 20]
    with mm.append(path) as w:
        w.extend({"x": [30], "y": [0]})
        mm.assign(path, z="x + y", progress=False)  # one that is computed harms nobody
    assert mm.open(path)["z"].compute().tolist() == [10, 20, 30]
