"""What errors propose to those who come from other tools; and that what they propose is a cut."""

from __future__ import annotations

import datetime
import fractions

import numpy as np
import pytest

from mmdask.errors import ExpressionError, did_you_mean
from mmdask.expr import check, check_cut
from mmdask.expr.functions import ALIASES, FUNCTIONS
from mmdask.schema import Field, Schema

SCHEMA = Schema(
    [
        *[Field.dense(name, "i4") for name in ("nJets", "a", "b", "axis")],
        *[Field.dense(name, "f4") for name in ("met", "weight", "jets.pt", "strange name")],
        Field.dense("isgood", "?"),
        Field.dense("t", "M8[ns]"),
        Field.dense("dt", "m8[s]"),
        *[Field.ragged(name, "f4") for name in ("jet_pt", "jet_eta")],
        Field.ragged("hits", "f4", levels=2),
        Field.category("process", ["ttbb", "ttH", "data"]),
        Field.string("name"),
    ]
)

# The text, and what its error proposes to write, which is read here.
WRITE = [
    ("np.abs(met) > 1", "abs(met)"),
    ("numpy.hypot(a, b) > 1", "hypot(a, b)"),
    ("math.sqrt(met) > 1", "sqrt(met)"),
    ("np.arcsin(met) > 1", "asin(met)"),
    ("arctan2(a, b) > 1", "atan2(a, b)"),
    ("ak.any(jet_pt > 3)", "any(jet_pt > 3)"),
    ("ak.num(jet_pt) > 3", "len(jet_pt)"),
    ("ak.count(jet_pt) > 3", "len(jet_pt)"),
    ("ak.firsts(jet_pt) > 3", "first(jet_pt)"),
    ("ak.is_none(met)", "ismissing(met)"),
    ("np.logical_and(a > 1, b > 1)", "a > 1 and b > 1"),
    ("np.logical_not(a > 1)", "not a > 1"),
    ("np.power(a, 2) > 1", "a ** 2"),
    ("np.isin(a, b)", "a in (1, 2)"),
    ("np.pi < met", "pi"),
    ("ak.sum(jet_pt, axis=1) > 3", "sum(jet_pt)"),
    ("ak.any(abs(jet_pt) > 3, axis = -1)", "any(abs(jet_pt) > 3)"),
    ("ak.max(jet_pt, keepdims=True) > 3", "max(jet_pt)"),
    ("nJets == 4 or 5", "nJets in (4, 5)"),
    ("nJets == 4 || 5 || 6", "nJets in (4, 5, 6)"),
    ("(nJets == 4) or (5)", "nJets in (4, 5)"),
    ("isgood or nJets == -4 or -5", "nJets in (-4, -5)"),
    ("nJets != 4 and 5", "nJets not in (4, 5)"),
    ("nJets == 4 | 5", "nJets in (4, 5)"),
    ("process == 'ttbb' or 'ttH'", "process in ('ttbb', 'ttH')"),
    ("process == 'ttbb' | 'ttH'", "process in ('ttbb', 'ttH')"),
    ("met is None", "ismissing(met)"),
    ("isgood and jet_pt[0] is not None", "not ismissing(jet_pt[0])"),
    ("met == None", "ismissing(met)"),
    ("jet_pt[0] != None", "not ismissing(jet_pt[0])"),
    ("jet_pt[jet_eta > 1].size() > 1", "len(jet_pt[jet_eta > 1])"),
    ("(jet_pt + 1).size() > 1", "len((jet_pt + 1))"),
    ("jet_pt->size() > 1", "len(jet_pt)"),
    ("jet_pt.at(0) > 1", "jet_pt[0]"),
    ("jet_pt->at(0) > 1", "jet_pt[0]"),
    ("jet_pt.front() > 1", "first(jet_pt)"),
    ("jet_pt.empty()", "len(jet_pt) == 0"),
    ("met.isna()", "ismissing(met)"),
    ("met.notna()", "not ismissing(met)"),
    ("hits[0,1] > 1", "hits[0][1]"),
    ("jet_pt[:, 0] > 1", "jet_pt[0]"),
    ("hits[0][:,-1] > 1", "hits[0][-1]"),
    ("nJets == [4,5]", "nJets in (4,5)"),
    ("nJets == [4,500]", "nJets in (4,500)"),
    ("nJets == (4, 5)", "nJets in (4, 5)"),
    ("nJets != (4, -5)", "nJets not in (4, -5)"),
    ("process == ['ttbb']", "process in ('ttbb')"),
    ("events.nJets > 3", "nJets"),
    ("tree.events.jets.pt > 3", "jets.pt"),
    ("ds['nJets'] > 3", "nJets"),
    ('df["strange name"] > 3', "`strange name`"),
    ("(a > 1) * (b > 1)", "a > 1 and b > 1"),
]


@pytest.mark.parametrize(("text", "written"), WRITE)
def test_what_is_proposed_is_an_expression(text, written):
    with pytest.raises(ExpressionError) as error:
        check_cut(text, SCHEMA)
    said = str(error.value).partition("\n")[0]
    assert said.endswith(
        (f"write {written}", f"leave it out: {written}", f"= : {written}", f"keepdims=: {written}")
    ) or (f", or {written}" in said)
    check(written, SCHEMA)


SAID = [
    ("met > 1 or 5", "5 alone is always true; compare it"),
    ("met > 1 and 0", "0 alone is always false"),
    ("!0.5", "0.5 alone is always true"),
    ("~5", "5 alone is always true"),
    ("not (1 + 1)", "alone is always true"),
    ("met > 1 or pi", "pi alone is always true"),
    ("isgood & 1", "1 alone is always true"),
    ("isgood and 'a'", "'a' is text; it can only be compared"),
    ("abs(met)>1e3 & 1", "1 alone is always true"),
    ("2 & nJets == 2", "write (2 & nJets) == 2 for bits"),
    ("met > 3.5 & nJets", "write met > 3.5 && nJets != 0 for logic"),
    ("weight*(nJets >= 6)", "cut on nJets >= 6, and weight by cutflow(weight=...)"),
    ("(nJets >= 6)*weight*isgood", "cut on nJets >= 6 and isgood, and weight by cutflow(weight=...)"),
    ("weight * met", "compare it, as in (weight * met) > 0"),
    ("a if b > 1 else met", "where(c, a, b)"),
    ("lambda x: x > 1", "no functions of one's own"),
    ("lambda x", "no functions of one's own"),
    ("isgood is True", "'is' is written '=='"),
    ("a is not b", "'is' is written '!='"),
    ("a xor b", "xor(a, b)"),
    ("None", "whether a value is missing is ismissing(x)"),
    ("process == ttbb", "text stands in quotes: 'ttbb'"),
    ("ttH != process", "text stands in quotes: 'ttH'"),
    ("process in (ttbb, 'ttH')", "text stands in quotes: 'ttbb'"),
    ("process in ttbb", "text stands in quotes: 'ttbb'"),
    ("name == foo", "text stands in quotes: 'foo'"),
    ("name == nam", "did you mean 'name'"),
    ("process == proces", "did you mean 'process'"),
    ("process == met", "text in quotes"),
    ("met == ttbb", "no field 'ttbb'"),
    ("nJets ≥ 4", "'≥' is written '>='"),
    ("nJets ≤ 4", "'<='"),
    ("nJets ≠ 4", "'!='"),
    ("a \u2212 b > 1", "'-'"),
    ("a \u00d7 b > 1", "'*'"),
    ("isgood ∧ isgood", "'and'"),
    ("isgood \u2228 isgood", "'or'"),
    ("¬isgood", "'not'"),
    ("name == “x”", "'“' is written '\"'"),
    ("name == \u2018x\u2019", "'\u2018' is written \"'\""),
    ("met > π", "is written pi"),
    ("a\u00a0> 1", "write a plain space"),
    ("Iteration$ == 0", "one item is x[i]"),
    ("TMath::Pi < met", "write pi"),
    ("t > '2020-06-01'", "write ds.cut(ds['t'] > np.datetime64('2020-06-01'), key='...')"),
    ("dt > 3", "write ds.cut(ds['dt'] > np.timedelta64(1, 'h'), key='...')"),
    ("ak.sum(jet_pt, axis=1) > 3", "there is no axis: functions go through the innermost list; leave it out"),
    ("axis = 3", "did you mean '=='"),
    ("int(met) > 1", "write floor(x)"),
    ("np.abs(met + met + met + met + met + met + met + met + met + met + met) > 1", "write abs(x)"),
    ("nJets in true", "no constant"),
]


@pytest.mark.parametrize(("text", "said"), SAID)
def test_what_is_said(text, said):
    with pytest.raises(ExpressionError) as error:
        check_cut(text, SCHEMA)
    assert said in str(error.value)


def test_no_bits_of_a_real_number_are_proposed():
    for text in ("met > 3.5 & nJets", "nJets & met > 3", "process == 'ttbb' & nJets", "2 < met < 3.0 & nJets"):
        with pytest.raises(ExpressionError, match="two readings") as error:
            check_cut(text, SCHEMA)
        assert "for bits" not in str(error.value)
    for text in ("met > 3 & nJets", "nJets & a > 3.5", "met < 2 < a & nJets", "b < met < 3 & nJets"):
        with pytest.raises(ExpressionError, match="for bits"):
            check_cut(text, SCHEMA)


def test_numbers_under_logic():
    for text in ("nJets and true", "nJets or a", "not (2 > 1)", "isgood & true", "(nJets & 1) or isgood", "!nJets"):
        e = check_cut(text, SCHEMA)
        assert check_cut(e.canonical, SCHEMA) == e
    for value in (1, 0, 2.5, float("nan"), np.int8(3)):
        with pytest.raises(ExpressionError, match="c alone is always"):
            check_cut("met > 1 or c", SCHEMA, {"c": value})
    assert check_cut("met > 1 or c", SCHEMA, {"c": np.True_}).canonical == "((met > 1) or true)"
    with pytest.raises(ExpressionError, match=r"write nJets in \(x, y\)"):
        check_cut("nJets == x or y", SCHEMA, {"x": 4, "y": 5})


def test_constants_of_numpy_and_others():
    def made(text, **constants):
        return check_cut(text, SCHEMA, constants).canonical

    assert made("met > c", c=np.array(3.5)) == "(met > 3.5)"
    assert made("nJets > c", c=np.array(3, "u1")) == "(nJets > 3)"
    assert made("process == c", c=np.array("ttH")) == '(process == "ttH")'
    assert made("a in c", c=np.array([1, 2], "u1")) == "(a in (1, 2))"
    assert made("process in c", c=np.array(["ttH"])) == '(process in ("ttH"))'
    assert made("a in c", c=[np.array(1), np.int8(2)]) == "(a in (1, 2))"
    for value, said in (
        (np.longdouble(3), r"a longdouble; give float\(...\) of it"),
        (10**200, "an integer of 665 bits; it may have 300"),
        (np.datetime64("2020-06-01", "ns"), "times are compared"),
        (datetime.date(2020, 6, 1), "times are compared"),
        (fractions.Fraction(1, 3), r"give float\(...\) of it"),
        (3 + 4j, "got complex"),
        (None, "got NoneType"),
        (np.array([1, 2]), "is a list"),
    ):
        with pytest.raises(ExpressionError, match=said):
            made("met > c", c=value)
        with pytest.raises(ExpressionError):
            made("met in c", c=[value, None])
    with pytest.raises(ExpressionError, match="times are compared"):
        made("a in c", c=np.array(["2020-06-01"], "M8[ns]"))


def test_constants_whose_names_need_backticks():
    assert check_cut("met > `low met`", SCHEMA, {"low met": 3}).canonical == "(met > 3)"
    assert check_cut("a in `good ones`", SCHEMA, {"good ones": [1, 2]}).canonical == "(a in (1, 2))"
    assert check_cut("a in (1, `é`)", SCHEMA, {"é": 3}).canonical == "(a in (1, 3))"
    with pytest.raises(ExpressionError, match="is a field and a constant"):
        check_cut("`strange name` > 3", SCHEMA, {"strange name": 3})
    with pytest.raises(ExpressionError, match="no constant"):
        check_cut("a in `b`", SCHEMA)
    with pytest.raises(ExpressionError, match="literals and constants"):
        check_cut("a in (`b`, 1)", SCHEMA)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("int", []),
        ("sqroot", ["sqrt"]),
        ("Sqrt", ["sqrt"]),
        ("TMath::LogX", ["TMath::Log", "TMath::Log2", "TMath::Log10"]),
        ("TMath::abs", ["TMath::Abs"]),
        ("minim", ["minimum", "min"]),
        ("q", []),
    ],
)
def test_functions_with_nearly_this_name(name, near):
    said = did_you_mean(name, [*FUNCTIONS, *ALIASES])
    assert said == (f"; did you mean {' or '.join(map(repr, near))}?" if near else "")


@pytest.mark.parametrize(
    ("name", "known", "near"),
    [
        ("TTH", ["ttH", "tth", "ttHH"], ["ttH", "tth"]),
        ("x", ["xx", "y"], ["xx"]),
        ("yaer", ["year", "day"], ["year"]),
        ("nBTags", ["nBTags_77", "nJets"], ["nBTags_77"]),
        ("jet_p", ["jet_pt", "jet_eta", "jet_phi"], ["jet_pt", "jet_phi"]),
        ("a", ["b", "c"], []),
        ("aaaa", ["aaab", "aaac", "aaad", "aaae"], 3),
        ("TMath::LogX", ["TMath::Cos", "TMath::Log"], ["TMath::Log"]),
        ("", ["a"], []),
        ("a", [], []),
    ],
)
def test_names_that_are_near(name, known, near):
    said = did_you_mean(name, iter(known))
    if near == 3:
        assert said.count("'aaa") == 3
    else:
        assert said == (f"; did you mean {' or '.join(map(repr, near))}?" if near else "")


@pytest.mark.parametrize(
    ("text", "constants", "proposed"),
    [
        ("met == nan", {}, "write 'isnan(met)'"),
        ("a > 1 & nan != met", {}, "write 'not isnan(met)'"),
        ("met != v", {"v": float("nan")}, "write 'not isnan(met)'"),
        ("any(jet_pt == nan)", {}, "write 'isnan(jet_pt)'"),
        ("0 < met == nan", {}, "write 'isnan(met)'"),
        ("met in (1, nan)", {}, "leave it out of the list, and add 'or isnan(met)'"),
        ("met not in v", {"v": [float("nan"), 2.0]}, "add 'or isnan(met)'"),
        ("nan == nan", {}, "write 'isnan(nan)'"),
    ],
)
def test_what_is_compared_with_nan(text, constants, proposed):
    with pytest.raises(ExpressionError, match="nothing is equal to nan, nan itself neither") as caught:
        check_cut(text, SCHEMA, constants)
    assert proposed in str(caught.value)
