"""Batches as jax arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.batches.batch import Batch
from mmdask.batches.collate import Packed
from mmdask.batches.epochs import Epochs
from mmdask.errors import MissingDependencyError, OptionError

__all__ = ["JaxBatches", "to_jax"]


def to_jax(loader: Epochs, device: Any = None) -> JaxBatches:
    """Return the batches of a loader as dicts of jax arrays.

    On the CPU they come by dlpack, which copies nothing where an array begins at a multiple of 64 bytes. A batch is a
    pytree of its entries; `Packed` is one, too. Strings stay lists of str, bytes stay numpy arrays, datetimes become
    their integers. `Batch.rows` stays a numpy array.

    Without ``jax_enable_x64`` jax makes 32 bits of 64. For integers that do not fit this is an error here, not another
    number.

    Parameters
    ----------
    loader : Loader
        Or what `mm.mix` made.
    device : jax.Device or jax.sharding.Sharding, optional
        Where arrays are put; by default jax's default device.

    Returns
    -------
    JaxBatches
        With `set_epoch`, `state_dict` and `load_state_dict`.

    Raises
    ------
    MissingDependencyError
        When jax is not installed.
    OptionError
        In a ``for``, for integers of more than 32 bits without ``jax_enable_x64``, and for what `mm.nested` makes.
    """
    try:
        import jax
    except ImportError:
        raise MissingDependencyError('jax is not installed; run: pip install "mmdask[jax]"') from None
    with suppress(ValueError):  # registered by an earlier call
        jax.tree_util.register_pytree_node(Batch, _flat, _whole)
    return JaxBatches(loader, device)


class JaxBatches:
    """Batches of a loader with jax arrays; see `to_jax`."""

    def __init__(self, loader: Epochs, device: Any = None) -> None:
        self.loader = loader
        self.device = device

    def __repr__(self) -> str:
        return f"<JaxBatches of {self.loader!r}>"

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        return self.loader.iterate(self._source)

    def _source(self, epoch: int, start: int) -> Iterator[Batch]:
        for batch in self.loader.source(epoch, start):
            for name, value in batch.items():
                batch[name] = self._entry(name, value)
            yield batch

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration runs; see `Loader.epoch`."""
        return self.loader.epoch

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration run an epoch, from its start; see `Loader.set_epoch`."""
        self.loader.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands; see `Loader.state_dict`."""
        return self.loader.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after the last batch of a state; see `Loader.load_state_dict`."""
        self.loader.load_state_dict(state)

    def _entry(self, name: str, value: Any) -> Any:
        if isinstance(value, Packed):
            return Packed(*(self._entry(name, v) for v in value))
        if isinstance(value, list):  # of arrays, or of text
            return [self._entry(name, v) for v in value]
        if isinstance(value, np.ndarray):
            return value if value.dtype.kind == "S" else self._array(name, value)
        if type(value).__module__.startswith("awkward."):
            raise OptionError(f"jax has no arrays for batch[{name!r}] of mm.nested(); take mm.packed() or mm.pad()")
        return value

    def _array(self, name: str, value: npt.NDArray[Any]) -> Any:
        import jax

        if value.dtype.kind in "Mm":
            value = value.view(np.int64)
        if value.dtype.kind in "iu" and value.dtype.itemsize == 8 and not jax.config.jax_enable_x64:
            value = _in_32_bits(name, value)
        if self.device is not None or jax.default_backend() != "cpu":
            return jax.device_put(value, self.device)
        # dlpack knows neither gaps nor read-only arrays, which a transform may have made.
        return jax.dlpack.from_dlpack(np.require(value, requirements=["C", "W"]))


def _in_32_bits(name: str, value: npt.NDArray[Any]) -> npt.NDArray[Any]:
    narrow = np.dtype(f"{value.dtype.kind}4")
    limits = np.iinfo(narrow)
    if value.size and not (limits.min <= value.min() and value.max() <= limits.max):
        raise OptionError(
            f"batch[{name!r}] has integers beyond {narrow}, to which jax would cut them; call "
            "jax.config.update('jax_enable_x64', True), or leave the field out"
        )
    return value.astype(narrow)


def _flat(batch: Batch) -> tuple[tuple[Any, ...], tuple[str, ...]]:
    names = tuple(sorted(batch))
    return tuple(batch[name] for name in names), names


def _whole(names: tuple[str, ...], entries: tuple[Any, ...]) -> Batch:
    return Batch(zip(names, entries, strict=True))
