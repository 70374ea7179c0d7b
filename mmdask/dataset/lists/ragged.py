"""`Ragged`: rows of differing length or shape, or text, as a lazy collection that dask computes to awkward arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from mmdask.dataset.hints import RAGGED, no_attribute
from mmdask.dataset.layouts import row, rows_of
from mmdask.dataset.lazy import (
    CountsArray,
    OffsetsArray,
    ShapesArray,
    ValidArray,
    ValuesArray,
    item_edges,
    to_dask,
)
from mmdask.dataset.lists.collection import Collection, join_rows
from mmdask.dataset.lists.items import Choose, Counts, Item, Items, Pad, PadMask, Valid
from mmdask.dataset.lists.operands import compared_text, operand_of
from mmdask.dataset.lists.operators import FUNCTIONS, Operators
from mmdask.dataset.lists.recipe import Frame, Recipe, Stored, dense_array, items_array
from mmdask.dataset.lists.reductions import Reductions
from mmdask.dataset.lists.steps import Constant, Elementwise, astype, with_counts_of
from mmdask.display import html_table
from mmdask.errors import OptionError
from mmdask.kernels.once import once
from mmdask.rows.reading.picker import Picker
from mmdask.rows.reading.text import decode
from mmdask.rows.rows import Rows
from mmdask.schema import Field

__all__ = ["Ragged"]


class Ragged(Reductions, Operators, Collection):
    """A field whose rows differ in length or shape, or text: lazy, in the dataset's chunks.

    Made by ``ds["jet_pt"]``, and from others by operators, ufuncs of numpy, ``[...]``, `map` and `crop`. `compute`
    gives an awkward array; a row number or iteration gives rows at once, None where one is missing.

    Operators are those of numpy, item by item, as are its ufuncs, `where`, `clip`, `round`, `isin`, `isclose` and
    `nan_to_num`. The other operand is a number, another `Ragged` with equal counts, or a dask array with one entry per
    row, which is repeated for the items of its row; ``jets / jets.sum()`` is the share of each item. What is computed
    from a missing value is missing. However long an expression is, each of its chunks is one task.

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
    recipe : Recipe, optional
        How chunks are made, if they are not the field.

    Examples
    --------
    >>> import mmdask as mm
    >>> ds = mm.from_arrays({"hits": [[1, 2], [], [3]], "scale": [10, 20, 30]}, "hits.mm")
    >>> ds["hits"].compute().to_list()
    [[1, 2], [], [3]]
    >>> ds["hits"].sum().compute()
    array([3, 0, 3])
    >>> (ds["hits"] * ds["scale"] + 1).compute().to_list()
    [[11, 21], [], [91]]
    >>> ds["hits"][ds["hits"] > 1].to_list()
    [[2], [], [3]]
    """

    _field: Field

    def __init__(
        self,
        rows: Rows,
        name: str,
        chunk_rows: int,
        graph: Mapping[Any, Any] | None = None,
        recipe: Recipe | None = None,
    ) -> None:
        frame = Frame(rows, chunk_rows)
        self._stored = recipe is None
        self._setup(frame, recipe or Recipe.of(Stored(rows, name)), name, graph)
        field = self._recipe.field
        assert field is not None
        self._field, self._rows, self._chunk_rows = field, rows, chunk_rows

    @classmethod
    def _of(cls, frame: Frame, recipe: Recipe) -> Any:
        """The result of a recipe: a Ragged, or a dask array of one entry per row."""
        field, node = recipe.field, recipe.node
        assert field is not None
        if not field.n_offsets:
            return dense_array(frame, recipe, field.name)
        if isinstance(node, Stored):
            return cls(node.rows, node.name, frame.chunk_rows)
        return cls(frame.rows, field.name, frame.chunk_rows, recipe=recipe)

    def _like(self, frame: Frame, recipe: Recipe, graph: Mapping[Any, Any] | None = None) -> Ragged:
        stored = isinstance(recipe.node, Stored)
        return Ragged(frame.rows, self._field.name, frame.chunk_rows, graph, None if stored else recipe)

    def __reduce__(self) -> tuple[Any, ...]:
        recipe = None if self._stored else self._recipe
        return type(self), (self._rows, self._field.name, self._chunk_rows, self._graph, recipe)

    @property
    def _finish(self) -> Callable[[list[Any]], Any]:
        return partial(join_rows, self._field)

    # What it is -----------------------------------------------------------------------------------------------------

    @property
    def field(self) -> Field:
        """Name, kind, dtype, unit and doc."""
        return self._field

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the items (uint8 of text, which is utf-8)."""
        return self._field.dtype

    # Its parts as dask arrays ---------------------------------------------------------------------------------------

    @property
    def counts(self) -> Any:
        """Items per row, bytes of text: a lazy dask array int64 ``(rows,)``; reads (outer) offsets only.

        Masked where rows may be missing. What operators made has the counts of its fields; what `map` or a condition
        made is computed for them.
        """
        name = f"{self._field.name}-counts"
        recipe = with_counts_of(self._source)
        stored = recipe.node
        if isinstance(stored, Stored):
            return to_dask(CountsArray(stored.rows, stored.name), self.chunks[0], name)
        field = Field.dense(self._field.name, "i8", optional=0 in self._field.optional)
        return dense_array(self._frame, Recipe.made(Counts(), field, recipe), name)

    @property
    def offsets(self) -> Any:
        """Where each row begins among `values`: a lazy dask array int64 ``(rows + 1,)``, starting at 0.

        Reads the stored offsets at the chunk bounds when it is computed (of all rows, if a cut selects them).
        """
        import dask.array as da

        lengths = list(self.chunks[0])
        lengths[-1] += 1
        stored = with_counts_of(self._source).node
        name = f"{self._field.name}-offsets"
        if isinstance(stored, Stored):
            return to_dask(OffsetsArray(stored.rows, stored.name, self._chunk_rows), lengths, name)
        counts = self.counts
        if 0 in self._field.optional:
            counts = da.ma.filled(counts, 0)
        return da.concatenate(
            [da.zeros(1, dtype=np.int64, chunks=1), da.cumsum(counts, axis=0, dtype=np.int64)]
        ).rechunk((tuple(lengths),))

    @property
    def values(self) -> Any:
        """All items, row after row: a lazy dask array ``(items, *shape)`` with one chunk per chunk of rows.

        Masked where items may be missing. Reads the stored offsets at the chunk bounds (of all rows, if a cut selects
        them); what `map` or a condition made is computed once for its counts.
        """
        if self._field.n_offsets > 1:
            raise OptionError(
                f"{self._field.name!r} has lists in lists; .compute() gives all of it, as an awkward array"
            )
        name = f"{self._field.name}-values"
        if self._stored and self._graph is None:
            edges = item_edges(self._rows, self._field.name, self._chunk_rows)
            lengths = [n for n in np.diff(edges).tolist() if n] or [0]
            return to_dask(ValuesArray(self._rows, self._field.name, self._chunk_rows), lengths, name)
        return items_array(self._frame, self._source, self._item_counts, name)

    @once
    def _item_counts(self) -> tuple[int, ...]:
        """Items of each chunk."""
        stored = with_counts_of(self._source).node
        if isinstance(stored, Stored):
            return tuple(np.diff(item_edges(stored.rows, stored.name, self._chunk_rows)).tolist())
        sums = self.counts.map_blocks(_sum_of_chunk, chunks=((1,) * self.n_chunks,), dtype="i8", meta=np.empty(0, "i8"))
        return tuple(sums.compute().tolist())

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
        stored = with_counts_of(self._source).node
        if not isinstance(stored, Stored):
            raise OptionError(f"{self._field.name!r} is computed from dask arrays; the shapes are those of its field")
        return to_dask(ShapesArray(stored.rows, stored.name), self.chunks[0], f"{self._field.name}-shapes")

    @property
    def valid(self) -> Any:
        """Which rows are not missing: a lazy dask array bool ``(rows,)``; reads validity only."""
        name = f"{self._field.name}-valid"
        if self._stored:
            return to_dask(ValidArray(self._rows, self._field.name), self.chunks[0], name)
        return dense_array(self._frame, Recipe.made(Valid(), Field.dense(self._field.name, "?"), self._source), name)

    def _step(self, step: Any, field: Field, *others: Recipe) -> Any:
        return Ragged._of(self._frame, Recipe.made(step, field, self._source, *others))

    # Item by item ---------------------------------------------------------------------------------------------------

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        given = [name for name, value in kwargs.items() if value is not None]
        if method != "__call__" or given or ufunc.nout != 1 or ufunc.signature is not None:
            what = f"numpy.{ufunc.__name__}" + (f".{method}" if method != "__call__" else "")
            what += f" with {given[0]}=" if given else ""
            raise OptionError(
                f"{what} is not for ragged fields, which have ufuncs of one result item by item, and .sum() and others "
                "row by row; .map(f) calls f with awkward arrays"
            )
        if any(isinstance(x, Ragged) and x._field.kind == "string" for x in inputs):
            return Ragged._of(self._frame, compared_text(ufunc, inputs))
        return self._elementwise(ufunc, inputs)

    def _elementwise(self, function: Callable[..., Any], inputs: Sequence[Any]) -> Any:
        ragged = [x for x in inputs if isinstance(x, Ragged)]
        texts = [repr(x._field.name) for x in ragged if x._field.kind == "string"]
        if texts:
            raise OptionError(
                f"{function.__name__} of {' and '.join(texts)}: text is compared by == and != with text in quotes; "
                ".map(f) calls f with awkward arrays of it"
            )
        first = ragged[0]
        operands, recipes = [], []
        for x in inputs:
            operand, recipe = operand_of(x, first._frame, x._source if isinstance(x, Ragged) else None)
            operands.append(operand)
            recipes += [recipe] if recipe is not None else []
        step = Elementwise.of(function, operands)
        return Ragged._of(first._frame, Recipe.made(step, step.field, *recipes))

    def __array_function__(self, function: Any, types: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if function not in FUNCTIONS:
            raise OptionError(
                f"numpy.{function.__name__} is not for ragged fields: .sum() and others are one value per row, .values "
                "is a dask array of all items, .compute() an awkward array"
            )
        try:
            inputs = FUNCTIONS[function](*args, **kwargs)
        except TypeError as error:
            what = str(error).removeprefix("<lambda>() ")
            raise OptionError(f"numpy.{function.__name__} of ragged fields: {what}") from None
        return self._elementwise(function, inputs)

    def astype(self, dtype: npt.DTypeLike) -> Ragged:
        """The same items in another dtype, as numpy has them. Lazy."""
        found: Ragged = self._elementwise(astype, (self, Constant(np.dtype(dtype))))
        return found

    def __contains__(self, _: object) -> NoReturn:
        raise OptionError(f"what is in the rows of {self._field.name!r} is said by (x == 3).any(), row by row")

    def map(self, function: Callable[..., Any], *others: Any) -> Any:
        """Call a function with the awkward array of each chunk. Lazy.

        It is called with no rows first, to find out what it gives.

        Parameters
        ----------
        function : callable
            From an awkward array, and one for each of the others, to one entry for each row: an awkward or a numpy
            array. Of rows it may be given any run, so what it gives for a row depends on that row alone. The arrays may
            be read-only.
        *others : Ragged, Records or dask array
            With as many rows. Of a dask array the function gets its chunk.

        Returns
        -------
        Ragged, dask.array.Array or Records
            Lists and text are a `Ragged`, one number or an array of one shape per row a dask array, others `Records`.

        Raises
        ------
        OptionError
            When the function does not give one entry for each row (when it is computed), or others do not fit.

        Examples
        --------
        >>> import awkward as ak
        >>> import mmdask as mm
        >>> ds = mm.from_arrays({"hits": [[3, 1, 2], [], [5]]}, "sorted.mm")
        >>> ds["hits"].map(ak.sort).to_list()
        [[1, 2, 3], [], [5]]
        >>> ds["hits"].map(lambda hits: ak.sum(hits ** 2, axis=1)).compute()
        array([14,  0, 25])
        """
        from mmdask.dataset.lists.records import mapped

        return mapped(self, function, others)

    def pad(self, n: int | tuple[int, ...], value: Any = 0, *, mask: bool = False) -> Any:
        """All rows cut or filled at their ends to one length: a lazy dask array ``(rows, n, *shape)``.

        Parameters
        ----------
        n : int, or tuple of int
            Items of every row; of a shaped field the length of each axis, as ``(64, 64)``.
        value : number
            What is put where there is no item, or a missing one.
        mask : bool
            Whether there is a mask, too.

        Returns
        -------
        dask.array.Array, or a tuple of two
            The values; with ``mask=True`` also where there is a real item, bool ``(rows, n)``.

        Raises
        ------
        OptionError
            For text and lists in lists, and a value that does not fit the dtype.

        Examples
        --------
        >>> import mmdask as mm
        >>> ds = mm.from_arrays({"hits": [[3, 1, 2], [], [5]]}, "filled.mm")
        >>> ds["hits"].pad(2, -1).compute().tolist()
        [[3, 1], [-1, -1], [5, -1]]
        """
        field = self._field
        step = Pad.of(field, n, value)
        values = self._step(step, Field.dense("pad", field.dtype, (*step.lengths, *field.shape)))
        if not mask:
            return values
        return values, self._step(PadMask(field, step.lengths), Field.dense("mask", "?", step.lengths))

    def crop(self, n: int) -> Ragged:
        """The first `n` items of each row, as ``[:, :n]``. Lazy."""
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 0:
            raise OptionError(f"crop(n) takes a number of items, 0 or more; got {n!r}")
        found: Ragged = self[:, : int(n)]
        return found

    # Rows and items -------------------------------------------------------------------------------------------------

    def __getitem__(self, index: Any) -> Any:
        """A row at once; or, lazily, a slice of rows, some items of each row, or those that a condition chooses.

        A row of one level is a read-only view of the store, with a mask if an item is missing; of more levels an
        awkward array; of a shaped field a read-only view in its shape; of text a str, or a list of str. None if it is
        missing. Rows that are computed are arrays of their own.

        ``[:, 0]`` and ``[:, -1]`` are one item of each row: a dask array, nan where a row has no such item, masked if
        it is no float or the field is optional; a `Ragged` of lists or text, in which it is missing. ``[:, :3]`` is a
        `Ragged` of some items, ``[:, :, 0]`` goes to the lists in lists. ``[mask]`` takes a `Ragged` of booleans with
        equal counts; where it is missing for an item, the list of that item is missing.
        """
        if isinstance(index, int | np.integer) and not isinstance(index, bool):
            return self._row(int(index))
        if isinstance(index, slice):
            return self._sliced(index)
        if isinstance(index, Ragged):
            return self._chosen(index)
        if isinstance(index, tuple) and index:
            first, *inner = index
            found = self[first]
            if not isinstance(found, Ragged):
                return found[tuple(inner)] if inner else found
            return found._items(inner)
        hint = "; rows are selected by ds[ds.cut('met > 30')]" if hasattr(index, "dtype") else ""
        raise OptionError(
            f"{self._field.name!r} takes a row number, a slice of rows, items as [:, 0] or [:, :3], or a ragged field "
            f"of booleans; got {type(index).__name__}{hint}; other selections work on .compute()"
        )

    def _items(self, inner: list[Any]) -> Any:
        found: Any = self
        level = 0
        for item in inner:
            if not isinstance(found, Ragged):
                raise OptionError(f"[...] has more indices than {self._field.name!r} has levels of lists")
            if isinstance(item, slice):
                step, made = Items.of(found._field, level, item)
                found = found if step.everything else found._step(step, made)
                level += 1
            elif isinstance(item, int | np.integer) and not isinstance(item, bool):
                found = found._step(*Item.of(found._field, level, int(item)))
            else:
                raise OptionError(
                    f"items are taken by numbers and slices, as [:, 0] and [:, :3], got {type(item).__name__}; a "
                    "ragged field of booleans chooses items by [mask]"
                )
        return found

    def _chosen(self, mask: Ragged) -> Ragged:
        _, chosen_by = operand_of(mask, self._frame, mask._source)
        assert chosen_by is not None
        step, made = Choose.of(self._field, mask._field)
        found: Ragged = self._step(step, made, chosen_by)
        return found

    def _row(self, index: int) -> Any:
        field, name = self._field, self._field.name
        number = self._rows.number(index)
        if not self._stored or self._graph is not None:
            i = index if index >= 0 else index + len(self)
            return next(iter(self[i : i + 1]))
        if field.n_offsets > 1 or 1 in field.optional or name in self._rows.derived:
            return row(field, self._rows.read_row(name, number))
        items = self._pick(number)
        return items if field.kind != "string" or items is None else decode(items.tobytes())

    @once
    def _pick(self) -> Picker:
        return Picker(self._rows.snapshot, self._field.name)

    def __iter__(self) -> Iterator[Any]:
        for data in self._pieces():
            yield from rows_of(self._field, data)

    def to_awkward(self) -> Any:
        """The awkward array, at once: the same as ``compute()``."""
        return self.compute()

    def to_list(self) -> list[Any]:
        """Rows as Python lists, or text as str, at once; None where something is missing."""
        result: list[Any] = self.compute().to_list()
        return result

    def __getattr__(self, name: str) -> Any:
        return no_attribute(self, name, hints=RAGGED)

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise OptionError(
            f"rows of {self._field.name!r} differ in length; .compute() gives an awkward array, .values its items"
        )

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


def _sum_of_chunk(counts: Any) -> Any:
    return np.array([np.ma.filled(counts, 0).sum()], np.int64)
