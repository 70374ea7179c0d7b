"""Batches from stores on disk, in this process and in others."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from mmdask.batches.collate import Packed, pad
from mmdask.batches.loader import Loader
from mmdask.errors import CorruptStoreError
from mmdask.expr import check_cut
from mmdask.rows.rows import Rows
from mmdask.sources.create import append, create
from mmdask.store.snapshot import open_snapshot

N = 700
RNG = np.random.default_rng(0)
COUNTS = RNG.integers(0, 6, N)
JETS = [RNG.random(c).astype("f4").tolist() for c in COUNTS]
DATA = {
    "met": RNG.random(N).astype("f4"),
    "image": RNG.integers(0, 255, (N, 3, 2)).astype("u1"),
    "jets": JETS,
    "name": [f"row {i}" + "é" * (i % 2) for i in range(N)],
    "deep": [[[float(i)] * (j % 3) for j in range(i % 4)] for i in range(N)],
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Three parts of 301, 1 and 398 rows, with a category that differs between them."""
    path = tmp_path_factory.mktemp("store") / "events.mm"
    for write, a, b, process in [(create, 0, 301, "ttbb"), (append, 301, 302, "ttH"), (append, 302, N, "ttbb")]:
        with write(path, labels={"process": process}) as w:
            w.extend({name: values[a:b] for name, values in DATA.items()})
    return str(path)


@pytest.fixture
def rows(path):
    return Rows(open_snapshot(path))


@pytest.mark.parametrize("shuffle", [True, "exact", False])
@pytest.mark.parametrize("cut", [False, True])
def test_every_entry_belongs_to_its_row(rows, shuffle, cut):
    if cut:
        rows = rows.cut(check_cut("met > 0.5", rows.schema))
    loader = Loader(rows, 64, shuffle=shuffle, block=8 if shuffle is True else None, collate={"jets": pad(4)})
    seen = []
    for batch in loader:
        seen += batch.rows.tolist()
        assert batch["met"].tolist() == DATA["met"][batch.rows].tolist()
        assert batch["image"].tolist() == DATA["image"][batch.rows].tolist()
        assert batch["name"] == [DATA["name"][r] for r in batch.rows]
        padded = [(JETS[r] + [0.0] * 4)[:4] for r in batch.rows]
        assert batch["jets"].tolist() == padded
        assert batch["jets_mask"].sum(1).tolist() == np.minimum(COUNTS[batch.rows], 4).tolist()
        labels = rows.schema["process"].labels
        assert [labels[c] for c in batch["process"]] == ["ttH" if r == 301 else "ttbb" for r in batch.rows]
        assert lists(batch["deep"]) == [DATA["deep"][r] for r in batch.rows]
    expected = np.flatnonzero(DATA["met"] > 0.5) if cut else np.arange(N)
    assert sorted(seen) == expected.tolist()


def lists(packed):
    """A `Packed` as lists of lists."""
    items = lists(packed.values) if isinstance(packed.values, Packed) else packed.values.tolist()
    o = packed.offsets.tolist()
    return [items[a:b] for a, b in itertools.pairwise(o)]


def test_the_order_does_not_depend_on_the_parts(path, tmp_path):
    with create(tmp_path / "one.mm", labels={"process": "ttbb"}) as w:
        w.extend(DATA)
    one, three = Rows(open_snapshot(tmp_path / "one.mm")), Rows(open_snapshot(path))
    options = {"fields": ["met"], "block": 4, "window": "1kB", "seed": 3}
    for a, b in zip(Loader(one, 100, **options), Loader(three, 100, **options), strict=True):
        assert a.rows.tolist() == b.rows.tolist()


def test_the_order_does_not_depend_on_the_fields(rows):
    a, b = Loader(rows, 100, fields=["met"]), Loader(rows, 100, fields=["deep", "name"])
    assert [x.rows.tolist() for x in a] == [x.rows.tolist() for x in b]
    b.load_state_dict(a.state_dict())


def test_damaged_offsets_stop_the_batch(path, tmp_path):
    import json
    import shutil

    copy = tmp_path / "copy.mm"
    shutil.copytree(path, copy)
    part = next(p for p in (copy / "parts").iterdir() if json.loads((p / "part.json").read_text())["rows"] == 1)
    (file,) = [f for f in part.iterdir() if "jets" in f.name and "offsets" in f.name]
    raw = bytearray(file.read_bytes())
    raw[-8:] = np.int64(10**6).tobytes()
    file.write_bytes(raw)
    loader = Loader(Rows(open_snapshot(copy)), 1000, fields=["jets"])
    with pytest.raises(CorruptStoreError, match="row 301:"):
        loader[0]


# Other processes ------------------------------------------------------------------------------------------------

CHILD = """
import pickle, sys
loader = pickle.load(sys.stdin.buffer)
rows = [b.rows.tolist() for b in loader]
heavy = {"dask", "torch", "uproot", "awkward", "zarr"} & set(sys.modules)
sys.stdout.buffer.write(pickle.dumps((rows, sorted(heavy))))
"""


def test_a_fresh_process_gives_the_same_batches_without_dask(rows):
    loader = Loader(rows.cut(check_cut("met > 0.2", rows.schema)), 64, collate={"jets": pad(4)})
    _ = loader[3]
    state = pickle.dumps(loader)
    assert len(state) < 2000
    run = subprocess.run([sys.executable, "-c", CHILD], input=state, capture_output=True, check=True)
    found, heavy = pickle.loads(run.stdout)
    assert found == [b.rows.tolist() for b in loader]
    assert heavy == []


def child(loader, queue):
    queue.put([(b.rows.tolist(), b["met"].tolist(), b["jets"].tolist()) for b in loader])


@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_spawned_and_forked_processes_give_the_same_batches(rows, method):
    loader = Loader(rows, 64, fields=["met", "jets"], collate={"jets": pad(4)})
    list(zip(loader, range(3), strict=False))  # in the middle of an epoch, with maps open and kernels asked for
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=child, args=(loader, queue))
    process.start()
    found = queue.get(timeout=300)
    process.join(300)
    assert process.exitcode == 0
    assert found == [(b.rows.tolist(), b["met"].tolist(), b["jets"].tolist()) for b in loader]
    assert os.getpid() != process.pid
