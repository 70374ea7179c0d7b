"""`Found`: rows as somebody handed them in, before it is known which field they fit; and what changes its form.

Nothing here changes a value or drops one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.errors import SchemaError
from mmdask.schema import OFFSET_DTYPE, SHAPE_DTYPE

__all__ = [
    "Found",
    "absent",
    "add_level",
    "bounds_of",
    "in_lists",
    "join_axis",
    "one_shape",
    "regular",
    "row_of",
    "split_axis",
    "split_shapes",
    "with_missing",
]

Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Found:
    """Rows of one field in one of two forms.

    As *lists*, of any number of levels: `offsets` over elements that all have one shape. As *arrays*: one array per
    row, of differing shape and the same number of axes, their numbers in `values` one after the other.

    Parameters
    ----------
    name : str
        The field, for messages.
    values : numpy.ndarray
        ``(elements, *shape)``; of text its utf-8 bytes; of categories their codes.
    offsets : tuple of numpy.ndarray
        Levels of lists, outermost first: int64, each from 0 to the length of what it indexes.
    text : numpy.ndarray, optional
        Where each text begins among the bytes, and their end: int64 ``(elements + 1,)``.
    labels : tuple of str, optional
        Of codes.
    shapes : numpy.ndarray, optional
        int64 ``(rows, axes)``, of arrays only.
    valid : tuple of numpy.ndarray or None
        For each level of lists, outermost first, and for rows that are arrays: which are not missing.
    mask : numpy.ndarray, optional
        Which elements are not missing, bool ``values.shape[:n]`` with n >= 1: whole elements, or parts of them.
    optional : frozenset of int
        The depths at which values may be missing, by what was found or by its type.
    weak : bool
        Whether the numbers are Python's, whose floats take the precision of their field.
    known : bool
        False where no element says what it is.
    """

    name: str
    values: npt.NDArray[Any]
    offsets: tuple[Int64s, ...] = ()
    text: Int64s | None = None
    labels: tuple[str, ...] | None = None
    shapes: Int64s | None = None
    valid: tuple[Bools | None, ...] = ()
    mask: Bools | None = None
    optional: frozenset[int] = frozenset()
    weak: bool = False
    known: bool = True

    def __len__(self) -> int:
        if self.shapes is not None:
            return len(self.shapes)
        return len(self.offsets[0]) - 1 if self.offsets else self.n_elements

    @property
    def n_elements(self) -> int:
        """What the innermost lists hold, all in all."""
        return len(self.values) if self.text is None else len(self.text) - 1


def bounds_of(counts: npt.ArrayLike) -> Int64s:
    """Offsets of lists of these lengths."""
    counts = np.asarray(counts, OFFSET_DTYPE)
    offsets = np.zeros(len(counts) + 1, OFFSET_DTYPE)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def row_of(found: Found, depth: int, element: int) -> int:
    """The row that an element of a depth is in."""
    for offsets in reversed(found.offsets[:depth]):
        element = int(np.searchsorted(offsets, element, side="right")) - 1
    return element


def with_missing(found: Found, there: Bools) -> Found:
    """The rows, none of which is missing, at the places where `there` is true, and missing ones at the others."""
    optional = found.optional | {0}
    if there.all():
        return replace(found, optional=optional)
    if found.mask is not None and found.mask.ndim > 1:
        return with_missing(split_axis(found), there)  # in one mask, a missing row would be one of missing numbers
    if found.shapes is not None:
        shapes = _spread(found.shapes, there)
        return replace(found, shapes=shapes, valid=(there,), optional=optional)
    if found.offsets:
        first = bounds_of(_spread(np.diff(found.offsets[0]), there))
        valid = (there, *found.valid[1:])
        return replace(found, offsets=(first, *found.offsets[1:]), valid=valid, optional=optional)
    if found.text is not None:
        return replace(found, text=bounds_of(_spread(np.diff(found.text), there)), mask=there, optional=optional)
    return replace(found, values=_spread(found.values, there), mask=there, optional=optional)


def _spread(values: npt.NDArray[Any], there: Bools) -> npt.NDArray[Any]:
    """Values at some places, and zeros between them."""
    out = np.zeros((len(there), *values.shape[1:]), values.dtype)
    out[there] = values
    return out


def in_lists(found: Found, offsets: Int64s) -> Found:
    """Lists of the rows: the rows become items."""
    deeper = frozenset(depth + 1 for depth in found.optional)
    return replace(found, offsets=(offsets, *found.offsets), valid=(None, *found.valid), optional=deeper)


def regular(found: Found, n: int, length: int) -> Found:
    """``n * length`` rows as `n` rows of `length` items each: a new axis where they are numbers, else lists."""
    if found.offsets or found.text is not None or found.labels is not None:
        return in_lists(found, np.arange(n + 1, dtype=OFFSET_DTYPE) * length)
    values = found.values.reshape(n, length, *found.values.shape[1:])
    mask = found.mask if found.mask is None else found.mask.reshape(n, length, *found.mask.shape[1:])
    return replace(found, values=values, mask=mask)


def split_axis(found: Found) -> Found:
    """The first axis of the elements as a level of lists."""
    n, length, *rest = found.values.shape
    values, mask = found.values.reshape(n * length, *rest), found.mask
    valid: Bools | None = None
    counts = np.full(n, length, OFFSET_DTYPE)
    if mask is not None and mask.ndim == 1:
        # Missing lists have no items.
        values, counts, mask, valid = values[np.repeat(mask, length)], counts * mask, None, mask
    elif mask is not None:
        mask = mask.reshape(n * length, *mask.shape[2:])
    level = len(found.offsets)
    deeper = {level + 1} if mask is not None else {level} if valid is not None else {level, level + 1}
    return replace(
        found,
        values=values,
        mask=mask,
        offsets=(*found.offsets, bounds_of(counts)),
        valid=(*found.valid, valid),
        optional=found.optional - {level} | (deeper if level in found.optional else set()),
    )


def join_axis(found: Found, length: int, what: str) -> Found:
    """The innermost lists, all of the same length, as the first axis of the elements; `what` the field is, in words.

    Raises
    ------
    SchemaError
        When one has another length.
    """
    *outer, offsets = found.offsets
    counts, there = np.diff(offsets), found.valid[-1]
    wrong = (counts != length) if there is None else (counts != length) & there
    if wrong.any():
        first = int(wrong.argmax())
        row = row_of(found, len(outer), first)
        raise SchemaError(
            f"field {found.name!r} is {what}; row {row} has {counts[first]:,} items where its shape needs {length:,}"
        )
    n = len(counts) if there is None else int(there.sum())
    values = found.values.reshape(n, length, *found.values.shape[1:])
    mask = None if found.mask is None else found.mask.reshape(n, length, *found.mask.shape[1:])
    if there is not None:
        values = _spread(values, there)
        mask = there if mask is None else _spread(mask, there)
    return replace(found, values=values, mask=mask, offsets=tuple(outer), valid=found.valid[:-1])


def add_level(found: Found) -> Found:
    """A level of lists that are all empty in the place of elements, of which there are none but missing ones."""
    offsets = np.zeros(found.n_elements + 1, OFFSET_DTYPE)
    text = None if found.text is None else np.zeros(1, OFFSET_DTYPE)
    return replace(
        found,
        values=found.values[:0],
        text=text,
        offsets=(*found.offsets, offsets),
        valid=(*found.valid, found.mask if found.mask is None else _whole(found.mask)),
        mask=None,
    )


def _whole(mask: Bools) -> Bools:
    """Which elements have all their parts."""
    return np.asarray(mask.all(axis=tuple(range(1, mask.ndim))))


def one_shape(found: Found) -> tuple[int, ...] | None:
    """The shape of rows that are arrays, where all have the same."""
    assert found.shapes is not None
    there = found.valid[0]
    shapes = found.shapes if there is None else found.shapes[there]
    if not len(shapes) or (shapes != shapes[0]).any():
        return None
    return tuple(shapes[0].tolist())


def split_shapes(found: Found, levels: int, shape: tuple[int, ...]) -> Found:
    """Rows that are arrays as lists of so many levels over elements of `shape`, which their last axes have."""
    assert found.shapes is not None
    there = found.valid[0]
    counts, offsets = np.ones(len(found.shapes), SHAPE_DTYPE), []
    for level in range(levels):
        lengths = np.repeat(found.shapes[:, level], counts)
        offsets.append(bounds_of(lengths))
        counts = counts * found.shapes[:, level]
    if not levels and there is not None:
        counts = counts * there
    n = int(counts.sum())
    values = found.values if found.text is not None else found.values.reshape(n, *shape)
    mask = found.mask if found.mask is None else found.mask.reshape(n, *shape)
    lists = replace(found, values=values, mask=mask, shapes=None, valid=())
    if not levels:
        lists = replace(lists, optional=frozenset({0} if found.optional else ()))
        return lists if there is None else with_missing(lists, there)
    depths = {0} & found.optional | ({levels} if 1 in found.optional else set())
    return replace(lists, offsets=tuple(offsets), valid=(there, *[None] * (levels - 1)), optional=frozenset(depths))


def absent(found: Found, depth: int) -> Bools | None:
    """Which lists or elements of a depth are missing, as far as any is.

    Raises
    ------
    SchemaError
        When parts of an element are missing and others are not.
    """
    valid: Bools | None
    if depth < len(found.offsets):
        valid = found.valid[depth]
    elif found.mask is None or found.mask.ndim == 1:
        valid = found.mask
    else:
        valid = _whole(found.mask)
        partly = ~_whole(~found.mask) & ~valid
        if partly.any():
            row, levels = row_of(found, depth, int(partly.argmax())), depth + found.values.ndim - 1
            raise SchemaError(
                f"field {found.name!r}: some numbers of row {row} are missing and others are not, and those of one "
                f"shape {found.values.shape[1:]} are missing together; fill them, as in x.filled(0), or declare lists "
                f"of them: mm.Field.ragged({found.name!r}, {found.values.dtype.name!r}, "
                f"levels={levels}, optional=({levels},))"
            )
    return None if valid is None or valid.all() else ~valid
