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

from mmdask.expr import Expression, evaluate
from mmdask.rows import reader
from mmdask.rows.masks import passing
from mmdask.rows.rows import Rows
from mmdask.schema import FieldData

__all__ = ["FieldArray", "LazyArray", "MaskArray", "OffsetsArray", "ResultArray", "ValuesArray", "to_dask"]

_BLOCK_ROWS = 1 << 18


class LazyArray:
    """An array that is read when it is sliced. It never has the methods that would make dask copy it.

    Parameters
    ----------
    *key
        What the array is made of; hashable and picklable by reference.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __init__(self, *key: Any) -> None:
        self._key = key

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
                data = self.read(span.start, max(span.start, span.stop))[:: span.step]
            else:
                data = self.read(span.stop + 1, span.start + 1)[:: span.step] if len(span) else self.read(0, 0)
        elif isinstance(first, int | np.integer):
            data = self.read(int(first), int(first) + 1)[0]
        else:
            data = self.read(0, self.shape[0])[first]
        return data[(slice(None), *rest)] if rest and isinstance(first, slice) else data[tuple(rest)] if rest else data

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._key

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return (type(self).__name__, *(k.identity if isinstance(k, Rows) else repr(k) for k in self._key))


class FieldArray(LazyArray):
    """A dense field, or the labels of a category as text."""

    def __init__(self, rows: Rows, name: str) -> None:
        super().__init__(rows, name)
        self.rows, self.name = rows, name
        field = rows.schema[name]
        self.category = field.kind == "category"
        self.shape = (len(rows), *field.shape)
        self.dtype = np.array(field.labels or ("",)).dtype if self.category else field.dtype

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        data = self.rows.read(self.name, start, stop)
        return reader.as_labels(data) if self.category else data.values


class ResultArray(LazyArray):
    """An expression with one value per row, evaluated in blocks; missing values become `default`."""

    def __init__(self, rows: Rows, expression: Expression, default: Any) -> None:
        super().__init__(rows, expression, default)
        self.rows, self.expression, self.default = rows, expression, default
        self.shape = (len(rows),)
        self.dtype = expression.dtype

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return "ResultArray", self.rows.identity, self.expression.canonical, repr(self.default)

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        out = np.empty(stop - start, self.dtype)
        for a in range(start, stop, _BLOCK_ROWS):
            b = min(a + _BLOCK_ROWS, stop)
            result = evaluate(self.expression, self._reader(a, b), b - a, first_row=a)
            target = out[a - start : b - start]
            target[:] = result.values
            if result.known is not None:
                target[~result.known] = self.default
        return out

    def _reader(self, start: int, stop: int) -> Any:
        def read(name: str) -> FieldData:
            return self.rows.read(name, start, stop)

        return read


class MaskArray(LazyArray):
    """A cut as one boolean per row: from kept bits where they are, else evaluated for the rows asked for."""

    dtype = np.dtype(np.bool_)

    def __init__(self, rows: Rows, leaves: tuple[Expression, ...]) -> None:
        super().__init__(rows, leaves)
        self.rows, self.leaves = rows, leaves
        self.shape = (len(rows),)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return "MaskArray", self.rows.identity, tuple(leaf.canonical for leaf in self.leaves)

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
        for part, a, b in reader.runs(snapshot, first, last):
            masks.append(passing(snapshot, part, a, b, self.leaves))
        mask = np.concatenate(masks)
        return mask if wanted is None else mask[wanted - first]


class OffsetsArray(LazyArray):
    """Cumulative offsets of a ragged field over a view: int64 ``(rows + 1,)``.

    `row_edges` and `item_edges` say how many rows and items lie before each chunk.
    """

    dtype = np.dtype(np.int64)

    def __init__(self, rows: Rows, name: str, row_edges: tuple[int, ...], item_edges: tuple[int, ...]) -> None:
        super().__init__(rows, name, row_edges, item_edges)
        self.rows, self.name, self.row_edges, self.item_edges = rows, name, row_edges, item_edges
        self.shape = (row_edges[-1] + 1,)

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        out = np.empty(max(stop - start, 0), np.int64)
        if stop == self.shape[0] and len(out):
            out[-1] = self.item_edges[-1]
        for c in range(len(self.row_edges) - 1):
            r0, r1 = self.row_edges[c], self.row_edges[c + 1]
            a, b = max(start, r0), min(stop, r1)
            if a < b:
                offsets = self.rows.read(self.name, r0, b).offsets[0]
                out[a - start : b - start] = offsets[a - r0 : b - r0] + self.item_edges[c]
        return out


class ValuesArray(LazyArray):
    """Items of a ragged field over a view, row after row: ``(items, *shape)``."""

    def __init__(self, rows: Rows, name: str, row_edges: tuple[int, ...], item_edges: tuple[int, ...]) -> None:
        super().__init__(rows, name, row_edges, item_edges)
        self.rows, self.name, self.row_edges, self.item_edges = rows, name, row_edges, item_edges
        field = rows.schema[name]
        self.shape = (item_edges[-1], *field.shape)
        self.dtype = field.dtype

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        runs = []
        for c in range(len(self.item_edges) - 1):
            i0, i1 = self.item_edges[c], self.item_edges[c + 1]
            a, b = max(start, i0), min(stop, i1)
            if a < b:
                values = self.rows.read(self.name, self.row_edges[c], self.row_edges[c + 1]).values
                runs.append(values[a - i0 : b - i0])
        if len(runs) == 1:
            return runs[0]
        return np.concatenate(runs) if runs else np.empty((0, *self.shape[1:]), self.dtype)


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

    token = tokenize(source, tuple(chunks))
    return da.from_array(
        source,
        chunks=(tuple(chunks), *((n,) for n in source.shape[1:])),
        name=f"{prefix}-{token}",
        asarray=False,
        inline_array=True,
        meta=np.empty((0,) * source.ndim, source.dtype),
    )
