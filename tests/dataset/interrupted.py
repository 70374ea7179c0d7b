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
from clusters import until

import mmdask as mm
from mmdask.dataset.run import client_in_force
from mmdask.rows.cuts import masks
from mmdask.rows.rows import RESOLVED
from tests.faults.keys import at_work, is_dropped


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
    """Names of threads that go on with what nobody waits for, or do not end."""
    for _ in range(10_000):
        if not running():
            break
        time.sleep(0.01)
    return running()


def running():
    return at_work() + sorted(t.name for t in threading.enumerate() if t.name.startswith("tqdm") and t.is_alive())


def leftovers(path, out):
    """What an interrupted operation must not leave."""
    files = [str(f) for f in path.rglob("*") if ".tmp-" in f.name]
    return files + threads() + [str(f) for f in [out] if f.exists()]


def settle():
    """Wait until a cluster has let go of what nobody holds: asked for a key that it is letting go, distributed breaks.

    It counts a future for ever that an interrupt left just as it was let go.
    """
    if (client := client_in_force()) is not None:
        gc.collect()
        until(lambda: client.run_on_scheduler(wanted) <= set(client.futures))


def wanted(dask_scheduler):
    """Keys that a client wants."""
    return {key for key, task in dask_scheduler.tasks.items() if task.who_wants}


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
        if armed and is_dropped(frame):
            signal.setitimer(signal.ITIMER_REAL, 0.005)  # from here it would not get through
        elif armed:
            sent.append(time.monotonic())
            raise KeyboardInterrupt

    armed = False
    for number in (signal.SIGINT, signal.SIGALRM):
        signal.signal(number, interrupt)
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
        sent.clear()
        error = None
        try:
            try:
                armed = True  # before it is told: the signal may come at once
                say(go=name)
                run(work[name])
                while True:  # it was too quick; the signal comes yet
                    time.sleep(0.1)
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
        settle()
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
