"""How the chunks of a lazy collection are made: a few steps on fields that are read, all in one task for each chunk.

A `Recipe` names its steps by tokens, so that steps which several results share are done once. What it reads are fields
of stores, by reference, chunks of dask arrays, and chunks that are already computed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mmdask.dataset.layouts import masked, several
from mmdask.dataset.lazy import LazyArray, row_chunks, row_edges, to_dask
from mmdask.errors import OptionError
from mmdask.kernels.once import once
from mmdask.rows.blocks import BLOCK_ROWS
from mmdask.rows.rows import Rows
from mmdask.schema import Field, FieldData
from mmdask.schema import empty as empty_data

__all__ = [
    "Frame",
    "Held",
    "Lazy",
    "Made",
    "Op",
    "Recipe",
    "Stored",
    "chunk_array",
    "dense_array",
    "in_chunks",
    "items_array",
]


class Op(Protocol):
    """One step: from runs of rows of its arguments to the same rows of its result; chunk by chunk, row by row."""

    def __call__(self, first_row: int, n: int, *args: Any) -> Any: ...


@dataclass(frozen=True)
class Frame:
    """The rows of a collection, and where its chunks end."""

    rows: Rows
    chunk_rows: int

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def edges(self) -> npt.NDArray[np.int64]:
        return row_edges(self.rows, self.chunk_rows)

    @property
    def chunks(self) -> tuple[int, ...]:
        return row_chunks(self.rows, self.chunk_rows)

    def sliced(self, rows: slice) -> Frame:
        return Frame(self.rows.sliced(rows), self.chunk_rows)


@dataclass(frozen=True)
class Stored:
    """A field that is read."""

    rows: Rows
    name: str

    @property
    def field(self) -> Field:
        return self.rows.schema[self.name]

    @once
    def token(self) -> str:
        from dask.base import tokenize

        return str(tokenize("Stored", self.rows.key, self.rows.token(self.name)))


@dataclass(frozen=True)
class Lazy:
    """A dask array in the chunks of the frame; `single` if it is one number."""

    array: Any
    field: Field
    single: bool = False

    @property
    def token(self) -> str:
        return str(self.array.name)


@dataclass(frozen=True)
class Held:
    """Chunks that are computed already, or rows of them: keys ``(name, i)`` of a graph; `lengths` are their rows.

    `nothing` is what there is of no rows, where that is not said by a field.
    """

    graph: Mapping[Any, Any]
    name: str
    lengths: tuple[int, ...]
    field: Field | None
    nothing: Any = None

    @property
    def token(self) -> str:
        return self.name

    def sliced(self, rows: slice, frame: Frame) -> Held:
        """Some of the rows, which a frame has in its chunks, each of which lies in one of these."""
        from dask.base import tokenize

        span = range(sum(self.lengths))[rows]
        edges = np.concatenate([[0], np.cumsum(self.lengths)])
        name = f"rows-{tokenize(self.name, span.start, span.stop, span.step, frame.chunk_rows)}"
        graph: dict[Any, Any] = {}
        for i, (a, b) in enumerate(itertools.pairwise(frame.edges.tolist())):
            inside = span[a:b]
            if not len(inside):
                graph[name, i] = (partial(_rows_of_chunk, rows=slice(0, 0, 1)), (self.name, 0))
                graph[self.name, 0] = self.graph[self.name, 0]
                continue
            chunk = int(np.searchsorted(edges, inside.start, side="right")) - 1
            first = int(edges[chunk])
            wanted = slice(inside.start - first, inside[-1] - first + 1, inside.step)
            graph[name, i] = (partial(_rows_of_chunk, rows=wanted), (self.name, chunk))
            graph |= _with_needed(self.graph, (self.name, chunk))
        return Held(graph, name, frame.chunks, self.field, self.nothing)

    def as_array(self) -> Any:
        """A dask array that has a chunk, as it is, for each of the chunks."""
        import dask.array as da
        from dask.delayed import Delayed

        keys = [(self.name, i) for i in range(len(self.lengths))]
        meta = np.empty((0,), object)
        pieces = [
            da.from_delayed(Delayed(key, _with_needed(self.graph, key)), (n,), meta=meta)
            for key, n in zip(keys, self.lengths, strict=True)
        ]
        return pieces[0] if len(pieces) == 1 else da.concatenate(pieces)


def _with_needed(graph: Mapping[Any, Any], key: Any) -> dict[Any, Any]:
    """The task of a key, and those that it needs."""
    found: dict[Any, Any] = {}
    wanted = [key]
    while wanted:
        key = wanted.pop()
        found[key] = task = graph[key]
        if isinstance(task, tuple):
            wanted += [arg for arg in task[1:] if isinstance(arg, tuple) and arg in graph]
    return found


def _rows_of_chunk(chunk: Any, rows: slice) -> Any:
    if not isinstance(chunk, FieldData):
        return chunk[rows]
    if rows.step in (None, 1):
        return chunk[rows]
    from mmdask.dataset.lists.items import taken_rows

    return taken_rows(chunk, np.arange(*rows.indices(len(chunk))))


@dataclass(frozen=True)
class Made:
    """What a step makes of others, which are named by their tokens. A result without `field` is an awkward array."""

    op: Any
    args: tuple[str, ...]
    field: Field | None

    @once
    def token(self) -> str:
        from dask.base import tokenize

        return str(tokenize("Made", type(self.op).__name__, self.op, np.array(self.args)))


Node = Stored | Lazy | Held | Made


@dataclass(frozen=True)
class _Input:
    """The place of a chunk among the arguments of a task; of entries of several numbers one for each of these."""

    first: int
    field: Field | None
    single: bool
    whole: bool

    def value(self, inputs: Sequence[Any], n: int) -> Any:
        if self.whole:
            return inputs[self.first]
        if self.single:
            return np.asarray(inputs[self.first])[()]
        assert self.field is not None
        shape = self.field.shape
        blocks = [np.asanyarray(b) for b in inputs[self.first : self.first + math.prod(shape)]]
        for block in blocks:
            if block.shape != (n,):
                raise OptionError(f"a chunk of a dask array has {block.shape}, and there are {n:,} rows in it")
        stack: Any = np.ma.stack if any(isinstance(b, np.ma.MaskedArray) for b in blocks) else np.stack
        block = stack(blocks, axis=1).reshape(n, *shape) if shape and blocks else blocks[0] if blocks else None
        if block is None:
            return FieldData(np.empty((n, *shape), self.field.dtype))
        if not isinstance(block, np.ma.MaskedArray):
            return FieldData(block)
        mask: npt.NDArray[np.bool_] = np.ma.getmaskarray(block).reshape(n, -1 if n else 1)
        gone: npt.NDArray[np.bool_] = np.asarray(mask.any(axis=1))
        if gone.any() and not self.field.optional:
            raise OptionError("a chunk of a dask array is masked, and its meta is not; give map_blocks a masked meta=")
        return FieldData(np.asarray(block.data), valid=(~gone,))


@dataclass(frozen=True)
class Program:
    """A recipe as tasks carry it: steps in their order, and which of them are dropped after each."""

    steps: tuple[tuple[str, Any], ...]
    last: Mapping[str, tuple[str, ...]]

    def __call__(self, start: int, stop: int, inputs: Sequence[Any]) -> Any:
        """What the last step makes of rows `start` to `stop`."""
        n = stop - start
        values: dict[str, Any] = {}
        for token, step in self.steps:
            if isinstance(step, Stored):
                values[token] = step.rows.read(step.name, start, stop)
            elif isinstance(step, _Input):
                values[token] = step.value(inputs, n)
            else:
                values[token] = step.op(start, n, *[values[arg] for arg in step.args])
            for used in self.last[token]:
                del values[used]
        return values[self.steps[-1][0]]


@dataclass(frozen=True)
class Recipe:
    """Steps by token, each behind those that it needs; the result is that of one of them."""

    nodes: Mapping[str, Node]
    result: str

    @classmethod
    def of(cls, node: Node, *args: Recipe) -> Recipe:
        """A step on the results of others."""
        nodes = {token: n for arg in args for token, n in arg.nodes.items()}
        return cls(nodes | {node.token: node}, node.token)

    @classmethod
    def made(cls, op: Op, field: Field | None, *args: Recipe) -> Recipe:
        """The result of a step."""
        return cls.of(Made(op, tuple(arg.result for arg in args), field), *args)

    @property
    def node(self) -> Node:
        return self.nodes[self.result]

    @property
    def field(self) -> Field | None:
        return self.node.field

    def __reduce__(self) -> tuple[Any, ...]:
        return Recipe, (self.nodes, self.result)

    def at(self, token: str) -> Recipe:
        """The same steps up to another result."""
        needed = {token}
        for name, node in reversed(list(self.nodes.items())):
            if name in needed and isinstance(node, Made):
                needed |= set(node.args)
        return Recipe({name: node for name, node in self.nodes.items() if name in needed}, token)

    def sliced(self, rows: slice, frame: Frame) -> Recipe:
        """The same for some of the rows, which are those of `frame`."""
        tokens: dict[str, str] = {}
        nodes: dict[str, Node] = {}
        for token, node in self.nodes.items():
            new: Node
            match node:
                case Stored():
                    new = Stored(node.rows.sliced(rows), node.name)
                case Lazy():
                    new = node if node.single else Lazy(in_chunks(node.array[rows], frame.chunks), node.field)
                case Held():
                    new = node.sliced(rows, frame)
                case Made():
                    new = Made(node.op, tuple(tokens[arg] for arg in node.args), node.field)
            tokens[token] = new.token
            nodes[new.token] = new
        return Recipe(nodes, tokens[self.result])

    @once
    def inputs(self) -> list[Any]:
        """The dask arrays whose chunks tasks are given."""
        found: list[Any] = []
        for node in self.nodes.values():
            if isinstance(node, Held):
                found.append(node.as_array())
            elif isinstance(node, Lazy):
                found += _columns(node.array)
        return found

    @once
    def program(self) -> Program:
        """What tasks carry."""
        steps: list[tuple[str, Any]] = []
        n = 0
        for token, node in self.nodes.items():
            if isinstance(node, Held | Lazy):
                single = isinstance(node, Lazy) and node.single
                steps.append((token, _Input(n, node.field, single, isinstance(node, Held))))
                n += 1 if single or node.field is None or isinstance(node, Held) else math.prod(node.field.shape)
            else:
                steps.append((token, node))
        last: dict[str, list[str]] = {token: [] for token, _ in steps}
        seen = {self.result}
        for token, step in reversed(steps):
            args = set(step.args) if isinstance(step, Made) else set()
            last[token] = sorted(args - seen)
            seen |= args
        return Program(tuple(steps), {token: tuple(args) for token, args in last.items()})

    def empty(self) -> Any:
        """The result for no rows."""
        values: list[Any] = []
        for node in self.nodes.values():
            if isinstance(node, Held):
                values.append(node.nothing if node.field is None else empty_data(node.field))
            elif isinstance(node, Lazy):
                none = _no_rows(node.field)
                values += [np.zeros((), node.field.dtype)] if node.single else [none] * math.prod(node.field.shape)
        stored = {t: empty_data(n.field) for t, n in self.nodes.items() if isinstance(n, Stored)}
        steps = tuple((t, _Given(stored[t]) if t in stored else s) for t, s in self.program.steps)
        return Program(steps, self.program.last)(0, 0, values)


def _no_rows(field: Field) -> npt.NDArray[Any]:
    values = np.empty(0, field.dtype)
    return masked(values, None) if field.optional else values


def _columns(array: Any) -> list[Any]:
    """A dask array as arrays of one number per row: of such the chunks of several go into one task as they are."""
    if array.ndim < 2:
        return [array]
    return [array[(slice(None), *place)] for place in np.ndindex(*array.shape[1:])]


@dataclass(frozen=True)
class _Given:
    """Data in the place of a step."""

    data: FieldData
    args: tuple[str, ...] = ()

    def op(self, first_row: int, n: int) -> FieldData:
        return self.data


def in_chunks(array: Any, chunks: tuple[int, ...]) -> Any:
    """A dask array in these chunks along its first axis, and in one along all others."""
    wanted = (chunks, *((n,) for n in array.shape[1:]))
    return array if array.chunks == wanted else array.rechunk(wanted)


# As dask arrays -----------------------------------------------------------------------------------------------------


class RecipeArray(LazyArray):
    """The result of a recipe that reads nothing but stores: one entry per row."""

    def __init__(self, frame: Frame, recipe: Recipe) -> None:
        field = recipe.field
        assert field is not None
        optional = 0 in field.optional
        super().__init__(frame.rows, (recipe.result,), (len(frame), *field.shape), field.dtype, masked=optional)
        self.field, self.program = field, recipe.program

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        # In blocks, so that what lies between the fields and the result stays in cache.
        n = stop - start
        values, valid = np.empty((n, *self.field.shape), self.dtype), np.ones(n, np.bool_)
        for a, b in self.rows.blocks(n):
            data = self.program(start + a, start + b, ())
            values[a:b] = data.values
            there = data.valid_at(0)
            if there is not None:
                valid[a:b] = there
        return masked(values, valid) if self.masked else values


class _Runs(LazyArray):
    """For each chunk the numbers of its rows, in the place of its entries."""

    def __init__(self, frame: Frame) -> None:
        super().__init__(frame.rows, (), (len(frame),), np.dtype(object))

    def __getitem__(self, index: Any) -> tuple[int, int]:
        rows = index[0] if isinstance(index, tuple) else index
        start, stop, _ = rows.indices(self.shape[0])
        return start, stop


def dense_array(frame: Frame, recipe: Recipe, prefix: str) -> Any:
    """The dask array of a result with one entry per row."""
    field = recipe.field
    assert field is not None
    if not recipe.inputs:
        return to_dask(RecipeArray(frame, recipe), frame.chunks, prefix)
    optional = 0 in field.optional
    empty: Any = np.ma.empty if optional else np.empty
    meta = empty((0,) * (1 + len(field.shape)), field.dtype)
    return _mapped(partial(_dense_chunk, recipe.program, field), frame, recipe, prefix, meta, field.shape)


def chunk_array(frame: Frame, recipe: Recipe, name: str) -> Any:
    """A dask array of a result, a chunk of which is no array but what the recipe makes."""
    return _mapped(partial(_chunk, recipe.program), frame, recipe, name, np.empty((0,), object), (), name=name)


def _mapped(
    function: Any,
    frame: Frame,
    recipe: Recipe,
    prefix: str,
    meta: Any,
    shape: tuple[int, ...],
    *,
    name: str | None = None,
) -> Any:
    import dask.array as da
    from dask.base import tokenize

    name = name or f"{prefix}-{tokenize('Recipe', recipe.result, frame.rows.key, frame.chunk_rows)}"
    runs = to_dask(_Runs(frame), frame.chunks, "rows")
    return da.map_blocks(
        function,
        runs,
        *recipe.inputs,
        name=name,
        dtype=meta.dtype,
        meta=meta,
        chunks=(frame.chunks, *((n,) for n in shape)),
        new_axis=list(range(1, 1 + len(shape))) or None,
    )


def _dense_chunk(program: Program, field: Field, run: tuple[int, int], *inputs: Any) -> Any:
    start, stop = run
    if stop - start <= BLOCK_ROWS or not all(isinstance(x, np.ndarray) for x in inputs):
        return several(field, program(start, stop, inputs))
    # In blocks, so that the items of a chunk are never in memory all at once.
    pieces = []
    for a in range(0, stop - start, BLOCK_ROWS):
        b = min(a + BLOCK_ROWS, stop - start)
        given = [x[a:b] if x.ndim else x for x in inputs]
        pieces.append(several(field, program(start + a, start + b, given)))
    joined: Any = np.ma.concatenate if any(isinstance(x, np.ma.MaskedArray) for x in pieces) else np.concatenate
    return joined(pieces)


def _chunk(program: Program, run: tuple[int, int], *inputs: Any) -> Any:
    return program(*run, inputs)


def items_array(frame: Frame, recipe: Recipe, counts: tuple[int, ...], prefix: str) -> Any:
    """The dask array of all items of a result of one level, with a chunk for each chunk of rows that has some."""
    import dask.array as da
    from dask.base import tokenize

    field = recipe.field
    assert field is not None
    some = [i for i, n in enumerate(counts) if n]
    optional = field.kind == "ragged" and 1 in field.optional
    empty: Any = np.ma.empty if optional else np.empty
    meta = empty((0, *field.shape), field.dtype)
    if not some:
        return da.from_array(meta, chunks=meta.shape, name=f"{prefix}-{tokenize(meta.dtype, meta.shape)}")
    name = f"{prefix}-{tokenize('items', recipe.result, frame.rows.key, frame.chunk_rows)}"
    chunks = chunk_array(frame, recipe, f"{prefix}-chunks-{name.rpartition('-')[2]}")
    if len(some) < len(counts):
        chunks = chunks.blocks[some]
    lengths = (tuple(counts[i] for i in some), *((n,) for n in field.shape))
    new = list(range(1, meta.ndim)) or None
    return da.map_blocks(
        _items_of, chunks, optional, name=name, dtype=field.dtype, meta=meta, chunks=lengths, new_axis=new
    )


def _items_of(data: FieldData, optional: bool) -> Any:
    return masked(data.values, data.valid_at(1)) if optional else data.values
