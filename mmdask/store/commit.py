"""The commit: the only way in which a store changes, atomic and durable.

A commit takes the store's lock, reads the newest manifest, applies its change to that one, and replaces manifest.json
by rename. Whatever happens before the rename leaves the last commit as it was; nothing that happens after it matters.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from mmdask.display import amount
from mmdask.errors import ConflictError, FormatError, MmdaskError, SchemaError, StoreNotFoundError
from mmdask.schema import Field, Schema
from mmdask.store.files import is_own_folder
from mmdask.store.layer import Layer, layer_exists, layer_path
from mmdask.store.manifest import (
    MANIFEST,
    Manifest,
    Part,
    dump_manifest,
    generations,
    history_path,
    parse_manifest,
    read_manifest,
    read_past,
    store_root,
)
from mmdask.store.system import SYSTEM, write_atomically

__all__ = [
    "add_parts",
    "amount",
    "block_rows_for",
    "commit",
    "discard_layers",
    "locked",
    "merge_schemas",
    "remove_layer",
    "same_store",
]

LOCK_SECONDS = 120.0
#: characters of the line that says what a commit did; every generation has one
MAX_ACTION = 200
#: a block of the widest field has at most this many bytes
BLOCK_NBYTES = 64 << 10


class _Lock:
    """An flock that a forked child does not keep alive."""

    #: bytes of the line that says who took it last; written over each time, so that no moment has half of one
    NBYTES = 128

    def __init__(self, path: str) -> None:
        try:
            self.fd = SYSTEM.open_or_create(path)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise FormatError(f"{path} is a link, which a store has none of; nothing is written through it") from None

    def sign(self) -> None:
        """Say who holds it; for people, so that a full disk is no reason to stop."""
        text = f"process {os.getpid()} on {socket.gethostname()}"[: self.NBYTES - 1]
        with contextlib.suppress(OSError):
            SYSTEM.write(self.fd, text.encode("ascii", "replace").ljust(self.NBYTES - 1) + b"\n", 0)

    def holder(self) -> str:
        """Who took it last, in words; empty if it does not say."""
        return os.pread(self.fd, self.NBYTES, 0).decode("ascii", "replace").strip()

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


_HELD: weakref.WeakSet[_Lock] = weakref.WeakSet()


def _close_in_child() -> None:
    for lock in list(_HELD):
        lock.close()


os.register_at_fork(after_in_child=_close_in_child)


@contextlib.contextmanager
def locked(root: str) -> Iterator[None]:
    """Hold the store's lock; the file stays, so that all processes lock the same one."""
    lock = _Lock(os.path.join(root, ".lock"))
    _HELD.add(lock)
    deadline = time.monotonic() + LOCK_SECONDS
    try:
        while True:
            try:
                fcntl.flock(lock.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ConflictError(
                        f"{root}: another process has been committing for {LOCK_SECONDS:.0f} s "
                        f"({lock.holder() or 'it does not say which'}); if it is stopped inside a commit, end it"
                    ) from None
                time.sleep(0.005)
        lock.sign()
        yield
    finally:
        if lock.fd >= 0:
            # Explicitly: a child forked meanwhile shares the lock and would keep it.
            fcntl.flock(lock.fd, fcntl.LOCK_UN)
        lock.close()
        _HELD.discard(lock)


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
        action are set here. It is called while other processes wait: it must not wait for them.
    action : str
        What is done, in a line for the history, ``"append 3 parts, 1,200 rows"``; a long one is cut.

    Returns
    -------
    Manifest
        As committed: when this returns it is durable.

    Raises
    ------
    ConflictError
        When a layer that the next manifest names, and the newest did not, is not there.
    SchemaError
        When no reader would take the next manifest: it has more rows, or longer texts, than the format allows.
    OSError
        When the system refuses a call. Nothing is committed then, unless a note of the error says otherwise.
    """
    root = store_root(store_path)
    with locked(root):
        try:
            base = read_manifest(root)
        except StoreNotFoundError:
            base = None
        new = change(base)
        if new == base:
            return new
        _check_layers(root, base, new)
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        new = replace(new, generation=base.generation + 1 if base else 1, time=now, action=_one_line(action))
        data = _checked(root, dump_manifest(new))
        history = os.path.join(root, "history")
        with contextlib.suppress(FileExistsError):
            SYSTEM.mkdir(history)
        if not is_own_folder(root, "history"):
            raise FormatError(f"{history} is a link or a file, which it cannot be in a store; nothing is written")
        if base is None:
            # The folders are there before the manifest that needs them, also those that a dead process made.
            SYSTEM.fsync_folder(os.path.dirname(root))
            SYSTEM.fsync_folder(root)
        # One that is already there belongs to a writer that died before its commit point.
        write_atomically(history_path(root, new.generation), data)
        try:
            write_atomically(os.path.join(root, MANIFEST), data)
        except BaseException as error:
            _note_if_visible(root, new, error)
            raise
    return new


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


def _check_layers(root: str, base: Manifest | None, new: Manifest) -> None:
    """Raise `ConflictError` when layers that are named newly are not there."""
    named = new.layers - (base.layers if base else set())
    if not named:
        return
    # They may have been put in place by a process that died before their names were durable.
    with contextlib.suppress(FileNotFoundError):
        SYSTEM.fsync_folder(os.path.join(root, "parts"))
    gone = sorted(layer for layer in named if not layer_exists(root, layer))
    if gone:
        raise ConflictError(
            f"{root}: {len(gone)} of the layers to be committed ({gone[0]}, ...) are gone; removed meanwhile by "
            "vacuum, or by hand. Nothing was committed: write them again (a longer grace= of mm.vacuum leaves slow "
            "writers more time)"
        )


def _note_if_visible(root: str, new: Manifest, error: BaseException) -> None:
    """Say of an error behind the commit point that readers see the commit."""
    with contextlib.suppress(MmdaskError):
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
    except MmdaskError:
        return
    for layer in left:
        remove_layer(root, layer)


def remove_layer(root: str, layer_id: str) -> None:
    """Remove a layer that no manifest names; under another name, so that no moment shows half of it as a layer."""
    path = layer_path(root, layer_id)
    aside = f"{path}.tmp-{os.urandom(8).hex()}"
    with contextlib.suppress(OSError):
        SYSTEM.rename(path, aside)
        SYSTEM.fsync_folder(os.path.dirname(path))
        SYSTEM.remove_tree(aside)


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
