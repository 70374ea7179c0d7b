"""kill -9 at random moments of everything that changes a store, while other processes read it all the time."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import mmdask as mm
from tests.faults.content import FEW, State, Wrong, new_state, state_of, value
from tests.faults.readers import Readers
from tests.faults.report import Result
from tests.faults.steps import append, assign_array, assign_expression, make
from tests.faults.tidy import memory_folder, scratch

#: what the children write rows of: few fields, and two that other kinds of disk files belong to
FIELDS = (*FEW, "c", "deep")
#: older generations, and files that no generation names, are kept for so long (seconds)
GRACE = 60
#: readers insist on what they opened for so long: a commit has the second in which it began, and may take a while
READABLE = 20
#: a store of so many rows is left, and a new one made
MANY_ROWS = 150

#: one operation, as JSON holds it
Op = list[Any]


def after(state: State | None, op: Op) -> list[State]:
    """The states behind each commit of an operation."""
    name, *args = op
    if name == "create":
        return [new_state(FIELDS, range(args[1], args[1] + 3))]
    assert state is not None
    if name == "append":
        return [state.with_rows(range(*args))]
    if name == "checkpoint":
        start, *stops = args
        return [state.with_rows(range(start, stop)) for stop in stops]
    if name in ("assign", "replace"):
        return [state.with_field("a", args[0])]
    if name == "compute":
        return [state.with_field("e")]
    if name == "drop":
        return [state.without_field(args[0])]
    if name == "annotate":
        return [State(state.ids, state.salts, args[0])]
    return [state]  # compact, vacuum


def do(path: str, state: State | None, op: Op, done: Callable[[], None]) -> None:
    """Do an operation, and say after each commit that it returned."""
    name, *args = op
    if name == "create":
        make(path, FIELDS, range(args[1], args[1] + 3))
    elif name == "append":
        append(path, state, range(*args))
    elif name == "checkpoint":
        start, *stops = args
        with mm.append(path, labels={"label": value("label", start)}) as w:
            for stop in stops:
                w.extend(state.rows(range(start, stop)))
                start = stop
                if stop != stops[-1]:
                    w.checkpoint()
                    done()
    elif name in ("assign", "replace"):
        assign_array(path, state, args[0], replace=name == "replace")
    elif name == "compute":
        assign_expression(path, state)
    elif name == "drop":
        mm.drop(path, args)
    elif name == "annotate":
        mm.annotate(path, fields={"id": {"unit": args[0]}})
    elif name == "compact":
        mm.compact(path, progress=False)
    elif name == "vacuum":
        mm.vacuum(path, keep=4, grace=GRACE)
    else:
        raise AssertionError(name)
    done()


def choose(state: State | None, number: int, rng: random.Random) -> Op:
    """An operation that is possible now."""
    start = (max(state.ids, default=0) + 1) if state else 1
    # rows of one block have one label
    start = start if value("label", start) == value("label", start + 20) else start + 20
    if state is None or len(state.ids) > MANY_ROWS:
        return ["create", number, start]
    ops: list[Op] = [["append", start, start + rng.randint(1, 9)]] * 4
    ops += [["checkpoint", start, start + 2, start + 5, start + 6]] * 2
    ops += [["replace", rng.randint(1, 99)], ["drop", "a"]] if "a" in state.salts else [["assign", rng.randint(1, 99)]]
    ops += [["drop", "e"]] if "e" in state.salts else [["compute"]]
    ops += [["annotate", str(start)], ["compact"], ["vacuum"]]
    return rng.choice(ops)


def store_path(folder: str, number: int) -> str:
    return os.path.join(folder, f"{number:06d}.mm")


@dataclass
class Known:
    """What is known of the stores: the number of the current one, and what it holds; None before it is there."""

    number: int = 1
    state: State | None = None


def work(folder: str, known: Known, seed: int, send: Callable[[Any], None]) -> NoReturn:
    """What a child does until it is killed: one operation after the other; says what it begins, and what returned."""
    rng = random.Random(seed)
    while True:
        number = known.number + (known.state is not None)
        op = choose(known.state, number, rng)
        if op[0] == "create":
            known.number = op[1]
        send(op)
        do(store_path(folder, known.number), known.state, op, lambda: send("done"))
        known.state = after(known.state, op)[-1]


class Child:
    """A forked child that works, and its two pipes."""

    def __init__(self, folder: str, known: Known, seed: int) -> None:
        reading, writing = os.pipe()
        errors_reading, errors_writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(reading)
                os.dup2(errors_writing, 2)
                work(folder, known, seed, lambda what: os.write(writing, json.dumps(what).encode() + b"\n"))
            except BaseException:
                os.write(2, traceback.format_exc().encode())
            finally:
                os._exit(1)
        os.close(writing)
        os.close(errors_writing)
        self.messages, self.errors = reading, errors_reading

    def kill(self, n_commits: int, share: float) -> tuple[int, str, list[Any]]:
        """Kill it after so many commits, and a share of the time that one takes.

        Returns
        -------
        tuple
            Its exit code, what it complained of, and what it said.
        """
        said = b""
        began = time.monotonic()
        while said.count(b"done") < n_commits or not said:
            more = os.read(self.messages, 1 << 16) if select.select([self.messages], [], [], 300.0)[0] else b""
            if not more:
                break
            said += more
        time.sleep(share * (time.monotonic() - began) / max(n_commits, 1))
        os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        said += _read_all(self.messages)
        complaints = _read_all(self.errors)
        return os.waitstatus_to_exitcode(status), complaints.decode(), list(map(json.loads, said.splitlines()))


def _read_all(fd: int) -> bytes:
    with open(fd, "rb") as file:
        return file.read()


def one_kill(folder: str, known: Known, rng: random.Random, result: Result) -> Known:
    """Let a child work and kill it; then the store must hold what it acknowledged, and at most what it was doing."""
    child = Child(folder, Known(known.number, known.state), rng.randrange(1 << 30))
    code, complaints, said = child.kill(rng.choice([0, 1, 1, 2, 3]), rng.uniform(0, 1.5))
    if code != -signal.SIGKILL or complaints:
        raise Wrong(f"the child did not die by SIGKILL but with {code}: {complaints}")
    result.counts["kills"] += 1
    now, candidates = Known(known.number, known.state), [known.state]
    ahead: list[State] = []
    for what in said:
        if what == "done":
            now.state = ahead.pop(0)
            result.counts["commits acknowledged"] += 1
        else:
            if what[0] == "create":
                _check_left_behind(folder, now)
                now = Known(what[1], None)
            ahead = after(now.state, what)
        candidates = [now.state, *ahead[:1]]
    path = store_path(folder, now.number)
    state = state_of(path, candidates)
    if ahead:
        result.counts["killed inside an operation"] += 1
        result.counts["of them committed"] += state != now.state
    now.state = state
    if state is not None:
        start = max(state.ids) + 1
        start = start if value("label", start) == value("label", start + 1) else start + 20
        now.state = append(path, state, range(start, start + 1))
        state_of(path, [now.state])
        result.counts["commits after a kill"] += 1
    return now


def _check_left_behind(folder: str, known: Known) -> None:
    if known.state is not None:
        state_of(store_path(folder, known.number), [known.state])


def run_in(folder: str, kills: int, seed: int, *, n_readers: int = 2, first_only: bool = False) -> Result:
    """So many kills in one folder."""
    result = Result("kills")
    rng = random.Random(seed)
    known = Known()
    with Readers(folder, n_readers, READABLE) as readers:
        for number in range(kills):
            try:
                known = one_kill(folder, known, rng, result)
            except (Wrong, mm.MmdaskError, OSError) as error:
                result.failures.append(f"kills, kill {number + 1} of seed {seed}: {type(error).__name__}: {error}")
                if first_only:
                    break
                known = Known(known.number + 1)
            if first_only and readers.ended():
                break
    readers.report(result)
    return result


def folders() -> Iterator[tuple[str, str | None]]:
    """The file systems to kill on: that of temporary files, and memory if there is a folder of it."""
    yield "temporary folder", None
    if memory := memory_folder():
        yield "memory", memory


def run(kills: int, *, n_readers: int = 2, seed: int = 1, first_only: bool = False) -> Result:
    """The campaign: so many kills, shared by the file systems."""
    result = Result("kills")
    places = list(folders())
    for number, (_, where) in enumerate(places):
        share = kills * (number + 1) // len(places) - kills * number // len(places)
        with scratch(where) as folder:
            result.add(run_in(folder, share, seed + number, n_readers=n_readers, first_only=first_only))
        if first_only and result.failures:
            break
    result.need("kills", kills)
    result.need("commits acknowledged", kills)
    if n_readers:
        result.need("opened by readers", kills)
    return result.finish()
