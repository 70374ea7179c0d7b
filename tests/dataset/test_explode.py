"""One row per item, against plain Python lists, for every kind of field beside the items and among them."""

from __future__ import annotations

import dataclasses
import pickle

import awkward as ak
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from kinds import FIELDS, rows_of
from stored import write_parts

import mmdask as mm
from mmdask.rows.rows import RESOLVED
from mmdask.rows.views.exploded import OFFSETS, exploded_field
from mmdask.testing import count_reads, max_computes

BESIDE = [
    *(FIELDS[n] for n in ("met", "when", "p3", "process", "pt", "deep", "name", "words", "image", "points")),
    mm.Field.dense("run", "i4"),
    mm.Field.category("year", ("2017", "2018")),
]
ITEMS = [
    mm.Field.ragged("j_pt", "f4", optional=(0,)),
    mm.Field.ragged("j_id", "i8", optional=(1,)),
    mm.Field.ragged("j_p3", "f8", (2,)),
    mm.Field.ragged("j_ok", "?", optional=(0, 1)),
    mm.Field.ragged("j_hits", "i4", levels=2, optional=(0, 1, 2)),
    mm.Field.ragged("j_deep", "f4", levels=3),
    mm.Field.string("j_tag", levels=1, optional=(0, 1)),
    mm.Field.string("j_tags", levels=2),
]
CONSTANTS = {"run": 7, "year": "2018"}


def plain(value):
    return str(ak.to_list(value))


def dump(ds, names=None):
    return {name: plain(ds[name].compute()) for name in names or ds.fields}


@st.composite
def parts(draw):
    """Rows of one part; None among the counts is a missing list, where a field can have it."""
    counts = draw(st.lists(st.one_of(st.integers(0, 3), st.integers(0, 3), st.none()), min_size=1, max_size=4))
    table = {f.name: draw(st.lists(rows_of(f), min_size=len(counts), max_size=len(counts))) for f in BESIDE[:-2]}
    for f in ITEMS:
        one = rows_of(exploded_field(f, True))
        table[f.name] = [
            (None if 0 in f.optional else []) if n is None else draw(st.lists(one, min_size=n, max_size=n))
            for n in counts
        ]
    return {**table, **CONSTANTS}


def expected(ds, items, rows=None):
    """The rows of each item, from what the dataset says itself."""
    lists = {name: ak.to_list(ds[name].compute()) for name in ds.fields}
    counts = [len(x or []) for x in lists[items[0]]]
    every = [(i, k) for i in range(len(counts)) for k in range(counts[i]) if rows is None or i in rows]
    found = {n: str([x[i][k] if n in items else x[i] for i, k in every]) for n, x in lists.items()}
    return found, [i for i, _ in every]


@settings(max_examples=3, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(some=st.lists(parts(), min_size=1, max_size=3), data=st.data(), io=st.sampled_from(["mmap", "pread"]))
def test_every_kind(tmp_path_factory, some, data, io):
    path = write_parts(tmp_path_factory.mktemp("e") / "a.mm", [*BESIDE, *ITEMS], some)
    ds = mm.open(path, io=io)
    jets = ds.explode("j", number="event")
    items = [f.name for f in ITEMS]
    found, numbers = expected(ds, items)
    assert len(jets) == len(numbers)
    assert jets["event"].compute().tolist() == numbers
    assert dump(jets, ds.fields) == found
    columns = {name: ak.to_list(jets[name].compute()) for name in jets.fields}
    if numbers:
        order = data.draw(st.lists(st.integers(0, len(numbers) - 1), min_size=1, max_size=6))
        for name, values in jets[order].items():
            assert plain(values) == str([columns[name][i] for i in order]), name
        a, b = sorted(data.draw(st.tuples(*[st.integers(0, len(numbers))] * 2)))
        for name in jets.fields:
            assert plain(jets[a:b][name].compute()) == str(columns[name][a:b]), name
        for name in ("pt", "deep", "words", "name", "j_hits", "j_tags"):
            counts = [None if x is None else len(x.encode() if isinstance(x, str) else x) for x in columns[name]]
            assert jets[name].counts.compute().tolist() == counts, name
        assert jets["image"].shapes.compute().tolist() == [ds["image"].shapes.compute().tolist()[i] for i in numbers]
        assert jets["words"].valid.compute().tolist() == [x is not None for x in columns["words"]]
        saved = jets.save(tmp_path_factory.mktemp("s") / "b.mm", progress=False)
        assert {name: str(ak.to_list(saved[name].compute())) for name in saved} == {
            n: str(x) for n, x in columns.items()
        }
    one = ds.explode("pt")
    assert dump(one) == expected(ds, ["pt"])[0]


@pytest.fixture
def path(tmp_path):
    """1,000 rows in two parts, with up to 3 jets, and other lists."""
    fields = [
        mm.Field.dense("met", "f4"),
        mm.Field.category("process", ("ttH", "ttbb")),
        mm.Field.ragged("jet_pt", "f4", record="jet"),
        mm.Field.ragged("jet_eta", "f4", record="jet"),
        mm.Field.ragged("mu_pt", "f4"),
    ]
    made = []
    for number, first in enumerate((0, 500)):
        rows = range(first, first + 500)
        made.append(
            {
                "met": [float(i % 97) for i in rows],
                "process": ("ttH", "ttbb")[number],
                "jet_pt": [[float(i % 50 + 10 * k) for k in range(i % 4)] for i in rows],
                "jet_eta": [[k - i % 3 for k in range(i % 4)] for i in rows],
                "mu_pt": [[float(i)] * (i % 2) for i in rows],
            }
        )
    return write_parts(tmp_path / "a.mm", fields, made)


def awkward(ds):
    """The oracle: everything broadcast to the jets, and flattened."""
    whole = ds.to_awkward()
    like = whole.jet.pt if "jet" in ak.fields(whole) else whole.jet_pt
    found = {"jet_pt": ak.flatten(like), "jet_eta": ak.flatten(whole.jet.eta if "jet" in ak.fields(whole) else like)}
    for name in ("met", "process"):
        found[name] = ak.flatten(ak.broadcast_arrays(whole[name], like)[0])
    return {name: np.asarray(ak.to_list(x)) for name, x in found.items()}


def test_is_lazy(path):
    ds = mm.open(path)
    cut = ds.cut("met > 30")
    with max_computes(0), count_reads() as reads:
        jets = ds[cut].explode("jet")
        hard = jets[jets.cut("jet_pt > 20")]
        assert "not yet counted" in repr(jets)
        jets._repr_html_()
    assert reads.n_rows == 0
    truth = awkward(ds[cut])
    assert hard["jet_pt"].compute().tolist() == truth["jet_pt"][truth["jet_pt"] > 20].tolist()
    with max_computes(0), count_reads() as reads:
        assert len(ds.explode("jet")) == sum(i % 4 for i in range(1000))
    assert reads.n_rows == 0


def test_items_are_views(path):
    ds = mm.open(path)
    jets = ds.explode("jet")
    data = jets._rows.read("jet_pt", 10, 400)
    assert not data.values.flags.owndata
    whole = ds.memmap("jet_pt", part=0)
    assert data.values.tolist() == whole[10:400].tolist()
    with count_reads() as reads:
        jets[100:110]["jet_pt"].compute()
    assert reads.rows == {"jet_pt": 10}
    constant = jets._rows.read("process", 0, 300)
    assert constant.values.strides == (0,)


@pytest.mark.parametrize(
    "select",
    [
        lambda ds: ds,
        lambda ds: ds[13:700],
        lambda ds: ds[3:900:7],
        lambda ds: ds[ds.cut("met % 3 == 0 & any(jet_pt > 20)")],
        lambda ds: ds.sample(60),
        lambda ds: ds[:0],
        lambda ds: mm.concat([ds[100:200], ds[ds.cut("met > 50")]]),
        lambda ds: ds.rename(met="mu_pt", mu_pt="met").rename(met="mu_pt", mu_pt="met"),
    ],
)
def test_of_any_rows(path, select, tmp_path):
    ds = select(mm.open(path))
    jets = ds.explode("jet")
    truth = awkward(ds)
    for name, values in truth.items():
        assert jets[name].compute().tolist() == values.tolist(), name
    again = pickle.loads(pickle.dumps(jets))
    assert again["met"].compute().tolist() == truth["met"].tolist()
    cut = jets.cut("jet_pt > 25 and met < 80 and process == 'ttH'")
    passing = (truth["jet_pt"] > 25) & (truth["met"] < 80) & (truth["process"] == "ttH") if len(jets) else []
    assert jets[cut]["jet_eta"].compute().tolist() == truth["jet_eta"][np.asarray(passing, bool)].tolist()
    if not len(jets):
        return
    flow = jets.cutflow(["jet_pt > 25", "met < 80"], by="process")
    assert flow.cumulative.rows[:, -1].sum() == ((truth["jet_pt"] > 25) & (truth["met"] < 80)).sum()
    h = jets.hist("jet_pt", bins=(10, 0, 100), weight="met")
    np.testing.assert_allclose(h.values(), np.histogram(truth["jet_pt"], 10, (0, 100), weights=truth["met"])[0])
    found = jets.describe(["jet_pt", "met"])
    assert (found["met"].max, found["jet_pt"].count) == (truth["met"].max(), len(jets))
    seen = [np.stack([b["jet_pt"], b["met"]], 1) for b in jets.batches(32, fields=["jet_pt", "met"], seed=1)]
    both = np.stack([truth["jet_pt"], truth["met"]], 1)
    assert sorted(map(tuple, np.concatenate(seen))) == sorted(map(tuple, both))
    halves = jets.split({"a": 0.5, "b": 0.5}, by="met")
    assert len(halves["a"]) + len(halves["b"]) == len(jets)
    assert not set(halves["a"]["met"].compute()) & set(halves["b"]["met"].compute())
    saved = jets.save(tmp_path / "s.mm", progress=False)
    assert saved["met"].compute().tolist() == truth["met"].tolist()


def test_computed_fields(path):
    ds = mm.open(path).assign(ht="sum(jet_pt)", jet_two="jet_pt * 2", jet_pt="jet_pt + 1", best="max(jet_pt)")
    jets = ds.explode("jet")
    counts = ds["jet_pt"].counts.compute()
    assert jets["ht"].compute().tolist() == np.repeat(ds["ht"].compute(), counts).tolist()
    assert jets["jet_two"].compute().tolist() == ak.to_list(ak.flatten(ds["jet_two"].compute()))
    assert jets["jet_pt"].compute().tolist() == ak.to_list(ak.flatten(ds["jet_pt"].compute()))
    best = jets["best"].compute()
    assert best.tolist() == np.ma.repeat(ds["best"].compute(), counts).tolist()
    n = (jets["jet_pt"].compute() * 2 > jets["ht"].compute()).sum()
    assert jets.cut("jet_pt * 2 > ht").count() == n
    more = jets.assign(share="jet_pt / ht")
    assert more["share"].compute()[3] == jets["jet_pt"].compute()[3] / jets["ht"].compute()[3]
    assert jets.describe("ht")["ht"].max == jets["ht"].compute().max()
    only = ds[["met", "jet_two"]].explode("jet_two")
    assert only["jet_two"].compute().tolist() == jets["jet_two"].compute().tolist()


def test_what_is_kept_is_never_mixed_up(path):
    ds = mm.open(path)
    both = [ds.explode("jet"), ds.explode("mu_pt"), ds.explode("jet_pt"), ds]
    counts = [x.cut("met > 50").count() for x in both]
    RESOLVED.clear()
    OFFSETS.clear()
    for x, n in zip(both, counts, strict=True):
        fresh = mm.open(path)
        with count_reads() as reads:
            assert x.cut("met > 50").count() == n
        assert reads.n_rows == 0
        assert (x["met"].compute() > 50).sum() == n
        assert fresh is not x
    assert counts[0] == counts[2]
    tops = [x.describe("met")["met"].count for x in both]
    assert tops == [len(x) for x in both]
    numbered = ds.explode("jet", number="event")
    assert numbered.cut("event < 10").count() == sum(i % 4 for i in range(10))
    moved = mm.concat([ds[:0], ds]).explode("jet", number="event")
    assert moved.cut("event < 10").count() == 0
    assert moved["event"].compute().min() == 1001


def test_further_views(path):
    ds = mm.open(path)
    jets = ds.explode("jet", number="event")
    named = jets.rename(jet="j", met="missing")
    assert named["missing"].compute().tolist() == jets["met"].compute().tolist()
    assert named.cut("j_pt > missing").count() == jets.cut("jet_pt > met").count()
    both = mm.concat({"a": jets[:10], "b": jets[jets.cut("jet_pt > 60")]}, by="from")
    assert both["jet_pt"].compute()[:10].tolist() == jets["jet_pt"].compute()[:10].tolist()
    assert both.cut("`from` == 'a'").count() == 10
    assert both[[12, 3]]["process"].tolist() == [both[12]["process"], both[3]["process"]]
    pairs = jets.explode("mu_pt")
    assert len(pairs) == sum((i % 4) * (i % 2) for i in range(1000))
    assert pairs["mu_pt"].compute().tolist() == pairs["event"].compute().tolist()
    assert jets.sample(20)["met"].compute().shape == (20,)
    assert jets.zip("jet").compute()[5].tolist() is not None


def test_refresh(path):
    jets = mm.open(path).explode("jet")
    n = len(jets)
    with mm.append(path) as w:
        w.append({"met": 1, "process": "new", "jet_pt": [5.0, 6.0], "jet_eta": [0, 1], "mu_pt": []})
    fresh = jets.refresh()
    assert len(jets) == n
    assert len(fresh) == n + 2
    assert fresh["process"].compute()[-1] == "new"
    assert fresh.attrs == jets.attrs


def test_items_that_do_not_belong_together(tmp_path):
    ds = mm.from_arrays({"a_x": [[1.0], [2.0, 3.0]], "a_y": [[1.0], [2.0]]}, tmp_path / "a.mm")
    jets = ds.explode("a")
    assert jets["a_x"].compute().tolist() == [1, 2, 3]
    with pytest.raises(mm.ExpressionError, match="'a_y' and 'a_x' have different numbers of items in row 1"):
        jets["a_y"].compute()


def test_mistakes(path, tmp_path):
    ds = mm.open(path)
    with pytest.raises(mm.FieldNotFoundError, match="no field 'jets'.*did you mean 'jet'"):
        ds.explode("jets")
    with pytest.raises(mm.OptionError, match="'met' is float32, which has no items"):
        ds.explode("met")
    with pytest.raises(mm.OptionError, match="name of a field"):
        ds.explode(3)
    with pytest.raises(mm.OptionError, match="'met' already"):
        ds.explode("jet", number="met")
    with pytest.raises(mm.SchemaError, match="printable"):
        ds.explode("jet", number="")
    with pytest.raises(mm.OptionError, match="dask array"):
        ds.assign(r=ds["met"] / 2).explode("jet")
    with pytest.raises(mm.OptionError, match="no files of its own"):
        ds.explode("jet").memmap("jet_pt")
    with pytest.raises(mm.OptionError, match="kept with the stores"):
        list(ds.explode("jet").cuts)
    with pytest.raises(mm.OptionError, match="is text|no items"):
        mm.from_arrays({"t": ["ab"]}, tmp_path / "b.mm").explode("t")


def test_fields_that_are_optional():
    field = dataclasses.replace(ITEMS[4])
    assert exploded_field(field, True).optional == (0, 1)
    assert exploded_field(ITEMS[0], True).optional == ()
    assert exploded_field(ITEMS[6], True).describe() == "optional string"
