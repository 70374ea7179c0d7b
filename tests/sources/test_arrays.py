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
from rows_back import rows_back

import mmdask as mm
from mmdask.rows.reading import reader
from mmdask.rows.reading.part import read_aux
from mmdask.sources import arrays
from mmdask.sources.given.coerce import to_field_data
from mmdask.store import document
from mmdask.store.snapshot import open_snapshot

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
        edges = list(arrays.edges(values, rows))
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
        ([None, None], "missing values alone"),
        (np.ma.masked_array(np.ones((9, 2)), np.eye(9, 2, -7)), "some numbers of row 0 are missing"),
        (da.from_array(np.ma.masked_array(np.ones((9, 2)), np.eye(9, 2, -7)), asarray=False), "some numbers of row"),
        (np.array([{"a": 1}, {"b": 2}], object), "one lacks 'a'"),
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


def stored(ds, name):
    """The rows of a field as they are in the store, in plain Python."""
    snapshot = open_snapshot(ds.path)
    return rows_back(snapshot.schema[name], reader.read(snapshot, name, 0, len(ds)))


@pytest.mark.parametrize("nbytes", [1, 100, 1 << 20])
def test_missing_values_of_all_pieces(tmp_path, monkeypatch, nbytes):
    monkeypatch.setattr(arrays, "PIECE_NBYTES", nbytes)
    n = 21
    mask = np.arange(n) >= 17  # none are missing in the first pieces
    masked = np.ma.masked_array(np.arange(n, dtype="i2"), mask)
    jets = [None if out else [1.5] * (i % 3) for i, out in enumerate(mask)]
    data = {
        "masked": masked,
        "lazy": da.from_array(masked, chunks=4, asarray=False),
        "made_lazy": da.ma.masked_greater(da.arange(n, chunks=5), 16),
        "jets": ak.Array(jets),
        "items": ak.Array([[i, None if out else 1] for i, out in enumerate(mask)]),
        "list": jets,
        "text": ["a"] * 17 + [None] * 4,
        "process": np.array(["p", "q", "r"] * 5 + ["p"] * 2 + [None] * 4, object),
    }
    ds = mm.from_arrays(data, tmp_path / "s.mm", fields=[mm.Field.category("process", optional=(0,))])
    assert {name: f.optional for name, f in ds.schema.items()} == {**dict.fromkeys(data, (0,)), "items": (1,)}
    assert stored(ds, "masked") == stored(ds, "lazy") == masked.tolist()
    assert stored(ds, "made_lazy") == [*range(17), *[None] * 4]
    assert stored(ds, "jets") == stored(ds, "list") == jets
    assert stored(ds, "items") == data["items"].to_list()
    assert stored(ds, "text") == data["text"]
    assert stored(ds, "process") == data["process"].tolist()
    assert mm.verify(tmp_path / "s.mm").ok
    with pytest.raises(mm.SchemaError, match=r"field 'lazy' .* is missing; .*mm.Field.dense\('lazy', ..., optional"):
        mm.from_arrays(data, tmp_path / "t.mm", fields=[mm.Field.dense("lazy", "i2")])
    assert not (tmp_path / "t.mm").exists()


def test_errors_say_where_their_rows_are(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "PIECE_NBYTES", 1)
    data = {"x": np.ma.masked_array(np.arange(9), np.arange(9) == 7)}
    with pytest.raises(mm.SchemaError, match="row 0 is missing") as error:
        mm.from_arrays(data, tmp_path / "s.mm", fields=[mm.Field.dense("x", "i8")])
    assert "rows are counted from row 7 on" in error.value.__notes__


@pytest.mark.parametrize("nbytes", [1, 1 << 20])
def test_records_and_arrays_of_differing_shape_in_pieces(tmp_path, monkeypatch, nbytes):
    monkeypatch.setattr(arrays, "PIECE_NBYTES", nbytes)
    jets = [[{"pt": 1.0 + j, "p4": {"e": j}} for j in range(i % 3)] for i in range(9)]
    images = [np.full((i % 3, 2 + i % 2), i, "u1") for i in range(9)]
    lazy = da.from_array(np.array([(i, i / 2) for i in range(9)], "i4,f8"), chunks=2)
    data = {"jets": ak.Array(jets), "more": jets, "image": images, "s": lazy, "m": {"x": da.arange(9), "y": [1] * 9}}
    fields = [mm.Field.shaped("square", "f4", 2)]
    square = np.arange(36.0).reshape(9, 2, 2)
    ds = mm.from_arrays({**data, "square": square}, tmp_path / "s.mm", fields=fields)
    records = {name: f.record for name, f in ds.schema.items()}
    assert records == {
        **{f"{r}_{m}": r for r in ("jets", "more") for m in ("pt", "p4_e")},
        **dict.fromkeys(["image", "square"], ""),
        **dict.fromkeys(["s_f0", "s_f1"], "s"),
        **dict.fromkeys(["m_x", "m_y"], "m"),
    }
    for record in ("jets", "more"):
        assert stored(ds, f"{record}_pt") == [[j["pt"] for j in row] for row in jets]
        assert stored(ds, f"{record}_p4_e") == [[j["p4"]["e"] for j in row] for row in jets]
    assert ds.schema["image"] == mm.Field.shaped("image", "u1", 2)
    assert stored(ds, "image") == [image.tolist() for image in images]
    assert stored(ds, "square") == square.tolist()
    assert stored(ds, "s_f1") == [i / 2 for i in range(9)]
    assert stored(ds, "m_x") == list(range(9))
    assert mm.verify(tmp_path / "s.mm").ok


def test_attrs_and_aux_go_into_the_store(tmp_path):
    edges = Counted(np.arange(4.0))
    lazy = da.from_array(edges, chunks=2, asarray=False, inline_array=True)
    aux = {"edges": lazy, "names": ["a", "b"], "lists": [[1], [2, 3]]}
    ds = mm.from_arrays({"x": [1, 2]}, tmp_path / "s.mm", attrs={"year": 2016}, aux=aux)
    assert ds.attrs["year"] == 2016
    snapshot = open_snapshot(tmp_path / "s.mm")
    found = {name: rows_back(f, read_aux(snapshot, name)) for name, f in snapshot.manifest.aux.items()}
    assert found == {"edges": [[0, 1, 2, 3]], "names": [["a", "b"]], "lists": [[[1], [2, 3]]]}
    assert edges.reads.tolist() == [1] * 4
    for options in ({"attrs": {"a": object()}}, {"aux": {"a": [object()]}}, {"labels": {"a": []}}):
        x = Counted(np.arange(4.0))
        with pytest.raises((mm.OptionError, mm.SchemaError)):
            mm.from_arrays({"x": da.from_array(x, asarray=False)}, tmp_path / "t.mm", **options)
        assert not x.reads.any()  # known before anything is computed
    assert not (tmp_path / "t.mm").exists()


def test_lazy_fields_of_a_store_stay_what_they_are(tmp_path):
    fields = [
        mm.Field.shaped("image", "f4", 2, doc="of the sky", optional=(0,)),
        mm.Field.ragged("hits", "i4", optional=(0, 1), unit="mm"),
        mm.Field.string("words", levels=1, optional=(1,)),
    ]
    data = {
        "image": [np.ones((1, 2)), None, np.ones((0, 3)), np.ones((2, 2))],
        "hits": [[1, None], [], None, [2]],
        "words": [["a", None], [], ["é"], []],
    }
    ds = mm.from_arrays(data, tmp_path / "s.mm", fields=fields)
    copy = mm.from_arrays({name: ds[name] for name in data}, tmp_path / "copy.mm")
    assert copy.schema == ds.schema
    for name in data:
        assert stored(copy, name) == stored(ds, name)
    jets = mm.from_arrays({"jets": [[{"pt": 1}]] * 4}, tmp_path / "jets.mm")
    renamed = mm.from_arrays({"pixels": ds["image"], "pt": jets["jets_pt"]}, tmp_path / "renamed.mm")
    assert renamed.schema["pt"].record == ""
    assert renamed.schema["pixels"].doc == "of the sky"
    assert stored(renamed, "pixels") == stored(ds, "image")
