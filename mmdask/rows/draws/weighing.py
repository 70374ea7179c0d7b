"""Weights of rows as running sums, from which rows are drawn by systematic resampling.

The rows lie one behind the other on a line, each as long as its weight, and the line is as long as copies are wanted.
A comb with teeth one apart is laid on it, and each row has as many copies as teeth fall on it: within one of what is
expected, and all together the number that is wanted. Only where the comb begins is random.

The line is kept as where every 64 rows of the store begin. Everything inside is computed anew from the weights when it
is needed, in the same way whatever else is: that is what makes a copy a function of its number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmdask.errors import OptionError
from mmdask.expr import Expression, evaluate
from mmdask.kernels import combs
from mmdask.rows.cuts.passes import Runner, run_serially
from mmdask.rows.rows import Rows
from mmdask.schema import FieldData
from mmdask.store.arrays.cache import Cache

__all__ = ["SUM_ROWS", "Drawn", "Weighed", "weigh"]

#: rows of the store of which one sum is kept
SUM_ROWS = 64
_SUM_BITS = 6
#: blocks of them that are looked at together
_TOGETHER = 1 << 12
#: blocks of a task
_TASK_BLOCKS = 1 << 14
#: sums are added up as integers of so many bits, which no order of adding rounds
_BITS = 60

Int64s = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
_WEIGHED: Cache[Weighed] = Cache(256 << 20)


def weigh(rows: Rows, expression: Expression, run: Runner = run_serially) -> Weighed:
    """Add up the weights of the selected rows, in one pass over them; remembered in this process.

    Parameters
    ----------
    rows : Rows
        The selected rows.
    expression : Expression
        From `mmdask.rows.sums.counting.check_weight`.
    run : callable
        Runs the tasks; each looks at 2**20 rows of the store.

    Raises
    ------
    OptionError
        When a weight is negative, nan, infinite or missing, or all are zero.
    """
    key = rows.key, expression.canonical
    found = _WEIGHED.get(key)
    if found is None:
        found = _weigh(rows.stored, expression, run)
        _WEIGHED.put(key, found, found.nbytes)
    return found


def _weigh(rows: Rows, expression: Expression, run: Runner) -> Weighed:
    n_blocks = -(-rows.n_store // SUM_ROWS)
    sums = np.zeros(n_blocks)
    wrong: list[tuple[int, float]] = []

    def done(number: int, result: Floats | tuple[int, float]) -> None:
        if isinstance(result, tuple):
            wrong.append(result)
        else:
            sums[number * _TASK_BLOCKS : number * _TASK_BLOCKS + len(result)] = result

    firsts = range(0, n_blocks, _TASK_BLOCKS) if len(rows) else ()
    run([(_sums, (rows, expression, first, min(first + _TASK_BLOCKS, n_blocks))) for first in firsts], done)
    if wrong:
        raise _refused(rows, expression, *min(wrong))
    try:
        total = math.fsum(sums.tolist())
    except OverflowError:
        total = math.inf
    if len(rows) and not 0 < total < math.inf:
        what = "is 0 in all of these rows" if total == 0 else "sums to more than a number holds"
        raise OptionError(f"weights={expression.text!r} {what}, so none can be drawn by it; give other weights")
    filled = np.flatnonzero(sums)
    exact = np.rint(np.ldexp(sums[filled], _BITS - math.frexp(total)[1])).astype(np.int64)
    filled, exact = filled[exact > 0], exact[exact > 0]
    ends = np.zeros(len(exact) + 1, np.int64)
    np.cumsum(exact, out=ends[1:])
    places = ends / max(int(ends[-1]), 1) * len(rows)
    return Weighed(rows, expression, len(rows), places, None if len(filled) == n_blocks else filled)


def _sums(rows: Rows, expression: Expression, first: int, stop: int) -> Floats | tuple[int, float]:
    """One task: the sums of some blocks, or the first row whose weight cannot be used, and that weight."""
    sums = np.zeros(stop - first)
    for a in range(first, stop, _TOGETHER):
        b = min(a + _TOGETHER, stop)
        found = _weights(rows, expression, np.arange(a, b))
        if isinstance(found, tuple):
            return found
        with np.errstate(over="ignore"):  # what is too large is refused with all the others
            sums[a - first : b - first] = np.cumsum(found, axis=1)[:, -1]
    return sums


def _weights(rows: Rows, expression: Expression, blocks: Int64s) -> Floats | tuple[int, float]:
    """Weights of the rows of blocks (ascending), ``(blocks, 64)``, 0 where a row is not selected."""
    numbers = rows.rows_of_blocks(blocks, SUM_ROWS)

    def read(name: str) -> FieldData:
        return rows.take(name, numbers)

    result = evaluate(expression, read, len(numbers))
    weights = result.values.astype(np.float64)
    if result.known is not None:
        weights[~result.known] = np.nan
    usable = (weights >= 0) & (weights < np.inf)
    if not usable.all():
        at = int(np.argmin(usable))
        missing = result.known is not None and not result.known[at]
        return int(numbers[at]), math.nan if missing or math.isnan(weights[at]) else float(weights[at])
    if len(numbers) == len(blocks) * SUM_ROWS:
        return weights.reshape(-1, SUM_ROWS)
    table = np.zeros((len(blocks), SUM_ROWS))
    of = numbers >> _SUM_BITS
    if len(blocks) and blocks[-1] - blocks[0] == len(blocks) - 1:
        of -= blocks[0]
    else:  # each of them has rows
        of = np.cumsum(np.diff(of, prepend=of[:1]) != 0)
    table[of, numbers & (SUM_ROWS - 1)] = weights
    return table


def _refused(rows: Rows, expression: Expression, row: int, weight: float) -> OptionError:
    text = expression.text.strip()
    if -math.inf < weight < 0:
        sign = f"ds.assign(sign='where({text} < 0, -1, 1)')"
        return OptionError(
            f"weights={text!r} is {weight:g} in row {row} of {rows.snapshot.path}, and no row is drawn a negative "
            f"number of times; draw by weights='abs({text})' and use the sign in the loss: {sign}"
        )
    what = "nan or missing" if math.isnan(weight) else "infinite"
    return OptionError(
        f"weights={text!r} is {what} in row {row} of {rows.snapshot.path}; select the rows that have "
        f"a weight, as ds[ds.cut('{text} < 1e9')], or write what stands for it"
    )


@dataclass(frozen=True)
class Weighed:
    """Copies of rows by their weights.

    Parameters
    ----------
    rows : Rows
        The selected rows.
    expression : Expression
        Their weights.
    n : int
        Copies that are wanted.
    places : numpy.ndarray
        Where each block of rows begins on a line of `n`, and its end: float64 ``(blocks + 1,)``, ascending.
    filled : numpy.ndarray or None
        The blocks that have any weight, int64 ``(blocks,)``; None if these are all.
    """

    rows: Rows
    expression: Expression
    n: int
    places: Floats
    filled: Int64s | None

    @property
    def nbytes(self) -> int:
        """Memory of the sums."""
        return self.places.nbytes + (0 if self.filled is None else self.filled.nbytes) + 1024

    def copies(self, shift: float, numbers: Int64s) -> Int64s:
        """Store row numbers of some copies, which are numbered in store order, int64.

        Parameters
        ----------
        shift : float
            Where the comb begins, between 0 and 1.
        numbers : numpy.ndarray
            int64, from 0 to `n` - 1, in any order.
        """
        if len(numbers) and (numbers[1:] < numbers[:-1]).any():
            order = np.argsort(numbers, kind="stable")
            found = np.empty(len(numbers), np.int64)
            found[order] = self.copies(shift, numbers[order])
            return found
        if not len(numbers):
            return np.zeros(0, np.int64)
        first = np.flatnonzero(np.diff(numbers, prepend=numbers[0] - 2) != 1)
        return self.runs(shift, numbers[first], numbers[np.append(first[1:], len(numbers)) - 1])

    def runs(self, shift: float, low: Int64s, high: Int64s) -> Int64s:
        """Store row numbers of runs of copies from one number to another, which counts; ascending and apart, int64."""
        block, last = self._blocks_of(shift, low), self._blocks_of(shift, high)
        each = last - block + 1
        run = np.repeat(np.arange(len(low)), each)
        blocks = block[run] + np.arange(len(run)) - np.repeat(np.cumsum(each) - each, each)
        pieces = []
        for i in range(0, len(run), _TOGETHER):
            some = slice(i, i + _TOGETHER)
            pieces.append(self._in_blocks(shift, blocks[some], low[run[some]], high[run[some]] + 1))
        return np.concatenate(pieces)

    def _begin(self, shift: float, blocks: Int64s) -> tuple[Int64s, Floats]:
        """Copies before each block, and how far the next tooth of the comb has come there."""
        places = self.places[blocks]
        whole = places.astype(np.int64)
        phase = places - whole + shift
        return whole + (phase >= 1), phase

    def _blocks_of(self, shift: float, numbers: Int64s) -> Int64s:
        """The block that each copy is of."""
        # Up to rounding; what counts is how many copies begin before a block, as it is computed below.
        block = np.clip(np.searchsorted(self.places, numbers + (1 - shift)) - 1, 0, max(len(self.places) - 2, 0))
        while (late := self._begin(shift, block)[0] > numbers).any():
            block -= late
        while (early := self._begin(shift, block + 1)[0] <= numbers).any():
            block += early
        return block

    def _in_blocks(self, shift: float, blocks: Int64s, low: Int64s, high: Int64s) -> Int64s:
        """Row numbers of the copies `low` to `high` that are of each of these blocks, which ascend."""
        new = np.diff(blocks, prepend=-1) != 0
        ends = self._ends(shift, blocks[new])[np.cumsum(new) - 1]
        low, high = low[:, None], high[:, None]
        begin = self._begin(shift, blocks)[0][:, None]
        counts = np.diff(np.clip(ends, low, high), axis=1, prepend=np.clip(begin, low, high))
        stored = blocks if self.filled is None else self.filled[blocks]
        rows = stored[:, None] * SUM_ROWS + np.arange(SUM_ROWS)
        return np.repeat(rows.ravel(), counts.ravel())

    def _ends(self, shift: float, blocks: Int64s) -> Int64s:
        """How many copies there are up to each row of some blocks, int64 ``(blocks, 64)``."""
        weights = _weights(self.rows, self.expression, blocks if self.filled is None else self.filled[blocks])
        if isinstance(weights, tuple):
            raise _refused(self.rows, self.expression, *weights)
        (begin, phase), (end, _) = self._begin(shift, blocks), self._begin(shift, blocks + 1)
        length = self.places[blocks + 1] - self.places[blocks]
        return combs.ends(np.ascontiguousarray(weights), phase, length, begin - (phase >= 1), end)


class Drawn:
    """The copies of one comb, found in any order: what is found of a block is kept, 2 bytes for each of its rows.

    Parameters
    ----------
    weighed : Weighed
        The weights.
    shift : float
        Where the comb begins.
    """

    def __init__(self, weighed: Weighed, shift: float) -> None:
        self.weighed, self.shift = weighed, shift
        n_blocks = len(weighed.places) - 1
        # Of each row of a block the copies up to it. Memory that the system gives when it is written.
        self._upto = np.zeros((n_blocks, SUM_ROWS), np.uint16)
        self._known = np.zeros(n_blocks, np.bool_)
        # Where to look for a copy: not before the block at its number, divided by 64.
        marks = np.arange(0, weighed.n + 2 * SUM_ROWS, SUM_ROWS) - shift
        self._least = np.clip(np.searchsorted(weighed.places, marks) - 2, 0, max(n_blocks - 1, 0))

    @staticmethod
    def nbytes_of(weighed: Weighed) -> int:
        """Memory that it may take."""
        return 2 * SUM_ROWS * (len(weighed.places) - 1)

    def copies(self, numbers: Int64s) -> Int64s:
        """Store row numbers of some copies, as `Weighed.copies` finds them."""
        weighed = self.weighed
        block, rank = combs.blocks_of(weighed.places, self.shift, self._least, numbers)
        wanted = np.zeros(len(self._known), np.bool_)
        wanted[block] = True
        self._find(np.flatnonzero(wanted & ~self._known))
        if not self._known[block].all():  # of so many copies that 2 bytes do not tell
            return weighed.copies(self.shift, numbers)
        rows = combs.rows_of(self._upto, block, rank)
        return rows + (block if weighed.filled is None else weighed.filled[block]) * SUM_ROWS

    def _find(self, blocks: Int64s) -> None:
        for i in range(0, len(blocks), _TOGETHER):
            some = blocks[i : i + _TOGETHER]
            upto = self.weighed._ends(self.shift, some) - self.weighed._begin(self.shift, some)[0][:, None]
            fits = upto[:, -1] < 2**16
            self._upto[some[fits]] = upto[fits]
            self._known[some[fits]] = True
