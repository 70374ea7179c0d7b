"""Random trees over random data, against the reference on Python lists."""

from __future__ import annotations

import math
import pickle
import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from cut_reference import COMPARE, Overflow, Reference, nested, render
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmdask.errors import ExpressionError
from mmdask.expr import check, check_cut, combine, conjuncts, evaluate, evaluate_cut, evaluate_many, negate
from mmdask.schema import Field, FieldData, Schema

INTEGERS = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"]
LABELS = ("ttbb", "ttH", 'it\'s "x\\y"', "")
DENSE = {f"d_{t}": t for t in [*INTEGERS, "f2", "f4", "f8", "bool"]}
RAGGED = {f"r_{t}": t for t in ["i2", "u4", "i8", "u8", "f4", "f8", "bool"]}
DENSE_OPTIONAL = {f"o_{t}": t for t in ["i2", "u8", "f4", "bool"]}
RAGGED_OPTIONAL = {f"m_{t}": t for t in ["i8", "u8", "f4", "bool"]}
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
    return n, fields, Reference(reference)


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
            return self.pick(("field", "r_bool"), ("field", "m_bool"))
        real = kind == "n"
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
        """An operand: of the items, or (also for depth 1) of the rows."""
        return self.tree(kind, depth if self.pick(True, True, False) else 0, size)

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
            return ("call", self.pick("isnan", "isfinite"), (self.tree("n", depth, size),))
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
        if depth:
            return self.leaf("b", 1)
        if what == "reduce":
            return ("call", self.pick("any", "all", "none", "min", "last"), (self.tree("b", 1, size),))
        if what == "item":
            return ("item", self.tree("b", 1, size), self.draw(st.integers(-3, 3)))
        which = self.pick("", "_optional")
        if self.pick(True, False):
            return ("cmp", (("field", f"label{which}"), ("text", self.pick(*LABELS))), (self.pick("==", "!="),))
        items = self.draw(st.lists(st.sampled_from(["", "a", "ab", "é\N{SNOWMAN}", "zzz"]), max_size=3))
        return ("in", ("field", f"text{which}"), tuple(("text", x) for x in items), self.pick(True, False))

    def perhaps_missing(self, depth, size):
        if depth:
            return self.pick(("field", "m_i8"), ("field", "r_f4"), ("neg", ("field", "m_f4")))
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
        if what in ("where", "pair"):
            # a real on one side: signed with unsigned 64-bit integers have no common type, which is an error
            a, b = self.tree("n", depth, half), ("bin", "/", self.either("n", depth, half), ("int", 1))
            if what == "where":
                return ("call", "where", (self.either("b", depth, half), a, b))
            return ("call", self.pick("minimum", "maximum"), (a, b))
        if depth or what == "int":
            return self.integer(depth, size)
        return self.of_items("n", what, size)

    def of_items(self, kind, what, size):
        items = self.tree(kind, 1, size)
        if what == "item":
            return ("item", items, self.draw(st.integers(-3, 3)))
        if what == "get" and kind == "n":
            i = self.draw(st.integers(-2, 2))
            return ("call", "get", (("bin", "/", items, ("int", 1)), self.literal(i), self.tree("n", 0, size // 2)))
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
        if depth or what == "leaf":
            return self.leaf("i", depth)
        if what == "count":
            return ("call", self.pick("count", "sum"), (self.tree("b", 1, size),))
        return self.of_items("i", what, size)


@st.composite
def trees(draw, kinds=("b", "b", "n"), depths=(0, 0, 1)):
    t = Trees(draw)
    return t.tree(t.pick(*kinds), t.pick(*depths), draw(st.integers(1, 6)))


def same(got, expected):
    if expected is None or got is None:
        return got is expected
    if isinstance(expected, bool) != isinstance(got, bool):
        return False
    return got == expected or (got != got and expected != expected)


def as_lists(result, depth):
    known = np.ones(len(result.values), bool) if result.known is None else result.known
    flat = [v if k else None for v, k in zip(result.values.tolist(), known, strict=True)]
    assert len(result.offsets) == len(result.there) == depth
    return nested(flat, result.offsets, result.there)


def flatten(rows, depth):
    """All values, and where lists begin or are missing."""
    return [v for row in rows for v in ["list", *(["missing"] if row is None else row)]] if depth else rows


@settings(max_examples=800, deadline=None, suppress_health_check=list(HealthCheck))
@given(SEEDS, trees())
def test_values_are_those_of_the_reference(seed, tree):
    n, fields, reference = make_data(seed)
    text = render(tree, random.Random(seed).choice)
    try:
        expected = reference.rows(tree, n)
        kind = reference.type(tree)
    except Overflow:
        with pytest.raises(ExpressionError, match="does not fit"):
            evaluate(check(text, SCHEMA), fields.__getitem__, n)
        return
    expression = check(text, SCHEMA)
    assert expression.depth == reference.depth(tree)
    result = evaluate(expression, fields.__getitem__, n)
    assert result.values.dtype == expression.dtype
    for depth, valid in enumerate((*result.there, result.known)):
        assert depth in expression.optional or valid is None
    assert expression.dtype.kind == {"b": "b", "f": "f"}.get(kind, expression.dtype.kind)
    got = as_lists(result, expression.depth)
    for g, e in zip(flatten(got, expression.depth), flatten(expected, expression.depth), strict=True):
        assert same(g, e), (text, got, expected)
    if expression.dtype == np.bool_ and not expression.depth:
        assert evaluate_cut(expression, fields.__getitem__, n).tolist() == [v is True for v in expected]
    again = check(expression.canonical, SCHEMA)
    assert again == expression
    assert again.typed == expression.typed
    assert again.tree == expression.tree
    assert pickle.loads(pickle.dumps(expression)) == expression


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(SEEDS, trees(kinds=("b",), depths=(0,)), trees(kinds=("b",), depths=(0,)))
def test_combined_cuts_are_those_of_the_reference(seed, a, b):
    n, fields, reference = make_data(seed)
    texts = [render(t, random.Random(seed).choice) for t in (a, b)]
    try:
        cuts = [check_cut(t, SCHEMA) for t in texts]
        expected = {op: reference.rows((op, (a, b)), n) for op in ("and", "or")}
    except (Overflow, ExpressionError):
        return
    for op in ("and", "or"):
        cut = combine(op, *cuts)
        assert evaluate_cut(cut, fields.__getitem__, n).tolist() == [v is True for v in expected[op]]
        negative = evaluate_cut(negate(cut), fields.__getitem__, n)
        assert negative.tolist() == [v is False for v in expected[op]]
        assert check_cut(cut.canonical, SCHEMA) == cut
    both = combine("and", *cuts)
    parts = conjuncts(both)
    together = np.ones(n, bool)
    for part, result in zip(parts, evaluate_many(parts, fields.__getitem__, n), strict=True):
        assert (result.values == evaluate_cut(part, fields.__getitem__, n)).all()
        assert check_cut(part.text, SCHEMA) == part
        together &= result.values
    assert together.tolist() == evaluate_cut(both, fields.__getitem__, n).tolist()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(SEEDS, trees())
def test_no_rows(seed, tree):
    text = render(tree, random.Random(seed).choice)
    try:
        expression = check(text, SCHEMA)
    except ExpressionError:
        return
    offsets = np.zeros(1, np.int64)
    empty = {
        f.name: FieldData(np.zeros((0, *f.shape), f.dtype), (offsets,) * f.n_offsets, f.labels) for f in SCHEMA.values()
    }
    try:
        result = evaluate(expression, empty.__getitem__, 0)
    except ExpressionError:  # literals alone that do not fit
        return
    assert len(result.values) == 0
    assert result.values.dtype == expression.dtype
