"""`Joined`: the rows of several snapshots one after the other."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from mmdask.errors import SchemaError
from mmdask.kernels.once import once
from mmdask.rows.bits import PartBits, RowBits
from mmdask.rows.views.views import TAG, LayerOf, SnapshotView, hashed, layer_of, stored_id
from mmdask.schema import Field, Schema
from mmdask.store.layer import Layer, StoredField
from mmdask.store.manifest import Manifest, Part
from mmdask.store.snapshot import Snapshot

__all__ = ["Joined", "joined_field", "joined_schema"]


class Joined(SnapshotView):
    """The rows of several snapshots one after the other, with the same fields.

    Parameters
    ----------
    bases : tuple of Snapshot
        Of which one may be there several times.
    names : tuple of str
        The fields, which all of them have.
    by : str
        A category more, with a label for each of them; none if empty.
    labels : tuple of str
        These labels.
    aux : tuple of str
        Arrays that are not per row, and equal in all of them.
    """

    def __init__(
        self,
        bases: tuple[Snapshot, ...],
        names: tuple[str, ...],
        by: str = "",
        labels: tuple[str, ...] = (),
        aux: tuple[str, ...] = (),
    ) -> None:
        first = bases[0].manifest
        self.by, self.labels = by, labels
        schema = joined_schema([base.schema for base in bases], names)
        if by:
            schema = Schema([*schema.values(), Field.category(by, dict.fromkeys(labels))])
        manifest = Manifest(
            hashed("join", names, by, labels, [base.manifest.uuid for base in bases]),
            max(base.manifest.generation for base in bases),
            min(base.manifest.block_rows for base in bases),
            schema,
            (),
            _in_all([base.manifest.attrs for base in bases]),
            Schema(first.aux[name] for name in aux),
            first.aux_layers if aux else (),
        )
        path = " + ".join(dict.fromkeys([base.path for base in bases]))
        super().__init__(bases, (names, by, labels, aux), path, manifest)
        self._wraps: dict[tuple[int, str, str], Layer] = {}

    @once
    def parts(self) -> tuple[Part, ...]:
        parts = []
        for number, (base, local) in enumerate(self._places):
            p = base.parts[local]
            more = (self._label_layer(number).id,) if self.by else ()
            parts.append(Part(p.rows, (*p.layers, *more), p.nbytes))
        return tuple(parts)

    @once
    def _places(self) -> list[tuple[Snapshot, int]]:
        """For each part whose which one it is."""
        return [(base, local) for base in self.bases for local in range(len(base.parts))]

    @once
    def _numbers(self) -> list[int]:
        """For each part which of the snapshots has it."""
        return [k for k, base in enumerate(self.bases) for _ in base.parts]

    def _label_layer(self, part: int) -> Layer:
        """A layer of nothing but the label of a part."""
        base, local = self._places[part]
        label = self.labels[self._numbers[part]]
        p = base.parts[local]
        # A layer of the part stands in its id, for a summary of it counts its rows.
        layer_id = f"{stored_id(p.layers[0])}{TAG}{hashed('label', self.by, label, p.layers)[:16]}"
        stored = StoredField("category", labels=(label,), constant=label)
        return LayerOf(layer_id, p.rows, {self.by: stored}, path=base.home(local).path, owner=self)

    def layer(self, layer_id: str) -> Layer:
        number = self._holders[layer_id]
        if self.by and layer_id == self.parts[number].layers[-1]:
            return self._label_layer(number)
        return self._places[number][0].layer(layer_id)

    @once
    def _holders(self) -> dict[str, int]:
        """A part that has each layer."""
        return {layer_id: number for number, part in enumerate(self.parts) for layer_id in part.layers}

    def stored(self, part: int, name: str) -> tuple[Layer, StoredField]:
        found = self._stored.get((part, name))
        if found is None:
            field = self.schema[name]
            if name == self.by:
                layer = self._label_layer(part)
                found = layer, layer.fields[name]
            else:
                base, local = self._places[part]
                below, stored = base.stored(local, field.name)
                found = self._wrapped(self._numbers[part], base, below), stored
            self._stored[part, name] = found
        return found

    def _wrapped(self, number: int, base: Snapshot, layer: Layer) -> Layer:
        """A layer that knows whose arrays it has."""
        key = number, layer.path, layer.id
        found = self._wraps.get(key)
        if found is None:
            found = self._wraps[key] = layer_of(base, layer, layer.id, layer.fields)
        return found

    def source(self, part: int, name: str) -> tuple[Snapshot, int, str]:
        if name == self.by:
            return self, part, name
        base, local = self._places[part]
        return base.source(local, name)

    def home(self, part: int) -> Snapshot:
        base, local = self._places[part]
        return base.home(local)

    def lifted(self, bits: Sequence[RowBits]) -> list[PartBits]:
        return list(itertools.chain.from_iterable([b.parts for b in bits]))

    def span(self, spans: Sequence[range]) -> range | None:
        """The rows if they lie together, or if those of one snapshot alone are selected."""
        firsts = itertools.accumulate([base.rows for base in self.bases], initial=0)
        some = [
            range(span.start + first, span.stop + first, span.step)
            for span, first in zip(spans, firsts, strict=False)
            if len(span)
        ]
        if len(some) < 2:
            return some[0] if some else range(0)
        together = all(a.step == b.step == 1 and a.stop == b.start for a, b in itertools.pairwise(some))
        return range(some[0].start, some[-1].stop) if together else None


def joined_schema(schemas: Sequence[Schema], names: Sequence[str]) -> Schema:
    """The fields of these names, as those of all rows together; raises as `joined_field`."""
    return Schema(joined_field([schema[name] for schema in schemas]) for name in names)


def joined_field(fields: Sequence[Field]) -> Field:
    """A field with the values of several: with the labels of all, and optional where one of them is.

    Raises
    ------
    SchemaError
        When they are of different kinds, or have different units.
    """
    first = fields[0]
    for number, other in enumerate(fields):
        if not first.same_layout(other):
            raise SchemaError(
                f"field {first.name!r} is {first.describe()} in the first dataset, and {other.describe()} in number "
                f"{number}; leave it out by ds[[...]], or make both the same: mm.assign stores a field anew"
            )
        if first.unit and other.unit and first.unit != other.unit:
            raise SchemaError(
                f"field {first.name!r} is in {first.unit} in the first dataset, and in {other.unit} in number {number};"
                " ds.assign computes it in the same unit, mm.annotate corrects what is said of it"
            )
    labels = dict.fromkeys(label for f in fields for label in f.labels)
    record, expression, doc = (_same([getattr(f, key) for f in fields]) for key in ("record", "expression", "doc"))
    unit = next((f.unit for f in fields if f.unit), "")
    optional = tuple(sorted({depth for f in fields for depth in f.optional}))
    attrs = _in_all([f.attrs for f in fields])
    return dataclasses.replace(
        first,
        labels=tuple(labels),
        optional=optional,
        unit=unit,
        attrs=attrs,
        record=record,
        expression=expression,
        doc=doc,
    )


def _same(texts: Sequence[str]) -> str:
    """What all texts are; empty if they differ."""
    return texts[0] if len(set(texts)) == 1 else ""


def _in_all(mappings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all mappings say alike."""
    first, *others = mappings
    return {k: v for k, v in first.items() if all(k in other and other[k] == v for other in others)}
