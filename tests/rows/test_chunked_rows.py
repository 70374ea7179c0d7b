"""Rows of dense fields that are stored in chunks, gathered from the chunks of all parts together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mmdask as mm
from mmdask.batches.ordering.order import Windows
from mmdask.kernels import dense
from mmdask.rows.reading import chunked, reader
from mmdask.sources.create import append, create
from mmdask.store.zarr import chunked as zarr_arrays
from mmdask.store.zarr import form as zarr_form

#: rows of the parts: whole chunks, less than one, and lengths that no power of two divides
PARTS = [64, 3, 128, 1, 37, 200]
N = sum(PARTS)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Chunks of 8, 16 and 32 rows, and of a constant none; what it holds, as numpy arrays."""
    path = tmp_path_factory.mktemp("chunked") / "s.mm"
    rng = np.random.default_rng(0)
    data = {
        "x": rng.integers(0, 99, N).astype("i2"),
        "v": rng.random((N, 4)).astype("f4"),
        "m": rng.random((N, 2, 4)),
        "when": rng.integers(0, 9, N).astype("M8[s]"),
    }
    year = np.repeat(np.arange(len(PARTS)) + 2016, PARTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zarr_form, "CHUNK_NBYTES", 512)
        start = 0
        for i, n in enumerate(PARTS):
            write = append if i else lambda path, **options: create(path, backend=mm.Zarr(chunk_rows=32), **options)
            with write(path, labels={"year": 2016 + i}) as w:
                w.extend({name: values[start : start + n] for name, values in data.items()})
            start += n
    snapshot = mm.open(path)._rows.snapshot
    assert snapshot.chunked
    assert len(snapshot.parts) == len(PARTS)
    lengths = {a.zarr.chunk for part in snapshot.parts for a in snapshot.layer(part.layers[0]).arrays}
    assert {8, 32} <= lengths
    return snapshot, data | {"year": year}


@pytest.fixture(autouse=True)
def nothing_is_kept():
    zarr_arrays.CHUNKS.clear()
    zarr_arrays.INDEXES.clear()


@given(
    st.one_of(
        st.lists(st.integers(0, N - 1), max_size=80),
        st.integers(0, 2**32).map(lambda seed: np.random.default_rng(seed).permutation(N).tolist()),
        st.integers(0, 2**32).map(lambda seed: np.random.default_rng(seed).integers(70, 190, 4000).tolist()),
    ),
    st.sampled_from([0, 1 << 12]),
    st.sampled_from([1, 300, 1 << 20]),
)
def test_rows_are_those_that_were_written(store, rows, units, held):
    snapshot, data = store
    rows = np.array(rows, np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunked, "_LEAST_UNITS", units)
        patch.setattr(chunked, "HELD_NBYTES", held)
        taken = reader.take_many(snapshot, list(data), rows)
    for name, values in data.items():
        assert taken[name].values.dtype == snapshot.schema[name].dtype
        assert taken[name].values.tolist() == values[rows].tolist(), name


def test_all_parts_are_one_call_of_the_kernel(store, monkeypatch):
    snapshot, _ = store
    calls, made = [], []
    take, init = dense.Located.take, dense.Located.__init__
    monkeypatch.setattr(dense.Located, "take", lambda self, *a: (calls.append(1), take(self, *a))[1])
    monkeypatch.setattr(dense.Located, "__init__", lambda self, *a: (made.append(1), init(self, *a))[1])
    reader.take_many(snapshot, ["x", "v", "m"], np.random.default_rng(1).permutation(N))
    assert (len(calls), len(made)) == (3, 1)


def test_only_chunks_that_hold_rows_are_decoded_and_each_once(store, monkeypatch):
    snapshot, _ = store
    decoded = []
    original = zarr_arrays.decode
    monkeypatch.setattr(zarr_arrays, "decode", lambda *args: (decoded.append(1), original(*args))[1])
    rows = np.array([70, 71, 69, 70] * 100 + [0] * 100)  # the third part begins at row 67
    for units in (0, 1 << 12):
        monkeypatch.setattr(chunked, "_LEAST_UNITS", units)
        zarr_arrays.CHUNKS.clear()
        decoded.clear()
        reader.take_many(snapshot, ["x", "v", "m"], rows)
        assert len(decoded) == 6
        reader.take_many(snapshot, ["x", "v", "m"], rows)
        assert len(decoded) == 6


def test_rows_of_many_chunks_hold_some_of_them_at_a_time(store, monkeypatch):
    snapshot, data = store
    monkeypatch.setattr(chunked, "HELD_NBYTES", 1000)
    monkeypatch.setattr(chunked, "EXPECTED_NBYTES", 0)
    monkeypatch.setattr(zarr_arrays.CHUNKS, "limit", 1)
    most = []
    original = dense.Located.take

    def take(self, sources, out):
        most.append(sum(s.nbytes for s in sources if s is not None))
        return original(self, sources, out)

    monkeypatch.setattr(dense.Located, "take", take)
    rows = np.random.default_rng(2).permutation(N)
    assert (reader.take(snapshot, "m", rows).values == data["m"][rows]).all()
    assert len(most) > 10
    assert max(most) <= 1000 + 8 * 64


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("change", [b"\0", None])
def test_objects_of_another_size_are_errors(tmp_path, change, shards):
    path = tmp_path / "s.mm"
    mm.from_arrays({"x": np.arange(5000)}, path, backend=mm.Zarr(chunk_rows=256, shards=shards))
    file = next(path.glob("parts/*/0-x*/c/1"))
    file.write_bytes(file.read_bytes() + change if change else file.read_bytes()[:-1])
    with pytest.raises(mm.CorruptStoreError, match=r"object 1 has \d+ bytes, should have"):
        mm.open(path)._rows.take("x", np.arange(5000))


# Windows of chunks ----------------------------------------------------------------------------------------------------


@given(st.integers(1, 10**5), st.integers(1, 255))
def test_windows_of_large_blocks_have_fewer_than_two_times_as_many(n_blocks, blocks):
    w = Windows.of(n_blocks, blocks)
    assert w.n_strata >= min(blocks, n_blocks)
    assert w.n_strata + (w.n_spare > 0) <= max(2 * blocks - 1, 1)


def test_each_chunk_is_decoded_once_in_a_store_of_many_windows(tmp_path, monkeypatch):
    """Though no more is kept than a window and a little of the next."""
    n = 1 << 12
    mm.from_arrays(
        {"x": np.arange(n), "y": np.arange(n, dtype="f4")}, tmp_path / "s.mm", backend=mm.Zarr(chunk_rows=64)
    )
    window = 16 * 64 * 12
    monkeypatch.setattr(zarr_arrays.CHUNKS, "limit", window + window // 4)
    monkeypatch.setattr(chunked, "EXPECTED_NBYTES", window // 4)
    decoded = []
    original = zarr_arrays.decode
    monkeypatch.setattr(zarr_arrays, "decode", lambda *args: (decoded.append(1), original(*args))[1])
    loader = mm.open(tmp_path / "s.mm").batches(100, seed=1, window=16 * 64 * (12 + 8))
    assert loader.sequence.windows.n_windows == 4
    rows = np.concatenate([batch["x"] for batch in loader])
    assert sorted(rows.tolist()) == list(range(n))
    assert len(decoded) == 2 * n // 64
