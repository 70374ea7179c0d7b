"""`Objects`: those below a URL: read, listed, put as a whole, made where there are none."""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime
from typing import Any, TypeVar

from mmdask.errors import OptionError, StoreNotFoundError
from mmdask.store.storage.base import Entry, Size
from mmdask.store.storage.calls import TRIES, called, file_system
from mmdask.store.storage.conditional import CONDITIONAL, EXCLUSIVE, LostError

__all__ = ["Objects"]

READ_ONLY = frozenset({"http", "https"})

T = TypeVar("T")


class Objects:
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

    def __init__(self, root: str) -> None:
        self.root = root
        self.scheme = root.partition("://")[0]
        self.fs, self._path = file_system(root)

    def path(self, *names: str) -> str:
        """What the file system calls a file."""
        return "/".join([self._path.rstrip("/"), *names])

    def call(self, names: Sequence[str], function: Callable[..., T], *args: Any, **options: Any) -> T:
        """A call of the file system about a file."""
        return called("/".join([self.root, *names]), function, *args, **options)

    # Reading --------------------------------------------------------------------------------------------------------

    def read(self, *names: str, limit: int | None = None) -> bytes:
        path = self.path(*names)
        if limit is None:
            return bytes(self.call(names, self.fs.cat_file, path))
        data = bytes(self.call(names, self._head, path, limit + 1))
        return data[: limit + 1]

    def _head(self, path: str, nbytes: int) -> bytes:
        """The first bytes of an object. A range is refused of an object without any, and not known to every server."""
        try:
            data: bytes = self.fs.cat_file(path, start=0, end=nbytes)
        except FileNotFoundError:
            raise
        except Exception as error:
            try:
                nbytes_there = self.fs.info(path).get("size", 0)
            except FileNotFoundError:  # so says fsspec also of a server that it cannot reach
                raise error from None
            if nbytes_there not in (0, None):
                raise
            data = self.fs.cat_file(path)
        return data

    def read_part(self, start: int, stop: int, *names: str) -> bytes:
        if stop <= start:
            return b""
        data = bytes(self.call(names, self.fs.cat_file, self.path(*names), start=start, end=stop))
        # A server that does not know ranges sends all of it.
        return data if len(data) <= stop - start else data[start:stop]

    def read_many(self, names: Iterable[Sequence[str]], limits: Iterable[int]) -> list[bytes]:
        every, ends = list(names), [limit + 1 for limit in limits]
        if len(every) > 1:
            paths = [self.path(*some) for some in every]
            found = self.call(every[0], self.fs.cat_ranges, paths, [0] * len(paths), ends, on_error="return")
        else:
            found = [OSError()] * len(every)
        # One by one what is refused so: a range of an object that is empty.
        return [
            self.read(*some, limit=end - 1) if isinstance(data, Exception) else bytes(data[:end])
            for some, end, data in zip(every, ends, found, strict=True)
        ]

    def has(self, *names: str) -> bool:
        try:
            return bool(self.call(names, self.fs.info, self.path(*names))["type"] == "file")
        except FileNotFoundError:
            return False

    def entries(self, *names: str) -> list[Entry]:
        path = self.path(*names)
        try:
            found = self.call(names, self.fs.ls, path, detail=True)
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

    def attempts(self, layer_ids: Collection[str]) -> dict[str, dict[str, Size]]:
        parts, found = self.path("parts"), dict[str, dict[str, Size]]()
        for key, info in self.call(("parts",), self.fs.find, parts, detail=True).items():
            layer_id, _, inside = key.strip("/").removeprefix(f"{parts.strip('/')}/").partition("/")
            file, slash, _ = inside.partition("/")
            if slash and layer_id in layer_ids:
                sizes = found.setdefault(layer_id, {})
                before, now = sizes.get(file, Size(0, 0, 0.0)), _changed(info)
                nbytes = before.nbytes + int(info.get("size") or 0)
                sizes[file] = Size(before.n_files + 1, nbytes, max(before.changed, now))
        return {i: sizes for i, sizes in found.items() if len({file.rpartition("-")[2] for file in sizes}) > 1}

    def size(self, *names: str) -> Size:
        path = self.path(*names)
        try:
            info = self.call(names, self.fs.info, path)
            if info["type"] != "directory":
                return Size(1, int(info.get("size") or 0), _changed(info))
            found = self.call(names, self.fs.find, path, detail=True).values()
        except FileNotFoundError:
            return Size(0, 0, 0.0)
        sizes = [Size(1, int(i.get("size") or 0), _changed(i)) for i in found if i["type"] == "file"]
        changed = max((s.changed for s in sizes), default=0.0)
        return Size(len(sizes), sum(s.nbytes for s in sizes), changed)

    # Writing --------------------------------------------------------------------------------------------------------

    def write(self, data: bytes, *names: str) -> None:
        self.check_writable()
        try:
            self.call(names, self.fs.pipe_file, self.path(*names), bytes(data))
        except FileNotFoundError:
            raise StoreNotFoundError(
                f"{self.root} cannot be written, as if there were no such bucket or folder; make it, or mind its name"
            ) from None

    def create(self, data: bytes, *names: str) -> bool:
        """Make a file where there is none; False where there is one of other bytes.

        Raises
        ------
        OSError
            When it was not made. It may be made later all the same, when the answer to the request was lost.
        """
        self.check_writable()
        path, versioned = self.path(*names), CONDITIONAL.get(self.scheme)
        for _ in range(TRIES):
            try:
                if versioned is not None:
                    self.call(names, versioned(self.fs).put, path, data, None)
                else:
                    self.call(names, self.fs.pipe_file, path, data, mode="create")
                return True
            except (LostError, FileExistsError):
                # A put that was sent again, since its answer got lost, finds itself.
                with contextlib.suppress(FileNotFoundError):
                    return self.read(*names, limit=len(data)) == data
            except OSError:
                with contextlib.suppress(OSError):
                    return self.read(*names, limit=len(data)) == data
                raise
        raise OSError(errno.EAGAIN, "other requests keep it from being made", "/".join([self.root, *names]))

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

    def unlink(self, files: Iterable[Sequence[str]]) -> None:
        for names in files:
            with contextlib.suppress(FileNotFoundError):
                self.call(names, self.fs.rm_file, self.path(*names))

    def remove_folder(self, *names: str) -> None:
        with contextlib.suppress(OSError):
            self.call(names, self.fs.rm, self.path(*names), recursive=True)


def _changed(info: dict[str, Any]) -> float:
    for key in ("LastModified", "created", "mtime", "last_modified", "updated"):
        value = info.get(key)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return time.time()  # unknown: as if it were new, so that nothing is removed too early
