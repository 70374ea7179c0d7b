"""What docs/batches.md shows of torch, Lightning, jax and TensorFlow runs, where they are installed."""

from __future__ import annotations

import importlib
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import mmdask as mm
from mmdask.demo import TREE, make_files

PAGE = (Path(__file__).parents[2] / "docs" / "batches.md").read_text()
BLOCK = re.compile(r"^```py\n(.*?)^```", re.DOTALL | re.MULTILINE)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*os.fork.. was called:RuntimeWarning"),  # by jax, if another test took it
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]


def blocks(title):
    """The blocks of a section, without those of the sections below it."""
    (section,) = re.findall(rf"^#+ {title}\n(.*?)(?=^#+ |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    found = BLOCK.findall(section)
    assert found
    return found


@pytest.fixture
def names(tmp_path, monkeypatch):
    """What the page has made before: a selection of the demo files."""
    monkeypatch.chdir(tmp_path)
    files = make_files("demo", 4000, progress=False)
    ds = mm.from_root({f"{path}:{TREE}": {"process": label["process"]} for path, label in files.items()}, "events.mm")
    return {"mm": mm, "np": np, "sel": ds[ds.cut("nJets >= 4")]}


def run(title, names):
    for block in blocks(title):
        exec(compile(block, f"batches.md, {title}", "exec"), names)
    return names


def needs(module):
    try:
        importlib.import_module(module)
    except ImportError:
        pytest.skip(f"{module} is not installed")


def test_torch(names):
    needs("torch")
    run("torch", names)
    assert names["train"].epoch == 2
    run("Worker processes", names)
    assert names["state"]["epoch"] == 1  # after the last batch of an epoch


@pytest.mark.filterwarnings("ignore")  # Lightning's own
def test_lightning(names):
    needs("lightning")
    events = run("Lightning", names)["Events"]()
    events.setup("fit")
    rows = {r for b in events.train_dataloader() for r in b.rows.tolist()}
    assert not rows & {r for b in events.val_dataloader() for r in b.rows.tolist()}


def test_jax(names):
    needs("jax")
    run("jax", names)
    pt = np.concatenate([b["jet_pt"][b["jet_pt_mask"]] for b in names["sel"].batches(256, seed=7, **names["options"])])
    assert abs(np.mean(names["means"]) / pt.mean() - 1) < 0.1


class FakeTensorFlow(types.ModuleType):
    """Checks what a generator yields against its signature, as TensorFlow does."""

    def __init__(self):
        super().__init__("tensorflow")
        self.data = types.SimpleNamespace(Dataset=self)

    def TensorSpec(self, shape, dtype):
        return shape, dtype

    def from_generator(self, generator, output_signature):
        for batch in generator():
            assert type(batch) is dict
            assert batch.keys() == output_signature.keys()
            for name, (shape, dtype) in output_signature.items():
                assert batch[name].dtype == dtype
                assert batch[name].shape[1:] == shape[1:]
            yield batch


def test_tensorflow(names, monkeypatch):
    try:
        import tensorflow  # noqa: F401
    except ImportError:
        monkeypatch.setitem(sys.modules, "tensorflow", FakeTensorFlow())
    run("TensorFlow", names)
    again = list(names["batches"])
    if again:  # a real one can be passed over once more
        assert sum(len(b["met"]) for b in again) == len(names["sel"])
    assert names["batch"]["jet_pt"].shape[1] == 8
