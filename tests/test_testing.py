"""The tools for tests are tested themselves: strategies draw every edge, and what is counted is all there is."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import awkward as ak
import dask
import numpy as np
import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st

import mmdask as mm
import mmdask.testing as mt
from mmdask.rows.cuts import masks
from mmdask.rows.reading import reader
from mmdask.rows.reading.picker import Picker

# Strategies ---------------------------------------------------------------------------------------------------------


def drawn(strategy, n):
    """Some examples, the same every time."""
    found = []

    @settings(max_examples=n, database=None, derandomize=True)
    @given(strategy)
    def keep(example):
        found.append(example)

    keep()
    return found


def test_fields_are_of_every_kind_and_depth():
    fields = drawn(mt.fields(), 300)
    kinds = {(f.kind, f.levels, f.axes) for f in fields}
    assert {("ragged", levels, 0) for levels in (1, 2, 3)} <= kinds
    assert {("string", levels, 0) for levels in (0, 1, 2)} <= kinds
    assert {("shaped", 0, axes) for axes in (1, 2, 3)} <= kinds
    assert {("dense", 0, 0), ("category", 0, 0)} <= kinds
    optional = {(f.kind, depth) for f in fields for depth in f.optional}
    assert {(kind, 0) for kind in ("dense", "ragged", "shaped", "string", "category")} <= optional
    assert {("ragged", depth) for depth in (1, 2)} <= optional
    assert {(f.kind, len(f.shape), 0 in f.shape) for f in fields} >= {
        *(("dense", n, zero) for n in (1, 2) for zero in (True, False)),
        *((kind, 1, zero) for kind in ("ragged", "shaped") for zero in (True, False)),
    }


def test_dtypes_are_all_that_a_store_holds():
    codes = {(dtype.kind, dtype.itemsize) for dtype in drawn(mt.dtypes(), 500)}
    sizes = {"b": [1], "i": [1, 2, 4, 8], "u": [1, 2, 4, 8], "f": [2, 4, 8], "c": [8, 16], "M": [8], "m": [8]}
    assert codes >= {(kind, size) for kind, found in sizes.items() for size in found} | {("S", 1), ("S", 5)}


def is_nan(value):
    return value != value


@pytest.mark.parametrize(
    ("field", "has"),
    [
        (mm.Field.dense("f", "f4"), is_nan),
        (mm.Field.dense("f", "f8"), lambda v: v == np.inf),
        (mm.Field.dense("f", "M8[ns]"), np.isnat),
        (mm.Field.dense("f", "c8"), is_nan),
        (mm.Field.dense("f", "u8"), lambda v: v == 2**64 - 1),
        (mm.Field.dense("f", "S3"), lambda v: b"\0" in v),
        (mm.Field.dense("f", "i2", optional=(0,)), lambda v: v is None),
        (mm.Field.string("f"), lambda v: not v.isascii()),
        (mm.Field.string("f", levels=1, optional=(1,)), lambda v: None in v and "" in v),
        (mm.Field.ragged("f", "i1", levels=2), lambda v: [] in v),
        (mm.Field.shaped("f", "i1", 2), lambda v: 0 in v.shape and max(v.shape) > 1),
        (mm.Field.category("f", ["a", "b"]), lambda v: v == "b"),
    ],
    ids=lambda value: value.describe() if isinstance(value, mm.Field) else "",
)
def test_rows_have_every_edge(field, has):
    quiet = settings(database=None, max_examples=5000)
    [row] = find(mt.rows(field, 1), lambda rows: has(rows[0]), settings=quiet)
    assert has(row)


def test_tables_shrink_to_plain_ones():
    quiet = settings(database=None, max_examples=300)
    table = find(mt.tables(), lambda table: len(table) > 1, settings=quiet)
    assert table.schema == mm.Schema([mm.Field.dense("a", "?")])
    assert table.rows == {"a": [False, False]}


@given(mt.tables())
def test_python_values_and_field_data_say_the_same(table):
    for name, field in table.schema.items():
        data = mt.from_python(field, table.rows[name])
        mt.check_field_data(field, data)
        assert not mt.difference(table.rows[name], mt.to_python(field, data))


@given(mt.tables())
def test_members_of_a_list_of_records_have_equal_counts(table):
    members = [field for field in table.schema.values() if field.record]
    if all(field.levels for field in members):
        counts = [[row if row is None else len(row) for row in table.rows[field.name]] for field in members]
        assert counts[1:] == counts[:-1]


@given(mt.rows(mm.Field.ragged("r", "i8", levels=2, optional=(1, 2)), 3))
def test_awkward_has_the_same_rows(rows):
    array = mt.to_arrays(mm.Field.ragged("r", "i8", levels=2, optional=(1, 2)), rows)
    assert ak.to_list(array) == rows


@settings(max_examples=40)
@given(mt.tables(max_fields=2), st.data())
def test_what_users_hand_in_is_stored_as_these_rows(tmp_path_factory, table, data):
    path = tmp_path_factory.mktemp("t") / "s.mm"
    with mm.create(path, fields=table.fields) as w:
        for run in data.draw(mt.pieces(len(table))):
            w.extend(table[run].arrays())
    mt.check_rows(mt.DiskBackend(path).open(), table)


@given(st.integers(0, 6).flatmap(lambda n: st.tuples(st.just(n), mt.selections(n), mt.pieces(n))))
def test_selections_and_pieces_are_of_these_rows(drawn):
    n, selection, pieces = drawn
    assert [i for piece in pieces for i in range(n)[piece]] == list(range(n))
    if isinstance(selection, slice):
        assert selection.step is None or selection.step > 0
    else:
        assert all(0 <= row < n for row in selection)


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        (1, 1, True),
        (1, 1.0, False),
        (1, True, False),
        (0.0, -0.0, False),
        (float("nan"), float("nan"), True),
        (complex(0, float("nan")), complex(0, float("nan")), True),
        (complex(0, 0.0), complex(0, -0.0), False),
        ([1, [2]], [1, [2]], True),
        ([1], [1, 2], False),
        (None, [], False),
        ("a", b"a", False),
        (np.datetime64("NaT", "s"), np.datetime64("NaT", "s"), True),
        (np.datetime64(1, "s"), np.datetime64(1000, "ms"), False),
        (np.zeros((0, 2)), np.zeros((2, 0)), False),
        (np.zeros(1, "i4"), np.zeros(1, "i8"), False),
        (np.array([np.nan]), np.array([np.nan]), True),
    ],
)
def test_same(a, b, equal):
    assert mt.same(a, b) is equal
    assert mt.same(b, a) is equal


# Counting -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def ds(tmp_path):
    return mm.from_arrays({"x": np.arange(100.0), "r": [[1, 2], []] * 50}, tmp_path / "s.mm")


BOUNDS = itertools.count()


def new_cut(ds):
    """One that is not known yet, nor from the smallest and largest values."""
    return ds.cut(f"sqrt(x + {next(BOUNDS)}) > 5")


COMPUTES = {
    "compute": lambda ds: ds["x"].compute(),
    "dask.compute": lambda ds: dask.compute(ds["x"], ds["r"]),
    "persist": lambda ds: ds["x"].persist(),
    "dask.persist": lambda ds: dask.persist(ds["x"], ds["x"] + 1),
    "numpy": lambda ds: np.asarray(ds["x"]),
    "float": lambda ds: float(ds["x"].sum()),
    "ragged": lambda ds: ds["r"].compute(),
    "ragged persist": lambda ds: ds["r"].persist(),
    "to_awkward": lambda ds: ds.to_awkward(),
    "cut": lambda ds: new_cut(ds).count(),
    "rows of a cut": lambda ds: len(ds[new_cut(ds)]),
    "delayed": lambda ds: dask.delayed(int)(3).compute(),
    "sync": lambda ds: ds["x"].compute(scheduler="sync"),
    "threads": lambda ds: ds["x"].compute(scheduler="threads"),
    "processes": lambda ds: ds["x"].compute(scheduler="processes"),
    "executor": lambda ds: ds["x"].compute(scheduler=ThreadPoolExecutor(1)),
}


@pytest.mark.parametrize("compute", COMPUTES.values(), ids=COMPUTES)
def test_every_compute_is_counted_once(ds, compute):
    with mt.max_computes(1) as computes:
        compute(ds)
    assert computes.count == 1
    with pytest.raises(AssertionError, match="compute 1 where at most 0"), mt.max_computes(0):
        compute(mm.open(ds.path)[:50])


def test_the_default_scheduler_may_be_configured(ds):
    for scheduler in ("sync", "threads"):
        with dask.config.set(scheduler=scheduler), mt.max_computes(2) as computes:
            ds["x"].compute()
            new_cut(ds).count()
        assert computes.count == 2


def test_what_is_lazy_computes_nothing(ds):
    with mt.max_computes(0) as computes:
        ds["x"] + 1, ds["r"].sum(), ds[ds.cut("x > 3")], ds.split({"a": 0.5, "b": 0.5}), repr(ds), ds[3], ds[10:20]
    assert computes.count == 0
    assert computes.log == []


def test_it_says_which_and_who(ds):
    with pytest.raises(AssertionError) as caught, mt.max_computes(1):
        ds["x"].compute()
        len(ds[ds.cut("x > 4")])
    first, second = str(caught.value).splitlines()[1:]
    assert "1. read:x (2 tasks), by test_testing.py" in first
    assert first.endswith('ds["x"].compute()')
    assert second.endswith('len(ds[ds.cut("x > 4")])')


def test_nothing_runs_of_the_compute_that_is_too_many(ds):
    ran = []
    with pytest.raises(AssertionError), mt.max_computes(0):
        dask.delayed(ran.append)(1).compute()
    assert ran == []


def test_an_error_that_was_caught_is_raised_at_the_end(ds):
    with (
        pytest.raises(AssertionError, match="compute 1 where"),
        mt.max_computes(0),
        contextlib.suppress(AssertionError),
    ):
        ds["x"].compute()


def test_computes_of_other_threads_count(ds):
    with ThreadPoolExecutor(4) as pool, mt.max_computes(20) as computes:
        list(pool.map(lambda _: ds["x"].sum().compute(), range(20)))
    assert computes.count == 20


def test_other_errors_pass_and_blocks_nest(ds):
    with pytest.raises(ZeroDivisionError), mt.max_computes(0):
        1 / 0
    with mt.max_computes(2) as outer:
        ds["x"].compute()
        with mt.max_computes(1) as inner:
            ds["x"].compute()
    assert (outer.count, inner.count) == (2, 1)
    ds["x"].compute()
    assert outer.count == 2
    with pytest.raises(mm.OptionError, match="0 or more"), mt.max_computes(-1):
        pass


def test_computes_of_a_client_are_counted(ds):
    distributed = pytest.importorskip("distributed")
    with distributed.Client(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as client:
        computes = {
            **{name: COMPUTES[name] for name in ("compute", "dask.compute", "persist", "ragged", "cut", "sync")},
            "client.compute": lambda ds: client.compute(ds["x"]).result(),
            "client.persist": lambda ds: client.persist(ds["x"]),
        }
        for name, compute in computes.items():
            with mt.max_computes(1) as counted:
                compute(ds)
            assert counted.count == 1, name
            with pytest.raises(AssertionError), mt.max_computes(0):
                compute(mm.open(ds.path)[:50])


def test_rows_that_are_read_are_counted(ds):
    with mt.count_reads() as reads:
        ds["x"] + 1, ds["r"].sum(), ds[ds.cut("x > 3.5")], repr(ds), ds["r"].counts.compute(), len(ds)
    assert (reads.log, reads.rows, reads.n_rows) == ([], {}, 0)
    with mt.count_reads() as reads:
        ds["x"][10:20].compute()
    assert reads.log == [mt.Read("x", 10, 0, 10)]
    with mt.count_reads() as reads:
        ds["r"].compute()
        ds[[3, 1, 1]]
        list(ds[:8].batches(4, collate={"r": mm.pad(2)}, shuffle=False))
        ds["r"][3]
    assert reads.rows == {"r": 100 + 3 + 8 + 1, "x": 3 + 8}
    assert reads.n_rows == 123
    cut = new_cut(ds)
    with mt.count_reads() as reads:
        cut.count()
        assert reads.rows == {"x": 100}
        reads.clear()
        mm.open(ds.path)[cut].fields
        cut.count()
        assert reads.log == []


def test_counted_reads_nest_and_end(ds):
    before = dict(vars(reader)), dict(vars(masks)), Picker.__call__
    with mt.count_reads() as outer, mt.count_reads() as inner:
        ds["x"].compute(), ds["x"].compute(scheduler="sync"), ds[[1]]
    assert outer.rows == inner.rows == {"x": 201, "r": 1}
    assert before == (vars(reader), vars(masks), Picker.__call__)
    ds["x"].compute()
    assert inner.n_rows == 202


# The package --------------------------------------------------------------------------------------------------------


def test_without_hypothesis_it_says_what_is_missing():
    code = (
        "import sys\nsys.modules['hypothesis'] = None\nimport mmdask, mmdask.testing as mt\n"
        "mt.max_computes, mt.MemoryBackend, mt.Table\n"
        "try:\n    mt.tables\nexcept mmdask.MissingDependencyError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (
        "mmdask.testing.tables needs hypothesis, which is not installed: pip install 'mmdask[test]'"
    )


def test_every_public_name_is_there():
    for name in mt.__all__:
        assert getattr(mt, name).__doc__
    assert set(mt.__all__) <= set(dir(mt))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        mt.nothing
