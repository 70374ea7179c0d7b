"""`Renamed`: a snapshot whose fields have other names."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from mmdask.kernels.once import once
from mmdask.rows.bits import PartBits, RowBits
from mmdask.rows.cuts.naming import renamed_text
from mmdask.rows.views.views import TAG, SnapshotView, hashed, layer_of
from mmdask.schema import Field, Schema
from mmdask.store.layer import Layer, StoredField
from mmdask.store.manifest import Manifest, Part
from mmdask.store.snapshot import Snapshot

__all__ = ["Renamed", "renamed_field"]


class Renamed(SnapshotView):
    """A snapshot with the same rows and other names.

    Parameters
    ----------
    bases : tuple of Snapshot
        The one snapshot.
    names : tuple of (str, str)
        Old and new names of the fields that are renamed; those of all fields differ then, too.
    """

    def __init__(self, bases: tuple[Snapshot], names: tuple[tuple[str, str], ...]) -> None:
        [base] = bases
        new = dict(names)
        self.old = {new.get(name, name): name for name in base.schema}
        self._tag = TAG + hashed("rename", *sorted(names))[:16]
        old = base.manifest
        schema = Schema(renamed_field(f, new) for f in base.schema.values())
        manifest = Manifest(
            hashed("rename", sorted(names), old.uuid),
            old.generation,
            old.block_rows,
            schema,
            (),
            old.attrs,
            old.aux,
            old.aux_layers,
        )
        super().__init__(bases, (names,), base.path, manifest)
        self._wraps: dict[tuple[str, str], Layer] = {}

    @once
    def parts(self) -> tuple[Part, ...]:
        tag = self._tag
        return tuple([Part(p.rows, tuple([i + tag for i in p.layers]), p.nbytes) for p in self.bases[0].parts])

    def layer(self, layer_id: str) -> Layer:
        return self._wrapped(self.bases[0].layer(layer_id.removesuffix(self._tag)))

    def stored(self, part: int, name: str) -> tuple[Layer, StoredField]:
        found = self._stored.get((part, name))
        if found is None:
            layer, stored = self.bases[0].stored(part, self.old[self.schema[name].name])
            found = self._stored[part, name] = self._wrapped(layer), stored
        return found

    def _wrapped(self, layer: Layer) -> Layer:
        found = self._wraps.get((layer.path, layer.id))
        if found is None:
            stored = {new: layer.fields[old] for new, old in self.old.items() if old in layer.fields}
            made = layer_of(self.bases[0], layer, layer.id + self._tag, stored)
            found = self._wraps[layer.path, layer.id] = made
        return found

    def source(self, part: int, name: str) -> tuple[Snapshot, int, str]:
        return self.bases[0].source(part, self.old[name])

    def lifted(self, bits: Sequence[RowBits]) -> list[PartBits]:
        return list(bits[0].parts)

    def span(self, spans: Sequence[range]) -> range | None:
        return spans[0]


def renamed_field(field: Field, names: Mapping[str, str]) -> Field:
    """A field under its new name; what it is computed from has new names, too.

    A member of a record is one of another record if only that part of its name is new.
    """
    name, record = names.get(field.name, field.name), field.record
    if record and name.endswith(f"_{field.member}") and len(name) > len(field.member) + 1:
        record = name[: -len(field.member) - 1]
    elif record and not name.startswith(f"{record}_"):
        record = ""
    text = renamed_text(field.expression, names) if field.expression else ""
    return dataclasses.replace(field, name=name, record=record, expression=text)
