"""What the steps of a collation pass on to each other: rows that are fetched together, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from mmdask.errors import OptionError
from mmdask.kernels.once import once
from mmdask.schema import Field, FieldData

if TYPE_CHECKING:
    from mmdask.rows.reading.reader import Found
    from mmdask.rows.rows import Rows

__all__ = [
    "Fetch",
    "Form",
    "Items",
    "Lengths",
    "Made",
    "Maker",
    "Packed",
    "Take",
    "axes_of",
    "extents_of",
    "in_lists",
    "shape_text",
]

Int64s = npt.NDArray[np.int64]
#: how long rows are on each axis, by the name in ``collate=`` and the field
Lengths = Mapping[tuple[str, str], tuple[int, ...]]


class Packed(NamedTuple):
    """Ragged rows, one after the other: row i is ``values[offsets[i]:offsets[i + 1]]``.

    Attributes
    ----------
    values : numpy.ndarray or Packed
        ``(items, *shape)``; for a field of several levels the next level, as a `Packed` again.
    offsets : numpy.ndarray
        int64 ``(rows + 1,)``, from 0.
    valid : numpy.ndarray or None
        bool, one per element of `values`: False where it is missing; a missing number is nan or 0, a missing list has
        no items. None if elements of this depth are never missing.
    """

    values: Any
    offsets: Any
    valid: Any = None

    def __repr__(self) -> str:
        with np.printoptions(threshold=40):  # a batch has thousands of items
            return f"Packed({', '.join(f'{name}={value!r}' for name, value in self._asdict().items())})"


@dataclass(frozen=True)
class Take:
    """The rows of one batch among those that were fetched together, and those of the batch on all ranks."""

    start: int
    stop: int
    everyone: Int64s
    own: int  # where the first of them is among those of all ranks
    streams: Int64s | None = None  # of those on all ranks, where these are not their numbers
    longest: Lengths | None = None  # of the rows of others in the batch
    shortest: Lengths | None = None  # of these, before they are cropped to it

    @property
    def rows(self) -> slice:
        return slice(self.start, self.stop)

    @property
    def alone(self) -> bool:
        """Whether this rank has all rows of the batch."""
        return len(self.everyone) == self.stop - self.start


@dataclass(frozen=True)
class Fetch:
    """Rows of several batches of one epoch, which are read together.

    Parameters
    ----------
    rows : Rows
        Where they are read.
    numbers : numpy.ndarray
        int64: their numbers in the store, batch after batch.
    takes : tuple of Take
        The batches.
    seed, epoch : int
        What random steps depend on, besides the numbers.
    found : dict
        What fields know of each other while they are read: see `mmdask.rows.reading.reader.take_padded`.
    """

    rows: Rows
    numbers: Int64s
    takes: tuple[Take, ...]
    seed: int
    epoch: int
    found: Found = dataclass_field(default_factory=dict, repr=False)

    @property
    def streams(self) -> Int64s:
        """The number of the random stream of each row, int64: where rows come once in an epoch, theirs."""
        of = [t.everyone if t.streams is None else t.streams for t in self.takes]
        own = [s[t.own : t.own + t.stop - t.start] for s, t in zip(of, self.takes, strict=True)]
        return np.concatenate([np.zeros(0, np.int64), *own])

    def of_everyone(self, take: Take) -> Fetch:
        """The rows of a batch on all ranks."""
        whole = Take(0, len(take.everyone), take.everyone, 0, take.streams, take.longest, take.shortest)
        return Fetch(self.rows, take.everyone, (whole,), self.seed, self.epoch)


class Made(NamedTuple):
    """What becomes of the rows of a field in one batch; a mask says which items are real."""

    value: Any
    mask: npt.NDArray[np.bool_] | None = None


#: makes the entry of one batch; arrays of different batches share no element
Maker = Callable[[Take], Made]


@dataclass(frozen=True)
class Items:
    """Rows of a field that are fetched and cut, but have no common shape yet.

    Parameters
    ----------
    field : Field
        With the dtype that they have by now.
    data : FieldData
        Of lists only the items that are kept.
    extents : numpy.ndarray
        int64 ``(rows, axes)``: how long the rows are on each axis before they are cut.
    begin, kept : numpy.ndarray
        int64 ``(rows, axes)``: what is kept of them. Of lists it is all that `data` has.
    lengths : callable
        Gives for one batch ``(rows of all ranks, axes)``: what is kept of the rows of all ranks.
    again : callable
        Gives other rows, fetched and cut in the same way.
    fetch : Fetch
        The rows.
    key : tuple of str
        The name in ``collate=``, and that of the field.
    """

    field: Field
    data: FieldData
    extents: Int64s
    begin: Int64s
    kept: Int64s
    lengths: Callable[[Take], Int64s]
    again: Callable[[Fetch], Items]
    fetch: Fetch
    key: tuple[str, str]

    @once
    def valid(self) -> npt.NDArray[np.bool_] | None:
        """Which rows are not missing; None where they never are."""
        if 0 not in self.field.optional:
            return None
        valid = self.data.valid_at(0)
        return np.ones(len(self.data), np.bool_) if valid is None else valid


@dataclass(frozen=True)
class Form:
    """What a chain of steps makes, as far as the field says.

    Parameters
    ----------
    what : str
        An array, `Packed`, a list of arrays, a list of str, or an awkward array.
    dtype : numpy.dtype
    axes : int
        Of a row, of arrays and of those in a list.
    labels : tuple of str, optional
        What the numbers mean, if they are codes.
    """

    what: Literal["array", "packed", "list", "text", "nested"]
    dtype: np.dtype[Any]
    axes: int = 0
    labels: tuple[str, ...] | None = None

    def __str__(self) -> str:
        return {
            "array": f"{self.dtype} array",
            "packed": "mm.Packed",
            "list": "list of arrays",
            "text": "list of str",
            "nested": "awkward array",
        }[self.what]


def in_lists(field: Field) -> bool:
    """Whether rows are lists of items, or text, which is a list of bytes."""
    return field.kind in ("ragged", "string")


def axes_of(field: Field) -> int:
    """How many axes of a row can be cut: levels of lists, with the bytes of text; those of arrays."""
    return len(field.shape) if field.kind == "dense" else field.axes or field.n_offsets


def extents_of(field: Field, rows: Rows, numbers: Int64s, data: FieldData | None = None) -> Int64s:
    """How long rows are on each axis, int64 ``(rows, axes)``; of lists, on the first alone.

    Read without their items, unless these are given.
    """
    if field.kind == "dense":
        return np.broadcast_to(np.array(field.shape, np.int64), (len(numbers), len(field.shape)))
    if field.kind == "shaped":
        return rows.shapes(field.name, numbers) if data is None or data.shapes is None else data.shapes
    counts = rows.counts(field.name, numbers) if data is None else data.counts
    return counts[:, None]


def shape_text(shape: Any) -> str:
    """How long a row is, in words."""
    lengths = [int(n) for n in shape]
    return f"{lengths[0]} item{'s' * (lengths[0] != 1)}" if len(lengths) == 1 else f"the shape {tuple(lengths)}"


def refuse(field: Field, what: str, why: str) -> OptionError:
    """The error for a step that cannot serve a field."""
    return OptionError(f"{what} {why}, and {field.name!r} is {field.describe()}")
