"""Passes over a store larger than memory: by a worker of dask.distributed with a limit, and by a process with one.

Run by itself, ``python -m benchmarks.memory store io bytes``, it is that process.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Competitor, benchmark

ROW_NBYTES = 40
_PIECE = 1 << 20
#: what the worker may use before distributed pauses it (at 80 %) or kills it (at 95 %)
WORKER_NBYTES = 600_000_000


def make_store(path: Path, rows: int) -> Path:
    """A store of numbers, and lists of four items on average."""
    import awkward as ak

    import mmdask as mm

    if path.exists():
        return path
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 9, _PIECE)
    some = {
        "x": rng.random(_PIECE),
        "y": rng.random(_PIECE).astype("f4"),
        "k": rng.integers(0, 5, _PIECE).astype("i4"),
        "jet": ak.unflatten(rng.random(int(counts.sum())).astype("f4"), counts),
    }
    fields = [
        mm.Field.dense("x", "f8"),
        mm.Field.dense("y", "f4"),
        mm.Field.dense("k", "i4"),
        mm.Field.ragged("jet", "f4"),
    ]
    with mm.create(path, fields=fields) as w:
        for start in range(0, rows, _PIECE):
            w.extend({name: values[: rows - start] for name, values in some.items()})
    return path


def passes(ds: Any) -> dict[str, Callable[[], Any]]:
    """One of each kind."""
    cut = ds.cut("x > 0.5 & any(jet > 0.9)")
    return {
        "sum": lambda: float(ds["x"].sum().compute()),
        "arithmetic": lambda: float(((ds["x"] + ds["y"]) * 2 - ds["k"]).mean().compute()),
        "ragged": lambda: float((ds["jet"] * ds["x"] + 1).max(default=0).sum().compute()),
        "count": lambda: int(cut.count()),
        "selection": lambda: float(ds[cut]["jet"].sum().mean().compute()),
        "cut flow": lambda: repr(ds.cutflow(["x > 0.25", "any(jet > 0.8)", "k > 1"], weight="y", by="k")),
        "histogram": lambda: float(ds.hist({"x": (50, 0, 1), "jet": (20, 0, 1)}, weight="y")["jet"].sum().value),
        "describe": lambda: ds.describe()["x"].mean,
    }


def _forget(path: Path) -> None:
    """What was kept of earlier runs."""
    from mmdask.rows.cuts import masks
    from mmdask.rows.rows import RESOLVED

    shutil.rmtree(path / "cache", ignore_errors=True)
    RESOLVED.clear()
    masks.LOADED.clear()


def _read(path: Path) -> int:
    """Every byte of the store, as often as the passes need it, into one buffer."""
    buffer = bytearray(8 << 20)
    total = 0
    for _ in range(8):
        for file in sorted(path.glob("parts/*/*.npy")):
            with open(file, "rb", buffering=0) as f:
                while n := f.readinto(buffer):
                    total += n
    return total


@benchmark(
    f"eight passes by one worker of {WORKER_NBYTES // 10**6} MB, cuts and summaries kept",
    tiny=100_000,
    laptop=100_000_000,
    large=1_000_000_000,
    row_nbytes=8 * ROW_NBYTES,
    target="never paused, never killed",
)
def memory(rows: int, folder: Path) -> Iterator[Competitor]:
    """A worker of distributed with a limit; that it was neither paused nor killed is checked after each run."""
    import mmdask as mm

    path = make_store(folder / "large.mm", rows)
    expected = {name: work() for name, work in passes(mm.open(path)).items()}

    def worker() -> Any:
        from distributed import Client, LocalCluster

        with (
            LocalCluster(
                n_workers=1, threads_per_worker=1, memory_limit=WORKER_NBYTES, dashboard_address=":0"
            ) as cluster,
            Client(cluster) as client,
        ):
            pids = client.run(os.getpid)
            found = {name: work() for name, work in passes(mm.open(path)).items()}
            assert client.run(os.getpid) == pids, "the worker was killed"
            for address in pids:
                for _, event in client.get_events(address):
                    assert event.get("status") != "paused", "the worker was paused"
            [most] = client.run(_peak).values()
            assert most < WORKER_NBYTES
            return found

    def threads() -> Any:
        return {name: work() for name, work in passes(mm.open(path)).items()}

    def check(found: Any) -> None:
        assert found == expected, "other results"

    def forget() -> None:
        _forget(path)

    yield Competitor("mmdask, a worker with a limit, its start included", "ours", worker, forget, check)
    yield Competitor("the same bytes read, nothing computed", "limit", lambda: _read(path))
    yield Competitor("mmdask, threads without a limit", "peer", threads, forget, check)


@benchmark(
    "the same passes by a process that may use a tenth of the store more",
    tiny=100_000,
    laptop=100_000_000,
    large=1_000_000_000,
    row_nbytes=8 * ROW_NBYTES,
    target="no MemoryError",
)
def memory_process(rows: int, folder: Path) -> Iterator[Competitor]:
    """A process whose address space is limited; it has loaded what it needs by then."""
    path = make_store(folder / "large.mm", rows)
    small = make_store(folder / "small.mm", min(rows, 1 << 18))
    # Blocks and chunks do not get smaller with the store.
    limit = max(rows * ROW_NBYTES // 10, 400_000_000)

    def limited() -> Any:
        command = [sys.executable, "-m", "benchmarks.memory", str(path), str(small), str(limit)]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"MALLOC_ARENA_MAX": "1"})
        if done.returncode:
            raise AssertionError(done.stderr)
        return json.loads(done.stdout)

    def check(found: Any) -> None:
        assert found["space"] < limit

    yield Competitor(f"mmdask, {limit // 10**6} MB", "ours", limited, lambda: _forget(path), check)
    yield Competitor("the same bytes read, nothing computed", "limit", lambda: _read(path))


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise ValueError(key)


def _peak() -> int:
    """The most memory that a process had."""
    return _status("VmHWM")


def main(path: str, small: str, limit: str) -> None:
    """Pass over a store with so many bytes more than are in use when the small one was passed over."""
    import dask

    import mmdask as mm
    from mmdask.kernels.jit import wait

    threading.stack_size(1 << 20)  # stacks are address space, too
    with dask.config.set(num_workers=2):
        for work in passes(mm.open(small, io="pread")).values():
            work()
        wait()
        _forget(Path(small))
        size = _status("VmSize")
        resource.setrlimit(resource.RLIMIT_AS, (size + int(limit), size + int(limit)))
        for work in passes(mm.open(path, io="pread")).values():
            work()
    sys.stdout.write(json.dumps({"space": _status("VmPeak") - size}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
