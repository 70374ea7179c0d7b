"""The random numbers of rows: the same everywhere, for ever, and random."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_rows import numbered

from mmdask.batches.loader import Loader
from mmdask.batches.ordering import order
from mmdask.batches.ordering.row_rng import RowRng, below
from mmdask.errors import OptionError
from mmdask.kernels.hashing import GOLDEN, mix, mix_int

GOLDEN_FILE = Path(__file__).parent / "golden_rng.json"
U = np.uint64
MASK = 2**64 - 1


def test_golden_vectors():
    for case in json.loads(GOLDEN_FILE.read_text()):
        rows = np.array(case["rows"])
        rng = RowRng.of(case["seed"], case["epoch"], case["purpose"], rows)
        assert [[f"{x:016x}" for x in row] for row in rng.bits(4).tolist()] == case["bits"]
        assert [[x.hex() for x in row] for row in rng.random(2).tolist()] == case["random"]
        assert rng.integers(-5, 10**12, size=3).tolist() == case["integers"]
        assert rng.normal(size=2) == pytest.approx(np.array(case["normal"]), rel=1e-12, abs=1e-15)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, MASK), st.lists(st.integers(0, 2**62), max_size=5), st.integers(0, 4))
def test_the_numbers_are_those_of_the_formula(key, rows, n):
    expected = [
        [mix_int(mix_int((r + 1) * GOLDEN + key) + mix_int((d + 1) * 0xB504F333F9DE6485 + key)) for d in range(n)]
        for r in rows
    ]
    assert RowRng(key, np.array(rows, np.int64)).bits(n).tolist() == expected


def test_calls_go_on_in_every_stream():
    rows = np.array([5, 0, 5, 99])
    whole = RowRng(1, rows).bits(7)
    rng = RowRng(1, rows)
    pieces = [rng.bits()[:, None], rng.bits((2, 2)).reshape(4, 4), rng.bits((0, 3)).reshape(4, 0), rng.bits(2)]
    assert np.concatenate(pieces, axis=1).tolist() == whole.tolist()
    assert whole[0].tolist() == whole[2].tolist()
    assert len(rng) == 4
    used = RowRng(1, rows)
    used.normal(size=3)
    assert used.bits().tolist() == whole[:, 6].tolist()


@pytest.mark.parametrize("shuffle", [True, "exact"])
def test_a_row_has_its_numbers_whatever_the_batch_and_the_rank(shuffle):
    def numbers(**options):
        found = {}
        for batch in Loader(numbered(200), shuffle=shuffle, seed=3, **options):
            values = batch.row_rng("jitter").random(2)
            found |= {int(r): v.tolist() for r, v in zip(batch.rows, values, strict=True)}
        return found

    expected = numbers(batch_size=200)
    assert len({tuple(v) for v in expected.values()}) == 200
    assert numbers(batch_size=7) == expected
    ranks = [numbers(batch_size=9, rank=r, world_size=3, last="keep") for r in range(3)]
    assert {k: v for found in ranks for k, v in found.items()} == expected


def test_seed_epoch_purpose_and_row_all_count():
    seen = [
        RowRng.of(seed, epoch, purpose, np.array([row])).bits()[0]
        for seed, epoch, purpose, row in itertools.product((0, 1), (0, 1), ("a", "b", ""), (0, 1))
    ]
    assert len(set(seen)) == len(seen)
    assert order.epoch_key(0, 0, "row_rng window") != order.epoch_key(0, 0, "window", 0)


def test_uniform_numbers_have_53_bits():
    x = RowRng(5, np.arange(4000)).random(50)
    assert x.dtype == np.float64
    assert 0 <= x.min() < 1e-4
    assert 1 - 1e-4 < x.max() < 1
    scaled = x * 2.0**53
    assert (scaled == np.floor(scaled)).all()
    assert (scaled % 2 == 1).mean() == pytest.approx(0.5, abs=0.01)
    assert chi2_sigmas(np.floor(x.ravel() * 100).astype(int), 100) < 5


def test_integers_are_the_upper_half_of_a_product():
    bits = np.array([0, 1, 2**63, MASK, 0x123456789ABCDEF0], U)
    for n in (1, 2, 3, 10**6, 2**32 - 1, 2**32, 2**32 + 1, 10**18, 2**63, MASK):
        assert below(bits, np.full((), n, U)).tolist() == [int(b) * n >> 64 for b in bits.tolist()]
    rng = RowRng(1, np.arange(3000))
    for low, high in ((0, 1), (-3, 4), (0, 2**63), (-(2**63), 2**63 - 1), (2**62, 2**62 + 2)):
        x = rng.integers(low, high, size=3)
        assert x.dtype == np.int64
        assert low <= x.min()
        assert x.max() < high
    assert chi2_sigmas(rng.integers(7, size=20).ravel(), 7) < 5
    assert rng.integers(5).shape == (3000,)


def test_normal_numbers():
    x = RowRng(2, np.arange(20_000)).normal(3, 2, size=5).ravel()
    z = (x - 3) / 2
    n = len(z)
    assert abs(z.mean()) < 5 / np.sqrt(n)
    assert abs(z.var() - 1) < 5 * np.sqrt(2 / n)
    assert abs((z**3).mean()) < 5 * np.sqrt(15 / n)
    assert abs((z**4).mean() - 3) < 5 * np.sqrt(96 / n)
    for limit, share in ((1, 0.317310508), (2, 0.045500264), (3, 0.002699796)):
        assert abs((abs(z) > limit).mean() - share) < 5 * np.sqrt(share / n)
    assert abs(z).max() < 8.6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda rng: rng.integers(0), "from low to below high"),
        (lambda rng: rng.integers(3, 2), "from low to below high"),
        (lambda rng: rng.integers(0, 2**63 + 1), "from low to below high"),
        (lambda rng: rng.integers(-(2**63), 2**63), "from low to below high"),
        (lambda rng: rng.integers(2.5), "low is an integer"),
        (lambda rng: rng.random(-1), "size is 0 or more"),
        (lambda rng: rng.random(1.5), "size is an integer, or a tuple"),
    ],
)
def test_arguments(call, message):
    with pytest.raises(OptionError, match=message):
        call(RowRng(0, np.arange(2)))


def test_no_rows():
    rng = RowRng(0, np.arange(0))
    assert rng.random(3).shape == (0, 3)
    assert rng.normal().shape == (0,)


# How random they are -----------------------------------------------------------------------------------------------


def chi2_sigmas(values, n):
    """By how many standard deviations the counts of values below n are further from even than they should be."""
    counts = np.bincount(values, minlength=n)
    expected = len(values) / n
    return abs(((counts - expected) ** 2 / expected).sum() - (n - 1)) / np.sqrt(2 * (n - 1))


def weaknesses(bits_of):
    """Names of the tests that a table of 64-bit numbers by (key, rows, draws) fails; 5 standard deviations each."""
    found = set()
    table = bits_of(12345, np.arange(4096), 16)
    for axis in ("rows", "draws"):
        x = table.T.ravel() if axis == "rows" else table.ravel()  # neighbours are rows, or draws of one row
        n = len(x)
        ones = [((x >> U(b)) & U(1)).mean() for b in range(64)]
        if max(abs(np.array(ones) - 0.5)) > 5 * 0.5 / np.sqrt(n):
            found.add("bits")
        uniform = (x >> U(11)).astype(float)
        for lag in (1, 2, 16):
            if abs(np.corrcoef(uniform[:-lag], uniform[lag:])[0, 1]) > 5 / np.sqrt(n):
                found.add(f"correlation along {axis}")
        for name, shift in (("upper", 56), ("lower", 0)):
            byte = ((x >> U(shift)) & U(255)).astype(int)
            if chi2_sigmas(byte, 256) > 5:
                found.add(f"{name} bits")
            pairs = byte[:-1] // 16 * 16 + byte[1:] // 16
            if chi2_sigmas(pairs[::2], 256) > 5:
                found.add(f"{name} pairs along {axis}")
        flips = np.bitwise_count(x[:-1] ^ x[1:]).mean()
        if abs(flips - 32) > 5 * 4 / np.sqrt(n):
            found.add(f"avalanche along {axis}")
    corners = table[:-1, :-1] ^ table[1:, :-1] ^ table[:-1, 1:] ^ table[1:, 1:]
    if len(np.unique(corners)) < corners.size:
        found.add("rows and draws act alone")
    sums = table[:-1, :-1] - table[1:, :-1] - table[:-1, 1:] + table[1:, 1:]
    if len(np.unique(sums)) < sums.size:
        found.add("rows and draws act alone")
    if len(np.unique(table)) < table.size:
        found.add("repeats")
    if np.intersect1d(table, bits_of(12346, np.arange(4096), 16)).size:
        found.add("keys share numbers")
    return found


def ours(key, rows, n):
    return RowRng(key, rows).bits(n)


def rows_and_draws(rows, n):
    return rows.astype(U)[:, None], np.arange(1, n + 1, dtype=U)


def no_mixing(key, rows, n):
    r, d = rows_and_draws(rows, n)
    return r * U(GOLDEN) + d * U(0xB504F333F9DE6485) + U(key)


def mixed_apart(key, rows, n):
    r, d = rows_and_draws(rows, n)
    return mix(r * U(GOLDEN) + U(key)) ^ mix(d + U(key))


def mixed_and_added(key, rows, n):
    r, d = rows_and_draws(rows, n)
    return mix((r + U(1)) * U(GOLDEN) + U(key)) + mix(d * U(0xB504F333F9DE6485) + U(key))


def one_multiplication(key, rows, n):
    x = no_mixing(key, rows, n)
    return (x ^ (x >> U(30))) * U(0xBF58476D1CE4E5B9)


def keys_added(key, rows, n):
    r, d = rows_and_draws(rows, n)
    return mix(mix(r + U(key)) + mix(d))


def rows_and_draws_on_one_line(key, rows, n):
    r, d = rows_and_draws(rows, n)
    return mix((r + d) * U(GOLDEN) + mix(np.array([key], U)))


def test_the_numbers_pass_and_bad_mixers_fail():
    assert weaknesses(ours) == set()
    shifted = weaknesses(lambda key, rows, n: RowRng(key * 7919, rows * 64 + 10**9).bits(n))
    assert shifted == set()
    assert {"bits", "upper pairs along rows"} & weaknesses(no_mixing)
    assert "rows and draws act alone" in weaknesses(mixed_apart)
    assert "rows and draws act alone" in weaknesses(mixed_and_added)
    assert weaknesses(one_multiplication)
    assert "keys share numbers" in weaknesses(keys_added)
    assert "repeats" in weaknesses(rows_and_draws_on_one_line)


def test_epochs_seeds_and_purposes_are_uncorrelated():
    rows = np.arange(20_000)
    streams = [
        RowRng.of(seed, epoch, purpose, rows).random()
        for seed, epoch, purpose in [(0, 0, "a"), (0, 1, "a"), (1, 0, "a"), (0, 0, "b"), (1, 0, "b")]
    ]
    for a, b in itertools.combinations(streams, 2):
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(len(rows))
