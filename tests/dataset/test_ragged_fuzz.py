"""Random programs on ragged fields, against a model of plain Python lists and numpy scalars.

A program is a random store, a random selection and a chain of operators, reductions, slices, masks, `pad` and
`persist`; after each step the lazy result is compared with the model: dtype, values, what is missing, lengths of
chunks, and slices of it. ``MMDASK_EXAMPLES=5000`` runs more of them.
"""

from __future__ import annotations

import operator
import os
import random
import warnings

import awkward as ak
import dask.array as da
import kinds
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mmdask as mm
from mmdask.schema import Field

EXAMPLES = int(os.environ.get("MMDASK_EXAMPLES", "40"))
DTYPES = ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16", "M8[s]", "m8[ms]"]
REALS = [0.0, -0.0, 1.0, -1.5, 2.0, 3.25, 40.5, 1024.0]


class Model:
    """What a lazy result should be: rows are lists in lists of numpy scalars or arrays, None where one is missing."""

    def __init__(self, dtype, levels, rows, shape=()):
        self.dtype, self.levels, self.rows, self.shape = np.dtype(dtype), levels, rows, shape

    def __repr__(self):
        return f"Model({self.dtype}, {self.levels}, {self.shape}, {plain(self.rows)})"


class Mismatch(Exception):
    """Counts differ."""


def plain(x):
    if x is None:
        return None
    if isinstance(x, list):
        return [plain(v) for v in x]
    return kinds.plain(x)


def number(rng, dtype):
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return np.bool_(rng.random() < 0.5)
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return dtype.type(rng.choice([0, 1, 2, 3, 7, info.min, info.max, info.max - 1] + [-2] * (dtype.kind == "i")))
    if dtype.kind == "f":
        return dtype.type(rng.choice([*REALS, *REALS, np.nan, np.inf, -np.inf]))
    if dtype.kind == "c":
        return dtype.type(complex(rng.choice(REALS), rng.choice(REALS)))
    return np.array(rng.choice([0, 1, -5, 10**6, "NaT"]), dtype)[()]


def leaf(rng, dtype, shape):
    if not shape:
        return number(rng, dtype)
    return np.array([number(rng, dtype) for _ in range(int(np.prod(shape)))], dtype).reshape(shape)


def row(rng, counts, levels, dtype, shape, optional, depth=0):
    """A row of a structure: `counts` are numbers of items, in lists."""
    if depth in optional and rng.random() < 0.25:
        return None
    if depth == levels:
        return leaf(rng, dtype, shape)
    inner = counts if isinstance(counts, list) else [0] * counts
    return [row(rng, c, levels, dtype, shape, optional, depth + 1) for c in inner]


def structure(rng, levels):
    """Lists in lists, the innermost of which are numbers of items."""
    n = rng.choice([0, 0, 1, 2, 3])
    return n if levels == 1 else [structure(rng, levels - 1) for _ in range(n)]


def subset(rng, depths):
    return tuple(d for d in depths if rng.random() < 0.5)


def store(rng, path):
    """A store with parts, some of them empty, twice in other chunks, and the model of each of its fields."""
    n = rng.choice([0, 1, 2, 3, 5, 8, 13])
    deep = [structure(rng, 3) for _ in range(n)]
    fields, models = [], {}
    for name, levels, shape in [
        ("a", 1, ()),
        ("b", 1, ()),
        ("s", 1, (2,)),
        ("c", 2, ()),
        ("d", 2, ()),
        ("e", 3, ()),
        ("x", 0, ()),
        ("y", 0, ()),
        ("p", 0, (2,)),
    ]:
        dtype = np.dtype(rng.choice(DTYPES[:12] * 2 + DTYPES))
        optional = subset(rng, range(levels + 1)) if rng.random() < 0.6 else ()
        make = Field.ragged if levels else Field.dense
        f = make(name, dtype, shape, **({"levels": levels} if levels else {}), optional=optional)
        constant = rng.random() < 0.1
        rows = [row(rng, deep[i], levels, dtype, shape, optional) for i in range(n)]
        if constant and n:
            rows = [rows[0]] * n
        fields.append(f)
        models[name] = Model(dtype, levels, rows, shape)
    cuts = sorted(rng.choice(range(n + 1)) for _ in range(rng.choice([0, 1, 3])))
    with mm.create(path, fields=fields):
        pass
    for a, b in zip([0, *cuts], [*cuts, n], strict=True):
        with mm.append(path) as w:
            w.extend({f.name: kinds.pack(f, models[f.name].rows[a:b]) for f in fields})
    opened = [mm.open(path, chunks=rng.choice([1, 2, 4, 64])) for _ in range(2)]
    for name in ("b", "d"):
        m = models[name]
        if m.dtype.kind in "biuf" and m.dtype.itemsize > 2:
            opened = [ds.assign(**{f"{name}2": name}) for ds in opened]
            models[f"{name}2"] = m
    return selected(rng, opened, models)


def selected(rng, opened, models):
    keep = list(range(len(opened[0])))
    for _ in range(rng.choice([0, 1, 1, 2])):
        if rng.random() < 0.5:
            s = slice(rng.choice([None, 0, 1, -3]), rng.choice([None, 0, 2, -1, 9]), rng.choice([None, 1, 2, 3]))
            opened, keep = [ds[s] for ds in opened], keep[s]
        else:
            k = rng.choice([2, 3, 50])
            x = [models["x"].rows[i] for i in keep]
            if models["x"].dtype.kind not in "iu":
                continue
            opened = [ds[ds.cut(f"x % {k} == 0")] for ds in opened]
            keep = [i for i, v in zip(keep, x, strict=True) if v is not None and int(v) % k == 0]
    return opened, {name: Model(m.dtype, m.levels, [m.rows[i] for i in keep], m.shape) for name, m in models.items()}


# Comparison ---------------------------------------------------------------------------------------------------------


def near(found, expected, close):
    if isinstance(expected, list):
        return (
            isinstance(found, list)
            and len(found) == len(expected)
            and all(map(near, found, expected, [close] * len(found)))
        )
    if close and isinstance(expected, float | complex) and isinstance(found, float | complex):
        return found == expected or abs(found - expected) <= 1e-9 * max(abs(expected), 1)
    return found == expected and type(found) is type(expected)


def leaves_dtype(array):
    layout = array.layout
    while not isinstance(layout, ak.contents.NumpyArray):
        layout = layout.content
    return layout.data.dtype


def compare(lazy, model, close=False):
    """The lazy result is the model."""
    expected = plain(model.rows)
    assert lazy.dtype == model.dtype, (lazy.dtype, model.dtype, lazy)
    if model.levels:
        assert isinstance(lazy, mm.Ragged)
        assert lazy.field.levels == model.levels
        assert lazy.field.shape == model.shape
        assert len(lazy) == len(model.rows) == sum(lazy.chunks[0])
        value = lazy.compute(scheduler="sync")
        assert leaves_dtype(value) == model.dtype
        assert near(kinds.plain(value), expected, close), (kinds.plain(value), expected)
        assert near(kinds.plain(list(lazy)), expected, close)
        return
    assert isinstance(lazy, da.Array)
    assert lazy.shape == (len(model.rows), *model.shape)
    value = lazy.compute(scheduler="sync")
    assert value.dtype == model.dtype
    assert value.shape == lazy.shape
    assert isinstance(value, np.ma.MaskedArray) == isinstance(lazy._meta, np.ma.MaskedArray)
    assert near(kinds.plain(value), expected, close), (kinds.plain(value), expected)
    blocks = [np.shape(lazy.blocks[i].compute(scheduler="sync"))[0] for i in range(lazy.numblocks[0])]
    assert tuple(blocks) == lazy.chunks[0]


def compare_parts(lazy, model, rng):
    """What else a ragged result says of itself is so, too."""
    n = len(model.rows)
    i8 = np.dtype("i8")
    optional = any(r is None for r in model.rows)
    counts = [None if r is None else np.int64(len(r)) for r in model.rows]
    compare(lazy.counts, Model(i8, 0, counts))
    assert lazy.valid.compute(scheduler="sync").tolist() == [r is not None for r in model.rows]
    offsets = lazy.offsets
    assert offsets.compute(scheduler="sync").tolist() == np.cumsum([0, *[c or 0 for c in counts]]).tolist()
    assert offsets.shape == (n + 1,)
    assert offsets.dtype == i8
    if model.levels == 1:
        items = [x for r in model.rows if r is not None for x in r]
        values = lazy.values
        found = values.compute(scheduler="sync")
        assert values.dtype == found.dtype == model.dtype
        assert values.shape == found.shape == (len(items), *model.shape)
        if not optional:
            assert near(kinds.plain(found), plain(items), True)
        assert tuple(np.shape(b.compute(scheduler="sync"))[0] for b in values.blocks) == values.chunks[0]
    wanted = slice(rng.choice([None, 0, 1, -2]), rng.choice([None, 1, 3, -1]), rng.choice([None, 1, 2]))
    compare(lazy[wanted], Model(model.dtype, model.levels, model.rows[wanted], model.shape), True)
    if n:
        i = rng.choice(range(-n, n))
        assert near(kinds.plain(lazy[i]), plain(model.rows[i]), True)


# Steps of a program -------------------------------------------------------------------------------------------------


def elementwise(ufunc, x, y):
    """The model of a ufunc of two, one of which may be a number; numpy says the dtype."""
    models = [m for m in (x, y) if isinstance(m, Model)]
    levels = max(m.levels for m in models)

    a, b = x, y
    ndim = max(len(m.shape) for m in models)

    def wide(m):
        return np.zeros((1,) * (1 + ndim - len(m.shape)) + m.shape, m.dtype) if isinstance(m, Model) else m

    result = np.asarray(ufunc(wide(a), wide(b)))
    n = len(models[0].rows)
    found = []
    places = []
    for i in range(n):
        one = a.rows[i] if isinstance(a, Model) else a
        two = b.rows[i] if isinstance(b, Model) else b
        places.append(missing_pairs(one, two, levels, 0, found, a, b))
    values = []
    for one, two in found:
        p = np.asarray(one)[None] if isinstance(a, Model) else one
        q = np.asarray(two)[None] if isinstance(b, Model) else two
        if isinstance(a, Model) and ndim > len(a.shape):
            p = p.reshape((1,) * (1 + ndim - len(a.shape)) + a.shape)
        if isinstance(b, Model) and ndim > len(b.shape):
            q = q.reshape((1,) * (1 + ndim - len(b.shape)) + b.shape)
        values.append(np.asarray(ufunc(p, q))[0])

    def filled(place):
        if isinstance(place, list):
            return [filled(p) for p in place]
        return None if place is None else values[place]

    return Model(result.dtype, levels, [filled(p) for p in places], result.shape[1:])


def missing_pairs(x, y, levels, depth, found, a, b):
    """Leaves that meet, in `found`; the result has their places.

    What is missing on either side is missing, and a leaf that meets a list is one for each of its items.
    """
    x_list = isinstance(a, Model) and depth < a.levels
    y_list = isinstance(b, Model) and depth < b.levels
    if (x_list and x is None) or (y_list and y is None):
        return None
    if x_list and y_list:
        if len(x) != len(y):
            raise Mismatch
        return [missing_pairs(p, q, levels, depth + 1, found, a, b) for p, q in zip(x, y, strict=True)]
    if x_list:
        return [missing_pairs(p, y, levels, depth + 1, found, a, b) for p in x]
    if y_list:
        return [missing_pairs(x, q, levels, depth + 1, found, a, b) for q in y]
    if x is None or y is None:
        return None
    found.append((x, y))
    return len(found) - 1


def mapped(f, rows, levels):
    """A function of the innermost lists, None where one is missing; at level 0 of leaves."""
    if levels == 0:
        return f(rows)
    return None if rows is None else [mapped(f, r, levels - 1) for r in rows]


BINARY = [
    np.add,
    np.subtract,
    np.multiply,
    np.true_divide,
    np.floor_divide,
    np.remainder,
    np.fmod,
    np.equal,
    np.not_equal,
    np.less,
    np.less_equal,
    np.greater,
    np.greater_equal,
    np.minimum,
    np.maximum,
    np.bitwise_and,
    np.bitwise_or,
    np.bitwise_xor,
    np.logical_and,
    np.logical_or,
    np.copysign,
    np.left_shift,
]
OPERATORS = {
    np.add: operator.add,
    np.subtract: operator.sub,
    np.multiply: operator.mul,
    np.true_divide: operator.truediv,
    np.floor_divide: operator.floordiv,
    np.remainder: operator.mod,
    np.equal: operator.eq,
    np.not_equal: operator.ne,
    np.less: operator.lt,
    np.less_equal: operator.le,
    np.greater: operator.gt,
    np.greater_equal: operator.ge,
    np.bitwise_and: operator.and_,
    np.bitwise_or: operator.or_,
    np.bitwise_xor: operator.xor,
}
UNARY = [
    np.negative,
    np.absolute,
    np.sqrt,
    np.isfinite,
    np.isnan,
    np.invert,
    np.logical_not,
    np.floor,
    np.sign,
    np.square,
    np.positive,
]


def refused(call):
    """Whether something is refused, by an error of ours."""
    with pytest.raises(mm.errors.MmdaskError):
        call()


def apply_two(rng, lazy, model, pool):
    kind = rng.choice(["python", "numpy", "pool", "pool", "dense", "single"])
    if kind == "python":
        other = other_model = rng.choice([0, 1, 2, -1, 3, 200, 70000, 2**40, 0.5, -2.0, True, False, 1j, float("nan")])
    elif kind == "numpy":
        other = other_model = number(rng, rng.choice(DTYPES))
    elif kind == "single":
        other_model = number(rng, rng.choice(DTYPES[:12]))
        other = da.from_array(np.array(other_model), chunks=())
    else:
        other, other_model = rng.choice([p for p in pool if (p[1].levels == 0) == (kind == "dense")] or pool)
    ufunc = rng.choice(BINARY)
    pair = (model, other_model)
    lazies = (lazy, other)
    if rng.random() < 0.4:
        pair, lazies = pair[::-1], lazies[::-1]
    if not any(isinstance(x, mm.Ragged) for x in lazies):
        return None
    call = ufunc if ufunc not in OPERATORS or rng.random() < 0.4 else OPERATORS[ufunc]
    sample = [np.zeros((1, *m.shape), m.dtype) if isinstance(m, Model) else m for m in pair]
    try:
        dtype = np.asarray(
            ufunc(*[s if s is p else s.reshape(-1)[:1] for s, p in zip(sample, pair, strict=True)])
        ).dtype
    except (TypeError, ValueError, OverflowError):
        dtype = None
    if dtype is None or dtype.kind not in "?biufcmM" or dtype.itemsize > 16 or dtype.char in "gG":
        refused(lambda: call(*lazies))
        return None
    try:
        expected = elementwise(ufunc, *pair)
    except Mismatch:
        with pytest.raises(mm.errors.ExpressionError):
            call(*lazies).compute(scheduler="sync")
        return None
    return call(*lazies), expected


def where(rng, lazy, model, pool):
    """numpy.where: what it does not choose may be missing."""
    masks = [p for p in pool if p[1].levels <= model.levels and not p[1].shape and p[1].dtype.kind in "biuf"]
    others = [p for p in pool if p[1].levels <= model.levels and p[1].shape == model.shape]
    if not masks or model.shape:
        return None
    (mask, condition), (other, values) = rng.choice(masks), rng.choice(others)
    mask = mask > 0
    condition = elementwise(np.greater, condition, 0)
    if rng.random() < 0.3:
        other = values = rng.choice([0, 1])
    try:
        dtype = np.where(
            True, np.zeros(1, model.dtype), values if isinstance(values, int) else np.zeros(1, values.dtype)
        ).dtype
    except TypeError:
        refused(lambda: np.where(mask, lazy, other))
        return None

    def one(c, x, y, depth, depths):
        lists = [depth < d for d in depths]
        given = (c, x, y)
        if any(v is None for v, is_list in zip(given, lists, strict=True) if is_list):
            return None
        lengths = {len(v) for v, is_list in zip(given, lists, strict=True) if is_list}
        if len(lengths) > 1:
            raise Mismatch
        if lengths:
            inner = [v if is_list else [v] * max(lengths) for v, is_list in zip(given, lists, strict=True)]
            return [one(*three, depth + 1, depths) for three in zip(*inner, strict=True)]
        chosen = None if c is None else x if c else y
        return None if chosen is None else np.asarray(chosen).astype(dtype)[()]

    depths = (condition.levels, model.levels, getattr(values, "levels", 0))
    try:
        rows = [
            one(c, x, values if isinstance(values, int) else values.rows[i], 0, depths)
            for i, (c, x) in enumerate(zip(condition.rows, model.rows, strict=True))
        ]
    except Mismatch:
        with pytest.raises(mm.errors.ExpressionError):
            np.where(mask, lazy, other).compute(scheduler="sync")
        return None
    return np.where(mask, lazy, other), Model(dtype, model.levels, rows)


def cast(rng, lazy, model, pool):
    dtype = np.dtype(rng.choice(["?", "i4", "i8", "f4", "f8"]))
    if model.dtype.kind not in "biuf":
        return None

    def f(x):
        return None if x is None else np.asarray(x)[None].astype(dtype)[0]

    return lazy.astype(dtype), Model(dtype, model.levels, [mapped(f, r, model.levels) for r in model.rows], model.shape)


def apply_one(rng, lazy, model, pool):
    ufunc = rng.choice(UNARY)
    try:
        sample = np.asarray(ufunc(np.zeros(1, model.dtype)))
    except TypeError:
        refused(lambda: ufunc(lazy))
        return None

    def f(x):
        return None if x is None else ufunc(np.asarray(x)[None])[0]

    return ufunc(lazy), Model(sample.dtype, model.levels, [mapped(f, r, model.levels) for r in model.rows], model.shape)


def bound(rng):
    return rng.choice([None, None, 0, 1, 2, 5, -1, -2, -9, 2**70])


def take(rng, lazy, model, pool):
    """[:, ...] to a random depth."""
    index, rows, levels = [], model.rows, model.levels

    def inner(rows, depth, f):
        return mapped(lambda r: None if r is None else f(r), rows, depth)

    depth = 0
    for _ in range(rng.choice(range(1, model.levels + 1))):
        if rng.random() < 0.5:
            s = slice(bound(rng), bound(rng), rng.choice([None, None, 1, 2, -1, -2]))
            index.append(s)
            rows = [inner(r, depth, lambda x, s=s: x[s]) for r in rows]
            depth += 1
        else:
            i = rng.choice([0, 1, 2, -1, -2])
            index.append(i)
            rows = [inner(r, depth, lambda x, i=i: x[i] if -len(x) <= i < len(x) else None) for r in rows]
            levels -= 1
            if not levels:
                break
    if not levels and model.dtype.kind == "f" and not lazy[(slice(None), *index[:-1])].field.optional:
        fill = np.full(model.shape, np.nan, model.dtype)[()]
        rows = [fill if r is None else r for r in rows]
    return lazy[(slice(None), *index)], Model(model.dtype, levels, rows, model.shape)


def some_rows(rng, lazy, model, pool):
    s = slice(rng.choice([None, 0, 1, -3]), rng.choice([None, 3, -1, 9]), rng.choice([None, 1, 2]))
    return lazy[s], Model(model.dtype, model.levels, model.rows[s], model.shape)


def choose(rng, lazy, model, pool):
    masks = [(x, m) for x, m in pool if 0 < m.levels <= model.levels and not m.shape]
    if not masks:
        return None
    mask, condition = rng.choice(masks)
    if condition.dtype.kind != "b":
        threshold = number(rng, condition.dtype)
        mask = mask != threshold
        condition = elementwise(np.not_equal, condition, threshold)

    def chosen(x, c, depth):
        if x is None or c is None:
            return None
        if len(x) != len(c):
            raise Mismatch
        if depth == 1:
            return None if any(i is None for i in c) else [v for v, i in zip(x, c, strict=True) if i]
        return [chosen(v, i, depth - 1) for v, i in zip(x, c, strict=True)]

    try:
        rows = [chosen(x, c, condition.levels) for x, c in zip(model.rows, condition.rows, strict=True)]
    except Mismatch:
        with pytest.raises(mm.errors.ExpressionError):
            lazy[mask].compute(scheduler="sync")
        return None
    return lazy[mask], Model(model.dtype, model.levels, rows, model.shape)


def padded(rng, lazy, model, pool):
    n = rng.choice([0, 1, 3])
    value = number(rng, model.dtype)
    if model.levels > 1:
        refused(lambda: lazy.pad(n, value))
        return
    fill = np.full(model.shape, value, model.dtype)

    def pad(r):
        items = [fill if x is None else x for x in (r or [])[:n]]
        return np.array(items + [fill] * (n - len(items)), model.dtype).reshape(n, *model.shape)

    def real(r):
        return np.array([i < len(r or []) and r[i] is not None for i in range(n)], bool)

    values, mask = lazy.pad(n, value, mask=True)
    compare(mask, Model("?", 0, [real(r) for r in model.rows], (n,)))
    compare(values, Model(model.dtype, 0, [pad(r) for r in model.rows], (n, *model.shape)))


def persisted(rng, lazy, model, pool):
    return lazy.persist(scheduler="sync"), model


def identity(rng, lazy, model, pool):
    return lazy.map(lambda x: x), model


# Reductions ---------------------------------------------------------------------------------------------------------


def first_of(values, better):
    """The place of the first value that no other is better than; nan is."""
    best = None
    for i, x in enumerate(values):
        if np.isnan(x):
            return i
        if best is None or better(x, values[best]):
            best = i
    return best


def reduced(function, dtype):
    """A function of the items of a list, none of them missing, and the dtype of its results."""
    wide = np.dtype("f8" if dtype.kind == "f" else "u8" if dtype == np.uint64 else "i8")

    def total(items):
        if dtype.kind == "f":
            return np.float64(sum(map(float, items)))
        exact = sum(map(int, items))
        if not np.iinfo(wide).min <= exact <= np.iinfo(wide).max:
            raise OverflowError
        return wide.type(exact)

    def mean(items):
        exact = [int(x) if dtype.kind in "biu" else float(x) for x in items]
        return np.float64(sum(exact) / len(exact))

    def std(items):
        exact = np.array([float(x) for x in items])
        return np.float64(np.sqrt(np.mean((exact - mean(items)) ** 2)))

    def least(items):
        return items[first_of(items, operator.lt)]

    def greatest(items):
        return items[first_of(items, operator.gt)]

    return {
        "sum": (total, wide, lambda: wide.type(0)),
        "mean": (mean, np.dtype("f8"), None),
        "std": (std, np.dtype("f8"), None),
        "min": (least, dtype, None),
        "max": (greatest, dtype, None),
        "argmin": (lambda items: np.int64(first_of(items, operator.lt)), np.dtype("i8"), None),
        "argmax": (lambda items: np.int64(first_of(items, operator.gt)), np.dtype("i8"), None),
        "any": (lambda items: np.bool_(any(items)), np.dtype("?"), lambda: np.bool_(False)),
        "all": (lambda items: np.bool_(all(items)), np.dtype("?"), lambda: np.bool_(True)),
        "count": (lambda items: np.int64(sum(map(bool, items))), np.dtype("i8"), lambda: np.int64(0)),
        "first": (lambda items: items[0], dtype, None),
        "last": (lambda items: items[-1], dtype, None),
    }[function]


def reduce(rng, lazy, model, pool):
    function = rng.choice(
        ["sum", "mean", "std", "min", "max", "argmin", "argmax", "any", "all", "count", "first", "last"]
    )
    if model.dtype.kind not in "biuf" or model.shape:
        return None
    if function == "count" and model.dtype.kind != "b":
        refused(lazy.count)
        return None
    f, dtype, empty = reduced(function, model.dtype)
    has_default = function in ("mean", "std", "min", "max", "argmin", "argmax", "first", "last")
    default = dtype.type(rng.choice([0, 1])) if has_default and rng.random() < 0.5 else None
    given = {} if default is None else {"default": default.item()}
    if has_default and default is None and not lazy.field.optional and model.levels == 1:
        if dtype.kind != "f" and not function.startswith("arg"):
            refused(getattr(lazy, function))
            return None
        default = np.int64(-1) if function.startswith("arg") else dtype.type(np.nan)

    def one(items):
        known = None
        if items is not None:
            there = [x for x in items if x is not None]
            if function in ("first", "last"):
                known = f(items) if items else None
            elif function in ("any", "all") and len(there) < len(items):
                known = {"any": True, "all": False}[function]
                known = np.bool_(known) if any(bool(x) is bool(known) for x in there) else None
            elif len(there) == len(items):
                known = f(items) if items else empty() if empty is not None else None
        return default if known is None else known

    found = getattr(lazy, function)(**given)
    try:
        rows = [mapped(one, r, model.levels - 1) for r in model.rows]
    except OverflowError:
        with pytest.raises(mm.errors.ExpressionError, match="does not fit"):
            found.compute(scheduler="sync")
        return None
    return found, Model(dtype, model.levels - 1, rows)


STEPS = [apply_two] * 6 + [
    where,
    cast,
    apply_one,
    take,
    take,
    some_rows,
    choose,
    choose,
    choose,
    padded,
    persisted,
    identity,
    reduce,
    reduce,
    reduce,
]


def program(rng, path):
    opened, models = store(rng, path)
    pool = [(rng.choice(opened)[name], model) for name, model in models.items()]
    for lazy, model in pool:
        compare(lazy, model)
    for _ in range(rng.choice([2, 4, 6])):
        ragged = [p for p in pool if p[1].levels]
        lazy, model = rng.choice(ragged[-3:] + ragged)
        step = rng.choice(STEPS)
        try:
            made = step(rng, lazy, model, pool)
        except mm.errors.OptionError as error:
            if "computed in other chunks" not in str(error):
                raise
            continue
        if made is None:
            continue
        lazy, model = made
        close = step is reduce
        compare(lazy, model, True)
        if model.levels:
            compare_parts(lazy, model, rng)
        if len(model.rows) == len(pool[0][1].rows) and step is not some_rows:
            if close and model.dtype.kind == "f":
                continue  # rounded otherwise, so what follows may differ
            pool.append((lazy, model))


@settings(max_examples=EXAMPLES)
@given(seed=st.integers(0, 2**63))
def test_random_programs(tmp_path_factory, seed):
    # Seeds do not shrink, but hypothesis' own random numbers are mostly small, and such programs do little.
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)
        program(random.Random(seed), tmp_path_factory.mktemp("fuzz") / "s.mm")
