"""Random rows of every kind of field, for `mmdask.expr` and for the reference, and random trees over them."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
from cut_reference import COMPARE, Reference
from hypothesis import strategies as st

from mmdask.schema import Field, FieldData, Schema

INTEGERS = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"]
LABELS = ("ttbb", "ttH", 'it\'s "x\\y"', "")
DENSE = {f"d_{t}": t for t in [*INTEGERS, "f2", "f4", "f8", "bool"]}
RAGGED = {f"r_{t}": t for t in ["i2", "u4", "i8", "u8", "f4", "f8", "bool"]}
DENSE_OPTIONAL = {f"o_{t}": t for t in ["i2", "u8", "f4", "bool"]}
RAGGED_OPTIONAL = {f"m_{t}": t for t in ["i8", "u8", "f4", "bool"]}
#: lists in lists, all with the same numbers of items but where one is missing: their depth, dtype and `optional`
NESTED = {
    "n2_i8": ("i8", ()),
    "n2_f4": ("f4", ()),
    "n2_bool": ("bool", ()),
    "n3_u2": ("u2", ()),
    "n3_f8": ("f8", ()),
    "n3_bool": ("bool", ()),
    "m2_f4": ("f4", (0, 1, 2)),
    "m2_i4": ("i4", (1,)),
    "m2_bool": ("bool", (0, 2)),
    "m3_f4": ("f4", (0, 1, 2, 3)),
    "m3_bool": ("bool", (2, 3)),
}
SCHEMA = Schema(
    [
        *[Field.dense(name, t) for name, t in DENSE.items()],
        *[Field.ragged(name, t) for name, t in RAGGED.items()],
        Field.dense("fixed", "f4", (2,)),
        Field.dense("same", "i4"),
        Field.category("label", LABELS),
        Field.string("text"),
        *[Field.dense(name, t, optional=(0,)) for name, t in DENSE_OPTIONAL.items()],
        *[Field.ragged(name, t, optional=(0, 1)) for name, t in RAGGED_OPTIONAL.items()],
        Field.ragged("lists_u4", "u4", optional=(0,)),
        Field.dense("fixed_optional", "u8", (2,), optional=(0,)),
        Field.category("label_optional", LABELS, optional=(0,)),
        Field.string("text_optional", optional=(0,)),
        *[Field.ragged(name, t, levels=int(name[1]), optional=o) for name, (t, o) in NESTED.items()],
        Field.dense("matrix", "i2", (3, 2)),
        Field.dense("matrix_optional", "f4", (2, 2), optional=(0,)),
        Field.ragged("vectors", "f8", (2,)),
        Field.ragged("vectors_optional", "u4", (2,), optional=(0, 1)),
        Field.string("words", levels=1),
        Field.string("words_optional", levels=2, optional=(0, 1, 2)),
    ]
)
FLOATS = [
    0.0,
    -0.0,
    0.1,
    0.5,
    1.0,
    2.0,
    2.5,
    1e-3,
    30e3,
    2.0**53,
    2.0**53 + 2,
    2.0**63,
    2.0**64,
    1e300,
    math.inf,
    math.nan,
]


def values_of(rng, dtype, size):
    """Numbers of a dtype: the extreme, the small, the special, and any at all."""
    d = np.dtype(dtype)
    if d == np.bool_:
        return rng.random(size) < 0.5
    anything = np.frombuffer(rng.bytes(size * d.itemsize), d)
    if d.kind == "f":
        largest = float(np.finfo(d).max)
        special = [x for x in FLOATS if not math.isfinite(x) or x < largest]
        special = np.array([*special, *[-x for x in special]], d)
    else:
        info = np.iinfo(d)
        near = [info.min, info.min + 1, info.max - 1, info.max, 0, 1, 2, 3, 5, 2**53, 2**53 + 1, 2**63 - 1, 2**63]
        special = np.array([x for x in near if info.min <= x <= info.max], d)
        small = rng.integers(0, 8, size).astype(d)
        anything = np.where(rng.random(size) < 0.5, small, anything)
    array = np.where(rng.random(size) < 0.6, rng.choice(special, size), anything)
    array.flags.writeable = False
    return array


def kind_of(dtype):
    return "u" if dtype == "u8" else {"b": "b", "i": "i", "u": "i", "f": "f"}[np.dtype(dtype).kind]


def make_data(seed):
    """One to four rows of every field: as FieldData and for the reference."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 5))
    offsets = np.concatenate([[0], np.cumsum(rng.integers(0, 4, n))]).astype(np.int64)
    fields, reference = {}, {}
    for name, dtype in DENSE.items():
        array = values_of(rng, dtype, n)
        fields[name] = FieldData(array)
        reference[name] = (kind_of(dtype), 0, array.tolist())
    for name, dtype in RAGGED.items():
        array = values_of(rng, dtype, int(offsets[-1]))
        fields[name] = FieldData(array, (offsets.copy(),))
        rows = [array[a:b].tolist() for a, b in pairwise(offsets)]
        reference[name] = (kind_of(dtype), 1, rows)
    array = values_of(rng, "f4", 2 * n).reshape(n, 2)
    fields["fixed"], reference["fixed"] = FieldData(array), ("f", 1, array.tolist())
    array = np.broadcast_to(values_of(rng, "i4", 1), n)
    fields["same"], reference["same"] = FieldData(array), ("i", 0, array.tolist())
    codes = rng.integers(0, 4, n).astype(np.int32)
    fields["label"] = FieldData(codes, (), LABELS)
    reference["label"] = ("t", 0, [LABELS[c] for c in codes])
    texts = rng.choice(["", "a", "b", "ab", "aé", "é\N{SNOWMAN}"], n).tolist()
    utf8 = [t.encode() for t in texts]
    ends = np.concatenate([[0], np.cumsum([len(b) for b in utf8])]).astype(np.int64)
    fields["text"] = FieldData(np.frombuffer(b"".join(utf8), np.uint8), (ends,))
    reference["text"] = ("t", 0, texts)
    add_optional(rng, offsets, fields, reference)
    add_nested(rng, offsets, fields, reference)
    return n, fields, Reference(reference)


def add_nested(rng, offsets, fields, reference):
    """Lists in lists, those of texts, and numbers of fixed shapes."""
    n = len(offsets) - 1
    counts = [np.diff(offsets)]
    for _ in range(2):
        counts.append(rng.integers(0, 3, int(counts[-1].sum())))

    def add(name, kind, levels, optional, leaves, shape=()):
        """`leaves` makes so many values: those of `FieldData`, and the same as Python has them."""
        here, ends, valid = np.arange(n), [], []
        for level in range(levels + 1):
            there = np.ones(len(here), bool) if level not in optional else rng.random(len(here)) < 0.7
            valid.append(there)
            if level < levels:
                every = np.concatenate([[0], np.cumsum(counts[level])])
                found = [
                    np.arange(every[i], every[i + 1]) if ok else here[:0] for i, ok in zip(here, there, strict=True)
                ]
                ends.append(np.concatenate([[0], np.cumsum([len(f) for f in found])]).astype(np.int64))
                here = np.concatenate([here[:0], *found])
        values, more, rows = leaves(len(here))
        fields[name] = FieldData(values, (*ends, *more), valid=tuple(valid) if optional else ())
        rows = or_none(rows, valid.pop())
        for o, ok in zip(reversed(ends), reversed(valid), strict=True):
            rows = or_none([rows[a:b] for a, b in pairwise(o)], ok)
        reference[name] = (kind, levels + len(shape), rows)

    def numbers(dtype, shape=()):
        def leaves(size):
            array = values_of(rng, dtype, size * math.prod(shape)).reshape(size, *shape)
            return array, (), array.tolist()

        return leaves

    def texts(size):
        found = rng.choice(["", "a", "b", "ab", "aé", "é\N{SNOWMAN}"], size).tolist()
        ends = np.concatenate([[0], np.cumsum([len(t.encode()) for t in found])]).astype(np.int64)
        return np.frombuffer("".join(found).encode(), np.uint8), (ends,), found

    for name, (dtype, optional) in NESTED.items():
        add(name, kind_of(dtype), int(name[1]), optional, numbers(dtype))
    add("matrix", "i", 0, (), numbers("i2", (3, 2)), (3, 2))
    add("matrix_optional", "f", 0, (0,), numbers("f4", (2, 2)), (2, 2))
    add("vectors", "f", 1, (), numbers("f8", (2,)), (2,))
    add("vectors_optional", "i", 1, (0, 1), numbers("u4", (2,)), (2,))
    add("words", "t", 1, (), texts)
    add("words_optional", "t", 2, (0, 1, 2), texts)


def add_optional(rng, offsets, fields, reference):
    """Fields with missing values; what stands where one is missing is anything, and is never to be looked at."""
    n = len(offsets) - 1
    for name, dtype in DENSE_OPTIONAL.items():
        array, valid = values_of(rng, dtype, n), rng.random(n) < 0.7
        fields[name] = FieldData(array, valid=(valid,))
        reference[name] = (kind_of(dtype), 0, or_none(array.tolist(), valid))
    lost = rng.random(n) < 0.25  # one for all of these, and another for the last
    for name, dtype in {**RAGGED_OPTIONAL, "lists_u4": "u4"}.items():
        there = ~lost if name != "lists_u4" else rng.random(n) < 0.75
        ends = np.concatenate([[0], np.cumsum(np.where(there, np.diff(offsets), 0))]).astype(np.int64)
        array, valid = values_of(rng, dtype, int(ends[-1])), rng.random(int(ends[-1])) < 0.75
        valid |= name == "lists_u4"
        fields[name] = FieldData(array, (ends,), valid=(there, valid))
        items = or_none(array.tolist(), valid)
        reference[name] = (kind_of(dtype), 1, or_none([items[a:b] for a, b in pairwise(ends)], there))
    array, valid = values_of(rng, "u8", 2 * n).reshape(n, 2), rng.random(n) < 0.7
    fields["fixed_optional"] = FieldData(array, valid=(valid,))
    reference["fixed_optional"] = ("u", 1, or_none(array.tolist(), valid))
    for name in ("label", "text"):
        valid = rng.random(n) < 0.7
        fields[f"{name}_optional"] = replace(fields[name], valid=(valid,))
        reference[f"{name}_optional"] = ("t", 0, or_none(reference[name][2], valid))


def or_none(values, valid):
    return [v if ok else None for v, ok in zip(values, valid.tolist(), strict=True)]


SEEDS = st.integers(0, 2**32)


class Trees:
    """Draws well-typed trees. Kinds: "b" booleans, "n" numbers that may be real, "i" integers."""

    def __init__(self, draw):
        self.draw = draw

    def pick(self, *options):
        return self.draw(st.sampled_from(options))

    def tree(self, kind, depth, size):
        if size <= 0:
            return self.leaf(kind, depth)
        return {"b": self.boolean, "n": self.number, "i": self.integer}[kind](depth, size - 1)

    def leaf(self, kind, depth):
        if kind == "b" and not depth:
            return self.pick(("field", "d_bool"), ("bool", True), ("bool", False), ("field", "o_bool"))
        if kind == "b":
            return ("field", self.pick(*{1: ("r_bool", "m_bool")}.get(depth, (f"n{depth}_bool", f"m{depth}_bool"))))
        real = kind == "n"
        if depth == 2:
            return ("field", self.pick("n2_i8", "m2_i4", *("n2_f4", "m2_f4") * real))
        if depth == 3:
            return ("field", self.pick("n3_u2", *("n3_f8", "m3_f4") * real))
        if depth:
            names = [f"r_{t}" for t in (["i2", "u4", "i8", "u8"] + ["f4", "f8"] * real)]
            return ("field", self.pick(*names, "m_i8", "m_u8", "lists_u4", *["m_f4"] * real))
        names = [f"d_{t}" for t in INTEGERS] + ["same"] + ["d_f2", "d_f4", "d_f8"] * real
        names += ["o_i2", "o_u8", *["o_f4"] * real]
        literal = (
            "int",
            self.draw(st.sampled_from([0, 1, 2, 3, 7, 127, 128, 255, 256, 2**31, 2**53 + 1, 2**63 - 1, 2**63])),
        )
        if kind == "n" and self.pick(True, False, False):
            literal = (
                "real",
                self.draw(st.sampled_from([x for x in FLOATS if math.isfinite(x) and math.copysign(1, x) > 0])),
            )
        return self.pick(("field", self.pick(*names)), literal)

    def either(self, kind, depth, size):
        """An operand: of the items, or of an outer level."""
        return self.tree(kind, self.pick(*[depth] * 4, *range(depth + 1)), size)

    def boolean(self, depth, size):
        half = size // 2
        what = self.pick(
            *("cmp", "cmp", "cmp", "logic", "logic", "not", "in", "reduce", "text", "test", "xor", "where", "item"),
            "missing",
        )
        if what == "cmp":
            n = self.pick(2, 2, 2, 3)
            operands = [self.tree("n", depth, half), *[self.either("n", depth, half) for _ in range(n - 1)]]
            operands = self.draw(st.permutations(operands))
            return ("cmp", tuple(operands), tuple(self.pick(*COMPARE) for _ in range(n - 1)))
        if what == "logic":
            args = [self.tree("b", depth, half), *[self.either("b", depth, half) for _ in range(self.pick(1, 1, 2))]]
            return (self.pick("and", "or"), tuple(self.draw(st.permutations(args))))
        if what == "not":
            return ("not", self.tree("b", depth, size))
        if what == "in":
            items = self.draw(st.lists(st.sampled_from([0, 1, 2, 255, -1, 2**53 + 1, 0.1, 0.5, 2.0**53]), max_size=10))
            literals = tuple(self.literal(x) for x in items)
            return ("in", self.tree("n", depth, size), literals, self.pick(True, False))
        if what == "test":
            return ("call", self.pick("isnan", "isfinite", "isinf"), (self.tree("n", depth, size),))
        if what == "xor":
            return ("call", "xor", (self.tree("b", depth, half), self.either("b", depth, half)))
        if what == "where":
            return (
                "call",
                "where",
                (self.either("b", depth, half), self.tree("b", depth, half), self.either("b", depth, half)),
            )
        if what == "missing":
            return ("call", "ismissing", (self.perhaps_missing(depth, size),))
        if what == "text" and depth:
            return self.text(depth)
        if depth == 3:
            return self.leaf("b", 3)
        if what == "reduce":
            return ("call", self.pick("any", "all", "none", "min", "last"), (self.items("b", depth, size),))
        if what == "item":
            return self.of_items("b", "item", depth, size)
        which = self.pick("", "_optional")
        if self.pick(True, False):
            return ("cmp", (("field", f"label{which}"), ("text", self.pick(*LABELS))), (self.pick("==", "!="),))
        items = self.draw(st.lists(st.sampled_from(["", "a", "ab", "é\N{SNOWMAN}", "zzz"]), max_size=3))
        return ("in", ("field", f"text{which}"), tuple(("text", x) for x in items), self.pick(True, False))

    def perhaps_missing(self, depth, size):
        if depth:
            names = {1: ("m_i8", "r_f4", "m_f4", "words"), 2: ("m2_f4", "n2_i8"), 3: ("m3_f4", "n3_u2")}[depth]
            return ("field", self.pick(*names))
        name = self.pick("o_i2", "o_f4", "o_bool", "d_i4", "label_optional", "text_optional", "text")
        items = self.pick(self.tree("n", 1, size), ("field", "fixed_optional"))
        return self.pick(("field", name), ("item", items, 1), ("call", self.pick("max", "len"), (items,)))

    @staticmethod
    def literal(x):
        node = ("int", abs(x)) if isinstance(x, int) else ("real", abs(x))
        return ("neg", node) if x < 0 else node

    def number(self, depth, size):
        half = size // 2
        what = self.pick("int", "bin", "bin", "neg", "where", "keep", "pair", "reduce", "item", "get", "first")
        if what == "bin":
            args = self.draw(st.permutations([self.tree("n", depth, half), self.either("n", depth, half)]))
            return ("bin", self.pick("+", "-", "*", "/", "//", "%"), *args)
        if what == "neg":
            return ("neg", self.tree("n", depth, size))
        if what == "keep":
            return ("call", self.pick("abs", "floor", "ceil", "round"), (self.tree("n", depth, size),))
        if what == "where":
            # a real on one side: signed with unsigned 64-bit integers have no common type, which is an error
            a, b = self.tree("n", depth, half), ("bin", "/", self.either("n", depth, half), ("int", 1))
            return ("call", "where", (self.either("b", depth, half), a, b))
        if what == "pair":
            return (
                "call",
                self.pick("minimum", "maximum"),
                (self.tree("n", depth, half), self.either("n", depth, half)),
            )
        if depth == 3 or what == "int":
            return self.integer(depth, size)
        return self.of_items("n", what, depth, size)

    def items(self, kind, depth, size):
        """Items of which one for each list is made: one level deeper, as they are or some of them."""
        if not self.pick(False, False, True) or size < 2:
            if size < 3 and not self.pick(False, False, False, True):
                reals = ("matrix_optional", "vectors") if kind != "i" else ()
                name = self.pick("matrix", "vectors_optional", *reals)
                x = ("field", name)
                if depth == 0:
                    x = self.pick(("item", x, self.pick(0, 1, -1, -3)), ("call", self.pick("max", "first"), (x,)))
                if depth < 2:
                    return ("cmp", (x, ("int", 2)), (">",)) if kind == "b" else x
            return self.tree(kind, depth + 1, size)
        third = size // 3
        condition = self.tree("b", self.pick(*[depth + 1] * 3, *range(1, depth + 2)), third)
        if kind == "b" or self.pick(True, False):
            return ("choose", self.tree(kind, depth + 1, size), condition)
        # two that were chosen alike, or perhaps not
        other = self.pick(condition, condition, condition, condition, self.tree("b", depth + 1, 0))
        a, b = self.tree(kind, depth + 1, third), self.tree(kind, depth + 1, third)
        return ("bin", self.pick("+", "-"), ("choose", a, condition), ("choose", b, other))

    def picked(self, kind, depth, size):
        """One element of each list of a level, by a number that is written out or computed."""
        if self.pick(True, False):
            return ("item", self.items(kind, depth, size), self.draw(st.integers(-3, 3)))
        level = self.pick(*[depth] * 3, *range(depth + 1))
        index = self.pick(
            ("field", {0: "d_i1", 1: "r_i2", 2: "m2_i4"}[level]),
            ("bin", "-", ("call", "len", (self.tree("n", level + 1, 0),)), ("int", self.pick(1, 2, 4))),
            ("call", self.pick("argmin", "argmax"), (self.items("n", level, size // 2),)),
            ("call", "count", (self.tree("b", level + 1, size // 2),)),
        )
        return ("at", self.items(kind, depth, size // 2), index)

    def text(self, depth):
        """Texts in lists, compared."""
        x = ("field", "words" if depth == 1 else "words_optional")
        if depth == 3:
            return self.leaf("b", 3)
        if depth == 1 and self.pick(True, False):
            x = self.pick(
                ("item", ("field", "words_optional"), self.pick(0, 1, -1)),
                ("call", self.pick("first", "last"), (("field", "words_optional"),)),
                ("at", ("field", "words_optional"), ("field", "r_i2")),
            )
        if self.pick(True, False):
            return ("cmp", (x, ("text", self.pick("", "a", "aé", "zz"))), (self.pick("==", "!="),))
        items = self.draw(st.lists(st.sampled_from(["", "a", "ab", "é\N{SNOWMAN}", "zzz"]), max_size=3))
        return ("in", x, tuple(("text", t) for t in items), self.pick(True, False))

    def of_items(self, kind, what, depth, size):
        if what == "item":
            return self.picked(kind, depth, size)
        if what == "get" and kind == "n" and not depth:
            i = self.pick(self.literal(self.draw(st.integers(-2, 2))), ("field", "o_i2"), ("field", "d_i1"))
            items = ("bin", "/", self.items("n", 0, size), ("int", 1))
            return ("call", "get", (items, i, self.tree("n", 0, size // 2)))
        items = self.items(kind, depth, size)
        if what == "first":
            return ("call", self.pick("first", "last"), (items,))
        names = ["sum", "min", "max", "argmin", "argmax", "len"] + ["mean"] * (kind == "n")
        return ("call", self.pick(*names), (items,))

    def integer(self, depth, size):
        half = size // 2
        what = self.pick("leaf", "bin", "bits", "pow", "neg", "reduce", "count", "item")
        if what == "bin":
            args = self.draw(st.permutations([self.tree("i", depth, half), self.either("i", depth, half)]))
            return ("bin", self.pick("+", "-", "*", "//", "%"), *args)
        if what == "bits":
            return ("bits", "&", (self.tree("i", depth, half), self.either("i", depth, half)))
        if what == "pow":
            return (
                "bin",
                "**",
                self.tree("i", depth, size),
                ("int", self.draw(st.sampled_from([0, 1, 2, 3, 5, 63, 64]))),
            )
        if what == "neg":
            return ("neg", self.tree("i", depth, size))
        if depth == 3 or what == "leaf":
            return self.leaf("i", depth)
        if what == "count":
            return ("call", self.pick("count", "sum"), (self.items("b", depth, size),))
        return self.of_items("i", what, depth, size)


@st.composite
def trees(draw, kinds=("b", "b", "n"), depths=(0, 0, 0, 1, 2, 3)):
    t = Trees(draw)
    return t.tree(t.pick(*kinds), t.pick(*depths), draw(st.integers(1, 6)))
