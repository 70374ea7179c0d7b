"""Which rows are read from stores, as a test."""

from __future__ import annotations

import functools
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from unittest import mock

from mmdask.rows.reading import part, reader
from mmdask.rows.reading.picker import Picker

__all__ = ["Read", "Reads", "count_reads"]


class Read(NamedTuple):
    """Rows of a field that were asked for: a run of one part, or some by number.

    `start` is the first row of a run within its part; `part` and `start` are None of rows by number.
    """

    field: str
    n_rows: int
    part: int | None = None
    start: int | None = None


@dataclass
class Reads:
    """What was read so far, as `count_reads` counts it.

    Attributes
    ----------
    log : list of Read
        Each run of rows, in order.
    """

    log: list[Read] = field(default_factory=list)

    @property
    def n_rows(self) -> int:
        """Rows of all fields together: a row of which two fields were read counts twice."""
        return sum(read.n_rows for read in self.log)

    @property
    def rows(self) -> dict[str, int]:
        """How many rows of each field; fields of which nothing was read are not there."""
        counter: Counter[str] = Counter()
        for read in self.log:
            counter[read.field] += read.n_rows
        return dict(counter)

    def clear(self) -> None:
        """Begin anew."""
        self.log.clear()


@contextmanager
def count_reads() -> Iterator[Reads]:
    """Count the rows that are asked of stores within the block, in all threads of this process.

    Counted is every row of which values are asked for, whether its file is mapped or read: by computes, cuts, batches,
    rows by number, writers that read. A row counts as often as it is asked for; one that is known, of a cut that was
    kept as an example, is not asked for. Not counted are manifests, the numbers of items (`counts`, the bounds of
    chunks), which rows are missing, `ds.aux`, and what other processes read.

    Yields
    ------
    Reads
        `rows` by field, `n_rows` together, and the `log` of them.

    Examples
    --------
    >>> import mmdask as mm
    >>> import mmdask.testing as mt
    >>> ds = mm.from_arrays({"x": range(100), "y": range(100)}, "counted.mm")
    >>> with mt.count_reads() as reads:
    ...     total = ds["x"][10:20].sum().compute()
    >>> reads.rows, reads.log
    ({'x': 10}, [Read(field='x', n_rows=10, part=0, start=10)])
    """
    reads = Reads()
    inside = threading.local()  # one of these functions may use another

    def counted(original: Callable[..., Any], describe: Callable[..., list[Read]]) -> Callable[..., Any]:
        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            if getattr(inside, "yes", False):
                return original(*args, **kwargs)
            reads.log.extend(describe(*args, **kwargs))
            inside.yes = True
            try:
                return original(*args, **kwargs)
            finally:
                inside.yes = False

        return call

    with ExitStack() as stack:
        for original, describe in (
            (part.read_part, lambda snapshot, part, name, start, stop: [Read(name, stop - start, part, start)]),
            (reader.take, lambda snapshot, name, rows, *_, **__: [Read(name, len(rows))]),
            (reader.take_many, lambda snapshot, names, rows, *_, **__: [Read(name, len(rows)) for name in names]),
            (reader.take_padded, lambda snapshot, name, rows, *_, **__: [Read(name, len(rows))]),
        ):
            function = counted(original, describe)
            _replace(original, function)
            stack.callback(_replace, function, original)  # in modules that were imported meanwhile, too
        row = counted(Picker.__call__, lambda picker, row: [Read(picker.name, 1)])
        stack.enter_context(mock.patch.object(Picker, "__call__", row))
        yield reads


def _replace(function: Callable[..., Any], by: Callable[..., Any]) -> None:
    """Put one function in place of another wherever mmdask knows it: modules that import it have names of their own."""
    for module in [m for name, m in sys.modules.items() if name.partition(".")[0] == "mmdask"]:
        for name in [name for name, value in vars(module).items() if value is function]:
            setattr(module, name, by)
