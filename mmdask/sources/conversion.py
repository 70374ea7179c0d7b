"""Converting inputs to a store: what is missing is made, what is there is kept, one commit shows it.

`convert` knows nothing of file formats: a `Reader` inspects inputs and reads their rows. Nothing is written before
every input that must be read was opened and checked.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from mmdask import display
from mmdask.errors import (
    MmdaskError,
    OptionError,
    SchemaError,
    SkippedFieldsWarning,
    SourceError,
    SourceNotFoundError,
    StoreExistsError,
)
from mmdask.schema import Field, FieldData, Schema
from mmdask.sources.agree import Known, agreed_fields, join_schema, known_layer
from mmdask.sources.inputs import Absent, Input, label_fields
from mmdask.sources.plan import (
    arrange,
    complete_groups,
    data_layer,
    extra_layers,
    group_id,
    group_of,
    label_layer,
    labels_id,
    layer_ids,
)
from mmdask.sources.target import Target, begin, check_options, look
from mmdask.store.commit import block_rows_for, commit
from mmdask.store.layer import Layer, Source, layer_exists, read_layer
from mmdask.store.layer_writer import LayerWriter
from mmdask.store.manifest import Manifest, Part

__all__ = ["Reader", "Rows", "Table", "UnreadableError", "convert"]

#: ``rows(field, start, stop)`` yields the rows of one field, run by run
Rows = Callable[[Field, int, int], Iterator[FieldData]]
#: how the reason begins when a field could be stored but not read
UNREADABLE = "cannot be read: "


class UnreadableError(Exception):
    """The rows of one field cannot be read; the other fields can."""


@dataclass(frozen=True)
class Table:
    """What the metadata of one input say: its fields, and the row ranges that become parts.

    `nbytes` are decoded bytes per field, about. `required` fields were asked for by name: not to read one is an error.
    """

    source: Input
    tree: str
    fields: tuple[Field, ...]
    skipped: tuple[tuple[str, str], ...]
    ranges: tuple[tuple[int, int], ...]
    nbytes: Mapping[str, int]
    required: frozenset[str]
    fingerprint: str

    @property
    def rows(self) -> int:
        return self.ranges[-1][1]


class Reader(Protocol):
    """How inputs of one format are read. `kind` is its name, `options` all that decides what is read, as JSON."""

    kind: str

    @property
    def options(self) -> Mapping[str, Any]: ...

    def inspect(self, source: Input) -> Table: ...

    def open(self, table: Table) -> AbstractContextManager[Rows]: ...


@dataclass(frozen=True)
class _Found:
    """What there is: inputs by group, and per group how far it is.

    `kept` are the groups that the manifest has, with their number of parts; `finished` those whose layers a dead
    conversion left; `tables` those to be made. `stale` are converted parts in the manifest of no kept group.
    `like` is a kept data layer, which all new ones must resemble; `old_labels` are the labels of kept parts.
    """

    target: Target
    sources: Mapping[str, Input]
    kept: Mapping[str, int]
    finished: Mapping[str, Sequence[Layer]]
    tables: Mapping[str, Table]
    stale: Mapping[str, Layer]
    like: Layer | None
    old_labels: frozenset[str]


def convert(
    sources: Sequence[Input],
    absent: Sequence[Absent],
    path: str | os.PathLike[str],
    reader: Reader,
    *,
    update: bool,
    missing: str,
    progress: bool,
) -> None:
    """Make the store at `path` hold the rows of these inputs; see `mmdask.sources.root.convert_root`."""
    if missing not in ("error", "drop"):
        raise OptionError(f"missing is 'error' or 'drop', got {missing!r}")
    target = look(path, reader.kind)
    check_options(target, reader.options, update)
    if absent and (missing == "error" or target.manifest is None):
        raise absent[0].error
    groups = {group_id(s, reader.options): s for s in sources}
    if target.options == reader.options and not absent and _is_done(target, groups):
        return
    found = _find(target, groups, reader)
    replaced, dropped = _match(found, absent, missing)
    agreed = _agree(found)
    _schema(found, agreed, target.manifest, [])

    with _writing(target.root):
        new = _write(found, agreed, reader, replaced, dropped, progress)
    _warn(target.root, new)


def _write(
    found: _Found,
    agreed: Mapping[str, Field],
    reader: Reader,
    replaced: Mapping[str, str],
    dropped: frozenset[str],
    progress: bool,
) -> list[Layer]:
    """Make what is missing and commit it; returns the data layers that were not in the store before."""
    target = found.target
    begin(target, reader.kind, reader.options)
    layers = _make_layers(found, reader, progress)
    wanted = _make_labels(found, layers)
    new = [layer for of_group in layers.values() for layer in of_group]
    made = {layer.id: Part(layer.rows, (layer.id,), layer.nbytes) for layer in new}

    def change(newest: Manifest | None) -> Manifest:
        parts = arrange(newest.parts if newest else (), wanted, made, replaced, dropped)
        schema = _schema(found, agreed, newest, new)
        if newest is None:
            return Manifest(os.urandom(16).hex(), 0, block_rows_for(new), schema, parts)
        return replace(newest, schema=schema, parts=parts)

    commit(target.root, change)
    return new


@contextmanager
def _writing(root: str) -> Iterator[None]:
    """Say of an error of the disk which store was written, and that nothing is lost."""
    try:
        yield
    except OSError as error:
        if not isinstance(error, MmdaskError):
            # without a file name, str(error) says nothing of the place
            error.filename = error.filename or root
            error.add_note(
                f"while the store {root} was written. What it held before is intact; once the cause is mended, "
                "the same call can be repeated and goes on where this one stopped"
            )
        raise


def _is_done(target: Target, groups: Mapping[str, Input]) -> bool:
    """Whether the manifest holds exactly these inputs with these labels; nothing is opened to see it."""
    parts = _converted(target.manifest)
    kept = complete_groups(parts)
    return set(kept) == set(groups) == {group_of(data) for data in parts} and all(
        label_layer(part) == labels_id(groups[group_of(data)].labels, data) for data, part in parts.items()
    )


def _converted(manifest: Manifest | None) -> dict[str, Part]:
    """The parts that a conversion wrote, by data layer."""
    return {data: p for p in (manifest.parts if manifest else ()) if (data := data_layer(p)) is not None}


def _find(target: Target, groups: Mapping[str, Input], reader: Reader) -> _Found:
    parts = _converted(target.manifest)
    kept = {group: n for group, n in complete_groups(parts).items() if group in groups}
    stale = {data: read_layer(target.root, data) for data in parts if group_of(data) not in kept}
    folder = os.path.join(target.root, "parts")
    left = complete_groups(os.listdir(folder) if os.path.isdir(folder) else ())
    finished: dict[str, list[Layer]] = {}
    tables: dict[str, Table] = {}
    for group, source in groups.items():
        if group in kept:
            continue
        ids = layer_ids(group, left.get(group, 0))
        if ids and all(layer_exists(target.root, i) for i in ids):
            finished[group] = [read_layer(target.root, i) for i in ids]
        else:
            tables[group] = reader.inspect(source)
    like, old_labels = None, frozenset[str]()
    first = next((p for data, p in parts.items() if group_of(data) in kept), None)
    if first is not None:
        like = read_layer(target.root, str(data_layer(first)))
        if (label_id := label_layer(first)) is not None:
            old_labels = frozenset(read_layer(target.root, label_id).fields)
    return _Found(target, groups, kept, finished, tables, stale, like, old_labels)


def _match(found: _Found, absent: Sequence[Absent], missing: str) -> tuple[dict[str, str], frozenset[str]]:
    """Which group each stale part gives way to, and which stale parts go."""
    root = found.target.root
    named = _by_tree(found)
    replaced: dict[str, str] = {}
    vanished: dict[str, Source] = {}
    for data, layer in found.stale.items():
        source = layer.source or Source("")
        group = named.get((source.uri, source.tree))
        if group is None:
            vanished[data] = source
        else:
            replaced[data] = group
    if found.stale and not found.kept and not replaced:
        some = ", ".join(dict.fromkeys(s.uri for s in list(vanished.values())[:3]))
        raise StoreExistsError(f"{root} was converted from other sources ({some}, ...); choose another path")
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


def _by_tree(found: _Found) -> dict[tuple[str, str], str]:
    """The groups that are made or finished by file and tree, of which no two may be the same."""
    trees: list[tuple[str, str]] = []
    for group in found.sources:
        source = found.sources[group]
        if group in found.tables:
            trees.append((group, found.tables[group].tree))
        elif group in found.finished:
            trees.append((group, _tree_of(found.finished[group][0])))
        elif any(s.path == source.path for g, s in found.sources.items() if g != group):
            first = layer_ids(group, found.kept[group])[0]
            trees.append((group, _tree_of(read_layer(found.target.root, first))))
    named: dict[tuple[str, str], str] = {}
    for group, tree in trees:
        key = (found.sources[group].path, tree)
        if key in named:
            raise OptionError(f"{key[0]}:{tree} is named twice, with and without its tree")
        named[key] = group
    return {key: group for key, group in named.items() if group not in found.kept}


def _tree_of(layer: Layer) -> str:
    return layer.source.tree if layer.source else ""


def _agree(found: _Found) -> dict[str, Field]:
    """The fields of everything new, which all inputs must have alike."""
    if not found.tables and not found.finished:
        return {}
    known = [known_layer(found.like, UNREADABLE)] if found.like else []
    for group, source in found.sources.items():
        if group in found.tables:
            t = found.tables[group]
            known.append(Known(source.name, {f.name: f for f in t.fields}, frozenset(), dict(t.skipped)))
        elif group in found.finished:
            known += [known_layer(layer, UNREADABLE) for layer in found.finished[group]]
    return agreed_fields(known)


def _schema(found: _Found, agreed: Mapping[str, Field], newest: Manifest | None, new: Sequence[Layer]) -> Schema:
    """The schema of kept and new parts: the fields that all of them could be read for, and the labels."""
    root = found.target.root
    parts = newest.parts if newest else ()
    extra = next((extra_layers(p)[0] for p in _converted(newest).values() if extra_layers(p)), None)
    if extra is not None and (found.tables or found.finished):
        names = ", ".join(map(repr, read_layer(root, extra).fields))
        raise SchemaError(
            f"{root}: the fields {names} were added to the store as arrays, and rows that are converted now would lack "
            "them; drop them first and add them again afterwards, or convert to a new store"
        )
    if newest is None or not found.kept:
        fields = list(agreed.values())
    else:
        fields = [f for f in newest.schema.values() if f.name not in found.old_labels]
        fields += _readable_again(found, newest)
    fields = [f for f in fields if all(f.name in layer.fields for layer in new)]
    appended = any(data_layer(p) is None for p in parts)
    return join_schema(fields, label_fields(found.sources.values()), newest.schema if newest else None, appended)


def _readable_again(found: _Found, newest: Manifest) -> list[Field]:
    """Fields that were left out because a part that goes could not be read, and that all kept parts have."""
    lost = {n for layer in found.stale.values() for n in known_layer(layer, UNREADABLE).unreadable}
    lost -= set(newest.schema)
    if not lost or found.like is None:
        return []
    kept = [i for group, n in found.kept.items() for i in layer_ids(group, n)]
    for data in kept:
        lost &= set(read_layer(found.target.root, data).fields)
    return [f for name, f in known_layer(found.like, UNREADABLE).fields.items() if name in lost]


def _make_layers(found: _Found, reader: Reader, progress: bool) -> dict[str, list[Layer]]:
    """Convert every table, in the order of the sources; layers that are there already are not made again."""
    layers = {group: list(of_group) for group, of_group in found.finished.items()}
    total = sum(sum(t.nbytes.values()) for t in found.tables.values())
    with _Progress(total, show=progress) as bar:
        for group, table in found.tables.items():
            layers[group] = _make_table(found.target.root, group, table, reader, bar)
    return layers


def _make_table(root: str, group: str, table: Table, reader: Reader, bar: _Progress) -> list[Layer]:
    layers: list[Layer] = []
    unreadable: dict[str, str] = {}
    with reader.open(table) as rows:
        for (start, stop), layer_id in zip(table.ranges, layer_ids(group, len(table.ranges)), strict=True):
            if layer_exists(root, layer_id):
                layer = read_layer(root, layer_id)
                skipped = dict(layer.source.skipped if layer.source else ())
                unreadable.update({n: why for n, why in skipped.items() if why.startswith(UNREADABLE)})
                bar.forward(table, None, start, stop)
            else:
                with LayerWriter(root, layer_id) as w:
                    for field in table.fields:
                        if field.name not in unreadable:
                            bar.describe(table, field)
                            try:
                                _copy(w, field, rows(field, start, stop), stop - start)
                            except UnreadableError as error:
                                unreadable[field.name] = UNREADABLE + str(error)
                        bar.forward(table, field, start, stop)
                    table.source.check_unchanged()
                    _check_required(table, unreadable)
                    layer = w.finish(stop - start, _provenance(table, start, stop, unreadable))
            layers.append(layer)
    return layers


def _copy(w: LayerWriter, field: Field, rows: Iterator[FieldData], n: int) -> None:
    """Write the rows of one field; nothing of it stays when reading fails."""
    writer = w.field(field)
    try:
        for data in rows:
            writer.write(data)
        if writer.rows != n:
            raise UnreadableError(f"damaged, it gives {writer.rows} of {n} rows")
        writer.close()
    except UnreadableError:
        w.remove_field(field.name)
        raise


def _check_required(table: Table, unreadable: Mapping[str, str]) -> None:
    """Raise `SourceError` for a field that was asked for by name, or when no field is left."""
    named = [n for n in unreadable if n in table.required]
    if named or len(unreadable) == len(table.fields):
        name = named[0] if named else next(iter(unreadable))
        raise SourceError(f"{table.source.name}: field {name!r} {unreadable[name]}")


def _provenance(table: Table, start: int, stop: int, unreadable: Mapping[str, str]) -> Source:
    s = table.source
    skipped = (*table.skipped, *unreadable.items())
    return Source(s.path, table.tree, start, stop, s.size, s.mtime_ns, table.fingerprint, skipped)


def _make_labels(found: _Found, layers: Mapping[str, Sequence[Layer]]) -> dict[str, list[tuple[str, str | None]]]:
    """Per group its data layers with their label layers, which are written where they are not there yet."""
    fields = {f.name: f for f in label_fields(found.sources.values())}
    rows = {data: part.rows for data, part in _converted(found.target.manifest).items()}
    wanted: dict[str, list[tuple[str, str | None]]] = {}
    for group, source in found.sources.items():
        if group in found.kept:
            of_group = [(i, rows[i]) for i in layer_ids(group, found.kept[group])]
        else:
            of_group = [(layer.id, layer.rows) for layer in layers[group]]
        wanted[group] = []
        for data, n in of_group:
            label_id = labels_id(source.labels, data)
            if label_id is not None and not layer_exists(found.target.root, label_id):
                with LayerWriter(found.target.root, label_id) as w:
                    for name, value in source.labels:
                        w.constant(fields[name], value)
                    w.finish(n)
            wanted[group].append((data, label_id))
    return wanted


def _warn(root: str, layers: Sequence[Layer]) -> None:
    """One warning for all fields that were left out; those that cannot be read come first, with their file."""
    unread: dict[str, str] = {}
    others: dict[str, dict[str, str]] = {}  # by the file where they were seen first
    seen: set[str] = set()
    for layer in layers:
        for name, why in layer.source.skipped if layer.source else ():
            uri = layer.source.uri if layer.source else ""
            if why.startswith(UNREADABLE):
                unread.setdefault(name, f"{name!r} in {uri}: {why.removeprefix(UNREADABLE)}")
            elif name not in seen:
                seen.add(name)
                others.setdefault(uri, {})[name] = f"{name!r}: {why}"
    texts = []
    if unread:
        texts.append(
            f"the data of {_count(unread)} cannot be read, left out for all rows: {_some(unread)}. "
            "When a file is repaired, the same call reads it again"
        )
    texts += [f"{_count(reasons)} left out, seen in {uri}: {_some(reasons)}" for uri, reasons in others.items()]
    if texts:
        # convert, convert_root, mm.from_root, the caller
        warnings.warn(f"{root}: {'. '.join(texts)}", SkippedFieldsWarning, stacklevel=5)


def _count(reasons: Mapping[str, str]) -> str:
    return f"{len(reasons)} field{'s' * (len(reasons) > 1)}"


def _some(reasons: Mapping[str, str]) -> str:
    some = "; ".join(list(reasons.values())[:10])
    return some + (f"; and {len(reasons) - 10} more, listed in the store's sources" if len(reasons) > 10 else "")


class _Progress:
    """A bar in decoded bytes, which are known about; every field of every part moves it by its share."""

    def __init__(self, total: int, *, show: bool) -> None:
        self._bar = display.progress(total, "convert", "B", disable=not show)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def describe(self, table: Table, field: Field) -> None:
        self._bar.set_description(
            display.terminal_safe(f"{os.path.basename(table.source.path)} {field.name}"), refresh=False
        )

    def forward(self, table: Table, field: Field | None, start: int, stop: int) -> None:
        """Count the bytes of one field, or of all, for a range of rows."""
        nbytes = sum(table.nbytes.values()) if field is None else table.nbytes[field.name]
        self._bar.update(nbytes * stop // max(1, table.rows) - nbytes * start // max(1, table.rows))
