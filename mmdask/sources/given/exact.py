"""Numbers in a dtype, exactly or not at all.

Python floats take the precision of the field that they go into. Everything else is converted only where every value
survives, else `SchemaError` says so. That needs care: numpy rounds integers when they meet floats, calls int64 to
float64 a safe cast, and lets dates that are out of range wrap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.errors import SchemaError
from mmdask.schema import Field, dtype_text, stored_dtype

__all__ = ["missing_value", "numbers", "one_dtype", "values_as"]

#: of units of time that have one length, which months and years have not
_ATTOSECONDS = {
    **{unit: seconds * 10**18 for unit, seconds in (("W", 604800), ("D", 86400), ("h", 3600), ("m", 60))},
    **{unit: 10 ** (18 - 3 * i) for i, unit in enumerate(("s", "ms", "us", "ns", "ps", "fs", "as"))},
}


def values_as(field: Field, values: npt.NDArray[Any], weak: bool = False) -> npt.NDArray[Any]:
    """Values in the dtype of `field`, unless that would change one of them.

    `weak` values are Python numbers: floats may be rounded to the field's precision, as numpy does.
    """
    dtype = field.dtype
    if values.dtype == dtype:
        return values
    if not values.size:
        return np.empty(values.shape, dtype)
    if dtype.kind == "c" and values.dtype.kind in "biuf":
        real = replace(field, dtype=np.dtype(f"<f{dtype.itemsize // 2}"))
        return values_as(real, values, weak).astype(dtype)
    both_numbers = values.dtype.kind in "biuf" and dtype.kind in "biuf"
    if not both_numbers and (values.dtype.kind != dtype.kind or dtype.kind not in "cSmM"):
        raise SchemaError(f"field {field.name!r} is {field.describe()}; got {dtype_text(values.dtype)} values")
    with np.errstate(all="ignore"):
        cast = _cast(values, dtype, weak)
        if cast is None:
            raise _unfit(field, values, weak)
        return cast


def _cast(values: npt.NDArray[Any], dtype: np.dtype[Any], weak: bool) -> npt.NDArray[Any] | None:
    """The values in another dtype; None where that would change one of them."""
    if dtype.kind in "mM":
        return _in_unit(values, dtype)
    cast = values.astype(dtype)
    fit = _always_exact(values.dtype, dtype) or _survives(values, cast) or (weak and _rounded(values, cast))
    return cast if fit else None


def _unfit(field: Field, values: npt.NDArray[Any], weak: bool) -> SchemaError:
    """The error for values that a cast changes: it shows the first of them, and what can be done."""
    flat = values.reshape(-1)
    first, stop = 0, len(flat)
    while stop - first > 1:
        middle = (first + stop) // 2
        if _cast(flat[first:middle], field.dtype, weak) is not None:
            first = middle
        else:
            stop = middle
    value = flat[first].item() if values.dtype.kind not in "mM" else flat[first]
    where = f" (row {first * len(values) // flat.size} of those given)" if field.kind == "dense" and values.ndim else ""
    if values.dtype.kind in "fc" and _only_rounds(value, flat[first].astype(field.dtype)):
        advice = f"round on purpose, as in x.astype({field.dtype.name!r})"
    else:
        advice = "give values that it holds, or a field whose dtype does"
    return SchemaError(f"field {field.name!r} is {field.describe()}: {value!r}{where} does not fit exactly; {advice}")


def _only_rounds(value: Any, cast: Any) -> bool:
    """Whether a float only loses precision, and is neither cut nor becomes infinite."""
    return np.asarray(cast).dtype.kind in "fc" and bool(np.isfinite(cast) or not np.isfinite(value))


def _always_exact(source: np.dtype[Any], target: np.dtype[Any]) -> bool:
    """Whether a cast changes no number. Numpy calls those "safe", and some that round."""
    rounds = source.kind in "iu" and target.kind == "f" and source.itemsize == 8
    return not rounds and bool(np.can_cast(source, target, "safe"))


def _survives(values: npt.NDArray[Any], cast: npt.NDArray[Any]) -> bool:
    """Whether every value is the same after the cast."""
    source, target = values.dtype.kind, cast.dtype.kind
    if source == "c":
        return _survives(values.real, cast.real) and _survives(values.imag, cast.imag)
    # A float beyond the integers becomes any of them: which one differs between processors.
    if source in "iu" and target == "f" and not _within(cast, values.dtype):
        return False
    if source == "f" and target in "iu" and not _within(values, cast.dtype):
        return False
    if source in "iu" and target in "iu" and ((cast < 0) != (values < 0)).any():
        return False
    return np.array_equal(cast.astype(values.dtype), values, equal_nan=source == "f")


def _in_unit(values: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any] | None:
    """Times in another unit; None where one of them is no whole number of it, or out of its range.

    Beyond the range numpy wraps, or raises, also for some that are just within it.
    """
    (unit, n), (new, m) = np.datetime_data(values.dtype), np.datetime_data(dtype)
    if unit not in _ATTOSECONDS or new not in _ATTOSECONDS:
        try:
            cast = values.astype(dtype)
            same = np.array_equal(cast.astype(values.dtype), values, equal_nan=True)
        except OverflowError:
            same = False
        return cast if same else None
    ratio = Fraction(n * _ATTOSECONDS[unit], m * _ATTOSECONDS[new])
    ticks = np.asarray(values.astype(values.dtype.newbyteorder("=")).view(np.int64))
    most = np.iinfo(np.int64).max
    if max(ratio.numerator, ratio.denominator) > most:
        whole, fit = np.zeros_like(ticks), ticks == 0
    else:
        whole = ticks // ratio.denominator
        fit = (ticks % ratio.denominator == 0) & (np.abs(whole) <= most // ratio.numerator)
        whole = whole * ratio.numerator
    missing = np.isnat(values)
    if not (fit | missing).all():
        return None
    return np.where(missing, np.iinfo(np.int64).min, whole).view("=" + dtype.str[1:]).astype(dtype)


def _within(floats: npt.NDArray[Any], integer: np.dtype[Any]) -> bool:
    """Whether all floats lie in the range of an integer dtype."""
    info, doubles = np.iinfo(integer), floats.astype("f8")
    return bool(((doubles >= float(info.min)) & (doubles < float(info.max + 1))).all())


def _rounded(values: npt.NDArray[Any], cast: npt.NDArray[Any]) -> bool:
    """Whether floats only lost precision."""
    if values.dtype.kind == cast.dtype.kind == "c":
        return _rounded(values.real, cast.real) and _rounded(values.imag, cast.imag)
    return values.dtype.kind == cast.dtype.kind == "f" and not (np.isinf(cast) & ~np.isinf(values)).any()


def missing_value(dtype: np.dtype[Any]) -> Any:
    """What stands in an array where a value is missing: nan, NaT, or zero."""
    if dtype.kind in "fc":
        return np.nan
    return np.array("NaT", dtype) if dtype.kind in "mM" else np.zeros((), dtype)


def numbers(name: str, scalars: Sequence[Any], field: Field | None) -> npt.NDArray[Any]:
    """Python's or numpy's scalars as an array that holds every one exactly, in its own dtype or in that of `field`."""
    try:
        array, elements = np.array(scalars), list(scalars)
    except (ValueError, TypeError, OverflowError) as error:
        raise SchemaError(f"field {name!r}: rows that are no array: {error}") from None
    types = set(map(type, elements))
    if array.dtype.kind == "f" and elements and all(issubclass(t, int | np.integer | np.bool_) for t in types):
        # Beyond int64 numpy takes floats, also where uint64 holds all of them.
        ints = list(map(int, elements))
        if min(ints) >= 0:
            array = np.array(ints, np.uint64)
    if array.dtype.kind == "O" or array.ndim != 1:
        some = ", ".join(sorted(t.__name__ for t in types))
        way = "give whole numbers of up to 64 bits, or floats"
        if any(t.__module__ == "datetime" for t in types):
            way = "give them as numpy.datetime64 or timedelta64, as in numpy.array(x, 'M8[us]')"
        elif types == {bytes, str} or (bytes in types and len(types) > 1):
            way = "give all of them as text, or all as bytes"
        raise SchemaError(f"field {name!r}: no one dtype holds {some}; {way}")
    array = array.astype(stored_dtype(array.dtype, name=name), copy=False)
    if array.dtype.kind in "mM":
        if len({getattr(e, "dtype", None) for e in elements}) > 1:
            return np.array(one_dtype(name, [np.asarray(e) for e in elements], None))
    elif array.dtype.kind in "fcS" and types not in ({float}, {complex}):
        _check_same(name, elements, array, field)
    return array


def _check_same(name: str, elements: list[Any], array: npt.NDArray[Any], field: Field | None) -> None:
    """Whether an array holds its elements exactly, and integers also when it takes the precision of `field`."""
    rounded = array
    if field is not None and field.dtype.kind in "fc" and np.can_cast(array.dtype, field.dtype, "same_kind"):
        with np.errstate(all="ignore"):
            rounded = array.astype(field.dtype)
    for element, as_float, as_field in zip(elements, array.tolist(), rounded.tolist(), strict=True):
        exact = element.item() if isinstance(element, np.generic) else element
        stored = as_field if isinstance(exact, int) else as_float
        # Python compares numbers of different types exactly; nan differs from itself.
        if exact != stored and exact == exact:
            raise SchemaError(
                f"field {name!r}: {exact!r} would become {stored!r} beside the others, of which it shares one dtype: "
                "give an array of the dtype that it should have"
            )


def one_dtype(name: str, arrays: list[npt.NDArray[Any]], field: Field | None) -> list[npt.NDArray[Any]]:
    """The arrays in the field's dtype, or one that holds all their values exactly. Empty ones have no say."""
    dtypes = {a.dtype for a in arrays if a.size} or {a.dtype for a in arrays}
    try:
        dtype = np.result_type(*dtypes)
    except TypeError as error:
        raise SchemaError(f"field {name!r}: rows of {', '.join(sorted(map(str, dtypes)))}: {error}") from None
    if dtype.kind in "UT":
        if any(d.kind not in "UT" for d in dtypes):
            raise SchemaError(f"field {name!r}: text and other rows: {', '.join(sorted(map(str, dtypes)))}")
    else:
        declared = field is not None and field.kind in ("dense", "ragged", "shaped")
        target = field if field is not None and declared else Field.dense(name, dtype)
        arrays, dtype = [values_as(target, a) if a.size else a for a in arrays], target.dtype
    return [a if a.size else np.empty(a.shape, dtype) for a in arrays]
