"""What new users try: what is accepted, and what errors say to do instead."""

import copy
import pickle
import warnings

import awkward as ak
import dask
import dask.array as da
import numpy as np
import pytest

import mmdask as mm

JETS = {
    "jet_pt": [[1.0, 2.0], [], [3.0]],
    "jet_eta": [[0.1, 0.2], [], [0.3]],
    "jet_phi": [[0.0, 1.0], [], [2.0]],
    "jet_mass": [[0.0, 0.5], [], [0.0]],
}


@pytest.fixture(scope="module")
def ds(tmp_path_factory):
    fields = [mm.Field.category("process")]
    rows = {**JETS, "met": [1.0, 5.0, 9.0], "w": [1, 2, 3], "name": ["a", "b", "a"], "process": ["x", "y", "x"]}
    return mm.from_arrays(rows, tmp_path_factory.mktemp("misused") / "s.mm", fields=fields)


@pytest.fixture
def refused():
    def check(call, *says, error=mm.OptionError):
        with pytest.raises(error) as caught:
            call()
        text = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", ())])
        for said in says:
            assert said in text, text

    return check


# Maps and records -----------------------------------------------------------------------------------------------------


def test_momenta_with_lists_in_them_are_mapped(tmp_path):
    hits = [[[1], [2, 3]], [], [[]]]
    some = mm.from_arrays({**JETS, "jet_hits": hits}, tmp_path / "s.mm").zip("jet")
    assert some.map(lambda v: v).compute().hits.to_list() == hits
    best = some.map(lambda v: v[ak.argsort(v.pt, ascending=False)])
    assert best.compute().hits.to_list() == [[[2, 3], [1]], [], [[]]]
    assert some.map(ak.firsts).compute().hits.to_list() == [[1], None, []]


@pytest.mark.parametrize("persisted", [False, True])
def test_what_map_makes_of_records_is_selected_as_records_are(ds, persisted):
    best = ds.zip("jet").map(lambda v: v[ak.argsort(v.pt, ascending=False)])
    best = best.persist() if persisted else best
    assert best[:, :1].compute().pt.to_list() == [[2.0], [], [3.0]]
    assert best[1:, -1:].compute().eta.to_list() == [[], [0.3]]
    assert best[1:,].compute().eta.to_list() == [[], [0.3]]
    assert best[best.pt > 1.5].compute().eta.to_list() == [[0.2], [], [0.3]]
    assert best[best.pt > 1.5][:, :1].map(lambda v: ak.num(v)).compute().tolist() == [1, 0, 1]


def test_a_condition_that_is_missing_for_an_item_makes_its_list_missing(tmp_path):
    fields = [mm.Field.ragged("jet_pt", "f8"), mm.Field.ragged("jet_ok", "?", optional=(0, 1))]
    rows = {"jet_pt": [[1.0, 2.0], [3.0], [4.0, 5.0]], "jet_ok": [[True, None], None, [True, False]]}
    some = mm.from_arrays(rows, tmp_path / "s.mm", fields=fields)
    plain = ak.Array([[{"pt": x} for x in row] for row in rows["jet_pt"]])
    made = some[["jet_pt"]].zip("jet").map(lambda v: v)
    assert made.compute().to_list() == plain.to_list()
    assert made[some["jet_ok"]].compute().pt.to_list() == some["jet_pt"][some["jet_ok"]].to_list()
    assert made[some["jet_ok"]].compute().pt.to_list() == [None, None, [4.0]]


def test_records_that_are_no_lists_have_no_items(ds, refused):
    one = ds.zip("jet").map(ak.firsts)
    refused(lambda: one[:, :1], "each row is one record", "ds.cut")
    refused(lambda: ds.zip("jet").map(lambda v: v)[:, 0], "ak.firsts")


@pytest.mark.parametrize("dtype", ["?", "i8", "u2", "f4"])
def test_what_a_map_gives_of_no_rows_has_the_dtype_of_all(ds, dtype):
    found = ds["jet_pt"].map(lambda rows: np.array([len(row) for row in rows], dtype))
    assert found.dtype == found.compute().dtype == np.dtype(dtype)
    assert found.compute().tolist() == np.array([2, 0, 1], dtype).tolist()


def test_a_map_without_a_dtype_is_an_error_and_no_float(ds, refused):
    booleans = ds["jet_pt"].map(lambda rows: np.array([len(row) > 1 for row in rows]))
    refused(booleans.compute, "float64", "of 3 rows bool", "dtype='bool'")
    refused(ds["jet_pt"].map(lambda rows: np.array([len(row) for row in rows])).compute, "dtype='int64'")
    lists = [lambda rows: [len(row) for row in rows], lambda rows: [{"n": len(row)} for row in rows]]
    for function in lists:
        refused(lambda f=function: ds["jet_pt"].map(f), "gives a list", "np.array([...], dtype=bool)")
    floats = ds["jet_pt"].map(lambda rows: np.array([sum(row) for row in rows]))
    assert floats.compute().tolist() == [3.0, 0.0, 3.0]


def test_a_function_that_fails_of_no_rows_says_so(ds, refused):
    refused(lambda: ds["jet_pt"].map(lambda rows: rows[0]), "no rows first", "map(<lambda>)", error=IndexError)


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_records_of_times_come_back_from_everywhere(tmp_path, scheduler):
    times = [np.array([1, 2], "M8[s]"), np.array([], "M8[s]")]
    some = mm.from_arrays({"jet_t": times, "jet_pt": [[1.0, 2.0], []]}, tmp_path / "s.mm").zip("jet")
    for records in (some, some[:, :2], some.map(_same)):
        found = records.compute(scheduler=scheduler)
        assert found.to_list() == [[{"t": t, "pt": pt} for t, pt in zip(times[0], [1.0, 2.0], strict=True)], []]
        assert pickle.loads(pickle.dumps(found, 5)).to_list() == found.to_list()


def _same(records):
    return records


def test_members_that_are_computed_of_momenta(ds, refused):
    jets = ds[["jet_pt", "jet_eta", "jet_phi"]].zip("jet")
    refused(lambda: jets.mass, "the members are", ".map(lambda v: v.mass)", error=AttributeError)
    refused(lambda: jets.counts, ".map(ak.num)", error=AttributeError)
    assert not hasattr(jets, "px")


def test_zip_says_what_it_takes(ds, refused):
    refused(lambda: ds.zip(["jet_pt", "jet_eta"]), "ds.zip('jet')", "ds[['jet_pt', 'jet_eta']].zip('jet')")
    refused(lambda: ds.zip("met"), "ds['met']", error=mm.FieldNotFoundError)


# Reductions and operators ---------------------------------------------------------------------------------------------


def test_the_axis_of_items_may_be_named(ds, refused):
    jets = ds["jet_pt"]
    for axis in (1, -1):
        assert jets.sum(axis=axis).compute().tolist() == [3.0, 0.0, 3.0]
        assert jets.max(axis, default=0).compute().tolist() == [2.0, 0.0, 3.0]
        assert jets.argmax(axis=axis).compute().tolist() == [1, -1, 0]
        assert (jets > 1).any(axis=axis).compute().tolist() == [True, False, True]
        assert (jets > 1).count(axis=axis).compute().tolist() == [1, 0, 1]
        assert jets.mean(axis=axis, default=0).compute().tolist() == jets.mean(default=0).compute().tolist()
    for axis in (None, 0, 2, True):
        refused(lambda axis=axis: jets.sum(axis=axis), "one value per row", "axis=1", ".values.sum()")


def test_the_axis_of_deeper_lists(tmp_path, refused):
    deep = mm.from_arrays({"x": [[[1, 2], []], []]}, tmp_path / "s.mm")["x"]
    assert deep.sum(axis=2).to_list() == deep.sum(axis=-1).to_list() == [[3, 0], []]
    refused(lambda: deep.sum(axis=1), "one value per list", "axis=2")
    fields = [mm.Field.shaped("image", "u1", axes=2)]
    shaped = mm.from_arrays({"image": [np.ones((2, 3), "u1")]}, tmp_path / "i.mm", fields=fields)["image"]
    refused(lambda: shaped.sum(axis=1), "over all axes")


@pytest.mark.parametrize("dtype", ["i8", "u8"])
def test_the_mean_of_integers_whose_sum_does_not_fit(tmp_path, dtype):
    top = np.iinfo(dtype).max
    jets = mm.from_arrays({"x": [[top, top, top], [1, 2], []]}, tmp_path / f"{dtype}.mm")["x"].astype(dtype)
    assert jets.mean(default=0).compute().tolist() == [float(top), 1.5, 0.0]
    assert jets.std(default=0).compute().tolist() == [0.0, 0.5, 0.0]
    with pytest.raises(mm.ExpressionError, match="does not fit"):
        jets.sum().compute()


def test_text_and_labels_do_not_combine(ds, refused):
    for call in (lambda: ds["jet_pt"] + ds["process"], lambda: ds["jet_pt"].map(lambda a, b: a, ds["process"])):
        refused(call, "text and labels cannot be combined", "== 'ttH'")
    chosen = ds["jet_pt"].map(lambda a, b: ak.mask(a, b), ds["process"] == "x")
    assert chosen.to_list() == [[1.0, 2.0], None, [3.0]]


def test_dask_functions_of_ragged_fields(ds, refused):
    refused(lambda: da.histogram(ds["jet_pt"], bins=3, range=(0, 1)), ".values has all items", error=AttributeError)
    refused(lambda: da.sum(ds["jet_pt"]), ".values has all items", error=AttributeError)
    found = np.where(ds["met"] > 3, ds["jet_pt"], 0)  # dask's own cannot be told that it may not
    assert found.to_list() == [[0.0, 0.0], [], [3.0]]


# What is selected -----------------------------------------------------------------------------------------------------


def test_cuts_of_rows_and_of_items_are_told_apart(ds, refused):
    items = ds.explode("jet")
    refused(lambda: items[ds.cut("met > 3")], "one row per item of jet_eta, ", "before explode")
    refused(lambda: ds[items.cut("met > 3")], "one row per item of jet_eta, ", "that the cut was made from")
    refused(lambda: len(ds.cut("met > 3")), ".count()")


def test_one_thing_at_a_time(ds, refused):
    cut = ds.cut("met > 3")
    for key in ((cut, "met"), ("met", 3), ()):
        refused(lambda key=key: ds[key], "one thing at a time", "ds[cut]['met']")
    assert ds[5 % 3, 0]["met"].tolist() == ds[[2, 0]]["met"].tolist()


def test_weights_and_groups_that_are_no_text(ds, refused):
    for call in (
        lambda: ds.cutflow(["met > 1"], weight=ds["w"]),
        lambda: ds.hist("met", weight=ds["w"]),
        lambda: ds.assign(a=ds["met"] * 2).cutflow(["met > 1"], weight=ds["w"]),
    ):
        refused(call, "field name or an expression, as text", "Array")
    refused(lambda: ds.cutflow(["met > 1"], by=ds["w"]), "the name of a field")
    for call in (lambda: ds.cutflow(["met > 1"], by="name"), lambda: ds.hist("met", by="name")):
        refused(call, "mm.Field.category('name')")


def test_assign_of_items_is_text(ds, refused):
    refused(lambda: ds.assign(a=ds["jet_pt"] * 2), "written as text", "'jet_pt * 2'")


def test_text_becomes_a_category(ds, tmp_path):
    rows = {"name": ds["name"], "met": ds["met"]}
    made = mm.from_arrays(rows, tmp_path / "s.mm", fields=[mm.Field.category("name")])
    assert made.cutflow(["met > 3"], by="name").groups == ("a", "b")


def test_a_categorical_of_pandas_is_a_category(tmp_path):
    pd = pytest.importorskip("pandas")
    values = pd.Categorical(["b", None, "b", "a"], categories=["c", "b", "a"])
    made = mm.from_arrays({"c": values, "s": pd.Series(values), "n": pd.Categorical([1, 2, 1, 2])}, tmp_path / "s.mm")
    assert made.schema["c"].labels == made.schema["s"].labels == ("c", "b", "a")
    assert made["c"].compute().tolist() == made["s"].compute().tolist() == ["b", None, "b", "a"]
    assert made.schema["n"].kind == "dense"
    text = mm.from_arrays({"c": values}, tmp_path / "t.mm", fields=[mm.Field.string("c", optional=(0,))])
    assert text["c"].to_list() == ["b", None, "b", "a"]


def test_nothing_that_xarray_could_hold(ds, refused):
    pytest.importorskip("xarray")
    refused(ds[["name", "jet_pt"]].to_xarray, "'name'", "the same shape")
    assert list(ds.to_xarray()) == ["met", "w", "process"]


def test_a_store_of_no_rows_was_not_cut(ds, tmp_path):
    assert ds[:0].save(tmp_path / "none.mm").cutflow(["met > 1"]).why_not_before == ""


def test_no_store_in_another_store(ds, tmp_path, refused):
    other = mm.from_arrays({"x": [1]}, tmp_path / "other.mm")
    inside = tmp_path / "other.mm" / "parts" / "s.mm"
    refused(lambda: ds.save(inside), "lies in the store", str(tmp_path / "other.mm"))
    refused(lambda: mm.create(inside), "lies in the store")
    assert not inside.exists()
    assert mm.open(other.path)["x"].compute().tolist() == [1]


# Attributes that there are none of ------------------------------------------------------------------------------------


def test_attributes_of_other_libraries_say_where_it_is(ds, refused):
    for name, said in {
        "met": "ds['met']",
        "head": "ds[:5]",
        "query": "ds.cut",
        "shape": "len(ds)",
        "groupby": "by='process'",
        "compute": "to_awkward",
    }.items():
        refused(lambda name=name: getattr(ds, name), f"no attribute '{name}'", said, error=AttributeError)
        assert not hasattr(ds, name)
    for name, said in {"shape": ".counts", "tolist": ".to_list()", "sort": "ak.sort", "ndim": ".values"}.items():
        refused(lambda name=name: getattr(ds["jet_pt"], name), said, error=AttributeError)
    refused(lambda: ds.nonsense, "'Dataset' object has no attribute 'nonsense'", error=AttributeError)


def test_attributes_that_are_asked_for_by_protocols(ds):
    for x in (ds, ds["jet_pt"], ds[ds.cut("met > 3")]):
        for name in (
            "_repr_png_",
            "_ipython_display_",
            "_ipython_canary_method_should_not_exist_",
            "__array_interface__",
        ):
            assert not hasattr(x, name)
        assert len(copy.copy(x)) == len(copy.deepcopy(x)) == len(pickle.loads(pickle.dumps(x))) == len(x)
        raw = object.__new__(type(x))  # as pickle and copy make one
        assert not hasattr(raw, "head")
    assert not dask.is_dask_collection(ds)
    assert dask.is_dask_collection(ds["jet_pt"])
    assert dask.compute(ds["met"], ds["jet_pt"])[1].to_list() == JETS["jet_pt"]


def test_an_error_in_a_property_stays_itself():
    class Broken(mm.Dataset):
        @property
        def broken(self):
            raise AttributeError("what is wrong inside")

    with pytest.raises(AttributeError, match="what is wrong inside"):
        object.__new__(Broken).broken


def test_a_dataset_is_no_array_of_awkward(ds, refused):
    refused(lambda: ak.Array(ds), "ds.to_awkward()")


# Kept things ----------------------------------------------------------------------------------------------------------


def test_a_store_that_takes_nothing_is_one_warning(tmp_path, monkeypatch):
    some = mm.from_arrays({"x": range(100), "key": range(100)}, tmp_path / "s.mm")

    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    for module in ("cuts.masks", "sums.describing", "lookup"):
        monkeypatch.setattr(f"mmdask.rows.{module}.write_atomically", refuse)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert some.cut("x > 49").count() == 50
        assert some.cut("x > 59").count() == 40
        assert some.describe()["x"].count == 100
        assert some.loc["key", 7]["x"] == 7
    [warning] = caught
    assert "could not be kept" in str(warning.message)
    assert warning.category is RuntimeWarning
