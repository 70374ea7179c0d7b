"""New fields for the rows of a store, from expressions or arrays: one new layer per part, and one commit.

No row is rewritten. Parts that other processes append meanwhile are computed, too, where the fields are expressions.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from mmdask import display
from mmdask.errors import ConflictError, OptionError, SchemaError
from mmdask.rows.blocks import row_blocks
from mmdask.rows.reading.part import read_part
from mmdask.rows.views.derived import Derived, compute, dependants, derive, write_derived
from mmdask.schema import Field, FieldData, Schema
from mmdask.sources.arrays import Compute, edges, ready_to_slice
from mmdask.sources.given.coerce import to_field_data
from mmdask.store.commit import amount, commit, discard_layers, same_store
from mmdask.store.folder import restore_form
from mmdask.store.layer import Layer, new_id, read_layer
from mmdask.store.layer_writer import FieldWriter, LayerWriter
from mmdask.store.manifest import Manifest, Part, part_keys, read_manifest, store_root
from mmdask.store.outcome import writing
from mmdask.store.snapshot import Snapshot

__all__ = ["assign_fields"]

#: of a part, see `part_keys`
_Key = tuple[tuple[str, ...], int]


class _BehindError(Exception):
    """The newest manifest has parts for which there is no layer yet."""


def assign_fields(
    path: str | os.PathLike[str],
    values: Mapping[Any, Any],
    *,
    replace: bool,
    progress: bool,
    compute_lazy: Compute,
) -> None:
    """Add fields to a store; see `mmdask.assign`.

    Parameters
    ----------
    path : path
        The store.
    values : mapping
        From names, or Fields, to expressions, arrays, lists or lazy collections.
    replace : bool
        Whether fields that exist are replaced.
    progress : bool
        Whether a progress bar is shown.
    compute_lazy : callable
        Computes several lazy collections together.
    """
    root = store_root(path)
    base = read_manifest(root)
    asked = _asked(values)
    if not asked:
        raise OptionError("no field is given; as in mm.assign(path, ht='sum(jet_pt)')")
    _check_names(root, base.schema, asked, replace)
    texts = {name: a.value for name, a in asked.items() if isinstance(a.value, str)}
    arrays = {name: a for name, a in asked.items() if name not in texts}
    assignment = _Assignment(root, base, asked, texts, _Arrays(root, base, arrays, compute_lazy))
    try:
        with (
            writing(root, "nothing was assigned"),
            display.progress(base.rows, "assign", "rows", disable=not progress, delay=0.5) as bar,
        ):
            restore_form(root, base.zarr)
            assignment.write(bar.update)
            manifest = assignment.commit(bar.update)
    except BaseException:
        discard_layers(root, assignment.layers)
        raise
    discard_layers(root, assignment.layers - manifest.layers)


@dataclass(frozen=True)
class _Asked:
    """What a field shall be: its value, the Field that was declared, and the one that it replaces."""

    name: str
    value: Any
    declared: Field | None = None
    old: Field | None = None

    @property
    def like(self) -> Field | None:
        """The declared Field, with what people noted about the old one where it notes nothing."""
        f, old = self.declared, self.old
        if f is None or old is None:
            return f
        attrs = {**old.attrs, **f.attrs}
        return dataclasses.replace(f, unit=f.unit or old.unit, doc=f.doc or old.doc, attrs=attrs)

    def noted(self, new: Field) -> Field:
        """A Field that nobody declared, with the notes of the old one."""
        old = self.old
        if self.declared is not None or old is None:
            return new
        record = old.record if old.levels == new.levels else ""
        return dataclasses.replace(new, unit=old.unit, doc=old.doc, attrs=old.attrs, record=record)


def _asked(values: Mapping[Any, Any]) -> dict[str, _Asked]:
    found: dict[str, _Asked] = {}
    for key, value in values.items():
        declared = key if isinstance(key, Field) else None
        if declared is None and not isinstance(key, str):
            raise OptionError(f"fields are given by name, or by mm.Field; got {key!r}")
        name = declared.name if declared else key
        if name in found:
            raise OptionError(f"the field {name!r} is given twice")
        if declared is not None and declared.expression and value != declared.expression:
            raise OptionError(f"field {name!r}: its expression is the value, not part of the declaration")
        found[name] = _Asked(name, value, declared)
    return found


def _check_names(root: str, schema: Schema, asked: dict[str, _Asked], replace: bool) -> None:
    """Raise unless the fields are new or may be replaced; note those that are replaced."""
    needed = dependants(schema)
    for name, a in asked.items():
        if name not in schema:
            continue
        if not replace:
            raise SchemaError(
                f"{root}: the field {name!r} ({schema[name].describe()}) exists; pass replace=True to replace it, "
                "or take another name"
            )
        if left := sorted(needed.get(name, set()) - set(asked)):
            raise SchemaError(
                f"{root}: {name!r} cannot be replaced alone: {', '.join(map(repr, left))} "
                f"{'is' if len(left) == 1 else 'are'} computed from it; assign {'it' if len(left) == 1 else 'them'} "
                "in the same call, or drop first"
            )
        asked[name] = dataclasses.replace(a, old=schema[name])


class _Arrays:
    """The fields that are given as arrays, piece by piece: each chunk of a lazy one is computed once.

    Their types are known when the first piece is.
    """

    def __init__(self, root: str, base: Manifest, asked: Mapping[str, _Asked], compute_lazy: Compute) -> None:
        self.asked = asked
        self.fields: dict[str, Field] = {}
        self._compute = compute_lazy
        declared = {name: like for name, a in asked.items() if (like := a.like) is not None}
        self._known, self._ready = ready_to_slice({name: a.value for name, a in asked.items()}, declared)
        for name, value in self._ready.items():
            if len(value) != base.rows:
                raise SchemaError(f"field {name!r} has {len(value):,} rows, the store {root} has {base.rows:,}")
        self._pieces = self._read(base.rows)
        self._start, self._stop, self._data = next(self._pieces)

    def _read(self, rows: int) -> Iterator[tuple[int, int, dict[str, FieldData]]]:
        if not self._ready:
            yield 0, rows, {}
            return
        lazy = [name for name, value in self._ready.items() if hasattr(value, "compute")]
        for a, b in pairwise(edges(self._ready.values(), rows)):
            piece = {name: value[a:b] for name, value in self._ready.items()}
            if lazy:
                piece.update(zip(lazy, self._compute([piece[name] for name in lazy]), strict=True))
            data = {}
            for name, value in piece.items():
                field, data[name] = to_field_data(name, value, self.fields.get(name) or self._known.get(name))
                self.fields.setdefault(name, self.asked[name].noted(field))
            yield a, b, data

    def run(self, start: int, stop: int) -> tuple[int, dict[str, FieldData]]:
        """The next rows, which begin at `start`, as far as they are at hand: where they end, and their data."""
        while self._stop <= start:
            self._start, self._stop, self._data = next(self._pieces)
        end = min(stop, self._stop)
        return end, {name: data[start - self._start : end - self._start] for name, data in self._data.items()}


@dataclass
class _Assignment:
    """Layers on their way into a store, by part."""

    root: str
    base: Manifest
    asked: Mapping[str, _Asked]
    texts: Mapping[str, str]
    arrays: _Arrays
    made: dict[_Key, Layer] = field(default_factory=dict)
    labels: dict[str, dict[str, None]] = field(default_factory=dict)
    derived: list[Derived] = field(default_factory=list)
    layers: set[str] = field(default_factory=set)

    @property
    def reads(self) -> set[str]:
        """Fields of the store that the expressions read."""
        return {name for d in self.derived for name in d.expression.fields} - set(self.asked)

    def write(self, update: Callable[[int], Any]) -> None:
        """Write a layer for every part of the store as it was."""
        wanted: dict[str, Field | str] = {}
        for name, text in self.texts.items():
            like = self.asked[name].like
            wanted[name] = dataclasses.replace(like, expression=text) if like is not None else text
        others = [f for name, f in self.base.schema.items() if name not in self.asked]
        derived = derive(wanted, Schema([*others, *self.arrays.fields.values()]))
        self.derived = [Derived(self.asked[d.field.name].noted(d.field), d.expression) for d in derived]
        snapshot = Snapshot(self.root, self.base)
        for number, key in enumerate(part_keys(self.base.parts)):
            self.made[key] = self._write_part(snapshot, number, update)

    def _write_part(self, snapshot: Snapshot, number: int, update: Callable[[int], Any]) -> Layer:
        first, rows = int(snapshot.starts[number]), snapshot.parts[number].rows
        with LayerWriter(self.root, new_id()) as w:
            fields = {**self.arrays.fields, **{d.field.name: d.field for d in self.derived}}
            writers = {name: w.field(fields[name]) for name in self.asked}
            start = 0
            while start < rows:
                end, data = self.arrays.run(first + start, first + rows)
                stop = end - first
                for name, d in data.items():
                    writers[name].write(d)
                for a, b in row_blocks(snapshot, number, sorted(self.reads), start, stop):
                    block = {name: d[a - start : b - start] for name, d in data.items()}
                    self._write_block(snapshot, number, a, b, block, writers)
                    update(b - a)
                start = stop
            for name, writer in writers.items():
                self.labels.setdefault(name, {}).update(dict.fromkeys(writer.labels))
            layer = w.finish(rows)
        self.layers.add(layer.id)
        return layer

    def _write_block(
        self,
        snapshot: Snapshot,
        part: int,
        start: int,
        stop: int,
        given: Mapping[str, FieldData],
        writers: Mapping[str, FieldWriter],
    ) -> None:
        def read(name: str) -> FieldData:
            return given[name] if name in given else read_part(snapshot, part, name, start, stop)

        first_row = int(snapshot.starts[part]) + start
        for name, data in compute(self.derived, read, stop - start, first_row=first_row).items():
            writers[name].write(data)

    # Committing -----------------------------------------------------------------------------------------------------

    def commit(self, update: Callable[[int], Any]) -> Manifest:
        """Commit the layers; parts that came meanwhile get theirs first."""
        action = f"assign {', '.join(self.asked)} to {amount(len(self.made), 'part')}"
        while True:
            try:
                return commit(self.root, self._change, action=action)
            except _BehindError:
                self._catch_up(read_manifest(self.root), update)

    def _change(self, newest: Manifest | None) -> Manifest:
        newest = same_store(self.root, newest, self.base)
        self._check(newest.schema)
        parts = []
        for part, key in zip(newest.parts, part_keys(newest.parts), strict=True):
            layer = self.made.get(key)
            if layer is None:
                raise _BehindError
            parts.append(Part(part.rows, (*part.layers, layer.id), part.nbytes + layer.nbytes))
        return dataclasses.replace(newest, schema=self._schema(newest.schema), parts=tuple(parts))

    def _check(self, schema: Schema) -> None:
        """Raise `ConflictError` when another process changed what this one replaces or reads."""
        for name in (*self.asked, *self.reads):
            before, now = self.base.schema.get(name), schema.get(name)
            if before is None or now is None:
                same = before is now
            else:
                same = before.same_layout(now) and (before.expression, before.optional) == (
                    now.expression,
                    now.optional,
                )
            if not same:
                raise ConflictError(
                    f"{self.root}: another process changed the field {name!r} meanwhile; nothing was assigned: "
                    "call again"
                )
        needed = dependants(schema)
        for name in self.asked:
            if left := sorted(needed.get(name, set()) - set(self.asked)):
                raise ConflictError(
                    f"{self.root}: another process assigned {left[0]!r}, which is computed from {name!r}, meanwhile; "
                    "nothing was assigned: call again"
                )

    def _schema(self, schema: Schema) -> Schema:
        new = {f.name: self._with_labels(f) for f in (*self.arrays.fields.values(), *(d.field for d in self.derived))}
        kept = [new.get(name, f) for name, f in schema.items()]
        return Schema([*kept, *(new[name] for name in self.asked if name not in schema)])

    def _with_labels(self, field: Field) -> Field:
        labels = dict.fromkeys((*field.labels, *self.labels.get(field.name, ())))
        return field.with_labels(labels) if field.kind == "category" else field

    def _catch_up(self, newest: Manifest, update: Callable[[int], Any]) -> None:
        """Find or write a layer for each part that is not as it was."""
        self._check(newest.schema)
        snapshot = Snapshot(self.root, newest)
        known = dict(zip(part_keys(self.base.parts), self.base.parts, strict=True))
        for number, key in enumerate(part_keys(newest.parts)):
            if key in self.made:
                continue
            layer = self._of_old(key, known)
            if layer is None and self.arrays.asked:
                raise ConflictError(
                    f"{self.root}: another process appended or changed rows meanwhile, for which the arrays have no "
                    "values; nothing was assigned: call again with arrays for all rows"
                )
            if layer is None:
                layer = write_derived(snapshot, number, self.derived, update)
                self.layers.add(layer.id)
            self.made[key] = layer

    def _of_old(self, key: _Key, known: Mapping[_Key, Part]) -> Layer | None:
        """The layer of a part that others gave more fields meanwhile, if it has none of those that matter here."""
        layers, nth = key
        for n in range(len(layers) - 1, 0, -1):
            old = (layers[:n], nth)
            if old in known and old in self.made:
                added = {name for i in layers[n:] for name in read_layer(self.root, i).fields}
                return None if added & (self.reads | set(self.asked)) else self.made[old]
        return None
