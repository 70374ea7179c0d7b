"""Rows that are filled in any order, from several processes."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import pickle
import resource
import subprocess
import sys
import tempfile
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cloudpickle
import dask.array as da
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from worker_tasks import fill

import mmdask as mm
from mmdask.rows.reading.reader import read, take
from mmdask.sources.writing import allocated as allocated_module
from mmdask.store.arrays import npy, region
from mmdask.store.arrays.npy import HEADER
from mmdask.store.layer import new_id
from mmdask.store.layer_writer import LayerWriter
from mmdask.store.manifest import Manifest, Part
from mmdask.store.snapshot import Snapshot, open_snapshot
from mmdask.store.system import System


def values(path, name):
    snapshot = open_snapshot(path)
    return read(snapshot, name, 0, snapshot.rows).values


def test_rows_in_any_order(tmp_path):
    with mm.create(tmp_path / "s.mm") as w:
        a = w.allocate("image", 5, shape=(2, 3), dtype="f4")
        assert (a.shape, a.dtype, len(a)) == ((5, 2, 3), np.dtype("f4"), 5)
        assert repr(a) == "<Allocated 'image': 5 rows of float32 (2, 3)>"
        a[4] = np.arange(6).reshape(2, 3)
        a[:2, 0] = 7
        a[[3, 2], ..., 1] = [[1.5, 2.5], [3.5, 4.5]]
        a[np.array([0, 0, 0, 0, 1], bool), 1, ::-2] = np.array([8, 9], "i8")
        expected = np.zeros((5, 2, 3), "f4")
        expected[4] = np.arange(6).reshape(2, 3)
        expected[:2, 0] = 7
        expected[[3, 2], ..., 1] = [[1.5, 2.5], [3.5, 4.5]]
        expected[4, 1, ::-2] = [8, 9]
        np.testing.assert_array_equal(a[:], expected)
        assert a[4, 1, 2] == 8
        assert isinstance(a[4, 1, 2], np.float32)
        a[0][...] = 3  # a copy, as the docstring says
    np.testing.assert_array_equal(values(tmp_path / "s.mm", "image"), expected)
    assert mm.verify(tmp_path / "s.mm").ok
    [file] = tmp_path.glob("s.mm/parts/*/0-image.npy")
    np.testing.assert_array_equal(np.load(file), expected)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(-100, 100)), max_size=20))
def test_assignments_in_any_order_are_those_of_numpy(memory_folder, steps):
    path = Path(tempfile.mkdtemp(dir=memory_folder)) / "s.mm"
    expected = np.zeros((30, 2), "i2")
    with mm.create(path) as w:
        a = w.allocate("x", 30, shape=(2,), dtype="i2")
        for start, stop, value in steps:
            a[start:stop:2] = value
            expected[start:stop:2] = value
    np.testing.assert_array_equal(values(path, "x"), expected)
    assert mm.verify(path).ok


@pytest.mark.parametrize(
    ("dtype", "value", "stored"),
    [
        ("f4", 0.1, np.float32(0.1)),
        ("f4", [0.1, 0.2, 0.3], np.array([0.1, 0.2, 0.3], "f4")),
        ("f4", np.arange(3), [0, 1, 2]),
        ("i2", 3, 3),
        ("i2", np.array([1, 2, 3], "u8"), [1, 2, 3]),
        ("u8", 2**64 - 1, 2**64 - 1),
        ("c8", [1j, 2, 0.5], [1j, 2, 0.5]),
        ("?", True, True),
        ("M8[s]", np.datetime64("2020-01-01"), np.datetime64("2020-01-01", "s")),
        ("S3", b"ab", b"ab"),
        ("f8", np.array([[1.0], [2.0], [3.0]])[:, 0], [1, 2, 3]),
        ("f4", np.float32(0.5), 0.5),
        ("i4", np.array(5), 5),
        ("f4", [[[1.0, 2.0, 3.0]]], [1, 2, 3]),
    ],
)
def test_values_are_converted_as_everywhere(tmp_path, dtype, value, stored):
    with mm.create(tmp_path / "s.mm") as w:
        w.allocate("x", 3, dtype=dtype)[:] = value
    np.testing.assert_array_equal(values(tmp_path / "s.mm", "x"), np.broadcast_to(np.array(stored, dtype), 3))


@pytest.mark.parametrize(
    ("dtype", "value", "words"),
    [
        ("f4", np.float64(0.1) * np.ones(3), "fit exactly"),
        ("f4", 2**24 + 1, "would become|fit exactly"),
        ("i2", 0.5, "fit exactly"),
        ("i2", 2**15, "fit exactly"),
        ("i2", np.array([1.5, 2, 3]), "fit exactly"),
        ("f8", [2**53 + 1, 0.5, 1], "would become|fit exactly"),
        ("f4", "text", "text"),
        ("f4", None, "missing|None"),
        ("f4", [1.0, None, 2.0], "missing|None"),
        ("f4", np.ma.masked_array([1.0, 2, 3], [True, False, False]), "missing|mask"),
        ("f4", [1.0, 2.0], r"shape \(2,\) for rows of shape \(3,\)"),
        ("f4", np.ones((2, 3)), r"shape \(2, 3\) for rows of shape \(3,\)"),
        ("f4", [[1.0], [1.0, 2.0]], "no array|shape"),
        ("M8[s]", np.datetime64("2020-01-01T00:00:00.5"), "fit exactly"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_the_block_alive(tmp_path, dtype, value, words):
    with mm.create(tmp_path / "s.mm") as w:
        a = w.allocate("x", 3, dtype=dtype)
        with pytest.raises(mm.SchemaError, match=words):
            a[:] = value
        with pytest.raises(mm.RowNotFoundError, match="out of range"):
            a[3] = 0
        with pytest.raises(mm.OptionError, match="an index is made of"):
            a["x"] = 0
    assert not values(tmp_path / "s.mm", "x").view("u1").any()


def test_other_fields_of_the_part_are_given_as_always(tmp_path):
    path = tmp_path / "s.mm"
    with mm.create(path, labels={"process": "ttbb"}) as w:
        a = w.allocate("image", 4, shape=(2,), dtype="u1")
        b = w.allocate("mask", 4, dtype="?")
        w.extend({"name": ["a", "b"], "hits": [[1], []]})
        a[:2] = 1
        w.append({"name": "c", "hits": [2, 3]})
        w.append({"name": "d", "hits": []})
        a[3] = 9  # the part has all its rows, and goes on until rows of another one begin
        b[1] = True
        w.append({"name": "e", "hits": [4], "image": [5, 5], "mask": True})
        with pytest.raises(mm.OptionError, match="can no longer be filled"):
            a[0] = 1
        with pytest.raises(mm.OptionError, match="can no longer be filled"):
            a[0]
    ds = mm.open(path)
    assert [p.rows for p in open_snapshot(path).parts] == [4, 1]
    assert ds["image"].compute().tolist() == [[1, 1], [1, 1], [0, 0], [9, 9], [5, 5]]
    assert ds["mask"].compute().tolist() == [False, True, False, False, True]
    assert ds["hits"].compute().to_list() == [[1], [], [2, 3], [], [4]]
    assert [ds[i]["name"] for i in range(5)] == list("abcde")
    assert {ds[i]["process"] for i in range(5)} == {"ttbb"}
    assert mm.verify(path).ok


def test_parts_follow_each_other(tmp_path):
    path = tmp_path / "s.mm"
    with mm.create(path) as w:
        w.allocate("x", 2, dtype="i4")[:] = 1
        w.allocate("x", 2, dtype="i4")[:] = 2  # the same name: another part
        w.allocate("x", 3)[:] = 3  # other rows, and the field is known
        w.extend({"x": [4]})
        w.append({"x": 5})
        w.allocate("x", 0)
        w.allocate("x", 1)[0] = 6
        w.append({"x": 7})
    assert values(path, "x").tolist() == [1, 1, 2, 2, 3, 3, 3, 4, 5, 6, 7]
    assert [p.rows for p in open_snapshot(path).parts] == [2, 2, 3, 2, 1, 1]


def test_fields_of_the_store_are_known(tmp_path):
    path = tmp_path / "s.mm"
    fields = [mm.Field.dense("image", "f4", (2, 2), unit="GeV"), mm.Field.ragged("hits", "i4"), mm.Field.category("c")]
    with mm.create(path, fields=fields) as w:
        a = w.allocate("image", 2)
        assert a.shape == (2, 2, 2)
        w.extend({"hits": [[1], [2]], "c": ["a", "b"]})
    with mm.append(path, labels={"c": "z"}) as w:
        a = w.allocate("image", 1, shape=(2, 2), dtype=">f4")
        w.append({"hits": [3]})
        a[0] = 1
        for name, kwargs, words in [
            ("hits", {}, "ragged int32; only rows of dense"),
            ("image", {"dtype": "f8"}, r"float32 \(2, 2\), not float64"),
            ("image", {"shape": (3,)}, r"not float32 \(3,\)"),
            ("imag", {"dtype": "f4"}, "did you mean 'image'"),
            ("c", {}, "label"),
        ]:
            with pytest.raises(mm.SchemaError, match=words):
                w.allocate(name, 1, **kwargs)
        for rows in (-1, 1.5, None, True, "3"):
            with pytest.raises(mm.OptionError, match="how many"):
                w.allocate("image", rows)
        for shape in (3, "3", (1.5,), None):
            with pytest.raises(mm.OptionError, match="a tuple of the lengths"):
                w.allocate("image", 1, shape=shape)
        with pytest.raises(mm.SchemaError, match="any disk"):
            w.allocate("image", 2**60)
    ds = mm.open(path)
    assert ds.schema["image"].unit == "GeV"
    assert ds["image"].compute()[:, 0, 0].tolist() == [0, 0, 1]
    with mm.create(tmp_path / "t.mm") as w:
        with pytest.raises(mm.OptionError, match="say what it is"):
            w.allocate("x", 1)
        with pytest.raises(mm.SchemaError, match="cannot be stored"):
            w.allocate("x", 1, dtype="O")
        w.append({"x": 1})


def test_a_part_that_lacks_rows_cannot_end(tmp_path):
    path = tmp_path / "s.mm"
    fields = [mm.Field.dense("x", "i4"), mm.Field.dense("y", "i4")]
    with mm.create(path, fields=fields) as w:
        a = w.allocate("x", 3)
        words = "3 allocated rows of 'x' end here, and there are 1 rows of 'y'"
        w.append({"y": 1})
        for end in (w.checkpoint, lambda: w.allocate("x", 3), lambda: w.allocate("y", 3)):
            with pytest.raises(mm.SchemaError, match=words):
                end()
        with pytest.raises(mm.SchemaError, match="'x' is allocated .* give nothing but 'y'"):
            w.append({"x": 1, "y": 2})
        with pytest.raises(mm.SchemaError, match="3 rows for a part of 3 allocated rows, of which 2 are left"):
            w.extend({"y": [1, 2, 3]})
        a[:] = 5
        w.extend({"y": [2, 3]})
        assert w.checkpoint() == 1
    assert values(path, "x").tolist() == [5, 5, 5]
    assert values(path, "y").tolist() == [1, 2, 3]
    words = "2 allocated rows of 'x' end here, and there are 0 rows of 'y'"
    with pytest.raises(mm.SchemaError, match=words) as caught, mm.append(path) as w:
        w.allocate("x", 2)
    assert caught.value.__notes__ == [f"nothing of this block was committed to {path}"]
    assert len(mm.open(path)) == 3
    assert len(os.listdir(path / "parts")) == 1


def test_after_the_block_nothing_changes(tmp_path):
    path = tmp_path / "s.mm"
    with mm.create(path) as w:
        a = w.allocate("x", 3, dtype="i4")
        a[:] = 1
        w.checkpoint()
        with pytest.raises(mm.OptionError, match="can no longer be filled: the block of their writer has ended, or"):
            a[0] = 2
    for copy in (a, pickle.loads(pickle.dumps(a))):
        with pytest.raises(mm.OptionError, match="can no longer be filled"):
            copy[0] = 2
    with pytest.raises(ZeroDivisionError), mm.append(path) as w:
        a = w.allocate("x", 3)
        raise ZeroDivisionError
    with pytest.raises(mm.OptionError, match="can no longer be filled"):
        a[0] = 2
    assert mm.verify(path).ok
    assert values(path, "x").tolist() == [1, 1, 1]


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_filled_by_several_processes(tmp_path, method):
    path = tmp_path / "s.mm"
    n, workers = 1001, 3
    context = multiprocessing.get_context(method)
    with mm.create(path) as w:
        a = w.allocate("x", n, shape=(2,), dtype="u2")
        assert len(pickle.dumps(a)) < 1000
        children = [context.Process(target=fill, args=(a, i, workers)) for i in range(workers)]
        for child in children:
            child.start()
        for child in children:
            child.join()
            assert child.exitcode == 0
    expected = np.zeros((n, 2), "u2")
    for i in range(workers):
        fill(expected, i, workers)
    np.testing.assert_array_equal(values(path, "x"), expected)
    assert mm.verify(path).ok


def test_filled_by_a_process_that_only_has_the_pickle(tmp_path):
    """As loky and dask send it, to a process that started elsewhere."""
    with mm.create(tmp_path / "s.mm") as w:
        a = w.allocate("x", 3, dtype="f8")
        (tmp_path / "task").write_bytes(cloudpickle.dumps(lambda: a.__setitem__(slice(1, None), [1.5, 2.5])))
        script = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb'))(); assert 'dask' not in sys.modules"
        done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "task")], cwd="/", capture_output=True)
        assert (done.returncode, done.stderr) == (0, b"")
    assert values(tmp_path / "s.mm", "x").tolist() == [0, 1.5, 2.5]


def test_filled_by_threads_and_by_dask(tmp_path):
    x = np.arange(40_000.0).reshape(-1, 4)
    with mm.create(tmp_path / "s.mm") as w:
        a = w.allocate("x", len(x), shape=(4,), dtype="f8")
        b = w.allocate("y", len(x), shape=(4,), dtype="f8")
        da.store(da.from_array(x, chunks=(1000, 3)), a, lock=False)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda i: b.__setitem__(slice(i, None, 10), x[i::10]), range(10)))
    np.testing.assert_array_equal(values(tmp_path / "s.mm", "x"), x)
    np.testing.assert_array_equal(values(tmp_path / "s.mm", "y"), x)


def test_no_descriptor_is_kept(tmp_path):
    def descriptors():  # of the store: the process may open and close others at any time
        found = set()
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                found.add(os.readlink(f"/proc/self/fd/{fd}"))
        return {name for name in found if name.startswith(str(tmp_path))}

    with mm.create(tmp_path / "s.mm") as w:
        before = descriptors()
        arrays = [w.allocate(f"x{i}", 5, dtype="i4") for i in range(30)]
        for a in arrays:
            a[1] = 1
            with pytest.raises(mm.SchemaError):
                a[1] = 0.5
        assert descriptors() == before
    assert not descriptors()


class Full(System):
    """The disk is full after so many bytes of data."""

    def __init__(self, nbytes, error=errno.ENOSPC):
        self.left, self.error = nbytes, error

    def write(self, fd, data, offset):
        super().write(fd, data[: self.left], offset)
        if self.left < len(data):
            raise OSError(self.error, os.strerror(self.error))
        self.left -= len(data)


def test_a_full_disk_ends_the_block(tmp_path, monkeypatch):
    path = tmp_path / "s.mm"
    with mm.create(path) as w:
        w.extend({"x": [1]})
    with pytest.raises(mm.OptionError, match="No space left") as caught, mm.append(path) as w:
        a = w.allocate("x", 100)
        with monkeypatch.context() as patch:
            patch.setattr(region, "SYSTEM", Full(17))
            with pytest.raises(OSError, match="No space left"):
                a[:] = 7
        with pytest.raises(mm.OptionError, match="can no longer be filled"):
            a[:] = 7  # nobody tries again on what is half written
    assert caught.value.__notes__ == [f"nothing of this block was committed to {path}"]
    assert values(path, "x").tolist() == [1]
    assert len(os.listdir(path / "parts")) == 1


def fail_to_fill(a):
    region.SYSTEM = Full(3, errno.EIO)
    try:
        a[:] = 7
    except OSError:
        raise SystemExit(3) from None


def test_a_failure_in_another_process_ends_the_block(tmp_path):
    path = tmp_path / "s.mm"
    with pytest.raises(mm.ConflictError, match="an assignment to its rows failed"), mm.create(path) as w:
        a = w.allocate("x", 100, dtype="i4")
        child = multiprocessing.get_context("fork").Process(target=fail_to_fill, args=(a,))
        child.start()
        child.join()
        assert child.exitcode == 3
    assert not path.exists()


def test_a_limit_on_file_sizes_is_an_error_not_a_signal(tmp_path):
    script = textwrap.dedent("""
        import resource, sys, mmdask as mm
        with mm.create(sys.argv[1]) as w:
            w.allocate("x", 10, dtype="u1")
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
        try:
            with mm.append(sys.argv[1]) as w:
                w.allocate("x", 1 << 21)
        except OSError as error:
            print(error.strerror, error.__notes__)
        with mm.append(sys.argv[1]) as w:
            w.allocate("x", 5)[:] = 1
        print(len(mm.open(sys.argv[1])))
    """)
    path = tmp_path / "s.mm"
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"File too large ['nothing of this block was committed to {path}']\n15\n"
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_the_block_does_not_end_under_an_assignment(tmp_path, monkeypatch):
    """Another process is just writing when the block ends; and one that comes while the bytes are hashed waits."""
    path = tmp_path / "s.mm"
    with pytest.raises(mm.ConflictError, match="still assigning"), mm.create(path) as w:
        a = w.allocate("x", 100, dtype="i4")
        held = region.filling(a._path)
        held.__enter__()
    held.__exit__(None, None, None)
    assert not path.exists()

    original, errors, threads = npy.ArrayWriter._read_filled, [], []

    def late():
        try:
            a[0] = 1
        except mm.OptionError as error:
            errors.append(error)

    def read_filled(self, step):
        threads.append(threading.Thread(target=late))
        threads[0].start()
        threads[0].join(0.2)
        assert threads[0].is_alive()
        return original(self, step)

    monkeypatch.setattr(npy.ArrayWriter, "_read_filled", read_filled)
    with mm.create(path) as w:
        a = w.allocate("x", 100, dtype="i4")
    threads[0].join()
    assert len(errors) == 1
    assert values(path, "x").tolist() == [0] * 100
    assert mm.verify(path).ok


def test_an_interrupted_assignment_leaves_no_lock(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    with mm.create(tmp_path / "s.mm") as w:
        a = w.allocate("x", 3, dtype="i4")
        with monkeypatch.context() as patch:
            patch.setattr(allocated_module, "write_region", interrupt)
            with pytest.raises(KeyboardInterrupt):
                a[:] = 1
        a[:] = 2
    assert values(tmp_path / "s.mm", "x").tolist() == [2, 2, 2]


def test_more_than_2_to_the_31_items(memory_path):
    """A dense field of more than 2**31 rows, and a ragged one of more items: sparse files, looked at from both ends."""
    path = memory_path / "s.mm"
    n = 2**31 + 10
    with mm.create(path) as w:
        a = w.allocate("x", n, dtype="u1")
        a[-1], a[-12:-9] = 7, [1, 2, 3]
    ds = mm.open(path)
    assert len(ds) == n
    assert ds["x"][n - 13 :].compute().tolist() == [0, 1, 2, 3, *[0] * 8, 7]
    assert ds[n - 1]["x"] == 7
    snapshot = open_snapshot(path)
    assert snapshot.stored(0, "x")[0].rows_nbytes == n

    with LayerWriter(path, new_id()) as layer:
        field = layer.field(mm.Field.ragged("r", "u1"))
        field.values.close()
        field.values = npy.ArrayWriter(os.path.dirname(field.values.path), "9-r.npy", np.dtype("u1"), (), n)
        fd = os.open(field.values.path, os.O_RDWR)
        os.pwrite(fd, bytes([1, 2, 3]), HEADER + n - 3)
        os.close(fd)
        field.offsets[0].append(np.array([1, n - 2, n]))
        field.rows = 3
        stored = layer.finish()
    manifest = Manifest(os.urandom(16).hex(), 1, 1, mm.Schema([field.field]), (Part(3, (stored.id,), stored.nbytes),))
    snapshot = Snapshot(str(path), manifest)
    assert read(snapshot, "r", 2, 3).values.tolist() == [2, 3]
    first = read(snapshot, "r", 0, 2)
    assert first.counts.tolist() == [1, n - 3]
    assert first.values[-1] == 1
    assert take(snapshot, "r", np.array([2, 0])).values.tolist() == [2, 3, 0]
