"""Processes that read stores all the time while others change them, and must never see anything but a generation."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import select
import signal
import time
import traceback
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import mmdask as mm
from mmdask.rows.reading import reader
from mmdask.store.snapshot import Snapshot, open_snapshot
from tests.faults.content import State, Wrong, check_rows
from tests.faults.report import Result

#: snapshots that a reader holds on to
KEPT = 8


def check_any(snapshot: Snapshot) -> State:
    """Raise `Wrong` unless a snapshot is right in itself: every value fits the number of its row."""
    ids = tuple(reader.read(snapshot, "id", 0, snapshot.rows).values.tolist())
    salts = dict.fromkeys(snapshot.schema, 0)
    if "a" in salts and ids:
        # only `a` is ever replaced; its values tell by which
        salts["a"] = int(reader.read(snapshot, "a", 0, 1).values[0]) - 100 * ids[0]
    state = State(ids, salts, snapshot.schema["id"].unit, "edges" in snapshot.manifest.aux)
    check_rows(snapshot, state)
    return state


@dataclass
class _Held:
    snapshot: Snapshot
    state: State
    opened: float


class _Reader:
    """Opens stores, reads all of them, and reads again what it opened before."""

    def __init__(self, folder: str, grace: float, seed: int) -> None:
        self.folder, self.grace = folder, grace
        self.rng = random.Random(seed)
        self.held: list[_Held] = []
        self.newest: dict[str, tuple[int, State]] = {}
        self.counts = {"opened by readers": 0, "read again by readers": 0, "given up after the grace period": 0}
        self.ending = False

    def run(self) -> dict[str, int]:
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "ending", True))
        while not self.ending:
            stores = sorted(n for n in os.listdir(self.folder) if re.fullmatch(r"\d+\.mm", n))
            for name in stores[-2:]:
                self.open(os.path.join(self.folder, name))
            if self.held and self.rng.random() < 0.5:
                self.again(self.rng.choice(self.held))
            time.sleep(0.002)
        return self.counts

    def open(self, path: str) -> None:
        began = time.monotonic()
        try:
            snapshot = open_snapshot(path)
            state = check_any(snapshot)
        except mm.StoreNotFoundError:
            if path in self.newest:
                raise
            return
        except (mm.MmdaskError, Wrong):
            if self._late(began):
                return
            raise
        generation, before = self.newest.get(path, (0, State((), {})))
        if snapshot.manifest.generation < generation:
            raise Wrong(f"generation {snapshot.manifest.generation} after {generation}")
        if state.ids[: len(before.ids)] != before.ids:
            raise Wrong("rows that were there are gone")
        self.newest[path] = (snapshot.manifest.generation, state)
        self.counts["opened by readers"] += 1
        self.held.append(_Held(snapshot, state, time.monotonic()))
        del self.held[:-KEPT]

    def again(self, held: _Held) -> None:
        try:
            # Without what it read before, so that files are opened again.
            check_rows(Snapshot(held.snapshot.path, held.snapshot.manifest), held.state)
        except (mm.MmdaskError, Wrong):
            if not self._late(held.opened):
                raise
            self.held.remove(held)
            return
        self.counts["read again by readers"] += 1

    def _late(self, since: float) -> bool:
        late = time.monotonic() - since > self.grace
        self.counts["given up after the grace period"] += late
        return late


class Readers:
    """So many reading processes, ended when the block ends.

    Parameters
    ----------
    grace : float
        Seconds for which what a reader opened must stay readable.
    """

    def __init__(self, folder: str, n: int, grace: float) -> None:
        self._folder, self._n, self._grace = folder, n, grace
        self._running: list[tuple[int, int]] = []
        self.outcomes: list[dict[str, Any]] = []

    def __enter__(self) -> Readers:
        for seed in range(self._n):
            reading, writing = os.pipe()
            pid = os.fork()
            if pid == 0:
                outcome: dict[str, Any] = {}
                try:
                    outcome = dict(_Reader(self._folder, self._grace, seed).run())
                except BaseException:
                    outcome = {"failure": traceback.format_exc()}
                finally:
                    with contextlib.suppress(OSError):
                        os.write(writing, json.dumps(outcome).encode())
                    os._exit(0)
            os.close(writing)
            self._running.append((pid, reading))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pid, reading in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            with open(reading, "rb") as file:
                said = file.read()
            _, status = os.waitpid(pid, 0)
            code = os.waitstatus_to_exitcode(status)
            self.outcomes.append(json.loads(said) if said else {"failure": f"a reader ended with {code}"})

    def ended(self) -> bool:
        """Whether one of them ended, which they do of themselves only when they fail."""
        return bool(select.select([reading for _, reading in self._running], [], [], 0)[0])

    def report(self, result: Result) -> None:
        """Add what they did to a result."""
        for outcome in self.outcomes:
            if failure := outcome.pop("failure", ""):
                result.failures.append(f"{result.name}, a reader failed: {failure}")
            result.counts.update(outcome)
