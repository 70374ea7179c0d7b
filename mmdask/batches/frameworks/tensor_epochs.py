"""`TensorEpochs`: what a loader and a mixture hand to torch and jax."""

from __future__ import annotations

from mmdask.batches.epochs import Epochs
from mmdask.batches.frameworks import jax, torch

__all__ = ["TensorEpochs"]


class TensorEpochs(Epochs):
    """Batches epoch after epoch, also as tensors of torch and as arrays of jax."""

    to_torch = torch.to_torch
    to_jax = jax.to_jax
