"""Two processes of torch.distributed share every batch."""

from __future__ import annotations

import multiprocessing
import pickle
import sys
import types

import numpy as np
import pytest
import torch_rank

import mmdask as mm
from mmdask.batches.processes import ranks
from mmdask.errors import OptionError

N = 523  # 10 batches of 50, and 23 rows


@pytest.fixture(scope="module")
def ds(tmp_path_factory):
    rng = np.random.default_rng(5)
    x = rng.normal(size=N).astype("f4")
    jets = [rng.normal(size=k).tolist() for k in rng.integers(0, 7, N)]
    return mm.from_arrays({"x": x, "jets": jets}, tmp_path_factory.mktemp("ddp") / "a.mm")


@pytest.fixture(scope="module")
def found(ds, tmp_path_factory):
    """What the two ranks found."""
    torch = pytest.importorskip("torch", reason="torch is not installed; pip install 'mmdask[torch]'")
    if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
        pytest.skip("this torch has no gloo")
    folder = tmp_path_factory.mktemp("ranks")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=torch_rank.run, args=(r, 2, ds.path, str(folder))) for r in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(600)
        if process.is_alive():
            process.kill()
    assert [p.exitcode for p in processes] == [0, 0]
    return [pickle.loads((folder / f"{r}.pickle").read_bytes()) for r in (0, 1)]


def flat(lists):
    return [x for part in lists for x in part]


def joined(parts):
    """One batch of those of all ranks, as `torch_rank.contents` has them."""
    rows, valid, x, jets, position = zip(*parts, strict=True)
    assert len(set(position)) == 1
    return flat(rows), None if valid[0] is None else flat(valid), b"".join(x), b"".join(jets), position[0]


def test_ranks_are_those_of_torch(found):
    for rank in (0, 1):
        assert found[rank]["before"] == (0, 1)
        assert found[rank]["default"] == (rank, 2, "drop")
        assert found[rank]["explicit"] == [(0, 1), (0, 2), (2, 5)]
        assert "torch.distributed has 2 ranks; say rank= too" in found[rank]["error"]


def test_a_loader_that_comes_too_early_says_so(tmp_path, monkeypatch):
    ds = mm.from_arrays({"x": [0, 1, 2, 3]}, tmp_path / "x.mm")
    monkeypatch.setenv("WORLD_SIZE", "2")
    ds.batches(4)  # something else has set it
    monkeypatch.setenv("RANK", "1")
    with pytest.warns(mm.LoneRankWarning, match="2 processes were started.*after init_process_group") as caught:
        loader = ds.batches(4)
    assert caught[0].filename == __file__
    assert (loader.rank, loader.world_size) == (0, 1)
    ds.batches(4, world_size=1)
    ds.batches(4, rank=1, world_size=2)
    monkeypatch.setenv("WORLD_SIZE", "1")
    ds.batches(4)


@pytest.mark.parametrize("last", torch_rank.LASTS)
def test_the_batches_of_all_ranks_joined_are_those_of_one_process(ds, found, last):
    a, b = (f[last] for f in found)
    single = [torch_rank.contents(x) for x in torch_rank.batches_of(ds, last=last or "drop").to_torch()]
    assert len(a) == len(b) == len(single)
    assert [joined(parts) for parts in zip(a, b, strict=True)] == single
    rows = [r for batch in single for r, real in zip(batch[0], batch[1] or [True] * len(batch[0]), strict=True) if real]
    assert len(set(rows)) == len(rows) == (N if last in ("keep", "pad") else 500)


def test_all_ranks_have_one_state_and_another_number_of_them_goes_on(ds, found):
    assert found[0]["state"] == found[1]["state"]
    assert found[0]["state"]["position"] == 250
    whole = [r for b in torch_rank.batches_of(ds) for r in b.rows.tolist()]
    early = [joined(parts)[0] for parts in zip(found[0]["early"], found[1]["early"], strict=True)]
    rest = []
    for rank in range(3):
        loader = torch_rank.batches_of(ds, 30, rank=rank, world_size=3, last="keep")
        loader.load_state_dict(found[0]["state"])
        rest.append([b.rows.tolist() for b in loader.to_torch()])
    assert flat(early) + [r for parts in zip(*rest, strict=True) for r in flat(parts)] == whole


def test_a_model_trained_by_all_ranks_is_one_model(ds, found):
    torch = pytest.importorskip("torch")
    assert found[0]["weights"] == found[1]["weights"]
    assert found[0]["steps"] == found[1]["steps"] == 20
    torch.manual_seed(1)
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = torch_rank.batches_of(ds, last="drop").to_torch()
    for _ in range(2):
        for batch in loader:
            loss = (model(batch["x"][:, None])[:, 0] - 3 * batch["x"]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for mine, theirs in zip(model.parameters(), found[0]["weights"], strict=True):
        np.testing.assert_allclose(mine.detach().numpy(), theirs, rtol=1e-5)


def test_torch_is_asked_only_if_it_is_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.distributed", None)
    assert ranks(None, None) == (0, 1)
    group = types.SimpleNamespace(
        is_available=lambda: True, is_initialized=lambda: True, get_rank=lambda: 3, get_world_size=lambda: 4
    )
    monkeypatch.setitem(sys.modules, "torch.distributed", group)
    assert [ranks(None, None), ranks(None, 4), ranks(1, None), ranks(None, 1)] == [(3, 4), (3, 4), (1, 4), (0, 1)]
    assert ranks(1, 2) == (1, 2)
    with pytest.raises(OptionError, match="world_size is 2, and torch.distributed has 4 ranks"):
        ranks(None, 2)
    with pytest.raises(OptionError, match="rank is an integer"):
        ranks(4, None)
    monkeypatch.setitem(sys.modules, "torch.distributed", types.SimpleNamespace(is_available=lambda: False))
    assert [ranks(None, None), ranks(None, 1)] == [(0, 1), (0, 1)]
    with pytest.raises(OptionError, match="world_size is 2, and without rank="):
        ranks(None, 2)
