"""The cuts of docs/cuts.md are cuts."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import numpy as np
import pytest

import mmdask.expr
from mmdask.errors import ExpressionError
from mmdask.expr import check, check_cut, combine, evaluate, negate
from mmdask.expr.functions import FUNCTIONS
from mmdask.schema import Field, FieldData, Schema

PAGE = (Path(__file__).parents[2] / "docs" / "cuts.md").read_text()
SCHEMA = Schema(
    [
        Field.dense("nJets", "i4"),
        Field.dense("nBTags_77", "i4"),
        Field.dense("met", "f4"),
        Field.dense("eventNumber", "u8"),
        Field.ragged("jet_pt", "f4"),
        Field.ragged("jet_eta", "f4"),
        Field.dense("isgood", "?"),
        Field.category("process", ["ttbb", "ttH", "data"]),
    ]
)


def test_the_first_cuts_of_the_page():
    good, hard = re.findall(r'^(?:good|hard) = ds\.cut\("([^"]+)"', PAGE, re.MULTILINE)
    both = combine("and", check_cut(good, SCHEMA), negate(check_cut(hard, SCHEMA, {"threshold": 100e3})))
    assert both.canonical == "((nJets >= 6) and (nBTags_77 >= 2) and (not any((jet_pt > 100000.0))))"


def test_the_error_that_is_shown():
    shown = re.search(r"```text\n(.*?)\n```", PAGE, re.DOTALL).group(1)
    with pytest.raises(ExpressionError) as error:
        check_cut("nJets >= 6 & nBTag_77 >= 2", SCHEMA)
    assert str(error.value) == shown


def test_every_function_is_on_the_page():
    for name, function in FUNCTIONS.items():
        assert re.search(rf"`{name}\(", PAGE), function.signature


def test_the_table_of_differences():
    table = PAGE.partition("## What other tools read")[2].partition("The same, as it is written elsewhere")[0]
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]*) \|", table, re.MULTILINE)
    assert len(rows) >= 25
    for text, meaning in rows:
        text = text.replace("\\|", "|")
        if meaning.startswith("error"):
            with pytest.raises(ExpressionError):
                check_cut(text, SCHEMA)
        elif text not in ("log(x)", "delta_r(a, b, c, d)"):
            check_cut(text, SCHEMA)


def test_what_awkward_computes():
    ak = pytest.importorskip("awkward")
    table = PAGE.partition("The same, as it is written elsewhere")[2]
    rows = re.findall(r"^\| `([^`]+)`[^|]* \|.*\| `([^`]+)` \|$", table, re.MULTILINE)
    assert len(rows) == 6
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 9, 100)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    inner = rng.integers(0, 4, offsets[-1])
    ends = np.concatenate([[0], np.cumsum(inner)])
    values = {"jet_pt": rng.normal(40e3, 40e3, offsets[-1]), "jet_eta": rng.normal(0, 2, offsets[-1])}
    fields = {name: FieldData(x, (offsets,)) for name, x in values.items()}
    fields["hits"] = FieldData(rng.normal(size=ends[-1]), (offsets, ends))
    names = {name: ak.unflatten(x, counts) for name, x in values.items()}
    names["hits"] = ak.unflatten(ak.unflatten(fields["hits"].values, inner), counts)
    schema = Schema([*[Field.ragged(name, "f8") for name in values], Field.ragged("hits", "f8", levels=2)])
    for here, awkward in rows:
        result = evaluate(check(here, schema), fields.__getitem__, 100)
        known = np.ones(len(result.values), bool) if result.known is None else result.known
        got = [v if ok else None for v, ok in zip(result.values.tolist(), known, strict=True)]
        expected = eval(awkward, {"ak": ak, **names})
        flat = ak.flatten(expected) if expected.ndim > 1 else expected
        for a, b in zip(got, flat.to_list(), strict=True):
            assert a == b or a == pytest.approx(b, rel=1e-12, abs=1e-9), here


def test_no_module_is_hidden_by_a_function_of_its_name():
    modules = [m.name for m in pkgutil.iter_modules(mmdask.expr.__path__)]
    assert "checker" in modules
    for name in modules:
        assert inspect.ismodule(getattr(importlib.import_module("mmdask.expr"), name, mmdask)), name
