"""`assign`: new fields for the rows of a store, from expressions, arrays or lazy collections."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from mmdask.dataset.making.make import compute_together
from mmdask.errors import OptionError
from mmdask.schema import Field
from mmdask.sources.assign import assign_fields

__all__ = ["assign"]


def assign(
    path: str | os.PathLike[str],
    fields: Mapping[str | Field, Any] | None = None,
    /,
    *,
    replace: bool = False,
    progress: bool = True,
    **named: Any,
) -> None:
    """Add fields to a store, for all its rows. Eager; one commit, which rewrites no row.

    Parameters
    ----------
    path : path
        The store.
    fields : mapping, optional
        Values by name, for names that are no Python names; or by `Field`, which declares dtype, unit and doc, as
        ``{mm.Field.dense("ht", "f4", unit="GeV"): "sum(jet_pt)"}``.
    replace : bool
        Whether fields that exist may be replaced. They keep their place, unit, doc and attrs.
    progress : bool
        Whether a progress bar is shown.
    **named
        Values by name. Text is an expression in the language of cuts, as ``ht="sum(jet_pt)"``; it has one value per
        row or per item, and may read fields of the same call. All else has one entry per row: a numpy or awkward
        array, a list, or a dask array or field of a dataset, of which each chunk is computed once, in bounded memory.

    Raises
    ------
    SchemaError
        When a field exists and `replace` is not given; when others are computed from it; when the number of rows is
        not that of the store.
    ExpressionError
        When an expression cannot be read, or when expressions need each other.
    ConflictError
        When another process changed a field that is read or replaced, or appended rows that an array has no values
        for. Nothing is changed then.

    Notes
    -----
    A field that is assigned as an expression keeps it: rows that are appended or converted later are computed, too. One
    that is assigned as an array must be given by rows that are appended later.

    Where an expression has no value, as the maximum of an empty row, the value is missing, and the field is optional.

    Examples
    --------
    >>> import mmdask as mm
    >>> ds = mm.from_arrays({"jet_pt": [[30.0, 20.0], [], [50.0]]}, "assigned.mm")
    >>> mm.assign("assigned.mm", ht="sum(jet_pt)", half="ht / 2", label=["a", "b", "c"])
    >>> mm.open("assigned.mm")["half"].compute()
    array([25.,  0., 25.])
    """
    values: dict[Any, Any] = {}
    if fields is not None:
        if not isinstance(fields, Mapping):
            raise OptionError(f"fields are a mapping of names to values, got {type(fields).__name__}")
        values.update(fields)
    for name, value in named.items():
        if name in values:
            raise OptionError(f"the field {name!r} is given twice")
        values[name] = value
    assign_fields(path, values, replace=replace, progress=progress, compute_lazy=compute_together)
