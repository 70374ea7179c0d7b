"""Row ranges of an input: those that become parts, and the runs that are in memory at once. Pure functions."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

from mmdask.sources.converting.jobs import split_rows
from mmdask.sources.converting.picked import Picked

__all__ = ["common_cuts", "part_ranges", "runs", "spans"]


def part_ranges(
    rows: int, nbytes: int, part_nbytes: int, cuts: Iterable[Sequence[int]] = ()
) -> tuple[tuple[int, int], ...]:
    """Row ranges of about `part_nbytes`, which together are all rows; one empty range when there are none.

    Parameters
    ----------
    cuts : iterable of sequences of int
        Basket boundaries of each branch. Where a boundary of all of them is near, the range ends there.

    Examples
    --------
    >>> part_ranges(100, 1000, 500)
    ((0, 50), (50, 100))
    >>> part_ranges(100, 1000, 500, [[0, 40, 100], [0, 20, 40, 60, 100]])
    ((0, 40), (40, 100))
    """
    return split_rows(rows, round(nbytes / part_nbytes), common_cuts(cuts))


def common_cuts(cuts: Iterable[Sequence[int]]) -> tuple[int, ...]:
    """The rows at which all of some branches have a boundary.

    Examples
    --------
    >>> common_cuts([[0, 40, 100], [0, 20, 40, 60, 100]])
    (0, 40, 100)
    """
    sets = [frozenset(map(int, c)) for c in cuts]
    return tuple(sorted(frozenset.intersection(*sets))) if sets else ()


def runs(start: int, stop: int, offsets: Sequence[int], weights: Sequence[float], limit: float) -> Iterator[int]:
    """Ends of runs of rows from `start` to `stop` along basket boundaries, each of weight `limit` or one basket.

    Parameters
    ----------
    offsets : sequence of int
        First row of each basket, and the end of the last.
    weights : sequence of float
        Of each basket; a part of a basket weighs its part.

    Examples
    --------
    >>> list(runs(0, 40, [0, 10, 20, 30, 40], [5, 5, 5, 5], 12))
    [20, 40]
    """
    total = 0.0
    at = begin = start
    for first, last, weight in zip(offsets, offsets[1:], weights, strict=False):
        end = min(last, stop)
        if end <= at:
            continue
        share = weight * (end - at) / (last - first)
        if at > begin and total + share > limit:
            yield at
            begin, total = at, 0.0
        total += share
        at = end
        if at == stop:
            break
    if stop > start:
        yield stop


def spans(start: int, stop: int, offsets: Sequence[int], picked: Picked) -> list[tuple[int, int]]:
    """The rows of baskets of which one is picked, those of neighbours together."""
    spans: list[tuple[int, int]] = []
    for a, b in itertools.pairwise(offsets):
        first, last = max(a, start), min(b, stop)
        if first < last and picked.any(first, last):
            if spans and spans[-1][1] == first:
                first = spans.pop()[0]
            spans.append((first, last))
    return spans
