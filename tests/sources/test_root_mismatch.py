"""Files that differ: what is common, what holds all values, new names, padded lists; against plain Python."""

from __future__ import annotations

import json
import math
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot

import mmdask as mm
from mmdask.errors import DroppedItemsWarning, FieldNotFoundError, OptionError, SchemaError, SkippedFieldsWarning
from mmdask.sources.converting.target import Target

A = {
    "x": np.array([1, 2, -3, 4], "i4"),
    "n": np.array([2**31 - 1, 5, 6, 7], "i8"),
    "pt": ak.values_astype(ak.Array([[30.5, 20.25, 10.125], [], [50.0], [7.0, 8.0]]), "f4"),
    "fix": np.arange(8, dtype="f4").reshape(4, 2),
    "only_a": np.array([0.5, 1.5, 2.5, 3.5], "f8"),
}
B = {
    "x": np.array([0.5, 1e30, math.inf], "f4"),
    "n": np.array([1.0, 2.0, 3.0], "f8"),
    "pt": ak.values_astype(ak.Array([[1.0], [2.0, 3.0], []]), "f8"),
    "fix": np.arange(9, dtype="f4").reshape(3, 3),
    "only_b": ak.values_astype(ak.Array([[1], [], [2, 3]]), "i2"),
}


def write(path: Path, columns: dict, tree: str = "t", mode=uproot.recreate) -> str:
    types = {
        k: ak.type(v).content if isinstance(v, ak.Array) else np.dtype((v.dtype, v.shape[1:]))
        for k, v in columns.items()
    }
    with mode(path) as file:
        file.mktree(tree, types).extend(columns)
    return str(path)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    return [write(tmp_path / "a.root", A), write(tmp_path / "b.root", B)]


@pytest.fixture
def out(tmp_path: Path) -> str:
    return str(tmp_path / "o.mm")


def convert(files, out, **options) -> mm.Dataset:
    return mm.from_root(files, out, progress=False, **options)


def rows_of(ds: mm.Dataset, name: str) -> list:
    return ak.to_list(ds.to_awkward([name])[name])


def plain(column) -> list:
    return ak.to_list(ak.Array(column))


def types(ds: mm.Dataset) -> dict[str, str]:
    return {name: f.describe() for name, f in ds.schema.items()}


PROMOTE = {"*": "promote", "n": "float64"}


def test_error_is_the_default_and_names_the_way_out(files, out):
    with pytest.raises(
        SchemaError, match=r"'x' is float32, but int32 in .*a\.root.*'promote' takes what holds all values"
    ):
        convert(files, out)
    assert not Path(out).exists()


def test_promote_holds_every_value_of_all_files(files, out):
    ds = convert(files, out, on_mismatch=PROMOTE, exclude="n[po]*")
    assert types(ds) == {
        "x": "float64",
        "n": "float64",
        "pt": "ragged float64",
        "fix": "ragged float32",
        "only_a": "optional float64",
        "only_b": "optional ragged int16",
    }
    for name in A.keys() & B.keys():
        assert rows_of(ds, name) == plain(A[name]) + plain(B[name]), name
    assert rows_of(ds, "only_a") == [*plain(A["only_a"]), None, None, None]
    assert rows_of(ds, "only_b") == [None, None, None, None, *plain(B["only_b"])]
    assert mm.verify(out).ok
    a, b = ds.sources
    assert dict(a.notes)["x"] == "int32 in the file"
    assert dict(b.notes)["only_a"] == "not in this file, missing in all its rows"
    assert convert(files, out, on_mismatch=PROMOTE, exclude="n[po]*").generation == 1


def test_integers_that_no_real_holds_are_an_error_unless_asked_for(files, out, tmp_path):
    with pytest.raises(SchemaError, match="'n' is float64 .*: no dtype holds all values of int64 and float64"):
        convert(files, out, on_mismatch="promote")
    big = write(tmp_path / "a.root", {**A, "n": np.array([2**53 + 1, 0, 0, 0])})
    with pytest.raises(SchemaError, match=r"a\.root.*9007199254740993 .*does not fit exactly"):
        convert([big, files[1]], out, on_mismatch=PROMOTE)


def test_common_leaves_out_what_is_not_alike_and_says_so(files, out):
    with pytest.warns(SkippedFieldsWarning) as caught:
        ds = convert(files, out, on_mismatch="common")
    assert types(ds) == {"npt": "int32"}
    text = " ".join(str(w.message) for w in caught)
    for name in ("x", "n", "pt", "fix", "only_a", "only_b", "nonly_b"):
        assert f"{name!r}: not alike in all inputs: " in text
    assert "is float64 in" in text
    assert "7 fields left out: " in text, "seen in no one file"
    assert rows_of(ds, "npt") == [3, 0, 1, 2, 1, 2, 0]
    assert {name for s in ds.sources for name, _ in s.skipped} == {"x", "n", "pt", "fix", "only_a", "only_b", "nonly_b"}


def test_modes_go_by_name_and_pattern(files, out):
    with pytest.warns(SkippedFieldsWarning):
        ds = convert(files, out, on_mismatch={"only_?": "common", "nonly*": "common", "n": "common", "*": "promote"})
    assert set(ds.fields) == {"x", "npt", "pt", "fix"}
    with pytest.raises(SchemaError, match=r"field 'x' is float32 .* but int32"):
        convert(files, out + "2", on_mismatch={"x": "error", "n": "f8", "*": "promote"})


def test_a_field_that_was_named_is_not_left_out(files, out):
    with pytest.raises(SchemaError, match="'x' was asked for by name"):
        convert(files, out, on_mismatch="common", fields=["x", "npt"])


def test_names_and_patterns_fit_in_one_file_at_least(files, out):
    ds = convert(files, out, on_mismatch="promote", fields=["only_a", "x", "only_[b]"], exclude="fix")
    assert set(ds.fields) == {"only_a", "x", "only_b"}
    for options in (
        {"fields": ["x", "only_c"]},
        {"exclude": "only_c"},
        {"rename": {"only_c": "c"}},
        {"pad": {"only_c": 3}},
    ):
        with pytest.raises(FieldNotFoundError, match=r"no field 'only_c'; did you mean"):
            convert(files, out + "2", on_mismatch="promote", **{"exclude": ["n"], **options})
    assert not Path(out + "2").exists()


def test_cuts_and_aliases_see_what_all_files_agreed_on(files, out):
    ds = convert(
        files,
        out,
        on_mismatch="promote",
        fields=["x"],
        cut="x > 0 and (ismissing(only_a) or only_a < 2)",
        aliases={"y": "x + 1", "z": "only_a * 2", "big": "pt * 2"},
        weights="where(x > 0, 2, 2)",
    )
    expected = [(1, 0.5), (2, 1.5), (0.5, None), (float(np.float32(1e30)), None), (math.inf, None)]
    assert rows_of(ds, "x") == [x for x, _ in expected]
    assert rows_of(ds, "y") == [x + 1 for x, _ in expected]
    assert rows_of(ds, "z") == [None if a is None else 2 * a for _, a in expected]
    assert rows_of(ds, "big") == [[61.0, 40.5, 20.25], [], [2.0], [4.0, 6.0], []]
    assert types(ds) == {"x": "float64", "y": "float64", "z": "optional float64", "big": "ragged float64"}
    assert (ds.schema["y"].expression, ds.schema["z"].expression) == ("x + 1", "")
    assert [s.weights[0].sum for s in ds.sources][:1] == [8.0]
    assert mm.verify(out).ok


def test_what_no_file_has_is_an_error_of_the_cut(files, out):
    with pytest.raises(mm.ExpressionError, match=r"no field 'only_z'; did you mean 'only_[ab]'"):
        convert(files, out, on_mismatch="promote", exclude="n", cut="only_z > 1")


# Later files --------------------------------------------------------------------------------------------------------


def test_a_later_file_becomes_what_the_store_has(files, out, tmp_path):
    first = convert(files[1:], out, on_mismatch="promote", exclude="n")
    assert types(first)["x"] == "float32"
    small = write(
        tmp_path / "c.root", {"x": np.array([1, 2], "i2"), "pt": ak.values_astype(ak.Array([[9.0], []]), "f4")}
    )
    ds = convert([files[1], small], out, on_mismatch="promote", exclude="n")
    assert rows_of(ds, "x") == [*plain(B["x"]), 1.0, 2.0]
    assert types(ds)["pt"] == "ragged float64"
    assert rows_of(ds, "fix") == [*plain(B["fix"]), None, None]
    assert types(ds)["fix"] == "optional float32 (3,)"
    assert mm.verify(out).ok


@pytest.mark.parametrize("changes", [{"x": np.array([0.5, 1.5])}, {"new": np.array([1, 2])}], ids=["wider", "more"])
def test_a_later_file_that_needs_more_than_the_store_has(files, out, tmp_path, changes):
    first = convert(files[:1], out, on_mismatch="promote")
    more = write(tmp_path / "c.root", {"x": np.array([1, 2], "i4"), **changes})
    both = [files[0], more]
    with pytest.raises(SchemaError, match=r"update=True \(--update\) to convert all inputs again"):
        convert(both, out, on_mismatch="promote")
    assert mm.open(out).generation == first.generation
    ds = convert(both, out, on_mismatch="promote", update=True)
    assert rows_of(ds, "x") == [*plain(A["x"]), *plain(changes.get("x", [1, 2]))]
    assert rows_of(ds, "only_a") == [*plain(A["only_a"]), None, None]
    if "new" in changes:
        assert rows_of(ds, "new") == [None, None, None, None, 1, 2]
    assert mm.verify(out).ok
    # no update is asked for any more, and nothing is done
    assert convert(both, out, on_mismatch="promote").generation == ds.generation
    assert json.loads(Path(out, "conversion.json").read_text().partition("\n")[2].join(["{", ""]))["fit"] == 1


def test_a_call_that_died_while_all_was_converted_again_goes_on(files, out, tmp_path, monkeypatch):
    convert(files[:1], out, on_mismatch="promote")
    more = write(tmp_path / "c.root", {"x": np.array([1.5, 2.5])})
    from mmdask.sources.converting import conversion

    def die(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(conversion, "commit", die)
        with pytest.raises(KeyboardInterrupt):
            convert([files[0], more], out, on_mismatch="promote", update=True)
    assert rows_of(mm.open(out), "x") == plain(A["x"])
    ds = convert([files[0], more], out, on_mismatch="promote")
    assert rows_of(ds, "x") == [*plain(A["x"]), 1.5, 2.5]
    assert mm.verify(out).ok


def test_what_was_left_out_comes_back_when_its_file_goes(files, out):
    with pytest.warns(SkippedFieldsWarning):
        convert(files, out, on_mismatch="common")
    with pytest.warns(SkippedFieldsWarning):
        later = convert(
            [files[0], files[1]],
            out + "2",
            on_mismatch={"only_?": "common", "*": "promote", "n": "f8", "nonly*": "common"},
        )
    assert "only_a" not in later.fields


def test_the_options_are_part_of_what_a_store_is(files, out):
    convert(files[:1], out)
    for options in ({"on_mismatch": "promote"}, {"rename": {"x": "y"}}, {"pad": {"pt": 3}}):
        with pytest.raises(OptionError, match=f"{next(iter(options))} was None and is .*update=True"):
            convert(files[:1], out, **options)
    ds = convert(files[:1], out, rename={"x": "y"}, update=True)
    assert "y" in ds.fields
    assert "x" not in ds.fields


@pytest.mark.parametrize(
    "on_mismatch", ["promot", "", 3, {"x": "strange"}, {"x": 3}, {"*": "float64"}, {"x": "M8[s]"}, "float64"]
)
def test_what_on_mismatch_cannot_be(files, out, on_mismatch):
    with pytest.raises(OptionError, match="on_mismatch is 'error', 'common' or 'promote'"):
        convert(files, out, on_mismatch=on_mismatch)


# New names ----------------------------------------------------------------------------------------------------------


def test_fields_get_new_names(files, out):
    ds = convert(
        files[:1],
        out,
        fields=["x", "pt", "only_*"],
        rename={"pt": "jet_pt", "only_*": "*_own", "fix": "unused"},
        cut="x > 0 and len(pt) < 3",
        aliases={"lead": "max(jet_pt)", "sum": "sum(pt) + a_own"},
        weights=["x", "only_a"],
    )
    keep = [1, 3]
    assert ds.fields == ("x", "jet_pt", "a_own", "lead", "sum")
    assert rows_of(ds, "jet_pt") == [plain(A["pt"])[i] for i in keep]
    assert rows_of(ds, "sum") == [1.5, 18.5]
    assert ds.schema["sum"].expression == "(sum(jet_pt) + a_own)"
    assert [w.weight for w in ds.sources[0].weights] == ["x", "a_own"]
    assert dict(ds.sources[0].notes) == {"jet_pt": "called pt in the file", "a_own": "called only_a in the file"}


def test_a_new_name_wins_over_an_old_one(files, out):
    ds = convert(files[:1], out, fields=["x", "n"], rename={"x": "n", "n": "x"}, cut="x > 5")
    keep = [0, 2, 3]
    assert rows_of(ds, "x") == [plain(A["n"])[i] for i in keep]
    assert rows_of(ds, "n") == [plain(A["x"])[i] for i in keep]


def test_one_name_for_two_fields_is_an_error(files, out):
    with pytest.raises(SchemaError, match="'x' and 'only_a' would both be called 'only_a'"):
        convert(files[:1], out, rename={"x": "only_a"})


def test_files_with_other_names_get_one(tmp_path, out):
    a = write(tmp_path / "a.root", {"x": np.array([1, 2], "i4")})
    b = write(tmp_path / "b.root", {"y": np.array([3, 4], "i4")})
    assert rows_of(convert([a, b], out, rename={"y": "x"}), "x") == [1, 2, 3, 4]


def test_short_names_in_cuts_of_files(tmp_path, out):
    a = write(tmp_path / "a.root", {"GEN.x": np.arange(4), "other": np.arange(4.0)})
    ds = convert([a], out, fields="other", cut="GEN_x > 1", aliases={"twice": "GEN_x * 2"}, weights="GEN_x")
    assert rows_of(ds, "other") == [2.0, 3.0]
    assert rows_of(ds, "twice") == [4, 6]
    assert ds.sources[0].weights[0].weight == "GEN.x"


# Padding ------------------------------------------------------------------------------------------------------------


def padded(rows, n, fill):
    return [(list(row) + [fill] * n)[:n] for row in rows]


def test_lists_become_dense_and_what_is_cut_is_counted(files, out):
    with pytest.warns(DroppedItemsWarning, match="pad cut 1 item off 1 row of 'pt'"):
        ds = convert(files[:1], out, pad={"pt": (2, -1)}, cut="len(pt) != 1", aliases={"all": "sum(pt)", "x2": "x * 2"})
    keep = [0, 1, 3]
    assert types(ds)["pt"] == "float32 (2,)"
    assert rows_of(ds, "pt") == padded([plain(A["pt"])[i] for i in keep], 2, -1)
    assert rows_of(ds, "all") == [sum(plain(A["pt"])[i]) for i in keep], "an alias sees the whole list"
    assert ds.schema["all"].expression == "", "and cannot be computed from what is stored"
    assert ds.schema["x2"].expression == "x * 2"
    assert [tuple(p)[:3] for p in ds.sources[0].padded] == [("pt", 1, 1)]
    assert mm.verify(out).ok


def test_nan_fills_reals_and_zero_the_others(files, out):
    ds = convert(files[1:], out, pad={"pt": 3, "only_b": 3, "fix": 4})
    assert np.array_equal(ds["pt"].compute(), np.array(padded(plain(B["pt"]), 3, math.nan)), equal_nan=True)
    assert rows_of(ds, "only_b") == padded(plain(B["only_b"]), 3, 0)
    assert np.array_equal(ds["fix"].compute()[:, :3], B["fix"])
    assert np.isnan(ds["fix"].compute()[:, 3]).all()


def test_patterns_pad_what_can_be_and_promoted_fields_after_that(files, out):
    ds = convert(files, out, on_mismatch=PROMOTE, rename={"pt": "jet_pt"}, pad={"j*": (3, 0), "fix": 3, "only_*": 2})
    assert types(ds)["only_a"] == "optional float64"
    assert types(ds)["only_b"] == "optional int16 (2,)"
    assert rows_of(ds, "jet_pt") == padded(plain(A["pt"]) + plain(B["pt"]), 3, 0.0)
    fix = ds["fix"].compute()
    assert np.isnan(fix[:4, 2]).all()
    assert np.array_equal(fix[4:], B["fix"])
    assert rows_of(ds, "only_b") == [None] * 4 + padded(plain(B["only_b"]), 2, 0)
    assert mm.verify(out).ok


def test_a_later_file_is_padded_as_the_store_is(files, out, tmp_path):
    convert(files[1:], out, on_mismatch="promote", pad={"pt": 2}, fields=["pt", "x"])
    c = write(tmp_path / "c.root", {"x": np.array([1], "i2"), "pt": ak.values_astype(ak.Array([[1.0]]), "f4")})
    ds = convert([files[1], c], out, on_mismatch="promote", pad={"pt": 2}, fields=["pt", "x"])
    assert np.array_equal(ds["pt"].compute()[-1], [1.0, math.nan], equal_nan=True)
    d = write(tmp_path / "c.root", {"x": np.array([1.5]), "pt": ak.values_astype(ak.Array([[1.0]]), "f4")})
    with pytest.raises(SchemaError, match="update=True"):
        convert([files[1], d], out, on_mismatch="promote", pad={"pt": 2}, fields=["pt", "x"])


def test_what_cannot_be_padded_is_an_error(files, out):
    for pad, why in (
        ({"x": 3}, "'x' is int32, and only lists"),
        ({"npt": (3, 0)}, "only lists"),
        ({"zz": 3}, "no field 'zz'"),
    ):
        with pytest.raises((SchemaError, FieldNotFoundError), match=why):
            convert(files[:1], out, pad=pad)
    with pytest.raises(SchemaError, match="'only_b', int16"):
        convert(files[1:], out, pad={"only_b": (3, 0.5)})


# Trees --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def systematics(tmp_path):
    path = tmp_path / "s.root"
    write(path, {"x": np.array([1.0, 2.0])}, "nominal")
    write(path, {"x": np.array([3.0])}, "JES_up", mode=uproot.update)
    write(path, {"x": np.array([4.0])}, "JES_down", mode=uproot.update)
    write(path, {"y": np.array([5.0])}, "meta/other", mode=uproot.update)
    return str(path)


def test_every_tree_that_fits_is_a_source_with_its_name(systematics, out):
    ds = convert(
        {f"{systematics}:nominal": {"year": 16}, f"{systematics}:JES*": {"year": 17}}, out, tree_label="systematic"
    )
    assert rows_of(ds, "x") == [1, 2, 3, 4]
    assert ds["systematic"].compute().tolist() == ["nominal", "nominal", "JES_up", "JES_down"]
    assert ds["year"].compute().tolist() == [16, 16, 17, 17]
    assert ds.schema["systematic"].kind == "category"
    generation = ds.generation
    assert (
        convert(
            {f"{systematics}:nominal": {"year": 16}, f"{systematics}:JES*": {"year": 17}}, out, tree_label="systematic"
        ).generation
        == generation
    )
    assert len(ds[ds.cut("systematic == 'JES_up'")]) == 1


def test_patterns_of_trees_go_without_a_label_too(systematics, out):
    assert rows_of(convert(f"{systematics}:[!m]*", out), "x") == [1, 2, 3, 4]
    with pytest.warns(SkippedFieldsWarning):
        assert len(convert(f"{systematics}:*", out + "2", on_mismatch="common", aliases={"one": "1"})) == 5


def test_trees_that_do_not_fit(systematics, files, out):
    with pytest.raises(
        mm.SourceError, match=r"no tree fits 'JER\*'.*its trees are: nominal, JES_up, JES_down, meta/other"
    ):
        convert(f"{systematics}:JER*", out)
    with pytest.raises(mm.SourceError, match="say which, as in"):
        convert(systematics, out, tree_label="systematic")
    with pytest.raises(OptionError, match="named twice, by its name and by a pattern"):
        convert([f"{systematics}:nominal", f"{systematics}:nom*"], out)
    with pytest.raises(OptionError, match="both a label and tree_label"):
        convert({f"{systematics}:nominal": {"s": 1}}, out, tree_label="s")
    assert convert(files[:1], out, tree_label="tree", fields="x")["tree"].compute().tolist() == ["t"] * 4


def test_a_store_counts_how_often_all_was_converted_again():
    target = Target("x", None, {"a": 1})
    assert target.of_group({"a": 1}) == {"a": 1}
    assert target.again().of_group({"a": 1}) == {"a": 1, "fit": 1}


def test_a_field_that_a_later_file_does_not_have_goes_and_comes_back(files, out, tmp_path):
    small = write(tmp_path / "c.root", {"x": np.array([9], "i4")})
    convert(files[:1], out, on_mismatch="common", fields=["x", "only_*"])
    with pytest.warns(
        SkippedFieldsWarning,
        match="'only_a': not alike in all inputs: is float64 in .*a.root.*, and missing in .*c.root",
    ):
        ds = convert([files[0], small], out, on_mismatch="common", fields=["x", "only_*"])
    assert ds.fields == ("x",)
    assert convert([files[0], small], out, on_mismatch="common", fields=["x", "only_*"]).generation == ds.generation
    ds = convert(files[:1], out, on_mismatch="common", fields=["x", "only_*"], missing="drop")
    assert rows_of(ds, "only_a") == plain(A["only_a"])
    assert mm.verify(out).ok


def test_fields_and_pads_take_short_names(tmp_path, out):
    a = write(tmp_path / "a.root", {"GEN.x": np.arange(4), "j.pt": A["pt"], "a.b": np.arange(4), "a/b": np.arange(4)})
    ds = convert([a], out, fields=["GEN_x", "j_pt"], pad={"j_pt": 3})
    assert types(ds) == {"GEN.x": "int64", "j.pt": "float32 (3,)"}
    with pytest.raises(FieldNotFoundError, match="'a_b' is short for several fields: 'a.b', 'a/b'"):
        convert([a], out + "2", fields="a_b")
