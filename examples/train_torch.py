"""Train a small network on padded jets: ttH against ttbb.

Run it as ``python examples/train_torch.py [folder]``; it makes its own ROOT files there. It needs torch:
``pip install "mmdask[torch]"``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import nn

import mmdask as mm
from mmdask.demo import TREE, make_files

N_JETS = 10
JET_FIELDS = ["jet_pt", "jet_eta", "jet_btag"]
EVENT_FIELDS = ["met", "ht", "nJets", "nBTags_77"]


class JetSum(nn.Module):
    """Every jet through one network, summed over the real jets, then together with the event through another."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.jet = nn.Sequential(nn.Linear(len(JET_FIELDS), width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.event = nn.Sequential(nn.Linear(width + len(EVENT_FIELDS), width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, jets: torch.Tensor, mask: torch.Tensor, event: torch.Tensor) -> torch.Tensor:
        summed = (self.jet(jets) * mask[..., None]).sum(1)
        return self.event(torch.cat([summed, event], 1))[:, 0]


def inputs(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Jets (rows, N_JETS, 3), their mask, event features, and the label; energies in units of 100 GeV."""
    jets = torch.stack([batch["jet_pt"] / 1e5, batch["jet_eta"], batch["jet_btag"].float()], 2)
    scales = torch.tensor([1e5, 5e5, 8.0, 4.0])
    event = torch.stack([batch[name].float() for name in EVENT_FIELDS], 1) / scales
    return jets, batch["jet_pt_mask"].float(), event, (batch["process"] == 1).float()


def make_store(folder: Path, events: int) -> mm.Dataset:
    """The store of the demo files; a second run finds it."""
    path = folder / "events.mm"
    if not path.exists():
        files = make_files(folder, events)
        mm.from_root({f"{file}:{TREE}": {"process": labels["process"]} for file, labels in files.items()}, path)
    return mm.open(path)


def accuracy(model: nn.Module, batches: torch.utils.data.IterableDataset) -> float:
    """The fraction of rows that the network gets right."""
    right = rows = 0
    with torch.no_grad():
        for batch in batches:
            jets, mask, event, label = inputs(batch)
            right += int(((model(jets, mask, event) > 0) == label.bool()).sum())
            rows += len(label)
    return right / max(rows, 1)


def main(folder: Path, events: int = 200_000, epochs: int = 3, seed: int = 7) -> float:
    torch.manual_seed(seed)
    ds = make_store(folder, events)
    # Codes of a category follow its labels.
    assert set(ds.schema["process"].labels) == {"ttbb", "ttH"}
    sel = ds[ds.cut("nJets >= 4 & nBTags_77 >= 1")]
    parts = sel.split({"train": 0.8, "test": 0.2}, by="eventNumber", seed=seed)
    options = {
        "fields": [*JET_FIELDS, *EVENT_FIELDS, "process"],
        "collate": {name: mm.pad(N_JETS, mask=name == "jet_pt") for name in JET_FIELDS},
    }
    train = parts["train"].batches(1024, shuffle=True, seed=seed, **options).to_torch()
    test = parts["test"].batches(4096, shuffle=False, **options).to_torch()

    model = JetSum()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for epoch in range(epochs):
        losses = []
        for batch in train:
            jets, mask, event, label = inputs(batch)
            loss = nn.functional.binary_cross_entropy_with_logits(model(jets, mask, event), label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        print(f"epoch {epoch}: loss {np.mean(losses):.4f}, accuracy on test {accuracy(model, test):.3f}")
    return accuracy(model, test)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("train"))
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--epochs", type=int, default=3)
    args = parser.parse_args()
    main(args.folder, args.events, args.epochs)
