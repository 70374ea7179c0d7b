"""`Ragged`: rows of differing length, or text, as a lazy collection that dask computes to awkward arrays."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from typing import Any, NoReturn

import numpy as np
from dask.base import DaskMethodsMixin, tokenize
from dask.threaded import get as threaded_get

from mmdask.dataset.lazy import (
    CountsArray,
    OffsetsArray,
    ResultArray,
    ValuesArray,
    item_edges,
    row_edges,
    to_dask,
)
from mmdask.display import html_table
from mmdask.errors import OptionError, SchemaError
from mmdask.expr import check
from mmdask.rows.reader import Picker, as_text, decode
from mmdask.rows.rows import Rows
from mmdask.schema import Field, FieldData

__all__ = ["Ragged"]

#: rows read together by iteration
_PIECE_ROWS = 4096


class Ragged(DaskMethodsMixin):  # type: ignore[misc]
    """A ragged or string field of a dataset: lazy, in the dataset's chunks.

    Made by ``ds["jet_pt"]``. `compute` gives an awkward array; a row number or iteration gives rows at once.

    Parameters
    ----------
    rows : Rows
        The rows.
    name : str
        The field.
    chunk_rows : int
        Store rows of a chunk.
    graph : mapping, optional
        Chunks that are already computed; by default they are read.

    Examples
    --------
    >>> import mmdask as mm
    >>> ds = mm.from_arrays({"hits": [[1, 2], [], [3]]}, "hits.mm")
    >>> ds["hits"].compute().to_list()
    [[1, 2], [], [3]]
    >>> ds["hits"].sum().compute()
    array([3, 0, 3])
    """

    def __init__(self, rows: Rows, name: str, chunk_rows: int, graph: Mapping[Any, Any] | None = None) -> None:
        self._rows = rows
        self._field: Field = rows.schema[name]
        self._chunk_rows = chunk_rows
        self._name = f"{name}-{tokenize('Ragged', rows.identity, name, chunk_rows)}"
        self._graph = graph

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._rows, self._field.name, self._chunk_rows, self._graph)

    # What it is -----------------------------------------------------------------------------------------------------

    @property
    def field(self) -> Field:
        """Name, kind, dtype, unit and doc."""
        return self._field

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the items (uint8 of text, which is utf-8)."""
        return self._field.dtype

    @cached_property
    def chunks(self) -> tuple[tuple[int, ...]]:
        """Rows of each chunk, those of the dataset."""
        return (tuple(np.diff(row_edges(self._rows, self._chunk_rows)).tolist()),)

    @property
    def n_chunks(self) -> int:
        return len(self.chunks[0])

    def __len__(self) -> int:
        return len(self._rows)

    # Its parts as dask arrays ---------------------------------------------------------------------------------------

    @property
    def counts(self) -> Any:
        """Items per row, bytes of text: a lazy dask array int64 ``(rows,)``; reads (outer) offsets only."""
        return to_dask(CountsArray(self._rows, self._field.name), self.chunks[0], f"{self._field.name}-counts")

    @property
    def offsets(self) -> Any:
        """Where each row begins among `values`: a lazy dask array int64 ``(rows + 1,)``, starting at 0.

        Reads the stored offsets at the chunk bounds when it is computed (of all rows, if a cut selects them).
        """
        lengths = list(self.chunks[0])
        lengths[-1] += 1
        return to_dask(self._source(OffsetsArray), lengths, f"{self._field.name}-offsets")

    @property
    def values(self) -> Any:
        """All items, row after row: a lazy dask array ``(items, *shape)`` with one chunk per chunk of rows.

        Reads the stored offsets at the chunk bounds (of all rows, if a cut selects them).
        """
        if self._field.n_offsets > 1:
            raise OptionError(f"{self._field.name!r} has several levels; its values are in .compute()")
        edges = item_edges(self._rows, self._field.name, self._chunk_rows)
        lengths = [n for n in np.diff(edges).tolist() if n] or [0]
        return to_dask(self._source(ValuesArray), lengths, f"{self._field.name}-values")

    def _source(self, kind: type[OffsetsArray] | type[ValuesArray]) -> Any:
        return kind(self._rows, self._field.name, self._chunk_rows)

    # One value per row ----------------------------------------------------------------------------------------------

    def sum(self) -> Any:
        """Sum of each row, 0 without items: lazy, float64 for floats, int64 or uint64 for integers."""
        return self._reduce("sum")

    def any(self) -> Any:
        """Whether any item of each row is true: lazy, bool."""
        return self._reduce("any")

    def all(self) -> Any:
        """Whether all items of each row are true: lazy, bool; true without items."""
        return self._reduce("all")

    def count(self) -> Any:
        """True items of each row of a bool field: lazy, int64; `counts` has the number of all items."""
        if self._field.dtype.kind != "b":
            raise OptionError(
                f"count() counts true items, and {self._field.name!r} is {self._field.describe()}; "
                "the number of items is .counts"
            )
        return self._reduce("count")

    def mean(self, *, default: Any = np.nan) -> Any:
        """Mean of each row: lazy, float64; `default` for rows without items."""
        return self._reduce("mean", default)

    def min(self, *, default: Any = None) -> Any:
        """Least item of each row: lazy; `default` for rows without items, nan by default for floats."""
        return self._reduce("min", default)

    def max(self, *, default: Any = None) -> Any:
        """Greatest item of each row: lazy; `default` for rows without items, nan by default for floats."""
        return self._reduce("max", default)

    def first(self, *, default: Any = None) -> Any:
        """First item of each row: lazy; `default` for rows without items, nan by default for floats."""
        return self._reduce("first", default)

    def last(self, *, default: Any = None) -> Any:
        """Last item of each row: lazy; `default` for rows without items, nan by default for floats."""
        return self._reduce("last", default)

    def argmin(self, *, default: int = -1) -> Any:
        """Number of the least item of each row: lazy, int64; `default` for rows without items."""
        return self._reduce("argmin", default)

    def argmax(self, *, default: int = -1) -> Any:
        """Number of the greatest item of each row: lazy, int64; `default` for rows without items."""
        return self._reduce("argmax", default)

    def _reduce(self, function: str, default: Any = None) -> Any:
        name = self._field.name
        if self._field.kind != "ragged" or self._field.shape or self._field.levels > 1:
            raise OptionError(f"{name!r} is {self._field.describe()}: {function} is for numbers in rows of one level")
        expression = check(f"{function}(`{name}`)", self._rows.schema)
        if expression.maybe_missing and default is None:
            if expression.dtype.kind != "f":
                raise OptionError(
                    f"{function} of {name!r} ({self._field.describe()}) has no value for rows without items; "
                    f"say which one to use, as in .{function}(default=-1)"
                )
            default = np.nan
        if expression.maybe_missing:
            _check_default(default, expression.dtype, function)
        return to_dask(ResultArray(self._rows, expression, default), self.chunks[0], f"{name}-{function}")

    # Rows -----------------------------------------------------------------------------------------------------------

    def __getitem__(self, index: Any) -> Any:
        """A row at once (an array, or text), or a slice of rows, lazy.

        An array is a read-only view of the store where it has one level, an awkward array where it has more.
        """
        if isinstance(index, int | np.integer):
            number = self._rows.number(int(index))
            if self._field.n_offsets > 1:
                return to_awkward(self._field, self._rows.read_row(self._field.name, number))[0]
            items = self._pick(number)
            return decode(items.tobytes()) if self._field.kind == "string" else items
        if isinstance(index, slice):
            return Ragged(self._rows.sliced(index), self._field.name, self._chunk_rows)
        raise OptionError(
            f"{self._field.name!r} takes a row number or a slice of rows, got {type(index).__name__}; "
            "other selections work on the computed array: .compute()[...]"
        )

    @cached_property
    def _pick(self) -> Picker:
        return Picker(self._rows.snapshot, self._field.name)

    def __iter__(self) -> Iterator[Any]:
        n = len(self)
        for start in range(0, n, _PIECE_ROWS):
            data = self._rows.read(self._field.name, start, min(start + _PIECE_ROWS, n))
            if self._field.n_offsets > 1:
                yield from to_awkward(self._field, data)
            elif self._field.kind == "string":
                yield from as_text(data)
            else:
                yield from (data.values[a:b] for a, b in itertools.pairwise(data.offsets[0].tolist()))

    def to_awkward(self) -> Any:
        """The awkward array, at once: the same as ``compute()``."""
        return self.compute()

    def to_list(self) -> list[Any]:
        """Rows as Python lists, or text as str, at once."""
        result: list[Any] = self.compute().to_list()
        return result

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise OptionError(
            f"rows of {self._field.name!r} differ in length; .compute() gives an awkward array, .values its items"
        )

    def _no_operator(self, *_: Any) -> NoReturn:
        raise OptionError(
            f"there are no operators for ragged fields; cut by ds.cut('any({self._field.name} > ...)'), or compute "
            "with .compute() (awkward) or .values (a dask array of the items)"
        )

    __lt__ = __le__ = __gt__ = __ge__ = __add__ = __radd__ = __sub__ = __rsub__ = _no_operator
    __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __and__ = __or__ = __invert__ = __neg__ = _no_operator
    __array_ufunc__ = None

    # The dask protocol ----------------------------------------------------------------------------------------------

    def __dask_graph__(self) -> Mapping[Any, Any]:
        if self._graph is not None:
            return self._graph
        edges = row_edges(self._rows, self._chunk_rows).tolist()
        # Bound, because dask takes an argument of a task that equals a key of the graph, as a name may, for that key.
        read = partial(read_chunk, self._rows, self._field.name)
        return {(self._name, i): (partial(read, a, b),) for i, (a, b) in enumerate(itertools.pairwise(edges))}

    def __dask_keys__(self) -> list[Any]:
        return [(self._name, i) for i in range(self.n_chunks)]

    def __dask_tokenize__(self) -> str:
        return self._name

    __dask_scheduler__ = staticmethod(threaded_get)
    __dask_optimize__ = None  # one task per chunk: there is nothing to fuse

    def __dask_postcompute__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return join_chunks, ()

    def __dask_postpersist__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._rebuild, ()

    def _rebuild(self, graph: Mapping[Any, Any], *, rename: Mapping[str, str] | None = None) -> Ragged:
        if rename:
            raise SchemaError("a persisted ragged field keeps its name")
        return Ragged(self._rows, self._field.name, self._chunk_rows, graph)

    # Looks ----------------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"mm.Ragged<{self._field.name}, {self._field.describe()}, rows={len(self):,}, chunks={self.n_chunks:,}>"

    def _repr_html_(self) -> str:
        rows = [
            ["kind", self._field.describe()],
            ["rows", f"{len(self):,}"],
            ["chunks", f"{self.n_chunks:,}"],
            *([["unit", self._field.unit]] if self._field.unit else []),
        ]
        return html_table(rows, [self._field.name, ""])


def _check_default(default: Any, dtype: np.dtype[Any], function: str) -> None:
    try:
        with np.errstate(all="ignore"):
            same = np.asarray(default).astype(dtype)
            fits = bool(same == default) or bool(np.isnan(default) and dtype.kind == "f")
    except (TypeError, ValueError, OverflowError):
        fits = False
    if not fits:
        raise OptionError(f"default={default!r} does not fit the result of {function}, {dtype}")


def read_chunk(rows: Rows, name: str, start: int, stop: int) -> Any:
    """One chunk of a ragged field as an awkward array over the mapped file."""
    return to_awkward(rows.schema[name], rows.read(name, start, stop))


def join_chunks(chunks: list[Any]) -> Any:
    """Chunks of one field as one awkward array."""
    import awkward as ak

    return chunks[0] if len(chunks) == 1 else ak.concatenate(chunks)


def to_awkward(field: Field, data: FieldData) -> Any:
    """A run of rows as an awkward array that shares memory with it."""
    import awkward as ak
    from awkward import contents, index

    values = data.values
    if field.kind == "string":
        layout = contents.NumpyArray(np.ascontiguousarray(values), parameters={"__array__": "char"})
    else:
        layout = contents.NumpyArray(values)
    for i, offsets in enumerate(reversed(data.offsets)):
        text = {"__array__": "string"} if field.kind == "string" and i == 0 else None
        layout = contents.ListOffsetArray(index.Index64(offsets), layout, parameters=text)
    return ak.Array(layout)
