"""The operations that the campaign disturbs: what each starts from, does, and leaves behind after every commit."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import mmdask as mm
from mmdask.expr import check_cut
from mmdask.rows.bits import unpack
from mmdask.rows.cuts.passes import kept_bits
from mmdask.schema import Field, FieldData
from mmdask.sources.agreeing.shaping import Shaping
from mmdask.sources.converting.conversion import Table, convert
from mmdask.sources.converting.inputs import Input
from mmdask.sources.converting.recipe import Recipe
from mmdask.sources.converting.table import Rows
from mmdask.sources.given.coerce import to_field_data
from mmdask.store.snapshot import open_snapshot
from mmdask.store.zarr.form import Backend
from tests.faults.content import EDGES, EXPRESSION, FIELDS, State, Wrong, new_state, value

#: called after each commit that returned
Acknowledge = Callable[[], None]


@dataclass(frozen=True)
class Step:
    """One operation.

    `prepare` makes what is there before, `run` does it; `states` are what the store holds before, and after each of
    its commits. None stands for no store.
    """

    name: str
    prepare: Callable[[str], None]
    run: Callable[[str, Acknowledge], None]
    states: tuple[State | None, ...]
    #: whether after a kill the same call is made again, and ends what was begun
    resumes: bool = False


#: a form of zarr in which the text of a few rows is several chunks in several files
ZARR = mm.Zarr(codec="zstd", chunk_rows=16, shards=2)


def make(path: str, fields: Sequence[str], *blocks: range, backend: Backend | None = None) -> State:
    """A store with a part for each block of row numbers."""
    state = new_state(fields, ())
    for number, ids in enumerate(blocks):
        labels = {"label": value("label", ids[0])}
        block = (
            mm.append(path, labels=labels)
            if number
            else mm.create(path, fields=[FIELDS[name] for name in fields], labels=labels, backend=backend)
        )
        with block as w:
            w.extend(state.rows(ids))
        state = state.with_rows(ids)
    return state


def append(path: str, state: State, ids: range) -> State:
    """Add a block of rows in one commit."""
    with mm.append(path, labels={"label": value("label", ids[0])}) as w:
        w.extend(state.rows(ids))
    return state.with_rows(ids)


def assign_array(path: str, state: State, salt: int = 0, *, replace: bool = False) -> State:
    """Give all rows the field `a`."""
    values = np.array([value("a", i, salt) for i in state.ids], "i8")
    mm.assign(path, {"a": values}, replace=replace, progress=False)
    return state.with_field("a", salt)


def assign_expression(path: str, state: State) -> State:
    """Give all rows, and those to come, the field `e`."""
    mm.assign(path, e=EXPRESSION, progress=False)
    return state.with_field("e")


class _Numbers:
    """A reader of inputs that hold rows of known numbers, for conversions without any library that reads files."""

    kind = "numbers"

    def __init__(self, fields: Sequence[str]) -> None:
        self.fields = fields
        self.options: dict[str, Any] = {}
        self.recipe = Recipe()
        self.shaping = Shaping()

    def inspect(self, source: Input) -> Table:
        ids = INPUTS[os.path.basename(source.path)]
        fields = tuple(FIELDS[name] for name in self.fields)
        ranges = ((0, 2), (2, len(ids)))
        sizes, groups = dict.fromkeys(self.fields, 100), {name: (name,) for name in self.fields}
        return Table(source, "", fields, (), ranges, sizes, frozenset(self.fields), "1", groups=groups)

    def keeping(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def open(self, table: Table) -> Iterator[Rows]:
        ids = INPUTS[os.path.basename(table.source.path)]

        def rows(fields: Sequence[Field], start: int, stop: int, **_: Any) -> Iterator[tuple[FieldData, ...]]:
            (field,) = fields
            values = [value(field.name, i) for i in ids[start:stop]]
            yield (to_field_data(field.name, values, field)[1],)

        yield rows


#: two files that are there anyway stand for inputs; the numbers of their rows
INPUTS = {"content.py": range(5), "steps.py": range(100_000, 100_003)}


def convertible(fields: Sequence[str]) -> list[str]:
    """Those of some fields that files that are converted have."""
    return [n for n in fields if FIELDS[n].kind in ("dense", "ragged", "string") and not FIELDS[n].optional]


def convert_numbers(path: str, fields: Sequence[str]) -> State:
    """Convert the inputs to a store, or go on with it."""
    sources = []
    for name, ids in INPUTS.items():
        file = os.path.join(os.path.dirname(__file__), name)
        found = os.stat(file)
        sources.append(Input(file, "", found.st_size, found.st_mtime_ns, (("label", value("label", ids[0])),)))
    convert(sources, [], path, _Numbers(fields), update=False, missing="error", progress=False)
    return new_state(fields, [i for ids in INPUTS.values() for i in ids])


def keep_cut(path: str, state: State) -> None:
    """Compute which rows pass a cut, and keep it for the next time; or read it, if it was kept.

    Raises
    ------
    Wrong
        When other rows pass.
    """
    snapshot = open_snapshot(path)
    with warnings.catch_warnings():
        # Where it cannot be kept, a warning says so; the cut works.
        warnings.simplefilter("ignore", RuntimeWarning)
        kept = kept_bits(snapshot, [check_cut("id % 3 > 0", snapshot.schema)]).parts
    parts = zip(kept, snapshot.parts, strict=True)
    mask = [np.full(p.rows, bits) if isinstance(bits, bool) else unpack(bits, 0, p.rows) for bits, p in parts]
    if np.concatenate(mask).tolist() != [i % 3 > 0 for i in state.ids]:
        raise Wrong("other rows pass a cut that was kept")


def next_commit(path: str, state: State) -> State:
    """The commit that must succeed after everything: rows that no other step appends."""
    return append(path, state, range(900_001, 900_004))


def steps(fields: Sequence[str], backend: Backend | None = None) -> list[Step]:
    """Every operation, on stores of these fields; with a backend those in which arrays are written or removed."""
    first, second, third = range(5), range(1000, 1004), range(2000, 2003)
    before = new_state(fields, [*first, *second])

    def start(path: str) -> None:
        make(path, fields, first, second, backend=backend)

    def creating(path: str, done: Acknowledge) -> None:
        make(path, fields, first, backend=backend)
        done()

    def appending(path: str, done: Acknowledge) -> None:
        append(path, before, third)
        done()

    def checkpointing(path: str, done: Acknowledge) -> None:
        with mm.append(path, labels={"label": value("label", third[0])}) as w:
            for ids in (third[:1], third[1:2]):
                w.extend(before.rows(ids))
                w.checkpoint()
                done()
            w.extend(before.rows(third[2:]))
        done()

    def allocating(path: str, done: Acknowledge) -> None:
        rows = before.rows(third)
        with mm.append(path, labels={"label": value("label", third[0])}) as w:
            numbers = w.allocate("id", len(third))
            w.extend({name: values for name, values in rows.items() if name != "id"})
            numbers[1:] = rows["id"][1:]
            numbers[0] = rows["id"][0]
        done()

    def assigning(path: str, done: Acknowledge) -> None:
        assign_array(path, before)
        done()

    def computing(path: str, done: Acknowledge) -> None:
        assign_expression(path, before)
        done()

    def start_assigned(path: str) -> None:
        start(path)
        assign_expression(path, assign_array(path, before))

    assigned = before.with_field("a").with_field("e")

    def replacing(path: str, done: Acknowledge) -> None:
        assign_array(path, assigned, 1, replace=True)
        done()

    def appending_computed(path: str, done: Acknowledge) -> None:
        append(path, assigned, third)
        done()

    def dropping(path: str, done: Acknowledge) -> None:
        mm.drop(path, ["t"])
        done()

    def annotating(path: str, done: Acknowledge) -> None:
        mm.annotate(path, fields={"id": {"unit": "1"}}, aux={"edges": EDGES})
        done()

    def compacting(path: str, done: Acknowledge) -> None:
        mm.compact(path, progress=False)
        done()

    def start_compacted(path: str) -> None:
        start_assigned(path)
        mm.drop(path, ["t"])
        mm.compact(path, progress=False)

    converted = new_state(convertible(fields), [i for ids in INPUTS.values() for i in ids])
    compacted = assigned.without_field("t")

    def converting(path: str, done: Acknowledge) -> None:
        convert_numbers(path, convertible(fields))
        done()

    def keeping(path: str, done: Acknowledge) -> None:
        keep_cut(path, before)
        done()

    def vacuuming(path: str, done: Acknowledge) -> None:
        mm.vacuum(path, keep=1, grace=0)
        done()

    def source_of(path: str) -> str:
        return os.path.join(os.path.dirname(path), f"saved-{len(fields)}-{backend is not None}.mm")

    def start_saving(path: str) -> None:
        if not os.path.exists(source_of(path)):  # one for all that are saved beside each other
            start(source_of(path))

    def saving(path: str, done: Acknowledge) -> None:
        start_saving(path)  # where only the disk that lost its power was copied
        mm.open(source_of(path)).save(path, backend=backend or "memmap", progress=False)
        done()

    every = [
        Step("create", lambda path: None, creating, (None, new_state(fields, first)), resumes=True),
        Step("append", start, appending, (before, before.with_rows(third))),
        Step("checkpoint", start, checkpointing, tuple(before.with_rows(third[:n]) for n in range(4))),
        Step("allocate", start, allocating, (before, before.with_rows(third))),
        Step("assign an array", start, assigning, (before, before.with_field("a"))),
        Step("assign an expression", start, computing, (before, before.with_field("e"))),
        Step("replace a field", start_assigned, replacing, (assigned, assigned.with_field("a", 1))),
        Step("append to computed", start_assigned, appending_computed, (assigned, assigned.with_rows(third))),
        Step("drop", start, dropping, (before, before.without_field("t"))),
        Step("annotate", start, annotating, (before, State(before.ids, before.salts, unit="1", edges=True))),
        Step("compact", start_assigned, compacting, (assigned, assigned)),
        Step("vacuum", start_compacted, vacuuming, (compacted, compacted)),
        Step("convert", lambda path: None, converting, (None, converted), resumes=True),
        Step("keep a cut", start, keeping, (before, before)),
        Step("save", start_saving, saving, (None, before), resumes=True),
    ]
    return every if backend is None else [step for step in every if step.name not in ("convert", "keep a cut")]
