"""Two files, one of each class: batches vary as those of a true shuffle do, at the default settings."""

from __future__ import annotations

import numpy as np
import pytest
from memory_rows import numbered

import mmdask as mm
from mmdask.batches.loader import Loader
from mmdask.batches.ordering import order

#: rows of a block and bytes of a row, as stores choose them
STORES = {
    "one field of 256 bytes": (256, 256.0),
    "4 fields of 4 bytes": (16384, 16.0),
    "64 fields of 4 bytes": (16384, 256.0),
}
SIZE = 4096


def ratio_of(rows, label, size=SIZE):
    """The variance of the counts of a class in batches, as times that of a true shuffle."""
    n = len(rows)
    counts = label(rows[: n // size * size]).reshape(-1, size).sum(1)
    p = label(rows).mean()
    return ((counts - size * p) ** 2).mean() / (size * p * (1 - p) * (n - size) / (n - 1))


@pytest.mark.parametrize("store", STORES)
def test_stores_choose_these_blocks(store, tmp_path):
    block, row_nbytes = STORES[store]
    if "256 bytes" in store:
        fields = {"x": np.zeros((40_000, 64), "f4")}
    else:
        fields = {f"x{i}": np.zeros(40_000, "f4") for i in range(int(row_nbytes) // 4)}
    rows = mm.from_arrays(fields, tmp_path / "s.mm").batches(1).rows
    assert rows.block_rows == block
    assert rows.row_nbytes == pytest.approx(row_nbytes, rel=0.01)


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("share", [0.5, 0.1])
def test_two_files_are_mixed_as_by_a_true_shuffle(store, share):
    n = 12_000_000  # a dozen windows
    block, row_nbytes = STORES[store]
    loader = Loader(numbered(n, block_rows=block, row_nbytes=row_nbytes), SIZE, fields=[], seed=5)
    assert loader.sequence.windows.n_windows >= 11
    rows = loader.sequence.rows_at(0, 0, n)
    assert 0.9 < ratio_of(rows, lambda r: r < share * n) < 1.1


@pytest.mark.parametrize("boundaries", [1, 10, 1000])
@pytest.mark.parametrize("store", STORES)
def test_classes_that_change_some_times_are_mixed_as_well(store, boundaries):
    n = 12_000_000
    block, row_nbytes = STORES[store]
    loader = Loader(numbered(n, block_rows=block, row_nbytes=row_nbytes), SIZE, fields=[], seed=5)
    rows = loader.sequence.rows_at(0, 0, n)
    # Runs of a class that are about as long as the large blocks of narrow fields are the worst case; reports tell.
    worst = 1 + (SIZE - 1) / loader.sequence.windows.n_strata
    most = worst if boundaries == 1000 and loader.grain.block > 256 else 1.1
    assert 0.9 < ratio_of(rows, lambda r: r * (boundaries + 1) // n % 2 == 1) < most


@pytest.mark.parametrize("store", STORES)
def test_what_moves_whole_chunks_fails(store):
    """The thresholds above mean something: ten chunks mixed at a time, in a random order, are far off."""
    n = 4_000_000
    block, _ = STORES[store]
    rng = np.random.default_rng(1)
    chunks = rng.permutation(n // block)[:, None] * block + np.arange(block)
    windows = [rng.permutation(chunks[i : i + 10].ravel()) for i in range(0, len(chunks), 10)]
    assert ratio_of(np.concatenate(windows), lambda r: r < n / 2, size=512) > 10


def test_windows_without_strata_would_fail(monkeypatch):
    n = 12_000_000
    monkeypatch.setattr(order, "LEAST_BLOCKS", 64)

    def of_all(self, key, window):
        return np.sort(np.random.default_rng(3).permutation(self.n_blocks)[window :: self.n_windows])

    def starts(self, key, counts, block, n_rows):
        sizes = [len(of_all(self, key, w)) * block for w in range(self.n_windows)]
        return np.concatenate([[0], np.cumsum(sizes)])

    monkeypatch.setattr(order.Windows, "blocks", of_all)
    monkeypatch.setattr(order.Windows, "starts", starts)
    rows = numbered(n // 16384 * 16384, block_rows=16384, row_nbytes=256.0)
    found = Loader(rows, SIZE, fields=[], block=16384).sequence.rows_at(0, 0, len(rows))
    assert ratio_of(found, lambda r: r < n / 2) > 3


def test_real_files_one_after_the_other(tmp_path):
    path, n = tmp_path / "two.mm", 60_000
    for signal in (0, 1):
        with mm.append(path) if signal else mm.create(path, fields=[mm.Field.dense("signal", "?")]) as w:
            w.extend({"signal": np.full(n, bool(signal))})
    loader = mm.open(path).batches(200, block=64, window="256kB")
    assert loader.sequence.windows.n_windows > 2
    counts = np.array([b["signal"].sum() for b in loader])
    assert 0.8 < counts.var() / (200 / 4) < 1.2
    assert 0.9 < loader.report("signal").predicted < 1.1
