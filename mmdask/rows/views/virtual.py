"""Fields that are computed from others: what they are, and their values over rows that are read.

Stored ones (`mmdask.rows.views.derived`) are computed once and written; those of a lazy dataset, `ds.assign`, whenever
they are read. Their expressions name fields of the store only, since those of others are put in when they are checked.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.errors import ExpressionError
from mmdask.expr import Expression, Result, check, evaluate, parse
from mmdask.expr.elementwise import OPERATIONS
from mmdask.expr.tree import names_of
from mmdask.expr.typed import Typed
from mmdask.schema import Field, FieldData, Schema, check_name

__all__ = [
    "Derived",
    "about",
    "carrier",
    "data_of",
    "define",
    "field_of",
    "meant_by",
    "names_in",
    "names_in_text",
    "ordered",
    "owned",
    "values_of",
]

Read = Callable[[str], FieldData]


@dataclass(frozen=True)
class Derived:
    """A field with the checked expression that it is computed from."""

    field: Field
    expression: Expression

    @property
    def token(self) -> str:
        """What tells its values from those of another field of the same name."""
        return f"{self.expression.canonical} {self.field.dtype.str}"

    def over(self, schema: Schema) -> Derived:
        """The same field, computed from the fields of another schema."""
        return Derived(self.field, check(self.expression.tree, schema))


def define(wanted: Mapping[str, str | Expression], schema: Schema, known: Mapping[str, Derived]) -> dict[str, Derived]:
    """Check expressions of new fields.

    Parameters
    ----------
    wanted : mapping
        Texts by name, or expressions that are checked already. A text may name the others; its own name means the
        field that it replaces.
    schema : Schema
        The fields of the store.
    known : mapping of Derived
        What was defined before.

    Returns
    -------
    dict of Derived
        Those before and the new ones; expressions of both name fields of the store only.

    Raises
    ------
    ExpressionError
        When one cannot be read or has two readings, or when they need each other.

    Examples
    --------
    >>> found = define({"half": "ht / 2", "ht": "sum(pt)"}, Schema([Field.ragged("pt", "f4")]), {})
    >>> {name: d.expression.canonical for name, d in found.items()}
    {'ht': 'sum(pt)', 'half': '(sum(pt) / 2)'}
    """
    needs = {
        name: names_in(name, x) & set(wanted) - {name} if isinstance(x, str) else set() for name, x in wanted.items()
    }
    found = dict(known)
    for name in ordered(needs):
        check_name(name)
        value = wanted[name]
        if isinstance(value, Expression):
            # Its text may have names of constants, and of fields that were computed otherwise.
            found[name] = Derived(field_of(name, value, value.canonical), value)
            continue
        with about(name):
            expression = check(value, schema, derived=meant_by(value, found, schema))
        found[name] = Derived(field_of(name, expression), expression)
    return found


def meant_by(text: str, known: Mapping[str, Derived], names: Iterable[str]) -> dict[str, Expression]:
    """What the names of computed fields stand for in a text, which may also have other names.

    Those that it does not have are left out, unless there are unknown names: messages about these tell of all fields.
    """
    if not known:
        return {}
    all_known = names_in_text(text) <= {*known, *names}
    return {name: d.expression for name, d in known.items() if name in text or not all_known}


def names_in(name: str, text: str) -> set[str]:
    """Every name in the expression of a field."""
    with about(name):
        return names_in_text(text)


def names_in_text(text: str) -> set[str]:
    """Every name in an expression; none in an empty text."""
    return {name.name for name in names_of(parse(text))} if text else set()


@contextlib.contextmanager
def about(name: str) -> Iterator[None]:
    """Say of an error of which field it is."""
    try:
        yield
    except ExpressionError as error:
        error.add_note(f"in the expression of the field {name!r}")
        raise


def ordered(needs: Mapping[str, set[str]]) -> list[str]:
    """Names, each behind those that it needs.

    Raises
    ------
    ExpressionError
        When some need each other.
    """
    order: list[str] = []
    left = dict(needs)
    while left:
        ready = [name for name, others in left.items() if not others & set(left)]
        if not ready:
            name = next(iter(left))
            if name in left[name]:
                raise ExpressionError(
                    f"{name!r} would be computed from itself: {name!r} means the new field; give it another name"
                )
            raise ExpressionError(f"the fields {', '.join(map(repr, left))} are computed from each other")
        order += ready
        for name in ready:
            del left[name]
    return order


def field_of(name: str, e: Expression, text: str | None = None) -> Field:
    """The field that holds the values of an expression, of which it keeps the text; by default as it was typed."""
    text = e.text.strip() if text is None else text
    if e.depth:
        return Field.ragged(name, e.dtype, levels=e.depth, optional=e.optional, expression=text)
    return Field.dense(name, e.dtype, optional=e.optional, expression=text)


def data_of(field: Field, result: Result) -> FieldData:
    """The values of an expression as those of a field: nan or 0 where they are missing."""
    values, known = result.values, result.known
    if values.dtype != field.dtype:
        with np.errstate(over="ignore"):
            values = values.astype(field.dtype)
    if known is not None and field.dtype.kind == "f":
        values = np.where(known, values, field.dtype.type(np.nan))
    return FieldData(values, result.offsets, valid=result.valid)


def values_of(derived: Derived, read: Read, rows: int, *, first_row: int = 0) -> FieldData:
    """The values of a field over a block of rows; `read` and the others as those of `mmdask.expr.evaluate`."""
    return data_of(derived.field, evaluate(derived.expression, read, rows, first_row=first_row))


def owned(data: FieldData, others: Iterable[FieldData] = ()) -> FieldData:
    """The same, in arrays of its own that can be written: a constant is one number, however many rows have it.

    Arrays that share memory with one of `others`, as those of ``"x"`` computed from ``x`` do, are copied.
    """
    theirs = [a for other in others for a in (other.values, *other.offsets, *other.valid) if a is not None]

    def own(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if not array.flags.writeable or any(np.may_share_memory(array, a) for a in theirs):
            return array.copy()
        return array

    valid = tuple([None if v is None else own(v) for v in data.valid])
    return dataclasses.replace(data, values=own(data.values), offsets=tuple(map(own, data.offsets)), valid=valid)


#: operations that make one item of each item
_ITEM_BY_ITEM = frozenset(OPERATIONS) | {"and", "or", "not", "compare literal"}


def carrier(x: Typed) -> str | None:
    """A stored field whose rows have as many items as an expression of items has, if there is one to be seen."""
    if x.op == "field":
        return str(x.value) if x.depth == 1 and not x.lost else None
    if x.op not in _ITEM_BY_ITEM:
        return None
    found = [carrier(a) for a in x.args if a.depth]
    return found[0] if found and all(name is not None for name in found) else None
