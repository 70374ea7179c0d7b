"""Converted rows that stand in a store: as parts of their own, or within parts that were merged since."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mmdask.sources.inputs import Label
from mmdask.sources.plan import complete_groups, data_id, group_of, label_id, labels_id, merged_layer
from mmdask.store.layer import Source, read_layer
from mmdask.store.manifest import Part

__all__ = ["Piece", "dissolve", "pieces_of"]


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
    """

    data: str
    labels: str | None
    rows: int
    merged: str | None = None
    source: Source | None = None
    fields: Mapping[str, tuple[str, ...]] | None = None

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
            found += _within(root, merged)
        elif (data := data_id(part.layers)) is not None:
            found.append(Piece(data, label_id(part.layers), part.rows))
    return found


def _within(root: str, merged: str) -> list[Piece]:
    found = []
    for old in read_layer(root, merged).merged:
        ids = [layer.id for layer in old.layers]
        data = data_id(ids)
        if data is not None:
            source = next((layer.source for layer in old.layers if layer.source), None)
            fields = {layer.id: layer.fields for layer in old.layers}
            found.append(Piece(data, label_id(ids), old.rows, merged, source, fields))
    return found


def dissolve(
    pieces: Sequence[Piece], labels: Mapping[str, Sequence[tuple[str, Label]]]
) -> tuple[list[Piece], list[Piece]]:
    """Part pieces into those that can stay and those of merged parts that cannot.

    A merged part stays whole, or all its pieces go: it stays if each of them is of an input that is complete, and
    wanted with the same labels.

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
                or p.labels != labels_id(labels[group_of(p.data)], p.data)
            )
        }
        if not going:
            gone = {p.data for p in stay}
            return stay, [p for p in pieces if p.data not in gone]
        stay = [p for p in stay if p.merged not in going]
