"""Lists cut or filled to one length, and new names by patterns, against plain Python."""

from __future__ import annotations

import fnmatch
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdask.errors import OptionError, SchemaError
from mmdask.schema import Field, FieldData
from mmdask.sources.agreeing import shaped as shaped_module
from mmdask.sources.agreeing.padding import Pad, make_pads, pad_rows
from mmdask.sources.agreeing.renaming import check_distinct, check_rename, new_names
from mmdask.sources.agreeing.shaped import Padding, Shaped, cut_text
from mmdask.sources.agreeing.shaping import Change

LISTS = st.lists(st.none() | st.lists(st.none() | st.integers(-9, 9), max_size=6), max_size=6)


def ragged(rows: list[Any]) -> FieldData:
    there = np.array([r is not None for r in rows], bool)
    items = [x for r in rows for x in (r or ())]
    offsets = np.concatenate([[0], np.cumsum([len(r or ()) for r in rows])]).astype(np.int64)
    values = np.array([0 if x is None else x for x in items], "i4")
    return FieldData(values, (offsets,), valid=(there, np.array([x is not None for x in items], bool)))


@given(LISTS, st.integers(1, 7), st.none() | st.integers(-3, 3))
def test_padded_rows_are_python_slices(rows: list[Any], length: int, value: int | None) -> None:
    field, pad = Field.ragged("x", "i4", optional=(0, 1)), Pad(length, value)
    data, n_rows, n_items, _ = pad_rows(field, ragged(rows), pad)
    fill = value or 0
    expected = [
        [fill if x is None else x for x in r[:length]] + [fill] * (length - len(r)) for r in rows if r is not None
    ]
    assert data.values[data.valid[0]].tolist() == expected
    assert data.valid[0].tolist() == [r is not None for r in rows]
    assert not data.values[~data.valid[0]].any()
    assert n_rows == sum(len(r) > length for r in rows if r is not None)
    assert n_items == sum(max(0, len(r) - length) for r in rows if r is not None)
    assert pad.field(field) == Field.dense("x", "i4", (length,), optional=(0,))


def test_fixed_arrays_are_cut_and_filled_too() -> None:
    field = Field.dense("x", "f4", (2, 3))
    values = np.arange(12, dtype="f4").reshape(2, 2, 3)
    data, rows, items, _ = pad_rows(field, FieldData(values), Pad(3))
    assert (data.values.shape, rows, items) == ((2, 3, 3), 0, 0)
    assert np.array_equal(data.values[:, :2], values)
    assert np.isnan(data.values[:, 2]).all()
    data, rows, items, _ = pad_rows(field, FieldData(values), Pad(1))
    assert np.array_equal(data.values, values[:, :1])
    assert (rows, items) == (2, 2)
    assert Pad(3).field(field).shape == (3, 3)
    there = np.array([True, False])
    data, rows, items, _ = pad_rows(field, FieldData(values, valid=(there,)), Pad(1))
    assert (rows, items) == (1, 1), "nothing is cut off a row that is missing"
    assert np.isnan(data.values[1]).all()


def test_items_keep_their_shape() -> None:
    field = Field.ragged("x", "f8", (2,))
    data, *_ = pad_rows(field, FieldData(np.arange(6.0).reshape(3, 2), (np.array([0, 1, 3]),)), Pad(2, -1.0))
    assert data.values.tolist() == [[[0, 1], [-1, -1]], [[2, 3], [4, 5]]]


VALUES = [
    ("f4", None, math.nan),
    ("f4", math.inf, math.inf),
    ("f4", 0.1, float(np.float32(0.1))),
    ("u1", None, 0),
    ("u1", 255, 255),
]


@pytest.mark.parametrize(("dtype", "value", "expected"), VALUES)
def test_what_fills(dtype: str, value: Any, expected: Any) -> None:
    found = Pad(3, value).fill(Field.ragged("x", dtype)).item()
    assert found == expected or (math.isnan(found) and math.isnan(expected))


@pytest.mark.parametrize(
    ("dtype", "value"), [("u1", -1), ("u1", 256), ("i4", math.nan), ("i4", 0.5), ("f4", 1e300), ("f4", 1j)]
)
def test_a_value_that_does_not_fit_is_refused(dtype: str, value: Any) -> None:
    with pytest.raises(SchemaError, match="does not fit 'x'"):
        Pad(3, value).field(Field.ragged("x", dtype))


@pytest.mark.parametrize(
    "field", [Field.dense("x", "f4"), Field.ragged("x", "f4", levels=2), Field.string("x")], ids=Field.describe
)
def test_only_lists_of_numbers_are_padded(field: Field) -> None:
    with pytest.raises(SchemaError, match="only lists of numbers of one level can be padded"):
        Pad(3).field(field)


@pytest.mark.parametrize(
    "pad", ["x", {"x": "3"}, {"x": 0}, {"x": -1}, {"x": (3, 1, 2)}, {"x": (3, "a")}, {3: 3}, {"x": True}, {"x": 2.0}]
)
def test_what_pad_cannot_be(pad: Any) -> None:
    with pytest.raises(OptionError, match="pad"):
        make_pads(pad)


def test_options_have_no_nan() -> None:
    pads = make_pads({"x": (np.int64(3), np.float32("nan")), "y": [4], "z": (2, 1)})
    assert [p.option for p in pads.values()] == [[3, "nan"], [4], [2, "1"]]


# New names ----------------------------------------------------------------------------------------------------------

# without the characters that part objects from members, or make short names
NAMES = st.lists(st.text("ab_", min_size=1, max_size=4), unique=True, max_size=6)


def test_patterns_mean_other_characters_as_they_are() -> None:
    assert new_names(["a.b", "axb", "a+b"], {"a.?": "x*", "?+b": "y*"})[0] == {"a.b": "xb", "axb": "axb", "a+b": "ya"}


@given(NAMES, st.lists(st.text("ab*?", min_size=1, max_size=3), unique=True, max_size=3))
def test_a_name_gets_the_first_pattern_that_fits(names: list[str], patterns: list[str]) -> None:
    rename = {p: f"<{p.count('*') + p.count('?')}>" + "*" * (p.count("*") + p.count("?")) for p in patterns}
    found, used = new_names(names, rename)
    assert list(found) == names
    for name in names:
        wild = [p for p in patterns if set(p) & set("*?") and fnmatch.fnmatchcase(name, p)]
        fits = [name] if name in patterns else wild[:1]
        assert (found[name] == name) is not bool(fits)
        if fits:
            assert fits[0] in used
            # what is not wild in the pattern is all that is gone
            taken = found[name].partition(">")[2]
            assert len(taken) == len(name) - len(fits[0].replace("*", "").replace("?", ""))
    assert used <= set(patterns)


def test_wildcards_stand_for_the_same() -> None:
    rename = {"GEN.x": "gen", "jet_*_[NS]*": "j*_*", "AntiKt4*Jets.*": "jet_*", "el?": "e*x"}
    names = ["GEN.x", "jet_pt_NOSYS", "jet_pt_up", "AntiKt4EMJets.pt", "el1", "el12"]
    found, _ = new_names(names, {**rename, "AntiKt4*Jets.*": "jet*_*"})
    assert found == {
        "GEN.x": "gen",
        "jet_pt_NOSYS": "jpt_N",
        "jet_pt_up": "jet_pt_up",
        "AntiKt4EMJets.pt": "jetEM_pt",
        "el1": "e1x",
        "el12": "el12",
    }


def test_no_two_fields_get_one_name() -> None:
    with pytest.raises(SchemaError, match="'a' and 'b' would both be called 'x'"):
        check_distinct({"a": "x", "b": "x"}, "f.root")


@pytest.mark.parametrize("rename", ["x", {"a": 3}, {"a*": "b**"}, {"": "x"}])
def test_what_rename_cannot_be(rename: Any) -> None:
    with pytest.raises(OptionError, match="rename"):
        check_rename(rename)
    assert check_rename(None) == {}


def test_what_is_cut_is_counted_over_all_runs() -> None:
    native = Field.ragged("x", "f4")
    pad = Pad(1)
    change = Change(native, native, pad.field(native), pad)
    table = SimpleNamespace(changes={"x": change}, source=SimpleNamespace(name="f"))
    runs = [FieldData(np.arange(3, dtype="f4"), (np.array([0, n, 3]),)) for n in (0, 1, 3)]
    shaped = Shaped(lambda *_, **__: ((run,) for run in runs), table)  # type: ignore[arg-type]
    got = [run[0].values.tolist() for run in shaped([change.stored], 0, 6)]
    assert [[math.isnan(x) for [x] in run] for run in got] == [[True, False], [False, False], [False, True]]
    assert shaped.padded == (("x", 3, 5, 1 + 0 + 1),)
    assert cut_text(shaped.padded) == "pad cut 5 items off 3 rows of 'x'"
    assert next(shaped([change.read], 0, 6))[0] is runs[0], "what a cut sees is not padded"


@pytest.mark.parametrize("nbytes", [1, 4, 9, 1 << 20])
def test_rows_that_padding_makes_large_come_in_pieces(nbytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shaped_module, "_NBYTES", nbytes)
    native, pad = Field.ragged("x", "f4"), Pad(1)
    change = Change(native, native, pad.field(native), pad)
    blank = Change(None, Field.dense("y", "i2", (3,), optional=(0,)), Field.dense("y", "i2", (3,), optional=(0,)))
    table = SimpleNamespace(changes={"x": change, "y": blank}, source=SimpleNamespace(name="f"))
    run = FieldData(np.arange(6, dtype="f4"), (np.array([0, 2, 2, 5, 6, 6]),))
    shaped = Shaped(lambda *_, **__: iter([(run,)]), table)  # type: ignore[arg-type]
    pieces = [data for (data,) in shaped([change.stored], 0, 5)]
    assert max(map(len, pieces)) == min(5, max(1, nbytes // 4))
    assert np.concatenate([p.values for p in pieces]).tolist()[2:4] == [[2.0], [5.0]]
    assert shaped.padded == (("x", 2, 3, 2),)
    assert sum(len(data) for (data,) in shaped([blank.stored], 0, 5)) == 5
    written: list[FieldData] = []
    writer = SimpleNamespace(field=change.stored, write=written.append, rows=0)
    Padding(writer, Shaped(lambda *_, **__: iter([]), table), change).write(run)  # type: ignore[arg-type]
    assert np.concatenate([p.values for p in written]).shape == (5, 1)
    assert max(map(len, written)) == min(5, max(1, nbytes // 4))
