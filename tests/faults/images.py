"""What a power loss may leave: the calls of a run are recorded, and the disk is built again as of any moment.

The model. What was synced is there. A write that was not is there or not, sector by sector of 512 bytes; the new length
of its file is there or not, with zeros where nothing was written. A change of a name is there once its folder was
synced; before that, any of the changes of a folder may be there or not (`subset`), or those up to some moment
(`prefix`, as most file systems do), or all changes of all folders up to some moment (`journal`). A rename is there as a
whole or not at all. Nothing is lost that was synced: a disk that lies about that is outside of the model.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import xxhash

from tests.faults.systems import Call, Watched

SECTOR = 512
#: ways in which names that were not synced survive, and ways for data
NAMES = ("none", "all", "journal", "prefix", "subset")
DATA = ("none", "all", "few", "half", "most", "length")
_CHANCE = {"few": 0.1, "half": 0.5, "most": 0.9}


@dataclass(eq=False)
class File:
    """Bytes that are on the disk, and writes that may be."""

    synced: bytes = b""
    pending: list[tuple[int, bytes]] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)

    def length(self) -> int:
        return self.lengths[-1] if self.lengths else len(self.synced)

    def write(self, offset: int, data: bytes) -> None:
        self.pending.append((offset, data))
        self.lengths.append(max(self.length(), offset + len(data)))

    def truncate(self, nbytes: int) -> None:
        self.lengths.append(nbytes)

    def sync(self) -> None:
        self.synced = self.content("all", random.Random(0))
        self.pending, self.lengths = [], []

    def content(self, mode: str, rng: random.Random) -> bytes:
        """What a crash leaves of it."""
        if not self.lengths:
            return self.synced
        if mode == "none":
            return self.synced
        length = self.length() if mode in ("all", "length") else rng.choice([len(self.synced), *self.lengths])
        data = bytearray(self.synced.ljust(max(length, len(self.synced)), b"\0"))
        if mode != "length":
            for offset, piece in self.pending:
                self._put(data, offset, piece, mode, rng)
        return bytes(data[:length])

    @staticmethod
    def _put(data: bytearray, offset: int, piece: bytes, mode: str, rng: random.Random) -> None:
        data.extend(bytes(max(0, offset + len(piece) - len(data))))
        start = offset
        while start < offset + len(piece):
            stop = min((start // SECTOR + 1) * SECTOR, offset + len(piece))
            if mode == "all" or rng.random() < _CHANCE[mode]:
                data[start:stop] = piece[start - offset : stop - offset]
            start = stop


@dataclass(eq=False)
class Folder:
    """Names that are on the disk, and changes of names that may be, each with its place in the order of all."""

    synced: dict[str, Any] = field(default_factory=dict)
    pending: list[tuple[int, dict[str, Any]]] = field(default_factory=list)

    def names(self, kept: list[tuple[int, dict[str, Any]]] | None = None) -> dict[str, Any]:
        """The names with some of the pending changes, by default all."""
        names = dict(self.synced)
        for _, change in self.pending if kept is None else kept:
            for name, node in change.items():
                if node is None:
                    names.pop(name, None)
                else:
                    names[name] = node
        return names

    def sync(self) -> None:
        self.synced, self.pending = self.names(), []


#: one recorded call: its name, and what it needs to be done again on the model
Op = tuple[Any, ...]


class Recording(Watched):
    """Does every call, and notes it, with paths relative to `base`."""

    def __init__(self, base: str) -> None:
        super().__init__()
        self.base = base
        self.ops: list[Op] = []
        self._files: dict[tuple[int, int], int] = {}
        self._n_files = 0

    def acknowledge(self) -> None:
        """A commit returned."""
        with self._lock:
            self.ops.append(("acknowledge",))

    def around(self, name: str, args: tuple[Any, ...], call: Call) -> Any:
        # One at a time, so that what is noted is what happened.
        with self._lock:
            self.names.append(name)
            self.calls += 1
            new = name == "create" or (name == "open_or_create" and not os.path.exists(args[0]))
            data = bytes(args[1]) if name == "write" else b""
            result = call()
            if name in ("create", "open_or_create"):
                if new:
                    self._n_files += 1
                    self._files[self._inode(result)] = self._n_files
                    self.ops.append(("create", self._path(args[0]), self._n_files))
            elif name == "write":
                self.ops.append(("write", self._files[self._inode(args[0])], args[2], data))
            elif name in ("fsync", "truncate"):
                self.ops.append((name, self._files[self._inode(args[0])], *args[1:]))
            else:
                self.ops.append((name, *map(self._path, args)))
            return result

    def adopt(self, path: str) -> None:
        """Take a file that is there already for one that was synced long ago."""
        with open(path, "rb") as file:
            self._n_files += 1
            self._files[self._inode(file.fileno())] = self._n_files
            data = file.read()
        self.ops += [("create", self._path(path), self._n_files), ("write", self._n_files, 0, data)]
        self.ops += [("fsync", self._n_files), ("fsync_folder", self._path(os.path.dirname(path)))]

    def adopt_tree(self, path: str) -> None:
        """Take a folder, and all in it, for synced."""
        self.ops += [("mkdir", self._path(path)), ("fsync_folder", self._path(os.path.dirname(path)))]
        for entry in os.scandir(path):
            self.adopt_tree(entry.path) if entry.is_dir() else self.adopt(entry.path)

    def _path(self, path: str) -> str:
        return os.path.relpath(path, self.base)

    @staticmethod
    def _inode(fd: int) -> tuple[int, int]:
        found = os.fstat(fd)
        return found.st_dev, found.st_ino


#: the files of an image by path; None for a folder without any
Image = dict[str, bytes | None]


class Disk:
    """The disk that a run of calls leaves, done call by call."""

    def __init__(self) -> None:
        self.root = Folder()
        self.files: dict[int, File] = {}
        self.moment = 0
        self.acknowledged = 0

    def do(self, op: Op) -> None:
        """Do one recorded call."""
        self.moment += 1
        name, *args = op
        if name == "acknowledge":
            self.acknowledged += 1
        elif name == "create":
            path, number = args
            self.files[number] = File()
            self._change(path, self.files[number])
        elif name in ("write", "truncate"):
            getattr(self.files[args[0]], name)(*args[1:])
        elif name == "fsync":
            self.files[args[0]].sync()
        elif name == "fsync_folder":
            self._find(args[0]).sync()
        elif name == "mkdir":
            self._change(args[0], Folder())
        elif name == "rename":
            self._rename(*args)
        elif name in ("unlink", "rmdir"):
            self._change(args[0], None)
        else:
            raise AssertionError(f"the model does not know {name}")

    def _rename(self, old: str, new: str) -> None:
        folder, name = os.path.split(old)
        if os.path.dirname(new) != folder:
            raise AssertionError(f"a rename between folders, {old} to {new}: the model does not know it")
        where = self._find(folder)
        where.pending.append((self.moment, {name: None, os.path.basename(new): where.names()[name]}))

    def _find(self, path: str) -> Folder:
        node: Any = self.root
        for name in path.split("/") if path not in ("", ".") else ():
            node = node.names()[name]
        return node

    def _change(self, path: str, node: Any) -> None:
        folder, name = os.path.split(path)
        self._find(folder).pending.append((self.moment, {name: node}))

    def image(self, names: str, data: str, rng: random.Random) -> Image:
        """What may be left, with this much luck with names and with data."""
        moments = sorted({m for folder in self._folders() for m, _ in folder.pending})
        journal = rng.choice([0, *moments]) if names == "journal" else 0
        found: Image = {}
        self._collect("", self.root, names, data, journal, rng, found)
        return found

    def _folders(self) -> Iterator[Folder]:
        todo, seen = [self.root], set()
        while todo:
            folder = todo.pop()
            if id(folder) in seen:
                continue
            seen.add(id(folder))
            yield folder
            nodes = [*folder.synced.values(), *(n for _, change in folder.pending for n in change.values())]
            todo += [node for node in nodes if isinstance(node, Folder)]

    def _collect(
        self, path: str, folder: Folder, names: str, data: str, journal: int, rng: random.Random, found: Image
    ) -> None:
        pending = folder.pending
        if names == "none":
            pending = []
        elif names == "journal":
            pending = [p for p in pending if p[0] <= journal]
        elif names == "prefix":
            pending = pending[: rng.randint(0, len(pending))]
        elif names == "subset":
            pending = [p for p in pending if rng.random() < 0.5]
        entries = folder.names(pending)
        if not entries and path:
            found[path] = None
        for name, node in entries.items():
            inside = f"{path}/{name}" if path else name
            if isinstance(node, Folder):
                self._collect(inside, node, names, data, journal, rng, found)
            else:
                found[inside] = node.content(data, rng)


def fingerprint(image: Image) -> bytes:
    """Equal for equal images."""
    total = xxhash.xxh3_128()
    for path in sorted(image):
        content = image[path]
        total.update(f"{path}\0{-1 if content is None else len(content)}\0".encode())
        total.update(content or b"")
    return total.digest()


def write_image(image: Image, folder: str) -> None:
    """Put an image on a disk, in a new folder."""
    os.mkdir(folder)
    made = {folder}
    for path, content in image.items():
        full = os.path.join(folder, path)
        above = full if content is None else os.path.dirname(full)
        if above not in made:
            os.makedirs(above, exist_ok=True)
            made.add(above)
        if content is not None:
            with open(full, "wb") as file:
                file.write(content)
