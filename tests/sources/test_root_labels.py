"""Labels, fields that one file lacks, and rows and fields that were added to a converted store otherwise."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import uproot
from root_tools import (
    A,
    B,
    C,
    check,
    columns,
    events,
    labelled,
    manifest,
    part_layers,
    read_store,
    rewrite,
    run,
    write_tree,
)

from mmdask.errors import (
    ConflictError,
    FieldNotFoundError,
    SchemaError,
    SkippedFieldsWarning,
)
from mmdask.schema import Field, FieldData
from mmdask.sources.converting import conversion
from mmdask.sources.root.reader import CONVERTER_VERSION
from mmdask.store.commit import commit
from mmdask.store.layer import new_id, read_layer
from mmdask.store.layer_writer import LayerWriter
from mmdask.store.manifest import Part, read_manifest

# ---- labels ---------------------------------------------------------------------------------------------------------


def test_labels_become_fields(files, out):
    run(
        labelled(files, process=["tt", "ttH", "tt"], year=[2016, 2017, 2018], xsec=[1, 2, 0.5], mc=[True, False, True]),
        out,
    )
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
    with pytest.warns(
        SkippedFieldsWarning, match=r"data of 1 field cannot be read, left out .*'met' in /.*b\.root: .*odd"
    ):
        run(files, out)
    assert list(read_store(out)) == ["number", "npt", "pt"]
    monkeypatch.undo()
    run(files, out)
    assert list(read_store(out)) == ["number", "npt", "pt"], "nothing changed, nothing is read"
    rewrite(files[1], C)
    run(files, out)
    check(out, *A, *C, *C)
    assert manifest(out)["generation"] == 2


def test_a_file_with_a_field_that_the_first_could_not_read(files, out, monkeypatch):
    fail_in(monkeypatch, "b.root", "met")
    with pytest.warns(SkippedFieldsWarning, match="'met'"):
        run(files[1], out)
    monkeypatch.undo()
    run(files, out)
    assert list(read_store(out)) == ["number", "npt", "pt"]
    check(out, *[{k: c[k] for k in ("number", "pt")} for c in (*B, *A, *C)])


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

    commit(out, change, action="test")


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
    commit(out, lambda m: type(m)(m.uuid, m.generation, m.block_rows, schema, tuple(parts), m.attrs), action="test")


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
    assert options == {"fields": None, "exclude": [], "part_nbytes": 2**30, "converter": CONVERTER_VERSION}


def test_offsets_are_shared(files, out):
    a = [{**c, "eta": c["pt"]} for c in A]
    run(write_tree(Path(out).parent / "x.root", a), out)
    fields = part_layers(out)[0][0]["fields"]
    assert fields["pt"]["offsets"] == fields["eta"]["offsets"]


def test_unknown_field_says_so_before_anything_is_written(files, out):
    with pytest.raises(FieldNotFoundError, match=r"a\.root: no field 'jet_pt'; the fields are: met, number, npt, pt"):
        run(files, out, fields="jet_pt")
    assert not out.exists()
