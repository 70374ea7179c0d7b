"""On workers of a cluster: equal results, of which bits and sums travel, under names that say what is done."""

from __future__ import annotations

import importlib.util
import os
import shutil

import awkward as ak
import dask
import numpy as np
import pytest
from clusters import cluster, large_messages, received_nbytes, sent_nbytes, task_names, until

import mmdask as mm
from mmdask.dataset.making import dask_workers
from mmdask.rows.cuts import masks
from mmdask.rows.rows import RESOLVED
from mmdask.rows.sums import reducing

pytest.importorskip("distributed")

ROWS = 400_000
PARTS = 4


@pytest.fixture(scope="module")
def client():
    with cluster() as client:
        yield client


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """About 16 MB in four parts."""
    path = tmp_path_factory.mktemp("distributed") / "events.mm"
    rng = np.random.default_rng(3)
    with mm.create(path, fields=[mm.Field.category("process", ["a", "b"])]) as w:
        for i in range(PARTS):
            n = ROWS // PARTS
            counts = rng.integers(0, 4, n)
            values = rng.random(counts.sum()).astype("f4")
            w.extend(
                {
                    "met": rng.random(n),
                    "n": rng.integers(0, 9, n),
                    "jet_pt": ak.unflatten(values, counts),
                    "process": [("a", "b")[i % 2]] * n,
                }
            )
            w.checkpoint()
    return path


@pytest.fixture
def path(stored, tmp_path):
    """A store of which nothing is kept or known."""
    RESOLVED.clear()
    masks.LOADED.clear()
    return shutil.copytree(stored, tmp_path / "events.mm", ignore=shutil.ignore_patterns("cache"))


@pytest.fixture
def traffic(client):
    """Bytes of results that workers sent, and that they got from each other, since the test began."""
    before = [sum(client.run(what).values()) for what in (sent_nbytes, received_nbytes)]

    def since():
        return [sum(client.run(f).values()) - b for f, b in zip((sent_nbytes, received_nbytes), before, strict=True)]

    return since


def here(work, path, client):
    """The result of this process alone, on a copy of which nothing is kept."""
    other = shutil.copytree(path, path.with_name("here.mm"), ignore=shutil.ignore_patterns("cache"))
    with dask.config.set(scheduler="sync"):
        return work(mm.open(other))


def cut(ds):
    return ds.cut("met > 0.5 & any(jet_pt > 0.5)").count()


def flow(ds):
    return repr(ds.cutflow(["met > 0.5", "n > 3", "any(jet_pt > 0.9)"], weight="met", by="process"))


def hist(ds):
    return {k: h.view(flow=True).tolist() for k, h in ds.hist({"met": 20, "jet_pt": (9, 0, 1)}, by="process").items()}


def chosen_hist(ds):
    return ds.hist("jet_pt", bins=9, range=(0, 1), where="n > 3").view(flow=True).tolist()


def describe(ds):
    return repr(ds.describe())


def normalisation(ds):
    return repr(ds.normalisation(["met", "n"]))


#: bytes that workers may send at most: a bit per row, and some kB of sums and messages for each of the tasks; and those
#: in large messages of this process, where a result goes through scheduler and client, and counts three times
BITS = ROWS // 8
CASES = {
    cut: (3 * BITS + 40_000, 7 * BITS, {"cut:jet_pt,met"}),
    flow: (3 * BITS + 80_000, 20 * BITS, {"cutflow:met,n,jet_pt"}),  # weights are added up where the bits are sent
    hist: (120_000, BITS, {"hist:met,jet_pt"}),
    chosen_hist: (BITS + 80_000, 7 * BITS, {"cut:n", "hist:jet_pt"}),
    describe: (120_000, BITS, {"describe:met,n,jet_pt,process"}),
    normalisation: (80_000, BITS, {"normalisation:met,n"}),
}


@pytest.mark.parametrize("work", CASES, ids=lambda work: work.__name__)
def test_bits_and_sums_come_back_and_no_data(client, path, traffic, work):
    if work in (hist, chosen_hist):
        pytest.importorskip("hist")
    limit, through_here, names = CASES[work]
    with large_messages() as messages:
        found = work(mm.open(path))
    sent, received = traffic()
    assert 0 < sent < limit
    assert sum(messages) < through_here
    assert not received, "no task needs what another made"
    assert found == here(work, path, client)
    assert names <= set(client.run_on_scheduler(task_names))


def fine_hist(ds):
    return ds.hist("met", bins=3000, range=(0, 1), weight="n * 0.1").values().tolist()


def test_sums_of_many_tasks_are_added_by_workers(client, path, traffic, monkeypatch):
    pytest.importorskip("hist")
    monkeypatch.setattr(reducing, "_TASK_ROWS", 4096)
    with large_messages() as messages:
        found = fine_hist(mm.open(path))
    n_tasks = PARTS * -(-ROWS // PARTS // 4096)
    nbytes = 16 * 3000
    assert sum(messages) < 3 * 16 * nbytes * 1.2 < 3 * n_tasks * nbytes / 4
    sent, received = traffic()
    assert received > 0, "what another worker has is added"
    assert sent < (n_tasks + 2 * 16) * nbytes
    assert found == here(fine_hist, path, client)
    assert {"hist:met", "add:hist"} <= set(client.run_on_scheduler(task_names))
    until(lambda: not client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.tasks)))  # nothing is held
    jets = path / "parts" / mm.open(path)._rows.snapshot.parts[3].layers[0]
    for file in jets.glob("*met*"):
        file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(mm.CorruptStoreError):
        fine_hist(mm.open(path))
    until(lambda: not client.futures)


def test_a_selection_is_saved_by_workers_and_stays_with_them(client, path, traffic, tmp_path, monkeypatch):
    monkeypatch.setattr("mmdask.export.save._LEAST_NBYTES", 1 << 20)
    ds = mm.open(path)
    sel = ds[ds.cut("met > 0.25")]
    sel.cut("n > 3").count()
    with large_messages() as messages:
        found = sel.save(tmp_path / "saved.mm", progress=False)
    sent, _ = traffic()
    assert sent < 4 * BITS + 100_000 < found.nbytes / 10
    assert sum(messages) < 2 * BITS, "workers read the bits"
    assert "save" in client.run_on_scheduler(task_names)
    assert len(found.sources) > 2
    assert len(list((tmp_path / "saved.mm" / "parts").iterdir())) == len(found.sources)
    expected = ds["met"].compute()
    np.testing.assert_array_equal(found["met"].compute(), expected[expected > 0.25])
    assert found["jet_pt"].to_list() == sel["jet_pt"].to_list()
    assert mm.verify(found.path).ok


def test_a_shuffled_store_is_that_of_one_process(client, path, tmp_path, monkeypatch):
    monkeypatch.setattr("mmdask.export.save._LEAST_NBYTES", 1 << 20)
    ds = mm.open(path)[["met", "jet_pt"]]
    found = ds.save(tmp_path / "a.mm", order="shuffled", seed=3, progress=False)
    client_before = sorted(found["met"].compute())
    with dask.config.set(scheduler="sync"):
        alone = ds.save(tmp_path / "b.mm", order="shuffled", seed=3, progress=False)
        np.testing.assert_array_equal(found["met"].compute(), alone["met"].compute())
        assert found["jet_pt"].to_list() == alone["jet_pt"].to_list()
    assert len(found.sources) > len(alone.sources)
    assert client_before == sorted(ds["met"].compute())


def test_what_is_in_memory_is_saved_here(client, tmp_path):
    ds = mm.view({"x": np.arange(10_000)})
    before = set(client.run_on_scheduler(task_names)) - {"save"}
    client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.transition_log.clear())
    saved = ds.save(tmp_path / "x.mm", progress=False)
    assert "save" not in client.run_on_scheduler(task_names)
    np.testing.assert_array_equal(saved["x"].compute(), np.arange(10_000))
    assert before


def test_an_error_on_a_worker_leaves_no_store(client, path, tmp_path, monkeypatch):
    monkeypatch.setattr("mmdask.export.save._LEAST_NBYTES", 1 << 20)
    monkeypatch.setattr(dask_workers, "_PATIENCE", 300)  # what the other one is at takes long on a busy machine
    ds = mm.open(path)
    [part] = [p for p in (path / "parts").iterdir() if p.name == mm.open(path)._rows.snapshot.parts[2].layers[0]]
    file = next(part.glob("*met*"))
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(mm.CorruptStoreError) as error:
        ds.save(tmp_path / "saved.mm", progress=False)
    assert any("on the dask worker" in note for note in error.value.__notes__)
    assert not (tmp_path / "saved.mm").exists()
    with pytest.raises(mm.CorruptStoreError):
        ds.cut("met > 0.5").count()


def test_names_of_reads_and_masks(client, path):
    ds = mm.open(path)
    assert ds["met"].name.startswith("read:met-")
    assert ds.cut("met > 0.5").mask.name.startswith("mask:met-")
    ds["met"].compute()
    ds["jet_pt"].counts.persist().sum().compute()
    names = set(client.run_on_scheduler(task_names))
    assert {"read:met", "jet_pt-counts"} <= names


def test_odd_and_many_names_are_short_and_plain(client, tmp_path):
    from dask.utils import key_split

    from mmdask.dataset.run import task_key

    assert key_split(task_key("cut", ["a-b", "c d", "é<b>"])) == "cut:a_b,c_d,é_b_"
    many = key_split(task_key("describe", [f"field_{i}" for i in range(1000)]))
    assert many.startswith("describe:field_0,field_1,")
    assert many.endswith(",...")
    assert len(many) < 80
    assert len(key_split(task_key("cut", ["x" * 1000]))) < 80
    assert key_split(task_key("save")) == "save"
    assert task_key("save") != task_key("save")


def test_workers_of_little_memory_pass_over_a_large_store(tmp_path):
    """More bytes than a worker may have; what is read is not held."""
    n = 70_000_000
    with mm.create(tmp_path / "large.mm") as w:
        w.allocate("x", n, dtype="f8")  # zeros, which take no space on the disk
    with cluster(1, memory_limit="500MB") as client:
        before = set(client.run(os.getpid).values())
        ds = mm.open(tmp_path / "large.mm")
        assert ds.nbytes > 500e6
        assert ds.cut("x < 1 & x * x + 1 > 0").count() == n
        assert ds.describe("x")["x"].count == n
        assert float(ds["x"].sum().compute()) == 0
        if importlib.util.find_spec("hist"):
            assert ds.hist("x", bins=4, range=(-1, 1)).sum() == n
        assert set(client.run(os.getpid).values()) == before, "no worker was killed"
        until(lambda: set(client.run(lambda dask_worker: dask_worker.status.name).values()) == {"running"})
