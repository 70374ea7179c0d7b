"""What a user may name: paths, globs, trees, labels."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdask.errors import OptionError, SchemaError, SourceError, SourceNotFoundError
from mmdask.sources.converting.inputs import find_inputs, label_fields, split_names


def touch(folder, *names):
    for name in names:
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"root")


def found(sources, tree=None):
    inputs, absent = find_inputs(sources, tree)
    assert not absent
    return [(os.path.basename(i.path), i.tree) for i in inputs]


def test_path_and_tree(tmp_path):
    touch(tmp_path, "a.root")
    assert found(f"{tmp_path}/a.root") == [("a.root", "")]
    assert found(tmp_path / "a.root") == [("a.root", "")]
    assert found(f"{tmp_path}/a.root:dir/t;1") == [("a.root", "dir/t;1")]
    assert found([f"{tmp_path}/a.root", f"{tmp_path}/a.root:u"], tree="t") == [("a.root", "t"), ("a.root", "u")]


def test_colons_in_names(tmp_path):
    touch(tmp_path, "a.root", "a.root:t", "b:c.root", "d:1/e.root")
    assert found(f"{tmp_path}/a.root:t") == [("a.root:t", "")], "a file of the whole name wins"
    assert found(f"{tmp_path}/a.root:u") == [("a.root", "u")]
    assert found(f"{tmp_path}/a.root:t:u") == [("a.root:t", "u")]
    assert found(f"{tmp_path}/b:c.root") == [("b:c.root", "")]
    assert found(f"{tmp_path}/b:c.root:t") == [("b:c.root", "t")]
    assert found(f"{tmp_path}/d:1/*.root:t") == [("e.root", "t")]


def test_drives_and_urls_are_not_split():
    assert list(split_names("C:/x.root")) == [("C:/x.root", "")]
    assert list(split_names("C:\\x.root:t")) == [("C:\\x.root:t", ""), ("C:\\x.root", "t")]
    assert list(split_names("root://h//x.root:t"))[1] == ("root://h//x.root", "t")
    assert ("root", "//h//x.root:t") not in list(split_names("root://h//x.root:t"))


@given(st.text(min_size=1, max_size=30), st.text(max_size=10))
def test_split_finds_every_pair(path, tree):
    ways = list(split_names(f"{path}:{tree}"))
    assert ways[0] == (f"{path}:{tree}", "")
    assert all(f"{p}:{t}" == f"{path}:{tree}" for p, t in ways[1:])
    drive = len(path) == 1 and path.isalpha() and tree[:1] in ("/", "\\") and tree[:1] != ""
    if not drive and not tree.startswith("//"):
        assert (path, tree) in ways


def test_globs_are_sorted(tmp_path):
    touch(tmp_path, "x10.root", "x1.root", "x[1].root", "sub/x3.root", "other.txt")
    assert found(f"{tmp_path}/x*.root") == [("x1.root", ""), ("x10.root", ""), ("x[1].root", "")]
    assert found(f"{tmp_path}/**/x?.root:t") == [("x3.root", "t"), ("x1.root", "t")]
    assert found(f"{tmp_path}/x[1].root") == [("x[1].root", "")], "a file of this very name wins"


def test_home(tmp_path, monkeypatch):
    touch(tmp_path, "a.root")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert found("~/a.root:t") == [("a.root", "t")]


def test_nothing_found(tmp_path):
    touch(tmp_path, "ttbb_mc16a.root")

    def message(name):
        _, absent = find_inputs(name, None)
        with pytest.raises(SourceNotFoundError) as caught:
            raise absent[0].error
        return str(caught.value)

    assert "did you mean 'ttbb_mc16a.root'" in message(f"{tmp_path}/ttbb_mc16.root:t")
    assert f"{tmp_path}/ttbb_mc16.root;" in message(f"{tmp_path}/ttbb_mc16.root:t")
    assert "no file matches" in message(f"{tmp_path}/z*.root")
    assert "ttbb_mc16a.root" in message(f"{tmp_path}/z*.root")
    assert "there is no folder" in message(f"{tmp_path}/nowhere/deep/a.root")


def test_folders_urls_and_nothing(tmp_path):
    with pytest.raises(SourceError, match=r"is a folder; name the files in it"):
        find_inputs(str(tmp_path), None)
    with pytest.raises(SourceError, match=r"nonsense://eos//a.root: .*; copy it to this machine first"):
        find_inputs("nonsense://eos//a.root:t", None)
    with pytest.raises(OptionError, match="no source is named"):
        find_inputs([], None)


@pytest.mark.parametrize("sources", [None, 3, b"a.root", ["a.root", None], [b"a.root"], {1: {}}])
def test_what_is_no_path(sources):
    with pytest.raises(OptionError, match="sources are a path, a glob"):
        find_inputs(sources, None)


@pytest.mark.parametrize("sources", ["", " ", [""], {"": {}}])
def test_empty_text_is_no_source(sources):
    with pytest.raises(OptionError, match="a source is named by empty text"):
        find_inputs(sources, None)


def test_a_tree_has_a_name(tmp_path):
    touch(tmp_path, "a.root")
    with pytest.raises(OptionError, match="tree is the name of a tree, got 3"):
        find_inputs(tmp_path / "a.root", 3)


def test_a_file_twice(tmp_path):
    touch(tmp_path, "a.root")
    (tmp_path / "link.root").symlink_to(tmp_path / "a.root")
    for pair in ([f"{tmp_path}/a.root"] * 2, [f"{tmp_path}/*a.root", f"{tmp_path}/../{tmp_path.name}/a.root"]):
        with pytest.raises(OptionError, match="named twice"):
            find_inputs(pair, None)
    with pytest.raises(OptionError, match="named twice"):
        find_inputs(f"{tmp_path}/*.root", None)


def test_labels(tmp_path):
    touch(tmp_path, "a.root", "b.root")
    labels = {
        f"{tmp_path}/a.root": {"process": "ttbb", "year": np.int32(2016), "mc": True, "xsec": 3},
        f"{tmp_path}/b.root": {"xsec": 0.5, "mc": np.bool_(False), "year": 2017, "process": "ttH"},
    }
    inputs, _ = find_inputs(labels, None)
    assert inputs[0].labels == (("process", "ttbb"), ("year", 2016), ("mc", True), ("xsec", 3.0))
    assert inputs[1].labels == (("process", "ttH"), ("year", 2017), ("mc", False), ("xsec", 0.5))
    fields = label_fields(inputs)
    assert [f.describe() for f in fields] == ["category of 2", "int64", "bool", "float64"]
    assert fields[0].labels == ("ttbb", "ttH")


@pytest.mark.parametrize(
    ("first", "second", "error", "message"),
    [
        ({"year": 1}, {}, SchemaError, "same labels"),
        ({"year": 1}, {"year": "1"}, SchemaError, "int and str"),
        ({"year": 1}, {"year": True}, SchemaError, "bool and int"),
        ({"year": None}, {"year": 1}, OptionError, "a finite float, got None"),
        ({"x": float("nan")}, {"x": 1.0}, OptionError, "finite"),
        ({"x": 1 << 63}, {"x": 1}, OptionError, "64-bit"),
        ({"": 1}, {"": 1}, SchemaError, "field name"),
        ("ttbb", "ttH", OptionError, "mapping like"),
    ],
)
def test_bad_labels(tmp_path, first, second, error, message):
    touch(tmp_path, "a.root", "b.root")
    with pytest.raises(error, match=message):
        find_inputs({f"{tmp_path}/a.root": first, f"{tmp_path}/b.root": second}, None)
