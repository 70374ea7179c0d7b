"""Many processes that change one store at once: nothing is lost, and what cannot be done is a clear error."""

from __future__ import annotations

import os
import random
import select
import shutil
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import mmdask as mm
from mmdask.store.snapshot import open_snapshot
from tests.faults.children import Forked, Gate
from tests.faults.content import EXPRESSION, FEW, Wrong, new_state, value
from tests.faults.readers import check_any
from tests.faults.report import Result
from tests.faults.steps import append, make
from tests.faults.systems import Call, Watched, installed
from tests.faults.tidy import check_tidy, memory_folder, scratch

#: what may come of an operation that another one made impossible
CONFLICTS = ("ConflictError", "SchemaError", "FieldNotFoundError")
#: and, while `vacuum(grace=0)` takes what others are writing or reading
VACUUMED = ("CorruptStoreError", "FileNotFoundError", "StoreNotFoundError", "OSError")
FIELDS = (*FEW, "c", "maybe")


def appenders(folder: str, n_processes: int, n_parts: int, result: Result) -> None:
    """Each process appends so many parts: all of them are there, those of each in its order."""
    path = os.path.join(folder, "appended.mm")
    state = make(path, FIELDS, range(3))
    gate = Gate()

    def work(number: int) -> None:
        gate.wait()
        for part in range(n_parts):
            start = 1000 * (1 + number) + 3 * part
            append(path, state, range(start, start + 3))

    children = [Forked(partial(work, n)) for n in range(n_processes)]
    gate.open()
    for child in children:
        if (outcome := child.outcome()) != {"result": None}:
            raise Wrong(f"an appender: {outcome}")
    snapshot = open_snapshot(path)
    ids = check_any(snapshot).ids
    for number in range(n_processes):
        mine = [i for i in ids if i // 1000 == 1 + number]
        if mine != [1000 * (1 + number) + i for i in range(3 * n_parts)]:
            raise Wrong(f"of process {number} there are the rows {mine}")
    if len(snapshot.parts) != 1 + n_processes * n_parts or len(ids) != 3 + 3 * n_processes * n_parts:
        raise Wrong(f"{len(snapshot.parts)} parts, {len(ids)} rows")
    if not (report := mm.verify(path)).ok:
        raise Wrong(str(report))
    result.counts["appending processes"] += n_processes
    result.counts["parts appended"] += len(snapshot.parts) - 1


def creators(folder: str, n_processes: int, number: int, result: Result) -> None:
    """Several processes create a store at one path: one of them does."""
    path = os.path.join(folder, f"created-{number}.mm")
    gate = Gate()

    def work(number: int) -> None:
        gate.wait()
        make(path, FIELDS, range(1000 * number, 1000 * number + 3))

    children = [Forked(partial(work, n)) for n in range(n_processes)]
    gate.open()
    outcomes = [child.outcome() for child in children]
    errors = [o["error"] for o in outcomes if "error" in o]
    if len(errors) != n_processes - 1 or set(errors) != {"StoreExistsError"}:
        raise Wrong(f"of {n_processes} creators: {outcomes}")
    if len(check_any(open_snapshot(path)).ids) != 3 or not mm.verify(path).ok:
        raise Wrong("what the one that created it wrote is not there")
    result.counts["races to create"] += 1
    shutil.rmtree(path)


# ---- vacuum in the middle of a commit


class _Vacuuming(Watched):
    """Before call `k`, another process takes all that no generation names."""

    def __init__(self, path: str, k: int) -> None:
        super().__init__()
        self.path, self.k = path, k
        self.child: Forked | None = None

    def around(self, name: str, args: tuple[Any, ...], call: Call) -> Any:
        if self.count(name) == self.k:
            self.child = Forked(lambda: mm.vacuum(self.path, grace=0) and None)
            # Where the lock is held it waits until that is given up.
            select.select([self.child], [], [], 0.3)
        return call()


def vacuum_at(folder: str, template: str, operation: str, k: int, result: Result) -> bool:
    """Vacuum without a grace period at call `k` of an operation; False when there are not so many calls."""
    path = os.path.join(folder, "race.mm")
    shutil.copytree(template, path)
    before = check_any(open_snapshot(path)).ids
    watched = _Vacuuming(path, k)
    refused = ""
    try:
        with installed(watched):
            {"append": _append_once, "assign": _assign, "compute": _compute, "compact": _compact}[operation](path, 5)
    except (mm.MmdaskError, OSError) as error:
        refused = repr(error)
    if watched.child is not None and (outcome := watched.child.outcome()) != {"result": None}:
        raise Wrong(f"vacuum at call {k} of {operation}: {outcome}")
    try:
        ids = check_any(open_snapshot(path)).ids
        wanted = {before} if refused or operation != "append" else {(*before, 5000, 5001, 5002)}
        if ids not in wanted:
            raise Wrong(f"rows {ids}")
        if not (report := mm.verify(path)).ok:
            raise Wrong(str(report))
    except (Wrong, mm.MmdaskError, OSError) as error:
        raise Wrong(f"vacuum at call {k} of {operation}, which said {refused or 'nothing'}: {error!r}") from error
    finally:
        shutil.rmtree(path)
    result.counts["operations vacuumed"] += 1
    result.counts["of them refused"] += bool(refused)
    return watched.calls >= k


def every_vacuum(folder: str, template: str, step: int, result: Result) -> None:
    """Vacuum at every `step`-th call of the operations that write layers."""
    for operation in ("append", "assign", "compute", "compact"):
        k = 1
        while vacuum_at(folder, template, operation, k, result):
            k += step


# ---- one process of a short race: what it does, and what it says it did


def _append_once(path: str, number: int, part: int = 0) -> list[int]:
    start = 1000 * number + 10 * part
    state = new_state([n for n in FIELDS if n in open_snapshot(path).schema], ())
    append(path, state, range(start, start + 3))
    return list(range(start, start + 3))


def _append(path: str, number: int) -> list[int]:
    return _append_once(path, number) + _append_once(path, number, 1)


def _assign(path: str, number: int) -> None:
    ids = check_any(open_snapshot(path)).ids
    mm.assign(path, {"a": np.array([value("a", i, number) for i in ids])}, replace=True, progress=False)


def _compute(path: str, number: int) -> None:
    mm.assign(path, {"e": EXPRESSION}, replace=True, progress=False)


def _drop(path: str, number: int) -> None:
    mm.drop(path, ["t"])


def _annotate(path: str, number: int) -> None:
    mm.annotate(path, fields={"id": {"unit": str(number)}})


def _compact(path: str, number: int) -> None:
    mm.compact(path, progress=False)


def _vacuum(path: str, number: int) -> None:
    mm.vacuum(path, keep=1, grace=0)


def _read(path: str, number: int) -> None:
    for _ in range(5):
        check_any(open_snapshot(path))


ACTORS: tuple[Callable[[str, int], Any], ...] = (
    *(_append, _append, _append, _compact, _compact, _vacuum, _read, _assign, _compute, _drop, _annotate),
)


def short_race(folder: str, template: str, rng: random.Random, result: Result) -> None:
    """A few processes, each doing something to one store at the same moment."""
    path = os.path.join(folder, "race.mm")
    shutil.copytree(template, path)
    before = check_any(open_snapshot(path)).ids
    actors = [rng.choice(ACTORS) for _ in range(rng.randint(2, 5))]
    gate = Gate()

    def work(actor: Callable[[str, int], Any], number: int) -> Any:
        gate.wait()
        return actor(path, number)

    children = [Forked(partial(work, actor, n)) for n, actor in enumerate(actors, 1)]
    gate.open()
    outcomes = [child.outcome() for child in children]
    what = ", ".join(f"{a.__name__[1:]}: {o}" for a, o in zip(actors, outcomes, strict=True))
    expected = sorted(before)
    for actor, outcome in zip(actors, outcomes, strict=True):
        result.counts["operations in races"] += 1
        if "error" not in outcome and "code" not in outcome:
            expected += outcome["result"] if actor is _append else []
            continue
        allowed = CONFLICTS + (VACUUMED if _vacuum in actors else ())
        if "bug" in outcome or "code" in outcome or outcome["error"] not in allowed:
            raise Wrong(f"not a clear error; {what}")
        result.counts["refused in races"] += 1
    try:
        ids = check_any(open_snapshot(path)).ids
        partly = [i for i in ids if i not in expected]
        if sorted(ids) != sorted([*expected, *partly]) or not _of_failed(partly, actors, outcomes):
            raise Wrong(f"rows {sorted(ids)}, expected {sorted(expected)}")
        if not (report := mm.verify(path)).ok:
            raise Wrong(str(report))
        state = check_any(snapshot := open_snapshot(path))
        if not os.path.exists(os.path.join(path, "history", f"{snapshot.manifest.generation:08d}.json")):
            raise Wrong("the newest generation is not in the history")
        after = append(path, state, range(900_001, 900_003))
        mm.vacuum(path, grace=0)
        check_tidy(path)
        if check_any(open_snapshot(path)).ids != after.ids:
            raise Wrong("the next commit is not there")
    except (Wrong, mm.MmdaskError, OSError) as error:
        raise Wrong(f"{error!r}; {what}") from error
    result.counts["short races"] += 1
    shutil.rmtree(path)


def _of_failed(ids: list[int], actors: list[Any], outcomes: list[dict[str, Any]]) -> bool:
    """Whether rows are first blocks of appenders that failed at their second."""
    firsts = {
        1000 * n + k
        for n, (actor, outcome) in enumerate(zip(actors, outcomes, strict=True), 1)
        if actor is _append and "error" in outcome
        for k in range(3)
    }
    return set(ids) <= firsts and all(len([i for i in ids if i // 1000 == f // 1000]) == 3 for f in ids)


def run(races: int, *, processes: int = 8, seed: int = 1, first_only: bool = False) -> Result:
    """The campaign: appenders of 5 parts each, races to create, and short races of everything."""
    result, rng = Result("races"), random.Random(seed)
    with scratch(memory_folder()) as folder:
        template = os.path.join(folder, "template.mm")
        make(template, FIELDS, range(4), range(10, 13))
        cases: list[Callable[[], None]] = [lambda: appenders(folder, processes, 5, result)]
        cases += [partial(creators, folder, 4, n, result) for n in range(max(races // 25, 2))]
        cases += [partial(every_vacuum, folder, template, max(200 // races, 1), result)]
        cases += [partial(short_race, folder, template, rng, result)] * races
        for number, case in enumerate(cases):
            try:
                case()
            except (Wrong, mm.MmdaskError, OSError) as error:
                result.failures.append(f"races, case {number} of seed {seed}: {error}")
                shutil.rmtree(os.path.join(folder, "race.mm"), ignore_errors=True)
                if first_only:
                    break
    result.need("parts appended", processes * 5)
    return result.finish()
