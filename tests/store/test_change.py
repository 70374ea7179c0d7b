"""Fields dropped, and what is noted about a store."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest

import mmdask as mm
from mmdask.schema import Field
from mmdask.store.manifest import history, read_manifest
from mmdask.store.system import SYSTEM


@pytest.fixture
def store(tmp_path):
    path = str(tmp_path / "s.mm")
    mm.from_arrays({"x": [1, 2, 3], "jet_pt": [[1.0, 2.0], [], [3.0]], "jet_e": [[1.5, 2.5], [], [3.5]]}, path)
    return path


# drop ----------------------------------------------------------------------------------------------------------------


def test_drop_rewrites_no_row_and_older_generations_keep_the_field(store):
    before = set(os.listdir(os.path.join(store, "parts")))
    held = mm.open(store)
    mm.drop(store, "jet_*")
    ds = mm.open(store)
    assert ds.fields == ("x",)
    assert set(os.listdir(os.path.join(store, "parts"))) == before
    assert held["jet_pt"].compute().to_list() == [[1.0, 2.0], [], [3.0]]
    assert mm.open(store, generation=1).fields == ("x", "jet_pt", "jet_e")
    assert history(store)[-1].action == "drop jet_*"
    assert mm.verify(store).ok
    with mm.append(store) as w:
        w.append({"x": 4})
    assert mm.open(store)["x"].compute().tolist() == [1, 2, 3, 4]


def test_drop_names_patterns_and_records(tmp_path):
    path = tmp_path / "s.mm"
    mm.from_arrays({"x": [1], "y": [2], "jets": [[{"pt": 1.0, "eta": 2.0}]], "jets_n": [1]}, path)
    mm.drop(path, ["y", "jets"])
    assert mm.open(path).fields == ("x", "jets_n")
    mm.drop(path, (name for name in ["jets_n"]))
    assert mm.open(path).fields == ("x",)


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ("jet_ptt", mm.FieldNotFoundError, "s.mm: no field 'jet_ptt'; did you mean 'jet_pt'"),
        (["x", "q*"], mm.FieldNotFoundError, "no field 'q\\*'"),
        ("*", mm.SchemaError, "these are all its fields"),
        (3, mm.OptionError, "names or patterns"),
    ],
)
def test_what_cannot_be_dropped(store, names, error, message):
    with pytest.raises(error, match=message):
        mm.drop(store, names)
    assert read_manifest(store).generation == 1


def test_what_is_needed_by_expressions_stays(store):
    mm.assign(store, ht="sum(jet_pt)", half="ht / 2", progress=False)
    with pytest.raises(mm.SchemaError, match="'jet_pt' cannot be dropped: 'ht' is computed from it; drop it, too"):
        mm.drop(store, "jet_pt")
    with pytest.raises(mm.SchemaError, match="'ht' cannot be dropped: 'half'"):
        mm.drop(store, ["jet_pt", "ht"])
    mm.drop(store, ["jet_pt", "ht", "half"])
    assert mm.open(store).fields == ("x", "jet_e")


def test_drop_where_no_store_is_makes_nothing(tmp_path):
    with pytest.raises(mm.StoreNotFoundError):
        mm.drop(tmp_path / "none.mm", "x")
    os.mkdir(tmp_path / "folder")
    with pytest.raises(mm.StoreNotFoundError):
        mm.drop(tmp_path / "folder", "x")
    assert os.listdir(tmp_path / "folder") == []


def test_a_dropped_name_can_be_given_another_meaning(store):
    mm.drop(store, "x")
    mm.assign(store, x=["a", "b", "c"], progress=False)
    assert mm.open(store)["x"].compute().to_list() == ["a", "b", "c"]
    assert mm.open(store, generation=1)["x"].compute().tolist() == [1, 2, 3]
    assert mm.verify(store).ok


# annotate ------------------------------------------------------------------------------------------------------------


def test_notes_are_merged_and_removed(store):
    mm.annotate(store, attrs={"lumi": 139.0, "tags": ["a", {"b": None}]}, fields={"x": {"unit": "GeV", "doc": "d"}})
    mm.annotate(store, attrs={"lumi": None, "more": [1, 2]}, fields={"x": {"attrs": {"bins": 3, "log": True}}})
    ds = mm.open(store)
    assert ds.attrs == {"tags": ["a", {"b": None}], "more": [1, 2]}
    field = ds.schema["x"]
    assert (field.unit, field.doc, field.attrs) == ("GeV", "d", {"bins": 3, "log": True})
    mm.annotate(store, fields={"x": {"attrs": {"bins": None}, "unit": ""}})
    field = mm.open(store).schema["x"]
    assert (field.unit, field.doc, field.attrs) == ("", "d", {"log": True})
    assert read_manifest(store).generation == 4
    mm.annotate(store, fields={"x": {"doc": "d"}})
    assert read_manifest(store).generation == 4, "nothing changed"


def test_optional_is_added_and_stays(store):
    with pytest.raises(mm.SchemaError, match="optional"), mm.append(store) as w:
        w.append({"x": None, "jet_pt": [], "jet_e": []})
    mm.annotate(store, fields={"x": {"optional": (0,)}, "jet_pt": {"optional": [1]}})
    with mm.append(store) as w:
        w.append({"x": None, "jet_pt": [4.0, None], "jet_e": [0.5, 1.5]})
    ds = mm.open(store)
    assert ds["x"].compute().tolist() == [1, 2, 3, None]
    assert ds["jet_pt"].compute().to_list() == [[1.0, 2.0], [], [3.0], [4.0, None]]
    with pytest.raises(mm.SchemaError, match=r"stays optional at depth 1.*optional=\(0, 1\)"):
        mm.annotate(store, fields={"jet_pt": {"optional": (0,)}})
    with pytest.raises(mm.SchemaError, match="optional= are ascending depths from 0 to 1"):
        mm.annotate(store, fields={"jet_pt": {"optional": (1, 2)}})
    mm.annotate(store, fields={"jet_pt": {"optional": (0, 1)}})
    assert mm.verify(store).ok


def test_what_is_computed_from_optional_fields_becomes_optional(store):
    mm.assign(store, y="x * 2", z="y + 1", progress=False)
    assert mm.open(store).schema["z"].optional == ()
    mm.annotate(store, fields={"x": {"optional": (0,)}})
    assert [mm.open(store).schema[name].optional for name in "xyz"] == [(0,)] * 3
    with mm.append(store) as w:
        w.append({"x": None, "jet_pt": [], "jet_e": []})
    assert mm.open(store)["z"].compute().tolist() == [3, 5, 7, None]


AUX = {
    "edges": np.array([0.0, 20.0, 50.0]),
    "names": ["a", "bb", ""],
    "counts": [[1, 2], [], [3]],
    "n": 3,
    "image": np.arange(6, dtype="u1").reshape(2, 3),
    "title": "of all",
}


def test_aux_is_added_replaced_and_removed(store):
    def seen():
        aux = mm.open(store).aux
        return {name: getattr(v, "tolist", lambda v=v: v)() for name, v in aux.items()}

    mm.annotate(store, aux=AUX)
    expected = {name: getattr(v, "tolist", lambda v=v: v)() for name, v in AUX.items()}
    assert seen() == expected
    mm.annotate(store, aux={"edges": np.array([1.5]), "n": None})
    del expected["n"]
    expected["edges"] = [1.5]
    assert seen() == expected
    assert len(read_manifest(store).aux_layers) == 2
    mm.annotate(store, aux=dict.fromkeys(["names", "counts", "image", "title"]))
    assert seen() == {"edges": [1.5]}
    assert len(read_manifest(store).aux_layers) == 1, "a layer that holds nothing of use is named no more"
    mm.annotate(store, aux={"edges": None})
    assert read_manifest(store).aux_layers == ()
    assert len(mm.open(store, generation=2).aux) == len(AUX)
    assert mm.verify(store).ok
    assert mm.open(store)["x"].compute().tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"fields": {"xx": {"unit": "GeV"}}}, mm.FieldNotFoundError, "no field 'xx'"),
        ({"fields": {"x": {"units": "GeV"}}}, mm.OptionError, "no note 'units'; there are unit, doc, attrs, optional"),
        ({"fields": {"x": {"unit": 3}}}, mm.OptionError, "unit is text, got int"),
        ({"fields": {"x": {"optional": 0}}}, mm.OptionError, "optional are depths"),
        ({"fields": {"x": "GeV"}}, mm.OptionError, "a mapping by name, got str"),
        ({"fields": {"x": {"attrs": {"a": np.float32(1)}}}}, mm.OptionError, "tolist"),
        ({"attrs": {"a": float("nan")}}, mm.OptionError, "nan"),
        ({"attrs": {"a": {1, 2}}}, mm.OptionError, "set"),
        ({"attrs": {"gone": None}}, mm.OptionError, "no attr 'gone' to remove"),
        ({"aux": {"gone": None}}, mm.FieldNotFoundError, "no aux 'gone' to remove"),
        ({"aux": {"a": object()}}, mm.SchemaError, "'a'"),
        ({"aux": ["a"]}, mm.OptionError, "aux is a mapping"),
    ],
)
def test_notes_that_cannot_be(store, change, error, message):
    with pytest.raises(error, match=message):
        mm.annotate(store, **change)
    assert read_manifest(store).generation == 1
    assert len(os.listdir(os.path.join(store, "parts"))) == 1, "nothing is left"


def test_a_commit_that_fails_leaves_no_layer(store, monkeypatch):
    from mmdask.sources import change

    monkeypatch.setattr(change, "commit", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        mm.annotate(store, aux={"edges": [1.0]})
    assert len(os.listdir(os.path.join(store, "parts"))) == 1


def test_two_who_annotate_at_once_both_win(store, monkeypatch):
    from mmdask.sources import change

    original, others = change.commit, [{"b": [2.0]}, {"c": [3.0]}]

    def commit(*args, **kwargs):
        if others:
            mm.annotate(store, aux=others.pop(), attrs={f"n{len(others)}": 1})
        return original(*args, **kwargs)

    monkeypatch.setattr(change, "commit", commit)
    mm.annotate(store, aux={"a": [1.0]}, attrs={"mine": 1})
    ds = mm.open(store)
    assert {name: value.tolist() for name, value in ds.aux.items()} == {"a": [1.0], "b": [2.0], "c": [3.0]}
    assert ds.attrs == {"mine": 1, "n0": 1, "n1": 1}


def test_annotated_fields_survive_appends_assigns_and_compaction(store):
    mm.annotate(store, fields={"x": {"unit": "GeV", "attrs": {"a": 1}}}, attrs={"k": "v"}, aux={"e": [1.0]})
    with mm.append(store) as w:
        w.append({"x": 4, "jet_pt": [], "jet_e": []})
    mm.assign(store, y="x + 1", progress=False)
    mm.compact(store, progress=False)
    ds = mm.open(store)
    assert ds.schema["x"] == Field.dense("x", "i8", unit="GeV", attrs={"a": 1})
    assert ds.attrs == {"k": "v"}
    assert ds.aux["e"].tolist() == [1.0]


@pytest.mark.parametrize(
    ("change", "nothing"),
    [
        (lambda path: mm.drop(path, "x"), "nothing was dropped"),
        (lambda path: mm.annotate(path, attrs={"a": 1}), "nothing that is noted about it was changed"),
        (lambda path: mm.annotate(path, aux={"a": [1]}), "nothing that is noted about it was changed"),
    ],
)
def test_an_error_of_the_disk_names_the_store(tmp_path, monkeypatch, change, nothing):
    path = tmp_path / "noted.mm"
    mm.from_arrays({"x": [1], "y": [2]}, path)
    before = read_manifest(path)

    def fail(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(SYSTEM, "write", fail)
    with pytest.raises(OSError, match="No space") as caught:
        change(path)
    assert caught.value.__notes__ == [f"while {path} was written: {nothing}"]
    monkeypatch.undo()
    assert read_manifest(path) == before


def test_a_change_that_may_have_happened_is_not_denied(tmp_path, monkeypatch):
    path = tmp_path / "noted.mm"
    mm.from_arrays({"x": [1]}, path)
    sync, real = SYSTEM.fsync_folder, []

    def fail(folder):
        real.append(folder)
        if str(folder) == str(path):
            raise OSError(errno.EIO, "Input/output error")
        sync(folder)

    monkeypatch.setattr(SYSTEM, "fsync_folder", fail)
    with pytest.raises(OSError, match="Input/output") as caught:
        mm.annotate(path, attrs={"a": 1})
    assert len(caught.value.__notes__) == 1
    assert "may have happened" in caught.value.__notes__[0]
