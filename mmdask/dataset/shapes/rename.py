"""Fields under other names: `Dataset.rename`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from mmdask.dataset.view import View
from mmdask.errors import FieldNotFoundError, OptionError
from mmdask.expr import check
from mmdask.rows.cuts.naming import renamed_tree
from mmdask.rows.rows import Rows
from mmdask.rows.selecting import Below
from mmdask.rows.views.renamed import Renamed, renamed_field
from mmdask.rows.views.views import view_of
from mmdask.rows.views.virtual import Derived
from mmdask.schema import Schema, check_name
from mmdask.short import members_of, whole_object

__all__ = ["renamed"]

D = TypeVar("D", bound=View)


def renamed(dataset: D, wanted: Mapping[str, str]) -> D:
    """The same rows with other names of fields; see `mmdask.Dataset.rename`."""
    names = _names(dataset, wanted)
    if not names:
        return dataset
    rows = dataset._rows
    stored = {old: new for old, new in names.items() if old in rows.snapshot.schema}
    for new in sorted(set(names.values()) & (set(rows.schema) - set(dataset._names))):
        aside = f"{new}~"  # left out of this dataset: in nobody's way
        while aside in rows.schema or aside in names.values():
            aside += "~"
        names[new] = aside
        if new in rows.snapshot.schema:
            stored[new] = aside
    snapshot = view_of(Renamed, (rows.snapshot,), tuple(sorted(stored.items()))) if stored else rows.snapshot
    derived = {names.get(n, n): _derived(d, names, stored, snapshot.schema) for n, d in rows.derived.items()}
    steps = rows.steps if not stored else (Below((rows.stored,)),) if rows.steps else ()
    given = {names.get(n, n): replace(g, field=renamed_field(g.field, names)) for n, g in dataset._given.items()}
    every = [names.get(name, name) for name in dataset._names]
    return type(dataset)(Rows(snapshot, steps, derived), every, dataset._chunk_rows, given)


def _names(dataset: View, wanted: Mapping[str, str]) -> dict[str, str]:
    """New names of the fields that get one."""
    schema = dataset.schema
    found: dict[str, str] = {}
    wanted = dataset._whole(dict(wanted))
    for old, new in wanted.items():
        check_name(new)
        if old in schema:
            continue
        members = [n for n in schema if schema[n].record and schema[n].record == old]
        members = members or (list(members_of(old, schema)) if isinstance(old, str) else [])
        if not members:
            raise FieldNotFoundError(schema.unknown(old))
        begins = max(len(old), len(whole_object(old, members)))  # one that is short for an object is shorter
        found |= {n: f"{new}{n[begins:]}" for n in members}
    found |= {old: new for old, new in wanted.items() if old in schema}
    found = {old: new for old, new in found.items() if old != new}
    origin: dict[str, str] = {}
    for old, new in found.items():
        if new in origin:
            raise OptionError(f"the fields {origin[new]!r} and {old!r} would both be called {new!r}")
        if new in schema and new not in found:
            raise OptionError(
                f"the name {new!r} is taken by another field; rename that, too, as in rename({{{old!r}: {new!r}, "
                f"{new!r}: {old!r}}}), or leave it out before: ds[[...]] takes the fields that you want"
            )
        origin[new] = old
    return found


def _derived(d: Derived, names: Mapping[str, str], stored: Mapping[str, str], schema: Schema) -> Derived:
    """A computed field under its new name, computed from fields under their new names."""
    return Derived(renamed_field(d.field, names), check(renamed_tree(d.expression.tree, stored), schema))
