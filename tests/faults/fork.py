"""Processes that fork while a writer, a dataset or the lock of a store is open."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import mmdask as mm
from mmdask.rows.reading import reader
from mmdask.store.snapshot import Snapshot, open_snapshot
from mmdask.store.storage.local import locked
from tests.faults.children import Forked
from tests.faults.content import ALL, FEW, State, Wrong, check_rows, state_of, value
from tests.faults.report import Result
from tests.faults.steps import append, make, next_commit
from tests.faults.systems import Watched, installed
from tests.faults.tidy import check_tidy, memory_folder, scratch

FIRST, MORE = range(5), range(100_000, 100_003)
#: a commit that waits for a lock that nobody holds takes longer than this
SOON = 60.0

#: gets the path of a store and what it holds, and returns what it holds afterwards
Case = Callable[[str, State], State]


def _leaves(w: mm.Writer, path: str, state: State) -> int:
    w.__exit__(None, None, None)
    return 0


def _raises(w: mm.Writer, path: str, state: State) -> int:
    w.__exit__(ValueError, ValueError("no"), None)
    return 0


def _reads(w: mm.Writer, path: str, state: State) -> int:
    check_rows(open_snapshot(path), state)
    return 0


def _appends(w: mm.Writer, path: str, state: State) -> int:
    try:
        w.extend(state.rows(MORE[2:]))
    except mm.MmdaskError:
        return 0
    return 3


def _child_ends(end: Callable[[mm.Writer, str, State], int]) -> Case:
    """A child is forked inside the block of a writer, and ends in some way: the rows are the parent's to commit."""

    def case(path: str, state: State) -> State:
        with mm.append(path, labels={"label": value("label", MORE[0])}) as w:
            w.extend(state.rows(MORE[:2]))
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    code = end(w, path, state)
                finally:
                    os._exit(code)
            _, status = os.waitpid(child, 0)
            if status:
                raise Wrong(f"the child ended with {os.waitstatus_to_exitcode(status)}")
            w.extend(state.rows(MORE[2:]))
        return state.with_rows(MORE)

    return case


def _reads_in_child(io: str) -> Case:
    """A child reads what its parent had opened and read; then the parent does."""

    def case(path: str, state: State) -> State:
        snapshot = open_snapshot(path, io=io)
        check_rows(snapshot, state)
        for _ in range(2):
            outcome = Forked(lambda: check_rows(snapshot, state)).outcome()
            fresh = Forked(lambda: check_rows(pickle.loads(pickle.dumps(snapshot)), state)).outcome()
            if outcome != {"result": None} or fresh != {"result": None}:
                raise Wrong(f"{outcome}, {fresh}")
        check_rows(snapshot, state)
        return state

    return case


def _child_commits(path: str, state: State) -> State:
    """A child has a writer of its own while its parent's is open: both commit."""
    with mm.append(path, labels={"label": value("label", MORE[0])}) as w:
        w.extend(state.rows(MORE))
        outcome = Forked(lambda: append(path, state, range(8, 10)) and None).outcome()
        if outcome != {"result": None}:
            raise Wrong(str(outcome))
    return state.with_rows([*range(8, 10), *MORE])


def _fork_under_lock(path: str, state: State) -> State:
    """A child that was forked while its parent held the lock does not keep it, even if the parent forgets to unlock."""
    children: list[int] = []

    class Forking(Watched):
        def around(self, name: str, args: tuple[Any, ...], call: Callable[[], Any]) -> Any:
            # between the history and the manifest, which is under the lock
            if name == "rename" and args[1].endswith("manifest.json"):
                child = os.fork()
                if child == 0:
                    time.sleep(2 * SOON)
                    os._exit(0)
                children.append(child)
            return super().around(name, args, call)

    try:
        with installed(Forking()):
            append(path, state, MORE)
        return _soon(path, state.with_rows(MORE))
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _holder_killed(with_child: bool) -> Case:
    """The holder of the lock is killed, with or without a child that lives on: the next commit does not wait."""

    def case(path: str, state: State) -> State:
        reading, writing = os.pipe()
        holder = os.fork()
        if holder == 0:
            with locked(path):
                child = os.fork() if with_child else 1
                if child == 0:
                    time.sleep(0.2)
                    os.write(writing, f"{os.getpid()} ".encode())
                    time.sleep(2 * SOON)
                    os._exit(0)
                if not with_child:
                    os.write(writing, b"0 ")
                time.sleep(2 * SOON)
            os._exit(0)
        grandchild = int(os.read(reading, 20))
        waiting = Forked(lambda: append(path, state, MORE) and None)
        time.sleep(0.1)
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
        began = time.monotonic()
        outcome = waiting.outcome()
        if grandchild:
            os.kill(grandchild, signal.SIGKILL)
        os.close(reading)
        os.close(writing)
        if outcome != {"result": None} or time.monotonic() - began > SOON:
            raise Wrong(f"after {time.monotonic() - began:.1f} s: {outcome}")
        return state.with_rows(MORE)

    return case


def _soon(path: str, state: State) -> State:
    began = time.monotonic()
    outcome = Forked(lambda: append(path, state, range(8, 10)) and None).outcome()
    if outcome != {"result": None} or time.monotonic() - began > SOON:
        raise Wrong(f"after {time.monotonic() - began:.1f} s: {outcome}")
    return state.with_rows(range(8, 10))


def _fork_beside_a_commit(path: str, state: State) -> State:
    """One thread commits again and again while another forks children that commit, too: all of it is there."""
    failures: list[BaseException] = []
    blocks = [range(100_000 + 10 * n, 100_002 + 10 * n) for n in range(12)]

    def commit_all() -> None:
        try:
            for ids in blocks:
                append(path, state, ids)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=commit_all)
    thread.start()
    own = []
    while thread.is_alive() and len(own) < 6:
        ids = range(200_000 + 10 * len(own), 200_001 + 10 * len(own))
        outcome = Forked(lambda ids=ids: append(path, state, ids) and None).outcome()
        if outcome != {"result": None}:
            raise Wrong(str(outcome))
        own.append(ids)
    thread.join()
    if failures:
        raise Wrong(repr(failures[0]))
    snapshot = open_snapshot(path)
    ids = _ids(snapshot)
    if sorted(ids) != sorted([*state.ids, *(i for block in [*blocks, *own] for i in block)]):
        raise Wrong(f"rows {ids}")
    return State(ids, state.salts)


def _ids(snapshot: Snapshot) -> tuple[int, ...]:
    return tuple(reader.read(snapshot, "id", 0, snapshot.rows).values.tolist())


def _spawned(path: str, state: State) -> State:
    """A snapshot goes to a new process as a few hundred bytes."""
    data = pickle.dumps(open_snapshot(path))
    if len(data) > 1000:
        raise Wrong(f"a snapshot pickles to {len(data)} bytes")
    script = (
        "import pickle, sys\nfrom mmdask.rows.reading import reader\n"
        f"s = pickle.loads({data!r})\nprint(reader.read(s, 'id', 0, s.rows).values.tolist())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    if done.stdout.strip() != str(list(state.ids)):
        raise Wrong(done.stdout + done.stderr)
    return state


def _fork_while_compiling(path: str, state: State) -> State:
    """A process that forks while another thread of it imports numba goes on."""
    script = (
        "import os, sys, time\nimport mmdask as mm\nfrom mmdask.kernels import gather\n"
        "ds = mm.open(sys.argv[1])\nds[[3, 1]]\ntime.sleep(float(sys.argv[2]))\n"
        "pid = os.fork()\nif pid == 0: os._exit(0)\nos.waitpid(pid, 0)\nprint('went on')"
    )
    for delay in ("0", "0.05", "0.1", "0.2"):
        try:
            done = subprocess.run(
                [sys.executable, "-c", script, path, delay], capture_output=True, text=True, timeout=300
            )
        except subprocess.TimeoutExpired:
            raise Wrong(f"hung when it forked after {delay} s") from None
        if done.stdout.strip() != "went on":
            raise Wrong(done.stdout + done.stderr)
    return state


CASES: dict[str, Case] = {
    "a child leaves a writer's block": _child_ends(_leaves),
    "a child raises inside a writer's block": _child_ends(_raises),
    "a child reads inside a writer's block": _child_ends(_reads),
    "a child appends to its parent's writer": _child_ends(_appends),
    "a child exits inside a writer's block": _child_ends(lambda w, path, state: 0),
    "a child reads its parent's maps": _reads_in_child("mmap"),
    "a child reads through its parent's descriptors": _reads_in_child("pread"),
    "a child commits inside a writer's block": _child_commits,
    "a fork while the lock is held": _fork_under_lock,
    "the holder of the lock is killed": _holder_killed(False),
    "the holder of the lock is killed, its child lives on": _holder_killed(True),
    "forks beside a thread that commits": _fork_beside_a_commit,
    "a snapshot in a spawned process": _spawned,
    "a fork while a kernel is compiled": _fork_while_compiling,
}


def run(rounds: int = 1, *, first_only: bool = False) -> Result:
    """The campaign: every case, so many times, on stores of few and of all kinds of fields."""
    result = Result("fork")
    for number in range(rounds):
        for name, case in CASES.items():
            with scratch(memory_folder()) as folder:
                path = os.path.join(folder, "s.mm")
                try:
                    state = case(path, make(path, ALL if number % 2 else FEW, FIRST))
                    state_of(path, [state])
                    state = next_commit(path, state)
                    mm.vacuum(path, grace=0)
                    check_tidy(path)
                    state_of(path, [state])
                except (Wrong, mm.MmdaskError, OSError) as error:
                    result.failures.append(f"fork, {name}: {error}")
                    if first_only:
                        return result.finish()
            result.counts["cases"] += 1
    return result.finish()
