"""How well a loader mixes the values of a field, and what that costs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mmdask.batches.budget import batch_row_nbytes, is_narrow
from mmdask.batches.sequence import WindowSequence
from mmdask.display import html_block, html_table, nbytes_text, text_table
from mmdask.errors import OptionError
from mmdask.schema import Field
from mmdask.store.npy import HEADER

if TYPE_CHECKING:
    from mmdask.batches.loader import Loader
    from mmdask.rows.rows import Rows

__all__ = ["Mixing", "report"]

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
    rows = loader.rows
    if field not in rows.schema:
        rows.schema.match([field])  # raises, with what it may have meant
    kind = rows.schema[field]
    if kind.kind not in ("dense", "category") or kind.shape or kind.dtype.kind not in "biufmM":
        raise OptionError(
            f"field {field!r} is {kind.describe()}; mixing is reported for fields with one number or label per row"
        )
    if not len(rows) or loader.cutting.stop(loader.epoch, 0) == 0:
        raise OptionError("there is no batch, so there is nothing to report")
    classes = _Classes(rows, kind)
    why, predicted = "", math.nan
    if loader.shuffle == "exact" and not loader.is_resampled:
        predicted = 1.0
    elif isinstance(loader.sequence, WindowSequence) and not loader.is_resampled:
        predicted = _predicted(rows, classes, loader.sequence, loader.batch_size)
    else:
        why = "rows come as they lie" if loader.shuffle is False else "rows are drawn by weights, classes or length"
    measured, precision, n_classes = _measured(loader, classes)
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


class _Classes:
    """The values of a field as numbers of classes."""

    def __init__(self, rows: Rows, field: Field) -> None:
        self.rows, self.field = rows, field
        n = len(rows)
        sample = self._values(rows.numbers_of(np.unique(np.linspace(0, n - 1, min(n, 1 << 16)).astype(np.int64))))
        if field.kind == "category":
            self._edges = None
            self.n = max(len(field.labels), 1) + 1  # the last is of what is missing
            return
        found = np.unique(sample[~np.isnan(sample)])
        if len(found) > _MOST_CLASSES:
            found = np.unique(np.quantile(sample[~np.isnan(sample)], np.arange(_QUANTILES) / _QUANTILES))
        self._edges = found[1:]
        self.n = len(self._edges) + 2  # the last is of nan and what is missing

    def _values(self, numbers: Int64s) -> npt.NDArray[Any]:
        data = self.rows.take(self.field.name, numbers)
        values = data.values
        if values.dtype.kind in "mM":
            values = values.view(np.int64)
        valid = data.valid_at(0)
        if self.field.kind == "category":
            return values if valid is None else np.where(valid, values, -1)
        values = values.astype(np.float64)
        return values if valid is None else np.where(valid, values, np.nan)

    def of(self, numbers: Int64s) -> Int64s:
        """The class of each of these rows, int64."""
        values = self._values(numbers)
        if self._edges is None:
            return values.astype(np.int64) % self.n
        found = np.searchsorted(self._edges, values, side="right").astype(np.int64)
        found[np.isnan(values)] = self.n - 1
        return found


def _predicted(rows: Rows, classes: _Classes, sequence: WindowSequence, batch_size: int) -> float:
    """The variance of counts in batches, as times that of a true shuffle, in the mean over all seeds.

    A window takes one block of every stratum, so that the variance of its count of a class is the sum of those of
    blocks within strata; a batch is drawn from its window without replacement.
    """
    n, windows = len(rows), sequence.windows
    of_all = np.zeros(classes.n)
    blocks = np.zeros(windows.n_strata)
    sums, squares = np.zeros((2, windows.n_strata, classes.n))
    first = 0
    for counts in _block_counts(rows, classes, sequence.grain.block):
        strata = (np.arange(first + 1, first + 1 + len(counts)) * windows.n_strata - 1) // windows.n_blocks
        first += len(counts)
        np.add.at(blocks, strata, 1)
        np.add.at(sums, strata, counts)
        np.add.at(squares, strata, counts.astype(np.float64) ** 2)
        of_all += counts.sum(0)
    share = of_all / n
    expected = batch_size * share * (1 - share) * (n - batch_size) / max(n - 1, 1)
    if not expected.sum() > 0:
        return 1.0
    in_window = n / windows.n_windows
    mean = sums / blocks[:, None]
    between = (squares / blocks[:, None] - mean**2).sum(0) / in_window**2  # of the share of a class in a window
    within = share * (1 - share) - between
    found = np.zeros(classes.n)
    for begin in (np.arange(_OFFSETS) + 0.5) / _OFFSETS * in_window:  # where in a window a batch begins
        pieces = _pieces(begin, batch_size, in_window)
        # Windows have all rows together, so that one has more of a class where the others have less.
        square = (pieces**2).sum()
        others = (batch_size**2 - square) / max(windows.n_windows - 1, 1)
        found += (square - others) * between + (pieces * (in_window - pieces)).sum() / max(in_window - 1, 1) * within
    return float(found.sum() / _OFFSETS / expected.sum())


def _pieces(begin: float, size: int, in_window: float) -> npt.NDArray[np.float64]:
    """How many rows of each window a batch has that begins so far from the begin of one."""
    edges = np.arange(0, begin + size + in_window, in_window)
    pieces: npt.NDArray[np.float64] = np.minimum(edges[1:], begin + size) - np.maximum(edges[:-1], begin)
    return np.maximum(pieces, 0)


def _block_counts(rows: Rows, classes: _Classes, block: int) -> Iterator[Int64s]:
    """How many rows of each class the blocks have that have any, int64 ``(blocks, classes)``, piece by piece."""
    open_block, open_counts = -1, np.zeros((1, classes.n), np.int64)
    for start in range(0, len(rows), _PIECE):
        numbers = rows.numbers(start, min(start + _PIECE, len(rows)))
        found, which = np.unique(numbers // block, return_inverse=True)
        flat = np.bincount(which * classes.n + classes.of(numbers), minlength=len(found) * classes.n)
        counts = flat.reshape(len(found), classes.n)
        if found[0] == open_block:
            counts[0] += open_counts[0]
        elif open_block >= 0:
            yield open_counts
        open_block, open_counts = int(found[-1]), counts[-1:]
        yield counts[:-1]
    yield open_counts


def _measured(loader: Loader, classes: _Classes) -> tuple[float, float, int]:
    """The variance of counts in batches, how precise it is, and of how many classes."""
    epoch, n = loader.epoch, loader.sequence.n
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
            found = classes.of(loader.sequence.rows_at(epoch, position, stop))
            counts.append(np.bincount(found, minlength=classes.n))
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
