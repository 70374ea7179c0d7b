"""Commits behind URLs of which nobody hears what became, and listings that fail; and what a URL must not show."""

from __future__ import annotations

import collections
import contextlib
import itertools
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import fsspec
import pytest

import mmdask as mm
from mmdask.store import commit
from mmdask.store.snapshot import open_snapshot
from mmdask.store.storage import calls, conditional, objects, remote_lock, storage_of
from mmdask.store.storage.url import checked_url
from tests.store.exclusive import Exclusive
from tests.store.s3_server import s3_server

SMALL = mm.Zarr(chunk_rows=4)
NUMBERS = itertools.count()
CALLS = ("cat_file", "cat_ranges", "info", "ls", "find", "pipe_file", "rm", "rm_file")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(calls, "_PAUSES", (0.001, 0.001))


def new_url(scheme="memory"):
    return f"{scheme}://faults-{next(NUMBERS)}.mm"


def make(url, values=(0, 1, 2)):
    mm.from_arrays({"x": list(values)}, url, backend=SMALL)
    return url


def append(url, *values):
    with mm.append(url) as w:
        w.extend({"x": list(values)})


def rows(url):
    return mm.open(url)["x"].compute().tolist()


class Hooked:
    """A file system of which each call goes through a function of its name, its method and its arguments."""

    def __init__(self, fs, hook):
        self.fs, self.hook = fs, hook

    def __getattr__(self, name):
        method = getattr(self.fs, name)
        return (lambda *args, **options: self.hook(name, method, *args, **options)) if name in CALLS else method


@contextlib.contextmanager
def hooked(url, hook):
    storage = storage_of(url)
    before, storage.fs = storage.fs, Hooked(storage.fs, hook)
    try:
        yield
    finally:
        storage.fs = before


@pytest.fixture
def puts(monkeypatch):
    """Replace how the manifest of a store is put, by a function of what puts it; gives the put itself."""
    original = conditional.Memory.put

    def use(instead):
        def put(self, path, data, version):
            here = (lambda: original(self, path, data, version)) if path.endswith("/manifest.json") else None
            return instead(here) if here else original(self, path, data, version)

        monkeypatch.setattr(conditional.Memory, "put", put)

    return use


# What became of a commit ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interrupts", [1, 2])
def test_an_interrupt_does_not_end_the_request(puts, interrupts):
    """The layers stay, since the put may still happen; also when the look at it is interrupted."""
    url, late = make(new_url()), []

    def put(here):
        late.append(here)
        raise KeyboardInterrupt

    def hook(name, method, *args, **options):
        if interrupts == 2 and len(late) == 1 and name == "cat_file":
            late.append(None)
            raise KeyboardInterrupt
        return method(*args, **options)

    puts(put)
    with hooked(url, hook), pytest.raises(KeyboardInterrupt) as caught:
        append(url, 3)
    notes = " ".join(getattr(caught.value, "__notes__", ()))
    assert "nothing of this block was committed" not in notes
    assert interrupts == 2 or "is not known" in notes
    late[0]()
    assert rows(url) == [0, 1, 2, 3]
    assert mm.verify(url).ok


def test_an_interrupt_behind_the_commit(puts):
    url = make(new_url())

    def put(here):
        here()
        raise KeyboardInterrupt

    puts(put)
    with pytest.raises(KeyboardInterrupt):
        append(url, 3)
    assert rows(url) == [0, 1, 2, 3]
    assert not storage_of(url).may_commit_late


@pytest.mark.parametrize("failures", [0, 2, 3, 100])
def test_a_put_that_was_sent_twice_and_cannot_be_seen(puts, failures):
    """§10.3: that the answer cannot be read does not mean that another one was first."""
    url, left = make(new_url()), [failures]
    sent = []

    def put(here):
        here()
        sent.append(None)
        raise conditional.LostError

    def hook(name, method, *args, **options):
        if sent and name == "cat_file" and left[0]:
            left[0] -= 1
            raise ConnectionError("no network")
        return method(*args, **options)

    puts(put)
    with hooked(url, hook):
        if failures > 2:
            with pytest.raises(OSError, match="by this commit or another one") as caught:
                append(url, 3)
            assert "is not known" in caught.value.__notes__[0]
        else:
            append(url, 3)
    assert rows(url) == [0, 1, 2, 3]
    assert len(sent) == 1


def test_a_put_that_was_refused_and_happens_later(puts, monkeypatch):
    """As S3 may say of the second of two that one of them is under way."""
    url, late, numbers = make(new_url()), [], itertools.count()
    monkeypatch.setattr(commit, "_one_line", lambda text: f"{text} {next(numbers)}")  # of another second, as it were

    def put(here):
        if not late:
            late.append(here)
            raise conditional.LostError
        if len(late) == 1:
            late.append(None)
            late[0]()
        here()

    puts(put)
    append(url, 3)
    assert len(late) == 2
    assert rows(url) == [0, 1, 2, 3]


def test_notes_of_an_error_say_the_same(puts):
    url = make(new_url())

    def put(here):
        raise ConnectionError("no answer")

    puts(put)
    with pytest.raises(OSError, match="no answer") as caught:
        append(url, 3)
    assert ["is not known" in n or "is not certain" in n for n in caught.value.__notes__] == [True, True]
    assert storage_of(url).may_commit_late


def test_a_put_that_was_refused_did_not_happen(puts):
    url = make(new_url())

    def put(here):
        raise PermissionError("read only")

    puts(put)
    with pytest.raises(PermissionError) as caught:
        append(url, 3)
    assert "nothing of this block was committed" in " ".join(caught.value.__notes__)
    assert not storage_of(url).may_commit_late
    assert len(storage_of(url).entries("parts")) == 1


# Vacuum, and checks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["fails", "is late"])
def test_vacuum_leaves_what_it_cannot_date(how):
    url = make(new_url())

    def hook(name, method, *args, **options):
        if name == "find" and how == "fails":
            raise ConnectionError("no network")
        return {} if name == "find" else method(*args, **options)

    with mm.append(url, part_nbytes=64) as w:
        w.extend({"x": list(range(50))})
        assert len(storage_of(url).entries("parts")) > 3
        with hooked(url, hook):
            if how == "fails":
                with pytest.raises(OSError, match="no network"):
                    mm.vacuum(url)
            else:
                assert mm.vacuum(url).n_layers == 0
    assert rows(url) == [0, 1, 2, *range(50)]


@pytest.mark.parametrize("quick", [True, False])
def test_a_check_tells_what_is_gone_from_what_cannot_be_asked_for(quick):
    url = make(new_url())

    def hook(name, method, *args, **options):
        if "/c/" in str(args):
            raise ConnectionError("no network")
        return method(*args, **options)

    with hooked(url, hook):
        report = mm.verify(url, quick=quick)
    assert not report.ok
    assert "no network" in str(report)
    assert "is gone" not in str(report)


def test_the_server_of_these_tests_looks_and_puts_in_one_step(monkeypatch):
    """As S3 does; moto alone lets two puts pass of which the condition holds for one."""
    models = pytest.importorskip("moto.s3.models")
    original, meeting, answered = models.S3Backend.put_object, threading.Barrier(2), threading.Event()

    def put_object(self, *args, **options):
        with contextlib.suppress(threading.BrokenBarrierError):
            if meeting.wait(1):  # for the other one, which cannot come
                answered.wait(60)
        return original(self, *args, **options)

    def put(url, data):
        try:
            conditional.S3(fsspec.filesystem("s3")).put(url, data, None)
        except conditional.LostError:
            return False
        finally:
            answered.set()
        return True

    with s3_server() as bucket:
        monkeypatch.setattr(models.S3Backend, "put_object", put_object)
        with ThreadPoolExecutor(2) as pool:
            assert sorted(pool.map(put, [f"{bucket}/one"] * 2, [b"a", b"b"])) == [False, True]


# Where there are no conditions ----------------------------------------------------------------------------------------


@pytest.fixture
def exclusive(monkeypatch):
    fsspec.register_implementation("exclusive", Exclusive, clobber=True)
    monkeypatch.setattr(objects, "EXCLUSIVE", {"exclusive"})
    monkeypatch.setattr(remote_lock, "LOCK_SECONDS", 0.1)
    return make(new_url("exclusive"))


@pytest.mark.parametrize("error", [ConnectionError("answer lost"), FileExistsError("sent again")])
def test_a_lock_whose_answer_was_lost_is_our_own(exclusive, error):
    Exclusive.trouble = error
    append(exclusive, 3)
    append(exclusive, 4)
    assert rows(exclusive) == [0, 1, 2, 3, 4]
    assert not storage_of(exclusive).has("lock.json")


def test_a_lock_is_given_back_where_one_look_at_it_fails(exclusive):
    failed = []

    def hook(name, method, *args, **options):
        if name == "cat_file" and args[0].endswith("lock.json") and not failed:
            failed.append(None)
            raise ConnectionError("no network")
        return method(*args, **options)

    with hooked(exclusive, hook):
        append(exclusive, 3)
    assert failed
    append(exclusive, 4)
    assert rows(exclusive) == [0, 1, 2, 3, 4]


def test_a_manifest_that_is_late_overwrites_no_other(exclusive):
    """§10.5"""
    late = []

    def hook(name, method, *args, **options):
        if name == "pipe_file" and args[0].endswith("/manifest.json") and not late:
            late.append((method, args, options))
            raise TimeoutError("no answer")
        return method(*args, **options)

    with hooked(exclusive, hook), pytest.raises(OSError, match="no answer") as caught:
        append(exclusive, 3)
    assert "lock.json when it cannot happen" in caught.value.__notes__[0]
    with pytest.raises(mm.ConflictError, match=r"if it is dead, remove .*lock\.json"):
        append(exclusive, 4)
    method, args, options = late[0]
    method(*args, **options)
    assert rows(exclusive) == [0, 1, 2, 3]
    storage_of(exclusive).unlink([("lock.json",)])
    append(exclusive, 4)
    assert rows(exclusive) == [0, 1, 2, 3, 4]


# All at once ----------------------------------------------------------------------------------------------------------


class Unreliable:
    """Some calls fail, before they do anything or afterwards; some puts of manifests are sent twice or not answered."""

    def __init__(self, seed):
        self.random, self.lock, self.on = random.Random(seed), threading.Lock(), True

    def dice(self):
        with self.lock:
            return self.random.random() if self.on else 1.0

    def hook(self, name, method, *args, **options):
        dice = self.dice()
        if dice < 0.015:
            raise ConnectionError("before")
        result = method(*args, **options)
        if dice < 0.03:
            raise ConnectionError("after")
        return result

    @contextlib.contextmanager
    def puts(self):
        """Puts of manifests of which the answer is lost, or comes to a second one of the same."""

        def unreliable(put):
            def instead(own, path, data, version):
                put(own, path, data, version)
                dice = self.dice() if path.endswith("/manifest.json") else 1.0
                if dice < 0.1:
                    raise conditional.LostError
                if dice < 0.2:
                    raise ConnectionError("answer lost")

            return instead

        with pytest.MonkeyPatch.context() as patch:
            for kind in (conditional.Memory, conditional.S3):
                patch.setattr(kind, "put", unreliable(kind.put))
            yield


def trials(url, seed, writers, each):
    """Writers that commit at once where much fails; how many of their commits returned."""
    unreliable = Unreliable(seed)
    done, failed = [], []

    def work(i):
        dice = random.Random(1000 * seed + i)
        for k in range(each):
            value = 100 * (i + 1) + k
            change = dice.random()
            with contextlib.suppress(OSError, mm.MmdaskError):
                if change < 0.7:
                    failed.append(value)
                    append(url, value, 1000 + value)
                    done.append(value)
                elif change < 0.85:
                    mm.compact(url, progress=False)
                else:
                    mm.vacuum(url, keep=dice.choice([1, 100]))

    with unreliable.puts(), hooked(url, unreliable.hook), ThreadPoolExecutor(writers) as pool:
        list(pool.map(work, range(writers)))
        unreliable.on = False
    found = collections.Counter(rows(url))
    assert all(found[v] == found[1000 + v] == 1 for v in done)
    assert all(found[v] == found[1000 + v] <= 1 for v in failed)
    assert found[-1] == 1
    assert mm.verify(url).ok
    append(url, 7)
    assert rows(url)[-1] == 7
    return len(done), len(failed)


@pytest.mark.parametrize("seed", range(6))
def test_whatever_fails_no_row_is_lost_or_there_twice(seed):
    trials(make(new_url(), [-1]), seed, 3, 6)


def test_no_commit_is_lost_in_200_trials_on_s3():
    done = tried = 0
    with s3_server() as bucket:
        for seed in itertools.count():
            returned, begun = trials(make(f"{bucket}/trials-{seed}.mm", [-1]), seed, 4, 10)
            done, tried = done + returned, tried + begun
            if tried >= 200:
                break
    assert 100 < done < tried, "most commits return, and some don't"


@pytest.mark.parametrize("error", [PermissionError, ConnectionError])
def test_verify_goes_on_where_a_part_cannot_be_read(error):
    url = make(new_url())
    append(url, 3)

    def hook(name, method, *args, **options):
        if name == "cat_file" and args[0].endswith(f"{layer}/part.json"):
            raise error("no")
        return method(*args, **options)

    layer = open_snapshot(url).parts[1].layers[0]
    with hooked(url, hook):
        report = mm.verify(url)
    assert not report.ok
    (problem,) = report.problems
    assert problem.file.endswith("part.json")
    assert "cannot be read" in str(problem)
    assert problem.rows == (3, 4)


# Passwords ------------------------------------------------------------------------------------------------------------

SECRET = "hunter/2"


@pytest.mark.parametrize("url", [f"s3://KEY:{SECRET}@bucket/x.mm", f"https://me:{SECRET}@host/x.mm"])
@pytest.mark.parametrize("use", [mm.open, mm.create, mm.append, mm.from_zarr, mm.view])
def test_a_password_with_a_slash_is_one(url, use, tmp_path):
    with pytest.raises(mm.OptionError) as caught:
        use(url, *[tmp_path / "new.mm"] * (use is mm.from_zarr))
    assert "unter" not in str(caught.value)


def test_what_looks_like_a_password_is_none():
    assert checked_url("sftp://host:22/a@b/x.mm") == "sftp://host:22/a@b/x.mm"
    assert checked_url("s3://bucket/a:b@c/x.mm") == "s3://bucket/a:b@c/x.mm"


def test_queries_of_sources_are_not_repeated(tmp_path):
    pytest.importorskip("aiohttp", reason="fsspec reads http:// by aiohttp")
    with pytest.raises(mm.SourceError) as caught:
        mm.from_zarr("http://127.0.0.1:9/x.zarr?token=hunter2", tmp_path / "s.mm")
    assert "hunter2" not in str(caught.value)
