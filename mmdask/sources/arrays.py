"""Arrays in memory, or lazy ones, into a new store."""

from __future__ import annotations

import bisect
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mmdask.errors import SchemaError
from mmdask.schema import Field
from mmdask.sources.create import create
from mmdask.sources.given.coerce import Converted, to_field_data, with_records
from mmdask.sources.given.lists import ready
from mmdask.sources.given.records import members
from mmdask.store.layer import Scalar
from mmdask.store.zarr.form import Backend

__all__ = ["Compute", "edges", "ready_to_slice", "write_arrays"]

#: bytes that are converted at once, where chunks allow
PIECE_NBYTES = 64 << 20
#: rows of this many bytes are cut apart even within a chunk, which is then computed more than once
MAX_PIECE_NBYTES = 1 << 30
#: a row of a field that does not say its size
_ROW_NBYTES = 64

Compute = Callable[[Sequence[Any]], Sequence[Any]]


def write_arrays(
    data: Any,
    path: str | os.PathLike[str],
    *,
    fields: Iterable[Field] | None = None,
    labels: Mapping[str, Scalar] | None = None,
    attrs: Mapping[str, Any] | None = None,
    aux: Mapping[str, Any] | None = None,
    compute: Compute,
    backend: Backend | None = None,
) -> None:
    """Write one entry per field, all with the same number of rows, as a new store; see `mmdask.from_arrays`.

    `compute` is given rows of all lazy fields at once, so that what they share is computed once.
    """
    declared = {f.name: f for f in fields or ()}
    aux = {name: ready(value) for name, value in (aux or {}).items()}
    # raises now what it would raise after a long computation
    create(path, labels=labels, attrs=attrs, aux=aux, backend=backend)
    parts = members(data, declared)
    known, values = ready_to_slice({part.name: part.rows for part in parts}, declared)
    for name in declared:
        if name not in values:
            raise SchemaError(f"no data for the field {name!r}")
    lengths = {name: len(value) for name, value in values.items()}
    if len(set(lengths.values())) > 1:
        raise SchemaError("fields differ in length: " + ", ".join(f"{k} has {n} rows" for k, n in lengths.items()))
    lazy = [name for name, value in values.items() if hasattr(value, "compute")]

    def convert(start: int, stop: int) -> dict[str, Converted]:
        piece = {name: value[start:stop] for name, value in values.items()}
        if lazy:
            piece.update(zip(lazy, compute([piece[name] for name in lazy]), strict=True))
        try:
            return {name: to_field_data(name, value, known.get(name)) for name, value in piece.items()}
        except SchemaError as error:
            if start:
                error.add_note(f"rows are counted from row {start:,} on")
            raise

    pieces = itertools.pairwise(edges(values.values(), max(lengths.values(), default=0)))
    first = with_records(parts, convert(*next(pieces)))
    known = {name: field for name, (field, _) in first.items()}
    with create(path, fields=known.values(), labels=labels, attrs=attrs, aux=aux, backend=backend) as writer:
        writer.extend({name: rows for name, (_, rows) in first.items()})
        del first
        for a, b in pieces:
            writer.extend({name: rows for name, (_, rows) in convert(a, b).items()})


def ready_to_slice(data: Mapping[str, Any], declared: Mapping[str, Field]) -> tuple[dict[str, Field], dict[str, Any]]:
    """The fields of some arrays, as far as they are known before anything is computed, and what gives their rows.

    Arrays that say what all their rows are, and lazy ones, stay as they are, to be converted piece by piece; lists are
    converted whole.

    Raises
    ------
    SchemaError
        When rows do not fit, or their number is not known.
    """
    values: dict[str, Any] = {}
    known: dict[str, Field] = {}
    for name, value in data.items():
        field = declared.get(name)
        if hasattr(value, "compute"):
            values[name] = value
            if field is None and isinstance(of := getattr(value, "field", None), Field):
                # A lazy field of a store, as it is there; computed and by itself.
                field = replace(of, name=name, record="", expression="")
            if field is not None:
                known[name] = field
        elif _has_type(value):
            known[name], values[name] = to_field_data(name, value[:0], field)[0], value
        elif isinstance(value, Sequence) and not value and field is None:
            raise SchemaError(f"field {name!r}: no rows, and no type; declare the field, as in fields=[mm.Field...]")
        else:
            known[name], values[name] = to_field_data(name, value, field)
        _length(name, values[name])
    return known, values


def _has_type(value: Any) -> bool:
    """Whether rows of an array say what all of them are, so that they can be converted piece by piece."""
    if type(value).__module__.partition(".")[0] == "awkward":
        return True
    dtype = getattr(value, "dtype", None)
    return hasattr(value, "__array__") and getattr(value, "ndim", 0) > 0 and getattr(dtype, "kind", "O") != "O"


def _length(name: str, value: Any) -> int:
    try:
        return len(value)
    except (TypeError, ValueError) as error:
        raise SchemaError(f"field {name!r}: rows whose number is not known: {error}") from None


def edges(values: Iterable[Any], rows: int) -> Iterator[int]:
    """Where to cut rows into pieces: of about `PIECE_NBYTES`, and at ends of chunks, so that each is computed once."""
    values = list(values)
    row_nbytes = sum(int(getattr(v, "nbytes", _ROW_NBYTES * rows)) for v in values) / max(rows, 1)
    aim, most = (max(1, int(n / max(row_nbytes, 1))) for n in (PIECE_NBYTES, MAX_PIECE_NBYTES))
    lazy = [v for v in values if hasattr(v, "compute") and getattr(v, "chunks", None)]
    chunked = [list(itertools.accumulate(v.chunks[0])) for v in lazy]
    shared = sorted(set.intersection(*map(set, chunked))) if chunked else []
    edge = 0
    yield edge
    while edge < rows:
        stop = min(edge + aim, rows)
        if chunked:
            stop = _last(shared, edge, stop) or shared[bisect.bisect_right(shared, edge)]
        if stop - edge > most:
            stop = max(_last(ends, edge, edge + most) for ends in chunked) or edge + most
        yield (edge := stop)
    if not rows:
        yield edge  # one piece without rows: it says what the fields are


def _last(ends: list[int], start: int, stop: int) -> int:
    """The last of some ascending numbers behind `start` and up to `stop`; 0 where none is."""
    i = bisect.bisect_right(ends, stop)
    return ends[i - 1] if i and ends[i - 1] > start else 0
