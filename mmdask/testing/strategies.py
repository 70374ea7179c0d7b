"""Hypothesis strategies of fields, rows, tables and selections: every kind, dtype and edge that a store can hold.

They shrink to short rows of few fields with plain names, and never make what a store refuses.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from hypothesis.strategies import DrawFn, SearchStrategy

from mmdask.schema import KINDS, Field, stored_dtype
from mmdask.testing.table import Table

__all__ = ["dtypes", "fields", "names", "pieces", "rows", "selections", "tables"]

_NUMBERS = ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")
_UNITS = ("ns", "s", "D", "Y", "M", "W", "h", "m", "ms", "us", "ps", "fs", "as", "10ms")
#: no surrogates, which utf-8 cannot hold
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


def names() -> SearchStrategy[str]:
    """Names of fields: identifiers mostly, and any other printable text."""
    plain = st.from_regex(r"[a-z][a-z0-9_]{0,5}", fullmatch=True)
    strange = st.text(st.characters(exclude_categories=["Cs"]).filter(str.isprintable), min_size=1, max_size=6)
    return plain | strange


def dtypes() -> SearchStrategy[np.dtype[Any]]:
    """Every dtype of numbers, times and fixed bytes that a store holds."""
    times = st.builds("{}8[{}]".format, st.sampled_from("Mm"), st.sampled_from(_UNITS))
    return (st.sampled_from(_NUMBERS) | times | st.integers(1, 5).map("S{}".format)).map(stored_dtype)


def _shapes(most: int = 2) -> SearchStrategy[tuple[int, ...]]:
    return st.lists(st.integers(0, 3), max_size=most).map(tuple)


@st.composite
def fields(
    draw: DrawFn, *, name: SearchStrategy[str] | None = None, kinds: Sequence[str] = KINDS, optional: bool = True
) -> Field:
    """Fields of every kind, dtype, item shape and number of levels or axes.

    Parameters
    ----------
    name : strategy, optional
        Of its name; `names` by default.
    kinds : sequence of str
        The kinds to choose from.
    optional : bool
        Whether fields may have missing values.

    Examples
    --------
    >>> import mmdask.testing as mt
    >>> mt.fields(kinds=["ragged"])
    fields(kinds=['ragged'])
    """
    label = draw(names() if name is None else name)
    kind = draw(st.sampled_from(list(kinds)))
    if kind == "category":
        field = Field.category(label, draw(st.lists(_TEXT, max_size=3, unique=True)))
    elif kind == "string":
        field = Field.string(label, levels=draw(st.integers(0, 2)))
    elif kind == "shaped":
        field = Field.shaped(label, draw(dtypes()), draw(st.integers(1, 3)), draw(_shapes(1)))
    elif kind == "ragged":
        field = Field.ragged(label, draw(dtypes()), draw(_shapes(1)), levels=draw(st.integers(1, 3)))
    else:
        field = Field.dense(label, draw(dtypes()), draw(_shapes()))
    if not optional:
        return field
    depths = st.lists(st.integers(0, field.levels), unique=True, max_size=field.levels + 1)
    return replace(field, optional=tuple(sorted(draw(depths))))


def rows(field: Field, n: int) -> SearchStrategy[list[Any]]:
    """`n` rows of a field as plain Python values, missing ones and empty ones among them.

    Parameters
    ----------
    field : Field
        What they are rows of. Rows of a category have its labels, or any if it has none.
    n : int
        How many.

    Examples
    --------
    >>> import mmdask as mm
    >>> import mmdask.testing as mt
    >>> from hypothesis import given
    >>> @given(mt.rows(mm.Field.ragged("jet_pt", "f4"), 3))
    ... def test_counts(jets):
    ...     assert len(jets) == 3 and all(isinstance(row, list) for row in jets)
    >>> test_counts()
    """
    row = _element(field)
    for depth in range(field.levels, -1, -1):
        if depth in field.optional:
            row = row | st.none() if depth else st.none() | row
        if depth:
            row = st.lists(row, max_size=3)
    return st.lists(row, min_size=n, max_size=n)


def _element(field: Field) -> SearchStrategy[Any]:
    """What lies below all levels of lists."""
    if field.kind == "string":
        return _TEXT
    if field.kind == "category":
        return st.sampled_from(field.labels) if field.labels else _TEXT
    number = _numbers(field.dtype)
    if field.kind != "shaped":
        return _nested(number, field.shape)
    lengths = st.lists(st.integers(0, 3), min_size=field.axes, max_size=field.axes)

    def arrays(shape: list[int]) -> SearchStrategy[Any]:
        return npst.arrays(field.dtype, (*shape, *field.shape), elements=npst.from_dtype(field.dtype))

    return lengths.flatmap(arrays)


def _numbers(dtype: np.dtype[Any]) -> SearchStrategy[Any]:
    scalars = npst.from_dtype(dtype)
    return scalars if dtype.kind in "mM" else scalars.map(lambda scalar: scalar.item())


def _nested(element: SearchStrategy[Any], shape: tuple[int, ...]) -> SearchStrategy[Any]:
    for length in reversed(shape):
        element = st.lists(element, min_size=length, max_size=length)
    return element


@st.composite
def tables(
    draw: DrawFn,
    *,
    max_fields: int = 4,
    max_rows: int = 6,
    field: Callable[..., SearchStrategy[Field]] = fields,
    records: bool = True,
) -> Table:
    """Schemas with rows: up to `max_fields` fields with as many rows each, from none to `max_rows`.

    Parameters
    ----------
    max_fields, max_rows : int
        The most of each.
    field : callable
        Gives the strategy of one field for ``name=``; `fields` by default, or a `functools.partial` of it.
    records : bool
        Whether some fields may be members of a record, called ``r_...``.

    Examples
    --------
    >>> import mmdask as mm
    >>> import mmdask.testing as mt
    >>> from hypothesis import given
    >>> @given(mt.tables())
    ... def test_lengths(table):
    ...     assert all(len(rows) == len(table) for rows in table.rows.values())
    >>> test_lengths()
    """
    n = draw(st.integers(0, max_rows))
    others = names().filter(lambda name: not f"{name}_".startswith("r_"))
    wanted = draw(st.lists(others, min_size=1, max_size=max_fields, unique=True))
    schema = [draw(field(name=st.just(name))) for name in wanted]
    table = Table.of(*((f, draw(rows(f, n))) for f in schema))
    if records and draw(st.booleans()):
        for member, values in draw(_records(n)):
            table = table.with_field(member, values)
    return table


@st.composite
def _records(draw: DrawFn, n: int) -> list[tuple[Field, list[Any]]]:
    """Members of a record, at least one of which is no list; or of a list of records."""
    if draw(st.booleans()):
        schema = [
            draw(fields(name=st.just("r_x"), kinds=["dense", "shaped", "category"])),
            draw(fields(name=st.just("r_y_z"))),
        ]
        return [(replace(f, record="r"), draw(rows(f, n))) for f in schema]
    # Lists are missing, and as long, in all members alike; records in them are not missing.
    counts = st.integers(0, 3)
    missing = (0,) if draw(st.booleans()) else ()
    lengths = draw(st.lists(st.none() | counts if missing else counts, min_size=n, max_size=n))
    members = []
    for name in ("r_x", "r_y_z"):
        field = draw(fields(name=st.just(name), kinds=["ragged", "string"]))
        inner = tuple(d for d in field.optional if d > 1)
        field = replace(field, levels=max(field.levels, 1), optional=missing + inner, record="r")
        members.append((field, [row if row is None else draw(_items(field, row)) for row in lengths]))
    return members


def _items(field: Field, n: int) -> SearchStrategy[list[Any]]:
    """A row of `n` items: as rows of a field with one level less."""
    inner = tuple(d - 1 for d in field.optional if d)
    if field.kind == "string" or field.levels > 1:
        return rows(replace(field, levels=field.levels - 1, optional=inner, record=""), n)
    return rows(Field.dense(field.name, field.dtype, field.shape, optional=inner), n)


def pieces(n: int, *, most: int = 4) -> SearchStrategy[list[slice]]:
    """Ways to cut `n` rows into up to `most` runs, one after the other, some of them empty.

    Examples
    --------
    >>> import mmdask.testing as mt
    >>> from hypothesis import given
    >>> @given(mt.pieces(10))
    ... def test_all_rows(runs):
    ...     assert [i for run in runs for i in range(10)[run]] == list(range(10))
    >>> test_all_rows()
    """
    cuts = st.lists(st.integers(0, n), max_size=most - 1).map(sorted)
    return cuts.map(lambda inner: [slice(a, b) for a, b in itertools.pairwise([0, *inner, n])])


def selections(n: int) -> SearchStrategy[slice | list[int]]:
    """What picks some of `n` rows: a slice with positive step, or row numbers in any order, with repeats.

    Examples
    --------
    >>> import mmdask.testing as mt
    >>> from hypothesis import given
    >>> @given(mt.selections(5))
    ... def test_within(selection):
    ...     if isinstance(selection, list):
    ...         assert all(0 <= row < 5 for row in selection)
    >>> test_within()
    """
    bound = st.none() | st.integers(-n - 2, n + 2)
    slices = st.builds(slice, bound, bound, st.none() | st.integers(1, n + 2))
    if not n:
        return slices | st.just([])
    return slices | st.lists(st.integers(0, n - 1), max_size=2 * n)
