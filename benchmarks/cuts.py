"""Cuts, computed and kept."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.harness import Competitor, benchmark

CUT = "nJets >= 6 & nBTags_77 >= 2 & met > 30e3"
_BLOCK = 1 << 18
_MAKE = 1 << 20


def make_fields(folder: Path, n: int) -> dict[str, npt.NDArray[Any]]:
    """The three fields of the cut, as maps of ``.npy`` files."""
    paths = {name: folder / f"{name}.npy" for name in ("nJets", "nBTags_77", "met")}
    if not all(p.exists() for p in paths.values()):
        out = {
            name: np.lib.format.open_memmap(path, mode="w+", dtype="f4" if name == "met" else "i4", shape=(n,))
            for name, path in paths.items()
        }
        for start in range(0, n, _MAKE):
            stop = min(n, start + _MAKE)
            rng = np.random.default_rng([2, start])
            jets = rng.poisson(5.8, stop - start)
            out["nJets"][start:stop] = jets
            out["nBTags_77"][start:stop] = rng.binomial(jets, 0.3)
            out["met"][start:stop] = rng.exponential(45e3, stop - start)
        for array in out.values():
            array.flush()
    return {name: np.load(path, mmap_mode="r") for name, path in paths.items()}


class Setting:
    """The store, the same arrays as plain maps, and the number of rows that pass."""

    def __init__(self, folder: Path, n: int) -> None:
        import mmdask as mm

        self.n = n
        # plain views: a numpy.memmap pays for every slice
        self.fields = {name: a.view(np.ndarray) for name, a in make_fields(folder, n).items()}
        self.store = folder / "events.mm"
        self.mask = folder / "mask.npy"
        if not self.store.exists():
            mm.from_arrays(self.fields, self.store)
        f = self.fields
        self.passing = int(np.sum((f["nJets"] >= 6) & (f["nBTags_77"] >= 2) & (f["met"] > 30e3)))

    def forget(self) -> None:
        """Drop every mask that was kept, on disk and in memory, and open the store anew."""
        shutil.rmtree(self.store / "cache", ignore_errors=True)
        self.open_anew()

    def open_anew(self) -> None:
        """Open the store as a process does that has not seen it before."""
        import mmdask as mm
        from mmdask.rows import masks, rows

        masks.LOADED.clear()
        rows.RESOLVED.clear()
        self.ds = mm.open(self.store)

    def keep(self, **scheduler: Any) -> Any:
        """The cut computed and kept, by mmdask."""
        import dask

        with dask.config.set(**scheduler):
            return self.ds.cut(CUT).keep()

    def block(self, start: int, out: npt.NDArray[np.bool_]) -> None:
        jets, tags, met = (self.fields[name][start : start + _BLOCK] for name in ("nJets", "nBTags_77", "met"))
        out[start : start + _BLOCK] = (jets >= 6) & (tags >= 2) & (met > 30e3)

    def loop(self, threads: int) -> Callable[[], npt.NDArray[np.bool_]]:
        """The plain way: block by block, the mask saved."""

        def run() -> npt.NDArray[np.bool_]:
            out = np.empty(self.n, bool)
            starts = range(0, self.n, _BLOCK)
            if threads == 1:
                for start in starts:
                    self.block(start, out)
            else:
                with ThreadPoolExecutor(threads) as pool:
                    list(pool.map(lambda start: self.block(start, out), starts))
            np.save(self.mask, out)
            return out

        return run

    def check_cut(self, cut: Any) -> None:
        if not any((self.store / "cache").rglob("*")):
            raise AssertionError("the cut has to be kept in the store")
        self.check_count(cut.count())

    def check_mask(self, mask: npt.NDArray[np.bool_]) -> None:
        self.check_count(np.count_nonzero(mask))

    def check_count(self, count: Any) -> None:
        if int(count) != self.passing:
            raise AssertionError(f"{self.passing} rows pass, got {count}")


@benchmark(
    f"cut {CUT}, computed and kept, one thread",
    tiny=300_001,
    laptop=20_000_000,
    large=400_000_000,
    row_nbytes=12,
    target="<= 1.15 x limit",
)
def cut_one_thread(n: int, folder: Path) -> Iterator[Competitor]:
    """Three fields read, the mask written."""
    s = Setting(folder, n)
    yield Competitor("mmdask", "ours", lambda: s.keep(scheduler="sync"), s.forget, s.check_cut)
    yield Competitor("numpy in blocks, mask saved", "limit", s.loop(1), check=s.check_mask)


@benchmark(
    f"cut {CUT}, computed and kept, two threads",
    tiny=300_001,
    laptop=20_000_000,
    large=400_000_000,
    row_nbytes=12,
    target="< 1.0 x limit",
)
def cut_two_threads(n: int, folder: Path) -> Iterator[Competitor]:
    """As above; the limit has one thread, the peer two."""
    s = Setting(folder, n)
    two = {"scheduler": "threads", "num_workers": 2}
    yield Competitor("mmdask", "ours", lambda: s.keep(**two), s.forget, s.check_cut)
    yield Competitor("numpy in blocks, mask saved, one thread", "limit", s.loop(1), check=s.check_mask)
    yield Competitor("numpy in blocks, mask saved, two threads", "peer", s.loop(2), check=s.check_mask)


@benchmark(
    "a kept cut used again, in a dataset just opened",
    tiny=300_001,
    laptop=20_000_000,
    large=400_000_000,
    row_nbytes=0,
    target="<= 2 x limit",
)
def cut_kept(n: int, folder: Path) -> Iterator[Competitor]:
    """Only the kept bits are read."""
    import mmdask as mm

    s = Setting(folder, n)
    s.forget()
    s.keep()

    yield Competitor("mmdask, cut and count", "ours", lambda: s.ds.cut(CUT).count(), s.open_anew, s.check_count)
    yield Competitor("opening the store", "limit", lambda: mm.open(s.store))
