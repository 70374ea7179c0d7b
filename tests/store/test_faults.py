"""The fault campaign in its quick form, and tests of the campaign itself: it must see what it is there to see."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import mmdask as mm
from mmdask.store.snapshot import open_snapshot
from tests.faults import mutants
from tests.faults.__main__ import CAMPAIGNS
from tests.faults.content import ALL, FEW, Wrong, check_store, new_state, state_of
from tests.faults.images import DATA, NAMES, Disk, Recording, write_image
from tests.faults.readers import check_any
from tests.faults.report import Result, table
from tests.faults.steps import append, make, steps
from tests.faults.systems import Failing, Watched, installed
from tests.faults.tidy import check_layers_whole, check_tidy, left_over

ROOT = Path(__file__).parents[2]


def campaign(*arguments):
    """Run it as a user does: in a process of its own, where it may fork."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    command = [sys.executable, "-m", "tests.faults", *arguments, "--json"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=3600)
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", list(CAMPAIGNS))
def test_campaign(name):
    [found] = campaign(name, "--scale", "quick")
    assert found["failures"] == []
    assert sum(found["counts"].values()) > 0


def test_every_mutant_can_be_made():
    mutants.check_edits()
    assert len({m.name for m in mutants.MUTANTS}) == len(mutants.MUTANTS)
    assert {m.campaign for m in mutants.MUTANTS} | {"mutants"} == set(CAMPAIGNS)


# ---- order of calls


class Order(Watched):
    """Knows which files and names are not yet durable, and refuses to name a thing that is not."""

    def __init__(self):
        super().__init__()
        self.dirty = {}  # inode: path, of files written since their last sync
        self.folders = set()  # folders in which names changed since their last sync
        self.renamed = []

    def around(self, name, args, call):
        if name in ("write", "truncate", "fsync"):
            inode = os.fstat(args[0]).st_ino
            self.dirty[inode] = "written"
            if name == "fsync":
                del self.dirty[inode]
        if name == "rename":
            old = args[0]
            inside = [os.path.join(old, f) for f in os.listdir(old)] if os.path.isdir(old) else [old]
            assert not [f for f in inside if os.stat(f).st_ino in self.dirty], "named before its bytes are durable"
            assert old not in self.folders, "named before the names in it are durable"
            self.renamed.append(args[1])
        if name in ("create", "mkdir", "rename", "unlink", "rmdir"):
            self.folders.add(os.path.dirname(args[-1]))
        result = call()
        if name == "create":
            self.dirty[os.fstat(result).st_ino] = args[0]
        if name == "fsync_folder":
            self.folders.discard(args[0])
        return result


def test_everything_is_durable_before_it_is_named(tmp_path):
    path = str(tmp_path / "s.mm")
    for number in range(2):
        order = Order()
        with installed(order):
            if number:
                append(path, new_state(ALL, ()), range(3))
            else:
                make(path, ALL, range(3))
        assert [os.path.basename(n) for n in order.renamed[1:]] == [f"{number + 1:08d}.json", "manifest.json"]
        assert not order.folders & {path, f"{path}/parts", f"{path}/history", str(tmp_path)}


def test_a_failed_sync_ends_the_writer(tmp_path):
    """After one the system may have dropped what was written, so that another sync would succeed for nothing."""
    path = str(tmp_path / "s.mm")
    state = make(path, FEW, range(3))
    failing = Failing(1, lambda: OSError(errno.EIO, "no"))
    failing.count = lambda name: failing.__dict__.setdefault("n", 0) + (name == "fsync")
    with pytest.raises(mm.OptionError, match="lost"), mm.append(path, labels={"label": "of 0"}) as w:
        w.extend(state.rows(range(3, 5)))
        with installed(failing), pytest.raises(OSError, match="no"):
            w.checkpoint()
        with pytest.raises(mm.OptionError):
            w.extend(state.rows(range(5, 6)))
        with pytest.raises(mm.OptionError):
            w.checkpoint()
    check_store(path, state)
    mm.vacuum(path, grace=0)
    check_tidy(path)


# ---- the disk that power losses are tried on


def recorded(tmp_path, work):
    recording = Recording(str(tmp_path))
    with installed(recording):
        work(str(tmp_path))
    disk = Disk()
    for op in recording.ops:
        disk.do(op)
    return disk


def images(disk, names=NAMES, data=DATA, n=40):
    rng = random.Random(1)
    return [disk.image(a, b, rng) for a in names for b in data for _ in range(n)]


def test_a_disk_keeps_what_was_synced(tmp_path):
    from mmdask.store.system import SYSTEM, write_atomically

    def work(base):
        SYSTEM.mkdir(f"{base}/d")
        SYSTEM.fsync_folder(base)
        write_atomically(f"{base}/d/f", b"a" * 2000)

    assert [i for i in images(recorded(tmp_path, work)) if i != {"d/f": b"a" * 2000}] == []


def test_a_disk_loses_and_tears_what_was_not(tmp_path):
    from mmdask.store.system import SYSTEM, write_atomically

    def work(base):
        write_atomically(f"{base}/f", b"a" * 2000)
        fd = SYSTEM.open_or_create(f"{base}/f")
        SYSTEM.write(fd, b"b" * 2000, 100)
        os.close(fd)
        os.close(SYSTEM.create(f"{base}/g"))
        SYSTEM.rename(f"{base}/g", f"{base}/h")

    seen = images(recorded(tmp_path, work))
    assert {frozenset(i) for i in seen} == {frozenset(s) for s in ({"f"}, {"f", "g"}, {"f", "h"})}
    old, new = b"a" * 2000, b"a" * 100 + b"b" * 2000
    contents = {i["f"] for i in seen}
    assert {old, new, new[:2000], old + bytes(100)} <= contents
    torn = [c for c in contents if b"a" in c[600:] and b"b" in c]
    assert len(torn) > 5
    for content in torn:  # in whole sectors
        assert all(len(set(content[a : a + 512])) <= 2 for a in range(512, 2000, 512))


def test_an_image_of_all_calls_is_what_is_there(tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    for step in steps(FEW):
        path = base / f"{step.name}.mm"
        step.prepare(str(path))
    recording = Recording(str(base))
    for entry in sorted(base.iterdir()):
        recording.adopt_tree(str(entry))
    with installed(recording):
        for step in steps(FEW):
            step.run(str(base / f"{step.name}.mm"), lambda: None)
    disk = Disk()
    for op in recording.ops:
        disk.do(op)
    write_image(disk.image("all", "all", random.Random(0)), str(tmp_path / "image"))
    assert tree(tmp_path / "image") == tree(base)


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


# ---- what the campaigns compare with


def test_wrong_stores_are_seen(tmp_path):
    path = str(tmp_path / "s.mm")
    state = make(path, ALL, range(5), range(100_000, 100_003))
    check_store(path, state)
    for other in (state.with_rows([7]), state.with_field("x", 1), state.without_field("t"), new_state(ALL, range(8))):
        with pytest.raises(Wrong):
            check_store(path, other)
        with pytest.raises(Wrong):
            state_of(path, [other, None])
    assert state_of(path, [None, state]) is state
    assert check_any(open_snapshot(path)).ids == state.ids
    for name in ALL[1:]:
        with pytest.raises(Wrong):
            check_store(path, state.with_field(name, 1))


def test_what_is_left_over_is_seen(tmp_path):
    path = tmp_path / "s.mm"
    make(str(path), FEW, range(5))
    check_tidy(str(path))
    for name in ("parts/0.tmp-1/a", "parts/abc/b", "manifest.json.tmp-1", "history/00000009.json"):
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_bytes(b"")
    assert left_over(str(path)) == sorted(
        [
            "parts/0.tmp-1/",
            "parts/0.tmp-1/a",
            "parts/abc/",
            "parts/abc/b",
            "manifest.json.tmp-1",
            "history/00000009.json",
        ]
    )
    with pytest.raises(Wrong, match="abc"):
        check_layers_whole(str(path))


def test_a_campaign_in_which_nothing_happens_fails():
    result = Result("x")
    result.counts["kills"] = 3
    result.need("kills", 3)
    assert result.ok
    result.need("commits acknowledged", 1)
    assert result.failures == ["only 0 commits acknowledged, expected 1 or more"]
    assert "| x | 3 kills | 1 | 0 |" in table([result])


@pytest.mark.parametrize("bug", ["raise TypeError('a bug')", "print('a warning', file=sys.stderr)", "os._exit(0)"])
def test_children_that_do_not_die_by_the_kill_are_seen(bug):
    script = f"""
        import os, sys
        from tests.faults import kills
        real = kills.do
        def do(path, state, op, done):
            real(path, state, op, done)
            {bug}
        kills.do = do
        print([bool(kills.run(2, n_readers=0).failures)])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[True]\n", done.stderr
