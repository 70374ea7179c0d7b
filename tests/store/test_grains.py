"""Smallest and largest values: kept as they are written, checked as they are read, compared with the data by verify."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mmdask as mm
import mmdask.testing as mt
from mmdask.errors import FormatError
from mmdask.schema import Field, FieldData, Schema
from mmdask.store import document, grains
from mmdask.store.checking import claims
from mmdask.store.commit import add_parts, commit
from mmdask.store.grains import HOLDS_MISSING, HOLDS_NAN, HOLDS_NUMBER, Held, span, wide_dtype
from mmdask.store.layer import read_layer
from mmdask.store.layer_writer import LayerWriter
from mmdask.store.manifest import Part
from mmdask.store.snapshot import open_snapshot

SLOW = {"deadline": None, "suppress_health_check": list(HealthCheck)}
GRAIN = 4


@pytest.fixture(autouse=True)
def small_grains(monkeypatch):
    """Grains of a few rows: the rules are the same."""
    for module in (grains, claims):
        monkeypatch.setattr(module, "GRAIN", GRAIN)


def flat(value, depth, field):
    """All numbers of a row, None for missing ones; what is missing at which depth is added to a set."""
    found, missing = [], set()

    def walk(x, d):
        if x is None:
            missing.add(d)
        elif d < depth:
            for item in x:
                walk(item, d + 1)
        elif field.kind == "category":  # numpy would cut zeros off the end of a label
            found.append(x)
        else:
            values = np.asarray(x, field.dtype).reshape(-1)
            found.extend((values.view("i8") if field.dtype.kind in "mM" else values).tolist())

    walk(value, 0)
    return found, missing


def expected(field, rows, labels):
    """What is kept of some rows: smallest, largest, bits, and counts of items; by Python alone."""
    numbers, holds, counts = [], 0, []
    for row in rows:
        found, missing = flat(row, field.levels, field)
        numbers += [labels.index(x) for x in found] if field.kind == "category" else found
        holds |= sum(HOLDS_MISSING << d for d in missing)
        counts.append(len(row or []) if field.levels else 0)
    if field.dtype.kind in "mM":
        there = [x for x in numbers if x != -(2**63)]
    else:
        there = [x for x in numbers if x == x]
    holds |= HOLDS_NUMBER * bool(there) | HOLDS_NAN * (len(there) < len(numbers))
    counts = counts if field.levels else [field.shape[0] if field.shape and field.kind == "dense" else 0]
    return min(there, default=0), max(there, default=0), holds, min(counts), max(counts)


def counted(field, rows):
    """How many values are nan or NaT, and infinite; by Python alone."""
    if field.kind == "category":
        return 0, 0
    numbers = [x for row in rows for x in flat(row, field.levels, field)[0]]
    if field.dtype.kind in "mM":
        return numbers.count(-(2**63)), 0
    return sum(x != x for x in numbers), sum(x in (math.inf, -math.inf) for x in numbers)


def ordered_fields(name):
    kinds = mt.fields(name=st.just(name), kinds=["dense", "ragged", "category"])
    return kinds.filter(lambda f: f.dtype.kind in "biufmM" and 0 not in f.shape and (f.labels or f.kind != "category"))


@settings(max_examples=60, **SLOW)
@given(st.data())
def test_what_is_kept_is_what_the_rows_hold(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("store")
    n = data.draw(st.integers(1, 11))
    fields = [data.draw(ordered_fields(name)) for name in ("a", "b")]
    rows = {f.name: data.draw(mt.rows(f, n)) for f in fields}
    with LayerWriter(path, "one") as w:
        for f in fields:
            writer = w.field(f)
            for run in data.draw(mt.pieces(n)):
                writer.write(mt.from_python(f, rows[f.name][run]))
        layer = w.finish()
    again = read_layer(path, "one")
    assert again == layer
    assert (again.grains is not None) == (n > GRAIN)
    table = None
    if again.grains is not None:
        table = np.load(path / "parts" / "one" / again.arrays[again.grains].file)
        assert table.shape == (2, -(-n // GRAIN), 5)
    for f in fields:
        stored = again.fields[f.name]
        low, high, holds, fewest, most = expected(f, rows[f.name], list(stored.labels))
        held = stored.bounds
        assert (held.low, held.high) == ((low, high) if holds & HOLDS_NUMBER else (None, None))
        assert held.nan == bool(holds & HOLDS_NAN)
        assert held.items == ((fewest, most) if f.levels else None)
        assert held.counts == counted(f, rows[f.name])
        assert (held.nans, held.infs) == tuple(n or None for n in held.counts)
        if table is not None:
            entry = table[held.entry]
            wide = wide_dtype(f.kind, f.dtype)
            for g, (row, a) in enumerate(zip(entry, range(0, n, GRAIN), strict=True)):
                part = expected(f, rows[f.name][a : a + GRAIN], list(stored.labels))
                assert (*row[:2].view(wide).tolist(), *row[2:].tolist()) == part, (f, g)
    fields = [f.with_labels(again.fields[f.name].labels) if f.kind == "category" else f for f in fields]
    total = add_parts(None, Schema(fields), [Part(n, ("one",), layer.nbytes)], block_rows=16)
    commit(path, lambda _: total, action="one")
    report = mm.verify(path)
    assert report.ok, report


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@given(data=st.data())
def test_the_span_of_reals(dtype, data):
    values = data.draw(st.lists(st.floats(width={"f2": 16, "f4": 32, "f8": 64}[dtype]), max_size=9))
    array = np.array(values, dtype)
    there = [x for x in array.tolist() if x == x]
    low, high, nan = span(array)
    assert (low, high) == ((min(there), max(there)) if there else (None, None))
    assert nan == (len(there) < len(values))


def test_halves_of_every_kind():
    every = np.arange(1 << 16).astype("u2").view("f2")
    assert span(every) == (-math.inf, math.inf, True)
    assert span(every[every < 0]) == (-math.inf, -(2.0**-24), False)
    assert span(np.array([np.nan, -np.nan], "f2")) == (None, None, True)
    assert span(np.array([-0.0, 2**-24], "f2")) == (0.0, 2.0**-24, False)


# Layers of every origin ---------------------------------------------------------------------------------------------


def bounds_of(path, name):
    snapshot = open_snapshot(path)
    return [snapshot.stored(p, name)[1].bounds for p in range(len(snapshot.parts))]


def test_layers_of_every_origin_have_them(tmp_path):
    path = tmp_path / "a.mm"
    ds = mm.from_arrays({"x": np.arange(10), "pt": [[1.5], []] * 5}, path)
    assert bounds_of(path, "x") == [Held(0, 9, False, None, 0)]
    assert bounds_of(path, "pt") == [Held(1.5, 1.5, False, (0, 1), 1)]
    with mm.append(path) as w:
        w.extend({"x": [100], "pt": [[]]})
    assert bounds_of(path, "x")[1] == Held(100, 100)
    assert bounds_of(path, "pt")[1] == Held(None, None, False, (0, 0))
    mm.assign(path, y="x * 2.0")
    assert bounds_of(path, "y") == [Held(0.0, 18.0, False, None, 0), Held(200.0, 200.0)]
    mm.compact(path)
    assert bounds_of(path, "x") == [Held(0, 100, False, None, 0)]
    before = mm.open(path).generation
    mm.compact(path)
    assert mm.open(path).generation == before, "the array of grains is no waste"
    mm.open(path)[2:].save(tmp_path / "b.mm")
    assert bounds_of(tmp_path / "b.mm", "x") == [Held(2, 100, False, None, 0)]
    assert mm.verify(path).ok
    assert ds.generation == 1


def test_rows_that_others_fill_have_them_when_they_are_committed(tmp_path):
    path = tmp_path / "a.mm"
    with mm.create(path) as w:
        w.allocate("x", 10, dtype="f4")[:] = [9, 8, 7, np.nan, 5, 4, 3, 2, 1, 0]
        w.allocate("p", 10, shape=(3,), dtype="i2")[...] = np.arange(30).reshape(10, 3)
    assert bounds_of(path, "x") == [Held(0.0, 9.0, True, None, 0, 1)]
    snapshot = open_snapshot(path)
    layer, stored = snapshot.stored(0, "p")
    table = snapshot.array(layer, layer.grains)
    assert table[stored.bounds.entry].tolist() == [[0, 11, 1, 3, 3], [12, 23, 1, 3, 3], [24, 29, 1, 3, 3]]
    assert mm.verify(path).ok


def test_small_layers_have_no_file_more(tmp_path):
    mm.from_arrays({"x": np.arange(GRAIN)}, tmp_path / "small.mm")
    mm.from_arrays({"x": np.arange(GRAIN + 1)}, tmp_path / "large.mm")
    files = [sorted(p.name for p in (tmp_path / s).glob("parts/*/*.npy")) for s in ("small.mm", "large.mm")]
    assert files == [["0-x.npy"], ["0-x.npy", "1-grains.npy"]]


def test_infinity_and_large_integers_are_exact(tmp_path):
    columns = {"f": [math.inf, -math.inf], "u": np.array([2**64 - 1, 2**63 + 1], "u8"), "i": [-(2**63), 2**53 + 1]}
    mm.from_arrays(columns, tmp_path / "a.mm")
    assert bounds_of(tmp_path / "a.mm", "f") == [Held(-math.inf, math.inf, infs=2)]
    assert bounds_of(tmp_path / "a.mm", "u") == [Held(2**63 + 1, 2**64 - 1)]
    mm.from_arrays({"low": [-math.inf, 1.0], "high": [math.inf, 1.0]}, tmp_path / "b.mm")
    assert bounds_of(tmp_path / "b.mm", "low") == [Held(-math.inf, 1.0, infs=1)]
    assert bounds_of(tmp_path / "b.mm", "high") == [Held(1.0, math.inf, infs=1)]
    assert bounds_of(tmp_path / "a.mm", "i") == [Held(-(2**63), 2**53 + 1)]


# verify -------------------------------------------------------------------------------------------------------------


def store_of(path, change_part=None, change_table=None):
    """A store whose statistics were changed before its checksums were made: a writer that lies."""
    fields = [
        Field.dense("x", "i4"),
        Field.dense("f", "f4"),
        Field.ragged("pt", "f8", optional=(0, 1)),
        Field.category("c", ("a", "b")),
        Field.dense("o", "u8", optional=(0,)),
    ]
    rows = {
        "x": [5, 6, 7, 8, 1, 2],
        "f": [0.5, math.nan, 1.5, 2.5, 3.5, 4.5],
        "pt": [[1.0, None], None, [2.0], [3.0, 4.0], [5.0], [6.0]],
        "c": ["a", "a", "b", "a", "b", "b"],
        "o": [None, 2**63, 1, 1, 7, 8],
    }

    class Liar(LayerWriter):
        def _held(self, w, n):
            held = super()._held(w, n)
            if change_table:
                change_table(w.field.name, self._tables[-1])
            return change_part(w.field.name, held) if change_part else held

    path.mkdir()
    with Liar(path, "one") as w:
        for f in fields:
            w.field(f).write(mt.from_python(f, rows[f.name]))
        layer = w.finish()
    manifest = add_parts(None, Schema(fields), [Part(6, ("one",), layer.nbytes)], block_rows=16)
    commit(path, lambda _: manifest, action="one")
    return path


def test_verify_agrees_with_what_is_true(tmp_path):
    report = mm.verify(store_of(tmp_path / "a.mm"))
    assert report.ok, report
    assert mm.verify(tmp_path / "a.mm", sample=1).ok


@pytest.mark.parametrize(
    ("name", "grain", "column", "value", "rows"),
    [
        ("x", 0, 0, 6, (0, 4)),
        ("x", 0, 1, 7, (0, 4)),
        ("x", 1, 2, 0, (4, 6)),
        ("f", 0, 2, HOLDS_NUMBER, (0, 4)),
        ("f", 1, 1, 4.0, (4, 6)),
        ("pt", 0, 0, 1.5, (0, 4)),
        ("pt", 1, 1, 5.5, (4, 6)),
        ("pt", 0, 3, 1, (0, 4)),
        ("pt", 1, 4, 0, (4, 6)),
        ("pt", 0, 2, HOLDS_NUMBER | HOLDS_MISSING, (0, 4)),
        ("pt", 0, 2, HOLDS_NUMBER | HOLDS_MISSING << 1, (0, 4)),
        ("c", 1, 0, 0, None),
        ("c", 0, 1, 0, (0, 4)),
        ("o", 0, 1, 5, (0, 4)),
        ("o", 0, 2, HOLDS_NUMBER, (0, 4)),
    ],
)
def test_verify_finds_what_is_wrong_in_the_array_of_grains(tmp_path, name, grain, column, value, rows):
    """§3.16."""

    def change(field, table):
        if field == name:
            table[grain, column] = np.array(value).view("i8") if isinstance(value, float) else value

    path = store_of(tmp_path / "a.mm", change_table=change)
    problems = mm.verify(path).problems
    if rows is None:  # wider than the data: nothing is lost
        assert not problems
    else:
        assert {p.field for p in problems} == {name}, problems
        found = problems[0].rows
        assert found[0] >= rows[0]
        assert found[1] <= rows[1] or (name == "pt" and column in (3, 4))
        assert "kept" in problems[0].message


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("x", {"low": 2}),
        ("x", {"high": 7}),
        ("x", {"low": None, "high": None}),
        ("f", {"nan": False, "nans": None}),
        ("f", {"nans": 2}),
        ("f", {"high": math.inf, "infs": 1}),
        ("pt", {"items": (1, 2)}),
        ("pt", {"low": 1.5}),
        ("o", {"high": 2**62}),
    ],
)
def test_verify_finds_what_is_wrong_in_part_json(tmp_path, name, change):
    """§3.16."""
    path = store_of(tmp_path / "a.mm", lambda field, held: replace(held, **change) if field == name else held)
    assert {p.field for p in mm.verify(path).problems} == {name}


def test_damage_of_the_array_of_grains_is_found_and_does_not_hold_up_compaction(tmp_path):
    path = store_of(tmp_path / "a.mm")
    [file] = path.glob("parts/one/*grains.npy")
    with file.open("r+b") as f:
        f.seek(4096 + 3)
        f.write(b"\xff")
    assert "parts/one/" + file.name in {p.file for p in mm.verify(path).problems}
    with mm.append(path) as w:
        w.extend({"x": [1], "f": [1.0], "pt": [[]], "c": ["a"], "o": [1]})
    mm.compact(path)
    assert mm.verify(path).ok
    assert mm.open(path)["x"].compute().tolist() == [5, 6, 7, 8, 1, 2, 1]


# part.json of strangers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "bounds", "message"),
    [
        ("x", {"low": 9, "high": 1}, "'high' must be a number not less than 'low', or both absent"),
        ("x", {"low": 9}, "'high' must be a number not less than 'low', or both absent"),
        ("x", {"low": 1.0, "high": 9}, "'low' must be an integer from -2147483648 to 2147483647"),
        ("x", {"low": True, "high": 9}, "'low' must be an integer"),
        ("x", {"low": -(2**31) - 1, "high": 9}, "'low' must be an integer"),
        ("x", {"low": 1, "high": 9, "nan": True}, "'nan' must be true or false, and true for reals and times only"),
        ("x", {"low": 1, "high": 9, "items": [0, 1]}, "'items' must be absent, but for lists"),
        ("x", {"low": 1, "high": 9, "entry": 5}, "'entry' must be a number of less than 5"),
        ("x", {"low": 1, "high": 9, "entry": -1}, "'entry' must be an integer from 0"),
        ("x", [1, 9], "'bounds' must be an object"),
        ("f", {"low": "nan", "high": 9.0}, "'low' must be a real number, 'inf' or '-inf'"),
        ("f", {"low": 0.0, "high": 2**53 + 1}, "'high' must be a real number"),
        ("f", {"low": 0.0, "high": False}, "'high' must be a real number"),
        ("f", {"nan": 1}, "'nan' must be true or false"),
        ("pt", {}, "'items' must be a list of integers"),
        ("pt", {"items": [2, 1]}, "'items' must be the fewest and the most of 7 items in 6 rows"),
        ("pt", {"items": [0, 1]}, "'items' must be the fewest and the most"),
        ("pt", {"items": [2, 9]}, "'items' must be the fewest and the most"),
        ("pt", {"items": [0, 1, 2]}, "'items' must be the fewest and the most"),
        ("c", {"low": 0, "high": 2}, "'high' must be an integer from 0 to 1"),
        ("o", {"low": 0, "high": 2**64}, "'high' must be an integer from 0 to 18446744073709551615"),
    ],
)
def test_bounds_that_cannot_be_are_refused(tmp_path, name, bounds, message):
    path = store_of(tmp_path / "a.mm")

    def change(part):
        part["fields"][name]["bounds"] = bounds

    rewrite(path, change)
    with pytest.raises(FormatError) as error:
        read_layer(path, "one")
    assert message in str(error.value)


def test_arrays_of_grains_that_cannot_be_are_refused(tmp_path):
    path = store_of(tmp_path / "a.mm")
    for number in (0, 99):
        rewrite(path, lambda part, number=number: part.update(grains=number))
        with pytest.raises(FormatError, match="'grains' must be"):
            read_layer(path, "one")
    rewrite(path, lambda part: part.pop("grains"))
    with pytest.raises(FormatError, match="'entry' must be a number of less than 0"):
        read_layer(path, "one")


def rewrite(path, change):
    file = path / "parts" / "one" / "part.json"
    part = json.loads(file.read_text())
    change(part)
    del part["checksum"]
    file.write_bytes(document.dump(part))


def test_layers_without_them_are_read(tmp_path):
    path = store_of(tmp_path / "a.mm")

    def without(part):
        del part["grains"]
        for field in part["fields"].values():
            del field["bounds"]

    rewrite(path, without)
    layer = read_layer(path, "one")
    assert layer.grains is None
    assert all(s.bounds is None for s in layer.fields.values())
    assert mm.verify(path).ok
    assert mm.open(path)["x"].compute().tolist() == [5, 6, 7, 8, 1, 2]


def test_no_bounds_for_what_has_no_order(tmp_path):
    fields = [Field.dense("c", "c8"), Field.dense("s", "S2"), Field.string("t"), Field.dense("none", "f4", (0, 2))]
    data = [
        FieldData(np.zeros(5, "c8")),
        FieldData(np.zeros(5, "S2")),
        FieldData(np.zeros(0, "u1"), (np.zeros(6, "i8"),)),
        FieldData(np.zeros((5, 0, 2), "f4")),
    ]
    with LayerWriter(tmp_path, "one") as w:
        for f, d in zip(fields, data, strict=True):
            w.field(f).write(d)
        layer = w.finish()
    assert layer.grains is None
    assert all(s.bounds is None for s in layer.fields.values())
