"""Splits by hash: disjoint, exhaustive, stable, of the right size, and frozen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mmdask as mm
from mmdask.rows.draws.splits import folds, hash_rows
from mmdask.schema import Field, FieldData
from mmdask.sources.given.coerce import to_field_data


def hashes(values, seed=0, dtype=None):
    field, data = to_field_data("k", values if dtype is None else np.array(values, dtype))
    return hash_rows(field, data, seed)


@given(
    st.lists(st.floats(0.01, 1), min_size=1, max_size=6),
    st.integers(0, 2**63),
    st.lists(st.integers(-(2**63), 2**63 - 1)),
)
def test_folds_are_disjoint_and_exhaustive(parts, seed, keys):
    total = sum(parts)
    fractions = {str(i): p / total for i, p in enumerate(parts)}
    result = folds(fractions, None, seed)
    found = sum(fold.holds(hashes(keys, seed, "i8")).astype(int) for fold in result.values())
    assert np.all(found == 1)


def test_equal_numbers_hash_equally_in_every_width():
    for dtype in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"):
        np.testing.assert_array_equal(hashes([0, 1, 100], 3, dtype), hashes([0, 1, 100], 3, "i8"))
    np.testing.assert_array_equal(hashes([-1], 3, "i2"), hashes([-1], 3, "i8"))
    assert hashes([2**53], 0, "u8") != hashes([2**53 + 1], 0, "u8")


def test_labels_hash_as_their_text():
    texts = ["a", "b", "a", "é"]
    _, as_category = to_field_data("k", texts, Field.category("k", ["é", "x"]))
    by_label = hash_rows(Field.category("k"), as_category, 1)
    np.testing.assert_array_equal(by_label, hashes(texts, 1))


def test_sizes_are_binomial_also_for_even_keys():
    for keys in (np.arange(200_000), np.arange(0, 400_000, 2)):
        for seed in range(3):
            inside = folds({"a": 0.3, "b": 0.7}, None, seed)["a"].holds(hashes(keys, seed)).sum()
            assert abs(inside - 60_000) < 5 * np.sqrt(200_000 * 0.3 * 0.7)


def test_seeds_are_independent():
    keys = np.arange(100_000)
    a = folds({"a": 0.5, "b": 0.5}, None, 1)["a"].holds(hashes(keys, 1))
    b = folds({"a": 0.5, "b": 0.5}, None, 2)["a"].holds(hashes(keys, 2))
    assert abs((a == b).sum() - 50_000) < 5 * np.sqrt(100_000) / 2


def test_the_hash_never_changes():
    # Written once: another result moves rows of published analyses between training and test.
    assert hashes([0, 1, 2**40, -5], 7).tolist() == FROZEN
    assert hash_rows(Field.string("k"), to_field_data("k", ["ttbb", ""])[1], 7).tolist() == FROZEN_TEXT


FROZEN = [1644551025, 1028236236, 3119270732, 2235412737]
FROZEN_TEXT = [4222211237, 328809617]


@pytest.mark.parametrize(
    ("fractions", "words"),
    [
        ({}, "at least one"),
        ({"a": 0.5}, "sum to 0.5"),
        ({"a": 0.5, "b": 0.6}, "sum to 1.1"),
        ({"a": -1, "b": 2}, "above 0"),
    ],
)
def test_wrong_fractions_are_refused(fractions, words):
    with pytest.raises(mm.OptionError, match=words):
        folds(fractions, None, 0)


def test_keys_that_are_no_keys_are_refused():
    with pytest.raises(mm.OptionError, match="one key per row"):
        hash_rows(Field.ragged("r", "i4"), FieldData(np.arange(3, dtype="i4"), (np.array([0, 3]),)), 0)
    with pytest.raises(mm.OptionError, match="a number, time, text or label"):
        hash_rows(Field.dense("c", "c8"), FieldData(np.zeros(3, "c8")), 0)


def test_appending_moves_no_row(tmp_path):
    rng = np.random.default_rng(0)
    ds = mm.from_arrays({"event": rng.permutation(5000), "x": np.arange(5000)}, tmp_path / "s.mm")
    before = {name: set(part["x"].compute().tolist()) for name, part in _split(ds, "event").items()}
    by_row = {name: set(part["x"].compute().tolist()) for name, part in _split(ds, None).items()}
    with mm.append(tmp_path / "s.mm") as w:
        w.extend({"event": np.arange(5000, 6000), "x": np.arange(5000, 6000)})
    ds = mm.open(tmp_path / "s.mm")
    for old, by in ((before, "event"), (by_row, None)):
        new = {name: set(part["x"].compute().tolist()) for name, part in _split(ds, by).items()}
        assert all(old[name] <= new[name] for name in old)
        assert sum(map(len, new.values())) == 6000


def _split(ds, by):
    return ds.split({"train": 0.8, "val": 0.1, "test": 0.1}, by=by, seed=7)


def test_splits_commute_with_cuts_and_keep_groups_together(tmp_path):
    rng = np.random.default_rng(0)
    ds = mm.from_arrays({"event": rng.integers(0, 300, 5000), "x": np.arange(5000)}, tmp_path / "s.mm")
    cut = ds.cut("x % 3 == 1")
    a = ds[cut].split({"train": 0.7, "test": 0.3}, by="event", seed=1)
    b = ds.split({"train": 0.7, "test": 0.3}, by="event", seed=1)
    for name in a:
        assert a[name]["x"].compute().tolist() == b[name][cut]["x"].compute().tolist()
    assert not set(a["train"]["event"].compute().tolist()) & set(a["test"]["event"].compute().tolist())
    with pytest.raises(mm.FieldNotFoundError, match="did you mean 'event'"):
        ds.split({"a": 1.0}, by="evnt")
