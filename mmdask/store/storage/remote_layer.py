"""`RemoteLayer`: the objects of a layer that is written behind a URL, some at a time."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from mmdask.store.storage.base import SyncedFile
from mmdask.store.storage.objects import Objects
from mmdask.store.storage.scratch import Scratch

__all__ = ["RemoteLayer"]

#: of a layer that is a group of zarr, the same in all of them
METADATA = "zarr.json"
#: objects of a layer that are written at once
_PUTS = 8


class RemoteLayer:
    """Objects of a layer in their place, which is none before its part.json is there."""

    def __init__(self, objects: Objects, layer_id: str) -> None:
        self._objects, self.id = objects, layer_id
        self.folder = f"{objects.root}/parts/{layer_id}"
        self.mark = f"-{os.urandom(4).hex()}"
        self._pool: ThreadPoolExecutor | None = None
        self._under_way: deque[Future[None]] = deque()
        self._written: dict[str, None] = {}
        self._scratch: Scratch | None = None
        self._stays = False

    def write(self, data: bytes, *names: str) -> None:
        self._written[names[0]] = None
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_PUTS, thread_name_prefix="mmdask-put")
        self._wait(_PUTS - 1)
        self._under_way.append(self._pool.submit(self._objects.write, data, "parts", self.id, *names))

    def _wait(self, n: int = 0) -> None:
        """Wait until no more than so many objects are under way."""
        while len(self._under_way) > n:
            self._under_way.popleft().result()

    def read(self, *names: str) -> bytes:
        self._wait()
        return self._objects.read("parts", self.id, *names)

    def remove(self, *names: str) -> None:
        self._wait()
        self._objects.remove_folder("parts", self.id, *names)

    def scratch(self) -> str:
        self._scratch = self._scratch or Scratch()
        return self._scratch.folder

    def finish(self, document: bytes, others: Sequence[SyncedFile] = ()) -> bool:
        assert not others
        self._wait()
        self._stays = True  # also when it is not known whether part.json was put: it may be there later
        self._stays = self._objects.create(document, "parts", self.id, "part.json")
        if self._stays:
            self._close()
        return self._stays

    def discard(self) -> None:
        """Take away what this attempt wrote; another one may be at the same layer."""
        self._close()
        if self._stays:
            return
        with contextlib.suppress(OSError):
            if self._objects.has("parts", self.id, "part.json"):
                self._written.pop(METADATA, None)
            for name in self._written:
                self._objects.remove_folder("parts", self.id, name)

    def _close(self) -> None:
        if self._scratch is not None:
            self._scratch.remove()
            self._scratch = None
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool, self._under_way = None, deque()
