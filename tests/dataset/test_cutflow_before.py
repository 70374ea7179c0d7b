"""The first line of a cut flow, what the sources held before they were converted, against uproot and plain Python."""

from __future__ import annotations

import html
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import uproot

import mmdask as mm
from mmdask.cli import main
from mmdask.rows import rows as rows_module
from mmdask.rows.upkeep import compact
from mmdask.testing import count_reads

#: process, year, and weights of the rows of each file; the last has no row that passes
FILES = {
    "a": ("ttbb", 2016, [1.0, -0.5, 2.0, 0.25]),
    "b": ("ttH", 2016, [3.0, 1.5]),
    "c": ("ttbb", 2017, [0.75, -0.25, 1.0]),
    "d": ("data", 2017, [1.0, 1.0]),
}
N = {"a": [5, 3, 4, 6], "b": [2, 7], "c": [4, 1, 8], "d": [0, 1]}
CUT = {"cut": "n >= 4", "weights": ["w", "2 * w"]}


def make(path, w, n):
    with uproot.recreate(path) as file:
        tree = {"w": np.array(w, "f8"), "n": np.array(n, "i4"), "m": np.array(n, "i4") % 3}
        file.mktree("t", {name: v.dtype for name, v in tree.items()}).extend(tree)
    return str(path)


@pytest.fixture
def sources(tmp_path):
    return {
        make(tmp_path / f"{name}.root", w, N[name]): {"process": process, "year": year}
        for name, (process, year, w) in FILES.items()
    }


@pytest.fixture
def out(tmp_path):
    return str(tmp_path / "o.mm")


@pytest.fixture
def ds(sources, out):
    return mm.from_root(sources, out, progress=False, **CUT)


def sums(names, scale=1.0):
    """Rows, sum and error of some files before the cut."""
    w = [scale * x for name in names for x in FILES[name][2]]
    return len(w), math.fsum(w), math.sqrt(math.fsum(x * x for x in w))


def passing(before):
    return before.rows.tolist(), before.sums.tolist(), before.errors.tolist()


CUTS = ["m == 1", "n > 5"]


def test_rows(ds):
    flow = ds.cutflow(CUTS)
    assert passing(flow.before) == (11, 11.0, math.sqrt(11))
    assert flow.before.rows.dtype == np.int64
    assert not flow.before.rows.flags.writeable
    n = [x for name in N for x in N[name] if x >= 4]
    together = [len(n), sum(x % 3 == 1 for x in n), sum(x % 3 == 1 and x > 5 for x in n)]
    assert flow.cumulative.rows.tolist() == together
    assert flow.labels == ("initial", *CUTS)
    assert flow.relative[0] == together[0] / 11
    assert flow.efficiency[0] == 1
    assert flow.acceptance.tolist() == [x / 11 for x in together]
    assert pickle.loads(pickle.dumps(flow)).before.rows == 11


@pytest.mark.parametrize(("weight", "scale"), [("w", 1), (" w", 1), ("2 * w", 2), ("2*w", 2)])
def test_weights(ds, weight, scale):
    flow = ds.cutflow(CUTS, weight=weight)
    assert passing(flow.before) == pytest.approx(sums("abcd", scale))
    kept = sum(scale * w for name in N for w, n in zip(FILES[name][2], N[name], strict=True) if n >= 4)
    assert flow.acceptance[0] == pytest.approx(kept / sums("abcd", scale)[1])


def test_groups(ds):
    """A process of which no row passed is a group, too."""
    flow = ds.cutflow(CUTS, weight="w", by="process")
    assert flow.groups == ("ttbb", "ttH", "data")
    expected = [sums("ac"), sums("b"), sums("d")]
    for got, want in zip(passing(flow.before), zip(*expected, strict=True), strict=True):
        assert got == pytest.approx(list(want))
    assert flow.cumulative.rows.tolist()[2] == [0, 0, 0]
    assert np.isnan(flow.efficiency[2]).all()
    assert flow.acceptance[2].tolist() == [0, 0, 0]
    years = ds.cutflow(CUTS, by="year")
    assert (years.groups, years.before.rows.tolist()) == ((2016, 2017), [6, 5])


def test_selections_by_labels(ds):
    def before(dataset, **options):
        found = dataset.cutflow(CUTS, **options).before
        return None if found is None else found.rows.tolist()

    ttbb = ds[ds.cut("process == 'ttbb'")]
    assert before(ttbb) == 7
    assert before(ttbb[ttbb.cut("year > 2016")]) == 3
    assert before(ds[ds.cut("process == 'ttbb' or year == 2017")]) == 9
    assert before(ds[ds.cut("process == 'data'")]) == 2, "of which no row is left"
    assert before(ds[ds.cut("year > 2020")]) is None
    assert passing(ttbb.cutflow(CUTS, weight="w").before) == pytest.approx(sums("ac"))


def test_where_it_cannot_be_said(ds):
    def before(dataset, **options):
        return dataset.cutflow(CUTS, **options).before

    assert before(ds[ds.cut("n > 0")]) is None, "all rows pass, but nobody knows of those that were cut away"
    assert before(ds[ds.cut("n > 0 and process == 'ttbb'")]) is None
    assert before(ds[1:]) is None
    assert before(ds[::2]) is None
    assert before(ds.split({"a": 0.5, "b": 0.5})["a"]) is None
    assert before(ds, weight="w * w") is None, "nobody asked for that sum"
    assert before(ds, by="m") is None
    assert before(ds.assign(process="n > 4"), by="process") is None
    assert before(ds.assign(w="w * 0.5"), weight="w") is None
    assert before(ds.assign(v="w"), weight="v") is not None, "it is the same weight"


def test_stores_without_a_cut(sources, out):
    ds = mm.from_root(sources, out, progress=False, weights="w")
    assert ds.cutflow(CUTS, weight="w").before is None
    assert ds.cutflow(CUTS).acceptance is None
    assert np.isnan(ds.cutflow(CUTS).relative[0])
    assert [s.weights[0].sum for s in ds.sources] == [sums(n)[1] for n in FILES]


def test_appended_rows_and_saved_rows(ds, out, tmp_path):
    ds.save(tmp_path / "saved.mm", progress=False)
    assert mm.open(tmp_path / "saved.mm").cutflow(CUTS).before is None
    with mm.append(out, labels={"process": "ttbb", "year": 2016}) as w:
        w.append({"w": 1.0, "n": 5, "m": 2})
    assert ds.refresh().cutflow(CUTS).before is None
    mm.compact(out, progress=False)
    assert ds.refresh().cutflow(CUTS).before is None
    assert ds.cutflow(CUTS).before.rows == 11, "the generation that it shows"


def test_fields_that_were_assigned_since(ds, out):
    mm.assign(out, progress=False, w="m * 2.0", replace=True)
    new = ds.refresh()
    assert new.cutflow(CUTS, weight="w").before is None, "the sums are of another weight"
    assert new.cutflow(CUTS).before.rows == 11
    mm.compact(out, progress=False)
    assert ds.refresh().cutflow(CUTS, weight="w").before is None
    assert ds.refresh().cutflow(CUTS, by="process").before.rows.tolist() == [7, 2, 2]
    mm.assign(out, progress=False, year="2000 + m", replace=True)
    assert ds.refresh().cutflow(CUTS, by="year").before is None
    assert ds.refresh()[ds.refresh().cut("year > 0")].cutflow(CUTS).before is None


def test_after_merging_and_converting_again(ds, sources, out, tmp_path):
    """Also labels of inputs of which no row is left."""
    mm.compact(out, progress=False)
    assert len(mm.open(out)._rows.snapshot.parts) == 1
    merged = mm.open(out)
    assert merged.cutflow(CUTS, weight="w", by="process").before.rows.tolist() == [7, 2, 2]
    assert merged[merged.cut("process == 'data'")].cutflow(CUTS, weight="w").before.sums == sums("d")[1]
    mm.assign(out, progress=False, x="n + 1")
    mm.compact(out, progress=False)
    sources = {**sources, make(tmp_path / "e.root", [4.0], [9]): {"process": "ttH", "year": 2016}}
    again = mm.from_root(sources, out, progress=False, **CUT)
    flow = again.cutflow(CUTS, weight="w", by="process")
    assert flow.before.rows.tolist() == [7, 3, 2]
    assert flow.before.sums.tolist() == pytest.approx([sums("ac")[1], sums("b")[1] + 4, sums("d")[1]])
    mm.compact(out, progress=False)
    assert mm.open(out).cutflow(CUTS, by="year").before.rows.tolist() == [7, 5]
    relabelled = {f: {**labels, "year": labels["year"] + 1} for f, labels in sources.items()}
    again = mm.from_root(relabelled, out, progress=False, **CUT)
    flow = again.cutflow(CUTS, by="year")
    assert (flow.groups, flow.before.rows.tolist()) == ((2017, 2018), [7, 5])
    Path(next(iter(sources))).unlink()
    again = mm.from_root(dict(list(relabelled.items())[1:]), out, progress=False, missing="drop", **CUT)
    assert again.cutflow(CUTS, weight="w").before.sums == pytest.approx(sums("bcd")[1] + 4)


@pytest.mark.parametrize("told", [(), (("process", "nope"), ("year", "2016"))])
def test_merged_parts_that_do_not_tell_their_labels(ds, sources, out, tmp_path, monkeypatch, told):
    """§3.13: writers may leave them out, and then nobody knows which of the inputs are selected."""
    monkeypatch.setattr(compact, "_constants", lambda layer: told)
    mm.compact(out, progress=False)
    sources = {**sources, make(tmp_path / "e.root", [4.0], [9]): {"process": "ttH", "year": 2016}}
    ds = mm.from_root(sources, out, progress=False, **CUT)
    assert ds.cutflow(CUTS, by="process").before is None
    assert ds[ds.cut("year == 2016")].cutflow(CUTS).before is None
    assert ds.cutflow(CUTS, weight="w").before.rows == 12


def test_weights_that_read_labels(sources, out):
    """When a label changes that a weight reads, the sums are made again."""
    asked = {**CUT, "weights": "w * year"}
    flow = mm.from_root(sources, out, progress=False, **asked).cutflow(CUTS, weight="w * year", by="year")
    assert flow.before.sums.tolist() == pytest.approx([sums("ab")[1] * 2016, sums("cd")[1] * 2017])
    sources = {f: {**labels, "year": labels["year"] + 1} for f, labels in sources.items()}
    flow = mm.from_root(sources, out, progress=False, **asked).cutflow(CUTS, weight="w * year", by="year")
    assert flow.before.sums.tolist() == pytest.approx([sums("ab")[1] * 2017, sums("cd")[1] * 2018])


def test_nan_is_nan(sources, out, tmp_path):
    sources = {**sources, make(tmp_path / "x.root", [math.nan], [1]): {"process": "data", "year": 2016}}
    with pytest.warns(RuntimeWarning, match="no finite number"):
        ds = mm.from_root(sources, out, progress=False, **CUT)
    flow = ds.cutflow(CUTS, weight="w", by="process")
    assert np.isnan(flow.before.sums).tolist() == [False, False, True]
    assert "nan" in str(flow)


def test_no_field_is_read_for_it(ds):
    ds.cutflow(CUTS)
    rows_module.RESOLVED.clear()
    with count_reads() as reads:
        assert ds.cutflow(CUTS).before.rows == 11
    assert reads.log == []


def test_looks(ds, out, capsys):
    flow = ds.cutflow(CUTS)
    assert str(flow).splitlines() == [
        "cut                alone  cumulative  N-1  of before   of all",
        "-----------------  -----  ----------  ---  ---------  -------",
        "before conversion     11          11",
        "initial                6           6          54.55%  100.00%",
        "m == 1                 3           3    3     50.00%   50.00%",
        "n > 5                  3           1    3     33.33%   16.67%",
    ]
    assert "before conversion" in flow._repr_html_()
    latex = flow.to_latex().splitlines()
    assert latex[4] == r"before conversion & 11 & 11 &  &  &  \\"
    assert main(["cutflow", out, *CUTS, "--by", "process", "--weight", "w"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("before conversion") == 3
    assert ds.cutflow(CUTS, weight="w", by="process").to_latex().count(r"\hline") == 5


def test_pandas(ds):
    pd = pytest.importorskip("pandas")
    frame = ds.cutflow(CUTS).to_pandas()
    assert list(frame.index) == ["before conversion", "initial", *CUTS]
    assert frame.alone.tolist() == [11, 6, 3, 3]
    assert frame.cumulative.tolist() == [11, 6, 3, 1]
    assert frame.n_minus_one.isna().tolist() == [True, True, False, False]
    assert frame.relative.isna().tolist() == [True, False, False, False]
    assert frame.relative.iloc[1] == pytest.approx(6 / 11)
    assert frame.efficiency.isna().tolist() == [True, False, False, False]
    split = ds.cutflow(CUTS, weight="w", by="process").to_pandas()
    assert list(split.index)[:2] == [("ttbb", "before conversion"), ("ttbb", "initial")]
    assert split.loc[("ttH", "before conversion"), "cumulative_sum"] == sums("b")[1]
    assert split.loc[("ttH", "before conversion"), "cumulative_error"] == pytest.approx(sums("b")[2])
    assert isinstance(split, pd.DataFrame)


def test_it_says_why_it_is_not_known(ds, sources, out, tmp_path):
    def why(view, **options):
        flow = view.cutflow(CUTS, **options)
        assert flow.before is None
        for text in (repr(flow), html.unescape(flow._repr_html_())):
            assert (f"not known before conversion: {flow.why_not_before}" in text) == bool(flow.why_not_before)
        return flow.why_not_before

    whole = ds.cutflow(CUTS)
    assert (whole.why_not_before, "not known" in repr(whole)) == ("", False)
    assert why(ds[:3]) == "these are not all rows of some inputs"
    assert why(ds[ds.cut("n > 4")]) == "n is no label of the inputs"
    assert why(ds, by="m") == "m is no label of the inputs"
    assert why(ds, weight="n") == "the conversion was not asked for the sum of this weight: weights='n'"
    assert why(ds.assign(process="n > 4"), by="process") == "process is computed, and no label of the inputs"
    mm.assign(out, progress=False, w="m * 2.0", replace=True)
    assert why(ds.refresh(), weight="w") == "w was assigned after the conversion"
    with mm.append(out, labels={"process": "ttbb", "year": 2016}) as w:
        w.append({"n": 5, "m": 2})
    assert why(ds.refresh()) == "there are also rows that were not converted"
    uncut = mm.from_root(sources, tmp_path / "uncut.mm", progress=False)
    assert why(uncut) == "", "nothing was cut, so nobody expects it"
    assert why(uncut[:3]) == ""
    assert why(mm.from_arrays({"m": [1], "n": [2]}, tmp_path / "arrays.mm")) == ""
