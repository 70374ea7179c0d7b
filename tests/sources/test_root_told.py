"""What is said of fields that were left out and of names that mean no input; and what `from_root` is said to return."""

from __future__ import annotations

import inspect
import os
import pickle
import re
import shutil
import typing

import awkward as ak
import numpy as np
import pytest
import uproot
from root_tools import DATA, needs_data, write_tree

import mmdask as mm
from mmdask.cli import main
from mmdask.dataset.making.make import RootOptions
from mmdask.sources.converting.table import UnreadableError
from mmdask.sources.root.ttree import Branch
from mmdask.store import snapshot


def run(sources, out, **kwargs):
    return mm.from_root(sources, out, progress=False, **kwargs)


# Fields that were left out ------------------------------------------------------------------------------------------


@pytest.fixture
def tried(monkeypatch):
    """`met` and the members of `obj` cannot be read; how often that was tried, by branch and first row."""
    found = []
    read = Branch.read

    def bad(self, start, stop, wanted):
        found.append((self.name, start))
        if self.name in ("met", "obj.x", "obj.y"):
            raise UnreadableError("damaged, odd bytes")
        return read(self, start, stop, wanted)

    monkeypatch.setattr(Branch, "read", bad)
    return found


@pytest.fixture
def left(tmp_path, tried):
    """A store without `met` and `obj.*`, of a file of four baskets in two parts."""
    rng = np.random.default_rng(1)
    names = ("x", "met", "obj.x", "obj.y")
    chunks = [{name: rng.normal(size=500) for name in names} for _ in range(4)]
    path = write_tree(tmp_path / "a.root", chunks)
    with pytest.warns(mm.SkippedFieldsWarning, match="data of 3 fields cannot be read"):
        ds = run(path, tmp_path / "left.mm", part_nbytes="32 kB")
    assert len(ds._rows.snapshot.parts) == 2
    return ds


def test_what_cannot_be_read_is_tried_once(left, tried):
    assert [name for name, _ in tried if name != "x"] == ["met", "obj.x", "obj.y"]
    assert [[name for name, _ in source.skipped] for source in left.sources] == [["met", "obj.x", "obj.y"]] * 2
    assert {why for source in left.sources for _, why in source.skipped} == {"cannot be read: damaged, odd bytes"}


ASKED = {
    "field": lambda ds: ds["met"],
    "fields": lambda ds: ds[["met", "x"]],
    "schema": lambda ds: ds.schema["met"],
    "batches": lambda ds: ds.batches(8, fields=["x", "met"]),
    "bucket": lambda ds: ds.batches(8, bucket=mm.bucket("met")),
    "weights": lambda ds: ds.batches(8, weights="abs(met)"),
    "cut": lambda ds: ds.cut("x > 0 & met > 3"),
    "a cut with a constant": lambda ds: ds.cut("met > mett", mett=3.0),
    "a cut of what is computed": lambda ds: ds.assign(y="x * 2").cut("met > y"),
    "cut flow": lambda ds: ds.cutflow(["met > 3"]),
    "expression": lambda ds: ds.assign(y="met * 2"),
    "hist": lambda ds: ds.hist("met"),
    "describe": lambda ds: ds.describe(["met"]),
    "split": lambda ds: ds.split({"a": 0.5, "b": 0.5}, by="met"),
    "a cut from Python": lambda ds: ds.cut(lambda x: x, key="f", fields=["met"]),
    "to_root": lambda ds: ds.to_root("no.root", fields=["met"]),
    "rename": lambda ds: ds.rename({"met": "ptmiss"}),
    "zip": lambda ds: ds.zip("met"),
    "explode": lambda ds: ds.explode("met"),
    "of what was renamed": lambda ds: ds.rename({"x": "z"})[["met"]],
    "of what has a computed field": lambda ds: ds.assign(y="x * 2")[["met"]],
    "of two": lambda ds: mm.concat([ds, ds])[["met"]],
    "of some fields": lambda ds: ds[["x"]][["met"]],
    "pickled": lambda ds: pickle.loads(pickle.dumps(ds)).cut("met > 3"),
}


@pytest.mark.parametrize("how", ASKED)
def test_a_field_that_was_left_out_says_why_however_it_is_asked_for(left, how):
    with pytest.raises((mm.FieldNotFoundError, mm.ExpressionError)) as error:
        ASKED[how](left)
    said = r"left out at conversion: cannot be read: damaged, odd bytes \(.*a\.root\)"
    assert re.search(said, str(error.value))


def test_an_object_of_which_all_was_left_out_says_why(left):
    for ask in (lambda: left.zip("obj"), lambda: left.explode("obj"), lambda: left[["obj"]]):
        with pytest.raises(mm.FieldNotFoundError, match=r"left out at conversion: cannot be read"):
            ask()


def test_other_names_are_not_looked_for_in_the_parts_of_a_store(left, monkeypatch):
    with pytest.raises(mm.FieldNotFoundError, match="no field 'mett'; the fields are: x$"):
        left[["mett"]]
    again = mm.open(left.path, io="pread")
    monkeypatch.setattr(type(again._rows.snapshot), "why_left_out", lambda self, name: pytest.fail("looked"))
    assert again.schema.get("met") is None
    assert again.schema.get("met", 3) == 3
    assert "met" not in again


def test_a_damaged_store_still_says_that_there_is_no_such_field(left):
    for part in left._rows.snapshot.parts:
        for layer in part.layers:
            os.unlink(os.path.join(left.path, "parts", layer, "part.json"))
    with pytest.raises(mm.FieldNotFoundError, match="no field 'met'; the fields are: x$"):
        mm.open(left.path, io="pread")[["met"]]


def test_behind_a_url_few_parts_are_asked(tmp_path, tried, monkeypatch):
    path = write_tree(tmp_path / "a.root", [{name: np.arange(5) for name in ("x", "met")}])
    with pytest.warns(mm.SkippedFieldsWarning):
        ds = run(path, "memory://told.mm")
    with pytest.raises(mm.FieldNotFoundError, match="left out at conversion"):
        ds[["met"]]
    monkeypatch.setattr(snapshot, "_MOST_ASKED", 0)
    with pytest.raises(mm.FieldNotFoundError, match="no field 'met'; the fields are: x$"):
        ds[["met"]]


# Names that mean no input -------------------------------------------------------------------------------------------


def test_a_store_is_no_source(left, tmp_path, capsys):
    with pytest.raises(mm.SourceError, match=r"left\.mm is a store and no ROOT file; `mmdask info` shows it"):
        run(left.path, tmp_path / "no.mm")
    assert main(["inspect", left.path]) != 0
    assert "`mmdask info` shows it" in capsys.readouterr().err


def test_a_pattern_has_no_cycle(tmp_path):
    path = write_tree(tmp_path / "a.root", [{"x": np.arange(5)}], "nominal")
    for asked, hint in (
        ("nom*;7", r"no tree fits 'nom\*;7'; a pattern means the highest cycle of each tree, so write 'nom\*'"),
        ("*", "^$"),
        ("nominal;7", "no tree 'nominal;7': of 'nominal' there is nominal;1"),
        ("nominal;x", "no tree 'nominal;x'"),
    ):
        if hint == "^$":
            assert len(run(f"{path}:{asked}", tmp_path / "all.mm")) == 5
            continue
        with pytest.raises(mm.SourceError, match=hint):
            run(f"{path}:{asked}", tmp_path / "no.mm")


def test_a_look_at_a_pattern_lists_what_fits(tmp_path):
    for name in ("nominal", "nom_up", "other"):
        mode = uproot.recreate if name == "nominal" else uproot.update
        path = write_tree(tmp_path / "a.root", [{"x": np.arange(5)}], name, mode=mode)
    with pytest.raises(mm.SourceError, match=r"no tree 'nom\*'; name one of those that fit: nom_up, nominal$"):
        mm.inspect_root(f"{path}:nom*")


def test_files_that_were_all_renamed_are_others(tmp_path):
    path = write_tree(tmp_path / "a.root", [{"x": np.arange(5)}])
    run(path, tmp_path / "o.mm")
    other = shutil.move(path, tmp_path / "b.root")
    said = (
        r"from other sources \(.*a\.root\), and none of them is named now; .* remove the store first, if these are the"
    )
    for missing in ("error", "drop"):
        with pytest.raises(mm.StoreExistsError, match=said):
            run(other, tmp_path / "o.mm", missing=missing)
    assert len(mm.open(tmp_path / "o.mm")) == 5


# Types --------------------------------------------------------------------------------------------------------------


def test_types_say_that_a_plan_is_returned():
    made = typing.get_overloads(mm.from_root)
    returned = [typing.get_type_hints(f, include_extras=True)["return"] for f in made]
    assert returned == [mm.Dataset, mm.ConversionPlan, mm.Dataset | mm.ConversionPlan]
    plans = [typing.get_type_hints(f)["plan"] for f in made]
    assert plans == [typing.Literal[False], typing.Literal[True], bool]
    parameters = inspect.signature(mm.from_root).parameters
    assert [name for name in parameters if name not in ("sources", "path", "plan")] == list(RootOptions.__annotations__)
    options = typing.get_type_hints(RootOptions)
    real = typing.get_type_hints(mm.from_root)
    assert options == {name: real[name] for name in options}


@needs_data
def test_a_split_clones_array_is_as_a_split_vector(tmp_path, monkeypatch):
    """No file of one is at hand; split ones differ from split vectors in what their branches call themselves alone."""
    path = str(DATA / "root" / "uproot-issue232.root")
    vector = mm.from_root(path, tmp_path / "v.mm", fields="V0s*", progress=False)
    model = uproot.models.TBranch.Model_TBranchElement_v10
    read = model.postprocess

    def as_clones(self, *args):
        found, members = read(self, *args), self._members
        if self.member("fName") == "V0s":
            assert members["fType"] == 4
            members |= {"fClassName": "TClonesArray", "fType": 3}
        elif members["fType"] == 41:
            members["fType"] = 31
        return found

    monkeypatch.setattr(model, "postprocess", as_clones)
    clones = mm.from_root(path, tmp_path / "c.mm", fields="V0s*", progress=False)
    assert clones.schema["V0s"].describe() == "int32"
    assert clones["V0s"].compute().tolist() == vector["V0s/V0s.fV0pt"].counts.compute().tolist()
    assert clones.fields == ("V0s", *vector.fields)
    assert list(clones.zip("V0s").compute().fields) == [name.rpartition(".")[2] for name in vector.fields]
    for name in vector.fields:
        assert clones.schema[name].describe() == vector.schema[name].describe()
        assert ak.to_list(clones[name].compute()) == ak.to_list(vector[name].compute())
