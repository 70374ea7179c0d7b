"""Fields of every kind with missing values, as plain Python lists and as what a store is given.

The lists are the truth of the tests: rows of numbers, labels, text, nested lists or arrays, with None anywhere that the
field may have it.
"""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

import mmdask as mm
from mmdask.schema import Field, FieldData

LABELS = ("ttH", "ttbb", "é")


def nothing(dtype):
    """What stands where a value is missing."""
    kind = np.dtype(dtype).kind
    if kind in "mM":
        return np.array("NaT", dtype)[()]
    return {"f": np.nan, "c": np.nan, "S": b""}.get(kind, 0)


def pack(field, rows):
    """Rows as `FieldData`."""
    offsets, valid = [], []
    elements = list(rows)
    for depth in range(field.levels + 1):
        flags = np.array([e is not None for e in elements], bool)
        valid.append(None if flags.all() else flags)
        if depth == field.levels:
            break
        lists = [[] if e is None else list(e) for e in elements]
        offsets.append(np.concatenate([[0], np.cumsum([len(x) for x in lists])]).astype("i8"))
        elements = [x for items in lists for x in items]
    valid = tuple(valid) if any(v is not None for v in valid) else ()
    if field.kind == "string":
        raw = [b"" if e is None else e.encode() for e in elements]
        offsets.append(np.concatenate([[0], np.cumsum([len(x) for x in raw])]).astype("i8"))
        return FieldData(np.frombuffer(b"".join(raw), "u1"), tuple(offsets), valid=valid)
    if field.kind == "category":
        codes = [0 if e is None else field.labels.index(e) for e in elements]
        return FieldData(np.array(codes, "i4"), labels=field.labels, valid=valid)
    if field.kind == "shaped":
        arrays = [np.empty((0,) * field.axes + field.shape, field.dtype) if e is None else e for e in elements]
        shapes = np.array([a.shape[: field.axes] for a in arrays], "i8").reshape(len(arrays), field.axes)
        offsets = np.concatenate([[0], np.cumsum(shapes.prod(axis=1))]).astype("i8")
        flat = [a.reshape(-1, *field.shape) for a in arrays]
        values = np.concatenate([np.empty((0, *field.shape), field.dtype), *flat])
        return FieldData(values, (offsets,), shapes=shapes, valid=valid)
    values = np.empty((len(elements), *field.shape), field.dtype)
    for i, e in enumerate(elements):
        values[i] = nothing(field.dtype) if e is None else e
    return FieldData(values, tuple(offsets), valid=valid)


FIELDS = {
    f.name: f
    for f in [
        Field.dense("met", "f4", optional=(0,)),
        Field.dense("run", "u8", optional=(0,)),
        Field.dense("flag", "?", optional=(0,)),
        Field.dense("when", "M8[s]", optional=(0,)),
        Field.dense("tag", "S3", optional=(0,)),
        Field.dense("wave", "c8", optional=(0,)),
        Field.dense("half", "f2"),
        Field.dense("small", "f2", optional=(0,)),
        Field.dense("took", "m8[ms]"),
        Field.dense("p3", "f8", (3,), optional=(0,)),
        Field.category("process", LABELS, optional=(0,)),
        Field.ragged("pt", "f4", optional=(0, 1)),
        Field.ragged("ids", "i2", optional=(1,)),
        Field.ragged("ok", "?", optional=(0,)),
        Field.ragged("tags", "S2"),
        Field.ragged("times", "M8[ns]", optional=(1,)),
        Field.ragged("points", "f8", (2,), optional=(0, 1)),
        Field.ragged("deep", "i4", levels=2, optional=(0, 1, 2)),
        Field.string("name", optional=(0,)),
        Field.string("words", levels=1, optional=(0, 1)),
        Field.string("lines", levels=2),
        Field.shaped("wave1", "i2", 1),
        Field.shaped("image", "u1", 2, optional=(0,)),
        Field.shaped("colour", "f4", 2, (3,)),
    ]
}

FLOATS = st.sampled_from([0.0, -1.5, 2.0, 41.5, float("nan"), float("inf")])
TEXTS = st.sampled_from(["", "a", "bc", "é", "日本", "x" * 9])
ELEMENTS = {
    "f": FLOATS,
    "c": st.sampled_from([0j, 1 - 2j, 3.5 + 0j]),
    "u": st.integers(0, 9),
    "i": st.integers(-3, 9),
    "b": st.booleans(),
    "M": st.integers(0, 10**9).map(lambda n: np.datetime64(n, "s")),
    "m": st.integers(-5, 10**6).map(lambda n: np.timedelta64(n, "ms")),
    "S": st.sampled_from([b"", b"a", b"bc"]),
}


def rows_of(field):
    """A strategy for one row of a field."""
    if field.kind == "string":
        element = TEXTS
    elif field.kind == "category":
        element = st.sampled_from(LABELS)
    elif field.kind == "shaped":
        element = st.tuples(*[st.integers(0, 3)] * field.axes, st.integers(0, 255)).map(lambda s: image(field, s))
    else:
        element = ELEMENTS[field.dtype.kind]
        for n in reversed(field.shape):
            element = st.lists(element, min_size=n, max_size=n)
    for depth in range(field.levels, -1, -1):
        if depth in field.optional:
            element = st.one_of(element, element, st.none())
        if depth:
            element = st.lists(element, max_size=3)
    return element


def image(field, shape_and_seed):
    *shape, seed = shape_and_seed
    full = (*shape, *field.shape)
    return np.random.default_rng(seed).integers(0, 200, full).astype(field.dtype)


def tables(fields=None, max_rows=8):
    """A strategy for rows of fields: a mapping of names to equally long lists."""
    fields = FIELDS if fields is None else {name: FIELDS[name] for name in fields}
    return st.integers(0, max_rows).flatmap(
        lambda n: st.fixed_dictionaries(
            {name: st.lists(rows_of(f), min_size=n, max_size=n) for name, f in fields.items()}
        )
    )


def write(path, table, cuts=()):
    """A store with a part for each run of rows between `cuts`."""
    n = len(next(iter(table.values())))
    fields = [FIELDS[name] for name in table]
    bounds = sorted({0, n, *(min(c, n) for c in cuts)})
    with mm.create(path, fields=fields):
        pass
    for a, b in zip(bounds[:-1], bounds[1:], strict=True):
        with mm.append(path) as w:
            w.extend({name: pack(FIELDS[name], rows[a:b]) for name, rows in table.items()})
    return path


def plain(x):
    """Anything that a dataset hands out, as Python lists, numbers, text and None."""
    if x is None or x is np.ma.masked:
        return None
    if isinstance(x, list | tuple):
        return [plain(v) for v in x]
    if isinstance(x, np.ma.MaskedArray):
        # A row of a fixed shape is missing as a whole.
        return [None if v is np.ma.masked or (np.ma.getmaskarray(v).all() and np.size(v)) else plain(v) for v in x]
    if isinstance(x, np.ndarray):
        return [plain(v) for v in x] if x.ndim else plain(x[()])
    if isinstance(x, np.datetime64):
        return ("time", x.astype("M8[ns]").astype("i8").item())
    if isinstance(x, np.timedelta64):
        return ("delta", x.astype("m8[ns]").astype("i8").item())
    if isinstance(x, np.generic):
        x = x.item()
    if hasattr(x, "to_list"):
        import awkward as ak

        if ak.fields(x) or isinstance(x, ak.Record):
            return {name: plain(x[name]) for name in ak.fields(x)}
        return [plain(v) for v in x]
    if isinstance(x, float | complex) and x != x:
        return "nan"
    return x


def truth(field, row):
    """A row of a table in the form of `plain`, in the precision of its field."""
    if row is None:
        return None
    if isinstance(row, np.ndarray):
        return plain(row)
    if isinstance(row, list):
        return [truth(field, x) for x in row]
    if field.kind in ("string", "category") or isinstance(row, bytes | str):
        return row
    return plain(np.array(row, field.dtype)[()])


def of(field, rows):
    return [truth(field, row) for row in rows]
