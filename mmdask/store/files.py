"""Files of a store, opened for reading so that a store from a stranger leads nowhere else and holds nobody up.

Below the store's own folder no link is followed, and only regular files are opened: a pipe would wait for ever.
"""

from __future__ import annotations

import errno
import os
import stat

__all__ = ["is_file", "is_own_folder", "open_file", "read_fully"]

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def open_file(parent: str, *names: str) -> int:
    """Open a regular file for reading, and return its descriptor.

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
    folder = -1
    try:
        for depth, name in enumerate(names[:-1]):
            above = folder
            path = name if depth else os.path.join(parent, name)
            folder = os.open(path, _FOLDER, dir_fd=above if depth else None)
            if depth:
                os.close(above)
        single = os.path.join(parent, names[-1])
        fd = os.open(single if folder < 0 else names[-1], _FILE, dir_fd=None if folder < 0 else folder)
    except OSError as error:
        raise _explained(error, os.path.join(parent, *names)) from None
    finally:
        if folder >= 0:
            os.close(folder)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is not a regular file", os.path.join(parent, *names))
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
    return error


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
