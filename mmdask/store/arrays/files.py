"""Files of a store, opened for reading so that a store from a stranger leads nowhere else and holds nobody up.

Below the store's own folder no link is followed, and only regular files are opened: a pipe would wait for ever.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterable

from mmdask.errors import LimitError

__all__ = ["ask_for", "is_file", "is_in_memory", "is_own_folder", "open_file", "read_fully", "too_many_files"]

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_TOO_MANY = (errno.EMFILE, errno.ENFILE)

#: closes the descriptors that are only kept to be used again; `held`, which keeps them, puts it here
GIVE_UP: list[Callable[[], None]] = []


def open_file(parent: str, *names: str) -> int:
    """Open a regular file for reading, and return its descriptor.

    Where the process may open no more files, those that are only kept are closed first.

    Parameters
    ----------
    parent : str
        A folder; links on the way to it are followed.
    *names : str
        Folders below it, and the file. None of them may be a link.

    Raises
    ------
    OSError
        When it is not there, is reached through a link, or is no regular file; `strerror` says which.
    """
    try:
        return _open(parent, names)
    except OSError as error:
        if error.errno not in _TOO_MANY:
            raise
    for give_up in GIVE_UP:
        give_up()
    return _open(parent, names)


def too_many_files(error: OSError, path: str) -> LimitError | None:
    """What to raise where this process may open no more files, which says nothing of this one; None if it may."""
    if error.errno not in _TOO_MANY:
        return None
    return LimitError(f"{path}: this process has too many open files; close some, or raise `ulimit -n`")


def _open(parent: str, names: tuple[str, ...]) -> int:
    folder = fd = -1
    try:
        try:
            for depth, name in enumerate(names[:-1]):
                above = folder
                path = name if depth else os.path.join(parent, name)
                folder = os.open(path, _FOLDER, dir_fd=above if depth else None)
                if depth:
                    os.close(above)
            single = os.path.join(parent, names[-1])
            fd = os.open(single if folder < 0 else names[-1], _FILE, dir_fd=None if folder < 0 else folder)
        finally:
            if folder >= 0:
                os.close(folder)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", os.path.join(parent, *names))
    except BaseException as error:
        if fd >= 0:
            os.close(fd)
        if isinstance(error, OSError):
            raise _explained(error, os.path.join(parent, *names)) from None
        raise
    return fd


def read_fully(fd: int, view: memoryview, offset: int) -> None:
    """Fill bytes from an offset of a file.

    Raises
    ------
    OSError
        As the system says it.
    EOFError
        When the file ends too early.
    """
    while len(view):  # one call reads 2 GiB at most
        n = os.preadv(fd, [view], offset)
        if not n:
            raise EOFError(f"has no byte {offset}")
        view, offset = view[n:], offset + n


def ask_for(fd: int, ranges: Iterable[tuple[int, int]]) -> None:
    """Have the system read ranges of bytes of a file, in their order, without waiting for them.

    Each is its first byte and the one after its last. Advice alone: where the system does not take it, they are read
    when they are wanted.
    """
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            for begin, end in ranges:
                os.posix_fadvise(fd, begin, end - begin, os.POSIX_FADV_WILLNEED)


def is_in_memory(fd: int, offsets: Iterable[int]) -> bool:
    """Whether the system has the pages of all of these bytes of a file; False where it does not tell.

    The first page that it does not have may be read by that.
    """
    if not hasattr(os, "RWF_NOWAIT"):
        return False
    byte = bytearray(1)
    try:
        for offset in offsets:
            os.preadv(fd, [byte], offset, os.RWF_NOWAIT)
    except OSError:  # it would have to wait, or the file system has no such read
        return False
    return True


def is_file(parent: str, *names: str) -> bool:
    """Whether `open_file` would open a file there; also False where it may not be read."""
    try:
        os.close(open_file(parent, *names))
    except OSError:
        return False
    return True


def _explained(error: OSError, path: str) -> OSError:
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return OSError(error.errno, "a link, or a file in place of a folder, which is not followed in a store", path)
    if error.errno == errno.ENXIO:
        return OSError(errno.EINVAL, "it is not a regular file", path)
    return OSError(error.errno, error.strerror, path) if error.errno in _TOO_MANY else error


def is_own_folder(parent: str, *names: str) -> bool:
    """Whether folders below a folder are there and no links, or not there yet: what is written there stays there."""
    path = parent
    for name in names:
        path = os.path.join(path, name)
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            return True
        if not stat.S_ISDIR(mode):
            return False
    return True
