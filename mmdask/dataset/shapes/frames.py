"""Datasets as what other libraries hold: pandas and dask data frames, xarray datasets."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mmdask.dataset.layouts import rows_of
from mmdask.dataset.optional import imported
from mmdask.errors import MissingDependencyError, OptionError
from mmdask.rows.rows import Rows
from mmdask.schema import Field, FieldData, Schema

__all__ = ["OnRagged", "dask_frame", "frame_names", "pandas_frame", "single_valued", "xarray_of"]

#: what a data frame does with fields that have more than one value per row
OnRagged = Literal["error", "drop", "lists"]
#: columns that one field of a fixed shape may become
_MAX_COLUMNS = 1000
#: units of time that pandas knows
_PANDAS_UNITS = ("s", "ms", "us", "ns")

Array = npt.NDArray[Any]


def frame_names(schema: Schema, names: Sequence[str], ragged: OnRagged) -> list[str]:
    """The fields that a data frame has.

    Raises
    ------
    OptionError
        When some have lists in their rows and it is not said what is to become of them.
    """
    if ragged not in ("error", "drop", "lists"):
        raise OptionError(f"ragged= is 'error', 'drop' or 'lists', got {ragged!r}")
    with_lists = [name for name in names if not single_valued(schema[name])]
    if with_lists and ragged == "error":
        some = ", ".join(with_lists[:5]) + (", ..." if len(with_lists) > 5 else "")
        raise OptionError(
            f"a data frame has one value per row, and these fields have lists: {some}; name others by fields=, reduce "
            f"them by ds.assign(n='len({with_lists[0]})'), or say ragged='drop' to leave them out, or ragged='lists' "
            "for columns of arrays, which pandas can explode to one row per item"
        )
    return [name for name in names if ragged == "lists" or name not in with_lists]


def single_valued(field: Field) -> bool:
    """Whether each row is one value, or as many numbers as every other."""
    return field.kind in ("dense", "category") or (field.kind == "string" and not field.levels)


# pandas -------------------------------------------------------------------------------------------------------------


def pandas_frame(rows: Rows, names: Sequence[str], edges: Sequence[int], given: Mapping[str, Array]) -> Any:
    """Some rows as a pandas DataFrame.

    Parameters
    ----------
    rows : Rows
        The rows.
    names : sequence of str
        The fields, in their order.
    edges : sequence of int
        What is read at once: the first row of each chunk, and the row behind the last.
    given : mapping of arrays
        Fields that are computed already, by name.
    """
    pd = imported("pandas", "pandas")
    columns: dict[str, Any] = {}
    for name in names:
        if name in given:
            array = given[name]
            field = Field.dense(name, array.dtype, array.shape[1:], optional=isinstance(array, np.ma.MaskedArray))
            valid = None
            if isinstance(array, np.ma.MaskedArray) and array.ndim == 1:
                valid = (~np.ma.getmaskarray(array),)
            found = _columns(pd, field, [FieldData(np.asarray(array), valid=valid or ())], len(array))
        else:
            pieces = (rows.read(name, a, b) for a, b in itertools.pairwise(edges))
            found = _columns(pd, rows.schema[name], pieces, edges[-1] - edges[0])
        for column, values in found.items():
            if column in columns:
                raise OptionError(f"two columns of the data frame would be called {column!r}; name fewer fields")
            columns[column] = values
    return pd.DataFrame(columns, index=pd.RangeIndex(edges[0], edges[-1]))


def _columns(pd: Any, field: Field, pieces: Any, n: int) -> dict[str, Any]:
    """The columns of a field of `n` rows, that come in pieces."""
    if not single_valued(field) or field.kind == "string":
        values = np.empty(n, object)
        for i, row in enumerate(itertools.chain.from_iterable(rows_of(field, data) for data in pieces)):
            values[i] = pd.NA if row is None else row
        return {field.name: pd.array(values, dtype="string") if single_valued(field) else values}
    if field.kind == "category":
        dtype = np.min_scalar_type(-max(len(field.labels), 1))
    else:
        dtype = _dtype(field.dtype)
    values, missing = np.empty((n, *field.shape), dtype), None
    at = 0
    for data in pieces:
        values[at : at + len(data)] = data.values
        valid = data.valid_at(0)
        if 0 in field.optional:
            missing = np.zeros(n, np.bool_) if missing is None else missing
            if valid is not None:
                missing[at : at + len(data)] = ~valid
        at += len(data)
    if field.kind == "category":
        if missing is not None:
            values[missing] = -1
        return {field.name: pd.Categorical.from_codes(values, categories=list(field.labels))}
    return {name: _masked(pd, column, missing) for name, column in _split(field.name, values)}


def _dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of a column: pandas has no half floats, times of few units, and fixed bytes as objects."""
    if dtype == np.float16:
        return np.dtype(np.float32)
    if dtype.kind in "mM":
        unit, step = np.datetime_data(dtype)
        if unit not in _PANDAS_UNITS or step != 1:
            finer = "s" if unit in ("Y", "M", "W", "D", "h", "m", "s") else "ms" if unit == "ms" else "ns"
            return np.dtype(f"{dtype.kind}8[{finer}]")
    return np.dtype(object) if dtype.kind == "S" else dtype.newbyteorder("=")


def _split(name: str, values: Array) -> Iterator[tuple[str, Array]]:
    """Numbers of a row in columns of their own, called as in cuts: p3[0], p3[1], ..."""
    if values.ndim == 1:
        yield name, values
        return
    shape = values.shape[1:]
    if math.prod(shape) > _MAX_COLUMNS:
        raise OptionError(
            f"field {name!r} has {math.prod(shape):,} numbers in a row, which would be as many columns; leave it out, "
            "or reduce it by ds.assign"
        )
    for place in np.ndindex(*shape):
        yield name + "".join([f"[{i}]" for i in place]), values[(slice(None), *place)]


def _masked(pd: Any, values: Array, missing: npt.NDArray[np.bool_] | None) -> Any:
    """A column in which some values are NA."""
    if missing is None:
        return values
    kind = values.dtype.kind
    if kind == "f":
        return pd.arrays.FloatingArray(np.ascontiguousarray(values), missing)
    if kind in "iu":
        return pd.arrays.IntegerArray(np.ascontiguousarray(values), missing)
    if kind == "b":
        return pd.arrays.BooleanArray(np.ascontiguousarray(values), missing)
    values = values.copy()
    if kind in "mM":
        values[missing] = "NaT"
    elif kind == "c":
        values[missing] = np.nan
    else:
        values[missing] = pd.NA
    return values


# dask ---------------------------------------------------------------------------------------------------------------


def dask_frame(rows: Rows, names: Sequence[str], edges: Sequence[int]) -> Any:
    """The rows as a lazy dask DataFrame, a part of it for each chunk; it knows its divisions."""
    imported("pandas", "pandas")
    try:
        import dask.dataframe as dd
    except ImportError as error:
        raise MissingDependencyError(
            f'dask.dataframe cannot be imported ({error}); run: pip install "dask[dataframe]"'
        ) from None
    meta = pandas_frame(rows, names, [0, 0], {})
    bounds = list(itertools.pairwise(edges))
    filled = [(a, b) for a, b in bounds if b > a]
    if not filled:
        return dd.from_pandas(meta, npartitions=1)
    divisions = (*[a for a, _ in filled], filled[-1][1] - 1)
    read = partial(_frame_of, rows.only(names), tuple(names))
    return dd.from_map(read, filled, meta=meta, divisions=divisions, label="mmdask", enforce_metadata=False)


def _frame_of(rows: Rows, names: tuple[str, ...], bounds: tuple[int, int]) -> Any:
    return pandas_frame(rows, names, bounds, {})


# xarray -------------------------------------------------------------------------------------------------------------


def xarray_of(schema: Schema, names: Sequence[str], field: Callable[[str], Any], attrs: Mapping[str, Any]) -> Any:
    """Fields as an xarray Dataset around their dask arrays, along the dimension "row".

    Parameters
    ----------
    schema : Schema
        What the fields are.
    names : sequence of str
        Which.
    field : callable
        From a name to the dask array.
    attrs : mapping
        Of the store.
    """
    xr = imported("xarray", "xarray")
    variables = {}
    for name in names:
        f = schema[name]
        if f.kind not in ("dense", "category"):
            raise OptionError(
                f"field {name!r} is {f.describe()}, and arrays of xarray have the same shape in each row; reduce it by "
                f"ds.assign(n='len({name})')"
            )
        about = {key: text for key, text in (("units", f.unit), ("long_name", f.doc)) if text}
        dims = ("row", *[f"{name}_{i}" for i in range(len(f.shape))])
        variables[name] = (dims, _unmasked(field(name)), about)
    return xr.Dataset(variables, attrs=dict(attrs))


def _unmasked(array: Any) -> Any:
    """Without a mask, which xarray does not know: nan, NaT or empty text where a value is missing."""
    import dask.array as da

    if not isinstance(array._meta, np.ma.MaskedArray):
        return array
    kind = array.dtype.kind
    if kind in "biu":
        array = array.astype(np.float64)
    empty: Any = np.array("NaT", array.dtype)[()] if kind in "mM" else {"U": "", "S": b""}.get(kind, np.nan)
    return da.ma.filled(array, empty)
