"""Changed documents and files: errors of mmdask or right values, never anything else.

``python -m tests.fuzz`` does the same for hours.
"""

from __future__ import annotations

import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mmdask as mm
from mmdask.store.layer import parse_layer
from mmdask.store.manifest import dump_manifest, parse_manifest
from tests.format.make_examples import LAYER_ID, MANIFEST, PART, document, schema
from tests.fuzz.mutations import Fuzzer, changed, changed_bytes, check, documented

RANDOM = st.randoms(use_true_random=False)
TIMES = st.integers(1, 6)
BASES = {"manifest": MANIFEST, "part": PART}


def parse(kind, data):
    return parse_manifest(data, "manifest.json") if kind == "manifest" else parse_layer(data, LAYER_ID, "folder")


@pytest.mark.parametrize("kind", ["manifest", "part"])
@settings(max_examples=800)
@given(rng=RANDOM, times=TIMES)
def test_documents(kind, rng, times):
    """What the parser takes, the schema takes, too; and it is the same when it is written and read again."""
    data = document(documented(changed(BASES[kind], rng, times)))
    try:
        found = parse(kind, data)
    except mm.MmdaskError:
        return
    schema(kind).validate(json.loads(data))
    if kind == "manifest":
        assert parse_manifest(dump_manifest(found), "") == found


@pytest.mark.parametrize("kind", ["manifest", "part"])
@settings(max_examples=300)
@given(rng=RANDOM, times=TIMES, forged=st.booleans())
def test_bytes_of_documents(kind, rng, times, forged):
    good = document(BASES[kind])
    behind = good[good.index(b"\n") + 1 :]
    data = document(changed_bytes(behind, rng, times)) if forged else changed_bytes(good, rng, times)
    try:
        parse(kind, data)
    except mm.MmdaskError:
        return
    assert forged or data == good


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory):
    return Fuzzer(tmp_path_factory.mktemp("fuzz"))


@settings(max_examples=150)
@given(rng=RANDOM)
def test_stores(fuzzer, rng):
    path, visible = fuzzer.store(rng)
    try:
        assert check(path, visible) == ""
    finally:
        shutil.rmtree(path)
