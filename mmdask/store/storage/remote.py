"""Stores behind URLs, by fsspec: objects that are replaced as a whole.

There are no folders, no renames and no locks of the system there. An object appears at once with all its bytes. So the
objects of a layer are written first and its part.json last: without that it is none. Several may make the same layer,
as when a worker was taken for dead: each writes arrays of its own names, and part.json is put where there is none yet.
A commit puts the new manifest under the condition that the old one is still the newest, where the store offers that
(`conditional`); elsewhere it takes a lock, an object that only one process can create.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence

from mmdask.store.storage.base import Turn
from mmdask.store.storage.conditional import CONDITIONAL
from mmdask.store.storage.objects import Objects
from mmdask.store.storage.remote_layer import RemoteLayer
from mmdask.store.storage.remote_lock import Lock
from mmdask.store.storage.remote_turn import RemoteTurn

__all__ = ["RemoteStorage", "remote_storage"]

_KNOWN: dict[tuple[str, int], RemoteStorage] = {}


def remote_storage(root: str) -> RemoteStorage:
    """The storage behind a URL; one for each of them in a process."""
    key = root, os.getpid()
    known = _KNOWN.get(key)
    # Of threads that come at the same time all get the first: it knows of commits that may come late.
    return _KNOWN.setdefault(key, RemoteStorage(root)) if known is None else known


class RemoteStorage(Objects):
    """A store of objects below a URL; parameter and errors are those of `Objects`."""

    is_local = False
    is_slow = True

    def __init__(self, root: str) -> None:
        super().__init__(root)
        #: commits that are under way, and those of which nobody knows what became of them
        self.commits: set[object] = set()
        self.is_shared = self.scheme != "memory"
        self._lock = Lock(self)

    @property
    def may_commit_late(self) -> bool:
        return bool(self.commits)

    def new_layer(self, layer_id: str) -> RemoteLayer:
        self.check_writable()
        return RemoteLayer(self, layer_id)

    def layers_are_durable(self) -> None:
        """An object that is there is durable."""

    @contextlib.contextmanager
    def turn(self) -> Iterator[Turn]:
        self.check_writable()
        versioned = CONDITIONAL.get(self.scheme)
        if versioned is not None:
            yield RemoteTurn(self, self.commits, versioned=versioned(self.fs))
        else:
            with self._lock.held():
                yield RemoteTurn(self, self.commits, lock=self._lock)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        self.check_writable()
        if self.scheme in CONDITIONAL:
            yield
        else:
            with self._lock.held():
                yield

    def sync_names(self, *names: str) -> None:
        """An object that was removed is gone."""

    def withdraw(self, layer_ids: Sequence[str], mark: str) -> list[str]:
        self.unlink([("parts", layer_id, "part.json") for layer_id in layer_ids])
        return list(layer_ids)
