"""Rows that are filled in any order and stored as zarr arrays: in a scratch file until their block ends."""

from __future__ import annotations

import fcntl
import itertools
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import textwrap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worker_tasks import fill

import mmdask as mm
from mmdask.store.arrays.npy import EXTENT
from mmdask.store.layer import read_layer
from mmdask.store.snapshot import open_snapshot
from mmdask.store.storage import storage_of
from mmdask.store.storage.scratch import Scratch
from mmdask.store.zarr import scratch as zarr_scratch
from mmdask.store.zarr.form import rounded
from tests.store.s3_server import s3_server

FINE = mm.Zarr(chunk_rows=4, shards=2)
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def bucket():
    with s3_server() as url:
        yield url


@pytest.fixture(params=["zarr", "memory", "s3"])
def place(request, tmp_path):
    if request.param == "zarr":
        return str(tmp_path / f"filled-{next(NUMBERS)}.mm")
    above = request.getfixturevalue("bucket") if request.param == "s3" else "memory://filled"
    return f"{above}/filled-{next(NUMBERS)}.mm"


@pytest.fixture(autouse=True)
def scratch(monkeypatch, tmp_path_factory):
    """The temporary folder of the system, in which nothing stays."""
    folder = tmp_path_factory.mktemp("scratch")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


def held(path):
    """What is kept of the values of each field, in each layer."""
    snapshot = open_snapshot(path)
    return [
        {name: stored.bounds for name, stored in read_layer(path, layer).fields.items()}
        for part in snapshot.parts
        for layer in part.layers
    ]


def test_the_same_as_in_plain_files(tmp_path, place):
    rng = np.random.default_rng(3)
    images, masks = rng.normal(size=(50, 3, 2)).astype("f4"), rng.random((50, 2)) < 0.5
    images[7, 1] = np.nan
    order = rng.permutation(50)
    for path, options in ((str(tmp_path / "plain.mm"), {}), (place, {"backend": FINE})):
        with mm.create(path, labels={"process": "ttbb"}, **options) as w:
            a = w.allocate("image", 50, shape=(3, 2), dtype="f4")
            b = w.allocate("mask", 50, shape=(2,), dtype="?")
            c = w.allocate("flat", 50, dtype="i8")
            w.extend({"hits": [[i] * (i % 3) for i in range(50)]})
            for i in order[:40]:
                a[i], b[i] = images[i], masks[i]
            c[::-2] = np.arange(25)
            assert a[order[0], 1].tolist() == images[order[0], 1].tolist()
            w.checkpoint()
            with pytest.raises(mm.OptionError, match="can no longer be filled"):
                a[0] = 1
            w.extend(
                {name: list(values) for name, values in {"image": images[:2], "mask": masks[:2]}.items()}
                | {"flat": [1, 2], "hits": [[], []]}
            )
    plain, ds = mm.open(tmp_path / "plain.mm"), mm.open(place)
    for name in ("image", "mask", "flat", "process"):
        assert np.asarray(ds[name].compute()).tobytes() == np.asarray(plain[name].compute()).tobytes(), name
    assert not ds["image"][order[40:]].compute().any(), "what nobody assigned to is zero"
    assert ds["hits"].to_list() == plain["hits"].to_list()
    assert held(place) == held(tmp_path / "plain.mm"), "cuts skip the same rows"
    report = mm.verify(place)
    assert report.ok
    assert not report.notes
    assert not list(tmp_path.rglob("*.fill")), "the file in which rows were filled is gone"


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(-100, 100)), max_size=12),
    st.sampled_from(["i2", "f8", "u1"]),
    st.sampled_from([(), (2,), (3, 1)]),
)
def test_assignments_in_any_order_are_those_of_numpy(steps, dtype, shape):
    path = f"memory://filled/any-{next(NUMBERS)}.mm"
    expected = np.zeros((30, *shape), dtype)
    with mm.create(path, backend=FINE) as w:
        a = w.allocate("x", 30, shape=shape, dtype=dtype)
        for start, stop, value in steps:
            a[start:stop:2] = abs(value)
            expected[start:stop:2] = abs(value)
    assert mm.open(path)["x"].compute().tobytes() == expected.tobytes()
    assert mm.verify(path).ok


def test_rows_without_bytes_and_no_rows(place):
    with mm.create(place, backend=FINE) as w:
        w.allocate("empty", 3, shape=(0, 2), dtype="f4")
        w.allocate("x", 3, dtype="i4")[:] = 5
        w.allocate("x", 0)
        w.extend({"empty": np.zeros((2, 0, 2), "f4"), "x": [7, 8]})
    ds = mm.open(place)
    assert ds["empty"].shape == (5, 0, 2)
    assert ds["x"].compute().tolist() == [5, 5, 5, 7, 8]
    assert mm.verify(place).ok


def test_what_is_rounded(tmp_path):
    values = np.random.default_rng(0).normal(size=(100, 3)).astype("f4")
    path = tmp_path / "s.mm"
    with mm.create(path, backend=mm.Zarr(keepbits=5)) as w:
        w.allocate("x", 100, shape=(3,), dtype="f4")[:] = values
    assert mm.open(path)["x"].compute().tobytes() == rounded(values, 5).tobytes()
    assert mm.verify(path).ok


def test_larger_than_a_piece(tmp_path):
    """Pieces that are read together end with rows, of 12 bytes and of 5 MiB."""
    n, wide = EXTENT // 12 + 1000, EXTENT // 4 + (1 << 18)
    with mm.create(tmp_path / "n.mm", backend="zarr") as w:
        w.allocate("x", n, shape=(3,), dtype="f4")[:, 1] = np.arange(n)
    with mm.create(tmp_path / "w.mm", backend="zarr") as w:
        y = w.allocate("y", 3, shape=(wide,), dtype="f4")
        y[1], y[2, -1] = 2, 3
    found = mm.open(tmp_path / "n.mm")["x"].compute()
    assert (found == np.arange(n)[:, None] * [0, 1, 0]).all()
    assert mm.open(tmp_path / "w.mm")["y"].compute().sum(axis=1).tolist() == [0, 2 * wide, 3]
    assert mm.verify(tmp_path / "n.mm").ok
    assert mm.verify(tmp_path / "w.mm").ok


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_filled_by_several_processes(place, method):
    if method == "fork" and place.startswith("s3"):
        pytest.skip("the threads of s3fs do not live on in a forked child")
    context = multiprocessing.get_context(method)
    with mm.create(place, backend=FINE) as w:
        a = w.allocate("x", 101, shape=(2,), dtype="i4")
        assert len(pickle.dumps(a)) < 2000
        children = [context.Process(target=fill, args=(a, i, 3)) for i in range(3)]
        for child in children:
            child.start()
        for child in children:
            child.join()
        assert [child.exitcode for child in children] == [0] * 3
    expected = np.zeros((101, 2), "i4")
    for i in range(3):
        fill(expected, i, 3)
    assert (mm.open(place)["x"].compute() == expected).all()


def fail_to_fill(a):
    from mmdask.store.system import System

    def fail(*args):
        raise OSError(28, "No space left on device")

    System.write = fail
    try:
        a[:] = 1
    except OSError:
        os._exit(3)


def test_an_assignment_that_fails_elsewhere_ends_the_block(place):
    with pytest.raises(mm.ConflictError, match="an assignment to its rows failed"), mm.create(place, backend=FINE) as w:
        a = w.allocate("x", 100, dtype="i4")
        child = multiprocessing.get_context("fork").Process(target=fail_to_fill, args=(a,))
        child.start()
        child.join()
        assert child.exitcode == 3
    with pytest.raises(mm.StoreNotFoundError):
        mm.open(place)
    assert storage_of(place).entries("parts") == []


def test_errors_leave_nothing(place, scratch):
    mm.from_arrays({"x": [1], "y": [2.0]}, place, backend=FINE)
    with pytest.raises(RuntimeError), mm.append(place) as w:
        w.allocate("x", 10)[3] = 7
        if not place.startswith("/"):
            assert len(list(scratch.glob("mmdask-scratch-*"))) == 1
        raise RuntimeError
    with mm.append(place) as w:
        w.allocate("x", 10)[:] = 7
        w.abort()
    with pytest.raises(mm.SchemaError, match="10 allocated rows"), mm.append(place) as w:
        w.allocate("x", 10)
        w.extend({"y": [1.0] * 3})
    assert mm.open(place)["x"].compute().tolist() == [1]
    assert len(storage_of(place).entries("parts")) == 1
    assert not mm.verify(place).notes


def test_a_scratch_file_that_somebody_removed(bucket):
    import shutil

    url = f"{bucket}/removed.mm"
    mm.from_arrays({"x": [1]}, url)
    with pytest.raises(mm.ConflictError, match="were removed"), mm.append(url) as w:
        a = w.allocate("x", 10)
        shutil.rmtree(os.path.dirname(a._path))
        with pytest.raises(mm.ConflictError, match="the files in which rows are filled were removed"):
            a[0] = 1
        with pytest.raises(mm.OptionError, match="rows of this block were lost"):
            w.extend({"x": [1]})
        raise w._failure
    with pytest.raises(mm.ConflictError, match="that were being filled were removed"), mm.append(url) as w:
        shutil.rmtree(os.path.dirname(w.allocate("x", 10)._path))
    assert mm.open(url)["x"].compute().tolist() == [1]


def test_what_a_killed_writer_left_is_removed_by_the_next(scratch, bucket):
    script = textwrap.dedent("""
        import os, signal, sys, mmdask as mm
        with mm.append(sys.argv[1]) as w:
            w.allocate("x", 10)[:] = 1
            print(flush=True)
            if sys.argv[2] == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            sys.stdin.read()
    """)
    url = f"{bucket}/killed.mm"
    mm.from_arrays({"x": [1]}, url)
    command = [sys.executable, "-c", script, url]
    assert subprocess.run([*command, "die"], check=False, capture_output=True).returncode == -signal.SIGKILL
    assert len(list(scratch.iterdir())) == 1
    with subprocess.Popen([*command, "live"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as living:
        living.stdout.readline()
        assert len(list(scratch.iterdir())) == 1, "that of the dead one is gone"
        with mm.append(url) as w:
            w.allocate("x", 10)[:] = 2
            assert len(list(scratch.iterdir())) == 2, "that of the living one is not"
        living.stdin.close()
    assert living.returncode == 0
    assert sorted(mm.open(url)["x"].compute().tolist()) == [1] * 11 + [2] * 10


def test_a_scratch_folder_that_is_taken_for_that_of_a_dead_writer(scratch, monkeypatch):
    """Another writer comes before it is locked, and removes it: there is another one."""
    original, others = fcntl.flock, []

    def flock(fd, operation):
        if not others:
            others.append(None)
            others[0] = Scratch()
            assert [str(folder) for folder in scratch.iterdir()] == [others[0].folder]
        original(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    mine = Scratch()
    assert sorted(map(str, scratch.iterdir())) == sorted([mine.folder, others[0].folder])
    mine.remove()
    others[0].remove()


def test_memory_is_bounded(tmp_path):
    """192 MiB that do not compress, filled and encoded, take some 16 MiB objects at most."""
    script = textwrap.dedent("""
        import sys, numpy as np, mmdask as mm
        def peak():  # ru_maxrss would begin with what the parent process had
            lines = open("/proc/self/status").read().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
        piece = np.random.default_rng(0).integers(0, 256, (64, 64, 1024), "u1")
        with mm.create(sys.argv[1], backend=mm.Zarr(shards=64)) as w:
            w.allocate("x", 1, shape=(64, 1024), dtype="u1")[:] = 1
        with mm.append(sys.argv[1]) as w:
            a = w.allocate("x", 3072)
            for i in range(0, 3072, 64):
                a[i : i + 64] = piece
            before = peak()
        print(peak() - before)
    """)
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "s.mm")], check=True, capture_output=True)
    assert float(done.stdout) < 120
    assert sum(f.stat().st_size for f in tmp_path.rglob("c/*/*/*")) > 190 << 20


# Chunks that wait -----------------------------------------------------------------------------------------------------


def test_chunks_of_many_fields_wait_in_a_file(place, monkeypatch):
    """Those of all fields together, while none has an object complete."""
    monkeypatch.setattr(zarr_scratch, "_WAITING_NBYTES", 1000)
    monkeypatch.setattr(zarr_scratch.Spool, "keep", kept := Counted(zarr_scratch.Spool.keep))
    rng = np.random.default_rng(0)
    data = {f"x{i}": rng.normal(size=500) for i in range(7)}
    data["name"] = [f"n{i % 300}" for i in range(500)]  # categories grow to two bytes: read back and written again
    fields = [mm.Field.category("name")]
    with mm.create(place, fields=fields, backend=mm.Zarr(chunk_rows=16, shards=8)) as w:
        for start in range(0, 500, 50):
            w.extend({name: values[start : start + 50] for name, values in data.items()})
    assert {type(found) for found in kept.found} == {bytes, tuple}
    ds = mm.open(place)
    for name, values in data.items():
        assert list(ds[name].compute()) == list(values)
    assert mm.verify(place).ok


class Counted:
    """A method whose results are kept."""

    def __init__(self, original):
        self.original, self.found = original, []

    def __get__(self, instance, _):
        def call(*args):
            self.found.append(self.original(instance, *args))
            return self.found[-1]

        return call
