"""`ds.explain`: how an expression is read."""

from __future__ import annotations

import numpy as np
import pytest

import mmdask as mm
from mmdask.testing import count_reads, max_computes


@pytest.fixture
def ds(tmp_path):
    data = {
        "met": np.arange(4, dtype="f4"),
        "n": np.arange(4, dtype="u1"),
        "jet_pt": [[1.0], [], [2.0, 3.0], [4.0]],
        "process": mm.Field.category("process", labels=["a", "b"]),
    }
    fields = [mm.Field.dense("met", "f4"), mm.Field.dense("n", "u1"), mm.Field.ragged("jet_pt", "f4")]
    with mm.create(tmp_path / "s.mm", fields=[*fields, data.pop("process")]) as w:
        w.extend({**data, "process": ["a", "b", "a", "a"]})
    return mm.open(tmp_path / "s.mm")


def steps_of(explanation):
    return [(s.level, s.text, s.dtype, s.depth, s.missing) for s in explanation.steps]


def test_steps_types_and_depths(ds):
    found = ds.explain("any(jet_pt > met) && n >= x or process == 'a'", x=3)
    assert found.canonical == '((any((jet_pt > met)) and (n >= 3)) or (process == "a"))'
    assert steps_of(found) == [
        (0, found.canonical, "bool", 0, False),
        (1, "(any((jet_pt > met)) and (n >= 3))", "bool", 0, False),
        (2, "any((jet_pt > met))", "bool", 0, False),
        (3, "(jet_pt > met)", "bool", 1, False),
        (4, "jet_pt", "float32", 1, False),
        (4, "met", "float32", 0, False),
        (2, "(n >= 3)", "bool", 0, False),
        (3, "n", "uint8", 0, False),
        (1, '(process == "a")', "bool", 0, False),
        (2, "process", "category", 0, False),
    ]
    assert found.fields == {"jet_pt": 4 * 4 + 5 * 8, "met": 16, "n": 4, "process": 4}
    assert found.may_be_missing == ()
    text = repr(found)
    assert "one value per row" in text
    assert "jet_pt (56 B), met (16 B)" in text
    assert found._repr_html_().count("<tr") >= len(found.steps)


def test_where_missing_values_come_from(ds):
    found = ds.explain("jet_pt[1] > 2 || max(jet_pt) > 3 || n < 1")
    assert found.may_be_missing == ("jet_pt[1]", "max(jet_pt)")
    assert "jet_pt[1], max(jet_pt) may have no value; rows where it decides pass neither" in repr(found)
    cut = ds.cut("jet_pt[1] > 2")
    assert cut.count() + (~cut).count() < len(ds)
    assert "optional bool" in repr(ds.explain(cut))


def test_computed_fields_are_written_out_and_repeated_pieces_shown_once(ds):
    more = ds.assign(ht="sum(jet_pt)", share="jet_pt / ht")
    found = more.explain("share * ht > 2 * ht")
    assert found.canonical == "(((jet_pt / sum(jet_pt)) * sum(jet_pt)) > (2 * sum(jet_pt)))"
    texts = [s.text for s in found.steps]
    assert texts.count("sum(jet_pt)") == 1
    assert "one value per item" in repr(found)


def test_what_is_kept_and_skipped(tmp_path):
    path = tmp_path / "parts.mm"
    for process in ("ttbb", "ttH", "ttH"):
        with mm.create(path, fields=[mm.Field.category("process")]) if not path.exists() else mm.append(path) as w:
            w.extend({"process": [process] * 10, "met": np.arange(10.0)})
    ds = mm.open(path)
    found = ds.explain("process == 'ttH' & met > 5")
    assert (found.parts, found.kept_parts, found.skipped_rows, found.rows) == (3, 1, 10, 30)
    assert "kept        in 1 of 3 parts; the rest is computed when it is needed" in repr(found)
    assert "skipped     10 of 30 rows by labels, and smallest and largest values" in repr(found)
    assert ds.cut("process == 'ttH' & met > 5").count() == 8
    found = ds.explain("process == 'ttH' & met > 5")
    assert (found.kept_parts, found.skipped_rows) == (3, 10)
    assert "in 3 of 3 parts; nothing is read any more" in repr(found)
    assert "kept" not in repr(ds.explain("met * 2"))
    keyed = ds.cut(lambda rows: rows["met"] > 3, key="mine", fields=["met"])
    assert ds.explain(keyed).kept_parts == 0
    keyed.count()
    assert ds.explain(keyed).kept_parts == 3
    assert ds.explain(keyed & ds.cut("met > 7")).kept_parts == 0


def test_it_reads_and_computes_nothing(ds):
    with max_computes(0), count_reads() as reads:
        repr(ds.explain("sum(jet_pt) > 3 & met > 1"))
    assert reads.log == []


def test_long_cuts_are_cut_off_in_the_table_only(ds):
    text = " or ".join(f"met == {i}.5 + n" for i in range(100))
    found = ds.explain(text)
    assert len(found.steps) > 100
    assert f"... and {len(found.steps) - 60} more steps" in repr(found)
    assert max(map(len, repr(found).splitlines()[4:])) < 120


def test_pieces_of_pieces_with_the_same_text(ds):
    found = ds.explain("process != 'a' and 1 < n < 3 and 1 < n < 3 + met")
    assert [(s.level, s.text) for s in found.steps][1:] == [
        (1, '(process != "a")'),
        (2, "process"),
        (1, "(1 < n < 3)"),
        (2, "n"),
        (1, "(1 < n < (3 + met))"),
        (2, "(3 + met)"),
        (3, "met"),
    ]


def test_mistakes(ds):
    with pytest.raises(mm.ExpressionError, match=r"did you mean 'jet_pt'"):
        ds.explain("jetpt > 3")
    with pytest.raises(mm.ExpressionError, match="constant 'y' is not in this expression"):
        ds.explain("met > 3", y=3)
    other = mm.from_arrays({"met": [1.0]}, ds.path + "2")
    with pytest.raises(mm.OptionError, match="the cut is of the store"):
        ds.explain(other.cut("met > 3"))
