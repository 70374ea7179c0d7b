"""Every type that is converted, bit for bit against uproot and awkward, in files that the tests write."""

from __future__ import annotations

import tracemalloc
import warnings

import awkward as ak
import numpy as np
import pytest
import uproot
from root_tools import assert_same_bits, events, part_layers, read_store, write_tree

from mmdask.errors import FieldNotFoundError, OptionError, SchemaError, SkippedFieldsWarning, SourceError
from mmdask.sources.converting.progress import Progress
from mmdask.sources.root import convert_root, decode, reader, ttree

NUMBERS = ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]


def numbers(dtype, shape, seed):
    """All bit patterns are likely, NaN included."""
    rng = np.random.default_rng(seed)
    if dtype == "?":
        return rng.random(shape) < 0.5
    return np.frombuffer(rng.bytes(int(np.prod(shape)) * np.dtype(dtype).itemsize), dtype).reshape(shape).copy()


def all_types(n, seed):
    rng = np.random.default_rng(seed)
    chunk = {}
    for i, d in enumerate(NUMBERS):
        name = np.dtype(d).name
        chunk[name] = numbers(d, (n,), seed + i)
        chunk[f"{name}_3"] = numbers(d, (n, 3), seed + 20 + i)
        counts = rng.integers(0, 5, n)
        chunk[f"{name}_list"] = ak.unflatten(numbers(d, (int(counts.sum()),), seed + 40 + i), counts)
    chunk["matrix"] = numbers("f8", (n, 2, 4), seed)
    chunk["text"] = ak.Array([("äöü€" * (k % 4)) + "x" * (300 * (k % 3)) for k in range(n)] or [""])[:n]
    return chunk


def types_of(chunk):
    types = {}
    for name, v in chunk.items():
        if name == "text":
            types[name] = "string"
        elif isinstance(v, ak.Array):
            types[name] = f"var * {np.asarray(ak.flatten(v)).dtype.name}"
        else:
            types[name] = np.dtype((v.dtype, v.shape[1:]))
    return types


def convert_and_compare(path, out, tree="events", **kwargs):
    convert_root(path, out, progress=False, **kwargs)
    got = read_store(out)
    with uproot.open({path: None}) as file:
        expected = {name: b.array() for name, b in file[tree].iteritems()}
    for name, array in got.items():
        assert_same_bits(array, expected[name], name)
    return got


@pytest.mark.parametrize("compression", [None, uproot.ZLIB(1), uproot.LZ4(1), uproot.ZSTD(1)], ids=str)
def test_every_type(tmp_path, compression):
    chunks = [all_types(n, seed) for seed, n in enumerate([7, 1, 20])]
    path = write_tree(tmp_path / "a.root", chunks, types=types_of(chunks[0]), compression=compression)
    got = convert_and_compare(path, tmp_path / "o.mm")
    # against what was written, too: uproot's reading is not the only oracle
    for name in ("int8", "uint64", "float32_3", "matrix"):
        assert got[name].tobytes() == np.concatenate([c[name] for c in chunks]).tobytes()
    for name in ("bool_list", "int64_list", "text"):
        assert got[name].to_list() == ak.concatenate([c[name] for c in chunks]).to_list()
    assert {n for n in got if n not in chunks[0]} == {f"n{n}" for n in chunks[0] if n.endswith("_list")}


def test_runs_and_parts_of_every_size(tmp_path, monkeypatch):
    chunks = [all_types(n, seed) for seed, n in enumerate([50, 3, 1, 120, 64])]
    path = write_tree(tmp_path / "a.root", chunks, types=types_of(chunks[0]))
    for run, part in ((1, 10**9), (400, 100_000), (10**9, 30_000)):
        monkeypatch.setattr(reader, "RUN_NBYTES", run)
        out = tmp_path / f"{run}-{part}.mm"
        convert_and_compare(path, out, part_nbytes=part)
        assert (len(part_layers(out)) > 1) == (part < 10**6)


def test_each_basket_is_read_once(tmp_path, baskets, monkeypatch):
    monkeypatch.setattr(reader, "RUN_NBYTES", 500)
    path = write_tree(tmp_path / "a.root", [events(100, seed) for seed in range(12)])
    baskets.clear()
    convert_root(path, tmp_path / "o.mm", progress=False, part_nbytes=9_000)
    assert len(part_layers(tmp_path / "o.mm")) > 2
    assert len(baskets) == len(set(baskets)) == 4 * 12, "common boundaries: no basket is read for two parts"


def test_no_rows(tmp_path):
    chunk = all_types(0, 0)
    path = write_tree(tmp_path / "a.root", [], types=types_of(all_types(3, 0)))
    convert_root(path, tmp_path / "o.mm", progress=False)
    got = read_store(tmp_path / "o.mm")
    assert set(chunk) <= set(got)
    assert {len(a) for a in got.values()} == {0}
    assert got["matrix"].shape == (0, 2, 4)


def test_empty_rows_everywhere(tmp_path):
    empty = {"j": ak.values_astype(ak.Array([[], [], []]), np.float32), "s": ak.Array(["", "", ""])}
    some = {"j": ak.values_astype(ak.Array([[], [1.0, 2.0], []]), np.float32), "s": ak.Array(["", "b", ""])}
    types = {"j": "var * float32", "s": "string"}
    for name, chunks in {"all": [empty], "first": [empty, some, empty], "last": [some, empty]}.items():
        path = write_tree(tmp_path / f"{name}.root", chunks, types=types)
        convert_and_compare(path, tmp_path / f"{name}.mm")
        convert_and_compare(path, tmp_path / f"{name}-parts.mm", part_nbytes=24)


def test_fields_and_exclude(tmp_path):
    path = write_tree(tmp_path / "a.root", [{n: np.arange(3.0) for n in ("met", "jet_e", "jet_pt", "x[1]", "x1")}])

    def names(**kwargs):
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}.mm"
        convert_root(path, out, progress=False, **kwargs)
        return list(read_store(out))

    assert names(fields="jet_*") == ["jet_e", "jet_pt"]
    assert names(fields=["met", "jet_*"]) == ["met", "jet_e", "jet_pt"]
    assert names(fields=["x[1]"]) == ["x[1]"]
    assert names(exclude=["jet_*", "x*"]) == ["met"]
    assert names(fields=["*"], exclude="met") == ["jet_e", "jet_pt", "x[1]", "x1"]
    for kwargs in ({"fields": "jetpt"}, {"exclude": ["jetpt"]}, {"fields": ["met", "jetpt*"]}):
        out = tmp_path / "no.mm"
        with pytest.raises(FieldNotFoundError, match="did you mean 'jet_pt'"):
            convert_root(path, out, progress=False, **kwargs)
        assert not out.exists()


def test_nothing_is_selected(tmp_path):
    path = write_tree(tmp_path / "a.root", [events(5)])
    for kwargs, message in [
        ({"fields": []}, "no field is selected: fields is empty"),
        ({"exclude": "*"}, r"a\.root: no field is selected: fields=None and exclude=\['\*'\] leave none of the 4 br"),
        ({"fields": "met", "exclude": ["m*"]}, r"selected: fields=\['met'\] and exclude=\['m\*'\] leave none"),
        ({"fields": 3}, "fields and exclude are names or patterns of branches, got 3"),
        ({"exclude": 0}, "fields and exclude are names or patterns of branches, got 0"),
    ]:
        with pytest.raises(OptionError, match=message):
            convert_root(path, tmp_path / "o.mm", progress=False, **kwargs)
        assert not (tmp_path / "o.mm").exists()


def bad_branch(monkeypatch, name, *, after=0, error=None):
    """Let reading one branch fail, after some runs."""
    original = uproot.TBranch.array
    calls = []

    def array(self, *args, **kwargs):
        if self.name == name:
            calls.append(1)
            if len(calls) > after:
                raise error or ValueError("odd bytes")
        return original(self, *args, **kwargs)

    monkeypatch.setattr(uproot.TBranch, "array", array)
    return calls


@pytest.mark.parametrize("after", [0, 2])
def test_a_branch_that_cannot_be_read(tmp_path, monkeypatch, after):
    path = write_tree(tmp_path / "a.root", [events(10, seed) for seed in range(6)])
    monkeypatch.setattr(reader, "RUN_NBYTES", 1)
    calls = bad_branch(monkeypatch, "met", after=after)
    with pytest.warns(
        SkippedFieldsWarning, match=r"data of 1 field cannot be read.*'met' in /.*a\.root: damaged.*odd bytes"
    ):
        convert_root(path, tmp_path / "o.mm", progress=False, part_nbytes=500)
    assert len(part_layers(tmp_path / "o.mm")) > 1
    got = read_store(tmp_path / "o.mm")
    assert list(got) == ["number", "npt", "pt"]
    assert len(calls) == after + 1, "it is not tried again for the other parts of its file"
    assert got["number"].tolist() == [i + (1 << 53) + 1 for _ in range(6) for i in range(10)]
    skipped = [layers[0]["source"]["skipped"] for layers in part_layers(tmp_path / "o.mm")]
    assert skipped[-1] == [
        ["met", "cannot be read: damaged, or of a form that uproot does not read (uproot: ValueError: odd bytes)"]
    ]


def test_a_named_branch_that_cannot_be_read(tmp_path, monkeypatch):
    path = write_tree(tmp_path / "a.root", [events(10)])
    bad_branch(monkeypatch, "met")
    with pytest.raises(SourceError, match=r"field 'met' cannot be read: damaged.*ValueError: odd bytes"):
        convert_root(path, tmp_path / "o.mm", fields=["met", "pt"], progress=False)
    assert not (tmp_path / "o.mm" / "manifest.json").exists()
    assert not list((tmp_path / "o.mm" / "parts").iterdir())


def test_no_branch_can_be_read(tmp_path, monkeypatch):
    path = write_tree(tmp_path / "a.root", [{"met": np.arange(3.0)}])
    bad_branch(monkeypatch, "met")
    with pytest.raises(SourceError, match="cannot be read"):
        convert_root(path, tmp_path / "o.mm", progress=False)


def test_our_own_errors_are_not_taken_for_bad_branches(tmp_path, monkeypatch):
    path = write_tree(tmp_path / "a.root", [events(10)])
    monkeypatch.setattr(decode, "exact", lambda array, field: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        convert_root(path, tmp_path / "o.mm", progress=False)


def test_a_disk_that_fails_is_no_bad_branch(tmp_path, monkeypatch):
    path = write_tree(tmp_path / "a.root", [events(10)])
    bad_branch(monkeypatch, "met", error=OSError(5, "Input/output error"))
    with pytest.raises(SourceError, match="Input/output error at field 'met'"):
        convert_root(path, tmp_path / "o.mm", progress=False)


def test_a_damaged_basket(tmp_path):
    """Bytes flipped in the data: the field is left out, or its rows are as many as the tree says."""
    path = tmp_path / "a.root"
    write_tree(path, [{"x": np.arange(5000, dtype="i4"), "y": np.arange(5000.0)}])
    with uproot.open({str(path): None}) as file:
        at = int(file["events"]["x"].member("fBasketSeek")[0])
    data = bytearray(path.read_bytes())
    data[at + 80 : at + 120] = bytes(40)
    path.write_bytes(data)
    with pytest.warns(SkippedFieldsWarning, match=r"data of 1 field cannot be read, .*'x' in /.*a\.root: damaged"):
        convert_root(path, tmp_path / "o.mm", progress=False)
    assert read_store(tmp_path / "o.mm")["y"].tolist() == list(range(5000))


def test_text_that_is_not_utf8(tmp_path):
    text = ak.Array(["ab", "cd"])
    path = tmp_path / "a.root"
    write_tree(path, [{"s": text, "x": np.arange(2.0)}], types={"s": "string", "x": "f8"}, compression=None)
    data = path.read_bytes()
    assert data.count(b"\x02ab\x02cd") == 1
    path.write_bytes(data.replace(b"\x02ab\x02cd", b"\x02a\xe4\x02cd"))
    with pytest.warns(SkippedFieldsWarning, match=r"cannot be read, .*'s' in /.*: not utf-8 text: .*xe4"):
        convert_root(path, tmp_path / "o.mm", progress=False)


def test_bools_of_other_bytes_are_true(tmp_path):
    path = tmp_path / "a.root"
    flags = np.array([1, 0, 1, 1, 0, 0, 1, 0] * 8, "?")
    write_tree(path, [{"b": flags}], compression=None)
    data = path.read_bytes()
    assert data.count(flags.tobytes()) == 1
    path.write_bytes(data.replace(flags.tobytes(), (flags.view("u1") * 0xCD).tobytes()))
    convert_root(path, tmp_path / "o.mm", progress=False)
    got = read_store(tmp_path / "o.mm")["b"]
    assert got.view("u1").tolist() == flags.view("u1").tolist()


@pytest.mark.parametrize("kind", ["flat", "list"])
def test_memory_is_bounded(tmp_path, monkeypatch, kind):
    """48 MB of one branch in 48 baskets, in runs of 2 MiB: a few runs are in memory at once, not the branch."""
    rng = np.random.default_rng(1)

    def chunk():
        x = rng.random(125_000)
        return {"x": x if kind == "flat" else ak.unflatten(x, np.full(25_000, 5))}

    types = {"x": "f8" if kind == "flat" else "var * float64"}
    path = write_tree(tmp_path / "a.root", (chunk() for _ in range(48)), types=types, compression=None)
    convert_root(write_tree(tmp_path / "warm.root", [chunk()], types=types), tmp_path / "warm.mm", progress=False)
    monkeypatch.setattr(reader, "RUN_NBYTES", 2 << 20)
    tracemalloc.start()
    try:
        convert_root(path, tmp_path / "o.mm", progress=False)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20


def test_nothing_is_printed(tmp_path, capfd):
    path = write_tree(tmp_path / "a.root", [events(10)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        convert_root(path, tmp_path / "o.mm", progress=False)
    assert capfd.readouterr() == ("", "")
    convert_root(path, tmp_path / "p.mm")
    out, err = capfd.readouterr()
    assert out == ""
    assert "convert" in err
    assert "100%" in err


def test_a_bar_names_the_file_that_is_read(capfd):
    with Progress(10, show=True) as bar:
        bar.tell(1, "/data/a_long_name_of_a_file.root")
        bar._bar.refresh()
        assert "...me_of_a_file.root" in capfd.readouterr().err


def test_a_field_that_was_named_has_the_wrong_type(tmp_path, monkeypatch):
    path = write_tree(tmp_path / "a.root", [events(10)])
    original = ttree.column_of

    def layout(name, branch, rows):
        return "type vector<vector<float>> is not supported yet" if name == "pt" else original(name, branch, rows)

    monkeypatch.setattr(ttree, "column_of", layout)
    with pytest.raises(SchemaError, match=r"'pt' cannot be converted: type vector<vector<float>> is not supported yet"):
        convert_root(path, tmp_path / "o.mm", fields=["pt", "met"], progress=False)
    assert not (tmp_path / "o.mm").exists()
    with pytest.warns(SkippedFieldsWarning, match=r"1 field left out, seen in /.*a\.root: 'pt': type vector<vec"):
        convert_root(path, tmp_path / "o.mm", fields=["p*", "met"], progress=False)
    assert list(read_store(tmp_path / "o.mm")) == ["met"]
    assert part_layers(tmp_path / "o.mm")[0][0]["source"]["skipped"][0][0] == "pt"
