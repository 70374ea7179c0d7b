"""Combs on lines of weights: both forms alike, and as a plain loop says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdask.batches.ordering.row_rng import streams_of
from mmdask.kernels import combs
from mmdask.kernels.hashing import mix_int
from mmdask.kernels.jit import Kernel


@pytest.fixture(params=["twin", "compiled"])
def form(request, monkeypatch):
    if request.param == "twin":
        monkeypatch.setattr(Kernel, "__call__", lambda self, *args: self.twin(*args))
    else:
        monkeypatch.setattr(Kernel, "__call__", lambda self, *args: self.compiled(*args)(*args))


def teeth_before(places, shift):
    """How many teeth lie before each place, by Python numbers."""
    return [int(p) + (p - int(p) + shift >= 1) for p in places.tolist()]


def least_of(places, shift, n):
    """As `mmdask.rows.draws.weighing.Drawn` has it."""
    marks = np.arange(0, n + 128, 64) - shift
    return np.clip(np.searchsorted(places, marks) - 2, 0, len(places) - 2)


LINES = {
    "even": np.arange(101) * 3.0,
    "most blocks in little": np.append(np.linspace(0, 2, 5000), 900.0),
    "one has nearly all": np.concatenate([np.linspace(0, 1, 50), np.linspace(999, 1000, 50)]),
    "one block": np.array([0.0, 7.0]),
    "random": np.append(0, np.cumsum(np.random.default_rng(0).exponential(2, 700))),
}


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("shift", [0.001, 0.5, 0.9999])
def test_the_block_of_every_tooth(form, line, shift):
    places = LINES[line]
    n = int(places[-1])
    places = places * (n / places[-1])
    places[-1] = n
    begins = np.array(teeth_before(places, shift))
    numbers = np.random.default_rng(1).permutation(n)
    block, rank = combs.blocks_of(places, shift, least_of(places, shift, n), numbers)
    assert ((begins[block] <= numbers) & (numbers < begins[block + 1])).all()
    np.testing.assert_array_equal(rank, numbers - begins[block])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 5), st.floats(0.01, 0.99), st.floats(0.1, 300.0))
def test_ends_in_both_forms_are_equal(seed, n, phase, length):
    rng = np.random.default_rng(seed)
    weights = rng.choice([0.0, 1.0, 0.1, 1e-12, 7.0, 1e12], (n, 64))
    weights[:, 5] = 2
    phases, lengths = np.full(n, phase), np.full(n, length) * rng.random(n)
    before = rng.integers(0, 1000, n)
    end = before + np.floor(phases + lengths).astype(np.int64)
    outs = []
    for kernel in (combs.ENDS.twin, combs.ENDS.compiled(weights, phases, lengths, before, end, np.empty((n, 64), int))):
        outs.append(np.empty((n, 64), np.int64))
        kernel(weights, phases, lengths, before, end, outs[-1])
    np.testing.assert_array_equal(*outs)
    assert (np.diff(outs[0], axis=1) >= 0).all()
    assert (outs[0][:, -1] == end).all()
    nothing = weights[:, 1:] == 0
    assert (np.diff(outs[0], axis=1)[nothing] == 0).all()


def test_rows_of_teeth(form):
    rng = np.random.default_rng(2)
    counts = rng.choice([0, 0, 1, 2, 900], (40, 64))
    upto = np.cumsum(counts, axis=1)
    assert upto.max() < 2**16
    block = np.repeat(np.arange(40), upto[:, -1])
    rank = np.concatenate([np.arange(n) for n in upto[:, -1]])
    expected = np.concatenate([np.repeat(np.arange(64), c) for c in counts])
    some = rng.permutation(len(block))[:20_000]
    np.testing.assert_array_equal(combs.rows_of(upto.astype(np.uint16), block[some], rank[some]), expected[some])


def test_streams_are_the_published_ones(form):
    rows, positions = np.array([0, 5, 2**62]), np.array([0, 2**40, 3])
    expected = [
        mix_int((r * combs.SILVER + mix_int(p + 1)) % 2**64)
        for r, p in zip(rows.tolist(), positions.tolist(), strict=True)
    ]
    assert streams_of(rows, positions).view(np.uint64).tolist() == expected


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.sampled_from([1.0, 2.0, 0.1, 1 / 3, 1e9, 1e-9]), min_size=1, max_size=12),
    st.integers(0, 10**12),
    st.data(),
)
def test_turns_are_those_of_sorted_draws(shares, first, data):
    k = len(shares)
    low = [first + data.draw(st.integers(0, 5)) for _ in range(k)]
    high = [a + data.draw(st.integers(0, 9)) for a in low]
    draws = [((2 * k * j + 2 * c + 1) / shares[c], c) for c in range(k) for j in range(low[c], high[c])]
    args = np.array(shares), np.array(low), np.array(high)
    expected = [c for _, c in sorted(draws)]
    assert combs.turns(*args).tolist() == expected
    out = np.empty(len(expected), np.int64)
    combs.TURNS.compiled(*args, out)(*args, out)
    assert out.tolist() == expected
