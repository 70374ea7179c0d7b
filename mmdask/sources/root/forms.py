"""Fields of awkward forms, and their rows out of awkward arrays: objects are flattened, lists keep their levels.

A member of an object is called ``object.member``, of a map ``map.key`` and ``map.value``. A fixed length is part of the
shape where there are numbers only below it, else one more level. Sets are lists, options are missing values.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdask.errors import SchemaError
from mmdask.schema import OFFSET_DTYPE, TEXT_DTYPE, Field, FieldData
from mmdask.sources.converting.table import UnreadableError

__all__ = ["Layout", "as_list", "exact", "plan_of", "text"]

Bools = npt.NDArray[np.bool_]
_TEXT = frozenset({"string", "bytestring"})


@dataclass(frozen=True)
class Layout:
    """What a form becomes: `fields`, and `skipped` members with the reason."""

    name: str
    form: Any
    fields: tuple[Field, ...]
    skipped: tuple[tuple[str, str], ...]

    def data(self, array: Any, wanted: Collection[Field]) -> tuple[FieldData, ...]:
        """The rows of some of the fields.

        Parameters
        ----------
        array : awkward.Array or awkward.contents.Content
            Of this form; empty arrays may have lost their type.
        wanted : collection of Field
            Some of `fields`.

        Raises
        ------
        UnreadableError
            When the array is of another form, or holds text that is not utf-8.
        """
        content = getattr(array, "layout", array)
        known = {f.name: f for f in wanted}
        try:
            found = dict(_leaves(self.form, content, self.name, _Above(len(content)), known))
        except (AttributeError, IndexError, ValueError) as error:
            raise UnreadableError(f"gave {content.form.type}, should be {self.form.type}") from error
        return tuple(found[f.name] for f in wanted)


def plan_of(name: str, form: Any) -> Layout:
    """The fields of an awkward form.

    Parameters
    ----------
    name : str
        Of the field, or of the object whose members become fields.
    form : awkward.forms.Form
        As `uproot` says it, or of any awkward array.

    Examples
    --------
    >>> import awkward as ak
    >>> layout = plan_of("jets", ak.Array([[{"p": 1.0, "id": ["a", "b"]}]]).layout.form)
    >>> [(f.name, f.describe()) for f in layout.fields]
    [('jets.p', 'ragged float64'), ('jets.id', 'ragged string of 2 levels')]
    """
    fields: dict[str, Field] = {}
    skipped: dict[str, str] = {}
    for leaf, found in _described(form, name, 0, (), ()):
        if leaf in fields or leaf in skipped:
            skipped.setdefault(leaf, "a second member of this name")
        elif isinstance(found, Field):
            fields[leaf] = found
        else:
            skipped[leaf] = found
    return Layout(name, form, tuple(fields.values()), tuple(skipped.items()))


# From forms to fields ------------------------------------------------------------------------------------------------


def _described(
    form: Any, name: str, levels: int, sizes: tuple[int, ...], optional: tuple[int, ...]
) -> Iterator[tuple[str, Field | str]]:
    """The leaves of a form below `levels` lists and then arrays of fixed `sizes`, each a Field, or why it is none."""
    if form.is_option:
        levels, sizes = levels + len(sizes), ()
        yield from _described(form.content, name, levels, sizes, tuple(sorted({*optional, levels})))
    elif form.is_indexed:
        yield from _described(form.content, name, levels, sizes, optional)
    elif form.is_record:
        if not form.contents:
            yield name, "an object without members"
        for member, content in _members(form, name):
            yield from _described(content, member, levels, sizes, optional)
    elif form.is_list and form.parameter("__array__") in _TEXT:
        yield name, _made(name, "string", TEXT_DTYPE, (), levels + len(sizes), optional)
    elif form.is_regular:
        yield from _described(form.content, name, levels, (*sizes, form.size), optional)
    elif form.is_list:
        yield from _described(form.content, name, levels + len(sizes) + 1, (), optional)
    elif form.is_numpy:
        dtype = np.dtype(form.primitive)
        yield name, _made(name, "ragged" if levels else "dense", dtype, (*sizes, *form.inner_shape), levels, optional)
    elif form.is_union:
        kinds = ", ".join(str(content.type) for content in form.contents)
        yield name, f"its values are of several types: {kinds}"
    else:
        yield name, "its type is unknown"


def _made(
    name: str, kind: Any, dtype: Any, shape: tuple[int, ...], levels: int, optional: tuple[int, ...]
) -> Field | str:
    try:
        return Field(name, kind, dtype, tuple(map(int, shape)), levels, optional=optional)
    except SchemaError as error:
        return str(error)


def _members(form: Any, name: str) -> list[tuple[str, Any]]:
    """The members of an object by their full names; those of a map are its keys and values."""
    pair = form.is_tuple and form.parameter("__array__") == "sorted_map" and len(form.contents) == 2
    names = ["key", "value"] if pair else form.fields
    return [(f"{name}.{member}", content) for member, content in zip(names, form.contents, strict=True)]


# From arrays to rows -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Above:
    """What was met on the way from the rows down to some content.

    `offsets` and `valid` are those of the levels that are settled. There are `n` elements at this depth; `gaps` says
    which of them are there, the content has these alone. Each is an array of the `sizes`.
    """

    n: int
    offsets: tuple[npt.NDArray[np.int64], ...] = ()
    valid: tuple[Bools | None, ...] = ()
    gaps: Bools | None = None
    sizes: tuple[int, ...] = ()

    @property
    def length(self) -> int:
        """How many elements the content must have."""
        n = self.n if self.gaps is None else int(np.count_nonzero(self.gaps))
        return n * int(np.prod(self.sizes, dtype=np.int64))

    def missing(self, valid: Bools) -> _Above:
        """Some elements of the content are missing."""
        here = self.regular()
        if here.gaps is not None:
            both = np.zeros(here.n, np.bool_)
            both[here.gaps] = valid
            valid = both
        return replace(here, gaps=valid)

    def lists(self, offsets: npt.NDArray[np.int64]) -> _Above:
        """The elements of the content are lists."""
        here = self.regular()
        if here.gaps is not None:
            counts = np.zeros(here.n, OFFSET_DTYPE)
            counts[here.gaps] = np.diff(offsets)
            offsets = np.zeros(here.n + 1, OFFSET_DTYPE)
            np.cumsum(counts, out=offsets[1:])
        return _Above(int(offsets[-1]), (*here.offsets, offsets), (*here.valid, here.gaps))

    def regular(self) -> _Above:
        """The same with arrays of a fixed size as lists, since they hold more than numbers."""
        if not self.sizes:
            return self
        size = self.sizes[0]
        n = self.n if self.gaps is None else int(np.count_nonzero(self.gaps))
        below = replace(self, sizes=()).lists(np.arange(n + 1, dtype=OFFSET_DTYPE) * size)
        return replace(below, sizes=self.sizes[1:]).regular()

    def rows(self, values: npt.NDArray[Any]) -> FieldData:
        """The field whose innermost values these are."""
        if self.gaps is not None:
            present = values
            values = np.full((self.n, *present.shape[1:]), _blank(present.dtype), present.dtype)
            values[self.gaps] = present
        valid = tuple(None if v is None or v.all() else v for v in (*self.valid, self.gaps))
        return FieldData(values, self.offsets, valid=valid if any(v is not None for v in valid) else ())


def _blank(dtype: np.dtype[Any]) -> Any:
    return np.nan if dtype.kind in "fc" else "NaT" if dtype.kind in "mM" else np.zeros((), dtype)[()]


def _leaves(
    form: Any, content: Any, name: str, above: _Above, wanted: dict[str, Field]
) -> Iterator[tuple[str, FieldData]]:
    """The wanted leaves of some content, which has the form unless it is empty."""
    if not any(leaf == name or leaf.startswith(f"{name}.") for leaf in wanted):
        return
    if len(content) != above.length:
        raise ValueError(f"{len(content)} elements of {above.length}")
    if content.is_unknown:
        content = form.length_zero_array(highlevel=False) if len(content) == 0 else content
    if content.is_indexed and not content.is_option:
        content = content.project()
    if form.is_option:
        if not content.is_option:
            valid = np.ones(len(content), np.bool_)
        else:
            valid = np.asarray(content.mask_as_bool(valid_when=True), np.bool_)
            content = content.project()
        yield from _leaves(form.content, content, name, above.missing(valid), wanted)
    elif form.is_indexed:
        yield from _leaves(form.content, content, name, above, wanted)
    elif form.is_record:
        for field, (member, inner) in zip(form.fields, _members(form, name), strict=True):
            values = content.contents[content.field_to_index(field)][: len(content)]
            yield from _leaves(inner, values, member, above, wanted)
    elif form.is_list and form.parameter("__array__") in _TEXT:
        offsets, values = as_list(content)
        if name in wanted:
            characters = np.asarray(values.to_backend_array()).astype(TEXT_DTYPE, copy=False)
            yield name, text(above.lists(offsets).rows(characters))
    elif form.is_regular:
        inner = content.content[: len(content) * form.size]
        yield from _leaves(form.content, inner, name, replace(above, sizes=(*above.sizes, form.size)), wanted)
    elif form.is_list:
        offsets, values = as_list(content)
        yield from _leaves(form.content, values, name, above.lists(offsets), wanted)
    elif name in wanted:
        values = np.asarray(content.to_backend_array(allow_missing=False))
        n = above.n if above.gaps is None else int(np.count_nonzero(above.gaps))
        values = values.reshape(n, *above.sizes, *values.shape[1:])
        yield name, above.rows(exact(values, wanted[name]))


def as_list(content: Any) -> tuple[npt.NDArray[np.int64], Any]:
    """Offsets from 0, and what they index; without a copy where awkward has them so."""
    import awkward as ak

    if isinstance(content, ak.contents.ListOffsetArray):
        offsets = np.asarray(content.offsets.data)
        if offsets.dtype == OFFSET_DTYPE and offsets[0] == 0:
            return offsets, content.content[: int(offsets[-1])]
    lists = content.to_ListOffsetArray64(True)
    offsets = np.asarray(lists.offsets.data)
    return offsets, lists.content[: int(offsets[-1])]


def exact(values: npt.NDArray[Any], field: Field) -> npt.NDArray[Any]:
    """Values of the field's dtype in C order; a bool of another byte than 0 and 1 becomes true, as in C++."""
    if field.dtype.kind == "b" and values.dtype.kind == "b":
        values = np.ascontiguousarray(values).view("u1") != 0
    if values.dtype.newbyteorder("<") != field.dtype or values.shape[1:] != field.shape:
        raise UnreadableError(f"gave {values.dtype} {values.shape[1:]}, should be {field.describe()}")
    return np.ascontiguousarray(values, dtype=field.dtype)


def text(data: FieldData) -> FieldData:
    """The same text; raises `UnreadableError` when a string is not utf-8."""
    values, offsets = data.values, data.offsets[-1]
    if not values.size or values.max() <= 127:
        return data
    try:
        str(values.data, "utf-8")
    except UnicodeDecodeError as error:
        wrong = bytes(values[error.start : error.end])
        raise UnreadableError(f"not utf-8 text: {error.reason} {wrong!r}") from None
    # valid as a whole: so is each string, unless it begins within a character
    first = values[offsets[:-1][np.diff(offsets) > 0]]
    if (inside := (first & 0xC0) == 0x80).any():
        raise UnreadableError(f"not utf-8 text: a string begins within a character, {bytes(first[inside][:1])!r}")
    return data
