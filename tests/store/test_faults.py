"""Every failing system call leaves the old state or the new one; every damaged byte is found."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import mmdask as mm
from mmdask.store.document import dump
from mmdask.store.manifest import read_manifest
from mmdask.store.npy import checksum
from mmdask.store.system import System


class FailingSystem(System):
    """Fails its k-th mutating call, and every later one if it is to stay broken."""

    names = ("create", "write", "fsync", "fsync_folder", "rename", "mkdir", "unlink", "rmdir")

    def __init__(self, k, error, forever):
        self.k, self.error, self.forever, self.calls = k, error, forever, 0

    def __getattribute__(self, name):
        method = object.__getattribute__(self, name)
        if name not in FailingSystem.names:
            return method

        def call(*args):
            self.calls += 1
            if self.calls == self.k or (self.forever and self.calls > self.k):
                raise OSError(self.error, os.strerror(self.error))
            return method(*args)

        return call


def use(monkeypatch, fake):
    for module in [m for n, m in sys.modules.items() if n.startswith("mmdask.store") and hasattr(m, "SYSTEM")]:
        monkeypatch.setattr(module, "SYSTEM", fake)


@pytest.mark.parametrize("forever", [False, True])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_every_failing_call_leaves_the_old_or_the_new_state(tmp_path, monkeypatch, error, forever):
    start = tmp_path / "start.mm"
    with mm.create(start) as w:
        w.extend({"x": [1, 2], "r": [[1], []]})
    outcomes = set()
    for k in range(1, 200):
        path = tmp_path / "s.mm"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(start, path)
        fake = FailingSystem(k, error, forever)
        with monkeypatch.context() as patch:
            use(patch, fake)
            try:
                with mm.append(path) as w:
                    w.extend({"x": [3], "r": [[2, 3]]})
                failed = False
            except OSError:
                failed = True
        rows = mm.open(path)["x"].compute().tolist()
        assert rows in ([1, 2], [1, 2, 3])
        assert failed or rows == [1, 2, 3], "a commit that returns is there"
        assert mm.verify(path).ok
        with mm.append(path) as w:  # and the next commit succeeds
            w.extend({"x": [4], "r": [[]]})
        assert mm.open(path)["x"].compute().tolist() == [*rows, 4]
        outcomes.add((failed, len(rows)))
        if fake.calls < k:
            break
    assert k > 15
    assert {(True, 2), (False, 3)} <= outcomes


def test_every_failing_call_of_a_creation_leaves_a_path_that_can_be_used(tmp_path, monkeypatch):
    for k in range(1, 200):
        path = tmp_path / f"{k}.mm"
        fake = FailingSystem(k, errno.ENOSPC, True)
        with monkeypatch.context() as patch:
            use(patch, fake)
            try:
                with mm.create(path) as w:
                    w.extend({"x": [1]})
                failed = False
            except OSError:
                failed = True
        if failed and not (path / "manifest.json").exists():
            with pytest.raises(mm.StoreNotFoundError):
                mm.open(path)
            with mm.create(path) as w:
                w.extend({"x": [1]})
        assert mm.open(path)["x"].compute().tolist() == [1]
        if fake.calls < k:
            break
    assert k > 10


class SyncingSystem(System):
    """Knows which files and names are not yet durable, and refuses to name a thing that is not."""

    def __init__(self):
        self.dirty = {}  # inode: path, of files written since their last sync
        self.folders = set()  # folders in which names changed since their last sync
        self.renamed = []

    def create(self, path):
        fd = super().create(path)
        self.dirty[os.fstat(fd).st_ino] = path
        self.folders.add(os.path.dirname(path))
        return fd

    def write(self, fd, data, offset):
        self.dirty.setdefault(os.fstat(fd).st_ino, "written")
        super().write(fd, data, offset)

    def mkdir(self, path):
        super().mkdir(path)
        self.folders.add(os.path.dirname(path))

    def fsync(self, fd):
        self.dirty.pop(os.fstat(fd).st_ino, None)
        super().fsync(fd)

    def fsync_folder(self, path):
        self.folders.discard(path)
        super().fsync_folder(path)

    def rename(self, old, new):
        inside = [os.path.join(old, f) for f in os.listdir(old)] if os.path.isdir(old) else [old]
        assert not [f for f in inside if os.stat(f).st_ino in self.dirty], "named before its bytes are durable"
        assert old not in self.folders, "named before the names in it are durable"
        super().rename(old, new)
        self.folders.add(os.path.dirname(new))
        self.renamed.append(new)


def test_everything_is_durable_before_it_is_named(tmp_path, monkeypatch):
    path = tmp_path / "s.mm"
    fake = SyncingSystem()
    use(monkeypatch, fake)
    for k in range(2):
        with mm.append(path) if k else mm.create(path) as w:
            w.extend({"x": [1], "r": [[1]], "q": [[2]], "t": ["a"]})
        assert [os.path.basename(n) for n in fake.renamed[1:]] == [f"{k + 1:08d}.json", "manifest.json"]
        assert str(path) not in fake.folders
        assert str(path / "parts") not in fake.folders
        assert str(path / "history") not in fake.folders
        assert str(tmp_path) not in fake.folders
        fake.renamed.clear()


def test_kill_at_random_moments_loses_no_commit(tmp_path):
    """kill -9 of a process that appends in a loop: every acknowledged commit is there, and none is half there."""
    path = tmp_path / "s.mm"
    with mm.create(path) as w:
        w.extend({"x": [0], "r": [[0]]})
    script = textwrap.dedent("""
        import sys, mmdask as mm
        i = int(sys.argv[2])
        while True:
            with mm.append(sys.argv[1]) as w:
                w.extend({"x": [i] * 50, "r": [[i]] * 50})
            print(i, flush=True)
            i += 1
    """)
    rng = random.Random(1)
    acknowledged = [0]
    for _ in range(6):
        start = max(acknowledged) + 100
        child = subprocess.Popen(
            [sys.executable, "-c", script, str(path), str(start)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        first = child.stdout.readline()
        try:
            child.wait(rng.uniform(0.01, 0.15))
        except subprocess.TimeoutExpired:
            child.kill()
        out, err = child.communicate()
        assert (child.returncode, err) == (-signal.SIGKILL, "")
        acknowledged += [int(line) for line in (first + out).split()]
        ds = mm.open(path)
        x = ds["x"].compute()
        values, counts = np.unique(x[x > 0], return_counts=True)
        assert set(acknowledged) - {0} <= set(values.tolist())
        assert set(counts.tolist()) == {50}
        assert ds["r"].sum().compute().tolist() == x.tolist()
        assert mm.verify(path).ok
    assert len(acknowledged) > 12


@pytest.fixture
def damaged(tmp_path):
    """A store with every kind of field and two parts, and a way to make damaged copies of it."""
    path = tmp_path / "s.mm"
    rng = np.random.default_rng(1)
    with mm.create(path, fields=[mm.Field.category("c")], labels={"process": "p"}) as w:
        w.extend(
            {
                "c": ["a", "b"] * 500,
                "x": rng.normal(size=(1000, 3)),
                "r": [[i] * (i % 4) for i in range(1000)],
                "t": [str(i) for i in range(1000)],
            }
        )
    with mm.append(path, labels={"process": "q"}) as w:
        w.extend({"c": ["b"], "x": np.zeros((1, 3)), "r": [[1]], "t": ["z"]})
    return path


def test_every_changed_byte_is_found(damaged, tmp_path):
    rng = random.Random(2)
    files = [p for p in damaged.rglob("*") if p.is_file() and "history" not in p.parts and p.name != ".lock"]
    assert len(files) > 12
    for n in range(300):
        file = rng.choice(files)
        data = bytearray(file.read_bytes())
        original = bytes(data)
        kind = n % 4
        at = rng.randrange(len(data))
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            data[at : at + 64] = bytes(len(data[at : at + 64]))
        else:
            data += b"x"
        if bytes(data) == original:
            continue
        file.write_bytes(data)
        if file.name == "manifest.json":
            with pytest.raises((mm.CorruptStoreError, mm.FormatError)):
                mm.open(damaged)
        else:
            report = mm.verify(damaged)
            assert not report.ok
            assert {p.file for p in report.problems} == {str(file.relative_to(damaged))}
        file.write_bytes(original)
    assert mm.verify(damaged).ok


def test_verify_names_file_field_and_rows(damaged):
    big = max(damaged.glob("parts/*/*-t.npy"), key=lambda f: f.stat().st_size)
    data = bytearray(big.read_bytes())
    data[4096 + 10] ^= 1
    big.write_bytes(data)
    [problem] = mm.verify(damaged).problems
    assert problem.field == "t"
    assert problem.rows[0] <= 10 < problem.rows[1] <= 1000
    assert problem.file == str(big.relative_to(damaged))
    assert "differ" in problem.message


def test_a_wrong_size_is_found_before_the_first_byte_is_used(damaged):
    script = textwrap.dedent("""
        import sys, mmdask as mm
        ds = mm.open(sys.argv[1])
        try:
            ds["x"].compute()
        except mm.CorruptStoreError as error:
            print(error)
    """)
    big = max(damaged.glob("parts/*/*-x.npy"), key=lambda f: f.stat().st_size)
    with open(big, "r+b") as file:
        file.truncate(5000)
    done = subprocess.run([sys.executable, "-c", script, str(damaged)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "has 5000 bytes, should have 28096" in done.stdout


def rewrite(path, change):
    """Change a document and give it a fitting checksum, as a stranger could."""
    data = json.loads(path.read_bytes())
    del data["checksum"]
    change(data)
    path.write_bytes(dump(data))


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(version=2),
        lambda d: d.update(requires=["compression"]),
        lambda d: d.update(format="zarr"),
        lambda d: d.update(block_rows=3),
        lambda d: d.update(block_rows=True),
        lambda d: d.update(uuid="../../etc"),
        lambda d: d.update(generation=-1),
        lambda d: d.update(generation=2**64),
        lambda d: d["parts"].update(rows=[-1, 1]),
        lambda d: d["parts"].update(rows=[1]),
        lambda d: d["parts"].update(rows=[2**62, 2**62]),
        lambda d: d["parts"].update(rows=[1.5, 1]),
        lambda d: d["parts"].update(layers=[["../x"], ["y"]]),
        lambda d: d["parts"].update(layers=[[], ["y"]]),
        lambda d: d["fields"][0].update(dtype="|O"),
        lambda d: d["fields"][0].update(dtype="<f8,O"),
        lambda d: d["fields"][0].update(dtype="|V2147483647"),
        lambda d: d["fields"][0].update(kind="pickle"),
        lambda d: d["fields"][0].update(name=""),
        lambda d: d["fields"][0].update(name="a\x1b[2J"),
        lambda d: d["fields"][1].update(name=d["fields"][0]["name"]),
        lambda d: d.update(fields={}),
        lambda d: d.update(attrs=[]),
        lambda d: d.pop("uuid"),
        lambda d: d.pop("parts"),
    ],
)
def test_hostile_manifests_are_refused(damaged, change):
    rewrite(damaged / "manifest.json", change)
    with pytest.raises(mm.FormatError, match=r"manifest\.json"):
        read_manifest(damaged)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(id="other"),
        lambda d: d.update(rows=5),
        lambda d: d.update(version=2),
        lambda d: d["arrays"][0].update(file="../../../etc/passwd"),
        lambda d: d["arrays"][0].update(file="/etc/passwd"),
        lambda d: d["arrays"][0].update(dtype="|O"),
        lambda d: d["arrays"][0].update(shape=[2**62, 2**62]),
        lambda d: d["arrays"][0].update(shape=[-1]),
        lambda d: d["arrays"][0].update(shape=[True]),
        lambda d: d["arrays"][0].update(checksums=[]),
        lambda d: d["fields"]["x"].update(values=99),
        lambda d: d["fields"]["x"].update(kind="ragged"),
        lambda d: d["fields"]["r"].update(offsets=[99]),
        lambda d: d["fields"]["r"].update(offsets=[d["fields"]["x"]["values"]]),
        lambda d: d["fields"].pop("x"),
        lambda d: d["fields"].update(x={"kind": "dense", "constant": [1]}),
    ],
)
def test_hostile_parts_are_refused(damaged, change):
    [info] = [p for p in damaged.glob("parts/*/part.json") if json.loads(p.read_bytes())["rows"] == 1000]
    rewrite(info, change)
    script = (
        "import sys, mmdask as mm\nds = mm.open(sys.argv[1])\n"
        "try:\n    [ds[name].compute() for name in ds]\n"
        "except (mm.FormatError, mm.CorruptStoreError) as error:\n    print('refused', error)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(damaged)], capture_output=True, text=True)
    assert done.stdout.startswith("refused"), done.stderr


def test_nonsense_json_is_refused(damaged):
    path = damaged / "manifest.json"
    nonsense = [b'"a": NaN\n}', b'"a": 1, "a": 2\n}', b'"a": ' + b"[" * 100_000, b'"a": 1e999, }', b'"a": 1' * 9]
    for text in [*nonsense, b'"a": ' + b"9" * 5000 + b"}"]:
        path.write_bytes(b'{"checksum": "xxh3_64:' + checksum(text).encode() + b'",\n' + text)
        with pytest.raises(mm.FormatError):
            mm.open(damaged)


def test_offsets_that_lead_astray_are_found_when_read(damaged):
    """A writer that wrote nonsense under fitting checksums: the rows are refused, not read out of bounds."""
    [info] = [p for p in damaged.glob("parts/*/part.json") if json.loads(p.read_bytes())["rows"] == 1000]
    [file] = info.parent.glob("*-r.offsets.npy")
    data = np.load(file)
    data[500] = 10**15
    raw = file.read_bytes()[:4096] + data.tobytes()
    file.write_bytes(raw)
    script = textwrap.dedent("""
        import sys, numpy as np, mmdask as mm
        ds = mm.open(sys.argv[1])
        for read in (lambda: ds["r"].compute(), lambda: ds["r"].sum().compute(),
                     lambda: ds[[499, 3]], lambda: list(ds.batches(64, fields=["r"]))):
            try:
                read()
            except mm.CorruptStoreError as error:
                print("refused")
    """)
    done = subprocess.run([sys.executable, "-c", script, str(damaged)], capture_output=True, text=True)
    assert done.stdout.split() == ["refused"] * 4, done.stderr
