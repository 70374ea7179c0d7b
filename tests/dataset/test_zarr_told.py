"""Arrays of zarr that others made: what cannot be read is told by name, and with what to do."""

from __future__ import annotations

import numpy as np
import pytest
import zarr

import mmdask as mm


@pytest.fixture
def damaged(tmp_path):
    """The path of a group with an array of which one chunk was cut short."""
    group = zarr.open_group(tmp_path / "their.zarr", mode="w")
    group.create_array("met", data=np.arange(1000.0), chunks=(100,))
    group.create_array("n", data=np.arange(1000), chunks=(100,))
    chunk = tmp_path / "their.zarr" / "met" / "c" / "3"
    chunk.write_bytes(chunk.read_bytes()[:20])
    return tmp_path / "their.zarr"


def test_a_damaged_chunk_names_its_array(damaged, tmp_path):
    with pytest.raises(mm.SourceError, match=r"array 'met' of .*their\.zarr/met: zarr cannot read it: \w+Error: "):
        mm.from_zarr(damaged, tmp_path / "ours.mm")
    assert not (tmp_path / "ours.mm").exists()
    assert mm.from_zarr(damaged, tmp_path / "n.mm", fields="n")["n"].sum().compute() == 499_500

    ds = mm.view(dict(zarr.open(damaged, mode="r").arrays()))
    assert ds["met"][:300].sum().compute() == 44_850
    for ask in (lambda: ds["met"].compute(), lambda: ds.cut("met > 3").count(), lambda: list(ds.batches(100))):
        with pytest.raises(mm.SourceError, match=r"rows \d+ to \d+ of <Array .*their\.zarr/met .*cannot be read: "):
            ask()


def test_members_of_records(tmp_path):
    data = np.zeros(5, [("a", "i4"), ("b", "f4")])
    data["a"], data["b"] = range(5), np.arange(5) / 2
    zarr.create_array(tmp_path / "r.zarr", data=data, chunks=(2,), zarr_format=2)
    ds = mm.from_zarr(tmp_path / "r.zarr", tmp_path / "r.mm")
    assert list(ds) == ["r_a", "r_b"]
    assert ds["r_a"].compute().tolist() == [0, 1, 2, 3, 4]
    assert ds["r_b"].compute().tolist() == data["b"].tolist()


def test_a_store_of_ours_is_not_theirs(tmp_path, recwarn):
    mm.from_arrays({"x": [1, 2], "hits": [[1], []]}, tmp_path / "s.mm", backend="zarr")
    [part] = (tmp_path / "s.mm" / "parts").iterdir()
    for path in (tmp_path / "s.mm", part):
        with pytest.raises(mm.SourceError, match=r"belongs to a store of mmdask: mm\.open"):
            mm.from_zarr(path, tmp_path / "copy.mm")
    assert not recwarn.list


def test_files_beside_arrays_are_not_warned_of(tmp_path):
    group = zarr.open_group(tmp_path / "g.zarr", mode="w")
    group.create_array("x", data=np.arange(3))
    (tmp_path / "g.zarr" / "notes.txt").write_text("of theirs")
    assert list(mm.from_zarr(tmp_path / "g.zarr", tmp_path / "g.mm")) == ["x"]


def test_a_package_that_is_missing(monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(zarr, "open", refuse)
    with pytest.raises(mm.MissingDependencyError, match=r'pip install "mmdask\[s3\]"'):
        mm.from_zarr("s3://bucket/their.zarr", tmp_path / "ours.mm")


def test_a_view_says_how_zarr_is_given(damaged):
    for given in (zarr.open(damaged, mode="r"), zarr.open(damaged / "n", mode="r")):
        with pytest.raises(mm.OptionError, match=r"give \{'name': array\} or, of a group, dict\(group\.arrays\(\)\)"):
            mm.view(given)
    with pytest.raises(mm.SourceError, match=r"field 'n': .*their\.zarr/n is a folder .*zarr\.open\('.*n'\), or make"):
        mm.view({"n": damaged / "n"})
