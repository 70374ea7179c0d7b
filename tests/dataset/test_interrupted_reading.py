"""Ctrl-C at moments of what reads; ``python -m tests.faults reading`` takes every one."""

from __future__ import annotations

import pytest

from mmdask.store.arrays.buffers import Buffers
from tests.faults.reading import interrupt, looks, make_store, run_look

#: where files are opened, and masks are read, written and removed
ARRAYS, MASKS, KEPT = "/store/arrays/", "/rows/cuts/masks.py", "/rows/cuts/kept.py"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    pytest.importorskip("uproot")
    return make_store(tmp_path_factory.mktemp("interrupted"))


@pytest.mark.parametrize("name", looks())
def test_some_moments_of_each_question(store, name):
    result = run_look(looks()[name], store, every=600, offset=sum(map(ord, name)) % 600)
    assert not result.failures


@pytest.mark.parametrize(
    ("name", "files", "every"),
    [
        ("open", "/store/arrays/files.py", 1),
        ("pread", "/store/arrays/held.py", 1),
        ("zarr", ARRAYS, 5),
        ("cut", "/store/system.py", 1),
        ("bundled", MASKS, 20),
        ("bundles", MASKS, 6),
        ("clear", KEPT, 6),
        ("threads", "/dataset/run.py", 5),
    ],
)
def test_where_something_is_opened_kept_or_shared_out(store, name, files, every):
    result = run_look(looks()[name], store, [files], every)
    assert not result.failures
    assert result.counts["interrupts"] >= 5


def test_memory_is_lent_or_lies_there():
    size, most = 1 << 17, 1 << 18
    buffers = Buffers(most)

    def borrow():
        for _ in range(3):
            buffers.get(size)[0] = 1

    def check():
        assert buffers.nbytes <= most
        held = [buffers.get(size) for _ in range(3)]
        for i, memory in enumerate(held):
            memory[:] = i
        assert [int(memory.max()) for memory in held] == [0, 1, 2], "nobody else has it"

    at = 0
    while interrupt(borrow, at, check):
        at += 1
    assert at > 20
