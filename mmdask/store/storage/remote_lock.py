"""`Lock`: an object that only one process can create, where the store offers no puts under a condition."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

from mmdask.errors import ConflictError
from mmdask.store.storage.calls import again
from mmdask.store.storage.objects import Objects

__all__ = ["LOCK", "Lock"]

LOCK = "lock.json"
LOCK_SECONDS = 120.0


class Lock:
    """The lock of a store, which holds who took it and when."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        #: whether it stays when it is let go, since what it keeps others from may happen still
        self.stays = False

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold it, or raise `ConflictError` when another process does for too long."""
        owner = {"process": os.getpid(), "host": socket.gethostname(), "nonce": os.urandom(8).hex()}
        deadline = time.monotonic() + LOCK_SECONDS
        try:  # from here on: it may be made when an interrupt ends the waiting for the answer
            while not self._objects.create(json.dumps({**owner, "time": time.time()}).encode(), LOCK):
                if time.monotonic() > deadline:
                    holder = self._holder()
                    since = f", since {time.time() - holder['time']:.0f} s" if holder else ""
                    raise ConflictError(
                        f"{self._objects.root}: another process has been committing for {LOCK_SECONDS:.0f} s (process "
                        f"{holder.get('process', '?')} on {holder.get('host', '?')}{since}); if it is dead, remove "
                        f"{self._objects.root}/{LOCK}"
                    )
                time.sleep(0.05)
            self.stays = False
            yield
        finally:
            if not self.stays:
                try:
                    self._release(owner["nonce"])
                except BaseException:  # an interrupt: one that stays would keep everybody out
                    self._release(owner["nonce"])
                    raise

    def _release(self, nonce: object) -> None:
        """Remove it if it is that of an owner; one that cannot be read stays, and the next commit says whose."""

        def remove() -> None:
            if json.loads(self._objects.read(LOCK, limit=4096)).get("nonce") == nonce:
                self._objects.unlink([(LOCK,)])

        with contextlib.suppress(OSError, ValueError):
            again(remove)

    def _holder(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(self._objects.read(LOCK, limit=4096))
            if isinstance(found, dict) and isinstance(found.get("time"), int | float):
                return found
        return {}
