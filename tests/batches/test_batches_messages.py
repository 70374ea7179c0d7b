"""What `ds.batches` and splits say to options that cannot be used: each names the option and what to write instead."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import mmdask as mm

N = 40


@pytest.fixture
def ds(tmp_path):
    return mm.from_arrays(
        {
            "met": np.arange(N) * 1.0,
            "pos": np.arange(N) % 2 == 0,
            "event": np.arange(N),
            "jet_pt": [[1.0, 2.0]] * N,
            "jet_eta": [[0.5, 0.1]] * N,
            "tags": [["a", "bc"], ["d", "e"]] * (N // 2),
            "name": ["x"] * N,
        },
        tmp_path / "a.mm",
    )


def test_weights_are_text(ds):
    for weights, got in [(np.ones(N), "ndarray"), (ds["pos"], "Array"), (ds.cut("met > 3"), "Cut"), ([1.0], "list")]:
        with pytest.raises(
            mm.OptionError, match=rf"^weights= is a field name or an expression, as text, .*; got {got}$"
        ):
            ds.batches(10, weights=weights)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ("", r"^weights='' is empty; name a field"),
        ("  ", r"^weights='  ' is empty"),
        ("jet_pt", r"^weights='jet_pt' has one value per item.*sum\(jet_pt\)"),
        ("pos", r"^weights='pos' is a boolean.*where\(pos, 1, 0\)"),
    ],
)
def test_weights_that_no_row_can_have_are_named_as_the_caller_did(ds, weights, words):
    with pytest.raises((mm.OptionError, mm.ExpressionError), match=words):
        ds.batches(10, weights=weights)


def test_a_weight_is_named_so_elsewhere(ds):
    with pytest.raises(mm.ExpressionError, match=r"^weight='' is empty"):
        ds.cutflow(["met > 3"], weight="")
    with pytest.raises(mm.OptionError, match=r"^weight='pos' is a boolean"):
        ds.cutflow(["met > 3"], weight="pos")


def test_balance_says_what_classes_are_and_how_to_make_them(ds):
    for balance in ("met", {"met": {1: 1, 2: 1}}):
        with pytest.raises(mm.OptionError, match=r"^balance='met' is float64;.*ds\.assign\(high='met > 100'\)$") as e:
            ds.batches(10, balance=balance)
        assert "cut flow" not in str(e.value)
    with pytest.raises(mm.OptionError, match=r"^balance='name' is text"):
        ds.batches(10, balance="name")
    with pytest.raises(mm.OptionError, match=r"^balance is a field, .*; got ndarray$"):
        ds.batches(10, balance=np.ones(N))
    hard = ds.assign(high="met > 20").batches(10, fields=["high"], balance="high")
    assert hard[0]["high"].sum() == 5  # what the message says to do works


def test_balance_by_a_field_of_many_values(tmp_path):
    ds = mm.from_arrays({"event": np.arange(3000)}, tmp_path / "many.mm")
    with pytest.raises(mm.OptionError, match=r"^balance='event' has more than 1,000 different values"):
        ds.batches(10, balance="event")


def test_a_prefix_of_which_all_fields_have_steps_of_their_own(ds):
    pad = mm.pad(2)
    with pytest.raises(mm.OptionError, match=r"two steps for 'jet_pt': by its name, and by 'jet'.*leave out one$"):
        ds.batches(10, fields=["jet_pt"], collate={"jet": pad, "jet_pt": pad})
    with pytest.raises(mm.OptionError, match=r"two steps for 'jet_pt' and 'jet_eta': by their names"):
        ds.batches(10, fields=["jet_*"], collate={"jet": pad, "jet_pt": pad, "jet_eta": pad})
    some = ds.batches(10, fields=["jet_*"], collate={"jet": pad, "jet_pt": pad})[0]  # the others go by the prefix
    assert sorted(some) == ["jet_eta", "jet_mask", "jet_pt", "jet_pt_mask"]


def test_crop_of_lists_of_text_says_how(ds):
    with pytest.raises(mm.OptionError, match=r"'tags' is ragged string.*\[mm\.crop\(\(1, None\)\), mm\.packed\(\)\]$"):
        ds.batches(2, fields=["tags"], collate={"tags": mm.crop(1)})
    steps = {"tags": [mm.crop((1, None)), mm.packed()]}
    tags = ds.batches(2, fields=["tags"], shuffle=False, collate=steps)[0]["tags"]
    assert bytes(tags.values.values) == b"ad"
    assert tags.offsets.tolist() == [0, 1, 2]


def test_folds_as_a_field_name_the_ways_to_train_on_them(ds, tmp_path):
    for options in ({"by": "event"}, {"how": "permutation"}):
        folds = ds.kfold(5, **options)
        words = (
            r"'fold' is a dask array; select folds by folds\.train\(i\) and folds\.test\(i\), or store it by mm\.assign"
        )
        with pytest.raises(mm.OptionError, match=words):
            ds.assign(fold=folds.of(ds)).batches(10)
    mm.assign(tmp_path / "a.mm", fold=folds.of(ds))
    stored = mm.open(tmp_path / "a.mm")
    one = stored[stored.cut("fold != 2")].batches(N, fields=["met"], shuffle=False)[0].rows
    assert one.tolist() == folds.train(2).batches(N, fields=["met"], shuffle=False)[0].rows.tolist()


def test_stratify_is_for_permutations(ds):
    for options in ({}, {"by": "event"}, {"by": "event", "how": "mod"}):
        how = options.get("how", "hash")
        with pytest.raises(mm.OptionError, match=f"^stratify='pos' is for how='permutation', and how is '{how}'"):
            ds.split({"a": 0.5, "b": 0.5}, stratify="pos", **options)
        with pytest.raises(mm.OptionError, match="is for how='permutation'"):
            ds.kfold(4, stratify="pos", **options)


# What docs/batches.md says --------------------------------------------------------------------------------------------


def test_a_running_for_keeps_its_epoch(ds):
    state = ds.batches(10, fields=["met"], seed=1).state_dict() | {"epoch": 5, "position": 10}
    for change in (lambda at: at.set_epoch(5), lambda at: at.load_state_dict(state)):
        loader = ds.batches(10, fields=["met"], seed=1)
        seen = []
        for batch in loader:
            seen.append((batch.epoch, batch.index))
            if batch.index == 1:
                change(loader)
        assert seen == [(0, 0), (0, 1), (0, 2), (0, 3)]
        assert next(iter(loader)).epoch == 5


def test_the_place_is_that_of_the_for_begun_last(ds):
    loader = ds.batches(10, fields=["met"], seed=1)
    first = iter(loader)
    next(first), next(first)
    second = iter(loader)
    next(second)
    assert loader.state_dict()["position"] == 10
    assert next(first).index == 2
    assert loader.state_dict()["position"] == 10


def test_a_copy_by_pickle_begins_its_epoch_unless_a_state_was_loaded(ds):
    loader = ds.batches(10, fields=["met"], seed=1)
    loader.set_epoch(3)
    batches = iter(loader)
    next(batches), next(batches)
    state = loader.state_dict()
    copy = pickle.loads(pickle.dumps(loader))
    found = next(iter(copy))
    assert (found.epoch, found.index) == (3, 0)
    loader.load_state_dict(state)
    copy = pickle.loads(pickle.dumps(loader))
    found = next(iter(copy))
    assert (found.epoch, found.index) == (3, 2)


def test_appended_rows_come_into_no_batch_of_an_open_dataset(ds, tmp_path):
    loader = ds.batches(10, fields=["met"], seed=1)
    batches = iter(loader)
    n = len(next(batches).rows)
    with mm.append(tmp_path / "a.mm") as w:
        w.extend(ds[[0, 1]])
    assert n + sum(len(batch.rows) for batch in batches) == N
    newer = mm.open(tmp_path / "a.mm")
    assert len(newer) == N + 2
    with pytest.raises(mm.StateError, match="another data or selection"):
        newer.batches(10, fields=["met"], seed=1).load_state_dict(loader.state_dict())


def test_weights_with_balance_work_within_classes(ds):
    loader = ds.batches(4, fields=["pos"], balance="pos", weights="where(met < 20, 3, 1)", seed=1)
    batches = [(batch["pos"], batch.rows) for batch in loader]
    for pos, _ in batches:
        assert pos[::2].all() != pos[1::2].all()  # they take turns
        assert pos.sum() == 2
    rows = np.concatenate([rows for _, rows in batches])
    for inside in (rows % 2 == 0, rows % 2 == 1):
        assert (rows[inside] < 20).sum() == 15 == inside.sum() * 3 / 4


@pytest.mark.parametrize(
    ("cut", "options", "words"),
    [
        ("met < 0", {}, "no rows are selected; ds.cutflow"),
        ("met < 7", {"last": "drop"}, "its 7 rows do not fill one of 10, and last='drop'"),
        ("met < 7", {"rank": 1, "world_size": 2}, "its 7 rows do not fill one of 10, and last='drop'"),
    ],
)
def test_an_epoch_without_batches_is_told_where_it_is_asked_for(ds, cut, options, words):
    loader = ds[ds.cut(cut)].batches(10, **options)
    assert not len(loader)
    for epoch in (1, 2):
        with pytest.warns(mm.NoBatchesWarning, match=words) as caught:
            assert not list(loader)
        assert [w.filename for w in caught] == [__file__]
        assert loader.epoch == epoch
    with pytest.raises(mm.OptionError, match=f"nothing to report: .*{words}"):
        loader.report("met")


def test_a_mixture_without_batches_is_told(ds):
    few = ds[ds.cut("met < 3")].batches(10, last="drop")
    with pytest.warns(mm.NoBatchesWarning, match="its 6 rows do not fill one of 10"):
        assert not list(mm.mix({"a": few, "b": few}, {"a": 1, "b": 1}, batch_size=10))


def test_the_end_of_an_epoch_is_no_epoch_without_batches(ds):
    loader = ds.batches(10)
    iterator = iter(loader)
    assert len([*iterator]) == 4
    assert next(iterator, None) is None
    loader.load_state_dict(loader.state_dict(loader[3]))
    assert len([*loader]) == 4
