"""Fields that share their offsets are found once and padded one by one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import mmdask as mm
from mmdask.kernels import gather

ak = pytest.importorskip("awkward")

COUNTS = np.random.default_rng(3).poisson(5, 700)


@pytest.fixture(scope="module")
def ds(tmp_path_factory):
    rng = np.random.default_rng(4)
    path = tmp_path_factory.mktemp("together") / "jets.mm"
    for a, b in itertools.pairwise([0, 300, 301, 700]):
        with mm.append(path) if a else mm.create(path) as w:
            counts = COUNTS[a:b]
            n = int(counts.sum())
            fields = {"jet_pt": rng.random(n).astype("f4"), "jet_eta": rng.random(n), "jet_n": rng.integers(0, 99, n)}
            lists = {name: ak.unflatten(values, counts) for name, values in fields.items()}
            w.extend({**lists, "el_pt": ak.unflatten(rng.random(int(counts[::-1].sum())), counts[::-1])})
    return mm.open(path)


@pytest.fixture
def passes(monkeypatch):
    """How often rows are followed, and padded where they are known to lie."""
    called = []
    for name in ("PAD_ROWS", "PAD_RUNS"):
        kernel = getattr(gather, name)
        monkeypatch.setattr(
            gather, name, lambda *args, kernel=kernel, name=name: called.append(name) or kernel.compiled(*args)(*args)
        )
    return called


def expected(ds, name, rows, length, value, left):
    lists = ds[name].compute()
    out, mask = np.full((len(rows), length), value, np.float64), np.zeros((len(rows), length), bool)
    for i, row in enumerate(rows):
        kept = np.asarray(lists[int(row)])[:length]
        at = slice(length - len(kept), length) if left else slice(0, len(kept))
        out[i, at], mask[i, at] = kept, True
    return out, mask


def test_each_field_has_its_own_padding(ds, passes):
    steps = {"jet_pt": (7, -1, False), "jet_eta": (3, np.nan, True), "jet_n": (12, 5, False), "el_pt": (4, 0, True)}
    collate = {name: mm.pad(n, value=v, side="left" if left else "right") for name, (n, v, left) in steps.items()}
    loader = ds.batches(128, seed=1, fields=list(steps), collate=collate)
    batch = loader[1]
    assert sorted(passes) == ["PAD_ROWS", "PAD_ROWS", "PAD_RUNS", "PAD_RUNS"]
    for name, step in steps.items():
        values, mask = expected(ds, name, batch.rows, *step)
        np.testing.assert_array_equal(batch[name], values.astype(batch[name].dtype))
        np.testing.assert_array_equal(batch[f"{name}_mask"], mask)


def test_what_was_found_is_for_the_same_rows_alone(ds, passes):
    rows = [np.array([5, 699, 300]), np.array([1])]
    for some in rows:
        found = {}
        for name in ("jet_pt", "jet_eta"):
            made = ds._rows.take_padded(name, some, 4, 0, "right", found)
            for array, wanted in zip(made, expected(ds, name, some, 4, 0, False), strict=True):
                np.testing.assert_array_equal(array, wanted.astype(array.dtype))
        assert len(found) == 1
    assert passes == ["PAD_ROWS", "PAD_RUNS"] * 2


def test_nothing_that_was_found_stays_with_batches(ds):
    loader = ds.batches(128, seed=1, collate={"jet_pt": mm.pad(2), "jet_eta": mm.pad(2)}, fields=["jet_pt", "jet_eta"])
    first, second = itertools.islice(loader, 2)
    first["jet_pt_mask"][:] = False
    assert first["jet_eta_mask"].any()
    assert second["jet_pt_mask"].any()
