"""What `mm.view` takes: arrays in memory, in files, and of other libraries, as columns that nothing is copied for."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from mmdask.errors import OptionError, SchemaError, SourceError, SourceNotFoundError
from mmdask.schema import Field, Schema, stored_dtype
from mmdask.sources.given.coerce import to_field_data
from mmdask.store.arrays.place import IO
from mmdask.store.foreign import Column, Columns, Foreign, InFile, InMemory, Lazy, Member, columns_of

__all__ = ["Raw", "view_arrays"]


@dataclass(frozen=True)
class Raw:
    """An array in a file without a header, for `mm.view`. In C order, one row after the other.

    Parameters
    ----------
    path : path
        The file.
    dtype : dtype-like
        Of one element, in the byte order of the file (``">f4"`` is big-endian), or of one record.
    shape : tuple of int
        Of the array; -1 for the rows means as many as the file has.
    offset : int
        Bytes before the first row.

    Examples
    --------
    >>> import numpy as np, mmdask as mm
    >>> np.arange(6, dtype=">i2").tofile("six.raw")
    >>> mm.view({"x": mm.Raw("six.raw", ">i2", (-1, 2))})["x"].compute()
    array([[0, 1],
           [2, 3],
           [4, 5]], dtype=int16)
    """

    path: str | os.PathLike[str]
    dtype: Any
    shape: tuple[int, ...] = (-1,)
    offset: int = 0

    def column(self) -> InFile:
        """Where it is.

        Raises
        ------
        OptionError
            When shape or offset are none.
        SourceNotFoundError, SourceError
            When the file is missing, too short, or has no whole number of rows.
        """
        try:
            dtype = np.dtype(self.dtype)
        except TypeError as error:
            raise OptionError(f"mm.Raw: {self.dtype!r} is no dtype: {error}") from None
        shape = tuple(self.shape) if isinstance(self.shape, tuple | list) else (self.shape,)
        whole = all(isinstance(n, int | np.integer) and not isinstance(n, bool) for n in (*shape, self.offset))
        if not whole or not shape or shape[0] < -1 or min(shape[1:], default=0) < 0 or self.offset < 0:
            raise OptionError(
                f"mm.Raw: the shape is a tuple of integers, -1 for rows that the file tells, and the offset one of 0 "
                f"or more; got shape={self.shape!r}, offset={self.offset!r}"
            )
        path = os.path.abspath(self.path)
        width = int(np.prod(shape[1:], dtype=object)) * dtype.itemsize
        if shape[0] == -1:
            size = InFile.at(path, 0, np.dtype("u1"), (0,)).state[0] - self.offset
            if not width or size < 0 or size % width:
                raise SourceError(
                    f"{path}: the {max(size, 0):,} bytes from byte {self.offset} on are no whole number of rows of "
                    f"{width} bytes; the dtype, shape or offset is another one, or the file is truncated"
                )
            shape = (size // width, *shape[1:])
        return InFile.at(path, self.offset, dtype, shape)


def view_arrays(data: Mapping[str, Any], fields: Iterable[Field] | None = None, io: IO = "auto") -> Foreign:
    """Arrays as a snapshot; see `mmdask.view`."""
    if not isinstance(data, Mapping) or not data:
        is_path = isinstance(data, str | os.PathLike)  # not repeated: a URL may hold a password
        got = f"{type(data).__name__}; mm.open opens a store" if is_path else f"{data!r:.100}"
        if type(data).__module__.startswith("zarr."):
            got += "; give {'name': array} or, of a group, dict(group.arrays()). mm.from_zarr makes a store of either"
        raise OptionError(f"mm.view takes a mapping of names to arrays, got {got}")
    declared = Schema(fields or ())
    for name in declared:
        if name not in data:
            raise SchemaError(f"fields= has {name!r}, and the view has {', '.join(map(repr, data))}")
    columns = [c for name, value in data.items() for c in _columns(name, value, declared.get(name))]
    for c in columns:
        if c.field.name in {other.field.name for other in columns if other is not c}:
            raise SchemaError(f"two arrays give the field {c.field.name!r}; rename one")
    return Foreign(columns, _identity(columns), io)


def _identity(columns: Iterable[Columns]) -> str:
    """Equal for equal places of unchanged files; of its own for what is in memory."""
    held = [(c.field, x) for c in columns for x in (c.values, *c.offsets, c.shapes, *c.valid) if x is not None]
    if all(isinstance(x, InFile) for _, x in held):
        text = "\n".join(f"{f.name} {f.describe()} {x!r}" for f, x in held)
        return xxhash.xxh3_128_hexdigest(text.encode())
    return os.urandom(16).hex()


def _columns(name: str, value: Any, field: Field | None) -> list[Columns]:
    column = _column(name, value) if field is None or field.kind == "dense" else None
    if column is None:
        return [columns_of(*to_field_data(name, value, field))]
    if column.dtype.names is None:
        found = Field.dense(name, stored_dtype(column.dtype, name=name), column.shape[1:])
        if field is not None and not field.same_layout(found):
            raise SchemaError(f"field {name!r} is to be {field.describe()}, and the array is {found.describe()}")
        return [Columns(field or found, column)]
    if len(column.shape) != 1:
        raise SchemaError(f"field {name!r}: an array of records has one axis, got {column.shape}")
    members: list[Columns] = []
    for member in column.dtype.names:
        part = Member(column, member)
        made = Field.dense(f"{name}_{member}", stored_dtype(part.dtype, name=f"{name}_{member}"), part.shape[1:])
        members.append(Columns(made, part))
    return members


def _column(name: str, value: Any) -> Column | None:
    """A dense array as it lies; None for what has to be looked at value by value."""
    if isinstance(value, Raw):
        return value.column()
    if isinstance(value, str | os.PathLike):
        return _npy(name, os.fspath(value))
    if hasattr(value, "__dask_graph__"):
        raise OptionError(
            f"field {name!r} is a dask array, which has no rows to look at; mm.from_arrays({{{name!r}: ...}}, path) "
            "computes and writes it"
        )
    if isinstance(value, np.ma.MaskedArray):
        return None
    if getattr(value, "shape", None) == ():
        raise SchemaError(f"field {name!r} is one number; an array needs an axis of rows")
    if isinstance(value, np.ndarray):
        if value.dtype.names is None and value.dtype.kind in "UO":
            return None
        return _of_memmap(value) or InMemory(value)
    sliced = all(hasattr(value, x) for x in ("shape", "dtype", "__getitem__")) and not hasattr(value, "layout")
    if sliced and isinstance(value.dtype, np.dtype) and value.dtype.kind not in "UO":
        return Lazy(value)
    return None


def _npy(name: str, path: str) -> Column:
    if not os.path.lexists(path):
        raise SourceNotFoundError(f"field {name!r}: no file {path}")
    if os.path.isdir(path):
        raise SourceError(
            f"field {name!r}: {path} is a folder and no .npy file; give an array of zarr as zarr.open({path!r}), or "
            "make a store of it with mm.from_zarr"
        )
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise SourceError(
            f"field {name!r}: {path} is no whole .npy file of numbers ({error}); a file without a header is "
            "mm.Raw(path, dtype, shape)"
        ) from None
    if not isinstance(array, np.ndarray):
        raise SourceError(f"field {name!r}: {path} is an archive; give one of its arrays, np.load(path)[name]")
    return _of_memmap(array) or InMemory(array)


def _of_memmap(array: npt.NDArray[Any]) -> InFile | None:
    """The place in its file of an array that a `numpy.memmap`, or a view of one, shows as it lies there."""
    root: Any = array
    while isinstance(root.base, np.ndarray):
        root = root.base
    if not isinstance(root, np.memmap) or not isinstance(root.base, mmap.mmap) or root.filename is None:
        return None
    if not array.flags.c_contiguous or root.mode == "c":  # changes to a private copy are in no file
        return None
    begin = root.offset + _address(array) - _address(root)
    return InFile.at(os.fspath(root.filename), begin, array.dtype, array.shape)


def _address(array: npt.NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])
