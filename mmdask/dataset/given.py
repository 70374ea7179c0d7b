"""Fields of a dataset that are dask arrays of the user's: `ds.assign(r=ds["a"] / ds["b"])`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.dataset.lazy import LazyArray, row_chunks, row_edges, to_dask
from mmdask.errors import OptionError
from mmdask.rows.rows import Rows
from mmdask.schema import Field, check_name, stored_dtype

__all__ = ["Given", "each_masked"]


@dataclass(frozen=True)
class Given:
    """A dask array with one entry for each of some rows.

    Parameters
    ----------
    field : Field
        What its entries are.
    rows : Rows
        The rows of the dataset that it was given to.
    array : dask.array.Array
        Of known chunks.
    """

    field: Field
    rows: Rows
    array: Any

    @classmethod
    def checked(cls, name: str, rows: Rows, array: Any) -> Given:
        """The field, if the array fits the rows.

        Raises
        ------
        OptionError, SchemaError
            When it has another length, an unknown one, or a dtype that no field has.
        """
        check_name(name)
        if not array.ndim:
            raise OptionError(f"field {name!r}: this dask array is one value, and a field has one for each row")
        if any(math.isnan(n) for n in array.shape):
            raise OptionError(
                f"field {name!r}: the length of this dask array is not known, as after x[mask]; make it from the rows "
                "that are selected, as ds[cut]['met'], or call compute_chunk_sizes() on it"
            )
        if array.shape[0] != len(rows):
            raise OptionError(f"field {name!r} has {array.shape[0]:,} entries, and the dataset {len(rows):,} rows")
        # Of entries with several numbers a field cannot say that some of them are missing.
        optional = array.ndim == 1 and isinstance(array._meta, np.ma.MaskedArray)
        dtype = stored_dtype(array.dtype, name=name)
        return cls(Field.dense(name, dtype, array.shape[1:], optional=(0,) * optional), rows.stored, array)

    def on(self, rows: Rows, chunk_rows: int) -> Any:
        """The entries of some of these rows, a lazy dask array in the chunks of those."""
        import dask.array as da

        array = self.array
        if rows.key != self.rows.key:
            edges = row_edges(self.rows, chunk_rows)
            kept = _Kept(self.rows, rows.stored)
            counts = tuple(np.diff(kept.before(edges)).tolist())
            array = array.rechunk((tuple(np.diff(edges).tolist()), *array.chunks[1:]))
            mask = to_dask(kept, array.chunks[0], "kept")
            # One mask for all columns of a chunk.
            mask = mask[(slice(None), *[None] * (array.ndim - 1))]
            array = da.map_blocks(
                _compress, array, mask, chunks=(counts, *array.chunks[1:]), dtype=array.dtype, meta=array._meta
            )
        chunks = row_chunks(rows, chunk_rows)
        return array if array.chunks[0] == chunks else array.rechunk((chunks, *array.chunks[1:]))


def each_masked(values: Any) -> Any:
    """What a dask array was computed to, for an awkward array: None for each number that is masked, not for its row."""
    import awkward as ak

    return ak.from_numpy(values) if isinstance(values, np.ma.MaskedArray) and values.ndim > 1 else values


def _compress(block: Any, mask: npt.NDArray[np.bool_]) -> Any:
    return block[mask.reshape(-1)]


class _Kept(LazyArray):
    """Which of some rows are among others, bool ``(rows,)``."""

    def __init__(self, rows: Rows, among: Rows) -> None:
        super().__init__(rows, among.key, (len(rows),), np.bool_)
        self.among = among

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        numbers = self.rows.numbers(start, stop)
        if not len(numbers):
            return np.zeros(0, np.bool_)
        found = self.among.bits.rows_between(int(numbers[0]), int(numbers[-1]) + 1)
        mask = np.zeros(len(numbers), np.bool_)
        mask[np.searchsorted(numbers, found)] = True
        return mask

    def before(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """How many of the others come before each of some rows, which are numbers among `rows`, the end included."""
        n = len(self.rows)
        inside = positions[positions < n]
        numbers = np.append(self.rows.numbers_of(inside), np.full(len(positions) - len(inside), self.rows.n_store))
        return self.among.bits.rank(numbers)
