"""Rows of a store as a new store."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mmdask import display
from mmdask.errors import OptionError, StoreExistsError, StoreNotFoundError
from mmdask.rows.reading.part import read_aux
from mmdask.rows.rows import Rows
from mmdask.rows.upkeep.compact import constant_of, used_labels
from mmdask.rows.views.derived import reads
from mmdask.schema import Field, FieldData, Schema
from mmdask.store.commit import amount, block_rows_for, commit, discard_layers
from mmdask.store.folder import check_free, make_folder, remove_folder
from mmdask.store.layer import Layer, Scalar, Source, layer_exists, new_id, read_layer
from mmdask.store.layer_writer import LayerWriter
from mmdask.store.manifest import Manifest, Part, store_root
from mmdask.store.outcome import writing
from mmdask.store.snapshot import Snapshot
from mmdask.store.storage import is_url
from mmdask.store.zarr.form import Backend, check_backend, settled

__all__ = ["save_rows"]

#: from positions, first and last, to store row numbers, int64
Order = Callable[[int, int], npt.NDArray[np.int64]]

#: bytes of one field that are copied at once
BLOCK_NBYTES = 32 << 20
_BLOCK_ROWS = 1 << 20
#: bytes of a part below which work is not divided among workers
_LEAST_NBYTES = 64 << 20


#: is told of values as they are written, and of nothing else
Tell = Callable[[int, str], Any]


class Workers(Protocol):
    """Do calls elsewhere, `count` at once; as those of a conversion."""

    count: int

    def run(self, call: Callable[[Any, Tell], Any], items: Sequence[Any], tell: Tell) -> Iterator[tuple[int, Any]]: ...


def save_rows(
    rows: Rows,
    names: Sequence[str],
    path: str | os.PathLike[str],
    *,
    part_nbytes: int | str,
    progress: bool,
    order: Order | None = None,
    backend: Backend | None = None,
    workers: Workers | None = None,
) -> None:
    """Write rows as a new store; see `mmdask.Dataset.save`.

    Parameters
    ----------
    rows : Rows
        Already resolved.
    names : sequence of str
        The fields, in their order.
    path, part_nbytes, progress, backend
        As there.
    order : callable, optional
        Gives the store row numbers at positions, from one to another, of another order than that in which they lie.
    workers : Workers, optional
        Make the parts; each gets a share of them. Everything is done here by default.
    """
    target = display.parse_nbytes(part_nbytes)
    if target < 1:
        raise OptionError(f"part_nbytes is a number of bytes, 1 or more, got {part_nbytes!r}")
    root = store_root(path)
    form = settled(check_backend(backend, remote=is_url(root)), rows.row_nbytes)
    check_free(root)
    schema = _schema(rows, names)
    ordered: _Ordered = _Stored(rows) if order is None else _Mixed(rows, order)
    if workers is not None:
        nbytes = sum(n * _width(rows, schema, p) for p, n in enumerate(_counts(rows).tolist()) if n)
        target = min(target, max(_LEAST_NBYTES, int(nbytes) // (4 * workers.count)))
    parts = list(ordered.plan(schema, target))
    made: list[str] = []
    with writing(root, "nothing was saved"):
        make_folder(root, form)
        try:
            with display.progress(len(rows) * len(schema), "save", "values", disable=not progress, delay=0.5) as bar:
                _fill(ordered, schema, parts, root, made, workers, lambda n, _: bar.update(n))
        except BaseException:
            discard_layers(root, made)
            remove_folder(root)
            raise


def _fill(
    ordered: _Ordered,
    schema: Schema,
    parts: Sequence[_Part],
    root: str,
    made: list[str],
    workers: Workers | None,
    tell: Tell,
) -> None:
    """Write and commit the parts; the ids of all layers go to `made` before they begin."""
    rows = ordered.rows
    snapshot = rows.snapshot
    jobs = [_Job(new_id(), part) for part in parts]
    made += [job.id for job in jobs]
    write = partial(_write, ordered, schema, root)
    if workers is None:
        layers = [write(job, tell) for job in jobs]
    else:
        layers_of = dict(workers.run(write, jobs, tell))
        layers = [layers_of[i] for i in range(len(jobs))]
    aux = snapshot.manifest.aux
    if aux:
        made.append(new_id())
        _write_aux(snapshot, root, made[-1])
    new = Manifest(
        os.urandom(16).hex(),
        0,
        block_rows_for(layers),
        schema,
        tuple(Part(x.rows, (x.id,), x.nbytes) for x in layers),
        snapshot.manifest.attrs,
        aux,
        tuple(made[len(layers) :]),
    )

    def change(newest: Manifest | None) -> Manifest:
        if newest is not None:
            raise StoreExistsError(f"{root}: another process made a store here; choose another path")
        return new

    commit(root, change, action=f"save {amount(len(rows), 'row')} of {snapshot.origin}")


def _schema(rows: Rows, names: Iterable[str]) -> Schema:
    """The fields of these names; one whose expression reads others is no longer computed."""
    chosen = Schema(rows.schema[name] for name in names)
    # Those of computed fields name stored ones, wherever these came from.
    texts = {name: d.expression.canonical for name, d in rows.derived.items()}
    stored = set(chosen) - set(texts)

    def saved(f: Field) -> Field:
        f = replace(f, expression=texts.get(f.name, f.expression))
        return f if f.expression and reads(f) <= stored else replace(f, expression="")

    return Schema(map(saved, chosen.values()))


@dataclass(frozen=True)
class _Part:
    """Selected rows number `start` to `stop`, which lie in these parts of the store."""

    start: int
    stop: int
    parts: tuple[int, ...]


@dataclass(frozen=True)
class _Job:
    """A part and the id of its layer, which is the same however often it is tried."""

    id: str
    part: _Part


class _Ordered(Protocol):
    """The selected rows in the order in which they are written."""

    rows: Rows

    def plan(self, schema: Schema, target: int) -> Iterator[_Part]:
        """The parts, of about `target` bytes each."""
        ...

    def read(self, name: str, start: int, stop: int) -> FieldData:
        """A field at positions `start` to `stop`."""
        ...

    def span(self, part: _Part) -> tuple[int, int]:
        """The store rows between which those of a part lie."""
        ...


class _Stored:
    """As they lie."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def plan(self, schema: Schema, target: int) -> Iterator[_Part]:
        return _plan(self.rows, schema, target)

    def read(self, name: str, start: int, stop: int) -> FieldData:
        return self.rows.read(name, start, stop)

    def span(self, part: _Part) -> tuple[int, int]:
        return self.rows.number(part.start), self.rows.number(part.stop - 1)


class _Mixed:
    """In another order, in which neighbours come from everywhere."""

    def __init__(self, rows: Rows, order: Order) -> None:
        self.rows = rows
        self.order = order

    def plan(self, schema: Schema, target: int) -> Iterator[_Part]:
        """Equal parts; each has rows of all parts of the store."""
        parts = tuple(np.flatnonzero(_counts(self.rows)).tolist())
        n = len(self.rows)
        if not n:
            return
        width = sum(self._row_nbytes(parts, f) for f in schema.values())
        n_parts = max(1, min(n, round(n * width / target)))
        edges = [n * i // n_parts for i in range(n_parts + 1)]
        for start, stop in itertools.pairwise(edges):
            yield _Part(start, stop, parts)

    def _row_nbytes(self, parts: Sequence[int], field: Field) -> float:
        if _constant(self.rows, parts, field) is not None:
            return 0.0
        counts = _counts(self.rows)
        stored = [_row_nbytes(self.rows, p, field) for p in parts]
        return max(float(np.average(stored, weights=counts[list(parts)])), 0 if field.n_offsets else field.item_nbytes)

    def read(self, name: str, start: int, stop: int) -> FieldData:
        return self.rows.take(name, self.order(start, stop))

    def span(self, part: _Part) -> tuple[int, int]:
        return self.rows.number(0), self.rows.number(-1)


def _plan(rows: Rows, schema: Schema, target: int) -> Iterator[_Part]:
    """Cut the rows into parts of about `target` bytes, where it can be so at changes of what is constant."""
    counts = _counts(rows)
    start = stop = 0
    nbytes = 0.0
    inside: list[int] = []
    constants: tuple[str, ...] = ()
    for p in np.flatnonzero(counts).tolist():
        before, constants = constants, tuple(repr(_constant(rows, [p], f)) for f in schema.values())
        if inside and constants != before and nbytes >= target / 2:
            yield _Part(start, stop, tuple(inside))
            start, nbytes, inside = stop, 0.0, []
        width = _width(rows, schema, p)
        left = int(counts[p])
        while left:
            room = max(1, int((target - nbytes) / width)) if width else left
            n = min(left, room)
            inside += [p] if p not in inside[-1:] else []
            stop, nbytes, left = stop + n, nbytes + n * width, left - n
            if nbytes >= target or left:
                yield _Part(start, stop, tuple(inside))
                start, nbytes, inside = stop, 0.0, []
    if inside:
        yield _Part(start, stop, tuple(inside))


def _width(rows: Rows, schema: Schema, part: int) -> float:
    """Bytes of a row of a part of the store."""
    return sum(_row_nbytes(rows, part, f) for f in schema.values())


def _counts(rows: Rows) -> Any:
    """Selected rows in each part of the store, int64."""
    if rows.span is not None and rows.span.step == 1:
        return np.diff(np.clip(rows.snapshot.starts, rows.span.start, rows.span.stop))
    return rows.bits.counts


def _constant(rows: Rows, parts: Sequence[int], field: Field) -> Scalar | None:
    return None if field.name in rows.derived else constant_of(rows.snapshot, parts, field)


def _row_nbytes(rows: Rows, part: int, field: Field) -> float:
    """Bytes of a row, of a computed field as of the widest that it reads."""
    if field.name not in rows.derived:
        layer, stored = rows.snapshot.stored(part, field.name)
        return layer.field_nbytes(field.name) / max(layer.rows, 1) if stored.values is not None else 0.0
    read = rows.derived[field.name].expression.fields if field.n_offsets else ()
    return max([field.item_nbytes, *(_row_nbytes(rows.stored, part, rows.snapshot.schema[name]) for name in read)])


def _write(ordered: _Ordered, schema: Schema, root: str, job: _Job, tell: Tell) -> Layer:
    """Make a part, in any process; what another attempt at it has made is not made again."""
    rows, part = ordered.rows, job.part
    snapshot = rows.snapshot
    if not is_url(root) and not os.path.isdir(root):
        raise StoreNotFoundError(
            f"{root}: the folder of the new store is not there for this worker; workers need a path that all of them "
            "share"
        )
    if layer_exists(root, job.id):
        return read_layer(root, job.id)
    with LayerWriter(root, job.id) as w:
        for field in schema.values():
            constant = _constant(rows, part.parts, field)
            if constant is not None:
                w.constant(field, constant)
                tell(part.stop - part.start, "")
                continue
            field, codes = used_labels(snapshot, part.parts, field)
            writer = w.field(field)
            width = max(_row_nbytes(rows, p, field) for p in part.parts)
            step = max(1, min(_BLOCK_ROWS, int(BLOCK_NBYTES / max(width, 1.0))))
            for a in range(part.start, part.stop, step):
                b = min(a + step, part.stop)
                data = ordered.read(field.name, a, b)
                if codes is not None and len(field.labels):
                    data = FieldData(codes.take(data.values), labels=field.labels, valid=data.valid)
                writer.write(data)
                tell(b - a, "")
            writer.close()
        first, last = ordered.span(part)
        manifest = snapshot.manifest
        origin = f"{manifest.uuid}, generation {manifest.generation}"
        source = Source(snapshot.path, start=first, stop=last + 1, fingerprint=origin)
        return w.finish(part.stop - part.start, source)


def _write_aux(snapshot: Snapshot, root: str, layer_id: str) -> None:
    with LayerWriter(root, layer_id) as w:
        for name, field in snapshot.manifest.aux.items():
            w.field(field).write(read_aux(snapshot, name))
        w.finish(1)
