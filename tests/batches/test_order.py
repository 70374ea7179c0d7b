"""The order as a function of integers: exactly once, even, inverted, and the same for ever."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_rows import numbered

from mmdask.batches.loader import Loader
from mmdask.batches.ordering import order
from mmdask.batches.ordering.order import Windows, epoch_key, grain
from mmdask.kernels import permute

GOLDEN = Path(__file__).parent / "golden_order.json"
SIZES = st.one_of(
    st.integers(0, 40),
    st.sampled_from([*(2**k + d for k in range(3, 11) for d in (-1, 0, 1)), 97, 499, 1009]),
)


@st.composite
def windows(draw):
    n = draw(SIZES)
    return Windows(n, draw(st.integers(1, n)) if n else 0)


@settings(max_examples=300, deadline=None)
@given(windows(), st.integers(0, 2**64 - 1))
def test_every_block_is_in_one_window_and_windows_are_of_a_size(w, key):
    blocks = [w.blocks(key, i) for i in range(w.n_windows)]
    assert sorted(np.concatenate([np.empty(0, int), *blocks]).tolist()) == list(range(w.n_blocks))
    assert all((np.diff(b) > 0).all() for b in blocks)
    if blocks:
        sizes = [len(b) for b in blocks]
        assert max(sizes) - min(sizes) <= 1
        for i, found in enumerate(blocks):
            assert w.window_of(key, found).tolist() == [i] * len(found)


@settings(max_examples=200, deadline=None)
@given(windows(), st.integers(0, 2**64 - 1))
def test_a_window_draws_evenly_from_the_whole_store(w, key):
    for i in range(w.n_windows):
        # One block of each of k equal runs of blocks, and at most one more.
        strata = (w.blocks(key, i) + 1) * w.n_strata - 1
        counts = np.bincount(strata // w.n_blocks, minlength=w.n_strata)
        assert counts.min() >= 1
        assert counts.sum() <= w.n_strata + 1


@settings(max_examples=200, deadline=None)
@given(windows(), st.integers(1, 20), st.integers(0, 2**64 - 1), st.data())
def test_window_starts_in_closed_form_and_by_counting_agree(w, block, key, data):
    n_rows = max(w.n_blocks * block - data.draw(st.integers(0, block - 1)), 0)
    counts = np.full(w.n_blocks, block)
    counts[-1:] -= w.n_blocks * block - n_rows
    closed = w.starts(key, None, block, n_rows)
    assert closed.tolist() == w.starts(key, counts, block, n_rows).tolist()
    assert closed[-1] == n_rows
    by_hand = [int(counts[w.blocks(key, i)].sum()) for i in range(w.n_windows)]
    assert np.diff(closed).tolist() == by_hand


def test_counting_goes_on_across_bulks(monkeypatch):
    counts = np.random.default_rng(0).integers(0, 9, 1000)
    whole = Windows(1000, 7).starts(5, counts, 8, 0)
    monkeypatch.setattr(order, "_BULK", 64)
    assert Windows(1000, 7).starts(5, counts, 8, 0).tolist() == whole.tolist()


@given(st.integers(1, 10**6), st.integers(256, 5000))
def test_windows_are_within_the_limit_or_of_fewer_than_two_times_the_least(n_blocks, blocks):
    w = Windows.of(n_blocks, blocks)
    most = w.n_strata + (w.n_spare > 0)
    assert most <= blocks or most <= 2 * order.LEAST_BLOCKS
    assert w.n_strata >= min(order.LEAST_BLOCKS, n_blocks)


def test_the_order_of_a_billion_rows_costs_nothing():
    w = Windows.of(10**9 // 64, 15887)
    starts = w.starts(3, None, 64, 10**9 - 7)
    assert starts[-1] == 10**9 - 7
    window = int(np.searchsorted(starts, 7 * 10**8, side="right")) - 1
    assert len(w.blocks(3, window)) * 64 == starts[window + 1] - starts[window]


# The grain ---------------------------------------------------


def test_the_default_window_is_bounded_in_bytes_and_rows():
    assert grain(10**9, 1016.0, 64) == order.Grain(64, 2**28 // 1024 // 64)
    assert grain(10**9, 4.0, 64) == order.Grain(64, 2**20 // 64)
    assert grain(10**9, 4.0, 64, window=2**30).blocks == 2**30 // 12 // 64


def test_the_block_shrinks_three_times_before_the_window_grows():
    assert grain(10**9, 8184.0, 64) == order.Grain(64, 512)
    assert grain(10**9, 16376.0, 64) == order.Grain(32, 512)
    assert grain(10**9, 32760.0, 64) == order.Grain(16, 512)
    assert grain(10**9, 65528.0, 64) == order.Grain(8, 512)
    assert grain(10**9, 131064.0, 64) == order.Grain(8, 256)
    assert grain(10**9, 10e6, 64) == order.Grain(8, 256)
    assert grain(10**9, 10e6, 64, block=64) == order.Grain(64, 256)
    assert grain(10**9, 10e6, 2).block == 1
    assert grain(10**9, 10e6, 1).block == 1


def test_a_store_that_fits_a_window_keeps_its_block():
    assert grain(1000, 10.0, 4096).block == 4096


# For ever ---------------------------------------------------


def golden_cases():
    """Names and what they give; the file next to this one was made with it once, and is only read since."""
    cases = {}
    for n_blocks, n_windows in [(1, 1), (7, 3), (256, 1), (1000, 7), (4099, 16)]:
        w = Windows(n_blocks, n_windows)
        key = epoch_key(7, 3, "blocks")
        cases[f"blocks {n_blocks} {n_windows}"] = [w.blocks(key, i)[:40].tolist() for i in range(n_windows)]
    cases["keys"] = [epoch_key(s, e, p) for s in (0, 1, 2**63) for e in (0, 1) for p in ("blocks", "exact")]
    cases["window key"] = order.window_key(7, 3, 5)
    rows = np.arange(100)
    permute.shuffle(rows, order.window_key(7, 3, 5))
    cases["shuffled"] = rows.tolist()
    cases["exact"] = [order.exact_ranks(n, 7, 3, 0, min(n, 50)).tolist() for n in (1, 2, 5, 64, 65537, 10**9 + 7)]
    for name, shuffle, selected in [
        ("windows", True, None),
        ("windows of a selection", True, range(0, 20000, 7)),
        ("exact", "exact", range(3, 20000, 7)),
    ]:
        loader = Loader(numbered(20000, selected=selected), 100, shuffle=shuffle, seed=5)
        if shuffle is True:
            loader = Loader(numbered(20000, selected=selected), 100, seed=5, block=4, window="1MiB")
        cases[f"loader, {name}"] = [loader[i].rows.tolist() for i in (0, 13, -1)]
    return cases


@pytest.mark.parametrize("case", json.loads(GOLDEN.read_text()))
def test_the_order_never_changes(case):
    assert golden_cases()[case] == json.loads(GOLDEN.read_text())[case]


def test_no_golden_case_was_left_out():
    assert set(json.loads(GOLDEN.read_text())) == set(golden_cases())
