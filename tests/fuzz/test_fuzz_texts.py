"""Texts that may be cuts: an expression or an error of mmdask, soon, and nothing else.

``python -m tests.fuzz texts`` does the same for hours.
"""

from __future__ import annotations

from random import Random

import pytest

from mmdask.expr import check_cut
from tests.fuzz import texts


@pytest.mark.parametrize("text", texts.CORPUS)
def test_what_is_changed_is_right(text):
    assert check_cut(text, texts.SCHEMA)
    assert texts.check_text(text, Random(1)) == ("expression", "")


def test_random_texts():
    found = set()
    for seed in range(2500):
        rng = Random(seed)
        outcome, problem = texts.check_text(texts.random_text(rng), rng)
        assert problem == "", seed
        found.add(outcome)
    assert found >= {"error", "expression"}


@pytest.mark.parametrize("maker", texts._MAKERS, ids=lambda f: f.__name__)
def test_every_kind_of_text(maker):
    for seed in range(20):
        rng = Random(seed)
        assert texts.check_text(maker(rng), rng)[1] == "", seed


def test_every_category_of_characters():
    rng = Random(0)
    for group in texts.characters():
        for form in ("{}", "nJets{} > 1", "nJets > {}", "`{}` > 1", "name == '{}'", "nJets >{} 1"):
            assert texts.check_text(form.replace("{}", rng.choice(group)), rng)[1] == ""


def test_what_is_wrong_is_seen(monkeypatch):
    def wrong(*args):
        raise KeyError("x")

    monkeypatch.setattr(texts, "check", wrong)
    assert "KeyError" in texts.check_text("a > 1", Random(0))[1]
    monkeypatch.undo()
    monkeypatch.setattr(texts, "LIMIT", -1.0)
    assert "took" in texts.check_text("a > 1", Random(0))[1]
