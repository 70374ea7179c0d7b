"""Conversions that several processes share: the same store, errors, progress and memory as with one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import uproot
from root_tools import check, events, part_layers, read_store, sources, write_tree

import mmdask as mm
from mmdask.dataset.making.dask_workers import DaskWorkers, workers_of
from mmdask.errors import WorkerError
from mmdask.sources.converting import conversion, jobs, target, workers
from mmdask.sources.converting.workers import Here, Processes, make_workers
from mmdask.sources.root import convert_root

CHUNKS = [[events(20 + 5 * i, i)] for i in range(4)]


@pytest.fixture
def files(tmp_path):
    return [write_tree(tmp_path / f"{i}.root", of) for i, of in enumerate(CHUNKS)]


@pytest.fixture
def out(tmp_path):
    return tmp_path / "o.mm"


def run(files, out, **options):
    return convert_root(files, out, **{"progress": False, "workers": 2, **options})


def square(x, tell):
    tell(10 * x, f"{x}.root")
    return x * x, os.getpid()


def fail(x, tell):
    if x == 3:
        raise mm.SourceError("x.root: bad")
    for _ in range(4000):
        time.sleep(0.05)
        tell(1, "")


def end_early(path, tell):
    """Note that it was told to stop; the one that is called bad fails when another has begun."""
    if path.endswith("bad"):
        while not Path(path).with_name("begun").exists():
            time.sleep(0.01)
        raise mm.SourceError("x.root: bad")
    Path(path).with_name("begun").write_text("")
    try:
        while True:
            time.sleep(0.05)
            tell(1, "")
    except workers.StoppedError:
        Path(path).write_text("tidied up")
        raise


# Processes -----------------------------------------------------------------------------------------------------------


def test_calls_and_progress():
    told = []
    found = dict(Processes(2).run(square, list(range(6)), lambda nbytes, name: told.append(nbytes)))
    assert {i: x for i, (x, _) in found.items()} == {i: i * i for i in range(6)}
    pids = {pid for _, pid in found.values()}
    assert 1 <= len(pids) <= 2
    assert os.getpid() not in pids
    assert sum(told) == 10 * sum(range(6))
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids), "they end with the call"
    assert dict(Processes(2).run(square, [], lambda *a: None)) == {}


def test_an_error_stops_the_others():
    told, before = [], set(threading.enumerate())
    with pytest.raises(mm.SourceError, match=r"x\.root: bad"):
        list(Processes(2).run(fail, [1, 3, 2, 4], lambda nbytes, name: told.append(nbytes)))
    assert sum(told) < 4000, "the others had 200 seconds to go"
    assert [t.name for t in set(threading.enumerate()) - before if t.name.startswith("mmdask")] == []


def test_workers_that_are_stopped_tidy_up(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "_PATIENCE", 300)
    with pytest.raises(mm.SourceError, match=r"x\.root: bad"):
        list(Processes(2).run(end_early, [str(tmp_path / "bad"), str(tmp_path / "good")], lambda *a: None))
    assert (tmp_path / "good").read_text() == "tidied up"


def wait_for_the_kill(path, tell):
    """The one that is called victim says who it is, and waits."""
    if path.endswith("victim"):
        Path(f"{path}.new").write_text(str(os.getpid()))
        os.rename(f"{path}.new", path)
        time.sleep(600)


def test_a_worker_that_dies_before_another_is_given_more(tmp_path, monkeypatch):
    """A pool with a dead worker takes nothing more, and says so in its own words."""
    victim, original, killed = tmp_path / "victim", workers._wait, []

    def wait(futures, until=None):
        done = original(futures, until)
        if done and not killed:
            while not victim.exists():
                time.sleep(0.01)
            killed.append(int(victim.read_text()))
            os.kill(killed[0], signal.SIGKILL)
            assert len(original(futures, time.monotonic() + 300)) == 2
        return done

    monkeypatch.setattr(workers, "_wait", wait)
    with pytest.raises(WorkerError, match="a worker process died"):
        list(Processes(2).run(wait_for_the_kill, [str(victim), "a", "b"], lambda *a: None))
    assert killed


def test_lambdas_reach_the_workers():
    made = dict(Processes(2).run(lambda x, tell: x + 1, [1, 2], lambda *a: None))
    assert made == {0: 2, 1: 3}


def test_what_workers_are():
    assert isinstance(make_workers(None), Here)
    assert isinstance(make_workers(1), Here)
    assert make_workers(3).count == 3
    for wrong in (0, -1, 1.5, True, "2", object()):
        with pytest.raises(mm.OptionError, match="workers is a number of processes"):
            make_workers(wrong)
    assert workers_of(3) == 3


def test_the_same_store_as_of_one(files, out, tmp_path):
    labelled = {f: {"process": name} for f, name in zip(files, "abab", strict=True)}
    options = {"cut": "met > 0.3", "aliases": {"ht": "sum(pt)"}, "weights": ["met"]}
    run(labelled, out, **options)
    run(labelled, tmp_path / "one.mm", workers=1, **options)
    assert sources(out) == sources(tmp_path / "one.mm")
    a, b = read_store(out), read_store(tmp_path / "one.mm")
    assert list(a) == list(b)
    assert all(a[name].tolist() == b[name].tolist() for name in a)
    assert [s.weights for s in mm.open(out).sources] == [s.weights for s in mm.open(tmp_path / "one.mm").sources]
    assert mm.verify(out).ok
    before = Path(out, "manifest.json").read_bytes()
    run(labelled, out, **options)
    assert Path(out, "manifest.json").read_bytes() == before


def test_a_large_file_is_shared(tmp_path, out, monkeypatch):
    monkeypatch.setattr(jobs, "LEAST_NBYTES", 1000)
    chunks = [events(100, seed) for seed in range(6)]
    path = write_tree(tmp_path / "a.root", chunks)
    run(path, out)
    assert len(sources(out)) == 2
    assert sources(out)[0][3] == 300, "it is cut where all branches have a boundary"
    check(out, *chunks)


def test_parts_that_another_number_of_workers_began_are_kept(tmp_path, out, monkeypatch):
    monkeypatch.setattr(jobs, "LEAST_NBYTES", 1000)
    chunks = [events(100, seed) for seed in range(6)]
    path = write_tree(tmp_path / "a.root", chunks)
    run(path, out, workers=3)
    names = sorted(p.name for p in Path(out, "parts").iterdir())
    assert len(names) == 3
    os.remove(out / "manifest.json")
    for name in ("part.json", *(p.name for p in Path(out, "parts", names[1]).glob("*.npy"))):
        os.remove(out / "parts" / names[1] / name)
    (out / "parts" / names[1]).rmdir()
    run(path, out, workers=1)
    assert sorted(p.name for p in Path(out, "parts").iterdir()) == names
    check(out, *chunks)


def test_a_bad_file_is_named_and_the_rest_is_kept(files, out, monkeypatch):
    monkeypatch.setattr(workers, "_PATIENCE", 300)  # they may be slow to tidy up
    data = bytearray(Path(files[2]).read_bytes())
    with uproot.open(files[2]) as file:
        at = int(file["events"]["met"].member("fBasketSeek")[0])
    data[at + 60 : at + 120] = bytes(60)
    Path(files[2]).write_bytes(data)
    with pytest.raises(mm.SourceError, match=r"2\.root: field 'met' cannot be read"):
        run(files, out, fields=["met", "number"])
    with pytest.raises(mm.UnfinishedError):
        mm.open(out)
    left = [p.name for p in Path(out, "parts").iterdir()]
    assert not [name for name in left if ".tmp-" in name]
    write_tree(files[2], CHUNKS[2])
    run(files, out, fields=["met", "number"])
    assert {p.name for p in Path(out, "parts").iterdir()} >= set(left)
    assert read_store(out)["met"].tolist() == [x for of in CHUNKS for x in of[0]["met"].tolist()]


def test_a_file_that_changes_meanwhile(files, out, monkeypatch):
    from mmdask.sources.converting import conversion

    original = conversion._make_layers

    def change(*args):
        write_tree(files[1], CHUNKS[3])
        os.utime(files[1], ns=(1, 1))
        return original(*args)

    monkeypatch.setattr(conversion, "_make_layers", change)
    with pytest.raises(mm.SourceError, match=r"1\.root: the file changed while it was converted"):
        run(files, out)
    monkeypatch.undo()
    run(files, out)
    check(out, *CHUNKS[0], *CHUNKS[3], *CHUNKS[2], *CHUNKS[3])


def test_a_bar_counts_what_workers_do(files, out, capfd):
    run(files, out, progress=True)
    text = capfd.readouterr().err
    assert "100%" in text
    assert "convert" in text


def test_many_inputs_are_inspected_by_workers(tmp_path, out, monkeypatch):
    monkeypatch.setattr("mmdask.sources.converting.conversion._MANY_INPUTS", 3)
    files = [write_tree(tmp_path / f"{i}.root", of) for i, of in enumerate(CHUNKS)]
    run(files, out)
    check(out, *(c for of in CHUNKS for c in of))


def test_loky_is_not_imported_for_one_worker():
    code = (
        "import sys, mmdask.sources.converting.conversion; assert 'loky' not in sys.modules; "
        "assert 'uproot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_in_the_shell(files, out):
    command = [sys.executable, "-m", "mmdask", "convert", "-o", str(out), *files, "--workers", "2", "--quiet"]
    planned = subprocess.run([*command, "--plan"], check=True, capture_output=True, text=True)
    assert "4 to convert" in planned.stdout
    assert not out.exists()
    subprocess.run([*command, "--check", "hash"], check=True, capture_output=True)
    check(out, *(c for of in CHUNKS for c in of))


# dask ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client():
    distributed = pytest.importorskip("distributed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with (
            distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=":0", processes=True) as cluster,
            distributed.Client(cluster) as client,
        ):
            client.wait_for_workers(2, timeout=300)
            yield client


def test_dask_workers(client, files, out):
    ds = mm.from_root(files, out, workers=client, progress=False)
    check(out, *(c for of in CHUNKS for c in of))
    assert mm.verify(ds.path).ok
    told = []
    made = dict(DaskWorkers(client).run(square, [1, 2, 3], lambda nbytes, name: told.append(nbytes)))
    assert [made[i][0] for i in range(3)] == [1, 4, 9]
    assert sum(told) == 60
    assert DaskWorkers(client).count == 2


def test_an_error_of_a_dask_worker(client):
    told = []
    with pytest.raises(mm.SourceError, match="bad") as error:
        list(DaskWorkers(client).run(fail, [1, 3, 2], lambda nbytes, name: told.append(nbytes)))
    assert "on the dask worker tcp://" in error.value.__notes__[0]
    assert sum(told) < 4000


def die(x, tell):
    path = Path(x)
    if not path.exists():
        path.write_text("")
        os._exit(1)
    return "again"


@pytest.mark.filterwarnings("ignore")
def test_a_dask_worker_that_dies_is_replaced(client, tmp_path):
    made = dict(DaskWorkers(client).run(die, [str(tmp_path / "died")], lambda *a: None))
    assert made == {0: "again"}


@pytest.mark.filterwarnings("ignore")
def test_dask_workers_that_all_die(client):
    with pytest.raises(WorkerError, match="workers died one after the other"):
        list(DaskWorkers(client).run(lambda x, tell: os._exit(1), [1], lambda *a: None))


def test_an_asynchronous_client_is_refused(client):
    class Odd:
        asynchronous = True

    with pytest.raises(mm.OptionError, match="asynchronous"):
        DaskWorkers(Odd())


def test_a_worker_that_does_not_see_the_store(files, out):
    from mmdask.sources.converting.jobs import Job
    from mmdask.sources.converting.work import make

    with pytest.raises(mm.StoreNotFoundError, match="a path that all of them share"):
        make(str(out), Job("a", ()), None, lambda *a: None)


def test_two_calls_that_make_the_same_part(files, out, monkeypatch):
    """A task that is done twice, as after a worker was lost and came back: one layer, and the same rows."""
    from mmdask.sources.converting import work

    original, together = work.LayerWriter.finish, threading.Barrier(3, timeout=300)

    def finish(self, *args, **kwargs):
        together.wait()
        return original(self, *args, **kwargs)

    monkeypatch.setattr(work, "layer_exists", lambda *a: False)
    monkeypatch.setattr(work.LayerWriter, "finish", finish)
    threads = [threading.Thread(target=run, args=(files[:1], out), kwargs={"workers": 1}) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    check(out, *CHUNKS[0])
    assert len(part_layers(out)) == 1
    assert np.array_equal(read_store(out)["met"], CHUNKS[0][0]["met"])


@pytest.mark.parametrize("ends", [False, True], ids=["begins", "ends"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("look", ["read_manifest", "_is_free", "_read_options", "form_of"])
def test_another_call_while_this_one_looks(files, out, monkeypatch, look, when, ends):
    """What another conversion to the same path writes between two looks at it is never taken for a stranger's."""
    original, others = getattr(target, look), []

    def other():
        if others:
            return
        others.append(look)
        with monkeypatch.context() as during:
            if not ends:
                during.setattr(conversion, "_make_layers", lambda *a: 1 / 0)
            with nullcontext() if ends else pytest.raises(ZeroDivisionError):
                run(files, out, workers=1, backend="zarr")

    def looked(*args):
        if when == "before":
            other()
        try:
            return original(*args)
        finally:
            other()

    monkeypatch.setattr(target, look, looked)
    run(files, out, workers=1, backend="zarr")
    assert others == [look]
    assert mm.open(out)["met"].compute().tolist() == [float(x) for of in CHUNKS for x in of[0]["met"]]


def test_the_board_is_a_file_without_name(tmp_path):
    with workers.Board(2) as board, workers.Slot(board.path, 1) as slot:
        slot.tell(5, "")
        slot.tell(7, "")
        told = []
        board.report(lambda nbytes, name: told.append(nbytes), ["a", "b"])
        assert told == [12]
        board.stop()
        with pytest.raises(workers.StoppedError):
            slot.tell(1, "")
