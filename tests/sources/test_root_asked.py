"""What users asked for who came new: names of objects, messages that say what to do, what is told of what was done."""

from __future__ import annotations

import math
import os
import re
import warnings

import awkward as ak
import numpy as np
import pytest
import uproot
from root_tools import DATA, needs_data, write_tree

import mmdask as mm
from mmdask.cli import main
from mmdask.errors import DroppedItemsWarning, SkippedFieldsWarning
from mmdask.sources.converting.table import UnreadableError
from mmdask.sources.root.ttree import Branch

ROWS = 6


@pytest.fixture
def objects(tmp_path):
    """An RNTuple with an object of an object, a list of objects, and a name with a dot that is no object's."""
    path = tmp_path / "objects.root"
    lists = ak.Array([[1.0], [], [2.0, 3.0], [4.0], [], [5.0, 6.0, 7.0]])
    numbers = np.arange(ROWS, dtype=np.float32)
    with uproot.recreate(path) as file:
        p4 = ak.zip({"fP": ak.zip({"fX": numbers, "fY": numbers + 10}), "fE": numbers + 20})
        file.mkrntuple("events", {"p4": p4, "jet": ak.zip({"pt": lists, "eta": -lists}), "met": numbers + 30})
    return str(path)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "o.mm"


def convert(source, out, **options):
    return mm.from_root(source, out, **{"progress": False, **options})


# Names of objects ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rename", "expected"),
    [
        ({"p4": "mu"}, ["mu.fP.fX", "mu.fP.fY", "mu.fE"]),
        ({"p4.fP": "v"}, ["v.fX", "v.fY", "p4.fE"]),
        ({"p4": "mu", "p4.fP": "v"}, ["v.fX", "v.fY", "mu.fE"]),
        ({"p4": "mu", "p4.fE": "e"}, ["mu.fP.fX", "mu.fP.fY", "e"]),
        ({"p?": "mu"}, ["mu.fP.fX", "mu.fP.fY", "mu.fE"]),
        ({"p4_fE": "e"}, ["p4.fP.fX", "p4.fP.fY", "e"]),
        ({"p4": "met.of"}, ["met.of.fP.fX", "met.of.fP.fY", "met.of.fE"]),
    ],
)
def test_an_object_is_renamed_with_its_members(objects, out, rename, expected):
    ds = convert(objects, out, rename=rename, exclude="jet")
    assert list(ds.fields) == ["met", *expected]
    for name, shift in zip(expected, (0, 10, 20), strict=True):
        assert ds[name].compute().tolist() == [x + shift for x in range(ROWS)]


def test_expressions_know_both_names_of_members(objects, out):
    ds = convert(
        objects,
        out,
        rename={"p4": "mu"},
        cut="`p4.fE` > 21 and mu_fE < 25",
        aliases={"a": "p4_fE + `mu.fP.fX`"},
        fields=["p4.fE", "p4.fP.*"],
    )
    assert ds["a"].compute().tolist() == [24, 26, 28]


def test_an_object_may_get_the_name_of_a_field(objects, out):
    ds = convert(objects, out, rename={"p4": "met"}, cut="met > 33")
    assert ds["met"].compute().tolist() == [34, 35]
    assert "met.fE" in ds.fields


def test_a_group_of_branches_is_renamed_with_its_members(tmp_path, out):
    path = write_tree(tmp_path / "dots.root", [{"GEN.x": np.arange(3), "GEN.y": np.arange(3), "GEN": np.arange(3)}])
    assert list(convert(path, out, rename={"GEN": "g"}).fields) == ["GEN.x", "GEN.y", "g"], "GEN is a field itself"
    path = write_tree(tmp_path / "dots2.root", [{"GEN.x": np.arange(3), "GEN.y": np.arange(3)}])
    assert list(convert(path, tmp_path / "p.mm", rename={"GEN": "g"}).fields) == ["g.x", "g.y"]


def test_pad_of_an_object_pads_its_lists(objects, out):
    with pytest.warns(DroppedItemsWarning, match="pad cut"):
        ds = convert(objects, out, pad={"jet": 2}, fields=["jet", "met"])
    assert ds.schema["jet.pt"].describe() == "float64 (2,)"
    assert ds.schema["jet.eta"].describe() == "float64 (2,)"


# Files that differ --------------------------------------------------------------------------------------------------


def test_nothing_in_common_names_the_odd_file(tmp_path, out):
    many = {f"x{i}": np.arange(3) for i in range(20)}
    sources = [write_tree(tmp_path / f"{name}.root", [many]) for name in "ab"]
    sources.append(write_tree(tmp_path / "c.root", [{"data": np.arange(3)}]))
    with pytest.raises(mm.SchemaError) as error:
        convert(sources, out, on_mismatch="common")
    text = str(error.value)
    assert "no field is left: none is alike in all 3 inputs. All but" in text
    assert "c.root:" in text or "c.root have" in text
    assert "'x0', 'x1', 'x2', 'x3', 'x4', ... (20 in all) alike" in text
    assert "'data' (int64)" in text
    assert len(text) < 400
    with pytest.raises(mm.SchemaError, match=r"a\.root.* has 'x0' \(int64\).* \(20 in all\); .*c\.root.* has 'data'"):
        convert([sources[0], sources[2]], out, on_mismatch="common")


def test_a_dtype_that_does_not_hold_values_says_what_to_ask_for(tmp_path, out):
    a = write_tree(tmp_path / "a.root", [{"x": np.array([1, 70_000])}])
    b = write_tree(tmp_path / "b.root", [{"x": np.array([1, 2], "i4")}])
    with pytest.raises(mm.SchemaError) as error:
        convert([a, b], out, on_mismatch={"x": "int16"})
    text = str(error.value)
    assert "a.root" in text
    assert "70000" in text
    assert "on_mismatch={'x': 'promote'}" in text
    assert "give values" not in text
    assert "int64 in the file" in text


# Looks --------------------------------------------------------------------------------------------------------------


@needs_data
@pytest.mark.parametrize("name", ["uproot-issue232.root", "nanoAOD_2015_CMS_Open_Data_ttbar.root"])
def test_a_tree_takes_what_its_branches_take(name):
    path = next((DATA / "root").rglob(name), None)
    if path is None:
        pytest.skip(f"no {name}")
    look = mm.inspect_root(path)
    for tree in look.trees:
        columns = mm.inspect_root(f"{path}:{tree.name}").trees[0].columns
        assert tree.decoded == sum(c.decoded for c in columns) > 0
        assert tree.compressed == sum(c.compressed for c in columns)
    assert " 0 B" not in repr(look)


def test_a_cut_that_no_row_passes_is_told_of(tmp_path, out):
    path = write_tree(tmp_path / "a.root", [{"x": np.arange(3_000)}])
    with pytest.warns(RuntimeWarning, match="no row of 3,000 passed the cut 'x > 4e3'") as caught:
        assert len(convert(path, out, cut="x > 4e3")) == 0
    assert [w.filename for w in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(convert(path, tmp_path / "p.mm", cut="x > 2998")) == 1
        empty = write_tree(tmp_path / "e.root", [{"x": np.arange(0)}])
        assert len(convert(empty, tmp_path / "q.mm", cut="x > 2998")) == 0


def test_labels_of_the_shell_may_be_bools(tmp_path, out, capsys):
    a, b = (write_tree(tmp_path / f"{name}.root", [{"x": np.arange(2)}]) for name in "ab")
    assert main(["convert", "-o", str(out), a, "isdata=false", "era=A", b, "isdata=True", "era=B", "--quiet"]) == 0
    ds = mm.open(out)
    assert ds.schema["isdata"].describe() == "bool"
    assert ds.schema["era"].kind == "category"
    assert ds["isdata"].compute().tolist() == [False, False, True, True]


def test_a_plan_says_what_differs_and_shows_first_what_costs(tmp_path, out, monkeypatch):
    files = [write_tree(tmp_path / f"{name}.root", [{"x": np.arange(5)}]) for name in "abc"]
    convert(files, out)
    assert [(i.tree, i.why) for i in convert(files, out, plan=True)] == [("events", "unchanged")] * 3
    ns = os.stat(files[2]).st_mtime_ns // 10**9 * 10**9
    os.utime(files[2], ns=(ns, ns))
    convert(files, out, update=True)
    os.utime(files[2], ns=(ns, ns + 20_000_000))
    found = convert(files, out, plan=True)
    assert [(i.action, i.tree) for i in found] == [("keep", "events"), ("keep", "events"), ("replace", "events")]
    assert re.search(r"written (.*)\.00, now \1\.02$", found.inputs[2].why)
    shown = repr(found)
    assert shown.index("c.root") < shown.index("a.root")
    with open(files[1], "ab") as file:
        file.write(b"\0")
    n = os.path.getsize(files[1])
    assert convert(files, out, plan=True).inputs[1].why == f"changed: {n - 1:,} bytes, now {n:,} bytes"
    why = [i.why for i in convert([files[0]], out, plan=True, missing="drop", cut="x > 2", update=True)]
    assert why[0] == "other options: cut"


def test_what_padding_puts_in_and_new_names_are_no_differences(tmp_path, out):
    pt = ak.Array([[1.0, math.nan], [2.0, math.inf, 3.0], [4.0]])
    path = write_tree(tmp_path / "a.root", [{"pt": pt, "x": np.arange(3)}])
    with pytest.warns(DroppedItemsWarning, match="pad cut 1 item"):
        ds = convert(path, out, pad={"pt": 2}, rename={"x": "y"})
    (source,) = ds.sources
    assert [tuple(n) for n in source.not_finite] == [("pt", 1, 1)]
    assert source.padded[0].nan == 1
    assert source.notes == (("y", "called x in the file"),)
    assert "differ" not in repr(ds.sources)
    ds = convert(path, tmp_path / "p.mm", fields="pt", pad={"pt": 5})
    assert [tuple(n) for n in ds.sources[0].not_finite] == [("pt", 1, 1)]
    assert int(np.isnan(ds["pt"].compute()).sum()) == 1 + ds.sources[0].padded[0].nan


def test_a_field_that_was_left_out_says_why(tmp_path, out, monkeypatch):
    path = write_tree(tmp_path / "a.root", [{"x": np.arange(5), "met": np.arange(5)}])
    read = Branch.read

    def bad(self, start, stop, wanted):
        if self.name == "met":
            raise UnreadableError("damaged, odd bytes")
        return read(self, start, stop, wanted)

    monkeypatch.setattr(Branch, "read", bad)
    with pytest.warns(SkippedFieldsWarning):
        ds = convert(path, out)
    with pytest.raises(
        mm.FieldNotFoundError, match=r"no field 'met': left out at conversion: .*odd bytes \(.*a\.root\)"
    ):
        ds["met"]
    with pytest.raises(mm.FieldNotFoundError, match="no field 'mett'"):
        ds["mett"]
    assert re.search(r"fields left out\n.*\n.* met$", repr(ds.sources), re.M)


# The command line, and options ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--fields", "x", "FILE"], "--fields takes all words behind it: write the others before it, or behind --"),
        (["FILE", "--feilds", "x"], "did you mean '--fields'"),
    ],
)
def test_mistyped_options_are_hinted_at(tmp_path, out, capsys, words, message):
    path = write_tree(tmp_path / "a.root", [{"x": np.arange(5)}])
    words = [path if word == "FILE" else word for word in words]
    with pytest.raises(SystemExit) as error:
        main(["convert", "-o", str(out), *words])
    assert error.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert "usage: mmdask convert" in said or "convert [-h]" in said
    assert main(["convert", "-o", str(out), "--quiet", "--fields", "x", "--", path]) == 0


def test_a_name_in_on_mismatch_fits_a_field(tmp_path, out):
    path = write_tree(tmp_path / "a.root", [{"event": np.arange(5)}])
    with pytest.raises(mm.FieldNotFoundError, match="on_mismatch: no field 'evnet'; did you mean 'event'"):
        convert(path, out, on_mismatch={"evnet": "promote"})
    assert len(convert(path, out, on_mismatch={"ev*": "common", "*": "promote"})) == 5


def test_weights_are_no_mapping(tmp_path, out):
    path = write_tree(tmp_path / "a.root", [{"w": np.arange(5)}])
    with pytest.raises(mm.OptionError, match="weights are names or expressions, as a list, and not a mapping"):
        convert(path, out, weights={"a": "w"})


def test_lists_that_are_cut_alike_are_told_of_together(objects, out):
    with pytest.warns(DroppedItemsWarning, match=r"pad cut 1 item off 1 row of each of 'jet\.pt', 'jet\.eta'$"):
        convert(objects, out, pad={"jet": 2}, fields=["jet.pt", "jet.eta", "met"])


def test_trees_and_cycles_are_listed(tmp_path):
    path = tmp_path / "t.root"
    with uproot.recreate(path) as file:
        for _ in range(2):
            file.mktree("syst/nominal", {"x": "i4"})
            file["syst/nominal"].extend({"x": np.arange(3, dtype="i4")})
    with pytest.raises(mm.SourceError, match="no tree 'nominl'; did you mean 'syst/nominal'"):
        mm.inspect_root(f"{path}:nominl")
    with pytest.raises(mm.SourceError, match="no tree 'syst/nominal;9': of 'syst/nominal' there are syst/nominal;2, "):
        mm.inspect_root(f"{path}:syst/nominal;9")


def test_aliases_come_in_the_order_in_which_they_are_given(tmp_path, out):
    path = write_tree(tmp_path / "a.root", [{"x": np.arange(5), "y": np.arange(5)}])
    aliases = {"a": "c + 1", "b": "x + y", "c": "y * 2"}
    assert list(convert(path, out, aliases=aliases, fields=["x"]).fields) == ["x", "a", "b", "c"]
    assert list(convert(path, tmp_path / "p.mm", aliases=aliases, rename={"x": "z"}).fields) == [*"zyabc"]
    assert list(convert(path, tmp_path / "q.mm", aliases=aliases).fields) == [*"xyabc"]


def test_what_cannot_be_is_told_before_what_would_be_converted_again(tmp_path, out):
    path = write_tree(tmp_path / "a.root", [{"met": np.arange(5)}])
    convert(path, out)
    with pytest.raises(mm.ExpressionError, match="no field 'mett'"):
        convert(path, out, cut="mett > 1")
    with pytest.raises(mm.OptionError, match="update=True"):
        convert(path, out, cut="met > 1")


def test_all_wrong_names_are_told_at_once(tmp_path, out):
    path = write_tree(tmp_path / "a.root", [{"met": np.arange(5), "nJets": np.arange(5)}])
    with pytest.raises(mm.FieldNotFoundError) as error:
        convert(path, out, fields=["mett", "njets", "zzz*"])
    text = str(error.value)
    assert "no field 'mett'; did you mean 'met'?; no field 'njets'; did you mean 'nJets'?; no field 'zzz*'" in text
    assert text.endswith("the fields are: met, nJets")
