"""What every public method and attribute of the lazy classes reads: when it is called, and when its result is computed.

The tables have a row for each of them, and a test fails for one that is in no row. Bytes are those of all plain reads,
so offsets and validity count, too; rows are counted by `mmdask.testing.count_reads`.
"""

from __future__ import annotations

import copy
import importlib.util
import pickle
import shutil
from types import SimpleNamespace
from typing import Any, NamedTuple

import awkward as ak
import dask
import numpy as np
import pytest
from dask.base import tokenize

import mmdask as mm
from mmdask.dataset.cuts.cut import Cut
from mmdask.dataset.dataset import Dataset
from mmdask.dataset.lists.ragged import Ragged
from mmdask.dataset.lists.records import Records
from mmdask.rows.cuts import masks
from mmdask.rows.rows import RESOLVED
from mmdask.store.arrays import held as arrays
from mmdask.testing import count_reads, max_computes

DATAFRAMES = [found for found in [importlib.util.find_spec("pyarrow")] if found]  # dask.dataframe needs it
N = 1000
X = np.random.default_rng(0).permutation(N)  # so that nothing is ruled out by smallest and largest values
COUNTS = X % 4
ITEMS = int(COUNTS.sum())
ALL = {"x": N}
JETS = {"jet_pt": N}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    path = tmp_path_factory.mktemp("laziness") / "s.mm"
    images = [np.full((2, 1 + i % 3), i, "i2") for i in range(N)]
    schema = [
        mm.Field.dense("x", "i8"),
        mm.Field.dense("w", "f8"),
        mm.Field.category("process", ["ttH", "ttbb"]),
        mm.Field.ragged("jet_pt", "f4"),
        mm.Field.ragged("jet_ok", "?"),
        mm.Field.string("name"),
        mm.Field.shaped("image", "i2", 2),
    ]
    with mm.create(path, fields=schema, attrs={"year": 2018}, aux={"edges": np.arange(4)}) as w:
        for a, b in ((0, 600), (600, N)):
            jets = ak.unflatten(np.repeat(X, COUNTS)[COUNTS[:a].sum() : COUNTS[:b].sum()].astype("f4"), COUNTS[a:b])
            w.extend(
                {
                    "x": X[a:b],
                    "w": np.ones(b - a),
                    "process": ["ttH" if i % 2 else "ttbb" for i in range(a, b)],
                    "jet_pt": jets,
                    "jet_ok": jets > 100,
                    "name": [f"n{i}" for i in range(a, b)],
                    "image": images[a:b],
                }
            )
            w.checkpoint()
    return path


@pytest.fixture
def env(stored, tmp_path, monkeypatch):
    """A store of which nothing is known yet, read plainly, and the bytes that are read of it."""
    monkeypatch.setattr(arrays, "SMALL_NBYTES", -1)
    bytes_read = []
    original = arrays.read_into

    def counting(fd, out, offset):
        bytes_read.append(out.nbytes)
        return original(fd, out, offset)

    monkeypatch.setattr(arrays, "read_into", counting)
    for cache in (RESOLVED, masks.LOADED, arrays.SMALL, arrays.DESCRIPTORS):
        cache.clear()
    path = shutil.copytree(stored, tmp_path / "s.mm")
    ds = mm.open(path, chunks=128, io="pread")
    cut = ds.cut("x >= 900")
    return SimpleNamespace(
        ds=ds,
        cut=cut,
        sel=ds[cut],
        split=ds.split({"a": 0.5, "b": 0.5}, by="x")["a"],
        pt=ds["jet_pt"],
        twice=ds["jet_pt"] * 2,
        jets=ds.zip("jet"),
        out=tmp_path / "out.mm",
        bytes=bytes_read,
    )


class Row(NamedTuple):
    """What is called; rows of each field that this reads, in how many computes; and what computing the result reads.

    `offsets`: whether making it reads offsets.
    """

    make: Any
    reads: dict[str, int] | None = None
    computes: int = 0
    then: dict[str, int] | None = None
    offsets: bool = False


def now(make, reads=None, computes=0):
    """What is done at once; `reads` None stands for nothing."""
    return Row(make, reads or {}, computes)


def later(make, reads, *, offsets=False):
    """What is read when the result is computed."""
    return Row(make, {}, 0, reads, offsets)


DATASET = {
    "assign": [
        later(lambda e: e.ds.assign(ht="sum(jet_pt)")["ht"], JETS),
        later(lambda e: e.ds.assign(half=e.ds["x"] / 2)["half"], ALL),
        later(lambda e: e.ds.assign(hard=e.cut)["hard"], ALL),
    ],
    "attrs": [now(lambda e: e.ds.attrs["year"])],
    "aux": [now(lambda e: [e.ds.aux, list(e.ds.aux), repr(e.ds.aux)])],
    "batches": [
        now(lambda e: e.ds.batches(10, fields=["x"])),
        now(lambda e: next(iter(e.ds.batches(10, fields=["x"], shuffle=False)))["x"], "some"),
        now(lambda e: e.sel.batches(10, fields=["x"]), ALL, 1),
        now(lambda e: e.ds.batches(10, fields=["x"], weights="w"), {"w": N}, 1),
    ],
    "chunks": [now(lambda e: e.ds.chunks), now(lambda e: e.sel.chunks, ALL, 1), now(lambda e: e.ds[10:20].chunks)],
    "cut": [
        now(lambda e: e.ds.cut("any(jet_pt > 3)")),
        now(lambda e: e.ds.cut(e.cut)),
        now(lambda e: e.ds.cut(lambda block: block["x"] > 3, key="k", fields="x")),
        now(lambda e: e.ds.cut(e.ds["x"] > 3, key="a")),
    ],
    "cutflow": [now(lambda e: e.ds.cutflow(["x > 10"]), ALL, 2)],
    "cuts": [now(lambda e: repr(e.ds.cuts))],
    "describe": [now(lambda e: e.ds.describe("x"), ALL, 1)],
    "explain": [now(lambda e: repr(e.ds.explain("any(jet_pt > 3)"))), now(lambda e: e.ds.explain(e.cut))],
    "explode": [
        later(lambda e: e.ds.explode("jet")["jet_pt"], {"jet_pt": ITEMS}),
        later(lambda e: e.ds.explode("jet")["x"], {"x": ITEMS}),
        now(lambda e: [len(e.ds.explode("jet")), e.sel.explode("jet")]),
    ],
    "fields": [now(lambda e: e.ds.fields)],
    "generation": [now(lambda e: e.ds.generation)],
    "get": [later(lambda e: e.ds.get("x"), ALL), now(lambda e: e.ds.get("no"))],
    "hist": [now(lambda e: e.ds.hist("x", bins=(4, 0, N)), ALL, 1)],
    "history": [now(lambda e: repr(e.ds.history()))],
    "items": [later(lambda e: dict(e.ds.items())["x"], ALL)],
    "keys": [now(lambda e: list(e.ds.keys()))],
    "kfold": [
        now(lambda e: [e.ds.kfold(3, by="x"), repr(e.ds.kfold(3, how="permutation")), e.ds.kfold(3).train(0)]),
        later(lambda e: e.ds.kfold(3, by="x").of(e.ds), ALL),
        later(lambda e: e.ds.kfold(3, how="permutation").of(e.ds[10:20]), {}),
    ],
    "loc": [now(lambda e: e.ds.loc), now(lambda e: e.ds[["x"]].loc["x", 5], "some", 1)],
    "memmap": [now(lambda e: mm.open(e.ds.path)[:600].memmap("x"))],
    "nbytes": [now(lambda e: e.ds.nbytes)],
    "normalisation": [now(lambda e: e.ds.normalisation("x"), ALL, 1)],
    "path": [now(lambda e: e.ds.path)],
    "refresh": [now(lambda e: e.ds.refresh()), now(lambda e: e.sel.refresh())],
    "rename": [later(lambda e: e.ds.rename(x="y")["y"], {"y": N}), now(lambda e: e.sel.rename(x="y"))],
    "sample": [now(lambda e: e.ds.sample(5))],
    "save": [now(lambda e: e.ds.save(e.out, fields="x", progress=False), ALL)],
    "schema": [now(lambda e: e.ds.schema)],
    "sources": [now(lambda e: e.ds.sources)],
    "split": [
        now(lambda e: [e.split, repr(e.split)]),
        now(lambda e: e.ds.split({"a": 1, "b": 1}, by="x", how="mod")),
        now(lambda e: e.ds.split({"a": 0.5, "b": 0.5}, how="permutation", stratify="process")),
    ],
    "to_awkward": [now(lambda e: e.ds[10:20].to_awkward(["x", "jet_pt"]), {"x": 10, "jet_pt": 10}, 1)],
    "to_dataframe": [
        now(lambda e: e.ds[10:20].to_dataframe(["x"]), {"x": 10}),
        *[later(lambda e: e.ds[10:20].to_dataframe(["x"], lazy=True), {"x": 10}) for _ in DATAFRAMES],
    ],
    "to_root": [
        now(lambda e: e.ds.to_root(e.out, fields=["x", "jet_*"], progress=False), {**ALL, "jet_pt": N, "jet_ok": N})
    ],
    "to_xarray": [later(lambda e: e.ds[10:20].to_xarray("x"), {"x": 10})],
    "values": [later(lambda e: next(iter(e.ds.values())), ALL)],
    "zip": [later(lambda e: e.ds.zip("jet"), {"jet_pt": N, "jet_ok": N})],
    **{name: [] for name in ("__array__", "__dlpack__", "__dlpack_device__")},  # errors
    "__getattr__": [now(lambda e: hasattr(e.ds, "shape"))],
    "__contains__": [now(lambda e: "x" in e.ds)],
    "__eq__": [now(lambda e: [e.ds == e.ds, e.ds == e.sel])],
    "__getitem__": [
        later(lambda e: e.ds["x"], ALL),
        later(lambda e: e.ds["process"], {"process": N}),
        later(lambda e: e.ds["jet_pt"], JETS),
        later(lambda e: e.ds["name"], {"name": N}),
        later(lambda e: e.ds["image"], {"image": N}),
        later(lambda e: e.ds[10:20]["x"], {"x": 10}),
        later(lambda e: e.ds[10:500:100]["x"], {"x": 5}),
        later(lambda e: e.ds[["x", "jet_*"]]["x"], ALL),
        now(lambda e: e.ds[e.cut]),
        now(lambda e: e.ds[e.cut][e.ds.cut("x < 950")]),
        now(lambda e: e.sel["x"], ALL, 1),
        now(lambda e: e.sel[:10], ALL, 1),
        now(lambda e: e.ds[["x"]][17], {"x": 1}),
        now(lambda e: e.ds[["x", "jet_pt"]][[5, 3, 3]], {"x": 3, "jet_pt": 3}),
    ],
    "__hash__": [now(lambda e: hash(e.ds))],
    "__iter__": [now(lambda e: list(e.ds))],
    "__len__": [now(lambda e: len(e.ds)), now(lambda e: len(e.ds[10:20])), now(lambda e: len(e.sel), ALL, 1)],
    "__reduce__": [now(lambda e: pickle.loads(pickle.dumps([e.ds, e.sel, e.split])))],
    "__repr__": [now(lambda e: [repr(e.ds), repr(e.sel), repr(e.split)])],
    "_repr_html_": [now(lambda e: [e.ds._repr_html_(), e.sel._repr_html_()])],
    "_ipython_key_completions_": [now(lambda e: e.sel._ipython_key_completions_())],
}

RAGGED = {
    "__awkward_function__": [],
    "astype": [later(lambda e: e.pt.astype("f8"), JETS)],
    "blocks": [later(lambda e: e.pt.blocks[1], {"jet_pt": 128}), later(lambda e: e.twice.blocks[1], {"jet_pt": 128})],
    "chunks": [now(lambda e: e.pt.chunks)],
    "compute": [now(lambda e: e.pt.compute(), JETS, 1), now(lambda e: e.pt[5:9].compute(), {"jet_pt": 4}, 1)],
    "count": [later(lambda e: e.ds["jet_ok"].count(), {"jet_ok": N})],
    "counts": [later(lambda e: e.pt.counts, {}), later(lambda e: e.twice.counts, {})],
    "crop": [later(lambda e: e.pt.crop(2), JETS)],
    "dtype": [now(lambda e: e.pt.dtype)],
    "field": [now(lambda e: e.pt.field)],
    "map": [later(lambda e: e.pt.map(ak.sort), JETS)],
    "n_chunks": [now(lambda e: e.pt.n_chunks)],
    "offsets": [later(lambda e: e.pt.offsets, {})],
    "pad": [later(lambda e: e.pt.pad(3), JETS), later(lambda e: e.ds["image"].pad((2, 2), mask=True)[0], {"image": N})],
    "persist": [now(lambda e: e.pt.persist(), JETS, 1)],
    "shapes": [later(lambda e: e.ds["image"].shapes, {})],
    "to_awkward": [now(lambda e: e.pt[:7].to_awkward(), {"jet_pt": 7}, 1)],
    "to_delayed": [later(lambda e: e.pt.to_delayed()[0], {"jet_pt": 128})],
    "to_list": [now(lambda e: e.ds["name"][:7].to_list(), {"name": 7}, 1)],
    "valid": [later(lambda e: e.pt.valid, {})],
    "values": [
        later(lambda e: e.pt.values, JETS, offsets=True),
        later(lambda e: e.twice.values, JETS, offsets=True),
        now(lambda e: e.pt[e.pt > 10].values, JETS, 1),
    ],
    "visualize": [],  # dask's; it draws the graph
    "__contains__": [],  # an error
    "__array__": [],
    "__getattr__": [now(lambda e: [hasattr(e.pt, "shape"), hasattr(e.twice, "ndim")])],
    "__array_function__": [],
    "__bool__": [],
    "__array_ufunc__": [later(lambda e: np.sqrt(e.pt), JETS), later(lambda e: e.pt * e.ds["x"], JETS | ALL)],
    "__dask_graph__": [now(lambda e: [dict(e.pt.__dask_graph__()), dict(e.twice.__dask_graph__())])],
    "__dask_keys__": [now(lambda e: e.pt.__dask_keys__())],
    "__dask_optimize__": [now(lambda e: dask.optimize(e.pt, e.twice))],
    "__dask_postcompute__": [now(lambda e: e.pt.__dask_postcompute__())],
    "__dask_postpersist__": [now(lambda e: e.pt.__dask_postpersist__())],
    "__dask_scheduler__": [now(lambda e: e.pt.__dask_scheduler__)],
    "__dask_tokenize__": [now(lambda e: tokenize(e.pt, e.twice))],
    "__getitem__": [
        later(lambda e: e.pt[10:20], {"jet_pt": 10}),
        later(lambda e: e.twice[10:20], {"jet_pt": 10}),
        later(lambda e: e.twice[10:20:3], {"jet_pt": 4}),
        later(lambda e: e.pt[:, 0], JETS),
        later(lambda e: e.pt[10:20, :2], {"jet_pt": 10}),
        later(lambda e: e.pt[e.pt > 5], JETS),
        now(lambda e: e.pt[17], {"jet_pt": 1}),
        now(lambda e: e.ds["name"][17], {"name": 1}),
        now(lambda e: e.ds["image"][17][:1], {"image": 1}),
        now(lambda e: e.twice[17], {"jet_pt": 1}),
    ],
    "__hash__": [now(lambda e: hash(e.pt))],
    "__iter__": [now(lambda e: next(iter(e.pt)), JETS), now(lambda e: list(e.ds["name"][:9]), {"name": 9})],
    "__len__": [now(lambda e: [len(e.pt), len(e.twice)])],
    "__reduce__": [now(lambda e: pickle.loads(pickle.dumps([e.pt, e.twice, e.pt[e.pt > 3]])))],
    "__repr__": [now(lambda e: [repr(e.pt), repr(e.twice), repr(e.pt[e.pt > 3])])],
    "_repr_html_": [now(lambda e: [e.pt._repr_html_(), e.twice._repr_html_()])],
    "operators": [later(lambda e: -abs(e.pt + 1) > 3, JETS), later(lambda e: round(2 - e.twice, 1), JETS)],
    "reductions": [
        later(lambda e, name=name: getattr(e.pt, name)(), JETS)
        for name in ["sum", "any", "all", "mean", "std", "min", "max", "first", "last", "argmin", "argmax"]
    ],
}
#: methods that do the same in another way
SAME = {
    "reductions": ["sum", "any", "all", "mean", "std", "min", "max", "first", "last", "argmin", "argmax"],
    "operators": [
        *(
            f"__{r}{op}__"
            for op in ["add", "and", "floordiv", "lshift", "mod", "mul", "or", "pow", "rshift", "sub", "truediv", "xor"]
            for r in ("", "r")
        ),
        *(f"__{op}__" for op in ["eq", "ne", "ge", "gt", "le", "lt", "abs", "invert", "neg", "pos", "round"]),
    ],
}

RECORDS = {
    **{name: [] for name in ("visualize", "__awkward_function__", "__bool__")},
    "blocks": [later(lambda e: e.jets.blocks[1], {"jet_pt": 128, "jet_ok": 128})],
    "chunks": [now(lambda e: e.jets.chunks)],
    "compute": [now(lambda e: e.jets[:7].compute(), {"jet_pt": 7, "jet_ok": 7}, 1)],
    "fields": [now(lambda e: e.jets.fields)],
    "map": [later(lambda e: e.jets.map(lambda jets: ak.num(jets)), {"jet_pt": N, "jet_ok": N})],
    "n_chunks": [now(lambda e: e.jets.n_chunks)],
    "persist": [now(lambda e: e.jets.persist(), {"jet_pt": N, "jet_ok": N}, 1)],
    "to_awkward": [now(lambda e: e.jets[:7].to_awkward(), {"jet_pt": 7, "jet_ok": 7}, 1)],
    "to_delayed": [later(lambda e: e.jets.to_delayed()[0], {"jet_pt": 128, "jet_ok": 128})],
    "to_list": [now(lambda e: e.jets[:7].to_list(), {"jet_pt": 7, "jet_ok": 7}, 1)],
    "__dask_graph__": [now(lambda e: dict(e.jets.__dask_graph__()))],
    "__dask_keys__": [now(lambda e: e.jets.__dask_keys__())],
    "__dask_optimize__": [now(lambda e: dask.optimize(e.jets))],
    "__dask_postcompute__": [now(lambda e: e.jets.__dask_postcompute__())],
    "__dask_postpersist__": [now(lambda e: e.jets.__dask_postpersist__())],
    "__dask_scheduler__": [now(lambda e: e.jets.__dask_scheduler__)],
    "__dask_tokenize__": [now(lambda e: tokenize(e.jets))],
    "__getattr__": [later(lambda e: e.jets.pt, JETS), now(lambda e: hasattr(e.jets, "no"))],
    "__getitem__": [
        later(lambda e: e.jets["pt"], JETS),
        later(lambda e: e.jets[10:20], {"jet_pt": 10, "jet_ok": 10}),
        later(lambda e: e.jets[e.jets.ok], {"jet_pt": N, "jet_ok": N}),
        later(lambda e: e.jets[:, :1], {"jet_pt": N, "jet_ok": N}),
    ],
    "__len__": [now(lambda e: len(e.jets))],
    "__reduce__": [now(lambda e: pickle.loads(pickle.dumps(e.jets)))],
    "__repr__": [now(lambda e: repr(e.jets))],
    "_repr_html_": [now(lambda e: e.jets._repr_html_())],
    "_ipython_key_completions_": [now(lambda e: e.jets._ipython_key_completions_())],
    "__dir__": [now(lambda e: dir(e.jets))],
    "__iter__": [now(lambda e: next(iter(e.jets)), {"jet_pt": N, "jet_ok": N})],
}

CUT = {
    **{name: [] for name in ("__array__", "__bool__", "__len__", "__ge__", "__gt__", "__le__", "__lt__")},
    "count": [
        now(lambda e: e.cut.count(), ALL, 1),
        now(lambda e: [e.cut.count(), e.ds.cut("x >= 900").count()], ALL, 1),
    ],
    "expression": [now(lambda e: e.cut.expression)],
    "fields": [now(lambda e: e.cut.fields)],
    "keep": [now(lambda e: e.cut.keep(), ALL, 1)],
    "mask": [later(lambda e: e.cut.mask, ALL), later(lambda e: e.cut.mask[10:20], {"x": 10})],
    "__and__": [now(lambda e: e.cut & e.ds.cut("w > 0"))],
    "__or__": [now(lambda e: e.cut | e.ds.cut("w > 0"))],
    "__invert__": [now(lambda e: ~e.cut)],
    "__repr__": [now(lambda e: repr(e.cut))],
    "_repr_html_": [now(lambda e: e.cut._repr_html_())],
}

TABLES = {Dataset: DATASET, Ragged: RAGGED, Records: RECORDS, Cut: CUT}
#: what Python gives to every class
COMMON = {"__init__", "__doc__", "__module__", "__dict__", "__weakref__", "__annotations__", "__abstractmethods__"}
COMMON |= {"__orig_bases__", "__slots__", "__class_getitem__", "__parameters__", "__static_attributes__"}
COMMON |= {"__firstlineno__", "__hash__", "__slotnames__"}  # the last is set where one was pickled or copied


def public(cls):
    """Names without an underscore, and what is special and made here."""
    ours = {name for c in cls.__mro__ if c.__module__.startswith("mmdask") for name in vars(c)}
    special = {name for name in ours if name.startswith(("__", "_repr_", "_ipython_")) and name.endswith("_")}
    return {name for name in dir(cls) if not name.startswith("_")} | special - COMMON


@pytest.mark.parametrize("cls", TABLES, ids=lambda cls: cls.__name__)
def test_every_public_name_has_a_row(cls):
    rows = set(TABLES[cls]) | {name for group in SAME.values() for name in group if cls is Ragged}
    without = public(cls) - rows
    assert not without, "give each of them a row"


CASES = [
    pytest.param(row, id=f"{cls.__name__}-{name}-{i}")
    for cls, table in TABLES.items()
    for name, rows in table.items()
    if name in public(cls) or name in SAME
    for i, row in enumerate(rows)
]


@pytest.mark.parametrize("row", CASES)
def test_what_is_read(env, row):
    env.bytes.clear()
    with max_computes(row.computes) as computes, count_reads() as reads:
        result = row.make(env)
    assert computes.count == row.computes
    if row.reads == "some":
        assert 0 < reads.n_rows <= 2 * N
    else:
        assert reads.rows == row.reads
    if not row.reads and not row.offsets:
        assert not env.bytes
    if row.then is None:
        return
    with max_computes(1), count_reads() as reads:
        dask.compute(result)
    assert reads.rows == row.then


# What others do with them -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["ds", "sel", "split", "cut", "pt", "twice", "jets"])
def test_looking_copying_and_comparing_read_nothing(env, what):
    x = getattr(env, what)
    with max_computes(0), count_reads() as reads:
        for again in (copy.copy(x), copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
            assert type(again) is type(x)
            assert repr(again) == repr(x)
        x == again, x != again
        dir(x), vars(x), str(x), f"{x}"
        hasattr(x, "__len__"), callable(x), isinstance(x, str)
    assert not reads.log
    assert not env.bytes


def test_protocols_of_numpy_read_nothing(env):
    with max_computes(0), count_reads() as reads:
        for x in (env.ds["x"], env.pt.counts, env.pt.sum(), env.cut.mask, env.pt.pad(3), env.ds["image"].shapes):
            assert np.shape(x) == x.shape
            assert np.ndim(x) == x.ndim == len(x.shape)
            assert np.size(x.shape) == x.ndim
            assert len(x) == N
            np.result_type(x), np.ones_like(x, shape=2), np.isscalar(x), np.iscomplexobj(x), x.nbytes, x.T
        for x in (env.pt, env.ds["name"]):
            assert np.isscalar(x) is False
            assert len(x) == N
    assert not reads.log
    assert not env.bytes


def test_names_are_completed_by_reading_nothing(env):
    with max_computes(0), count_reads() as reads:
        assert env.sel._ipython_key_completions_() == list(env.ds.fields)
        assert env.jets._ipython_key_completions_() == ["pt", "ok"]
        assert {"pt", "ok"} <= set(dir(env.jets))
        assert {"cut", "hist", "fields"} <= set(dir(env.ds))
    assert not reads.log


def test_what_is_no_array_of_numpy_says_so_and_reads_nothing(env):
    with max_computes(0), count_reads() as reads:
        for x in (env.ds, env.sel, env.cut, env.pt, env.ds["name"]):
            for use in (np.asarray, np.array, np.sum):
                with pytest.raises((mm.OptionError, TypeError)):
                    use(x)
    assert not reads.log
