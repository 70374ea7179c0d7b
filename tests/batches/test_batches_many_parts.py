"""A store of thousands of parts of a few rows gives the batches that one part would, with few files open."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

import mmdask as mm
from mmdask.rows.reading.gathering import Sources
from mmdask.store.arrays import held as arrays
from mmdask.store.system import SYSTEM

N, PARTS = 9_000, 3_000
RNG = np.random.default_rng(0)
COUNTS = RNG.integers(0, 5, N)
ENDS = np.cumsum(COUNTS)
VALUES = RNG.random(ENDS[-1]).astype("f4")
DATA = {
    "event": RNG.permutation(N),
    "jet": [VALUES[e - c : e] for c, e in zip(COUNTS, ENDS, strict=True)],
}
FIELDS = [
    mm.Field.dense("event", "i8"),
    mm.Field.ragged("jet", "f4"),
]
OPTIONS = {"seed": 5, "block": 4, "window": 1, "collate": {"jet": mm.pad(3)}}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """The same rows in 3,000 parts of about three each, and in one."""
    folder = tmp_path_factory.mktemp("parts")
    with mm.create(folder / "one.mm", fields=FIELDS) as w:
        w.extend(DATA)
    monkeypatch = pytest.MonkeyPatch()
    for call in ("fsync", "fsync_folder"):  # 9,000 files
        monkeypatch.setattr(SYSTEM, call, lambda what: None)
    with mm.create(folder / "many.mm", fields=FIELDS, part_nbytes=60) as w:
        w.extend(DATA)
    monkeypatch.undo()
    found = {name: mm.open(folder / f"{name}.mm") for name in ("one", "many")}
    assert len(found["many"].batches(1).rows.snapshot.parts) >= PARTS
    return found


def equal(a, b):
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return a == b


def same(some, others):
    some, others = list(some), list(others)
    assert len(some) == len(others)
    for a, b in zip(some, others, strict=True):
        assert list(a) == list(b)
        assert equal(a.rows, b.rows)
        assert all(equal(a[name], b[name]) for name in a)
    return some


@pytest.mark.parametrize("options", [OPTIONS, {"shuffle": "exact", "seed": 1}, {"shuffle": False}], ids=str)
def test_batches_are_those_of_one_part(stores, options):
    if options is not OPTIONS:
        options = options | {"fields": ["event"]}
    one, many = (stores[name].batches(500, **options) for name in ("one", "many"))
    batches = same(one, many)
    assert sorted(np.concatenate([b.rows for b in batches])) == list(range(N))
    for b in batches:
        assert (b["event"] == DATA["event"][b.rows]).all()


def test_resuming_and_ranks(stores):
    loader = stores["many"].batches(500, **OPTIONS)
    it = iter(loader)
    for _ in range(5):
        next(it)
    state = json.dumps(loader.state_dict())
    rest = list(it)
    again = stores["many"].batches(500, **OPTIONS)
    again.load_state_dict(json.loads(state))
    same(rest, again)
    ranks = [stores["many"].batches(500, rank=r, world_size=3, last="keep", **OPTIONS) for r in range(3)]
    for whole, *parts in zip(stores["one"].batches(500, **OPTIONS), *ranks, strict=True):
        for name in ("event", "jet", "jet_mask"):
            assert equal(np.concatenate([p[name] for p in parts]), whole[name])


def test_splits(stores):
    ways = [{"by": "event"}, {"how": "permutation"}, {"how": "mod", "by": "event"}]
    for options in ways:
        sizes = {"a": 4, "b": 1} if options.get("how") == "mod" else {"a": 0.8, "b": 0.2}
        seed = {} if options.get("how") == "mod" else {"seed": 3}
        splits = {name: ds.split(sizes, **seed, **options) for name, ds in stores.items()}
        found = []
        for part in ("a", "b"):
            one, many = (splits[name][part].batches(500, fields=["event"], seed=1, block=4) for name in splits)
            found += [row for b in same(one, many) for row in b.rows]
        assert sorted(found) == list(range(N))


def test_few_files_are_opened_and_nothing_is_mapped(stores, monkeypatch):
    """Small files are read once, whole; none stays open, and no map is made of any."""
    ds = mm.open(stores["many"].batches(1).rows.snapshot.path)
    loader = ds.batches(500, fields=["event"], **{k: v for k, v in OPTIONS.items() if k != "collate"})
    arrays.SMALL.clear()
    opened, maps = [], []
    open_file, _map = arrays.open_file, arrays._Map
    monkeypatch.setattr(arrays, "open_file", lambda *a: opened.append(a) or open_file(*a))
    monkeypatch.setattr(arrays, "_Map", lambda *a: maps.append(a) or _map(*a))
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    n_parts = len(loader.rows.snapshot.parts)
    for _ in range(2):  # epochs
        for _ in loader:
            if before:
                assert len(os.listdir("/proc/self/fd")) <= before + 8
    assert len(opened) <= n_parts
    assert not maps


def test_of_parts_without_a_wanted_row_nothing_is_read(stores, monkeypatch):
    added = []
    add = Sources.add_part
    monkeypatch.setattr(
        Sources, "add_part", lambda self, snapshot, part: added.append(part) or add(self, snapshot, part)
    )
    loader = stores["many"].batches(50, shuffle="exact", seed=2, fields=["event"])
    batch = loader[7]
    assert len(set(added)) <= len(batch.rows)
