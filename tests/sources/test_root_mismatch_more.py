"""Files that differ, many of them: several processes, merged parts, objects, RNTuples, damage, and the command."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot
from hypothesis import given, settings
from hypothesis import strategies as st
from root_tools import DATA, needs_data

import mmdask as mm
from mmdask.cli import main
from mmdask.errors import DroppedItemsWarning, SchemaError, SkippedFieldsWarning
from mmdask.schema import Field
from mmdask.sources.agreeing.agree import Known
from mmdask.sources.agreeing.mismatch import make_modes
from mmdask.sources.agreeing.settled import StoredOtherwiseError, settle_fields

PROMOTE = {"on_mismatch": "promote", "progress": False}


def write(path: Path, columns: dict, tree: str = "t") -> str:
    types = {
        k: ak.type(v).content if isinstance(v, ak.Array) else np.dtype((v.dtype, v.shape[1:]))
        for k, v in columns.items()
    }
    with uproot.recreate(path) as file:
        file.mktree(tree, types).extend(columns)
    return str(path)


def values(ds: mm.Dataset, name: str) -> list:
    return ak.to_list(ds.to_awkward([name])[name])


@pytest.fixture
def many(tmp_path: Path) -> tuple[list[str], dict[str, list]]:
    """Forty files of three sorts, and what a store of all of them has."""
    files, rows = [], {"x": [], "pt": [], "extra": []}
    for i in range(40):
        pt = [[float(i)] * (k + i % 3) for k in range(3)]
        columns = {
            "x": np.arange(i, i + 3, dtype=["i2", "i4", "f4"][i % 3]),
            "pt": ak.values_astype(ak.Array(pt), ["f4", "f8"][i % 2]),
        }
        if i % 4 == 0:
            columns["extra"] = np.arange(3, dtype="u1")
        files.append(write(tmp_path / f"{i:02}.root", columns))
        rows["x"] += [float(v) for v in columns["x"]]
        rows["pt"] += [(p + [math.inf] * 4)[:4] for p in pt]
        rows["extra"] += [0, 1, 2] if i % 4 == 0 else [None] * 3
    return files, rows


@pytest.mark.parametrize("workers", [1, 2])
def test_many_small_files_and_several_processes(many, tmp_path, workers):
    files, rows = many
    options = {
        **PROMOTE,
        "workers": workers,
        "pad": {"jets": (4, math.inf)},
        "rename": {"pt": "jets"},
        "exclude": "npt",
    }
    ds = mm.from_root(files[:36], tmp_path / "o.mm", **options)
    assert len(ds._rows.snapshot.parts) < 36, "small files share a part"
    ds = mm.from_root(files, tmp_path / "o.mm", **options)
    assert values(ds, "x") == rows["x"]
    assert values(ds, "jets") == rows["pt"]
    assert values(ds, "extra") == rows["extra"]
    assert mm.verify(tmp_path / "o.mm").ok
    generation = ds.generation
    assert mm.from_root(files, tmp_path / "o.mm", **options).generation == generation
    # a file that changed is decoded, and the rows that shared its part are copied
    write(Path(files[1]), {"x": np.array([7, 8], "i4"), "pt": ak.values_astype(ak.Array([[1.0], []]), "f4")})
    ds = mm.from_root(files, tmp_path / "o.mm", **options)
    assert values(ds, "x") == [*rows["x"][:3], 7, 8, *rows["x"][6:]]
    assert values(ds, "extra") == [*rows["extra"][:3], None, None, *rows["extra"][6:]]
    assert mm.verify(tmp_path / "o.mm").ok
    assert len(ds.sources) == 40
    assert dict(ds.sources[2].notes)["extra"] == "not in this file, missing in all its rows"


def test_small_files_with_common_fields(many, tmp_path):
    files, rows = many
    with pytest.warns(SkippedFieldsWarning, match="'extra': not alike"):
        ds = mm.from_root(files, tmp_path / "o.mm", on_mismatch={"x": "promote", "*": "common"}, progress=False)
    assert ds.fields == ("x", "npt")
    assert values(ds, "x") == rows["x"]


def test_a_field_that_cannot_be_read_in_one_file(tmp_path, monkeypatch):
    a = write(tmp_path / "a.root", {"x": np.array([1, 2], "i4"), "y": np.array([1.0, 2.0])})
    b = write(tmp_path / "b.root", {"x": np.array([0.5], "f4")})
    from mmdask.sources.converting.table import UnreadableError
    from mmdask.sources.root import ttree

    original = ttree.Branch.read

    def read(self, start, stop, wanted):
        if self.name == "y":
            raise UnreadableError("it is broken")
        return original(self, start, stop, wanted)

    monkeypatch.setattr(ttree.Branch, "read", read)
    with pytest.warns(SkippedFieldsWarning, match="'y' in .*it is broken"):
        ds = mm.from_root([a, b], tmp_path / "o.mm", **PROMOTE)
    assert ds.fields == ("x",)
    assert values(ds, "x") == [1.0, 2.0, 0.5]
    assert mm.verify(tmp_path / "o.mm").ok


def test_a_tree_without_rows_takes_part(tmp_path):
    a = write(tmp_path / "a.root", {"x": np.array([1, 2], "i4"), "y": np.array([1.0, 2.0])})
    b = write(tmp_path / "b.root", {"x": np.array([], "f4")})
    ds = mm.from_root([b, a], tmp_path / "o.mm", **PROMOTE, pad={})
    assert values(ds, "x") == [1.0, 2.0]
    assert ds.schema["y"].describe() == "optional float64"
    assert mm.verify(tmp_path / "o.mm").ok


def test_an_rntuple_and_a_tree(tmp_path):
    a = write(
        tmp_path / "a.root", {"x": np.array([1, 2], "i4"), "pt": ak.values_astype(ak.Array([[1.0], []]), "f4")}, "n"
    )
    with uproot.recreate(tmp_path / "b.root") as file:
        file.mkrntuple(
            "n",
            {
                "x": np.array([0.5, 1.5]),
                "pt": ak.Array([[2.0, 3.0], [4.0]]),
                "p4": ak.zip({"px": [1.0, 2.0], "py": [3.0, 4.0]}),
            },
        )
    ds = mm.from_root(
        [a, str(tmp_path / "b.root")],
        tmp_path / "o.mm",
        **PROMOTE,
        exclude="npt",
        rename={"p4.*": "p_*"},
        cut="p_px != 2",
    )
    assert values(ds, "x") == [0.5]
    ds = mm.from_root(
        [a, str(tmp_path / "b.root")],
        tmp_path / "p.mm",
        **PROMOTE,
        exclude="npt",
        rename={"p4.*": "p_*"},
        pad={"pt": (2, 0)},
        aliases={"s": "p4.px + p_py"},
    )
    assert values(ds, "x") == [1, 2, 0.5, 1.5]
    assert values(ds, "pt") == [[1.0, 0.0], [0.0, 0.0], [2.0, 3.0], [4.0, 0.0]]
    assert values(ds, "p_py") == [None, None, 3.0, 4.0]
    assert values(ds, "s") == [None, None, 4.0, 6.0]
    assert mm.verify(tmp_path / "p.mm").ok


def test_counts_of_nan_are_kept_with_each_part_and_shown(tmp_path):
    a = write(tmp_path / "a.root", {"x": np.array([1, math.nan, math.inf], "f4"), "k": np.arange(3)})
    b = write(tmp_path / "b.root", {"x": np.array([1.0, 2.0], "f4"), "k": np.arange(2)})
    ds = mm.from_root([a, b], tmp_path / "o.mm", progress=False)
    assert [s.not_finite for s in ds.sources] == [(("x", 1, 1),), ()]
    assert "x: 1 nan, 1 inf" in repr(ds.sources)
    assert (ds.describe(quick=True)["x"].nan, ds.describe(quick=True)["x"].inf) == (1, 1)


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(
        Path("a.root"),
        {"x": np.array([1, 2], "i4"), "pt": ak.values_astype(ak.Array([[1.0, 5.0], []]), "f4"), "z": np.array([1, 2])},
        "nominal",
    )
    write(Path("b.root"), {"x": np.array([0.5], "f4"), "pt": ak.values_astype(ak.Array([[2.0]]), "f4")}, "nom_up")
    words = ["convert", "-o", "o.mm", "[ab].root:nom*", "--on-mismatch", "promote", "--on-mismatch", "z=common"]
    words += ["--rename", "pt=jet_x", "--rename", "x=y", "--pad", "jet_x=1,-1", "--tree-label", "sys"]
    with warnings.catch_warnings():
        warnings.simplefilter("always")  # shown, as by the command
        assert main([*words, "--exclude", "npt", "--quiet"]) == 0
    assert "pad cut 1 item off 1 row of 'jet_x'" in capsys.readouterr().err
    ds = mm.open("o.mm")
    assert ds.fields == ("y", "jet_x", "sys")
    assert values(ds, "jet_x") == [[1.0], [-1.0], [2.0]]
    assert ds["sys"].compute().tolist() == ["nominal", "nominal", "nom_up"]
    for wrong in (
        ["--pad", "jet_x"],
        ["--pad", "jet_x=a"],
        ["--pad", "x=3,b"],
        ["--rename", "x"],
        ["--on-mismatch", "x=strange"],
        ["--on-mismatch", "a=common", "--on-mismatch", "a=promote"],
    ):
        assert main(["convert", "-o", "p.mm", "a.root", "--quiet", *wrong]) == 1
        assert wrong[0].strip("-").replace("-", "_") in capsys.readouterr().err.replace("-", "_")


# Settling, pure -----------------------------------------------------------------------------------------------------


def known(where: str, *fields: Field, stored: bool = False) -> Known:
    return Known(where, {f.name: f for f in fields}, frozenset(), {}, stored)


LAYOUTS = st.sampled_from(
    [Field.dense("x", d) for d in ("i2", "i4", "u4", "f4", "f8")] + [Field.ragged("x", "f4"), Field.string("x")]
)


@settings(deadline=None)
@given(st.lists(st.none() | LAYOUTS, min_size=1, max_size=4), st.sampled_from(["common", "promote"]), st.randoms())
def test_what_is_settled_does_not_depend_on_the_order(layouts, mode, random):
    inputs = [known(str(i), *([f] if f is not None else [])) for i, f in enumerate(layouts)]
    shuffled = random.sample(inputs, len(inputs))

    def run(some):
        try:
            found = settle_fields(some, make_modes(mode))
        except SchemaError:
            return None
        return {n: (f.describe()) for n, f in found.stored.items()}, set(found.dropped)

    assert run(inputs) == run(shuffled)
    there = [f for f in layouts if f is not None]
    alike = len(there) == len(layouts) and all(f.same_layout(there[0]) for f in there)
    if mode == "common" and there:
        assert run(inputs) == (({"x": there[0].describe()}, set()) if alike else ({}, {"x"}))
    if mode == "promote" and len(there) < len(layouts) and there and (found := run(inputs)):
        assert found[0]["x"].startswith("optional ")


def test_what_is_stored_stays_as_it_is():
    wide, narrow = Field.dense("x", "f8"), Field.dense("x", "f4")
    modes = make_modes("promote")
    assert settle_fields([known("a", wide, stored=True), known("b", narrow)], modes).stored["x"].dtype == "f8"
    with pytest.raises(StoredOtherwiseError, match="'x' is stored as float32"):
        settle_fields([known("a", narrow, stored=True), known("b", wide)], modes)
    with pytest.raises(StoredOtherwiseError, match="rows that are stored"):
        settle_fields([known("a", stored=True), known("b", wide)], modes)
    settled = settle_fields([known("a", wide, stored=True), known("b")], modes)
    assert settled.stored["x"].optional == (0,)
    dropped = settle_fields([known("a", narrow, stored=True), known("b", wide)], make_modes("common")).dropped
    assert "is float64 in b, but float32 in a" in dropped["x"]


@needs_data
def test_the_systematics_of_an_analysis(tmp_path):
    """Trees that ROOT wrote, as one store with their names; lists padded, under other names."""
    path = DATA / "atlas" / "ttbb_mc16a.root"
    with uproot.open(path) as file:
        trees = [key.partition(";")[0] for key, what in file.classnames().items() if what == "TTree"]
        jets = {tree: file[tree]["jet_pt"].array() for tree in trees}
        numbers = {tree: file[tree]["eventNumber"].array(library="np") for tree in trees}
    assert len(trees) > 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DroppedItemsWarning)
        ds = mm.from_root(
            f"{path}:*",
            tmp_path / "o.mm",
            fields=["eventNumber", "jet_*"],
            rename={"jet_*": "j_*"},
            pad={"jet_pt": (6, math.nan)},
            tree_label="systematic",
            progress=False,
        )
    cut_off = 0
    for tree in trees:
        some = ds[ds.cut(f"systematic == '{tree}'")]
        expected = ak.to_numpy(ak.fill_none(ak.pad_none(jets[tree], 6, clip=True), np.nan))
        assert np.array_equal(some["j_pt"].compute(), expected, equal_nan=True)
        assert np.array_equal(some["eventNumber"].compute(), numbers[tree])
        cut_off += int(ak.sum(ak.num(jets[tree]) - np.minimum(ak.num(jets[tree]), 6)))
    assert sum(p.items for s in ds.sources for p in s.padded) == cut_off
