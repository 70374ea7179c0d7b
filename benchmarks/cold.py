"""Batches of data that are not in memory, and of data whose pages are given back."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.batches import BATCH, WIDTH, make_rows
from benchmarks.harness import Competitor, benchmark

_BUFFER = 1 << 20


class Files:
    """The files of arrays under a folder, taken out of memory at will.

    Parameters
    ----------
    *paths : Path
        Folders or files.
    """

    def __init__(self, *paths: Path) -> None:
        self.paths = [f for p in paths for f in (sorted(p.rglob("*.npy")) if p.is_dir() else [p])]
        self.nbytes = sum(path.stat().st_size for path in self.paths)
        self.drop()
        #: whether the system does that; a file system in memory does not
        self.cold = self.resident() < 0.01

    def drop(self) -> None:
        """Write what is not written, unmap the files, and have the system forget their pages."""
        from mmdask.store.arrays.held import MAPS

        MAPS.clear()
        for path in self.paths:
            fd = os.open(path, os.O_RDONLY)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)

    def prepare(self) -> None:
        """Take the files out of memory, and look whether they are."""
        self.drop()
        if self.cold and self.resident() > 0.01:
            raise AssertionError("files that were taken out of memory are there")

    def resident(self) -> float:
        """The share of 1,000 places in them that are in memory."""
        from mmdask.store.arrays import paging

        found = []
        for path in self.paths:
            data = np.memmap(path, np.uint8, mode="r")
            places = np.linspace(0, len(data) - 1, max(1000 // len(self.paths), 2)).astype(np.int64)
            found += [paging.in_memory([int(data.ctypes.data + i)]) for i in places]
        return sum(found) / len(found)

    def read(self, nbytes: int) -> int:
        """The first so many bytes of them, in order."""
        buffer, done = bytearray(_BUFFER), 0
        for path in self.paths:
            with open(path, "rb", buffering=0) as file:
                while done < nbytes and (got := file.readinto(buffer)):
                    done += got
        return done


def _loader(n: int, folder: Path, io: Literal["mmap", "pread"] = "mmap", **options: Any) -> Any:
    import mmdask as mm

    data = make_rows(folder / "rows.npy", n)
    store = folder / "rows.mm"
    if not store.exists():
        mm.from_arrays({"x": data}, store)
    return mm.open(store, io=io).batches(BATCH, seed=1, **options)


def _cold(n: int, folder: Path, part: int) -> Iterator[Competitor]:
    """The first of so many parts of an epoch, each time from files that are not in memory."""
    loader, reading = _loader(n, folder), _loader(n, folder, "pread")
    files, plain = Files(folder / "rows.mm"), Files(folder / "rows.npy")
    n_batches = max(len(loader) // part, 1)
    missing = "" if files.cold and plain.cold else "the file system keeps files in memory"

    def epoch(batches: Any) -> int:
        return sum(len(batch["x"]) for batch in itertools.islice(batches, n_batches))

    class Silent:
        """Asks for nothing, so that pages come when they are touched."""

        def windows(self, *_: Any) -> bool:
            return True

    silent = _loader(n, folder)
    silent.__dict__["_asking"] = Silent()

    def permutation() -> int:
        data = np.load(folder / "rows.npy", mmap_mode="r")
        order = np.random.default_rng(1).permutation(n)[: n_batches * BATCH]
        return sum(len(data[order[a : a + BATCH]]) for a in range(0, len(order), BATCH))

    def check(rows: int) -> None:
        if rows != min(n_batches * BATCH, n):
            raise AssertionError(f"{rows} rows were read")

    def one(name: str, role: Any, run: Callable[[], int], which: Files = files) -> Competitor:
        return Competitor(name, role, run, which.prepare, None if role == "limit" else check)

    yield one("mmdask", "ours", lambda: epoch(loader))
    yield one("reading as many bytes in order", "limit", lambda: files.read(n_batches * BATCH * 4 * WIDTH))
    for name, run, which in (
        ("mmdask, io='pread'", lambda: epoch(reading), files),
        ("mmdask, nothing asked for ahead", lambda: epoch(silent), files),
        ("memmap[permutation]", permutation, plain),
    ):
        yield Competitor(name, "peer", None, missing=missing) if missing else one(name, "peer", run, which)


@benchmark(
    f"shuffled batches of {BATCH} rows, 256 bytes each, an epoch of data that are not in memory",
    tiny=10_001,
    laptop=4_000_000,
    large=100_000_000,
    row_nbytes=4 * WIDTH,
    target="<= 1.25 x limit",
)
def cold_batches(n: int, folder: Path) -> Iterator[Competitor]:
    """Against reading the files in order, cold as well. What the system read beyond what was wanted serves later."""
    yield from _cold(n, folder, 1)


@benchmark(
    f"shuffled batches of {BATCH} rows, 256 bytes each, an eighth of an epoch of data that are not in memory",
    tiny=10_001,
    laptop=8_000_000,
    large=100_000_000,
    row_nbytes=4 * WIDTH // 8,
    target="<= 1.25 x limit",
)
def cold_start(n: int, folder: Path) -> Iterator[Competitor]:
    """What is read beyond what was wanted counts, as it does in any epoch over more data than memory holds."""
    yield from _cold(n, folder, 8)


@benchmark(
    f"shuffled batches of {BATCH} rows, 256 bytes each, with pages given back (memory=)",
    tiny=10_001,
    laptop=4_000_000,
    large=100_000_000,
    row_nbytes=4 * WIDTH,
    target="<= 1.1 x limit",
)
def released_pages(n: int, folder: Path) -> Iterator[Competitor]:
    """The same epoch in the same order, with pages mapped as they come."""
    bounded, free = _loader(n, folder, memory="1GiB"), _loader(n, folder)

    def epoch(loader: Any) -> int:
        loader.set_epoch(0)
        return sum(len(batch["x"]) for batch in loader)

    def check(_: int) -> None:
        if bounded.state_dict()["order"] != free.state_dict()["order"] or not bounded.budget.bounded:
            raise AssertionError("the two loaders differ in more than the pages that they give back")

    yield Competitor("mmdask, memory='1GiB'", "ours", lambda: epoch(bounded), check=check)
    yield Competitor("mmdask, pages stay mapped", "limit", lambda: epoch(free))
