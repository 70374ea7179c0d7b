"""Conversions of stores that were changed since: merged parts, and fields that were added."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import uproot

import mmdask as mm
from mmdask.sources.converting.pieces import Piece, dissolve
from mmdask.sources.converting.plan import arrange, group_of, labels_id
from mmdask.store.manifest import Part, read_manifest


def write(path, rows, **more):
    rows = np.array(rows)
    branches = {"x": rows.astype("f4"), "k": rows.astype("i8"), **more}
    with uproot.recreate(path) as file:
        file.mktree("t", {name: v.dtype for name, v in branches.items()}).extend(branches)
    return str(path)


@pytest.fixture
def files(tmp_path):
    return [write(tmp_path / f"{i}.root", range(10 * i, 10 * i + 10)) for i in range(5)]


@pytest.fixture
def out(tmp_path):
    return str(tmp_path / "o.mm")


@pytest.fixture
def decoded(monkeypatch):
    """Files that were opened for their rows."""
    from mmdask.sources.root.reader import RootFiles

    seen = []
    original = RootFiles.open

    def opened(self, table):
        seen.append(os.path.basename(table.source.path))
        return original(self, table)

    monkeypatch.setattr(RootFiles, "open", opened)
    return seen


def run(files, out, labels=None, **options):
    sources = {f: {"process": "ab"[i % 2]} for i, f in enumerate(files)} if labels is None else labels
    return mm.from_root(sources, out, progress=False, **options)


def compact(out, **options):
    mm.compact(out, progress=False, **options)


def check(ds, *numbers):
    assert ds["k"].compute().tolist() == list(numbers)
    assert ds["x"].compute().tolist() == list(numbers)
    assert mm.verify(ds.path).ok


def n_parts(out):
    return len(read_manifest(out).parts)


# Merged parts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vacuumed", [False, True])
def test_compact_then_nothing_to_do_then_one_changed_file(files, out, decoded, vacuumed):
    run(files, out)
    compact(out)
    assert n_parts(out) == 1
    if vacuumed:
        mm.vacuum(out, keep=1, grace=0)
    decoded.clear()
    before = Path(out, "manifest.json").read_bytes()
    ds = run(files, out)
    assert Path(out, "manifest.json").read_bytes() == before
    assert decoded == []
    check(ds, *range(50))
    assert [os.path.basename(s.uri) for s in ds.sources] == [f"{i}.root" for i in range(5)]
    assert [s.stop - s.start for s in ds.sources] == [10] * 5

    write(files[2], range(100, 112))
    ds = run(files, out)
    check(ds, *range(20), *range(100, 112), *range(30, 50))
    assert ds["process"].compute().tolist() == [*"a" * 10, *"b" * 10, *"a" * 12, *"b" * 10, *"a" * 10]
    assert n_parts(out) == 5
    assert decoded == ["2.root"]
    decoded.clear()
    assert run(files, out).generation == ds.generation
    compact(out)
    run(files, out)
    check(mm.open(out), *range(20), *range(100, 112), *range(30, 50))
    assert decoded == []


def test_only_the_merged_part_of_the_changed_file_is_dissolved(files, out, decoded):
    run(files, out)
    one = read_manifest(out).parts[0].nbytes
    compact(out, part_nbytes=2 * one)
    first = read_manifest(out).parts[0]
    assert n_parts(out) == 3
    mm.vacuum(out, keep=1, grace=0)
    decoded.clear()
    write(files[3], [77])
    check(run(files, out), *range(30), 77, *range(40, 50))
    assert read_manifest(out).parts[0] == first
    assert decoded == ["3.root"], "the rows of its neighbour are copied from the merged part"


def test_new_files_come_behind_merged_parts(files, out, decoded):
    run(files[:3], out)
    compact(out)
    decoded.clear()
    check(run(files, out), *range(50))
    assert decoded == ["3.root", "4.root"]
    assert n_parts(out) == 3
    check(run([files[4], *files[:4]], out), *range(50))


def test_files_that_vanish_from_merged_parts(files, out, decoded):
    run(files, out)
    compact(out)
    mm.vacuum(out, keep=1, grace=0)
    os.unlink(files[1])
    left = {f: {"process": "ab"[i % 2]} for i, f in enumerate(files) if i != 1}
    with pytest.raises(mm.SourceNotFoundError, match="1.root"):
        run(files, out, left)
    check(run(files, out, left, missing="drop"), *range(10), *range(20, 50))


def test_labels_that_change_dissolve(files, out, decoded):
    run(files, out)
    compact(out)
    decoded.clear()
    ds = run(files, out, {f: {"process": "z", "year": 2016} for f in files})
    check(ds, *range(50))
    assert ds["process"].compute().tolist() == ["z"] * 50
    assert ds["year"].compute().tolist() == [2016] * 50
    assert decoded == [], "the layers of the parts that were merged are still there"


def test_other_options_convert_again(files, out):
    run(files, out)
    compact(out)
    with pytest.raises(mm.OptionError, match="other options"):
        run(files, out, fields="k")
    ds = run(files, out, fields="k", update=True)
    assert ds.fields == ("k", "process")
    assert ds["k"].compute().tolist() == list(range(50))


def test_appended_rows_are_not_merged_with_converted_ones(files, out):
    run(files[:2], out)
    for k in (-1, -2):
        with mm.append(out, labels={"process": "mine"}) as w:
            w.append({"x": k, "k": k})
    run(files[:3], out)
    check(mm.open(out), *range(20), -1, -2, *range(20, 30))
    compact(out)
    assert [p.rows for p in read_manifest(out).parts] == [20, 2, 10]
    mm.vacuum(out, keep=1, grace=0)
    write(files[0], [5])
    check(run(files[:3], out), 5, *range(10, 20), -1, -2, *range(20, 30))
    assert mm.open(out)["process"].compute().tolist() == [*"a", *"b" * 10, "mine", "mine", *"a" * 10]


def test_a_store_that_was_merged_twice_with_fields_in_between(files, out, decoded):
    run(files[:3], out)
    compact(out)
    mm.assign(out, twice="k * 2", progress=False)
    run(files, out)
    compact(out)
    assert n_parts(out) == 1
    decoded.clear()
    ds = run(files, out)
    assert decoded == []
    check(ds, *range(50))
    assert ds["twice"].compute().tolist() == [2 * i for i in range(50)]
    write(files[4], [400, 401])
    ds = run(files, out)
    check(ds, *range(40), 400, 401)
    assert ds["twice"].compute().tolist() == [2 * i for i in [*range(40), 400, 401]]


def test_a_dropped_field_stays_dropped(files, out):
    run(files, out)
    mm.drop(out, "x")
    compact(out)
    mm.vacuum(out, keep=1, grace=0)
    ds = run(files, out)
    assert ds.fields == ("k", "process")
    write(files[2], [7])
    more = write(Path(files[0]).parent / "9.root", [90])
    os.rename(more, files[4])
    ds = run(files, out)
    assert ds["k"].compute().tolist() == [*range(20), 7, *range(30, 40), 90]


def test_files_of_other_fields_are_still_found(files, out):
    run(files, out)
    compact(out)
    write(files[4], [1, 2], extra=np.zeros(2, "f4"))
    with pytest.raises(mm.SchemaError, match="'extra'"):
        run(files, out)


# Fields that were added ----------------------------------------------------------------------------------------------


def test_convert_assign_and_a_new_file(files, out, decoded):
    run(files[:3], out)
    mm.assign(out, ht="x * 2", odd="k % 2 == 1 & process == 'a'", lead="ht + 1", progress=False)
    decoded.clear()
    ds = run(files, out)
    assert decoded == ["3.root", "4.root"]
    check(ds, *range(50))
    assert ds["ht"].compute().tolist() == [2.0 * i for i in range(50)]
    assert ds["lead"].compute().tolist() == [2.0 * i + 1 for i in range(50)]
    assert ds["odd"].compute().tolist() == [i % 2 == 1 and i // 10 % 2 == 0 for i in range(50)]
    assert ds.fields == ("x", "k", "process", "ht", "odd", "lead")
    assert run(files, out).generation == ds.generation
    write(files[0], [1000])
    ds = run(files, out)
    assert ds["lead"].compute().tolist() == [2001.0, *(2.0 * i + 1 for i in range(10, 50))]
    assert mm.verify(out).ok


def test_what_is_computed_from_labels_follows_them(files, out, decoded):
    labels = {f: {"process": "a", "weight": 0.5} for f in files}
    run(files, out, labels)
    mm.assign(out, w="k * weight", is_a="process == 'a'", progress=False)
    decoded.clear()
    labels[files[1]] = {"process": "b", "weight": 2.0}
    ds = run(files, out, labels)
    assert decoded == []
    assert ds["w"].compute().tolist() == [i * (2.0 if i // 10 == 1 else 0.5) for i in range(50)]
    assert ds["is_a"].compute().tolist() == [i // 10 != 1 for i in range(50)]
    labels = {f: {"process": "b", "weight": 1.0} for f in files}
    ds = run(files, out, labels)
    assert ds["is_a"].compute().tolist() == [False] * 50, "a label that no row has any more is still known"


def test_fields_that_were_assigned_as_arrays_keep_new_rows_out(files, out):
    run(files[:3], out)
    mm.assign(out, a=np.arange(30), b="a * 2", progress=False)
    run(files[:3], out)
    for _ in range(2):
        with pytest.raises(mm.SchemaError, match=r"'a' were added .* as arrays.*mm\.drop"):
            run(files, out)
        compact(out)
    mm.drop(out, ["a", "b"])
    check(run(files, out), *range(50))


def test_a_field_of_the_files_that_was_replaced(files, out):
    run(files[:3], out)
    mm.assign(out, x="k * 3", replace=True, progress=False)
    compact(out)
    ds = run(files, out)  # its files still have it as float32
    assert ds["x"].compute().tolist() == [3 * i for i in range(50)]
    compact(out)
    write(files[1], [5])
    ds = run(files, out)
    assert ds["x"].compute().tolist() == [3 * i for i in ds["k"].compute()]
    mm.assign(out, x=np.zeros(len(ds)), replace=True, progress=False)
    write(files[1], [6])
    with pytest.raises(mm.SchemaError, match="'x' were added"):
        run(files, out)


def test_expressions_that_new_files_cannot_give(files, out):
    run(files, out)
    mm.assign(out, ht="x * 2", progress=False)
    before = read_manifest(out)
    with pytest.raises(mm.SchemaError, match=r"could not be computed any more.*mm\.drop.*no field 'x'"):
        run(files, out, fields="k", update=True)
    assert read_manifest(out) == before
    mm.drop(out, "ht")
    assert run(files, out, fields="k", update=True).fields == ("k", "process")


def test_an_expression_assigned_while_files_are_converted(files, out, monkeypatch):
    from mmdask.sources.converting import conversion

    run(files[:3], out)
    original, texts = conversion.commit, ["x * 2", "x * 3"]

    def commit(*args, **kwargs):
        if texts:
            mm.assign(out, late=texts.pop(0), replace=True, progress=False)
        return original(*args, **kwargs)

    monkeypatch.setattr(conversion, "commit", commit)
    ds = run(files, out)
    assert ds["late"].compute().tolist() == [3.0 * i for i in range(50)]
    named = {i for g in range(1, ds.generation + 1) for i in read_manifest(out, g).layers}
    assert set(os.listdir(Path(out, "parts"))) == named


# The plan ------------------------------------------------------------------------------------------------------------

A, B, C = (letter * 32 for letter in "abc")


def piece(group, k=0, n=1, merged=None, labels=()):
    data = f"{group}-{k}-of-{n}"
    return Piece(data, labels_id(labels, data), 1, merged)


def test_merged_parts_go_whole():
    one = [piece(A, merged="m1"), piece(B, 0, 2, merged="m1"), piece(B, 1, 2, merged="m2"), piece(C, merged="m2")]
    stay, going = dissolve(one, {A: (), B: (), C: ()})
    assert (stay, going) == (one, [])
    assert dissolve(one, {A: (), B: ()}) == ([], one), "C goes, so m2 goes, so B is not complete, so m1 goes"
    two = [piece(A, merged="m1"), piece(B, merged="m2"), piece(C)]
    assert dissolve(two, {A: (), C: ()}) == ([two[0], two[2]], [two[1]])
    labels = (("process", "a"),)
    three = [piece(A, merged="m1", labels=labels), piece(B, merged="m2")]
    assert dissolve(three, {A: labels, B: labels}) == ([three[0]], [three[1]])


def test_arranged_around_merged_parts():
    whole, other = Part(9, ("1-merged", "extra"), 8), Part(1, ("mine",), 8)
    ordinary = Part(1, (f"{B}-0-of-1",), 8)
    new = {f"{g}-0-of-1": Part(2, (f"{g}-0-of-1",), 8) for g in (A, B, C)}
    wanted = {g: [(f"{g}-0-of-1", None)] for g in (A, B, C)}
    assert arrange([whole, other, ordinary], {A: [], B: wanted[B], C: wanted[C]}, new, {}, (), {"1-merged": None}) == (
        whole,
        other,
        ordinary,
        new[f"{C}-0-of-1"],
    )
    inside = (f"{C}-0-of-1", f"{A}-0-of-1")
    assert arrange([whole, other, ordinary], wanted, new, {}, (), {"1-merged": inside}) == (
        new[inside[0]],
        new[inside[1]],
        other,
        ordinary,
    )
    with pytest.raises(mm.ConflictError, match="merged parts of the store"):
        arrange([whole], wanted, new, {}, (), {})
    with pytest.raises(mm.ConflictError, match="took converted parts"):
        arrange([other], wanted, new, {}, (), {"1-merged": None})
    assert group_of(inside[0]) == C
