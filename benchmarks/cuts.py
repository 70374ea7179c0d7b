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
from benchmarks.peers import Peers

CUT = "nJets >= 6 & nBTags_77 >= 2 & met > 30e3"
#: the same as others write it
_AND = "(nJets >= 6) & (nBTags_77 >= 2) & (met > 30e3)"
_SQL = '"nJets" >= 6 AND "nBTags_77" >= 2 AND met > 30e3'
_CPP = "nJets >= 6 && nBTags_77 >= 2 && met > 30e3"
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


def forget_opened() -> None:
    """Drop what this process knows of stores and cuts."""
    from mmdask.rows import rows
    from mmdask.rows.cuts import masks
    from mmdask.store import snapshot

    masks.LOADED.clear()
    rows.RESOLVED.clear()
    snapshot._OPEN.clear()


class Setting:
    """The store, its arrays as plain maps, and the number of rows that pass.

    Parameters
    ----------
    part_rows : int, optional
        Rows of each part; the store is of one part by default.
    """

    def __init__(self, folder: Path, n: int, part_rows: int | None = None) -> None:
        import mmdask as mm
        from mmdask.rows.reading import reader
        from mmdask.store import snapshot

        self.n = n
        self.store = folder / "events.mm"
        self.mask = folder / "mask.npy"
        if not self.store.exists():
            fields = make_fields(folder, n)
            row_nbytes = sum(a.itemsize for a in fields.values())
            with mm.create(self.store, part_nbytes=row_nbytes * (part_rows or n)) as w:
                w.extend({name: a.view(np.ndarray) for name, a in fields.items()})
        if part_rows is None:
            # the same maps for all; plain views: a numpy.memmap pays for every slice
            store = snapshot.open_snapshot(self.store)
            self.fields = {name: reader.read(store, name, 0, n).values for name in store.schema}
        else:
            self.fields = {name: a.view(np.ndarray) for name, a in make_fields(folder, n).items()}
        f = self.fields
        self.passing = int(np.sum((f["nJets"] >= 6) & (f["nBTags_77"] >= 2) & (f["met"] > 30e3)))
        self.peers = Peers(folder, self.fields, self.check_count)

    def forget(self) -> None:
        """Drop every mask that was kept, on disk and in memory, and open the store anew."""
        shutil.rmtree(self.store / "cache", ignore_errors=True)
        self.open_anew()

    def open_anew(self) -> None:
        """Open the store as a process does that has not seen it before."""
        forget_opened()
        self.ds = self.open_again()

    def open_again(self) -> Any:
        import mmdask as mm

        return mm.open(self.store)

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
    in_memory = s.peers.in_memory(lambda a: (a.nJets >= 6) & (a.nBTags_77 >= 2) & (a.met > 30e3))
    yield Competitor("awkward, values and mask in memory", "peer", in_memory, check=s.check_count)
    yield s.peers.numexpr(_AND, 1)
    yield s.peers.duckdb(_SQL, 1)
    yield s.peers.rdataframe(_CPP, 1)


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
    yield s.peers.numexpr(_AND, 2)
    yield s.peers.polars(lambda col: (col("nJets") >= 6) & (col("nBTags_77") >= 2) & (col("met") > 30e3))
    yield s.peers.duckdb(_SQL, 2)
    yield s.peers.rdataframe(_CPP, 2)


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
    s = Setting(folder, n)
    s.forget()
    s.keep()

    yield Competitor("mmdask, cut and count", "ours", lambda: s.ds.cut(CUT).count(), s.open_anew, s.check_count)
    yield Competitor("opening the store", "limit", s.open_again, forget_opened)


@benchmark(
    "a kept cut used again, in a dataset just opened, by the parts of the store",
    tiny=50,
    laptop=10_000,
    large=10_000,
    row_nbytes=0,
    target="<= 2 x limit",
)
def cut_kept_parts(n: int, folder: Path) -> Iterator[Competitor]:
    """As above, with this many parts of 1,000 rows."""
    s = Setting(folder, 1000 * n, part_rows=1000)
    s.forget()
    s.keep()
    if len(s.ds._rows.snapshot.parts) != n:
        raise AssertionError(f"{n} parts wanted")

    yield Competitor("mmdask, cut and count", "ours", lambda: s.ds.cut(CUT).count(), s.open_anew, s.check_count)
    yield Competitor("opening the store", "limit", s.open_again, forget_opened)
