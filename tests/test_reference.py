"""Real ROOT files through the whole way, against numbers computed independently of mmdask.

The files are not part of the project; where they are absent these tests say so, and the same way is tested on files
that the other tests write.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import mmdask as mm

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the public ROOT files are not here (../shared/data)")


@pytest.fixture(scope="module")
def reference():
    return json.loads((DATA / "root" / "REFERENCE.json").read_text())


@pytest.fixture(scope="module")
def chain(reference, tmp_path_factory):
    files = reference["two_process_chain"]["files"]
    sources = {DATA / "root" / name: {"process": process} for process, name in files.items()}
    path = tmp_path_factory.mktemp("chain") / "hzz_ww.mm"
    return mm.from_root(sources, path, tree="events", progress=False)


CUTS = {
    "NJet >= 2": "NJet >= 2",
    "NJet >= 1 && NMuon >= 1": "NJet >= 1 && NMuon >= 1",
    "triggerIsoMu24": "triggerIsoMu24",
    "any(Muon_Iso > 5)": "any(Muon_Iso > 5)",
    "Jet_Px[0] > 50 (missing=false)": "Jet_Px[0] > 50",
    "count(hypot(Muon_Px,Muon_Py) > 25) >= 2": "count(hypot(Muon_Px,Muon_Py) > 25) >= 2",
    "sum(Jet_ID) == NJet  (bool sum)": "sum(Jet_ID) == NJet",
    "len(Electron_Px) + len(Muon_Px) == 2": "len(Electron_Px) + len(Muon_Px) == 2",
}


@pytest.mark.parametrize("process", ["HZZ", "WW"])
def test_two_processes_give_every_number(chain, reference, process):
    expected = dict(reference["two_process_chain"]["per_process"][process])
    ds = chain[chain.cut("process == p", p=process)]
    assert len(ds) == expected.pop("entries")
    assert ds["NJet"].sum().compute() == expected.pop("sum_NJet")
    assert len(ds["Jet_Px"].values) == expected.pop("n_Jet_Px")
    weight = ds["EventWeight"].astype("f8")
    np.testing.assert_allclose(weight.sum().compute(), expected.pop("sumw"), rtol=1e-12)
    passing = ds[ds.cut("NJet>=2")]["EventWeight"].astype("f8").sum().compute()
    np.testing.assert_allclose(passing, expected.pop("sumw of NJet>=2"), rtol=1e-12)
    for name, n in expected.items():
        cut = ds.cut(CUTS[name])
        assert cut.count() == n, name
        assert cut.mask.sum().compute() == n, name
        assert (ds.cut("true") & cut).count() == n, name


def test_the_chain_as_a_whole(chain, reference):
    expected = reference["two_process_chain"]
    assert len(chain) == expected["total_entries"]
    for cut in ('process == "WW"', 'process == "WW" && NJet >= 2'):
        assert chain.cut(cut).count() == expected[cut]
    assert mm.verify(chain.path).ok


def test_the_cut_flow_of_the_chain(chain, reference):
    names = list(CUTS)
    flow = chain.cutflow(CUTS, weight="EventWeight", by="process")
    assert sorted(flow.groups) == ["HZZ", "WW"]
    for g, process in enumerate(flow.groups):
        expected = reference["two_process_chain"]["per_process"][process]
        assert flow.alone.rows[g].tolist() == [expected["entries"], *(expected[name] for name in names)]
        np.testing.assert_allclose(flow.cumulative.sums[g, 0], expected["sumw"], rtol=1e-12)
        np.testing.assert_allclose(flow.cumulative.sums[g, 1], expected["sumw of NJet>=2"], rtol=1e-12)
    every = chain[chain.cut(" and ".join(f"({cut})" for cut in CUTS.values()))]
    assert flow.cumulative.rows[:, -1].sum() == len(every)


def test_the_objects_file_has_the_same_values(chain, tmp_path):
    """Its objects become fields, which are those of the flat file."""
    folder = DATA / "root"
    flat = mm.from_root(folder / "uproot-HZZ.root", tmp_path / "flat.mm", progress=False)
    ds = mm.from_root(folder / "uproot-HZZ-objects.root", tmp_path / "objects.mm", progress=False)
    kinds = {"jetp4": "Jet", "muonp4": "Muon", "electronp4": "Electron", "photonp4": "Photon"}
    members = {"fP.fX": "Px", "fP.fY": "Py", "fP.fZ": "Pz", "fE": "E"}
    pairs = {f"{a}.{m}": f"{b}_{n}" for a, b in kinds.items() for m, n in members.items()}
    pairs |= {
        "MET.fX": "MET_px",
        "MET.fY": "MET_py",
        "muoniso": "Muon_Iso",
        "jetid": "Jet_ID",
        "eventweight": "EventWeight",
    }
    for name, other in pairs.items():
        found, expected = ds[name].compute(), flat[other].compute()
        if ds.schema[name].levels:
            assert found.to_list() == expected.to_list(), name
        else:
            np.testing.assert_array_equal(found, expected, err_msg=name)


def test_five_codecs_convert_to_the_same_bytes(tmp_path):
    codecs = ["uncompressed", "zlib", "lz4", "zstd", "lzma"]
    contents = []
    for codec in codecs:
        mm.from_root(DATA / "root" / f"uproot-Zmumu-{codec}.root", tmp_path / f"{codec}.mm", progress=False)
        [folder] = (tmp_path / f"{codec}.mm" / "parts").iterdir()
        contents.append({f.name: f.read_bytes() for f in folder.iterdir() if f.suffix == ".npy"})
    assert len(contents[0]) > 20
    assert all(c == contents[0] for c in contents)


TREE = "nominal_Loose"
ATLAS = {"ttbb_mc16a": 8297, "ttH_mc16d": 5269, "data_2017": 345}


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    sources = {f"{DATA / 'atlas' / name}.root:{TREE}": {"process": name} for name in ATLAS}
    return mm.from_root(sources, tmp_path_factory.mktemp("atlas") / "atlas.mm", progress=False)


@pytest.mark.parametrize("name", ATLAS)
def test_atlas_like_files(atlas, reference, name):
    expected = reference["synthetic"][f"{name}:{TREE}"]
    ds = atlas[atlas.cut("process == p", p=name)]
    good = ds.cut("nJets >= 6 & nBTags_77 >= 2")
    assert good.count() == ATLAS[name] == expected["nJets >= 6 & nBTags_77 >= 2"]
    assert len(ds) == expected["entries"]
    weights = ds["weight_mc"].astype("f8")
    np.testing.assert_allclose(weights.sum().compute(), expected["sumw_all"], rtol=1e-12)
    np.testing.assert_allclose(ds[good]["weight_mc"].astype("f8").sum().compute(), expected["sumw_pass"], rtol=1e-12)
    assert ds.cut("weight_mc < 0").count() == expected["neg_weights"]
    assert len(ds["jet_pt"].values) == expected["n_jets"]
    assert ds.cut("isnan(feat_04)").count() == expected["nan feat_04"]
    assert ds.cut("eventNumber % 5 == 0").count() == expected["eventNumber % 5 == 0"]


def test_the_cut_flow_of_atlas_like_files(atlas, reference):
    flow = atlas.cutflow(["nJets >= 6", "nBTags_77 >= 2"], weight="weight_mc", by="process")
    assert set(flow.groups) == set(ATLAS)
    for g, name in enumerate(flow.groups):
        expected = reference["synthetic"][f"{name}:{TREE}"]
        assert flow.cumulative.rows[g, [0, 2]].tolist() == [expected["entries"], ATLAS[name]]
        np.testing.assert_allclose(
            flow.cumulative.sums[g, [0, 2]], [expected["sumw_all"], expected["sumw_pass"]], rtol=1e-12
        )


@pytest.mark.parametrize("name", ATLAS)
def test_event_numbers_are_exact_above_two_to_the_53(atlas, reference, name):
    expected = reference["synthetic"][f"{name}:{TREE}"]
    ds = atlas[atlas.cut("process == p", p=name)]
    events = ds["eventNumber"].compute()
    assert (int(events.min()), int(events.max())) == (expected["eventNumber_min"], expected["eventNumber_max"])
    for number in (expected["eventNumber_min"], expected["eventNumber_max"]):
        assert ds.cut(f"eventNumber == {number}").count() == (events == number).sum()
        assert ds.cut("eventNumber == n", n=number).count() == (events == number).sum()
        assert ds.cut(f"eventNumber < {number}").count() == (events < np.uint64(number)).sum()


def test_sum_of_jets_above_a_threshold(atlas, reference):
    for name in ATLAS:
        ds = atlas[atlas.cut("process == p", p=name)]
        expected = reference["synthetic"][f"{name}:{TREE}"]["sum(jet_pt > 100) >= 2"]
        assert ds.cut("sum(jet_pt > 100) >= 2").count() == expected


def test_batches_of_the_selected_rows(atlas):
    sel = atlas[atlas.cut("nJets >= 6 & nBTags_77 >= 2")]
    assert len(sel) == sum(ATLAS.values())
    seen = []
    for batch in sel.batches(1000, fields=["eventNumber", "process", "jet_pt"], collate={"jet_pt": mm.pad(12)}, seed=3):
        seen.append(batch.rows)
        assert batch["jet_pt"].shape == (len(batch.rows), 12)
        np.testing.assert_array_equal(
            batch["eventNumber"],
            [atlas[int(r)]["eventNumber"] for r in batch.rows[:1]] + batch["eventNumber"][1:].tolist(),
        )
    rows = np.concatenate(seen)
    assert len(np.unique(rows)) == len(rows) == len(sel)
    np.testing.assert_array_equal(
        np.sort(rows), np.flatnonzero(atlas.cut("nJets >= 6 & nBTags_77 >= 2").mask.compute())
    )
