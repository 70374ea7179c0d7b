"""Data that are not in memory: a window is asked for before it is read, whole, once, and nothing else is read."""

from __future__ import annotations

import itertools
import mmap
import os
import time
from pathlib import Path

import numpy as np
import pytest
from memory_rows import MemoryRows

import mmdask as mm
from mmdask.batches.loader import Loader
from mmdask.errors import CorruptStoreError
from mmdask.rows.reading import reader
from mmdask.store import foreign
from mmdask.store.arrays import held, paging
from mmdask.store.arrays.files import is_in_memory
from mmdask.store.arrays.held import MAPS

PAGE = mmap.PAGESIZE


class Noting(MemoryRows):
    """Rows that note what is asked for and what is read, in the order of the calls."""

    def __init__(self, n, selected=None, cold=True, **kwargs):
        super().__init__({"row": np.arange(n)}, selected, **kwargs)
        self.cold, self.log = cold, []

    def ask(self, names, begins, ends):
        self.log.append(("ask", np.concatenate([np.arange(a, b) for a, b in zip(begins, ends, strict=True)])))
        return self.cold

    def take_many(self, names, rows):
        self.log.append(("take", np.array(rows)))
        return super().take_many(names, rows)


def windows_of(n, selected=None, **kwargs):
    rows = Noting(n, selected, block_rows=16)
    return rows, Loader(rows, 100, seed=3, window=1, block=16, **kwargs)


@pytest.mark.parametrize("selected", [None, np.flatnonzero(np.random.default_rng(0).random(30_000) < 0.7)])
def test_each_row_is_asked_for_before_it_is_read_and_each_block_once(selected):
    rows, loader = windows_of(30_000, selected)
    assert loader.sequence.windows.n_windows > 5
    assert sum(len(b.rows) for b in loader) == len(rows)
    asked = np.zeros(30_000, int)
    for what, numbers in rows.log:
        if what == "ask":
            np.add.at(asked, numbers, 1)
        else:
            assert asked[numbers].all()
    first = rows.log[0][1]  # of the first batch alone, so that it comes soon
    assert len(first) == 100
    asked[first] -= 1
    assert (asked[rows.selected] == 1).all()
    assert asked.max() == 1


def test_no_more_is_asked_for_than_the_next_window():
    rows, loader = windows_of(30_000)
    in_window = np.diff(loader.sequence.starts(0)[1]).max()
    ahead = most = 0
    for batch in (b for i in range(len(loader)) for b in loader.run(0, i * 100, 1)):
        ahead = sum(len(n) for what, n in rows.log if what == "ask") - batch.position
        most = max(most, ahead)
    assert in_window / 2 < most <= 2 * in_window + 100
    assert ahead <= 100


def test_the_next_window_comes_piece_by_piece():
    rows, loader = windows_of(30_000)
    list(loader)
    in_window = int(np.diff(loader.sequence.starts(0)[1]).max())
    sizes = [len(n) for what, n in rows.log if what == "ask"][3:]
    assert max(sizes) <= in_window
    for i in range(len(loader)):
        list(loader.run(1, i * 100, 1))
    sizes = [len(n) for what, n in rows.log if what == "ask"][-40:]
    assert max(sizes) <= in_window / 8 + 32


def test_a_batch_somewhere_asks_for_its_own_rows():
    rows, loader = windows_of(30_000)
    for i in (17, 150, 40):
        rows.log.clear()
        batch = loader[i]
        assert [what for what, _ in rows.log] == ["ask", "take"]
        assert sorted(rows.log[0][1]) == sorted(batch.rows)


@pytest.mark.parametrize("options", [{"shuffle": "exact"}, {"balance": "row"}], ids=str)
def test_what_has_no_blocks_asks_for_rows(options):
    rows = Noting(640)
    if "balance" in options:
        pytest.importorskip("mmdask")
        options = {"shuffle": "exact"}
    loader = Loader(rows, 10, **options)
    list(loader)
    takes = [n for what, n in rows.log if what == "take"]
    asks = [n for what, n in rows.log if what == "ask"]
    assert all(sorted(a) == sorted(t) for a, t in zip(asks, takes, strict=True))


def test_store_order_asks_for_nothing_and_rows_in_memory_are_looked_at_now_and_then():
    rows = Noting(1000)
    list(Loader(rows, 10, shuffle=False))
    assert {what for what, _ in rows.log} == {"take"}
    rows = Noting(6400, cold=False)
    loader = Loader(rows, 10, shuffle="exact")
    for i in range(64):
        loader[i]
    assert sum(what == "ask" for what, _ in rows.log) == 8


def test_one_of_many_ranks_does_not_read_the_rows_of_others():
    wide = {"row": np.arange(6000), "image": np.zeros((6000, 2 * PAGE), "u1")}
    asked = {}
    for ranks in (1, 8):
        rows = Noting(6000, block_rows=4)
        rows.fields |= wide
        rows.schema = MemoryRows(wide).schema
        loader = Loader(rows, 80, fields=["row", "image"], rank=0, world_size=ranks, window=1, block=4)
        for i in range(20):
            list(loader.run(0, i * 80, 1))
        asked[ranks] = sum(len(n) for what, n in rows.log if what == "ask")
    assert asked[1] > 1600
    assert asked[8] <= 1600


# Stores ---------------------------------------------------------------------------------------------------------------


def cold(path):
    """Take the files of a store out of memory; skips where the system does not."""
    MAPS.clear()
    files = sorted(Path(path).rglob("*.npy"))
    for file in files:
        fd = os.open(file, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
    if in_cache(path) > 0.01:
        pytest.skip("this file system keeps its files in memory")


def in_cache(path):
    """The share of the pages of a store that are in memory."""
    pages = found = 0
    for file in sorted(Path(path).rglob("*.npy")):
        n = file.stat().st_size
        with open(file, "rb") as f, mmap.mmap(f.fileno(), n, prot=mmap.PROT_READ) as m:
            a = np.frombuffer(m, np.uint8)
            state = np.zeros(-(-n // PAGE), np.uint8)
            assert paging._libc.mincore(a.ctypes.data, n, state.ctypes.data) == 0
            pages, found = pages + len(state), found + int((state & 1).sum())
            del a
    return found / pages


def until(condition):
    """The system reads what it was asked for at some time."""
    end = time.monotonic() + 300
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


def every_hundredth(n):
    begins = np.arange(0, n, 12_800)
    return begins, np.minimum(begins + 128, n)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Fields of all kinds in three parts."""
    path, n = tmp_path_factory.mktemp("cold") / "many.mm", 128_000
    rng = np.random.default_rng(1)
    fields = [
        mm.Field.dense("wide", "i4", (64,)),
        mm.Field.ragged("list", "f8", optional=(1,)),
        mm.Field.string("text"),
        mm.Field.dense("some", "f8", optional=(0,)),
        mm.Field.shaped("image", "u1", axes=1),
    ]
    for part in range(3):
        counts = rng.integers(0, 9, n // 3)
        values = [[None if j == 5 else float(j) for j in range(k)] for k in counts]
        with mm.append(path) if part else mm.create(path, fields=fields) as w:
            w.extend(
                {
                    "wide": rng.integers(0, 99, (n // 3, 64), np.int32),
                    "list": values,
                    "text": ["x" * k for k in counts],
                    "some": [None if k == 2 else float(k) for k in counts],
                    "image": [np.zeros(k, "u1") for k in counts],
                }
            )
    return path


def test_only_what_is_asked_for_is_read(many):
    rows = mm.open(many).batches(10).rows
    cold(many)
    begins, ends = every_hundredth(len(rows))
    assert rows.ask(["wide"], begins, ends)
    pages = sum(p.nbytes for p in rows.snapshot.parts) // PAGE
    asked = len(begins) * (128 * 256 // PAGE)
    until(lambda: in_cache(many) * pages >= asked)
    assert in_cache(many) * pages < 1.5 * asked + 30
    assert in_cache(many) < 0.05


@pytest.mark.parametrize("name", ["wide", "list", "text", "some", "image"])
def test_everything_that_rows_need_is_asked_for(many, name, monkeypatch):
    rows = mm.open(many).batches(10).rows
    cold(many)
    begins, ends = every_hundredth(len(rows))
    found = []
    monkeypatch.setattr(paging, "ask", lambda spans, ask=paging.ask: (found.append(spans), ask(spans)))
    assert rows.ask([name], begins, ends)
    asked = np.concatenate(found)
    snapshot = rows.snapshot
    arrays = 0
    for part in range(len(snapshot.parts)):
        layer, stored = snapshot.stored(part, name)
        for number in (stored.values, stored.shapes, *stored.offsets, *stored.valid):
            if number is not None and layer.arrays[number].nbytes > 1 << 16:
                a = snapshot.array(layer, number)
                base = a.__array_interface__["data"][0]
                assert ((asked[:, 0] >= base) & (asked[:, 1] <= base + a.nbytes)).any(), (name, number)
                arrays += 1
    assert arrays >= 3
    until(lambda: paging.in_memory(asked[:, 0].tolist()))
    # What these rows hold lies in what was asked for.
    if name in ("list", "text", "image"):
        layer, stored = snapshot.stored(0, name)
        offsets, values = (snapshot.array(layer, n) for n in (stored.offsets[0], stored.values))
        first, end = int(offsets[begins[1]]), int(offsets[ends[1]])
        at = values.__array_interface__["data"][0] + np.array([first, end]) * values.itemsize
        assert ((asked[:, 0] <= at[0]) & (asked[:, 1] >= at[1])).any()


def test_what_is_in_memory_is_not_asked_for(many, monkeypatch):
    rows = mm.open(many).batches(10).rows
    for name in rows.schema:
        rows.take(name, np.arange(len(rows)))
    calls = []
    monkeypatch.setattr(paging, "ask", calls.append)
    assert not rows.ask(list(rows.schema), *every_hundredth(len(rows)))
    assert not calls


def test_batches_of_cold_data_are_the_same(many):
    loader = mm.open(many).batches(500, window=1, seed=2)
    warm = [b["wide"].copy() for b in loader]
    cold(many)
    loader.set_epoch(0)
    assert all(map(np.array_equal, warm, (b["wide"] for b in loader)))


@pytest.fixture
def ranges(monkeypatch):
    """What plain reads ask of the system: by file the ranges of bytes of each call."""
    seen = {}

    def noting(fd, ranges, ask=held.ask_for):
        ranges = list(ranges)
        seen.setdefault(os.readlink(f"/proc/self/fd/{fd}"), []).append(ranges)
        ask(fd, ranges)

    monkeypatch.setattr(held, "ask_for", noting)
    monkeypatch.setattr(foreign, "ask_for", noting)
    return seen


def asked_by_maps(monkeypatch, ask):
    """What is asked of the system by maps meanwhile, in the same form."""
    found, seen = [], {}
    with monkeypatch.context() as patch:
        patch.setattr(paging, "ask", found.append)
        ask()
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(".npy")]
    for spans in found:
        for first, _, _, _, _, path in maps:
            begin, end = (int(x, 16) for x in first.split("-"))
            if len(spans) and begin <= spans[0, 0] < end:
                seen.setdefault(path, []).append([(a - begin, b - begin) for a, b in paging.merged(spans)])
    return seen


@pytest.mark.parametrize("name", ["wide", "list", "text", "some", "image"])
def test_plain_reads_ask_for_what_maps_ask_for(many, name, ranges, monkeypatch):
    plain, mapped = (mm.open(many, io=io).batches(10).rows for io in ("pread", "mmap"))
    begins, ends = every_hundredth(len(plain))
    cold(many)
    expected = asked_by_maps(monkeypatch, lambda: mapped.ask([name], begins[::-1], ends[::-1]))
    assert expected
    MAPS.clear()
    cold(many)
    assert plain.ask([name], begins[::-1], ends[::-1])
    assert ranges == expected
    for calls in ranges.values():
        assert len(calls) == 1
        assert calls[0] == sorted(calls[0])
    assert not [line for line in Path("/proc/self/maps").read_text().splitlines() if str(many) in line]
    until(lambda: not plain.missing([name], begins))


def test_plain_reads_ask_for_nothing_that_is_in_memory(many, ranges):
    rows = mm.open(many, io="pread").batches(10).rows
    for name in rows.schema:
        rows.read(name, 0, len(rows))
    with open(next(many.rglob("*-wide.npy")), "rb") as file:
        if not is_in_memory(file.fileno(), [0]):
            pytest.skip("this file system does not tell what is in memory")
    assert not rows.ask(list(rows.schema), *every_hundredth(len(rows)))
    assert not ranges


def test_where_the_system_does_not_tell_plain_reads_ask(many, ranges, monkeypatch):
    rows = mm.open(many, io="pread").batches(10).rows
    rows.read("wide", 0, len(rows))
    with monkeypatch.context() as patch:
        patch.delattr(os, "RWF_NOWAIT")
        assert rows.ask(["wide"], *every_hundredth(len(rows)))
    assert len(ranges) == 3
    with monkeypatch.context() as patch:
        patch.delattr(os, "posix_fadvise")
        patch.delattr(os, "RWF_NOWAIT")
        assert rows.ask(["wide"], *every_hundredth(len(rows)))


def test_a_window_is_asked_for_once_by_plain_reads(many, ranges, monkeypatch):
    """Each block of the store once in an epoch, ascending within an eighth of a window."""
    monkeypatch.setattr(held.PlainArrays, "in_memory", lambda *_: False)
    loader = mm.open(many, io="pread").batches(500, fields=["wide"], window=1, block=16, seed=2, shuffle=True)
    monkeypatch.setattr(reader, "missing", lambda *_: False)  # what is read is not asked for again
    n_windows = loader.sequence.windows.n_windows
    assert n_windows > 5
    assert sum(len(b.rows) for b in loader) == len(loader.rows)
    calls = [call for calls in ranges.values() for call in calls]
    assert all(call == sorted(call) for call in calls)
    assert len(calls) <= 3 * 8 * (n_windows + 1)
    layer, stored = loader.rows.snapshot.stored(0, "wide")
    of_first_part = os.path.join(layer.path, layer.arrays[stored.values].file)
    for file, of_file in ranges.items():
        pages = np.zeros(-(-os.stat(file).st_size // PAGE), int)
        for begin, end in itertools.chain(*of_file):
            pages[begin // PAGE : -(-end // PAGE)] += 1
        assert (pages[1:] >= 1).all()
        if file == of_first_part:  # where a block is a page; the first batch alone asks for its rows, to come soon
            assert (pages > 1).sum() <= 500


def test_rows_far_apart_are_asked_for_before_they_are_read(many, ranges, monkeypatch):
    rows = mm.open(many, io="pread").batches(10).rows
    numbers = np.random.default_rng(1).permutation(np.arange(0, len(rows), 400))
    log = []
    for what in ("ask_for", "_read_through"):
        one = getattr(held, what)
        monkeypatch.setattr(held, what, lambda *args, one=one, what=what: (log.append(what), one(*args))[1])
    expected = rows.take("wide", numbers).values
    log.clear()
    cold(many)
    np.testing.assert_array_equal(rows.take("wide", numbers).values, expected)
    assert len(ranges) == 3
    assert log.index("ask_for") < log.index("_read_through")
    cold(many)
    log.clear()
    rows.take("list", numbers)  # so near each other that they are one run in each part
    assert "ask_for" not in log
    cold(many)
    log.clear()
    rows.take("wide", numbers[:10])
    assert "ask_for" not in log


def test_views_of_files_are_asked_for(tmp_path, ranges, monkeypatch):
    """Those of mm.view are read by plain reads."""
    data = np.arange(2_000_000.0).reshape(-1, 8)
    np.save(tmp_path / "x.npy", data)
    view = mm.view({"x": np.load(tmp_path / "x.npy", mmap_mode="r"), "y": np.arange(len(data))})
    numbers = np.arange(0, len(data), 5000)
    monkeypatch.setattr(foreign.InFile, "in_memory", lambda *_: False)
    rows = view.batches(10).rows
    assert rows.ask(["x", "y"], numbers, numbers + 1)
    [(file, [call])] = ranges.items()
    assert file == str(tmp_path / "x.npy")
    begins = 128 + numbers * 64
    assert call == [(b // PAGE * PAGE, b + 64) for b in begins.tolist()]
    assert not rows.ask(["y"], numbers, numbers + 1)
    numbers = np.random.default_rng(1).permutation(len(data))[:3000]
    np.testing.assert_array_equal(rows.take("x", numbers).values, data[numbers])


def test_damage_is_told_when_it_is_read(tmp_path):
    for io in ("mmap", "pread"):
        path = tmp_path / f"{io}.mm"
        mm.from_arrays({"x": np.zeros((40_000, 8))}, path)
        [file] = path.rglob("*x*.npy")
        file.unlink()
        MAPS.clear()
        held.DESCRIPTORS.clear()
        loader = mm.open(path, io=io).batches(10)
        assert not loader.rows.ask(["x"], *every_hundredth(40_000))
        with pytest.raises(CorruptStoreError):
            next(iter(loader))


def test_views_ask_for_and_give_back_the_pages_of_their_stores(many):
    renamed = mm.open(many).rename({"wide": "broad"}).batches(10).rows
    cold(many)
    assert renamed.ask(["broad"], *every_hundredth(len(renamed)))
    rows = renamed.take("broad", np.arange(len(renamed)))
    assert len(rows.values) == len(renamed)

    def mapped():
        """kB of the field, which has 32,000, in this process."""
        found, inside = 0, False
        for line in Path("/proc/self/smaps").read_text().splitlines():
            if not line.split(maxsplit=1)[0].endswith(":"):
                inside = str(many) in line and line.endswith("-wide.npy")
            elif inside and line.startswith("Rss:"):
                found += int(line.split()[1])
        return found

    assert mapped() > 1000
    renamed.release(["broad"])
    assert mapped() < 1000
