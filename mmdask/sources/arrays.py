"""Arrays in memory, or lazy ones, into a new store."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from mmdask.errors import SchemaError
from mmdask.schema import Field, FieldData
from mmdask.store.coerce import to_field_data
from mmdask.store.layer import Scalar
from mmdask.store.writer import create

__all__ = ["write_arrays"]

#: rows handed to the writer at once; what is computed lazily is computed in such pieces
PIECE_ROWS = 1 << 18


def write_arrays(
    data: Mapping[str, Any],
    path: str | os.PathLike[str],
    *,
    fields: Iterable[Field] | None = None,
    labels: Mapping[str, Scalar] | None = None,
) -> None:
    """Write one entry per field, all with the same number of rows, as a new store; see `mmdask.from_arrays`."""
    if hasattr(data, "fields") and not isinstance(data, Mapping):
        # an awkward array of records
        data = {name: data[name] for name in data.fields}
    declared = {f.name: f for f in fields or ()}
    ready: dict[str, Any] = {}
    known: dict[str, Field] = {}
    for name, value in data.items():
        if hasattr(value, "compute"):
            ready[name] = value
            if name in declared:
                known[name] = declared[name]
        else:
            known[name], ready[name] = to_field_data(name, value, declared.get(name))
    for name in declared:
        if name not in ready:
            raise SchemaError(f"no data for the field {name!r}")
    lengths = {name: len(value) for name, value in ready.items()}
    if len(set(lengths.values())) > 1:
        raise SchemaError("fields differ in length: " + ", ".join(f"{k} has {n} rows" for k, n in lengths.items()))
    rows = max(lengths.values(), default=0)
    with create(path, fields=known.values(), labels=labels) as writer:
        for a in range(0, rows, PIECE_ROWS) or (0,):
            b = min(a + PIECE_ROWS, rows)
            writer.extend({name: _piece(value, a, b) for name, value in ready.items()})


def _piece(value: Any, start: int, stop: int) -> Any:
    piece = value[start:stop]
    return piece if isinstance(piece, FieldData) else piece.compute()
