"""Count the rows of a store that pass cuts: bits from `masks`, weights and groups from fields, sums from `flow`.

Each field is read at most once: cuts that are not kept are computed in one pass, as are all weights. Parts are taken
some at a time, so that memory is bounded whatever the store; within that, bits of all cuts are at hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmdask.errors import ExpressionError, OptionError
from mmdask.expr import Expression, conjuncts, evaluate, spelled_name
from mmdask.rows.bits import PartBits, and_bits, unpack
from mmdask.rows.blocks import BLOCK_ROWS
from mmdask.rows.flow import Grouped, add, group, tally, zeros
from mmdask.rows.passes import Runner, Task, kept_each, run_serially
from mmdask.rows.reducing import Block, Run, add_in_order, bits_between, runs_of_part, together
from mmdask.rows.rows import Rows
from mmdask.rows.virtual import Derived, values_of
from mmdask.schema import Field, FieldData, Schema
from mmdask.store.snapshot import Snapshot

__all__ = ["MAX_GROUPS", "check_by", "check_no_text", "check_number", "check_weight", "count_passing"]

#: groups of a cut flow; more are a field that was not meant
MAX_GROUPS = 1000
#: what is in memory at once: bytes of bits, and rows, of which each block has a tally
_BITS_NBYTES = 256 << 20
_ROWS = 1 << 28

Bools = npt.NDArray[np.bool_]


def check_weight(text: str, rows: Rows, option: str = "weight") -> Expression:
    """The expression of a weight: the name of a field, or an expression with one number per row.

    `option` is what the caller named it.

    Raises
    ------
    ExpressionError
        When it is empty or cannot be read.
    OptionError
        When it is no text, or has one value per item, or a boolean.
    """
    if not isinstance(text, str):
        raise OptionError(
            f"{option}= is a field name or an expression, as text, like 'where(nJets >= 6, 5, 1)'; got "
            f"{type(text).__name__}"
        )
    if not text.strip():
        raise ExpressionError(f"{option}={text!r} is empty; name a field or write an expression, or leave it out")
    return check_number(text, rows.check(spelled_name(text) if text in rows.schema else text), option)


def check_number(text: str, expression: Expression, option: str = "weight") -> Expression:
    """The expression of a weight, if it has one number per row; else raise `OptionError`."""
    if expression.depth:
        raise OptionError(f"{option}={text!r} has one value per item, and rows are weighted; write sum({text}), say")
    if expression.dtype.kind not in "iuf":
        raise OptionError(f"{option}={text!r} is a boolean, and a weight is a number; write where({text}, 1, 0)")
    return expression


def check_by(name: str, schema: Schema) -> None:
    """Raise unless rows can be split into groups by this field: a category, booleans or integers, one per row.

    Raises
    ------
    FieldNotFoundError, OptionError
        When there is no such field, or it is of another kind.
    """
    if not isinstance(name, str):
        raise OptionError(f"by= is the name of a field; got {type(name).__name__}")
    field = schema[name]
    check_no_text(name, field)
    if field.kind != "category" and not (field.kind == "dense" and not field.shape and field.dtype.kind in "biu"):
        wide = field.kind == "dense" and not field.shape and field.dtype.kind == "f"
        hint = f"; make one of it, as in ds.assign(high={f'{spelled_name(name)} > 100'!r})" if wide else ""
        raise OptionError(
            f"by={name!r} is {field.describe()}; rows are grouped by a category, or by booleans or integers{hint}"
        )


def check_no_text(by: str, field: Field) -> None:
    """Raise `OptionError` if rows are to be split by text, with how to make a category of it."""
    if field.kind == "string":
        raise OptionError(
            f"by={by!r} is text, and rows are split by a category: text becomes one where rows are written, by "
            f"fields=[mm.Field.category({by!r})]"
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
        runs: list[_RunBits] = []
        for i, part in enumerate(parts):
            bits = [_all_of([each[leaf][i] for leaf in conjuncts(cut)]) for cut in cuts]
            some = runs_of_part(snapshot, part, selected[part], BLOCK_ROWS)
            runs += [(r, [bits_between(b, r.start, r.stop) for b in bits]) for r in some]
        # those of small parts are many
        tasks: list[Task] = [(_count_runs, (few, weight, groups)) for few in together(runs, _rows_of, BLOCK_ROWS)]
        total = add_in_order(run, tasks, total, add_block)
        del each, runs, tasks  # these bits are gone before those of the next parts come
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


@dataclass(frozen=True)
class _Missing:
    """A row has no weight; a value, so that the first such row is named, whichever is found first."""

    row: int


#: some rows of a part, and the bits of the cuts there
_RunBits = tuple[Run, list[PartBits]]


def _rows_of(run: _RunBits) -> int:
    return run[0].stop - run[0].start


def _count_runs(runs: Sequence[_RunBits], weight: Expression | None, by: str | Derived | None) -> Grouped | _Missing:
    total: Grouped | None = None
    for run, cuts in runs:
        counted = _count_run(run, cuts, weight, by)
        if isinstance(counted, _Missing):
            return counted
        total = counted if total is None else add(total, counted)
    assert total is not None
    return total


def _count_run(
    run: Run, cuts: Sequence[PartBits], weight: Expression | None, by: str | Derived | None
) -> Grouped | _Missing:
    rows, selected = run.stop - run.start, run.bits
    inside = None if isinstance(selected, bool) else unpack(selected, 0, rows)
    block = Block(run.snapshot, run.part, run.start, run.stop, inside)
    weights = None
    if weight is not None:
        result = evaluate(weight, block.read, rows, first_row=block.first_row)
        if result.known is not None:
            missing = ~result.known if inside is None else ~result.known & inside
            if missing.any():
                return _Missing(block.first_row + int(missing.argmax()))
        weights = result.values.astype(np.float64, copy=False)
    if by is None:
        return Grouped((0,), tally(cuts, selected, rows, weights=weights))
    if isinstance(by, str):
        values = block.read(by)
    else:
        values = values_of(by, block.read, rows, first_row=block.first_row)
    groups, codes = _groups(values, inside)
    if len(groups) > MAX_GROUPS:
        raise _too_many(by if isinstance(by, str) else by.field.name)
    counted = tally(cuts, selected, rows, weights=weights, groups=codes, n_groups=len(groups))
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
        f"by={by!r} has more than {MAX_GROUPS:,} different values; rows are grouped by a field that has few"
    )
