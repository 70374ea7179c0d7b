"""Converting inputs to a store: what is missing is made, what is there is kept, one commit shows it.

`convert` knows nothing of file formats: a `Reader` inspects inputs and reads their rows. Nothing is written before
every input that must be read was opened and checked.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from typing import Any

from mmdask import display
from mmdask.errors import MmdaskError, OptionError, SchemaError, SourceError
from mmdask.rows.views.derived import with_derived
from mmdask.schema import Field, Schema
from mmdask.sources.agreeing.settled import StoredOtherwiseError
from mmdask.sources.converting.conversion_plan import ConversionPlan, make_plan
from mmdask.sources.converting.identify import identify
from mmdask.sources.converting.inputs import Absent, Input, Label, label_fields
from mmdask.sources.converting.jobs import Copied, Job, Stretch, make_jobs, n_ranges, split_rows, stretches_of
from mmdask.sources.converting.pieces import pieces_within
from mmdask.sources.converting.plan import arrange, group_of, label_id, labels_id, layer_ids, order_of, rows_layer
from mmdask.sources.converting.progress import Progress
from mmdask.sources.converting.recipe import Recipe
from mmdask.sources.converting.survey import (
    Found,
    agree,
    expressions,
    find,
    is_done,
    match_stale,
    schema_of,
    settle,
    with_trees,
    without_aliases,
)
from mmdask.sources.converting.table import Reader, Table
from mmdask.sources.converting.target import (
    Target,
    begin,
    changed_options,
    check_form,
    check_options,
    look,
    with_backend,
)
from mmdask.sources.converting.warn import warn_of
from mmdask.sources.converting.work import Check, any_form, make, make_in_turn
from mmdask.sources.converting.workers import Here, Tell, Workers, make_workers
from mmdask.store.commit import amount, block_rows_for, commit, discard_layers
from mmdask.store.layer import Layer, Source, layer_exists, read_layer
from mmdask.store.layer_writer import LayerWriter
from mmdask.store.manifest import Manifest, Part, read_manifest
from mmdask.store.storage import storage_of
from mmdask.store.zarr.form import Backend, about_nbytes, form_of

__all__ = ["convert"]

#: inputs of which the metadata are read by workers, too
_MANY_INPUTS = 32


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
    workers: object = None,
    check: str = "stat",
    part_nbytes: int = 1 << 30,
    plan: bool = False,
    backend: Backend | None = None,
) -> ConversionPlan | None:
    """Make the store at `path` hold the rows of these inputs; see `mmdask.sources.root.convert.convert_root`."""
    if missing not in ("error", "drop"):
        raise OptionError(f"missing is 'error' or 'drop', got {missing!r}")
    who = make_workers(workers)
    target = look(path, reader.kind)
    if not isinstance(who, Here) and not storage_of(target.root).is_shared:
        raise OptionError(f"{target.root} is in the memory of this process, which workers do not see; pass workers=1")
    target = with_backend(target, backend, update)
    try:
        check_options(target, reader.options, update)
    except OptionError:
        # options that no input can be read with are not to be tried with update=True
        with suppress(SourceError, OptionError):
            for source in sources[:1]:
                reader.inspect(source)
        raise
    if absent and (missing == "error" or target.manifest is None):
        raise absent[0].error
    how: Any = {"missing": missing, "progress": progress, "check": check, "part_nbytes": part_nbytes, "plan": plan}
    while True:
        try:
            # of other processes each opens what it reads
            with reader.keeping() if isinstance(who, Here) else nullcontext():
                return _convert(target, sources, absent, reader, who, **how)
        except StoredOtherwiseError as error:
            # what a call that died left may be made again, what was committed only if that is asked for
            if target.manifest is not None and not update:
                raise SchemaError(f"{target.root}: {error}") from None
            target = target.again()


def _convert(
    target: Target,
    sources: Sequence[Input],
    absent: Sequence[Absent],
    reader: Reader,
    who: Workers,
    *,
    missing: str,
    progress: bool,
    check: str,
    part_nbytes: int,
    plan: bool,
) -> ConversionPlan | None:
    """Convert what is missing.

    Raises
    ------
    StoredOtherwiseError
        Before anything is written, when rows that are there would have to be others.
    """
    groups = identify(target, sources, reader, check)
    if target.options == reader.options and target.is_fit and not absent and is_done(target, groups):
        return ConversionPlan.of_nothing(target.root, with_trees(target, groups)) if plan else None
    inspect = partial(_inspect, reader, who)
    found = find(target, groups, inspect)
    replaced, dropped = match_stale(found, absent, missing)
    parts = target.manifest.parts if target.manifest else ()
    order = order_of(parts, groups, found.kept, replaced, dropped, found.merged)
    found = settle(found, order, inspect)
    found, agreed = agree(found, reader)
    schema_of(found, agreed, target.manifest, [])
    labels = {group: s.labels for group, s in groups.items()}
    origin = {group_of(p): whole for whole, inside in found.merged.items() for p in inside or ()}
    origin |= {replaced[data]: origin[group_of(data)] for data in replaced if group_of(data) in origin}
    jobs = make_jobs(order, _stretches(found, who), labels, origin, part_nbytes, who.count)
    if plan:
        return make_plan(found, jobs, order, replaced, dropped, changed_options(target, reader.options))

    jobs = [_with_fields(found, agreed, job) for job in jobs]
    with _writing(target.root):
        new = _write(found, agreed, reader, jobs, replaced, dropped, who, progress)
    warn_of(target.root, new)
    return None


def _inspect(reader: Reader, workers: Workers, sources: Sequence[Input]) -> list[Table]:
    """What the metadata of inputs say; those of many are read by all workers."""
    who = workers if len(sources) > _MANY_INPUTS else Here()
    tables: dict[int, Table] = dict(who.run(partial(_inspect_one, reader), sources, lambda nbytes, name: None))
    return [tables[i] for i in range(len(sources))]


def _inspect_one(reader: Reader, source: Input, tell: Tell) -> Table:
    return reader.inspect(source)


def _write(
    found: Found,
    agreed: Mapping[str, Field],
    reader: Reader,
    jobs: Sequence[Job],
    replaced: Mapping[str, str],
    dropped: frozenset[str],
    workers: Workers,
    progress: bool,
) -> list[Layer]:
    """Make what is missing and commit it; returns the data layers that were not in the store before."""
    target = found.target
    begin(target, reader.kind, reader.options, _row_nbytes(found, agreed))
    layers = _make_layers(found, jobs, reader, workers, progress)
    wanted, beside = _make_labels(found, layers)
    new = list({layer.id: layer for of_group in layers.values() for layer in of_group}.values())
    made = {layer.id: Part(layer.rows, (layer.id,), layer.nbytes) for layer in new}
    within = {p.data for layer in new for p in pieces_within(layer)}

    def planned(newest: Manifest | None) -> tuple[Schema, tuple[Part, ...]]:
        before = newest.parts if newest else ()
        parts = arrange(before, wanted, made, replaced, dropped, found.merged, within=within, relabelled=beside)
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
            parts = tuple(computed.get(rows_layer(p) or "", p) for p in parts)
            if newest is None:
                check_form(target.root, target.zarr, form_of(target.root))
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


def _row_nbytes(found: Found, agreed: Mapping[str, Field]) -> float:
    """Bytes of a row of what must be read, about."""
    rows = sum(t.rows for t in found.tables.values())
    if not rows:
        return about_nbytes(agreed.values())
    return sum(t.nbytes.get(f.name, f.item_nbytes) for t in found.tables.values() for f in t.fields) / rows


def _action(found: Found, new: Sequence[Layer], recipe: Recipe) -> str:
    """What is done, for the history."""
    text = f"convert {amount(len(found.sources), 'input')}, {amount(sum(layer.rows for layer in new), 'new row')}"
    if recipe.cut:
        entries = sum(s.stop - s.start for layer in new for s in layer.sources)
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
    labels = {rows_layer(p): label_id(p.layers) for p in (before.parts if before else ())}
    fresh = {
        data: p
        for p in parts
        if (data := rows_layer(p)) is not None and (data in made or labels.get(data) != label_id(p.layers))
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


def _stretches(found: Found, workers: Workers) -> dict[str, list[Stretch]]:
    """What each group that must be made consists of."""
    stretches: dict[str, list[Stretch]] = {}
    total = sum(sum(t.nbytes.values()) for t in found.tables.values())
    for group, table in found.tables.items():
        n = n_ranges(len(table.ranges), sum(table.nbytes.values()), total, workers.count)
        # A call that did not end may have cut it into others, of which some are there.
        n = found.left.get(group, n)
        ranges = table.ranges if n == len(table.ranges) else split_rows(table.rows, n, table.cuts)
        stretches[group] = stretches_of(group, table, ranges)
    for group, pieces in found.copies.items():
        stretches[group] = []
        for p in pieces:
            layer = read_layer(found.target.root, p.layer)
            nbytes = layer.rows_nbytes * p.rows // max(1, layer.rows)
            copied = Copied(p.layer, p.first, p.rows, p.source or Source(""))
            stretches[group].append(Stretch(group, p.data, nbytes, None, copied=copied))
    return stretches


def _with_fields(found: Found, agreed: Mapping[str, Field], job: Job) -> Job:
    """The job, with the fields that all its rows have."""
    tables = [s.table for s in job.stretches if s.table is not None]
    fields = {f.name: f for f in tables[0].fields} if tables else dict(agreed)
    for s in job.stretches:
        if s.table is not None:
            names = {f.name for f in s.table.fields}
        else:
            names = {n for p in found.copies[s.group] if p.data == s.data for n in (p.fields or {}).get(p.data, ())}
        fields = {n: f for n, f in fields.items() if n in names}
    optional = {n: {d for t in tables for f in t.fields if f.name == n for d in f.optional} for n in fields}
    for s in job.stretches:
        if s.copied is not None:
            stored = read_layer(found.target.root, s.copied.layer).fields
            for n in fields:
                optional[n] |= {d for d, number in enumerate(stored[n].valid) if number is not None}
    return replace(
        job, fields=tuple(replace(f, optional=tuple(sorted(optional[n] | {*f.optional}))) for n, f in fields.items())
    )


def _make_layers(
    found: Found, jobs: Sequence[Job], reader: Reader, workers: Workers, progress: bool
) -> dict[str, list[Layer]]:
    """Do the jobs; per group its layers in the order of its rows, of which some may be those of others, too."""
    layers = {group: list(of_group) for group, of_group in found.finished.items()}
    root, target = found.target.root, found.target
    check = any_form if target.manifest else partial(check_form, root, target.zarr)
    queue = list(jobs) if isinstance(workers, Here) else sorted(jobs, key=lambda job: -job.nbytes)
    with Progress(sum(job.nbytes for job in jobs), show=progress) as bar:
        if isinstance(workers, Here):
            made = dict(enumerate(make_in_turn(root, queue, reader, bar.tell, check)))
        else:
            made = dict(workers.run(partial(_make, root, reader, check), queue, bar.tell))
    by_id = {job.id: made[i] for i, job in enumerate(queue)}
    for job in jobs:
        for s in job.stretches:
            layers.setdefault(s.group, []).append(by_id[job.id])
    return layers


def _make(root: str, reader: Reader, check: Check, job: Job, tell: Tell) -> Layer:
    return make(root, job, reader, tell, check)


def _make_labels(
    found: Found, layers: Mapping[str, Sequence[Layer]]
) -> tuple[dict[str, list[tuple[str, str | None]]], dict[str, str | None]]:
    """The label layers, which are written where they are not there yet.

    Per group the layers of its rows with those of its labels, but for those within merged parts that stay; and the
    label layers of these.
    """
    root = found.target.root
    fields = {f.name: f for f in label_fields(found.sources.values())}

    def of(labels: Sequence[tuple[str, Label]], data: str, rows: int) -> str | None:
        made = labels_id(labels, data)
        if made is not None and not layer_exists(root, made):
            with LayerWriter(root, made) as w:
                for name, value in labels:
                    w.constant(fields[name], value)
                w.finish(rows)
        return made

    wanted: dict[str, list[tuple[str, str | None]]] = {}
    beside: dict[str, str | None] = {}
    for group, source in found.sources.items():
        if group in found.kept:
            pieces = [found.pieces[i] for i in layer_ids(group, found.kept[group])]
            of_group = [(p.data, p.rows) for p in pieces if p.merged is None]
            for p in pieces:
                if p.merged is not None and p.apart and p.merged not in beside:
                    beside[p.merged] = of(source.labels, p.merged, read_layer(root, p.merged).rows)
        else:
            of_group = [(layer.id, layer.rows) for layer in layers[group]]
        wanted[group] = [(data, of(source.labels, data, n)) for data, n in of_group]
    return wanted, beside
