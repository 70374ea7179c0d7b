"""Conversion with a cut, aliases and sums of weights, against awkward and plain Python on the same files."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tracemalloc
import warnings
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot
from root_tools import DATA, events, labelled, manifest, needs_data, part_layers, read_store, rewrite, run, write_tree

import mmdask as mm
from mmdask.errors import ExpressionError, OptionError, SchemaError, SourceError, SourceNotFoundError
from mmdask.sources.converting import streaming
from mmdask.sources.converting.table import UnreadableError
from mmdask.sources.root import reader, ttree
from mmdask.sources.root.ttree import Branch

nothing_passes = pytest.mark.filterwarnings("ignore:.*no row of .* passed the cut:RuntimeWarning")


def wide(n, seed):
    """Rows of every kind that converts: numbers, bools, arrays, lists, text."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 4, n)
    return {
        "met": rng.random(n, np.float32),
        "event": np.arange(n, dtype=np.uint64) + np.uint64((1 << 53) + 1 + 1000 * seed),
        "flag": rng.integers(0, 2, n).astype(bool),
        "weight": rng.integers(-8, 9, n) / 4,
        "cov": rng.random((n, 2, 2)),
        "pt": ak.unflatten(rng.random(int(counts.sum()), np.float32), counts),
        "name": ak.Array([f"é{i % 7}" * (i % 3) for i in range(n)]),
    }


CHUNKS = [wide(n, seed) for seed, n in enumerate([40, 1, 60, 25])]
TYPES = {
    "met": "f4",
    "event": "u8",
    "flag": "?",
    "weight": "f8",
    "cov": np.dtype(("f8", (2, 2))),
    "pt": "var * float32",
    "name": "string",
}


@pytest.fixture
def source(tmp_path):
    return write_tree(tmp_path / "wide.root", CHUNKS, types=TYPES)


def rows_of(path, tree="events"):
    """All rows of a file, by uproot alone."""
    with uproot.open(path) as file:
        return {name: branch.array() for name, branch in file[tree].iteritems()}


def first_or(array, index, default):
    return ak.fill_none(ak.firsts(array[:, index:]), default)


def check(out, rows, mask, names=None):
    """The store holds the rows of a mask."""
    got = read_store(out)
    for name in names if names is not None else rows:
        assert got[name].tolist() == ak.to_list(ak.Array(rows[name])[mask]), name


CUTS = {
    "met > 0.5": lambda r: r["met"] > 0.5,
    "event % 3 == 0 and flag": lambda r: (np.asarray(r["event"]) % 3 == 0) & np.asarray(r["flag"]),
    "any(pt > 0.5) & !flag": lambda r: ak.any(r["pt"] > 0.5, axis=1) & ~r["flag"],
    "pt[1] > 0.5": lambda r: first_or(r["pt"], 1, 0.0) > 0.5,
    "not (pt[1] > 0.5)": lambda r: (ak.num(r["pt"]) > 1) & ~(first_or(r["pt"], 1, 0.0) > 0.5),
    'name == "é1"': lambda r: r["name"] == "é1",
    "sum(pt) > met and len(pt) == npt": lambda r: ak.sum(ak.values_astype(r["pt"], "f8"), axis=1) > r["met"],
    "met < 0": lambda r: r["met"] < 0,
    "met >= 0": lambda r: r["met"] >= 0,
    "true": lambda r: r["met"] >= 0,
}


@pytest.mark.parametrize("part_nbytes", [1 << 30, 2_000])
@pytest.mark.parametrize("cut", CUTS)
@nothing_passes
def test_rows_that_pass(source, tmp_path, cut, part_nbytes):
    """Every kind of field, whether the cut reads it or not, in one part or several."""
    rows = rows_of(source)
    mask = np.asarray(CUTS[cut](rows))
    run(source, tmp_path / "o.mm", cut=cut, part_nbytes=part_nbytes)
    check(tmp_path / "o.mm", rows, mask)
    got = mm.open(tmp_path / "o.mm")
    assert len(got) == mask.sum()
    assert sum(s.stop - s.start for s in got.sources) == len(mask)
    assert [s.rows for s in got.sources] == [int(mask[s.start : s.stop].sum()) for s in got.sources]
    assert {s.cut for s in got.sources} == {cut}
    assert (len(got.sources) > 1) == (part_nbytes == 2_000)
    assert mm.verify(tmp_path / "o.mm", show_progress=False).ok


@pytest.mark.parametrize("limit", [1, 1_000])
def test_fields_whose_runs_end_elsewhere(source, tmp_path, monkeypatch, limit):
    """Baskets of several sizes: each field is held until the others have its rows."""
    original = Branch.weights._find
    monkeypatch.setattr(Branch, "weights", property(lambda column: [w * len(column.name) for w in original(column)]))
    monkeypatch.setattr(streaming, "RUN_NBYTES", limit)
    monkeypatch.setattr(streaming, "_LEAST_NBYTES", limit)
    monkeypatch.setattr(streaming, "_BLOCK_ROWS", 7)
    rows = rows_of(source)
    run(source, tmp_path / "o.mm", cut="any(pt > met) and weight > 0", aliases={"x": "sum(pt)"}, weights="weight")
    mask = np.asarray(ak.any(rows["pt"] > rows["met"], axis=1) & (rows["weight"] > 0))
    check(tmp_path / "o.mm", rows, mask)
    got = mm.open(tmp_path / "o.mm")
    assert got.sources[0].weights == (("weight", ak.sum(rows["weight"]), ak.sum(rows["weight"] ** 2)),)


# What is read -------------------------------------------------------------------------------------------------------


def test_what_only_the_cut_needs_is_read_and_not_kept(source, tmp_path, baskets):
    out = tmp_path / "o.mm"
    run(source, out, fields=["met"], cut="any(pt > 0.5)", aliases={"twice": "2 * weight"})
    assert list(read_store(out)) == ["met", "twice"]
    assert {n for _, n, _ in baskets} == {"met", "pt", "weight"}
    assert len(baskets) == len(set(baskets)), "each basket is read once"
    rows = rows_of(source)
    check(out, {"met": rows["met"], "twice": rows["weight"] * 2}, np.asarray(ak.any(rows["pt"] > 0.5, axis=1)))
    baskets.clear()
    run(source, tmp_path / "all.mm", cut="any(pt > 0.5)")
    assert len(baskets) == len(set(baskets))
    assert {n for _, n, _ in baskets} == {*rows}


def test_baskets_in_which_no_row_passes_are_left_out(tmp_path, baskets):
    path = write_tree(tmp_path / "a.root", [events(50, s, shift=float(s)) for s in (0, 2, 1, 2)])
    run(path, tmp_path / "o.mm", cut="met >= 2")
    assert [b for _, name, b in baskets if name == "met"] == [0, 1, 2, 3]
    assert [b for _, name, b in baskets if name == "pt"] == [1, 3]
    rows = rows_of(path)
    check(tmp_path / "o.mm", rows, np.asarray(rows["met"] >= 2))


@nothing_passes
def test_no_row_passes(files, out, opened, baskets):
    """The store knows its inputs, and reads nothing of them again."""
    run(files, out, cut="met > 5", aliases={"ht": "sum(pt)"})
    assert {name for _, name, _ in baskets} == {"met", "pt"}
    ds = mm.open(out)
    assert (len(ds), [s.rows for s in ds.sources]) == (0, [0, 0, 0])
    assert [ds[n].compute().tolist() for n in ("met", "ht")] == [[], []]
    opened.clear()
    run(files, out, cut="met > 5", aliases={"ht": "sum(pt)"})
    assert opened == []
    assert manifest(out)["generation"] == 1


@nothing_passes
def test_fields_that_are_computed_of_no_rows(files, out):
    run(files[:2], out, cut="met > 5", aliases={"ht": "sum(pt)"})
    mm.assign(out, progress=False, double="2 * ht", mean="sum(pt) / met")
    mm.drop(out, "number")
    run(files[:1], out, cut="met > 5", aliases={"ht": "sum(pt)"}, missing="drop")
    run(files, out, cut="met > 5", aliases={"ht": "sum(pt)"})
    ds = mm.open(out)
    assert (len(ds), ds.fields[-2:]) == (0, ("double", "mean"))
    assert "number" not in ds.fields
    mm.compact(out, progress=False)
    assert len(mm.open(out)) == 0


def test_files_without_rows(tmp_path, opened):
    none = write_tree(tmp_path / "none.root", [events(0)])
    some = write_tree(tmp_path / "some.root", [events(10, 1)])
    run([none, some], tmp_path / "o.mm", cut="met > 0.5", weights="met", aliases={"lead": "max(pt)"})
    rows = rows_of(some)
    check(tmp_path / "o.mm", rows, np.asarray(rows["met"] > 0.5))
    assert mm.open(tmp_path / "o.mm").sources[0].weights == (("met", 0.0, 0.0),)
    opened.clear()
    run([none, some], tmp_path / "o.mm", cut="met > 0.5", weights="met", aliases={"lead": "max(pt)"})
    assert opened == []


@nothing_passes
def test_memory_is_bounded(tmp_path, monkeypatch):
    """48 MB in two branches that the cut reads and 24 MB in one that it does not, in runs of 2 MiB together."""
    monkeypatch.setattr(reader, "RUN_NBYTES", 2 << 20)
    monkeypatch.setattr(streaming, "RUN_NBYTES", 2 << 20)
    rng = np.random.default_rng(0)

    def chunk():
        return {name: rng.random(62_500) for name in "abc"}

    path = write_tree(
        tmp_path / "large.root", (chunk() for _ in range(48)), types=dict.fromkeys("abc", "f8"), compression=None
    )
    run(path, tmp_path / "warm.mm", cut="a > 2")
    tracemalloc.start()
    try:
        run(path, tmp_path / "o.mm", cut="a < b", aliases={"d": "a - b"}, weights="a")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 24e6
    assert len(mm.open(tmp_path / "o.mm")) == pytest.approx(1.5e6, rel=0.01)


# Errors -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"cut": "nope > 1"}, ExpressionError, r"a\.root, cut: no field 'nope'.*\n    nope > 1\n    \^\^\^\^$"),
        ({"cut": "metx > 1", "fields": ["pt"]}, ExpressionError, "did you mean 'met'"),
        ({"cut": "met"}, ExpressionError, "this is a real number"),
        ({"cut": "pt > 1"}, ExpressionError, "any"),
        ({"cut": "met >"}, ExpressionError, r"^cut: .*ends too early"),
        ({"cut": " "}, ExpressionError, "empty"),
        ({"cut": 3}, OptionError, "cut is text"),
        ({"aliases": {"met": "2 * number"}}, SchemaError, "the alias 'met' is also a field there"),
        ({"aliases": {"met": "2 * number"}, "fields": ["pt"]}, SchemaError, "the alias 'met' is also a field there"),
        ({"aliases": {"year": "met"}}, OptionError, "both an alias and a label"),
        ({"aliases": {"x": "x + 1"}}, ExpressionError, "computed from itself"),
        ({"aliases": {"x": "y", "y": "x"}}, ExpressionError, "computed from each other"),
        ({"aliases": {"x": "met +"}}, ExpressionError, r"^alias 'x': "),
        (
            {"aliases": {"x": "mett + 1"}},
            ExpressionError,
            r"a\.root, in the expression of the field 'x': no field 'mett'",
        ),
        ({"aliases": {"x": 3}}, OptionError, "the alias 'x' is an expression, as text"),
        ({"aliases": {"": "met"}}, SchemaError, "a field name"),
        ({"aliases": ["x"]}, OptionError, "aliases map names to expressions"),
        ({"weights": "pt"}, OptionError, "one value per item"),
        ({"weights": "met > 1"}, OptionError, "a weight is a number"),
        ({"weights": ["met", 3]}, OptionError, "weights are names"),
        ({"weights": 3}, OptionError, "weights are names"),
        ({"weights": "wight"}, ExpressionError, "a.root, weight: no field 'wight'"),
        ({"fields": []}, OptionError, "fields is empty"),
    ],
)
def test_errors_before_any_data_are_read(files, out, baskets, options, error, message):
    import re

    with pytest.raises(error) as raised:
        run(labelled(files, year=[2016] * 3), out, **options)
    assert re.search(message, str(raised.value), re.DOTALL)
    assert baskets == []
    assert not out.exists()


def test_a_name_that_is_a_label_and_a_field(files, out):
    run(labelled(files, number=[1, 2, 3]), out, fields=["met"], cut="met > 0.5")
    with pytest.raises(SchemaError, match="'number'.*both a label and a field"):
        run(labelled(files, number=[1, 2, 3]), out, fields=["met"], cut="number > 1", update=True)


def test_fields_that_cannot_be_read(source, tmp_path, monkeypatch):
    original = ttree.column_of
    monkeypatch.setattr(ttree, "column_of", lambda name, *a: "is odd" if name == "flag" else original(name, *a))
    with pytest.raises(SchemaError, match="'flag', which an expression names, cannot be read: is odd"):
        run(source, tmp_path / "o.mm", fields=["met"], cut="flag")
    monkeypatch.undo()
    original = Branch.read

    def read(column, start, stop, wanted):
        if column.name == "weight" and start > 40:
            raise UnreadableError("odd bytes")
        return original(column, start, stop, wanted)

    monkeypatch.setattr(Branch, "read", read)
    monkeypatch.setattr(streaming, "RUN_NBYTES", 1)
    monkeypatch.setattr(streaming, "_LEAST_NBYTES", 1)
    with pytest.raises(
        SourceError, match=r"wide\.root.*'weight', which the cut, an alias or a weight needs.*odd bytes"
    ):
        run(source, tmp_path / "o.mm", weights="weight")
    monkeypatch.setattr(reader, "RUN_NBYTES", 1)
    with pytest.warns(mm.errors.SkippedFieldsWarning, match="'weight' in .*odd bytes"):
        mm.from_root(source, tmp_path / "p.mm", cut="met > 0.2", progress=False)


def test_rows_that_have_no_value(tmp_path):
    path = write_tree(tmp_path / "a.root", [events(50, 0)])
    with pytest.raises(ExpressionError, match=r"a\.root: .* does not fit int64 in row 0"):
        run(path, tmp_path / "o.mm", cut="number * number > 0")
    first = int(np.argmax(np.asarray(ak.num(rows_of(path)["pt"]) == 0)))
    with pytest.raises(OptionError, match=rf"a\.root: the weight 'max\(pt\)' is missing in row {first};.*where"):
        run(path, tmp_path / "p.mm", weights=["max(pt)"])


# Aliases ------------------------------------------------------------------------------------------------------------


def test_aliases_of_every_kind(source, tmp_path):
    aliases = {
        "ht": "sum(pt)",
        "hard": "pt > 0.5",
        "lead": "max(pt)",
        "scaled": "pt * ht",
        "late": "year > 2016 and lead > 0.5",
        "n": "len(pt) - 1",
    }
    sources = {source: {"year": 2017}}
    run(sources, tmp_path / "o.mm", cut="late or ht < 0.2", aliases=aliases, part_nbytes=2_000)
    rows = rows_of(source)
    ht = ak.sum(ak.values_astype(rows["pt"], "f8"), axis=1)
    lead = ak.max(rows["pt"], axis=1)
    late = ak.fill_none(lead > 0.5, False)
    mask = np.asarray(late | (ht < 0.2))
    ds = mm.open(tmp_path / "o.mm")
    assert list(ds.fields) == [*rows, *aliases, "year"]
    assert {n: ds.schema[n].expression for n in ds.fields} == {**dict.fromkeys(rows, ""), **aliases, "year": ""}
    assert [ds.schema[n].describe() for n in aliases] == [
        "float64",
        "ragged bool",
        "optional float32",
        "ragged float64",
        "optional bool",
        "int64",
    ]
    assert ds["ht"].compute() == pytest.approx(np.asarray(ht[mask]))
    assert ds["n"].compute().tolist() == (ak.num(rows["pt"])[mask] - 1).tolist()
    assert ds["lead"].compute().tolist() == lead[mask].tolist()
    assert ds["late"].compute().tolist() == (lead > 0.5)[mask].tolist()
    assert ak.to_list(ds["hard"].to_awkward()) == (rows["pt"] > 0.5)[mask].tolist()
    assert ak.all(abs(ds["scaled"].to_awkward() - (rows["pt"] * ht)[mask]) < 1e-12)
    assert mm.verify(tmp_path / "o.mm", show_progress=False).ok


def test_aliases_of_what_is_kept_are_computed_for_appended_rows(files, out):
    run(files, out, exclude="number", aliases={"ht": "sum(pt)", "odd": "number % 2", "both": "ht + odd"})
    ds = mm.open(out)
    assert [ds.schema[n].expression for n in ("ht", "odd", "both")] == ["sum(pt)", "", "ht + odd"]
    n = len(ds)
    with pytest.raises(SchemaError, match="odd"), mm.append(out) as w:
        w.append({"met": 1.0, "npt": 2, "pt": [1.0, 2.0]})
    with mm.append(out) as w:
        w.append({"met": 1.0, "npt": 2, "pt": [1.0, 2.0], "odd": 1})
    got = ds.refresh()[n]
    assert (got["ht"], got["odd"], got["both"]) == (3.0, 1, 4.0)
    added = write_tree(Path(files[0]).parent / "d.root", [events(5, 9)])
    run([*files, added], out, exclude="number", aliases={"ht": "sum(pt)", "odd": "number % 2", "both": "ht + odd"})
    rows = rows_of(added)
    assert mm.open(out)["odd"].compute()[-5:].tolist() == (np.asarray(rows["number"]) % 2).tolist()
    extra = [len(layers) for layers in part_layers(out)]
    assert extra == [1, 1, 1, 2, 1], "only the appended row has a layer of what was computed"


def test_fields_that_read_an_alias_and_fields_that_replace_one(files, out):
    run(files[:2], out, aliases={"ht": "sum(pt)", "x": "met + 1"})
    mm.assign(out, progress=False, mean="ht / len(pt)")
    mm.assign(out, progress=False, replace=True, x="met + 2")
    run(files, out, aliases={"ht": "sum(pt)", "x": "met + 1"})
    ds = mm.open(out)
    rows = [rows_of(f) for f in files]
    met = ak.concatenate([r["met"] for r in rows])
    ht = ak.concatenate([ak.sum(ak.values_astype(r["pt"], "f8"), axis=1) for r in rows])
    n = ak.concatenate([ak.num(r["pt"]) for r in rows])
    assert ds["x"].compute() == pytest.approx(ak.to_numpy(met).astype("f8") + 2)
    with np.errstate(invalid="ignore"):
        assert ds["mean"].compute() == pytest.approx(ak.to_numpy(ht) / ak.to_numpy(n), nan_ok=True)
    assert (ds.schema["x"].expression, ds.schema["ht"].expression) == ("met + 2", "sum(pt)")
    assert mm.verify(out, show_progress=False).ok


def test_changed_aliases_take_the_place_of_the_old(files, out, monkeypatch):
    run(files, out, aliases={"ht": "sum(pt)", "gone": "met"})
    with pytest.raises(OptionError, match=r"aliases was \{'ht': 'sum\(pt\)', 'gone': 'met'\} and is"):
        run(files, out, aliases={"ht": "sum(pt) + 1"})
    # an update that dies has left its options behind, and the old aliases in the manifest
    from mmdask.sources.converting import conversion

    monkeypatch.setattr(conversion, "commit", lambda *args, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(files, out, aliases={"ht": "sum(pt) + 1"}, update=True)
    monkeypatch.undo()
    run(files, out, aliases={"ht": "sum(pt) + 1"})
    ds = mm.open(out)
    ht = np.concatenate([np.asarray(ak.sum(ak.values_astype(rows_of(f)["pt"], "f8"), axis=1)) for f in files])
    assert "gone" not in ds.fields
    assert ds.schema["ht"].expression == "sum(pt) + 1"
    assert ds["ht"].compute() == pytest.approx(ht + 1)


def test_changed_aliases_and_appended_rows(files, out):
    run(files, out, aliases={"ht": "sum(pt)"})
    with mm.append(out) as w:
        w.append({"met": 1.0, "number": 1, "npt": 2, "pt": [1.0, 2.0]})
    with pytest.raises(SchemaError, match="'ht' was computed as sum.pt., and is now computed as max.*appended rows"):
        run(files, out, aliases={"ht": "max(pt) * 1.0"}, update=True)
    for i, path in enumerate(files):
        rewrite(path, [events(4, 50 + i)])
    run(files, out, aliases={"ht": "sum( pt )"})
    ht = np.concatenate([np.asarray(ak.sum(ak.values_astype(rows_of(f)["pt"], "f8"), axis=1)) for f in files])
    assert mm.open(out)["ht"].compute() == pytest.approx([*ht, 3.0])


def test_an_alias_that_is_optional_in_files_that_were_finished(files, out, monkeypatch):
    """All layers are there, and the manifest is not: what the aliases are is known from the layers."""
    from mmdask.sources.converting import conversion

    run(files, out.with_name("whole.mm"), aliases={"lead": "max(pt)", "odd": "number % 2"}, exclude="number")
    monkeypatch.setattr(conversion, "commit", lambda *args, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(files, out, aliases={"lead": "max(pt)", "odd": "number % 2"}, exclude="number")
    monkeypatch.undo()
    run(files, out, aliases={"lead": "max(pt)", "odd": "number % 2"}, exclude="number")
    assert mm.open(out).schema == mm.open(out.with_name("whole.mm")).schema
    assert mm.open(out).schema["lead"].optional == (0,)


def test_aliases_alone(files, out):
    run(files, out, fields=[], cut="met > 0.5", aliases={"ht": "sum(pt)"})
    ds = mm.open(out)
    assert ds.fields == ("ht",)
    want = [np.asarray(ak.sum(ak.values_astype(r["pt"], "f8"), axis=1)[r["met"] > 0.5]) for r in map(rows_of, files)]
    assert ds["ht"].compute() == pytest.approx(np.concatenate(want))


# Sums of weights ----------------------------------------------------------------------------------------------------


def test_sums_are_of_all_rows_before_the_cut(source, tmp_path):
    rows = rows_of(source)
    weights = ["weight", "twice", "weight * met", "event - 9007199254740993"]
    run(source, tmp_path / "o.mm", cut="met > 0.9", aliases={"twice": "2 * weight"}, weights=weights, part_nbytes=2_000)
    found = mm.open(tmp_path / "o.mm").sources
    w, met = np.asarray(rows["weight"]), np.asarray(rows["met"]).astype("f8")
    event = np.asarray(rows["event"]).astype("i8") - 9007199254740993
    assert len(found) > 1
    for i, values in enumerate([w, 2 * w, w * met, event.astype("f8")]):
        assert math.fsum(s.weights[i].sum for s in found) == pytest.approx(math.fsum(values), rel=1e-14)
        assert math.fsum(s.weights[i].sum2 for s in found) == pytest.approx(math.fsum(values**2), rel=1e-14)
    assert [x.weight for x in found[0].weights] == ["weight", "twice", "(weight * met)", "(event - 9007199254740993)"]
    for s in found:
        assert s.weights[0].sum == w[s.start : s.stop].sum(), "quarters add exactly"


def test_sums_without_a_cut_and_after_changes_of_the_store(files, out, tmp_path):
    run(files, out, weights="met")
    expected = [np.asarray(rows_of(f)["met"]).astype("f8") for f in files]

    def sums():
        return [(Path(s.uri).stem, *s.weights) for s in mm.open(out).sources]

    def of(*names):
        sums = {n: ("met", x.sum(), (x * x).sum()) for n, x in zip("abc", expected, strict=True)}
        return [(n, pytest.approx(sums[n][1]), pytest.approx(sums[n][2])) for n in names]

    def flat():
        return [(n, w.sum, w.sum2) for n, w in sums()]

    assert flat() == of("a", "b", "c")
    mm.compact(out, progress=False)
    assert len(manifest(out)["parts"]["rows"]) == 1
    assert flat() == of("a", "b", "c")
    rewrite(files[1], [events(4, 77)])
    expected[1] = np.asarray(rows_of(files[1])["met"]).astype("f8")
    run(files, out, weights="met")
    assert flat() == of("a", "b", "c")
    Path(files[0]).unlink()
    with pytest.raises(SourceNotFoundError):
        run(files, out, weights="met")
    run(files[1:], out, weights="met", missing="drop")
    assert flat() == of("b", "c")
    mm.open(out).save(tmp_path / "saved.mm", progress=False)
    assert [s.weights for s in mm.open(tmp_path / "saved.mm").sources] == [()]


def test_nan_and_infinite_weights(tmp_path):
    """§3.12: null where it is no finite number, and a warning that names the file."""
    values = {"a": [1.0, 2.0], "b": [1.0, math.nan], "c": [1.0, math.inf], "d": [1e200, 1e200]}
    files = [write_tree(tmp_path / f"{n}.root", [{"w": np.array(x)}]) for n, x in values.items()]
    with pytest.warns(RuntimeWarning, match=r"weight 'w' over .*b\.root, and 2 more like it is no finite number"):
        mm.from_root(files, tmp_path / "o.mm", weights="w", progress=False)
    sums = [layers[0]["source"]["weights"][0] for layers in part_layers(tmp_path / "o.mm")]
    assert [(s["sum"], s["sum2"]) for s in sums] == [(3.0, 5.0), (None, None), (None, None), (2e200, None)]
    assert [math.isnan(s.weights[0].sum) for s in mm.open(tmp_path / "o.mm").sources] == [False, True, True, False]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mm.from_root(files, tmp_path / "o.mm", weights="w", progress=False)


# Again --------------------------------------------------------------------------------------------------------------

ASKED = {"cut": "any(pt > 0.5)", "aliases": {"ht": "sum(pt)"}, "weights": ["met"], "fields": ["met", "pt"]}


def expected_of(files):
    rows = [rows_of(f) for f in files]
    masks = [np.asarray(ak.any(r["pt"] > 0.5, axis=1)) for r in rows]
    return {n: [x for r, m in zip(rows, masks, strict=True) for x in r[n][m].tolist()] for n in ("met", "pt")}


def check_asked(out, files):
    got = read_store(out)
    assert {n: got[n].tolist() for n in ("met", "pt")} == expected_of(files)
    assert got["ht"] == pytest.approx([sum(x) for x in expected_of(files)["pt"]])


def test_only_what_is_new_is_read(files, out, opened):
    run(files[:2], out, **ASKED)
    check_asked(out, files[:2])
    opened.clear()
    run(files[:2], out, **{**ASKED, "cut": "  any( (pt)>0.5 ) "})
    assert opened == [], "the same cut, spelled otherwise"
    run(files, out, **ASKED)
    assert set(opened) == {"c.root"}
    rewrite(files[0], [events(7, 99)])
    opened.clear()
    run(files, out, **ASKED)
    assert set(opened) == {"a.root"}
    check_asked(out, files)
    assert mm.open(out).history()[0].action.startswith("convert 2 inputs, ")
    assert mm.open(out).history()[0].action.endswith("of 30 that pass any(pt > 0.5); ht = sum(pt)")


@pytest.mark.parametrize("change", [{"cut": "any(pt > 0.6)"}, {"weights": ["met", "number"]}, {"cut": None}])
def test_changed_options(files, out, opened, change):
    run(files, out, **ASKED)
    opened.clear()
    with pytest.raises(OptionError, match=rf"{next(iter(change))} was .*update=True \(--update\)"):
        run(files, out, **(ASKED | change))
    assert set(opened) == {"a.root"}, "for a message: whether the options fit at all"
    opened.clear()
    run(files, out, update=True, **(ASKED | change))
    assert set(opened) == {"a.root", "b.root", "c.root"}
    if change.get("cut", "") is None:
        assert len(mm.open(out)) == 60
        assert mm.open(out).sources[0].cut == ""


def test_the_same_store_after_merging(files, out, opened):
    """Many small parts that a cut leaves become one, and each input is still known."""
    run(files, out, **ASKED)
    mm.compact(out, progress=False)
    assert len(manifest(out)["parts"]["rows"]) == 1
    check_asked(out, files)
    opened.clear()
    run(files, out, **ASKED)
    assert opened == []
    rewrite(files[1], [events(7, 99)])
    run(files, out, **ASKED)
    assert set(opened) == {"b.root"}
    check_asked(out, files)
    assert mm.open(out).schema["ht"].expression == "sum(pt)"
    mm.compact(out, progress=False)
    mm.assign(out, progress=False, mean="ht / met")
    mm.compact(out, progress=False)
    added = write_tree(Path(files[0]).parent / "d.root", [events(20, 5)])
    opened.clear()
    run([*files, added], out, **ASKED)
    assert set(opened) == {"d.root"}
    check_asked(out, [*files, added])
    got = read_store(out)
    assert got["mean"] == pytest.approx(got["ht"] / got["met"])


def test_labels_that_the_cut_reads(files, out, opened):
    """A label that decides which rows pass is part of what was read; others are not."""
    cut = "process == 'ttH' or met > 0.5"
    run(labelled(files, process=["ttH", "tt", "tt"], year=[1, 1, 1]), out, cut=cut)
    rows = [rows_of(f) for f in files]

    def lengths(*names):
        return [len(r["met"]) if n == "ttH" else int(np.sum(r["met"] > 0.5)) for r, n in zip(rows, names, strict=True)]

    assert manifest(out)["parts"]["rows"] == lengths("ttH", "tt", "tt")
    opened.clear()
    run(labelled(files, process=["ttH", "tt", "tt"], year=[1, 2, 3]), out, cut=cut)
    assert opened == []
    run(labelled(files, process=["ttH", "tt", "ttH"], year=[1, 2, 3]), out, cut=cut)
    assert set(opened) == {"c.root"}
    assert manifest(out)["parts"]["rows"] == lengths("ttH", "tt", "ttH")
    with pytest.raises(ExpressionError, match="no label 'ttW'"):
        run(labelled(files, process=["ttH", "tt", "tt"]), out.with_name("x.mm"), cut="process == 'ttW'")


@pytest.mark.parametrize("stop_at", [1, 2, 4, 6])
def test_killed_and_resumed(files, out, opened, stop_at):
    script = f"""
import os, signal
from mmdask.sources.root.ttree import Branch
from mmdask.sources.root import convert_root
original, calls = Branch.read, []
def read_run(*args):
    calls.append(1)
    if len(calls) == {stop_at}:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args)
Branch.read = read_run
convert_root({files!r}, {str(out)!r}, progress=False, **{ASKED!r}, exclude="number")
"""
    dead = subprocess.run([sys.executable, "-c", script], check=False)
    assert dead.returncode == -9
    written = (stop_at - 1) // 2
    finished = sum(".tmp-" not in layer.name for layer in (out / "parts").iterdir())
    assert max(0, written - 1) <= finished <= written, "the last one may have been on its way to the disk"
    run(files, out, exclude="number", **ASKED)
    assert set(opened) == {f"{name}.root" for name in "abc"[finished:]}
    check_asked(out, files)
    assert [len(s.weights) for s in mm.open(out).sources] == [1, 1, 1]
    ends = [s.weights[0].sum for s in mm.open(out).sources]
    assert ends == pytest.approx([float(np.asarray(rows_of(f)["met"]).astype("f8").sum()) for f in files])


# The shell, and files that ROOT wrote --------------------------------------------------------------------------------


def test_the_command(files, out, capsys):
    from mmdask.cli import main

    options = ["--cut", "any(pt > 0.5)", "--alias", "ht=sum(pt)", "--alias", "same=met==met", "--weight", "met"]
    assert main(["convert", *files, "-o", str(out), "--quiet", "--fields", "met", "pt", *options]) == 0
    check_asked(out, files)
    assert json.loads((out / "conversion.json").read_bytes())["options"]["aliases"]["same"] == "(met == met)"
    capsys.readouterr()
    assert main(["info", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "before the cut" in shown
    assert "met: " in shown
    assert main(["convert", *files, "-o", str(out), "--alias", "ht"]) == 1
    assert "a name and an expression" in capsys.readouterr().err
    assert main(["convert", *files, "-o", str(out), "--alias", "a=met", "--alias", "a=met"]) == 1


@needs_data
def test_files_that_root_wrote(tmp_path):
    reference = json.loads((DATA / "root" / "REFERENCE.json").read_bytes())["synthetic"]
    trees = ["ttbb_mc16a:nominal_Loose", "ttH_mc16d:nominal_Loose", "data_2017:nominal_Loose"]
    sources = {
        str(DATA / "atlas" / f"{name.partition(':')[0]}.root") + ":" + name.partition(":")[2]: {"process": name[:4]}
        for name in trees
    }
    asked = {"cut": "nJets >= 6 & nBTags_77 >= 2", "aliases": {"hard": "count(jet_pt > 100)"}, "weights": "weight_mc"}
    run(sources, tmp_path / "o.mm", exclude=["nJets", "nBTags_77"], **asked)
    ds = mm.open(tmp_path / "o.mm")
    expected = [reference[name] for name in trees]
    assert [s.rows for s in ds.sources] == [e["nJets >= 6 & nBTags_77 >= 2"] for e in expected]
    assert [s.stop - s.start for s in ds.sources] == [e["entries"] for e in expected]
    assert [s.weights[0].sum for s in ds.sources] == pytest.approx([e["sumw_all"] for e in expected], rel=1e-9)
    ends = np.cumsum([0, *(s.rows for s in ds.sources)])
    w = ds["weight_mc"].compute().astype("f8")
    assert [w[a:b].sum() for a, b in zip(ends[:-1], ends[1:], strict=True)] == pytest.approx(
        [e["sumw_pass"] for e in expected], rel=1e-9
    )
    assert "nJets" not in ds.fields
    for name, (a, b) in zip(trees, zip(ends[:-1], ends[1:], strict=True), strict=True):
        file, _, tree = name.partition(":")
        rows = rows_of(DATA / "atlas" / f"{file}.root", tree)
        mask = np.asarray((rows["nJets"] >= 6) & (rows["nBTags_77"] >= 2))
        assert ak.to_list(ds["jet_pt"].to_awkward()[a:b]) == rows["jet_pt"][mask].tolist()
        assert ds["eventNumber"].compute()[a:b].tolist() == rows["eventNumber"][mask].tolist()
        assert ds["hard"].compute()[a:b].tolist() == ak.sum(rows["jet_pt"] > 100, axis=1)[mask].tolist()
