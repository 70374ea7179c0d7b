"""Arrays that lie elsewhere, as a snapshot of one part: nothing is copied, written or kept.

Each array is a `Column`: in memory, a run of bytes of a file, or something that gives slices of itself.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mmdask.errors import OptionError, SchemaError, SourceError, SourceNotFoundError
from mmdask.kernels.once import once
from mmdask.schema import Field, FieldData, Schema, stored_dtype
from mmdask.store.arrays import paging
from mmdask.store.arrays.files import ask_for, is_in_memory
from mmdask.store.arrays.held import read_places
from mmdask.store.arrays.npy import ArraySpec
from mmdask.store.arrays.place import IO, check_io
from mmdask.store.commit import block_rows_for
from mmdask.store.layer import Layer, StoredField
from mmdask.store.manifest import Manifest, Part
from mmdask.store.snapshot import Snapshot

__all__ = ["Column", "Columns", "Foreign", "InFile", "InMemory", "Lazy", "Member", "columns_of"]

Array = npt.NDArray[Any]
Int64s = npt.NDArray[np.int64]


class Column(Protocol):
    """One array: its shape and dtype are known, its elements are read when they are wanted."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    @property
    def addressable(self) -> bool:
        """Whether `whole` gives all of it without a copy, in the form that a store has."""
        ...

    def whole(self) -> Array:
        """All of it."""
        ...

    def read(self, start: int, stop: int) -> Array:
        """Elements along the first axis; nothing is mapped."""
        ...


class InMemory:
    """An array in memory. It pickles with its values."""

    def __init__(self, array: Array) -> None:
        self.array = array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    @property
    def addressable(self) -> bool:
        return bool(self.array.flags.c_contiguous) and self.dtype == stored_dtype(self.dtype)

    def whole(self) -> Array:
        return self.array

    def read(self, start: int, stop: int) -> Array:
        return self.array[start:stop]


class Lazy(InMemory):
    """An array of another library that gives slices of itself as numpy arrays, as one of zarr or h5py does."""

    @property
    def addressable(self) -> bool:
        return False

    def read(self, start: int, stop: int) -> Array:
        try:
            return np.asarray(self.array[start:stop])
        except (MemoryError, SourceError):
            raise
        except Exception as error:  # these libraries have no kind of error of their own for damage
            from mmdask.store.storage.calls import without_secrets

            raise SourceError(
                f"rows {start} to {stop} of {self.array!r:.200} cannot be read: {without_secrets(error)}"
            ) from None


@dataclass(frozen=True)
class Member:
    """One member of an array of records, of which each slice is copied."""

    records: Column
    name: str

    @property
    def _type(self) -> np.dtype[Any]:
        return self.records.dtype[self.name]

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.records.shape, *self._type.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._type.base

    @property
    def addressable(self) -> bool:
        return False

    def whole(self) -> Array:
        member: Array = self.records.whole()[self.name]
        return member

    def read(self, start: int, stop: int) -> Array:
        member: Array = self.records.read(start, stop)[self.name]
        return member


@dataclass(frozen=True)
class InFile:
    """A C-ordered array in a file. It pickles as its place; the file must be then what it was when it was looked at.

    Parameters
    ----------
    path : str
        Absolute.
    offset : int
        Of its first byte.
    dtype : numpy.dtype
        As in the file, in either byte order.
    shape : tuple of int
    state : tuple of int
        Bytes of the file and when they were written, as `state_of` gives them.
    """

    path: str
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    state: tuple[int, int]

    @classmethod
    def at(cls, path: str, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> InFile:
        """The array at a place of a file.

        Raises
        ------
        SourceNotFoundError, SourceError
            When there is no such file, or the array would go beyond its end.
        """
        path = os.path.abspath(path)
        found = cls(path, offset, dtype, shape, state_of(path))
        if found.end > found.state[0]:
            raise SourceError(
                f"{path}: has {found.state[0]:,} bytes, and an array {shape} of {dtype} from byte {offset:,} on ends "
                f"at {found.end:,}; the file is truncated, or the shape, dtype or offset is another one"
            )
        return found

    @property
    def _row_nbytes(self) -> int:
        return int(np.prod(self.shape[1:], dtype=object)) * self.dtype.itemsize

    @property
    def end(self) -> int:
        """The byte behind its last one."""
        return self.offset + self.shape[0] * self._row_nbytes

    @property
    def addressable(self) -> bool:
        return self.dtype == stored_dtype(self.dtype)

    def whole(self) -> Array:
        self._check()
        return self._map

    @once
    def _map(self) -> Array:
        if self.end == self.offset:
            return np.empty(self.shape, self.dtype)
        return np.asarray(np.memmap(self.path, self.dtype, "r", self.offset, self.shape))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.copy().items() if name != "_map"}

    def read(self, start: int, stop: int) -> Array:
        return self.read_runs(np.array([start]), np.array([stop]))

    def read_runs(self, starts: Int64s, stops: Int64s) -> Array:
        """Several runs of elements, one after the other."""
        out = np.empty((int((stops - starts).sum()), *self.shape[1:]), self.dtype)
        width, raw = self._row_nbytes, out.reshape(-1).view(np.uint8)
        self._check()
        with open(self.path, "rb", buffering=0) as file, contextlib.suppress(EOFError):  # of which the check tells
            read_places(file.fileno(), self.offset + starts * width, (stops - starts) * width, raw)
        self._check()
        return out

    def ask(self, starts: Int64s, stops: Int64s) -> None:
        """Have the system read runs of elements, in their order, without waiting for them."""
        with contextlib.suppress(OSError), open(self.path, "rb", buffering=0) as file:
            ask_for(file.fileno(), paging.merged(self._places(starts, stops)))

    def in_memory(self, at: Int64s) -> bool:
        """Whether the system has the pages of these elements in memory, as far as it tells."""
        with contextlib.suppress(OSError), open(self.path, "rb", buffering=0) as file:
            return is_in_memory(file.fileno(), self._places(at, at + 1)[:, 0].tolist())
        return True

    def _places(self, starts: Int64s, stops: Int64s) -> Int64s:
        return paging.places(self.offset, self.shape[0], self.end - self.offset, starts, stops)

    def _check(self) -> None:
        now = state_of(self.path)
        if now != self.state:
            raise SourceError(
                f"{self.path}: changed since mm.view looked at it ({self.state[0]:,} bytes then, {now[0]:,} now); make "
                "the view again, or write what others change into a store, whose readers go on seeing what they opened"
            )


def state_of(path: str) -> tuple[int, int]:
    """Bytes of a file, and when it was written, in ns."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise SourceNotFoundError(f"{path}: {error.strerror}") from None
    return found.st_size, found.st_mtime_ns


@dataclass(frozen=True)
class Columns:
    """A field and its arrays, as `StoredField` has them."""

    field: Field
    values: Column
    offsets: tuple[Column, ...] = ()
    shapes: Column | None = None
    valid: tuple[Column | None, ...] = ()

    @property
    def rows(self) -> int:
        return self.offsets[0].shape[0] - 1 if self.offsets else self.values.shape[0]


def columns_of(field: Field, data: FieldData) -> Columns:
    """Rows in memory as columns, which share its arrays."""
    return Columns(
        replace(field, labels=data.labels),
        InMemory(data.values),
        tuple(map(InMemory, data.offsets)),
        None if data.shapes is None else InMemory(data.shapes),
        tuple([None if v is None else InMemory(v) for v in data.valid]),
    )


class Foreign(Snapshot):
    """Columns of equally many rows as a snapshot.

    Parameters
    ----------
    columns : sequence of Columns
    identity : str
        What tells these rows from all others.
    io : {"auto", "mmap", "pread"}
        How files are read; "auto" is "pread": whoever wrote a file may write it again, and a map of one that became
        shorter kills the process.
    """

    def __init__(self, columns: Sequence[Columns], identity: str, io: IO = "auto") -> None:
        self.columns = tuple(columns)
        rows = {c.field.name: c.rows for c in self.columns}
        if len(set(rows.values())) != 1:
            listed = ", ".join(f"{name} {n}" for name, n in rows.items())
            raise SchemaError(f"a view needs fields of equally many rows, got {listed or 'no field'}")
        specs: list[ArraySpec] = []
        self._held: list[Column] = []
        stored = {c.field.name: self._stored_as(c, specs) for c in self.columns}
        n = self.columns[0].rows
        layer = Layer(identity, n, stored, tuple(specs), path=f"view {identity}")
        schema = Schema(c.field for c in self.columns)
        manifest = Manifest(identity, 1, block_rows_for([layer]), schema, (Part(n, (layer.id,), layer.nbytes),))
        super().__init__("", manifest, check_io(io))
        self._layers[layer.id] = layer

    on_disk = False

    @property
    def origin(self) -> str:
        return "a view of arrays"

    def newest(self) -> Snapshot:
        raise OptionError("a view of arrays is no store, which could be newer now; make the view again with mm.view")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.columns, self.manifest.uuid, self.io)

    def _stored_as(self, columns: Columns, specs: list[ArraySpec]) -> StoredField:
        def number(column: Column, dtype: np.dtype[Any]) -> int:
            self._held.append(column)
            specs.append(ArraySpec("", dtype, column.shape, ()))
            return len(specs) - 1

        field = columns.field
        return StoredField(
            field.kind,
            number(columns.values, field.dtype),
            tuple([number(o, o.dtype) for o in columns.offsets]),
            field.labels,
            shapes=None if columns.shapes is None else number(columns.shapes, columns.shapes.dtype),
            valid=tuple([None if v is None else number(v, v.dtype) for v in columns.valid]),
        )

    @once
    def _files(self) -> list[InFile | None]:
        """The array in a file that each one is read from."""
        held = [c.records if isinstance(c, Member) else c for c in self._held]
        return [c if isinstance(c, InFile) else None for c in held]

    @property
    def _mapped(self) -> bool:
        return self.io == "mmap" or not self.in_files

    chunked = False

    @property
    def in_files(self) -> bool:
        return any(self._files)

    def ask(self, layer: Layer, number: int, starts: Int64s, stops: Int64s) -> None:
        if (file := self._files[number]) is not None:
            file.ask(starts, stops)

    def in_memory(self, layer: Layer, number: int, at: Int64s) -> bool:
        held, file = self._held[number], self._files[number]
        if file is None:
            return not isinstance(held.records if isinstance(held, Member) else held, Lazy)
        return file.in_memory(at)

    @property
    def addressable(self) -> bool:
        return self._mapped and all(column.addressable for column in self._held)

    def array(self, layer: Layer, number: int) -> Array:
        if not self.addressable:
            raise OptionError("these arrays are read piece by piece")
        return _read_only(self._held[number].whole())

    def read(self, layer: Layer, number: int, start: int, stop: int) -> Array:
        column = self._held[number]
        mapped = self._mapped and column.addressable
        piece = column.whole()[start:stop] if mapped else column.read(start, stop)
        return _read_only(np.ascontiguousarray(piece, layer.arrays[number].dtype))

    def read_runs(self, layer: Layer, number: int, starts: Int64s, stops: Int64s) -> Array:
        column, file = self._held[number], self._files[number]
        if file is None or (self._mapped and column.addressable):
            return super().read_runs(layer, number, starts, stops)
        found = file.read_runs(starts, stops)
        piece = found[column.name] if isinstance(column, Member) else found
        return _read_only(np.ascontiguousarray(piece, layer.arrays[number].dtype))


def _read_only(array: Array) -> Array:
    view = array.view()
    view.flags.writeable = False
    return view
