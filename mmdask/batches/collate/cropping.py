"""Steps that keep a part of every row: its beginning, or a random window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from mmdask.batches.collate.base import Int64s, axes_of, in_lists, refuse
from mmdask.batches.options import integer
from mmdask.batches.ordering.row_rng import below
from mmdask.errors import OptionError
from mmdask.schema import Field

__all__ = ["Crop", "Window", "crop", "window"]

Length = int | Literal["min"] | None


@dataclass(frozen=True)
class Crop:
    """The beginning of every row. Made by `crop`."""

    lengths: tuple[Length, ...]
    every: bool = False  # one length, "min", for all axes

    def check(self, field: Field) -> None:
        axes = axes_of(field)
        if not axes:
            raise refuse(field, "mm.crop()", "is for lists and arrays")
        if not self.every and len(self.lengths) != axes:
            if field.kind == "string" and axes > 1 and len(self.lengths) == axes - 1:
                kept = ", ".join(map(str, (*self.lengths, None)))
                raise OptionError(
                    f"field {field.name!r} is {field.describe()}, and bytes of its text are an axis as well: to crop "
                    f"the lists alone write [mm.crop(({kept})), mm.packed()]"
                )
            raise refuse(field, str(self), f"crops {len(self.lengths)} axes, one number for each")
        if in_lists(field) and axes > 1 and "min" in self.lengths:
            raise refuse(field, "mm.crop('min')", "is for lists of one level; give a number for each level")

    def __str__(self) -> str:
        n = self.lengths if len(self.lengths) > 1 else self.lengths[0]
        return f"mm.crop({n!r})"

    def length(self, axis: int) -> Length:
        """What is kept of an axis; None for all."""
        return self.lengths[0] if self.every else self.lengths[axis]

    def kept(self, extents: Int64s, least: Int64s | None) -> Int64s:
        """How long rows are behind this step; `least` is the shortest of each axis, ``(rows, axes)``."""
        kept = extents.copy()
        for axis in range(extents.shape[1]):
            n = self.length(axis)
            if n == "min":
                assert least is not None
                kept[:, axis] = least[:, axis]
            elif n is not None:
                np.minimum(kept[:, axis], n, out=kept[:, axis])
        return kept

    @property
    def needs_least(self) -> bool:
        return "min" in self.lengths

    def begin(self, extents: Int64s, bits: npt.NDArray[np.uint64]) -> Int64s:
        """Where on each axis rows begin behind this step."""
        return np.zeros_like(extents)


@dataclass(frozen=True)
class Window:
    """A random window of every row. Made by `window`."""

    n: int
    axis: int
    start: int
    stop: int | None

    def check(self, field: Field) -> None:
        axes = axes_of(field)
        if not axes:
            raise refuse(field, "mm.window()", "is for lists and arrays")
        if self.axis >= (1 if in_lists(field) else axes):
            raise refuse(field, f"mm.window(axis={self.axis})", "is for rows with such an axis")

    def __str__(self) -> str:
        return f"mm.window({self.n}{f', axis={self.axis}' if self.axis else ''})"

    needs_least = False

    def length(self, axis: int) -> Length:
        """What is kept of an axis; None for all."""
        return self.n if axis == self.axis else None

    def _room(self, extents: Int64s) -> Int64s:
        length = extents[:, self.axis]
        stop = length if self.stop is None else np.minimum(length, self.stop)
        return np.maximum(stop - self.start, 0)

    def kept(self, extents: Int64s, least: Int64s | None) -> Int64s:
        """As `Crop.kept`."""
        kept = extents.copy()
        kept[:, self.axis] = np.minimum(self._room(extents), self.n)
        return kept

    def begin(self, extents: Int64s, bits: npt.NDArray[np.uint64]) -> Int64s:
        """As `Crop.begin`: every start that leaves room for the window is as likely as any other."""
        begin = np.zeros_like(extents)
        starts = np.maximum(self._room(extents) - self.n, 0) + 1
        begin[:, self.axis] = below(bits, starts.astype(np.uint64)).astype(np.int64)
        begin[:, self.axis] += np.minimum(self.start, extents[:, self.axis])
        return begin


def crop(n: int | Literal["min"] | tuple[int | None, ...]) -> Crop:
    """Keep the beginning of every row: its first `n` items.

    Without a `pad` behind it, it makes an array ``(rows, n, *shape)``, and shorter rows raise. In a chain
    ``[mm.crop(100), mm.pad("max")]`` rows keep at most `n` items. No others are read.

    Parameters
    ----------
    n : int, "min", or tuple
        Items of every row. Of arrays and nested lists the length on every axis, as ``(64, 64)``; None leaves one as it
        is. ``"min"``: as many as the shortest row of the batch has on each axis, counting the rows of all ranks.

    Raises
    ------
    OptionError
        When `n` is nothing of that.

    Examples
    --------
    >>> import mmdask as mm
    >>> ds = mm.from_arrays({"x": [[1.0, 2.0, 3.0], [4.0, 5.0]]}, "crop.mm")
    >>> ds.batches(2, shuffle=False, collate={"x": mm.crop("min")})[0]["x"].tolist()
    [[1.0, 2.0], [4.0, 5.0]]
    """
    if n == "min":
        return Crop(("min",), every=True)
    if isinstance(n, tuple | list) and n:
        return Crop(tuple(None if length is None else integer("crop(n)", length, 0, 2**31) for length in n))
    return Crop((integer("crop(n)", n, 0, 2**31),))


def window(n: int, axis: int = 0, start: int | None = None, stop: int | None = None) -> Window:
    """Keep `n` consecutive items of every row, from a random one on.

    All windows that fit in the row are equally likely. Which one it is depends on the row, the epoch, the loader's
    seed and the name in ``collate=``: not on the batch or the rank. No other items are read.

    It makes an array ``(rows, n, *shape)``, and shorter rows raise, unless a `pad` follows, as in
    ``[mm.window(1024), mm.pad(1024)]``.

    Parameters
    ----------
    n : int
        Items to keep.
    axis : int
        Of the axes of a row, which is not counted: 0 is the first of them.
    start, stop : int, optional
        The items that the window may take, as in a slice, 0 or more; all by default.

    Raises
    ------
    OptionError
        When an argument cannot be used.

    Examples
    --------
    >>> import mmdask as mm
    >>> ds = mm.from_arrays({"sound": [list(range(9)), list(range(100, 107))]}, "window.mm")
    >>> found = ds.batches(2, shuffle=False, collate={"sound": mm.window(3)})[0]["sound"]
    >>> found.shape, (found[:, 1:] - found[:, :-1]).tolist()
    ((2, 3), [[1, 1], [1, 1]])
    """
    first = 0 if start is None else integer("window(start=)", start, 0, 2**31)
    last = None if stop is None else integer("window(stop=)", stop, 0, 2**31)
    n = integer("window(n)", n, 0, 2**31)
    if last is not None and last - first < n:
        raise OptionError(f"window(start={first}, stop={last}) leaves no room for {n} items")
    return Window(n, integer("window(axis=)", axis, 0, 2**31), first, last)
