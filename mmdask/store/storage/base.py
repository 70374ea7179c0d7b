"""`Storage`: what a store needs of the place in which its files lie.

A file is named by folders and a name below the store's root, as ``("parts", layer_id, "part.json")``. Errors are those
of the system: FileNotFoundError where a file is not there, else another OSError.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

__all__ = ["Entry", "LayerFiles", "Size", "Storage", "SyncedFile", "Turn"]


class Entry(NamedTuple):
    """A name in a folder, and what has it: neither is true of links, pipes and devices."""

    name: str
    is_folder: bool
    is_file: bool


class Size(NamedTuple):
    """Files and bytes of a file or folder, and when something in it was changed last; zeros of what is not there."""

    n_files: int
    nbytes: int
    changed: float


class SyncedFile(Protocol):
    """A file that someone else wrote into a layer's folder."""

    @property
    def fd(self) -> int:
        """A descriptor of it, opened again if it was closed."""
        ...

    def close(self) -> None: ...


class LayerFiles(Protocol):
    """The files of a layer that is being written: none of them is part of a layer before `finish`."""

    #: where they are, for writers that open files themselves
    folder: str
    #: what names of arrays end with, so that no two attempts at a layer write the same file
    mark: str

    def write(self, data: bytes, *names: str) -> None:
        """A new file; durable when the layer is finished."""
        ...

    def read(self, *names: str) -> bytes:
        """A file that was written, whole."""
        ...

    def remove(self, *names: str) -> None:
        """Take away a file, or a folder with what is in it."""
        ...

    def scratch(self) -> str:
        """A folder of this machine for files that are no part of the layer; they go before it is finished."""
        ...

    def finish(self, document: bytes, others: Sequence[SyncedFile] = ()) -> bool:
        """Make the layer durable and put it in its place; False where there is one of its name already.

        Parameters
        ----------
        document : bytes
            Its part.json.
        others : sequence of SyncedFile
            Files of its folder that were not written by `write`.
        """
        ...

    def discard(self) -> None:
        """Take away what was written, as far as that is possible."""
        ...


class Turn(Protocol):
    """One attempt to commit, which nobody else's commit comes between."""

    def newest(self, limit: int) -> bytes | None:
        """The bytes of the newest manifest, which `publish` replaces; None where there is none.

        Of one of more than `limit` bytes, so many and one more.
        """
        ...

    def publish(self, generation: int, data: bytes) -> bool:
        """Make these the bytes of the newest manifest, durably and at once; False where another commit was first."""
        ...


class Storage(Protocol):
    """Where the files of one store lie."""

    root: str
    #: whether the files are files of the system, which can be opened and mapped
    is_local: bool
    #: whether each call is a request, which takes as long as reading some hundred kilobytes
    is_slow: bool
    #: whether other processes see the same files
    is_shared: bool

    @property
    def may_commit_late(self) -> bool:
        """Whether a commit whose outcome nobody knows may still happen, so that the layers that it names must stay."""
        ...

    # Reading --------------------------------------------------------------------------------------------------------

    def read(self, *names: str, limit: int | None = None) -> bytes:
        """The bytes of a file, or of the first `limit` and one more."""
        ...

    def read_part(self, start: int, stop: int, *names: str) -> bytes:
        """Some bytes of a file; fewer where it ends before."""
        ...

    def read_many(self, names: Iterable[Sequence[str]], limits: Iterable[int]) -> list[bytes]:
        """Several files, at the same time where each takes a while; of each no more than its limit and a byte."""
        ...

    def has(self, *names: str) -> bool:
        """Whether there is a file that could be read."""
        ...

    def entries(self, *names: str) -> list[Entry]:
        """What is in a folder, by name; nothing where there is none. No link is followed."""
        ...

    def attempts(self, layer_ids: Collection[str]) -> dict[str, dict[str, Size]]:
        """The arrays in those of some layers that several attempts wrote to, of which one made the layer."""
        ...

    def size(self, *names: str) -> Size:
        """Of a file, or of a folder with everything in it; raises OSError where it cannot be asked for."""
        ...

    # Writing --------------------------------------------------------------------------------------------------------

    def check_writable(self) -> None:
        """Raise `OptionError` where no store can be written, whoever asks."""
        ...

    def write(self, data: bytes, *names: str) -> None:
        """Replace or make one file, atomically and durably."""
        ...

    def new_layer(self, layer_id: str) -> LayerFiles:
        """Begin the files of a layer.

        Raises `FormatError` where parts/ is a link or a file.
        """
        ...

    def layers_are_durable(self) -> None:
        """Make the names of all layers durable, also of those whose writer died before it did so."""
        ...

    def turn(self) -> AbstractContextManager[Turn]:
        """Hold what a commit needs; raises `ConflictError` where another process holds it for too long."""
        ...

    def alone(self) -> AbstractContextManager[None]:
        """Keep commits away as far as this storage can, to look at what no manifest names."""
        ...

    def unlink(self, files: Iterable[Sequence[str]]) -> None:
        """Remove files; those that are gone are no error."""
        ...

    def sync_names(self, *names: str) -> None:
        """Make it durable that files of a folder are gone."""
        ...

    def withdraw(self, layer_ids: Sequence[str], mark: str) -> list[str]:
        """Make layers be none at once and durably; the names in parts/ of what is left of them to be removed.

        `mark` is between the id and what makes the name differ from all others.
        """
        ...

    def remove_folder(self, *names: str) -> None:
        """Remove a folder and what is in it, as far as that is possible; links are removed, never followed."""
        ...
