"""Folders for files that wait on this machine until they are objects of a store behind a URL."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile

__all__ = ["Scratch"]

_PREFIX = f"mmdask-scratch-{os.getuid()}-"
#: is locked as long as the process lives that the folder belongs to, or one that was forked from it
_OWNER = "owner"


class Scratch:
    """A folder in the temporary folder of the system, removed by `remove`; those of processes that died go, too."""

    def __init__(self) -> None:
        above = tempfile.gettempdir()
        for name in os.listdir(above):
            if name.startswith(_PREFIX):
                _remove_dead(os.path.join(above, name))
        while True:
            self.folder = tempfile.mkdtemp(prefix=_PREFIX, dir=above)
            owner = os.path.join(self.folder, _OWNER)
            self._fd = os.open(owner, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            if os.path.lexists(owner):
                break
            os.close(self._fd)  # before it was locked, another process took it for that of a dead one

    def remove(self) -> None:
        """Remove it and what is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._fd >= 0:
            fd, self._fd = self._fd, -1  # first: after an interrupt it is removed once more
            os.close(fd)


def _remove_dead(folder: str) -> None:
    """Remove the folder of a process that was killed."""
    with contextlib.suppress(OSError):
        if os.lstat(folder).st_uid != os.getuid():
            return
        # One without the file is just being made, or removed.
        fd = os.open(os.path.join(folder, _OWNER), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(fd)
