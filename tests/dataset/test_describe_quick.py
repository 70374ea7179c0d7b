"""What is known of a store without reading its data: against a description that reads all of them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mmdask as mm
import mmdask.testing as mt
from mmdask.errors import OptionError

KEYS = ("count", "missing", "nan", "inf", "min", "max", "items_min", "items_mean", "items_max")


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_what_is_known_quickly_is_what_is_read(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("store") / "a.mm"
    fields = [data.draw(mt.fields(name=st.just(name))) for name in ("a", "b")]
    n = data.draw(st.integers(1, 6))
    with mm.create(path, fields=fields) as w:
        w.extend({f.name: data.draw(mt.rows(f, n)) for f in fields})
    if data.draw(st.booleans()):
        with mm.append(path) as w:
            w.extend({f.name: data.draw(mt.rows(f, 3)) for f in fields})
    ds = mm.open(path)
    quick, read = ds.describe(quick=True), ds.describe()
    assert (list(quick), quick.rows) == (list(read), len(ds))
    for name in quick:
        a, b = quick[name], read[name]
        assert (a.mean, a.std) == (None, None)
        for key in KEYS:
            mine, theirs = getattr(a, key), getattr(b, key)
            assert mine is None or mine == theirs, (ds.schema[name], key)
        # where nothing is missing all is known of what has an order
        if (
            b.missing == 0
            and b.inf == 0
            and ds.schema[name].kind in ("dense", "ragged")
            and 0 not in ds.schema[name].shape
        ):
            known = {k for k in KEYS if getattr(a, k) is None}
            assert known <= {k for k in KEYS if getattr(b, k) is None} or ds.schema[name].dtype.kind in "cS"
    assert repr(quick)


@pytest.fixture
def ds(tmp_path: Path) -> mm.Dataset:
    values: dict[str, Any] = {
        "x": np.array([math.nan, 1, math.inf, -math.inf, math.nan], "f4"),
        "t": np.array(["NaT", "2020-01-01", "2021-01-01", "2022-01-01", "2023-01-01"], "M8[D]"),
        "pt": [[1.5, math.nan], [], [2.5], [0.5], [1.0]],
        "o": [None, 1.0, math.nan, 3.0, 4.0],
        "k": np.arange(5),
    }
    return mm.from_arrays(values, tmp_path / "a.mm")


def test_counts_are_shown_and_no_data_are_read(ds: mm.Dataset) -> None:
    for file in Path(ds.path).glob("parts/*/*.npy"):
        file.unlink()
    found = mm.open(ds.path).describe(quick=True)
    assert {name: (f.nan, f.inf) for name, f in found.items()} == {
        "x": (2, 2),
        "t": (1, 0),
        "pt": (1, 0),
        "o": (1, 0),
        "k": (0, 0),
    }
    assert (found["o"].count, found["o"].missing) == (None, None)
    assert (found["pt"].items_min, found["pt"].items_mean, found["pt"].items_max) == (0, 1.0, 2)
    assert found["t"].max == np.datetime64("2023-01-01")
    assert (found["x"].min, found["k"].max) == (None, 4)
    line = next(line for line in repr(found).splitlines() if line.startswith("o "))
    assert "?" in line
    assert found.to_pandas()["nan"].tolist() == [2, 1, 1, 1, 0]


def test_a_selection_is_not_known(ds: mm.Dataset) -> None:
    for some in (ds[:2], ds[ds.cut("k > 1")], ds.explode("pt")):
        with pytest.raises(OptionError, match="whole stores"):
            some.describe(quick=True)
    computed = ds.assign(y="k + 1").describe(["y", "k"], quick=True)
    assert (computed["y"].count, computed["k"].count) == (None, 5)
    both = mm.concat([ds, ds]).describe(quick=True)
    assert (both["x"].nan, both["k"].count) == (4, 10)
    assert ds.rename({"x": "z"}).describe("z", quick=True)["z"].inf == 2


def test_a_store_that_was_written_without_counts_is_read(ds: mm.Dataset) -> None:
    """As written by earlier versions: it is not known how many, but that there are."""
    from mmdask.store.arrays.npy import checksum

    for file in Path(ds.path).glob("parts/*/part.json"):
        document = json.loads(file.read_bytes())
        for field in document["fields"].values():
            for key in ("nans", "infs"):
                field.get("bounds", {}).pop(key, None)
        document.pop("checksum")
        rest = json.dumps(document).encode()[1:] + b"\n"
        file.write_bytes(b'{"checksum": "xxh3_64:' + checksum(rest).encode() + b'",\n' + rest)
    found = mm.open(ds.path).describe(quick=True)
    assert [(f.nan, f.inf) for f in found.values()] == [(None, None), (None, 0), (None, 0), (None, 0), (0, 0)]
    assert mm.verify(ds.path).ok
    with mm.append(ds.path) as w:
        w.extend({"x": [1.0], "t": np.array(["2020-01-01"], "M8[D]"), "pt": [[]], "o": [1.0], "k": [1]})
    mm.compact(ds.path)
    assert mm.open(ds.path).describe(quick=True)["x"].nan == 2, "parts that are written again are counted"


def test_one_part_that_is_not_known_leaves_the_whole_unknown(tmp_path: Path) -> None:
    mm.from_arrays({"x": [1.0, math.inf], "k": [1, 2]}, tmp_path / "a.mm")
    with mm.append(tmp_path / "a.mm") as w:
        w.extend({"x": [5.0, 6.0], "k": [7, 8]})
    found = mm.open(tmp_path / "a.mm").describe(quick=True)
    assert (found["x"].min, found["x"].max, found["x"].inf) == (None, None, 1)
    assert (found["k"].min, found["k"].max) == (1, 8)
