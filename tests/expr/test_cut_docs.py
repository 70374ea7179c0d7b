"""The cuts of docs/cuts.md are cuts."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import mmdask.expr
from mmdask.errors import ExpressionError
from mmdask.expr import check_cut, combine, negate
from mmdask.expr.functions import FUNCTIONS
from mmdask.schema import Field, Schema

PAGE = (Path(__file__).parents[2] / "docs" / "cuts.md").read_text()
SCHEMA = Schema(
    [
        Field.dense("nJets", "i4"),
        Field.dense("nBTags_77", "i4"),
        Field.dense("met", "f4"),
        Field.dense("eventNumber", "u8"),
        Field.ragged("jet_pt", "f4"),
        Field.ragged("jet_eta", "f4"),
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
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]*) \|", PAGE.partition("## What other tools read")[2], re.MULTILINE)
    assert len(rows) >= 15
    for text, meaning in rows:
        text = text.replace("\\|", "|")
        if meaning.startswith("error"):
            with pytest.raises(ExpressionError):
                check_cut(text, SCHEMA)
        elif "nJets" in text and any(op in text for op in ("<", ">", "==")) and not text.startswith("!"):
            check_cut(text, SCHEMA)


def test_no_module_is_hidden_by_a_function_of_its_name():
    modules = [m.name for m in pkgutil.iter_modules(mmdask.expr.__path__)]
    assert "checker" in modules
    for name in modules:
        assert inspect.ismodule(getattr(importlib.import_module("mmdask.expr"), name, mmdask)), name
