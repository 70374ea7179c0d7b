"""The manifest: which parts a store has, and what its fields are. The one file that makes anything visible.

`open` reads this file and nothing else, so it stays small: per part its rows, bytes and layer ids.
"""

from __future__ import annotations

import gc
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, get_args

import numpy as np

from mmdask import __version__
from mmdask.errors import CorruptStoreError, FormatError, OptionError, SchemaError, StoreNotFoundError, UnfinishedError
from mmdask.schema import Field, Kind, Schema, dtype_from_store
from mmdask.store import document
from mmdask.store.layer import ID_PATTERN
from mmdask.store.storage import is_url, storage_of
from mmdask.store.storage.url import checked_url
from mmdask.store.zarr.form import Form, dump_form, parse_form

__all__ = [
    "CONVERSION",
    "MANIFEST",
    "VERSION",
    "Entry",
    "Manifest",
    "Part",
    "generations",
    "history",
    "history_name",
    "history_path",
    "part_keys",
    "read_manifest",
    "read_past",
    "store_root",
]

#: the version of the format that this package writes, and the newest that it reads
VERSION = 1
#: what a store may require of its readers, beyond the fields of the first stores
FEATURES = ("shaped", "optional", "zarr")
#: of a store: what counts blocks or chunks of rows has to end
MAX_ROWS = 1 << 40
#: rows that a shuffle moves together
MAX_BLOCK_ROWS = 1 << 20
MANIFEST = "manifest.json"
CONVERSION = "conversion.json"
#: when a generation was committed: UTC, to the second
TIME_PATTERN = r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z)?"
_HISTORY_NAME = re.compile(r"([0-9]{8}|[1-9][0-9]{8,18})\.json")


class Part(NamedTuple):
    """An immutable run of rows: one or more layers with the same rows; a later layer overrides an earlier one."""

    rows: int
    layers: tuple[str, ...]
    nbytes: int


def part_keys(parts: Iterable[Part]) -> Iterator[tuple[tuple[str, ...], int]]:
    """What tells each part from the others: its layers, and how many parts before it have the same ones.

    Examples
    --------
    >>> list(part_keys([Part(2, ("a",), 8), Part(2, ("a",), 8), Part(1, ("b", "c"), 4)]))
    [(('a',), 0), (('a',), 1), (('b', 'c'), 0)]
    """
    seen: Counter[tuple[str, ...]] = Counter()
    for part in parts:
        yield part.layers, seen[part.layers]
        seen[part.layers] += 1


@dataclass(frozen=True)
class Manifest:
    """One generation of a store.

    `aux` are arrays that are not per row: each is the one row of a field, in one of `aux_layers`, of which a later one
    overrides an earlier one. `time` (UTC, ISO 8601) and `action` say when and by what the generation came to be; they
    are no part of what it holds, and so not of equality. `zarr` says how arrays are stored that are no ``.npy`` files.
    """

    uuid: str
    generation: int
    block_rows: int
    schema: Schema
    parts: tuple[Part, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    aux: Schema = Schema()  # noqa: RUF009  (immutable)
    aux_layers: tuple[str, ...] = ()
    time: str = field(default="", compare=False)
    action: str = field(default="", compare=False)
    zarr: Form | None = None

    @property
    def rows(self) -> int:
        return sum(p.rows for p in self.parts)

    @property
    def layers(self) -> set[str]:
        """Ids of all layers that the generation is made of."""
        return {i for p in self.parts for i in p.layers} | set(self.aux_layers)


class Entry(NamedTuple):
    """One generation in the history of a store: when it was committed, by what, and how large it was."""

    generation: int
    time: str
    action: str
    n_rows: int
    n_parts: int
    n_fields: int


def dump_manifest(m: Manifest) -> bytes:
    """The bytes of manifest.json."""
    every = [*m.schema.values(), *m.aux.values()]
    needs = {
        "shaped": any(f.kind == "shaped" for f in every),
        "optional": any(f.optional for f in every),
        "zarr": m.zarr is not None,
    }
    text: dict[str, Any] = {
        "format": "mmdask",
        "version": VERSION,
        "requires": [name for name in FEATURES if needs[name]],
        "uuid": m.uuid,
        "generation": m.generation,
        "writer": f"mmdask {__version__}",
        "time": m.time,
        "action": m.action,
        "block_rows": m.block_rows,
        "fields": list(map(_dump_field, m.schema.values())),
        "parts": {
            "rows": [p.rows for p in m.parts],
            "nbytes": [p.nbytes for p in m.parts],
            "layers": [list(p.layers) for p in m.parts],
        },
        "attrs": dict(m.attrs),
    }
    if m.zarr is not None:
        text["zarr"] = dump_form(m.zarr)
    if m.aux:
        text["aux"] = {"fields": list(map(_dump_field, m.aux.values())), "layers": list(m.aux_layers)}
    return document.dump(text)


def _dump_field(f: Field) -> dict[str, Any]:
    others = {
        "shape": list(f.shape),
        "levels": f.levels,
        "labels": list(f.labels),
        "unit": f.unit,
        "doc": f.doc,
        "attrs": dict(f.attrs),
        "axes": f.axes,
        "optional": list(f.optional),
        "record": f.record,
        "expression": f.expression,
    }
    return {"name": f.name, "kind": f.kind, "dtype": f.dtype.str, **{k: v for k, v in others.items() if v}}


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Read manifest.json back, checking every value.

    Raises
    ------
    CorruptStoreError
        When the bytes are damaged.
    FormatError
        When they break the format, or need a newer version of mmdask.
    """
    # Many objects are made that are all kept: to look for garbage would take a quarter of the time.
    enabled = gc.isenabled()
    try:
        gc.disable()
        return _parse(data, where)
    finally:
        if enabled:
            gc.enable()


def _parse(data: bytes, where: str) -> Manifest:
    r = document.Reader(document.parse(data, where), where)
    if r.text("format") != "mmdask":
        r.fail("format", "'mmdask'")
    if (version := r.integer("version")) > VERSION:
        raise FormatError(
            f"{where}: format version {version}; this mmdask {__version__} reads up to {VERSION}: "
            "install a newer mmdask"
        )
    if version < 1:
        r.fail("version", f"1 to {VERSION}")
    r.text("writer", default="")
    requires = r.texts("requires")
    if unknown := [name for name in requires if name not in FEATURES]:
        raise FormatError(f"{where}: needs {', '.join(unknown)}, which mmdask {__version__} does not know")
    block_rows = r.integer("block_rows")
    if not 1 <= block_rows <= MAX_BLOCK_ROWS or block_rows & (block_rows - 1):
        r.fail("block_rows", f"a power of two up to {MAX_BLOCK_ROWS}")
    if r.integer("generation") < 1:
        r.fail("generation", "1 or more")
    aux = document.Reader(r.object("aux", {"fields": [], "layers": []}), f"{where}, aux")
    aux_fields, aux_layers = _parse_schema(aux), tuple(aux.texts("layers", ID_PATTERN))
    if aux_fields and not aux_layers:
        aux.fail("layers", "one id or more, for there are fields")
    return Manifest(
        r.text("uuid", "[0-9a-f]{32}"),
        r.integer("generation"),
        block_rows,
        _parse_schema(r),
        _parse_parts(document.Reader(r.object("parts"), f"{where}, parts")),
        r.attrs("attrs"),
        aux_fields,
        aux_layers if aux_fields else (),
        r.text("time", TIME_PATTERN, ""),
        r.text("action", default=""),
        parse_form(document.Reader(r.object("zarr"), f"{where}, zarr")) if "zarr" in requires else None,
    )


def _parse_schema(r: document.Reader) -> Schema:
    try:
        return Schema(_parse_field(entry, f"{r.where}, field {i}") for i, entry in enumerate(r.list("fields")))
    except SchemaError as error:
        raise FormatError(f"{r.where}: {error}") from None


def _parse_field(entry: Any, where: str) -> Field:
    r = document.Reader(entry, where)
    dtype = dtype_from_store(r.value.get("dtype"))
    if dtype is None:
        r.fail("dtype", "the name of a dtype that a store can hold")
    kind: Kind = r.text("kind")  # type: ignore[assignment]
    if kind not in get_args(Kind):
        r.fail("kind", "one of " + ", ".join(get_args(Kind)))
    field = Field(
        r.text("name"),
        kind,
        dtype,
        tuple(r.integers("shape", [])),
        r.integer("levels", 0),
        tuple(r.texts("labels", default=[])),
        r.text("unit", default=""),
        r.text("doc", default=""),
        r.attrs("attrs", {}),
        r.integer("axes", 0),
        tuple(r.integers("optional", [])),
        r.text("record", default=""),
        r.text("expression", default=""),
    )
    if field.dtype != dtype:
        r.fail("dtype", f"{field.dtype.str} for a {kind} field")
    return field


def _parse_parts(r: document.Reader) -> tuple[Part, ...]:
    rows, nbytes, layers = r.integers("rows"), r.integers("nbytes"), r.list("layers")
    if not len(rows) == len(nbytes) == len(layers):
        r.fail("layers", "as long as 'rows' and 'nbytes'")
    if not _are_ids(layers):
        r.fail("layers", f"lists of one or more ids like {ID_PATTERN}")
    if sum(rows) > MAX_ROWS:
        r.fail("rows", f"at most {MAX_ROWS} together")
    # `Part(...)` goes through Python, for each of them
    return tuple(map(tuple.__new__, itertools.repeat(Part), zip(rows, map(tuple, layers), nbytes, strict=True)))


_ID_BYTES = b"abcdefghijklmnopqrstuvwxyz0123456789-"
_ID_LENGTH = 80


def _are_ids(layers: list[Any]) -> bool:
    """Whether these are lists of one or more texts like `ID_PATTERN`.

    They are looked at all together: matching one after the other takes as long as reading JSON.
    """
    if not layers:
        return True
    if set(map(type, layers)) != {list} or not all(layers):
        return False
    try:
        lines = "\n".join(["", *itertools.chain.from_iterable(layers), ""]).encode("ascii", "replace")
    except TypeError:  # not of texts
        return False
    n = sum(map(len, layers))
    if lines.translate(None, _ID_BYTES) != b"\n" * (n + 1):
        return False
    characters = np.frombuffer(lines, np.uint8)
    ends = np.flatnonzero(characters == ord("\n"))
    lengths = np.diff(ends) - 1
    return bool(lengths.min() >= 1 and lengths.max() <= _ID_LENGTH and (characters[ends[:-1] + 1] != ord("-")).all())


def read_manifest(store_path: str | os.PathLike[str], generation: int | None = None) -> Manifest:
    """Read the manifest of a store: the newest, or an older generation from its history.

    Raises
    ------
    StoreNotFoundError
        When there is no store, or no such generation; `UnfinishedError` when a conversion began there.
    CorruptStoreError, FormatError
        When the manifest is damaged or breaks the format.
    """
    root = store_root(store_path)
    path = os.path.join(root, MANIFEST)
    newest = parse_manifest(_read(root, path), path)
    if generation is None or (type(generation) is int and generation == newest.generation):
        return newest
    # What history holds beyond the manifest was never committed.
    past = None
    if type(generation) is int and 0 < generation < newest.generation:
        past = read_past(root, newest, generation)
    if past is None:
        raise StoreNotFoundError(
            f"{root}: no generation {generation!r}; the newest is {newest.generation}, and its history says which "
            "older ones are left (mmdask history)"
        )
    return past


def read_past(root: str, newest: Manifest, generation: int) -> Manifest | None:
    """An older generation of a store; None when it was trimmed.

    Raises
    ------
    CorruptStoreError, FormatError
        When its manifest is damaged, breaks the format, or is that of another store.
    """
    path = history_path(root, generation)
    try:
        past = parse_manifest(document.read_file(root, "history", os.path.basename(path)), path)
    except FileNotFoundError:
        return None
    except OSError as error:
        if isinstance(error, CorruptStoreError):
            raise
        raise document.unread(path, error) from None
    if past.generation != generation or past.uuid != newest.uuid:
        raise CorruptStoreError(f"{path}: holds generation {past.generation} of {past.uuid}")
    return past


def generations(root: str, newest: int) -> list[int]:
    """Generations that the history folder holds, ascending; a later one than `newest` was never committed."""
    names = (entry.name for entry in storage_of(root).entries("history"))
    found = sorted(int(match[1]) for match in map(_HISTORY_NAME.fullmatch, names) if match)
    return [g for g in found if g <= newest]


def history(store_path: str | os.PathLike[str]) -> list[Entry]:
    """The generations of a store that can still be opened, oldest first; the last one is the newest.

    Raises
    ------
    StoreNotFoundError, CorruptStoreError, FormatError
        See `read_manifest`.
    """
    root = store_root(store_path)
    newest = read_manifest(root)
    past = (read_past(root, newest, g) for g in generations(root, newest.generation - 1))
    return [
        Entry(m.generation, m.time, m.action, m.rows, len(m.parts), len(m.schema))
        for m in (*past, newest)
        if m is not None
    ]


def store_root(path: str | os.PathLike[str]) -> str:
    """The root of a store: the absolute path of its folder, where ``~`` is the home folder, or its URL."""
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str) or not text:
        raise OptionError(f"the path of a store is text or a pathlib.Path, got {path!r}")
    return checked_url(text) or os.path.abspath(os.path.expanduser(text))


def history_name(generation: int) -> tuple[str, str]:
    """Where the manifest of a generation is in a store."""
    return "history", f"{generation:08d}.json"


def history_path(root: str, generation: int) -> str:
    return os.path.join(root, *history_name(generation))


def _read(root: str, path: str) -> bytes:
    try:
        return document.read_file(root, MANIFEST)
    except (FileNotFoundError, NotADirectoryError) as error:
        if is_url(root):
            raise _not_behind(root, error) from None
    except OSError as error:
        raise document.unread(path, error) from None
    if not os.path.lexists(root):
        raise StoreNotFoundError(f"no store at {root}: there is no such folder{_near(root)}")
    if not os.path.isdir(root):
        raise StoreNotFoundError(f"no store at {root}: it is a file, and a store is a folder")
    if os.path.exists(os.path.join(root, CONVERSION)):
        raise _unfinished(root)
    raise StoreNotFoundError(f"no store at {root}: the folder has no {MANIFEST}{_lost(root)}")


def _not_behind(url: str, error: OSError) -> StoreNotFoundError:
    """What to say of a URL behind which there is no manifest."""
    if "bucket" in (error.strerror or ""):
        return StoreNotFoundError(f"no store at {url}: {error.strerror}")
    if storage_of(url).has(CONVERSION):
        return _unfinished(url)
    alone = "" if storage_of(url).is_shared else ", and what a process keeps in memory no other one sees"
    return StoreNotFoundError(f"no store at {url}: there is no {MANIFEST}{alone}{_lost(url)}")


def _unfinished(root: str) -> UnfinishedError:
    return UnfinishedError(
        f"{root}: a conversion began here and did not finish; run the same call again to go on where it stopped"
    )


def _lost(root: str) -> str:
    """What to do where a manifest is gone and there is a history, for the end of a message."""
    found = generations(root, 1 << 63)
    return f"; if there was a store, {repair(root, found[-1])}" if found else ""


def repair(root: str, generation: int) -> str:
    """What to do about a manifest that is gone, while the history has its copy of a generation."""
    copy = os.path.relpath(history_path(root, generation), root)
    return f"copy {copy} to {MANIFEST}, and `mmdask verify` says whether all is there"


def _near(root: str) -> str:
    from mmdask.errors import did_you_mean

    folder, name = os.path.split(os.path.abspath(root))
    try:
        return did_you_mean(name, os.listdir(folder))
    except OSError:
        return f", nor a folder {folder}"
