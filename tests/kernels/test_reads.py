"""Many short reads of one file: the two forms agree, and neither hides what cannot be read."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdask.kernels import reads
from mmdask.kernels.addresses import address_of
from mmdask.kernels.spread import threads

DATA = np.random.default_rng(0).integers(0, 256, 5000, np.uint8)


@pytest.fixture(scope="module")
def fd(tmp_path_factory):
    path = tmp_path_factory.mktemp("reads") / "data"
    path.write_bytes(DATA.tobytes())
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


def forms(fd):
    some = np.zeros(1, np.int64)
    out = np.zeros(1, np.uint8)
    return reads.READ.twin, reads.READ.compiled(fd, some, some, address_of(out))


@given(st.lists(st.tuples(st.integers(0, 5200), st.integers(0, 300)), max_size=30))
@settings(max_examples=60, deadline=None)
def test_both_forms_read_until_one_run_is_not_whole(fd, runs):
    places, counts = (np.array([run[i] for run in runs], np.int64) for i in (0, 1))
    ends = np.cumsum(counts)
    good = 0
    while good < len(runs) and (runs[good][0] + runs[good][1] <= len(DATA) or not runs[good][1]):
        good += 1
    for form in forms(fd):
        out = np.zeros(max(int(counts.sum()), 1), np.uint8)
        assert form(fd, places, ends, address_of(out)) == good
        wanted = [DATA[a : a + n] for a, n in runs[:good]]
        wanted = np.concatenate([DATA[:0], *wanted])
        np.testing.assert_array_equal(out[: len(wanted)], wanted)


def test_threads_read_pieces_to_their_places(fd):
    forms(fd)
    places = np.random.default_rng(1).integers(0, 4900, 3000)
    counts = np.random.default_rng(2).integers(0, 100, 3000)
    for n in (1, 4):
        out = np.zeros(int(counts.sum()), np.uint8)
        with threads(n):
            assert reads.read_runs(fd, places, counts, out)
        expected = [DATA[a : a + k] for a, k in zip(places, counts, strict=True)]
        np.testing.assert_array_equal(out, np.concatenate(expected))
        places[2500] = 5000
        counts[2500] = max(counts[2500], 1)
        with threads(n):
            out = np.zeros(int(counts.sum()), np.uint8)
            assert not reads.read_runs(fd, places, counts, out)
        places[2500] = 0


def test_no_file_is_no_success():
    for form in (reads.READ.twin, reads.READ.compiled(1, np.zeros(1, np.int64), np.zeros(1, np.int64), 1)):
        out = np.zeros(8, np.uint8)
        assert form(-1, np.array([0]), np.array([8]), address_of(out)) == 0
    assert reads.read_runs(-1, np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.uint8))
