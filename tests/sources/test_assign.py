"""Fields added to all rows of a store: from expressions, arrays, lists and lazy collections, with others at work."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap

import awkward as ak
import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mmdask as mm
import mmdask.testing as mt
from mmdask.rows import blocks
from mmdask.rows.reading import reader
from mmdask.schema import Field
from mmdask.sources import arrays, assign
from mmdask.store.manifest import history, read_manifest
from mmdask.store.system import SYSTEM

PARTS = [([1, 2, 3], [[10.0, 20.0], [], [30.0]]), ([4], [[40.0, 50.0, 60.0]]), ([5, 6], [[], [70.0]])]
N = [n for part, _ in PARTS for n in part]
PT = [row for _, part in PARTS for row in part]


@pytest.fixture
def store(tmp_path):
    return make(tmp_path / "s.mm")


def make(path):
    for k, (n, pt) in enumerate(PARTS):
        with mm.append(path) if k else mm.create(path) as w:
            w.extend({"n": n, "pt": pt})
    return str(path)


def add(path, *args, **kwargs):
    mm.assign(path, *args, progress=False, **kwargs)
    return mm.open(path)


def values(ds, name):
    got = ds[name].compute()
    return got.to_list() if hasattr(got, "to_list") else got.tolist()


def assert_nothing_left(path):
    named = {i for g in range(1, read_manifest(path).generation + 1) for i in read_manifest(path, g).layers}
    assert set(os.listdir(os.path.join(path, "parts"))) == named


# Expressions ---------------------------------------------------------------------------------------------------------


def test_expressions_per_row_and_per_item_and_of_each_other(store):
    ds = add(store, ht="sum(pt)", lead="max(pt)", scaled="pt / 10", ratio="lead / ht", hard="any(scaled > 4)")
    assert values(ds, "ht") == [float(sum(row)) for row in PT]
    assert values(ds, "lead") == [max(row, default=None) for row in PT]
    assert values(ds, "scaled") == [[v / 10 for v in row] for row in PT]
    assert values(ds, "ratio") == [max(row) / sum(row) if row else None for row in PT]
    assert values(ds, "hard") == [any(v / 10 > 4 for v in row) for row in PT]
    assert ds.fields == ("n", "pt", "ht", "lead", "scaled", "ratio", "hard")
    assert ds.schema["ratio"].expression == "lead / ht"
    assert {name: ds.schema[name].optional for name in ds.fields if ds.schema[name].optional} == {
        "lead": (0,),
        "ratio": (0,),
    }
    manifest = read_manifest(store)
    assert [len(p.layers) for p in manifest.parts] == [2, 2, 2], "one layer for all of them"
    assert history(store)[-1].action == "assign ht, lead, scaled, ratio, hard to 3 parts"
    assert mm.verify(store).ok


def test_a_declared_field_has_its_dtype_and_notes(store):
    ds = add(store, {Field.dense("ht", "f4", unit="GeV", doc="sum", attrs={"a": 1}): "sum(pt)"})
    assert ds.schema["ht"] == Field.dense("ht", "f4", unit="GeV", doc="sum", attrs={"a": 1}, expression="sum(pt)")
    assert ds["ht"].compute().dtype == np.float32


def test_an_expression_over_no_rows(tmp_path):
    path = tmp_path / "s.mm"
    mm.from_arrays({"x": np.zeros(0), "r": ak.Array([[1.0]])[:0]}, path)
    ds = add(path, y="x * 2", s="sum(r)", a=np.zeros(0, "i4"))
    assert ds.fields == ("x", "r", "y", "s", "a")
    assert len(ds["y"].compute()) == 0
    with mm.append(path) as w:
        w.append({"x": 1.5, "r": [1.0, 2.0], "a": 7})
    assert values(mm.open(path), "y") == [3.0]


def test_small_blocks_give_the_same(store, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_NBYTES", 1)
    ds = add(store, ht="sum(pt)", both="ht + n", i=list(range(6)), scaled="pt * i")
    assert values(ds, "both") == [sum(row) + n for row, n in zip(PT, N, strict=True)]
    assert values(ds, "scaled") == [[v * i for v in row] for i, row in enumerate(PT)]


# Arrays --------------------------------------------------------------------------------------------------------------

SIX = {
    "list": [5, 4, 3, 2, 1, 0],
    "numpy": np.arange(6, dtype="u2"),
    "wide": np.arange(12, dtype=">f4").reshape(6, 2),
    "awkward": ak.Array([[1], [], [2, 3], [], [], [4]]),
    "nested": [[["a"], []], [], [["b", "c"]], [], [[]], [["d"]]],
    "text": ["a", "", "ccc", "d", "é", "f"],
    "images": [np.full((i, 2), i, "u1") for i in range(6)],
    "missing": [1.5, None, 3.5, None, None, 6.5],
    "times": np.arange(6).astype("M8[s]"),
}


@pytest.mark.parametrize("name", SIX)
def test_arrays_of_every_kind(store, name, monkeypatch):
    expected = ak.to_list(SIX[name]) if name != "images" else [x.tolist() for x in SIX[name]]
    for pieces in (1 << 26, 1):
        monkeypatch.setattr(arrays, "PIECE_NBYTES", pieces)
        field = f"{name}{pieces}"
        key = Field.shaped(field, "u1", 2) if name == "images" else field
        ds = add(store, {key: SIX[name]})
        if name == "images":
            assert [ds[i][field].tolist() for i in range(6)] == expected
        else:
            assert ak.to_list(values(ds, field)) == expected
    assert mm.verify(store).ok


def test_categories_have_the_labels_of_all_parts(store):
    ds = add(store, {Field.category("c", ["z"]): ["b", "a", "b", "c", "a", "a"]})
    assert values(ds, "c") == ["b", "a", "b", "c", "a", "a"]
    assert ds.schema["c"].labels == ("z", "b", "a", "c")


@given(st.data())
@settings(max_examples=25)
def test_any_field_comes_back(tmp_path_factory, data):
    """Any field, in parts of any lengths, against plain Python lists."""
    table = data.draw(mt.tables(max_fields=3, records=False).filter(lambda t: t.fields))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(table)), max_size=3)))
    path = str(tmp_path_factory.mktemp("any") / "s.mm")
    edges = [0, *cuts, len(table)]
    with mm.create(path, fields=[Field.dense("i", "i8")]) as w:
        w.extend({"i": np.arange(edges[0], edges[1])})
    for a, b in zip(edges[1:-1], edges[2:], strict=True):
        with mm.append(path) as w:
            w.extend({"i": np.arange(a, b)})
    taken = [f for f in table.fields if f.name != "i"]
    if not taken:
        return
    ds = add(path, {f: mt.to_arrays(f, table.rows[f.name]) for f in taken})
    for f in taken:
        got = reader.read(ds._rows.snapshot, f.name, 0, len(table))
        assert not mt.difference(table.rows[f.name], mt.to_python(ds.schema[f.name], got))
    assert mm.verify(path).ok


def test_lazy_fields_are_computed_once_for_each_chunk(store, monkeypatch):
    monkeypatch.setattr(arrays, "PIECE_NBYTES", 1)
    computed = []

    def block(x):
        computed.append(x.tolist())
        return x * 2

    lazy = da.from_array(np.arange(6), chunks=(2, 3, 1)).map_blocks(block, dtype="i8", meta=np.zeros(0, "i8"))
    ds = mm.open(store)
    ds = add(store, lazy=lazy, field=ds["n"] + 1, copy=ds["pt"], expression="lazy + field")
    assert sorted(computed) == [[0, 1], [2, 3, 4], [5]], "chunks do not end where parts do"
    assert values(ds, "lazy") == [0, 2, 4, 6, 8, 10]
    assert values(ds, "copy") == PT
    assert values(ds, "expression") == [a + b + 1 for a, b in zip([0, 2, 4, 6, 8, 10], N, strict=True)]
    assert ds.schema["copy"].expression == ""


def test_memory_is_bounded(tmp_path):
    """A lazy field of 400 MB goes through in a fraction of that."""
    code = f"""
        import sys
        import dask, dask.array as da, numpy as np
        import mmdask as mm
        dask.config.set(num_workers=2)
        path = {str(tmp_path / "s.mm")!r}
        mm.from_arrays({{"x": np.zeros(1_000_000, "f4")}}, path)
        mm.assign(path, small=da.zeros((1_000_000, 1), chunks=(50_000, 1)), progress=False)
        def peak():  # ru_maxrss would begin with what the parent process had
            lines = open("/proc/self/status").read().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

        before = peak()
        mm.assign(path, big=da.random.random((1_000_000, 50), chunks=(50_000, 50)), twice="small * x", progress=False)
        grown = peak() - before
        assert grown < 220_000, grown
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


# Replacing -----------------------------------------------------------------------------------------------------------


def test_what_exists_is_replaced_only_on_request_and_keeps_its_place_and_notes(store):
    mm.annotate(store, fields={"n": {"unit": "GeV", "doc": "count", "attrs": {"a": 1}}})
    with pytest.raises(mm.SchemaError, match=r"'n' \(int64\) exists; pass replace=True"):
        add(store, n="len(pt)")
    ds = add(store, n="len(pt)", new="n * 2", replace=True)
    assert ds.fields == ("n", "pt", "new")
    assert ds.schema["n"] == Field.dense("n", "i8", unit="GeV", doc="count", attrs={"a": 1}, expression="len(pt)")
    assert values(ds, "n") == [len(row) for row in PT]
    assert values(ds, "new") == [2 * len(row) for row in PT], "expressions mean what is new"
    ds = add(store, {Field.dense("n", "f4", doc="other"): np.arange(6, dtype="f4")}, new=[1] * 6, replace=True)
    assert ds.schema["n"] == Field.dense("n", "f4", unit="GeV", doc="other", attrs={"a": 1})
    assert values(ds, "n") == [0, 1, 2, 3, 4, 5]
    assert values(mm.open(store, generation=3), "n") == N
    assert mm.verify(store).ok


def test_what_others_are_computed_from_is_replaced_only_with_them(store):
    add(store, ht="sum(pt)", half="ht / 2")
    with pytest.raises(mm.SchemaError, match="'ht' cannot be replaced alone: 'half' is computed from it"):
        add(store, ht="max(pt)", replace=True)
    ds = add(store, ht="sum(pt) + 1", half="ht / 2", replace=True)
    assert values(ds, "half") == [(sum(row) + 1) / 2 for row in PT]
    with pytest.raises(mm.ExpressionError, match="'n' would be computed from itself"):
        add(store, n="n + 1", replace=True)
    ds = add(store, n=mm.open(store)["n"] + 1, replace=True)
    assert values(ds, "n") == [n + 1 for n in N], "its old values, as an array"


# What cannot be ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({}, mm.OptionError, "no field is given"),
        ({"a": [1, 2]}, mm.SchemaError, "'a' has 2 rows, the store .* has 6"),
        ({"a": "nn + 1"}, mm.ExpressionError, "did you mean 'n'"),
        ({"a": 3}, mm.SchemaError, "'a'"),
        ({"a": "n", "b": [1]}, mm.SchemaError, "'b' has 1 rows"),
        ({3: "n"}, mm.OptionError, "by name, or by mm.Field"),
        ({Field.dense("a", "i1"): [300] * 6}, mm.SchemaError, "'a'"),
        ({Field.dense("a", "i1"): "n / 2"}, mm.SchemaError, "'a' is int8, but its expression gives float64"),
        ({Field.dense("a", "f8", expression="n"): "pt"}, mm.OptionError, "its expression is the value"),
        ({"a": "pt", Field.dense("a", "i8"): "n"}, mm.OptionError, "'a' is given twice"),
        ({"bad\nname": "n"}, mm.SchemaError, "field name"),
    ],
)
def test_what_cannot_be_assigned(store, given, error, message):
    with pytest.raises(error, match=message):
        add(store, given)
    assert read_manifest(store).generation == 1 + 2
    assert_nothing_left(store)


def test_arguments_that_cannot_be(store):
    with pytest.raises(mm.OptionError, match="mapping of names"):
        mm.assign(store, ["a"])
    with pytest.raises(mm.OptionError, match="'a' is given twice"):
        mm.assign(store, {"a": "n"}, a="n")
    with pytest.raises(mm.StoreNotFoundError):
        mm.assign(store + "x", a="n")


def test_items_that_do_not_match_are_found_and_nothing_is_left(store):
    add(store, other=ak.Array([[1], [], [2], [3, 4, 5], [], [6, 7]]))
    before = read_manifest(store)
    with pytest.raises(mm.ExpressionError, match="row 0 has 2 and 1"):
        add(store, a="pt + other")
    assert read_manifest(store) == before
    assert_nothing_left(store)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, OSError])
def test_whatever_stops_it_leaves_nothing(store, monkeypatch, error):
    calls = []
    original = assign.LayerWriter.finish

    def finish(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise error
        return original(self, *args, **kwargs)

    monkeypatch.setattr(assign.LayerWriter, "finish", finish)
    with pytest.raises(error):
        add(store, a="n", b=list(range(6)))
    assert read_manifest(store).generation == 3
    assert_nothing_left(store)


# Others at work ------------------------------------------------------------------------------------------------------


def meanwhile(monkeypatch, *others):
    """Let other changes happen, one before each attempt to commit."""
    original, left = assign.commit, list(others)

    def commit(*args, **kwargs):
        if left:
            left.pop(0)()
        return original(*args, **kwargs)

    monkeypatch.setattr(assign, "commit", commit)
    return left


def append(path, n, pt, **more):
    with mm.append(path) as w:
        w.append({"n": n, "pt": pt, **more})


def test_rows_appended_meanwhile_are_computed(store, monkeypatch):
    left = meanwhile(monkeypatch, lambda: append(store, 7, [1.0]), lambda: append(store, 8, [2.0, 3.0]))
    ds = add(store, ht="sum(pt)", lead="max(pt)")
    assert left == []
    assert values(ds, "ht") == [*map(sum, PT), 1.0, 5.0]
    assert values(ds, "lead")[-2:] == [1.0, 3.0]
    assert len(read_manifest(store).parts) == 5
    assert mm.verify(store).ok
    assert_nothing_left(store)


def test_arrays_for_rows_that_became_more_are_a_conflict(store, monkeypatch):
    meanwhile(monkeypatch, lambda: append(store, 7, [1.0]))
    with pytest.raises(mm.ConflictError, match="appended or changed rows meanwhile"):
        add(store, a=list(range(6)), ht="sum(pt)")
    assert mm.open(store).fields == ("n", "pt")
    assert len(mm.open(store)) == 7
    assert_nothing_left(store)


def test_two_fields_assigned_at_once_both_survive(store, monkeypatch):
    meanwhile(monkeypatch, lambda: mm.assign(store, b=list("abcdef"), c="n * 2", progress=False))
    ds = add(store, a=list(range(6)), d="n * 3")
    assert ds.fields == ("n", "pt", "b", "c", "a", "d")
    assert values(ds, "a") == list(range(6))
    assert values(ds, "b") == list("abcdef")
    assert values(ds, "d") == [3 * n for n in N]
    assert_nothing_left(store)


@pytest.mark.parametrize(
    ("other", "field"),
    [
        (lambda path: mm.assign(path, a="n", progress=False), "a"),
        (lambda path: mm.assign(path, n="len(pt)", replace=True, progress=False), "n"),
        (lambda path: mm.drop(path, "n"), "n"),
        (lambda path: mm.annotate(path, fields={"n": {"optional": (0,)}}), "n"),
    ],
)
def test_fields_changed_meanwhile_are_a_conflict(store, monkeypatch, other, field):
    meanwhile(monkeypatch, lambda: other(store))
    with pytest.raises(mm.ConflictError, match=f"changed the field '{field}' meanwhile"):
        add(store, a="n + 1")
    assert_nothing_left(store)


def test_values_that_are_replaced_meanwhile_by_others_of_their_type(store, monkeypatch):
    """No type tells that; the layers do, and expressions are computed again."""
    meanwhile(monkeypatch, lambda: mm.assign(store, n=[10, 20, 30, 40, 50, 60], replace=True, progress=False))
    ds = add(store, a="n + 1")
    assert values(ds, "a") == [11, 21, 31, 41, 51, 61]
    assert_nothing_left(store)
    meanwhile(monkeypatch, lambda: mm.assign(store, n=[0] * 6, replace=True, a="n + 1", progress=False))
    with pytest.raises(mm.ConflictError, match="appended or changed rows"):
        add(store, b="n + 1", c=[1] * 6)


def test_a_field_made_of_the_replaced_one_meanwhile_is_a_conflict(store, monkeypatch):
    meanwhile(monkeypatch, lambda: mm.assign(store, m="n * 2", progress=False))
    with pytest.raises(mm.ConflictError, match="'m', which is computed from 'n'"):
        add(store, n=[0] * 6, replace=True)


def test_parts_merged_meanwhile(store, monkeypatch):
    meanwhile(monkeypatch, lambda: mm.compact(store, progress=False))
    ds = add(store, ht="sum(pt)")
    assert values(ds, "ht") == list(map(sum, PT))
    assert len(read_manifest(store).parts) == 1
    append(store, 7, [1.0])
    meanwhile(monkeypatch, lambda: mm.compact(store, progress=False))
    with pytest.raises(mm.ConflictError, match="appended or changed rows"):
        add(store, a=list(range(7)))
    assert_nothing_left(store)


def test_appends_and_assigns_of_other_processes(store):
    """Four processes append and assign expressions at once; every row has every field, computed."""
    code = """
        import sys
        import mmdask as mm
        path, k = sys.argv[1], int(sys.argv[2])
        for i in range(4):
            if k % 2:
                mm.assign(path, {f"f{k}_{i}": f"n * {k} + sum(pt) + {i}"}, progress=False)
            else:
                with mm.append(path) as w:
                    w.append({"n": 100 * k + i, "pt": [float(i)] * i})
    """
    command = [sys.executable, "-c", textwrap.dedent(code), store]
    processes = [subprocess.Popen([*command, str(k)]) for k in range(4)]
    assert [p.wait() for p in processes] == [0] * 4
    ds = mm.open(store)
    assert len(ds) == 6 + 8
    n, ht = np.array(values(ds, "n")), np.array([sum(row) for row in values(ds, "pt")])
    for k in (1, 3):
        for i in range(4):
            assert values(ds, f"f{k}_{i}") == (n * k + ht + i).tolist()
    assert mm.verify(store).ok
    assert_nothing_left(store)


@pytest.mark.parametrize("call", ["create", "write", "fsync", "mkdir"])
def test_an_error_of_the_disk_names_the_store(store, monkeypatch, call):
    def fail(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(SYSTEM, call, fail, raising=True)
    with pytest.raises(OSError, match="No space") as caught:
        add(store, a="n")
    assert caught.value.__notes__ == [f"while {store} was written: nothing was assigned"]
    monkeypatch.undo()
    assert_nothing_left(store)


def test_files_that_are_removed_meanwhile_are_a_conflict(store, monkeypatch):
    original = assign.LayerWriter.finish

    def finish(self, *args, **kwargs):
        mm.vacuum(store, grace=0)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(assign.LayerWriter, "finish", finish)
    with pytest.raises(mm.ConflictError, match="removed meanwhile, by vacuum.*nothing was assigned; call again"):
        add(store, a="n")
    assert_nothing_left(store)


def test_a_source_that_is_missing_is_not_a_file_of_the_store(store):
    def read(block):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "/nowhere/table.csv")

    with pytest.raises(FileNotFoundError, match="nowhere") as caught:
        add(store, a=da.ones(len(N), chunks=4).map_blocks(read, dtype="f8", meta=np.ones(0)))
    assert not isinstance(caught.value, mm.MmdaskError)
    assert_nothing_left(store)
