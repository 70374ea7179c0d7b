"""Converted rows that stand in a store: as parts of their own, or within parts that were merged since."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mmdask.sources.converting.inputs import Label
from mmdask.sources.converting.plan import complete_groups, data_id, group_of, label_id, labels_id, merged_layer
from mmdask.store.layer import Layer, Source, read_layer
from mmdask.store.manifest import Part

__all__ = ["Piece", "dissolve", "pieces_of", "pieces_within"]


@dataclass(frozen=True)
class Piece:
    """The rows of one data layer.

    Parameters
    ----------
    data, labels : str
        Its layers; `labels` is None without labels.
    rows : int
        How many.
    merged : str, optional
        The layer that its part was merged into; then `data` and `labels` may be gone.
    source : Source, optional
        Where the rows of a merged piece came from; the data layer says that of the others.
    fields : mapping
        Of a merged piece: the names of the fields of each layer that it had.
    first : int
        The first of its rows in the layer that it was merged into.
    apart : bool
        Whether the labels of a merged piece stand in a layer beside the merged one, as those of its whole part.
    values : tuple of (str, value)
        Of a merged piece: what its label layer had.
    """

    data: str
    labels: str | None
    rows: int
    merged: str | None = None
    source: Source | None = None
    fields: Mapping[str, tuple[str, ...]] | None = None
    first: int = 0
    apart: bool = False
    values: tuple[tuple[str, Label], ...] = ()

    @property
    def layer(self) -> str:
        """The layer that has its rows."""
        return self.merged or self.data

    def has_labels(self, labels: Sequence[tuple[str, Label]]) -> bool:
        """Whether its rows have these labels, and stand where a conversion would look for them."""
        if self.merged is None or self.apart:
            return self.labels == labels_id(labels, self.layer)
        if self.labels == labels_id(labels, self.data):
            return True
        return self.labels is not None and _text(self.values) == _text(labels)

    @property
    def added(self) -> set[str]:
        """Fields that a merged piece has from neither its input nor its labels."""
        fields = self.fields or {}
        return {name for layer, names in fields.items() if layer not in (self.data, self.labels) for name in names}


def pieces_of(root: str, parts: Iterable[Part]) -> list[Piece]:
    """The converted rows among some parts, in their order; reads the part.json of merged ones."""
    found = []
    for part in parts:
        merged = merged_layer(part)
        if merged is not None:
            found += pieces_within(read_layer(root, merged), label_id(part.layers))
        elif (data := data_id(part.layers)) is not None:
            found.append(Piece(data, label_id(part.layers), part.rows))
    return found


def pieces_within(layer: Layer, labels: str | None = None) -> list[Piece]:
    """The converted rows of a merged layer; `labels` is the layer that has the labels of its whole part, if one has."""
    found = []
    first = 0
    for old in layer.merged:
        ids = [of.id for of in old.layers]
        data, own = data_id(ids), label_id(ids)
        if data is not None:
            source = next((of.source for of in old.layers if of.source), None)
            fields = {of.id: of.fields for of in old.layers}
            values = next((of.constants for of in old.layers if of.id == own), ())
            about = source, fields, first, own is None, values
            found.append(Piece(data, own or labels, old.rows, layer.id, *about))
        first += old.rows
    return found


def _text(labels: Iterable[tuple[str, Label]]) -> str:
    """Labels to be compared: 1, 1.0 and True differ."""
    return repr([(str(k), type(v).__name__, v) for k, v in labels])


def dissolve(
    pieces: Sequence[Piece], labels: Mapping[str, Sequence[tuple[str, Label]]]
) -> tuple[list[Piece], list[Piece]]:
    """Part pieces into those that can stay and those of merged parts that cannot.

    A merged part stays whole, or all its pieces go: it stays if each of them is of an input that is complete and
    wanted, with labels that are the same as before, or, where they stand beside it, the same for all.

    Parameters
    ----------
    pieces : sequence of Piece
        All there are.
    labels : mapping
        Of each group that is wanted.
    """
    stay = list(pieces)
    while True:
        complete = complete_groups(p.data for p in stay)
        going = {
            p.merged
            for p in stay
            if p.merged is not None
            and (
                group_of(p.data) not in complete
                or group_of(p.data) not in labels
                or not (p.apart or p.has_labels(labels[group_of(p.data)]))
            )
        }
        of_part: dict[str, set[str]] = {}
        for p in stay:
            if p.merged is not None and p.apart and p.merged not in going:
                of_part.setdefault(p.merged, set()).add(_text(labels[group_of(p.data)]))
        going |= {merged for merged, texts in of_part.items() if len(texts) > 1}
        if not going:
            gone = {p.data for p in stay}
            return stay, [p for p in pieces if p.data not in gone]
        stay = [p for p in stay if p.merged not in going]
