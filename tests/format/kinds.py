"""A small store with every kind of field, and its rows as plain Python, for tests of the format and of hostile stores.

Rows are lists, texts, numbers and None; `to_data` packs them into arrays and `to_rows` takes them apart again, both by
the words of docs/format.md alone.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from mmdask.schema import Field, FieldData, Schema
from mmdask.store.commit import add_parts, commit
from mmdask.store.layer import Source
from mmdask.store.layer_writer import LayerWriter
from mmdask.store.manifest import Part

NAN = float("nan")
N = None

#: fields and the rows of one part; another part has them in reverse order
ROWS: list[tuple[Field, list[Any]]] = [
    (Field.dense("b", "?"), [True, False, True, False]),
    (Field.dense("i1", "i1"), [-128, 0, 1, 127]),
    (Field.dense("i2", "i2"), [-(2**15), 0, 1, 2**15 - 1]),
    (Field.dense("i4", "i4"), [-(2**31), 0, 1, 2**31 - 1]),
    (Field.dense("i8", "i8"), [-(2**63), 0, 2**53 + 1, 2**63 - 1]),
    (Field.dense("u1", "u1"), [0, 1, 2, 255]),
    (Field.dense("u2", "u2"), [0, 1, 2, 2**16 - 1]),
    (Field.dense("u4", "u4"), [0, 1, 2, 2**32 - 1]),
    (Field.dense("u8", "u8"), [0, 1, 2**53 + 1, 2**64 - 1]),
    (Field.dense("f2", "f2"), [0.5, -1.5, 0.0, 65504.0]),
    (Field.dense("f4", "f4", unit="GeV", doc="a float", attrs={"bins": [0, 1.5]}), [0.5, -1.5, 0.0, 2.0**100]),
    (Field.dense("f8", "f8"), [0.5, -1.5, 0.1, 1e300]),
    (Field.dense("c8", "c8"), [1j, 0j, -1 + 0j, 0.5 - 2j]),
    (Field.dense("c16", "c16"), [1j, 0j, -1 + 0j, 0.1 - 2j]),
    (Field.dense("bytes", "S3"), [b"a", b"", b"abc", b"\xff"]),
    (Field.dense("time", "M8[ns]"), [0, 1, -1, 1795219200000000000]),
    (Field.dense("day", "M8[D]"), [0, 1, -1, 20000]),
    (Field.dense("delta", "m8[10ms]"), [0, 1, -1, 10**12]),
    (Field.dense("vector", "f4", (3,)), [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [0.0, 0.0, 0.0], [7.0, 8.0, 9.0]]),
    (Field.dense("matrix", "i2", (2, 2)), [[[1, 2], [3, 4]], [[5, 6], [7, 8]], [[0, 0], [0, 0]], [[9, 9], [9, 9]]]),
    (Field.dense("nothing", "f4", (0, 2)), [[], [], [], []]),
    (Field.ragged("r", "f4"), [[0.5], [], [1.5, 2.5], []]),
    (Field.ragged("r_bool", "?"), [[True], [], [False, True], []]),
    (Field.ragged("r_items", "i2", (2,)), [[[1, 2]], [], [[3, 4], [5, 6]], []]),
    (Field.ragged("r_deep", "i4", levels=2), [[[1], []], [], [[2, 3]], [[]]]),
    (Field.ragged("r_deeper", "i4", levels=3), [[[[1], []]], [], [[[2, 3]], [[]]], [[]]]),
    (
        Field.shaped("image", "u1", 2, (3,)),
        [[[[1, 2, 3]]], [], [[[4, 5, 6], [7, 8, 9]]], [[[1, 1, 1]], [[2, 2, 2]]]],
    ),
    (Field.shaped("spectrum", "f8", 1), [[0.5, 1.5], [], [2.5], []]),
    (Field.string("text"), ["é", "", "line\nbreak", "\U0001f600"]),
    (Field.string("texts", levels=1), [["ü", "a"], [], [""], []]),
    (Field.string("texts_deep", levels=2), [[["ü", "a"], []], [], [[""]], []]),
    (Field.category("label", ["x", "y", "z"]), ["x", "y", "x", "z"]),
    (Field.dense("o_float", "f4", optional=(0,)), [0.5, N, NAN, N]),
    (Field.dense("o_int", "i4", optional=(0,)), [5, N, 0, N]),
    (Field.dense("o_vector", "f4", (2,), optional=(0,)), [[1.0, 2.0], N, [3.0, 4.0], N]),
    (Field.ragged("o_lists", "f4", optional=(0,)), [[0.5], N, [], N]),
    (Field.ragged("o_items", "i4", optional=(1,)), [[1, N], [], [N], []]),
    (Field.ragged("o_both", "f4", levels=2, optional=(0, 1, 2)), [[[1.0, N], N], N, [], [N, []]]),
    (Field.string("o_text", optional=(0,)), ["a", N, "", N]),
    (Field.string("o_texts", levels=1, optional=(0, 1)), [["a", N], N, [], [N]]),
    (Field.shaped("o_image", "u1", 2, optional=(0,)), [[[1, 2]], N, [[3], [4]], N]),
    (Field.category("o_label", ["x", "y"], optional=(0,)), ["x", N, "y", N]),
    (Field.ragged("jets_pt", "f4", record="jets"), [[50.0, 40.0], [], [30.0], []]),
    (Field.ragged("jets_hits", "i2", levels=2, record="jets"), [[[1, 2], []], [], [[3]], []]),
    (Field.string("jets_tag", levels=1, record="jets"), [["b", "c"], [], ["l"], []]),
    (Field.dense("muon_p4_pt", "f8", record="muon"), [1.0, 2.0, 3.0, 4.0]),
    (Field.string("muon_author", record="muon"), ["a", "b", "c", "d"]),
    (Field.dense("ht", "f4", expression="sum(jets_pt)"), [90.0, 0.0, 30.0, 0.0]),
]
#: fields with one value for all rows of a part: those of the first part and of the second
CONSTANTS: list[tuple[Field, tuple[Any, Any]]] = [
    (Field.category("process", ["ttbb", "ttH"]), ("ttbb", "ttH")),
    (Field.dense("year", "i8"), (2016, 2017)),
    (Field.dense("xsec", "f8"), (0.5, 0.25)),
    (Field.dense("mc", "?"), (True, False)),
]
#: arrays that are not per row, each as one row of a field
AUX: list[tuple[Field, Any]] = [
    (Field.dense("edges", "f8", (3,)), [0.0, 1.5, 3.0]),
    (Field.string("classes", levels=1), ["signal", "background"]),
    (Field.ragged("table", "i4", levels=2), [[1], [], [2, 3]]),
    (Field.dense("scale", "f4"), 2.5),
]
SCHEMA = Schema([*(f for f, _ in ROWS), *(f for f, _ in CONSTANTS)])
N_ROWS = 4


def to_data(field: Field, rows: list[Any]) -> FieldData:
    """Rows as arrays."""
    elements, offsets, valid, shapes = list(rows), [], [], None
    for depth in range(field.n_offsets):
        if depth <= field.levels:
            valid.append(_valid(elements))
        offsets.append(np.cumsum([0, *(_count(field, depth, e) for e in elements)], dtype="i8"))
        if field.kind == "shaped":
            shapes = np.array([_shape(e, field.axes) for e in elements], "i8").reshape(-1, field.axes)
        elements = [item for e in elements for item in _items(field, depth, e)]
    if field.kind not in ("string", "shaped"):
        valid.append(_valid(elements))
    known = valid if any(v is not None for v in valid) else []
    if field.kind == "category":
        codes = [0 if e is None else field.labels.index(e) for e in elements]
        return FieldData(np.array(codes, "i4"), labels=field.labels, valid=tuple(known))
    blank = np.full(field.shape, "NaT" if field.dtype.kind in "mM" else NAN if field.dtype.kind in "fc" else 0)
    blank = np.full(field.shape, b"") if field.dtype.kind == "S" else blank
    values = np.zeros((len(elements), *field.shape), field.dtype)
    for i, e in enumerate(elements):
        values[i] = blank if e is None else np.asarray(e, field.dtype).reshape(field.shape)
    return FieldData(values, tuple(offsets), (), shapes, tuple(known))


def _valid(elements: list[Any]) -> np.ndarray | None:
    return np.array([e is not None for e in elements], bool) if any(e is None for e in elements) else None


def _items(field: Field, depth: int, e: Any) -> list[Any]:
    if e is None:
        return []
    if field.kind == "string" and depth == field.levels:
        return list(e.encode())
    if field.kind == "shaped":
        for _ in range(field.axes - 1):
            e = [item for line in e for item in line]
    return list(e)


def _count(field: Field, depth: int, e: Any) -> int:
    return len(_items(field, depth, e))


def _shape(e: Any, axes: int) -> list[int]:
    lengths: list[int] = []
    for _ in range(axes):
        lengths.append(len(e) if e is not None else 0)
        e = e[0] if e else None
    return lengths


def to_rows(field: Field, data: FieldData) -> list[Any]:
    """Arrays as rows."""
    depths = len(data.offsets)
    if field.kind == "category":
        elements: list[Any] = [data.labels[i] for i in data.values.tolist()]
    elif field.dtype.kind in "mM":
        elements = data.values.view("i8").tolist()
    else:
        elements = data.values.tolist()
    if field.kind not in ("string", "shaped"):
        elements = _masked(elements, data.valid_at(depths))
    for depth in reversed(range(depths)):
        o = data.offsets[depth].tolist()
        elements = [elements[a:b] for a, b in zip(o, o[1:], strict=False)]
        if field.kind == "string" and depth == field.levels:
            elements = [bytes(e).decode() for e in elements]
        if field.kind == "shaped":
            assert data.shapes is not None
            elements = [_nested(e, s) for e, s in zip(elements, data.shapes.tolist(), strict=True)]
        elements = _masked(elements, data.valid_at(depth))
    return elements


def _nested(items: list[Any], shape: list[int]) -> list[Any]:
    for length in shape[:0:-1]:
        items = [items[i : i + length] for i in range(0, len(items), length)] if length else []
    return items


def _masked(elements: list[Any], valid: np.ndarray | None) -> list[Any]:
    return elements if valid is None else [e if ok else None for e, ok in zip(elements, valid.tolist(), strict=True)]


def rows_of(part: int) -> dict[str, list[Any]]:
    """The rows of a part, by field."""
    rows = {f.name: values if part == 0 else values[::-1] for f, values in ROWS}
    return {**rows, **{f.name: [values[part]] * N_ROWS for f, values in CONSTANTS}}


def write_part(path: str | os.PathLike[str], part: int, layer_id: str) -> Part:
    """One layer with every field."""
    with LayerWriter(path, layer_id) as w:
        for field, _ in ROWS:
            w.field(field).write(to_data(field, rows_of(part)[field.name]))
        for field, values in CONSTANTS:
            w.constant(field, values[part])
        source = Source(f"file{part}.root", "nominal", 0, N_ROWS, 1000, 1, "0" * 32, (("m", "not a number"),))
        layer = w.finish(source=source)
    return Part(layer.rows, (layer.id,), layer.nbytes)


def write_store(path: str | os.PathLike[str]) -> Path:
    """A store of two parts of every field, with aux and attrs, and two generations."""
    path = Path(path)
    path.mkdir()
    with LayerWriter(path, "aux-1") as w:
        for field, value in AUX:
            w.field(field).write(to_data(field, [value]))
        w.finish()
    aux = Schema(f for f, _ in AUX)

    def create(_: Any) -> Any:
        from dataclasses import replace

        manifest = add_parts(None, SCHEMA, [write_part(path, 0, "part-0")], block_rows=16)
        return replace(manifest, attrs={"title": "every kind", "n": [1, 2.5, None]}, aux=aux, aux_layers=("aux-1",))

    commit(path, create, action="create 1 part, 4 rows")
    part = write_part(path, 1, "part-1")
    commit(path, lambda m: add_parts(m, SCHEMA, [part], block_rows=16), action="append 1 part, 4 rows")
    return path
