"""What the stores of the campaign hold: every value is a function of its row's number, so that any row can be judged.

The expected arrays are put together here from Python values, by code that shares nothing with the package.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

import mmdask as mm
from mmdask.rows.reading import reader
from mmdask.rows.reading.part import read_aux
from mmdask.store.manifest import read_manifest
from mmdask.store.snapshot import Snapshot, open_snapshot

Values = list[Any]

#: all kinds of field; values that another salt would change can be replaced
FIELDS: dict[str, mm.Field] = {
    f.name: f
    for f in (
        mm.Field.dense("id", "i8"),
        mm.Field.ragged("r", "f8"),
        mm.Field.string("t"),
        mm.Field.dense("x", "f4", (2,)),
        mm.Field.dense("z", "c8"),
        mm.Field.dense("when", "M8[s]"),
        mm.Field.ragged("q", "i4"),
        mm.Field.ragged("deep", "i2", levels=2),
        mm.Field.shaped("image", "u1", 2),
        mm.Field.string("words", levels=1),
        mm.Field.category("c"),
        mm.Field.dense("maybe", "f8", optional=(0,)),
        mm.Field.ragged("some", "i8", optional=(0, 1)),
        mm.Field.dense("a", "i8"),
        mm.Field.dense("e", "f8"),
        mm.Field.category("label"),
    )
}
#: a few fields, so that a campaign of many short runs is short
FEW = ("id", "r", "t")
#: every kind
ALL = ("id", "r", "t", "x", "z", "when", "q", "deep", "image", "words", "c", "maybe", "some")
#: what `e` is assigned as
EXPRESSION = "sum(r) + id"
#: what an auxiliary array holds
EDGES = np.arange(5.0)
#: rows whose numbers are equal up to these last digits have the same label
LABEL_ROWS = 100_000


def value(name: str, i: int, salt: int = 0) -> Any:
    """The value of a field in row number `i`, as Python has it."""
    n = i % 3
    match name:
        case "id":
            return i
        case "x":
            return [float(i), float(salt)]
        case "z":
            return complex(i, salt)
        case "when":
            return np.datetime64(1_600_000_000 + i + salt, "s")
        case "r":
            return [i + salt / 8] * n
        case "q":
            return [i * 10 + salt + k for k in range(n)]
        case "deep":
            return [[i % 100 + salt] * (k + i % 2) for k in range(n)]
        case "image":
            return np.full((n, 1 + i % 2), (i + salt) % 256, "u1")
        case "t":
            return f"row {i} é {salt}" if i % 5 else ""
        case "words":
            return [f"{i}-{salt}"] * n
        case "c":
            return f"class {(i + salt) % 4}"
        case "maybe":
            return None if n == 0 else i + salt / 4
        case "some":
            return None if i % 4 == 0 else [None if k == 1 else i + salt + k for k in range(n)]
        case "a":
            return i * 100 + salt
        case "e":
            return float(i) + sum([i + 0.0] * n)
        case "label":
            return f"of {i // LABEL_ROWS % 3}"
    raise AssertionError(name)


@dataclass(frozen=True)
class State:
    """What a store holds: numbers of its rows in their order, and the salt of each field."""

    ids: tuple[int, ...]
    salts: Mapping[str, int] = field(hash=False)
    unit: str = ""
    #: whether there is an auxiliary array, `EDGES`
    edges: bool = False

    def with_rows(self, ids: Iterable[int]) -> State:
        return replace(self, ids=(*self.ids, *ids))

    def with_field(self, name: str, salt: int = 0) -> State:
        return replace(self, salts={**self.salts, name: salt})

    def without_field(self, name: str) -> State:
        return replace(self, salts={n: s for n, s in self.salts.items() if n != name})

    def rows(self, ids: Iterable[int]) -> dict[str, Values]:
        """Rows of these numbers as users give them: those of computed fields and labels are not given."""
        ids = list(ids)
        return {
            name: [value(name, i, salt) for i in ids] for name, salt in self.salts.items() if name not in ("e", "label")
        }


def new_state(fields: Sequence[str], ids: Iterable[int]) -> State:
    return State(tuple(ids), dict.fromkeys([*fields, "label"], 0))


class Wrong(AssertionError):
    """A store is not what it must be."""


@dataclass(frozen=True)
class _Flat:
    values: np.ndarray[Any, Any]
    offsets: tuple[np.ndarray[Any, Any], ...] = ()
    shapes: np.ndarray[Any, Any] | None = None
    valid: tuple[np.ndarray[Any, Any] | None, ...] = ()


@functools.lru_cache(2048)
def _expected(name: str, ids: tuple[int, ...], salt: int) -> _Flat:
    declared = FIELDS[name]
    layer: Values = [value(name, i, salt) for i in ids]
    offsets, valid, shapes = [], [], None
    for depth in range(declared.n_offsets + 1):
        there = np.array([v is not None for v in layer], bool)
        valid.append(None if there.all() else there)
        if depth == declared.n_offsets:
            break
        if declared.kind == "shaped":
            shapes = np.array([v.shape for v in layer], np.int64).reshape(-1, declared.axes)
            layer = [v.ravel().tolist() for v in layer]
        if declared.kind == "string" and depth == declared.levels:
            layer = [list(v.encode()) for v in layer]
        layer = [[] if v is None else v for v in layer]
        offsets.append(np.cumsum([0, *map(len, layer)], dtype=np.int64))
        layer = [item for v in layer for item in v]
    if declared.kind == "category":
        return _Flat(np.array(layer, dtype="U"))
    missing: Any = float("nan") if declared.dtype.kind == "f" else 0
    flat = [missing if v is None else v for v in layer]
    while valid and valid[-1] is None:
        valid.pop()
    return _Flat(np.array(flat, declared.dtype).reshape(-1, *declared.shape), tuple(offsets), shapes, tuple(valid))


def check_rows(snapshot: Snapshot, state: State) -> None:
    """Raise `Wrong` unless a snapshot shows these fields and rows, every value right."""
    if set(snapshot.schema) != set(state.salts):
        raise Wrong(f"fields {sorted(snapshot.schema)}, expected {sorted(state.salts)}")
    if snapshot.rows != len(state.ids):
        raise Wrong(f"{snapshot.rows} rows, expected {len(state.ids)}")
    if snapshot.schema["id"].unit != state.unit:
        raise Wrong(f"unit {snapshot.schema['id'].unit!r}, expected {state.unit!r}")
    if state.edges or snapshot.manifest.aux:
        if list(snapshot.manifest.aux) != ["edges"] * state.edges:
            raise Wrong(f"auxiliary arrays {list(snapshot.manifest.aux)}")
        if not np.array_equal(read_aux(snapshot, "edges").values, [EDGES]):
            raise Wrong("the auxiliary array holds other values")
    for name, salt in state.salts.items():
        check_field(snapshot, name, state.ids, salt)


def check_field(snapshot: Snapshot, name: str, ids: tuple[int, ...], salt: int) -> None:
    """Raise `Wrong` unless a field holds exactly the values of these rows."""
    got, expected = reader.read(snapshot, name, 0, snapshot.rows), _expected(name, ids, salt)
    values: Any = got.values
    if FIELDS[name].kind == "category":
        values = np.array([*got.labels, ""], dtype="U")[got.values]
    if values.shape != expected.values.shape or not np.array_equal(
        values, expected.values, equal_nan=values.dtype.kind in "fcM"
    ):
        raise Wrong(f"values of {name} are {values[:8]}..., expected {expected.values[:8]}...")
    if len(got.offsets) != len(expected.offsets) or not all(map(np.array_equal, got.offsets, expected.offsets)):
        raise Wrong(f"offsets of {name} are {got.offsets}, expected {expected.offsets}")
    if (got.shapes is None) != (expected.shapes is None) or not np.array_equal(got.shapes, expected.shapes):
        raise Wrong(f"shapes of {name} are {got.shapes}, expected {expected.shapes}")
    for depth in range(max(len(got.valid), len(expected.valid))):
        there = got.valid_at(depth)
        want = expected.valid[depth] if depth < len(expected.valid) else None
        if not np.array_equal(
            np.ones(0) if there is None or there.all() else there, np.ones(0) if want is None else want
        ):
            raise Wrong(f"what is missing of {name} at depth {depth} is {there}, expected {want}")


def check_store(path: str, state: State, *, verify: bool = True) -> int:
    """Raise `Wrong` unless the store at `path` holds this and `verify` agrees; returns its generation."""
    snapshot = open_snapshot(path)
    check_rows(snapshot, state)
    if verify:
        report = mm.verify(path, threads=1)
        if not report.ok:
            raise Wrong(f"verify: {report}")
    return snapshot.manifest.generation


def state_of(path: str, states: Iterable[State | None], *, verify: bool = True) -> State | None:
    """Which of these states a store is in, and `verify` agrees; None stands for no store at all.

    Raises
    ------
    Wrong
        When it is in none of them: the message says what is wrong with respect to each.
    """
    reasons = []
    for state in states:
        try:
            if state is None:
                try:
                    read_manifest(path)
                except mm.StoreNotFoundError:
                    return None
                raise Wrong("there is a store")
            check_store(path, state, verify=verify)
            return state
        except mm.StoreNotFoundError as error:
            reasons.append(str(error))
        except (Wrong, mm.MmdaskError) as error:
            reasons.append(f"{type(error).__name__}: {error}")
    raise Wrong(" | and not the other: ".join(reasons))
