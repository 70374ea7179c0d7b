"""Make tests/format/valid and invalid: ``python -m tests.format.make_examples``.

Run it to add an example, never to make a failing test pass: the files are what other programs are tested with. Each is
a document as it is on disk. Beside an invalid one stands what is said of it: the error, with ``{path}`` for the path of
the document and ``{version}`` for that of mmdask, and whether the JSON schema refuses it, too.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema

from mmdask import __version__
from mmdask.errors import MmdaskError
from mmdask.store.arrays.npy import checksum
from mmdask.store.layer import parse_layer
from mmdask.store.manifest import parse_manifest

HERE = Path(__file__).parent
LAYER_ID = "part-1"
Document = dict[str, Any]
Change = Callable[[Document], Any]

MANIFEST: Document = {
    "format": "mmdask",
    "version": 1,
    "requires": ["shaped", "optional"],
    "uuid": "0123456789abcdef0123456789abcdef",
    "generation": 3,
    "writer": "an example",
    "time": "2026-11-21T08:30:00Z",
    "action": "append 1 part, 2 rows",
    "block_rows": 1024,
    "fields": [
        {"name": "met", "kind": "dense", "dtype": "<f4", "unit": "GeV", "doc": "missing energy", "optional": [0]},
        {"name": "vector", "kind": "dense", "dtype": "<f8", "shape": [2, 3]},
        {"name": "jets_pt", "kind": "ragged", "dtype": "<f4", "levels": 1, "record": "jets"},
        {"name": "jets_hits", "kind": "ragged", "dtype": "<i2", "levels": 2, "record": "jets"},
        {"name": "image", "kind": "shaped", "dtype": "|u1", "axes": 2, "shape": [3]},
        {"name": "author", "kind": "string", "dtype": "|u1"},
        {"name": "tags", "kind": "string", "dtype": "|u1", "levels": 1, "optional": [0, 1]},
        {"name": "process", "kind": "category", "dtype": "<i4", "labels": ["ttbb", "ttH"]},
        {"name": "ht", "kind": "dense", "dtype": "<f8", "expression": "sum(jets_pt)", "attrs": {"n": [1, None, 0.5]}},
    ],
    "parts": {"rows": [3, 2], "nbytes": [1000, 800], "layers": [["part-0"], ["part-1", "part-1-ht"]]},
    "aux": {"fields": [{"name": "edges", "kind": "dense", "dtype": "<f8", "shape": [3]}], "layers": ["aux-0"]},
    "attrs": {"title": "an example", "nested": {"list": [1, 2.5, True, None]}},
}


def _array(file: str, dtype: str, shape: list[int], *checksums: str) -> Document:
    return {"file": file, "dtype": dtype, "shape": shape, "checksums": list(checksums or ("0123456789abcdef",))}


PART: Document = {
    "format": "mmdask-part",
    "version": 1,
    "id": LAYER_ID,
    "writer": "an example",
    "rows": 2,
    "fields": {
        "met": {"kind": "dense", "values": 0, "valid": [1]},
        "vector": {"kind": "dense", "values": 2},
        "jets_pt": {"kind": "ragged", "values": 4, "offsets": [3]},
        "jets_hits": {"kind": "ragged", "values": 6, "offsets": [3, 5]},
        "image": {"kind": "shaped", "values": 9, "offsets": [7], "shapes": 8},
        "author": {"kind": "string", "values": 10, "offsets": [7]},
        "tags": {"kind": "string", "values": 10, "offsets": [3, 5], "valid": [None, 11]},
        "process": {"kind": "category", "values": 12, "labels": ["ttH", "ttbb"]},
        "year": {"kind": "dense", "constant": 2016},
        "xsec": {"kind": "dense", "constant": 0.5},
        "mc": {"kind": "dense", "constant": True},
        "campaign": {"kind": "category", "constant": "mc16a"},
    },
    "arrays": [
        _array("0-met.npy", "<f4", [2]),
        _array("1-met.valid.npy", "|b1", [2]),
        _array("2-vector.npy", "<f8", [2, 2, 3]),
        _array("3-jets.offsets.npy", "<i8", [3]),
        _array("4-jets_pt.npy", "<f4", [3]),
        _array("5-jets_hits.offsets1.npy", "<i8", [4]),
        _array("6-jets_hits.npy", "<i2", [5]),
        _array("7-image.offsets.npy", "<i8", [3]),
        _array("8-image.shapes.npy", "<i8", [2, 2]),
        _array("9-image.npy", "|u1", [4, 3]),
        _array("10-author.npy", "|u1", [4]),
        _array("11-tags.valid1.npy", "|b1", [3]),
        _array("12-process.npy", "|u1", [2]),
    ],
    "source": {
        "uri": "files/ttH.root",
        "tree": "nominal",
        "start": 0,
        "stop": 2,
        "size": 1000,
        "mtime_ns": 1795219200000000000,
        "fingerprint": "0123",
        "skipped": [["m_vector", "of a type that is not read"]],
    },
}


def document(text: Document | str | bytes) -> bytes:
    """A document with its first line; text or bytes are what stands behind it."""
    if isinstance(text, dict):
        text = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in text.items()) + "\n}\n"
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return b'{"checksum": "xxh3_64:' + checksum(raw).encode() + b'",\n' + raw


def changed(base: Document, change: Change) -> bytes:
    copy = deepcopy(base)
    change(copy)
    return document(copy)


def to(*path: Any) -> Change:
    """Give the value at the end of a path of keys: ``to("fields", 0, "name", "x")``."""

    def change(d: Any) -> None:
        for key in path[:-2]:
            d = d[key]
        d[path[-2]] = path[-1]

    return change


def without(*path: Any) -> Change:
    """Remove what is at the end of a path of keys."""

    def change(d: Any) -> None:
        for key in path[:-1]:
            d = d[key]
        del d[path[-1]]

    return change


def nested(depth: int) -> Any:
    value: Any = 1
    for i in range(depth):
        value = [value] if i % 2 else {"a": value}
    return value


def both(*changes: Change) -> Change:
    return lambda d: [change(d) for change in changes]


def merged_of(layer_id: str, fields: list[list[str]]) -> Document:
    return {"fields": fields, "parts": [{"rows": 2, "layers": [{"id": layer_id, "fields": 0}]}]}


def with_grains(*shape: int, dtype: str = "<i8") -> Change:
    """An array of what the grains of two fields hold."""
    return both(
        lambda d: d["arrays"].append(_array("13-grains.npy", dtype, list(shape))),
        to("grains", 13),
        to("fields", "met", "bounds", {"low": 0.5, "high": 30, "entry": 0}),
        to("fields", "jets_hits", "bounds", {"low": -5, "high": 7, "items": [1, 2], "entry": 1}),
    )


def with_bounds(field: str, **bounds: Any) -> Change:
    return to("fields", field, "bounds", bounds)


def of_zarr(**changes: Any) -> Change:
    """A store whose arrays are zarr."""
    form = {"codec": "lz4", "chunk_rows": 2**18, "shards": 1}
    return both(
        lambda d: d["requires"].append("zarr"),
        to("zarr", {k: v for k, v in {**form, **changes}.items() if v is not None}),
    )


def zarr_array(file: str = "0-met", shape: tuple[int, ...] = (2,), **changes: Any) -> Change:
    """The first array as one of zarr: two rows in two chunks, in an object each."""
    zarr = {"chunk": 1, "shards": 1, "codec": "lz4", "sizes": [20, 20], "hashes": ["0123456789abcdef"] * 2, **changes}
    hashes = ["0123456789abcdef"] * 2
    return to("arrays", 0, {"file": file, "dtype": "<f4", "shape": list(shape), "checksums": hashes, "zarr": zarr})


VALID_MANIFESTS: dict[str, Change] = {
    "everything": lambda d: None,
    "least": lambda d: [d.pop(k) for k in ("writer", "time", "action", "aux")] and d.update(fields=d["fields"][1:2]),
    "1.7-unknown-keys": both(to("color", {"a": [1]}), to("fields", 0, "color", "red"), to("parts", "color", [])),
    "1.9-attrs-64-deep": to("attrs", "a", nested(63)),
    "1.5-attrs-of-64-bits": to("attrs", {"least": -(2**64) + 1, "most": 2**64 - 1, "float": 1e308}),
    "2.7-names": both(
        to("fields", 0, "name", "../../etc/passwd"), to("fields", 1, "name", "ε, <b>jets</b> \U0001f600")
    ),
    "2.13-no-parts": to("parts", {"rows": [], "nbytes": [], "layers": []}),
    "2.13-a-part-without-rows": to("parts", "rows", 0, 0),
    "2.14-rows": to("parts", "rows", [2**40 - 5, 5]),
    "2.18-no-time": both(to("time", ""), to("action", "")),
    "4.3-multiples-of-units": to("fields", 1, "dtype", "<m8[25us]"),
    "9.2-zarr": of_zarr(),
    "9.2-rounded-in-shards": of_zarr(codec="zstd", chunk_rows=2**15, shards=8, keepbits=10),
}
VALID_PARTS: dict[str, Change] = {
    "everything": lambda d: None,
    "constants-only": both(to("arrays", []), lambda d: d.update(fields={"year": d["fields"]["year"]})),
    "1.7-unknown-keys": both(to("color", {"a": [1]}), to("fields", "met", "color", 1), to("arrays", 0, "color", 1)),
    "3.5-rows-of-constants": both(
        to("arrays", []), to("rows", 2**32), lambda d: d.update(fields={"year": d["fields"]["year"]})
    ),
    "3.6-lengths-of-0": both(to("arrays", 2, "shape", [2, 0, 2**40]), to("arrays", 2, "checksums", [])),
    "3.6-several-extents": both(
        to("arrays", 2, "shape", [2, 2**17, 3]), to("arrays", 2, "checksums", ["0123456789abcdef"] * 2)
    ),
    "3.10-constants": both(
        to("fields", "year", "constant", 2**64 - 1),
        to("fields", "xsec", "constant", -(2**63)),
        to("fields", "mc", "constant", False),
    ),
    "3.12-no-source": without("source"),
    "3.12-of-a-cut": both(
        to("source", "stop", 20),
        to("source", "cut", "any(jets_pt > 30e3)"),
        to("source", "aliases", [{"name": "lead", "expression": "max(jets_pt)", "optional": [0]}]),
        to("source", "weights", [{"weight": "w", "sum": -0.5, "sum2": 20}, {"weight": "(w * xsec)", "sum": None}]),
    ),
    "3.13-constants-of-what-was-merged": both(
        without("source"),
        to(
            "merged",
            {
                "fields": [["process", "year"]],
                "parts": [
                    {"rows": 2, "layers": [{"id": "a", "fields": 0, "constants": {"process": "ttH", "year": 1}}]}
                ],
            },
        ),
    ),
    "3.13-merged": both(
        without("source"),
        to(
            "merged",
            {
                "fields": [["met", "vector"], ["process"]],
                "parts": [
                    {"rows": 2, "layers": [{"id": "a", "fields": 0, "source": {"uri": "x"}}, {"id": "b", "fields": 1}]},
                    {"rows": 0, "layers": []},
                ],
            },
        ),
    ),
    "3.14-bounds": both(
        with_bounds("met", low="-inf", high=1.5, nan=True),
        with_bounds("vector", low=-0.5, high=0.5, nan=False),
        with_bounds("jets_pt", items=[0, 3]),
        with_bounds("jets_hits", low=-(2**15), high=2**15 - 1, items=[1, 2]),
        with_bounds("process", low=0, high=1),
    ),
    "3.14-bounds-of-times": both(to("arrays", 0, "dtype", "<M8[ns]"), with_bounds("met", low=-(2**63) + 1, high=0)),
    "3.14-counts": both(
        with_bounds("met", low="-inf", high=1.5, nan=True, nans=1, infs=1), with_bounds("vector", nan=True, nans=6)
    ),
    "3.12-notes-and-padded": both(
        to("source", "notes", [["met", "int32 in the file"]]),
        to("source", "padded", [{"field": "met", "rows": 1, "items": 3}]),
    ),
    "3.12-hash": to("source", "hash", "0123456789abcdef" * 2),
    "3.15-grains": with_grains(2, 1, 5),
    "3.15-grains-of-many-rows": both(
        lambda d: d.update(rows=2**16 + 1, fields={"x": {"kind": "dense", "values": 0}}),
        to("fields", "x", "bounds", {"entry": 0}),
        to("arrays", [_array("0-x.npy", "|u1", [2**16 + 1]), _array("1-grains.npy", "<i8", [1, 2, 5])]),
        to("grains", 1),
    ),
    "9.3-zarr": zarr_array(),
    "9.3-shards": zarr_array(shards=2, codec="zstd", sizes=[76], hashes=["0123456789abcdef"]),
}  # fmt: skip

FIELD = "fields", 0
INVALID_MANIFESTS: dict[str, Change | bytes] = {
    "9.2-no-form": both(of_zarr(), without("zarr")),
    "9.2-a-codec-that-is-not-known": of_zarr(codec="gzip"),
    "9.2-chunks-of-another-length": of_zarr(chunk_rows=1000),
    "9.2-no-shards": of_zarr(shards=0),
    "9.2-too-many-bits": of_zarr(keepbits=53),
    "1.1-not-an-object": document("1]"),
    "1.1-not-json": document("nothing\n"),
    "1.1-not-utf8": document(b'"format": "\xff"}'),
    "1.8-a-surrogate-in-bytes": document('"format": "\ud800"}'),
    "1.2-no-checksum": json.dumps(MANIFEST).encode(),
    "1.2-another-checksum": document(MANIFEST).replace(b'"xxh3_64:', b'"xxh3_64:0')[:33] + document(MANIFEST)[32:],
    "1.2-changed-behind-it": document(MANIFEST).replace(b"ttbb", b"ttbc"),
    "1.2-cut-short": document(MANIFEST)[:-3],
    "1.2-empty": b"",
    "1.4-the-same-key-twice": document('"format": "mmdask", "format": "mmdask"}'),
    "1.4-nan": to("attrs", "a", float("nan")),
    "1.4-infinity": to("attrs", "a", [float("-inf")]),
    "1.5-a-fraction": to("generation", 3.0),
    "1.5-true-is-no-integer": to("generation", True),
    "1.5-negative": to("parts", "rows", 0, -1),
    "1.5-too-large": to("parts", "nbytes", 0, 2**63),
    "1.5-true-in-a-list": to("parts", "rows", 0, True),
    "1.5-attrs-of-more-than-64-bits": to("attrs", "a", 2**64),
    "1.6-more-than-a-float-holds": document('"format": "mmdask", "attrs": {"a": 1e999}}'),
    "1.8-a-lone-surrogate": to(*FIELD, "doc", "\ud800"),
    "1.8-a-lone-surrogate-in-a-key": to("attrs", {"\udc00": 1}),
    "1.9-attrs-too-deep": to("attrs", "a", nested(64)),
    "1.9-attrs-of-a-field-too-deep": to(*FIELD, "attrs", {"a": nested(64)}),
    "2.1-another-format": to("format", "zarr"),
    "2.1-no-format": without("format"),
    "2.1-a-later-version": to("version", 2),
    "2.1-version-0": to("version", 0),
    "2.1-a-text-as-version": to("version", "1"),
    "2.2-a-feature-that-is-not-known": to("requires", ["shaped", "compressed"]),
    "2.2-requires-is-no-list": to("requires", "shaped"),
    "2.3-uuid-too-short": to("uuid", "0123"),
    "2.3-uuid-in-capitals": to("uuid", "0123456789ABCDEF" * 2),
    "2.4-generation-0": to("generation", 0),
    "2.5-block-rows-0": to("block_rows", 0),
    "2.5-block-rows-of-too-many": to("block_rows", 2**21),
    "2.5-block-rows-no-power-of-two": to("block_rows", 1000),
    "2.6-fields-are-no-list": to("fields", {}),
    "2.6-a-field-is-no-object": to("fields", 0, "met"),
    "2.6-no-such-kind": to(*FIELD, "kind", "sparse"),
    "2.6-no-kind": without(*FIELD, "kind"),
    "2.7-no-name": without(*FIELD, "name"),
    "2.7-an-empty-name": to(*FIELD, "name", ""),
    "2.7-a-long-name": to(*FIELD, "name", "x" * 256),
    "2.7-a-name-with-an-escape": to(*FIELD, "name", "met\x1b[2J"),
    "2.7-a-name-with-a-line-break": to(*FIELD, "name", "met\n"),
    "2.7-two-of-the-same-name": to(*FIELD, "name", "vector"),
    "2.8-ragged-without-levels": without("fields", 2, "levels"),
    "2.8-too-many-levels": to("fields", 2, "levels", 17),
    "2.8-a-dense-field-with-levels": to(*FIELD, "levels", 1),
    "2.8-shaped-without-axes": without("fields", 4, "axes"),
    "2.8-too-many-axes": to("fields", 4, "axes", 17),
    "2.8-a-dense-field-with-axes": to(*FIELD, "axes", 1),
    "2.6-a-string-of-another-dtype": to("fields", 5, "dtype", "<f4"),
    "2.6-a-category-of-another-dtype": to("fields", 7, "dtype", "|u1"),
    "2.8-a-string-with-a-shape": to("fields", 5, "shape", [2]),
    "2.8-a-negative-length": to("fields", 1, "shape", [-1]),
    "2.8-too-many-lengths": to("fields", 1, "shape", [1] * 17),
    "2.9-labels-of-a-dense-field": to(*FIELD, "labels", ["a"]),
    "2.9-a-label-twice": to("fields", 7, "labels", ["a", "a"]),
    "2.9-a-long-label": to("fields", 7, "labels", ["a" * 1025]),
    "2.9-a-label-is-no-text": to("fields", 7, "labels", [1]),
    "2.10-deeper-than-its-lists": to(*FIELD, "optional", [1]),
    "2.10-not-ascending": to("fields", 6, "optional", [1, 0]),
    "2.10-twice": to("fields", 6, "optional", [0, 0]),
    "2.11-a-name-without-its-record": to("fields", 2, "record", "je"),
    "2.13-lists-of-other-lengths": to("parts", "rows", [3]),
    "2.13-no-layers": to("parts", "layers", 0, []),
    "2.13-layers-are-no-list": to("parts", "layers", 0, "part-0"),
    "2.13-no-parts": without("parts"),
    "2.14-too-many-rows": to("parts", "rows", [2**40, 1]),
    "2.14-too-many-rows-in-a-part": to("parts", "rows", [2**55, 1]),
    "2.16-aux-without-layers": without("aux", "layers"),
    "2.16-aux-with-no-layer": to("aux", "layers", []),
    "2.16-an-aux-field-that-is-none": to("aux", "fields", 0, "kind", "sparse"),
    "2.17-writer-is-no-text": to("writer", 1),
    "2.17-attrs-are-no-object": to("attrs", [1]),
    "2.17-no-attrs": without("attrs"),
    "2.18-a-time-of-another-form": to("time", "21 Nov 2026"),
    "3.1-an-id-with-a-slash": to("parts", "layers", 0, ["../part-0"]),
    "3.1-an-id-that-is-absolute": to("parts", "layers", 0, ["/etc"]),
    "3.1-an-id-of-dots": to("parts", "layers", 0, [".."]),
    "3.1-an-id-with-a-line-break": to("parts", "layers", 0, ["a\nb"]),
    "3.1-an-id-in-capitals": to("parts", "layers", 0, ["Part"]),
    "3.1-a-long-id": to("parts", "layers", 0, ["a" * 81]),
    "3.1-an-id-of-an-aux-layer": to("aux", "layers", ["../x"]),
    "4.3-object": to(*FIELD, "dtype", "|O"),
    "4.3-objects-in-a-structure": to(*FIELD, "dtype", "f8,O"),
    "4.3-structured": to(*FIELD, "dtype", [["a", "<f8"]]),
    "4.3-big-endian": to(*FIELD, "dtype", ">f4"),
    "4.3-void": to(*FIELD, "dtype", "|V2147483647"),
    "4.3-unicode": to(*FIELD, "dtype", "<U3"),
    "4.3-a-float-of-128-bits": to(*FIELD, "dtype", "<f16"),
    "4.3-bytes-of-no-length": to(*FIELD, "dtype", "|S0"),
    "4.3-digits-of-another-script": to(*FIELD, "dtype", "|S\u0663"),
    "4.3-a-unit-of-0": to(*FIELD, "dtype", "<M8[0s]"),
}
MET = "fields", "met"
INVALID_PARTS: dict[str, Change | bytes] = {
    "1.2-changed-behind-it": document(PART).replace(b"2016", b"2017"),
    "1.4-the-same-field-twice": document('"fields": {"x": {}, "x": {}}}'),
    "3.4-another-format": to("format", "mmdask"),
    "3.4-a-later-version": to("version", 2),
    "3.4-the-id-of-another-folder": to("id", "part-2"),
    "3.4-no-rows": without("rows"),
    "3.4-writer-is-no-text": to("writer", None),
    "3.5-rows-of-constants": both(
        to("arrays", []), to("rows", 2**32 + 1), lambda d: d.update(fields={"year": d["fields"]["year"]})
    ),
    "3.6-arrays-are-no-list": to("arrays", {}),
    "3.6-no-lengths": to("arrays", 0, "shape", []),
    "3.6-a-negative-length": to("arrays", 0, "shape", [-2]),
    "3.6-too-many-lengths": to("arrays", 2, "shape", [2] + [1] * 17),
    "3.6-more-than-63-bits-of-bytes": to("arrays", 2, "shape", [2**32, 2**32]),
    "3.6-more-than-63-bits-beside-a-0": to("arrays", 2, "shape", [2, 2**62, 0]),
    "3.6-too-few-checksums": to("arrays", 2, "checksums", []),
    "3.6-too-many-checksums": to("arrays", 0, "checksums", ["0123456789abcdef"] * 2),
    "3.6-a-checksum-of-another-form": to("arrays", 0, "checksums", ["0123456789ABCDEF"]),
    "3.7-a-path": to("arrays", 0, "file", "../0-met.npy"),
    "3.7-an-absolute-path": to("arrays", 0, "file", "/etc/passwd"),
    "3.7-another-ending": to("arrays", 0, "file", "0-met.pkl"),
    "3.7-no-number": to("arrays", 0, "file", "met.npy"),
    "3.7-digits-of-another-script": to("arrays", 0, "file", "\u0663-met.npy"),
    "3.7-a-zero-byte": to("arrays", 0, "file", "0-met\x00.npy"),
    "3.7-a-file-twice": to("arrays", 1, "file", "0-met.npy"),
    "3.8-a-number-of-no-array": to(*MET, "values", 13),
    "3.8-a-negative-number": to("fields", "jets_pt", "offsets", [-1]),
    "3.8-true-as-a-number": to(*MET, "values", True),
    "3.8-no-values": without(*MET, "values"),
    "3.8-no-such-kind": to(*MET, "kind", "sparse"),
    "3.8-a-shapes-array-of-a-dense-field": to(*MET, "shapes", 8),
    "3.8-shaped-without-shapes": without("fields", "image", "shapes"),
    "3.8-labels-of-a-dense-field": to(*MET, "labels", ["a"]),
    "3.8-a-long-label": to("fields", "process", "labels", ["a" * 1025, "b"]),
    "3.8-offsets-of-a-dense-field": to(*MET, "offsets", [3]),
    "3.8-ragged-without-offsets": without("fields", "jets_pt", "offsets"),
    "3.8-shaped-with-two-offsets": to("fields", "image", "offsets", [3, 5]),
    "3.8-too-many-offsets": to("fields", "jets_hits", "offsets", [3] * 17),
    "3.8-validity-below-the-items": to(*MET, "valid", [1, 1]),
    "3.8-validity-is-no-list": to(*MET, "valid", 1),
    "3.9-a-name-that-is-none": lambda d: d["fields"].update({"a\nb": d["fields"]["met"]}),
    "3.9-values-of-other-rows": to("arrays", 0, "shape", [3]),
    "3.9-offsets-of-other-rows": to("arrays", 3, "shape", [4]),
    "3.9-offsets-of-no-rows": to("arrays", 3, "shape", [0]),
    "3.9-offsets-of-another-dtype": to("arrays", 3, "dtype", "<u8"),
    "3.9-offsets-of-two-axes": to("arrays", 3, "shape", [3, 1]),
    "3.9-shapes-of-other-rows": to("arrays", 8, "shape", [3, 2]),
    "3.9-shapes-of-another-dtype": to("arrays", 8, "dtype", "<i4"),
    "3.9-validity-of-another-length": to("arrays", 11, "shape", [4]),
    "3.9-validity-of-another-dtype": to("arrays", 1, "dtype", "|u1"),
    "3.9-text-of-another-dtype": to("arrays", 10, "dtype", "|i1"),
    "3.9-codes-of-another-dtype": to("arrays", 12, "dtype", "<i8"),
    "3.10-a-ragged-constant": to("fields", "jets_pt", {"kind": "ragged", "constant": 1}),
    "3.10-a-text-of-a-dense-field": to("fields", "year", "constant", "2016"),
    "3.10-a-number-of-a-category": to("fields", "campaign", "constant", 16),
    "3.10-null": to("fields", "year", "constant", None),
    "3.10-a-list": to("fields", "year", "constant", [1]),
    "3.10-more-than-64-bits": to("fields", "year", "constant", 2**64),
    "3.12-source-is-no-object": to("source", "a.root"),
    "3.12-a-source-without-uri": without("source", "uri"),
    "3.12-skipped-is-no-list-of-pairs": to("source", "skipped", [["m"]]),
    "3.12-a-cut-that-is-no-text": to("source", "cut", ["n > 4"]),
    "3.12-an-alias-without-expression": to("source", "aliases", [{"name": "ht"}]),
    "3.12-a-sum-that-is-text": to("source", "weights", [{"weight": "w", "sum": "nan", "sum2": None}]),
    "3.12-a-sum-that-is-too-large": to("source", "weights", [{"weight": "w", "sum": 10**309}]),
    "3.13-a-constant-that-is-a-list": both(
        without("source"),
        to(
            "merged",
            {"fields": [[]], "parts": [{"rows": 2, "layers": [{"id": "a", "fields": 0, "constants": {"x": [1]}}]}]},
        ),
    ),
    "3.13-merged-beside-source": to("merged", {"fields": [[]], "parts": [{"rows": 2, "layers": []}]}),
    "3.13-merged-of-other-rows": both(
        without("source"), to("merged", {"fields": [], "parts": [{"rows": 1, "layers": []}]})
    ),
    "3.13-merged-with-a-number-of-no-list": both(without("source"), to("merged", merged_of("a", []))),
    "3.13-merged-with-a-path": both(without("source"), to("merged", merged_of("../a", [[]]))),
    "3.14-low-above-high": with_bounds("met", low=2.5, high=1.5),
    "3.14-low-alone": with_bounds("met", low=2.5),
    "3.14-beyond-the-dtype": with_bounds("jets_hits", low=-(2**15) - 1, high=1, items=[1, 2]),
    "3.14-beyond-the-labels": with_bounds("process", low=0, high=2),
    "3.14-a-real-of-an-integer": with_bounds("jets_hits", low=1.0, high=2.0, items=[1, 2]),
    "3.14-nan-as-a-bound": with_bounds("met", low="nan", high="nan"),
    "3.14-nan-of-an-integer": with_bounds("jets_hits", nan=True, items=[1, 2]),
    "3.14-no-items-of-lists": with_bounds("jets_pt", low=0.0, high=1.0),
    "3.14-items-that-offsets-cannot-have": with_bounds("jets_pt", items=[2, 3]),
    "3.14-items-of-a-dense-field": with_bounds("met", items=[0, 1]),
    "3.14-bounds-of-text": with_bounds("author", low=0, high=1),
    "3.14-bounds-are-no-object": to("fields", "met", "bounds", [0.0, 1.0]),
    "3.14-nans-without-nan": with_bounds("met", low=0.5, high=1.5, nans=1),
    "3.14-infs-between-finite-bounds": with_bounds("met", low=0.5, high=1.5, infs=1),
    "3.14-more-nans-than-values": with_bounds("met", low=0.5, high=1.5, nan=True, nans=3),
    "3.14-no-nans-counted": with_bounds("met", low=0.5, high=1.5, nan=True, nans=0),
    "3.12-a-note-alone": to("source", "notes", ["met"]),
    "3.12-a-hash-that-is-no-text": to("source", "hash", 17),
    "3.12-padded-without-items": to("source", "padded", [{"field": "met", "rows": 1}]),
    "3.14-an-entry-without-grains": with_bounds("met", low=0.0, high=1.0, entry=0),
    "3.15-grains-of-other-rows": with_grains(2, 2, 5),
    "3.15-grains-of-another-dtype": with_grains(2, 1, 5, dtype="<f8"),
    "3.15-grains-of-too-few-fields": with_grains(1, 1, 5),
    "3.15-a-number-of-no-array": to("grains", 13),
    "4.3-object": to("arrays", 0, "dtype", "|O"),
    "9.3-a-path": zarr_array("../met"),
    "9.3-a-codec-that-is-not-known": zarr_array(codec="pickle"),
    "9.3-a-chunk-of-nothing": zarr_array(chunk=0),
    "9.3-a-chunk-that-is-too-long": zarr_array(chunk=2**20 + 1),
    "9.3-a-chunk-of-too-many-bytes": both(
        to("arrays", 2, "shape", [2, 2**20, 3]),
        to("arrays", 2, "checksums", []),
        to(
            "arrays",
            2,
            "zarr",
            {"chunk": 2**10, "shards": 1, "codec": "lz4", "sizes": [1], "hashes": ["0123456789abcdef"]},
        ),
        to("arrays", 2, "file", "2-vector"),
    ),
    "9.3-too-few-objects": zarr_array(sizes=[20], hashes=["0123456789abcdef"]),
    "9.3-sizes-without-hashes": zarr_array(hashes=[]),
    "9.3-an-object-larger-than-its-data": zarr_array(sizes=[20, 2**40]),
    "9.3-checksums-of-other-chunks": zarr_array(chunk=2, sizes=[20], hashes=["0123456789abcdef"]),
    "9.3-zarr-is-no-object": both(zarr_array(), to("arrays", 0, "zarr", "lz4")),
}  # fmt: skip


@cache
def schema(kind: str) -> jsonschema.Draft202012Validator:
    """The validator of ``"manifest"`` or ``"part"``."""
    file = resources.files("mmdask.store") / "schemas" / f"{kind}.schema.json"
    return jsonschema.Draft202012Validator(json.loads(file.read_text(encoding="utf-8")))


def parse(kind: str, data: bytes) -> object:
    """Read a document as the store in ``{path}`` would be."""
    if kind == "manifest":
        return parse_manifest(data, "{path}")
    return parse_layer(data, LAYER_ID, "{folder}")


def verdict(kind: str, data: bytes) -> str:
    """What is said of an invalid document, as it stands in the file beside it."""
    try:
        parse(kind, data)
    except MmdaskError as error:
        said = f"{type(error).__name__}: {error}".replace("{folder}/part.json", "{path}")
        said = re.sub("(not JSON within the limits): .*", r"\1", said.replace(__version__, "{version}"))
    else:
        raise AssertionError("this is valid")
    try:
        refused = not schema(kind).is_valid(json.loads(data))
    except ValueError:
        return f"{said}\nschema: not JSON\n"
    return f"{said}\nschema: {'refuses it, too' if refused else 'cannot see that'}\n"


def examples() -> Iterator[tuple[bool, str, str, bytes]]:
    """Whether it is valid, the kind of document, the name, and the bytes of every example."""
    for valid, kind, base, changes in (
        (True, "manifest", MANIFEST, VALID_MANIFESTS),
        (True, "part", PART, VALID_PARTS),
        (False, "manifest", MANIFEST, INVALID_MANIFESTS),
        (False, "part", PART, INVALID_PARTS),
    ):
        for name, change in changes.items():
            yield valid, kind, name, change if isinstance(change, bytes) else changed(base, change)


def main() -> None:
    for folder in ("valid", "invalid"):
        shutil.rmtree(HERE / folder, ignore_errors=True)
    for valid, kind, name, data in examples():
        folder = HERE / ("valid" if valid else "invalid") / kind
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_bytes(data)
        if valid:
            parse(kind, data)
            schema(kind).validate(json.loads(data))
        else:
            (folder / f"{name}.txt").write_text(verdict(kind, data), encoding="utf-8")


if __name__ == "__main__":
    main()
