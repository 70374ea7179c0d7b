"""`Collection`: what `Ragged` and `Records` have in common: chunks of a recipe, and dask's protocol."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, NoReturn, Self, TypeVar

import numpy as np
from dask.base import DaskMethodsMixin, tokenize
from dask.sizeof import sizeof
from dask.threaded import get as threaded_get

from mmdask.dataset.lists.recipe import Frame, Held, Recipe, chunk_array
from mmdask.dataset.lists.steps import register_vector, that_pickles
from mmdask.errors import OptionError, RowNotFoundError, SchemaError
from mmdask.kernels.once import once
from mmdask.rows.reading.gathering import concatenate
from mmdask.schema import Field, FieldData

__all__ = ["Collection"]

sizeof.register(FieldData, lambda data: data.nbytes)


C = TypeVar("C", bound="Collection")
#: rows and bytes read together by iteration
_PIECE_ROWS = 4096
_PIECE_NBYTES = 16 << 20


class Collection(DaskMethodsMixin):  # type: ignore[misc]
    """Rows that a recipe makes chunk by chunk, lazily, in the chunks of a dataset.

    Parameters
    ----------
    frame : Frame
        The rows and where chunks end.
    recipe : Recipe
        How a chunk is made.
    name : str
        Of the first words of its keys.
    graph : mapping, optional
        Chunks that are already computed.
    """

    _frame: Frame
    _recipe: Recipe
    _name: str
    _graph: Mapping[Any, Any] | None

    def _setup(self, frame: Frame, recipe: Recipe, prefix: str, graph: Mapping[Any, Any] | None) -> None:
        self._frame, self._recipe, self._graph = frame, recipe, graph
        self._name = f"{prefix}-{tokenize(type(self).__name__, frame.rows.key, recipe.result, frame.chunk_rows)}"

    def _like(self, frame: Frame, recipe: Recipe, graph: Mapping[Any, Any] | None = None) -> Self:
        raise NotImplementedError

    @property
    def _finish(self) -> Callable[[list[Any]], Any]:
        raise NotImplementedError

    @once
    def chunks(self) -> tuple[tuple[int, ...]]:
        """Rows of each chunk, those of the dataset."""
        return (self._frame.chunks,)

    @property
    def n_chunks(self) -> int:
        return len(self._frame.edges) - 1

    def __len__(self) -> int:
        return len(self._frame)

    def __bool__(self) -> NoReturn:
        raise OptionError(
            f"{self!r} is many values, neither true nor false; len() is the number of rows, .any() is one per row"
        )

    def __awkward_function__(self, function: Any, *_: Any) -> NoReturn:
        # Without it, awkward reads all rows one by one.
        name = f"ak.{function.__name__}"
        raise OptionError(
            f"{name} takes arrays in memory, as .compute() gives; .map(lambda x: {name}(x, ...)) calls it chunk by "
            "chunk, lazily, if it gives one entry for each row"
        )

    @once
    def _source(self) -> Recipe:
        """The recipe; or, if its chunks are computed, these alone."""
        if self._graph is None:
            return self._recipe
        field = self._recipe.field
        nothing = self._recipe.empty() if field is None else None
        return Recipe.of(Held(self._graph, self._name, self._frame.chunks, field, nothing))

    def _pieces(self) -> Iterator[Any]:
        """The rows, computed now, some thousand at a time; chunk by chunk where dask arrays take part."""
        source = self._source
        if source.inputs:
            for a, b in itertools.pairwise(self._frame.edges.tolist()):
                piece = self._sliced(slice(a, b))
                yield chunk_array(piece._frame, piece._source, f"{piece._name}-piece").compute()
            return
        rows = self._frame.rows
        step = min(_PIECE_ROWS, max(int(_PIECE_NBYTES / max(rows.row_nbytes, 1)), 1))
        for start in range(0, len(rows), step):
            yield source.program(start, min(start + step, len(rows)), ())

    @property
    def blocks(self) -> Blocks[Self]:
        """Chunks by their numbers, as those of dask arrays: ``x.blocks[0]``, ``x.blocks[2:5]``. Lazy."""
        return Blocks(self)

    def to_delayed(self) -> list[Any]:
        """Each chunk as a `dask.delayed.Delayed`, which computes to an awkward array."""
        from dask.delayed import delayed

        chunks = chunk_array(self._frame, self._source, f"{self._name}-delayed").to_delayed()
        finish = delayed(self._finish, pure=True)
        return [finish([chunk]) for chunk in chunks]

    def _sliced(self, rows: slice) -> Self:
        frame = self._frame.sliced(rows)
        if frame is self._frame or frame.rows is self._frame.rows:
            return self
        return self._like(frame, self._source.sliced(rows, frame))

    # The dask protocol ----------------------------------------------------------------------------------------------

    @once
    def _array(self) -> Any:
        """The chunks as those of a dask array: its graph is small, and what they need is fused with them."""
        return chunk_array(self._frame, self._recipe, self._name)

    def __dask_graph__(self) -> Mapping[Any, Any]:
        if self._graph is not None:
            return self._graph
        graph: Mapping[Any, Any] = self._array.__dask_graph__()
        return graph

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
        return self._finish, ()

    def __dask_postpersist__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._rebuild, ()

    def _rebuild(self, graph: Mapping[Any, Any], *, rename: Mapping[str, str] | None = None) -> Self:
        if rename:
            raise SchemaError(f"a persisted {type(self).__name__} keeps its name")
        return self._like(self._frame, self._recipe, graph)


class Blocks(Generic[C]):
    """The chunks of a collection, taken by their numbers."""

    def __init__(self, collection: C) -> None:
        self._collection = collection

    def __len__(self) -> int:
        return self._collection.n_chunks

    def __getitem__(self, index: int | slice) -> C:
        """One chunk, or those of a slice, as a collection of their rows. Lazy."""
        x = self._collection
        edges = x._frame.edges
        if isinstance(index, slice) and index.step in (None, 1):
            first, stop, _ = index.indices(len(self))
        elif isinstance(index, int | np.integer) and not isinstance(index, bool):
            if not -len(self) <= index < len(self):
                raise RowNotFoundError(f"no chunk {index}: there are {len(self)}")
            first = int(index) % len(self)
            stop = first + 1
        else:
            raise OptionError(f"chunks are taken by a number, or a slice with step 1; got {index!r}")
        return x._sliced(slice(int(edges[first]), int(edges[max(stop, first)])))


def join_rows(field: Field, chunks: list[FieldData]) -> Any:
    """Chunks of one field as one awkward array."""
    from mmdask.dataset.layouts import to_awkward

    return that_pickles(to_awkward(field, chunks[0] if len(chunks) == 1 else concatenate(field, chunks)))


def join_records(chunks: list[Any]) -> Any:
    """Chunks of records as one awkward array."""
    import awkward as ak

    register_vector()
    return that_pickles(chunks[0] if len(chunks) == 1 else ak.concatenate(chunks))
