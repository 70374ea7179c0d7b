"""Conversion from ROOT."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness import Competitor, benchmark
from mmdask.demo import TREE, make_files

_BASKET = 25_000


def make_root(folder: Path, n: int, codec: str) -> list[Path]:
    """The files of the demo, written again with another codec; the folder's earlier ones are used if they fit."""
    import uproot

    wanted = {"zlib": uproot.ZLIB(1), "lz4": uproot.LZ4(1), "zstd": uproot.ZSTD(5)}[codec]
    made = sorted(folder.glob("*.root"))
    if not made:
        for path in make_files(folder / "demo", n, progress=False):
            recompress(path, folder / path.name, wanted)
        shutil.rmtree(folder / "demo")
        made = sorted(folder.glob("*.root"))
    return made


def recompress(source: Path, target: Path, compression: Any) -> None:
    """Copy the tree into a new file with this compression, basket by basket."""
    import uproot

    with uproot.open(source) as old, uproot.recreate(target, compression=compression) as new:
        tree = old[TREE]
        empty = tree.arrays(entry_stop=0)
        types = {name: empty[name].type.content for name in empty.fields}
        baskets = tree.num_entries // _BASKET + 2
        copy = new.mktree(TREE, types, counter_name=lambda _: "nJets", initial_basket_capacity=baskets)
        for chunk in tree.iterate(step_size=_BASKET):
            copy.extend({name: chunk[name] for name in chunk.fields})


def decode(paths: Iterable[Path]) -> int:
    """Decode every branch with uproot, one after the other, and throw it away; return the events."""
    import uproot

    events = 0
    for path in paths:
        with uproot.open(path, array_cache=None, object_cache=None) as file:
            tree = file[TREE]
            events += tree.num_entries
            for branch in tree.branches:
                branch.array(library="ak")
    return events


def competitors(n: int, folder: Path, codec: str) -> Iterator[Competitor]:
    """From files to a store, against bare decoding."""
    import mmdask as mm

    paths = make_root(folder, n, codec)
    sources = [f"{path}:{TREE}" for path in paths]
    store = folder / "events.mm"

    def remove() -> None:
        shutil.rmtree(store, ignore_errors=True)

    def check(events: int) -> None:
        if events != n:
            raise AssertionError(f"the files hold {n} events, got {events}")

    def ours() -> int:
        return len(mm.from_root(sources, store, progress=False))

    yield Competitor("mmdask, into a store", "ours", ours, remove, check)
    yield Competitor("uproot, decoded and thrown away", "limit", lambda: decode(paths), check=check)


def _rows(tiny: int) -> dict[str, Any]:
    return {"tiny": tiny, "laptop": 600_000, "large": 20_000_000, "row_nbytes": 205, "target": "<= 1.25 x limit"}


@benchmark("conversion from ROOT, ZLIB", **_rows(2_000))
def convert_zlib(n: int, folder: Path) -> Iterator[Competitor]:
    """Four files, ZLIB level 1."""
    return competitors(n, folder, "zlib")


@benchmark("conversion from ROOT, LZ4", **_rows(2_000))
def convert_lz4(n: int, folder: Path) -> Iterator[Competitor]:
    """Four files, LZ4 level 1."""
    return competitors(n, folder, "lz4")


@benchmark("conversion from ROOT, ZSTD", **_rows(2_000))
def convert_zstd(n: int, folder: Path) -> Iterator[Competitor]:
    """Four files, ZSTD level 5."""
    return competitors(n, folder, "zstd")
