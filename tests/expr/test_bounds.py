"""What bounds settle is what the rows give: random trees over random grains, and the cuts that people rely on."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import cut_trees as drawn
import numpy as np
import pytest
from cut_reference import render
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmdask.errors import ExpressionError
from mmdask.expr import check, check_cut, evaluate
from mmdask.expr.bounds import FALSE, NONE, TRUE, UNKNOWN, Bounds, settle
from mmdask.expr.typed import MOST_ITEMS, Typed
from mmdask.schema import Field, FieldData, Schema

SLOW = {"deadline": None, "suppress_health_check": list(HealthCheck)}


def held(field, data, lists):
    """An entry of `Bounds` from rows: one value after the other, in Python's numbers."""
    offsets, depth = data.offsets, field.levels + len(field.shape)
    n = len(data)
    width = math.prod(field.shape)
    values = data.values.reshape(-1).tolist()
    levels = [data.valid_at(d) for d in range(len(offsets) + 1)]
    flat = data.valid_at(len(offsets))
    known = [True] * len(values) if flat is None else [ok for ok in flat.tolist() for _ in range(width)]
    there = [v for v, ok in zip(values, known, strict=False) if ok]
    numbers = [v for v in there if v == v]
    counts = [width] * n if field.kind == "dense" and depth else []
    if offsets:
        counts = [int(b - a) for a, b in zip(offsets[0], offsets[0][1:], strict=False)]
    at = [v is not None and not all(v.tolist()) for v in levels]
    labels = frozenset(data.labels[c] for c in there) if field.kind == "category" else frozenset()
    if field.kind in ("category", "string"):
        numbers = [0] * bool(there or field.kind == "string")
    return {
        "low": min(numbers, default=0),
        "high": max(numbers, default=0),
        "number": bool(numbers),
        "nan": len(numbers) < len(there) and field.dtype.kind == "f",
        "missing": any(at) if depth > 1 else depth < len(at) and at[depth],
        "lost": depth > 0 and (any(at) if depth > 1 else at[0]),
        "fewest": min(counts, default=0),
        "most": max(counts, default=0),
        "lists": lists.setdefault(str(counts), len(lists)) if depth else -1,
        "labels": labels,
    }


def bounds_of(field, grains, lists):
    entries = [held(field, data, lists) for data in grains]
    wide = "f8" if field.dtype.kind == "f" else "u8" if field.dtype == np.uint64 else "i8"
    dtypes = dict.fromkeys(("low", "high"), wide) | dict.fromkeys(("number", "nan", "missing", "lost"), "?")
    columns = {k: np.array([e[k] for e in entries], dtypes.get(k, "i8")) for k in entries[0] if k != "labels"}
    labels = None
    if field.kind == "category":
        labels = np.arange(len(entries)), tuple(e["labels"] for e in entries)
    return Bounds(**columns, labels=labels)


def narrowed(rng, schema, fields):
    """The same rows with few different values, so that there is something to settle."""
    found = {}
    for name, data in fields.items():
        f = schema[name]
        if f.kind != "dense" and f.kind != "ragged":
            found[name] = replace(data, values=np.sort(data.values)) if f.kind == "category" else data
            continue
        pool = (*data.values.reshape(-1)[: int(rng.integers(1, 3))], 0)
        if rng.random() < 0.5 and f.dtype.kind != "b":
            pool = np.arange(3) + rng.choice([0, 1, 5, 100])
        found[name] = replace(data, values=rng.choice(np.array(pool, f.dtype), data.values.shape))
    return found


def three_valued(expression, fields, n):
    """True, False and None for each row."""
    result = evaluate(expression, fields.__getitem__, n)
    known = [True] * n if result.known is None else result.known.tolist()
    return [v if ok else None for v, ok in zip(result.values.tolist(), known, strict=True)]


def agrees(outcome, rows):
    if outcome == NONE:
        return True not in rows
    return outcome == UNKNOWN or rows == [outcome == TRUE] * len(rows)


@settings(max_examples=500, **SLOW)
@given(st.lists(drawn.SEEDS, min_size=1, max_size=3), drawn.trees(kinds=("b",), depths=(0,)), st.booleans())
def test_what_is_settled_is_what_the_rows_give(seeds, tree, few):
    rng = np.random.default_rng(seeds)
    schema, grains = drawn.SCHEMA, []
    for seed in seeds:
        n, fields, _ = drawn.make_data(seed)
        grains.append((n, narrowed(rng, schema, fields) if few else fields))
    text = render(tree, random.Random(seeds[0]).choice)
    try:
        cut = check_cut(text, schema)
    except ExpressionError:
        return
    lists = {}
    names = [name for name in cut.fields if rng.random() < 0.95]  # of some nothing is known
    bounds = {name: bounds_of(schema[name], [f[name] for _, f in grains], lists) for name in names}
    outcomes = settle(cut.typed, bounds, len(grains))
    for outcome, (n, fields) in zip(outcomes.tolist(), grains, strict=True):
        try:
            rows = three_valued(cut, fields, n)
        except ExpressionError:
            assert outcome == UNKNOWN, f"skipping would hide an error of {text}"
        else:
            assert agrees(outcome, rows), (text, outcome, rows, {name: bounds[name] for name in names})


DENSE = ["i1", "u1", "i4", "u8", "i8", "f2", "f4", "f8", "?"]
TEMPLATES = [
    *("{x} {op} {c}", "not ({x} {op} {c})", "{x} {op} {y}", "{c} <= {x} < {d}", "{x} in ({c}, {d})", "isnan({x})"),
    *("{x} {op} {c} and {y} {op} {d}", "{x} {op} {c} or not ({y} {op} {d})", "isfinite({x})", "ismissing({x})"),
    *("isinf({x})", "not isinf({x} / {c})"),
    *("abs({x}) {op} {c}", "-{x} {op} {c}", "{x} + {y} {op} {c}", "{x} - {c} {op} {y}", "{x} * {y} {op} {c}"),
    *("{x} / {y} {op} {c}", "floor({x}) {op} {c}", "maximum({x}, 1.0 * {y}) {op} {c}", "{x} // 3 {op} {c}"),
    *("where({x} {op} {c}, 1.0 * {x}, 1.0 * {y}) {op} {d}", "{x} % 3 {op} {c}"),
    *("any({l} {op} {c})", "all({l} {op} {c})", "none({l} {op} {c})", "count({l} {op} {c}) {op} 1", "len({l}) {op} 1"),
    *("min({l}) {op} {c}", "max({l}) {op} {c}", "{l}[0] {op} {c}", "{l}[-2] {op} {c}", "argmax({l}) {op} 1"),
    *(
        "sum({l}) {op} {c}",
        "get({l}, 0, 1.0) {op} {c}",
        "any({l} {op} {x})",
        "all({l} {op} {m})",
        "any(ismissing({l}))",
    ),
    *("len({l}[{l} {op} {c}]) {op} 1", "any({l}[{l} {op} {c}] {op} {d})", "first({l}) {op} {c}"),
]
TEXTS = Schema(
    [Field.dense(f"{name}_{d}", d.replace("?", "bool"), optional=(0,)) for name in "xy" for d in DENSE]
    + [Field.ragged(f"{name}_{d}", d.replace("?", "bool"), optional=(0, 1)) for name in "lm" for d in DENSE]
)


def few_rows(rng, field, offsets, there):
    """Rows of few values near each other, some nan or missing."""
    n = int(offsets[-1]) if field.levels else len(offsets) - 1
    kind = field.dtype.kind
    special = [math.nan, math.inf, -math.inf, 0.5] if kind == "f" else []
    limits = np.iinfo(field.dtype) if kind in "iu" else None
    base = [0, 0, 0, int(limits.max) - 2, int(limits.min)][rng.integers(5)] if limits else 0
    pool = [base, base + 1, base + 2, *special][: 2 if kind == "b" else None]
    values = rng.choice(np.array(pool, field.dtype)[rng.integers(0, len(pool), rng.integers(1, 3))], n)
    valid = rng.random(n) < rng.choice([1.0, 1.0, 0.6])
    return FieldData(values, (offsets,), valid=(there, valid)) if field.levels else FieldData(values, valid=(valid,))


@settings(max_examples=1500, **SLOW)
@given(st.integers(0, 2**32), st.sampled_from(TEMPLATES), st.sampled_from(["<", "<=", ">", ">=", "==", "!="]))
def test_short_cuts_of_few_values(seed, template, op):
    rng = np.random.default_rng(seed)
    names = {k: f"{k}_{rng.choice(DENSE)}" for k in "xylm"}
    literals = [0, 1, 2, 0.5, 1.5, 127, 255, "nan", "inf", 2**31 - 1, 2**63 - 1, 2**64 - 1, 2**53 + 1]
    c, d = rng.choice(np.array(literals, object), 2)
    text = template.format(**names, op=op, c=c, d=d)
    try:
        cut = check_cut(text, TEXTS)
    except ExpressionError:
        return
    grains, lists = [], {}
    for _ in range(3):
        n = int(rng.integers(1, 4))
        there = rng.random(n) < rng.choice([1.0, 1.0, 0.5])
        counts = np.where(there, rng.integers(rng.integers(0, 2), 3, n), 0)
        offsets = np.concatenate([[0], np.cumsum(counts)])
        grains.append((n, {name: few_rows(rng, TEXTS[name], offsets, there) for name in cut.fields}))
    bounds = {name: bounds_of(TEXTS[name], [f[name] for _, f in grains], lists) for name in cut.fields}
    for outcome, (n, fields) in zip(settle(cut.typed, bounds, 3).tolist(), grains, strict=True):
        try:
            rows = three_valued(cut, fields, n)
        except ExpressionError:
            assert outcome == UNKNOWN, f"skipping would hide an error of {text}"
        else:
            assert agrees(outcome, rows), (text, outcome, rows, bounds)


# What people rely on --------------------------------------------------------------------------------------------------

YES, NO = np.array([True]), np.array([False])
SCHEMA = Schema(
    [
        Field.dense("run", "i4"),
        Field.dense("event", "u8"),
        Field.dense("met", "f4"),
        Field.dense("year", "i2"),
        Field.dense("good", "?"),
        Field.dense("res", "f4"),
        Field.dense("weight", "f8", optional=(0,)),
        Field.ragged("pt", "f4"),
        Field.ragged("eta", "f4"),
        Field.ragged("other", "f4"),
        Field.ragged("id", "i8"),
        Field.category("process", ("ttbb", "ttH", "data")),
    ]
)


def numbers(low, high, dtype="i8", *, nan=False, missing=False, number=True, items=(0, 0), lists=0, labels=None):
    def flag(x):
        return np.broadcast_to(np.array(x, bool), len(low))

    fewest, most = (np.broadcast_to(np.array(x), len(low)) for x in items)
    return Bounds(
        *(np.array(low, dtype), np.array(high, dtype)),
        *(flag(number), flag(nan), flag(missing), flag(False)),
        *(fewest, most, np.full(len(low), lists), labels),
    )


KNOWN = {
    "run": numbers([100, 200, 300], [199, 299, 300]),
    "event": numbers([0, 2**53 + 1, 2**63 + 1], [2**53, 2**63, 2**64 - 1], "u8"),
    "met": numbers([0.0, 30.5, -math.inf], [30.5, 400.0, math.inf], "f8", nan=[False, False, True]),
    "year": numbers([2016, 2017, 2018], [2016, 2018, 2018]),
    "good": numbers([0, 0, 1], [0, 1, 1]),
    "res": numbers([1.0, 1.0, 0.0], [1.0, 1.0, 0.0], "f8", nan=[True, False, True], number=[True, True, False]),
    "weight": numbers([1.0, 1.0, 0.0], [1.0, 2.0, 0.0], "f8", missing=[False, True, True], number=[True, True, False]),
    "pt": numbers(
        [20.0, 30.0, 0.0], [900.0, 40.0, 0.0], "f8", items=([0, 1, 0], [4, 6, 0]), number=[True, True, False]
    ),
    "eta": numbers([-2.5] * 3, [2.5] * 3, "f8", items=([0, 1, 0], [4, 6, 0])),
    "other": numbers([-2.5] * 3, [2.5] * 3, "f8", items=([0, 1, 0], [4, 6, 0]), lists=1),
    "id": numbers([-5, 1, 0], [5, 1, 2**63 - 1], items=([0, 2, 0], [4, 2, 3]), lists=2),
    "process": numbers(
        [0] * 3,
        [2] * 3,
        labels=(np.array([0, 1, 0]), (frozenset({"ttbb"}), frozenset({"ttH", "data"}))),
    ),
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # runs, sorted event numbers, years: the numbers are compared as they are
        ("run == 250", [FALSE, UNKNOWN, FALSE]),
        ("run == 300", [FALSE, FALSE, TRUE]),
        ("run != 300", [TRUE, TRUE, FALSE]),
        ("150 <= run < 300", [UNKNOWN, TRUE, FALSE]),
        ("run < 199.5", [TRUE, FALSE, FALSE]),
        ("run > 1e30", [FALSE] * 3),
        ("run > nan", [FALSE] * 3),
        ("run in (5, 300, 301)", [FALSE, FALSE, TRUE]),
        ("run not in (150, 250)", [UNKNOWN, UNKNOWN, TRUE]),
        ("event > 9007199254740992", [FALSE, TRUE, TRUE]),
        ("event >= 2.0**63", [FALSE, UNKNOWN, TRUE]),
        ("event == -1", [FALSE] * 3),
        ("event < run", [UNKNOWN, FALSE, FALSE]),
        ("year == 2016", [TRUE, FALSE, FALSE]),
        ("year in (2017, 2018)", [FALSE, TRUE, TRUE]),
        ("year in (2016.5, 2018)", [FALSE, UNKNOWN, TRUE]),
        ("year - 2000 >= 17", [FALSE, TRUE, TRUE]),
        ("2 * year < 4034", [TRUE, FALSE, FALSE]),
        ("year // 10 == 201", [TRUE] * 3),
        ("-year < -2016", [FALSE, TRUE, TRUE]),
        ("abs(-year) > 2016", [FALSE, TRUE, TRUE]),
        ("maximum(year, 2017) == 2017", [TRUE, UNKNOWN, FALSE]),
        ("where(year > 2016, 1, 2) == 1", [FALSE, TRUE, TRUE]),
        # reals: nan, infinity, and what is between two numbers of the field
        ("met > 1e9", [FALSE, FALSE, UNKNOWN]),
        ("met <= 400", [TRUE, TRUE, UNKNOWN]),
        ("met < inf", [TRUE, TRUE, UNKNOWN]),
        ("isnan(met)", [FALSE, FALSE, UNKNOWN]),
        ("isfinite(met)", [TRUE, TRUE, UNKNOWN]),
        ("isinf(met)", [FALSE, FALSE, UNKNOWN]),
        ("isinf(year)", [FALSE] * 3),
        ("met * 1000 > 5e5", [FALSE, FALSE, UNKNOWN]),
        ("met / 1000 < 0.5", [TRUE, TRUE, UNKNOWN]),
        ("sqrt(met) > 1", [UNKNOWN] * 3),
        # nan fails each comparison but !=
        ("res > 0", [UNKNOWN, TRUE, FALSE]),
        ("res < 0", [FALSE] * 3),
        ("not (res < 0)", [TRUE] * 3),
        ("res == 1", [UNKNOWN, TRUE, FALSE]),
        ("res != 1", [UNKNOWN, FALSE, TRUE]),
        ("res != 7", [TRUE] * 3),
        ("floor(met) == 30", [UNKNOWN] * 3),
        ("met > 500 or run == 300", [FALSE, FALSE, TRUE]),
        ("good", [FALSE, UNKNOWN, TRUE]),
        ("not good and run < 200", [TRUE, FALSE, FALSE]),
        ("xor(good, year > 2016)", [FALSE, UNKNOWN, FALSE]),
        # missing values: true in no row
        ("weight > 0", [TRUE, UNKNOWN, NONE]),
        ("weight > 5", [FALSE, NONE, NONE]),
        ("not (weight > 5)", [TRUE, UNKNOWN, NONE]),
        ("weight > 5 or run == 300", [FALSE, NONE, TRUE]),
        ("weight > 5 and run == 300", [FALSE, FALSE, NONE]),
        ("ismissing(weight)", [FALSE, UNKNOWN, TRUE]),
        # items: rows without any
        ("any(pt > 1000)", [FALSE, FALSE, FALSE]),
        ("any(pt > 25)", [UNKNOWN, TRUE, FALSE]),
        ("all(pt < 1000)", [TRUE, TRUE, TRUE]),
        ("all(pt > 1000)", [UNKNOWN, FALSE, TRUE]),
        ("none(pt > 1000)", [TRUE, TRUE, TRUE]),
        ("count(pt > 25) >= 1", [UNKNOWN, TRUE, FALSE]),
        ("count(pt > 25) > 4", [FALSE, UNKNOWN, FALSE]),
        ("len(pt) == 0", [UNKNOWN, FALSE, TRUE]),
        ("max(pt) > 1000", [NONE, FALSE, NONE]),
        ("min(pt) < 1000", [UNKNOWN, TRUE, NONE]),
        ("pt[0] > 25", [UNKNOWN, TRUE, NONE]),
        ("pt[-1] > 25", [UNKNOWN, TRUE, NONE]),
        ("first(pt) < 25", [UNKNOWN, FALSE, NONE]),
        ("pt[4] > 25", [NONE, UNKNOWN, NONE]),
        ("get(pt, 0, 0.0) > 25", [UNKNOWN, TRUE, FALSE]),
        ("get(pt, 4, 0.0) > 25", [FALSE, UNKNOWN, FALSE]),
        ("argmax(pt) < 6", [UNKNOWN, TRUE, NONE]),
        ("sum(id) == 2", [UNKNOWN, TRUE, UNKNOWN]),
        # labels
        ("process == 'ttbb'", [TRUE, FALSE, TRUE]),
        ("process != 'ttbb'", [FALSE, TRUE, FALSE]),
        ("process in ('ttH', 'data')", [FALSE, TRUE, FALSE]),
        ("process == 'ttH'", [FALSE, UNKNOWN, FALSE]),
        ("process == 'ttH' and met > 1000", [FALSE, FALSE, FALSE]),
        # where evaluating may raise, nothing is settled
        ("event * 2 > 0 and run == 0", [FALSE, UNKNOWN, UNKNOWN]),
        ("-event < 0 or true", [TRUE, TRUE, UNKNOWN]),
        ("abs(id[0]) >= 0 or true", [TRUE, TRUE, TRUE]),
        ("any(pt > eta) and run == 0", [FALSE, FALSE, FALSE]),
        ("any(pt > other) and run == 0", [UNKNOWN, UNKNOWN, FALSE]),
        ("sum(id) > 0 and run == 0", [FALSE, FALSE, UNKNOWN]),
    ],
)
def test_cuts_that_people_rely_on(text, expected):
    assert settle(check_cut(text, SCHEMA).typed, KNOWN, 3).tolist() == expected


def test_nothing_is_settled_of_fields_of_which_nothing_is_known():
    for text in ("run > 5", "any(pt > 0)", "weight == weight", "process == 'ttbb'", "event + event > 0 or true"):
        assert settle(check_cut(text, SCHEMA).typed, {}, 2).tolist() == [UNKNOWN] * 2
    assert settle(check_cut("run < 3e9 and event >= 0", SCHEMA).typed, {}, 2).tolist() == [TRUE] * 2


def test_an_operation_that_bounds_do_not_know_settles_nothing():
    typed = check_cut("run == 0", SCHEMA).typed
    strange = Typed("strange", (typed,), "bool", typed.dtype, 0, False, typed.tree)
    both = replace(check_cut("run == 0 and good", SCHEMA).typed, args=(typed, strange))
    assert settle(typed, KNOWN, 3).tolist() == [FALSE] * 3
    assert settle(both, KNOWN, 3).tolist() == [UNKNOWN] * 3


def test_shared_nodes_are_looked_at_once():
    x = check("run * 1.0", SCHEMA).typed
    for _ in range(200):  # as a tree it would have 2**200 nodes
        x = replace(x, op="+", args=(x, x))
    cut = replace(check_cut("run * 1.0 > 5", SCHEMA).typed, args=(x,))
    assert settle(cut, KNOWN, 3).tolist() == [TRUE] * 3


def test_bounds_may_be_one_for_all_grains():
    one = numbers([5], [5])
    assert settle(check_cut("run == 5", SCHEMA).typed, {"run": one}, 4).tolist() == [TRUE] * 4
    assert settle(check_cut("true", SCHEMA).typed, {}, 2).tolist() == [TRUE] * 2
    assert MOST_ITEMS >= 2**40


def test_rows_of_a_fixed_number_of_items_meet_lists_of_as_many():
    schema = Schema([Field.dense("p3", "f4", (3,)), Field.ragged("pt", "f4")])
    p3 = numbers([1.0, 1.0], [2.0, 2.0], "f8", items=([3, 3], [3, 3]), lists=7)
    pt = numbers([5.0, 5.0], [9.0, 9.0], "f8", items=([3, 2], [3, 3]), lists=8)
    cut = check_cut("any(p3 > pt)", schema)
    assert settle(cut.typed, {"p3": p3, "pt": pt}, 2).tolist() == [FALSE, UNKNOWN]
    data = {
        "p3": FieldData(np.ones((1, 3), "f4")),
        "pt": FieldData(np.full(2, 5, "f4"), (np.array([0, 2]),)),
    }
    with pytest.raises(ExpressionError, match="different numbers of items"):
        evaluate(cut, data.__getitem__, 1)
