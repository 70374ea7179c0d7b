"""Lazy ragged fields computed from a store, against awkward on the same values in memory; and weighted histograms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Competitor, benchmark
from benchmarks.ragged_cuts import make_fields

_SIZES = {"tiny": 10_001, "laptop": 1_000_000, "large": 20_000_000}
_MEAN = 6
_ROW_NBYTES = 4 * _MEAN + 8


def _pair(n: int, folder: Path, lazy: Callable[[Any], Any], eager: Callable[[Any], Any]) -> Iterator[Competitor]:
    """What a lazy field computes to, on one thread, and what awkward makes of it in memory."""
    import awkward as ak
    import dask

    import mmdask as mm
    from mmdask.kernels import jit

    offsets, values = make_fields(n)["jet_pt"]
    pt = ak.Array(ak.contents.ListOffsetArray(ak.index.Index64(offsets), ak.contents.NumpyArray(values)))
    store = folder / "ragged.mm"
    if not store.exists():
        mm.from_arrays({"jet_pt": pt}, store)
    field = mm.open(store)["jet_pt"]
    expected = ak.to_list(eager(pt)[:1000])

    def ours() -> Any:
        with dask.config.set(scheduler="sync"):
            return lazy(field).compute()

    def check(found: Any) -> None:
        for a, b in zip(ak.to_list(found[:1000]), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5)

    yield Competitor("mmdask, one thread, from the store", "ours", ours, jit.wait, check)
    yield Competitor("awkward, in memory", "limit", lambda: eager(pt), check=check)


def _entered(name: str, title: str, lazy: Callable[[Any], Any], eager: Callable[[Any], Any]) -> None:
    def competitors(n: int, folder: Path) -> Iterator[Competitor]:
        yield from _pair(n, folder, lazy, eager)

    competitors.__name__ = name
    benchmark(title, **_SIZES, row_nbytes=_ROW_NBYTES, target="<= 1 x limit")(competitors)


def _enter_all() -> None:
    import awkward as ak

    def padded(pt: Any) -> Any:
        return ak.to_numpy(ak.fill_none(ak.pad_none(pt, 8, clip=True), 0))

    nan = np.float32(np.nan)
    _entered("ragged_sum", "jet_pt.sum()", lambda x: x.sum(), lambda pt: ak.sum(pt, axis=1))
    _entered("ragged_mean", "jet_pt.mean()", lambda x: x.mean(), lambda pt: ak.fill_none(ak.mean(pt, axis=1), nan))
    _entered("ragged_max", "jet_pt.max()", lambda x: x.max(), lambda pt: ak.fill_none(ak.max(pt, axis=1), nan))
    _entered(
        "ragged_argmax", "jet_pt.argmax()", lambda x: x.argmax(), lambda pt: ak.fill_none(ak.argmax(pt, axis=1), -1)
    )
    _entered("ragged_any", "(jet_pt > 100).any()", lambda x: (x > 100).any(), lambda pt: ak.any(pt > 100, axis=1))
    _entered("ragged_counts", "jet_pt.counts", lambda x: x.counts, lambda pt: ak.num(pt))
    _entered("ragged_item", "jet_pt[:, 0]", lambda x: x[:, 0], lambda pt: ak.fill_none(ak.firsts(pt), nan))
    _entered("ragged_items", "jet_pt[:, :3]", lambda x: x[:, :3], lambda pt: pt[:, :3])
    _entered("ragged_chosen", "jet_pt[jet_pt > 30]", lambda x: x[x > 30], lambda pt: pt[pt > 30])
    _entered("ragged_scaled", "jet_pt * 2", lambda x: x * 2, lambda pt: pt * 2)
    _entered("ragged_pad", "jet_pt.pad(8)", lambda x: x.pad(8), padded)


_enter_all()


@benchmark(
    "a histogram of 50 bins with weights", tiny=10_001, laptop=4_000_000, large=100_000_000, row_nbytes=8, target="<= 1"
)
def hist_weighted(n: int, folder: Path) -> Iterator[Competitor]:
    """Sums of weights and of their squares, of float32."""
    import dask
    import hist

    import mmdask as mm
    from mmdask.kernels import jit

    rng = np.random.default_rng(6)
    met, weight = rng.exponential(40, n).astype(np.float32), rng.normal(1, 0.3, n).astype(np.float32)
    store = folder / "hist.mm"
    if not store.exists():
        mm.from_arrays({"met": met, "weight": weight}, store)
    ds = mm.open(store)

    def ours() -> Any:
        with dask.config.set(scheduler="sync"):
            return ds.hist("met", bins=(50, 0, 200), weight="weight")

    def direct() -> Any:
        return hist.Hist(hist.axis.Regular(50, 0, 200), storage=hist.storage.Weight()).fill(met, weight=weight)

    expected = direct().values()
    yield Competitor(
        "mmdask, one thread", "ours", ours, jit.wait, check=lambda h: np.testing.assert_allclose(h.values(), expected)
    )
    yield Competitor("hist, in memory", "limit", direct)
