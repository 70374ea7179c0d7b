"""A disk that is really full: an error, never a signal; the store as before; the space given back."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

import mmdask as mm
from mmdask.store.snapshot import open_snapshot
from tests.faults.children import Forked
from tests.faults.content import FEW, State, Wrong, state_of, value
from tests.faults.readers import check_any
from tests.faults.report import Result
from tests.faults.steps import make, next_commit
from tests.faults.tidy import check_tidy, names, scratch

MIB = 1 << 20
#: what is left of room, besides what an operation had to keep: folders that the file system keeps
SLACK = 64 << 10
ROWS = 6_000


@contextlib.contextmanager
def small_disk(nbytes: int, n_files: int = 0) -> Iterator[str | None]:
    """A folder on a file system of this size, or None where none can be mounted."""
    with scratch() as folder:
        options = f"size={nbytes}" + (f",nr_inodes={n_files}" if n_files else "")
        command = ["mount", "-t", "tmpfs", "-o", options, "none", folder]
        try:
            mounted = subprocess.run(command, capture_output=True).returncode == 0
        except FileNotFoundError:
            mounted = False
        if not mounted:
            yield None
            return
        try:
            yield folder
        finally:
            subprocess.run(["umount", "-l", folder], check=True)


def free(folder: str) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_bsize


def fill(folder: str, leave: int) -> str:
    """A file that leaves so many bytes."""
    path = os.path.join(folder, "ballast")
    with open(path, "wb", buffering=0) as file:
        while (room := free(folder) - leave) > 0:
            file.write(bytes(min(room, 1 << 16)))
    return path


# ---- what is tried; each needs more room than the least, and less than the most that is left to it


def _append(path: str, state: State) -> State:
    rows = range(100_000, 100_000 + ROWS)
    with mm.append(path, labels={"label": value("label", rows[0])}) as w:
        w.extend(state.rows(rows))
    return state.with_rows(rows)


def _assign(path: str, state: State) -> State:
    mm.assign(path, {"a": np.array([value("a", i) for i in state.ids])}, progress=False)
    return state.with_field("a")


def _compact(path: str, state: State) -> State:
    mm.compact(path, progress=False)
    return state


def _drop(path: str, state: State) -> State:
    mm.drop(path, ["t"])
    return state.without_field("t")


Operation = Callable[[str, State], State]
OPERATIONS: tuple[Operation, ...] = (_append, _assign, _compact, _drop)


def attempt(operation: Operation, path: str, state: State, *, private: bool = True) -> str:
    """Do something with little room, and what followed: "had room" or "refused". All must be as it should be.

    `private` says that nothing else writes to the disk.
    """
    folder = os.path.dirname(path)
    before, was_free = names(path), free(folder)
    outcome = Forked(lambda: operation(path, state) and None).outcome()
    if "code" in outcome or "bug" in outcome:
        raise Wrong(f"{operation.__name__[1:]}: {outcome}")
    after = _after(operation, state)
    if "error" not in outcome:
        state_of(path, [after])
        return "had room"
    seen = state_of(path, [state, after])
    left = {n for n in names(path) - before - {".lock"} if not n.startswith("history/")}
    if seen is state and left:
        raise Wrong(f"left over: {sorted(left)}")
    if seen is state and private and free(folder) < was_free - SLACK:
        raise Wrong(f"{was_free - free(folder)} bytes were not given back")
    return "refused"


def apart(work: Callable[[], str]) -> str:
    """Do something in a child, so that no map of this process keeps the space of a file that is gone."""
    outcome = Forked(work).outcome()
    if "result" not in outcome:
        raise Wrong(str(outcome))
    return str(outcome["result"])


def _after(operation: Operation, state: State) -> State:
    if operation is _append:
        return state.with_rows(range(100_000, 100_000 + ROWS))
    if operation is _compact:
        return state
    return state.with_field("a") if operation is _assign else state.without_field("t")


def full_disk(levels: int, seed: int, result: Result) -> bool:
    """Every operation with ever more room; False where no disk can be mounted."""
    rng = random.Random(seed)
    with small_disk(8 * MIB) as folder:
        if folder is None:
            return False
        path = os.path.join(folder, "s.mm")
        for operation in OPERATIONS:
            for level in range(levels):
                leave = rng.randrange(4096) + level * (256 << 10) // levels
                how = apart(partial(_with_room, operation, path, leave))
                result.counts["disk full" if how == "refused" else how] += 1
                shutil.rmtree(path)
    return True


def _with_room(operation: Operation, path: str, leave: int) -> str:
    state = make(path, FEW, range(ROWS // 4), range(ROWS // 4, ROWS // 2))
    ballast = fill(os.path.dirname(path), leave)
    how = attempt(operation, path, state)
    os.unlink(ballast)
    _goes_on(path)
    return how


def _goes_on(path: str) -> None:
    """The next commit succeeds once there is room, and nothing is left over."""
    state = next_commit(path, check_any(open_snapshot(path)))
    state_of(path, [state])
    mm.vacuum(path, grace=0)
    check_tidy(path)
    state_of(path, [state])


def few_files(result: Result) -> bool:
    """A file system that takes no more files, at each file that an append makes; False where none can be mounted."""
    for spare in range(1, 30):
        with small_disk(8 * MIB, 90) as folder:
            if folder is None:
                return False
            how = apart(partial(_with_files, os.path.join(folder, "s.mm"), spare))
            result.counts["no more files" if how == "refused" else how] += 1
    return True


def _with_files(path: str, spare: int) -> str:
    folder = os.path.dirname(path)
    state = make(path, FEW, range(10))
    ballast = [os.path.join(folder, f"ballast-{n}") for n in range(os.statvfs(folder).f_favail - spare)]
    for file in ballast:
        open(file, "wb").close()
    how = attempt(_append, path, state)
    for file in ballast:
        os.unlink(file)
    _goes_on(path)
    return how


def limited_files(levels: int, result: Result) -> None:
    """The same with RLIMIT_FSIZE, for which the system sends a signal that must not end the process."""
    with scratch() as folder:
        path = os.path.join(folder, "s.mm")
        for operation in OPERATIONS:
            for level in range(levels):
                how = apart(partial(_with_limit, operation, path, 100 + level * (90 << 10) // levels))
                result.counts["files too large" if how == "refused" else how] += 1
                shutil.rmtree(path)


def _with_limit(operation: Operation, path: str, nbytes: int) -> str:
    state = make(path, FEW, range(ROWS // 4), range(ROWS // 4, ROWS // 2))
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, resource.RLIM_INFINITY))
    how = attempt(operation, path, state, private=False)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    _goes_on(path)
    return how


def run(levels: int, *, seed: int = 1, first_only: bool = False) -> Result:
    """The campaign: every operation with so many amounts of room."""
    result = Result("disk")
    try:
        if full_disk(levels, seed, result) and few_files(result):
            result.need("disk full", levels)
            result.need("no more files", 5)
        else:
            result.counts["no disk could be mounted"] += 1
        limited_files(levels, result)
        result.need("files too large", levels)
    except (Wrong, mm.MmdaskError, OSError) as error:
        result.failures.append(f"disk: {error!r}")
    return result.finish()
