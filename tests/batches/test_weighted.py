"""Drawing rows by weights: exact lengths, every count within one of what is expected, and mixed as well as rows are."""

from __future__ import annotations

import json
import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mmdask as mm
from mmdask.batches.ordering.sequence import Span
from mmdask.batches.ordering.weighted import shift_of
from mmdask.rows.draws import weighing


def made(path, weights, parts=1, **more):
    n = len(weights)
    edges = np.linspace(0, n, parts + 1).astype(int)
    data = {"w": np.asarray(weights), "i": np.arange(n), **more}
    mm.from_arrays({k: v[: edges[1]] for k, v in data.items()}, path)
    for a, b in zip(edges[1:-1], edges[2:], strict=True):
        with mm.append(path) as w:
            w.extend({k: v[a:b] for k, v in data.items()})
    return mm.open(path)


def drawn(loader):
    return np.concatenate([np.empty(0, np.int64), *(b["i"] for b in loader)])


def counts_by_hand(weights, m, shift):
    """Copies of each row, in fractions; and how near a tooth of the comb came to the end of a row."""
    total = sum(map(Fraction, weights))
    ends, upto = [0], Fraction(0)
    near = Fraction(1)
    for w in weights:
        upto += Fraction(w)
        place = upto * m / total + Fraction(shift)
        near = min(near, abs(place - round(place)))
        ends.append(math.floor(place))
    return np.diff(ends), near


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from([0, 0, 1, 1, 2, 0.1, 0.3, 7, 1e-9, 40]), min_size=3, max_size=9).filter(sum),
    st.sampled_from([1, 30, 64, 65, 700]),
    st.integers(1, 4),
    st.integers(0, 9),
    st.sampled_from([True, "exact", False]),
    st.booleans(),
)
def test_counts_are_those_of_the_comb(tmp_path_factory, few, n, parts, seed, shuffle, cut):
    path = tmp_path_factory.mktemp("w") / "s.mm"
    weights = [max(few), *np.random.default_rng(seed).choice(few, n - 1).tolist()]
    ds = made(path, np.array(weights, "f8"), min(parts, len(weights)))
    chosen = np.arange(len(weights))
    if cut and sum(weights[::3]):
        ds, chosen = ds[ds.cut("i % 3 == 0")], chosen[::3]
    loader = ds.batches(7, weights="w", seed=seed, shuffle=shuffle)
    m = len(chosen)
    for epoch in range(2):
        rows = drawn(loader)
        assert len(rows) == m
        found = np.bincount(rows, minlength=len(weights))[chosen]
        assert found.sum() == m
        expected, near = counts_by_hand([weights[i] for i in chosen], m, shift_of(seed, epoch))
        if near > 1e-9:
            np.testing.assert_array_equal(found, expected)
        exact = np.array([weights[i] for i in chosen]) / sum(weights[i] for i in chosen) * m
        assert (np.abs(found - exact) < 1 + 1e-9).all()
        assert not found[exact == 0].any()


@pytest.mark.parametrize("shuffle", [True, "exact", False])
@pytest.mark.parametrize("weight", [0.1, 1, 3.7e-300, 1e300])
def test_equal_weights_are_every_row_once(tmp_path, shuffle, weight):
    ds = made(tmp_path / "s.mm", np.full(5000, weight), 3)
    loader = ds.batches(64, weights="w", shuffle=shuffle)
    for _ in range(3):
        assert sorted(drawn(loader).tolist()) == list(range(5000))


def test_batches_do_not_depend_on_how_they_are_reached(tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    ds = made(tmp_path / "s.mm", rng.exponential(size=3000) ** 3, 5)
    sel = ds[ds.cut("i % 7 > 1")]
    for shuffle in (True, "exact", False):
        options = {"weights": "w", "seed": 4, "shuffle": shuffle}
        if shuffle is True:
            options |= {"block": 4, "window": 1}
        loader = sel.batches(50, **options)
        batches = [b.rows for b in loader]
        loader.set_epoch(0)
        for i in (len(batches) - 1, 3, 0):
            np.testing.assert_array_equal(loader[i].rows, batches[i])
        whole = np.concatenate(batches)
        ranks = [sel.batches(50, rank=r, world_size=3, last="keep", **options) for r in range(3)]
        together = [b.rows for three in zip(*ranks, strict=True) for b in three]
        np.testing.assert_array_equal(np.concatenate(together), whole)
        resumed = pickle.loads(pickle.dumps(sel.batches(33, **options)))
        state = sel.batches(50, **options)
        state.batch(0, 0)
        saved = json.loads(json.dumps(loader.state_dict(loader[9])))
        assert len(json.dumps(saved)) < 1000
        resumed.load_state_dict(saved)
        np.testing.assert_array_equal(np.concatenate([b.rows for b in resumed]), whole[500:])
        monkeypatch.setattr(weighing, "_TOGETHER", 3)  # blocks are looked at in other companies
        np.testing.assert_array_equal(np.concatenate([b.rows for b in sel.batches(50, **options)]), whole)
        monkeypatch.undo()
    mm.compact(ds.path)
    again = mm.open(ds.path)
    weighing._WEIGHED.clear()
    loader = again[again.cut("i % 7 > 1")].batches(50, weights="w", seed=4, shuffle=False)
    np.testing.assert_array_equal(np.concatenate([b.rows for b in loader]), whole)
    with pytest.raises(mm.StateError, match="order"):
        sel.batches(50, weights="w + 1").load_state_dict(sel.batches(50, weights="w").state_dict())


def test_expectations_over_epochs_are_the_weights(tmp_path):
    weights = np.tile([0.25, 0.5, 1.0, 2.25], 75)
    ds = made(tmp_path / "s.mm", weights)
    epochs = 400
    weighed = ds.batches(300, weights="w").sequence.weighed
    total = np.zeros(300)
    for epoch in range(epochs):
        rows = weighed.copies(shift_of(5, epoch), np.arange(300))
        total += np.bincount(rows, minlength=300)
    for share in (0.25, 0.5, 2.25):
        # Bernoulli of the fractional part: 5 sigma for the mean of each row.
        p = share % 1
        assert np.abs(total[weights == share] / epochs - share).max() < 5 * np.sqrt(p * (1 - p) / epochs)


def test_class_totals_vary_less_than_those_of_independent_draws(tmp_path):
    rng = np.random.default_rng(2)
    weights = rng.uniform(0.2, 1.8, 4000)
    signal = rng.random(4000) < 0.3
    ds = made(tmp_path / "s.mm", weights)
    weighed = ds.batches(300, weights="w").sequence.weighed
    totals = [signal[weighed.copies(shift_of(1, e), np.arange(4000))].sum() for e in range(200)]
    p = weights[signal].sum() / weights.sum()
    multinomial = math.sqrt(4000 * p * (1 - p))
    # Independent draws give 1 to 10 %, rounding every row on its own 0.55.
    assert np.std(totals) < 0.45 * multinomial
    assert abs(np.mean(totals) - 4000 * p) < 5 * multinomial / math.sqrt(200)


def test_rare_rows_with_large_weights_are_mixed_as_all_others(tmp_path):
    # Sorted data, of which the last hundredth has half of the weight.
    n = 200_000
    rare = np.arange(n) >= n - n // 100
    ds = made(tmp_path / "s.mm", np.where(rare, 99.0, 1.0))
    loader = ds.batches(1000, fields=["i"], weights="w", window="200kB", block=16)
    loader.sequence.n
    assert loader.sequence.windows.n_windows > 10
    counts = [rare[b.rows].sum() for b in loader]
    ratio = np.var(counts) / (1000 * 0.25)
    # Blocks of the store instead of blocks of copies give 5 and more: some windows have twice the rare rows of others.
    assert ratio < 1.6
    rows = drawn(loader)
    same = (rows[1:] == rows[:-1]).sum()
    expected = (np.bincount(rows, minlength=n).astype(float) ** 2).sum() / n  # pairs of neighbours, if all are mixed
    assert same < 30 * expected


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([1.0, -0.5, 2.0], r"is -0.5 in row 1 .*abs\(w\).*sign"),
        ([1.0, math.nan, -1.0], "is nan or missing in row 1"),
        ([math.inf, 1.0], "is infinite in row 0"),
        ([0.0, 0.0], "is 0 in all of these rows"),
        ([1e308, 1e308], "sums to more than a number holds"),
    ],
)
def test_weights_that_are_none_are_refused(tmp_path, weights, words):
    ds = made(tmp_path / "s.mm", np.array(weights))
    with pytest.raises(mm.OptionError, match=words):
        ds.batches(2, weights="w")


def test_only_selected_rows_need_a_weight(tmp_path):
    fields = [mm.Field.dense("w", "f4", optional=(0,)), mm.Field.dense("i", "i8")]
    with mm.create(tmp_path / "s.mm", fields=fields) as w:
        w.extend({"w": [1.0, None, 2.0, -1.0] * 50, "i": list(range(200))})
    ds = mm.open(tmp_path / "s.mm")
    with pytest.raises(mm.OptionError, match="nan or missing in row 1"):
        ds.batches(2, weights="w")
    rows = drawn(ds[ds.cut("w > 0")].batches(8, weights="w"))
    assert len(rows) == 100
    assert set((rows % 4).tolist()) == {0, 2}
    assert drawn(ds[ds.cut("w > 5")].batches(8, weights="w")).tolist() == []
    with pytest.raises(mm.OptionError, match="boolean"):
        ds.batches(2, weights="w > 1")
    computed = ds.assign(v="where(ismissing(w), 0, abs(w))")
    assert set((drawn(computed.batches(8, weights="v * 2", fields=["i"])) % 4).tolist()) == {0, 2, 3}
    with pytest.raises(mm.OptionError, match="dask array"):
        ds.assign(v=ds["i"] + 1).batches(2, fields=["i"], weights="v")


def test_one_row_may_have_all_the_weight(tmp_path):
    weights = np.zeros(1000)
    weights[617] = 3
    ds = made(tmp_path / "s.mm", weights)
    for shuffle in (True, "exact", False):
        assert drawn(ds.batches(100, weights="w", shuffle=shuffle)).tolist() == [617] * 1000


@pytest.mark.parametrize("kind", ["equal", "thirds", "random"])
def test_every_copy_is_of_a_row_also_where_the_comb_meets_an_end(tmp_path, kind):
    # Teeth of the comb at the ends of blocks and beside them: which side they fall on, rounding decides.
    weights = {
        "equal": np.full(999, 0.1),
        "thirds": np.tile([0.1, 0.2, 0.3, 0.0], 250),
        "random": np.random.default_rng(362).random(1000),  # of one end the sums above are rounded to the other side
    }[kind]
    n = len(weights)
    weighed = made(tmp_path / "s.mm", weights, 4).batches(100, weights="w").sequence.weighed
    ends = 1 - weighed.places % 1
    shifts = {2.0**-53, 0.5, 1 - 2.0**-53}
    shifts |= {s for e in ends.tolist() for s in (e, math.nextafter(e, 0), math.nextafter(e, 1)) if 0 < s < 1}
    for shift in sorted(shifts):
        rows = weighed.copies(shift, np.arange(n))
        assert len(rows) == n
        assert (np.diff(rows) >= 0).all()
        found = np.bincount(rows, minlength=n)
        assert not found[weights == 0].any()
        assert (np.abs(found - weights / weights.sum() * n) < 1 + 1e-9).all()
        np.testing.assert_array_equal(weighed.copies(shift, np.arange(n)[::-7]), rows[::-7])


def test_span_is_all_rows_of_a_store():
    span = Span(10)
    assert span.block_counts(4).tolist() == [4, 4, 2]
    assert span.rows_of_blocks(np.array([2, 0]), 4).tolist() == [8, 9, 0, 1, 2, 3]
    assert (len(span), span.numbers(3, 99).tolist()) == (10, list(range(3, 10)))
