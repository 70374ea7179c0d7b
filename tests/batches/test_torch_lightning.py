"""Batches in Lightning: its DataModule, its checkpoints in the middle of an epoch, and the same hooks by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import mmdask as mm

torch = pytest.importorskip("torch", reason="torch is not installed; pip install 'mmdask[torch]'")
try:
    import lightning
except ImportError:
    lightning = None

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*os.fork.. was called:RuntimeWarning"),  # by jax, if another test took it
]
EPOCHS = 3


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("lightning") / "a.mm"
    rng = np.random.default_rng(5)
    mm.from_arrays({"x": rng.normal(size=1000).astype("f4"), "event": np.arange(1000)}, path)
    return path


class Events(lightning.LightningDataModule if lightning else object):
    """What docs/batches.md shows."""

    def __init__(self, path, workers=0):
        super().__init__()
        self.path = path
        self.workers = workers

    def setup(self, stage=None):
        self.parts = mm.open(self.path).split({"train": 0.8, "val": 0.2}, by="event", seed=7)

    def train_dataloader(self):
        return self.parts["train"].batches(100, seed=7).to_torch(num_workers=self.workers)

    def val_dataloader(self):
        return self.parts["val"].batches(100, shuffle=False).to_torch()


def test_hooks_by_hand(path):
    """A trainer that asks for as many batches as there are, and for none beyond."""
    events = Events(path)
    events.setup("fit")
    train, val = events.train_dataloader(), events.val_dataloader()
    seen = []
    for epoch in range(EPOCHS):
        for batch in itertools.islice(train, len(train)):
            moved = batch.to(torch.device("cpu"))
            assert (moved.epoch, moved.index) == (batch.epoch, batch.index)
            assert moved["x"].tolist() == batch["x"].tolist()
            seen.append(moved.rows.tolist())
        assert {b.epoch for b in val} == {epoch}
    reference = events.train_dataloader()
    assert seen == [b.rows.tolist() for _ in range(EPOCHS) for b in reference]


@pytest.mark.skipif(lightning is None, reason="lightning is not installed; pip install lightning")
@pytest.mark.filterwarnings("ignore")  # Lightning's own
@pytest.mark.parametrize("workers", [0, 2])
def test_lightning_goes_on_in_the_middle_of_an_epoch(path, tmp_path, workers):
    checkpoint = tmp_path / "middle.ckpt"

    class Model(lightning.LightningModule):
        def __init__(self, stop=None):
            super().__init__()
            self.linear = torch.nn.Linear(1, 1)
            self.stop = stop
            self.seen, self.losses = [], []

        def training_step(self, batch, i):
            self.seen.append((batch.epoch, batch.index))
            loss = (self.linear(batch["x"][:, None])[:, 0] - 3 * batch["x"]).square().mean()
            self.losses.append(loss.item())
            return loss

        def on_train_batch_end(self, outputs, batch, i):
            if len(self.seen) == self.stop:
                self.trainer.save_checkpoint(checkpoint)
                raise RuntimeError("killed")

        def validation_step(self, batch, i):
            self.linear(batch["x"][:, None])

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.1)

    def fit(model, **options):
        lightning.seed_everything(1)
        quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
        trainer = lightning.Trainer(max_epochs=EPOCHS, accelerator="cpu", default_root_dir=tmp_path, **quiet)
        trainer.fit(model, datamodule=Events(path, workers), **options)
        return model

    torch.manual_seed(1)
    whole = fit(Model())
    n = len(whole.seen) // EPOCHS
    assert whole.seen == [(e, i) for e in range(EPOCHS) for i in range(n)]
    torch.manual_seed(1)
    killed = Model(stop=n + 3)
    with pytest.raises(RuntimeError, match="killed"):
        fit(killed)
    resumed = fit(Model(), ckpt_path=checkpoint)
    assert resumed.seen[0] == (1, 3)
    assert killed.losses + resumed.losses == whole.losses
