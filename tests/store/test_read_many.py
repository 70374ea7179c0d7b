"""Several objects read at once, of which none is read further than it may be long."""

from __future__ import annotations

import fsspec
import numpy as np
import pytest

import mmdask as mm
from mmdask.errors import CorruptStoreError, StoreNotFoundError
from mmdask.store.storage import storage_of


@pytest.fixture(params=["disk", "memory"])
def storage(request, tmp_path):
    root = str(tmp_path) if request.param == "disk" else f"memory://{tmp_path.name}"
    found = storage_of(root)
    fs, path = fsspec.url_to_fs(root)
    for name, nbytes in (("a", 5), ("b", 0), ("c", 1000)):
        fs.pipe_file(f"{path}/{name}", bytes(range(256))[:nbytes] if nbytes < 256 else b"c" * nbytes)
    return found


@pytest.mark.parametrize("names", ["", "a", "b", "ab", "abc", "cc"])
@pytest.mark.parametrize("limit", [0, 4, 5, 2000])
def test_each_object_up_to_a_byte_more_than_its_limit(storage, names, limit):
    whole = {"a": bytes(range(5)), "b": b"", "c": b"c" * 1000}
    assert storage.read_many([(n,) for n in names], [limit] * len(names)) == [whole[n][: limit + 1] for n in names]


def test_what_is_not_there_is_an_error(storage):
    with pytest.raises((FileNotFoundError, StoreNotFoundError)):
        storage.read_many([("a",), ("z",)], [9, 9])


@pytest.mark.parametrize("nbytes", [0, 10, 1 << 20])
def test_chunks_of_other_sizes_behind_a_url_are_named_and_not_read_whole(nbytes, monkeypatch):
    url = f"memory://sizes{nbytes}.mm"
    mm.from_arrays({"x": np.arange(40_000)}, url, backend=mm.Zarr(chunk_rows=4096, shards=1))
    fs = fsspec.filesystem("memory")
    (chunk,) = [name for name in fs.find(f"/sizes{nbytes}.mm") if name.endswith("/c/3")]
    size = fs.size(chunk)
    fs.pipe_file(chunk, b"x" * nbytes)
    seen = []
    cat = type(fs).cat_file
    monkeypatch.setattr(type(fs), "cat_file", lambda *a, **k: (seen.append(cat(*a, **k)), seen[-1])[1])
    with pytest.raises(CorruptStoreError, match="bytes"):
        mm.open(url)["x"].compute(scheduler="sync")
    assert max(map(len, seen)) <= size + 1 + 4096
