"""Stores behind URLs, by fsspec: objects that are replaced as a whole.

There are no folders, no renames and no locks of the system there. An object appears at once with all its bytes. So the
objects of a layer are written first and its part.json last: without that it is none. A commit puts the new manifest
under the condition that the old one is still the newest, where the store offers that (`conditional`); elsewhere it
takes a lock, an object that only one process can create.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from typing import Any, TypeVar

from mmdask.errors import ConflictError, MissingDependencyError, OptionError
from mmdask.store.storage.base import Entry, Size, SyncedFile, Turn
from mmdask.store.storage.conditional import CONDITIONAL, EXCLUSIVE, LostError, Versioned

__all__ = ["RemoteStorage", "remote_storage"]

MANIFEST = "manifest.json"
LOCK = "lock.json"
LOCK_SECONDS = 120.0
#: a lock of this age belongs to a process that died: no commit takes so long
STALE_SECONDS = 600.0
READ_ONLY = frozenset({"http", "https"})
#: objects of a layer that are written at once
_PUTS = 8

T = TypeVar("T")
_KNOWN: dict[tuple[str, int], RemoteStorage] = {}


def remote_storage(root: str) -> RemoteStorage:
    """The storage behind a URL; one for each of them in a process."""
    key = root, os.getpid()
    if key not in _KNOWN:
        _KNOWN[key] = RemoteStorage(root)
    return _KNOWN[key]


class RemoteStorage:
    """Objects below a URL.

    Parameters
    ----------
    root : str
        As `checked_url` gives it.

    Raises
    ------
    OptionError, MissingDependencyError
        When fsspec knows no such URL, or needs a package for it.
    """

    is_local = False
    is_slow = True

    def __init__(self, root: str) -> None:
        self.root = root
        self.may_commit_late = False
        self.scheme = root.partition("://")[0]
        self.fs, self._path = _file_system(root)

    def path(self, *names: str) -> str:
        """What the file system calls a file."""
        return "/".join([self._path.rstrip("/"), *names])

    # Reading --------------------------------------------------------------------------------------------------------

    def read(self, *names: str, limit: int | None = None) -> bytes:
        path = self.path(*names)
        if limit is None:
            return bytes(self._call(names, self.fs.cat_file, path))
        data = bytes(self._call(names, self._head, path, limit + 1))
        return data[: limit + 1]

    def _head(self, path: str, nbytes: int) -> bytes:
        """The first bytes of an object. A range is refused of an object without any, and not known to every server."""
        try:
            data: bytes = self.fs.cat_file(path, start=0, end=nbytes)
        except FileNotFoundError:
            raise
        except Exception:
            if self.fs.info(path).get("size", 0) not in (0, None):
                raise
            data = self.fs.cat_file(path)
        return data

    def read_part(self, start: int, stop: int, *names: str) -> bytes:
        if stop <= start:
            return b""
        data = bytes(self._call(names, self.fs.cat_file, self.path(*names), start=start, end=stop))
        # A server that does not know ranges sends all of it.
        return data if len(data) <= stop - start else data[start:stop]

    def read_many(self, names: Iterable[Sequence[str]]) -> list[bytes]:
        every = list(names)
        if len(every) < 2:
            return [self.read(*some) for some in every]
        paths, ends = [self.path(*some) for some in every], [None] * len(every)
        found = self._call(every[0], self.fs.cat_ranges, paths, ends, ends, on_error="raise")
        return list(map(bytes, found))

    def has(self, *names: str) -> bool:
        try:
            return bool(self._call(names, self.fs.info, self.path(*names))["type"] == "file")
        except FileNotFoundError:
            return False

    def entries(self, *names: str) -> list[Entry]:
        path = self.path(*names)
        try:
            found = self._call(names, self.fs.ls, path, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError:
            if self.scheme in READ_ONLY:  # a server of files need not list them
                return []
            raise
        every = []
        for info in found:
            name = info["name"].rstrip("/").rsplit("/", 1)[-1]
            if name and info["name"].strip("/") != path.strip("/"):
                every.append(Entry(name, info["type"] == "directory", info["type"] == "file"))
        return sorted(set(every))

    def size(self, *names: str) -> Size:
        path = self.path(*names)
        try:
            info = self._call(names, self.fs.info, path)
            if info["type"] != "directory":
                return Size(1, int(info.get("size") or 0), _changed(info))
            found = self._call(names, self.fs.find, path, detail=True).values()
        except OSError:
            return Size(0, 0, 0.0)
        sizes = [Size(1, int(i.get("size") or 0), _changed(i)) for i in found if i["type"] == "file"]
        changed = max((s.changed for s in sizes), default=0.0)
        return Size(len(sizes), sum(s.nbytes for s in sizes), changed)

    # Writing --------------------------------------------------------------------------------------------------------

    def write(self, data: bytes, *names: str) -> None:
        self.check_writable()
        self._call(names, self.fs.pipe_file, self.path(*names), bytes(data))

    def check_writable(self) -> None:
        """Raise `OptionError` where nothing can be committed."""
        if self.scheme in READ_ONLY:
            raise OptionError(f"{self.root}: stores behind {self.scheme}:// are read, and not written")
        if self.scheme not in CONDITIONAL and self.scheme not in EXCLUSIVE:
            raise OptionError(
                f"{self.root}: {self.scheme}:// offers neither conditional puts nor objects that only one process can "
                "create, as far as mmdask knows, so that two writers could lose each other's commits; it is read only. "
                "Write to a folder, and copy it"
            )

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
            yield RemoteTurn(self, versioned(self.fs))
        else:
            with self._locked():
                yield RemoteTurn(self, None)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        self.check_writable()
        if self.scheme in CONDITIONAL:
            yield
        else:
            with self._locked():
                yield

    def unlink(self, files: Iterable[Sequence[str]]) -> None:
        for names in files:
            with contextlib.suppress(FileNotFoundError):
                self._call(names, self.fs.rm_file, self.path(*names))

    def sync_names(self, *names: str) -> None:
        """An object that was removed is gone."""

    def withdraw(self, layer_ids: Sequence[str], mark: str) -> list[str]:
        self.unlink([("parts", layer_id, "part.json") for layer_id in layer_ids])
        return list(layer_ids)

    def remove_folder(self, *names: str) -> None:
        with contextlib.suppress(OSError):
            self._call(names, self.fs.rm, self.path(*names), recursive=True)

    # Where there are no conditions ----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock: an object that can be created once, with who did and when."""
        owner = {"process": os.getpid(), "host": socket.gethostname(), "nonce": os.urandom(8).hex()}
        deadline = time.monotonic() + LOCK_SECONDS
        while not self._create_lock({**owner, "time": time.time()}):
            if time.monotonic() > deadline:
                holder = self._holder()
                since = f", since {time.time() - holder['time']:.0f} s" if holder else ""
                raise ConflictError(
                    f"{self.root}: another process has been committing for {LOCK_SECONDS:.0f} s (process "
                    f"{holder.get('process', '?')} on {holder.get('host', '?')}{since}); if it is dead, remove "
                    f"{self.root}/{LOCK}"
                )
            time.sleep(0.05)
        try:
            yield
        finally:
            if self._holder().get("nonce") == owner["nonce"]:
                self.unlink([(LOCK,)])

    def _create_lock(self, owner: dict[str, Any]) -> bool:
        try:
            self._call((LOCK,), self.fs.pipe_file, self.path(LOCK), json.dumps(owner).encode(), mode="create")
        except FileExistsError:
            return False
        return True

    def _holder(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(self.read(LOCK, limit=4096))
            if isinstance(found, dict) and isinstance(found.get("time"), int | float):
                return found
        return {}

    # Errors ---------------------------------------------------------------------------------------------------------

    def _call(self, names: Sequence[str], function: Callable[..., T], *args: Any, **options: Any) -> T:
        """A call of fsspec, whose errors are those of the system and hold no credentials."""
        where = "/".join([self.root, *names])
        try:
            return function(*args, **options)
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, "there is no such object", where) from None
        except FileExistsError:
            raise FileExistsError(errno.EEXIST, "there is such an object", where) from None
        except PermissionError as error:
            raise PermissionError(errno.EACCES, f"access is denied ({without_secrets(error)})", where) from None
        except (ConflictError, LostError):
            raise
        except Exception as error:
            number = error.errno if isinstance(error, OSError) and error.errno else errno.EIO
            raise OSError(number, without_secrets(error), where) from None


_SECRETS = (
    (re.compile(r"//[^/\s@]*@"), "//...@"),
    (re.compile(r"\?[^\s'\"]*"), "?..."),
    (
        re.compile(r"(?i)((?:secret|token|signature|password|credential|access.?key)\w*['\"]?\s*[:=]\s*)\S+"),
        r"\1...",
    ),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b"), "..."),
)


def without_secrets(error: BaseException) -> str:
    """What an error says, without what may be a credential.

    Examples
    --------
    >>> without_secrets(OSError("cannot reach https://me:secret@host/x?X-Amz-Signature=abc"))
    'OSError: cannot reach https://...@host/x?...'
    """
    text = f"{type(error).__name__}: {error}"
    for pattern, by in _SECRETS:
        text = pattern.sub(by, text)
    return " ".join(text.split())[:300]


def _changed(info: dict[str, Any]) -> float:
    for key in ("LastModified", "created", "mtime", "last_modified", "updated"):
        value = info.get(key)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return time.time()  # unknown: as if it were new, so that nothing is removed too early


def _file_system(root: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    scheme = root.partition("://")[0]
    try:
        fs, path = url_to_fs(root, use_listings_cache=False)
    except ImportError as error:
        raise MissingDependencyError(f"{scheme}:// needs a package: {error}") from None
    except ValueError as error:
        raise OptionError(f"{root}: no URL of a store: {without_secrets(error)}") from None
    except Exception as error:
        raise OSError(errno.EIO, without_secrets(error), root) from None
    return fs, str(path)


# Layers and commits ---------------------------------------------------------------------------------------------------


class RemoteLayer:
    """Objects of a layer in their place, which is none before its part.json is there."""

    def __init__(self, storage: RemoteStorage, layer_id: str) -> None:
        self.storage, self.id = storage, layer_id
        self.folder = f"{storage.root}/parts/{layer_id}"
        self._pool: ThreadPoolExecutor | None = None
        self._under_way: deque[Future[None]] = deque()
        self._done = False

    def write(self, data: bytes, *names: str) -> None:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_PUTS, thread_name_prefix="mmdask-put")
        self._wait(_PUTS - 1)
        self._under_way.append(self._pool.submit(self.storage.write, data, "parts", self.id, *names))

    def _wait(self, n: int = 0) -> None:
        """Wait until no more than so many objects are under way."""
        while len(self._under_way) > n:
            self._under_way.popleft().result()

    def read(self, *names: str) -> bytes:
        self._wait()
        return self.storage.read("parts", self.id, *names)

    def remove(self, *names: str) -> None:
        self._wait()
        self.storage.remove_folder("parts", self.id, *names)

    def finish(self, document: bytes, others: Sequence[SyncedFile] = ()) -> bool:
        assert not others
        self._wait()
        self.storage.write(document, "parts", self.id, "part.json")
        self._done = True
        self._close()
        return True

    def discard(self) -> None:
        if self._done or self._pool is None:
            return
        self._close()
        with contextlib.suppress(OSError):
            self.storage.withdraw([self.id], "")
            self.storage.remove_folder("parts", self.id)

    def _close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool, self._under_way = None, deque()


class RemoteTurn:
    """A commit that replaces the manifest if it is still the one that was read.

    The history has the copy of each generation before the next one becomes the newest: whoever died between its
    manifest and that copy leaves it to be written by the next commit.
    """

    def __init__(self, storage: RemoteStorage, versioned: Versioned | None) -> None:
        self.storage, self._versioned = storage, versioned
        self._path = storage.path(MANIFEST)
        self._version: str | None = None
        self._before: bytes | None = None

    def newest(self, limit: int) -> bytes | None:
        storage = self.storage
        try:
            if self._versioned is None:
                self._before = storage.read(MANIFEST, limit=limit)
            else:
                found = storage._call((MANIFEST,), self._versioned.read, self._path)
                self._before, self._version = found
        except FileNotFoundError:
            self._before = self._version = None
        return self._before

    def publish(self, generation: int, data: bytes) -> bool:
        before, storage = self._before, self.storage
        if before is not None and not storage.has(*_history(generation - 1)):
            storage.write(before, *_history(generation - 1))
        try:
            self._put(data)
        except LostError:
            # A put that was sent again, since its answer got lost, finds itself.
            if not self._is_there(generation, data):
                return False
        except OSError as error:
            if not self._is_there(generation, data):
                storage.may_commit_late = True
                error.add_note(
                    f"{storage.root}: whether generation {generation} was committed is not known: the answer did not "
                    "come, and it cannot be seen. It may still be; mm.open(url).generation tells"
                )
                raise
        with contextlib.suppress(OSError):  # the next commit writes it, too
            storage.write(data, *_history(generation))
        return True

    def _put(self, data: bytes) -> None:
        storage = self.storage
        if self._versioned is None:
            storage.write(data, MANIFEST)
        else:
            storage._call((MANIFEST,), self._versioned.put, self._path, data, self._version)

    def _is_there(self, generation: int, data: bytes) -> bool:
        """Whether this was committed: it is the newest, or in the history that the next commit wrote."""
        for names in ((MANIFEST,), _history(generation)):
            with contextlib.suppress(OSError):
                if self.storage.read(*names, limit=len(data)) == data:
                    return True
        return False


def _history(generation: int) -> tuple[str, str]:
    return "history", f"{generation:08d}.json"
