"""How bytes come in: mapped or read, which of both, and that nothing is held beyond its bounds. Counts, never times."""

from __future__ import annotations

import errno
import gc
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
import types
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

import mmdask as mm
from mmdask.rows.reading import marks, reader, spans
from mmdask.rows.reading.picker import Picker
from mmdask.rows.rows import Rows
from mmdask.store.arrays import files, place
from mmdask.store.arrays import held as arrays
from mmdask.store.arrays.held import DESCRIPTORS, MAPS, SMALL
from mmdask.store.snapshot import Snapshot, open_snapshot

ROWS = 40_000
WIDTH = 16  # int32: rows of 64 bytes


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Two parts of rows that hold their numbers: dense, and ragged with row i % 3 long."""
    path = tmp_path_factory.mktemp("io") / "s.mm"
    for base in (0, ROWS):
        numbers = np.arange(base, base + ROWS, dtype="i4")
        counts = np.arange(base, base + ROWS) % 3
        ragged = np.repeat(numbers, counts)
        import awkward as ak

        with mm.create(path) if not base else mm.append(path) as w:
            w.extend({"x": np.repeat(numbers[:, None], WIDTH, axis=1), "r": ak.unflatten(ragged, counts)})
    return path


@pytest.fixture(autouse=True)
def nothing_cached():
    for cache in (MAPS, SMALL, DESCRIPTORS):
        cache.clear()
    yield
    for cache in (MAPS, SMALL, DESCRIPTORS):
        cache.clear()


@pytest.fixture
def reads(monkeypatch):
    """Plain reads of arrays: offset within the data and bytes of each."""
    seen = []
    original = arrays.read_into

    def counting(fd, out, offset):
        seen.append((offset - 4096, out.nbytes))
        return original(fd, out, offset)

    monkeypatch.setattr(arrays, "read_into", counting)
    return seen


def fresh(path, io="pread"):
    """A snapshot that has read nothing yet."""
    return Snapshot(str(path), open_snapshot(path).manifest, io)


def mapped(path):
    return sum(str(path) in line for line in Path("/proc/self/maps").read_text().splitlines())


def descriptors(path):
    """Descriptors of this process that lead into a store."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:
            continue  # that of the listing itself
    return sum(str(path) in target for target in found)


# What is read -------------------------------------------------------------------------------------------------------


def test_a_run_reads_its_own_bytes_and_maps_nothing(path, reads):
    snapshot = fresh(path)
    assert not snapshot.addressable
    data = reader.read(snapshot, "x", 1000, 1010)
    assert data.values[:, 0].tolist() == list(range(1000, 1010))
    assert reads == [(1000 * 64, 10 * 64)]
    reads.clear()
    assert reader.read(snapshot, "r", 1000, 1003).values.tolist() == [1000, 1001, 1001]
    first = sum(i % 3 for i in range(1000))
    assert reads == [(8000, 8 * 4), (4 * first, 4 * 3)]
    reads.clear()
    data = reader.read(snapshot, "x", ROWS - 2, ROWS + 3)
    assert data.values[:, 5].tolist() == list(range(ROWS - 2, ROWS + 3))
    assert reads == [((ROWS - 2) * 64, 128), (0, 192)]
    reads.clear()
    assert len(reader.read(snapshot, "x", 5, 5)) == 0
    assert reads == []
    assert mapped(path) == 0


def test_rows_in_any_order_read_spans_with_gaps_of_up_to_64_kib(path, reads):
    snapshot = fresh(path)
    gap = spans.GAP_NBYTES // 64
    rows = np.array([ROWS + 5, 30_000, 7, 30_000 + gap + 1, 20_000, 7 + gap + 2, 7])
    assert reader.take(snapshot, "x", rows).values[:, 3].tolist() == rows.tolist()
    ends = [(7, 8), (7 + gap + 2, 7 + gap + 3), (20_000, 20_001), (30_000, 30_000 + gap + 2), (5, 6)]
    assert reads == [(a * 64, (b - a) * 64) for a, b in ends]
    reads.clear()
    assert marks.counts(snapshot, "r", np.array([10, 0, 39_000])).tolist() == [1, 0, 0]
    assert reads == [(0, 12 * 8), (39_000 * 8, 16)], "offsets only"
    reads.clear()
    assert marks.item_count(snapshot, "r", 3, 30_000) == sum(i % 3 for i in range(3, 30_000))
    assert reads == [(24, 8), (240_000, 8)]
    reads.clear()
    assert Picker(snapshot, "r")(20_000).tolist() == [20_000] * (20_000 % 3)
    assert [n for _, n in reads] == [16, 4 * (20_000 % 3)]
    assert mapped(path) == 0


def test_less_is_read_along_of_what_is_in_memory(path, reads, monkeypatch):
    monkeypatch.setattr(arrays, "MANY_RUNS", 1 << 30)
    rows = np.arange(0, ROWS, 130)[::-1].copy()  # 8,320 bytes apart
    snapshot = fresh(path)
    reader.read(snapshot, "x", 0, ROWS)
    for known, n in ((True, len(rows)), (False, 1)):
        with monkeypatch.context() as patch:  # file systems in memory do not tell
            patch.setattr(arrays, "is_in_memory", lambda *_, known=known: known)
            reads.clear()
            assert reader.take(snapshot, "x", rows).values[:, 3].tolist() == rows.tolist()
            assert len(reads) == n
    monkeypatch.setattr(arrays, "is_in_memory", lambda *_: True)
    reads.clear()
    assert reader.take(snapshot, "x", rows[:64]).values[:, 3].tolist() == rows[:64].tolist()
    assert len(reads) == 1, "it is not worth to look"


def test_many_reads_are_made_by_one_loop_and_told_by_plain_ones(path, reads, monkeypatch):
    monkeypatch.setattr(arrays, "is_in_memory", lambda *_: True)  # file systems in memory do not tell
    rows = np.arange(0, ROWS, 130)
    snapshot = fresh(path)
    reader.read(snapshot, "x", 0, ROWS)
    reads.clear()
    assert reader.take(snapshot, "x", rows).values[:, 3].tolist() == rows.tolist()
    assert not reads
    monkeypatch.setattr(arrays, "read_runs", lambda *_: False)
    assert reader.take(snapshot, "x", rows).values[:, 3].tolist() == rows.tolist()
    assert len(reads) == len(rows)
    assert {n for _, n in reads} == {64}


def test_what_is_read_along_is_bounded(path, reads, monkeypatch):
    monkeypatch.setattr(spans, "SPAN_NBYTES", 1 << 16)
    rows = np.arange(0, 2 * ROWS, 100)
    assert reader.take(fresh(path), "x", rows[::-1].copy()).values[:, 0].tolist() == rows[::-1].tolist()
    assert max(n for _, n in reads) <= 1 << 16
    assert sum(n for _, n in reads) <= 2 * ROWS * 64


def test_spans_are_pure_arithmetic():
    from hypothesis import given
    from hypothesis import strategies as st

    lengths = st.lists(st.integers(0, 40), min_size=1, max_size=6)

    @given(lengths, st.data(), st.sampled_from([0, 1, 30, 1000, 1 << 16]), st.integers(1, 200), st.integers(1, 9))
    def check(lengths, data, gap, most, together):
        starts = np.concatenate([[0], np.cumsum(lengths)])
        n = int(starts[-1])
        rows = np.array(data.draw(st.lists(st.integers(0, n - 1), max_size=30)) if n else [], np.int64)
        nbytes = data.draw(st.sampled_from([0.0, 1.0, 2.5, 64.0]))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(spans, "GAP_NBYTES", gap)
            patch.setattr(spans, "SPAN_NBYTES", most)
            patch.setattr(spans, "MOST_SPANS", together)
            found, where = spans.spans_of(starts, rows, lambda _: nbytes)
        wanted = []
        for s in found:
            read = [np.arange(a, b) for a, b in zip(s.starts, s.stops, strict=True)]
            wanted += (starts[s.part] + np.concatenate(read)[s.wanted]).tolist()
            assert len(read) <= together
            assert sum(map(len, read[1:])) * nbytes < most, "twice that with the first, which has as much at most"
            each = np.split(s.wanted, np.searchsorted(s.wanted, np.cumsum([len(r) for r in read]))[:-1])
            for run, some in zip(read, each, strict=True):
                assert 0 <= run[0] <= run[-1] < lengths[s.part]
                assert some[-1] - some[0] == len(run) - 1, "no more is read than between the first and the last"
                assert len(run) * nbytes <= max(most, nbytes)
                assert ((np.diff(some) - 1) * nbytes <= gap).all()
        assert wanted == sorted(set(rows.tolist()))
        assert [wanted[i] for i in where.tolist()] == rows.tolist()

    check()


def test_small_files_are_read_once_and_whole(tmp_path, reads):
    mm.from_arrays({"small": np.arange(8192), "large": np.arange(8192.0).astype("c16")}, tmp_path / "s.mm")
    snapshot = fresh(tmp_path / "s.mm")
    for _ in range(2):
        for name in ("small", "large"):
            assert reader.read(snapshot, name, 5, 8).values.tolist() == [5, 6, 7]
    assert reads == [(0, 65536), (80, 48), (80, 48)]


def test_arrays_that_are_read_are_read_only_as_mapped_ones_are(path):
    for io in ("mmap", "pread"):
        data = reader.read(fresh(path, io), "r", 7, 20)
        assert not data.values.flags.writeable
        assert reader.take(fresh(path, io), "x", np.array([5])).values.flags.writeable


def test_a_selection_reads_the_same_either_way(path):
    from mmdask.expr import check_cut

    found = []
    for io in ("mmap", "pread"):
        rows = Rows(fresh(path, io))
        rows = rows.cut(check_cut("len(r) == 2 & any(r > 100)", rows.schema))
        numbers = rows.numbers(0, len(rows))[::7]
        assert len(numbers) > 3000
        assert set((numbers % 3).tolist()) == {2}
        found.append(
            [rows.take("x", numbers).values, *rows.take_padded("r", numbers, 3, -1), rows.counts("r", numbers)]
        )
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_whole_arrays_are_for_maps_alone(path):
    snapshot = fresh(path)
    layer, stored = snapshot.stored(0, "x")
    with pytest.raises(mm.OptionError, match="io='mmap' does"):
        snapshot.array(layer, stored.values)
    assert fresh(path, "mmap").array(layer, stored.values).shape == (ROWS, WIDTH)


def test_reads_that_the_system_cuts_short_go_on(path, monkeypatch):
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, views, offset: preadv(fd, [views[0][:1000]], offset))
    assert reader.read(fresh(path), "x", 3, 503).values[:, 9].tolist() == list(range(3, 503))


def test_only_read_is_needed_of_a_way_to_read(path):
    """What a backend without maps has to bring along."""

    class Elsewhere:
        def __init__(self, inner):
            self.inner = inner

        def read(self, layer, number, start, stop):
            return self.inner.read(layer, number, start, stop).copy()

    snapshot = fresh(path, "mmap")
    snapshot.__dict__["_arrays"] = Elsewhere(snapshot._arrays)
    assert not snapshot.addressable
    rows = np.array([5, 70_000, 5])
    assert reader.take(snapshot, "r", rows).values.tolist() == [5, 5, 70_000, 5, 5]
    assert reader.take_padded(snapshot, "r", rows, 1, 0)[0].tolist() == [[5], [70_000], [5]]


# Which way ----------------------------------------------------------------------------------------------------------


def mounts(tmp_path, monkeypatch, path, kind, other="1:1"):
    """A table of mounts in which a path lies on a file system of some type."""
    device = os.stat(path).st_dev
    lines = [
        f"22 27 {other} / /elsewhere rw,relatime shared:5 - nfs4 server:/ rw",
        f"27 1 {os.major(device)}:{os.minor(device)} / / rw,relatime shared:1 master:2 - {kind} /dev/x rw,discard",
        "30 1 nonsense",
    ]
    (tmp_path / "mountinfo").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(place, "MOUNTS", str(tmp_path / "mountinfo"))


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        *((k, "pread") for k in ("nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "afs", "ceph", "9p")),
        *((k, "pread") for k in ("fuse.sshfs", "fuse.eosxd")),
        *((k, "mmap") for k in ("ext4", "xfs", "btrfs", "tmpfs", "overlay", "fuse", "fuse.fuse-overlayfs", "new\xe9")),
    ],
)
def test_auto_reads_on_network_file_systems(path, tmp_path, monkeypatch, kind, way):
    mounts(tmp_path, monkeypatch, path, kind)
    assert fresh(path, "auto").addressable == (way == "mmap")
    assert fresh(path, "mmap").addressable
    assert not fresh(path, "pread").addressable


def test_auto_maps_where_the_file_system_is_unknown(path, tmp_path, monkeypatch):
    monkeypatch.setattr(place, "MOUNTS", str(tmp_path / "not there"))
    assert fresh(path, "auto").addressable
    (tmp_path / "mountinfo").write_bytes(b"\xff\xfe - \n- nfs\n1 2 3\n")
    monkeypatch.setattr(place, "MOUNTS", str(tmp_path / "mountinfo"))
    assert fresh(path, "auto").addressable
    assert place.file_system(str(tmp_path / "gone")) == ""


def test_this_machine_tells_its_file_systems():
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    kinds = {line.split(" - ")[1].split()[0] for line in lines}
    assert place.file_system("/proc") == "proc"
    assert place.file_system("/") in {*kinds, ""}


@pytest.mark.parametrize(
    ("status", "worker"),
    [
        ("running", True),
        ("init", True),
        ("paused", True),
        ("closing_gracefully", True),
        ("closed", False),
        (None, False),
    ],
)
def test_auto_reads_where_a_dask_worker_runs(path, monkeypatch, status, worker):
    """A client has the module, too; only a worker that lives makes the process one."""

    class Worker:
        _instances: ClassVar = set()

    class Instance:
        pass

    instance = Instance()
    if status is not None:
        instance.status = types.SimpleNamespace(name=status)
    Worker._instances.add(instance)
    monkeypatch.setitem(sys.modules, "distributed.worker", types.SimpleNamespace(Worker=Worker))
    assert fresh(path, "auto").addressable == (not worker)
    assert fresh(path, "mmap").addressable
    Worker._instances.clear()
    assert fresh(path, "auto").addressable


def test_a_module_of_another_make_is_no_worker(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed.worker", types.ModuleType("distributed.worker"))
    assert not place.in_worker()


def test_the_way_is_chosen_with_the_first_array(path, tmp_path, monkeypatch):
    snapshot = fresh(path, "auto")
    assert len(Rows(snapshot)) == 2 * ROWS
    mounts(tmp_path, monkeypatch, path, "nfs")
    assert reader.read(snapshot, "x", 0, 1).values[0, 0] == 0
    assert not snapshot.addressable
    mounts(tmp_path, monkeypatch, path, "ext4")
    assert not snapshot.addressable, "and kept"


@pytest.mark.parametrize("io", ["read", "", None, 1, "MMAP"])
def test_other_ways_are_refused(path, io):
    with pytest.raises(mm.OptionError, match="'auto', 'mmap' or 'pread'"):
        open_snapshot(path, io=io)


def test_a_reference_carries_the_choice_and_no_data(path):
    for io in ("auto", "mmap", "pread"):
        snapshot = open_snapshot(path, io=io)
        reader.read(snapshot, "x", 0, 10)
        raw = pickle.dumps(Rows(snapshot))
        assert len(raw) < 2000
        back = pickle.loads(raw).snapshot
        assert back is snapshot
        assert back.io == io
    code = f"""
import pickle
rows = pickle.loads({pickle.dumps(Rows(open_snapshot(path, io="pread")))!r})
assert rows.read("x", 50, 51).values[0, 0] == 50
assert not rows.snapshot.addressable
assert {str(path)!r} not in open("/proc/self/maps").read()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_worker_of_a_cluster_maps_nothing_and_its_client_does(path):
    distributed = pytest.importorskip("distributed")

    def look(rows):
        read = rows.read("x", 10, 12).values[:, 0].tolist()
        return read, rows.snapshot.addressable, str(rows.snapshot.path) in Path("/proc/self/maps").read_text()

    rows = Rows(open_snapshot(path))
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):
        assert client.submit(look, rows).result() == ([10, 11], False, False)
        assert look(Rows(fresh(path, "auto"))) == ([10, 11], True, True)


# What is held -------------------------------------------------------------------------------------------------------


@pytest.fixture
def many(tmp_path):
    """A store of 40 arrays, each too large to be read whole when nothing is small."""
    mm.from_arrays({f"f{i}": np.arange(i, i + 100) for i in range(40)}, tmp_path / "many.mm")
    return tmp_path / "many.mm"


@pytest.fixture
def nothing_is_small(monkeypatch):
    monkeypatch.setattr(arrays, "SMALL_NBYTES", -1)


def test_descriptors_are_bounded_and_closed(many, nothing_is_small, monkeypatch):
    monkeypatch.setattr(DESCRIPTORS, "limit", 7)
    snapshot = fresh(many)
    for _ in range(3):
        for i in range(40):
            assert reader.read(snapshot, f"f{i}", 3, 5).values.tolist() == [i + 3, i + 4]
            assert descriptors(many) <= 7
    assert descriptors(many) == 7
    DESCRIPTORS.clear()
    assert descriptors(many) == 0


def test_one_descriptor_serves_many_reads(many, nothing_is_small, monkeypatch):
    opened = []
    original = arrays.open_file
    monkeypatch.setattr(arrays, "open_file", lambda *names: (opened.append(names), original(*names))[1])
    snapshot = fresh(many)
    for i in range(20):
        reader.read(snapshot, "f3", i, i + 2)
    assert len(opened) == 1
    reader.read(fresh(many), "f3", 0, 2)
    assert len(opened) == 1, "of whatever refers to the same store"


def test_maps_are_bounded(many, nothing_is_small, monkeypatch):
    monkeypatch.setattr(MAPS, "limit", 9)
    snapshot = fresh(many, "mmap")
    held = [reader.read(snapshot, f"f{i}", 0, 2).values for i in range(40)]
    assert mapped(many) == 40, "what is held stays"
    held.clear()
    gc.collect()
    assert mapped(many) == 9
    MAPS.clear()
    assert mapped(many) == 0
    assert descriptors(many) == 0


def test_bytes_of_small_files_are_bounded(many, monkeypatch, reads):
    monkeypatch.setattr(SMALL, "limit", 10 * (800 + arrays.SMALL_OVERHEAD))
    snapshot = fresh(many)
    for i in range(40):
        reader.read(snapshot, f"f{i}", 0, 1)
    reads.clear()
    for i in range(30, 40):
        reader.read(snapshot, f"f{i}", 0, 1)
    assert reads == []
    reader.read(snapshot, "f29", 0, 1)
    assert len(reads) == 1


def test_threads_read_while_descriptors_are_given_up(many, nothing_is_small, monkeypatch):
    monkeypatch.setattr(DESCRIPTORS, "limit", 2)
    snapshot, wrong = fresh(many), []

    def work(seed):
        rng = np.random.default_rng(seed)
        for i in rng.integers(0, 40, 300).tolist():
            try:
                if reader.read(snapshot, f"f{i}", 10, 13).values.tolist() != [i + 10, i + 11, i + 12]:
                    wrong.append(i)
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []
    assert descriptors(many) <= 2


@pytest.mark.parametrize("io", ["mmap", "pread"])
def test_children_read_while_the_parent_goes_on(many, nothing_is_small, monkeypatch, io):
    monkeypatch.setattr(DESCRIPTORS, "limit", 5)
    snapshot = fresh(many, io)

    def work():
        return all(reader.read(snapshot, f"f{i}", 5, 6).values[0] == i + 5 for i in range(40))

    assert work()
    children = []
    for _ in range(3):
        pid = os.fork()
        if not pid:
            signal.alarm(300)
            try:
                inherited = descriptors(many)
                os._exit(0 if work() and not inherited and descriptors(many) <= 5 else 1)
            except BaseException:
                os._exit(2)
        children.append(pid)
    assert work()
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0, 0]
    assert work()


def test_three_thousand_arrays_in_a_process_of_few_descriptors_and_maps(tmp_path):
    """A store of 3,000 arrays, all read in both ways, in a process that may open 256 files and keep 100 maps."""
    from mmdask.store.system import System

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(System, "fsync", lambda *_: None)
        mm.from_arrays({f"f{i}": np.array([i, i + 1], "i4") for i in range(3000)}, tmp_path / "s.mm")
    code = f"""
import gc, os, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
import numpy as np
from mmdask.rows.reading import reader
from mmdask.store.arrays import held as arrays
from mmdask.store.snapshot import Snapshot, open_snapshot
arrays.SMALL_NBYTES = -1
arrays.MAPS.limit = 100
def maps():
    return open("/proc/self/maps").read().count({str(tmp_path)!r})
def files():  # of the store: the thread that compiles opens others
    found = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink("/proc/self/fd/" + fd).startswith({str(tmp_path)!r})
        except OSError:
            pass
    return found
for io in ("mmap", "pread", "mmap"):
    snapshot = open_snapshot({str(tmp_path / "s.mm")!r}, io=io)
    for i in range(3000):
        assert reader.read(snapshot, f"f{{i}}", 0, 2).values.tolist() == [i, i + 1]
        assert reader.take(snapshot, f"f{{i}}", np.array([1])).values.tolist() == [i + 1]
        if i % 500 == 0:
            assert maps() <= 100, maps()
            assert files() <= arrays.MAX_DESCRIPTORS, files()
held = [reader.read(snapshot, f"f{{i}}", 0, 2).values for i in range(3000)]
assert maps() == 3000
assert [int(h[0]) for h in held] == list(range(3000))
del held, snapshot
for cache in (arrays.MAPS, arrays.SMALL, arrays.DESCRIPTORS):
    cache.clear()
gc.collect()
assert maps() == 0
assert files() == 0
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# What goes wrong ----------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(path, tmp_path):
    return Path(shutil.copytree(path, tmp_path / "copy.mm"))


def file_of(path, name, part=0):
    layer, stored = open_snapshot(path).stored(part, name)
    return Path(layer.path) / layer.arrays[stored.values].file


@pytest.mark.parametrize("io", ["mmap", "pread"])
@pytest.mark.parametrize("change", [-1, 1, -ROWS * 64, 4096])
def test_a_wrong_size_is_found_before_a_byte_is_used(copy, reads, io, change):
    file = file_of(copy, "x")
    os.truncate(file, file.stat().st_size + change)
    errors = []
    for read in (lambda s: reader.read(s, "x", 0, 1), lambda s: reader.take(s, "x", np.array([1]))):
        with pytest.raises(mm.CorruptStoreError, match=f"{re.escape(str(file))}: has \\d+ bytes, should have") as error:
            read(fresh(copy, io))
        errors.append(error.value)  # with its traceback, which keeps no file open
    assert reads == []
    assert mapped(copy) == descriptors(copy) == 0
    assert reader.read(fresh(copy, io), "x", ROWS, ROWS + 1).values[0, 0] == ROWS


def test_a_file_that_is_cut_while_it_is_open_is_an_error(copy):
    snapshot, file = fresh(copy), file_of(copy, "x")
    assert reader.read(snapshot, "x", 0, 1).values[0, 0] == 0
    os.truncate(file, 4096 + 64 * 100 + 10)
    assert reader.read(snapshot, "x", 99, 100).values[0, 0] == 99
    for read in (
        lambda: reader.read(snapshot, "x", 99, 101),
        lambda: reader.take(snapshot, "x", np.array([39_000, 3])),
    ):
        with pytest.raises(mm.CorruptStoreError, match=f"{re.escape(str(file))}: has no byte .* was cut"):
            read()


@pytest.mark.parametrize("io", ["mmap", "pread"])
@pytest.mark.parametrize("small", [True, False])
def test_what_a_vacuum_removed_says_how_to_go_on(copy, monkeypatch, io, small):
    monkeypatch.setattr(arrays, "SMALL_NBYTES", 1 << 30 if small else -1)
    snapshot = fresh(copy, io)
    reader.read(snapshot, "r", 0, 5)
    shutil.rmtree(copy / "parts")
    assert len(reader.read(snapshot, "r", 5, 10)) == 5, "what is open stays"
    for name, row in (("x", 0), ("x", ROWS)):  # of a layer that is known, and of one that is not
        with pytest.raises(mm.CorruptStoreError, match=r"is gone; if a vacuum removed .*refresh\(\)"):
            reader.read(snapshot, name, row, row + 1)


def failing(monkeypatch, code, times):
    """Make the next plain reads fail."""
    original, failed = os.preadv, []

    def preadv(*args):
        if len(failed) < times:
            failed.append(args)
            raise OSError(code, os.strerror(code))
        return original(*args)

    monkeypatch.setattr(os, "preadv", preadv)
    return failed


def test_a_stale_handle_is_opened_anew_once(path, monkeypatch):
    snapshot = fresh(path)
    reader.read(snapshot, "x", 0, 1)
    failed = failing(monkeypatch, errno.ESTALE, 1)
    assert reader.read(snapshot, "x", 5, 6).values[0, 0] == 5
    assert len(failed) == 1
    failed = failing(monkeypatch, errno.ESTALE, 2)
    with pytest.raises(mm.CorruptStoreError, match=r"is gone; .*refresh\(\)"):
        reader.read(snapshot, "x", 7, 8)
    assert len(failed) == 2
    assert reader.read(snapshot, "x", 7, 8).values[0, 0] == 7
    assert descriptors(path) == 1


def test_other_errors_of_the_system_are_told(path, monkeypatch):
    snapshot = fresh(path)
    failing(monkeypatch, errno.EIO, 1)
    with pytest.raises(mm.CorruptStoreError, match="cannot be read: Input/output error"):
        reader.read(snapshot, "x", 0, 1)
    assert reader.read(snapshot, "x", 0, 1).values[0, 0] == 0


def without_descriptors(monkeypatch, condition):
    """Let the system refuse to open files of stores of whose names this is true."""
    original = files._open

    def refusing(parent, names):
        if condition(names[-1]):
            raise OSError(errno.EMFILE, "Too many open files", os.path.join(parent, *names))
        return original(parent, names)

    monkeypatch.setattr(files, "_open", refusing)


def test_descriptors_are_given_up_when_there_are_no_more(many, nothing_is_small, monkeypatch):
    snapshot, full = fresh(many), []
    without_descriptors(monkeypatch, lambda name: DESCRIPTORS._values or full)
    for needed in (lambda: reader.read(snapshot, "f20", 0, 1), lambda: fresh(many), lambda: mm.verify(many)):
        reader.read(snapshot, "f1", 0, 1)
        assert DESCRIPTORS._values
        needed()
    assert reader.read(snapshot, "f20", 0, 1).values[0] == 20
    full.append(True)
    with pytest.raises(mm.LimitError, match=r"f21.*ulimit -n"):
        reader.read(snapshot, "f21", 0, 1)


@pytest.mark.parametrize("backend", [None, mm.Zarr(chunk_rows=64)])
@pytest.mark.parametrize("end", ["manifest.json", "part.json", "zarr.json", ".npy", "0"])
def test_a_process_without_descriptors_is_told_of_them(tmp_path, monkeypatch, backend, end):
    """Readers and `verify` speak of the limit: who is told of damage might drop what is whole."""
    path, tried, refused = tmp_path / "s.mm", [], []
    for base in (0, 100):
        with mm.append(path) if base else mm.create(path, backend=backend) as w:
            w.extend({"x": np.arange(100), "r": [[i] * (i % 3) for i in range(base, base + 100)]})
    with monkeypatch.context() as patch:
        without_descriptors(patch, lambda name: name.endswith(end) and not tried.append(name))
        for action in (
            lambda: [reader.read(fresh(path), name, 0, 200) for name in ("x", "r")],
            lambda: mm.verify(path),
            lambda: mm.verify(path, quick=True),
            lambda: mm.compact(path, progress=False),
            lambda: mm.drop(path, ["r"]),
        ):
            tried.clear()
            try:
                action()
            except OSError as error:
                refused.append(error)
            else:
                assert not tried
    assert all(isinstance(error, mm.LimitError) or error.errno == errno.EMFILE for error in refused), refused
    assert not any("damage" in str(error) for error in refused), refused
    assert bool(refused) == (end != (".npy" if backend else "0"))
    assert mm.verify(path).ok


def test_a_commit_without_descriptors_is_told_of_them(tmp_path, monkeypatch):
    """Wherever it reads the manifest."""
    path = mm.from_arrays({"x": [1], "y": [2]}, tmp_path / "s.mm").path
    opened = []
    for first in range(100):
        opened.clear()
        with monkeypatch.context() as patch:
            without_descriptors(
                patch, lambda name, n=first: name == "manifest.json" and (opened.append(name) or len(opened) > n)
            )
            try:
                mm.drop(path, ["x"])
            except mm.LimitError:
                continue
        break
    assert first > 1
    assert list(mm.open(path).fields) == ["y"]
