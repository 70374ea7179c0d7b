"""`RemoteTurn`: a commit behind a URL, of which it may remain unknown whether it happened."""

from __future__ import annotations

import contextlib
import errno

from mmdask.store.storage.calls import again
from mmdask.store.storage.conditional import LostError, Versioned
from mmdask.store.storage.objects import Objects
from mmdask.store.storage.remote_lock import LOCK, Lock

__all__ = ["RemoteTurn"]

MANIFEST = "manifest.json"


class RemoteTurn:
    """A commit that replaces the manifest if it is still the one that was read.

    The history has the copy of each generation before the next one becomes the newest: whoever died between its
    manifest and that copy leaves it to be written by the next commit.

    Parameters
    ----------
    objects : Objects
        Of the store.
    under_way : set
        Has an entry for each commit of which it is not known what became of it.
    versioned, lock
        By which of both others are kept from coming between.
    """

    def __init__(
        self,
        objects: Objects,
        under_way: set[object],
        *,
        versioned: Versioned | None = None,
        lock: Lock | None = None,
    ) -> None:
        self._objects, self._under_way = objects, under_way
        self._versioned, self._lock = versioned, lock
        self._path = objects.path(MANIFEST)
        self._version: str | None = None
        self._before: bytes | None = None
        self._token = object()

    def newest(self, limit: int) -> bytes | None:
        try:
            if self._versioned is None:
                self._before = self._objects.read(MANIFEST, limit=limit)
            else:
                found = self._objects.call((MANIFEST,), self._versioned.read, self._path)
                self._before, self._version = found
        except FileNotFoundError:
            self._before = self._version = None
        return self._before

    def publish(self, generation: int, data: bytes) -> bool:
        before, objects = self._before, self._objects
        if before is not None and not objects.has(*_history(generation - 1)):
            objects.write(before, *_history(generation - 1))
        try:
            self._begin()
            self._put(data)
            self._end()
        except LostError:
            # A put that was sent again, since its answer got lost, finds itself.
            there = self._is_there(generation, data)
            if there is None:
                lost = OSError(errno.EIO, "the manifest was replaced, by this commit or another one", objects.root)
                raise self._noted(generation, lost) from None
            self._end()
            if not there:
                return False
        except PermissionError:
            self._end()
            raise
        except BaseException as error:
            # Also of an interrupt: it ends the waiting for an answer, and not the request.
            if self._token not in self._under_way:
                self._end()  # an interrupt before the put, or when all was known
                raise
            if not self._is_there(generation, data):
                self._noted(generation, error)
                raise
            self._end()
            if not isinstance(error, OSError):
                raise
        with contextlib.suppress(OSError):  # the next commit writes it, too
            objects.write(data, *_history(generation))
        return True

    def _begin(self) -> None:
        """From now on it may happen, whatever becomes of those who wait for it."""
        if self._lock is not None:
            self._lock.stays = True
        self._under_way.add(self._token)

    def _end(self) -> None:
        """What became of it is known."""
        if self._lock is not None:
            self._lock.stays = False
        self._under_way.discard(self._token)

    def _noted(self, generation: int, error: BaseException) -> BaseException:
        root = self._objects.root
        text = (
            f"{root}: whether generation {generation} was committed is not known: the answer did not come, and it "
            "cannot be seen. It may still be; mm.open(url).generation tells"
        )
        if self._versioned is None:
            # Without a condition it would replace what others commit meanwhile.
            text += f". Until then nobody else may commit: remove {root}/{LOCK} when it cannot happen any more"
        error.add_note(text)
        return error

    def _put(self, data: bytes) -> None:
        if self._versioned is None:
            self._objects.write(data, MANIFEST)
        else:
            self._objects.call((MANIFEST,), self._versioned.put, self._path, data, self._version)

    def _is_there(self, generation: int, data: bytes) -> bool | None:
        """Whether this was committed: it is the newest, or in the history that the next commit wrote.

        None where that cannot be seen.
        """
        found = [self._look(data, MANIFEST), self._look(data, *_history(generation))]
        return True if any(found) else None if None in found else False

    def _look(self, data: bytes, *names: str) -> bool | None:
        """Whether a file holds these bytes; None where it cannot be read, also when it is tried again."""
        try:
            return again(lambda: self._objects.read(*names, limit=len(data)) == data)
        except FileNotFoundError:
            return False
        except OSError:
            return None


def _history(generation: int) -> tuple[str, str]:
    return "history", f"{generation:08d}.json"
