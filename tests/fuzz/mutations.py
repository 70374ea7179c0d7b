"""Random changes of documents and files of a store, and what must hold for whatever comes out."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any

import mmdask as mm
from mmdask.store.arrays.npy import HEADER, checksum
from tests.store.hostile_cases import write_raw, write_store

#: what a value may become, beside others of the same document
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, 2, 3, -1, 255, 256, 2**31, 2**32, 2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64, 10**30),
    *(0.5, -0.0, 1e308, 5e-324, "", "a", "a" * 300, "\x00", "\x1b[2J", "\ud800", "../x", "/etc/passwd", "x", "r"),
    *([], {}, [[]], [0], [1, 2], [None], ["a"], {"a": 1}, [2**62, 2**62]),
    *("|b1", "|u1", "<i2", "<i4", "<i8", "<u8", "<f4", "<c16", "|S3", "<M8[s]", "<m8[25us]", "<M8[0s]", "|O", ">f4"),
    *("dense", "ragged", "shaped", "string", "category", "mmdask", "mmdask-part", "optional", "b", "aux"),
)  # fmt: skip
KEYS = (
    "shape",
    "levels",
    "axes",
    "labels",
    "optional",
    "record",
    "expression",
    "attrs",
    "constant",
    "values",
    "offsets",
)
KEYS += ("shapes", "valid", "source", "merged", "aux", "kind", "dtype", "rows", "")
#: what is changed, in one way or another
TARGETS = ("manifest", "part", "aux", "history", "manifest bytes", "part bytes", "header", "data", "forged data")


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to everything in a document but itself."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in items:
        yield (*path, key)
        yield from places(below, (*path, key))


def changed(document: Any, rng: Random, times: int) -> Any:
    """A document with some values replaced, removed, doubled or exchanged."""
    document = deepcopy(document)
    for _ in range(times):
        found = list(places(document))
        if not found:
            break
        path = rng.choice(found)
        holder = document
        for key in path[:-1]:
            holder = holder[key]
        key = path[-1]
        match rng.randrange(7):
            case 0 if isinstance(holder, dict):
                del holder[key]
            case 0:
                holder.pop(key)
            case 1:
                holder[key] = deepcopy(rng.choice(VALUES))
            case 2:
                holder[key] = deepcopy(_at(document, rng.choice(found)))
            case 3 if isinstance(holder[key], int):
                holder[key] += rng.choice((-1, 1, 2, 8, 2**32))
            case 3 if isinstance(holder[key], str):
                at = rng.randrange(len(holder[key]) + 1)
                holder[key] = holder[key][:at] + rng.choice(("", "0", "é", "\n", "_")) + holder[key][at + 1 :]
            case 4 if isinstance(holder, list):
                holder.insert(key, deepcopy(holder[key]))
            case 5 if isinstance(holder, dict):
                holder[rng.choice(KEYS)] = deepcopy(rng.choice(VALUES))
            case _:
                other = rng.choice(found)
                with contextlib.suppress(KeyError, IndexError, TypeError):
                    above = _at(document, other[:-1])
                    above[other[-1]], holder[key] = deepcopy(holder[key]), deepcopy(above[other[-1]])
    return document


def _at(document: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        document = document[key]
    return document


def changed_bytes(data: bytes, rng: Random, times: int, start: int = 0) -> bytes:
    """Bytes with some bits flipped, bytes replaced, cut out or doubled, behind `start`."""
    raw = bytearray(data)
    for _ in range(times):
        at = rng.randrange(start, max(len(raw), start + 1))
        n = rng.choice((1, 1, 1, 2, 8, 64))
        match rng.randrange(5):
            case 0 if at < len(raw):
                raw[at] ^= 1 << rng.randrange(8)
            case 1:
                raw[at : at + 1] = bytes([rng.choice((0, 1, 0x7F, 0x80, 0xFF, 0x22, 0x5B, 0x7B, rng.randrange(256)))])
            case 2:
                del raw[at : at + n]
            case 3:
                raw[at:at] = raw[at : at + n]
            case _:
                other = rng.randrange(start, max(len(raw), start + 1))
                raw[at : at + n], raw[other : other + n] = raw[other : other + n], raw[at : at + n]
    return bytes(raw)


def same_length(data: bytes, rng: Random, times: int) -> bytes:
    """Bytes with some of them others: small numbers, large ones, flipped bits, in steps of a byte or of eight."""
    raw = bytearray(data)
    for _ in range(times if raw else 0):
        width = rng.choice((1, 8)) if len(raw) >= 8 else 1
        at = rng.randrange(len(raw) // width) * width
        value = rng.choice((0, 1, 2, 5, 2**32, 2**62, -1, -(2**63), 2**63 - 1, rng.randrange(2**40)))
        raw[at : at + width] = (value & (1 << 8 * width) - 1).to_bytes(width, "little")
    return bytes(raw)


def documented(text: Any) -> bytes:
    """What stands behind the first line of a document."""
    return (",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in text.items()) + "\n}\n").encode()


class Fuzzer:
    """Makes changed copies of one store, each at a path of its own, for what was read of a path is kept.

    Parameters
    ----------
    folder : Path
        Where the stores are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.good = folder / "good.mm"
        write_store(self.good)
        self.files = [
            p.relative_to(self.good) for p in sorted(self.good.rglob("*")) if p.is_file() and p.name != ".lock"
        ]
        self.arrays = [f for f in self.files if f.suffix == ".npy"]
        self.n = 0

    def store(self, rng: Random) -> tuple[Path, bool]:
        """A changed store, and whether its checksums give that away."""
        self.n += 1
        path = self.folder / f"{self.n}.mm"
        for file in self.files:
            (path / file).parent.mkdir(parents=True, exist_ok=True)
            os.link(self.good / file, path / file)
        visible = self._change(path, rng)
        return path, visible

    def _change(self, path: Path, rng: Random) -> bool:
        times = rng.choice((1, 1, 1, 2, 3, 6))
        target = rng.choice(TARGETS)
        part = Path("parts", rng.choice("ab"), "part.json")
        file = {
            "manifest": Path("manifest.json"),
            "history": Path("history", "00000001.json"),
            "aux": Path("parts", "aux", "part.json"),
            "manifest bytes": Path("manifest.json"),
            "part": part,
            "part bytes": part,
        }.get(target) or rng.choice(self.arrays)
        old = (path / file).read_bytes()
        (path / file).unlink()
        if target == "header":
            (path / file).write_bytes(changed_bytes(old[:HEADER], rng, times) + old[HEADER:])
        elif target == "data":
            (path / file).write_bytes(old[:HEADER] + same_length(old[HEADER:], rng, times))
        elif target == "forged data":
            data = same_length(old[HEADER:], rng, times)
            (path / file).write_bytes(old[:HEADER] + data)
            self._forge(path, file, data)
            return False
        elif target.endswith("bytes"):
            behind = old[old.index(b"\n") + 1 :]
            forged = rng.random() < 0.7
            new = changed_bytes(behind if forged else old, rng, times)
            if not forged:
                (path / file).write_bytes(new)
                return new != old
            write_raw(path / file, new)
            return False
        else:
            text = json.loads(old)
            del text["checksum"]
            write_raw(path / file, documented(changed(text, rng, times)))
            if target == "manifest":
                (path / "history/00000002.json").unlink()
            return False
        return (path / file).read_bytes() != old

    def _forge(self, path: Path, file: Path, data: bytes) -> None:
        """Give changed data the checksum that they have."""
        info = path / file.parent / "part.json"
        text = json.loads(info.read_bytes())
        del text["checksum"]
        [array] = [a for a in text["arrays"] if a["file"] == file.name]
        array["checksums"] = [checksum(data)] if data else []
        info.unlink()
        write_raw(info, documented(text))


def read_everything(path: Path) -> list[mm.MmdaskError]:
    """Read a store in every way; errors of mmdask are what comes back, and no others may be raised."""
    errors: list[mm.MmdaskError] = []

    def attempt(action: Callable[[], Any]) -> Any:
        try:
            return action()
        except mm.MmdaskError as error:
            errors.append(error)
            return None

    ds = attempt(lambda: mm.open(path))
    with contextlib.suppress(mm.MmdaskError):  # which verify looks into when it is asked to
        mm.open(path, generation=1)._rows.read("x", 0, 1)
    if ds is None:
        return errors
    attempt(lambda: repr(ds))
    attempt(lambda: ds._repr_html_())
    attempt(lambda: ds.sources)
    attempt(lambda: ds.history())
    for name in ds.aux:
        attempt(lambda name=name: ds.aux[name])
    n = min(len(ds), 1000)
    for name in ds.fields:
        attempt(lambda name=name: ds._rows.read(name, 0, n))
        attempt(lambda name=name: ds[[name]][[0, n - 1, n // 2]] if n else None)
    attempt(lambda: ds[n - 1] if n else None)
    if "x" in ds.fields and ds.schema["x"].kind == "dense" and not ds.schema["x"].shape:
        attempt(lambda: ds.cut("isfinite(x)").count())
    return errors


def check(path: Path, visible: bool) -> str:
    """What is wrong with how mmdask takes a store; empty if nothing is.

    Errors must be those of mmdask, soon; bytes that differ from their checksums must be found; and where `verify` finds
    nothing, everything can be read.
    """

    def late(*_: Any) -> None:
        raise TimeoutError("took more than 120 s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(120)
    try:
        errors = read_everything(path)
        try:
            report = mm.verify(path, threads=1)
        except mm.MmdaskError:
            return ""
        str(report)
        if visible and report.ok:
            return "changed bytes were not found"
        if report.ok and errors:
            return f"verify finds nothing, and reading says {errors[0]!r}"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        import traceback

        return "".join(traceback.format_exception(error)[-3:])
    finally:
        signal.alarm(0)
    return ""
