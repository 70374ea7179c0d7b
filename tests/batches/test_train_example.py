"""The training example learns, and goes on after it was killed."""

from __future__ import annotations

import json
import os
import re
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import mmdask as mm

torch = pytest.importorskip("torch", reason="torch is not installed; pip install 'mmdask[torch]'")

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "train_torch.py"


@pytest.fixture
def one_thread():
    """As the processes have it: sums by several threads may differ in their last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


#: the example, killed when its third checkpoint is written and not yet in its place
KILLED = f"""
import os, runpy, signal

replace, written = os.replace, []

def replaced(old, new):
    if os.path.basename(new) == "checkpoint.pt":
        written.append(old)
        if len(written) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
    replace(old, new)

os.replace = replaced
runpy.run_path({str(EXAMPLE)!r}, run_name="__main__")
"""


def run(*command):
    """The example in a process of its own, one core, a checkpoint every 3 steps."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *map(str, command), "--epochs", "4", "--save-every", "3"]
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, timeout=300)


def test_it_learns_and_a_killed_run_has_the_losses_of_another(tmp_path, capsys, one_thread):
    example = runpy.run_path(str(EXAMPLE))
    assert example["main"](tmp_path, events=30_000, epochs=4, save_every=1000) >= example["ACCURACY"]
    assert capsys.readouterr().out.count("accuracy on test") == 4
    losses = json.loads((tmp_path / "losses.json").read_text())
    train, test = example["loaders"](mm.open(tmp_path / "events.mm"), 7)
    assert len(losses) == 4 * len(train)
    rows = [sorted(r for b in loader for r in b.rows.tolist()) for loader in (train, test)]
    assert not set(rows[0]) & set(rows[1])

    for name in ("checkpoint.pt", "losses.json"):
        (tmp_path / name).unlink()
    assert run("-c", KILLED, tmp_path).returncode == -signal.SIGKILL
    assert not (tmp_path / "losses.json").exists()

    resumed = run(EXAMPLE, tmp_path)
    assert re.findall(r"goes on after step (\d+), in epoch (\d)", resumed.stdout) == [("6", "0")]
    assert 6 < len(train) < len(losses)  # in the middle of an epoch
    assert json.loads((tmp_path / "losses.json").read_text()) == losses
