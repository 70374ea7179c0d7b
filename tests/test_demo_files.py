from __future__ import annotations

from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot

from mmdask.demo import TREE, make_files
from mmdask.errors import OptionError

# more than one basket in the ttbb files
EVENTS = 100_001


def read(folder: Path) -> dict[str, Any]:
    return {p.name: uproot.open(p)[TREE].arrays() for p in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[Path, dict[str, Any]], dict[str, Any]]:
    folder = tmp_path_factory.mktemp("demo") / "new" / "folder"
    return make_files(folder, EVENTS, progress=False), read(folder)


def test_labels_and_sizes(made: Any) -> None:
    files, arrays = made
    assert {p.name: labels for p, labels in files.items()} == {
        "ttbb_mc16a.root": {"process": "ttbb", "year": 2016},
        "ttbb_mc16d.root": {"process": "ttbb", "year": 2017},
        "ttH_mc16a.root": {"process": "ttH", "year": 2016},
        "ttH_mc16d.root": {"process": "ttH", "year": 2017},
    }
    assert set(arrays) == {p.name for p in files}  # and no draft is left behind
    assert sum(len(a) for a in arrays.values()) == EVENTS
    first = next(iter(files))
    branch = uproot.open(first)[TREE]["jet_pt"]
    assert branch.num_baskets == 2
    assert branch.count_branch.name == "nJets"
    assert [b.name for b in uproot.open(first)[TREE].branches] == arrays[first.name].fields


def test_types(made: Any) -> None:
    _, arrays = made
    for a in arrays.values():
        kinds = {n: str(a[n].type.content) for n in a.fields}
        assert kinds == {
            "eventNumber": "uint64",
            "runNumber": "uint32",
            "weight_mc": "float32",
            "nJets": "int32",
            "nBTags_77": "int32",
            "met": "float32",
            "ht": "float32",
            **{f"jet_{x}": "var * float32" for x in ("pt", "eta", "phi", "e")},
            "jet_btag": "var * int32",
            **{f"feat_{i:02d}": "float32" for i in range(8)},
        }


def test_consistent(made: Any) -> None:
    _, arrays = made
    for a in arrays.values():
        for name in ("jet_pt", "jet_eta", "jet_phi", "jet_e", "jet_btag"):
            assert ak.all(ak.num(a[name]) == a["nJets"])
        assert ak.all(a["jet_pt"][:, :-1] >= a["jet_pt"][:, 1:])
        assert ak.min(a["jet_pt"]) >= 25e3
        assert ak.all(abs(a["jet_eta"]) <= 2.5)
        assert ak.all(a["jet_e"] > a["jet_pt"])
        assert set(ak.flatten(a["jet_btag"]).to_list()) == {1, 2, 3, 4, 5}
        assert ak.all(ak.sum(a["jet_btag"] >= 4, axis=1) == a["nBTags_77"])
        assert np.allclose(a["ht"], ak.sum(ak.values_astype(a["jet_pt"], "f8"), axis=1), rtol=1e-6)
        for name in a.fields:
            assert np.all(np.isfinite(ak.to_numpy(ak.ravel(a[name]))))


def test_event_numbers(made: Any) -> None:
    _, arrays = made
    numbers = np.concatenate([ak.to_numpy(a["eventNumber"]) for a in arrays.values()])
    assert numbers.dtype == np.uint64
    assert numbers.min() > 2**53
    assert len(np.unique(numbers)) == EVENTS
    # a detour by float64 would be noticed
    assert len(np.unique(numbers.astype(np.float64))) < EVENTS


def test_physics(made: Any) -> None:
    _, arrays = made
    kept, negative, feature = {}, {}, {}
    for process in ("ttbb", "ttH"):
        a = ak.concatenate([x for name, x in arrays.items() if name.startswith(process)])
        kept[process] = ak.mean((a["nJets"] >= 6) & (a["nBTags_77"] >= 2))
        negative[process] = ak.mean(a["weight_mc"] < 0)
        feature[process] = ak.mean(a["feat_00"])
        assert ak.sum(a["weight_mc"]) > 0
    assert 0.3 < kept["ttbb"] < 0.4
    assert 0.5 < kept["ttH"] < 0.7
    assert negative["ttbb"] == pytest.approx(0.22, abs=0.01)
    assert negative["ttH"] == pytest.approx(0.03, abs=0.01)
    assert feature["ttH"] - feature["ttbb"] == pytest.approx(0.6, abs=0.05)


def test_same_seed_same_numbers(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_files(tmp_path / name, 300, seed=seed, progress=False)
    a, b, c = (read(tmp_path / name) for name in "abc")
    for name, x in a.items():
        assert ak.array_equal(x, b[name], dtype_exact=True)
        for field in set(x.fields) - {"runNumber"}:
            assert not ak.array_equal(x[field], c[name][field])
    # the two campaigns differ as well
    assert not ak.array_equal(a["ttH_mc16a.root"]["met"], a["ttH_mc16d.root"]["met"])


@pytest.mark.parametrize("events", [0, 1, 3])
def test_few_events(tmp_path: Path, events: int) -> None:
    files = make_files(tmp_path, events, progress=False)
    assert len(files) == 4
    assert sum(uproot.open(p)[TREE].num_entries for p in files) == events


def test_replaces_its_own_files(tmp_path: Path) -> None:
    make_files(tmp_path, 50, progress=False)
    make_files(tmp_path, 20, progress=False)
    assert sum(len(a) for a in read(tmp_path).values()) == 20


def test_a_failure_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_files(tmp_path, 50, progress=False)

    def fails(*args: Any, **kwargs: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("mmdask.demo._events", fails)
    with pytest.raises(OSError, match="disk full"):
        make_files(tmp_path, 20, progress=False)
    assert sum(len(a) for a in read(tmp_path).values()) == 50


@pytest.mark.parametrize("kwargs", [{"events": -1}, {"seed": -1}])
def test_refuses(tmp_path: Path, kwargs: dict[str, int]) -> None:
    with pytest.raises(OptionError, match="not negative"):
        make_files(tmp_path / "x", **({"events": 10} | kwargs), progress=False)
    assert not (tmp_path / "x").exists()
