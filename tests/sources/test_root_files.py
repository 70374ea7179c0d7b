"""Real ROOT files: every field that is converted, bit for bit against uproot, and numbers that ROOT gave."""

from __future__ import annotations

import json
import warnings

import awkward as ak
import numpy as np
import pytest
import uproot
from root_tools import DATA, assert_same_bits, members, needs_data, part_layers, read_store, sources

from mmdask.errors import SkippedFieldsWarning, SourceError
from mmdask.sources.root import convert_root, reader

pytestmark = needs_data

#: file, tree, fields that convert, fields left out
TREES = [
    ("root/CMS_HEP_tutorial_ww.root", "events", 51, 0),
    ("root/UnROOT-tree_with_varfix_doubly_jagged.root", "outtree", 2, 0),
    ("root/coffea-nano_dy.root", "Events", 1499, 0),
    ("root/coffea-nano_dy.root", "Runs", 8, 0),
    ("root/coffea-nano_dy_SpecialTree.root", "NotEvents", 1874, 0),
    ("root/gohep-g4-like.root", "mytree", 3, 0),
    ("root/nanoAOD_2015_CMS_Open_Data_ttbar.root", "Events", 947, 0),
    ("root/uproot-HZZ-objects.root", "events", 47, 0),
    ("root/uproot-HZZ.root", "events", 51, 0),
    ("root/uproot-Zmumu-lz4.root", "events", 20, 0),
    ("root/uproot-Zmumu-lzma.root", "events", 20, 0),
    ("root/uproot-Zmumu-uncompressed.root", "events", 20, 0),
    ("root/uproot-Zmumu-zlib.root", "events", 20, 0),
    ("root/uproot-Zmumu-zstd.root", "events", 20, 0),
    ("root/uproot-double32-float16.root", "tree", 12, 0),
    ("root/uproot-empty.root", "tree", 3, 0),
    ("root/uproot-hepdata-example.root", "ntuple", 5, 0),
    ("root/uproot-issue-816.root", "AnalysisMiniTree", 42, 0),
    ("root/uproot-issue232.root", "fTreeV0", 64, 0),
    ("root/uproot-issue243-new.root", "control", 54, 0),
    ("root/uproot-issue243-new.root", "fullmassplane", 54, 0),
    ("root/uproot-issue243-new.root", "hadtop", 54, 0),
    ("root/uproot-issue243-new.root", "leptop_hadron", 54, 0),
    ("root/uproot-issue243-new.root", "sideband", 54, 0),
    ("root/uproot-issue243-new.root", "sig", 54, 0),
    ("root/uproot-issue243-new.root", "top_multijet", 54, 0),
    ("root/uproot-issue243-new.root", "triggerList", 5, 0),
    ("root/uproot-issue243.root", "triggerList", 2, 2),
    ("root/uproot-issue31.root", "T", 4, 0),
    ("root/uproot-issue412.root", "test", 2, 0),
    ("root/uproot-issue429.root", "data_tr", 31, 0),
    ("root/uproot-issue79.root", "taus", 1, 0),
    ("root/uproot-nesteddirs.root", "one/tree", 3, 0),
    ("root/uproot-nesteddirs.root", "one/two/tree", 20, 0),
    ("root/uproot-nesteddirs.root", "three/tree", 41, 0),
    ("root/uproot-sample-6.20.04-zlib.root", "sample", 35, 0),
    ("root/uproot-stl_containers.root", "tree", 40, 0),
    ("atlas/data_2017.root", "nominal_Loose", 34, 0),
    ("atlas/formula_1000.root", "t", 12, 0),
    ("atlas/ttH_mc16d.root", "nominal_Loose", 34, 0),
    ("atlas/ttbb_mc16a.root", "JET_JER_EffectiveNP_1__1down", 34, 0),
    ("atlas/ttbb_mc16a.root", "JET_JER_EffectiveNP_1__1up", 34, 0),
    ("atlas/ttbb_mc16a.root", "nominal_Loose", 34, 0),
]


def convert(path, out, **kwargs):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        convert_root(path, out, progress=False, **kwargs)
    assert all(issubclass(w.category, SkippedFieldsWarning) for w in caught)
    assert len(caught) <= 1


@pytest.mark.parametrize(("file", "tree", "converted", "left_out"), TREES, ids=[f"{t[0]}:{t[1]}" for t in TREES])
def test_every_field(tmp_path, file, tree, converted, left_out):
    convert(f"{DATA / file}:{tree}", tmp_path / "o.mm")
    got = read_store(tmp_path / "o.mm")
    (layers,) = part_layers(tmp_path / "o.mm")
    skipped = dict(layers[0]["source"]["skipped"])
    assert (len(got), len(skipped)) == (converted, left_out)
    with uproot.open({DATA / file: None}, array_cache=None) as f:
        t = f[tree]
        there = set()
        for name, branch in t.iteritems():
            if isinstance(branch.interpretation, uproot.AsGrouped):
                continue
            for member, expected in expected_of(name, branch, skipped).items():
                there.add(member)
                if member not in skipped:
                    assert_same_bits(got[member], expected, member)
                    assert len(got[member]) == int(t.num_entries)
        assert there == set(got) | set(skipped)


def expected_of(name, branch, skipped):
    """What uproot and awkward read, object by object and member by member."""
    is_map = branch.typename.startswith("std::map")
    if is_map and f"{name}.key" in skipped:
        return dict.fromkeys([f"{name}.key", f"{name}.value"])
    if type(branch.interpretation) is uproot.AsDtype and branch.interpretation.to_dtype.names:
        struct = branch.array(library="np", array_cache=None)
        return {f"{name}.{member}": struct[member] for member in struct.dtype.names}
    return members(branch.array(array_cache=None), name, is_map=is_map)


def test_how_many_fields_are_converted():
    converted, left_out = (sum(t[i] for t in TREES) for i in (2, 3))
    assert (converted, left_out) == (5452, 2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "uproot-issue-400.root",
            "no field can be converted: 'orange': its type cannot be told .uproot: .*different jaggedness",
        ),
        ("uproot-issue261.root", "no field can be converted: the tree has no branches"),
        ("uproot-issue243-new.root", "its trees are: triggerList, top_multijet, .*name one, as in .*:triggerList"),
        (
            "uproot-nesteddirs.root",
            "its trees are: one/two/tree, three/tree, one/tree; name one, as in .*:one/two/tree",
        ),
    ],
)
def test_files_that_cannot_be_converted(tmp_path, name, message):
    with pytest.raises(SourceError, match=message):
        convert_root(DATA / "root" / name, tmp_path / "o.mm", progress=False)
    assert not (tmp_path / "o.mm").exists()


def reference():
    return json.loads((DATA / "root" / "REFERENCE.json").read_bytes())


def test_two_processes(tmp_path):
    """A chain of two files with labels gives the yields that ROOT gives."""
    expected = reference()["two_process_chain"]
    files = {DATA / "root" / f: {"process": p} for p, f in expected["files"].items()}
    convert_root(files, tmp_path / "o.mm", progress=False)
    got = read_store(tmp_path / "o.mm")
    assert len(got["NJet"]) == expected["total_entries"]
    for process, numbers in expected["per_process"].items():
        rows = got["process"] == process
        n = {name: array[rows] for name, array in got.items()}
        found = {
            "entries": int(rows.sum()),
            "sum_NJet": int(n["NJet"].sum()),
            "n_Jet_Px": int(ak.sum(ak.num(n["Jet_Px"]))),
            "NJet >= 2": int((n["NJet"] >= 2).sum()),
            "NJet >= 1 && NMuon >= 1": int(((n["NJet"] >= 1) & (n["NMuon"] >= 1)).sum()),
            "triggerIsoMu24": int(n["triggerIsoMu24"].sum()),
            "any(Muon_Iso > 5)": int(ak.sum(ak.any(n["Muon_Iso"] > 5, axis=1))),
            "sum(Jet_ID) == NJet  (bool sum)": int(ak.sum(ak.sum(n["Jet_ID"], axis=1) == n["NJet"])),
        }
        assert found == {key: numbers[key] for key in found}
        assert n["EventWeight"].sum(dtype="f8") == pytest.approx(numbers["sumw"], rel=1e-12)


def test_atlas_like_files(tmp_path):
    """64-bit event numbers above 2**53, signed weights, systematics trees of the same file."""
    names = [k for k in reference()["synthetic"] if "rntuple" not in k]
    convert_root([f"{DATA}/atlas/{k.replace(':', '.root:')}" for k in names], tmp_path / "o.mm", progress=False)
    got = read_store(tmp_path / "o.mm")
    at = 0
    for name in names:
        expected = reference()["synthetic"][name]
        rows = slice(at, at + expected["entries"])
        at = rows.stop
        numbers, weights = got["eventNumber"][rows], got["weight_mc"][rows].astype("f8")
        assert numbers.dtype == np.uint64
        assert int(numbers.min()) == expected["eventNumber_min"]
        assert int(numbers.max()) == expected["eventNumber_max"]
        assert int((numbers % 5 == 0).sum()) == expected["eventNumber % 5 == 0"]
        assert int((weights < 0).sum()) == expected["neg_weights"]
        assert weights.sum() == pytest.approx(expected["sumw_all"], rel=1e-12)
        assert int(ak.sum(ak.num(got["jet_pt"][rows]))) == expected["n_jets"]
        assert int(np.isnan(got["feat_04"][rows]).sum()) == expected["nan feat_04"]
        cut = (got["nJets"][rows] >= 6) & (got["nBTags_77"][rows] >= 2)
        assert int(cut.sum()) == expected["nJets >= 6 & nBTags_77 >= 2"]
    assert at == len(got["nJets"])


def test_codecs_give_the_same_bytes(tmp_path):
    stores = []
    for codec in ("uncompressed", "zlib", "lz4", "zstd", "lzma"):
        convert_root(DATA / "root" / f"uproot-Zmumu-{codec}.root", tmp_path / codec, progress=False)
        stores.append(read_store(tmp_path / codec))
    for other in stores[1:]:
        for name, array in stores[0].items():
            assert_same_bits(other[name], ak.Array(array), name)


def test_the_highest_cycle_only(tmp_path):
    convert_root(DATA / "root" / "uproot-issue31.root", tmp_path / "o.mm", progress=False)
    assert [s[1:] for s in sources(tmp_path / "o.mm")] == [("T", 0, 5)]


def test_entries_that_are_a_float(tmp_path):
    convert_root(DATA / "root" / "gohep-g4-like.root", tmp_path / "o.mm", progress=False)
    assert [s[1:] for s in sources(tmp_path / "o.mm")] == [("mytree", 0, 5)]


def test_one_million_rows_in_parts_along_baskets(tmp_path, monkeypatch, baskets):
    monkeypatch.setattr(reader, "RUN_NBYTES", 100_000)
    path = DATA / "root" / "uproot-issue412.root"
    convert_root(path, tmp_path / "o.mm", progress=False, part_nbytes=3_000_000)
    assert len(part_layers(tmp_path / "o.mm")) == 3
    got = read_store(tmp_path / "o.mm")
    with uproot.open(path) as f:
        for name, branch in f["test"].iteritems():
            assert_same_bits(got[name], branch.array(), name)
