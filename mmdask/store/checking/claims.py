"""Compare the data of a layer with what is kept of them: smallest and largest values, counts, what is missing.

A cut skips rows because of these numbers, so wrong ones, which checksums cannot show, would be wrong results.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.store.arrays.npy import ArraySpec
from mmdask.store.checking.opened import OpenArray, Place
from mmdask.store.grains import GRAIN, HOLDS_MISSING, HOLDS_NAN, HOLDS_NUMBER, n_grains, span, wide_dtype
from mmdask.store.layer import Layer, StoredField

__all__ = ["Claims", "CountClaims", "MissingClaims", "ValueClaims"]

Array = npt.NDArray[Any]
Int64s = npt.NDArray[np.int64]


class Claims:
    """What is kept of the elements of one array, by grain, for some fields that use it.

    Parameters
    ----------
    parts : str
        The store's folder of layers.
    layer : Layer
        The layer.
    fields : sequence of StoredField
        Those that use the array; each has `bounds`.
    depth : int
        Of the array's elements in these fields.
    """

    def __init__(self, parts: str, layer: Layer, fields: Sequence[StoredField], depth: int) -> None:
        self.parts, self.layer, self.fields, self.depth = parts, layer, fields, depth
        self.width = 1
        self._ends: Int64s = np.zeros(0, np.int64)

    def load(self) -> bool:
        """Read what is needed; whether the array can be compared at all. In the thread that reads the array.

        Raises
        ------
        OSError
            When a file cannot be read.
        """
        ends = np.minimum(np.arange(n_grains(self.layer.rows) + 1) * GRAIN, self.layer.rows)
        for number in self.fields[0].offsets[: self.depth]:
            spec = self.layer.arrays[number]
            if (np.diff(ends) < 0).any() or ends[0] or ends[-1] != spec.shape[0] - 1:
                return False  # such offsets are reported, and say nothing of grains
            file = self._open(spec)
            try:
                ends = np.array([_read(file, np.dtype("<i8"), i, i + 1)[0] for i in ends.tolist()], np.int64)
            finally:
                file.close()
        self._ends = ends * self.width
        tables = [self._table(stored) for stored in self.fields]
        self.prepare(tables)
        return bool((np.diff(ends) >= 0).all()) and not ends[0]

    def _open(self, spec: ArraySpec) -> OpenArray:
        return Place(self.parts, self.layer.id, spec).open()

    def _table(self, stored: StoredField) -> Int64s | None:
        """The entry of a field in the array of grains."""
        if stored.bounds is None or stored.bounds.entry is None or self.layer.grains is None:
            return None
        spec = self.layer.arrays[self.layer.grains]
        n = spec.shape[1] * spec.shape[2]
        file = self._open(spec)
        try:
            entry = _read(file, np.dtype("<i8"), stored.bounds.entry * n, (stored.bounds.entry + 1) * n)
        finally:
            file.close()
        return entry.reshape(spec.shape[1:])

    def close(self) -> None:
        """Close what `load` opened."""

    def wrong(self, elements: Array, first: int) -> Iterator[tuple[int, int, str]]:
        """Runs of elements that are not as is kept of them, first and behind the last, with a message."""
        stop = first + len(elements)
        g = int(np.searchsorted(self._ends, first, side="right")) - 1
        while g + 1 < len(self._ends) and self._ends[g] < stop:
            a, b = max(int(self._ends[g]), first), min(int(self._ends[g + 1]), stop)
            if a < b:
                message = self.problem(g, elements[a - first : b - first], a)
                if message:
                    yield a, b, message
            g += 1

    def prepare(self, tables: list[Int64s | None]) -> None:
        """Take what is needed from the fields' entries in the array of grains, None for those that have none."""
        raise NotImplementedError

    def problem(self, grain: int, elements: Array, first: int) -> str:
        """What is wrong with elements of a grain; empty if nothing is."""
        raise NotImplementedError


def _read(file: OpenArray, dtype: np.dtype[Any], start: int, stop: int) -> Array:
    """Elements of an open array, counted over all its axes."""
    raw = np.empty((stop - start) * dtype.itemsize, np.uint8)
    file.fill(raw, start * dtype.itemsize)
    return raw.view(dtype)


class ValueClaims(Claims):
    """Smallest and largest values, and whether there is nan."""

    def __init__(self, parts: str, layer: Layer, stored: StoredField) -> None:
        depth = len(stored.offsets)
        super().__init__(parts, layer, [stored], depth)
        assert stored.values is not None
        self.spec = layer.arrays[stored.values]
        self.width = int(np.prod(self.spec.shape[1:]))
        self._valid = stored.valid[depth] if depth < len(stored.valid) else None
        self._flags: OpenArray | None = None

    def prepare(self, tables: list[Int64s | None]) -> None:
        held, [table] = self.fields[0].bounds, tables
        assert held is not None
        n = n_grains(self.layer.rows)
        self._low: list[Any] = [held.low] * n
        self._high: list[Any] = [held.high] * n
        self._nan = [held.nan] * n
        if table is not None:
            wide = wide_dtype(self.fields[0].kind, self.spec.dtype)
            low, high = (np.ascontiguousarray(table[:, i]).view(wide).tolist() for i in (0, 1))
            for g, holds in enumerate(table[:, 2].tolist()):
                some = holds & HOLDS_NUMBER and held.low is not None and held.high is not None
                self._low[g] = max(low[g], held.low) if some else None
                self._high[g] = min(high[g], held.high) if some else None
                self._nan[g] = bool(holds & HOLDS_NAN) and held.nan
        if self._valid is not None:
            self._flags = self._open(self.layer.arrays[self._valid])

    def close(self) -> None:
        if self._flags is not None:
            self._flags.close()
            self._flags = None

    def problem(self, grain: int, elements: Array, first: int) -> str:
        if self._flags is not None:
            a, b = first // self.width, -(-(first + len(elements)) // self.width)
            known = np.repeat(_read(self._flags, np.dtype("u1"), a, b) != 0, self.width)
            elements = elements[known[first - a * self.width :][: len(elements)]]
        low, high, nan = span(elements)
        if nan and not self._nan[grain]:
            return "there is nan or NaT, which is not kept of these rows"
        if low is None or high is None:
            return ""
        least, most = self._low[grain], self._high[grain]
        if least is None or not least <= low <= high <= most:
            kept = "none are" if least is None else f"{least} and {most} are"
            return f"smallest and largest values {low} and {high}, and {kept} kept of these rows"
        return ""


class CountClaims(Claims):
    """The fewest and the most items of a row. Elements are counts, of which number i is that of row i."""

    def __init__(self, parts: str, layer: Layer, fields: Sequence[StoredField]) -> None:
        super().__init__(parts, layer, fields, 0)

    def prepare(self, tables: list[Int64s | None]) -> None:
        n = n_grains(self.layer.rows)
        self._fewest, self._most = np.zeros(n, np.int64), np.full(n, np.iinfo(np.int64).max)
        for stored, table in zip(self.fields, tables, strict=True):
            assert stored.bounds is not None
            assert stored.bounds.items is not None
            fewest, most = stored.bounds.items
            np.maximum(self._fewest, fewest, out=self._fewest)
            np.minimum(self._most, most, out=self._most)
            if table is not None:
                np.maximum(self._fewest, table[:, 3], out=self._fewest)
                np.minimum(self._most, table[:, 4], out=self._most)

    def problem(self, grain: int, elements: Array, first: int) -> str:
        fewest, most = int(elements.min()), int(elements.max())
        if self._fewest[grain] <= fewest <= most <= self._most[grain]:
            return ""
        kept = f"{self._fewest[grain]} and {self._most[grain]} are kept of these rows"
        return f"rows of {fewest} to {most} items, and {kept}"


class MissingClaims(Claims):
    """Whether something is missing. Elements are validity."""

    def prepare(self, tables: list[Int64s | None]) -> None:
        self._missing = np.ones(n_grains(self.layer.rows), np.bool_)
        for table in tables:
            if table is not None:
                self._missing &= (table[:, 2] & (HOLDS_MISSING << self.depth)) != 0

    def problem(self, grain: int, elements: Array, first: int) -> str:
        if self._missing[grain] or elements.view(np.uint8).all():
            return ""
        return "a value is missing, and none is kept to be missing of these rows"
