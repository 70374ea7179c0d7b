"""What single constructs mean, case by case; and how `evaluate` treats its inputs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mmdask.errors import ExpressionError, SchemaError
from mmdask.expr import check, check_cut, combine, conjuncts, evaluate, evaluate_cut, evaluate_many, negate
from mmdask.schema import Field, FieldData, Schema

nan, inf = math.nan, math.inf


def ragged(rows, dtype):
    offsets = np.concatenate([[0], np.cumsum([len(r) for r in rows])]).astype(np.int64)
    return FieldData(np.array([x for r in rows for x in r], dtype), (offsets,))


def run(text, constants=None, **fields):
    """Evaluate over fields given as lists: of lists for ragged, with (values, dtype) for another dtype than f8."""
    data, schema = {}, []
    for name, given in fields.items():
        values, dtype = given if isinstance(given, tuple) else (given, "f8")
        if isinstance(values[0], list):
            data[name] = ragged(values, dtype)
            schema.append(Field.ragged(name, dtype))
        else:
            data[name] = FieldData(np.array(values, dtype))
            schema.append(Field.dense(name, dtype))
    n = len(next(iter(data.values())))
    result = evaluate(check(text, Schema(schema), constants), data.__getitem__, n)
    known = np.ones(len(result.values), bool) if result.known is None else result.known
    return [v if k else None for v, k in zip(result.values.tolist(), known, strict=True)]


PT = [[50.0, 20.0, 30.0], [], [nan, 1.0]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sum(pt)", [100.0, 0.0, nan]),
        ("mean(pt)", [100 / 3, None, nan]),
        ("min(pt)", [20.0, None, nan]),
        ("max(pt)", [50.0, None, nan]),
        ("argmin(pt)", [1, None, 0]),
        ("argmax(pt)", [0, None, 0]),
        ("len(pt)", [3, 0, 2]),
        ("count(pt > 25)", [2, 0, 0]),
        ("any(pt > 25)", [True, False, False]),
        ("all(pt > 25)", [False, True, False]),
        ("none(pt > 25)", [False, True, True]),
        ("first(pt)", [50.0, None, nan]),
        ("last(pt)", [30.0, None, 1.0]),
        ("pt[1]", [20.0, None, 1.0]),
        ("pt[-3]", [50.0, None, None]),
        ("get(pt, 2, -1)", [30.0, -1.0, -1.0]),
        ("get(pt, -3, pt[0])", [50.0, None, nan]),
        ("pt[2] > 25 or len(pt) < 2", [True, True, None]),
        ("pt[2] > 25 and len(pt) < 2", [False, None, False]),
        ("not (pt[2] > 25)", [False, None, None]),
        ("any(pt > pt[2])", [True, False, None]),
        ("all(pt > pt[2])", [False, True, None]),
        ("any(pt > pt[2] or pt == 1)", [True, False, True]),
        ("all(pt > pt[2] and pt == 7)", [False, True, False]),
        ("all(pt > pt[2] and pt != 1)", [False, True, False]),
        ("not all(pt > pt[2] and pt != 1)", [True, False, True]),
        ("count(pt > pt[2])", [1, 0, None]),
        ("sum(pt - pt[2])", [10.0, 0.0, None]),
        ("where(pt[2] > 0, 1, 2)", [1, None, None]),
        ("where(len(pt) > 1, pt[2], 7)", [30.0, 7.0, None]),
        ("min(pt > pt[2])", [False, None, None]),
        ("1 // (len(pt) - 2)", [1, -1, None]),
        ("5 % (len(pt) - 2)", [0, -1, None]),
        ("7 / (len(pt) - 2)", [7.0, -3.5, inf]),
    ],
)
def test_items_and_missing(text, expected):
    got = run(text, pt=PT)
    assert len(got) == len(expected)
    for g, e in zip(got, expected, strict=True):
        assert g == e or (isinstance(g, float) and isinstance(e, float) and math.isnan(g) and math.isnan(e)), (
            got,
            expected,
        )


def test_rows_of_a_fixed_number_of_items():
    schema = Schema([Field.dense("p3", "f4", (3,)), Field.ragged("pt", "f4"), Field.dense("x", "f4")])
    data = {
        "p3": FieldData(np.arange(6, dtype=np.float32).reshape(2, 3)),
        "pt": ragged([[1, 0, 3], [9, 3, 4]], "f4"),
        "x": FieldData(np.float32([1, 4])),
    }

    def rows(text):
        return evaluate(check(text, schema), data.__getitem__, 2).values.tolist()

    assert rows("p3[1]") == [1.0, 4.0]
    assert rows("sum(p3)") == [3.0, 12.0]
    assert rows("count(p3 > x)") == [1, 1]
    assert rows("count(p3 > pt)") == [1, 2]
    assert evaluate(check("p3[2]", schema), data.__getitem__, 2).known is None
    data["pt"] = ragged([[1, 0, 3], [9, 3]], "f4")
    with pytest.raises(ExpressionError, match=r"'p3' and 'pt' .* row 1 has 3 and 2"):
        rows("count(p3 > pt)")


def test_rows_meet_items():
    assert run("pt * x", pt=PT[:2], x=[2.0, 3.0]) == [100.0, 40.0, 60.0]
    assert run("sum(where(pt > x, pt, 0))", pt=PT[:2], x=[25.0, 3.0]) == [80.0, 0.0]


def test_offsets_that_differ_are_an_error_of_both_fields_and_the_row():
    schema = Schema([Field.ragged("jet_pt", "f4"), Field.ragged("el_pt", "f4")])
    data = {"jet_pt": ragged([[1], [2, 3], [4]], "f4"), "el_pt": ragged([[1], [2], [3, 4]], "f4")}
    cut = check_cut("any(jet_pt > el_pt)", schema)
    with pytest.raises(ExpressionError, match=r"'jet_pt' and 'el_pt' .* row 1 has 2 and 1"):
        evaluate_cut(cut, data.__getitem__, 3)
    with pytest.raises(ExpressionError, match="row 1001 has 2 and 1"):
        evaluate_cut(cut, data.__getitem__, 3, first_row=1000)
    apart = check_cut("any(jet_pt > 2) and any(el_pt > 3)", schema)
    assert evaluate_cut(apart, data.__getitem__, 3).tolist() == [False, False, True]


def test_integers_are_exact():
    assert run("ev == 9007199254740993", ev=([2**53, 2**53 + 1], "i8")) == [False, True]
    assert run("ev == 9007199254740993.0", ev=([2**53, 2**53 + 1], "i8")) == [True, False]
    assert run("ev == x", ev=([2**53, 2**53 + 1], "i8"), x=[2.0**53] * 2) == [True, False]
    assert run("a < b", a=([-1, 2**63 - 1], "i8"), b=([0, 2**63], "u8")) == [True, True]
    assert run("a - b", a=([1], "u4"), b=([2], "u4")) == [-1]
    assert run("a * 2", a=([200], "u1")) == [400]
    assert run("a * a", a=([2**31 - 1], "i4")) == [(2**31 - 1) ** 2]
    assert run("-a", a=([-128], "i1")) == [128]
    assert run("abs(a)", a=([-128], "i1")) == [128]
    assert run("abs(a)", a=([-5, -3], "i8")) == [5, 3]
    assert run("a == 18446744073709551615", a=([2**64 - 1, 0], "u8")) == [True, False]
    assert run("a < 99999999999999999999999", a=([2**64 - 1], "u8")) == [True]
    assert run("a > -99999999999999999999999", a=([-(2**63)], "i8")) == [True]
    assert run("a + b", a=([-5], "i8"), b=([2**63], "u8")) == [2**63 - 5]
    assert run("a & b", a=([-1], "i8"), b=([2**63], "u8")) == [2**63]
    assert run("minimum(a, b)", a=([-1, 2**63 - 1], "i8"), b=([2**63, 5], "u8")) == [-1, 5]
    assert run("maximum(a, b)", a=([-1, 2**63 - 1], "i8"), b=([2**63, 5], "u8")) == [2**63, 2**63 - 1]
    for narrow in ("i1", "i2", "i4"):
        assert run("minimum(a, b)", a=([-1, 7], narrow), b=([2**63, 2**64 - 1], "u8")) == [-1, 7]
        assert run("maximum(b, a)", a=([-1, 7], narrow), b=([2**63, 5], "u8")) == [2**63, 7]
    assert run("minimum(a, b)", a=([9, 7], "u4"), b=([2**63, 5], "u8")) == [9, 5]
    assert run("sum(a)", a=([[2**63 - 1, -5, 4], []], "i8")) == [2**63 - 2, 0]
    assert run("mean(a)", a=([[2**53 + 1, 2**53 + 3]], "i8")) == [2.0**53 + 2]
    assert run("mean(a)", a=([[2**63 - 1, 2**63 - 1], [], [1, 2]], "i8")) == [2.0**63, None, 1.5]
    assert run("mean(a)", a=([[2**64 - 1, 2**64 - 1, 2**64 - 1]], "u8")) == [2.0**64]
    assert run("sum(a)", a=([[255] * 300], "u1")) == [76500]
    assert run("a ** 3", a=([-2, 2**20], "i8")) == [-8, 2**60]
    assert run("a ** 63", a=([-2, 1], "i8")) == [-(2**63), 1]
    assert run("a ** 99999", a=([-1, 1, 0], "i8")) == [-1, 1, 0]
    assert run("a ** -1", a=([2, 4], "i8")) == [0.5, 0.25]
    assert run("xor(a, 255)", a=([1], "i2")) == [254]


@pytest.mark.parametrize(
    ("text", "values", "dtype"),
    [
        ("a + 1", [0, 2**63 - 1], "i8"),
        ("a - 1", [1, 0], "u8"),
        ("a * 2", [3, 2**62], "i8"),
        ("-a", [0, -(2**63)], "i8"),
        ("-a", [0, 2**63 + 1], "u8"),
        ("abs(a)", [0, -(2**63)], "i8"),
        ("a // -1", [0, -(2**63)], "i8"),
        ("a ** 63", [1, 2], "i8"),
        ("a ** 2", [1, 2**32], "u8"),
        ("a + (-1)", [1, 0], "u8"),
    ],
)
def test_integers_that_do_not_fit_are_an_error_of_the_row(text, values, dtype):
    with pytest.raises(ExpressionError, match=r"does not fit u?int64 in row 1"):
        run(text, a=(values, dtype))


def test_sums_that_do_not_fit():
    for dtype in ("i8", "u8"):
        with pytest.raises(ExpressionError, match="in row 1: it is"):
            run("sum(a)", a=([[1], [2**63 - 1, 2**63 - 1, 5], []], dtype))
    # not where the sum is missing: row 1 has no element 3
    rows = [[1, 1, 1, 1], [2**63 - 1, 2**63 - 1, 5]]
    assert run("sum(where(a[3] > 0, a, a))", a=(rows, "i8")) == [4, None]
    assert run("where(a[3] > 0, a[0], a[0]) + 1", a=([[5, 1, 1, 1], [2**63 - 1]], "i8")) == [6, None]


def test_truth_of_numbers():
    assert run("a && x", a=([0, 1, 2, -1], "i4"), x=[1.0, 0.0, nan, 5.0]) == [False, False, True, True]
    assert run("!a", a=([0, 1], "i4")) == [True, False]
    assert run("any(f)", f=([[0, 2], [0]], "i1")) == [True, False]
    schema = Schema([Field.dense("nJets", "i4")])
    assert check_cut("nJets && true", schema).canonical == "((nJets != 0) and true)"


def test_nan_is_ieee():
    assert run("x > 0", x=[nan]) == [False]
    assert run("!(x > 0)", x=[nan]) == [True]
    assert run("x != x", x=[nan]) == [True]
    assert run("1 < x < nan", x=[2.0]) == [False]


FUNCTIONS = [
    ("sqrt(x)", math.sqrt),
    ("exp(x)", math.exp),
    ("log(x)", math.log),
    ("log10(x)", math.log10),
    ("sin(x)", math.sin),
    ("cos(x)", math.cos),
    ("tan(x)", math.tan),
    ("log2(x)", math.log2),
    ("sinh(x)", math.sinh),
    ("cosh(x)", math.cosh),
    ("tanh(x)", math.tanh),
    ("asin(1 / (1 + x))", lambda x: math.asin(1 / (1 + x))),
    ("acos(1 / (1 + x))", lambda x: math.acos(1 / (1 + x))),
    ("atan(x)", math.atan),
    ("atan2(x, 2)", lambda x: math.atan2(x, 2)),
    ("hypot(x, 3)", lambda x: math.hypot(x, 3)),
    ("x ** 2.5", lambda x: x**2.5),
    ("x ** -1", lambda x: 1 / x),
    ("2 ** x", lambda x: 2**x),
    ("abs(-x)", lambda x: x),
    ("floor(x)", math.floor),
    ("ceil(x)", math.ceil),
    ("round(x)", round),
    ("minimum(x, 2)", lambda x: min(x, 2)),
    ("maximum(x, 2)", lambda x: max(x, 2)),
    ("delta_phi(x, 7)", lambda x: math.remainder(x - 7, 2 * math.pi)),
    ("delta_r(x, 1, 2, x)", lambda x: math.hypot(x - 2, math.remainder(1 - x, 2 * math.pi))),
    ("x // 0.75", lambda x: x // 0.75),
    ("-x % 0.75", lambda x: -x % 0.75),
    ("pi * x", lambda x: math.pi * x),
]


@pytest.mark.parametrize("text", ["asin(x)", "acos(x)", "asin(-x)", "log2(x - 9)", "log(x - 9)", "sqrt(x - 9)"])
def test_outside_the_domain_there_is_nan(text):
    assert all(math.isnan(v) for v in run(text, x=[1.5, 8.0]))


def test_inverses_and_infinities():
    assert run("log2(x)", x=[0.0, 8.0, inf]) == [-inf, 3.0, inf]
    assert run("atan(x)", x=[inf, -inf]) == [math.pi / 2, -math.pi / 2]
    assert run("tanh(x)", x=[inf, -inf]) == [1, -1]
    assert run("cosh(x)", x=[1e4, -inf]) == [inf, inf]
    assert run("isinf(x)", x=[inf, -inf, nan, 1.0, 1e300]) == [True, True, False, False, False]
    assert run("isinf(x)", x=([3, 4], "i2")) == [False, False]
    assert run("isinf(1 / x)", x=([0, 4], "u8")) == [True, False]


@pytest.mark.parametrize(("text", "function"), FUNCTIONS)
@pytest.mark.parametrize("dtype", ["f4", "f8", "i2", "u8"])
def test_functions(text, function, dtype):
    values = [1, 2, 5, 9] if dtype in ("i2", "u8") else [0.5, 1.5, 2.5, 2.75, 100.0]
    for got, x in zip(run(text, x=(values, dtype)), values, strict=True):
        assert got == pytest.approx(function(x), rel=1e-14, abs=1e-14)


def test_dtypes():
    schema = Schema([Field.dense("f", "f4"), Field.dense("i", "i2"), Field.dense("u", "u8"), Field.ragged("r", "f4")])
    for text, dtype in [
        ("f + f", "f8"),
        ("f * 2", "f8"),
        ("-f", "f4"),
        ("abs(f)", "f4"),
        ("floor(f)", "f4"),
        ("max(r)", "f4"),
        ("r[0]", "f4"),
        ("sum(r)", "f8"),
        ("mean(r)", "f8"),
        ("where(f > 0, f, f)", "f4"),
        ("where(f > 0, f, 0)", "f8"),
        ("i", "i2"),
        ("i + i", "i8"),
        ("i / i", "f8"),
        ("u + 1", "u8"),
        ("u / 2", "f8"),
        ("i & 3", "i2"),
        ("count(r > 1)", "i8"),
        ("argmax(r)", "i8"),
        ("1", "i8"),
        ("1.0", "f8"),
    ]:
        assert check(text, schema).dtype == np.dtype(dtype), text


def test_labels_may_have_other_codes_in_another_part():
    cut = check_cut("process != 'ttH'", Schema([Field.category("process", ["ttbb", "ttH"])]))
    one = FieldData(np.int32([0, 1, 1]), (), ("ttbb", "ttH"))
    two = FieldData(np.int32([0, 1, 0]), (), ("ttH", "ttbb"))
    none = FieldData(np.int32([0, 0]), (), ("ttbb",))
    assert evaluate_cut(cut, lambda name: one, 3).tolist() == [True, False, False]
    assert evaluate_cut(cut, lambda name: two, 3).tolist() == [False, True, False]
    assert evaluate_cut(cut, lambda name: none, 2).tolist() == [True, True]


def test_fields_are_read_once_and_never_written():
    reads = []
    values = np.arange(6, dtype=np.float32)
    values.flags.writeable = False
    data = {"x": FieldData(values), "k": FieldData(np.broadcast_to(np.int8(3), 6)), "g": FieldData(values > 2)}
    data["g"].values.flags.writeable = False
    schema = Schema([Field.dense("x", "f4"), Field.dense("k", "i1"), Field.dense("g", "?")])

    def read(name):
        reads.append(name)
        return data[name]

    cuts = [check_cut(t, schema) for t in ("x > 2 and k == 3", "x + k > 4 and x > 2", "g", "k == 4", "true", "not g")]
    results = evaluate_many(cuts, read, 6)
    assert sorted(reads) == ["g", "k", "x"]
    for cut, result in zip(cuts, results, strict=True):
        mask = evaluate_cut(cut, read, 6)
        assert mask.shape == (6,)
        assert mask.dtype == np.bool_
        assert mask.flags.writeable
        assert not np.shares_memory(mask, data["g"].values)
        assert (result.values == mask).all()
    assert results[4].values.all()


def test_a_field_that_is_not_what_was_checked():
    cut = check_cut("x > 2", Schema([Field.dense("x", "f4")]))
    with pytest.raises(SchemaError, match="2 rows where 3"):
        evaluate_cut(cut, lambda name: FieldData(np.zeros(2, "f4")), 3)
    with pytest.raises(SchemaError, match="'x' is float64"):
        evaluate_cut(cut, lambda name: FieldData(np.zeros(3, "f8")), 3)
    big = FieldData(np.array([1, 3, 2], ">f4"))
    assert evaluate_cut(cut, lambda name: big, 3).tolist() == [False, True, False]
    number = check("x + 1", Schema([Field.dense("x", "f4")]))
    with pytest.raises(ExpressionError, match="no cut"):
        evaluate_cut(number, lambda name: big, 3)


def test_conjuncts_are_cuts_of_their_own():
    schema = Schema([Field.dense("a", "i4"), Field.dense("x", "f4"), Field.dense("g", "?")])
    cut = check_cut("a and (1 < x < 3 && (g & a == 2)) and (x > 1 or g)", schema)
    parts = conjuncts(cut)
    assert [p.text for p in parts] == ["a", "1 < x < 3", "g", "a == 2", "x > 1 or g"]
    assert [p.canonical for p in parts] == ["(a != 0)", "(1 < x < 3)", "g", "(a == 2)", "((x > 1) or g)"]
    assert conjuncts(parts[1]) == (parts[1],)
    both = combine("and", cut, negate(parts[2]))
    assert [p.text for p in conjuncts(both)] == [*[p.text for p in parts], "not (g)"]
    assert both.text == f"({cut.text}) and (not (g))"
    either = combine("or", parts[1], parts[2])
    assert either.canonical == "((1 < x < 3) or g)"
    assert conjuncts(either) == (either,)


def test_cuts_are_joined_with_cuts():
    schema = Schema([Field.dense("a", "i4"), Field.dense("g", "?")])
    number, cut = check("a + 1", schema), check_cut("g", schema)
    for call in (lambda: combine("and", cut, number), lambda: negate(number)):
        with pytest.raises(ExpressionError, match="this is none"):
            call()
    other = check_cut("g", Schema([Field.ragged("x", "f4"), Field.dense("g", "?")]))
    assert combine("and", cut, other).canonical == "(g and g)"
    clash = check_cut("a > 1", Schema([Field.dense("a", "f4")]))
    with pytest.raises(ExpressionError, match="two types"):
        combine("or", check_cut("a > 1", schema), clash)


def test_many_combinations_stay_within_the_limits():
    schema = Schema([Field.dense("a", "i4")])
    cut = check_cut("a > 0", schema)
    for i in range(300):
        cut = combine("and", cut, check_cut(f"a != {i + 5}", schema))
    assert len(conjuncts(cut)) == 301
    for _ in range(61):
        cut = negate(cut)
    assert check_cut(cut.canonical, schema) == cut
    with pytest.raises(ExpressionError, match="nests at most"):
        negate(cut)
