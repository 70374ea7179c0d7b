"""`DiskBackend`: a store on disk, by the public functions of mmdask."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

import mmdask as mm
from mmdask.rows.rows import Rows
from mmdask.schema import Field, FieldData, Schema

__all__ = ["DiskBackend", "DiskView"]


@dataclass(frozen=True)
class DiskView:
    """One generation of a `DiskBackend`.

    Parameters
    ----------
    dataset : Dataset
        All rows and fields of it.
    """

    dataset: mm.Dataset

    @property
    def schema(self) -> Schema:
        """The fields."""
        return self.dataset.schema

    @property
    def generation(self) -> int:
        """The commit that it shows."""
        return self.dataset.generation

    @property
    def attrs(self) -> Mapping[str, Any]:
        """What the writer noted."""
        return self.dataset.attrs

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def _rows(self) -> Rows:
        return self.dataset._rows

    def read(self, name: str, start: int, stop: int) -> FieldData:
        """Rows `start` to `stop` of a field, as views where they lie together."""
        return self._rows.read(name, start, stop)

    def take(self, name: str, rows: npt.NDArray[np.int64]) -> FieldData:
        """Rows of a field by number, as a copy."""
        return self._rows.take(name, rows)


class DiskBackend:
    """A store in a folder, or behind a URL.

    Parameters
    ----------
    path : path
        Where it is, or will be.
    io : {"auto", "mmap", "pread"}
        How it is read, as of `mmdask.open`.
    part_nbytes : int, optional
        Where writers end a part; a small number makes many.
    backend : {"memmap", "zarr"} or Zarr, optional
        How its arrays are stored, as of `mmdask.create`.

    Examples
    --------
    >>> import mmdask as mm
    >>> from mmdask.testing import DiskBackend, to_python
    >>> store = DiskBackend("contract.mm", io="pread")
    >>> with store.create([mm.Field.ragged("hits", "i4")]) as w:
    ...     w.extend({"hits": [[1, 2], []]})
    >>> view = store.open()
    >>> to_python(view.schema["hits"], view.read("hits", 0, 2))
    [[1, 2], []]
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        io: Literal["auto", "mmap", "pread"] = "auto",
        part_nbytes: int | None = None,
        backend: Literal["memmap", "zarr"] | mm.Zarr | None = None,
    ) -> None:
        self.path, self.io, self.backend = os.fspath(path), io, backend
        self._options: dict[str, Any] = {} if part_nbytes is None else {"part_nbytes": part_nbytes}

    def create(self, fields: Iterable[Field], *, attrs: Mapping[str, Any] | None = None) -> Any:
        """Begin the store."""
        return mm.create(self.path, fields=fields, attrs=attrs, backend=self.backend, **self._options)

    def append(self) -> Any:
        """Add rows."""
        return mm.append(self.path, **self._options)

    def assign(self, field: Field, rows: Sequence[Any], *, replace: bool = False) -> None:
        """Add a field, or put it in place of one."""
        mm.assign(self.path, {field: rows}, replace=replace, progress=False)

    def assign_expression(self, name: str, expression: str) -> None:
        """Add a field that is computed."""
        mm.assign(self.path, {name: expression}, progress=False)

    def drop(self, names: Sequence[str]) -> None:
        """Take fields away."""
        mm.drop(self.path, names)

    def compact(self) -> None:
        """Store the same rows in fewer parts."""
        mm.compact(self.path, progress=False, **self._options)

    def vacuum(self, *, keep: int) -> None:
        """Remove what only older generations need."""
        mm.vacuum(self.path, keep=keep, grace=0)

    def open(self, generation: int | None = None) -> DiskView:
        """Show a generation."""
        return DiskView(mm.open(self.path, generation=generation, io=self.io))

    def history(self) -> Sequence[Any]:
        """The generations that can be opened."""
        entries: Sequence[Any] = self.open().dataset.history()
        return entries

    def reopened(self) -> DiskBackend:
        """The same store, found anew."""
        return DiskBackend(self.path, io=self.io, backend=self.backend, **self._options)
