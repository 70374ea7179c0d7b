"""How well a loader mixes the values of a field, and what that costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mmdask.batches.balanced import BalancedSequence
from mmdask.batches.budget import batch_row_nbytes, is_narrow
from mmdask.batches.sequence import ExactSequence, Sequence, WindowSequence
from mmdask.batches.weighted import shift_of
from mmdask.display import html_block, html_table, nbytes_text, text_table
from mmdask.errors import OptionError
from mmdask.schema import Field
from mmdask.store.npy import HEADER

if TYPE_CHECKING:
    from mmdask.batches.loader import Loader
    from mmdask.batches.mix import Mix
    from mmdask.rows.rows import Rows
    from mmdask.rows.weighing import Weighed

__all__ = ["Mixing", "report", "report_mix"]

Int64s = npt.NDArray[np.int64]
#: beyond this ratio there is advice
TARGET = 1.1
#: pages read for what is wanted
_MOST_READ = 2.0
#: batches are looked at in so many places of an epoch, and so many rows of them at most
_PLACES = 32
_ROWS = 1 << 22
#: distinct integers that are classes of their own, else the values are cut into as many classes of equal size
_MOST_CLASSES = 64
_QUANTILES = 8
_PIECE = 1 << 20
_OFFSETS = 32
_PAGE = 4096


@dataclass(frozen=True)
class Mixing:
    """How well the batches of a loader mix the values of a field; prints as a table. Made by `Loader.report`.

    Attributes
    ----------
    field : str
    classes : int
        Labels, distinct numbers, or ranges of equally many values.
    predicted : float
        The variance of the counts of the classes in batches, as times that of a true shuffle, that the design has with
        these settings and these data, in the mean over all seeds; nan where nothing is predicted.
    measured : float
        That of batches of this epoch.
    precision : float
        By how much a measured ratio of 1 varies.
    amplification : float
        Bytes of the pages that a cold read of the fields touches, as times those that are wanted.
    window_rows, window_blocks, block_rows : int
        What is mixed together, of how many blocks; rows of a block. All 0 where there are no windows.
    window_nbytes : int
        Stored bytes of the window, of all fields.
    ahead_nbytes : int
        Bytes of batches that are read together or ahead at most.
    why : str
        Why nothing is predicted; empty if something is.
    advice : tuple of str
        What to change where a target cannot be met.
    """

    field: str
    classes: int
    predicted: float
    measured: float
    precision: float
    amplification: float
    window_rows: int
    window_blocks: int
    block_rows: int
    window_nbytes: int
    ahead_nbytes: int
    why: str
    advice: tuple[str, ...]

    def _lines(self) -> list[tuple[str, str]]:
        predicted = f"none: {self.why}" if self.why else f"{self.predicted:.2f}"
        lines = [
            ("classes", str(self.classes)),
            ("variance in batches / that of a true shuffle, predicted", predicted),
            ("measured", f"{self.measured:.2f} +- {self.precision:.2f}"),
            ("bytes read cold / bytes wanted", f"{self.amplification:.2f}"),
        ]
        if self.window_rows:
            window = f"{self.window_rows:,} rows in {self.window_blocks:,} blocks of {self.block_rows:,}"
            lines.append(("window", f"{window}, {nbytes_text(self.window_nbytes)}"))
        lines.append(("batches read together and ahead", f"up to {nbytes_text(self.ahead_nbytes)}"))
        return lines

    def _headers(self) -> tuple[str, str]:
        return f"mixing of {self.field}", ""

    def __str__(self) -> str:
        return "\n".join([text_table(self._lines(), self._headers()), *self.advice])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        table = html_table(self._lines(), self._headers())
        return html_block(table, *(html_table([(line,)], ("",)) for line in self.advice))


def report(loader: Loader, field: str) -> Mixing:
    """See `Loader.report`."""
    rows, kind = loader.rows, _checked(loader.rows, field)
    if not len(rows) or loader.cutting.stop(loader.epoch, 0) == 0:
        raise OptionError("there is no batch, so there is nothing to report")
    classes = _Classes(rows, kind)
    why, predicted = "", math.nan
    if loader.shuffle is False:
        why = "rows come as they lie"
    elif loader.bucket is not None:
        why = "rows are drawn by length"
    elif type(loader.sequence) is ExactSequence:
        predicted = 1.0
    else:
        predicted = _ratio(_drawn(loader.sequence, classes, loader.epoch, loader.batch_size), loader)

    def classes_at(epoch: int, start: int, stop: int) -> Int64s:
        return classes.of(loader.sequence.rows_at(epoch, start, stop))

    measured, precision, n_classes = _measured(loader, loader.sequence.n, classes.n, classes_at)
    mixing = Mixing(
        field,
        n_classes,
        predicted,
        measured,
        precision,
        _amplification(loader),
        *_window(loader),
        _ahead(loader),
        why,
        (),
    )
    return Mixing(**{**mixing.__dict__, "advice": tuple(_advice(loader, mixing))})


def report_mix(mix: Mix, field: str) -> Mixing:
    """See `Mix.report`."""
    loaders = mix.loaders
    kinds = [_checked(loader.rows, field) for loader in loaders]
    if len({(kind.kind, kind.labels) for kind in kinds}) > 1:
        raise OptionError(f"field {field!r} is not the same in all of these loaders: its labels or its kind differ")
    n = mix.n_rows or sum(loader.sequence.n for loader in loaders)
    if mix.cutting.stop(mix.epoch, 0) == 0:
        raise OptionError("there is no batch, so there is nothing to report")
    samples = [_sample(loader.rows, kind) for loader, kind in zip(loaders, kinds, strict=True)]
    classes = [_Classes(loader.rows, k, np.concatenate(samples)) for loader, k in zip(loaders, kinds, strict=True)]
    why, predicted = "", math.nan
    shares = np.array(mix.shares) / sum(mix.shares)
    if any(loader.shuffle is False for loader in loaders):
        why = "rows of a loader come as they lie"
    else:
        each = zip(loaders, classes, (mix.batch_size * shares).tolist(), strict=True)
        predicted = _ratio(_together([_drawn(loader.sequence, c, mix.epoch, size) for loader, c, size in each]), mix)

    def classes_at(epoch: int, start: int, stop: int) -> Int64s:
        return np.concatenate([c.of(rows) for c, rows in zip(classes, mix.rows_at(epoch, start, stop), strict=True)])

    measured, precision, n_classes = _measured(mix, n, classes[0].n, classes_at)
    of_rows, of_blocks, block, nbytes = zip(*map(_window, loaders), strict=True)
    cold = float((shares * [_amplification(loader) for loader in loaders]).sum())
    advice: tuple[str, ...] = ()
    if (measured - 2 * precision if why else predicted) > TARGET:
        advice = (f"Batches vary more than {TARGET} times what a true shuffle's would: see the report of each loader.",)
    window = sum(of_rows), sum(of_blocks), max(block), sum(nbytes)
    ahead = sum(map(_ahead, loaders))
    return Mixing(field, n_classes, predicted, measured, precision, cold, *window, ahead, why, advice)


def _checked(rows: Rows, field: str) -> Field:
    """The field, if it has one number or label per row."""
    if field not in rows.schema:
        rows.schema.match([field])  # raises, with what it may have meant
    kind = rows.schema[field]
    if kind.kind not in ("dense", "category") or kind.shape or kind.dtype.kind not in "biufmM":
        raise OptionError(
            f"field {field!r} is {kind.describe()}; mixing is reported for fields with one number or label per row"
        )
    return kind


def _sample(rows: Rows, field: Field) -> npt.NDArray[Any]:
    n = len(rows)
    return _values(rows, field, rows.numbers_of(np.unique(np.linspace(0, n - 1, min(n, 1 << 16)).astype(np.int64))))


def _values(rows: Rows, field: Field, numbers: Int64s) -> npt.NDArray[Any]:
    """Values as floats, nan where there is none; of categories codes, -1 there."""
    data = rows.take(field.name, numbers)
    values = data.values
    if values.dtype.kind in "mM":
        values = values.view(np.int64)
    valid = data.valid_at(0)
    if field.kind == "category":
        return values if valid is None else np.where(valid, values, -1)
    values = values.astype(np.float64)
    return values if valid is None else np.where(valid, values, np.nan)


class _Classes:
    """The values of a field as numbers of classes; a `sample` of other rows may say which there are."""

    def __init__(self, rows: Rows, field: Field, sample: npt.NDArray[Any] | None = None) -> None:
        self.rows, self.field = rows, field
        sample = _sample(rows, field) if sample is None else sample
        if field.kind == "category":
            self._edges = None
            self.n = max(len(field.labels), 1) + 1  # the last is of what is missing
            return
        found = np.unique(sample[~np.isnan(sample)])
        if len(found) > _MOST_CLASSES:
            found = np.unique(np.quantile(sample[~np.isnan(sample)], np.arange(_QUANTILES) / _QUANTILES))
        self._edges = found[1:]
        self.n = len(self._edges) + 2  # the last is of nan and what is missing

    def of(self, numbers: Int64s) -> Int64s:
        """The class of each of these rows, int64."""
        values = _values(self.rows, self.field, numbers)
        if self._edges is None:
            return values.astype(np.int64) % self.n
        found = np.searchsorted(self._edges, values, side="right").astype(np.int64)
        found[np.isnan(values)] = self.n - 1
        return found


@dataclass(frozen=True)
class _Drawn:
    """Rows of a batch that are drawn from some rows, and how the counts of their classes vary, in the mean over seeds.

    Parameters
    ----------
    size : float
        How many.
    share : numpy.ndarray
        Of each class among those that they are drawn from.
    variance : numpy.ndarray
        Of their counts.
    """

    size: float
    share: npt.NDArray[np.float64]
    variance: npt.NDArray[np.float64]


def _ratio(drawn: _Drawn, loader: Loader | Mix) -> float:
    """The variance of counts, as times that of a true shuffle of all rows of an epoch."""
    n = loader.n_rows or math.inf
    rest = 1.0 if math.isinf(n) else (n - drawn.size) / max(n - 1, 1)
    expected = float((drawn.size * drawn.share * (1 - drawn.share)).sum()) * rest
    return float(drawn.variance.sum()) / expected if expected > 0 else 1.0


def _drawn(sequence: Sequence, classes: _Classes, epoch: int, size: float) -> _Drawn:
    """What a sequence draws for a batch."""
    if isinstance(sequence, BalancedSequence):
        parts = zip(sequence.classes, sequence.quotas.shares, strict=True)
        total = sum(sequence.quotas.shares)
        return _together([_drawn(part, classes, epoch, size * share / total) for part, share in parts])
    if isinstance(sequence, WindowSequence):
        return _of_windows(sequence, classes, epoch, size)
    of_all = np.zeros(classes.n)
    for counts in _block_counts(sequence, classes, epoch, max(sequence.n, 1)):
        of_all += counts.sum(0)
    share = of_all / sequence.n
    return _Drawn(size, share, size * share * (1 - share) * max(sequence.n - size, 0) / max(sequence.n - 1, 1))


def _together(parts: list[_Drawn]) -> _Drawn:
    """Parts of a batch that are drawn apart, each of so many rows."""
    size = sum(part.size for part in parts)
    share = sum([part.share * part.size for part in parts], np.zeros(1)) / size
    return _Drawn(size, share, sum([part.variance for part in parts], np.zeros(1)))


def _of_windows(sequence: WindowSequence, classes: _Classes, epoch: int, size: float) -> _Drawn:
    """A window takes one block of every stratum, so that the variance of its count of a class is the sum of those of
    blocks within strata; a batch is drawn from its window without replacement.
    """
    n, windows = sequence.n, sequence.windows
    of_all = np.zeros(classes.n)
    blocks = np.zeros(windows.n_strata)
    sums, squares = np.zeros((2, windows.n_strata, classes.n))
    first = 0
    for counts in _block_counts(sequence, classes, epoch, sequence.grain.block):
        strata = (np.arange(first + 1, first + 1 + len(counts)) * windows.n_strata - 1) // windows.n_blocks
        first += len(counts)
        np.add.at(blocks, strata, 1)
        np.add.at(sums, strata, counts)
        np.add.at(squares, strata, counts.astype(np.float64) ** 2)
        of_all += counts.sum(0)
    share = of_all / n
    in_window = n / windows.n_windows
    mean = sums / blocks[:, None]
    between = (squares / blocks[:, None] - mean**2).sum(0) / in_window**2  # of the share of a class in a window
    within = share * (1 - share) - between
    found = np.zeros(classes.n)
    for begin in (np.arange(_OFFSETS) + 0.5) / _OFFSETS * in_window:  # where in a window a batch begins
        pieces = _pieces(begin, size, in_window)
        # Windows have all rows together, so that one has more of a class where the others have less.
        square = (pieces**2).sum()
        others = (size**2 - square) / max(windows.n_windows - 1, 1)
        found += (square - others) * between + (pieces * (in_window - pieces)).sum() / max(in_window - 1, 1) * within
    return _Drawn(size, share, found / _OFFSETS)


def _pieces(begin: float, size: float, in_window: float) -> npt.NDArray[np.float64]:
    """How many rows of each window a batch has that begins so far from the begin of one."""
    edges = np.arange(0, begin + size + in_window, in_window)
    pieces: npt.NDArray[np.float64] = np.minimum(edges[1:], begin + size) - np.maximum(edges[:-1], begin)
    return np.maximum(pieces, 0)


def _block_counts(sequence: Sequence, classes: _Classes, epoch: int, block: int) -> Iterator[Int64s]:
    """How many rows of each class the blocks have that have any, int64 ``(blocks, classes)``, piece by piece.

    Of rows that are drawn by weights these are blocks of copies.
    """
    open_block, open_counts = -1, np.zeros((1, classes.n), np.int64)
    for start in range(0, sequence.n, _PIECE):
        stop = min(start + _PIECE, sequence.n)
        weighed: Weighed | None = getattr(sequence, "weighed", None)
        if weighed is None:
            assert isinstance(sequence, WindowSequence | ExactSequence)
            places = numbers = sequence.rows.numbers(start, stop)
        else:
            places = np.arange(start, stop)
            numbers = weighed.copies(shift_of(sequence.seed, epoch), places)  # type: ignore[attr-defined]
        found, which = np.unique(places // block, return_inverse=True)
        flat = np.bincount(which * classes.n + classes.of(numbers), minlength=len(found) * classes.n)
        counts = flat.reshape(len(found), classes.n)
        if found[0] == open_block:
            counts[0] += open_counts[0]
        elif open_block >= 0:
            yield open_counts
        open_block, open_counts = int(found[-1]), counts[-1:]
        yield counts[:-1]
    yield open_counts


def _measured(
    loader: Loader | Mix, n: int, n_classes: int, classes_at: Callable[[int, int, int], Int64s]
) -> tuple[float, float, int]:
    """The variance of counts in batches, how precise it is, and of how many classes."""
    epoch = loader.epoch
    size = loader.cutting.stop(epoch, 0)
    n_batches = max(n // size, 1)
    each = max(min(_ROWS // size, n_batches) // _PLACES, 1)
    counts, sizes = [], []
    done = -1
    for i in np.unique(np.linspace(0, max(n_batches - each, 0), _PLACES).astype(np.int64)).tolist():
        position = loader.cutting.after(epoch, 0, i) if i > done else -1
        for k in range(i, min(i + each, n_batches)):
            if k <= done or position < 0:
                continue
            stop = loader.cutting.stop(epoch, position)
            if stop == position or (k and stop - position < size / 2):
                break  # what is left over at the end is no batch like the others
            found = classes_at(epoch, position, stop)
            counts.append(np.bincount(found, minlength=n_classes))
            sizes.append(len(found))
            position, done = stop, k
    table, rows = np.array(counts, np.float64), np.array(sizes, np.float64)
    share = table.sum(0) / rows.sum()
    filled = int((share > 0).sum())
    if len(rows) < 2:
        return math.nan, math.nan, filled
    # That of a true shuffle, around the share that these batches have together.
    expected = rows.mean() * (share * (1 - share)).sum() * n * (len(rows) - 1) / max(n - 1, 1)
    if filled < 2:
        return 1.0, 0.0, filled
    precision = math.sqrt(2 / (len(rows) - 1) / (filled - 1))
    return float(((table - rows[:, None] * share) ** 2).sum() / expected), precision, filled


def _window(loader: Loader) -> tuple[int, int, int, int]:
    """Rows and blocks of a window, rows of a block, and stored bytes of the window."""
    sequence, rows = loader.sequence, loader.rows
    if not isinstance(sequence, WindowSequence):
        return 0, 0, 0, 0
    n = -(-sequence.n // max(sequence.windows.n_windows, 1))
    return n, sequence.windows.n_strata, sequence.grain.block, int(n * rows.row_nbytes)


def _ahead(loader: Loader) -> int:
    """Bytes of three runs, or of all rows."""
    run = loader.budget.run(loader.shuffle is True and is_narrow(loader.rows, loader.fields))
    return int(min(3 * run, len(loader.rows) * (batch_row_nbytes(loader.rows, loader.fields) + 8)))


def _amplification(loader: Loader) -> float:
    """Pages touched, in bytes, for each byte wanted, when the blocks of a window or the rows of a batch are read."""
    rows = loader.rows
    n, n_blocks, block, _ = _window(loader)
    if loader.shuffle is False:
        return rows.n_store / max(len(rows), 1)
    block, wanted = (block, n / n_blocks) if n_blocks else (1, 1.0)
    touched = asked = 0.0
    for name in loader.fields:
        field = rows.schema[name]
        for width in [8.0, rows.row_nbytes] if field.n_offsets else [float(field.item_nbytes)]:
            if width:
                nbytes = block * width
                aligned = not (nbytes % _PAGE or HEADER % _PAGE)
                touched += nbytes if aligned else nbytes + _PAGE
                asked += wanted * width
    return touched / asked if asked else 1.0


def _advice(loader: Loader, mixing: Mixing) -> Iterator[str]:
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
        yield (
            f"A cold read takes {mixing.amplification:.1f} times the bytes that are wanted: from a disk "
            + ("shuffle=True" if loader.shuffle == "exact" else "a larger block=")
            + f" reads less; so does {saved}."
        )
