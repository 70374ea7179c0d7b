"""What dask is given: small array-likes that read when they are sliced.

`dask.array.from_array` copies a `numpy.memmap` into memory and puts its bytes into the graph. An object that has only
shape, dtype and ``[]``, and pickles as a reference, gets neither: the graph holds one such object and the chunk
lengths, and ``x[1000:2000]`` reads those rows alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.dataset.layouts import masked, several
from mmdask.errors import OptionError
from mmdask.expr import Expression
from mmdask.rows.cuts.passes import passing
from mmdask.rows.reading.where import runs
from mmdask.rows.rows import Rows
from mmdask.store.arrays.cache import Cache

__all__ = [
    "CountsArray",
    "FieldArray",
    "LazyArray",
    "MaskArray",
    "OffsetsArray",
    "ShapesArray",
    "ValidArray",
    "ValuesArray",
    "item_edges",
    "row_chunks",
    "row_edges",
    "to_dask",
]

#: dask needs about a kilobyte for each chunk that it computes
MAX_CHUNKS = 1 << 22

Int64s = npt.NDArray[np.int64]
#: chunk bounds of views, so that tasks need not carry them
EDGES: Cache[Int64s] = Cache(64 << 20)
#: the lengths that they are apart, with about 36 bytes for each number
CHUNKS: Cache[tuple[int, ...]] = Cache(64 << 20)


def row_edges(rows: Rows, chunk_rows: int) -> Int64s:
    """How many rows of a view lie before each of its chunks, and all of them: int64 ``(chunks + 1,)``.

    Chunks end where parts end, and within a part every `chunk_rows` store rows. Those without a row are left out.

    Raises
    ------
    OptionError
        When there are more than 2**22 chunks.
    """
    key = rows.key, chunk_rows
    edges = EDGES.get(key)
    if edges is None:
        edges = _row_edges(rows, chunk_rows)
        EDGES.put(key, edges, edges.nbytes + 256)
    return edges


def _row_edges(rows: Rows, chunk_rows: int) -> Int64s:
    starts = rows.snapshot.starts
    n = -(-np.diff(starts) // chunk_rows)
    if n.sum() > MAX_CHUNKS:
        raise OptionError(
            f"{rows.snapshot.path}: {rows.n_store:,} rows in chunks of {chunk_rows:,} are {n.sum():,} chunks, over the "
            f"limit of {MAX_CHUNKS:,}; open it with larger chunks=, and do not trust it if it cannot be so large"
        )
    number = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
    edges = np.append(np.repeat(starts[:-1], n) + number * chunk_rows, starts[-1])
    if rows.span is not None and rows.span.step == 1:
        counts = np.diff(np.clip(edges, rows.span.start, rows.span.stop))
    else:
        counts = rows.bits.chunk_counts(edges)
    counts = counts[counts > 0]
    return _sums(counts if len(counts) else np.zeros(1, np.int64))


def row_chunks(rows: Rows, chunk_rows: int) -> tuple[int, ...]:
    """Rows of each chunk of a view. One object for all arrays of the view: pickled together, they hold it once."""
    key = rows.key, chunk_rows
    chunks = CHUNKS.get(key)
    if chunks is None:
        chunks = tuple(np.diff(row_edges(rows, chunk_rows)).tolist())
        CHUNKS.put(key, chunks, 36 * len(chunks) + 256)
    return chunks


def _sums(counts: Int64s, first: int = 0) -> Int64s:
    """`first`, and the sums that follow when counts are added one after the other."""
    sums = np.full(len(counts) + 1, first, np.int64)
    sums[1:] += np.cumsum(counts)
    return sums


def item_edges(rows: Rows, name: str, chunk_rows: int) -> Int64s:
    """How many items of a ragged field lie before each chunk of a view, and all of them: int64 ``(chunks + 1,)``.

    Reads two offsets of each chunk where rows lie together, else those of all rows.
    """
    key = rows.key, chunk_rows, rows.token(name)
    edges = EDGES.get(key)
    if edges is None:
        edges = _sums(rows.item_counts(name, row_edges(rows, chunk_rows)))
        EDGES.put(key, edges, edges.nbytes + 256)
    return edges


class LazyArray:
    """An array that is read when it is sliced. It never has the methods that would make dask copy it.

    It pickles as a reference with its shape and dtype, so that unpickling it finds out nothing.

    Parameters
    ----------
    rows : Rows
        The rows of the first axis.
    key : tuple of str
        What else the array is made of.
    shape, dtype
        As those of numpy.
    masked : bool
        Whether what it reads are masked arrays.
    """

    def __init__(
        self,
        rows: Rows,
        key: tuple[str, ...],
        shape: tuple[int, ...],
        dtype: npt.DTypeLike,
        *,
        masked: bool = False,
    ) -> None:
        self.rows, self.key, self.shape, self.dtype, self.masked = rows, key, shape, np.dtype(dtype), masked

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Elements `start` to `stop` along the first axis."""
        raise NotImplementedError

    def __getitem__(self, index: Any) -> Any:
        first, *rest = index if isinstance(index, tuple) else (index,)
        if isinstance(first, slice):
            span = range(self.shape[0])[first]
            if span.step > 0:
                data = self.read(span.start, span[-1] + 1 if span else span.start)[:: span.step]
            else:
                data = self.read(span.stop + 1, span.start + 1)[:: span.step] if len(span) else self.read(0, 0)
        elif isinstance(first, int | np.integer):
            data = self.read(int(first), int(first) + 1)[0]
        else:
            data = self.read(0, self.shape[0])[first]
        return data[(slice(None), *rest)] if rest and isinstance(first, slice) else data[tuple(rest)] if rest else data

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return type(self).__name__, self.rows.key, self.key


class FieldArray(LazyArray):
    """A dense field, or the labels of a category as text; masked where it is optional."""

    def __init__(self, rows: Rows, name: str) -> None:
        field = rows.schema[name]
        dtype = np.array(field.labels or ("",)).dtype if field.kind == "category" else field.dtype
        super().__init__(rows, (rows.token(name),), (len(rows), *field.shape), dtype, masked=0 in field.optional)
        self.name = name

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        found: npt.NDArray[Any] = several(self.rows.schema[self.name], self.rows.read(self.name, start, stop))
        return found


class MaskArray(LazyArray):
    """A cut as one boolean per row: from kept bits where they are, else evaluated for the rows asked for."""

    def __init__(self, rows: Rows, leaves: tuple[Expression, ...]) -> None:
        super().__init__(rows, tuple(leaf.canonical for leaf in leaves), (len(rows),), np.bool_)
        self.leaves = leaves

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        snapshot = self.rows.snapshot
        if self.rows.span is not None and self.rows.span.step == 1:
            first, last = self.rows.span.start + start, self.rows.span.start + stop
            wanted = None
        else:
            wanted = self.rows.numbers(start, stop)
            if not len(wanted):
                return np.zeros(0, np.bool_)
            first, last = int(wanted[0]), int(wanted[-1]) + 1
        masks = [np.zeros(0, np.bool_)]
        for part, a, b in runs(snapshot, first, last):
            masks.append(passing(snapshot, part, a, b, self.leaves))
        mask = np.concatenate(masks)
        return mask if wanted is None else mask[wanted - first]


class CountsArray(LazyArray):
    """Items per row of a ragged field, or bytes per string, int64 ``(rows,)``; reads offsets only.

    Masked where rows may be missing; reads their validity, too.
    """

    def __init__(self, rows: Rows, name: str) -> None:
        optional = 0 in rows.schema[name].optional
        super().__init__(rows, (rows.token(name),), (len(rows),), np.int64, masked=optional)
        self.name = name

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        counts = self.rows.read_counts(self.name, start, stop)
        return masked(counts, self.rows.read_valid(self.name, start, stop)) if self.masked else counts


class ValidArray(LazyArray):
    """Which rows of a field are not missing, bool ``(rows,)``."""

    def __init__(self, rows: Rows, name: str) -> None:
        super().__init__(rows, (rows.token(name),), (len(rows),), np.bool_)
        self.name = name

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        valid = self.rows.read_valid(self.name, start, stop)
        return np.ones(stop - start, np.bool_) if valid is None else valid


class ShapesArray(LazyArray):
    """Shapes of the rows of a shaped field, int64 ``(rows, axes)``; reads no items."""

    def __init__(self, rows: Rows, name: str) -> None:
        super().__init__(rows, (rows.token(name),), (len(rows), rows.schema[name].axes), np.int64)
        self.name = name

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        return self.rows.read_shapes(self.name, start, stop)


class OffsetsArray(LazyArray):
    """Cumulative offsets of a ragged field over a view: int64 ``(rows + 1,)``."""

    def __init__(self, rows: Rows, name: str, chunk_rows: int) -> None:
        super().__init__(rows, (rows.token(name), str(chunk_rows)), (len(rows) + 1,), np.int64)
        self.name, self.chunk_rows = name, chunk_rows

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        edges, items = row_edges(self.rows, self.chunk_rows), item_edges(self.rows, self.name, self.chunk_rows)
        chunk = min(int(np.searchsorted(edges, start, side="right")) - 1, len(edges) - 2)
        first = int(edges[chunk])
        counts = self.rows.read_counts(self.name, first, max(stop - 1, first))
        return _sums(counts, int(items[chunk]))[start - first : stop - first]


class ValuesArray(LazyArray):
    """Items of a ragged field over a view, row after row: ``(items, *shape)``; masked where they may be missing."""

    def __init__(self, rows: Rows, name: str, chunk_rows: int) -> None:
        field = rows.schema[name]
        n = int(item_edges(rows, name, chunk_rows)[-1])
        optional = field.levels == 1 and 1 in field.optional
        super().__init__(rows, (rows.token(name), str(chunk_rows)), (n, *field.shape), field.dtype, masked=optional)
        self.name, self.chunk_rows = name, chunk_rows

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        if start >= stop:
            none = np.empty((0, *self.shape[1:]), self.dtype)
            return masked(none, None) if self.masked else none
        edges, items = row_edges(self.rows, self.chunk_rows), item_edges(self.rows, self.name, self.chunk_rows)
        first = int(np.searchsorted(items, start, side="right")) - 1
        last = int(np.searchsorted(items, stop))
        data = self.rows.read(self.name, int(edges[first]), int(edges[last]))
        wanted = slice(start - int(items[first]), stop - int(items[first]))
        if not self.masked:
            return data.values[wanted]
        valid = data.valid_at(1)
        return masked(data.values[wanted], None if valid is None else valid[wanted])


def to_dask(source: LazyArray, chunks: Sequence[int], prefix: str) -> Any:
    """A dask array over a lazy array, with these lengths along the first axis; nothing is read or hashed.

    Parameters
    ----------
    source : LazyArray
        What chunks are read from.
    chunks : sequence of int
        Lengths along the first axis.
    prefix : str
        Of the name that dask shows.
    """
    import dask.array as da
    from dask.base import tokenize

    empty: Any = np.ma.empty if source.masked else np.empty
    token = tokenize(source, np.array(chunks))  # of an array, because dask walks through tuples
    return da.from_array(
        source,
        chunks=(tuple(chunks), *((n,) for n in source.shape[1:])),
        name=f"{prefix}-{token}",
        asarray=False,
        inline_array=True,
        meta=empty((0,) * source.ndim, source.dtype),
    )
