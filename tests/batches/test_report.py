"""What a loader says of its mixing, against simulations with true shuffles."""

from __future__ import annotations

import numpy as np
import pytest

import mmdask as mm
from mmdask.errors import FieldNotFoundError, OptionError

N = 200_000


def rows_in(path, **fields):
    return mm.from_arrays(fields, path)


def simulated(loader, label, epochs):
    """The variance of counts in whole batches over some epochs, as times that of a true shuffle."""
    n, size, total = len(label), loader.batch_size, []
    for epoch in range(epochs):
        rows = loader.sequence.rows_at(epoch, 0, n // size * size)
        found = label[rows].reshape(-1, size)
        total.append(sum(((found == c).sum(1) - size * (label == c).mean()) ** 2 for c in np.unique(label)))
    p = np.array([(label == c).mean() for c in np.unique(label)])
    return np.mean(total) / (size * (p * (1 - p)).sum() * (n - size) / (n - 1))


CASES = {
    "two files": (np.arange(N) >= N // 3, {}),
    "ten files, small windows": (np.arange(N) * 10 // N, {"window": 1, "block": 16}),
    "classes change with the blocks": ((np.arange(N) // 64) % 2, {"window": 1, "block": 64}),
    "classes come in runs": (
        np.random.default_rng(0).integers(0, 3, N // 500).repeat(500),
        {"block": 100, "window": 1},
    ),
    "already mixed": (np.random.default_rng(0).integers(0, 4, N), {"window": 1, "block": 50}),
    "blocks that are larger than classes": ((np.arange(N) // 3000) % 5, {"block": 700}),
    "a batch of several windows": ((np.arange(N) // 64) % 2, {"window": 1, "block": 64, "batch_size": 40_000}),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_predicted_is_what_epochs_have(case, tmp_path):
    label, options = CASES[case]
    label = label.astype("i4")
    ds = rows_in(tmp_path / "s.mm", label=label)
    loader = ds.batches(**({"batch_size": 512} | options))
    mixing = loader.report("label")
    found = simulated(loader, label, 24 if loader.batch_size < 5000 else 60)
    assert mixing.predicted == pytest.approx(found, rel=0.15)
    assert mixing.measured == pytest.approx(mixing.predicted, rel=5 * mixing.precision + 0.2)
    assert mixing.classes == len(np.unique(label))


def test_a_selection_is_mixed_by_the_blocks_that_have_its_rows(tmp_path):
    label = ((np.arange(N) // 64) % 2).astype("i4")
    weight = np.random.default_rng(2).random(N).astype("f4")
    ds = rows_in(tmp_path / "s.mm", label=label, weight=weight)
    some = ds[ds.cut("weight < 0.3")]
    loader = some.batches(512, window=1, block=64)
    mixing = loader.report("label")
    chosen = np.flatnonzero(weight < np.float32(0.3))
    assert len(some) == len(chosen)
    n, size = len(chosen), 512
    p = label[chosen].mean()
    found = [label[loader.sequence.rows_at(e, 0, n // size * size)].reshape(-1, size).sum(1) for e in range(24)]
    ratio = np.mean((np.array(found) - size * p) ** 2) / (size * p * (1 - p) * (n - size) / (n - 1))
    assert mixing.predicted == pytest.approx(ratio, rel=0.15)


def test_kinds_of_fields_and_what_is_said_of_them(tmp_path):
    fields = [
        mm.Field.category("process"),
        mm.Field.dense("flag", "?"),
        mm.Field.dense("met", "f4", optional=(0,)),
        mm.Field.dense("run", "i8"),
        mm.Field.dense("vector", "f4", (2,)),
        mm.Field.ragged("jet", "f4"),
    ]
    n = 20_000
    with mm.create(tmp_path / "kinds.mm", fields=fields) as w:
        w.extend(
            {
                "process": ["a"] * (n // 2) + ["b"] * (n // 2),
                "flag": np.arange(n) % 2 == 0,
                "met": [None if i % 5 == 0 else float(i) for i in range(n)],
                "run": np.arange(n) // 7,
                "vector": np.zeros((n, 2), "f4"),
                "jet": np.zeros((n, 2), "f4"),
            }
        )
    loader = mm.open(tmp_path / "kinds.mm").batches(200)
    assert {f: loader.report(f).classes for f in ("process", "flag", "met", "run")} == {
        "process": 2,
        "flag": 2,
        "met": 9,
        "run": 8,
    }
    for f in ("process", "flag", "met", "run"):
        mixing = loader.report(f)
        assert mixing.predicted == pytest.approx(1, abs=0.1)
        assert not mixing.advice
        assert f"mixing of {f}" in str(mixing) == repr(mixing)
        assert "<table" in mixing._repr_html_()
    with pytest.raises(OptionError, match="one number or label per row"):
        loader.report("jet")
    with pytest.raises(OptionError, match="one number or label per row"):
        loader.report("vector")
    with pytest.raises(FieldNotFoundError, match="process"):
        loader.report("proces")


def test_advice_that_is_followed_helps(tmp_path):
    label = ((np.arange(N) // 256) % 2).astype("i4")
    ds = rows_in(tmp_path / "s.mm", label=label, wide=np.zeros((N, 16), "f4"))
    poor = ds.batches(4096, window="8MiB", block=256).report("label")
    assert poor.predicted > 3
    text = " ".join(poor.advice)
    window = text.split("window='")[1].split("'")[0]
    block = int(text.split("block=")[1].split()[0])
    assert ds.batches(4096, window=window, block=256).report("label").predicted < 1.11
    assert ds.batches(4096, window="8MiB", block=block).report("label").predicted < 1.11
    assert "shuffle='exact'" in text
    assert "order='shuffled'" in text
    assert ds.batches(4096, shuffle="exact").report("label").predicted == 1
    saved = ds.save(tmp_path / "mixed.mm", order="shuffled")
    assert saved.batches(4096, window=1, block=64).report("label").predicted == pytest.approx(1, abs=0.1)


def test_store_order_is_measured_and_not_predicted(tmp_path):
    label = (np.arange(N) >= N // 2).astype("i4")
    ds = rows_in(tmp_path / "s.mm", label=label, w=np.ones(N, "f4"))
    plain = ds.batches(512, shuffle=False).report("label")
    assert np.isnan(plain.predicted)
    assert plain.measured > 100
    assert "as they lie" in plain.why


def test_cold_reads_and_memory(tmp_path):
    ds = rows_in(tmp_path / "s.mm", label=np.zeros(N, "i4"), wide=np.zeros((N, 1024), "u1"))
    assert ds.batches(512).report("label").amplification < 1.3
    exact = ds.batches(512, shuffle="exact").report("label")
    assert exact.amplification > 4
    assert any("cold read" in line for line in exact.advice)
    few = ds[::10].batches(512).report("label")
    assert few.amplification > 5
    assert ds.batches(512, memory="16MiB").report("label").ahead_nbytes == 3 * (2 << 20)


def test_cold_reads_of_a_selection_are_no_matter_of_blocks(tmp_path):
    ds = rows_in(tmp_path / "s.mm", label=(np.arange(N) // 8 % 2).astype("i4"), x=np.zeros(N, "f4"))
    quarter = ds[ds.cut("label == 1")][::2]
    windows = [
        {"block": 4096} | more for more in ({}, {"block": 10 * N}, {"weights": "label + 1"}, {"balance": "label"})
    ]
    for more in [*windows, {"shuffle": False}]:
        mixing = quarter.batches(512, fields=["x"], **more).report("label")
        assert mixing.amplification == pytest.approx(4, rel=0.1), more  # a block ends where the store does
        assert not any("block=" in line for line in mixing.advice), more
    one = ds.batches(512, fields=["x"], block=10 * N).report("label")
    assert one.amplification == pytest.approx(1, rel=0.1)
    small = ds.batches(512, fields=["x"], block=64).report("label")
    assert any("a larger block= reads less" in line for line in small.advice)
    few = ds[::10].batches(512, fields=["x"], block=4096).report("label")
    assert any("one row in 10.0" in line for line in few.advice)


def test_nothing_to_report(tmp_path):
    ds = rows_in(tmp_path / "s.mm", label=np.zeros(100, "i4"))
    with pytest.raises(OptionError, match="no batch"):
        ds[:0].batches(10).report("label")
    one = ds.batches(100).report("label")
    assert np.isnan(one.measured)
    assert one.classes == 1


DRAWN = {
    "weights": (np.arange(N) >= N // 2, {"weights": "where(label == 0, 1, 3)", "window": 1, "block": 64}),
    "weights of a class in runs": ((np.arange(N) // 64) % 2, {"weights": "1 + label", "window": 1, "block": 64}),
    "weights, exact": ((np.arange(N) // 64) % 2, {"weights": "1 + label", "shuffle": "exact"}),
    "shares of the classes": (np.arange(N) >= N // 5, {"balance": "label"}),
    "shares of something else": ((np.arange(N) // 64) % 2, {"balance": "half", "window": 1, "block": 64}),
    "shares, exact": ((np.arange(N) // 64) % 2, {"balance": "half", "shuffle": "exact"}),
}


def variance_of(labels, share, n):
    """Of counts in batches, of all labels, as times that of a true shuffle of n rows."""
    size = labels.shape[1]
    total = sum((((labels == c).sum(1) - size * p) ** 2).mean() for c, p in enumerate(share))
    share = np.array(share)
    return total / (size * (share * (1 - share)).sum() * (n - size) / (n - 1))


@pytest.mark.parametrize("case", DRAWN)
def test_what_is_predicted_of_drawn_rows_is_what_epochs_have(case, tmp_path):
    label, options = DRAWN[case]
    label = label.astype("i4")
    half = (np.arange(N) >= N // 2).astype("i4")
    ds = rows_in(tmp_path / "s.mm", label=label, half=half)
    loader = ds.batches(512, **options)
    mixing = loader.report("label")
    n = loader.sequence.n
    whole, epochs = n // 512 * 512, 60 if "runs" in case or "else" in case else 6
    labels = np.concatenate([label[loader.sequence.rows_at(e, 0, whole)].reshape(-1, 512) for e in range(epochs)])
    found = variance_of(labels, np.bincount(labels.ravel()) / labels.size, n)
    assert not mixing.why
    assert mixing.predicted == pytest.approx(found, rel=0.15, abs=0.01)
    assert mixing.measured == pytest.approx(found, rel=5 * mixing.precision + 0.5 + found / 4, abs=0.01)  # one epoch
    if case == "shares of the classes":
        assert mixing.predicted < 0.01
    if case == "weights of a class in runs":
        assert mixing.predicted > 1.5
        assert mixing.advice


@pytest.mark.parametrize("stop", ["first", "cycle"])
@pytest.mark.parametrize("options", [{"window": 1, "block": 64}, {"shuffle": "exact"}], ids=str)
def test_what_is_predicted_of_a_mixture(tmp_path, stop, options):
    label = [((np.arange(N) // 64) % 2).astype("i4"), (np.arange(N // 2) >= N // 3).astype("i4")]
    stores = {name: rows_in(tmp_path / f"{name}.mm", label=x) for name, x in zip("ab", label, strict=True)}
    mixed = mm.mix(
        {name: ds.batches(512, seed=3, **options) for name, ds in stores.items()}, {"a": 3, "b": 1}, stop=stop
    )
    mixing = mixed.report("label")
    found = []
    for i in range(600):
        rows = mixed.rows_at(0, i * 512, i * 512 + 512)
        found.append(np.concatenate([x[r] for x, r in zip(label, rows, strict=True)]))
    if stop == "first":
        found = found[: len(mixed) - 1]
    first = mixed[1]
    assert sorted(first["label"]) == sorted(found[1])
    labels = np.array(found)
    assert mixing.predicted == pytest.approx(
        variance_of(labels, np.bincount(labels.ravel()) / labels.size, 10**9), rel=0.3
    )
    assert mixing.measured == pytest.approx(mixing.predicted, rel=5 * mixing.precision + 0.2)
    if options.get("block"):
        assert mixing.predicted > 1.3
        assert mixing.advice
    else:
        assert mixing.predicted < 1.1
    assert "mixing of label" in str(mixing)
    plain = mm.mix({"a": stores["a"].batches(512, shuffle=False)}, {"a": 1}).report("label")
    assert np.isnan(plain.predicted)
    assert "as they lie" in plain.why
