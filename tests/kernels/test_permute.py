"""Permutations: bijective for every size, in both forms alike, and without the patterns that simple ones have."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdask.kernels import permute
from mmdask.kernels.hashing import GOLDEN, hash_key, mix, mix_int
from mmdask.kernels.jit import Kernel

AWKWARD = [511, 512, 513, 1000, 4095, 4096, 4097, 65535, 65536, 65537, 100003, 131073, 262143, 262144, 262145]


@pytest.fixture(params=["twin", "compiled"])
def form(request, monkeypatch):
    use(monkeypatch, request.param)


def use(monkeypatch, form):
    if form == "twin":
        monkeypatch.setattr(Kernel, "__call__", lambda self, *args: self.twin(*args))
    else:
        monkeypatch.setattr(Kernel, "__call__", lambda self, *args: self.compiled(*args)(*args))


def permutation(n, key=7):
    return permute.forward(np.arange(n), np.full(n, n), np.full(n, key, np.uint64))


# Hashes ------------------------------------------------------------


def test_splitmix64_is_the_published_one():
    # The first outputs of the stream with seed 1234567, as in the reference implementation.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [mix_int(1234567 + GOLDEN * (i + 1)) for i in range(4)] == expected
    steps = np.array([(1234567 + GOLDEN * (i + 1)) % 2**64 for i in range(4)], np.uint64)
    assert mix(steps).tolist() == expected


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1))
def test_mix_of_arrays_and_of_ints_agree(numbers):
    before = np.array(numbers, np.uint64)
    assert mix(before).tolist() == [mix_int(n) for n in numbers]
    assert before.tolist() == numbers


part = st.one_of(st.integers(), st.text(max_size=9), st.binary(max_size=9))


@given(st.lists(part, max_size=4), st.lists(part, max_size=4))
def test_keys_of_different_parts_differ(a, b):
    same = [(type(x), x) for x in a] == [(type(x), x) for x in b]
    assert (hash_key(*a) == hash_key(*b)) == same


def test_keys_are_the_same_for_ever():
    assert hash_key() == 0x2D06800538D394C2
    assert hash_key(7, 1, "blocks") == KEY_7_1_BLOCKS
    assert hash_key(7, 1, "blocks") != hash_key(8, 0, "blocks")
    assert hash_key(np.int64(7), 1, "blocks") == KEY_7_1_BLOCKS


KEY_7_1_BLOCKS = 17147179291965544673

# The Feistel permutation ------------------------------------------------------------


def test_bijective_and_inverted_for_every_small_size(form):
    sizes = np.repeat(np.arange(1, 301), np.arange(1, 301))
    positions = np.concatenate([np.arange(n) for n in range(1, 301)])
    for key in (0, 1, 2**64 - 1):
        keys = np.full(len(sizes), key, np.uint64)
        images = permute.forward(positions, sizes, keys)
        assert (permute.inverse(images, sizes, keys) == positions).all()
        order = np.lexsort((images, sizes))
        assert (images[order] == positions).all()


@pytest.mark.parametrize("n", AWKWARD)
def test_bijective_and_inverted_for_awkward_sizes(form, n):
    images = permutation(n)
    assert (np.bincount(images, minlength=n) == 1).all()
    assert len(images) == n
    assert (permute.inverse(images, np.full(n, n), np.full(n, 7, np.uint64)) == np.arange(n)).all()


@pytest.mark.parametrize("n", [2**31 + 11, 2**40, 2**62 + 1])
def test_positions_in_large_ranges_are_inverted(form, n):
    positions = np.unique(np.random.default_rng(0).integers(0, n, 1000))
    sizes, keys = np.full(len(positions), n), np.full(len(positions), 3, np.uint64)
    images = permute.forward(positions, sizes, keys)
    assert images.min() >= 0
    assert images.max() < n
    assert (permute.inverse(images, sizes, keys) == positions).all()


def test_nothing_to_permute(form):
    assert permutation(0).tolist() == []
    assert permutation(1).tolist() == [0]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 2**40), st.integers(0, 2**64 - 1)), max_size=30), st.randoms())
def test_twin_and_loop_permute_alike(pairs, random):
    sizes = np.array([n for n, _ in pairs], np.int64)
    keys = np.array([k for _, k in pairs], np.uint64)
    positions = np.array([random.randrange(n) for n, _ in pairs], np.int64)
    seen = []
    for form in ("twin", "compiled"):
        with pytest.MonkeyPatch.context() as patch:
            use(patch, form)
            seen.append(permute.forward(positions, sizes, keys).tolist())
            seen.append(permute.inverse(positions, sizes, keys).tolist())
    assert seen[:2] == seen[2:]


# Fisher-Yates ------------------------------------------------------------


def test_a_shuffled_array_holds_the_same_elements(form):
    for n in (0, 1, 2, 3, 1000):
        array = np.arange(n) * 3
        permute.shuffle(array, 2**64 - 5)
        assert sorted(array.tolist()) == (np.arange(n) * 3).tolist()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 300), st.integers(0, 2**64 - 1))
def test_twin_and_loop_shuffle_alike(n, key):
    seen = []
    for form in ("twin", "compiled"):
        with pytest.MonkeyPatch.context() as patch:
            use(patch, form)
            array = np.arange(n)
            permute.shuffle(array, key)
            seen.append(array.tolist())
    assert seen[0] == seen[1]


@given(st.integers(0, 50), st.lists(st.integers(0, 50), max_size=4))
def test_a_shuffle_in_pieces_is_the_shuffle(n, cuts):
    whole, pieces = np.arange(n), np.arange(n)
    permute.shuffle(whole, 5)
    edges = [0, *sorted(min(c, n) for c in cuts), n]
    for start, stop in itertools.pairwise(edges):
        permute.shuffle(pieces, 5, start, stop)
        assert pieces[:stop].tolist() == whole[:stop].tolist()
    assert pieces.tolist() == whole.tolist()


def test_every_permutation_of_four_is_as_likely():
    counts = {}
    for key in range(12000):
        array = np.arange(4)
        permute._fisher_yates_twin(array, np.array([mix_int(key)], np.uint64), 0, 4)
        counts[tuple(array.tolist())] = counts.get(tuple(array.tolist()), 0) + 1
    assert len(counts) == 24
    assert chi2_per_dof(np.array(list(counts.values()))) < 1 + 5 * np.sqrt(2 / 23)


# How random they are ------------------------------------------------------------


def chi2_per_dof(counts):
    expected = counts.sum() / len(counts)
    return float(((counts - expected) ** 2).sum() / expected / (len(counts) - 1))


def statistics(images):
    """Chi-squared per degree of freedom of several histograms, with the number of standard deviations from 1."""
    n = len(images)
    grid = min(n, 32)
    cell = images * grid // n
    found = {
        "lag 1": np.histogram((images[1:] - images[:-1]) % n, 64, (0, n))[0],
        "lag 2": np.histogram((images[2:] - images[:-2]) % n, 64, (0, n))[0],
        "pairs": np.bincount(cell[:-1:2][: n // 2] * grid + cell[1::2][: n // 2], minlength=grid * grid),
        "place": np.histogram2d(np.arange(n), images, grid, [(0, n), (0, n)])[0].ravel(),
    }
    for m in (2, 3, 8, 16):
        # How many of each class are in runs of 256: the counts of a batch by (row number mod m).
        runs = (images[: n // 256 * 256] % m).reshape(-1, 256)
        per_run = np.stack([(runs == k).sum(1) for k in range(m)], 1)
        found[f"mod {m}"] = per_run
    scores = {}
    for name, counts in found.items():
        if name.startswith("mod"):
            m = counts.shape[1]
            expected = 256 / m
            ratio = ((counts - expected) ** 2 / expected).sum() / (len(counts) * (m - 1))
            dof = len(counts) * (m - 1)
        else:
            ratio, dof = chi2_per_dof(counts), len(counts) - 1
        scores[name] = abs(ratio - 1) / np.sqrt(2 / dof)
    return scores


AWKWARD = [65536, 65537, 100003, 262143, 262144, 262145]
#: powers of two and their neighbours, and primes
MORE = [*(2**k + d for k in (12, 13, 14, 15, 17) for d in (-1, 0, 1)), 65535, 4099, 10007, 39989, 131101, 1048573]


@pytest.mark.parametrize(("n", "key"), [*itertools.product(AWKWARD, [0, 1, 0xDEADBEEF]), *((n, 7) for n in MORE)])
def test_permutations_show_no_pattern(n, key):
    scores = statistics(permutation(n, key))
    assert max(scores.values()) < 5, scores


def test_a_fisher_yates_shuffle_shows_no_pattern():
    array = np.arange(100003)
    permute.shuffle(array, 1)
    scores = statistics(array)
    assert max(scores.values()) < 5, scores


@pytest.mark.parametrize("n", [4096, 8191, 65536, 65537, 100003, 131101, 262143, 262145])
def test_a_linear_round_function_is_found_out(n, monkeypatch):
    monkeypatch.setattr(permute, "mix", lambda x: x * np.uint64(0xD1342543DE82EF95) + np.uint64(1))
    use(monkeypatch, "twin")
    scores = statistics(permutation(n))
    assert max(scores.values()) > 20, scores


def test_keys_that_follow_each_other_give_unrelated_permutations():
    n = 10007
    a, b = permutation(n, 1), permutation(n, 2)
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(n)
    assert (a == b).mean() < 0.01


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 7])
def test_small_permutations_favour_no_place(n):
    # Strata may hold as few blocks as these.
    keys = mix(np.arange(1, 24001, dtype=np.uint64))
    images = np.stack([permute.forward(np.full(24000, i), np.full(24000, n), keys) for i in range(n)], 1)
    for i in range(n):
        assert chi2_per_dof(np.bincount(images[:, i], minlength=n)) < 1 + 5 * np.sqrt(2 / (n - 1))
    if n <= 5:
        _, counts = np.unique(images, axis=0, return_counts=True)
        assert len(counts) == [1, 1, 2, 6, 24, 120][n]
        assert counts.max() < 2.5 * 24000 / len(counts)


def test_int32_is_shuffled_like_int64(form):
    wide, narrow = np.arange(1000), np.arange(1000, dtype=np.int32)
    permute.shuffle(wide, 9)
    permute.shuffle(narrow, 9)
    assert narrow.dtype == np.int32
    assert narrow.tolist() == wide.tolist()
