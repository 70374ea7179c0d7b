"""Data frames and xarray datasets of stores, against plain Python; what else takes our arrays."""

from __future__ import annotations

import sys

import dask
import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kinds import FIELDS, LABELS, tables, truth, write

import mmdask as mm
from mmdask.dataset.shapes.frames import single_valued
from mmdask.testing import count_reads, max_computes

pd = pytest.importorskip("pandas", reason="pandas is not installed")

N = 300


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    rng = np.random.default_rng(3)
    path = tmp_path_factory.mktemp("frames") / "frames.mm"
    fields = [
        mm.Field.dense("met", "f4", unit="GeV", doc="missing energy"),
        mm.Field.dense("n", "i4", optional=(0,)),
        mm.Field.category("process", ("ttH", "ttbb")),
        mm.Field.dense("p3", "f8", (3,)),
        mm.Field.ragged("pt", "f4"),
        mm.Field.string("name"),
    ]
    for p in range(3):
        with mm.append(path) if p else mm.create(path, fields=fields) as w:
            for i in range(100):
                n = None if i % 10 == 3 else int(rng.integers(9))
                row = {"met": float(100 * p + i), "n": n, "process": ("ttH", "ttbb")[i % 2], "p3": [i, i + 1, i + 2]}
                w.append({**row, "pt": list(range(i % 4)), "name": f"{p} {i}"})
    return path


@pytest.fixture
def ds(path):
    return mm.open(path, chunks=64)


# pandas -------------------------------------------------------------------------------------------------------------


def cells(column):
    """A column as Python values, None for what is NA, and text for nan."""
    found = []
    for x in column.astype(object).where(column.notna(), None) if column.dtype == "category" else column.tolist():
        if x is pd.NA or x is pd.NaT or x is None:
            found.append(None)
        elif isinstance(x, pd.Timestamp | pd.Timedelta):
            found.append(x.as_unit("ns").value)
        else:
            found.append("nan" if isinstance(x, float | complex) and x != x else x)
    return found


def in_frame(field, row):
    """What a row becomes."""
    if row is None:
        nothing = {"c": "nan", "M": None, "m": None}
        return nothing.get(field.dtype.kind) if field.kind == "dense" else None
    if field.kind == "category" or field.kind == "string":
        return row
    if field.dtype.kind in "mM":
        return np.array(row).astype(f"{field.dtype.kind}8[ns]").view("i8").item()
    return truth(field, row)


@settings(max_examples=25)
@given(tables([name for name, f in FIELDS.items() if single_valued(f)]), st.lists(st.integers(0, 8), max_size=2))
def test_every_kind_of_field(tmp_path_factory, table, cuts):
    ds = mm.open(write(tmp_path_factory.mktemp("kinds") / "kinds.mm", table, cuts))
    frame = ds.to_dataframe()
    assert list(frame.index) == list(range(len(ds)))
    for name, values in table.items():
        field = FIELDS[name]
        if field.shape:
            # A row of a fixed shape is missing as a whole.
            for k in range(field.shape[0]):
                want = [None if r is None else "nan" if r[k] != r[k] else r[k] for r in values]
                assert cells(frame[f"{name}[{k}]"]) == want
        else:
            assert cells(frame[name]) == [in_frame(field, row) for row in values]
    if "process" in table:
        assert list(frame["process"].cat.categories) == list(LABELS)


def test_dtypes(ds):
    frame = ds.to_dataframe(ragged="drop")
    dtypes = {name: str(dtype) for name, dtype in frame.dtypes.items()}
    floats = dict.fromkeys(["p3[0]", "p3[1]", "p3[2]"], "float64")
    assert dtypes == {"met": "float32", "n": "Int32", "process": "category", **floats, "name": "string"}
    assert frame["met"].tolist() == list(range(300))
    assert frame["n"].isna().sum() == 30
    assert frame["name"].iloc[150] == "1 50"


def test_lists(ds):
    with pytest.raises(mm.OptionError, match="have lists: pt; name others"):
        ds.to_dataframe()
    assert list(ds.to_dataframe("p*", ragged="drop")) == ["process", "p3[0]", "p3[1]", "p3[2]"]
    frame = ds.to_dataframe(["pt", "met"], ragged="lists")
    assert frame["pt"].iloc[7].tolist() == [0, 1, 2]
    assert len(frame.explode("pt")) == 3 * (25 * (1 + 1 + 2 + 3))
    with pytest.raises(mm.OptionError, match="'error', 'drop' or 'lists'"):
        ds.to_dataframe(ragged="no")
    with pytest.raises(mm.FieldNotFoundError):
        ds.to_dataframe("nope")


def test_selections_and_computed_fields(ds):
    hard = ds.assign(half="met / 2", third=ds["met"] / 3, more="n + 1")[ds.cut("met > 250")]
    frame = hard.to_dataframe(["met", "half", "third", "more", "process"])
    assert frame["met"].tolist() == list(range(251, 300))
    assert frame["half"].tolist() == [x / 2 for x in range(251, 300)]
    assert frame["third"].to_numpy() == pytest.approx(np.arange(251, 300) / 3)
    assert frame["more"].isna().sum() == 5
    assert len(ds[5:5].to_dataframe("met")) == 0
    with count_reads() as reads:
        ds[10:20].to_dataframe(["met", "n"])
    assert reads.rows == {"met": 10, "n": 10}


def test_columns_that_would_have_one_name(tmp_path):
    ds = mm.from_arrays({"p[0]": [1.0], "p": [[1.0, 2.0]]}, tmp_path / "same.mm")
    ds = mm.from_arrays({"p[0]": np.ones(2), "p": np.ones((2, 2))}, tmp_path / "same2.mm")
    with pytest.raises(mm.OptionError, match="two columns"):
        ds.to_dataframe()
    wide = mm.from_arrays({"image": np.ones((2, 40, 40))}, tmp_path / "wide.mm")
    with pytest.raises(mm.OptionError, match="1,600 numbers"):
        wide.to_dataframe()


def test_a_store_without_rows(tmp_path):
    with mm.create(tmp_path / "none.mm", fields=list(FIELDS.values())):
        pass
    ds = mm.open(tmp_path / "none.mm")
    assert len(ds.to_dataframe(ragged="lists")) == 0
    assert len(ds.to_xarray().row if "row" in ds.to_xarray().coords else ds.to_xarray()["met"]) == 0


def test_without_pandas(ds, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(mm.MissingDependencyError, match="pandas"):
        ds.to_dataframe("met")


def test_lazy(ds):
    dd = pytest.importorskip("dask.dataframe", reason="dask.dataframe needs pyarrow", exc_type=ImportError)
    with max_computes(0), count_reads() as reads:
        frame = ds.to_dataframe(["met", "n", "process", "name"], lazy=True)
        assert isinstance(frame, dd.DataFrame)
        assert frame.known_divisions
        assert frame.npartitions == len(ds.chunks)
    assert not reads.log
    pd.testing.assert_frame_equal(frame.compute(), ds.to_dataframe(["met", "n", "process", "name"]))
    assert frame.loc[150:152].compute()["met"].tolist() == [150, 151, 152]


def test_without_dask_dataframe(ds, monkeypatch):
    monkeypatch.setitem(sys.modules, "dask.dataframe", None)
    with pytest.raises(mm.MissingDependencyError, match=r"dask\[dataframe\]"):
        ds.to_dataframe("met", lazy=True)


# xarray -------------------------------------------------------------------------------------------------------------


def test_xarray(ds):
    pytest.importorskip("xarray", reason="xarray is not installed")
    with max_computes(0), count_reads() as reads:
        x = ds.to_xarray()
    assert not reads.log
    assert list(x) == ["met", "n", "process", "p3"]
    assert dict(x.sizes) == {"row": N, "p3_0": 3}
    assert x.met.attrs == {"units": "GeV", "long_name": "missing energy"}
    assert x.chunks["row"] == ds.chunks
    assert x.met.sum().compute().item() == sum(range(300))
    assert x.n.dtype == np.float64
    assert int(x.n.isnull().sum()) == 30
    assert x.n.sum().compute().item() == ds["n"].sum().compute()
    assert x.met.groupby(x.process.compute()).mean().values.tolist() == [149, 150]
    assert x.isel(row=slice(10, 12)).p3.values.tolist() == [[10, 11, 12], [11, 12, 13]]
    assert ds[ds.cut("met > 250")].to_xarray("met").met.values.tolist() == list(range(251, 300))
    for name in ("pt", "name"):
        with pytest.raises(mm.OptionError, match="same shape"):
            ds.to_xarray(name)


@settings(max_examples=10)
@given(tables([name for name, f in FIELDS.items() if f.kind in ("dense", "category")]))
def test_xarray_of_every_kind(tmp_path_factory, table):
    pytest.importorskip("xarray", reason="xarray is not installed")
    ds = mm.open(write(tmp_path_factory.mktemp("kinds") / "kinds.mm", table))
    x = ds.to_xarray().compute()
    for name, values in table.items():
        field = FIELDS[name]
        for want, found in zip(values, x[name].values, strict=True):
            if want is not None:
                assert np.array_equal(found, np.array(want, found.dtype), equal_nan=found.dtype.kind in "fc")
            elif field.kind == "category":
                assert found == ""
            elif field.dtype.kind == "S":
                assert found == b""
            else:
                assert np.isnan(found).all() if found.dtype.kind in "fc" else np.isnat(found)


def test_without_xarray(ds, monkeypatch):
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(mm.MissingDependencyError, match="xarray"):
        ds.to_xarray()


# What else takes our arrays -----------------------------------------------------------------------------------------


def test_numpy_and_dask_functions(ds):
    met = np.arange(300, dtype="f4")
    assert np.asarray(ds["met"]).tolist() == met.tolist()
    assert np.array(ds["met"][5:8]).tolist() == [5, 6, 7]
    assert float(np.sum(ds["met"])) == met.sum()
    assert np.sqrt(ds["met"]).compute().tolist() == np.sqrt(met).tolist()
    assert isinstance(np.sqrt(ds["met"]), da.Array)
    assert da.percentile(ds["met"], 50, method="linear").compute() == pytest.approx(149.5, abs=1)
    assert da.histogram(ds["met"], bins=3, range=(0, 300))[0].compute().tolist() == [100, 100, 100]
    assert da.where(ds["met"] > 250, 1, 0).sum().compute() == 49
    assert da.stack([ds["met"], ds["met"]]).shape == (2, 300)
    with max_computes(0), count_reads() as reads:
        repr(ds["met"]), ds["met"].shape, np.shape(ds["met"]), np.ndim(ds["met"]), len(ds["met"])
        np.add(ds["met"], 1), np.concatenate([ds["met"], ds["met"]]), np.where(ds["met"] > 3, 1, 0)
        np.mean(ds["met"])
    assert not reads.log
    for wrong in (ds, ds.cut("met > 3"), ds["pt"]):
        with pytest.raises(mm.OptionError):
            np.asarray(wrong)


@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_joblib(path, backend):
    joblib = pytest.importorskip("joblib", reason="joblib is not installed")
    ds = mm.open(path)
    hard = ds[ds.cut("met > 250")]
    views = [ds[:10], ds[290:], hard, ds.assign(half="met / 2")[3:5]]
    with dask.config.set(scheduler="sync"):
        sums = joblib.Parallel(n_jobs=2, backend=backend)(joblib.delayed(total)(view) for view in views)
    assert sums == [45.0, 2945.0, float(sum(range(251, 300))), 7.0]


def total(view):
    import dask

    with dask.config.set(scheduler="sync"):
        return float(view["met"].sum().compute())
