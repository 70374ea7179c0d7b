"""Means and standard deviations by hand and by numpy, kept as summaries are, and taken off where batches are made."""

from __future__ import annotations

import json
import os
import pickle
from fractions import Fraction

import awkward as ak
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mmdask as mm
from mmdask.rows.sums import describing, reducing
from mmdask.rows.sums.moments import Moments, moments
from mmdask.schema import Field, FieldData

N = 2000


@pytest.fixture
def ds(tmp_path):
    rng = np.random.default_rng(1)
    data = {
        "met": rng.normal(50, 20, N).astype("f4"),
        "far": 1e9 + rng.normal(0, 1e-3, N),
        "n": rng.integers(0, 9, N).astype("u1"),
        "p": rng.normal([0, 100, -5], [1, 30, 0], (N, 3)),
        "pt": [rng.exponential(30, k % 4).tolist() for k in range(N)],
        "w": rng.uniform(0, 2, N),
        "i": np.arange(N),
        "name": ["x"] * N,
    }
    mm.from_arrays({k: v[:700] for k, v in data.items()}, tmp_path / "s.mm")
    with mm.append(tmp_path / "s.mm") as w:
        w.extend({k: v[700:] for k, v in data.items()})
    return mm.open(tmp_path / "s.mm")


def by_hand(values, weights=None):
    """Mean and std in fractions; each value is a number."""
    weights = [1] * len(values) if weights is None else weights
    pairs = [(Fraction(float(x)), Fraction(float(w))) for x, w in zip(values, weights, strict=True)]
    total = sum(w for _, w in pairs)
    mean = sum(x * w for x, w in pairs) / total
    return float(mean), float(sum(w * (x - mean) ** 2 for x, w in pairs) / total) ** 0.5


@pytest.mark.parametrize("weight", [None, "w", "w - 0.25"])
def test_means_and_spreads_are_those_of_fractions(ds, weight):
    n = ds.normalisation(["met", "far", "n", "pt", "p"], weight=weight)
    w = None if weight is None else ds["w"].compute() - (0.25 if "-" in weight else 0)
    for name in ("met", "far", "n"):
        mean, std = by_hand(ds[name].compute().tolist(), w)
        # Of a mean of 1e9 no digit of the spread of 1e-3 is lost: numbers near 1e9 are 1e-7 apart.
        np.testing.assert_allclose([n.mean[name], n.std[name]], [mean, std], rtol=1e-10)
    pt = ds["pt"].compute()
    flat = ak.flatten(pt).tolist()
    items = None if w is None else np.repeat(w, ak.num(pt).to_numpy())
    np.testing.assert_allclose([n.mean["pt"], n.std["pt"]], by_hand(flat, items), rtol=1e-10)
    for k in range(3):
        mean, std = by_hand(ds["p"].compute()[:, k].tolist(), w)
        np.testing.assert_allclose([n.mean["p"][k], n.std["p"][k]], [mean, std], rtol=1e-10, atol=1e-12)


def test_what_is_no_number_is_left_out(tmp_path):
    fields = [
        mm.Field.dense("x", "f4", optional=(0,)),
        mm.Field.ragged("pt", "f4", optional=(0, 1)),
        mm.Field.dense("p", "f8", (2,)),
        mm.Field.dense("n", "i4", optional=(0,)),
    ]
    with mm.create(tmp_path / "s.mm", fields=fields) as w:
        w.extend(
            {
                "x": [1.0, None, float("nan"), float("inf"), 5.0],
                "pt": [[1.0, None, 3.0], None, [], [float("-inf")], [8.0]],
                "n": [2, None, 4, 6, None],
                "p": [[1.0, 2.0], [float("nan"), 4.0], [3.0, 6.0], [5.0, float("inf")], [7.0, 8.0]],
            }
        )
    ds = mm.open(tmp_path / "s.mm")
    n = ds.normalisation(["x", "pt", "p", "n"])
    assert (n.mean["x"], n.std["x"]) == (3, 2)
    np.testing.assert_allclose([n.mean["n"], n.std["n"]], by_hand([2, 4, 6]))
    np.testing.assert_allclose([n.mean["pt"], n.std["pt"]], by_hand([1, 3, 8]))
    np.testing.assert_allclose(n.mean["p"], [4, 5])
    np.testing.assert_allclose(n.std["p"], [np.std([1, 3, 5, 7]), np.std([2, 4, 6, 8])])
    batch = ds.batches(5, shuffle=False, normalise=n)[0]
    np.testing.assert_array_equal(batch["x"], np.float32([-1, np.nan, np.nan, np.inf, 1]))
    assert np.isnan(batch["n"]).tolist() == [False, True, False, False, True]
    assert batch["x_valid"].tolist() == [True, False, True, True, True]
    assert batch["pt"].valid.tolist() == [True, False, True, True, True]
    assert np.isnan(batch["pt"].values[1])
    padded = ds.batches(5, shuffle=False, normalise=n, collate={"pt": mm.pad(3, value=-9)})[0]
    assert padded["pt"][0, 1] == padded["pt"][1, 0] == padded["pt"][4, 1] == -9
    assert padded["pt_mask"].sum() == 4


def test_batches_are_normalised_before_they_are_padded(ds):
    names = ["met", "far", "n", "pt", "p"]
    n = ds.normalisation(names, where="i % 2 == 0")
    collate = {"pt": mm.pad(3, value=0)}
    raw = ds.batches(300, fields=[*names, "i", "name"], seed=1, collate=collate)[2]
    batch = ds.batches(300, fields=[*names, "i", "name"], seed=1, collate=collate, normalise=n)[2]
    assert batch.rows.tolist() == raw.rows.tolist()
    for name in ("met", "far", "n", "p"):
        expected = (raw[name].astype("f8") - n.mean[name]) / np.where(n.std[name] == 0, 1, n.std[name])
        np.testing.assert_allclose(batch[name], expected, rtol=1e-6, atol=1e-7)
        assert batch[name].dtype == np.float32
    assert batch["i"].dtype == np.int64
    mask = batch["pt_mask"]
    assert (batch["pt"][~mask] == 0).all()
    np.testing.assert_allclose(batch["pt"][mask], (raw["pt"][mask] - n.mean["pt"]) / n.std["pt"], rtol=1e-6)
    # A spread of 1e-3 around 1e9 is there in float32; the mean itself is known to 1e-7, the distance of numbers there.
    whole = ds.batches(N, fields=["far"], normalise=ds.normalisation("far"))[0]["far"]
    assert abs(whole.astype("f8").mean()) < 1e-4
    assert abs(whole.astype("f8").std() - 1) < 1e-6
    packed = ds.batches(300, fields=["pt"], seed=1, normalise=n)[2]["pt"]
    np.testing.assert_array_equal(packed.values, batch["pt"][mask])
    for step in (mm.pad("max"), mm.pad(2, strict=False, side="left"), [mm.crop(2), mm.pad(2)], mm.nested()):
        got = ds.batches(300, fields=["pt"], seed=1, normalise=n, collate={"pt": step})[2]
        plain = ds.batches(300, fields=["pt"], seed=1, collate={"pt": step})[2]
        if "pt_mask" in got:
            np.testing.assert_array_equal(got["pt_mask"], plain["pt_mask"])
            a, b = got["pt"][got["pt_mask"]], plain["pt"][got["pt_mask"]]
            assert (got["pt"][~got["pt_mask"]] == 0).all()
        else:
            a, b = (ak.flatten(x["pt"]).to_numpy() for x in (got, plain))
        np.testing.assert_allclose(a, (b - n.mean["pt"]) / n.std["pt"], rtol=1e-6)
    loader = pickle.loads(pickle.dumps(ds.batches(300, fields=["met"], seed=1, normalise=n)))
    np.testing.assert_array_equal(loader[2]["met"], batch["met"])
    wide = ds.batches(300, fields=["met"], seed=1, normalise=ds.normalisation("met", dtype="f8"))[2]["met"]
    assert wide.dtype == np.float64


def test_computed_fields_and_stacks(ds):
    more = ds.assign(ht="sum(pt)", pt2="pt * 2", pt3="pt + 1")
    n = more.normalisation(["ht", "pt2", "pt3"], weight="w * 2")
    ht = ak.sum(ds["pt"].compute(), axis=1).to_numpy()
    np.testing.assert_allclose([n.mean["ht"], n.std["ht"]], by_hand(ht, ds["w"].compute()), rtol=1e-10)
    batch = more.batches(100, fields=["ht", "pt2"], shuffle=False, normalise=n, collate={"pt2": mm.pad(3)})[0]
    np.testing.assert_allclose(batch["ht"], (ht[:100] - n.mean["ht"]) / n.std["ht"], rtol=1e-5, atol=1e-6)
    first = ds["pt"].compute()[1].tolist()[0]
    np.testing.assert_allclose(batch["pt2"][1], [(2 * first - n.mean["pt2"]) / n.std["pt2"], 0, 0], rtol=1e-5)
    stacked = more.batches(
        100, shuffle=False, fields=["pt2", "pt3"], normalise=n, collate={"x": mm.stack("pt2", "pt3", step=mm.pad(3))}
    )[0]["x"]
    assert stacked.shape == (100, 3, 2)
    assert stacked.dtype == np.float32
    np.testing.assert_array_equal(stacked[:, :, 0], batch["pt2"])


def test_shaped_rows_have_a_mean_for_each_component(tmp_path):
    with mm.create(tmp_path / "s.mm", fields=[mm.Field.shaped("image", "u1", 1, (2,))]) as w:
        w.append({"image": np.array([[1, 10], [3, 30]], "u1")})
        w.append({"image": np.array([[5, 50]], "u1")})
    ds = mm.open(tmp_path / "s.mm")
    n = ds.normalisation("image")
    np.testing.assert_allclose(n.mean["image"], [3, 30])
    np.testing.assert_allclose(n.std["image"], [np.std([1, 3, 5]), np.std([10, 30, 50])])
    batch = ds.batches(2, shuffle=False, normalise=n, collate={"image": mm.pad((3,), value=7)})[0]
    assert (batch["image"][~batch["image_mask"]] == 7).all()
    np.testing.assert_allclose(batch["image"][0, 1], [0, 0], atol=1e-7)


def test_sums_are_kept_and_only_new_rows_are_looked_at(ds, monkeypatch):
    looked = []
    real = describing.moments

    def counted(field, data, inside=None, weights=None):
        looked.append((field.name, len(data)))
        return real(field, data, inside, weights)

    monkeypatch.setattr(describing, "moments", counted)
    first = ds.normalisation(["met", "pt"], weight="w")
    assert sum(n for name, n in looked if name == "met") == N
    looked.clear()
    assert mm.open(ds.path).normalisation(["met", "pt"], weight="w") == first
    assert looked == []
    assert ds.normalisation("met") != ds.normalisation("met", weight="w")
    assert ds.normalisation("met", weight="w") != ds.normalisation("met", weight="w * w")
    looked.clear()
    with mm.append(ds.path) as w:
        w.extend({name: ds[name].compute()[:9] if name != "name" else ["x"] * 9 for name in ds})
    ds.refresh().normalisation(["met"], weight="w")
    assert looked == [("met", 9)]
    # A damaged file is computed anew, and what describe keeps is another thing.
    for folder, _, files in os.walk(os.path.join(ds.path, "cache", "summaries")):
        for name in files:
            # What vacuum goes by: the layers that it is of, all of them there.
            assert describing.summary_layers(os.path.join(folder, name)) <= set(os.listdir(f"{ds.path}/parts"))
            with open(os.path.join(folder, name), "r+b") as file:
                file.seek(60)
                file.write(b"#")
    assert mm.open(ds.path, generation=ds.generation).normalisation(["met", "pt"], weight="w") == first
    assert ds.describe("met")["met"].mean == pytest.approx(ds["met"].compute().astype("f8").mean())
    assert ds.normalisation("met").mean["met"] == pytest.approx(ds.describe("met")["met"].mean, rel=1e-14)


@pytest.mark.parametrize("size", [64, 1 << 20])
def test_selections_and_blocks(ds, monkeypatch, size):
    monkeypatch.setattr(reducing, "_TASK_ROWS", size)
    sel = ds[ds.cut("i % 7 == 3")][5:-5]
    n = sel.normalisation(["met", "far"], weight="w")
    w = sel["w"].compute()
    for name in ("met", "far"):
        np.testing.assert_allclose([n.mean[name], n.std[name]], by_hand(sel[name].compute(), w), rtol=1e-10)
    assert n == ds[5 * 7 + 3 :].normalisation(
        ["met", "far"], weight="w", where=f"i % 7 == 3 & i <= {sel['i'].compute()[-1]}"
    )


@settings(max_examples=100)
@given(
    st.lists(st.lists(st.tuples(st.integers(-999, 999), st.integers(-3, 9)), max_size=6), min_size=1, max_size=6),
    st.sampled_from([0.0, 1e9, -1e12]),
)
def test_sums_of_pieces_are_those_of_the_whole(pieces, offset):
    field = Field.dense("x", "f8")
    total = Moments.nothing(())
    for piece in pieces:
        x, w = (np.array(column, "f8") for column in (zip(*piece, strict=True) if piece else ([], [])))
        total = total + moments(field, FieldData(x / 8 + offset), None, w)
        total = Moments.load(json.loads(json.dumps(total.dump())), ())
    flat = [(Fraction(x, 8) + int(offset), w) for piece in pieces for x, w in piece]
    weight = sum(w for _, w in flat)
    assert total.weight == weight
    assert total.count == len(flat)
    if weight > 0:
        mean = sum(x * w for x, w in flat) / weight
        variance = float(sum(w * (x - mean) ** 2 for x, w in flat) / weight)
        assert abs(float(total.mean) - float(mean)) <= 1e-9 * max(1, abs(offset) * 1e-6)
        assert abs(float(total.variance) - variance) <= 1e-8 * max(1, abs(variance)) * (1 + abs(offset) * 1e-8)


def test_negative_weights_may_leave_no_mean(tmp_path):
    ds = mm.from_arrays({"x": [1.0, 2.0, 3.0], "w": [1.0, -2.0, 1.0], "v": [-1.0, 3.0, -1.0]}, tmp_path / "s.mm")
    with pytest.raises(mm.OptionError, match=r"weights of 'x' sum to 0"):
        ds.normalisation("x", weight="w")
    with pytest.raises(mm.OptionError, match="variance of 'x' is -2, for weights are negative"):
        ds.normalisation("x", weight="v")
    n = ds.normalisation("x", weight="w + 1")
    np.testing.assert_allclose([n.mean["x"], n.std["x"]], by_hand([1, 2, 3], [2, -1, 2]))
    with pytest.raises(mm.OptionError, match=r"weight='1 / \(w - 1\)' is nan, infinite or missing in row 0"):
        ds.normalisation("x", weight="1 / (w - 1)")
    assert ds.normalisation("x", weight="1 / (1 - w)", where="w < 1").mean["x"] == 2  # of the one row that has it
    with pytest.raises(mm.OptionError, match="no finite value"):
        ds.normalisation("x", where="x > 5")
    constant = ds.normalisation("x", where="x == 2")
    assert constant.std["x"] == 0
    assert ds.batches(3, shuffle=False, normalise=constant)[0]["x"].tolist() == [-1, 0, 1]


def test_a_normalisation_is_a_value(ds):
    n = ds.normalisation(["met", "p", "pt"])
    again = mm.Normalisation.from_dict(json.loads(json.dumps(n.to_dict())))
    assert again == n
    assert pickle.loads(pickle.dumps(n)) == n
    assert "met" in repr(n)
    arrays = {"met": ds["met"].compute(), "p": ds["p"].compute(), "pt": ds["pt"].compute(), "other": 3}
    down = n.apply(arrays)
    assert down["other"] == 3
    assert down["met"].dtype == down["p"].dtype == np.float32
    np.testing.assert_allclose(down["p"][:, :2].mean(axis=0), 0, atol=1e-6)
    assert abs(ak.mean(down["pt"])) < 1e-6
    up = n.invert(down)
    np.testing.assert_allclose(up["met"], arrays["met"], rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(ak.flatten(up["pt"]), ak.flatten(arrays["pt"]), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(n.apply({"met": ds["met"]})["met"].compute(), down["met"])
    lazy = n.apply({"pt": ds["pt"]})["pt"].compute()
    np.testing.assert_allclose(ak.flatten(lazy), ak.flatten(down["pt"]), rtol=1e-6, atol=1e-7)
    batch = ds.batches(20, fields=["met", "pt"], shuffle=False)[0]
    normal = ds.batches(20, fields=["met", "pt"], shuffle=False, normalise=n)[0]
    applied = n.apply(batch)
    np.testing.assert_array_equal(applied["met"], normal["met"])
    np.testing.assert_array_equal(applied["pt"].values, normal["pt"].values)


def test_wrong_options_are_refused(ds):
    with pytest.raises(mm.OptionError, match="'name' is string, and real numbers are normalised"):
        ds.normalisation("name")
    with pytest.raises(mm.FieldNotFoundError, match="did you mean 'met'"):
        ds.normalisation("mett")
    with pytest.raises(mm.OptionError, match="normalise= is what"):
        ds.batches(3, normalise={"met": (0, 1)})
    with pytest.raises(mm.FieldNotFoundError, match="mett"):
        ds.batches(3, normalise=mm.Normalisation({"mett": 0}, {"mett": 1}))
    with pytest.raises(mm.OptionError, match="its mean has the shape"):
        ds.batches(3, normalise=mm.Normalisation({"p": [0, 1]}, {"p": [1, 1]}))
    for mean, std, words in [
        ({"a": 1}, {"b": 1}, "same fields"),
        ({"a": float("nan")}, {"a": 1}, "finite"),
        ({"a": 1}, {"a": -1}, "negative"),
        ({"a": "x"}, {"a": 1}, "finite numbers"),
    ]:
        with pytest.raises(mm.OptionError, match=words):
            mm.Normalisation(mean, std)
    with pytest.raises(mm.OptionError, match="a float"):
        mm.Normalisation({"a": 1}, {"a": 1}, dtype="i4")
    with pytest.raises(mm.OptionError, match="not what Normalisation.to_dict"):
        mm.Normalisation.from_dict({"format": 1})
    one = ds.batches(50, fields=["p"], shuffle=False, normalise=mm.Normalisation({"p": 1}, {"p": 2}))[0]["p"]
    np.testing.assert_allclose(one, ((ds["p"].compute()[:50] - 1) / 2).astype("f4"))
