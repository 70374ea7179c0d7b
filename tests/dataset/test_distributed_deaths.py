"""A worker of two is killed in the middle: the results are those of one process, and nothing is there twice."""

from __future__ import annotations

import dask
import numpy as np
import pytest
from clusters import cluster, die_at, pids, task_names

import mmdask as mm
from mmdask.rows.cuts import masks
from mmdask.rows.rows import RESOLVED

pytest.importorskip("distributed")

PARTS = 8
LENGTH = 5_000
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def client():
    """Of a cluster of its own: on a busy machine a nanny may not manage to start a worker again."""
    with cluster() as client:
        yield client


def rows(i):
    rng = np.random.default_rng(i)
    counts = rng.integers(0, 4, LENGTH)
    jets = np.split(rng.random(counts.sum()), np.cumsum(counts)[:-1])
    return {"x": rng.random(LENGTH), "n": rng.integers(0, 99, LENGTH), "jets": jets}


def write(path):
    RESOLVED.clear()
    masks.LOADED.clear()
    with mm.create(path) as w:
        for i in range(PARTS):
            w.extend(rows(i))
            w.checkpoint()
    return path


@pytest.fixture
def let_one_die(client, tmp_path):
    """The first worker that comes to a call will be killed there: which one gets more to do is not known before."""
    token = tmp_path / "died"
    yield lambda *at, **options: client.run(die_at, *at, token=str(token), **options)
    assert int(token.read_text()) not in client.run(pids, on_error="ignore").values()


def layers(path):
    """Folders of whole layers, and of what dead writers left."""
    names = [p.name for p in (path / "parts").iterdir()]
    return [n for n in names if ".tmp-" not in n], [n for n in names if ".tmp-" in n]


@pytest.mark.parametrize("after", [False, True], ids=["before the bits", "with the bits"])
def test_during_a_cut(let_one_die, tmp_path, after):
    path = write(tmp_path / "a.mm")
    let_one_die("mmdask.rows.blocks:evaluate_rows", 2, after=after)
    ds = mm.open(path)
    n = ds.cut("x > 0.5 & n < 50").count()
    alone = write(tmp_path / "b.mm")
    with dask.config.set(scheduler="sync"):
        assert mm.open(alone).cut("x > 0.5 & n < 50").count() == n
    found, expected = (sorted(p.read_bytes()[-LENGTH // 8 :] for p in x.rglob("*.mask")) for x in (path, alone))
    assert found == expected
    assert len(found) == 2 * PARTS
    assert not list((path / "cache").rglob("*.tmp-*"))


@pytest.mark.parametrize("after", [False, True], ids=["before it is whole", "before it is told"])
def test_during_a_save(let_one_die, tmp_path, monkeypatch, after):
    path = write(tmp_path / "a.mm")
    monkeypatch.setattr("mmdask.export.save._LEAST_NBYTES", 1)
    with dask.config.set(scheduler="sync"):
        sel = mm.open(path)
        sel = sel[sel.cut("x > 0.5")]
        alone = sel.save(tmp_path / "alone.mm", progress=False)
    let_one_die("mmdask.store.layer_writer:LayerWriter.finish", 2, after=after)
    found = sel.save(tmp_path / "saved.mm", progress=False)
    check_equal(found, alone)
    check_layers(tmp_path / "saved.mm", found, 0 if after else 1)


def check_equal(found, alone):
    assert len(found) == len(alone)
    for name in alone:
        assert (
            np.asarray(found[name].compute()).tolist() == np.asarray(alone[name].compute()).tolist()
            if (name != "jets")
            else found[name].to_list() == alone[name].to_list()
        )


def check_layers(path, ds, n_left):
    """Each part is there once; what the dead one left is removed by vacuum."""
    whole, left = layers(path)
    assert len(whole) == len(ds.sources)
    assert len(left) == n_left
    assert len({s.start for s in ds.sources}) == len(ds.sources)
    mm.vacuum(path, grace=0)
    assert layers(path) == (whole, [])
    assert mm.verify(path).ok


@pytest.mark.parametrize("after", [False, True], ids=["before it is whole", "before it is told"])
def test_during_a_conversion(client, let_one_die, tmp_path, after):
    uproot = pytest.importorskip("uproot")
    for i in range(4):
        with uproot.recreate(tmp_path / f"{i}.root") as file:
            made = rows(i)
            file.mktree("events", {"x": "f8", "n": "i8"}).extend({k: made[k] for k in ("x", "n")})
    let_one_die("mmdask.store.layer_writer:LayerWriter.finish", 1, after=after)
    files = str(tmp_path / "*.root")
    found = mm.from_root(files, tmp_path / "a.mm", workers=client, progress=False)
    alone = mm.from_root(files, tmp_path / "b.mm", progress=False)
    np.testing.assert_array_equal(found["x"].compute(), alone["x"].compute())
    np.testing.assert_array_equal(found["n"].compute(), np.concatenate([rows(i)["n"] for i in range(4)]))
    whole, left = layers(tmp_path / "a.mm")
    assert len(whole) == 4
    assert len(left) == (0 if after else 1)
    mm.vacuum(tmp_path / "a.mm", grace=0)
    assert layers(tmp_path / "a.mm") == (whole, [])
    before = (tmp_path / "a.mm" / "manifest.json").read_bytes()
    mm.from_root(files, tmp_path / "a.mm", workers=client, progress=False)
    assert (tmp_path / "a.mm" / "manifest.json").read_bytes() == before
    assert "convert" in client.run_on_scheduler(task_names)


def test_a_task_that_kills_every_worker_is_an_error_that_says_so(client, tmp_path):
    path = write(tmp_path / "a.mm")
    ds = mm.open(path)
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        client.run_on_scheduler(lambda dask_scheduler: setattr(dask_scheduler, "allowed_failures", 0))
        client.run(die_at, "mmdask.rows.blocks:evaluate_rows", 1)
        with pytest.raises(mm.errors.WorkerError, match="workers died"):
            ds.cut("x > 0.1").count()
    client.run_on_scheduler(lambda dask_scheduler: setattr(dask_scheduler, "allowed_failures", 3))
    client.wait_for_workers(1, timeout=300)
    assert ds.cut("x > 0.1").count() == np.count_nonzero(np.concatenate([rows(i)["x"] for i in range(PARTS)]) > 0.1)
