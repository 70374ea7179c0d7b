"""Rows, batches and blocks asked by short names, and objects of ROOT asked by what their members begin with."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import mmdask as mm
from mmdask.batches.batch import Batch
from mmdask.errors import FieldNotFoundError
from mmdask.schema import Field, Schema
from mmdask.short import ShortNamed

LISTS = [[1.0, 2.0], [], [3.0]]


@pytest.fixture
def ds(tmp_path):
    """As a TLorentzVector and a split object are stored; `size` stands for a branch of a folder."""
    return mm.from_arrays(
        {
            "mu.fP.fX": LISTS,
            "mu.fP.fY": [[4.0, 5.0], [], [6.0]],
            "mu.fE": [[7.0, 8.0], [], [9.0]],
            "data/size": [3, 1, 2],
            "data/kind": [0, 1, 0],
            "met": [10.0, 20.0, 30.0],
        },
        tmp_path / "s.mm",
    )


# Short names --------------------------------------------------------------------------------------------------------


def test_a_batch_is_asked_by_short_names(ds):
    batch = ds.batches(3, shuffle=False, collate={"mu_fE": mm.pad(2)})[0]
    assert list(batch) == ["mu.fP.fX", "mu.fP.fY", "mu.fE", "mu.fE_mask", "data/size", "data/kind", "met"]
    assert batch["mu_fE"] is batch["mu.fE"]
    assert batch["mu_fE_mask"] is batch["mu.fE_mask"]
    assert batch.get("data_size") is batch["data/size"]
    assert "mu_fE" in batch
    assert "mu_fF" not in batch
    assert batch.get("mu_fF", 5) == 5
    with pytest.raises(FieldNotFoundError, match=r"no entry 'mu_fF'; did you mean 'mu_fE'"):
        batch["mu_fF"]
    for other in (copy.copy(batch), copy.deepcopy(batch), pickle.loads(pickle.dumps(batch))):
        assert type(other) is Batch
        assert list(other) == list(batch)
        assert (other["mu_fE"] == batch["mu.fE"]).all()
        assert other.index == batch.index


def test_a_transform_asks_by_short_names_and_puts_in_what_it_names(ds):
    def change(batch):
        batch["data_size"] += 1  # in place
        batch["half"] = batch.pop("data_kind") / 2
        return batch

    batch = ds.batches(3, shuffle=False, transform=change)[0]
    assert batch["data/size"].tolist() == [4, 2, 3]
    assert batch["half"].tolist() == [0, 0.5, 0]
    assert "data/kind" not in batch


def test_rows_are_asked_by_short_names(ds):
    assert ds[2]["mu_fP_fX"].tolist() == [3.0]
    assert ds[[2, 0]]["mu_fP_fX"].to_list() == [[3.0], [1.0, 2.0]]
    assert ds[[2, 0]]["data_size"].tolist() == [2, 3]
    assert list(ds[0]) == list(ds[[0]]) == list(ds.fields)
    assert "mu_fE" in ds
    assert "mu_fF" not in ds
    assert 5 not in ds
    assert list(ds.keys()) == list(ds.fields)


def test_a_function_of_blocks_asks_by_short_names(ds):
    def hard(block):
        assert list(block) == ["data/size"]
        return block["data_size"] > 1

    assert ds.cut(hard, key="hard", fields=["data_size"]).count() == 2


def test_names_count_before_short_ones_and_several_are_an_error():
    entries = ShortNamed({"a.b": 1, "a_b": 2, "c.d": 3, "c/d": 4, 5: 6})
    assert entries["a_b"] == 2
    assert entries[5] == 6
    assert "c_d" not in entries
    assert entries.get("c_d") is None
    with pytest.raises(FieldNotFoundError, match="'c_d' is short for several fields: 'c.d', 'c/d'"):
        entries["c_d"]
    with pytest.raises(KeyError):
        entries.pop("e")
    assert entries.pop("e", None) is None
    assert entries == {"a.b": 1, "a_b": 2, "c.d": 3, "c/d": 4, 5: 6}


def test_what_was_typed_is_not_proposed(ds):
    with pytest.raises(FieldNotFoundError, match=r"no field 'mu_fE': it is short for 'mu\.fE'") as error:
        ds.schema["mu_fE"]
    assert "did you mean" not in str(error.value)
    with pytest.raises(FieldNotFoundError, match=r"no field 'mu': it is an object, of .*; 'mu\.\*' means all of them"):
        ds["mu"]
    with pytest.raises(FieldNotFoundError, match=r"'data/\*' means all of them"):
        ds.schema["data"]


# Objects ------------------------------------------------------------------------------------------------------------


def test_records_of_an_object(ds):
    mu = ds.zip("mu")
    assert mu.fields == ("fX", "fY", "fE")
    assert mu.compute().to_list()[0] == [{"fX": 1.0, "fY": 4.0, "fE": 7.0}, {"fX": 2.0, "fY": 5.0, "fE": 8.0}]
    assert ds.zip("mu.fP").fields == ("fX", "fY")
    assert ds.zip("data").compute().to_list()[1] == {"size": 1, "kind": 1}
    with pytest.raises(FieldNotFoundError, match="did you mean 'data'"):
        ds.zip("dato")


def test_members_of_two_objects_within_one_keep_their_whole_names(tmp_path):
    ds = mm.from_arrays(
        {"a.p.x": [1.0], "a.q.x": [2.0], "a.q.y": [3.0], "a.y.z": [4.0], "a.z": [5.0]}, tmp_path / "a.mm"
    )
    assert ds.zip("a").compute().to_list() == [{"p.x": 1.0, "q.x": 2.0, "y": 3.0, "y.z": 4.0, "z": 5.0}]


def test_names_with_underscores_count_first(tmp_path):
    ds = mm.from_arrays({"jet_pt": LISTS, "jet.pt": LISTS, "jet_": [1, 2, 3]}, tmp_path / "a.mm")
    assert ds.zip("jet").fields == ("pt",)
    assert ds.rename({"jet": "j"}).fields == ("j_pt", "jet.pt", "jet_")


def test_selection_of_an_object(ds):
    assert ds[["met", "mu"]].fields == ("met", "mu.fP.fX", "mu.fP.fY", "mu.fE")
    assert ds[["mu.fP"]].fields == ("mu.fP.fX", "mu.fP.fY")
    assert list(ds.batches(3, fields=["data"])[0]) == ["data/size", "data/kind"]
    schema = Schema([Field.dense("a.x", "f4"), Field.dense("a", "f4")])
    assert schema.match("a") == ["a"]


def test_explode_of_an_object(ds):
    items = ds.explode("mu")
    assert items["mu.fP.fX"].compute().tolist() == [1.0, 2.0, 3.0]
    assert items["mu_fE"].compute().tolist() == [7.0, 8.0, 9.0]
    assert items["met"].compute().tolist() == [10.0, 10.0, 30.0]
    assert len(ds.explode("mu.fP")) == 3


def test_rename_of_an_object(ds):
    new = ds.rename({"mu": "muon", "data": "info"})
    assert new.fields == ("muon.fP.fX", "muon.fP.fY", "muon.fE", "info/size", "info/kind", "met")
    assert new.zip("muon").compute().to_list() == ds.zip("mu").compute().to_list()


def test_steps_for_an_object(ds):
    batch = ds.batches(3, shuffle=False, fields=["mu"], collate={"mu": mm.pad(2)})[0]
    assert list(batch) == ["mu.fP.fX", "mu.fP.fY", "mu.fE", "mu_mask"]
    assert batch["mu_fP_fX"].shape == (3, 2)
    assert batch["mu_mask"].tolist() == [[True, True], [False, False], [True, False]]
    stacked = ds.batches(3, shuffle=False, collate={"p": mm.stack("mu", step=mm.pad(2))})[0]["p"]
    assert stacked.shape == (3, 2, 3)
    assert np.array_equal(stacked[2, 0], [3.0, 6.0, 9.0])


def test_what_tells_of_fields_is_asked_by_short_names(ds):
    described = ds.describe(["data/size", "met"])
    assert described["data_size"] is described["data/size"]
    assert "data_size" in described
    with pytest.raises(FieldNotFoundError, match="no field 'data_kind' is described"):
        described["data_kind"]
    loader = ds.batches(2, fields="met")
    assert loader.report("data_kind").field == "data/kind"
    mixed = mm.mix({"a": loader, "b": ds.batches(2, fields="met")}, {"a": 1, "b": 1})
    assert mixed.report("data_kind").field == "data/kind"


def test_objects_have_short_names(ds):
    sub = ["mu.fP.fX", "mu.fP.fY"]
    assert list(ds[["mu_fP"]].fields) == sub
    assert list(ds.batches(3, fields=["mu_fP", "met"]).fields) == [*sub, "met"]
    assert ds.zip("mu_fP").compute().to_list() == ds.zip("mu.fP").compute().to_list()
    assert len(ds.explode("mu_fP")) == 3
    assert list(ds.rename({"mu_fP": "p"}).fields)[:3] == ["p.fX", "p.fY", "mu.fE"]
    batch = ds.batches(3, fields="mu", shuffle=False, collate={"mu_fP": mm.pad(2)})[0]
    assert batch["mu.fP.fX"].shape == batch["mu_fP_mask"].shape == (3, 2)
    assert isinstance(batch["mu.fE"], mm.Packed)
    stacked = ds.batches(3, fields="mu", shuffle=False, collate={"p": mm.stack("mu_fP", step=mm.pad(2))})[0]
    assert stacked["p"].shape == (3, 2, 2)
    assert ds.batches(2, bucket=mm.bucket("mu_fE"), fields="met")[0].rows.shape == (2,)
    with pytest.raises(FieldNotFoundError, match=r"no field 'mu_fP': it is an object, of .*; 'mu\.fP\.\*' means all"):
        ds["mu_fP"]


def test_a_short_name_of_an_object_comes_last(tmp_path):
    names = ["a.b", "a.b.c", "a_b_d", "e[0]/x", "e[0]/y", "f/g.h", "f.g.h"]
    ds = mm.from_arrays({name: [i] for i, name in enumerate(names)}, tmp_path / "n.mm")
    assert list(ds[["a_b"]].fields) == ["a.b"], "a field"
    assert list(ds.zip("a_b").compute().fields) == ["d"], "what begins so"
    assert list(ds[["e_0"]].fields) == ["e[0]/x", "e[0]/y"]
    assert list(ds.rename({"e_0": "e"}).fields)[3:5] == ["e/x", "e/y"]
    for ask in (lambda: ds[["f_g"]], lambda: ds.zip("f_g")):
        with pytest.raises(FieldNotFoundError, match=r"'f_g' is short for several objects: 'f/g', 'f\.g'"):
            ask()
