"""Manifests of many parts: values looked at all together are checked as one by one."""

from __future__ import annotations

import gc
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import mmdask as mm
from mmdask.store import document, manifest
from mmdask.store.layer import ID_PATTERN

UUID = "0" * 32
TEXTS = st.one_of(
    st.from_regex(ID_PATTERN, fullmatch=True),
    st.text("ab09-\n", max_size=4),
    st.text(max_size=3),
    st.integers(78, 82).map(lambda n: "a" * n),
)
ANY = st.one_of(TEXTS, st.none(), st.booleans(), st.integers(-1, 1), st.floats(), st.just([]), st.just({}))


def is_id(value):
    return isinstance(value, str) and re.fullmatch(ID_PATTERN, value) is not None


@given(st.lists(st.one_of(st.lists(ANY, max_size=3), st.lists(TEXTS, min_size=1, max_size=3), ANY), max_size=4))
@example([["a", "b"], ["-"]])
@example([["-a"]])
@example([["a" * 81]])
@example([["a"], ["b", "a" * 81], ["c"]])
@example([["a\nb"]])
@example([["a", "b\n"], ["-"]])
@example([["a"], "ab"])
@example([["a"], {"a": 1}])
@example([["a" * 80], ["b"]])
@example([["a"], ["\ud800"]])
@example([[""]])
@example([])
def test_ids_together_are_ids_one_by_one(layers):
    expected = all(isinstance(ids, list) and ids and all(map(is_id, ids)) for ids in layers)
    assert manifest._are_ids(layers) == expected


@given(
    st.lists(st.one_of(st.integers(0, 9), st.integers(), st.sampled_from([2**63 - 1, 2**63, -1, True, 1.0, "1", None])))
)
def test_integers_together_are_integers_one_by_one(values):
    reader = document.Reader({"n": values}, "here")
    if all(type(v) is int and 0 <= v < 2**63 for v in values):
        assert reader.integers("n") == values
    else:
        with pytest.raises(mm.FormatError, match="'n' must be a list of integers"):
            reader.integers("n")


@pytest.mark.parametrize("enabled", [True, False])
def test_reading_a_manifest_leaves_the_collector_as_it_was(enabled):
    m = manifest.Manifest(UUID, 1, 8, mm.Schema(), (manifest.Part(3, ("a",), 5), manifest.Part(0, ("b", "c"), 0)))
    data = manifest.dump_manifest(m)
    try:
        (gc.enable if enabled else gc.disable)()
        back = manifest.parse_manifest(data, "")
        assert back == m
        assert all(type(p) is manifest.Part for p in back.parts)
        assert gc.isenabled() == enabled
        with pytest.raises(mm.CorruptStoreError):
            manifest.parse_manifest(data[:-2], "")
        assert gc.isenabled() == enabled
    finally:
        gc.enable()
