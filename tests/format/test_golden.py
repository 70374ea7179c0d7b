"""A store of format version 1, written once by mmdask 0.1.0 and only read since: it stays readable for ever."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import mmdask as mm

GOLDEN = Path(__file__).parent / "golden-1.store"


@pytest.fixture
def ds(tmp_path):
    # A copy: opening changes nothing, appending in these tests does.
    shutil.copytree(GOLDEN, tmp_path / "s.mm")
    return mm.open(tmp_path / "s.mm")


def test_every_value_is_what_it_was(ds):
    nan, inf = float("nan"), float("inf")
    expected = {
        "b": [True, False, True] * 2,
        "i1": [-128, 0, 127] * 2,
        "u8": [0, 2**53 + 1, 2**64 - 1] * 2,
        "f2": [0.5, -0.0, inf] * 2,
        "f4": [[1, 2], [3, 4], [5, 6], [1, 2], [3, 4], [5, 7]],
        "c16": [1j, 0, -1] * 2,
        "s": [b"a", b"", b"abc"] * 2,
        "process": ["ttbb"] * 3 + ["ttH"] * 3,
        "year": [2016] * 3 + [2017] * 3,
        "xsec": [0.5] * 3 + [0.25] * 3,
        "mc": [True] * 3 + [False] * 3,
        "cat": ["x", "y", "x", "z", "x", "z"],
    }
    for name, values in expected.items():
        assert ds[name].compute().tolist() == values, name
    assert ds["t"].compute().astype("i8").tolist() == [1795219200000000000, -(2**63), 1] * 2
    np.testing.assert_equal(ds["r"].compute().to_list(), [[0.5], [], [1.5, nan, -inf], [1.5], [], [1.5, nan, -inf]])
    lists = {
        "same": [[0], [], [1, 2, 3], [1], [], [1, 2, 3]],
        "r2": [[], [[1, 2]], [[3, 4], [5, 6]]] * 2,
        "deep": [[], [[1], []], [[2, 3]]] * 2,
        "text": ["é", "", "line\nbreak"] * 2,
    }
    for name, values in lists.items():
        assert ds[name].compute().to_list() == values, name
    assert (ds.schema["r"].unit, ds.schema["r"].doc) == ("GeV", "ragged")
    assert ds.generation == 2
    assert len(mm.open(ds.path, generation=1)) == 3


def test_it_verifies_and_takes_new_rows(ds):
    assert mm.verify(ds.path).ok
    fields = {name: ds[[0, 5]][name] for name in ds if name not in ("process", "year", "xsec", "mc")}
    with mm.append(ds.path, labels={"process": "new", "year": 1, "xsec": 1.0, "mc": True}) as w:
        w.extend(fields)
    again = mm.open(ds.path)
    assert len(again) == 8
    for name, values in fields.items():
        np.testing.assert_equal(again[[6, 7]][name].tolist(), values.tolist())
    assert again.cut("process == 'new'").count() == 2


def test_numpy_alone_reads_it():
    arrays = 0
    for info in GOLDEN.glob("parts/*/part.json"):
        for array in json.loads(info.read_bytes())["arrays"]:
            loaded = np.load(info.parent / array["file"], mmap_mode="r")
            assert (loaded.dtype.str, list(loaded.shape)) == (array["dtype"], array["shape"])
            arrays += 1
    assert arrays > 30
