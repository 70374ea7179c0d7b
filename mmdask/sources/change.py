"""Changes of a store that rewrite none of its rows: fields dropped, and what people note about it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from mmdask.errors import FieldNotFoundError, OptionError, SchemaError, did_you_mean
from mmdask.rows.views.derived import dependants, derive
from mmdask.schema import Field, Schema
from mmdask.sources.given.coerce import aux_data
from mmdask.store.attrs import check_attrs
from mmdask.store.commit import commit, discard_layers, same_store
from mmdask.store.folder import restore_form
from mmdask.store.layer import Layer, new_id, read_layer
from mmdask.store.layer_writer import LayerWriter
from mmdask.store.manifest import Manifest, read_manifest, store_root
from mmdask.store.outcome import writing

__all__ = ["annotate", "drop"]

PathLike = str | os.PathLike[str]
_NOTES = ("unit", "doc", "attrs", "optional")


def drop(path: PathLike, names: str | Iterable[str]) -> None:
    """Take fields out of a store. Eager; one commit, which rewrites no row.

    Their data stay on disk for older generations, until `mmdask.compact` and `mmdask.vacuum` remove them.

    Parameters
    ----------
    path : path
        The store.
    names : str or iterable of str
        Names or patterns (``"jet_*"``) of fields; the name of a record means all its members.

    Raises
    ------
    FieldNotFoundError
        When a name or pattern matches no field.
    SchemaError
        When no field would be left, or when another field is computed from one of them.

    Examples
    --------
    >>> import mmdask as mm
    >>> ds = mm.from_arrays({"x": [1, 2], "y": [3, 4]}, "dropped.mm")
    >>> mm.drop("dropped.mm", "y")
    >>> mm.open("dropped.mm").fields
    ('x',)
    """
    root = store_root(path)
    wanted = [names] if isinstance(names, str) or not isinstance(names, Iterable) else list(names)

    def change(newest: Manifest | None) -> Manifest:
        newest = same_store(root, newest, base)
        return replace(newest, schema=_without(root, newest.schema, wanted))

    base = read_manifest(root)  # before a lock is made where no store is
    with writing(root, "nothing was dropped"):
        commit(root, change, action=f"drop {', '.join(map(str, wanted))}")


def _without(root: str, schema: Schema, wanted: Iterable[str]) -> Schema:
    try:
        gone = set(schema.match(wanted))
    except FieldNotFoundError as error:
        raise FieldNotFoundError(f"{root}: {error}") from None
    if gone == set(schema):
        raise SchemaError(f"{root}: these are all its fields, and a store keeps one or more")
    for name, readers in dependants(schema).items():
        if name in gone and (left := sorted(readers - gone)):
            raise SchemaError(
                f"{root}: {name!r} cannot be dropped: {', '.join(map(repr, left))} "
                f"{'is' if len(left) == 1 else 'are'} computed from it; drop {'it' if len(left) == 1 else 'them'}, too"
            )
    return Schema(f for f in schema.values() if f.name not in gone)


def annotate(
    path: PathLike,
    *,
    attrs: Mapping[str, Any] | None = None,
    fields: Mapping[str, Mapping[str, Any]] | None = None,
    aux: Mapping[str, Any] | None = None,
) -> None:
    """Change what is noted about a store, and its arrays that are not per row. Eager; one commit.

    Parameters
    ----------
    path : path
        The store.
    attrs : mapping, optional
        What ``ds.attrs`` gets in addition: anything that JSON holds. None removes a key.
    fields : mapping, optional
        For fields by name, any of ``unit`` and ``doc`` (text), ``attrs`` (as above), and ``optional``: depths at which
        values may be missing from now on, 0 for rows. A depth once optional stays so.
    aux : mapping, optional
        Arrays, texts, lists or numbers that ``ds.aux`` gives by name. None removes one.

    Raises
    ------
    FieldNotFoundError
        When there is no such field, or no such aux to remove.
    OptionError
        For notes of other names, and values that JSON does not hold.
    SchemaError
        When an aux cannot be stored, or `optional` does not fit the field.

    Examples
    --------
    >>> import mmdask as mm
    >>> ds = mm.from_arrays({"met": [41.5, 7.0]}, "noted.mm")
    >>> mm.annotate("noted.mm", attrs={"lumi": 139.0}, fields={"met": {"unit": "GeV"}}, aux={"edges": [0.0, 50.0]})
    >>> ds = mm.open("noted.mm")
    >>> ds.attrs["lumi"], ds.schema["met"].unit
    (139.0, 'GeV')
    """
    root = store_root(path)
    noted = {str(name): _check_notes(name, notes) for name, notes in _mapping(fields, "fields").items()}
    more = check_attrs(_mapping(attrs, "attrs"))
    given = _mapping(aux, "aux")
    base = read_manifest(root)
    _noted(root, base.schema, noted)  # errors before anything is written
    unchanged = "nothing that is noted about it was changed"
    with writing(root, unchanged):
        if given:
            restore_form(root, base.zarr)
        layer = _write_aux(root, {name: value for name, value in given.items() if value is not None})
    new = dict(layer[1]) if layer else {}
    action = "annotate " + ", ".join([*more, *noted, *map(str, given)])

    def change(newest: Manifest | None) -> Manifest:
        newest = same_store(root, newest, base)
        kept = {name: f for name, f in newest.aux.items() if name not in given}
        if gone := [name for name in given if name not in newest.aux and name not in new]:
            raise FieldNotFoundError(f"{root}: no aux {gone[0]!r} to remove{did_you_mean(str(gone[0]), newest.aux)}")
        layers = (*newest.aux_layers, layer[0].id) if layer else newest.aux_layers
        return replace(
            newest,
            attrs=_merged(newest.attrs, more),
            schema=_noted(root, newest.schema, noted),
            aux=Schema({**kept, **new}.values()),
            aux_layers=_needed(root, {**kept, **new}, layers),
        )

    try:
        with writing(root, unchanged):
            commit(root, change, action=action)
    except BaseException:
        if layer:
            discard_layers(root, [layer[0].id])
        raise


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise OptionError(f"{what} is a mapping by name, got {type(value).__name__}")
    return value


def _merged(old: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes with those of `more`, where None removes one."""
    for name, value in more.items():
        if value is None and name not in old:
            raise OptionError(f"no attr {name!r} to remove{did_you_mean(name, old)}")
    return {name: value for name, value in {**old, **more}.items() if value is not None or name not in more}


def _check_notes(name: str, notes: Any) -> dict[str, Any]:
    for key, value in _mapping(notes, f"fields[{name!r}]").items():
        if key not in _NOTES:
            raise OptionError(f"field {name!r}: no note {key!r}; there are {', '.join(_NOTES)}")
        if key in ("unit", "doc") and not isinstance(value, str):
            raise OptionError(f"field {name!r}: {key} is text, got {type(value).__name__}")
        if key == "optional" and not (isinstance(value, list | tuple) and all(type(d) is int for d in value)):
            raise OptionError(f"field {name!r}: optional are depths, as in (0,) for rows, got {value!r}")
    checked = dict(notes)
    if "attrs" in checked:
        checked["attrs"] = check_attrs(_mapping(checked["attrs"], "attrs"), f"attrs of {name!r}")
    return checked


def _noted(root: str, schema: Schema, noted: Mapping[str, Mapping[str, Any]]) -> Schema:
    """The schema with the notes in it; fields that are computed from optional ones become optional as they do."""
    for name in noted:
        if name not in schema:
            raise FieldNotFoundError(f"{root}: {schema.unknown(name)}")
    found = {name: _with_notes(f, noted.get(name, {})) for name, f in schema.items()}
    if any("optional" in notes for notes in noted.values()):
        computed = {name: f for name, f in found.items() if f.expression}
        found.update({d.field.name: d.field for d in derive(computed, Schema(found.values()))})
    return Schema(found.values())


def _with_notes(field: Field, notes: Mapping[str, Any]) -> Field:
    change = dict(notes)
    if "attrs" in change:
        change["attrs"] = _merged(field.attrs, change["attrs"])
    if "optional" in change:
        depths = tuple(sorted(set(change["optional"])))
        if stays := [d for d in field.optional if d not in depths]:
            raise SchemaError(
                f"field {field.name!r} stays optional at depth {stays[0]}: values may be missing there; give "
                f"optional={tuple(sorted({*field.optional, *depths}))}"
            )
        change["optional"] = depths
    return replace(field, **change) if change else field


def _write_aux(root: str, values: Mapping[str, Any]) -> tuple[Layer, dict[str, Field]] | None:
    """One layer of one row with all of these; None if there are none."""
    if not values:
        return None
    converted = {name: aux_data(name, value) for name, value in values.items()}
    with LayerWriter(root, new_id()) as w:
        for field, data in converted.values():
            w.field(field).write(data)
        return w.finish(1), {name: field for name, (field, _) in converted.items()}


def _needed(root: str, aux: Mapping[str, Field], layers: tuple[str, ...]) -> tuple[str, ...]:
    """Those layers in which one of the fields is found, the last one of a name first."""
    left, kept = set(aux), []
    for layer in reversed(layers):
        if found := left & set(read_layer(root, layer).fields):
            left -= found
            kept.append(layer)
    return tuple(reversed(kept))
