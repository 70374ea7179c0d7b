"""Stores in folders of the system: every mutating call goes through `SYSTEM`, no link below the root is followed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import time
import weakref
from collections.abc import Collection, Iterable, Iterator, Sequence

from mmdask.errors import ConflictError, FormatError
from mmdask.store.arrays.files import is_own_folder, open_file
from mmdask.store.storage.base import Entry, Size, SyncedFile
from mmdask.store.system import SYSTEM, fsync_all, write_atomically

__all__ = ["LocalLayer", "LocalStorage", "locked"]

LOCK_SECONDS = 120.0
MANIFEST = "manifest.json"
_NOWHERE = Size(0, 0, 0.0)


class LocalStorage:
    """A folder of the system.

    Parameters
    ----------
    root : str
        The store's folder, absolute.
    """

    is_local = True
    is_slow = False
    is_shared = True
    may_commit_late = False

    def __init__(self, root: str) -> None:
        self.root = root

    # Reading --------------------------------------------------------------------------------------------------------

    def read(self, *names: str, limit: int | None = None) -> bytes:
        with open(open_file(self.root, *names), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            return file.read(size if limit is None else min(size, limit + 1))

    def read_part(self, start: int, stop: int, *names: str) -> bytes:
        fd = open_file(self.root, *names)
        try:
            return os.pread(fd, stop - start, start)
        finally:
            os.close(fd)

    def read_many(self, names: Iterable[Sequence[str]], limits: Iterable[int]) -> list[bytes]:
        return [self.read(*some, limit=limit) for some, limit in zip(names, limits, strict=True)]

    def has(self, *names: str) -> bool:
        try:
            return stat.S_ISREG(os.lstat(os.path.join(self.root, *names)).st_mode)
        except OSError:
            return False

    def entries(self, *names: str) -> list[Entry]:
        path = self.root
        for name in names:
            path = os.path.join(path, name)
            try:
                if not stat.S_ISDIR(os.lstat(path).st_mode):
                    return []
            except OSError:
                return []
        try:
            with os.scandir(path) as found:
                return sorted(
                    Entry(e.name, e.is_dir(follow_symlinks=False), e.is_file(follow_symlinks=False)) for e in found
                )
        except FileNotFoundError:
            return []

    def attempts(self, layer_ids: Collection[str]) -> dict[str, dict[str, Size]]:
        return {}  # each has a folder of its own

    def size(self, *names: str) -> Size:
        return _size(os.path.join(self.root, *names))

    # Writing --------------------------------------------------------------------------------------------------------

    def check_writable(self) -> None:
        """The system says it, of each file."""

    def write(self, data: bytes, *names: str) -> None:
        write_atomically(os.path.join(self.root, *names), data)

    def new_layer(self, layer_id: str) -> LocalLayer:
        return LocalLayer(self.root, layer_id)

    def layers_are_durable(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            SYSTEM.fsync_folder(os.path.join(self.root, "parts"))

    @contextlib.contextmanager
    def turn(self) -> Iterator[LocalTurn]:
        with locked(self.root):
            yield LocalTurn(self.root)

    def alone(self) -> contextlib.AbstractContextManager[None]:
        return locked(self.root)

    def unlink(self, files: Iterable[Sequence[str]]) -> None:
        for names in files:
            with contextlib.suppress(FileNotFoundError):
                SYSTEM.unlink(os.path.join(self.root, *names))

    def sync_names(self, *names: str) -> None:
        SYSTEM.fsync_folder(os.path.join(self.root, *names))

    def withdraw(self, layer_ids: Sequence[str], mark: str) -> list[str]:
        parts = os.path.join(self.root, "parts")
        left = [name for layer_id in layer_ids for name in self._withdrawn(os.path.join(parts, layer_id), mark)]
        if left:
            SYSTEM.fsync_folder(parts)
        return left

    def _withdrawn(self, path: str, mark: str) -> Iterator[str]:
        with contextlib.suppress(FileNotFoundError):  # its writer gave it up at the same time
            aside = f"{path}{mark}{os.urandom(8).hex()}"
            SYSTEM.rename(path, aside)
            yield os.path.basename(aside)

    def remove_folder(self, *names: str) -> None:
        SYSTEM.remove_tree(os.path.join(self.root, *names))


def _size(path: str) -> Size:
    try:
        info = os.lstat(path)
    except OSError:
        return _NOWHERE
    if not stat.S_ISDIR(info.st_mode):
        return Size(1, info.st_size, info.st_mtime)
    total = Size(0, 0, info.st_mtime)
    with contextlib.suppress(OSError), os.scandir(path) as found:
        for entry in found:
            size = _size(entry.path)
            total = Size(total.n_files + size.n_files, total.nbytes + size.nbytes, max(total.changed, size.changed))
    return total


# Layers -------------------------------------------------------------------------------------------------------------


class LocalLayer:
    """A layer beside its place: synced, then renamed into it.

    So a folder of a layer's name is complete or absent, whatever happens to the process or the machine.
    """

    mark = ""

    def __init__(self, root: str, layer_id: str) -> None:
        self.id = layer_id
        self.parts = os.path.join(root, "parts")
        self.folder = os.path.join(self.parts, f"{layer_id}.tmp-{os.urandom(8).hex()}")
        self._files: dict[str, None] = {}
        self._folders: dict[str, None] = {}
        self._in_place = False
        with contextlib.suppress(FileExistsError):
            SYSTEM.mkdir(self.parts)
        if not is_own_folder(root, "parts"):
            raise FormatError(f"{self.parts} is a link or a file, which it cannot be in a store; nothing is written")
        SYSTEM.mkdir(self.folder)

    def write(self, data: bytes, *names: str) -> None:
        for depth in range(1, len(names)):
            folder = os.path.join(self.folder, *names[:depth])
            if folder not in self._folders:
                SYSTEM.mkdir(folder)
                self._folders[folder] = None
        path = os.path.join(self.folder, *names)
        fd = SYSTEM.create(path)
        try:
            SYSTEM.write(fd, data, 0)
        finally:
            os.close(fd)
        self._files[path] = None

    def read(self, *names: str) -> bytes:
        with open(open_file(self.folder, *names), "rb") as file:
            return file.read()

    def remove(self, *names: str) -> None:
        path = os.path.join(self.folder, *names)
        for known in (self._files, self._folders):
            for name in [n for n in known if n == path or n.startswith(path + os.sep)]:
                del known[name]
        if not os.path.lexists(path) and os.path.lexists(self.folder):
            return  # an array of which no chunk was complete yet
        if os.path.isdir(path):
            SYSTEM.remove_tree(path)
        else:
            SYSTEM.unlink(path)

    def scratch(self) -> str:
        return self.folder

    def finish(self, document: bytes, others: Sequence[SyncedFile] = ()) -> bool:
        info = SYSTEM.create(os.path.join(self.folder, "part.json"))
        files = [*others, *map(_Written, self._files)]
        try:
            SYSTEM.write(info, document, 0)
            SYSTEM.fsync(info)
            for some in (files[i : i + 64] for i in range(0, len(files), 64)):
                fsync_all(a.fd for a in some)
                for a in some:
                    a.close()
        finally:
            os.close(info)
            for a in files:
                a.close()
        for folder in reversed(self._folders):
            SYSTEM.fsync_folder(folder)
        SYSTEM.fsync_folder(self.folder)
        place = os.path.join(self.parts, self.id)
        try:
            SYSTEM.rename(self.folder, place)
        except OSError:
            # Another process wrote the layer of this name, which by its name has the same rows.
            if not is_layer(place):
                raise
            return False
        self._in_place = True
        SYSTEM.fsync_folder(self.parts)
        return True

    def discard(self) -> None:
        if not self._in_place:
            SYSTEM.remove_tree(self.folder)


def is_layer(path: str) -> bool:
    """Whether a folder is that of a complete layer."""
    try:
        return stat.S_ISREG(os.lstat(os.path.join(path, "part.json")).st_mode)
    except OSError:
        return False


class _Written:
    """A file that was written and closed, to be synced: a new descriptor reports an error that no one has seen."""

    def __init__(self, path: str) -> None:
        self._path, self._fd = path, -1

    @property
    def fd(self) -> int:
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


# Commits ------------------------------------------------------------------------------------------------------------


class LocalTurn:
    """A commit that holds the store's lock."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._is_first = False

    def newest(self, limit: int) -> bytes | None:
        try:
            return LocalStorage(self.root).read(MANIFEST, limit=limit)
        except FileNotFoundError:
            self._is_first = True
            return None

    def publish(self, generation: int, data: bytes) -> bool:
        history = os.path.join(self.root, "history")
        with contextlib.suppress(FileExistsError):
            SYSTEM.mkdir(history)
        if not is_own_folder(self.root, "history"):
            raise FormatError(f"{history} is a link or a file, which it cannot be in a store; nothing is written")
        if self._is_first:
            # The folders are there before the manifest that needs them, also those that a dead process made.
            SYSTEM.fsync_folder(os.path.dirname(self.root))
            SYSTEM.fsync_folder(self.root)
        # One that is already there belongs to a writer that died before its commit point.
        write_atomically(os.path.join(history, f"{generation:08d}.json"), data)
        write_atomically(os.path.join(self.root, MANIFEST), data)
        return True


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
            fd, self.fd = self.fd, -1
            os.close(fd)


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
