"""What a report says of a loader, and of a mixture."""

from __future__ import annotations

import math
from collections.abc import Iterator
from collections.abc import Sequence as Several
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import numpy.typing as npt

from mmdask.batches.loading.budget import Budget, batch_row_nbytes, is_narrow
from mmdask.batches.options import no_batches
from mmdask.batches.ordering.bucketing import Bucket
from mmdask.batches.ordering.cutting import Cutting
from mmdask.batches.ordering.sequence import ExactSequence, Sequence, WindowSequence
from mmdask.batches.report.classes import Classes, checked, sample_of
from mmdask.batches.report.cold import cold_reads
from mmdask.batches.report.measured import measure
from mmdask.batches.report.mixing import Mixing
from mmdask.batches.report.predicted import drawn, ratio, together
from mmdask.display import nbytes_text
from mmdask.errors import OptionError

if TYPE_CHECKING:
    from mmdask.rows.rows import Rows

__all__ = ["Reported", "ReportedMix", "report", "report_mix"]

Int64s = npt.NDArray[np.int64]
#: beyond this ratio there is advice
TARGET = 1.1
#: pages read for what is wanted
_MOST_READ = 2.0


class Stands(Protocol):
    """What a report asks of either."""

    batch_size: int

    @property
    def cutting(self) -> Cutting: ...

    @property
    def epoch(self) -> int: ...

    @property
    def n_rows(self) -> int | None: ...


class Reported(Stands, Protocol):
    """What a report asks of a loader."""

    rows: Rows
    fields: tuple[str, ...]
    shuffle: Literal[True, False, "exact"]
    bucket: Bucket | None
    budget: Budget

    @property
    def sequence(self) -> Sequence: ...


class ReportedMix(Stands, Protocol):
    """What a report asks of a mixture."""

    shares: tuple[float, ...]

    @property
    def loaders(self) -> Several[Reported]: ...

    def rows_at(self, epoch: int, start: int, stop: int) -> list[Int64s]: ...


def report(loader: Reported, field: str) -> Mixing:
    """See `Loader.report`."""
    rows, kind = loader.rows, checked(loader.rows, field)
    field = kind.name
    if not len(rows) or loader.cutting.stop(loader.epoch, 0) == 0:
        raise OptionError(f"nothing to report: {no_batches(loader.n_rows, loader.batch_size)}")
    classes = Classes(rows, kind)
    why, predicted = "", math.nan
    if loader.shuffle is False:
        why = "rows come as they lie"
    elif loader.bucket is not None:
        why = "rows are drawn by length"
    elif type(loader.sequence) is ExactSequence:
        predicted = 1.0
    else:
        predicted = ratio(drawn(loader.sequence, classes, loader.epoch, loader.batch_size), loader.n_rows)

    def classes_at(start: int, stop: int) -> Int64s:
        return classes.of(loader.sequence.rows_at(loader.epoch, start, stop))

    measured, precision, n_classes = measure(loader.cutting, loader.epoch, loader.sequence.n, classes.n, classes_at)
    mixing = Mixing(
        field,
        n_classes,
        predicted,
        measured,
        precision,
        cold_reads(rows, loader.fields, loader.sequence)[0],
        *_window(loader),
        _ahead(loader),
        why,
        (),
    )
    return Mixing(**{**mixing.__dict__, "advice": tuple(_advice(loader, mixing))})


def report_mix(mix: ReportedMix, field: str) -> Mixing:
    """See `Mix.report`."""
    loaders = mix.loaders
    kinds = [checked(loader.rows, field) for loader in loaders]
    field = kinds[0].name
    if len({(kind.kind, kind.labels) for kind in kinds}) > 1:
        raise OptionError(f"field {field!r} is not the same in all of these loaders: its labels or its kind differ")
    n = mix.n_rows or sum(loader.sequence.n for loader in loaders)
    if mix.cutting.stop(mix.epoch, 0) == 0:
        raise OptionError(f"nothing to report: {no_batches(mix.n_rows, mix.batch_size)}")
    samples = [sample_of(loader.rows, kind) for loader, kind in zip(loaders, kinds, strict=True)]
    classes = [Classes(loader.rows, k, np.concatenate(samples)) for loader, k in zip(loaders, kinds, strict=True)]
    why, predicted = "", math.nan
    shares = np.array(mix.shares) / sum(mix.shares)
    if any(loader.shuffle is False for loader in loaders):
        why = "rows of a loader come as they lie"
    else:
        each = zip(loaders, classes, (mix.batch_size * shares).tolist(), strict=True)
        predicted = ratio(
            together([drawn(loader.sequence, c, mix.epoch, size) for loader, c, size in each]), mix.n_rows
        )

    def classes_at(start: int, stop: int) -> Int64s:
        of_each = mix.rows_at(mix.epoch, start, stop)
        return np.concatenate([c.of(rows) for c, rows in zip(classes, of_each, strict=True)])

    measured, precision, n_classes = measure(mix.cutting, mix.epoch, n, classes[0].n, classes_at)
    of_rows, of_blocks, block, nbytes = zip(*map(_window, loaders), strict=True)
    cold = float((shares * [cold_reads(x.rows, x.fields, x.sequence)[0] for x in loaders]).sum())
    advice: tuple[str, ...] = ()
    if (measured - 2 * precision if why else predicted) > TARGET:
        advice = (f"Batches vary more than {TARGET} times what a true shuffle's would: see the report of each loader.",)
    window = sum(of_rows), sum(of_blocks), max(block), sum(nbytes)
    ahead = sum(map(_ahead, loaders))
    return Mixing(field, n_classes, predicted, measured, precision, cold, *window, ahead, why, advice)


def _window(loader: Reported) -> tuple[int, int, int, int]:
    """Rows and blocks of a window, rows of a block, and stored bytes of the window."""
    sequence, rows = loader.sequence, loader.rows
    if not isinstance(sequence, WindowSequence):
        return 0, 0, 0, 0
    n = -(-sequence.n // max(sequence.windows.n_windows, 1))
    return n, sequence.windows.n_strata, sequence.grain.block, int(n * rows.row_nbytes)


def _ahead(loader: Reported) -> int:
    """Bytes of three runs, or of all rows."""
    run = loader.budget.run(loader.shuffle is True and is_narrow(loader.rows, loader.fields))
    return int(min(3 * run, len(loader.rows) * (batch_row_nbytes(loader.rows, loader.fields) + 8)))


def _advice(loader: Reported, mixing: Mixing) -> Iterator[str]:
    """What to change."""
    found = mixing.measured - 2 * mixing.precision if mixing.why else mixing.predicted
    saved = "ds.save(path, order='shuffled'), once, and then read that store"
    if loader.shuffle is False:
        if found > TARGET:
            yield "Rows come as they lie: shuffle=True mixes them."
    elif found > TARGET:
        yield f"Batches vary more than {TARGET} times what a true shuffle's would."
        if mixing.window_rows and not mixing.why:
            factor = (found - 1) / (TARGET - 1)
            bytes_of = mixing.window_nbytes + 8 * mixing.window_rows
            yield f"window={nbytes_text(factor * bytes_of)!r}, of which memory= must be twice as much, would do"
            smaller = int(mixing.block_rows / factor)
            if smaller:
                yield f"or block={smaller} with window={nbytes_text(bytes_of)!r}: smaller pieces, and more of them"
        yield f"or shuffle='exact', if the data are in memory or on a fast disk; or {saved}."
    if mixing.amplification > _MOST_READ and loader.shuffle is not False:
        times = f"A cold read takes {mixing.amplification:.1f} times the bytes that are wanted"
        near = cold_reads(loader.rows, loader.fields, loader.sequence)[1]
        if near > _MOST_READ:
            yield f"{times}, as one row in {near:.1f} of those that lie together is selected: {saved}."
        else:
            other = "shuffle=True" if loader.shuffle == "exact" else "a larger block="
            yield f"{times}: from a disk {other} reads less; so does {saved}."
