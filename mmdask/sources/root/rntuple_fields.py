"""From the records of an RNTuple's fields and columns to nodes, which read their rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mmdask.sources.root.pages import Pages, Stored
from mmdask.sources.root.rntuple_nodes import Arrays, Counts, Lists, Members, Node, Numbers, Optionals, Variants

__all__ = ["Schema", "Unsupported", "node_of"]

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
        nodes = [node_of(schema, child, 0, depth + 1) for child in children]
        stored = schema.stored(i, per_row)
        if not nodes or len(stored) != 1 or not schema.pages.dtype(stored[0].columns[0]).names:
            raise Unsupported(f"{_type(record)} of {len(children)} types and {len(stored)} columns")
        return Variants(stored[0], {str(k): node for k, node in enumerate(nodes)}, len(nodes))
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
