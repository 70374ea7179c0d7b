"""Cut flows of stores, against plain Python; what they read; how they are shown and exported."""

from __future__ import annotations

import math
import pickle
import sys
from html.parser import HTMLParser

import dask
import numpy as np
import pytest

import mmdask as mm
from mmdask.cli import main
from mmdask.dataset.cuts import cutflow
from mmdask.rows import rows
from mmdask.rows.cuts import masks, partcuts
from mmdask.rows.cuts import passes as rows_passes
from mmdask.rows.sums import counting
from mmdask.testing import count_reads

FIELDS = [
    mm.Field.dense("n", "i4"),
    mm.Field.dense("met", "f4", optional=(0,)),
    mm.Field.ragged("pt", "f4"),
    mm.Field.dense("w", "f8"),
    mm.Field.dense("w_or_not", "f8", optional=(0,)),
    mm.Field.category("process"),
    mm.Field.dense("flag", "?"),
    mm.Field.dense("year", "i2", optional=(0,)),
    mm.Field.dense("event", "u8"),
]
#: the first rows give the store its first labels
LABELS_IN_ORDER = ("ttH", "ttbb", "data")
LABELS = (["ttbb", "ttH"], ["data", "ttbb"], ["ttH", "data"])
PART = 1000
N = 3 * PART
CUTS = {"jets": "n >= 3", "met": "met > 30 and n < 7", "hard": "any(pt > 50)", "late": "met > 20 or n > 4"}


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(5)
    items = rng.integers(0, 4, N)
    return {
        "n": rng.integers(0, 9, N).tolist(),
        "met": [None if i % 7 == 0 else float(np.float32(x)) for i, x in enumerate(rng.exponential(40, N))],
        "pt": [[float(np.float32(x)) for x in rng.exponential(40, k)] for k in items],
        # Quarters add exactly in any order.
        "w": (rng.integers(-40, 200, N) / 4).tolist(),
        "w_or_not": [None if i in (1234, 2500) else 0.5 for i in range(N)],
        "process": [LABELS[i // PART][x] for i, x in enumerate(rng.integers(0, 2, N))],
        "flag": rng.integers(0, 2, N).astype(bool).tolist(),
        "year": [None if i % 100 == 3 else int(x) for i, x in enumerate(rng.integers(2015, 2019, N))],
        "event": range(2**63, 2**63 + N),
    }


@pytest.fixture
def ds(data, tmp_path):
    """Three parts, of labels in another order each; no cut is kept."""
    path = tmp_path / "flow.mm"
    for p in range(3):
        with mm.append(path) if p else mm.create(path, fields=FIELDS) as w:
            w.extend({name: values[p * PART : (p + 1) * PART] for name, values in data.items()})
    return mm.open(path)


@pytest.fixture(autouse=True)
def nothing_remembered():
    """What this process remembers of cuts would hide what is read."""
    masks.LOADED.clear()
    rows.RESOLVED.clear()


def passes(data, i):
    """Whether row i passes each of CUTS; missing does not."""
    n, met = data["n"][i], data["met"][i]
    return (
        n >= 3,
        met is not None and met > 30 and n < 7,
        any(x > 50 for x in data["pt"][i]),
        (met is not None and met > 20) or n > 4,
    )


def expected(data, chosen, weights=None):
    """alone, cumulative, n_minus_one of some rows: lists of (rows, sum, error)."""
    table = [(passes(data, i), 1.0 if weights is None else weights[i]) for i in chosen]

    def sums(keep):
        w = [x for ok, x in table if keep(ok)]
        return len(w), sum(w), math.sqrt(sum(x * x for x in w))

    n = len(CUTS)
    return (
        [sums(lambda ok: True)] + [sums(lambda ok, k=k: ok[k]) for k in range(n)],
        [sums(lambda ok, k=k: all(ok[:k])) for k in range(n + 1)],
        [sums(lambda ok, k=k: all(ok[:k] + ok[k + 1 :])) for k in range(n)],
    )


def check(flow, wanted, at=...):
    for passing, entries in zip((flow.alone, flow.cumulative, flow.n_minus_one), wanted, strict=True):
        assert passing.rows[at].tolist() == [e[0] for e in entries]
        assert passing.sums[at].tolist() == [e[1] for e in entries]
        np.testing.assert_allclose(passing.errors[at], [e[2] for e in entries], rtol=1e-13)


def test_counts(ds, data):
    flow = ds.cutflow(CUTS)
    check(flow, expected(data, range(N)))
    assert (flow.names, flow.groups) == (tuple(CUTS), ())
    assert flow.labels == ("initial", *CUTS)
    assert flow.alone.rows.tolist()[1:] == [ds.cut(c).count() for c in CUTS.values()]
    for array in (flow.alone.rows, flow.cumulative.sums, flow.n_minus_one.errors):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    check(pickle.loads(pickle.dumps(flow)), expected(data, range(N)))


def test_negative_weights_and_their_errors(ds, data):
    assert min(data["w"]) < 0
    check(ds.cutflow(CUTS, weight="w"), expected(data, range(N), data["w"]))
    check(
        ds.cutflow(CUTS, weight=" -2 * w + n"),
        expected(data, range(N), [n - 2 * w for n, w in zip(data["n"], data["w"], strict=True)]),
    )
    check(ds.cutflow(CUTS, weight="n"), expected(data, range(N), data["n"]))


@pytest.mark.parametrize("weight", [None, "w"])
@pytest.mark.parametrize(
    ("by", "groups"),
    [
        ("process", LABELS_IN_ORDER),
        ("flag", (False, True)),
        ("n", tuple(range(9))),
        ("year", (2015, 2016, 2017, 2018, None)),
    ],
)
def test_by_groups(ds, data, by, groups, weight):
    flow = ds.cutflow(CUTS, weight=weight, by=by)
    assert flow.groups == groups
    assert list(map(type, flow.groups)) == list(map(type, groups))
    for g, group in enumerate(groups):
        chosen = [i for i in range(N) if data[by][i] == group]
        check(flow, expected(data, chosen, data["w"] if weight else None), g)


def test_selections_are_where_it_begins(ds, data):
    half = ds.split({"a": 0.5, "b": 0.5}, by="event")
    for sel in (
        ds[700:2100:3],
        ds[ds.cut("process != 'ttH'")],
        half["a"],
        ds[ds.cut("w > 3")][10:900],
        ds[5:5],
        ds[:7],
    ):
        chosen = [int(e) - 2**63 for e in sel["event"].compute()]
        check(sel.cutflow(CUTS), expected(data, chosen))
        check(sel.cutflow(CUTS, weight="w"), expected(data, chosen, data["w"]))
        flow = sel.cutflow(CUTS, by="process")
        assert flow.groups == LABELS_IN_ORDER, "also those of which there is no row"
        for g, group in enumerate(flow.groups):
            check(flow, expected(data, [i for i in chosen if data["process"][i] == group]), g)


def test_none_of_none_is_an_empty_cell(ds):
    flow = ds[5:5].cutflow(["n > 1"], weight="w")
    assert flow.table().splitlines()[2:] == [
        "initial     0  0 ± 0       0 ± 0",
        "n > 1       0  0 ± 0       0 ± 0  0 ± 0",
    ]
    assert np.isnan(flow.relative).all()
    assert np.isnan(flow.efficiency).all()
    empty = ds[5:5].cutflow(["n > 1"], by="process")
    assert empty.groups == LABELS_IN_ORDER
    assert empty.cumulative.rows.tolist() == [[0, 0]] * 3
    none = ds[5:5].cutflow(["n > 1"], by="flag")
    assert none.groups == ()
    assert none.cumulative.rows.shape == (0, 2)
    assert "cut" in repr(none)
    assert none.to_latex().count("&") == 6


def test_more_labels_than_groups(tmp_path):
    """Nobody reads a table of thousands of labels; those that occur are there."""
    field = mm.Field.category("run", [f"run {i}" for i in range(1001)])
    with mm.create(tmp_path / "runs.mm", fields=[field, mm.Field.dense("n", "i4")]) as w:
        w.extend({"run": ["run 7", "run 3"], "n": [1, 2]})
    flow = mm.open(tmp_path / "runs.mm").cutflow(["n > 1"], by="run")
    assert flow.groups == ("run 3", "run 7")
    assert flow.cumulative.rows.tolist() == [[1, 1], [1, 0]]


def test_stores_without_rows_and_flows_without_cuts(ds, tmp_path):
    with mm.create(tmp_path / "none.mm", fields=FIELDS):
        pass
    none = mm.open(tmp_path / "none.mm")
    for by, shape in ((None, (5,)), ("process", (0, 5))):
        assert none.cutflow(CUTS, weight="w", by=by).cumulative.sums.shape == shape
    assert ds.cutflow([]).cumulative.rows.tolist() == [N]
    assert ds.cutflow([], by="flag").n_minus_one.rows.shape == (2, 0)


def test_efficiencies(ds):
    flow = ds.cutflow(CUTS, by="flag")
    rows_ = flow.cumulative.rows
    np.testing.assert_array_equal(flow.relative[:, 1:], rows_[:, 1:] / rows_[:, :-1])
    np.testing.assert_array_equal(flow.efficiency, rows_ / rows_[:, :1])
    assert np.isnan(flow.relative[:, 0]).all()


def test_more_cuts_than_bits_of_a_word(ds, data):
    cuts = [f"n != 5 or w > {k}" for k in range(130)]
    flow = ds.cutflow(cuts)
    for k in (0, 63, 64, 129):
        assert flow.alone.rows[k + 1] == sum(n != 5 or w > k for n, w in zip(data["n"], data["w"], strict=True))
    assert flow.cumulative.rows[-1] == flow.alone.rows[-1] == flow.n_minus_one.rows[0]


def test_counts_of_kept_cuts_read_no_field(ds):
    with count_reads() as reads:
        first = ds.cutflow(CUTS)
    assert reads.rows == {"n": N, "met": N, "pt": N}, "each field once, for all cuts"
    masks.LOADED.clear()
    with count_reads() as reads:
        again = ds.cutflow(CUTS)
        ds[ds.cut("n >= 3")].cutflow({"b": CUTS["met"], "a": ds.cut("met > 30") & ds.cut("any(pt > 50)")})
    assert reads.log == []
    assert again.table() == first.table()
    with count_reads() as reads:
        ds.cutflow(CUTS, weight="w * w", by="process")
    assert reads.rows == {"w": N, "process": N}
    with count_reads() as reads:
        ds[100:200].cutflow(CUTS, weight="w")
    assert reads.rows == {"w": PART}, "only blocks in which rows are selected"


def test_blocks_without_selected_rows_are_not_read(ds, monkeypatch):
    monkeypatch.setattr(counting, "BLOCK_ROWS", 64)
    with count_reads() as reads:
        ds[100:200].cutflow([], weight="w")
    assert reads.rows == {"w": 3 * 64}


def test_parts_without_selected_rows_are_left_alone(ds):
    with count_reads() as reads:
        ds[:50].cutflow(CUTS)
    assert {read.part for read in reads.log} == {0}
    assert ds.cut(CUTS["hard"]).count() > 0


def test_leaves_and_labels_of_cuts_are_looked_at_one_by_one(ds, data):
    cuts = ["n > 100", "n >= 3", "process == 'ttH' & n >= 3"]
    flow = ds.cutflow(cuts)
    here = sum(n >= 3 for n in data["n"])
    tth = sum(n >= 3 and p == "ttH" for n, p in zip(data["n"], data["process"], strict=True))
    assert flow.alone.rows.tolist() == [N, 0, here, tth]
    assert flow.n_minus_one.rows.tolist() == [tth, 0, 0]


def test_labels_of_parts_rule_one_cut_out_and_no_other(tmp_path):
    mm.from_arrays({"n": [1, 2, 3]}, tmp_path / "c.mm", labels={"process": "ttbb"})
    with mm.append(tmp_path / "c.mm", labels={"process": "ttH"}) as w:
        w.extend({"n": [1, 2, 3]})
    ds = mm.open(tmp_path / "c.mm")
    with count_reads() as reads:
        assert ds.cut("process == 'ttbb' & n > 1").count() == 2
    assert reads.rows["n"] == 3, "a cut leaves the part alone that its label rules out"
    flow = ds.cutflow(["process == 'ttbb'", "n > 1"], by="process")
    assert flow.alone.rows.tolist() == [[3, 3, 2], [3, 0, 2]]


@pytest.mark.parametrize("scheduler", ["sync", "threads", "processes"])
def test_schedulers_agree(ds, data, scheduler, monkeypatch):
    if scheduler != "processes":  # which have constants of their own
        monkeypatch.setattr(counting, "BLOCK_ROWS", 256)
        monkeypatch.setattr(partcuts, "TASK_ROWS", 512)
    thirds = "w / 3"
    with dask.config.set(scheduler=scheduler):
        flow = ds.cutflow(CUTS, weight=thirds, by="process")
        check(ds.cutflow(CUTS, weight="w"), expected(data, range(N), data["w"]))
        with pytest.raises(mm.OptionError, match="missing in row 1234 "):
            ds.cutflow(CUTS, weight="w_or_not")
    with dask.config.set(scheduler="sync"):
        same = ds.cutflow(CUTS, weight=thirds, by="process")
    for a, b in ((flow.alone, same.alone), (flow.cumulative, same.cumulative), (flow.n_minus_one, same.n_minus_one)):
        assert a.sums.tobytes() == b.sums.tobytes()
        assert a.errors.tobytes() == b.errors.tobytes()


def test_a_local_cluster_agrees(ds, data):
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        Client(cluster),
    ):
        flow = ds.cutflow(CUTS, weight="w / 3", by="year")
        check(ds.cutflow(CUTS), expected(data, range(N)))
        with pytest.raises(mm.OptionError, match="missing in row 1234 "):
            ds.cutflow(CUTS, weight="w_or_not")
    same = ds.cutflow(CUTS, weight="w / 3", by="year")
    assert flow.groups == same.groups
    assert flow.cumulative.sums.tobytes() == same.cumulative.sums.tobytes()


def test_results_in_any_order_are_added_in_that_of_the_rows(ds, monkeypatch):
    monkeypatch.setattr(counting, "BLOCK_ROWS", 64)
    cuts = [ds.cut(c)._expression for c in CUTS.values()]
    weight = counting.check_weight("w / 3", ds._rows)

    def backwards(tasks, done):
        for i, (function, args) in reversed(list(enumerate(tasks))):
            done(i, function(*args))

    found = [
        counting.count_passing(ds._rows, cuts, weight=weight, run=run) for run in (rows_passes.run_serially, backwards)
    ]
    assert found[0].tally.together.w.tobytes() == found[1].tally.together.w.tobytes()


def test_parts_are_taken_some_at_a_time(ds, data, monkeypatch):
    seen = []
    original = counting.kept_each
    monkeypatch.setattr(counting, "kept_each", lambda *args: seen.append(args[3]) or original(*args))
    monkeypatch.setattr(counting, "_BITS_NBYTES", 2 * PART)
    check(ds.cutflow(CUTS, weight="w"), expected(data, range(N), data["w"]))
    assert seen == [[0], [1], [2]]
    monkeypatch.setattr(counting, "_BITS_NBYTES", 1 << 20)
    ds.cutflow(CUTS)
    assert seen[3:] == [[0, 1, 2]]


def test_missing_weights_and_nan(ds, data):
    with pytest.raises(mm.OptionError, match=r"'w_or_not' is missing in row 1234 .*where\(ismissing"):
        ds.cutflow(CUTS, weight="w_or_not")
    with pytest.raises(mm.OptionError, match="row 2500"):
        ds[2000:].cutflow(CUTS, weight="w_or_not")
    assert ds[:1000].cutflow([], weight="w_or_not").cumulative.sums.tolist() == [500.0]
    has = ds[ds.cut("not ismissing(w_or_not)")].cutflow([], weight="w_or_not")
    assert has.cumulative.sums.tolist() == [0.5 * (N - 2)]
    filled = ds.cutflow([], weight="where(ismissing(w_or_not), 1, w_or_not)")
    assert filled.cumulative.sums.tolist() == [0.5 * (N - 2) + 2]
    flow = ds.cutflow(["event != 9223372036854775815", "n >= 0"], weight="where(event == 9223372036854775815, nan, 1)")
    assert np.isnan(flow.cumulative.sums).tolist() == [True, False, False]
    assert np.isnan(flow.n_minus_one.errors).tolist() == [True, False]
    assert flow.cumulative.rows.tolist() == [N, N - 1, N - 1]


def test_mistakes(ds, tmp_path):
    other = mm.from_arrays({"n": [1]}, tmp_path / "other.mm")
    for cuts in ("n > 3", ds.cut("n > 3"), 5):
        with pytest.raises(mm.OptionError, match="list of cuts"):
            ds.cutflow(cuts)
    with pytest.raises(mm.OptionError, match="text"):
        ds.cutflow([5])
    with pytest.raises(mm.OptionError, match="of the store"):
        ds.cutflow([other.cut("n > 1")])
    with pytest.raises(mm.ExpressionError, match="mett"):
        ds.cutflow(["mett > 3"])
    with count_reads() as reads:
        for weight, error, words in (
            ("wiegt", mm.ExpressionError, "wiegt"),
            ("pt", mm.OptionError, "one value per item"),
            ("n > 3", mm.OptionError, r"where\(n > 3, 1, 0\)"),
            (3, mm.OptionError, "as text"),
            (" ", mm.ExpressionError, "empty"),
        ):
            with pytest.raises(error, match=words):
                ds.cutflow(CUTS, weight=weight)
        for by, error, words in (
            ("proces", mm.FieldNotFoundError, "process"),
            ("pt", mm.OptionError, "ragged float32"),
            ("w", mm.OptionError, "category"),
        ):
            with pytest.raises(error, match=words):
                ds.cutflow(CUTS, by=by)
    assert reads.log == []


def test_too_many_groups(ds, monkeypatch):
    with pytest.raises(mm.OptionError, match=r"by='event' has more than 1,000 different values"):
        ds.cutflow(CUTS, by="event")
    assert len(ds[:1000].cutflow([], by="event").groups) == 1000
    monkeypatch.setattr(counting, "MAX_GROUPS", 999)
    with pytest.raises(mm.OptionError, match=r"more than 999 different"):
        ds[:1000].cutflow([], by="event")


def test_names_of_cuts(ds):
    flow = ds.cutflow(["n  >=\n 3", ds.cut("met > x", x=50), ds.cut("n > 1") & ds.cut("flag"), ds.cut("any(pt > 1)")])
    assert flow.names == ("n >= 3", "met > 50", "(n > 1) and flag", "any((pt > 1))")
    assert ds.cutflow({7: "flag"}).names == ("7",)


HOSTILE = "<b>&\"'\x1b[2J %$#_{}~^\\|`[*]--"


class Text(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)

    def handle_data(self, data):
        self.text.append(data)


def test_tables(ds, data):
    flow = ds.cutflow(CUTS)
    lines = flow.table().splitlines()
    assert lines[0].split() == ["cut", "alone", "cumulative", "N-1", "of", "before", "of", "all"]
    assert lines[2].split() == ["initial", "3,000", "3,000", "100.00%"]
    assert repr(flow) == flow.table()
    weighted = ds.cutflow(CUTS, weight="w", by="process")
    assert repr(weighted).startswith("weighted by w\nprocess  cut")
    assert [line.split()[0] for line in weighted.table().splitlines()[2::5]] == list(LABELS_IN_ORDER)


def test_html_is_escaped(ds):
    parser = Text()
    parser.feed(ds.cutflow({HOSTILE: "n > 3"}, weight="w", by="process")._repr_html_())
    assert parser.tags == {"div", "table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert HOSTILE.replace("\x1b", "\\x1b") in parser.text
    assert "weighted by w" in parser.text


def test_latex_is_escaped(ds):
    lines = ds.cutflow({HOSTILE: "n > 3"}, by="flag").to_latex().splitlines()
    name = lines[5].split(" & ")[1]
    assert name == (
        r"\textless{}b\textgreater{}\&'''\textbackslash{}x1b{[}2J \%\$\#\_\{\}\textasciitilde{}\textasciicircum{}"
        r"\textbackslash{}\textbar{}\textasciigrave{}{[}{*}{]}-{}-{}"
    )
    assert lines[0] == r"\begin{tabular}{llrrrrr}"
    assert [line for line in lines if line == r"\hline"] == [r"\hline"] * 4
    assert lines[-2:] == [r"\hline", r"\end{tabular}"]
    weighted = ds.cutflow([], weight="where(n >= 0, 1000.25, 0)").to_latex()
    assert r"$3{,}000{,}750 \pm 54{,}786$" in weighted


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (1234.5678, 12.34, "1,235 ± 12"),
        (-0.5, 0.0123, "-0.500 ± 0.012"),
        (3.0, 0.0, "3 ± 0"),
        (1e15, 1e3, "1e+15 ± 1e+03"),
        (1e-9, 1e-10, "1e-09 ± 1e-10"),
        (math.nan, math.nan, "nan ± nan"),
        (math.inf, math.inf, "inf ± inf"),
        (12345.0, 4321.0, "12,345 ± 4,321"),
    ],
)
def test_numbers_with_errors(value, error, text):
    assert cutflow._with_error(value, error, " ± ") == text


def test_pandas(ds, data):
    pd = pytest.importorskip("pandas")
    frame = ds.cutflow(CUTS).to_pandas()
    assert list(frame.columns) == ["alone", "cumulative", "n_minus_one", "relative", "efficiency"]
    assert frame.index.tolist() == ["initial", *CUTS]
    wanted = expected(data, range(N))
    assert frame["cumulative"].tolist() == [e[0] for e in wanted[1]]
    assert frame["n_minus_one"][0 : len(frame)].tolist() == [pd.NA, *(e[0] for e in wanted[2])]
    assert frame["alone"].dtype == "Int64"
    split = ds.cutflow(CUTS, weight="w", by="year").to_pandas()
    assert split.index.names == ["year", "cut"]
    assert len(split) == 5 * 5
    wanted = expected(data, [i for i in range(N) if data["year"][i] == 2016], data["w"])
    assert split.loc[2016, "cumulative_sum"].tolist() == [e[1] for e in wanted[1]]
    np.testing.assert_allclose(split.loc[(2016, "met"), "n_minus_one_error"], wanted[2][1][2])
    assert len(ds[5:5].cutflow(CUTS, by="year").to_pandas()) == 0


def test_plot(ds):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    try:
        flow = ds.cutflow({**CUTS, "_a $hostile$ name": "flag"}, weight="w", by="process")
        ax = flow.plot()
        assert len(ax.patches) == 3
        np.testing.assert_array_equal(ax.patches[1].get_data().values, flow.cumulative.sums[1])
        assert [t.get_text() for t in ax.get_xticklabels()] == ["initial", *CUTS, r" _a \$hostile\$ name"]
        assert [t.get_text() for t in ax.get_legend().get_texts()] == list(flow.groups)
        assert (ax.get_ylabel(), ax.get_xlabel()) == ("sum of w", "")
        ax.figure.canvas.draw()
        counts = ds.cutflow(CUTS, by="flag")
        ax = counts.plot()
        assert ax.get_ylim()[0] == 0
        ax.set_yscale("log")
        low, high = ax.get_ylim()
        smallest = (counts.cumulative.sums - counts.cumulative.errors).min()
        assert smallest / 10 < low < smallest < counts.cumulative.sums.max() < high
        _, mine = plt.subplots()
        assert ds.cutflow([]).plot(mine) is mine
        mine.figure.canvas.draw()
        ds[5:5].cutflow(CUTS, by="process").plot().figure.canvas.draw()
    finally:
        plt.close("all")


@pytest.mark.parametrize(
    ("package", "method", "install"), [("pandas", "to_pandas", "pandas"), ("matplotlib", "plot", "mmdask[plot]")]
)
def test_what_is_not_installed_is_named(ds, monkeypatch, package, method, install):
    flow = ds.cutflow([])
    for name in [m for m in sys.modules if m.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)

    class Absent:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name.partition(".")[0] == package:
                raise ModuleNotFoundError(f"No module named {package!r}", name=package)

    monkeypatch.setattr(sys, "meta_path", [Absent, *sys.meta_path])
    with pytest.raises(mm.MissingDependencyError) as caught:
        getattr(flow, method)()
    assert f'pip install "{install}"' in str(caught.value)


def test_the_command(ds, capsys):
    words = ["cutflow", ds.path, "n >= 3", "any(pt > 50)"]
    assert main(words) == 0
    assert capsys.readouterr().out.rstrip("\n") == ds.cutflow(words[2:]).table()
    assert main([*words, "--weight", "w", "--by", "process", "--latex"]) == 0
    latex = ds.cutflow(words[2:], weight="w", by="process").to_latex()
    assert capsys.readouterr().out.rstrip("\n") == latex
    assert main(["cutflow", ds.path, "nn >= 3"]) == 1
    err = capsys.readouterr().err.splitlines()
    assert err[0].startswith("mmdask: no field 'nn'")
    assert err[1:] == ["    nn >= 3", "    ^^"]
    assert main([*words, "--by", "event"]) == 1
    assert "more than 1,000" in capsys.readouterr().err
