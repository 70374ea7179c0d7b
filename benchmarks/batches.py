"""Shuffled batches."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.batch_peers import row_peers, window_peers
from benchmarks.harness import Competitor, benchmark
from mmdask.batches.loader import Loader
from mmdask.batches.ordering import order
from mmdask.batches.ordering.sequence import ExactSequence, Span, WindowSequence

BATCH = 4096
WIDTH = 64  # int32: rows of 256 bytes
_BLOCK = 1 << 18
_COPY_ROWS = 1 << 20  # 256 MiB: far larger than any cache


def make_rows(path: Path, n: int) -> np.memmap[Any, np.dtype[np.int32]]:
    """An ``(n, 64)`` int32 .npy file of noise; the first number of each row is its row number."""
    if not path.exists():
        draft = path.with_suffix(".tmp")
        out = np.lib.format.open_memmap(draft, mode="w+", dtype=np.int32, shape=(n, WIDTH))
        for start in range(0, n, _BLOCK):
            block = out[start : start + _BLOCK]
            rng = np.random.default_rng([1, start])
            block[:] = rng.integers(-(2**31), 2**31, block.shape, np.int32)
            block[:, 0] = np.arange(start, start + len(block))
        out.flush()
        draft.rename(path)
    return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]


@benchmark(
    f"shuffled dense batches of {BATCH} rows, 256 bytes each",
    tiny=10_001,
    laptop=4_000_000,
    large=100_000_000,
    row_nbytes=4 * WIDTH,
    target="<= 3.0 x limit",
)
def dense_batches(n: int, folder: Path) -> Iterator[Competitor]:
    """One epoch over all rows, every row once."""
    import mmdask as mm

    data = make_rows(folder / "rows.npy", n)
    store = folder / "rows.mm"
    ds = mm.open(store) if store.exists() else mm.from_arrays({"x": data}, store)
    loader, alone = (ds.batches(BATCH, fields=["x"], shuffle=True, seed=1, threads=t) for t in (None, 1))
    buffer = np.zeros((min(n, _COPY_ROWS), WIDTH), np.int32)  # touched, so that no page fault is timed

    def epoch(loader: Loader) -> None:
        for batch in loader:
            batch["x"]

    def copy() -> None:
        for start in range(0, n, len(buffer)):
            block = data[start : start + len(buffer)]
            np.copyto(buffer[: len(block)], block)

    def every_row_once(_: None) -> None:
        rows, first = [], []
        for batch in loader:
            rows.append(np.array(batch.rows))
            first.append(np.array(batch["x"][:, 0]))
        visited = np.concatenate(rows)
        if not np.array_equal(np.sort(visited), np.arange(n)):
            raise AssertionError("an epoch has to visit every row once")
        if not np.array_equal(np.concatenate(first), visited):
            raise AssertionError("batch.rows has to name the rows of the batch")

    yield Competitor("mmdask", "ours", lambda: epoch(loader), check=every_row_once)
    yield Competitor("memcpy of the same bytes", "limit", copy)
    yield Competitor("mmdask, one thread", "peer", lambda: epoch(alone))
    yield from window_peers(data, folder, BATCH)


@benchmark(
    f"shuffled dense batches of {BATCH} rows, 256 bytes each, against those that read row by row",
    tiny=2_001,
    laptop=200_000,
    large=200_000,
    row_nbytes=4 * WIDTH,
)
def dense_batches_by_row(n: int, folder: Path) -> Iterator[Competitor]:
    """One epoch over few rows: these peers take microseconds for each."""
    import mmdask as mm

    data = make_rows(folder / "rows.npy", n)
    store = folder / "rows.mm"
    ds = mm.open(store) if store.exists() else mm.from_arrays({"x": data}, store)
    loader = ds.batches(BATCH, seed=1)
    yield Competitor("mmdask", "ours", lambda: sum(len(b["x"]) for b in loader))
    yield memcpy(data)
    yield from row_peers(data, folder, BATCH)


def _narrow(n_fields: int, laptop: int) -> None:
    """Enter a benchmark of so many narrow fields."""

    def batches(n: int, folder: Path) -> Iterator[Competitor]:
        """Fields of 4 bytes, each an array of its own."""
        import mmdask as mm

        store = folder / "narrow.mm"
        names = [f"f{i:03}" for i in range(n_fields)]
        if not store.exists():
            noise = np.random.default_rng(1)
            mm.from_arrays({name: noise.random(n, np.float32) for name in names}, store)
        ds = mm.open(store)
        loader, alone = (ds.batches(BATCH, seed=1, threads=t) for t in (None, 1))
        arrays = [np.array(ds[name].compute()) for name in names]
        rows = min(n, (_COPY_ROWS * WIDTH) // n_fields)
        source, buffer = np.ones((2, rows, n_fields), np.float32)

        def epoch(loader: Loader) -> None:
            for batch in loader:
                batch[names[0]]

        def check(_: None) -> None:
            for batch in itertools.islice(loader, 3):
                if not all(np.array_equal(batch[name], a[batch.rows]) for name, a in zip(names, arrays, strict=True)):
                    raise AssertionError("a batch has other rows than it says")

        def copy() -> None:
            for start in range(0, n, rows):
                np.copyto(buffer[: n - start], source[: n - start])

        def take() -> None:
            order = np.random.default_rng(1).permutation(n)
            for start in range(0, n, BATCH):
                rows = order[start : start + BATCH]
                for values in arrays:
                    np.take(values, rows, mode="clip")

        yield Competitor("mmdask", "ours", lambda: epoch(loader), check=check)
        yield Competitor("memcpy of the same bytes", "limit", copy)
        yield Competitor("mmdask, one thread", "peer", lambda: epoch(alone))
        yield Competitor("np.take of each field in memory, by a permutation", "peer", take)

    batches.__name__ = f"narrow_batches_{n_fields}"
    benchmark(
        f"shuffled batches of {BATCH} rows of {n_fields} float32 fields",
        tiny=10_001,
        laptop=laptop,
        large=8 * laptop,
        row_nbytes=4 * n_fields,
    )(batches)


for _n_fields, _rows in ((4, 16_000_000), (64, 4_000_000), (256, 1_000_000)):
    _narrow(_n_fields, _rows)


@benchmark(
    f"shuffled batches of {BATCH} rows, lists of 8 float32 in the mean padded to 16",
    tiny=5_001,
    laptop=2_000_000,
    large=50_000_000,
    row_nbytes=4 * 16 + 16,
    target=">= 5 x numpy, >= 15 x awkward",
)
def padded_batches(n: int, folder: Path) -> Iterator[Competitor]:
    """One epoch; peers have everything in memory."""
    yield from _padded(n, folder, 16, ["jet"])


@benchmark(
    f"shuffled batches of {BATCH} rows, two fields of the same lists of 8 float32 in the mean padded to 22",
    tiny=5_001,
    laptop=2_000_000,
    large=50_000_000,
    row_nbytes=2 * (4 * 22 + 22),
    target=">= 5 x numpy, >= 15 x awkward",
)
def padded_pair_batches(n: int, folder: Path) -> Iterator[Competitor]:
    """Fields that share their offsets; numpy follows them once, too."""
    yield from _padded(n, folder, 22, ["jet_pt", "jet_eta"])


def _padded(n: int, folder: Path, length: int, names: list[str]) -> Iterator[Competitor]:
    """Each field with its mask."""
    import awkward as ak

    import mmdask as mm

    rng = np.random.default_rng(1)
    counts = rng.poisson(8, n)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    values = [rng.random(int(offsets[-1]), np.float32) for _ in names]
    index = ak.index.Index64(offsets)
    lists = [ak.Array(ak.contents.ListOffsetArray(index, ak.contents.NumpyArray(v))) for v in values]
    store = folder / "padded.mm"
    ds = mm.open(store) if store.exists() else mm.from_arrays(dict(zip(names, lists, strict=True)), store)
    collate = {name: mm.pad(length) for name in names}
    loader, alone = (ds.batches(BATCH, seed=1, collate=collate, threads=t) for t in (None, 1))
    padded = np.zeros((len(names), min(n, _COPY_ROWS), length), np.float32)
    source = np.ones_like(padded)

    def by_numpy(rows: Any) -> Any:
        kept = np.minimum(counts[rows], length)
        run = np.repeat(np.arange(len(rows)), kept)
        place = np.arange(len(run)) - (np.cumsum(kept) - kept)[run]
        item = offsets[rows][run] + place
        mask = np.zeros((len(rows), length), np.bool_)
        mask[run, place] = True
        made = []
        for v in values:
            out = np.zeros(mask.shape, np.float32)
            out[run, place] = np.take(v, item)
            made += [out, mask.copy() if made else mask]
        return made

    def by_awkward(rows: Any) -> Any:
        made: list[Any] = []
        for some in lists:
            found = ak.to_numpy(ak.pad_none(some[rows], length, clip=True))
            made += [found.filled(0), ~np.ma.getmaskarray(found)]
        return made

    def epoch(loader: Loader) -> None:
        for batch in loader:
            batch[names[0]]

    def check(_: None) -> None:
        for batch in itertools.islice(loader, 3):
            for form in (by_numpy, by_awkward):
                found = [batch[entry] for name in names for entry in (name, f"{name}_mask")]
                if not all(map(np.array_equal, form(batch.rows), found)):
                    raise AssertionError(f"{form.__name__} pads otherwise")

    def copy() -> None:
        for start in range(0, n, padded.shape[1]):
            np.copyto(padded[:, : n - start], source[:, : n - start])

    def peer(form: Callable[[Any], Any]) -> Callable[[], None]:
        def run() -> None:
            order = np.random.default_rng(1).permutation(n)
            for start in range(0, n, BATCH):
                form(order[start : start + BATCH])

        return run

    yield Competitor("mmdask", "ours", lambda: epoch(loader), check=check)
    yield Competitor("memcpy of the padded values", "limit", copy)
    yield Competitor("mmdask, one thread", "peer", lambda: epoch(alone))
    yield Competitor("numpy, repeat and take, by a permutation", "peer", peer(by_numpy))
    yield Competitor("awkward, pad_none and to_numpy, by a permutation", "peer", peer(by_awkward))


@benchmark(
    "the order of an epoch", tiny=100_001, laptop=20_000_000, large=200_000_000, row_nbytes=8, target="<= 5 ns/row"
)
def order_of_rows(n: int, folder: Path) -> Iterator[Competitor]:
    """Row numbers alone."""
    grain = order.Grain(256, 4096)
    sequence = WindowSequence(Span(n), 1, grain)
    exact = ExactSequence(Span(n), 1)
    epochs = itertools.count()

    def all_of(some: Any) -> None:
        epoch = next(epochs)
        for start in range(0, n, 8 * BATCH):
            some.rows_at(epoch, start, min(start + 8 * BATCH, n))

    yield Competitor("mmdask, windows", "ours", lambda: all_of(sequence))
    yield Competitor("numpy.arange", "limit", lambda: np.arange(n))
    yield Competitor("mmdask, shuffle='exact'", "peer", lambda: all_of(exact))
    yield Competitor("numpy permutation", "peer", lambda: np.random.default_rng(1).permutation(n))


@benchmark(
    "the first batch of a billion rows, and of the rest of an epoch",
    tiny=10**6,
    laptop=10**9,
    large=10**9,
    row_nbytes=0,
    target="< 50 ms",
)
def first_batch(n: int, folder: Path) -> Iterator[Competitor]:
    """A store of two constant fields: no data, but all the rows."""
    import mmdask as mm

    store = folder / "large.mm"
    if not store.exists():
        mm.from_arrays({"x": np.broadcast_to(np.float32(1), n)}, store)

    def at(position: int) -> Callable[[], None]:
        def run() -> None:
            loader = mm.open(store).batches(BATCH, seed=1)
            if position:
                loader.load_state_dict(loader.state_dict() | {"position": position})
            next(iter(loader))

        return run

    yield Competitor("mmdask, open and first batch", "ours", at(0))
    yield Competitor("opening the store", "limit", lambda: mm.open(store))
    yield Competitor(f"mmdask, open and resume at row {n * 7 // 10:,}", "peer", at(n * 7 // 10))


def memcpy(data: np.memmap[Any, np.dtype[np.int32]]) -> Competitor:
    """The same bytes copied into one large buffer."""
    buffer = np.zeros((min(len(data), _COPY_ROWS), WIDTH), np.int32)

    def copy() -> None:
        for start in range(0, len(data), len(buffer)):
            block = data[start : start + len(buffer)]
            np.copyto(buffer[: len(block)], block)

    return Competitor("memcpy of the same bytes", "limit", copy)
