"""One of several processes that train together; see test_torch_ddp."""

from __future__ import annotations

import itertools
import os
import pickle

import mmdask as mm

LASTS = ("keep", "drop", "pad", None)


def run(rank, world_size, store, folder):
    """Join the group, take batches in several ways, train, and leave what was found in a file."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    before = mm.open(store).batches(50)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world_size)
    found = {"before": (before.rank, before.world_size)}
    ds = mm.open(store)
    loader = batches_of(ds)
    found["default"] = (loader.rank, loader.world_size, loader.last)
    found["explicit"] = [(b.rank, b.world_size) for b in (ds.batches(50, world_size=1), ds.batches(50, rank=0))]
    found["explicit"].append((lambda b: (b.rank, b.world_size))(ds.batches(50, rank=2, world_size=5)))
    try:
        ds.batches(50, world_size=3)
    except mm.OptionError as error:
        found["error"] = str(error)
    for last in LASTS:
        found[last] = [contents(b) for b in batches_of(ds, last=last).to_torch()]
    batches = batches_of(ds).to_torch(num_workers=1)
    found["early"] = [contents(b) for b in itertools.islice(batches, 5)]
    found["state"] = batches.state_dict()
    batches.close()
    found["weights"], found["steps"] = train(torch, batches_of(ds).to_torch())
    with open(os.path.join(folder, f"{rank}.pickle"), "wb") as f:
        pickle.dump(found, f)
    dist.destroy_process_group()


def batches_of(ds, batch_size=50, **options):
    return ds.batches(batch_size, seed=7, collate={"jets": mm.pad("max")}, **options)


def contents(batch):
    """Rows, which of them are real, and the bytes of two fields."""
    valid = None if batch.valid is None else batch.valid.tolist()
    return batch.rows.tolist(), valid, batch["x"].numpy().tobytes(), batch["jets"].numpy().tobytes(), batch.position


def train(torch, batches):
    """The weights after two epochs, which DistributedDataParallel averages over the ranks."""
    torch.manual_seed(1)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(1, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    steps = 0
    for _ in range(2):
        for batch in batches:
            loss = (model(batch["x"][:, None])[:, 0] - 3 * batch["x"]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps += 1
    return [p.tolist() for p in model.parameters()], steps
