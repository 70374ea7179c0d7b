"""One row for each item: `Dataset.explode`."""

from __future__ import annotations

from typing import TypeVar

from mmdask.dataset.view import View
from mmdask.errors import FieldNotFoundError, OptionError, did_you_mean
from mmdask.rows.rows import Rows
from mmdask.rows.selecting import Below
from mmdask.rows.views.exploded import Exploded
from mmdask.rows.views.views import view_of
from mmdask.rows.views.virtual import carrier
from mmdask.schema import check_name
from mmdask.short import first_words, members_of

__all__ = ["exploded"]

D = TypeVar("D", bound=View)


def exploded(dataset: D, what: str, number: str | None) -> D:
    """A row for each item of a field, or of the fields of a record; see `mmdask.Dataset.explode`."""
    names, rows = dataset._names, dataset._rows
    items = _items(dataset, what)
    dataset._readable("one row per item is made of", names)
    if number is not None:
        check_name(number)
        if number in names:
            raise OptionError(f"there is a field {number!r} already; choose another name for number=")
    lists = next((name for name in items if name not in rows.derived), None)
    if lists is None:
        found = [carrier(rows.derived[name].expression.typed) for name in items]
        lists = next((name for name in found if name is not None), None)
    if lists is None:
        raise OptionError(
            f"how many items {items[0]!r} has in each row is known only when it is computed; store it first, by "
            f"mm.assign(path, {items[0]}=...)"
        )
    derived = tuple([(name, rows.derived[name]) for name in names if name in rows.derived])
    view = view_of(Exploded, (rows.snapshot,), names, items, lists, number or "", derived)
    steps = (Below((rows.stored,)),) if rows.steps else ()
    every = (*names, *([number] if number is not None else []))
    return type(dataset)(Rows(view, steps), every, dataset._chunk_rows)


def _items(dataset: View, asked: object) -> tuple[str, ...]:
    """The fields whose items become rows."""
    schema = dataset.schema
    if not isinstance(asked, str):
        raise OptionError(f"explode takes the name of a field or of a record, as in ds.explode('jet'); got {asked!r}")
    what: str = dataset._whole(asked)
    if what in schema:
        field = schema[what]
        if not field.levels:
            raise OptionError(
                f"{what!r} is {field.describe()}, which has no items to make rows of; lists have, and records of lists"
            )
        return (what,)
    begins = list(members_of(what, schema))
    found = [n for n in begins if _record(dataset, n) == what] or begins
    if not found:
        known = first_words(n for n in schema if schema[n].levels) | set(schema)
        why = schema.absent(what) if schema.absent is not None else ""
        more = f": {why}" if why else did_you_mean(what, known)
        raise FieldNotFoundError(f"no field {what!r} and no fields {what}_...{more}")
    lists = tuple([n for n in found if schema[n].levels])
    if not lists:
        raise OptionError(
            f"{found[0]!r} is {schema[found[0]].describe()}: no field {what}_... has items to make rows of"
        )
    return lists


def _record(dataset: View, name: str) -> str:
    """The record of a field; of a computed one, that of a field with as many items."""
    rows = dataset._rows
    if name not in rows.derived:
        return dataset.schema[name].record
    below = carrier(rows.derived[name].expression.typed)
    return rows.snapshot.schema[below].record if below is not None else ""
