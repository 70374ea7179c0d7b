"""The commit: the only way in which a store changes, atomic and durable.

A commit takes the store's lock, reads the newest manifest, applies its change to that one, and replaces manifest.json
by rename. Whatever happens before the rename leaves the last commit as it was; nothing that happens after it matters.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from mmdask.errors import ConflictError, SchemaError, StoreNotFoundError
from mmdask.schema import Field, Schema
from mmdask.store.layer import Layer
from mmdask.store.manifest import MANIFEST, Manifest, Part, dump_manifest, history_path, read_manifest, store_root
from mmdask.store.system import SYSTEM, write_atomically

__all__ = ["add_parts", "block_rows_for", "commit", "merge_schemas"]

LOCK_SECONDS = 120.0
#: a block of the widest field has at most this many bytes
BLOCK_NBYTES = 64 << 10


class _Lock:
    """An flock that a forked child does not keep alive."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)

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
                        f"{root}: another process has been committing for {LOCK_SECONDS:.0f} s; if none is, "
                        "a process is stopped inside a commit: end it"
                    ) from None
                time.sleep(0.005)
        yield
    finally:
        if lock.fd >= 0:
            # Explicitly: a child forked meanwhile shares the lock and would keep it.
            fcntl.flock(lock.fd, fcntl.LOCK_UN)
        lock.close()
        _HELD.discard(lock)


def commit(store_path: str | os.PathLike[str], change: Callable[[Manifest | None], Manifest]) -> Manifest:
    """Replace the manifest by what `change` makes of the newest one.

    Parameters
    ----------
    store_path : path
        The store's folder, which exists.
    change : callable
        Gets the newest manifest, or None when there is none yet, and returns the next; its generation is set here.
        It may be called while other processes wait: it must not wait for them.

    Returns
    -------
    Manifest
        As committed: when this returns it is durable.
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
        new = replace(new, generation=base.generation + 1 if base else 1)
        data = dump_manifest(new)
        history = os.path.join(root, "history")
        with contextlib.suppress(FileExistsError):
            SYSTEM.mkdir(history)
        # One that is already there belongs to a writer that died before its commit point.
        write_atomically(history_path(root, new.generation), data)
        write_atomically(os.path.join(root, MANIFEST), data)
    return new


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


def merge_schemas(old: Schema, new: Schema, where: str = "") -> Schema:
    """The old schema with the labels of both; fields must agree in everything that is stored.

    Raises
    ------
    SchemaError
        Naming the first field that is missing, unknown or of another type.
    """
    at = f"{where}: " if where else ""
    for name in new:
        if name not in old:
            raise SchemaError(f"{at}{old.unknown(name, ' in the store')}")
    merged = []
    for name, field in old.items():
        if name not in new:
            raise SchemaError(f"{at}field {name!r} ({field.describe()}) is missing")
        other = new[name]
        if not field.same_layout(other):
            raise SchemaError(f"{at}field {name!r} is {other.describe()}, the store has {field.describe()}")
        merged.append(_merge_labels(field, other))
    return Schema(merged)


def _merge_labels(field: Field, other: Field) -> Field:
    known = set(field.labels)
    more = tuple(label for label in other.labels if label not in known)
    return field.with_labels(field.labels + more) if more else field


def add_parts(manifest: Manifest | None, schema: Schema, parts: Iterable[Part], *, block_rows: int) -> Manifest:
    """The manifest with more parts at its end; a new one when there is none. `block_rows` is for a new one only."""
    if manifest is None:
        return Manifest(os.urandom(16).hex(), 0, block_rows, schema, tuple(parts))
    return replace(manifest, schema=merge_schemas(manifest.schema, schema), parts=(*manifest.parts, *parts))
