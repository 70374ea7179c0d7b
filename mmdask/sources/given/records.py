"""Records taken apart: every member becomes rows of a field of its own.

``{"jets": [[{"pt": 1.0}]]}`` is the field ``jets_pt`` with the rows ``[[1.0]]``, a member of the record ``jets``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmdask.errors import SchemaError, did_you_mean
from mmdask.schema import MAX_LEVELS, Field, FieldData, check_name
from mmdask.sources.given.lists import is_awkward, is_missing, sort_of

__all__ = ["Member", "check_counts", "members", "records_of"]


class Member(NamedTuple):
    """Rows of one field: `path` is the name that was given and those of records within records.

    `in_lists` says for each of these records whether a row has a list of them, rather than one.
    """

    path: tuple[str, ...]
    rows: Any
    in_lists: tuple[bool, ...] = ()

    @property
    def name(self) -> str:
        """Of the field."""
        return "_".join(self.path)


def members(rows: Any, declared: Mapping[str, Field]) -> list[Member]:
    """Rows of several fields, or one such row, as those of single fields.

    Raises
    ------
    SchemaError
        When `rows` are no mapping and no array of records, or when two of the fields have the same name.
    """
    found: dict[str, Member] = {}
    for name in _names(rows):
        check_name(name)
        for member in _expand(Member((name,), rows[name]), declared):
            other = found.setdefault(member.name, member)
            if other is not member:
                raise SchemaError(
                    f"two fields are called {member.name!r}: {'.'.join(other.path)} and {'.'.join(member.path)}"
                )
    return list(found.values())


def _names(rows: Any) -> Sequence[str]:
    if isinstance(rows, Mapping):
        return list(rows)
    names = _dtype_names(rows) or getattr(rows, "fields", None)
    if not names or not isinstance(names, Sequence):
        raise SchemaError(
            f"rows come as a mapping of field names to arrays, or as an array of records; got {type(rows).__name__}"
        )
    return names


def _dtype_names(value: Any) -> tuple[str, ...] | None:
    """Of a structured array, lazy or not."""
    names = getattr(getattr(value, "dtype", None), "names", None)
    return names if isinstance(names, tuple) else None


def _expand(member: Member, declared: Mapping[str, Field]) -> Iterable[Member]:
    path, value, in_lists = member
    if len(path) == 1 and member.name in declared:
        return [member]
    names, levels = _record_names(value)
    if names is None:
        inner = [] if member.name in declared else _declared_members(member.name, declared)
        return [Member((*path, name), value, (*in_lists, False)) for name in inner] or [member]
    if not names:
        raise SchemaError(f"field {member.name!r}: records without members cannot be stored")
    if not all(isinstance(name, str) for name in names):
        raise SchemaError(f"field {member.name!r}: members of records have names, got {names!r:.60}")
    inside = (*in_lists, levels > 1)
    parts = (Member((*path, name), _member(member.name, value, name, names), inside) for name in names)
    return [inner for part in parts for inner in _expand(part, declared)]


def _declared_members(name: str, declared: Mapping[str, Field]) -> list[str]:
    """The members that were declared of a record, for rows that do not say: all are missing, or in empty lists."""
    return [f.name[len(name) + 1 :] for f in declared.values() if f.record and f.name.startswith(f"{name}_")]


def _own_names(value: Any) -> Sequence[Any] | None:
    """The members of a record, or of an array of records."""
    if isinstance(value, Mapping):
        return list(value)
    if is_awkward(type(value)):
        return list(value.fields) or None
    return _dtype_names(value)


def _record_names(value: Any, depth: int = 0) -> tuple[list[Any] | None, int]:
    """The members of records in rows, lists of rows, and so on, and how many lists they are in; None: no records."""
    names = _own_names(value)
    if names is not None:
        of_awkward = is_awkward(type(value))
        return list(names), value.layout.purelist_depth if of_awkward else getattr(value, "ndim", 0)
    if isinstance(value, np.ndarray) and value.dtype.kind == "O" and value.ndim:
        value = value.tolist()
    if sort_of(type(value)) != "list" or depth > MAX_LEVELS:
        return None, 0
    # One sort has to hold for all; the first that is no empty list and not missing says which.
    for item in value:
        names, levels = _record_names(item, depth + 1)
        if names is not None or not _says_nothing(item, depth + 1):
            return names, levels + 1
    return None, 0


def _says_nothing(value: Any, depth: int) -> bool:
    """Whether there is nothing in a list, nor in lists in it, that says what it holds."""
    if is_missing(value):
        return True
    is_list = sort_of(type(value)) == "list" and depth <= MAX_LEVELS
    return is_list and all(_says_nothing(item, depth + 1) for item in value)


def _member(name: str, value: Any, key: str, names: Sequence[str]) -> Any:
    """The rows of one member."""
    own = _own_names(value)
    if own is not None:
        if len(own) != len(names) or key not in own:
            raise _other_members(name, own, names)
        return value[key]
    if is_missing(value):
        return None
    if isinstance(value, np.ndarray) and value.dtype.kind == "O" and value.ndim:
        value = np.ma.asarray(value).tolist()
    if sort_of(type(value)) == "list":
        return [_member(name, item, key, names) for item in value]
    raise SchemaError(f"field {name!r}: {type(value).__name__} {value!r:.40} among records of {', '.join(names)}")


def _other_members(name: str, own: Sequence[Any], names: Sequence[str]) -> SchemaError:
    lacking = next((n for n in names if n not in own), None)
    more = next((n for n in own if n not in names), None)
    what = f"one has {more!r}, too{did_you_mean(str(more), names)}"
    if lacking is not None:
        what = f"one lacks {lacking!r}: give None where it is missing"
    return SchemaError(f"field {name!r}: all its records have the same members, {', '.join(names)}; {what}")


def records_of(found: Sequence[Member], fields: Mapping[str, Field]) -> dict[str, str]:
    """The record that each of some members belongs to, by field name, for `Field.record`.

    The outermost one, except where rows have one record, not a list, and its members are lists all: a store could not
    tell that from a list of records. Records in it count then.
    """
    records: dict[str, str] = {}

    def settle(group: list[Member], depth: int) -> None:
        if group[0].in_lists[depth - 1] or not all(_is_list(fields[m.name]) for m in group):
            records.update({m.name: "_".join(m.path[:depth]) for m in group})
            return
        _by_path(group, depth + 1, settle)

    _by_path(found, 1, settle)
    return records


def _by_path(found: Iterable[Member], depth: int, settle: Callable[[list[Member], int], None]) -> None:
    groups: dict[tuple[str, ...], list[Member]] = {}
    for member in found:
        if len(member.path) > depth:
            groups.setdefault(member.path[:depth], []).append(member)
    for group in groups.values():
        settle(group, depth)


def _is_list(field: Field) -> bool:
    return field.levels > 0


def check_counts(found: Mapping[str, tuple[Field, FieldData]], declared: Mapping[str, Field]) -> None:
    """Raise `SchemaError` unless lists of records have as many items in all of their members.

    A record whose members are all lists, the declared ones included, is a list of records.
    """
    fields = [*(f for name, f in declared.items() if name not in found), *(f for f, _ in found.values())]
    for record in {f.record for f in fields if f.record} - {f.record for f in fields if not _is_list(f)}:
        parts = {name: data for name, (f, data) in found.items() if f.record == record}
        for (first, one), (name, two) in itertools.pairwise(parts.items()):
            if len(one) == len(two) and not np.array_equal(one.offsets[0], two.offsets[0]):
                row = int((one.counts != two.counts).argmax())
                raise SchemaError(
                    f"row {row}: {first!r} has {one.counts[row]} items and {name!r} has {two.counts[row]}; as members "
                    f"of the record {record!r} they have equal counts"
                )
