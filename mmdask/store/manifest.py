"""The manifest: which parts a store has, and what its fields are. The one file that makes anything visible.

`open` reads this file and nothing else, so it stays small: per part its rows, bytes and layer ids.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, get_args

from mmdask import __version__
from mmdask.errors import CorruptStoreError, FormatError, OptionError, SchemaError, StoreNotFoundError, UnfinishedError
from mmdask.schema import Field, Kind, Schema, dtype_from_store
from mmdask.store import document
from mmdask.store.layer import ID_PATTERN

__all__ = ["CONVERSION", "MANIFEST", "VERSION", "Manifest", "Part", "read_manifest", "store_root"]

#: the version of the format that this package writes, and the newest that it reads
VERSION = 1
#: what a store may require of its readers, beyond the fields of the first stores
FEATURES = ("shaped", "optional")
MANIFEST = "manifest.json"
CONVERSION = "conversion.json"


class Part(NamedTuple):
    """An immutable run of rows: one or more layers with the same rows; a later layer overrides an earlier one."""

    rows: int
    layers: tuple[str, ...]
    nbytes: int


@dataclass(frozen=True)
class Manifest:
    """One generation of a store."""

    uuid: str
    generation: int
    block_rows: int
    schema: Schema
    parts: tuple[Part, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def rows(self) -> int:
        return sum(p.rows for p in self.parts)


def dump_manifest(m: Manifest) -> bytes:
    """The bytes of manifest.json."""
    fields = []
    for f in m.schema.values():
        entry: dict[str, Any] = {"name": f.name, "kind": f.kind, "dtype": f.dtype.str}
        optional = {
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
        fields.append({**entry, **{k: v for k, v in optional.items() if v}})
    needs = {"shaped": any(f.kind == "shaped" for f in m.schema.values())}
    needs["optional"] = any(f.optional for f in m.schema.values())
    return document.dump(
        {
            "format": "mmdask",
            "version": VERSION,
            "requires": [name for name in FEATURES if needs[name]],
            "uuid": m.uuid,
            "generation": m.generation,
            "writer": f"mmdask {__version__}",
            "block_rows": m.block_rows,
            "fields": fields,
            "parts": {
                "rows": [p.rows for p in m.parts],
                "nbytes": [p.nbytes for p in m.parts],
                "layers": [list(p.layers) for p in m.parts],
            },
            "attrs": dict(m.attrs),
        }
    )


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Read manifest.json back, checking every value.

    Raises
    ------
    CorruptStoreError
        When the bytes are damaged.
    FormatError
        When they break the format, or need a newer version of mmdask.
    """
    r = document.Reader(document.parse(data, where), where)
    if r.text("format") != "mmdask":
        r.fail("format", "'mmdask'")
    if (version := r.integer("version")) > VERSION:
        raise FormatError(
            f"{where}: format version {version}; this mmdask {__version__} reads up to {VERSION}: "
            "install a newer mmdask"
        )
    if unknown := [name for name in r.texts("requires") if name not in FEATURES]:
        raise FormatError(f"{where}: needs {', '.join(unknown)}, which mmdask {__version__} does not know")
    block_rows = r.integer("block_rows")
    if block_rows < 1 or block_rows & (block_rows - 1):
        r.fail("block_rows", "a power of two")
    try:
        schema = Schema(_parse_field(entry, f"{where}, field {i}") for i, entry in enumerate(r.list("fields")))
    except SchemaError as error:
        raise FormatError(f"{where}: {error}") from None
    return Manifest(
        r.text("uuid", "[0-9a-f]{32}"),
        r.integer("generation"),
        block_rows,
        schema,
        _parse_parts(document.Reader(r.object("parts"), f"{where}, parts")),
        r.object("attrs"),
    )


def _parse_field(entry: Any, where: str) -> Field:
    r = document.Reader(entry, where)
    dtype = dtype_from_store(r.value.get("dtype"))
    if dtype is None:
        r.fail("dtype", "the name of a dtype that a store can hold")
    kind: Kind = r.text("kind")  # type: ignore[assignment]
    if kind not in get_args(Kind):
        r.fail("kind", "one of " + ", ".join(get_args(Kind)))
    return Field(
        r.text("name"),
        kind,
        dtype,
        tuple(r.integers("shape", [])),
        r.integer("levels", 0),
        tuple(r.texts("labels", default=[])),
        r.text("unit", default=""),
        r.text("doc", default=""),
        r.object("attrs", {}),
        r.integer("axes", 0),
        tuple(r.integers("optional", [])),
        r.text("record", default=""),
        r.text("expression", default=""),
    )


def _parse_parts(r: document.Reader) -> tuple[Part, ...]:
    rows, nbytes, layers = r.integers("rows"), r.integers("nbytes"), r.list("layers")
    if not len(rows) == len(nbytes) == len(layers):
        r.fail("layers", "as long as 'rows' and 'nbytes'")
    is_id = re.compile(ID_PATTERN).fullmatch
    for ids in layers:
        if not isinstance(ids, list) or not ids or not all(isinstance(i, str) and is_id(i) for i in ids):
            r.fail("layers", f"lists of one or more ids like {ID_PATTERN}")
    if sum(rows) >= 1 << 63:
        r.fail("rows", "less than 2**63 together")
    return tuple(map(Part, rows, map(tuple, layers), nbytes))


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
    path = history_path(root, generation) if type(generation) is int and 0 < generation < newest.generation else ""
    if not os.path.isfile(path):
        raise StoreNotFoundError(f"{root}: no generation {generation!r}; it has 1 to {newest.generation}")
    with open(path, "rb") as file:
        manifest = parse_manifest(document.read(file, path), path)
    if manifest.generation != generation or manifest.uuid != newest.uuid:
        raise CorruptStoreError(f"{path}: holds generation {manifest.generation} of {manifest.uuid}")
    return manifest


def store_root(path: str | os.PathLike[str]) -> str:
    """The absolute path of a store's folder; ``~`` is the home folder."""
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str) or not text:
        raise OptionError(f"the path of a store is text or a pathlib.Path, got {path!r}")
    return os.path.abspath(os.path.expanduser(text))


def history_path(root: str, generation: int) -> str:
    return os.path.join(root, "history", f"{generation:08d}.json")


def _read(root: str, path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return document.read(file, path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise CorruptStoreError(f"{path}: cannot be read: {error.strerror}") from None
    if not os.path.lexists(root):
        raise StoreNotFoundError(f"no store at {root}: there is no such folder{_near(root)}")
    if not os.path.isdir(root):
        raise StoreNotFoundError(f"no store at {root}: it is a file, and a store is a folder")
    if os.path.exists(os.path.join(root, CONVERSION)):
        raise UnfinishedError(
            f"{root}: a conversion began here and did not finish; run the same call again to go on where it stopped"
        )
    raise StoreNotFoundError(f"no store at {root}: the folder has no {MANIFEST}")


def _near(root: str) -> str:
    from mmdask.errors import did_you_mean

    folder, name = os.path.split(os.path.abspath(root))
    try:
        return did_you_mean(name, os.listdir(folder))
    except OSError:
        return f", nor a folder {folder}"
