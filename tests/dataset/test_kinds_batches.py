"""Batches of every kind of field, and kept cuts and splits where values are missing."""

from __future__ import annotations

import itertools
import pickle

import kinds
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kinds import FIELDS, of, plain

import mmdask as mm
from mmdask.batches.loading import budget
from mmdask.rows.cuts import masks
from mmdask.rows.rows import RESOLVED
from mmdask.schema import Field, FieldData

try:
    import torch
except ImportError:
    torch = None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    numbers, above = itertools.count(), tmp_path_factory.mktemp("batches")
    return lambda: above / f"{next(numbers)}.mm"


def lists(packed, valid=None):
    """A `Packed` as nested lists, with None where something is missing."""
    items = lists(packed.values) if isinstance(packed.values, mm.Packed) else plain(packed.values)
    if packed.valid is not None:
        items = [x if ok else None for x, ok in zip(items, packed.valid.tolist(), strict=True)]
    rows = [items[a:b] for a, b in itertools.pairwise(packed.offsets.tolist())]
    return rows if valid is None else [row if ok else None for row, ok in zip(rows, valid.tolist(), strict=True)]


def rows_of(field, batch):
    """The entries of a field as rows."""
    value, valid = batch[field.name], batch.get(f"{field.name}_valid")
    assert (valid is not None) == (0 in field.optional)
    if isinstance(value, mm.Packed):
        return lists(value, valid)
    if field.kind == "category":
        value = [None if code < 0 else field.labels[code] for code in value.tolist()]
    rows = plain(value)
    return rows if valid is None else [row if ok else None for row, ok in zip(rows, valid.tolist(), strict=True)]


@pytest.mark.parametrize("io", ["mmap", "pread"])
@settings(max_examples=10)
@given(data=st.data())
def test_batches_hold_every_row(folder, io, data):
    names = ["met", "run", "flag", "when", "tag", "p3", "process", "pt", "ids", "points", "deep"]
    table = data.draw(kinds.tables([*names, "name", "words", "lines", "image", "colour", "wave1"]))
    path = kinds.write(folder(), table, data.draw(st.lists(st.integers(0, 8), max_size=2)))
    ds = mm.open(path, io=io)
    shuffle = data.draw(st.sampled_from([True, False, "exact"]))
    seen = []
    for batch in ds.batches(data.draw(st.integers(1, 9)), shuffle=shuffle, seed=3):
        seen += batch.rows.tolist()
        for name, rows in table.items():
            expected = [of(FIELDS[name], rows)[i] for i in batch.rows]
            assert rows_of(FIELDS[name], batch) == expected, name
            valid = batch.get(f"{name}_valid")
            if valid is not None:
                assert valid.dtype == np.bool_
                assert valid.tolist() == [rows[i] is not None for i in batch.rows]
    assert sorted(seen) == list(range(len(table["met"])))


MISSING = {
    "met": [1.5, None, 2.5],
    "run": [3, None, 4],
    "flag": [True, None, False],
    "when": [np.datetime64(1, "s"), None, np.datetime64(2, "s")],
    "tag": [b"ab", None, b""],
    "process": ["é", None, "ttH"],
    "name": ["a", None, ""],
    "pt": [[1.0, None, 3.0], None, []],
    "deep": [[[1, None], None, []], None, [[2]]],
    "words": [["a", None], None, []],
    "image": [np.arange(6, dtype="u1").reshape(2, 3), None, np.ones((1, 1), "u1")],
}


@pytest.fixture(scope="module")
def ds(folder):
    return mm.open(kinds.write(folder(), MISSING, [1]))


def test_what_stands_where_a_value_is_missing(ds):
    batch = ds.batches(3, shuffle=False)[0]
    assert np.isnan(batch["met"][1])
    assert np.isnat(batch["when"][1])
    assert (batch["run"][1], batch["flag"][1], batch["tag"][1], batch["process"][1]) == (0, False, b"", -1)
    assert batch["process"].tolist() == [2, -1, 0]
    assert batch["name"] == ["a", None, ""]
    assert batch["words"] == [["a", None], None, []]
    assert [None if x is None else x.shape for x in batch["image"]] == [(2, 3), None, (1, 1)]
    for name in MISSING:
        assert batch[f"{name}_valid"].tolist() == [True, False, True]
    assert batch["pt"].offsets.tolist() == [0, 3, 3, 3]
    assert batch["pt"].valid.tolist() == [True, False, True]
    deep = batch["deep"]
    assert deep.valid.tolist() == [True, False, True, True]
    assert deep.values.valid.tolist() == [True, False, True]
    assert deep.values.offsets.tolist() == [0, 2, 2, 2, 3]


def test_validity_is_there_also_where_nothing_is_missing(ds):
    batch = ds.batches(1, shuffle=False)[2]
    for name in MISSING:
        assert batch[f"{name}_valid"].tolist() == [True]
    assert batch["pt"].valid.tolist() == []
    assert mm.Packed(1, 2).valid is None


def test_arrays_of_shaped_rows_are_views_of_one_buffer_of_their_batch(ds):
    loader = ds.batches(1, fields="image", shuffle=False)
    batches = list(loader)
    assert [b["image"][0] is None for b in batches] == [False, True, False]
    a, b = batches[0]["image"][0], batches[2]["image"][0]
    assert not np.shares_memory(a, b)
    together = ds.batches(3, fields="image", shuffle=False)[0]["image"]
    assert together[0].base is not None
    assert together[0].flags.writeable


@pytest.mark.parametrize(("side", "strict"), [("right", False), ("left", False), ("right", True)])
def test_padding_counts_missing_items_as_padding(ds, side, strict):
    step = mm.pad(4, value=-1, side=side, strict=strict)
    batch = ds.batches(3, fields="pt", shuffle=False, collate={"pt": step})[0]
    rows = [[1.0, -1.0, 3.0], [], []]
    real = [[True, False, True], [], []]
    fill = (lambda r, x: r + [x] * (4 - len(r))) if side == "right" else (lambda r, x: [x] * (4 - len(r)) + r)
    assert batch["pt"].tolist() == [fill(r, -1.0) for r in rows]
    assert batch["pt_mask"].tolist() == [fill(r, False) for r in real]
    assert batch["pt_valid"].tolist() == [True, False, True]
    assert list(batch) == ["pt", "pt_mask", "pt_valid"]
    longest = ds.batches(3, fields="pt", shuffle=False, collate={"pt": mm.pad("max", value=np.nan, mask=False)})[0]
    assert longest["pt"].shape == (3, 3)
    assert np.isnan(longest["pt"]).tolist() == [[False, True, False], [True] * 3, [True] * 3]


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_of_shaped_rows(ds, side):
    batch = ds.batches(3, shuffle=False, fields="image", collate={"image": mm.pad((3, 2), value=9, side=side)})[0]
    values, mask = np.full((3, 3, 2), 9, "u1"), np.zeros((3, 3, 2), bool)
    first, last = (slice(0, 2), slice(0, 1)) if side == "right" else (slice(1, 3), slice(2, 3))
    values[0, first], mask[0, first] = [[0, 1], [3, 4]], True
    column = 0 if side == "right" else 1
    values[2, last, column], mask[2, last, column] = 1, True
    np.testing.assert_array_equal(batch["image"], values)
    np.testing.assert_array_equal(batch["image_mask"], mask)
    assert batch["image"].dtype == np.uint8
    assert batch["image_valid"].tolist() == [True, False, True]
    assert list(ds.batches(3, fields="image", collate={"image": mm.pad((1, 1), mask=False)})[0]) == [
        "image",
        "image_valid",
    ]


def test_padding_of_shaped_rows_with_items_of_a_shape(folder):
    rows = [np.ones((1, 2, 3), "f4"), np.zeros((0, 4, 3), "f4")]
    ds = mm.open(kinds.write(folder(), {"colour": rows}))
    batch = ds.batches(2, shuffle=False, collate={"colour": mm.pad((2, 3), value=np.nan)})[0]
    assert batch["colour"].shape == (2, 2, 3, 3)
    assert batch["colour_mask"].sum() == 2
    assert np.isfinite(batch["colour"]).sum() == 6
    with pytest.raises(mm.OptionError, match=r"row 1 has the shape \(0, 4\), more than pad\(\(2, 1\), strict=True\)"):
        ds.batches(2, shuffle=False, collate={"colour": mm.pad((2, 1), strict=True)})[0]
    for rank, world_size in ((0, 1), (1, 2)):
        step = {"colour": mm.pad((2, 3), strict=True)}
        loader = ds.batches(2, shuffle=False, collate=step, rank=rank, world_size=world_size)
        with pytest.raises(mm.OptionError, match=r"row 1 has the shape \(0, 4\)"):
            loader[0]


@pytest.mark.parametrize(
    ("name", "step", "words"),
    [
        ("image", mm.pad(3), r"say the length of each axis, as in mm\.pad\(\(64, 64\)\)"),
        ("image", mm.pad((3,)), r"'image' is optional shaped .* say the length of each axis"),
        ("image", mm.packed(), r"packed\(\) is for ragged fields"),
        ("image", mm.pad((3, 3), value=1000), "cannot be held by uint8"),
        ("pt", mm.pad((3, 3)), "'pt' is optional ragged"),
        ("words", mm.pad(3), r"'words' is optional ragged string .* and mm.pad\(3\) does not fit"),
    ],
)
def test_steps_that_do_not_fit(ds, name, step, words):
    with pytest.raises(mm.OptionError, match=words):
        ds.batches(3, collate={name: step})


@pytest.mark.parametrize("n", [(1, "min"), (-1, 2), (1.5,)])
def test_lengths_of_axes_that_are_none(n):
    with pytest.raises(mm.OptionError, match="pad"):
        mm.pad(n)


def test_names_of_validity_may_not_hide_a_field(folder):
    fields = [Field.dense("met", "f4", optional=(0,)), Field.dense("met_valid", "f4")]
    with mm.create(folder(), fields=fields) as w:
        w.extend({"met": np.zeros(1, "f4"), "met_valid": np.zeros(1, "f4")})
    ds = mm.open(w.path)
    with pytest.raises(mm.OptionError, match=r"'met' and 'met_valid' both make batch\['met_valid'\]; leave one out$"):
        ds.batches(1)
    assert list(ds.batches(1, fields="met")[0]) == ["met", "met_valid"]


def test_wide_lists_bound_what_is_read_together(folder, monkeypatch):
    """Text and arrays of differing shape count as their bytes."""
    n = 40
    rows = [np.zeros((30, 30), "u1") for _ in range(n)]
    ds = mm.open(kinds.write(folder(), {"image": rows, "name": ["x" * 900] * n}))
    monkeypatch.setattr(budget, "RUN_NBYTES", 4_000)
    for fields in ("image", "name"):
        taken = []
        loader = ds.batches(2, fields=fields, shuffle=False)
        original = loader.run
        monkeypatch.setattr(loader, "run", lambda *args, f=original, t=taken: (t.append(args[2]), f(*args))[1])
        assert len(list(loader)) == 20
        assert max(taken) == 2


def test_loaders_of_optional_fields_pickle_and_ranks_join(ds):
    whole = ds.batches(3, shuffle=False)[0]
    halves = [
        pickle.loads(pickle.dumps(ds.batches(3, shuffle=False, rank=r, world_size=2, last="keep")))[0] for r in (0, 1)
    ]
    for name in MISSING:
        joined = [x for half in halves for x in half[f"{name}_valid"].tolist()]
        assert joined == whole[f"{name}_valid"].tolist()
    assert [x for half in halves for x in half["name"]] == whole["name"]


@pytest.mark.skipif(torch is None, reason="torch is not installed")
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
@pytest.mark.parametrize("workers", [None, 0, 2])
def test_tensors_of_every_kind(ds, workers):
    from torch.utils.data import DataLoader

    plain_batch = ds.batches(3, shuffle=False)[0]
    batches = ds.batches(3, shuffle=False).to_torch()
    loader = batches if workers is None else DataLoader(batches, batch_size=None, num_workers=workers)
    [batch] = list(loader)
    for name in ("met", "run", "flag", "process"):
        np.testing.assert_array_equal(batch[name].numpy(), plain_batch[name])
    assert batch["when"].tolist() == plain_batch["when"].view("i8").tolist()
    for name in MISSING:
        assert batch[f"{name}_valid"].dtype == torch.bool
        assert batch[f"{name}_valid"].tolist() == [True, False, True]
    assert isinstance(batch["pt"], mm.Packed)
    assert batch["pt"].valid.tolist() == [True, False, True]
    assert batch["deep"].values.valid.tolist() == [True, False, True]
    assert isinstance(batch["image"][0], torch.Tensor)
    assert batch["image"][0].tolist() == plain_batch["image"][0].tolist()
    assert batch["image"][1] is None
    assert batch["name"] == ["a", None, ""]
    assert batch["words"] == [["a", None], None, []]


# Cuts and splits ----------------------------------------------------------------------------------------------------

CUTS = {
    "met > 2": lambda r: None if r["met"] is None else r["met"] > 2,
    "run == 4 or name == 'a'": lambda r: either(
        None if r["run"] is None else r["run"] == 4, None if r["name"] is None else r["name"] == "a"
    ),
    "process in ('é', 'ttbb')": lambda r: None if r["process"] is None else r["process"] in ("é", "ttbb"),
    "len(pt) > 1": lambda r: None if r["pt"] is None else len(r["pt"]) > 1,
    "any(pt > 2)": lambda r: None if r["pt"] is None else any_of(r["pt"]),
    "ismissing(when)": lambda r: r["when"] is None,
    "ismissing(image) and not ismissing(met)": lambda r: r["image"] is None and r["met"] is not None,
}


def either(a, b):
    return True if a or b else None if a is None or b is None else False


def any_of(row):
    found = [None if x is None else x > 2 for x in row]
    return True if True in found else None if None in found else False


@settings(max_examples=8)
@given(data=st.data())
def test_kept_cuts_are_three_valued(folder, data):
    table = data.draw(kinds.tables(["met", "run", "name", "process", "pt", "when", "image"]))
    n = len(table["met"])
    path = kinds.write(folder(), table, data.draw(st.lists(st.integers(0, 8), max_size=2)))
    rows = [{name: table[name][i] for name in table} for i in range(n)]
    for text, meaning in CUTS.items():
        expected = [meaning(row) for row in rows]
        for kept in (False, True, True):
            RESOLVED.clear()
            masks.LOADED.clear()
            ds = mm.open(path, chunks=2)
            cut, inverse = ds.cut(text), ~ds.cut(text)
            if kept:
                assert cut.count() == expected.count(True)
                assert inverse.keep().count() == expected.count(False)
                assert ds[cut]["met"].shape == (expected.count(True),)
            assert cut.mask.compute(scheduler="sync").tolist() == [e is True for e in expected]
            assert inverse.mask.compute(scheduler="sync").tolist() == [e is False for e in expected]


def test_a_field_that_becomes_optional_keeps_its_cuts(folder):
    with mm.create(folder()) as w:
        w.extend({"x": np.arange(4.0)})
    cut = mm.open(w.path).cut("x > 1")
    assert cut.count() == 2
    mm.annotate(w.path, fields={"x": {"optional": (0,)}})
    with mm.append(w.path) as more:
        more.extend({"x": FieldData(np.array([np.nan, 7.0]), valid=(np.array([False, True]),))})
    ds = mm.open(w.path)
    assert plain(ds["x"].compute()) == [0, 1, 2, 3, None, 7]
    assert ds[cut]["x"].compute().tolist() == [2, 3, 7], "of the schema before"
    assert ds[ds.cut("x > 1")]["x"].compute().tolist() == [2, 3, 7]
    assert ds[~cut]["x"].compute().tolist() == [0, 1]


def test_rows_without_a_key_are_not_split_by_it(folder):
    table = {"run": [1, None, 3, 3, 5], "name": ["a", "b", None, "b", "a"]}
    ds = mm.open(kinds.write(folder(), table, [2]))
    for by in ("run", "name"):
        parts = ds.split({"a": 0.5, "b": 0.5}, by=by)
        with pytest.raises(mm.OptionError, match=rf"'{by}' is missing .*'not ismissing\({by}\)'"):
            len(parts["a"])
        whole = ds[ds.cut(f"not ismissing({by})")].split({"a": 0.5, "b": 0.5}, by=by, seed=1)
        assert sum(map(len, whole.values())) == 4
        found = [set(plain(part[by].compute())) for part in whole.values()]
        assert not found[0] & found[1]
    assert sum(map(len, ds.split({"a": 0.5, "b": 0.5}).values())) == 5
