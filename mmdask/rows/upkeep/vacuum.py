"""Remove what no reader needs any more: old generations, layers that no manifest names, what dead writers left.

What goes is decided under the store's lock, where no commit is under way. Layers are renamed aside there, so that no
moment shows half of one under its name; they are deleted afterwards.
"""

from __future__ import annotations

import calendar
import contextlib
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from mmdask.display import count_text, nbytes_text
from mmdask.errors import CorruptStoreError, FormatError, OptionError, UnfinishedError
from mmdask.rows.cuts.masks import Kept, read_kept
from mmdask.rows.lookup import index_layers
from mmdask.rows.sums.describing import summary_layers
from mmdask.rows.views.views import stored_id
from mmdask.store.commit import amount
from mmdask.store.layer import ID_PATTERN, read_layer
from mmdask.store.manifest import (
    Manifest,
    generations,
    history_name,
    read_manifest,
    read_past,
    store_root,
)
from mmdask.store.snapshot import rows_identity
from mmdask.store.storage import Size, Storage, is_url, storage_of

__all__ = ["VacuumReport", "seconds_of", "vacuum"]

_TEMPORARY = ".tmp-"
_DOOMED = ".tmp-vacuum-"
#: files of a store that were to be renamed into their place, by the folder that they are in
_WRITTEN = {"": r"(manifest|conversion|zarr)\.json\.tmp-.*", "history": r"\d+\.json\.tmp-.*"}
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(s|sec|m|min|h|d|w)?\s*")
_SECONDS = {None: 1, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}


@dataclass(frozen=True)
class VacuumReport:
    """What `vacuum` removed, or would remove if it was a dry run.

    Attributes
    ----------
    n_generations, n_layers, n_files : int
        Old manifests, layers, and files in all, those of the layers included.
    nbytes : int
        Bytes of the files.
    n_waiting, waiting_nbytes : int
        Layers and files that are not needed, and their bytes, but that stay since they are younger than the grace
        period.
    dry_run : bool
        Whether nothing was removed.
    """

    path: str
    n_generations: int
    n_layers: int
    n_files: int
    nbytes: int
    n_waiting: int
    waiting_nbytes: int
    dry_run: bool

    def __str__(self) -> str:
        removed = (
            f"{self.path}: {'would remove' if self.dry_run else 'removed'} {amount(self.n_layers, 'layer')}, "
            f"{amount(self.n_generations, 'old generation')}, {amount(self.n_files, 'file')} in all, "
            f"{nbytes_text(self.nbytes)}"
        )
        if not self.n_waiting:
            return removed
        waiting = f"{count_text(self.n_waiting)} more ({nbytes_text(self.waiting_nbytes)})"
        return f"{removed}; {waiting} {'stays' if self.n_waiting == 1 else 'stay'} until the grace period is over"


def vacuum(
    path: str | os.PathLike[str],
    *,
    keep: int = 100,
    grace: str | float | timedelta = "7d",
    cuts: bool = False,
    dry_run: bool = False,
) -> VacuumReport:
    """Free the space of what is no longer needed. Eager; commits nothing, and no row of a kept generation is touched.

    Removed are generations older than the newest `keep`, layers that no generation left names, temporary files and
    folders of dead writers, and kept cuts of layers that are gone: each only when it has not been needed for longer
    than `grace`. Writers and readers may go on meanwhile.

    Parameters
    ----------
    path : path
        The store.
    keep : int
        How many generations stay, the newest included: 1 or more.
    grace : str, number of seconds or timedelta
        As ``"7d"``, ``"12h"``, ``"30min"``, ``90``. Must be longer than any writer takes from its first row to its
        commit, and than any reader holds an older generation: what one of them needs may be gone otherwise. A writer
        finds out when it commits, and raises `ConflictError`.
    cuts : bool
        Whether all cuts, summaries of `Dataset.describe`, and indexes of `Dataset.loc`, that are kept in the store go,
        too, whatever `grace` says; they are computed again when they are used. `Dataset.cuts` lists the cuts.
    dry_run : bool
        Only find out what would be removed.

    Returns
    -------
    VacuumReport
        What was removed, and what waits for its grace period to end.

    Raises
    ------
    StoreNotFoundError
        When there is no store, nor an unfinished conversion.
    CorruptStoreError, FormatError
        When a manifest that stays is damaged: what it names cannot be known.
    OptionError
        When an argument is none of these.

    Examples
    --------
    >>> import mmdask as mm
    >>> ds = mm.from_arrays({"x": [1, 2], "y": [3, 4]}, "clean.mm")
    >>> mm.drop("clean.mm", "y")
    >>> mm.compact("clean.mm")
    >>> report = mm.vacuum("clean.mm", keep=1, grace=0)
    >>> report.n_layers, report.n_generations
    (1, 2)
    """
    if type(keep) is not int or keep < 1:
        raise OptionError(f"keep is a number of generations, 1 or more, got {keep!r}")
    seconds = seconds_of(grace, "grace")
    root = store_root(path)
    storage = storage_of(root)
    newest = _newest(root)
    before = time.time() - seconds
    if dry_run:
        found = _find(storage, newest, keep, before)
    else:
        with storage.alone():
            found = _find(storage, _newest(root), keep, before)
            _set_aside(storage, found)
    computed = list(_masks(storage, found.named, found.rows, every=cuts))
    masks = _choose(storage, [f for f in computed if _TEMPORARY not in f[-1]], math.inf if cuts else before, found)
    # of a process that is writing one now, too
    masks += _choose(storage, [f for f in computed if _TEMPORARY in f[-1]], before, found)
    if not dry_run:
        for doomed in found.folders:
            storage.remove_folder("parts", doomed)
        for within in found.inside:
            storage.remove_folder("parts", *within)
        storage.unlink(masks)
    return VacuumReport(
        root,
        len(found.generations),
        found.n_layers,
        found.n_files,
        found.nbytes,
        found.n_waiting,
        found.waiting_nbytes,
        dry_run,
    )


def seconds_of(grace: object, what: str) -> float:
    """The seconds of a duration: text as "7d" or "30min", a number, or a timedelta; `what` it is called in errors."""
    if isinstance(grace, timedelta):
        seconds = grace.total_seconds()
    elif isinstance(grace, int | float) and not isinstance(grace, bool):
        seconds = float(grace)
    else:
        match = _DURATION.fullmatch(grace) if isinstance(grace, str) else None
        if match is None:
            raise OptionError(f"{what} is a duration as in '7d', '12h', '30min', or seconds; got {grace!r}")
        seconds = float(match[1]) * _SECONDS[match[2]]
    if not 0 <= seconds < float("inf"):
        raise OptionError(f"{what} is 0 seconds or more, got {grace!r}")
    return seconds


def _newest(root: str) -> Manifest | None:
    """The newest manifest; None for a conversion that has not committed yet."""
    try:
        return read_manifest(root)
    except UnfinishedError:
        return None


@dataclass
class _Found:
    """What is to go: old manifests, files, layers to be set aside, and then folders to be deleted.

    `inside` are layers that stay, with a folder of each that no array of it is.
    `named` are the layers that stay, `rows` the identities of the generations that do.
    """

    generations: list[int] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    inside: list[tuple[str, str]] = field(default_factory=list)
    files: list[Sequence[str]] = field(default_factory=list)
    named: set[str] = field(default_factory=set)
    rows: set[str] = field(default_factory=set)
    n_layers: int = 0
    n_files: int = 0
    nbytes: int = 0
    n_waiting: int = 0
    waiting_nbytes: int = 0

    def count(self, size: Size) -> None:
        self.n_files += size.n_files
        self.nbytes += size.nbytes

    def wait(self, size: Size) -> None:
        self.n_waiting += 1
        self.waiting_nbytes += size.nbytes


def _find(storage: Storage, newest: Manifest | None, keep: int, before: float) -> _Found:
    """What has not been needed since `before`, but for kept masks."""
    found = _Found()
    kept, waiting, once_named = set[str](), set[str](), set[str]()
    if newest is not None:
        kept, waiting, once_named = _find_generations(storage, newest, keep, before, found)
    found.named = kept | waiting
    for entry in storage.entries("parts"):
        name = entry.name
        if not entry.is_folder:
            continue
        if name in waiting:
            found.wait(storage.size("parts", name))
        elif _DOOMED in name:
            found.folders.append(name)
            found.count(storage.size("parts", name))
        elif re.fullmatch(rf"{ID_PATTERN}(\.tmp-.*)?", name) and name not in found.named:
            size = storage.size("parts", name)
            if name not in once_named and (size.changed > before or not size.changed):
                found.wait(size)  # also what is listed, and of which nothing can be seen yet
                continue
            found.count(size)
            if _TEMPORARY in name:
                found.folders.append(name)
            else:
                found.layers.append(name)
    _find_inside(storage, found, before)
    found.n_layers = len(found.layers)
    found.files = _choose(storage, _loose_files(storage, newest), before, found)
    return found


def _find_inside(storage: Storage, found: _Found, before: float) -> None:
    """Arrays that attempts at layers left which another one made, where all of them write to the same folder."""
    for layer_id, sizes in storage.attempts(found.named).items():
        arrays = {spec.file for spec in read_layer(storage.root, layer_id).arrays}
        for name, size in sizes.items():
            if name in arrays:
                continue
            if size.changed > before:
                found.wait(size)
            else:
                found.count(size)
                found.inside.append((layer_id, name))


def _choose(storage: Storage, files: Iterable[Sequence[str]], before: float, found: _Found) -> list[Sequence[str]]:
    """Those files that were not changed since `before`; all are counted."""
    chosen = []
    for names in files:
        size = storage.size(*names)
        if size.changed > before:
            found.wait(size)
        else:
            found.count(size)
            chosen.append(names)
    return chosen


def _find_generations(
    storage: Storage, newest: Manifest, keep: int, before: float, found: _Found
) -> tuple[set[str], set[str], set[str]]:
    """Choose the old manifests to go.

    Returns
    -------
    tuple of sets
        The layers of the generations that are kept; the others of those that stay since it is not long ago that they
        were the newest; and the others of those that go.
    """
    kept, waiting, gone = set(newest.layers), set[str](), set[str]()
    found.rows.add(rows_identity(newest))
    superseded = _time_of(storage, newest)
    going = False
    for n, generation in enumerate(reversed(generations(storage.root, newest.generation - 1)), 1):
        file = history_name(generation)
        # Once one goes, all older ones do.
        going = going or (n >= keep and superseded <= before)
        try:
            manifest = read_past(storage.root, newest, generation)
        except (CorruptStoreError, FormatError) as error:
            if not going:
                error.add_note(
                    "it is a generation that is to stay, and what it names cannot be known, so nothing was removed; "
                    "put the file back from a copy, or remove it"
                )
                raise
            manifest = None
        layers = manifest.layers if manifest else set()
        if manifest is not None and not going:
            found.rows.add(rows_identity(manifest))
        if going:
            found.generations.append(generation)
            found.count(storage.size(*file))
            gone |= layers
        elif n >= keep:
            found.wait(storage.size(*file))
            waiting |= layers
        else:
            kept |= layers
        superseded = _time_of(storage, manifest) if manifest else storage.size(*file).changed
    return kept, waiting - kept, gone - waiting - kept


def _time_of(storage: Storage, manifest: Manifest) -> float:
    """When a generation was committed."""
    if manifest.time:
        with contextlib.suppress(ValueError):
            return calendar.timegm(time.strptime(manifest.time, "%Y-%m-%dT%H:%M:%SZ"))
    return storage.size(*history_name(manifest.generation)).changed


def _loose_files(storage: Storage, newest: Manifest | None) -> Iterator[Sequence[str]]:
    """Files of dead writers: temporary ones, and manifests that were not committed.

    Those of commits are dead under the lock; of conversions, which write theirs without it, the age tells.
    """
    for folder, pattern in _WRITTEN.items():
        names = [folder] if folder else []
        for entry in storage.entries(*names):
            if re.fullmatch(pattern, entry.name) and entry.is_file:
                yield *names, entry.name
    last = newest.generation if newest else 0
    for generation in generations(storage.root, 1 << 62):
        if generation > last:
            yield history_name(generation)


def _masks(storage: Storage, named: set[str], rows: set[str], *, every: bool) -> Iterator[Sequence[str]]:
    """Kept cuts, summaries and indexes of layers or rows that no manifest names, damaged, or not finished; or all.

    Those of a store behind a URL are in the user's own cache folder.
    """
    if is_url(storage.root):
        return
    for file, layers_of in _kept_files(storage):
        path = os.path.join(storage.root, *file)
        if every or _TEMPORARY in file[-1]:
            yield file
        elif layers_of is not None:
            layers = layers_of(path)
            if layers is None or not set(map(stored_id, layers)) <= named:
                yield file
        elif not any(_needed(kept, named, rows) for kept in read_kept(path)):
            yield file


def _kept_files(storage: Storage) -> Iterator[tuple[Sequence[str], Callable[[str], set[str] | None] | None]]:
    """The files of kept cuts, summaries and indexes; and what says of which layers those are that are no cuts."""
    kinds: tuple[tuple[str, tuple[str, ...], Callable[[str], set[str] | None] | None], ...] = (
        ("masks", (".mask", ".masks", ".rows"), None),
        ("summaries", (".summary",), summary_layers),
        ("keys", (".keys",), index_layers),
    )
    for folder, endings, layers_of in kinds:
        for above in storage.entries("cache", folder):
            for entry in storage.entries("cache", folder, above.name):
                ours = _TEMPORARY in entry.name or entry.name.endswith(endings)
                if ours and entry.is_file:
                    yield ("cache", folder, above.name, entry.name), layers_of


def _needed(kept: Kept, named: set[str], rows: set[str]) -> bool:
    """Whether a kept cut is one of these layers, or of one of these sets of rows."""
    if not kept.readable:
        return False
    return kept.identity in rows if kept.layers is None else set(map(stored_id, kept.layers.values())) <= named


def _set_aside(storage: Storage, found: _Found) -> None:
    """Take old manifests out of the history, and give layers a name that nobody looks for; durably, in this order."""
    storage.unlink(found.files)
    if found.generations:
        storage.unlink(history_name(generation) for generation in sorted(found.generations))
        storage.sync_names("history")
    if found.layers:
        found.folders += storage.withdraw(found.layers, _DOOMED)
