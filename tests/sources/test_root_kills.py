"""Conversions that are killed at any moment: what was finished is never read again, and the same call ends it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from root_tools import check, events, read_store, write_tree

import mmdask as mm
from mmdask.sources.converting.conversion import convert
from mmdask.sources.converting.inputs import find_inputs
from mmdask.sources.root.reader import RootFiles
from mmdask.store.layer import read_layer

#: each a part of its own: more would become one
N_FILES = 32


@pytest.fixture
def chunks():
    return [[events(20, seed)] for seed in range(N_FILES)]


@pytest.fixture
def files(tmp_path, chunks):
    return [write_tree(tmp_path / f"{i:02d}.root", of_file) for i, of_file in enumerate(chunks)]


class Slow(RootFiles):
    """Writes down which files are decoded, and takes its time; after so many it waits for the kill, however late."""

    log, most = "", N_FILES
    pause = 0.01

    def open(self, table):
        with open(self.log, "a") as f:
            f.write(f"{os.path.basename(table.source.path)}\n")
        time.sleep(self.pause if len(Path(self.log).read_text().split()) <= self.most else 600)
        return super().open(table)


def finished(out):
    """The files whose rows are in the store's folder, complete."""
    found = []
    for path in Path(out, "parts").glob("*/part.json"):
        if ".tmp-" not in path.parent.name:
            found += [os.path.basename(s.uri) for s in read_layer(out, path.parent.name).sources]
    return set(found)


def convert_slowly(files, out, log, most=N_FILES):
    Slow.log, Slow.most = str(log), most
    convert(
        find_inputs(files, None)[0], [], out, Slow(None, (), 1 << 30), update=False, missing="error", progress=False
    )


def test_twenty_kills_of_one_process(files, chunks, tmp_path):
    out, log = str(tmp_path / "o.mm"), tmp_path / "log"
    rng = random.Random(7)
    for _ in range(20):
        before = finished(out) if os.path.isdir(out) else set()
        log.write_text("")
        begun, ended = rng.choice([(0, 0), (1, 0), (2, 0), (2, 1)])
        pid = os.fork()
        if not pid:  # pragma: no cover  (in another process)
            try:
                convert_slowly(files, out, log, begun)
            finally:
                os._exit(1)
        wait_for(lambda begun=begun: len(log.read_text().split()) >= begun)
        wait_for(lambda n=ended, before=before: not n or len(finished(out) - before) >= n)
        time.sleep(rng.uniform(0, 0.02))
        os.kill(pid, signal.SIGKILL)
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
        decoded = log.read_text().split()
        assert not before & set(decoded), "what was finished is not read again"
        assert len(set(decoded)) == len(decoded)
        with pytest.raises((mm.UnfinishedError, mm.StoreNotFoundError)):
            mm.open(out)
    before = finished(out)
    assert 0 < len(before) < N_FILES
    log.write_text("")
    convert_slowly(files, out, log)
    assert set(log.read_text().split()) == {os.path.basename(f) for f in files} - before
    check(out, *(chunk for of_file in chunks for chunk in of_file))
    mm.vacuum(out, grace=0)
    assert mm.verify(out).ok


SCRIPT = """
import os, sys, time
from mmdask.sources.converting.conversion import convert
from mmdask.sources.converting import workers
from mmdask.sources.converting.inputs import find_inputs
from mmdask.sources.root.reader import RootFiles

out, log, n, most = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
workers._PATIENCE = 300  # they may be slow to tidy up

class Slow(RootFiles):
    # of a script without main guard, and a lambda: both reach the workers
    pause = lambda self: time.sleep(0.1)

    def open(self, table):
        with open(log, "a") as f:
            f.write(f"{os.path.basename(table.source.path)} {os.getpid()}\\n")
        self.pause()
        # after so many it waits for what is done to it, which may come late
        while len(open(log).readlines()) > most and not os.path.exists(log + ".go"):
            time.sleep(0.01)
        return super().open(table)

options = {"update": False, "missing": "error", "progress": False, "workers": n}
convert(find_inputs(sys.argv[5:], None)[0], [], out, Slow(None, (), 1 << 30), **options)
"""


def start(files, out, log, most=N_FILES, **options):
    log.write_text("")
    command = [sys.executable, "-c", SCRIPT, str(out), str(log), "2", str(most), *files]
    return subprocess.Popen(command, start_new_session=True, **options)


def wait_for_both(log):
    """Until both workers have begun, and several files."""
    wait_for(lambda: len(lines(log)) > 2 and len({pid for _, pid in lines(log)}) == 2)


def let_go(log):
    """Workers that wait go on."""
    Path(f"{log}.go").touch()


def wait_for(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.01)


def lines(log):
    return [line.split() for line in log.read_text().splitlines()]


def gone(pids):
    return not any(os.path.exists(f"/proc/{pid}") and _state(pid) != "Z" for pid in pids)


def _state(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"


@pytest.mark.parametrize("whole_group", [True, False])
def test_kills_of_workers(files, chunks, tmp_path, whole_group):
    """The whole group, or this process alone, after which no worker is left."""
    out, log = str(tmp_path / "o.mm"), tmp_path / "log"
    rng = random.Random(whole_group)
    before = set()
    for _ in range(2):
        process = start(files, out, log, 8)
        wait_for_both(log)
        wait_for(lambda before=before: before < finished(out))
        time.sleep(rng.uniform(0, 0.3))
        (os.killpg if whole_group else os.kill)(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        pids = {int(pid) for _, pid in lines(log)}
        assert len(pids) == 2
        assert process.pid not in pids
        wait_for(lambda pids=pids: gone(pids))
        assert not before & {name for name, _ in lines(log)}
        assert not Path(out, "manifest.json").exists()
        before = finished(out)
    assert 0 < len(before) < N_FILES
    assert start(files, out, log).wait() == 0
    decoded = [name for name, _ in lines(log)]
    assert sorted(decoded) == sorted({os.path.basename(f) for f in files} - before), "each once, and the rest only"
    check(out, *(chunk for of_file in chunks for chunk in of_file))
    assert mm.verify(out).ok


def test_interrupted_from_the_keyboard(files, chunks, tmp_path):
    """The terminal sends it to all processes; workers end their field and tidy up, and nothing is left of them."""
    out, log = str(tmp_path / "o.mm"), tmp_path / "log"
    process = start(files, out, log, 8, stderr=subprocess.PIPE, text=True)
    wait_for_both(log)
    os.killpg(process.pid, signal.SIGINT)
    let_go(log)
    _, err = process.communicate(timeout=300)
    assert err.count("Traceback") == 1, err
    assert "KeyboardInterrupt" in err
    wait_for(lambda: gone({int(pid) for _, pid in lines(log)}))
    assert not [p for p in Path(out, "parts").iterdir() if ".tmp-" in p.name]
    before = finished(out)
    assert start(files, out, log).wait() == 0
    assert not before & {name for name, _ in lines(log)}
    assert read_store(out)["number"].tolist() == [n for of in chunks for n in of[0]["number"].tolist()]


def test_a_worker_that_dies(files, tmp_path):
    out, log = str(tmp_path / "o.mm"), tmp_path / "log"
    process = start(files, out, log, 8, stderr=subprocess.PIPE, text=True)
    wait_for_both(log)
    os.kill(int(lines(log)[0][1]), signal.SIGKILL)
    let_go(log)
    _, err = process.communicate(timeout=300)
    assert "mmdask.errors.WorkerError: a worker process died" in err
    assert process.returncode == 1
    wait_for(lambda: gone({int(pid) for _, pid in lines(log)}))
    before = finished(out)
    assert start(files, out, log).wait() == 0
    assert not before & {name for name, _ in lines(log)}
    assert len(mm.open(out)) == 20 * N_FILES
