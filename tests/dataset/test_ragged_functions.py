"""Functions of numpy on ragged fields, fields in other chunks, chunks by their numbers: against awkward and numpy."""

from __future__ import annotations

import fractions
import os
import subprocess
import sys

import awkward as ak
import dask
import numpy as np
import pytest

import mmdask as mm

N = 40
RNG = np.random.default_rng(8)
COUNTS = RNG.integers(0, 4, N)
ITEMS = int(COUNTS.sum())
PT = RNG.exponential(50, ITEMS).astype("f4")
ID = RNG.integers(-3, 6, ITEMS)
TIGHT = RNG.random(ITEMS) > 0.5
MET = RNG.exponential(40, N)


def in_lists(values):
    return ak.unflatten(values, COUNTS)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("functions") / "s.mm"
    data = {f"jet_{name}": in_lists(x) for name, x in {"pt": PT, "id": ID, "tight": TIGHT}.items()}
    mm.from_arrays({**data, "met": MET, "words": [["x", "y"][: i % 3] for i in range(N)]}, path)
    return path


@pytest.fixture
def ds(path):
    return mm.open(path, chunks=8)


def same(found, expected):
    """The items of a ragged result are those of numpy, to the dtype."""
    array = found.compute(scheduler="sync")
    assert array.layout.content.data.dtype == found.dtype == expected.dtype
    assert ak.num(array).to_list() == COUNTS.tolist()
    np.testing.assert_array_equal(ak.to_numpy(ak.flatten(array)), expected)


def test_functions_of_numpy_that_are_item_by_item(ds):
    pt, ids, tight, met = ds["jet_pt"], ds["jet_id"], ds["jet_tight"], ds["met"]
    repeated = np.repeat(MET, COUNTS)
    same(np.where(tight, pt, 0), np.where(TIGHT, PT, 0))
    same(np.where(tight, ids, pt), np.where(TIGHT, ID, PT))
    same(np.where(tight, pt, met), np.where(TIGHT, PT, repeated))
    same(np.where(met > 40, pt, -1), np.where(repeated > 40, PT, -1))
    same(np.clip(pt, 10, 20), np.clip(PT, 10, 20))
    same(np.clip(pt, None, met), np.clip(PT, None, repeated))
    same(np.clip(ids, min=0), np.clip(ID, 0, None))
    same(np.round(pt, 1), np.round(PT, 1))
    same(round(pt), np.round(PT))
    same(np.isclose(pt, float(PT[0]), rtol=0.2), np.isclose(PT, PT[0], rtol=0.2))
    same(np.isin(ids, [1, 5]), np.isin(ID, [1, 5]))
    with np.errstate(all="ignore"):
        same(np.nan_to_num(np.where(tight, pt, np.nan), nan=-1), np.where(TIGHT, PT, np.float32(-1)))
    same(pt.astype("i2"), PT.astype("i2"))
    same(ids << 2, ID << 2)
    same((1 << abs(ids)) >> 1, (1 << abs(ID)) >> 1)


def test_where_is_missing_where_what_it_chooses_is(tmp_path):
    fields = [
        mm.Field.ragged("c", "?", optional=(1,)),
        mm.Field.ragged("x", "i4", optional=(0, 1)),
        mm.Field.ragged("y", "i4"),
        mm.Field.dense("z", "i4", optional=(0,)),
    ]
    with mm.create(tmp_path / "s.mm", fields=fields) as w:
        w.append({"c": [True, False, None], "x": [None, None, 3], "y": [4, 5, 6], "z": 7})
        w.append({"c": [True, False], "x": [1, 2], "y": [8, 9], "z": None})
        w.append({"c": [True], "x": None, "y": [3], "z": 1})
    ds = mm.open(tmp_path / "s.mm", chunks=1)
    assert np.where(ds["c"], ds["x"], ds["y"]).to_list() == [[None, 5, None], [1, 9], None]
    assert np.where(ds["c"], ds["y"], ds["x"]).to_list() == [[4, None, None], [8, 2], None]
    assert np.where(ds["c"], ds["y"], ds["z"]).to_list() == [[4, 7, None], [8, None], [3]]
    assert np.where(ds["c"], 1, ds["y"]).to_list() == [[1, 5, None], [1, 9], [1]]
    assert np.clip(ds["x"], 2, 3).to_list() == [[None, None, 3], [2, 2], None]


def test_what_has_other_chunks_comes_into_those_of_the_first(path, ds):
    other = mm.open(path, chunks=16)
    mask = other["jet_pt"] > other["met"]  # has the chunks of a dask array
    chosen = np.repeat(MET, COUNTS) < PT
    expected = in_lists(PT)[in_lists(chosen)]
    assert ak.array_equal(ds["jet_pt"][mask].compute(), expected)
    assert ak.array_equal(ds.zip("jet")[mask].pt.compute(), expected)
    assert ds["jet_pt"][mask].chunks == ds["jet_pt"].chunks
    held = mask.persist(scheduler="sync")
    with pytest.raises(mm.errors.OptionError, match="computed in other chunks"):
        ds["jet_pt"][held]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda ds: np.where(ds["jet_tight"], ds["words"], ds["jet_pt"]), "where of 'words': text is compared"),
        (lambda ds: ds["words"].astype("f4"), "astype of 'words': text is compared"),
        (lambda ds: np.where(ds["jet_tight"]), "numpy.where of ragged fields: missing 2"),
        (lambda ds: np.clip(ds["jet_pt"], 1, 2, out=ds["jet_pt"]), "numpy.clip of ragged fields: got an unexpected"),
        (lambda ds: np.sort(ds["jet_pt"]), "numpy.sort is not for ragged fields"),
        (lambda ds: ak.sum(ds["jet_pt"], axis=1), r"ak.sum takes arrays in memory, .* .map\(lambda x: ak.sum\(x"),
        (lambda ds: ak.zip({"a": ds["jet_pt"]}), "ak.zip takes arrays in memory"),
        (lambda ds: ak.num(ds.zip("jet")), "ak.num takes arrays in memory"),
        (lambda ds: 3 in ds["jet_id"], r"\(x == 3\).any\(\), row by row"),
        (lambda ds: ds["jet_pt"] + fractions.Fraction(1, 2), "combines with numbers, .* got fractions.Fraction"),
        (lambda ds: ds["jet_pt"] << 1, "left_shift of ragged float32, 1"),
        (lambda ds: ds["jet_pt"].astype(object), "field 'astype': dtype object cannot be stored"),
        (lambda ds: ds["jet_pt"].blocks[5], "no chunk 5: there are 5"),
        (lambda ds: ds["jet_pt"].blocks[::2], "a slice with step 1"),
        (lambda ds: ds.zip("jet")[40], "no row 40: there are 40"),
    ],
)
def test_mistakes(ds, call, message):
    with pytest.raises(mm.errors.MmdaskError, match=message):
        call(ds)


def test_chunks_by_their_numbers(ds):
    pt, jets = in_lists(PT), ds.zip("jet")
    for x in (ds["jet_pt"] * 1, ds["jet_pt"], ds["jet_pt"].persist(scheduler="sync")):
        assert len(x.blocks) == 5
        assert ak.array_equal(x.blocks[1].compute(), pt[8:16])
        assert ak.array_equal(x.blocks[-2:].compute(), pt[24:])
        assert len(x.blocks[3:1]) == 0
        pieces = dask.compute(*x.to_delayed(), scheduler="sync")
        assert ak.array_equal(ak.concatenate(pieces), pt)
    assert jets.blocks[2].pt.to_list() == pt[16:24].to_list()
    [first, *_] = dask.compute(*jets.to_delayed(), scheduler="sync")
    assert first.id.to_list() == in_lists(ID)[:8].to_list()


def test_rows_of_records(ds):
    jets = ds.zip("jet")
    rows = list(jets[5:20])
    assert [row.pt.to_list() for row in rows] == in_lists(PT)[5:20].to_list()
    assert jets[7].id.to_list() == jets[-33].id.to_list() == in_lists(ID)[7].to_list()


def test_tokens_are_those_of_other_processes(path, ds):
    code = f"""
import numpy as np, mmdask as mm
ds = mm.open({str(path)!r}, chunks=8)
x = np.where(ds["jet_tight"], ds["jet_pt"], 0).astype("f8")[ds["jet_pt"] > 3]
print(x.__dask_keys__()[0][0], x[:, :2].sum().name)
"""
    environment = {**os.environ, "PYTHONHASHSEED": "3"}
    shown = subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True, text=True)
    x = np.where(ds["jet_tight"], ds["jet_pt"], 0).astype("f8")[ds["jet_pt"] > 3]
    assert shown.stdout.split() == [x.__dask_keys__()[0][0], x[:, :2].sum().name]
