"""Types that only ROOT writes: branches of bytes that uproot writes, read by the interpretations of these types."""

from __future__ import annotations

import struct
import tracemalloc
from types import SimpleNamespace

import awkward as ak
import numpy as np
import pytest
import uproot
from root_tools import assert_same_bits, read_store, run, write_tree
from uproot.containers import AsMap, AsSet, AsString, AsVector
from uproot.interpretation.objects import AsObjects, AsStridedObjects

import mmdask as mm
from mmdask.errors import FieldNotFoundError, SchemaError, SkippedFieldsWarning, SourceError
from mmdask.sources.converting.table import UnreadableError
from mmdask.sources.root import reader
from mmdask.sources.root.ttree import Branch, Branches, column_of

I4, F4, F8 = np.dtype(">i4"), np.dtype(">f4"), np.dtype(">f8")


# What ROOT would write -----------------------------------------------------------------------------------------------


def text(value):
    data = value.encode()
    return bytes([len(data)]) + data if len(data) < 255 else b"\xff" + struct.pack(">I", len(data)) + data


def numbers(dtype):
    return lambda value: np.array(value, dtype).tobytes()


def vector(item):
    return lambda values: struct.pack(">I", len(values)) + b"".join(map(item, values))


def object_of(write, version=9):
    """With the bytes that say how many bytes follow, and the version."""
    return lambda value: struct.pack(">IH", 0x40000000 | (len(write(value)) + 2), version) + write(value)


def map_of(key, value):
    """Memberwise: first all keys, then all values."""
    memberwise, header = 1 << 14 | 9, bytes(6)

    def write(pairs):
        body = header + struct.pack(">I", len(pairs)) + header * (key is text)
        return body + b"".join(key(k) for k in pairs) + header * (value is text) + b"".join(map(value, pairs.values()))

    return object_of(write, memberwise)


def write_raw(path, monkeypatch, rows, *, baskets=3, **more):
    """A file whose branches hold, in each row, these bytes; `rows` are pairs of interpretation and rows of bytes."""
    (n,) = {len(data) for _, data in rows.values()}
    ends = [n * k // baskets for k in range(baskets + 1)]
    chunks = [
        {name: ak.Array([list(row) for row in data[a:b]]) for name, (_, data) in rows.items()}
        | {name: data[a:b] for name, data in more.items()}
        for a, b in zip(ends[:-1], ends[1:], strict=True)
    ]
    types = dict.fromkeys(rows, "var * uint8") | {name: data.dtype for name, data in more.items()}
    chunks = [{k: ak.values_astype(v, "u1") if k in rows else v for k, v in c.items()} for c in chunks]
    pretend(monkeypatch, {name: interpretation for name, (interpretation, _) in rows.items()})
    return write_tree(path, chunks, types=types)


def pretend(monkeypatch, interpretations):
    """Let branches of these names be of other types than they are; a function makes what belongs to one branch."""
    original = uproot.TBranch.interpretation.fget

    def found(self):
        given = interpretations.get(self.name)
        if callable(given):
            given = self.__dict__.setdefault("pretended", given(self))
        return given or original(self)

    monkeypatch.setattr(uproot.TBranch, "interpretation", property(found))


def objects(model):
    return lambda branch: AsObjects(model, branch)


VALUES = {
    "vector2": (
        AsVector(True, AsVector(False, I4)),
        object_of(vector(vector(numbers(I4)))),
        [[[1, 2], [], [3]], [], [[]]],
    ),
    "vector3": (
        AsVector(True, AsVector(False, AsVector(False, F8))),
        object_of(vector(vector(vector(numbers(F8))))),
        [[[[1.5], []]], [], [[], [[-0.0, np.nan]]]],
    ),
    "texts": (AsVector(True, AsString(False)), object_of(vector(text)), [["a", "äöü", ""], [], ["x" * 300]]),
    "texts2": (
        AsVector(True, AsVector(False, AsString(False))),
        object_of(vector(vector(text))),
        [[["a", "€"], []], [], [["", "b"]]],
    ),
    "set": (AsSet(True, I4), object_of(vector(numbers(I4))), [[1, 2], [], [7]]),
    "set_texts": (AsSet(True, AsString(False)), object_of(vector(text)), [["b", "c"], [], [""]]),
    "map": (AsMap(True, I4, F4), map_of(numbers(I4), numbers(F4)), [{1: 0.5, 2: -1.0}, {}, {7: 2.5}]),
    "map_texts": (
        AsMap(True, AsString(True), AsString(True)),
        map_of(text, text),
        [{"a": "x", "b": ""}, {}, {"ü": "€"}],
    ),
    "map_lists": (
        AsMap(True, AsString(True), AsVector(False, F8)),
        map_of(text, vector(numbers(F8))),
        [{"a": [1.5], "b": []}, {}, {"c": [2.5, 3.5]}],
    ),
}


def expected(name, rows):
    if not name.startswith("map"):
        return {name: rows}
    return {f"{name}.key": [list(row) for row in rows], f"{name}.value": [list(row.values()) for row in rows]}


def plain(ds, name):
    return ds[name].to_awkward().to_list() if hasattr(ds[name], "to_awkward") else ds[name].compute().tolist()


@pytest.mark.parametrize("run_nbytes", [1, 32 << 20])
def test_containers(tmp_path, monkeypatch, run_nbytes):
    monkeypatch.setattr(reader, "RUN_NBYTES", run_nbytes)
    rows = {name: (objects(model), [write(v) for v in values * 5]) for name, (model, write, values) in VALUES.items()}
    path = write_raw(tmp_path / "a.root", monkeypatch, rows)
    run(path, tmp_path / "o.mm")
    ds = mm.open(tmp_path / "o.mm")
    wanted = {k: v for name, (_, _, values) in VALUES.items() for k, v in expected(name, values * 5).items()}
    assert {n for n in ds.fields if n not in wanted} == {f"n{n}" for n in VALUES}
    for name, values in wanted.items():
        assert repr(plain(ds, name)) == repr(values), name
    described = {n: f.describe() for n, f in ds.schema.items() if n in wanted}
    assert described == {
        "vector2": "ragged int32 of 2 levels",
        "vector3": "ragged float64 of 3 levels",
        "texts": "ragged string",
        "texts2": "ragged string of 2 levels",
        "set": "ragged int32",
        "set_texts": "ragged string",
        "map.key": "ragged int32",
        "map.value": "ragged float32",
        "map_texts.key": "ragged string",
        "map_texts.value": "ragged string",
        "map_lists.key": "ragged string",
        "map_lists.value": "ragged float64 of 2 levels",
    }


def test_containers_of_no_rows(tmp_path, monkeypatch):
    """Types are told without any data."""
    pretend(monkeypatch, {name: objects(model) for name, (model, _, _) in VALUES.items()})
    path = write_tree(tmp_path / "a.root", [], types=dict.fromkeys(VALUES, "var * uint8"))
    run(path, tmp_path / "o.mm")
    ds = mm.open(tmp_path / "o.mm")
    assert len(ds) == 0
    assert {n for name in VALUES for n in expected(name, [])} <= set(ds.fields)
    assert ds.schema["map_lists.value"].describe() == "ragged float64 of 2 levels"


P3 = [("fX", F8), ("fY", F8), ("fZ", F8)]


def model(name):
    return type(f"Model_{name}", (uproot.model.Model,), {})


P4 = AsStridedObjects(
    model("TLorentzVector"),
    [
        ("@num_bytes", I4),
        ("@fBits", I4),
        ("fP", AsStridedObjects(model("TVector3"), [("@fBits", I4), *P3])),
        ("fE", F8),
    ],
)
P4_NAMES = ("p.fP.fX", "p.fP.fY", "p.fP.fZ", "p.fE")


def lorentz(values):
    return b"".join(struct.pack(">iiidddd", 7, 7, 7, *v) for v in values)


def lorentz_rows(n, seed=1):
    rng = np.random.default_rng(seed)
    return [[tuple(rng.normal(size=4)) for _ in range(k)] for k in rng.integers(0, 4, n)]


def lorentz_file(path, monkeypatch, n=60):
    rows = lorentz_rows(n)
    raw = [bytes(10) + lorentz(row) for row in rows]
    more = {"met": np.arange(n, dtype="f4")}
    return rows, write_raw(path, monkeypatch, {"p": (uproot.AsJagged(P4, header_bytes=10), raw)}, baskets=6, **more)


def calls_of_read(monkeypatch):
    calls = []
    original = Branch.read

    def read(self, start, stop, wanted):
        calls.append((self.name, start, stop, [f.name for f in wanted]))
        return original(self, start, stop, wanted)

    monkeypatch.setattr(Branch, "read", read)
    return calls


def test_lorentz_vectors_are_read_once(tmp_path, monkeypatch, baskets):
    rows, path = lorentz_file(tmp_path / "a.root", monkeypatch)
    monkeypatch.setattr(reader, "RUN_NBYTES", 1)
    calls = calls_of_read(monkeypatch)
    run(path, tmp_path / "o.mm", exclude="np")
    ds = mm.open(tmp_path / "o.mm")
    assert ds.fields == (*P4_NAMES, "met")
    for i, name in enumerate(P4_NAMES):
        assert plain(ds, name) == [[v[i] for v in row] for row in rows]
    of_p = [c for c in calls if c[0] == "p"]
    assert [c[1:3] for c in of_p] == [(k, k + 10) for k in range(0, 60, 10)]
    assert all(c[3] == list(P4_NAMES) for c in of_p)
    assert sorted(b for _, name, b in baskets if name == "p") == list(range(6))


def test_members_are_chosen_by_name(tmp_path, monkeypatch):
    _, path = lorentz_file(tmp_path / "a.root", monkeypatch)

    def names(**kwargs):
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}.mm"
        run(path, out, **kwargs)
        return list(mm.open(out).fields)

    assert names(fields="p") == list(P4_NAMES)
    assert names(fields=["p.fE", "met"]) == ["p.fE", "met"]
    assert names(fields=["p.fP.*"], exclude="*.fY") == ["p.fP.fX", "p.fP.fZ"]
    assert names(exclude=["p", "np"]) == ["met"]
    assert names(fields=["met"], cut="any(`p.fE` > 0)") == ["met"]
    with pytest.raises(FieldNotFoundError, match="did you mean 'p.fE'"):
        names(fields="p.fEE")
    with pytest.raises(SchemaError, match="'p', which an expression names, cannot be read: it is an object.*p.fP.fX"):
        names(cut="p > 1")
    with pytest.raises(SchemaError, match="the alias 'p.fE' is also a field"):
        names(fields="met", aliases={"p.fE": "met"})


def test_cuts_read_some_members_first(tmp_path, monkeypatch):
    """A cut on one member, and another that is only kept: each reads what it needs, rows fit together."""
    rows, path = lorentz_file(tmp_path / "a.root", monkeypatch)
    run(path, tmp_path / "o.mm", fields=["p", "met"], cut="any(`p.fE` > 0.5) and met < 40")
    keep = [i for i, row in enumerate(rows) if any(v[3] > 0.5 for v in row) and i < 40]
    ds = mm.open(tmp_path / "o.mm")
    assert plain(ds, "met") == keep
    for i, name in enumerate(P4_NAMES):
        assert plain(ds, name) == [[v[i] for v in rows[k]] for k in keep]


def test_one_member_that_cannot_be_read_loses_all_and_no_more(tmp_path, monkeypatch):
    _, path = lorentz_file(tmp_path / "a.root", monkeypatch)
    original = uproot.TBranch.array

    def array(self, *args, **kwargs):
        if self.name == "p" and kwargs["entry_start"] >= 30:
            raise ValueError("odd bytes")
        return original(self, *args, **kwargs)

    monkeypatch.setattr(uproot.TBranch, "array", array)
    monkeypatch.setattr(reader, "RUN_NBYTES", 1)
    with pytest.warns(SkippedFieldsWarning, match=r"data of 4 fields cannot be read.*'p.fP.fX' in .*odd bytes"):
        run(path, tmp_path / "o.mm", exclude="np")
    assert mm.open(tmp_path / "o.mm").fields == ("met",)
    with pytest.raises(SourceError, match=r"field 'p\.\w+(\.\w+)?' cannot be read.*odd bytes"):
        run(path, tmp_path / "p.mm", fields=["met", "p"])


@pytest.mark.parametrize("ragged", [False, True])
def test_leaf_lists(tmp_path, monkeypatch, ragged):
    """Of members that are numbers, bools of any byte and arrays, which uproot has no awkward form of."""
    dtype = np.dtype([("a", ">f4"), ("b", ">i8", (2,)), ("ok", "?")])
    rng = np.random.default_rng(3)
    counts = rng.integers(0, 4, 30) if ragged else np.ones(30, int)
    struct_rows = [np.frombuffer(rng.bytes(k * dtype.itemsize), dtype) for k in counts]
    content = uproot.AsDtype(dtype)
    header = bytes(10) * ragged
    raw = [header + row.tobytes() for row in struct_rows]
    asked = uproot.AsJagged(content, header_bytes=10) if ragged else content
    path = write_raw(tmp_path / "a.root", monkeypatch, {"s": (asked, raw)})
    monkeypatch.setattr(reader, "RUN_NBYTES", 100)
    run(path, tmp_path / "o.mm", exclude="ns")
    got = read_store(tmp_path / "o.mm")
    assert list(got) == ["s.a", "s.b", "s.ok"]
    for name, array in got.items():
        values = np.concatenate([row[name[2:]] for row in struct_rows])
        values = values.view("u1") != 0 if name == "s.ok" else values.astype(values.dtype.newbyteorder("="))
        assert_same_bits(array, ak.unflatten(values, counts) if ragged else values, name)


@pytest.mark.parametrize("kind", [uproot.AsDouble32, uproot.AsFloat16])
@pytest.mark.parametrize("limits", [(-2.0, 10.0, 20), (0.0, 0.0, 12)])
@pytest.mark.parametrize("dims", [(), (3,), (2, 2)])
def test_truncated_numbers_in_lists(tmp_path, monkeypatch, kind, limits, dims):
    """As each number alone is decoded; uproot 5.7.7 misreads lists of arrays of them."""
    rng = np.random.default_rng(5)
    one = kind(*limits)
    per_item = int(np.prod(dims)) * one.from_dtype.itemsize
    counts = rng.integers(0, 4, 30)
    raw = [rng.bytes(k * per_item) for k in counts]
    if limits[0] == 0:  # exponents of numbers that are no nan, and mantissas
        raw = [bytes(b % 120 if i % 3 == 0 else b for i, b in enumerate(row)) for row in raw]
    interpretation = uproot.AsJagged(kind(*limits, to_dims=dims), header_bytes=3)
    path = write_raw(tmp_path / "a.root", monkeypatch, {"x": (interpretation, [b"abc" + row for row in raw])})
    run(path, tmp_path / "o.mm", exclude="nx")
    got = read_store(tmp_path / "o.mm")["x"]
    flat = np.frombuffer(b"".join(raw), one.from_dtype)
    wanted = decoded(flat, "f8" if kind is uproot.AsDouble32 else "f4", *limits)
    assert_same_bits(got, ak.unflatten(wanted.reshape(-1, *dims), counts))
    assert mm.open(tmp_path / "o.mm").schema["x"].shape == dims


def decoded(flat, dtype, low, high, bits):
    if low == high == 0:
        mantissa = flat["mantissa"].astype(int)
        sign = np.where(mantissa >> (bits + 1) & 1, -1.0, 1.0)
        # the bits of the mantissa and the one above it stand below the exponent
        whole = (flat["exponent"].astype("u4") << 23) | ((mantissa & (2 ** (bits + 1) - 1)) << (23 - bits)).astype("u4")
        return (whole.view("f4") * sign).astype(dtype)
    return flat.astype(dtype) * ((high - low) / 2**bits) + low


def test_types_that_have_no_form(tmp_path, monkeypatch):
    class Odd(AsVector):
        def awkward_form(self, *args, **kwargs):
            raise uproot.interpretation.objects.CannotBeAwkward("it holds itself")

    rows = {"odd": (objects(Odd(True, I4)), [b"\0"] * 6)}
    path = write_raw(tmp_path / "a.root", monkeypatch, rows, met=np.arange(6))
    with pytest.warns(SkippedFieldsWarning, match=r"'odd': type .* has no form that could be stored .*it holds itself"):
        run(path, tmp_path / "o.mm", exclude="nodd")
    assert mm.open(tmp_path / "o.mm").fields == ("met",)
    with pytest.raises(SchemaError, match="'odd' cannot be converted: type .* has no form"):
        run(path, tmp_path / "p.mm", fields="odd")


def test_a_member_called_like_a_branch(tmp_path, monkeypatch):
    """The branch has the name, wherever it stands, and whether it is asked for alone or not."""
    raw = {"p": (uproot.AsJagged(P4), [lorentz(row) for row in lorentz_rows(6)])}
    path = write_raw(tmp_path / "a.root", monkeypatch, raw, **{"p.fE": np.arange(6)})
    with pytest.warns(SkippedFieldsWarning, match=r"1 field left out.*'p\.fE': a second branch of this name"):
        run(path, tmp_path / "o.mm", exclude="np")
    ds = mm.open(tmp_path / "o.mm")
    assert ds.fields == P4_NAMES
    assert plain(ds, "p.fE") == list(range(6))
    run(path, tmp_path / "p.mm", fields="p.fE")
    assert plain(mm.open(tmp_path / "p.mm"), "p.fE") == list(range(6))


def test_members_that_have_no_field(tmp_path, monkeypatch):
    """They are named with the reason; the others are converted. Of what has none at all the reasons are given."""

    class Pair(AsVector):
        """Its second member is said to be of several types."""

        def awkward_form(self, *args, **kwargs):
            form = super().awkward_form(*args, **kwargs)
            union = ak.Array([1, "a"]).layout.form
            return ak.forms.RecordForm([form, union][1 - self.first :], ["good", "bad"][1 - self.first :])

    columns = {}
    for first in (True, False):
        kind = Pair(True, I4)
        kind.first = first
        branch = SimpleNamespace(file=None, num_entries=3, entry_offsets=[0, 3], typename="pair")
        branch.interpretation = AsObjects(kind, SimpleNamespace(file=None))
        branch.uncompressed_bytes = 100
        columns[first] = column_of("p", branch, 3)
    assert [f.describe() for f in columns[True].fields] == ["ragged int32"]
    assert columns[True].skipped == (("p.bad", "its values are of several types: int64, string"),)
    assert columns[False] == "p.bad: its values are of several types: int64, string"


def test_branches_of_odd_shape(tmp_path):
    path = write_tree(tmp_path / "a.root", [{"x": np.arange(3.0)}])
    with uproot.open({path: None}) as file:
        branch = file["events"]["x"]
        assert column_of("x", branch, 4) == "it has 3 entries, the tree has 4"
        about = {"file": branch.file, "interpretation": branch.interpretation, "num_entries": 3}
        about |= {"uncompressed_bytes": 24, "member": lambda *args, **kwargs: 1 / 0}
        assert column_of("x", SimpleNamespace(**about, entry_offsets=[0, 3, 2]), 3) == "its baskets are not in order"
        column = column_of("x", SimpleNamespace(**about, entry_offsets=[0, 3]), 3)
        with pytest.raises(UnreadableError, match="damaged.*ZeroDivisionError"):
            column.ends(0, 3, 10, column.fields)
        assert column_of("x", None, 3).startswith("its type cannot be told (uproot: AttributeError")


def test_types_that_cannot_be_told(tmp_path, monkeypatch):
    """Descriptions of classes that are damaged come out of uproot as any exception, whatever is asked for first."""

    def broken(self):
        raise ValueError("computed checksum")

    path = write_tree(tmp_path / "a.root", [{"x": np.arange(3.0), "y": np.arange(3.0)}])
    for name in ("typename", "interpretation"):
        original = getattr(uproot.TBranch, name).fget
        some = property(lambda self, original=original: broken(self) if self.name == "x" else original(self))
        with monkeypatch.context() as m:
            m.setattr(uproot.TBranch, name, some)
            if name == "interpretation":
                with pytest.warns(SkippedFieldsWarning, match=r"'x': its type cannot be told .*computed checksum"):
                    run(path, tmp_path / name)
            else:
                run(path, tmp_path / name)
        assert "y" in mm.open(tmp_path / name).fields


def test_bytes_of_fields(tmp_path, monkeypatch):
    """Exact where each row has the same, and near where not: runs, parts and progress go by them."""
    rows, path = lorentz_file(tmp_path / "a.root", monkeypatch)
    with uproot.open({path: None}) as file:
        tree = Branches(file["events"], "events")
        assert tree.columns["met"].nbytes == (60 * 4,)
        items = sum(map(len, rows))
        for nbytes in tree.columns["p"].nbytes:
            assert abs(nbytes - 8 * (items + 60)) < 0.2 * nbytes


def test_memory_of_nested_lists(tmp_path, monkeypatch):
    """16 MB of lists of lists in 32 baskets, in runs of one: one of them is in memory, not the branch."""
    row = object_of(vector(vector(numbers(F4))))([[float(i) for i in range(100)]] * 10)
    data = np.frombuffer(row * 125, "u1")
    chunk = {"x": ak.unflatten(data[: 125 * len(row)], np.full(125, len(row)))}
    pretend(monkeypatch, {"x": objects(AsVector(True, AsVector(False, F4)))})
    for name, n in (("warm", 1), ("a", 32)):
        path = write_tree(tmp_path / f"{name}.root", [chunk] * n, types={"x": "var * uint8"}, compression=None)
        monkeypatch.setattr(reader, "RUN_NBYTES", 1 << 20)
        tracemalloc.start()
        try:
            run(path, tmp_path / f"{name}.mm", exclude="nx")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert len(mm.open(tmp_path / "a.mm")) == 4000
    assert peak < 8 << 20
