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


def test_store_order_weights_and_classes_are_measured_and_not_predicted(tmp_path):
    label = (np.arange(N) >= N // 2).astype("i4")
    ds = rows_in(tmp_path / "s.mm", label=label, w=np.ones(N, "f4"))
    plain = ds.batches(512, shuffle=False).report("label")
    assert np.isnan(plain.predicted)
    assert plain.measured > 100
    assert "as they lie" in plain.why
    weighted = ds.batches(512, weights="w").report("label")
    assert weighted.measured == pytest.approx(1, abs=0.3)
    assert "weights" in weighted.why


def test_cold_reads_and_memory(tmp_path):
    ds = rows_in(tmp_path / "s.mm", label=np.zeros(N, "i4"), wide=np.zeros((N, 1024), "u1"))
    assert ds.batches(512).report("label").amplification < 1.3
    exact = ds.batches(512, shuffle="exact").report("label")
    assert exact.amplification > 4
    assert any("cold read" in line for line in exact.advice)
    few = ds[::10].batches(512).report("label")
    assert few.amplification > 5
    assert ds.batches(512, memory="16MiB").report("label").ahead_nbytes == 3 * (2 << 20)


def test_nothing_to_report(tmp_path):
    ds = rows_in(tmp_path / "s.mm", label=np.zeros(100, "i4"))
    with pytest.raises(OptionError, match="no batch"):
        ds[:0].batches(10).report("label")
    one = ds.batches(100).report("label")
    assert np.isnan(one.measured)
    assert one.classes == 1
