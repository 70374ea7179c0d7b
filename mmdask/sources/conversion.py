"""Converting inputs to a store: what is missing is made, what is there is kept, one commit shows it.

`convert` knows nothing of file formats: a `Reader` inspects inputs and reads their rows. Nothing is written before
every input that must be read was opened and checked.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from mmdask import display
from mmdask.errors import MmdaskError, OptionError, SkippedFieldsWarning, SourceError
from mmdask.rows.derived import with_derived
from mmdask.schema import Field, FieldData, Schema
from mmdask.sources.inputs import Absent, Input, label_fields
from mmdask.sources.plan import arrange, data_layer, group_id, label_id, labels_id, layer_ids
from mmdask.sources.recipe import Recipe
from mmdask.sources.streaming import Streamed, stream
from mmdask.sources.survey import Found, agree, expressions, find, is_done, match_stale, schema_of, without_aliases
from mmdask.sources.table import UNREADABLE, Reader, Rows, Table, UnreadableError
from mmdask.sources.target import begin, check_options, look
from mmdask.store.commit import amount, block_rows_for, commit, discard_layers
from mmdask.store.layer import Layer, Source, layer_exists, read_layer
from mmdask.store.layer_writer import FieldWriter, LayerWriter
from mmdask.store.manifest import Manifest, Part, read_manifest
from mmdask.store.origin import Alias

__all__ = ["convert"]


class _BehindError(Exception):
    """Another process changed what is computed."""


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
    groups = {group_id(s, reader.options, reader.recipe.labels_of(s)): s for s in sources}
    if target.options == reader.options and not absent and is_done(target, groups):
        return
    found = find(target, groups, reader)
    replaced, dropped = match_stale(found, absent, missing)
    agreed = agree(found)
    schema_of(found, agreed, target.manifest, [])

    with _writing(target.root):
        new = _write(found, agreed, reader, replaced, dropped, progress)
    _warn(target.root, new)


def _write(
    found: Found,
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

    def planned(newest: Manifest | None) -> tuple[Schema, tuple[Part, ...]]:
        parts = arrange(newest.parts if newest else (), wanted, made, replaced, dropped, found.merged)
        return schema_of(found, agreed, newest, new), parts

    action = _action(found, new, reader.recipe)
    while True:
        before = read_manifest(target.root) if target.manifest else None
        schema, parts = planned(before)
        computed = _compute(target.root, without_aliases(schema, target.root, before), parts, made, before)

        def change(
            newest: Manifest | None, expected: Schema = schema, computed: Mapping[str, Part] = computed
        ) -> Manifest:
            schema, parts = planned(newest)
            if expressions(schema) != expressions(expected):
                raise _BehindError
            parts = tuple(computed.get(data_layer(p) or "", p) for p in parts)
            if newest is None:
                return Manifest(os.urandom(16).hex(), 0, block_rows_for(new), schema, parts)
            return replace(newest, schema=schema, parts=parts)

        try:
            commit(target.root, change, action=action)
        except BaseException as error:
            discard_layers(target.root, [p.layers[-1] for p in computed.values()])
            if isinstance(error, _BehindError):
                continue
            raise
        return new


def _action(found: Found, new: Sequence[Layer], recipe: Recipe) -> str:
    """What is done, for the history."""
    text = f"convert {amount(len(found.sources), 'input')}, {amount(sum(layer.rows for layer in new), 'new row')}"
    if recipe.cut:
        entries = sum(layer.source.stop - layer.source.start for layer in new if layer.source)
        text += f" of {display.count_text(entries)} that pass {_short(recipe.cut)}"
    aliases = [f"{name} = {_short(expression)}" for name, expression in recipe.aliases]
    return "; ".join([text, *aliases[:5], *([f"{len(aliases) - 5} more aliases"] if len(aliases) > 5 else [])])


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 100 else f"{text[:97]}..."


def _compute(
    root: str, schema: Schema, parts: Sequence[Part], made: Mapping[str, Part], before: Manifest | None
) -> dict[str, Part]:
    """The parts whose rows or labels are new, with what is computed from them, by data layer."""
    if not expressions(schema):
        return {}
    labels = {data_layer(p): label_id(p.layers) for p in (before.parts if before else ())}
    fresh = {
        data: p
        for p in parts
        if (data := data_layer(p)) is not None and (data in made or labels.get(data) != label_id(p.layers))
    }
    return dict(zip(fresh, with_derived(root, schema, fresh.values()), strict=True))


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


def _make_layers(found: Found, reader: Reader, progress: bool) -> dict[str, list[Layer]]:
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
                bar.forward(table, table.nbytes, start, stop)
            else:
                with LayerWriter(root, layer_id) as w:
                    n, source = _fill(w, table, reader.recipe, rows, start, stop, unreadable, bar)
                    table.source.check_unchanged()
                    _check_required(table, unreadable)
                    layer = w.finish(n, replace(source, skipped=(*table.skipped, *unreadable.items())))
            layers.append(layer)
    return layers


def _fill(
    w: LayerWriter,
    table: Table,
    recipe: Recipe,
    rows: Rows,
    start: int,
    stop: int,
    unreadable: dict[str, str],
    bar: _Progress,
) -> tuple[int, Source]:
    """Write the fields of a range of rows, and say how many were kept; what cannot be read is noted."""
    writers = {}
    for field in table.fields:  # in their order, whichever is written first
        if field.name not in unreadable:
            writers[field.name] = w.field(field)
            writers[field.name].close()
    found = Streamed(None, ())
    done: set[str] = set()
    if table.bound is not None:
        bar.describe(table)
        found = stream(table, rows, start, stop, writers)
        done = {f.name for f in (*table.bound.reads, *table.bound.fields)}
        bar.forward(table, done, start, stop)
    n = stop - start if found.picked is None else found.picked.rows
    for field in table.fields:
        if field.name in done:
            continue
        if field.name in writers:
            bar.describe(table)
            try:
                _copy(w, writers[field.name], rows(field, start, stop, picked=found.picked), n)
            except UnreadableError as error:
                unreadable[field.name] = UNREADABLE + str(error)
        bar.forward(table, [field.name], start, stop)
    return n, _provenance(table, recipe, start, stop, found)


def _copy(w: LayerWriter, writer: FieldWriter, rows: Iterator[FieldData], n: int) -> None:
    """Write the rows of one field; nothing of it stays when reading fails."""
    try:
        for data in rows:
            writer.write(data)
        if writer.rows != n:
            raise UnreadableError(f"damaged, it gives {writer.rows} of {n} rows")
        writer.close()
    except UnreadableError:
        w.remove_field(writer.field.name)
        raise


def _check_required(table: Table, unreadable: Mapping[str, str]) -> None:
    """Raise `SourceError` for a field that was asked for by name, or when no field is left."""
    named = [n for n in unreadable if n in table.required]
    if named or len(unreadable) == len(table.fields):
        name = named[0] if named else next(iter(unreadable))
        raise SourceError(f"{table.source.name}: field {name!r} {unreadable[name]}")


def _provenance(table: Table, recipe: Recipe, start: int, stop: int, found: Streamed) -> Source:
    s = table.source
    fields = {f.name: f for f in table.bound.fields} if table.bound else {}
    aliases = tuple(Alias(name, fields[name].expression, fields[name].optional) for name, _ in recipe.aliases)
    about = s.path, table.tree, start, stop, s.size, s.mtime_ns, table.fingerprint
    return Source(*about, cut=recipe.cut, aliases=aliases, weights=found.weights)


def _make_labels(found: Found, layers: Mapping[str, Sequence[Layer]]) -> dict[str, list[tuple[str, str | None]]]:
    """Per group its data layers with their label layers, which are written where they are not there yet."""
    fields = {f.name: f for f in label_fields(found.sources.values())}
    wanted: dict[str, list[tuple[str, str | None]]] = {}
    for group, source in found.sources.items():
        if group in found.kept:
            kept = [found.pieces[i] for i in layer_ids(group, found.kept[group])]
            of_group = [(p.data, p.rows) for p in kept if p.merged is None]
        else:
            of_group = [(layer.id, layer.rows) for layer in layers[group]]
        wanted[group] = []
        for data, n in of_group:
            labels = labels_id(source.labels, data)
            if labels is not None and not layer_exists(found.target.root, labels):
                with LayerWriter(found.target.root, labels) as w:
                    for name, value in source.labels:
                        w.constant(fields[name], value)
                    w.finish(n)
            wanted[group].append((data, labels))
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
    # convert, convert_root, mm.from_root, the caller
    if texts:
        warnings.warn(f"{root}: {'. '.join(texts)}", SkippedFieldsWarning, stacklevel=5)
    sums = [(layer.source.uri, w) for layer in layers if layer.source for w in layer.source.weights]
    if wrong := [(uri, w.weight) for uri, w in sums if not math.isfinite(w.sum + w.sum2)]:
        (uri, weight), more = wrong[0], f", and {len(wrong) - 1} more like it" if len(wrong) > 1 else ""
        warnings.warn(
            f"{root}: the sum of the weight {weight!r} over {uri}{more} is no finite number, so that nothing can be "
            "normalised by it; a row has nan or an infinity: see ds.sources",
            RuntimeWarning,
            stacklevel=5,
        )


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
        self._bar.set_postfix_str("", refresh=False)
        self._bar.close()

    def describe(self, table: Table) -> None:
        file = os.path.basename(table.source.path)
        # Behind the bar, and short, so that there is room for the bar.
        self._bar.set_postfix_str(display.terminal_safe(file if len(file) <= 20 else f"...{file[-17:]}"), refresh=False)

    def forward(self, table: Table, names: Iterable[str], start: int, stop: int) -> None:
        """Count the bytes of some fields for a range of rows."""
        nbytes = sum(table.nbytes.get(name, 0) for name in names)
        self._bar.update(nbytes * stop // max(1, table.rows) - nbytes * start // max(1, table.rows))
