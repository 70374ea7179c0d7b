"""Batches as tensors: for a plain loop, and for torch's DataLoader."""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING, Any

from mmdask.batches.epochs import Epochs
from mmdask.batches.options import integer
from mmdask.errors import MissingDependencyError, OptionError

if TYPE_CHECKING:
    from mmdask.batches.frameworks.torch_dataset import TorchBatches

__all__ = ["to_torch"]


def to_torch(
    loader: Epochs,
    device: Any = None,
    *,
    num_workers: int = 0,
    pin_memory: bool | None = None,
    multiprocessing_context: Any = None,
    persistent_workers: bool = True,
) -> TorchBatches:
    """Return the batches of a loader as dicts of tensors.

    The result is a ``torch.utils.data.IterableDataset``. A plain ``for`` over it advances the loader itself, whose
    `state_dict` is what the ``for`` has received, also with workers and with copies to a device ahead of it.

    Numbers become tensors that share the memory of the batch's arrays; `Packed` becomes `Packed` of tensors, what
    `mm.nested` makes a ``torch.nested`` tensor of the jagged layout, and a list of arrays (shaped rows) one of tensors.
    Strings stay lists of str. Of dtypes that torch has not, datetimes become int64, and bytes stay arrays. What is
    missing stays what it is in the batch, with its ``_valid`` as a tensor; NaT is ``-2**63``.

    Parameters
    ----------
    loader : Loader
        Or what `mm.mix` made.
    device : torch.device or str, optional
        Where tensors are copied to; by default they stay. To a CUDA device a batch is copied while the one before is
        worked on.
    num_workers : int
        Worker processes that make the batches, in the same order whatever their number. They pay where batches are
        slow to make, as with a transform; without one the loader is mostly faster alone.
    pin_memory : bool, optional
        Whether tensors come, or are copied to the device, from memory that a CUDA device reads by itself. By default
        if they are copied to one.
    multiprocessing_context : str or context, optional
        "fork", "spawn", "forkserver"; by default that of Python.
    persistent_workers : bool
        Whether workers stay for the next epoch, or end with each.

    Returns
    -------
    TorchBatches
        With `set_epoch`, `state_dict`, `load_state_dict`, and `close`, which ends workers that stay.

    Raises
    ------
    MissingDependencyError
        When torch is not installed.
    OptionError
        When an argument cannot be used; in a ``for``, when `mm.nested` made more than lists of numbers.

    Notes
    -----
    ``DataLoader(batches, batch_size=None, num_workers=w)`` works, too, and gives the same batches in the same order:
    worker v makes batches v, v + w, v + 2 w and so on. Then `state_dict` needs the last batch received.
    """
    try:
        import torch
    except ImportError:
        raise MissingDependencyError('torch is not installed; run: pip install "mmdask[torch]"') from None
    from mmdask.batches.frameworks.torch_dataset import TorchBatches
    from mmdask.batches.frameworks.torch_workers import Workers

    try:
        device = None if device is None else torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise OptionError(f"device is one of torch, as 'cuda' or 'cuda:1', got {device!r}: {error}") from None
    on_cuda = device is not None and device.type == "cuda"
    if on_cuda or pin_memory:
        _need_cuda(torch, f"to_torch({str(device)!r})" if on_cuda else "pin_memory=True")
    if pin_memory and device is not None and not on_cuda:
        raise OptionError(f"pin_memory=True is for CUDA devices, and device is {str(device)!r}; leave it out")
    workers = None
    if integer("num_workers", num_workers, 0):
        workers = Workers(loader, num_workers, _context(multiprocessing_context), bool(persistent_workers))
    elif multiprocessing_context is not None:
        raise OptionError("multiprocessing_context= is for num_workers= above 0; leave it out")
    return TorchBatches(loader, device, on_cuda if pin_memory is None else bool(pin_memory), workers)


def _need_cuda(torch: Any, what: str) -> None:
    if not torch.cuda.is_available():
        raise OptionError(f"{what} needs a CUDA device, and torch {torch.__version__} finds none")


def _context(context: Any) -> Any:
    known = multiprocessing.get_all_start_methods()
    if isinstance(context, str) and context not in known:
        raise OptionError(f"multiprocessing_context is one of {known}, got {context!r}")
    return context
