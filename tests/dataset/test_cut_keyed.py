"""Cuts from Python, kept under a key."""

from __future__ import annotations

import pickle
import re

import awkward as ak
import dask
import dask.array as da
import numpy as np
import pytest

import mmdask as mm
import mmdask.testing as mt
from mmdask.rows.cuts import masks
from mmdask.rows.rows import RESOLVED

N = 300
MET = np.arange(N) % 100
OPTIONAL = np.ma.MaskedArray(np.arange(N) % 10, mask=np.arange(N) % 3 == 0)
JETS = ak.Array([[float(i % 7), float(i % 5)][: i % 3] for i in range(N)])
WANTED = (MET > 30) & (np.asarray(ak.sum(JETS, axis=1)) > 3)


def forget():
    RESOLVED.clear()
    masks.LOADED.clear()


@pytest.fixture
def path(tmp_path):
    parts = [slice(0, 100), slice(100, 130), slice(130, N)]
    store = tmp_path / "k.mm"
    mm.from_arrays({"met": MET[parts[0]], "opt": OPTIONAL[parts[0]], "jets": JETS[parts[0]]}, store)
    for p in parts[1:]:
        with mm.append(store) as w:
            w.extend({"met": MET[p], "opt": OPTIONAL[p], "jets": JETS[p]})
    forget()
    return store


def hard(block):
    return (block["met"] > 30) & (ak.sum(block["jets"], axis=1) > 3)


def optional(block):
    return block["opt"] > 4


def rows_of(ds, cut):
    return ds[cut]._rows.numbers(0, len(ds[cut])).tolist()


def test_a_function_gets_blocks_of_its_fields_and_is_called_once(path):
    ds = mm.open(path)
    calls = []

    def cut(block):
        calls.append({name: len(values) for name, values in block.items()})
        assert isinstance(block["met"], np.ndarray)
        assert isinstance(block["jets"], ak.Array)
        return hard(block)

    made = ds.cut(cut, key="hard", fields=["met", "jets"])
    assert not calls
    assert rows_of(ds, made) == np.flatnonzero(WANTED).tolist()
    assert sorted(calls, key=lambda c: c["met"]) == [{"jets": n, "met": n} for n in (30, 100, 170)]
    assert made.expression == 'kept("hard", jets, met)'
    assert made.fields == ("jets", "met")
    forget()
    again = mm.open(path).cut(cut, key="hard", fields=["met", "jets"])
    assert again.count() == WANTED.sum()
    assert len(calls) == 3
    np.testing.assert_array_equal(again.mask.compute(), WANTED)


def test_a_dask_array_is_kept_per_part(path):
    ds = mm.open(path)
    mask = ds["met"] > 30
    made = ds.cut(mask.rechunk(77), key="muon-v2")
    with mt.max_computes(0):
        assert made.expression == 'kept("muon-v2")'
        repr(made)
    assert made.count() == (MET > 30).sum()
    forget()
    with mt.count_reads() as reads:
        with pytest.warns(UserWarning, match="'muon-v2' stood for another dask array"):
            again = mm.open(path).cut(da.zeros(N, dtype=bool), key="muon-v2")
        np.testing.assert_array_equal(again.mask.compute(), MET > 30)
    assert not reads.n_rows, "the same key is the same cut"
    assert len(list((path / "cache").rglob("*.mask"))) == 3


@pytest.mark.parametrize("make", ["function", "array"])
def test_masked_results_are_missing(path, make):
    ds = mm.open(path)
    cut = ds.cut(optional, key="opt", fields="opt") if make == "function" else ds.cut(ds["opt"] > 4, key="opt")
    there = ~np.ma.getmaskarray(OPTIONAL)
    true = OPTIONAL.data > 4
    assert rows_of(ds, cut) == np.flatnonzero(true & there).tolist()
    assert rows_of(ds, ~cut) == np.flatnonzero(~true & there).tolist()
    assert rows_of(ds, ~(cut & ds.cut("met > 30"))) == np.flatnonzero((~true & there) | (MET <= 30)).tolist()


def test_it_combines_with_cuts_that_are_text(path):
    ds = mm.open(path)
    cut = ds.cut(hard, key="hard", fields=["met", "jets"])
    text = ds.cut("met < 60")
    for combined, expected in (
        (cut & text, WANTED & (MET < 60)),
        (cut | text, WANTED | (MET < 60)),
        (~cut & text, ~WANTED & (MET < 60)),
        (~(cut | text), ~(WANTED | (MET < 60))),
    ):
        forget()
        assert rows_of(ds, combined) == np.flatnonzero(expected).tolist()
        np.testing.assert_array_equal(combined.mask.compute(), expected)
        assert combined.count() == expected.sum()


def test_everything_that_takes_a_cut_takes_it(path, tmp_path):
    ds = mm.open(path)
    cut = ds.cut(hard, key="hard", fields=["met", "jets"])
    flow = ds.cutflow(["met < 60", cut])
    assert flow.cumulative.rows.tolist() == [N, (MET < 60).sum(), ((MET < 60) & WANTED).sum()]
    assert flow.names[1] == 'kept("hard", jets, met)'
    sel = ds[cut]
    assert sel._rows.cuts is None, "it is not known to be of labels alone"
    np.testing.assert_array_equal(sel["met"].compute(), MET[WANTED])
    got = np.concatenate([b["met"] for b in sel.batches(16, shuffle=False, fields="met")])
    np.testing.assert_array_equal(got, MET[WANTED])
    parts = sel.split({"a": 0.5, "b": 0.5})
    assert len(parts["a"]) + len(parts["b"]) == WANTED.sum()
    np.testing.assert_array_equal(sel.save(tmp_path / "skim.mm")["met"].compute(), MET[WANTED])
    np.testing.assert_array_equal(sel[3:20:2]["met"].compute(), MET[WANTED][3:20:2])
    assert [c.expression for c in ds.cuts if "kept" in c.expression]


def test_appended_rows_are_computed_with_the_function(path):
    ds = mm.open(path)
    seen = []

    def cut(block):
        seen.append(len(block["met"]))
        return block["met"] > 30

    assert ds.cut(cut, key="met", fields="met").count() == (MET > 30).sum()
    with mm.append(path) as w:
        w.extend({"met": [99, 1], "opt": [1, 2], "jets": [[], []]})
    sel = ds[ds.cut(cut, key="met", fields="met")].refresh()
    assert len(sel) == (MET > 30).sum() + 1
    assert sorted(seen) == [2, 30, 100, 170]
    mm.assign(path, {"opt": mm.open(path)["opt"] * 2}, replace=True)
    assert len(sel.refresh()) == len(sel)
    assert len(seen) == 4, "another field changed"
    mm.assign(path, {"met": mm.open(path)["met"] * 0}, replace=True)
    assert len(sel.refresh()) == 0
    assert sum(seen[4:]) == N + 2


def test_a_dask_array_is_about_the_rows_that_there_were(path):
    ds = mm.open(path)
    cut = ds.cut(da.from_array(np.arange(len(ds)) < 5), key="first")
    assert cut.count() == 5
    mm.assign(path, fresh=np.arange(len(ds)), progress=False)
    assert len(ds[cut].refresh()) == 5, "other fields, the same rows"
    mm.compact(path, progress=False)
    with pytest.raises(mm.OptionError, match="rows 0 to .* were written anew since"):
        len(ds[cut].refresh())
    assert cut.count() == 5


def test_a_dask_array_has_to_cover_appended_rows(path):
    ds = mm.open(path)
    cut = ds.cut(ds["met"] > 30, key="met")
    assert cut.count() == (MET > 30).sum()
    with mm.append(path) as w:
        w.extend({"met": [99, 1], "opt": [1, 2], "jets": [[], []]})
    with pytest.raises(mm.OptionError, match="appended"):
        len(ds[cut].refresh())
    new = mm.open(path)
    with pytest.raises(mm.OptionError, match="300 entries, and the store 302 rows"):
        new.cut(ds["met"] > 30, key="met")
    with mt.count_reads() as reads:
        assert new.cut(new["met"] > 30, key="met").count() == (MET > 30).sum() + 1
    assert reads.rows == {"met": 2}


def test_it_pickles_by_reference_once_it_is_kept(path):
    ds = mm.open(path)
    cut = ds.cut(lambda block: hard(block), key="hard", fields=["met", "jets"])
    with pytest.raises(mm.OptionError, match=r"not kept for rows 0 to 99.*keep\(\)"):
        pickle.dumps(ds[cut])
    cut.keep()
    data = pickle.dumps(ds[cut])
    assert len(data) < 2000
    forget()
    with mt.max_computes(0), mt.count_reads() as reads:
        again = pickle.loads(data)
        assert len(again) == WANTED.sum()
        assert rows_of(again, slice(None)) == np.flatnonzero(WANTED).tolist()
    assert reads.n_rows == 0
    cleared = pickle.loads(data)
    ds.cuts.clear("hard")
    with pytest.raises(mm.OptionError, match="not kept"):
        len(cleared)


def test_clearing_a_key_renews_it(path):
    ds = mm.open(path)
    assert ds.cut(lambda b: b["met"] > 30, key="k", fields="met").count() == (MET > 30).sum()
    with pytest.warns(UserWarning, match=r"'k' stood for another function before.*ds.cuts.clear\('k'\)"):
        combined = ds.cut(lambda b: b["met"] > 90, key="k", fields="met") & ds.cut("met < 95")
    assert combined.count() == ((MET > 30) & (MET < 95)).sum(), "what is kept under the key"
    ds.cuts.clear("k")
    assert combined.count() == ((MET > 90) & (MET < 95)).sum()


def test_another_function_under_a_key_that_is_kept_is_pointed_out(path):
    """Warnings are errors here, so what does not expect one sees that there is none."""
    ds = mm.open(path)

    def above(x):
        return lambda block: block["met"] > x

    ds.cut(above(10), key="k", fields="met")
    ds.cut(above(30), key="k", fields="met").keep()  # the first was never computed
    ds.cut(above(30), key="k", fields="met")  # a cell of a notebook, run again
    for other in (above(40), lambda block: block["met"] >= 30, lambda block: block["met"] > 31):
        with pytest.warns(UserWarning, match="'k' stood for another function") as caught:
            assert ds.cut(other, key="k", fields="met").count() == (MET > 30).sum()
        assert [w.filename for w in caught] == [__file__], "it points at the line of the user"
    ds.cut(above(40), key="k", fields=["met", "opt"])  # its fields are part of what it is
    ds.cuts.clear("k")
    assert ds.cut(above(40), key="k", fields="met").count() == (MET > 40).sum()


def test_another_array_under_a_key_that_is_kept_is_pointed_out(path):
    ds = mm.open(path)
    ds.cut(ds["met"] > 30, key="k").keep()
    assert ds.cut(ds["met"] > 30, key="k").count() == (MET > 30).sum()
    with pytest.warns(UserWarning, match="'k' stood for another dask array"):
        ds.cut(ds["met"] > 40, key="k")
    with mm.append(path) as w:
        w.extend({"met": [99, 1], "opt": [1, 2], "jets": [[], []]})
    new = ds.refresh()
    assert new.cut(new["met"] > 30, key="k").count() == (MET > 30).sum() + 1


@pytest.mark.parametrize("scheduler", ["sync", "threads", "processes"])
@pytest.mark.parametrize("make", ["function", "array"])
def test_schedulers_agree(path, scheduler, make):
    ds = mm.open(path)
    with dask.config.set(scheduler=scheduler):
        if make == "function":
            cut = ds.cut(lambda b: b["met"] > 30, key="k", fields="met")
        else:
            cut = ds.cut((ds["met"] > 30).rechunk(64), key="k")
        assert cut.count() == (MET > 30).sum()
        np.testing.assert_array_equal((~cut).mask.compute(), MET <= 30)


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda ds: ds.cut(hard), "key='muon-v2'"),
        (lambda ds: ds.cut(ds["met"] > 3), "needs a key"),
        (lambda ds: ds.cut(hard, key="k"), "fields="),
        (lambda ds: ds.cut(hard, key="", fields="met"), "key is a text"),
        (lambda ds: ds.cut(hard, key=3, fields="met"), "key is a text"),
        (lambda ds: ds.cut(hard, key="a\nb", fields="met"), "key is a text"),
        (lambda ds: ds.cut(hard, key="k" * 201, fields="met"), "key is a text"),
        (lambda ds: ds.cut(hard, key="k", fields="mett"), "met"),
        (lambda ds: ds.cut(hard, key="k", fields=[]), "fields"),
        (lambda ds: ds.assign(x="met * 2").cut(hard, key="k", fields="x"), "computed when it is read"),
        (lambda ds: ds.cut(ds["met"] > 3, key="k", fields="met"), "fields= is for functions"),
        (lambda ds: ds.cut(ds["met"], key="k"), "one boolean per row"),
        (lambda ds: ds.cut(da.zeros((N, 2), dtype=bool), key="k"), "one boolean per row"),
        (lambda ds: ds.cut(da.zeros(N + 1, dtype=bool), key="k"), "301 entries, and the store 300 rows"),
        (lambda ds: ds.cut((ds["met"] > 3)[ds["met"] > 3], key="k"), "unknown lengths"),
        (lambda ds: ds[:100].cut(ds[:100]["met"] > 3, key="k"), "is a selection"),
        (lambda ds: ds.cut(MET > 3, key="k"), "dask.array.from_array"),
        (lambda ds: ds.cut(3, key="k"), "int"),
        (lambda ds: ds.cut(ds.cut("met > 3"), key="k"), "Cut"),
        (lambda ds: ds.assign(x=ds.cut(hard, key="k", fields="met")), "from Python"),
        (lambda ds: ds.cut("met > 3", key="k"), "cuts from Python"),
        (lambda ds: ds.cut("met > key", key=3), "no constant of it is called key"),
        (lambda ds: ds.cut(hard, key="k", fields="met", x=3), "constants"),
        (lambda ds: ds.cut(lambda b: b["met"], key="k", fields="met").count(), "must give an array of"),
        (lambda ds: ds.cut(lambda b: b["met"][1:] > 3, key="k", fields="met").count(), "and gave bool ("),
        (lambda ds: ds.cut(lambda b: True, key="k", fields="met").count(), "gave bool"),
        (lambda ds: ds.cut(lambda b: b["jets"] > 3, key="k", fields="jets").count(), "ak.any"),
    ],
)
def test_mistakes_name_the_way_out(path, use, words):
    with pytest.raises((mm.OptionError, mm.FieldNotFoundError)) as caught:
        use(mm.open(path))
    assert words in str(caught.value)
    assert not list(path.rglob("*.mask"))


def test_what_a_function_raises_comes_with_its_rows(path):
    def broken(block):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no") as caught:
        mm.open(path).cut(broken, key="k", fields="met").count()
    assert re.search("cut 'k', for rows (0 to 99|100 to 129|130 to 299)", caught.value.__notes__[0])


def test_a_local_cluster_agrees(path):
    distributed = pytest.importorskip("distributed")
    ds = mm.open(path)
    with (
        dask.config.set({"distributed.worker.daemon": False}),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0", protocol="inproc://"
        ) as cluster,
        distributed.Client(cluster),
    ):
        function = ds.cut(lambda b: b["met"] > 30, key="f", fields="met")
        array = ds.cut((ds["met"] < 60).rechunk(64), key="a")
        assert (function & array).count() == ((MET > 30) & (MET < 60)).sum()
    forget()
    with mt.count_reads() as reads:
        assert (function & array).count() == ((MET > 30) & (MET < 60)).sum()
    assert reads.n_rows == 0
