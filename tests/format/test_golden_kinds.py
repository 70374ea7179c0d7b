"""A store of every kind of field, with its history, written once by mmdask 0.1.0 and only read since."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

import mmdask as mm
from tests.format import kinds
from tests.format.make_golden_kinds import EXPECTED, STORE, as_json


@pytest.fixture
def path(tmp_path):
    return shutil.copytree(STORE, tmp_path / "s.mm")


def test_every_value_of_every_generation_is_what_it_was(path):
    """§2.1."""
    expected = json.loads(EXPECTED.read_text(encoding="utf-8"))
    assert list(expected) == ["1", "2", "3", "4", "5"]
    for generation, was in expected.items():
        ds = mm.open(path, generation=int(generation))
        assert list(ds.fields) == list(was["fields"])
        for name, field in ds.schema.items():
            rows = as_json(kinds.to_rows(field, ds._rows.read(name, 0, len(ds))))
            np.testing.assert_equal(rows, was["fields"][name], err_msg=name)
        assert (dict(ds.attrs), sorted(ds.aux)) == (was["attrs"], was["aux"])
        assert mm.verify(path, generation=int(generation)).ok


def test_what_is_expected_is_what_was_written(path):
    """The file of values is right by the rows that the store was made of."""
    newest = json.loads(EXPECTED.read_text(encoding="utf-8"))["5"]["fields"]
    rows = {name: as_json(kinds.rows_of(0)[name] + kinds.rows_of(1)[name]) for name in kinds.SCHEMA}
    assert {**rows, "total": [0.5, 0.0, 4.0, 0.0, 0.0, 4.0, 0.0, 0.5]} == {"i1": rows["i1"], **newest}


def test_what_is_noted_is_what_it_was(path):
    ds = mm.open(path)
    assert dict(ds.attrs) == {"title": "every kind", "n": [1, 2.5, None], "more": True}
    assert (ds.schema["f4"].unit, ds.schema["f4"].doc, dict(ds.schema["f4"].attrs)) == (
        "GeV",
        "a float",
        {"bins": [0, 1.5]},
    )
    assert (ds.schema["f8"].unit, ds.schema["f8"].optional) == ("GeV", (0,))
    assert (ds.schema["ht"].expression, ds.schema["jets_pt"].record) == ("sum(jets_pt)", "jets")
    assert sorted(ds.aux) == ["classes", "edges", "table"]
    assert (list(ds.aux["edges"]), list(ds.aux["classes"])) == ([0.0, 1.5, 3.0], ["signal", "background"])
    assert [e.action for e in ds.history()][3] == "drop i1, given"
    assert ds.history()[0].time == "2026-11-21T09:52:03Z"


def test_numpy_alone_reads_it():
    arrays = 0
    for info in STORE.glob("parts/*/part.json"):
        for array in json.loads(info.read_bytes())["arrays"]:
            loaded = np.load(info.parent / array["file"], mmap_mode="r")
            assert (loaded.dtype.str, list(loaded.shape)) == (array["dtype"], array["shape"])
            arrays += 1
    assert arrays > 150
