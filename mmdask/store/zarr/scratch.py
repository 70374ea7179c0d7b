"""What waits on a local disk before it is written as zarr arrays: encoded chunks, and rows that others fill."""

from __future__ import annotations

import os
import tempfile
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from mmdask.errors import ConflictError
from mmdask.store.arrays.files import read_fully
from mmdask.store.arrays.npy import EXTENT, ArraySpec, ArrayWriter
from mmdask.store.storage import LayerFiles
from mmdask.store.zarr.form import Form, rounded
from mmdask.store.zarr.writer import ZarrWriter

__all__ = ["FilledWriter", "Spool"]

#: bytes of chunks of one layer that wait in memory for others of their objects
_WAITING_NBYTES = 64 << 20


class Spool:
    """Chunks of all arrays of a layer that wait for the others of their objects: some in memory, the rest in a file.

    The file has no name, so that nothing is left of it, however the process ends.
    """

    def __init__(self, files: LayerFiles) -> None:
        self._files = files
        self._file: IO[bytes] | None = None
        self._nbytes = self._end = 0

    def keep(self, data: bytes) -> bytes | tuple[int, int]:
        """Keep a chunk; what gives it back."""
        if self._nbytes + len(data) <= _WAITING_NBYTES:
            self._nbytes += len(data)
            return data
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._files.scratch(), buffering=0)  # noqa: SIM115  (`close`)
        start, view = self._end, memoryview(data)
        while view:
            n = os.pwrite(self._file.fileno(), view, self._end)
            self._end, view = self._end + n, view[n:]
        return start, self._end

    def take(self, kept: bytes | tuple[int, int]) -> bytes:
        """A chunk that was kept, for the last time."""
        data = self.look(kept)
        if isinstance(kept, bytes):
            self._nbytes -= len(kept)
        return data

    def look(self, kept: bytes | tuple[int, int]) -> bytes:
        """A chunk that was kept."""
        if isinstance(kept, bytes):
            return kept
        assert self._file is not None
        data = bytearray(kept[1] - kept[0])
        read_fully(self._file.fileno(), memoryview(data), kept[0])
        return bytes(data)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class FilledWriter(ZarrWriter):
    """Rows of one array that others fill in any order: in a file that is not compressed, until `finish` encodes it.

    `path` is that of the file, for `region.filling`. Parameters are those of `ZarrWriter`, and how many `rows`.
    """

    def __init__(
        self,
        files: LayerFiles,
        file: str,
        dtype: np.dtype[Any],
        item_shape: tuple[int, ...],
        form: Form,
        spool: Spool,
        rows: int,
    ) -> None:
        super().__init__(files, file, dtype, item_shape, form, spool)
        self._scratch = ArrayWriter(files.scratch(), file, dtype, item_shape, rows)
        self.path, self.rows, self.nbytes = self._scratch.path, rows, self._scratch.nbytes
        self._keepbits = form.keepbits

    def finish(self) -> ArraySpec:
        """Encode what others filled, some rows at a time; nobody can fill it any more.

        Raises
        ------
        ConflictError
            When another process is just writing to it, or could not, or somebody removed the file.
        """
        rows, self.rows, self.nbytes = self.rows, 0, 0
        try:
            for values in self._scratch.taken(max(1, EXTENT // max(self._width, 1))):
                self._append_filled(rounded(values, self._keepbits))
        except FileNotFoundError as error:
            if self._scratch.path.startswith(self._files.folder):
                raise  # the whole layer was removed
            raise ConflictError(f"{self._scratch.path}: rows that were being filled were removed") from error
        finally:
            self._scratch.close()
        self.rows = rows
        return super().finish()

    def _append_filled(self, values: npt.NDArray[Any]) -> None:
        if self.look is not None:
            self.look(values.reshape(-1), self.nbytes // self.dtype.itemsize)
        self.append(values)

    def remove(self) -> None:
        """Take its files away."""
        self._scratch.remove()
        if self._objects:
            super().remove()

    def close(self) -> None:
        """Give descriptors back."""
        self._scratch.close()
