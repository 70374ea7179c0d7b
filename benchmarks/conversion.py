"""Conversion from ROOT."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness import Competitor, benchmark
from mmdask.demo import TREE, make_files

_BASKET = 25_000
#: what a conversion may use, whatever the file
MEMORY_NBYTES = 256 * 2**20


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


@benchmark(
    "conversion from ROOT by two processes, ZLIB",
    **{**_rows(2_000), "laptop": 10_000_000, "target": "<= 0.59 x one process, where two cores are free"},
    most_repeats=3,
)
def convert_workers(n: int, folder: Path) -> Iterator[Competitor]:
    """Starting them takes about a second, which is in the time; large enough that it does not matter."""
    import mmdask as mm

    sources = [f"{path}:{TREE}" for path in make_root(folder, n, "zlib")]
    store = folder / "events.mm"

    def remove() -> None:
        shutil.rmtree(store, ignore_errors=True)

    def convert(workers: int) -> int:
        return len(mm.from_root(sources, store, workers=workers, progress=False))

    yield Competitor("mmdask, two processes", "ours", lambda: convert(2), remove)
    yield Competitor("mmdask, one process", "limit", lambda: convert(1), remove)


def make_cluster(path: Path, n: int) -> Path:
    """An RNTuple of one cluster with a page per column, as uproot writes; the last tenth of the rows has all items."""
    import awkward as ak
    import numpy as np
    import uproot

    if not path.exists():
        rng = np.random.default_rng(0)
        counts = np.zeros(n, np.int64)
        counts[-n // 10 :] = 40
        items = rng.integers(0, 200, int(counts.sum()), np.uint8).astype("f4")
        with uproot.recreate(path, compression=uproot.LZ4(1)) as file:
            file.mkrntuple(TREE, {"x": np.arange(n, dtype="f8"), "items": ak.unflatten(items, counts)})
    return path


#: peak memory is told apart from what the libraries take when they are loaded
_PEAK = """
import sys
import awkward, uproot
from mmdask.sources.root import convert_root

def peak():
    # ru_maxrss begins with what the parent process had
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

before = peak()
if sys.argv[2] == "uproot":
    with uproot.open({sys.argv[1]: None}, array_cache=None, object_cache=None) as file:
        (key,) = file.keys()
        for field in file[key].fields:
            field.array()
else:
    convert_root(sys.argv[1], sys.argv[2], progress=False)
print(1024 * (peak() - before))
"""


@benchmark(
    "conversion of an RNTuple of one cluster, in a process of its own",
    tiny=20_000,
    laptop=65_000_000,
    large=200_000_000,
    row_nbytes=32,
    target=f"<= {MEMORY_NBYTES >> 20} MiB of memory",
    most_repeats=2,
)
def convert_cluster(n: int, folder: Path) -> Iterator[Competitor]:
    """Memory is checked after each run; the rows are about 2 GB on a laptop."""
    path = make_cluster(folder / "cluster.root", n)
    store = folder / "cluster.mm"

    def run(target: str) -> int:
        command = [sys.executable, "-c", _PEAK, str(path), target]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    def remove() -> None:
        shutil.rmtree(store, ignore_errors=True)

    def check(peak: int) -> None:
        if peak > MEMORY_NBYTES:
            raise AssertionError(f"it took {peak >> 20} MiB, should be at most {MEMORY_NBYTES >> 20}")

    yield Competitor("mmdask, into a store", "ours", lambda: run(str(store)), remove, check)
    yield Competitor("uproot, decoded and thrown away, in memory as a whole", "limit", lambda: run("uproot"))
