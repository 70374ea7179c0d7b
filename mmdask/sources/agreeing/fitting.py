"""Make the inputs of a conversion fit each other: what they agree on, and what each changes for it. Reads nothing."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from mmdask.errors import FieldNotFoundError, SchemaError, did_you_mean
from mmdask.rows.views.derived import reads
from mmdask.schema import Field
from mmdask.sources.agreeing.agree import Known, agreed_fields
from mmdask.sources.agreeing.mismatch import Modes
from mmdask.sources.agreeing.padding import Pad
from mmdask.sources.agreeing.settled import Settled, nothing_common, settle_fields
from mmdask.sources.agreeing.shaping import Change, Shaping
from mmdask.sources.converting.recipe import Bound, Recipe
from mmdask.sources.converting.table import Table

__all__ = ["fit_tables"]


def fit_tables(
    tables: Mapping[str, Table], stored: Sequence[Known], recipe: Recipe, shaping: Shaping
) -> tuple[dict[str, Table], dict[str, Field]]:
    """Settle the fields of inputs, and say for each how its own become them.

    Parameters
    ----------
    tables : mapping
        Inputs that are to be read, by group.
    stored : sequence of Known
        Those whose rows are there already.
    recipe : Recipe
        What is computed of rows.
    shaping : Shaping
        What the user asked for.

    Returns
    -------
    tables, fields : dict
        The inputs with fields and changes, and the fields that all have. An alias that is not computed from fields of
        the store as they are stored has no expression.

    Raises
    ------
    SchemaError
        When inputs differ in what they may not.
    StoredOtherwiseError
        When rows that are stored would have to be others.
    """
    if not shaping:
        known = [*stored, *(_known(t, t.fields) for t in tables.values())]
        return dict(tables), _without_expressions(agreed_fields(known), recipe, frozenset())
    if not stored:
        _check_used(tables, recipe, shaping)
    pads = _pads(tables, recipe, shaping)
    aliases = {name for name, _ in recipe.aliases}
    settled = _settle(tables, stored, shaping, pads, aliases)
    _check_left(tables, [*stored, *(_known(t, t.fields) for t in tables.values())], settled, recipe)
    renamed = {old: new for t in tables.values() for old, new in t.renamed.items() if old not in settled.reads}
    late = recipe.with_new_names(renamed)
    bound = {group: _bind(table, late, settled, shaping) for group, table in tables.items()}
    computed = _settle_aliases(tables, stored, bound, shaping, pads, aliases)
    fitted = {group: _fit(table, bound[group], settled, pads, computed) for group, table in tables.items()}
    named = {f.name for t in tables.values() for f in t.fields} | {n for k in stored for n in k.fields}
    fields = {name: f for name, f in settled.stored.items() if name in named and name not in aliases}
    fields |= {name: computed.stored[name] for name, _ in recipe.aliases if name in computed.stored}
    other = frozenset(n for n, f in fields.items() if n in pads and n not in aliases)
    return fitted, _without_expressions(fields, recipe, other)


def _known(table: Table, fields: Iterable[Field]) -> Known:
    return Known(table.source.name, {f.name: f for f in fields}, frozenset(), dict(table.skipped))


def _without_expressions(fields: Mapping[str, Field], recipe: Recipe, padded: frozenset[str]) -> dict[str, Field]:
    """Aliases have an expression if the store has what they read, as they read it."""
    there = {*fields, *(f.name for f in recipe.labels)} - padded
    return {n: replace(f, expression="") if f.expression and reads(f) - there else f for n, f in fields.items()}


# What was asked for -------------------------------------------------------------------------------------------------


def _check_used(tables: Mapping[str, Table], recipe: Recipe, shaping: Shaping) -> None:
    """Raise for a name or pattern of an option that fits nothing in any input."""
    used = {entry for t in tables.values() for entry in t.used}
    asked = [("rename", key) for key in shaping.rename] + [("pad", key) for key in shaping.pads]
    aliases = {name: name for name, _ in recipe.aliases}
    used |= {("pad", key) for key in shaping.pads_of(aliases)[1]}
    asked += [("on_mismatch", key) for key, _ in shaping.modes.asked if key != "*"]
    asked += [entry for t in tables.values() for entry in t.asked]
    names = dict.fromkeys(n for t in tables.values() for n in (*t.renamed, *t.names, *aliases))
    used |= {("on_mismatch", key) for key, _ in shaping.modes.asked if key in names or fnmatch.filter(names, key)}
    for word, key in asked:
        if (word, key) not in used:
            where = next(iter(tables.values())).source.name + (", ..." if len(tables) > 1 else "")
            some = ", ".join(list(names)[:20]) + (f", ... ({len(names)} in all)" if len(names) > 20 else "")
            near = did_you_mean(key, names)
            raise FieldNotFoundError(f"{where}: {word}: no field {key!r}{near or f'; the fields are: {some}'}")


def _pads(tables: Mapping[str, Table], recipe: Recipe, shaping: Shaping) -> dict[str, tuple[Pad, bool]]:
    """How fields are padded, and whether they were named, not only matched."""
    found: dict[str, tuple[Pad, bool]] = {}
    for table in tables.values():
        for name, pad in table.pads.items():
            found.setdefault(name, (pad, shaping.is_exact(name, table.origins.get(name, name))))
    for name, pad in shaping.pads_of({name: name for name, _ in recipe.aliases})[0].items():
        found.setdefault(name, (pad, shaping.is_exact(name, name)))
    return found


def _padded(field: Field, pads: Mapping[str, tuple[Pad, bool]]) -> Field:
    """A field as it is stored; a pattern pads only what can be."""
    pad, named = pads.get(field.name, (None, False))
    if pad is None:
        return field
    try:
        return pad.field(field)
    except SchemaError:
        if named or _is_list(field):
            raise
        return field


def _is_list(field: Field) -> bool:
    return field.kind == "ragged" and field.levels == 1


# Agreeing -----------------------------------------------------------------------------------------------------------


def _settle(
    tables: Mapping[str, Table],
    stored: Sequence[Known],
    shaping: Shaping,
    pads: Mapping[str, tuple[Pad, bool]],
    aliases: set[str],
) -> Settled:
    known = [replace(k, fields={n: f for n, f in k.fields.items() if n not in aliases}) for k in stored]
    kept = {n for k in known for n in k.fields}
    for t in tables.values():
        own = [f for f in t.fields if f.name not in aliases]
        kept |= {f.name for f in own}
        known.append(_known(t, (*own, *t.reads)))
    return settle_fields(known, shaping.modes, lambda field: _padded(field, pads), frozenset(kept))


def _check_left(tables: Mapping[str, Table], known: Sequence[Known], settled: Settled, recipe: Recipe) -> None:
    """Raise when a field that was named is left out, or all are."""
    for table in tables.values():
        if lost := [n for n in table.required if n in settled.dropped]:
            raise SchemaError(f"{settled.dropped[lost[0]]}; {lost[0]!r} was asked for by name, so it is not left out")
    if not settled.stored and not recipe.aliases:
        raise SchemaError(f"no field is left: {nothing_common(known)}")


def _bind(table: Table, recipe: Recipe, settled: Settled, shaping: Shaping) -> Bound | None:
    """What is computed of the rows of an input, checked against its fields as all agreed on them."""
    if not recipe or table.bound is not None or not shaping.modes.fills:
        return table.bound
    natives = {f.name: f for f in (*table.fields, *table.reads)}
    found = {**natives, **{name: f for name, f in settled.reads.items() if name not in settled.dropped}}
    reasons = dict(table.skipped)
    names = dict.fromkeys((*table.names, *settled.reads))

    def layout(name: str) -> Field | str:
        return found.get(name) or reasons.get(name, "")

    return recipe.bind(table.source, names, layout)


def _settle_aliases(
    tables: Mapping[str, Table],
    stored: Sequence[Known],
    bound: Mapping[str, Bound | None],
    shaping: Shaping,
    pads: Mapping[str, tuple[Pad, bool]],
    aliases: set[str],
) -> Settled:
    """What aliases become; they read what inputs agreed on, so that they differ where labels alone do."""
    known = [Known(k.where, {n: f for n, f in k.fields.items() if n in aliases}, frozenset(), {}, True) for k in stored]
    for group, table in tables.items():
        b = bound[group]
        known.append(Known(table.source.name, {f.name: f for f in (b.fields if b else ())}, frozenset(), {}))
    modes = shaping.modes if not shaping.modes.fills else Modes()
    return settle_fields(known, modes, lambda field: _padded(field, pads))


# Changes ------------------------------------------------------------------------------------------------------------


def _fit(
    table: Table,
    bound: Bound | None,
    settled: Settled,
    pads: Mapping[str, tuple[Pad, bool]],
    computed: Settled,
) -> Table:
    """An input with fields as all agreed on them."""
    of_alias = {f.name: f for f in (bound.fields if bound else ())}
    natives = {f.name: f for f in (*table.fields, *table.reads) if f.name not in of_alias}
    only_read = {f.name for f in table.reads}
    for f in table.bound.reads if table.bound else ():
        # what was checked before inputs agreed is read as it is
        if f.name not in natives:
            natives[f.name] = f
            only_read.add(f.name)
    changes: dict[str, Change] = {}

    def add(native: Field | None, read: Field, stored: Field) -> None:
        pad = None if read.name not in pads or stored.same_layout(read) else pads[read.name][0]
        origin = None if native is None else replace(native, name=table.origins.get(native.name, native.name))
        if native is None or origin is None or origin.name != read.name or pad or not native.same_layout(read):
            changes[read.name] = Change(origin, read, stored if pad else read, pad)

    fields = [settled.stored[f.name] for f in table.fields if f.name in natives and f.name in settled.stored]
    fields += [f for n, f in settled.stored.items() if n not in natives and n not in only_read]
    for f in fields:
        add(natives.get(f.name), settled.reads[f.name], f)
    for f in bound.reads if bound else ():
        if f.name not in changes and f.name not in {g.name for g in fields}:
            add(natives.get(f.name), settled.reads.get(f.name, f), settled.reads.get(f.name, f))
    if bound is not None:
        # what is read is as all agreed on it, also where nothing is computed from what is missing here
        bound = replace(bound, reads=tuple(settled.reads.get(f.name, f) for f in bound.reads))
    for name, stored in computed.stored.items():
        read = of_alias.get(name)
        if read is None:
            continue
        pad = pads[name][0] if name in pads and not stored.same_layout(read) else None
        if pad:
            changes[name] = Change(None, read, stored, pad, computed=True)
        fields.append(replace(stored, expression=read.expression))
    skipped = [*table.skipped]
    # also of an input that has none: what it did not have comes back when it goes
    skipped += [*settled.dropped.items(), *computed.dropped.items()]
    return replace(table, fields=tuple(fields), skipped=tuple(skipped), bound=bound, changes=changes)
