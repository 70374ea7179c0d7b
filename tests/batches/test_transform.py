"""transform=: what a caller's function makes of batches, and where its errors belong."""

from __future__ import annotations

import itertools
import pickle
import traceback

import numpy as np
import pytest
from memory_rows import numbered

from mmdask.batches.batch import Batch
from mmdask.batches.loader import Loader
from mmdask.errors import OptionError


def double(batch):
    batch["row"] = batch["row"] * 2
    return batch


def fresh(batch):
    return {"half": batch["row"] / 2}


def smeared(batch):
    rng = batch.row_rng("smear")
    return {"x": batch["row"] + rng.normal(size=3).sum(1), "keep": rng.random() < 0.5}


def test_a_batch_that_is_changed():
    for batch in Loader(numbered(10), 3, transform=double):
        assert batch["row"].tolist() == (batch.rows * 2).tolist()


def test_a_new_dict_stands_where_the_batch_stood():
    plain = list(Loader(numbered(10), 4, last="pad", seed=5))
    for before, batch in zip(plain, Loader(numbered(10), 4, last="pad", seed=5, transform=fresh), strict=True):
        assert type(batch) is Batch
        assert list(batch) == ["half"]
        assert batch["half"].tolist() == (before["row"] / 2).tolist()
        assert batch.rows.tolist() == before.rows.tolist()
        assert batch.valid.tolist() == before.valid.tolist()
        assert (batch.epoch, batch.index, batch.position, batch.seed) == (0, before.index, before.position, 5)


def test_a_new_batch_too():
    batch = Loader(numbered(10), 4, transform=lambda b: Batch(a=1))[1]
    assert (dict(batch), batch.index, len(batch.rows)) == ({"a": 1}, 1, 4)


@pytest.mark.parametrize("made", [None, 3, [1], "row"])
def test_what_is_no_mapping_is_refused(made):
    with pytest.raises(OptionError, match="of batch 2 it returned"):
        Loader(numbered(10), 3, transform=lambda batch: made)[2]


def test_errors_name_the_batch_and_come_with_it():
    def fails(batch):
        if 5 in batch.rows:
            raise ZeroDivisionError("no")
        return batch

    loader = Loader(numbered(30), 4, shuffle=False, transform=fails)
    loader.set_epoch(2)
    found = iter(loader)
    assert next(found).index == 0
    with pytest.raises(ZeroDivisionError) as error:
        next(found)
    assert "in transform= of batch 1 of epoch 2" in "".join(traceback.format_exception(error.value))
    assert loader.state_dict()["position"] == 4


def test_random_augmentation_resumes_and_is_that_of_one_process():
    def all_of(batches):
        return {int(r): (x, k) for b in batches for r, x, k in zip(b.rows, b["x"], b["keep"], strict=True)}

    loader = Loader(numbered(100), 10, transform=smeared)
    expected = all_of(loader)
    again = Loader(numbered(100), 10, transform=smeared)
    done = list(itertools.islice(again, 3))
    resumed = pickle.loads(pickle.dumps(Loader(numbered(100), 20, transform=smeared)))
    resumed.load_state_dict(again.state_dict())
    assert all_of(done) | all_of(resumed) == expected
    ranks = [all_of(Loader(numbered(100), 10, transform=smeared, rank=r, world_size=3, last="keep")) for r in range(3)]
    assert ranks[0] | ranks[1] | ranks[2] == expected
    assert all_of(loader) != expected  # of the next epoch


def test_it_is_a_function():
    with pytest.raises(OptionError, match="transform is a function"):
        Loader(numbered(3), 2, transform=3)


def test_transformed_arrays_of_a_run_are_their_own():
    batches = list(Loader(numbered(64), 4, transform=double))
    for batch in batches:
        batch["row"] += 1
    assert sorted(np.concatenate([b["row"] for b in batches]).tolist()) == [2 * i + 1 for i in range(64)]
