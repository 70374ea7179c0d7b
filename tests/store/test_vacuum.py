"""What no reader needs is removed, when it has not been needed for long enough; everything else stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

import mmdask as mm
from mmdask.rows.upkeep import vacuum
from mmdask.store.manifest import dump_manifest, history, history_path, read_manifest
from mmdask.store.storage import local
from mmdask.store.system import SYSTEM, System

DAY = 86400.0


def make(path, appends=3):
    mm.from_arrays({"x": [0], "y": [0.5]}, path)
    for i in range(appends):
        with mm.append(path) as w:
            w.append({"x": i + 1, "y": i + 1.5})
    return str(path)


def age(path, days):
    """Make a file, or a folder and what is in it, look old."""
    then = time.time() - days * DAY
    for folder, _, files in os.walk(path):
        for name in (*files, "."):
            os.utime(os.path.join(folder, name), (then, then))
    os.utime(path, (then, then))


def backdate(path, days):
    """Make all commits of a store look as old as said, the oldest first; and its files."""
    for generation, n in enumerate(days, 1):
        file = history_path(path, generation)
        newest = read_manifest(path)
        then = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - n * DAY))
        data = dump_manifest(replace(read_manifest(path, generation), time=then))
        Path(file).write_bytes(data)
        if generation == newest.generation:
            Path(path, "manifest.json").write_bytes(data)


def layers(path):
    return sorted(os.listdir(os.path.join(path, "parts")))


def generations(path):
    return [e.generation for e in history(path)]


def test_everything_that_is_named_stays(tmp_path):
    path = make(tmp_path / "s.mm")
    age(path, 100)
    before = sorted(str(p) for p in Path(path).rglob("*"))
    report = mm.vacuum(path)
    assert (report.n_layers, report.n_generations, report.n_files, report.nbytes, report.n_waiting) == (0,) * 5
    assert sorted(str(p) for p in Path(path).rglob("*")) == before
    assert mm.open(path)["x"].compute().tolist() == [0, 1, 2, 3]


def test_old_generations_and_their_layers_go(tmp_path):
    path = make(tmp_path / "s.mm")
    mm.drop(path, "y")
    mm.compact(path, progress=False)
    assert generations(path) == [1, 2, 3, 4, 5, 6]
    size = sum(f.stat().st_size for f in Path(path, "parts").rglob("*") if f.is_file() and "merged" not in str(f))
    size += sum(os.path.getsize(history_path(path, g)) for g in range(1, 6))
    planned = mm.vacuum(path, keep=1, grace=0, dry_run=True)
    assert planned.dry_run
    assert len(layers(path)) == 5, "nothing was removed"
    report = mm.vacuum(path, keep=1, grace=0)
    assert (report.n_generations, report.n_layers, report.nbytes) == (5, 4, size)
    assert replace(planned, dry_run=False) == report
    assert layers(path) == list(read_manifest(path).parts[0].layers)
    assert generations(path) == [6]
    assert mm.open(path)["x"].compute().tolist() == [0, 1, 2, 3]
    assert mm.verify(path).ok
    with pytest.raises(mm.StoreNotFoundError, match="no generation 3"):
        mm.open(path, generation=3)
    assert mm.vacuum(path, keep=1, grace=0).n_files == 0


@pytest.mark.parametrize("keep", [1, 2, 3, 6, 100])
def test_the_newest_generations_stay(tmp_path, keep):
    path = make(tmp_path / "s.mm", 2)
    mm.compact(path, progress=False)
    mm.assign(path, x="y * 2", replace=True, progress=False)
    mm.compact(path, progress=False)
    mm.vacuum(path, keep=keep, grace=0)
    assert generations(path) == list(range(1, 7))[-keep:]
    for g in generations(path):
        x = mm.open(path, generation=g)["x"].compute().tolist()
        assert x == ([0, 1, 2][:g] if g < 5 else [1.0, 3.0, 5.0])
    assert mm.verify(path).ok
    named = set().union(*(read_manifest(path, g).layers for g in generations(path)))
    assert set(layers(path)) == named


def test_the_oldest_generation_goes_first(tmp_path, monkeypatch):
    path = make(tmp_path / "s.mm", appends=4)
    gone, unlink = [], SYSTEM.unlink
    monkeypatch.setattr(SYSTEM, "unlink", lambda file: (gone.append(os.path.basename(file)), unlink(file)))
    mm.vacuum(path, keep=2, grace=0)
    assert [name for name in gone if name.endswith(".json")] == ["00000001.json", "00000002.json", "00000003.json"]


def test_grace_counts_from_when_something_was_needed_last(tmp_path):
    """Old files that were in the newest generation an hour ago may be in use."""
    path = make(tmp_path / "s.mm", 2)
    mm.compact(path, progress=False)
    age(path, 100)
    backdate(path, [100, 90, 80, 0.1])
    report = mm.vacuum(path, keep=1, grace="7d")
    assert generations(path) == [3, 4], "1 and 2 were superseded 90 and 80 days ago, 3 a tenth of a day"
    assert (report.n_generations, report.n_layers) == (2, 0)
    assert report.n_waiting == 4, "a manifest and three layers"
    assert len(layers(path)) == 4
    assert mm.open(path, generation=3)["x"].compute().tolist() == [0, 1, 2]
    report = mm.vacuum(path, keep=1, grace="2h")
    assert generations(path) == [4]
    assert (report.n_generations, report.n_layers) == (1, 3)


def test_old_manifests_without_a_time_are_as_old_as_their_files(tmp_path):
    path = make(tmp_path / "s.mm", 2)
    for generation in (1, 2, 3):
        file = Path(history_path(path, generation))
        data = dump_manifest(replace(read_manifest(path, generation), time=""))
        file.write_bytes(data)
        if generation == 3:
            Path(path, "manifest.json").write_bytes(data)
        age(file, 10 - generation)
    mm.vacuum(path, keep=1, grace="7.5d")
    assert generations(path) == [2, 3], "2 was superseded 7 days ago, 1 8 days"


def test_what_dead_writers_left(tmp_path):
    path = make(tmp_path / "s.mm", 0)
    orphan = os.path.join(path, "parts", "0123456789abcdef")
    unfinished = os.path.join(path, "parts", "f" * 16 + ".tmp-0011")
    for folder in (orphan, unfinished):
        os.mkdir(folder)
        Path(folder, "part.json").write_text("{}")
    files = [
        "manifest.json.tmp-1-ab",
        "history/00000002.json.tmp-1-ab",
        "conversion.json.tmp-9-cd",
        "history/00000007.json",
    ]
    for name in files:
        Path(path, name).write_text("{")
    report = mm.vacuum(path)
    assert (report.n_layers, report.n_files, report.n_waiting) == (0, 0, 6), "they are new"
    for place in (orphan, unfinished, *(os.path.join(path, name) for name in files)):
        age(place, 8)
    busy = Path(unfinished, "0-x.npy")
    busy.write_bytes(b"")
    os.utime(unfinished, (0, 0))
    report = mm.vacuum(path)
    assert (report.n_layers, report.n_files, report.n_waiting) == (1, 5, 1), "someone writes to one of its files"
    assert os.path.exists(busy)
    age(busy, 8)
    assert mm.vacuum(path).n_files == 2
    assert layers(path) == list(read_manifest(path).parts[0].layers)
    assert sorted(os.listdir(path)) == [".lock", "history", "manifest.json", "parts"]
    assert os.listdir(os.path.join(path, "history")) == ["00000001.json"]


def test_what_is_not_ours_stays(tmp_path):
    path = make(tmp_path / "s.mm", 0)
    ours = [
        "notes.txt",
        "notes.tmp-1",
        "parts/README",
        "parts/Not-An-Id/x",
        "history/old.json",
        "cache/masks/ab/readme",
    ]
    for name in ours:
        os.makedirs(os.path.dirname(os.path.join(path, name)), exist_ok=True)
        Path(path, name).write_text("precious")
    age(path, 100)
    assert mm.vacuum(path, keep=1, grace=0).n_files == 0
    assert all(Path(path, name).read_text() == "precious" for name in ours)


def test_links_are_never_followed(tmp_path):
    path = make(tmp_path / "s.mm", 0)
    outside = tmp_path / "outside"
    for name in ("aa", "bb/cc"):
        (outside / name).mkdir(parents=True)
        (outside / name / "part.json").write_text("precious")
        (outside / name / "manifest.json.tmp-1-ab").write_text("precious")
        (outside / name / "x.mask").write_text("precious")
    os.symlink(outside, os.path.join(path, "parts", "0123456789abcdef"))
    os.symlink(outside, os.path.join(path, "parts", "0123456789abcdef.tmp-1"))
    os.mkdir(os.path.join(path, "parts", "fedcba9876543210"))
    os.symlink(outside, os.path.join(path, "parts", "fedcba9876543210", "in"))
    os.symlink(outside, os.path.join(path, "cache"))
    before = sorted(str(p) for p in outside.rglob("*"))
    mm.vacuum(path, keep=1, grace=0)
    assert sorted(str(p) for p in outside.rglob("*")) == before
    assert not os.path.lexists(os.path.join(path, "parts", "fedcba9876543210"))
    os.unlink(os.path.join(path, "cache"))
    os.makedirs(os.path.join(path, "cache"))
    os.symlink(outside, os.path.join(path, "cache", "masks"))
    mm.vacuum(path, keep=1, grace=0)
    parts = os.path.join(path, "parts")
    os.rename(parts, tmp_path / "parts")
    os.mkdir(tmp_path / "parts" / ("0" * 16))
    os.symlink(tmp_path / "parts", parts)
    mm.vacuum(path, keep=1, grace=0)
    assert os.path.isdir(tmp_path / "parts" / ("0" * 16))
    assert sorted(str(p) for p in outside.rglob("*")) == before


def keep_cut(path):
    """Of a function: smallest and largest values say nothing of it."""
    mm.open(path).cut(lambda block: block["x"] > 1, key="x > 1", fields="x").keep()


def test_masks_of_layers_that_are_gone(tmp_path):
    path = make(tmp_path / "s.mm", 3)
    keep_cut(path)
    masks = sorted(Path(path, "cache").rglob("*.mask"))
    assert len(masks) == 4
    mm.vacuum(path, grace=0)
    assert sorted(Path(path, "cache").rglob("*.mask")) == masks
    mm.compact(path, progress=False)
    keep_cut(path)
    damaged = Path(masks[0].parent, "0" * 32 + ".mask")
    damaged.write_bytes(b"mmdask-mask 1\nnonsense")
    left = Path(masks[0].parent, "1" * 32 + ".mask.tmp-0011")
    left.write_bytes(b"")
    report = mm.vacuum(path, keep=1, grace="1h")
    assert len(list(Path(path, "cache").rglob("*.mask"))) == 6, "they are new"
    assert report.n_waiting == 4 + 4 + 2, "manifests, layers, a damaged mask and one that was not finished"
    mm.vacuum(path, keep=1, grace=0)
    kept = [p for p in Path(path, "cache").rglob("*") if p.is_file()]
    assert sorted(p.suffix for p in kept) == [".mask", ".rows"]
    assert not set(kept) & set(masks)
    assert mm.open(path).cut("x > 1").count() == 2


def test_an_unfinished_conversion_keeps_what_is_new(tmp_path):
    path = tmp_path / "s.mm"
    (path / "parts" / ("a" * 32 + "-0-of-1")).mkdir(parents=True)
    (path / "parts" / ("b" * 32 + "-0-of-1")).mkdir()
    (path / "conversion.json").write_text("{}")
    age(path / "parts" / ("b" * 32 + "-0-of-1"), 30)
    report = mm.vacuum(path)
    assert (report.n_layers, report.n_waiting) == (1, 1)
    assert layers(path) == ["a" * 32 + "-0-of-1"]
    assert (path / "conversion.json").exists()


@pytest.mark.parametrize(
    ("grace", "seconds"),
    [
        ("7d", 7 * DAY),
        ("12h", DAY / 2),
        (" 1.5 h ", 5400),
        ("30min", 1800),
        ("30m", 1800),
        ("2w", 14 * DAY),
        ("90", 90),
        ("90s", 90),
        (90, 90),
        (1.5, 1.5),
        (timedelta(days=1, seconds=1), DAY + 1),
        (0, 0),
    ],
)
def test_durations(grace, seconds):
    assert vacuum.seconds_of(grace, "grace") == seconds


@pytest.mark.parametrize(
    "options",
    [
        *(
            {"grace": grace}
            for grace in ("", "7 days", "-1d", -1, None, True, float("nan"), float("inf"), timedelta(-1))
        ),
        *({"keep": keep} for keep in (0, -1, 1.5, True, None)),
    ],
)
def test_options_that_cannot_be(tmp_path, options):
    with pytest.raises(mm.OptionError):
        mm.vacuum(make(tmp_path / "s.mm", 0), **options)


def test_no_store(tmp_path):
    with pytest.raises(mm.StoreNotFoundError):
        mm.vacuum(tmp_path / "none.mm")
    (tmp_path / "folder").mkdir()
    with pytest.raises(mm.StoreNotFoundError):
        mm.vacuum(tmp_path / "folder", keep=1, grace=0)
    assert os.listdir(tmp_path / "folder") == []


def test_a_damaged_manifest_that_stays_stops_it(tmp_path):
    path = make(tmp_path / "s.mm", 3)
    mm.compact(path, progress=False)
    Path(history_path(path, 3)).write_text("nonsense")
    for dry in (True, False):
        with pytest.raises(mm.CorruptStoreError, match="00000003.json") as caught:
            mm.vacuum(path, keep=3, grace=0, dry_run=dry)
        assert "nothing was removed" in caught.value.__notes__[0]
    assert len(layers(path)) == 5
    assert mm.vacuum(path, keep=2, grace=0).n_generations == 3, "one that goes may be damaged"
    assert generations(path) == [4, 5]
    assert mm.verify(path).ok


def test_the_report_in_words(tmp_path):
    path = make(tmp_path / "s.mm", 1)
    mm.compact(path, progress=False)
    text = str(mm.vacuum(path, keep=1))
    assert text == f"{path}: removed 0 layers, 0 old generations, 0 files in all, 0 B; 4 more ({text.split('(')[1]}"
    assert text.endswith(" stay until the grace period is over")
    assert "would remove 2 layers, 2 old generations, 8 files in all" in str(
        mm.vacuum(path, keep=1, grace=0, dry_run=True)
    )


# Others at work, and failures ----------------------------------------------------------------------------------------


def test_a_writer_whose_layers_were_removed_finds_out(tmp_path, monkeypatch):
    from mmdask.rows.views import derived

    path = make(tmp_path / "s.mm", 0)
    original = derived.commit

    def commit(*args, **kwargs):
        assert mm.vacuum(path, grace=0).n_layers == 1
        return original(*args, **kwargs)

    monkeypatch.setattr(derived, "commit", commit)
    with pytest.raises(mm.ConflictError, match="removed meanwhile by vacuum"), mm.append(path) as w:
        w.append({"x": 1, "y": 1.0})
    assert mm.open(path)["x"].compute().tolist() == [0]
    assert mm.verify(path).ok


def test_a_writer_that_gives_up_while_a_vacuum_runs(tmp_path, monkeypatch):
    """Both remove the same layers."""
    path = make(tmp_path / "s.mm", 1)
    mm.compact(path, progress=False)
    original = vacuum._set_aside
    with mm.append(path, part_nbytes=1) as w:
        w.extend({"x": [1, 2, 3], "y": [1.0, 2.0, 3.0]})

        def set_aside(storage, found):
            assert len(found.layers) == 5, "three of the writer, and two that were merged"
            w.abort()
            original(storage, found)

        monkeypatch.setattr(vacuum, "_set_aside", set_aside)
        mm.vacuum(path, keep=1, grace=0)
    assert layers(path) == list(read_manifest(path).parts[0].layers)
    assert mm.open(path)["x"].compute().tolist() == [0, 1]
    assert mm.verify(path).ok


def test_what_goes_is_named_away_before_anything_of_it_is_deleted(tmp_path, monkeypatch):
    """History first, durably; then layers under another name, durably; then their files, without the lock."""
    path = make(tmp_path / "s.mm", 1)
    mm.compact(path, progress=False)
    calls = []

    class Recording(System):
        def __getattribute__(self, name):
            method = object.__getattribute__(self, name)
            if name in ("unlink", "rename", "fsync_folder", "rmdir", "remove_tree"):
                return lambda *args: (calls.append((name, *(os.path.relpath(a, path) for a in args))), method(*args))[1]
            return method

    monkeypatch.setattr(local, "SYSTEM", Recording())
    mm.vacuum(path, keep=1, grace=0)
    names = [c[0] for c in calls]
    assert calls[:3] == [
        ("unlink", "history/00000001.json"),
        ("unlink", "history/00000002.json"),
        ("fsync_folder", "history"),
    ]
    assert names[3:6] == ["rename", "rename", "fsync_folder"]
    assert calls[5] == ("fsync_folder", "parts")
    assert all(".tmp-vacuum-" in c[2] for c in calls[3:5])
    assert all(".tmp-vacuum-" in c[1] for c in calls[6:])
    assert len([c for c in calls[6:] if c[0] == "remove_tree"]) >= 2


class Stop(BaseException):
    pass


def test_stopped_at_any_call_the_store_is_whole_and_the_next_one_finishes(tmp_path, monkeypatch):
    names = ("unlink", "rename", "fsync_folder", "rmdir")
    for k in range(1, 100):
        path = make(tmp_path / f"{k}.mm", 2)
        mm.compact(path, progress=False)
        Path(path, "parts", "0" * 16 + ".tmp-1").mkdir()
        calls = []

        class Stopping(System):
            def __getattribute__(self, name, calls=calls, k=k):
                if name in names:
                    calls.append(name)
                    if len(calls) >= k:
                        raise Stop
                return object.__getattribute__(self, name)

        with monkeypatch.context() as patch:
            patch.setattr(local, "SYSTEM", Stopping())
            try:
                mm.vacuum(path, keep=1, grace=0)
                stopped = False
            except Stop:
                stopped = True
        assert mm.open(path)["x"].compute().tolist() == [0, 1, 2]
        assert mm.verify(path).ok
        for g in generations(path):
            assert len(mm.open(path, generation=g)["x"].compute()) == min(g, 3)
        mm.vacuum(path, keep=1, grace=0)
        assert layers(path) == list(read_manifest(path).parts[0].layers)
        assert generations(path) == [4]
        if not stopped:
            break
    assert k > 10


def test_killed_at_random_moments(tmp_path):
    path = make(tmp_path / "s.mm", 0)
    code = """
        import sys
        import mmdask as mm
        for i in range(10_000):
            with mm.append(sys.argv[1]) as w:
                w.append({"x": 1, "y": 0.5})
            mm.compact(sys.argv[1], progress=False)
            mm.vacuum(sys.argv[1], keep=2, grace=0)
            print(i, flush=True)
    """
    done = 0
    for k in range(4):
        child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), path], stdout=subprocess.PIPE)
        with child.stdout as out:
            lines = [out.readline()]
            assert lines[0] == b"0\n"
            time.sleep(0.05 + 0.037 * k)
            child.kill()
            lines += out.readlines()
        assert child.wait() == -signal.SIGKILL
        done += len(lines)
        assert mm.verify(path).ok
        assert len(mm.open(path)) >= 1 + done
        done = len(mm.open(path)) - 1
    mm.vacuum(path, keep=1, grace=0)
    assert set(layers(path)) == read_manifest(path).layers
    assert sorted(os.listdir(path)) == [".lock", "history", "manifest.json", "parts"]


def test_appenders_in_other_processes_lose_nothing(tmp_path):
    path = make(tmp_path / "s.mm", 0)
    code = """
        import sys
        import mmdask as mm
        for i in range(15):
            with mm.append(sys.argv[1]) as w:
                w.append({"x": 1, "y": 0.5})
    """
    processes = [subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), path]) for _ in range(2)]
    while any(p.poll() is None for p in processes):
        mm.compact(path, progress=False)
        mm.vacuum(path, keep=1, grace="1h")
    assert [p.returncode for p in processes] == [0, 0]
    assert len(mm.open(path)) == 31
    assert mm.verify(path).ok


def test_the_lock_is_held_while_it_is_decided(tmp_path, monkeypatch):
    path = make(tmp_path / "s.mm", 0)
    monkeypatch.setattr(local, "LOCK_SECONDS", 0.05)
    with local.locked(path), pytest.raises(mm.ConflictError, match="committing"):
        mm.vacuum(path)
    with local.locked(path):
        mm.vacuum(path, dry_run=True)  # which only looks
    assert SYSTEM is local.SYSTEM
    assert json.loads(Path(path, "manifest.json").read_text())["generation"] == 1


@pytest.mark.parametrize(
    ("n", "words"),
    [
        (1, "s.mm: removed 1 layer, 1 old generation, 1 file in all, 1 B; 1 more (1 B) stays until the grace"),
        (2, "s.mm: removed 2 layers, 2 old generations, 2 files in all, 2 B; 2 more (2 B) stay until the grace"),
    ],
)
def test_one_of_a_thing_is_singular(n, words):
    assert str(mm.VacuumReport("s.mm", n, n, n, n, n, n, False)) == f"{words} period is over"
