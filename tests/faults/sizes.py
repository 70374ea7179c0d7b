"""Files of a wrong size, read through maps and without: an error before the first byte is used, and never a signal.

A map beyond the end of its file kills the process, so that all reading is done in children.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import traceback
from typing import Any

import mmdask as mm
from mmdask.store.snapshot import open_snapshot
from tests.faults.content import ALL, FIELDS, State, check_field, new_state, value
from tests.faults.report import Result
from tests.faults.tidy import HEADER, load, memory_folder, scratch

#: rows of two parts: one of small files, one of files that are mapped
BLOCKS = (range(7), range(1000, 14000))
#: stores that one child reads
BATCH = 20


def make_store(path: str) -> State:
    """A store of all kinds of fields."""
    state = new_state(ALL, ())
    for number, ids in enumerate(BLOCKS):
        labels = {"label": value("label", ids[0])}
        fields = [FIELDS[name] for name in ALL]
        with mm.append(path, labels=labels) if number else mm.create(path, fields=fields, labels=labels) as w:
            w.extend(state.rows(ids))
        state = state.with_rows(ids)
    return state


def users_of(root: str) -> dict[str, list[str]]:
    """The array files of a store, each with the fields that are read from it."""
    found: dict[str, list[str]] = {}
    for layer in os.listdir(os.path.join(root, "parts")):
        info = load(os.path.join(root, "parts", layer, "part.json"))
        for name, stored in info["fields"].items():
            numbers = [*stored.get("offsets", []), stored.get("values"), stored.get("shapes"), *stored.get("valid", [])]
            for number in numbers:
                if number is not None:
                    file = f"parts/{layer}/{info['arrays'][number]['file']}"
                    found.setdefault(file, []).append(name)
    return found


def read_all(root: str, io: str, state: State) -> dict[str, str]:
    """What reading each field gives: `right`, or the name of an error of mmdask."""
    outcome = {}
    snapshot = open_snapshot(root, io=io)
    for name, salt in state.salts.items():
        try:
            check_field(snapshot, name, state.ids, salt)
            outcome[name] = "right"
        except mm.MmdaskError as error:
            outcome[name] = type(error).__name__
    return outcome


def read_in_child(roots: list[tuple[str, str]], state: State) -> tuple[int, list[Any]]:
    """Read stores in a forked child; its exit code, and what it found."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            with open(writing, "w") as file:
                for root, io in roots:
                    print(json.dumps(read_all(root, io, state)), file=file, flush=True)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(writing)
    with open(reading) as file:
        said = [json.loads(line) for line in file]
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), said


def resized(source: str, copy: str, file: str, rng: random.Random) -> None:
    """A copy of a store with one file of another size."""
    shutil.copytree(source, copy, copy_function=os.link)
    path = os.path.join(copy, file)
    with open(path, "rb") as old:
        data = old.read()
    os.unlink(path)
    nbytes = len(data) - HEADER
    sizes = [0, 1, HEADER - 1, HEADER, len(data) - 1, HEADER + nbytes // 2, len(data) // 4096 * 4096, len(data) + 1]
    size = rng.choice([s for s in sizes if 0 <= s != len(data)])
    with open(path, "wb") as new:
        new.write(data[:size].ljust(size, b"\0"))


def run(count: int, *, seed: int = 1) -> Result:
    """So many resized files, each read in both ways."""
    result, rng = Result("sizes"), random.Random(seed)
    with scratch(memory_folder()) as folder:
        source = os.path.join(folder, "source.mm")
        state = make_store(source)
        users = users_of(source)
        for first in range(0, count, BATCH):
            files = [rng.choice(sorted(users)) for _ in range(first, min(first + BATCH, count))]
            todo = []
            for i, file in enumerate(files):
                copy = os.path.join(folder, f"{first + i}.mm")
                resized(source, copy, file, rng)
                todo += [(copy, "mmap"), (copy, "pread")]
            code, said = read_in_child(todo, state)
            for (root, io), outcome in zip(todo, said, strict=False):
                file = files[todo.index((root, io)) // 2]
                result.counts["resized files read"] += 1
                expected = {n: "CorruptStoreError" if n in users[file] else "right" for n in state.salts}
                if outcome != expected:
                    result.failures.append(f"sizes, {file} read by {io}: {outcome}")
            if code or len(said) != len(todo):
                result.failures.append(f"sizes, a reading process ended with {code} at {todo[len(said) :][:1]}")
            for root, _ in todo[::2]:
                shutil.rmtree(root)
    return result
