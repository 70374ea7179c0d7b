"""Rows that are filled in any order, from several processes: `Allocated`, which `Writer.allocate` makes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.errors import ConflictError, OptionError, SchemaError
from mmdask.schema import Field
from mmdask.sources.given.coerce import to_field_data
from mmdask.sources.writing.part_writer import LOST
from mmdask.store.arrays.region import filling, read_region, select, write_region
from mmdask.store.outcome import removed_is_conflict
from mmdask.store.system import SYSTEM

__all__ = ["Allocated"]


class Allocated:
    """Rows of a dense field that can be filled in any order, by several threads and processes at once.

    Made by `Writer.allocate`. It pickles as a path; each assignment opens the file, writes exactly the bytes that it
    selects, and closes the file. Rows that nothing was assigned to are zeros. When the writer's block has ended, or
    began another part, nothing can be assigned any more.

    Attributes
    ----------
    shape : tuple of int
        ``(rows, *shape of a row)``.
    dtype : numpy.dtype
        Of the field.
    """

    def __init__(
        self,
        path: str,
        field: Field,
        rows: int,
        failed: Callable[[BaseException], None] | None = None,
        is_open: Callable[[], bool] | None = None,
    ) -> None:
        self._path = path
        self._field = field
        # Of the writer, in its own process: tell it of an error, and ask whether it still waits for these rows.
        self._failed = failed
        self._is_open = is_open
        self.shape = (rows, *field.shape)
        self.dtype = field.dtype

    def __reduce__(self) -> tuple[Any, ...]:
        return Allocated, (self._path, self._field, len(self))

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<Allocated {self._field.name!r}: {len(self)} rows of {self._field.describe()}>"

    def __setitem__(self, key: Any, value: Any) -> None:
        """Write rows, or parts of them.

        Parameters
        ----------
        key : index
            Integers, slices with any step and ``...``, as in numpy; for the first axis also a list or array of row
            numbers, or of one bool per row.
        value : array-like
            What broadcasts to what the key selects. Numbers are kept exactly or not at all; only Python's floats take
            the precision of the field.

        Raises
        ------
        RowNotFoundError
            When an index is out of range.
        SchemaError
            When the value does not fit the field exactly, or what the key selects.
        OptionError
            When the key is another, or the rows can no longer be filled.
        ConflictError
            When the files of the block were removed meanwhile, as by a vacuum; other processes than the writer's cannot
            tell this from the end of the block, and raise OptionError.
        OSError
            When the system refuses to write, as on a full disk. Then nothing of the part can be committed.
        """
        selection = select(self.shape, key)
        values = _broadcast(self._field, self._convert(value), selection.shape)
        with self._open() as fd:
            try:
                write_region(fd, selection, values)
            except OSError as error:
                self._give_up(error)
                raise

    def __getitem__(self, key: Any) -> Any:
        """What was assigned so far, read from the file: a new array, or one number; keys as for assignment."""
        selection = select(self.shape, key)
        with self._open() as fd:
            values = read_region(fd, selection, self.dtype)
        return values if values.ndim else values[()]

    def _convert(self, value: Any) -> npt.NDArray[Any]:
        """The value in the field's dtype, as `Writer.extend` converts it."""
        name = self._field.name
        rows = value if isinstance(value, list | tuple) or getattr(value, "ndim", None) else [value]
        try:
            shape = np.shape(rows)
        except ValueError as error:
            raise SchemaError(f"field {name!r}: a value that is no array: {error}") from None
        values = to_field_data(name, rows, Field.dense(name, self.dtype, shape[1:]))[1].values
        return values if rows is value else values.reshape(())

    @contextlib.contextmanager
    def _open(self) -> Iterator[int]:
        try:
            with filling(self._path) as fd:
                yield fd
        except FileNotFoundError as error:
            self._check_removed(error)
            raise OptionError(
                f"the rows of {self._field.name!r} can no longer be filled: the block of their writer has ended, or "
                "it has begun another part, or an assignment to them failed, or the files of the block were removed"
            ) from None

    def _check_removed(self, error: FileNotFoundError) -> None:
        """Raise `ConflictError` when the folder is gone and the writer, of this process, did not take it away."""
        folder = os.path.dirname(self._path)
        if self._is_open is None or not self._is_open() or os.path.isdir(folder):
            return
        parts = os.path.dirname(folder)
        try:
            if os.path.basename(parts) != "parts":  # but in the temporary folder of the system
                raise ConflictError(f"{folder}: the files in which rows are filled were removed; {LOST}") from error
            with removed_is_conflict(os.path.dirname(parts), LOST):
                raise error
        except ConflictError as conflict:
            if self._failed is not None:
                self._failed(conflict)
            raise

    def _give_up(self, error: BaseException) -> None:
        """After a failed write nobody knows what the file holds: take it away, so that no process can commit it."""
        with contextlib.suppress(OSError):
            SYSTEM.unlink(self._path)
        if self._failed is not None:
            self._failed(error)


def _broadcast(field: Field, values: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    given = values.shape
    while values.ndim > len(shape) and len(values) == 1:
        values = values[0]  # as numpy does in an assignment
    try:
        return np.broadcast_to(values, shape)
    except ValueError:
        raise SchemaError(f"field {field.name!r}: a value of shape {given} for rows of shape {shape}") from None
