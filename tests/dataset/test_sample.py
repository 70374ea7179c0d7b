"""Random rows: how many, which, the same ones again, and lazily."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mmdask as mm
from mmdask.rows.bits import unpack
from mmdask.rows.draws import sampling
from mmdask.rows.draws.sampling import Sample
from mmdask.testing import count_reads, max_computes


@pytest.fixture
def ds(tmp_path):
    """A store of 5,000 rows in five parts."""
    path = tmp_path / "rows.mm"
    with mm.create(path, fields=[mm.Field.dense("x", "i8"), mm.Field.ragged("pt", "f4")]):
        pass
    for part in range(5):
        with mm.append(path) as w:
            x = np.arange(part * 1000, part * 1000 + 1000)
            w.extend({"x": x, "pt": [[float(i)] * (i % 3) for i in x]})
    return mm.open(path)


def rows_of(sample, counts):
    first, found = 0, []
    for n, bits in zip(counts, sample.of(counts), strict=True):
        mask = np.full(n, bits) if isinstance(bits, bool) else unpack(bits, 0, n)
        found += (np.flatnonzero(mask) + first).tolist()
        first += n
    return found


@given(st.lists(st.integers(0, 300), max_size=6), st.data(), st.integers(0, 2**64 - 1))
def test_draws_that_many_without_replacement(counts, data, seed):
    total = sum(counts)
    n = data.draw(st.integers(0, total))
    rows = rows_of(Sample.checked(n, None, seed), counts)
    assert len(rows) == n
    assert sorted(set(rows)) == rows
    assert not rows or 0 <= rows[0] <= rows[-1] < total
    # How the rows are cut into parts does not matter.
    assert rows == rows_of(Sample.checked(n, None, seed), [total])


def test_many_rows_are_those_that_few_would_be(monkeypatch):
    counts = [1000, 0, 70, 3000]
    before = rows_of(Sample.checked(900, None, 5), counts)
    monkeypatch.setattr(sampling, "_DRAWN", 0)
    monkeypatch.setattr(sampling, "_BLOCK", 512)
    assert rows_of(Sample.checked(900, None, 5), counts) == before


def test_every_row_is_as_likely():
    n, seeds = 50, 2000
    hits = np.zeros(n)
    for seed in range(seeds):
        hits[rows_of(Sample.checked(10, None, seed), [n])] += 1
    expected = seeds * 10 / n
    assert abs(hits - expected).max() < 5 * np.sqrt(expected)


def test_is_lazy_and_the_same_again(ds):
    cut = ds.cut("x % 2 == 0")
    with max_computes(0), count_reads() as reads:
        some = ds[cut].sample(100, seed=3)
        assert "not yet counted" in repr(some)
    assert reads.n_rows == 0
    x = some["x"].compute()
    assert len(some) == len(x) == 100
    assert (x % 2 == 0).all()
    assert (np.diff(x) > 0).all()
    assert (ds[cut].sample(100, seed=3)["x"].compute() == x).all()
    assert (ds[cut].sample(100, seed=4)["x"].compute() != x).any()
    assert (pickle.loads(pickle.dumps(some))["x"].compute() == x).all()


def test_does_what_selections_do(ds):
    some = ds.sample(fraction=0.1, seed=1)
    x = some["x"].compute()
    assert len(x) == 500
    assert some["pt"].to_list() == [[float(i)] * (i % 3) for i in x]
    assert some[10:20]["x"].compute().tolist() == x[10:20].tolist()
    assert some[17]["x"] == x[17]
    assert some[some.cut("x < 2500")]["x"].compute().tolist() == x[x < 2500].tolist()
    assert set(some.sample(50)["x"].compute()) < set(x)
    batches = np.concatenate([b["x"] for b in some.batches(64, fields="x")])
    assert sorted(batches) == x.tolist()
    flow = some.cutflow(["x < 2500"])
    assert "500" in repr(flow)
    assert some.hist("x", bins=(5, 0, 5000)).sum() == 500


def test_is_cut_and_split_as_rows_are(ds, tmp_path):
    some = ds[1000:4000].sample(600, seed=2)
    parts = some.split({"a": 0.5, "b": 0.5}, by="x")
    assert len(parts["a"]) + len(parts["b"]) == 600
    saved = some.save(tmp_path / "some.mm", progress=False)
    assert saved["x"].compute().tolist() == some["x"].compute().tolist()


@pytest.mark.parametrize("n", [0, 5000])
def test_ends(ds, n):
    assert len(ds.sample(n)) == n
    assert len(ds[:0].sample(fraction=0.5)) == 0
    assert len(ds.sample(fraction=n / 5000)) == n


def test_appended_rows_are_sampled_too(ds):
    some = ds.sample(fraction=0.5)
    with mm.append(ds.path) as w:
        w.extend({"x": np.arange(1000), "pt": [[]] * 1000})
    assert len(some) == 2500
    assert len(some.refresh()) == 3000


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({}, "give one"),
        ({"n": 3, "fraction": 0.5}, "give one"),
        ({"n": 5001}, "5,001 rows cannot be taken from 5,000"),
        ({"n": -1}, "0 or more"),
        ({"n": 0.5}, "fraction=0.5"),
        ({"n": True}, "number of rows"),
        ({"fraction": 1.5}, "from 0 to 1"),
        ({"fraction": float("nan")}, "from 0 to 1"),
        ({"n": 3, "seed": -1}, "seed"),
    ],
)
def test_mistakes(ds, args, message):
    with pytest.raises(mm.OptionError, match=message):
        ds.sample(**args)


def test_too_many_of_a_cut(ds):
    some = ds[ds.cut("x < 10")].sample(11)
    with pytest.raises(mm.OptionError, match="11 rows cannot be taken from 10"):
        len(some)


@settings(max_examples=20)
@given(n=st.integers(0, 60), start=st.integers(0, 60), step=st.integers(1, 4))
def test_slices_of_samples_of_slices(n, start, step):
    counts = [20, 0, 33, 7]
    rows = rows_of(Sample.checked(min(n, 60), None, 9), counts)
    from mmdask.rows.selecting import Slice

    mine = rows_of(Slice(start, 60, step), counts)
    assert mine == list(range(60))[start:60:step]
    assert len(rows) == min(n, 60)
