"""Fields of awkward forms: random nested arrays against plain Python, and what has no field."""

from __future__ import annotations

import awkward as ak
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows_back import rows_back

from mmdask.schema import MAX_LEVELS
from mmdask.sources.converting.table import UnreadableError
from mmdask.sources.root.forms import plan_of

C = ak.contents
Index64 = ak.index.Index64
TEXTS = ["", "a", "äöü", "x€", "long" * 20]


def numbers(draw, n):
    dtype = draw(st.sampled_from(["?", "i1", "u8", "f4", "f8", "i2"]))
    shape = draw(st.sampled_from([(), (), (2,), (0,)]))
    values = np.arange(n * int(np.prod(shape))).reshape(n, *shape)
    return C.NumpyArray((values % 2 == 1) if dtype == "?" else values.astype(dtype))


def texts(draw, n):
    some = [draw(st.sampled_from(TEXTS)) for _ in range(n)]
    return ak.Array(some).layout if some else ak.Array(["x"]).layout[:0]


def lists(draw, n, depth):
    """With items before, between and behind the lists, as a slice of a longer array has."""
    counts = [draw(st.integers(0, 3)) for _ in range(n)]
    gap = draw(st.sampled_from([0, 0, 1]))
    ends = np.cumsum([gap, *counts]) if gap else np.cumsum([0, *counts])
    content = contents(draw, int(ends[-1]) + draw(st.integers(0, 2)), depth - 1)
    if draw(st.booleans()):
        return C.ListOffsetArray(Index64(ends.astype("i8")), content)
    order = np.argsort([draw(st.integers(0, 9)) for _ in range(n)], kind="stable")
    starts, stops = np.zeros(n, "i8"), np.zeros(n, "i8")
    starts[order], stops[order] = ends[:-1], ends[1:]
    return C.ListArray(Index64(starts), Index64(stops), content)


def contents(draw, n, depth):
    """A random layout of `n` elements, and whatever awkward can hold below it."""
    kinds = ["numbers", "text"] + ["list", "list", "record", "tuple", "option", "mask", "regular", "indexed"] * (
        depth > 0
    )
    kind = draw(st.sampled_from(kinds))
    if kind == "numbers":
        return numbers(draw, n)
    if kind == "text":
        return texts(draw, n)
    if kind == "list":
        return lists(draw, n, depth)
    if kind in ("record", "tuple"):
        members = [contents(draw, n + draw(st.integers(0, 1)), depth - 1) for _ in range(draw(st.integers(1, 3)))]
        return C.RecordArray(members, None if kind == "tuple" else list("abc")[: len(members)], length=n)
    if kind == "regular":
        size = draw(st.integers(0, 3))
        rest = draw(st.integers(0, max(0, size - 1)))
        return C.RegularArray(contents(draw, n * size + rest, depth - 1), size, zeros_length=n)
    m = draw(st.integers(max(1, n), n + 2))
    content = contents(draw, m, depth - 1)
    if kind == "mask":
        mask = np.array([draw(st.booleans()) for _ in range(n)], np.int8)
        return C.ByteMaskedArray.simplified(ak.index.Index8(mask), content[:n], valid_when=False)
    lowest = -1 if kind == "option" else 0
    index = Index64(np.array([draw(st.integers(lowest, m - 1)) for _ in range(n)], "i8"))
    make = C.IndexedOptionArray if kind == "option" else C.IndexedArray
    return make.simplified(index, content)


def member(value, path):
    """What a member is in one row: the object taken apart, in lists and lists of lists."""
    if value is None or not path:
        return value
    if isinstance(value, dict):
        return member(value[path[0]], path[1:])
    if isinstance(value, tuple):
        return member(value[int(path[0])], path[1:])
    return [member(v, path) for v in value]


@settings(max_examples=500)
@given(st.data())
def test_random_layouts(data):
    n = data.draw(st.integers(0, 4))
    layout = contents(data.draw, n, data.draw(st.integers(0, 4)))
    plan = plan_of("x", layout.form)
    assert not plan.skipped
    rows = ak.Array(layout).to_list()
    found = plan.data(layout, plan.fields)
    for field, run in zip(plan.fields, found, strict=True):
        assert len(run) == n
        path = field.name.split(".")[1:]
        assert rows_back(field, run) == [member(row, path) for row in rows], field
    # any of them alone, in any order, and runs of the rows
    some = data.draw(st.lists(st.sampled_from(plan.fields), unique=True))
    for field, run in zip(some, plan.data(ak.Array(layout), some), strict=True):
        assert rows_back(field, run) == rows_back(field, found[plan.fields.index(field)])
    a = data.draw(st.integers(0, n))
    for field, run in zip(plan.fields, plan.data(layout[a:], plan.fields), strict=True):
        assert rows_back(field, run) == rows_back(field, found[plan.fields.index(field)])[a:]


def test_missing_objects_with_missing_members():
    """What is missing in an object that is missing counts once, at its own depth."""
    rows = [None, {"a": 1.5, "b": [None, [1]], "c": ["x", None]}, {"a": None, "b": None, "c": []}, None]
    for many in (rows, [rows, None, [], rows[::-1]]):
        layout = ak.Array(many).layout
        plan = plan_of("x", layout.form)
        assert [f.optional for f in plan.fields] == [(0,), (0, 1), (0, 1)] or many is not rows
        for field, run in zip(plan.fields, plan.data(layout, plan.fields), strict=True):
            assert rows_back(field, run) == [member(row, field.name.split(".")[1:]) for row in many]


def test_arrays_of_lists_in_arrays():
    """Fixed lengths outside of lists become levels of these lengths, in their order."""
    nested = np.arange(12).reshape(1, 2, 3, 2).tolist()
    layout = ak.to_regular(ak.to_regular(ak.Array(nested), 1), 2).layout
    plan = plan_of("x", layout.form)
    assert [f.describe() for f in plan.fields] == ["ragged int64 of 3 levels"]
    assert rows_back(plan.fields[0], plan.data(layout, plan.fields)[0]) == nested


def describe(form):
    plan = plan_of("x", form)
    return {f.name: f.describe() for f in plan.fields}, dict(plan.skipped)


def test_names_and_types():
    p4 = {"fP": {"fX": 1.0, "fY": 2.0}, "fE": np.float32(3)}
    fields, _ = describe(ak.Array([[p4]]).layout.form)
    assert fields == dict.fromkeys(["x.fP.fX", "x.fP.fY", "x.fE"], "ragged float64")
    assert describe(ak.Array([[[1]], []]).layout.form)[0] == {"x": "ragged int64 of 2 levels"}
    assert describe(ak.Array([["a"], []]).layout.form)[0] == {"x": "ragged string"}
    assert describe(ak.Array([["a"], None]).layout.form)[0] == {"x": "optional ragged string"}
    assert describe(ak.Array([{"a": [1, None]}, None]).layout.form)[0] == {
        "x.a": "optional ragged int64 with optional items"
    }
    assert describe(ak.Array(np.zeros((2, 3, 4))).layout.form)[0] == {"x": "float64 (3, 4)"}
    two = ak.to_regular(ak.Array([[["a", "b"]], [["c", "d"]]]), axis=None)
    assert describe(two.layout.form)[0] == {"x": "ragged string of 2 levels"}, "an array of text has levels"


@pytest.mark.parametrize("names", [None, ["key", "value"]])
def test_maps(names):
    """A pair of a map has names, whether the file says it or awkward's parameter."""
    pairs = C.RecordArray([C.NumpyArray(np.arange(3)), C.NumpyArray(np.arange(3) / 2)], names)
    pairs = pairs if names else pairs.copy(parameters={"__array__": "sorted_map"})
    plan = plan_of("m", C.ListOffsetArray(Index64(np.array([0, 2, 3])), pairs).form)
    assert [f.name for f in plan.fields] == ["m.key", "m.value"]
    plain = C.RecordArray([C.NumpyArray(np.arange(3)), C.NumpyArray(np.arange(3) / 2)], None)
    assert [f.name for f in plan_of("t", plain.form).fields] == ["t.0", "t.1"]


def test_what_has_no_field():
    union = ak.Array([1, "a"]).layout
    fields, skipped = describe(C.RecordArray([union, C.NumpyArray(np.arange(2))], ["u", "n"]).form)
    assert fields == {"x.n": "int64"}
    assert skipped == {"x.u": "its values are of several types: int64, string"}
    assert describe(ak.forms.EmptyForm())[1] == {"x": "its type is unknown"}
    assert describe(ak.forms.RecordForm([], []))[1] == {"x": "an object without members"}
    assert "cannot be stored" in describe(ak.forms.NumpyForm("float16"))[1].get("x", "cannot be stored")
    deep = ak.forms.NumpyForm("int8")
    for _ in range(MAX_LEVELS + 1):
        deep = ak.forms.ListOffsetForm("i64", deep)
    assert f"at most {MAX_LEVELS} levels" in describe(deep)[1]["x"]
    assert "printable characters" in describe(ak.forms.RecordForm([deep.content], ["a\nb"]))[1]["x.a\nb"]
    twice = ak.forms.RecordForm(
        [ak.forms.NumpyForm("int8"), ak.forms.RecordForm([ak.forms.NumpyForm("int8")], ["b"])], ["a.b", "a"]
    )
    assert describe(twice) == ({"x.a.b": "int8"}, {"x.a.b": "a second member of this name"})


def test_arrays_that_lost_their_type():
    form = ak.Array([[{"a": 1.0, "b": ["x"]}]]).layout.form
    plan = plan_of("x", form)
    for some in (ak.Array([]), ak.Array([[], []])):
        for field, run in zip(plan.fields, plan.data(some, plan.fields), strict=True):
            assert rows_back(field, run) == some.to_list()


def test_arrays_of_another_form():
    plan = plan_of("x", ak.Array([[1.5]]).layout.form)
    for wrong in (ak.Array([1.5]), ak.Array([[1]]), ak.Array([["a"]]), ak.Array([[None, 1.5]]), ak.Array([{"a": 1}])):
        with pytest.raises(UnreadableError, match="should be"):
            plan.data(wrong, plan.fields)


def test_text_that_is_not_utf8():
    for wrong, message in [(["a", b"\xff"], r"invalid start byte b'\\xff'"), ([b"\xc3", b"\xa4"], "begins within")]:
        raw = [w if isinstance(w, bytes) else w.encode() for w in wrong]
        content = C.NumpyArray(np.frombuffer(b"".join(raw), "u1"), parameters={"__array__": "char"})
        ends = Index64(np.cumsum([0, *map(len, raw)]))
        layout = C.ListOffsetArray(ends, content, parameters={"__array__": "string"})
        plan = plan_of("x", layout.form)
        with pytest.raises(UnreadableError, match=message):
            plan.data(layout, plan.fields)
