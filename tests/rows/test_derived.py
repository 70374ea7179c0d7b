"""Fields computed from expressions: their type and order, and their values for rows that come later."""

from __future__ import annotations

import os

import pytest

import mmdask as mm
from mmdask.rows import blocks
from mmdask.rows.views import derived
from mmdask.rows.views.derived import append_parts, dependants, derive, reads
from mmdask.schema import Field, Schema
from mmdask.store.manifest import read_manifest

SCHEMA = Schema(
    [
        Field.dense("n", "i4"),
        Field.ragged("pt", "f4"),
        Field.dense("m", "f8", optional=(0,)),
        Field.category("process", ["a", "b"]),
        Field.dense("odd name", "f4"),
    ]
)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("n + 1", Field.dense("f", "i8")),
        ("sum(pt)", Field.dense("f", "f8")),
        ("max(pt)", Field.dense("f", "f4", optional=(0,))),
        ("pt[0]", Field.dense("f", "f4", optional=(0,))),
        ("pt * 2", Field.ragged("f", "f8")),
        ("pt * n", None),
        ("pt > 30", Field.ragged("f", "?")),
        ("m / 2", Field.dense("f", "f8", optional=(0,))),
        ("process == 'a'", Field.dense("f", "?")),
        ("`odd name` * 2", Field.dense("f", "f8")),
        ("1.5", Field.dense("f", "f8")),
    ],
)
def test_what_an_expression_becomes(text, field):
    [found] = derive({"f": f"  {text} "}, SCHEMA)
    assert found.field.expression == text
    if field is not None:
        assert found.field.same_layout(field)
        assert found.field.optional == field.optional


def test_order_is_that_of_dependence():
    found = derive({"c": "b + a", "a": "n", "b": "a * 2", "d": "n"}, SCHEMA)
    names = [d.field.name for d in found]
    assert names.index("a") < names.index("b") < names.index("c")
    assert sorted(names) == list("abcd")


def test_what_is_wanted_hides_what_is_there():
    found = derive({"n": "sum(pt)", "twice": "n * 2"}, SCHEMA)
    assert [d.field.dtype.name for d in found] == ["float64", "float64"]


@pytest.mark.parametrize(
    ("wanted", "error", "message"),
    [
        ({"a": "a + 1"}, mm.ExpressionError, "'a' would be computed from itself"),
        ({"n": "n + 1"}, mm.ExpressionError, "'n' would be computed from itself"),
        ({"a": "b", "b": "c", "c": "a", "ok": "n"}, mm.ExpressionError, "'a', 'b', 'c' are computed from each other"),
        ({"a": "nn"}, mm.ExpressionError, "did you mean"),
        ({"a": "n +"}, mm.ExpressionError, "n \\+"),
        ({"a": "process"}, mm.ExpressionError, "text alone"),
        ({"a": "process == 'c'"}, mm.ExpressionError, "'a', 'b'|a, b"),
        ({"a": Field.dense("a", "i4", expression="n / 2")}, mm.SchemaError, "'a' is int32, but its expression gives"),
        ({"a": Field.dense("a", "f4", expression="pt")}, mm.SchemaError, "'a' is float32, but its expression gives"),
        ({"a": Field.string("a", expression="n")}, mm.SchemaError, "'a' is string"),
    ],
)
def test_expressions_that_cannot_be(wanted, error, message):
    with pytest.raises(error, match=message) as caught:
        derive(wanted, SCHEMA)
    if error is mm.ExpressionError and "each other" not in message and "itself" not in message:
        assert caught.value.__notes__ == ["in the expression of the field 'a'"]


def test_a_declared_field_may_be_of_less_precision():
    [found] = derive({"a": Field.dense("a", "f4", unit="GeV", expression="sum(pt)")}, SCHEMA)
    assert (found.field.dtype.name, found.field.unit, found.field.expression) == ("float32", "GeV", "sum(pt)")
    [found] = derive({"a": Field.dense("a", "f4", expression="max(pt)")}, SCHEMA)
    assert found.field.optional == (0,)


def test_who_depends_on_what():
    schema = Schema([*SCHEMA.values(), *(d.field for d in derive({"a": "n + `odd name`", "b": "a * n"}, SCHEMA))])
    assert dependants(schema) == {"n": {"a", "b"}, "odd name": {"a"}, "a": {"b"}}
    assert reads(schema["a"]) == {"n", "odd name"}


# Rows that come later ------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path):
    path = str(tmp_path / "s.mm")
    mm.from_arrays({"n": [1, 2], "pt": [[10.0, 20.0], []]}, path)
    mm.assign(path, ht="sum(pt)", lead="max(pt)", twice="pt * 2", both="ht + n", progress=False)
    return path


def rows(path, name):
    return getattr(mm.open(path)[name].compute(), "to_list" if name == "twice" else "tolist")()


def test_appended_rows_are_computed(store):
    with mm.append(store) as w:
        w.append({"n": 3, "pt": [5.0, 7.0]})
        w.extend({"n": [4, 5], "pt": [[], [1.0]]})
    assert rows(store, "ht") == [30.0, 0.0, 12.0, 0.0, 1.0]
    assert rows(store, "lead") == [20.0, None, 7.0, None, 1.0]
    assert rows(store, "twice") == [[20.0, 40.0], [], [10.0, 14.0], [], [2.0]]
    assert rows(store, "both") == [31.0, 2.0, 15.0, 4.0, 6.0]
    assert mm.verify(store).ok


def test_rows_do_not_give_what_is_computed(store):
    with pytest.raises(mm.SchemaError, match="'ht'"), mm.append(store) as w:
        w.append({"n": 3, "pt": [5.0], "ht": 5.0})
    with pytest.raises(mm.SchemaError, match="'ht'"):
        mm.append(store, labels={"ht": 3.0})


def test_each_checkpoint_is_computed(store):
    with mm.append(store) as w:
        w.append({"n": 3, "pt": [5.0]})
        w.checkpoint()
        assert rows(store, "ht") == [30.0, 0.0, 5.0]
        w.append({"n": 4, "pt": [6.0]})
    assert rows(store, "ht") == [30.0, 0.0, 5.0, 6.0]


def test_small_blocks_give_the_same(store, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_NBYTES", 16)
    with mm.append(store) as w:
        w.extend({"n": list(range(50)), "pt": [[float(i)] * (i % 4) for i in range(50)]})
    assert rows(store, "ht")[2:] == [float(i) * (i % 4) for i in range(50)]
    assert rows(store, "twice")[2:] == [[2.0 * i] * (i % 4) for i in range(50)]


def test_labels_of_the_rows_themselves_are_known_to_expressions(tmp_path):
    path = tmp_path / "s.mm"
    with mm.create(path, labels={"process": "a"}) as w:
        w.append({"n": 1})
    mm.assign(path, is_a="process == 'a'", progress=False)
    with mm.append(path, labels={"process": "b"}) as w:
        w.append({"n": 2})
    with mm.append(path, labels={"process": "a"}) as w:
        w.append({"n": 3})
    assert rows(path, "is_a") == [True, False, True]


def test_a_field_assigned_while_rows_are_written_is_computed_for_them(store):
    with mm.append(store) as w:
        w.append({"n": 3, "pt": [5.0]})
        mm.assign(store, late="n * 10", ht="sum(pt) + 1", replace=True, both="ht + n", progress=False)
    assert rows(store, "late") == [10, 20, 30]
    assert rows(store, "ht") == [31.0, 1.0, 6.0]
    assert rows(store, "both") == [32.0, 3.0, 9.0]
    assert mm.verify(store).ok
    assert_nothing_left(store)


def test_a_field_dropped_while_rows_are_written_is_not_computed(store):
    with mm.append(store) as w:
        w.append({"n": 3, "pt": [5.0]})
        mm.drop(store, ["both", "ht"])
    assert mm.open(store).fields == ("n", "pt", "lead", "twice")
    assert rows(store, "lead") == [20.0, None, 5.0]


def test_an_expression_replaced_by_an_array_meanwhile_is_a_conflict(store):
    with pytest.raises(mm.ConflictError, match="replaced the field 'lead'"), mm.append(store) as w:
        w.append({"n": 3, "pt": [5.0]})
        mm.assign(store, lead=[1.0, 2.0], replace=True, progress=False)
    assert len(mm.open(store)) == 2
    assert_nothing_left(store)


def test_rows_that_cannot_be_computed_are_not_committed(tmp_path):
    path = str(tmp_path / "s.mm")
    mm.from_arrays({"a": [[1.0], []], "b": [[2.0], []]}, path)
    mm.assign(path, c="a + b", progress=False)
    with pytest.raises(mm.ExpressionError, match="row 0 has 1 and 2"), mm.append(path) as w:
        w.append({"a": [1.0], "b": [1.0, 2.0]})
    assert len(mm.open(path)) == 2
    assert_nothing_left(path)


def test_a_field_that_was_replaced_by_an_expression_is_not_given(tmp_path):
    path = str(tmp_path / "s.mm")
    mm.from_arrays({"a": [1.0, 2.0], "b": [5.0, 6.0]}, path)
    mm.assign(path, b="a * 10", replace=True, progress=False)
    with mm.append(path) as w:
        w.append({"a": 3.0})
    assert rows(path, "b") == [10.0, 20.0, 30.0]


def assert_nothing_left(path):
    named = {i for g in range(1, read_manifest(path).generation + 1) for i in read_manifest(path, g).layers}
    assert set(os.listdir(os.path.join(path, "parts"))) == named


def test_a_loop_ends_when_others_stop(store, monkeypatch):
    """Another process that changes expressions before every commit, three times."""
    original, texts = derived.commit, ["n * 2", "n * 3", "n * 4"]

    def commit(*args, **kwargs):
        if texts:
            mm.assign(store, late=texts.pop(0), replace=True, progress=False)
        return original(*args, **kwargs)

    mm.assign(store, late="n", progress=False)
    monkeypatch.setattr(derived, "commit", commit)
    with mm.append(store) as w:
        w.append({"n": 3, "pt": []})
    assert rows(store, "late") == [4, 8, 12]
    assert_nothing_left(store)


@pytest.mark.parametrize("error", [KeyboardInterrupt, mm.ConflictError, OSError])
def test_a_commit_that_fails_leaves_no_layer(store, monkeypatch, error):
    def fails(*args, **kwargs):
        raise error("no")

    monkeypatch.setattr(derived, "commit", fails)
    with pytest.raises(error), mm.append(store) as w:
        w.append({"n": 3, "pt": [1.0]})
    assert len(mm.open(store)) == 2
    assert_nothing_left(store)


def test_append_parts_of_a_store_that_is_gone(store, tmp_path):
    base = read_manifest(store)
    schema = Schema([base.schema["n"], base.schema["pt"]])
    os.mkdir(tmp_path / "empty.mm")
    with pytest.raises(mm.ConflictError, match="removed"):
        append_parts(str(tmp_path / "empty.mm"), schema, [], base=base, action="append")
