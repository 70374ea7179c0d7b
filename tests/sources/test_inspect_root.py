"""`mm.inspect_root`: what it says of a file is what the file holds, and what a conversion makes of it."""

from __future__ import annotations

import json
import os
import re
import warnings

import awkward as ak
import numpy as np
import pytest
import uproot
from hypothesis import given, settings
from hypothesis import strategies as st
from root_tools import DATA, needs_data, write_tree

import mmdask as mm
from mmdask.cli import main

ROWS = 300


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Trees of two cycles, in folders, and other objects."""
    path = tmp_path_factory.mktemp("inspect") / "f.root"
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 4, ROWS)
    branches = {
        "met": rng.random(ROWS, "f4"),
        "p3": rng.random((ROWS, 3)),
        "jet_pt": ak.unflatten(rng.random(counts.sum(), "f4"), counts),
        "name": ak.Array([f"row {i}" for i in range(ROWS)]),
        "<b>odd</b>": np.arange(ROWS),
    }
    types = {"met": "f4", "p3": np.dtype(("f8", (3,))), "jet_pt": "var * float32", "name": "string", "<b>odd</b>": "i8"}
    with uproot.recreate(path, compression=uproot.ZSTD(5)) as f:
        f.mktree("old", {"x": "i4"}).extend({"x": np.arange(3)})
        tree = f.mktree("events", types)
        for a in range(0, ROWS, 100):
            tree.extend({name: values[a : a + 100] for name, values in branches.items()})
        f.mktree("syst/up/events", {"x": "i4", "y": "f8"}).extend({"x": np.arange(7), "y": np.zeros(7)})
        f.mkrntuple("ntuple", {"met": branches["met"], "jet_pt": branches["jet_pt"]})
        f["h"] = np.histogram([1, 2])
        f["text"] = "hello"
    return path


def fields_of(found):
    (tree,) = found.trees
    return {f.name: f for c in tree.columns for f in c.fields}


# What it says -------------------------------------------------------------------------------------------------------


def test_an_overview_of_several_trees(file):
    found = mm.inspect_root(file)
    assert [(t.name, t.kind, t.rows, t.n_columns, t.cycles) for t in found.trees] == [
        ("events", "TTree", ROWS, 6, (1,)),
        ("ntuple", "ROOT::RNTuple", ROWS, 2, (1,)),
        ("syst/up/events", "TTree", 7, 2, (1,)),
        ("old", "TTree", 3, 1, (1,)),
    ]
    assert all(t.columns is None and not t.error for t in found.trees)
    assert found.nbytes == os.path.getsize(file)
    assert found.others["TH1D"] == 1
    assert "name one to see its branches, as in 'f.root:events'" in repr(found)
    with uproot.open(file) as f:
        assert found.trees[0].compressed == sum(b.compressed_bytes for b in f["events"].branches)
    columns = mm.inspect_root(f"{file}:events").trees[0].columns
    assert found.trees[0].decoded == sum(c.decoded for c in columns)


@pytest.mark.parametrize("how", [lambda p: ((f"{p}:events",), {}), lambda p: ((p,), {"tree": "events"})])
def test_the_branches_of_one_tree(file, how):
    args, kwargs = how(file)
    found = mm.inspect_root(*args, **kwargs)
    (tree,) = found.trees
    assert {c.name: (c.type, c.fields[0].describe(), c.pieces) for c in tree.columns} == {
        "met": ("float", "float32", 3),
        "p3": ("double[3]", "float64 (3,)", 3),
        "njet_pt": ("int32_t", "int32", 3),
        "jet_pt": ("float[]", "ragged float32", 3),
        "name": ("char*", "string", 3),
        "<b>odd</b>": ("int64_t", "int64", 3),
    }
    sizes = {c.name: c.decoded for c in tree.columns}
    assert (sizes["met"], sizes["p3"]) == (4 * ROWS, 24 * ROWS)
    assert all(c.codec in ("ZSTD", "none") and c.compressed > 0 for c in tree.columns)  # uproot names no level
    assert not any(c.left_out for c in tree.columns)
    assert repr(found).endswith("6 fields")


def test_the_fields_of_an_rntuple(file):
    (tree,) = mm.inspect_root(f"{file}:ntuple").trees
    assert {c.name: (c.type, c.fields[0].describe(), c.codec) for c in tree.columns} == {
        "met": ("float", "float32", "ZSTD 5"),
        "jet_pt": ("std::vector<float>", "ragged float32", "ZSTD 5"),
    }
    assert {c.name: c.pieces for c in tree.columns} == {"met": 1, "jet_pt": 2}
    assert next(c.decoded for c in tree.columns if c.name == "met") == 4 * ROWS
    with uproot.open(file) as f:
        pages = [link.pages for cluster in f["ntuple"].page_link_list for link in cluster]
    assert sum(c.compressed for c in tree.columns) == sum(p.locator.num_bytes for of in pages for p in of)


@pytest.mark.parametrize(
    "codec", [uproot.ZLIB(3), uproot.LZMA(2), uproot.LZ4(4), uproot.ZSTD(7), None], ids=lambda c: type(c).__name__
)
def test_codecs(tmp_path, codec):
    name = "none" if codec is None else type(codec).__name__
    with uproot.recreate(tmp_path / "f.root", compression=codec) as f:
        f.mktree("t", {"x": "i8"}).extend({"x": np.zeros(5000, "i8")})
        f.mkrntuple("n", {"x": np.zeros(5000, "i8")})
    tree, ntuple = (mm.inspect_root(tmp_path / "f.root", tree=t).trees[0].columns[0].codec for t in "tn")
    assert (tree, ntuple) == (name, name if codec is None else f"{name} {codec.level}")


def test_cycles_are_listed_and_the_highest_is_shown(tmp_path):
    with uproot.recreate(tmp_path / "f.root") as f:
        for n in (3, 5):
            f.mktree("t", {"x": "i4"}).extend({"x": np.arange(n)})
    found = mm.inspect_root(tmp_path / "f.root")
    assert [(t.cycles, t.rows) for t in found.trees] == [((2, 1), 5)]
    assert "2, 1" in found.text()
    assert mm.inspect_root(tmp_path / "f.root", tree="t;1").trees[0].rows == 3


def test_no_tree_is_no_error(tmp_path):
    with uproot.recreate(tmp_path / "f.root") as f:
        f["text"] = "hello"
    found = mm.inspect_root(tmp_path / "f.root")
    assert found.trees == ()
    assert repr(found).endswith("0 trees; also 1 TObjString")


def test_a_table_of_many_branches_is_cut_short_but_not_as_text(tmp_path):
    names = [f"b{i}" for i in range(100)]
    path = write_tree(tmp_path / "f.root", [{n: np.arange(3) for n in names}])
    found = mm.inspect_root(path)
    assert sum(line.startswith("b") and line[1].isdigit() for line in repr(found).splitlines()) == 40
    assert "... and 60 more; 100 fields" in repr(found)
    assert sum(line.startswith("b") and line[1].isdigit() for line in found.text().splitlines()) == 100
    assert found._repr_html_().count("<tr") == 2 + 41


def test_what_a_file_says_is_escaped(file):
    found = mm.inspect_root(f"{file}:events")
    assert "<b>odd</b>" in repr(found)
    assert "<b>odd" not in found._repr_html_()
    assert "&lt;b&gt;odd" in found._repr_html_()


# It agrees with the conversion --------------------------------------------------------------------------------------


def agrees(path, tmp_path):
    found = mm.inspect_root(path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ds = mm.from_root(path, tmp_path / "s.mm", progress=False)
    fields = fields_of(found)
    left_out = {name: why for c in found.trees[0].columns for name, why in c.left_out}
    skipped = dict(ds.sources[0].skipped)
    # what cannot be read is found when it is read, not before
    unread = {name for name, why in skipped.items() if why.startswith("cannot be read")}
    assert {n: f.describe() for n, f in fields.items() if n not in unread} == {
        n: f.describe() for n, f in ds.schema.items()
    }
    assert left_out == {n: why for n, why in skipped.items() if n not in unread}
    assert found.trees[0].rows == len(ds)
    assert bool(skipped) == any(issubclass(w.category, mm.SkippedFieldsWarning) for w in caught)


def test_what_it_says_is_what_a_conversion_does(tmp_path, file):
    agrees(f"{file}:events", tmp_path / "a")
    agrees(f"{file}:ntuple", tmp_path / "b")


@needs_data
@pytest.mark.parametrize(
    "name",
    [
        "uproot-HZZ-objects.root",
        "uproot-stl_containers.root",
        "uproot-issue243.root",
        "uproot-issue232.root",
        "test_stl_containers_rntuple_v1-0-0-0.root",
        "Run2012BC_DoubleMuParked_Muons_1000evts_rntuple_v1-0-0-0.root",
    ],
)
def test_files_of_others_agree(tmp_path, name):
    agrees(DATA / "root" / name, tmp_path)


@needs_data
def test_every_file_of_others_can_be_looked_at():
    for entry in json.loads((DATA / "root" / "MANIFEST.json").read_text()):
        found = mm.inspect_root(DATA / "root" / entry["name"])
        keys = {(t.name, c) for t in found.trees for c in t.cycles}
        assert keys == {
            tuple(k if i == 0 else int(k) for i, k in enumerate(t["key"].split(";"))) for t in entry["trees"]
        }
        assert all(not t.error for t in found.trees)
        assert found.text()
        assert found._repr_html_()
        json.dumps(found.to_json())


@needs_data
def test_codecs_of_files_that_root_wrote():
    for name, codec in [
        ("uncompressed", "none"),
        ("zlib", "ZLIB 1"),
        ("lz4", "LZ4 4"),
        ("zstd", "ZSTD 5"),
        ("lzma", "LZMA"),
    ]:
        (tree,) = mm.inspect_root(DATA / "root" / f"uproot-Zmumu-{name}.root").trees
        assert {c.codec.split(" ")[0] for c in tree.columns} == {codec.split(" ")[0]}


# Errors -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a ROOT file: an empty file"),
        (b"PAR1 and more", "not a ROOT file: it begins with b'PAR1'"),
        (b"root\0\0\0\1", "truncated: 8 bytes"),
    ],
)
def test_what_is_no_root_file(tmp_path, content, words):
    (tmp_path / "f.root").write_bytes(content)
    with pytest.raises(mm.SourceError, match=re.escape(words)):
        mm.inspect_root(tmp_path / "f.root")


def test_names_that_are_wrong(tmp_path, file):
    with pytest.raises(mm.SourceNotFoundError, match=r"did you mean 'f.root'"):
        mm.inspect_root(file.parent / "ff.root")
    with pytest.raises(mm.SourceError, match=r"no tree 'event'; did you mean 'events'"):
        mm.inspect_root(f"{file}:event")
    with pytest.raises(mm.SourceError, match="is a folder"):
        mm.inspect_root(file.parent)
    for name in "ab":
        (tmp_path / f"{name}.root").write_bytes(file.read_bytes())
    with pytest.raises(mm.OptionError, match="means 2: a.root, b.root"):
        mm.inspect_root(tmp_path / "*.root")


@settings(max_examples=40)
@given(st.data())
def test_damaged_files_are_told_or_shown(tmp_path_factory, file, data):
    raw = bytearray(file.read_bytes())
    raw = raw[: data.draw(st.sampled_from([len(raw), len(raw) - 50, len(raw) // 2]))]
    for at in data.draw(st.lists(st.integers(0, len(raw) - 1), max_size=6)):
        raw[at] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "f.root"
    path.write_bytes(raw)
    for tree in (None, "events", "ntuple"):
        try:
            found = mm.inspect_root(path, tree=tree)
        except mm.SourceError as error:
            if not str(error).startswith(str(path)):
                raise
        else:
            assert found.text()
            assert found._repr_html_()


def test_a_damaged_tree_does_not_hide_the_others(tmp_path, file):
    raw = file.read_bytes()
    with uproot.open(file) as f:
        key = f.key("old;1")
        at = key.fSeekKey + key.fKeylen
    (tmp_path / "f.root").write_bytes(raw[:at] + b"\xff" * 60 + raw[at + 60 :])
    found = mm.inspect_root(tmp_path / "f.root")
    errors = {t.name: t.error for t in found.trees}
    assert errors.pop("old").startswith("damaged (uproot: ")
    assert set(errors.values()) == {""}
    assert "problem" in repr(found)
    with pytest.raises(mm.SourceError, match="damaged"):
        mm.inspect_root(tmp_path / "f.root", tree="old")


# The command --------------------------------------------------------------------------------------------------------


def test_the_command(file, capsys):
    assert main(["inspect", str(file)]) == 0
    assert capsys.readouterr().out == mm.inspect_root(file).text() + "\n"
    assert main(["inspect", f"{file}:events", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == mm.inspect_root(f"{file}:events").to_json()
    assert found["trees"][0]["columns"][0]["fields"] == {"met": "float32"}
    assert main(["inspect", f"{file}:no"]) == 1
    assert "no tree 'no'" in capsys.readouterr().err


def test_there_and_back(tmp_path, file, capsys):
    store, out = str(tmp_path / "s.mm"), str(tmp_path / "out.root")
    mm.from_root(f"{file}:events", store, progress=False)
    mm.assign(store, lead="max(jet_pt)", progress=False)
    export = ["export", store, out, "--quiet"]
    assert main([*export, "--where", "met > 0.5", "--fields", "met", "lead", "name"]) == 1
    assert "fill={'lead': -999}" in capsys.readouterr().err
    export += ["--tree", "a/picked", "--fields", "met", "lead", "name", "--fill", "lead=-999", "--compression", "none"]
    assert main([*export, "--where", "met > 0.5"]) == 0
    ds = mm.open(store)
    sel = ds[ds.cut("met > 0.5")]
    assert capsys.readouterr().out.startswith(f"{len(sel)} rows in {out}:a/picked, ")
    with uproot.open(out) as f:
        found = f["a/picked"].arrays()
    assert found["met"].to_list() == sel["met"].compute().tolist()
    assert found["lead"].to_list() == [-999 if x is None else x for x in sel["lead"].compute().tolist()]
    assert main(export) == 1
    assert "overwrite=True" in capsys.readouterr().err
    assert main([*export, "--overwrite", "--format", "rntuple"]) == 0
    assert main([*export, "--overwrite", "--fill", "lead"]) == 1
    assert "as in lead=-999" in capsys.readouterr().err
