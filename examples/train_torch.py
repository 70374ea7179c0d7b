"""Train a small network on padded jets, ttH against ttbb. Kill it whenever you like: run again, it goes on.

``python examples/train_torch.py [folder]`` makes its own ROOT files and store in the folder. From its checkpoint it
resumes in the middle of an epoch, and the losses are bit for bit those of a run that was not killed. It needs torch:
``pip install "mmdask[torch]"``.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import torch
from torch import nn

import mmdask as mm
from mmdask.demo import TREE, make_files

CUT = "nJets >= 4 & nBTags_77 >= 1"
JETS = ["jet_pt", "jet_eta", "jet_btag"]
EVENT = ["met", "ht", "nJets", "nBTags_77", "feat_*"]
N_JETS = 10
#: what the network reaches on rows that it was not trained on; 0.60 are ttbb
ACCURACY = 0.70


class JetSum(nn.Module):
    """Every jet through one network, summed over the real jets, then together with the event through another."""

    def __init__(self, n_event: int, width: int = 64) -> None:
        super().__init__()
        self.jet = nn.Sequential(nn.Linear(len(JETS), width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.event = nn.Sequential(nn.Linear(width + n_event, width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, 1))

    def forward(self, jets: torch.Tensor, mask: torch.Tensor, event: torch.Tensor) -> torch.Tensor:
        summed = (self.jet(jets) * mask[..., None]).sum(1)
        return self.event(torch.cat([summed, event], 1))[:, 0]


def make_store(folder: Path, events: int) -> mm.Dataset:
    """The store of the demo files; a second run finds it."""
    path = folder / "events.mm"
    try:
        return mm.open(path)
    except mm.StoreNotFoundError:  # or a conversion was killed: the same call goes on with it
        files = make_files(folder, events)
        return mm.from_root({f"{file}:{TREE}": {"process": labels["process"]} for file, labels in files.items()}, path)


def loaders(ds: mm.Dataset, seed: int) -> tuple[mm.Loader, mm.Loader]:
    """Batches to train on, shuffled, and to test with; they have no row in common, however much is appended."""
    parts = ds[ds.cut(CUT)].split({"train": 0.8, "test": 0.2}, by="eventNumber", seed=seed)
    options = {
        "fields": [*JETS, *EVENT, "process"],
        "normalise": parts["train"].normalisation([*JETS, *EVENT]),
        "collate": {"jets": mm.stack(*JETS, step=mm.pad(N_JETS)), "event": mm.stack(*EVENT)},
    }
    train = parts["train"].batches(1024, seed=seed, **options)
    return train, parts["test"].batches(4096, shuffle=False, **options)


def logits_and_label(model: nn.Module, batch: dict[str, torch.Tensor], ds: mm.Dataset) -> tuple[torch.Tensor, ...]:
    """The output of the network, and 1.0 for ttH."""
    label = batch["process"] == ds.schema["process"].labels.index("ttH")
    return model(batch["jets"], batch["jets_mask"], batch["event"]), label.float()


def accuracy(model: nn.Module, batches: mm.Loader, ds: mm.Dataset) -> float:
    """The fraction of rows that the network gets right."""
    right = rows = 0
    model.eval()
    with torch.no_grad():
        for batch in batches.to_torch():
            logits, label = logits_and_label(model, batch, ds)
            right += int(((logits > 0) == label.bool()).sum())
            rows += len(label)
    model.train()
    return right / max(rows, 1)


def main(folder: Path, events: int = 200_000, epochs: int = 3, seed: int = 7, save_every: int = 20) -> float:
    torch.manual_seed(seed)
    ds = make_store(folder, events)
    train_loader, test = loaders(ds, seed)
    train = train_loader.to_torch()  # on a GPU: .to_torch("cuda"), and model.to("cuda")

    model = JetSum(n_event=train_loader[0]["event"].shape[1])
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    losses: list[float] = []

    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        train.load_state_dict(saved["loader"])
        torch.set_rng_state(saved["rng"])  # dropout goes on where it was
        losses = saved["losses"]
        print(f"goes on after step {len(losses)}, in epoch {train.epoch}")

    def save() -> None:
        new = checkpoint.with_suffix(".new")
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "loader": train.state_dict()}
        torch.save(state | {"rng": torch.get_rng_state(), "losses": losses}, new)
        os.replace(new, checkpoint)  # a kill leaves the old one or the new one

    while train.epoch < epochs:
        for batch in train:
            logits, label = logits_and_label(model, batch, ds)
            loss = nn.functional.binary_cross_entropy_with_logits(logits, label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if len(losses) % save_every == 0:
                save()
        print(f"epoch {train.epoch - 1}: loss {losses[-1]:.4f}, accuracy on test {accuracy(model, test, ds):.3f}")
    save()
    (folder / "losses.json").write_text(json.dumps(losses))
    return accuracy(model, test, ds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("train"))
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--save-every", type=int, default=20, help="steps between checkpoints")
    args = parser.parse_args()
    main(args.folder, args.events, args.epochs, save_every=args.save_every)
