"""The one door to the operating system for everything that changes a store.

Every mutating call goes through `SYSTEM`, so that tests can record, fail or drop any of them: each method is one call
that a disk can refuse, or lose.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mmdask.kernels.spread import spread, threads

__all__ = ["SYSTEM", "System", "fsync_all", "start_writing_back", "write_atomically"]

_SYNC_FILE_RANGE_WRITE = 2
#: files that are brought to the disk at once
_SYNCS = 8


class System:
    """Mutating system calls, under their own names."""

    def create(self, path: str) -> int:
        """Create a file that is not there yet, and return its descriptor."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def open_or_create(self, path: str) -> int:
        """Open a file for writing, empty if it was not there, and return its descriptor. No link is followed."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)

    def write(self, fd: int, data: memoryview | bytes, offset: int) -> None:
        """Write all of `data` at `offset`."""
        view = memoryview(data)
        while len(view):
            n = os.pwrite(fd, view, offset)
            view, offset = view[n:], offset + n

    def truncate(self, fd: int, nbytes: int) -> None:
        """Make a file this long; what it grows by is zeros."""
        os.ftruncate(fd, nbytes)

    def fsync(self, fd: int) -> None:
        os.fsync(fd)

    def fsync_folder(self, path: str) -> None:
        """Make the names in a folder durable."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def rename(self, old: str, new: str) -> None:
        os.rename(old, new)

    def mkdir(self, path: str) -> None:
        os.mkdir(path)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def rmdir(self, path: str) -> None:
        os.rmdir(path)

    def remove_tree(self, path: str) -> None:
        """Remove a folder and what is in it, as far as that is possible; links are removed, never followed."""
        with contextlib.suppress(OSError):
            with os.scandir(path) as found:
                entries = list(found)
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    self.remove_tree(entry.path)
                else:
                    with contextlib.suppress(OSError):
                        self.unlink(entry.path)
            self.rmdir(path)


SYSTEM = System()


def start_writing_back(fd: int, offset: int, nbytes: int) -> None:
    """Ask the kernel to bring a range of a file to the disk now, so that the fsync at the end has little to wait for.

    Of 0 bytes: up to the end. Only a hint: nothing is durable by it, and nothing happens where the system has no such
    call.
    """
    call = _sync_file_range()
    if call is not None:
        call(fd, offset, nbytes, _SYNC_FILE_RANGE_WRITE)


@functools.cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    try:
        call: Any = ctypes.CDLL(None).sync_file_range
    except (AttributeError, OSError):
        return None
    call.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    call.restype = ctypes.c_int
    found: Callable[[int, int, int, int], int] = call
    return found


def fsync_all(fds: Iterable[int]) -> None:
    """fsync many files; the waits overlap, which is 30 times faster than one by one on disks that wait.

    By threads that stay: Python drops an interrupt that comes while it forgets a thread that ended.
    """
    fds = list(fds)

    def sync(start: int, stop: int) -> None:
        for fd in fds[start:stop]:
            SYSTEM.fsync(fd)

    with threads(_SYNCS):
        spread(len(fds), sync, 1)


def write_atomically(path: str, data: bytes | Sequence[Any], *, durable: bool = True) -> None:
    """Replace a file by `data`: a reader sees either the old bytes or the new, also after a crash at any moment.

    The data may be some buffers of bytes, which are written one after the other.

    If it need not be `durable`, a power loss may leave anything in its place.
    """
    temporary = f"{path}.tmp-{os.getpid()}-{os.urandom(4).hex()}"
    try:
        fd = SYSTEM.create(temporary)
        try:
            offset = 0
            pieces: Sequence[Any] = [data] if isinstance(data, bytes) else data
            for piece in pieces:
                SYSTEM.write(fd, memoryview(piece), offset)
                offset += len(piece)
            if durable:
                SYSTEM.fsync(fd)
        finally:
            os.close(fd)
        SYSTEM.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            SYSTEM.unlink(temporary)
        raise
    if durable:
        SYSTEM.fsync_folder(os.path.dirname(path))
