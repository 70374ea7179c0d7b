"""Blocks of rows: their sizes, that their bits join, and that cuts asked for together share their work."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mmdask as mm
import mmdask.testing as mt
from mmdask.expr import evaluator
from mmdask.rows import blocks
from mmdask.rows.cuts.passes import kept_each

N = 1000
MET = [float(i * 7 % 101) for i in range(N)]
PT = [[float((i * 13 + k * 29) % 97) for k in range(i % 5)] for i in range(N)]
X = [None if i % 11 == 3 else i % 7 for i in range(N)]
ONE_MISSING = [None if i == 8 else i for i in range(N)]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("blocks") / "s.mm"
    data = {
        "met": np.float32(MET),
        "pt": PT,
        "x": X,
        "one": ONE_MISSING,
        "n": np.arange(N),
        "wide": np.zeros((N, 100), "u1"),
    }
    mm.from_arrays(data, path, labels={"year": 2016})
    return path


def snapshot_of(store):
    return mm.open(store)._rows.snapshot


def checked(store, *cuts):
    ds = mm.open(store)
    return [ds.cut(c)._expression for c in cuts]


@pytest.mark.parametrize(("names", "row_nbytes"), [(["met"], 4), (["met", "n"], 12), (["wide"], 100), (["year"], 0)])
@settings(max_examples=100, deadline=None)
@given(nbytes=st.integers(1, 200_000), start=st.integers(0, N), stop=st.none() | st.integers(0, N))
def test_sizes(store, names, row_nbytes, nbytes, start, stop):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_NBYTES", nbytes)
        patch.setattr(blocks, "BLOCK_ROWS", 256)
        found = list(blocks.row_blocks(snapshot_of(store), 0, names, start, stop))
    assert [row for a, b in found for row in range(a, b)] == list(range(start, N if stop is None else stop))
    sizes = [b - a for a, b in found]
    for size in sizes[:-1]:
        assert size % (64 if size >= 64 else 8) == 0
        assert size == sizes[0]
    assert all(size <= 256 and (size <= 8 or size * row_nbytes <= nbytes) for size in sizes)
    if len(sizes) > 1 and sizes[0] < 192:
        assert (sizes[0] + 64) * max(row_nbytes, 1) > nbytes, "as many rows as fit"


def test_rows_of_ragged_fields_count_with_their_items_and_offsets(store, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_NBYTES", 64 * 25)  # an offset and two items, of 8 bytes each, in the mean
    assert {b - a for a, b in blocks.row_blocks(snapshot_of(store), 0, ["pt"])} == {64, N % 64}


CUTS = {
    "met > 50": [m > 50 for m in MET],
    "x >= 3": [None if x is None else x >= 3 for x in X],
    "one >= 3": [None if x is None else x >= 3 for x in ONE_MISSING],
    "max(pt) > 80": [max(p) > 80 if p else None for p in PT],
    "x >= 3 | max(pt) > 80": [
        True if (x is not None and x >= 3) or (p and max(p) > 80) else None if x is None or not p else False
        for x, p in zip(X, PT, strict=True)
    ],
    "year == 2016": [True] * N,
    "any(pt > 80) & met > 50": [any(v > 80 for v in p) and m > 50 for p, m in zip(PT, MET, strict=True)],
}


def bits_of(values):
    return np.packbits(np.array(values, bool), bitorder="little").tolist()


@pytest.mark.parametrize("rows", [8, 64, 192, 4096])
@pytest.mark.parametrize(("start", "stop"), [(0, N), (0, 999), (64, 640), (8, 13), (5, 700), (40, 40)])
def test_bits_of_blocks_join(store, monkeypatch, rows, start, stop):
    monkeypatch.setattr(blocks, "BLOCK_ROWS", rows)
    found = blocks.evaluate_rows(snapshot_of(store), 0, start, stop, checked(store, *CUTS))
    for (true, known), expected in zip(found, CUTS.values(), strict=True):
        expected = expected[start:stop]
        assert true.tolist() == bits_of([e is True for e in expected])
        if None in expected:
            assert known.tolist() == bits_of([e is not None for e in expected])
        else:
            assert known is None


def test_rows_are_numbered_in_the_store_for_messages(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 8)
    mm.from_arrays({"a": [[1]] * 20, "b": [[1]] * 20}, tmp_path / "s.mm")
    with mm.append(tmp_path / "s.mm") as w:
        w.extend({"a": [[1]] * 20, "b": [[1]] * 13 + [[1, 2]] * 7})
    with pytest.raises(mm.ExpressionError, match="row 33 has 1 and 2"):
        blocks.evaluate_rows(snapshot_of(tmp_path / "s.mm"), 1, 0, 20, checked(tmp_path / "s.mm", "any(a == b)"))


@pytest.fixture
def operations(monkeypatch):
    """How often each operation is carried out."""
    counter = Counter()

    def counted(op, operation):
        def run(*args):
            counter[op] += 1
            return operation(*args)

        return run

    wrapped = {op: counted(op, operation) for op, operation in evaluator._OPERATIONS.items()}
    monkeypatch.setattr(evaluator, "_OPERATIONS", wrapped)
    return counter


def test_twenty_cuts_together_read_each_field_once_and_compute_what_they_share_once(store, operations, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 512)
    cuts = checked(store, *[f"sum(pt) > {k} & any(pt > 80) | x == {k % 5}" for k in range(20)])
    with mt.count_reads() as reads:
        found = blocks.evaluate_rows(snapshot_of(store), 0, 0, N, cuts)
    assert reads.rows == {"pt": N, "x": N}, "each field once"
    two = 2  # blocks
    assert operations["field"] == 2 * two
    assert operations["sum"] == operations["any"] == two
    # 20 sums with a number, 5 values of x, and the items once
    assert operations["compare literal"] == (20 + 5 + 1) * two
    assert operations["and"] == operations["or"] == 20 * two
    one_by_one = [blocks.evaluate_rows(snapshot_of(store), 0, 0, N, [cut])[0] for cut in cuts]
    for (true, known), (true_alone, known_alone) in zip(found, one_by_one, strict=True):
        assert true.tobytes() == true_alone.tobytes()
        assert (known is None) == (known_alone is None)


def test_twenty_cuts_kept_together_are_one_pass(store):
    cuts = checked(store, *[f"met > {k} & x != {k}" for k in range(20)])
    with mt.count_reads() as reads:
        found = kept_each(snapshot_of(store), cuts)
        assert reads.rows == {"met": N, "x": N}
        kept_each(snapshot_of(store), cuts)
        assert reads.rows == {"met": N, "x": N}, "kept"
    for k, [bits] in enumerate(found):
        expected = [m > k and x is not None and x != k for m, x in zip(MET, X, strict=True)]
        assert np.unpackbits(bits, count=N, bitorder="little").astype(bool).tolist() == expected
