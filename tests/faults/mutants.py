"""Tests of the tests: copies of the package with one fault each, which the campaigns must find.

An edit names code that must be there exactly once, so that a mutant cannot quietly become the real thing.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.faults.children import in_parallel
from tests.faults.report import Result
from tests.faults.tidy import scratch

ROOT = Path(__file__).parents[2]
LIMIT_SECONDS = 1500

#: a file of the package, what is in it, and what stands there in the mutant
Edit = tuple[str, str, str]


@dataclass(frozen=True)
class Mutant:
    """One fault, and the campaign that must find it, if need be by `only` one operation.

    Those with a reason to be `equivalent` must not be found by it.
    """

    name: str
    campaign: str
    edits: tuple[Edit, ...]
    only: str = ""
    quick: bool = False
    equivalent: str = ""


def _one(name: str, campaign: str, file: str, old: str, new: str, **more: Any) -> Mutant:
    return Mutant(name, campaign, ((file, old, new),), **more)


SYSTEM, COMMIT, LOCAL = "store/system.py", "store/commit.py", "store/storage/local.py"
VACUUM = "rows/upkeep/vacuum.py"
_HISTORY = '        write_atomically(os.path.join(history, f"{generation:08d}.json"), data)\n'
_MANIFEST = "        write_atomically(os.path.join(self.root, MANIFEST), data)\n"
_RENAME = "            SYSTEM.rename(self.folder, place)\n"
_READ = "elif not self.plan.quick"
_ATOMIC = """    temporary = f"{path}.tmp-{os.getpid()}-{os.urandom(4).hex()}"
    try:
        fd = SYSTEM.create(temporary)
"""

MUTANTS = (
    _one("no fsync of data", "powerloss", LOCAL, "fsync_all(a.fd for a in some)", "[a.fd for a in some]", quick=True),
    _one("no fsync of part.json", "powerloss", LOCAL, "            SYSTEM.fsync(info)\n", ""),
    _one("no fsync of the folder of a part", "powerloss", LOCAL, "        SYSTEM.fsync_folder(self.folder)\n", ""),
    _one(
        "no fsync of the folders of a zarr array",
        "zarr",
        LOCAL,
        "        for folder in reversed(self._folders):\n            SYSTEM.fsync_folder(folder)\n",
        "",
    ),
    _one(
        "no fsync of zarr chunks", "zarr", LOCAL, "files = [*others, *map(_Written, self._files)]", "files = [*others]"
    ),
    Mutant(
        "no fsync of parts/",
        "powerloss",
        (
            (LOCAL, "        SYSTEM.fsync_folder(self.parts)\n        return True", "        return True"),
            (LOCAL, 'SYSTEM.fsync_folder(os.path.join(self.root, "parts"))', "pass"),
        ),
    ),
    _one(
        "no fsync of parts/ by a commit, only by the writer of a part",
        "powerloss",
        LOCAL,
        'SYSTEM.fsync_folder(os.path.join(self.root, "parts"))',
        "pass",
        only="convert",
    ),
    _one(
        "no fsync of parts/ by the writer of a part, only by a commit",
        "powerloss",
        LOCAL,
        "        SYSTEM.fsync_folder(self.parts)\n        return True",
        "        return True",
        equivalent="the commit syncs parts/ before it names the part; the sync of the writer makes a part that a "
        "conversion finished durable early, which nothing promises",
    ),
    _one(
        "no fsync of the new manifest",
        "powerloss",
        SYSTEM,
        "            if durable:\n                SYSTEM.fsync(fd)\n",
        "",
        quick=True,
    ),
    _one(
        "no fsync of the store's folder after the rename",
        "powerloss",
        SYSTEM,
        "    if durable:\n        SYSTEM.fsync_folder(os.path.dirname(path))",
        "    pass",
        quick=True,
    ),
    _one(
        "no fsync of the first folders",
        "powerloss",
        LOCAL,
        "            SYSTEM.fsync_folder(self.root)\n",
        "",
        only="create",
    ),
    _one(
        "no fsync of the folder that a dead process made",
        "powerloss",
        LOCAL,
        "            SYSTEM.fsync_folder(os.path.dirname(self.root))\n",
        "",
        only="create",
    ),
    _one(
        "manifest written in place",
        "powerloss",
        SYSTEM,
        _ATOMIC,
        """    if os.path.basename(path) == "manifest.json":
        fd = SYSTEM.open_or_create(path)
        SYSTEM.write(fd, data, 0)
        SYSTEM.truncate(fd, len(data))
        SYSTEM.fsync(fd)
        os.close(fd)
        SYSTEM.fsync_folder(os.path.dirname(path))
        return
"""
        + _ATOMIC,
        quick=True,
    ),
    Mutant(
        "manifest written in place, killed",
        "kills",
        (
            (
                SYSTEM,
                _ATOMIC,
                """    if os.path.basename(path) == "manifest.json":
        import time
        fd = SYSTEM.open_or_create(path)
        SYSTEM.write(fd, data[:300], 0)
        time.sleep(0.001)
        SYSTEM.write(fd, data[300:], 300)
        SYSTEM.truncate(fd, len(data))
        SYSTEM.fsync(fd)
        os.close(fd)
        SYSTEM.fsync_folder(os.path.dirname(path))
        return
"""
                + _ATOMIC,
            ),
        ),
    ),
    Mutant(
        "commit before data",
        "kills",
        (
            (
                COMMIT,
                "    _check_layers(storage, base, new)\n",
                """    known = base.layers if base else set()
    late = [os.path.join(root, "parts", i) for i in new.layers - known]
    for folder in late:
        os.rename(folder, f"{folder}.tmp-late")
""",
            ),
            (
                COMMIT,
                "        return new, turn.publish(new.generation, data)\n",
                """        turn.publish(new.generation, data)
        time.sleep(0.005)
        for folder in late:
            os.rename(f"{folder}.tmp-late", folder)
        return new, True
""",
            ),
        ),
    ),
    _one(
        "history written after the manifest",
        "powerloss",
        LOCAL,
        _HISTORY + _MANIFEST,
        _MANIFEST + _HISTORY,
    ),
    Mutant(
        "no rename of the folder of a part",
        "powerloss",
        (
            (LOCAL, 'f"{layer_id}.tmp-{os.urandom(8).hex()}"', "layer_id"),
            (LOCAL, _RENAME, "            pass\n"),
        ),
    ),
    _one(
        "a field replaced in place",
        "powerloss",
        "sources/assign.py",
        "    texts = {name:",
        """    row = 0
    for part in base.parts if replace else ():
        layer = next(x for x in (read_layer(root, i) for i in part.layers) if "a" in x.fields)
        import numpy as np
        from mmdask.store.system import SYSTEM
        fd = os.open(os.path.join(layer.path, layer.arrays[-1].file), os.O_RDWR)
        new = np.asarray(values["a"])[row : row + part.rows]
        SYSTEM.write(fd, new.tobytes(), 4096)
        SYSTEM.fsync(fd)
        os.close(fd)
        row += part.rows
    texts = {name:""",
    ),
    _one(
        "no lock",
        "races",
        LOCAL,
        "                fcntl.flock(lock.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "",
        quick=True,
    ),
    Mutant(
        "the lock kept by a forked child",
        "fork",
        (
            (LOCAL, "os.register_at_fork(after_in_child=_close_in_child)\n", ""),
            (LOCAL, "            fcntl.flock(lock.fd, fcntl.LOCK_UN)\n", "            pass\n"),
        ),
    ),
    _one(
        "no unlock before the lock is closed",
        "fork",
        LOCAL,
        "            fcntl.flock(lock.fd, fcntl.LOCK_UN)\n",
        "            pass\n",
        equivalent="a forked child closes its copy at once, so that closing the parent's gives the lock up; the "
        "explicit unlock serves children that are made without Python's hooks",
    ),
    _one(
        "the lock not closed in forked children",
        "fork",
        LOCAL,
        "os.register_at_fork(after_in_child=_close_in_child)\n",
        "",
    ),
    _one(
        "the manifest read before the lock is taken",
        "races",
        COMMIT,
        """        with storage.turn() as turn:
            new, done = _attempt(storage, turn, change, action, tried)
""",
        """        from mmdask.store.storage.local import LocalTurn
        early = LocalTurn(root)
        known = early.newest(MAX_NBYTES)
        early.newest = lambda limit: known
        with storage.turn():
            new, done = _attempt(storage, early, change, action, tried)
""",
    ),
    _one("layers not looked for before a commit", "races", COMMIT, "    _check_layers(storage, base, new)\n", ""),
    _one(
        "a forked child commits its parent's rows",
        "fork",
        "sources/writing/writer.py",
        "        if os.getpid() != self._pid:\n",
        "        if False:\n",
        quick=True,
    ),
    _one(
        "a fork beside the compiler waits for itself",
        "fork",
        "kernels/jit.py",
        "import logging  # noqa: F401  its fork hook must be registered before ours: a fork runs them in reverse\n",
        "",
    ),
    _one(
        "a write that was cut short not continued",
        "syscalls",
        SYSTEM,
        "            view, offset = view[n:], offset + n\n",
        "            break\n",
    ),
    _one(
        "a file left open when it cannot be written",
        "syscalls",
        SYSTEM,
        "        finally:\n            os.close(fd)\n        SYSTEM.rename(temporary, path)",
        "        finally:\n            pass\n        SYSTEM.rename(temporary, path)",
    ),
    Mutant(
        "what could not be written stays",
        "disk",
        (
            (LOCAL, "            SYSTEM.remove_tree(self.folder)\n", "            pass\n"),
            ("sources/writing/transaction.py", 'storage.remove_folder("parts", entry.name)', "pass"),
        ),
    ),
    _one(
        "a removed part under its own name",
        "powerloss",
        LOCAL,
        '            aside = f"{path}{mark}{os.urandom(8).hex()}"\n            SYSTEM.rename(path, aside)\n',
        "            aside = path\n",
        only="vacuum",
    ),
    _one(
        "vacuum takes layers of older generations",
        "powerloss",
        VACUUM,
        "            kept |= layers\n",
        "            pass\n",
        only="compact",
        quick=True,
    ),
    _one(
        "vacuum does not sync the history before layers go",
        "powerloss",
        VACUUM,
        '        storage.sync_names("history")\n',
        "",
        only="vacuum",
    ),
    _one(
        "checksums of arrays not compared",
        "corruption",
        "store/checking/scan.py",
        "if hasher.hexdigest() != self.spec.checksums[number]:",
        "if False:",
        quick=True,
    ),
    _one(
        "checksums of documents not compared",
        "corruption",
        "store/document.py",
        "if first is None or checksum(data[first.end() :]).encode() != first[1]:",
        "if first is None:",
    ),
    _one(
        "verify skips headers",
        "corruption",
        "store/checking/scan.py",
        "            scanner.header()\n",
        "            pass\n",
    ),
    _one(
        "verify skips offsets",
        "corruption",
        "store/checking/checks.py",
        "            elif not self.plan.quick:\n",
        "            elif not self.plan.quick and not self._use(number).offsets:\n",
    ),
    _one(
        "verify skips flags of what is missing",
        "corruption",
        "store/checking/checks.py",
        "            elif not self.plan.quick:\n",
        "            elif not self.plan.quick and not self._use(number).flags:\n",
    ),
    _one(
        "verify skips the history",
        "corruption",
        "store/checking/verify.py",
        "    problems = list(history.problems())\n",
        "    problems = []\n",
    ),
    _one(
        "sizes not compared before files are used",
        "corruption",
        "store/arrays/held.py",
        "        if size != expected:\n",
        "        if False:\n",
    ),
    Mutant(
        "damaged masks used",
        "corruption",
        (
            ("rows/cuts/sealed.py", 'data[len(magic) : start] != checksum(data[start:]).encode() + b"\\n"', "False"),
            # Bits are counted as well, where they are read.
            ("rows/cuts/masks.py", "count_bits(found) == counts[part] and ", ""),
            ("rows/cuts/masks.py", ' and head.get("kept") == _n_rows(mask.true, rows)', ""),
        ),
    ),
    _one(
        "a descriptor is forgotten after it is closed",
        "interrupts",
        "store/arrays/npy.py",
        "            fd, self._fd = self._fd, -1  # first: an interrupt comes after os.close, and the number may be "
        "reused then\n            os.close(fd)",
        "            os.close(self._fd)\n            self._fd = -1",
    ),
    _one(
        "rows that were filled are given free when their descriptor is another's",
        "interrupts",
        "store/arrays/npy.py",
        "            if self._fd == fd:",
        "            if True:",
    ),
    _one(
        "what was half written stays beside its place",
        "reading",
        SYSTEM,
        "        with contextlib.suppress(OSError):\n            SYSTEM.unlink(temporary)\n        raise\n",
        "        raise\n",
    ),
    _one(
        "a batch that nobody got is counted",
        "batching",
        "batches/epochs.py",
        "            self._undo(batch, *stood)\n",
        "",
    ),
)


def _make(mutant: Mutant, folder: str) -> None:
    """A copy of package and tests with the edits of a mutant."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "mmdask", Path(folder, "mmdask"), ignore=ignored)
    shutil.copytree(ROOT / "tests" / "faults", Path(folder, "tests", "faults"), ignore=ignored)
    for file, old, new in mutant.edits:
        path = Path(folder, "mmdask", file)
        text = path.read_text()
        if text.count(old) != 1:
            raise AssertionError(f"mutant {mutant.name!r}: {file} has {text.count(old)} times {old!r}, expected once")
        path.write_text(text.replace(old, new))


def judge(mutant: Mutant) -> dict[str, Any]:
    """Whether a mutant is found, by which campaign, and after how much."""
    with scratch() as folder:
        _make(mutant, folder)
        command = [sys.executable, "-m", "tests.faults", mutant.campaign, "--scale", "mutant", "--first", "--json"]
        command += ["--only", mutant.only] if mutant.only else []
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "PYTHONPATH"))}
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT_SECONDS
        )
    if done.returncode not in (0, 1) or not done.stdout:
        raise AssertionError(f"mutant {mutant.name!r}: {done.stderr[-2000:]}")
    [found] = json.loads(done.stdout)
    return {"mutant": mutant.name, "found": bool(found["failures"]), "after": _after(mutant, found), **found}


def _after(mutant: Mutant, found: dict[str, Any]) -> str:
    """How much of a campaign it took."""
    counts = {
        "powerloss": ("distinct images",),
        "zarr": ("distinct images",),
        "kills": ("kills",),
        "races": ("parts appended", "operations vacuumed", "short races"),
        "fork": ("cases",),
        "corruption": ("damages",),
        "disk": ("disk full", "no more files", "files too large"),
        "syscalls": ("calls",),
        "interrupts": ("interrupts",),
        "reading": ("interrupts",),
        "batching": ("interrupts",),
    }[mutant.campaign]
    return ", ".join(f"{found['counts'].get(what, 0):,} {what}" for what in counts)


def check_edits() -> None:
    """Raise unless every mutant can be made of the package as it is."""
    for mutant in MUTANTS:
        for file, old, _ in mutant.edits:
            if (n := (ROOT / "mmdask" / file).read_text().count(old)) != 1:
                raise AssertionError(f"mutant {mutant.name!r}: {file} has {n} times {old!r}, expected once")


def run(scale: str, *, processes: int = 2, first_only: bool = False) -> Result:
    """The campaign: all mutants, or the `quick` ones."""
    result = Result("mutants")
    check_edits()
    some = [m for m in MUTANTS if m.quick or scale == "full"]
    by_name = {m.name: m for m in some}
    for found in in_parallel([partial(judge, m) for m in some], processes):
        mutant = by_name[found["mutant"]]
        result.counts["mutants"] += 1
        if mutant.equivalent:
            result.counts["equivalent"] += 1
            if found["found"]:
                result.failures.append(f"mutants, {mutant.name}: listed as equivalent, but found: {found['failures']}")
        elif found["found"]:
            result.counts["found"] += 1
        else:
            result.failures.append(f"mutants, {mutant.name}: not found by {mutant.campaign} ({found['after']})")
        how = "equivalent" if mutant.equivalent else "found" if found["found"] else "NOT FOUND"
        why = re.sub(r"\s+", " ", (found["failures"] or [mutant.equivalent])[0])[:100]
        print(f"| {mutant.name} | {mutant.campaign} | {how} | {found['after']} | {why} |", file=sys.stderr, flush=True)
        if first_only and result.failures:
            break
    return result.finish()
