"""What a conversion finds: which inputs the store holds, which are new, changed or gone, and the schema they make.

Nothing is written here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from mmdask.errors import MmdaskError, OptionError, SchemaError, SourceNotFoundError, StoreExistsError
from mmdask.rows.views.derived import derive
from mmdask.schema import Field, Schema
from mmdask.sources.agreeing.agree import Known, join_schema, known_layer, known_merged, unreadable_fields
from mmdask.sources.agreeing.fitting import fit_tables
from mmdask.sources.agreeing.settled import NOT_COMMON
from mmdask.sources.converting.inputs import Absent, Input, label_fields
from mmdask.sources.converting.pieces import Piece, dissolve, pieces_of, pieces_within
from mmdask.sources.converting.plan import (
    complete_groups,
    data_layer,
    extra_layers,
    group_of,
    is_merge,
    layer_ids,
    merged_layer,
    most_layers,
)
from mmdask.sources.converting.table import UNREADABLE, Reader, Table
from mmdask.sources.converting.target import Target
from mmdask.store.layer import Layer, Source, layer_exists, read_layer
from mmdask.store.manifest import Manifest, Part
from mmdask.store.storage import storage_of

__all__ = [
    "Found",
    "agree",
    "expressions",
    "find",
    "is_done",
    "match_stale",
    "schema_of",
    "settle",
    "with_trees",
    "without_aliases",
]


#: how the reason begins when a field is left out that an input may have all the same
_LEFT_OUT = (UNREADABLE, NOT_COMMON)


@dataclass(frozen=True)
class Found:
    """What there is: inputs by group, and per group how far it is.

    `pieces` are the converted rows in the manifest, by data layer, without those of merged parts that must go. `merged`
    are all merged parts, with None for those that stay, else the data layers of their pieces.
    `kept` are the groups that the manifest has, with their number of parts; `finished` those whose layers a dead
    conversion left, or a merged part; `copies` those whose rows a merged part that goes has; `tables` those that must
    be read. `stale` are converted rows in the manifest of no kept group. `like` is what kept rows have, which all new
    ones must resemble; `old_labels` are the labels of kept rows. `left` is how many layers a dead conversion cut an
    input into.
    """

    target: Target
    sources: Mapping[str, Input]
    pieces: Mapping[str, Piece]
    merged: Mapping[str, tuple[str, ...] | None]
    kept: Mapping[str, int]
    finished: Mapping[str, Sequence[Layer]]
    copies: Mapping[str, Sequence[Piece]]
    tables: Mapping[str, Table]
    stale: Mapping[str, Source]
    like: Known | None
    old_labels: frozenset[str]
    left: Mapping[str, int]

    def source_of(self, data: str) -> Source:
        """Where the rows of a piece in the manifest came from."""
        return _source(self.target.root, self.pieces[data])

    @property
    def is_new(self) -> bool:
        """Whether any rows are made, or were by a call that did not end."""
        return bool(self.tables or self.finished or self.copies)


def is_done(target: Target, groups: Mapping[str, Input]) -> bool:
    """Whether the manifest holds exactly these inputs with these labels; no input is opened to see it."""
    pieces = pieces_of(target.root, target.manifest.parts if target.manifest else ())
    kept = complete_groups(p.data for p in pieces)
    return set(kept) == set(groups) == {group_of(p.data) for p in pieces} and all(
        p.has_labels(groups[group_of(p.data)].labels) for p in pieces
    )


def with_trees(target: Target, groups: Mapping[str, Input]) -> list[tuple[Input, str]]:
    """Inputs whose rows the manifest holds, and the tree of each."""
    pieces = {group_of(p.data): p for p in pieces_of(target.root, target.manifest.parts if target.manifest else ())}
    return [(s, _source(target.root, pieces[group]).tree) for group, s in groups.items()]


Inspect = Callable[[Sequence[Input]], Sequence[Table]]


def find(target: Target, groups: Mapping[str, Input], inspect: Inspect) -> Found:
    """Compare inputs with what is in the store, and left beside it; those that must be read are inspected."""
    root, parts = target.root, target.manifest.parts if target.manifest else ()
    stay, going = dissolve(pieces_of(root, parts), {group: s.labels for group, s in groups.items()})
    merged: dict[str, tuple[str, ...] | None] = {m: None for p in parts if (m := merged_layer(p)) is not None}
    for piece in going:
        merged[str(piece.merged)] = (*(merged[str(piece.merged)] or ()), piece.data)
    pieces = {p.data: p for p in stay}
    kept = {group: n for group, n in complete_groups(pieces).items() if group in groups}
    stale = {p.data: _source(root, p) for p in (*(p for p in stay if group_of(p.data) not in kept), *going)}
    names = [entry.name for entry in storage_of(root).entries("parts")]
    left = complete_groups(names)
    finished: dict[str, Sequence[Layer]] = {}
    copies: dict[str, Sequence[Piece]] = {}
    wanted = {group: s for group, s in groups.items() if group not in kept}
    for group in wanted:
        ids = layer_ids(group, left.get(group, 0))
        if ids and all(layer_exists(root, i) for i in ids):
            finished[group] = [read_layer(root, i) for i in ids]
        elif inside := _copyable(root, [p for p in going if group_of(p.data) == group]):
            copies[group] = inside
    open_groups = {g: s for g, s in wanted.items() if g not in finished and g not in copies}
    finished |= _merged_layers_left(root, names, merged, open_groups)
    to_read = {g: s for g, s in open_groups.items() if g not in finished}
    tables = dict(zip(to_read, inspect(list(to_read.values())), strict=True))
    like, old_labels = None, frozenset[str]()
    of_kept = [p for p in stay if group_of(p.data) in kept]
    if of_kept:
        # rather one with a layer of its own, which has all that its input had
        first = next((p for p in of_kept if p.merged is None), of_kept[0])
        like = _known(root, first)
        if first.labels is not None:
            merged_fields = (first.fields or {}).get(first.labels)
            old_labels = frozenset(read_layer(root, first.labels).fields if merged_fields is None else merged_fields)
    begun = most_layers(names)
    return Found(target, groups, pieces, merged, kept, finished, copies, tables, stale, like, old_labels, begun)


def _copyable(root: str, pieces: Sequence[Piece]) -> Sequence[Piece]:
    """The pieces of an input in merged parts that go, in order, if all its rows and fields are there as they were."""
    if len(complete_groups(p.data for p in pieces)) != 1:
        return ()
    for p in pieces:
        names = set((p.fields or {}).get(p.data, ()))
        if not names or names & p.added or not names <= set(read_layer(root, p.layer).fields):
            return ()
    n = len(pieces)
    by_id = {p.data: p for p in pieces}
    return [by_id[i] for i in layer_ids(group_of(pieces[0].data), n)] if len(by_id) == n else ()


def _merged_layers_left(
    root: str, names: Iterable[str], in_store: Collection[str], groups: Mapping[str, Input]
) -> dict[str, Sequence[Layer]]:
    """The groups whose rows a dead conversion left in merged layers, each with that layer; the largest first."""
    found: dict[str, Sequence[Layer]] = {}
    layers = [
        read_layer(root, name) for name in names if is_merge(name) and name not in in_store and layer_exists(root, name)
    ]
    for layer in sorted(layers, key=lambda of: (-len(of.merged), of.id)):
        inside = [group_of(p.data) for p in pieces_within(layer)]
        labels = [groups[g].labels for g in inside if g in groups]
        whole = len(labels) == len(inside) == len(layer.merged) and all(some == labels[0] for some in labels)
        if whole and not found.keys() & set(inside):
            found |= {g: [layer] for g in inside}
    return found


def settle(found: Found, order: Sequence[str | None], inspect: Inspect) -> Found:
    """Give up merged layers of a dead conversion whose inputs no longer stand beside each other in that order."""
    at = {group: i for i, group in enumerate(order) if group is not None}
    lost = set()
    for group, layers in found.finished.items():
        inside = [group_of(p.data) for p in pieces_within(layers[0])]
        if inside and [at[g] for g in inside] != list(range(at[inside[0]], at[inside[0]] + len(inside))):
            lost.add(group)
    if not lost:
        return found
    tables = dict(zip(lost, inspect([found.sources[g] for g in lost]), strict=True))
    finished = {g: layers for g, layers in found.finished.items() if g not in lost}
    return replace(found, finished=finished, tables={**found.tables, **tables})


def _source(root: str, piece: Piece) -> Source:
    if piece.merged is not None:
        return piece.source or Source("")
    return read_layer(root, piece.data).source or Source("")


def _known(root: str, piece: Piece, layer: Layer | None = None) -> Known:
    if piece.merged is None:
        return known_layer(read_layer(root, piece.data), _LEFT_OUT)
    fields = (piece.fields or {}).get(piece.data, ())
    layer = layer or read_layer(root, piece.merged)
    return known_merged(layer, _source(root, piece), fields, piece.added, _LEFT_OUT)


def _known_finished(root: str, group: str, layers: Sequence[Layer]) -> list[Known]:
    pieces = [p for p in pieces_within(layers[0]) if group_of(p.data) == group]
    if pieces:
        return [_known(root, p, layers[0]) for p in pieces]
    return [known_layer(layer, _LEFT_OUT) for layer in layers]


def match_stale(found: Found, absent: Sequence[Absent], missing: str) -> tuple[dict[str, str], frozenset[str]]:
    """Which group each stale part gives way to, and which stale parts go."""
    root = found.target.root
    named = _by_tree(found)
    replaced: dict[str, str] = {}
    vanished: dict[str, Source] = {}
    for data, source in found.stale.items():
        group = named.get((source.uri, source.tree))
        if group is None:
            vanished[data] = source
        else:
            replaced[data] = group
    if found.stale and not found.kept and not replaced:
        files = list(dict.fromkeys(s.uri for s in vanished.values()))
        some = ", ".join(files[:3]) + ", ..." * (len(files) > 3)
        raise StoreExistsError(
            f"{root} was converted from other sources ({some}), and none of them is named now; choose another path, or "
            "remove the store first, if these are the same files under other names"
        )
    for a in absent:
        if not any(a.was(s.uri) for s in vanished.values()):
            raise a.error
    if vanished and missing == "error":
        s = next(iter(vanished.values()))
        why = "is no longer among the sources" if os.path.exists(s.uri) else "is no longer there"
        more = len({(v.uri, v.tree) for v in vanished.values()}) - 1
        raise SourceNotFoundError(
            f"{s.uri}:{s.tree}, which {root} holds, {why}{f' ({more} more like it)' if more else ''}; "
            "pass missing='drop' (--missing drop) to take its rows out"
        )
    return replaced, frozenset(vanished)


def _by_tree(found: Found) -> dict[tuple[str, str], str]:
    """The groups that are made or finished by file and tree, of which no two may be the same."""
    trees: list[tuple[str, str]] = []
    for group in found.sources:
        source = found.sources[group]
        if group in found.tables:
            trees.append((group, found.tables[group].tree))
        elif group in found.finished:
            layer = found.finished[group][0]
            inside = (p.source for p in pieces_within(layer) if group_of(p.data) == group)
            trees.append((group, (next(inside, layer.source) or Source("")).tree))
        elif group in found.copies:
            trees.append((group, (found.copies[group][0].source or Source("")).tree))
        elif any(s.path == source.path for g, s in found.sources.items() if g != group):
            first = layer_ids(group, found.kept[group])[0]
            trees.append((group, found.source_of(first).tree))
    named: dict[tuple[str, str], str] = {}
    for group, tree in trees:
        key = (found.sources[group].path, tree)
        if key in named:
            raise OptionError(f"{key[0]}:{tree} is named twice, with and without its tree")
        named[key] = group
    return {key: group for key, group in named.items() if group not in found.kept}


def agree(found: Found, reader: Reader) -> tuple[Found, dict[str, Field]]:
    """The fields of everything new, and the inputs with what each changes for them; see `fit_tables`."""
    if not found.is_new:
        return found, {}
    root = found.target.root
    known = [found.like] if found.like else []
    for group in found.sources:
        if group in found.finished:
            known += _known_finished(root, group, found.finished[group])
        elif group in found.copies:
            known.append(_known(root, found.copies[group][0]))
    tables, fields = fit_tables(found.tables, known, reader.recipe, reader.shaping)
    return replace(found, tables=tables), fields


def schema_of(found: Found, agreed: Mapping[str, Field], newest: Manifest | None, new: Sequence[Layer]) -> Schema:
    """The schema of kept and new parts: the fields that all of them could be read for, labels, and what is computed."""
    old = newest.schema if newest else Schema()
    parts = newest.parts if newest else ()
    computed = _computed(found.target.root, newest)
    if found.is_new:
        _check_arrays(found.target.root, old, parts)
    if newest is None or not found.kept:
        fields = list(agreed.values())
    else:
        fields = [_as_agreed(f, agreed) for f in old.values() if f.name not in found.old_labels]
        fields += _readable_again(found, newest)
    fields = [f for f in fields if f.name not in computed and all(f.name in layer.fields for layer in new)]
    converted = found.pieces.keys() | {data for inside in found.merged.values() for data in inside or ()}
    whole = {p.merged for p in found.pieces.values()} | {m for m, inside in found.merged.items() if inside}
    appended = any(data_layer(p) not in converted and merged_layer(p) not in whole - {None} for p in parts)
    labels = [f for f in label_fields(found.sources.values()) if f.name not in computed]
    schema = join_schema(fields, labels, newest.schema if newest else None, appended, keep_labels=bool(computed))
    return _with_computed(found.target.root, schema, old, computed)


def _check_arrays(root: str, schema: Schema, parts: Sequence[Part]) -> None:
    """Raise `SchemaError` when converted rows have fields that were assigned as arrays: new rows would lack them."""
    added = {name for p in parts if data_layer(p) for i in extra_layers(p) for name in read_layer(root, i).fields}
    for part in parts:
        if merged_layer(part) is not None and (pieces := pieces_of(root, [part])):
            added |= {name for i in extra_layers(part) for name in read_layer(root, i).fields}
            added |= {name for piece in pieces for name in piece.added}
    if given := [name for name, f in schema.items() if name in added and not f.expression]:
        raise SchemaError(
            f"{root}: the fields {', '.join(map(repr, given))} were added to the store as arrays, and rows that are "
            "converted now would lack them; drop them first (mm.drop) and assign them again afterwards, assign them as "
            "expressions, or convert to a new store"
        )


def _with_computed(root: str, schema: Schema, old: Schema, computed: Mapping[str, Field]) -> Schema:
    """The schema with the fields that are computed from it, in the order that fields had."""
    if not computed:
        return schema
    try:
        derive(computed, schema)
    except MmdaskError as error:
        raise SchemaError(
            f"{root}: a field of the store could not be computed any more; drop it first (mm.drop), assign it again "
            f"afterwards: {error}"
        ) from None
    fields = {**schema, **computed}
    return Schema([*(fields[name] for name in old if name in fields), *(f for n, f in fields.items() if n not in old)])


def _as_agreed(field: Field, agreed: Mapping[str, Field]) -> Field:
    """A field of the store, which can now miss what it can in new rows."""
    optional = agreed[field.name].optional if field.name in agreed else ()
    return replace(field, optional=tuple(sorted({*field.optional, *optional})))


def _readable_again(found: Found, newest: Manifest) -> list[Field]:
    """Fields that were left out because a part that goes could not be read, and that all kept parts have."""
    lost = {n for source in found.stale.values() for n in unreadable_fields(source, _LEFT_OUT)}
    lost -= set(newest.schema)
    if not lost or found.like is None:
        return []
    for group, n in found.kept.items():
        for data in layer_ids(group, n):
            lost &= set(_known(found.target.root, found.pieces[data]).fields)
    return [f for name, f in found.like.fields.items() if name in lost]


def expressions(schema: Schema) -> dict[str, Field]:
    return {name: f for name, f in schema.items() if f.expression}


def without_aliases(schema: Schema, root: str, newest: Manifest | None) -> Schema:
    """The schema with an expression for those fields only that no conversion computes."""
    computed = _computed(root, newest)
    return Schema(
        f if name in computed or not f.expression else replace(f, expression="") for name, f in schema.items()
    )


def _computed(root: str, newest: Manifest | None) -> dict[str, Field]:
    """The fields of a store that were assigned as expressions, and are no aliases of its conversion."""
    found = expressions(newest.schema) if newest else {}
    if not found or newest is None:
        return {}
    # an assignment gives every part a layer, so that one converted part tells
    for part in newest.parts:
        if (data := data_layer(part)) is not None:
            inside, added = set(read_layer(root, data).fields), set[str]()
        elif pieces := pieces_of(root, [part]):
            piece = pieces[0]
            inside, added = set((piece.fields or {}).get(piece.data, ())), piece.added
        else:
            continue
        added = added.union(*(read_layer(root, i).fields for i in extra_layers(part)))
        return {name: f for name, f in found.items() if name not in inside or name in added}
    return found
