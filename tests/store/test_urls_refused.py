"""What a server says that refuses, or does not answer, is said as such: not as damage, and with what to do."""

from __future__ import annotations

import errno

import fsspec
import pytest

import mmdask as mm
from mmdask.store.storage import remote
from mmdask.store.storage.calls import without_secrets

URL = "memory://refused.mm"


@pytest.fixture
def fs():
    found = fsspec.filesystem("memory")
    mm.from_arrays({"x": [1.0, 2.0, 3.0]}, URL)
    yield found
    for key in [key for key in found.store if key.startswith("/refused.mm/")]:  # also where its methods are patched
        del found.store[key]


def refuse(monkeypatch, fs, error, *methods):
    def call(*args, **kwargs):
        raise error

    for method in methods:
        monkeypatch.setattr(type(fs), method, call)


class NoCredentialsError(Exception):
    """As botocore's."""


REFUSALS = {
    "denied": (
        PermissionError("Forbidden"),
        PermissionError,
        r"access is denied \(PermissionError: Forbidden\): the cred",
    ),
    "none": (
        NoCredentialsError("Unable to locate credentials"),
        PermissionError,
        "NoCredentialsError: Unable to locate credentials; they are to be given in the environment",
    ),
    "net": (
        ConnectionResetError(errno.ECONNRESET, "reset by peer"),
        ConnectionResetError,
        "ConnectionResetError: reset",
    ),
    "busy": (OSError(errno.EBUSY, "Slow Down"), OSError, "OSError: Slow Down"),
}


@pytest.mark.parametrize("which", REFUSALS)
def test_what_may_not_be_read_is_no_damage(monkeypatch, fs, which):
    error, kind, text = REFUSALS[which]
    before = mm.open(URL)
    refuse(monkeypatch, fs, error, "cat_file", "info")
    asked = {
        "manifest.json": [
            lambda: mm.open(URL),
            lambda: mm.append(URL).__enter__(),
            lambda: mm.drop(URL, ["x"]),
            lambda: mm.verify(URL),
            lambda: before.refresh(),
        ],
        "part.json": [lambda: before["x"].compute()],
    }
    for file, calls in asked.items():
        for call in calls:
            with pytest.raises(kind, match=rf"memory://refused\.mm/.*{file}: .*{text}") as caught:
                call()
            assert not isinstance(caught.value, mm.CorruptStoreError)


def test_what_is_gone_is_damage(fs):
    ds = mm.open(URL)
    [part] = fs.glob("/refused.mm/parts/*/part.json")
    fs.rm_file(part)
    with pytest.raises(mm.CorruptStoreError, match="there is no such object"):
        ds["x"].compute()


def test_a_file_that_may_not_be_read(monkeypatch, tmp_path):
    from mmdask.store.storage.local import LocalStorage

    ds = mm.from_arrays({"x": [1.0]}, tmp_path / "s.mm")

    def read(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(LocalStorage, "read", read)
    for call in (lambda: mm.open(ds.path), lambda: ds["x"].compute()):
        with pytest.raises(PermissionError, match=r"\.json: .*cannot be read: Permission denied"):
            call()


def test_a_server_that_cannot_be_reached_has_no_lack_of_stores(monkeypatch, fs):
    # fsspec's http says of every object that it is not there when it asks for its size and gets no answer
    def cat_file(self, path, start=None, end=None):
        raise ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed")

    def info(self, path, **kwargs):
        raise FileNotFoundError(path)

    monkeypatch.setattr(type(fs), "cat_file", cat_file)
    monkeypatch.setattr(type(fs), "info", info)
    with pytest.raises(ConnectionRefusedError, match=r"manifest\.json: cannot be read: .*Connect call failed"):
        mm.open(URL)


def test_a_bucket_that_is_not_there(monkeypatch, fs, tmp_path):
    ds = mm.from_arrays({"x": [1.0]}, tmp_path / "s.mm")
    gone = FileNotFoundError("The specified bucket does not exist")
    refuse(monkeypatch, fs, gone, "pipe_file", "cat_file", "info", "ls", "find")
    url = "memory://elsewhere/s.mm"
    with pytest.raises(mm.StoreNotFoundError, match=r"no store at memory://elsewhere/s\.mm: there is no such bucket"):
        mm.open(url)
    for make in (lambda: ds.save(url, progress=False), lambda: mm.from_arrays({"x": [1]}, url)):
        with pytest.raises(mm.StoreNotFoundError, match=r"s\.mm cannot be written, as if there were no such bucket"):
            make()


def test_packages_that_are_missing_are_named(monkeypatch):
    import fsspec.core

    def url_to_fs(url, **kwargs):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", url_to_fs)
    with pytest.raises(mm.MissingDependencyError, match=r's3:// needs a package: .*pip install "mmdask\[s3\]"'):
        mm.open("s3://no-such-bucket-here/s.mm")
    with pytest.raises(mm.MissingDependencyError, match=r"gs:// needs a package: Install s3fs to access S3$"):
        mm.open("gs://no-such-bucket-here/s.mm")


def test_chains_of_urls_are_refused_and_colons_are_not(tmp_path, monkeypatch):
    for url in ("simplecache::s3://bucket/s.mm", "zip://s.mm::s3://bucket/s.zip"):
        with pytest.raises(mm.OptionError, match="a store has one URL, and this is a chain"):
            mm.open(url)
    monkeypatch.chdir(tmp_path)
    assert len(mm.from_arrays({"x": [1]}, "run::5.mm")) == 1


def test_texts_of_errors_keep_what_is_no_secret():
    text = without_secrets
    assert (
        text(NoCredentialsError("Unable to locate credentials")) == "NoCredentialsError: Unable to locate credentials"
    )
    assert text(OSError(errno.EIO, "quota")) == "OSError: quota"
    assert "hunter" not in text(ValueError("credentials: hunter2 at //me:hunter2@host/x?y=hunter2, password=hunter2"))


def test_a_chunk_of_other_bytes_is_damage(fs):
    [part] = fs.glob("/refused.mm/parts/*/part.json")
    [chunk] = [key for key in fs.find(part.rpartition("/")[0]) if "/0-x" in key and "/c/" in key]
    fs.pipe_file(chunk, bytes(fs.size(chunk)))
    with pytest.raises(
        mm.CorruptStoreError, match="a chunk of 0 bytes.*the store is damaged: `mmdask verify`"
    ) as caught:
        mm.open(URL)["x"].compute()
    assert "Errno" not in str(caught.value)
    [problem, *_] = mm.verify(URL).problems
    assert "x rows 0 to 2" in str(mm.verify(URL))
    assert "Errno" not in str(problem)


def test_memory_that_changes_while_fsspec_lists_it_is_listed_again(monkeypatch, fs):
    """Its `find` goes over a dict, into which another thread may put an object."""
    find, failures = type(fs).find, []

    def changing(self, *args, **options):
        failures.append(1)
        if len(failures) % 3:
            raise RuntimeError("dictionary changed size during iteration")
        return find(self, *args, **options)

    with mm.append(URL) as w:
        w.extend({"x": [4.0]})
    mm.compact(URL, progress=False)
    monkeypatch.setattr(type(fs), "find", changing)
    assert mm.vacuum(URL, grace=0, keep=1).n_layers == 2
    assert len(failures) > 2
    assert mm.open(URL)["x"].compute().tolist() == [1, 2, 3, 4]
    monkeypatch.setattr(type(fs), "find", lambda *_, **__: 1 / 0)
    with pytest.raises(OSError, match="ZeroDivisionError"):
        remote.remote_storage(URL).size("parts")


def test_of_memory_it_is_said_that_no_other_process_sees_it(fs, tmp_path):
    """As a worker that was spawned, which gets the URL."""
    with pytest.raises(mm.StoreNotFoundError, match="what a process keeps in memory no other one sees"):
        mm.open("memory://nowhere.mm")
    with pytest.raises(mm.StoreNotFoundError) as caught:
        mm.open(tmp_path / "nowhere.mm")
    assert "keeps in memory" not in str(caught.value)
