"""Stores from strangers: a good one, and what can be done to it. `hostile_run` tries them."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import mmdask as mm
from mmdask.schema import Field, Schema
from mmdask.store.arrays.npy import HEADER, checksum
from mmdask.store.commit import add_parts, commit
from mmdask.store.layer_writer import LayerWriter
from mmdask.store.manifest import Part
from tests.format.kinds import to_data

Damage = Callable[[Path], Any]
Change = Callable[[Any], Any]
#: puts something in a place, of which the second path has what was there
Replace = Callable[[Path, Path], Any]

ROWS: list[tuple[Field, list[Any]]] = [
    (Field.dense("x", "i4", unit="GeV", doc="a number"), [1, -2, 3]),
    (Field.dense("b", "?"), [True, False, True]),
    (Field.dense("when", "M8[s]"), [0, 1, 2]),
    (Field.dense("o", "f4", optional=(0,)), [1.0, None, 2.0]),
    (Field.ragged("r", "f4"), [[1.0], [], [2.0, 3.0]]),
    (Field.ragged("deep", "i2", levels=2), [[[1], []], [], [[2, 3]]]),
    (Field.string("s"), ["é", "", "abc"]),
    (Field.shaped("image", "u1", 2), [[[1, 2]], [], [[3], [4]]]),
    (Field.ragged("lists", "i4", optional=(0, 1)), [[1, None], None, []]),
    (Field.category("c", ["u", "v"]), ["u", "v", "u"]),
]
CONSTANTS = [(Field.category("process", ["ttbb"]), "ttbb"), (Field.dense("year", "i8"), 2016)]
SCHEMA = Schema([*(f for f, _ in ROWS), *(f for f, _ in CONSTANTS)])
AUX = Field.ragged("table", "f8")


def write_store(path: Path) -> None:
    """A store of two parts, two generations and an aux."""
    path.mkdir()

    def part(layer_id: str) -> Part:
        with LayerWriter(path, layer_id) as w:
            for field, rows in ROWS:
                w.field(field).write(to_data(field, rows))
            for field, value in CONSTANTS:
                w.constant(field, value)
            layer = w.finish()
        return Part(layer.rows, (layer_id,), layer.nbytes)

    with LayerWriter(path, "aux") as w:
        w.field(AUX).write(to_data(AUX, [[0.5, 1.5]]))
        w.finish()
    first = replace(add_parts(None, SCHEMA, [part("a")], block_rows=2), aux=Schema([AUX]), aux_layers=("aux",))
    commit(path, lambda _: first, action="create")
    second = part("b")
    commit(path, lambda m: add_parts(m, SCHEMA, [second], block_rows=2), action="append")


# What a stranger does ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A store made from the good one by `damage`.

    `says` must be in the error of one of the operations; empty where none may raise. `only` are the operations tried.
    """

    name: str
    damage: Damage
    says: str
    only: tuple[str, ...] = ()


def edit(file: Path, change: Change) -> None:
    """Change a document and give it the checksum that it then has."""
    text = json.loads(file.read_bytes())
    del text["checksum"]
    change(text)
    rest = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in text.items()) + "\n}\n"
    write_raw(file, rest.encode())


def write_raw(file: Path, rest: bytes) -> None:
    """A document of these bytes behind the first line."""
    file.write_bytes(b'{"checksum": "xxh3_64:' + checksum(rest).encode() + b'",\n' + rest)


def manifest(change: Change) -> Damage:
    """A change of the newest manifest, also in the history."""

    def damage(path: Path) -> None:
        edit(path / "manifest.json", change)
        shutil.copy(path / "manifest.json", path / "history" / "00000002.json")

    return damage


def part(change: Change, layer: str = "b") -> Damage:
    return lambda path: edit(path / "parts" / layer / "part.json", change)


def raw_manifest(rest: bytes) -> Damage:
    return lambda path: write_raw(path / "manifest.json", rest)


def array(name: str, role: str, change: Change, dtype: str = "<i8") -> Damage:
    """Change the data of an array of the second part, and its checksum; `role` is values, offsets, shapes, valid."""

    def damage(path: Path) -> None:
        folder = path / "parts" / "b"
        text = json.loads((folder / "part.json").read_bytes())
        numbers = text["fields"][name][role]
        number = numbers if isinstance(numbers, int) else numbers[-1]
        file = folder / text["arrays"][number]["file"]
        raw = file.read_bytes()
        data = np.frombuffer(raw[HEADER:], dtype).copy()
        change(data)
        file.write_bytes(raw[:HEADER] + data.tobytes())
        edit(folder / "part.json", lambda p: p["arrays"][number].update(checksums=[checksum(data.tobytes())]))

    return damage


def put(at: int, value: int) -> Change:
    return lambda data: data.__setitem__(at, value)


def field(name: str, **change: Any) -> Change:
    """A change of a field of the manifest."""
    return lambda m: next(f for f in m["fields"] if f["name"] == name).update(change)


def instead(*names: str, by: Replace) -> Damage:
    """Something else in the place of a file or folder of the store, which is moved outside; `by` gets both paths."""

    def damage(path: Path) -> None:
        place = path.joinpath(*names)
        away = path.parent / "outside" / "moved"
        if place.exists():
            shutil.move(place, away)
        else:
            away.mkdir()
        by(place, away)

    return damage


def link(place: Path, away: Path) -> None:
    place.symlink_to(away)


def fifo(place: Path, away: Path) -> None:
    os.mkfifo(place)


def folder(place: Path, away: Path) -> None:
    place.mkdir()


def zeros(place: Path, away: Path) -> None:
    place.symlink_to("/dev/zero")


def named_socket(place: Path, away: Path) -> None:
    os.chdir(place.parent)  # a path of a socket is short
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(place.name)
    os.chdir("/")


def values_of(path: Path, name: str) -> Path:
    text = json.loads((path / "parts" / "b" / "part.json").read_bytes())
    return Path("parts", "b", text["arrays"][text["fields"][name]["values"]]["file"])


def x_instead(by: Replace) -> Damage:
    return lambda path: instead(*values_of(path, "x").parts, by=by)(path)


def huge(rows: int, **more: Any) -> Damage:
    """Parts of constants alone that claim many rows."""

    def damage(path: Path) -> None:
        def change(m: Any) -> None:
            m["fields"] = [f for f in m["fields"] if f["name"] in ("process", "year")]
            m["parts"] = {"rows": [rows], "nbytes": [0], "layers": [["b"]]}
            m.update(more)

        def constants(p: Any) -> None:
            p["fields"] = {n: p["fields"][n] for n in ("process", "year")}
            p.update(rows=rows, arrays=[])

        manifest(change)(path)
        part(constants)(path)

    return damage


EVIL = "\x1b[2J\x1b]0;owned\x07<script>alert(1)</script>\\input{/etc/passwd}\r\n\u202e"

EVIL_NAME = "<script>alert(1)</script>\\input{x}$&"


def evil_text(path: Path) -> None:
    def change(m: Any) -> None:
        m["fields"].append({**m["fields"][1], "name": EVIL_NAME})
        for f in m["fields"]:
            f.update(unit=EVIL, doc=EVIL, attrs={EVIL: EVIL})
            if f["kind"] == "category":
                f["labels"] = [*f["labels"], EVIL]
        m.update(action=EVIL, writer=EVIL, attrs={EVIL: EVIL})

    manifest(change)(path)
    for layer in ("a", "b"):
        part(lambda p: p["fields"].update({EVIL_NAME: p["fields"]["b"]}), layer)(path)
        part(lambda p: p.update(source={"uri": EVIL, "tree": EVIL, "skipped": [[EVIL, EVIL]]}), layer)(path)


def deep_attrs(depth: int) -> Damage:
    def damage(path: Path) -> None:
        value: Any = 1
        for _ in range(depth):
            value = [value]
        manifest(lambda m: m["attrs"].update(a=value))(path)

    return damage


def forged_masks(change: Callable[[bytes], bytes], by: Replace | None = None) -> Damage:
    """Masks of a kept cut that were tampered with."""

    def damage(path: Path) -> None:
        assert mm.open(path).cut("x > 0").count() == 4
        for n, file in enumerate(path.glob("cache/masks/*/*.*")):
            if by is not None:
                file.unlink()
                by(file, path.parent / "outside" / f"mask{n}")
                continue
            data = file.read_bytes()
            head, rest = data[:14], data[31:]
            rest = change(rest)
            file.write_bytes(head + checksum(rest).encode() + b"\n" + rest)

    return damage


def mask_link(file: Path, away: Path) -> None:
    away.write_bytes(b"mmdask-mask 1\n")
    file.symlink_to(away)


READING = (
    "open",
    "looks",
    "chunks",
    "fields",
    "rows",
    "cut",
    "constant",
    "batches",
    "split",
    "aux",
    "sources",
    "history",
)
CASES = [
    Case("good", lambda path: None, ""),
    # documents
    Case("nesting-of-100000", raw_manifest(b'"attrs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "not JSON within"),
    Case("nesting-of-900", deep_attrs(900), "more than 64 deep"),
    Case("an-integer-of-a-million-digits", raw_manifest(b'"generation": ' + b"9" * 10**6 + b"}"), "not JSON within"),
    Case(
        "an-integer-of-4000-digits", raw_manifest(b'"format": "mmdask", "version": ' + b"9" * 4000 + b"}"), "'version'"
    ),
    Case("an-exponent", raw_manifest(b'"attrs": {"a": 1e99999999999999999999}}'), "more than a float holds"),
    Case("a-manifest-of-70-MiB", lambda p: os.truncate(p / "manifest.json", 70 << 20), "more than the limit of"),
    Case("a-manifest-of-8-EiB", lambda p: os.truncate(p / "manifest.json", 1 << 43), "more than the limit of"),
    Case("a-part-of-70-MiB", lambda p: os.truncate(p / "parts/b/part.json", 70 << 20), "more than the limit of"),
    Case(
        "ten-million-lists", raw_manifest(b'"attrs": [' + b"[]," * 10_000_000 + b"[]]}"), "values, more than the limit"
    ),
    Case("a-million-objects", raw_manifest(b'"fields": [' + b"{}," * 1_000_000 + b"{}]}"), "'format'"),
    Case("surrogates", raw_manifest(b'"format": "\\ud800"}'), "lone surrogate"),
    Case("attrs-of-10-MB", manifest(lambda m: m["attrs"].update({f"k{i}": "v" * 1000 for i in range(10_000)})), ""),
    Case("a-doc-of-1-MB", manifest(field("x", doc="d" * (1 << 20), unit="u" * (1 << 20))), ""),
    Case("100000-labels", manifest(field("c", labels=["u", "v", *map(str, range(100_000))])), ""),
    # files
    *(
        Case(f"{what.__name__}-in-place-of-{'-'.join(names)}", instead(*names, by=what), says)
        for names in (
            ("manifest.json",),
            ("parts", "b", "part.json"),
            ("parts", "b"),
            ("parts",),
            ("history", "00000001.json"),
        )
        for what, says in (
            (link, "a link"),
            (fifo, "regular file|a link|is gone"),
            (zeros, "a link|regular file|is gone"),
            (folder, "regular file|No such file"),
            (named_socket, "regular file|a link|is gone"),
        )
        if not (what is folder and names[-1] in ("parts", "b"))
    ),
    *(
        Case(f"{what.__name__}-in-place-of-x", x_instead(what), says)
        for what, says in (
            (link, "a link"),
            (fifo, "regular file"),
            (zeros, "a link"),
            (folder, "regular file"),
            (named_socket, "regular file"),
        )
    ),
    Case("history-is-a-link", instead("history", by=link), "a link"),
    # sizes
    Case("an-array-of-2-EiB", part(lambda p: p["arrays"][0].update(shape=[3, 2**58])), "checksums"),
    Case(
        "an-array-longer-than-its-file",
        part(lambda p: p["arrays"][0].update(shape=[3, 2**16])),
        "array of|stored as|bytes",
    ),
    Case("lengths-that-overflow", part(lambda p: p["arrays"][0].update(shape=[2**32, 2**32])), "'shape'"),
    Case("lengths-that-overflow-beside-0", part(lambda p: p["arrays"][0].update(shape=[0, 2**62, 2**62])), "'shape'"),
    Case("a-file-cut-short", lambda p: os.truncate(p / values_of(p, "x"), HEADER + 5), "bytes, should have"),
    Case("a-file-of-16-TiB", lambda p: os.truncate(p / values_of(p, "x"), (1 << 44) - 8192), "bytes, should have"),
    Case("a-wide-item", manifest(field("x", shape=[2**20, 2**20])), "is not stored as"),
    Case("a-dtype-of-other-bytes", manifest(field("x", dtype="|S4")), "is not stored as"),
    Case("another-kind", manifest(field("x", kind="string", dtype="|u1")), "is not stored as"),
    Case("other-levels", manifest(field("r", levels=3)), "is not stored as"),
    Case("other-axes", manifest(field("image", axes=3)), "is not stored as"),
    Case(
        "a-field-that-is-not-there",
        manifest(lambda m: m["fields"].append({"name": "g", "kind": "dense", "dtype": "<f4"})),
        "has field 'g'",
    ),
    Case("other-rows", manifest(lambda m: m["parts"]["rows"].__setitem__(1, 2**24)), "rows, the manifest says"),
    # rows
    Case("2**55-rows", huge(2**55), "at most"),
    Case("2**55-rows-and-bytes", manifest(lambda m: m["parts"].update(rows=[3, 2**55], nbytes=[1, 2**62])), "at most"),
    Case(
        "2**40-rows",
        huge(2**40),
        "at most",
        ("open", "looks", "cut", "constant", "batches", "split", "chunks", "verify"),
    ),
    Case(
        "2**40-rows-in-blocks-of-1",
        huge(2**40, block_rows=1),
        "at most",
        ("open", "looks", "constant", "batches", "verify"),
    ),
    Case("2**32-rows", huge(2**32), "", ("open", "looks", "constant", "batches", "chunks", "verify")),
    Case(
        "2**32-rows-in-blocks-of-1", huge(2**32, block_rows=1), "", ("open", "looks", "constant", "batches", "verify")
    ),
    Case("blocks-of-2**62", manifest(lambda m: m.update(block_rows=2**62)), "'block_rows'"),
    # data that lie
    *(
        Case(f"offsets-of-{name}-{what}", array(name, "offsets", change), "do not ascend|decrease|do not begin")
        for name in ("r", "deep", "s", "image", "lists")
        for what, change in (
            ("negative", put(1, -(2**40))),
            ("huge", put(1, 2**62)),
            ("beyond-the-end", put(-1, 2**62)),
            ("before-the-beginning", put(0, -(2**62))),
            ("that-overflow", lambda o: o.__setitem__(slice(0, 2), [-(2**63), 2**63 - 1])),
        )
    ),
    Case("shapes-negative", array("image", "shapes", put(0, -1)), "shape"),
    Case("shapes-of-other-items", array("image", "shapes", put(0, 7)), "shape"),
    Case("shapes-huge", array("image", "shapes", lambda s: s.__setitem__(slice(None), 2**62)), "shape"),
    Case(
        "shapes-that-overflow",
        array("image", "shapes", lambda s: s.__setitem__(slice(None), [2**32] * 4 + [2] * 2)),
        "shape",
    ),
    Case("validity-of-other-bytes", array("o", "valid", put(0, 2), "|u1"), "neither 0 nor 1"),
    Case("validity-of-lists-with-items", array("lists", "valid", put(0, 0), "|u1"), "missing"),
    Case("bools-of-other-bytes", array("b", "values", put(0, 7), "|u1"), "neither 0 nor 1"),
    Case("codes-beyond-the-labels", array("c", "values", put(1, 200), "|u1"), "beyond the 2 labels|beyond its 2"),
    Case(
        "labels-that-are-not-in-the-manifest",
        part(lambda p: p["fields"]["c"].update(labels=["u", EVIL])),
        "the label|labels are not",
    ),
    Case("text-that-is-not-utf8", array("s", "values", put(0, 0xFF), "|u1"), "not UTF-8"),
    Case("a-constant-of-another-type", part(lambda p: p["fields"]["year"].update(constant=1.5)), "is not stored as"),
    Case("a-constant-of-1-MB", part(lambda p: p["fields"]["process"].update(constant="x" * (1 << 20))), "'constant'"),
    Case("years-of-999999999", manifest(field("when", dtype="<M8[999999999Y]")), "is not stored as"),
    # generations, aux
    Case(
        "history-of-another-store",
        lambda p: edit(p / "history/00000001.json", lambda m: m.update(uuid="0" * 32)),
        "of 0000|of store 0000",
    ),
    Case(
        "history-of-another-generation",
        lambda p: edit(p / "history/00000001.json", lambda m: m.update(generation=2)),
        "holds generation 2",
    ),
    Case("history-damaged", lambda p: (p / "history/00000001.json").write_bytes(b"{}"), "checksum"),
    Case("an-aux-that-is-not-there", lambda p: shutil.rmtree(p / "parts/aux"), "is gone"),
    Case("an-aux-of-many-rows", part(lambda p: p.update(rows=0), "aux"), "entries|rows"),
    Case("an-aux-of-another-layer", manifest(lambda m: m["aux"].update(layers=["a"])), "rows|has field"),
    # the cache
    Case("masks-cut-short", forged_masks(lambda m: m[:-1]), ""),
    Case("masks-with-bits-beyond-the-rows", forged_masks(lambda m: m[:-1] + b"\xff"), ""),
    Case("masks-that-are-not-text", forged_masks(lambda m: b"\xff" * len(m)), ""),
    Case("masks-of-another-cut", forged_masks(lambda m: m.replace(b"x", b"y")), ""),
    Case("masks-without-a-line", forged_masks(lambda m: b""), ""),
    Case("masks-are-pipes", forged_masks(lambda m: m, by=fifo), ""),
    Case("masks-are-links", forged_masks(lambda m: m, by=mask_link), ""),
    Case("masks-are-behind-a-link", instead("cache", by=link), ""),
    # what would be run, or written
    Case(
        "an-expression-that-calls",
        manifest(field("x", expression="__import__('os').system('touch /tmp/owned')")),
        "expression|cannot|__import__",
        ("open", "append"),
    ),
    Case(
        "an-expression-of-1-MB",
        manifest(field("x", expression="(" * (1 << 19) + "b")),
        "a cut has at most",
        ("open", "looks", "append"),
    ),
    Case("evil-text", evil_text, "", tuple(name for name in READING)),
    Case("append-through-parts", instead("parts", by=link), "link", ("append",)),
    Case("append-through-history", instead("history", by=link), "link", ("append",)),
    Case("append-through-lock", instead(".lock", by=link), "link|Too many levels", ("append",)),
    Case("append-behind-a-pipe", instead(".lock", by=fifo), "", ("append",)),
]
