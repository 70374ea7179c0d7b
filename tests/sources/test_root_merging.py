"""Many small files: one part for several of them, each tracked by itself."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import uproot
from hypothesis import given, settings
from hypothesis import strategies as st

import mmdask as mm
from mmdask.sources.converting import jobs
from mmdask.sources.converting.table import UnreadableError
from mmdask.sources.root.reader import RootFiles
from mmdask.sources.root.ttree import Branch
from mmdask.store.manifest import read_manifest


@pytest.fixture(autouse=True)
def many(monkeypatch):
    """More than two parts are many."""
    monkeypatch.setattr(jobs, "MANY", 2)


@pytest.fixture
def files(tmp_path):
    return [write(tmp_path / f"{i}.root", range(10 * i, 10 * i + 10)) for i in range(6)]


@pytest.fixture
def out(tmp_path):
    return tmp_path / "o.mm"


@pytest.fixture
def decoded(monkeypatch):
    """The files that were opened for reading rows."""
    seen = []
    original = RootFiles.open

    def opened(self, table):
        seen.append(os.path.basename(table.source.path))
        return original(self, table)

    monkeypatch.setattr(RootFiles, "open", opened)
    return seen


def write(path, numbers):
    numbers = np.array(list(numbers), np.int64)
    branches = {"k": numbers, "x": numbers * 0.5}
    with uproot.recreate(path) as f:
        f.mktree("t", {name: values.dtype for name, values in branches.items()}).extend(branches)
    stamp = write.clock = getattr(write, "clock", 10**18) + 10**9  # clocks of files are coarse
    os.utime(path, ns=(stamp, stamp))
    return str(path)


def run(files, out, labels=None, **options):
    sources = files if labels is None else dict(zip(files, labels, strict=True))
    return mm.from_root(sources, out, progress=False, **options)


def n_parts(out):
    return len(read_manifest(out).parts)


def check(ds, *numbers):
    assert ds["k"].compute().tolist() == list(numbers)
    assert ds["x"].compute().tolist() == [n * 0.5 for n in numbers]
    assert mm.verify(ds.path).ok


def test_small_files_become_one_part(files, out, decoded):
    ds = run(files, out)
    check(ds, *range(60))
    assert n_parts(out) == 1
    assert [(os.path.basename(s.uri), s.rows) for s in ds.sources] == [(f"{i}.root", 10) for i in range(6)]
    decoded.clear()
    assert run(files, out).generation == ds.generation
    assert decoded == []
    assert mm.from_root(files, out, plan=True).is_empty


def test_only_the_changed_file_is_read_again(files, out, decoded):
    run(files, out)
    mm.vacuum(out, keep=1, grace=0)
    decoded.clear()
    write(files[2], [7, 8])
    ds = run(files, out)
    assert decoded == ["2.root"]
    check(ds, *range(20), 7, 8, *range(30, 60))
    assert n_parts(out) == 1
    assert [s.rows for s in ds.sources] == [10, 10, 2, 10, 10, 10]
    assert [s.stop for s in ds.sources] == [10, 10, 2, 10, 10, 10]
    decoded.clear()
    assert run(files, out).generation == ds.generation
    assert decoded == []


def test_a_file_that_goes_and_one_that_comes(files, out, decoded):
    run(files[:5], out)
    decoded.clear()
    os.remove(files[1])
    with pytest.raises(mm.SourceNotFoundError):
        run(files, out)
    rest = [files[0], *files[2:]]
    check(run(rest, out, missing="drop"), *range(10), *range(20, 60))
    assert decoded == ["5.root"]
    assert n_parts(out) == 1


def test_a_file_that_goes_alone_is_no_reason_to_read(files, out, decoded):
    run(files, out)
    decoded.clear()
    check(run(files[1:], out, missing="drop"), *range(10, 60))
    assert decoded == []


def test_labels_part_and_stand_beside(files, out, decoded):
    labels = [{"process": name, "year": 2016} for name in "aaabbb"]
    ds = run(files, out, labels)
    check(ds, *range(60))
    assert n_parts(out) == 2, "only files with equal labels become one part"
    assert ds["process"].compute().tolist() == [*"a" * 30, *"b" * 30]
    decoded.clear()

    labels = [{"process": name, "year": 2017} for name in "aaaccc"]
    ds = run(files, out, labels)
    assert ds["process"].compute().tolist() == [*"a" * 30, *"c" * 30]
    assert ds["year"].compute().tolist() == [2017] * 60
    assert (decoded, n_parts(out)) == ([], 2)

    labels[1] = {"process": "d", "year": 2017}
    ds = run(files, out, labels)
    assert ds["process"].compute().tolist() == [*"a" * 10, *"d" * 10, *"a" * 10, *"c" * 30]
    check(ds, *range(60))
    assert (decoded, n_parts(out)) == ([], 4), "rows of one part have equal labels; they were copied, not read"
    assert run(files, out, labels).generation == ds.generation


def test_compact_of_merged_parts_is_understood(files, out, decoded):
    labels = [{"process": name} for name in "aaabbb"]
    run(files, out, labels)
    mm.compact(out, progress=False)
    assert n_parts(out) == 1
    generation = mm.open(out).generation
    decoded.clear()
    assert run(files, out, labels).generation == generation
    write(files[4], [1])
    ds = run(files, out, labels)
    check(ds, *range(40), 1, *range(50, 60))
    assert ds["process"].compute().tolist() == [*"a" * 30, *"b" * 21]
    assert decoded == ["4.root"]


def test_expressions_are_computed_for_new_merged_parts(files, out, decoded):
    run(files[:3], out, [{"year": 2016}] * 3)
    mm.assign(out, y="k * 2 + year")
    write(files[1], [1, 2])
    ds = run(files, out, [{"year": 2016}] * 6)
    numbers = [*range(10), 1, 2, *range(20, 60)]
    check(ds, *numbers)
    assert ds["y"].compute().tolist() == [2 * n + 2016 for n in numbers]
    ds = run(files, out, [{"year": 1}] * 6)
    assert ds["y"].compute().tolist() == [2 * n + 1 for n in numbers]


def test_a_cut_aliases_and_sums_per_file(files, out):
    options = {"cut": "k % 2 == 0", "aliases": {"z": "k + 1"}, "weights": ["k"]}
    ds = run(files, out, **options)
    check(ds, *range(0, 60, 2))
    assert ds["z"].compute().tolist() == list(range(1, 61, 2))
    assert [(s.rows, s.stop - s.start) for s in ds.sources] == [(5, 10)] * 6
    assert [s.weights[0].sum for s in ds.sources] == [float(sum(range(10 * i, 10 * i + 10))) for i in range(6)]
    write(files[3], [4])
    ds = run(files, out, **options)
    check(ds, *range(0, 30, 2), 4, *range(40, 60, 2))
    assert ds.schema["z"].expression == "k + 1"
    assert [s.weights[0].sum for s in ds.sources][3:5] == [4.0, 445.0]


def test_a_field_that_one_file_loses_comes_back(files, out, decoded, monkeypatch):
    original = Branch.read

    def read(self, *args):
        if self.name == "x" and os.path.basename(self.branch.file.file_path) == "3.root":
            raise UnreadableError("damaged")
        return original(self, *args)

    monkeypatch.setattr(Branch, "read", read)
    with pytest.warns(mm.SkippedFieldsWarning, match=r"'x' in .*3\.root"):
        ds = run(files, out)
    assert list(ds.fields) == ["k"]
    assert n_parts(out) == 1
    monkeypatch.setattr(Branch, "read", original)
    decoded.clear()
    write(files[3], range(30, 40))
    check(run(files, out), *range(60))
    assert sorted(decoded) == [f"{i}.root" for i in range(6)], "x of the others was not kept"


def test_what_a_dead_call_left_is_taken(files, out, decoded, monkeypatch):
    monkeypatch.setattr("mmdask.sources.converting.conversion.commit", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(files, out)
    monkeypatch.undo()
    monkeypatch.setattr(jobs, "MANY", 2)
    seen = []
    monkeypatch.setattr(RootFiles, "inspect", lambda self, s: seen.append(s))
    check(run(files, out), *range(60))
    assert seen == []


def test_what_a_dead_call_left_in_another_order_is_not(files, out, monkeypatch):
    with monkeypatch.context() as m:
        m.setattr("mmdask.sources.converting.conversion.commit", lambda *a, **k: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run([files[0], *files[2:]], out)
    check(run(files, out), *range(60))


@settings(max_examples=12, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["change", "drop", "add", "label", "compact", "vacuum"]), st.integers(0, 5))))
def test_any_history_gives_what_one_call_gives(tmp_path_factory, history):
    """After each step the store holds the rows of the files as they are now, in an order that a list keeps, too."""
    folder = tmp_path_factory.mktemp("h")
    out = folder / "o.mm"
    names = [str(folder / f"{i}.root") for i in range(8)]
    content = {f: [10 * i, 10 * i + 1] for i, f in enumerate(names)}
    for f in names:
        write(f, content[f])
    rows, labels = names[:4], dict.fromkeys(names, "a")

    def converted():
        ds = mm.from_root({f: {"l": labels[f]} for f in rows}, out, missing="drop", progress=False)
        assert ds["k"].compute().tolist() == [n for f in rows for n in content[f]]
        assert ds["l"].compute().tolist() == [labels[f] for f in rows for _ in content[f]]
        assert [s.uri for s in ds.sources] == rows

    converted()
    for i, (what, k) in enumerate(history):
        f = rows[k % len(rows)]
        if what == "change":
            content[f] = [1000 + i] * (k + 1)
            write(f, content[f])
        elif what == "drop" and len(rows) > 1:
            rows = [r for r in rows if r != f]
        elif what == "add":
            rows = rows + [n for n in names if n not in rows][:2]
        elif what == "label":
            labels[f] = "abc"[k % 3]
        elif what == "compact":
            mm.compact(out, progress=False)
        elif what == "vacuum":
            mm.vacuum(out, keep=1, grace=0)
        converted()
    assert mm.verify(out).ok
    shutil.rmtree(Path(folder))
