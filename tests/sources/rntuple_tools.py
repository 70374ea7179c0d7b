"""RNTuples of any pages, encodings, representations and clusters, which uproot does not write; by the specification."""

from __future__ import annotations

import itertools
import os
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import uproot
import xxhash
from rows_back import rows_back

from mmdask.sources.root.rntuple import TopFields

LEAF, LIST, RECORD, VARIANT, STREAMER = range(5)
BITS = {"bit": 1, "byte": 8, "char": 8, "switch": 96, "real16": 16, "real32": 32, "real64": 64}
TYPES = "bit byte char int8 uint8 int16 uint16 int32 uint32 int64 uint64 real16 real32 real64 index32 index64 switch "
TYPES += "splitint16 splituint16 splitint32 splituint32 splitint64 splituint64 splitreal16 splitreal32 splitreal64 "
TYPES += "splitindex32 splitindex64 real32trunc real32quant"
CODES = {name: code for code, name in enumerate(TYPES.split())}


@dataclass
class F:
    """A field; `parent` and `source` are numbers of fields."""

    name: str
    type: str
    role: int = LEAF
    parent: int | None = None
    repetition: int = 0
    source: int | None = None


@dataclass
class C:
    """A column of a field: its type, and what else may be said of it. `late` columns come with the footer."""

    field: int
    type: str
    nbits: int = 0
    repr: int = 0
    first: int = 0
    range: tuple[float, float] | None = None
    late: bool = False


@dataclass
class Cluster:
    """Rows, and of each column its pages as elements, or None where it is suppressed; the last may be left out."""

    rows: int
    pages: list[list[np.ndarray] | None] = field(default_factory=list)


def bits_of(column: C) -> int:
    if column.nbits:
        return column.nbits
    name = column.type.removeprefix("split")
    return BITS[name] if name in BITS else int(name.lstrip("uintdex"))


def encode(elements: np.ndarray, column: C) -> bytes:
    """A page of elements, not compressed."""
    kind = column.type
    if kind == "bit":
        return np.packbits(elements.astype(bool), bitorder="little").tobytes()
    if kind in ("real32trunc", "real32quant"):
        if kind == "real32trunc":
            words = elements.astype("f4").view("u4") >> (32 - column.nbits)
        else:
            low, high = column.range
            words = np.rint((elements.astype("f8") - low) / (high - low) * (2**column.nbits - 1)).astype("u4")
        each = (words[:, None] >> np.arange(column.nbits, dtype="u4")) & 1
        return np.packbits(each.astype(bool).ravel(), bitorder="little").tobytes()
    if kind == "switch":
        return elements.astype([("index", "<i8"), ("tag", "<i4")]).tobytes()
    size = bits_of(column) // 8
    if "index" in kind:
        words = elements.astype(f"i{size}")
        words = np.diff(words, prepend=words.dtype.type(0)) if kind.startswith("split") else words
    elif "real" in kind:
        words = elements.astype(f"f{size}")
    else:
        words = elements.astype(f"{'u' if 'uint' in kind or kind in ('byte', 'char') else 'i'}{size}")
        if kind.startswith("splitint"):
            words = (words << 1) ^ (words >> (8 * size - 1))
    if kind.startswith("split"):
        return np.ascontiguousarray(words.view("u1").reshape(len(words), size).T).tobytes()
    return words.tobytes()


def compressed(data: bytes, block: int = 2**24 - 1) -> bytes:
    """As ROOT compresses with zlib, in blocks; the data themselves where they do not become fewer."""
    out = b""
    for i in range(0, len(data), block):
        part = data[i : i + block]
        packed = zlib.compress(part)
        out += b"ZL\x08" + struct.pack("<I", len(packed))[:3] + struct.pack("<I", len(part))[:3] + packed
    return out if len(out) < len(data) else data


def text(s: str) -> bytes:
    return struct.pack("<I", len(s.encode())) + s.encode()


def record(payload: bytes) -> bytes:
    return struct.pack("<q", 8 + len(payload)) + payload


def listed(items: list[bytes], tail: bytes = b"") -> bytes:
    payload = struct.pack("<I", len(items)) + b"".join(items) + tail
    return struct.pack("<q", -(8 + len(payload))) + payload


def envelope(kind: int, payload: bytes) -> bytes:
    data = struct.pack("<Q", kind | (8 + len(payload) + 8) << 16) + payload
    return data + struct.pack("<Q", xxhash.xxh3_64_intdigest(data))


def field_record(i: int, f: F) -> bytes:
    flags = (f.repetition > 0) | (f.source is not None) << 1
    data = struct.pack("<IIIHH", 0, 0, i if f.parent is None else f.parent, f.role, flags)
    data += text(f.name) + text(f.type) + text("") + text("")
    data += struct.pack("<Q", f.repetition) if f.repetition else b""
    return record(data + (struct.pack("<I", f.source) if f.source is not None else b""))


def column_record(c: C) -> bytes:
    flags = (c.first > 0) | (c.range is not None) << 1
    data = struct.pack("<HHIHH", CODES[c.type], bits_of(c), c.field, flags, c.repr)
    data += struct.pack("<Q", c.first) if c.first else b""
    return record(data + (struct.pack("<dd", *c.range) if c.range is not None else b""))


def write_rntuple(
    path: os.PathLike[str],
    fields: list[F],
    columns: list[C],
    clusters: list[Cluster],
    *,
    checksums: bool = True,
    compress: bool = True,
    block: int = 2**24 - 1,
    name: str = "nt",
    features: int = 0,
) -> None:
    """Write a ROOT file with an RNTuple `name`: one that uproot wrote, whose anchor then leads to other envelopes."""
    with uproot.recreate(path) as file:
        file.mkrntuple(name, {"x": np.zeros(1)})
    with uproot.open({path: None}) as file:
        old = struct.pack(">HHHHQQQQQQQ", *file[name].all_members.values())
    data = bytearray(Path(path).read_bytes())
    anchor = data.index(old)

    def put(blob: bytes) -> int:
        data.extend(blob)
        return len(data) - len(blob)

    written: dict[bytes, int] = {}

    def locator(blob: bytes, checksum: bool = False) -> bytes:
        whole = blob + (struct.pack("<Q", xxhash.xxh3_64_intdigest(blob)) if checksum else b"")
        if whole not in written:  # ROOT, too, writes equal pages once
            written[whole] = put(whole)
        return struct.pack("<iQ", len(blob), written[whole])

    first_late = next((i for i, c in enumerate(columns) if c.late), len(columns))
    head = struct.pack("<Q", features) + text(name) + text("") + text("a test")
    head += listed([field_record(i, f) for i, f in enumerate(fields)])
    head += listed([column_record(c) for c in columns[:first_late]]) + listed([]) + listed([])
    header = envelope(1, head)
    checksum = header[-8:]

    elements = [0] * len(columns)
    summaries, nested = [], []
    rows = 0
    for cluster in clusters:
        summaries.append(record(struct.pack("<QQ", rows, cluster.rows)))
        rows += cluster.rows
        lists = []
        for i, pages in enumerate(cluster.pages):
            if pages is None:
                lists.append(listed([], struct.pack("<q", -1)))
                continue
            items = []
            for page in pages:
                blob = encode(page, columns[i])
                blob = compressed(blob, block) if compress else blob
                items.append(struct.pack("<i", -len(page) if checksums else len(page)) + locator(blob, checksums))
            lists.append(listed(items, struct.pack("<qI", elements[i], 101)))
            elements[i] += sum(map(len, pages))
        nested.append(listed(lists))
    page_list = envelope(3, checksum + listed(summaries) + listed(nested))
    link = struct.pack("<Q", len(page_list)) + locator(page_list)
    group = record(struct.pack("<QQI", 0, rows, len(clusters)) + link)
    late = listed([]) + listed([column_record(c) for c in columns[first_late:]]) + listed([]) + listed([])
    footer = envelope(2, struct.pack("<Q", 0) + checksum + record(late) + listed([group]))

    where = put(header), len(header), len(header)
    where += put(footer), len(footer), len(footer)
    new = struct.pack(">HHHHQQQQQQQ", 1, 0, 0, 1, *where, 2**30)
    data[anchor : anchor + len(new) + 8] = new + struct.pack(">Q", xxhash.xxh3_64_intdigest(new))
    struct.pack_into(">i", data, 12, len(data))
    with open(path, "wb") as out:
        out.write(data)


def paged(elements: np.ndarray, *sizes: int) -> list[np.ndarray]:
    """Elements as pages of some sizes, the last with all that are left."""
    ends = [0, *itertools.accumulate(sizes), len(elements)]
    return [elements[a:b] for a, b in itertools.pairwise(ends)]


def opened(path, name="nt"):
    return TopFields(uproot.open({path: None}, array_cache=None, object_cache=None)[name], name)


def rows_of(column, start, stop, limit=2**40, names=None):
    """Rows of some fields of a column in plain Python, run by run, and where runs end."""
    wanted = [f for f in column.fields if names is None or f.name in names]
    rows = {f.name: [] for f in wanted}
    ends = []
    at = start
    for end in column.ends(start, stop, limit, wanted):
        assert at < end <= stop
        for f, data in zip(wanted, column.read(at, end, wanted), strict=True):
            assert len(data) == end - at
            rows[f.name] += rows_back(f, data)
        ends.append(end)
        at = end
    assert at == stop or start == stop
    return rows, ends


def described(tree):
    """Each column: its fields with their types, or why it has none."""
    return {
        name: column if isinstance(column, str) else {f.name: f.describe() for f in column.fields}
        for name, column in tree.columns.items()
    }


ENDS = np.array([2, 2, 3, 5])
ITEMS = np.arange(5) * 1.5


def one_field(tmp_path, fields, columns, pages, rows=4):
    write_rntuple(tmp_path / "a.root", fields, columns, [Cluster(rows, [paged(np.asarray(p), 1) for p in pages])])
    return opened(tmp_path / "a.root")


def chars(*texts):
    data = [t.encode() for t in texts]
    return np.cumsum([len(d) for d in data]), np.frombuffer(b"".join(data), "u1")
