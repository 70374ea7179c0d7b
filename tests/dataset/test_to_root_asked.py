"""Files of ROOT as people ask for them: counters that names decide, there and back, dots, what a killed export left."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import uproot

import mmdask as mm
from mmdask.export import root as root_module
from mmdask.schema import Field
from mmdask.store.system import SYSTEM, System

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "root"


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    """Nothing here loses power."""
    monkeypatch.setattr(System, "fsync", lambda *_: None)
    monkeypatch.setattr(System, "fsync_folder", lambda *_: None)


def counters(path, tree="events"):
    """The counter of each list of a tree, and the dtype of the counters."""
    with uproot.open(path) as file:
        leaves = {b.name: b.member("fLeaves")[0].member("fLeafCount") for b in file[tree].branches}
        return {name: leaf.member("fName") for name, leaf in leaves.items() if leaf is not None}


def lists(*counts):
    return [[1.0] * n for n in counts]


# Counters -----------------------------------------------------------------------------------------------------------


EXPECTED = {"jet_pt": "njet", "jet_eta": "njet", "mu_pt": "nmu", "x": "nx", "y": "ny", "a.b.c": "na", "a.d": "na"}


@pytest.mark.filterwarnings("ignore:names with a dot")
@pytest.mark.parametrize("others", [(2, 0), (1, 2)], ids=["others differ", "equal by chance"])
@pytest.mark.parametrize("stop", [0, 2])
def test_names_decide_which_lists_share_a_counter(tmp_path, others, stop):
    """Stores of the same fields give the same branches, so that their files may be read as a chain."""
    ds = mm.from_arrays(
        {n: lists(1, 2) if n.startswith("jet") else lists(*others) for n in EXPECTED}, tmp_path / "s.mm"
    )
    ds[:stop].to_root(tmp_path / "f.root", progress=False)
    assert counters(tmp_path / "f.root") == EXPECTED


def test_lists_that_were_stored_one_by_one_share_a_counter(tmp_path):
    mm.from_arrays({"jet_pt": lists(1, 2)}, tmp_path / "s.mm")
    mm.assign(tmp_path / "s.mm", {"jet_eta": lists(1, 2), "jet_sel": lists(1, 1)}, progress=False)
    ds = mm.open(tmp_path / "s.mm").assign(jet_good="jet_pt[jet_pt > 0]", jet_bad="jet_pt[jet_pt < 0]")
    ds.to_root(tmp_path / "f.root", progress=False)
    own = {"jet_sel": "njet_sel", "jet_bad": "njet_bad"}
    assert counters(tmp_path / "f.root") == {"jet_pt": "njet", "jet_eta": "njet", "jet_good": "njet", **own}


def test_members_of_a_record_share_a_counter(tmp_path):
    fields = [Field.ragged(f"lead_jet_{m}", "f4", record="lead") for m in ("pt", "all_iso")]
    with mm.create(tmp_path / "s.mm", fields=[*fields, Field.ragged("lead_time", "f4")]) as w:
        w.extend({"lead_jet_pt": lists(1, 2), "lead_jet_all_iso": lists(1, 2), "lead_time": lists(0, 2)})
    mm.open(tmp_path / "s.mm").to_root(tmp_path / "f.root", progress=False)
    shared = {"lead_jet_pt": "nlead", "lead_jet_all_iso": "nlead"}
    assert counters(tmp_path / "f.root") == {**shared, "lead_time": "nlead_time"}


@pytest.mark.parametrize("dtype", ["<u4", "<i4"])
@pytest.mark.parametrize("counter", ["nMuon", "NMuon"])
@pytest.mark.parametrize("first", [True, False])
def test_a_field_that_counts_is_the_counter_as_in_nanoaod(tmp_path, dtype, counter, first):
    made = {"Muon_pt": lists(1, 0, 2), "Muon_iso_all": lists(1, 0, 2)}
    number = {counter: np.array([1, 0, 2], dtype)}
    ds = mm.from_arrays(number | made if first else made | number, tmp_path / "s.mm")
    ds.to_root(tmp_path / "f.root", progress=False)
    assert counters(tmp_path / "f.root") == dict.fromkeys(made, counter)
    back = mm.from_root(tmp_path / "f.root", tmp_path / "b.mm", progress=False)
    assert sorted(back.fields) == sorted(ds.fields)
    assert back.schema[counter].dtype == np.dtype("<i4")
    assert back[counter].compute().tolist() == [1, 0, 2]
    for name in made:
        assert back[name].to_list() == ds[name].to_list()


@pytest.mark.parametrize("values", [np.array([1, 0, 3], "<u4"), np.array([1, 0, 2], "<i8"), [1.0, 0.0, 2.0]])
def test_a_field_that_does_not_count_or_is_wider_stays_what_it_is(tmp_path, values):
    ds = mm.from_arrays({"nMuon": values, "Muon_pt": lists(1, 0, 2)}, tmp_path / "s.mm")
    ds.to_root(tmp_path / "f.root", progress=False)
    assert counters(tmp_path / "f.root") == {"Muon_pt": "nMuon_"}
    with uproot.open(tmp_path / "f.root") as file:
        found = file["events"]["nMuon"].array(library="np")
    assert (found.dtype, found.tolist()) == (np.asarray(values).dtype, np.asarray(values).tolist())


def test_nanoaod_goes_there_and_back(tmp_path):
    path = SHARED / "nanoAOD_2015_CMS_Open_Data_ttbar.root"
    if not path.exists():
        pytest.skip("no shared files here")
    wanted = ["nMuon", "Muon_*", "nJet", "Jet_*", "run"]
    ds = mm.from_root(path, tmp_path / "s.mm", fields=wanted, progress=False)
    ds.to_root(tmp_path / "f.root", "Events", progress=False)
    back = mm.from_root(tmp_path / "f.root", tmp_path / "b.mm", progress=False)
    assert sorted(back.fields) == sorted(ds.fields)
    assert set(counters(tmp_path / "f.root", "Events").values()) == {"nMuon", "nJet"}
    for name in ds.fields:
        same = ds.schema[name].same_layout(back.schema[name])
        assert same or name in ("nMuon", "nJet"), name
        a, b = ds[name].compute(), back[name].compute()
        assert np.array_equal(a, b) if isinstance(a, np.ndarray) else a.to_list() == b.to_list(), name


# Names --------------------------------------------------------------------------------------------------------------


def test_names_with_dots_are_written_and_warned_of(tmp_path, recwarn):
    ds = mm.from_arrays({"mu.fE": [1.0], "mu.fP.fX": [1.0], "met": [1.0]}, tmp_path / "s.mm")
    with pytest.warns(
        UserWarning, match=r"names with a dot are written as they are, .*: 'mu\.fE', 'mu\.fP\.fX'; ds\."
    ) as w:
        ds.to_root(tmp_path / "f.root", progress=False)
    assert len(w) == 1
    assert w[0].filename == __file__
    back = mm.from_root(tmp_path / "f.root", tmp_path / "b.mm", progress=False)
    assert back.fields == ds.fields
    recwarn.clear()
    ds.rename({name: name.replace(".", "_") for name in ds.fields}).to_root(tmp_path / "g.root", progress=False)
    assert not recwarn


def test_a_name_that_an_expression_cuts_apart_is_proposed_in_backticks(tmp_path):
    ds = mm.from_arrays(
        {"V0s/V0s.pt": [1.0, -1.0], "V0s/n": [1, 2], "a-b": [0, 1], "met": [1.0, 2.0]}, tmp_path / "s.mm"
    )
    for text in ("V0s/V0s.pt > 0", "met > 0 and abs(V0s/V0s.pt) > 0"):
        with pytest.raises(mm.ExpressionError, match="no field 'V0s'; .* in backticks: `V0s/V0s.pt`, or V0s_V0s_pt\n"):
            ds.cut(text)
    with pytest.raises(mm.ExpressionError, match="no field 'a'; .* in backticks: `a-b`, or a_b"):
        ds.cut("a-b > 0")
    for text in ("V0s > 0", "V0s/V0s.pt2 > 0", "`V0s/V0s.pt` > 0 and V0s > 0"):
        with pytest.raises(mm.ExpressionError) as error:
            ds.cut(text)
        assert "backticks" not in str(error.value)
    for text in ("`V0s/V0s.pt` > 0", "V0s_V0s_pt > 0"):
        assert ds.cut(text).count() == 1


# Exports that were killed -------------------------------------------------------------------------------------------

CHILD = """
import sys, time
import mmdask as mm
from mmdask.rows.rows import Rows

def read(self, *args):
    print("writing", flush=True)
    time.sleep(600)

ds = mm.open(sys.argv[1])
Rows.read = read
ds.to_root(sys.argv[2], progress=False, overwrite=True)
"""


def test_the_next_export_removes_what_a_killed_one_left(tmp_path):
    store, path = tmp_path / "s.mm", tmp_path / "f.root"
    ds = mm.from_arrays({"x": [1.0, 2.0]}, store)
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(CHILD), store, path], stdout=subprocess.PIPE)
    try:
        assert child.stdout.readline() == b"writing\n"
        left = [name for name in os.listdir(tmp_path) if name.startswith("f.root.tmp-")]
        assert len(left) == 1
        ds.to_root(path, progress=False)
        assert sorted(os.listdir(tmp_path)) == sorted(["f.root", "s.mm", *left])  # that one is still at it
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    others = ["f.root.tmp-notes", "other.root.tmp-1-0123abcd", "f.root.tmp-1-0123abcd.txt"]
    for name in others:
        (tmp_path / name).touch()
    assert left[0] in os.listdir(tmp_path)
    ds.to_root(path, progress=False, overwrite=True)
    assert sorted(os.listdir(tmp_path)) == sorted(["f.root", "s.mm", *others])


def test_a_file_that_is_taken_for_a_left_one_before_it_is_locked_is_made_anew(tmp_path, monkeypatch):
    ds = mm.from_arrays({"x": [1.0, 2.0]}, tmp_path / "s.mm")
    create, made = SYSTEM.create, []

    def taken(path):
        fd = create(path)
        made.append(path)
        if len(made) == 1:
            root_module._remove_left(str(tmp_path / "f.root"))
        return fd

    monkeypatch.setattr(SYSTEM, "create", taken)
    ds.to_root(tmp_path / "f.root", progress=False)
    assert len(made) == 2
    assert sorted(os.listdir(tmp_path)) == ["f.root", "s.mm"]
    with uproot.open(tmp_path / "f.root") as file:
        assert file["events"]["x"].array().to_list() == [1.0, 2.0]


def test_a_file_that_is_about_to_get_its_name_is_none_that_was_left(tmp_path, monkeypatch):
    """Another export to the same place begins at each step by which this one ends."""
    store, path = tmp_path / "s.mm", tmp_path / "f.root"
    ds = mm.from_arrays({"x": [1.0, 2.0]}, store)
    other = mm.from_arrays({"x": [3.0]}, tmp_path / "other.mm")
    for step in ("fsync", "rename", "fsync_folder"):
        original, begun = getattr(SYSTEM, step), []

        def call(*args, original=original, step=step, begun=begun):
            if not begun:
                begun.append(step)
                other.to_root(path, progress=False, overwrite=True)
            return original(*args)

        with monkeypatch.context() as patch:
            patch.setattr(SYSTEM, step, call)
            ds.to_root(path, progress=False, overwrite=True)
        assert begun == [step]
        assert sorted(os.listdir(tmp_path)) == ["f.root", "other.mm", "s.mm"]
        with uproot.open(path) as file:
            last = [3.0] if step == "fsync_folder" else [1.0, 2.0]  # of which one was renamed last
            assert file["events"]["x"].array().to_list() == last


def test_without_locks_a_file_is_written_and_nothing_removed(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError("no locks here")

    locks = SimpleNamespace(flock=refused, LOCK_EX=fcntl.LOCK_EX, LOCK_NB=fcntl.LOCK_NB)
    monkeypatch.setattr(root_module, "fcntl", locks)
    (tmp_path / "f.root.tmp-1-0123abcd").touch()
    mm.from_arrays({"x": [1.0, 2.0]}, tmp_path / "s.mm").to_root(tmp_path / "f.root", progress=False)
    assert sorted(os.listdir(tmp_path)) == ["f.root", "f.root.tmp-1-0123abcd", "s.mm"]
