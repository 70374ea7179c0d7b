"""Stores of zarr arrays with one file changed: errors of mmdask, right values, or damage that `verify` names."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mmdask as mm
from mmdask.rows.cuts.masks import LOADED
from mmdask.store import snapshot as store_snapshot
from mmdask.store.snapshot import open_snapshot
from mmdask.store.zarr import chunked as zarr_arrays
from tests.faults.content import Wrong, check_rows
from tests.faults.steps import make
from tests.fuzz.mutations import changed, changed_bytes, documented
from tests.store.hostile_cases import write_raw

FORMS = {
    "a file each": mm.Zarr(codec="lz4", chunk_rows=8, shards=1),
    "shards": mm.Zarr(codec="zstd", chunk_rows=4, shards=3),
    "plain": mm.Zarr(codec="none", chunk_rows=8, shards=2),
}
FIELDS = ("id", "t", "q", "image", "some")
#: names of files, by what they are
KINDS = {
    "chunks": lambda p: "c" in p.parts,
    "documents of zarr": lambda p: p.name == "zarr.json",
    "part.json": lambda p: p.name == "part.json",
}
WAYS = ("bytes", "bytes", "cut", "more", "gone", "empty", "folder", "other")


@pytest.fixture(scope="module", params=list(FORMS))
def good(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("zarr")
    path = folder / "good.mm"
    state = make(str(path), FIELDS, range(6), range(100_000, 100_007), backend=FORMS[request.param])
    files = [p.relative_to(path) for p in sorted(path.rglob("*")) if p.is_file() and p.name != ".lock"]
    return path, state, files


def copy_of(good, files, path):
    for file in files:
        (path / file).parent.mkdir(parents=True, exist_ok=True)
        os.link(good / file, path / file)


def change(path, file, files, how, rng):
    """Change a file; returns whether it has other bytes then."""
    place = path / file
    old = place.read_bytes()
    place.unlink()
    if how == "gone":
        return True
    if how == "folder":
        place.mkdir()
        return True
    new = {
        "bytes": lambda: changed_bytes(old, rng, rng.choice((1, 1, 2, 5))),
        "cut": lambda: old[: rng.randrange(max(len(old), 1))],
        "more": lambda: old + rng.randbytes(rng.choice((1, 4, 40))),
        "empty": lambda: b"",
        "other": lambda: (path / rng.choice([f for f in files if f != file])).read_bytes(),
    }[how]()
    place.write_bytes(new)
    return new != old


def outcome(path, state):
    """Read all of a store, in both ways; what it said if it was an error of mmdask."""
    zarr_arrays.CHUNKS.clear()
    zarr_arrays.INDEXES.clear()
    LOADED.clear()
    store_snapshot._OPEN.clear()  # what it has read of immutable files is not of these
    try:
        snapshot = open_snapshot(str(path))
        check_rows(snapshot, state)
        ds = mm.open(path)
        for name in ds:
            assert len(ds[[name]][[len(ds) - 1, 0, 3]][name]) == 3
    except mm.MmdaskError as error:
        return "an error" if str(path) in str(error) else f"an error that does not say where: {error}"
    except Wrong:
        return "wrong values"
    return "right values"


@pytest.mark.parametrize("kind", list(KINDS))
@settings(max_examples=12, deadline=None)
@given(rng=st.randoms(use_true_random=True), how=st.sampled_from(WAYS))
def test_what_is_changed_is_found_and_nothing_else_breaks(good, kind, rng, how):
    original, state, files = good
    file = rng.choice([f for f in files if KINDS[kind](f)])
    path = original.with_name("changed.mm")
    copy_of(original, files, path)
    try:
        if not change(path, file, files, how, rng):
            return
        found = outcome(path, state)
        report = mm.verify(path, threads=1)
        assert not report.ok, f"{how} of {file}"
        name = file.as_posix()
        assert any(name == p.file or name.startswith(p.file + "/") for p in report.problems), str(report)
        if kind == "documents of zarr":
            assert found == "right values", "they are for other programs"
        if how in ("gone", "folder", "empty", "cut", "more") and kind == "chunks":
            assert found == "an error", "sizes are compared before a byte is used"
    finally:
        shutil.rmtree(path)


@settings(max_examples=15, deadline=None)
@given(rng=st.randoms(use_true_random=True))
def test_documents_that_lie(good, rng):
    """What says of itself that it is right is read as it says, or refused; nothing else is raised."""
    original, state, files = good
    file = rng.choice([f for f in files if KINDS["part.json"](f)])
    path = original.with_name("lies.mm")
    copy_of(original, files, path)
    try:
        text = json.loads((path / file).read_bytes())
        del text["checksum"]
        (path / file).unlink()
        arrays = text["arrays"]
        i = rng.randrange(len(arrays))
        arrays[i] = changed(arrays[i], rng, rng.choice((1, 1, 2)))
        try:
            write_raw(path / file, documented(text))
        except UnicodeEncodeError:
            return
        found = outcome(path, state)
        if mm.verify(path, threads=1).ok:
            assert "error" not in found
    finally:
        shutil.rmtree(path)
