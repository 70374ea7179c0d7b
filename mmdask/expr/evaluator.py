"""Run typed trees over a block of rows, in numpy.

The trees are flattened to a list of steps in which equal subtrees appear once; a value is dropped after its last use.
Booleans are False where they are missing: so a cut's values are its answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.errors import ExpressionError, SchemaError
from mmdask.expr import elementwise, reductions, text
from mmdask.expr.expression import Expression
from mmdask.expr.packed import OPERATIONS, Packed, all_set, packed, unpacked
from mmdask.expr.typed import Typed
from mmdask.expr.values import SCRATCH, Bits, Block, Bools, Offsets, Value, emptied
from mmdask.schema import FieldData

__all__ = ["Result", "evaluate", "evaluate_bits", "evaluate_cut", "evaluate_many", "evaluate_three_valued"]

Read = Callable[[str], FieldData]


@dataclass(frozen=True)
class Result:
    """The values of an expression over a block of rows.

    Parameters
    ----------
    values : numpy.ndarray
        ``(rows,)``, or ``(items,)`` for depths from 1 on; 0 or False where there is no value. May be read-only.
    offsets : tuple of numpy.ndarray
        int64, one for each level, outermost first, as those of a `FieldData`.
    known : numpy.ndarray or None
        Where there is a value, bool of the shape of `values`; None if everywhere.
    there : tuple of (numpy.ndarray or None)
        For each level, which of its lists there are at all; None for all. Others have no items.
    """

    values: npt.NDArray[Any]
    offsets: tuple[Offsets, ...] = ()
    known: Bools | None = None
    there: tuple[Bools | None, ...] = ()

    @property
    def valid(self) -> tuple[Bools | None, ...]:
        """Which values are not missing, for each depth, as that of a `FieldData`."""
        valid = (*self.there, self.known)
        return valid if any(v is not None for v in valid) else ()


@dataclass(frozen=True)
class _Step:
    node: Typed
    args: tuple[int, ...]
    last_used: tuple[int, ...]  # values that nothing needs after this step


def evaluate(expression: Expression, read: Read, rows: int, *, first_row: int = 0) -> Result:
    """Evaluate an expression over a block of rows. Eager; thread-safe; never writes into what `read` returns.

    Parameters
    ----------
    expression : Expression
        From `check`.
    read : callable
        From a field name to its `FieldData` of exactly `rows` rows; called once for each field.
    rows : int
        Rows of the block; about 2**18 keep the temporaries in cache.
    first_row : int, optional
        The number of the block's first row, for messages.

    Returns
    -------
    Result

    Raises
    ------
    ExpressionError
        If two ragged fields that meet have different numbers of items in a row, or if an integer does not fit 64 bits.
    SchemaError
        If a field is not what the expression was checked against.

    Examples
    --------
    >>> from mmdask.expr.expression import check
    >>> from mmdask.schema import Field, Schema
    >>> pt = FieldData(np.float32([50, 20, 30]), (np.array([0, 2, 2, 3]),))
    >>> result = evaluate(check("max(pt)", Schema([Field.ragged("pt", "f4")])), {"pt": pt}.get, 3)
    >>> result.values, result.known
    (array([50.,  0., 30.], dtype=float32), array([ True, False,  True]))
    """
    return evaluate_many((expression,), read, rows, first_row=first_row)[0]


def evaluate_cut(expression: Expression, read: Read, rows: int, *, first_row: int = 0) -> Bools:
    """Evaluate a cut: a new bool array ``(rows,)``, False where it is missing. Otherwise as `evaluate`."""
    [bits] = evaluate_bits((expression,), read, rows, first_row=first_row)
    return np.unpackbits(bits, count=rows, bitorder="little").view(np.bool_)


def evaluate_bits(expressions: Sequence[Expression], read: Read, rows: int, *, first_row: int = 0) -> list[Bits]:
    """Evaluate several cuts, each field read once, equal subtrees computed once.

    Returns
    -------
    list of numpy.ndarray
        For each cut its bits in little bit order, uint8 ``(ceil(rows / 8),)``, 0 where it is missing. Packed while the
        booleans are in cache, so that none of them is ever written to memory.
    """
    pairs = _bits(expressions, read, rows, first_row, known=False)
    return [true for true, _ in pairs]


def evaluate_three_valued(
    expressions: Sequence[Expression], read: Read, rows: int, *, first_row: int = 0
) -> list[tuple[Bits, Bits | None]]:
    """Evaluate several cuts as `evaluate_bits` does, and where each has a value.

    Returns
    -------
    list of (numpy.ndarray, numpy.ndarray or None)
        For each cut the bits of the rows where it is true, as those of `evaluate_bits`, and of those where it is true
        or false, not missing; None if it is missing in no row of the block.
    """
    return _bits(expressions, read, rows, first_row, known=True)


def _bits(
    expressions: Sequence[Expression], read: Read, rows: int, first_row: int, *, known: bool
) -> list[tuple[Bits, Bits | None]]:
    for expression in expressions:
        if expression.depth or expression.dtype != np.bool_:
            raise ExpressionError(f"this is no cut, it has no boolean per row: {expression.text}")
    found: list[tuple[Bits, Bits | None]] = []
    for value in _run(tuple(expressions), Block(read, rows, first_row)):
        x = packed(value, rows)
        missing = known and x.known is not None and not np.array_equal(x.known, all_set(rows))
        found.append((x.bits, x.known if missing else None))
    return found


def evaluate_many(
    expressions: Sequence[Expression], read: Read, rows: int, *, first_row: int = 0
) -> tuple[Result, ...]:
    """Evaluate several expressions over a block, each field read once, equal subtrees computed once."""
    values = _run(tuple(expressions), Block(read, rows, first_row))
    return tuple(_result(unpacked(value), rows) for value in values)


def _run(expressions: tuple[Expression, ...], block: Block) -> list[Value | Packed]:
    steps, results = _program(expressions)
    values: list[Any] = []
    with np.errstate(all="ignore"):
        for step in steps:
            args = [values[i] for i in step.args]
            values.append(_OPERATIONS[step.node.op](block, step.node, args))
            for i in step.last_used:
                if isinstance(values[i], Value) and values[i].scratch:
                    SCRATCH.give(values[i].array)
                values[i] = None
    return [values[i] for i in results]


def _of_bytes(operation: Callable[[Block, Typed, list[Value]], Value]) -> Callable[[Block, Typed, list[Any]], Value]:
    """An operation that takes booleans of a byte each."""

    def run(block: Block, node: Typed, args: list[Any]) -> Value:
        return operation(block, node, [unpacked(x) for x in args])

    return run


@lru_cache(maxsize=256)
def _program(expressions: tuple[Expression, ...]) -> tuple[tuple[_Step, ...], tuple[int, ...]]:
    """The steps for some expressions, and which of their values are the results."""
    numbers: dict[Any, int] = {}
    visited: dict[int, int] = {}
    found: list[tuple[Typed, tuple[int, ...]]] = []

    def visit(node: Typed) -> int:
        # trees with derived fields in them share nodes
        if id(node) not in visited:
            visited[id(node)] = visit_args(node)
        return visited[id(node)]

    def visit_args(node: Typed) -> int:
        if node.op not in ("and", "or"):
            return add(node, tuple([visit(a) for a in node.args]))
        # two at a time: few operands live at once, and cuts that begin alike share more
        so_far = visit(node.args[0])
        for a in node.args[1:]:
            so_far = add(node, (so_far, visit(a)))
        return so_far

    def add(node: Typed, args: tuple[int, ...]) -> int:
        key = (node.op, args, node.kind, node.dtype, repr(node.value))
        if key not in numbers:
            numbers[key] = len(found)
            found.append((node, args))
        return numbers[key]

    results = tuple([visit(e.typed) for e in expressions])
    last = {i: at for at, (_, args) in enumerate(found) for i in args}
    steps = []
    for at, (node, args) in enumerate(found):
        done = {i for i in args if last[i] == at and i not in results}
        steps.append(_Step(node, args, tuple(sorted(done))))
    return tuple(steps), results


def _result(value: Value, rows: int) -> Result:
    values, known = value.array, value.known
    if not value.offsets and len(values) != rows:
        values = np.broadcast_to(values, rows)
    if known is not None:
        known = np.broadcast_to(known, values.shape)
        values = np.where(known, values, values.dtype.type(0))
    there = value.there or (None,) * len(value.offsets)
    return Result(values, value.offsets, known, there)


def _field(block: Block, node: Typed, args: list[Value]) -> Value:
    name = str(node.value)
    data = block.read(name)
    if len(data) != block.rows:
        raise SchemaError(f"field {name!r}: {len(data)} rows where {block.rows} were asked for")
    if data.values.dtype != node.dtype:
        if data.values.dtype.newbyteorder("=") != node.dtype:
            raise SchemaError(f"field {name!r} is {data.values.dtype}, and the cut was checked for {node.dtype}")
        data = replace(data, values=data.values.astype(node.dtype))
    if node.depth:
        return _items(block, node, data)
    known = _not_all(data.valid_at(0))
    values = data.values
    if node.kind == "text":
        return Value(np.zeros(1, np.int64), (), known, name, data)
    # a constant of the block: one value is enough
    values = values[:1] if len(values) > 1 and values.strides == (0,) and known is None else values
    return Value(_false(node, values, known), (), known, name, data if node.kind == "label" else None)


def _items(block: Block, node: Typed, data: FieldData) -> Value:
    """A field of lists: those that are ragged, and then those of its items, which all have one length."""
    shape = data.values.shape[1:]
    levels = node.depth - len(shape)
    offsets = list(data.offsets[:levels])
    n = data.length(levels)
    for n_items in shape:
        offsets.append(block.regular(n, n_items))
        n *= n_items
    values = np.arange(n) if node.kind == "text" else data.values.reshape(-1)
    known = None if shape else _not_all(data.valid_at(levels))
    there = tuple([_not_all(data.valid_at(level)) for level in range(node.depth)])
    texts = data if node.kind == "text" else None
    x = Value(_false(node, values, known), tuple(offsets), known, str(node.value), texts, there=there)
    if not any(t is not None for t in there):
        return x._replace(there=())
    for level in range(node.depth):
        lists = x.there_at(level)
        if lists is not None:
            x = emptied(x, level, lists)
    return x


def _not_all(valid: Bools | None) -> Bools | None:
    return None if valid is None or valid.all() else valid


def _false(node: Typed, values: npt.NDArray[Any], known: Bools | None) -> npt.NDArray[Any]:
    """Booleans are False where they are missing."""
    return values if known is None or node.kind != "bool" else values & known


def _literal(block: Block, node: Typed, args: list[Value]) -> Value:
    return Value(np.array([node.value], node.dtype))


_OPERATIONS: dict[str, Callable[[Block, Typed, list[Any]], Value | Packed]] = {
    "field": _field,
    "literal": _literal,
    **OPERATIONS,
    **{
        op: _of_bytes(operation)
        for op, operation in {**elementwise.OPERATIONS, **reductions.OPERATIONS, **text.OPERATIONS}.items()
    },
}
