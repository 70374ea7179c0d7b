"""Tensors from batches, alone and in worker processes."""

from __future__ import annotations

import copy
import itertools
import sys
import types

import numpy as np
import pytest
from memory_rows import MemoryRows

from mmdask.batches.collate import Packed, pad
from mmdask.batches.frameworks.torch import to_torch
from mmdask.batches.loader import Loader
from mmdask.errors import MissingDependencyError, OptionError, StateError

try:
    import torch
except ImportError:
    torch = None

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*os.fork.. was called:RuntimeWarning"),  # by jax, if another test took it
]
needs_torch = pytest.mark.skipif(torch is None, reason="torch is not installed")


def make(batch_size=4, **options):
    rows = MemoryRows(
        {
            "x": np.arange(20, dtype="f4"),
            "n": np.arange(20, dtype="u2"),
            "when": np.arange(20).astype("M8[s]"),
            "jets": [[float(i)] * (i % 3) for i in range(20)],
            "more": [[float(i)] * (i % 4) for i in range(20)],
            "name": [f"row {i}" for i in range(20)],
        }
    )
    return Loader(rows, batch_size, collate={"more": pad(2)}, **options)


def data_loader(batches, **options):
    from torch.utils.data import DataLoader

    return DataLoader(batches, batch_size=None, **options)


def test_without_torch_the_way_to_install_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "mmdask\[torch\]"'):
        to_torch(make())


@needs_torch
def test_arrays_become_tensors():
    plain, batch = make()[0], next(iter(to_torch(make())))
    for name in ("x", "n", "more", "more_mask"):
        assert batch[name].numpy().tobytes() == plain[name].tobytes()
    assert batch["when"].tolist() == plain["when"].view("i8").tolist()
    assert isinstance(batch["jets"], Packed)
    assert batch["jets"].values.tolist() == plain["jets"].values.tolist()
    assert batch["jets"].offsets.tolist() == plain["jets"].offsets.tolist()
    assert batch["name"] == plain["name"]
    assert batch.rows.tolist() == plain.rows.tolist()
    assert (batch.epoch, batch.index, batch.position, batch.valid) == (0, 0, 4, None)
    assert batch["x"].dtype == torch.float32
    assert next(iter(make().to_torch("cpu")))["x"].device.type == "cpu"


@needs_torch
def test_a_plain_for_moves_the_loader_on():
    loader = make()
    batches = to_torch(loader)
    assert len(batches) == 5
    assert [b.epoch for b in batches] == [0] * 5
    assert batches.epoch == loader.epoch == 1
    batches.set_epoch(4)
    assert [b.epoch for b in itertools.islice(batches, 2)] == [4, 4]
    assert batches.state_dict() == loader.state_dict()
    other = to_torch(make())
    other.load_state_dict(batches.state_dict())
    assert [(b.epoch, b.index) for b in other] == [(4, 2), (4, 3), (4, 4)]
    assert next((b.epoch, b.index) for b in other) == (5, 0)


@needs_torch
def test_what_is_no_batch_is_said():
    batches = to_torch(make())
    with pytest.raises(OptionError, match=r"next\(iter\(batches\)\); by its number the loader itself has batch 3"):
        batches[3]
    with pytest.raises(StateError, match="after= is the last batch that was received, got int"):
        batches.state_dict(after=3)


@needs_torch
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_the_order_does_not_depend_on_the_workers(workers):
    expected = [b.rows.tolist() for b in make(last="pad")]
    batches = to_torch(make(last="pad"))
    received = list(data_loader(batches, num_workers=workers))
    assert [b.rows.tolist() for b in received] == expected
    assert [b.valid.tolist() for b in received] == [b.valid.tolist() for b in make(last="pad")]
    assert [b.index for b in received] == list(range(5))
    assert batches.epoch == 1
    assert [b.epoch for b in data_loader(batches, num_workers=2)] == [1] * 5
    assert batches.epoch == 2


@needs_torch
def test_workers_that_stay_alive_follow_the_epoch():
    batches = to_torch(make())
    loader = data_loader(batches, num_workers=2, persistent_workers=True)
    assert [b.epoch for b in loader] == [0] * 5
    assert [b.epoch for b in loader] == [1] * 5
    batches.set_epoch(7)
    received = list(loader)
    assert [b.epoch for b in received] == [7] * 5
    reference = make()
    reference.set_epoch(7)
    assert [b.rows.tolist() for b in received] == [b.rows.tolist() for b in reference]


@needs_torch
def test_a_state_after_what_was_received_from_workers():
    batches = to_torch(make())
    batches.set_epoch(2)
    received = list(itertools.islice(data_loader(batches, num_workers=2), 3))
    with pytest.raises(StateError, match="after=batch"):
        batches.state_dict()
    state = batches.state_dict(after=received[-1])
    assert (state["epoch"], state["position"]) == (2, 12)
    assert next(iter(batches)).index == 0  # without workers it is known again
    assert batches.state_dict()["position"] == 4
    other = to_torch(make(3))
    other.load_state_dict(state)
    rest = list(data_loader(other, num_workers=2))
    reference = make()
    reference.set_epoch(2)
    expected = np.concatenate([b.rows for b in reference]).tolist()
    assert torch.cat([b.rows for b in received + rest]).tolist() == expected
    assert [b.index for b in data_loader(other, num_workers=2)] == list(range(7))


@needs_torch
@pytest.mark.parametrize("stay", [False, True])
def test_a_worker_that_begins_late_is_in_the_epoch_of_the_others(monkeypatch, stay):
    """Also where the loop before was left, which that worker had ended."""
    from mmdask.batches.frameworks import torch_dataset

    batches, made = to_torch(make()), []

    def begin(seed):
        if not (stay and made):
            made[:] = [copy.copy(batches) for _ in range(2)]  # as forked, with the same numbers in shared memory
            for of_worker in made:
                of_worker.loader = copy.copy(batches.loader)
        for i, of_worker in enumerate(made):
            info = types.SimpleNamespace(id=i, num_workers=2, seed=(5 if stay else seed) + i)
            monkeypatch.setattr(torch_dataset, "get_worker_info", lambda info=info: info)
            yield iter(of_worker)
        monkeypatch.undo()

    first, second = begin(2**63 - 2)
    next(first)
    assert len(list(second)) == 2
    for epoch, seed in enumerate((7, 9)):
        first, second = begin(seed)
        assert [b.epoch for b in first] == [epoch] * 3
        assert [b.epoch for b in second] == [epoch] * 2
    assert batches.epoch == 2


@needs_torch
def test_it_works_in_spawned_workers():
    received = list(data_loader(to_torch(make()), num_workers=1, multiprocessing_context="spawn"))
    assert [b.rows.tolist() for b in received] == [b.rows.tolist() for b in make()]


def test_after_its_last_batch_an_epoch_is_over():
    """Also if nobody asks for one beyond it, as trainers that count batches."""
    for batches in (make(), *([make().to_torch()] if torch else [])):
        for epoch in range(3):
            assert [b.epoch for b in itertools.islice(batches, len(batches))] == [epoch] * 5
        batches.set_epoch(2)
        assert [b.epoch for b in itertools.islice(batches, 4)] == [2] * 4
        assert [b.epoch for b in batches] == [2] * 5
    empty = Loader(MemoryRows({"x": np.arange(0.0)}), 4)
    assert list(empty) == list(empty) == []
    assert empty.epoch == 2
