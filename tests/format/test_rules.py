"""Rules of docs/format.md that no single document shows, and that every rule with a MUST has a test."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import awkward as ak
import numpy as np
import pytest

import mmdask as mm
from mmdask.schema import Field, FieldData, Schema
from mmdask.store import document
from mmdask.store.arrays.files import open_file
from mmdask.store.arrays.npy import HEADER, checksum
from mmdask.store.commit import add_parts, commit
from mmdask.store.layer import read_layer
from mmdask.store.layer_writer import LayerWriter
from mmdask.store.manifest import Part, dump_manifest, read_manifest
from mmdask.store.system import SYSTEM
from tests.format import kinds
from tests.format.make_examples import document as made

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent

#: rules that a test of this package cannot show, and why
NOT_TESTED: dict[str, str] = {}


def clauses() -> dict[str, str]:
    """The text of every clause, by its number."""
    text = (ROOT / "docs" / "format.md").read_text(encoding="utf-8")
    found = re.findall(r"^(\d+\.\d+) (.*?)(?=^\d+\.\d+ |^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert len({number for number, _ in found}) == len(found)
    return dict(found)


def cited() -> set[str]:
    """Numbers that tests cite, as ``§2.7``, and those that examples have in their names."""
    numbers = set()
    for path in (ROOT / "tests").rglob("*.py"):
        numbers |= set(re.findall(r"§(\d+\.\d+)", path.read_text(encoding="utf-8")))
    for path in HERE.glob("*valid/*/*.json"):
        numbers |= set(re.findall(r"^\d+\.\d+", path.name))
    return numbers


def test_every_rule_is_tested():
    musts = {number for number, text in clauses().items() if "MUST" in text}
    assert len(musts) > 50
    assert musts - cited() - set(NOT_TESTED) == set()
    assert set(NOT_TESTED) <= musts
    assert cited() - set(clauses()) == set()


def test_numbers_are_in_order():
    numbers = [tuple(map(int, n.split("."))) for n in clauses()]
    assert numbers == sorted(numbers)
    assert all(b[1] == a[1] + 1 if a[0] == b[0] else b[1] == 1 for a, b in zip(numbers, numbers[1:], strict=False))


# Documents -----------------------------------------------------------------------------------------------------------


def test_documents_have_limits(monkeypatch):
    """§1.3, when they are written and when they are read."""
    text = {"a": [0] * 1000}
    data = document.dump(text)
    assert document.parse(data, "here")["a"] == text["a"]
    for limit, value, message in (("MAX_NBYTES", 500, "bytes, more than"), ("MAX_VALUES", 900, "values, more than")):
        with monkeypatch.context() as patch:
            patch.setattr(document, limit, value)
            with pytest.raises(mm.SchemaError, match=message):
                document.dump(text)
            with pytest.raises(mm.FormatError, match=message):
                document.parse(data, "here")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800", {"a": object()}, b"a"])
def test_what_readers_refuse_is_not_written(value):
    """§1.4 §1.6 §1.8."""
    with pytest.raises(mm.SchemaError):
        document.dump({"a": value})


@pytest.mark.parametrize("text", ["\U0001f600", "\\ud800", "\\\\ud83d", 'é"\\', "\ue000"])
def test_whole_characters_are_written(text):
    """§1.8: an escape of half a character is none where its backslash is a text's own."""
    assert document.parse(document.dump({"a": text}), "here")["a"] == text


# The manifest --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return kinds.write_store(tmp_path_factory.mktemp("rules") / "s.mm")


@pytest.fixture
def path(good, tmp_path):
    return shutil.copytree(good, tmp_path / "s.mm")


def edit(file, change):
    text = json.loads(file.read_bytes())
    del text["checksum"]
    change(text)
    file.write_bytes(made(text))


def test_every_kind_is_read(path):
    """§2.1 §2.15 §5.1 §5.2 §5.3 §5.4 §5.5 §5.6 §5.8 §5.9: what was written comes back, in both generations."""
    for generation, parts in ((1, [0]), (2, [0, 1])):
        ds = mm.open(path, generation=generation)
        for name in ds.fields:
            field = ds.schema[name]
            rows = kinds.to_rows(field, ds._rows.read(name, 0, len(ds)))
            np.testing.assert_equal(rows, [row for p in parts for row in kinds.rows_of(p)[name]], err_msg=name)


def test_features_are_named(good):
    """§2.2."""
    manifest = read_manifest(good)

    def requires(fields):
        return json.loads(dump_manifest(replace(manifest, schema=Schema(fields))))["requires"]

    assert requires([Field.dense("x", "f4")]) == []
    assert requires([Field.shaped("x", "f4", 2)]) == ["shaped"]
    assert requires([Field.dense("x", "f4", optional=(0,))]) == ["optional"]
    assert requires([Field.shaped("x", "f4", 2, optional=(0,))]) == ["shaped", "optional"]
    aux = replace(manifest, schema=Schema(), aux=Schema([Field.shaped("x", "f4", 2)]), aux_layers=("a",))
    assert json.loads(dump_manifest(aux))["requires"] == ["shaped"]


def test_names_are_no_paths(tmp_path):
    """§2.7 §2.19 §3.7: files have names of their own."""
    names = ["../../outside", "/etc/passwd", "a/b", ".", "..", "con", "x" * 255, "ε", "\U0001f600", "a\\b", "-rf"]
    mm.from_arrays({name: [i] for i, name in enumerate(names)}, tmp_path / "s.mm")
    ds = mm.open(tmp_path / "s.mm")
    assert [ds[0][name] for name in names] == list(range(len(names)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.mm"]
    for file in tmp_path.glob("s.mm/parts/*/*.npy"):
        assert re.fullmatch(r"[0-9]+-[a-z0-9_.-]{0,80}\.npy", file.name)


def test_rows_that_are_added_are_computed(tmp_path):
    """§2.12."""
    path = tmp_path / "s.mm"
    mm.from_arrays({"jets_pt": [[1.0, 2.0], []]}, path)
    mm.assign(path, ht="sum(jets_pt)", progress=False)
    with mm.append(path) as w:
        w.extend({"jets_pt": [[4.0, 0.5]]})
    assert mm.open(path)["ht"].compute().tolist() == [3.0, 0.0, 4.5]


def test_fields_that_the_manifest_does_not_name_are_none(path):
    """§2.15."""
    edit(path / "manifest.json", lambda m: m.update(fields=[f for f in m["fields"] if f["name"] in ("i4", "r")]))
    ds = mm.open(path)
    assert ds.fields == ("i4", "r")
    assert set(ds[0]) == {"i4", "r"}
    with pytest.raises(mm.FieldNotFoundError):
        ds["f4"]


def test_the_last_layer_counts(tmp_path):
    """§2.15 §2.16: of a part, and of aux."""
    x, y = Field.dense("x", "i4"), Field.dense("y", "i4")
    for layer_id, field, values in (("a", x, [1, 2]), ("b", y, [3, 4]), ("c", x, [5, 6]), ("d", x, [7]), ("e", x, [8])):
        with LayerWriter(tmp_path, layer_id) as w:
            w.field(field).write(FieldData(np.array(values, "i4")))
            w.finish()
    part = Part(2, ("a", "b", "c"), 24)
    manifest = replace(add_parts(None, Schema([x, y]), [part], block_rows=1), aux=Schema([x]), aux_layers=("d", "e"))
    commit(tmp_path, lambda _: manifest, action="")
    ds = mm.open(tmp_path)
    assert (ds["x"].compute().tolist(), ds["y"].compute().tolist(), ds.aux["x"]) == ([5, 6], [3, 4], 8)
    assert mm.verify(tmp_path).ok


def test_labels_that_the_manifest_does_not_have(path):
    """§2.9: an error for the rows of that part, and no label."""
    edit(path / "parts" / "part-1" / "part.json", lambda p: p["fields"]["label"].update(labels=["x", "y", "other"]))
    ds = mm.open(path)
    assert ds[0]["label"] == "x"
    with pytest.raises(mm.CorruptStoreError, match="other"):
        ds[kinds.N_ROWS]


# Layers and arrays ---------------------------------------------------------------------------------------------------


def state(path):
    """Contents and times of all files of layers."""
    return {p: (p.read_bytes(), p.stat().st_mtime_ns, p.stat().st_ino) for p in path.glob("parts/*/*")}


def test_layers_never_change(tmp_path):
    """§3.2: whatever is done to a store."""
    path = tmp_path / "s.mm"
    mm.from_arrays({"x": [1, 2], "c": ["a", "b"]}, path)
    before = state(path)
    with mm.append(path) as w:
        w.extend({"x": [3], "c": ["c"]})
    mm.assign(path, y="x + 1", progress=False)
    mm.annotate(path, attrs={"a": 1}, fields={"x": {"unit": "GeV"}})
    mm.compact(path, progress=False)
    mm.drop(path, "c")
    after = state(path)
    assert {p: after[p] for p in before} == before
    assert len(after) > len(before)


def test_folders_of_other_names_are_ignored(path):
    """§3.3."""
    shutil.copytree(path / "parts" / "part-0", path / "parts" / "part-0.tmp-1")
    shutil.copytree(path / "parts" / "part-0", path / "parts" / "other")
    assert len(mm.open(path)) == 2 * kinds.N_ROWS
    assert mm.verify(path).ok


def test_the_header_is_a_courtesy(path):
    """§4.1 §4.2: what it says is not looked at, and what numpy makes of it is what was written."""
    [file] = (path / "parts" / "part-1").glob("*-i4.npy")
    expected = np.load(file).tolist()
    assert expected == kinds.rows_of(1)["i4"]
    raw = file.read_bytes()
    assert len(raw) == HEADER + 4 * kinds.N_ROWS
    file.write_bytes(b"\x00" * HEADER + raw[HEADER:])
    assert mm.open(path)["i4"].compute()[kinds.N_ROWS :].tolist() == expected


@pytest.mark.parametrize("io", ["mmap", "pread"])
@pytest.mark.parametrize("change", [-1, 1, 4096])
def test_sizes_are_checked_first(path, change, io):
    """§4.2: an error, also for rows whose bytes are there."""
    [file] = (path / "parts" / "part-1").glob("*-i4.npy")
    os.truncate(file, file.stat().st_size + change)
    with pytest.raises(mm.CorruptStoreError, match="should have"):
        mm.open(path, io=io)[kinds.N_ROWS]


def test_other_bytes_for_bools_are_not_written(tmp_path):
    """§5.7: numpy takes any byte for one."""
    odd = np.array([0, 1, 2, 255], "u1").view("?")
    field = Field.dense("b", "?")
    with LayerWriter(tmp_path, "a") as w:
        w.field(field).write(FieldData(odd))
        w.field(Field.dense("o", "i4", optional=(0,))).write(FieldData(np.array([0, 1, 2, 3], "i4"), valid=(odd,)))
        layer = w.finish()
    for spec in layer.arrays:
        if spec.dtype.kind == "b":
            raw = (tmp_path / "parts" / "a" / spec.file).read_bytes()[HEADER:]
            assert raw == b"\x00\x01\x01\x01"


def test_checksums_are_those_of_the_data(path):
    """§1.2 §3.6."""
    for folder in (path / "parts").iterdir():
        for spec in read_layer(path, folder.name).arrays:
            data = (folder / spec.file).read_bytes()[HEADER:]
            assert spec.checksums == ((checksum(data),) if data else ())


# Commits -------------------------------------------------------------------------------------------------------------


def test_the_lock_is_held(path):
    """§6.2: while the change is made; and the file stays."""
    inode = (path / ".lock").stat().st_ino

    def change(manifest):
        fd = os.open(path / ".lock", os.O_RDWR)
        try:
            with pytest.raises(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(fd)
        return replace(manifest, attrs={"a": 1})

    commit(path, change, action="")
    assert mm.open(path).attrs == {"a": 1}
    assert (path / ".lock").stat().st_ino == inode


def test_the_order_of_a_commit(path, monkeypatch):
    """§6.3: history, then manifest.json, each synced before and after it gets its name."""
    calls = []
    for name in ("rename", "fsync", "fsync_folder"):
        original = getattr(SYSTEM, name)

        def record(*args, name=name, original=original):
            calls.append((name, *(os.path.relpath(a, path) for a in args if isinstance(a, str))))
            return original(*args)

        monkeypatch.setattr(SYSTEM, name, record)
    commit(path, lambda m: replace(m, attrs={"a": 1}), action="")
    steps = [(c[0], c[-1]) if c[0] == "rename" else (c[0],) for c in calls]
    history, manifest = ("rename", "history/00000003.json"), ("rename", "manifest.json")
    assert [s for s in steps if s[0] == "rename"] == [history, manifest]
    for name in (history, manifest):
        at = steps.index(name)
        assert ("fsync",) in steps[max(at - 2, 0) : at]
        assert ("fsync_folder",) in steps[at + 1 : at + 3]


def test_history_beyond_the_manifest_is_ignored(path):
    """§6.4, and the next commit replaces it."""
    (path / "history" / "00000003.json").write_bytes(b"a writer that died before its commit")
    assert mm.open(path).generation == 2
    with pytest.raises(mm.StoreNotFoundError):
        mm.open(path, generation=3)
    assert mm.verify(path).ok
    mm.annotate(path, attrs={"a": 1})
    assert mm.open(path, generation=3).attrs["a"] == 1


@pytest.mark.parametrize("change", [{"uuid": "0" * 32}, {"generation": 2}])
def test_history_of_another_store_or_generation(path, change):
    """§6.5."""
    edit(path / "history" / "00000001.json", lambda m: m.update(change))
    with pytest.raises(mm.CorruptStoreError, match="holds generation"):
        mm.open(path, generation=1)


def test_vacuum_renames_layers_before_it_removes_their_files(tmp_path, monkeypatch):
    """§6.6."""
    path = tmp_path / "s.mm"
    mm.from_arrays({"x": [1]}, path)
    with mm.append(path) as w:
        w.extend({"x": [2]})
    mm.compact(path, progress=False)
    names = {p.name for p in (path / "parts").iterdir()}
    unlink, seen = SYSTEM.unlink, []

    def record(file):
        seen.append(Path(file))
        return unlink(file)

    monkeypatch.setattr(SYSTEM, "unlink", record)
    mm.vacuum(path, keep=1, grace=0)
    left = {p.name for p in (path / "parts").iterdir()}
    assert len(left) == 1
    assert [p for p in seen if p.parent.name in names] == []
    assert any("-x.npy" in p.name for p in seen)
    assert mm.verify(path).ok


def test_layers_that_are_not_there_are_not_committed(path):
    """§6.7."""
    with pytest.raises(mm.ConflictError):
        commit(path, lambda m: replace(m, parts=(*m.parts, Part(1, ("absent",), 0))), action="")
    os.mkdir(path / "parts" / "half")
    with pytest.raises(mm.ConflictError):
        commit(path, lambda m: replace(m, parts=(*m.parts, Part(1, ("half",), 0))), action="")
    assert mm.open(path).generation == 2


# Strangers -----------------------------------------------------------------------------------------------------------


def test_the_store_itself_may_be_behind_a_link(path, tmp_path):
    """§8.1: links are refused below the store's folder, not on the way to it."""
    (tmp_path / "link").symlink_to(path)
    (tmp_path / "folder").symlink_to(tmp_path)
    for place in (tmp_path / "link", tmp_path / "folder" / "s.mm"):
        assert mm.open(place)["i4"].compute().tolist() == [*kinds.rows_of(0)["i4"], *kinds.rows_of(1)["i4"]]
        assert mm.verify(place).ok


def test_errors_of_links_say_so(path, tmp_path):
    """§8.1."""
    (path / "link").symlink_to(path / "manifest.json")
    with pytest.raises(OSError, match="a link") as error:
        open_file(str(path), "link")
    assert error.value.errno == errno.ELOOP
    (path / "folder").symlink_to(path / "parts")
    with pytest.raises(OSError, match="a link"):
        open_file(str(path), "folder", "part-0", "part.json")


def test_text_is_kept_as_it_is(tmp_path):
    """§8.5: it is made harmless where it is shown, and nowhere else."""
    text = "\x1b[2J<b>\r\n"
    mm.from_arrays({"s": ak.Array([text]), "c": [1]}, tmp_path / "s.mm")
    assert mm.open(tmp_path / "s.mm")[0]["s"] == text
