"""A process of little memory that passes over a store: ``python limited.py store small io scheduler headroom scale``.

It passes over a small store first, so that everything is imported and compiled, and then allows itself `headroom` bytes
more: of address space, which is all that it could use. It prints how much of that the passes took.
"""

from __future__ import annotations

import gc
import json
import resource
import shutil
import sys
import threading
from pathlib import Path

import dask

import mmdask as mm
from mmdask.batches import epochs
from mmdask.dataset import dataset
from mmdask.export import save
from mmdask.kernels.jit import wait
from mmdask.rows import blocks, rows, selecting
from mmdask.rows.cuts import partcuts
from mmdask.rows.reading import spans
from mmdask.rows.sums import counting, reducing


def write(path, rows, rng, *, piece=1 << 19):
    """40 bytes a row: numbers, and a list of four items on average."""
    import awkward as ak

    fields = [
        mm.Field.dense("x", "f8"),
        mm.Field.dense("y", "f4"),
        mm.Field.dense("k", "i4"),
        mm.Field.ragged("jet", "f4"),
    ]
    n = min(piece, rows)
    counts = rng.integers(0, 9, n)
    some = {
        "x": rng.random(n),
        "y": rng.random(n).astype("f4"),
        "k": rng.integers(0, 5, n).astype("i4"),
        "jet": ak.unflatten(rng.random(int(counts.sum())).astype("f4"), counts),
    }
    with mm.create(path, fields=fields) as w:
        for start in range(0, rows, n):
            w.extend({name: values[: rows - start] for name, values in some.items()})
    return path


def passes(path, io, out):
    ds = mm.open(path, io=io)
    cut = ds.cut("x > 0.5 & any(jet > 0.9)")
    return {
        "sum": lambda: float(ds["x"].sum().compute()),
        "arithmetic": lambda: float(((ds["x"] + ds["y"]) * 2 - ds["k"]).mean().compute()),
        "ragged": lambda: float(ds["jet"].sum().sum().compute()),
        "ragged result": lambda: float((ds["jet"] * ds["x"] + 1)[:, 0].sum().compute()),
        "count": lambda: cut.count(),
        "selection": lambda: float(ds[cut]["x"].sum().compute()),
        "ragged selection": lambda: float(ds[cut]["jet"].max().sum().compute()),
        "describe": lambda: ds.describe()["x"].mean,
        "hist": lambda: float(ds.hist({"x": 50, "jet": (20, 0, 1)}, weight="y")["jet"].sum().value),
        "cutflow": lambda: repr(ds.cutflow(["x > 0.25", "any(jet > 0.8)", "k > 1"], weight="y", by="k")),
        "batches": lambda: sum(
            float(b["x"].sum()) for b in ds.batches(8192, fields=["x", "jet"], window="256 KiB", block=256)
        ),
        "save": lambda: len(ds[ds.cut("x > 0.5")].save(out, part_nbytes="4 MiB", progress=False)),
    }


def memory(key="VmSize"):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise AssertionError(key)


class Watch(threading.Thread):
    """The most anonymous memory that was resident, looked at every few milliseconds."""

    def __init__(self):
        super().__init__(daemon=True)
        self.most, self.ended = 0, threading.Event()

    def run(self):
        while not self.ended.wait(0.005):
            self.most = max(self.most, memory("RssAnon"))


def scale_down(by):
    """Make all that is held at once smaller: blocks, tasks and chunks, as the store is."""
    for module in (blocks, rows, counting, selecting):
        module.BLOCK_ROWS //= by
    blocks.BLOCK_NBYTES //= by
    rows._BLOCK_NBYTES //= by
    reducing._TASK_ROWS //= by
    partcuts.TASK_ROWS //= by
    save.BLOCK_NBYTES //= by
    save._BLOCK_ROWS //= by
    spans.SPAN_NBYTES //= by
    epochs.RUN_ROWS //= by
    dataset.CHUNK_ROWS //= by


def main(path, small, io, scheduler, headroom, scale):
    scale_down(int(scale))
    threading.stack_size(1 << 18)  # stacks are address space, too
    out = Path(path).parent / f"out-{io}-{scheduler}.mm"
    with dask.config.set(scheduler=scheduler, num_workers=2):
        for work in passes(small, io, out).values():
            work()
        wait()
        shutil.rmtree(out)
        gc.collect()
        watch = Watch()
        watch.start()
        size, anonymous = memory("VmSize"), memory("RssAnon")
        if io == "pread":
            resource.setrlimit(resource.RLIMIT_AS, (size + int(headroom), size + int(headroom)))
        for name, work in passes(path, io, out).items():
            watch.most = 0
            work()
            gc.collect()
            found = {"space": memory("VmPeak") - size, "anonymous": watch.most - anonymous}
            print(json.dumps({"pass": name, **found}), flush=True)
        watch.ended.set()
        shutil.rmtree(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
