"""Stores behind URLs: the contract, commits that race, what breaks in the middle, and what is never shown."""

from __future__ import annotations

import contextlib
import functools
import http.server
import itertools
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import fsspec
import numpy as np
import pytest

import mmdask as mm
from mmdask.store.storage import conditional, objects, remote, remote_lock, storage_of
from mmdask.store.storage.calls import without_secrets
from mmdask.testing import DiskBackend
from tests.store.exclusive import Exclusive
from tests.store.few import with_few_examples
from tests.store.s3_server import s3_server

SMALL = mm.Zarr(chunk_rows=4)
NUMBERS = itertools.count()


def new_url(scheme="memory"):
    return f"{scheme}://store-{next(NUMBERS)}.mm"


@pytest.fixture(scope="module")
def bucket():
    with s3_server() as url:
        yield url


@pytest.fixture
def new_s3(bucket):
    return lambda: f"{bucket}/store-{next(NUMBERS)}.mm"


class TestMemoryUrl(with_few_examples()):
    other_processes = False

    def new_backend(self, folder):
        return DiskBackend(new_url(), backend=SMALL)


class TestS3(with_few_examples()):
    @pytest.fixture(autouse=True)
    def in_a_bucket(self, bucket):
        self.bucket = bucket

    def new_backend(self, folder):
        return DiskBackend(f"{self.bucket}/contract-{next(NUMBERS)}.mm")


def rows(url, **options):
    return mm.open(url, **options)["x"].compute().tolist()


def make(url, values=(0, 1, 2)):
    mm.from_arrays({"x": list(values)}, url, backend=SMALL)
    return url


def append(url, *values):
    with mm.append(url) as w:
        w.extend({"x": list(values)})


# What a URL may be ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s3://me:hunter2@bucket/x.mm", "password"),
        ("https://me@host/x.mm", "password"),
        ("https://host/x.mm?token=hunter2", "query"),
        ("s3://bucket/x.mm#hunter2", "query or fragment"),
        ("simplecache::s3://bucket/x.mm", "a chain"),
        ("simplecache::s3://me:hunter2@bucket/x.mm", "a chain"),
        ("s3://", "names no store"),
        ("s3://bucket/../x.mm", "no empty"),
        ("unheard-of://host/x.mm", "no URL of a store"),
    ],
)
def test_urls_that_are_refused(url, words):
    with pytest.raises(mm.OptionError, match=words) as caught:
        mm.open(url)
    assert "hunter2" not in str(caught.value)


def test_a_url_of_a_file_is_its_path(tmp_path):
    mm.from_arrays({"x": [1]}, f"file://{tmp_path}/s.mm")
    assert mm.open(tmp_path / "s.mm").path == mm.open(f"file://{tmp_path}/s.mm").path == str(tmp_path / "s.mm")


def test_errors_of_libraries_show_no_secrets():
    class Failing:
        def fails(self, *_, **__):
            raise RuntimeError(
                "cannot sign https://me:hunter2@host/b/k?X-Amz-Signature=hunter2 with aws_secret_access_key='hunter2'"
            )

    storage = storage_of(make(new_url()))
    with pytest.raises(OSError, match=r"manifest\.json") as caught:
        storage.call(("manifest.json",), Failing().fails)
    assert "hunter2" not in f"{caught.value!r} {caught.value}"
    assert caught.value.__suppress_context__


def test_nothing_that_is_kept_or_sent_has_credentials(new_s3):
    url = make(new_s3())
    ds = mm.open(url)
    fs = fsspec.filesystem("s3")
    stored = b"".join(map(fs.cat_file, fs.find(url)))
    for text in (pickle.dumps(ds), stored, repr(ds).encode(), ds._repr_html_().encode()):
        assert b"never-shown" not in text
        assert b"testing" not in text
        assert b"127.0.0.1" not in text


# Reading and writing --------------------------------------------------------------------------------------------------


def test_everything_that_changes_a_store(new_s3):
    """§10.1, §10.2"""
    url = make(new_s3())
    append(url, 3, 4)
    mm.assign(url, progress=False, y="2 * x")
    append(url, 5)
    mm.annotate(url, attrs={"a": 1}, aux={"edges": [0.0, 1.0]})
    mm.compact(url, progress=False)
    mm.drop(url, "y")
    ds = mm.open(url)
    assert ds.attrs["a"] == 1
    assert ds.aux["edges"].tolist() == [0.0, 1.0]
    assert rows(url) == list(range(6))
    assert mm.open(url, generation=4)["y"].compute().tolist() == [0, 2, 4, 6, 8, 10]
    assert [h.generation for h in ds.history()] == list(range(1, ds.generation + 1))
    assert mm.verify(url).ok
    assert mm.vacuum(url, keep=1).n_layers == 0, "the grace period"
    assert mm.vacuum(url, keep=1, grace=0).n_layers == 6
    assert mm.verify(url).ok
    assert not mm.verify(url).notes
    assert rows(url) == list(range(6))


def test_the_same_rows_batches_and_cuts_everywhere(tmp_path, new_s3):
    rng = np.random.default_rng(5)
    data = {
        "x": rng.normal(size=300).astype("f4"),
        "hits": [rng.integers(0, 9, n) for n in rng.integers(0, 6, 300)],
        "name": [f"n{i % 7}" for i in range(300)],
    }
    memmap = mm.from_arrays(data, tmp_path / "m.mm")
    coarse = mm.Zarr(chunk_rows=64)
    others = [memmap.save(p, backend=coarse, progress=False) for p in (tmp_path / "z.mm", new_url(), new_s3())]
    expected = [{name: str(b[name]) for name in data} for b in memmap.batches(32, seed=3, block=16, window=4)]
    for ds in others:
        assert [{n: str(b[n]) for n in data} for b in ds.batches(32, seed=3, block=16, window=4)] == expected
        assert len(ds[ds.cut("x > 0 & len(hits) > 2")]) == len(memmap[memmap.cut("x > 0 & len(hits) > 2")])
        for name in data:
            assert str(list(ds[name].compute())) == str(list(memmap[name].compute()))


def test_nothing_is_kept_beside_a_store_behind_a_url(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ds = mm.open(make(new_url(), range(100)))
    assert len(ds[ds.cut("x > 50")]) == 49
    assert list(tmp_path.rglob("*.mask"))
    assert not any(e.name == "cache" for e in storage_of(ds.path).entries())


def test_a_store_that_is_there_is_not_replaced(new_s3):
    for url in (make(new_url()), make(new_s3())):
        with pytest.raises(mm.StoreExistsError, match="mm.append"):
            make(url)
        with pytest.raises(mm.StoreNotFoundError, match=r"no manifest\.json"):
            mm.open(url + "x")
    storage_of("memory://other.mm").write(b"", "something")
    with pytest.raises(mm.StoreExistsError, match="other things"):
        make("memory://other.mm")


def test_memmaps_are_refused():
    with pytest.raises(mm.OptionError, match="nothing can be mapped"):
        mm.create(new_url(), backend="memmap")
    with pytest.raises(mm.OptionError, match="cannot be mapped"):
        mm.open(make(new_url())).memmap("x")


@pytest.fixture
def server(tmp_path):
    """A plain server of files, over HTTP."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()
        remote._KNOWN.clear()
        fsspec.get_filesystem_class("http").clear_instance_cache()


def test_a_server_of_files_is_read(tmp_path, server):
    pytest.importorskip("aiohttp", reason="fsspec reads http:// by aiohttp")
    local = mm.from_arrays(
        {"x": range(20), "t": [f"{i}" for i in range(20)]},
        tmp_path / "s.mm",
        backend=mm.Zarr(chunk_rows=4, shards=2),
    )
    url = f"{server}/s.mm"
    ds = mm.open(url)
    assert ds["x"].compute().tolist() == list(range(20))
    assert ds["t"].to_list() == local["t"].to_list()
    assert [b["x"].sum() for b in ds.batches(8, shuffle=False)] == [28, 92, 70]
    assert len(ds[ds.cut("x > 4")]) == 15
    assert mm.verify(url).ok
    for change in (lambda: append(url, 1), lambda: mm.drop(url, "t"), lambda: mm.vacuum(url), lambda: make(url)):
        with pytest.raises(mm.OptionError, match="read, and not written"):
            change()
    with pytest.raises(mm.StoreNotFoundError):
        mm.open(f"{server}/none.mm")


def test_plain_files_are_not_read_through_a_url(tmp_path, server):
    """§10.1"""
    mm.from_arrays({"x": range(20)}, tmp_path / "s.mm")
    ds = mm.open(f"{server}/s.mm")
    assert len(ds) == 20
    with pytest.raises(mm.OptionError, match="plain files"):
        ds["x"].compute()


# Commits that race ----------------------------------------------------------------------------------------------------


def race(url, threads, each):
    def work(i):
        for k in range(each):
            append(url, 1000 * (i + 1) + k)

    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(work, i) for i in range(threads)]:
            future.result()
    expected = sorted([0, 1, 2, *(1000 * (i + 1) + k for i in range(threads) for k in range(each))])
    ds = mm.open(url)
    assert sorted(ds["x"].compute().tolist()) == expected
    assert ds.generation == 1 + threads * each
    assert [h.generation for h in ds.history()] == list(range(1, ds.generation + 1))
    assert mm.verify(url).ok


def test_threads_that_append_at_once(new_s3):
    race(make(new_url()), 8, 5)
    race(make(new_s3()), 4, 3)


def test_threads_that_come_at_once_have_one_storage(monkeypatch):
    """It knows of commits that may come late, of which no other would know."""
    url, found = new_url(), []

    class Slow(remote.RemoteStorage):
        def __init__(self, root):
            super().__init__(root)
            if not found:
                found.append(None)
                found[0] = storage_of(url)  # of another thread

    monkeypatch.setattr(remote, "RemoteStorage", Slow)
    assert storage_of(url) is found[0]
    assert storage_of(url) is found[0]


def test_processes_that_append_at_once(new_s3):
    url = make(new_s3())
    code = (
        "import sys, mmdask as mm\n"
        "for k in range(3):\n with mm.append(sys.argv[1]) as w: w.append({'x': int(sys.argv[2]) + k})"
    )
    children = [subprocess.Popen([sys.executable, "-c", code, url, str(100 * i)]) for i in (1, 2)]
    assert [child.wait() for child in children] == [0, 0]
    assert sorted(rows(url)) == [0, 1, 2, 100, 101, 102, 200, 201, 202]


def test_one_of_two_creators_wins(new_s3):
    for url in (new_url(), new_s3()):

        def create(i, url=url):
            try:
                make(url, [i])
            except mm.StoreExistsError:
                return False
            return True

        with ThreadPoolExecutor(3) as pool:
            won = list(pool.map(create, range(3)))
        assert sum(won) == 1
        assert rows(url) == [won.index(True)]


@pytest.fixture
def exclusive(monkeypatch):
    fsspec.register_implementation("exclusive", Exclusive, clobber=True)
    monkeypatch.setattr(objects, "EXCLUSIVE", {"exclusive"})
    return lambda: new_url("exclusive")


def test_a_lock_where_there_are_no_conditions(exclusive, monkeypatch):
    url = make(exclusive())
    race(url, 4, 3)
    storage = storage_of(url)
    assert not storage.has("lock.json")
    monkeypatch.setattr(remote_lock, "LOCK_SECONDS", 0.1)
    with storage.alone(), pytest.raises(mm.ConflictError, match=r"process \d+ on .*remove exclusive://.*lock\.json"):
        append(url, 1)
    append(url, 1)


def test_without_either_a_store_is_read_only(exclusive, monkeypatch):
    url = make(exclusive())
    monkeypatch.setattr(objects, "EXCLUSIVE", frozenset())
    assert rows(url) == [0, 1, 2]
    with pytest.raises(mm.OptionError, match="read only"):
        append(url, 3)


# What breaks in the middle --------------------------------------------------------------------------------------------


class Down(Exception):
    """What no library of the system raises."""


CALLS = ("cat_file", "cat_ranges", "info", "ls", "find", "pipe_file", "rm", "rm_file")


class Failing:
    """A file system of which the k-th call fails, before it does anything or after it did; or all from then on."""

    def __init__(self, fs, k, *, after=False, for_good=False):
        self.fs, self.k, self.after, self.for_good, self.n = fs, k, after, for_good, 0
        self.lock = threading.Lock()

    def __getattr__(self, name):
        method = getattr(self.fs, name)
        if name not in CALLS:
            return method

        def call(*args, **options):
            with self.lock:
                self.n += 1
                fails = self.n == self.k or (self.for_good and self.n > self.k)
            if fails and not self.after:
                raise Down("the network is down")
            result = method(*args, **options)
            if fails:
                raise Down("the network is down")
            return result

        return call


OPERATIONS = {
    "create": (None, lambda url: make(url, [7])),
    "append": ([0, 1, 2], lambda url: append(url, 3)),
    "assign": ([0, 1, 2], lambda url: mm.assign(url, progress=False, y="x + 1")),
    "compact": ([0, 1, 2, 3], lambda url: mm.compact(url, progress=False)),
    "vacuum": ([0, 1, 2, 3], lambda url: mm.vacuum(url, keep=1, grace=0)),
    "save": (None, lambda url: mm.open("memory://failing-source.mm").save(url, backend=SMALL, progress=False)),
}


@pytest.mark.parametrize("how", ["before", "after", "for good"])
@pytest.mark.parametrize("name", list(OPERATIONS))
def test_the_old_state_or_the_new_one(name, how, monkeypatch):
    before, operation = OPERATIONS[name]
    if not storage_of("memory://failing-source.mm").has("manifest.json"):
        make("memory://failing-source.mm", [7])
    for k in itertools.count(1):
        url = new_url()
        if before is not None:
            make(url, before[:3])
            for value in before[3:]:
                append(url, value)
            old = mm.open(url).generation
        storage = storage_of(url)
        failing = Failing(storage.fs, k, after=how == "after", for_good=how == "for good")
        with monkeypatch.context() as patch:
            patch.setattr(storage, "fs", failing)
            with contextlib.suppress(OSError, mm.MmdaskError):
                operation(url)
        if before is None:
            if storage.has("manifest.json"):
                assert rows(url) == [7]
            else:
                storage.commits.clear()
                make(url, [7])
        else:
            assert mm.open(url).generation in (old, old + 1)
            after = [3] if name == "append" and mm.open(url).generation > old else []
            assert rows(url) == before + after
        assert mm.verify(url).ok
        append(url, 9)
        assert rows(url)[-1] == 9 if name != "assign" else True
        storage.commits.clear()
        mm.vacuum(url, keep=1, grace=0)
        report = mm.verify(url)
        assert report.ok
        assert not report.notes, "nothing is left over"
        if failing.n < k:
            break
    assert k > 3


def replace_put_of_manifest(monkeypatch, put):
    """Let `put` stand for the put of a manifest, and of no other object; returns what puts them."""
    original = conditional.Memory.put

    def choose(self, path, data, version):
        (put if path.endswith("/manifest.json") else original)(self, path, data, version)

    monkeypatch.setattr(conditional.Memory, "put", choose)
    return original


def test_a_put_that_was_sent_twice_finds_itself(monkeypatch):
    """§10.3"""
    url = make(new_url())

    def twice(self, path, data, version):
        original(self, path, data, version)
        monkeypatch.setattr(conditional.Memory, "put", original)
        append(url, 8)  # another process commits on top, before the first one hears that it lost
        original(self, path, data, version)

    original = replace_put_of_manifest(monkeypatch, twice)
    append(url, 7)
    assert rows(url) == [0, 1, 2, 7, 8]


def test_layers_of_a_commit_that_may_still_happen_stay(monkeypatch):
    url = make(new_url())
    late = []

    def slow(self, path, data, version):
        late.append((path, data, version))
        raise OSError("no answer")

    original = replace_put_of_manifest(monkeypatch, slow)
    with pytest.raises(OSError, match="no answer") as caught:
        append(url, 3)
    assert any("is not known" in note for note in caught.value.__notes__)
    monkeypatch.undo()
    original(conditional.Memory(storage_of(url).fs), *late[0])
    assert rows(url) == [0, 1, 2, 3]


def test_a_history_that_was_not_written_is_written_by_the_next_commit(monkeypatch):
    """§10.4"""
    url = make(new_url())
    storage = storage_of(url)
    append(url, 3)
    storage.unlink([("history", "00000002.json")])
    append(url, 4)
    assert rows(url, generation=2) == [0, 1, 2, 3]


def test_without_secrets():
    assert "hunter2" not in without_secrets(OSError("Token: hunter2, AKIAABCDEFGHIJKLMNOP"))
    assert "AKIA" not in without_secrets(OSError("Token: hunter2, AKIAABCDEFGHIJKLMNOP"))


@pytest.mark.parametrize("condition", [True, False])
def test_a_commit_between_reading_and_putting(monkeypatch, condition):
    """Both survive; without the condition, which is a mutant, the first one is lost."""
    url = make(new_url())

    def late(self, path, data, version):
        monkeypatch.setattr(conditional.Memory, "put", original)
        append(url, 8)
        if condition:
            original(self, path, data, version)
        else:
            self.fs.pipe_file(path, data)

    original = replace_put_of_manifest(monkeypatch, late)
    append(url, 7)
    assert rows(url) == ([0, 1, 2, 8, 7] if condition else [0, 1, 2, 7])


def test_a_package_that_is_missing_is_named(monkeypatch):
    from fsspec import core

    def missing(*_, **__):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(core, "url_to_fs", missing)
    with pytest.raises(mm.MissingDependencyError, match="s3:// needs a package: Install s3fs"):
        mm.open("s3://a-bucket-of-its-own/x.mm")
