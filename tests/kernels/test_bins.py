"""Loops of histograms: twins and compiled forms agree bit for bit, with each other and with numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdask.errors import CorruptStoreError
from mmdask.kernels import bins
from mmdask.kernels.packed import readonly

SPECIAL = [0.0, -0.0, 1.0, 0.1, 1 / 3, -1.5, 1e30, np.inf, -np.inf, np.nan]


def both(kernel, make):
    """What the two forms make of the same arguments; `make` gives them with arrays for the results.

    Of sums of several nan the sign is whichever the processor met first: all nan are one.
    """
    results = []
    for run in (kernel.twin, lambda *args: kernel.compiled(*args)(*args)):
        given_, outs = make()
        result = run(*given_, *outs)
        results.append((result, [np.where(np.isnan(out), np.nan, out).tobytes() for out in outs]))
    assert results[0] == results[1]
    return results[0]


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), n=st.integers(1, 70), low=st.sampled_from([0.0, -3.25, 1e-3]))
def test_places(dtype, seed, n, low):
    rng = np.random.default_rng(seed)
    width = float(rng.choice([1.0, 0.3, 1e5]))
    some = low + width * rng.integers(-1, n + 2, 30) / n  # edges, too
    values = np.concatenate([rng.normal(low, width, 30), some, SPECIAL]).astype(dtype)
    values.flags.writeable = False
    both(bins._PLACES, lambda: ((values, low, width, n), [np.empty(len(values), np.int64)]))
    edges = (low + width) * np.arange(n + 1) / n + low * (1 - np.arange(n + 1) / n)
    wide = values.astype("f8")
    inner = np.isfinite(wide) & (np.abs(wide[:, None] - edges).min(axis=1) > 1e-9 * (abs(low) + width))
    found = bins.places_of(values, low, width, n)
    np.testing.assert_array_equal(found[inner], np.searchsorted(edges, wide[inner], side="right"))
    assert (found[np.isnan(wide)] == n + 1).all()
    assert found.min() >= 0
    assert found.max() <= n + 1


@pytest.mark.parametrize("dtype", ["?", "i1", "u8", "f2"])
def test_other_dtypes_are_those_numbers(dtype):
    values = np.array([0, 1, 1, 0], dtype)
    assert bins.places_of(values, 0.0, 2.0, 2).tolist() == [1, 2, 2, 1]
    assert bins.weighted_sums(np.array([0, 1, 1, 0]), values, 2)[0].tolist() == [0, 2]


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), n=st.integers(0, 50))
def test_sums(dtype, seed, n):
    rng = np.random.default_rng(seed)
    places = rng.integers(0, 5, n)
    weights = np.where(rng.random(n) < 0.1, rng.choice(SPECIAL, n), rng.normal(size=n)).astype(dtype)
    for x in (places, weights):
        x.flags.writeable = False
    both(bins._SUMS, lambda: ((places, weights), [np.zeros(5), np.zeros(5)]))
    sums, squares = [0.0] * 5, [0.0] * 5
    with np.errstate(all="ignore"):
        for place, w in zip(places.tolist(), weights.astype("f8").tolist(), strict=True):
            sums[place] += w
            squares[place] += w * w
    found = bins.weighted_sums(places, weights, 5)
    np.testing.assert_array_equal(found[0], sums)
    np.testing.assert_array_equal(found[1], squares)


@pytest.mark.parametrize("place", [-1, 3, 2**62])
def test_no_bin_beyond_the_last(place):
    places, weights = np.array([0, place, 1]), np.ones(3)
    given = readonly(places), readonly(weights), np.zeros(3), np.zeros(3)
    assert bins._SUMS.twin(*given) == bins._SUMS.compiled(*given)(*given) == 1
    with pytest.raises(CorruptStoreError, match=f"bin {place} of 3"):
        bins.weighted_sums(places, weights, 3)
