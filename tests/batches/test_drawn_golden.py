"""Orders with weights, classes and mixtures, and splits by a permutation: what was published once never changes."""

from __future__ import annotations

import numpy as np
import pytest

import mmdask as mm
from mmdask.batches.ordering.weighted import shift_of
from mmdask.rows.draws.dealing import Deal


@pytest.fixture
def ds(tmp_path):
    with mm.create(tmp_path / "g.mm", fields=[mm.Field.dense("w", "f8"), mm.Field.category("c", ["a", "b"])]) as w:
        w.extend({"w": [float(i % 5) for i in range(40)], "c": ["a" if i < 30 else "b" for i in range(40)]})
    return mm.open(tmp_path / "g.mm")


WEIGHTED = {
    True: [4, 8, 38, 19, 24, 23, 16, 34, 18, 29, 7, 22],
    "exact": [4, 1, 31, 27, 14, 9, 16, 8, 18, 37, 34, 24],
    False: [13, 14, 14, 16, 17, 18, 19, 19, 21, 22, 23, 24],
}


@pytest.mark.parametrize("shuffle", [True, "exact", False])
def test_weighted_batches(ds, shuffle):
    assert ds.batches(12, weights="w", seed=7, shuffle=shuffle)[1].rows.tolist() == WEIGHTED[shuffle]
    assert [shift_of(7, e) for e in range(3)] == [0.819467142367385, 0.6116137722014349, 0.48049837871041834]


def test_balanced_batches_and_their_random_numbers(ds):
    batch = ds.batches(12, balance={"a": 1, "b": 2}, seed=7)[1]
    assert batch.rows.tolist() == [6, 30, 32, 7, 36, 32, 11, 33, 37, 28, 31, 38]
    assert batch.row_rng("g").integers(100).tolist() == [17, 68, 6, 95, 37, 50, 93, 35, 15, 11, 9, 7]


def test_mixtures(ds):
    loaders = {"x": ds.batches(12, seed=1), "y": ds[ds.cut("c == 'b'")].batches(12, seed=2)}
    batch = mm.mix(loaders, {"x": 2, "y": 1}, stop="cycle")[5]
    assert batch.rows.tolist() == [23, 35, 34, 6, 38, 39, 27, 12, 35, 9, 25, 31]
    assert batch.source.tolist() == [0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1]


def test_splits_by_a_permutation(ds):
    found = Deal((0.5, 0.3, 0.2), 7).folds(20, np.arange(20), "label ttH")
    assert found.tolist() == [1, 2, 0, 2, 2, 0, 0, 1, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 2, 0]
    half = ds.split({"p": 0.5, "q": 0.5}, how="permutation", stratify="c", seed=3)["p"]
    rows = half.batches(40, shuffle=False)[0].rows.tolist()
    assert rows == [1, 2, 3, 4, 6, 10, 17, 18, 19, 22, 25, 26, 27, 28, 29, 30, 31, 32, 37, 39]
