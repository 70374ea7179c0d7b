"""Several fields of some rows: what computed ones are computed from is read once, and every array is its own."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import mmdask as mm
import mmdask.testing as mt
from mmdask.rows import rows as rows_module

N = 300


@pytest.fixture(scope="module")
def ds(tmp_path_factory):
    rng = np.random.default_rng(0)
    data = {"x": rng.random(N), "n": rng.integers(0, 9, N), "pt": [rng.random(i % 4).tolist() for i in range(N)]}
    ds = mm.from_arrays(data, tmp_path_factory.mktemp("many") / "m.mm")
    return ds.assign(
        a="x",
        b="x",
        ht="sum(pt)",
        twice="pt * 2",
        same="pt",
        more="sum(pt) + x * n",
        one="1",
        late="where(n > 8, x, 0)",
    )


NAMES = ["x", "a", "b", "ht", "twice", "same", "more", "one", "late", "pt"]


def test_each_field_is_read_once(ds):
    loader = ds.batches(50, fields=NAMES)
    loader[0]
    with mt.count_reads() as reads:
        loader[1]
    assert reads.rows == {"x": 50, "n": 50, "pt": 50}
    computed = ds.batches(50, fields=["ht", "more", "twice"])
    computed[0]
    with mt.count_reads() as reads:
        computed[1]
    assert reads.rows == {"x": 50, "n": 50, "pt": 50}


@pytest.mark.parametrize("block_nbytes", [None, 700])
def test_they_are_what_take_gives_in_blocks_of_any_size(ds, monkeypatch, block_nbytes):
    rows = ds._resolved()
    numbers = np.random.default_rng(1).integers(0, N, 100)
    alone = {name: rows.take(name, numbers) for name in NAMES}
    if block_nbytes:
        monkeypatch.setattr(rows_module, "_BLOCK_NBYTES", block_nbytes)
        assert len(list(rows.blocks(100))) > 3
    many = rows.take_many(NAMES, numbers)
    assert list(many) == NAMES
    for name in NAMES:
        assert many[name].values.tolist() == alone[name].values.tolist()
        assert [o.tolist() for o in many[name].offsets] == [o.tolist() for o in alone[name].offsets]
    x, pt = many["x"].values, many["pt"]
    assert many["late"].values.tolist() == np.where(ds["n"].compute()[numbers] > 8, x, 0).tolist()
    assert many["twice"].values.tolist() == (pt.values * 2).tolist()


def test_no_two_arrays_share_memory(ds):
    many = ds._resolved().take_many(NAMES, np.arange(40))
    arrays = [a for data in many.values() for a in (data.values, *data.offsets)]
    assert all(a.flags.writeable for a in arrays)
    for a, b in itertools.combinations(arrays, 2):
        assert not np.shares_memory(a, b)


def test_no_rows_and_no_fields(ds):
    rows = ds._resolved()
    assert rows.take_many([], np.arange(3)) == {}
    assert [len(d) for d in rows.take_many(NAMES, np.arange(0)).values()] == [0] * len(NAMES)


def test_some_items_are_read_of_stored_lists_alone(ds):
    rows = ds._resolved()
    zero, one = np.zeros(4, np.int64), np.array([0, 1, 1, 2])
    taken = rows.take_items("pt", np.array([0, 1, 2, 3]), zero, one)
    assert taken.counts.tolist() == one.tolist()
    for name in ("x", "twice"):
        with pytest.raises(mm.OptionError, match="is computed or has no items"):
            rows.take_items(name, np.arange(4), zero, one)
    for begin, count in ((zero, one + 1), (zero - 1, one), (one, one), (zero, -one)):
        with pytest.raises(mm.CorruptStoreError, match="fewer than counted before"):
            rows.take_items("pt", np.array([0, 1, 2, 3]), begin, count)
