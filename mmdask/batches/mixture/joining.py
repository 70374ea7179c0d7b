"""Entries of one name of several batches in one, row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.batches.batch import Batch
from mmdask.batches.collate import Packed
from mmdask.batches.ordering.row_rng import streams_of
from mmdask.errors import OptionError
from mmdask.kernels import dense

__all__ = ["joined"]

Int64s = npt.NDArray[np.int64]


def joined(pieces: Mapping[int, Batch], sources: Int64s, names: Sequence[str], flags: Sequence[str] = ()) -> Batch:
    """One batch of the rows of several.

    Parameters
    ----------
    pieces : mapping of Batch
        By the number of their source.
    sources : numpy.ndarray
        int64 ``(rows,)``: of which source each row is the next.
    names : sequence of str
        Of the sources.
    flags : sequence of str
        Entries that say which rows are there, which some sources have, as those of others are never missing.

    Raises
    ------
    OptionError
        When entries of one name differ in kind or shape, or one batch lacks an entry.
    """
    numbers = sorted(pieces)
    # Where each row is among the rows of all pieces, one piece behind the other.
    at = np.empty(len(sources), np.int64)
    order = [np.flatnonzero(sources == i) for i in numbers]
    at[np.concatenate(order) if order else slice(0)] = np.arange(len(sources))
    starts = np.cumsum([0, *[len(pieces[i].rows) for i in numbers]])
    located = dense.Located(starts, at, len(numbers))
    batch = Batch()
    first = pieces[numbers[0]] if numbers else Batch()
    for i in numbers:
        for flag in flags:
            pieces[i].setdefault(flag, np.ones(len(pieces[i].rows), np.bool_))
        if set(pieces[i]) != set(first):
            raise OptionError(
                f"batches of {names[i]!r} have the entries {list(pieces[i])}, those of {names[numbers[0]]!r} "
                f"{list(first)}; make the loaders with the same fields= and collate="
            )
    for name in first:
        values = [pieces[i][name] for i in numbers]
        try:
            batch[name] = _join(values, at, located)
        except _UnlikeError as error:
            what = ", ".join(f"{_text(v)} in {names[i]!r}" for i, v in zip(numbers, values, strict=True))
            raise OptionError(f"entries {name!r} cannot be joined: {what}; {error}") from None
    batch.rows = _join([pieces[i].rows for i in numbers], at, located) if numbers else np.empty(0, np.int64)
    batch.valid = None
    each = [pieces[i].rows if pieces[i].streams is None else pieces[i].streams for i in numbers]
    batch.streams = streams_of(_join(each, at, located) if numbers else batch.rows, sources)
    return batch


class _UnlikeError(Exception):
    """Entries that are of different kinds or shapes."""


def _join(values: list[Any], at: Int64s, located: dense.Located | None = None) -> Any:
    if len({type(v) for v in values}) > 1:
        raise _UnlikeError("make the loaders with the same steps in collate=")
    if isinstance(values[0], Packed):
        return _packed(values, at)
    if isinstance(values[0], list):
        together = [x for v in values for x in v]
        return [together[i] for i in at.tolist()]
    if not isinstance(values[0], np.ndarray):
        import awkward as ak

        return ak.concatenate(values)[at]
    return _gathered(values, at, located)


def _gathered(values: list[npt.NDArray[Any]], at: Int64s, located: dense.Located | None) -> npt.NDArray[Any]:
    """Rows of arrays, which lie one behind the other."""
    first = values[0]
    if len({v.shape[1:] for v in values}) > 1:
        raise _UnlikeError("rows of one length are made by mm.pad(n) with a number, as mm.pad(8)")
    if len({v.dtype for v in values}) > 1:
        raise _UnlikeError("arrays of one dtype are made by the step mm.astype")
    fits = located is not None and [*map(len, values)] == np.diff(located.starts).tolist()
    if located is None or not fits or first.dtype.hasobject or not all(v.flags.c_contiguous for v in values):
        taken: npt.NDArray[Any] = np.concatenate(values)[at]
        return taken
    return located.take(values, np.empty((len(at), *first.shape[1:]), first.dtype))


def _packed(values: list[Packed], at: Int64s) -> Packed:
    """Rows of packed lists, which may be lists of lists."""
    counts = np.concatenate([np.diff(v.offsets) for v in values])
    begins = np.cumsum(counts) - counts
    offsets = np.zeros(len(at) + 1, np.int64)
    np.cumsum(counts[at], out=offsets[1:])
    items = np.repeat(begins[at] - offsets[:-1], counts[at]) + np.arange(offsets[-1])
    valid = None
    if any(v.valid is not None for v in values):
        flags = [np.ones(int(v.offsets[-1]), np.bool_) if v.valid is None else v.valid for v in values]
        valid = np.concatenate(flags)[items]
    return Packed(_join([v.values for v in values], items), offsets, valid)


def _text(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return type(value).__name__
