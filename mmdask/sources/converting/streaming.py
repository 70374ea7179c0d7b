"""Evaluate a recipe over a range of an input's rows: which of them are kept, what is computed of them, and sums.

The fields that it needs are read together, each along its own baskets and once; memory is bounded by a run of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.errors import ExpressionError, OptionError, SourceError
from mmdask.expr import Expression, evaluate_cut, evaluate_many
from mmdask.rows.views.derived import compute
from mmdask.schema import CODE_DTYPE, Field, FieldData
from mmdask.sources.agreeing.shaped import Padding
from mmdask.sources.converting.ahead import ahead
from mmdask.sources.converting.inputs import Label
from mmdask.sources.converting.picked import Picked, select
from mmdask.sources.converting.recipe import Bound
from mmdask.sources.converting.table import RUN_NBYTES, Rows, Table, UnreadableError
from mmdask.store.layer_writer import FieldWriter
from mmdask.store.origin import WeightSum

__all__ = ["MAX_OPEN_FIELDS", "Streamed", "stream"]

#: rows that are evaluated together
_BLOCK_ROWS = 1 << 17
#: a run of one of many fields has as many bytes, or is one basket
_LEAST_NBYTES = 1 << 18
#: with more fields than this their files are opened for each write: a process may hold 1,024
MAX_OPEN_FIELDS = 64

Read = Callable[[str], FieldData]


@dataclass(frozen=True)
class Streamed:
    """What was found of a range of rows: those that are kept (None: all), and sums over all of them."""

    picked: Picked | None
    weights: tuple[WeightSum, ...]


def stream(table: Table, rows: Rows, start: int, stop: int, writers: Mapping[str, FieldWriter | Padding]) -> Streamed:
    """Evaluate the recipe of a table over rows `start` to `stop`, and write the rows that are kept.

    Parameters
    ----------
    table : Table
        With a recipe.
    rows : callable
        Reads its fields.
    start, stop : int
        The range.
    writers : mapping of FieldWriter
        By name; those of aliases and of fields that the recipe reads are written to.

    Raises
    ------
    SourceError
        When a field that is needed cannot be read.
    ExpressionError, OptionError
        When an expression has no value for a row, or a weight is missing.
    """
    bound = table.bound
    assert bound is not None
    sums = [_Sum(e) for e in bound.weights]
    kept = [writers[name] for name in (*(f.name for f in bound.reads), *_names(bound)) if name in writers]

    def masks(blocks: Iterable[tuple[int, _Block]]) -> Iterator[npt.NDArray[np.bool_]]:
        for at, block in blocks:
            n = block.rows
            try:
                values = {**block.fields, **_labels(bound.labels, n)}
                values |= compute(bound.aliases, values.__getitem__, n, first_row=at)
                mask = None if bound.cut is None else evaluate_cut(bound.cut, values.__getitem__, n, first_row=at)
                for found, s in zip(
                    evaluate_many(bound.weights, values.__getitem__, n, first_row=at), sums, strict=True
                ):
                    s.add(found.values, found.known, table, at)
            except ExpressionError as error:
                raise ExpressionError(f"{table.source.name}: {error}") from None
            for writer in kept:
                data = values[writer.field.name]
                writer.write(data if mask is None else select(data, mask))
                if len(kept) > MAX_OPEN_FIELDS:
                    writer.close()
            if mask is not None:
                yield mask

    with closing(ahead(_together(table, bound.reads, rows, start, stop))) as blocks:
        found = Picked(start, masks(blocks))
    for writer in kept:
        writer.close()
    return Streamed(None if bound.cut is None else found, tuple(s.total for s in sums))


def _names(bound: Bound) -> list[str]:
    return [d.field.name for d in bound.aliases]


@dataclass(frozen=True)
class _Block:
    """Rows of several fields."""

    rows: int
    fields: Mapping[str, FieldData]


def _together(table: Table, fields: Sequence[Field], rows: Rows, start: int, stop: int) -> Iterator[tuple[int, _Block]]:
    """Runs of rows of some fields, each with its first row; each field is read along its own baskets."""
    groups = table.together(fields)
    nbytes = max(RUN_NBYTES // max(len(groups), 1), _LEAST_NBYTES)
    runs = [rows(group, start, stop, nbytes=nbytes) for group in groups]
    held: dict[int, tuple[int, tuple[FieldData, ...]]] = {}
    at = start
    while at < stop:
        stops = [stop, at + _BLOCK_ROWS]
        for i, run in enumerate(runs):
            if i not in held or at == held[i][0] + len(held[i][1][0]):
                held.pop(i, None)  # before the next is read
                held[i] = at, _next(table, groups[i], run)
            stops.append(held[i][0] + len(held[i][1][0]))
        end = min(stops)
        found = {
            f.name: data[at - held[i][0] : end - held[i][0]]
            for i, group in enumerate(groups)
            for f, data in zip(group, held[i][1], strict=True)
        }
        yield at, _Block(end - at, found)
        at = end


def _next(table: Table, fields: Sequence[Field], runs: Iterator[tuple[FieldData, ...]]) -> tuple[FieldData, ...]:
    try:
        run = next((run for run in runs if len(run[0])), None)
        if run is None:
            raise UnreadableError("damaged, it gives too few rows")
    except UnreadableError as error:
        raise SourceError(
            f"{table.source.name}: field {fields[0].name!r}, which the cut, an alias or a weight needs, "
            f"cannot be read: {error}"
        ) from error
    return run


def _labels(labels: Sequence[tuple[Field, Label]], n: int) -> dict[str, FieldData]:
    """The labels of an input as rows."""
    found = {}
    for field, value in labels:
        if field.kind == "category":
            code = np.array(field.labels.index(str(value)), CODE_DTYPE)
            found[field.name] = FieldData(np.broadcast_to(code, n), labels=field.labels)
        else:
            found[field.name] = FieldData(np.broadcast_to(np.array(value, field.dtype), n))
    return found


class _Sum:
    """Sums of a weight and of its squares, in double."""

    def __init__(self, expression: Expression) -> None:
        self._expression = expression
        self._sums: list[float] = []
        self._squares: list[float] = []

    def add(self, values: npt.NDArray[Any], known: npt.NDArray[np.bool_] | None, table: Table, first: int) -> None:
        if known is not None and not known.all():
            text = self._expression.text.strip()
            raise OptionError(
                f"{table.source.name}: the weight {text!r} is missing in row {first + int((~known).argmax())}; "
                f"say what stands for it, as in where(ismissing({text}), 0, {text})"
            )
        values = values.astype(np.float64, copy=False)
        with np.errstate(all="ignore"):
            self._sums.append(float(values.sum()))
            self._squares.append(float(np.square(values).sum()))

    @property
    def total(self) -> WeightSum:
        return WeightSum(self._expression.canonical, _total(self._sums), _total(self._squares))


def _total(sums: Sequence[float]) -> float:
    """The sum of some numbers; nan if it is not finite, for that is all that is kept of it."""
    total = math.fsum(sums) if all(map(math.isfinite, sums)) else math.nan
    return total if math.isfinite(total) else math.nan
