"""Check one part of a store: its documents, the files of its layers, and what the manifest says of its fields.

A part check starts tasks that read files, in threads, and then waits for them; several parts are under way at once.
"""

from __future__ import annotations

import bisect
import os
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from mmdask.display import amount, terminal_safe
from mmdask.errors import CorruptStoreError, FormatError, LimitError, OptionError
from mmdask.store.checking.claims import Claims, CountClaims, MissingClaims, ValueClaims
from mmdask.store.checking.crosscheck import crosscheck
from mmdask.store.checking.opened import Place, extent_nbytes, why_unread
from mmdask.store.checking.scan import Damage, Use, read_entry, runs_of, scan
from mmdask.store.layer import Layer, StoredField
from mmdask.store.snapshot import Snapshot
from mmdask.store.storage import storage_of
from mmdask.store.zarr.form import GROUP, METADATA

__all__ = ["PartCheck", "Plan", "Problem", "without_path"]

#: data bytes, and arrays, of one task of a thread
TASK_NBYTES = 64 << 20
TASK_ARRAYS = 64


@dataclass(frozen=True)
class Problem:
    """One thing that is not as committed.

    `rows` are store row numbers, first and behind the last, that may be wrong; None where it is not about rows.
    """

    file: str
    field: str
    rows: tuple[int, int] | None
    message: str

    def __str__(self) -> str:
        rows = f"rows {self.rows[0]} to {self.rows[1] - 1}" if self.rows else ""
        about = " ".join(filter(None, [self.field, rows]))
        return terminal_safe(": ".join(filter(None, [self.file, about, self.message])))


def without_path(error: Exception, root: str, file: str) -> str:
    """The message of an error about a file of a store, without the place that it begins with."""
    return str(error).removeprefix(f"{os.path.join(root, file)}: ").removeprefix(f"{root}: ")


class Plan:
    """What is read: everything, nothing but documents and sizes, or a sample.

    Parameters
    ----------
    quick : bool
        Whether no data are read.
    sample : float or int or None
        The fraction of all extents, or the number of those of each array.
    seed : int or None
        Of the sample; None for any.
    statistics : bool
        Whether what is kept of the data for skipping is looked at, too.

    Raises
    ------
    OptionError
        When they do not go together.
    """

    def __init__(self, quick: bool, sample: float | int | None, seed: int | None, *, statistics: bool = True) -> None:
        is_count = type(sample) is int and sample >= 1
        is_fraction = isinstance(sample, float) and 0 < sample <= 1
        if sample is not None and (quick or not (is_count or is_fraction)):
            what = "quick=True reads no data; leave sample= out" if quick else f"got {sample!r}"
            raise OptionError(f"sample is a fraction like 0.01, or a number of extents of each array: {what}")
        if seed is not None and (type(seed) is not int or sample is None):
            raise OptionError(f"seed is an integer, and for a sample; got {seed!r}")
        self.quick, self.sample, self.statistics = quick, sample, statistics
        self.seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
        self._rng = random.Random(self.seed)

    @property
    def whole(self) -> bool:
        return not self.quick and self.sample is None

    @property
    def method(self) -> str:
        """In words, as a report says it."""
        if self.sample is None:
            return "sizes" if self.quick else "every byte"
        count, sample = type(self.sample) is int, self.sample
        what = f"{amount(int(sample), 'extent')} of each array" if count else f"a fraction of {sample}"
        return f"sample of {what}, seed={self.seed}"

    def extents(self, n: int) -> Sequence[int]:
        """Numbers of the extents to be read, of `n`."""
        if self.sample is None:
            return () if self.quick else range(n)
        # On average the fraction itself, also of arrays that have one extent.
        count = self.sample if type(self.sample) is int else int(self.sample * n + self._rng.random())
        return sorted(self._rng.sample(range(n), min(int(count), n)))


class PartCheck:
    """One part: its layers, their files, and the fields that the manifest says are in it.

    Parameters
    ----------
    snapshot : Snapshot
        Of this part alone.
    name : str
        For messages.
    first_row : int or None
        The store's row number of its first row; None where its rows are none of the store's.
    plan : Plan
        What is read.
    """

    def __init__(self, snapshot: Snapshot, name: str, first_row: int | None, plan: Plan) -> None:
        self.snapshot, self.name, self.first_row, self.plan = snapshot, name, first_row, plan
        self.part = snapshot.parts[0]
        self.files = self.n_tasks = 0
        self._problems: list[Problem] = []
        self._layers: list[_LayerCheck] = []

    def rows(self, start: int, stop: int) -> tuple[int, int] | None:
        """Store rows of rows of the part; None for what is not about rows."""
        if self.first_row is None or start >= stop:
            return None
        return self.first_row + max(start, 0), self.first_row + min(stop, self.part.rows)

    @property
    def all_rows(self) -> tuple[int, int] | None:
        return self.rows(0, self.part.rows)

    def start(self, pool: ThreadPoolExecutor) -> None:
        """Read the documents, look at the files, and give their data to the threads."""
        readable = True
        for layer_id in dict.fromkeys(self.part.layers):
            file = f"parts/{layer_id}/part.json"
            try:
                layer = self.snapshot.layer(layer_id)
            except (CorruptStoreError, FormatError) as error:
                self._problems.append(Problem(file, "", self.all_rows, without_path(error, self.snapshot.path, file)))
                readable = False
                continue
            except LimitError:
                raise
            except OSError as error:  # which tells nothing of the bytes
                told = (error.strerror or str(error)).removeprefix(f"{self.snapshot.path}/{file}: ")
                self._problems.append(Problem(file, "", self.all_rows, told))
                readable = False
                continue
            self.files += 1
            if layer.rows != self.part.rows:
                message = f"{layer.rows} rows, the manifest says {self.part.rows}"
                self._problems.append(Problem(file, "", self.all_rows, message))
                readable = False
                continue
            check = _LayerCheck(self, layer)
            self._problems += check.start(pool)
            self._layers.append(check)
            self.n_tasks += len(check.tasks)
        if readable:
            self._problems += self._as_committed()

    def finish(self) -> Iterator[tuple[list[Problem], int]]:
        """What was found, and for how many bytes; waits for the threads."""
        yield self._problems, 0
        for check in self._layers:
            yield from check.finish()
            self.files += check.files

    def _as_committed(self) -> Iterator[Problem]:
        """Whether the fields of the manifest are in this part, and what the manifest says that they are."""
        counts: dict[str, dict[Any, str]] = defaultdict(dict)
        for name, described in self.snapshot.schema.items():
            try:
                layer, stored = self.snapshot.stored(0, name)
            except (CorruptStoreError, FormatError) as error:
                message = without_path(error, self.snapshot.path, "manifest.json")
                yield Problem("manifest.json", name, self.all_rows, message)
                continue
            if described.kind == "category":
                yield from self._labels(f"parts/{layer.id}/part.json", name, stored)
            if described.record and stored.offsets:
                outer = layer.arrays[stored.offsets[0]]
                counts[described.record].setdefault(outer.checksums, name)
        every = self.snapshot.schema.values()
        for record, members in counts.items():
            if len(members) > 1 and all(f.levels for f in every if f.record == record):
                a, b, *_ = members.values()
                message = f"its counts are not those of {a!r}, which is of the same list of records, {record!r}"
                yield Problem("manifest.json", b, self.all_rows, message)
        nbytes = sum(check.layer.nbytes for check in self._layers)
        if self.first_row is not None and nbytes != self.part.nbytes:
            message = f"says {self.part.nbytes} bytes of data for {self.name}; its layers have {nbytes}"
            yield Problem("manifest.json", "", self.all_rows, message)

    def _labels(self, file: str, name: str, stored: StoredField) -> Iterator[Problem]:
        known = set(self.snapshot.schema[name].labels)
        unknown = [label for label in stored.labels if label not in known]
        if unknown:
            are = "is" if len(unknown) == 1 else "are"
            message = f"{amount(len(unknown), 'label')} {are} not in the manifest, as {unknown[0]!r}"
            yield Problem(file, name, self.all_rows, message)
        if len(set(stored.labels)) != len(stored.labels):
            yield Problem(file, name, self.all_rows, "a label is there twice")


@dataclass
class _Task:
    """Arrays, or some extents of one, that a thread reads."""

    items: list[tuple[int, Place, Use, list[range], bool]] = field(default_factory=list)
    nbytes: int = 0
    future: Future[list[tuple[int, list[Damage], list[Damage], bool]]] | None = None

    def run(self) -> list[tuple[int, list[Damage], list[Damage], bool]]:
        """Per item the array, its damage, what is not as is kept of it, and whether it is ASCII."""
        found = []
        for number, place, use, extents, start in self.items:
            try:
                found.append((number, *scan(place, use, extents, start=start)))
            except OSError as error:
                found.append((number, [_unreadable(place, error)], [], True))
        return found


def _unreadable(place: Place, error: OSError) -> Damage:
    return Damage(0, place.spec.shape[0], why_unread(error))


class _LayerCheck:
    """One layer: every file that part.json names."""

    def __init__(self, part: PartCheck, layer: Layer) -> None:
        self.part, self.layer, self.plan = part, layer, part.plan
        self.parts = os.path.dirname(layer.path)
        self.tasks: list[_Task] = []
        self.files = 0
        self._absent: set[int] = set()
        self._damage: dict[int, list[Damage]] = defaultdict(list)
        self._kept: dict[int, list[Damage]] = defaultdict(list)
        self._not_ascii: set[int] = set()
        #: by array, the fields that use it, each with the depth of its elements, or of the lists that it bounds
        self._users: dict[int, list[tuple[str, int, bool]]] = defaultdict(list)
        for name, s in layer.fields.items():
            uses = [(number, depth, True) for depth, number in enumerate(s.offsets)]
            uses += [(number, depth, False) for depth, number in enumerate(s.valid) if number is not None]
            uses += [(number, 0, False) for number in (s.shapes,) if number is not None]
            uses += [(number, len(s.offsets), False) for number in (s.values,) if number is not None]
            for number, depth, is_offsets in uses:
                self._users[number].append((name, depth, is_offsets))

    def _place(self, number: int) -> Place:
        return Place(self.parts, self.layer.id, self.layer.arrays[number])

    def _file(self, number: int) -> str:
        return f"parts/{self.layer.id}/{self.layer.arrays[number].file}"

    def _use(self, number: int) -> Use:
        fields = [self.layer.fields[name] for name, _, _ in self._users[number]]
        labels = [len(s.labels) for s in fields if s.kind == "category" and s.values == number]
        return Use(
            offsets=any(number in s.offsets for s in fields),
            flags=self.layer.arrays[number].dtype.kind == "b",
            text=any(s.kind == "string" and s.values == number for s in fields),
            n_labels=min(labels, default=None),
            claims=tuple(self._claims(number)),
        )

    def _claims(self, number: int) -> Iterator[Claims]:
        """What is kept of the elements of an array."""
        if not self.plan.statistics:
            return
        fields = [s for s in dict.fromkeys(self.layer.fields[name] for name, _, _ in self._users[number]) if s.bounds]
        lists = [s for s in fields if s.offsets and s.offsets[0] == number]
        if lists:
            yield CountClaims(self.parts, self.layer, lists)
        for s in fields:
            if s.values == number:
                yield ValueClaims(self.parts, self.layer, s)
            for depth in [d for d, n in enumerate(s.valid) if n == number]:
                yield MissingClaims(self.parts, self.layer, [s], depth)

    # Before the threads ---------------------------------------------------------------------------------------------

    def start(self, pool: ThreadPoolExecutor) -> Iterator[Problem]:
        """Look at the sizes of all files, and give their data to the threads."""
        task = _Task()
        if any(spec.zarr for spec in self.layer.arrays):
            yield from self._group()
        for number, spec in enumerate(self.layer.arrays):
            if number == self.layer.grains and not self.plan.statistics:
                continue
            self.files += 1
            wrong = self._missing(number)
            if wrong:
                self._absent.add(number)
                yield from self._named(number, Damage(0, spec.shape[0], wrong))
            elif not self.plan.quick:
                place, use = self._place(number), self._use(number)
                size = extent_nbytes(spec)
                for i, extents in enumerate(_split(self.plan.extents(len(spec.checksums)), size)):
                    nbytes = sum(min(e.stop * size, spec.nbytes) - e.start * size for e in extents)
                    if task.items and (len(task.items) >= TASK_ARRAYS or task.nbytes + nbytes > TASK_NBYTES):
                        self._submit(task, pool)
                        task = _Task()
                    task.items.append((number, place, use, extents, i == 0))
                    task.nbytes += nbytes
        if task.items:
            self._submit(task, pool)

    def _group(self) -> Iterator[Problem]:
        """Whether other programs find the group of zarr that a layer of zarr arrays is."""
        self.files += 1
        file = f"parts/{self.layer.id}/{METADATA}"
        try:
            same = storage_of(self.part.snapshot.path).read(*file.split("/"), limit=len(GROUP)) == GROUP
        except OSError as error:
            yield Problem(file, "", None, why_unread(error))
            return
        if not same:
            yield Problem(file, "", None, "is damaged (mmdask does not need it, zarr.open does)")

    def _missing(self, number: int) -> str:
        place = self._place(number)
        try:
            file = place.open()
        except OSError as error:
            return why_unread(error)
        try:
            return file.size_problem()
        except OSError as error:
            return why_unread(error)
        finally:
            file.close()

    def _submit(self, task: _Task, pool: ThreadPoolExecutor) -> None:
        task.future = pool.submit(task.run)
        self.tasks.append(task)

    # Behind them ----------------------------------------------------------------------------------------------------

    def finish(self) -> Iterator[tuple[list[Problem], int]]:
        """What was found; waits for the threads."""
        for task in self.tasks:
            assert task.future is not None
            for number, damage, kept, is_ascii in task.future.result():
                self._damage[number] += damage
                self._kept[number] += kept
                if not is_ascii:
                    self._not_ascii.add(number)
            yield [], task.nbytes
        self.tasks = []
        if self.plan.quick:
            return
        problems = list(self._ends())
        for number, damage in list(self._damage.items()):
            problems += [p for d in _joined(damage) for p in self._named(number, d)]
        yield problems, 0
        wrong = {p.field for p in problems}
        if self.plan.whole:
            for name, stored in self.layer.fields.items():
                across = list(self._across(name, stored))
                wrong |= {p.field for p in across}
                yield across, 0
        if self.layer.grains is None or not any(d.stop for d in self._damage[self.layer.grains]):
            # Values that are damaged are not what is kept of them: that is said of fields that are whole.
            for number, kept in self._kept.items():
                yield [p for d in _joined(kept) for p in self._named(number, d) if p.field not in wrong], 0

    def _ends(self) -> Iterator[Problem]:
        """Whether offsets end where the elements below do."""
        wrong = set()
        for number, users in self._users.items():
            fields = [(name, depth) for name, depth, is_offsets in users if is_offsets]
            if not fields or number in self._absent or any(d.stop for d in self._damage[number]):
                continue
            try:
                last = read_entry(self._place(number), -1)
            except OSError as error:
                self._damage[number].append(_unreadable(self._place(number), error))
                continue
            for name, depth in fields:
                length = self._length(self.layer.fields[name], depth + 1)
                if last != length:
                    wrong.add(number)
                    message = f"offsets do not ascend from 0 to {length}: they end at {last}"
                    yield Problem(self._file(number), name, self.part.all_rows, message)
        self._absent |= wrong  # such offsets say nothing about rows

    def _across(self, name: str, stored: StoredField) -> Iterator[Problem]:
        """What arrays say about each other, if each of them is whole."""
        if any(n in self._absent or any(d.stop for d in self._damage[n]) for n in stored.arrays):
            return
        try:
            for number, depth, damage in crosscheck(
                self.parts,
                self.layer,
                stored,
                text=stored.values in self._not_ascii,
                counts=self.plan.statistics,
            ):
                rows = self.part.rows(*self._to_rows(stored, depth, damage))
                yield Problem(self._file(number), name, rows, damage.message)
        except OSError as error:
            message = why_unread(error)
            yield Problem(f"parts/{self.layer.id}", name, self.part.all_rows, message)

    def _named(self, number: int, damage: Damage) -> Iterator[Problem]:
        """Damage of an array, for each field that it is damage of."""
        for name, depth, is_offsets in self._users[number]:
            start, stop = damage.start, damage.stop
            if is_offsets and stop:
                # Entry i is the end of element i - 1 and the beginning of element i.
                start, stop = max(start - 1, 0), min(stop, self.layer.arrays[number].shape[0] - 1)
            rows = self._to_rows(self.layer.fields[name], depth, Damage(start, stop, ""))
            yield Problem(self._file(number), name, self.part.rows(*rows), damage.message)
        if not self._users[number]:
            yield Problem(self._file(number), "", self.part.all_rows if damage.stop else None, damage.message)

    # Elements and rows ----------------------------------------------------------------------------------------------

    def _length(self, stored: StoredField, depth: int) -> int:
        """Elements at a depth, as part.json says."""
        if depth < len(stored.offsets):
            return self.layer.arrays[stored.offsets[depth]].shape[0] - 1
        assert stored.values is not None
        return self.layer.arrays[stored.values].shape[0]

    def _to_rows(self, stored: StoredField, depth: int, damage: Damage) -> tuple[int, int]:
        """The rows that elements at a depth belong to: all, where the offsets above are not to be trusted."""
        start, stop = damage.start, damage.stop
        if start >= stop or not depth:
            return start, stop
        above = stored.offsets[:depth]
        if any(n in self._absent or any(d.stop for d in self._damage[n]) for n in above):
            return 0, self.layer.rows
        for number in reversed(above):
            entries, key = range(self.layer.arrays[number].shape[0]), partial(read_entry, self._place(number))
            try:
                start = bisect.bisect_right(entries, start, key=key) - 1
                stop = bisect.bisect_left(entries, max(stop, 1), key=key)
            except OSError:
                return 0, self.layer.rows
        return start, stop


def _split(extents: Sequence[int], nbytes: int) -> list[list[range]]:
    """Extents of so many bytes as runs, no more together than a task reads; one entry at least, for the header."""
    most = max(TASK_NBYTES // nbytes, 1)
    return [runs_of(extents[i : i + most]) for i in range(0, len(extents), most)] or [[]]


def _joined(damage: list[Damage]) -> list[Damage]:
    """Neighbours that are wrong in the same way as one."""
    joined: list[Damage] = []
    for d in damage:
        if joined and joined[-1].message == d.message and joined[-1].stop >= d.start:
            d = Damage(min(joined[-1].start, d.start), max(joined[-1].stop, d.stop), d.message)
            joined.pop()
        joined.append(d)
    return joined
