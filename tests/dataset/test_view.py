"""`mm.view`: arrays that lie elsewhere, through the same fields, cuts and batches as a store."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import awkward as ak
import numpy as np
import pytest

import mmdask as mm
import mmdask.testing as mt

N = 1000


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files():
    """Files of three kinds, and what is in them."""
    x = np.arange(4 * N, dtype=">f4").reshape(N, 4)
    x.tofile("x.raw")
    y = np.arange(N) % 7
    np.save("y.npy", y)
    np.arange(N + 3, dtype="i2").tofile("z.dat")
    z = np.memmap("z.dat", "i2", "r", shape=(N + 3,))
    return {"x": mm.Raw("x.raw", ">f4", (-1, 4)), "y": "y.npy", "z": z[3:]}, {"x": x.astype("<f4"), "y": y, "z": z[3:]}


@pytest.mark.parametrize("io", ["mmap", "pread"])
def test_files_are_fields(folder, io):
    data, wanted = files()
    ds = mm.view(data, io=io, chunks=128)
    assert (len(ds), ds.fields, len(ds.chunks)) == (N, ("x", "y", "z"), 8)
    for name, values in wanted.items():
        got = ds[name].compute()
        assert got.dtype == values.dtype.newbyteorder("<")
        np.testing.assert_array_equal(got, values)
        np.testing.assert_array_equal(ds[name][5:300:7].compute(), values[5:300:7])
    some = [5, 3, 3, 999]
    for name, values in ds[some].items():
        np.testing.assert_array_equal(values, wanted[name][some])
    np.testing.assert_array_equal(ds[17]["x"], wanted["x"][17])
    cut = ds.cut("y > 3 & z < 900")
    kept = (wanted["y"] > 3) & (wanted["z"] < 900)
    assert cut.count() == kept.sum()
    np.testing.assert_array_equal(ds[cut]["x"].compute(), wanted["x"][kept])
    flow = ds.cutflow(["y > 3", "z < 900"])
    assert flow.cumulative.rows[-1] == kept.sum()
    rows = np.concatenate([batch.rows for batch in ds[cut].batches(64, seed=3)])
    np.testing.assert_array_equal(np.sort(rows), np.flatnonzero(kept))


def test_nothing_is_written_or_copied(folder):
    data, _ = files()
    before = sorted(os.listdir())
    ds = mm.view(data)
    ds[ds.cut("y > 3")]["z"].sum().compute()
    ds.describe()
    assert sorted(os.listdir()) == before
    mine = np.arange(N)
    view = mm.view({"mine": mine, "z": data["z"]}, io="mmap")
    assert np.shares_memory(view._rows.read("mine", 3, 7).values, mine)


def test_a_cut_is_computed_once(folder):
    data, _ = files()
    ds = mm.view(data)
    assert ds.cut("y > 5").count() == (np.arange(N) % 7 > 5).sum()
    with mt.count_reads() as reads:
        assert ds.cut("y > 5").count() == (np.arange(N) % 7 > 5).sum()
        assert mm.view(data).cut("y > 5").count() == (np.arange(N) % 7 > 5).sum()
    assert reads.n_rows == 0


def test_files_pickle_as_references(folder):
    data, wanted = files()
    ds = mm.view(data)
    assert len(pickle.dumps(ds)) < 4000
    assert len(pickle.dumps(ds["x"])) < 6000
    again = pickle.loads(pickle.dumps(ds[ds.cut("y > 3")]))
    np.testing.assert_array_equal(again["x"].compute(), wanted["x"][wanted["y"] > 3])
    np.testing.assert_array_equal(ds["z"].sum().compute(scheduler="processes"), wanted["z"].sum())


def test_all_that_from_arrays_takes_in_memory(folder):
    jets = ak.Array([[1.5, 2.5], [], [3.5]])
    nested = [[[1], []], [], [[2, 3]]]
    ds = mm.view(
        {
            "n": np.array([3, 1, 2]),
            "masked": np.ma.array([1.0, 2.0, 3.0], mask=[0, 1, 0]),
            "jets": jets,
            "nested": nested,
            "name": ["a", "bcd", ""],
            "process": ["tt", "H", "tt"],
            "images": [np.ones((2, 3)), np.ones((1, 1)), np.zeros((0, 2))],
        },
        fields=[mm.Field.category("process")],
    )
    stored = mm.from_arrays({name: ds[name] for name in ds.fields if name not in ("masked", "process")}, "copy.mm")
    assert ds["jets"].compute().to_list() == stored["jets"].to_list() == jets.to_list()
    assert ds["nested"].to_list() == nested
    assert ds["name"].to_list() == ["a", "bcd", ""]
    assert ds["masked"].compute().tolist() == [1.0, None, 3.0]
    assert [a.shape for a in ds["images"]] == [(2, 3), (1, 1), (0, 2)]
    assert ds[ds.cut("process == 'tt' & any(jets > 2)")]["n"].compute().tolist() == [3, 2]
    assert ds.save("saved.mm")["process"].compute().tolist() == ds["process"].compute().tolist()
    assert pickle.loads(pickle.dumps(ds))["name"].to_list() == ["a", "bcd", ""]


def test_arrays_of_other_libraries_are_read_in_slices(folder):
    class Sliced:
        shape, dtype, asked = (N, 2), np.dtype("f8"), []

        def __getitem__(self, index):
            self.asked.append(index)
            return np.arange(2.0 * N).reshape(N, 2)[index]

    ds = mm.view({"a": Sliced()}, chunks=64)
    assert Sliced.asked == []
    assert ds["a"][100:110, 0].compute().tolist() == [2.0 * i for i in range(100, 110)]
    assert Sliced.asked == [slice(100, 110)]
    np.testing.assert_array_equal(ds[[7, 3, 7]]["a"], np.arange(2.0 * N).reshape(N, 2)[[7, 3, 7]])


def test_arrays_of_records_become_fields(folder):
    hits = np.zeros(N, [("x", ">f4"), ("id", "i8"), ("p", "f8", 3)])
    hits["x"], hits["id"], hits["p"] = np.arange(N) / 2, np.arange(N), np.arange(3 * N).reshape(N, 3)
    hits.tofile("hits.raw")
    for value in (hits, mm.Raw("hits.raw", hits.dtype), np.memmap("hits.raw", hits.dtype, "r")):
        for io in ("mmap", "pread"):
            ds = mm.view({"hit": value}, io=io)
            assert ds.fields == ("hit_x", "hit_id", "hit_p")
            np.testing.assert_array_equal(ds["hit_p"].compute(), hits["p"])
            np.testing.assert_array_equal(
                ds[ds.cut("hit_id > 990 & hit_x < 498")]["hit_x"].compute(), hits["x"][991:996]
            )


def test_no_rows(folder):
    np.save("none.npy", np.zeros((0, 3), "f4"))
    Path("none.raw").touch()
    ds = mm.view({"a": "none.npy", "b": mm.Raw("none.raw", "i4"), "c": np.zeros(0)})
    assert (len(ds), ds["a"].compute().shape, ds["b"].compute().shape) == (0, (0, 3), (0,))
    assert ds.cut("b > 1").count() == 0
    assert list(ds.batches(4)) == []


def test_a_private_copy_is_looked_at_as_it_is_in_memory(folder):
    np.arange(N).tofile("c.dat")
    mine = np.memmap("c.dat", "i8", "c")
    mine[0] = -1
    assert mm.view({"a": mine})["a"][:2].compute().tolist() == [-1, 1]


@pytest.mark.parametrize("n", [N - 1, N, N + 1, 0])
def test_a_file_that_changes_is_found(folder, n):
    np.save("y.npy", np.arange(N))
    ds = mm.view({"y": "y.npy"})
    field, cut, again = ds["y"], ds.cut("y > 5"), pickle.dumps(ds)
    assert (field.sum().compute(), cut.count()) == (N * (N - 1) // 2, N - 6)
    os.utime("y.npy", ns=(0, 0))
    ds = mm.view({"y": "y.npy"})
    field = ds["y"]
    assert field.sum().compute() == N * (N - 1) // 2
    np.save("y.npy", np.arange(n)[::-1])  # the same file, written again under our eyes
    for ask in (
        lambda: field.sum().compute(),
        lambda: ds[17],
        lambda: ds[[5, 3]],
        lambda: ds[ds.cut("y > 7")]["y"].compute(),
        lambda: ds.describe(),
        lambda: list(ds.batches(10)),
        lambda: pickle.loads(again)["y"].sum().compute(),
    ):
        with pytest.raises(mm.SourceError, match="changed since mm.view looked at it"):
            ask()
    os.remove("y.npy")
    with pytest.raises(mm.SourceNotFoundError, match="y.npy"):
        field.sum().compute()


def test_a_mapped_file_that_is_replaced_is_found(folder):
    np.save("y.npy", np.arange(N))
    ds = mm.view({"y": "y.npy"}, io="mmap")
    assert ds["y"].sum().compute() == N * (N - 1) // 2
    np.save("other.npy", np.arange(N - 1))
    os.replace("other.npy", "y.npy")
    for ask in (lambda: ds["y"].sum().compute(), lambda: ds[[5, 3]]):
        with pytest.raises(mm.SourceError, match="changed since"):
            ask()


def test_mistakes_are_named(folder):
    np.save("y.npy", np.arange(N))
    np.savez("two.npz", a=np.arange(3))
    Path("text.npy").write_text("no numbers")
    np.save("objects.npy", np.array([None, 1], object), allow_pickle=True)
    Path("empty.npy").touch()
    Path("cut.npy").write_bytes(Path("y.npy").read_bytes()[:1000])
    for value, error, message in [
        ("nowhere.npy", mm.SourceNotFoundError, "no file nowhere.npy"),
        ("text.npy", mm.SourceError, "mm.Raw"),
        ("objects.npy", mm.SourceError, "mm.Raw"),
        ("cut.npy", mm.SourceError, "cut.npy"),
        ("empty.npy", mm.SourceError, "empty.npy is no whole"),
        ("two.npz", mm.SourceError, "archive"),
        (mm.Raw("y.npy", "zz"), mm.OptionError, "'zz' is no dtype"),
        (mm.Raw("y.npy", "f4", (-1, 3)), mm.SourceError, "no whole number of rows"),
        (mm.Raw("y.npy", "f4", (10**6,)), mm.SourceError, "truncated"),
        (mm.Raw("nowhere.raw", "f4"), mm.SourceNotFoundError, "nowhere.raw"),
        (mm.Raw("y.npy", "f4", (-2,)), mm.OptionError, "-1 for rows"),
        (np.float64(3), mm.SchemaError, "field .a."),
        (np.zeros(()), mm.SchemaError, "axis of rows"),
    ]:
        with pytest.raises(error, match=message):
            mm.view({"a": value})
    with pytest.raises(mm.SchemaError, match="equally many rows, got a 3, b 4"):
        mm.view({"a": np.arange(3), "b": np.arange(4)})
    with pytest.raises(mm.OptionError, match="mapping of names"):
        mm.view(np.arange(3))
    with pytest.raises(mm.OptionError, match="mm.from_arrays"):
        import dask.array as da

        mm.view({"a": da.zeros(3)})
    with pytest.raises(mm.SchemaError, match="fields= has 'b'"):
        mm.view({"a": np.arange(3)}, fields=[mm.Field.dense("b", "f4")])
    with pytest.raises(mm.SchemaError, match="is to be float32"):
        mm.view({"a": np.arange(3)}, fields=[mm.Field.dense("a", "f4")])
    ds = mm.view({"a": np.arange(3)})
    for wrong in (ds.history, ds.refresh):
        with pytest.raises(mm.OptionError, match="no store"):
            wrong()
    assert "view" in repr(ds)
