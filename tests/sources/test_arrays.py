"""Arrays into a store: pieces follow dask's chunks and a byte bound, and what is lazy is computed once."""

from __future__ import annotations

import itertools
import threading
import tracemalloc
from types import SimpleNamespace

import awkward as ak
import dask
import dask.array as da
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mmdask as mm
from mmdask.sources import arrays
from mmdask.sources.coerce import to_field_data
from mmdask.store import document

CHUNKS = st.lists(st.integers(0, 9), min_size=1, max_size=12)


class Counted:
    """Rows that count how often each is read."""

    def __init__(self, values):
        self.values, self.shape, self.dtype, self.ndim = values, values.shape, values.dtype, values.ndim
        self.reads = np.zeros(len(values), int)
        self.lock = threading.Lock()

    def __getitem__(self, index):
        with self.lock:
            self.reads[index[0] if isinstance(index, tuple) else index] += 1
        return self.values[index]


@given(CHUNKS, st.lists(st.integers(0, 9), max_size=12), st.integers(1, 60), st.integers(1, 60))
def test_pieces_end_where_chunks_of_all_fields_end(first, second, aim, most):
    rows = sum(first)
    second = [n for n in second if n] if sum(second) == rows else [rows]
    most = max(aim, most)
    values = [SimpleNamespace(compute=None, chunks=(tuple(c),), nbytes=rows) for c in (first, second)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "PIECE_NBYTES", 2 * aim)
        patch.setattr(arrays, "MAX_PIECE_NBYTES", 2 * most)
        edges = list(arrays._edges(values, rows))
    if not rows:
        assert edges == [0, 0]
        return
    assert edges[0] == 0
    assert edges[-1] == rows
    assert all(0 < b - a <= most for a, b in itertools.pairwise(edges))
    shared = [e for e in range(rows + 1) if all(e in np.cumsum([0, *c]).tolist() for c in (first, second))]
    for a, b in itertools.pairwise(edges):
        near = [e for e in shared if a < e <= a + aim]
        following = next(e for e in shared if e > a)
        if near:
            assert b == near[-1]
        elif following <= a + most:
            assert b == following


def test_each_chunk_is_computed_once(tmp_path, monkeypatch):
    source = Counted(np.arange(100_000.0))
    x = da.from_array(source, chunks=30_000, asarray=False, inline_array=True).map_blocks(np.negative)
    data = {"x": x, "y": x + 1, "z": np.arange(100_000)}
    for nbytes in (1 << 30, 20_000):
        monkeypatch.setattr(arrays, "PIECE_NBYTES", nbytes)
        source.reads[:] = 0
        ds = mm.from_arrays(data, tmp_path / f"{nbytes}.mm")
        assert set(source.reads.tolist()) == {1}
        np.testing.assert_array_equal(ds["y"].compute(), 1 - np.arange(100_000.0))
        np.testing.assert_array_equal(ds["z"].compute(), np.arange(100_000))


def test_chunks_beyond_the_bound_are_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "PIECE_NBYTES", 1000)
    monkeypatch.setattr(arrays, "MAX_PIECE_NBYTES", 8000)
    lengths = []

    def compute(lazy):
        lengths.append([len(x) for x in lazy])
        return dask.compute(*lazy)

    values = np.random.default_rng(1).normal(size=(5000, 2))
    arrays.write_arrays({"x": da.from_array(values, chunks=(4000, 2))}, tmp_path / "s.mm", compute=compute)
    assert max(max(n) for n in lengths) == 500
    np.testing.assert_array_equal(mm.open(tmp_path / "s.mm")["x"].compute(), values)


def test_memory_is_bounded_by_the_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "PIECE_NBYTES", 1 << 20)
    big = np.memmap(tmp_path / "big", ">f8", "w+", shape=(4 << 20,))
    big[:] = np.arange(4 << 20)
    monkeypatch.setattr(document, "MAX_NBYTES", 1 << 20)  # room for this much is made to read a manifest
    tracemalloc.start()
    ds = mm.from_arrays({"x": big}, tmp_path / "s.mm")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20 < big.nbytes
    np.testing.assert_array_equal(ds["x"].compute(), big)


@pytest.mark.parametrize("nbytes", [1, 100, 1 << 20])
def test_pieces_do_not_show(tmp_path, monkeypatch, nbytes):
    monkeypatch.setattr(arrays, "PIECE_NBYTES", nbytes)
    jets = ak.Array([[1.5], [], [2.5, 3.5]] * 7)
    data = {
        "big_endian": np.arange(21, dtype=">i4"),
        "image": np.arange(84.0).reshape(21, 2, 2),
        "text": np.array(["a", "é", ""] * 7),
        "jets": jets,
        "option": ak.Array([1, None, 2])[[0, 2] * 10 + [0]],
        "list": [[i] * (i % 3) for i in range(21)],
        "object": np.array([1, 2.5, 3] * 7, object),
        "words": np.array(["a", "bc", "é"] * 7, object),
        "process": ["p", "q", "r"] * 7,
        "lazy": da.arange(21, chunks=4),
        "other": da.ones((21, 3), chunks=(7, 2)),
    }
    ds = mm.from_arrays(data, tmp_path / "s.mm", fields=[mm.Field.category("process")])
    assert list(ds) == list(data)
    for name in ("big_endian", "image", "lazy", "other"):
        np.testing.assert_array_equal(ds[name].compute(), np.asarray(data[name]))
    for name in ("text", "jets", "option", "list", "object", "words", "process"):
        got = ds[name].compute()
        assert (got.to_list() if hasattr(got, "to_list") else got.tolist()) == list(
            data[name].tolist() if hasattr(data[name], "tolist") else data[name]
        )
    # A dataset's own lazy fields are sources, too.
    copy = mm.from_arrays({"jets": ds["jets"], "x": ds["image"]}, tmp_path / "copy.mm")
    assert copy["jets"].compute().to_list() == jets.to_list()
    assert mm.verify(tmp_path / "s.mm").ok


def test_records_are_taken_apart(tmp_path):
    records = np.zeros(4, [("x", ">f4"), ("v", "i2", 3)])
    records["x"], records["v"] = np.arange(4), np.arange(12).reshape(4, 3)
    ds = mm.from_arrays(records, tmp_path / "s.mm")
    np.testing.assert_array_equal(ds["x"].compute(), records["x"])
    np.testing.assert_array_equal(ds["v"].compute(), records["v"])
    ds = mm.from_arrays(ak.Array([{"a": 1, "b": [2]}]), tmp_path / "a.mm")
    assert ds.to_awkward().to_list() == [{"a": 1, "b": [2]}]
    for other in (np.zeros(3), ak.Array([1]), [1], 5):
        with pytest.raises(mm.SchemaError, match="mapping of field names"):
            mm.from_arrays(other, tmp_path / "o.mm")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "declare"),
        (ak.Array([]), "declare"),
        ([[], []], "declare"),
        (np.float64(3), "one value"),
        (dask.delayed(3), "not known"),
        (da.arange(5)[da.arange(5) > 2], "not known"),
        (np.ma.masked_array(np.arange(9), np.arange(9) == 8), "masked"),
        (np.array([1, None]), "None"),
    ],
)
def test_what_has_no_type_or_length_is_refused_and_leaves_nothing(tmp_path, monkeypatch, value, words):
    monkeypatch.setattr(arrays, "PIECE_NBYTES", 16)
    with pytest.raises(mm.SchemaError, match=words):
        mm.from_arrays({"x": value}, tmp_path / "s.mm")
    assert not (tmp_path / "s.mm").exists()


def test_no_rows_make_an_empty_store(tmp_path):
    for i, x in enumerate((np.zeros((0, 2), "f4"), da.zeros((0, 2), dtype="f4"))):
        ds = mm.from_arrays({"x": x}, tmp_path / f"{i}.mm")
        assert ds["x"].compute().shape == (0, 2)
        assert ds["x"].dtype == "f4"
    ds = mm.from_arrays({"x": []}, tmp_path / "declared.mm", fields=[mm.Field.dense("x", "i8")])
    assert ds["x"].dtype == "i8"
    field, _ = to_field_data("x", np.zeros(0, "i4"))
    assert field.dtype == "i4"
