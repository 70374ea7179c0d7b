"""Cuts on the items of rows, computed and kept, against the same done in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.cuts import forget_opened
from benchmarks.harness import Competitor, benchmark
from benchmarks.peers import Peers

_MAKE = 1 << 20
_SIZES = {"tiny": 100_001, "laptop": 4_000_000, "large": 100_000_000}
_MEAN = 6
#: a float32 for each item, and an offset
_ROW_NBYTES = 4 * _MEAN + 8

Fields = dict[str, tuple[npt.NDArray[np.int64], npt.NDArray[Any]]]


def make_fields(n: int) -> Fields:
    """Offsets and values of two fields: six items a row in the mean, in quarters, whose sums are exact in float32."""
    counts, pt, eta = [], [], []
    for start in range(0, n, _MAKE):
        rng = np.random.default_rng([4, start])
        counts.append(rng.poisson(_MEAN, min(_MAKE, n - start)))
        size = int(counts[-1].sum())
        pt.append((np.rint(rng.exponential(160, size)) / 4 + 20).astype(np.float32))
        eta.append(rng.normal(0, 1.5, size).astype(np.float32))
    offsets = np.zeros(n + 1, np.int64)
    np.cumsum(np.concatenate(counts), out=offsets[1:])
    return {"jet_pt": (offsets, np.concatenate(pt)), "jet_eta": (offsets, np.concatenate(eta))}


class Setting:
    """The store, and the same values in memory."""

    def __init__(self, folder: Path, n: int, cut: str, plain: Callable[[Any], Any]) -> None:
        import awkward as ak

        import mmdask as mm

        self.n, self.cut = n, cut
        self.store = folder / "jets.mm"
        self.peers = Peers(folder, make_fields(n), self.check)
        if not self.store.exists():
            everything = self.peers.awkward()
            mm.from_arrays({name: ak.to_packed(everything[name]) for name in everything.fields}, self.store)
        self.in_memory = self.peers.in_memory(plain)
        self.passing = self.in_memory()

    def check(self, count: int) -> None:
        if count != self.passing:
            raise AssertionError(f"{self.passing} rows pass, got {count}")

    def forget(self) -> None:
        import shutil

        import mmdask as mm

        shutil.rmtree(self.store / "cache", ignore_errors=True)
        forget_opened()
        self.ds = mm.open(self.store)

    def ours(self) -> int:
        import dask

        with dask.config.set(scheduler="sync"):
            return int(self.ds.cut(self.cut).count())

    def competitors(self, polars: Callable[[Any], Any] | None, sql: str | None, cpp: str) -> Iterator[Competitor]:
        yield Competitor("mmdask, one thread, kept", "ours", self.ours, self.forget, self.check)
        yield Competitor("awkward, values and mask in memory", "limit", self.in_memory, check=self.check)
        if polars is not None:
            yield self.peers.polars(polars)
        if sql is not None:
            yield self.peers.duckdb(sql, 1)
        yield self.peers.rdataframe(cpp, 1)


@benchmark("cut any(jet_pt > 100)", **_SIZES, row_nbytes=_ROW_NBYTES, target="<= 0.5 x limit")
def cut_any(n: int, folder: Path) -> Iterator[Competitor]:
    """Whether an item is larger than a number."""
    import awkward as ak

    s = Setting(folder, n, "any(jet_pt > 100)", lambda a: ak.any(a.jet_pt > 100, axis=1))
    yield from s.competitors(
        lambda col: col("jet_pt").list.max() > 100, "list_max(jet_pt) > 100", "ROOT::VecOps::Any(jet_pt > 100)"
    )


@benchmark("cut sum(jet_pt) > 400", **_SIZES, row_nbytes=_ROW_NBYTES, target="<= 0.5 x limit")
def cut_sum(n: int, folder: Path) -> Iterator[Competitor]:
    """A sum in double, item after item; awkward's is in float32."""
    import awkward as ak

    s = Setting(folder, n, "sum(jet_pt) > 400", lambda a: ak.sum(a.jet_pt, axis=1) > 400)
    yield from s.competitors(
        lambda col: col("jet_pt").list.sum() > 400, "list_sum(jet_pt) > 400", "ROOT::VecOps::Sum(jet_pt) > 400"
    )


@benchmark("cut max(jet_pt) > 100", **_SIZES, row_nbytes=_ROW_NBYTES, target="<= 0.5 x limit")
def cut_max(n: int, folder: Path) -> Iterator[Competitor]:
    """The largest item; a row without items is missing."""
    import awkward as ak

    s = Setting(folder, n, "max(jet_pt) > 100", lambda a: ak.fill_none(ak.max(a.jet_pt, axis=1) > 100, False))
    yield from s.competitors(
        lambda col: col("jet_pt").list.max() > 100,
        "list_max(jet_pt) > 100",
        "jet_pt.size() > 0 && ROOT::VecOps::Max(jet_pt) > 100",
    )


@benchmark("cut argmax(jet_pt) == 0", **_SIZES, row_nbytes=_ROW_NBYTES, target="<= 0.5 x limit")
def cut_argmax(n: int, folder: Path) -> Iterator[Competitor]:
    """Where the largest item is."""
    import awkward as ak

    s = Setting(folder, n, "argmax(jet_pt) == 0", lambda a: ak.fill_none(ak.argmax(a.jet_pt, axis=1) == 0, False))
    yield from s.competitors(
        lambda col: col("jet_pt").list.arg_max() == 0,
        "list_position(jet_pt, list_max(jet_pt)) = 1",
        "jet_pt.size() > 0 && ROOT::VecOps::ArgMax(jet_pt) == 0",
    )


@benchmark("cut jet_pt[0] > 50", **_SIZES, row_nbytes=_ROW_NBYTES, target="<= 0.5 x limit")
def cut_first(n: int, folder: Path) -> Iterator[Competitor]:
    """The first item; a row without items is missing."""
    import awkward as ak

    s = Setting(folder, n, "jet_pt[0] > 50", lambda a: ak.fill_none(ak.firsts(a.jet_pt) > 50, False))
    yield from s.competitors(
        lambda col: col("jet_pt").list.first() > 50, "jet_pt[1] > 50", "jet_pt.size() > 0 && jet_pt[0] > 50"
    )


@benchmark(
    "cut count(jet_pt > 30 & abs(jet_eta) < 2.5) >= 4",
    **_SIZES,
    row_nbytes=_ROW_NBYTES + 4 * _MEAN,
    target="<= 0.5 x limit",
)
def cut_count(n: int, folder: Path) -> Iterator[Competitor]:
    """How many items pass a cut of their own, on two fields."""
    import awkward as ak

    def plain(a: Any) -> Any:
        return ak.sum((a.jet_pt > 30) & (abs(a.jet_eta) < 2.5), axis=1) >= 4

    s = Setting(folder, n, "count(jet_pt > 30 & abs(jet_eta) < 2.5) >= 4", plain)
    cpp = "ROOT::VecOps::Sum(jet_pt > 30 && ROOT::VecOps::abs(jet_eta) < 2.5f) >= 4"
    yield from s.competitors(None, None, cpp)


_TWENTY = [f"sum(jet_pt) > {20 * k} & count(jet_pt > 30) >= {k % 5}" for k in range(1, 21)]


@benchmark("20 cuts on sum(jet_pt) and count(jet_pt > 30)", **_SIZES, row_nbytes=_ROW_NBYTES, target="<= 0.5 x limit")
def cuts_together(n: int, folder: Path) -> Iterator[Competitor]:
    """Together they are one pass, with the sum and the count computed once; a cut flow counts more than each alone."""
    import awkward as ak
    import dask

    s = Setting(folder, n, _TWENTY[0], lambda a: (ak.sum(a.jet_pt, axis=1) > 20) & (ak.sum(a.jet_pt > 30, axis=1) >= 1))

    def together() -> Any:
        with dask.config.set(scheduler="sync"):
            return s.ds.cutflow(_TWENTY).alone.rows[1]

    def alone() -> int:
        with dask.config.set(scheduler="sync"):
            first, *_ = [s.ds.cut(cut).count() for cut in _TWENTY]
            return first

    yield Competitor("mmdask, as a cut flow, one thread, kept", "ours", together, s.forget, s.check)
    yield Competitor("mmdask, one by one, one thread, kept", "limit", alone, s.forget, s.check)
