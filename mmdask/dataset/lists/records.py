"""`Records`: fields that belong together as a lazy collection of awkward records; and `Ragged.map`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmdask.dataset.lists.collection import Collection, join_records
from mmdask.dataset.lists.operands import Operand, in_frame, operand_of
from mmdask.dataset.lists.ragged import Ragged
from mmdask.dataset.lists.recipe import Frame, Made, Recipe
from mmdask.dataset.lists.steps import Constant, Map, Single, Zip
from mmdask.display import html_table
from mmdask.errors import FieldNotFoundError, OptionError, SchemaError, did_you_mean
from mmdask.kernels.once import once
from mmdask.schema import Field, Schema
from mmdask.short import first_words, members_of
from mmdask.sources.given.coerce import to_field_data

__all__ = ["Records", "mapped", "zipped"]

#: members of momenta, by the names that vector knows
_MASSES = {"mass", "m", "M", "e", "E", "energy"}
_PLANE = ({"pt", "phi"}, {"px", "py"}, {"x", "y"}, {"rho", "phi"})
_ALONG = {"eta", "theta", "pz", "z"}
_TIMES = {*_MASSES, "t", "tau"}
_CALLED_FIRST = "map calls the function with arrays of no rows first, to find out what it gives"


class Records(Collection):
    """Records of several fields, lazily: a list of them in each row, or one.

    Made by ``ds.zip("jet")``. `compute` gives an awkward array; ``["pt"]`` or ``.pt`` is a member, lazily; ``[10:20]``
    are some rows, ``[mask]``, ``[:, :3]`` some items of all members alike; `map` calls a function with awkward arrays.

    Parameters
    ----------
    frame : Frame
        The rows and where chunks end.
    recipe : Recipe
        How a chunk is made.
    graph : mapping, optional
        Chunks that are already computed.

    Examples
    --------
    >>> import mmdask as mm
    >>> ds = mm.from_arrays({"jet_pt": [[50.0, 30.0], []], "jet_eta": [[0.5, -1.0], []]}, "zipped.mm")
    >>> jets = ds.zip("jet")
    >>> jets[jets.pt > 40].compute().to_list()
    [[{'pt': 50.0, 'eta': 0.5}], []]
    """

    def __init__(self, frame: Frame, recipe: Recipe, graph: Mapping[Any, Any] | None = None) -> None:
        self._setup(frame, recipe, "records", graph)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._frame, self._recipe, self._graph)

    def _like(self, frame: Frame, recipe: Recipe, graph: Mapping[Any, Any] | None = None) -> Records:
        return Records(frame, recipe, graph)

    @property
    def _finish(self) -> Callable[[list[Any]], Any]:
        return join_records

    @property
    def _zip(self) -> Zip | None:
        node = self._recipe.node
        return node.op if isinstance(node, Made) and isinstance(node.op, Zip) else None

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the members."""
        return self._members

    @once
    def _members(self) -> tuple[str, ...]:
        import awkward as ak

        made = self._zip
        return made.members if made is not None else tuple(ak.fields(self._recipe.empty()))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self.fields:
            raise AttributeError(f"no member {name!r}{'' if name.startswith('_') else self._hint(name)}")
        return self[name]

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.fields]

    def _ipython_key_completions_(self) -> list[str]:
        return list(self.fields)

    def _hint(self, name: str) -> str:
        found = did_you_mean(name, self.fields) or f"; the members are: {', '.join(self.fields)}"
        made = self._zip
        if name == "counts" and self._in_lists:
            return f"{found}; .map(ak.num) is the number of records in each row"
        if made is not None and made.name is not None:
            return f"{found}; what vector computes of momenta is had by .map, as .map(lambda v: v.{name})"
        return found

    def __getitem__(self, index: Any) -> Any:
        """A member by name; rows by a slice; items by ``[:, :3]`` or a `Ragged` of booleans. Lazy.

        A row number gives the row at once: an awkward array or record.

        Raises
        ------
        FieldNotFoundError
            When there is no such member.
        OptionError
            For anything else.
        """
        if isinstance(index, str):
            return self._member(index)
        if isinstance(index, slice):
            return self._sliced(index)
        if isinstance(index, int | np.integer) and not isinstance(index, bool):
            self._frame.rows.number(int(index))  # there is one
            row = int(index) % len(self)
            return next(iter(self._sliced(slice(row, row + 1))))
        if not (isinstance(index, Ragged) or (isinstance(index, tuple) and index)):
            raise OptionError(
                "records take a member by name, a row number, a slice of rows, items as [:, :3], or a ragged field of "
                f"booleans; got {type(index).__name__}; .map(f) calls f with awkward arrays"
            )
        if not self._in_lists:
            raise OptionError("each row is one record, without items to choose; rows are selected by ds[ds.cut(...)]")
        if isinstance(index, tuple) and not all(isinstance(i, slice) for i in index):
            raise OptionError("one record of each row is taken by .map, as in .map(lambda jets: ak.firsts(jets))")
        made = self._zip
        if made is None and isinstance(index, tuple):
            rows, *inner = index
            return self._sliced(rows).map(_Items(tuple(inner))) if inner else self._sliced(rows)
        if made is None:
            return self.map(_Chosen(), index)
        members = {m: self._member(m)[index] for m in made.members}
        rows = next(iter(members.values()))  # all of these are lists
        return _records(members, made.name, rows._frame)

    @once
    def _in_lists(self) -> bool:
        """Whether each row is a list of records."""
        made = self._zip
        return made.fields[0].levels > 0 if made is not None else self._recipe.empty().ndim > 1

    def __iter__(self) -> Iterator[Any]:
        for records in self._pieces():
            yield from records

    def _member(self, name: str) -> Any:
        if name not in self.fields:
            raise FieldNotFoundError(f"no member {name!r}{self._hint(name)}")
        made = self._zip
        if made is None or self._graph is not None:
            return self.map(_Member(name))
        node = self._recipe.node
        assert isinstance(node, Made)
        return Ragged._of(self._frame, self._recipe.at(node.args[made.members.index(name)]))

    def map(self, function: Callable[..., Any], *others: Any) -> Any:
        """Call a function with the awkward array of each chunk, lazily; see `Ragged.map`.

        Examples
        --------
        >>> import awkward as ak
        >>> import mmdask as mm
        >>> ds = mm.from_arrays({"jet_pt": [[50.0, 30.0], []], "jet_eta": [[0.5, -1.0], []]}, "records.mm")
        >>> ds.zip("jet").map(lambda jets: ak.sum(jets.pt * abs(jets.eta), axis=1)).compute()
        array([55.,  0.])
        """
        return mapped(self, function, others)

    def to_awkward(self) -> Any:
        """The awkward array, at once: the same as ``compute()``."""
        return self.compute()

    def to_list(self) -> list[Any]:
        """Rows as Python dicts, or lists of them, at once."""
        result: list[Any] = self.compute().to_list()
        return result

    def __repr__(self) -> str:
        made = self._zip
        what = f"{', '.join(made.members)}{f', {made.name}' if made.name else ''}" if made is not None else "computed"
        return f"mm.Records<{what}, rows={len(self):,}, chunks={self.n_chunks:,}>"

    def _repr_html_(self) -> str:
        made = self._zip
        rows = [["rows", f"{len(self):,}"], ["chunks", f"{self.n_chunks:,}"]]
        if made is not None:
            rows += [[member, field.describe()] for member, field in zip(made.members, made.fields, strict=True)]
        return html_table(rows, [(made.name if made is not None else None) or "records", ""])


@dataclass(frozen=True)
class _Items:
    """A function that takes some records of each row."""

    inner: tuple[slice, ...]

    def __call__(self, records: Any) -> Any:
        return records[(slice(None), *self.inner)]


@dataclass(frozen=True)
class _Chosen:
    """A function that takes the records for which a condition holds; a list is missing where it is for one of them."""

    def __call__(self, records: Any, mask: Any) -> Any:
        import awkward as ak

        there = ak.all(~ak.is_none(mask, axis=1), axis=1)
        return ak.mask(records, there)[ak.fill_none(mask, False, axis=1)] if "?" in str(mask.type) else records[mask]


class _Member:
    """A function that takes a member of records."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, records: Any) -> Any:
        return records[self.name]

    def __dask_tokenize__(self) -> tuple[str, str]:
        return "member", self.name


def zipped(schema: Schema, what: str, names: Sequence[str], field: Callable[[str], Any], frame: Frame) -> Records:
    """Records of the fields of a record, or of those whose names begin with ``what_``: `Dataset.zip`.

    Raises
    ------
    FieldNotFoundError
        When there are none.
    OptionError
        When some of them are shaped.
    """
    if not isinstance(what, str):
        raise OptionError(
            f"zip takes the name of a record, or what names of fields begin with, as in ds.zip('jet'); got {what!r}; "
            "ds[['jet_pt', 'jet_eta']].zip('jet') has only some of the members"
        )
    found = {n: schema[n].member for n in names if schema[n].record == what}
    found = found or members_of(what, names)
    lists = {n: m for n, m in found.items() if schema[n].kind in ("ragged", "string") and schema[n].levels}
    found = lists or found
    if not found and what in names:
        raise FieldNotFoundError(f"no fields {what}_...: {what!r} is one field, and ds[{what!r}] is that")
    if not found:
        why = schema.absent(what) if schema.absent is not None else ""
        more = f": {why}" if why else did_you_mean(what, first_words(names))
        raise FieldNotFoundError(f"no fields {what}_...{more}")
    for name in found:
        if not lists and schema[name].kind not in ("dense", "string"):
            raise OptionError(f"{name!r} is {schema[name].describe()}, which is no member of records that are zipped")
    members = {member: field(name) for name, member in found.items()}
    return _records(members, _behaviour(set(members)), frame)


def _behaviour(members: set[str]) -> str | None:
    """What vector calls records of these members, if it knows them."""
    momentum = "Momentum" if members & {"pt", "px", "py", "pz", "energy", "mass", "E", "e", "M", "m"} else "Vector"
    if not any(plane <= members for plane in _PLANE):
        return None
    if not members & _ALONG:
        return f"{momentum}2D"
    return f"{momentum}{4 if members & _TIMES else 3}D"


def _records(members: Mapping[str, Any], name: str | None, frame: Frame) -> Records:
    fields, recipes = [], []
    for x in members.values():
        field, recipe = operand_of(x, frame, x._source if isinstance(x, Ragged) else None)
        assert isinstance(field, Field)
        assert recipe is not None
        fields.append(field)
        recipes.append(recipe)
    return Records(frame, Recipe.made(Zip(tuple(members), tuple(fields), name), None, *recipes))


def mapped(first: Collection, function: Callable[..., Any], others: Sequence[Any]) -> Any:
    """`Ragged.map`."""
    if not callable(function):
        raise OptionError(f"map takes a function of awkward arrays, got {type(function).__name__}")
    frame = first._frame
    fields: list[Field | None] = []
    recipes: list[Recipe] = []
    for x in (first, *others):
        field: Operand | None
        recipe: Recipe | None
        if isinstance(x, Records):
            if len(x) != len(frame):
                raise OptionError(f"{x!r} has {len(x):,} rows, and not {len(frame):,}")
            field, recipe = None, in_frame(x._source, repr(x), x.chunks[0], frame)
        else:
            field, recipe = operand_of(x, frame, x._source if isinstance(x, Ragged) else None)
        if recipe is None or isinstance(field, Single):
            raise OptionError("map takes collections of rows; numbers are given by functools.partial or a lambda")
        assert not isinstance(field, Constant)
        fields.append(field)
        recipes.append(recipe)
    step = Map(function, tuple(fields))
    # Also of chunks that are held, the steps before say what there is of no rows.
    given = [x._recipe if isinstance(x, Collection) else r for x, r in zip((first, *others), recipes, strict=True)]
    result = _field_of(step, given)
    made = Recipe.made(Map(function, tuple(fields), result), result, *recipes)
    return Records(frame, made) if result is None else Ragged._of(frame, made)


def _field_of(step: Map, recipes: Sequence[Recipe]) -> Field | None:
    """What a function gives, found by calling it with no rows; None if that is no field."""
    import awkward as ak

    name = getattr(step.function, "__name__", "map")
    name = name if name.isidentifier() else "map"
    try:
        value = step.call(*[recipe.empty() for recipe in recipes])
    except Exception as error:
        error.add_note(_CALLED_FIRST)
        raise
    if not hasattr(value, "__len__") or len(value):
        raise OptionError(f"map: {name} gives one entry for each row; of no rows it made {type(value).__name__}")
    if isinstance(value, list | tuple):
        raise OptionError(
            f"map: {name} gives a {type(value).__name__}, which does not say what it holds when there are no rows; "
            "give an array that does, as np.array([...], dtype=bool), or one of awkward's"
        )
    if isinstance(value, ak.Array) and ak.fields(value):
        return None
    try:
        field, _ = to_field_data(name, value)
    except SchemaError as error:
        if isinstance(value, ak.Array) and not value.layout.is_unknown:
            return None
        error.add_note(f"{_CALLED_FIRST}; it must say its type then, too")
        raise
    return field
