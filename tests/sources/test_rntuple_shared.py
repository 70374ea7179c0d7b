"""RNTuples that ROOT wrote: every field bit for bit against uproot, TTrees of the same content, and memory."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings

import awkward as ak
import numpy as np
import pytest
import uproot
from root_tools import DATA, assert_same_bits, manifest, members, needs_data, part_layers, read_store

from mmdask.errors import SkippedFieldsWarning
from mmdask.sources.root import convert_root

pytestmark = needs_data

NANO = "cmsopendata2015_ttbar_19980_NANOAOD_RNTupleImporter_rntuple_v1-0-0-1.root"
#: file, rows, fields that convert, fields left out
RNTUPLES = [
    ("atlas/ttH_mc16d_rntuple.root", 15000, 34, 0),
    ("root/Run2012BC_DoubleMuParked_Muons_1000evts_rntuple_v1-0-0-0.root", 1000, 6, 0),
    (f"root/{NANO}", 10, 947, 0),
    ("root/ntpl001_staff_rntuple_v1-0-1-0.root", 3354, 11, 0),
    ("root/test_stl_containers_rntuple_v1-0-0-0.root", 5, 24, 0),
]


def convert(sources, out, **kwargs):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        convert_root(sources, out, progress=False, **kwargs)
    assert all(issubclass(w.category, SkippedFieldsWarning) for w in caught)


def assert_same_variants(got, expected, name):
    """Of a number or text, in lists or not: the one that is not there is missing."""

    def only(value, kind):
        return [only(v, kind) for v in value] if isinstance(value, list) else value if isinstance(value, kind) else None

    for member, kind in (("0", int), ("1", str)):
        blank = 0 if kind is int else ""  # what the files of a store hold where a value is missing
        wanted = [only(value, kind) for value in expected.tolist()]
        wanted = json.loads(json.dumps(wanted).replace("null", json.dumps(blank)))
        assert got[f"{name}.{member}"].tolist() == wanted


@pytest.mark.parametrize(("file", "rows", "converted", "left_out"), RNTUPLES, ids=[r[0] for r in RNTUPLES])
def test_every_field(tmp_path, file, rows, converted, left_out):
    convert(DATA / file, tmp_path / "o.mm")
    got = read_store(tmp_path / "o.mm")
    skipped = dict(part_layers(tmp_path / "o.mm")[0][0]["source"]["skipped"])
    assert (len(got), len(skipped)) == (converted, left_out)
    with uproot.open({DATA / file: None}, array_cache=None) as f:
        (key,) = f.keys(filter_classname="ROOT::RNTuple")
        ntuple = f[key]
        arrays = ntuple.arrays(array_cache=None)
        there = set()
        for field in ntuple.fields:
            if field.name.startswith("_collection"):
                continue  # its members are fields themselves
            if "variant" in field.typename:
                there |= {f"{field.name}.{k}" for k in range(2)}
                assert_same_variants(got, arrays[field.name], field.name)
                continue
            for member, expected in members(arrays[field.name], field.name).items():
                there.add(member)
                if member in skipped:
                    continue
                if "RNTupleCardinality<std::uint32_t>" in field.typename:
                    expected = ak.values_astype(expected, "u4")  # uproot says int64
                elif field.typename in ("char", "std::vector<char>"):
                    expected = ak.values_astype(expected, "i1")  # uproot says uint8, and int8 for a TTree
                assert_same_bits(got[member], expected, member)
                assert len(got[member]) == rows
    assert there == set(got) | set(skipped)


def test_the_twin_of_a_ttree(tmp_path):
    """The same rows, once in a TTree and once in an RNTuple, make the same store."""
    found = []
    for name in ("ttH_mc16d", "ttH_mc16d_rntuple"):
        convert(DATA / "atlas" / f"{name}.root", tmp_path / f"{name}.mm")
        found.append((manifest(tmp_path / f"{name}.mm")["fields"], read_store(tmp_path / f"{name}.mm")))
    (tree_fields, tree), (ntuple_fields, ntuple) = found
    assert tree_fields == ntuple_fields
    for name, array in tree.items():
        assert_same_bits(ntuple[name], array, name)
    numbers = json.loads((DATA / "root" / "REFERENCE.json").read_bytes())["synthetic"][
        "ttH_mc16d_rntuple:nominal_Loose"
    ]
    assert len(ntuple["nJets"]) == numbers["entries"]
    passed = (ntuple["nJets"] >= 6) & (ntuple["nBTags_77"] >= 2)
    assert int(passed.sum()) == numbers["nJets >= 6 & nBTags_77 >= 2"]
    assert ntuple["eventNumber"].max() == numbers["eventNumber_max"]


def test_nanoaod_of_both_formats_is_one_store(tmp_path):
    """947 branches, and 947 fields of the importer: the same names and types, so that they chain."""
    tree = DATA / "root" / "nanoAOD_2015_CMS_Open_Data_ttbar.root"
    convert([f"{tree}:Events", f"{DATA / 'root' / NANO}:Events"], tmp_path / "o.mm")
    fields = manifest(tmp_path / "o.mm")["fields"]
    assert len(fields) == 947
    got = read_store(tmp_path / "o.mm")
    assert len(got["event"]) == 210
    assert got["nMuon"].tolist() == ak.num(got["Muon_pt"]).tolist()


SCRIPT = """
import sys
from pathlib import Path
import awkward, uproot, xxhash
from mmdask.sources.root import convert_root

def peak():
    # ru_maxrss would begin with what the parent process had
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

before = peak()
convert_root(sys.argv[1], sys.argv[2], progress=False)
print(peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is told by /proc")
def test_a_small_file_of_very_many_rows(tmp_path):
    """1.8 kB that are 1e8 rows in one cluster: 200 MB, which uproot reads into 765 MB."""
    file = DATA / "root" / "test_int_multicluster_rntuple_v1-0-0-0.root"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, file, tmp_path / "o.mm"], check=True, capture_output=True, text=True
    )
    assert 20 * 1024 < int(done.stdout) < 256 * 1024
    (layers,) = part_layers(tmp_path / "o.mm")
    array = layers[0]["arrays"][layers[0]["fields"]["one_integers"]["values"]]
    values = np.load(tmp_path / "o.mm" / "parts" / layers[0]["id"] / array["file"], mmap_mode="r")
    assert values.shape == (100_000_000,)
    half = len(values) // 2
    assert (values[:half] == 2).all()
    assert (values[half:] == 1).all()
