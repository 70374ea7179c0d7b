"""Any view as a TTree or an RNTuple of a ROOT file: what uproot and `mm.from_root` read of it is what was written."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import awkward as ak
import kinds
import numpy as np
import pytest
import uproot
from hypothesis import given, settings
from hypothesis import strategies as st
from kinds import FIELDS

import mmdask as mm
from mmdask.export import root as root_module
from mmdask.schema import Field, FieldData
from mmdask.store.system import SYSTEM, System

NUMBERS = ["?", "i1", "u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f4", "<f8"]
#: fields of kinds.py that each format holds as they are, and those that it holds if told what missing values are
TREE_AS_IT_IS = ["half", "took"]
TREE_FILLED = ["met", "run", "flag", "when", "tag", "p3", "process", "pt", "ids", "ok", "times", "name"]
NTUPLE = sorted(set(FIELDS) - {"wave", "small"})
FILLS = {
    **dict.fromkeys(("met", "p3", "pt", "ids"), -1),
    "run": 7,
    "flag": True,
    "ok": False,
    "tag": b"no",
    "process": "none of them",
    "name": "nobody",
    "when": np.datetime64(3, "s"),
    "times": np.datetime64(3, "ns"),
}


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    """Nothing here loses power, and waiting for disks takes minutes."""
    monkeypatch.setattr(System, "fsync", lambda *_: None)
    monkeypatch.setattr(System, "fsync_folder", lambda *_: None)


def put(view, path, tree="events", **kwargs):
    view.to_root(path, tree, progress=False, **kwargs)
    with uproot.open(path) as file:
        found = file[tree]
        branches = dict(found.iteritems()) if hasattr(found, "iteritems") else {k: found[k] for k in found.keys()}  # noqa: SIM118
        return {name: branch.array() for name, branch in branches.items()}


def rooted(field, row, depth=0):
    """A row of kinds.py as Python has it of a ROOT file."""
    if row is None:
        return None
    if isinstance(row, list) and depth < field.levels:
        return [rooted(field, x, depth + 1) for x in row]
    if field.kind == "shaped":
        return kinds.plain(row.tolist())
    if field.kind in ("string", "category"):
        return row
    values = np.array(row, field.dtype)
    if field.dtype.kind == "S":
        return list(values.tobytes())
    return kinds.plain((values.view("i8") if field.dtype.kind in "mM" else values).tolist())


def filled(field, row, fill, depth=0):
    """A row with what stands for missing values; a missing list is empty."""
    if row is None:
        missing = np.full(field.shape, fill) if field.shape else fill
        return [] if depth < field.levels else missing.tolist() if field.shape else missing
    return [filled(field, x, fill, depth + 1) for x in row] if depth < field.levels else row


def same_bits(got, expected):
    """An awkward array has these bytes."""
    if isinstance(expected, FieldData):
        assert ak.num(got).to_list() == np.diff(expected.offsets[0]).tolist()
        got, expected = ak.flatten(got), expected.values
    got = ak.to_numpy(got)
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    assert got.tobytes() == expected.tobytes()


# What comes back ----------------------------------------------------------------------------------------------------


@settings(max_examples=12)
@given(st.data())
def test_numbers_come_back_bit_for_bit(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("bits")
    n = data.draw(st.integers(0, 30))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    counts = rng.integers(0, 4, n)
    offsets = np.append(0, np.cumsum(counts))
    others = np.append(0, np.cumsum(rng.integers(0, 4, n)))

    def bits(dtype, rows, shape=()):
        raw = rng.integers(0, 2 if dtype == "?" else 256, (rows, *shape, np.dtype(dtype).itemsize), "u1")
        return raw.view(dtype)[..., 0]

    written = {}
    fields = []
    for i, dtype in enumerate(data.draw(st.lists(st.sampled_from(NUMBERS), min_size=1, max_size=4))):
        shape = data.draw(st.sampled_from([(), (3,), (2, 2)]))
        fields += [Field.dense(f"x{i}", dtype, shape), Field.ragged(f"a_{i}", dtype), Field.ragged(f"b{i}", dtype)]
        written[f"x{i}"] = bits(dtype, n, shape)
        written[f"a_{i}"] = FieldData(bits(dtype, int(offsets[-1])), (offsets,))
        written[f"b{i}"] = FieldData(bits(dtype, int(others[-1])), (others,))
    with mm.create(folder / "s.mm", fields=fields) as w:
        w.extend(written)
    ds = mm.open(folder / "s.mm")
    block = data.draw(st.sampled_from([1, 300, 1 << 20]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(root_module, "BLOCK_NBYTES", block)
        compression = data.draw(st.sampled_from(["zstd", "zlib", "lz4", "zstd:1", None]))
        tree = put(ds, folder / "t.root", compression=compression)
        ntuple = put(ds, folder / "n.root", format="rntuple", compression=compression)
    for name, expected in written.items():
        same_bits(tree[name], expected)
        same_bits(ntuple[name], expected)
    # names say which lists share a counter, also where others have as many items by chance
    assert set(tree) - set(ntuple) == {"na", *(f"nb{i}" for i in range(len(fields) // 3))}
    back = mm.from_root(folder / "t.root", folder / "back.mm", progress=False)
    for name, expected in written.items():
        data = back._rows.read(name, 0, n)
        values, truth = (data.values, expected.values) if isinstance(expected, FieldData) else (data.values, expected)
        assert values.tobytes() == truth.tobytes()
        assert back.schema[name].same_layout(ds.schema[name])


@settings(max_examples=12)
@given(kinds.tables(NTUPLE), st.sampled_from([1, 200, 1 << 20]), st.lists(st.integers(0, 8), max_size=2))
def test_an_rntuple_holds_every_kind(tmp_path_factory, table, block, cuts):
    folder = tmp_path_factory.mktemp("ntuple")
    kinds.write(folder / "s.mm", table, cuts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(root_module, "BLOCK_NBYTES", block)
        found = put(mm.open(folder / "s.mm"), folder / "n.root", format="rntuple")
    for name, rows in table.items():
        assert kinds.plain(found[name].to_list()) == [rooted(FIELDS[name], row) for row in rows], name


@settings(max_examples=12)
@given(kinds.tables(NTUPLE), st.lists(st.integers(0, 8), max_size=2))
def test_every_kind_comes_back_from_an_rntuple(tmp_path_factory, table, cuts):
    folder = tmp_path_factory.mktemp("back")
    ds = mm.open(kinds.write(folder / "s.mm", table, cuts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(root_module, "BLOCK_NBYTES", 200)
        ds.to_root(folder / "n.root", format="rntuple", progress=False)
    back = mm.from_root(folder / "n.root", folder / "back.mm", progress=False)
    assert back.fields == ds.fields
    for name, rows in table.items():
        field, got = FIELDS[name], back.schema[name]
        assert got.optional == field.optional, name
        if field.kind in ("ragged", "dense") and field.dtype.kind in "biufmM" and field.dtype != "f2":
            as_int = field.dtype.kind in "mM"
            assert got.same_layout(Field(name, field.kind, "i8" if as_int else field.dtype, field.shape, field.levels))
        found = kinds.plain(back[name].compute()) if len(rows) else []
        assert found == [rooted(field, row) for row in rows], name


@settings(max_examples=12)
@given(kinds.tables([*TREE_AS_IT_IS, *TREE_FILLED]), st.sampled_from([1, 200, 1 << 20]))
def test_a_ttree_holds_one_level_if_told_what_missing_values_are(tmp_path_factory, table, block):
    folder = tmp_path_factory.mktemp("ttree")
    kinds.write(folder / "s.mm", table)
    ds = mm.open(folder / "s.mm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(root_module, "BLOCK_NBYTES", block)
        found = put(ds, folder / "t.root", fill=FILLS)
        other = put(ds, folder / "n.root", fill=FILLS, format="rntuple")
    for name, rows in table.items():
        field = FIELDS[name]
        truth = [rooted(field, filled(field, row, FILLS.get(name))) for row in rows]
        assert kinds.plain(found[name].to_list()) == truth, name
        assert kinds.plain(other[name].to_list()) == truth, name


def test_text_of_any_length_and_script(tmp_path):
    words = ["", "a", "é" * 127, "x" * 254, "x" * 255, "x" * 256, "日本" * 400, "line\nbreak", "tab\t", "'\"", ""]
    ds = mm.from_arrays({"s": words, "i": np.arange(len(words))}, tmp_path / "s.mm")
    assert put(ds, tmp_path / "t.root")["s"].to_list() == words
    assert put(ds, tmp_path / "n.root", format="rntuple")["s"].to_list() == words
    back = mm.from_root(tmp_path / "t.root", tmp_path / "back.mm", progress=False)
    assert list(back["s"].compute()) == words


@pytest.mark.parametrize("format", ["ttree", "rntuple", "TTree", "RNTuple"])
def test_no_rows_are_a_tree_without_entries(tmp_path, format):
    ds = mm.from_arrays({"x": np.arange(3), "j": [[1.5], [], [2.0]], "s": ["a", "b", "c"]}, tmp_path / "s.mm")
    ds[:0].to_root(tmp_path / "f.root", format=format, progress=False)
    with uproot.open(tmp_path / "f.root") as file:
        tree = file["events"]
        assert tree.num_entries == 0
        assert {"x", "j", "s"} <= set(tree.keys())


# Views --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def ds(tmp_path):
    rng = np.random.default_rng(1)
    n = 500
    counts = rng.integers(0, 5, n)
    fields = [
        Field.dense("x", "i8", unit="GeV", doc="the x"),
        Field.ragged("jet_pt", "f4", unit="MeV"),
        Field.ragged("jet_eta", "f4"),
        Field.ragged("mu", "f8"),
        Field.category("process", ["ttH", "ttbb"]),
    ]
    path = tmp_path / "s.mm"
    with mm.create(path, fields=fields) as w:
        for a in (0, 200):
            b = a + (200 if not a else n - 200)
            jets = FieldData(rng.random(counts[a:b].sum(), "f4"), (np.append(0, np.cumsum(counts[a:b])),))
            w.extend(
                {
                    "x": np.arange(a, b),
                    "jet_pt": jets,
                    "jet_eta": FieldData(-jets.values, jets.offsets),
                    "mu": [[float(i)] * (i % 3) for i in range(a, b)],
                    "process": ["ttH" if i % 2 else "ttbb" for i in range(a, b)],
                }
            )
            w.checkpoint()
    return mm.open(path)


def test_cuts_selections_names_and_computed_fields(tmp_path, ds, monkeypatch):
    monkeypatch.setattr(root_module, "BLOCK_NBYTES", 700)
    more = ds.assign(ht="sum(jet_pt)", double="jet_pt * 2", lead="max(jet_pt)").rename(jet_eta="jet_y")
    sel = more[more.cut("x % 3 == 0 and len(jet_pt) > 0")][10:90]
    names = ["x", "jet_pt", "jet_y", "double", "ht", "lead", "process"]
    for format in ("ttree", "rntuple"):
        found = put(sel, tmp_path / f"{format}.root", "a/b/events", fields=names, format=format, fill={"lead": -1})
        for name in names:
            expected = sel[name].compute()
            assert kinds.plain(ak.Array(found[name])) == kinds.plain(expected), name
    assert list(put(sel, tmp_path / "some.root", fields=["jet_*", "x"])) == ["njet", "jet_pt", "jet_y", "x"]


def test_views_of_several_stores_and_of_items(tmp_path, ds):
    both = mm.concat([ds[:5], ds[400:]])
    found = put(both, tmp_path / "both.root")
    assert found["x"].to_list() == [*range(5), *range(400, 500)]
    assert found["jet_pt"].to_list() == both["jet_pt"].compute().to_list()
    items = ds.explode("jet")
    found = put(items, tmp_path / "items.root")
    assert found["jet_pt"].to_list() == ak.flatten(ds["jet_pt"].compute()).to_list()
    assert found["x"].to_list() == items["x"].compute().tolist()


def test_lists_of_equal_counts_share_a_counter(tmp_path, ds):
    more = ds.assign(jet_twice="jet_pt * 2", other="jet_pt[jet_pt > 0.5]")
    found = put(more, tmp_path / "f.root")
    counters = sorted(set(found) - set(more.fields))
    assert counters == ["njet", "nmu", "nother"]  # the same whatever is in the lists
    assert found["njet"].to_list() == ds["jet_pt"].counts.compute().tolist()
    assert found["nother"].to_list() == more["other"].counts.compute().tolist()
    with uproot.open(tmp_path / "f.root") as file:
        leaves = {b.name: b.member("fLeaves")[0].member("fLeafCount") for b in file["events"].branches}
    counted = {name: leaf.member("fName") for name, leaf in leaves.items() if leaf is not None}
    assert counted == {"jet_pt": "njet", "jet_eta": "njet", "jet_twice": "njet", "mu": "nmu", "other": "nother"}


def test_a_field_that_counts_is_the_counter(tmp_path, ds):
    path = tmp_path / "f.root"
    for i in range(3):  # nothing is added again and again
        ds.to_root(path, progress=False, overwrite=True)
        ds = mm.from_root(path, tmp_path / f"back{i}.mm", progress=False)
        assert set(ds.fields) == {"x", "njet", "jet_pt", "jet_eta", "nmu", "mu", "process"}
    # A field that is called so and does not count stays what it is.
    other = ds.assign(njet="x")
    found = put(other, tmp_path / "other.root")
    assert found["njet"].to_list() == found["x"].to_list()
    assert found["njet_"].to_list() == ds["jet_pt"].counts.compute().tolist()


def test_units_are_in_the_title_or_beside_the_field(tmp_path, ds):
    when = mm.from_arrays({"t": np.array(["2020-01-01"], "M8[ms]"), "d": np.array([5], "m8[25s]")}, tmp_path / "t.mm")
    when.to_root(tmp_path / "t.root", progress=False)
    ds.to_root(tmp_path / "u.root", progress=False)
    ds.to_root(tmp_path / "n.root", progress=False, format="rntuple")
    with uproot.open(tmp_path / "t.root") as file:
        assert file["events"].title == "t: ms since 1970-01-01; d: 25 s"
        assert file["events/t"].array().to_list() == [1577836800000]
    with uproot.open(tmp_path / "u.root") as file:
        assert file["events"].title == "x: GeV, the x; jet_pt: MeV"
    with uproot.open(tmp_path / "n.root") as file:
        found = {r.field_name: r.field_desc for r in file["events"].header.field_records}
        assert (found["x"], found["jet_pt"], found["mu"]) == ("GeV, the x", "MeV", "")


# Bounded ------------------------------------------------------------------------------------------------------------


def test_blocks_are_short_where_lists_are_long(tmp_path, monkeypatch):
    monkeypatch.setattr(root_module, "BLOCK_NBYTES", 40_000)
    counts = np.concatenate([np.zeros(20_000, int), np.full(300, 1000), np.ones(5_000, int)])
    with mm.create(tmp_path / "s.mm", fields=[Field.ragged("r", "f8"), Field.dense("x", "i4")]) as w:
        offsets = np.append(0, np.cumsum(counts))
        w.extend({"r": FieldData(np.arange(offsets[-1], dtype="f8"), (offsets,)), "x": np.arange(len(counts))})
    ds = mm.open(tmp_path / "s.mm")
    for view in (ds, ds[ds.cut("x % 2 == 0")], ds.assign(y="r + 1")):
        rows = view._resolved()
        blocks = list(
            root_module._blocks(rows, {n: root_module.column_of(rows.schema[n], "ttree") for n in view.fields})
        )
        assert [a for a, _ in blocks] == [0, *[b for _, b in blocks[:-1]]]
        assert blocks[-1][1] == len(view)
        largest = max(sum(rows.read(n, a, b).nbytes for n in ds.fields) for a, b in blocks)
        assert largest <= 2 * 40_000
        assert len(blocks) < 400
    same = put(ds, tmp_path / "f.root")
    assert same["r"].to_list() == ds["r"].compute().to_list()


def test_memory_is_that_of_a_block(tmp_path):
    n = 3_000_000
    with mm.create(tmp_path / "s.mm", fields=[Field.dense(f"x{i}", "f8") for i in range(4)]) as w:
        for _ in range(6):
            w.extend({f"x{i}": np.random.default_rng(i).random(n // 6) for i in range(4)})
    script = """
        import sys
        import numpy, awkward, uproot, dask.array
        import mmdask as mm
        from mmdask.export import root

        def peak():  # ru_maxrss would begin with what the parent process had
            lines = open("/proc/self/status").read().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

        root.BLOCK_NBYTES >>= int(sys.argv[4])
        small = mm.open(sys.argv[1])[:100_000]
        small.to_root(sys.argv[2], progress=False, compression="lz4", format=sys.argv[3], overwrite=True)
        before = peak()
        mm.open(sys.argv[1], io="pread").to_root(
            sys.argv[2], progress=False, compression="lz4", format=sys.argv[3], overwrite=True
        )
        print(peak() - before)
    """
    for format in ("ttree", "rntuple"):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script), tmp_path / "s.mm", tmp_path / "f.root", format, "3"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert int(done.stdout) < 40 << 10, format  # of 96 MB, in blocks of 4


# What cannot be written ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "format", "words"),
    [
        (Field.ragged("deep", "i4", levels=2), "ttree", "no lists of lists there; write format='rntuple'"),
        (Field.string("words", levels=1), "ttree", "no lists of text there; write format='rntuple'"),
        (Field.shaped("image", "u1", 2), "ttree", "differing shape; write format='rntuple'"),
        (Field.ragged("p", "f4", (3,)), "ttree", "nothing reads back; write format='rntuple'"),
        (Field.ragged("tags", "S2"), "ttree", "nothing reads back; write format='rntuple'"),
        (Field.dense("lead", "f4", optional=(0,)), "ttree", "as in fill={'lead': -999}, or write format='rntuple'"),
        (Field.dense("ok", "?", optional=(0,)), "ttree", "as in fill={'ok': False}"),
        (Field.string("s", optional=(0,)), "ttree", "as in fill={'s': ''}"),
        (Field.dense("z", "c16"), "rntuple", "mm.assign(path, z_re=ds['z'].real)"),
        (Field.dense("z", "c8"), "ttree", "ROOT has no complex numbers"),
        (Field.dense("none", "f4", (2, 0)), "rntuple", "hold no numbers"),
    ],
)
def test_what_a_format_does_not_hold_is_refused_with_a_way_out(tmp_path, field, format, words):
    with mm.create(tmp_path / "s.mm", fields=[Field.dense("i", "i4"), field]):
        pass
    ds = mm.open(tmp_path / "s.mm")
    with pytest.raises(mm.OptionError, match=re.escape(words)) as caught:
        ds.to_root(tmp_path / "f.root", format=format)
    assert str(caught.value).startswith(f"field {field.name!r} (")
    assert sorted(os.listdir(tmp_path)) == ["s.mm"]
    ds.to_root(tmp_path / "f.root", format=format, fields="i", progress=False)


@pytest.mark.parametrize(
    ("names", "format", "words"),
    [
        (
            ["a/b"],
            "ttree",
            "'/' in a name means something else in a TTree: 'a/b'; rename first: ds.rename({'a/b': 'a_b'})",
        ),
        (["x[3]"], "ttree", "'[' and ']' in a name means"),
        (
            ["p.fX", "p.fY", "q/a", "q/b"],
            "rntuple",
            "'p.fX', 'p.fY', 'q/a', ... (4 in all); rename first: ds.rename({name:",
        ),
    ],
)
def test_names_that_mean_something_else(tmp_path, names, format, words):
    ds = mm.from_arrays({"other": np.arange(3), **{name: np.arange(3) for name in names}}, tmp_path / "s.mm")
    with pytest.raises(mm.OptionError, match=re.escape(words)) as caught:
        ds.to_root(tmp_path / "f.root", format=format)
    way = str(caught.value).rpartition("rename first: ")[2]
    found = put(eval(way, {"ds": ds}), tmp_path / "f.root", format=format)
    assert list(found) == ["other", *[re.sub(r"\W+", "_", name).strip("_") for name in names]]


def test_the_way_out_for_complex_numbers(tmp_path):
    path = tmp_path / "s.mm"
    ds = mm.from_arrays({"z": np.array([1 + 2j, 3 - 1j])}, path)
    mm.assign(path, z_re=ds["z"].real, z_im=ds["z"].imag, progress=False)
    found = put(mm.open(path), tmp_path / "f.root", fields="z_*")
    assert (found["z_re"].to_list(), found["z_im"].to_list()) == ([1, 3], [2, -1])


@pytest.mark.parametrize(
    ("fill", "error", "words"),
    [
        ({"y": 1.5}, mm.OptionError, "fill= for field 'y' (optional int16) cannot be 1.5"),
        ({"y": 1 << 20}, mm.OptionError, "cannot be 1048576"),
        ({"y": "text"}, mm.OptionError, "cannot be 'text'"),
        ({"y": [1]}, mm.OptionError, "cannot be [1]"),
        ({"y": np.nan}, mm.OptionError, "cannot be nan"),
        ({"y": True}, mm.OptionError, "cannot be True"),
        ({"z": 1}, mm.FieldNotFoundError, "fill= names 'z', which is not written"),
        ({"yy": 1}, mm.FieldNotFoundError, "did you mean 'y'"),
    ],
)
def test_what_stands_for_missing_values_fits(tmp_path, fill, error, words):
    ds = mm.from_arrays({"y": np.ma.masked_array(np.arange(3, dtype="i2"), [0, 1, 0])}, tmp_path / "s.mm")
    with pytest.raises(error, match=re.escape(words)):
        ds.to_root(tmp_path / "f.root", fill=fill)
    assert put(ds, tmp_path / "f.root", fill=-999)["y"].to_list() == [0, -999, 2]


def test_one_fill_for_fields_that_differ_is_a_mapping(tmp_path):
    fields = [
        Field.dense("x", "f4", optional=(0,)),
        Field.dense("y.pt", "i2", optional=(0,)),
        Field.dense("ok", "?", optional=(0,)),
        Field.dense("n", "u1", optional=(0,)),
        Field.string("s", optional=(0,)),
        Field.shaped("image", "u1", 2, optional=(0,)),
    ]
    with mm.create(tmp_path / "s.mm", fields=fields) as w:
        w.append(dict.fromkeys(("x", "y.pt", "ok", "n", "s", "image")))
    ds = mm.open(tmp_path / "s.mm")
    for names, fill, words in (
        (
            ["x", "ok"],
            -999,
            "fill=-999 cannot be a value of 'ok' (optional bool); say for each field what stands for missing "
            "values, as in fill={'ok': False, 'x': -999}",
        ),
        (
            ["x", "ok", "s", "n"],
            -999,
            "'ok' (optional bool) and 2 more; say for each field what stands for missing values, "
            "as in fill={'ok': False, 's': '', 'n': 0, ...}",
        ),
        (["n", "x"], "none", "as in fill={'n': 0, 'x': -999}"),
        (
            ["x", "image"],
            0.5,
            "'image' (optional shaped uint8 of 2 axes); say for each field what stands for missing "
            "values, as in fill={'x': 0.5}",
        ),
    ):
        with pytest.raises(mm.OptionError, match=re.escape(words)):
            ds.to_root(tmp_path / "f.root", fields=names, fill=fill, format="rntuple")
    sel = ds.rename({"y.pt": "y_pt"})
    found = put(sel, tmp_path / "f.root", fields=["x", "y_pt"], fill=-999)
    assert (found["x"].to_list(), found["y_pt"].to_list()) == ([-999], [-999])
    with pytest.warns(UserWarning, match="names with a dot"):
        ds.to_root(tmp_path / "g.root", fields=["y.pt"], fill={"y_pt": -1})


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"format": "tree"}, mm.OptionError, "format= is 'ttree' or 'rntuple', got 'tree'; did you mean 'ttree'?"),
        ({"format": None}, mm.OptionError, "got None"),
        ({"compression": "zst"}, mm.OptionError, "did you mean 'zstd'?"),
        ({"compression": "zlib:10"}, mm.OptionError, "'zlib:10'"),
        ({"compression": 5}, mm.OptionError, "'zstd:9', or None; got 5"),
        ({"tree": ""}, mm.OptionError, "tree= is a name as 'events'"),
        ({"tree": "a//b"}, mm.OptionError, "got 'a//b'"),
        ({"tree": "a;1"}, mm.OptionError, "got 'a;1'"),
        ({"path": ""}, mm.OptionError, "the path of a file"),
        ({"path": 3}, mm.OptionError, "the path of a file"),
        ({"path": "s3://bucket/f.root"}, mm.OptionError, "only files of this machine"),
        ({"path": "a.root:nominal"}, mm.OptionError, "to_root('a.root', 'nominal')"),
        ({"path": "nowhere/a.root"}, mm.OptionError, "there is no folder"),
        ({"path": "."}, mm.StoreExistsError, "it is a folder"),
        ({"path": "s.mm/a.root"}, mm.OptionError, "lies in the store"),
        ({"fields": []}, mm.OptionError, "one field or more"),
        ({"fields": "nx"}, mm.FieldNotFoundError, "did you mean"),
    ],
)
def test_wrong_options_are_named_before_anything_is_written(tmp_path, monkeypatch, ds, options, error, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=re.escape(words)):
        ds.to_root(options.pop("path", "f.root"), options.pop("tree", "events"), **options)
    assert sorted(os.listdir(tmp_path)) == ["s.mm"]


def test_fields_that_are_dask_arrays_are_refused(tmp_path, ds):
    with pytest.raises(mm.OptionError, match="a file holds fields of the store"):
        ds.assign(y=ds["x"] * 2).to_root(tmp_path / "f.root")


# The file -----------------------------------------------------------------------------------------------------------


def test_a_file_is_replaced_only_if_asked_for(tmp_path, ds):
    path = tmp_path / "f.root"
    path.write_bytes(b"precious")
    with pytest.raises(
        mm.StoreExistsError, match=re.escape(f"{path} exists; choose another path, or say overwrite=True")
    ):
        ds.to_root(path, progress=False)
    assert path.read_bytes() == b"precious"
    link = tmp_path / "link.root"
    link.symlink_to(path)
    ds.to_root(link, progress=False, overwrite=True)
    assert link.is_symlink()
    with uproot.open(path) as file:
        assert file["events"].num_entries == len(ds)
    assert sorted(os.listdir(tmp_path)) == ["f.root", "link.root", "s.mm"]


def test_one_that_appears_meanwhile_is_not_replaced(tmp_path, ds, monkeypatch):
    path, before = tmp_path / "f.root", SYSTEM.fsync

    def fsync(fd):
        path.write_bytes(b"precious")
        before(fd)

    monkeypatch.setattr(SYSTEM, "fsync", fsync)
    with pytest.raises(mm.StoreExistsError):
        ds.to_root(path, progress=False)
    assert path.read_bytes() == b"precious"
    assert sorted(os.listdir(tmp_path)) == ["f.root", "s.mm"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("format", ["ttree", "rntuple"])
def test_what_ends_early_leaves_the_file_that_was_there(tmp_path, ds, monkeypatch, error, format):
    path = tmp_path / "f.root"
    path.write_bytes(b"precious")
    monkeypatch.setattr(root_module, "BLOCK_NBYTES", 3000)
    rows_read, before = [], type(ds._rows).read

    def read(self, name, start, stop):
        rows_read.append(stop)
        if stop > 300:
            raise error(errno.ENOSPC, "No space left on device")
        return before(self, name, start, stop)

    monkeypatch.setattr(type(ds._rows), "read", read)
    with pytest.raises(error) as caught:
        ds.to_root(path, progress=False, overwrite=True, format=format)
    if error is OSError:
        assert caught.value.__notes__ == [f"while {path} was written: no file was written"]
    assert len(rows_read) > 5
    assert path.read_bytes() == b"precious"
    assert sorted(os.listdir(tmp_path)) == ["f.root", "s.mm"]


def test_a_disk_that_is_full(tmp_path, ds):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    fd = os.open("/dev/full", os.O_RDWR)
    try:
        with pytest.MonkeyPatch.context() as patch:
            create = SYSTEM.create
            patch.setattr(SYSTEM, "create", lambda path: (os.close(create(path)), os.dup(fd))[1])
            with pytest.raises(OSError) as caught:
                ds.to_root(tmp_path / "f.root", progress=False)
    finally:
        os.close(fd)
    assert caught.value.errno in (errno.ENOSPC, errno.EINVAL)
    assert sorted(os.listdir(tmp_path)) == ["s.mm"]


def test_ctrl_c_leaves_nothing(tmp_path):
    mm.from_arrays({"x": np.arange(2_000_000)}, tmp_path / "s.mm")
    script = """
        import sys, time
        import mmdask as mm
        from mmdask.export import root
        from mmdask.rows.rows import Rows

        def read(self, *args):
            calls.append(args)
            time.sleep(600 if len(calls) > 1500 else 0)  # of 2000: the interrupt may come late
            return original(self, *args)

        calls, original, Rows.read = [], Rows.read, read
        root.BLOCK_NBYTES = 8000
        mm.open(sys.argv[1]).to_root(sys.argv[2], progress=False, compression="lzma")
    """
    args = [sys.executable, "-c", textwrap.dedent(script), tmp_path / "s.mm", tmp_path / "f.root"]
    with subprocess.Popen(args, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 300
        while not [p for p in tmp_path.glob("f.root.tmp-*") if p.stat().st_size > 20_000]:
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=300)
    assert "KeyboardInterrupt" in err
    assert process.returncode != 0
    assert sorted(os.listdir(tmp_path)) == ["s.mm"]


def test_a_bar_counts_rows(tmp_path, ds, monkeypatch):
    bars = []

    class Bar:
        def __init__(self, *args, **kwargs):
            bars.append([args, kwargs, 0])

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def update(self, n):
            bars[-1][2] += n

    monkeypatch.setattr(root_module.display, "progress", Bar)
    ds[10:].to_root(tmp_path / "f.root")
    assert [(args[0], done) for args, _, done in bars] == [(490, 490)]
