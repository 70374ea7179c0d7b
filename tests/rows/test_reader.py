"""Reading fields over many parts: what is opened and looked at is counted, values are compared with plain lists."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from many_parts import FIELDS, lists, many_parts, row

import mmdask as mm
from mmdask.kernels import dense
from mmdask.rows.reading import marks, reader
from mmdask.rows.reading.picker import Picker
from mmdask.rows.reading.text import as_text
from mmdask.rows.rows import Rows
from mmdask.schema import FieldData
from mmdask.store import document
from mmdask.store.arrays import held as arrays_module
from mmdask.store.arrays.held import DESCRIPTORS, MAPS, SMALL
from mmdask.store.snapshot import CODES, Snapshot, open_snapshot

LENGTHS = [i % 3 for i in range(300)]  # parts of 0, 1 and 2 rows
N = sum(LENGTHS)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("many") / "s.mm"
    many_parts(path, LENGTHS)
    return path


@pytest.fixture
def fresh(path):
    """A snapshot of which nothing is cached."""
    for cache in (MAPS, SMALL, DESCRIPTORS, CODES):
        cache.clear()
    return Snapshot(str(path), open_snapshot(path).manifest)


@pytest.fixture
def arrays(monkeypatch):
    """Files of arrays that are opened."""
    opened = []
    original = arrays_module.open_file

    def counting(*names):
        opened.append(os.path.join(*names))
        return original(*names)

    monkeypatch.setattr(arrays_module, "open_file", counting)
    return opened


# Rows of many parts -------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    st.one_of(
        st.lists(st.integers(0, N - 1), max_size=20),
        st.tuples(st.integers(0, N - 1), st.integers(0, 30)).map(lambda t: list(range(t[0], min(sum(t), N)))),
    )
)
def test_rows_of_many_parts_are_those_of_a_list(path, numbers):
    snapshot, rows = open_snapshot(path), np.array(numbers, np.int64)
    expected = [row(i) for i in numbers]
    for field in FIELDS:
        assert lists(field, reader.take(snapshot, field.name, rows)) == [r[field.name] for r in expected]
    values, mask = reader.take_padded(snapshot, "r", rows, 2, -1)
    assert values.tolist() == [(r["r"] + [-1, -1])[:2] for r in expected]
    assert mask.sum(axis=1).tolist() == [min(len(r["r"]), 2) for r in expected]
    assert marks.counts(snapshot, "r", rows).tolist() == [len(r["r"]) for r in expected]
    pick = Picker(snapshot, "t")
    assert [bytes(pick(i)).decode() for i in numbers] == [r["t"] for r in expected]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, N), st.integers(0, N))
def test_runs_over_many_parts_are_those_of_a_list(path, a, b):
    a, b = min(a, b), max(a, b)
    snapshot = open_snapshot(path)
    for field in FIELDS:
        assert lists(field, reader.read(snapshot, field.name, a, b)) == [row(i)[field.name] for i in range(a, b)]
    counts = [len(row(i)["r"]) for i in range(a, b)]
    assert marks.read_counts(snapshot, "r", a, b).tolist() == counts
    assert marks.item_count(snapshot, "r", a, b) == sum(counts)


def test_only_the_parts_that_are_needed_are_opened_and_given_to_the_kernel(fresh, arrays, monkeypatch):
    given_parts = []
    original = dense.take_rows
    monkeypatch.setattr(dense, "take_rows", lambda s, *args: (given_parts.append(len(s)), original(s, *args))[1])
    rows = np.array([250, 3, 120])
    assert reader.take(fresh, "x", rows).values.tolist() == [250, 3, 120]
    assert len(arrays) == 3
    assert given_parts == [7], "three parts, and what is between them"
    for name, files in (("r", 2), ("c", 1)):
        arrays.clear()
        reader.take(fresh, name, rows)
        assert len(arrays) == 3 * files
    arrays.clear()
    reader.take(fresh, "x", np.arange(100, 130))
    assert len(arrays) <= 20 + 1, "neighbours: the parts from the first to the last"


def test_rows_that_are_not_there_are_refused(path):
    snapshot = open_snapshot(path)
    for wrong in ([-1, 2], [5, N], [10**15]):
        for read in (reader.take, marks.counts):
            for name in ("r",) if read is marks.counts else ("x", "r", "t", "c"):
                with pytest.raises(mm.RowNotFoundError, match=f"has {N} rows"):
                    read(snapshot, name, np.array(wrong))


def test_counts_read_offsets_only(fresh, arrays):
    marks.counts(fresh, "r", np.array([7, 200]))
    marks.read_counts(fresh, "r", 10, 40)
    marks.item_count(fresh, "r", 0, N)
    assert arrays
    assert all("offsets" in os.path.basename(file) for file in arrays)


def test_single_rows_are_views_and_look_nothing_up_within_a_part(path, monkeypatch):
    snapshot = open_snapshot(path)
    i = next(i for i in range(50, N) if i % 4 and snapshot.part_of(i) == snapshot.part_of(i + 1))
    pick = Picker(snapshot, "r")
    layer, stored = snapshot.stored(snapshot.part_of(i), "r")
    assert np.shares_memory(pick(i), snapshot.array(layer, stored.values))
    monkeypatch.setattr(Snapshot, "stored", None)
    assert pick(i + 1).tolist() == row(i + 1)["r"]
    assert not pick(i).flags.writeable


# Labels -------------------------------------------------------------------------------------------------------------


def test_labels_are_matched_once_for_each_layer(fresh, monkeypatch):
    class Labels(tuple):
        def index(self, *_):
            raise AssertionError("a search for each label is quadratic")

    object.__setattr__(fresh.schema["c"], "labels", Labels(fresh.schema["c"].labels))
    made = []
    original = CODES.put
    monkeypatch.setattr(CODES, "put", lambda key, *args: (made.append(key), original(key, *args))[1])
    for _ in range(3):
        reader.take(fresh, "c", np.arange(N))
        reader.read(fresh, "c", 0, N)
    assert len(made) == len(set(made)) == sum(1 for n in LENGTHS if n)


def test_a_label_that_the_manifest_has_not_is_damage(tmp_path):
    many_parts(tmp_path / "s.mm", [4, 3])
    for name in ("c", "k"):
        path = tmp_path / f"{name}.mm"
        shutil.copytree(tmp_path / "s.mm", path)
        change(path / "manifest.json", lambda m: m["fields"][[f.name for f in FIELDS].index(name)].update(labels=["a"]))  # noqa: B023
        for read in (lambda s, n: reader.read(s, n, 0, 7), lambda s, n: reader.take(s, n, np.array([1, 5]))):
            with pytest.raises(mm.CorruptStoreError, match="the manifest has not"):
                read(open_snapshot(path), name)


# Damage and hostility -----------------------------------------------------------------------------------------------


def change(file, how):
    """Change a document and give it a fitting checksum."""
    content = document.parse(Path(file).read_bytes(), "")
    del content["checksum"]
    how(content)
    Path(file).write_bytes(document.dump(content))


@pytest.mark.parametrize("name", ["x", "r", "t", "f", "time"])
@pytest.mark.parametrize("constant", [5, 1.7, True, 2**63, float(2**60)])
def test_constants_that_their_fields_cannot_have_are_damage(tmp_path, name, constant):
    fits = (name == "x" and constant == 5) or (name == "f" and not isinstance(constant, bool))
    path = tmp_path / "s.mm"
    with mm.create(path, fields=[*FIELDS[:3], mm.Field.dense("f", "f8"), mm.Field.dense("time", "M8[s]")]) as w:
        w.extend({"x": [1], "r": [[2]], "t": ["a"], "f": [1.0], "time": np.array([3], "M8[s]")})
    (part,) = path.glob("parts/*/part.json")
    kind = {"r": "ragged", "t": "string"}.get(name, "dense")
    change(part, lambda p: p["fields"].__setitem__(name, {"kind": kind, "constant": constant}))
    snapshot = open_snapshot(path)
    if fits and type(constant) is not bool:
        assert reader.read(snapshot, name, 0, 1).values.tolist() == [constant]
        return
    for read in (lambda: reader.read(snapshot, name, 0, 1), lambda: reader.take(snapshot, name, np.array([0]))):
        with pytest.raises((mm.CorruptStoreError, mm.FormatError), match="is not stored as|has no constants"):
            read()


def test_text_that_is_not_utf_8_is_damage():
    assert as_text(FieldData(np.frombuffer("aéb".encode(), "u1"), (np.array([0, 1, 3, 3, 4]),))) == [
        "a",
        "é",
        "",
        "b",
    ]
    broken = FieldData(np.array([97, 0xC3, 97], "u1"), (np.array([0, 1, 3]),))
    with pytest.raises(mm.CorruptStoreError, match="UTF-8"):
        as_text(broken)
    nested = FieldData(np.frombuffer(b"abc", "u1"), (np.array([0, 2, 2, 3]), np.array([0, 1, 2, 3])))
    assert as_text(nested) == [["a", "b"], [], ["c"]]


@pytest.mark.parametrize("wrong", [-5, 10**6])
def test_damaged_offsets_are_never_followed(tmp_path, wrong):
    many_parts(tmp_path / "s.mm", [8])
    (file,) = tmp_path.glob("s.mm/parts/*/*-r.offsets.npy")
    raw = bytearray(file.read_bytes())
    raw[4096 + 8 * 4 : 4096 + 8 * 5] = np.int64(wrong).tobytes()
    file.write_bytes(raw)
    snapshot = open_snapshot(tmp_path / "s.mm")
    assert Picker(snapshot, "r")(1).tolist() == row(1)["r"]
    for read in (
        lambda: Picker(snapshot, "r")(3),
        lambda: Picker(snapshot, "r")(4),
        lambda: marks.counts(snapshot, "r", np.array([3, 4])),
        lambda: marks.read_counts(snapshot, "r", 0, 8),
        lambda: marks.item_count(snapshot, "r", 0, 4),
        lambda: reader.read(snapshot, "r", 3, 4),
    ):
        with pytest.raises(mm.CorruptStoreError, match="do not ascend"):
            read()


# Maps ---------------------------------------------------------------------------------------------------------------


def mapped(path):
    return sum(str(path) in line for line in Path("/proc/self/maps").read_text().splitlines())


def descriptors(path):
    """How many files of a store are open; the process may open and close others at any time."""
    found = 0
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found += os.readlink(f"/proc/self/fd/{fd}").startswith(str(path))
    return found


@pytest.fixture
def only_maps(monkeypatch):
    monkeypatch.setattr(arrays_module, "SMALL_NBYTES", -1)


def test_maps_hold_no_descriptor_and_end_with_the_last_array(path, fresh, only_maps):
    held = [reader.read(fresh, "x", i, i + 1).values for i in range(100)]
    assert descriptors(path) == 0
    assert mapped(path) == len({fresh.part_of(i) for i in range(100)})
    MAPS.clear()
    gc.collect()
    assert [int(x[0]) for x in held] == list(range(100)), "an array keeps its map"
    assert not any(x.flags.writeable for x in held)
    del held
    gc.collect()
    assert mapped(path) == 0


def test_small_files_are_read_and_large_ones_mapped(tmp_path):
    path = tmp_path / "s.mm"
    mm.from_arrays({"small": np.arange(8192), "large": np.arange(2 * 8192).reshape(8192, 2)}, path)
    MAPS.clear()
    snapshot = open_snapshot(path)
    for name in ("small", "large"):
        data = reader.read(snapshot, name, 0, 8192).values
        assert data.reshape(-1).tolist() == list(range(data.size))
        assert mapped(path) == (name == "large")


def test_a_process_with_few_descriptors_reads_more_parts_than_those(path):
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
import mmdask as mm
from mmdask.store.arrays import held as arrays
arrays.SMALL_NBYTES = -1
ds = mm.open({str(path)!r})
assert ds["x"].compute(scheduler="sync").tolist() == list(range({N}))
assert len(ds["r"].compute(scheduler="sync")) == {N}
assert sum(len(b.rows) for b in ds.batches(50)) == {N}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("code", "limit"), [(errno.ENOMEM, "vm.max_map_count"), (errno.EMFILE, "ulimit -n"), (errno.EIO, None)]
)
def test_limits_of_the_process_are_named(path, fresh, only_maps, monkeypatch, code, limit):
    class Full:
        munmap = arrays_module._libc.munmap

        @staticmethod
        def mmap(*_):
            ctypes.set_errno(code)
            return ctypes.c_void_p(-1).value

    monkeypatch.setattr(arrays_module, "_libc", Full)
    with pytest.raises(mm.LimitError if limit else mm.CorruptStoreError, match=limit or "cannot be read"):
        reader.read(fresh, "x", 5, 6)
    assert mapped(path) == 0


def test_kept_maps_and_bytes_are_bounded(path, fresh, only_maps, monkeypatch):
    monkeypatch.setattr(MAPS, "limit", 10)
    monkeypatch.setattr(arrays_module, "SMALL_NBYTES", 0)
    for i in range(60):
        reader.read(fresh, "x", i, i + 1)
    assert mapped(path) == 10


# Selections found once ----------------------------------------------------------------------------------------------


def test_reads_of_a_selection_look_at_its_parts_only(path, monkeypatch):
    """Each of many chunks of a selection costs what its rows cost, however many parts there are."""
    from mmdask.expr import check_cut
    from mmdask.rows import bits

    snapshot = open_snapshot(path)
    rows = Rows(snapshot).cut(check_cut("x > 3", snapshot.schema))
    assert len(rows) == N - 4
    rows.numbers(0, 1)
    looked_at = []
    original = bits.rows_of_runs
    monkeypatch.setattr(bits, "rows_of_runs", lambda p, *args: (looked_at.append(len(p)), original(p, *args))[1])
    assert rows.numbers(100, 103).tolist() == [104, 105, 106]
    assert sum(looked_at) < 12
    order = np.array([5, 200, 5, 0, -1])
    assert rows.numbers_of(order).tolist() == [9, 204, 9, 4, N - 1]
    assert sum(looked_at) < 30
