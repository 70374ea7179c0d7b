"""The inputs of a conversion: what the user named, as files with their state on disk and their labels.

Only names and `os.stat` are used here. No input is opened.
"""

from __future__ import annotations

import fnmatch
import glob
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xxhash

from mmdask.errors import OptionError, SchemaError, SourceError, SourceNotFoundError, did_you_mean
from mmdask.schema import Field, check_name
from mmdask.sources.address import check_address, public_address
from mmdask.sources.remote import find_remote, is_remote, remote_state, without_scheme
from mmdask.store.manifest import MANIFEST

__all__ = ["Absent", "Input", "Label", "digest", "find_inputs", "label_fields", "split_names"]

Label = bool | int | float | str
PathLike = str | os.PathLike[str]

_SOURCES = "sources are a path, a glob, 'file.root:tree', or a list or mapping of these"
_LABEL_FIELDS: dict[type, Any] = {
    str: Field.category,
    bool: lambda name: Field.dense(name, "?"),
    int: lambda name: Field.dense(name, "<i8"),
    float: lambda name: Field.dense(name, "<f8"),
}


@dataclass(frozen=True)
class Input:
    """One tree of one file, as named, with what `os.stat` said about the file.

    `tree` is empty when the user named none. `labels` are pairs, so that inputs are values. `hash` is of the contents,
    if they were looked at. `address` is the whole of one of which `path` leaves out what may be secret.
    """

    path: str
    tree: str
    size: int
    mtime_ns: int
    labels: tuple[tuple[str, Label], ...] = ()
    hash: str = ""
    address: str = field(default="", repr=False)

    @property
    def location(self) -> str:
        """Where it is read; not to be shown or kept."""
        return self.address or self.path

    @property
    def name(self) -> str:
        """For messages and progress bars."""
        return f"{self.path}:{self.tree}" if self.tree else self.path

    def check_unchanged(self) -> None:
        """Raise `SourceError` when the file is no longer what it was when the conversion began."""
        if _stat(self.location) != (self.size, self.mtime_ns):
            raise SourceError(
                f"{self.path}: the file changed while it was converted; nothing of it was kept. "
                "Call again when it is no longer written to"
            )


@dataclass(frozen=True)
class Absent:
    """A name that matches no file, with the error that says so."""

    path: str
    error: SourceNotFoundError

    def was(self, path: str) -> bool:
        """Whether a file that was converted earlier went by this name."""
        if is_remote(self.path):
            return fnmatch.fnmatchcase(path, self.path) or path == self.path
        return path == os.path.realpath(self.path) or fnmatch.fnmatchcase(path, os.path.abspath(self.path))


def digest(*values: Any) -> str:
    """32 hex digits that name these JSON values."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return str(xxhash.xxh3_128_hexdigest(text.encode()))


def split_names(text: str) -> Iterator[tuple[str, str]]:
    """The ways to read ``"file:tree"``, the likeliest first: the whole as a path, then a split at each colon.

    Examples
    --------
    >>> list(split_names("a.root:dir/t"))
    [('a.root:dir/t', ''), ('a.root', 'dir/t')]
    >>> list(split_names("C:/a.root:t"))
    [('C:/a.root:t', ''), ('C:/a.root', 't')]
    """
    yield text, ""
    at = text.rfind(":")
    while at > 0:
        drive = at == 1 and text[0].isalpha() and text[2:3] in ("/", "\\")
        if not drive and text[at : at + 3] != "://":
            yield text[:at], text[at + 1 :]
        at = text.rfind(":", 0, at)


def find_inputs(
    sources: PathLike | Iterable[PathLike] | Mapping[PathLike, Mapping[str, Label]], tree: str | None
) -> tuple[list[Input], list[Absent]]:
    """Every file that `sources` names, in order, and the names that match nothing.

    Raises
    ------
    SourceError
        For a folder, or a server that does not answer.
    OptionError
        When no source is named, a file twice, or something that is no path.
    SchemaError
        When the sources have differing labels.
    """
    names: list[tuple[PathLike, Mapping[str, Label]]]
    if isinstance(sources, str | os.PathLike):
        names = [(sources, {})]
    elif isinstance(sources, Mapping):
        names = list(sources.items())
    elif isinstance(sources, Iterable) and not isinstance(sources, bytes | bytearray):
        names = [(name, {}) for name in sources]
    else:
        raise OptionError(f"{_SOURCES}; got {sources!r}")
    if not names:
        raise OptionError(f"no source is named: {_SOURCES}")
    for name, _ in names:
        if not isinstance(name, str | os.PathLike) or not isinstance(os.fspath(name), str):
            raise OptionError(f"{_SOURCES}; got {name!r} among them")
        if not os.fspath(name).strip():
            raise OptionError(f"a source is named by empty text, {os.fspath(name)!r}: {_SOURCES}")
    if tree is not None and not isinstance(tree, str):
        raise OptionError(f"tree is the name of a tree, got {tree!r}")
    labels = _check_labels([(os.fspath(name), values) for name, values in names])
    inputs: dict[tuple[str, str], Input] = {}
    absent: list[Absent] = []
    named_by: dict[tuple[str, str], str] = {}
    for (name, _), values in zip(names, labels, strict=True):
        found = _find(name, tree or "")
        if isinstance(found, Absent):
            absent.append(found)
            continue
        for path, tree_name in found:
            location = path if is_remote(path) else os.path.realpath(path)
            shown = public_address(location) if is_remote(path) else location
            key = shown, tree_name
            named = public_address(os.fspath(name))
            if key in inputs:
                raise OptionError(f"{shown} is named twice, by {named_by[key]!r} and by {named!r}")
            try:
                state = _stat(location)
            except SourceNotFoundError as error:
                absent.append(Absent(shown, error))
                continue
            inputs[key] = Input(*key, *state, values, address="" if location == shown else location)
            named_by[key] = named
    return list(inputs.values()), absent


def label_fields(inputs: Iterable[Input]) -> list[Field]:
    """The fields that the labels become; the labels of a category in order of first use."""
    values: dict[str, dict[Label, None]] = {}
    for i in inputs:
        for name, value in i.labels:
            values.setdefault(name, {})[value] = None
    fields = []
    for name, seen in values.items():
        field: Field = _LABEL_FIELDS[type(next(iter(seen)))](name)
        fields.append(field.with_labels(map(str, seen)) if field.kind == "category" else field)
    return fields


def _find(name: PathLike, tree: str) -> list[tuple[str, str]] | Absent:
    """(path, tree) of the files that one name means."""
    text = without_scheme(os.path.expanduser(os.fspath(name)))
    check_address(text)
    if is_remote(text):
        try:
            return find_remote(text, tree)
        except SourceNotFoundError as error:
            return Absent(public_address(text), error)
    # A pathlib path names a file, never a tree.
    ways = list(split_names(text)) if isinstance(name, str) else [(text, "")]
    folder = None
    for path, tree_name in ways:
        if os.path.isfile(path):
            return [(path, tree_name or tree)]
        if os.path.isdir(path):
            folder = folder or path
        elif files := _glob(path):
            return [(f, tree_name or tree) for f in files]
    if folder is not None and os.path.isfile(os.path.join(folder, MANIFEST)):
        raise SourceError(
            f"{folder} is a store and no ROOT file; `mmdask info` shows it, mm.open(...) opens it, and ds.to_root "
            "writes rows of it to a ROOT file"
        )
    if folder is not None:
        raise SourceError(f"{folder} is a folder; name the files in it, as in {os.path.join(folder, '*.root')!r}")
    # For the message: up to the last colon that follows a file name, not one inside a folder's.
    path = next((p for p, t in ways if p.endswith(".root")), text)
    return Absent(path, SourceNotFoundError(_not_found(path)))


def _glob(pattern: str) -> list[str]:
    return sorted(filter(os.path.isfile, glob.glob(pattern, recursive=True))) if glob.has_magic(pattern) else []


def _not_found(path: str) -> str:
    folder, name = os.path.split(os.path.abspath(path))
    what = "no file matches" if glob.has_magic(path) else "no file"
    while not os.path.isdir(folder) and not glob.has_magic(folder):
        missing = folder
        folder = os.path.dirname(folder)
        if os.path.isdir(folder):
            near = did_you_mean(os.path.basename(missing), os.listdir(folder))
            return f"{what} {path}: there is no folder {missing}{near}"
    if glob.has_magic(folder):
        return f"{what} {path}"
    files = os.listdir(folder)
    if near := did_you_mean(name, files):
        return f"{what} {path}{near}"
    some = ", ".join(sorted(files)[:10]) + (", ..." if len(files) > 10 else "")
    return f"{what} {path}; in {folder} there {f'are: {some}' if files else 'is nothing'}"


def _stat(path: str) -> tuple[int, int]:
    if is_remote(path):
        return remote_state(path)
    try:
        s = os.stat(path)
    except OSError as error:
        raise SourceNotFoundError(f"{path}: {error.strerror}") from None
    return s.st_size, s.st_mtime_ns


def _check_labels(sources: list[tuple[str, Mapping[str, Label]]]) -> list[tuple[tuple[str, Label], ...]]:
    """The labels of each source as Python values of one type per name, all in the order of the first."""
    first_name, first = sources[0]
    rows: list[dict[str, Label]] = []
    for name, labels in sources:
        if not isinstance(labels, Mapping):
            raise OptionError(f"the labels of {name!r} are a mapping like {{'process': 'ttbb'}}, got {labels!r}")
        if set(labels) != set(first):
            raise SchemaError(
                f"every source has the same labels: {name!r} has {sorted(labels)}, {first_name!r} has {sorted(first)}"
            )
        rows.append({key: _plain(key, value) for key, value in labels.items()})
    for key in first:
        check_name(key)
        types = {type(row[key]) for row in rows}
        if types == {int, float}:
            for row in rows:
                row[key] = float(row[key])
        elif len(types) > 1:
            kinds = " and ".join(sorted(t.__name__ for t in types))
            raise SchemaError(f"the label {key!r} is {kinds} in different sources; give it one type")
    return [tuple((key, row[key]) for key in first) for row in rows]


def _plain(key: str, value: object) -> Label:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
        return int(value)
    if isinstance(value, float) and np.isfinite(value):
        return float(value)
    raise OptionError(f"the label {key!r} is text, a bool, a 64-bit int or a finite float, got {value!r}")
