"""From `Found` to the rows of a field: of the one that was declared, or of the one that they look like."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.errors import SchemaError
from mmdask.schema import CODE_DTYPE, OFFSET_DTYPE, SHAPE_DTYPE, TEXT_DTYPE, Field, FieldData, empty
from mmdask.sources.given.exact import missing_value, values_as
from mmdask.sources.given.found import (
    Found,
    absent,
    add_level,
    bounds_of,
    in_lists,
    join_axis,
    one_shape,
    row_of,
    split_axis,
    split_shapes,
    with_missing,
)
from mmdask.sources.given.lists import text_of

__all__ = ["as_one_row", "fit", "found_in", "infer"]


def found_in(name: str, data: FieldData, text: bool) -> Found:
    """What a run of rows holds; `text` if its bytes are utf-8."""
    optional = frozenset(depth for depth, valid in enumerate(data.valid) if valid is not None)
    if data.labels or data.shapes is None:
        levels = len(data.offsets) - text
        valid = tuple(data.valid_at(depth) for depth in range(levels))
        bounds = data.offsets[-1] if text else None
        labels = data.labels if data.labels else None
        mask = data.valid_at(levels)
        return Found(name, data.values, data.offsets[:levels], bounds, labels, None, valid, mask, optional)
    inner = np.broadcast_to(np.array(data.values.shape[1:], SHAPE_DTYPE), (len(data), data.values.ndim - 1))
    shapes = np.concatenate([data.shapes, inner], axis=1)
    return Found(name, data.values.ravel(), shapes=shapes, valid=(data.valid_at(0),), optional=optional)


def infer(found: Found) -> tuple[Field, FieldData]:
    """The field that rows look like, and the rows.

    Raises
    ------
    SchemaError
        When nothing says what they are.
    """
    name = found.name
    if not found.known and not (found.weak and not len(found)):
        raise SchemaError(
            f"field {name!r}: {'empty lists' if found.offsets else 'missing values alone'} do not say what their items "
            f"are; declare the field, as in fields=[mm.Field.ragged({name!r}, 'f4')]"
        )
    if found.shapes is not None:
        axes, shape = found.shapes.shape[1], one_shape(found)
        if axes == 1 or found.text is not None:
            found = split_shapes(found, axes, ())
        elif shape is not None:
            found = split_shapes(found, 0, shape)
        else:
            field = Field.shaped(name, found.values.dtype, axes, optional=tuple(found.optional & {0}))
            return field, fit(field, found)
    optional = tuple(sorted(found.optional))
    levels, dtype, shape = len(found.offsets), found.values.dtype, found.values.shape[1:]
    if found.text is not None:
        field = Field.string(name, levels=levels, optional=optional)
    elif found.labels is not None:
        field = Field.category(name, found.labels, optional=optional)
    elif levels:
        field = Field.ragged(name, dtype, shape, levels=levels, optional=optional)
    else:
        field = Field.dense(name, dtype, shape, optional=optional)
    return field, fit(field, found)


def fit(field: Field, found: Found) -> FieldData:
    """The rows as rows of `field`.

    Raises
    ------
    SchemaError
        When they are of another kind, number of levels or shape, when a number does not fit exactly, or one is missing
        where the field does not allow that.
    """
    if field.kind == "category":
        return _codes(field, found)
    if found.labels is not None:
        found = _label_text(found)
    if not len(found) and not found.n_elements:
        return empty(field)
    _check_sort(field, found)
    if field.kind == "shaped":
        return _shaped(field, found)
    if found.shapes is not None:
        found = _without_shapes(field, found)
    found = _text(field, found) if field.kind == "string" else _lists(field, found)
    offsets = found.offsets if found.text is None else (*found.offsets, found.text)
    valid = _valid(field, found)
    values = found.values
    if found.text is None:
        values = _filled(values_as(field, values, found.weak), valid[-1])
    return FieldData(values, offsets, valid=valid if any(v is not None for v in valid) else ())


def _check_sort(field: Field, found: Found) -> None:
    """Raise unless text meets a field of text, and numbers one of numbers. Empty lists may hold either."""
    text = found.text is not None
    empty_lists = not text and not found.n_elements and bool(found.offsets)
    if text != (field.kind == "string") and not (field.kind == "string" and (empty_lists or not found.known)):
        raise SchemaError(f"field {field.name!r} is {field.describe()}; got {'text' if text else 'numbers'}")


def _without_shapes(field: Field, found: Found) -> Found:
    """Rows that are arrays as lists of as many levels as the field has, if they have as many axes as it needs."""
    assert found.shapes is not None
    axes = found.shapes.shape[1]
    levels = axes if found.text is not None else min(axes, field.levels)
    shape = one_shape(found)
    if levels < axes and shape is None:
        there = found.valid[0]
        tails = np.unique(found.shapes[:, levels:] if there is None else found.shapes[there][:, levels:], axis=0)
        if len(tails) > 1:
            what = "dense rows" if field.kind == "dense" else "items"
            kind = f"mm.Field.shaped({field.name!r}, {field.dtype.name!r}, axes={axes})"
            raise SchemaError(
                f"field {field.name!r} is {field.describe()}: {what} have one shape, got "
                f"{tuple(tails[0].tolist())} and {tuple(tails[1].tolist())}; arrays of differing shape fit {kind}"
            )
        return split_shapes(found, levels, tuple(tails[0].tolist()) if len(tails) else field.shape)
    return split_shapes(found, levels, (shape or ())[levels:])


def _text(field: Field, found: Found) -> Found:
    while len(found.offsets) < field.levels and _nothing(found):
        found = add_level(found)
    if found.text is None:
        found = replace(found, values=np.empty(0, TEXT_DTYPE), text=np.zeros(found.n_elements + 1, OFFSET_DTYPE))
    if len(found.offsets) != field.levels:
        raise _levels(field, len(found.offsets))
    return found


def _nothing(found: Found) -> bool:
    """Whether rows could have any number of levels more: lists that are all empty, or missing values alone."""
    return bool(found.offsets and not found.n_elements) or not found.known


def _lists(field: Field, found: Found) -> Found:
    """Numbers with the field's levels and item shape: axes become lists, and lists of one length axes."""
    listed = len(found.offsets) > field.levels or not found.known
    while len(found.offsets) > field.levels and found.values.ndim - 1 < len(field.shape):
        found = join_axis(found, field.shape[len(found.offsets) - 1 - field.levels], field.describe())
    while len(found.offsets) < field.levels and found.values.ndim - 1 > len(field.shape):
        found = split_axis(found)
    while len(found.offsets) < field.levels and _nothing(found):
        found = add_level(found)
    if len(found.offsets) != field.levels:
        raise _levels(field, len(found.offsets))
    shape = found.values.shape[1:]
    # Empty lists do not say how long lists in them would be.
    unsaid = shape == field.shape[: len(shape)] and ((listed and 0 in shape) or (not shape and not found.known))
    if shape != field.shape and found.n_elements and not unsaid:
        differing = field.kind == "dense" and len(shape) == len(field.shape) > 1
        way = (
            f"; rows of differing shape need a field made for them, in a new store or by mm.assign under another name: "
            f"mm.Field.shaped({field.name!r}, {field.dtype.str[1:]!r}, axes={len(shape)})"
            if differing
            else ""
        )
        raise SchemaError(
            f"field {field.name!r} is {field.describe()}: its items have the shape {field.shape}; got {shape}{way}"
        )
    if shape != field.shape or not found.known:
        found = replace(found, values=np.zeros((found.n_elements, *field.shape), field.dtype))
    return found


def _levels(field: Field, levels: int) -> SchemaError:
    return SchemaError(
        f"field {field.name!r} is {field.describe()} with {field.levels} levels of lists; got {levels} levels"
    )


def _shaped(field: Field, found: Found) -> FieldData:
    """Rows of a shaped field: arrays as they are, and rectangular lists."""
    if found.shapes is not None:
        axes = found.shapes.shape[1]
        there, lengths = found.valid[0], found.shapes
        said = np.ones(len(found), np.bool_) if there is None else there
    else:
        listed = bool(found.offsets)
        found, lengths, there = _rectangles(field, found)
        axes = lengths.shape[1]
        # Empty lists do not say how long lists in them would be.
        some = np.asarray((lengths[:, : field.axes] > 0).all(axis=1))
        said = some if listed else np.ones(len(lengths), np.bool_) if there is None else there
    need = field.axes + len(field.shape)
    if axes != need:
        raise SchemaError(
            f"field {field.name!r} is {field.describe()}: rows have {need} axes, those of items included; got {axes}"
        )
    wrong = (lengths[:, field.axes :] != np.array(field.shape, SHAPE_DTYPE)).any(axis=1) & said
    if wrong.any():
        row = int(wrong.argmax())
        raise SchemaError(
            f"field {field.name!r} is {field.describe()}: its items have the shape {field.shape}; row {row} has "
            f"{tuple(lengths[row].tolist())}"
        )
    if found.mask is not None and not found.mask.all():
        raise SchemaError(
            f"field {field.name!r} is {field.describe()}: its rows may be missing, not numbers of a row; fill them, as "
            "in x.filled(0)"
        )
    valid = _allowed(field, None if there is None or there.all() else ~there, 0, found)
    shapes = np.ascontiguousarray(lengths[:, : field.axes])
    offsets = bounds_of(np.prod(shapes, axis=1))
    values = values_as(field, found.values.reshape(int(offsets[-1]), *field.shape), found.weak)
    return FieldData(values, (offsets,), shapes=shapes, valid=() if valid is None else (valid,))


def _rectangles(field: Field, found: Found) -> tuple[Found, npt.NDArray[np.int64], npt.NDArray[np.bool_] | None]:
    """Nested lists as arrays: the numbers, the length of every row along every axis, and which rows are there."""
    missing = [absent(found, depth) for depth in range(len(found.offsets) + 1)]
    for depth, out in enumerate(missing[1:], 1):
        if out is not None:
            row = row_of(found, depth, int(out.argmax()))
            raise SchemaError(
                f"field {field.name!r} is {field.describe()}: its rows may be missing, not items of a row; some of "
                f"row {row} are"
            )
    n, there = len(found), None if missing[0] is None else ~missing[0]
    if not found.offsets and there is not None:
        found = replace(found, values=found.values[there], mask=None)
    lengths, bounds = [], np.arange(n + 1, dtype=OFFSET_DTYPE)
    for offsets in found.offsets:
        counts = np.diff(offsets)
        first = np.zeros(n, SHAPE_DTYPE)
        some = np.diff(bounds) > 0
        first[some] = counts[bounds[:-1][some]]
        wrong = counts != np.repeat(first, np.diff(bounds))
        if wrong.any():
            row = int(np.searchsorted(bounds, int(wrong.argmax()), side="right")) - 1
            raise SchemaError(
                f"field {field.name!r} is {field.describe()}: row {row} is no rectangle, its lists differ in length"
            )
        lengths.append(first)
        bounds = offsets[bounds]
    lengths += [np.full(n, length, SHAPE_DTYPE) for length in found.values.shape[1:]]
    if _nothing(found):
        unsaid = ((0,) * field.axes + field.shape)[len(lengths) :]
        lengths += [np.full(n, length, SHAPE_DTYPE) for length in unsaid]
    table = np.stack(lengths, axis=1) if lengths else np.zeros((n, 0), SHAPE_DTYPE)
    if there is not None:
        table *= there[:, np.newaxis]
    return replace(found, values=found.values.ravel()), table, there


def _valid(field: Field, found: Found) -> tuple[npt.NDArray[np.bool_] | None, ...]:
    """For every depth which lists or elements are there, None where all are."""
    return tuple(_allowed(field, absent(found, depth), depth, found) for depth in range(len(found.offsets) + 1))


def _allowed(
    field: Field, missing: npt.NDArray[np.bool_] | None, depth: int, found: Found
) -> npt.NDArray[np.bool_] | None:
    """Which values are there, if the field allows others to be missing."""
    if missing is None:
        return None
    if depth not in field.optional:
        row = row_of(found, depth, int(missing.argmax()))
        optional = tuple(sorted({*field.optional, depth}))
        what = f"row {row}" if depth == 0 else f"an item of row {row}"
        raise SchemaError(
            f"field {field.name!r} ({field.describe()}): {what} is missing; fill it, or say that it may be: "
            f"mm.Field.{field.kind}({field.name!r}, ..., optional={optional}) where the field is declared, "
            f"mm.annotate(path, fields={{{field.name!r}: {{'optional': {optional}}}}}) for a store"
        )
    return ~missing


def _filled(values: npt.NDArray[Any], there: npt.NDArray[np.bool_] | None) -> npt.NDArray[Any]:
    """Values with nan, NaT or zero where they are missing."""
    if there is None:
        return values
    values = values.copy()
    values[~there] = missing_value(values.dtype)
    return values


def _codes(field: Field, found: Found) -> FieldData:
    n, lists = len(found), bool(found.offsets) or found.shapes is not None
    if n and (lists or (found.labels is None and found.text is None and found.known)):
        got = "lists" if lists else str(found.values.dtype)
        raise SchemaError(f"field {field.name!r} is a category: its rows are texts, got {got}")
    valid = _allowed(field, absent(found, 0), 0, found) if n else None
    codes, labels = np.zeros(n, CODE_DTYPE), field.labels
    if found.labels is not None:
        codes, labels = found.values, found.labels
    elif found.text is not None:
        there = np.ones(n, np.bool_) if valid is None else valid
        raw, known = found.values.tobytes(), {label.encode(): i for i, label in enumerate(field.labels)}
        bounds = itertools.pairwise(found.text.tolist())
        spans = itertools.compress(bounds, there.tolist())
        codes[there] = [known.setdefault(raw[a:b], len(known)) for a, b in spans]
        try:
            labels = tuple(label.decode() for label in known)
        except UnicodeDecodeError as error:
            raise SchemaError(f"field {field.name!r}: labels are text in utf-8, got {error.object!r}") from None
    if valid is None:
        return FieldData(codes, labels=labels)
    # A code has to be one of a label, also of a row that is missing.
    return FieldData(codes, labels=labels or ("",), valid=(valid,))


def _label_text(found: Found) -> Found:
    """Categories as text."""
    assert found.labels is not None
    there = absent(found, 0)
    codes = found.values if there is None else found.values[~there]
    text = text_of(found.name, [found.labels[code] for code in codes.tolist()])
    return replace(text, optional=found.optional) if there is None else with_missing(text, ~there)


def as_one_row(found: Found, rectangle: bool) -> Found:
    """All rows as a single one; numbers in lists that make a rectangle as an array, if that is asked for."""
    if found.labels is not None:
        found = _label_text(found)
    if found.shapes is not None:
        shape = one_shape(found)
        found = split_shapes(found, found.shapes.shape[1], ()) if shape is None else split_shapes(found, 0, shape)
    row = lists = in_lists(found, np.array([0, len(found)], OFFSET_DTYPE))
    missing = any(absent(found, depth) is not None for depth in range(len(found.offsets) + 1))
    if missing or found.text is not None or (found.offsets and not rectangle):
        return lists
    while row.offsets:
        counts = np.diff(row.offsets[-1])
        if not len(counts) or (counts != counts[0]).any():
            return lists
        row = join_axis(row, int(counts[0]), "")
    return row
