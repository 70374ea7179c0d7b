"""A store of many parts, made without syncs and with one commit."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import mmdask as mm
from mmdask.schema import Field, FieldData
from mmdask.store.layer import new_id
from mmdask.store.layer_writer import LayerWriter
from mmdask.store.manifest import Part, dump_manifest, read_manifest
from mmdask.store.system import System

FIELDS = [
    Field.dense("x", "i8"),
    Field.ragged("r", "i4"),
    Field.string("t"),
    Field.category("c", ["even", "odd"]),
    Field.category("k", ["one", "two"]),
]


def row(i):
    """The values of row number i, as lists."""
    return {
        "x": i,
        "r": [i] * (i % 4),
        "t": f"t{i}" * (i % 3),
        "c": ("even", "odd")[i % 2],
        "k": ("one", "two")[i % 5 > 2],
    }


def many_parts(path, lengths):
    """Write parts of these lengths. `c` has other codes in each part; `k` is constant where the rows allow it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(System, "fsync", lambda *_: None)
        patch.setattr(System, "fsync_folder", lambda *_: None)
        with mm.create(path, fields=FIELDS):
            pass
        parts, first = [], 0
        for number, n in enumerate(lengths):
            rows = [row(i) for i in range(first, first + n)]
            first += n
            with LayerWriter(path, new_id()) as w:
                for field in FIELDS:
                    values = [r[field.name] for r in rows]
                    if field.name == "k" and len(set(values)) == 1:
                        w.constant(field, values[0])
                    else:
                        w.field(field).write(data_of(field, values, number % 2))
                layer = w.finish(n)
            parts.append(Part(n, (layer.id,), layer.nbytes))
        manifest = dataclasses.replace(read_manifest(path), parts=tuple(parts))
        (path / "manifest.json").write_bytes(dump_manifest(manifest))


def data_of(field, values, flip):
    if field.kind == "category":
        labels = field.labels[::-1] if flip else field.labels
        return FieldData(np.array([labels.index(v) for v in values], "i4"), labels=labels)
    if field.kind == "dense":
        return FieldData(np.array(values, field.dtype))
    raw = [v.encode() if isinstance(v, str) else v for v in values]
    offsets = np.concatenate([[0], np.cumsum([len(v) for v in raw])]).astype("i8")
    return FieldData(np.array([x for v in raw for x in v], field.dtype), (offsets,))


def lists(field, data):
    """Rows of a `FieldData` as plain Python."""
    if field.kind == "category":
        return [data.labels[c] for c in data.values]
    if field.kind == "dense":
        return data.values.tolist()
    pieces = [data.values[a:b] for a, b in zip(data.offsets[0][:-1], data.offsets[0][1:], strict=True)]
    return [bytes(p).decode() if field.kind == "string" else p.tolist() for p in pieces]
