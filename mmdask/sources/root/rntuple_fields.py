"""How the fields of an RNTuple nest, and how rows of them are put together from elements of columns.

A `Node` is made of the records of a field and its sub-fields. It says which awkward form it has and reads pieces:
ranges of its elements in clusters, whose offsets say which elements of the nodes below are needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mmdask.sources.root.pages import Pages, Stored
from mmdask.sources.table import UnreadableError

__all__ = ["Node", "Piece", "Unsupported", "leaves", "node_of", "only"]

#: a range of elements of a cluster: cluster, start, stop
Piece = tuple[int, int, int]

#: what C++ types are in memory; columns may be narrower, as those of Double32_t
_DTYPES = {
    **{f"std::{u}int{n}_t": f"{u[:1] or 'i'}{n // 8}" for n in (8, 16, 32, 64) for u in ("", "u")},
    "bool": "?",
    "char": "i1",
    "std::byte": "u1",
    "float": "f4",
    "double": "f8",
}
_CARDINALITY = re.compile(r"ROOT::RNTupleCardinality<(.*)>")
_OPTIONAL = ("std::optional<", "std::unique_ptr<")
_MAPS = re.compile(r"std::(unordered_)?(multi)?map<")
#: sub-fields of sub-fields ..., more than anyone has been seen to use
_DEEPEST = 64


class Unsupported(Exception):
    """Why a field cannot be read."""


class Node(Protocol):
    """A field or sub-field."""

    def form(self) -> Any:
        """The awkward form of what is read."""
        ...

    def read(self, pages: Pages, pieces: Sequence[Piece]) -> Any:
        """The awkward layout of the elements of some pieces, one after the other."""
        ...

    def nbytes(self, pages: Pages, cluster: int, at: int) -> int:
        """Bytes in memory of all elements of a cluster before `at`; offsets are looked up."""
        ...

    def columns(self) -> Iterator[tuple[Stored, int]]:
        """Its columns, and bytes of an element of each in memory."""
        ...


@dataclass(frozen=True)
class Numbers:
    """One number or bool each."""

    stored: Stored
    dtype: np.dtype[Any]

    def form(self) -> Any:
        import awkward as ak

        return ak.forms.NumpyForm(self.dtype.name)

    def read(self, pages: Pages, pieces: Sequence[Piece]) -> Any:
        import awkward as ak

        return ak.contents.NumpyArray(_elements(pages, self.stored, pieces, self.dtype))

    def nbytes(self, pages: Pages, cluster: int, at: int) -> int:
        return at * self.dtype.itemsize

    def columns(self) -> Iterator[tuple[Stored, int]]:
        yield self.stored, self.dtype.itemsize


@dataclass(frozen=True)
class Counts(Numbers):
    """The lengths of lists that are another field, whose offsets are `stored`."""

    def read(self, pages: Pages, pieces: Sequence[Piece]) -> Any:
        import awkward as ak

        counts = np.diff(_offsets(pages, self.stored, pieces)[0])
        if len(counts) and counts.max() > np.iinfo(self.dtype).max:
            raise UnreadableError(f"damaged: {counts.max()} items in a row")
        return ak.contents.NumpyArray(counts.astype(self.dtype))


@dataclass(frozen=True)
class Lists:
    """Lists, or text where `text`; `stored` says where each list ends."""

    stored: Stored
    content: Node
    text: bool = False

    def form(self) -> Any:
        import awkward as ak

        content = self.content.form()
        if not self.text:
            return ak.forms.ListOffsetForm("i64", content)
        content = ak.forms.NumpyForm("uint8", parameters={"__array__": "char"})
        return ak.forms.ListOffsetForm("i64", content, parameters={"__array__": "string"})

    def read(self, pages: Pages, pieces: Sequence[Piece]) -> Any:
        import awkward as ak

        offsets, below = _offsets(pages, self.stored, pieces)
        content = self.content.read(pages, below)
        if self.text:
            content = ak.contents.NumpyArray(content.data, parameters={"__array__": "char"})
        parameters = {"__array__": "string"} if self.text else None
        return ak.contents.ListOffsetArray(ak.index.Index64(offsets), content, parameters=parameters)

    def nbytes(self, pages: Pages, cluster: int, at: int) -> int:
        return 8 * at + self.content.nbytes(pages, cluster, _end(pages, self.stored, cluster, at))

    def columns(self) -> Iterator[tuple[Stored, int]]:
        yield self.stored, 8
        yield from self.content.columns()


@dataclass(frozen=True)
class Optionals:
    """Values that may be missing: lists of none or one."""

    stored: Stored
    content: Node

    def form(self) -> Any:
        import awkward as ak

        return ak.forms.IndexedOptionForm("i64", self.content.form())

    def read(self, pages: Pages, pieces: Sequence[Piece]) -> Any:
        import awkward as ak

        offsets, below = _offsets(pages, self.stored, pieces)
        there = np.diff(offsets)
        if len(there) and there.max() > 1:
            raise UnreadableError(f"damaged: {there.max()} values of an optional field in a row")
        index = np.where(there == 1, offsets[:-1], -1)
        return ak.contents.IndexedOptionArray(ak.index.Index64(index), self.content.read(pages, below))

    def nbytes(self, pages: Pages, cluster: int, at: int) -> int:
        return 8 * at + self.content.nbytes(pages, cluster, _end(pages, self.stored, cluster, at))

    def columns(self) -> Iterator[tuple[Stored, int]]:
        yield self.stored, 8
        yield from self.content.columns()


@dataclass(frozen=True)
class Arrays:
    """`size` elements of another node each."""

    size: int
    content: Node

    def form(self) -> Any:
        import awkward as ak

        return ak.forms.RegularForm(self.content.form(), self.size)

    def read(self, pages: Pages, pieces: Sequence[Piece]) -> Any:
        import awkward as ak

        below = [(cluster, start * self.size, stop * self.size) for cluster, start, stop in pieces]
        n = sum(stop - start for _, start, stop in pieces)
        return ak.contents.RegularArray(self.content.read(pages, below), self.size, n)

    def nbytes(self, pages: Pages, cluster: int, at: int) -> int:
        return self.content.nbytes(pages, cluster, at * self.size)

    def columns(self) -> Iterator[tuple[Stored, int]]:
        return self.content.columns()


@dataclass(frozen=True)
class Members:
    """Records: an object, a pair, a tuple, an item of a map."""

    members: Mapping[str, Node]

    def form(self) -> Any:
        import awkward as ak

        return ak.forms.RecordForm([node.form() for node in self.members.values()], list(self.members))

    def read(self, pages: Pages, pieces: Sequence[Piece]) -> Any:
        import awkward as ak

        n = sum(stop - start for _, start, stop in pieces)
        contents = [node.read(pages, pieces) for node in self.members.values()]
        return ak.contents.RecordArray(contents, list(self.members), n)

    def nbytes(self, pages: Pages, cluster: int, at: int) -> int:
        return sum(node.nbytes(pages, cluster, at) for node in self.members.values())

    def columns(self) -> Iterator[tuple[Stored, int]]:
        for node in self.members.values():
            yield from node.columns()


# Elements -----------------------------------------------------------------------------------------------------------


def _elements(pages: Pages, stored: Stored, pieces: Sequence[Piece], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    out = np.empty(_count(pages, stored, pieces), dtype)
    at = 0
    for cluster, start, stop in pieces:
        pages.fill(cluster, stored, start, out[at : at + stop - start])
        at += stop - start
    return out


def _count(pages: Pages, stored: Stored, pieces: Sequence[Piece]) -> int:
    """Elements of some pieces; raises unless there are so many, before memory is taken for them."""
    for cluster, _, stop in pieces:
        if stop > pages.count(cluster, stored):
            raise UnreadableError(
                f"damaged: {stop} elements of a column are asked for, of {pages.count(cluster, stored)}"
            )
    return sum(stop - start for _, start, stop in pieces)


def _end(pages: Pages, stored: Stored, cluster: int, at: int) -> int:
    """Elements below those of a cluster before `at`."""
    return pages.item(cluster, stored, at - 1) if at else 0


def _offsets(pages: Pages, stored: Stored, pieces: Sequence[Piece]) -> tuple[npt.NDArray[np.int64], list[Piece]]:
    """Offsets from 0 of the lists of all pieces together, and the pieces below that they hold."""
    offsets = np.zeros(_count(pages, stored, pieces) + 1, np.int64)
    below = []
    at = 0
    for cluster, start, stop in pieces:
        first = _end(pages, stored, cluster, start)
        # Columns hold where each list ends in its cluster.
        ends = offsets[at + 1 : at + 1 + stop - start]
        pages.fill(cluster, stored, start, ends)
        below.append((cluster, first, int(ends[-1]) if len(ends) else first))
        if shift := int(offsets[at]) - first:
            ends += shift
        at += len(ends)
    if len(offsets) > 1 and (offsets[1:] < offsets[:-1]).any():
        raise UnreadableError("damaged: its offsets are not in order")
    return offsets, below


# From records of fields to nodes ------------------------------------------------------------------------------------


class Schema:
    """The records of fields and columns of an RNTuple of uproot, by what they belong to."""

    def __init__(self, ntuple: Any, pages: Pages) -> None:
        self.fields: Sequence[Any] = ntuple.field_records
        self.pages = pages
        self.children: dict[int, list[int]] = {}
        for i, record in enumerate(self.fields):
            if not 0 <= record.parent_field_id < len(self.fields):
                raise ValueError(f"field {record.field_name!r} has no parent {record.parent_field_id}")
            if record.parent_field_id != i:
                self.children.setdefault(record.parent_field_id, []).append(i)
        self.columns: dict[int, list[Any]] = {}
        for record in ntuple.column_records:
            self.columns.setdefault(record.field_id, []).append(record)

    @property
    def top(self) -> list[int]:
        return [i for i, record in enumerate(self.fields) if record.parent_field_id == i]

    def source(self, i: int) -> int:
        """The field whose columns a field has: itself, or the one that it stands for."""
        for _ in range(_DEEPEST):
            source = self.fields[i].source_field_id
            if source is None:
                return i
            if not 0 <= source < len(self.fields):
                break
            i = source
        raise Unsupported("damaged: it stands for a field that is not there")

    def stored(self, i: int, per_row: int) -> list[Stored]:
        """The columns of a field, each with all its representations."""
        records = self.columns.get(self.source(i), [])
        kinds: dict[int, list[Any]] = {}
        for record in records:
            kinds.setdefault(record.repr_idx, []).append(record)
        if len({len(kind) for kind in kinds.values()}) > 1:
            raise Unsupported("damaged: its representations have different numbers of columns")
        return [
            Stored(tuple(r.idx for r in same), min(int(r.first_element_index) for r in same), per_row)
            for same in zip(*kinds.values(), strict=True)
        ]


def node_of(schema: Schema, i: int, per_row: int = 1, depth: int = 0) -> Node:
    """The node of a field; raises `Unsupported`."""
    import uproot

    role = uproot.const.RNTupleFieldRole
    record = schema.fields[i]
    children = schema.children.get(i, [])
    if depth > _DEEPEST:
        raise Unsupported("its sub-fields nest too deeply")
    if record.repetition:
        size, per_row = int(record.repetition), per_row * int(record.repetition)
        if len(children) == 1:
            return Arrays(size, node_of(schema, children[0], per_row, depth + 1))
        return Arrays(size, _numbers(schema, i, per_row))
    if record.struct_role == role.LEAF:
        if not schema.columns.get(schema.source(i)) and len(children) == 1:
            return node_of(schema, children[0], per_row, depth + 1)  # an enum, std::atomic
        return _leaf(schema, i, per_row)
    if record.struct_role == role.COLLECTION:
        stored = schema.stored(i, per_row)
        if len(children) != 1 or len(stored) != 1:
            raise Unsupported(f"{_type(record)} of {len(children)} sub-fields and {len(stored)} columns")
        if record.type_name.startswith(_OPTIONAL):
            return Optionals(stored[0], node_of(schema, children[0], 0, depth + 1))
        content = node_of(schema, children[0], 0, depth + 1)
        if _MAPS.match(record.type_name) and isinstance(content, Members) and len(content.members) == 2:
            content = Members(dict(zip(("key", "value"), content.members.values(), strict=True)))
        return Lists(stored[0], content)
    if record.struct_role == role.RECORD:
        return Members(_members(schema, i, per_row, depth))
    if record.struct_role == role.VARIANT:
        raise Unsupported(f"{_type(record)}: its values have several types")
    if record.struct_role == role.STREAMER:
        raise Unsupported(f"{_type(record)} is stored as one piece by ROOT, which uproot does not read")
    raise Unsupported(f"{_type(record)} has an unknown role {int(record.struct_role)}")


def _members(schema: Schema, i: int, per_row: int, depth: int) -> dict[str, Node]:
    """Members of a record by name, those of its base classes among them."""
    members: dict[str, Node] = {}
    for child in schema.children.get(i, []):
        record = schema.fields[child]
        name = record.field_name
        if re.fullmatch(r":_\d+", name):
            if depth > _DEEPEST:
                raise Unsupported("its base classes nest too deeply")
            for base, node in _members(schema, child, per_row, depth + 1).items():
                members[f"{record.type_name}::{base}" if base in members else base] = node
            continue
        if re.fullmatch(r"_\d+", name):
            name = name[1:]  # of a tuple
        if name in members:
            members = {f"{schema.fields[i].type_name}::{n}" if n == name else n: node for n, node in members.items()}
        members[name] = node_of(schema, child, per_row, depth + 1)
    if not members:
        raise Unsupported(f"{_type(schema.fields[i])} has no members")
    return members


def _leaf(schema: Schema, i: int, per_row: int) -> Node:
    record = schema.fields[i]
    stored = schema.stored(i, per_row)
    if cardinality := _CARDINALITY.search(record.type_name):
        return Counts(_one(record, stored), np.dtype(_DTYPES.get(cardinality[1], "i8")))
    if len(stored) == 2:
        chars = Numbers(replace(stored[1], first=0, per_row=0), np.dtype("u1"))
        if schema.pages.dtype(stored[1].columns[0]).itemsize != 1:
            raise Unsupported(f"{_type(record)} of two columns")
        return Lists(stored[0], chars, text=True)
    return _numbers(schema, i, per_row)


def _numbers(schema: Schema, i: int, per_row: int) -> Numbers:
    record = schema.fields[i]
    stored = _one(record, schema.stored(i, per_row))
    dtypes = [schema.pages.dtype(column) for column in stored.columns]
    if any(dtype.names for dtype in dtypes):
        raise Unsupported(f"{_type(record)} of a column of several types")
    found = np.result_type(*dtypes)
    named = _DTYPES.get(record.type_name)
    if named is not None and (np.can_cast(found, named, "safe") or found.itemsize == np.dtype(named).itemsize == 1):
        found = np.dtype(named)
    return Numbers(stored, found)


def _one(record: Any, stored: Sequence[Stored]) -> Stored:
    if len(stored) != 1:
        raise Unsupported(f"{_type(record)} of {len(stored)} columns")
    return stored[0]


def _type(record: Any) -> str:
    name = str(record.type_name) or "an untyped field"
    return name if len(name) <= 80 else name[:77] + "..."


# Parts of a node ----------------------------------------------------------------------------------------------------

#: names of members that lead to one
Path = tuple[str, ...]


def leaves(node: Node, path: Path = ()) -> Iterator[Path]:
    """The paths of all members that are no records themselves."""
    if isinstance(node, Members):
        for name, member in node.members.items():
            yield from leaves(member, (*path, name))
    elif isinstance(node, Lists | Optionals | Arrays):
        yield from leaves(node.content, path)
    else:
        yield path


def only(node: Node, paths: Sequence[Path]) -> Node:
    """A node without the members that no path leads to.

    Examples
    --------
    >>> number = Numbers(Stored((0,)), np.dtype("f4"))
    >>> node = Lists(Stored((1,)), Members({"pt": number, "eta": number}))
    >>> list(leaves(node)), list(leaves(only(node, [("eta",)])))
    ([('pt',), ('eta',)], [('eta',)])
    """
    if isinstance(node, Members):
        kept = {name: [p[1:] for p in paths if p[:1] == (name,)] for name in node.members}
        return Members({name: only(node.members[name], below) for name, below in kept.items() if below})
    if isinstance(node, Lists | Optionals | Arrays):
        return replace(node, content=only(node.content, paths))
    return node
