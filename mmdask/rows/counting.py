"""Count the rows of a store that pass cuts: bits from `masks`, weights and groups from fields, sums from `flow`.

Each field is read at most once: cuts that are not kept are computed in one pass, as are all weights. Parts are taken
some at a time, so that memory is bounded whatever the store; within that, bits of all cuts are at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.errors import OptionError
from mmdask.expr import Expression, conjuncts, evaluate, spelled_name
from mmdask.rows.bits import PartBits, and_bits, unpack
from mmdask.rows.blocks import BLOCK_ROWS
from mmdask.rows.flow import Grouped, add, group, tally, zeros
from mmdask.rows.passes import Runner, Task, kept_each, run_serially
from mmdask.rows.reader import read_part
from mmdask.rows.rows import Rows
from mmdask.rows.virtual import Derived, values_of
from mmdask.schema import FieldData, Schema
from mmdask.store.snapshot import Snapshot

__all__ = ["MAX_GROUPS", "check_by", "check_number", "check_weight", "count_passing"]

#: groups of a cut flow; more are a field that was not meant
MAX_GROUPS = 1000
#: what is in memory at once: bytes of bits, and rows, of which each block has a tally
_BITS_NBYTES = 256 << 20
_ROWS = 1 << 28

Bools = npt.NDArray[np.bool_]


def check_weight(text: str, rows: Rows) -> Expression:
    """The expression of a weight: the name of a field, or an expression with one number per row.

    Raises
    ------
    ExpressionError
        When it cannot be read.
    OptionError
        When it has one value per item, or a boolean.
    """
    if not isinstance(text, str):
        raise OptionError(f"a weight is a field name or an expression, as text; got {type(text).__name__}")
    return check_number(text, rows.check(spelled_name(text) if text in rows.schema else text))


def check_number(text: str, expression: Expression) -> Expression:
    """The expression of a weight, if it has one number per row; else raise `OptionError`."""
    if expression.depth:
        raise OptionError(f"weight={text!r} has one value per item, and rows are weighted; write sum({text}), say")
    if expression.dtype.kind not in "iuf":
        raise OptionError(f"weight={text!r} is a boolean, and a weight is a number; write where({text}, 1, 0)")
    return expression


def check_by(name: str, schema: Schema) -> None:
    """Raise unless rows can be split into groups by this field: a category, booleans or integers, one per row.

    Raises
    ------
    FieldNotFoundError, OptionError
        When there is no such field, or it is of another kind.
    """
    field = schema[name]
    if field.kind != "category" and not (field.kind == "dense" and not field.shape and field.dtype.kind in "biu"):
        raise OptionError(
            f"by={name!r} is {field.describe()}; a cut flow is split by a category, or by booleans or integers"
        )


def count_passing(
    rows: Rows,
    cuts: Sequence[Expression],
    *,
    weight: Expression | None = None,
    by: str | None = None,
    run: Runner = run_serially,
) -> Grouped:
    """Count the rows that pass each cut alone, all up to it, and all but it.

    Parameters
    ----------
    rows : Rows
        Which rows.
    cuts : sequence of Expression
        Their conjuncts are kept, as those of any cut.
    weight : Expression, optional
        From `check_weight`. A nan makes the sums nan that its row is in.
    by : str, optional
        From `check_by`. Rows in which it is missing are the group None.
    run : callable
        Runs the tasks. Sums are the same whatever it does, for they are added in the order of the rows.

    Returns
    -------
    Grouped
        One group without `by`; codes of the store's labels for a category.

    Raises
    ------
    OptionError
        When a weight is missing in one of the rows, or `by` has more than 1,000 values.
    """
    snapshot, selected = rows.snapshot, rows.resolve(run).parts
    groups = None if by is None else rows.derived.get(by, by)
    leaves = list(dict.fromkeys(leaf for cut in cuts for leaf in conjuncts(cut)))
    total = Grouped(() if by else (0,), zeros(len(cuts), 0 if by else 1, weighted=weight is not None))

    def add_block(total: Grouped, counted: Grouped | _Missing) -> Grouped:
        if isinstance(counted, _Missing):
            raise _missing_weight(snapshot, weight, counted.row)
        total = add(total, counted)
        if len(total.groups) > MAX_GROUPS:
            raise _too_many(by)
        return total

    for parts in _some_at_a_time(snapshot, selected, len(leaves) + len(cuts)):
        each = dict(zip(leaves, kept_each(snapshot, leaves, run, parts), strict=True))
        blocks: list[_BlockBits] = []
        for i, part in enumerate(parts):
            bits = [_all_of([each[leaf][i] for leaf in conjuncts(cut)]) for cut in cuts]
            blocks += _blocks(snapshot, part, bits, selected[part])
        tasks: list[Task] = [(_count_blocks, (some, weight, groups)) for some in _together(blocks)]
        total = _in_order(run, tasks, total, add_block)
        del each, blocks, tasks  # these bits are gone before those of the next parts come
    return total


def _some_at_a_time(snapshot: Snapshot, selected: Sequence[PartBits], n_bits: int) -> Iterator[list[int]]:
    """The parts in which rows are selected, in runs of which the bits fit into memory."""
    parts: list[int] = []
    rows = 0
    for part, bits in enumerate(selected):
        if bits is False:
            continue
        more = snapshot.parts[part].rows
        if parts and (rows + more > _ROWS or (rows + more) // 8 * n_bits > _BITS_NBYTES):
            yield parts
            parts, rows = [], 0
        parts.append(part)
        rows += more
    if parts:
        yield parts


def _all_of(bits: Sequence[PartBits]) -> PartBits:
    passing: PartBits = True
    for leaf in bits:
        passing = and_bits(passing, leaf)
    return passing


def _blocks(snapshot: Snapshot, part: int, cuts: Sequence[PartBits], selected: PartBits) -> Iterator[_BlockBits]:
    rows = snapshot.parts[part].rows
    for a in range(0, rows, BLOCK_ROWS):
        b = min(a + BLOCK_ROWS, rows)
        inside = _of_block(selected, a, b)
        if isinstance(inside, bool) or inside.any():
            yield _Block(snapshot, part, a, b), [_of_block(bits, a, b) for bits in cuts], inside


def _together(blocks: Sequence[_BlockBits]) -> Iterator[list[_BlockBits]]:
    """Blocks one after the other, as many together as have the rows of one: those of small parts are many."""
    some: list[_BlockBits] = []
    rows = 0
    for block in blocks:
        if some and rows + len(block[0]) > BLOCK_ROWS:
            yield some
            some, rows = [], 0
        some.append(block)
        rows += len(block[0])
    if some:
        yield some


def _of_block(bits: PartBits, start: int, stop: int) -> PartBits:
    return bits if isinstance(bits, bool) else bits[start // 8 : -(-stop // 8)]


def _in_order(run: Runner, tasks: Sequence[Task], total: Grouped, add_to: Callable[[Grouped, Any], Grouped]) -> Grouped:
    """Add the results of tasks in the order of the tasks, each as soon as it and those before it are there."""
    waiting: dict[int, Any] = {}
    n_added = 0

    def done(number: int, result: Any) -> None:
        nonlocal total, n_added
        waiting[number] = result
        while n_added in waiting:
            total = add_to(total, waiting.pop(n_added))
            n_added += 1

    if tasks:
        run(tasks, done)
    return total


@dataclass(frozen=True)
class _Missing:
    """A row has no weight; a value, so that the first such row is named, whichever is found first."""

    row: int


@dataclass(frozen=True)
class _Block:
    """Rows of one part."""

    snapshot: Snapshot
    part: int
    start: int
    stop: int

    @property
    def first_row(self) -> int:
        return int(self.snapshot.starts[self.part]) + self.start

    def __len__(self) -> int:
        return self.stop - self.start

    def read(self, name: str) -> FieldData:
        return read_part(self.snapshot, self.part, name, self.start, self.stop)

    def values(self, by: str | Derived) -> FieldData:
        return self.read(by) if isinstance(by, str) else values_of(by, self.read, len(self), first_row=self.first_row)


#: a block, the bits of the cuts there, and those of the rows that take part
_BlockBits = tuple[_Block, list[PartBits], PartBits]


def _count_blocks(
    blocks: Sequence[_BlockBits], weight: Expression | None, by: str | Derived | None
) -> Grouped | _Missing:
    total: Grouped | None = None
    for block, cuts, selected in blocks:
        counted = _count_block(block, cuts, selected, weight, by)
        if isinstance(counted, _Missing):
            return counted
        total = counted if total is None else add(total, counted)
    assert total is not None
    return total


def _count_block(
    block: _Block,
    cuts: Sequence[PartBits],
    selected: PartBits,
    weight: Expression | None,
    by: str | Derived | None,
) -> Grouped | _Missing:
    inside = None if isinstance(selected, bool) else unpack(selected, 0, len(block))
    weights = None
    if weight is not None:
        result = evaluate(weight, block.read, len(block), first_row=block.first_row)
        if result.known is not None:
            missing = ~result.known if inside is None else ~result.known & inside
            if missing.any():
                return _Missing(block.first_row + int(missing.argmax()))
        weights = result.values.astype(np.float64, copy=False)
    if by is None:
        return Grouped((0,), tally(cuts, selected, len(block), weights=weights))
    groups, codes = _groups(block.values(by), inside)
    if len(groups) > MAX_GROUPS:
        raise _too_many(by if isinstance(by, str) else by.field.name)
    counted = tally(cuts, selected, len(block), weights=weights, groups=codes, n_groups=len(groups))
    return Grouped(tuple(groups), counted)


def _groups(data: FieldData, inside: Bools | None) -> tuple[list[int | None], npt.NDArray[np.int64]]:
    """The values of a field in some rows, and which of them each row has."""
    valid = data.valid_at(0)
    if valid is None:
        found, codes = group(data.values, inside)
        return [*found], codes
    there = valid if inside is None else valid & inside
    found, codes = group(data.values, there)
    lacking = ~valid if inside is None else ~valid & inside
    if not lacking.any():
        return [*found], codes
    codes[lacking] = len(found)
    return [*found, None], codes


def _missing_weight(snapshot: Snapshot, weight: Expression | None, row: int) -> OptionError:
    text = weight.text.strip() if weight else ""
    return OptionError(
        f"weight={text!r} is missing in row {row} of {snapshot.path}; say what stands for it, as in "
        f"where(ismissing({text}), 1, {text}), or count only the rows that have it: "
        f"ds[ds.cut({f'not ismissing({text})'!r})].cutflow(...)"
    )


def _too_many(by: str | None) -> OptionError:
    return OptionError(
        f"by={by!r} has more than {MAX_GROUPS:,} different values; a cut flow is split by a field that has few"
    )
