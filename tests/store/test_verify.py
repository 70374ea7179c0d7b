"""verify finds what a reader would fall over: every changed byte, and stores that are whole but make no sense."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
import tracemalloc
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import mmdask as mm
from mmdask.schema import Field, FieldData, Schema
from mmdask.store import document, layer
from mmdask.store.arrays import npy
from mmdask.store.arrays.npy import EXTENT, HEADER, checksum
from mmdask.store.checking import checks, crosscheck, opened, scan
from mmdask.store.commit import add_parts, commit
from mmdask.store.layer_writer import LayerWriter
from mmdask.store.manifest import Part
from tests.format import kinds

ROWS = 40
FIELDS = [
    mm.Field.dense("x", "i4"),
    mm.Field.dense("t", "M8[s]"),
    mm.Field.ragged("r", "f4"),
    mm.Field.string("s"),
    mm.Field.string("ss", levels=1),
    mm.Field.category("c"),
]


#: mostly text, of bytes of every length, and longer than the extents of the tests
TEXTS = st.text(max_size=12).map(str.encode) | st.binary(max_size=4)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "s.mm"
    with mm.create(path, fields=FIELDS, labels={"process": "ttbb"}) as w:
        w.extend(rows())
    with mm.append(path, labels={"process": "ttH"}) as w:
        w.extend(rows())
    return path


def rows():
    return {
        "x": np.arange(ROWS, dtype="i4"),
        "t": np.arange(ROWS).astype("M8[s]"),
        "r": [[0.5] * (i % 3) for i in range(ROWS)],
        "s": [f"é{i}" for i in range(ROWS)],
        "ss": [["ü", f"{i}"][: i % 3] for i in range(ROWS)],
        "c": [f"label {i % 5}" for i in range(ROWS)],
    }


@pytest.fixture
def path(good, tmp_path):
    return shutil.copytree(good, tmp_path / "s.mm")


def edit(file, change):
    """Change a document and give it the checksum that it then has, as someone who forges a store would."""
    text = json.loads(file.read_bytes())
    del text["checksum"]
    change(text)
    file.write_bytes(document.dump(text))


def layers(path):
    ids = json.loads((path / "manifest.json").read_bytes())["parts"]["layers"]
    return [path / "parts" / i / "part.json" for [i] in ids]


def edit_manifest(path, change):
    """In the history, too: its newest entry is the manifest."""
    edit(path / "manifest.json", change)
    shutil.copy(path / "manifest.json", path / "history" / "00000002.json")


def test_a_good_store_has_no_problem(good):
    report = mm.verify(good)
    assert report.ok
    files = [f for _, _, names in os.walk(good) for f in names if f != ".lock"]
    assert report.n_files == len(files)
    assert report.nbytes == sum(f.stat().st_size - HEADER for f in good.glob("parts/*/*.npy"))


def test_every_file_is_read(good, tmp_path):
    """One flipped bit in each, at the front, in the middle and at the end."""
    names = [p.relative_to(good) for p in good.rglob("*") if p.is_file() and p.name not in (".lock", "manifest.json")]
    assert {n.parts[0] for n in names} == {"history", "parts"}
    for name in names:
        whole = (good / name).read_bytes()
        for place in (0, len(whole) // 2, len(whole) - 1):
            path = shutil.copytree(good, tmp_path / "s.mm")
            (path / name).write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
            report = mm.verify(path)
            assert [p.file for p in report.problems][:1] == [str(name)]
            shutil.rmtree(path)


@pytest.mark.parametrize(
    "field",
    [
        {"name": "ghost", "kind": "dense", "dtype": "<f8"},
        {"name": "ghost", "kind": "ragged", "dtype": "<f8", "levels": 1},
        {"name": "ghost", "kind": "category", "dtype": "<i4", "labels": ["a"]},
    ],
)
def test_fields_that_no_part_has(path, field):
    edit_manifest(path, lambda m: m["fields"].append(field))
    report = mm.verify(path)
    assert [(p.file, p.field, p.rows) for p in report.problems] == [
        ("manifest.json", "ghost", (0, ROWS)),
        ("manifest.json", "ghost", (ROWS, 2 * ROWS)),
    ]


@pytest.mark.parametrize(
    ("name", "change"),
    [("x", {"dtype": "<f4"}), ("x", {"shape": [2]}), ("r", {"levels": 2}), ("s", {"kind": "dense", "dtype": "|u1"})],
)
def test_fields_stored_as_another_type(path, name, change):
    edit_manifest(path, lambda m: next(f for f in m["fields"] if f["name"] == name).update(change))
    report = mm.verify(path)
    assert {(p.field, p.rows) for p in report.problems} == {(name, (0, ROWS)), (name, (ROWS, 2 * ROWS))}


@pytest.mark.parametrize(
    ("name", "constant"),
    [
        ("x", 1.7),
        ("x", True),
        ("x", 2**40),
        ("t", True),
        ("t", 3),
        ("process", "not a label"),
        ("c", "not a label"),
    ],
)
def test_forged_constants(path, name, constant):
    kind = {"process": "category", "c": "category"}.get(name, "dense")
    edit(layers(path)[1], lambda p: p["fields"].update({name: {"kind": kind, "constant": constant}}))
    [problem] = mm.verify(path).problems
    assert (problem.field, problem.rows) == (name, (ROWS, 2 * ROWS))


@pytest.mark.parametrize(("name", "kind"), [("r", "ragged"), ("s", "string")])
def test_constants_of_kinds_that_have_none(path, name, kind):
    edit(layers(path)[1], lambda p: p["fields"].update({name: {"kind": kind, "constant": 5}}))
    [problem] = mm.verify(path).problems
    assert (problem.file, problem.rows) == (str(layers(path)[1].relative_to(path)), (ROWS, 2 * ROWS))
    assert f"field {name!r}: 'constant' must be absent" in problem.message


def test_good_constants_are_no_problem(path):
    edit(layers(path)[1], lambda p: p["fields"].update(x={"kind": "dense", "constant": 7}))
    assert mm.verify(path).ok
    assert mm.open(path)["x"].compute()[-1] == 7


@pytest.mark.parametrize("labels", [["label 0", "?", "label 2", "label 3", "label 4"], ["label 0"] * 5])
def test_labels_that_the_manifest_does_not_have(path, labels):
    edit(layers(path)[0], lambda p: p["fields"]["c"].update(labels=labels))
    [problem] = mm.verify(path).problems
    assert (problem.field, problem.rows) == ("c", (0, ROWS))
    assert "label" in problem.message


def test_codes_beyond_the_labels(path):
    edit(layers(path)[0], lambda p: p["fields"]["c"].update(labels=["label 0"], bounds={}))
    [problem] = mm.verify(path).problems
    assert (problem.field, problem.rows) == ("c", (1, ROWS))
    assert "beyond the 1 labels" in problem.message


@pytest.mark.parametrize("name", ["r.offsets", "s.offsets"])
@pytest.mark.parametrize(
    ("entry", "value", "rows", "message"),
    [
        (5, 10**9, (4, 7), "offsets decrease"),
        (5, -(10**9), (3, 6), "offsets decrease"),
        (0, 1, (0, 1), "do not begin with 0"),
        (0, -1, (0, 1), "do not begin with 0"),
        (ROWS, 10**9, (0, ROWS), "they end at 1000000000"),
    ],
)
def test_offsets_that_lead_nowhere(path, name, entry, value, rows, message):
    forge(path, layers(path)[1].parent, name, lambda o: o.view("i8").__setitem__(entry, value))
    problems = mm.verify(path).problems
    # The lists of r and those of ss have the same offsets, in one file.
    assert {p.field for p in problems} == ({"r", "ss"} if name == "r.offsets" else {"s"})
    assert (problems[0].rows, message in problems[0].message) == ((ROWS + rows[0], ROWS + rows[1]), True)


def forge(path, folder, ending, change):
    """Change an array file, given by its number or the end of its name, and its checksum."""
    part = json.loads((folder / "part.json").read_bytes())
    [number] = [i for i, a in enumerate(part["arrays"]) if ending == i or a["file"].endswith(f"-{ending}.npy")]
    file = folder / part["arrays"][number]["file"]
    whole = file.read_bytes()
    data = np.frombuffer(whole[HEADER:], "u1").copy()
    change(data)
    file.write_bytes(whole[:HEADER] + data.tobytes())
    edit(folder / "part.json", lambda p: p["arrays"][number].update(checksums=[checksum(data.data)]))


@pytest.mark.parametrize("row", [0, 17, ROWS - 1])
def test_text_that_is_not_utf8(path, row):
    lengths = [len(t.encode()) for t in rows()["s"]]
    forge(path, layers(path)[1].parent, "s", lambda data: data.__setitem__(sum(lengths[:row]) + 1, 0xFF))
    [problem] = mm.verify(path).problems
    assert (problem.field, problem.rows) == ("s", (ROWS + row, ROWS + row + 1))


def test_text_that_is_not_utf8_in_nested_strings(path):
    nested = ak.Array(rows()["ss"])
    before = ak.sum(ak.num(nested[:20], axis=1))
    nbytes = sum(len(t.encode()) for t in ak.flatten(nested)[:before].to_list())
    forge(path, layers(path)[0].parent, "ss", lambda data: data.__setitem__(nbytes, 0x80))
    [problem] = mm.verify(path).problems
    assert (problem.field, problem.rows) == ("ss", (20, 21))


@given(st.lists(TEXTS, max_size=30), st.integers(1, 20), st.integers(1, 40))
@example([b"abc", b"abc\xc3"], 2, 5)
@example(["aé".encode(), "éé".encode()], 1, 1)
def test_the_first_string_that_is_not_utf8(texts, extent, elements):
    def is_text(raw):
        try:
            raw.decode()
        except UnicodeDecodeError:
            return False
        return True

    wrong = [i for i, raw in enumerate(texts) if not is_text(raw)]
    offsets, raw = np.cumsum([0, *map(len, texts)]), np.frombuffer(b"".join(texts), "u1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crosscheck, "EXTENT", extent)
        patch.setattr(crosscheck, "_ELEMENTS", elements)
        found = crosscheck.first_not_utf8(lambda a, b: offsets[a:b], lambda a, b: raw[a:b], len(texts))
    assert found == (wrong[0] if wrong else None)


def test_history_is_part_of_the_store(path, tmp_path):
    history = path / "history"
    (history / "00000003.json").write_bytes(b"a writer that died before its commit")
    (history / "notes.txt").write_text("not ours")
    (history / "0000000001.json").write_bytes(b"not what we call one")
    assert mm.verify(path).ok
    (history / "00000001.json").unlink()
    assert mm.verify(path).ok
    edit(history / "00000002.json", lambda m: m["attrs"].update(a=1))
    assert "differs from manifest.json" in str(mm.verify(path))
    edit(history / "00000002.json", lambda m: m.update(generation=1))
    assert "holds generation 1" in str(mm.verify(path))
    edit(history / "00000002.json", lambda m: m.update(generation=2, uuid="0" * 32))
    assert "of store 0000" in str(mm.verify(path))
    (history / "00000002.json").unlink()
    (history / "00000002.json").mkdir()
    [problem] = mm.verify(path).problems
    assert problem.file == "history/00000002.json"
    shutil.rmtree(history)
    assert mm.verify(path).ok


def test_a_part_that_cannot_be_read_is_one_problem(path):
    part = layers(path)[0]
    part.write_bytes(part.read_bytes()[:-1])
    [problem] = mm.verify(path).problems
    assert problem.rows == (0, ROWS)
    shutil.rmtree(part.parent)
    [problem] = mm.verify(path).problems
    assert problem.rows == (0, ROWS)


# Every kind of field -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def every_kind(tmp_path_factory):
    return kinds.write_store(tmp_path_factory.mktemp("kinds") / "s.mm")


@pytest.fixture
def every(every_kind, tmp_path):
    return shutil.copytree(every_kind, tmp_path / "s.mm")


PART = "part-1"
FIRST, LAST = kinds.N_ROWS, 2 * kinds.N_ROWS


def test_a_good_store_of_every_kind(every_kind):
    report = mm.verify(every_kind)
    assert report.ok, report
    assert report.notes == ()
    files = [f for _, _, names in os.walk(every_kind) for f in names if f != ".lock"]
    assert report.n_files == len(files)
    assert report.nbytes == sum(f.stat().st_size - HEADER for f in every_kind.glob("parts/*/*.npy"))
    assert (report.generation, report.method) == (2, "every byte")


def test_every_file_of_every_kind_is_read(every):
    files = sorted(every.glob("parts/*/*.npy"))
    assert len(files) > 150
    for file in files:
        whole = file.read_bytes()
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 4]))
        assert {p.file for p in mm.verify(every).problems} == {str(file.relative_to(every))}
        file.write_bytes(whole)
    assert mm.verify(every).ok


@pytest.mark.parametrize(
    ("name", "values", "row", "message"),
    [
        ("b", [1, 0, 2, 1], 2, "neither 0 nor 1"),
        ("r_bool", [1, 0, 255], 3, "neither 0 nor 1"),
        ("o_int.valid", [0, 1, 0, 3], 3, "neither 0 nor 1"),
        ("o_float", np.array([1, 0, np.nan, 0.5], "<f4"), 0, "not nan, NaT or zero"),
        ("o_int", np.array([1, 0, 0, 5], "<i4"), 0, "not nan, NaT or zero"),
        ("o_lists.valid", [0, 1, 0, 0], 3, "a missing value has items"),
        ("o_text.valid", [0, 0, 0, 0], 3, "a missing value has items"),
        ("o_items.valid", [1, 0, 0], 3, "not nan, NaT or zero"),
        ("image.shapes", np.array([2, 1, 3, 1, 0, 0, 1, 1], "<i8"), 1, "a shape does not fit"),
        ("image.shapes", np.array([2, 1, 1, 2, 0, 0, -1, -1], "<i8"), 3, "a shape does not fit"),
        ("image.shapes", np.array([2, 1, 1, 2, 0, 2**62, 1, 1], "<i8"), None, ""),
        ("o_image.shapes", np.array([0, 2**62, 2, 1, 0, 0, 1, 2], "<i8"), 0, "a missing value has items"),
        ("label", [0, 1, 2, 3], 3, "beyond the 3 labels"),
    ],
)
def test_what_a_writer_got_wrong(every, name, values, row, message):
    values = np.array(values, "u1") if isinstance(values, list) else values
    name, _, role = name.partition(".")
    folder = every / "parts" / PART
    number = json.loads((folder / "part.json").read_bytes())["fields"][name][role or "values"]
    forge(
        every,
        folder,
        number if type(number) is int else number[-1],
        lambda data: data.__setitem__(..., values.view("u1")),
    )
    problems = mm.verify(every).problems
    if row is None:
        assert problems == ()
        return
    assert {p.field for p in problems} >= {name} if role == "valid" else {name}
    [problem] = [p for p in problems if p.field == name]
    assert (problem.rows, message in problem.message) == ((FIRST + row, FIRST + row + 1), True)


def test_text_within_lists_of_lists(every):
    raw = "üa".encode()
    forge(every, every / "parts" / PART, "texts_deep", lambda data: data.__setitem__(data.tolist().index(raw[0]), 0xFF))
    [problem] = mm.verify(every).problems
    assert (problem.field, problem.rows) == ("texts_deep", (FIRST + 3, FIRST + 4))


def test_a_file_of_several_fields_names_them_all(every):
    part = json.loads((every / "parts" / PART / "part.json").read_bytes())
    number = part["fields"]["jets_pt"]["offsets"][0]
    users = {name for name, f in part["fields"].items() if number in f.get("offsets", [])}
    assert {"jets_pt", "jets_hits", "jets_tag"} <= users
    file = every / "parts" / PART / part["arrays"][number]["file"]
    flip(file, HEADER + 8)
    report = mm.verify(every)
    assert {p.field for p in report.problems} == users
    file.unlink()
    assert {p.field for p in mm.verify(every).problems} == users
    assert {p.rows for p in mm.verify(every).problems} == {(FIRST, LAST)}


def flip(file, place):
    with open(file, "r+b") as f:
        f.seek(place)
        byte = f.read(1)[0]
        f.seek(place)
        f.write(bytes([byte ^ 1]))


def test_members_of_a_list_of_records_have_equal_counts(every):
    def other(part):
        part["fields"]["jets_pt"].update({key: part["fields"]["o_lists"][key] for key in ("offsets", "values")})

    edit(every / "parts" / PART / "part.json", other)
    found = [p for p in mm.verify(every).problems if "list of records" in p.message]
    assert [(p.field, p.rows) for p in found] == [("jets_hits", (FIRST, LAST))]


def test_bytes_of_the_manifest(every):
    edit_manifest(every, lambda m: m["parts"]["nbytes"].__setitem__(1, 7))
    [problem] = mm.verify(every).problems
    assert (problem.file, problem.rows) == ("manifest.json", (FIRST, LAST))
    assert "says 7 bytes of data for part 1" in problem.message


def test_auxiliary_arrays(every):
    [file] = (every / "parts" / "aux-1").glob("*-edges.npy")
    flip(file, HEADER)
    [problem] = mm.verify(every).problems
    assert (problem.file, problem.field, problem.rows) == (str(file.relative_to(every)), "edges", None)
    assert str(problem) == f"{problem.file}: edges: bytes differ from what was written"
    shutil.rmtree(file.parent)
    [problem] = mm.verify(every).problems
    assert (problem.file, problem.rows) == ("parts/aux-1/part.json", None)


# Files ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: f.unlink(), "No such file"),
        (lambda f: os.truncate(f, f.stat().st_size - 1), "bytes, should have"),
        (lambda f: f.write_bytes(f.read_bytes() + b"x"), "bytes, should have"),
        (lambda f: (f.unlink(), f.symlink_to("/dev/zero")), "a link"),
        (lambda f: (f.rename(f"{f}.real"), f.symlink_to(f"{f}.real")), "a link"),
        (lambda f: (f.unlink(), os.mkfifo(f)), "not a regular file"),
        (lambda f: (f.unlink(), f.mkdir()), "not a regular file"),
    ],
)
def test_files_that_are_not_there(every, quick, damage, message):
    [file] = (every / "parts" / PART).glob("*-jets_pt.npy")
    damage(file)
    [problem] = mm.verify(every, quick=quick).problems
    assert (problem.field, problem.rows) == ("jets_pt", (FIRST + 1, LAST))  # the first row has no items
    assert message in problem.message


def test_a_layer_behind_a_link_is_no_layer(every, tmp_path):
    folder = every / "parts" / PART
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    [problem] = mm.verify(every).problems
    assert (problem.rows, "a link" in problem.message) == ((FIRST, LAST), True)


def test_quick_reads_no_data(every, monkeypatch):
    [file] = (every / "parts" / PART).glob("*-jets_pt.npy")
    flip(file, HEADER)
    report = mm.verify(every, quick=True)
    assert (report.ok, report.nbytes, report.method) == (True, 0, "sizes")
    assert report.n_files == mm.verify(every).n_files
    history = every / "history" / "00000001.json"
    flip(history, 100)
    [problem] = mm.verify(every, quick=True).problems
    assert problem.file == "history/00000001.json"


def test_a_disk_that_cannot_give_a_block_back(every, monkeypatch):
    [file] = (every / "parts" / PART).glob("*-jets_pt.npy")
    inode, read = file.stat().st_ino, os.preadv

    def preadv(fd, buffers, offset):
        if os.fstat(fd).st_ino == inode and offset >= HEADER:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    problems = mm.verify(every).problems
    assert {(p.field, p.rows) for p in problems} == {("jets_pt", (FIRST + 1, LAST))}
    assert "cannot be read: Input/output error" in problems[0].message


def test_generations(every):
    [file] = (every / "parts" / PART).glob("*-jets_pt.npy")
    file.unlink()
    assert mm.verify(every, generation=1).ok
    assert mm.verify(every, generation=1).n_parts == 1
    assert not mm.verify(every, generation=2).ok
    with pytest.raises(mm.StoreNotFoundError):
        mm.verify(every, generation=3)


def test_layers_that_only_the_history_names(every):
    edit_manifest(every, lambda m: [m["parts"][k].pop(0) for k in ("rows", "nbytes", "layers")])
    assert mm.verify(every).ok
    assert mm.verify(every).notes == ()
    shutil.rmtree(every / "parts" / "part-0")
    [problem] = mm.verify(every).problems
    assert (problem.file, problem.rows) == ("history/00000001.json", None)
    assert "1 layer of generation 1 is gone, as part-0" in problem.message


def test_what_belongs_to_no_generation_is_a_note(every):
    (every / "parts" / "abc.tmp-1234").mkdir()
    (every / "parts" / "abd").mkdir()
    report = mm.verify(every)
    assert report.ok
    [note] = report.notes
    assert "2 folders in parts/ belong to no generation, as abc.tmp-1234" in note
    assert str(report).endswith(f"no problem\nnote: {note}")


def test_reports_read_as_one_would_say_it(tmp_path):
    path = tmp_path / "s.mm"
    mm.from_arrays({"x": np.arange(3, dtype="i2")}, path)
    text = str(mm.verify(path))
    assert ": generation 1, 1 part, 4 files, 6 " in text
    assert "bytes checked (every byte): no problem" in text
    assert "(sample of 1 extent of each array, seed=5)" in str(mm.verify(path, sample=1, seed=5))
    (path / "parts" / "abc.tmp-1234").mkdir()
    assert "1 folder in parts/ belongs to no generation, as abc.tmp-1234" in mm.verify(path).notes[0]
    [document] = path.glob("parts/*/part.json")
    with open(document, "a") as file:
        file.write(" ")
    where = f"parts/{document.parent.name}/part.json"
    _, *lines, _ = str(mm.verify(path)).splitlines()
    assert lines[0].startswith(f"{where}: rows 0 to 2: the checksum in its first line does not fit")
    assert not any(str(path) in line or "::" in line for line in lines)
    [array] = path.glob("parts/*/*-x.npy")
    array.unlink()
    assert str(mm.verify(path)).count("problem") == 1


def test_damaged_documents_of_the_history_are_named_once(tmp_path):
    path = tmp_path / "s.mm"
    mm.from_arrays({"x": [1, 2, 3]}, path)
    with mm.append(path) as w:
        w.append({"x": 4})
    with open(path / "history" / "00000001.json", "a") as file:
        file.write(" ")
    head, line = str(mm.verify(path)).splitlines()
    assert head.endswith(": 1 problem")
    assert line.startswith("history/00000001.json: the checksum")


@pytest.mark.parametrize(
    ("field", "rows", "text"),
    [
        ("", None, "a.npy: gone"),
        ("x", None, "a.npy: x: gone"),
        ("", (2, 5), "a.npy: rows 2 to 4: gone"),
        ("x", (2, 5), "a.npy: x rows 2 to 4: gone"),
    ],
)
def test_problems_in_a_line(field, rows, text):
    assert str(checks.Problem("a.npy", field, rows, "gone")) == text


# Large arrays, samples, threads --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Arrays of several extents: 13 MB of offsets, 24 MB of items."""
    path, rows = tmp_path_factory.mktemp("large") / "s.mm", 1_600_000
    counts = np.arange(rows) % 8
    data = FieldData(np.arange(counts.sum(), dtype="f4"), (np.cumsum([0, *counts], dtype="i8"),))
    with mm.create(path, fields=[Field.ragged("r", "f4"), Field.dense("x", "u1")]) as w:
        w.extend({"r": ak.unflatten(data.values, counts), "x": np.zeros(rows, "u1")})
    return path


def file_of(path, ending):
    [file] = path.glob(f"parts/*/*-{ending}.npy")
    return file


@pytest.mark.parametrize("threads", [1, 3])
def test_extents(large, threads, monkeypatch):
    monkeypatch.setattr(checks, "TASK_NBYTES", EXTENT)
    file = file_of(large, "r")
    for place in (EXTENT - 1, EXTENT, 3 * EXTENT):
        flip(file, HEADER + place)
        [problem] = mm.verify(large, threads=threads).problems
        flip(file, HEADER + place)
        first, last = place // EXTENT * EXTENT // 4, (place // EXTENT + 1) * EXTENT // 4 - 1
        # 28 items lie in 8 rows.
        assert abs(problem.rows[0] - first * 8 / 28) < 8
        assert abs(problem.rows[1] - last * 8 / 28) < 8
    for place in (EXTENT - 1, EXTENT):
        flip(file, HEADER + place)
    [problem] = mm.verify(large, threads=threads).problems
    for place in (EXTENT - 1, EXTENT):
        flip(file, HEADER + place)
    assert abs(problem.rows[1] - 2 * EXTENT / 4 * 8 / 28) < 8
    assert mm.verify(large, threads=threads).ok


def test_offsets_are_compared_across_extents(large, tmp_path):
    path = shutil.copytree(large, tmp_path / "s.mm")
    offsets = file_of(path, "r.offsets")
    first = EXTENT // 8
    with open(offsets, "r+b") as f:
        f.seek(HEADER + EXTENT)
        f.write((10).to_bytes(8, "little"))
        f.seek(HEADER + EXTENT)
        changed = checksum(f.read(EXTENT))
    [part] = path.glob("parts/*/part.json")

    def forged(p):
        [array] = [a for a in p["arrays"] if a["file"] == offsets.name]
        array["checksums"][1] = changed

    edit(part, forged)
    for task in (EXTENT, 1 << 30):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checks, "TASK_NBYTES", task)
            [problem] = mm.verify(path).problems
        assert (problem.rows, problem.message) == ((first - 2, first + 1), "offsets decrease")


def test_a_sample_is_named_by_its_seed(large, tmp_path):
    large = shutil.copytree(large, tmp_path / "s.mm")
    files = {e: file_of(large, e) for e in ("r", "r.offsets", "x")}
    n = {e: -(-(f.stat().st_size - HEADER) // EXTENT) for e, f in files.items()}
    assert n == {"r": 6, "r.offsets": 4, "x": 1}
    report = mm.verify(large, sample=1, seed=5)
    assert report.method == "sample of 1 extent of each array, seed=5"
    assert report.nbytes <= 2 * EXTENT + 1_600_000
    assert report.ok
    flip(files["r"], HEADER + 2 * EXTENT)
    found = [not mm.verify(large, sample=1, seed=seed).ok for seed in range(60)]
    assert 2 <= sum(found) <= 25
    assert found == [not mm.verify(large, sample=1, seed=seed).ok for seed in range(60)]
    assert not mm.verify(large, sample=6).ok
    assert not mm.verify(large, sample=1.0).ok
    flip(files["r"], HEADER + 2 * EXTENT)
    mean = np.mean([mm.verify(large, sample=0.25).nbytes for _ in range(60)])
    assert 0.15 < mean / mm.verify(large).nbytes < 0.35
    os.truncate(files["x"], 100)
    report = mm.verify(large, sample=0.001)
    assert [(p.field, p.rows) for p in report.problems] == [("x", (0, 1_600_000))]


@pytest.mark.parametrize(
    "options",
    [
        {"sample": 0},
        {"sample": 0.0},
        {"sample": 1.5},
        {"sample": -1},
        {"sample": True},
        {"sample": "1 %"},
        {"sample": 0.5, "quick": True},
        {"seed": 3},
        {"seed": 0.5, "sample": 1},
        {"threads": 0},
        {"threads": 1.5},
        {"threads": True},
    ],
)
def test_options_that_cannot_be(good, options):
    with pytest.raises(mm.OptionError):
        mm.verify(good, **options)


def test_memory_is_bounded(large):
    """36 MB of data in pieces of 1 MB."""
    mm.verify(large)
    tracemalloc.start()
    try:
        assert mm.verify(large, threads=2).ok
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_progress_bar_counts_all_bytes(large, capsys):
    mm.verify(large, show_progress=True)
    assert "100%" in capsys.readouterr().err


def test_a_progress_bar_of_a_fraction_has_an_end(large, capsys):
    mm.verify(large, sample=1.0, show_progress=True)
    assert "100%" in capsys.readouterr().err


@st.composite
def nested(draw):
    """Rows of lists of lists, and the numbers of the rows that items are in."""
    counts = draw(st.lists(st.integers(0, 6), min_size=1, max_size=40))
    inner = [draw(st.integers(0, 6)) for _ in range(sum(counts))]
    outer, below = np.cumsum([0, *counts], dtype="i8"), np.cumsum([0, *inner], dtype="i8")
    return FieldData(np.arange(3 * below[-1], dtype="i8").reshape(-1, 3), (outer, below))


@given(nested(), st.data())
@settings(max_examples=40)
def test_rows_of_damage_are_right(data, choose):
    """With extents of 64 bytes: any changed byte is found, in no more rows than its extent has elements in."""
    field = Field.ragged("r", "i8", (3,), levels=2)  # items of 24 bytes lie across extents
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        for module in (npy, layer, opened):
            patch.setattr(module, "EXTENT", 64)
        patch.setattr(scan, "PIECE", choose.draw(st.sampled_from([32, 64])))
        patch.setattr(checks, "TASK_NBYTES", choose.draw(st.sampled_from([64, 128, 10**6])))
        with LayerWriter(folder, "a") as w:
            w.field(field).write(data)
            written = w.finish()
        commit(
            folder,
            lambda _: add_parts(None, Schema([field]), [Part(len(data), ("a",), written.nbytes)], block_rows=1),
            action="",
        )
        assert mm.verify(folder).ok
        assume(len(written.arrays) == 3)  # not when both levels have the same offsets
        number = choose.draw(st.integers(0, 2).filter(lambda n: written.arrays[n].nbytes))
        spec = written.arrays[number]
        byte = choose.draw(st.integers(0, spec.nbytes - 1))
        flip(Path(folder, "parts", "a", spec.file), HEADER + byte)
        problems = [p for p in mm.verify(folder).problems if "bytes differ" in p.message]
        assert [p.file for p in problems] == [f"parts/a/{spec.file}"]
        width = 24 if number == 2 else 8
        low, high = byte // 64 * 64 // width, min(-(-(byte // 64 * 64 + 64) // width), spec.shape[0])
        row_of = np.repeat(np.arange(len(data)), np.diff(data.offsets[1][data.offsets[0]]))
        list_row = np.repeat(np.arange(len(data)), data.counts)
        expected = {
            0: range(max(low - 1, 0), min(high, len(data))),
            1: list_row[max(low - 1, 0) : high],
            2: row_of[low:high],
        }[number]
        if len(expected):
            assert problems[0].rows[0] <= expected[0] < expected[-1] + 1 <= problems[0].rows[1]
            if number != 1 or len(expected) > 1:
                assert problems[0].rows == (expected[0], expected[-1] + 1)
