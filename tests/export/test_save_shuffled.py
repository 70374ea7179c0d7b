"""Rows saved in a mixed order: the same rows with all their fields, once each, mixed as well as by an exact shuffle."""

from __future__ import annotations

import numpy as np
import pytest

import mmdask as mm
from mmdask.errors import OptionError

N = 3000


@pytest.fixture
def ds(tmp_path):
    fields = [
        mm.Field.dense("row", "i8"),
        mm.Field.dense("constant", "f4"),
        mm.Field.dense("maybe", "f4", optional=(0,)),
        mm.Field.ragged("jet", "f4"),
        mm.Field.string("name"),
        mm.Field.category("process"),
        mm.Field.shaped("image", "u1", 2),
    ]
    rng, path = np.random.default_rng(0), tmp_path / "sorted.mm"
    for part, process in enumerate(["ttH", "ttbb", "tW"]):
        rows = range(part * N // 3, (part + 1) * N // 3)
        with mm.append(path) if part else mm.create(path, fields=fields) as w:
            w.extend(
                {
                    "row": list(rows),
                    "constant": [7.0 if part else 3.0] * len(rows),
                    "maybe": [None if i % 3 == 0 else i for i in rows],
                    "jet": [list(range(i % 4)) for i in rows],
                    "name": [f"event {i}" for i in rows],
                    "process": [process] * len(rows),
                    "image": [rng.integers(0, 255, (i % 3, 2)).astype("u1") for i in rows],
                }
            )
    return mm.open(tmp_path / "sorted.mm")


def as_lists(ds):
    return {row["row"]: row for row in ds.to_awkward().to_list()}


def test_all_kinds_of_fields_are_the_same_rows_in_another_order(ds, tmp_path):
    saved = ds.save(tmp_path / "mixed.mm", order="shuffled", seed=3, part_nbytes=40_000)
    assert len(saved) == N
    order = saved["row"].compute()
    assert sorted(order.tolist()) == list(range(N))
    assert order.tolist() != list(range(N))
    assert as_lists(saved) == as_lists(ds)
    assert len(saved._rows.snapshot.parts) > 1
    assert saved.schema == ds.schema
    assert not mm.verify(saved.path).problems


def test_the_order_depends_on_the_seed_and_not_on_the_parts(ds, tmp_path):
    def order(name, **options):
        return ds.save(tmp_path / name, order="shuffled", fields=["row"], **options)["row"].compute().tolist()

    first = order("a.mm")
    assert order("b.mm", seed=0, part_nbytes=1000) == first
    assert order("c.mm", seed=1) != first
    assert ds.save(tmp_path / "d.mm", fields=["row"])["row"].compute().tolist() == list(range(N))


def test_a_selection_with_a_computed_field(ds, tmp_path):
    some = ds.assign(twice="row * 2")[ds.cut("row % 7 == 1")]
    saved = some.save(tmp_path / "some.mm", order="shuffled", seed=1)
    assert sorted(saved["row"].compute().tolist()) == list(range(1, N, 7))
    assert (saved["twice"].compute() == 2 * saved["row"].compute()).all()


@pytest.mark.parametrize("n", [0, 1])
def test_no_row_and_one(ds, tmp_path, n):
    saved = ds[:n].save(tmp_path / "few.mm", order="shuffled")
    assert saved["row"].compute().tolist() == list(range(n))


def test_neighbours_come_from_everywhere(tmp_path):
    n = 400_000
    label = np.repeat(np.arange(4), n // 4).astype("i4")
    ds = mm.from_arrays({"label": label}, tmp_path / "labels.mm")
    saved = ds.save(tmp_path / "mixed.mm", order="shuffled")
    counts = saved["label"].compute().reshape(-1, 1000) == 0
    ratio = counts.sum(1).var() / (1000 * 0.25 * 0.75)
    assert ratio == pytest.approx(1, abs=0.25)
    # The smallest window then mixes as well as any.
    batches = saved.batches(1000, window=1, block=100)
    found = [(b["label"] == 0).sum() for b in batches]
    assert np.var(found) / (1000 * 0.25 * 0.75) == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize("options", [{"order": "random"}, {"order": True}, {"order": "shuffled", "seed": -1}])
def test_other_orders_are_refused(ds, tmp_path, options):
    with pytest.raises(OptionError):
        ds.save(tmp_path / "no.mm", **options)
    assert not (tmp_path / "no.mm").exists()
