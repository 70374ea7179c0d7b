"""Tensors for the arrays of batches, shared with them or in one buffer that moves as a whole. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data._utils.collate import default_collate_fn_map

from mmdask.batches.batch import Batch
from mmdask.batches.collate import Packed
from mmdask.errors import OptionError

__all__ = ["Parcel", "TorchBatch", "Uploads", "parcel", "pinned", "shared", "tensors", "unpack"]

#: bytes to which arrays in a buffer are aligned: a cache line, and more than any instruction on a device asks for
ALIGNMENT = 64
#: kinds of numpy's dtypes that become tensors
NUMBERS = "biufcmM"


class TorchBatch(Batch):
    """A batch of tensors, which moves as one; made by `to_torch`."""

    def to(self, device: Any, non_blocking: bool = False) -> TorchBatch:
        """The same batch with its tensors on a device. Frameworks ask for this."""
        return _mapped(self, _of_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking)))

    def pin_memory(self) -> TorchBatch:
        """The same batch in memory that a CUDA device reads by itself. A DataLoader with ``pin_memory`` asks for it."""
        return _mapped(self, _of_tensors(torch.Tensor.pin_memory))


class Nested(NamedTuple):
    """Rows of a nested tensor before it is one."""

    values: Any
    offsets: Any


class Place(NamedTuple):
    """Where an array lies in a buffer."""

    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Parcel:
    """Batches with a `Place` for every array, and the buffer, uint8, in which they lie."""

    buffer: torch.Tensor
    batches: list[TorchBatch]

    def to(self, device: torch.device | None) -> Parcel:
        """The same on a device."""
        return self if device is None else Parcel(self.buffer.to(device), self.batches)

    def pin(self) -> Parcel:
        """The same in pinned memory."""
        if self.buffer.is_pinned():
            return self
        return Parcel(pinned(self.buffer.numel()).copy_(self.buffer), self.batches)


def _refuse_batches(batches: Sequence[Any], **_: Any) -> Any:
    raise OptionError(
        f"a DataLoader would put {len(batches)} batches together, which are batches already: "
        "DataLoader(batches, batch_size=None), and the number of rows is that of ds.batches"
    )


# The place that the documentation of torch's default_collate names for types of one's own.
default_collate_fn_map[TorchBatch] = _refuse_batches


def tensors(batch: Batch, device: torch.device | None = None) -> TorchBatch:
    """The batch with tensors that share the memory of its arrays, or copies of them on a device."""
    made = _mapped(batch, _tensor)
    return made if device is None else made.to(device)


def parcel(batches: Sequence[Batch], allocate: Callable[[int], torch.Tensor]) -> Parcel:
    """Batches in one buffer, which `allocate` makes of a number of bytes."""
    arrays: list[tuple[int, npt.NDArray[Any]]] = []
    end = 0

    def place(value: Any) -> Any:
        nonlocal end
        if not isinstance(value, np.ndarray) or value.dtype.kind not in NUMBERS:
            return value
        start = -(-end // ALIGNMENT) * ALIGNMENT
        end = start + value.nbytes
        arrays.append((start, value))
        return Place(start, _dtype(value.dtype), value.shape)

    placed = [_mapped(batch, place) for batch in batches]
    buffer = allocate(end)
    memory = buffer.numpy()
    for start, array in arrays:
        np.ndarray(array.shape, array.dtype, memory, start)[...] = array
    return Parcel(buffer, placed)


def unpack(parcel: Parcel) -> Iterator[TorchBatch]:
    """The batches, with tensors that are views of the buffer, on its device."""
    device, storage = parcel.buffer.device, parcel.buffer.untyped_storage()

    def view(value: Any) -> Any:
        if isinstance(value, Place):
            empty = torch.empty(0, dtype=value.dtype, device=device)
            return empty.set_(storage, value.start // value.dtype.itemsize, value.shape)
        return value.to(device) if isinstance(value, torch.Tensor) else value

    for batch in parcel.batches:
        yield _mapped(batch, view)


def shared(nbytes: int) -> torch.Tensor:
    """A buffer that goes to another process without a copy."""
    storage = torch.UntypedStorage._new_shared(nbytes)
    return torch.empty(0, dtype=torch.uint8).set_(storage)


def pinned(nbytes: int) -> torch.Tensor:
    """A buffer that a device can read by itself.

    torch keeps such memory and gives it out again, not before the copies that were begun from it are done.
    """
    return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)


class Uploads:
    """Copies to a CUDA device on a stream of their own, so that they overlap with the work on the current one."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)

    def batches(self, parcels: Iterator[Parcel]) -> Iterator[Batch]:
        """Batches on the device; the copy of a parcel begins before the batches of the one before are handed out.

        An error in a parcel comes after the batches before it.
        """
        before: tuple[Parcel, Any] | None = None
        error: Exception | None = None
        while error is None:
            parcel = None
            try:
                parcel = next(parcels, None)
            except Exception as e:
                error = e
            begun = None if parcel is None else self._begin(parcel)
            if before is not None:
                yield from self._done(*before)
            before = begun
            if before is None:
                break
        if error is not None:
            raise error

    def _begin(self, parcel: Parcel) -> tuple[Parcel, Any]:
        host = parcel.pin().buffer
        with torch.cuda.stream(self.stream):
            there = host.to(self.device, non_blocking=True)
        return Parcel(there, parcel.batches), self.stream.record_event()

    def _done(self, parcel: Parcel, copied: Any) -> Iterator[Batch]:
        current = torch.cuda.current_stream(self.device)
        current.wait_event(copied)
        parcel.buffer.record_stream(current)  # its memory belongs to the other stream, and is used on this one
        yield from unpack(parcel)


def _mapped(batch: Batch, leaf: Callable[[Any], Any]) -> TorchBatch:
    """The batch with another value for each of its arrays."""
    new = TorchBatch()
    for name, value in batch.items():
        try:
            new[name] = _replaced(value, leaf)
        except (OptionError, TypeError) as error:
            error.add_note(f"in batch[{name!r}]")
            raise
    new.__dict__ |= {name: leaf(value) for name, value in batch.__dict__.items()}  # its rows and marks
    return new


def _of_tensors(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Any], Any]:
    return lambda value: change(value) if isinstance(value, torch.Tensor) else value


def _replaced(value: Any, leaf: Callable[[Any], Any]) -> Any:
    if isinstance(value, Packed):
        return Packed(*(_replaced(v, leaf) for v in value))
    if isinstance(value, list):  # of arrays, or of text
        return [_replaced(v, leaf) for v in value]
    if type(value).__module__.startswith("awkward."):
        value = _one_level(value)
    if isinstance(value, Nested):
        nested = Nested(*(leaf(v) for v in value))
        return _nested(nested) if isinstance(nested.values, torch.Tensor) else nested
    return leaf(value)


def _one_level(array: Any) -> Nested:
    """The values and offsets of lists of numbers."""
    import awkward as ak

    layout = ak.to_packed(array).layout
    items = layout.content if layout.is_list else layout
    while items.is_regular:  # items of a fixed shape
        items = items.content
    if not layout.is_list or not items.is_numpy:
        raise OptionError(
            f"torch's nested tensors hold lists of numbers, and this is {array.type}; take mm.packed() or mm.pad() "
            "for this field"
        )
    layout = layout.to_ListOffsetArray64(True)
    return Nested(ak.to_numpy(layout.content), np.asarray(layout.offsets.data))


def _nested(rows: Nested) -> torch.Tensor:
    return torch.nested.nested_tensor_from_jagged(rows.values, rows.offsets)


def _tensor(value: Any) -> Any:
    """A tensor that shares the memory of an array, where torch can; other values as they are."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in NUMBERS:
        return value
    if value.dtype.kind in "Mm":
        value = value.view(np.int64)
    if not value.flags.writeable or min(value.strides, default=0) < 0:
        value = value.copy()  # a transform's doing; torch has neither
    return torch.from_numpy(value)


@lru_cache
def _dtype(dtype: np.dtype[Any]) -> torch.dtype:
    return _tensor(np.empty(0, dtype)).dtype
