"""Whether the inputs of a conversion have the same fields, and the schema that they have together."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from mmdask.errors import SchemaError, did_you_mean
from mmdask.expr import canonical, parse
from mmdask.schema import Field, Schema
from mmdask.store.layer import Layer, Source

__all__ = ["Known", "agreed_fields", "join_schema", "known_layer", "known_merged", "unreadable_fields"]


@dataclass(frozen=True)
class Known:
    """The fields of one input.

    `unreadable` are those of which reading failed; `other` are left out for their type, with the reason. The fields of
    an input that is `stored` already are as they are.
    """

    where: str
    fields: Mapping[str, Field]
    unreadable: frozenset[str]
    other: Mapping[str, str]
    stored: bool = False


def known_layer(layer: Layer, unreadable: str | tuple[str, ...]) -> Known:
    """The fields of a finished layer; `unreadable` is how the reason begins when reading failed."""
    source = layer.source or Source("")
    fields = _with_aliases({name: stored_field(layer, name) for name in layer.fields}, source)
    return _known(layer, source, fields, unreadable_fields(source, unreadable))


def known_merged(
    layer: Layer, source: Source, names: Iterable[str], replaced: Collection[str], unreadable: str | tuple[str, ...]
) -> Known:
    """The fields of an input whose rows were merged into a layer.

    `names` are those that its own layer had, `replaced` those that were added to the store, or took the place of one.
    A field that is no longer there as it was is as one that could not be read: inputs may have it or not.
    """
    fields = {n: stored_field(layer, n) for n in names if n in layer.fields and n not in replaced}
    fields = _with_aliases(fields, source)
    return _known(layer, source, fields, unreadable_fields(source, unreadable) | (set(names) - set(fields)))


def _with_aliases(fields: dict[str, Field], source: Source) -> dict[str, Field]:
    """Stored fields, with what is known of those that were computed while they were converted."""
    for alias in source.aliases:
        if alias.name in fields:
            optional = tuple(sorted(alias.optional))
            fields[alias.name] = replace(fields[alias.name], expression=alias.expression, optional=optional)
    return fields


def unreadable_fields(source: Source, unreadable: str | tuple[str, ...]) -> frozenset[str]:
    """The fields of an input of which reading failed."""
    return frozenset(n for n, why in source.skipped if why.startswith(unreadable))


def _known(layer: Layer, source: Source, fields: Mapping[str, Field], unreadable: frozenset[str]) -> Known:
    name = f"{source.uri}:{source.tree}" if source.uri else layer.path
    return Known(name, fields, unreadable, {n: why for n, why in source.skipped if n not in unreadable}, stored=True)


def stored_field(layer: Layer, name: str) -> Field:
    """A field as a layer stores it."""
    stored = layer.fields[name]
    if stored.kind == "category":
        return Field.category(name, stored.labels, optional=bool(stored.valid))
    if stored.values is None:
        raise SchemaError(f"{layer.path}: field {name!r} is a constant, and no field of an input")
    spec = layer.arrays[stored.values]
    levels = len(stored.offsets) - (stored.kind in ("string", "shaped"))
    shape = spec.shape[1:] if stored.kind != "string" else ()
    axes = 0 if stored.shapes is None else layer.arrays[stored.shapes].shape[1]
    optional = tuple(depth for depth, number in enumerate(stored.valid) if number is not None)
    return Field(name, stored.kind, spec.dtype, shape, levels, axes=axes, optional=optional)


def agreed_fields(inputs: Iterable[Known]) -> dict[str, Field]:
    """The fields that all inputs have, those that one of them cannot read included.

    Raises
    ------
    SchemaError
        Naming every difference of the first input that does not fit.
    """
    agreed: dict[str, Field] = {}
    first: Known | None = None
    unreadable: set[str] = set()
    for known in inputs:
        if first is not None and (differences := _differences(first.where, agreed, unreadable, known)):
            some = "; ".join(differences[:5]) + ("; ..." if len(differences) > 5 else "")
            raise SchemaError(
                f"{known.where}: {some}. All inputs need the same fields; choose them with fields or exclude, or say "
                "what to do with others: on_mismatch='common' leaves them out, 'promote' takes what holds all values"
            )
        first = first or known
        agreed = {**agreed, **{n: _can_miss(agreed.get(n), f) for n, f in known.fields.items()}}
        unreadable |= known.unreadable
    return agreed


def _can_miss(agreed: Field | None, field: Field) -> Field:
    """What was agreed on, which can miss what another can."""
    if agreed is None or set(field.optional) <= set(agreed.optional):
        return agreed or field
    return replace(agreed, optional=tuple(sorted({*agreed.optional, *field.optional})))


def _differences(first: str, agreed: Mapping[str, Field], unreadable: set[str], known: Known) -> list[str]:
    found = []
    for name, field in agreed.items():
        other = known.fields.get(name)
        if other is not None:
            if not field.same_layout(other):
                found.append(f"field {name!r} is {other.describe()}, but {field.describe()} in {first}")
        elif name in known.other:
            found.append(f"field {name!r} ({field.describe()} in {first}): {known.other[name]}")
        elif name not in known.unreadable:
            near = did_you_mean(name, known.fields)
            found.append(f"field {name!r} ({field.describe()} in {first}) is missing{near.rstrip('?')}")
    for name, field in known.fields.items():
        if name not in agreed and name not in unreadable:
            found.append(f"field {name!r} ({field.describe()}) is not in {first}")
    return found


def join_schema(
    fields: Sequence[Field], labels: Sequence[Field], old: Schema | None, appended: bool, *, keep_labels: bool = False
) -> Schema:
    """The schema of fields and labels; what people added to it (unit, doc, attrs) and the order of labels stay.

    Parameters
    ----------
    appended : bool
        Whether the store keeps rows that no conversion wrote: they must have every field.
    keep_labels : bool
        Whether labels of categories stay that no input has any more, since expressions name them.

    Raises
    ------
    SchemaError
        When a label is called like a field, or appended rows do not fit.
    """
    names = {f.name for f in fields}
    for label in labels:
        if label.name in names:
            raise SchemaError(f"the label {label.name!r} is also a field of the inputs; rename the label")
    joined = []
    for f in (*fields, *labels):
        before = old[f.name] if old is not None and f.name in old else None
        if appended and (before is None or not before.same_layout(f)):
            has = f"has {before.describe()}" if before else "has no such field"
            raise SchemaError(
                f"field {f.name!r} becomes {f.describe()}, but the store {has}, and holds appended rows that "
                "cannot be converted again; convert to a new store"
            )
        if appended and before is not None and _canonical(before) != _canonical(f):
            raise SchemaError(
                f"field {f.name!r} was {_made(before)}, and is now {_made(f)}; the store holds appended rows that "
                "cannot be converted again; convert to a new store"
            )
        if before is not None and before.same_layout(f):
            kept = [label for label in before.labels if appended or keep_labels or label in f.labels]
            more = [label for label in f.labels if label not in before.labels]
            optional = tuple(sorted({*before.optional, *f.optional}))
            f = replace(before, labels=(*kept, *more), expression=f.expression, optional=optional)
        joined.append(f)
    return Schema(joined)


def _canonical(field: Field) -> str:
    return canonical(parse(field.expression)) if field.expression else ""


def _made(field: Field) -> str:
    return f"computed as {field.expression}" if field.expression else "not computed from fields of the store"
