"""A process that is interrupted while it computes: ``python interrupted.py store scheduler``.

For each line of its input, the name of an operation, it says how long that takes; for each other line it says "go",
begins the operation, and says how it ended and what was left behind. `test_interrupts.py` sends the signals.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import os
import shutil
import signal
import sys
import threading
import time
import warnings
from pathlib import Path

import dask
import numpy as np

import mmdask as mm
from mmdask.rows import masks
from mmdask.rows.rows import RESOLVED


def operations(path, out):
    ds = mm.open(path, chunks=1 << 15)
    return {
        "count": lambda: ds.cut("x > 0.5 & any(jet > 0.9)").count(),
        "rows": lambda: ds[ds.cut("y > 0.5")]["x"].sum().compute(),
        "cutflow": lambda: repr(ds.cutflow(["x > 0.25", "any(jet > 0.8)", "k > 1"], weight="w", by="k")),
        "hist": lambda: [
            h.view(flow=True).tolist()
            for h in ds.hist({"x": 50, "sum(jet)": 20, "jet": (20, 0, 1)}, weight="w").values()
        ],
        "describe": lambda: repr(ds.describe()),
        "save": lambda: len(ds[ds.cut("x > 0.25")].save(out, part_nbytes="1 MiB")),
        "ragged": lambda: np.asarray((ds["jet"] * ds["x"] + 1).compute().layout.content.data).tobytes(),
        "frame": lambda: ds.to_dataframe(["x", "y", "k"]).to_numpy().tobytes(),
        "batches": lambda: sum(float(batch["x"].sum()) for batch in ds.batches(1024, fields=["x", "jet"], seed=1)),
    }


def forget(path, out):
    """All that was computed before."""
    RESOLVED.clear()
    masks.LOADED.clear()
    shutil.rmtree(path / "cache", ignore_errors=True)
    shutil.rmtree(out, ignore_errors=True)


def threads():
    """Names of threads that are not there for good, and have not ended within a second."""
    for _ in range(100):
        if not running():
            break
        time.sleep(0.01)
    return running()


def running():
    return sorted(t.name for t in threading.enumerate() if t.name.startswith(("mmdask_", "tqdm")) and t.is_alive())


def leftovers(path, out):
    """What an interrupted operation must not leave."""
    files = [str(f) for f in path.rglob("*") if ".tmp-" in f.name]
    return files + threads() + [str(f) for f in [out] if f.exists()]


def run(operation):
    start = time.monotonic()
    result = operation()
    return result, time.monotonic() - start


def main(path, scheduler):
    faulthandler.register(signal.SIGUSR1)
    warnings.simplefilter("error")
    path = Path(path)
    out = path.parent / f"out-{os.getpid()}.mm"
    sent = []

    def interrupt(number, frame):
        if armed:
            sent.append(time.monotonic())
            raise KeyboardInterrupt

    armed = False
    signal.signal(signal.SIGINT, interrupt)
    work = operations(path, out)
    expected = {}
    for line in sys.stdin:
        name = line.split()[0]
        forget(path, out)
        gc.collect()
        if name not in expected:
            expected[name], _ = run(work[name])
            forget(path, out)
            _, seconds = run(work[name])
            say(seconds=seconds)
            continue
        say(go=name)
        sent.clear()
        error = None
        armed = True
        try:
            try:
                run(work[name])
                time.sleep(30)  # it was too quick; the signal comes yet
            except KeyboardInterrupt:
                caught = time.monotonic()
            finally:
                armed = False
        except BaseException as other:
            error = f"{type(other).__name__}: {other}"
            caught = time.monotonic()
        left = leftovers(path, out)
        if name == "save" and out.exists():
            with contextlib.suppress(mm.MmdaskError):  # the signal came when it was done
                left = [x for x in left if x != str(out)] if len(mm.open(out)) == expected[name] else left
            shutil.rmtree(out)
        again, _ = run(work[name])
        intact = mm.verify(path).ok
        say(seconds=caught - sent[0], error=error, left=left, same=bool(again == expected[name]), intact=intact)


def say(**what):
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    _, path, scheduler = sys.argv
    if scheduler == "cluster":
        from distributed import Client, LocalCluster

        with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster):
            main(path, scheduler)
    else:
        with dask.config.set(scheduler=scheduler):
            main(path, scheduler)
