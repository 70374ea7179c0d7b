"""Records become fields: one for every member, with the rows that a walk along its path finds.

The oracle is `along`, which follows a path through nested Python values and knows nothing of fields.
"""

from __future__ import annotations

import awkward as ak
import dask.array as da
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rows_back import rows_back

import mmdask as mm
from mmdask.sources.given.coerce import aux_data, by_field, fields_of, to_field_data

VALUES = {"i": st.integers(-9, 9), "f": st.floats(-9, 9), "t": st.text("aé", max_size=2), "b": st.booleans()}


def along(value, path):
    """What is at the end of a path of names, through lists and what is missing."""
    if value is None or not path:
        return value
    if isinstance(value, list):
        return [along(item, path) for item in value]
    return along(value[path[0]], path[1:])


@st.composite
def types(draw, depth=0):
    """A type: a leaf, a list of a type, or a record of types; each may be missing."""
    kind = draw(st.sampled_from(["leaf", "leaf", "list", "record"] if depth < 3 else ["leaf"]))
    missing = draw(st.booleans())
    if kind == "leaf":
        return kind, missing, draw(st.sampled_from(list(VALUES)))
    if kind == "list":
        return kind, missing, draw(types(depth + 1))
    names = draw(st.lists(st.sampled_from(["pt", "eta", "p4", "n"]), min_size=1, max_size=3, unique=True))
    return kind, missing, {name: draw(types(depth + 1)) for name in names}


def values(a_type):
    kind, missing, inner = a_type
    if kind == "leaf":
        found = VALUES[inner]
    elif kind == "list":
        found = st.lists(values(inner), max_size=2)
    else:
        found = st.fixed_dictionaries({name: values(t) for name, t in inner.items()})
    return st.one_of(st.none(), found) if missing else found


def paths(a_type):
    """The paths of all leaves, with the leaf and how many lists it is in."""
    kind, _, inner = a_type
    if kind == "leaf":
        return [((), inner, 0)]
    if kind == "list":
        return [(path, leaf, levels + 1) for path, leaf, levels in paths(inner)]
    return [((name, *path), leaf, levels) for name, t in inner.items() for path, leaf, levels in paths(t)]


def field_for(name, leaf, levels, record=""):
    optional = tuple(range(levels + 1))
    if leaf == "t":
        return mm.Field.string(name, levels=levels, optional=optional, record=record)
    dtype = {"i": "i8", "f": "f8", "b": "?"}[leaf]
    if levels:
        return mm.Field.ragged(name, dtype, levels=levels, optional=optional, record=record)
    return mm.Field.dense(name, dtype, optional=optional, record=record)


def has_records(a_type):
    kind, _, inner = a_type
    return kind == "record" or (kind == "list" and has_records(inner))


def one_per_row_of_lists(a_type):
    """Whether every row has one record and its members are lists all, which a store does not keep as a record."""
    return a_type[0] == "record" and all(levels for _, _, levels in paths(a_type))


@given(types(), st.data())
def test_members_have_the_rows_along_their_paths(a_type, data):
    rows = data.draw(st.lists(values(a_type), max_size=4))
    if not has_records(a_type) or one_per_row_of_lists(a_type):
        return
    members = {"_".join(("x", *path)): (path, leaf, levels) for path, leaf, levels in paths(a_type)}
    declared = {name: field_for(name, leaf, levels, "x") for name, (_, leaf, levels) in members.items()}
    converted = fields_of({"x": rows, "n": list(range(len(rows)))}, declared)
    assert sorted(converted) == sorted([*members, "n"])
    for name, (path, _, _) in members.items():
        field, found = converted[name]
        assert field == declared[name]
        assert rows_back(field, found) == [along(row, path) for row in rows]
    one_by_one = [by_field({"x": row}, declared) for row in rows]
    for name, (path, _, _) in members.items():
        assert [row[name] for row in one_by_one] == [along(row, path) for row in rows]


@given(types(), st.data())
def test_awkward_records_and_lists_of_records_are_the_same(a_type, data):
    rows = data.draw(st.lists(values(a_type), min_size=1, max_size=4))
    array = ak.Array(rows)
    names = {"_".join(("x", *path)) for path, _, _ in paths(a_type)}
    try:
        converted = fields_of({"x": rows})
    except mm.SchemaError:
        return  # too little is in the lists to say what they hold; see the test above
    if set(converted) != names:
        return
    same = fields_of({"x": array})
    assert list(same) == list(converted)
    for name, (field, found) in converted.items():
        other, data_of_it = same[name]
        assert other.same_layout(field)
        assert other.record == field.record
        assert rows_back(other, data_of_it) == rows_back(field, found)


def test_a_list_of_records_is_one_record():
    jets = [[{"pt": 1.5, "p4": {"e": 1, "m": 2}}], [], [{"pt": 2.5, "p4": {"e": 3, "m": 4}}] * 2]
    for value in (jets, ak.Array(jets), np.array([*jets, None], object)[:3]):
        converted = fields_of({"met": [1, 2, 3], "jets": value})
        assert {name: field.record for name, (field, _) in converted.items()} == {
            "met": "",
            "jets_pt": "jets",
            "jets_p4_e": "jets",
            "jets_p4_m": "jets",
        }
        assert [field.member for field, _ in converted.values()] == ["met", "pt", "p4_e", "p4_m"]
        assert all(data.offsets[0].tolist() == [0, 1, 1, 3] for field, data in converted.values() if field.record)


def test_a_record_per_row_whose_members_are_lists_all_is_none():
    # A store could not tell it from a list of records, whose members have equal counts.
    rows = [{"a": [1, 2], "b": ["x"]}, {"a": [], "b": ["y", "z"]}]
    assert {n: f.record for n, (f, _) in fields_of({"x": rows}).items()} == {"x_a": "", "x_b": ""}
    rows = [{"n": 1, **row} for row in rows]
    assert {f.record for f, _ in fields_of({"x": rows}).values()} == {"x"}
    event = [{"jets": [{"pt": 1, "eta": 2}], "tags": [{"w": 1}] * 3}] * 2
    for value in (event, ak.Array(event)):
        found = {n: f.record for n, (f, _) in fields_of({"ev": value}).items()}
        assert found == {"ev_jets_pt": "ev_jets", "ev_jets_eta": "ev_jets", "ev_tags_w": "ev_tags"}
    declared = {n: f for n, (f, _) in fields_of({"ev": event}).items()}
    empty = [{"jets": [], "tags": None}]
    assert by_field({"ev": empty}, declared) == {"ev_jets_pt": [[]], "ev_jets_eta": [[]], "ev_tags_w": [None]}
    assert by_field({"ev": [None]}, declared) == {"ev_jets_pt": [None], "ev_jets_eta": [None], "ev_tags_w": [None]}


def test_a_mapping_of_rows_is_a_record():
    rows = {"muon": {"pt": np.array([1.5, 2.5]), "p4": {"e": [1, 2]}, "hits": [[1], []]}, "met": [0, 1]}
    converted = fields_of(rows)
    assert {n: f.record for n, (f, _) in converted.items()} == {
        "muon_pt": "muon",
        "muon_p4_e": "muon",
        "muon_hits": "muon",
        "met": "",
    }
    assert rows_back(*converted["muon_hits"]) == [[1], []]
    assert by_field({"muon": {"pt": 1.5, "p4": {"e": 1}}}) == {"muon_pt": 1.5, "muon_p4_e": 1}


def test_structured_arrays_are_records():
    inner = np.dtype([("a", ">f4"), ("b", "i2", 3)])
    array = np.zeros(4, [("x", "u1"), ("r", inner)])
    array["r"]["a"], array["r"]["b"] = np.arange(4), np.arange(12).reshape(4, 3)
    for rows in (array, {"x": array["x"], "r": array["r"]}, {"x": array["x"], "r": list(array["r"])}):
        converted = fields_of(rows)
        assert {n: f.record for n, (f, _) in converted.items()} == {"x": "", "r_a": "r", "r_b": "r"}
        assert rows_back(*converted["r_a"]) == [0.0, 1.0, 2.0, 3.0]
        assert rows_back(*converted["r_b"]) == array["r"]["b"].tolist()
    hits = [np.array([(1, 2.5)], "i4,f8"), np.zeros(0, "i4,f8"), None]
    converted = fields_of({"hits": hits})
    assert {n: f.record for n, (f, _) in converted.items()} == {"hits_f0": "hits", "hits_f1": "hits"}
    assert rows_back(*converted["hits_f1"]) == [[2.5], [], None]
    masked = np.ma.masked_array(np.array([(1, 2.5), (3, 4.5)], "i4,f8"), [(0, 1), (0, 0)])
    assert {n: rows_back(*c) for n, c in fields_of({"m": masked}).items()} == {"m_f0": [1, 3], "m_f1": [None, 4.5]}


def test_names_of_rows():
    assert by_field({"a": [1]}) == {"a": [1]}
    assert {k: v.tolist() for k, v in by_field(np.array([(1, 2.5)], "i4,f8")).items()} == {"f0": [1], "f1": [2.5]}
    assert {k: v.to_list() for k, v in by_field(ak.Array([{"a": 1, "b": [2]}])).items()} == {"a": [1], "b": [[2]]}
    for rows in ([1], np.zeros(2), ak.Array([1]), None, [{"a": 1}]):
        with pytest.raises(mm.SchemaError, match="mapping of field names"):
            by_field(rows)
    lazy = da.from_array(np.zeros(3, "i4,f8"), chunks=2)
    assert {n: v.compute().tolist() for n, v in by_field({"x": lazy}).items()} == {"x_f0": [0] * 3, "x_f1": [0.0] * 3}


def test_declared_fields_say_what_rows_do_not():
    declared = {"jets_pt": field_for("jets_pt", "f", 1, "jets"), "jets_p4_e": field_for("jets_p4_e", "i", 1, "jets")}
    for rows in ([[], []], [None, []], []):
        assert by_field({"jets": rows}, declared) == {"jets_pt": rows, "jets_p4_e": rows}
    assert by_field({"jets": [[{"pt": 1, "p4": None}]]}, declared) == {"jets_pt": [[1]], "jets_p4_e": [[None]]}
    alike = {n: field_for(n, "i", 0, "m") for n in ("m_a", "m_a_b")}
    assert by_field({"m": [{"a": 1, "a_b": 2}]}, alike) == {"m_a": [1], "m_a_b": [2]}
    # A declared field without a record is one when its rows are; a name that is declared itself is no record.
    plain = {"jets_pt": mm.Field.ragged("jets_pt", "f4")}
    field, data = fields_of({"jets": [[{"pt": 1}]]}, plain)["jets_pt"]
    assert (field.record, data.values.dtype) == ("jets", "f4")
    assert by_field({"jets": [[]]}, plain) == {"jets": [[]]}
    with pytest.raises(mm.SchemaError, match="field 'jets': records of pt"):
        fields_of({"jets": [[{"pt": 1}]]}, {"jets": mm.Field.ragged("jets", "f4")})


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({"j": [{"a": 1}, {"b": 1}]}, "'j': .* members, a; one lacks 'a': give None"),
        ({"j": [{"pt": 1}, {"pt": 1, "ptt": 2}]}, "members, pt; one has 'ptt', too; did you mean 'pt'"),
        ({"j": [[{"pt": 1, "eta": 1}], [{"pt": 1}]]}, "members, pt, eta; one lacks 'eta'"),
        ({"j": [{"a": {"b": 1}}, {"a": {"c": 1}}]}, "'j_a': .* one lacks 'b'"),
        ({"j": [ak.Record({"a": 1}), ak.Record({"a": 1, "b": 2})]}, "members, a; one has 'b', too"),
        ({"j": [ak.Array([{"a": 1}]), ak.Array([{"b": 2}])]}, "members, a; one lacks 'a'"),
        ({"j": [np.zeros(1, "i4,i4"), np.zeros(1, [("f0", "i4")])]}, "members, f0, f1; one lacks 'f1'"),
        ({"j": [{"a": 1}, 5]}, "'j': int 5 among records of a"),
        ({"j": [{"a": 1}, "text"]}, "'j': str 'text' among records of a"),
        ({"j": [5, {"a": 1}]}, r"'j': a record \(entry 1, dict\) among others like 5"),
        ({"j": [{}]}, "'j': records without members"),
        ({"j": [{1: 2}]}, "'j': members of records have names"),
        ({"j": [{"a": 1}], "j_a": [1]}, r"two fields are called 'j_a': j.a and j_a"),
        ({"j": [{"a": {"b": 1}, "a_b": 1}]}, r"two fields are called 'j_a_b': j.a.b and j.a_b"),
    ],
)
def test_records_that_cannot_be_stored(rows, words):
    with pytest.raises(mm.SchemaError, match=words):
        fields_of(rows)


def test_lists_within_themselves_end():
    rows = []
    rows.append(rows)
    with pytest.raises(mm.SchemaError, match="nested more than 16 deep"):
        fields_of({"j": rows})


def test_records_in_awkward_arrays_and_rows_in_lists():
    rows = [ak.Array([{"a": 1}]), [], ak.Array([]), None, [{"a": 2}]]
    (field, data) = fields_of({"j": rows})["j_a"]
    assert field.record == "j"
    assert rows_back(field, data) == [[1], [], [], None, [2]]
    (field, data) = fields_of({"j": [ak.Record({"a": 1}), None, {"a": 2}]})["j_a"]
    assert rows_back(field, data) == [1, None, 2]
    assert by_field(ak.Array([{"x": 1, "j": [{"a": 2}]}])[0])["x"] == 1


def test_members_of_a_list_of_records_have_equal_counts():
    declared = {n: mm.Field.ragged(n, "i8", record="jets") for n in ("jets_a", "jets_b")}
    rows = {"jets_a": [[1], [2]], "jets_b": [[1], [2, 3]]}
    with pytest.raises(mm.SchemaError, match="row 1: 'jets_a' has 1 items and 'jets_b' has 2; .* record 'jets'"):
        fields_of(rows, declared)
    with_number = {**declared, "jets_n": mm.Field.dense("jets_n", "i8", record="jets")}
    assert len(fields_of(rows, with_number)) == 2


@pytest.mark.parametrize(
    ("value", "described", "row"),
    [
        (np.arange(6.0).reshape(2, 3), "float64 (2, 3)", [[0, 1, 2], [3, 4, 5]]),
        (np.arange(3, dtype=">i2"), "int16 (3,)", [0, 1, 2]),
        (da.arange(3, chunks=2), "int64 (3,)", [0, 1, 2]),
        (np.zeros((0, 2)), "float64 (0, 2)", []),
        (np.array(2.5), "float64", 2.5),
        (np.float32(2.5), "float32", 2.5),
        (2.5, "float64", 2.5),
        (True, "bool", True),
        (b"ab", "S2", b"ab"),
        ("text", "string", "text"),
        (["a", "b"], "ragged string", ["a", "b"]),
        (np.array(["a", "b"]), "ragged string", ["a", "b"]),
        ([["a"], []], "ragged string of 2 levels", [["a"], []]),
        ([0.0, 1.5], "float64 (2,)", [0, 1.5]),
        ([[1, 2], [3, 4]], "int64 (2, 2)", [[1, 2], [3, 4]]),
        ([[1], [3, 4]], "ragged int64 of 2 levels", [[1], [3, 4]]),
        ([[[1]], [[3], [4]]], "ragged int64 of 3 levels", [[[1]], [[3], [4]]]),
        ([np.zeros(2), np.ones(2)], "float64 (2, 2)", [[0, 0], [1, 1]]),
        ([np.zeros((1, 1)), np.ones((1, 2))], "ragged float64 of 3 levels", [[[0]], [[1, 1]]]),
        ([np.zeros((1, 2)), np.ones((1, 2))], "float64 (2, 1, 2)", [[[0, 0]], [[1, 1]]]),
        (ak.Array([1, 2]), "int64 (2,)", [1, 2]),
        (ak.Array([[1], [2]]), "ragged int64 of 2 levels", [[1], [2]]),
        (ak.Array(["a", "b"]), "ragged string", ["a", "b"]),
        (ak.from_regular(ak.Array(np.zeros((2, 2)))), "ragged float64 of 2 levels", [[0, 0], [0, 0]]),
        ([1, None], "ragged int64 with optional items", [1, None]),
        ([[1, 2], None], "ragged int64 of 2 levels with optional lists", [[1, 2], None]),
        (np.ma.masked_array([1, 2], [0, 1]), "ragged int64 with optional items", [1, None]),
        (
            ak.Array(
                ak.contents.IndexedArray(
                    ak.index.Index64(np.array([1, 0])),
                    ak.Array(["a", "b"]).layout,
                    parameters={"__array__": "categorical"},
                )
            ),
            "ragged string",
            ["b", "a"],
        ),
    ],
)
def test_aux_is_one_row(value, described, row):
    field, data = aux_data("x", value)
    assert field.describe() == described
    assert len(data) == 1
    assert rows_back(field, data) == [row]
    assert to_field_data("x", data, field)[0] is field


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "aux 'x': None is no value"),
        ([], r"aux 'x': an empty list .* np.array\(\[\], 'f4'\)"),
        ({"a": 1}, "records of a"),
        ([{"a": 1}], "records of a"),
        (object(), "no one dtype"),
        ([[], []], "an empty list does not say"),
    ],
)
def test_what_is_no_aux(value, words):
    with pytest.raises(mm.SchemaError, match=words):
        aux_data("x", value)
