"""Fields that are computed from expressions: what they become, in which order, and their layers for given parts.

A field that was assigned as an expression keeps it, so that rows which come later are computed, too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from mmdask.errors import ConflictError, SchemaError
from mmdask.expr import Expression, check, evaluate_many
from mmdask.rows.blocks import row_blocks
from mmdask.rows.reading.part import read_part
from mmdask.rows.views.virtual import Derived, about, data_of, field_of, names_in, ordered
from mmdask.schema import Field, FieldData, Schema
from mmdask.store.commit import add_parts, commit, discard_layers, merge_schemas, same_store
from mmdask.store.layer import Layer, new_id, read_layer
from mmdask.store.layer_writer import LayerWriter
from mmdask.store.manifest import Manifest, Part
from mmdask.store.snapshot import Snapshot

__all__ = [
    "Derived",
    "append_parts",
    "compute",
    "dependants",
    "derive",
    "reads",
    "with_derived",
    "write_derived",
]

Read = Callable[[str], FieldData]


def derive(wanted: Mapping[str, Field | str], schema: Schema) -> list[Derived]:
    """Check expressions, of which some may read the fields that others give, and put them in the order of that.

    Parameters
    ----------
    wanted : mapping
        For each name the text of its expression; or a Field, whose `expression` it is and whose dtype it gets.
    schema : Schema
        The other fields. Of a name that is in both, the expressions mean what is wanted.

    Returns
    -------
    list of Derived
        Each behind those whose fields it reads.

    Raises
    ------
    ExpressionError
        When one cannot be read or has two readings, or when they need each other.
    SchemaError
        When a value does not fit the field that is asked for.

    Examples
    --------
    >>> found = derive({"b": "a + 1", "a": "max(x)"}, Schema([Field.ragged("x", "f4")]))
    >>> [(d.field.name, d.field.describe()) for d in found]
    [('a', 'optional float32'), ('b', 'optional float64')]
    """
    texts = {name: f.expression if isinstance(f, Field) else f for name, f in wanted.items()}
    needs = {name: names_in(name, text) & set(texts) for name, text in texts.items()}
    known: dict[str, Field] = {name: f for name, f in schema.items() if name not in texts}
    found: list[Derived] = []
    for name in ordered(needs):
        with about(name):
            expression = check(texts[name], Schema(known.values()))
            like = wanted[name]
            field = _field(name, expression, like if isinstance(like, Field) else None)
        known[name] = field
        found.append(Derived(field, expression))
    return found


def _field(name: str, e: Expression, like: Field | None) -> Field:
    """The field that holds the values of an expression."""
    plain = field_of(name, e)
    if like is None:
        return plain
    fits = like.same_layout(replace(plain, dtype=like.dtype)) and (
        np.can_cast(plain.dtype, like.dtype, "safe") or (plain.dtype.kind == like.dtype.kind == "f")
    )
    if not fits:
        raise SchemaError(
            f"field {name!r} is {like.describe()}, but its expression gives {plain.describe()}: {plain.expression}"
        )
    return replace(like, expression=plain.expression, optional=tuple(sorted(set(like.optional) | set(plain.optional))))


def reads(field: Field) -> set[str]:
    """The names in the expression of a field."""
    return names_in(field.name, field.expression)


def dependants(schema: Schema) -> dict[str, set[str]]:
    """For each field that expressions of other fields read, the names of those."""
    found: dict[str, set[str]] = {}
    for field in schema.values():
        if field.expression:
            for name in reads(field) & set(schema):
                found.setdefault(name, set()).add(field.name)
    return found


# Computing ----------------------------------------------------------------------------------------------------------


def compute(derived: Sequence[Derived], read: Read, rows: int, *, first_row: int = 0) -> dict[str, FieldData]:
    """Evaluate derived fields over a block of rows, each field read once.

    Parameters
    ----------
    derived : sequence of Derived
        In an order of `derive`.
    read, rows, first_row
        As those of `mmdask.expr.evaluate`.

    Returns
    -------
    dict of FieldData
        By name.
    """
    known: dict[str, FieldData] = {}

    def cached(name: str) -> FieldData:
        if name not in known:
            known[name] = read(name)
        return known[name]

    for stage in _stages(derived):
        results = evaluate_many([d.expression for d in stage], cached, rows, first_row=first_row)
        for d, result in zip(stage, results, strict=True):
            known[d.field.name] = data_of(d.field, result)
    return {d.field.name: known[d.field.name] for d in derived}


def _stages(derived: Sequence[Derived]) -> list[list[Derived]]:
    """Runs of fields that do not read each other, which are evaluated together."""
    stages: list[list[Derived]] = []
    for d in derived:
        if not stages or {x.field.name for x in stages[-1]} & set(d.expression.fields):
            stages.append([])
        stages[-1].append(d)
    return stages


def write_derived(
    snapshot: Snapshot, part: int, derived: Sequence[Derived], update: Callable[[int], Any] | None = None
) -> Layer:
    """Compute fields for the rows of a part, and write them as one new layer, durably.

    Parameters
    ----------
    snapshot : Snapshot
        The store.
    part : int
        The number of the part.
    derived : sequence of Derived
        In an order of `derive`.
    update : callable, optional
        Is told of every block how many rows it has.
    """
    made = {d.field.name for d in derived}
    names = sorted({name for d in derived for name in d.expression.fields} - made)
    first, rows = int(snapshot.starts[part]), snapshot.parts[part].rows
    with LayerWriter(snapshot.path, new_id()) as w:
        writers = {d.field.name: w.field(d.field) for d in derived}
        for a, b in row_blocks(snapshot, part, names):

            def read(name: str, a: int = a, b: int = b) -> FieldData:
                return read_part(snapshot, part, name, a, b)

            for name, data in compute(derived, read, b - a, first_row=first + a).items():
                writers[name].write(data)
            if update is not None:
                update(b - a)
        return w.finish(rows)


def with_derived(
    root: str, schema: Schema, parts: Iterable[Part], update: Callable[[int], Any] | None = None
) -> tuple[Part, ...]:
    """Parts that are not committed yet, each with a layer of all fields that have an expression.

    Parameters
    ----------
    root : str
        The store's folder.
    schema : Schema
        All fields, with all labels of the parts.
    parts : iterable of Part
        Their layers hold the fields without expression.
    update : callable, optional
        Is told how many rows were computed.

    Returns
    -------
    tuple of Part
        The same, if no field has an expression. After an error no new layer is left.

    Raises
    ------
    ExpressionError, SchemaError
        When an expression cannot be computed for these rows.
    """
    parts = tuple(parts)
    derived = derive(_expressions(schema), schema)
    for d in derived:
        if not set(d.field.optional) <= set(schema[d.field.name].optional):
            raise SchemaError(
                f"field {d.field.name!r} can have missing values since a field that it is computed from can; declare "
                f"it so: mm.annotate(path, fields={{{d.field.name!r}: {{'optional': {d.field.optional}}}}})"
            )
    if not derived or not parts:
        return parts
    full = Schema([*(f for f in schema.values() if not f.expression), *(d.field for d in derived)])
    # an identity of its own: what is read here is not what a store holds
    snapshot = Snapshot(root, Manifest(os.urandom(16).hex(), 0, 1, full, parts))
    made: list[str] = []
    complete: list[Part] = []
    try:
        for number, p in enumerate(parts):
            layer = write_derived(snapshot, number, derived, update)
            made.append(layer.id)
            complete.append(Part(p.rows, (*p.layers, layer.id), p.nbytes + layer.nbytes))
    except BaseException:
        discard_layers(root, made)
        raise
    return tuple(complete)


class _BehindError(Exception):
    """Another process changed what is computed."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema


def append_parts(root: str, schema: Schema, parts: Iterable[Part], *, base: Manifest, action: str) -> Manifest:
    """Commit more parts at the end of a store, with the fields that it computes from expressions.

    Parameters
    ----------
    root : str
        The store's folder.
    schema : Schema
        What the layers of the parts hold.
    parts : iterable of Part
        In their order.
    base : Manifest
        The store when the parts were begun: see `mmdask.store.commit.merge_schemas`.
    action : str
        For the history.

    Returns
    -------
    Manifest
        As committed.

    Raises
    ------
    ConflictError, SchemaError, ExpressionError
        When the parts do not fit, or the fields cannot be computed. The layers of the parts are left as they are.
    """
    parts = tuple(parts)
    newest = base.schema
    while True:
        wanted = _expressions(newest)
        # What is computed was never given, so that it cannot be another than it was.
        before = Schema([*(f for f in base.schema.values() if f.name not in wanted), *wanted.values()])
        full = Schema([*(f for f in schema.values() if f.name not in wanted), *wanted.values()])
        complete = with_derived(root, merge_schemas(newest, full, base=before), parts)
        try:
            return commit(root, partial(_appended, root, base, complete, full, before), action=action)
        except _BehindError as behind:
            newest = behind.schema
            _discard_new(root, parts, complete)
        except BaseException:
            _discard_new(root, parts, complete)
            raise


def _appended(
    root: str, begun: Manifest, parts: Sequence[Part], schema: Schema, base: Schema, newest: Manifest | None
) -> Manifest:
    newest = same_store(root, newest, begun)
    for name in _replaced_since(root, begun, newest):
        if name in schema and not schema[name].expression:
            raise ConflictError(
                f"{root}: another process replaced the field {name!r} while these rows were written, so they may mean "
                "something else; nothing was committed: write them again"
            )
    if _expressions(newest.schema) != _expressions(schema):
        raise _BehindError(newest.schema)
    return add_parts(newest, schema, parts, block_rows=newest.block_rows, base=base)


def _replaced_since(root: str, begun: Manifest, newest: Manifest) -> set[str]:
    """Fields of a store that were assigned anew since it was `begun`, as the layers show that its parts got."""
    now = {p.layers[0]: p.layers for p in newest.parts[: len(begun.parts)]}
    for part in begun.parts:
        layers = now.get(part.layers[0], part.layers)
        if layers != part.layers:
            # An assignment gives every part a layer, so one part tells.
            added = [read_layer(root, layer) for layer in layers if layer not in part.layers]
            return {name for layer in added for name in layer.fields} & set(begun.schema)
    return set()


def _expressions(schema: Schema) -> dict[str, Field]:
    return {name: f for name, f in schema.items() if f.expression}


def _discard_new(root: str, before: Sequence[Part], after: Sequence[Part]) -> None:
    known = {layer for p in before for layer in p.layers}
    discard_layers(root, [layer for p in after for layer in p.layers if layer not in known])
