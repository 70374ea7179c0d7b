"""Every mutating call of every operation fails once, in every way: the store is as before or as after, and goes on."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import time
import unittest.mock
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import mmdask as mm
from tests.faults.children import in_parallel
from tests.faults.content import FEW, State, Wrong, state_of
from tests.faults.report import Result
from tests.faults.steps import Step, keep_cut, next_commit, steps
from tests.faults.systems import STOPPED, Failing, Stopping, Watched, installed
from tests.faults.tidy import check_tidy, memory_folder, names, scratch

ERRNOS = ("ENOSPC", "EIO", "EDQUOT", "EFBIG", "EMFILE", "EACCES", "EINTR", "ESTALE")
#: a store is not wedged: the next commit does not wait for a lock that nobody holds
NEXT_SECONDS = 60.0


@dataclass(frozen=True)
class Fault:
    """How a call fails."""

    name: str
    make: Callable[[], BaseException]
    when: str = "before"
    forever: bool = False


def system_errors() -> Iterator[Fault]:
    """Errors of the system: once and for good, with nothing done and with a half of what was to be written."""
    for name in ERRNOS:
        number = getattr(errno, name)

        def make(number: int = number) -> OSError:
            return OSError(number, os.strerror(number))

        yield Fault(name, make)
        yield Fault(f"{name} for good", make, forever=True)
        yield Fault(f"{name} after a short write", make, "half")


def interruptions() -> Iterator[Fault]:
    """What may be raised at any moment, just before a call and just after it."""
    for error in (KeyboardInterrupt, MemoryError):
        for when in ("before", "after"):
            yield Fault(f"{error.__name__} {when}", error, when)


class Case:
    """A step on a store of its own, and what it starts from."""

    def __init__(self, step: Step, folder: str) -> None:
        self.step = step
        self.folder = folder
        self.start = os.path.join(folder, "start.mm")
        self.path = ""
        self.runs = 0
        step.prepare(self.start)
        watched = Watched()
        self.renew()
        with installed(watched):
            step.run(self.path, lambda: None)
        self.calls = watched.names

    def renew(self) -> None:
        """A fresh copy of what the step starts from, of which nothing is cached."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.runs += 1
        self.path = os.path.join(self.folder, f"{self.runs}.mm")
        if os.path.exists(self.start):
            shutil.copytree(self.start, self.path)


def check_after(case: Case, before: set[str], acknowledged: int, returned: bool) -> State | None:
    """Raise `Wrong` unless a store is as before the commit that failed, or as after; and the next commit works."""
    states = case.step.states
    allowed = [states[-1]] if returned else list(states[acknowledged : acknowledged + 2])
    state = state_of(case.path, allowed)
    if case.step.name == "keep a cut" and state is not None:
        keep_cut(case.path, state)
    if case.step.name != "vacuum":
        check_names(case.path, before)
    began = time.monotonic()
    if state is None:
        case.step.run(case.path, lambda: None)
        state = states[-1]
    else:
        state = next_commit(case.path, state)
    if time.monotonic() - began > NEXT_SECONDS:
        raise Wrong(f"the next commit took {time.monotonic() - began:.0f} s")
    state_of(case.path, [state])
    mm.vacuum(case.path, grace=0)
    check_tidy(case.path)
    state_of(case.path, [state])
    return state


def check_names(path: str, before: set[str]) -> None:
    """Raise `Wrong` if anything of before is gone."""
    if gone := before - names(path):
        raise Wrong(f"gone: {', '.join(sorted(gone))}")


def open_files(folder: str) -> list[str]:
    """The files in a folder that this process holds open."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return sorted(name for name in found if name.startswith(folder))


def run_fault(case: Case, k: int, fault: Fault) -> str | None:
    """Let call `k` of a step fail; why what is left is wrong, or None."""
    case.renew()
    before = names(case.path)
    failing = Failing(k, fault.make, forever=fault.forever, when=fault.when)
    acknowledged = 0

    def done() -> None:
        nonlocal acknowledged
        acknowledged += 1

    raised: BaseException | None = None
    try:
        with installed(failing):
            case.step.run(case.path, done)
    except BaseException as error:
        raised = error
    try:
        check_error(raised, failing)
        raised = None if raised is None else raised.with_traceback(None)
        if left := open_files(case.path):
            raise Wrong(f"left open: {left}")
        check_after(case, before, acknowledged, raised is None)
    except (Wrong, mm.MmdaskError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def check_error(raised: BaseException | None, failing: Failing) -> None:
    """Raise `Wrong` unless an error is typed, or is the interruption itself."""
    if raised is None:
        return
    if not failing.raised:
        raise Wrong(f"an error although no call failed: {raised!r}")
    cause = failing.raised[0]
    if not isinstance(cause, OSError):
        if not isinstance(raised, type(cause)):
            raise Wrong(f"{type(cause).__name__} became {raised!r}")
    elif not isinstance(raised, OSError | mm.MmdaskError):
        raise Wrong(f"no clear error: {raised!r}")


def run_stop(case: Case, k: int, when: str) -> str | None:
    """End the process at call `k`; why what it leaves is wrong, or None."""
    case.renew()
    before = names(case.path)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            with installed(Stopping(k, when)):
                case.step.run(case.path, lambda: os.write(writing, b"."))
        finally:
            os._exit(0)
    os.close(writing)
    _, status = os.waitpid(child, 0)
    acknowledged = len(os.read(reading, 100))
    os.close(reading)
    code = os.waitstatus_to_exitcode(status)
    try:
        if code != STOPPED:
            raise Wrong(f"the process ended with {code}, not where it was to be stopped")
        check_after(case, before, acknowledged, False)
    except (Wrong, mm.MmdaskError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def run_step(step: Step, per_step: int | None, seed: int, first_only: bool) -> Result:
    """Let the calls of one step fail."""
    result, rng = Result("syscalls"), random.Random(seed)
    errors, interrupts = list(system_errors()), list(interruptions())
    with scratch(memory_folder()) as folder:
        case = Case(step, folder)
        result.counts["operations"] += 1
        calls = list(enumerate(case.calls, 1))
        if per_step is not None:
            calls = rng.sample(calls, min(per_step, len(calls)))
        for k, call in calls:
            result.counts["calls"] += 1
            fitting = [f for f in errors if f.when == "before" or call == "write"]
            stops = [when for when in ("before", "half", "after") if when != "half" or call == "write"]
            if per_step is not None:
                fitting, stops = [rng.choice(fitting)], [rng.choice(stops)]
            for fault in fitting + (interrupts if per_step is None else [rng.choice(interrupts)]):
                result.counts["errors" if fault in errors else "interruptions"] += 1
                _note(result, step, k, call, fault.name, run_fault(case, k, fault))
            for when in stops:
                result.counts["stops"] += 1
                _note(result, step, k, call, f"stop {when}", run_stop(case, k, when))
            if first_only and result.failures:
                break
        result.counts["operations by short writes"] += 1
        _note(result, step, 0, "write", "short writes", run_short(case))
    return result


def run_short(case: Case) -> str | None:
    """Let the system write less than it was asked to, every time: nothing is to be noticed of it."""
    real = os.pwrite
    case.renew()
    with unittest.mock.patch("os.pwrite", lambda fd, data, at: real(fd, memoryview(data)[:700], at)):
        case.step.run(case.path, lambda: None)
    try:
        state_of(case.path, case.step.states[-1:])
    except (Wrong, mm.MmdaskError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _run_plain(number: int, per_step: int | None, seed: int, first_only: bool) -> dict[str, Any]:
    return run_step(steps(FEW)[number], per_step, seed, first_only).plain()


def run(per_step: int | None = None, *, processes: int = 2, seed: int = 1, first_only: bool = False) -> Result:
    """The campaign.

    Parameters
    ----------
    per_step : int, optional
        Calls of each operation that fail, each in three ways, drawn; by default all of them in all ways.
    first_only : bool
        End at the first failure.
    """
    result = Result("syscalls")
    jobs = [partial(_run_plain, n, per_step, seed + n, first_only) for n in range(len(steps(FEW)))]
    for one in in_parallel(jobs, processes):
        result.add(one)
        if first_only and result.failures:
            break
    return result.finish()


def _note(result: Result, step: Step, k: int, call: str, fault: str, why: str | None) -> None:
    if why is not None:
        result.failures.append(f"syscalls, {step.name}, call {k} {call}, {fault}: {why}")
