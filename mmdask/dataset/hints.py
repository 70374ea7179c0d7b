"""What is said of an attribute that there is none of: where it is, for those who come from pandas, numpy or dask."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NoReturn

from mmdask.short import ambiguous, short_names

__all__ = ["RAGGED", "no_attribute"]

_TABLE = "ds[:5].to_dataframe() is a table of the first rows, ds[:5] a dataset of them"
_SELECT = "rows are selected by ds[ds.cut('met > 30')]"
_BY_NUMBER = "ds[10:20] are some rows, ds[[5, 3]] are read at once; ds.loc['eventNumber', 7] is a row by key"
_GROUPS = "ds.hist(..., by='process') and ds.cutflow(..., by='process') go by groups"
_DESCRIBE = "ds.describe() has it for all fields, ds['met'].mean() for one of them"

_DATASET = {
    "head": _TABLE,
    "tail": "ds[-5:] are the last rows",
    "shape": "len(ds) is the number of rows, len(ds.fields) that of fields",
    "columns": "ds.fields are the names",
    "dtypes": "ds.schema says what fields are",
    "info": "print(ds) shows the fields, ds.schema says more",
    "iloc": _BY_NUMBER,
    "isel": _BY_NUMBER,
    "take": _BY_NUMBER,
    "compute": "ds['met'].compute() reads a field, ds.to_awkward() and ds.to_dataframe() several",
    "persist": "ds['met'].persist() keeps a field in memory",
    "drop": "ds[['met', 'jet_*']] has only these fields",
    "map": "ds['jet_pt'].map(f) calls f with the items, ds['met'].map_blocks(f) with the chunks of a dense field",
    "to_pandas": "ds.to_dataframe() makes a data frame",
    **dict.fromkeys(("query", "filter", "where", "sel"), _SELECT),
    **dict.fromkeys(("groupby", "value_counts"), _GROUPS),
    **dict.fromkeys(("mean", "std", "min", "max", "sum"), _DESCRIBE),
}

_IN_DASK = (
    "functions of dask.array take dask arrays: .values has all items, .sum(), .pad(4) and others are one entry per "
    "row; np.where and ufuncs of numpy go item by item"
)
_LENGTHS = "rows differ in length: len(x) is their number, .counts that of items in each, .shapes of shaped rows"

#: of ragged fields
RAGGED = {
    "shape": _LENGTHS,
    "ndim": _IN_DASK,
    "map_blocks": ".map(f) calls f with the awkward array of each chunk",
    "__dask_layers__": _IN_DASK,
    "size": ".counts.sum() is the number of items",
    "tolist": ".to_list() is it",
    "to_numpy": ".pad(4).compute() has 4 items of each row, .values.compute() all items, row after row",
    "flatten": ".values has all items, row after row",
    "ravel": ".values has all items, row after row",
    "sort": ".map(ak.sort) sorts the items of each row",
    "argsort": ".map(ak.argsort) is the order of the items of each row",
    "num": ".counts is the number of items in each row",
}


def no_attribute(of: object, name: str, fields: Collection[str] = (), hints: Mapping[str, str] = _DATASET) -> NoReturn:
    """Raise the `AttributeError` of an object that has no such attribute, with where that is to be found."""
    if hasattr(type(of), name):
        object.__getattribute__(of, name)  # a property that failed by an error of its own
    text = f"{type(of).__name__!r} object has no attribute {name!r}"
    if name in hints:
        text += f"; {hints[name]}"
    elif name in fields:
        text += f"; it is a field: ds[{name!r}]"
    elif meant := short_names(fields).get(name, ()):
        text += f"; {ambiguous(name, meant)}" if len(meant) > 1 else f"; it is the field {meant[0]!r}: ds[{name!r}]"
    raise AttributeError(text, name=name, obj=of)
