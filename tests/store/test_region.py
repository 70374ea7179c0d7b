"""Regions of an array in a file: numpy says what an index selects; every byte that is written is one of those."""

from __future__ import annotations

import fcntl
import os
import signal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mmdask as mm
from mmdask.store.arrays import region
from mmdask.store.arrays.npy import HEADER
from mmdask.store.arrays.region import filling, read_region, select, write_region
from mmdask.store.system import System

DTYPES = ["u1", "<i4", "<c16", "S3", "<M8[us]", "?"]


@st.composite
def slices(draw, n):
    bound = st.none() | st.integers(-n - 2, n + 2)
    return slice(draw(bound), draw(bound), draw(st.sampled_from([None, 1, 2, 3, -1, -2])))


@st.composite
def shapes_and_keys(draw):
    shape = tuple(draw(st.lists(st.integers(0, 6), min_size=1, max_size=4)))

    def one(axis):
        n = shape[axis]
        kinds = [slices(n)]
        if n:
            kinds.append(st.integers(-n, n - 1))
            kinds.append(st.integers(-n, n - 1).map(np.int16))
        if axis == 0:
            kinds.append(st.lists(st.booleans(), min_size=n, max_size=n).map(lambda m: np.array(m, bool)))
            if n:
                kinds.append(st.lists(st.integers(-n, n - 1), max_size=6))
                kinds.append(st.lists(st.integers(-n, n - 1), min_size=1, max_size=6, unique=True).map(np.array))
        return draw(st.one_of(kinds))

    head = draw(st.integers(0, len(shape)))
    key = [one(axis) for axis in range(head)]
    if draw(st.booleans()):
        tail = draw(st.integers(0, len(shape) - head))
        key += [Ellipsis, *(one(axis) for axis in range(max(len(shape) - tail, 1), len(shape)))] if head else [Ellipsis]
    if len(key) == 1 and draw(st.booleans()):
        return shape, key[0]
    return shape, tuple(key)


class Recording(System):
    """Knows which bytes were written."""

    def __init__(self):
        self.spans = []

    def write(self, fd, data, offset):
        self.spans.append((offset, len(data)))
        super().write(fd, data, offset)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return str(tmp_path_factory.mktemp("region") / "x.npy")


@given(
    case=shapes_and_keys(),
    dtype=st.sampled_from(DTYPES),
    piece=st.sampled_from([1, 7, 40, 1 << 20]),
    scalar=st.booleans(),
)
def test_like_numpy_and_no_other_byte(scratch, case, dtype, piece, scalar):
    shape, key = case
    rng = np.random.default_rng(1)
    dtype = np.dtype(dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    raw = rng.integers(0, 2 if dtype.kind == "b" else 100, size, "u1").tobytes()
    expected = np.frombuffer(bytearray(raw), dtype).reshape(shape)
    with open(scratch, "wb") as file:
        file.write(bytes(HEADER) + raw)
    selection = select(shape, key)
    before = expected[key]
    assert selection.shape == before.shape
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(region, "PIECE", piece)
        system = Recording()
        patch.setattr(region, "SYSTEM", system)
        with filling(scratch) as fd:
            np.testing.assert_array_equal(read_region(fd, selection, dtype), before)
        new = np.frombuffer(rng.integers(0, 2, before.size * dtype.itemsize, "u1").tobytes(), dtype)
        new = np.broadcast_to(new[:1].reshape(()) if scalar and len(new) else new.reshape(before.shape), before.shape)
        with filling(scratch) as fd:
            write_region(fd, selection, new)
    expected[key] = new
    with open(scratch, "rb") as file:
        assert file.read() == bytes(HEADER) + expected.tobytes()
    # which bytes those are, said by numpy
    numbers = np.arange(HEADER, HEADER + size).reshape(*shape, dtype.itemsize)
    keys = key if isinstance(key, tuple) else (key,)
    selected = numbers[(*keys, slice(None)) if any(k is Ellipsis for k in keys) else keys]
    written = [byte for offset, n in system.spans for byte in range(offset, offset + n)]
    assert set(written) == set(selected.ravel().tolist())
    assert len(written) == selected.size


@pytest.mark.parametrize(
    ("key", "error", "words"),
    [
        (10, mm.RowNotFoundError, "index 10 is out of range for axis 0, which has 10"),
        (-11, mm.RowNotFoundError, "-11"),
        ((0, 4), mm.RowNotFoundError, "axis 1"),
        ((0, 0, 0), mm.RowNotFoundError, "3 indices for an array of 2 axes"),
        ([1, 10], mm.RowNotFoundError, "index 10"),
        (np.array([2**63], "u8"), mm.RowNotFoundError, "index 9223372036854775808"),
        (np.array([2**64 - 1], "u8"), mm.RowNotFoundError, "out of range"),
        (np.ones(9, bool), mm.RowNotFoundError, "mask of 9 rows"),
        (True, mm.OptionError, "bool for axis 0"),
        (np.True_, mm.OptionError, "bool"),
        (1.0, mm.OptionError, "float"),
        ("x", mm.OptionError, "str"),
        (None, mm.OptionError, "NoneType"),
        ((slice(None), [0, 1]), mm.OptionError, "axis 1"),
        ([[0, 1]], mm.OptionError, "list"),
        (np.ones((10, 4), bool), mm.OptionError, "ndarray"),
        ((..., ...), mm.OptionError, "Ellipsis"),
        (slice(0.5), mm.OptionError, "integers"),
        ([0.5], mm.OptionError, "list"),
    ],
)
def test_keys_that_select_nothing_say_why(key, error, words):
    with pytest.raises(error, match=words):
        select((10, 4), key)


def test_one_value_for_many_rows_is_written_in_pieces(tmp_path, monkeypatch):
    """A number that stands for 2**28 bytes is never that large in memory."""
    path = tmp_path / "x.npy"
    with open(path, "wb") as file:
        file.truncate(HEADER + (1 << 28))
    calls = []

    class Dropping(System):
        def write(self, fd, data, offset):
            calls.append((offset, len(data)))

    monkeypatch.setattr(region, "SYSTEM", Dropping())
    selection = select((1 << 28,), slice(None))
    with filling(str(path)) as fd:
        write_region(fd, selection, np.broadcast_to(np.uint8(7), selection.shape))
    assert calls == [(HEADER + i * region.PIECE, region.PIECE) for i in range((1 << 28) // region.PIECE)]


def test_neighbouring_rows_are_one_write(tmp_path, monkeypatch):
    path = tmp_path / "x.npy"
    path.write_bytes(bytes(HEADER + 100 * 8))
    system = Recording()
    monkeypatch.setattr(region, "SYSTEM", system)
    with filling(str(path)) as fd:
        write_region(fd, select((100, 2), np.r_[10:20, 40:42, 50]), np.ones((13, 2), "i4"))
        write_region(fd, select((100, 2), np.s_[::2, 1]), np.ones(50, "i4"))
    assert system.spans[:3] == [(HEADER + 80, 80), (HEADER + 320, 16), (HEADER + 400, 8)]
    assert system.spans[3:] == [(HEADER + 16 * i + 4, 4) for i in range(50)]


def test_a_file_that_lost_its_name_is_not_written_to(tmp_path):
    path = str(tmp_path / "x.npy")
    with pytest.raises(FileNotFoundError), filling(path):
        pass
    with open(path, "wb") as file:
        file.write(bytes(HEADER + 8))
    os.symlink(path, path + ".link")
    with pytest.raises(OSError, match="symbolic"), filling(path + ".link"):
        pass


def test_a_child_that_was_forked_meanwhile_does_not_keep_the_lock(tmp_path):
    path = str(tmp_path / "x.npy")
    with open(path, "wb") as file:
        file.write(bytes(HEADER + 8))
    with filling(path):
        child = os.fork()
        if not child:
            signal.pause()
    try:
        fd = os.open(path, os.O_RDWR)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(fd)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
