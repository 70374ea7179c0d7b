"""What the arrays of one field say about each other: shapes and counts, validity and items, offsets and text.

Each array is whole when these are asked; they find what a writer got wrong, which checksums cannot show.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mmdask.errors import SchemaError
from mmdask.schema import FieldData
from mmdask.store.arrays.npy import EXTENT
from mmdask.store.checking.opened import OpenArray, Place, read_elements
from mmdask.store.checking.scan import Damage, pieces_of
from mmdask.store.grains import Held, count_inf, count_nan
from mmdask.store.layer import Layer, StoredField, check_text, wrong_shapes

__all__ = ["Finding", "crosscheck"]

#: elements looked at together
_ELEMENTS = 1 << 16


class Finding(NamedTuple):
    """Damage of an array, in elements at a depth of the field: rows at 0."""

    number: int
    depth: int
    damage: Damage


def crosscheck(parts: str, layer: Layer, stored: StoredField, *, text: bool, counts: bool = True) -> Iterator[Finding]:
    """What is wrong between the arrays of a field; `text` says whether strings are looked at, `counts` what is counted.

    Raises
    ------
    OSError
        When a file cannot be read.
    """
    arrays = _Arrays(parts, layer, stored)
    try:
        if stored.shapes is not None:
            yield from _shapes(arrays, stored.shapes)
        wrong_values = False
        for depth, number in enumerate(stored.valid):
            for found in _valid(arrays, depth, number) if number is not None else ():
                wrong_values = True
                yield found
        held = stored.bounds
        if counts and held is not None and (held.nans or held.infs) and not wrong_values:
            yield from _counts(arrays, held)
        if text and stored.kind == "string" and stored.values is not None:
            depth = len(stored.offsets) - 1
            n = layer.arrays[stored.offsets[-1]].shape[0] - 1
            wrong = first_not_utf8(arrays.reader(stored.offsets[-1]), arrays.reader(stored.values), n)
            if wrong is not None:
                yield Finding(stored.values, depth, Damage(wrong, wrong + 1, "text that is not UTF-8"))
    finally:
        arrays.close()


Read = Callable[[int, int], npt.NDArray[Any]]


class _Arrays:
    """The open files of a field."""

    def __init__(self, parts: str, layer: Layer, stored: StoredField) -> None:
        self.parts, self.layer, self.stored = parts, layer, stored
        self._files: dict[int, OpenArray] = {}

    def reader(self, number: int) -> Read:
        """A function that reads a run of elements of an array."""
        spec = self.layer.arrays[number]
        if number not in self._files:
            self._files[number] = Place(self.parts, self.layer.id, spec).open()
        file = self._files[number]
        return lambda start, stop: read_elements(file, spec, start, stop)

    def close(self) -> None:
        for file in self._files.values():
            file.close()


def _first_and_last(wrong: npt.NDArray[np.bool_], start: int, message: str) -> Damage:
    where = np.flatnonzero(wrong)
    return Damage(start + int(where[0]), start + int(where[-1]) + 1, message)


def _shapes(arrays: _Arrays, number: int) -> Iterator[Finding]:
    shapes, offsets = arrays.reader(number), arrays.reader(arrays.stored.offsets[0])
    for a, b in pieces_of(arrays.layer.rows, _ELEMENTS):
        lengths, counts = shapes(a, b), np.diff(offsets(a, b + 1))
        wrong = wrong_shapes(lengths, counts)
        if wrong.any():
            yield Finding(number, 0, _first_and_last(wrong, a, "a shape does not fit the number of items"))


def _valid(arrays: _Arrays, depth: int, number: int) -> Iterator[Finding]:
    stored, specs = arrays.stored, arrays.layer.arrays
    flags, n = arrays.reader(number), specs[number].shape[0]
    is_list = depth < len(stored.offsets)
    below = stored.offsets[depth] if is_list else stored.values
    assert below is not None
    width = max(specs[below].nbytes // max(specs[below].shape[0], 1), 1)
    for a, b in pieces_of(n, max(1, min(_ELEMENTS, EXTENT // width))):
        missing = flags(a, b).view(np.uint8) == 0
        if not missing.any():
            continue
        if is_list:
            wrong = missing & (np.diff(arrays.reader(below)(a, b + 1)) != 0)
        elif stored.kind == "category":
            continue  # its code is not looked at
        else:
            values = arrays.reader(below)(a, b)
            wrong = missing & ~_is_blank(values).reshape(len(values), -1).all(axis=1)
        if stored.shapes is not None:
            wrong |= missing & arrays.reader(stored.shapes)(a, b).any(axis=1)
        if wrong.any():
            message = "a missing value has items" if is_list else "a missing value is not nan, NaT or zero"
            yield Finding(below, depth, _first_and_last(wrong, a, message))


def _counts(arrays: _Arrays, held: Held) -> Iterator[Finding]:
    """Whether as many values are nan, and infinite, as is kept; those that are missing do not count."""
    stored, number = arrays.stored, arrays.stored.values
    assert number is not None
    read, spec = arrays.reader(number), arrays.layer.arrays[number]
    depth = len(stored.offsets)
    flags = stored.valid[depth] if depth < len(stored.valid) else None
    there = None if flags is None else arrays.reader(flags)
    nans = infs = 0
    width = max(spec.nbytes // max(spec.shape[0], 1), 1)
    for a, b in pieces_of(spec.shape[0], max(1, min(_ELEMENTS, EXTENT // width))):
        values = read(a, b)
        values = values if there is None else values[there(a, b)]
        nans += count_nan(values)
        infs += count_inf(values)
    for kept, found, what in ((held.nans, nans, "nan or NaT"), (held.infs, infs, "infinite")):
        if kept is not None and kept != found:
            yield Finding(number, depth, Damage(0, spec.shape[0], f"{kept} values are kept as {what}, and {found} are"))


def _is_blank(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which numbers are what a missing one is."""
    kind = values.dtype.kind
    if kind in "fc":
        return np.asarray(np.isnan(values))
    if kind in "mM":
        return np.asarray(np.isnat(values))
    return np.asarray(values == (b"" if kind == "S" else 0))


def first_not_utf8(offsets: Read, raw: Read, n: int) -> int | None:
    """Number of the first of `n` strings that is not UTF-8; None where all are.

    Parameters
    ----------
    offsets, raw : callable
        Read a run of offsets, of bytes.
    n : int
        Strings.
    """
    for first, last in pieces_of(n, _ELEMENTS):
        o = offsets(first, last + 1)
        start = 0
        while start < len(o) - 1:
            # as many strings as lie in the next extent, and at least one
            stop = max(start + 1, int(np.searchsorted(o, o[start] + EXTENT, side="right")) - 1)
            wrong = _first_of_group(o[start : stop + 1], raw)
            if wrong is not None:
                return first + start + wrong
            start = stop
    return None


def _first_of_group(o: npt.NDArray[np.int64], raw: Read) -> int | None:
    base, end = int(o[0]), int(o[-1])
    if end - base > EXTENT:  # one string
        return None if _long_is_utf8(base, end, raw) else 0
    strings = FieldData(raw(base, end), (o - base,))
    if _is_utf8(strings):
        return None
    low, high = 0, len(strings)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _is_utf8(strings[low:middle]) else (low, middle)
    return low


def _long_is_utf8(start: int, stop: int, raw: Read) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for a in range(start, stop, EXTENT):
            b = min(a + EXTENT, stop)
            decoder.decode(raw(a, b).tobytes(), final=b == stop)
    except UnicodeDecodeError:
        return False
    return True


def _is_utf8(strings: FieldData) -> bool:
    try:
        check_text("", strings)
    except SchemaError:
        return False
    return True
