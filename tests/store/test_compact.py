"""Small parts merged into larger ones: the same rows, fewer files, and everything that was known of them."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mmdask as mm
import mmdask.testing as mt
from mmdask.rows import blocks
from mmdask.rows.reading import reader
from mmdask.rows.upkeep import compact
from mmdask.schema import Field
from mmdask.store.commit import commit
from mmdask.store.layer import read_layer
from mmdask.store.manifest import history, read_manifest


def run(path, **kwargs):
    mm.compact(path, progress=False, **kwargs)
    return mm.open(path)


def parts(path):
    return read_manifest(path).parts


def make(path, lengths, labels=("a",)):
    """Parts of these lengths, of rows that say where they are."""
    fields = [Field.dense("x", "i8"), Field.ragged("r", "i8"), Field.ragged("r2", "i8")]
    first = 0
    for k, n in enumerate(lengths):
        label = {"process": labels[k % len(labels)], "year": 2016}
        with mm.append(path, labels=label) if k else mm.create(path, fields=fields, labels=label) as w:
            rows = range(first, first + n)
            r, r2 = [[i] * (i % 3) for i in rows], [[-i] * (i % 3) for i in rows]
            w.extend({"x": np.array(rows, "i8"), "r": r, "r2": r2})
        first += n
    return str(path)


def check(ds, n):
    assert ds["x"].compute().tolist() == list(range(n))
    assert ds["r"].compute().to_list() == [[i] * (i % 3) for i in range(n)]
    assert mm.verify(ds.path).ok


@given(st.data())
@settings(max_examples=25)
def test_any_rows_in_any_parts_come_back(tmp_path_factory, data):
    """Every kind of field, parts of any lengths, fields assigned and dropped, against plain Python lists."""
    table = data.draw(mt.tables(max_fields=4))
    cuts = [0, *sorted(data.draw(st.lists(st.integers(0, len(table)), max_size=4))), len(table)]
    path = str(tmp_path_factory.mktemp("any") / "s.mm")
    for k, (a, b) in enumerate(zip(cuts[:-1], cuts[1:], strict=True)):
        with mm.append(path) if k else mm.create(path, fields=table.fields) as w:
            w.extend({name: mt.to_arrays(f, table.rows[name][a:b]) for name, f in table.schema.items()})
    more = data.draw(st.booleans())
    if more:
        mm.assign(path, {"added after": np.arange(len(table))}, progress=False)
    dropped = data.draw(st.sampled_from([None, *table.schema])) if more else None
    if dropped is not None:
        mm.drop(path, [dropped])
    before = read_manifest(path)
    ds = run(path, part_nbytes=data.draw(st.sampled_from(["1 GiB", 1, 50])))
    assert ds.schema == before.schema
    assert read_manifest(path).block_rows == before.block_rows
    for name, rows in table.rows.items():
        if name != dropped:
            got = reader.read(ds._rows.snapshot, name, 0, len(table))
            assert not mt.difference(rows, mt.to_python(ds.schema[name], got))
    report = mm.verify(path)
    assert report.ok, report
    after = read_manifest(path)
    assert run(path, part_nbytes=1).generation == after.generation, "nothing is left to be merged at this size"


def test_many_parts_become_one_and_older_generations_go_on(tmp_path):
    path = make(tmp_path / "s.mm", [3, 1, 0, 2, 5])
    held = mm.open(path)
    assert len(parts(path)) == 4
    ds = run(path)
    [part] = parts(path)
    check(ds, 11)
    check(held, 11)
    check(mm.open(path, generation=4), 11)
    layer = read_layer(path, part.layers[0])
    assert len({o for f in ("r", "r2") for o in layer.fields[f].offsets}) == 1, "offsets are shared again"
    assert part.layers[0].endswith("-merged")
    assert history(path)[-1].action == "compact 4 parts to 1"
    generation = ds.generation
    assert run(path).generation == generation, "nothing to do"
    with mm.append(path, labels={"process": "b", "year": 2017}) as w:
        w.extend({"x": [11], "r": [[11] * 2], "r2": [[0, 0]]})
    check(run(path), 12)
    assert len(parts(path)) == 1


def test_parts_are_of_about_the_target(tmp_path):
    path = make(tmp_path / "s.mm", [10] * 30)
    one = parts(path)[0].nbytes
    run(path, part_nbytes=5 * one)
    sizes = [p.nbytes for p in parts(path)]
    assert len(sizes) == 6
    assert all(4 * one < n < 7 * one for n in sizes), "they lose the offsets' ends"
    check(mm.open(path), 300)
    generation = read_manifest(path).generation
    ids = {p.layers for p in parts(path)}
    with mm.append(path, labels={"process": "a", "year": 2016}) as w:
        w.extend({"x": [300, 301], "r": [[], [301]], "r2": [[], [0]]})
    run(path, part_nbytes=5 * one)
    kept = {p.layers for p in parts(path)} & ids
    assert len(kept) >= 5, "large parts are not written again"
    check(mm.open(path), 302)
    assert read_manifest(path).generation > generation


def test_constants_that_agree_stay_and_others_become_values(tmp_path):
    path = make(tmp_path / "s.mm", [2, 1, 3], labels=("b", "a", "b"))
    with mm.append(path, labels={"process": "c", "year": 2017}) as w:
        w.extend({"x": [6], "r": [[]], "r2": [[]]})
    ds = run(path)
    [part] = parts(path)
    layer = read_layer(path, part.layers[0])
    assert layer.fields["year"].constant is None
    assert ds["process"].compute().tolist() == ["b", "b", "a", "b", "b", "b", "c"]
    assert ds["year"].compute().tolist() == [2016] * 6 + [2017]
    assert set(layer.fields["process"].labels) == {"a", "b", "c"}
    alike = make(tmp_path / "alike.mm", [2, 1])
    run(alike)
    layer = read_layer(alike, parts(alike)[0].layers[0])
    assert (layer.fields["process"].constant, layer.fields["year"].constant) == ("a", 2016)
    assert mm.open(alike)["process"].compute().tolist() == ["a"] * 3


def test_zeros_of_either_sign_are_two_constants(tmp_path):
    path = tmp_path / "s.mm"
    for k, zero in enumerate([0.0, -0.0]):
        with mm.append(path, labels={"w": zero}) if k else mm.create(path, labels={"w": zero}) as w:
            w.append({"x": k})
    assert np.signbit(run(path)["w"].compute()).tolist() == [False, True]


def test_labels_that_none_of_the_parts_knows_are_left_out(tmp_path):
    path = tmp_path / "s.mm"
    for k in range(4):
        with mm.append(path) if k else mm.create(path, fields=[Field.category("c")]) as w:
            w.extend({"c": [f"label {k}"] * 20})
    one = parts(path)[0].nbytes
    ds = run(path, part_nbytes=2 * one)
    first, second = (read_layer(str(path), p.layers[0]).fields["c"] for p in parts(path))
    assert first.labels == ("label 0", "label 1")
    assert set(second.labels) >= {"label 2", "label 3"}
    assert ds["c"].compute().tolist() == [f"label {k}" for k in range(4) for _ in range(20)]


def test_missing_values_of_every_kind(tmp_path):
    path = tmp_path / "s.mm"
    rows = {
        "c": ["a", None, "b", None, "a"],
        "x": [1, None, None, 4, 5],
        "t": [None, "é", "", "b", None],
        "r": [[1.0, None], None, [], [None], [2.0]],
        "image": [np.ones((1, 2)), None, np.zeros((0, 3)), None, np.ones((2, 2))],
    }
    fields = [
        Field.category("c", optional=(0,)),
        Field.dense("x", "i8", optional=(0,)),
        Field.string("t", optional=(0,)),
        Field.ragged("r", "f8", optional=(0, 1)),
        Field.shaped("image", "f8", 2, optional=(0,)),
    ]
    for k, (a, b) in enumerate([(0, 1), (1, 4), (4, 5)]):
        with mm.append(path) if k else mm.create(path, fields=fields) as w:
            w.extend({name: values[a:b] for name, values in rows.items()})
    ds = run(path)
    assert len(parts(path)) == 1
    for name, values in rows.items():
        got = mt.to_python(ds.schema[name], reader.read(ds._rows.snapshot, name, 0, 5))
        assert not mt.difference(values, got), name
    assert mm.verify(path).ok


def test_what_was_dropped_or_replaced_is_left_behind(tmp_path):
    path = str(tmp_path / "s.mm")
    mm.from_arrays({"x": np.arange(100), "y": np.arange(100.0)}, path)
    run(path)
    assert read_manifest(path).generation == 1, "a part alone is left as it is"
    mm.assign(path, z="x * 2", progress=False)
    run(path)
    assert read_manifest(path).generation == 2, "also with a field that was added"
    mm.drop(path, "y")
    mm.assign(path, x=np.arange(100, dtype="i2"), replace=True, z="x * 3", progress=False)
    ds = run(path)
    [part] = parts(path)
    assert len(part.layers) == 1
    assert set(read_layer(path, part.layers[0]).fields) == {"x", "z"}
    assert part.nbytes == 100 * 2 + 100 * 8
    assert ds["x"].compute().tolist() == list(range(100))
    assert ds["z"].compute().tolist() == [3 * i for i in range(100)]
    assert ds.schema["z"].expression == "x * 3"


def test_what_is_known_of_appended_rows_does_not_grow(tmp_path):
    path = make(tmp_path / "s.mm", [1] * 5)
    run(path)
    [merged] = read_layer(path, parts(path)[0].layers[0]).merged
    assert merged == (5, ())


def test_small_blocks_give_the_same(tmp_path, monkeypatch):
    path = make(tmp_path / "s.mm", [7, 13, 5], labels=("a", "b"))
    monkeypatch.setattr(blocks, "BLOCK_NBYTES", 16)
    check(run(path), 25)


@pytest.mark.parametrize("size", [0, "many", -1, 1.5])
def test_sizes_that_are_none(tmp_path, size):
    with pytest.raises(mm.OptionError):
        mm.compact(make(tmp_path / "s.mm", [1]), part_nbytes=size)


def test_no_store(tmp_path):
    with pytest.raises(mm.StoreNotFoundError):
        mm.compact(tmp_path / "s.mm")


def test_a_store_without_rows(tmp_path):
    mm.from_arrays({"x": np.zeros(0)}, tmp_path / "s.mm")
    assert len(run(tmp_path / "s.mm")) == 0


def test_parts_that_are_named_more_than_once(tmp_path):
    path = make(tmp_path / "s.mm", [2, 3])
    commit(path, lambda m: replace(m, parts=(*m.parts, m.parts[0], *m.parts)), action="again")
    ds = run(path)
    assert len(parts(path)) == 1
    assert ds["x"].compute().tolist() == [0, 1, 2, 3, 4, 0, 1, 0, 1, 2, 3, 4]
    assert mm.verify(path).ok


def test_kept_cuts_are_computed_again_and_are_the_same(tmp_path):
    path = make(tmp_path / "s.mm", [5, 5, 5])
    assert mm.open(path).cut("x % 2 == 0 & len(r) > 0").keep().count() == 5
    ds = run(path)
    assert ds[ds.cut("x % 2 == 0 & len(r) > 0")]["x"].compute().tolist() == [2, 4, 8, 10, 14]


# Others at work ------------------------------------------------------------------------------------------------------


def meanwhile(monkeypatch, other):
    original = compact.commit

    def commit(*args, **kwargs):
        monkeypatch.setattr(compact, "commit", original)
        other()
        return original(*args, **kwargs)

    monkeypatch.setattr(compact, "commit", commit)


def assert_nothing_left(path):
    named = {i for g in range(1, read_manifest(path).generation + 1) for i in read_manifest(path, g).layers}
    assert set(os.listdir(os.path.join(path, "parts"))) == named


def test_rows_appended_meanwhile_come_behind(tmp_path, monkeypatch):
    path = make(tmp_path / "s.mm", [3, 2])

    def append():
        with mm.append(path, labels={"process": "z", "year": 1}) as w:
            w.extend({"x": [5], "r": [[5, 5]], "r2": [[0, 0]]})

    meanwhile(monkeypatch, append)
    check(run(path), 6)
    assert [p.rows for p in parts(path)] == [5, 1]
    assert mm.open(path)["process"].compute().tolist() == ["a"] * 5 + ["z"]


@pytest.mark.parametrize(
    "other",
    [
        lambda path: mm.assign(path, new="x * 2", progress=False),
        lambda path: mm.compact(path, progress=False),
    ],
)
def test_parts_changed_meanwhile_are_a_conflict(tmp_path, monkeypatch, other):
    path = make(tmp_path / "s.mm", [3, 2])
    meanwhile(monkeypatch, lambda: other(path))
    with pytest.raises(mm.ConflictError, match="changed parts that were being merged"):
        run(path)
    check(mm.open(path), 5)
    assert_nothing_left(path)


def test_fields_dropped_and_noted_meanwhile(tmp_path, monkeypatch):
    path = make(tmp_path / "s.mm", [3, 2])

    def other():
        mm.drop(path, "r2")
        mm.annotate(path, fields={"x": {"optional": (0,), "unit": "GeV"}})

    meanwhile(monkeypatch, other)
    ds = run(path)
    assert ds.fields == ("x", "r", "process", "year")
    assert ds.schema["x"].optional == (0,)
    check(ds, 5)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_whatever_stops_it_leaves_nothing(tmp_path, monkeypatch, error):
    path = make(tmp_path / "s.mm", [6, 6, 6, 6])
    calls = []
    original = compact.LayerWriter.finish

    def finish(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise error
        return original(self, *args, **kwargs)

    monkeypatch.setattr(compact.LayerWriter, "finish", finish)
    with pytest.raises(error):
        run(path, part_nbytes=parts(path)[0].nbytes + parts(path)[1].nbytes)
    assert len(parts(path)) == 4
    check(mm.open(path), 24)
    assert_nothing_left(path)


def test_appenders_and_readers_in_other_processes(tmp_path):
    """Two processes append while this one merges; a reader sees whole generations all the time."""
    path = make(tmp_path / "s.mm", [1])
    code = """
        import sys
        import mmdask as mm
        path, k = sys.argv[1], int(sys.argv[2])
        for i in range(12):
            with mm.append(path, labels={"process": "a", "year": 2016}) as w:
                w.append({"x": 1000 * k + i, "r": [i], "r2": [i]})
    """
    command = [sys.executable, "-c", textwrap.dedent(code), path]
    processes = [subprocess.Popen([*command, str(k)]) for k in (1, 2)]
    merged = 0
    running = True
    while running:
        running = any(p.poll() is None for p in processes)
        merged += run(path).generation
        ds = mm.open(path)
        assert len(ds["x"].compute()) == len(ds["r"].compute()) == len(ds)
    assert [p.returncode for p in processes] == [0, 0]
    ds = run(path)
    x = ds["x"].compute().tolist()
    assert sorted(x) == sorted([0, *(1000 * k + i for k in (1, 2) for i in range(12))])
    assert [v for v in x if 1000 <= v < 2000] == list(range(1000, 1012)), "rows of one writer keep their order"
    assert len(parts(path)) == 1
    assert mm.verify(path).ok
    assert merged
    assert Path(path, ".lock").exists()


def test_damage_is_not_given_new_checksums(tmp_path):
    path = tmp_path / "s.mm"
    mm.from_arrays({"met": np.arange(1000, dtype="f4"), "other": np.zeros(1000)}, path)
    with mm.append(path) as w:
        w.extend({"met": np.zeros(3, "f4"), "other": np.zeros(3)})
    first = min(path.glob("parts/*/0-met.npy"), key=lambda f: -f.stat().st_size)
    data = bytearray(first.read_bytes())
    data[-2] ^= 16
    first.write_bytes(data)
    before = mm.open(path).generation
    with pytest.raises(mm.CorruptStoreError, match=f"{first.name} is damaged.*mmdask verify"):
        mm.compact(path)
    assert mm.open(path).generation == before
    assert not mm.verify(path).ok
    mm.drop(path, "met")  # what is damaged may be given up
    mm.compact(path)
    assert mm.verify(path).ok
    assert len(mm.open(path)["other"].compute()) == 1003
