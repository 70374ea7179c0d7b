"""Conversions of several files: what is read again, what stays, what raises. Counts, not times."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import uproot
from root_tools import columns, events, manifest, part_layers, read_store, sources, write_tree

from mmdask.errors import (
    ConflictError,
    CorruptStoreError,
    FieldNotFoundError,
    OptionError,
    SchemaError,
    SkippedFieldsWarning,
    SourceError,
    SourceNotFoundError,
    StoreExistsError,
    UnfinishedError,
)
from mmdask.schema import Field, FieldData
from mmdask.sources import conversion, rootfile
from mmdask.sources.root import convert_root
from mmdask.store.commit import commit
from mmdask.store.layer import LayerWriter, new_id, read_layer
from mmdask.store.manifest import Part, read_manifest


@pytest.fixture
def out(tmp_path):
    return tmp_path / "events.mm"


@pytest.fixture
def files(tmp_path):
    """Three files of 10, 20 and 30 rows, two baskets each."""
    return [
        write_tree(tmp_path / f"{name}.root", [events(n // 2, seed), events(n // 2, seed + 1)])
        for seed, (name, n) in enumerate([("a", 10), ("b", 20), ("c", 30)])
    ]


def rewrite(path, chunks):
    """Replace a file; its time differs even where the clock is coarse."""
    before = os.stat(path).st_mtime_ns
    write_tree(path, chunks)
    os.utime(path, ns=(before + 10**9, before + 10**9))


def run(*args, **kwargs):
    convert_root(*args, progress=False, **kwargs)


def check(out, *chunks, n_rows=None):
    got = read_store(out)
    for name, values in columns(chunks).items():
        assert got[name].tolist() == values, name


A = [events(5, 0), events(5, 1)]
B = [events(10, 1), events(10, 2)]
C = [events(15, 2), events(15, 3)]


# ---- nothing, one and all that changed ------------------------------------------------------------------------------


def test_second_call_opens_nothing(files, out, opened, baskets):
    run(files, out)
    check(out, *A, *B, *C)
    assert opened == ["a.root", "b.root", "c.root"] * 2, "once to check, once to read"
    assert len(baskets) == len(set(baskets)) == 4 * 2 * 3
    before = Path(out, "manifest.json").read_bytes()
    opened.clear()
    baskets.clear()
    run(files, out)
    run([files[2], files[0], files[1]], out)
    run(f"{Path(files[0]).parent}/*.root", out)
    assert opened == baskets == []
    assert Path(out, "manifest.json").read_bytes() == before
    assert len(list(Path(out, "history").iterdir())) == 1


def test_nothing_to_do_for_many_sources_reads_only_the_manifest(tmp_path, out, opened, monkeypatch):
    path = write_tree(tmp_path / "0.root", [events(2)])
    for i in range(1, 30):
        shutil.copy(path, tmp_path / f"{i}.root")
    run({f"{tmp_path}/*.root": {"year": 2016}}, out)
    opened.clear()
    monkeypatch.setattr(conversion, "read_layer", None)
    run({f"{tmp_path}/*.root": {"year": 2016}}, out)
    assert opened == []


def test_one_changed_file_of_three_is_read_again_in_place(files, out, opened, baskets):
    run(files, out)
    ids = manifest(out)["parts"]["layers"]
    new_b = [events(4, 9), events(3, 8), events(2, 7)]
    rewrite(files[1], new_b)
    opened.clear()
    baskets.clear()
    run(files, out)
    assert set(opened) == {name for name, _, _ in baskets} == {"b.root"}
    assert len(baskets) == len(set(baskets)) == 4 * 3
    check(out, *A, *new_b, *C)
    after = manifest(out)["parts"]["layers"]
    assert [after[0], after[2]] == [ids[0], ids[2]]
    assert after[1] != ids[1]


def test_a_changed_file_may_have_another_number_of_parts(files, out):
    size = 200
    run(files, out, part_nbytes=size)
    n = [s[0] for s in sources(out)]
    assert n.count("c.root") > n.count("b.root") > 1
    new_b = [events(40, 9), events(30, 8)]
    rewrite(files[1], new_b)
    run(files, out, part_nbytes=size)
    check(out, *A, *new_b, *C)
    names = [s[0] for s in sources(out)]
    assert names == sorted(names)
    assert names.count("b.root") > n.count("b.root")


def test_touched_file_is_read_again(files, out, opened):
    run(files, out)
    os.utime(files[0], ns=(1, 1))
    opened.clear()
    run(files, out)
    assert set(opened) == {"a.root"}
    check(out, *A, *B, *C)


def test_new_files_are_appended(files, out, opened):
    run([files[2]], out)
    opened.clear()
    run(files, out)
    assert set(opened) == {"a.root", "b.root"}
    check(out, *C, *A, *B)


def test_vanished_sources(files, out, opened):
    run(files, out)
    before = Path(out, "manifest.json").read_bytes()
    with pytest.raises(SourceNotFoundError, match=r"a\.root:events.* is no longer among the sources.*missing='drop'"):
        run(files[1:], out)
    os.unlink(files[0])
    with pytest.raises(SourceNotFoundError, match=r"a\.root:events.* is no longer there"):
        run(f"{Path(files[0]).parent}/*.root", out)
    with pytest.raises(SourceNotFoundError, match=r"no file .*a\.root"):
        run(files, out)
    assert Path(out, "manifest.json").read_bytes() == before
    opened.clear()
    run(files, out, missing="drop")
    assert opened == []
    check(out, *B, *C)
    with pytest.raises(SourceNotFoundError, match=r"no file .*a\.root"):
        run(files, out, missing="drop")  # now the store does not know it either
    run([files[2]], out, missing="drop")
    check(out, *C)
    with pytest.raises(SourceNotFoundError, match="no file"):
        run([files[2], f"{files[2]}x"], out, missing="drop")


def test_a_glob_of_which_all_files_vanished(files, out, tmp_path):
    (tmp_path / "d").mkdir()
    write_tree(tmp_path / "d" / "x.root", A)
    names = [*files, f"{tmp_path}/d/*.root"]
    run(names, out)
    os.unlink(tmp_path / "d" / "x.root")
    with pytest.raises(SourceNotFoundError, match="no file matches"):
        run(names, out)
    run(names, out, missing="drop")
    check(out, *A, *B, *C)
    with pytest.raises(SourceNotFoundError, match="no file matches"):
        run(names, tmp_path / "other.mm", missing="drop")


def test_dropped_and_changed_and_new_at_once(files, out, tmp_path):
    run(files, out)
    new = write_tree(tmp_path / "0.root", A)
    rewrite(files[2], B)
    run([new, files[1], files[2]], out, missing="drop")
    check(out, *B, *B, *A)


# ---- trees ----------------------------------------------------------------------------------------------------------


def test_trees_of_one_file(tmp_path, out):
    path = write_tree(tmp_path / "a.root", A, name="nominal")
    write_tree(path, B, name="syst/up", mode=uproot.update)
    with pytest.raises(SourceError, match=r"its trees are: nominal, syst/up; name one, as in 'a\.root:nominal'"):
        run(path, out)
    with pytest.raises(SourceError, match=r"no tree 'nominl'; did you mean 'nominal'\? \(its trees are: nominal, sy"):
        run(f"{path}:nominl", out)
    assert not out.exists()
    run([f"{path}:nominal", f"{path}:syst/up"], out)
    check(out, *A, *B)
    assert [s[1] for s in sources(out)] == ["nominal", "syst/up"]
    run(path, tmp_path / "p.mm", tree="syst/up")
    check(tmp_path / "p.mm", *B)


def test_the_only_tree_is_found_in_folders(tmp_path, out):
    path = write_tree(tmp_path / "a.root", A, name="deep/er/t")
    run(path, out)
    check(out, *A)
    assert sources(out) == [("a.root", "deep/er/t", 0, 10)]


def test_highest_cycle(tmp_path, out):
    path = write_tree(tmp_path / "a.root", A, name="t")
    write_tree(path, B, name="t", mode=uproot.update)
    with uproot.open(path) as file:
        assert set(file.keys()) == {"t;1", "t;2"}
    run(path, out)
    check(out, *B)
    run(f"{path}:t;1", tmp_path / "p.mm")
    check(tmp_path / "p.mm", *A)


def test_a_tree_named_in_two_ways_is_the_same(tmp_path, files, out):
    with pytest.raises(OptionError, match="named twice"):
        run([files[0], f"{files[0]}:events"], out)
    run([files[0]], out)
    with pytest.raises(OptionError, match="named twice"):
        run([files[0], f"{files[0]}:events"], out)
    run([f"{files[0]}:events"], out)
    check(out, *A)


# ---- inputs that cannot be converted --------------------------------------------------------------------------------


def test_bad_files_are_found_before_anything_is_written(tmp_path, files, out):
    good = Path(files[2]).read_bytes()
    bad = {
        "empty.root": (b"", "an empty file"),
        "text.root": (b"hello there", "begins with b'hell'"),
        "short.root": (good[: len(good) // 2], "truncated|damaged"),
        "shorter.root": (good[:60], "damaged"),
    }
    for name, (data, message) in bad.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(SourceError, match=f"{name}: .*({message})"):
            run([*files, str(tmp_path / name)], out)
        assert not out.exists()
    os.mkfifo(tmp_path / "pipe.root")
    with pytest.raises(SourceNotFoundError):
        run(str(tmp_path / "pipe.root"), out)


def test_rntuple_is_named(tmp_path, out):
    with uproot.recreate(tmp_path / "a.root") as file:
        file.mkrntuple("nt", {"x": np.arange(3.0)})
    with pytest.raises(SourceError, match=r"holds no TTree \(and the RNTuple nt, which this version does not read\)"):
        run(tmp_path / "a.root", out)


def test_a_file_that_changes_meanwhile(files, out, monkeypatch):
    original = rootfile._read_run
    calls = []

    def read_run(branch, field, start, stop):
        calls.append(1)
        if len(calls) == 6:
            os.utime(files[1], ns=(5, 5))
        return original(branch, field, start, stop)

    monkeypatch.setattr(rootfile, "_read_run", read_run)
    with pytest.raises(SourceError, match=r"b\.root: the file changed while it was converted"):
        run(files, out)
    assert len(list(Path(out, "parts").iterdir())) == 1
    monkeypatch.undo()
    run(files, out)
    check(out, *A, *B, *C)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: {**c, "met": c["met"].astype("f8")}, r"field 'met' is float64, but float32 in .*a\.root"),
        (lambda c: {**c, "pt": c["met"]}, r"field 'pt' is float32, but ragged float32 in "),
        (lambda c: {k: v for k, v in c.items() if k != "met"}, r"field 'met' \(float32 in .*a\.root\) is missing"),
        (lambda c: {**c, "more": c["met"]}, r"field 'more' \(float32\) is not in .*a\.root"),
    ],
)
def test_differing_fields(tmp_path, out, change, message):
    a = write_tree(tmp_path / "a.root", A)
    b = write_tree(tmp_path / "b.root", [change(c) for c in A])
    with pytest.raises(SchemaError, match=rf"b\.root: .*{message}"):
        run([a, b], out)
    assert not out.exists()
    run(a, out)
    with pytest.raises(SchemaError, match=message.replace(r"a\.root", r"a\.root:events")):
        run([a, b], out)
    check(out, *A)
    run([a, b], tmp_path / "p.mm", fields=["number"])
    assert read_store(tmp_path / "p.mm")["number"].tolist() == columns([*A, *A])["number"]


def test_the_order_of_fields_may_differ(tmp_path, out):
    a = write_tree(tmp_path / "a.root", A)
    b = write_tree(tmp_path / "b.root", [dict(reversed(c.items())) for c in A])
    run([a, b], out)
    check(out, *A, *A)


# ---- options and paths ----------------------------------------------------------------------------------------------


def test_changed_options(files, out, opened):
    run(files, out)
    with pytest.raises(OptionError, match=r"fields was None and is \['met', 'pt'\].*update=True"):
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
    for name, make in {"file": lambda p: p.write_text("x"), "folder": lambda p: (p / "sub").mkdir(parents=True)}.items():
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
    with pytest.raises(CorruptStoreError, match="conversion.json"):
        run(files, out)


# ---- interrupted conversions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop_at", [1, 5, 8, 11])
def test_interrupted_and_resumed(files, out, opened, baskets, monkeypatch, stop_at):
    original = rootfile._read_run
    calls = []

    def read_run(branch, field, start, stop):
        calls.append(1)
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        return original(branch, field, start, stop)

    monkeypatch.setattr(rootfile, "_read_run", read_run)
    with pytest.raises(KeyboardInterrupt):
        run(files, out)
    monkeypatch.setattr(rootfile, "_read_run", original)
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
    original = conversion.LayerWriter
    made = []

    class Stopping(original):
        def __init__(self, *args):
            made.append(1)
            if len(made) == 4:
                raise KeyboardInterrupt
            super().__init__(*args)

    monkeypatch.setattr(conversion, "LayerWriter", Stopping)
    with pytest.raises(KeyboardInterrupt):
        run(path, out, part_nbytes=3_500)
    monkeypatch.setattr(conversion, "LayerWriter", original)
    assert len(list(Path(out, "parts").iterdir())) == 3
    baskets.clear()
    run(path, out, part_nbytes=3_500)
    assert len(sources(out)) == 6
    assert len(baskets) == 4 * 3
    check(out, *chunks)


def test_interrupted_before_the_commit(files, out, opened, monkeypatch):
    monkeypatch.setattr(conversion, "commit", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(dict.fromkeys(files, {"year": 2016}), out)
    monkeypatch.undo()
    opened.clear()
    run(dict.fromkeys(files, {"year": 2016}), out)
    assert [name for name in opened if name] == []
    check(out, *A, *B, *C)


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
from mmdask.sources import rootfile
from mmdask.sources.root import convert_root
original, calls = rootfile._read_run, []
def read_run(*args):
    calls.append(1)
    if len(calls) == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args)
rootfile._read_run = read_run
convert_root({files!r}, {str(out)!r}, progress=False)
"""
    dead = subprocess.run([sys.executable, "-c", script], check=False)
    assert dead.returncode == -9
    left = [p.name for p in Path(out, "parts").iterdir()]
    assert sorted(".tmp-" in name for name in left) == [False, True]
    run(files, out)
    check(out, *A, *B, *C)


# ---- labels ---------------------------------------------------------------------------------------------------------


def labelled(files, **labels):
    return {f: {k: v[i] for k, v in labels.items()} for i, f in enumerate(files)}


def test_labels_become_fields(files, out):
    run(labelled(files, process=["tt", "ttH", "tt"], year=[2016, 2017, 2018], xsec=[1, 2, 0.5], mc=[True, False, True]), out)
    got = read_store(out)
    assert got["process"].tolist() == ["tt"] * 10 + ["ttH"] * 20 + ["tt"] * 30
    assert got["year"].tolist() == [2016] * 10 + [2017] * 20 + [2018] * 30
    assert got["year"].dtype == np.int64
    assert (got["xsec"].dtype, got["xsec"][0], got["xsec"][-1]) == (np.float64, 1.0, 0.5)
    assert (got["mc"].dtype, got["mc"][10]) == (np.bool_, False)
    entry = next(f for f in manifest(out)["fields"] if f["name"] == "process")
    assert (entry["kind"], entry["labels"]) == ("category", ["tt", "ttH"])
    check(out, *A, *B, *C)


def test_changed_labels_rewrite_only_labels(files, out, opened):
    run(labelled(files, process=["a", "b", "c"]), out)
    before = manifest(out)["parts"]["layers"]
    opened.clear()
    run(labelled(files, process=["a", "x", "c"]), out)
    after = manifest(out)["parts"]["layers"]
    assert opened == []
    assert [b[0] for b in before] == [a[0] for a in after]
    assert [b == a for b, a in zip(before, after, strict=True)] == [True, False, True]
    assert set(read_store(out)["process"].tolist()[10:30]) == {"x"}
    entry = next(f for f in manifest(out)["fields"] if f["name"] == "process")
    assert entry["labels"] == ["a", "c", "x"], "labels that are not used go, the others keep their order"
    run(labelled(files, year=[1, 2, 3]), out)
    assert list(read_store(out)) == ["met", "number", "npt", "pt", "year"]
    run(files, out)
    assert list(read_store(out)) == ["met", "number", "npt", "pt"]
    assert opened == []
    check(out, *A, *B, *C)


def test_labels_and_a_changed_file(files, out):
    run(labelled(files, process=["a", "b", "c"]), out)
    rewrite(files[1], A)
    run(labelled(files, process=["a", "b2", "c2"]), out)
    assert read_store(out)["process"].tolist() == ["a"] * 10 + ["b2"] * 10 + ["c2"] * 30
    check(out, *A, *A, *C)


def test_a_label_called_like_a_field(files, out):
    with pytest.raises(SchemaError, match="label 'met' is also a field"):
        run(labelled(files, met=[1, 2, 3]), out)
    assert not out.exists()
    run(files, out)
    with pytest.raises(SchemaError, match="label 'met' is also a field"):
        run(labelled(files, met=[1, 2, 3]), out)


# ---- unreadable fields in one of several files ----------------------------------------------------------------------


def fail_in(monkeypatch, file, name):
    original = uproot.TBranch.array

    def array(self, *args, **kwargs):
        if Path(self.file.file_path).name == file and self.name == name:
            raise ValueError("odd bytes")
        return original(self, *args, **kwargs)

    monkeypatch.setattr(uproot.TBranch, "array", array)


def test_a_field_unreadable_in_one_file_is_left_out_and_comes_back(files, out, monkeypatch, opened):
    fail_in(monkeypatch, "b.root", "met")
    with pytest.warns(SkippedFieldsWarning, match=r"'met': cannot be read: ValueError: odd bytes in .*b\.root"):
        run(files, out)
    assert list(read_store(out)) == ["number", "npt", "pt"]
    monkeypatch.undo()
    run(files, out)
    assert list(read_store(out)) == ["number", "npt", "pt"], "nothing changed, nothing is read"
    rewrite(files[1], C)
    run(files, out)
    check(out, *A, *C, *C)
    assert manifest(out)["generation"] == 2


def test_a_field_unreadable_in_a_new_file_goes(files, out, monkeypatch):
    run(files[:2], out)
    fail_in(monkeypatch, "c.root", "met")
    with pytest.warns(SkippedFieldsWarning, match="'met'"):
        run(files, out)
    assert list(read_store(out)) == ["number", "npt", "pt"]
    run(files[:2], out, missing="drop")
    check(out, *A, *B)


# ---- rows and fields that came otherwise ----------------------------------------------------------------------------


def append_row(out):
    """What `mm.append` does: a part of another kind of id."""
    fields = {"met": [2.5], "number": [7], "npt": [0]}
    with LayerWriter(out, new_id()) as w:
        for name, value in fields.items():
            f = read_manifest(out).schema[name]
            w.field(f).write(FieldData(np.array(value, f.dtype)))
        w.field(read_manifest(out).schema["pt"]).write(FieldData(np.empty(0, "f4"), (np.zeros(2, "i8"),)))
        layer = w.finish()
    part = Part(1, (layer.id,), layer.nbytes)

    def change(m):
        return type(m)(m.uuid, m.generation, m.block_rows, m.schema, (*m.parts, part), m.attrs)

    commit(out, change)


ROW = {"met": np.array([2.5], "f4"), "number": np.array([7]), "pt": events(0)["pt"]}


def test_appended_rows_stay(files, out, opened):
    run(files[:2], out)
    append_row(out)
    opened.clear()
    run(files[:2], out)
    assert opened == []
    rewrite(files[0], B)
    run(files, out)
    assert read_store(out)["met"].tolist() == columns([*B, *B, ROW, *C])["met"]
    with pytest.raises(SchemaError, match=r"field 'year' becomes int64, but the store has no such field.*appended"):
        run(labelled(files, year=[1, 2, 3]), out)


def add_field(out):
    """What `mm.assign` does: a later layer on every part."""
    m = read_manifest(out)
    parts = []
    for p in m.parts:
        with LayerWriter(out, new_id()) as w:
            w.field(Field.dense("ht", "f4")).write(FieldData(np.ones(p.rows, "f4")))
            layer = w.finish()
        parts.append(Part(p.rows, (*p.layers, layer.id), p.nbytes + layer.nbytes))
    schema = type(m.schema)([*m.schema.values(), Field.dense("ht", "f4")])
    commit(out, lambda m: type(m)(m.uuid, m.generation, m.block_rows, schema, tuple(parts), m.attrs))


def test_added_fields_stay_or_stop_the_conversion(files, out):
    run(files, out)
    add_field(out)
    run(labelled(files, year=[1, 2, 3]), out)
    assert read_store(out)["ht"].tolist() == [1.0] * 60
    check(out, *A, *B, *C)
    rewrite(files[0], B)
    with pytest.raises(SchemaError, match="the fields 'ht' were added to the store as arrays"):
        run(labelled(files, year=[1, 2, 3]), out)
    assert read_store(out)["ht"].tolist() == [1.0] * 60


def test_another_conversion_commits_meanwhile(files, out, monkeypatch):
    """Two calls at once: the second to commit finds the rows of the first."""
    original = conversion._make_labels

    def make_labels(*args):
        monkeypatch.setattr(conversion, "_make_labels", original)
        run(files, out)
        return original(*args)

    monkeypatch.setattr(conversion, "_make_labels", make_labels)
    run(files, out)
    check(out, *A, *B, *C)
    assert manifest(out)["generation"] == 1


def test_a_conversion_of_more_files_commits_meanwhile(files, out, monkeypatch):
    original = conversion._make_labels

    def make_labels(*args):
        monkeypatch.setattr(conversion, "_make_labels", original)
        run(files, out)
        return original(*args)

    monkeypatch.setattr(conversion, "_make_labels", make_labels)
    with pytest.raises(ConflictError, match="call again"):
        run(files[:2], out)
    check(out, *A, *B, *C)


def test_provenance(files, out):
    run(files, out)
    layer = read_layer(out, manifest(out)["parts"]["layers"][1][0])
    s = os.stat(files[1])
    assert layer.source is not None
    assert (layer.source.uri, layer.source.size, layer.source.mtime_ns) == (files[1], s.st_size, s.st_mtime_ns)
    assert (layer.source.tree, layer.source.start, layer.source.stop, layer.source.skipped) == ("events", 0, 20, ())
    assert len(layer.source.fingerprint) == 32
    options = json.loads((out / "conversion.json").read_bytes())["options"]
    assert options == {"fields": None, "exclude": [], "part_nbytes": 2**30, "converter": rootfile.CONVERTER_VERSION}


def test_offsets_are_shared(files, out):
    a = [{**c, "eta": c["pt"]} for c in A]
    run(write_tree(Path(out).parent / "x.root", a), out)
    fields = part_layers(out)[0][0]["fields"]
    assert fields["pt"]["offsets"] == fields["eta"]["offsets"]


def test_unknown_field_says_so_before_anything_is_written(files, out):
    with pytest.raises(FieldNotFoundError, match=r"a\.root: no field 'jet_pt'; the fields are: met, number, npt, pt"):
        run(files, out, fields="jet_pt")
    assert not out.exists()
