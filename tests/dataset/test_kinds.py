"""Fields of every kind, with missing values at every depth, by every door; the truth are plain lists."""

from __future__ import annotations

import itertools
import math
import pickle

import awkward as ak
import dask
import dask.array as da
import kinds
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kinds import FIELDS, of, plain

import mmdask as mm
from mmdask.dataset import layouts
from mmdask.dataset.lists import collection
from mmdask.rows.reading import marks, reader
from mmdask.schema import Field, FieldData
from mmdask.store import snapshot as snapshot_module

GROUPS = [
    ["met", "run", "flag", "when", "tag", "wave", "half", "small", "took", "p3", "process"],
    ["pt", "ids", "ok", "tags", "times", "points", "deep"],
    ["name", "words", "lines", "wave1", "image", "colour", "met"],
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    numbers, above = itertools.count(), tmp_path_factory.mktemp("kinds")
    return lambda: above / f"{next(numbers)}.mm"


# Values by every door -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", GROUPS, ids=["dense", "ragged", "others"])
@pytest.mark.parametrize("io", ["mmap", "pread"])
@settings(max_examples=10)
@given(data=st.data())
def test_every_door_gives_the_rows(folder, group, io, data):
    table = data.draw(kinds.tables(group))
    n = len(table[group[0]])
    path = kinds.write(folder(), table, data.draw(st.lists(st.integers(0, 8), max_size=2)))
    ds = mm.open(path, chunks=data.draw(st.sampled_from([1, 2, 8])), io=io)
    view = data.draw(st.sampled_from([slice(None), slice(1, None), slice(None, -1, 2), slice(3, 6)]))
    indices = data.draw(st.lists(st.integers(-n, n - 1), max_size=5)) if n else []
    together = ds.to_awkward()
    several = ds[indices]
    for name, rows in table.items():
        field, expected = FIELDS[name], of(FIELDS[name], rows)
        assert plain(ds[name].compute(scheduler="sync")) == expected
        assert plain(ds[view][name].compute(scheduler="sync")) == expected[view]
        assert plain(ds[name][view].compute(scheduler="sync")) == expected[view]
        assert [plain(ds[i][name]) for i in range(n)] == expected
        assert plain(several[name]) == [expected[i] for i in indices]
        if field.kind != "category":
            assert plain(together[name]) == expected
        if field.n_offsets:
            assert plain([ds[name][i] for i in range(n)]) == expected
            assert plain(list(ds[name])) == expected
            assert plain(list(ds[view][name])) == expected[view]
            assert ds[name].valid.compute(scheduler="sync").tolist() == [row is not None for row in rows]


@settings(max_examples=10)
@given(data=st.data())
def test_rows_of_a_selection(folder, data):
    group = ["run", "process", "pt", "deep", "words", "image", "when"]
    table = data.draw(kinds.tables(group))
    path = kinds.write(folder(), table, data.draw(st.lists(st.integers(0, 8), max_size=2)))
    ds = mm.open(path, chunks=2)
    kept = [i for i, run in enumerate(table["run"]) if run is not None and run > 3]
    sel = ds[ds.cut("run > 3")]
    assert len(sel) == len(kept)
    for name, rows in table.items():
        expected = [of(FIELDS[name], rows)[i] for i in kept]
        assert plain(sel[name].compute(scheduler="sync")) == expected
        assert [plain(sel[i][name]) for i in range(len(kept))] == expected
        if FIELDS[name].n_offsets:
            assert plain(list(sel[name])) == expected
            assert plain(sel[name].counts.compute(scheduler="sync")) == counts([rows[i] for i in kept])
            assert sel[name].valid.compute(scheduler="sync").tolist() == [rows[i] is not None for i in kept]
    shapes = [table["image"][i].shape if table["image"][i] is not None else (0, 0) for i in kept]
    assert sel["image"].shapes.compute(scheduler="sync").tolist() == list(map(list, shapes))


def counts(rows):
    return [None if r is None else r.size if isinstance(r, np.ndarray) else len(r) for r in rows]


@settings(max_examples=10)
@given(kinds.tables(["pt", "ids", "tags", "points", "image", "colour", "wave1"]), st.sampled_from([1, 2, 8]))
def test_the_parts_of_ragged_fields(folder, table, chunks):
    ds = mm.open(kinds.write(folder(), table, [3]), chunks=chunks)
    for name, rows in table.items():
        field, r = FIELDS[name], ds[name]
        n_axes = 1 + len(field.shape)
        sizes = [0 if row is None else len(row) for row in rows]
        if field.kind == "shaped":
            sizes = [0 if row is None else math.prod(row.shape[: field.axes]) for row in rows]
            items = [x for row in rows if row is not None for x in row.reshape(-1, *field.shape)]
            expected = [() if row is None else row.shape[: field.axes] for row in rows]
            expected = [list(s or (0,) * field.axes) for s in expected]
            assert r.shapes.compute().tolist() == expected
            assert r.shapes.dtype == np.int64
        else:
            items = [x for row in rows for x in row or []]
        missing = 0 in field.optional
        assert plain(r.counts.compute()) == [
            None if missing and row is None else n for row, n in zip(rows, sizes, strict=True)
        ]
        assert isinstance(r.counts.compute(), np.ma.MaskedArray) == missing
        assert r.offsets.compute().tolist() == np.concatenate([[0], np.cumsum(sizes)]).tolist()
        values = r.values.compute()
        assert plain(values) == of(field, items)
        assert values.dtype == field.dtype
        assert values.ndim == n_axes
        assert isinstance(values, np.ma.MaskedArray) == (1 in field.optional)
        assert plain(r.values[1:3].compute()) == of(field, items)[1:3]


@pytest.mark.parametrize("scheduler", ["sync", "threads", "processes"])
def test_schedulers_agree(folder, scheduler):
    table = {"met": [1.0, None, 3.0], "pt": [[1.0, None], None, []], "image": [np.ones((2, 3), "u1"), None, None]}
    ds = mm.open(kinds.write(folder(), table, [1]))
    with dask.config.set(scheduler=scheduler):
        found = dask.compute(ds["met"], ds["pt"], ds["image"], ds["pt"].sum(), ds["met"].sum(), ds["image"].shapes)
    assert [plain(f) for f in found] == [
        [1.0, None, 3.0],
        [[1.0, None], None, []],
        [[[1, 1, 1], [1, 1, 1]], None, None],
        [None, None, 0.0],
        4.0,
        [[2, 3], [0, 0], [0, 0]],
    ]


def test_results_of_one_compute_come_in_the_order_of_the_call(folder):
    table = {"met": [1.0, None], "pt": [[1.0, 2.0], None], "name": ["a", None]}
    ds = mm.open(kinds.write(folder(), table), chunks=1)
    lazy = {"met": ds["met"], "pt": ds["pt"], "name": ds["name"], "sums": ds["pt"].sum(), "counts": ds["pt"].counts}
    expected = {**table, "sums": [3.0, None], "counts": [2, None]}
    for names in itertools.permutations(lazy, 3):
        found = dask.compute(*(lazy[name] for name in names), scheduler="sync")
        assert [plain(x) for x in found] == [expected[name] for name in names]
        found = dask.compute(*(x.persist() for x in map(lazy.get, names)), scheduler="sync")
        assert [plain(x) for x in found] == [expected[name] for name in names]
    assert [plain(x) for x in dask.compute(*dask.optimize(ds["met"], ds["pt"]))] == [table["met"], table["pt"]]


# Types do not depend on the data ------------------------------------------------------------------------------------

TYPES = {
    "pt": "option[var * ?float32]",
    "ids": "var * ?int16",
    "ok": "option[var * bool]",
    "tags": "var * bytes",
    "times": "var * ?datetime64[ns]",
    "points": "option[var * option[2 * float64]]",
    "deep": "option[var * option[var * ?int32]]",
    "name": "?string",
    "words": "option[var * ?string]",
    "lines": "var * var * string",
    "wave1": "var * int16",
    "image": "option[var * var * uint8]",
    "colour": "var * var * 3 * float32",
}


@pytest.mark.parametrize("n", [0, 1, 2])
def test_awkward_types_are_those_of_the_field(folder, n):
    full = {"image": np.ones((1, 2), "u1"), "wave1": np.ones(2, "i2"), "colour": np.ones((1, 1, 3), "f4")}
    some = {"name": "a", "words": ["a"], "lines": [["a"]], "deep": [[1]], "points": [[1.0, 2.0]], "tags": [b"a"]}
    full |= {"pt": [1.0], "ids": [2], "ok": [True], "times": [np.datetime64(3, "s")], **some}
    missing = {"pt": None, "image": None, "name": None, "words": None, "deep": None, "points": None, "ok": None}
    table = {name: [row, missing.get(name, row)][:n] for name, row in full.items()}
    path = kinds.write(folder(), table, [1])
    for ds in (mm.open(path), mm.open(path)[:1], mm.open(path)[1:]):
        for name, expected in TYPES.items():
            assert str(ds[name].compute().type) == f"{len(ds)} * {expected}"


def test_dask_arrays_of_optional_fields_are_masked_also_where_nothing_is_missing(folder):
    table = {"met": [1.0, 2.0], "process": ["ttH", "é"], "p3": [[1, 2, 3], [4, 5, 6]], "half": [0.5, 1.5]}
    ds = mm.open(kinds.write(folder(), table))
    for name in ("met", "process", "p3"):
        assert isinstance(ds[name]._meta, np.ma.MaskedArray)
        computed = ds[name].compute()
        assert type(computed) is np.ma.MaskedArray
        assert computed.mask.shape == computed.shape
        assert not computed.mask.any()
        assert type(ds[[0, 1]][name]) is np.ma.MaskedArray
        assert type(ds[:0][name].compute()) is np.ma.MaskedArray
    assert type(ds["half"].compute()) is np.ndarray
    assert ds["met"].dtype == np.float32
    assert ds["process"].dtype == np.dtype("U4")


# dask keeps masks ---------------------------------------------------------------------------------------------------

MASKED = {
    "met": [None, 1.5, 2.5, None, 4.0, 5.0, None, None, None, 9.5, 0.0],
    "run": [0, None, 2, 3, None, 5, 6, 7, 8, None, 1],
    "flag": [None, True, True, False, None, None, True, False, True, False, True],
}


@pytest.fixture(scope="module")
def masked(folder):
    """Chunks of 1 and 2 rows, of which one is missing as a whole."""
    return mm.open(kinds.write(folder(), MASKED, [3, 6]), chunks=2)


def numpy_of(name):
    rows = MASKED[name]
    values = np.array([0 if r is None else r for r in rows], FIELDS[name].dtype)
    return np.ma.MaskedArray(values, [r is None for r in rows])


@pytest.mark.parametrize(
    "reduce", ["sum", "mean", "min", "max", "std", "var", "prod", "any", "all", "argmin", "argmax"]
)
@pytest.mark.parametrize("name", MASKED)
def test_reductions_of_dask_skip_what_is_missing(masked, name, reduce):
    got, expected = getattr(masked[name], reduce)().compute(), getattr(numpy_of(name), reduce)()
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "work",
    [
        lambda x: x + 1,
        lambda x: x > 3,
        lambda x: x[2:9],
        lambda x: x[::-2],
        lambda x: x[[1, 3, 5]],
        lambda x: x[x > 1],
        lambda x: x.astype("f8") / 2,
        lambda x: -(x * 2.0),
    ],
)
@pytest.mark.parametrize("name", MASKED)
def test_elements_and_slices_keep_masks(masked, name, work):
    got, expected = work(masked[name]).compute(), work(numpy_of(name))
    np.testing.assert_array_equal(np.ma.getmaskarray(got), np.ma.getmaskarray(expected))
    np.testing.assert_array_equal(got.compressed(), expected.compressed())


def test_more_of_dask_with_masks(masked):
    met, expected = masked["met"], numpy_of("met")
    assert met[0].compute() is np.ma.masked
    assert met[1].compute() == 1.5
    assert da.ma.filled(met, -1).compute().tolist() == expected.filled(-1).tolist()
    assert da.ma.getmaskarray(met).compute().tolist() == expected.mask.tolist()
    assert met.rechunk(4).sum().compute() == expected.sum()
    assert met.persist().max().compute() == 9.5
    assert plain((met / masked["run"]).compute()) == plain(expected / numpy_of("run"))
    assert np.isnan(np.asarray(met)[0]), "what knows no masks sees nan"
    assert len(pickle.dumps(met)) < 2_000
    ones = masked[masked.cut("ismissing(met)")]
    assert plain(ones["met"].compute()) == [None] * 5
    assert ones["met"].sum().compute() is np.ma.masked
    assert plain(ones["run"].compute()) == [MASKED["run"][i] for i, m in enumerate(MASKED["met"]) if m is None]


def test_a_missing_label_is_none_of_the_labels(folder):
    ds = mm.open(kinds.write(folder(), {"process": ["ttH", None, "é"]}, [2]))
    labels = ds["process"].compute()
    assert plain(labels) == ["ttH", None, "é"]
    assert np.asarray(labels).tolist() == ["ttH", "", "é"]
    assert plain((ds["process"] == "ttH").compute()) == [True, None, False]
    assert [ds[i]["process"] for i in range(3)] == ["ttH", None, "é"]
    empty = mm.create(folder(), fields=[Field.category("c", optional=(0,))])
    with empty as w:
        w.extend({"c": FieldData(np.zeros(0, "i4"))})
    assert mm.open(empty.path)["c"].compute().tolist() == []


# One value per row --------------------------------------------------------------------------------------------------


def reductions(row, present):
    """What each reduction gives of a row by the three-valued rule; None where it is missing."""
    if row is None or not present:
        return dict.fromkeys(("sum", "mean", "min", "max", "first", "last", "argmin", "argmax", "any", "all"))
    whole = None not in row
    some = whole and len(row) > 0
    true = [x for x in row if x is not None and x != 0]
    false = [x for x in row if x is not None and x == 0]
    return {
        "sum": float(sum(row)) if whole else None,
        "mean": sum(row) / len(row) if some else None,
        "min": min(row) if some else None,
        "max": max(row) if some else None,
        "first": row[0] if row else None,
        "last": row[-1] if row else None,
        "argmin": row.index(min(row)) if some else None,
        "argmax": row.index(max(row)) if some else None,
        "any": True if true else False if whole else None,
        "all": False if false else True if whole else None,
    }


PT = [[3.0, 1.0, 2.0], None, [], [None], [0.0, None], [7.0, None], [0.0], None]


@pytest.mark.parametrize("chunks", [1, 2, 8])
def test_reductions_of_optional_rows_are_three_valued(folder, chunks):
    ds = mm.open(kinds.write(folder(), {"pt": PT, "ok": [[], None, [True], *[[False]] * 5]}, [3]), chunks=chunks)
    expected = [reductions(row, True) for row in PT]
    for name in expected[0]:
        lazy = getattr(ds["pt"], name)()
        assert isinstance(lazy._meta, np.ma.MaskedArray)
        computed = lazy.compute()
        assert plain(computed) == [e[name] for e in expected], name
        assert computed.dtype == lazy.dtype
        assert plain(lazy[1:6].compute()) == [e[name] for e in expected][1:6]
    for name in ("mean", "min", "max", "first", "last", "argmin", "argmax"):
        filled = getattr(ds["pt"], name)(default=-5).compute()
        assert type(filled) is np.ndarray
        assert filled.tolist() == [-5 if e[name] is None else e[name] for e in expected]
    assert plain(ds["ok"].count().compute()) == [0, None, 1, 0, 0, 0, 0, 0]
    sel = ds[ds.cut("len(pt) == 1")]
    assert plain(sel["pt"].sum().compute()) == [None, 0.0]


def test_reductions_agree_with_cuts(folder):
    ds = mm.open(kinds.write(folder(), {"pt": PT}, [3]), chunks=2)
    sums = ds["pt"].sum()
    assert plain((sums > 1).compute()) == [True, None, False, None, None, None, False, None]
    assert ds.cut("sum(pt) > 1").mask.compute().tolist() == [True] + [False] * 7
    assert (~ds.cut("sum(pt) > 1")).mask.compute().tolist() == [False, False, True, False, False, False, True, False]


def test_reductions_of_fields_that_are_not_optional_are_as_before(folder):
    with mm.create(folder()) as w:
        w.extend({"r": [[1.0], []], "a`b": [[1, 2], [3]]})
    ds = mm.open(w.path)
    assert type(ds["r"].max().compute()) is np.ndarray
    assert np.isnan(ds["r"].mean().compute()).tolist() == [False, True]
    assert ds["r"].argmax().compute().tolist() == [0, -1]
    assert ds["a`b"].sum().compute().tolist() == [3, 3]
    with pytest.raises(mm.OptionError, match="default=-1"):
        ds["a`b"].max()


@pytest.mark.parametrize("name", ["words", "name", "deep", "points"])
def test_reductions_that_have_no_meaning_are_refused(folder, name):
    table = {"image": [None], "words": [None], "name": [None], "deep": [None], "points": [None]}
    ds = mm.open(kinds.write(folder(), table))
    with pytest.raises(mm.OptionError, match=r"is for numbers.*; \.compute\(\)"):
        ds[name].sum() if name in ("words", "name") else ds["points"].argmax()
    with pytest.raises(mm.OptionError, match="without shapes"):
        ds[name].shapes
    if name in ("deep", "words"):
        with pytest.raises(mm.OptionError, match="lists in lists"):
            ds[name].values


# Views, laziness and size -------------------------------------------------------------------------------------------


@pytest.fixture
def images(folder, monkeypatch):
    monkeypatch.setattr("mmdask.store.arrays.held.SMALL_NBYTES", -1)
    rng = np.random.default_rng(3)
    rows = [rng.integers(0, 255, (50 + i, 70), dtype="u1") for i in range(6)]
    table = {"image": [*rows[:3], None, *rows[3:]], "pt": [[1.0, None], None, [2.0], [], [3.0], [4.0], [5.0]]}
    table |= {"name": ["a", None, "c", "", "é", "f", "g"], "met": [1.0, None, *range(5)]}
    return mm.open(kinds.write(folder(), table, [5]), chunks=2, io="mmap"), table


def test_rows_are_views_of_the_store(images):
    ds, table = images
    for i, expected in enumerate(table["image"]):
        got = ds["image"][i]
        if expected is None:
            assert got is None
            assert ds[i]["image"] is None
            continue
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(got, expected)
        assert np.shares_memory(got, ds["image"][i])
        assert np.shares_memory(got, ds[i]["image"])
        assert not got.flags.writeable
    assert isinstance(ds["pt"][0], np.ma.MaskedArray)
    assert type(ds["pt"][2]) is np.ndarray
    assert np.shares_memory(ds["pt"][0].data, ds["pt"][0].data)
    assert ds["pt"][1] is None
    assert ds[0]["pt"].tolist() == [1.0, None]
    assert [ds["name"][i] for i in range(7)] == table["name"]


def test_awkward_arrays_share_the_memory_of_the_store(images):
    ds, table = images
    whole = ds[:2]["image"].compute(scheduler="sync")
    values = whole.layout.content.content.content.data
    assert np.shares_memory(values, ds["image"][0])
    np.testing.assert_array_equal(ak.to_numpy(whole[1]), table["image"][1])


def test_looking_reads_nothing(images, monkeypatch):
    ds, _ = images
    touched = []
    for module, names in ((reader, ("read_part", "take", "elements_at")), (marks, ("read_counts", "item_count"))):
        for name in names:
            monkeypatch.setattr(module, name, lambda *args, name=name: touched.append(name))
    monkeypatch.setattr(snapshot_module.Snapshot, "array", lambda *args: touched.append("array"))
    monkeypatch.setattr(snapshot_module.Snapshot, "read", lambda *args: touched.append("read"))

    def refuse(*_, **__):
        raise AssertionError("something was computed")

    with dask.config.set(scheduler=refuse):
        for name in ds:
            lazy = ds[name]
            repr(lazy), lazy._repr_html_(), ds[2:5][name], lazy[1:3], pickle.dumps(lazy)
        r, image = ds["pt"], ds["image"]
        r.counts, r.sum(), r.max(), r.valid, image.shapes, image.counts, image.valid, r.offsets
        ds["met"] + 1, ds["met"].sum(), ds.cut("ismissing(met) or any(pt > 3)")
        repr(ds), ds._repr_html_(), ds.batches(2)
    assert touched == []


def test_validity_and_shapes_read_no_items(images, monkeypatch):
    ds, table = images
    monkeypatch.setattr(reader, "read_part", None)
    monkeypatch.setattr(reader, "take", None)
    assert ds["image"].valid.compute().tolist() == [row is not None for row in table["image"]]
    assert ds["image"].shapes[2:].compute().tolist() == [[52, 70], [0, 0], [53, 70], [54, 70], [55, 70]]
    assert plain(ds["image"].counts.compute()) == counts(table["image"])
    assert plain(ds[1:6:2]["pt"].counts.compute()) == counts(table["pt"][1:6:2])
    assert ds[1:6:2]["name"].valid.compute().tolist() == [False, True, True]


def test_references_stay_small(images):
    ds, _ = images
    for thing in (ds, ds["image"], ds["pt"], ds[1:5]["name"], ds["met"], ds["image"].shapes, ds["pt"].valid):
        assert len(pickle.dumps(thing)) < 2_000
    assert plain(pickle.loads(pickle.dumps(ds["pt"].sum())).compute()) == plain(ds["pt"].sum().compute())


def test_iteration_over_wide_rows_reads_little_at_a_time(images, monkeypatch):
    ds, table = images
    pieces = []
    original = reader.read
    monkeypatch.setattr(reader, "read", lambda *args: (pieces.append(args[3] - args[2]), original(*args))[1])
    monkeypatch.setattr(collection, "_PIECE_NBYTES", 2 * ds._rows.row_nbytes)
    assert plain(list(ds["image"])) == plain(table["image"])
    assert max(pieces) == 2


def test_hostile_shapes_are_refused_and_not_built():
    field = Field.shaped("image", "u1", 3)

    def data(*shapes):
        return FieldData(np.empty(0, "u1"), (np.zeros(len(shapes) + 1, "i8"),), shapes=np.array(shapes, "i8"))

    for shape in ((1 << 62, 0, 5), (1 << 40, 1 << 40, 0), (0, 1 << 62, 1 << 62)):
        if shape[0]:
            with pytest.raises(mm.OptionError, match="too many empty lists"):
                layouts.to_awkward(field, data((2, 1, 0), shape))
    assert layouts.to_awkward(field, data((0, 1 << 62, 5), (2, 1, 0))).to_list() == [[], [[[]], [[]]]]
    assert next(layouts.rows_of(field, data((3, 0, 5)))).shape == (3, 0, 5)
    with pytest.raises(mm.CorruptStoreError, match="has 0 items and the shape"):
        next(layouts.rows_of(field, data((1 << 40, 1 << 40, 0))))


# Records ------------------------------------------------------------------------------------------------------------


def member(name, rows, **kwargs):
    field = Field.ragged(name, "f4", record=name.partition("_")[0], **kwargs)
    return field, kinds.pack(field, rows)


def records_store(path, *members, **others):
    fields = [f for f, _ in members] + [Field.dense(name, "f4") for name in others]
    with mm.create(path, fields=fields) as w:
        w.extend({**{f.name: d for f, d in members}, **others})
    return mm.open(path)


def test_members_of_a_record_are_together_again(folder):
    pt, eta = [[1.0, 2.0], [], [3.0]], [[4.0, 5.0], [], [6.0]]
    ds = records_store(
        folder(), member("jets_pt", pt), member("jets_eta", eta), member("hits_x", pt), met=np.arange(3.0, dtype="f4")
    )
    expected = [
        {"jets": [{"pt": 1, "eta": 4}, {"pt": 2, "eta": 5}], "hits": [{"x": 1}, {"x": 2}], "met": 0},
        {"jets": [], "hits": [], "met": 1},
        {"jets": [{"pt": 3, "eta": 6}], "hits": [{"x": 3}], "met": 2},
    ]
    assert ds.to_awkward().to_list() == expected
    assert str(ds.to_awkward("jets").type) == "3 * {jets: var * {pt: float32, eta: float32}}"
    assert ds[["jets", "met"]].fields == ("jets_pt", "jets_eta", "met")
    assert ds.batches(2, fields="jets").fields == ("jets_pt", "jets_eta")
    assert ds.to_awkward(["jets_eta"]).to_list()[0] == {"jets": [{"eta": 4}, {"eta": 5}]}
    with pytest.raises(
        mm.FieldNotFoundError, match=r"it is a record, of the fields jets_pt, jets_eta; ds\[\['jets'\]\]"
    ):
        ds["jets"]


def test_records_with_missing_rows_items_and_unequal_lists(folder):
    optional = {"optional": (0, 1)}
    ds = records_store(
        folder(),
        member("jets_pt", [[1.0, None], None, []], **optional),
        member("jets_eta", [[4.0, 5.0], None, []], **optional),
        member("track_x", [[1.0], [2.0], []]),
        member("track_y", [[1.0], [2.0, 3.0], []]),
        (Field.dense("track_n", "f4", record="track"), FieldData(np.arange(3, dtype="f4"))),
    )
    got = ds.to_awkward()
    assert got["jets"].to_list() == [[{"pt": 1, "eta": 4}, {"pt": None, "eta": 5}], None, []]
    assert got["track"].to_list() == [
        {"x": [1], "y": [1], "n": 0},
        {"x": [2], "y": [2, 3], "n": 1},
        {"x": [], "y": [], "n": 2},
    ]
    assert ds.to_awkward("track_x")["track"].to_list() == [{"x": [1]}, {"x": [2]}, {"x": []}]


def test_a_record_beside_a_field_of_its_name_stays_apart(folder):
    ds = records_store(folder(), member("jets_pt", [[1.0]]), jets=np.array([2.0], "f4"))
    assert ds.to_awkward().to_list() == [{"jets_pt": [1], "jets": 2}]
    assert ds[["jets"]].fields == ("jets",)


def test_members_that_are_no_lists_are_records_of_rows(folder):
    fields = [Field.dense("lep_pt", "f4", record="lep", optional=(0,)), Field.string("lep_name", record="lep")]
    with mm.create(folder(), fields=fields) as w:
        w.extend({f.name: kinds.pack(f, rows) for f, rows in zip(fields, ([1.0, None], ["e", "mu"]), strict=True)})
    assert mm.open(w.path).to_awkward().to_list() == [
        {"lep": {"pt": 1, "name": "e"}},
        {"lep": {"pt": None, "name": "mu"}},
    ]


# Looks --------------------------------------------------------------------------------------------------------------


def test_descriptions_say_what_may_be_missing(folder):
    ds = mm.open(kinds.write(folder(), {name: [] for name in FIELDS}))
    shown = repr(ds)
    for line in (
        "optional float32",
        "optional ragged float32 with optional items",
        "optional ragged int32 of 2 levels with optional lists and items",
        "shaped float32 (3,) of 2 axes",
        "shaped int16 of 1 axis",
        "optional category of 3",
        "optional string",
    ):
        assert line in shown
        assert line in ds._repr_html_()
    assert "optional shaped uint8 of 2 axes" in repr(ds["image"])
    assert "optional shaped uint8 of 2 axes" in ds["image"]._repr_html_()


def test_an_expression_is_shown(folder):
    with mm.create(folder(), fields=[Field.dense("ht", "f4", expression="sum(<jet_pt>)")]) as w:
        w.extend({"ht": np.zeros(1, "f4")})
    ds = mm.open(w.path)
    assert "computed as" in repr(ds)
    assert "sum(<jet_pt>)" in repr(ds)
    assert "sum(&lt;jet_pt&gt;)" in ds._repr_html_()
