"""Descriptions of stores, against numpy and Python's integers; what they read, and what is kept of them."""

from __future__ import annotations

import math
from fractions import Fraction

import dask
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kinds import FIELDS, tables, write

import mmdask as mm
from mmdask.rows import rows
from mmdask.rows.cuts import masks
from mmdask.rows.sums import describing, reducing
from mmdask.rows.sums.summary import Summary, summarize
from mmdask.schema import Field, FieldData
from mmdask.testing import count_reads

PART = 200
SOME = [
    mm.Field.dense("met", "f4", optional=(0,)),
    mm.Field.dense("n", "i8"),
    mm.Field.ragged("pt", "f8", optional=(1,)),
    mm.Field.category("process"),
]


@pytest.fixture(autouse=True)
def nothing_remembered():
    masks.LOADED.clear()
    rows.RESOLVED.clear()


def some_rows(seed):
    rng = np.random.default_rng(seed)
    return {
        "met": [None if i % 7 == 0 else float(np.float32(x)) for i, x in enumerate(rng.exponential(40, PART))],
        "n": rng.integers(-(2**62), 2**62, PART).tolist(),
        "pt": [[None if j == 2 else float(x) for j, x in enumerate(rng.normal(1e6, 1, i % 4))] for i in range(PART)],
        "process": ["ttH", "ttbb"] * (PART // 2),
    }


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "some.mm"
    for p in range(3):
        with mm.append(path) if p else mm.create(path, fields=SOME) as w:
            w.extend(some_rows(p))
    return path


# Every kind of field ------------------------------------------------------------------------------------------------


def leaves(field, row, depth=0):
    """The innermost values of a row and None for what is missing, and its number of elements if it has lists."""
    if row is None:
        return [None]
    if depth < field.levels:
        return [x for item in row for x in leaves(field, item, depth + 1)]
    if field.kind in ("string", "category"):
        return [row]
    return list(np.asarray(row, field.dtype).reshape(-1))


def check(found, field, table_rows):
    """One field's summary, from its rows as Python lists."""
    values = [x for row in table_rows for x in leaves(field, row)]
    there = [x for x in values if x is not None]
    assert (found.count, found.missing) == (len(there), values.count(None))
    kind = field.dtype.kind if field.kind in ("dense", "ragged", "shaped") else ""
    x = np.array(there, field.dtype) if kind else np.array([])
    finite = x
    if kind in "mM" and kind:
        finite = x[~np.isnat(x)]
        assert (found.nan, found.inf) == (np.isnat(x).sum(), 0)
    elif kind and kind in "fc":
        finite = x[np.isfinite(x)]
        assert (found.nan, found.inf) == (np.isnan(x).sum(), np.isinf(x).sum())
    if not len(finite) or not kind or kind in "cS":
        assert (found.min, found.max, found.mean, found.std) == (None,) * 4
    else:
        assert (found.min, found.max) == (finite.min(), finite.max())
        if kind in "mM":
            whole = finite.view("i8").tolist()
            assert found.mean.astype("i8") == round(Fraction(sum(whole), len(whole)))
            variance = Fraction(len(whole) * sum(t * t for t in whole) - sum(whole) ** 2, len(whole) ** 2)
            assert found.std.astype("i8") == pytest.approx(math.sqrt(variance), abs=2, rel=1e-9)
        else:
            assert found.mean == pytest.approx(finite.astype("f8").mean(), rel=1e-12, abs=1e-12)
            assert found.std == pytest.approx(finite.astype("f8").std(), rel=1e-9, abs=1e-9)
    if field.n_offsets:
        counts = [outer(field, row) for row in table_rows if row is not None]
        mean = sum(counts) / len(counts) if counts else None
        assert (found.items_min, found.items_mean, found.items_max) == (
            min(counts, default=None),
            mean,
            max(counts, default=None),
        )


def outer(field, row):
    if field.kind == "string" and not field.levels:
        return len(row.encode())
    return math.prod(row.shape[: field.axes]) if field.kind == "shaped" else len(row)


@settings(max_examples=25)
@given(tables(), st.lists(st.integers(0, 8), max_size=2), st.data())
def test_every_kind_of_field(tmp_path_factory, table, cuts, data):
    path = write(tmp_path_factory.mktemp("kinds") / "kinds.mm", table, cuts)
    ds = mm.open(path)
    n = len(ds)
    a, b = sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n))))
    for view, inside in ((ds, slice(None)), (ds[a:b], slice(a, b)), (ds[::2], slice(None, None, 2)), (ds, slice(None))):
        found = view.describe()
        assert list(found) == list(table)
        for name, values in table.items():
            check(found[name], FIELDS[name], values[inside])
        assert found.rows == len(view)
        assert repr(found)
        assert found._repr_html_()


@given(
    st.sampled_from(["i1", "u1", "i4", "u4", "i8", "u8", "?"]).flatmap(
        lambda t: st.tuples(
            st.just(t),
            st.lists(
                st.integers(0, 1)
                if t == "?"
                else st.sampled_from([np.iinfo(t).min, np.iinfo(t).max, 0, 1])
                | st.integers(int(np.iinfo(t).min), int(np.iinfo(t).max)),
                max_size=30,
            ),
        )
    ),
    st.integers(0, 30),
)
def test_integers_are_exact(typed, cut):
    dtype, values = typed
    field = Field.dense("x", dtype)
    x = np.array(values, dtype)
    total = summarize(field, FieldData(x[:cut])) + summarize(field, FieldData(x[cut:]))
    assert (total.total, total.squares) == (sum(values), sum(v * v for v in values))
    assert (total.low, total.high) == (min(values, default=None), max(values, default=None))


@given(st.lists(st.floats(width=32), max_size=30), st.integers(0, 30), st.booleans())
def test_reals_are_added_well(values, cut, far):
    x = np.array(values, "f4").astype("f8") * 1e-30 + (1e9 if far else 0)
    field = Field.dense("x", "f8")
    total = summarize(field, FieldData(x[:cut])) + summarize(field, FieldData(x[cut:]))
    finite = [Fraction(v) for v in x.tolist() if math.isfinite(v)]
    assert (total.count, total.nan) == (len(x), np.isnan(x).sum())
    assert total.finite == len(finite)
    if finite:
        mean = sum(finite) / len(finite)
        spread = float(sum((v - mean) ** 2 for v in finite))
        # The mean is right to its last digits, the spread to those of the differences: means are apart by as much as
        # their last digits more or less, which counts once for itself and once for each of the differences.
        n, digits = len(finite), 4e-16 * float(max(map(abs, finite)))
        assert total.mean == pytest.approx(float(mean), rel=1e-14, abs=1e-14 * float(max(map(abs, finite))))
        assert total.spread == pytest.approx(
            spread, rel=1e-9, abs=9 * n * digits**2 + 3 * digits * math.sqrt(n * spread)
        )


def test_a_large_mean_takes_no_digits():
    x = 1e9 + np.random.default_rng(0).normal(0, 1e-3, 100_000)
    field = Field.dense("x", "f8")
    total = Summary()
    for piece in np.array_split(x, 50):
        total += summarize(field, FieldData(piece))
    assert math.sqrt(total.spread / len(x)) == pytest.approx(np.std(x - 1e9), rel=1e-6)


def test_values_that_are_too_large_to_add():
    total = summarize(Field.dense("x", "f8"), FieldData(np.array([1.7e308, 1.7e308, -1.7e308, 1.7e308])))
    assert total.mean == pytest.approx(0.85e308)
    assert total.inf == 0


def test_means_that_are_farther_apart_than_a_number_can_say():
    largest = float(np.finfo("f8").max)
    a, b = (summarize(Field.dense("x", "f8"), FieldData(np.full(n, x))) for n, x in ((2, largest), (1, -largest)))
    for s in (a + b, b + a):
        assert s.mean == pytest.approx(largest / 3)
        assert s.spread == math.inf


def test_summaries_pass_through_json():
    import json

    s = Summary(3, 1, 1, 0, -1.5, 2**70, 2**80, 2**90, 0.1, math.inf, 2, 7, 0, 5)
    assert Summary.load(json.loads(json.dumps(s.dump()))) == s
    assert Summary.load(Summary().dump()) == Summary()
    for wrong in (5, {"count": "x"}, {"nope": 1}, {"count": True}, {"count": 1.5}, None):
        assert Summary.load(wrong) is None


# Kept ---------------------------------------------------------------------------------------------------------------


def test_what_was_found_is_read_the_next_time(path):
    ds = mm.open(path)
    with count_reads() as reads:
        first = ds.describe()
        assert reads.rows == dict.fromkeys(ds.fields, 3 * PART)
        reads.clear()
        assert repr(mm.open(path).describe()) == repr(first)
        assert repr(mm.open(path).describe("n")["n"]) == repr(first["n"])
        assert not reads.log


def test_appended_rows_alone_are_looked_at(path):
    mm.open(path).describe(["met", "n"])
    with mm.append(path) as w:
        w.extend(some_rows(9))
    with count_reads() as reads:
        found = mm.open(path).describe(["met", "n"])
        assert reads.rows == {"met": PART, "n": PART}
        # Another field of old parts is computed, and what was kept stays.
        mm.open(path).describe()
        assert reads.rows == {"met": PART, "n": PART, "pt": 4 * PART, "process": 4 * PART}
    n = [x for seed in (0, 1, 2, 9) for x in some_rows(seed)["n"]]
    assert (found["n"].mean, found["n"].min, found["n"].count) == (float(Fraction(sum(n), len(n))), min(n), len(n))


def test_replaced_fields_are_looked_at_again(path):
    before = mm.open(path).describe()
    mm.assign(path, n=mm.open(path)["n"].compute() // 2, replace=True)
    with count_reads() as reads:
        after = mm.open(path).describe()
    assert reads.rows == {"n": 3 * PART}
    assert after["n"].max == before["n"].max // 2


def test_parts_of_a_selection_that_are_whole_are_kept(path):
    ds = mm.open(path)
    with count_reads() as reads:
        found = ds[100:600].describe("n")
        assert reads.rows["n"] <= 500 + 8
        reads.clear()
        assert ds[200:600].describe("n")["n"].count == 400
        assert not reads.log
        ds[90:110].describe("n")
        assert reads.rows["n"] == 20
    # What is known of a few rows of a part is not taken for the part, nor the other way round.
    assert ds.describe("n")["n"].count == 600
    assert ds[90:110].describe("n")["n"].count == 20
    n = np.concatenate([some_rows(p)["n"] for p in range(3)])[100:600]
    assert (found["n"].count, found["n"].min, found["n"].max) == (500, n.min(), n.max())


def test_cuts_and_computed_fields(path):
    ds = mm.open(path).assign(ht="sum(pt)", big="n > 0", lead="max(pt)")
    hard = ds[ds.cut("met > 30")]
    with count_reads() as reads:
        found = ds.describe(["ht", "big", "lead"])
        reads.clear()
        ds.describe(["ht", "big", "lead"])
        assert not reads.log
        other = ds.assign(ht="sum(pt) * 2").describe("ht")["ht"]
        assert reads.rows == {"pt": 3 * PART}
    assert other.mean == 2 * found["ht"].mean
    n = np.array([x for p in range(3) for x in some_rows(p)["n"]])
    met = np.array([-1 if x is None else x for p in range(3) for x in some_rows(p)["met"]])
    assert found["big"].mean == (n > 0).mean()
    assert found["lead"].missing == 3 * sum(any(x is None for x in r) or not r for r in some_rows(0)["pt"])
    assert hard.describe("n")["n"].max == n[met > 30].max()
    with pytest.raises(mm.OptionError, match="dask array"):
        ds.assign(r=ds["n"] / 2).describe()


def test_damaged_files_are_computed_again(path):
    first = repr(mm.open(path).describe())
    files = sorted((path / "cache" / "summaries").glob("*/*"))
    assert len(files) == 3
    for i, file in enumerate(files):
        data = bytearray(file.read_bytes())
        if i == 0:
            data[-5] ^= 1
        elif i == 1:
            data = data[:40]
        file.write_bytes(data if i < 2 else b"")
    with count_reads() as reads:
        assert repr(mm.open(path).describe()) == first
        assert reads.rows["n"] == 3 * PART
        reads.clear()
        mm.open(path).describe()
        assert not reads.log


def test_links_are_not_followed(path, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (path / "cache").mkdir(exist_ok=True)
    (path / "cache" / "summaries").symlink_to(outside)
    mm.open(path).describe("n")
    assert not list(outside.iterdir())


def test_a_folder_that_takes_nothing_is_a_warning(path, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no space")

    monkeypatch.setattr(describing, "write_atomically", refuse)
    with pytest.warns(RuntimeWarning, match="could not be kept"):
        assert mm.open(path).describe("n")["n"].count == 3 * PART


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_the_same_on_every_scheduler(path, monkeypatch, scheduler):
    monkeypatch.setattr(reducing, "_TASK_ROWS", 64)
    odd = mm.open(path)[::3]  # of which nothing is kept
    with dask.config.set(scheduler="sync"):
        serial = odd.describe()
    with dask.config.set(scheduler=scheduler):
        found = odd.describe()
    for name in serial:
        assert found[name] == serial[name]


# Looks --------------------------------------------------------------------------------------------------------------


def test_a_mapping_that_prints_as_a_table(path):
    found = mm.open(path).describe(["met", "p*"])
    assert list(found) == ["met", "pt", "process"]
    with pytest.raises(mm.FieldNotFoundError, match="did you mean 'met'"):
        found["mett"]
    lines = repr(found).splitlines()
    assert lines[0] == "600 rows"
    assert lines[1].split() == ["field", "type", "count", "missing", "min", "max", "mean", "std", "items"]
    assert "<table" in found._repr_html_()
    with pytest.raises(mm.FieldNotFoundError):
        mm.open(path).describe("nope")


def test_pandas(path):
    pd = pytest.importorskip("pandas")
    ds = mm.open(path)
    frame = ds.describe().to_pandas()
    assert list(frame.index) == list(ds.fields)
    assert frame.loc["met", "missing"] == 3 * 29
    assert frame.loc["n", "min"] == ds.describe()["n"].min
    assert frame.loc["process", "mean"] is pd.NA
    assert str(frame["std"].dtype) == "Float64"


def test_a_store_without_rows(tmp_path):
    with mm.create(tmp_path / "none.mm", fields=list(FIELDS.values())):
        pass
    found = mm.open(tmp_path / "none.mm").describe()
    assert {f.count for f in found.values()} == {0}
    assert repr(found)
    assert mm.open(tmp_path / "none.mm")[[*FIELDS][:1]].describe().to_pandas() is not None


def test_vacuum_removes_summaries_that_nothing_needs(tmp_path):
    path = tmp_path / "v.mm"

    def summaries():
        return sorted(path.glob("cache/summaries/*/*.summary"))

    ds = mm.from_arrays({"x": [1.0, 2.0], "n": [1, 2]}, path)
    ds.describe()
    first = summaries()
    mm.assign(path, {"x": [5.0, 6.0]}, replace=True)
    mm.open(path).describe()
    assert len(summaries()) > len(first) > 0
    assert mm.vacuum(path, keep=2, grace=0).n_files == 0
    report = mm.vacuum(path, keep=1, grace=0, cuts=False)
    with count_reads() as reads:
        assert mm.open(path).describe()["x"].max == 6
    assert reads.log == [], "what is shown now is still kept"
    assert report.n_files > 0
    summaries()[0].write_bytes(b"garbage")
    mm.vacuum(path, grace=0)
    assert b"garbage" not in [f.read_bytes() for f in summaries()]
    mm.vacuum(path, cuts=True)
    assert summaries() == []
