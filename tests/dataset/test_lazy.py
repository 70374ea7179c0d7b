"""What lazy arrays carry and read: pickle sizes, rows, files and lookups are counted."""

from __future__ import annotations

import dataclasses
import pickle

import awkward as ak
import dask
import numpy as np
import pytest

import mmdask as mm
from mmdask.dataset import lazy
from mmdask.dataset.lists import collection
from mmdask.rows import bits
from mmdask.rows.cuts import masks
from mmdask.rows.draws import dealing
from mmdask.rows.reading import marks, reader
from mmdask.rows.rows import RESOLVED
from mmdask.schema import Field
from mmdask.store.manifest import dump_manifest, read_manifest

N = 4000
COUNTS = np.arange(N) * 7 % 5


def forget():
    """Be a process that has found nothing yet."""
    for cache in (RESOLVED, masks.LOADED, lazy.EDGES):
        cache.clear()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("lazy") / "s.mm"
    with mm.create(path) as w:
        w.extend(rows(0, 3000))
    with mm.append(path) as w:
        w.extend(rows(3000, N))
    return path


def rows(a, b):
    counts = COUNTS[a:b]
    items = np.repeat(np.arange(a, b), counts)
    return {
        "x": np.arange(a, b),
        "key": np.arange(a, b) // 3,
        "r": ak.unflatten(items.astype("f4"), counts),
        "shaped": ak.Array(
            ak.contents.ListOffsetArray(
                ak.index.Index64(np.concatenate([[0], np.cumsum(counts)])),
                ak.contents.NumpyArray(np.stack([items, -items], axis=1)),
            )
        ),
        "deep": ak.unflatten(ak.unflatten(np.arange(2 * len(items)), np.full(len(items), 2)), counts),
        "t": ["é" * int(c) for c in counts],
        "image": np.repeat(np.arange(a, b), 4).reshape(-1, 2, 2).astype("u2"),
        "id": np.array([b"%d" % i for i in range(a, b)]),
    }


@pytest.fixture
def ds(path):
    forget()
    return mm.open(path, chunks=4)


@pytest.fixture
def reads(monkeypatch):
    """Runs of rows read from parts."""
    log = []
    original = reader.read_part

    def counting(snapshot, part, name, start, stop):
        log.append((name, stop - start))
        return original(snapshot, part, name, start, stop)

    for module in (reader, dealing):
        monkeypatch.setattr(module, "read_part", counting)
    return log


def rows_read(log, name):
    return sum(n for field, n in log if field == name)


# What tasks carry ---------------------------------------------------------------------------------------------------


def test_a_thousand_chunks_pickle_as_references(ds):
    assert len(ds.chunks) == 1000
    r, sel = ds["r"], ds[ds.cut("x > 5")]
    for array in (r.values, r.offsets, r.counts, sel["r"].values, sel["x"], ds.cut("x > 3").mask, r.sum()):
        assert len(pickle.dumps(array)) < 10_000
    for thing in (r, sel["r"], sel, ds[10:2000:3]["r"]):
        list(thing.chunks)
        assert len(pickle.dumps(thing)) < 1_000
    parts = [kind(r._rows, "r", r._chunk_rows) for kind in (lazy.OffsetsArray, lazy.ValuesArray)]
    for array in (*parts, lazy.FieldArray(sel._rows, "x")):
        assert len(pickle.dumps(array)) < 1_000, "of each task"


def test_unpickling_finds_out_nothing_and_the_first_read_once(ds, reads):
    part = ds.split({"a": 0.5, "b": 0.5}, by="key", seed=3)["a"]
    things = [part["x"], part["r"], part["r"].values, part["r"].counts, part["r"].offsets, part["shaped"]]
    expected = [thing.compute(scheduler="sync") for thing in things]
    data = pickle.dumps(things)
    forget()
    reads.clear()
    again = [pickle.loads(data) for _ in range(3)]
    [repr(thing) for thing in again[0][:1]]
    assert reads == []
    for copy in again:
        for thing, values in zip(copy, expected, strict=True):
            assert ak.array_equal(thing.compute(scheduler="sync"), values)
    assert rows_read(reads, "key") == N, "the key is read once in a process, not once in a task"


def test_chunk_bounds_are_found_once_and_only_their_chunks_are_read(ds, monkeypatch):
    counted = []
    original = marks.item_counts
    monkeypatch.setattr(marks, "item_counts", lambda *args: (counted.extend(args[2][1:]), original(*args))[1])
    values, offsets = ds["r"].values, ds["r"].offsets
    assert len(counted) == 1000
    runs = []
    original_read = reader.read
    monkeypatch.setattr(reader, "read", lambda *args: (runs.append(args[2:]), original_read(*args))[1])
    original_counts = marks.read_counts
    monkeypatch.setattr(marks, "read_counts", lambda *args: (runs.append(args[2:]), original_counts(*args))[1])
    items = np.repeat(np.arange(N), COUNTS).astype("f4")
    np.testing.assert_array_equal(values[-3:].compute(), items[-3:])
    np.testing.assert_array_equal(offsets[2001:2003].compute(), np.cumsum(COUNTS)[2000:2002])
    assert runs
    assert all(b - a <= 4 for a, b in runs)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(values)).compute(), items)
    assert len(counted) == 1000


def test_counts_of_everything_ragged_read_offsets_only(ds, monkeypatch):
    monkeypatch.setattr(reader, "read_part", None)
    for name, expected in (("r", COUNTS), ("shaped", COUNTS), ("deep", COUNTS), ("t", 2 * COUNTS)):
        counts = ds[name].counts
        assert (counts.dtype, counts.shape) == (np.dtype("i8"), (N,))
        np.testing.assert_array_equal(counts.compute(), expected)
        np.testing.assert_array_equal(ds[2990:3010:3][name].counts.compute(), expected[2990:3010:3])
    monkeypatch.undo()
    sel = ds[ds.cut("len(r) > 2")]
    np.testing.assert_array_equal(sel["deep"].counts.compute(), COUNTS[COUNTS > 2])
    np.testing.assert_array_equal(sel["shaped"].offsets.compute(), np.concatenate([[0], np.cumsum(COUNTS[COUNTS > 2])]))


def test_a_cut_is_read_from_its_file_once_for_all_chunks(ds, monkeypatch):
    cut = ds.cut("x > 5 and x < 3500").keep()
    forget()
    loads = []
    original = masks.MaskFiles._read

    def read(self, path, magic, *args):
        if magic == masks._MASK:
            loads.append(path)
        return original(self, path, magic, *args)

    monkeypatch.setattr(masks.MaskFiles, "_read", read)
    assert cut.mask.compute(scheduler="sync").sum() == 3494
    assert len(loads) <= 2 * 2, "of two leaves, in two parts"


def test_a_field_may_be_called_as_a_key_of_the_graph_is(ds):
    expected = ds["r"].compute().to_list()
    got, other = dask.compute(ds["r"], dask.delayed(lambda: "something")(dask_key_name="r"))
    assert (got.to_list(), other) == (expected, "something")


# Rows at once -------------------------------------------------------------------------------------------------------


def test_numbered_rows_are_views(ds, reads):
    ds["r"][3001]
    reads.clear()
    field = ds["r"]
    assert field[3001].tolist() == [3001.0] * COUNTS[3001]
    assert np.shares_memory(field[3001], field[3001])
    assert [ds["t"][i] for i in (7, -1)] == ["é" * COUNTS[7], "é" * COUNTS[-1]]
    assert reads == [], "no run is read and checked for a row"
    row = ds[3001]
    assert np.shares_memory(row["image"], ds[3001]["image"])
    assert np.shares_memory(row["r"], field[3001])
    assert (row["x"], row["id"], row["t"]) == (3001, b"3001", "é" * COUNTS[3001])
    assert row["shaped"].tolist() == [[3001, -3001]] * COUNTS[3001]
    assert [len(inner) for inner in row["deep"].to_list()] == [2] * COUNTS[3001]
    assert ds["deep"][3001].to_list() == row["deep"].to_list()
    assert sum(n for _, n in reads) <= 3 * len(ds.fields)


def test_iteration_reads_in_pieces(ds, reads, monkeypatch):
    monkeypatch.setattr(collection, "_PIECE_ROWS", 100)
    assert next(iter(ds["t"])) == ""
    assert reads == [("t", 100)]
    for view, kept in ((ds, slice(None)), (ds[5:3950:9], slice(5, 3950, 9))):
        reads.clear()
        assert list(view["t"]) == ["é" * c for c in COUNTS[kept]]
        assert all(n <= 100 for _, n in reads)
        assert [len(x) for x in view["r"]] == COUNTS[kept].tolist()
        assert [len(x) for x in view["deep"]] == COUNTS[kept].tolist()
        assert [x[0][1] if len(x) else 0 for x in view["shaped"]] == [-i if COUNTS[i] else 0 for i in range(N)[kept]]


def test_many_row_numbers_are_found_together(ds, monkeypatch):
    sel = ds[ds.cut("x >= 10")]
    assert len(sel) == N - 10
    looks = []
    original = bits.rows_of_runs
    monkeypatch.setattr(bits, "rows_of_runs", lambda *args: (looks.append(1), original(*args))[1])
    wanted = np.random.default_rng(0).integers(-len(sel), len(sel), 2000)
    np.testing.assert_array_equal(sel[wanted]["x"], np.arange(10, N)[wanted])
    assert len(looks) <= 2, "one for each 65,536 rows of a part that are looked into"
    np.testing.assert_array_equal(ds[100:300:7][[3, 0, -1, 3]]["x"], np.arange(100, 300, 7)[[3, 0, -1, 3]])
    assert ds[[]]["x"].tolist() == []


@pytest.mark.parametrize(
    "wrong", [[[0, 1]], np.array(1), [[1], [2, 3]], np.zeros((2, 2), int), [0.5], np.ones(N, bool)]
)
def test_what_are_no_row_numbers(ds, wrong):
    with pytest.raises(mm.OptionError, match="row numbers are a list of integers"):
        ds[wrong]


@pytest.mark.parametrize("wrong", [[0, N], [-N - 1], np.array([2**64 - 1], np.uint64)])
def test_rows_that_are_not_there(ds, wrong):
    with pytest.raises(mm.RowNotFoundError, match=f"there are {N} rows"):
        ds[wrong]


def test_the_full_slice_is_the_same_rows(ds):
    both = ds.cut("x > 5") & ds[:].cut("x < 10")
    assert both.count() == 4
    assert ds[:]["x"].name == ds["x"].name


# Options and hostile stores -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [["image"], ["x", "image"]])
def test_chunks_of_wide_rows_are_bounded(tmp_path, fields):
    data = {"image": np.zeros((3, 512, 512), "f4"), "x": np.arange(3)}
    ds = mm.from_arrays({name: data[name] for name in fields}, tmp_path / "s.mm")
    assert ds._chunk_rows == 128, "of 1 MiB each"
    wide = [Field.dense("a", "u1", (1 << 30,))]
    with mm.create(tmp_path / "w.mm", fields=wide):
        pass
    assert mm.open(tmp_path / "w.mm")._chunk_rows == 1
    ds = mm.from_arrays({"r": ak.unflatten(np.zeros(2 << 20, "f4"), [1 << 20, 1 << 20])}, tmp_path / "r.mm")
    assert ds._chunk_rows <= 32, "of 4 MiB each"
    assert mm.from_arrays({"x": [1.0]}, tmp_path / "n.mm")._chunk_rows == 1 << 20


def test_a_store_that_claims_too_many_rows(tmp_path):
    mm.from_arrays({"x": [1], "r": [[1]]}, tmp_path / "s.mm")
    manifest = read_manifest(tmp_path / "s.mm")
    parts = (manifest.parts[0]._replace(rows=2**40),)
    (tmp_path / "s.mm" / "manifest.json").write_bytes(dump_manifest(dataclasses.replace(manifest, parts=parts)))
    ds = mm.open(tmp_path / "s.mm", chunks=1024)
    assert "1,099,511,627,776" in repr(ds)
    for look in (lambda: ds["x"], lambda: ds["r"].chunks, lambda: ds.chunks, lambda: repr(ds["r"])):
        with pytest.raises(mm.OptionError, match=r"1,073,741,824 chunks, over the limit"):
            look()


def test_options_are_checked_at_the_call(ds):
    with pytest.raises(mm.OptionError, match="'id' is S4"):
        ds.split({"a": 1.0}, by="id")
    with pytest.raises(mm.OptionError, match="one key per row"):
        ds.split({"a": 1.0}, by="image")
    with pytest.raises(mm.OptionError, match="one field or more"):
        ds.to_awkward([])


def test_damaged_text_is_an_error_of_the_store(tmp_path):
    ds = mm.from_arrays({"t": ["é", "b"]}, tmp_path / "s.mm")
    (file,) = tmp_path.glob("s.mm/parts/*/*-t.npy")
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    assert ds["t"][0] == "é"
    for look in (
        lambda: ds["t"][1],
        lambda: list(ds["t"]),
        lambda: ds[1],
        lambda: [*ds.batches(2)],
    ):
        with pytest.raises(mm.CorruptStoreError, match="not UTF-8"):
            look()
