"""Count the rows of a store that pass cuts: bits from `masks`, weights and groups from fields, sums from `flow`.

Each field is read at most once: cuts that are not kept are computed in one pass, as are all weights. Parts are taken
some at a time, so that memory is bounded whatever the store; within that, bits of all cuts are at hand. Of a store of
very many rows no bits come here: each task finds those of its parts, and keeps them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmdask.errors import ExpressionError, OptionError
from mmdask.expr import Expression, conjuncts, evaluate, spelled_name
from mmdask.kernels.once import once
from mmdask.rows.bits import PartBits, and_bits, unpack
from mmdask.rows.blocks import BLOCK_ROWS
from mmdask.rows.cuts.keyed import keyed_leaves
from mmdask.rows.cuts.passes import Runner, Task, kept_each, run_serially
from mmdask.rows.rows import Rows
from mmdask.rows.sums.adding import Node, Sum, add_up, given, in_order, nodes_of, sum_of, task_of
from mmdask.rows.sums.flow import Grouped, add, group, tally, zeros
from mmdask.rows.sums.reducing import Block, Run, bits_between, fits_task, of_one_part, tree_of
from mmdask.rows.views.virtual import Derived, values_of
from mmdask.schema import Field, FieldData, Schema
from mmdask.store.snapshot import Snapshot

__all__ = ["MAX_GROUPS", "check_by", "check_no_text", "check_number", "check_weight", "count_passing"]

#: groups of a cut flow; more are a field that was not meant
MAX_GROUPS = 1000
#: what is in memory at once: bytes of bits, and rows, of which each block has a tally
_BITS_NBYTES = 256 << 20
_ROWS = 1 << 28
#: from so many rows on, tasks find the bits of their parts by themselves, and sums are all that travels
_MANY_ROWS = 1 << 34

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
        Runs the tasks. Sums are the same whatever it does, for they are added as `adding` says.

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
    tree = tree_of(snapshot, selected)
    if tree is None:
        return Grouped(() if by else (0,), zeros(len(cuts), 0 if by else 1, weighted=weight is not None))
    what = _Counted(tuple(cuts), weight, by, None if by is None else rows.derived.get(by, by))

    def check(counted: Grouped | _Missing) -> None:
        if isinstance(counted, _Missing):
            raise _missing_weight(snapshot, weight, counted.row)

    if tree.weight > _MANY_ROWS and _travel_badly(snapshot, what):
        fits = fits_task(tree)
        work: Callable[[Node[Run]], Task] = lambda node: (_find_and_count, (node, what))  # noqa: E731
        total = add_up(run, tree, lambda node: fits(node) or of_one_part(node), work, what.add, check)
    else:
        total = _count_some_at_a_time(tree, snapshot, what, run, check)
    assert isinstance(total, Grouped)
    return total


@dataclass(frozen=True)
class _Counted:
    """What is counted; `groups` is `by`, or how that is computed."""

    cuts: tuple[Expression, ...]
    weight: Expression | None
    by: str | None
    groups: str | Derived | None

    @once
    def leaves(self) -> list[Expression]:
        """What is kept of the cuts."""
        return list(dict.fromkeys(leaf for cut in self.cuts for leaf in conjuncts(cut)))

    def bits(self, snapshot: Snapshot, parts: Sequence[int], run: Runner = run_serially) -> dict[int, list[PartBits]]:
        """For some parts, the bits of each cut."""
        each = dict(zip(self.leaves, kept_each(snapshot, self.leaves, run, parts), strict=True))
        return {
            part: [_all_of([each[leaf][i] for leaf in conjuncts(cut)]) for cut in self.cuts]
            for i, part in enumerate(parts)
        }

    def some_at_a_time(self, snapshot: Snapshot, parts: Iterable[int]) -> Iterator[list[int]]:
        """Parts in runs of which the bits fit into memory."""
        n_bits = len(self.leaves) + len(self.cuts)
        some: list[int] = []
        rows = 0
        for part in parts:
            more = snapshot.parts[part].rows
            if some and (rows + more > _ROWS or (rows + more) // 8 * n_bits > _BITS_NBYTES):
                yield some
                some, rows = [], 0
            some.append(part)
            rows += more
        if some:
            yield some

    def add(self, a: Grouped | _Missing, b: Grouped | _Missing) -> Grouped | _Missing:
        """The first row without a weight, or else the sum."""
        if isinstance(a, _Missing) or isinstance(b, _Missing):
            return a if isinstance(a, _Missing) else b
        total = add(a, b)
        if len(total.groups) > MAX_GROUPS:
            raise _too_many(self.by)
        return total


def _travel_badly(snapshot: Snapshot, what: _Counted) -> bool:
    """Whether tasks can find the bits of whole parts by themselves."""
    most = max(part.rows for part in snapshot.parts)
    return most // 8 * len(what.leaves) <= _BITS_NBYTES and not any(keyed_leaves(leaf) for leaf in what.leaves)


def _count_some_at_a_time(
    tree: Node[Run],
    snapshot: Snapshot,
    what: _Counted,
    run: Runner,
    check: Callable[[Grouped | _Missing], None],
) -> Grouped | _Missing:
    """Find the bits of some parts, keep them, and have tasks count these; then those of the next parts."""
    fits = fits_task(tree)
    some = list(what.some_at_a_time(snapshot, _parts_of(tree)))
    place = {part: i for i, parts in enumerate(some) for part in parts}
    nodes: list[list[Node[Run]]] = [[] for _ in some]
    for top in nodes_of(tree, lambda node: place[node.leaves[0].part] == place[node.leaves[1].part]):
        nodes[place[top.leaves[0].part]] += given(run, top, fits)
    total: Sum[Run, Grouped | _Missing] = Sum(tree, itertools.chain.from_iterable(nodes), what.add)

    def take(counted: Grouped | _Missing) -> None:
        check(counted)
        total.take(counted)

    for parts, here in zip(some, nodes, strict=True):
        bits = what.bits(snapshot, parts, run)

        def work(node: Node[Run], bits: dict[int, list[PartBits]] = bits) -> Task:
            return _count, (node.map(lambda run: (run, _bits_of_run(run, bits[run.part]))), what)

        in_order(run, [task_of(node, fits, work, what.add) for node in here], take)
        del bits, work  # these are gone before those of the next parts come
    assert total.total is not None
    return total.total


def _parts_of(node: Node[Run]) -> list[int]:
    return list(dict.fromkeys(run.part for run in node))


def _bits_of_run(run: Run, cuts: Sequence[PartBits]) -> list[PartBits]:
    return [bits_between(bits, run.start, run.stop) for bits in cuts]


def _all_of(bits: Sequence[PartBits]) -> PartBits:
    passing: PartBits = True
    for leaf in bits:
        passing = and_bits(passing, leaf)
    return passing


@dataclass(frozen=True)
class _Missing:
    """A row has no weight; a value, so that the first such row is named, whichever is found first."""

    row: int


def _find_and_count(node: Node[Run], what: _Counted) -> Grouped | _Missing:
    """A task that finds and keeps the bits of its parts by itself."""
    snapshot = node.leaves[0].snapshot
    parts = what.some_at_a_time(snapshot, _parts_of(node))
    bits: dict[int, list[PartBits]] = {}

    def count(run: Run) -> Grouped | _Missing:
        nonlocal bits
        while run.part not in bits:
            bits = {}
            bits = what.bits(snapshot, next(parts))
        return _count_run(run, _bits_of_run(run, bits[run.part]), what)

    return sum_of(node, count, what.add)


def _count(node: Node[tuple[Run, list[PartBits]]], what: _Counted) -> Grouped | _Missing:
    """A task that has the bits of the cuts."""
    return sum_of(node, lambda item: _count_run(*item, what), what.add)


def _count_run(run: Run, cuts: Sequence[PartBits], what: _Counted) -> Grouped | _Missing:
    """Blocks one after the other; `cuts` have the bits of the run."""
    total: Grouped | _Missing | None = None
    for a in range(run.start, run.stop, BLOCK_ROWS):
        b = min(a + BLOCK_ROWS, run.stop)
        here = bits_between(run.bits, a - run.start, b - run.start)
        if isinstance(here, bool) or here.any():
            block = Run(run.snapshot, run.part, a, b, here)
            some = [bits_between(bits, a - run.start, b - run.start) for bits in cuts]
            counted = _count_block(block, some, what.weight, what.groups)
            total = counted if total is None else what.add(total, counted)
            if isinstance(total, _Missing):
                return total
    assert total is not None
    return total


def _count_block(
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
