"""Batches as tensors: for a plain loop, and for torch's DataLoader."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmdask.batches.loader import Loader
from mmdask.errors import MissingDependencyError

if TYPE_CHECKING:
    from mmdask.batches.torch_dataset import TorchBatches

__all__ = ["to_torch"]


def to_torch(loader: Loader, device: Any = None) -> TorchBatches:
    """Return the batches of a loader as dicts of tensors.

    The result is a ``torch.utils.data.IterableDataset``. A plain ``for`` over it is the fastest way; it advances the
    loader itself. ``DataLoader(batches, batch_size=None, num_workers=w)`` gives the same batches in the same order
    for every w: worker number v computes batches v, v + w, v + 2 w and so on.

    Numbers become tensors that share the memory of the batch's arrays; `Packed` becomes `Packed` of tensors, and a list
    of arrays (shaped rows) one of tensors. Strings stay lists of str. Of dtypes that torch has not, datetimes become
    int64, and bytes stay arrays. What is missing stays what it is in the batch, with its ``_valid`` as a tensor; NaT
    is ``-2**63``.

    Parameters
    ----------
    loader : Loader
    device : torch.device or str, optional
        Where tensors are copied to; by default they stay.

    Returns
    -------
    TorchBatches
        With `set_epoch`, `state_dict` and `load_state_dict`.

    Raises
    ------
    MissingDependencyError
        When torch is not installed.
    """
    try:
        import torch  # noqa: F401
    except ImportError:
        raise MissingDependencyError('torch is not installed; run: pip install "mmdask[torch]"') from None
    from mmdask.batches.torch_dataset import TorchBatches

    return TorchBatches(loader, device)
