"""Fill histograms from rows of a store: several in one pass, in blocks, each field read once.

What has no bin is counted, and is in none: nan in one of the coordinates of an entry, or a missing value. Infinities
lie below or above all bins.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mmdask.errors import OptionError
from mmdask.expr import Expression, Result, evaluate_many
from mmdask.expr.values import Aligned, Value
from mmdask.expr.values import Block as Values
from mmdask.kernels.bins import weighted_sums
from mmdask.rows.cuts.passes import Runner, run_serially
from mmdask.rows.rows import Rows
from mmdask.rows.sums.adding import Node, add_up, sum_of
from mmdask.rows.sums.binning import Axis
from mmdask.rows.sums.reducing import Block, Run, fits_task, tree_of
from mmdask.schema import FieldData

__all__ = ["MAX_CELLS", "MAX_LISTED", "NO_ENDS", "Coordinate", "Ends", "Filled", "Histogram", "ends", "fill"]

#: bins of a histogram, and values that are found for an axis of them
MAX_CELLS = 1 << 24
MAX_LISTED = 1000
#: from so many bins on, tasks hand over those that are not empty
_MANY_CELLS = 1 << 14

#: what an axis is about: an expression, or the name of a category
Coordinate = Expression | str
Bools = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]


# What values there are ----------------------------------------------------------------------------------------------


class Ends(NamedTuple):
    """Smallest and largest finite number of an expression, None where there is none; all of them if they are few."""

    low: int | float | None = None
    high: int | float | None = None
    listed: frozenset[int] | None = None

    def __or__(self, other: Ends) -> Ends:
        lows = [x.low for x in (self, other) if x.low is not None]
        highs = [x.high for x in (self, other) if x.high is not None]
        if self.listed is None or other.listed is None or len(self.listed | other.listed) > MAX_LISTED:
            return Ends(min(lows, default=None), max(highs, default=None))
        return Ends(min(lows, default=None), max(highs, default=None), self.listed | other.listed)


NO_ENDS = Ends(None, None, frozenset())


def ends(rows: Rows, expressions: Sequence[Expression], run: Runner = run_serially) -> list[Ends]:
    """Between which numbers the values of expressions lie, in one pass over the selected rows.

    Returns
    -------
    list of Ends
        Integers that differ are listed, up to `MAX_LISTED` of them.
    """
    tree = tree_of(rows.snapshot, rows.resolve(run).parts)
    if tree is None:
        return [NO_ENDS] * len(expressions)
    texts = tuple(expressions)
    return add_up(run, tree, fits_task(tree), lambda node: (_ends, (node, texts)), _joined_ends)


def _joined_ends(a: list[Ends], b: list[Ends]) -> list[Ends]:
    return [x | y for x, y in zip(a, b, strict=True)]


def _ends(node: Node[Run], expressions: tuple[Expression, ...]) -> list[Ends]:
    """One task."""
    return sum_of(node, lambda run: _ends_of_run(run, expressions), _joined_ends)


def _ends_of_run(run: Run, expressions: tuple[Expression, ...]) -> list[Ends]:
    total = [NO_ENDS] * len(expressions)
    for block in _blocks(run, expressions):
        results = evaluate_many(expressions, block.read, len(block), first_row=block.first_row)
        for i, result in enumerate(results):
            inside = _of_items(block.inside, result.offsets)
            total[i] |= _ends_of(result.values, _both(inside, result.known))
    return total


def _ends_of(values: npt.NDArray[Any], use: Bools | None) -> Ends:
    values = values if use is None else values[use]
    if values.dtype.kind == "f":
        if len(values) and not math.isfinite(float(values.min()) + float(values.max())):
            values = values[np.isfinite(values)]
        return Ends(float(values.min()), float(values.max())) if len(values) else NO_ENDS
    if not len(values):
        return NO_ENDS
    low, high = int(values.min()), int(values.max())
    listed: frozenset[int] | None = None
    if high - low < MAX_LISTED:
        at = np.subtract(values, values.dtype.type(low), dtype=values.dtype if low >= 0 else np.int64)
        listed = frozenset([low + i for i in np.flatnonzero(np.bincount(at.astype(np.int64))).tolist()])
    else:
        different = np.unique(values)
        listed = frozenset(different.tolist()) if len(different) <= MAX_LISTED else None
    return Ends(low, high, listed)


# Filling ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Histogram:
    """What is to be filled.

    Parameters
    ----------
    coordinates : tuple of Coordinate
        One value per row or per item each; those of rows are repeated for each item.
    axes : tuple of Axis
        Their bins.
    weight : Expression, optional
        One number per row, or per item where the coordinates are of items.
    """

    coordinates: tuple[Coordinate, ...]
    axes: tuple[Axis, ...]
    weight: Expression | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple([axis.size for axis in self.axes])

    def checked(self) -> Histogram:
        """The same; raise `OptionError` if it has too many bins."""
        if math.prod(self.shape) > MAX_CELLS:
            sizes = " x ".join([f"{n:,}" for n in self.shape])
            raise OptionError(f"{sizes} bins are more than {MAX_CELLS:,} in all; take fewer of them")
        return self


@dataclass(frozen=True)
class Filled:
    """What a histogram holds.

    Attributes
    ----------
    sums : numpy.ndarray
        For each bin, the flow included, the number of entries (int64), or the sum of their weights (float64).
    squares : numpy.ndarray or None
        The sums of squared weights, float64; None without weights.
    entries, nan, missing : int
        How many entries there were in all; how many of them were in no bin because a coordinate is nan, or missing.
    """

    sums: npt.NDArray[Any]
    squares: npt.NDArray[np.float64] | None
    entries: int = 0
    nan: int = 0
    missing: int = 0


class _Sums(NamedTuple):
    """What some rows add to a histogram; `at` are the bins that `sums` and `squares` are of, None for all."""

    at: Places | None
    sums: npt.NDArray[Any]
    squares: npt.NDArray[np.float64] | None
    counts: tuple[int, int, int]


class _NoWeight(NamedTuple):
    """A row that has entries, and no weight; a value, so that the first such row is named on every scheduler."""

    text: str
    row: int


def fill(rows: Rows, histograms: Sequence[Histogram], run: Runner = run_serially) -> list[Filled]:
    """Fill histograms, all in one pass over the selected rows.

    Parameters
    ----------
    rows : Rows
        Which rows.
    histograms : sequence of Histogram
        What is filled from them.
    run : callable
        Runs the tasks, which hand over sums. These are added in the order of the rows, whatever it does.

    Returns
    -------
    list of Filled
        Arrays of the shapes of the histograms.

    Raises
    ------
    ExpressionError
        When coordinates of items have different numbers of them in a row.
    OptionError
        When a weight is missing.
    """
    histograms = tuple([h.checked() for h in histograms])
    tree = tree_of(rows.snapshot, rows.resolve(run).parts)
    if tree is None:
        return [_filled(h, _zeros(h)) for h in histograms]

    def check(some: list[_Sums] | _NoWeight) -> None:
        if isinstance(some, _NoWeight):
            raise OptionError(
                f"weight={some.text!r} is missing in row {some.row} of {rows.snapshot.path}; say what stands for it, "
                f"as in where(ismissing({some.text}), 1, {some.text}), or leave these rows out: "
                f"where={f'not ismissing({some.text})'!r}"
            )

    totals = add_up(run, tree, fits_task(tree), lambda node: (_fill, (node, histograms)), _added_each, check)
    assert not isinstance(totals, _NoWeight)
    return [_filled(h, total) for h, total in zip(histograms, totals, strict=True)]


def _filled(h: Histogram, total: _Sums) -> Filled:
    total = _all_bins(h, total)
    squares = None if total.squares is None else total.squares.reshape(h.shape)
    return Filled(total.sums.reshape(h.shape), squares, *total.counts)


def _zeros(h: Histogram) -> _Sums:
    n = math.prod(h.shape)
    if h.weight is None:
        return _Sums(None, np.zeros(n, np.int64), None, (0, 0, 0))
    return _Sums(None, np.zeros(n), np.zeros(n), (0, 0, 0))


def _all_bins(h: Histogram, some: _Sums) -> _Sums:
    """The same with all bins, those that are empty included."""
    return some if some.at is None else _put(_zeros(h), some)


def _put(total: _Sums, some: _Sums) -> _Sums:
    """The sum, in the arrays of `total`, which has all bins that `some` has."""
    at: Any = slice(None) if some.at is None else some.at
    if some.at is not None and total.at is not None:
        at = np.searchsorted(total.at, some.at)
    with np.errstate(all="ignore"):  # inf - inf is nan, as the user's weights have it
        total.sums[at] += some.sums
        if total.squares is not None and some.squares is not None:
            total.squares[at] += some.squares
    n, nan, missing = (a + b for a, b in zip(total.counts, some.counts, strict=True))
    return total._replace(counts=(n, nan, missing))


def _added(a: _Sums, b: _Sums) -> _Sums:
    """The sum of two, whose arrays stay what they are."""
    if b.at is None or a.at is None:
        whole, other = (a, b) if a.at is None else (b, a)
        squares = None if whole.squares is None else whole.squares.copy()
        return _put(whole._replace(sums=whole.sums.copy(), squares=squares), other)
    at = np.union1d(a.at, b.at)
    squares = None if a.squares is None else np.zeros(len(at), a.squares.dtype)
    empty = _Sums(at, np.zeros(len(at), a.sums.dtype), squares, (0, 0, 0))
    return _put(_put(empty, a), b)


def _added_each(a: list[_Sums] | _NoWeight, b: list[_Sums] | _NoWeight) -> list[_Sums] | _NoWeight:
    """The first row without a weight, or else the sums."""
    if isinstance(a, _NoWeight) or isinstance(b, _NoWeight):
        return a if isinstance(a, _NoWeight) else b
    return [_added(x, y) for x, y in zip(a, b, strict=True)]


def _fill(node: Node[Run], histograms: tuple[Histogram, ...]) -> list[_Sums] | _NoWeight:
    """One task: what some rows add to each histogram."""
    return sum_of(node, lambda run: _fill_run(run, histograms), _added_each)


def _fill_run(run: Run, histograms: tuple[Histogram, ...]) -> list[_Sums] | _NoWeight:
    texts = [*{w: None for h in histograms for w in (*h.coordinates, h.weight) if isinstance(w, Expression)}]
    labels = [*{c: None for h in histograms for c in h.coordinates if isinstance(c, str)}]
    totals = [_zeros(h) for h in histograms]
    for block in _blocks(run, texts, labels):
        read = _Once(block)
        results = evaluate_many(texts, read, len(block), first_row=block.first_row)
        found: dict[Coordinate, Value] = {e: _value(e, r) for e, r in zip(texts, results, strict=True)}
        for name in labels:
            data = read(name)
            found[name] = Value(data.values, (), data.valid_at(0), name)
        for i, h in enumerate(histograms):
            some = _fill_block(block, h, found)
            if isinstance(some, _NoWeight):
                return some
            totals[i] = _put(totals[i], some)
    return [_packed(total) for total in totals]


class _Once:
    """Reads each field of a block once."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self.known: dict[str, FieldData] = {}

    def __call__(self, name: str) -> FieldData:
        if name not in self.known:
            self.known[name] = self.block.read(name)
        return self.known[name]


def _blocks(run: Run, texts: Sequence[Expression], labels: Sequence[str] = ()) -> Iterator[Block]:
    return run.blocks({*labels, *[name for e in texts for name in e.fields]})


def _value(e: Expression, r: Result) -> Value:
    there = r.there if any(t is not None for t in r.there) else ()
    return Value(r.values, r.offsets, r.known, e.text.strip(), there=there)


def _fill_block(block: Block, h: Histogram, found: dict[Coordinate, Value]) -> _Sums | _NoWeight:
    """What the rows of a block add to a histogram."""
    wanted: tuple[Coordinate, ...] = h.coordinates if h.weight is None else (*h.coordinates, h.weight)
    aligned = Values(block.read, len(block), block.first_row).align([found[c] for c in wanted])
    n_axes = len(h.axes)
    use = _of_items(block.inside, aligned.offsets)
    entries = _n_used(use, aligned)
    for known in aligned.known[:n_axes]:
        use = _both(use, known)
    there = _n_used(use, aligned)
    places = np.zeros(0, np.int64)
    for i, (axis, x) in enumerate(zip(h.axes, aligned.arrays, strict=False)):
        if x.dtype.kind == "f" and (nan := np.isnan(x)).any():
            use = _both(use, ~nan)
        here = axis.places(x)
        places = places * axis.size + here if i else here
    if use is not None:
        places = places[use]
    lists, size = _missing_lists(block.inside, aligned), math.prod(h.shape)
    counts = entries + lists, there - len(places), entries - there + lists
    if h.weight is None:
        return _Sums(None, np.bincount(places, minlength=size), None, counts)
    weights, known = aligned.arrays[-1], aligned.known[-1]
    if known is not None and (lacking := ~known if use is None else ~known & use).any():
        return _NoWeight(h.weight.text.strip(), _row_of(block, aligned, int(lacking.argmax())))
    return _Sums(None, *weighted_sums(places, weights if use is None else weights[use], size), counts)


def _n_used(use: Bools | None, aligned: Aligned) -> int:
    return len(aligned.arrays[0]) if use is None else int(np.count_nonzero(use))


def _row_of(block: Block, aligned: Aligned, place: int) -> int:
    """The store row number that an entry belongs to."""
    for offsets in reversed(aligned.offsets):
        place = int(np.searchsorted(offsets, place, "right")) - 1
    return block.first_row + place


def _missing_lists(inside: Bools | None, aligned: Aligned) -> int:
    """How many rows, or lists in them, are missing: each is one entry that is."""
    n = 0
    for level, there in enumerate(aligned.there):
        if there is not None:
            lacking = _both(~there, _of_items(inside, aligned.offsets[:level]))
            assert lacking is not None
            n += int(np.count_nonzero(lacking))
    return n


def _of_items(inside: Bools | None, offsets: Sequence[npt.NDArray[np.int64]]) -> Bools | None:
    """Which items are those of selected rows."""
    for level in offsets:
        inside = None if inside is None else np.repeat(inside, np.diff(level))
    return inside


def _both(a: Bools | None, b: Bools | None) -> Bools | None:
    return b if a is None else a if b is None else a & b


def _packed(sums: _Sums) -> _Sums:
    """The bins of a large histogram that are not empty, which are all that is sent."""
    if len(sums.sums) < _MANY_CELLS:
        return sums
    # Where weights cancel, their squares do not; nan is not zero.
    at = np.flatnonzero(sums.sums if sums.squares is None else (sums.squares != 0) | (sums.sums != 0))
    if 2 * len(at) > len(sums.sums):
        return sums
    squares = None if sums.squares is None else sums.squares[at]
    return sums._replace(at=at, sums=sums.sums[at], squares=squares)
