"""Rows that are evaluated together: so few that what is computed of them stays in a cache."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from mmdask.expr import Expression, evaluate_three_valued
from mmdask.expr.packed import all_set
from mmdask.rows.reading.part import read_part
from mmdask.schema import FieldData
from mmdask.store.snapshot import Snapshot

__all__ = ["BLOCK_ROWS", "evaluate_rows", "row_blocks", "unless"]

Bits = npt.NDArray[np.uint8]
T = TypeVar("T")
#: of each thread, whether what it computes is still wanted
_THREAD = threading.local()
#: rows of a block at most; a multiple of 64
BLOCK_ROWS = 1 << 18
#: bytes of the fields that are read for a block; what is made of one of them fits a cache
BLOCK_NBYTES = 16 << 20


def unless(given_up: threading.Event, function: Callable[..., T], *args: Any) -> T:
    """Call a function in a thread of ours; once the event is set, it ends with its block, by `CancelledError`."""
    _THREAD.given_up = given_up
    return function(*args)


def row_blocks(
    snapshot: Snapshot, part: int, names: Iterable[str], start: int = 0, stop: int | None = None
) -> Iterator[tuple[int, int]]:
    """Runs of the rows of a part of which some fields take up about 16 MiB together, of 2**18 rows at most.

    Parameters
    ----------
    snapshot : Snapshot
        The store.
    part : int
        The number of the part.
    names : iterable of str
        The fields that are read; constants count nothing.
    start, stop : int, optional
        Rows of the part; all by default.

    Yields
    ------
    (int, int)
        First row of each run, and the row behind its last. All but the last have a multiple of 8 rows, one of 64 if
        they have as many.
    """
    rows = snapshot.parts[part].rows
    step = _step(sum(snapshot.stored(part, name)[0].field_nbytes(name) for name in names) / max(rows, 1))
    stop = rows if stop is None else stop
    given_up = getattr(_THREAD, "given_up", None)
    for a in range(start, stop, step):
        if given_up is not None and given_up.is_set():
            raise CancelledError("nobody waits for this any more")
        yield a, min(a + step, stop)


def _step(row_nbytes: float) -> int:
    step = int(min(BLOCK_ROWS, BLOCK_NBYTES / max(row_nbytes, 1)))
    return step & ~63 or max(step & ~7, 8)


def evaluate_rows(
    snapshot: Snapshot, part: int, start: int, stop: int, cuts: Sequence[Expression]
) -> list[tuple[Bits, Bits | None]]:
    """Bits of several cuts for rows `start` to `stop` of a part, in one pass over their fields.

    Returns
    -------
    list of (numpy.ndarray, numpy.ndarray or None)
        For each cut the rows where it is true, and those where it is not missing, as by
        `mmdask.expr.evaluate_three_valued`.
    """
    n_bytes = -(-(stop - start) // 8)
    true = np.empty((len(cuts), n_bytes), np.uint8)
    known: dict[int, Bits] = {}
    first_row = int(snapshot.starts[part])
    for a, b in row_blocks(snapshot, part, {name for cut in cuts for name in cut.fields}, start, stop):

        def read(name: str, a: int = a, b: int = b) -> FieldData:
            return read_part(snapshot, part, name, a, b)

        # Blocks are multiples of 8 rows, so their bits join.
        here = slice((a - start) // 8, -(-(b - start) // 8))
        for k, (bits, bits_known) in enumerate(evaluate_three_valued(cuts, read, b - a, first_row=first_row + a)):
            true[k, here] = bits
            if bits_known is not None:
                if k not in known:
                    known[k] = all_set(stop - start)
                known[k][here] = bits_known
    return [(true[k], known.get(k)) for k in range(len(cuts))]
