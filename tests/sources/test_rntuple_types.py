"""What fields of RNTuples become, and their rows from all representations and from clusters without them."""

from __future__ import annotations

import numpy as np
import pytest
from rntuple_tools import (
    ENDS,
    ITEMS,
    LIST,
    RECORD,
    STREAMER,
    VARIANT,
    C,
    Cluster,
    F,
    chars,
    described,
    one_field,
    opened,
    rows_of,
    write_rntuple,
)
from root_tools import read_store, run

from mmdask.errors import SchemaError, SkippedFieldsWarning
from mmdask.sources.converting.table import UnreadableError


def switches(*pairs):
    return np.array(list(pairs), [("index", "<i8"), ("tag", "<i4")])


LISTS = [[0.0, 1.5], [], [3.0], [4.5, 6.0]]
WORDS = chars("a", "", "bcd", "é", "zz")

CASES = {
    "list": (
        [F("x", "std::vector<float>", LIST), F("_0", "float", parent=0)],
        [C(0, "splitindex64"), C(1, "splitreal32")],
        [ENDS, ITEMS],
        {"x": ("ragged float32", LISTS)},
    ),
    "rvec": (
        [F("x", "ROOT::VecOps::RVec<double>", LIST), F("_0", "double", parent=0)],
        [C(0, "index32"), C(1, "real64")],
        [ENDS, ITEMS],
        {"x": ("ragged float64", LISTS)},
    ),
    "set": (
        [F("x", "std::set<std::int16_t>", LIST), F("_0", "std::int16_t", parent=0)],
        [C(0, "splitindex32"), C(1, "splitint16")],
        [ENDS, np.arange(5)],
        {"x": ("ragged int16", [[0, 1], [], [2], [3, 4]])},
    ),
    "char list": (
        [F("x", "std::vector<char>", LIST), F("_0", "char", parent=0)],
        [C(0, "index64"), C(1, "char")],
        [ENDS, [0, 127, 128, 255, 1]],
        {"x": ("ragged int8", [[0, 127], [], [-128], [-1, 1]])},
    ),
    "double32": ([F("x", "double")], [C(0, "splitreal32")], [ITEMS[:4]], {"x": ("float64", [0.0, 1.5, 3.0, 4.5])}),
    "half": ([F("x", "float")], [C(0, "real16")], [ITEMS[:4]], {"x": ("float32", [0.0, 1.5, 3.0, 4.5])}),
    "text list": (
        [F("x", "std::vector<std::string>", LIST), F("_0", "std::string", parent=0)],
        [C(0, "index64"), C(1, "splitindex64"), C(1, "char")],
        [ENDS, *WORDS],
        {"x": ("ragged string", [["a", ""], [], ["bcd"], ["é", "zz"]])},
    ),
    "optional": (
        [F("x", "std::optional<float>", LIST), F("_0", "float", parent=0)],
        [C(0, "index64"), C(1, "real32")],
        [[1, 1, 2, 2], [1.5, 2.5]],
        {"x": ("optional float32", [1.5, None, 2.5, None])},
    ),
    "unique_ptr": (
        [F("x", "std::unique_ptr<std::string>", LIST), F("_0", "std::string", parent=0)],
        [C(0, "index64"), C(1, "index64"), C(1, "char")],
        [[0, 1, 1, 2], *chars("a", "")],
        {"x": ("optional string", [None, "a", None, ""])},
    ),
    "list of optional": (
        [
            F("x", "std::vector<std::optional<float>>", LIST),
            F("_0", "std::optional<float>", LIST, 0),
            F("_0", "float", parent=1),
        ],
        [C(0, "index64"), C(1, "index64"), C(2, "real32")],
        [ENDS, [1, 1, 2, 2, 3], [1.5, 2.5, 3.5]],
        {"x": ("ragged float32 with optional items", [[1.5, None], [], [2.5], [None, 3.5]])},
    ),
    "array": (
        [F("x", "std::array<float,2>", repetition=2), F("_0", "float", parent=0)],
        [C(1, "real32")],
        [np.arange(8.0)],
        {"x": ("float32 (2,)", [[0, 1], [2, 3], [4, 5], [6, 7]])},
    ),
    "bitset": (
        [F("x", "std::bitset<3>", repetition=3)],
        [C(0, "bit")],
        [np.arange(12) % 2],
        {"x": ("bool (3,)", [[False, True, False], [True, False, True]] * 2)},
    ),
    "array of lists": (
        [
            F("x", "std::array<std::vector<float>,2>", repetition=2),
            F("_0", "std::vector<float>", LIST, 0),
            F("_0", "float", parent=1),
        ],
        [C(1, "index64"), C(2, "real32")],
        [[1, 1, 2, 3, 3, 3, 5, 5], ITEMS],
        {"x": ("ragged float32 of 2 levels", [[[0.0], []], [[1.5], [3.0]], [[], []], [[4.5, 6.0], []]])},
    ),
    "enum": (
        [F("x", "Color"), F("_0", "std::int32_t", parent=0)],
        [C(1, "splitint32")],
        [[3, -1, 0, 7]],
        {"x": ("int32", [3, -1, 0, 7])},
    ),
    "atomic": (
        [F("x", "std::atomic<bool>"), F("_0", "bool", parent=0)],
        [C(1, "bit")],
        [[1, 0, 0, 1]],
        {"x": ("bool", [True, False, False, True])},
    ),
    "map": (
        [
            F("x", "std::map<std::string,float>", LIST),
            F("_0", "std::pair<std::string,float>", RECORD, 0),
            F("_0", "std::string", parent=1),
            F("_1", "float", parent=1),
        ],
        [C(0, "index64"), C(2, "index64"), C(2, "char"), C(3, "real32")],
        [ENDS, *WORDS, ITEMS],
        {"x.key": ("ragged string", [["a", ""], [], ["bcd"], ["é", "zz"]]), "x.value": ("ragged float32", LISTS)},
    ),
    "tuple": (
        [F("x", "std::tuple<bool,float>", RECORD), F("_0", "bool", parent=0), F("_1", "float", parent=0)],
        [C(1, "bit"), C(2, "real32")],
        [[1, 0, 1, 0], ITEMS[:4]],
        {"x.0": ("bool", [True, False, True, False]), "x.1": ("float32", [0.0, 1.5, 3.0, 4.5])},
    ),
    "variant": (
        [
            F("x", "std::variant<float,std::string>", VARIANT),
            F("_0", "float", parent=0),
            F("_1", "std::string", parent=0),
        ],
        [C(0, "switch"), C(1, "real32"), C(2, "index64"), C(2, "char")],
        [switches((0, 1), (0, 2), (1, 1), (0, 0)), [1.5, 2.5], *chars("a")],
        {"x.0": ("optional float32", [1.5, None, 2.5, None]), "x.1": ("optional string", [None, "a", None, None])},
    ),
    "list of variants": (
        [
            F("x", "std::vector<std::variant<bool,std::vector<float>>>", LIST),
            F("_0", "std::variant<bool,std::vector<float>>", VARIANT, 0),
            F("_0", "bool", parent=1),
            F("_1", "std::vector<float>", LIST, 1),
            F("_0", "float", parent=3),
        ],
        [C(0, "index64"), C(1, "switch"), C(2, "bit"), C(3, "index64"), C(4, "real32")],
        [ENDS, switches((0, 2), (0, 1), (1, 2), (1, 1), (2, 2)), [1, 0], [2, 2, 3], [1, 2, 3]],
        {
            "x.0": ("ragged bool with optional items", [[None, True], [], [None], [False, None]]),
            "x.1": (
                "ragged float32 of 2 levels with optional lists",
                [[[1.0, 2.0], None], [], [[]], [None, [3.0]]],
            ),
        },
    ),
    "object with bases": (
        [
            F("x", "Child", RECORD),
            F(":_0", "Base", RECORD, 0),
            F("id", "std::int32_t", parent=1),
            F("pt", "float", parent=0),
            F("id", "std::int32_t", parent=0),
        ],
        [C(2, "int32"), C(3, "real32"), C(4, "int32")],
        [[1, 2, 3, 4], ITEMS[:4], [5, 6, 7, 8]],
        {
            "x.Child::id": ("int32", [1, 2, 3, 4]),
            "x.pt": ("float32", [0.0, 1.5, 3.0, 4.5]),
            "x.id": ("int32", [5, 6, 7, 8]),
        },
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_a_field_becomes(tmp_path, name):
    fields, columns, pages, expected = CASES[name]
    tree = one_field(tmp_path, fields, columns, pages)
    column = tree.columns["x"]
    assert {f.name: f.describe() for f in column.fields} == {n: kind for n, (kind, _) in expected.items()}
    for start, stop in ((0, 4), (1, 3), (3, 4), (2, 2)):
        rows, _ = rows_of(column, start, stop)
        assert rows == {n: values[start:stop] for n, (_, values) in expected.items()}
    for n, (_, values) in expected.items():  # each member alone
        assert rows_of(column, 0, 4, names=[n])[0] == {n: values}


REFUSED = {
    "variant": (
        [F("x", "std::variant<float>", VARIANT), F("_0", "float", parent=0)],
        [C(0, "index64"), C(1, "real32")],
        "type std::variant<float> of 1 types and 1 columns",
    ),
    "unsplit": (
        [F("x", "TH1F", STREAMER), F("_0", "std::byte", parent=0)],
        [C(0, "index64"), C(1, "byte")],
        "type TH1F is stored as one piece by ROOT, which uproot does not read",
    ),
    "no member": ([F("x", "Empty", RECORD)], [], "type Empty has no members"),
    "no column": ([F("x", "float")], [], "type float of 0 columns"),
    "no item": (
        [F("x", "std::vector<float>", LIST)],
        [C(0, "index64")],
        "type std::vector<float> of 0 sub-fields and 1 columns",
    ),
    "no source": ([F("x", "float", source=7)], [], "damaged: it stands for a field that is not there"),
    "its own source": ([F("x", "float", source=0)], [], "damaged: it stands for a field that is not there"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_becomes_no_field(tmp_path, name):
    fields, columns, reason = REFUSED[name]
    columns += [C(len(fields), "int8")]
    fields += [F("y", "std::int8_t")]
    tree = one_field(tmp_path, fields, columns, [[]] * (len(columns) - 1) + [[1, 2, 3, 4]])
    assert described(tree) == {"x": reason, "y": {"y": "int8"}}
    with pytest.warns(SkippedFieldsWarning, match="1 field left out.*'x'"):
        run(tmp_path / "a.root", tmp_path / "o.mm")
    assert read_store(tmp_path / "o.mm")["y"].tolist() == [1, 2, 3, 4]
    with pytest.raises(SchemaError, match="'x' cannot be converted"):
        run(tmp_path / "a.root", tmp_path / "p.mm", fields=["x", "y"])


def test_fields_that_stand_for_others(tmp_path):
    """As ROOT's importer writes NanoAOD: a hidden collection, its members as lists, and how many there are."""
    fields = [
        F("_collection0", "", LIST),
        F("_0", "", RECORD, 0),
        F("Muon_pt", "float", parent=1),
        F("Muon_charge", "std::int32_t", parent=1),
        F("Muon_pt", "ROOT::VecOps::RVec<float>", LIST, source=0),
        F("_0", "float", parent=4, source=2),
        F("Muon_charge", "ROOT::VecOps::RVec<std::int32_t>", LIST, source=0),
        F("_0", "std::int32_t", parent=6, source=3),
        F("nMuon", "ROOT::RNTupleCardinality<std::uint32_t>", source=0),
    ]
    columns = [C(0, "splitindex64"), C(2, "splitreal32"), C(3, "splitint32")]
    pages = [ENDS, ITEMS, np.array([1, -1, 1, 1, -1])]
    tree = one_field(tmp_path, fields, columns, pages)
    assert described(tree) == {
        "_collection0": "",
        "Muon_pt": {"Muon_pt": "ragged float32"},
        "Muon_charge": {"Muon_charge": "ragged int32"},
        "nMuon": {"nMuon": "uint32"},
    }
    assert rows_of(tree.columns["nMuon"], 1, 4)[0] == {"nMuon": [0, 1, 2]}
    run(tmp_path / "a.root", tmp_path / "o.mm")
    got = read_store(tmp_path / "o.mm")
    assert {name: array.tolist() for name, array in got.items()} == {
        "Muon_pt": LISTS,
        "Muon_charge": [[1, -1], [], [1], [1, -1]],
        "nMuon": [2, 0, 1, 2],
    }
    # a member that stands for itself alone: nothing is hidden
    tree = one_field(tmp_path, fields[:6] + fields[8:], columns, pages)
    assert described(tree)["_collection0"] == {
        "_collection0.Muon_pt": "ragged float32",
        "_collection0.Muon_charge": "ragged int32",
    }


# Clusters -------------------------------------------------------------------------------------------------


def test_representations_of_clusters(tmp_path):
    """A cluster has one of several representations, text with both of its columns; the declared type holds them all."""
    fields = [F("x", "float"), F("s", "std::string"), F("l", "std::vector<double>", LIST), F("_0", "double", parent=2)]
    columns = [
        C(0, "splitreal32"),
        C(0, "real16", repr=1),
        C(1, "splitindex64"),
        C(1, "char"),
        C(1, "index32", repr=1),
        C(1, "char", repr=1),
        C(2, "splitindex64"),
        C(2, "index32", repr=1),
        C(3, "real64"),
        C(3, "splitreal32", repr=1),
    ]
    ends, data = chars("ab", "c")
    ends2, data2 = chars("", "é", "xyz")
    clusters = [
        Cluster(
            2,
            [
                [np.array([0.1, 0.2])],
                None,
                [ends],
                [data],
                None,
                None,
                [np.array([1, 3])],
                None,
                [np.array([0.1, 2, 3])],
                None,
            ],
        ),
        Cluster(
            3,
            [
                None,
                [np.array([0.5, 1.5, 2.5])],
                None,
                None,
                [ends2],
                [data2],
                None,
                [np.array([0, 2, 2])],
                None,
                [np.array([4.0, 5])],
            ],
        ),
    ]
    write_rntuple(tmp_path / "a.root", fields, columns, clusters)
    tree = opened(tmp_path / "a.root")
    assert described(tree) == {"x": {"x": "float32"}, "s": {"s": "string"}, "l": {"l": "ragged float64"}}
    f4 = [float(np.float32(v)) for v in (0.1, 0.2)]
    expected = {
        "x": [*f4, 0.5, 1.5, 2.5],
        "s": ["ab", "c", "", "é", "xyz"],
        "l": [[0.1], [2, 3], [], [4.0, 5.0], []],
    }
    for name, values in expected.items():
        for start, stop in ((0, 5), (1, 4), (3, 5)):
            assert rows_of(tree.columns[name], start, stop)[0] == {name: values[start:stop]}


def test_fields_that_were_added_late(tmp_path):
    """In the second cluster, after its first row: zero, empty, and missing before, as in ROOT."""
    fields = [
        F("x", "std::int32_t"),
        F("late", "float"),
        F("lists", "std::vector<float>", LIST),
        F("_0", "float", parent=2),
        F("pairs", "std::array<std::int8_t,2>", repetition=2),
        F("_0", "std::int8_t", parent=4),
        F("s", "std::string"),
        F("maybe", "std::optional<float>", LIST),
        F("_0", "float", parent=7),
    ]
    columns = [
        C(0, "int32"),
        C(1, "real32", first=3, late=True),
        C(2, "splitindex64", first=3, late=True),
        C(3, "real32", late=True),
        C(5, "int8", first=6, late=True),
        C(6, "index64", first=3, late=True),
        C(6, "char", late=True),
        C(7, "index64", first=3, late=True),
        C(8, "real32", late=True),
    ]
    clusters = [
        Cluster(2, [[np.array([1, 2])]]),
        Cluster(
            3,
            [
                [np.array([3, 4, 5])],
                [np.array([0.5, 1.5])],
                [np.array([1, 3])],
                [np.array([1.0, 2, 3])],
                [np.array([1, 2, 3, 4])],
                [np.array([1, 2])],
                [np.frombuffer(b"ab", "u1")],
                [np.array([0, 1])],
                [np.array([9.0])],
            ],
        ),
        Cluster(
            1,
            [
                [np.array([6])],
                [np.array([2.5])],
                [np.array([0])],
                [],
                [np.array([5, 6])],
                [np.array([1])],
                [np.frombuffer(b"c", "u1")],
                [np.array([1])],
                [np.array([8.0])],
            ],
        ),
    ]
    write_rntuple(tmp_path / "a.root", fields, columns, clusters)
    tree = opened(tmp_path / "a.root")
    expected = {
        "x": [1, 2, 3, 4, 5, 6],
        "late": [0.0, 0.0, 0.0, 0.5, 1.5, 2.5],
        "lists": [[], [], [], [1.0], [2.0, 3.0], []],
        "pairs": [[0, 0], [0, 0], [0, 0], [1, 2], [3, 4], [5, 6]],
        "s": ["", "", "", "a", "b", "c"],
        "maybe": [None, None, None, None, 9.0, 8.0],
    }
    for name, values in expected.items():
        for start in range(6):
            for stop in range(start, 7):
                assert rows_of(tree.columns[name], start, stop)[0] == {name: values[start:stop]}, name


@pytest.mark.parametrize("switch", [(0, 3), (0, -1), (1, 1), (-1, 1), (2**62, 1)])
def test_variants_that_are_wrong(tmp_path, switch):
    fields, columns, pages, _ = CASES["variant"]
    pages = [switches((0, 1), (0, 2), switch, (0, 0)), [1.5], *pages[2:]]
    column = one_field(tmp_path, fields, columns, pages).columns["x"]
    with pytest.raises(UnreadableError, match="damaged: "):
        column.read(0, 4, column.fields)
