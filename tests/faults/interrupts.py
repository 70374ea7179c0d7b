"""Ctrl-C at every moment of every operation that writes: the store is as before or as after, and goes on."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import re
import threading
import time
import unittest.mock
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import mmdask as mm
from mmdask.kernels import jit
from tests.faults.children import in_parallel
from tests.faults.content import ALL, FEW, State, Wrong, check_store, state_of
from tests.faults.interrupting import Instruction, instructions, run_interrupted
from tests.faults.report import Result
from tests.faults.steps import ZARR, Step, next_commit, steps
from tests.faults.syscalls import Case, check_names
from tests.faults.tidy import check_tidy, memory_folder, names, scratch

#: threads that end with what they were begun for; others are kept for what comes next
_ENDING = ("mmdask-put", "mmdask-finish", "mmdask-ahead")
#: seconds in which they do, also on a busy machine
_ENDED = 150

#: where a layer that is being written goes from one function to the next, and is nobody's for a moment; as it is where
#: a block ends, and is not told of it
_HANDED_ON = "/sources/converting/work.py"
#: where a block ends, before it is told so: as its `__exit__` begins, and as that of a writer asks whose it is
_NOT_TOLD = r":__exit__:\d+ begins|^/sources/writing/writer\.py:__exit__:"


class Descriptors:
    """What becomes of descriptors: which was opened last, and whether one was closed that was not open."""

    def __init__(self) -> None:
        self.newest = -1
        self.wrong: list[str] = []
        self._open, self._close = os.open, os.close

    def open(self, *args: Any, **options: Any) -> int:
        self.newest = self._open(*args, **options)
        return self.newest

    def close(self, fd: int) -> None:
        try:
            self._close(fd)
        except OSError as error:
            if error.errno == errno.EBADF:
                self.wrong.append(f"descriptor {fd} was closed twice")
            raise

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        with (
            unittest.mock.patch("os.open", self.open),
            unittest.mock.patch("os.close", self.close),
            unittest.mock.patch("sys.unraisablehook", self._unraisable),
            unittest.mock.patch("threading.excepthook", self._unraisable),
        ):
            yield

    def _unraisable(self, what: Any) -> None:
        found = getattr(what, "exc_value", None)
        self.wrong.append(f"nobody saw {found!r} in {getattr(what, 'object', None)!r}")


def open_descriptors() -> set[int]:
    """Those of this process."""
    return {int(name) for name in os.listdir("/proc/self/fd")}


def left_open(before: set[int]) -> list[str]:
    """Files and folders that are open, and were not before."""
    found = []
    for fd in open_descriptors() - before:
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return [name for name in found if name.startswith("/") and not name.startswith(("/dev/null", "/proc/"))]


def _not_ended(before: set[threading.Thread]) -> list[str]:
    """Names of threads that were not there before, and go on although what they were begun for is over."""
    until = time.monotonic() + _ENDED
    while True:
        found = [t.name for t in threading.enumerate() if t not in before and t.name.startswith(_ENDING)]
        if not found or time.monotonic() > until:
            return found
        time.sleep(0.001)


def interrupt(work: Callable[[], object], at: Instruction, check: Callable[[bool, list[str]], None]) -> str:
    """Interrupt a call and check what it leaves; the moment's place, empty if it came too late.

    Parameters
    ----------
    work : callable
        Is interrupted at moment `at`.
    check : callable
        Gets whether the call returned and the notes of the interrupt; raises `Wrong`.

    Raises
    ------
    Wrong
        When another error came, or something was left open, running or disabled; the place is in its message.
    """
    jit.wait()  # the thread that compiles opens files
    before, descriptors = open_descriptors(), Descriptors()
    running, lost, place = set(threading.enumerate()), set[int](), ""
    raised: BaseException | None = None

    def caught() -> None:
        nonlocal raised
        try:
            work()
        except BaseException as error:
            raised = error
            raise

    try:
        with descriptors.watched(), warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # of a file that the interpreter closes
            # a descriptor that was just opened has no name yet
            place = run_interrupted(caught, at, lambda: lost.add(descriptors.newest))
            if place and not isinstance(raised, KeyboardInterrupt):
                raise Wrong(f"the interrupt became {raised!r}")
            if not gc.isenabled():
                raise Wrong("no garbage is collected any more")
            returned, notes = raised is None, getattr(raised, "__notes__", [])
            raised = None  # its traceback holds the lock, where it came just as the block of that began or ended
            check(returned, notes)
            jit.wait()
            if left_open(before | lost):
                gc.collect()
            alive = _not_ended(running)
            left = left_open(before | lost)
        if descriptors.wrong:
            raise Wrong("; ".join(descriptors.wrong))
        if left and not re.search(_NOT_TOLD, place) and not place.startswith(_HANDED_ON):
            raise Wrong(f"left open: {left}")
        if alive:
            raise Wrong(f"threads that do not end: {alive}")
    except Exception as error:
        raise Wrong(f"{place}: {type(error).__name__}: {error}") from error
    finally:
        gc.enable()
    return place


#: of so many moments one is followed by a look at every byte that was written then
THOROUGH = 8
#: where something is opened, written, renamed, removed, committed or locked, and who has it done
CRITICAL = (
    "/store/(storage/|system|commit|folder|layer_writer|outcome|arrays/(files|npy|offsets|region)|zarr/(scratch|writer))"
    "|/sources/(writing/|assign|change|create|converting/(ahead|con|work))|/export/|/rows/(upkeep/|views/derived|cuts/mask)"
)


def check_state(case: Case, acknowledged: int, returned: bool, notes: list[str], *, thorough: bool) -> State | None:
    """Raise `Wrong` unless a store is as before the commit or as after, and what is said of it is so."""
    states = case.step.states
    allowed = [states[-1]] if returned else list(states[acknowledged : acknowledged + 2])
    state, text = state_of(case.path, allowed, verify=thorough), " ".join(notes)
    n = len(state.ids if state else ()) - len(states[0].ids if states[0] else ())
    if "nothing of this block was committed" in text and state != states[0]:
        raise Wrong(f"it was committed, and a note says: {text}")
    if (said := re.search(r"([0-9]+) rows? of this block are committed", text)) and int(said[1]) != n:
        raise Wrong(f"{n} rows were committed, and a note says: {text}")
    if "readers see generation" in text and state == allowed[0] != allowed[-1]:
        raise Wrong(f"it was not committed, and a note says: {text}")
    return state


def go_on(case: Case, before: set[str], state: State | None, *, thorough: bool) -> None:
    """Raise `Wrong` unless the same operation, or the next one where it is done, succeeds, and all is tidy then."""
    states, path = case.step.states, case.path
    if case.step.name != "vacuum":
        check_names(path, before)
    again = state == states[0]
    # Nobody else is here, so that nothing is to wait for.
    with unittest.mock.patch("mmdask.store.storage.local.LOCK_SECONDS", 1.0):
        if again:
            case.step.run(path, lambda: None)
        else:
            assert state is not None
            states = (next_commit(path, state),)
        mm.vacuum(path, grace=0)
    assert states[-1] is not None
    check_store(path, states[-1], verify=thorough)
    check_tidy(path)


def run_moment(case: Case, at: Instruction, *, thorough: bool) -> str | None:
    """Interrupt a step at a moment; why what is left is wrong, or None."""
    case.renew()
    before, acknowledged = names(case.path), 0

    def done() -> None:
        nonlocal acknowledged
        acknowledged += 1

    def check(returned: bool, notes: list[str]) -> None:
        state = check_state(case, acknowledged, returned, notes, thorough=thorough)
        go_on(case, before, state, thorough=thorough)

    try:
        interrupt(lambda: case.step.run(case.path, done), at, check)
    except Wrong as error:
        return f"{case.step.name}, {error}"
    return None


def run_step(step: Step, every: int, offset: int, first_only: bool, where: str = CRITICAL) -> Result:
    """Interrupt one step at every so many moments."""
    result = Result("interrupts")
    with scratch(memory_folder()) as folder:
        case = Case(step, folder)
        case.renew()
        moments = instructions(lambda: case.step.run(case.path, lambda: None), where)
        result.counts["operations"] += 1
        result.counts["moments"] += len(moments)
        for number, at in enumerate(moments[offset % every :: every]):
            result.counts["interrupts"] += 1
            if why := run_moment(case, at, thorough=number % THOROUGH == 0):
                result.failures.append(why)
                if first_only:
                    break
    return result


def _steps() -> list[Step]:
    return [*steps(FEW), *steps(FEW, ZARR), *steps(ALL)]


def _run_plain(number: int, every: int, offset: int, first_only: bool) -> dict[str, Any]:
    return run_step(_steps()[number], every, offset, first_only).plain()


def run(
    every: int = 1, operations: int | None = None, *, offset: int = 0, processes: int = 2, first_only: bool = False
) -> Result:
    """The campaign: each operation, or so many of them, at every so many moments from `offset` on."""
    result = Result("interrupts")
    jobs = [partial(_run_plain, n, every, offset, first_only) for n in range(len(_steps()))][:operations]
    for one in in_parallel(jobs, processes):
        result.add(one)
        if first_only and result.failures:
            break
    return result.finish()
