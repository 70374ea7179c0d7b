"""The files themselves, as numpy maps them, against what the dataset reads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kinds import FIELDS, LABELS, pack, tables, write
from stored import write_parts

import mmdask as mm
from mmdask.store.snapshot import Snapshot
from mmdask.testing import max_computes


def raw(data, array):
    """What the file of one part holds, from the rows as they were given."""
    name, _, depth = array.partition("[")
    depth = int(depth[:-1]) if depth else 0
    if name == "values":
        return data.values
    if name == "shapes":
        return data.shapes
    return data.offsets[depth] if name == "offsets" else data.valid_at(depth)


SOME = ["met", "p3", "pt", "points", "deep", "name", "words", "image"]


def arrays_of(data):
    found = ["values"] + ["shapes"] * (data.shapes is not None)
    found += [f"offsets[{i}]" if i else "offsets" for i in range(len(data.offsets))]
    return found + [f"valid[{i}]" if i else "valid" for i, v in enumerate(data.valid) if v is not None]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=tables(SOME, max_rows=8), start=st.integers(0, 8), stop=st.integers(0, 8))
def test_every_array_of_every_kind(tmp_path_factory, table, start, stop):
    n = len(table["met"])
    if not n:
        return
    path = write(tmp_path_factory.mktemp("m") / "a.mm", table)
    ds = mm.open(path)
    for name, rows in table.items():
        data = pack(FIELDS[name], rows)
        for array in arrays_of(data):
            found = ds.memmap(name, array=array)
            assert isinstance(found, np.memmap)
            np.testing.assert_array_equal(found, raw(data, array))
            if start < min(stop, n):
                some, base = ds[start:stop].memmap(name, array=array), data[start:stop]
                expected = raw(base, array)
                if array.startswith("offsets"):
                    expected = expected + (some[0] if len(some) else 0)
                np.testing.assert_array_equal(some, expected)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.mm"
    fields = [
        mm.Field.dense("x", "f8"),
        mm.Field.ragged("pt", "f4"),
        mm.Field.category("process", LABELS),
        mm.Field.string("name"),
    ]
    with mm.create(path, fields=fields) as w:
        for i in range(6):
            w.append({"x": i, "pt": [i] * i, "process": LABELS[i % 3], "name": f"n{i}"})
    return path


def append(path):
    with mm.append(path) as w:
        w.append({"x": 6.0, "pt": [1.0], "process": LABELS[2], "name": "last"})


def test_whole_and_sliced(path):
    ds = mm.open(path)
    with max_computes(0):
        x = ds.memmap("x")
    assert isinstance(x, np.memmap)
    assert x.filename.endswith(".npy")
    assert not x.flags.writeable
    assert x.tolist() == [0, 1, 2, 3, 4, 5]
    assert ds[1:5:2].memmap("x").tolist() == [1, 3]
    assert ds[2:2].memmap("x").tolist() == []
    assert ds[2:4].memmap("pt").tolist() == [2, 2, 3, 3, 3]
    assert ds[2:4].memmap("pt", array="offsets").tolist() == [1, 3, 6]
    assert bytes(ds[1:3].memmap("name")) == b"n1n2"
    assert ds.memmap("process").tolist() == [0, 1, 2, 0, 1, 2]


def test_copy_on_write(path):
    ds = mm.open(path)
    x = ds.memmap("x", mode="c")
    x[0] = 99
    assert x[0] == 99
    assert ds["x"].compute()[0] == 0
    assert mm.verify(path).ok


def test_parts(path):
    append(path)
    ds = mm.open(path)
    with pytest.raises(mm.OptionError, match=r"parts 0 to 1 .*part=0.*mm.compact"):
        ds.memmap("x")
    assert ds.memmap("x", part=1).tolist() == [6]
    assert ds[4:].memmap("x", part=0).tolist() == [4, 5]
    assert ds[1::4].memmap("x", part=0).tolist() == [1, 5]
    assert ds[1::5].memmap("x", part=1).tolist() == [6]
    assert ds[6:].memmap("x").tolist() == [6]
    with pytest.raises(mm.OptionError, match="0 to 1"):
        ds.memmap("x", part=2)
    mm.compact(path)
    assert mm.open(path).memmap("x").tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_codes_of_a_part_that_counts_its_own_labels(path, monkeypatch):
    # As parts of a conversion do, of which each knows the labels of its own file.
    monkeypatch.setattr(Snapshot, "codes", lambda self, layer, field: np.array([2, 0, 1], "i4"))
    with pytest.raises(mm.OptionError, match="own labels"):
        mm.open(path).memmap("process")


def test_mistakes(path):
    ds = mm.open(path)
    for mode in ("r+", "w+"):
        with pytest.raises(mm.OptionError, match=r"never changed.*mm.append.*mm.assign"):
            ds.memmap("x", mode=mode)
    with pytest.raises(mm.OptionError, match="mode is 'r'"):
        ds.memmap("x", mode="q")
    with pytest.raises(mm.OptionError, match=r"\.compute\(\).*ds.save"):
        ds[ds.cut("x > 3")].memmap("x")
    with pytest.raises(mm.OptionError, match=r"\.compute\(\).*ds.save"):
        ds.sample(3).memmap("x")
    with pytest.raises(mm.OptionError, match="computed"):
        ds.assign(y="x * 2").memmap("y")
    with pytest.raises(mm.OptionError, match="dask array"):
        ds.assign(y=ds["x"] * 2).memmap("y")
    with pytest.raises(mm.OptionError, match="io='mmap'"):
        mm.open(path, io="pread").memmap("x")
    with pytest.raises(mm.OptionError, match="arrays that were given"):
        mm.view({"x": np.arange(3)}).memmap("x")
    with pytest.raises(mm.OptionError, match="has no offsets"):
        ds.memmap("x", array="offsets")
    with pytest.raises(mm.OptionError, match="nothing is missing"):
        ds.memmap("x", array="valid")
    with pytest.raises(mm.OptionError, match="array is"):
        ds.memmap("x", array="codes")
    with pytest.raises(mm.OptionError, match="step 1"):
        ds[::2].memmap("pt")
    with pytest.raises(mm.FieldNotFoundError, match="did you mean 'x'"):
        ds.memmap("X")


def test_constants_have_no_file(tmp_path):
    fields = [mm.Field.dense("x", "f8"), mm.Field.dense("run", "i4")]
    path = write_parts(tmp_path / "b.mm", fields, [{"x": [1.0, 2.0], "run": 7}])
    with pytest.raises(mm.OptionError, match="one value 7"):
        mm.open(path).memmap("run")


def test_a_file_that_was_cut_short(path):
    ds = mm.open(path)
    x = ds.memmap("x").filename
    with open(x, "r+b") as file:
        file.truncate(4100)
    ds = mm.open(path)
    with pytest.raises(mm.CorruptStoreError, match="should have"):
        ds.memmap("x")
