"""Ctrl-C at random moments: it is raised, nothing is left behind, and the same call gives the right result.

That it is raised soon, and not at the end, is counted in `test_run.py`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import dask
import numpy as np
import pytest

import mmdask as mm
from mmdask.dataset import run
from mmdask.dataset.run import dask_runner
from tests.faults.keys import at_work

ROWS = 400_000
HERE = Path(__file__).parent
#: seconds in which it is raised on any machine, if it does not hang
RAISED = 120
#: how many times as many trials, for campaigns
TIMES = int(os.environ.get("MMDASK_INTERRUPTS", "1"))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    import awkward as ak

    rng = np.random.default_rng(1)
    path = tmp_path_factory.mktemp("interrupted") / "s.mm"
    counts = rng.integers(0, 5, ROWS)
    fields = {"x": rng.random(ROWS), "y": rng.random(ROWS), "w": rng.random(ROWS), "k": rng.integers(0, 5, ROWS)}
    return mm.from_arrays(fields | {"jet": ak.unflatten(rng.random(counts.sum()).astype("f4"), counts)}, path).path


@pytest.mark.parametrize(
    ("scheduler", "names", "trials"),
    [
        ("threads", "count rows cutflow hist describe save ragged frame batches", 2),
        ("sync", "hist save ragged", 1),
        # not processes: where a worker is interrupted as it sends a result, Python's executor waits for the rest of it
        ("cluster", "count hist ragged", 1),
    ],
)
def test_interrupted(path, tmp_path, scheduler, names, trials):
    if scheduler == "cluster":
        pytest.importorskip("distributed")
    rng = random.Random(scheduler)
    errors = (tmp_path / "errors.txt").open("w+")
    child = subprocess.Popen(
        [sys.executable, HERE / "interrupted.py", path, scheduler],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(HERE.parents[1])},
    )

    def told():
        there, _, _ = select.select([child.stdout], [], [], 300)
        line = child.stdout.readline() if there else ""
        if not line:
            errors.seek(0)
            pytest.fail(f"{'it hangs' if not there else 'it ended'}: {errors.read()[-6000:]}")
        return json.loads(line)

    try:
        for name in names.split():
            child.stdin.write(f"{name}\n")
            child.stdin.flush()
            seconds = told()["seconds"]
            for _ in range(trials * TIMES):
                child.stdin.write(f"{name}\n")
                child.stdin.flush()
                assert told() == {"go": name}
                time.sleep(rng.uniform(0, 1.1 * seconds))
                # The keys of a terminal send it to all processes; workers of distributed would not survive that.
                (os.kill if scheduler == "cluster" else os.killpg)(child.pid, signal.SIGINT)
                found = told()
                assert found["error"] is None, (name, found)
                assert found["seconds"] < RAISED, (name, found)
                assert not found["left"], (name, found)
                assert found["same"], (name, found)
                assert found["intact"], (name, found)
        child.stdin.close()
        assert child.wait(300) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        child.stdin.close()
        child.stdout.close()
        errors.close()


@pytest.mark.parametrize("scheduler", ["sync", "threads", "processes"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_bars_are_closed(monkeypatch, scheduler, error):
    """Those of tqdm, with all that was done, also after an interrupt and an error; and full at the end."""
    bars = []
    original = run.progress

    def progress(*args, **kwargs):
        bars.append(original(*args, **kwargs))
        return bars[-1]

    monkeypatch.setattr(run, "progress", progress)
    monkeypatch.setattr(run, "_BAR_DELAY", 0)
    tasks = [(abs, (-i,)) for i in range(8)]
    found = {}

    def fail(number, result):
        if len(found) == 3:
            raise error
        found[number] = result

    with dask.config.set(scheduler=scheduler, num_workers=1), contextlib.redirect_stderr(io.StringIO()):
        with pytest.raises(error):
            dask_runner("some work")(tasks, fail)
        found.clear()
        dask_runner("some work")(tasks, found.__setitem__)
    assert found == {i: i for i in range(8)}
    broken, whole = bars
    assert broken.n == 4
    assert whole.n == whole.total == 8
    assert all(bar not in type(bar)._instances for bar in bars), "they are closed"
    assert not at_work()
