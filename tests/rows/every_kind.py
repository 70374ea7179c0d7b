"""A store of every kind of field, from plain Python lists and back to them, by loops that know nothing of mmdask."""

from __future__ import annotations

import dataclasses
import math
import random

import numpy as np
import pytest

import mmdask as mm
from mmdask.schema import Field, FieldData
from mmdask.store.layer import new_id
from mmdask.store.layer_writer import LayerWriter
from mmdask.store.manifest import Part, dump_manifest, read_manifest
from mmdask.store.system import System

FIELDS = {
    f.name: f
    for f in [
        Field.dense("d", "i8"),
        Field.dense("d_wide", "<f4", (2, 3)),
        Field.dense("d_time", "<M8[s]"),
        Field.dense("d_optional", "f8", optional=(0,)),
        Field.dense("d_constant", "i4"),
        Field.ragged("r", "i2"),
        Field.ragged("r_wide", "<c8", (2,)),
        Field.ragged("r_optional", "f4", optional=(0, 1)),
        Field.ragged("r_items", "?", optional=(1,)),
        Field.ragged("r_deep", "i4", levels=3),
        Field.ragged("r_deep_optional", "i4", levels=3, optional=(0, 1, 2, 3)),
        Field.shaped("s", "u1", 2, (3,)),
        Field.shaped("s_optional", "i4", 3, optional=(0,)),
        Field.string("t"),
        Field.string("t_optional", optional=(0,)),
        Field.string("t_deep", levels=2, optional=(0, 1, 2)),
        Field.category("c", ["a", "b", "c"]),
        Field.category("c_optional", ["a", "b", "c"], optional=(0,)),
        Field.category("c_constant", ["a", "b", "c"]),
    ]
}


def make_value(rng, field, missing, depth=0):
    """One value of a field, or of what is below some of its levels; a shaped one is its shape and its items."""
    if depth in field.optional and missing and rng.random() < 0.3:
        return None
    if depth < field.levels:
        return [make_value(rng, field, missing, depth + 1) for _ in range(rng.choice([0, 0, 1, 2, 5]))]
    if field.kind == "string":
        return "".join(rng.choice("abé漢\U0001f600") for _ in range(rng.choice([0, 1, 4])))
    if field.kind == "category":
        return rng.choice(field.labels)
    if field.kind == "shaped":
        shape = tuple(rng.choice([0, 1, 2, 3]) for _ in range(field.axes))
        return shape, [items(rng, field) for _ in range(math.prod(shape))]
    return items(rng, field)


def items(rng, field):
    """One item, as nested lists of numbers."""
    flat = np.array([rng.randrange(100) for _ in range(math.prod(field.shape))])
    return flat.astype(field.dtype).reshape(field.shape).tolist()


def make_rows(seed, n, missing):
    """Rows as dicts; where `missing` is False, nothing is."""
    rng = random.Random(seed)
    constant = {"d_constant": rng.randrange(100), "c_constant": rng.choice("abc")}
    return [
        {name: constant[name] if name in constant else make_value(rng, f, missing) for name, f in FIELDS.items()}
        for _ in range(n)
    ]


def data_of(field, values):
    """Values as arrays."""
    offsets, valid, level = [], [], values
    for depth in range(field.levels):
        valid.append(np.array([v is not None for v in level], "?"))
        lists = [v or [] for v in level]
        offsets.append(sums(lists))
        level = [x for v in lists for x in v]
        assert depth < field.levels
    valid.append(np.array([v is not None for v in level], "?"))
    shapes, labels = None, ()
    if field.kind == "string":
        raw = [(v or "").encode() for v in level]
        offsets.append(sums(raw))
        array = np.frombuffer(b"".join(raw), "u1")
    elif field.kind == "shaped":
        pairs = [((0,) * field.axes, []) if v is None else v for v in level]
        shapes = np.array([shape for shape, _ in pairs], "i8").reshape(-1, field.axes)
        offsets.append(sums([flat for _, flat in pairs]))
        array = np.array([x for _, flat in pairs for x in flat], field.dtype).reshape(-1, *field.shape)
    elif field.kind == "category":
        labels = field.labels
        array = np.array([0 if v is None else labels.index(v) for v in level], "i4")
    else:
        zero = np.zeros(field.shape, field.dtype).tolist()
        array = np.array([zero if v is None else v for v in level], field.dtype).reshape(-1, *field.shape)
    return FieldData(array, tuple(offsets), labels, shapes, tuple(valid) if field.optional else ())


def sums(lists):
    ends = [0]
    for v in lists:
        ends.append(ends[-1] + len(v))
    return np.array(ends, "i8")


def lists_of(field, data):
    """Arrays as values; what they hold of missing ones is left out."""
    innermost = len(data.offsets) - (field.kind in ("string", "shaped"))
    valid = [data.valid_at(d) for d in range(innermost + 1)]
    flags = [[True] * data.length(d) if v is None else v.tolist() for d, v in enumerate(valid)]
    if field.kind == "category":
        found = [data.labels[i] for i in data.values.tolist()]
    elif innermost == len(data.offsets):
        found = data.values.tolist()
    else:
        o = data.offsets[-1].tolist()
        pieces = [data.values[a:b] for a, b in zip(o[:-1], o[1:], strict=True)]
        if field.kind == "string":
            found = [bytes(p).decode() for p in pieces]
        else:
            found = [(tuple(s), p.tolist()) for s, p in zip(data.shapes.tolist(), pieces, strict=True)]
    for depth in range(innermost, -1, -1):
        found = [x if ok else None for x, ok in zip(found, flags[depth], strict=True)]
        if depth:
            o = data.offsets[depth - 1].tolist()
            assert o[0] == 0
            assert o[-1] == len(found)
            found = [found[a:b] for a, b in zip(o[:-1], o[1:], strict=True)]
    return found


def make_store(path, parts):
    """Write a store of these parts (lists of rows), each a layer of its own; constants are stored as such."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(System, "fsync", lambda *_: None)
        patch.setattr(System, "fsync_folder", lambda *_: None)
        with mm.create(path, fields=list(FIELDS.values())):
            pass
        stored = []
        for rows in parts:
            with LayerWriter(path, new_id()) as w:
                for name, field in FIELDS.items():
                    values = [row[name] for row in rows]
                    if name.endswith("_constant") and rows:
                        w.constant(field, values[0])
                    else:
                        w.field(field).write(data_of(field, values))
                layer = w.finish(len(rows))
            stored.append(Part(len(rows), (layer.id,), layer.nbytes))
        manifest = dataclasses.replace(read_manifest(path), parts=tuple(stored))
        (path / "manifest.json").write_bytes(dump_manifest(manifest))
    return [row for rows in parts for row in rows]
