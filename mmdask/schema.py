"""What a row is made of: `Field`, `Schema`, and `FieldData`, a run of rows of one field in memory.

Nothing here reads or writes. A `Field` describes, a `FieldData` carries, and every layer above passes these two.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, Literal, TypeVar, get_args, overload

import numpy as np
import numpy.typing as npt

from mmdask import display
from mmdask.errors import FieldNotFoundError, OptionError, SchemaError, did_you_mean
from mmdask.short import ambiguous, resolve, short_names, whole_object

__all__ = ["Field", "FieldData", "Kind", "Schema", "empty", "stored_dtype"]

Kind = Literal["dense", "ragged", "shaped", "string", "category"]
KINDS: tuple[str, ...] = get_args(Kind)
_T = TypeVar("_T")

#: codes of a category and offsets of a ragged field, wherever they are in memory
CODE_DTYPE = np.dtype("<i4")
OFFSET_DTYPE = np.dtype("<i8")
SHAPE_DTYPE = np.dtype("<i8")
VALID_DTYPE = np.dtype("|b1")
#: more than anyone has been seen to use, and few enough for a hostile store
MAX_LEVELS = MAX_AXES = 16
#: characters of a label: an array of text has room for the longest in every row
MAX_LABEL = 1024
#: utf-8 text is stored byte by byte
TEXT_DTYPE = np.dtype("u1")

# What a dtype may be called in a store: fixed-size numbers, times and bytes, little-endian.
_DTYPE_NAME = re.compile(
    r"\|b1|\|[iu]1|<[iu][248]|<f[248]|<c(8|16)|\|S[1-9]\d{0,4}|<[mM]8(\[([1-9]\d{0,8})?(Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\])?",
    re.ASCII,
)


def stored_dtype(dtype: npt.DTypeLike, *, name: str = "") -> np.dtype[Any]:
    """Return the little-endian form of a dtype that a store can hold.

    Parameters
    ----------
    dtype : dtype-like
        A bool, integer, float, complex, datetime64, timedelta64 or fixed-bytes dtype of numpy, or its name.
    name : str, optional
        The field, for the message.

    Returns
    -------
    numpy.dtype
        The same numbers, little-endian.

    Raises
    ------
    SchemaError
        For objects, unicode, structured, void and extended-precision dtypes.

    Examples
    --------
    >>> stored_dtype(">f4").str
    '<f4'
    """
    where = f"field {name!r}: " if name else ""
    try:
        d = np.dtype(dtype).newbyteorder("<")
    except TypeError as error:
        raise SchemaError(f"{where}{dtype!r} is not a dtype: {error}") from None
    if d.names is not None or not _DTYPE_NAME.fullmatch(d.str):
        raise SchemaError(
            f"{where}dtype {np.dtype(dtype)} cannot be stored; bool, integers, floats up to 64 bits, complex, "
            "datetime64, timedelta64 and fixed bytes can. Text is a field of kind 'string' or 'category', "
            "rows of differing length are 'ragged'."
        )
    return d


def dtype_text(dtype: np.dtype[Any]) -> str:
    """What people call a dtype: numpy's name, which counts bits, but ``S3`` for three bytes."""
    return dtype.str[1:] if dtype.kind == "S" else dtype.name


def dtype_from_store(text: object) -> np.dtype[Any] | None:
    """Return the dtype that a store's JSON names, or None if the text is not on the list of dtypes."""
    if not isinstance(text, str) or not _DTYPE_NAME.fullmatch(text):
        return None
    try:
        return np.dtype(text)
    except (TypeError, ValueError):  # a unit of 0 or of too many seconds
        return None


@dataclass(frozen=True)
class Field:
    """One named field of a store.

    Parameters
    ----------
    name : str
        Any text without control characters, at most 255 characters.
    kind : {"dense", "ragged", "shaped", "string", "category"}
        *dense*: every row has the same shape; *ragged*: rows of differing length; *shaped*: arrays of differing shape
        and a fixed number of axes (images, spectrograms); *string*: text; *category*: one of a list of labels.
    dtype : numpy.dtype
        Of one element: of the codes for a category (int32), of the utf-8 bytes for a string (uint8).
    shape : tuple of int
        Of one row of a dense field, of one item of a ragged or shaped one.
    levels : int
        How deeply items nest: 1 or more for ragged fields, 0 or more for strings, 0 for all others.
    axes : int
        Of each row of a shaped field, without those of its items: 1 or more. 0 for all others.
    labels : tuple of str
        The labels of a category; code i means ``labels[i]``.
    optional : tuple of int
        Depths at which values may be missing, ascending: 0 for rows, 1 for items of a row, ..., `levels` for the
        innermost. True means rows, as (0,).
    record : str
        The name of the record that the field is a member of, which its name begins with: ``jets`` for ``jets_pt``.
        Members of a record of lists have equal counts.
    expression : str
        What the field was computed from, when it was assigned as an expression: rows appended later are computed, too.
    unit, doc : str
        For people.
    attrs : mapping
        Anything JSON holds.
    """

    name: str
    kind: Kind
    dtype: np.dtype[Any]
    shape: tuple[int, ...] = ()
    levels: int = 0
    labels: tuple[str, ...] = ()
    unit: str = ""
    doc: str = ""
    attrs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    axes: int = 0
    optional: tuple[int, ...] = ()
    record: str = ""
    expression: str = ""

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.kind not in KINDS:
            raise SchemaError(f"field {self.name!r}: no kind {self.kind!r}; the kinds are {', '.join(KINDS)}")
        dtype = {"string": TEXT_DTYPE, "category": CODE_DTYPE}.get(self.kind)
        object.__setattr__(self, "dtype", dtype or stored_dtype(self.dtype, name=self.name))
        if isinstance(self.optional, bool):
            object.__setattr__(self, "optional", (0,) * self.optional)
        elif not isinstance(self.optional, tuple):
            raise SchemaError(
                f"field {self.name!r}: optional= is True for rows, or a tuple of depths as (0,); got {self.optional!r}"
            )
        wrong = self._wrong()
        if wrong:
            raise SchemaError(f"field {self.name!r}: {wrong}")
        object.__setattr__(self, "attrs", MappingProxyType(dict(self.attrs)))

    def _wrong(self) -> str:
        """What contradicts the kind, in words; empty if nothing does."""
        one = f"a {self.kind} field has"
        if self.kind == "ragged" and self.levels < 1:
            return f"{one} one level or more, got {self.levels}"
        if self.kind not in ("ragged", "string") and self.levels:
            return f"{one} no levels, got {self.levels}"
        if self.levels > MAX_LEVELS:
            return f"at most {MAX_LEVELS} levels can be stored, got {self.levels}"
        if (self.kind == "shaped") != (self.axes > 0) or self.axes > MAX_AXES:
            return f"{one} {f'1 to {MAX_AXES}' if self.kind == 'shaped' else 'no'} axes, got {self.axes}"
        if self.kind in ("string", "category") and self.shape:
            return f"{one} no item shape, got {self.shape}"
        if any(length < 0 for length in self.shape) or len(self.shape) > MAX_AXES:
            return f"a shape is up to {MAX_AXES} lengths of 0 or more, got {self.shape}"
        if len(set(self.labels)) != len(self.labels) or (self.labels and self.kind != "category"):
            return "labels are for categories and differ from each other"
        if any(len(label) > MAX_LABEL for label in self.labels):
            return f"a label has at most {MAX_LABEL} characters; longer text is a string"
        if any(type(d) is not int or not 0 <= d <= self.levels for d in self.optional) or list(self.optional) != sorted(
            set(self.optional)
        ):
            return f"optional= are ascending depths from 0 to {self.levels}, got {self.optional}"
        if self.record and not self.name.startswith(f"{self.record}_"):
            return f"a member of the record {self.record!r} is called {self.record}_..., not {self.name!r}"
        return ""

    @classmethod
    def dense(cls, name: str, dtype: npt.DTypeLike, shape: tuple[int, ...] = (), **kwargs: Any) -> Field:
        """A field whose rows all have the same shape."""
        return cls(name, "dense", stored_dtype(dtype, name=name), shape, **kwargs)

    @classmethod
    def ragged(cls, name: str, dtype: npt.DTypeLike, shape: tuple[int, ...] = (), **kwargs: Any) -> Field:
        """A field whose rows differ in length; `shape` is that of one item."""
        return cls(name, "ragged", stored_dtype(dtype, name=name), shape, kwargs.pop("levels", 1), **kwargs)

    @classmethod
    def shaped(cls, name: str, dtype: npt.DTypeLike, axes: int, shape: tuple[int, ...] = (), **kwargs: Any) -> Field:
        """A field of arrays of differing shape with `axes` axes; `shape` is that of one item, ``(3,)`` for colours."""
        return cls(name, "shaped", stored_dtype(dtype, name=name), shape, axes=axes, **kwargs)

    @classmethod
    def string(cls, name: str, **kwargs: Any) -> Field:
        """A field of text: one string per row, or with ``levels=1`` a list of them, and so on."""
        return cls(name, "string", TEXT_DTYPE, **kwargs)

    @classmethod
    def category(cls, name: str, labels: Iterable[str] = (), **kwargs: Any) -> Field:
        """A field of labels, few of them."""
        return cls(name, "category", CODE_DTYPE, labels=tuple(labels), **kwargs)

    @property
    def n_offsets(self) -> int:
        """How many offsets arrays the field has on disk and in memory."""
        return self.levels + (self.kind in ("string", "shaped"))

    @property
    def member(self) -> str:
        """Its name within its record; its own name if it is in none."""
        return self.name[len(self.record) + 1 :] if self.record else self.name

    @property
    def item_nbytes(self) -> int:
        """Bytes of one element of the values array: a row of a dense field, an item of a ragged one."""
        n = self.dtype.itemsize
        for length in self.shape:
            n *= length
        return n

    def same_layout(self, other: Field) -> bool:
        """Whether rows of the two fields can be stored one after the other (labels, unit, doc ... may differ)."""
        mine = self.kind, self.dtype, self.shape, self.levels, self.axes
        return mine == (other.kind, other.dtype, other.shape, other.levels, other.axes)

    def describe(self) -> str:
        """The type in a few characters, as in ``"ragged float32"`` or ``"float32 (3,)"``."""
        number = f"{dtype_text(self.dtype)} {self.shape}" if self.shape else dtype_text(self.dtype)
        depth = f" of {self.levels} levels" if self.levels > 1 else ""
        text = {
            "dense": number,
            "ragged": f"ragged {number}{depth}",
            "shaped": f"shaped {number} of {self.axes} {'axis' if self.axes == 1 else 'axes'}",
            "string": f"ragged string{depth}" if self.levels else "string",
            "category": f"category of {len(self.labels)}",
        }[self.kind]
        # Inside a row: the lists that are in it, and its items.
        inside = dict.fromkeys("items" if depth == self.levels else "lists" for depth in self.optional if depth)
        return f"{'optional ' * (0 in self.optional)}{text}{' with optional ' * bool(inside)}{' and '.join(inside)}"

    def __repr__(self) -> str:
        facts = [
            self.name,
            self.describe(),
            *([_some(self.labels)] if self.labels else []),
            *(f"{word} {text}" for word, text in (("unit", self.unit), ("doc", self.doc)) if text),
            *([f"= {_short(self.expression)}"] if self.expression else []),
        ]
        return display.terminal_safe(f"mm.Field<{', '.join(facts)}>")

    def with_labels(self, labels: Iterable[str]) -> Field:
        """The same category with these labels."""
        return replace(self, labels=tuple(labels))

    def __reduce__(self) -> tuple[Any, ...]:
        # A mappingproxy does not pickle.
        args = {f.name: getattr(self, f.name) for f in fields(self)}
        return _make_field, ({**args, "attrs": dict(self.attrs)},)


def _make_field(args: dict[str, Any]) -> Field:
    return Field(**args)


def check_name(name: object) -> None:
    """Raise `SchemaError` unless `name` can name a field."""
    if not isinstance(name, str) or not 1 <= len(name) <= 255 or not name.isprintable():
        raise SchemaError(f"a field name is 1 to 255 printable characters, got {name!r}")


#: lines of a table that a schema prints, and characters of one text in it
_SHOWN = 40
_SHORT = 60


def _short(text: str) -> str:
    return text if len(text) <= _SHORT else f"{text[: _SHORT - 3]}..."


def _some(labels: tuple[str, ...]) -> str:
    """The first of some labels."""
    return _short(", ".join(labels[:6]) + (", ..." if len(labels) > 6 else ""))


class Schema(Mapping[str, Field]):
    """The fields of a store, by name, in their order. Immutable.

    Examples
    --------
    >>> s = Schema([Field.dense("met", "f4"), Field.ragged("jet_pt", "f4")])
    >>> list(s), s["jet_pt"].describe()
    (['met', 'jet_pt'], 'ragged float32')
    """

    __slots__ = ("_fields", "_short", "absent")

    def __init__(self, fields: Iterable[Field] = (), absent: Callable[[str], str] | None = None) -> None:
        self._fields: dict[str, Field] = {}
        self._short: dict[str, tuple[str, ...]] | None = None
        #: says of a name that no field has why none has it, where that is known; else an empty text
        self.absent = absent
        for f in fields:
            if f.name in self._fields:
                raise SchemaError(f"two fields are called {f.name!r}")
            self._fields[f.name] = f

    def __getitem__(self, name: str) -> Field:
        """A field by its whole name."""
        try:
            return self._fields[name]
        except (KeyError, TypeError):
            raise FieldNotFoundError(self.unknown(name)) from None

    @overload
    def get(self, name: str, default: None = None, /) -> Field | None: ...
    @overload
    def get(self, name: str, default: Field | _T, /) -> Field | _T: ...
    def get(self, name: str, default: Any = None, /) -> Any:
        # The mapping's own would make the message of an error that nobody reads.
        return self._fields.get(name, default)

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __contains__(self, name: object) -> bool:
        return name in self._fields

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schema) and list(self.values()) == list(other.values())

    def __hash__(self) -> int:
        return hash(tuple(self._fields.values()))

    def __reduce__(self) -> tuple[Any, ...]:
        return Schema, (list(self._fields.values()),)

    # Names ----------------------------------------------------------------------------------------------------------

    @property
    def short(self) -> Mapping[str, tuple[str, ...]]:
        """Identifiers that are no name of a field, each with the fields that it could mean: ``GEN_x: ("GEN.x",)``."""
        if self._short is None:
            self._short = short_names(self._fields)
        return self._short

    def resolve(self, name: str) -> str:
        """The name of the field that is meant: itself, or the one whose name is no identifier and becomes this one.

        Raises
        ------
        FieldNotFoundError
            When there is none, or several.

        Examples
        --------
        >>> Schema([Field.dense("GEN.x", "f4")]).resolve("GEN_x")
        'GEN.x'
        """
        found = resolve(name, self._fields, self.short) if isinstance(name, str) else None
        if found is None:
            raise FieldNotFoundError(self.unknown(name))
        return found

    # Looks ----------------------------------------------------------------------------------------------------------

    def table(self, title: str = "field", *, most: int | None = None) -> tuple[list[list[str]], list[str]]:
        """Cells and headers of a table of the fields, or of the first of them; columns that are empty are left out."""
        cells = [
            [f.name, f.describe(), f.unit, _some(f.labels), _short(f.expression), _short(f.doc)]
            for f in list(self.values())[:most]
        ]
        headers = [title, "type", "unit", "labels", "computed as", "doc"]
        used = [i for i in range(len(headers)) if i < 2 or any(row[i] for row in cells)]
        return [[row[i] for i in used] for row in cells], [headers[i] for i in used]

    def _more(self) -> str:
        return f"... and {display.amount(len(self) - _SHOWN, 'more field')}" if len(self) > _SHOWN else ""

    def __repr__(self) -> str:
        """The first fields as a table."""
        table = display.text_table(*self.table(most=_SHOWN), longest=_SHORT) if self else ""
        head = f"mm.Schema: {display.amount(len(self), 'field')}"
        return "\n".join(filter(None, [head, table, self._more()]))

    def _repr_html_(self) -> str:
        more = f"<small>{self._more()}</small>" if self._more() else ""
        return display.html_block(display.html_table(*self.table(most=_SHOWN)), more)

    def unknown(self, name: object, where: str = "") -> str:
        """The message for a field that is not here, with the nearest names."""
        if isinstance(name, str) and (meant := self.short.get(name, ())):
            one = f"it is short for {meant[0]!r}, which is to be written whole here"
            return f"no field {name!r}{where}: {ambiguous(name, meant) if len(meant) > 1 else one}"
        if isinstance(name, str) and self.absent is not None and (why := self.absent(name)):
            return f"no field {name!r}{where}: {why}"
        if members := self._members(name):
            some = ", ".join(members[:3]) + (", ..." if len(members) > 3 else "")
            what = f"it is a record, of the fields {some}; ds[[{name!r}]] has all of them"
            return f"no field {name!r}{where}: {what}"
        whole = name if self._inside(name) or not isinstance(name, str) else whole_object(name, self._fields)
        if members := self._inside(whole):
            some = ", ".join(members[:3]) + (", ..." if len(members) > 3 else "")
            every = f"{whole}{members[0][len(str(whole))]}*"
            return f"no field {name!r}{where}: it is an object, of the fields {some}; {every!r} means all of them"
        near = did_you_mean(str(name), [*self._fields, *(s for s, meant in self.short.items() if len(meant) == 1)])
        text = f"no field {name!r}{where}{near}"
        if text.endswith("?"):
            return text
        some = ", ".join(list(self._fields)[:20])
        more = f", ... ({len(self)} in all)" if len(self) > 20 else ""
        return f"{text}; the fields are: {some}{more}" if self._fields else f"{text}; there are no fields"

    def _members(self, record: object) -> list[str]:
        """Names of the fields of a record."""
        return [f.name for f in self._fields.values() if f.record and f.record == record]

    def _inside(self, name: object) -> list[str]:
        """Names of the fields of an object: ``name.x`` and ``name/x``."""
        if not isinstance(name, str) or not name:
            return []
        return [n for n in self._fields if n.startswith((f"{name}.", f"{name}/")) and len(n) > len(name) + 1]

    def match(self, patterns: str | Iterable[str]) -> list[str]:
        """Names that match one of the patterns (``"jet_*"``), in the order of the patterns, each once.

        The name of a record or object (``mu`` of ``mu.fP.fX``) stands for all its members. Where no name matches,
        those do whose short name does, or that of their object (``mu_fP``).

        Raises
        ------
        FieldNotFoundError
            When a pattern matches no field.
        """
        found: dict[str, None] = {}
        wanted = [patterns] if isinstance(patterns, str) or not isinstance(patterns, Iterable) else list(patterns)
        if not all(isinstance(p, str) for p in wanted):
            raise OptionError(f"fields are names or patterns like 'jet_*', got {patterns!r}")
        for pattern in wanted:
            names = [pattern] if pattern in self._fields else self._members(pattern) or self._inside(pattern)
            names = names or fnmatch.filter(self._fields, pattern) or self._match_short(pattern)
            names = names or self._inside(whole_object(pattern, self._fields))
            if not names:
                raise FieldNotFoundError(self.unknown(pattern))
            found.update(dict.fromkeys(names))
        return list(found)

    def _match_short(self, pattern: str) -> list[str]:
        """Fields whose short name is this, or matches it."""
        if pattern in self.short:
            return [self.resolve(pattern)]
        return [name for short in fnmatch.filter(self.short, pattern) for name in self.short[short]]


@dataclass(frozen=True)
class FieldData:
    """A run of rows of one field in memory.

    Parameters
    ----------
    values : numpy.ndarray
        dense: ``(rows, *shape)``; ragged and shaped: ``(items, *shape)``; string: ``(bytes,)`` uint8; category: codes
        ``(rows,)`` int32 into `labels`.
    offsets : tuple of numpy.ndarray
        One int64 array per level, outermost first: row i of a level holds elements ``o[i]`` to ``o[i + 1]`` of
        the next. Each starts at 0 and ends at the length of what it indexes. One for shaped rows. Empty for dense and
        category.
    labels : tuple of str
        Of a category.
    shapes : numpy.ndarray, optional
        Of a shaped field: int64 ``(rows, axes)``; the items of a row, in C order, are as many as the product of its
        shape.
    valid : tuple of numpy.ndarray or None
        Which values are not missing: for each depth, 0 for rows, bool ``(elements,)``, or None where all are there.
        Empty where nothing is missing at any depth. A missing row or list has no items; a missing value is nan, NaT,
        or zero.
    """

    values: npt.NDArray[Any]
    offsets: tuple[npt.NDArray[np.int64], ...] = ()
    labels: tuple[str, ...] = ()
    shapes: npt.NDArray[np.int64] | None = None
    valid: tuple[npt.NDArray[np.bool_] | None, ...] = ()

    def __len__(self) -> int:
        return len(self.offsets[0]) - 1 if self.offsets else len(self.values)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(int(a.nbytes) for a in (self.values, *self.offsets, self.shapes, *self.valid) if a is not None)

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """Items per row, int64 ``(rows,)``, of a ragged or shaped field or string (bytes per row)."""
        return np.diff(self.offsets[0])

    def length(self, depth: int) -> int:
        """How many elements there are at a depth: rows at 0, items of rows at 1, ..."""
        return len(self.values) if depth == len(self.offsets) else len(self.offsets[depth]) - 1

    def valid_at(self, depth: int) -> npt.NDArray[np.bool_] | None:
        """Which elements at a depth are not missing, bool; None where all are there."""
        return self.valid[depth] if depth < len(self.valid) else None

    def __getitem__(self, rows: slice) -> FieldData:
        """A contiguous run of the rows (step 1), values as a view."""
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise ValueError(f"rows of a FieldData are taken with step 1, got {step}")
        stop = max(start, stop)
        shapes = None if self.shapes is None else self.shapes[start:stop]
        bounds = [(start, stop)]
        offsets = []
        for o in self.offsets:
            part = o[start : stop + 1]
            start, stop = int(part[0]), int(part[-1])
            offsets.append(part - start if start else part)
            bounds.append((start, stop))
        valid = tuple(v if v is None else v[a:b] for v, (a, b) in zip(self.valid, bounds, strict=False))
        return FieldData(self.values[start:stop], tuple(offsets), self.labels, shapes, valid)


def empty(field: Field) -> FieldData:
    """No rows of a field."""
    offsets = tuple(np.zeros(1, OFFSET_DTYPE) for _ in range(field.n_offsets))
    shapes = np.zeros((0, field.axes), SHAPE_DTYPE) if field.kind == "shaped" else None
    return FieldData(np.empty((0, *field.shape), field.dtype), offsets, field.labels, shapes)
