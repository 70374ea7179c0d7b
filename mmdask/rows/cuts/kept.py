"""What is kept of the cuts of a store: finding it, and removing it.

Whatever lies in the folder of masks is looked at as input from a stranger: only regular files are opened, of each the
head alone, and other processes may write and remove files meanwhile.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import NamedTuple

from mmdask.rows.cuts import masks
from mmdask.rows.cuts.masks import Kept, MaskFiles, read_kept
from mmdask.rows.rows import RESOLVED
from mmdask.store.snapshot import Snapshot
from mmdask.store.system import SYSTEM

__all__ = ["KeptCut", "find_kept", "remove_kept"]

_ENDINGS = (".mask", ".masks", ".rows")


@dataclass(frozen=True)
class KeptCut:
    """A cut that is kept, or several that were asked for together.

    Attributes
    ----------
    expressions : tuple of str
        The cut in full, or those that were asked for together.
    kept : int
        How many rows pass, of those for which it is computed.
    rows : int
        For how many rows of the store, as it is shown, it is computed.
    parts, n_parts : int
        For how many parts of how many.
    n_files, nbytes : int
        What it takes on disk, also for parts of other generations.
    time : float
        When it was computed last, in seconds since 1970.
    """

    expressions: tuple[str, ...]
    kept: int
    rows: int
    parts: int
    n_parts: int
    n_files: int
    nbytes: int
    time: float

    @property
    def expression(self) -> str:
        """The cut in full; those that were asked for together are joined by "and"."""
        return " and ".join(self.expressions)


class _File(NamedTuple):
    path: str
    nbytes: int
    time: float
    kept: list[Kept]


@dataclass
class _Group:
    """The files of one cut."""

    files: list[_File] = field(default_factory=list)
    parts: dict[int, tuple[int, int]] = field(default_factory=dict)
    whole: tuple[int, int, int] | None = None


def find_kept(snapshot: Snapshot) -> tuple[list[KeptCut], int]:
    """The cuts that are kept of a store, in the order of their text, and how many files are none of ours or damaged."""
    n_parts = sum(1 for part in snapshot.parts if part.rows)
    places: dict[str, list[int]] = {}
    for number, part in enumerate(snapshot.parts):
        for layer in part.layers if part.rows else ():
            places.setdefault(layer, []).append(number)
    groups: dict[tuple[str, ...], _Group] = {}
    n_strange = 0
    for file in _files(snapshot):
        n_strange += not file.kept
        for cuts in {kept.cuts for kept in file.kept}:
            groups.setdefault(cuts, _Group()).files.append(file)
        for kept in file.kept:
            group = groups[kept.cuts]
            if not kept.readable:
                continue
            if kept.layers is None:
                if kept.identity == snapshot.identity:
                    group.whole = kept.kept, kept.rows, n_parts
            else:
                for number in _parts_of(snapshot, kept.layers, places):
                    if snapshot.parts[number].rows == kept.rows:
                        group.parts[number] = kept.kept, kept.rows
    # Those of other generations alone say nothing of these rows.
    found = [_summary(cuts, group, n_parts) for cuts, group in groups.items() if group.parts or group.whole]
    return sorted(found, key=lambda cut: cut.expression), n_strange


def _summary(cuts: tuple[str, ...], group: _Group, n_parts: int) -> KeptCut:
    kept, rows = (sum(n) for n in zip(*group.parts.values(), strict=True)) if group.parts else (0, 0)
    parts = len(group.parts)
    if group.whole is not None:
        kept, rows, parts = group.whole
    nbytes = sum(file.nbytes for file in group.files)
    newest = max(file.time for file in group.files)
    return KeptCut(cuts, kept, rows, parts, n_parts, len(group.files), nbytes, newest)


def _parts_of(snapshot: Snapshot, layers: dict[str, str], places: dict[str, list[int]]) -> Iterator[int]:
    """The parts of which these are the layers that hold these fields."""
    candidates = set[int].intersection(*[set(places.get(layer, ())) for layer in layers.values()]) if layers else set()
    for number in candidates:
        ids = snapshot.parts[number].layers
        keyed = all(name.isdecimal() for name in layers) and tuple(layers.values()) == ids
        if len(ids) == 1 or keyed or all(_holds(snapshot, number, name, layer) for name, layer in layers.items()):
            yield number


def _holds(snapshot: Snapshot, part: int, name: str, layer: str) -> bool:
    return name in snapshot.schema and snapshot.stored(part, name)[0].id == layer


def remove_kept(snapshot: Snapshot, cuts: AbstractSet[str] | None = None, older_than: float = 0) -> int:
    """Remove what is kept of cuts, also of other generations, and what was made of them.

    Parameters
    ----------
    snapshot : Snapshot
        The store.
    cuts : set of str, optional
        The canonical texts of the cuts; all by default.
    older_than : float
        Only files that were written more than so many seconds ago.

    Returns
    -------
    int
        How many files were removed.
    """
    before = time.time() - older_than if older_than else math.inf
    n = 0
    try:
        for file in _files(snapshot):
            chosen = cuts is None or any(not cuts.isdisjoint(kept.cuts) for kept in file.kept)
            if chosen and file.time <= before:
                with contextlib.suppress(OSError):
                    SYSTEM.unlink(file.path)
                    n += 1
    finally:
        masks.LOADED.clear()
        RESOLVED.clear()
    return n


def _files(snapshot: Snapshot) -> Iterator[_File]:
    """The files of masks that there are; no link is followed, and what is no file is left alone."""
    folder = MaskFiles(snapshot).folder
    for number in range(256):
        above = os.path.join(folder, f"{number:02x}")
        try:
            if os.path.islink(above):
                continue
            with os.scandir(above) as entries:
                found = [e for e in entries if e.name.endswith(_ENDINGS) and e.is_file(follow_symlinks=False)]
        except OSError:
            continue
        for entry in found:
            with contextlib.suppress(OSError):
                info = entry.stat(follow_symlinks=False)
                kept = read_kept(entry.path)
                if kept or os.path.lexists(entry.path):  # else another process has removed it since it was listed
                    yield _File(entry.path, info.st_size, info.st_mtime, kept)
