"""What the inputs of a store held before a conversion cut them: rows, and sums of weights, as its parts tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmdask.expr import Expression, evaluate_cut
from mmdask.schema import CODE_DTYPE, Field, FieldData, Schema
from mmdask.sources.converting.plan import data_id, data_layer, label_id, merged_layer
from mmdask.store.layer import Layer
from mmdask.store.manifest import Part
from mmdask.store.origin import Scalar, Source
from mmdask.store.snapshot import Snapshot

__all__ = ["Before", "before_conversion"]


@dataclass(frozen=True)
class Before:
    """Rows of some inputs, and the sums of their weights and of the squares of these; without weights rows again."""

    rows: int = 0
    sum: float = 0.0
    sum2: float = 0.0

    def __add__(self, other: Before) -> Before:
        return Before(self.rows + other.rows, self.sum + other.sum, self.sum2 + other.sum2)


def before_conversion(
    snapshot: Snapshot, cuts: Sequence[Expression] | None, weight: Expression | None = None, by: str | None = None
) -> dict[int | None, Before] | str:
    """Rows before the conversion of those inputs whose labels pass some cuts; or why that cannot be said.

    It can be said of a store that was converted with a cut and holds no other rows, if the cuts read labels alone, the
    sum of the weight was kept for each of the inputs, and `by` is a label. Labels, and fields that a weight reads, must
    be those of the conversion: not assigned since.

    Parameters
    ----------
    snapshot : Snapshot
        The store.
    cuts : sequence of Expression or None
        What the inputs pass; None where it is not cuts that choose the rows.
    weight : Expression, optional
        Whose sums are asked for.
    by : str, optional
        The label that splits them.

    Returns
    -------
    dict or str
        By the value of the label, a code of the store for a category; by 0 without `by`. Also of inputs of which no row
        was kept. Otherwise the reason: empty if nothing was cut in a conversion.
    """
    found: dict[int | None, Before] = {}
    number = -1
    for number, piece in enumerate(_pieces(snapshot)):
        if not number and (piece is None or not piece.source.cut):
            return ""
        if cuts is None:
            return "these are not all rows of some inputs"
        if piece is None:
            return "there are also rows that were not converted"
        needed = {name for cut in cuts for name in cut.fields} | ({by} if by is not None else set())
        for name in sorted(needed):
            if not (name in piece.labels and _fits(snapshot.schema[name], piece.labels[name])):
                return f"{name} is no label of the inputs"
        if not all(_passes(cut, piece.labels, snapshot.schema) for cut in cuts):
            continue
        of_piece = _before(piece, weight)
        if isinstance(of_piece, str):
            return of_piece
        group = 0 if by is None else _code(snapshot.schema[by], piece.labels[by])
        found[group] = found.get(group, Before()) + of_piece
    return found or ("no input has these labels" if number >= 0 else "")


@dataclass(frozen=True)
class _Piece:
    """The rows of one input, or of a range of it; its labels, and the fields that were assigned since."""

    source: Source
    labels: Mapping[str, Scalar]
    assigned: frozenset[str]


def _pieces(snapshot: Snapshot) -> Iterator[_Piece | None]:
    """The converted pieces of a store; None for other rows."""
    for part in snapshot.parts:
        if data_layer(part) is not None:
            layers = [snapshot.layer(i) for i in part.layers]
            yield _piece([(x.id, tuple(x.fields), x.source, _constants(x)) for x in layers])
        elif (whole := merged_layer(part)) is not None:
            yield from _within(snapshot, part, whole)
        else:
            yield None


def _within(snapshot: Snapshot, part: Part, whole: str) -> Iterator[_Piece | None]:
    later = [snapshot.layer(i) for i in part.layers if i != whole]
    more = [(x.id, tuple(x.fields), x.source, _constants(x)) for x in later]
    for old in snapshot.layer(whole).merged:
        yield _piece([*((x.id, x.fields, x.source, dict(x.constants)) for x in old.layers), *more])


def _constants(layer: Layer) -> dict[str, Scalar]:
    return {name: s.constant for name, s in layer.fields.items() if s.constant is not None}


def _piece(layers: Sequence[tuple[str, tuple[str, ...], Source | None, Mapping[str, Scalar]]]) -> _Piece | None:
    """A piece from its layers, of which the last one that has a field counts."""
    data = data_id(i for i, *_ in layers)
    source = next((source for i, _, source, _ in layers if i == data), None)
    if source is None:
        return None
    labels: dict[str, Scalar] = {}
    assigned: set[str] = set()
    for i, fields, _, constants in layers:
        ours = i == data or label_id([i]) is not None
        for name in fields:
            labels.pop(name, None)
            (assigned.discard if ours else assigned.add)(name)
            if ours and name in constants:
                labels[name] = constants[name]
    return _Piece(source, labels, frozenset(assigned))


def _before(piece: _Piece, weight: Expression | None) -> Before | str:
    n = piece.source.stop - piece.source.start
    if weight is None:
        return Before(n, n, n)
    if assigned := piece.assigned & set(weight.fields):
        return f"{min(assigned)} was assigned after the conversion"
    sums = next((w for w in piece.source.weights if w.weight == weight.canonical), None)
    if sums is None:
        return f"the conversion was not asked for the sum of this weight: weights={weight.canonical!r}"
    return Before(n, sums.sum, sums.sum2)


def _passes(cut: Expression, labels: Mapping[str, Scalar], schema: Schema) -> bool:
    def read(name: str) -> FieldData:
        field = schema[name]
        if field.kind == "category":
            return FieldData(np.array([_code(field, labels[name])], CODE_DTYPE), labels=field.labels)
        return FieldData(np.array([labels[name]], field.dtype))

    return bool(evaluate_cut(cut, read, 1)[0])


def _fits(field: Field, value: Scalar) -> bool:
    """Whether a value that part.json says can be one of the field."""
    return value in field.labels if field.kind == "category" else not isinstance(value, str)


def _code(field: Field, value: Scalar) -> int:
    return field.labels.index(str(value)) if field.kind == "category" else int(value)
