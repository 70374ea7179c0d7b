"""`Ragged`: rows of differing length or shape, or text, as a lazy collection that dask computes to awkward arrays."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from typing import Any, NoReturn

import numpy as np
from dask.base import DaskMethodsMixin, tokenize
from dask.threaded import get as threaded_get

from mmdask.dataset.layouts import row, rows_of, to_awkward
from mmdask.dataset.lazy import (
    CountsArray,
    OffsetsArray,
    ResultArray,
    ShapesArray,
    ValidArray,
    ValuesArray,
    item_edges,
    row_edges,
    to_dask,
)
from mmdask.display import html_table
from mmdask.errors import OptionError, SchemaError
from mmdask.expr import spelled_name
from mmdask.rows.reader import Picker, decode
from mmdask.rows.rows import Rows
from mmdask.schema import Field

__all__ = ["Ragged"]

#: rows and bytes read together by iteration
_PIECE_ROWS = 4096
_PIECE_NBYTES = 16 << 20


class Ragged(DaskMethodsMixin):  # type: ignore[misc]
    """A field whose rows differ in length or shape, or text: lazy, in the dataset's chunks.

    Made by ``ds["jet_pt"]``. `compute` gives an awkward array; a row number or iteration gives rows at once, None where
    one is missing.

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
        self._name = f"{name}-{tokenize('Ragged', rows.key, rows.token(name), chunk_rows)}"
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
        """Items per row, bytes of text: a lazy dask array int64 ``(rows,)``; reads (outer) offsets only.

        Masked where rows may be missing.
        """
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

        Masked where items may be missing. Reads the stored offsets at the chunk bounds (of all rows, if a cut selects
        them).
        """
        if self._field.n_offsets > 1:
            raise OptionError(
                f"{self._field.name!r} has lists in lists; .compute() gives all of it, as an awkward array"
            )
        edges = item_edges(self._rows, self._field.name, self._chunk_rows)
        lengths = [n for n in np.diff(edges).tolist() if n] or [0]
        return to_dask(self._source(ValuesArray), lengths, f"{self._field.name}-values")

    @property
    def shapes(self) -> Any:
        """Shapes of shaped rows: a lazy dask array int64 ``(rows, axes)``; 0 where a row is missing; reads no items.

        Raises
        ------
        OptionError
            When the field is not shaped.
        """
        if self._field.kind != "shaped":
            raise OptionError(f"{self._field.name!r} is {self._field.describe()}, without shapes; it has .counts")
        return to_dask(ShapesArray(self._rows, self._field.name), self.chunks[0], f"{self._field.name}-shapes")

    @property
    def valid(self) -> Any:
        """Which rows are not missing: a lazy dask array bool ``(rows,)``; reads validity only."""
        return to_dask(ValidArray(self._rows, self._field.name), self.chunks[0], f"{self._field.name}-valid")

    def _source(self, kind: type[OffsetsArray] | type[ValuesArray]) -> Any:
        return kind(self._rows, self._field.name, self._chunk_rows)

    # One value per row ----------------------------------------------------------------------------------------------

    # As in cuts: what is computed from a missing value is missing, unless the others decide. It is masked.

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

    def mean(self, *, default: Any = None) -> Any:
        """Mean of each row: lazy, float64; `default` for rows that have none, as for `min`."""
        return self._reduce("mean", default)

    def min(self, *, default: Any = None) -> Any:
        """Least item of each row: lazy.

        Parameters
        ----------
        default : number, optional
            For rows that have none. Without it, rows without items are nan if the items are floats, an error if they
            are not, and of an optional field they are masked, as are those with something missing.
        """
        return self._reduce("min", default)

    def max(self, *, default: Any = None) -> Any:
        """Greatest item of each row: lazy; `default` for rows that have none, as for `min`."""
        return self._reduce("max", default)

    def first(self, *, default: Any = None) -> Any:
        """First item of each row: lazy; `default` for rows that have none, as for `min`."""
        return self._reduce("first", default)

    def last(self, *, default: Any = None) -> Any:
        """Last item of each row: lazy; `default` for rows that have none, as for `min`."""
        return self._reduce("last", default)

    def argmin(self, *, default: int | None = None) -> Any:
        """Number of the least item of each row: lazy, int64.

        `default` for rows that have none: -1, or masked if the field is optional.
        """
        return self._reduce("argmin", default, -1)

    def argmax(self, *, default: int | None = None) -> Any:
        """Number of the greatest item of each row: lazy, int64; `default` for rows that have none, as for `argmin`."""
        return self._reduce("argmax", default, -1)

    def _reduce(self, function: str, default: Any = None, usual: Any = None) -> Any:
        field = self._field
        if field.kind != "ragged" or field.shape or field.levels > 1:
            raise OptionError(
                f"{field.name!r} is {field.describe()}: {function} is for numbers in rows of one level; "
                ".compute() gives an awkward array"
            )
        expression = self._rows.check(f"{function}({spelled_name(field.name)})")
        masked = default is None and bool(field.optional)
        if expression.maybe_missing and not masked:
            default = usual if default is None else default
            if default is None and expression.dtype.kind != "f":
                raise OptionError(
                    f"{function} of {field.name!r} ({field.describe()}) has no value for rows without items; "
                    f"say which one to use, as in .{function}(default=-1)"
                )
            default = np.nan if default is None else default
            _check_default(default, expression.dtype, function)
        source = ResultArray(self._rows, expression, default, masked=masked)
        return to_dask(source, self.chunks[0], f"{field.name}-{function}")

    # Rows -----------------------------------------------------------------------------------------------------------

    def __getitem__(self, index: Any) -> Any:
        """A row at once, or a slice of rows, lazy.

        A row of one level is a read-only view of the store, with a mask if an item is missing; of more levels an
        awkward array; of a shaped field a read-only view in its shape; of text a str, or a list of str. None if it is
        missing.
        """
        if isinstance(index, int | np.integer) and not isinstance(index, bool):
            number = self._rows.number(int(index))
            field = self._field
            if field.n_offsets > 1 or 1 in field.optional or field.name in self._rows.derived:
                return row(field, self._rows.read_row(field.name, number))
            items = self._pick(number)
            return items if field.kind != "string" or items is None else decode(items.tobytes())
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
        step = min(_PIECE_ROWS, max(int(_PIECE_NBYTES / max(self._rows.row_nbytes, 1)), 1))
        for start in range(0, n, step):
            data = self._rows.read(self._field.name, start, min(start + step, n))
            yield from rows_of(self._field, data)

    def to_awkward(self) -> Any:
        """The awkward array, at once: the same as ``compute()``."""
        return self.compute()

    def to_list(self) -> list[Any]:
        """Rows as Python lists, or text as str, at once; None where something is missing."""
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

    @property
    def __dask_optimize__(self) -> Any:
        # That of arrays: dask orders the results of one compute by the optimizers of their collections, so with another
        # one (array, ragged, array) would come back as (array, array, ragged).
        from dask.array import Array

        return Array.__dask_optimize__

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
