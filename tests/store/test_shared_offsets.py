"""Offsets that several fields have alike are written once; where they part, each has its own."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mmdask as mm
from mmdask.schema import Field, FieldData, Schema
from mmdask.store.arrays import offsets_writer
from mmdask.store.commit import add_parts, commit
from mmdask.store.layer_writer import LayerWriter
from mmdask.store.manifest import Part
from mmdask.store.system import System

SLOW = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@pytest.fixture
def written(monkeypatch):
    """Bytes that were written to files of offsets, without headers, by name of the file."""
    nbytes: dict[str, int] = {}
    original = System.write

    def write(self, fd, data, offset):
        path = os.readlink(f"/proc/self/fd/{fd}")
        if ".offsets" in path and offset:
            name = os.path.basename(path)
            nbytes[name] = nbytes.get(name, 0) + len(data)
        original(self, fd, data, offset)

    monkeypatch.setattr(System, "write", write)
    return nbytes


def lists(counts):
    counts = np.asarray(counts, np.int64)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    return FieldData(np.arange(offsets[-1], dtype="f4"), (offsets,))


def write(path, fields, turns):
    """A layer of fields of these counts; turns are (field, rows), the rest comes at the end, field by field."""
    path.mkdir(exist_ok=True)
    layer_id = os.urandom(8).hex()
    with LayerWriter(path, layer_id) as w:
        writers = {name: w.field(Field.ragged(name, "f4")) for name in fields}
        at = dict.fromkeys(fields, 0)
        for name, n in [*turns, *((name, len(counts)) for name, counts in fields.items())]:
            writers[name].write(lists(fields[name][at[name] : at[name] + n]))
            at[name] = min(at[name] + n, len(fields[name]))
        layer = w.finish()
    schema = Schema(Field.ragged(name, "f4") for name in fields)
    parts = [Part(layer.rows, (layer_id,), layer.nbytes)]
    commit(str(path), lambda newest: add_parts(newest, schema, parts, block_rows=8), action="write")
    return path / "parts" / layer_id


def check(folder, fields):
    """Each field has its offsets, equal ones the same file, and there is no file besides."""
    part = json.loads((folder / "part.json").read_text())
    used = {}
    for name, counts in fields.items():
        (number,) = part["fields"][name]["offsets"]
        stored = np.load(folder / part["arrays"][number]["file"])
        assert stored.tolist() == lists(counts).offsets[0].tolist()
        used[name] = number
    for a in fields:
        for b in fields:
            assert (used[a] == used[b]) == (list(fields[a]) == list(fields[b]))
    assert {p.name for p in folder.iterdir()} == {a["file"] for a in part["arrays"]} | {"part.json"}
    assert mm.verify(folder.parent.parent).ok


@st.composite
def layers(draw):
    """Fields of which most have the same counts up to some row."""
    n = draw(st.integers(0, 12))
    base = draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    fields = {}
    for name in "abcd"[: draw(st.integers(1, 4))]:
        counts = list(base)
        if n and draw(st.booleans()):
            counts[draw(st.integers(0, n - 1))] = draw(st.integers(0, 3))
        fields[name] = counts
    turns = draw(st.lists(st.tuples(st.sampled_from(sorted(fields)), st.integers(0, 6)), max_size=12))
    return fields, turns


@settings(max_examples=60, **SLOW)
@given(layers())
def test_any_order_of_writing(tmp_path_factory, given_layer):
    fields, turns = given_layer
    check(write(tmp_path_factory.mktemp("s"), fields, turns), fields)


def test_equal_offsets_are_written_once(tmp_path, written, monkeypatch):
    monkeypatch.setattr(offsets_writer, "_PIECE", 7)
    counts = [3, 0, 1, 2] * 50
    fields = {"a": counts, "b": counts, "c": counts}
    folder = write(tmp_path / "s", fields, [("a", 90), ("b", 60), ("c", 90), ("b", 30)])
    assert written == {"0-a.offsets.npy": 8 * 201}
    check(folder, fields)


def test_what_was_left_out_is_written_where_they_part(tmp_path, written):
    counts = [3, 0, 1, 2] * 50
    other = [*counts[:150], *reversed(counts[150:])]
    fields = {"a": counts, "b": other, "c": other}
    folder = write(tmp_path / "s", fields, [("a", 200), ("b", 100), ("c", 100)])
    assert written == {"0-a.offsets.npy": 8 * 201, "2-b.offsets.npy": 8 * 201}, "c leaves a for b"
    check(folder, fields)


def test_who_is_ahead_writes(tmp_path, written):
    counts = [1, 2] * 20
    fields = {"a": counts, "b": counts}
    folder = write(tmp_path / "s", fields, [("a", 10), ("b", 20), ("a", 30)])
    assert set(written) == {"0-a.offsets.npy", "2-b.offsets.npy"}
    check(folder, fields)


def test_a_field_that_is_removed_leaves_its_offsets_to_others(tmp_path):
    counts = [3, 0, 1, 2] * 50
    with LayerWriter(tmp_path, "ab" * 8) as w:
        for name in ("a", "b", "c"):
            w.field(Field.ragged(name, "f4")).write(lists(counts))
        w.remove_field("a")
        layer = w.finish()
    assert layer.fields["b"].offsets == layer.fields["c"].offsets
    files = os.listdir(tmp_path / "parts" / layer.id)
    assert len(files) == 4
    (number,) = layer.fields["b"].offsets
    stored = np.load(tmp_path / "parts" / layer.id / layer.arrays[number].file)
    assert stored.tolist() == lists(counts).offsets[0].tolist()


def test_files_that_are_closed_between_writes(tmp_path, written):
    counts = [1, 0, 2] * 10
    with LayerWriter(tmp_path, "ab" * 8) as w:
        a, b = (w.field(Field.ragged(name, "f4")) for name in "ab")
        for start in range(0, 30, 10):
            for writer in (a, b):
                writer.write(lists(counts[start : start + 10]))
                writer.close()
        assert a.offsets[0]._fd == -1, "looking at it leaves no descriptor open"
        layer = w.finish()
    assert layer.fields["a"].offsets == layer.fields["b"].offsets
    assert set(written) == {"0-a.offsets.npy"}


def test_offsets_that_meet_again_are_not_the_same(tmp_path):
    fields = {"a": [1, 1, 5], "c": [0, 2, 3], "b": [1, 1, 3]}
    check(write(tmp_path / "s", fields, [("a", 3), ("c", 3), ("b", 2)]), fields)


def test_inner_offsets_that_begin_alike(tmp_path):
    inner = np.arange(7)
    with LayerWriter(tmp_path, "ab" * 8) as w:
        for name, ends in (("a", [0, 3, 6]), ("b", [0, 2, 4])):
            n = ends[-1]
            data = FieldData(np.zeros(n, "f4"), (np.array(ends), inner[: n + 1]))
            w.field(Field.ragged(name, "f4", levels=2)).write(data)
        layer = w.finish()
    stored = {
        name: [np.load(tmp_path / "parts" / layer.id / layer.arrays[i].file).tolist() for i in field.offsets]
        for name, field in layer.fields.items()
    }
    assert stored == {"a": [[0, 3, 6], list(range(7))], "b": [[0, 2, 4], list(range(5))]}
