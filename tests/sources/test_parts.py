"""What writers make of rows: parts of a target size, every kind with rows that are empty anywhere, many processes,
and what an append costs."""

from __future__ import annotations

import itertools
import math
import multiprocessing
import sys
from collections import Counter

import awkward as ak
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from worker_tasks import append_blocks

import mmdask as mm
from mmdask.rows.reading.reader import read, take
from mmdask.schema import FieldData
from mmdask.sources.writing.part_writer import rows_within, stored_nbytes
from mmdask.store.snapshot import open_snapshot
from mmdask.store.system import System


def python(field, data):
    """Rows as plain Python: numbers, texts, lists, nested lists for arrays, None where missing."""
    if field.kind == "category":
        rows = [data.labels[code] if data.labels else "" for code in data.values.tolist()]
    elif field.kind == "string":
        raw, bounds = data.values.tobytes(), data.offsets[-1].tolist()
        rows = [raw[a:b].decode() for a, b in itertools.pairwise(bounds)]
    elif field.kind == "shaped":
        bounds = data.offsets[0].tolist()
        shapes = [(*shape, *field.shape) for shape in data.shapes.tolist()]
        rows = [
            data.values[a:b].reshape(s).tolist() for (a, b), s in zip(itertools.pairwise(bounds), shapes, strict=True)
        ]
    else:
        rows = data.values.tolist()
    for depth in range(field.levels, -1, -1):
        valid = data.valid_at(depth)
        if valid is not None:
            rows = [row if there else None for row, there in zip(rows, valid.tolist(), strict=True)]
        if depth:
            rows = [rows[a:b] for a, b in itertools.pairwise(data.offsets[depth - 1].tolist())]
    return rows


F = mm.Field
#: a field, a row that is as empty as its kind allows, and rows with something in them
KINDS = [
    (F.dense("f", "i4"), 0, [1, -2, 3]),
    (F.dense("f", "f2", (2, 3)), np.zeros((2, 3), "f2"), [np.arange(6).reshape(2, 3).astype("f2")]),
    (F.dense("f", "f4", (0,)), np.zeros(0, "f4"), [np.zeros(0, "f4")]),
    (F.dense("f", "f4", (2, 0, 3)), np.zeros((2, 0, 3), "f4"), [np.zeros((2, 0, 3), "f4")]),
    (F.dense("f", "?"), False, [True]),
    (F.dense("f", "c8"), 0j, [1 - 2j]),
    (F.dense("f", "S3"), b"", [b"abc", b"a"]),
    (F.dense("f", "M8[s]"), np.datetime64(0, "s"), [np.datetime64("2020-01-01", "s")]),
    (F.dense("f", "i8", optional=(0,)), None, [5, None, 6]),
    (F.ragged("f", "f4"), [], [[1.0, 2.0], [3.0]]),
    (F.ragged("f", "u1", (2,)), [], [[[1, 2], [3, 4]], [[5, 6]]]),
    (F.ragged("f", "u1", (0,)), [], [np.zeros((2, 0), "u1")]),
    (F.ragged("f", "i2", levels=3), [], [[[[1], []], []], [[]], [[[2, 3]]]]),
    (F.ragged("f", "i2", levels=2, optional=(0, 1, 2)), None, [[None, [1, None]], [[]], [[2], None]]),
    (F.string("f"), "", ["a", "é\n", ""]),
    (F.string("f", optional=(0,)), None, ["a", None, ""]),
    (F.string("f", levels=2), [], [[["a", ""], []], [[]]]),
    (F.category("f"), "", ["a", "b", ""]),
    (F.category("f", optional=(0,)), None, ["a", None]),
    (F.shaped("f", "f4", 2), np.zeros((0, 3), "f4"), [np.ones((2, 1), "f4"), np.zeros((4, 0), "f4")]),
    (F.shaped("f", "u1", 1, (3,)), np.zeros((0, 3), "u1"), [np.arange(6, dtype="u1").reshape(2, 3)]),
    (F.shaped("f", "u1", 2, (0,)), np.zeros((0, 0, 0), "u1"), [np.zeros((2, 3, 0), "u1")]),
    (F.shaped("f", "f4", 2, optional=(0,)), None, [np.ones((2, 1), "f4"), None]),
]


def plain(row):
    """A row that was given, as `python` gives it back."""
    if isinstance(row, np.datetime64):
        return row.item()
    return row.tolist() if isinstance(row, np.ndarray) else row


@pytest.mark.parametrize("part_nbytes", [1, 40, 1 << 30])
@pytest.mark.parametrize(("field", "nothing", "some"), KINDS, ids=lambda v: v.describe() if isinstance(v, F) else "")
def test_rows_that_are_empty_anywhere(memory_path, field, nothing, some, part_nbytes):
    runs = [[], [nothing], [], [*some, nothing], [nothing] * 3, [nothing, *some], [], some * 2, [nothing]]
    expected = [plain(row) for row in itertools.chain.from_iterable(runs)]
    for number, first in enumerate(range(3)):
        path = memory_path / f"{number}.mm"
        with mm.create(path, fields=[field], labels={"p": "q"}, part_nbytes=part_nbytes) as w:
            w.extend({"f": []})
            if first == 0:  # nothing but a store without rows
                continue
            for run in runs[: len(runs) // 2]:
                if first == 1:
                    w.extend({"f": run})
                else:
                    for row in run:
                        w.append({"f": row})
        with mm.append(path, labels={"p": "r"}, part_nbytes=part_nbytes) as w:
            for i, run in enumerate(runs[len(runs) // 2 :]):
                if i % 2:
                    w.extend({"f": run})
                else:
                    for row in run:
                        w.append({"f": row})
    empty = open_snapshot(memory_path / "0.mm")
    assert (empty.rows, python(field, read(empty, "f", 0, 0))) == (0, [])
    for number in (1, 2):
        snapshot = open_snapshot(memory_path / f"{number}.mm")
        stored = snapshot.schema["f"]
        assert python(stored, read(snapshot, "f", 0, snapshot.rows)) == expected
        order = np.random.default_rng(1).permutation(snapshot.rows)
        assert python(stored, take(snapshot, "f", order)) == [expected[i] for i in order]
        assert mm.verify(memory_path / f"{number}.mm").ok
        assert all(p.rows for p in snapshot.parts)
        if part_nbytes == 1 and field.item_nbytes and field.kind in ("dense", "category"):
            assert len(snapshot.parts) == snapshot.rows


def test_first_rows_that_do_not_say_what_they_are(memory_path):
    path = memory_path / "s.mm"
    with mm.create(path) as w:
        w.append({"hits": [], "x": 1})
        w.append({"hits": [], "x": 2})
        w.extend({"hits": ak.Array([[1, 2], []]), "x": np.array([3, 4])})
    ds = mm.open(path)
    assert ds["hits"].compute().to_list() == [[], [], [1, 2], []]
    assert ds.schema["hits"].describe() == "ragged int64"
    with pytest.raises(mm.SchemaError, match="declare the field"), mm.create(memory_path / "t.mm") as w:
        w.append({"hits": []})
    with pytest.raises(mm.SchemaError, match="declare the field"), mm.create(memory_path / "t.mm") as w:
        w.append({"hits": []})
        w.extend({"hits": [[], []]})
    with mm.create(memory_path / "t.mm") as w:
        for hits in (None, [1, 2], []):
            w.append({"hits": hits, "x": None if hits is None else 0.5})
        w.extend({"hits": [None], "x": [None]})
    ds = mm.open(memory_path / "t.mm")
    assert ds.schema["hits"].optional == ds.schema["x"].optional == (0,)
    assert ds["hits"].compute().to_list() == [None, [1, 2], [], None]
    with mm.create(memory_path / "u.mm") as w:
        w.append({"x": 1.5})
        w.checkpoint()
        with pytest.raises(mm.SchemaError, match="optional"):
            w.extend({"x": [None]})
    assert len(mm.open(memory_path / "u.mm")) == 1


def test_records_row_by_row_and_together(memory_path):
    path = memory_path / "s.mm"
    rows = [
        {"met": 1.0, "jets": [{"pt": 1.5, "p4": {"e": 1}}, {"pt": 2.5, "p4": {"e": 2}}]},
        {"met": 2.0, "jets": []},
        {"met": 3.0, "jets": [{"pt": 3.5, "p4": {"e": 3}}]},
    ]
    with mm.create(path) as w:
        w.append(rows[1])
        w.append(rows[0])
        w.checkpoint()
        for row in rows:
            w.append(row)
        w.extend(ak.Array(rows))
        w.extend({"met": [4.0], "jets": [[]]})
        w.extend({"met": [4.0], "jets_pt": [[1.0]], "jets_p4_e": [[9]]})
        with pytest.raises(mm.SchemaError, match="equal counts"):
            w.extend({"met": [4.0], "jets_pt": [[1.0]], "jets_p4_e": [[9, 8]]})
        with pytest.raises(mm.SchemaError, match="'jets_p4_e'"):
            w.append({"met": 1.0, "jets": [{"pt": 1.0}]})
    ds = mm.open(path)
    assert {f.name: f.record for f in ds.schema.values()} == {"met": "", "jets_pt": "jets", "jets_p4_e": "jets"}
    pt = [[j["pt"] for j in row["jets"]] for row in rows]
    assert ds["jets_pt"].compute().to_list() == [pt[1], pt[0], *pt, *pt, [], [1.0]]
    assert ds["jets_p4_e"].compute().to_list()[:2] == [[], [1, 2]]
    for folder in (path / "parts").iterdir():
        assert len(list(folder.glob("*offsets*"))) == 1


@pytest.mark.parametrize("calls", ["extend", "append", "pieces"])
def test_parts_are_about_as_large_as_asked_for(memory_path, calls):
    path = memory_path / "s.mm"
    n = 5000
    x = np.arange(n)
    hits = ak.unflatten(np.arange(2 * n, dtype="i4"), np.tile([0, 4, 2], n)[:n])
    text = [f"row {i}" for i in range(n)]
    rows = {"x": x, "hits": hits, "t": text, "c": [str(i % 3) for i in range(n)]}
    fields = [F.dense("x", "i8"), F.ragged("hits", "i4"), F.string("t"), F.category("c")]
    with mm.create(path, fields=fields, part_nbytes="8 KiB") as w:
        if calls == "extend":
            w.extend(rows)
        elif calls == "append":
            for i in range(n):
                w.append({name: values[i] for name, values in rows.items()})
        else:
            for a, b in itertools.pairwise([0, 1, 2, 1000, 1000, 4999, n]):
                w.extend({name: values[a:b] for name, values in rows.items()})
    snapshot = open_snapshot(path)
    sizes = [p.nbytes for p in snapshot.parts]
    assert all(8192 <= size < 8192 + 100 for size in sizes[:-1])
    assert len(sizes) == math.ceil(sum(sizes) / (8192 + 50))
    ds = mm.open(path)
    np.testing.assert_array_equal(ds["x"].compute(), x)
    assert ds["hits"].compute().to_list() == hits.to_list()
    assert python(fields[2], read(snapshot, "t", 0, n)) == text
    assert mm.verify(path).ok


@given(
    counts=st.lists(st.integers(0, 5), min_size=1, max_size=30),
    start=st.integers(0, 29),
    rows=st.integers(0, 30),
    more=st.integers(-1, 1),
    optional=st.booleans(),
)
def test_rows_within_some_bytes_are_counted_exactly(counts, start, rows, more, optional):
    n = len(counts)
    start %= n
    offsets = np.concatenate([[0], np.cumsum(counts)])
    valid, items = (np.ones(n, bool), np.ones(offsets[-1], bool)) if optional else (None, None)
    data = {
        "x": FieldData(np.zeros((n, 3), "i2"), valid=(valid,)),
        "r": FieldData(np.zeros((offsets[-1], 2), "f4"), (offsets,), valid=(valid, items)),
        "s": FieldData(np.zeros(offsets[-1]), (offsets,), shapes=np.zeros((n, 2), "i8")),
        "n": FieldData(np.zeros(offsets[-1]), (np.arange(n + 1), offsets)),
        "c": FieldData(np.zeros(n, "i4"), labels=("a",)),
    }

    def size(a, b):
        return sum(stored_nbytes(d[a:b]) for d in data.values())

    room = size(start, min(start + rows, n)) + more
    first = next((stop for stop in range(start + 1, n) if size(start, stop) >= room), n)
    assert rows_within(data, start, n, room) == first


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_eight_processes_append_five_blocks_each(tmp_path, method):
    path = tmp_path / "s.mm"
    fields = [F.dense("x", "i8"), F.ragged("r", "i4"), F.category("worker")]
    with mm.create(path, fields=fields):
        pass
    context = multiprocessing.get_context(method)
    workers = [context.Process(target=append_blocks, args=(path, i)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [w.exitcode for w in workers] == [0] * 8
    snapshot = open_snapshot(path)
    assert snapshot.manifest.generation == 41
    assert len(snapshot.parts) == 40
    x = read(snapshot, "x", 0, snapshot.rows).values
    expected = [w * 100 + b * 10 + i for w in range(8) for b in range(5) for i in range(3 + b % 2)]
    assert sorted(x.tolist()) == expected  # all rows there, once
    assert x[np.argsort(x // 100, kind="stable")].tolist() == expected  # each process' own in their order
    labels = python(snapshot.schema["worker"], read(snapshot, "worker", 0, snapshot.rows))
    assert labels == [f"w{row // 100}" for row in x.tolist()]
    assert mm.verify(path).ok


class Counting(System):
    """What is called how often, and how many bytes are written."""

    def __init__(self):
        self.calls, self.nbytes = Counter(), 0

    def __getattribute__(self, name):
        if name not in ("create", "write", "fsync", "fsync_folder", "rename", "mkdir", "truncate", "unlink", "rmdir"):
            return object.__getattribute__(self, name)
        method = object.__getattribute__(self, name)

        def call(*args):
            self.calls[name] += 1
            if name == "write":
                self.nbytes += len(args[1])
            return method(*args)

        return call


def cost_of_one_row(path, monkeypatch):
    counting = Counting()
    with monkeypatch.context() as patch:
        for module in [m for n, m in sys.modules.items() if n.startswith("mmdask.") and hasattr(m, "SYSTEM")]:
            patch.setattr(module, "SYSTEM", counting)
        with mm.append(path) as w:
            w.append({"x": True, "t": "a"})
    return counting.calls, counting.nbytes


def test_a_row_costs_the_same_in_a_store_of_any_size(memory_path, monkeypatch):
    costs = []
    for rows in (10, 100_000_000):
        path = memory_path / f"{rows}.mm"
        with mm.create(path, fields=[F.category("t")]) as w:
            w.extend({"x": [True], "t": ["a"]})
        with mm.append(path, labels={"t": "a"}) as w:
            w.allocate("x", rows)
        costs.append(cost_of_one_row(path, monkeypatch))
        assert len(mm.open(path)) == rows + 2
    (small, small_nbytes), (large, large_nbytes) = costs
    assert small == large
    assert sum(small.values()) < 40
    assert abs(small_nbytes - large_nbytes) < 100  # digits of the number of rows
