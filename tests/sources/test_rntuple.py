"""Rows of RNTuples from any clusters and pages, runs of bounded size, damage, conversions."""

from __future__ import annotations

import itertools
import re
import tracemalloc
import warnings

import awkward as ak
import numpy as np
import pytest
import uproot
from hypothesis import given, settings
from hypothesis import strategies as st
from rntuple_tools import (
    ENDS,
    ITEMS,
    LIST,
    RECORD,
    C,
    Cluster,
    F,
    described,
    one_field,
    opened,
    paged,
    rows_of,
    write_rntuple,
)
from root_tools import read_store, run

from mmdask.errors import SkippedFieldsWarning, SourceError
from mmdask.schema import FieldData
from mmdask.sources.converting.table import UnreadableError
from mmdask.sources.root import pages as pages_module
from mmdask.sources.root import reader, rntuple

# Rows and runs -------------------------------------------------------------------------------------------------------


def variants(rng, n):
    """Numbers or text."""
    tags = rng.integers(0, 2, n)
    index = np.where(tags == 0, np.cumsum(tags == 0), np.cumsum(tags == 1)) - 1
    words = ak.Array(["x", *(f"word {i}" * (i % 3) for i in range(int(tags.sum())))])[1:]
    contents = [ak.contents.NumpyArray(rng.random(n - int(tags.sum()))), words.layout]
    return ak.Array(ak.contents.UnionArray(ak.index.Index8(tags.astype("i1")), ak.index.Index64(index), contents))


def random_rows(rng, n):
    """Rows of several depths whose lengths differ much."""
    counts = rng.integers(0, 4, n) * (rng.random(n) < 0.5) + 200 * (rng.random(n) < 0.02)
    inner = rng.integers(0, 3, int(counts.sum()))
    values = rng.integers(0, 99, int(inner.sum()))
    deep = ak.unflatten(ak.unflatten(values, inner), counts)
    words = ak.Array([["", "a", "bé", "long " * 9][i] for i in rng.integers(0, 4, n)])
    index = ak.index.Index64(np.where(rng.random(n) < 0.3, -1, np.arange(n)))
    return {
        "x": rng.normal(size=n),
        "flag": rng.random(n) < 0.5,
        "deep": deep,
        "words": words,
        "jets": ak.zip({"pt": ak.unflatten(rng.normal(size=int(counts.sum())), counts), "n": ak.num(deep, axis=2)}),
        "maybe": ak.Array(ak.contents.IndexedOptionArray(index, ak.contents.NumpyArray(np.arange(n)))),
        "either": variants(rng, n),
        "point": ak.zip({"a": np.arange(n), "b": deep}, depth_limit=1),
    }


@pytest.fixture(scope="module")
def nested(tmp_path_factory):
    """A file of several clusters that uproot wrote, and what uproot reads."""
    path = tmp_path_factory.mktemp("nested") / "a.root"
    rng = np.random.default_rng(5)
    chunks = [random_rows(rng, n) for n in (60, 1, 160, 31)]
    with uproot.recreate(path, compression=uproot.ZLIB(1)) as file:
        ntuple = file.mkrntuple("nt", chunks[0])
        for chunk in chunks[1:]:
            ntuple.extend(chunk)
    with uproot.open({path: None}) as file:
        arrays = file["nt"].arrays(array_cache=None)
    members = {f"jets.{m}": arrays["jets"][m] for m in ("pt", "n")} | {f"point.{m}": arrays["point"][m] for m in "ab"}
    plain = {name: arrays[name] for name in ("x", "flag", "deep", "words", "maybe")} | members
    expected = {name: array.to_list() for name, array in plain.items()}
    # uproot 5.7.7 takes those of all clusters from the first
    either = [value for chunk in chunks for value in chunk["either"].to_list()]
    for k, kind in enumerate([float, str]):
        expected[f"either.{k}"] = [value if isinstance(value, kind) else None for value in either]
    return path, expected


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_any_rows_and_runs(nested, data):
    """Any rows, in runs of any size, of pieces of any size."""
    path, expected = nested
    limit = data.draw(st.sampled_from([1, 100, 1000, 5000, 10**9]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages_module, "PIECE_NBYTES", data.draw(st.sampled_from([512, 2048, 2**21])))
        patch.setattr(pages_module, "RECENT_NBYTES", data.draw(st.sampled_from([0, 10_000, 2**20])))
        tree = opened(path)
        for _ in range(3):
            column = tree.columns[data.draw(st.sampled_from(list(tree.columns)))]
            start = data.draw(st.integers(0, tree.rows))
            stop = data.draw(st.integers(start, tree.rows))
            rows, ends = rows_of(column, start, stop, limit)
            for name, values in rows.items():
                assert values == expected[name][start:stop], (name, start, stop, limit)
            # no run is larger than the limit, but for one row and what missing values take
            at = start
            for end in ends:
                run_nbytes = sum(d.nbytes for d in column.read(at, end, column.fields))
                assert end - at == 1 or run_nbytes <= 2 * limit + 100, (column.name, at, end, run_nbytes)
                at = end


def test_runs_are_not_small(nested):
    """Runs fill their limit, and clusters that fit are not divided."""
    path, _ = nested
    tree = opened(path)
    for column in tree.columns.values():
        total = sum(column.nbytes)
        assert len(list(column.ends(0, tree.rows, total // 8, column.fields))) <= 14, column.name
        assert list(column.ends(0, tree.rows, 10**9, column.fields)) == [tree.rows]
        ends = list(column.ends(0, tree.rows, total * 9 // 10, column.fields))
        assert set(ends) <= {60, 61, 221, 252}, column.name


@pytest.mark.parametrize("group", [1, 100, 5000, 2**23])
def test_groups_of_rows_are_all_rows(nested, monkeypatch, group):
    path, _ = nested
    monkeypatch.setattr(rntuple, "_GROUP_NBYTES", group)
    tree = opened(path)
    for column in tree.columns.values():
        offsets = column.offsets
        assert offsets[0] == 0
        assert offsets[-1] == tree.rows
        assert {60, 61, 221} <= set(offsets)
        assert all(a < b for a, b in itertools.pairwise(offsets))
        assert (len(offsets) == tree.rows + 1) == (group == 1)


def test_decoded_bytes_are_told_beforehand(nested):
    path, _ = nested
    tree = opened(path)
    for column in tree.columns.values():
        for said, field in zip(column.nbytes, column.fields, strict=True):
            (data,) = column.read(0, tree.rows, [field])
            exact = data.nbytes if isinstance(data, FieldData) else 0
            room = 2 * exact if field.optional else 0.05 * exact + 64
            assert said == pytest.approx(exact, abs=room), field.name


def test_members_that_are_not_wanted_are_not_read(nested):
    path, _ = nested
    tree = opened(path)
    column = tree.columns["point"]
    source = tree._pages._ntuple.file.source
    (a, b) = column.fields
    nbytes = []
    for wanted in ([a], [b], [b, a]):
        before = source.num_requested_bytes
        data = column.read(0, tree.rows, wanted)
        assert len(data) == len(wanted)
        nbytes.append(source.num_requested_bytes - before)
    assert nbytes[0] < nbytes[1] / 2 < nbytes[2]


@pytest.mark.parametrize("kind", ["uproot", "blocks", "split"])
def test_one_cluster_in_bounded_memory(tmp_path, monkeypatch, kind):
    """14 MB in a page per column, and all items in the last tenth of the rows, take 2 MB: a hundredth of real sizes."""
    rng = np.random.default_rng(0)
    n = 500_000
    counts = np.zeros(n, np.int64)
    counts[-n // 10 :] = rng.integers(0, 30, n // 10)
    values = rng.integers(0, 100, int(counts.sum())).astype("f4")
    path = tmp_path / "a.root"
    if kind == "uproot":
        with uproot.recreate(path, compression=None) as file:
            file.mkrntuple("nt", {"v": ak.unflatten(values, counts), "x": np.arange(n, dtype="f8")})
    else:
        s = "split" * (kind == "split")
        fields = [F("v", "std::vector<float>", LIST), F("_0", "float", parent=0), F("x", "double")]
        columns = [C(0, f"{s}index64"), C(1, f"{s}real32"), C(2, f"{s}real64")]
        pages = [[np.cumsum(counts)], [values], [np.arange(n, dtype="f8")]]
        write_rntuple(path, fields, columns, [Cluster(n, pages)], block=2**16)
    monkeypatch.setattr(pages_module, "PIECE_NBYTES", 2**15)
    monkeypatch.setattr(pages_module, "RECENT_NBYTES", 2**20)
    monkeypatch.setattr(pages_module, "_TOGETHER", 2**16)
    limit = 2**18
    tree = opened(path)
    found = {"v": values, "x": np.arange(n, dtype="f8")}
    for name, column in tree.columns.items():
        tracemalloc.start()
        at = done = 0
        for end in column.ends(0, n, limit, column.fields):
            (data,) = column.read(at, end, column.fields)
            assert np.array_equal(data.values, found[name][done : done + len(data.values)])
            at, done = end, done + len(data.values)
            del data
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert (at, done) == (n, len(found[name]))
        assert peak < 2 * 2**20 + 4 * limit, f"{name}: {peak / 2**20:.1f} MB"


# Damage -------------------------------------------------------------------------------------------------------------


def write_lists(path, ends=ENDS, items=ITEMS, rows=4, **options):
    fields = [F("x", "std::vector<float>", LIST), F("_0", "float", parent=0), F("y", "std::int32_t")]
    columns = [C(0, "index64"), C(1, "real32"), C(2, "int32")]
    clusters = [Cluster(rows, [paged(np.asarray(p), 2) for p in (ends, items, np.arange(4))])]
    write_rntuple(path, fields, columns, clusters, **options)


@pytest.mark.parametrize(
    ("ends", "reason"),
    [
        ([2, 1, 3, 5], "its offsets are not in order"),
        ([2, 2, 3, 6], "elements of a column are asked for"),
        ([2, 2, 3, 2**62], "elements of a column are asked for"),
        ([-1, 2, 3, 5], "its offsets are not in order"),
    ],
)
def test_offsets_that_are_wrong(tmp_path, ends, reason):
    write_lists(tmp_path / "a.root", ends)
    tree = opened(tmp_path / "a.root")
    column = tree.columns["x"]
    with pytest.raises(UnreadableError, match=f"damaged: .*{reason}"):
        column.read(0, 4, column.fields)
    with pytest.warns(SkippedFieldsWarning, match=f"'x' in .*a.root: damaged.*{reason}"):
        run(tmp_path / "a.root", tmp_path / "o.mm")
    assert read_store(tmp_path / "o.mm")["y"].tolist() == [0, 1, 2, 3]


def test_an_optional_value_of_two(tmp_path):
    fields = [F("x", "std::optional<float>", LIST), F("_0", "float", parent=0)]
    tree = one_field(tmp_path, fields, [C(0, "index64"), C(1, "real32")], [[2, 2, 3, 3], [1, 2, 3]])
    with pytest.raises(UnreadableError, match="2 values of an optional field in a row"):
        tree.columns["x"].read(0, 4, tree.columns["x"].fields)


def test_columns_with_too_few_rows(tmp_path):
    write_lists(tmp_path / "a.root", ENDS[:3])
    assert described(opened(tmp_path / "a.root")) == {
        "x": "damaged: a column has 3 elements for 4 of rows 0 to 4",
        "y": {"y": "int32"},
    }


def test_one_page_is_damaged(tmp_path):
    path = tmp_path / "a.root"
    write_lists(path, compress=False)
    where = int(opened(path)._pages._links[0][1].pages[1].locator.offset)
    data = bytearray(path.read_bytes())
    data[where] ^= 1
    path.write_bytes(data)
    with pytest.warns(SkippedFieldsWarning, match="'x' in .*a.root: damaged: the checksum of a page does not"):
        run(path, tmp_path / "o.mm")
    assert read_store(tmp_path / "o.mm")["y"].tolist() == [0, 1, 2, 3]


def test_metadata_that_are_damaged(tmp_path):
    """Every byte of the pages, their list, the header and the footer counts."""
    path = tmp_path / "a.root"
    write_lists(path)
    whole = path.read_bytes()
    begin = int(opened(path)._pages._links[0][0].pages[0].locator.offset)
    for at in range(begin, len(whole), 7):
        data = bytearray(whole)
        data[at] ^= 0x41
        path.write_bytes(data)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                run(path, tmp_path / f"{at}.mm")
            except SourceError as error:
                said = str(error)
            else:
                said = str(caught[0].message)
        assert "a.root" in said, at
        assert re.search("damaged|cannot be read", said), at


@pytest.mark.parametrize("keep", [0.3, 0.7, 0.99])
def test_a_file_that_is_cut_short(nested, tmp_path, keep):
    data = nested[0].read_bytes()
    (tmp_path / "a.root").write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(SourceError, match=r"truncated|damaged"):
        run(tmp_path / "a.root", tmp_path / "o.mm")


def test_features_that_are_not_known(tmp_path):
    write_lists(tmp_path / "a.root", features=4)
    with pytest.raises(SourceError, match="the RNTuple 'nt' cannot be read .*its header asks for features.*0x4"):
        run(tmp_path / "a.root", tmp_path / "o.mm")


# Conversions --------------------------------------------------------------------------------------------------------


def test_a_conversion(nested, tmp_path):
    path, expected = nested
    run(path, tmp_path / "o.mm")
    got = read_store(tmp_path / "o.mm")
    for name in ("x", "flag", "words", "jets.pt", "jets.n", "point.a"):
        assert got[name].tolist() == expected[name], name


def test_a_conversion_in_small_runs_and_parts(nested, tmp_path, monkeypatch):
    path, expected = nested
    monkeypatch.setattr(reader, "RUN_NBYTES", 500)
    run(path, tmp_path / "o.mm", fields=["x", "jets.*", "words"], part_nbytes=4000)
    got = read_store(tmp_path / "o.mm")
    assert {name: array.tolist() for name, array in got.items()} == {
        name: expected[name] for name in ("x", "jets.pt", "jets.n", "words")
    }


@pytest.mark.parametrize("group", [100, 2**23])
def test_a_cut(nested, tmp_path, monkeypatch, group):
    """Groups of rows of which none passes are not read."""
    path, expected = nested
    monkeypatch.setattr(rntuple, "_GROUP_NBYTES", group)
    monkeypatch.setattr(reader, "RUN_NBYTES", 500)
    run(path, tmp_path / "o.mm", fields=["x", "words", "jets.*"], cut="x > 0.5 & `point.a` > 20")
    rows = [i for i, (x, a) in enumerate(zip(expected["x"], expected["point.a"], strict=True)) if x > 0.5 and a > 20]
    assert 10 < len(rows) < 100
    got = read_store(tmp_path / "o.mm")
    assert {name: array.tolist() for name, array in got.items()} == {
        name: [expected[name][i] for i in rows] for name in ("x", "words", "jets.pt", "jets.n")
    }


def test_a_tree_and_an_rntuple(tmp_path):
    """Both are trees to choose from, by the same names."""
    path = tmp_path / "a.root"
    values = np.arange(3.0)
    with uproot.recreate(path) as file:
        file.mktree("old", {"x": "f8"}).extend({"x": values})
        file.mkrntuple("sub/new", {"x": values + 1})
    with pytest.raises(SourceError, match="its trees are: old, sub/new; name one"):
        run(path, tmp_path / "o.mm")
    run([f"{path}:old", f"{path}:sub/new"], tmp_path / "o.mm")
    assert read_store(tmp_path / "o.mm")["x"].tolist() == [0.0, 1.0, 2.0, 1.0, 2.0, 3.0]


def test_a_format_before_the_first(tmp_path, monkeypatch):
    from mmdask.sources.root import file

    with uproot.recreate(tmp_path / "a.root") as f:
        f.mkrntuple("nt", {"x": np.arange(3.0)})
    monkeypatch.setattr(file, "TREES", frozenset())
    monkeypatch.setattr(file, "PRELIMINARY", frozenset({"ROOT::RNTuple"}))
    with pytest.raises(SourceError, match="holds no TTree or RNTuple .and nt, RNTuple of a format before its first"):
        run(tmp_path / "a.root", tmp_path / "o.mm")


def test_no_rows(tmp_path):
    with uproot.recreate(tmp_path / "a.root") as file:
        file.mkrntuple("nt", {"x": np.dtype("f4"), "l": ak.type(ak.Array([[1]])).content})
    run(tmp_path / "a.root", tmp_path / "o.mm")
    got = read_store(tmp_path / "o.mm")
    assert got["x"].dtype == np.float32
    assert [len(array) for array in got.values()] == [0, 0]


def test_same_types_make_the_same_fingerprint(tmp_path):
    """A member that changes its type is another file, though its class is called the same."""
    fields = [F("x", "Event", RECORD), F("pt", "float", parent=0)]
    types = []
    for kind, name in (("real32", "float"), ("splitreal32", "float"), ("real64", "double")):
        fields[1].type = name
        tree = one_field(tmp_path, fields, [C(1, kind)], [ITEMS[:4]])
        types.append(tree.types["x"])
    assert types[0] == types[1] != types[2]
