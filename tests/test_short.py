"""Short names: an identifier for a field whose name is none."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mmdask as mm
from mmdask.errors import ExpressionError, FieldNotFoundError
from mmdask.schema import Field, Schema
from mmdask.short import resolve, short_name, short_names

NAMES = st.lists(st.text(st.sampled_from("aB_1.:/[ $"), min_size=1, max_size=5), unique=True, max_size=8)
SHOWN = {
    "GEN.x": "GEN_x",
    "group/branch": "group_branch",
    "a::b<c>.fX": "a_b_c_fX",
    "x[3]": "x_3",
    "_own_": "_own_",
    "//": "",
    "3jets": "_3jets",
    "é": "",
}


@pytest.mark.parametrize(("name", "short"), SHOWN.items())
def test_what_a_short_name_is(name: str, short: str) -> None:
    assert short_name(name) == short


@given(NAMES)
def test_a_short_name_means_one_field_or_is_refused(names: list[str]) -> None:
    for name in names:
        assert resolve(name, names) == name  # a field of the name always wins
        short = short_name(name)
        assert not short or short.isidentifier()
        alike = [n for n in names if short_name(n) == short]
        if not short:
            continue
        if short in names:
            assert resolve(short, names) == short
        elif len(alike) > 1:
            with pytest.raises(FieldNotFoundError, match="short for several"):
                resolve(short, names)
            assert short_names(names)[short] == tuple(alike)
        else:
            assert resolve(short, names) == name
    assert resolve("unheard", names) is None
    assert not set(short_names(names)) & set(names)


FIELDS = {
    "GEN.x": [1.0, 2.0, 3.0],
    "a/b": [1, 2, 3],
    "a.b": [4, 5, 6],
    "jet pt": [[1.0, 2.0], [3.0], []],
    "met": [7, 8, 9],
}


@pytest.fixture
def ds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> mm.Dataset:
    monkeypatch.chdir(tmp_path)
    return mm.from_arrays(FIELDS, "short.mm")


def test_a_dataset_finds_fields_by_short_names_and_keeps_theirs(ds: mm.Dataset) -> None:
    assert ds["GEN_x"].compute().tolist() == FIELDS["GEN.x"]
    assert ds["jet_pt"].to_list() == FIELDS["jet pt"]
    assert ds[["jet_*", "GEN_x"]].fields == ("jet pt", "GEN.x")
    assert ds.fields == tuple(FIELDS)
    assert {"GEN_x", "jet_pt", "GEN.x"} <= set(ds._ipython_key_completions_())
    assert "a_b" not in ds._ipython_key_completions_()
    assert [list(b) for b in ds.batches(3, fields=["GEN_x", "jet_pt"])] == [["GEN.x", "jet pt"]]
    assert ds.save("copy.mm", fields="GEN_x").fields == ("GEN.x",)
    assert ds.hist("GEN_x", bins=[0, 2, 4]).values().tolist() == [1, 2]
    assert list(ds.describe("jet_pt")) == ["jet pt"]


def test_cuts_and_expressions_are_kept_with_whole_names(ds: mm.Dataset) -> None:
    cut = ds.cut("met > 0 & GEN_x > 1.5 and sum(jet_pt) > 1")
    assert ds[cut]["met"].compute().tolist() == [8]
    assert "`jet pt`" in repr(cut)
    assert ds.cut("GEN_x > 1")._expression == ds.cut("GEN.x > 1")._expression  # so that it is kept once
    both = ds.assign(h="GEN_x + limit", limit="met")
    assert both["h"].compute().tolist() == [8.0, 10.0, 12.0]
    mm.assign("short.mm", twice="GEN_x * 2")
    assert mm.open("short.mm").schema["twice"].expression == "GEN.x * 2"


def test_whatever_takes_the_name_of_a_field_takes_its_short_name(ds: mm.Dataset) -> None:
    mm.assign("short.mm", {Field.category("my kind"): ["a", "b", "a"]})
    ds = ds.refresh()
    assert ds.hist("GEN_x", bins=[0, 4], by="my_kind").values().shape == (2, 1)
    assert ds.cutflow(["met > 7"], by="my_kind").by == "my kind"
    assert ds.loc["met", 8]["GEN.x"] == 2.0
    assert [len(p) for p in ds.split({"a": 0.5, "b": 0.5}, by="my_kind").values()] == [
        len(p) for p in ds.split({"a": 0.5, "b": 0.5}, by="my kind").values()
    ]
    assert len(ds.kfold(2, by=["my_kind", "met"])) == 2
    assert ds.explode("jet_pt")["jet pt"].compute().tolist() == [1.0, 2.0, 3.0]
    assert ds.rename({"GEN_x": "z"}).fields[0] == "z"
    assert ds.memmap("GEN_x").tolist() == FIELDS["GEN.x"]
    assert next(iter(ds.batches(2, balance="my_kind", fields="met")))["met"].shape == (2,)
    batch = next(iter(ds.batches(3, fields="jet_pt", collate={"jet_pt": mm.pad(2)}, shuffle=False)))
    assert batch["jet pt"].tolist() == [[1.0, 2.0], [3.0, 0.0], [0.0, 0.0]]


def test_a_constant_and_a_computed_field_win_over_a_short_name(ds: mm.Dataset) -> None:
    assert len(ds[ds.cut("met > GEN_x", GEN_x=7)]) == 2
    computed = ds.assign(GEN_x="met + 1")
    assert computed["GEN_x"].compute().tolist() == [8, 9, 10]
    assert len(computed[computed.cut("GEN_x > 9")]) == 1


def test_what_is_short_for_several_is_an_error_that_lists_them(ds: mm.Dataset) -> None:
    several = r"'a_b' is short for several fields: 'a/b', 'a.b'; write the whole name"
    for ask in (lambda: ds["a_b"], lambda: ds[["a_b"]], lambda: ds.batches(2, fields="a_b")):
        with pytest.raises(FieldNotFoundError, match=several):
            ask()
    with pytest.raises(ExpressionError) as error:
        ds.cut("met > 0 & a_b > 1")
    assert str(error.value).splitlines()[-1].strip() == "^^^"
    with pytest.raises(ExpressionError, match=several):
        ds.cut("met > 0 & a_b > 1")
    with pytest.raises(AttributeError, match=several):
        _ = ds.a_b


def test_errors_propose_short_names(ds: mm.Dataset) -> None:
    with pytest.raises(FieldNotFoundError, match="did you mean 'GEN_x'"):
        _ = ds["GEN_y"]
    with pytest.raises(ExpressionError, match="did you mean 'GEN_x'"):
        ds.cut("GEN_y > 1")
    with pytest.raises(AttributeError, match=r"it is the field 'GEN.x': ds\['GEN_x'\]"):
        _ = ds.GEN_x


def test_a_schema_with_short_names_pickles() -> None:
    schema = Schema([Field.dense("GEN.x", "f4")])
    assert schema.resolve("GEN_x") == "GEN.x"
    again = pickle.loads(pickle.dumps(schema))
    assert again == schema
    assert again.resolve("GEN_x") == "GEN.x"
