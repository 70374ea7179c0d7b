"""`Collection`: what `Ragged` and `Records` have in common: chunks of a recipe, and dask's protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NoReturn, Self

from dask.base import DaskMethodsMixin, tokenize
from dask.sizeof import sizeof
from dask.threaded import get as threaded_get

from mmdask.dataset.recipe import Frame, Held, Recipe, chunk_array
from mmdask.dataset.steps import register_vector
from mmdask.errors import OptionError, SchemaError
from mmdask.rows.reader import concatenate
from mmdask.schema import Field, FieldData

__all__ = ["Collection"]

sizeof.register(FieldData, lambda data: data.nbytes)


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

    @cached_property
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

    @cached_property
    def _source(self) -> Recipe:
        """The recipe; or, if its chunks are computed, these alone."""
        if self._graph is None:
            return self._recipe
        field = self._recipe.field
        nothing = self._recipe.empty() if field is None else None
        return Recipe.of(Held(self._graph, self._name, self._frame.chunks, field, nothing))

    def _chunk(self, start: int, stop: int) -> Any:
        """Rows of one chunk, computed now."""
        piece = self._sliced(slice(start, stop))
        return chunk_array(piece._frame, piece._source, f"{piece._name}-chunk").compute()

    def _sliced(self, rows: slice) -> Self:
        frame = self._frame.sliced(rows)
        if frame is self._frame or frame.rows is self._frame.rows:
            return self
        return self._like(frame, self._source.sliced(rows, frame))

    # The dask protocol ----------------------------------------------------------------------------------------------

    @cached_property
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


def join_rows(field: Field, chunks: list[FieldData]) -> Any:
    """Chunks of one field as one awkward array."""
    from mmdask.dataset.layouts import to_awkward

    return to_awkward(field, chunks[0] if len(chunks) == 1 else concatenate(field, chunks))


def join_records(chunks: list[Any]) -> Any:
    """Chunks of records as one awkward array."""
    import awkward as ak

    register_vector()
    return chunks[0] if len(chunks) == 1 else ak.concatenate(chunks)
