"""The commit: the only way in which a store changes, atomic and durable.

A commit reads the newest manifest, applies its change to that one, and replaces manifest.json at once, while nobody
else's commit comes between: that is kept away by a lock, or noticed, and then all of it is done again. Whatever happens
before leaves the last commit as it was; nothing that happens afterwards matters. `mmdask.store.storage` has the steps.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from mmdask.display import amount
from mmdask.errors import (
    ConflictError,
    CorruptStoreError,
    FormatError,
    MmdaskError,
    SchemaError,
    StoreNotFoundError,
)
from mmdask.schema import Field, Schema
from mmdask.store.arrays.files import too_many_files
from mmdask.store.document import MAX_NBYTES
from mmdask.store.folder import restore_form
from mmdask.store.layer import Layer, layer_exists
from mmdask.store.manifest import (
    MANIFEST,
    Manifest,
    Part,
    dump_manifest,
    generations,
    parse_manifest,
    read_manifest,
    read_past,
    store_root,
)
from mmdask.store.storage import Storage, Turn, storage_of
from mmdask.store.zarr.form import METADATA, form_of

__all__ = [
    "add_parts",
    "amount",
    "block_rows_for",
    "commit",
    "discard_layers",
    "merge_schemas",
    "remove_layer",
    "same_store",
]

#: characters of the line that says what a commit did; every generation has one
MAX_ACTION = 200
#: a block of the widest field has at most this many bytes
BLOCK_NBYTES = 64 << 10


def commit(
    store_path: str | os.PathLike[str], change: Callable[[Manifest | None], Manifest], *, action: str
) -> Manifest:
    """Replace the manifest by what `change` makes of the newest one.

    Parameters
    ----------
    store_path : path
        The store's folder, which exists.
    change : callable
        Gets the newest manifest, or None when there is none yet, and returns the next; its generation, time and
        action are set here. It is called while other processes wait, and must not wait for them; and once more when
        another process was first, as can be behind a URL.
    action : str
        What is done, in a line for the history, ``"append 3 parts, 1,200 rows"``; a long one is cut.

    Returns
    -------
    Manifest
        As committed: when this returns it is durable.

    Raises
    ------
    ConflictError
        When a layer that the next manifest names, and the newest did not, is not there, or is not stored as the
        manifest says.
    SchemaError
        When no reader would take the next manifest: it has more rows, or longer texts, than the format allows.
    OSError
        When the system refuses a call. Nothing is committed then, unless a note of the error says otherwise.
    """
    root = store_root(store_path)
    storage = storage_of(root)
    tried = set[str]()
    while True:
        with storage.turn() as turn:
            new, done = _attempt(storage, turn, change, action, tried)
        if done:
            return new


def _attempt(
    storage: Storage, turn: Turn, change: Callable[[Manifest | None], Manifest], action: str, tried: set[str]
) -> tuple[Manifest, bool]:
    """The next manifest, and whether it is the newest now: another commit may have been first.

    Layers that earlier attempts were to commit are in `tried`. One that was refused may have happened all the same.
    """
    root = storage.root
    base = _newest(root, turn)
    if base is not None and tried and tried <= base.layers:
        return base, True
    new = change(base)
    if new == base:
        return new, True
    if base is None:
        new = replace(new, zarr=form_of(root))
    _check_layers(storage, base, new)
    tried |= new.layers - (base.layers if base else set())
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    new = replace(new, generation=base.generation + 1 if base else 1, time=now, action=_one_line(action))
    data = _checked(root, dump_manifest(new))
    try:
        return new, turn.publish(new.generation, data)
    except BaseException as error:
        _note_if_visible(root, new, error)
        raise


def _newest(root: str, turn: Turn) -> Manifest | None:
    """The manifest that is to be changed; None where there is none yet."""
    path = os.path.join(root, MANIFEST)
    try:
        data = turn.newest(MAX_NBYTES)
    except OSError as error:
        raise too_many_files(error, path) or CorruptStoreError(f"{path}: cannot be read: {error.strerror}") from None
    return None if data is None else parse_manifest(data, path)


def _checked(root: str, data: bytes) -> bytes:
    """The bytes of a manifest, if readers take them: one that they refuse would lock everybody out of the store."""
    try:
        parse_manifest(data, "the new manifest")
    except FormatError as error:
        raise SchemaError(f"{root}: this would be beyond what a store may hold: {error}; nothing was changed") from None
    return data


def same_store(root: str, newest: Manifest | None, base: Manifest) -> Manifest:
    """The newest manifest, if it is of the store that `base` is of.

    Raises
    ------
    ConflictError
        When the store was removed meanwhile, or another one was put in its place.
    """
    if newest is None or newest.uuid != base.uuid:
        how = "removed" if newest is None else "replaced by another one"
        raise ConflictError(f"{root}: the store was {how} meanwhile; nothing was changed")
    return newest


def _one_line(text: str) -> str:
    # names of files may hold what is no text
    line = " ".join(text.encode(errors="backslashreplace").decode().split())
    return line if len(line) <= MAX_ACTION else line[: MAX_ACTION - 3] + "..."


def _check_layers(storage: Storage, base: Manifest | None, new: Manifest) -> None:
    """Raise `ConflictError` when layers that are named newly are not there, or not stored in the store's form."""
    named = new.layers - (base.layers if base else set())
    if not named:
        return
    # They may have been put in place by a process that died before their names were durable.
    storage.layers_are_durable()
    gone = sorted(layer for layer in named if not layer_exists(storage.root, layer))
    if gone:
        raise ConflictError(
            f"{storage.root}: {len(gone)} of the layers to be committed ({gone[0]}, ...) are gone; removed meanwhile "
            "by vacuum, or by hand. Nothing was committed: write them again (a longer grace= of mm.vacuum leaves slow "
            "writers more time)"
        )
    if storage.is_local:  # nothing but zarr is written elsewhere
        _check_form(storage, base, new, named)


def _check_form(storage: Storage, base: Manifest | None, new: Manifest, named: Iterable[str]) -> None:
    """Raise `ConflictError` when layers were written in another form than the manifest says: no reader would take them.

    Writers go by zarr.json, which may have been lost, or be that of another process that was to make a store here.
    """
    in_zarr = new.zarr is not None
    if all(storage.has("parts", layer, METADATA) == in_zarr for layer in named):
        return
    if base is None:
        what = "another process began to make a store here, with another backend"
    elif restore_form(storage.root, base.zarr):
        what = f"its {METADATA}, by which writers know how arrays are stored, was gone; it is there again"
    else:
        what = f"its {METADATA} is another store's" + ("" if in_zarr else ", and its arrays are plain files; remove it")
    raise ConflictError(f"{storage.root}: {what}. Nothing was committed: write these rows again")


def _note_if_visible(root: str, new: Manifest, error: BaseException) -> None:
    """Say of an error behind the commit point that readers see the commit."""
    with contextlib.suppress(MmdaskError, OSError):
        if read_manifest(root).generation == new.generation:
            error.add_note(
                f"{root}: the commit may have happened: readers see generation {new.generation}, but the system did "
                "not confirm that it is on the disk, so that a power loss may undo it. mm.open(path).generation tells: "
                f"{new.generation} if it is there"
            )


def discard_layers(store_path: str | os.PathLike[str], layer_ids: Iterable[str]) -> None:
    """Remove finished layers that were not committed, which the manifests of the store decide.

    For what is left when a commit failed. When a manifest cannot be read they stay, and `vacuum` finds out.
    """
    root, left = store_root(store_path), set(layer_ids)
    if not left:
        return
    try:
        newest = read_manifest(root)
        left -= newest.layers
        # A commit whose sync failed may be followed by others already.
        for generation in generations(root, newest.generation - 1):
            past = read_past(root, newest, generation)
            left -= past.layers if past else set()
    except StoreNotFoundError:
        pass
    except (MmdaskError, OSError):
        return
    for layer in left:
        remove_layer(root, layer)


def remove_layer(root: str, layer_id: str) -> None:
    """Remove a layer that no manifest names; under another name, so that no moment shows half of it as a layer."""
    storage = storage_of(root)
    if storage.may_commit_late:
        return  # vacuum finds out
    with contextlib.suppress(OSError):
        for left in storage.withdraw([layer_id], ".tmp-"):
            storage.remove_folder("parts", left)


def block_rows_for(layers: Iterable[Layer]) -> int:
    """The grain of shuffling for rows like these: a power of two, up to 64 KiB of the widest field.

    Examples
    --------
    >>> block_rows_for([])
    16384
    """
    nbytes: dict[str, int] = {}
    rows = 0
    for layer in layers:
        rows += layer.rows
        for name in layer.fields:
            nbytes[name] = nbytes.get(name, 0) + layer.field_nbytes(name)
    width = max(nbytes.values(), default=0) / rows if rows else 4.0
    fitting = int(BLOCK_NBYTES / max(width, 1.0))
    return 1 << max(0, fitting.bit_length() - 1)


def merge_schemas(old: Schema, new: Schema, where: str = "", *, base: Schema | None = None) -> Schema:
    """The old schema with the labels of both; fields must agree in everything that is stored.

    Parameters
    ----------
    old, new : Schema
        Of the store as it is, and of the rows to be added.
    where : str
        What the rows are, for messages.
    base : Schema, optional
        What the store was when the rows were begun, if other processes may have changed it since. Fields that were
        dropped meanwhile are left out.

    Raises
    ------
    SchemaError
        Naming the first field that is missing, unknown or of another type.
    ConflictError
        When it is so because another process added or replaced a field since `base`.
    """
    at = f"{where}: " if where else ""
    for name in new:
        if name not in old and (base is None or name not in base):
            raise SchemaError(f"{at}{old.unknown(name, ' in the store')}")
    merged = []
    for name, field in old.items():
        if base is not None and _changed(base.get(name), field, new.get(name)):
            how = "replaced" if name in base else "added"
            raise ConflictError(
                f"{at}another process {how} the field {name!r} ({field.describe()}) while these rows were written, so "
                "they do not fit; nothing was committed: write them again"
            )
        if name not in new:
            raise SchemaError(f"{at}field {name!r} ({field.describe()}) is missing")
        other = new[name]
        if not field.same_layout(other):
            raise SchemaError(f"{at}field {name!r} is {other.describe()}, the store has {field.describe()}")
        merged.append(_merge_labels(field, other))
    return Schema(merged)


def _changed(before: Field | None, now: Field, rows: Field | None) -> bool:
    """Whether rows do not fit a field because it is another than it was."""
    if rows is None:
        return before is None or before.expression != now.expression
    if before is None:
        return False
    same = before.same_layout(now) and before.expression == now.expression
    return not same or not set(rows.optional) <= set(now.optional)


def _merge_labels(field: Field, other: Field) -> Field:
    known = set(field.labels)
    more = tuple(label for label in other.labels if label not in known)
    return field.with_labels(field.labels + more) if more else field


def add_parts(
    manifest: Manifest | None,
    schema: Schema,
    parts: Iterable[Part],
    *,
    block_rows: int,
    base: Schema | None = None,
) -> Manifest:
    """The manifest with more parts at its end; a new one when there is none.

    Parameters
    ----------
    manifest : Manifest or None
        The newest.
    schema : Schema
        Of the parts.
    parts : iterable of Part
        In their order.
    block_rows : int
        For a new manifest only.
    base : Schema, optional
        What the store's was when the parts were begun.

    Raises
    ------
    SchemaError, ConflictError
        See `merge_schemas`.
    """
    if manifest is None:
        return Manifest(os.urandom(16).hex(), 0, block_rows, schema, tuple(parts))
    merged = merge_schemas(manifest.schema, schema, base=base)
    return replace(manifest, schema=merged, parts=(*manifest.parts, *parts))
