"""Steps of recipes that compute: ufuncs item by item, expressions of cuts, functions on awkward arrays."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.dataset.layouts import fill_missing, several, to_awkward
from mmdask.dataset.lists.items import as_value
from mmdask.dataset.lists.recipe import Made, Recipe
from mmdask.errors import OptionError, SchemaError
from mmdask.expr import Expression, evaluate
from mmdask.expr.values import Block, Value
from mmdask.rows.views.virtual import data_of
from mmdask.schema import Field, FieldData, stored_dtype
from mmdask.sources.given.coerce import to_field_data

__all__ = [
    "Constant",
    "Elementwise",
    "Evaluated",
    "Map",
    "Zip",
    "as_awkward",
    "astype",
    "register_vector",
    "that_pickles",
    "with_counts_of",
]


@dataclass(frozen=True)
class Constant:
    """A number among the operands of a ufunc."""

    value: Any


@dataclass(frozen=True)
class Single:
    """The place of a dask array of one number among the operands."""

    dtype: np.dtype[Any]


def astype(values: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Values in another dtype."""
    return values.astype(dtype)


@dataclass(frozen=True)
class Elementwise:
    """A ufunc of numpy, or another function of equal arrays, on items; outer values are repeated for those within.

    What is computed from a missing value is missing; what `numpy.where` does not choose may be. Counts must agree.
    """

    ufunc: Callable[..., Any]
    operands: tuple[Field | Constant | Single, ...]
    field: Field

    @classmethod
    def of(cls, ufunc: Callable[..., Any], operands: Sequence[Field | Constant | Single]) -> Elementwise:
        """The step, with the field that it gives.

        Raises
        ------
        OptionError
            When the ufunc has no such operands.
        """
        fields = [x for x in operands if isinstance(x, Field)]
        ragged = [f for f in fields if f.n_offsets]
        shaped = [f for f in ragged if f.kind == "shaped"]
        if (shaped and len(shaped) < len(ragged)) or len({f.axes for f in shaped}) > 1:
            raise OptionError(
                f"{' and '.join(repr(f.name) for f in ragged)} do not combine item by item: rows of "
                f"{shaped[0].name!r} are arrays of {shaped[0].axes} axes"
            )
        found = _on_nothing(ufunc, operands)
        levels = max(f.levels for f in ragged)
        optional = {depth for f in ragged for depth in f.optional if depth < f.n_offsets and depth < max(levels, 1)}
        if any(_innermost(f) in f.optional for f in fields if f.kind != "shaped" or f.levels):
            optional.add(levels)
        kind, axes = ("shaped", shaped[0].axes) if shaped else ("ragged", 0)
        if shaped and any(f.optional for f in fields if not f.n_offsets):
            raise OptionError("values that may be missing do not combine with shaped rows, of which each is whole")
        field = Field(
            ufunc.__name__,
            kind,  # type: ignore[arg-type]
            stored_dtype(found.dtype, name=ufunc.__name__),
            found.shape[1:],
            levels,
            axes=axes,
            optional=tuple(sorted(optional)),
        )
        return cls(ufunc, tuple(operands), field)

    def __call__(self, first_row: int, n: int, *args: Any) -> FieldData:
        given = iter(args)
        found: list[Any] = []
        values, places = [], []
        shapes = None
        for i, operand in enumerate(self.operands):
            if isinstance(operand, Constant):
                found.append(operand.value)
                continue
            data = next(given)
            found.append(data)
            if isinstance(operand, Single):
                continue
            values.append(as_value(operand, data))
            places.append(i)
            if operand.kind == "shaped":
                shapes = _same_shapes(operand, data, shapes, first_row)
        many = any(v.array.ndim > 1 for v in values)
        # Of several numbers each, elements are brought together by their places.
        numbers = [v._replace(array=np.arange(len(v.array))) for v in values] if many else values
        aligned = Block(_nothing_to_read, n, first_row).align(numbers)
        for place, value, number, array in zip(places, values, numbers, aligned.arrays, strict=True):
            whole = not many or array is number.array
            found[place] = _with_axes(value.array if many and whole else value.array[array] if many else array, self)
        known = _all(aligned.known)
        if self.ufunc is np.where and known is not None and not many:
            known = _known_where(found[0], dict(zip(places, aligned.known, strict=True)), len(known))
        with np.errstate(all="ignore") if self.field.optional else contextlib.nullcontext():
            out = self.ufunc(*found)
        if out.dtype != self.field.dtype:
            out = out.astype(self.field.dtype)
        value = aligned.value(out, known)
        if value.known is not None and not value.known.all():
            out[~value.known] = fill_missing(out.dtype)
        there = tuple(value.there) or (None,) * len(value.offsets)
        valid = there if self.field.kind == "shaped" else (*there, value.known)
        return FieldData(out, value.offsets, (), shapes, valid if any(v is not None for v in valid) else ())


def _innermost(field: Field) -> int:
    return field.levels if field.kind != "shaped" else 0


def _nothing_to_read(name: str) -> FieldData:
    raise AssertionError(name)


def _all(known: Sequence[npt.NDArray[np.bool_] | None]) -> npt.NDArray[np.bool_] | None:
    some = [k for k in known if k is not None]
    return np.logical_and.reduce(some) if some else None


def _known_where(condition: Any, known: Mapping[int, npt.NDArray[np.bool_] | None], n: int) -> npt.NDArray[np.bool_]:
    """Where `numpy.where` has a value: where it knows the condition, and what that chooses."""
    there = [np.ones(n, np.bool_) if (k := known.get(i)) is None else k for i in range(3)]
    return np.asarray(there[0] & np.where(condition, there[1], there[2]))


def _with_axes(array: npt.NDArray[Any], step: Elementwise) -> npt.NDArray[Any]:
    """Elements with as many axes as those of the result, in front of their own."""
    more = 1 + len(step.field.shape) - array.ndim
    return array.reshape(len(array), *(1,) * more, *array.shape[1:]) if more else array


def _same_shapes(field: Field, data: FieldData, shapes: Any, first_row: int) -> Any:
    assert data.shapes is not None
    if shapes is not None and not np.array_equal(shapes, data.shapes):
        i = int(np.argmax((shapes != data.shapes).any(axis=1)))
        raise OptionError(
            f"row {first_row + i} of {field.name!r} has the shape {tuple(data.shapes[i].tolist())}, and the other "
            f"{tuple(shapes[i].tolist())}, so they do not combine item by item"
        )
    return data.shapes


def _on_nothing(ufunc: Callable[..., Any], operands: Sequence[Any]) -> npt.NDArray[Any]:
    """What the ufunc makes of one element of each operand, for its dtype and shape."""
    most = max(len(x.shape) for x in operands if isinstance(x, Field))
    values: list[Any] = []
    for x in operands:
        if isinstance(x, Field):
            values.append(np.zeros((1, *(1,) * (most - len(x.shape)), *x.shape), x.dtype))
        else:
            values.append(x.value if isinstance(x, Constant) else np.zeros((), x.dtype)[()])
    try:
        with np.errstate(all="ignore"):
            return np.asarray(ufunc(*values))
    except (TypeError, ValueError, OverflowError) as error:
        of = ", ".join(x.describe() if isinstance(x, Field) else str(getattr(x, "value", x)) for x in operands)
        raise OptionError(f"{ufunc.__name__} of {of}: {error}") from None


@dataclass(frozen=True)
class Evaluated:
    """An expression of the language of cuts on one field, number by number where its items have several."""

    source: Field
    expression: Expression
    field: Field
    default: Any = None

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return self.source, self.expression.canonical, self.field, repr(self.default)

    def __call__(self, first_row: int, n: int, data: FieldData) -> FieldData:
        shape = self.source.shape
        if not shape:
            return self._one(first_row, n, data)
        flat = data.values.reshape(len(data.values), math.prod(shape))
        parts = [
            self._one(first_row, n, replace(data, values=np.ascontiguousarray(flat[:, i])))
            for i in range(flat.shape[1])
        ]
        if not parts:
            return FieldData(np.zeros((n, *shape), self.field.dtype))
        values = np.stack([part.values for part in parts], axis=1).reshape(len(parts[0].values), *shape)
        return replace(parts[0], values=values)

    def _one(self, first_row: int, n: int, data: FieldData) -> FieldData:
        result = evaluate(self.expression, lambda name: data, n, first_row=first_row)
        found = data_of(self.field, result)
        valid = found.valid_at(len(found.offsets))
        if self.default is None or valid is None:
            return found
        values = np.where(valid, found.values, np.asarray(self.default, found.values.dtype))
        kept = (*found.valid[:-1], None)
        return replace(found, values=values, valid=kept if any(v is not None for v in kept) else ())


def with_counts_of(recipe: Recipe) -> Recipe:
    """What has the counts of a recipe, and is nearer to what is stored."""
    while True:
        node = recipe.node
        if not isinstance(node, Made) or not isinstance(node.op, Elementwise):
            return recipe
        fields = {arg: recipe.nodes[arg].field for arg in node.args}
        ragged = [arg for arg, f in fields.items() if f is not None and f.n_offsets]
        # Where a row is missing in one, the others may have items there.
        if any(0 in f.optional for f in fields.values() if f is not None and f.n_offsets):
            return recipe
        recipe = recipe.at(ragged[0])


# Awkward arrays -----------------------------------------------------------------------------------------------------


def as_awkward(field: Field | None, data: Any) -> Any:
    """A chunk as functions of the user's get it: awkward, or an array of one entry per row."""
    return several(field, data) if field is not None and isinstance(data, FieldData) else data


@contextlib.contextmanager
def _of(function: Callable[..., Any]) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        error.add_note(f"in map({getattr(function, '__name__', function)})")
        raise


@dataclass(frozen=True)
class Map:
    """A function of the user's; its result is rows of `field`, or an awkward array of anything."""

    function: Callable[..., Any]
    args: tuple[Field | None, ...]
    field: Field | None = None

    def call(self, *args: Any) -> Any:
        chunks = [as_awkward(f, data) for f, data in zip(self.args, args, strict=True)]
        with _of(self.function):
            return self.function(*chunks)

    def __call__(self, first_row: int, n: int, *args: Any) -> Any:
        value = self.call(*args)
        if not hasattr(value, "__len__") or len(value) != n:
            got = f"{len(value):,}" if hasattr(value, "__len__") else type(value).__name__
            raise OptionError(f"map: a function gives one entry for each row; of {n:,} rows it made {got}")
        if self.field is None:
            return that_pickles(value)
        self._check_kind(value)
        try:
            return to_field_data(self.field.name, value, self.field)[1]
        except SchemaError as error:
            error.add_note(f"of no rows the function made {self.field.describe()}, and of a chunk something else")
            raise

    def _check_kind(self, value: Any) -> None:
        """Raise where numbers are of another kind than those of no rows: an array made of nothing is of float64."""
        assert self.field is not None
        dtype = getattr(getattr(value, "layout", value), "dtype", None)
        if self.field.kind != "dense" or not len(value) or dtype is None or dtype.kind not in "biufc":
            return
        integers = {dtype.kind, self.field.dtype.kind} == {"i", "u"}
        if dtype.kind != self.field.dtype.kind and not integers:
            raise OptionError(
                f"map: of no rows {getattr(self.function, '__name__', 'the function')} made {self.field.dtype}, and of "
                f"{len(value):,} rows {dtype}; np.array([]) of nothing is of float64, so say the dtype, as in "
                f"np.array([...], dtype={str(dtype)!r})"
            )


@dataclass(frozen=True)
class Zip:
    """Fields as records: lists of records, where they are lists; of the behaviours of `name`."""

    members: tuple[str, ...]
    fields: tuple[Field, ...]
    name: str | None

    def __call__(self, first_row: int, n: int, *args: FieldData) -> Any:
        import awkward as ak

        lists = self.fields[0].levels > 0
        if lists:
            values = [_lists(f, data) for f, data in zip(self.fields, args, strict=True)]
            Block(_nothing_to_read, n, first_row).common(values)  # raises where counts differ
        arrays = {m: to_awkward(f, data) for m, f, data in zip(self.members, self.fields, args, strict=True)}
        if self.name is not None:
            register_vector()
        return that_pickles(ak.zip(arrays, depth_limit=2 if lists else 1, with_name=self.name))


def _lists(field: Field, data: FieldData) -> Value:
    """The outermost lists alone."""
    offsets, there = data.offsets[0], data.valid_at(0)
    items = np.broadcast_to(np.zeros((), np.int8), int(offsets[-1]))
    return Value(items, (offsets,), None, field.name, there=() if there is None else (there,))


def that_pickles(array: Any) -> Any:
    """The same awkward array; if it holds times, of a class that comes back from another process."""
    import awkward as ak

    text = str(array.type)
    if "datetime64" not in text and "timedelta64" not in text:
        return array
    array = ak.Array(array)
    base: Any = type(array)
    array.__class__ = _class_that_pickles(base)  # its own constructor would choose another class
    return array


@cache
def _class_that_pickles(base: Any) -> Any:
    class Array(base):  # type: ignore[misc]
        """An awkward array that pickles: from protocol 5 on they are memory views, which cannot be of times."""

        def __reduce_ex__(self, protocol: Any) -> Any:
            make, args, *_ = super().__reduce_ex__(min(protocol, 4))
            return _unpickled, (make, args)

    return Array


def _unpickled(make: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    return that_pickles(make(*args))  # dask may send it on


def register_vector() -> bool:
    """Make the behaviours of vector known to awkward, if it is installed."""
    try:
        import vector
    except ImportError:
        return False
    vector.register_awkward()
    return True
