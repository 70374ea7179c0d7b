"""Errors of states say in words which option differs, and show no hash."""

import re

import numpy as np
import pytest

import mmdask as mm
from mmdask.errors import StateError


@pytest.fixture(scope="module")
def ds(tmp_path_factory):
    data = {"x": np.arange(40) % 2, "y": np.arange(40) % 4, "items": [[1] * (i % 3) for i in range(40)]}
    return mm.from_arrays(data, tmp_path_factory.mktemp("state") / "s.mm")


def mixed(ds, a=1, b=1, **options):
    loaders = {"a": ds[:20].batches(4, **options), "b": ds[20:].batches(4, **options)}
    return mm.mix(loaders, {"a": a, "b": b})


def said(theirs, mine):
    with pytest.raises(StateError) as found:
        mine.load_state_dict(theirs.state_dict())
    assert not re.search("[0-9a-f]{12}", str(found.value))
    return str(found.value)


def test_options_that_one_of_them_has_not(ds):
    plain = ds.batches(4)
    weighted, balanced = ds.batches(4, weights="x + 1"), ds.batches(4, balance="y")
    assert "weights none there and 'x + 1' here" in said(plain, weighted)
    assert "balance '0: 1, 1: 1, 2: 1, 3: 1' there and none here" in said(balanced, plain)
    assert "weights 'x + 1' there and 'x + 2' here" in said(weighted, ds.batches(4, weights="x + 2"))
    long = ["x" + " + y" * 30 + more for more in (" + 1", " + 2")]
    assert "other weights;" in said(*(ds.batches(4, weights=text) for text in long))
    assert "weights=, balance= and bucket=" in said(plain, weighted)


def test_buckets(ds):
    bucketed = ds.batches(4, bucket=mm.bucket("items"))
    assert "none there and mm.bucket('items', window=64, multiple=8) of batches of 4 here" in said(
        ds.batches(4), bucketed
    )
    assert "window=64, tokens=9, multiple=8) of" in said(ds.batches(4, bucket=mm.bucket("items", tokens=9)), bucketed)


def test_mixtures(ds):
    assert """shares "'a': 1, 'b': 3" there and "'a': 1, 'b': 1" here""" in said(mixed(ds, 1, 3), mixed(ds))
    assert "another seed: that of a loader" in said(mixed(ds, seed=1), mixed(ds))
    assert "the order of one of the loaders" in said(mixed(ds, block=2), mixed(ds))
    other = mm.mix({"a": ds[:10].batches(4), "b": ds.batches(4)}, {"a": 1, "b": 1})
    assert "they are not the same" in said(other, mixed(ds))
    state = mixed(ds).state_dict()
    for words in ({}, {"words": 3}):
        with pytest.raises(StateError, match="shares others there"):
            mixed(ds, 2, 1).load_state_dict({k: v for k, v in state.items() if k != "words"} | words)
