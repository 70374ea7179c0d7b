"""Make one layer: decode its rows from inputs, or copy them from a merged one, and write them.

It runs in any process: what it is given pickles, and what it makes is complete or absent.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

from mmdask.errors import SourceError, StoreNotFoundError
from mmdask.rows.blocks import row_blocks
from mmdask.rows.reading.part import read_part
from mmdask.schema import Field, FieldData, Schema
from mmdask.sources.agreeing.shaped import Shaped
from mmdask.sources.converting.ahead import ahead
from mmdask.sources.converting.jobs import Copied, Job, Stretch
from mmdask.sources.converting.recipe import Recipe
from mmdask.sources.converting.streaming import MAX_OPEN_FIELDS, Streamed, stream
from mmdask.sources.converting.table import UNREADABLE, Reader, Rows, Table, UnreadableError
from mmdask.sources.converting.workers import Tell
from mmdask.store.checking.verify import check_parts
from mmdask.store.layer import Layer, Merged, OldLayer, Source, layer_exists, read_layer
from mmdask.store.layer_writer import FieldWriter, LayerWriter
from mmdask.store.manifest import Manifest, Part
from mmdask.store.origin import Alias
from mmdask.store.snapshot import Snapshot
from mmdask.store.storage import is_url
from mmdask.store.zarr.form import Form

__all__ = ["Check", "any_form", "make", "make_in_turn"]

#: raises where the arrays of a layer must not be stored so
Check = Callable[[Form | None], None]


def any_form(form: Form | None) -> None:
    """The check of a store that is there: its form is settled."""


def make(root: str, job: Job, reader: Reader, tell: Tell, check: Check = any_form) -> Layer:
    """Write the layer of a job, unless it is there.

    Raises
    ------
    SourceError
        When an input, or a field that was asked for by name, cannot be read, or the input changes meanwhile.
    """
    return _written(root, job, reader, tell, check).finish()


def make_in_turn(root: str, jobs: Iterable[Job], reader: Reader, tell: Tell, check: Check = any_form) -> list[Layer]:
    """The layers of some jobs, one after the other: the disk takes each while the rows of the next are read.

    Raises
    ------
    SourceError
        As `make`.
    """
    finishing: list[Future[Layer]] = []
    with ThreadPoolExecutor(1, "mmdask-finish") as pool:
        for job in jobs:
            written = _written(root, job, reader, tell, check)
            try:
                if finishing:
                    finishing[-1].result()  # two layers at most are under way
            except BaseException:
                written.drop()
                raise
            finishing.append(pool.submit(written.finish))
    return [layer.result() for layer in finishing]


@dataclass(frozen=True)
class _Written:
    """A layer that has its rows: `finish` makes it complete, `drop` takes it away, and one of them must be called."""

    finish: Callable[[], Layer]
    drop: Callable[[], None] = lambda: None


def _written(root: str, job: Job, reader: Reader, tell: Tell, check: Check) -> _Written:
    """Write the rows of a layer, unless it is there."""
    if not is_url(root) and not os.path.isdir(root):
        raise StoreNotFoundError(
            f"{root}: the folder of the store is not there for this worker; workers need a path that all of them share"
        )
    if layer_exists(root, job.id):
        tell(job.nbytes, job.stretches[0].name)
        return _Written(partial(read_layer, root, job.id))
    w = LayerWriter(root, job.id)
    try:
        check(w.form)  # the id of the layer says so, too
        making = _Making(root, w, job, reader, tell)
        done = [making.add(s) for s in job.stretches]
    except BaseException:
        w.discard()
        raise

    def finish() -> Layer:
        with w:
            if len(done) == 1:
                return w.finish(done[0][0], done[0][1])
            merged = [
                Merged(n, (OldLayer(s.data, making.names_of(source), source),))
                for s, (n, source) in zip(job.stretches, done, strict=True)
            ]
            return w.finish(sum(n for n, _ in done), merged=merged)

    return _Written(finish, w.discard)


class _Making:
    """A layer that is being written, one stretch after the other."""

    def __init__(self, root: str, w: LayerWriter, job: Job, reader: Reader, tell: Tell) -> None:
        self._root, self._w, self._job, self._reader, self._tell = root, w, job, reader, tell
        self._writers: dict[str, FieldWriter] = {}
        for field in job.fields:  # in their order, whichever is written first
            self._writers[field.name] = w.field(field)
        self._rows = 0
        self._snapshots: dict[str, Snapshot] = {}

    def add(self, stretch: Stretch) -> tuple[int, Source]:
        """Write the rows of a stretch; how many there were, and where they came from."""
        if stretch.copied is not None:
            self._copy(stretch, stretch.copied)
            n, source = stretch.copied.rows, stretch.copied.source
        else:
            assert stretch.table is not None
            n, source = self._decode(stretch, stretch.table)
        self._rows += n
        return n, source

    def names_of(self, source: Source) -> tuple[str, ...]:
        """The fields that the rows of an input would have alone."""
        skipped = {name for name, why in source.skipped if why.startswith(UNREADABLE)}
        return tuple(f.name for f in self._job.fields if f.name not in skipped)

    def _decode(self, stretch: Stretch, table: Table) -> tuple[int, Source]:
        start, stop = stretch.start, stretch.stop
        unreadable: dict[str, str] = {}
        with self._reader.open(table) as raw:
            rows = Shaped(raw, table)
            found = Streamed(None, ())
            done: set[str] = set()
            if table.bound is not None:
                found = stream(table, rows, start, stop, rows.writers(self._writers))
                done = {f.name for f in (*table.bound.reads, *table.bound.fields)}
                self._forward(table, done, start, stop)
            n = stop - start if found.picked is None else found.picked.rows
            left = [f for f in table.fields if f.name not in done]
            groups = table.together(f for f in left if f.name in self._writers)
            with contextlib.closing(ahead(_runs(rows, groups, start, stop, found))) as made:
                for fields, run in made:
                    if isinstance(run, UnreadableError):
                        unreadable.update(dict.fromkeys((f.name for f in fields), UNREADABLE + str(run)))
                        self._remove(f.name for f in fields)
                    elif run is not None:
                        for field, data in zip(fields, run, strict=True):
                            self._writers[field.name].write(data)
                    else:
                        self._end(stretch, fields, n, unreadable)
                        self._forward(table, [f.name for f in fields], start, stop)
            self._forward(table, [f.name for f in left if f.name not in self._writers], start, stop)
        table.source.check_unchanged()
        self._check_required(table, unreadable)
        source = _provenance(table, self._reader.recipe, start, stop, found)
        skipped = (*table.skipped, *unreadable.items())
        return n, replace(source, skipped=skipped, notes=rows.notes, padded=rows.padded)

    def _end(self, stretch: Stretch, fields: Sequence[Field], n: int, unreadable: dict[str, str]) -> None:
        """Check that all rows of the fields of a group came; nothing of them stays if not."""
        for field in fields:
            got = self._writers[field.name].rows - self._rows
            if got != n:
                why = f"{UNREADABLE}damaged, it gives {got} of {n} rows"
                unreadable.update(dict.fromkeys((f.name for f in fields), why))
                self._remove(f.name for f in fields)
                return
            if stretch is self._job.stretches[-1]:
                self._writers[field.name].end()
            self._close(self._writers[field.name])

    def _close(self, writer: FieldWriter) -> None:
        if len(self._job.fields) > MAX_OPEN_FIELDS:
            writer.close()

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            self._w.remove_field(name)
            del self._writers[name]

    def _check_required(self, table: Table, unreadable: Mapping[str, str]) -> None:
        """Raise `SourceError` for a field that was asked for by name, or when no field is left."""
        named = [n for n in unreadable if n in table.required]
        if named or (unreadable and not self._writers):
            name = named[0] if named else next(iter(unreadable))
            raise SourceError(f"{table.source.name}: field {name!r} {unreadable[name]}")

    def _forward(self, table: Table, names: Iterable[str], start: int, stop: int) -> None:
        """Count the bytes of some fields for a range of rows."""
        nbytes, rows = sum(table.nbytes.get(name, 0) for name in names), max(1, table.rows)
        self._tell(nbytes * stop // rows - nbytes * start // rows, table.source.path)

    def _copy(self, stretch: Stretch, copied: Copied) -> None:
        """Write rows that a merged layer has; its checksums are compared first, for the new ones would hide damage."""
        if copied.layer not in self._snapshots:
            layer = read_layer(self._root, copied.layer)
            schema = Schema(f for f in self._job.fields if f.name in self._writers)
            parts = (Part(layer.rows, (layer.id,), layer.nbytes),)
            manifest = Manifest(os.urandom(16).hex(), 1, 1, schema, parts)
            check_parts(self._root, manifest)
            self._snapshots[copied.layer] = Snapshot(self._root, manifest)
        snapshot = self._snapshots[copied.layer]
        for name, writer in self._writers.items():
            for a, b in row_blocks(snapshot, 0, [name], copied.first, copied.first + copied.rows):
                writer.write(read_part(snapshot, 0, name, a, b))
            self._close(writer)
        self._tell(stretch.nbytes, stretch.name)


def _runs(
    rows: Rows, groups: Sequence[tuple[Field, ...]], start: int, stop: int, found: Streamed
) -> Iterator[tuple[tuple[Field, ...], tuple[FieldData, ...] | UnreadableError | None]]:
    """Runs of the fields of each group, after which comes None, or why they cannot be read."""
    for fields in groups:
        try:
            for run in rows(fields, start, stop, picked=found.picked):
                yield fields, run
        except UnreadableError as error:
            yield fields, error
        else:
            yield fields, None


def _provenance(table: Table, recipe: Recipe, start: int, stop: int, found: Streamed) -> Source:
    s = table.source
    fields = {f.name: f for f in table.bound.fields} if table.bound else {}
    aliases = tuple(Alias(name, fields[name].expression, fields[name].optional) for name, _ in recipe.aliases)
    about = s.path, table.tree, start, stop, s.size, s.mtime_ns, table.fingerprint
    return Source(*about, cut=recipe.cut, aliases=aliases, weights=found.weights, hash=s.hash)
