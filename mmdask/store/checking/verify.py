"""Check a store against what was committed: every byte, a sample of them, or the sizes of its files."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from mmdask.display import amount, progress, terminal_safe
from mmdask.errors import CorruptStoreError, FormatError, OptionError
from mmdask.schema import Schema
from mmdask.store import document
from mmdask.store.checking.checks import PartCheck, Plan, Problem, without_path
from mmdask.store.checking.opened import why_unread
from mmdask.store.manifest import (
    Manifest,
    Part,
    generations,
    history_name,
    parse_manifest,
    read_manifest,
    store_root,
)
from mmdask.store.snapshot import Snapshot
from mmdask.store.storage import storage_of
from mmdask.store.zarr.form import METADATA, root_document

__all__ = ["Problem", "Report", "check_parts", "verify"]

_MAX_THREADS = 8


@dataclass(frozen=True)
class Report:
    """What `verify` found.

    Attributes
    ----------
    ok : bool
        Whether nothing is wrong.
    problems : tuple of Problem
        Everything that is, with file, field and rows.
    notes : tuple of str
        What is not wrong, and may be of interest: folders that belong to no generation.
    generation : int
        The generation that was checked.
    method : str
        ``"every byte"``, ``"sizes"``, or what the sample was, with its seed.
    n_parts, n_files, nbytes : int
        What was looked at, and how many bytes of data were read.
    """

    path: str
    n_parts: int
    n_files: int
    nbytes: int
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()
    generation: int = 0
    method: str = "every byte"

    @property
    def ok(self) -> bool:
        return not self.problems

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        looked = f"generation {self.generation}, {amount(self.n_parts, 'part')}, {amount(self.n_files, 'file')}"
        checked = f"{terminal_safe(self.path)}: {looked}, {amount(self.nbytes, 'byte')} checked ({self.method})"
        found = amount(len(self.problems), "problem") if self.problems else "no problem"
        notes = [f"note: {terminal_safe(note)}" for note in self.notes]
        return "\n".join([f"{checked}: {found}", *map(str, self.problems), *notes])


def verify(
    path: str | os.PathLike[str],
    *,
    quick: bool = False,
    sample: float | int | None = None,
    generation: int | None = None,
    threads: int | None = None,
    seed: int | None = None,
    show_progress: bool = False,
) -> Report:
    """Compare a store with its checksums.

    By default every byte is read of all that one generation names. Damage of every kind is found: of the manifest, the
    history, part.json and arrays; and also what checksums cannot show: fields that are in no part, or stored as another
    type, offsets that do not ascend, codes without label, labels that the manifest does not have, text that is not
    UTF-8, bools that are neither 0 nor 1, shapes that do not fit their items, missing values that have some, smallest
    and largest values, and numbers of nan and infinities, that are not those of the data.

    Memory is bounded: a few megabytes a thread. Files are read, not mapped.

    Parameters
    ----------
    path : path
        The store's folder.
    quick : bool
        Whether only documents are read, and files are there and of the right size; no data are read.
    sample : float or int, optional
        Read that fraction of all data, or that many extents (of 4 MiB) of each array, chosen at random; all documents
        and sizes are checked. Text, shapes and missing values, which take whole arrays, are not.
    generation : int, optional
        An older one; the newest by default. Documents of the history are checked always.
    threads : int, optional
        That read; by default as many as there are cores, up to 8.
    seed : int, optional
        Of the sample; the report names the one that was used.
    show_progress : bool
        Whether a progress bar is shown.

    Returns
    -------
    Report
        ``.ok``, and ``.problems`` with file, field and rows.

    Raises
    ------
    StoreNotFoundError, CorruptStoreError, FormatError
        When the manifest itself is missing or damaged.
    OptionError
        For a sample or a number of threads that cannot be.

    Examples
    --------
    >>> import mmdask as mm
    >>> ds = mm.from_arrays({"x": [1, 2, 3]}, "checked.mm")
    >>> mm.verify("checked.mm").ok
    True
    """
    root = store_root(path)
    newest = read_manifest(root)
    manifest = newest if generation is None else read_manifest(root, generation)
    plan = Plan(quick, sample, seed)
    history = _History(root, newest)
    problems = list(history.problems())
    problems += _form_problems(root, newest)
    check = _Check(root, manifest, plan, _n_threads(threads))
    with progress(check.total, "verify", "B", disable=not show_progress) as bar:
        for found, nbytes in check.run():
            problems += found
            bar.update(nbytes)
    return Report(
        root,
        len(manifest.parts),
        1 + history.files + check.files,
        check.nbytes,
        tuple(dict.fromkeys(problems)),
        tuple(_notes(root, history.layers | manifest.layers)),
        manifest.generation,
        plan.method,
    )


def _form_problems(root: str, manifest: Manifest) -> Iterator[Problem]:
    """Whether writers are told the form that the manifest says."""
    expected = None if manifest.zarr is None else root_document(manifest.zarr)
    try:
        data = storage_of(root).read(METADATA, limit=0 if expected is None else len(expected))
    except (FileNotFoundError, NotADirectoryError):
        data = None
    except OSError as error:
        yield Problem(METADATA, "", None, why_unread(error))
        return
    if data != expected:
        wrong = "is gone" if data is None else "is there" if expected is None else "differs from what was written"
        yield Problem(METADATA, "", None, f"{wrong}; it says how the arrays of new rows are stored")


def check_parts(root: str, manifest: Manifest) -> None:
    """Compare the parts of a manifest with their checksums, before their bytes become others with new ones.

    Raises
    ------
    CorruptStoreError
        When a field of the manifest is damaged; data of fields that were dropped do not count.
    """
    check = _Check(
        root,
        replace(manifest, aux=Schema(), aux_layers=()),
        Plan(False, None, None, statistics=False),
        _n_threads(None),
    )
    for found, _ in check.run():
        for problem in found:
            if not problem.field or problem.field in manifest.schema:
                raise CorruptStoreError(
                    f"{root}: {problem.file} is damaged ({problem.message}); nothing was changed. `mmdask verify` "
                    "lists all damage with its rows; what cannot be restored can be dropped or assigned anew"
                )


def _n_threads(threads: int | None) -> int:
    if threads is None:
        return min(_MAX_THREADS, len(os.sched_getaffinity(0)))
    if type(threads) is not int or threads < 1:
        raise OptionError(f"threads is a number of 1 or more, got {threads!r}")
    return threads


class _History:
    """The documents of the history, and the layers that they name."""

    def __init__(self, root: str, newest: Manifest) -> None:
        self.root, self.newest, self.files = root, newest, 0
        self.layers: set[str] = set(newest.layers)

    def problems(self) -> Iterator[Problem]:
        present = set(_names(self.root, "parts"))
        for generation in generations(self.root, self.newest.generation):
            file = "/".join(history_name(generation))
            try:
                data = document.read_file(self.root, *history_name(generation))
                past = parse_manifest(data, os.path.join(self.root, file))
            except FileNotFoundError:
                continue  # trimmed meanwhile
            except (CorruptStoreError, FormatError) as error:
                self.files += 1
                yield Problem(file, "", None, without_path(error, self.root, file))
                continue
            except OSError as error:
                self.files += 1
                yield Problem(file, "", None, why_unread(error))
                continue
            self.files += 1
            self.layers |= past.layers
            if (past.uuid, past.generation) != (self.newest.uuid, generation):
                yield Problem(file, "", None, f"holds generation {past.generation} of store {past.uuid}")
            elif generation == self.newest.generation and past != self.newest:
                yield Problem(file, "", None, "differs from manifest.json, which is of the same generation")
            elif (gone := past.layers - present - self.newest.layers) and storage_of(self.root).has(
                *history_name(generation)
            ):
                are = "is" if len(gone) == 1 else "are"
                message = f"{amount(len(gone), 'layer')} of generation {generation} {are} gone, as {min(gone)}"
                yield Problem(file, "", None, message)


def _names(root: str, folder: str) -> list[str]:
    return [entry.name for entry in storage_of(root).entries(folder)]


def _notes(root: str, named: set[str]) -> Iterator[str]:
    left = sorted(set(_names(root, "parts")) - named)
    if left:
        belong = "belongs" if len(left) == 1 else "belong"
        yield (
            f"{amount(len(left), 'folder')} in parts/ {belong} to no generation, as {left[0]}: a writer is at work, or "
            "died; `mmdask vacuum` removes those that are old enough"
        )


class _Check:
    """All parts of a generation, with a few of them in the hands of threads at any time."""

    def __init__(self, root: str, manifest: Manifest, plan: Plan, threads: int) -> None:
        self.root, self.manifest, self.plan, self.threads = root, manifest, plan, threads
        self.files = self.nbytes = 0
        share = 0.0 if plan.quick else 1.0 if plan.sample is None else plan.sample
        #: bytes to be read, about; None for so many extents of each array
        self.total = None if type(share) is int else int(sum(p.nbytes for p in manifest.parts) * share)

    def run(self) -> Iterator[tuple[list[Problem], int]]:
        """Problems, and how many bytes were read for them, part by part."""
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="mmdask-verify")
        pending: deque[PartCheck] = deque()
        try:
            for part in self._parts():
                part.start(pool)
                pending.append(part)
                while sum(p.n_tasks for p in pending) > 4 * self.threads or len(pending) > 64:
                    yield from self._finished(pending.popleft())
            while pending:
                yield from self._finished(pending.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _parts(self) -> Iterator[PartCheck]:
        m, row = self.manifest, 0
        for number, part in enumerate(m.parts):
            # One part at a time: what is known of thousands of files would fill the memory.
            snapshot = Snapshot(self.root, replace(m, parts=(part,), aux_layers=()))
            yield PartCheck(snapshot, f"part {number}", row, self.plan)
            row += part.rows
        if m.aux:
            part = Part(1, m.aux_layers, 0)
            yield PartCheck(Snapshot(self.root, replace(m, schema=m.aux, parts=(part,))), "aux", None, self.plan)

    def _finished(self, part: PartCheck) -> Iterator[tuple[list[Problem], int]]:
        for found, nbytes in part.finish():
            self.nbytes += nbytes
            yield found, nbytes
        self.files += part.files
