"""What a field becomes in a ROOT file, and its rows as what uproot writes: pure, apart from awkward.

A TTree holds numbers, fixed arrays, lists of numbers and text. An RNTuple holds all that, also nested, and with missing
values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mmdask.errors import OptionError
from mmdask.schema import Field, FieldData, empty

__all__ = [
    "FORMATS",
    "Column",
    "Format",
    "check_names",
    "column_of",
    "counter_names",
    "owner_of",
    "takes_fill",
    "usual_fill",
]

Format = Literal["ttree", "rntuple"]
#: what people call them
FORMATS: dict[str, str] = {"ttree": "a TTree", "rntuple": "an RNTuple"}

#: characters that would make another thing of a name: a path within the file, or dimensions
_NOT_IN_NAMES: dict[str, str] = {"ttree": "/[]", "rntuple": "./\\"}
_OTHER = "write format='rntuple', which has it, or leave it out by fields="


@dataclass(frozen=True)
class Column:
    """How a field is written: as numbers of `dtype` with `shape`, and a note for people.

    `fill` stands in for missing values, if it is not None; lists that are missing are empty then.
    """

    field: Field
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    note: str
    fill: Any = None

    @property
    def lists(self) -> bool:
        """Whether it is written as lists that have a counter in a TTree."""
        return self.field.kind == "ragged"

    def layout(self, data: FieldData) -> Any:
        """Rows as the layout of an awkward array, of one form whatever the rows are."""
        layout = self._content(data)
        for depth in range(self.field.levels, -1, -1):
            if depth in self.field.optional and self.fill is None:
                layout = _optional(layout, data.valid_at(depth))
            if depth:
                layout = _lists(data.offsets[depth - 1], layout)
        if self.note:
            layout = layout.copy(parameters={**layout.parameters, "__doc__": self.note})
        return layout

    def _content(self, data: FieldData) -> Any:
        """The innermost elements."""
        kind, valid = self.field.kind, data.valid_at(self.field.levels)
        if kind == "category":
            return _labels(data, "" if self.fill is None else self.fill)
        if kind == "string":
            text = _text(data.values, data.offsets[-1])
            return text if valid is None or not self.fill else _filled(text, valid, self.fill)
        layout = _numbers(self.plain(data))
        return _nested(layout, data) if kind == "shaped" else layout

    def plain(self, data: FieldData) -> npt.NDArray[Any]:
        """Values as numbers that ROOT has."""
        values = data.values
        valid = data.valid_at(self.field.levels)
        if valid is not None and self.fill is not None:
            values = values.copy()
            values[~valid] = self.fill
        if values.dtype.kind == "S":
            values = np.ascontiguousarray(values).view("u1").reshape(*values.shape, values.dtype.itemsize)
        elif values.dtype.kind in "mM":
            values = np.ascontiguousarray(values).view("<i8")
        return values.astype(self.dtype, copy=False)

    def type(self) -> Any:
        """What uproot is told of a branch of a TTree."""
        if self.field.kind == "dense":
            return np.dtype((self.dtype, self.shape)) if self.shape else self.dtype
        return self.layout(empty(self.field)).form.type


def column_of(field: Field, format: Format, fill: Any = None) -> Column:
    """How a field is written; `fill` is what stands for missing values, if anything does.

    Raises
    ------
    OptionError
        When a file of this format cannot hold it; the message says what to do instead.
    """
    if wrong := _wrong(field, format, fill is not None):
        raise OptionError(f"field {field.name!r} ({field.describe()}) cannot be written to {FORMATS[format]}: {wrong}")
    kind, note = field.dtype.kind, [field.unit] if field.unit else []
    dtype, shape = field.dtype, field.shape
    if kind == "S":
        dtype, shape = np.dtype("u1"), (*shape, field.dtype.itemsize)
    elif kind in "mM":
        dtype = np.dtype("<i8")
        unit, step = np.datetime_data(field.dtype)
        of = f"{step} {unit}" if step > 1 else unit
        note = [f"{of}{' since 1970-01-01' * (kind == 'M')}"]
    elif field.dtype == np.dtype("<f2"):
        dtype = np.dtype("<f4")  # exact; ROOT has no halves
    fill = None if fill is None or not field.optional else _checked_fill(field, fill)
    return Column(field, dtype, shape, ", ".join([*note, *([field.doc] if field.doc else [])]), fill)


def _checked_fill(field: Field, fill: Any) -> Any:
    """A value of the field that means what was given."""
    wrong = OptionError(f"fill= for field {field.name!r} ({field.describe()}) cannot be {fill!r}")
    if field.kind in ("string", "category"):
        if not isinstance(fill, str):
            raise wrong
        return fill
    if field.kind == "shaped":
        raise OptionError(f"fill= is for values, and rows of {field.name!r} are arrays; leave it out of fill=")
    try:
        with np.errstate(invalid="ignore"):  # of nan no integer is made; below it is another value
            value = np.array(fill).astype(field.dtype) if field.dtype.kind not in "mM" else np.array(fill, field.dtype)
    except (TypeError, ValueError, OverflowError):
        raise wrong from None
    same = value.ndim == 0 and (value == np.array(fill) or (value != value and fill != fill))
    if not same or (field.dtype.kind == "b") != isinstance(fill, bool | np.bool_):
        raise wrong
    return value[()]


def takes_fill(field: Field, fill: Any) -> bool:
    """Whether a value can stand for what is missing of a field."""
    try:
        _checked_fill(field, fill)
    except OptionError:
        return False
    return True


def usual_fill(field: Field) -> Any:
    """What is proposed to stand for what is missing of a field."""
    if field.kind in ("string", "category"):
        return ""
    if field.dtype.kind in "bS":
        return False if field.dtype.kind == "b" else b""
    return 0 if field.dtype.kind in "iu" and not takes_fill(field, -999) else -999


def check_names(names: Collection[str], format: Format) -> None:
    """Raise `OptionError` for names that would mean something else in a file."""
    wrong = [name for name in names if set(name) & set(_NOT_IN_NAMES[format])]
    if not wrong:
        return
    found = [c for c in _NOT_IN_NAMES[format] if any(c in name for name in wrong)]
    some = ", ".join(map(repr, wrong[:3])) + (f", ... ({len(wrong)} in all)" if len(wrong) > 3 else "")
    if len(wrong) == 1:
        plain = re.sub(r"\W+", "_", wrong[0]).strip("_") or "x"
        way = f"ds.rename({{{wrong[0]!r}: {plain!r}}})"
    else:
        replaced = "".join(f".replace({c!r}, '_')" for c in found)
        way = f"ds.rename({{name: name{replaced} for name in ds.fields}})"
    odd = " and ".join(map(repr, found))
    raise OptionError(f"{odd} in a name means something else in {FORMATS[format]}: {some}; rename first: {way}")


def _wrong(field: Field, format: Format, filled: bool) -> str:
    """Why a field cannot be written, and what to do; empty if it can."""
    name, tree = field.name, format == "ttree"
    if field.dtype.kind == "c":
        return (
            f"ROOT has no complex numbers; store its parts, as in mm.assign(path, {name}_re=ds[{name!r}].real), "
            "or leave it out by fields="
        )
    if math.prod(field.shape) == 0 or (field.dtype.kind == "S" and not field.dtype.itemsize):
        return "its items hold no numbers; leave it out by fields="
    if not tree:
        return ""
    if field.kind == "shaped":
        return f"it has no type for arrays of differing shape; {_OTHER}"
    if field.levels > (field.kind == "ragged"):
        return f"uproot writes no lists of {'text' if field.kind == 'string' else 'lists'} there; {_OTHER}"
    if field.kind == "ragged" and (field.shape or field.dtype.kind == "S"):
        return f"uproot writes lists of arrays there in a way that nothing reads back; {_OTHER}"
    if field.optional and not filled:
        value = usual_fill(field)
        return f"it has no missing values; say what stands for them, as in fill={{{name!r}: {value!r}}}, or {_OTHER}"
    return ""


def owner_of(field: Field) -> str:
    """What a list belongs to, by its name alone: its record, its object, or what stands before its last ``_``.

    Examples
    --------
    >>> [owner_of(Field.ragged(name, "f4")) for name in ("jet_pt", "mu.fP.fX", "cleaned_jet_pt", "times")]
    ['jet', 'mu', 'cleaned_jet', 'times']
    """
    name = field.name
    if field.record:
        return field.record
    head = name.partition(".")[0] if "." in name else name.rpartition("_")[0]
    return head or name


def counter_names(
    owners: Mapping[str, str],
    taken: Collection[str],
    agree: Callable[[str, str], bool],
    counts: Callable[[str, str], bool],
) -> dict[str, str]:
    """The name of the counter of each list. Names say which lists share one, so that it is the same in all files.

    Parameters
    ----------
    owners : mapping
        Names of lists, and what each belongs to: those of one owner share a counter, if they agree with the first.
    taken : collection of str
        Names that are in use.
    agree : callable
        Whether two lists have as many items in every row.
    counts : callable
        Whether what has a name that is in use counts the items of a list: then it is its counter.

    Examples
    --------
    >>> lists = {"jet_pt": "jet", "jet_eta": "jet", "jet_sel": "jet", "mu": "mu", "x": "x"}
    >>> counter_names(lists, {"nx", "Nmu"}, lambda a, b: "jet_sel" not in (a, b), lambda counter, _: counter == "Nmu")
    {'jet_pt': 'njet', 'jet_eta': 'njet', 'jet_sel': 'njet_sel', 'mu': 'Nmu', 'x': 'nx_'}
    """
    first: dict[str, str] = {}
    shared: dict[tuple[str, str], str] = {}
    used = set(taken)
    counters: dict[str, str] = {}
    for name, owner in owners.items():
        lead = first.setdefault(owner, name)
        of = owner if name == lead or agree(lead, name) else name
        if (owner, of) not in shared:
            shared[owner, of] = _counting(of, name, taken, counts) or _free(f"n{of.replace('.', '_')}", used)
            used.add(shared[owner, of])
        counters[name] = shared[owner, of]
    return counters


def _counting(of: str, name: str, taken: Collection[str], counts: Callable[[str, str], bool]) -> str:
    """The field that counts a list: ``nMuon`` or ``NMuon`` for ``Muon_pt`` and ``Muon_iso_all``; empty if none does."""
    while of:
        for counter in (f"n{of}", f"N{of}"):
            if counter in taken and counts(counter, name):
                return counter
        of = of.rpartition("_")[0]
    return ""


def _free(name: str, used: Collection[str]) -> str:
    while name in used:
        name += "_"
    return name


# Layouts of awkward arrays ------------------------------------------------------------------------------------------


def _numbers(values: npt.NDArray[Any]) -> Any:
    import awkward as ak

    return ak.contents.NumpyArray(np.ascontiguousarray(values)).to_RegularArray()


def _lists(offsets: npt.NDArray[np.int64], content: Any, **parameters: str) -> Any:
    import awkward as ak

    return ak.contents.ListOffsetArray(ak.index.Index64(offsets), content, parameters=parameters or None)


def _text(values: npt.NDArray[Any], offsets: npt.NDArray[np.int64]) -> Any:
    import awkward as ak

    chars = ak.contents.NumpyArray(np.ascontiguousarray(values), parameters={"__array__": "char"})
    return _lists(offsets, chars, __array__="string")


def _labels(data: FieldData, fill: str) -> Any:
    """The label of each row."""
    import awkward as ak

    raw = [label.encode() for label in (*data.labels, fill)]
    labels = _text(np.frombuffer(b"".join(raw), "u1"), np.append(0, np.cumsum([len(r) for r in raw])))
    valid = data.valid_at(0)
    codes = data.values if valid is None else np.where(valid, data.values, len(data.labels))
    return ak.contents.IndexedArray(ak.index.Index64(codes.astype(np.int64)), labels).project()


def _filled(content: Any, valid: npt.NDArray[np.bool_], text: str) -> Any:
    """Text in place of what is missing."""
    import awkward as ak

    both = ak.concatenate([ak.Array(content), ak.Array([text])])
    index = np.where(valid, np.arange(len(valid)), len(valid))
    return ak.to_packed(both[index], highlevel=False)


def _optional(content: Any, valid: npt.NDArray[np.bool_] | None) -> Any:
    """Elements of which some are missing, without a place for these: uproot 5.7.7 writes others wrongly."""
    import awkward as ak

    if valid is None:
        index = np.arange(content.length, dtype=np.int64)
    else:
        index = np.where(valid, np.cumsum(valid) - 1, -1).astype(np.int64)
        content = ak.to_packed(ak.Array(content)[valid], highlevel=False)
    return ak.contents.IndexedOptionArray(ak.index.Index64(index), content)


def _nested(items: Any, data: FieldData) -> Any:
    """Items of arrays of differing shape as lists of lists, one level for each axis."""
    shapes: Any = data.shapes
    layout = items
    for axis in range(shapes.shape[1] - 1, -1, -1):
        # Each row has so many lists of this axis, and each of these as many elements as the axis is long.
        n_lists = shapes[:, :axis].prod(axis=1)
        layout = _lists(np.append(0, np.cumsum(np.repeat(shapes[:, axis], n_lists))), layout)
    return layout
