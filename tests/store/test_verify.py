"""verify finds what a reader would fall over: every changed byte, and stores that are whole but make no sense."""

from __future__ import annotations

import json
import os
import shutil

import awkward as ak
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mmdask as mm
from mmdask.schema import FieldData
from mmdask.store import document, verify
from mmdask.store.npy import HEADER, checksum

ROWS = 40
FIELDS = [
    mm.Field.dense("x", "i4"),
    mm.Field.dense("t", "M8[s]"),
    mm.Field.ragged("r", "f4"),
    mm.Field.string("s"),
    mm.Field.string("ss", levels=1),
    mm.Field.category("c"),
]


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
        ("r", 5),
        ("s", 5),
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
    kind = {"r": "ragged", "s": "string", "process": "category", "c": "category"}.get(name, "dense")
    edit(layers(path)[1], lambda p: p["fields"].update({name: {"kind": kind, "constant": constant}}))
    [problem] = mm.verify(path).problems
    assert (problem.field, problem.rows) == (name, (ROWS, 2 * ROWS))


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


def test_codes_and_offsets_that_lead_nowhere(path):
    edit(layers(path)[0], lambda p: p["fields"]["c"].update(labels=["label 0"]))
    assert ["beyond the 1 labels" in p.message for p in mm.verify(path).problems] == [True]
    forge(path, layers(path)[1].parent, "r.offsets", lambda o: o.view("i8").__setitem__(5, 10**9))
    assert "offsets do not ascend" in str(mm.verify(path))


def test_strings_whose_offsets_lead_nowhere(path):
    forge(path, layers(path)[1].parent, "s.offsets", lambda o: o.view("i8").__setitem__(5, -(10**9)))
    [problem] = mm.verify(path).problems
    assert (problem.field, problem.rows) == ("s", (ROWS, 2 * ROWS))
    assert "offsets do not ascend" in problem.message


def forge(path, folder, ending, change):
    """Change an array file and its checksum."""
    part = json.loads((folder / "part.json").read_bytes())
    [number] = [i for i, a in enumerate(part["arrays"]) if a["file"].endswith(f"-{ending}.npy")]
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


@given(st.lists(st.binary(max_size=4), max_size=30), st.integers(1, 20))
def test_the_first_string_that_is_not_utf8(texts, extent):
    def is_text(raw):
        try:
            raw.decode()
        except UnicodeDecodeError:
            return False
        return True

    wrong = [i for i, raw in enumerate(texts) if not is_text(raw)]
    offsets = np.cumsum([0, *map(len, texts)])
    data = FieldData(np.frombuffer(b"".join(texts), "u1"), (offsets,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify, "EXTENT", extent)
        assert verify._first_not_utf8(data) == (wrong[0] if wrong else None)


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
