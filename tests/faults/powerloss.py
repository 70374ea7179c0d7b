"""Simulated power loss: the disk as it may be after any call of an operation, opened, verified and read."""

from __future__ import annotations

import math
import os
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import mmdask as mm
from mmdask.store.manifest import read_manifest
from mmdask.store.snapshot import open_snapshot
from tests.faults.children import in_parallel
from tests.faults.content import ALL, FEW, State, Wrong, state_of
from tests.faults.images import DATA, NAMES, Disk, Image, Recording, fingerprint, write_image
from tests.faults.readers import check_any
from tests.faults.report import Result
from tests.faults.steps import ZARR, Step, keep_cut, next_commit, steps
from tests.faults.systems import Dying, Killed, Watched, installed
from tests.faults.tidy import check_layers_whole, check_tidy, memory_folder, scratch

STORE = "s.mm"
#: of so many images, one is used to go on: a commit, vacuum, and nothing left over
GO_ON_EVERY = 40
#: of so many images, one has its older generations read, and all folders of layers
PAST_EVERY = 8
#: the first images of every moment; further ones are drawn
ALWAYS = (("none", "none"), ("all", "none"), ("all", "length"), ("all", "all"), ("all", "half"))

#: operations that are tried in zarr where there is little time
QUICK_IN_ZARR = ("create", "append", "assign an array", "compact", "vacuum", "save")

#: a state, None for no store, and its generation
Outcome = tuple[State | None, int]


@dataclass(frozen=True)
class Job:
    """One operation to record. `kill` is the call at which its process is killed, before another goes on."""

    fields: tuple[str, ...]
    step: int
    kill: int | None
    images: int
    seed: int
    folder: str
    first_only: bool = False
    zarr: bool = False


class Run:
    """A recorded run: its calls, and which outcomes are right after each acknowledged commit.

    A step, or its first calls if its process is killed, then a commit by the next process.
    """

    def __init__(self, step: Step, base: str, kill: int | None) -> None:
        os.mkdir(base)
        self.step, self.path = step, os.path.join(base, STORE)
        step.prepare(self.path)
        self.recording = Recording(base)
        if os.path.exists(self.path):
            self.recording.adopt_tree(self.path)
        self.start = len(self.recording.ops)
        self.acknowledged = 0
        self.now: Outcome = (step.states[0], _generation(self.path))
        #: from which call on which outcomes are right
        self.right: list[tuple[int, tuple[Outcome, ...]]] = []
        self._expect(self.now, (step.states[1], self.now[1] + 1))
        killed = self._do_step(kill)
        if killed:
            self._go_on_after_kill()
        else:
            self._commit_next(self.now)

    def _expect(self, *outcomes: Outcome) -> None:
        self.right.append((len(self.recording.ops), outcomes))

    def _do_step(self, kill: int | None) -> bool:
        def done() -> None:
            self.acknowledged += 1
            self.now = (self.step.states[self.acknowledged], _generation(self.path))
            following = self.step.states[self.acknowledged + 1 :]
            self._expect(self.now, *((s, self.now[1] + 1) for s in following[:1]))

        with installed(self.recording if kill is None else Dying(kill, self.recording)):
            try:
                self.step.run(self.path, done)
            except Killed:
                return True
        return False

    def _go_on_after_kill(self) -> None:
        """The killed process may have reached its commit or not; what is seen now may still be lost."""
        before = self.right[-1][1]
        seen = next(o for o in before if o[1] == _generation(self.path))
        state_of(self.path, [seen[0]])
        if self.step.resumes and seen == before[0]:
            last = len(self.step.states) - 1
            with installed(self.recording):
                self.step.run(self.path, lambda: None)
            self.now = (self.step.states[last], _generation(self.path))
            self.right[-1] = (self.right[-1][0], (*before, self.now))
            self._expect(self.now)
        else:
            self._commit_next(seen, before)

    def _commit_next(self, now: Outcome, before: Sequence[Outcome] = ()) -> None:
        if now[0] is None:
            return
        following = (next_state(now[0]), now[1] + 1)
        self._expect(*dict.fromkeys([*before, now, following]))
        with installed(self.recording):
            next_commit(self.path, now[0])
        self._expect((following[0], _generation(self.path)))

    def right_at(self, moment: int) -> tuple[Outcome, ...]:
        """What a store may be after this many calls."""
        return next(outcomes for at, outcomes in reversed(self.right) if at <= moment)


def next_state(state: State) -> State:
    return state.with_rows(range(900_001, 900_004))


def _generation(path: str) -> int:
    """The generation of a store; 0 for none."""
    try:
        return read_manifest(path).generation
    except mm.StoreNotFoundError:
        return 0


def check_image(path: str, right: Sequence[Outcome], *, past: bool, go_on: bool, step: Step) -> None:
    """Raise `Wrong` unless a store is one of these, and, if asked for, all its past and its future are right, too."""
    states = dict.fromkeys(s for s, _ in right)
    state = state_of(path, states)
    generation = _generation(path)
    if (state, generation) not in right:
        raise Wrong(f"generation {generation} of {[g for _, g in right]}")
    if step.name == "keep a cut" and state is not None:
        keep_cut(path, state)
    if past and state is not None:
        check_layers_whole(path)
        check_past(path, generation)
    if go_on:
        if state is None:
            step.run(path, lambda: None)
            state = step.states[-1]
        else:
            state = next_commit(path, state)
        state_of(path, [state])
        mm.vacuum(path, grace=0)
        check_tidy(path)
        state_of(path, [state])
        check_past(path, _generation(path))


def check_past(path: str, newest: int) -> None:
    """Raise `Wrong` unless every generation in the history can be read, the newest one too."""
    folder = os.path.join(path, "history")
    past = [int(name[:-5]) for name in os.listdir(folder) if len(name) == len("00000001.json")]
    if newest not in past:
        raise Wrong(f"the history has no generation {newest}: {sorted(past)}")
    for generation in past:
        if generation <= newest:
            check_any(open_snapshot(path, generation))


def run_job(job: Job) -> Result:
    """Record one run and check images of all its moments, round after round, until there are enough."""
    result = Result("powerloss")
    rng = random.Random(job.seed)
    step = steps(job.fields, ZARR if job.zarr else None)[job.step]
    with scratch(job.folder) as folder:
        run = Run(step, os.path.join(folder, "run"), job.kill)
        seen: set[bytes] = set()
        for number in range(200):
            before = len(seen)
            draw = ALWAYS[number] if number < len(ALWAYS) else None
            _one_round(run, job, draw, rng, folder, seen, result)
            if (
                len(seen) >= job.images
                or (draw is None and len(seen) == before)
                or (result.failures and job.first_only)
            ):
                break
    return result


def _one_round(
    run: Run,
    job: Job,
    draw: tuple[str, str] | None,
    rng: random.Random,
    folder: str,
    seen: set[bytes],
    result: Result,
) -> None:
    """One image of every moment."""
    disk = Disk()
    for moment, op in enumerate(run.recording.ops, 1):
        disk.do(op)
        if moment < run.start:
            continue
        names, data = draw or (rng.choice(NAMES), rng.choice(DATA))
        image = disk.image(names, data, rng)
        result.counts["images"] += 1
        # The same bytes may be right at one moment and wrong at another.
        key = fingerprint(image) + repr([g for _, g in run.right_at(moment)]).encode()
        if key in seen:
            continue
        seen.add(key)
        result.counts["distinct images"] += 1
        if (why := _judge(run, image, moment, folder, len(seen), result)) is None:
            continue
        how = (" in zarr" if job.zarr else "") + (f" killed at call {job.kill}" if job.kill else "")
        result.failures.append(
            f"powerloss, {run.step.name} ({len(job.fields)} fields{how}), after call {moment - run.start} "
            f"{op[0]} {op[1:2]}, names {names}, data {data}, image {result.counts['distinct']}: {why}"
        )
        if job.first_only:
            return


def _judge(run: Run, image: Image, moment: int, folder: str, number: int, result: Result) -> str | None:
    """Why an image is wrong; None if it is right."""
    base = os.path.join(folder, f"image-{number}")
    write_image(image, base)
    past, go_on = number % PAST_EVERY == 0, number % GO_ON_EVERY == 0
    try:
        right = run.right_at(moment)
        check_image(os.path.join(base, STORE), right, past=past, go_on=go_on, step=run.step)
        result.counts["images on which it went on"] += go_on
        return None
    except (Wrong, mm.MmdaskError, OSError, ValueError, AssertionError) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        shutil.rmtree(base)


def calls_of(step: Step) -> list[str]:
    """The mutating calls that a step makes."""
    watched = Watched()
    with scratch(memory_folder()) as folder:
        path = os.path.join(folder, STORE)
        step.prepare(path)
        with installed(watched):
            step.run(path, lambda: None)
    return watched.names


def kill_points(calls: Sequence[str], n: int) -> list[int]:
    """Numbers of calls at which to kill, spread evenly: first of those that decide over names, then of all."""
    deciding = [k for k, name in enumerate(calls, 1) if name in ("rename", "fsync_folder", "unlink")]
    found: dict[int, None] = {}
    for some in (deciding, range(1, len(calls) + 1)):
        room = min(n - len(found), len(some))
        found.update(dict.fromkeys(some[i * len(some) // room] for i in range(room)))
    return list(found)


def jobs(
    images: int, seed: int, folder: str, *, kills: int, only: str = "", first_only: bool = False, zarr: bool = False
) -> list[Job]:
    """Every operation on stores of few and of all kinds of fields, and with its process killed at some of its calls.

    Parameters
    ----------
    images : int
        Distinct ones, of all jobs together, about.
    kills : int
        Calls of each operation at which its process is killed.
    only : str
        One operation alone.
    """
    todo: list[tuple[tuple[str, ...], int, int | None, float]] = []
    # A layer of all kinds of fields is hundreds of files of zarr.
    for fields, weight in ((FEW, 4.0), (ALL, 1.0)) if kills > 1 or not zarr else ((FEW, 1.0),):
        for number, step in enumerate(steps(fields, ZARR if zarr else None)):
            if only in ("", step.name) and (kills or not zarr or step.name in QUICK_IN_ZARR):
                todo.append((fields, number, None, weight * 2))
                some = kill_points(calls_of(step), kills if fields is FEW else kills // 4)
                todo += [(fields, number, k, weight) for k in some]
    unit = images / sum(weight for *_, weight in todo)
    return [
        Job(f, s, k, math.ceil(unit * w), seed + i, folder, first_only, zarr) for i, (f, s, k, w) in enumerate(todo)
    ]


def run(
    images: int,
    *,
    kills: int = 8,
    only: str = "",
    seed: int = 1,
    processes: int = 2,
    first_only: bool = False,
    zarr: bool = False,
) -> Result:
    """The campaign.

    Parameters
    ----------
    images : int
        Distinct images, about.
    kills : int
        Calls of each operation at which its process is killed, before another one goes on and the power is lost.
    only : str
        One operation alone.
    first_only : bool
        End at the first failure.
    zarr : bool
        Of stores whose arrays are zarr.
    """
    result = Result("zarr" if zarr else "powerloss")
    with scratch(memory_folder()) as folder:
        todo = jobs(images, seed, folder, kills=kills, only=only, first_only=first_only, zarr=zarr)
        for one in in_parallel([partial(_run_plain, job) for job in todo], processes):
            result.add(one)
            result.counts["recorded runs"] += 1
            if first_only and result.failures:
                break
    if not first_only:
        result.need("distinct images", images * 9 // 10)
    return result.finish()


def _run_plain(job: Job) -> dict[str, Any]:
    return run_job(job).plain()
